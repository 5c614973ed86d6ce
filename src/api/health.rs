//! The routes of probes: is the process up, and can it do its work?

use std::{future::Future, time::Duration};

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ApiState,
    envelope::{self, Answer, Envelope},
    error::ApiError,
};
use crate::worker::Pulse;

/// How long a dependency may take to answer: shorter than the usual patience of a probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// The service is fine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `up` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
}

/// Is the process up?
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "It is", body = Envelope<Health>),
))]
pub(crate) async fn healthz() -> Answer<Health> {
    envelope::ok(Health { status: "up" })
}

/// Can it do its work?
///
/// Asks database, Redis and storage for a sign of life, and whether this node's worker still renews
/// its lease and looks for work.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It can", body = Envelope<Health>),
    (status = 503, description = "A dependency is out of reach, or the service is stopping; the message says which"),
))]
pub(crate) async fn readyz(State(api): State<ApiState>) -> Answer<Health> {
    if api.stopping.is_cancelled() {
        return Err(ApiError::unavailable("the service is stopping"));
    }
    let (database, permits, storage) = tokio::join!(
        answers(api.store.ping(), PATIENCE),
        answers(api.permits.ping(), PATIENCE),
        answers(api.storage.ping(), PATIENCE),
    );
    verdict(&[("the database", database), ("Redis", permits), ("the object storage", storage)])?;
    match api.pulse.as_ref().and_then(Pulse::deaf) {
        Some(reason) => Err(ApiError::unavailable(reason)),
        None => envelope::ok(Health { status: "ready" }),
    }
}

async fn answers<E>(ping: impl Future<Output = Result<(), E>>, patience: Duration) -> bool {
    matches!(tokio::time::timeout(patience, ping).await, Ok(Ok(())))
}

/// Names what is away, without saying where it would be.
fn verdict(dependencies: &[(&str, bool)]) -> Result<(), ApiError> {
    let away: Vec<&str> = dependencies.iter().filter(|(_, answers)| !answers).map(|(name, _)| *name).collect();
    if away.is_empty() {
        return Ok(());
    }
    Err(ApiError::unavailable(format!("out of reach: {}", away.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dependency_that_refuses_or_does_not_answer_in_time_is_away() {
        assert!(answers(async { Ok::<(), ()>(()) }, PATIENCE).await);
        assert!(!answers(async { Err::<(), ()>(()) }, PATIENCE).await);
        assert!(!answers(std::future::pending::<Result<(), ()>>(), Duration::ZERO).await);
    }

    #[test]
    fn whatever_is_away_is_named() {
        assert!(verdict(&[("a", true), ("b", true)]).is_ok());
        let error = verdict(&[("a", false), ("b", true), ("c", false)]).unwrap_err();
        assert_eq!(error, ApiError::unavailable("out of reach: a, c"));
    }
}
