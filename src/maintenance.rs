//! Maintenance: jobs that run on a schedule, on one node at a time, and never overlap themselves.
//!
//! What is due, and what was asked for, stands in the database as a run that waits; any node takes the
//! job's turn and begins it. Times that were missed, because no node was up or the run before took
//! long, count as one. A node that stops lets its run wait again. Where it died, its turn runs out: the
//! run is lost, and another is begun in its place, once.

mod retention;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock,
    config::{self, Config},
    job::{Job, Run, RunState, schedule::Schedule},
    periodic::{Pace, Swept},
    storage::Storage,
    store::{Store, StoreError},
    task::NodeId,
    tenant::Plans,
    turn::{Held, Turn},
};

/// A node looks so often within a lease whether a job is due, was asked for elsewhere, or was lost.
const LOOKS: u32 = 6;

/// The jobs of this process.
pub struct Maintenance {
    store: Store,
    storage: Storage,
    plans: Plans,
    delete_on_purge: bool,
    config: config::Maintenance,
    /// Under which this node's runs are listed.
    node: String,
    /// How long a node that is not heard of is believed to be at a job.
    hold: Duration,
    bell: Bell,
}

/// Has this node look at once whether a run of a job waits; cheap to clone.
#[derive(Clone)]
pub struct Bell(Arc<[Notify; Job::ALL.len()]>);

/// What a job did.
#[derive(Debug, Default)]
struct Outcome {
    /// Numbers by name.
    result: Map<String, Value>,
    /// What went wrong, in words for callers.
    errors: Vec<String>,
}

impl Maintenance {
    /// Builds it; nothing runs yet. `node` is the name under which runs are listed.
    pub fn new(store: Store, storage: Storage, config: &Config, node: String) -> Maintenance {
        Maintenance {
            store,
            storage,
            plans: config.plans.clone(),
            delete_on_purge: config.oss.delete_on_purge,
            config: config.maintenance.clone(),
            node,
            hold: config.worker.lease,
            bell: Bell::default(),
        }
    }

    /// What has it look at once.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Runs what is due and what is asked for, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        futures::future::join_all(Job::ALL.map(|job| self.keep(job, &stop))).await;
    }

    /// Begins the run of a job that waits, and ends it. `false`: none waits, or another node is at it.
    ///
    /// # Errors
    /// Where the database is out of reach; the run still waits then, or is found lost.
    pub async fn take_up(&self, job: Job, stop: &CancellationToken) -> Result<bool, StoreError> {
        // Most looks find nothing, and need no turn for that.
        if self.store.open_run(job).await?.is_none_or(|run| run.state != RunState::Waiting) {
            return Ok(false);
        }
        let Some(mut turn) = Turn::take_for(&self.store, &job.duty(), self.hold).await? else { return Ok(false) };
        let taken_up = self.work_in(&mut turn, job, stop).await;
        turn.give_back().await;
        taken_up
    }

    async fn keep(&self, job: Job, stop: &CancellationToken) {
        let mut pace = Pace::new(job.name(), self.hold / LOOKS);
        let mut is_registered = false;
        loop {
            tokio::select! {
                goes_on = pace.wait(stop) => if !goes_on { return },
                () = self.bell.rung(job) => {}
            }
            pace.ticked(self.tick(job, &mut is_registered, stop).await);
        }
    }

    async fn tick(&self, job: Job, is_registered: &mut bool, stop: &CancellationToken) -> Result<Swept, StoreError> {
        let now = self.store.now().await?;
        if !*is_registered {
            let schedule = self.config.schedule(job).map_or_else(|| "off".to_owned(), Schedule::to_string);
            self.store.register_job(job, &schedule, now).await?;
            *is_registered = true;
        }
        if let Some(lost) = self.store.bury_run(job, now).await? {
            warn!(job = job.name(), run = lost.0, "a run was lost with its node");
        }
        self.ask_if_due(job, now).await?;
        self.take_up(job, stop).await?;
        Ok(Swept::All)
    }

    /// Asks for a run where one or more times of the schedule have passed.
    async fn ask_if_due(&self, job: Job, now: DateTime<Utc>) -> Result<(), StoreError> {
        let Some(schedule) = self.config.schedule(job) else { return Ok(()) };
        let Some(done_until) = self.store.job_done_until(job).await? else { return Ok(()) };
        if schedule.next_after(done_until).is_some_and(|due| due <= now) {
            self.store.schedule_run(job, done_until, now).await?;
        }
        Ok(())
    }

    async fn work_in(&self, turn: &mut Turn, job: Job, stop: &CancellationToken) -> Result<bool, StoreError> {
        let (runner, now) = (turn.holder(), self.store.now().await?);
        let Some(run) = self.store.start_run(job, runner, &self.node, now).await? else { return Ok(false) };
        info!(job = job.name(), run = run.id.0, cause = run.cause.word(), "a job begins");
        let began = clock::tick();
        let work = async {
            tokio::select! {
                outcome = self.work(job) => Some(outcome),
                () = stop.cancelled() => None,
            }
        };
        match turn.during(work).await {
            Held::Throughout(Some(outcome)) => self.finish(&run, runner, outcome, began.elapsed()).await?,
            Held::Throughout(None) => {
                self.store.hand_run_back(run.id, runner).await?;
                info!(job = job.name(), run = run.id.0, "this node stops; the job is left to the next one");
            }
            Held::Lost => warn!(job = job.name(), run = run.id.0, "lost the turn at a job and dropped it"),
        }
        Ok(true)
    }

    async fn work(&self, job: Job) -> Outcome {
        match job {
            Job::Retention => retention::run(self).await,
        }
    }

    async fn finish(&self, run: &Run, runner: NodeId, outcome: Outcome, took: Duration) -> Result<(), StoreError> {
        let result = Value::Object(outcome.result).to_string();
        let errors = outcome.errors.join("; ");
        let error = Some(errors.as_str()).filter(|errors| !errors.is_empty());
        let now = self.store.now().await?;
        let is_kept = self.store.finish_run(run.id, runner, &result, error, now).await?;
        info!(job = run.job, run = run.id.0, result, error, is_kept, "a job ended after {took:.1?}");
        Ok(())
    }
}

impl Default for Bell {
    fn default() -> Bell {
        Bell(Arc::new(Job::ALL.map(|_| Notify::new())))
    }
}

impl Bell {
    /// A run of that job was asked for.
    pub fn ring(&self, job: Job) {
        self.0[job as usize].notify_one();
    }

    async fn rung(&self, job: Job) {
        self.0[job as usize].notified().await;
    }
}
