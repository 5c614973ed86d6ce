//! A connection that one part of a node has to itself.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{
    clock,
    store::{ACQUIRE_TIMEOUT, StoreError, answers},
};

/// After so long without use a connection is asked whether it is still there: what lies between may
/// have dropped it without a word.
const QUIET: Duration = Duration::from_secs(30);

/// The connection of a part that uses it again and again. It is kept from use to use: nobody waits for
/// a place in the pool, and nothing is asked of it when it comes back, which for a pool would take more
/// round trips than many a piece of work.
pub(in crate::store) struct Line {
    options: PgConnectOptions,
    /// And when it was used last.
    connection: Option<(PgConnection, Instant)>,
}

impl Line {
    /// Connects when it is first used, and again after each loss.
    pub(in crate::store) fn new(options: PgConnectOptions) -> Line {
        Line { options, connection: None }
    }

    /// One whose statements are planned once. The server by itself plans some of them each time, as an array
    /// of known length looks cheaper to it than one of any. A plan that lasts should not come from a moment
    /// when reading all of a table was best, so each goes by an index.
    pub(in crate::store) fn planning_once(options: PgConnectOptions) -> Line {
        Line::new(options.options([("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")]))
    }

    /// The connection, for one piece of work. It is lost unless it is put back with [`Line::keep`], also
    /// where the work is given up half-way: who knows what it is doing.
    pub(in crate::store) async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some((mut connection, used)) = self.connection.take()
            && (used.elapsed() < QUIET || matches!(answers(&mut connection).await, Ok(true)))
        {
            return Ok(connection);
        }
        let connecting = PgConnection::connect_with(&self.options);
        let late = |_| StoreError::Unavailable(format!("no connection within {} s", ACQUIRE_TIMEOUT.as_secs()));
        Ok(tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await.map_err(late)??)
    }

    /// Keeps it for the next piece of work, but not where it broke. Work that was refused may have left
    /// a transaction behind, which must not keep its locks until somebody comes again.
    pub(in crate::store) async fn keep<T>(&mut self, mut connection: PgConnection, done: &Result<T, StoreError>) {
        let is_sound = match done {
            Ok(_) => true,
            Err(StoreError::Broken(_)) => matches!(answers(&mut connection).await, Ok(true)),
            Err(StoreError::Unavailable(_)) => false,
        };
        if is_sound {
            self.connection = Some((connection, clock::tick()));
        }
    }

    /// Says goodbye to the server.
    pub(in crate::store) async fn close(&mut self) {
        if let Some((connection, _)) = self.connection.take() {
            // The server notices by itself where it cannot be told.
            connection.close().await.ok();
        }
    }
}
