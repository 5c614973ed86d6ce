//! Queued tasks that will never run fail: they waited too long, or their model was deleted.

use tracing::info;

use super::{BATCH, Cleaner, swept};
use crate::{
    periodic::Swept,
    store::StoreError,
    task::{
        Waiting,
        lifecycle::{self, Transition},
        trace::trace_id,
    },
};

pub(super) async fn queued_too_long(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    let Some(timeout) = cleaner.queue_timeout else { return Ok(Swept::All) };
    let waiting = cleaner.store.queued_longer_than(timeout, BATCH).await?;
    fail(cleaner, &waiting, |_| format!("waited in the queue for longer than {} s", timeout.as_secs_f64())).await
}

pub(super) async fn model_deleted(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    let waiting = cleaner.store.queued_for_deleted_models(BATCH).await?;
    if waiting.is_empty() {
        cleaner.store.drop_closed_lanes(BATCH).await?;
        return Ok(Swept::All);
    }
    let message = |task: &Waiting| format!("the model {} was deleted while the task was queued", task.model_name);
    fail(cleaner, &waiting, message).await
}

async fn fail(
    cleaner: &Cleaner,
    waiting: &[Waiting],
    message: impl Fn(&Waiting) -> String,
) -> Result<Swept, StoreError> {
    let transitions: Vec<Transition> =
        waiting.iter().map(|task| lifecycle::dropped_from_queue(task, message(task))).collect();
    // Whoever was claimed or moved meanwhile is stale and simply goes on.
    let model_names = waiting.iter().map(|task| task.model_name.as_str());
    let applied = cleaner.apply(&transitions, model_names).await?;
    for (task, _) in waiting.iter().zip(applied).filter(|(_, applied)| *applied == lifecycle::Applied::Done) {
        cleaner.tracer.dropped(task);
        info!(task_id = %task.key.id, tenant_id = %task.key.tenant, model_name = task.model_name,
            trace_id = trace_id(&task.traceparent),
            attempt = task.attempt.0, "failed without a run: {}", message(task));
    }
    Ok(swept(transitions.len()))
}
