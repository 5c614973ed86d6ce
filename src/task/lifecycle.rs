//! The life of a task: which state follows which, and nothing else.
//!
//! ```text
//!                 claimed                    parked                stored
//!   ──▶ 0 queued ─────────▶ 1 running/model ───────▶ 1 running/upload ──────▶ 2 succeeded
//!         ▲  │                │   │  │                 │    │   (an upload that does not    │
//!         │  │                │   │  └─ stored at once ┼────┼──  have to be retried goes    │ picked up
//!         │  │  retry, lost,  │   │                    │    │    straight to 2)             ▼
//!         │  └◀ handed back ──┴───┼────────────────────┘    │                          4 picked up
//!         │                       │ no tries left, not      │ upload given up               │
//!         │ waited too long,      ▼ retryable, lost too     ▼                               │ expired
//!         └─ model deleted ──▶ 3 failed  often          3 failed ──── expired ────▶ (purged) ◀┘
//! ```
//!
//! `5 cancelled` is a number that callers know already; no arrow leads there yet.
//!
//! A [`Transition`] can only be made here, from the row it starts from, so it always carries the
//! state, the attempt and the owner that the row must still have. The store applies it with that guard; a row
//! that moved on in the meantime makes the transition stale, and the writer stops quietly.
//! [`CLAIM`] and [`PICK_UP`] are the two arrows that the store draws in bulk.

use std::time::Duration;

use super::{Abandoned, Attempt, Failure, Lane, NodeId, Running, TaskKey, Waiting};
use crate::stats::CallCount;

/// Where a task is in its life, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for capacity or for its next try.
    Queued,
    /// A worker holds it.
    Running,
    /// The result can be fetched.
    Succeeded,
    /// It failed for good.
    Failed,
    /// `getTaskBatch` has handed the result out.
    PickedUp,
    /// It was cancelled.
    Cancelled,
}

/// What a running task is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The model is being called (or nothing is going on).
    Model,
    /// The result is parked on a node's disk and only the upload is left.
    Upload,
}

/// A state change that the store makes to many rows in one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    /// The state a row must be in.
    pub from: State,
    /// The state it gets.
    pub to: State,
}

/// A worker takes queued tasks; each claim adds one to the attempt.
pub const CLAIM: BulkChange = BulkChange { from: State::Queued, to: State::Running };

/// `getTaskBatch` hands results out.
pub const PICK_UP: BulkChange = BulkChange { from: State::Succeeded, to: State::PickedUp };

/// Where a task goes in its lane when it comes back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Keeps the place it has.
    Kept,
    /// Before everything created after it.
    Head,
    /// Behind everything that waits now.
    Tail,
}

/// When and where a failed task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// How long it rests first.
    pub delay: Duration,
    /// Its place in the lane after that.
    pub place: Place,
}

/// A result that lies in object storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// URL for the caller; empty where storage makes a fresh one at every look.
    pub oss_file: String,
    /// Object key, for deleting it and for fresh URLs: folders and a name, or empty where storage has no keys.
    pub oss_key: String,
    /// Short extension, such as `wav`.
    pub file_type: String,
    /// Size in bytes.
    pub file_size: u64,
}

/// What happens to a row. Private to this module: callers name the arrow by its constructor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Parked { tmp_file: String, error: Option<String> },
    Succeeded(StoredFile),
    Requeued { slot: Slot, error: Option<String>, retries: i32, lost: i32 },
    Failed { error: String, lost: i32 },
}

/// How an attempt ended that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The call failed.
    Failed,
    /// It was lost with its worker, or its result with a disk.
    Lost,
    /// The worker gave it back unharmed, or had never begun it.
    HandedBack,
    /// The call succeeded, and its result could not be stored.
    UploadFailed,
}

/// An attempt that a transition ends without success, for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended<'a> {
    /// Of which task.
    pub key: TaskKey,
    /// Which one.
    pub attempt: Attempt,
    /// How.
    pub ending: Ending,
    /// Who held it.
    pub node: NodeId,
    /// Why, in words; empty where nothing went wrong.
    pub error: &'a str,
}

/// One arrow, ready to be applied: guard, change, and the model call that it accounts for.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a transition changes nothing until the store has applied it"]
pub struct Transition {
    key: TaskKey,
    lane: Lane,
    from: State,
    attempt: Attempt,
    owner: Option<NodeId>,
    change: Change,
    ending: Option<(Ending, NodeId)>,
    call: Option<CallCount>,
}

/// Whether a transition found the row as it expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stale writer has to stop: somebody else owns the task"]
pub enum Applied {
    /// The row has changed.
    Done,
    /// The row had moved on (or was purged); nothing has changed.
    Stale,
}

/// A transition flattened into column values, for the store. `None` leaves a column as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange<'a> {
    /// The row.
    pub key: TaskKey,
    /// Guard: the state it must be in.
    pub from: State,
    /// Guard: the attempt it must have.
    pub attempt: Attempt,
    /// Guard: who must own it; `None` where nobody does, in the queue.
    pub owner: Option<NodeId>,
    /// New state.
    pub state: State,
    /// New phase.
    pub phase: Phase,
    /// New `tmp_file`; every arrow sets it, mostly to nothing.
    pub tmp_file: &'a str,
    /// New `error_msg`.
    pub error_msg: Option<&'a str>,
    /// The stored result.
    pub stored: Option<&'a StoredFile>,
    /// Rest before the next try; `None` = claimable at once.
    pub delay: Option<Duration>,
    /// Place in the lane.
    pub place: Place,
    /// Added to `retry_count`.
    pub retries: i32,
    /// Added to `lost_attempts`.
    pub lost: i32,
}

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [State; 6] =
        [State::Queued, State::Running, State::Succeeded, State::Failed, State::PickedUp, State::Cancelled];

    /// The number on the wire and in the database.
    pub const fn number(self) -> i16 {
        match self {
            State::Queued => 0,
            State::Running => 1,
            State::Succeeded => 2,
            State::Failed => 3,
            State::PickedUp => 4,
            State::Cancelled => 5,
        }
    }

    /// The state with that number, if there is one.
    pub fn from_number(number: i64) -> Option<State> {
        State::ALL.into_iter().find(|state| i64::from(state.number()) == number)
    }

    /// No arrow but pickup and purge leaves this state; `finished_at` is set exactly here.
    pub const fn is_final(self) -> bool {
        match self {
            State::Queued | State::Running => false,
            State::Succeeded | State::Failed | State::PickedUp | State::Cancelled => true,
        }
    }
}

impl Ending {
    const ALL: [Ending; 4] = [Ending::Failed, Ending::Lost, Ending::HandedBack, Ending::UploadFailed];

    /// The number in the database.
    pub const fn number(self) -> i16 {
        match self {
            Ending::Failed => 1,
            Ending::Lost => 2,
            Ending::HandedBack => 3,
            Ending::UploadFailed => 4,
        }
    }

    /// The ending with that number, if there is one.
    pub fn from_number(number: i64) -> Option<Ending> {
        Ending::ALL.into_iter().find(|ending| i64::from(ending.number()) == number)
    }
}

impl Phase {
    /// The number on the wire and in the database.
    pub const fn number(self) -> i16 {
        match self {
            Phase::Model => 0,
            Phase::Upload => 1,
        }
    }

    /// The phase with that number, if there is one.
    pub fn from_number(number: i64) -> Option<Phase> {
        [Phase::Model, Phase::Upload].into_iter().find(|phase| i64::from(phase.number()) == number)
    }
}

/// The result is on disk and only the upload is left. `error` says why it was not stored at once.
pub fn parked(task: &Running, tmp_file: String, error: Option<String>, call: Option<CallCount>) -> Transition {
    held(task, Change::Parked { tmp_file, error }, None, call)
}

/// The result lies in object storage.
pub fn succeeded(task: &Running, stored: StoredFile, call: Option<CallCount>) -> Transition {
    held(task, Change::Succeeded(stored), None, call)
}

/// The call failed and is worth another try.
pub fn retried(task: &Running, failure: &Failure, slot: Slot, call: Option<CallCount>) -> Transition {
    let change = Change::Requeued { slot, error: Some(failure.message.clone()), retries: 1, lost: 0 };
    held(task, change, Some(Ending::Failed), call)
}

/// The task failed for good.
pub fn failed(task: &Running, error: String, call: Option<CallCount>) -> Transition {
    held(task, Change::Failed { error, lost: 0 }, Some(Ending::Failed), call)
}

/// The upload failed for as long as it may, and with it the task.
pub fn upload_given_up(task: &Running, error: String, call: Option<CallCount>) -> Transition {
    held(task, Change::Failed { error, lost: 0 }, Some(Ending::UploadFailed), call)
}

/// The worker gives the task back unharmed: it goes on where it stood, nothing is used up.
pub fn handed_back(task: &Running, call: Option<CallCount>) -> Transition {
    held(task, back_to_the_head(None, 0), Some(Ending::HandedBack), call)
}

/// A claim whose answer was lost, or a run that panicked: the row is ours and nobody works on it.
/// Nothing is used up.
pub fn never_started(task: &Abandoned) -> Transition {
    let change = back_to_the_head(None, 0);
    taken_from(task, change, Ending::HandedBack, None)
}

/// The parked result is gone, so the model has to be called again; no try is used up.
pub fn result_gone(task: &Running, error: String, call: Option<CallCount>) -> Transition {
    held(task, back_to_the_head(Some(error), 0), Some(Ending::UploadFailed), call)
}

/// The worker died or let its deadline pass: back to the queue, or failed when that happened
/// `max_lost` times, so that a task which kills workers cannot run for ever.
pub fn lease_lost(task: &Abandoned, max_lost: i32, call: Option<CallCount>) -> Transition {
    let lost = task.lost_attempts.saturating_add(1);
    let change = if lost >= max_lost {
        Change::Failed { error: format!("gave up after {lost} attempts that were lost with their worker"), lost: 1 }
    } else {
        back_to_the_head(Some(format!("attempt {} was lost with its worker", task.attempt)), 1)
    };
    taken_from(task, change, Ending::Lost, call)
}

/// The model answered, and this node's disk did not take it: no try is used up, but an attempt is
/// lost, so that a result which fits on no disk is not made for ever.
pub fn result_lost(task: &Running, error: String, max_lost: i32, call: Option<CallCount>) -> Transition {
    if task.lost_attempts.saturating_add(1) >= max_lost {
        return held(task, Change::Failed { error, lost: 1 }, Some(Ending::Lost), call);
    }
    held(task, back_to_the_head(Some(error), 1), Some(Ending::Lost), call)
}

/// A queued task that will never run: its model was deleted, or it waited too long.
pub fn dropped_from_queue(task: &Waiting, error: String) -> Transition {
    Transition {
        key: task.key,
        lane: task.lane,
        from: State::Queued,
        attempt: task.attempt,
        owner: None,
        change: Change::Failed { error, lost: 0 },
        ending: None,
        call: None,
    }
}

/// Adopting a task leaves its attempt as it is, so only the owner tells whether that has happened
/// since the row was read: a dead worker's last write must not pass for its successor's.
fn held(task: &Running, change: Change, ending: Option<Ending>, call: Option<CallCount>) -> Transition {
    Transition {
        key: task.key,
        lane: task.lane,
        from: State::Running,
        attempt: task.attempt,
        owner: Some(task.node),
        change,
        ending: ending.map(|ending| (ending, task.node)),
        call,
    }
}

/// Guarded by the owner as [`held`] is, for the same reason.
fn taken_from(task: &Abandoned, change: Change, ending: Ending, call: Option<CallCount>) -> Transition {
    Transition {
        key: task.key,
        lane: task.lane,
        from: State::Running,
        attempt: task.attempt,
        owner: Some(task.owner),
        change,
        ending: Some((ending, task.owner)),
        call,
    }
}

fn back_to_the_head(error: Option<String>, lost: i32) -> Change {
    Change::Requeued { slot: Slot { delay: Duration::ZERO, place: Place::Head }, error, retries: 0, lost }
}

impl Transition {
    /// The row it is about.
    pub fn key(&self) -> TaskKey {
        self.key
    }

    /// The lane of that row, to be woken when the row is back in the queue or leaves room.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The attempt it was made under.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The model call that this accounts for; counted if the row changes.
    pub fn call(&self) -> Option<&CallCount> {
        self.call.as_ref()
    }

    /// The attempt that this ends without success, if it does.
    pub fn ended(&self) -> Option<Ended<'_>> {
        let (ending, node) = self.ending?;
        let error = match &self.change {
            Change::Parked { .. } | Change::Succeeded(_) => "",
            Change::Requeued { error, .. } => error.as_deref().unwrap_or_default(),
            Change::Failed { error, .. } => error,
        };
        Some(Ended { key: self.key, attempt: self.attempt, ending, node, error })
    }

    /// The state that the row will have.
    pub fn to(&self) -> State {
        self.row().state
    }

    /// True if the row becomes claimable at once, at a place that other nodes may have passed.
    pub fn rewinds_lane(&self) -> bool {
        matches!(&self.change, Change::Requeued { slot, .. } if slot.delay.is_zero())
    }

    /// The column values, for the store.
    pub fn row(&self) -> RowChange<'_> {
        let row = RowChange {
            key: self.key,
            from: self.from,
            attempt: self.attempt,
            owner: self.owner,
            state: self.from,
            phase: Phase::Model,
            tmp_file: "",
            error_msg: None,
            stored: None,
            delay: None,
            place: Place::Kept,
            retries: 0,
            lost: 0,
        };
        match &self.change {
            Change::Parked { tmp_file, error } => {
                RowChange { state: State::Running, phase: Phase::Upload, tmp_file, error_msg: error.as_deref(), ..row }
            }
            Change::Succeeded(stored) => {
                RowChange { state: State::Succeeded, error_msg: Some(""), stored: Some(stored), ..row }
            }
            Change::Requeued { slot, error, retries, lost } => RowChange {
                state: State::Queued,
                error_msg: error.as_deref(),
                delay: (!slot.delay.is_zero()).then_some(slot.delay),
                place: slot.place,
                retries: *retries,
                lost: *lost,
                ..row
            },
            Change::Failed { error, lost } => {
                RowChange { state: State::Failed, error_msg: Some(error), lost: *lost, ..row }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::task::{FailureKind, ModelId, TaskId, TenantId, sample};

    const LANE: Lane = Lane { model: ModelId(3), tenant: TenantId(7) };
    const KEY: TaskKey = TaskKey { tenant: TenantId(7), id: TaskId(Uuid::nil()) };

    fn running(phase: Phase) -> Running {
        Running { attempt: Attempt(4), retry_count: 1, phase, ..sample::running() }
    }

    fn abandoned(lost_attempts: i32) -> Abandoned {
        Abandoned {
            key: KEY,
            lane: LANE,
            attempt: Attempt(4),
            owner: NodeId(Uuid::nil()),
            lost_attempts,
            phase: Phase::Model,
            creator: "ann".into(),
            model_name: "tts".into(),
            traceparent: String::new(),
            started_at: None,
        }
    }

    fn stored() -> StoredFile {
        StoredFile { oss_file: "u".into(), oss_key: "k".into(), file_type: "wav".into(), file_size: 5 }
    }

    fn failure() -> Failure {
        Failure { kind: FailureKind::Timeout, message: "too slow".into(), retry_after: None }
    }

    /// The whole matrix: every arrow that can be drawn, with the guard it carries and what it sets.
    #[test]
    fn every_arrow_leads_where_the_picture_says() {
        let task = running(Phase::Model);
        let waiting =
            Waiting { key: KEY, lane: LANE, attempt: Attempt(4), model_name: "tts".into(), traceparent: String::new() };
        let slot = Slot { delay: Duration::from_secs(2), place: Place::Tail };
        let arrows = [
            ("parked", parked(&task, "f".into(), None, None)),
            ("succeeded", succeeded(&task, stored(), None)),
            ("retried", retried(&task, &failure(), slot, None)),
            ("failed", failed(&task, "no".into(), None)),
            ("handed back", handed_back(&task, None)),
            ("result gone", result_gone(&task, "gone".into(), None)),
            ("lost", lease_lost(&abandoned(0), 3, None)),
            ("lost too often", lease_lost(&abandoned(2), 3, None)),
            ("unparked", result_lost(&task, "full".into(), 3, None)),
            ("unparked too often", result_lost(&Running { lost_attempts: 2, ..task.clone() }, "full".into(), 3, None)),
            ("dropped", dropped_from_queue(&waiting, "late".into())),
        ];
        let seen: Vec<String> = arrows
            .iter()
            .map(|(name, arrow)| {
                let row = arrow.row();
                assert_eq!(row.owner.is_some(), row.from == State::Running, "{name}: who runs it is in its guard");
                format!(
                    "{name}: {}@{} -> {}/{} {:?} delay {:?} retries +{} lost +{} error {:?}",
                    row.from.number(),
                    row.attempt,
                    row.state.number(),
                    row.phase.number(),
                    row.place,
                    row.delay,
                    row.retries,
                    row.lost,
                    row.error_msg,
                )
            })
            .collect();
        let expected = [
            "parked: 1@4 -> 1/1 Kept delay None retries +0 lost +0 error None",
            "succeeded: 1@4 -> 2/0 Kept delay None retries +0 lost +0 error Some(\"\")",
            "retried: 1@4 -> 0/0 Tail delay Some(2s) retries +1 lost +0 error Some(\"too slow\")",
            "failed: 1@4 -> 3/0 Kept delay None retries +0 lost +0 error Some(\"no\")",
            "handed back: 1@4 -> 0/0 Head delay None retries +0 lost +0 error None",
            "result gone: 1@4 -> 0/0 Head delay None retries +0 lost +0 error Some(\"gone\")",
            "lost: 1@4 -> 0/0 Head delay None retries +0 lost +1 error Some(\"attempt 4 was lost with its worker\")",
            "lost too often: 1@4 -> 3/0 Kept delay None retries +0 lost +1 error Some(\"gave up after 3 attempts that were lost with their worker\")",
            "unparked: 1@4 -> 0/0 Head delay None retries +0 lost +1 error Some(\"full\")",
            "unparked too often: 1@4 -> 3/0 Kept delay None retries +0 lost +1 error Some(\"full\")",
            "dropped: 0@4 -> 3/0 Kept delay None retries +0 lost +0 error Some(\"late\")",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn no_arrow_leaves_a_final_state() {
        assert!(!CLAIM.from.is_final() && !CLAIM.to.is_final());
        assert!(PICK_UP.from.is_final() && PICK_UP.to.is_final());
        assert!(parked(&running(Phase::Model), String::new(), None, None).row().tmp_file.is_empty());
    }

    #[test]
    fn numbers_are_those_of_the_contract() {
        let numbers: Vec<i16> = State::ALL.iter().map(|state| state.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        assert_eq!(State::from_number(4), Some(State::PickedUp));
        assert_eq!(State::from_number(6), None);
        assert_eq!(Phase::from_number(1), Some(Phase::Upload));
        assert_eq!(Phase::from_number(-1), None);
    }

    #[test]
    fn only_a_return_without_rest_rewinds_the_lane() {
        let slot = Slot { delay: Duration::from_secs(1), place: Place::Head };
        assert!(handed_back(&running(Phase::Model), None).rewinds_lane());
        assert!(lease_lost(&abandoned(0), 3, None).rewinds_lane());
        assert!(!retried(&running(Phase::Model), &failure(), slot, None).rewinds_lane());
        assert!(!lease_lost(&abandoned(2), 3, None).rewinds_lane());
    }
}
