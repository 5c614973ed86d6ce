//! Contract §3: headers for models and how they are kept, and how soon a change takes effect.

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::{Kind, TestDb, on},
        eventually::until,
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

/// In which an update has to take effect.
const SOON: Duration = Duration::from_secs(2);

fn ok() -> Reply {
    Reply::Body("text/plain", "ok".into())
}

backend_test!(headers_for_the_model_are_sealed_at_rest_and_kept_when_their_mask_comes_back, async |db: &TestDb| {
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    let app = TestApp::with(db, &[("secrets.key", &key)]).await;
    let model = FakeModel::always(ok()).await;
    let keys = json!({ "apiKey": "Authorization:Bearer top-secret,X-List=\"a, b\"" });
    let id = app.api.create_model("m", &model.url, &keys).await;
    let shown = app.api.get(&format!("/model/getModel?id={id}")).await.data();
    assert_eq!(shown["apiKey"], "Authorization:****,X-List:****");

    let update = json!({ "id": id, "apiKey": shown["apiKey"], "remark": "an echo" });
    app.api.put("/model/updateModel", &update).await.data();
    let update = json!({ "id": id, "apiKey": "Authorization:****,X-New:new-secret" });
    app.api.put("/model/updateModel", &update).await.data();
    let task = app.api.create_task("m", &Value::Null).await;
    app.api.until(&task, &[2]).await;
    let call = &model.calls()[0];
    assert_eq!((call.header("authorization"), call.header("x-new")), ("Bearer top-secret", "new-secret"));
    assert_eq!(call.header("x-list"), "", "what an update leaves out is gone");

    let stored = Raw::connect(db).await.texts("SELECT api_key FROM asynch_models").await;
    assert!(stored[0].starts_with("sealed:"), "{stored:?}");
    for text in ["top-secret", "new-secret", "Authorization"] {
        assert!(!stored[0].contains(text), "{stored:?}");
    }
    let logs = app.api.post("/opLog/listOpLog", &json!({})).await.data().to_string();
    let models = app.api.post("/model/listModel", &json!({})).await.data().to_string();
    assert!(!logs.contains("-secret") && !models.contains("-secret"));
    app.stop().await;
});

backend_test!(without_a_key_headers_are_stored_in_clear, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    app.api.create_model("m", "http://m", &json!({ "apiKey": "A:b" })).await;
    assert_eq!(Raw::connect(db).await.texts("SELECT api_key FROM asynch_models").await, ["A:b"]);
    app.stop().await;
});

backend_test!(every_field_of_a_model_can_be_set_changed_and_read, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let id = app.api.create_model("m", "http://m", &json!({})).await;
    let path = format!("/model/getModel?id={id}");
    let mut shown = app.api.get(&path).await.data();
    let defaults = json!({
        "modelName": "m", "baseUrl": "http://m", "route": "", "httpMethod": "POST", "apiKey": "", "enabled": 1,
        "maxConcurrency": 10, "totalConcurrency": 0, "queueLimit": 1000, "timeoutSeconds": 60, "retryTimes": 0,
        "retryQueueMaxSeconds": 0, "autoCleanSeconds": 86400, "remark": "", "shared": false
    });
    let others = json!({
        "modelName": "n", "baseUrl": "https://n:1/x", "route": "/r?a=b", "httpMethod": "GET", "apiKey": "A:****",
        "enabled": 0, "maxConcurrency": 1, "totalConcurrency": 2, "queueLimit": 0, "timeoutSeconds": 86400,
        "retryTimes": 100, "retryQueueMaxSeconds": 5, "autoCleanSeconds": 0, "remark": "é", "shared": true
    });
    for (field, value) in defaults.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
        let mut change = json!({ "id": id, field: others[field] });
        if field == "apiKey" {
            change[field] = json!("A:b");
        }
        app.api.put("/model/updateModel", &change).await.data();
        let changed = app.api.get(&path).await.data();
        shown[field] = others[field].clone();
        shown["updatedAt"] = changed["updatedAt"].clone();
        assert_eq!(changed, shown, "absent is unchanged");
    }
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_takes_effect_on_another_node_within_two_seconds() {
    on(Kind::Postgres, async |db: &TestDb| {
        let (old, new) = (FakeModel::always(ok()).await, FakeModel::always(ok()).await);
        let office = Node::start(db, &[("worker.enabled", "false")]).await;
        let works = Node::start(db, &[]).await;
        let id = office.api.create_model("m", &old.url, &json!({})).await;
        let first = works.api.create_task("m", &Value::Null).await;
        works.api.until(&first, &[2]).await;

        office.api.put("/model/updateModel", &json!({ "id": id, "baseUrl": new.url })).await.data();
        let began = Instant::now();
        while new.calls().is_empty() {
            let task = works.api.create_task("m", &Value::Null).await;
            works.api.until(&task, &[2]).await;
            assert!(began.elapsed() < SOON, "the old address is still called");
        }
        office.api.put("/model/updateModel", &json!({ "id": id, "enabled": 0 })).await.data();
        let began = Instant::now();
        let disabled = async || works.api.post("/task/createTask", &json!({ "modelName": "m" })).await.status == 409;
        until("the model to be disabled there too", disabled).await;
        assert!(began.elapsed() < SOON);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_limit_takes_effect_on_another_node_within_two_seconds() {
    on(Kind::Postgres, async |db: &TestDb| {
        let model = FakeModel::always(Reply::Gated(Box::new(ok()))).await;
        let office = Node::start(db, &[("worker.enabled", "false")]).await;
        let _works = Node::start(db, &[]).await;
        let id = office.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
        for _ in 0..5 {
            office.api.create_task("m", &Value::Null).await;
        }
        until("the first call", async || model.running() == 1).await;
        office.api.put("/model/updateModel", &json!({ "id": id, "maxConcurrency": 3 })).await.data();
        let began = Instant::now();
        until("three calls", async || model.running() == 3).await;
        assert!(began.elapsed() < SOON, "took {:?}", began.elapsed());
        model.release(5);
    })
    .await;
}
