//! Tasks whose worker died or overran: back to the queue, or failed when that happened too often.

use tracing::warn;

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
        trace::trace_id,
    },
    wake::WakeUp,
};

/// One round. Only under a watch that was held long enough: after an outage of the database
/// everybody's lease looks old, and live nodes need time to renew it first.
pub(super) async fn tick(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    if !cleaner.watch.may_bury() {
        return Ok(Swept::All);
    }
    // An embedded store has no other nodes, and a jump of its clock must not bury this one.
    if !cleaner.store.is_embedded() {
        // Their rows first: a node that is only slow must not renew what is about to be taken.
        for node in cleaner.store.bury_dead_nodes(cleaner.watch.watcher(), cleaner.watch.lease()).await? {
            warn!(node = %node, "a node let its lease run out; its tasks go back to the queue");
        }
    }
    let abandoned = cleaner.store.abandoned(BATCH).await?;
    let transitions: Vec<Transition> = abandoned
        .iter()
        .map(|task| lifecycle::lease_lost(task, cleaner.max_lost, lost_call(task, cleaner.stat_zone)))
        .collect();
    faults::pass_if(!abandoned.is_empty(), Point::DuringReaping);
    let model_names = abandoned.iter().map(|task| task.model_name.as_str());
    let applied = cleaner.apply(&transitions, model_names).await?;
    faults::pass_if(!abandoned.is_empty(), Point::AfterReaping);
    for ((task, transition), _) in abandoned.iter().zip(&transitions).zip(applied).filter(|(_, a)| *a == Applied::Done)
    {
        cleaner.tracer.lost(task);
        warn!(task_id = %task.key.id, tenant_id = %task.key.tenant, model_name = task.model_name,
            attempt = task.attempt.0, trace_id = trace_id(&task.traceparent), state = transition.to().number(), "an attempt was lost with its worker");
    }
    let rewound = transitions.iter().filter(|transition| transition.rewinds_lane());
    cleaner.wake.send(rewound.map(|transition| WakeUp { lane: transition.lane(), rewind: true }));
    Ok(swept(transitions.len()))
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
