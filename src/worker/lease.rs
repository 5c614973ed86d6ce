//! Keeping this incarnation's lease, and noticing when it is lost.

use std::time::Duration;

use tracing::{info, warn};

use crate::{clock, store::Store, task::NodeId};

/// A lease is renewed this many times before it would run out.
const RENEWALS: u32 = 6;

/// Renews the lease until it is lost, then returns why.
///
/// Lost means: the row is gone, so somebody declared us dead; or there was no successful renewal
/// for the lease's length less one renewal, measured on our own monotonic clock from before the
/// last request was sent. In both cases others may hold our tasks by now.
pub(super) async fn keep(store: &Store, node: NodeId, lease: Duration) -> &'static str {
    let every = lease / RENEWALS;
    let patience = lease - every;
    let mut renewed_at = clock::tick();
    let mut failing = false;
    loop {
        let left = patience.saturating_sub(renewed_at.elapsed());
        if left.is_zero() {
            return "the database could not be reached for the length of the lease";
        }
        tokio::time::sleep(every.min(left)).await;
        let asked_at = clock::tick();
        match tokio::time::timeout(every, store.renew_node(node, lease)).await {
            Ok(Ok(true)) => {
                renewed_at = asked_at;
                if std::mem::take(&mut failing) {
                    info!(node = %node, "the lease of this node is being renewed again");
                }
            }
            Ok(Ok(false)) => return "this node was declared dead",
            Ok(Err(error)) if !failing => {
                failing = true;
                warn!(node = %node, %error, "cannot renew the lease of this node, trying again");
            }
            Err(_) if !failing => {
                failing = true;
                warn!(node = %node, "cannot renew the lease of this node in time, trying again");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
