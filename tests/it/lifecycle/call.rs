//! Contract §5, steps 1, 2, 3 and 5: the call that the model gets, and the result that comes of it.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::TestDb,
        model::{FakeModel, Reply},
    },
};

backend_test!(a_task_goes_from_queued_to_a_result_that_can_be_fetched, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model =
        FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/html", "RIFF\0\0\0\0WAVEfmt ".into())))).await;
    app.api.create_model("tts", &model.url, &json!({})).await;
    let id = app.api.create_task("tts", &json!({ "text": "hello" })).await;

    let running = app.api.until(&id, &[1]).await;
    assert_eq!(running["phase"], 0);
    assert_eq!(running["ossFile"], "");
    assert!(running["startedAt"].is_string() && running["finishedAt"].is_null() && running["expireAt"].is_null());

    model.release(1);
    let done = app.api.until(&id, &[2]).await;
    assert_eq!(done["fileType"], "wav", "the first bytes are believed, not the label");
    assert_eq!(done["fileSize"], 16);
    assert_eq!(done["errorMsg"], "");
    assert_eq!(done["retryCount"], 0);
    assert!(done["finishedAt"].is_string());
    assert_eq!(app.api.fetch(done["ossFile"].as_str().unwrap()).await, b"RIFF\0\0\0\0WAVEfmt ");
    assert_eq!(std::fs::read_dir(db.dir().join("tmp")).unwrap().count(), 1, "only this process's folder");
    app.stop().await;
    assert_eq!(db.parked_files(), 0, "the temp file is deleted");
});

backend_test!(the_model_gets_the_payload_to_the_letter_with_our_headers_and_its_own, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    let fields = json!({ "route": "/v1/run", "apiKey": "X-Key:\"a, b\",X-Flag=true" });
    app.api.create_model("m", &format!("{}/base/", model.url), &fields).await;
    let body = r#"{"modelName":"m","requestPayload":{"z":1.0,  "a":1e2, "text":"\u0000\u00e9"}}"#;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = app.api.request(reqwest::Method::POST, "/task/createTask").header("traceparent", trace);
    let answer = app.api.send(request.header("content-type", "application/json").body(body)).await;
    let id = answer.data()["taskId"].as_str().unwrap().to_owned();
    app.api.until(&id, &[2]).await;

    let call = &model.calls()[0];
    assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/base/v1/run"));
    assert_eq!(call.text(), r#"{"z":1.0,  "a":1e2, "text":"\u0000\u00e9"}"#);
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!((call.header("x-key"), call.header("x-flag")), ("a, b", "true"));
    assert_eq!((call.header("x-task-id"), call.header("idempotency-key")), (id.as_str(), id.as_str()));
    assert_eq!(call.header("x-task-attempt"), "1");
    assert!(call.header("traceparent").starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    assert_ne!(call.header("traceparent"), trace, "the call is a span of its own");
    app.stop().await;
});

backend_test!(the_body_is_the_payload_the_reference_both_or_an_empty_object, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let cases = [
        (json!({}), "{}"),
        (json!({ "requestPayload": null }), "{}"),
        (json!({ "inputRef": "oss://1" }), r#"{"inputRef":"oss://1"}"#),
        (json!({ "inputRef": "oss://1", "requestPayload": null }), r#"{"inputRef":"oss://1"}"#),
        (json!({ "inputRef": "oss://1", "requestPayload": { "a": 1 } }), r#"{"inputRef":"oss://1","a":1}"#),
        (json!({ "inputRef": "oss://1", "requestPayload": { "inputRef": "x" } }), r#"{"inputRef":"x"}"#),
        (json!({ "inputRef": "oss://1", "requestPayload": [1] }), "[1]"),
        (json!({ "requestPayload": "text" }), r#""text""#),
    ];
    for (mut body, expected) in cases {
        body["modelName"] = json!("m");
        let id = app.api.post("/task/createTask", &body).await.data()["taskId"].as_str().unwrap().to_owned();
        let done = app.api.until(&id, &[2, 3]).await;
        assert_eq!(done["state"], 2, "{body} -> {done}");
        let sent = model.calls().into_iter().find(|call| call.header("x-task-id") == id).unwrap().text();
        assert_eq!(sent, expected, "{body}");
    }
    app.stop().await;
});

backend_test!(a_model_called_with_get_gets_the_top_level_fields_as_its_query, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
    app.api.create_model("m", &model.url, &json!({ "httpMethod": "get", "route": "q?fixed=1" })).await;
    let id = app.api.create_task("m", &json!({ "text": "a b&c", "n": 1.5, "list": [1, 2] })).await;
    app.api.until(&id, &[2]).await;
    let call = &model.calls()[0];
    assert_eq!(call.method, "GET");
    assert_eq!(call.target, "/q?fixed=1&list=%5B1%2C2%5D&n=1.5&text=a+b%26c");
    assert!(call.body.is_empty());
    let refused = app.api.post("/task/createTask", &json!({ "modelName": "m", "requestPayload": [1] })).await;
    assert_eq!(refused.refused(400, 51, "validation").body["error"]["field"], "requestPayload");
    app.stop().await;
});

backend_test!(the_file_type_comes_from_the_first_bytes_and_then_from_the_label, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice();
    let cases: [(&str, &'static str, &'static [u8]); 5] = [
        ("png", "text/html", png),
        ("json", "application/json; charset=utf-8", b"{\"a\":1}"),
        ("txt", "text/plain", b"plain words"),
        ("bin", "application/octet-stream", b"\xff\xfe\0\x01\x02"),
        ("mp3", "audio/mpeg", b"\0\0\0\0unknown"),
    ];
    for (expected, label, bytes) in cases {
        let model = FakeModel::always(Reply::Body(label, bytes.into())).await;
        app.api.create_model(expected, &model.url, &json!({})).await;
        let id = app.api.create_task(expected, &Value::Null).await;
        let done = app.api.until(&id, &[2, 3]).await;
        assert_eq!(done["fileType"], expected, "{done}");
        assert!(done["ossFile"].as_str().unwrap().ends_with(&format!(".{expected}")));
    }
    app.stop().await;
});

backend_test!(an_update_of_a_model_takes_effect_at_the_next_claim, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let (old, new) = (FakeModel::echo().await, FakeModel::echo().await);
    let model = app.api.create_model("m", &old.url, &json!({})).await;
    app.api.put("/model/updateModel", &json!({ "id": model, "baseUrl": new.url })).await.data();
    let id = app.api.create_task("m", &json!({ "a": 1 })).await;
    app.api.until(&id, &[2]).await;
    assert_eq!((old.calls().len(), new.calls().len()), (0, 1));
    app.stop().await;
});

backend_test!(a_disabled_models_tasks_wait_and_a_deleted_models_tasks_fail, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Gated(Box::new(Reply::Body("text/plain", "ok".into())))).await;
    let id = app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
    let first = app.api.create_task("m", &Value::Null).await;
    app.api.until(&first, &[1]).await;
    let second = app.api.create_task("m", &Value::Null).await;
    app.api.put("/model/updateModel", &json!({ "id": id, "enabled": 0 })).await.data();
    model.release(1);
    app.api.until(&first, &[2]).await;
    assert_eq!(app.api.task(&second).await["state"], 0, "it waits");
    app.api.post("/task/createTask", &json!({ "modelName": "m" })).await.refused(409, 55, "conflict");

    app.api.put("/model/updateModel", &json!({ "id": id, "enabled": 1 })).await.data();
    app.api.until(&second, &[1]).await;
    let third = app.api.create_task("m", &Value::Null).await;
    app.api.delete(&format!("/model/deleteModel?id={id}")).await.data();
    let failed = app.api.until(&third, &[3]).await;
    assert!(failed["errorMsg"].as_str().unwrap().contains("deleted"), "{failed}");
    model.release(1);
    app.api.until(&second, &[2]).await;
    app.api.post("/task/createTask", &json!({ "modelName": "m" })).await.refused(404, 65, "not_found");
    app.api.create_model("m", &model.url, &json!({})).await;
    app.stop().await;
});
