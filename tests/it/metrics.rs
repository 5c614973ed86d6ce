//! `/metrics`: what it says, who may read it, and that it never waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::{TestDb, server},
        eventually::eventually,
        model::{FakeModel, Reply},
    },
};

/// The page: each line's name and labels, and its value.
async fn page(api: &Api) -> BTreeMap<String, f64> {
    let text = text(api).await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

pub(crate) async fn text(api: &Api) -> String {
    let answer = api.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    answer.body.as_str().unwrap().to_owned()
}

/// Waits until the page says so.
async fn until(api: &Api, sample: &str, value: f64) {
    eventually(&format!("{sample} {value}"), async || {
        let found = page(api).await.get(sample).copied();
        if found == Some(value) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// A service that has done some of everything: results, a retry, a failure, a full queue, one that waits.
pub(crate) async fn busy(db: &TestDb, settings: &[(&str, &str)]) -> (TestApp, FakeModel) {
    let app = TestApp::with(db, settings).await;
    let model = work(&app.api).await;
    (app, model)
}

/// Has a service do some of everything.
pub(crate) async fn work(api: &Api) -> FakeModel {
    let model = FakeModel::start(|call, _| match call.target.as_str() {
        "/good" => Reply::Body("application/json", r#"{"x":1}"#.into()),
        "/bad" => Reply::Status(500, Vec::new(), "oops".into()),
        _ => Reply::Hang,
    })
    .await;
    for (name, fields) in [
        ("good", json!({ "route": "good" })),
        ("bad", json!({ "route": "bad", "retryTimes": 1 })),
        ("slow", json!({ "route": "slow", "maxConcurrency": 1, "queueLimit": 2 })),
    ] {
        api.create_model(name, &model.url, &fields).await;
    }
    for (name, end) in [("good", 2), ("good", 2), ("bad", 3)] {
        let id = api.create_task(name, &json!({})).await;
        api.until(&id, &[end]).await;
        if end == 2 {
            api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
        }
    }
    let running = api.create_task("slow", &json!({})).await;
    api.until(&running, &[1]).await;
    api.create_task("slow", &json!({})).await;
    api.post("/task/createTask", &json!({ "modelName": "slow" })).await.refused(429, 63, "queue_full");
    model
}

const SETTINGS: [(&str, &str); 1] = [("server.shutdownGrace", "0s")];

backend_test!(the_page_tells_what_happened, async |db: &TestDb| {
    let (app, _model) = busy(db, &SETTINGS).await;
    until(&app.api, r#"model_asynch_lane_tasks{model_name="slow",state="queued",tenant_id="0"}"#, 1.0).await;
    until(&app.api, r#"model_asynch_dependency_up{dependency="worker"}"#, 1.0).await;
    let page = page(&app.api).await;
    for (sample, value) in [
        ("model_asynch_tasks_created_total", 5.0),
        (r#"model_asynch_tasks_finished_total{outcome="succeeded"}"#, 2.0),
        (r#"model_asynch_tasks_finished_total{outcome="failed"}"#, 1.0),
        ("model_asynch_tasks_retried_total", 1.0),
        ("model_asynch_tasks_queue_full_total", 1.0),
        ("model_asynch_tasks_picked_up_total", 2.0),
        (r#"model_asynch_model_calls_total{outcome="status_5xx"}"#, 2.0),
        ("model_asynch_model_call_seconds_count", 4.0),
        ("model_asynch_task_wait_seconds_count", 5.0),
        ("model_asynch_task_seconds_count", 3.0),
        ("model_asynch_upload_seconds_count", 2.0),
        ("model_asynch_result_bytes_total", 14.0),
        ("model_asynch_permits_held", 1.0),
        (r#"model_asynch_tasks{state="queued"}"#, 1.0),
        (r#"model_asynch_lane_tasks{model_name="slow",state="running",tenant_id="0"}"#, 1.0),
        (r#"model_asynch_lane_limit{model_name="slow",tenant_id="0"}"#, 1.0),
        (r#"model_asynch_lane_events_total{event="failed",model_name="bad",tenant_id="0"}"#, 1.0),
        (r#"model_asynch_dependency_up{dependency="database"}"#, 1.0),
        (r#"model_asynch_dependency_up{dependency="storage"}"#, 1.0),
        (r#"model_asynch_http_requests_total{method="POST",route="/task/createTask",status="429"}"#, 1.0),
        ("model_asynch_op_log_dropped_total", 0.0),
        ("model_asynch_stale_writes_total", 0.0),
    ] {
        assert_eq!(page.get(sample), Some(&value), "{sample}");
    }
    let count = |name: &str| page[&format!("model_asynch_commit_seconds_count{{work=\"{name}\"}}")];
    assert_eq!(count("enqueue"), 6.0, "the refused one took a transaction too");
    assert!(count("apply") >= 4.0 && count("claim") >= 5.0);
    assert!(page.keys().any(|sample| sample.starts_with("model_asynch_pool_connections{")));
    app.stop().await;
});

backend_test!(prometheus_finds_nothing_wrong_with_the_page, async |db: &TestDb| {
    let Some(promtool) = server("TEST_PROMTOOL") else { return };
    let (app, _model) = busy(db, &SETTINGS).await;
    let text = text(&app.api).await;
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stderr, b"", "{}", String::from_utf8_lossy(&output.stderr));
    app.stop().await;
});

backend_test!(only_who_may_reads_the_page, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false"), ("auth.mode", "gateway")]).await;
    app.api.get("/metrics").await.refused(401, 61, "unauthenticated");
    app.api.as_tenant(7, "ann").get("/metrics").await.refused(403, 62, "forbidden");
    let root = app.api.with_header("x-user-info", r#"{"tenantId":0,"userName":"root","admin":true}"#);
    assert_eq!(root.get("/metrics").await.status, 200);
    app.stop().await;

    let app = TestApp::with(db, &[("worker.enabled", "false"), ("metrics.token", "s3cret")]).await;
    app.api.get("/metrics").await.refused(401, 61, "unauthenticated");
    let wrong = app.api.with_header("authorization", "Bearer s3cre");
    wrong.get("/metrics").await.refused(401, 61, "unauthenticated");
    let prometheus = app.api.with_header("authorization", "Bearer s3cret");
    assert_eq!(prometheus.get("/metrics").await.status, 200);
    app.stop().await;
});

backend_test!(lanes_beyond_the_top_are_shown_as_one, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false"), ("metrics.topLanes", "2")]).await;
    app.api.create_model("m", "http://127.0.0.1:1", &json!({ "shared": true })).await;
    for tenant in 1..=4 {
        for _ in 0..tenant {
            app.api.as_tenant(tenant, "ann").create_task("m", &json!({})).await;
        }
    }
    until(&app.api, r#"model_asynch_lane_tasks{model_name="(rest)",state="queued",tenant_id="(rest)"}"#, 3.0).await;
    let page = page(&app.api).await;
    assert_eq!(page[r#"model_asynch_lane_tasks{model_name="m",state="queued",tenant_id="4"}"#], 4.0);
    assert_eq!(page[r#"model_asynch_lane_events_total{event="created",model_name="(rest)",tenant_id="(rest)"}"#], 7.0);
    let named: BTreeSet<&str> = page
        .keys()
        .filter(|sample| sample.starts_with("model_asynch_lane_tasks"))
        .filter_map(|s| s.split("tenant_id=").nth(1))
        .collect();
    assert_eq!(named.len(), 3);
    app.stop().await;
});

backend_test!(a_scrape_waits_for_no_dependency, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let mut raw = crate::support::raw::Raw::connect(db).await;
    until(&app.api, r#"model_asynch_tasks{state="queued"}"#, 0.0).await;
    // Nothing can be counted any more, as if it took for ever.
    raw.execute("ALTER TABLE asynch_task RENAME TO asynch_task_gone").await;
    let began = std::time::Instant::now();
    eventually("the queues to be unknown", async || {
        let page = page(&app.api).await;
        if page.contains_key("model_asynch_lanes") { Err("still known") } else { Ok(()) }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let began = std::time::Instant::now();
    assert!(page(&app.api).await.contains_key("model_asynch_tasks_created_total"));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    app.stop().await;
});
