//! Contract §5: failures of the call, what is tried again, when, and what is told and counted.

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

fn ok() -> Reply {
    Reply::Body("text/plain", "ok".into())
}

fn status(code: u16) -> Reply {
    Reply::Status(code, vec![], format!("told you {code}"))
}

async fn stats(api: &Api, model: &str) -> Value {
    api.post("/stat/listModelStat", &json!({ "modelName": model })).await.data()["list"][0].clone()
}

backend_test!(a_failed_call_is_tried_again_and_every_real_call_is_counted, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|_, before| if before < 2 { status(500) } else { ok() }).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 2 })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    let waiting = app.api.until(&id, &[0]).await;
    let done = app.api.until(&id, &[2, 3]).await;
    assert_eq!(
        (&done["state"], &done["retryCount"], &done["errorMsg"]),
        (&json!(2), &json!(2), &json!("")),
        "{waiting}"
    );
    let attempts: Vec<String> = model.calls().iter().map(|call| call.header("x-task-attempt").to_owned()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    let stat = stats(&app.api, "m").await;
    let counts = [&stat["requestCount"], &stat["successCount"], &stat["failureCount"], &stat["resultBytes"]];
    assert_eq!(counts, [&json!(3), &json!(1), &json!(2), &json!(2)], "{stat}");
    assert!(stat["totalSeconds"].as_f64().unwrap() > 0.0);
    assert_eq!((&stat["tenantId"], &stat["creator"]), (&json!("0"), &json!("anonymous")));
    app.stop().await;
});

backend_test!(the_timeline_of_a_task_has_every_attempt, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|_, before| if before < 1 { status(500) } else { status(400) }).await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("m", &model.url, &json!({ "retryTimes": 2 })).await;
    let id = ann.create_task("m", &Value::Null).await;
    ann.until(&id, &[3]).await;
    let attempts = ann.post("/task/listAttempt", &json!({ "taskId": id })).await.data();
    let list = attempts["list"].as_array().unwrap();
    assert_eq!(list.len(), 2, "{attempts}");
    for (number, (attempt, told)) in list.iter().zip(["told you 500", "told you 400"]).enumerate() {
        assert_eq!((&attempt["attempt"], &attempt["outcome"]), (&json!(number + 1), &json!("failed")));
        assert!(attempt["error"].as_str().unwrap().contains(told), "{attempt}");
        assert!(attempt["startedAt"].as_str() <= attempt["endedAt"].as_str() && attempt["node"].is_string());
        assert!(attempt["seconds"].as_f64().unwrap() >= 0.0);
    }
    let unknown = json!({ "taskId": "01970000-0000-7000-8000-000000000001" });
    ann.post("/task/listAttempt", &unknown).await.refused(404, 65, "not_found");
    ann.post("/task/listAttempt", &json!({ "taskId": "x" })).await.refused(404, 65, "not_found");
    app.api.as_tenant(8, "bob").post("/task/listAttempt", &json!({ "taskId": id })).await.refused(404, 65, "not_found");
    app.stop().await;
});

backend_test!(a_task_that_rests_shows_its_last_failure, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Status(503, vec![("retry-after", "60".into())], "busy".into())).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 1 })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    let resting = crate::support::eventually::eventually("the first failure", async || {
        let task = app.api.task(&id).await;
        if task["retryCount"] == 1 { Ok(task) } else { Err(task) }
    })
    .await;
    assert_eq!(resting["state"], 0);
    assert!(resting["errorMsg"].as_str().unwrap().contains("503"), "{resting}");
    let enqueue_at = chrono::DateTime::parse_from_rfc3339(resting["createdAt"].as_str().unwrap()).unwrap();
    assert!(resting["enqueueAt"].as_str().unwrap().starts_with(&enqueue_at.format("%Y-%m-%dT%H:").to_string()));
    assert_eq!(model.calls().len(), 1, "it rests for as long as the model asked");
    app.stop().await;
});

backend_test!(requests_at_fault_are_not_repeated, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| status(call.text().parse().unwrap())).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 5 })).await;
    let codes = [400, 401, 403, 404, 405, 410, 413, 415, 422];
    for code in codes {
        let id = app.api.create_task("m", &json!(code)).await;
        let failed = app.api.until(&id, &[3]).await;
        assert_eq!(failed["retryCount"], 0);
        let message = failed["errorMsg"].as_str().unwrap();
        assert!(message.contains(&code.to_string()) && message.contains(&format!("told you {code}")), "{message}");
        assert!(failed["finishedAt"].is_string());
    }
    assert_eq!(model.calls().len(), codes.len());
    app.stop().await;
});

backend_test!(every_kind_of_failure_ends_in_state_3_with_a_reason, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.maxResultBytes", "1000")]).await;
    let cases = [
        ("empty", Reply::Body("text/plain", "".into()), "without a body"),
        ("hang", Reply::Hang, "did not answer within 1 s"),
        ("break", Reply::Break, "connection"),
        ("large", Reply::Stream(2000), "larger than 1000 bytes"),
        ("redirect", Reply::Status(302, vec![("location", "http://127.0.0.1:1/".into())], String::new()), "302"),
    ];
    let mut tasks = Vec::new();
    for (name, reply, reason) in cases {
        let model = FakeModel::always(reply).await;
        app.api.create_model(name, &model.url, &json!({ "timeoutSeconds": 1 })).await;
        tasks.push((app.api.create_task(name, &Value::Null).await, reason));
    }
    app.api.create_model("nobody", "http://127.0.0.1:1", &json!({})).await;
    tasks.push((app.api.create_task("nobody", &Value::Null).await, "could not connect"));
    for (id, reason) in tasks {
        let failed = app.api.until(&id, &[3]).await;
        assert!(failed["errorMsg"].as_str().unwrap().contains(reason), "{reason}: {failed}");
    }
    let first = stats(&app.api, "hang").await;
    assert_eq!((&first["requestCount"], &first["failureCount"]), (&json!(1), &json!(1)));
    app.stop().await;
    assert_eq!(db.parked_files(), 0, "nothing half-written is left");
});

backend_test!(the_reason_is_cut_and_the_models_own_key_is_masked, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| {
        Reply::Status(400, vec![], format!("bad key {} \0 {}", call.header("authorization"), "é".repeat(600)))
    })
    .await;
    app.api.create_model("m", &model.url, &json!({ "apiKey": "Authorization:Bearer sk-verysecret" })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    let failed = app.api.until(&id, &[3]).await;
    let message = failed["errorMsg"].as_str().unwrap();
    assert!(!message.contains("verysecret") && message.contains("****"), "{message}");
    assert!(message.chars().count() < 560, "{}", message.chars().count());
    app.stop().await;
});

backend_test!(a_retry_goes_to_the_head_or_to_the_tail_as_the_model_says, async |db: &TestDb| {
    for (queue_max, expected) in [(0, ["retried", "other"]), (3600, ["other", "retried"])] {
        let app = TestApp::start(db).await;
        // The first call fails; the second one holds the only permit until both wait behind it.
        let model = FakeModel::start(|call, before| match before {
            0 => status(500),
            1 => Reply::Gated(Box::new(ok())),
            _ => Reply::Body("text/plain", call.body.clone()),
        })
        .await;
        let name = format!("m{queue_max}");
        let fields = json!({ "maxConcurrency": 1, "retryTimes": 1, "retryQueueMaxSeconds": queue_max });
        app.api.create_model(&name, &model.url, &fields).await;
        let retried = app.api.create_task(&name, &json!("retried")).await;
        let blocker = app.api.create_task(&name, &json!("blocker")).await;
        app.api.until(&blocker, &[1]).await;
        let other = app.api.create_task(&name, &json!("other")).await;
        // Claimable again when its rest is over; its place shows which end it went to.
        let mut raw = Raw::connect(db).await;
        let rested = format!(
            "SELECT model_name FROM asynch_task WHERE retry_count = 1 AND due_at IS NULL AND model_name = '{name}'"
        );
        crate::support::eventually::until("its rest to be over", async || !raw.texts(rested.clone()).await.is_empty())
            .await;
        model.release(1);
        for id in [&retried, &blocker, &other] {
            app.api.until(id, &[2]).await;
        }
        let order: Vec<String> = model.calls()[2..].iter().map(|call| call.text().replace('"', "")).collect();
        assert_eq!(order, expected, "retryQueueMaxSeconds {queue_max}");
        app.stop().await;
    }
});
