//! The cleaner: every so often, on every node, safely at once. Each duty takes a bounded batch of
//! candidates, asks the lifecycle what becomes of them, and applies that under the usual guard, so
//! two cleaners that see the same row do no harm.

mod expire;
pub(crate) mod purge;
mod requeue;
mod rescue;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::Config,
    metrics::Metrics,
    periodic::{Pace, Swept},
    recorder,
    storage::Storage,
    store::{Store, StoreError},
    task::lifecycle::{Applied, Transition},
    trace::Tracer,
    wake::Wake,
    watch::Watch,
};

/// Most rows that a duty takes at once: a batch holds its locks for some milliseconds.
const BATCH: u32 = 500;

/// How often old points of the series are deleted.
const SERIES_EVERY: Duration = Duration::from_secs(3600);

/// The parts that a cleaner is made of.
pub struct Parts {
    /// The durable memory.
    pub store: Store,
    /// Where results are stored.
    pub storage: Storage,
    /// Who tells workers of what came back to the queue.
    pub wake: Wake,
    /// Who may declare nodes dead.
    pub watch: Watch,
    /// What is counted.
    pub metrics: Metrics,
    /// What is recorded of it all.
    pub tracer: Tracer,
}

/// The cleaner of this process.
pub struct Cleaner {
    store: Store,
    storage: Storage,
    wake: Wake,
    interval: Duration,
    unclaimed: Duration,
    queue_timeout: Option<Duration>,
    max_lost: i32,
    delete_on_purge: bool,
    stat_zone: chrono_tz::Tz,
    watch: Watch,
    metrics: Metrics,
    tracer: Tracer,
}

impl Cleaner {
    /// Builds it; nothing runs yet.
    pub fn new(parts: Parts, config: &Config) -> Cleaner {
        let Parts { store, storage, wake, watch, metrics, tracer } = parts;
        Cleaner {
            store,
            storage,
            wake,
            interval: config.cleaner.interval,
            unclaimed: config.cleaner.unclaimed,
            queue_timeout: config.worker.queue_timeout,
            max_lost: config.worker.max_lost_attempts,
            delete_on_purge: config.oss.delete_on_purge,
            stat_zone: config.stat_zone,
            watch,
            metrics,
            tracer,
        }
    }

    /// Applies what a duty decided, counts it, and says what became of each.
    async fn apply<'m>(
        &self,
        transitions: &[Transition],
        model_names: impl Iterator<Item = &'m str>,
    ) -> Result<Vec<Applied>, StoreError> {
        let applied = self.store.apply_all(transitions).await?;
        for ((transition, model_name), applied) in transitions.iter().zip(model_names).zip(&applied) {
            match applied {
                Applied::Done => self.metrics.moved(model_name, transition),
                Applied::Stale => self.metrics.stale(),
            }
        }
        Ok(applied)
    }

    /// Cleans until `stop`. Retries and rescues have a pace of their own, so that neither a duty
    /// that fails or takes long nor its back-off keeps a task waiting.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.watch.run(&stop), self.requeue(&stop), self.rescue(&stop), self.tidy(&stop));
    }

    async fn requeue(&self, stop: &CancellationToken) {
        let mut pace = Pace::new("requeueing", self.interval);
        while pace.wait(stop).await {
            pace.ticked(requeue::tick(self).await);
        }
    }

    async fn rescue(&self, stop: &CancellationToken) {
        let mut pace = Pace::new("rescuing", self.interval);
        while pace.wait(stop).await {
            pace.ticked(rescue::tick(self).await);
        }
    }

    async fn tidy(&self, stop: &CancellationToken) {
        let mut pace = Pace::new("tidying", self.interval);
        let mut series_purged: Option<Instant> = None;
        while pace.wait(stop).await {
            let mut swept = self.tidy_once().await;
            if series_purged.is_none_or(|at| at.elapsed() > SERIES_EVERY) {
                match recorder::purge(&self.store, BATCH).await {
                    Ok(Swept::All) => series_purged = Some(clock::tick()),
                    Ok(Swept::More) => swept = swept.map(|_| Swept::More),
                    Err(error) => swept = Err(error),
                }
            }
            pace.ticked(swept);
        }
    }

    /// One that fails does not keep the others from their work; the first error is returned.
    async fn tidy_once(&self) -> Result<Swept, StoreError> {
        let rounds = [expire::queued_too_long(self).await, expire::model_deleted(self).await, purge::tick(self).await];
        let mut swept = Swept::All;
        for round in rounds {
            if round? == Swept::More {
                swept = Swept::More;
            }
        }
        Ok(swept)
    }
}

/// Whether a batch of that size was full.
fn swept(rows: usize) -> Swept {
    if rows >= BATCH as usize { Swept::More } else { Swept::All }
}
