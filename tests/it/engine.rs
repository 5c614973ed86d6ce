//! The engine under load and trouble: what the steps of a task's life, each tested on its own, do
//! to each other.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

fn after(millis: u64) -> Reply {
    Reply::After(Duration::from_millis(millis), Box::new(Reply::Body("text/plain", "ok".into())))
}

/// Creates tasks side by side.
async fn create_tasks(api: &Api, model: &str, count: usize) -> Vec<String> {
    futures::future::join_all((0..count).map(|_| api.create_task(model, &Value::Null))).await
}

backend_test!(a_busy_worker_claims_many_tasks_at_once, async |db: &TestDb| {
    const TASKS: usize = 1500;
    let app = TestApp::with(db, &[("worker.concurrency", "64")]).await;
    let model = FakeModel::always(after(20)).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 64, "queueLimit": 0 })).await;
    let tasks = create_tasks(&app.api, "m", TASKS).await;
    for task in &tasks {
        app.api.until(task, &[2]).await;
    }
    let claims = Raw::connect(db).await.texts("SELECT DISTINCT CAST(started_at AS TEXT) FROM asynch_task").await;
    assert!(claims.len() < TASKS / 4, "{} claims for {TASKS} tasks", claims.len());
    app.stop().await;
});

backend_test!(tenants_of_a_shared_model_take_turns_at_its_total_limit, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.pollInterval", "1h")]).await;
    let model = FakeModel::always(after(20)).await;
    let fields = json!({ "maxConcurrency": 1, "totalConcurrency": 1, "shared": true });
    app.api.create_model("m", &model.url, &fields).await;
    let (many, few) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    let crowd = create_tasks(&many, "m", 60).await;
    let one = few.create_task("m", &Value::Null).await;
    few.until(&one, &[2]).await;
    let mut left = 0;
    for task in &crowd {
        left += usize::from(many.task(task).await["state"] != 2);
    }
    assert!(left > 30, "one task of another tenant had to wait until {left} of 60 were left");
    app.stop().await;
});
