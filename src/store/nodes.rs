//! The verbs on node leases: one row per incarnation, compared on the database's clock; and on the
//! watch, whose holders may declare nodes dead.
//!
//! On Postgres that is the server's `now()`. The embedded database has one process, so its clock is
//! that process' own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::SqlitePool;

use super::{
    Backend, Store, StoreError, on_each,
    row::Columns,
    tasks::micros,
    value::{Id, Stamp},
    within,
};
use crate::{
    alert::sight::{LiveNode, LostNode},
    clock,
    task::NodeId,
};

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

const LOSE_ALL: &str = "\
    INSERT INTO asynch_lost_node (node, name, last_seen, lost_at) SELECT node, name, $1, $1 FROM asynch_node WHERE true \
    ON CONFLICT (node) DO NOTHING";

const LOSE: &str = "\
    INSERT INTO asynch_lost_node (node, name, last_seen, lost_at) VALUES ($1, $2, $3, $4) ON CONFLICT (node) DO NOTHING";

const FORGET_LOST: &str = "DELETE FROM asynch_lost_node WHERE lost_at < $1";

// A watch that was let go for a third of its length begins anew: whoever held it was cut off, and
// may have told others so.
const HOLD_WATCH_POSTGRES: &str = "\
    INSERT INTO asynch_watch AS w (watcher, name, since, held_until) \
    VALUES ($1, $5, now(), now() + make_interval(secs => $2)) \
    ON CONFLICT (watcher) DO UPDATE SET held_until = EXCLUDED.held_until, \
        since = CASE WHEN $3 OR w.held_until < now() + make_interval(secs => $4) THEN now() ELSE w.since END \
    RETURNING since <= now() - make_interval(secs => $2)";

const HOLD_WATCH_SQLITE: &str = "\
    INSERT INTO asynch_watch (watcher, name, since, held_until) VALUES ($1, $6, $5, $5 + $2) \
    ON CONFLICT (watcher) DO UPDATE SET held_until = excluded.held_until, \
        since = CASE WHEN $3 OR held_until < $5 + $4 THEN $5 ELSE since END \
    RETURNING since <= $5 - $2";

const END_WATCH: &str = "DELETE FROM asynch_watch WHERE watcher = $1";

const WATCHERS: &str = "SELECT watcher FROM asynch_watch";

// Only whoever holds the watch this moment, and has held it for a lease, may bury: also where the
// statement itself was held up on its way.
const BURY_POSTGRES: &str = "\
    WITH watch AS ( \
        SELECT FROM asynch_watch WHERE watcher = $1 AND since <= now() - make_interval(secs => $2) \
                                   AND held_until > now() + make_interval(secs => $3) \
    ), gone AS ( \
        DELETE FROM asynch_watch WHERE held_until < now() AND EXISTS (SELECT FROM watch) \
    ), dead AS ( \
        DELETE FROM asynch_node WHERE lease_until < now() AND EXISTS (SELECT FROM watch) \
        RETURNING node, name, lease_until \
    ), forgotten AS ( \
        DELETE FROM asynch_lost_node WHERE lost_at < now() - make_interval(secs => $4) AND EXISTS (SELECT FROM dead) \
    ) \
    INSERT INTO asynch_lost_node (node, name, last_seen, lost_at) \
    SELECT node, name, lease_until - make_interval(secs => $2), now() FROM dead \
    ON CONFLICT (node) DO UPDATE SET lost_at = EXCLUDED.lost_at RETURNING node";

const BURY_SQLITE: &str = "\
    DELETE FROM asynch_node WHERE lease_until < $4 AND EXISTS ( \
        SELECT 1 FROM asynch_watch WHERE watcher = $1 AND since <= $4 - $2 AND held_until > $4 + $3 \
    ) RETURNING node, name, lease_until";

const LIVE_POSTGRES: &str = "SELECT name, started_at FROM asynch_node WHERE lease_until > now() LIMIT 1000";
const LIVE_SQLITE: &str = "SELECT name, started_at FROM asynch_node WHERE lease_until > $1 LIMIT 1000";

const LOST: &str =
    "SELECT name, last_seen, lost_at FROM asynch_lost_node WHERE lost_at > $1 ORDER BY lost_at LIMIT 1000";

/// How long a node that was declared dead is remembered.
pub const LOST_FOR: Duration = Duration::from_secs(86_400);

/// Workers, and processes that only clean. A process is told by its name, for its worker and its
/// watch have ids of their own.
macro_rules! nodes {
    ($now:literal) => {
        concat!(
            "SELECT n.node, n.name, n.started_at, n.lease_until, n.lease_until > ",
            $now,
            " AS alive, COALESCE(r.running, 0) AS running, \
                 EXISTS (SELECT 1 FROM asynch_watch w WHERE w.name = n.name AND w.held_until > ",
            $now,
            ") AS cleans \
             FROM asynch_node n LEFT JOIN ( \
                 SELECT owner, count(*) AS running FROM asynch_task WHERE state = 1 GROUP BY owner \
             ) r ON r.owner = n.node \
             UNION ALL \
             SELECT w.watcher, w.name, w.since, w.held_until, w.held_until > ",
            $now,
            ", 0, w.held_until > ",
            $now,
            " FROM asynch_watch w WHERE NOT EXISTS (SELECT 1 FROM asynch_node n WHERE n.name = w.name) \
             ORDER BY 3, 1 LIMIT 1000"
        )
    };
}

const NODES_POSTGRES: &str = nodes!("now()");
const NODES_SQLITE: &str = nodes!("$1");

/// A process that works or cleans.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its incarnation.
    pub id: NodeId,
    /// Machine and port.
    pub name: String,
    /// When this incarnation began.
    pub started_at: DateTime<Utc>,
    /// When its lease ends unless it is renewed.
    pub lease_until: DateTime<Utc>,
    /// The lease has not ended.
    pub alive: bool,
    /// Tasks it holds.
    pub running: i64,
    /// It holds the watch, and may declare others dead.
    pub cleans: bool,
}

impl Store {
    /// Every process that works or cleans, the oldest first; 1000 at most.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_nodes(&self) -> Result<Vec<Node>, StoreError> {
        within(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    sqlx::query(NODES_POSTGRES).fetch_all(pool).await?.iter().map(read_node).collect()
                }
                Backend::Sqlite { readers, .. } => {
                    let query = sqlx::query(NODES_SQLITE).bind(Stamp(clock::now()));
                    query.fetch_all(readers).await?.iter().map(read_node).collect()
                }
            }
        })
        .await
    }

    /// Nodes that were declared dead within [`LOST_FOR`], in that order; 1000 at most.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn lost_nodes(&self) -> Result<Vec<LostNode>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let rows = sqlx::query(LOST).bind(Stamp(clock::now() - LOST_FOR)).fetch_all(pool).await?;
                rows.iter().map(read_lost_node).collect()
            })
        })
        .await
    }

    /// Workers whose lease runs; 1000 at most.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn live_nodes(&self) -> Result<Vec<LiveNode>, StoreError> {
        within(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    sqlx::query(LIVE_POSTGRES).fetch_all(pool).await?.iter().map(read_live_node).collect()
                }
                Backend::Sqlite { readers, .. } => {
                    let query = sqlx::query(LIVE_SQLITE).bind(Stamp(clock::now()));
                    query.fetch_all(readers).await?.iter().map(read_live_node).collect()
                }
            }
        })
        .await
    }

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

    /// Deletes every lease row, whose nodes died: for an embedded store at boot, whose lock says that
    /// nobody else is.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn bury_every_node(&self) -> Result<(), StoreError> {
        within(async {
            let now = clock::now();
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin().await?;
                sqlx::query(FORGET_LOST).bind(Stamp(now - LOST_FOR)).execute(&mut *transaction).await?;
                sqlx::query(LOSE_ALL).bind(Stamp(now)).execute(&mut *transaction).await?;
                sqlx::query(REMOVE_ALL).execute(&mut *transaction).await?;
                transaction.commit().await?;
            });
            Ok(())
        })
        .await
    }

    /// Takes or keeps the watch for the length of `lease`; true where it has been held without a
    /// break for that long, so that its holder may bury. `name` is the process it is of. `anew`: it was
    /// broken, whatever the row says.
    ///
    /// # Errors
    /// Where the database is out of reach: the watch may have been extended all the same.
    pub async fn hold_watch(
        &self,
        watcher: NodeId,
        name: &str,
        lease: Duration,
        anew: bool,
    ) -> Result<bool, StoreError> {
        within(async {
            let (length, fresh) = (lease, lease * 2 / 3);
            Ok(match &self.backend {
                Backend::Postgres { lease: connection, .. } => {
                    let query = sqlx::query_scalar(HOLD_WATCH_POSTGRES).bind(Id(watcher.0));
                    let query = query.bind(length.as_secs_f64()).bind(anew).bind(fresh.as_secs_f64()).bind(name);
                    query.fetch_one(connection).await?
                }
                Backend::Sqlite { writer, .. } => {
                    let query = sqlx::query_scalar(HOLD_WATCH_SQLITE).bind(Id(watcher.0));
                    let query = query.bind(micros(length)).bind(anew).bind(micros(fresh));
                    query.bind(Stamp(clock::now())).bind(name).fetch_one(writer).await?
                }
            })
        })
        .await
    }

    /// Lets the watch go: a process that leaves in order.
    ///
    /// # Errors
    /// Where the database is out of reach; the watch then runs out by itself.
    pub async fn end_watch(&self, watcher: NodeId) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                sqlx::query(END_WATCH).bind(Id(watcher.0)).execute(pool).await?;
            });
            Ok(())
        })
        .await
    }

    /// Everyone who may hold the watch.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn watchers(&self) -> Result<Vec<NodeId>, StoreError> {
        within(async {
            let watchers: Vec<Id> = match &self.backend {
                Backend::Postgres { lease: connection, .. } => {
                    sqlx::query_scalar(WATCHERS).fetch_all(connection).await?
                }
                Backend::Sqlite { readers, .. } => sqlx::query_scalar(WATCHERS).fetch_all(readers).await?,
            };
            Ok(watchers.into_iter().map(|id| NodeId(id.0)).collect())
        })
        .await
    }

    /// Deletes the lease rows that ran out, so that their owners can never renew them; returns
    /// them. What those nodes held is now abandoned. Nothing happens unless `watcher` holds the
    /// watch, and has held it for `lease` without a break.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn bury_dead_nodes(&self, watcher: NodeId, lease: Duration) -> Result<Vec<NodeId>, StoreError> {
        within(async {
            let fresh = lease * 2 / 3;
            let dead: Vec<Id> = match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let query = sqlx::query_scalar(BURY_POSTGRES).bind(Id(watcher.0));
                    let query = query.bind(lease.as_secs_f64()).bind(fresh.as_secs_f64());
                    query.bind(LOST_FOR.as_secs_f64()).fetch_all(pool).await?
                }
                Backend::Sqlite { writer, .. } => bury_in_sqlite(writer, watcher, lease, fresh).await?,
            };
            Ok(dead.into_iter().map(|id| NodeId(id.0)).collect())
        })
        .await
    }
}

async fn bury_in_sqlite(
    writer: &SqlitePool,
    watcher: NodeId,
    lease: Duration,
    fresh: Duration,
) -> Result<Vec<Id>, StoreError> {
    let now = clock::now();
    let mut transaction = writer.begin().await?;
    let query = sqlx::query(BURY_SQLITE).bind(Id(watcher.0)).bind(micros(lease)).bind(micros(fresh));
    let rows = query.bind(Stamp(now)).fetch_all(&mut *transaction).await?;
    let mut dead = Vec::new();
    for row in &rows {
        let node = Id(row.uuid("node")?);
        let query = sqlx::query(LOSE).bind(node).bind(row.text("name")?).bind(Stamp(row.time("lease_until")? - lease));
        query.bind(Stamp(now)).execute(&mut *transaction).await?;
        dead.push(node);
    }
    if !dead.is_empty() {
        sqlx::query(FORGET_LOST).bind(Stamp(now - LOST_FOR)).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(dead)
}

fn read_node(row: &impl Columns) -> Result<Node, StoreError> {
    Ok(Node {
        id: NodeId(row.uuid("node")?),
        name: row.text("name")?,
        started_at: row.time("started_at")?,
        lease_until: row.time("lease_until")?,
        alive: row.flag("alive")?,
        running: row.big("running")?,
        cleans: row.flag("cleans")?,
    })
}

fn read_lost_node(row: &impl Columns) -> Result<LostNode, StoreError> {
    Ok(LostNode { name: row.text("name")?, last_seen: row.time("last_seen")?, lost_at: row.time("lost_at")? })
}

fn read_live_node(row: &impl Columns) -> Result<LiveNode, StoreError> {
    Ok(LiveNode { name: row.text("name")?, started_at: row.time("started_at")? })
}
