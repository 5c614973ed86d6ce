//! Contract §5, the cleaner: what is deleted when, and what is left alone.

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

async fn gone(api: &Api, id: &str) {
    until("the task to be purged", async || api.get(&format!("/task/getTaskResult?taskId={id}")).await.status == 404)
        .await;
}

backend_test!(picked_up_and_failed_tasks_are_purged_after_their_time_but_their_objects_stay, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| match call.text().as_str() {
        "400" => Reply::Status(400, vec![], String::new()),
        _ => Reply::Body("text/plain", "ok".into()),
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "autoCleanSeconds": 1 })).await;
    let picked = app.api.create_task("m", &json!(1)).await;
    let failed = app.api.create_task("m", &json!(400)).await;
    let unclaimed = app.api.create_task("m", &json!(2)).await;
    let url = app.api.until(&picked, &[2]).await["ossFile"].as_str().unwrap().to_owned();
    let shown = app.api.until(&failed, &[3]).await;
    assert!(shown["expireAt"].is_string());
    app.api.until(&unclaimed, &[2]).await;
    app.api.post("/task/getTaskBatch", &json!({ "taskIds": [picked] })).await.data();
    gone(&app.api, &picked).await;
    gone(&app.api, &failed).await;
    assert_eq!(app.api.task(&unclaimed).await["state"], 2, "what was not picked up stays");
    assert_eq!(app.api.fetch(&url).await, b"ok");
    app.stop().await;
});

backend_test!(
    results_never_picked_up_are_purged_and_their_objects_where_the_configuration_says_so,
    async |db: &TestDb| {
        let app = TestApp::with(db, &[("cleaner.unclaimedSeconds", "1"), ("oss.deleteOnPurge", "true")]).await;
        let model = FakeModel::echo().await;
        app.api.create_model("m", &model.url, &json!({})).await;
        let id = app.api.create_task("m", &json!(1)).await;
        let url = app.api.until(&id, &[2]).await["ossFile"].as_str().unwrap().to_owned();
        gone(&app.api, &id).await;
        until("the object to be deleted", async || reqwest::get(&url).await.unwrap().status() == 404).await;
        app.stop().await;
    }
);

backend_test!(a_task_that_waits_too_long_fails, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.queueTimeout", "1s")]).await;
    let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
    let running = app.api.create_task("m", &Value::Null).await;
    app.api.until(&running, &[1]).await;
    let waiting = app.api.create_task("m", &Value::Null).await;
    let failed = app.api.until(&waiting, &[3]).await;
    assert!(failed["errorMsg"].as_str().unwrap().contains("waited in the queue"), "{failed}");
    assert_eq!(app.api.task(&running).await["state"], 1, "a running task is left alone");
    model.release(1);
    app.api.until(&running, &[2]).await;
    app.stop().await;
});
