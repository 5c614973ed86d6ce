//! Contract §3 and §5: limits are exact, full lanes hold nobody up, and lanes take turns.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::TestDb,
        eventually::until,
        model::{FakeModel, Reply},
    },
};

fn gated() -> Reply {
    Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))
}

backend_test!(no_more_calls_run_at_once_than_the_model_allows, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let work = Reply::After(Duration::from_millis(5), Box::new(Reply::Body("text/plain", "ok".into())));
    let model = FakeModel::always(Reply::Gated(Box::new(work))).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 3 })).await;
    let mut tasks = Vec::new();
    for _ in 0..60 {
        tasks.push(app.api.create_task("m", &Value::Null).await);
    }
    until("three calls", async || model.running() == 3).await;
    model.release(60);
    for id in &tasks {
        app.api.until(id, &[2]).await;
    }
    assert_eq!(model.peak(), 3);
    app.stop().await;
});

backend_test!(a_shared_model_has_a_limit_over_all_tenants, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(gated()).await;
    let fields = json!({ "maxConcurrency": 3, "totalConcurrency": 4, "shared": true });
    app.api.create_model("m", &model.url, &fields).await;
    let mut tasks = Vec::new();
    for tenant in [7, 8, 9] {
        let api = app.api.as_tenant(tenant, "ann");
        for _ in 0..3 {
            tasks.push((api.clone(), api.create_task("m", &Value::Null).await));
        }
    }
    until("four calls", async || model.running() == 4).await;
    model.release(9);
    for (api, id) in &tasks {
        api.until(id, &[2]).await;
    }
    assert_eq!(model.peak(), 4);
    app.stop().await;
});

backend_test!(a_full_lane_holds_nobody_up, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let (slow, quick) = (FakeModel::always(gated()).await, FakeModel::echo().await);
    app.api.create_model("slow", &slow.url, &json!({ "maxConcurrency": 1 })).await;
    app.api.create_model("quick", &quick.url, &json!({})).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(app.api.create_task("slow", &Value::Null).await);
    }
    until("the slow model to be full", async || slow.running() == 1).await;
    let id = app.api.create_task("quick", &json!(1)).await;
    app.api.until(&id, &[2]).await;
    assert_eq!(slow.calls().len(), 1);
    slow.release(50);
    for id in waiting {
        app.api.until(&id, &[2]).await;
    }
    assert_eq!(slow.peak(), 1);
    app.stop().await;
});

backend_test!(tasks_of_a_lane_start_in_the_order_they_were_created, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
    let mut last = String::new();
    for n in 0..30 {
        last = app.api.create_task("m", &json!(n)).await;
    }
    app.api.until(&last, &[2]).await;
    let order: Vec<usize> = model.calls().iter().map(|call| call.text().parse().unwrap()).collect();
    assert_eq!(order, (0..30).collect::<Vec<_>>());
    app.stop().await;
});

backend_test!(the_queue_limit_counts_queued_and_running_tasks_exactly, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(gated()).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 2, "queueLimit": 5 })).await;
    let body = json!({ "modelName": "m" });
    let answers = futures::future::join_all((0..40).map(|_| app.api.post("/task/createTask", &body))).await;
    let accepted: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.body["data"]["taskId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(accepted.len(), 5);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused(429, 63, "queue_full");
        assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
    }
    model.release(1);
    until("a task to leave", async || {
        futures::future::join_all(accepted.iter().map(|id| app.api.task(id)))
            .await
            .iter()
            .any(|task| task["state"] == 2)
    })
    .await;
    let again = crate::support::eventually::eventually("room for one more", async || {
        let answer = app.api.post("/task/createTask", &body).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.body) }
    })
    .await;
    app.api.post("/task/createTask", &body).await.refused(429, 63, "queue_full");
    model.release(10);
    app.api.until(again.body["data"]["taskId"].as_str().unwrap(), &[2]).await;
    app.stop().await;
});

backend_test!(a_nodes_own_concurrency_bounds_its_calls, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.concurrency", "2")]).await;
    let model = FakeModel::always(gated()).await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(app.api.create_task("m", &Value::Null).await);
    }
    until("two calls", async || model.running() == 2).await;
    model.release(6);
    for id in &tasks {
        app.api.until(id, &[2]).await;
    }
    assert_eq!(model.peak(), 2);
    app.stop().await;
});
