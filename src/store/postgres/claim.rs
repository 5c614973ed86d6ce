//! Taking queued tasks within `maxConcurrency`, `totalConcurrency` and what tenants may have running.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use tracing::error;

use super::columns;
use crate::{
    model::Model,
    secrets::Vault,
    store::{
        StoreError,
        models::{model_columns, read_model},
        row::Columns,
        tasks::{
            CLAIM_GRACE_SECONDS, Claim, Want,
            quota::{Plan, Quota, Sight},
            rows::{read_lane, read_running, running_columns},
        },
    },
    task::{Lane, ModelId, NodeId, Running, TenantId, lifecycle},
};

/// A lane that somebody else is claiming from is left to them.
const LOCK_LANES: &str = "
    SELECT o.model_id, o.tenant_id, COALESCE(m.total_concurrency > 0, FALSE) AS is_shared,
           COALESCE(e.cap > 0, FALSE) AS is_capped
    FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    JOIN asynch_lane_out o ON o.tenant_id = w.tenant_id AND o.model_id = w.model_id
    LEFT JOIN asynch_models m ON m.id = o.model_id
    LEFT JOIN asynch_tenant e ON e.tenant_id = o.tenant_id
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

/// The models that may be called, once for each lane, and what runs in those lanes that are locked.
const SEE_LANES: &str = concat!(
    "SELECT ",
    model_columns!(),
    ", w.lane_tenant, CASE WHEN w.is_locked THEN (
           SELECT count(*) FROM asynch_task t
           WHERE t.model_id = w.lane_model AND t.tenant_id = w.lane_tenant AND t.phase = 0 AND t.state = 1
       ) END AS running
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS w(lane_model, lane_tenant, is_locked)
    JOIN asynch_models ON id = w.lane_model AND enabled = 1 AND deleted_at IS NULL"
);

const COUNT_MODELS: &str = "
    SELECT w.id, (SELECT count(*) FROM asynch_task t
                  WHERE t.model_id = w.id AND t.phase = 0 AND t.state = 1) AS running
    FROM unnest($1::bigint[]) AS w(id)";

/// A limit over all models is guarded by the tenant's row, after lanes and models.
const LOCK_TENANTS: &str = "
    SELECT tenant_id, cap FROM asynch_tenant WHERE tenant_id = ANY($1) AND cap > 0
    ORDER BY tenant_id FOR NO KEY UPDATE SKIP LOCKED";

/// By lane, for that is how what runs is indexed; what runs was claimed from a lane.
const COUNT_TENANTS: &str = "
    SELECT w.tenant_id, (
        SELECT count(*) FROM asynch_lane_out o
        JOIN asynch_task t ON t.model_id = o.model_id AND t.tenant_id = o.tenant_id AND t.phase = 0 AND t.state = 1
        WHERE o.tenant_id = w.tenant_id
    ) AS running
    FROM unnest($1::bigint[]) AS w(tenant_id)";

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
    let shared: BTreeSet<i64> = locked.iter().filter(|(_, with)| with.total).map(|(lane, _)| lane.model.0).collect();
    let capped: BTreeSet<i64> = locked.iter().filter(|(_, with)| with.cap).map(|(lane, _)| lane.tenant.0).collect();
    let total = if shared.is_empty() { HashMap::new() } else { lock_and_count_models(connection, shared).await? };
    let capped = if capped.is_empty() { HashMap::new() } else { lock_and_count_tenants(connection, capped).await? };
    let sight = Sight { total, capped, ..Sight::default() };
    see_lanes(connection, vault, &wanted, |lane| locked.contains_key(&lane), sight).await
}

/// The limits that a lane shares with others.
struct Shared {
    /// Its model's, over all tenants.
    total: bool,
    /// Its tenant's, over all models.
    cap: bool,
}

/// The lanes that are locked now.
async fn lock_lanes(
    connection: &mut PgConnection,
    wanted: &BTreeSet<Lane>,
) -> Result<BTreeMap<Lane, Shared>, StoreError> {
    let (models, tenants) = columns(wanted);
    let rows = sqlx::query(LOCK_LANES).bind(models).bind(tenants).fetch_all(&mut *connection).await?;
    let lock = |row: &PgRow| {
        let with = Shared { total: row.flag("is_shared")?, cap: row.flag("is_capped")? };
        Ok((read_lane(row)?, with))
    };
    let locked: BTreeMap<Lane, Shared> = rows.iter().map(lock).collect::<Result<_, StoreError>>()?;
    let (models, tenants) = columns(wanted.iter().filter(|lane| !locked.contains_key(lane)));
    if !models.is_empty() {
        sqlx::query(MAKE_MISSING).bind(models).bind(tenants).execute(connection).await?;
    }
    Ok(locked)
}

/// Adds to `sight` the models that may be called and what runs in the lanes that are locked.
async fn see_lanes(
    connection: &mut PgConnection,
    vault: &Vault,
    wanted: &BTreeSet<Lane>,
    is_locked: impl Fn(Lane) -> bool,
    mut sight: Sight,
) -> Result<Sight, StoreError> {
    let (models, tenants) = columns(wanted);
    let locked: Vec<bool> = wanted.iter().map(|lane| is_locked(*lane)).collect();
    let rows = sqlx::query(SEE_LANES).bind(models).bind(tenants).bind(locked).fetch_all(connection).await?;
    let mut read = HashSet::new();
    for row in &rows {
        let lane = Lane { model: ModelId(row.big("id")?), tenant: TenantId(row.big("lane_tenant")?) };
        if read.insert(lane.model)
            && let Some(model) = readable(row, vault)
        {
            sight.open.insert(lane.model, Arc::new(model));
        }
        if let Some(running) = row.try_get::<Option<i64>, _>("running")? {
            sight.running.insert(lane, running);
        }
    }
    Ok(sight)
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

async fn lock_and_count_models(
    connection: &mut PgConnection,
    shared: BTreeSet<i64>,
) -> Result<HashMap<ModelId, i64>, StoreError> {
    let locked: Vec<i64> =
        sqlx::query_scalar(LOCK_MODELS).bind(Vec::from_iter(shared)).fetch_all(&mut *connection).await?;
    let rows = sqlx::query(COUNT_MODELS).bind(locked).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((ModelId(row.big("id")?), row.big("running")?))).collect()
}

/// What each tenant with a limit over all models may still start.
async fn lock_and_count_tenants(
    connection: &mut PgConnection,
    capped: BTreeSet<i64>,
) -> Result<HashMap<TenantId, Option<i64>>, StoreError> {
    let mut rooms: HashMap<TenantId, Option<i64>> = capped.iter().map(|tenant| (TenantId(*tenant), None)).collect();
    let locked = sqlx::query(LOCK_TENANTS).bind(Vec::from_iter(capped)).fetch_all(&mut *connection).await?;
    let mut caps = HashMap::with_capacity(locked.len());
    for row in &locked {
        caps.insert(row.big("tenant_id")?, i64::from(row.int("cap")?));
    }
    let counted = sqlx::query(COUNT_TENANTS).bind(caps.keys().copied().collect::<Vec<i64>>());
    for row in &counted.fetch_all(connection).await? {
        let (tenant, running) = (row.big("tenant_id")?, row.big("running")?);
        rooms.insert(TenantId(tenant), caps.get(&tenant).map(|cap| cap - running));
    }
    Ok(rooms)
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
