//! Tasks whose worker died or overran: back to the queue, or failed when that happened too often.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{BATCH, Cleaner, swept};
use crate::{
    clock,
    faults::{self, Point},
    periodic::Swept,
    stats::CallCount,
    store::StoreError,
    task::{
        Abandoned,
        lifecycle::{self, Applied, Phase, Transition},
    },
    wake::WakeUp,
};

/// When this cleaner may declare others dead. After an outage of the database everybody's lease
/// looks old; live nodes need time to renew it first.
#[derive(Clone)]
pub(super) struct Rescue {
    lease: Duration,
    /// A pause between two good rounds that is longer than this counts as an outage.
    outage: Duration,
    last_good: Instant,
    not_before: Instant,
}

impl Rescue {
    /// At its own start it cannot know whether the database was away just before: a third of a
    /// lease is twice the time between renewals. The embedded store has no other nodes.
    pub(super) fn new(lease: Duration, interval: Duration, embedded: bool) -> Rescue {
        let now = clock::tick();
        let not_before = if embedded { now } else { now + lease / 3 };
        Rescue { lease, outage: lease / 2 + interval, last_good: now, not_before }
    }

    /// One round.
    pub(super) async fn tick(&mut self, cleaner: &Cleaner) -> Result<Swept, StoreError> {
        cleaner.store.ping().await?;
        if !self.may_bury() {
            return Ok(Swept::All);
        }
        // An embedded store has no other nodes, and a jump of its clock must not bury this one.
        if !cleaner.store.is_embedded() {
            // Their rows first: a node that is only slow must not renew what is about to be taken.
            for node in cleaner.store.bury_dead_nodes().await? {
                warn!(node = %node, "a node let its lease run out; its tasks go back to the queue");
            }
        }
        let abandoned = cleaner.store.abandoned(BATCH).await?;
        let transitions: Vec<Transition> = abandoned
            .iter()
            .map(|task| lifecycle::lease_lost(task, cleaner.max_lost, lost_call(task, cleaner.stat_zone)))
            .collect();
        faults::pass_if(!abandoned.is_empty(), Point::DuringReaping);
        let applied = cleaner.store.apply_all(&transitions).await?;
        faults::pass_if(!abandoned.is_empty(), Point::AfterReaping);
        for ((task, transition), _) in
            abandoned.iter().zip(&transitions).zip(applied).filter(|(_, a)| *a == Applied::Done)
        {
            warn!(task_id = %task.key.id, tenant_id = %task.key.tenant, model_name = task.model_name,
                attempt = task.attempt.0, state = transition.to().number(), "an attempt was lost with its worker");
        }
        let rewound = transitions.iter().filter(|transition| transition.rewinds_lane());
        cleaner.wake.send(rewound.map(|transition| WakeUp { lane: transition.lane(), rewind: true }));
        Ok(swept(transitions.len()))
    }

    /// Whether it may; called once in each round that reaches the database.
    fn may_bury(&mut self) -> bool {
        let now = clock::tick();
        if now.duration_since(self.last_good) > self.outage {
            self.not_before = now + self.lease;
            info!("the database was away; nobody is declared dead for {:?}", self.lease);
        }
        self.last_good = now;
        now >= self.not_before
    }
}

/// The call of a lost attempt was made, but nobody saw its end.
fn lost_call(task: &Abandoned, zone: chrono_tz::Tz) -> Option<CallCount> {
    (task.phase == Phase::Model).then(|| CallCount {
        day: clock::day(clock::now(), zone),
        creator: task.creator.clone(),
        model_name: task.model_name.clone(),
        success: false,
        seconds: 0.0,
        bytes: 0,
    })
}
