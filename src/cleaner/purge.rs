//! Tasks past their time are deleted, and their objects too where the configuration says so.

use futures::{StreamExt as _, stream};
use tracing::{info, warn};

use super::{BATCH, Cleaner, swept};
use crate::{
    periodic::Swept,
    storage::Storage,
    store::{StoreError, tasks::Purged},
};

/// Objects deleted side by side: a store that takes its time for each must not hold up the next
/// batch for minutes.
const DELETES_AT_ONCE: usize = 16;

pub(super) async fn tick(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    let purged = cleaner.store.purge(cleaner.unclaimed, BATCH).await?;
    if purged.is_empty() {
        return Ok(Swept::All);
    }
    cleaner.metrics.purged(purged.len());
    info!(tasks = purged.len(), "purged tasks past their time");
    if cleaner.delete_on_purge {
        delete_objects(&cleaner.storage, &purged).await;
    }
    Ok(swept(purged.len()))
}

/// Deletes the objects that purged tasks leave behind.
pub(crate) async fn delete_objects(storage: &Storage, purged: &[Purged]) {
    let stored = purged.iter().filter(|task| !task.oss_key.is_empty());
    stream::iter(stored).for_each_concurrent(DELETES_AT_ONCE, |task| delete(storage, task)).await;
}

async fn delete(storage: &Storage, task: &Purged) {
    if let Err(error) = storage.delete(&task.oss_key).await {
        warn!(task_id = %task.key.id, tenant_id = %task.key.tenant,
            model_name = task.model_name, attempt = task.attempt.0, %error,
            "the object of a purged task could not be deleted and stays in storage");
    }
}
