//! What `bench` asks of a database beside the service that it measures: a database of its own,
//! how much was written, rows by the million, an old snapshot, and single-row inserts to compare
//! with. Nothing of the service uses it.

mod fill;
mod yardstick;

use std::{path::Path, str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use self::{fill::Fill, yardstick::Inserted};
use super::StoreError;
use crate::{clock, task::lifecycle::State};

/// Connections for looking on and for the yardstick.
const CONNECTIONS: u32 = 12;

/// What the names of all databases begin with that are made here.
const PREFIX: &str = "model_asynch_bench_";

const LEFT: &str = "SELECT datname FROM pg_database WHERE starts_with(datname, $1)";

const DROP: &str = "DROP DATABASE IF EXISTS";

/// What the cluster has written so far, all databases together: an assigned transaction id is a
/// transaction that wrote something, and it counts at once, as the statistics of commits do not.
const WRITTEN: &str = "
    SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

const SETTINGS: [&str; 6] =
    ["server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "full_page_writes"];

/// Sessions on other databases of the same server, whose processor time is not ours.
const STRANGERS: &str = "SELECT pid FROM pg_stat_activity WHERE datname <> current_database()";

/// A database that was made for a measurement and goes with it.
pub struct Scratch {
    backend: Backend,
}

enum Backend {
    Postgres {
        pool: PgPool,
        /// A connection to the database that was there before.
        server: Box<PgConnectOptions>,
        name: String,
    },
    Sqlite {
        pool: SqlitePool,
    },
}

/// What the server has written since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Bytes of write-ahead log.
    pub wal_bytes: i64,
    /// Transactions that wrote something.
    pub transactions: i64,
}

/// An open transaction that sees the database as it was, and so keeps every dead row from being
/// cleaned up; ends when dropped.
pub struct OldSnapshot {
    _connection: PgConnection,
}

impl Scratch {
    /// Makes a database on the Postgres server behind `url`, and returns it with its own URL. Its
    /// name begins with that of the `run`, a token.
    ///
    /// # Errors
    /// Out of reach, or the user may not create databases.
    pub async fn on_postgres(url: &str, run: &str) -> Result<(Scratch, String), StoreError> {
        let server = PgConnectOptions::from_str(url)?;
        let name = format!("{PREFIX}{run}_{}", &clock::token()[..8]);
        let mut connection = PgConnection::connect_with(&server).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        let mut own = url::Url::parse(url).map_err(|error| StoreError::Broken(format!("the URL: {error}")))?;
        own.set_path(&name);
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_lazy_with(server.clone().database(&name));
        Ok((Scratch { backend: Backend::Postgres { pool, server: Box::new(server), name } }, own.into()))
    }

    /// Looks on at the embedded database in `path`, which the service makes.
    pub fn on_sqlite(path: &Path) -> Scratch {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30));
        // One connection: SQLite has one writer, and this way its clients wait in line.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
        Scratch { backend: Backend::Sqlite { pool } }
    }

    /// Drops the database; the embedded one goes with its folder.
    ///
    /// # Errors
    /// Where it cannot be dropped; the message names it.
    pub async fn remove(self) -> Result<(), StoreError> {
        match self.backend {
            Backend::Postgres { pool, server, name } => {
                pool.close().await;
                let mut connection = PgConnection::connect_with(&*server).await?;
                let statement = format!("{DROP} {name} WITH (FORCE)");
                sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
            }
            Backend::Sqlite { pool } => pool.close().await,
        }
        Ok(())
    }

    /// Drops what is left of a run that was interrupted.
    ///
    /// # Errors
    /// Out of reach, or a database that cannot be dropped.
    pub async fn remove_all(url: &str, run: &str) -> Result<(), StoreError> {
        let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?;
        let names: Vec<String> =
            sqlx::query_scalar(LEFT).bind(format!("{PREFIX}{run}_")).fetch_all(&mut connection).await?;
        for name in names {
            let statement = format!("{DROP} {name} WITH (FORCE)");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        Ok(())
    }

    /// What was written so far; `None` for the embedded database, which does not count.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn written(&self) -> Result<Option<Written>, StoreError> {
        let Backend::Postgres { pool, .. } = &self.backend else { return Ok(None) };
        let (wal_bytes, transactions) = sqlx::query_as(WRITTEN).fetch_one(pool).await?;
        Ok(Some(Written { wal_bytes, transactions }))
    }

    /// Version and the settings that matter, by name.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn settings(&self) -> Result<Vec<(String, String)>, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                let query = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY ($1) ORDER BY name";
                Ok(sqlx::query_as(query).bind(&SETTINGS[..]).fetch_all(pool).await?)
            }
            Backend::Sqlite { pool } => {
                let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await?;
                Ok(vec![("sqlite_version".to_owned(), version), ("synchronous".to_owned(), "full".to_owned())])
            }
        }
    }

    /// The process that serves one of our connections; `None` for the embedded database.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn a_process(&self) -> Result<Option<i32>, StoreError> {
        let Backend::Postgres { pool, .. } = &self.backend else { return Ok(None) };
        Ok(Some(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pool).await?))
    }

    /// Processes of the same server that work for others.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn strangers(&self) -> Result<Vec<i32>, StoreError> {
        let Backend::Postgres { pool, .. } = &self.backend else { return Ok(Vec::new()) };
        Ok(sqlx::query_scalar(STRANGERS).fetch_all(pool).await?)
    }

    /// Tasks in a state, counted.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn count(&self, state: State) -> Result<i64, StoreError> {
        let query = "SELECT count(*) FROM asynch_task WHERE state = $1";
        Ok(match &self.backend {
            Backend::Postgres { pool, .. } => sqlx::query_scalar(query).bind(state.number()).fetch_one(pool).await?,
            Backend::Sqlite { pool } => sqlx::query_scalar(query).bind(state.number()).fetch_one(pool).await?,
        })
    }

    /// Opens a transaction and leaves it open; `None` for the embedded database, where it would
    /// only keep its log from being cut.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn old_snapshot(&self) -> Result<Option<OldSnapshot>, StoreError> {
        let Backend::Postgres { server, name, .. } = &self.backend else { return Ok(None) };
        let mut connection = PgConnection::connect_with(&server.clone().database(name)).await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
        sqlx::query("SELECT count(*) FROM asynch_models").execute(&mut connection).await?;
        Ok(Some(OldSnapshot { _connection: connection }))
    }
}
