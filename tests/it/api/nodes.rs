//! How the service itself is, and who is asking.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::{Kind, TestDb},
        eventually::until,
        model::{FakeModel, Reply},
    },
};

fn names(health: &Value) -> Vec<&str> {
    health["dependencies"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

backend_test!(an_admin_sees_each_process_with_what_it_holds, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::always(Reply::Hang).await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 2 })).await;
    for _ in 0..3 {
        app.api.create_task("m", &Value::Null).await;
    }
    until("both calls and the watch to show", async || {
        let nodes = app.api.post("/node/listNode", &json!({})).await.data();
        let node = &nodes["list"][0];
        assert_eq!((&nodes["total"], &node["alive"]), (&json!(1), &json!(true)));
        assert!(node["startedAt"].as_str() < node["leaseUntil"].as_str(), "{node}");
        let port = app.api.url.rsplit(':').next().unwrap();
        assert!(node["name"].as_str().unwrap().contains(':'), "{node} {port}");
        node["running"] == 2 && node["cleans"] == true
    })
    .await;
    app.api.as_tenant(7, "ann").post("/node/listNode", &json!({})).await.refused(403, 62, "forbidden");
    app.stop().await;
});

backend_test!(the_health_of_a_node_names_what_is_away, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let health = app.api.get("/node/getHealth").await.data();
    assert_eq!((&health["ready"], &health["version"]), (&json!(true), &json!(env!("CARGO_PKG_VERSION"))));
    match db.kind() {
        Kind::Sqlite => assert_eq!(names(&health), ["database", "storage", "worker"]),
        Kind::Postgres => assert_eq!(names(&health), ["database", "redis", "storage", "worker"]),
    }
    assert!(health["startedAt"].is_string() && health["dependencies"][0]["latencyMs"].is_u64());
    std::fs::remove_dir_all(db.dir().join("oss")).unwrap();
    std::fs::write(db.dir().join("oss"), "no folder").unwrap();
    let health = app.api.get("/node/getHealth").await.data();
    let storage = health["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == "storage").unwrap();
    assert_eq!((&health["ready"], &storage["up"]), (&json!(false), &json!(false)));
    assert_eq!(storage["error"], "it is out of reach", "and no path");
    app.stop().await;
});

backend_test!(who_is_no_admin_learns_whether_things_work_and_no_more, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let health = app.api.as_tenant(7, "ann").get("/node/getHealth").await.data();
    assert_eq!((&health["ready"], &health["startedAt"]), (&json!(true), &Value::Null));
    for dependency in health["dependencies"].as_array().unwrap() {
        assert_eq!(
            (&dependency["up"], &dependency["latencyMs"], &dependency["error"]),
            (&json!(true), &Value::Null, &Value::Null)
        );
    }
    assert!(!names(&health).contains(&"worker"), "it has none");
    app.stop().await;
});

backend_test!(a_caller_is_told_who_it_is, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    let who = app.api.as_tenant(7, "ann").get("/caller/getCaller").await.data();
    assert_eq!((&who["tenantId"], &who["userName"], &who["admin"]), (&json!("7"), &json!("ann"), &json!(false)));
    assert_eq!(who["scopes"], json!(["task:write", "task:read", "model:write", "stat:read"]));
    assert_eq!(who["authMode"], "anonymous");
    let root = app.api.get("/caller/getCaller").await.data();
    assert_eq!((&root["tenantId"], &root["admin"]), (&json!("0"), &json!(true)));
    assert!(root["scopes"].as_array().unwrap().contains(&json!("admin")));
    app.stop().await;
});
