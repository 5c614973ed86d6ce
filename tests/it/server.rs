//! The server under the routes: TLS, and what one caller may use up.

use std::time::Duration;

use model_asynch::config::Database;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    backend_test,
    support::{
        app::{Api, TestApp},
        backend::{Kind, TestDb, on},
        eventually::until,
        model::{FakeModel, Reply},
    },
};

const GREETING: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// The beginning of what comes back; empty where the connection is closed without a word.
async fn heard(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 1024];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut bytes)).await.expect("no end of silence");
    String::from_utf8_lossy(&bytes[..read.unwrap_or_default()]).into_owned()
}

backend_test!(a_tenant_that_asks_too_often_is_told_to_wait_and_others_are_not, async |db: &TestDb| {
    let app = TestApp::with(db, &[("auth.mode", "gateway"), ("limits.requestsPerSecond", "5")]).await;
    let (greedy, modest) = (app.api.as_tenant(7, "ann"), app.api.as_tenant(8, "bob"));
    let list = json!({});
    let answers = futures::future::join_all((0..30).map(|_| greedy.post("/task/listTask", &list))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len());
    for answer in refused {
        answer.refused(429, 63, "rate_limited");
        assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    }
    assert_eq!(modest.post("/task/listTask", &list).await.status, 200);
    assert_eq!(app.api.get("/healthz").await.status, 200);
    until("the tenant to be served again", async || greedy.post("/task/listTask", &list).await.status == 200).await;
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_closed_and_there_is_room_again_when_another_ends() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let app = TestApp::with(db, &[("limits.connections", "2"), ("worker.enabled", "false")]).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&app.api).await;
            stream.write_all(GREETING).await.unwrap();
            assert!(heard(&mut stream).await.starts_with("HTTP/1.1 200"));
            held.push(stream);
        }
        let mut refused = connect(&app.api).await;
        refused.write_all(GREETING).await.ok();
        assert_eq!(heard(&mut refused).await, "");
        held.pop();
        until("a place for a connection", async || {
            let mut stream = connect(&app.api).await;
            stream.write_all(GREETING).await.ok();
            heard(&mut stream).await.starts_with("HTTP/1.1 200")
        })
        .await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_dribbles_or_never_ends_is_cut_off() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let limits = [("limits.headerTimeout", "1s"), ("limits.headerBytes", "8192"), ("worker.enabled", "false")];
        let app = TestApp::with(db, &limits).await;
        let mut slow = connect(&app.api).await;
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
        assert!(!heard(&mut slow).await.starts_with("HTTP/1.1 200"));
        let mut long = connect(&app.api).await;
        let head = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
        long.write_all(head.as_bytes()).await.ok();
        assert!(heard(&mut long).await.starts_with("HTTP/1.1 431"));
        assert_eq!(app.api.get("/healthz").await.status, 200);
        app.stop().await;
    })
    .await;
}

backend_test!(with_a_certificate_the_service_and_its_results_are_reached_by_tls, async |db: &TestDb| {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (db.dir().join("cert.pem"), db.dir().join("key.pem"));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let settings =
        [("server.tlsCertFile", certificate.to_str().unwrap()), ("server.tlsKeyFile", key.to_str().unwrap())];
    let app = TestApp::with(db, &settings).await;
    assert!(app.api.url.starts_with("https://"), "{}", app.api.url);
    let root = reqwest::Certificate::from_pem(signed.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let call = async |path: &str, body: Value| -> Value {
        let sent = client.post(format!("{}{path}", app.api.url)).json(&body).send().await.unwrap();
        sent.json::<Value>().await.unwrap()["data"].clone()
    };
    let model = FakeModel::always(Reply::Body("text/plain", "by tls".into())).await;
    call("/model/createModel", json!({ "modelName": "m", "baseUrl": model.url })).await;
    let id = call("/task/createTask", json!({ "modelName": "m" })).await["taskId"].clone();
    let mut url = String::new();
    until("the result", async || {
        let found = call("/task/getTaskBatch", json!({ "taskIds": [id] })).await;
        url = found["list"][0]["ossFile"].as_str().unwrap_or_default().to_owned();
        !url.is_empty()
    })
    .await;
    assert!(url.starts_with("https://"), "{url}");
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "by tls");
    assert!(reqwest::get(app.api.url.replace("https://", "http://")).await.is_err());
    app.stop().await;
});

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start_and_is_named() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let Database::Sqlite { path } = &db.config else { panic!("not SQLite") };
        let env = [
            ("MODEL_ASYNCH__DATABASE__URL", format!("sqlite://{}", path.display())),
            ("MODEL_ASYNCH__SERVER__ADDRESS", "127.0.0.1:0".to_owned()),
            ("MODEL_ASYNCH__SERVER__TLS_CERT_FILE", "missing.pem".to_owned()),
            ("MODEL_ASYNCH__SERVER__TLS_KEY_FILE", "missing.key".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        let config = model_asynch::config::load::load(None, env.into_iter()).unwrap();
        let Err(refused) = model_asynch::app::App::start(config).await else { panic!("it started") };
        assert!(format!("{refused:#}").contains("server.tlsCertFile"), "{refused:#}");
    })
    .await;
}
