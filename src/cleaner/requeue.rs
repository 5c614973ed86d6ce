//! Retries whose rest is over become claimable.

use super::{BATCH, Cleaner, swept};
use crate::{periodic::Swept, store::StoreError, wake::WakeUp};

pub(super) async fn tick(cleaner: &Cleaner) -> Result<Swept, StoreError> {
    let (rows, lanes) = cleaner.store.promote_due(BATCH).await?;
    cleaner.wake.send(lanes.into_iter().map(|lane| WakeUp { lane, rewind: true }));
    Ok(swept(usize::try_from(rows).unwrap_or(usize::MAX)))
}
