//! A model service with scripted behaviour: a real HTTP server that records what it was asked and
//! how many calls ran at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use axum_server::tls_rustls::RustlsConfig;
use futures::StreamExt as _;
use tokio::sync::Semaphore;

/// A call as the model got it.
#[derive(Debug, Clone)]
pub struct Call {
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the model does with a call.
#[derive(Clone)]
pub enum Reply {
    /// Answers 200 with that content type and body.
    Body(&'static str, Bytes),
    /// Answers that status with headers and a text.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Answers 200 and streams that many bytes of a pattern.
    Stream(u64),
    /// Never answers.
    Hang,
    /// Begins a body and breaks the connection.
    Break,
    /// Answers like the inner reply, once the test released a call.
    Gated(Box<Reply>),
    /// Answers like the inner reply, after that time of work.
    After(Duration, Box<Reply>),
}

/// See the module.
#[derive(Clone)]
pub struct FakeModel {
    pub url: String,
    /// What a caller by TLS has to trust, as PEM.
    pub certificate: Option<String>,
    inner: Arc<Inner>,
}

type Script = dyn Fn(&Call, usize) -> Reply + Send + Sync;

struct Inner {
    script: Box<Script>,
    calls: Mutex<Vec<Call>>,
    gate: Semaphore,
    running: AtomicUsize,
    peak: AtomicUsize,
}

/// Counts a call as running until it is dropped, by an answer or a broken connection.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    fn new(script: impl Fn(&Call, usize) -> Reply + Send + Sync + 'static) -> Arc<Inner> {
        Arc::new(Inner {
            script: Box::new(script),
            calls: Mutex::default(),
            gate: Semaphore::new(0),
            running: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }
}

impl FakeModel {
    /// Does what `script` says of each call; the number is how many came before it.
    pub async fn start(script: impl Fn(&Call, usize) -> Reply + Send + Sync + 'static) -> FakeModel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Inner::new(script);
        let router = Router::new().fallback(answer).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        FakeModel { url, certificate: None, inner }
    }

    /// Answers every call the same, by TLS under a certificate that it signed itself.
    pub async fn secure(reply: Reply) -> FakeModel {
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        let config = RustlsConfig::from_pem(certificate.clone().into(), key.into()).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let inner = Inner::new(move |_, _| reply.clone());
        let router = Router::new().fallback(answer).with_state(inner.clone());
        let server = axum_server::from_tcp_rustls(listener, config).unwrap();
        tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() });
        FakeModel { url, certificate: Some(certificate), inner }
    }

    /// Answers every call with its own body.
    pub async fn echo() -> FakeModel {
        FakeModel::start(|call, _| Reply::Body("application/json", call.body.clone())).await
    }

    /// Answers every call the same.
    pub async fn always(reply: Reply) -> FakeModel {
        FakeModel::start(move |_, _| reply.clone()).await
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    /// Calls by task id.
    pub fn calls_by_task(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for call in self.calls() {
            *counts.entry(call.header("x-task-id").to_owned()).or_default() += 1;
        }
        counts
    }

    /// Calls running now.
    pub fn running(&self) -> usize {
        self.inner.running.load(Ordering::SeqCst)
    }

    /// Most calls that ever ran at once.
    pub fn peak(&self) -> usize {
        self.inner.peak.load(Ordering::SeqCst)
    }

    /// Lets that many gated calls go on.
    pub fn release(&self, calls: usize) {
        self.inner.gate.add_permits(calls);
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let running = inner.running.fetch_add(1, Ordering::SeqCst) + 1;
    let guard = Running(inner.clone());
    inner.peak.fetch_max(running, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let call = Call {
        version: format!("{:?}", parts.version),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default(),
    };
    let before = {
        let mut calls = inner.calls.lock().unwrap();
        calls.push(call.clone());
        calls.len() - 1
    };
    let mut reply = (inner.script)(&call, before);
    loop {
        reply = match reply {
            Reply::Gated(then) => {
                inner.gate.acquire().await.unwrap().forget();
                *then
            }
            Reply::After(pause, then) => {
                tokio::time::sleep(pause).await;
                *then
            }
            Reply::Hang => std::future::pending().await,
            Reply::Body(content_type, body) => {
                drop(guard);
                return Response::builder().header("content-type", content_type).body(Body::from(body)).unwrap();
            }
            Reply::Status(status, headers, text) => {
                drop(guard);
                let answer = Response::builder().status(StatusCode::from_u16(status).unwrap());
                let answer = headers.into_iter().fold(answer, |answer, (name, value)| answer.header(name, value));
                return answer.body(Body::from(text)).unwrap();
            }
            Reply::Stream(bytes) => {
                const CHUNK: u64 = 256 * 1024;
                let pattern = Bytes::from(vec![0xA5u8; CHUNK as usize]);
                let chunks = bytes.div_ceil(CHUNK);
                let stream = futures::stream::iter(0..chunks).map(move |index| {
                    let _running = &guard;
                    let left = (bytes - index * CHUNK).min(CHUNK) as usize;
                    Ok::<_, std::io::Error>(pattern.slice(..left))
                });
                return Response::builder().body(Body::from_stream(stream)).unwrap();
            }
            Reply::Break => {
                let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("broken on purpose"))];
                let stream = futures::stream::iter(parts).then(async |part| {
                    tokio::task::yield_now().await;
                    part
                });
                return Response::builder().body(Body::from_stream(Box::pin(stream))).unwrap();
            }
        }
    }
}
