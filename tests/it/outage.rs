//! The database goes away under running calls: for everybody, or for one node alone.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    app::Node,
    backend::{Kind, TestDb, on},
    eventually::until,
    model::{FakeModel, Reply},
    proxy::{Proxy, behind_a_cable},
    redis::RedisServer,
};

/// Long enough for a busy machine to keep up, short enough to wait for some of them.
const LEASE: Duration = Duration::from_secs(4);

/// A model that answers when it is told to, and says which attempt it was called by.
async fn gated() -> FakeModel {
    FakeModel::start(|call, _| {
        let answer = format!("attempt {}", call.header("x-task-attempt"));
        Reply::Gated(Box::new(Reply::Body("text/plain", answer.into())))
    })
    .await
}

async fn node(db: &TestDb, database: &str, redis: &str) -> Node {
    let settings = [("database.url", database), ("redis.url", redis), ("worker.leaseSeconds", "4")];
    Node::start(db, &settings).await
}

impl Node {
    fn said(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(words)
    }
}

/// The calls of that task, by attempt.
fn attempts(model: &FakeModel) -> Vec<String> {
    model.calls().iter().map(|call| call.header("x-task-attempt").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_calls_outlive_an_outage_of_the_database_and_are_not_repeated() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(redis) = RedisServer::start().await else { return };
        let (cable, url) = behind_a_cable(db).await;
        let nodes = [node(db, &url, &redis.url()).await, node(db, &url, &redis.url()).await];
        let model = gated().await;
        nodes[0].api.create_model("m", &model.url, &json!({ "maxConcurrency": 100 })).await;
        let mut tasks = Vec::new();
        for n in 0..8 {
            tasks.push(nodes[n % 2].api.create_task("m", &Value::Null).await);
        }
        until("every call", async || model.running() == 8).await;
        // Both have read who watches with their last renewals.
        tokio::time::sleep(LEASE / 3).await;
        cable.cut();
        nodes[0].api.post("/task/createTask", &json!({ "modelName": "m" })).await.refused(503, 63, "unavailable");
        tokio::time::sleep(LEASE).await;
        // Half of them end while the database is away: their results have to wait for it.
        model.release(4);
        until("half of the calls to end", async || model.running() == 4).await;
        tokio::time::sleep(LEASE).await;
        for node in &nodes {
            assert!(node.said("running calls go on") && !node.said("lost the lease"));
        }
        cable.mend();
        model.release(4);
        for id in &tasks {
            let done = nodes[0].api.until(id, &[2, 3]).await;
            assert_eq!((&done["state"], &done["retryCount"]), (&json!(2), &json!(0)), "{done}");
            assert_eq!(nodes[1].api.fetch(done["ossFile"].as_str().unwrap()).await, b"attempt 1");
        }
        assert_eq!(model.calls().len(), 8, "nothing was called twice");
        assert_eq!(db.parked_files(), 0);
        for node in &nodes {
            assert!(!node.said("was declared dead") && !node.said("let its lease run out"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_alone_lost_the_database_drops_its_calls_before_others_make_them() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(redis) = RedisServer::start().await else { return };
        let (cable, behind) = behind_a_cable(db).await;
        let (other, direct) = behind_a_cable(db).await;
        let cut_off = node(db, &behind, &redis.url()).await;
        let model = gated().await;
        cut_off.api.create_model("m", &model.url, &json!({})).await;
        let id = cut_off.api.create_task("m", &Value::Null).await;
        until("the call", async || model.running() == 1).await;
        let healthy = node(db, &direct, &redis.url()).await;
        cable.cut();
        until("the second call", async || model.calls().len() == 2).await;
        assert_eq!(model.peak(), 1, "the first call had ended by then");
        assert_eq!(attempts(&model), ["1", "2"]);
        assert!(cut_off.said("lost the lease") && !cut_off.said("running calls go on"));
        until("the node to say that it is deaf", async || cut_off.api.get("/readyz").await.status == 503).await;
        assert_eq!(healthy.api.get("/readyz").await.status, 200);
        model.release(2);
        let done = healthy.api.until(&id, &[2]).await;
        assert_eq!(healthy.api.fetch(done["ossFile"].as_str().unwrap()).await, b"attempt 2");
        drop(other);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_database_and_redis_calls_are_dropped_in_time() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(mut redis) = RedisServer::start().await else { return };
        let (cable, url) = behind_a_cable(db).await;
        let nodes = [node(db, &url, &redis.url()).await, node(db, &url, &redis.url()).await];
        let model = gated().await;
        nodes[0].api.create_model("m", &model.url, &json!({})).await;
        let id = nodes[0].api.create_task("m", &Value::Null).await;
        until("the call", async || model.running() == 1).await;
        redis.kill();
        cable.cut();
        // Nobody can know whether the others still reach the database.
        until("the call to be dropped", async || model.running() == 0).await;
        cable.mend();
        until("the second call", async || model.calls().len() == 2).await;
        assert_eq!(model.peak(), 1);
        model.release(2);
        let done = nodes[1].api.until(&id, &[2]).await;
        assert_eq!(nodes[1].api.fetch(done["ossFile"].as_str().unwrap()).await, b"attempt 2");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_reaches_the_database_but_not_redis_keeps_others_from_going_on() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(redis) = RedisServer::start().await else { return };
        let (cable, behind) = behind_a_cable(db).await;
        let line = Proxy::to(redis.address()).await;
        let speechless = node(db, db.url(), &format!("redis://{}/0", line.address)).await;
        let cut_off = node(db, &behind, &redis.url()).await;
        let model = gated().await;
        cut_off.api.create_model("m", &model.url, &json!({})).await;
        // Both have one, so that each runs a call.
        for _ in 0..6 {
            cut_off.api.create_task("m", &Value::Null).await;
        }
        until("every call", async || model.running() == 6).await;
        tokio::time::sleep(LEASE / 3).await;
        line.cut();
        cable.cut();
        until("the node to give up", async || cut_off.said("lost the lease")).await;
        assert!(!cut_off.said("running calls go on"));
        model.release(100);
        until("every task to succeed", async || {
            let list = speechless.api.post("/task/listTask", &json!({ "state": 2 })).await.data();
            list["total"] == 6
        })
        .await;
        assert!(model.peak() <= 6, "{}", model.peak());
    })
    .await;
}
