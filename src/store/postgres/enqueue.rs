//! Inserting tasks within `queueLimit`.

use sqlx::{Connection as _, PgConnection, Postgres, Row as _, postgres::PgArguments, query::Query};

use super::columns;
use crate::{
    clock,
    secrets::Vault,
    store::{
        StoreError,
        tasks::{
            Enqueued,
            admission::{self, Demand, Gate, Gates, LaneMemory},
            rows::{read_gate, read_lane, seal_headers},
        },
    },
    task::{Lane, submission::NewTask},
};

const MAKE_IN: &str = "
    INSERT INTO asynch_lane_in (model_id, tenant_id)
    SELECT w.model_id, w.tenant_id FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    ORDER BY w.model_id, w.tenant_id
    ON CONFLICT DO NOTHING";

const MAKE_OUT: &str = "
    INSERT INTO asynch_lane_out (model_id, tenant_id)
    SELECT w.model_id, w.tenant_id FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    ORDER BY w.model_id, w.tenant_id
    ON CONFLICT DO NOTHING";

const LOCK: &str = "
    SELECT i.model_id, i.tenant_id, i.entered, i.counted_entered, i.counted_live,
           m.enabled = 1 AS enabled, m.deleted_at IS NOT NULL AS deleted, m.queue_limit
    FROM unnest($1::bigint[], $2::bigint[]) AS w(model_id, tenant_id)
    JOIN asynch_lane_in i ON i.tenant_id = w.tenant_id AND i.model_id = w.model_id
    JOIN asynch_models m ON m.id = i.model_id
    ORDER BY i.model_id, i.tenant_id
    FOR UPDATE OF i";

const COUNT_LIVE: &str = "
    SELECT (SELECT count(*) FROM asynch_task
            WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NULL)
         + (SELECT count(*) FROM asynch_task
            WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NOT NULL)
         + (SELECT count(*) FROM asynch_task WHERE model_id = $1 AND tenant_id = $2 AND state = 1)";

/// The new rows, bound to `$1` to `$10` by [`bind_tasks`]; may be joined to something before.
macro_rules! insert {
    ($before:literal) => {
        concat!(
            "
    INSERT INTO asynch_task (tenant_id, task_id, model_id, creator, updater, model_name, biz_name, input_ref,
                             request_payload, caller_headers, traceparent)
    SELECT n.tenant_id, n.task_id, n.model_id, n.creator, n.creator, n.model_name, n.biz_name, n.input_ref,
           n.request_payload::json, n.caller_headers, n.traceparent
    FROM ",
            $before,
            " unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
                   $8::text[], $9::text[], $10::text[])
      AS n(tenant_id, task_id, model_id, creator, model_name, biz_name, input_ref, request_payload,
           caller_headers, traceparent)"
        )
    };
}

const INSERT: &str = insert!("");

/// All of a batch in one round trip, if every lane takes all that wants in; nothing otherwise. What
/// `gate` says of a lane that it had to wait for is said of the row as it is under the lock, and the
/// update adds to that row: Postgres reads both again after the wait. Nothing is counted here.
const INSERT_IF_OPEN: &str = concat!(
    "
    WITH gate AS MATERIALIZED (
        SELECT i.model_id, i.tenant_id, w.wanted,
               m.enabled = 1 AND m.deleted_at IS NULL AND
               (m.queue_limit <= 0 OR i.counted_live + i.entered - i.counted_entered + w.wanted <= m.queue_limit)
                   AS is_open
        FROM unnest($11::bigint[], $12::bigint[], $13::bigint[]) AS w(model_id, tenant_id, wanted)
        JOIN asynch_lane_in i ON i.tenant_id = w.tenant_id AND i.model_id = w.model_id
        JOIN asynch_models m ON m.id = i.model_id
        ORDER BY i.model_id, i.tenant_id
        FOR UPDATE OF i
    ), verdict AS MATERIALIZED (
        SELECT count(*) = cardinality($11::bigint[]) AND bool_and(is_open) AS all_open FROM gate
    ), entered AS (
        UPDATE asynch_lane_in i SET entered = i.entered + gate.wanted
        FROM gate, verdict
        WHERE verdict.all_open AND i.tenant_id = gate.tenant_id AND i.model_id = gate.model_id
    ), stored AS (",
    insert!("verdict CROSS JOIN"),
    " WHERE verdict.all_open)
    SELECT all_open FROM verdict"
);

const CLOSE: &str = "
    UPDATE asynch_lane_in i
    SET entered = w.entered, counted_entered = w.counted_entered, counted_live = w.counted_live
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
      AS w(model_id, tenant_id, entered, counted_entered, counted_live)
    WHERE i.tenant_id = w.tenant_id AND i.model_id = w.model_id";

/// Puts a batch in its lanes. Created at the start of the transaction, so within the batch the
/// order is that of the ids, which increase with arrival.
pub(in crate::store) async fn enqueue(
    connection: &mut PgConnection,
    vault: &Vault,
    memory: &mut LaneMemory,
    tasks: &[NewTask],
) -> Result<Vec<Enqueued>, StoreError> {
    let lanes = admission::lanes_of(tasks);
    make_lanes(connection, memory, &lanes).await?;
    if !memory.was_full(&lanes) && insert_if_open(connection, vault, &lanes, tasks).await? {
        return Ok(vec![Enqueued::Accepted; tasks.len()]);
    }
    let verdicts = enqueue_counted(connection, vault, memory, &lanes, tasks).await?;
    memory.learn_full(tasks, &verdicts);
    Ok(verdicts)
}

/// Puts in what there is room for, lane by lane and task by task, after counting where that is due.
async fn enqueue_counted(
    connection: &mut PgConnection,
    vault: &Vault,
    memory: &mut LaneMemory,
    lanes: &Demand,
    tasks: &[NewTask],
) -> Result<Vec<Enqueued>, StoreError> {
    let mut transaction = connection.begin().await?;
    let mut gates = lock(&mut transaction, lanes).await?;
    for lane in admission::crowded(&gates, lanes) {
        recount(&mut transaction, memory, &mut gates, lane).await?;
    }
    let verdicts = admission::admit(&mut gates, tasks);
    let admitted: Vec<&NewTask> = tasks
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| **verdict == Enqueued::Accepted)
        .map(|(task, _)| task)
        .collect();
    if !admitted.is_empty() {
        insert(&mut transaction, vault, &admitted).await?;
    }
    close(&mut transaction, &gates).await?;
    transaction.commit().await?;
    Ok(verdicts)
}

/// Makes the rows of lanes that this node has not met, outside of the batch's transaction: waiting
/// for another node that makes the same rows must not happen under lane locks.
async fn make_lanes(connection: &mut PgConnection, memory: &mut LaneMemory, lanes: &Demand) -> Result<(), StoreError> {
    let unknown = memory.unknown(lanes);
    if unknown.is_empty() {
        return Ok(());
    }
    let (models, tenants) = columns(&unknown);
    for statement in [MAKE_OUT, MAKE_IN] {
        sqlx::query(statement).bind(&models).bind(&tenants).execute(&mut *connection).await?;
    }
    memory.learn(unknown);
    Ok(())
}

async fn lock(connection: &mut PgConnection, lanes: &Demand) -> Result<Gates, StoreError> {
    let (models, tenants) = columns(lanes.keys());
    let rows = sqlx::query(LOCK).bind(models).bind(tenants).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((read_lane(row)?, read_gate(row)?))).collect()
}

async fn recount(
    connection: &mut PgConnection,
    memory: &mut LaneMemory,
    gates: &mut Gates,
    lane: Lane,
) -> Result<(), StoreError> {
    let began = clock::tick();
    let Some(gate) = gates.get_mut(&lane).filter(|_| memory.may_count(lane, began)) else { return Ok(()) };
    let live = sqlx::query_scalar(COUNT_LIVE).bind(lane.model.0).bind(lane.tenant.0).fetch_one(connection).await?;
    memory.counted(lane, began, clock::tick());
    gate.recounted(live);
    Ok(())
}

async fn insert(connection: &mut PgConnection, vault: &Vault, tasks: &[&NewTask]) -> Result<(), StoreError> {
    bind_tasks(INSERT, vault, tasks)?.execute(connection).await?;
    Ok(())
}

/// True if the batch is stored and committed; false if it has to be counted in.
async fn insert_if_open(
    connection: &mut PgConnection,
    vault: &Vault,
    lanes: &Demand,
    tasks: &[NewTask],
) -> Result<bool, StoreError> {
    let (models, tenants) = columns(lanes.keys());
    let wanted: Vec<i64> = lanes.values().copied().collect();
    let tasks: Vec<&NewTask> = tasks.iter().collect();
    let insert = bind_tasks(INSERT_IF_OPEN, vault, &tasks)?.bind(models).bind(tenants).bind(wanted);
    Ok(insert.fetch_one(connection).await?.try_get("all_open")?)
}

fn bind_tasks<'q>(
    statement: &'static str,
    vault: &Vault,
    tasks: &[&'q NewTask],
) -> Result<Query<'q, Postgres, PgArguments>, StoreError> {
    let headers: Vec<String> =
        tasks.iter().map(|task| seal_headers(&task.caller_headers, vault)).collect::<Result<_, _>>()?;
    let numbers = |of: fn(&NewTask) -> i64| tasks.iter().map(|task| of(task)).collect::<Vec<i64>>();
    let texts = |of: fn(&NewTask) -> &str| tasks.iter().map(|task| of(task)).collect::<Vec<&str>>();
    Ok(sqlx::query(statement)
        .bind(numbers(|task| task.key.tenant.0))
        .bind(tasks.iter().map(|task| task.key.id.0).collect::<Vec<_>>())
        .bind(numbers(|task| task.lane.model.0))
        .bind(texts(|task| &task.creator))
        .bind(texts(|task| &task.model_name))
        .bind(texts(|task| &task.biz_name))
        .bind(texts(|task| &task.input_ref))
        .bind(tasks.iter().map(|task| task.request_payload.as_deref()).collect::<Vec<_>>())
        .bind(headers)
        .bind(texts(|task| &task.traceparent)))
}

/// Writes down what entered and what was counted.
async fn close(connection: &mut PgConnection, gates: &Gates) -> Result<(), StoreError> {
    let changed: Vec<(&Lane, &Gate)> = gates.iter().filter(|(_, gate)| gate.changed).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let (models, tenants) = columns(changed.iter().map(|(lane, _)| *lane));
    let numbers = |of: fn(&Gate) -> i64| changed.iter().map(|(_, gate)| of(gate)).collect::<Vec<i64>>();
    sqlx::query(CLOSE)
        .bind(models)
        .bind(tenants)
        .bind(numbers(|gate| gate.entered))
        .bind(numbers(|gate| gate.counted_entered))
        .bind(numbers(|gate| gate.counted_live))
        .execute(connection)
        .await?;
    Ok(())
}
