//! Permits asked for ahead: while a task is being committed, a dispatcher that has nothing else to do gets
//! what its claim will need, so that commit and permit are not waited for one after the other.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::{clock, permits::Permit, task::Lane};

/// Permits wanted for one task. The second one shows that no other task waits, and is given back: a claim
/// that gets all it asked for has to be followed by another.
pub(super) const WANT: usize = 2;

/// How long getting them may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long they are kept for a task that does not come: it was refused, or the database is slow.
const KEEP: Duration = Duration::from_millis(50);

/// How long nothing is asked for a lane whose task did not come. Somebody who is refused again and again
/// would keep its permits from other nodes.
const REST: Duration = Duration::from_secs(1);

/// Permits of the lane that a task is about to come to.
#[derive(Default)]
pub(super) struct Ahead {
    held: Option<Held>,
    /// The lane whose task did not come, and until when that counts.
    in_vain: Option<(Lane, Instant)>,
}

struct Held {
    lane: Lane,
    permits: Vec<Permit>,
    until: Instant,
}

impl Ahead {
    /// False of a lane whose task did not come a moment ago.
    pub(super) fn is_promising(&self, lane: Lane) -> bool {
        self.in_vain.is_none_or(|(other, until)| other != lane || until <= clock::tick())
    }

    /// Keeps permits for the lane's next claim.
    pub(super) fn keep(&mut self, lane: Lane, permits: Vec<Permit>) {
        let until = clock::tick() + KEEP;
        self.held = (!permits.is_empty()).then_some(Held { lane, permits, until });
    }

    /// True if there are any.
    pub(super) fn any(&self) -> bool {
        self.held.is_some()
    }

    /// Those of a lane among `asked`, for a claim. Others go back.
    pub(super) fn take(&mut self, asked: &[Lane]) -> Option<(Lane, Vec<Permit>)> {
        let held = self.held.take()?;
        asked.contains(&held.lane).then_some((held.lane, held.permits))
    }

    /// Gives them back, as no task came; says which lane has room.
    pub(super) fn give_up(&mut self) -> Option<Lane> {
        let lane = self.held.take()?.lane;
        self.in_vain = Some((lane, clock::tick() + REST));
        Some(lane)
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
        let (lane, permits) = ahead(&gate).await.take(&[ELSEWHERE, HERE]).unwrap();
        assert_eq!((lane, permits.len(), gate.held()), (HERE, 2, 2));
        drop(permits);
        assert!(ahead(&gate).await.take(&[ELSEWHERE]).is_none());
        assert_eq!(gate.held(), 0);
    }

    #[tokio::test]
    async fn they_go_back_when_the_task_does_not_come() {
        let gate = Permits::open(None).unwrap();
        let mut ahead = ahead(&gate).await;
        assert_eq!(gate.held(), 2);
        ahead.run_out().await;
        assert_eq!((ahead.give_up(), gate.held()), (Some(HERE), 0));
        assert!(ahead.is_promising(ELSEWHERE) && !ahead.is_promising(HERE));
    }

    #[tokio::test]
    async fn nothing_is_kept_where_nothing_was_granted() {
        let mut ahead = Ahead::default();
        ahead.keep(HERE, Vec::new());
        assert!(!ahead.any());
    }
}
