//! The verbs on the series: what happened minute by minute and hour by hour.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

use super::{
    Backend, Store, StoreError,
    models::is_nowhere,
    on_each,
    row::Columns,
    sqlite::Many,
    value::{Id, Stamp},
    within,
};
use crate::{
    series::{Counts, Histogram, Point, SeriesRow, Span},
    task::{NodeId, TenantId},
};

macro_rules! columns {
    () => {
        "span_seconds, began_at, tenant_id, model_name, node, created, succeeded, failed, retried, lost, calls, \
         result_bytes, wait_times, run_times, total_times"
    };
}

const WRITE_POSTGRES: &str = concat!(
    "INSERT INTO asynch_series (",
    columns!(),
    ") SELECT span, at, tenant, model, $5, created, succeeded, failed, retried, lost, calls, bytes, wait, run, total \
     FROM unnest($1::int[], $2::timestamptz[], $3::bigint[], $4::text[], $6::bigint[], $7::bigint[], $8::bigint[], \
         $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[]) \
     AS r (span, at, tenant, model, created, succeeded, failed, retried, lost, calls, bytes, wait, run, total) \
     ON CONFLICT (span_seconds, began_at, tenant_id, model_name, node) DO UPDATE SET created = EXCLUDED.created, \
         succeeded = EXCLUDED.succeeded, failed = EXCLUDED.failed, retried = EXCLUDED.retried, lost = EXCLUDED.lost, \
         calls = EXCLUDED.calls, result_bytes = EXCLUDED.result_bytes, wait_times = EXCLUDED.wait_times, \
         run_times = EXCLUDED.run_times, total_times = EXCLUDED.total_times"
);

static WRITE_SQLITE: LazyLock<Many> =
    LazyLock::new(|| Many::new(concat!("INSERT OR REPLACE INTO asynch_series (", columns!(), ")"), 15));

/// With and without a tenant in two texts, so that each reads the index that fits it.
macro_rules! read {
    ($tenant:literal) => {
        concat!(
            "SELECT span_seconds, began_at, tenant_id, model_name, created, succeeded, failed, retried, lost, calls, \
             result_bytes, wait_times, run_times, total_times FROM asynch_series \
             WHERE span_seconds = $1 AND began_at >= $2 AND began_at < $3 AND ($4 IS NULL OR model_name = $4)",
            $tenant
        )
    };
}

const READ_ALL: &str = read!(" AND $5 IS NULL");
const READ_TENANT: &str = read!(" AND tenant_id = $5");

const PURGE_POSTGRES: &str = "\
    DELETE FROM asynch_series WHERE (span_seconds, began_at, tenant_id, model_name, node) IN ( \
        SELECT span_seconds, began_at, tenant_id, model_name, node FROM asynch_series \
        WHERE span_seconds = $1 AND began_at < $2 ORDER BY began_at LIMIT $3 FOR UPDATE SKIP LOCKED)";

const PURGE_SQLITE: &str = "\
    DELETE FROM asynch_series WHERE (span_seconds, began_at, tenant_id, model_name, node) IN ( \
        SELECT span_seconds, began_at, tenant_id, model_name, node FROM asynch_series \
        WHERE span_seconds = $1 AND began_at < $2 ORDER BY began_at LIMIT $3)";

/// Which rows of the series.
#[derive(Debug, Clone)]
pub struct SeriesFilter {
    /// Minutes or hours.
    pub span: Span,
    /// The first moment.
    pub from: DateTime<Utc>,
    /// The first moment after it.
    pub to: DateTime<Utc>,
    /// Whose; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// Name of the model.
    pub model_name: Option<String>,
}

impl Store {
    /// Writes what spans came to on this node so far, over what was written of them before.
    ///
    /// # Errors
    /// Where the database is out of reach; writing the same again does no harm.
    pub async fn write_series(&self, node: NodeId, rows: &[&SeriesRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        match &self.backend {
            Backend::Postgres { pool, .. } => within(write_postgres(pool, node, rows)).await,
            Backend::Sqlite { writer, .. } => within(write_sqlite(writer, node, rows)).await,
        }
    }

    /// Hands each row to `each`, in no order, those of every node on its own.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn read_series(&self, filter: &SeriesFilter, mut each: impl FnMut(SeriesRow)) -> Result<(), StoreError> {
        let model_name = filter.model_name.as_deref();
        if model_name.is_some_and(is_nowhere) {
            return Ok(());
        }
        let statement = if filter.tenant.is_some() { READ_TENANT } else { READ_ALL };
        within(async {
            on_each!(&self.backend, read pool => {
                let mut rows = sqlx::query(statement)
                    .bind(seconds(filter.span))
                    .bind(Stamp(filter.from))
                    .bind(Stamp(filter.to))
                    .bind(model_name)
                    .bind(filter.tenant.map(|tenant| tenant.0))
                    .fetch(pool);
                while let Some(row) = rows.try_next().await? {
                    each(read_row(&row)?);
                }
            });
            Ok(())
        })
        .await
    }

    /// Deletes at most `most` rows of spans that began before then; returns how many.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge_series(&self, span: Span, before: DateTime<Utc>, most: u32) -> Result<u64, StoreError> {
        within(async {
            Ok(match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let purge =
                        sqlx::query(PURGE_POSTGRES).bind(seconds(span)).bind(Stamp(before)).bind(i64::from(most));
                    purge.execute(pool).await?.rows_affected()
                }
                Backend::Sqlite { writer, .. } => {
                    let purge = sqlx::query(PURGE_SQLITE).bind(seconds(span)).bind(Stamp(before)).bind(i64::from(most));
                    purge.execute(writer).await?.rows_affected()
                }
            })
        })
        .await
    }
}

async fn write_postgres(pool: &PgPool, node: NodeId, rows: &[&SeriesRow]) -> Result<(), StoreError> {
    let numbers =
        |column: fn(&Counts) -> u64| -> Vec<i64> { rows.iter().map(|row| stored(column(&row.point.counts))).collect() };
    let texts = |column: fn(&Point) -> &Histogram| -> Vec<String> {
        rows.iter().map(|row| column(&row.point).to_string()).collect()
    };
    let mut transaction = pool.begin().await?;
    // The series may lose its last moment in a crash of the database; it must not cost a flush.
    sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *transaction).await?;
    sqlx::query(WRITE_POSTGRES)
        .bind(rows.iter().map(|row| seconds(row.span)).collect::<Vec<i32>>())
        .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.tenant.0).collect::<Vec<i64>>())
        .bind(rows.iter().map(|row| row.model_name.as_str()).collect::<Vec<&str>>())
        .bind::<Uuid>(node.0)
        .bind(numbers(|counts| counts.created))
        .bind(numbers(|counts| counts.succeeded))
        .bind(numbers(|counts| counts.failed))
        .bind(numbers(|counts| counts.retried))
        .bind(numbers(|counts| counts.lost))
        .bind(numbers(|counts| counts.calls))
        .bind(numbers(|counts| counts.bytes))
        .bind(texts(|point| &point.wait))
        .bind(texts(|point| &point.run))
        .bind(texts(|point| &point.total))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn write_sqlite(writer: &SqlitePool, node: NodeId, rows: &[&SeriesRow]) -> Result<(), StoreError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    for (statement, rows) in WRITE_SQLITE.pieces(rows) {
        let mut write = sqlx::query(statement);
        for SeriesRow { span, at, tenant, model_name, point } in rows {
            let counts = point.counts;
            write = write
                .bind(seconds(*span))
                .bind(Stamp(*at))
                .bind(tenant.0)
                .bind(model_name)
                .bind(Id(node.0))
                .bind(stored(counts.created))
                .bind(stored(counts.succeeded))
                .bind(stored(counts.failed))
                .bind(stored(counts.retried))
                .bind(stored(counts.lost))
                .bind(stored(counts.calls))
                .bind(stored(counts.bytes))
                .bind(point.wait.to_string())
                .bind(point.run.to_string())
                .bind(point.total.to_string());
        }
        write.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn read_row<R: Columns>(row: &R) -> Result<SeriesRow, StoreError> {
    let count = |column: &str| row.big(column).map(i64::unsigned_abs);
    let times = |column: &str| -> Result<Histogram, StoreError> {
        row.text(column)?.parse().map_err(|error| StoreError::Broken(format!("{column}: {error}")))
    };
    let seconds = row.int("span_seconds")?;
    let span = Span::ALL.into_iter().find(|span| span.seconds() == i64::from(seconds));
    Ok(SeriesRow {
        span: span.ok_or_else(|| StoreError::Broken(format!("span_seconds: {seconds} is no span")))?,
        at: row.time("began_at")?,
        tenant: TenantId(row.big("tenant_id")?),
        model_name: row.text("model_name")?,
        point: Point {
            counts: Counts {
                created: count("created")?,
                succeeded: count("succeeded")?,
                failed: count("failed")?,
                retried: count("retried")?,
                lost: count("lost")?,
                calls: count("calls")?,
                bytes: count("result_bytes")?,
            },
            wait: times("wait_times")?,
            run: times("run_times")?,
            total: times("total_times")?,
        },
    })
}

fn seconds(span: Span) -> i32 {
    i32::try_from(span.seconds()).unwrap_or(i32::MAX)
}

fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
