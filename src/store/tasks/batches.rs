//! What the two committers of a node write: new tasks and transitions.

use sqlx::SqlitePool;

use super::{Enqueued, admission::LaneMemory, tally::Outcome};
use crate::{
    secrets::Vault,
    store::{Backend, StoreError, group::Commit, postgres, sqlite},
    task::{
        lifecycle::{Applied, Transition},
        submission::NewTask,
    },
};

/// What a row takes besides its texts.
const ROW_BYTES: usize = 512;

/// Puts new tasks in their lanes.
pub(in crate::store) struct Enqueuer {
    pub(in crate::store) writer: Writer,
    pub(in crate::store) vault: Vault,
    pub(in crate::store) lanes: LaneMemory,
}

/// Where a committer writes.
pub(in crate::store) enum Writer {
    Postgres(Box<postgres::Line>),
    Sqlite(SqlitePool),
}

/// Applies transitions.
pub(in crate::store) struct Applier {
    pub(in crate::store) writer: Writer,
}

impl Commit for Enqueuer {
    type Item = NewTask;
    type Answer = Enqueued;

    fn weight(task: &NewTask) -> usize {
        let payload = task.request_payload.as_ref().map_or(0, String::len);
        let headers = task.caller_headers.authorization.len() + task.caller_headers.user_info.len();
        ROW_BYTES + payload + task.input_ref.len() + headers
    }

    async fn commit(&mut self, batch: &[NewTask]) -> Result<Vec<Enqueued>, StoreError> {
        match &mut self.writer {
            Writer::Postgres(line) => {
                let mut connection = line.take().await?;
                let enqueued = postgres::enqueue(&mut connection, &self.vault, &mut self.lanes, batch).await;
                line.keep(connection, &enqueued).await;
                enqueued
            }
            Writer::Sqlite(writer) => sqlite::enqueue(writer, &self.vault, &mut self.lanes, batch).await,
        }
    }
}

impl Commit for Applier {
    type Item = Transition;
    type Answer = Applied;

    fn weight(transition: &Transition) -> usize {
        ROW_BYTES + transition.row().error_msg.map_or(0, str::len)
    }

    async fn commit(&mut self, batch: &[Transition]) -> Result<Vec<Applied>, StoreError> {
        Ok(applied(match &mut self.writer {
            Writer::Postgres(line) => {
                let mut connection = line.take().await?;
                let outcomes = postgres::apply(&mut connection, batch).await;
                line.keep(connection, &outcomes).await;
                outcomes?
            }
            Writer::Sqlite(writer) => sqlite::apply(writer, batch).await?,
        }))
    }
}

/// Applies a batch in one transaction, beside the committer.
pub(in crate::store) async fn apply(backend: &Backend, batch: &[Transition]) -> Result<Vec<Applied>, StoreError> {
    Ok(applied(match backend {
        Backend::Postgres { pool, .. } => postgres::apply(&mut *pool.acquire().await?, batch).await?,
        Backend::Sqlite { writer, .. } => sqlite::apply(writer, batch).await?,
    }))
}

fn applied(outcomes: Vec<Outcome>) -> Vec<Applied> {
    outcomes.into_iter().map(Applied::from).collect()
}
