//! What became of a task's attempts.
//!
//! Those that ended without success have a row each in `asynch_attempt`, written in the transaction
//! that ends them and deleted with their task. The one that runs, or succeeded, is told from the
//! task's own row: a task that succeeds at once writes nothing here.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, SqliteConnection, types::Json};
use uuid::{Uuid, fmt::Hyphenated as TextId};

use super::{
    rows::{read_phase, read_state},
    tally::{self, Outcome},
};
use crate::{
    store::{Store, StoreError, on_each, row::Columns, value::Id, within},
    task::{
        Attempt, AttemptOutcome, NodeId, PastAttempt, TaskKey,
        lifecycle::{Ended, Ending, Phase, State, Transition},
    },
};

/// Attempts that are remembered of one task, the latest ones.
pub const MOST_ATTEMPTS: i32 = 100;

const RECORD_POSTGRES: &str = "
    INSERT INTO asynch_attempt (tenant_id, task_id, attempt, ending, started_at, ended_at, node, error_msg)
    SELECT e.tenant, e.task, e.attempt, e.ending, t.started_at, now(), e.node, e.error
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::smallint[], $5::uuid[], $6::text[])
      AS e(tenant, task, attempt, ending, node, error)
    JOIN asynch_task t ON t.tenant_id = e.tenant AND t.task_id = e.task
    ON CONFLICT DO NOTHING";

const RECORD_SQLITE: &str = "
    INSERT INTO asynch_attempt (tenant_id, task_id, attempt, ending, started_at, ended_at, node, error_msg)
    SELECT t.tenant_id, t.task_id, e.value ->> 'attempt', e.value ->> 'ending', t.started_at, $2, e.value ->> 'node',
           e.value ->> 'error'
    FROM json_each($1) e CROSS JOIN asynch_task t
    WHERE t.tenant_id = e.value ->> 'tenant' AND t.task_id = e.value ->> 'task'
    ON CONFLICT DO NOTHING";

const TRIM_POSTGRES: &str = "
    DELETE FROM asynch_attempt a USING unnest($1::bigint[], $2::uuid[], $3::int[]) AS e(tenant, task, before)
    WHERE a.tenant_id = e.tenant AND a.task_id = e.task AND a.attempt <= e.before";

const TRIM_SQLITE: &str = "DELETE FROM asynch_attempt WHERE tenant_id = $1 AND task_id = $2 AND attempt <= $3";

const FORGET_POSTGRES: &str = "
    DELETE FROM asynch_attempt a USING unnest($1::bigint[], $2::uuid[]) AS w(tenant, task)
    WHERE a.tenant_id = w.tenant AND a.task_id = w.task";

const FORGET_SQLITE: &str = "
    DELETE FROM asynch_attempt WHERE (tenant_id, task_id) IN (
        SELECT value ->> 'tenant', value ->> 'task' FROM json_each($1)
    )";

const PRESENT: &str = "\
    SELECT state, phase, attempt, owner, started_at, finished_at, error_msg FROM asynch_task \
    WHERE tenant_id = $1 AND task_id = $2";

const PAST: &str = "\
    SELECT attempt, ending, started_at, ended_at, node, error_msg FROM asynch_attempt \
    WHERE tenant_id = $1 AND task_id = $2 ORDER BY attempt";

/// An ended attempt as `RECORD_SQLITE` reads it.
#[derive(Serialize)]
struct EndedRow {
    tenant: i64,
    task: TextId,
    attempt: i32,
    ending: i16,
    node: TextId,
    error: String,
}

/// A key as `FORGET_SQLITE` reads it.
#[derive(Serialize)]
struct KeyRow {
    tenant: i64,
    task: TextId,
}

/// What a task's own row says of its latest attempt.
struct Present {
    state: State,
    phase: Phase,
    attempt: Attempt,
    owner: Option<NodeId>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    error: String,
}

impl Store {
    /// The attempts of a task, oldest first: the latest [`MOST_ATTEMPTS`] that ended without success,
    /// and the one that runs or succeeded. `None` where there is no such task.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn attempts(&self, key: TaskKey) -> Result<Option<Vec<PastAttempt>>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let present = sqlx::query(PRESENT).bind(key.tenant.0).bind(Id(key.id.0)).fetch_optional(pool).await?;
                let Some(present) = present else { return Ok(None) };
                // Read after the row: an attempt that ends in between is here, and only here, with its end.
                let past = sqlx::query(PAST).bind(key.tenant.0).bind(Id(key.id.0)).fetch_all(pool).await?;
                let past = past.iter().map(read_past).collect::<Result<_, _>>()?;
                Ok(Some(timeline(past, read_present(&present)?)))
            })
        })
        .await
    }
}

/// Remembers the attempts that these transitions ended, of those that changed their row.
pub(in crate::store) async fn record_postgres(
    connection: &mut PgConnection,
    transitions: &[Transition],
    outcomes: &[Outcome],
) -> Result<(), StoreError> {
    let ended = ended(transitions, outcomes);
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query(RECORD_POSTGRES)
        .bind(ended.iter().map(|ended| ended.key.tenant.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|ended| ended.key.id.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|ended| ended.attempt.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|ended| ended.ending.number()).collect::<Vec<_>>())
        .bind(ended.iter().map(|ended| ended.node.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|ended| tally::storable(ended.error)).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    let many: Vec<&Ended<'_>> = ended.iter().filter(|ended| ended.attempt.0 > MOST_ATTEMPTS).collect();
    if !many.is_empty() {
        sqlx::query(TRIM_POSTGRES)
            .bind(many.iter().map(|ended| ended.key.tenant.0).collect::<Vec<_>>())
            .bind(many.iter().map(|ended| ended.key.id.0).collect::<Vec<_>>())
            .bind(many.iter().map(|ended| ended.attempt.0 - MOST_ATTEMPTS).collect::<Vec<_>>())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// The same.
pub(in crate::store) async fn record_sqlite(
    connection: &mut SqliteConnection,
    transitions: &[Transition],
    outcomes: &[Outcome],
    now: i64,
) -> Result<(), StoreError> {
    let ended = ended(transitions, outcomes);
    if ended.is_empty() {
        return Ok(());
    }
    let rows: Vec<EndedRow> = ended.iter().map(EndedRow::from).collect();
    sqlx::query(RECORD_SQLITE).bind(Json(rows)).bind(now).execute(&mut *connection).await?;
    for ended in ended.iter().filter(|ended| ended.attempt.0 > MOST_ATTEMPTS) {
        let trim = sqlx::query(TRIM_SQLITE).bind(ended.key.tenant.0).bind(Id(ended.key.id.0));
        trim.bind(ended.attempt.0 - MOST_ATTEMPTS).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Forgets that an attempt ended: its result was found again, and it goes on.
pub(in crate::store) const RESUME: &str =
    "DELETE FROM asynch_attempt WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3";

/// Forgets the attempts of tasks that are being deleted in this transaction.
pub(in crate::store) async fn forget_postgres(
    connection: &mut PgConnection,
    tasks: &[TaskKey],
) -> Result<(), StoreError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let tenants: Vec<i64> = tasks.iter().map(|key| key.tenant.0).collect();
    let ids: Vec<Uuid> = tasks.iter().map(|key| key.id.0).collect();
    sqlx::query(FORGET_POSTGRES).bind(tenants).bind(ids).execute(connection).await?;
    Ok(())
}

/// The same.
pub(in crate::store) async fn forget_sqlite(
    connection: &mut SqliteConnection,
    tasks: &[TaskKey],
) -> Result<(), StoreError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let keys: Vec<KeyRow> =
        tasks.iter().map(|key| KeyRow { tenant: key.tenant.0, task: key.id.0.hyphenated() }).collect();
    sqlx::query(FORGET_SQLITE).bind(Json(keys)).execute(connection).await?;
    Ok(())
}

/// The attempts that ended without success, of transitions that changed their row.
fn ended<'a>(transitions: &'a [Transition], outcomes: &[Outcome]) -> Vec<Ended<'a>> {
    let done = transitions.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Done);
    done.filter_map(|(transition, _)| transition.ended()).collect()
}

/// The past, and after it what the task's row says of an attempt that is not among it.
fn timeline(mut past: Vec<PastAttempt>, present: Present) -> Vec<PastAttempt> {
    let latest = past.last().map_or(Attempt::NONE, |past| past.attempt);
    let outcome = match present.state {
        State::Running => Some(AttemptOutcome::Running),
        State::Succeeded | State::PickedUp => Some(AttemptOutcome::Succeeded),
        State::Queued | State::Failed | State::Cancelled => None,
    };
    if let Some(outcome) = outcome.filter(|_| present.attempt > latest) {
        let uploads = present.state == State::Running && present.phase == Phase::Upload;
        past.push(PastAttempt {
            attempt: present.attempt,
            outcome,
            started_at: present.started_at,
            ended_at: present.finished_at,
            node: present.owner,
            // Until it uploads, the row's error is that of the attempt before.
            error: if uploads { present.error } else { String::new() },
        });
    }
    past
}

fn read_past(row: &impl Columns) -> Result<PastAttempt, StoreError> {
    let number = row.small("ending")?;
    let ending = Ending::from_number(number.into())
        .ok_or_else(|| StoreError::Broken(format!("an attempt has the unknown ending {number}")))?;
    Ok(PastAttempt {
        attempt: Attempt(row.int("attempt")?),
        outcome: AttemptOutcome::Ended(ending),
        started_at: row.time_if_any("started_at")?,
        ended_at: Some(row.time("ended_at")?),
        node: Some(NodeId(row.uuid("node")?)),
        error: row.text("error_msg")?,
    })
}

fn read_present(row: &impl Columns) -> Result<Present, StoreError> {
    Ok(Present {
        state: read_state(row)?,
        phase: read_phase(row)?,
        attempt: Attempt(row.int("attempt")?),
        owner: row.uuid_if_any("owner")?.map(NodeId),
        started_at: row.time_if_any("started_at")?,
        finished_at: row.time_if_any("finished_at")?,
        error: row.text("error_msg")?,
    })
}

impl From<&Ended<'_>> for EndedRow {
    fn from(ended: &Ended<'_>) -> EndedRow {
        EndedRow {
            tenant: ended.key.tenant.0,
            task: ended.key.id.0.hyphenated(),
            attempt: ended.attempt.0,
            ending: ended.ending.number(),
            node: ended.node.0.hyphenated(),
            error: tally::storable(ended.error),
        }
    }
}
