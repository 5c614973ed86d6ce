//! Turns: a periodic duty that one node does at a time.
//!
//! Whoever takes the turn holds it for [`HOLD`] on the database's clock and renews it while it works.
//! A node that dies lets it run out, and another takes it. There are no locks and no sessions behind
//! it, so connections may come and go.
//!
//! ```ignore
//! let Some(turn) = Turn::take(&store, "monitor").await? else { return Ok(()) };
//! match turn.during(check_rules()).await {
//!     Held::Throughout(outcome) => outcome,
//!     Held::Lost => warn!("another node may be checking by now"),
//! }
//! ```
//!
//! A turn keeps two nodes from working at once as far as clocks and networks allow. What must not
//! happen twice under any circumstances has to be guarded where it is written, as everywhere.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::{
    clock,
    store::{Store, StoreError},
    task::NodeId,
};

/// How long a turn is held without being renewed: how long a duty waits after the node that does it
/// has died.
pub const HOLD: Duration = Duration::from_secs(30);

/// A turn is renewed so often within the time that it is held for.
const RENEWALS: u32 = 3;

/// A turn that was taken. Give it back when done; one that is dropped runs out by itself.
#[must_use = "a turn that is not given back keeps others waiting until it runs out"]
pub struct Turn {
    store: Store,
    duty: String,
    holder: NodeId,
    hold: Duration,
    taken: Instant,
}

/// What became of a turn while its holder worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Held<T> {
    /// It was held until the work was done.
    Throughout(T),
    /// It could not be kept, so the work was dropped where it was.
    Lost,
}

impl Turn {
    /// Takes the turn at a duty for [`HOLD`]; `None` where another has it, in this process or not.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn take(store: &Store, duty: &str) -> Result<Option<Turn>, StoreError> {
        Turn::take_for(store, duty, HOLD).await
    }

    /// The same for a hold of one's own.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn take_for(store: &Store, duty: &str, hold: Duration) -> Result<Option<Turn>, StoreError> {
        let (holder, taken) = (clock::node_id(), clock::tick());
        let is_ours = store.take_turn(duty, holder, hold).await?;
        Ok(is_ours.then(|| Turn { store: store.clone(), duty: duty.to_owned(), holder, hold, taken }))
    }

    /// Under which name it is held; no two turns share one.
    pub fn holder(&self) -> NodeId {
        self.holder
    }

    /// Works while the turn is held, and renews it meanwhile. The work is dropped when the turn is
    /// lost: taken by another, or not renewed for so long that it might be.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Held<T> {
        tokio::select! {
            outcome = work => Held::Throughout(outcome),
            () = self.kept() => Held::Lost,
        }
    }

    /// Lets others take it at once.
    pub async fn give_back(self) {
        if let Err(error) = self.store.give_turn_back(&self.duty, self.holder).await {
            warn!(duty = self.duty, %error, "could not give the turn back, it will run out by itself");
        }
    }

    /// Renews it for as long as that works.
    async fn kept(&mut self) {
        loop {
            tokio::time::sleep((self.hold / RENEWALS).saturating_sub(self.taken.elapsed())).await;
            let patience = (self.hold * 5 / 6).saturating_sub(self.taken.elapsed());
            match tokio::time::timeout(patience, self.renewed()).await {
                Ok(Some(taken)) => self.taken = taken,
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Asks until the database answers: since when it is held anew, or `None` where it is not.
    async fn renewed(&self) -> Option<Instant> {
        let patience = self.hold / RENEWALS / 2;
        loop {
            let asked = clock::tick();
            let renewal = self.store.keep_turn(&self.duty, self.holder, self.hold);
            match tokio::time::timeout(patience, renewal).await {
                Ok(Ok(kept)) => return kept.then_some(asked),
                Ok(Err(_)) | Err(_) => tokio::time::sleep(patience / 2).await,
            }
        }
    }
}
