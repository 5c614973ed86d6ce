//! Finding tasks: candidates for the cleaner, lanes for the dispatcher.

use std::time::Duration;

use sqlx::SqlitePool;

use super::now;
use crate::{
    store::{
        StoreError,
        tasks::{
            micros,
            rows::{read_abandoned, read_lane, read_waiting},
        },
    },
    task::{Abandoned, Lane, Waiting},
};

/// Hops from lane to lane over the index of claimable tasks, whatever lies between two hops.
macro_rules! lanes {
    () => {
        "WITH RECURSIVE lanes AS (
            SELECT tenant_id, model_id FROM (
                SELECT tenant_id, model_id FROM asynch_task WHERE state = 0 AND due_at IS NULL
                ORDER BY tenant_id, model_id LIMIT 1)
            UNION ALL
            SELECT n.tenant_id, n.model_id FROM lanes l JOIN asynch_task n ON n.id = (
                SELECT t.id FROM asynch_task t
                WHERE t.state = 0 AND t.due_at IS NULL AND (t.tenant_id, t.model_id) > (l.tenant_id, l.model_id)
                ORDER BY t.tenant_id, t.model_id LIMIT 1)
        )"
    };
}

const LANES: &str = concat!(lanes!(), " SELECT tenant_id, model_id FROM lanes");

/// All that run are looked at, in the one index of running tasks: there are only as many as calls.
/// Deadlines are no reason: they are on this process's own wall clock, which may jump, and it is this
/// process that keeps them.
const ABANDONED: &str = "
    SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.owner, t.lost_attempts, t.phase, t.creator, t.model_name,
           t.traceparent, t.started_at
    FROM asynch_task t
    WHERE t.state = 1 AND t.owner NOT IN (SELECT node FROM asynch_node)
    LIMIT $1";

/// A task that came back keeps an old place, but has waited only since then: nothing else changes
/// a queued row.
const QUEUED_LONGER_THAN: &str = concat!(
    lanes!(),
    " SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent
      FROM lanes l CROSS JOIN asynch_task t
      WHERE t.tenant_id = l.tenant_id AND t.model_id = l.model_id AND t.state = 0 AND t.due_at IS NULL
        AND t.enqueue_at < $1 AND t.updated_at < $1
      LIMIT $2"
);

/// Two halves, one for each partial index of queued tasks.
const QUEUED_FOR_DELETED_MODELS: &str = "
    SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent
    FROM asynch_models m CROSS JOIN asynch_lane_in i CROSS JOIN asynch_task t
    WHERE m.deleted_at IS NOT NULL AND i.model_id = m.id
      AND t.tenant_id = i.tenant_id AND t.model_id = i.model_id AND t.state = 0 AND t.due_at IS NULL
    UNION ALL
    SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent
    FROM asynch_models m CROSS JOIN asynch_lane_in i CROSS JOIN asynch_task t
    WHERE m.deleted_at IS NOT NULL AND i.model_id = m.id
      AND t.tenant_id = i.tenant_id AND t.model_id = i.model_id AND t.state = 0 AND t.due_at IS NOT NULL
    LIMIT $1";

/// Every lane that has a claimable task.
pub(in crate::store) async fn lanes_with_work(readers: &SqlitePool) -> Result<Vec<Lane>, StoreError> {
    let rows = sqlx::query(LANES).fetch_all(readers).await?;
    rows.iter().map(read_lane).collect()
}

/// Running tasks of nodes without a lease row.
pub(in crate::store) async fn abandoned(readers: &SqlitePool, most: u32) -> Result<Vec<Abandoned>, StoreError> {
    let rows = sqlx::query(ABANDONED).bind(i64::from(most)).fetch_all(readers).await?;
    rows.iter().map(read_abandoned).collect()
}

/// Claimable tasks that have been queued for longer than `age`.
pub(in crate::store) async fn queued_longer_than(
    readers: &SqlitePool,
    age: Duration,
    most: u32,
) -> Result<Vec<Waiting>, StoreError> {
    let before = now() - micros(age);
    let rows = sqlx::query(QUEUED_LONGER_THAN).bind(before).bind(i64::from(most)).fetch_all(readers).await?;
    rows.iter().map(read_waiting).collect()
}

/// Queued tasks of deleted models, found through their lanes.
pub(in crate::store) async fn queued_for_deleted_models(
    readers: &SqlitePool,
    most: u32,
) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query(QUEUED_FOR_DELETED_MODELS).bind(i64::from(most)).fetch_all(readers).await?;
    rows.iter().map(read_waiting).collect()
}
