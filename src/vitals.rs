//! Whether what the service depends on answers, asked every few seconds, so that the page of metrics
//! need not ask, and never waits.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    metrics::{Dependency, Metrics},
    permits::Permits,
    storage::Storage,
    store::Store,
    worker::Pulse,
};

/// Time between two rounds.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long a dependency may take to answer: as a probe has it.
const PATIENCE: Duration = Duration::from_secs(2);

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
