//! The words of the domain: what a task is, who owns it, and what went wrong with it.
//!
//! Values only. Which state follows which is said in [`lifecycle`], when a failed call is worth
//! another try in [`retry`], what a caller may submit in [`submission`].

pub mod lifecycle;
pub mod retry;
pub mod submission;
pub mod trace;

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::task::lifecycle::{Ending, Phase, State};

/// A tenant: the owner of models and tasks. Tenant 0 may share its models with everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TenantId(pub i64);

/// A registered model, as the database numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub i64);

/// The id a caller gets for its task: a `UUIDv7`, so ids of one node sort by creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub Uuid);

/// One incarnation of a worker process. Fresh at every start and after every lost lease, never a
/// host name: a reused name would let a restarted node pass for the one that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub Uuid);

/// The fence: how many times the task has been claimed. Strictly increasing; a write that carries
/// an old number changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub i32);

/// One tenant's queue for one model: the unit of order, limits and fairness.
///
/// The derived order (model, then tenant) is the order in which lanes are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The model that is called; it may belong to tenant 0 and be shared.
    pub model: ModelId,
    /// The tenant whose tasks wait here.
    pub tenant: TenantId,
}

/// What a task is called in the database: tenant first, as in every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// The tenant that created the task.
    pub tenant: TenantId,
    /// The id handed to the caller.
    pub id: TaskId,
}

/// A task as stored, with everything a caller may see of it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Tenant and id.
    pub key: TaskKey,
    /// User who created it.
    pub creator: String,
    /// Name of the model at creation.
    pub model_name: String,
    /// The caller's module, free text.
    pub biz_name: String,
    /// Where it is in its life.
    pub state: State,
    /// What a running task is busy with.
    pub phase: Phase,
    /// URL of the result as storage gave it; empty until it succeeded.
    pub oss_file: String,
    /// Object key of the result in storage; empty until it succeeded.
    pub oss_key: String,
    /// Short extension of the result, such as `wav`.
    pub file_type: String,
    /// Size of the result in bytes.
    pub file_size: i64,
    /// The last failure, in words.
    pub error_msg: String,
    /// Failed tries so far.
    pub retry_count: i32,
    /// Reference to the input, passed to the model as it is.
    pub input_ref: String,
    /// The payload, as the JSON text that came in.
    pub request_payload: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Its place in the lane.
    pub enqueue_at: DateTime<Utc>,
    /// When its latest attempt was claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the cleaner will purge it.
    pub expire_at: Option<DateTime<Utc>>,
}

/// A task that this node holds: the row as it was claimed. Whoever wants to change the row must
/// show one of these; [`lifecycle`] turns it into a [`lifecycle::Transition`].
#[derive(Debug, Clone)]
pub struct Running {
    /// Tenant and id.
    pub key: TaskKey,
    /// The lane it came from.
    pub lane: Lane,
    /// The fence of this claim.
    pub attempt: Attempt,
    /// The incarnation that claimed or adopted it.
    pub node: NodeId,
    /// Failed tries before this one.
    pub retry_count: i32,
    /// Attempts that died with their worker.
    pub lost_attempts: i32,
    /// `Model` as claimed, or as adopted with its call not counted yet; else `Upload` as adopted.
    pub phase: Phase,
    /// User who created the task.
    pub creator: String,
    /// Name of the model at creation.
    pub model_name: String,
    /// Reference to the input, empty if none.
    pub input_ref: String,
    /// The payload, as the JSON text that came in.
    pub request_payload: Option<String>,
    /// What the creating request sent along for the file service; only kept for `oss.kind: http`.
    pub caller_headers: CallerHeaders,
    /// W3C trace context of the span that created it, empty if nobody traced that.
    pub traceparent: String,
    /// When the task was created.
    pub created_at: DateTime<Utc>,
    /// The row's place in the lane when it was claimed.
    pub enqueue_at: DateTime<Utc>,
    /// When this attempt was claimed.
    pub started_at: Option<DateTime<Utc>>,
}

/// Headers of the creating caller that the `http` storage passes on to the file service.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CallerHeaders {
    /// `Authorization`, empty if the caller sent none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authorization: String,
    /// `X-User-Info`, empty if the caller sent none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_info: String,
}

impl CallerHeaders {
    /// True where there is nothing to pass on.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_empty() && self.user_info.is_empty()
    }
}

/// A task that was held by a worker which is gone or overdue: a candidate for rescue.
#[derive(Debug, Clone)]
pub struct Abandoned {
    /// Tenant and id.
    pub key: TaskKey,
    /// The lane to wake when it is back in the queue.
    pub lane: Lane,
    /// The fence of the lost claim.
    pub attempt: Attempt,
    /// Who held it.
    pub owner: NodeId,
    /// Attempts lost before this one.
    pub lost_attempts: i32,
    /// `Model`: its call was not counted yet. `Upload`: it was.
    pub phase: Phase,
    /// User who created the task.
    pub creator: String,
    /// Name of the model at creation.
    pub model_name: String,
    /// See [`Running::traceparent`].
    pub traceparent: String,
    /// When the lost attempt was claimed.
    pub started_at: Option<DateTime<Utc>>,
}

/// A queued task that may never run: waited too long, or its model is gone.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Tenant and id.
    pub key: TaskKey,
    /// The lane it waits in.
    pub lane: Lane,
    /// The fence of its last claim.
    pub attempt: Attempt,
    /// Name of the model at creation.
    pub model_name: String,
    /// See [`Running::traceparent`].
    pub traceparent: String,
}

/// Why a call of the model gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure, which decides whether another try makes sense.
    pub kind: FailureKind,
    /// For people: what happened, with status and the beginning of the answer; no secrets.
    pub message: String,
    /// How long the model asked us to wait (`Retry-After`), already capped.
    pub retry_after: Option<Duration>,
}

/// The kinds of failure of one model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The model answered with this status.
    Status(u16),
    /// The model answered 2xx without a body.
    EmptyBody,
    /// No complete answer within `timeoutSeconds`.
    Timeout,
    /// The connection could not be made or broke.
    Connection,
    /// The result is over `worker.maxResultBytes`.
    TooLarge,
    /// The task cannot be sent to this model at all, such as an array payload by GET.
    Unsendable,
    /// The result could not be parked on this node's disk.
    Spool,
}

/// One attempt at a task, over or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAttempt {
    /// Which one, from 1.
    pub attempt: Attempt,
    /// What became of it.
    pub outcome: AttemptOutcome,
    /// When it was claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who held it; not known of one that succeeded.
    pub node: Option<NodeId>,
    /// What went wrong, in words.
    pub error: String,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It is not over.
    Running,
    /// Its result is stored.
    Succeeded,
    /// It ended without.
    Ended(Ending),
}

impl AttemptOutcome {
    /// As it is written in answers.
    pub const fn word(self) -> &'static str {
        match self {
            AttemptOutcome::Running => "running",
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Ended(Ending::Failed) => "failed",
            AttemptOutcome::Ended(Ending::Lost) => "lost",
            AttemptOutcome::Ended(Ending::HandedBack) => "handedBack",
            AttemptOutcome::Ended(Ending::UploadFailed) => "uploadFailed",
        }
    }
}

impl Attempt {
    /// Before the first claim.
    pub const NONE: Attempt = Attempt(0);
}

impl FromStr for TaskId {
    type Err = uuid::Error;

    /// Accepts the hyphenated form only, which is the one we hand out.
    fn from_str(text: &str) -> Result<TaskId, uuid::Error> {
        text.parse::<uuid::fmt::Hyphenated>().map(|id| TaskId(id.into_uuid()))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `model:tenant`, the form that travels on the wake-up channel and in Redis keys.
impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.model, self.tenant)
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// A task that was just claimed for the first time; tests change what they are about.
    pub(crate) fn running() -> Running {
        Running {
            key: TaskKey { tenant: TenantId(7), id: TaskId(Uuid::nil()) },
            lane: Lane { model: ModelId(3), tenant: TenantId(7) },
            attempt: Attempt(1),
            node: NodeId(Uuid::nil()),
            retry_count: 0,
            lost_attempts: 0,
            phase: Phase::Model,
            creator: "ann".to_owned(),
            model_name: "tts".to_owned(),
            input_ref: String::new(),
            request_payload: None,
            caller_headers: CallerHeaders::default(),
            traceparent: String::new(),
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            enqueue_at: DateTime::<Utc>::UNIX_EPOCH,
            started_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_is_only_read_in_the_form_it_is_handed_out() {
        let id = TaskId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        for other in ["", "1", "{01970000-0000-7000-8000-000000000001}", "01970000000070008000000000000001"] {
            assert!(other.parse::<TaskId>().is_err(), "{other}");
        }
    }
}
