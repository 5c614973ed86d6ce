//! What the two committers of a node write: new tasks and transitions.

use sqlx::SqlitePool;

use super::{Enqueued, admission::LaneMemory, tally::Outcome};
use crate::{
    breath::Breath,
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
    pub(in crate::store) entrance: Entrance,
    pub(in crate::store) vault: Vault,
    pub(in crate::store) lanes: LaneMemory,
}

/// Where tasks come in.
pub(in crate::store) enum Entrance {
    Postgres(Box<postgres::Intake>),
    Sqlite(SqlitePool),
}

/// Applies transitions.
pub(in crate::store) struct Applier {
    pub(in crate::store) backend: Backend,
    pub(in crate::store) breath: Breath,
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
        match &mut self.entrance {
            Entrance::Postgres(intake) => intake.enqueue(&self.vault, &mut self.lanes, batch).await,
            Entrance::Sqlite(writer) => sqlite::enqueue(writer, &self.vault, &mut self.lanes, batch).await,
        }
    }
}

impl Commit for Applier {
    type Item = Transition;
    type Answer = Applied;

    fn weight(transition: &Transition) -> usize {
        ROW_BYTES + transition.row().error_msg.map_or(0, str::len)
    }

    async fn breathe(&mut self) {
        if !self.breath.is_over() {
            self.breath.end().await;
        }
    }

    async fn commit(&mut self, batch: &[Transition]) -> Result<Vec<Applied>, StoreError> {
        let applied = apply(&self.backend, batch).await;
        self.breath.took(batch.len());
        applied
    }
}

/// Applies a batch in one transaction.
pub(in crate::store) async fn apply(backend: &Backend, batch: &[Transition]) -> Result<Vec<Applied>, StoreError> {
    let outcomes: Vec<Outcome> = match backend {
        Backend::Postgres { pool, .. } => postgres::apply(pool, batch).await?,
        Backend::Sqlite { writer, .. } => sqlite::apply(writer, batch).await?,
    };
    Ok(outcomes.into_iter().map(Applied::from).collect())
}
