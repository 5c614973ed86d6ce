//! The durable memory: models, tasks, statistics, operation log, and the leases of nodes.
//!
//! A closed set of two backends behind one set of verbs; no caller sees SQL, rows or drivers.
//! Enqueue and apply go through group committers: the next batch is whatever arrived while the
//! last one was committing, and in a short pause after a large one, so an idle service commits at once
//! and a busy one many at a time. Callers are answered after their commit.
//!
//! Statements that both dialects read alike are written once, next to their verb, and run through
//! `on_each!`; what must be worded differently is in `postgres` and `sqlite`, under the same names.

pub mod alerts;
pub mod bench;
pub mod census;
pub mod jobs;
pub mod models;
pub mod nodes;
pub mod oplog;
pub mod retention;
pub mod secrets;
pub mod series;
pub mod stats;
pub mod tasks;
pub mod tenants;
pub mod tokens;
pub mod turns;

mod group;
mod migrate;
mod postgres;
mod row;
mod sqlite;
mod value;

use std::{
    fs::{File, TryLockError},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Connection as _, PgConnection, PgPool, SqlitePool,
    postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio_util::sync::CancellationToken;

use self::{
    group::{Committer, Group, group},
    tasks::{
        admission::LaneMemory,
        batches::{Applier, Enqueuer, Writer},
    },
};
use crate::{
    breath::Breath,
    config::Database,
    metrics::{Metrics, PoolReading},
    secrets::{Unsealed, Vault},
};

/// How long a caller waits for a free connection before the database counts as out of reach.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one piece of work may take before the database counts as out of reach: as long as
/// Postgres itself lets a statement run, and what ends the wait for a peer that went silent.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

/// Readers of the embedded database; its one writer has a connection of its own.
const SQLITE_READERS: u32 = 4;

/// A handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    vault: Vault,
    enqueuer: Group<Enqueuer>,
    applier: Group<Applier>,
    /// Held for as long as any handle lives: a second process refuses to start.
    _lock: Option<Arc<File>>,
}

/// The two databases.
#[derive(Clone)]
enum Backend {
    Postgres {
        pool: PgPool,
        /// Two connections, so that a node's lease and watch are renewed however busy the pool is.
        lease: PgPool,
        /// Where claims are made.
        claims: Arc<tokio::sync::Mutex<postgres::Claims>>,
    },
    Sqlite {
        readers: SqlitePool,
        /// One connection: SQLite has one writer, and waiting for it here is fairer than its own
        /// busy-waiting.
        writer: SqlitePool,
    },
}

/// Runs one body on the pool behind the backend, for statements that both dialects read alike.
/// `read` goes to SQLite's readers, `write` to its one writer.
macro_rules! on_each {
    ($backend:expr, read $pool:ident => $body:expr) => {
        match $backend {
            $crate::store::Backend::Postgres { pool: $pool, .. } => $body,
            $crate::store::Backend::Sqlite { readers: $pool, .. } => $body,
        }
    };
    ($backend:expr, write $pool:ident => $body:expr) => {
        match $backend {
            $crate::store::Backend::Postgres { pool: $pool, .. } => $body,
            $crate::store::Backend::Sqlite { writer: $pool, .. } => $body,
        }
    };
}
use on_each;

/// The loops behind a store. Whoever opens a store runs them; they end when `stop` says so and
/// everything handed in before that is committed.
#[must_use = "without its committers a store accepts no tasks"]
pub struct Committers {
    enqueuer: Committer<Enqueuer>,
    applier: Committer<Applier>,
}

/// What can go wrong in the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, or too slow to answer: try again later.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// A row says something this version does not understand, or a statement is wrong.
    #[error("database error: {0}")]
    Broken(String),
}

/// One page of a listing.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// The rows of the page.
    pub list: Vec<T>,
    /// Rows on all pages.
    pub total: i64,
}

/// Which page: as checked by the API.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Rows before it.
    pub offset: i64,
    /// Rows on it.
    pub limit: i64,
}

impl Store {
    /// Connects and migrates. SQLite: makes the folder and takes the exclusive lock.
    ///
    /// # Errors
    /// Out of reach, locked by another process, or a migration that failed; the message says which.
    pub async fn open(config: &Database, vault: Vault) -> Result<(Store, Committers), StoreError> {
        let (backend, writers, lock) = match config {
            Database::Postgres { url, max_connections } => {
                let (backend, writers) = open_postgres(url, *max_connections).await?;
                (backend, writers, None)
            }
            Database::Sqlite { path } => {
                let lock = lock_database(path)?.ok_or_else(|| {
                    let message = "another process uses it; an embedded database has one";
                    StoreError::Unavailable(format!("cannot open {}: {message}", path.display()))
                })?;
                let (backend, writer) = open_sqlite(path).await?;
                (backend, embedded(writer), Some(Arc::new(lock)))
            }
        };
        migrate::run(&backend).await?;
        Ok(Store::over(backend, writers, vault, lock))
    }

    /// Connects for a command that administers, which must also work beside a running service.
    ///
    /// An embedded database has one service, but may have a second writer for as long as a statement
    /// takes: SQLite's own lock keeps the two apart, and what the service remembers of its lanes is
    /// nothing that such a command changes. Only the schema stays the service's.
    ///
    /// # Errors
    /// Out of reach, a migration that failed, or a running service with another schema.
    pub async fn administer(config: &Database, vault: Vault) -> Result<Store, StoreError> {
        if let Database::Sqlite { path } = config
            && lock_database(path)?.is_none()
        {
            let (backend, writer) = open_sqlite(path).await?;
            if !migrate::is_current(&backend).await? {
                let message = "the service that runs on it is of another version; stop it, or use its own program";
                return Err(StoreError::Unavailable(format!("cannot open {}: {message}", path.display())));
            }
            return Ok(Store::over(backend, embedded(writer), vault, None).0);
        }
        // Administration enqueues and finishes no tasks.
        Ok(Store::open(config, vault).await?.0)
    }

    fn over(backend: Backend, writers: [Writer; 2], vault: Vault, lock: Option<Arc<File>>) -> (Store, Committers) {
        let [entrance, exit] = writers;
        let enqueue = Enqueuer { writer: entrance, vault: vault.clone(), lanes: LaneMemory::default() };
        let (enqueuer, enqueue_committer) = group(enqueue, Breath::of_callers());
        let (applier, apply_committer) = group(Applier { writer: exit }, Breath::of_runs());
        let store = Store { backend, vault, enqueuer, applier, _lock: lock };
        (store, Committers { enqueuer: enqueue_committer, applier: apply_committer })
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// Where none comes.
    pub async fn ping(&self) -> Result<(), StoreError> {
        within(async {
            on_each!(&self.backend, read pool => { sqlx::query("SELECT 1").execute(pool).await?; });
            Ok(())
        })
        .await
    }

    /// True for the embedded store: this process is the only one, so whatever runs at boot is dead.
    pub fn is_embedded(&self) -> bool {
        matches!(self.backend, Backend::Sqlite { .. })
    }

    /// `postgres` or `sqlite`.
    pub fn kind(&self) -> &'static str {
        if self.is_embedded() { "sqlite" } else { "postgres" }
    }

    /// How the connections are used at this moment.
    pub fn pools(&self) -> Vec<PoolReading> {
        fn reading<D: sqlx::Database>(name: &'static str, pool: &sqlx::Pool<D>) -> PoolReading {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            let limit = pool.options().get_max_connections();
            PoolReading { pool: name, used: pool.size().saturating_sub(idle), idle, limit }
        }
        match &self.backend {
            Backend::Postgres { pool, lease, .. } => vec![reading("main", pool), reading("lease", lease)],
            Backend::Sqlite { readers, writer } => vec![reading("readers", readers), reading("writer", writer)],
        }
    }

    /// Closes the pools after everything is committed.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Postgres { pool, lease, claims, .. } => {
                pool.close().await;
                lease.close().await;
                claims.lock().await.close().await;
            }
            Backend::Sqlite { readers, writer } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

impl Committers {
    /// The same, counting what they commit.
    pub fn measured(mut self, metrics: &Metrics) -> Committers {
        self.enqueuer.measure(metrics.enqueues());
        self.applier.measure(metrics.applies());
        self
    }

    /// Runs the committers until `stop` is set and everything handed in before that is committed.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.enqueuer.run(stop.clone()), self.applier.run(stop));
    }
}

/// Ends work that the database does not answer in time.
async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable(format!("no answer within {} s", WORK_TIMEOUT.as_secs()));
    tokio::time::timeout(WORK_TIMEOUT, work).await.map_err(late)?
}

/// The two committers share the one writer.
fn embedded(writer: SqlitePool) -> [Writer; 2] {
    [Writer::Sqlite(writer.clone()), Writer::Sqlite(writer)]
}

async fn open_postgres(url: &str, max_connections: u32) -> Result<(Backend, [Writer; 2]), StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Unavailable(format!("database.url: {error}")))?
        .application_name("model-asynch")
        // A node that is stopped in the middle of a transaction must not keep its lanes locked.
        // The server gives a statement up before we do, so that what we gave up is not carried out later.
        .options([("idle_in_transaction_session_timeout", "10000"), ("statement_timeout", "25000")])
        // Limits are exact because a count sees what was committed before its lock was granted.
        .options([("default_transaction_isolation", "read committed")])
        // Whatever the planner thinks that they cost, statements are done before they would be compiled.
        .options([("jit", "off")]);
    let pool = |connections| {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .after_release(|connection, _| Box::pin(answers(connection)))
    };
    let lease = pool(2).connect_lazy_with(options.clone());
    let line = || postgres::Line::new(options.clone());
    let writers = [line(), line()].map(|line| Writer::Postgres(Box::new(line)));
    let claims = postgres::Line::planning_once(options.clone());
    let pool = pool(max_connections).connect_with(options).await?;
    let claims = Arc::new(tokio::sync::Mutex::new(postgres::Claims::new(claims)));
    Ok((Backend::Postgres { pool, lease, claims }, writers))
}

/// Whether a connection that comes back is good for another use; also rolls back what was left in the
/// middle. The pool asks that too, but waits without end for a peer that went silent, and the
/// connection's place in the pool waits with it.
/// A broken one is no news to whoever used it.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(matches!(tokio::time::timeout(ACQUIRE_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
}

async fn open_sqlite(path: &Path) -> Result<(Backend, SqlitePool), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", "4000");
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options.clone())
    };
    let writer = pool(1).await?;
    Ok((Backend::Sqlite { readers: pool(SQLITE_READERS).await?, writer: writer.clone() }, writer))
}

/// Makes the database's folder and takes the lock beside the file, `None` where another process has
/// it; the kernel drops it with the process.
fn lock_database(path: &Path) -> Result<Option<File>, StoreError> {
    let unavailable = |what: &str, error: &dyn std::fmt::Display| {
        StoreError::Unavailable(format!("cannot {what} {}: {error}", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| unavailable("make the folder of", &error))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::create(name).map_err(|error| unavailable("lock", &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unavailable("lock", &error)),
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        use sqlx::Error;
        let away = match &error {
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => true,
            // A connection that closes in the middle of an answer, as a proxy does whose server is gone.
            Error::Protocol(_) => true,
            Error::Database(db) => match db.try_downcast_ref::<PgDatabaseError>() {
                Some(postgres) => postgres_is_away(postgres.code()),
                None => db.code().and_then(|code| code.parse().ok()).is_some_and(sqlite_is_away),
            },
            _ => false,
        };
        if away { StoreError::Unavailable(error.to_string()) } else { StoreError::Broken(error.to_string()) }
    }
}

/// Classes 08 connection, 40 rollback, 53 resources, 55 object state, 57 intervention; 25006
/// read-only, 25P03 idle too long (PostgreSQL manual, appendix A).
fn postgres_is_away(code: &str) -> bool {
    ["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class)) || ["25006", "25P03"].contains(&code)
}

/// The primary code is in the low byte: 5 busy, 6 locked, 8 read-only, 10 I/O error, 13 full
/// (sqlite.org/rescode.html).
fn sqlite_is_away(code: u32) -> bool {
    [5, 6, 8, 10, 13].contains(&(code & 0xff))
}

impl From<Unsealed> for StoreError {
    fn from(error: Unsealed) -> StoreError {
        StoreError::Broken(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_pass_is_told_from_what_will_not() {
        for code in ["08006", "40001", "53300", "55P03", "57P01", "25006", "25P03"] {
            assert!(postgres_is_away(code), "{code}");
        }
        for code in ["23505", "22P05", "42601", "25P02"] {
            assert!(!postgres_is_away(code), "{code}");
        }
        assert!(sqlite_is_away(5) && sqlite_is_away(517) && sqlite_is_away(778) && sqlite_is_away(13));
        assert!(!sqlite_is_away(1) && !sqlite_is_away(2067));
    }
}
