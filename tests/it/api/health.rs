//! Contract §10: probes, and the OpenAPI document.

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
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
