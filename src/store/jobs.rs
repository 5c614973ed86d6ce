//! The verbs on jobs and their runs. Times are the caller's, who asks [`Store::now`] for them: what is
//! compared with a turn is on the database's clock.

use chrono::{DateTime, Utc};

use super::{
    Backend, Listing, Page, Store, StoreError, on_each,
    row::Columns,
    value::{Id, Stamp},
    within,
};
use crate::{
    clock,
    job::{Cause, Job, Run, RunId, RunState},
    task::NodeId,
};

/// The columns that [`read_run`] wants to find in a row, as a literal for `concat!`.
macro_rules! run_columns {
    () => {
        "id, job, state, cause, creator, created_at, started_at, finished_at, node, result, error_msg"
    };
}

// The first node to come, or one with another schedule, begins now: what lies before was not missed.
const REGISTER: &str = "\
    INSERT INTO asynch_job (job, schedule, done_until) VALUES ($1, $2, $3) \
    ON CONFLICT (job) DO UPDATE SET schedule = excluded.schedule, done_until = excluded.done_until \
    WHERE asynch_job.schedule <> excluded.schedule";

const DONE_UNTIL: &str = "SELECT done_until FROM asynch_job WHERE job = $1";

const MOVE_ON: &str = "UPDATE asynch_job SET done_until = $3 WHERE job = $1 AND done_until = $2";

const INSERT: &str = "\
    INSERT INTO asynch_job_run (job, state, cause, creator, created_at) VALUES ($1, 0, $2, $3, $4) \
    ON CONFLICT DO NOTHING RETURNING id";

const START: &str = concat!(
    "UPDATE asynch_job_run SET state = 1, runner = $2, node = $3, started_at = $4 \
     WHERE job = $1 AND state = 0 RETURNING ",
    run_columns!()
);

const FINISH: &str = "\
    UPDATE asynch_job_run SET state = $3, finished_at = $4, result = $5, error_msg = $6 \
    WHERE id = $1 AND state = 1 AND runner = $2";

const HAND_BACK: &str = "\
    UPDATE asynch_job_run SET state = 0, runner = NULL, node = '', started_at = NULL \
    WHERE id = $1 AND state = 1 AND runner = $2";

const BURY: &str = "\
    UPDATE asynch_job_run SET state = 4, finished_at = $3, error_msg = 'its node died, or lost the database' \
    WHERE job = $1 AND state = 1 AND NOT EXISTS ( \
        SELECT 1 FROM asynch_turn t WHERE t.duty = $2 AND t.holder = asynch_job_run.runner AND t.held_until >= $3 \
    ) RETURNING id, cause, creator";

const OPEN: &str = concat!("SELECT ", run_columns!(), " FROM asynch_job_run WHERE job = $1 AND state IN (0, 1)");

const ONE: &str = concat!("SELECT ", run_columns!(), " FROM asynch_job_run WHERE id = $1");

const LIST: &str =
    concat!("SELECT ", run_columns!(), " FROM asynch_job_run WHERE job = $1 ORDER BY id DESC LIMIT $2 OFFSET $3");

const COUNT: &str = "SELECT count(*) FROM asynch_job_run WHERE job = $1";

const LIST_ALL: &str = concat!("SELECT ", run_columns!(), " FROM asynch_job_run ORDER BY id DESC LIMIT $1 OFFSET $2");

const COUNT_ALL: &str = "SELECT count(*) FROM asynch_job_run";

/// What became of the wish for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// It waits for a node.
    Waiting(RunId),
    /// There is one already that waits or runs: a job never overlaps itself.
    Open(RunId),
}

impl Store {
    /// This moment on the database's clock, which for the embedded one is this process'.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                let now: Stamp =
                    within(async { Ok(sqlx::query_scalar("SELECT now()").fetch_one(pool).await?) }).await?;
                Ok(now.0)
            }
            Backend::Sqlite { .. } => Ok(clock::now()),
        }
    }

    /// Makes a job known under that schedule, in words; what it missed under another does not count.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn register_job(&self, job: Job, schedule: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                sqlx::query(REGISTER).bind(job.name()).bind(schedule).bind(Stamp(now)).execute(pool).await?;
            });
            Ok(())
        })
        .await
    }

    /// Until when the times of a job's schedule are dealt with; `None` for one that is not registered.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn job_done_until(&self, job: Job) -> Result<Option<DateTime<Utc>>, StoreError> {
        within(async {
            let until: Option<Stamp> = on_each!(&self.backend, read pool => {
                sqlx::query_scalar(DONE_UNTIL).bind(job.name()).fetch_optional(pool).await?
            });
            Ok(until.map(|until| until.0))
        })
        .await
    }

    /// Asks for the run that is due since its times are dealt with until `done_until`, and deals with
    /// those until `now`. `None` where another node did, or where a run is open: it stays due then.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn schedule_run(
        &self,
        job: Job,
        done_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<RunId>, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin_with(begin(&self.backend)).await?;
                let moved = sqlx::query(MOVE_ON).bind(job.name()).bind(Stamp(done_until)).bind(Stamp(now));
                if moved.execute(&mut *transaction).await?.rows_affected() == 0 {
                    return Ok(None);
                }
                let insert = sqlx::query_scalar(INSERT).bind(job.name()).bind(Cause::Schedule.word()).bind("");
                let id: Option<i64> = insert.bind(Stamp(now)).fetch_optional(&mut *transaction).await?;
                if id.is_some() {
                    transaction.commit().await?;
                }
                Ok(id.map(RunId))
            })
        })
        .await
    }

    /// Asks for a run now.
    ///
    /// # Errors
    /// Where the database is out of reach: the run may have been asked for all the same.
    pub async fn request_run(&self, job: Job, creator: &str, now: DateTime<Utc>) -> Result<Requested, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                loop {
                    let insert = sqlx::query_scalar(INSERT).bind(job.name()).bind(Cause::Request.word()).bind(creator);
                    let id: Option<i64> = insert.bind(Stamp(now)).fetch_optional(pool).await?;
                    if let Some(id) = id {
                        return Ok(Requested::Waiting(RunId(id)));
                    }
                    // Gone by now: then there is room for this one.
                    if let Some(row) = sqlx::query(OPEN).bind(job.name()).fetch_optional(pool).await? {
                        return Ok(Requested::Open(read_run(&row)?.id));
                    }
                }
            })
        })
        .await
    }

    /// The run of a job that waits or is under way.
    ///
    /// # Errors
    /// Where the database is out of reach or the row cannot be read.
    pub async fn open_run(&self, job: Job) -> Result<Option<Run>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let row = sqlx::query(OPEN).bind(job.name()).fetch_optional(pool).await?;
                row.map(|row| read_run(&row)).transpose()
            })
        })
        .await
    }

    /// Begins the run that waits, if one does, for the holder of the job's turn.
    ///
    /// # Errors
    /// Where the database is out of reach: it may have been begun, and is lost when the turn is.
    pub async fn start_run(
        &self,
        job: Job,
        runner: NodeId,
        node: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Run>, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let start = sqlx::query(START).bind(job.name()).bind(Id(runner.0)).bind(node).bind(Stamp(now));
                start.fetch_optional(pool).await?.map(|row| read_run(&row)).transpose()
            })
        })
        .await
    }

    /// Ends a run with what it did, a JSON object, and what went wrong, if anything did. `false`: it
    /// was declared lost meanwhile.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn finish_run(
        &self,
        id: RunId,
        runner: NodeId,
        result: &str,
        error: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let state = if error.is_none() { RunState::Succeeded } else { RunState::Failed };
        within(async {
            on_each!(&self.backend, write pool => {
                let finish = sqlx::query(FINISH).bind(id.0).bind(Id(runner.0)).bind(state.number());
                let finish = finish.bind(Stamp(now)).bind(result).bind(error.unwrap_or_default());
                Ok(finish.execute(pool).await?.rows_affected() == 1)
            })
        })
        .await
    }

    /// Lets a run wait again: its node stops. `false`: it was declared lost meanwhile.
    ///
    /// # Errors
    /// Where the database is out of reach; the run is lost then.
    pub async fn hand_run_back(&self, id: RunId, runner: NodeId) -> Result<bool, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let done = sqlx::query(HAND_BACK).bind(id.0).bind(Id(runner.0)).execute(pool).await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    /// Declares the run lost whose node has let the job's turn go, and asks for one in its place,
    /// unless it was in another's place itself.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn bury_run(&self, job: Job, now: DateTime<Utc>) -> Result<Option<RunId>, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin_with(begin(&self.backend)).await?;
                let bury = sqlx::query(BURY).bind(job.name()).bind(job.duty()).bind(Stamp(now));
                let Some(row) = bury.fetch_optional(&mut *transaction).await? else { return Ok(None) };
                if row.text("cause")? != Cause::Loss.word() {
                    let insert = sqlx::query(INSERT).bind(job.name()).bind(Cause::Loss.word());
                    insert.bind(row.text("creator")?).bind(Stamp(now)).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                Ok(Some(RunId(row.big("id")?)))
            })
        })
        .await
    }

    /// One run.
    ///
    /// # Errors
    /// Where the database is out of reach or the row cannot be read.
    pub async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let row = sqlx::query(ONE).bind(id.0).fetch_optional(pool).await?;
                row.map(|row| read_run(&row)).transpose()
            })
        })
        .await
    }

    /// Runs of one job or of all, newest first.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_runs(&self, job: Option<Job>, page: Page) -> Result<Listing<Run>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let (total, rows) = match job {
                    Some(job) => {
                        let list = sqlx::query(LIST).bind(job.name()).bind(page.limit).bind(page.offset);
                        let count = sqlx::query_scalar(COUNT).bind(job.name());
                        (count.fetch_one(pool).await?, list.fetch_all(pool).await?)
                    }
                    None => {
                        let list = sqlx::query(LIST_ALL).bind(page.limit).bind(page.offset);
                        (sqlx::query_scalar(COUNT_ALL).fetch_one(pool).await?, list.fetch_all(pool).await?)
                    }
                };
                Ok(Listing { list: rows.iter().map(read_run).collect::<Result<_, _>>()?, total })
            })
        })
        .await
    }
}

/// How a transaction begins that writes.
fn begin(backend: &Backend) -> &'static str {
    match backend {
        Backend::Postgres { .. } => "BEGIN",
        Backend::Sqlite { .. } => "BEGIN IMMEDIATE",
    }
}

fn read_run(row: &impl Columns) -> Result<Run, StoreError> {
    let id = row.big("id")?;
    let (state, cause) = (row.small("state")?, row.text("cause")?);
    Ok(Run {
        id: RunId(id),
        job: row.text("job")?,
        state: RunState::from_number(state)
            .ok_or_else(|| StoreError::Broken(format!("run {id} is in the unknown state {state}")))?,
        cause: Cause::from_word(&cause)
            .ok_or_else(|| StoreError::Broken(format!("run {id} has the unknown cause {cause:?}")))?,
        creator: row.text("creator")?,
        created_at: row.time("created_at")?,
        started_at: row.time_if_any("started_at")?,
        finished_at: row.time_if_any("finished_at")?,
        node: row.text("node")?,
        result: row.text_if_any("result")?,
        error_msg: row.text("error_msg")?,
    })
}
