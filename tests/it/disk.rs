//! Disks that are full, that fail, or that lose what was not synced.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt as _;
use model_asynch::{
    config::Database,
    secrets::Vault,
    store::Store,
    task::{TaskKey, TenantId},
};
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::{Kind, TestDb, on},
        eventually::until,
        model::{FakeModel, Reply},
    },
};

backend_test!(a_node_whose_spool_is_full_claims_nothing_until_there_is_room, async |db: &TestDb| {
    let works = Arc::new(AtomicBool::new(false));
    let switch = works.clone();
    let files = FakeModel::start(move |_, _| match switch.load(Ordering::SeqCst) {
        true => Reply::Body("application/json", r#"{"url":"http://files/1"}"#.into()),
        false => Reply::Status(503, vec![], String::new()),
    })
    .await;
    let settings = [("oss.kind", "http"), ("oss.url", files.url.as_str()), ("worker.spoolMaxBytes", "1000")];
    let app = TestApp::with(db, &settings).await;
    let model = FakeModel::always(Reply::Body("text/plain", "x".repeat(600).into())).await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let mut tasks = Vec::new();
    for calls in 1..=2 {
        tasks.push(app.api.create_task("m", &Value::Null).await);
        until("the call", async || model.calls().len() == calls && db.parked_files() == calls).await;
    }
    until("the worker to stop asking", async || {
        let id = app.api.create_task("m", &Value::Null).await;
        tasks.push(id);
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        model.calls().len() < tasks.len()
    })
    .await;
    let calls = model.calls().len();
    let waiting = app.api.create_task("m", &Value::Null).await;
    assert_eq!(app.api.task(&waiting).await["state"], 0);
    assert_eq!(model.calls().len(), calls);
    works.store(true, Ordering::SeqCst);
    tasks.push(waiting);
    for id in &tasks {
        app.api.until(id, &[2]).await;
    }
    assert_eq!(model.calls().len(), tasks.len(), "each was called once");
    app.stop().await;
});

backend_test!(a_result_that_the_disk_refuses_uses_up_no_try_and_the_node_recovers, async |db: &TestDb| {
    let app = TestApp::with(db, &[]).await;
    let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 0 })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    until("the call", async || model.running() == 1).await;
    let (tmp, away) = (db.dir().join("tmp"), db.dir().join("away"));
    fs::rename(&tmp, &away).unwrap();
    model.release(1);
    until("the task to be back in the queue", async || {
        let task = app.api.task(&id).await;
        task["state"] == 0 && task["errorMsg"].as_str().unwrap().contains("could not be parked")
    })
    .await;
    let calls = model.calls().len();
    fs::rename(&away, &tmp).unwrap();
    model.release(9);
    let done = app.api.until(&id, &[2]).await;
    assert_eq!(done["retryCount"], 0);
    assert_eq!((calls, model.calls().len()), (1, 2), "not asked again before the disk took something");
    app.stop().await;
});

/// The tasks acknowledged so far, each with the length of the log at that moment.
type Acknowledged = Vec<(String, u64)>;

async fn acknowledge(node: &Node, log: &Path, tasks: usize) -> Acknowledged {
    let creating = (0..tasks).map(|n| async move {
        let id = node.api.create_task("m", &json!({ "n": n })).await;
        (id, fs::metadata(log).unwrap().len())
    });
    futures::stream::iter(creating).buffer_unordered(8).collect().await
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Opens a copy of the database whose log ends after `length` bytes and some rubbish, and asserts that
/// those tasks are there.
async fn survive(db: &Path, length: u64, tasks: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    fs::copy(db, &copy).unwrap();
    let mut log = fs::read(with_ending(db, "-wal")).unwrap();
    log.truncate(usize::try_from(length).unwrap());
    // What a disk may hold of a write that it was in the middle of.
    log.extend_from_slice(&[0x5a; 1000]);
    fs::write(with_ending(&copy, "-wal"), log).unwrap();
    let (store, _committers) = Store::open(&Database::Sqlite { path: copy }, Vault::default()).await.unwrap();
    for id in tasks {
        let key = TaskKey { tenant: TenantId(0), id: id.parse().unwrap() };
        assert!(store.task(key).await.unwrap().is_some(), "{id} was acknowledged and is gone at {length}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_task_survives_kill_and_power_loss_in_the_embedded_store() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let Database::Sqlite { path } = &db.config else { panic!("not SQLite") };
        let mut node = Node::start(db, &[("worker.enabled", "false")]).await;
        node.api.create_model("m", "http://127.0.0.1:9", &json!({ "queueLimit": 0 })).await;
        let log = with_ending(path, "-wal");
        let acknowledged = acknowledge(&node, &log, 300).await;
        // Killed under load: these may be stored or not, nobody was told.
        let api = node.api.clone();
        let more = tokio::spawn(async move {
            let body = json!({ "modelName": "m" });
            futures::future::join_all((0..50).map(|_| {
                let request = api.request(reqwest::Method::POST, "/task/createTask").json(&body);
                async move { drop(request.send().await) }
            }))
            .await
        });
        node.kill();
        more.await.unwrap();
        assert!(fs::metadata(&log).unwrap().len() >= acknowledged.last().unwrap().1, "the log was begun anew");
        for upto in [1, 50, 150, 300] {
            // A power failure right after that answer: whatever came later was not synced yet.
            let length = acknowledged[..upto].iter().map(|(_, length)| *length).max().unwrap();
            let tasks: Vec<&str> = acknowledged[..upto].iter().map(|(id, _)| id.as_str()).collect();
            survive(path, length, &tasks).await;
        }
        let node = Node::start(db, &[("worker.enabled", "false")]).await;
        for (id, _) in &acknowledged {
            assert_eq!(node.api.task(id).await["state"], 0);
        }
    })
    .await;
}
