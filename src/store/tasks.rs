//! The verbs on tasks.
//!
//! Decisions are pure and in the modules below: who is admitted, how much a lane may give, what is
//! counted. `postgres` and `sqlite` word the statements.

pub mod admission;
pub(super) mod batches;
pub mod ledger;
pub mod listing;
pub(super) mod object_key;
pub mod quota;
pub(super) mod rows;
pub mod tally;

pub use self::listing::{MOST_COUNTED, TaskFilter, TaskListing};

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{Backend, Store, StoreError, on_each, postgres, sqlite, value::Id, within};
use crate::{
    model::Model,
    task::{
        Abandoned, Attempt, Lane, ModelId, NodeId, Running, Task, TaskId, TaskKey, TenantId, Waiting,
        lifecycle::{Applied, State, Transition},
        submission::NewTask,
    },
};

/// Transitions in one transaction of [`Store::apply_all`].
const APPLY_AT_ONCE: usize = 256;

/// Most tasks that one claim takes, whatever is wanted; also tells Postgres' planner how few rows it
/// is about, without which it would rather read the whole table than look them up.
pub const MOST_CLAIMED: usize = 256;

/// How long the owner's own limit on a call is over before the claim's deadline passes: room for
/// connecting and for writing the outcome. Seconds.
pub const CLAIM_GRACE_SECONDS: i64 = 60;

/// How long past its deadline a run is left to its owner, who ought to end it itself. Seconds.
pub const OVERDUE_SECONDS: i64 = 60;

/// The deadline of a parked result, in seconds: longer than any upload may be retried for (a year),
/// since the worker gives up by itself.
pub const UPLOAD_DEADLINE_SECONDS: i64 = 370 * 86_400;

/// How long a finished task is kept where its model's row is missing. Seconds.
pub const AUTO_CLEAN_SECONDS: i64 = 86_400;

const HELD_BY: &str = "\
    SELECT tenant_id, task_id, model_id, attempt, owner, lost_attempts, phase, creator, model_name, traceparent, \
     started_at FROM asynch_task \
    WHERE state = 1 AND owner = $1";

/// What became of a new task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// It is durable and queued.
    Accepted,
    /// The lane has `queueLimit` tasks queued or running already.
    QueueFull {
        /// That limit.
        limit: i32,
    },
    /// The model is disabled.
    ModelDisabled,
    /// The model was deleted after it was looked up.
    ModelGone,
}

/// How many tasks of a lane a node can take.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// The lane.
    pub lane: Lane,
    /// Most tasks, at least 1: one for each permit granted.
    pub most: u32,
    /// Cursor: leave out what was queued before this moment (slack already taken off).
    pub since: Option<DateTime<Utc>>,
    /// Known to share a limit with other lanes, its model's over all tenants or its tenant's over all models.
    /// A hint: a claim that is not told finds it out, and makes more trips than one that is.
    pub shares: bool,
}

/// The answer to a claim.
#[derive(Debug, Default)]
pub struct Claim {
    /// The tasks this node holds now, lane by lane, oldest first.
    pub tasks: Vec<Running>,
    /// The models of those tasks, as they were configured at the claim.
    pub models: HashMap<ModelId, Arc<Model>>,
    /// One verdict for each lane asked for, in that order.
    pub lanes: Vec<(Lane, LaneVerdict)>,
}

impl Claim {
    /// Adds what other lanes gave, in the order of what was wanted.
    pub(super) fn join(&mut self, other: Claim, wants: &[Want]) {
        let places: HashMap<Lane, usize> = wants.iter().enumerate().rev().map(|(n, want)| (want.lane, n)).collect();
        self.tasks.extend(other.tasks);
        self.tasks.sort_by_key(|task| places.get(&task.lane).copied());
        self.models.extend(other.models);
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.extend(other.lanes);
        // One by one, for a lane that is wanted twice has a verdict for each.
        let of = |want: &Want| lanes.iter().position(|(lane, _)| *lane == want.lane).map(|n| lanes.remove(n));
        self.lanes = wants.iter().filter_map(of).collect();
    }
}

/// Why a lane gave as many tasks as it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneVerdict {
    /// As many as were wanted: there may be more.
    More,
    /// Nothing (else) is queued at or after the cursor.
    Empty,
    /// The limit in the database is reached; room comes when a running task leaves.
    Full,
    /// Another node is claiming from it this moment.
    Busy,
    /// The model is disabled or deleted.
    Closed,
}

/// A parked result that a restarted node found, with what is needed to go on.
#[derive(Debug)]
pub struct Adopted {
    /// The task, held by the adopting node.
    pub task: Running,
    /// Its model.
    pub model: Arc<Model>,
    /// True where the call has not been counted in the statistics yet. The row stays in phase `Model`
    /// until it is parked under this owner with its call, so that the count outlives another crash.
    pub call_uncounted: bool,
}

/// A picked-up (or not yet ready) task of a batch.
#[derive(Debug, Clone)]
pub struct PickedUp {
    /// The id asked for.
    pub id: TaskId,
    /// The state before this pickup.
    pub state: State,
    /// See [`Task::oss_file`].
    pub oss_file: String,
    /// See [`Task::oss_key`].
    pub oss_key: String,
    /// See [`Task::file_type`].
    pub file_type: String,
    /// See [`Task::file_size`].
    pub file_size: i64,
    /// See [`Task::error_msg`].
    pub error_msg: String,
    /// See [`Running::traceparent`].
    pub traceparent: String,
}

/// A task that was deleted, and the object it leaves behind.
#[derive(Debug, Clone)]
pub struct Purged {
    /// Tenant and id.
    pub key: TaskKey,
    /// Name of its model.
    pub model_name: String,
    /// Its last attempt.
    pub attempt: Attempt,
    /// Object key, empty if it had no result.
    pub oss_key: String,
}

impl Store {
    /// Puts a task in its lane, exactly within `queueLimit`; durable when it returns `Accepted`.
    /// Batched.
    ///
    /// # Errors
    /// `Unavailable`: the task may have been stored all the same. `Broken`: it was not.
    pub async fn enqueue(&self, task: NewTask) -> Result<Enqueued, StoreError> {
        self.enqueuer.ask(task).await
    }

    /// Takes queued tasks for `node`, oldest first in each lane, exactly within `maxConcurrency`,
    /// `totalConcurrency` and the tenant's limit over all models, [`MOST_CLAIMED`] in all. At most two short transactions.
    ///
    /// # Errors
    /// The claim may have been committed all the same: [`Store::held_by`] tells what of.
    pub async fn claim(&self, node: NodeId, wants: &[Want]) -> Result<Claim, StoreError> {
        if wants.is_empty() {
            return Ok(Claim::default());
        }
        match &self.backend {
            Backend::Postgres { claims, .. } => {
                within(async { claims.lock().await.claim(&self.vault, node, wants).await }).await
            }
            Backend::Sqlite { writer, .. } => within(sqlite::claim(writer, &self.vault, node, wants)).await,
        }
    }

    /// Sees to it that a claim that comes soon is a quick one. Takes no task.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn get_ready_to_claim(&self, node: NodeId) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Postgres { claims, .. } => {
                within(async { claims.lock().await.get_ready(&self.vault, node).await }).await
            }
            Backend::Sqlite { .. } => Ok(()),
        }
    }

    /// Applies one transition and counts its call. Batched. A transition that was applied already,
    /// because its writer did not hear of the commit and came again, is `Done`, and its call is
    /// not counted again.
    ///
    /// # Errors
    /// `Unavailable`: it may have been applied all the same; apply it again.
    pub async fn apply(&self, transition: Transition) -> Result<Applied, StoreError> {
        self.applier.ask(transition).await
    }

    /// Applies many transitions, 256 in a transaction, for the cleaner.
    ///
    /// # Errors
    /// Some may have been applied; the rest is found again by the duty that found them first.
    pub async fn apply_all(&self, transitions: &[Transition]) -> Result<Vec<Applied>, StoreError> {
        let mut applied = Vec::with_capacity(transitions.len());
        for chunk in transitions.chunks(APPLY_AT_ONCE) {
            applied.extend(within(batches::apply(&self.backend, chunk)).await?);
        }
        Ok(applied)
    }

    /// Takes over a task whose result lies parked on this node: allowed while its row has the same
    /// attempt and is running or back in the queue. `None` where the row moved on.
    ///
    /// # Errors
    /// Nothing has changed, or the same call again adopts.
    pub async fn adopt(
        &self,
        node: NodeId,
        key: TaskKey,
        attempt: Attempt,
        tmp_file: &str,
    ) -> Result<Option<Adopted>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                within(postgres::adopt(pool, &self.vault, node, key, attempt, tmp_file)).await
            }
            Backend::Sqlite { writer, .. } => {
                within(sqlite::adopt(writer, &self.vault, node, key, attempt, tmp_file)).await
            }
        }
    }

    /// One task of a tenant.
    ///
    /// # Errors
    /// Where the database is out of reach or the row cannot be read.
    pub async fn task(&self, key: TaskKey) -> Result<Option<Task>, StoreError> {
        const TASK: &str =
            concat!("SELECT ", rows::task_columns!(), " FROM asynch_task WHERE tenant_id = $1 AND task_id = $2");
        within(async {
            on_each!(&self.backend, read pool => {
                let row = sqlx::query(TASK).bind(key.tenant.0).bind(Id(key.id.0)).fetch_optional(pool).await?;
                row.map(|row| rows::read_task(&row)).transpose()
            })
        })
        .await
    }

    /// Hands out results: each known id once, in any order; state 2 becomes 4. Writes only where
    /// something is in state 2.
    ///
    /// # Errors
    /// Some may be marked as picked up already; asking again gives the same results.
    pub async fn pick_up(&self, tenant: TenantId, ids: &[TaskId]) -> Result<Vec<PickedUp>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::pick_up(pool, tenant, ids)).await,
            Backend::Sqlite { readers, writer } => within(sqlite::pick_up(readers, writer, tenant, ids)).await,
        }
    }

    /// Every lane with claimable tasks: the slow scan that corrects what wake-ups missed.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn lanes_with_work(&self) -> Result<Vec<Lane>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::lanes_with_work(pool)).await,
            Backend::Sqlite { readers, .. } => within(sqlite::lanes_with_work(readers)).await,
        }
    }

    /// Makes due retries claimable; returns how many, and their lanes.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn promote_due(&self, most: u32) -> Result<(u64, Vec<Lane>), StoreError> {
        let mut lanes = match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::promote_due(pool, most)).await?,
            Backend::Sqlite { writer, .. } => within(sqlite::promote_due(writer, most)).await?,
        };
        let promoted = lanes.len() as u64;
        lanes.sort_unstable();
        lanes.dedup();
        Ok((promoted, lanes))
    }

    /// Running tasks whose owner has no lease row, or whose deadline passed long ago. An embedded
    /// store has no second clock to tell that by, and its one process ends its runs itself.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn abandoned(&self, most: u32) -> Result<Vec<Abandoned>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::abandoned(pool, most)).await,
            Backend::Sqlite { readers, .. } => within(sqlite::abandoned(readers, most)).await,
        }
    }

    /// Running tasks whose owner is `node`, whatever their phase.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn held_by(&self, node: NodeId) -> Result<Vec<Abandoned>, StoreError> {
        let rows = async {
            let held: Result<Vec<Abandoned>, StoreError> = on_each!(&self.backend, read pool => {
                let rows = sqlx::query(HELD_BY).bind(Id(node.0)).fetch_all(pool).await?;
                rows.iter().map(rows::read_abandoned).collect()
            });
            held
        };
        within(rows).await
    }

    /// Claimable tasks that have been queued for longer than `age` since they came, or came back.
    /// Those that rest before a retry are found when their rest is over.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn queued_longer_than(&self, age: Duration, most: u32) -> Result<Vec<Waiting>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::queued_longer_than(pool, age, most)).await,
            Backend::Sqlite { readers, .. } => within(sqlite::queued_longer_than(readers, age, most)).await,
        }
    }

    /// Queued tasks whose model is deleted, resting ones too.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn queued_for_deleted_models(&self, most: u32) -> Result<Vec<Waiting>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::queued_for_deleted_models(pool, most)).await,
            Backend::Sqlite { readers, .. } => within(sqlite::queued_for_deleted_models(readers, most)).await,
        }
    }

    /// Forgets lanes of deleted models that have no task queued or running; returns how many.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn drop_closed_lanes(&self, most: u32) -> Result<u64, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::drop_closed_lanes(pool, most)).await,
            Backend::Sqlite { writer, .. } => within(sqlite::drop_closed_lanes(writer, most)).await,
        }
    }

    /// Deletes at most `most` tasks past their time: states 3, 4, 5 past `expire_at`, state 2
    /// `unclaimed` after it finished.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge(&self, unclaimed: Duration, most: u32) -> Result<Vec<Purged>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => within(postgres::purge(pool, unclaimed, most)).await,
            Backend::Sqlite { writer, .. } => within(sqlite::purge(writer, unclaimed, most)).await,
        }
    }
}

/// A duration in the databases' resolution; at most a century, so that no clock overflows.
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
}
