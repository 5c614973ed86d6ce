//! One look at all that the rules are about, and at nothing else.

use std::{collections::BTreeSet, time::Duration};

use tracing::debug;

use super::Parts;
use crate::{
    alert::{
        Dependency,
        rules::{Rule, Watch},
        sight::{LaneSight, Sight, without_successor},
    },
    census::CensusTaker,
    clock,
    store::{Store, StoreError},
};

/// How long a dependency may take to answer, as for `/readyz`.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks. What could not be looked at, the sight lacks.
///
/// # Errors
/// Where the database is out of reach.
pub(super) async fn look(parts: &Parts, rules: &[Rule]) -> Result<Sight, StoreError> {
    let watches = |wanted: fn(&Watch) -> bool| rules.iter().any(|rule| wanted(&rule.watch));
    tokio::time::timeout(PATIENCE, parts.store.ping())
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer within {} s", PATIENCE.as_secs())))??;
    let mut sight = Sight { at: clock::now(), ..Sight::default() };
    if watches(|watch| matches!(watch, Watch::Queues(..))) {
        sight.lanes = seen("queues", lanes(&parts.census).await)?;
    }
    let windows: BTreeSet<Duration> = rules.iter().flat_map(Rule::windows).collect();
    for window in windows {
        let calls = parts.store.calls_since(sight.at - window).await;
        sight.calls.insert(window, seen("calls", calls)?);
    }
    if watches(|watch| matches!(watch, Watch::Nodes)) {
        sight.nodes = seen("nodes", nodes(&parts.store).await)?;
    }
    if watches(|watch| matches!(watch, Watch::Dependencies(_))) {
        sight.dependencies = dependencies(parts).await;
    }
    Ok(sight)
}

/// A database that is away ends the look; anything else only keeps a part of it from being seen.
fn seen<T>(what: &str, outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        Err(error @ StoreError::Broken(_)) => {
            debug!(%error, "the monitor cannot see {what}; their rules are left alone");
            Ok(None)
        }
    }
}

async fn lanes(census: &CensusTaker) -> Result<Vec<LaneSight>, StoreError> {
    let census = census.look().await?;
    let lanes = census.lanes.iter().map(|lane| LaneSight {
        tenant: lane.lane.tenant,
        model_name: lane.model_name.clone(),
        pending: lane.queued + lane.resting,
        oldest: lane.oldest_enqueue_at,
    });
    Ok(lanes.collect())
}

async fn nodes(store: &Store) -> Result<Vec<crate::alert::sight::NodeSight>, StoreError> {
    // In this order: whoever comes back in between is alive, and was lost.
    let lost = store.lost_nodes().await?;
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    Ok(without_successor(&lost, &store.live_nodes().await?))
}

/// The database has answered already.
async fn dependencies(parts: &Parts) -> Vec<(Dependency, bool)> {
    let (redis, storage) = tokio::join!(answers(parts.permits.ping()), answers(parts.storage.ping()));
    vec![(Dependency::Database, true), (Dependency::Redis, redis), (Dependency::Storage, storage)]
}

async fn answers<E>(ping: impl Future<Output = Result<(), E>>) -> bool {
    matches!(tokio::time::timeout(PATIENCE, ping).await, Ok(Ok(())))
}
