//! One task, as `worker/run.rs` and `worker/upload.rs` see it through: call → park → upload → finish.

use std::{rc::Rc, sync::Arc, time::Duration};

use chrono::NaiveDate;
use model_asynch::{
    model::Model,
    stats::CallCount,
    task::{
        Attempt, Failure, FailureKind, Running, TaskKey,
        lifecycle::{self, Applied, StoredFile, Transition},
        retry,
    },
    wake::WakeUp,
};

use crate::{
    flaw::Flaw,
    process::{Cut, Process, Slot},
    table::stamp,
    world::{PutError, Sim},
};

const SLOW: Duration = Duration::from_millis(200);

/// A task being run.
pub struct Run {
    sim: Sim,
    process: Rc<Process>,
    task: Running,
    model: Arc<Model>,
    cut: Cut,
    uncounted: Option<CallCount>,
}

/// A whole result on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub disk: u32,
    /// The process in whose folder it lies.
    pub folder: u32,
    pub key: TaskKey,
    pub attempt: Attempt,
    pub token: u32,
    pub at: i64,
}

impl Parked {
    pub fn name(&self) -> String {
        format!("{}-{}-{:08x}", self.key.id, self.attempt, self.token)
    }
}

/// On the list of what the process works on, until it is dropped.
pub struct Live {
    process: Rc<Process>,
    entry: (i64, model_asynch::task::TaskId, Attempt),
}

impl Live {
    /// Puts an attempt on the list; nothing if it is there already.
    pub fn begin(process: &Rc<Process>, key: TaskKey, attempt: Attempt) -> Option<Live> {
        let entry = (key.tenant.0, key.id, attempt);
        let new = process.live.borrow_mut().insert(entry);
        new.then(|| Live { process: process.clone(), entry })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.process.live.borrow_mut().remove(&self.entry);
    }
}

/// One of the runs that a process waits for when it ends.
struct Going {
    process: Rc<Process>,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.process.runs.set(self.process.runs.get() - 1);
        self.process.stirred.notify_one();
    }
}

enum Uploaded {
    Stored(String),
    FileGone,
    GivenUp,
    GraceOver,
    NotOurs,
}

/// Starts a run that was just claimed.
pub fn begin(run: Run, live: Live, slot: Slot) {
    spawn(run, live, |run| run.call(slot));
}

/// Starts a run whose result was found parked.
pub fn resume(run: Run, live: Live, parked: Parked) {
    spawn(run, live, |run| run.go_on(parked));
}

fn spawn<F: Future<Output = ()> + 'static>(run: Run, live: Live, go: impl FnOnce(Run) -> F) {
    let (sim, process) = (run.sim.clone(), run.process.clone());
    process.runs.set(process.runs.get() + 1);
    let counted = Going { process: process.clone() };
    let going = go(run);
    sim.rt.spawn(process.id, async move {
        let _counted = counted;
        let _live = live;
        going.await;
    });
}

pub fn call_count(creator: &str, model_name: &str, success: bool) -> CallCount {
    CallCount {
        day: NaiveDate::default(),
        creator: creator.to_owned(),
        model_name: model_name.to_owned(),
        success,
        seconds: 0.0,
        bytes: 0,
    }
}

impl Run {
    pub fn new(sim: &Sim, process: &Rc<Process>, task: Running, model: Arc<Model>, cut: Cut) -> Run {
        Run { sim: sim.clone(), process: process.clone(), task, model, cut, uncounted: None }
    }

    pub fn key(&self) -> TaskKey {
        self.task.key
    }

    pub fn attempt(&self) -> Attempt {
        self.task.attempt
    }

    /// Accounts for a call at the next transition.
    pub fn count(&mut self, success: bool) {
        self.uncounted = Some(call_count(&self.task.creator, &self.task.model_name, success));
    }

    async fn call(mut self, slot: Slot) {
        let called = {
            let call = self.sim.call_model(&self.process, &self.task, &self.model);
            tokio::select! {
                biased;
                () = self.cut.lease_lost.thrown() => return,
                () = self.cut.grace_over.thrown() => None,
                called = call => Some(called),
            }
        };
        drop(slot);
        match called {
            None => {
                self.count(false);
                self.hand_back().await;
            }
            Some(Ok(parked)) => {
                self.count(true);
                self.resume(parked).await;
            }
            Some(Err(failure)) => {
                self.count(false);
                self.after_failure(failure).await;
            }
        }
    }

    async fn go_on(mut self, parked: Parked) {
        if self.uncounted.is_some() && self.mark_parked(&parked, None).await == Applied::Stale {
            return;
        }
        self.resume(parked).await;
    }

    async fn resume(mut self, parked: Parked) {
        match self.upload(&parked).await {
            Uploaded::Stored(object) => self.finish(&parked, object).await,
            Uploaded::FileGone => {
                let call = self.uncounted.take();
                self.end_with(lifecycle::result_gone(&self.task, "gone".into(), call)).await;
                self.sim.remove_parked(&parked);
            }
            Uploaded::GivenUp => {
                let call = self.uncounted.take();
                if self.apply(lifecycle::failed(&self.task, "no storage".into(), call)).await == Applied::Done {
                    self.sim.remove_parked(&parked);
                }
            }
            Uploaded::GraceOver => self.hand_back().await,
            Uploaded::NotOurs => {}
        }
    }

    async fn upload(&mut self, parked: &Parked) -> Uploaded {
        let mut failures = 0;
        loop {
            let error = match self.try_upload(parked).await {
                Ok(uploaded) => return uploaded,
                Err(error) => error,
            };
            if error == PutError::FileGone {
                return Uploaded::FileGone;
            }
            failures += 1;
            if self.sim.rt.now() - parked.at >= self.sim.settings.upload_for.as_micros() as i64 {
                return Uploaded::GivenUp;
            }
            if self.mark_parked(parked, Some("the upload failed".into())).await == Applied::Stale {
                return Uploaded::NotOurs;
            }
            let pause = self.sim.rt.jittered(retry::backoff(failures).mul_f64(0.75));
            tokio::select! {
                biased;
                () = self.cut.lease_lost.thrown() => return Uploaded::NotOurs,
                () = self.cut.grace_over.thrown() => return Uploaded::GraceOver,
                () = self.sim.rt.sleep(pause) => {}
            }
        }
    }

    async fn try_upload(&mut self, parked: &Parked) -> Result<Uploaded, PutError> {
        let (sim, cut) = (self.sim.clone(), self.cut.clone());
        if sim.flaw == Some(Flaw::SuccessBeforeUpload) {
            return Ok(Uploaded::Stored(sim.object_key(parked)));
        }
        let mut put = Box::pin(sim.put(parked));
        let mut slow = sim.rt.sleep(SLOW);
        let mut marked = false;
        loop {
            tokio::select! {
                biased;
                () = cut.lease_lost.thrown() => return Ok(Uploaded::NotOurs),
                () = cut.grace_over.thrown() => return Ok(Uploaded::GraceOver),
                stored = &mut put => return stored.map(Uploaded::Stored),
                () = &mut slow, if !marked => {
                    marked = true;
                    if self.mark_parked(parked, None).await == Applied::Stale {
                        return Ok(Uploaded::NotOurs);
                    }
                }
            }
        }
    }

    async fn mark_parked(&mut self, parked: &Parked, error: Option<String>) -> Applied {
        let call = self.uncounted.take();
        self.apply(lifecycle::parked(&self.task, parked.name(), error, call)).await
    }

    async fn after_failure(mut self, failure: Failure) {
        let call = self.uncounted.take();
        if failure.kind == FailureKind::Spool {
            self.process.full.set(true);
            let max_lost = self.sim.settings.max_lost;
            return self.end_with(lifecycle::result_lost(&self.task, failure.message, max_lost, call)).await;
        }
        let age = (stamp(self.process.wall_clock(&self.sim)) - self.task.created_at).to_std().unwrap_or_default();
        let dice = self.sim.rt.rng().f64();
        if self.sim.flaw == Some(Flaw::RetryWithoutEnd) {
            self.task.retry_count = 0;
        }
        let slot = self.model.spec.retry_policy().next(&self.task, &failure, age, dice);
        let transition = match slot {
            Some(slot) => lifecycle::retried(&self.task, &failure, slot, call),
            None => lifecycle::failed(&self.task, failure.message, call),
        };
        self.end_with(transition).await;
    }

    async fn finish(mut self, parked: &Parked, object: String) {
        let call = self.uncounted.take();
        let stored =
            StoredFile { oss_file: String::new(), oss_key: object.clone(), file_type: "wav".into(), file_size: 5 };
        match self.apply(lifecycle::succeeded(&self.task, stored, call)).await {
            Applied::Done => {}
            Applied::Stale if self.cut.lease_lost.is_thrown() => return,
            Applied::Stale => {
                self.sim.delete_object(&object).await.ok();
            }
        }
        self.sim.remove_parked(parked);
    }

    async fn hand_back(mut self) {
        let call = self.uncounted.take();
        self.end_with(lifecycle::handed_back(&self.task, call)).await;
    }

    /// Stale or not, there is nothing left to do.
    async fn end_with(&self, transition: Transition) {
        match self.apply(transition).await {
            Applied::Done | Applied::Stale => {}
        }
    }

    async fn apply(&self, transition: Transition) -> Applied {
        let mut failures = 0;
        loop {
            let again = transition.clone();
            let applied = tokio::select! {
                biased;
                () = self.cut.lease_lost.thrown() => return Applied::Stale,
                applied = self.process.db(&self.sim, move |table, now| table.apply(&again, now)) => applied,
            };
            match applied {
                Ok(Applied::Done) => {
                    self.process.tell_room(self.task.lane);
                    if transition.rewinds_lane() {
                        self.sim.wake(&self.process, &[WakeUp { lane: self.task.lane, rewind: true }]);
                    }
                    return Applied::Done;
                }
                Ok(Applied::Stale) => return Applied::Stale,
                Err(_) if self.sim.flaw == Some(Flaw::WriteForgotten) => return Applied::Stale,
                Err(_) => {
                    failures += 1;
                    let pause = self.sim.rt.jittered(retry::backoff(failures).mul_f64(0.5));
                    tokio::select! {
                        biased;
                        () = self.cut.lease_lost.thrown() => return Applied::Stale,
                        () = self.sim.rt.sleep(pause) => {}
                    }
                }
            }
        }
    }
}
