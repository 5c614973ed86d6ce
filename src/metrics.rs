//! What this process counts and measures: for Prometheus, and minute by minute for the series.
//!
//! Parts hold a clone and tell what happened in one call; what that costs is some hundred
//! nanoseconds and no allocation. Handles are resolved once, labels come from closed sets, and lanes
//! are bounded, so neither memory nor the page grows with what callers send. What others know better
//! (queues, pools, the process) is read when the page is asked for: see [`Readings`].

mod meters;
mod minutes;
mod page;
mod process;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus::Registry;

use self::{meters::Meters, minutes::Minutes};
pub use self::{
    meters::{CommitMeter, Dependency, SpoolMeter},
    minutes::Batch,
    page::{CONTENT_TYPE, LaneReading, PoolReading, Queues, Readings},
};
use crate::{
    clock,
    series::{Counts, Point},
    task::{
        FailureKind, Running, TaskKey, TenantId,
        lifecycle::{State, Transition},
    },
};

/// The counters of this process; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    meters: Meters,
    minutes: Mutex<Minutes>,
    top_lanes: usize,
}

/// Something that could not be counted under its name: a bug, found by the first start.
#[derive(Debug, thiserror::Error)]
#[error("a metric cannot be registered or shown: {0}")]
pub struct Unmeasurable(#[from] prometheus::Error);

impl Metrics {
    /// All at zero. `top_lanes`: so many lanes are shown by name.
    ///
    /// # Errors
    /// Where two metrics have the same name.
    pub fn new(top_lanes: usize) -> Result<Metrics, Unmeasurable> {
        let registry = Registry::new_custom(Some(page::PREFIX.to_owned()), None)?;
        let meters = Meters::registered(&registry)?;
        Ok(Metrics(Arc::new(Inner { registry, meters, minutes: Mutex::new(Minutes::new(top_lanes)), top_lanes })))
    }

    /// So many lanes are shown by name.
    pub fn top_lanes(&self) -> usize {
        self.0.top_lanes
    }

    /// A task was put in the queue.
    pub fn created(&self, tenant: TenantId, model_name: &str) {
        self.meters().created.inc();
        let counts = Counts { created: 1, ..Counts::default() };
        self.happened(clock::now(), tenant, model_name, counts, |_| {});
    }

    /// A task was refused because its lane has `queueLimit` tasks.
    pub fn queue_full(&self) {
        self.meters().queue_full.inc();
    }

    /// So many results were handed out for the first time.
    pub fn picked_up(&self, tasks: usize) {
        self.meters().picked_up.inc_by(tasks as u64);
    }

    /// So many tasks past their time were deleted.
    pub fn purged(&self, tasks: usize) {
        self.meters().purged.inc_by(tasks as u64);
    }

    /// A claim came back with these tasks.
    pub fn claimed(&self, took: Duration, tasks: &[Running]) {
        self.meters().claim.committed(took, tasks.len());
        let now = clock::now();
        for task in tasks {
            let waited = since(task.enqueue_at, now);
            self.meters().wait.observe(waited.as_secs_f64());
            self.happened(now, task.key.tenant, &task.model_name, Counts::default(), |point| point.wait.record(waited));
        }
    }

    /// A call of the model came to an end: with so many bytes, or with a failure.
    pub fn called(&self, task: &Running, took: Duration, outcome: Result<u64, FailureKind>) {
        let meters = self.meters();
        meters.call.observe(took.as_secs_f64());
        match outcome {
            Ok(bytes) => {
                meters.calls_succeeded.inc();
                meters.result_bytes.inc_by(bytes);
            }
            Err(kind) => meters.call_failures(kind).inc(),
        }
        let counts = Counts { calls: 1, bytes: outcome.unwrap_or(0), ..Counts::default() };
        self.happened(clock::now(), task.key.tenant, &task.model_name, counts, |point| point.run.record(took));
    }

    /// One try of an upload came to an end.
    pub fn uploaded(&self, took: Duration, stored: bool) {
        if stored {
            self.meters().upload.observe(took.as_secs_f64());
        } else {
            self.meters().upload_failures.inc();
        }
    }

    /// A transition was applied: its row has changed.
    pub fn moved(&self, model_name: &str, transition: &Transition) {
        let (row, meters) = (transition.row(), self.meters());
        let (retried, lost) = (row.retries > 0, row.lost > 0);
        let now = clock::now();
        let total = row.state.is_final().then(|| age(transition.key(), now));
        match row.state {
            State::Succeeded => meters.succeeded.inc(),
            State::Failed => meters.failed.inc(),
            State::Queued if !retried && !lost => meters.handed_back.inc(),
            State::Queued | State::Running | State::PickedUp | State::Cancelled => {}
        }
        if retried {
            meters.retried.inc();
        }
        if lost {
            meters.lost.inc();
        }
        if let Some(total) = total {
            meters.total.observe(total.as_secs_f64());
        }
        if total.is_none() && !retried && !lost {
            return;
        }
        let counts = Counts {
            succeeded: u64::from(row.state == State::Succeeded),
            failed: u64::from(row.state == State::Failed),
            retried: u64::from(retried),
            lost: u64::from(lost),
            ..Counts::default()
        };
        self.happened(now, transition.key().tenant, model_name, counts, |point| {
            total.into_iter().for_each(|total| point.total.record(total));
        });
    }

    /// A transition was not applied: somebody else had changed the row.
    pub fn stale(&self) {
        self.meters().stale.inc();
    }

    /// A request was answered. `route` is one of the table, as it stands there.
    pub fn answered(&self, method: &str, route: &str, status: &str, took: Duration) {
        let meters = self.meters();
        let method = meters::known_method(method);
        meters.requests.with_label_values(&[method, route, status]).inc();
        meters.request.with_label_values(&[method, route]).observe(took.as_secs_f64());
    }

    /// A dependency was asked for a sign of life.
    pub fn asked(&self, dependency: Dependency, took: Duration, up: bool) {
        self.meters().asked(dependency, took, up);
    }

    /// What the committer of new tasks counts with.
    pub fn enqueues(&self) -> CommitMeter {
        self.meters().enqueue.clone()
    }

    /// What the committer of transitions counts with.
    pub fn applies(&self) -> CommitMeter {
        self.meters().apply.clone()
    }

    /// What the gauge of the spool shows itself on.
    pub fn spool(&self) -> SpoolMeter {
        self.meters().spool.clone()
    }

    /// The points that have changed since they were written last; with `last`, what has not ended
    /// yet too, as far as it goes.
    pub fn unwritten(&self, last: bool) -> Batch {
        self.minutes().unwritten(clock::now(), last)
    }

    /// These points are in the database now.
    pub fn written(&self, batch: &Batch) {
        self.minutes().written(batch);
    }

    fn meters(&self) -> &Meters {
        &self.0.meters
    }

    fn happened(
        &self,
        now: DateTime<Utc>,
        tenant: TenantId,
        model_name: &str,
        counts: Counts,
        times: impl FnOnce(&mut Point),
    ) {
        self.minutes().count(now, tenant, model_name, counts, times);
    }

    fn minutes(&self) -> MutexGuard<'_, Minutes> {
        // A panic in the middle of an addition would cost one count.
        self.0.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago that was, by clocks that may differ a little.
fn since(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - at).to_std().unwrap_or_default()
}

/// How old a task is: its id is a `UUIDv7`, which begins with the milliseconds of its creation.
fn age(key: TaskKey, now: DateTime<Utc>) -> Duration {
    let created = key.id.0.get_timestamp().map(|at| at.to_unix());
    let created = created.and_then(|(seconds, nanos)| DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos));
    created.map_or(Duration::ZERO, |created| since(created, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Attempt, Waiting, lifecycle, sample};

    #[test]
    fn a_task_is_as_old_as_its_id_says() {
        let key = TaskKey { id: clock::task_id(), ..sample::running().key };
        let later = clock::now() + Duration::from_secs(90);
        assert!((89.0..91.0).contains(&age(key, later).as_secs_f64()));
        assert_eq!(age(sample::running().key, later), Duration::ZERO, "not an id that we made");
    }

    #[test]
    fn every_end_of_a_task_is_counted_once() {
        let metrics = Metrics::new(10).unwrap();
        let task = sample::running();
        let waiting = Waiting {
            key: task.key,
            lane: task.lane,
            attempt: Attempt(0),
            model_name: task.model_name.clone(),
            traceparent: String::new(),
        };
        for transition in [
            lifecycle::failed(&task, "no".into(), None),
            lifecycle::handed_back(&task, None),
            lifecycle::parked(&task, "f".into(), None, None),
            lifecycle::result_lost(&task, "full".into(), 3, None),
            lifecycle::result_lost(&task, "full".into(), 1, None),
            lifecycle::dropped_from_queue(&waiting, "late".into()),
        ] {
            metrics.moved("tts", &transition);
        }
        let batch = metrics.unwritten(false);
        let point = &batch.rows().next().unwrap().point;
        let counts = point.counts;
        assert_eq!(
            (counts.failed, counts.lost, counts.retried, counts.succeeded, point.total.count()),
            (3, 2, 0, 0, 3)
        );
        let meters = metrics.meters();
        assert_eq!((meters.failed.get(), meters.lost.get(), meters.handed_back.get()), (3, 2, 1));
    }
}
