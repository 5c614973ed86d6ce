//! Changing and deleting in small batches, safely on every node at once.

use std::time::Duration;

use sqlx::PgPool;

use super::columns;
use crate::{
    store::{
        StoreError,
        tasks::{
            Purged, ledger, micros,
            rows::{read_lane, read_purged, tried},
        },
    },
    task::Lane,
};

const PROMOTE_DUE: &str = "
    WITH due AS MATERIALIZED (
        SELECT tenant_id AS tenant, task_id AS task FROM asynch_task
        WHERE state = 0 AND due_at IS NOT NULL AND due_at <= now()
        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE asynch_task SET due_at = NULL, updated_at = now()
    FROM due WHERE tenant_id = due.tenant AND task_id = due.task
    RETURNING tenant_id, model_id";

const LOCK_CLOSED_LANES: &str = "
    SELECT i.tenant_id, i.model_id FROM asynch_models m JOIN asynch_lane_in i ON i.model_id = m.id
    WHERE m.deleted_at IS NOT NULL
    ORDER BY i.model_id, i.tenant_id LIMIT $1
    FOR UPDATE OF i SKIP LOCKED";

const DROP_CLOSED_LANES: &str = "
    WITH dropped AS (
        DELETE FROM asynch_lane_in i USING unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
        WHERE i.tenant_id = w.tenant_id AND i.model_id = w.model_id
          AND NOT EXISTS (SELECT FROM asynch_task t WHERE t.tenant_id = w.tenant_id AND t.model_id = w.model_id
                                                      AND t.state = 0 AND t.due_at IS NULL)
          AND NOT EXISTS (SELECT FROM asynch_task t WHERE t.tenant_id = w.tenant_id AND t.model_id = w.model_id
                                                      AND t.state = 0 AND t.due_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM asynch_task t WHERE t.model_id = w.model_id AND t.tenant_id = w.tenant_id
                                                      AND t.state = 1)
        RETURNING i.tenant_id, i.model_id
    ), dropped_out AS (
        DELETE FROM asynch_lane_out o USING dropped d WHERE o.tenant_id = d.tenant_id AND o.model_id = d.model_id
    )
    SELECT count(*) FROM dropped";

const PURGE_EXPIRED: &str = "
    WITH gone AS MATERIALIZED (
        SELECT tenant_id AS tenant, task_id AS task FROM asynch_task
        WHERE state IN (3, 4, 5) AND expire_at <= now()
        ORDER BY expire_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    DELETE FROM asynch_task USING gone WHERE tenant_id = gone.tenant AND task_id = gone.task
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key, attempt > 1 OR state = 3 AS tried";

const PURGE_UNCLAIMED: &str = "
    WITH gone AS MATERIALIZED (
        SELECT tenant_id AS tenant, task_id AS task FROM asynch_task
        WHERE state = 2 AND finished_at <= now() - $2 * interval '1 microsecond'
        ORDER BY finished_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    DELETE FROM asynch_task USING gone WHERE tenant_id = gone.tenant AND task_id = gone.task
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key, attempt > 1 OR state = 3 AS tried";

/// Ends the rest of due retries; one lane for each of them.
pub(in crate::store) async fn promote_due(pool: &PgPool, most: u32) -> Result<Vec<Lane>, StoreError> {
    let rows = sqlx::query(PROMOTE_DUE).bind(i64::from(most)).fetch_all(pool).await?;
    rows.iter().map(read_lane).collect()
}

/// Looks for live tasks in a second statement, when nobody can enter any more: whoever waited for
/// a lane that is gone then finds its model gone.
pub(in crate::store) async fn drop_closed_lanes(pool: &PgPool, most: u32) -> Result<u64, StoreError> {
    let mut transaction = pool.begin().await?;
    let rows = sqlx::query(LOCK_CLOSED_LANES).bind(i64::from(most)).fetch_all(&mut *transaction).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let lanes: Vec<Lane> = rows.iter().map(read_lane).collect::<Result<_, _>>()?;
    let (models, tenants) = columns(&lanes);
    let dropped: i64 =
        sqlx::query_scalar(DROP_CLOSED_LANES).bind(models).bind(tenants).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(dropped.unsigned_abs())
}

/// Deletes what is past its time, and results that nobody picked up.
pub(in crate::store) async fn purge(pool: &PgPool, unclaimed: Duration, most: u32) -> Result<Vec<Purged>, StoreError> {
    let mut transaction = pool.begin().await?;
    let mut rows = sqlx::query(PURGE_EXPIRED).bind(i64::from(most)).fetch_all(&mut *transaction).await?;
    let left = i64::from(most).saturating_sub_unsigned(rows.len() as u64);
    if left > 0 {
        let purge = sqlx::query(PURGE_UNCLAIMED).bind(left).bind(micros(unclaimed));
        rows.extend(purge.fetch_all(&mut *transaction).await?);
    }
    ledger::forget_postgres(&mut transaction, &tried(&rows)?).await?;
    transaction.commit().await?;
    rows.iter().map(read_purged).collect()
}
