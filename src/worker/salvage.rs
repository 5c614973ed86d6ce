//! Looking for parked results that nobody works on: those of an incarnation before this one, and
//! those that dead processes left. Reading them can take long, so it goes on beside the dispatcher,
//! which only gets what was adopted, and polled by itself: the two may wait for the same connection.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Live, LiveSet, SCAN, Shared};
use crate::{
    clock,
    faults::{self, Point},
    spool::Parked,
    store::tasks::Adopted,
    task::NodeId,
};

/// Adopted results that may wait for the dispatcher.
const WAITING: usize = 16;

/// What the dispatcher is told.
pub(super) enum Salvaged {
    /// A result to go on with.
    Found(Box<Found>),
    /// Everything has been looked at once.
    Looked,
}

/// A result whose task is this node's now.
pub(super) struct Found {
    pub(super) adopted: Adopted,
    pub(super) parked: Parked,
    /// On the list of what this node works on since before it was adopted.
    pub(super) live: Live,
}

/// What is looked for, and for whom.
pub(super) struct Salvage<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: NodeId,
    pub(super) live: LiveSet,
    pub(super) found: mpsc::Sender<Salvaged>,
    pub(super) stop: &'a CancellationToken,
}

/// The channel to the dispatcher.
pub(super) fn channel() -> (mpsc::Sender<Salvaged>, mpsc::Receiver<Salvaged>) {
    mpsc::channel(WAITING)
}

impl Salvage<'_> {
    /// Looks now and then until the node stops; never returns.
    pub(super) async fn run(self) {
        self.look().await;
        self.found.send(Salvaged::Looked).await.ok();
        while !self.stop.is_cancelled() {
            tokio::time::sleep(clock::jittered(SCAN)).await;
            self.look().await;
        }
        std::future::pending().await
    }

    async fn look(&self) {
        for found in [self.shared.spool.own().await, self.shared.spool.take_over().await] {
            match found {
                Ok(results) => {
                    // A node that stops takes nothing more on; its successor finds the rest.
                    for parked in results.into_iter().take_while(|_| !self.stop.is_cancelled()) {
                        self.adopt(parked).await;
                    }
                }
                Err(error) => warn!(%error, "cannot look for parked results, trying again"),
            }
        }
    }

    /// Goes on with a result whose task nobody has taken since, and deletes any other.
    async fn adopt(&self, parked: Parked) {
        let Some(live) = Live::begin(&self.live, (parked.key, parked.attempt)) else { return };
        let tmp_file = parked.path.to_string_lossy().into_owned();
        match self.shared.store.adopt(self.node, parked.key, parked.attempt, &tmp_file).await {
            // A dispatcher that is gone lets the row go with its lease.
            Ok(Some(adopted)) => {
                faults::pass(Point::AfterAdoption);
                let found = Salvaged::Found(Box::new(Found { adopted, parked, live }));
                self.found.send(found).await.ok();
            }
            Ok(None) => {
                if let Err(error) = self.shared.spool.remove(&parked).await {
                    warn!(task_id = %parked.key.id, tenant_id = %parked.key.tenant, attempt = parked.attempt.0,
                        %error, "could not delete a parked result that nobody needs");
                }
            }
            // It stays in the spool; the next look finds it.
            Err(error) => {
                warn!(task_id = %parked.key.id, tenant_id = %parked.key.tenant, attempt = parked.attempt.0,
                    %error, "cannot adopt a parked result now");
            }
        }
    }
}
