//! The verbs on node leases: one row per incarnation, compared on the database's clock.
//!
//! On Postgres that is the server's `now()`. The embedded database has one process, so its clock is
//! that process' own.

use std::time::Duration;

use super::{
    Backend, Store, StoreError, on_each,
    value::{Id, Stamp},
    within,
};
use crate::{clock, task::NodeId};

// Registering twice is extending: the answer to the first try may have been lost on its way.
const REGISTER_POSTGRES: &str = "\
    INSERT INTO asynch_node (node, name, started_at, lease_until) \
    VALUES ($1, $2, now(), now() + make_interval(secs => $3)) \
    ON CONFLICT (node) DO UPDATE SET lease_until = EXCLUDED.lease_until";

const REGISTER_SQLITE: &str = "\
    INSERT INTO asynch_node (node, name, started_at, lease_until) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (node) DO UPDATE SET lease_until = EXCLUDED.lease_until";

const RENEW_POSTGRES: &str = "UPDATE asynch_node SET lease_until = now() + make_interval(secs => $2) WHERE node = $1";

const RENEW_SQLITE: &str = "UPDATE asynch_node SET lease_until = $2 WHERE node = $1";

const REMOVE: &str = "DELETE FROM asynch_node WHERE node = $1";

const REMOVE_ALL: &str = "DELETE FROM asynch_node";

const BURY_POSTGRES: &str = "DELETE FROM asynch_node WHERE lease_until < now() RETURNING node";

const BURY_SQLITE: &str = "DELETE FROM asynch_node WHERE lease_until < $1 RETURNING node";

impl Store {
    /// Writes the lease row of a new incarnation.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn register_node(&self, node: NodeId, name: &str, lease: Duration) -> Result<(), StoreError> {
        within(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let query = sqlx::query(REGISTER_POSTGRES).bind(Id(node.0)).bind(name).bind(lease.as_secs_f64());
                    query.execute(pool).await?;
                }
                Backend::Sqlite { writer, .. } => {
                    let now = clock::now();
                    let query = sqlx::query(REGISTER_SQLITE).bind(Id(node.0)).bind(name);
                    query.bind(Stamp(now)).bind(Stamp(now + lease)).execute(writer).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Extends the lease, on a connection of its own. `false`: the row is gone, this incarnation
    /// was declared dead.
    ///
    /// # Errors
    /// Where the database is out of reach: nothing is known about the lease then.
    pub async fn renew_node(&self, node: NodeId, lease: Duration) -> Result<bool, StoreError> {
        within(async {
            let renewed = match &self.backend {
                Backend::Postgres { lease: connection, .. } => {
                    let query = sqlx::query(RENEW_POSTGRES).bind(Id(node.0)).bind(lease.as_secs_f64());
                    query.execute(connection).await?.rows_affected()
                }
                Backend::Sqlite { writer, .. } => {
                    let query = sqlx::query(RENEW_SQLITE).bind(Id(node.0)).bind(Stamp(clock::now() + lease));
                    query.execute(writer).await?.rows_affected()
                }
            };
            Ok(renewed == 1)
        })
        .await
    }

    /// Deletes the lease row: a node that leaves in order.
    ///
    /// # Errors
    /// Where the database is out of reach; the lease then runs out by itself.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => { sqlx::query(REMOVE).bind(Id(node.0)).execute(pool).await?; });
            Ok(())
        })
        .await
    }

    /// Deletes every lease row: for an embedded store at boot, whose lock says that nobody else is.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn bury_every_node(&self) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => { sqlx::query(REMOVE_ALL).execute(pool).await?; });
            Ok(())
        })
        .await
    }

    /// Deletes the lease rows that ran out, so that their owners can never renew them; returns
    /// them. What those nodes held is now abandoned.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn bury_dead_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        within(async {
            let dead: Vec<Id> = match &self.backend {
                Backend::Postgres { pool, .. } => sqlx::query_scalar(BURY_POSTGRES).fetch_all(pool).await?,
                Backend::Sqlite { writer, .. } => {
                    sqlx::query_scalar(BURY_SQLITE).bind(Stamp(clock::now())).fetch_all(writer).await?
                }
            };
            Ok(dead.into_iter().map(|id| NodeId(id.0)).collect())
        })
        .await
    }
}
