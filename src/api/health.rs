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
use crate::{clock, worker::Pulse};

/// How long a dependency may take to answer: shorter than the usual patience of a probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the service cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dependency {
    /// Postgres or SQLite.
    Database,
    /// The gate in front of models, where it is not in this process.
    Redis,
    /// Where results go.
    Storage,
}

/// How a dependency answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sign {
    /// How long it took.
    pub(crate) after: Duration,
    /// What is wrong with it, if anything.
    pub(crate) lack: Option<&'static str>,
}

/// Everything that decides whether the service can do its work.
pub(crate) struct Checks {
    /// In the order in which they are named.
    pub(crate) dependencies: [(Dependency, Sign); 3],
    /// What this node's worker has not done for too long.
    pub(crate) deaf: Option<String>,
    stopping: bool,
}

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
    verdict(&checks(&api).await)?;
    envelope::ok(Health { status: "ready" })
}

/// What the service needs, each asked for a sign of life at the same time.
pub(crate) async fn checks(api: &ApiState) -> Checks {
    let (database, permits, storage) = tokio::join!(
        answers(api.store.ping(), PATIENCE),
        answers(api.permits.ping(), PATIENCE),
        answers(api.storage.ping(), PATIENCE),
    );
    Checks {
        dependencies: [(Dependency::Database, database), (Dependency::Redis, permits), (Dependency::Storage, storage)],
        deaf: api.pulse.as_ref().and_then(Pulse::deaf),
        stopping: api.stopping.is_cancelled(),
    }
}

async fn answers<E>(ping: impl Future<Output = Result<(), E>>, patience: Duration) -> Sign {
    let asked = clock::tick();
    let answer = tokio::time::timeout(patience, ping).await;
    let after = asked.elapsed();
    match answer {
        Ok(Ok(())) => Sign { after, lack: None },
        // Why is in the log; who asks here is not told where things are.
        Ok(Err(_)) => Sign { after, lack: Some("it is out of reach") },
        Err(_) => Sign { after, lack: Some("it does not answer in time") },
    }
}

/// Names what is away, without saying where it would be.
fn verdict(checks: &Checks) -> Result<(), ApiError> {
    if checks.stopping {
        return Err(ApiError::unavailable("the service is stopping"));
    }
    let away = checks.dependencies.iter().filter(|(_, sign)| sign.lack.is_some());
    let away: Vec<&str> = away.map(|(dependency, _)| dependency.in_words()).collect();
    if !away.is_empty() {
        return Err(ApiError::unavailable(format!("out of reach: {}", away.join(", "))));
    }
    checks.deaf.clone().map_or(Ok(()), |reason| Err(ApiError::unavailable(reason)))
}

impl Checks {
    /// True where the service can do its work.
    pub(crate) fn are_fine(&self) -> bool {
        verdict(self).is_ok()
    }
}

impl Dependency {
    /// As it is called in answers.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Dependency::Database => "database",
            Dependency::Redis => "redis",
            Dependency::Storage => "storage",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Dependency::Database => "the database",
            Dependency::Redis => "Redis",
            Dependency::Storage => "the object storage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(database: Sign, redis: Sign, storage: Sign) -> Checks {
        let dependencies =
            [(Dependency::Database, database), (Dependency::Redis, redis), (Dependency::Storage, storage)];
        Checks { dependencies, deaf: None, stopping: false }
    }

    #[tokio::test]
    async fn a_dependency_that_refuses_or_does_not_answer_in_time_is_away() {
        assert_eq!(answers(async { Ok::<(), ()>(()) }, PATIENCE).await.lack, None);
        assert!(answers(async { Err::<(), ()>(()) }, PATIENCE).await.lack.unwrap().contains("out of reach"));
        let silent = answers(std::future::pending::<Result<(), ()>>(), Duration::ZERO).await;
        assert!(silent.lack.unwrap().contains("in time"));
    }

    #[test]
    fn whatever_is_away_is_named() {
        let fine = Sign { after: Duration::ZERO, lack: None };
        let away = Sign { lack: Some("it is out of reach"), ..fine };
        assert!(checks(fine, fine, fine).are_fine());
        let error = verdict(&checks(away, fine, away)).unwrap_err();
        assert_eq!(error, ApiError::unavailable("out of reach: the database, the object storage"));
        let deaf = Checks { deaf: Some("the worker has not looked".into()), ..checks(fine, fine, fine) };
        assert_eq!(verdict(&deaf), Err(ApiError::unavailable("the worker has not looked")));
        let stopping = Checks { stopping: true, ..checks(away, fine, fine) };
        assert_eq!(verdict(&stopping), Err(ApiError::unavailable("the service is stopping")));
    }
}
