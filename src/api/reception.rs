//! The layer in front of every handler that wants to know its caller: who is calling, from the headers
//! alone and before a byte of the body is read, how often and with which scope; what was sent, within
//! limits; for which tenant; and, for changing calls, the row in the operation log around all of that.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    ApiState,
    audit::{Entry, Notes},
    auth::{self, Acting, Gate, Shown},
    error::ApiError,
    exchange::RequestId,
    rate::Rate,
    request::{self, Limits, Sent},
};
use crate::{
    caller::{Caller, Scope},
    config::Auth,
    oplog::OpLogger,
};

/// What the reception of a route has to know.
pub(crate) struct Desk {
    /// Who is calling.
    pub(crate) gate: Gate,
    /// True behind a gateway, which says where a call came from.
    pub(crate) hops_are_reported: bool,
    /// How often a tenant may call.
    pub(crate) rate: Option<Arc<Rate>>,
    /// What a caller must have been given, if anything.
    pub(crate) scope: Option<Scope>,
    pub(crate) limits: Limits,
    /// Where calls of this route are logged, if they are.
    pub(crate) log: Option<OpLogger>,
}

/// What is known of a request by the time it reaches its handler, for the extractors.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) acting: Acting,
    pub(crate) shown: Shown,
    pub(crate) sent: Sent,
    pub(crate) notes: Notes,
}

/// Layer, behind `exchange::accompany`.
pub(crate) async fn receive(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = desk.gate.caller(request.headers()).await?;
    if let Some(rate) = &desk.rate {
        rate.take(caller.tenant)?;
    }
    let Some(log) = &desk.log else {
        return hand_on(&desk, &caller, Notes::default(), request, next).await;
    };
    let id = request.extensions().get::<RequestId>().cloned();
    let id = id.ok_or_else(|| ApiError::internal("the route is not behind exchange::accompany"))?;
    let notes = Notes::kept();
    let entry = Entry::begin(log, desk.hops_are_reported, &caller, notes.clone(), &request);
    let response = hand_on(&desk, &caller, notes, request, next).await.into_response();
    Ok(entry.end(response, &id).await)
}

/// Reads the body and lets the handler answer.
async fn hand_on(
    desk: &Desk,
    caller: &Caller,
    notes: Notes,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(scope) = desk.scope.filter(|scope| !caller.scopes.allow(*scope)) {
        return Err(ApiError::lacks_scope(scope));
    }
    let (mut parts, body) = request.into_parts();
    let sent = request::receive(&parts, body, desk.limits).await?;
    let (acting, shown) = auth::act(caller, &sent, &notes)?;
    parts.extensions.insert(Received { acting, shown, sent, notes });
    Ok(next.run(Request::from_parts(parts, Body::empty())).await)
}

impl Desk {
    /// The desk of a route that takes a scope, if it does, with that log where its calls are logged.
    pub(crate) fn new(state: &ApiState, scope: Option<Scope>, rate: Option<Arc<Rate>>, log: Option<OpLogger>) -> Desk {
        Desk {
            gate: state.gate.clone(),
            hops_are_reported: matches!(state.config.auth, Auth::Gateway { .. }),
            rate,
            scope,
            limits: Limits::of_bytes(state.config.server.max_body_bytes),
            log,
        }
    }
}

impl Received {
    /// What is known of that request.
    ///
    /// # Errors
    /// Where its route has no reception, which is a bug.
    pub(crate) fn of(parts: &Parts) -> Result<&Received, ApiError> {
        let received = parts.extensions.get::<Received>();
        received.ok_or_else(|| ApiError::internal("the route is not behind reception::receive"))
    }
}
