//! Contract §8: results that storage `fs` keeps, served by the service itself.

use reqwest::Method;
use serde_json::json;

use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb, model::FakeModel},
};

backend_test!(a_result_is_fetched_whole_and_in_parts_without_authentication, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("m", &model.url, &json!({})).await;
    let id = ann.create_task("m", &json!({ "text": "Hello" })).await;
    let url = ann.until(&id, &[2]).await["ossFile"].as_str().unwrap().to_owned();
    let whole = app.api.fetch(&url).await;
    assert_eq!(whole, br#"{"text":"Hello"}"#);
    let path = url.strip_prefix(&app.api.url).unwrap();
    let part = app.api.request(Method::GET, path).header("range", "bytes=2-5").send().await.unwrap();
    assert_eq!((part.status().as_u16(), &part.headers()["x-content-type-options"]), (206, &"nosniff".parse().unwrap()));
    assert_eq!(part.bytes().await.unwrap(), "text");
    let outside = app.api.request(Method::GET, path).header("range", "bytes=9999-");
    app.api.send(outside).await.refused(416, 66, "range_not_satisfiable");
    app.stop().await;
});

backend_test!(what_is_no_result_is_not_served, async |db: &TestDb| {
    let app = TestApp::with(db, &[("worker.enabled", "false")]).await;
    std::fs::write(db.dir().join("secret.txt"), "secret").unwrap();
    for path in ["/file", "/file/", "/file/7/nothing.wav", "/file/%2e%2e/secret.txt", "/file/..%2fsecret.txt"] {
        app.api.get(path).await.refused(404, 65, "not_found");
    }
    app.stop().await;
});
