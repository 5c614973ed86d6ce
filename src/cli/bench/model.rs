//! The no-op model and file service: answers at once, as fast as a server can, so that what is
//! measured is the queue in front of it.
//!
//! `POST /answer/<bytes>` is the model. It keeps a call for as long as the gate is closed, or, with
//! `"hold":true` in its payload, until the gate of held calls is opened. `POST /file` takes an
//! upload. `POST /gate/<open|closed>` and `POST /hold/<open|closed>` move the gates, and
//! `GET /calls` says how many calls came.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::clock;

/// Bytes of an answer that are written at once.
const PIECE: usize = 64 << 10;

/// The largest answer that is one piece.
const WHOLE: usize = 1 << 20;

/// Marks a call that is held back by a gate of its own.
const HELD: &[u8] = b"\"hold\":true";

type Body = BoxBody<Bytes, Infallible>;

/// A server that listens, and answers once [`NoopModel::serve`] runs.
pub(super) struct NoopModel {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
}

/// One call of the model, for who wants to know of each.
pub(super) struct Call {
    /// When its head had come in.
    pub(super) received: Instant,
    /// When the answer was handed over to be sent.
    pub(super) answered: Instant,
    /// The task it is for.
    pub(super) task_id: String,
    /// What it was asked.
    pub(super) payload: Bytes,
}

struct State {
    gate: watch::Sender<bool>,
    hold: watch::Sender<bool>,
    calls: AtomicU64,
    tell: Option<mpsc::UnboundedSender<Call>>,
}

impl NoopModel {
    /// Listens; `tell` hears of every call.
    pub(super) async fn bind(address: &str, tell: Option<mpsc::UnboundedSender<Call>>) -> io::Result<NoopModel> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state =
            State { gate: watch::Sender::new(true), hold: watch::Sender::new(false), calls: AtomicU64::new(0), tell };
        Ok(NoopModel { listener, address, state: Arc::new(state) })
    }

    /// Base URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers calls; does not end by itself.
    pub(super) async fn serve(self) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    connections.spawn(converse(stream, self.state.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn converse(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    // A caller that goes away is no concern of ours.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let received = clock::tick();
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == "/file" {
            drain(body).await;
            return json(r#"{"url":"http://files.example/stored"}"#);
        }
        if let Some(bytes) = path.strip_prefix("/answer/").and_then(|bytes| bytes.parse().ok()) {
            let task_id = head.headers.get("x-task-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
            let Ok(payload) = body.collect().await else { return refused() };
            return self.call(received, task_id, payload.to_bytes(), bytes).await;
        }
        match path {
            "/gate/open" => self.gate.send_replace(true),
            "/gate/closed" => self.gate.send_replace(false),
            "/hold/open" => self.hold.send_replace(true),
            "/hold/closed" => self.hold.send_replace(false),
            "/calls" => return json(&self.calls.load(Ordering::Relaxed).to_string()),
            _ => return refused(),
        };
        json("{}")
    }

    async fn call(&self, received: Instant, task_id: String, payload: Bytes, bytes: usize) -> Response<Body> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let held = payload.windows(HELD.len()).any(|window| window == HELD);
        let gate = if held { &self.hold } else { &self.gate };
        // Told before the answer where it is held back: who waits for the call must not wait for the gate.
        if let Some(tell) = &self.tell {
            tell.send(Call { received, answered: clock::tick(), task_id, payload }).ok();
        }
        if gate.subscribe().wait_for(|open| *open).await.is_err() {
            return refused();
        }
        of_size(bytes)
    }
}

/// Reads an upload to its end.
async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

fn json(text: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed());
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn refused() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// An answer of that many bytes; a large one is never whole in memory.
fn of_size(bytes: usize) -> Response<Body> {
    static ZEROS: [u8; WHOLE] = [b'x'; WHOLE];
    if bytes <= WHOLE {
        return Response::new(Full::new(Bytes::from_static(&ZEROS[..bytes])).boxed());
    }
    let pieces = stream::unfold(bytes, |left| async move {
        let piece = left.min(PIECE);
        (piece > 0).then(|| (Ok(Frame::data(Bytes::from_static(&ZEROS[..piece]))), left - piece))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(pieces))));
    response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_model(tell: Option<mpsc::UnboundedSender<Call>>, talk: impl AsyncFnOnce(String)) {
        let model = NoopModel::bind("127.0.0.1:0", tell).await.unwrap();
        let url = model.url();
        tokio::select! {
            ended = model.serve() => ended.unwrap(),
            () = talk(url) => {}
        }
    }

    #[tokio::test]
    async fn it_answers_with_as_many_bytes_as_asked_for() {
        with_model(None, async |url| {
            for bytes in [1, 100, WHOLE, WHOLE + PIECE + 7] {
                let answer = reqwest::get(format!("{url}/answer/{bytes}")).await.unwrap();
                assert_eq!(answer.bytes().await.unwrap().len(), bytes);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_closed_gate_keeps_calls_until_it_opens() {
        let (tell, mut calls) = mpsc::unbounded_channel();
        with_model(Some(tell), async |url| {
            let post = |path: &str| reqwest::Client::new().post(format!("{url}{path}")).body("{}").send();
            post("/gate/closed").await.unwrap();
            let mut call = Box::pin(post("/answer/9"));
            tokio::select! {
                _ = &mut call => panic!("the gate is closed"),
                told = calls.recv() => assert_eq!(told.unwrap().payload, "{}"),
            }
            post("/gate/open").await.unwrap();
            assert_eq!(call.await.unwrap().bytes().await.unwrap().len(), 9);
        })
        .await;
    }
}
