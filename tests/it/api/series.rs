//! The series: what happened, minute by minute.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        eventually::eventually,
        model::{FakeModel, Reply},
    },
};

/// The sum once it says so.
async fn sum(api: &Api, ask: Value, field: &str, expected: u64) -> Value {
    eventually(&format!("{expected} {field}"), async || {
        let sum = api.post("/stat/listSeries", &ask).await.data()["sum"].clone();
        if sum[field] == expected { Ok(sum) } else { Err(sum.to_string()) }
    })
    .await
}

async fn run(api: &Api, model: &str, tasks: usize, end: i64) {
    for _ in 0..tasks {
        let id = api.create_task(model, &json!({ "x": 1 })).await;
        api.until(&id, &[end]).await;
    }
}

backend_test!(what_happened_is_in_the_series_and_survives_a_restart, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let (good, bad) = (FakeModel::echo().await, FakeModel::always(Reply::Status(404, Vec::new(), "no".into())).await);
    app.api.create_model("good", &good.url, &json!({})).await;
    app.api.create_model("bad", &bad.url, &json!({})).await;
    run(&app.api, "good", 3, 2).await;
    run(&app.api, "bad", 1, 3).await;
    app.stop().await;

    let app = TestApp::start(db).await;
    let all = sum(&app.api, json!({ "minutes": 5 }), "created", 4).await;
    assert_eq!((&all["succeeded"], &all["failed"], &all["calls"]), (&json!(3), &json!(1), &json!(4)), "{all}");
    assert_eq!(all["bytes"], 3 * 7);
    for times in ["waitP50Ms", "runP50Ms", "totalP95Ms"] {
        let ms = all[times].as_f64().unwrap();
        assert!(ms > 0.0 && ms < 20_000.0, "{times}: {all}");
    }
    assert!(all["totalP95Ms"].as_f64() >= all["runP50Ms"].as_f64(), "{all}");
    let one = sum(&app.api, json!({ "minutes": 5, "modelName": "bad" }), "created", 1).await;
    assert_eq!((&one["succeeded"], &one["failed"], &one["bytes"]), (&json!(0), &json!(1), &json!(0)));

    run(&app.api, "good", 2, 2).await;
    let ask = json!({ "minutes": 5, "byModel": true });
    sum(&app.api, ask.clone(), "succeeded", 5).await;
    let series = app.api.post("/stat/listSeries", &ask).await.data();
    let models = series["models"].as_array().unwrap();
    assert_eq!((&models[0]["modelName"], &models[0]["succeeded"]), (&json!("good"), &json!(5)), "over both processes");
    assert_eq!((&models[1]["modelName"], &models[1]["failed"]), (&json!("bad"), &json!(1)));
    let points = series["list"].as_array().unwrap();
    assert_eq!(series["stepSeconds"], 60);
    assert!([5, 6].contains(&points.len()), "{points:?}");
    assert_eq!(points.iter().map(|point| point["created"].as_u64().unwrap()).sum::<u64>(), 6);
    assert!(points.is_sorted_by_key(|point| point["at"].as_str().unwrap().to_owned()), "the oldest first");
    app.stop().await;
});

backend_test!(a_tenant_sees_its_own_series_only, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({ "shared": true })).await;
    let (ann, bob) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    run(&ann, "m", 2, 2).await;
    run(&bob, "m", 1, 2).await;
    let ask = json!({ "byModel": true });
    sum(&app.api, ask.clone(), "succeeded", 3).await;
    sum(&ann, ask.clone(), "succeeded", 2).await;
    sum(&app.api, json!({ "tenantId": "8" }), "succeeded", 1).await;
    let bobs = bob.post("/stat/listSeries", &ask).await.data();
    assert_eq!(bobs["models"].as_array().unwrap().len(), 1, "{bobs}");
    assert_eq!(bobs["models"][0]["tenantId"], "8");
    bob.post("/stat/listSeries", &json!({ "tenantId": "7" })).await.refused(403, 62, "forbidden");
    app.stop().await;
});

backend_test!(a_failed_call_that_is_tried_again_is_a_retry_and_no_failure, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Status(500, Vec::new(), "oops".into())).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 1 })).await;
    run(&app.api, "m", 1, 3).await;
    let all = sum(&app.api, json!({ "minutes": 5 }), "failed", 1).await;
    assert_eq!((&all["retried"], &all["calls"], &all["created"]), (&json!(1), &json!(2), &json!(1)), "{all}");
    assert!(Duration::from_secs_f64(all["totalP50Ms"].as_f64().unwrap() / 1000.0) > Duration::from_millis(300));
    app.stop().await;
});

backend_test!(a_span_that_cannot_be_shown_is_refused_by_its_field, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    for (ask, field) in [
        (json!({ "minutes": 0 }), "minutes"),
        (json!({ "stepSeconds": 7 }), "stepSeconds"),
        (json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-11-01T00:00:00Z", "stepSeconds": 60 }), "stepSeconds"),
        (json!({ "from": "now" }), "from"),
    ] {
        let answer = app.api.post("/stat/listSeries", &ask).await;
        answer.refused(400, 51, "validation");
        assert_eq!(answer.body["error"]["field"], field, "{ask}");
    }
    let empty = app.api.post("/stat/listSeries", &json!({ "minutes": 89_280 })).await.data();
    assert_eq!((&empty["stepSeconds"], &empty["sum"]["created"]), (&json!(86_400), &json!(0)));
    app.stop().await;
});
