//! Taking queued tasks within `maxConcurrency`, `totalConcurrency` and what tenants may have running.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::{AssertSqlSafe, Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tracing::error;

use super::{MICROS, begin, now};
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
            rows::{read_running, running_columns},
        },
        value::{Id, Stamp},
    },
    task::{Lane, ModelId, NodeId, Running, lifecycle},
};

const COUNT_LANE: &str = "
    SELECT count(*) AS running, COALESCE((SELECT cap FROM asynch_tenant WHERE tenant_id = $2), 0) AS cap
    FROM asynch_task WHERE model_id = $1 AND tenant_id = $2 AND phase = 0 AND state = 1";

const COUNT_MODEL: &str = "SELECT count(*) FROM asynch_task WHERE model_id = $1 AND phase = 0 AND state = 1";

/// By lane, for that is how what runs is indexed; what runs was claimed from a lane.
const COUNT_TENANT: &str = "
    SELECT count(*) FROM asynch_lane_out o CROSS JOIN asynch_task t
    WHERE o.tenant_id = $1 AND t.model_id = o.model_id AND t.tenant_id = o.tenant_id AND t.phase = 0 AND t.state = 1";

const TAKE: &str = concat!(
    "
    UPDATE asynch_task
    SET state = $5, phase = 0, attempt = attempt + 1, owner = $6, started_at = $7, updated_at = $7, deadline_at = $8
    WHERE id IN (
        SELECT id FROM asynch_task
        WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NULL AND enqueue_at >= $3
        ORDER BY enqueue_at, task_id LIMIT $4
    )
    RETURNING ",
    running_columns!()
);

/// Claims in one short transaction: look, decide, take.
pub(in crate::store) async fn claim(
    writer: &SqlitePool,
    vault: &Vault,
    node: NodeId,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let mut transaction = begin(writer).await?;
    let sight = look(&mut transaction, vault, wants).await?;
    let mut plan = Plan::new(wants, &sight);
    let now = now();
    let mut round = plan.round();
    while !round.is_empty() {
        let mut tasks = Vec::new();
        for quota in &round {
            tasks.extend(take(&mut transaction, vault, node, quota, now).await?);
        }
        plan.took(&round, tasks);
        round = plan.round();
    }
    transaction.commit().await?;
    Ok(plan.claim(&sight))
}

/// Reads limits and counts what runs.
async fn look(connection: &mut SqliteConnection, vault: &Vault, wants: &[Want]) -> Result<Sight, StoreError> {
    let lanes: BTreeSet<Lane> = wants.iter().map(|want| want.lane).collect();
    let mut sight = Sight { open: open_models(connection, vault, &lanes).await?, ..Sight::default() };
    for lane in lanes {
        let seen = sqlx::query(COUNT_LANE).bind(lane.model.0).bind(lane.tenant.0).fetch_one(&mut *connection).await?;
        sight.running.insert(lane, seen.big("running")?);
        let cap = seen.big("cap")?;
        if cap > 0 && !sight.capped.contains_key(&lane.tenant) {
            let running = sqlx::query_scalar(COUNT_TENANT).bind(lane.tenant.0);
            let running: i64 = running.fetch_one(&mut *connection).await?;
            sight.capped.insert(lane.tenant, Some(cap - running));
        }
    }
    for model in sight.open.values().filter(|model| model.spec.total_concurrency > 0) {
        let running = sqlx::query_scalar(COUNT_MODEL).bind(model.id.0);
        sight.total.insert(model.id, running.fetch_one(&mut *connection).await?);
    }
    Ok(sight)
}

async fn open_models(
    connection: &mut SqliteConnection,
    vault: &Vault,
    lanes: &BTreeSet<Lane>,
) -> Result<HashMap<ModelId, Arc<Model>>, StoreError> {
    let ids: BTreeSet<i64> = lanes.iter().map(|lane| lane.model.0).collect();
    let statement =
        format!("SELECT {MODEL_COLUMNS} FROM asynch_models WHERE id = $1 AND enabled = 1 AND deleted_at IS NULL");
    let mut open = HashMap::new();
    for id in ids {
        let row = sqlx::query(AssertSqlSafe(statement.clone())).bind(id).fetch_optional(&mut *connection).await?;
        if let Some(model) = row.and_then(|row| readable(&row, vault)) {
            open.insert(model.id, Arc::new(model));
        }
    }
    Ok(open)
}

/// The model, or `None` where its row cannot be read: that closes its own lanes, not the claim.
fn readable(row: &SqliteRow, vault: &Vault) -> Option<Model> {
    read_model(row, vault)
        .inspect_err(|error| {
            let model_id = row.try_get::<i64, _>("id").unwrap_or_default();
            error!(model_id, %error, "a model cannot be read, its tasks wait");
        })
        .ok()
}

async fn take(
    connection: &mut SqliteConnection,
    vault: &Vault,
    node: NodeId,
    quota: &Quota,
    now: i64,
) -> Result<Vec<Running>, StoreError> {
    let rows = sqlx::query(TAKE)
        .bind(quota.lane.model.0)
        .bind(quota.lane.tenant.0)
        .bind(quota.since.map_or(i64::MIN, |since| Stamp(since).micros()))
        .bind(quota.most)
        .bind(lifecycle::CLAIM.to.number())
        .bind(Id(node.0))
        .bind(now)
        .bind(now + (i64::from(quota.timeout_seconds) + CLAIM_GRACE_SECONDS) * MICROS)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| read_running(row, vault)).collect()
}
