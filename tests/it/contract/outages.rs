//! Contract §1 and §10: what callers and probes are told while a dependency is away.

use serde_json::{Value, json};

use crate::support::{
    app::{Node, TestApp},
    backend::{Kind, TestDb, on, server},
    eventually::until,
    model::{FakeModel, Reply},
    proxy::{Proxy, behind_a_cable},
    redis::RedisServer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_service_says_so_and_when_to_come_back() {
    on(Kind::Postgres, async |db: &TestDb| {
        let (cable, url) = behind_a_cable(db).await;
        let app = TestApp::with(db, &[("database.url", &url)]).await;
        let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
        let id = app.api.create_model("m", &model.url, &json!({})).await;
        cable.cut();
        let create = json!({ "modelName": "m" });
        for answer in [
            app.api.post("/task/createTask", &create).await,
            app.api.get(&format!("/model/getModel?id={id}")).await,
            app.api.post("/task/listTask", &json!({})).await,
            app.api.post("/task/getTaskBatch", &json!({ "taskIds": ["01970000-0000-7000-8000-000000000001"] })).await,
            app.api.post("/stat/listModelStat", &json!({})).await,
            app.api.get("/readyz").await,
        ] {
            answer.refused(503, 63, "unavailable");
            assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains("the database") && !message.contains("127.0.0.1"), "{message}");
        }
        assert_eq!(app.api.get("/healthz").await.status, 200);
        cable.mend();
        until("the service to be ready again", async || app.api.get("/readyz").await.status == 200).await;
        let task = app.api.create_task("m", &Value::Null).await;
        app.api.until(&task, &[2]).await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_service_is_not_ready_and_says_why() {
    on(Kind::Postgres, async |db: &TestDb| {
        let Some(mut redis) = RedisServer::start().await else { return };
        let app = TestApp::with(db, &[("redis.url", &redis.url())]).await;
        assert_eq!(app.api.get("/readyz").await.status, 200);
        redis.kill();
        let answer = app.api.get("/readyz").await;
        answer.refused(503, 63, "unavailable");
        assert_eq!(answer.body["message"], "out of reach: Redis");
        assert!(answer.headers.contains_key("retry-after"));
        // Tasks are durable without it, so they are taken and done all the same.
        let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
        app.api.create_model("m", &model.url, &json!({})).await;
        let task = app.api.create_task("m", &Value::Null).await;
        app.api.until(&task, &[2]).await;
        redis.restart().await;
        until("the service to be ready again", async || app.api.get("/readyz").await.status == 200).await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_service_still_answers_and_is_not_ready() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        on(kind, async |db: &TestDb| {
            let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
            let mut node = Node::start(db, &[("server.shutdownGrace", "30s")]).await;
            node.api.create_model("m", &model.url, &json!({})).await;
            let task = node.api.create_task("m", &Value::Null).await;
            until("the call", async || model.running() == 1).await;
            node.signal("TERM");
            until("readyz to say so", async || node.api.get("/readyz").await.status == 503).await;
            let answer = node.api.get("/readyz").await;
            answer.refused(503, 63, "unavailable");
            assert!(answer.body["message"].as_str().unwrap().contains("stopping"), "{}", answer.body);
            assert_eq!(node.api.get("/healthz").await.status, 200);
            assert_eq!(node.api.task(&task).await["state"], 1, "callers that still come are served");
            model.release(1);
            assert_eq!(node.exit_code().await, Some(0));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_its_store_of_results_is_not_ready() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let Some(endpoint) = server("TEST_S3_ENDPOINT") else { return };
        let cable = Proxy::to(endpoint.trim_start_matches("http://").to_owned()).await;
        let url = format!("http://{}", cable.address);
        let settings = [
            ("oss.kind", "s3"),
            ("oss.endpoint", url.as_str()),
            ("oss.bucket", "models"),
            ("oss.accessKey", "key"),
            ("oss.secretKey", "secret"),
            ("worker.enabled", "false"),
        ];
        let app = TestApp::with(db, &settings).await;
        cable.cut();
        let answer = app.api.get("/readyz").await;
        assert_eq!(answer.refused(503, 63, "unavailable").body["message"], "out of reach: the object storage");
        app.stop().await;
    })
    .await;
}
