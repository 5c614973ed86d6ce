//! Around changing calls: one row in the operation log for each, whatever becomes of it.
//!
//! What the row says comes together on the way in: reception and handlers leave [`Notes`]. The bodies
//! are handed over as they are; masking and writing happen behind the caller's back.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    body::{Body, to_bytes},
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, header, request::Parts},
    response::Response,
};
use bytes::Bytes;

use super::{error::ApiError, exchange::RequestId, reception::Received};
use crate::{
    caller::Caller,
    clock,
    oplog::{OpLog, OpLogger, OpRecord},
    task::{TaskId, TenantId},
};

/// Most characters of a user agent, as wide as its column.
const MAX_USER_AGENT: usize = 256;

/// Where a handler says what its call is about; costs nothing on routes that are not logged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Option<Arc<Mutex<Noted>>>);

#[derive(Debug, Default)]
struct Noted {
    tenant: Option<TenantId>,
    request: Bytes,
    biz_name: String,
    model_name: String,
    task_id: String,
}

/// A row in the making. One that is dropped unfinished is written as broken off: a caller that hangs
/// up stops its handler, but what the handler did by then is done.
pub(crate) struct Entry {
    log: OpLogger,
    notes: Notes,
    started: Instant,
    record: Option<OpRecord>,
}

impl Notes {
    /// For a call that is logged.
    pub(crate) fn kept() -> Notes {
        Notes(Some(Arc::default()))
    }

    /// What was sent; must be JSON.
    pub(crate) fn request(&self, text: impl FnOnce() -> Bytes) {
        self.change(|noted| noted.request = text());
    }

    /// The tenant that the caller acts for.
    pub(crate) fn tenant(&self, tenant: TenantId) {
        self.change(|noted| noted.tenant = Some(tenant));
    }

    /// The model that the call is about.
    pub(crate) fn model(&self, name: &str) {
        self.change(|noted| name.clone_into(&mut noted.model_name));
    }

    /// The caller's module.
    pub(crate) fn biz(&self, name: &str) {
        self.change(|noted| name.clone_into(&mut noted.biz_name));
    }

    /// The task that the call is about.
    pub(crate) fn task(&self, id: TaskId) {
        self.change(|noted| noted.task_id = id.to_string());
    }

    fn change(&self, change: impl FnOnce(&mut Noted)) {
        if let Some(mut noted) = self.lock() {
            change(&mut noted);
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Noted>> {
        self.0.as_ref().map(|noted| noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entry {
    /// The row of a call that has just come in.
    pub(crate) fn begin(
        log: &OpLogger,
        hops_are_reported: bool,
        caller: &Caller,
        notes: Notes,
        request: &Request,
    ) -> Entry {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let row = OpLog {
            tenant: caller.tenant,
            creator: caller.user.clone(),
            created_at: clock::now(),
            ip: address(hops_are_reported, request),
            user_agent: user_agent(request.headers()),
            api_path: route.to_owned(),
            http_method: request.method().to_string(),
            op_type: route.rsplit('/').next().unwrap_or_default().to_owned(),
            error_msg: "broken off before it was answered".to_owned(),
            ..OpLog::default()
        };
        let record = OpRecord { row, request: Bytes::new(), response: Bytes::new() };
        Entry { log: log.clone(), notes, started: clock::tick(), record: Some(record) }
    }

    /// Writes the row with its outcome and passes the response on.
    pub(crate) async fn end(mut self, response: Response, id: &RequestId) -> Response {
        let (error_msg, body, response) = match response.extensions().get::<ApiError>() {
            Some(error) => (Some(error.message(id)), error.body(id), response),
            None => {
                let (parts, body) = response.into_parts();
                // Our own answers are whole in memory already: this neither waits nor fails.
                let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
                (None, body.clone(), Response::from_parts(parts, Body::from(body)))
            }
        };
        if let Some(record) = &mut self.record {
            record.row.success = error_msg.is_none();
            record.row.error_msg = error_msg.unwrap_or_default();
            record.response = body;
        }
        response
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        let row = &mut record.row;
        if let Some(mut noted) = self.notes.lock() {
            row.tenant = noted.tenant.unwrap_or(row.tenant);
            record.request = std::mem::take(&mut noted.request);
            row.biz_name = std::mem::take(&mut noted.biz_name);
            row.model_name = std::mem::take(&mut noted.model_name);
            row.task_id = std::mem::take(&mut noted.task_id);
        }
        row.cost_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.log.record(record);
    }
}

/// The caller's address. Behind a gateway that is the first hop it reports; anybody else could claim
/// to be anywhere.
fn address(hops_are_reported: bool, request: &Request) -> String {
    let reported = if hops_are_reported { first_hop(request.headers()) } else { None };
    let peer = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    reported.or_else(peer).map(|ip| ip.to_canonical().to_string()).unwrap_or_default()
}

fn first_hop(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get("x-forwarded-for")?.to_str().ok()?.split(',').next()?.trim().parse().ok()
}

fn user_agent(headers: &HeaderMap) -> String {
    let Some(value) = headers.get(header::USER_AGENT) else { return String::new() };
    match value.to_str() {
        // The usual one: visible ASCII, which fits as it is.
        Ok(text) if text.len() <= MAX_USER_AGENT && !text.contains('\t') => return text.to_owned(),
        Ok(_) | Err(_) => {}
    }
    String::from_utf8_lossy(value.as_bytes()).chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect()
}

impl<S: Sync> FromRequestParts<S> for Notes {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Notes, Infallible> {
        Ok(Received::of(parts).map(|received| received.notes.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(forwarded: Option<&str>) -> Request {
        let mut request = Request::new(Body::empty());
        let peer = SocketAddr::from(([10, 0, 0, 9], 4711));
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(hops) = forwarded {
            request.headers_mut().insert("x-forwarded-for", hops.parse().unwrap());
        }
        request
    }

    #[test]
    fn only_a_gateway_is_believed_where_a_call_came_from() {
        assert_eq!(address(true, &request(Some("203.0.113.7, 10.0.0.1"))), "203.0.113.7");
        assert_eq!(address(true, &request(Some("<script>"))), "10.0.0.9");
        assert_eq!(address(true, &request(None)), "10.0.0.9");
        assert_eq!(address(false, &request(Some("203.0.113.7"))), "10.0.0.9");
    }

    #[test]
    fn a_user_agent_fits_its_column_and_has_no_control_characters() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, format!("a\tb{}", "x".repeat(300)).parse().unwrap());
        let agent = user_agent(&headers);
        assert!(agent.starts_with("abx") && agent.chars().count() == MAX_USER_AGENT);
    }

    #[test]
    fn notes_on_a_route_that_is_not_logged_go_nowhere() {
        let notes = Notes::default();
        notes.model("tts");
        assert!(notes.lock().is_none());
    }
}
