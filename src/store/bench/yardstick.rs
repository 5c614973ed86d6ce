//! The yardstick: how many single rows this database takes, one commit each.

use std::time::{Duration, Instant};

use sqlx::{PgPool, SqlitePool};

use super::{Backend, Scratch};
use crate::{clock, store::StoreError};

const MAKE: &str = "CREATE TABLE IF NOT EXISTS bench_yardstick (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)";

const INSERT: &str = "INSERT INTO bench_yardstick (id, payload) VALUES ($1, $2)";

/// As long as a small task's payload.
const PAYLOAD: &str = "{\"text\":\"The harbour master counts the boats every evening before the lamps are lit, \
    and the lighthouse keeper writes the number down in the old green book at the top of the stairs.\"}";

/// What came of single-row inserts.
#[derive(Debug, Clone, Copy)]
pub struct Inserted {
    /// Rows, all committed.
    pub rows: u64,
    /// In this time.
    pub took: Duration,
}

impl Scratch {
    /// Inserts rows one by one through `clients` connections for a while, as `pgbench` would.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn insert_one_by_one(&self, clients: u32, during: Duration) -> Result<Inserted, StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => sqlx::query(MAKE).execute(pool).await.map(drop)?,
            Backend::Sqlite { pool } => sqlx::query(MAKE).execute(pool).await.map(drop)?,
        }
        let offset = clock::now().timestamp_micros();
        let began = clock::tick();
        let clients = (0..i64::from(clients)).map(|client| async move {
            let first = offset + (client << 40);
            match &self.backend {
                Backend::Postgres { pool, .. } => on_postgres(pool, first, began, during).await,
                Backend::Sqlite { pool } => on_sqlite(pool, first, began, during).await,
            }
        });
        let rows = futures::future::try_join_all(clients).await?;
        Ok(Inserted { rows: rows.into_iter().sum(), took: began.elapsed() })
    }
}

async fn on_postgres(pool: &PgPool, first: i64, began: Instant, during: Duration) -> Result<u64, StoreError> {
    let mut connection = pool.acquire().await?;
    let mut rows = 0;
    while began.elapsed() < during {
        sqlx::query(INSERT).bind(first + rows).bind(PAYLOAD).execute(&mut *connection).await?;
        rows += 1;
    }
    Ok(rows.unsigned_abs())
}

async fn on_sqlite(pool: &SqlitePool, first: i64, began: Instant, during: Duration) -> Result<u64, StoreError> {
    let mut rows = 0;
    while began.elapsed() < during {
        sqlx::query(INSERT).bind(first + rows).bind(PAYLOAD).execute(pool).await?;
        rows += 1;
    }
    Ok(rows.unsigned_abs())
}
