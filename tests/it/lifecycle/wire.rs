//! Contract §5, step 2, as it passes over the wire: connections that are kept, answers of odd shapes,
//! and what is said of a connection that fails.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp, free_address},
        backend::TestDb,
        model::{FakeModel, Reply},
    },
};

/// A model that answers with the bytes of a script, whatever HTTP makes of them.
struct Wire {
    url: String,
    connections: Arc<AtomicUsize>,
}

/// When a scripted answer is sent, and what becomes of the connection.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// After the whole request, and the connection is kept.
    Keep,
    /// After the whole request, and the connection is closed.
    Close,
    /// Before the body of the request is read.
    Early,
}

impl Wire {
    async fn answering(answer: impl Into<Vec<u8>>, manner: Manner) -> Wire {
        let answer: Arc<[u8]> = answer.into().into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(BufReader::new(stream), answer.clone(), manner));
            }
        });
        Wire { url, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: BufReader<TcpStream>, answer: Arc<[u8]>, manner: Manner) {
    while let Some(length) = head(&mut stream).await {
        if manner == Manner::Early {
            stream.write_all(&answer).await.ok();
        }
        stream.read_exact(&mut vec![0; length]).await.ok();
        if manner != Manner::Early {
            stream.write_all(&answer).await.ok();
        }
        if manner == Manner::Close {
            return;
        }
    }
}

/// Reads the head of a request; the length of its body.
async fn head(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(length);
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
}

fn plain(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Runs one task against a model and returns it with its result.
async fn run(app: &TestApp, name: &str, url: &str, payload: &Value) -> (Value, Vec<u8>) {
    app.api.create_model(name, url, &json!({ "timeoutSeconds": 20 })).await;
    again(app, name, payload).await
}

async fn again(app: &TestApp, name: &str, payload: &Value) -> (Value, Vec<u8>) {
    let id = app.api.create_task(name, payload).await;
    let done = app.api.until(&id, &[2, 3]).await;
    assert_eq!((&done["state"], &done["retryCount"]), (&json!(2), &json!(0)), "{name}: {done}");
    let result = app.api.fetch(done["ossFile"].as_str().unwrap()).await;
    (done, result)
}

backend_test!(a_connection_is_used_again_and_one_that_the_model_closed_costs_no_try, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let keeping = Wire::answering(plain("kept"), Manner::Keep).await;
    let closing = Wire::answering(plain("closed"), Manner::Close).await;
    run(&app, "keeping", &keeping.url, &json!({})).await;
    run(&app, "closing", &closing.url, &json!({})).await;
    for _ in 0..4 {
        assert_eq!(again(&app, "keeping", &json!({})).await.1, b"kept");
        assert_eq!(again(&app, "closing", &json!({})).await.1, b"closed");
    }
    assert_eq!((keeping.connections(), closing.connections()), (1, 5));
    app.stop().await;
});

backend_test!(an_answer_may_have_any_shape_that_http_allows, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let many: String = (0..90).map(|n| format!("X-Header-{n}: {}\r\n", "v".repeat(400))).collect();
    let large: String = ('a'..='z').cycle().take(3_000_000).collect();
    let chunks: String = large.as_bytes().chunks(70_001).fold(String::new(), |text, chunk| {
        format!("{text}{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk))
    });
    let shapes = [
        (
            "an interim answer first",
            format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", plain("after")),
            "after",
        ),
        ("a long head", format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 4\r\n\r\nlong"), "long"),
        ("larger than any buffer", plain(&large), &large),
        (
            "chunks with a trailer",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nX-Sum: 1\r\n\r\n"),
            &large,
        ),
        ("ended by the connection's end", format!("HTTP/1.0 200 OK\r\n\r\n{large}"), &large),
    ];
    for (shape, answer, expected) in shapes {
        let model = Wire::answering(answer, Manner::Close).await;
        let (done, result) = run(&app, shape, &model.url, &json!({})).await;
        assert_eq!(done["fileSize"], expected.len(), "{shape}");
        assert!(result == expected.as_bytes(), "{shape}");
    }
    app.stop().await;
});

backend_test!(a_model_may_answer_before_it_has_read_all, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let model = Wire::answering(plain("early"), Manner::Early).await;
    let payload = json!({ "text": "x".repeat(4_000_000) });
    assert_eq!(run(&app, "m", &model.url, &payload).await.1, b"early");
    assert_eq!(again(&app, "m", &json!({})).await.1, b"early", "the connection is in order afterwards");
    app.stop().await;
});

backend_test!(a_connection_that_fails_is_told_by_its_cause_and_without_the_url, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let silent = Wire::answering("", Manner::Close).await;
    let broken = Wire::answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Manner::Close).await;
    let gibberish = Wire::answering("\x01\x02\r\n\r\n", Manner::Close).await;
    let secure = FakeModel::secure(Reply::Body("text/plain", "ok".into())).await;
    let cases = [
        ("closed", format!("http://{}", free_address()), "could not connect to the model: Connection refused"),
        ("untrusted", secure.url, "could not connect to the model: invalid peer certificate: UnknownIssuer"),
        ("silent", silent.url, "the connection to the model broke: connection closed before message completed"),
        ("broken", broken.url, "the connection to the model broke: "),
        ("gibberish", gibberish.url, "the connection to the model broke: invalid HTTP"),
    ];
    for (name, url, expected) in cases {
        app.api.create_model(name, &url, &json!({ "route": "/r?token=s3cret" })).await;
        let id = app.api.create_task(name, &Value::Null).await;
        let failed = app.api.until(&id, &[2, 3]).await;
        let message = failed["errorMsg"].as_str().unwrap();
        assert!(message.starts_with(expected), "{name}: {failed}");
        assert!(!message.contains("s3cret") && !message.contains("127.0.0.1"), "{message}");
    }
    app.stop().await;
});

backend_test!(a_model_with_a_trusted_certificate_is_called_by_http_2, async |db: &TestDb| {
    let model = FakeModel::secure(Reply::Body("text/plain", "by tls".into())).await;
    let trusted = db.dir().join("trusted.pem");
    std::fs::write(&trusted, model.certificate.as_deref().unwrap()).unwrap();
    let node = Node::with(db, &[], &[("SSL_CERT_FILE", trusted.to_str().unwrap())]).await;
    node.api.create_model("m", &model.url, &json!({ "route": "run" })).await;
    for _ in 0..3 {
        let id = node.api.create_task("m", &json!({ "a": 1 })).await;
        let done = node.api.until(&id, &[2, 3]).await;
        assert_eq!(done["state"], 2, "{done}");
    }
    let calls = model.calls();
    assert_eq!(calls.len(), 3);
    for call in calls {
        assert_eq!((call.version.as_str(), call.text().as_str()), ("HTTP/2.0", r#"{"a":1}"#));
        assert!(call.target.ends_with("/run"), "{}", call.target);
    }
});
