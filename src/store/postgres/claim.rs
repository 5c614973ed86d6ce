//! Taking queued tasks within `maxConcurrency`, `totalConcurrency` and what tenants may have running.

mod memory;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use self::memory::Memory;
use super::{Line, columns};
use crate::{
    secrets::Vault,
    store::{
        StoreError,
        row::Columns,
        tasks::{
            CLAIM_GRACE_SECONDS, Claim, MOST_CLAIMED, Want,
            quota::{Plan, Quota, Sight},
            rows::{read_running, running_columns},
        },
    },
    task::{Lane, ModelId, NodeId, Running, TenantId, lifecycle},
};

/// `picked` and `taken`, from lanes `q`. The bounds on a call are `$6` to `$8`.
///
/// The outer limit cuts nothing, for the plan keeps within [`MOST_CLAIMED`]. It has to be a literal: the
/// planner takes a limit it does not know for a tenth of the lane, and joins a large lane by reading
/// all of the table.
///
/// A call begins after its lane was locked: see [`OldestCalls`](super::oldest::OldestCalls).
macro_rules! take {
    ($lanes:literal) => {
        concat!(
            "picked AS MATERIALIZED (
        SELECT q.tenant_id AS tenant, c.task_id AS task, q.timeout_seconds, q.begin_at
        FROM ",
            $lanes,
            " AS q(model_id, tenant_id, most, since, timeout_seconds, begin_at)
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
        SET state = $6, phase = 0, attempt = attempt + 1, owner = $7, started_at = picked.begin_at, updated_at = now(),
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

/// Looks and takes in one trip: `asynch_claim_sight` locks lanes and then counts what runs in them. Takes
/// from lanes whose model is the one that we know and that share no limit with others; of the rest it
/// only tells. Its own snapshot is older than the locks: a task that somebody took in between is
/// looked at again as it is now, and left out.
///
/// The answer has rows of two kinds, a sight for each lane and the tasks, each with nothing in the columns
/// of the other.
const CLAIM_AT_SIGHT: &str = concat!(
    "
    WITH sight AS MATERIALIZED (
        SELECT * FROM asynch_claim_sight($1, $2, $5)
    ), ",
    take!(
        "(
            SELECT w.model_id, w.tenant_id, LEAST(w.most, s.max_running - s.running), w.since, s.timeout_seconds,
                   s.seen_at
            FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $9::bigint[])
              AS w(model_id, tenant_id, most, since, version)
            JOIN sight s ON s.lane_model = w.model_id AND s.lane_tenant = w.tenant_id AND s.version = w.version
            WHERE NOT s.is_shared AND NOT s.is_capped AND s.running < s.max_running
        )"
    ),
    "
    SELECT * FROM sight FULL JOIN taken ON FALSE"
);

const SEE: &str = "SELECT * FROM asynch_claim_sight($1, $2, $3)";

const TAKE: &str = concat!(
    "
    WITH ",
    take!(
        "(
            SELECT *, statement_timestamp()
            FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::int[])
        )"
    ),
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

/// Where a node's claims are made, one after the other.
pub(in crate::store) struct Claims {
    line: Line,
    memory: Memory,
}

/// What was seen of lanes, before limits that they share are counted.
#[derive(Default)]
struct Seen {
    sight: Sight,
    /// Models with a limit over all tenants, and tenants with one over all models, of lanes that are locked.
    shared: BTreeSet<i64>,
    capped: BTreeSet<i64>,
    /// Lanes whose model is not known, or not as it is now.
    unknown: HashSet<Lane>,
}

impl Claims {
    /// Connects when the first claim comes.
    pub(in crate::store) fn new(line: Line) -> Claims {
        Claims { line, memory: Memory::default() }
    }

    /// Claims from lanes that share no limit in one trip, from the others in a transaction of a few.
    pub(in crate::store) async fn claim(
        &mut self,
        vault: &Vault,
        node: NodeId,
        wants: &[Want],
    ) -> Result<Claim, StoreError> {
        let mut connection = self.line.take().await?;
        let claim = claim(&mut connection, &mut self.memory, vault, node, wants).await;
        self.line.keep(connection, &claim).await;
        claim
    }

    /// Claims from no lane at all, so that the next claim finds its connection there, its statement
    /// planned, and the server's process awake.
    pub(in crate::store) async fn get_ready(&mut self, vault: &Vault, node: NodeId) -> Result<(), StoreError> {
        self.claim(vault, node, &[]).await.map(drop)
    }

    /// Says goodbye to the server.
    pub(in crate::store) async fn close(&mut self) {
        self.line.close().await;
    }
}

async fn claim(
    connection: &mut PgConnection,
    memory: &mut Memory,
    vault: &Vault,
    node: NodeId,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let alone = alone(memory, wants);
    let at_sight: Vec<Want> = wants.iter().filter(|want| alone.contains(&want.lane)).copied().collect();
    let mut claim = Claim::default();
    // Of no lane at all, too: see `Claims::get_ready`.
    if !at_sight.is_empty() || wants.is_empty() {
        claim = claim_at_sight(connection, memory, vault, node, at_sight).await?;
    }
    // In the order asked, for the first come first where a limit is shared.
    let settled: HashSet<Lane> = claim.lanes.iter().map(|(lane, _)| *lane).collect();
    let together: Vec<Want> = wants.iter().filter(|want| !settled.contains(&want.lane)).copied().collect();
    if !together.is_empty() {
        claim.join(claim_together(connection, memory, vault, node, &together).await?, wants);
    }
    Ok(claim)
}

/// The lanes to claim from at sight: those of known models, but not those known to share a limit, and
/// no more than one statement takes.
fn alone(memory: &Memory, wants: &[Want]) -> HashSet<Lane> {
    let mut most = 0;
    let fits = |want: &&Want| {
        most += want.most as usize;
        most <= MOST_CLAIMED
    };
    let alone = wants.iter().filter(|want| !want.shares && memory.version(want.lane.model).is_some());
    alone.take_while(fits).map(|want| want.lane).collect()
}

/// Says nothing of lanes that turn out to share a limit, or whose model has changed.
async fn claim_at_sight(
    connection: &mut PgConnection,
    memory: &mut Memory,
    vault: &Vault,
    node: NodeId,
    wants: Vec<Want>,
) -> Result<Claim, StoreError> {
    let wanted: BTreeMap<Lane, Want> = wants.iter().rev().map(|want| (want.lane, *want)).collect();
    let (models, tenants) = columns(wanted.keys());
    let rows = sqlx::query(CLAIM_AT_SIGHT)
        .bind(models)
        .bind(tenants)
        .bind(wanted.values().map(|want| i64::from(want.most)).collect::<Vec<_>>())
        .bind(wanted.values().map(|want| want.since).collect::<Vec<_>>())
        .bind(memory.oldest.since(wanted.keys()))
        .bind(lifecycle::CLAIM.to.number())
        .bind(node.0)
        .bind(CLAIM_GRACE_SECONDS)
        .bind(wanted.keys().map(|lane| memory.version(lane.model)).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    let (mut seen, mut tasks) = (Seen::default(), Vec::new());
    for row in &rows {
        match read_seen_lane(row)? {
            Some(lane) => seen.add(lane, row, memory)?,
            None => tasks.push(read_running(row, vault)?),
        }
    }
    make_missing(connection, wanted.keys(), &seen.sight).await?;
    let settled: Vec<Want> = wants.into_iter().filter(|want| !seen.is_left(want.lane)).collect();
    let mut plan = Plan::new(&settled, &seen.sight);
    plan.took(&plan.round(), tasks);
    Ok(plan.claim(&seen.sight))
}

/// Claims in one short transaction: look, decide, take.
async fn claim_together(
    connection: &mut PgConnection,
    memory: &mut Memory,
    vault: &Vault,
    node: NodeId,
    wants: &[Want],
) -> Result<Claim, StoreError> {
    let mut transaction = connection.begin().await?;
    let sight = look(&mut transaction, memory, vault, wants).await?;
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

/// Locks what is free, reads limits and counts what runs: in this order, so that nothing that another
/// claim committed before is missed.
async fn look(
    connection: &mut PgConnection,
    memory: &mut Memory,
    vault: &Vault,
    wants: &[Want],
) -> Result<Sight, StoreError> {
    let wanted: BTreeSet<Lane> = wants.iter().map(|want| want.lane).collect();
    let (models, tenants) = columns(&wanted);
    let see = sqlx::query(SEE).bind(models).bind(tenants).bind(memory.oldest.since(&wanted));
    let mut seen = Seen::default();
    for row in &see.fetch_all(&mut *connection).await? {
        if let Some(lane) = read_seen_lane(row)? {
            seen.add(lane, row, memory)?;
        }
    }
    let Seen { mut sight, mut shared, capped, unknown } = seen;
    if !unknown.is_empty() {
        let unknown: BTreeSet<i64> = unknown.iter().map(|lane| lane.model.0).collect();
        let read = memory.read_models(connection, vault, unknown).await?;
        // Of a model that has been given such a limit since it was looked at.
        shared.extend(read.iter().filter(|model| model.spec.total_concurrency > 0).map(|model| model.id.0));
        sight.open.extend(read.into_iter().map(|model| (model.id, model)));
    }
    make_missing(connection, &wanted, &sight).await?;
    if !shared.is_empty() {
        sight.total = lock_and_count_models(connection, shared).await?;
    }
    if !capped.is_empty() {
        sight.capped = lock_and_count_tenants(connection, capped).await?;
    }
    Ok(sight)
}

/// The lane that a row tells of; a task's row tells of none.
fn read_seen_lane(row: &PgRow) -> Result<Option<Lane>, StoreError> {
    let Some(model) = row.try_get::<Option<i64>, _>("lane_model")? else { return Ok(None) };
    Ok(Some(Lane { model: ModelId(model), tenant: TenantId(row.big("lane_tenant")?) }))
}

impl Seen {
    /// Takes in what was seen of a lane.
    fn add(&mut self, lane: Lane, row: &PgRow, memory: &mut Memory) -> Result<(), StoreError> {
        let version = row.big("version")?;
        match memory.model(lane.model, version) {
            Some(model) => {
                self.sight.open.insert(lane.model, model);
            }
            None => {
                self.unknown.insert(lane);
            }
        }
        let Some(running) = row.try_get::<Option<i64>, _>("running")? else { return Ok(()) };
        self.sight.running.insert(lane, running);
        memory.oldest.seen(lane, row.time("oldest")?);
        if row.flag("is_shared")? {
            self.shared.insert(lane.model.0);
        }
        if row.flag("is_capped")? {
            self.capped.insert(lane.tenant.0);
        }
        Ok(())
    }

    /// True of a lane that nothing was taken from at sight.
    fn is_left(&self, lane: Lane) -> bool {
        let shares = self.shared.contains(&lane.model.0) || self.capped.contains(&lane.tenant.0);
        self.unknown.contains(&lane) || shares && self.sight.running.contains_key(&lane)
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

    #[test]
    fn the_planner_is_told_the_limit_that_the_plan_keeps() {
        let limit = format!("LIMIT {MOST_CLAIMED}\n");
        assert!(TAKE.contains(&limit) && CLAIM_AT_SIGHT.contains(&limit));
    }
}
