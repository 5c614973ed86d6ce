//! Requests about tasks as spans: in the caller's trace where it sent one, else the first of a trace.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::envelope::Answer;
use crate::{
    task::trace::TraceContext,
    trace::{Kind, Span, Tracer},
};

/// The header that says which span a request is part of (W3C Trace Context).
const HEADER: &str = "traceparent";

/// The span that the caller made its request in, if it sent one that makes sense.
pub(crate) struct CallersSpan(pub(crate) Option<TraceContext>);

/// A request as it is traced.
pub(crate) struct RequestSpan {
    /// Where what comes of the request belongs; `None` where nobody traces it.
    pub(crate) context: Option<TraceContext>,
    /// It is part of the caller's own trace.
    pub(crate) continues: bool,
    pub(crate) span: Span,
}

impl<S: Sync> FromRequestParts<S> for CallersSpan {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<CallersSpan, Infallible> {
        let sent = parts.headers.get(HEADER).and_then(|value| value.to_str().ok());
        Ok(CallersSpan(sent.and_then(TraceContext::parse)))
    }
}

impl RequestSpan {
    /// Begins the span of a request under that name, `POST /route`; `trace` is the id of its trace,
    /// should it begin one.
    pub(crate) fn begin(
        tracer: &Tracer,
        name: &'static str,
        CallersSpan(caller): CallersSpan,
        trace: impl FnOnce() -> u128,
    ) -> RequestSpan {
        let Some(context) = tracer.begin(caller, trace) else {
            return RequestSpan { context: caller, continues: caller.is_some(), span: Span::default() };
        };
        let parent = caller.map_or(0, |caller| caller.span);
        let mut span = tracer.span(name, Kind::Server, context, parent);
        if let Some((method, route)) = name.split_once(' ') {
            span.set("http.request.method", method);
            span.set("http.route", route);
        }
        RequestSpan { context: Some(context), continues: caller.is_some(), span }
    }

    /// Ends it with what was answered.
    pub(crate) fn end<T>(mut self, answer: &Answer<T>) {
        let (status, kind) = match answer {
            Ok(_) => (StatusCode::OK, ""),
            Err(error) => (error.kind().status(), error.kind().name()),
        };
        self.span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.fail(kind, "the request failed");
        } else if !status.is_success() {
            // Not an error of the server, by the conventions for HTTP.
            self.span.set("error.type", kind);
        }
    }
}
