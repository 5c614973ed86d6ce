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
use crate::{
    clock,
    store::Store,
    task::NodeId,
    watch::{Board, rules::RENEWALS},
};

/// How much sooner than usual a renewal is tried again that failed: where connections are cut one after
/// the other, each try but the last is spent on finding that out.
const HASTE: u32 = 4;

/// How often the watchers are asked in that time, while the lease cannot be renewed.
pub const QUESTIONS: u32 = 12;

/// What a lease is kept with.
pub(super) struct Keeper<'a> {
    pub(super) store: &'a Store,
    pub(super) board: &'a Board,
    pub(super) pulse: &'a Pulse,
    pub(super) node: NodeId,
    pub(super) lease: Duration,
}

/// How the lease stands, as its node knows. Public for `tests/sim` alone, which plays it through in
/// virtual time.
#[derive(Debug)]
pub struct Standing {
    lease: Duration,
    /// Nobody else runs our tasks before then.
    safe_until: Instant,
    failing: bool,
    /// Safe only by the watchers' word.
    borrowed: bool,
    /// Who watched at the last renewal; `None` where that could not be read.
    watchers: Option<Vec<NodeId>>,
}

impl Standing {
    /// Of a lease whose registration was sent at `registered`.
    pub fn new(lease: Duration, registered: Instant) -> Standing {
        Standing { lease, safe_until: registered + lease, failing: false, borrowed: false, watchers: None }
    }

    /// A renewal worked that was sent at `asked`; true where it is the first after failures.
    pub fn renewed(&mut self, asked: Instant) -> bool {
        self.safe_until = asked + self.lease;
        self.borrowed = false;
        std::mem::take(&mut self.failing)
    }

    /// A renewal failed; true where it is the first to fail.
    pub fn failed(&mut self) -> bool {
        !std::mem::replace(&mut self.failing, true)
    }

    /// How long after one renewal was sent the next one is.
    pub fn every(&self) -> Duration {
        let every = self.lease / RENEWALS;
        if self.failing { every / HASTE } else { every }
    }

    /// Who watched just after a renewal; `None` where that could not be read.
    pub fn watched_by(&mut self, watchers: Option<Vec<NodeId>>) {
        self.watchers = watchers;
    }

    /// How long running calls may go on, with the time between two renewals as a margin for a slow
    /// machine; zero = drop them.
    pub fn left(&self, now: Instant) -> Duration {
        self.safe_until.saturating_duration_since(now + self.lease / RENEWALS)
    }

    /// Whom to ask whether they are cut off too, if there is need.
    pub fn whom_to_ask(&self) -> Option<&[NodeId]> {
        self.watchers.as_deref().filter(|_| self.failing)
    }

    /// Those who were asked at `asked` bury nobody for `safe_for`; true where that is news.
    pub fn nobody_buries(&mut self, asked: Instant, safe_for: Duration) -> bool {
        if asked >= self.safe_until {
            // We were paused for too long: whoever is cut off now may have buried us before.
            return false;
        }
        self.safe_until = self.safe_until.max(asked + safe_for);
        !std::mem::replace(&mut self.borrowed, true)
    }
}

impl Keeper<'_> {
    /// Renews the lease, registered at `registered`, until it is lost, and returns why.
    pub(super) async fn keep(&self, registered: Instant) -> &'static str {
        let standing = Mutex::new(Standing::new(self.lease, registered));
        tokio::select! {
            () = self.renew(&standing) => "this node was declared dead",
            () = self.run_out(&standing) => "the database could not be reached, and others may be able to",
            () = self.ask_watchers(&standing) => "nobody is asked any more",
        }
    }

    /// Returns when the row is gone.
    async fn renew(&self, standing: &Mutex<Standing>) {
        let patience = self.lease / RENEWALS;
        loop {
            let asked = clock::tick();
            match tokio::time::timeout(patience, self.store.renew_node(self.node, self.lease)).await {
                Ok(Ok(true)) => {
                    self.pulse.renewed();
                    self.renewed(standing, asked);
                    let watchers = tokio::time::timeout(patience, self.store.watchers()).await;
                    lock(standing).watched_by(watchers.ok().and_then(Result::ok));
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => self.failed(standing, &error.to_string()),
                Err(_) => self.failed(standing, "no answer in time"),
            }
            let every = lock(standing).every();
            tokio::time::sleep(every.saturating_sub(asked.elapsed())).await;
        }
    }

    fn renewed(&self, standing: &Mutex<Standing>, asked: Instant) {
        if lock(standing).renewed(asked) {
            info!(node = %self.node, "the lease of this node is being renewed again");
        }
    }

    fn failed(&self, standing: &Mutex<Standing>, error: &str) {
        if lock(standing).failed() {
            warn!(node = %self.node, error, "cannot renew the lease of this node, trying again");
        }
    }

    /// Returns when the time is up in which nobody else runs our tasks. An embedded database has no
    /// other process that could.
    async fn run_out(&self, standing: &Mutex<Standing>) {
        if self.store.is_embedded() {
            return std::future::pending().await;
        }
        loop {
            let left = lock(standing).left(clock::tick());
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
            let watchers = lock(standing).whom_to_ask().map(<[NodeId]>::to_vec);
            let Some(watchers) = watchers else { continue };
            let asked = clock::tick();
            if let Some(safe_for) = self.board.nobody_buries_for(&watchers, self.lease).await
                && lock(standing).nobody_buries(asked, safe_for)
            {
                info!(node = %self.node, "the database is down for all nodes, running calls go on");
            }
        }
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_may_go_on_until_one_renewal_before_the_lease_ends_or_the_watchers_word() {
        let (lease, start) = (Duration::from_secs(30), clock::tick());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut standing = Standing::new(lease, start);
        assert_eq!(standing.left(at(24)), Duration::from_secs(1));
        assert!(!standing.renewed(at(5)) && standing.failed() && !standing.failed());
        assert_eq!(standing.left(at(29)), Duration::from_secs(1));
        assert!(standing.every() < Duration::from_secs(2), "one that failed is tried again soon");
        let word = Duration::from_secs(20);
        assert!(standing.nobody_buries(at(20), word) && !standing.nobody_buries(at(22), word));
        assert_eq!(standing.left(at(36)), Duration::from_secs(1));
        assert!(!standing.nobody_buries(at(42), word), "paused until it was too late");
        assert_eq!(standing.left(at(42)), Duration::ZERO);
        assert!(standing.renewed(at(42)));
        assert_eq!(standing.every(), Duration::from_secs(5));
    }

    #[test]
    fn watchers_are_asked_only_while_the_lease_cannot_be_renewed() {
        let mut standing = Standing::new(Duration::from_secs(30), clock::tick());
        let watcher = clock::node_id();
        standing.watched_by(Some(vec![watcher]));
        assert_eq!(standing.whom_to_ask(), None);
        standing.failed();
        assert_eq!(standing.whom_to_ask(), Some(&[watcher][..]));
        standing.watched_by(None);
        assert_eq!(standing.whom_to_ask(), None);
    }
}
