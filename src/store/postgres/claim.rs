//! Taking queued tasks within `maxConcurrency`, `totalConcurrency` and what tenants may have running.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};
use tracing::error;

use super::{OldestCalls, columns};
use crate::{
    model::Model,
    secrets::Vault,
    store::{
        StoreError,
        models::{model_columns, read_model},
        row::Columns,
        tasks::{
            CLAIM_GRACE_SECONDS, Claim, MOST_CLAIMED, Want,
            quota::{Plan, Quota, Sight},
            rows::{read_running, running_columns},
        },
    },
    task::{Lane, ModelId, NodeId, Running, TenantId, lifecycle},
};

/// What the claim sees of lanes, in one trip: `asynch_claim_sight` locks those that nobody else is
/// claiming from, and then counts what runs in them, the oldest of it at the moment `oldest`.
macro_rules! sight {
    ($lanes:literal) => {
        concat!(
            "
        SELECT ",
            model_columns!(),
            ", lane_tenant, running, oldest, is_shared, is_capped
        FROM asynch_claim_sight(",
            $lanes,
            ") AS seen CROSS JOIN LATERAL (SELECT (seen.model).*) AS model"
        )
    };
}

/// `picked` and `taken`, from lanes `q`. The bounds on a call are `$6` to `$8`.
///
/// The outer limit cuts nothing, for the plan keeps within [`MOST_CLAIMED`]. It has to be a literal: the
/// planner takes a limit it does not know for a tenth of the lane, and joins a large lane by reading
/// all of the table.
///
/// A call begins after its lane was locked, by the clock and not by the statement: see [`OldestCalls`].
macro_rules! take {
    ($lanes:literal) => {
        concat!(
            "picked AS MATERIALIZED (
        SELECT q.tenant_id AS tenant, c.task_id AS task, q.timeout_seconds
        FROM ",
            $lanes,
            " AS q(model_id, tenant_id, most, since, timeout_seconds)
        CROSS JOIN LATERAL (
            SELECT t.task_id FROM asynch_task t
            WHERE t.tenant_id = q.tenant_id AND t.model_id = q.model_id AND t.state = 0 AND t.due_at IS NULL
              AND t.enqueue_at >= COALESCE(q.since, '-infinity')
            ORDER BY t.enqueue_at, t.task_id
            LIMIT q.most
            FOR UPDATE SKIP LOCKED
        ) c
        LIMIT 256
    ), taken AS (
        UPDATE asynch_task
        SET state = $6, phase = 0, attempt = attempt + 1, owner = $7, started_at = clock_timestamp(), updated_at = now(),
            deadline_at = now() + (picked.timeout_seconds + $8) * interval '1 second'
        FROM picked
        WHERE tenant_id = picked.tenant AND task_id = picked.task
        RETURNING ",
            running_columns!(),
            "
    )"
        )
    };
}

/// Looks and takes in one trip, from lanes that share no limit with others; of those that do it only
/// tells. Its own snapshot is older than the locks: a task that somebody took in between is looked
/// at again as it is now, and left out.
///
/// The answer has rows of two kinds, a sight for each lane and then the tasks; as `is_lane` tells them
/// apart, none of one kind matches one of the other.
const CLAIM_AT_SIGHT: &str = concat!(
    "
    WITH sight AS MATERIALIZED (",
    sight!("$1, $2, $5"),
    "
    ), ",
    take!(
        "(
            SELECT w.model_id, w.tenant_id, LEAST(w.most, sight.max_concurrency - sight.running), w.since,
                   sight.timeout_seconds
            FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[])
              AS w(model_id, tenant_id, most, since)
            JOIN sight ON sight.id = w.model_id AND sight.lane_tenant = w.tenant_id
            WHERE NOT sight.is_shared AND NOT sight.is_capped AND sight.running < sight.max_concurrency
        )"
    ),
    "
    SELECT * FROM (SELECT TRUE AS is_lane, * FROM sight) AS lanes
    NATURAL FULL JOIN (SELECT FALSE AS is_lane, * FROM taken) AS tasks"
);

const SEE: &str = sight!("$1, $2, $3");

const TAKE: &str = concat!(
    "
    WITH ",
    take!("unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::int[])"),
    "
    SELECT * FROM taken"
);

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

/// What claims of a node have in common.
pub(in crate::store) struct Claimer<'a> {
    pub(in crate::store) oldest: &'a OldestCalls,
    pub(in crate::store) vault: &'a Vault,
    pub(in crate::store) node: NodeId,
}

/// What was seen of lanes, before limits that they share are counted.
#[derive(Default)]
struct Seen {
    sight: Sight,
    /// Models with a limit over all tenants, and tenants with one over all models, of lanes that are locked.
    shared: BTreeSet<i64>,
    capped: BTreeSet<i64>,
    /// Models that were read, even those that cannot be.
    read: HashSet<ModelId>,
}

/// Claims from lanes that share no limit in one trip, from the others in a transaction of a few.
pub(in crate::store) async fn claim(
    connection: &mut PgConnection,
    claimer: &Claimer<'_>,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let alone = alone(wants);
    let (at_sight, mut together): (Vec<Want>, Vec<Want>) = wants.iter().partition(|want| alone.contains(&want.lane));
    let mut claim = Claim::default();
    if !at_sight.is_empty() {
        let (claimed, left) = claim_at_sight(connection, claimer, at_sight).await?;
        claim = claimed;
        together.extend(left);
    }
    if !together.is_empty() {
        claim.join(claim_together(connection, claimer, &together).await?, wants);
    }
    Ok(claim)
}

/// The lanes to claim from at sight: not those known to share a limit, and no more than one statement takes.
fn alone(wants: &[Want]) -> HashSet<Lane> {
    let mut most = 0;
    let fits = |want: &&Want| {
        most += want.most as usize;
        most <= MOST_CLAIMED
    };
    wants.iter().filter(|want| !want.shares).take_while(fits).map(|want| want.lane).collect()
}

/// Gives back the wants of lanes that do share a limit.
async fn claim_at_sight(
    connection: &mut PgConnection,
    claimer: &Claimer<'_>,
    wants: Vec<Want>,
) -> Result<(Claim, Vec<Want>), StoreError> {
    let wanted: BTreeMap<Lane, Want> = wants.iter().rev().map(|want| (want.lane, *want)).collect();
    let (models, tenants) = columns(wanted.keys());
    let rows = sqlx::query(CLAIM_AT_SIGHT)
        .bind(models)
        .bind(tenants)
        .bind(wanted.values().map(|want| i64::from(want.most)).collect::<Vec<_>>())
        .bind(wanted.values().map(|want| want.since).collect::<Vec<_>>())
        .bind(claimer.oldest.since(wanted.keys()))
        .bind(lifecycle::CLAIM.to.number())
        .bind(claimer.node.0)
        .bind(CLAIM_GRACE_SECONDS)
        .fetch_all(&mut *connection)
        .await?;
    let (mut seen, mut tasks) = (Seen::default(), Vec::new());
    for row in &rows {
        if row.flag("is_lane")? {
            seen.add(row, claimer)?;
        } else {
            tasks.push(read_running(row, claimer.vault)?);
        }
    }
    make_missing(connection, wanted.keys(), &seen.sight).await?;
    let (left, settled): (Vec<Want>, Vec<Want>) = wants.into_iter().partition(|want| seen.shares(want.lane));
    let mut plan = Plan::new(&settled, &seen.sight);
    plan.took(&plan.round(), tasks);
    Ok((plan.claim(&seen.sight), left))
}

/// Claims in one short transaction: look, decide, take.
async fn claim_together(
    connection: &mut PgConnection,
    claimer: &Claimer<'_>,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let mut transaction = connection.begin().await?;
    let sight = look(&mut transaction, claimer, wants).await?;
    let mut plan = Plan::new(wants, &sight);
    let mut round = plan.round();
    while !round.is_empty() {
        let tasks = take(&mut transaction, claimer, &round).await?;
        plan.took(&round, tasks);
        round = plan.round();
    }
    transaction.commit().await?;
    Ok(plan.claim(&sight))
}

/// Locks what is free, reads limits and counts what runs: in this order, so that nothing that another
/// claim committed before is missed.
async fn look(connection: &mut PgConnection, claimer: &Claimer<'_>, wants: &[Want]) -> Result<Sight, StoreError> {
    let wanted: BTreeSet<Lane> = wants.iter().map(|want| want.lane).collect();
    let (models, tenants) = columns(&wanted);
    let see = sqlx::query(SEE).bind(models).bind(tenants).bind(claimer.oldest.since(&wanted));
    let mut seen = Seen::default();
    for row in &see.fetch_all(&mut *connection).await? {
        seen.add(row, claimer)?;
    }
    let Seen { mut sight, shared, capped, .. } = seen;
    make_missing(connection, &wanted, &sight).await?;
    if !shared.is_empty() {
        sight.total = lock_and_count_models(connection, shared).await?;
    }
    if !capped.is_empty() {
        sight.capped = lock_and_count_tenants(connection, capped).await?;
    }
    Ok(sight)
}

impl Seen {
    /// Takes in what was seen of a lane, and its model where that is not known yet.
    fn add(&mut self, row: &PgRow, claimer: &Claimer<'_>) -> Result<(), StoreError> {
        let lane = Lane { model: ModelId(row.big("id")?), tenant: TenantId(row.big("lane_tenant")?) };
        if self.read.insert(lane.model)
            && let Some(model) = readable(row, claimer.vault)
        {
            self.sight.open.insert(lane.model, Arc::new(model));
        }
        let Some(running) = row.try_get::<Option<i64>, _>("running")? else { return Ok(()) };
        self.sight.running.insert(lane, running);
        claimer.oldest.seen(lane, row.time("oldest")?);
        if row.flag("is_shared")? {
            self.shared.insert(lane.model.0);
        }
        if row.flag("is_capped")? {
            self.capped.insert(lane.tenant.0);
        }
        Ok(())
    }

    /// True of a lane that is locked and has a limit in common with others.
    fn shares(&self, lane: Lane) -> bool {
        let shares = self.shared.contains(&lane.model.0) || self.capped.contains(&lane.tenant.0);
        shares && self.sight.running.contains_key(&lane)
    }
}

/// Makes rows for lanes that could not be locked because they have none.
async fn make_missing<'a>(
    connection: &mut PgConnection,
    wanted: impl IntoIterator<Item = &'a Lane>,
    sight: &Sight,
) -> Result<(), StoreError> {
    let (models, tenants) = columns(wanted.into_iter().filter(|lane| !sight.running.contains_key(lane)));
    if !models.is_empty() {
        sqlx::query(MAKE_MISSING).bind(models).bind(tenants).execute(connection).await?;
    }
    Ok(())
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
    claimer: &Claimer<'_>,
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
        .bind(claimer.node.0)
        .bind(CLAIM_GRACE_SECONDS)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| read_running(row, claimer.vault)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planner_is_told_the_limit_that_the_plan_keeps() {
        let limit = format!("LIMIT {MOST_CLAIMED}\n");
        assert!(TAKE.contains(&limit) && CLAIM_AT_SIGHT.contains(&limit));
    }
}
