//! Workers that die, pause or are told to stop, as processes of their own (contract §5).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::Node,
        backend::{Kind, TestDb, on},
        eventually::{until, within},
        model::{FakeModel, Reply},
    },
};

const LEASE: (&str, &str) = ("worker.leaseSeconds", "2");

fn gated_then_ok() -> impl Fn(&crate::support::model::Call, usize) -> Reply + Send + Sync {
    |_, before| match before {
        0 => Reply::Hang,
        _ => Reply::Body("text/plain", "second".into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_workers_task_goes_to_another_within_lease_and_interval() {
    on(Kind::Postgres, async |db: &TestDb| {
        // Longer than a busy machine may hold a node up, which would look like an outage to it.
        let lease = [("worker.leaseSeconds", "4")];
        let model = FakeModel::start(gated_then_ok()).await;
        let mut first = Node::start(db, &lease).await;
        // The dead worker's permit is the only one, and has to come back as early as its task.
        first.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
        let id = first.api.create_task("m", &Value::Null).await;
        until("the call", async || model.running() == 1).await;
        let second = Node::start(db, &lease).await;
        first.kill();
        let killed = Instant::now();
        let done = second.api.until(&id, &[2]).await;
        assert!(killed.elapsed() < Duration::from_secs(8), "took {:?}", killed.elapsed());
        assert_eq!(done["retryCount"], 0, "a lost attempt uses up no try");
        assert_eq!(second.api.fetch(done["ossFile"].as_str().unwrap()).await, b"second");
        let attempts: Vec<String> = model.calls().iter().map(|c| c.header("x-task-attempt").to_owned()).collect();
        assert_eq!(attempts, ["1", "2"]);
        let stat = second.api.post("/stat/listModelStat", &json!({})).await.data()["list"][0].clone();
        let counts = [&stat["requestCount"], &stat["successCount"], &stat["failureCount"]];
        assert_eq!(counts, [&json!(2), &json!(1), &json!(1)], "{stat}");
    })
    .await;
}

backend_test!(a_restarted_node_takes_up_its_own_tasks, async |db: &TestDb| {
    let model = FakeModel::start(gated_then_ok()).await;
    // The embedded store knows that whatever ran at boot is dead: no lease is waited for.
    let lease = if db.kind() == Kind::Sqlite { ("worker.leaseSeconds", "3600") } else { LEASE };
    let mut node = Node::start(db, &[lease]).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    until("the call", async || model.running() == 1).await;
    node.kill();
    let node = Node::start(db, &[lease]).await;
    let done = node.api.until(&id, &[2]).await;
    assert_eq!(done["retryCount"], 0);
    assert_eq!(model.calls().len(), 2);
});

backend_test!(a_task_that_kills_its_workers_fails_in_the_end, async |db: &TestDb| {
    let settings = [LEASE, ("worker.maxLostAttempts", "2")];
    let model = FakeModel::always(Reply::Hang).await;
    let mut id = None;
    for run in 1..=2 {
        let mut node = Node::start(db, &settings).await;
        if id.is_none() {
            node.api.create_model("m", &model.url, &json!({ "retryTimes": 50 })).await;
            id = Some(node.api.create_task("m", &Value::Null).await);
        }
        until("the call", async || model.calls().len() == run).await;
        node.kill();
    }
    let node = Node::start(db, &settings).await;
    let failed = node.api.until(&id.unwrap(), &[3]).await;
    assert!(failed["errorMsg"].as_str().unwrap().contains("lost with their worker"), "{failed}");
    assert_eq!(failed["retryCount"], 0);
});

backend_test!(a_restarted_node_uploads_what_it_had_parked_without_calling_the_model_again, async |db: &TestDb| {
    let works = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = works.clone();
    let files = FakeModel::start(move |_, _| match switch.load(std::sync::atomic::Ordering::SeqCst) {
        true => Reply::Body("application/json", r#"{"url":"http://files/1"}"#.into()),
        false => Reply::Status(500, vec![], String::new()),
    })
    .await;
    let model = FakeModel::always(Reply::Body("text/plain", "expensive".into())).await;
    let settings = [LEASE, ("oss.kind", "http"), ("oss.url", files.url.as_str())];
    let mut node = Node::start(db, &settings).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    until("the result to be parked", async || node.api.task(&id).await["phase"] == 1).await;
    node.kill();
    works.store(true, std::sync::atomic::Ordering::SeqCst);
    let node = Node::start(db, &settings).await;
    let done = node.api.until(&id, &[2]).await;
    assert_eq!(done["ossFile"], "http://files/1");
    assert_eq!(model.calls().len(), 1, "only the upload was left");
    assert!(files.calls().last().unwrap().text().contains("expensive"));
    let stat = node.api.post("/stat/listModelStat", &json!({})).await.data()["list"][0].clone();
    assert_eq!((&stat["requestCount"], &stat["successCount"]), (&json!(1), &json!(1)), "{stat}");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_worker_cannot_overwrite_what_happened_since() {
    on(Kind::Postgres, async |db: &TestDb| {
        let model = FakeModel::start(|_, before| match before {
            0 => Reply::Gated(Box::new(Reply::Body("text/plain", "zombie".into()))),
            _ => Reply::Body("text/plain", "fresh".into()),
        })
        .await;
        let first = Node::start(db, &[LEASE]).await;
        first.api.create_model("m", &model.url, &json!({})).await;
        let id = first.api.create_task("m", &Value::Null).await;
        until("the call", async || model.running() == 1).await;
        let second = Node::start(db, &[LEASE]).await;
        first.signal("STOP");
        let done = second.api.until(&id, &[2]).await;
        model.release(1);
        first.signal("CONT");
        // It notices at its next renewal, drops what it did, and works on as a new incarnation.
        until("the paused node to start over", async || {
            std::fs::read_to_string(&first.log).unwrap().contains("starting over")
        })
        .await;
        let next = first.api.create_task("m", &Value::Null).await;
        first.api.until(&next, &[2]).await;
        let after = first.api.task(&id).await;
        assert_eq!((&after["state"], &after["ossFile"]), (&json!(2), &done["ossFile"]));
        assert_eq!(second.api.fetch(done["ossFile"].as_str().unwrap()).await, b"fresh");
    })
    .await;
}

backend_test!(a_stopping_node_lets_short_calls_end, async |db: &TestDb| {
    let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
    let mut node = Node::start(db, &[]).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    until("the call", async || model.running() == 1).await;
    node.signal("TERM");
    until("it to say that it stops", async || node.api.get("/readyz").await.status == 503).await;
    model.release(1);
    assert_eq!(node.exit_code().await, Some(0));
    let node = Node::start(db, &[]).await;
    assert_eq!(node.api.task(&id).await["state"], 2);
    assert_eq!(model.calls().len(), 1);
});

backend_test!(a_stopping_node_hands_long_calls_back_without_using_up_a_try, async |db: &TestDb| {
    let settings = [("server.shutdownGrace", "200ms"), ("worker.maxLostAttempts", "1")];
    let model = FakeModel::start(gated_then_ok()).await;
    let mut node = Node::start(db, &settings).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    until("the call", async || model.running() == 1).await;
    node.signal("INT");
    assert_eq!(node.exit_code().await, Some(0));
    until("the model to see the call dropped", async || model.running() == 0).await;
    let node = Node::start(db, &settings).await;
    let done = node.api.until(&id, &[2]).await;
    assert_eq!(done["retryCount"], 0);
    let attempts: Vec<String> = model.calls().iter().map(|c| c.header("x-task-attempt").to_owned()).collect();
    assert_eq!(attempts, ["1", "2"], "the fence goes up all the same");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_has_one_process() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let _node = Node::start(db, &[]).await;
        let address = crate::support::app::free_address();
        let second = std::process::Command::new(env!("CARGO_BIN_EXE_model-asynch"))
            .current_dir(db.dir())
            .env_clear()
            .envs(crate::support::app::environment(db, &address, &[]))
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(1));
        let said = String::from_utf8_lossy(&second.stderr).into_owned() + &*String::from_utf8_lossy(&second.stdout);
        assert!(said.contains("another process uses it"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_run_two_thousand_tasks_within_the_limit_and_every_file_is_right() {
    on(Kind::Postgres, async |db: &TestDb| {
        const TASKS: usize = 2000;
        let model = FakeModel::start(|call, _| {
            let body = format!("{}:{}", call.header("x-task-id"), call.text().repeat(50));
            Reply::After(Duration::from_millis(10), Box::new(Reply::Body("text/plain", body.into())))
        })
        .await;
        let nodes = [Node::start(db, &[]).await, Node::start(db, &[]).await, Node::start(db, &[]).await];
        let fields = json!({ "maxConcurrency": 20, "queueLimit": 0 });
        nodes[0].api.create_model("m", &model.url, &fields).await;
        let creating = (0..TASKS).map(|n| {
            let api = &nodes[n % 3].api;
            async move { (api.create_task("m", &json!({ "n": n })).await, json!({ "n": n }).to_string()) }
        });
        use futures::StreamExt as _;
        let tasks: Vec<(String, String)> = futures::stream::iter(creating).buffer_unordered(32).collect().await;
        let done = json!({ "page": { "pageNum": 1, "pageSize": 1 }, "state": 2 });
        within(Duration::from_secs(180), "every task to succeed", async || {
            let total = nodes[0].api.post("/task/listTask", &done).await.data()["total"].clone();
            if total == TASKS { Ok(()) } else { Err(total) }
        })
        .await;
        for chunk in tasks.chunks(1000) {
            let ids: Vec<&str> = chunk.iter().map(|(id, _)| id.as_str()).collect();
            let batch = nodes[1].api.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await.data();
            for ((id, payload), item) in chunk.iter().zip(batch["list"].as_array().unwrap()) {
                assert_eq!((&item["taskId"], &item["state"]), (&json!(id), &json!(2)));
                let file = nodes[2].api.fetch(item["ossFile"].as_str().unwrap()).await;
                assert_eq!(String::from_utf8(file).unwrap(), format!("{id}:{}", payload.repeat(50)));
            }
        }
        assert!(model.peak() <= 20, "{} calls ran at once", model.peak());
        let twice: Vec<_> = model.calls_by_task().into_iter().filter(|(_, calls)| *calls > 1).collect();
        assert!(twice.is_empty(), "called more than once without a fault: {twice:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_one_gibibyte_passes_without_being_held_in_memory() {
    on(Kind::Sqlite, async |db: &TestDb| {
        const GIB: u64 = 1 << 30;
        let model = FakeModel::start(|call, _| Reply::Stream(call.text().parse().unwrap())).await;
        let node = Node::start(db, &[]).await;
        node.api.create_model("m", &model.url, &json!({ "timeoutSeconds": 600 })).await;
        let warm = node.api.create_task("m", &json!(1 << 20)).await;
        node.api.until(&warm, &[2]).await;
        let before = node.resident_kib();
        let id = node.api.create_task("m", &json!(GIB)).await;
        let mut peak = before;
        let done = loop {
            peak = peak.max(node.resident_kib());
            let task = node.api.task(&id).await;
            if task["state"] != 0 && task["state"] != 1 {
                break task;
            }
        };
        assert_eq!((&done["state"], &done["fileSize"]), (&json!(2), &json!(GIB)), "{done}");
        let grown = peak - before;
        assert!(grown < 64 * 1024, "resident memory grew by {grown} KiB");
    })
    .await;
}
