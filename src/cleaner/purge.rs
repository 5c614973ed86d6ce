//! Tasks past their time are deleted, and their objects too where the configuration says so.

use tracing::{info, warn};

use super::{BATCH, Cleaner, swept};
use crate::{periodic::Swept, store::StoreError};

pub(super) async fn tick(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    let purged = cleaner.store.purge(cleaner.unclaimed, BATCH).await?;
    if purged.is_empty() {
        return Ok(Swept::All);
    }
    info!(tasks = purged.len(), "purged tasks past their time");
    if cleaner.delete_on_purge {
        for task in purged.iter().filter(|task| !task.oss_key.is_empty()) {
            if let Err(error) = cleaner.storage.delete(&task.oss_key).await {
                warn!(task_id = %task.key.id, tenant_id = %task.key.tenant,
                    model_name = task.model_name, attempt = task.attempt.0, %error,
                    "the object of a purged task could not be deleted and stays in storage");
            }
        }
    }
    Ok(swept(purged.len()))
}
