//! Traces: what a collector is told of a task, on whichever nodes it lived.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use model_asynch::config::Database;
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp, free_address},
        backend::{Kind, TestDb, on},
        collector::{Collector, Span},
        eventually::until,
        model::{FakeModel, Reply},
    },
};

const LEASE: (&str, &str) = ("worker.leaseSeconds", "2");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The only span of that name, and of that attempt unless that is empty.
fn the<'a>(spans: &'a [Span], name: &str, attempt: &str) -> &'a Span {
    let is_it =
        |span: &&Span| span.name() == name && (attempt.is_empty() || span.attribute("model_asynch.attempt") == attempt);
    let found: Vec<&Span> = spans.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{name} of attempt {attempt:?}: {found:?}");
    found[0]
}

backend_test!(one_trace_tells_of_a_task_from_its_creation_to_its_pickup, async |db: &TestDb| {
    let Some(collector) = Collector::start().await else { return };
    let app = TestApp::with(db, &[("telemetry.otlpEndpoint", &collector.url)]).await;
    let model = FakeModel::start(|_, before| match before {
        0 => Reply::Status(503, vec![], "a secret of the model".to_owned()),
        _ => Reply::Body("text/plain", "ok".into()),
    })
    .await;
    let fields = json!({ "retryTimes": 2, "apiKey": "X-Key:hush-hush", "route": "run?key=hush-hush" });
    app.api.create_model("tts", &model.url, &fields).await;
    let traced = app.api.with_header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let id = traced.create_task("tts", &json!({ "text": "a private letter" })).await;
    app.api.until(&id, &[2]).await;
    app.api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
    app.api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();

    let spans = collector.trace(TRACE, "pickup", 1).await;
    let created = the(&spans, "POST /task/createTask", "");
    assert_eq!(created.parent(), "00f067aa0ba902b7", "the caller's span");
    assert_eq!(created.attribute("http.response.status_code"), "200");
    assert_eq!(created.attribute("messaging.message.id"), id);
    for name in ["wait", "backoff", "pickup"] {
        assert_eq!(the(&spans, name, "").parent(), created.id(), "{name}");
    }
    for (attempt, steps) in [("1", ["call", "finish"].as_slice()), ("2", &["call", "park", "upload", "finish"])] {
        let process = the(&spans, "process", attempt);
        assert_eq!((process.parent(), process.failed()), (created.id(), attempt == "1"));
        assert_eq!(process.attribute("messaging.destination.name"), "tts");
        for step in steps {
            let step = the(&spans, step, attempt);
            assert_eq!((step.parent(), step.attribute("model_asynch.task_id")), (process.id(), id.clone()));
            assert_eq!(step.attribute("model_asynch.tenant_id"), "0");
            let (began, ended) = step.times();
            assert!(process.times().0 <= began && began <= ended && ended <= process.times().1, "{step:?}");
        }
        let call = the(&spans, "call", attempt);
        let told = model.calls()[attempt.parse::<usize>().unwrap() - 1].header("traceparent").to_owned();
        assert_eq!(told, format!("00-{TRACE}-{}-01", call.id()), "what the model was told");
        let (status, error) = if attempt == "1" { ("503", "503") } else { ("200", "") };
        assert_eq!(call.attribute("http.response.status_code"), status);
        assert_eq!((call.attribute("error.type").as_str(), call.failed()), (error, attempt == "1"));
        assert_eq!(call.attribute("url.full"), format!("{}/run", model.url));
    }
    assert_eq!(spans.len(), 12, "{:?}", spans.iter().map(Span::name).collect::<Vec<_>>());

    // Whoever picks up many is in a trace of its own, linked both ways; asking again leaves none.
    let (trace, span) = the(&spans, "pickup", "").links()[0].clone();
    let requests = collector.trace(&trace, "POST /task/getTaskBatch", 1).await;
    let request = the(&requests, "POST /task/getTaskBatch", "");
    assert_eq!((request.id(), request.parent()), (span.as_str(), ""));
    assert_eq!(request.links(), [(TRACE.to_owned(), created.id().to_owned())]);

    let unsampled = app.api.with_header("traceparent", "00-11111111111111111111111111111111-00f067aa0ba902b7-00");
    let id = unsampled.create_task("tts", &Value::Null).await;
    app.api.until(&id, &[2]).await;
    assert!(model.calls()[2].header("traceparent").starts_with("00-11111111111111111111111111111111-"));
    assert!(model.calls()[2].header("traceparent").ends_with("-00"));
    app.stop().await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| !span.trace().starts_with("1111")), "its caller does not want it recorded");
    assert_eq!(spans.iter().filter(|span| span.name() == "POST /task/getTaskBatch").count(), 1);
    for word in ["private letter", "hush", "secret of the model"] {
        assert!(spans.iter().all(|span| !span.all().contains(word)), "{word}");
    }
});

backend_test!(a_task_keeps_its_trace_over_nodes_and_over_the_death_of_one, async |db: &TestDb| {
    let Some(collector) = Collector::start().await else { return };
    let works = Arc::new(AtomicBool::new(false));
    let switch = works.clone();
    let files = FakeModel::start(move |_, _| match switch.load(Ordering::SeqCst) {
        true => Reply::Body("application/json", r#"{"url":"http://files/1"}"#.into()),
        false => Reply::Status(500, vec![], String::new()),
    })
    .await;
    let model = FakeModel::always(Reply::Body("text/plain", "expensive".into())).await;
    let mut settings = vec![LEASE, ("oss.kind", "http"), ("oss.url", files.url.as_str())];
    settings.extend([("telemetry.otlpEndpoint", collector.url.as_str()), ("log.format", "json")]);
    let mut back = Node::start(db, &settings).await;
    let front = match db.config {
        Database::Postgres { .. } => {
            let front = [settings.as_slice(), &[("worker.enabled", "false"), ("cleaner.enabled", "false")]].concat();
            Some(Node::start(db, &front).await)
        }
        // One process has it.
        Database::Sqlite { .. } => None,
    };
    let api = |back: &Node| front.as_ref().unwrap_or(back).api.clone();
    api(&back).create_model("m", &model.url, &json!({})).await;
    let id = api(&back).create_task("m", &Value::Null).await;
    let trace = id.replace('-', "");
    until("the result to be parked", async || api(&back).task(&id).await["phase"] == 1).await;
    collector.trace(&trace, "park", 1).await;
    back.kill();
    let log = std::fs::read_to_string(&back.log).unwrap();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_task: Vec<&Value> = lines.iter().filter(|line| line["task_id"] == json!(id)).collect();
    assert!(!of_task.is_empty() && of_task.iter().all(|line| line["trace_id"] == json!(trace)), "{log}");

    works.store(true, Ordering::SeqCst);
    let back = Node::start(db, &settings).await;
    api(&back).until(&id, &[2]).await;
    api(&back).post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
    collector.trace(&trace, "process", 1).await;
    let spans = collector.trace(&trace, "pickup", 1).await;
    let created = the(&spans, "POST /task/createTask", "");
    assert_eq!(created.parent(), "", "a trace of its own, named like the task");
    let process = the(&spans, "process", "1");
    assert_eq!((process.parent(), process.attribute("model_asynch.adopted").as_str()), (created.id(), "true"));
    for step in ["call", "park", "finish"] {
        assert_eq!(the(&spans, step, "1").parent(), process.id(), "{step}");
    }
    let uploads: Vec<&Span> = spans.iter().filter(|span| span.name() == "upload").collect();
    assert!(uploads.iter().all(|upload| upload.parent() == process.id()));
    assert!(uploads.iter().any(|upload| upload.failed()) && uploads.iter().any(|upload| !upload.failed()));
    let call = the(&spans, "call", "1");
    assert_eq!(model.calls()[0].header("traceparent"), format!("00-{trace}-{}-01", call.id()));
    assert!(process.times().0 <= call.times().0 + 1_000_000_000, "it began when its first node claimed it");
});

backend_test!(an_attempt_that_died_with_its_worker_is_told_of_by_whoever_finds_out, async |db: &TestDb| {
    let Some(collector) = Collector::start().await else { return };
    let model = FakeModel::start(|_, before| match before {
        0 => Reply::Hang,
        _ => Reply::Body("text/plain", "ok".into()),
    })
    .await;
    let settings = [LEASE, ("telemetry.otlpEndpoint", collector.url.as_str())];
    let mut node = Node::start(db, &settings).await;
    node.api.create_model("m", &model.url, &json!({})).await;
    let id = node.api.create_task("m", &Value::Null).await;
    let trace = id.replace('-', "");
    until("the call", async || model.calls().len() == 1).await;
    node.kill();
    let mut node = Node::start(db, &settings).await;
    node.api.until(&id, &[2]).await;
    node.signal("TERM");
    assert_eq!(node.exit_code().await, Some(0));
    let spans = collector.trace(&trace, "process", 2).await;
    let lost = the(&spans, "process", "1");
    assert!(lost.failed() && lost.attribute("error.type") == "lost", "{lost:?}");
    assert!(!the(&spans, "process", "2").failed(), "flushed at the end");
    assert!(model.calls()[0].header("traceparent").starts_with(&format!("00-{trace}-")));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_slow_costs_no_task_and_is_logged_once() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let silent = FakeModel::always(Reply::Hang).await;
        let model = FakeModel::echo().await;
        for collector in [format!("http://{}", free_address()), silent.url.clone()] {
            let mut node = Node::start(db, &[("telemetry.otlpEndpoint", &collector)]).await;
            if model.calls().is_empty() {
                node.api.create_model("m", &model.url, &json!({})).await;
            }
            for _ in 0..20 {
                let id = node.api.create_task("m", &Value::Null).await;
                node.api.until(&id, &[2]).await;
            }
            until("the outage to be noticed", async || {
                std::fs::read_to_string(&node.log).unwrap().contains("do not reach the collector")
            })
            .await;
            let id = node.api.create_task("m", &Value::Null).await;
            node.api.until(&id, &[2]).await;
            node.signal("TERM");
            assert_eq!(node.exit_code().await, Some(0));
            let log = std::fs::read_to_string(&node.log).unwrap();
            assert_eq!(log.matches("do not reach the collector").count(), 1, "{log}");
            assert!(!log.contains("did not stop in time"), "{log}");
        }
    })
    .await;
}
