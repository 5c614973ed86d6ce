//! Changing rows that exist: transitions, adoption, pickup.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, SqlitePool, query::Query, sqlite::SqliteArguments, types::Json};

use super::{MICROS, begin, now};
use crate::{
    secrets::Vault,
    store::{
        StoreError,
        models::{MODEL_COLUMNS, read_model},
        row::Columns,
        tasks::{
            AUTO_CLEAN_SECONDS, Adopted, PickedUp, UPLOAD_DEADLINE_SECONDS, micros,
            rows::{pickup_columns, read_phase, read_picked_up, read_running, read_state, running_columns},
            tally::{self, Outcome},
        },
        value::Id,
    },
    task::{
        Attempt, NodeId, TaskId, TaskKey, TenantId,
        lifecycle::{CLAIM, PICK_UP, Phase, Place, State, Transition},
    },
};

/// A first parking that comes again finds its own row and must not pass for a second one, or its
/// call would be counted twice; of the other arrows the guard on the state says the same.
const CHANGE: &str = "
    UPDATE asynch_task
    SET state = $5, phase = $6, tmp_file = $7, error_msg = COALESCE($8, error_msg),
        oss_file = COALESCE($10, oss_file), oss_key = COALESCE($9, oss_key),
        file_type = COALESCE($11, file_type), file_size = COALESCE($12, file_size),
        retry_count = retry_count + $13, lost_attempts = lost_attempts + $14,
        due_at = $15,
        enqueue_at = CASE WHEN $16 THEN created_at ELSE COALESCE($17, enqueue_at) END,
        owner = CASE WHEN $18 IS NOT NULL THEN owner END,
        deadline_at = $18,
        finished_at = $19,
        expire_at = CASE WHEN $20 THEN $21 + $22 * COALESCE(
            (SELECT auto_clean_seconds FROM asynch_models m WHERE m.id = asynch_task.model_id), $23) END,
        updated_at = $21
    WHERE tenant_id = $1 AND task_id = $2 AND state = $4 AND attempt = $3
      AND NOT ($24 AND $5 = $4 AND phase = $6 AND tmp_file = $7 AND error_msg = COALESCE($8, error_msg))";

/// A row that looks as if the change had been made before. A success may have been picked up since.
const REPEATED: &str = "
    SELECT 1 FROM asynch_task
    WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND (state = $5 OR ($5 = $10 AND state = $11))
      AND phase = $6 AND tmp_file = $7 AND error_msg = COALESCE($8, error_msg) AND oss_key = COALESCE($9, oss_key)";

const COUNT_CALLS: &str = "
    INSERT INTO asynch_model_stat (day, tenant_id, creator, model_name, request_count, success_count, failure_count,
                                   total_seconds, result_bytes, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5 + $6, $5, $6, $7, $8, $9, $9)
    ON CONFLICT (day, tenant_id, creator, model_name) DO UPDATE
    SET request_count = request_count + excluded.request_count,
        success_count = success_count + excluded.success_count,
        failure_count = failure_count + excluded.failure_count,
        total_seconds = total_seconds + excluded.total_seconds,
        result_bytes = result_bytes + excluded.result_bytes,
        updated_at = max(updated_at, excluded.updated_at)";

const ADOPTABLE: &str = "
    SELECT model_id, state, phase FROM asynch_task
    WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND state IN (0, 1)";

const ADOPT: &str = concat!(
    "
    UPDATE asynch_task
    SET state = $3, phase = $4, owner = $5, tmp_file = $6, due_at = NULL, updated_at = $7, deadline_at = $8
    WHERE tenant_id = $1 AND task_id = $2
    RETURNING ",
    running_columns!()
);

const READ_PICKUP: &str = concat!(
    "SELECT ",
    pickup_columns!(),
    " FROM asynch_task WHERE tenant_id = $1 AND task_id IN (SELECT value FROM json_each($2))"
);

const PICK_UP_READY: &str = "
    UPDATE asynch_task
    SET state = $4, updated_at = $5, expire_at = $5 + $6 * COALESCE(
        (SELECT auto_clean_seconds FROM asynch_models m WHERE m.id = asynch_task.model_id), $7)
    WHERE tenant_id = $1 AND task_id = $2 AND state = $3";

/// Applies a batch and counts its calls.
pub(in crate::store) async fn apply(
    writer: &SqlitePool,
    transitions: &[Transition],
) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = begin(writer).await?;
    let now = now();
    let mut outcomes = Vec::with_capacity(transitions.len());
    for transition in transitions {
        outcomes.push(apply_one(&mut transaction, transition, now).await?);
    }
    count_calls(&mut transaction, transitions, &outcomes, now).await?;
    transaction.commit().await?;
    Ok(outcomes)
}

async fn apply_one(
    connection: &mut SqliteConnection,
    transition: &Transition,
    now: i64,
) -> Result<Outcome, StoreError> {
    let row = transition.row();
    let rest = row.delay.map(micros);
    let changed = bind_guard(sqlx::query(CHANGE), transition)
        .bind(row.stored.map(|stored| stored.oss_file.clone()))
        .bind(row.stored.map(|stored| stored.file_type.clone()))
        .bind(row.stored.map(|stored| i64::try_from(stored.file_size).unwrap_or(i64::MAX)))
        .bind(row.retries)
        .bind(row.lost)
        .bind(rest.map(|rest| now + rest))
        .bind(row.place == Place::Head)
        .bind((row.place == Place::Tail).then_some(now + rest.unwrap_or_default()))
        .bind((row.state == State::Running).then_some(now + UPLOAD_DEADLINE_SECONDS * MICROS))
        .bind(row.state.is_final().then_some(now))
        .bind(row.state == State::Failed)
        .bind(now)
        .bind(MICROS)
        .bind(AUTO_CLEAN_SECONDS)
        .bind(transition.call().is_some())
        .execute(&mut *connection)
        .await?;
    if changed.rows_affected() == 1 {
        return Ok(Outcome::Done);
    }
    let repeated = bind_guard(sqlx::query(REPEATED), transition)
        .bind(PICK_UP.from.number())
        .bind(PICK_UP.to.number())
        .fetch_optional(connection)
        .await?;
    Ok(if repeated.is_some() { Outcome::Repeated } else { Outcome::Stale })
}

/// Binds `$1` to `$9`, which both statements on a transition have in common.
fn bind_guard<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    transition: &Transition,
) -> Query<'q, Sqlite, SqliteArguments> {
    let row = transition.row();
    query
        .bind(row.key.tenant.0)
        .bind(Id(row.key.id.0))
        .bind(row.attempt.0)
        .bind(row.from.number())
        .bind(row.state.number())
        .bind(row.phase.number())
        .bind(row.tmp_file.to_owned())
        .bind(row.error_msg.map(tally::storable))
        .bind(row.stored.map(|stored| stored.oss_key.clone()))
}

async fn count_calls(
    connection: &mut SqliteConnection,
    transitions: &[Transition],
    outcomes: &[Outcome],
    now: i64,
) -> Result<(), StoreError> {
    for (key, tally) in tally::tallies(transitions, outcomes) {
        sqlx::query(COUNT_CALLS)
            .bind(key.day)
            .bind(key.tenant)
            .bind(key.creator.to_owned())
            .bind(key.model_name.to_owned())
            .bind(tally.successes)
            .bind(tally.failures)
            .bind(tally.seconds)
            .bind(tally.bytes)
            .bind(now)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Makes `node` the owner of a row whose attempt nobody has taken over.
pub(in crate::store) async fn adopt(
    writer: &SqlitePool,
    vault: &Vault,
    node: NodeId,
    key: TaskKey,
    attempt: Attempt,
    tmp_file: &str,
) -> Result<Option<Adopted>, StoreError> {
    let mut transaction = begin(writer).await?;
    let before =
        sqlx::query(ADOPTABLE).bind(key.tenant.0).bind(Id(key.id.0)).bind(attempt.0).fetch_optional(&mut *transaction);
    let Some(before) = before.await? else { return Ok(None) };
    let statement = format!("SELECT {MODEL_COLUMNS} FROM asynch_models WHERE id = $1");
    let model =
        sqlx::query(AssertSqlSafe(statement)).bind(before.big("model_id")?).fetch_optional(&mut *transaction).await?;
    let Some(model) = model else { return Ok(None) };
    // Nobody has counted the call yet: the phase says so until the owner's first transition, which does.
    let call_uncounted = read_state(&before)? == State::Running && read_phase(&before)? == Phase::Model;
    let phase = if call_uncounted { Phase::Model } else { Phase::Upload };
    let now = now();
    let row = sqlx::query(ADOPT)
        .bind(key.tenant.0)
        .bind(Id(key.id.0))
        .bind(CLAIM.to.number())
        .bind(phase.number())
        .bind(Id(node.0))
        .bind(tmp_file)
        .bind(now)
        .bind(now + UPLOAD_DEADLINE_SECONDS * MICROS)
        .fetch_one(&mut *transaction)
        .await?;
    let adopted =
        Adopted { task: read_running(&row, vault)?, model: Arc::new(read_model(&model, vault)?), call_uncounted };
    transaction.commit().await?;
    Ok(Some(adopted))
}

/// Reads first: most batches are asked for before anything is ready, and then nothing is written.
pub(in crate::store) async fn pick_up(
    readers: &SqlitePool,
    writer: &SqlitePool,
    tenant: TenantId,
    ids: &[TaskId],
) -> Result<Vec<PickedUp>, StoreError> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = sqlx::query(READ_PICKUP).bind(tenant.0).bind(Json(ids)).fetch_all(readers).await?;
    let tasks: Vec<PickedUp> = rows.iter().map(read_picked_up).collect::<Result<_, _>>()?;
    let ready: Vec<&PickedUp> = tasks.iter().filter(|task| task.state == PICK_UP.from).collect();
    if !ready.is_empty() {
        let mut transaction = begin(writer).await?;
        let now = now();
        for task in ready {
            sqlx::query(PICK_UP_READY)
                .bind(tenant.0)
                .bind(Id(task.id.0))
                .bind(PICK_UP.from.number())
                .bind(PICK_UP.to.number())
                .bind(now)
                .bind(MICROS)
                .bind(AUTO_CLEAN_SECONDS)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
    Ok(tasks)
}
