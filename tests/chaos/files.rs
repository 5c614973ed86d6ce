//! The file service that results are uploaded to. It keeps of each file what the verdict needs, and
//! has moods too.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::support::file_service::only_part;

/// How it behaves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Calm,
    /// Answers 500.
    Fail,
    /// Takes the file and never answers.
    Hang,
    /// Takes the file, and its answer breaks off.
    Truncate,
    /// Hangs up before the file has come.
    Refuse,
}

/// A file that came in whole and whose URL was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The result's first line: task and attempt.
    pub label: String,
    pub size: usize,
    pub crc: u32,
}

/// See the module.
#[derive(Clone)]
pub struct Files {
    pub url: String,
    inner: Arc<Inner>,
}

struct Inner {
    base: String,
    stored: Mutex<Vec<Stored>>,
    mood: Mutex<Mood>,
}

impl Files {
    pub async fn start() -> Files {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner { base: base.clone(), stored: Mutex::default(), mood: Mutex::new(Mood::Calm) });
        let router = Router::new().fallback(upload).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Files { url: format!("{base}/upload"), inner }
    }

    pub fn set(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    /// The file at a URL that the service handed out.
    pub fn at(&self, url: &str) -> Option<Stored> {
        let number: usize = url.strip_prefix(&self.inner.base)?.strip_prefix("/files/")?.parse().ok()?;
        self.inner.stored.lock().unwrap().get(number).cloned()
    }
}

async fn upload(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let mood = *inner.mood.lock().unwrap();
    if mood == Mood::Refuse {
        return (StatusCode::INTERNAL_SERVER_ERROR, [("connection", "close")]).into_response();
    }
    let headers = request.headers().clone();
    let Ok(body) = axum::body::to_bytes(request.into_body(), 64 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some((_, content)) = only_part(&headers, &body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match mood {
        Mood::Fail => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Hang => std::future::pending::<()>().await,
        Mood::Truncate => return r#"{"code":0,"data":{"fileURL":"http://"#.into_response(),
        Mood::Calm | Mood::Refuse => {}
    }
    let number = {
        let mut stored = inner.stored.lock().unwrap();
        stored.push(Stored { label: label(&content), size: content.len(), crc: crc32fast::hash(&content) });
        stored.len() - 1
    };
    format!(r#"{{"code":0,"data":{{"fileURL":"{}/files/{number}"}}}}"#, inner.base).into_response()
}

fn label(content: &Bytes) -> String {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}
