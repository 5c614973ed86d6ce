//! Changing and deleting in small batches.

use std::time::Duration;

use sqlx::SqlitePool;

use super::{begin, now};
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
    UPDATE asynch_task SET due_at = NULL, updated_at = $2
    WHERE id IN (
        SELECT id FROM asynch_task WHERE state = 0 AND due_at IS NOT NULL AND due_at <= $2
        ORDER BY due_at LIMIT $1
    )
    RETURNING tenant_id, model_id";

const CLOSED_LANES: &str = "
    SELECT i.tenant_id, i.model_id FROM asynch_models m CROSS JOIN asynch_lane_in i
    WHERE m.deleted_at IS NOT NULL AND i.model_id = m.id
    ORDER BY i.model_id, i.tenant_id LIMIT $1";

const DROP_CLOSED_LANE: &str = "
    DELETE FROM asynch_lane_in WHERE tenant_id = $2 AND model_id = $1
      AND NOT EXISTS (SELECT 1 FROM asynch_task
                      WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NULL)
      AND NOT EXISTS (SELECT 1 FROM asynch_task
                      WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NOT NULL)
      AND NOT EXISTS (SELECT 1 FROM asynch_task WHERE model_id = $1 AND tenant_id = $2 AND state = 1)";

const DROP_OUT: &str = "DELETE FROM asynch_lane_out WHERE tenant_id = $2 AND model_id = $1";

const PURGE_EXPIRED: &str = "
    DELETE FROM asynch_task
    WHERE id IN (
        SELECT id FROM asynch_task WHERE state IN (3, 4, 5) AND expire_at <= $2 ORDER BY expire_at LIMIT $1
    )
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key, attempt > 1 OR state = 3 AS tried";

const PURGE_UNCLAIMED: &str = "
    DELETE FROM asynch_task
    WHERE id IN (SELECT id FROM asynch_task WHERE state = 2 AND finished_at <= $2 ORDER BY finished_at LIMIT $1)
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key, attempt > 1 OR state = 3 AS tried";

/// Ends the rest of due retries; one lane for each of them.
pub(in crate::store) async fn promote_due(writer: &SqlitePool, most: u32) -> Result<Vec<Lane>, StoreError> {
    let mut transaction = begin(writer).await?;
    let rows = sqlx::query(PROMOTE_DUE).bind(i64::from(most)).bind(now()).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    rows.iter().map(read_lane).collect()
}

/// Forgets lanes that nothing can enter any more and nothing is left in.
pub(in crate::store) async fn drop_closed_lanes(writer: &SqlitePool, most: u32) -> Result<u64, StoreError> {
    let mut transaction = begin(writer).await?;
    let rows = sqlx::query(CLOSED_LANES).bind(i64::from(most)).fetch_all(&mut *transaction).await?;
    let mut dropped = 0;
    for row in &rows {
        let lane = read_lane(row)?;
        let done = sqlx::query(DROP_CLOSED_LANE).bind(lane.model.0).bind(lane.tenant.0);
        if done.execute(&mut *transaction).await?.rows_affected() == 1 {
            sqlx::query(DROP_OUT).bind(lane.model.0).bind(lane.tenant.0).execute(&mut *transaction).await?;
            dropped += 1;
        }
    }
    transaction.commit().await?;
    Ok(dropped)
}

/// Deletes what is past its time, and results that nobody picked up.
pub(in crate::store) async fn purge(
    writer: &SqlitePool,
    unclaimed: Duration,
    most: u32,
) -> Result<Vec<Purged>, StoreError> {
    let mut transaction = begin(writer).await?;
    let now = now();
    let mut rows = sqlx::query(PURGE_EXPIRED).bind(i64::from(most)).bind(now).fetch_all(&mut *transaction).await?;
    let left = i64::from(most).saturating_sub_unsigned(rows.len() as u64);
    if left > 0 {
        let purge = sqlx::query(PURGE_UNCLAIMED).bind(left).bind(now - micros(unclaimed));
        rows.extend(purge.fetch_all(&mut *transaction).await?);
    }
    ledger::forget_sqlite(&mut transaction, &tried(&rows)?).await?;
    transaction.commit().await?;
    rows.iter().map(read_purged).collect()
}
