//! Contract §5 and §8: results on the way and in storage `fs`.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use model_asynch::{
    spool::Spool,
    task::{Attempt, TaskKey, TenantId},
};
use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp},
        backend::{Kind, TestDb, on},
        eventually::until,
        model::{FakeModel, Reply},
    },
};

backend_test!(temp_files_that_nobody_owns_are_deleted, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = FakeModel::echo().await;
    app.api.create_model("m", &model.url, &json!({})).await;
    let id = app.api.create_task("m", &json!(1)).await;
    app.api.until(&id, &[2]).await;
    // A process that died with results: of a task that is finished, in a slot, and of one that is
    // not there, in a file.
    let tmp = db.dir().join("tmp");
    let dead = Spool::open(&tmp).unwrap();
    let slow = Duration::from_secs(2);
    for (task, attempt, took) in [(id.parse().unwrap(), 1, Duration::ZERO), (model_asynch::clock::task_id(), 2, slow)] {
        let mut draft = dead.draft(TaskKey { tenant: TenantId(0), id: task }, Attempt(attempt));
        draft.write(Bytes::from_static(b"nobody's")).await.unwrap();
        draft.finish(None, took).await.unwrap();
    }
    assert_eq!(db.parked_files(), 2);
    drop(dead);
    until("what the dead process left to be gone", async || {
        db.parked_files() == 0 && std::fs::read_dir(&tmp).unwrap().count() == 1
    })
    .await;
    let after = app.api.task(&id).await;
    assert_eq!(app.api.fetch(after["ossFile"].as_str().unwrap()).await, b"1", "and the result is the one it had");
    assert_eq!(model.calls().len(), 1);
    app.stop().await;
});

backend_test!(the_url_of_a_result_cannot_be_guessed_and_is_all_it_takes, async |db: &TestDb| {
    let settings = [("auth.mode", "gateway"), ("server.publicUrl", "http://files.example.com/base/")];
    let app = TestApp::with(db, &settings).await;
    let model = FakeModel::echo().await;
    let ann = app.api.as_tenant(7, "ann");
    ann.create_model("m", &model.url, &json!({})).await;
    let mut secrets = HashSet::new();
    for _ in 0..5 {
        let id = ann.create_task("m", &json!("the same")).await;
        let url = ann.until(&id, &[2]).await["ossFile"].as_str().unwrap().to_owned();
        let path = url.strip_prefix("http://files.example.com/base/file/").unwrap_or_else(|| panic!("{url}"));
        // Besides what a caller could know: 122 random bits.
        let random = path.replace(&id, "").replace(&id.replace('-', ""), "");
        let word = random.split(['/', '-', '.', '_']).find(|word| word.len() == 32).unwrap_or_else(|| panic!("{url}"));
        assert!(word.bytes().all(|byte| byte.is_ascii_hexdigit()), "{url}");
        assert!(secrets.insert(word.to_owned()), "{url}");
        assert_eq!(app.api.fetch(&format!("{}/file/{path}", app.api.url)).await, b"\"the same\"");
        let guess = path.replace(word, &"0".repeat(32));
        app.api.get(&format!("/file/{guess}")).await.refused(404, 65, "not_found");
        let folder = path.rsplit_once('/').unwrap().0;
        app.api.get(&format!("/file/{folder}/")).await.refused(404, 65, "not_found");
    }
    app.stop().await;
});

backend_test!(the_first_500_characters_of_a_failed_answer_are_told, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let told = format!("{}END", "é".repeat(497));
    let model = FakeModel::always(Reply::Status(422, vec![], format!("{told} and more"))).await;
    app.api.create_model("m", &model.url, &json!({ "retryTimes": 3 })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    let failed = app.api.until(&id, &[3]).await;
    let message = failed["errorMsg"].as_str().unwrap();
    assert!(message.contains("422") && message.ends_with(&told), "{message}");
    app.stop().await;
});

backend_test!(the_time_limit_of_a_call_goes_to_its_last_byte, async |db: &TestDb| {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let app = TestApp::start(db).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0, "it hung up");
        }
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning").await.unwrap();
        // The rest never comes; this waits until the other side hangs up.
        connection.read_to_end(&mut request).await.ok();
    });
    app.api.create_model("m", &url, &json!({ "timeoutSeconds": 1 })).await;
    let id = app.api.create_task("m", &Value::Null).await;
    let failed = app.api.until(&id, &[3]).await;
    assert!(failed["errorMsg"].as_str().unwrap().contains("within 1 s"), "{failed}");
    app.stop().await;
    assert_eq!(db.parked_files(), 0);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_went_with_its_node_sends_the_task_back_to_its_model() {
    on(Kind::Postgres, async |db: &TestDb| {
        let works = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let switch = works.clone();
        let files = FakeModel::start(move |_, _| match switch.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reply::Body("application/json", r#"{"url":"http://files/1"}"#.into()),
            false => Reply::Status(503, vec![], String::new()),
        })
        .await;
        let model = FakeModel::always(Reply::Body("text/plain", "ok".into())).await;
        let disk = |name: &str| db.dir().join(name).to_string_lossy().into_owned();
        let (first_disk, second_disk) = (disk("disk-1"), disk("disk-2"));
        let settings = |disk| {
            let files: &str = &files.url;
            [("worker.leaseSeconds", "2"), ("oss.kind", "http"), ("oss.url", files), ("worker.tmpDir", disk)]
        };
        let mut first = Node::start(db, &settings(&first_disk)).await;
        first.api.create_model("m", &model.url, &json!({})).await;
        let id = first.api.create_task("m", &json!(1)).await;
        until("the result to be parked", async || first.api.task(&id).await["phase"] == 1).await;
        first.kill();
        works.store(true, std::sync::atomic::Ordering::SeqCst);
        let second = Node::start(db, &settings(&second_disk)).await;
        let done = second.api.until(&id, &[2]).await;
        assert_eq!((&done["phase"], &done["retryCount"]), (&json!(0), &json!(0)));
        assert_eq!(model.calls().len(), 2, "its file is out of reach, so the model was called again");
    })
    .await;
}
