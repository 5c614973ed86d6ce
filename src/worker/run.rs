//! One task, top to bottom: call → park → upload → finish. Every exit is a transition, or a lease
//! that is no longer ours.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Shared,
    call::{Call, Called},
    slot::Slot,
    upload::{self, Uploaded},
};
use crate::{
    clock,
    faults::{self, Point},
    model::Model,
    spool::Parked,
    stats::CallCount,
    storage::Storage,
    store::tasks::Adopted,
    task::{
        Failure, FailureKind, Running,
        lifecycle::{self, Applied, StoredFile, Transition},
        retry,
    },
    trace::{Span, steps},
    wake::WakeUp,
};

/// What can cut a run short.
#[derive(Clone)]
pub(super) struct Cut {
    /// The lease is lost: stop, write nothing, leave the parked file for whoever adopts it.
    pub(super) lease_lost: CancellationToken,
    /// The service stops and its grace is over: hand the task back.
    pub(super) grace_over: CancellationToken,
}

/// A task being run.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) task: Running,
    pub(super) model: Arc<Model>,
    pub(super) cut: Cut,
    /// The call that no transition has accounted for yet.
    pub(super) uncounted: Option<CallCount>,
    /// The attempt, recorded when the run is over.
    pub(super) span: Span,
}

impl Run {
    /// A task that was just claimed.
    pub(super) fn claimed(shared: Arc<Shared>, task: Running, model: Arc<Model>, cut: Cut) -> Run {
        shared.tracer.waited(&task);
        let span = shared.tracer.process(&task);
        Run { shared, task, model, cut, uncounted: None, span }
    }

    /// A task whose result was found parked.
    pub(super) fn adopted(shared: Arc<Shared>, adopted: Adopted, parked: &Parked, cut: Cut) -> Run {
        let span = shared.tracer.adopted(&adopted.task);
        let mut run = Run { shared, task: adopted.task, model: adopted.model, cut, uncounted: None, span };
        if adopted.call_uncounted {
            run.count(true, parked.call_time, parked.size);
        }
        run
    }

    /// Calls the model and sees the task through. The slot is free as soon as the answer is parked.
    pub(super) async fn begin(mut self, slot: Slot) {
        debug!("calling the model");
        let payload = self.task.request_payload.take();
        let call = Call {
            client: &self.shared.client,
            spool: &self.shared.spool,
            task: &self.task,
            model: &self.model,
            max_bytes: self.shared.max_result_bytes,
        };
        let called = tokio::select! {
            called = call.make(payload) => Some(called),
            () = self.cut.lease_lost.cancelled() => return warn!("the lease is lost, the call was dropped"),
            () = self.cut.grace_over.cancelled() => None,
        };
        drop(slot);
        match called {
            None => {
                self.count(false, Duration::ZERO, 0);
                Box::pin(self.hand_back()).await;
            }
            Some(Called { outcome: Ok(parked), took }) => {
                self.shared.metrics.called(&self.task, took, Ok(parked.size));
                self.count(true, took, parked.size);
                // Boxed, as what follows is larger than the call, of which thousands wait at once.
                Box::pin(self.resume(parked)).await;
            }
            Some(Called { outcome: Err(failure), took }) => {
                self.shared.metrics.called(&self.task, took, Err(failure.kind));
                self.count(false, took, 0);
                steps::failed(&mut self.span, &failure);
                Box::pin(self.after_failure(failure)).await;
            }
        }
    }

    /// Goes on with an adopted result: first its call is counted, if nobody has done so, because
    /// only the row can tell the next owner whether it was.
    pub(super) async fn go_on(mut self, parked: Parked) {
        if self.uncounted.is_some() && upload::mark_parked(&mut self, &parked, None).await == Applied::Stale {
            return debug!("somebody else owns the task now");
        }
        self.resume(parked).await;
    }

    /// Uploads a parked result and sees the task through.
    async fn resume(mut self, mut parked: Parked) {
        faults::pass(Point::AfterPark);
        match upload::upload(&mut self, &mut parked).await {
            Uploaded::Stored(stored) => self.finish(&parked, stored).await,
            Uploaded::FileGone(error) => {
                self.span.fail("result_gone", "the parked result is gone");
                warn!(error, "the parked result is gone, the model will be called again");
                let call = self.uncounted.take();
                self.end_with(lifecycle::result_gone(&self.task, error, call)).await;
                // A damaged file would be adopted again and again.
                self.discard(&parked).await;
            }
            Uploaded::GivenUp(error) => {
                self.span.fail("upload", "the result could not be stored for too long");
                warn!(error, "gave up uploading the result");
                let call = self.uncounted.take();
                if self.apply(lifecycle::upload_given_up(&self.task, error, call)).await == Applied::Done {
                    self.discard(&parked).await;
                }
            }
            Uploaded::GraceOver => self.hand_back().await,
            Uploaded::NotOurs => debug!("somebody else owns the task now"),
        }
    }

    /// Accounts for a call at the next transition.
    fn count(&mut self, success: bool, took: Duration, bytes: u64) {
        self.uncounted = Some(CallCount {
            day: clock::day(clock::now(), self.shared.stat_zone),
            creator: self.task.creator.clone(),
            model_name: self.task.model_name.clone(),
            success,
            seconds: took.as_secs_f64(),
            bytes,
        });
    }

    async fn after_failure(mut self, failure: Failure) {
        let call = self.uncounted.take();
        if failure.kind == FailureKind::Spool {
            self.shared.gauge.failed();
            warn!(error = failure.message, "the result is lost with this node's disk, not by fault of the model");
            return self
                .end_with(lifecycle::result_lost(&self.task, failure.message, self.shared.max_lost, call))
                .await;
        }
        let age = (clock::now() - self.task.created_at).to_std().unwrap_or_default();
        let slot = self.model.spec.retry_policy().next(&self.task, &failure, age, clock::dice());
        let transition = if let Some(slot) = slot {
            let delay_ms = slot.delay.as_millis() as u64;
            info!(delay_ms, error = failure.message, "the call failed, next try in {:?}", slot.delay);
            faults::pass(Point::BeforeRetry);
            self.shared.tracer.backoff(&self.task, slot.delay);
            lifecycle::retried(&self.task, &failure, slot, call)
        } else {
            info!(error = failure.message, "the call failed for good");
            lifecycle::failed(&self.task, failure.message, call)
        };
        self.end_with(transition).await;
    }

    async fn finish(mut self, parked: &Parked, stored: StoredFile) {
        faults::pass(Point::AfterUpload);
        let key = stored.oss_key.clone();
        let (file_type, file_size) = (stored.file_type.clone(), stored.file_size);
        let call = self.uncounted.take();
        match self.apply(lifecycle::succeeded(&self.task, stored, call)).await {
            Applied::Done => {
                faults::pass(Point::AfterFinish);
                info!(file_type, file_size, "succeeded");
            }
            // The object carries our attempt in its key, so nobody else's result is touched.
            Applied::Stale if self.cut.lease_lost.is_cancelled() => return,
            Applied::Stale => {
                if let Err(error) = self.shared.storage.delete(&key).await {
                    debug!(%error, "could not delete the object of a stale attempt");
                }
            }
        }
        self.discard(parked).await;
    }

    async fn hand_back(mut self) {
        faults::pass(Point::BeforeHandBack);
        info!("handed back to the queue, the service is stopping");
        let call = self.uncounted.take();
        self.end_with(lifecycle::handed_back(&self.task, call)).await;
    }

    async fn discard(&self, parked: &Parked) {
        if let Err(error) = self.shared.spool.remove(parked).await {
            warn!(%error, "could not delete a parked result that is not needed any more");
        }
    }

    /// Applies the last transition of this run: stale or not, there is nothing left to do.
    async fn end_with(&self, transition: Transition) {
        match self.apply(transition).await {
            Applied::Done | Applied::Stale => {}
        }
    }

    /// Applies a transition, however long the database is away, until the lease is lost: then
    /// the row is somebody else's and this counts as stale.
    pub(super) async fn apply(&self, transition: Transition) -> Applied {
        let mut span = self.shared.tracer.finish(&self.task, &transition);
        let mut failures = 0;
        loop {
            let applied = tokio::select! {
                applied = self.shared.store.apply(transition.clone()) => applied,
                () = self.cut.lease_lost.cancelled() => {
                    span.fail("lost", "the lease was lost before this was written");
                    return Applied::Stale;
                }
            };
            match applied {
                Ok(Applied::Done) => {
                    self.shared.metrics.moved(&self.task.model_name, &transition);
                    self.shared.left(self.task.lane);
                    if transition.rewinds_lane() {
                        self.shared.wake.send([WakeUp { lane: self.task.lane, rewind: true }]);
                    }
                    return Applied::Done;
                }
                Ok(Applied::Stale) => {
                    self.shared.metrics.stale();
                    span.fail("stale", "the task moved on while this attempt was running");
                    warn!("the task moved on while this attempt was running, its outcome is dropped");
                    return Applied::Stale;
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, "cannot write the outcome, trying again until the lease is lost");
                    }
                    let pause = clock::jittered(retry::backoff(failures).mul_f64(0.5));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.cut.lease_lost.cancelled() => {
                            span.fail("lost", "the lease was lost before this was written");
                            return Applied::Stale;
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Run {
    /// Whoever takes a lost attempt over tells of it, as the same span.
    fn drop(&mut self) {
        if self.cut.lease_lost.is_cancelled() {
            std::mem::take(&mut self.span).forget();
        }
    }
}

/// Uploads of this node that run at once: so many as the storage takes well.
pub(super) fn upload_gate(storage: &Storage) -> Semaphore {
    Semaphore::new(storage.most_at_once())
}
