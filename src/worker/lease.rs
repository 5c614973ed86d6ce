//! Keeping this incarnation's lease, and noticing when it is lost.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::{clock, store::Store, task::NodeId};

/// A lease is renewed this many times before it would run out.
const RENEWALS: u32 = 6;

/// What a node may believe of its own lease, by its own monotonic clock: it holds for the lease's
/// length less one renewal from the moment the last request that succeeded was sent. After that
/// others may take its tasks any moment.
#[derive(Debug, Clone, Copy)]
pub struct Belief {
    every: Duration,
    patience: Duration,
    renewed_at: Instant,
}

impl Belief {
    /// Of a lease that was taken at `now`.
    pub fn new(lease: Duration, now: Instant) -> Belief {
        let every = lease / RENEWALS;
        Belief { every, patience: lease - every, renewed_at: now }
    }

    /// A request that was sent at `asked_at` renewed it.
    pub fn renewed(&mut self, asked_at: Instant) {
        self.renewed_at = asked_at;
    }

    /// How long until the next request is due, or has to be answered; nothing where the lease
    /// counts as lost.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let left = self.patience.saturating_sub(now.saturating_duration_since(self.renewed_at));
        (!left.is_zero()).then_some(self.every.min(left))
    }
}

/// Renews the lease until it is lost, then returns why: the row is gone, so somebody declared us
/// dead; or [`Belief`] ran out. In both cases others may hold our tasks by now.
pub(super) async fn keep(store: &Store, node: NodeId, lease: Duration) -> &'static str {
    let mut belief = Belief::new(lease, clock::tick());
    let mut failing = false;
    loop {
        let Some(pause) = belief.next(clock::tick()) else { return OUT_OF_REACH };
        tokio::time::sleep(pause).await;
        let asked_at = clock::tick();
        let Some(wait) = belief.next(asked_at) else { return OUT_OF_REACH };
        match tokio::time::timeout(wait, store.renew_node(node, lease)).await {
            Ok(Ok(true)) => {
                belief.renewed(asked_at);
                if std::mem::take(&mut failing) {
                    info!(node = %node, "the lease of this node is being renewed again");
                }
            }
            Ok(Ok(false)) => return "this node was declared dead",
            Ok(Err(error)) if !failing => {
                failing = true;
                warn!(node = %node, %error, "cannot renew the lease of this node, trying again");
            }
            Err(_) if !failing => {
                failing = true;
                warn!(node = %node, "cannot renew the lease of this node in time, trying again");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

const OUT_OF_REACH: &str = "the database could not be reached for the length of the lease";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stops_believing_in_its_lease_one_renewal_before_it_runs_out() {
        let (lease, start) = (Duration::from_secs(30), clock::tick());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut belief = Belief::new(lease, start);
        assert_eq!(belief.next(at(0)), Some(Duration::from_secs(5)));
        assert_eq!(belief.next(at(24)), Some(Duration::from_secs(1)), "no request may take longer than it holds");
        assert_eq!(belief.next(at(25)), None);
        belief.renewed(at(20));
        assert_eq!(belief.next(at(44)), Some(Duration::from_secs(1)));
        assert_eq!(belief.next(at(45)), None);
    }
}
