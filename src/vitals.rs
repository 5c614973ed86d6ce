//! Whether what the service depends on answers, asked every few seconds, and a census for whoever reads
//! the metrics: so that a page of metrics never waits for a dependency.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    census::CensusTaker,
    clock,
    metrics::{Dependency, Metrics},
    permits::Permits,
    storage::Storage,
    store::{Store, census::Census},
    worker::Pulse,
};

/// Time between two rounds.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long a dependency may take to answer: as a probe has it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a reader waits for numbers of this moment before it gets the latest there are.
const WAIT: Duration = Duration::from_millis(150);

/// What is asked for signs of life.
pub struct Vitals {
    /// The durable memory.
    pub store: Store,
    /// The gate.
    pub permits: Permits,
    /// Where results are stored.
    pub storage: Storage,
    /// Whether this node's worker is deaf; `None` where it has none.
    pub pulse: Option<Pulse>,
    /// Where the answers are shown.
    pub metrics: Metrics,
}

/// The latest census, for readers; cheap to clone.
#[derive(Clone)]
pub struct Latest {
    wanted: Arc<Notify>,
    census: watch::Receiver<Option<Arc<Census>>>,
}

/// Takes a census when a reader wants one.
pub struct Counting {
    taker: CensusTaker,
    wanted: Arc<Notify>,
    census: watch::Sender<Option<Arc<Census>>>,
}

impl Vitals {
    /// Asks until `stop`, beginning at once.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ask() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    async fn ask(&self) {
        tokio::join!(
            self.ask_one(Dependency::Database, self.store.ping()),
            self.ask_one(Dependency::Redis, self.permits.ping()),
            self.ask_one(Dependency::Storage, self.storage.ping()),
        );
        if let Some(pulse) = &self.pulse {
            self.metrics.asked(Dependency::Worker, Duration::ZERO, pulse.deaf().is_none());
        }
    }

    async fn ask_one<E>(&self, dependency: Dependency, ping: impl Future<Output = Result<(), E>>) {
        let began = clock::tick();
        let answers = matches!(tokio::time::timeout(PATIENCE, ping).await, Ok(Ok(())));
        self.metrics.asked(dependency, began.elapsed(), answers);
    }
}

/// Both ends.
pub fn counting(taker: CensusTaker) -> (Counting, Latest) {
    let wanted = Arc::new(Notify::new());
    let (sender, receiver) = watch::channel(None);
    (Counting { taker, wanted: wanted.clone(), census: sender }, Latest { wanted, census: receiver })
}

impl Latest {
    /// The numbers of this moment if they can be had in no time, else the latest that were had.
    pub async fn look(&self) -> Option<Arc<Census>> {
        let mut census = self.census.clone();
        census.mark_unchanged();
        self.wanted.notify_one();
        // The sender lives as long as the service.
        tokio::time::timeout(WAIT, census.changed()).await.ok();
        census.borrow().clone()
    }
}

impl Counting {
    /// Counts whenever somebody wants it, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
            }
            let counted = tokio::select! {
                () = stop.cancelled() => return,
                counted = self.taker.look() => counted,
            };
            match counted {
                Ok(census) => {
                    failed = false;
                    self.census.send_replace(Some(census));
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        warn!(%error, "cannot count the queues for the metrics, trying again when asked");
                    }
                    // Numbers of before an outage would pass for those of now.
                    self.census.send_replace(None);
                }
            }
        }
    }
}
