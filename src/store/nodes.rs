//! The verbs on node leases: one row per incarnation, compared on the database's clock.

use std::time::Duration;

use super::{Store, StoreError};
use crate::task::NodeId;

impl Store {
    /// Writes the lease row of a new incarnation.
    pub async fn register_node(&self, _node: NodeId, _name: &str, _lease: Duration) -> Result<(), StoreError> {
        todo!()
    }

    /// Extends the lease, on a connection of its own. `false`: the row is gone, this incarnation
    /// was declared dead.
    pub async fn renew_node(&self, _node: NodeId, _lease: Duration) -> Result<bool, StoreError> {
        todo!()
    }

    /// Deletes the lease row: a node that leaves in order.
    pub async fn remove_node(&self, _node: NodeId) -> Result<(), StoreError> {
        todo!()
    }

    /// Deletes every lease row: for an embedded store at boot, whose lock says that nobody else is.
    pub async fn bury_every_node(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Deletes the lease rows that ran out, so that their owners can never renew them; returns
    /// them. What those nodes held is now abandoned.
    pub async fn bury_dead_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        todo!()
    }
}
