//! What a batch of transitions adds to the statistics, and how it is cut. Pure. Public for
//! `tests/sim` alone.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use chrono::NaiveDate;

use crate::task::lifecycle::{Applied, Transition};

/// What applying a transition came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The row has changed.
    Done,
    /// The row had changed before exactly so: the writer was not told of its commit and came
    /// again. Its call is counted already.
    Repeated,
    /// The row had moved on.
    Stale,
}

impl From<Outcome> for Applied {
    fn from(outcome: Outcome) -> Applied {
        match outcome {
            Outcome::Done | Outcome::Repeated => Applied::Done,
            Outcome::Stale => Applied::Stale,
        }
    }
}

/// A row of the statistics: day, tenant, creator, model name. The derived order is the order in
/// which rows are written, so that two writers never wait for each other in a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatKey<'a> {
    /// The day, in the configured time zone.
    pub day: NaiveDate,
    /// The tenant of the tasks.
    pub tenant: i64,
    /// User who created the tasks.
    pub creator: &'a str,
    /// Name of the model.
    pub model_name: &'a str,
}

/// What is added to it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Calls that gave a result.
    pub successes: i64,
    /// Calls that did not.
    pub failures: i64,
    /// Time spent in calls.
    pub seconds: f64,
    /// Size of the results.
    pub bytes: i64,
}

/// Adds up the calls of a batch: those that changed their row. A stale writer's call is counted by
/// whoever took the task from it, so that no call is counted twice.
pub fn tallies<'a>(transitions: &'a [Transition], outcomes: &[Outcome]) -> BTreeMap<StatKey<'a>, Tally> {
    let mut tallies: BTreeMap<StatKey<'a>, Tally> = BTreeMap::new();
    for (transition, outcome) in transitions.iter().zip(outcomes) {
        let Some(call) = transition.call().filter(|_| *outcome == Outcome::Done) else { continue };
        let key = StatKey {
            day: call.day,
            tenant: transition.key().tenant.0,
            creator: &call.creator,
            model_name: &call.model_name,
        };
        let tally = tallies.entry(key).or_default();
        if call.success {
            tally.successes += 1;
        } else {
            tally.failures += 1;
        }
        tally.seconds += call.seconds;
        tally.bytes = tally.bytes.saturating_add(i64::try_from(call.bytes).unwrap_or(i64::MAX));
    }
    tallies
}

/// Cuts a batch where a task comes up again: a statement changes each row once, and a task's
/// transitions are applied in their order.
pub(in crate::store) fn runs(transitions: &[Transition]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut begin = 0;
    let mut seen = HashSet::new();
    for (n, transition) in transitions.iter().enumerate() {
        if !seen.insert(transition.key()) {
            runs.push(begin..n);
            begin = n;
            seen.clear();
            seen.insert(transition.key());
        }
    }
    runs.push(begin..transitions.len());
    runs
}

/// A failure's words as both databases take them: Postgres has no NUL in a text, and what a model
/// answered must not keep its task from failing.
pub fn storable(message: &str) -> String {
    message.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        stats::CallCount,
        task::{Attempt, Lane, ModelId, TaskId, TaskKey, TenantId, Waiting, lifecycle},
    };

    fn dropped(task: u128) -> Transition {
        let waiting = Waiting {
            key: TaskKey { tenant: TenantId(7), id: TaskId(Uuid::from_u128(task)) },
            lane: Lane { model: ModelId(1), tenant: TenantId(7) },
            attempt: Attempt(0),
            model_name: String::new(),
            traceparent: String::new(),
        };
        lifecycle::dropped_from_queue(&waiting, String::new())
    }

    fn lost(success: bool) -> Transition {
        let task = crate::task::Abandoned {
            key: TaskKey { tenant: TenantId(7), id: TaskId(Uuid::nil()) },
            lane: Lane { model: ModelId(1), tenant: TenantId(7) },
            attempt: Attempt(1),
            owner: crate::task::NodeId(Uuid::nil()),
            lost_attempts: 0,
            phase: lifecycle::Phase::Model,
            creator: "ann".into(),
            model_name: "tts".into(),
            traceparent: String::new(),
            started_at: None,
        };
        let call = CallCount {
            day: NaiveDate::default(),
            creator: "ann".into(),
            model_name: "tts".into(),
            success,
            seconds: 1.5,
            bytes: 10,
        };
        lifecycle::lease_lost(&task, 3, Some(call))
    }

    #[test]
    fn a_batch_is_cut_where_a_task_comes_up_again() {
        let batch = [1, 2, 1, 1, 3].map(dropped);
        assert_eq!(runs(&batch), [0..2, 2..3, 3..5]);
        assert_eq!(runs(&batch[..2]).len(), 1);
    }

    #[test]
    fn calls_add_up_but_only_those_that_changed_their_row() {
        let batch = [lost(true), lost(false), lost(true), lost(true), dropped(1)];
        let outcomes = [Outcome::Done, Outcome::Done, Outcome::Stale, Outcome::Repeated, Outcome::Done];
        let tallies = tallies(&batch, &outcomes);
        let tally = Tally { successes: 1, failures: 1, seconds: 3.0, bytes: 20 };
        assert_eq!(tallies.into_values().collect::<Vec<_>>(), [tally]);
    }
}
