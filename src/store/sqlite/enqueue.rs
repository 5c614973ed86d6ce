//! Inserting tasks within `queueLimit`.

use std::{collections::BTreeSet, sync::LazyLock};

use sqlx::{SqliteConnection, SqlitePool};

use super::{Many, begin, now};
use crate::{
    clock,
    secrets::Vault,
    store::{
        StoreError,
        tasks::{
            Enqueued,
            admission::{self, Demand, Gates, LaneMemory},
            rows::{read_gate, seal_headers},
        },
        value::Id,
    },
    task::{Lane, submission::NewTask},
};

const MAKE_IN: &str = "INSERT INTO asynch_lane_in (model_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const MAKE_OUT: &str = "INSERT INTO asynch_lane_out (model_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const READ: &str = "
    SELECT i.entered, i.counted_entered, i.counted_live,
           m.enabled = 1 AS enabled, m.deleted_at IS NOT NULL AS deleted, m.queue_limit
    FROM asynch_lane_in i JOIN asynch_models m ON m.id = i.model_id
    WHERE i.model_id = $1 AND i.tenant_id = $2";

const COUNT_LIVE: &str = "
    SELECT (SELECT count(*) FROM asynch_task
            WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NULL)
         + (SELECT count(*) FROM asynch_task
            WHERE tenant_id = $2 AND model_id = $1 AND state = 0 AND due_at IS NOT NULL)
         + (SELECT count(*) FROM asynch_task WHERE model_id = $1 AND tenant_id = $2 AND state = 1)";

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    Many::new(
        "INSERT INTO asynch_task (tenant_id, task_id, model_id, creator, updater, model_name, biz_name, input_ref,
                                  request_payload, caller_headers, traceparent, created_at, updated_at, enqueue_at)",
        14,
    )
});

const CLOSE: &str = "
    UPDATE asynch_lane_in SET entered = $3, counted_entered = $4, counted_live = $5
    WHERE model_id = $1 AND tenant_id = $2";

/// Puts a batch in its lanes. Created at one moment, so within the batch the order is that of the
/// ids, which increase with arrival.
pub(in crate::store) async fn enqueue(
    writer: &SqlitePool,
    vault: &Vault,
    memory: &mut LaneMemory,
    tasks: &[NewTask],
) -> Result<Vec<Enqueued>, StoreError> {
    let lanes = admission::lanes_of(tasks);
    let mut transaction = begin(writer).await?;
    make_lanes(&mut transaction, &memory.unknown(&lanes)).await?;
    let mut gates = read(&mut transaction, &lanes).await?;
    for lane in admission::crowded(&gates, &lanes) {
        recount(&mut transaction, memory, &mut gates, lane).await?;
    }
    let verdicts = admission::admit(&mut gates, tasks);
    let is_admitted = |(task, verdict): (_, &Enqueued)| (*verdict == Enqueued::Accepted).then_some(task);
    let admitted: Vec<&NewTask> = tasks.iter().zip(&verdicts).filter_map(is_admitted).collect();
    let now = now();
    for (statement, tasks) in INSERT.pieces(&admitted) {
        insert(&mut transaction, statement, vault, tasks, now).await?;
    }
    close(&mut transaction, &gates).await?;
    transaction.commit().await?;
    memory.learn(lanes.into_keys());
    Ok(verdicts)
}

async fn make_lanes(connection: &mut SqliteConnection, lanes: &BTreeSet<Lane>) -> Result<(), StoreError> {
    for lane in lanes {
        for statement in [MAKE_OUT, MAKE_IN] {
            sqlx::query(statement).bind(lane.model.0).bind(lane.tenant.0).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn read(connection: &mut SqliteConnection, lanes: &Demand) -> Result<Gates, StoreError> {
    let mut gates = Gates::new();
    for lane in lanes.keys() {
        let row = sqlx::query(READ).bind(lane.model.0).bind(lane.tenant.0).fetch_optional(&mut *connection).await?;
        let Some(row) = row else { continue };
        gates.insert(*lane, read_gate(&row)?);
    }
    Ok(gates)
}

async fn recount(
    connection: &mut SqliteConnection,
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

async fn insert(
    connection: &mut SqliteConnection,
    statement: &'static str,
    vault: &Vault,
    tasks: &[&NewTask],
    now: i64,
) -> Result<(), StoreError> {
    let mut insert = sqlx::query(statement);
    for task in tasks {
        insert = insert
            .bind(task.key.tenant.0)
            .bind(Id(task.key.id.0))
            .bind(task.lane.model.0)
            .bind(&task.creator)
            .bind(&task.creator)
            .bind(&task.model_name)
            .bind(&task.biz_name)
            .bind(&task.input_ref)
            .bind(&task.request_payload)
            .bind(seal_headers(&task.caller_headers, vault)?)
            .bind(&task.traceparent)
            .bind(now)
            .bind(now)
            .bind(now);
    }
    insert.execute(connection).await?;
    Ok(())
}

/// Writes down what entered and what was counted.
async fn close(connection: &mut SqliteConnection, gates: &Gates) -> Result<(), StoreError> {
    for (lane, gate) in gates.iter().filter(|(_, gate)| gate.changed) {
        sqlx::query(CLOSE)
            .bind(lane.model.0)
            .bind(lane.tenant.0)
            .bind(gate.entered)
            .bind(gate.counted_entered)
            .bind(gate.counted_live)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
