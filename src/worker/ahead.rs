//! Permits asked for ahead: while a task is being committed, a dispatcher that has nothing else to do gets
//! what its claim will need, so that commit and permit are not waited for one after the other.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::{clock, permits::Permit, task::Lane};

/// Permits wanted for one task. The second one shows that no other task waits, and is given back: a claim
/// that gets all it asked for has to be followed by another.
pub(super) const WANT: usize = 2;

/// How long they are kept for a task that does not come: it was refused, or the database is slow.
const KEEP: Duration = Duration::from_millis(50);

/// Permits of the lane that a task is about to come to.
#[derive(Default)]
pub(super) struct Ahead {
    held: Option<Held>,
}

struct Held {
    lane: Lane,
    permits: Vec<Permit>,
    until: Instant,
}

impl Ahead {
    /// Keeps permits for the lane's next claim, in place of those kept before.
    pub(super) fn keep(&mut self, lane: Lane, permits: Vec<Permit>) {
        let until = clock::tick() + KEEP;
        self.held = (!permits.is_empty()).then_some(Held { lane, permits, until });
    }

    /// True if there are any.
    pub(super) fn any(&self) -> bool {
        self.held.is_some()
    }

    /// Those of a lane among `asked`, for a claim. Others are kept.
    pub(super) fn take(&mut self, asked: &[Lane]) -> Option<(Lane, Vec<Permit>)> {
        let held = self.held.take_if(|held| asked.contains(&held.lane))?;
        Some((held.lane, held.permits))
    }

    /// Gives them back.
    pub(super) fn give_back(&mut self) {
        self.held = None;
    }

    /// Waits until they have been kept for long enough; for ever where there are none.
    pub(super) async fn run_out(&self) {
        match &self.held {
            Some(held) => sleep_until(held.until.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        permits::{Ask, Permits},
        task::{ModelId, TenantId},
    };

    const HERE: Lane = Lane { model: ModelId(1), tenant: TenantId(1) };
    const ELSEWHERE: Lane = Lane { model: ModelId(2), tenant: TenantId(1) };

    async fn ahead(gate: &Permits) -> Ahead {
        let ask = Ask { lane: HERE, limit: 2, total: None, cap: None, want: 2 };
        let mut ahead = Ahead::default();
        ahead.keep(HERE, gate.try_acquire(&[ask]).await.remove(0));
        ahead
    }

    #[tokio::test]
    async fn they_are_for_their_lane_only() {
        let gate = Permits::open(None).unwrap();
        let mut ahead = ahead(&gate).await;
        assert!(ahead.take(&[ELSEWHERE]).is_none() && ahead.any());
        let (lane, permits) = ahead.take(&[ELSEWHERE, HERE]).unwrap();
        assert_eq!((lane, permits.len(), ahead.any()), (HERE, 2, false));
    }

    #[tokio::test]
    async fn they_go_back_when_the_task_does_not_come() {
        let gate = Permits::open(None).unwrap();
        let mut ahead = ahead(&gate).await;
        assert_eq!(gate.held(), 2);
        ahead.run_out().await;
        ahead.give_back();
        assert_eq!(gate.held(), 0);
    }

    #[tokio::test]
    async fn nothing_is_kept_where_nothing_was_granted() {
        let mut ahead = Ahead::default();
        ahead.keep(HERE, Vec::new());
        assert!(!ahead.any());
    }
}
