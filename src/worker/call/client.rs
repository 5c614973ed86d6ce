//! What models are called with: hyper's client, which connects only to what may be called and keeps
//! connections for the next call.
//!
//! No redirects (a model that moved is registered anew), no proxy (it would dial instead of us).

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, http::uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::failure;
use crate::{
    consul::Services,
    egress::{Denied, Egress, Unreachable},
    task::{Failure, FailureKind},
    trace::Tracer,
};

/// What a call sends.
pub(super) type Body = Full<Bytes>;

/// Connections to one model that are kept though no call uses them.
const IDLE_CONNECTIONS: usize = 1024;

/// How long they are kept.
const IDLE: Duration = Duration::from_secs(90);

/// A connection that was silent for so long is probed.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// How long the next probe waits.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// Probes without an answer after which a connection is given up.
const PROBES: u32 = 3;

/// How long what was sent may go without an acknowledgement.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How often a call is sent anew that a server refused unread.
const REFUSALS: u32 = 2;

/// What is said of a connection that was there.
const BROKE: &str = "the connection to the model broke";

/// See the module.
pub(in crate::worker) struct ModelClient {
    /// For `http`: its connections do without what one with TLS takes in memory.
    plain: Client<HttpConnector<Egress>, Body>,
    /// For `https`, and HTTP/2 where the model offers it.
    secure: Client<HttpsConnector<HttpConnector<Egress>>, Body>,
    pub(super) egress: Egress,
    pub(super) services: Services,
    pub(super) tracer: Tracer,
}

impl ModelClient {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Where the TLS set-up of the machine is unusable.
    pub(in crate::worker) fn new(egress: &Egress, services: Services, tracer: Tracer) -> io::Result<ModelClient> {
        let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| aws_lc_rs::default_provider().into());
        let secure = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider)?
            .https_only()
            .enable_all_versions()
            .wrap_connector(connector(egress, false));
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS);
        Ok(ModelClient {
            plain: builder.build(connector(egress, true)),
            secure: builder.build(secure),
            egress: egress.clone(),
            services,
            tracer,
        })
    }

    /// Sends a request. One that meets a kept connection which the model has just closed is sent on another.
    ///
    /// # Errors
    /// Where no connection can be made, or it breaks before the head of an answer.
    pub(super) fn send(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, legacy::Error>> + Send {
        if request.uri().scheme() == Some(&Scheme::HTTPS) {
            Either::Left(self.send_securely(request))
        } else {
            Either::Right(self.plain.request(request))
        }
    }

    /// Sends once more what a server of HTTP/2 says that it has not looked at.
    fn send_securely(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Incoming>, legacy::Error>> {
        Box::pin(async move {
            for _ in 0..REFUSALS {
                match self.secure.request(request.clone()).await {
                    Err(error) if refused_unread(&error) => {}
                    outcome => return outcome,
                }
            }
            self.secure.request(request).await
        })
    }
}

fn connector(egress: &Egress, enforce_http: bool) -> HttpConnector<Egress> {
    let mut connector = HttpConnector::new_with_resolver(egress.clone());
    connector.enforce_http(enforce_http);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(PROBE_AFTER));
    connector.set_keepalive_interval(Some(PROBE_EVERY));
    connector.set_keepalive_retries(Some(PROBES));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

/// A connection that could not be made, or broke before an answer came.
pub(super) fn unanswered(error: &legacy::Error) -> Failure {
    if let Some(denied) = causes(error).find_map(denied) {
        return failure(FailureKind::Unsendable, denied.to_string());
    }
    lost(if error.is_connect() { "could not connect to the model" } else { BROKE }, error)
}

/// A connection that broke while an answer came.
pub(super) fn broken(error: &hyper::Error) -> Failure {
    lost(BROKE, error)
}

/// Told by its root, which is without the URL, whose query may carry a key.
fn lost(what: &str, error: &(dyn Error + 'static)) -> Failure {
    let cause = causes(error).last().unwrap_or(error);
    failure(FailureKind::Connection, format!("{what}: {cause}"))
}

/// The resolver's refusal, if that is what kept the connection from being made.
fn denied<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a Denied> {
    match cause.downcast_ref::<Unreachable>() {
        Some(Unreachable::Denied(denied)) => Some(denied),
        Some(Unreachable::Unresolved(_)) | None => None,
    }
}

/// A server of HTTP/2 that is about to stop, or too busy, says so (RFC 9113 §8.7).
fn refused_unread(error: &legacy::Error) -> bool {
    let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<h2::Error>()) else { return false };
    let stops = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    let refuses = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (stops || refuses)
}

/// An error and what is behind it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause: &&'a (dyn Error + 'static)| cause.source())
}
