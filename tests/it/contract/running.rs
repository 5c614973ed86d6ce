//! Contract §9 and §10: the binary with its configuration, its log, and its neighbours.

use std::{collections::HashSet, process::Command};

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, environment, free_address},
        backend::{Kind, TestDb, on},
        eventually::until,
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

const JSON: (&str, &str) = ("log.format", "json");

/// Every line of a node's log, parsed.
fn lines(node: &Node) -> Vec<Value> {
    let log = std::fs::read_to_string(&node.log).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Asserts that every line about a task has all four fields, and that each of the tasks has lines.
fn every_line_about_a_task_says_whose(lines: &[Value], tasks: &[(&str, &str)]) {
    let mut seen = HashSet::new();
    for line in lines.iter().filter(|line| line.to_string().contains("task_id")) {
        for field in ["task_id", "tenant_id", "model_name", "attempt", "timestamp", "level", "message"] {
            assert!(!line[field].is_null(), "{field} is missing: {line}");
        }
        seen.insert((line["task_id"].as_str().unwrap(), line["model_name"].as_str().unwrap()));
    }
    for task in tasks {
        assert!(seen.contains(task), "no line about {task:?}");
    }
}

backend_test!(every_line_about_a_task_carries_task_tenant_model_and_attempt, async |db: &TestDb| {
    let files = FakeModel::start(|_, before| match before {
        0 => Reply::Status(503, vec![], "full".into()),
        _ => Reply::Body("application/json", r#"{"url":"http://files/1"}"#.into()),
    })
    .await;
    let model = FakeModel::start(|call, before| match (call.text().as_str(), before) {
        ("\"fail\"", _) => Reply::Status(500, vec![], "line\nbreak {\"task_id\":\"fake\"}".into()),
        ("\"hang\"", _) => Reply::Hang,
        _ => Reply::Body("text/plain", "ok".into()),
    })
    .await;
    let settings = [JSON, ("oss.kind", "http"), ("oss.url", &files.url), ("server.shutdownGrace", "0s")];
    let mut node = Node::start(db, &settings).await;
    let ann = node.api.as_tenant(7, "ann");
    let id = ann.create_model("m", &model.url, &json!({ "retryTimes": 1 })).await;
    let done = ann.create_task("m", &json!("ok")).await;
    let failed = ann.create_task("m", &json!("fail")).await;
    ann.until(&done, &[2]).await;
    ann.until(&failed, &[3]).await;
    let hangs = ann.create_task("m", &json!("hang")).await;
    until("the call", async || model.running() == 1).await;
    ann.put("/model/updateModel", &json!({ "id": id, "enabled": 0 })).await.data();
    let dropped = "m";
    node.signal("TERM");
    assert_eq!(node.exit_code().await, Some(0));
    let lines = lines(&node);
    every_line_about_a_task_says_whose(&lines, &[(&done, dropped), (&failed, dropped), (&hangs, dropped)]);
    let attempts: HashSet<String> = lines
        .iter()
        .filter(|line| line["task_id"] == failed.as_str())
        .map(|line| line["attempt"].to_string().trim_matches('"').to_owned())
        .collect();
    assert_eq!(attempts, HashSet::from(["1".to_owned(), "2".to_owned()]));
    assert!(lines.iter().all(|line| line["tenant_id"].is_null() || line["tenant_id"] == "7"), "of one tenant only");
});

backend_test!(lines_about_lost_attempts_say_whose_they_are, async |db: &TestDb| {
    let settings = [JSON, ("worker.leaseSeconds", "2"), ("worker.maxLostAttempts", "1")];
    let model = FakeModel::always(Reply::Hang).await;
    let mut node = Node::start(db, &settings).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    until("the call", async || model.running() == 1).await;
    node.kill();
    let node = Node::start(db, &settings).await;
    node.api.until(&id, &[3]).await;
    // Written after the row is, which is what the task shows.
    until("the line", async || lines(&node).iter().any(|line| line["task_id"] == id)).await;
    every_line_about_a_task_says_whose(&lines(&node), &[(&id, "m")]);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_share_one_schema_and_one_queue() {
    on(Kind::Postgres, async |db: &TestDb| {
        let starting = (0..3).map(|_| Node::start(db, &[]));
        let nodes = futures::future::join_all(starting).await;
        let model = FakeModel::echo().await;
        nodes[0].api.create_model("m", &model.url, &json!({})).await;
        for node in &nodes {
            let id = node.api.create_task("m", &json!(1)).await;
            for other in &nodes {
                other.api.until(&id, &[2]).await;
            }
        }
        let run = Raw::connect(db).await.texts("SELECT version::text FROM _sqlx_migrations ORDER BY version").await;
        let unique: HashSet<&String> = run.iter().collect();
        assert!(!run.is_empty() && unique.len() == run.len(), "{run:?}");
    })
    .await;
}

backend_test!(migrate_prepares_the_database_that_serve_then_finds, async |db: &TestDb| {
    for _ in 0..2 {
        let output = Command::new(env!("CARGO_BIN_EXE_model-asynch"))
            .arg("migrate")
            .current_dir(db.dir())
            .env_clear()
            .envs(environment(db, &free_address(), &[]))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(Raw::connect(db).await.texts("SELECT model_name FROM asynch_models").await, Vec::<String>::new());
    let node = Node::start(db, &[]).await;
    assert_eq!(node.api.get("/healthz").await.status, 200);
});

backend_test!(the_environment_is_read_in_every_style, async |db: &TestDb| {
    let address = free_address();
    let secret = db.dir().join("gateway-secret");
    std::fs::write(&secret, "from-a-file\n").unwrap();
    std::fs::write(db.dir().join("config.yml"), "server:\n  maxBodyBytes: 1500\nauth:\n  mode: anonymous\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_model-asynch"))
        .arg("check-config")
        .current_dir(db.dir())
        .env_clear()
        .envs(environment(db, &address, &[]))
        .env("MODEL_ASYNCH__AUTH__MODE", "gateway")
        .env("MODEL_ASYNCH__AUTH__GATEWAY_SECRET__FILE", &secret)
        .env("MODEL_ASYNCH__WORKER__LEASE_SECONDS", "7")
        .env("MODEL_ASYNCH__CLEANER__UNCLAIMEDSECONDS", "8")
        .env("model_asynch__worker__max_result_bytes", "9")
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{errors}");
    for line in [
        format!("server.address: \"{address}\""),
        "server.maxBodyBytes: 1500".into(),
        "auth.mode: \"gateway\"".into(),
        "auth.gatewaySecret: ****".into(),
        "worker.leaseSeconds: 7".into(),
        "cleaner.unclaimedSeconds: 8".into(),
        "worker.maxResultBytes: 9".into(),
    ] {
        assert!(said.lines().any(|shown| shown.starts_with(&line)), "{line} is not in\n{said}");
    }
    assert!(!said.contains("from-a-file"), "{said}");
});

backend_test!(the_openapi_command_prints_the_document_that_is_served, async |db: &TestDb| {
    let output = Command::new(env!("CARGO_BIN_EXE_model-asynch")).arg("openapi").env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let node = Node::start(db, &[("worker.enabled", "false")]).await;
    assert_eq!(node.api.get("/openapi.json").await.body, printed);
});
