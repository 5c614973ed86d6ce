//! Contract §8: results that storage `fs` keeps, served by the service itself.

use reqwest::{Method, Response};
use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::TestDb,
        eventually::{eventually, until},
        model::{FakeModel, Reply},
    },
};

/// 32 sevens, and 32 eights.
const KEYS: [&str; 2] =
    ["BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg="];

/// Where the URLs of results begin, whichever node is asked.
const PUBLIC: (&str, &str) = ("server.publicUrl", "http://files.example");

/// What a URL of a result leads to on that node.
async fn get(api: &Api, url: &str) -> Response {
    let path = url.strip_prefix(PUBLIC.1).unwrap_or_else(|| panic!("{url}"));
    api.request(Method::GET, path).send().await.unwrap()
}

/// A result made by an echoing model; returns its task's id.
async fn result(app: &TestApp) -> String {
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let id = app.api.create_task("m", &json!({ "text": "Hello" })).await;
    app.api.until(&id, &[2]).await;
    id
}

async fn url_of(app: &TestApp, id: &str) -> String {
    app.api.task(id).await["ossFile"].as_str().unwrap().to_owned()
}

/// A node that makes no results, has a database of its own, and shares the folder alone.
async fn neighbour(db: &TestDb, settings: &[(&str, &str)]) -> TestApp {
    let database = format!("sqlite://{}", db.dir().join("neighbour.db").display());
    let own = [("database.url", database.as_str()), ("worker.enabled", "false"), PUBLIC, ("oss.urlTtlSeconds", "60")];
    TestApp::with(db, &own.iter().chain(settings).copied().collect::<Vec<_>>()).await
}

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

backend_test!(a_result_has_its_type_and_the_name_of_its_task, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::start(|call, _| match call.text().as_str() {
        "\"page\"" => Reply::Body("text/html", "<script>alert(1)</script>".into()),
        _ => Reply::Body("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice().into()),
    })
    .await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let cases = [("page", "text/html", "attachment", "html"), ("image", "image/png", "inline", "png")];
    for (payload, content_type, how, extension) in cases {
        let id = app.api.create_task("m", &json!(payload)).await;
        let url = app.api.until(&id, &[2]).await["ossFile"].as_str().unwrap().to_owned();
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.headers()["content-type"], content_type);
        assert_eq!(answer.headers()["content-disposition"], format!("{how}; filename=\"{id}.{extension}\""));
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
    app.stop().await;
});

backend_test!(a_signed_url_opens_its_file_and_nothing_of_it_can_be_changed, async |db: &TestDb| {
    let app = TestApp::with(db, &[PUBLIC, ("secrets.key", KEYS[0]), ("oss.urlTtlSeconds", "3600")]).await;
    let (id, other) = (result(&app).await, app.api.create_task("m", &json!("another")).await);
    app.api.until(&other, &[2]).await;
    let listed = app.api.post("/task/listTask", &json!({ "taskId": id })).await.data();
    let picked = app.api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
    for url in [&listed["list"][0]["ossFile"], &picked["list"][0]["ossFile"], &app.api.task(&id).await["ossFile"]] {
        let answer = get(&app.api, url.as_str().unwrap()).await;
        assert_eq!(answer.status().as_u16(), 200, "{url}");
        assert_eq!(answer.bytes().await.unwrap(), br#"{"text":"Hello"}"#.as_slice());
    }

    let url = url_of(&app, &id).await;
    let path = url.strip_prefix(PUBLIC.1).unwrap();
    let part = app.api.request(Method::GET, path).header("range", "bytes=2-5").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap().as_ref()), (206, b"text".as_slice()));

    let (bare, query) = path.split_once('?').unwrap();
    let (expires, signature) = query.split_once('&').unwrap();
    let of_other = url_of(&app, &other).await;
    let (bare_of_other, _) = of_other.strip_prefix(PUBLIC.1).unwrap().split_once('?').unwrap();
    let last = if query.ends_with('0') { '1' } else { '0' };
    for wrong in [
        bare.to_owned(),
        format!("{bare}?{expires}"),
        format!("{bare}?{signature}"),
        format!("{bare}?{expires}0&{signature}"),
        format!("{}{last}", &path[..path.len() - 1]),
        format!("{bare_of_other}?{query}"),
        format!("{}?{query}", bare.replace("/file/", "/file//")),
        format!("{}?{query}", bare.replace("/file/0/", "/file/%30/")),
    ] {
        app.api.get(&wrong).await.refused(404, 65, "not_found");
    }
    app.stop().await;
});

backend_test!(a_url_runs_out_and_the_task_has_a_fresh_one, async |db: &TestDb| {
    let app = TestApp::with(db, &[PUBLIC, ("secrets.key", KEYS[0]), ("oss.urlTtlSeconds", "1")]).await;
    let id = result(&app).await;
    for _ in 0..2 {
        // A machine that stands still for a second lets a URL run out before it is used.
        let url = eventually("a fresh URL to work", async || {
            let url = url_of(&app, &id).await;
            if get(&app.api, &url).await.status() == 200 { Ok(url) } else { Err("it has run out") }
        })
        .await;
        until("the URL to run out", async || get(&app.api, &url).await.status() == 404).await;
    }
    app.stop().await;
});

backend_test!(nodes_with_one_key_know_each_others_urls_and_a_new_key_those_of_the_old, async |db: &TestDb| {
    let app = TestApp::with(db, &[PUBLIC, ("secrets.key", KEYS[0]), ("oss.urlTtlSeconds", "3600")]).await;
    let id = result(&app).await;
    let url = url_of(&app, &id).await;
    for (settings, status) in [
        ([("secrets.key", KEYS[0]), ("secrets.previousKeys", "")], 200),
        ([("secrets.key", KEYS[1]), ("secrets.previousKeys", KEYS[0])], 200),
        ([("secrets.key", KEYS[1]), ("secrets.previousKeys", "")], 404),
    ] {
        let neighbour = neighbour(db, &settings).await;
        assert_eq!(get(&neighbour.api, &url).await.status().as_u16(), status, "{settings:?}");
        neighbour.stop().await;
    }
    app.stop().await;
});

backend_test!(urls_can_be_made_to_run_out_later_and_to_last_again, async |db: &TestDb| {
    let lasting = [PUBLIC, ("secrets.key", KEYS[0])];
    let signed = [PUBLIC, ("secrets.key", KEYS[0]), ("oss.urlTtlSeconds", "3600")];
    let app = TestApp::with(db, &lasting).await;
    let before = result(&app).await;
    let plain = url_of(&app, &before).await;
    assert!(!plain.contains('?'), "{plain}");
    app.stop().await;

    let app = TestApp::with(db, &signed).await;
    assert_eq!(get(&app.api, &plain).await.status().as_u16(), 404, "it is not signed");
    let during = app.api.create_task("m", &json!("while URLs are signed")).await;
    app.api.until(&during, &[2]).await;
    for id in [&before, &during] {
        assert_eq!(get(&app.api, &url_of(&app, id).await).await.status().as_u16(), 200);
    }
    app.stop().await;

    let app = TestApp::with(db, &lasting).await;
    assert_eq!(url_of(&app, &before).await, plain);
    for id in [&before, &during] {
        let url = url_of(&app, id).await;
        assert!(!url.contains('?'), "{url}");
        assert_eq!(get(&app.api, &url).await.status().as_u16(), 200);
    }
    app.stop().await;
});
