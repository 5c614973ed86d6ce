//! The models: one HTTP server that does what each payload says, is in a bad mood when told to be,
//! and keeps the record of calls that the verdict rests on.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

/// Bytes sent at once.
const CHUNK: usize = 64 * 1024;

/// What a task asks of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload {
    /// Unique to one request of createTask.
    pub n: u64,
    /// The lane, as the limits are counted.
    pub lane: String,
    pub work_millis: u64,
    pub size: usize,
    /// Answer 422, which is for good.
    #[serde(default)]
    pub refuse: bool,
}

/// How models behave at the moment; in a bad mood every second call suffers from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Calm,
    Hang,
    Trickle,
    Break,
    Busy,
    Unavailable,
    Empty,
}

/// How a call ended, as the model saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// The whole result was sent.
    Answered,
    /// The model failed it on purpose.
    Failed,
    /// The caller hung up while the model meant well.
    Dropped,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    pub task: String,
    pub attempt: u32,
    pub lane: String,
    pub n: u64,
    pub began: Instant,
    pub ended: Option<Instant>,
    pub end: End,
    /// Size and checksum of the body, as far as one was sent whole.
    pub sent: Option<(usize, u32)>,
}

/// See the module.
#[derive(Clone)]
pub struct Models {
    pub url: String,
    inner: Arc<Inner>,
}

struct Inner {
    calls: Mutex<Vec<Call>>,
    mood: Mutex<Mood>,
}

/// Writes a call's end into the record, at the latest when it is dropped.
struct Record {
    inner: Arc<Inner>,
    index: usize,
    at_drop: End,
}

impl Record {
    fn end(&self, end: End, sent: Option<(usize, u32)>) {
        let call = &mut self.inner.calls.lock().unwrap()[self.index];
        if call.end == End::Open {
            call.ended = Some(Instant::now());
            call.end = end;
            call.sent = sent;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(self.at_drop, None);
    }
}

impl Models {
    pub async fn start() -> Models {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner { calls: Mutex::default(), mood: Mutex::new(Mood::Calm) });
        let router = Router::new().fallback(answer).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Models { url, inner }
    }

    pub fn set(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    /// The record so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).unwrap().to_str().unwrap().to_owned();
    let (task, attempt) = (header("x-task-id"), header("x-task-attempt").parse().unwrap());
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let payload: Payload = serde_json::from_slice(&body).unwrap();
    let index = {
        let mut calls = inner.calls.lock().unwrap();
        let Payload { lane, n, .. } = payload.clone();
        calls.push(Call { task: task.clone(), attempt, lane, n, began, ended: None, end: End::Open, sent: None });
        calls.len() - 1
    };
    let mood = if index % 2 == 0 { *inner.mood.lock().unwrap() } else { Mood::Calm };
    let at_drop = if matches!(mood, Mood::Hang | Mood::Trickle) { End::Failed } else { End::Dropped };
    let record = Record { inner, index, at_drop };
    let failed = |status: StatusCode, retry_after: &str| {
        record.end(End::Failed, None);
        Response::builder().status(status).header("retry-after", retry_after).body(Body::from("no")).unwrap()
    };
    match mood {
        Mood::Busy => return failed(StatusCode::TOO_MANY_REQUESTS, "1"),
        Mood::Unavailable => return failed(StatusCode::SERVICE_UNAVAILABLE, "1"),
        Mood::Empty => {
            record.end(End::Failed, None);
            return StatusCode::OK.into_response();
        }
        Mood::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return StatusCode::OK.into_response();
        }
        Mood::Trickle => return Body::from_stream(trickle(record)).into_response(),
        Mood::Break => {
            record.end(End::Failed, None);
            let half = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("broken on purpose"))];
            let half = futures::stream::iter(half).then(async |part| {
                tokio::task::yield_now().await;
                part
            });
            return Body::from_stream(Box::pin(half)).into_response();
        }
        Mood::Calm => {}
    }
    tokio::time::sleep(Duration::from_millis(payload.work_millis)).await;
    if payload.refuse {
        return failed(StatusCode::UNPROCESSABLE_ENTITY, "0");
    }
    let whole = Bytes::from(result(&task, attempt, payload.size));
    let sent = (whole.len(), crc32fast::hash(&whole));
    Body::from_stream(chunks(whole, record, sent)).into_response()
}

/// The result of an attempt: a line that says whose it is, and bytes that follow from it.
pub fn result(task: &str, attempt: u32, size: usize) -> Vec<u8> {
    let mut bytes = format!("{task} {attempt}\n").into_bytes();
    let seed = crc32fast::hash(&bytes);
    let mut random = fastrand::Rng::with_seed(seed.into());
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(size));
    bytes
}

fn chunks(whole: Bytes, record: Record, sent: (usize, u32)) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold((whole, record), move |(mut left, record)| async move {
        if left.is_empty() {
            return None;
        }
        let chunk = left.split_to(left.len().min(CHUNK));
        if left.is_empty() {
            record.end(End::Answered, Some(sent));
        }
        Some((Ok(chunk), (left, record)))
    })
}

fn trickle(record: Record) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold(record, |record| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Some((Ok(Bytes::from_static(b".")), record))
    })
}

/// The calls of each task, in the order in which they came.
pub fn by_task(calls: &[Call]) -> HashMap<&str, Vec<&Call>> {
    let mut tasks: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in calls {
        tasks.entry(&call.task).or_default().push(call);
    }
    tasks
}
