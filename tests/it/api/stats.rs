//! Contract §6: statistics.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb, model::FakeModel},
};

backend_test!(calls_are_counted_by_tenant_creator_and_model, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({ "shared": true })).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    for (api, count) in [(&ann, 3), (&bob, 1)] {
        for _ in 0..count {
            let id = api.create_task("m", &json!({ "x": 1 })).await;
            api.until(&id, &[2]).await;
        }
    }
    let list = |data: Value| -> Vec<(String, i64)> {
        let rows = data["list"].as_array().unwrap();
        assert_eq!(data["total"], rows.len());
        rows.iter()
            .map(|row| (row["creator"].as_str().unwrap().into(), row["requestCount"].as_i64().unwrap()))
            .collect()
    };
    let mine = ann.post("/stat/listModelStat", &json!({})).await.data();
    let row = &mine["list"][0];
    assert_eq!((&row["tenantId"], &row["modelName"]), (&json!("7"), &json!("m")));
    assert_eq!((&row["successCount"], &row["failureCount"]), (&json!(3), &json!(0)));
    assert_eq!(row["resultBytes"], 3 * 7);
    assert_eq!(row["day"].as_str().unwrap().len(), 10);
    assert_eq!(list(mine.clone()), [("ann".into(), 3)]);

    let all = app.api.post("/stat/listModelStat", &json!({})).await.data();
    assert_eq!(list(all), [("ann".into(), 3), ("bob".into(), 1)], "an admin sees all tenants");
    let named = app.api.post("/stat/listModelStat", &json!({ "tenantId": "8" })).await.data();
    assert_eq!(list(named), [("bob".into(), 1)]);
    let none = ann.post("/stat/listModelStat", &json!({ "endDay": "2020-01-01" })).await.data();
    assert_eq!(list(none), []);
    let wrong = ann.post("/stat/listModelStat", &json!({ "startDay": "01.02.2026" })).await;
    assert_eq!(wrong.refused(400, 51, "validation").body["error"]["field"], "startDay");
    app.stop().await;
});
