//! Contract §4: what callers see of a task in each state, and picking results up.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::TestDb,
        eventually::{eventually, until},
        model::{FakeModel, Reply},
        raw::Raw,
    },
};

/// Every field of a task, in the order of the contract.
const FIELDS: [&str; 19] = [
    "taskId",
    "tenantId",
    "creator",
    "modelName",
    "bizName",
    "state",
    "phase",
    "ossFile",
    "fileType",
    "fileSize",
    "errorMsg",
    "retryCount",
    "inputRef",
    "requestPayload",
    "createdAt",
    "enqueueAt",
    "startedAt",
    "finishedAt",
    "expireAt",
];

fn time(value: &Value) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().to_utc()
}

backend_test!(a_task_has_the_same_fields_in_every_state, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| match call.text().as_str() {
        "400" => Reply::Status(400, vec![], "no".into()),
        _ => Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into()))),
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1, "autoCleanSeconds": 100 })).await;
    let failed = app.api.create_task("m", &json!(400)).await;
    let last = app.api.until(&failed, &[3]).await;
    assert_eq!(time(&last["expireAt"]) - time(&last["finishedAt"]), chrono::Duration::seconds(100));
    let running = app.api.create_task("m", &json!(1)).await;
    app.api.until(&running, &[1]).await;
    let queued = app.api.create_task("m", &json!(2)).await;
    let mut seen = vec![last, app.api.task(&running).await, app.api.task(&queued).await];
    model.release(1);
    seen.push(app.api.until(&running, &[2]).await);
    app.api.post("/task/getTaskBatch", &json!({ "taskIds": [running] })).await.data();
    seen.push(app.api.task(&running).await);
    seen.extend(app.api.post("/task/listTask", &json!({})).await.data()["list"].as_array().unwrap().clone());
    let states: Vec<i64> = seen.iter().take(5).map(|task| task["state"].as_i64().unwrap()).collect();
    assert_eq!(states, [3, 1, 0, 2, 4]);
    for task in &seen {
        let fields: Vec<&String> = task.as_object().unwrap().keys().collect();
        assert_eq!(fields, FIELDS, "{task}");
        assert_eq!(task["finishedAt"].is_string(), task["state"].as_i64().unwrap() >= 2, "{task}");
    }
    for state in [2, 3, 4, 5] {
        let list = app.api.post("/task/listTask", &json!({ "state": state })).await.data()["list"].clone();
        assert!(list.as_array().unwrap().iter().all(|task| task["state"] == state), "{list}");
        assert_eq!(list.as_array().unwrap().len(), usize::from(state == 3 || state == 4));
    }
    model.release(1);
    app.stop().await;
});

backend_test!(a_pickup_starts_the_time_a_task_is_kept_and_later_ones_change_nothing, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    let id = app.api.create_model("m", &model.url, &json!({ "autoCleanSeconds": 5 })).await;
    let task = app.api.create_task("m", &json!(1)).await;
    app.api.until(&task, &[2]).await;
    app.api.put("/model/updateModel", &json!({ "id": id, "autoCleanSeconds": 1000 })).await.data();
    let pick_up =
        async || app.api.post("/task/getTaskBatch", &json!({ "taskIds": [task] })).await.data()["list"][0].clone();

    let before = app.api.task(&task).await;
    assert!(before["expireAt"].is_null());
    assert_eq!(app.api.task(&task).await, before, "looking at it changes nothing");
    let began = Utc::now();
    let first = pick_up().await;
    let ended = Utc::now();
    let picked = app.api.task(&task).await;
    let kept_from = time(&picked["expireAt"]) - chrono::Duration::seconds(1000);
    let slack = chrono::Duration::milliseconds(5);
    assert!(began - slack <= kept_from && kept_from <= ended + slack, "{began} {kept_from} {ended}");
    let mut second = pick_up().await;
    assert_eq!((&first["state"], &second["state"]), (&json!(2), &json!(4)));
    second["state"] = json!(2);
    assert_eq!(second, first, "but for the state it is the same answer");
    assert_eq!(app.api.task(&task).await, picked);
    app.stop().await;
});

backend_test!(pickups_at_once_all_get_the_file, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(app.api.create_task("m", &json!(n)).await);
    }
    for id in &ids {
        app.api.until(id, &[2]).await;
    }
    // Half of them ask backwards: no two orders may wait for each other for ever.
    let mut backwards = ids.clone();
    backwards.reverse();
    let asks = (0..16).map(|n| {
        let body = json!({ "taskIds": if n % 2 == 0 { &ids } else { &backwards } });
        let api = app.api.clone();
        async move { api.post("/task/getTaskBatch", &body).await.data() }
    });
    let answers = futures::future::join_all(asks).await;
    for id in &ids {
        let results: Vec<&Value> = answers
            .iter()
            .map(|answer| answer["list"].as_array().unwrap().iter().find(|result| result["taskId"] == *id).unwrap())
            .collect();
        assert!(results.iter().all(|result| !result["ossFile"].as_str().unwrap().is_empty()));
        assert!(results.iter().any(|result| result["state"] == 2), "one of them turned 2 into 4");
    }
    let later = app.api.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await.data();
    assert!(later["list"].as_array().unwrap().iter().all(|result| result["state"] == 4), "{later}");
    app.stop().await;
});

backend_test!(a_batch_shows_what_is_not_finished_and_leaves_it_alone, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| match call.text().as_str() {
        "400" => Reply::Status(400, vec![], "no".into()),
        _ => Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into()))),
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
    let failed = app.api.create_task("m", &json!(400)).await;
    app.api.until(&failed, &[3]).await;
    let running = app.api.create_task("m", &json!(1)).await;
    app.api.until(&running, &[1]).await;
    let queued = app.api.create_task("m", &json!(2)).await;
    let ids = json!([queued, failed, "", running, "'", "\u{0}"]);
    for _ in 0..2 {
        let batch = app.api.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await.data();
        let seen: Vec<(&str, i64)> = batch["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| (result["taskId"].as_str().unwrap(), result["state"].as_i64().unwrap()))
            .collect();
        assert_eq!(seen, [(queued.as_str(), 0), (failed.as_str(), 3), (running.as_str(), 1)]);
        assert!(batch["list"][1]["errorMsg"].as_str().unwrap().contains("400"));
        assert_eq!(batch["missing"], json!(["", "'", "\u{0}"]));
    }
    model.release(2);
    app.api.until(&queued, &[2]).await;
    app.stop().await;
});

backend_test!(a_task_id_is_a_uuid_of_version_7_and_its_row_is_there_before_the_answer, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    app.api.create_model("m", "http://m", &json!({})).await;
    let mut raw = Raw::connect(db).await;
    let column = if db.kind() == crate::support::backend::Kind::Postgres { "task_id::text" } else { "task_id" };
    for _ in 0..10 {
        let id = app.api.create_task("m", &Value::Null).await;
        let uuid = uuid::Uuid::parse_str(&id).unwrap();
        assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string()), (7, id.clone()));
        let found = raw.texts(format!("SELECT {column} FROM asynch_task WHERE {column} = '{id}'")).await;
        assert_eq!(found, [id]);
    }
    app.stop().await;
});

backend_test!(a_date_in_retry_after_is_the_floor_of_the_rest, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = times.clone();
    let model = FakeModel::start(move |_, before| {
        seen.lock().unwrap().push(std::time::Instant::now());
        // Whole seconds on the wire: between two and three from now.
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
        match before {
            0 => Reply::Status(429, vec![("retry-after", date)], "busy".into()),
            _ => Reply::Body("text/plain", "ok".into()),
        }
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 1 })).await;
    let task = app.api.create_task("m", &Value::Null).await;
    let done = app.api.until(&task, &[2]).await;
    assert_eq!(done["retryCount"], 1);
    let times = times.lock().unwrap().clone();
    let rest = times[1] - times[0];
    // Without the date the first retry would rest for a second at most.
    assert!(rest > Duration::from_millis(1900) && rest < Duration::from_secs(10), "{rest:?}");
    app.stop().await;
});

backend_test!(a_payload_of_the_largest_size_comes_through_and_a_larger_one_is_refused, async |db: &TestDb| {
    let app = TestApp::with(db, &[("server.maxBodyBytes", "2000000")]).await;
    let model = FakeModel::start(|call, _| Reply::Body("text/plain", call.body.len().to_string().into())).await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let task = app.api.create_task("m", &json!("x".repeat(1_900_000))).await;
    let done = app.api.until(&task, &[2]).await;
    assert_eq!(app.api.fetch(done["ossFile"].as_str().unwrap()).await, b"1900002");
    let larger = json!({ "modelName": "m", "requestPayload": "x".repeat(2_000_000) });
    app.api.post("/task/createTask", &larger).await.refused(413, 66, "too_large");
    app.stop().await;
});

backend_test!(the_headers_kept_for_a_file_service_are_sealed, async |db: &TestDb| {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode([9; 32]);
    let files = FakeModel::always(Reply::Status(503, vec![], String::new())).await;
    let settings = [("secrets.key", key.as_str()), ("oss.kind", "http"), ("oss.url", &files.url)];
    let app = TestApp::with(db, &settings).await;
    let model = FakeModel::echo().await;
    let api = app.api.with_header("authorization", "Bearer callers-own");
    api.create_model("m", &model.url, &json!({})).await;
    let task = api.create_task("m", &json!(1)).await;
    until("an upload", async || !files.calls().is_empty()).await;
    assert_eq!(files.calls()[0].header("authorization"), "Bearer callers-own");
    let kept = eventually("the row", async || {
        let rows = Raw::connect(db).await.texts("SELECT caller_headers FROM asynch_task").await;
        rows.first().cloned().ok_or("none")
    })
    .await;
    assert!(!kept.is_empty() && !kept.contains("callers-own"), "{kept}");
    assert!(!api.task(&task).await.to_string().contains("callers-own"));
    app.stop().await;
});
