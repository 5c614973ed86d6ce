//! Contract §5, step 4: an upload that fails is repeated alone, and its model is free meanwhile.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::TestApp,
        backend::TestDb,
        eventually::{eventually, until},
        model::{FakeModel, Reply},
    },
};

/// A file service in which every upload fails until the test lets it work.
async fn file_service() -> (FakeModel, std::sync::Arc<std::sync::atomic::AtomicBool>) {
    let works = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = works.clone();
    let service = FakeModel::start(move |_, before| {
        if switch.load(std::sync::atomic::Ordering::SeqCst) {
            Reply::Body("application/json", format!(r#"{{"data":{{"fileURL":"http://files/{before}"}}}}"#).into())
        } else {
            Reply::Status(503, vec![], "no space".into())
        }
    })
    .await;
    (service, works)
}

backend_test!(only_the_upload_is_repeated_and_the_model_is_free_meanwhile, async |db: &TestDb| {
    let (files, works) = file_service().await;
    let app = TestApp::with(db, &[("oss.kind", "http"), ("oss.url", &files.url)]).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({ "maxConcurrency": 1 })).await;
    let first = app.api.create_task("m", &json!("first")).await;
    let parked = eventually("the first failed upload", async || {
        let task = app.api.task(&first).await;
        if task["phase"] == 1 { Ok(task) } else { Err(task) }
    })
    .await;
    assert_eq!(parked["state"], 1);
    assert!(parked["errorMsg"].as_str().unwrap().contains("upload"), "{parked}");

    let second = app.api.create_task("m", &json!("second")).await;
    until("the second call, though the first result is not stored", async || model.calls().len() == 2).await;

    works.store(true, std::sync::atomic::Ordering::SeqCst);
    for id in [&first, &second] {
        let done = app.api.until(id, &[2]).await;
        assert!(done["ossFile"].as_str().unwrap().starts_with("http://files/"), "{done}");
        assert_eq!((&done["phase"], &done["retryCount"], &done["errorMsg"]), (&json!(0), &json!(0), &json!("")));
    }
    assert_eq!(model.calls().len(), 2, "the model was not called again");
    let stat = app.api.post("/stat/listModelStat", &json!({})).await.data()["list"][0].clone();
    assert_eq!((&stat["requestCount"], &stat["successCount"]), (&json!(2), &json!(2)), "{stat}");
    app.stop().await;
});

backend_test!(an_upload_that_fails_for_too_long_fails_the_task, async |db: &TestDb| {
    let (files, _works) = file_service().await;
    let settings = [("oss.kind", "http"), ("oss.url", files.url.as_str()), ("oss.retryForSeconds", "1")];
    let app = TestApp::with(db, &settings).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 5 })).await;
    let id = app.api.create_task("m", &json!(1)).await;
    let failed = app.api.until(&id, &[3]).await;
    assert!(failed["errorMsg"].as_str().unwrap().contains("could not be stored"), "{failed}");
    assert_eq!(model.calls().len(), 1);
    app.stop().await;
    assert_eq!(db.parked_files(), 0);
});

backend_test!(a_parked_file_that_is_gone_sends_the_task_back_to_its_model, async |db: &TestDb| {
    let (files, works) = file_service().await;
    let app = TestApp::with(db, &[("oss.kind", "http"), ("oss.url", &files.url)]).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let id = app.api.create_task("m", &json!(1)).await;
    until("the result to be parked", async || app.api.task(&id).await["phase"] == 1).await;
    for folder in std::fs::read_dir(db.dir().join("tmp")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap().map(Result::unwrap) {
            if file.metadata().unwrap().len() > 0 {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
    works.store(true, std::sync::atomic::Ordering::SeqCst);
    let done = app.api.until(&id, &[2]).await;
    assert_eq!(done["retryCount"], 0, "no try is used up");
    assert_eq!(model.calls().len(), 2);
    app.stop().await;
});

backend_test!(the_file_service_gets_the_file_and_the_callers_own_headers, async |db: &TestDb| {
    let (files, works) = file_service().await;
    works.store(true, std::sync::atomic::Ordering::SeqCst);
    let app =
        TestApp::with(db, &[("oss.kind", "http"), ("oss.url", &format!("{}/oss/file/uploadFile", files.url))]).await;
    let model = FakeModel::always(Reply::Body("text/plain", "the result".into())).await;
    let api = app.api.as_tenant(7, "ann").with_header("authorization", "Bearer callers-own");
    api.create_model("m", &model.url, &json!({})).await;
    let id = api.create_task("m", &Value::Null).await;
    api.until(&id, &[2]).await;
    let upload = &files.calls()[0];
    assert_eq!((upload.method.as_str(), upload.target.as_str()), ("POST", "/oss/file/uploadFile"));
    assert_eq!(upload.header("authorization"), "Bearer callers-own");
    assert!(upload.header("x-user-info").contains("\"7\""));
    assert!(upload.header("content-type").starts_with("multipart/form-data"));
    let body = upload.text();
    assert!(body.contains("name=\"file\"") && body.contains("the result"), "{body}");
    let name = body.split("filename=\"").nth(1).unwrap().split('"').next().unwrap();
    let parts: Vec<&str> = name.split('_').collect();
    assert_eq!((parts[0], parts[2]), ("asynch", format!("{id}.txt").as_str()));
    assert!(parts[1].parse::<u64>().unwrap() > 1_700_000_000);
    app.stop().await;
});
