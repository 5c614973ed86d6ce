//! Permits asked for ahead: while a task is being committed, a dispatcher that has nothing else to do gets
//! what its claim will need, so that commit and permit are not waited for one after the other.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::{sleep_until, timeout};

use super::{Life, Worker};
use crate::{
    clock,
    permits::{Ask, Permit},
    task::Lane,
};

/// Permits wanted for one task. The second one shows that no other task waits, and is given back: a claim
/// that gets all it asked for has to be followed by another.
const WANT: usize = 2;

/// How long getting them may take.
const PATIENCE: Duration = Duration::from_secs(1);

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

impl Worker {
    /// Gets permits, and the database, ready for a task that is still being committed. Not in a lane that has
    /// work or waits for room: what it needs is asked for with its claim. Nor where others would find the
    /// limit reached that they share with it.
    pub(super) async fn reach_ahead(&self, life: &mut Life, lane: Lane) {
        let free = self.free(life).min(WANT);
        if free == 0 || life.lanes.is_known(lane) || !life.ahead.is_promising(lane) {
            return;
        }
        let reach = async {
            let models = self.catalog.by_id(&[lane.model]).await.ok()?;
            let ask = life.lanes.asks(&[lane], free, &models, |tenant| self.tenants.cap(tenant)).pop()?;
            if ask.shares() {
                return None;
            }
            let asks = [ask];
            let (mut granted, ready) =
                tokio::join!(self.permits.try_acquire(&asks), self.shared.store.get_ready_to_claim(life.node));
            ready.ok().and(granted.pop())
        };
        // What fails here, or takes long, will do so again where it matters, and be told.
        if let Ok(Some(granted)) = timeout(PATIENCE, reach).await {
            life.ahead.keep(lane, granted);
        }
    }

    /// What is granted to each lane: what was reached for ahead, or what the gate gives now.
    pub(super) async fn permits_for(&self, life: &mut Life, asks: &[Ask]) -> HashMap<Lane, Vec<Permit>> {
        let lanes: Vec<Lane> = asks.iter().map(|ask| ask.lane).collect();
        let mut permits: HashMap<Lane, Vec<Permit>> = life.ahead.take(&lanes).into_iter().collect();
        let asks: Vec<Ask> = asks.iter().filter(|ask| !permits.contains_key(&ask.lane)).copied().collect();
        let granted = self.permits.try_acquire(&asks).await;
        permits.extend(asks.into_iter().map(|ask| ask.lane).zip(granted));
        permits
    }
}

impl Ahead {
    /// False of a lane whose task did not come a moment ago.
    fn is_promising(&self, lane: Lane) -> bool {
        self.in_vain.is_none_or(|(other, until)| other != lane || until <= clock::tick())
    }

    /// Keeps permits for the lane's next claim.
    fn keep(&mut self, lane: Lane, permits: Vec<Permit>) {
        let until = clock::tick() + KEEP;
        self.held = (!permits.is_empty()).then_some(Held { lane, permits, until });
    }

    /// True if there are any.
    pub(super) fn any(&self) -> bool {
        self.held.is_some()
    }

    /// Those of a lane among `asked`, for a claim. Others go back.
    fn take(&mut self, asked: &[Lane]) -> Option<(Lane, Vec<Permit>)> {
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
