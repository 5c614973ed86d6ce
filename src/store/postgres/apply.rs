//! Changing rows that exist: transitions, adoption, pickup.

use std::{collections::HashSet, ops::Range, sync::Arc};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use crate::{
    secrets::Vault,
    stats::CallCount,
    store::{
        StoreError,
        models::{MODEL_COLUMNS, read_model},
        row::Columns,
        tasks::{
            AUTO_CLEAN_SECONDS, Adopted, PickedUp, UPLOAD_DEADLINE_SECONDS, ledger, micros, object_key,
            rows::{pickup_columns, read_phase, read_picked_up, read_running, read_state, running_columns},
            tally::{self, Outcome, StatKey, Tally},
        },
    },
    task::{
        Attempt, NodeId, TaskId, TaskKey, TenantId,
        lifecycle::{CLAIM, PICK_UP, Phase, Place, RowChange, State, Transition},
    },
};

/// How [`Place`] is told to the statement; a place that is kept is neither.
const PLACE_HEAD: i16 = 1;
const PLACE_TAIL: i16 = 2;

/// A statement on many rows that answers with the keys of those it found.
type KeyQuery<'q> = QueryAs<'q, Postgres, (i64, Uuid), PgArguments>;

/// The changes of a run as a table `c`; [`bind_changes`] binds them.
macro_rules! changes {
    () => {
        "unnest($1::bigint[], $2::uuid[], $3::smallint[], $4::int[], $5::smallint[], $6::smallint[], $7::text[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::smallint[],
                $15::int[], $16::int[], $17::boolean[], $18::boolean[], $19::uuid[])
           AS c(tenant, task, from_state, at_attempt, to_state, to_phase, to_tmp_file, to_error_msg, to_oss_file,
                to_oss_key, to_file_type, to_file_size, rest, place, retries, lost, is_final, has_call, at_owner)"
    };
}

/// Adds the rows of a query to the statistics.
macro_rules! count_calls {
    ($rows:literal) => {
        concat!(
            "
    INSERT INTO asynch_model_stat AS s (day, tenant_id, creator, model_name, request_count, success_count,
                                        failure_count, total_seconds, result_bytes, created_at, updated_at)
    ",
            $rows,
            "
    ON CONFLICT (day, tenant_id, creator, model_name) DO UPDATE
    SET request_count = s.request_count + EXCLUDED.request_count,
        success_count = s.success_count + EXCLUDED.success_count,
        failure_count = s.failure_count + EXCLUDED.failure_count,
        total_seconds = s.total_seconds + EXCLUDED.total_seconds,
        result_bytes = s.result_bytes + EXCLUDED.result_bytes,
        updated_at = GREATEST(s.updated_at, EXCLUDED.updated_at)"
        )
    };
}

/// A first parking that comes again finds its own row and must not pass for a second one, or its
/// call would be counted twice; of the other arrows the guard on the state says the same.
macro_rules! change {
    () => {
        concat!(
            "
    UPDATE asynch_task t
    SET state = c.to_state, phase = c.to_phase, tmp_file = c.to_tmp_file,
        error_msg = COALESCE(c.to_error_msg, t.error_msg),
        oss_file = COALESCE(c.to_oss_file, t.oss_file), oss_key = COALESCE(c.to_oss_key, t.oss_key),
        file_type = COALESCE(c.to_file_type, t.file_type), file_size = COALESCE(c.to_file_size, t.file_size),
        retry_count = t.retry_count + c.retries, lost_attempts = t.lost_attempts + c.lost,
        due_at = now() + c.rest * interval '1 microsecond',
        enqueue_at = CASE c.place WHEN $20 THEN t.created_at
                                  WHEN $21 THEN now() + COALESCE(c.rest, 0) * interval '1 microsecond'
                                  ELSE t.enqueue_at END,
        owner = CASE WHEN c.to_state = $22 THEN t.owner END,
        deadline_at = CASE WHEN c.to_state = $22 THEN now() + $23 * interval '1 second' END,
        finished_at = CASE WHEN c.is_final THEN now() END,
        expire_at = CASE WHEN c.to_state = $24 THEN now() + interval '1 second' * COALESCE(
            (SELECT m.auto_clean_seconds FROM asynch_models m WHERE m.id = t.model_id), $25) END,
        updated_at = now()
    FROM ",
            changes!(),
            "
    WHERE t.tenant_id = c.tenant AND t.task_id = c.task AND t.state = c.from_state AND t.attempt = c.at_attempt
      AND (c.at_owner IS NULL OR t.owner = c.at_owner)
      AND NOT (c.has_call AND c.to_state = c.from_state AND t.phase = c.to_phase AND t.tmp_file = c.to_tmp_file
               AND t.error_msg = COALESCE(c.to_error_msg, t.error_msg))
    RETURNING t.tenant_id, t.task_id"
        )
    };
}

const CHANGE: &str = change!();

/// Results, and in the same statement their calls: one round trip for what nearly all batches are.
const SUCCEED: &str = concat!(
    "WITH changed AS (",
    change!(),
    "), counted AS (",
    count_calls!(
        "SELECT k.day, changed.tenant_id, k.creator, k.model_name, count(*), count(*), 0, sum(k.seconds),
                LEAST(sum(k.bytes), 9223372036854775807)::bigint, now(), now()
         FROM changed JOIN unnest($26::bigint[], $27::uuid[], $28::date[], $29::text[], $30::text[], $31::float8[],
                                  $32::bigint[])
           AS k(tenant, task, day, creator, model_name, seconds, bytes)
           ON k.tenant = changed.tenant_id AND k.task = changed.task_id
         GROUP BY k.day, changed.tenant_id, k.creator, k.model_name
         ORDER BY k.day, changed.tenant_id, k.creator, k.model_name"
    ),
    ") SELECT tenant_id, task_id FROM changed"
);

/// Rows that look as if the change had been made before. A success may have been picked up since. A key
/// may be written as a part of the URL, so the two are compared together.
const REPEATED: &str = concat!(
    "
    SELECT t.tenant_id, t.task_id FROM ",
    changes!(),
    "
    JOIN asynch_task t ON t.tenant_id = c.tenant AND t.task_id = c.task
    WHERE t.attempt = c.at_attempt AND (t.state = c.to_state OR (c.to_state = $20 AND t.state = $21))
      AND t.phase = c.to_phase AND t.tmp_file = c.to_tmp_file
      AND t.error_msg = COALESCE(c.to_error_msg, t.error_msg)
      AND t.oss_key = COALESCE(c.to_oss_key, t.oss_key)
      AND (t.oss_key = '' OR t.oss_file = COALESCE(c.to_oss_file, t.oss_file))"
);

/// Written in the order of the key, after the tasks.
const COUNT_CALLS: &str = count_calls!(
    "SELECT day, tenant_id, creator, model_name, successes + failures, successes, failures, seconds, bytes, now(), now()
     FROM unnest($1::date[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::float8[], $8::bigint[])
       AS c(day, tenant_id, creator, model_name, successes, failures, seconds, bytes)"
);

const ADOPTABLE: &str = "
    SELECT model_id, state, phase FROM asynch_task
    WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND state IN (0, 1)
    FOR UPDATE";

const ADOPT: &str = concat!(
    "
    UPDATE asynch_task
    SET state = $3, phase = $4, owner = $5, tmp_file = $6, due_at = NULL, updated_at = now(),
        deadline_at = now() + $7 * interval '1 second'
    WHERE tenant_id = $1 AND task_id = $2
    RETURNING ",
    running_columns!()
);

const READ_PICKUP: &str =
    concat!("SELECT ", pickup_columns!(), " FROM asynch_task WHERE tenant_id = $1 AND task_id = ANY($2)");

const PICK_UP_READY: &str = "
    WITH ready AS MATERIALIZED (
        SELECT tenant_id AS tenant, task_id AS task FROM asynch_task
        WHERE tenant_id = $1 AND task_id = ANY($2) AND state = $3
        ORDER BY task_id FOR UPDATE
    )
    UPDATE asynch_task t
    SET state = $4, updated_at = now(), expire_at = now() + interval '1 second' * COALESCE(
        (SELECT m.auto_clean_seconds FROM asynch_models m WHERE m.id = t.model_id), $5)
    FROM ready WHERE t.tenant_id = ready.tenant AND t.task_id = ready.task AND t.state = $3";

/// When the calls of a run are counted.
#[derive(Clone, Copy)]
enum Counting {
    /// In the statement that changes its tasks.
    Along,
    /// At the end of the transaction.
    Later,
}

/// Applies a batch and counts its calls, statistics last: their rows are shared by many tasks and
/// are locked for the shortest time.
pub(in crate::store) async fn apply(
    connection: &mut PgConnection,
    transitions: &[Transition],
) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes = vec![Outcome::Stale; transitions.len()];
    let runs = tally::runs(transitions);
    if runs.len() == 1 && transitions.iter().all(is_success) {
        apply_run(connection, transitions, &mut outcomes, 0..transitions.len(), Counting::Along).await?;
        return Ok(outcomes);
    }
    let mut transaction = connection.begin().await?;
    for run in runs {
        apply_run(&mut transaction, transitions, &mut outcomes, run, Counting::Later).await?;
    }
    ledger::record_postgres(&mut transaction, transitions, &outcomes).await?;
    count_calls(&mut transaction, transitions, &outcomes).await?;
    transaction.commit().await?;
    Ok(outcomes)
}

/// Applies transitions of different tasks, in the order of their keys.
async fn apply_run(
    connection: &mut PgConnection,
    transitions: &[Transition],
    outcomes: &mut [Outcome],
    run: Range<usize>,
    counting: Counting,
) -> Result<(), StoreError> {
    let mut order: Vec<usize> = run.collect();
    order.sort_by_key(|&n| sort_key(transitions[n].key()));
    let changed = match counting {
        Counting::Along => succeed(connection, transitions, &order).await?,
        Counting::Later => change(connection, transitions, &order).await?,
    };
    order.retain(|&n| {
        let done = changed.contains(&sort_key(transitions[n].key()));
        if done {
            outcomes[n] = Outcome::Done;
        }
        !done
    });
    if order.is_empty() {
        return Ok(());
    }
    let repeated = find_repeated(connection, transitions, &order).await?;
    for n in order {
        if repeated.contains(&sort_key(transitions[n].key())) {
            outcomes[n] = Outcome::Repeated;
        }
    }
    Ok(())
}

type Keys = HashSet<(i64, Uuid)>;

fn sort_key(key: TaskKey) -> (i64, Uuid) {
    (key.tenant.0, key.id.0)
}

/// A result, and of a call that gave it.
fn is_success(transition: &Transition) -> bool {
    transition.row().state == State::Succeeded && transition.call().is_none_or(|call| call.success)
}

async fn change(connection: &mut PgConnection, all: &[Transition], order: &[usize]) -> Result<Keys, StoreError> {
    Ok(bind_change(CHANGE, all, order).fetch_all(connection).await?.into_iter().collect())
}

/// As [`change`] for results, and counts the calls that gave them.
async fn succeed(connection: &mut PgConnection, all: &[Transition], order: &[usize]) -> Result<Keys, StoreError> {
    let calls = order.iter().filter_map(|&n| Some((all[n].key(), all[n].call()?)));
    let calls: Vec<(TaskKey, &CallCount)> = calls.collect();
    let rows = bind_change(SUCCEED, all, order)
        .bind(calls.iter().map(|(key, _)| key.tenant.0).collect::<Vec<_>>())
        .bind(calls.iter().map(|(key, _)| key.id.0).collect::<Vec<_>>())
        .bind(calls.iter().map(|(_, call)| call.day).collect::<Vec<_>>())
        .bind(calls.iter().map(|(_, call)| call.creator.as_str()).collect::<Vec<_>>())
        .bind(calls.iter().map(|(_, call)| call.model_name.as_str()).collect::<Vec<_>>())
        .bind(calls.iter().map(|(_, call)| call.seconds).collect::<Vec<_>>())
        .bind(calls.iter().map(|(_, call)| i64::try_from(call.bytes).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Binds the parameters of `change!()`.
fn bind_change<'q>(statement: &'static str, all: &'q [Transition], order: &[usize]) -> KeyQuery<'q> {
    bind_changes(sqlx::query_as(statement), all, order)
        .bind(PLACE_HEAD)
        .bind(PLACE_TAIL)
        .bind(State::Running.number())
        .bind(UPLOAD_DEADLINE_SECONDS)
        .bind(State::Failed.number())
        .bind(AUTO_CLEAN_SECONDS)
}

async fn find_repeated(connection: &mut PgConnection, all: &[Transition], order: &[usize]) -> Result<Keys, StoreError> {
    let rows = bind_changes(sqlx::query_as(REPEATED), all, order)
        .bind(PICK_UP.from.number())
        .bind(PICK_UP.to.number())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Binds the parameters of `changes!()`.
fn bind_changes<'q>(query: KeyQuery<'q>, all: &'q [Transition], order: &[usize]) -> KeyQuery<'q> {
    let rows: Vec<RowChange<'_>> = order.iter().map(|&n| all[n].row()).collect();
    query
        .bind(column(&rows, |row| row.key.tenant.0))
        .bind(column(&rows, |row| row.key.id.0))
        .bind(column(&rows, |row| row.from.number()))
        .bind(column(&rows, |row| row.attempt.0))
        .bind(column(&rows, |row| row.state.number()))
        .bind(column(&rows, |row| row.phase.number()))
        .bind(column(&rows, |row| row.tmp_file))
        .bind(column(&rows, |row| row.error_msg.map(tally::storable)))
        .bind(column(&rows, |row| row.stored.map(|stored| stored.oss_file.as_str())))
        .bind(column(&rows, |row| row.stored.map(object_key::written)))
        .bind(column(&rows, |row| row.stored.map(|stored| stored.file_type.as_str())))
        .bind(column(&rows, |row| row.stored.map(|stored| i64::try_from(stored.file_size).unwrap_or(i64::MAX))))
        .bind(column(&rows, |row| row.delay.map(micros)))
        .bind(column(&rows, |row| place_number(row.place)))
        .bind(column(&rows, |row| row.retries))
        .bind(column(&rows, |row| row.lost))
        .bind(column(&rows, |row| row.state.is_final()))
        .bind(order.iter().map(|&n| all[n].call().is_some()).collect::<Vec<_>>())
        .bind(column(&rows, |row| row.owner.map(|owner| owner.0)))
}

fn column<'a, T>(rows: &[RowChange<'a>], of: impl Fn(&RowChange<'a>) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

const fn place_number(place: Place) -> i16 {
    match place {
        Place::Kept => 0,
        Place::Head => PLACE_HEAD,
        Place::Tail => PLACE_TAIL,
    }
}

async fn count_calls(
    connection: &mut PgConnection,
    transitions: &[Transition],
    outcomes: &[Outcome],
) -> Result<(), StoreError> {
    let (keys, tallies): (Vec<StatKey<'_>>, Vec<Tally>) = tally::tallies(transitions, outcomes).into_iter().unzip();
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(COUNT_CALLS)
        .bind(keys.iter().map(|key| key.day).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.tenant).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.creator).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.model_name).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.successes).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.failures).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.seconds).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.bytes).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes `node` the owner of a row whose attempt nobody has taken over.
pub(in crate::store) async fn adopt(
    pool: &PgPool,
    vault: &Vault,
    node: NodeId,
    key: TaskKey,
    attempt: Attempt,
    tmp_file: &str,
) -> Result<Option<Adopted>, StoreError> {
    let mut transaction = pool.begin().await?;
    let before =
        sqlx::query(ADOPTABLE).bind(key.tenant.0).bind(key.id.0).bind(attempt.0).fetch_optional(&mut *transaction);
    let Some(before) = before.await? else { return Ok(None) };
    let statement = format!("SELECT {MODEL_COLUMNS} FROM asynch_models WHERE id = $1");
    let model =
        sqlx::query(AssertSqlSafe(statement)).bind(before.big("model_id")?).fetch_optional(&mut *transaction).await?;
    let Some(model) = model else { return Ok(None) };
    // Nobody has counted the call yet: the phase says so until the owner's first transition, which does.
    let call_uncounted = read_state(&before)? == State::Running && read_phase(&before)? == Phase::Model;
    let phase = if call_uncounted { Phase::Model } else { Phase::Upload };
    let row = sqlx::query(ADOPT)
        .bind(key.tenant.0)
        .bind(key.id.0)
        .bind(CLAIM.to.number())
        .bind(phase.number())
        .bind(node.0)
        .bind(tmp_file)
        .bind(UPLOAD_DEADLINE_SECONDS)
        .fetch_one(&mut *transaction)
        .await?;
    if read_state(&before)? == State::Queued {
        let resume = sqlx::query(ledger::RESUME).bind(key.tenant.0).bind(key.id.0).bind(attempt.0);
        resume.execute(&mut *transaction).await?;
    }
    let adopted =
        Adopted { task: read_running(&row, vault)?, model: Arc::new(read_model(&model, vault)?), call_uncounted };
    transaction.commit().await?;
    Ok(Some(adopted))
}

/// Reads first: most batches are asked for before anything is ready, and then nothing is written.
pub(in crate::store) async fn pick_up(
    pool: &PgPool,
    tenant: TenantId,
    ids: &[TaskId],
) -> Result<Vec<PickedUp>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(READ_PICKUP).bind(tenant.0).bind(ids).fetch_all(pool).await?;
    let tasks: Vec<PickedUp> = rows.iter().map(read_picked_up).collect::<Result<_, _>>()?;
    let ready: Vec<Uuid> = tasks.iter().filter(|task| task.state == PICK_UP.from).map(|task| task.id.0).collect();
    if !ready.is_empty() {
        sqlx::query(PICK_UP_READY)
            .bind(tenant.0)
            .bind(ready)
            .bind(PICK_UP.from.number())
            .bind(PICK_UP.to.number())
            .bind(AUTO_CLEAN_SECONDS)
            .execute(pool)
            .await?;
    }
    Ok(tasks)
}
