//! A real HTTP file service with scripted moods: takes multipart POSTs, remembers them, and hands
//! the files out again.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

/// A file service on a port of its own, gone with this value.
pub(crate) struct FileService {
    address: SocketAddr,
    inner: Arc<Inner>,
    server: tokio::task::JoinHandle<()>,
}

struct Inner {
    address: SocketAddr,
    uploads: Mutex<Vec<Upload>>,
    script: Mutex<VecDeque<Reply>>,
}

/// What came with one POST.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) headers: HeaderMap,
    /// The part's `Content-Disposition` and other headers, as they came.
    pub(crate) part_headers: String,
    pub(crate) content: Bytes,
}

/// How the service answers the next upload; without a script it stores and tells the URL.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// This status and body.
    Answer(u16, String),
    /// A redirect to here.
    Redirect(String),
    /// Never.
    Hang,
}

impl FileService {
    pub(crate) async fn start() -> FileService {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { address, uploads: Mutex::default(), script: Mutex::default() });
        let router = Router::new()
            .route("/upload", post(upload))
            .route("/files/{number}", get(download))
            .with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        FileService { address, inner, server }
    }

    /// For `oss.url`.
    pub(crate) fn url(&self) -> url::Url {
        format!("http://{}/upload", self.address).parse().unwrap()
    }

    /// Answers the next uploads so, in this order.
    pub(crate) fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.inner.script.lock().unwrap().extend(replies);
    }

    /// Everything that came in whole so far.
    pub(crate) fn uploads(&self) -> Vec<Upload> {
        self.inner.uploads.lock().unwrap().clone()
    }
}

impl Drop for FileService {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn upload(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let Ok(body) = axum::body::to_bytes(request.into_body(), usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (part_headers, content) = only_part(&headers, &body).expect("a form with one part");
    let number = {
        let mut uploads = inner.uploads.lock().unwrap();
        uploads.push(Upload { headers, part_headers, content });
        uploads.len() - 1
    };
    let reply = inner.script.lock().unwrap().pop_front();
    match reply {
        None => {
            let url = format!("http://{}/files/{number}", inner.address);
            format!(r#"{{"code":0,"message":"OK","data":{{"fileURL":"{url}"}}}}"#).into_response()
        }
        Some(Reply::Answer(status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Some(Reply::Redirect(url)) => Redirect::temporary(&url).into_response(),
        Some(Reply::Hang) => std::future::pending().await,
    }
}

async fn download(State(inner): State<Arc<Inner>>, Path(number): Path<usize>) -> Response {
    match inner.uploads.lock().unwrap().get(number) {
        Some(upload) => Body::from(upload.content.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Headers and content of the one part of a multipart form.
pub(crate) fn only_part(headers: &HeaderMap, body: &Bytes) -> Option<(String, Bytes)> {
    let (_, boundary) = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split_once("boundary=")?;
    let start = format!("--{boundary}\r\n");
    let end = format!("\r\n--{boundary}--\r\n");
    let part = body.strip_prefix(start.as_bytes())?.strip_suffix(end.as_bytes())?;
    let gap = part.windows(4).position(|window| window == b"\r\n\r\n")?;
    let headers = String::from_utf8(part[..gap].to_vec()).ok()?;
    Some((headers, body.slice_ref(&part[gap + 4..])))
}
