//! Finding tasks: candidates for the cleaner, lanes for the dispatcher.

use std::time::Duration;

use sqlx::PgPool;

use crate::{
    store::{
        StoreError,
        tasks::{
            OVERDUE_SECONDS, micros,
            rows::{read_abandoned, read_lane, read_waiting},
        },
    },
    task::{Abandoned, Lane, Waiting},
};

/// Hops from lane to lane over the index of claimable tasks, whatever lies between two hops.
macro_rules! lanes {
    () => {
        "WITH RECURSIVE lanes AS (
            (SELECT tenant_id, model_id FROM asynch_task WHERE state = 0 AND due_at IS NULL
             ORDER BY tenant_id, model_id LIMIT 1)
            UNION ALL
            SELECT n.tenant_id, n.model_id FROM lanes l CROSS JOIN LATERAL (
                SELECT t.tenant_id, t.model_id FROM asynch_task t
                WHERE t.state = 0 AND t.due_at IS NULL AND (t.tenant_id, t.model_id) > (l.tenant_id, l.model_id)
                ORDER BY t.tenant_id, t.model_id LIMIT 1) n
        )"
    };
}

const LANES: &str = concat!(lanes!(), " SELECT tenant_id, model_id FROM lanes");

/// All that run are looked at, in the one index of running tasks: there are only as many as calls.
const ABANDONED: &str = "
    SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.owner, t.lost_attempts, t.phase, t.creator, t.model_name,
           t.traceparent, t.started_at
    FROM asynch_task t
    WHERE t.state = 1 AND (t.deadline_at < now() - $1 * interval '1 second'
                           OR t.owner NOT IN (SELECT n.node FROM asynch_node n))
    LIMIT $2";

/// A task that came back keeps an old place, but has waited only since then: nothing else changes
/// a queued row.
const QUEUED_LONGER_THAN: &str = concat!(
    lanes!(),
    " SELECT w.* FROM lanes l CROSS JOIN LATERAL (
        SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent FROM asynch_task t
        WHERE t.tenant_id = l.tenant_id AND t.model_id = l.model_id AND t.state = 0 AND t.due_at IS NULL
          AND t.enqueue_at < now() - $1 * interval '1 microsecond'
          AND t.updated_at < now() - $1 * interval '1 microsecond'
        ORDER BY t.enqueue_at, t.task_id LIMIT $2) w
    LIMIT $2"
);

/// Two halves, one for each partial index of queued tasks.
const QUEUED_FOR_DELETED_MODELS: &str = "
    SELECT w.* FROM asynch_models m JOIN asynch_lane_in i ON i.model_id = m.id
    CROSS JOIN LATERAL (
        (SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent
         FROM asynch_task t
         WHERE t.tenant_id = i.tenant_id AND t.model_id = i.model_id AND t.state = 0 AND t.due_at IS NULL LIMIT $1)
        UNION ALL
        (SELECT t.tenant_id, t.task_id, t.model_id, t.attempt, t.model_name, t.traceparent
         FROM asynch_task t
         WHERE t.tenant_id = i.tenant_id AND t.model_id = i.model_id AND t.state = 0 AND t.due_at IS NOT NULL LIMIT $1)
    ) w
    WHERE m.deleted_at IS NOT NULL
    LIMIT $1";

/// Every lane that has a claimable task.
pub(in crate::store) async fn lanes_with_work(pool: &PgPool) -> Result<Vec<Lane>, StoreError> {
    let rows = sqlx::query(LANES).fetch_all(pool).await?;
    rows.iter().map(read_lane).collect()
}

/// Running tasks of nodes without a lease row, and overdue ones of the others.
pub(in crate::store) async fn abandoned(pool: &PgPool, most: u32) -> Result<Vec<Abandoned>, StoreError> {
    let rows = sqlx::query(ABANDONED).bind(OVERDUE_SECONDS).bind(i64::from(most)).fetch_all(pool).await?;
    rows.iter().map(read_abandoned).collect()
}

/// Claimable tasks that have been queued for longer than `age`.
pub(in crate::store) async fn queued_longer_than(
    pool: &PgPool,
    age: Duration,
    most: u32,
) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query(QUEUED_LONGER_THAN).bind(micros(age)).bind(i64::from(most)).fetch_all(pool).await?;
    rows.iter().map(read_waiting).collect()
}

/// Queued tasks of deleted models, found through their lanes.
pub(in crate::store) async fn queued_for_deleted_models(pool: &PgPool, most: u32) -> Result<Vec<Waiting>, StoreError> {
    let rows = sqlx::query(QUEUED_FOR_DELETED_MODELS).bind(i64::from(most)).fetch_all(pool).await?;
    rows.iter().map(read_waiting).collect()
}
