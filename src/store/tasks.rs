//! The verbs on tasks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{Listing, Page, Store, StoreError};
use crate::{
    model::Model,
    task::{
        Abandoned, Attempt, Lane, ModelId, NodeId, Running, Task, TaskId, TaskKey, TenantId, Waiting,
        lifecycle::{Applied, State, Transition},
        submission::NewTask,
    },
};

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
    /// The task, held by the adopting node, phase `Upload`.
    pub task: Running,
    /// Its model.
    pub model: Arc<Model>,
    /// True where the call has not been counted in the statistics yet.
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
}

/// What listTask filters by; all given must hold.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Part of the model's name, as typed (LIKE metacharacters are ordinary characters).
    pub model_name: Option<String>,
    /// Part of the task id.
    pub task_id: Option<String>,
    /// The state.
    pub state: Option<State>,
}

/// A task that was deleted, and the object it leaves behind.
#[derive(Debug, Clone)]
pub struct Purged {
    /// Tenant and id.
    pub key: TaskKey,
    /// Object key, empty if it had no result.
    pub oss_key: String,
    /// URL as storage gave it.
    pub oss_file: String,
}

impl Store {
    /// Puts a task in its lane, exactly within `queueLimit`; durable when it returns `Accepted`.
    /// Batched.
    pub async fn enqueue(&self, _task: NewTask) -> Result<Enqueued, StoreError> {
        todo!()
    }

    /// Takes queued tasks for `node`, oldest first in each lane, exactly within `maxConcurrency`
    /// and `totalConcurrency`. One short transaction for all lanes.
    pub async fn claim(&self, _node: NodeId, _wants: &[Want]) -> Result<Claim, StoreError> {
        todo!()
    }

    /// Applies one transition and counts its call. Batched.
    pub async fn apply(&self, _transition: Transition) -> Result<Applied, StoreError> {
        todo!()
    }

    /// Applies many transitions in one transaction, for the cleaner.
    pub async fn apply_all(&self, _transitions: &[Transition]) -> Result<Vec<Applied>, StoreError> {
        todo!()
    }

    /// Takes over a task whose result lies parked on this node: allowed while its row has the same
    /// attempt and is running or back in the queue. `None` where the row moved on.
    pub async fn adopt(
        &self,
        _node: NodeId,
        _key: TaskKey,
        _attempt: Attempt,
        _tmp_file: &str,
    ) -> Result<Option<Adopted>, StoreError> {
        todo!()
    }

    /// One task of a tenant.
    pub async fn task(&self, _key: TaskKey) -> Result<Option<Task>, StoreError> {
        todo!()
    }

    /// Hands out results: each known id once, in any order; state 2 becomes 4.
    pub async fn pick_up(&self, _tenant: TenantId, _ids: &[TaskId]) -> Result<Vec<PickedUp>, StoreError> {
        todo!()
    }

    /// Tasks of a tenant, newest first.
    pub async fn list_tasks(
        &self,
        _tenant: TenantId,
        _filter: &TaskFilter,
        _page: Page,
    ) -> Result<Listing<Task>, StoreError> {
        todo!()
    }

    /// Every lane with claimable tasks: the slow scan that corrects what wake-ups missed.
    pub async fn lanes_with_work(&self) -> Result<Vec<Lane>, StoreError> {
        todo!()
    }

    /// Makes due retries claimable; returns how many, and their lanes.
    pub async fn promote_due(&self, _most: u32) -> Result<(u64, Vec<Lane>), StoreError> {
        todo!()
    }

    /// Running tasks whose owner has no lease row, or whose deadline passed long ago.
    pub async fn abandoned(&self, _most: u32) -> Result<Vec<Abandoned>, StoreError> {
        todo!()
    }

    /// Running tasks whose owner is `node`, whatever their phase.
    pub async fn held_by(&self, _node: NodeId) -> Result<Vec<Abandoned>, StoreError> {
        todo!()
    }

    /// Deletes the lane rows of deleted models without live tasks; returns how many.
    pub async fn drop_closed_lanes(&self, _most: u32) -> Result<u64, StoreError> {
        todo!()
    }

    /// Queued tasks created longer than `age` ago.
    pub async fn queued_longer_than(&self, _age: Duration, _most: u32) -> Result<Vec<Waiting>, StoreError> {
        todo!()
    }

    /// Queued tasks whose model is deleted.
    pub async fn queued_for_deleted_models(&self, _most: u32) -> Result<Vec<Waiting>, StoreError> {
        todo!()
    }

    /// Deletes tasks past their time: states 3, 4, 5 past `expire_at`, state 2 `unclaimed` after
    /// it finished.
    pub async fn purge(&self, _unclaimed: Duration, _most: u32) -> Result<Vec<Purged>, StoreError> {
        todo!()
    }
}
