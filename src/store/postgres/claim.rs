//! Taking queued tasks within `maxConcurrency` and `totalConcurrency`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, postgres::PgRow};
use tracing::error;

use super::columns;
use crate::{
    model::Model,
    secrets::Vault,
    store::{
        StoreError,
        models::{MODEL_COLUMNS, read_model},
        row::Columns,
        tasks::{
            CLAIM_GRACE_SECONDS, Claim, Want,
            quota::{Plan, Quota, Sight},
            rows::{read_lane, read_running, running_columns},
        },
    },
    task::{Lane, ModelId, NodeId, Running, lifecycle},
};

/// A lane that somebody else is claiming from is left to them.
const LOCK_LANES: &str = "
    SELECT o.model_id, o.tenant_id
    FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    JOIN asynch_lane_out o ON o.tenant_id = w.tenant_id AND o.model_id = w.model_id
    ORDER BY o.model_id, o.tenant_id
    FOR UPDATE OF o SKIP LOCKED";

/// A lane that has tasks but no row, such as one written by an earlier version, gets its row here
/// and can be locked by the next claim.
const MAKE_MISSING: &str = "
    INSERT INTO asynch_lane_out (model_id, tenant_id)
    SELECT w.model_id, w.tenant_id FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    JOIN asynch_models m ON m.id = w.model_id AND m.deleted_at IS NULL
    WHERE NOT EXISTS (SELECT FROM asynch_lane_out o WHERE o.tenant_id = w.tenant_id AND o.model_id = w.model_id)
    ORDER BY w.model_id, w.tenant_id
    ON CONFLICT DO NOTHING";

/// A limit over all tenants is guarded by the model's row, after the lanes.
const LOCK_MODELS: &str = "
    SELECT id FROM asynch_models WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED";

const COUNT_LANES: &str = "
    SELECT w.model_id, w.tenant_id,
           (SELECT count(*) FROM asynch_task t
            WHERE t.model_id = w.model_id AND t.tenant_id = w.tenant_id AND t.phase = 0 AND t.state = 1) AS running
    FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)";

const COUNT_MODELS: &str = "
    SELECT w.id, (SELECT count(*) FROM asynch_task t
                  WHERE t.model_id = w.id AND t.phase = 0 AND t.state = 1) AS running
    FROM unnest($1::bigint[]) AS w(id)";

/// The outer limit cuts nothing, for the plan keeps within [`MOST_CLAIMED`](crate::store::tasks::MOST_CLAIMED).
/// It has to be a literal: the planner takes a limit it does not know for a tenth of the lane, and
/// joins a large lane by reading all of the table.
const TAKE: &str = concat!(
    "
    WITH picked AS MATERIALIZED (
        SELECT q.tenant_id AS tenant, c.task_id AS task, q.timeout_seconds
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::int[])
          AS q(model_id, tenant_id, most, since, timeout_seconds)
        CROSS JOIN LATERAL (
            SELECT t.task_id FROM asynch_task t
            WHERE t.tenant_id = q.tenant_id AND t.model_id = q.model_id AND t.state = 0 AND t.due_at IS NULL
              AND t.enqueue_at >= COALESCE(q.since, '-infinity')
            ORDER BY t.enqueue_at, t.task_id
            LIMIT q.most
            FOR UPDATE SKIP LOCKED
        ) c
        LIMIT 256
    )
    UPDATE asynch_task
    SET state = $6, phase = 0, attempt = attempt + 1, owner = $7, started_at = now(), updated_at = now(),
        deadline_at = now() + (picked.timeout_seconds + $8) * interval '1 second'
    FROM picked
    WHERE tenant_id = picked.tenant AND task_id = picked.task
    RETURNING ",
    running_columns!()
);

/// Claims in one short transaction: look, decide, take.
pub(in crate::store) async fn claim(
    pool: &PgPool,
    vault: &Vault,
    node: NodeId,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let mut transaction = pool.begin().await?;
    let sight = look(&mut transaction, vault, wants).await?;
    let mut plan = Plan::new(wants, &sight);
    let mut round = plan.round();
    while !round.is_empty() {
        let tasks = take(&mut transaction, vault, node, &round).await?;
        plan.took(&round, tasks);
        round = plan.round();
    }
    transaction.commit().await?;
    Ok(plan.claim(&sight))
}

/// Locks what is free, then reads limits and counts what runs: in this order, so that nothing that
/// another claim committed before is missed.
async fn look(connection: &mut PgConnection, vault: &Vault, wants: &[Want]) -> Result<Sight, StoreError> {
    let wanted: BTreeSet<Lane> = wants.iter().map(|want| want.lane).collect();
    let locked = lock_lanes(connection, &wanted).await?;
    let open = open_models(connection, vault, &wanted).await?;
    let shared: BTreeSet<i64> = locked
        .iter()
        .filter(|lane| open.get(&lane.model).is_some_and(|model| model.spec.total_concurrency > 0))
        .map(|lane| lane.model.0)
        .collect();
    let total = if shared.is_empty() { HashMap::new() } else { lock_and_count_models(connection, shared).await? };
    Ok(Sight { running: count_lanes(connection, &locked).await?, total, open })
}

async fn lock_lanes(connection: &mut PgConnection, wanted: &BTreeSet<Lane>) -> Result<BTreeSet<Lane>, StoreError> {
    let (models, tenants) = columns(wanted);
    let rows = sqlx::query(LOCK_LANES).bind(models).bind(tenants).fetch_all(&mut *connection).await?;
    let locked: BTreeSet<Lane> = rows.iter().map(read_lane).collect::<Result<_, _>>()?;
    let (models, tenants) = columns(wanted.difference(&locked));
    if !models.is_empty() {
        sqlx::query(MAKE_MISSING).bind(models).bind(tenants).execute(connection).await?;
    }
    Ok(locked)
}

async fn open_models(
    connection: &mut PgConnection,
    vault: &Vault,
    lanes: &BTreeSet<Lane>,
) -> Result<HashMap<ModelId, Arc<Model>>, StoreError> {
    let ids: BTreeSet<i64> = lanes.iter().map(|lane| lane.model.0).collect();
    let statement =
        format!("SELECT {MODEL_COLUMNS} FROM asynch_models WHERE id = ANY($1) AND enabled = 1 AND deleted_at IS NULL");
    let rows = sqlx::query(AssertSqlSafe(statement)).bind(Vec::from_iter(ids)).fetch_all(connection).await?;
    Ok(rows.iter().filter_map(|row| readable(row, vault)).map(|model| (model.id, Arc::new(model))).collect())
}

/// The model, or `None` where its row cannot be read: that closes its own lanes, not the claim.
fn readable(row: &PgRow, vault: &Vault) -> Option<Model> {
    read_model(row, vault)
        .inspect_err(|error| {
            let model_id = row.try_get::<i64, _>("id").unwrap_or_default();
            error!(model_id, %error, "a model cannot be read, its tasks wait");
        })
        .ok()
}

async fn count_lanes(connection: &mut PgConnection, lanes: &BTreeSet<Lane>) -> Result<HashMap<Lane, i64>, StoreError> {
    let (models, tenants) = columns(lanes);
    let rows = sqlx::query(COUNT_LANES).bind(models).bind(tenants).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((read_lane(row)?, row.big("running")?))).collect()
}

async fn lock_and_count_models(
    connection: &mut PgConnection,
    shared: BTreeSet<i64>,
) -> Result<HashMap<ModelId, i64>, StoreError> {
    let locked: Vec<i64> =
        sqlx::query_scalar(LOCK_MODELS).bind(Vec::from_iter(shared)).fetch_all(&mut *connection).await?;
    let rows = sqlx::query(COUNT_MODELS).bind(locked).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((ModelId(row.big("id")?), row.big("running")?))).collect()
}

async fn take(
    connection: &mut PgConnection,
    vault: &Vault,
    node: NodeId,
    quotas: &[Quota],
) -> Result<Vec<Running>, StoreError> {
    let (models, tenants) = columns(quotas.iter().map(|quota| &quota.lane));
    let rows = sqlx::query(TAKE)
        .bind(models)
        .bind(tenants)
        .bind(quotas.iter().map(|quota| quota.most).collect::<Vec<_>>())
        .bind(quotas.iter().map(|quota| quota.since).collect::<Vec<_>>())
        .bind(quotas.iter().map(|quota| quota.timeout_seconds).collect::<Vec<_>>())
        .bind(lifecycle::CLAIM.to.number())
        .bind(node.0)
        .bind(CLAIM_GRACE_SECONDS)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| read_running(row, vault)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tasks::MOST_CLAIMED;

    #[test]
    fn the_planner_is_told_the_limit_that_the_plan_keeps() {
        assert!(TAKE.contains(&format!("LIMIT {MOST_CLAIMED}\n")));
    }
}
