//! Contract §4: tasks, as callers hand them in and look at them.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        model::FakeModel,
    },
};

const WITHOUT_WORKER: (&str, &str) = ("worker.enabled", "false");
const UNKNOWN: &str = "01970000-0000-7000-8000-000000000001";

async fn with_model(db: &TestDb) -> (TestApp, Api) {
    let app = TestApp::with(db, &[WITHOUT_WORKER]).await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("tts", "http://m", &json!({})).await;
    (app, ann)
}

backend_test!(a_task_is_shown_with_every_field, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    let body =
        json!({ "modelName": "tts", "bizName": "book", "inputRef": "s3://in", "requestPayload": { "a": [1.0, null] } });
    let id = ann.post("/task/createTask", &body).await.data()["taskId"].as_str().unwrap().to_owned();
    let mut task = ann.task(&id).await;
    let (created, enqueued) = (task["createdAt"].take(), task["enqueueAt"].take());
    for time in [&created, &enqueued] {
        let time = time.as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && &time[19..20] == ".", "{time}");
    }
    assert_eq!(
        task,
        json!({
            "taskId": id, "tenantId": "7", "creator": "ann", "modelName": "tts", "bizName": "book", "state": 0,
            "phase": 0, "ossFile": "", "fileType": "", "fileSize": 0, "errorMsg": "", "retryCount": 0,
            "inputRef": "s3://in", "requestPayload": { "a": [1.0, null] }, "createdAt": null, "enqueueAt": null,
            "startedAt": null, "finishedAt": null, "expireAt": null
        })
    );
    app.stop().await;
});

backend_test!(a_payload_may_be_any_json, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    for payload in [json!(1), json!("\u{0}\u{10ffff}"), json!([]), json!(false), json!({ "": null })] {
        let id = ann.create_task("tts", &payload).await;
        assert_eq!(ann.task(&id).await["requestPayload"], payload);
    }
    app.stop().await;
});

backend_test!(a_task_that_cannot_be_queued_is_refused, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    for (body, field) in [
        (json!({}), "modelName"),
        (json!({ "modelName": "" }), "modelName"),
        (json!({ "modelName": "a\0" }), "modelName"),
        (json!({ "modelName": "tts", "bizName": "x".repeat(129) }), "bizName"),
        (json!({ "modelName": "tts", "inputRef": 5 }), "inputRef"),
        (json!({ "modelName": "tts", "inputRef": "a\0" }), "inputRef"),
    ] {
        let answer = ann.post("/task/createTask", &body).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field);
    }
    let create = async |name: &str| ann.post("/task/createTask", &json!({ "modelName": name })).await;
    create("nothing").await.refused(404, 65, "not_found");
    ann.create_model("off", "http://m", &json!({ "enabled": 0 })).await;
    create("off").await.refused(409, 55, "conflict");
    let full = ann.create_model("full", "http://m", &json!({ "queueLimit": 1 })).await;
    create("full").await.data();
    let answer = create("full").await;
    answer.refused(429, 63, "queue_full");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    ann.put("/model/updateModel", &json!({ "id": full, "queueLimit": 2 })).await.data();
    create("full").await.data();
    app.stop().await;
});

backend_test!(a_batch_answers_in_the_order_asked_and_names_what_is_missing, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("m", &model.url, &json!({})).await;
    let done = ann.create_task("m", &json!({ "x": 1 })).await;
    ann.until(&done, &[2]).await;
    let ids = json!([UNKNOWN, done, "nonsense", done]);
    let first = ann.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await.data();
    assert_eq!(first["missing"], json!([UNKNOWN, "nonsense"]));
    let list = first["list"].as_array().unwrap();
    assert_eq!(list.len(), 2, "an id asked for twice is answered twice");
    assert_eq!((&list[0]["taskId"], &list[0]["state"], &list[0]["fileSize"]), (&json!(done), &json!(2), &json!(7)));
    assert_eq!(list[0], list[1]);
    let fields: Vec<&String> = list[0].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["taskId", "state", "ossFile", "fileType", "fileSize", "errorMsg"]);
    let second = ann.post("/task/getTaskBatch", &json!({ "taskIds": [done] })).await.data();
    assert_eq!((&second["list"][0]["state"], &second["list"][0]["ossFile"]), (&json!(4), &list[0]["ossFile"]));
    app.stop().await;
});

backend_test!(a_batch_has_one_to_a_thousand_ids, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    for ids in [json!([]), json!(vec!["x"; 1001]), json!([1]), json!("x"), Value::Null, json!([null])] {
        let answer = ann.post("/task/getTaskBatch", &json!({ "taskIds": ids })).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], "taskIds");
    }
    let most = ann.post("/task/getTaskBatch", &json!({ "taskIds": vec!["x"; 1000] })).await.data();
    assert_eq!(most["missing"].as_array().unwrap().len(), 1000);
    app.stop().await;
});

backend_test!(what_is_not_the_id_of_a_task_is_not_found, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    for id in [UNKNOWN, "nonsense", "", "%00", "1"] {
        ann.get(&format!("/task/getTaskResult?taskId={id}")).await.refused(404, 65, "not_found");
    }
    let none = ann.get("/task/getTaskResult").await;
    assert_eq!(none.refused(400, 51, "validation").body["error"]["field"], "taskId");
    app.stop().await;
});

backend_test!(tasks_are_listed_newest_first_and_filtered, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    ann.create_model("ocr", "http://m", &json!({})).await;
    let mut ids = Vec::new();
    for name in ["tts", "ocr", "tts"] {
        ids.push(ann.create_task(name, &Value::Null).await);
    }
    let list = async |filter: Value| {
        let data = ann.post("/task/listTask", &filter).await.data();
        let list = data["list"].as_array().unwrap();
        let ids: Vec<String> = list.iter().map(|task| task["taskId"].as_str().unwrap().to_owned()).collect();
        (ids, data["total"].as_i64().unwrap())
    };
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(list(json!({})).await, (newest_first, 3));
    assert_eq!(list(json!({ "page": { "pageNum": 3, "pageSize": 1 } })).await, (vec![ids[0].clone()], 3));
    assert_eq!(list(json!({ "modelName": "oc" })).await, (vec![ids[1].clone()], 1));
    assert_eq!(list(json!({ "taskId": ids[2][20..] })).await, (vec![ids[2].clone()], 1));
    assert_eq!(list(json!({ "state": 0, "modelName": "tts" })).await.1, 2);
    assert_eq!(list(json!({ "state": 3 })).await.1, 0);
    for (filter, field) in [
        (json!({ "state": 6 }), "state"),
        (json!({ "state": "0" }), "state"),
        (json!({ "taskId": "x".repeat(37) }), "taskId"),
        (json!({ "modelName": "a\0" }), "modelName"),
    ] {
        let answer = ann.post("/task/listTask", &filter).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field);
    }
    app.stop().await;
});

backend_test!(tasks_are_found_by_who_made_them_for_what_and_when, async |db: &TestDb| {
    let (app, ann) = with_model(db).await;
    let bob = app.api.as_tenant(7, "bob");
    for (api, biz) in [(&ann, "book"), (&ann, "news"), (&bob, "book")] {
        api.post("/task/createTask", &json!({ "modelName": "tts", "bizName": biz })).await.data();
    }
    let total = async |filter: Value| ann.post("/task/listTask", &filter).await.data()["total"].clone();
    assert_eq!(total(json!({ "creator": "ann" })).await, 2);
    assert_eq!(total(json!({ "bizName": "book", "creator": "bob" })).await, 1);
    assert_eq!(total(json!({ "createdFrom": "2020-01-01T00:00:00Z" })).await, 3);
    assert_eq!(total(json!({ "createdTo": "2020-01-01T00:00:00+08:00" })).await, 0);
    for (filter, field) in [
        (json!({ "createdFrom": "yesterday" }), "createdFrom"),
        (json!({ "createdFrom": "2026-01-02T00:00:00Z", "createdTo": "2026-01-01T00:00:00Z" }), "createdTo"),
        (json!({ "creator": "x".repeat(65) }), "creator"),
    ] {
        let answer = ann.post("/task/listTask", &filter).await;
        assert_eq!(answer.refused(400, 51, "validation").body["error"]["field"], field);
    }
    app.stop().await;
});
