//! The watch: who may declare nodes dead, and how a node that lost the database learns whether they
//! lost it too.
//!
//! A worker whose lease cannot be renewed has to drop its calls before the lease runs out, because
//! others may run its tasks by then, unless it knows that nobody can take them. These rules give it
//! that knowledge while the database is down for everybody. `L` is the length of a lease.
//!
//! 1. Only a *watcher* buries nodes (every process that cleans is one), and only after it has kept
//!    its row in `asynch_watch` for `L` without a gap of `L/3`. The statement that buries checks this
//!    itself, on the database's clock. So nobody is declared dead for the database's own downtime:
//!    when it is back, everyone has a full lease to renew.
//! 2. A watcher says in Redis every `L/12`, good for `L/3`, whether it is *in touch* with the
//!    database or *cut off*, which it is when it did not reach it for `L/3`. Whoever said "cut off"
//!    starts its watch anew when it is back, even if the gap looks shorter to the database.
//! 3. A worker reads the list of watchers each time its lease is renewed. If it cannot renew, and
//!    every watcher of that list says "cut off" (and no stranger "in touch"), then nobody buries it
//!    before `L` after those words were said, which was at most `L/3` ago: it may go on for another
//!    `2/3 L`, and asks again meanwhile.
//!
//! A watcher that is silent may be one that reaches the database but not Redis, so silence counts as
//! "in touch": without Redis, or cut off from both, a worker drops its calls in time. What remains
//! is a process that starts after the worker lost the database, and reaches the database but not
//! Redis. It can have a task called a second time while the first call still runs; the fence keeps
//! the first one from writing, as always.

mod redis;
pub mod rules;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::rules::{CUT_OFF, Hold, RENEWALS, WORDS, Word};
use crate::{clock, config, store::Store, task::NodeId};

/// Where watchers speak and workers listen; cheap to clone.
#[derive(Clone)]
pub struct Board {
    redis: Option<redis::Board>,
}

/// The watch of this process.
pub struct Watch {
    store: Store,
    board: Board,
    watcher: NodeId,
    name: String,
    lease: Duration,
    hold: Mutex<Hold>,
}

impl Board {
    /// A board in Redis, or none.
    ///
    /// # Errors
    /// Where the Redis URL cannot be read.
    pub fn open(config: Option<&config::Redis>) -> Result<Board, String> {
        Ok(Board { redis: config.map(redis::Board::open).transpose()? })
    }

    /// How long from now nobody will be buried, going by what the watchers said: nothing where one
    /// of them is in touch with the database, or might be.
    pub async fn nobody_buries_for(&self, watchers: &[NodeId], lease: Duration) -> Option<Duration> {
        let heard = self.redis.as_ref()?.hear(watchers, lease / WORDS).await?;
        heard.nobody_buries_for(watchers, lease)
    }

    async fn say(&self, watcher: NodeId, word: Word, lease: Duration) {
        if let Some(redis) = &self.redis {
            redis.say(watcher, word, lease / CUT_OFF, lease / WORDS).await;
        }
    }
}

impl Watch {
    /// A watch that is still to be taken, by the process of that name.
    pub fn new(store: Store, board: Board, name: String, lease: Duration) -> Watch {
        let hold = Mutex::new(Hold::new(lease, clock::tick()));
        Watch { store, board, watcher: clock::node_id(), name, lease, hold }
    }

    /// Under which name it is held.
    pub fn watcher(&self) -> NodeId {
        self.watcher
    }

    /// How long it lasts without being renewed.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether its holder may look for the dead now. An embedded store has no other process: what
    /// has no lease there is dead for sure.
    pub fn may_bury(&self) -> bool {
        self.store.is_embedded() || self.held().may_bury(clock::tick())
    }

    /// Holds the watch until `stop`, and says how it goes.
    pub async fn run(&self, stop: &CancellationToken) {
        if self.store.is_embedded() {
            return stop.cancelled().await;
        }
        let holding = async { tokio::join!(self.hold(), self.speak()) };
        tokio::select! {
            _ = holding => {}
            () = stop.cancelled() => {}
        }
        if let Ok(Err(error)) = tokio::time::timeout(self.lease / RENEWALS, self.store.end_watch(self.watcher)).await {
            warn!(%error, "could not let the watch go, it will run out by itself");
        }
    }

    async fn hold(&self) {
        let every = self.lease / RENEWALS;
        loop {
            let asked = clock::tick();
            let cut_offs = self.held().cut_offs();
            let renewal = self.store.hold_watch(self.watcher, &self.name, self.lease, cut_offs > 0);
            if let Ok(Ok(may_bury)) = tokio::time::timeout(every, renewal).await {
                if cut_offs > 0 {
                    info!("the database is back; nobody is declared dead for {:?}", self.lease);
                }
                self.held().renewed(asked, may_bury, cut_offs);
            }
            tokio::time::sleep(every.saturating_sub(asked.elapsed())).await;
        }
    }

    async fn speak(&self) {
        loop {
            let spoke = clock::tick();
            let word = self.held().word(spoke);
            self.board.say(self.watcher, word, self.lease).await;
            tokio::time::sleep((self.lease / WORDS).saturating_sub(spoke.elapsed())).await;
        }
    }

    fn held(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
