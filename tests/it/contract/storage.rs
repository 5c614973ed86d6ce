//! Contract §8: storage `s3`, from the task to the URL.

use serde_json::json;

use crate::support::{
    app::TestApp,
    backend::{Kind, TestDb, on},
    model::{FakeModel, Reply},
    s3,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_reaches_an_s3_store_and_its_url_hands_it_out() {
    on(Kind::Sqlite, async |db: &TestDb| {
        const MIB_64: u64 = 64 << 20;
        let Some(store) = s3::store() else { return };
        let endpoint = store.endpoint.unwrap().to_string();
        let settings = [
            ("oss.kind", "s3"),
            ("oss.endpoint", endpoint.as_str()),
            ("oss.bucket", &store.bucket),
            ("oss.accessKey", &store.access_key),
            ("oss.secretKey", &store.secret_key),
            ("oss.deleteOnPurge", "true"),
        ];
        let app = TestApp::with(db, &settings).await;
        let model = FakeModel::start(|call, _| Reply::Stream(call.text().parse().unwrap())).await;
        app.api.create_model("m", &model.url, &json!({ "autoCleanSeconds": 3 })).await;
        let mut urls = Vec::new();
        for size in [5, MIB_64] {
            let id = app.api.create_task("m", &json!(size)).await;
            let done = app.api.until(&id, &[2, 3]).await;
            assert_eq!((&done["state"], &done["fileSize"]), (&json!(2), &json!(size)), "{done}");
            let batch = app.api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
            let url = batch["list"][0]["ossFile"].as_str().unwrap().to_owned();
            assert!(url.starts_with(&endpoint) && url.contains("X-Amz-Signature"), "{url}");
            assert!(!url.contains(&store.secret_key));
            let file = app.api.fetch(&url).await;
            assert!(file.len() as u64 == size && file.iter().all(|byte| *byte == 0xA5));
            urls.push(url);
        }
        // Tasks past their time go, and with deleteOnPurge their objects.
        for url in urls {
            crate::support::eventually::until("the object to be deleted", async || {
                reqwest::get(&url).await.unwrap().status() == 404
            })
            .await;
        }
        app.stop().await;
        assert_eq!(db.parked_files(), 0);
    })
    .await;
}
