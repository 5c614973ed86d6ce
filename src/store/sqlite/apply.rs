//! Changing rows that exist: transitions, adoption, pickup.

use std::{borrow::Cow, collections::HashSet, ops::Range, sync::Arc};

use serde::Serialize;
use sqlx::{AssertSqlSafe, SqliteConnection, SqlitePool, types::Json};
use uuid::fmt::Hyphenated as TextId;

use super::{MICROS, begin, now};
use crate::{
    secrets::Vault,
    store::{
        StoreError,
        models::{MODEL_COLUMNS, read_model},
        row::Columns,
        tasks::{
            AUTO_CLEAN_SECONDS, Adopted, PickedUp, UPLOAD_DEADLINE_SECONDS, ledger, micros, object_key,
            rows::{pickup_columns, read_key, read_phase, read_picked_up, read_running, read_state, running_columns},
            tally::{self, Outcome},
        },
        value::Id,
    },
    task::{
        Attempt, NodeId, TaskId, TaskKey, TenantId,
        lifecycle::{CLAIM, PICK_UP, Phase, Place, State, Transition},
    },
};

/// The changes of a run as a table `c`, from a JSON array that is read once and for all: one statement, because
/// each costs two switches between threads.
macro_rules! changes {
    () => {
        "(SELECT value ->> 'tenant' AS tenant, value ->> 'task' AS task, value ->> 'fromState' AS from_state,
                 value ->> 'atAttempt' AS at_attempt, value ->> 'toState' AS to_state, value ->> 'toPhase' AS to_phase,
                 value ->> 'toTmpFile' AS to_tmp_file, value ->> 'toErrorMsg' AS to_error_msg,
                 value ->> 'toOssFile' AS to_oss_file, value ->> 'toOssKey' AS to_oss_key,
                 value ->> 'toFileType' AS to_file_type, value ->> 'toFileSize' AS to_file_size,
                 value ->> 'rest' AS rest, value ->> 'toHead' AS to_head, value ->> 'toTail' AS to_tail,
                 value ->> 'retries' AS retries, value ->> 'lost' AS lost, value ->> 'isFinal' AS is_final,
                 value ->> 'hasCall' AS has_call, value ->> 'atOwner' AS at_owner
          FROM jsonb_each($1)) AS c"
    };
}

/// A first parking that comes again finds its own row and must not pass for a second one, or its
/// call would be counted twice; of the other arrows the guard on the state says the same.
const CHANGE: &str = concat!(
    "
    UPDATE asynch_task AS t
    SET state = c.to_state, phase = c.to_phase, tmp_file = c.to_tmp_file,
        error_msg = COALESCE(c.to_error_msg, t.error_msg),
        oss_file = COALESCE(c.to_oss_file, t.oss_file), oss_key = COALESCE(c.to_oss_key, t.oss_key),
        file_type = COALESCE(c.to_file_type, t.file_type), file_size = COALESCE(c.to_file_size, t.file_size),
        retry_count = t.retry_count + c.retries, lost_attempts = t.lost_attempts + c.lost,
        due_at = $2 + c.rest,
        enqueue_at = CASE WHEN c.to_head THEN t.created_at WHEN c.to_tail THEN $2 + COALESCE(c.rest, 0)
                          ELSE t.enqueue_at END,
        owner = CASE WHEN c.to_state = $3 THEN t.owner END,
        deadline_at = CASE WHEN c.to_state = $3 THEN $2 + $4 END,
        finished_at = CASE WHEN c.is_final THEN $2 END,
        expire_at = CASE WHEN c.to_state = $5 THEN $2 + $6 * COALESCE(
            (SELECT auto_clean_seconds FROM asynch_models m WHERE m.id = t.model_id), $7) END,
        updated_at = $2
    FROM ",
    changes!(),
    "
    WHERE t.tenant_id = c.tenant AND t.task_id = c.task AND t.state = c.from_state AND t.attempt = c.at_attempt
      AND (c.at_owner IS NULL OR t.owner = c.at_owner)
      AND NOT (c.has_call AND c.to_state = c.from_state AND t.phase = c.to_phase AND t.tmp_file = c.to_tmp_file
               AND t.error_msg = COALESCE(c.to_error_msg, t.error_msg))
    RETURNING tenant_id, task_id"
);

/// Rows that look as if the change had been made before. A success may have been picked up since. A key
/// may be written as a part of the URL, so the two are compared together.
const REPEATED: &str = concat!(
    "
    SELECT t.tenant_id, t.task_id FROM ",
    changes!(),
    "
    CROSS JOIN asynch_task t
    WHERE t.tenant_id = c.tenant AND t.task_id = c.task
      AND t.attempt = c.at_attempt AND (t.state = c.to_state OR (c.to_state = $2 AND t.state = $3))
      AND t.phase = c.to_phase AND t.tmp_file = c.to_tmp_file
      AND t.error_msg = COALESCE(c.to_error_msg, t.error_msg)
      AND t.oss_key = COALESCE(c.to_oss_key, t.oss_key)
      AND (t.oss_key = '' OR t.oss_file = COALESCE(c.to_oss_file, t.oss_file))"
);

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
    WHERE tenant_id = $1 AND task_id IN (SELECT value FROM json_each($2)) AND state = $3";

/// One transition as `changes!()` reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeRow<'a> {
    tenant: i64,
    task: TextId,
    from_state: i16,
    at_attempt: i32,
    to_state: i16,
    to_phase: i16,
    to_tmp_file: &'a str,
    to_error_msg: Option<String>,
    to_oss_file: Option<&'a str>,
    to_oss_key: Option<Cow<'a, str>>,
    to_file_type: Option<&'a str>,
    to_file_size: Option<i64>,
    rest: Option<i64>,
    to_head: bool,
    to_tail: bool,
    retries: i32,
    lost: i32,
    is_final: bool,
    has_call: bool,
    at_owner: Option<TextId>,
}

/// Applies a batch and counts its calls.
pub(in crate::store) async fn apply(
    writer: &SqlitePool,
    transitions: &[Transition],
) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = begin(writer).await?;
    let now = now();
    let mut outcomes = vec![Outcome::Stale; transitions.len()];
    for run in tally::runs(transitions) {
        apply_run(&mut transaction, transitions, &mut outcomes, run, now).await?;
    }
    ledger::record_sqlite(&mut transaction, transitions, &outcomes, now).await?;
    count_calls(&mut transaction, transitions, &outcomes, now).await?;
    transaction.commit().await?;
    Ok(outcomes)
}

/// Applies transitions of different tasks.
async fn apply_run(
    connection: &mut SqliteConnection,
    transitions: &[Transition],
    outcomes: &mut [Outcome],
    run: Range<usize>,
    now: i64,
) -> Result<(), StoreError> {
    let mut left: Vec<usize> = run.collect();
    let changed = change(connection, transitions, &left, now).await?;
    left.retain(|&n| {
        let done = changed.contains(&transitions[n].key());
        if done {
            outcomes[n] = Outcome::Done;
        }
        !done
    });
    if left.is_empty() {
        return Ok(());
    }
    let repeated = find_repeated(connection, transitions, &left).await?;
    for n in left.into_iter().filter(|&n| repeated.contains(&transitions[n].key())) {
        outcomes[n] = Outcome::Repeated;
    }
    Ok(())
}

async fn change(
    connection: &mut SqliteConnection,
    all: &[Transition],
    run: &[usize],
    now: i64,
) -> Result<HashSet<TaskKey>, StoreError> {
    let rows = sqlx::query(CHANGE)
        .bind(changes(all, run))
        .bind(now)
        .bind(State::Running.number())
        .bind(UPLOAD_DEADLINE_SECONDS * MICROS)
        .bind(State::Failed.number())
        .bind(MICROS)
        .bind(AUTO_CLEAN_SECONDS)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_key).collect()
}

async fn find_repeated(
    connection: &mut SqliteConnection,
    all: &[Transition],
    run: &[usize],
) -> Result<HashSet<TaskKey>, StoreError> {
    let rows = sqlx::query(REPEATED)
        .bind(changes(all, run))
        .bind(PICK_UP.from.number())
        .bind(PICK_UP.to.number())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_key).collect()
}

/// The parameter of `changes!()`.
fn changes<'a>(all: &'a [Transition], run: &[usize]) -> Json<Vec<ChangeRow<'a>>> {
    Json(run.iter().map(|&n| ChangeRow::from(&all[n])).collect())
}

impl<'a> From<&'a Transition> for ChangeRow<'a> {
    fn from(transition: &'a Transition) -> ChangeRow<'a> {
        let row = transition.row();
        ChangeRow {
            tenant: row.key.tenant.0,
            task: row.key.id.0.hyphenated(),
            from_state: row.from.number(),
            at_attempt: row.attempt.0,
            to_state: row.state.number(),
            to_phase: row.phase.number(),
            to_tmp_file: row.tmp_file,
            to_error_msg: row.error_msg.map(tally::storable),
            to_oss_file: row.stored.map(|stored| stored.oss_file.as_str()),
            to_oss_key: row.stored.map(object_key::written),
            to_file_type: row.stored.map(|stored| stored.file_type.as_str()),
            to_file_size: row.stored.map(|stored| i64::try_from(stored.file_size).unwrap_or(i64::MAX)),
            rest: row.delay.map(micros),
            to_head: row.place == Place::Head,
            to_tail: row.place == Place::Tail,
            retries: row.retries,
            lost: row.lost,
            is_final: row.state.is_final(),
            has_call: transition.call().is_some(),
            at_owner: row.owner.map(|owner| owner.0.hyphenated()),
        }
    }
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
    if read_state(&before)? == State::Queued {
        let resume = sqlx::query(ledger::RESUME).bind(key.tenant.0).bind(Id(key.id.0)).bind(attempt.0);
        resume.execute(&mut *transaction).await?;
    }
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
    let ready = tasks.iter().filter(|task| task.state == PICK_UP.from).map(|task| task.id.to_string());
    let ready: Vec<String> = ready.collect();
    if !ready.is_empty() {
        sqlx::query(PICK_UP_READY)
            .bind(tenant.0)
            .bind(Json(ready))
            .bind(PICK_UP.from.number())
            .bind(PICK_UP.to.number())
            .bind(now())
            .bind(MICROS)
            .bind(AUTO_CLEAN_SECONDS)
            .execute(writer)
            .await?;
    }
    Ok(tasks)
}
