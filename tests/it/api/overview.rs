//! What is queued and what runs, as dashboards see it.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        eventually::until,
        model::{FakeModel, Reply},
    },
};

async fn overview(api: &Api, ask: Value) -> Value {
    api.post("/stat/getOverview", &ask).await.data()
}

/// Tenant, model, queued, running and status of each lane, in the order of the answer.
async fn lanes(api: &Api, ask: Value) -> Vec<(String, String, i64, i64, String)> {
    let data = api.post("/stat/listLane", &ask).await.data();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lane = |lane: &Value| {
        let number = |field: &str| lane[field].as_i64().unwrap();
        assert!(lane["reason"].as_str().unwrap().ends_with('.'), "{lane}");
        let names = (text(&lane["tenantId"]), text(&lane["modelName"]));
        (names.0, names.1, number("queued"), number("running"), text(&lane["status"]))
    };
    data["list"].as_array().unwrap().iter().map(lane).collect()
}

fn lane(tenant: &str, model: &str, queued: i64, running: i64, status: &str) -> (String, String, i64, i64, String) {
    (tenant.to_owned(), model.to_owned(), queued, running, status.to_owned())
}

backend_test!(an_overview_adds_up_what_is_queued_and_what_runs, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Hang).await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("full", &model.url, &json!({ "maxConcurrency": 2 })).await;
    ann.create_model("off", &model.url, &json!({ "maxConcurrency": 5 })).await;
    let id = ann.post("/model/listModel", &json!({ "modelName": "off" })).await.data()["list"][0]["id"].clone();
    ann.create_task("off", &Value::Null).await;
    ann.put("/model/updateModel", &json!({ "id": id, "enabled": 0 })).await.data();
    for _ in 0..5 {
        ann.create_task("full", &Value::Null).await;
    }
    until("two calls", async || model.running() >= 2).await;
    until("the numbers of now", async || overview(&ann, json!({})).await["running"].as_i64() >= Some(2)).await;
    let seen = overview(&ann, json!({})).await;
    let busiest = &seen["models"][0];
    assert_eq!((&busiest["modelName"], &busiest["tenantId"]), (&json!("full"), &json!("7")));
    assert_eq!((&busiest["queued"], &busiest["running"], &busiest["limit"]), (&json!(3), &json!(2), &json!(2)));
    assert_eq!(seen["models"].as_array().unwrap().len(), 2);
    assert!(seen["oldestEnqueueAt"].is_string() && seen["takenAt"].is_string());
    let of_lanes = lanes(&ann, json!({})).await;
    assert_eq!(of_lanes[0], lane("7", "full", 3, 2, "full"));
    assert_eq!((of_lanes[1].1.as_str(), of_lanes.len()), ("off", 2));
    assert_eq!((&seen["lanes"], &seen["fullLanes"]), (&json!(2), &json!(1)));
    app.stop().await;
});

backend_test!(lanes_are_filtered_and_the_longest_queue_comes_first, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let ann = app.api.as_tenant(7, "ann");
    for (name, limit, tasks) in [("tts-a", 0, 1), ("tts-b", 3, 3), ("ocr", 0, 2), ("idle", 0, 0)] {
        ann.create_model(name, "http://m", &json!({ "queueLimit": limit })).await;
        for _ in 0..tasks {
            ann.create_task(name, &Value::Null).await;
        }
    }
    let all = [
        lane("7", "tts-b", 3, 0, "queueFull"),
        lane("7", "ocr", 2, 0, "moving"),
        lane("7", "tts-a", 1, 0, "moving"),
        lane("7", "idle", 0, 0, "idle"),
    ];
    assert_eq!(lanes(&ann, json!({})).await, all);
    assert_eq!(lanes(&ann, json!({ "modelName": "tts" })).await, [all[0].clone(), all[2].clone()]);
    assert_eq!(lanes(&ann, json!({ "status": "idle" })).await, all[3..]);
    let page = json!({ "page": { "pageNum": 2, "pageSize": 2 } });
    assert_eq!(lanes(&ann, page.clone()).await, all[2..]);
    assert_eq!(ann.post("/stat/listLane", &page).await.data()["total"], 4);
    let wrong = ann.post("/stat/listLane", &json!({ "status": "busy" })).await;
    assert_eq!(wrong.refused(400, 51, "validation").body["error"]["field"], "status");
    app.stop().await;
});

backend_test!(of_a_shared_model_a_tenant_sees_its_own_tasks_only, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    app.api.create_model("common", "http://m", &json!({ "shared": true, "maxConcurrency": 2 })).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    bob.create_model("bobs", "http://m", &json!({})).await;
    for (api, tasks) in [(&ann, 1), (&bob, 2)] {
        for _ in 0..tasks {
            api.create_task("common", &Value::Null).await;
        }
    }
    let seen = overview(&ann, json!({})).await;
    assert_eq!((&seen["queued"], &seen["limit"], &seen["lanes"]), (&json!(1), &json!(2), &json!(1)));
    assert_eq!(seen["models"].as_array().unwrap().len(), 1, "the other tenant's model is not there: {seen}");
    assert_eq!((&seen["models"][0]["shared"], &seen["models"][0]["tenantId"]), (&json!(true), &json!("0")));
    assert_eq!(lanes(&ann, json!({})).await, [lane("7", "common", 1, 0, "moving")]);

    let all = overview(&app.api, json!({})).await;
    assert_eq!((&all["queued"], &all["limit"], &all["lanes"]), (&json!(3), &json!(14), &json!(2)));
    let named = overview(&app.api, json!({ "tenantId": "8" })).await;
    assert_eq!((&named["queued"], &named["lanes"]), (&json!(2), &json!(1)));
    assert_eq!(lanes(&app.api, json!({})).await[0], lane("8", "common", 2, 0, "moving"));
    ann.post("/stat/getOverview", &json!({ "tenantId": "8" })).await.refused(403, 62, "forbidden");
    app.stop().await;
});
