//! Contract §10: probes, and the OpenAPI document.

use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::TestDb,
        eventually::{eventually, until},
    },
};

backend_test!(a_service_that_can_work_says_so, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    assert_eq!(app.api.get("/healthz").await.data()["status"], "up");
    assert_eq!(app.api.get("/readyz").await.data()["status"], "ready");
    app.stop().await;
});

backend_test!(a_service_without_its_storage_is_not_ready_and_says_why, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    std::fs::remove_dir_all(db.dir().join("oss")).unwrap();
    std::fs::write(db.dir().join("oss"), "no folder").unwrap();
    let answer = app.api.get("/readyz").await;
    answer.refused(503, 63, "unavailable");
    assert_eq!(answer.body["message"], "out of reach: the object storage");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(app.api.get("/healthz").await.status, 200);
    app.stop().await;
});

backend_test!(the_openapi_document_is_served, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let answer = app.api.get("/openapi.json").await;
    assert_eq!((answer.status, &answer.body["openapi"]), (200, &"3.1.0".into()));
    assert!(answer.headers.contains_key("x-request-id"));
    app.stop().await;
});

backend_test!(the_documentation_is_a_page_that_loads_nothing_else, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false"), ("auth.mode", "token")]).await;
    let answer = app.api.get("/docs").await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(answer.headers.contains_key("x-request-id"));
    assert!(answer.body.as_str().unwrap().contains("openapi.json"));
    app.stop().await;
});

backend_test!(the_log_level_changes_while_the_service_runs, async |db: &TestDb| {
    let node = Node::start(db, &[("worker.enabled", "false")]).await;
    let detail = |log: &std::path::Path| std::fs::read_to_string(log).unwrap().matches("request answered").count();
    assert_eq!(node.api.get("/node/getLogLevel").await.data()["level"], "info");
    assert_eq!(detail(&node.log), 0);
    for level in ["loud", ""] {
        let refused = node.api.put("/node/updateLogLevel", &json!({ "level": level })).await;
        refused.refused(400, 51, "validation");
        assert_eq!(refused.body["error"]["field"], "level");
    }
    node.api.put("/node/updateLogLevel", &json!({ "level": "info,model_asynch::api=debug" })).await.data();
    assert_eq!(node.api.get("/node/getLogLevel").await.data()["level"], "info,model_asynch::api=debug");
    until("a line for a request", async || detail(&node.log) > 0).await;
    let ann = node.api.as_tenant(7, "ann");
    ann.get("/node/getLogLevel").await.refused(403, 62, "forbidden");
    ann.put("/node/updateLogLevel", &json!({ "level": "off" })).await.refused(403, 62, "forbidden");
    let logged = eventually("its row in the operation log", async || {
        let list = node.api.post("/opLog/listOpLog", &json!({ "opType": "updateLogLevel", "success": 1 })).await.data();
        if list["total"] == 1 { Ok(list["list"][0].clone()) } else { Err(list.to_string()) }
    })
    .await;
    assert_eq!(logged["requestPayload"]["level"], "info,model_asynch::api=debug");
});
