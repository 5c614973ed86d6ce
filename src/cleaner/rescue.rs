//! Tasks whose worker died or overran: back to the queue, or failed when that happened too often.

use std::time::Duration;

use tracing::{info, warn};

use super::{
    BATCH, Cleaner,
    patience::{Patience, Verdict},
    swept,
};
use crate::{
    clock,
    periodic::Swept,
    stats::CallCount,
    store::StoreError,
    task::{
        Abandoned,
        lifecycle::{self, Applied, Phase, Transition},
    },
    wake::WakeUp,
};

/// The duty of this cleaner.
#[derive(Clone)]
pub(super) struct Rescue {
    patience: Patience,
}

impl Rescue {
    pub(super) fn new(lease: Duration, interval: Duration, embedded: bool) -> Rescue {
        Rescue { patience: Patience::new(lease, interval, embedded, clock::tick()) }
    }

    /// One round.
    pub(super) async fn tick(&mut self, cleaner: &Cleaner) -> Result<Swept, StoreError> {
        cleaner.store.ping().await?;
        match self.patience.reached(clock::tick()) {
            Verdict::Bury => {}
            Verdict::Wait => return Ok(Swept::All),
            Verdict::WasAway => {
                info!("the database was away; nobody is declared dead before everybody could renew its lease");
                return Ok(Swept::All);
            }
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
        let applied = cleaner.store.apply_all(&transitions).await?;
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
