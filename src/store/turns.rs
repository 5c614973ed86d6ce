//! The verbs on turns: which node does a periodic duty now. Compared on the database's clock, like
//! node leases.

use std::time::Duration;

use super::{
    Backend, Store, StoreError, on_each,
    value::{Id, Stamp},
    within,
};
use crate::{clock, task::NodeId};

// Taking twice is keeping: the answer to the first try may have been lost on its way.
const TAKE_POSTGRES: &str = "\
    INSERT INTO asynch_turn AS t (duty, holder, held_until) VALUES ($1, $2, now() + make_interval(secs => $3)) \
    ON CONFLICT (duty) DO UPDATE SET holder = EXCLUDED.holder, held_until = EXCLUDED.held_until \
    WHERE t.held_until < now() OR t.holder = EXCLUDED.holder";

const TAKE_SQLITE: &str = "\
    INSERT INTO asynch_turn (duty, holder, held_until) VALUES ($1, $2, $3) \
    ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
    WHERE held_until < $4 OR holder = excluded.holder";

const KEEP_POSTGRES: &str = "\
    UPDATE asynch_turn SET held_until = now() + make_interval(secs => $3) WHERE duty = $1 AND holder = $2";

const KEEP_SQLITE: &str = "UPDATE asynch_turn SET held_until = $3 WHERE duty = $1 AND holder = $2";

const GIVE_BACK: &str = "DELETE FROM asynch_turn WHERE duty = $1 AND holder = $2";

impl Store {
    /// Takes the turn at a duty (1–128 characters) where nobody has it. `false`: somebody does.
    ///
    /// # Errors
    /// Where the database is out of reach: the turn may have been taken all the same.
    pub async fn take_turn(&self, duty: &str, holder: NodeId, hold: Duration) -> Result<bool, StoreError> {
        within(async {
            let taken = match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let query = sqlx::query(TAKE_POSTGRES).bind(duty).bind(Id(holder.0)).bind(hold.as_secs_f64());
                    query.execute(pool).await?.rows_affected()
                }
                Backend::Sqlite { writer, .. } => {
                    let now = clock::now();
                    let query = sqlx::query(TAKE_SQLITE).bind(duty).bind(Id(holder.0));
                    query.bind(Stamp(now + hold)).bind(Stamp(now)).execute(writer).await?.rows_affected()
                }
            };
            Ok(taken == 1)
        })
        .await
    }

    /// Keeps a turn for longer, on a connection that no other work can keep busy. `false`: it ran
    /// out, and somebody else has it or had it.
    ///
    /// # Errors
    /// Where the database is out of reach: nothing is known about the turn then.
    pub async fn keep_turn(&self, duty: &str, holder: NodeId, hold: Duration) -> Result<bool, StoreError> {
        within(async {
            let kept = match &self.backend {
                Backend::Postgres { lease: connection, .. } => {
                    let query = sqlx::query(KEEP_POSTGRES).bind(duty).bind(Id(holder.0)).bind(hold.as_secs_f64());
                    query.execute(connection).await?.rows_affected()
                }
                Backend::Sqlite { writer, .. } => {
                    let query = sqlx::query(KEEP_SQLITE).bind(duty).bind(Id(holder.0));
                    query.bind(Stamp(clock::now() + hold)).execute(writer).await?.rows_affected()
                }
            };
            Ok(kept == 1)
        })
        .await
    }

    /// Gives a turn back, if this holder still has it.
    ///
    /// # Errors
    /// Where the database is out of reach; the turn then runs out by itself.
    pub async fn give_turn_back(&self, duty: &str, holder: NodeId) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                sqlx::query(GIVE_BACK).bind(duty).bind(Id(holder.0)).execute(pool).await?;
            });
            Ok(())
        })
        .await
    }
}
