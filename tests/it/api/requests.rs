//! Contract §1: whatever comes in is answered by the envelope, and nothing crashes a handler.

use reqwest::Method;
use serde_json::json;

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
};

/// Every route that reads a body, with its method.
const WITH_BODY: [(&str, &str); 14] = [
    ("POST", "/task/createTask"),
    ("POST", "/task/getTaskBatch"),
    ("POST", "/task/listTask"),
    ("POST", "/task/listAttempt"),
    ("POST", "/model/createModel"),
    ("PUT", "/model/updateModel"),
    ("POST", "/model/deleteModel"),
    ("POST", "/model/listModel"),
    ("POST", "/stat/listModelStat"),
    ("POST", "/stat/getOverview"),
    ("POST", "/stat/listLane"),
    ("POST", "/opLog/listOpLog"),
    ("POST", "/node/listNode"),
    ("POST", "/monitor/listAlert"),
];

backend_test!(a_body_that_is_no_json_object_is_refused_by_every_route, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false"), ("server.maxBodyBytes", "2000")]).await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let malformed: [&[u8]; 8] =
        [b"{", b"[]", b"null", b"1", b"\"x\"", b"{\"a\":\"\xff\"}", b"modelName=tts", deep.as_bytes()];
    for (method, path) in WITH_BODY {
        let request = || app.api.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        for body in malformed {
            app.api.send(request().body(body.to_vec())).await.refused(400, 66, "malformed");
        }
        let form = request().header("content-type", "application/x-www-form-urlencoded").body("a=b");
        app.api.send(form).await.refused(415, 66, "unsupported_media_type");
        app.api.send(request().body("x".repeat(2001))).await.refused(413, 66, "too_large");
        let chunks = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>("x".repeat(1000))));
        app.api.send(request().body(reqwest::Body::wrap_stream(chunks))).await.refused(413, 66, "too_large");
        app.api.send(request().json(&json!({ "tenantId": "x" }))).await.refused(400, 51, "validation");
    }
    app.stop().await;
});

backend_test!(an_empty_body_lists_everything, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    for path in ["/task/listTask", "/model/listModel", "/stat/listModelStat", "/opLog/listOpLog"] {
        let answer = app.api.send(app.api.request(Method::POST, path)).await;
        assert_eq!(answer.data(), json!({ "list": [], "total": 0 }), "{path}");
    }
    app.stop().await;
});

backend_test!(unknown_fields_and_routes_and_wrong_methods_have_their_answer, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    app.api.create_model("tts", "http://m", &json!({ "later": { "deep": [1] }, "id": "7" })).await;
    app.api.get("/nowhere").await.refused(404, 65, "not_found");
    app.api.get("/task/createTask/").await.refused(404, 65, "not_found");
    let wrong = app.api.get("/task/createTask").await;
    wrong.refused(405, 66, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    app.api.get("/model/getModel?id=%ff").await.refused(400, 66, "malformed");
    app.stop().await;
});
