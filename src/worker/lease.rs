//! Keeping this incarnation's lease, and noticing when it is lost.
//!
//! A lease runs until its length after the last renewal that worked, counted from before that
//! renewal was sent: on the database's clock it cannot end earlier. While the database is down for
//! everybody nobody can take our tasks, and [`crate::watch`] says for how long; then running calls
//! go on past that moment. Before what is left runs out, with a margin for a slow machine, the worker
//! has to drop its calls: others may run the same tasks from then on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::pulse::Pulse;
use crate::{clock, store::Store, task::NodeId, watch::Board};

/// A lease is renewed this many times before it would run out; the last of these spans is the
/// margin.
const RENEWALS: u32 = 6;

/// How often the watchers are asked in that time, while the lease cannot be renewed.
const QUESTIONS: u32 = 12;

/// What a lease is kept with.
pub(super) struct Keeper<'a> {
    pub(super) store: &'a Store,
    pub(super) board: &'a Board,
    pub(super) pulse: &'a Pulse,
    pub(super) node: NodeId,
    pub(super) lease: Duration,
}

/// How the lease stands.
struct Standing {
    /// Nobody else runs our tasks before then.
    safe_until: Instant,
    failing: bool,
    /// Safe only by the watchers' word.
    borrowed: bool,
    /// Who watched at the last renewal; `None` where that could not be read.
    watchers: Option<Vec<NodeId>>,
}

impl Keeper<'_> {
    /// Renews the lease, registered at `registered`, until it is lost, and returns why.
    pub(super) async fn keep(&self, registered: Instant) -> &'static str {
        let standing = Mutex::new(Standing {
            safe_until: registered + self.lease,
            failing: false,
            borrowed: false,
            watchers: None,
        });
        tokio::select! {
            () = self.renew(&standing) => "this node was declared dead",
            () = self.run_out(&standing) => "the database could not be reached, and others may be able to",
            () = self.ask_watchers(&standing) => "nobody is asked any more",
        }
    }

    /// Returns when the row is gone.
    async fn renew(&self, standing: &Mutex<Standing>) {
        let every = self.lease / RENEWALS;
        loop {
            let asked = clock::tick();
            match tokio::time::timeout(every, self.store.renew_node(self.node, self.lease)).await {
                Ok(Ok(true)) => {
                    self.pulse.renewed();
                    self.renewed(standing, asked);
                    let watchers = tokio::time::timeout(every, self.store.watchers()).await;
                    lock(standing).watchers = watchers.ok().and_then(Result::ok);
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => self.failed(standing, &error.to_string()),
                Err(_) => self.failed(standing, "no answer in time"),
            }
            tokio::time::sleep(every.saturating_sub(asked.elapsed())).await;
        }
    }

    fn renewed(&self, standing: &Mutex<Standing>, asked: Instant) {
        let mut standing = lock(standing);
        standing.safe_until = asked + self.lease;
        standing.borrowed = false;
        if std::mem::take(&mut standing.failing) {
            info!(node = %self.node, "the lease of this node is being renewed again");
        }
    }

    fn failed(&self, standing: &Mutex<Standing>, error: &str) {
        if !std::mem::replace(&mut lock(standing).failing, true) {
            warn!(node = %self.node, error, "cannot renew the lease of this node, trying again");
        }
    }

    /// Returns when the time is up in which nobody else runs our tasks. An embedded database has no
    /// other process that could.
    async fn run_out(&self, standing: &Mutex<Standing>) {
        if self.store.is_embedded() {
            return std::future::pending().await;
        }
        let margin = self.lease / RENEWALS;
        loop {
            let left = lock(standing).safe_until.saturating_duration_since(clock::tick() + margin);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Asks those who could declare us dead whether they are cut off too. Never returns.
    async fn ask_watchers(&self, standing: &Mutex<Standing>) {
        let every = self.lease / QUESTIONS;
        loop {
            tokio::time::sleep(every).await;
            let watchers = {
                let standing = lock(standing);
                standing.failing.then(|| standing.watchers.clone()).flatten()
            };
            let Some(watchers) = watchers else { continue };
            let asked = clock::tick();
            if let Some(safe_for) = self.board.nobody_buries_for(&watchers, self.lease).await {
                let mut standing = lock(standing);
                if asked >= standing.safe_until {
                    // We were paused for too long: whoever is cut off now may have buried us before.
                    continue;
                }
                standing.safe_until = standing.safe_until.max(asked + safe_for);
                if !std::mem::replace(&mut standing.borrowed, true) {
                    info!(node = %self.node, "the database is down for all nodes, running calls go on");
                }
            }
        }
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}
