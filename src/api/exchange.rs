//! The outermost layer around every request: its id, the end of its panics, the envelope of its
//! failure, one log line.

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use tracing::Instrument;

use super::error::{ApiError, Kind};
use crate::{clock, metrics::Metrics};

/// The header that carries the id, both ways.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Most characters of an id that a caller brings along.
const MAX_LENGTH: usize = 128;

/// An outage is over when no request has failed for want of a dependency for this long.
const CALM: Duration = Duration::from_secs(30);

/// When a request failed last because a dependency was out of reach; each request that fails so is
/// not worth a line, its beginning is.
#[derive(Clone, Default)]
struct Outage {
    last: Arc<Mutex<Option<Instant>>>,
}

/// What goes along with every request.
#[derive(Clone)]
pub(crate) struct Company {
    outage: Outage,
    metrics: Metrics,
}

impl Company {
    /// Nothing has failed yet.
    pub(crate) fn new(metrics: Metrics) -> Company {
        Company { outage: Outage::default(), metrics }
    }
}

impl Outage {
    /// True for the failure that begins one.
    fn begins(&self, at: Instant) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(at);
        last.is_none_or(|last| at.saturating_duration_since(last) > CALM)
    }
}

/// The name of one request, in answers and in the log.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The caller's id, if it sent one that is safe to repeat; otherwise a fresh one.
    fn of(headers: &HeaderMap) -> RequestId {
        let sent = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        RequestId(sent.map_or_else(clock::token, str::to_owned))
    }

    /// For documents and tests.
    pub(crate) fn example() -> RequestId {
        RequestId("5b1f0e6c0a5e4c1c8a52f1c2a4f0e9d3".to_owned())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives the request its id, and the answer its final form.
pub(crate) async fn accompany(State(company): State<Company>, mut request: Request, next: Next) -> Response {
    let started = clock::tick();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    // The pattern, not the path: the name of a file is as good as a key to it.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!("request", request_id = %id);

    // Nothing that a handler changed is looked at after it panicked.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
    let response = answered.unwrap_or_else(|panic| panicked(&*panic));
    let mut response = ApiError::rendered(response, &id);
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(HEADER, value);
    }

    let route = route.as_ref().map_or("(none)", MatchedPath::as_str);
    let status = response.status().as_u16();
    let took = started.elapsed();
    let cost_ms = took.as_millis();
    company.metrics.answered(method.as_str(), route, response.status().as_str(), took);
    let failure = response.extensions().get::<ApiError>();
    let kind = failure.map_or("ok", |error| error.kind().name());
    let unavailable = failure.is_some_and(|error| error.kind() == Kind::Unavailable);
    match failure.and_then(ApiError::cause) {
        Some(error) if !unavailable => {
            tracing::error!(request_id = %id, %method, route, status, kind, cost_ms, error, "request failed")
        }
        Some(error) if company.outage.begins(clock::tick()) => {
            tracing::error!(request_id = %id, %method, route, status, kind,
            cost_ms, error, "requests fail because a dependency is out of reach; the next ones are not logged")
        }
        Some(error) => {
            tracing::debug!(request_id = %id, %method, route, status, kind, cost_ms, error, "request failed")
        }
        None => tracing::debug!(request_id = %id, %method, route, status, kind, cost_ms, "request answered"),
    }
    response
}

/// The answer where a handler panicked.
fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panic: {}", text.unwrap_or("without a message"))).into_response()
}

fn is_sane(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sent: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(sent).unwrap());
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_sane_id_of_the_caller_is_kept() {
        for id in ["a", "req-1.2:3_4", &"x".repeat(128)] {
            assert_eq!(of(id.as_bytes()), id);
        }
    }

    #[test]
    fn an_outage_is_logged_when_it_begins() {
        let (outage, at) = (Outage::default(), clock::tick());
        assert!(outage.begins(at));
        assert!(!outage.begins(at + CALM));
        assert!(!outage.begins(at + CALM * 2), "it goes on");
        assert!(outage.begins(at + CALM * 4));
    }

    #[test]
    fn any_other_id_is_replaced_by_a_fresh_one() {
        for id in [&b""[..], b"a b", b"<script>", b"\xff", "x".repeat(129).as_bytes()] {
            assert_eq!(of(id).len(), 32, "{id:?}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()).to_string(), RequestId::of(&HeaderMap::new()).to_string());
    }
}
