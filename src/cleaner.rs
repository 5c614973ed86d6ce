//! The cleaner: every so often, on every node, safely at once. Each duty takes a bounded batch of
//! candidates, asks the lifecycle what becomes of them, and applies that under the usual guard, so
//! two cleaners that see the same row do no harm.

mod expire;
pub(crate) mod purge;
mod requeue;
mod rescue;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    periodic::{Pace, Swept},
    storage::Storage,
    store::{Store, StoreError},
    wake::Wake,
    watch::Watch,
};

/// Most rows that a duty takes at once: a batch holds its locks for some milliseconds.
const BATCH: u32 = 500;

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
}

impl Cleaner {
    /// Builds it; nothing runs yet.
    pub fn new(store: Store, storage: Storage, wake: Wake, watch: Watch, config: &Config) -> Cleaner {
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
        }
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
        while pace.wait(stop).await {
            pace.ticked(self.tidy_once().await);
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
