//! The verbs that delete what is kept no longer: in small batches, each a transaction of its own, so
//! that neither locks nor the log grow.
//!
//! Statements may take longer here than elsewhere, for nobody waits for them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Postgres, SqlitePool, Transaction};

use super::{
    Backend, Store, StoreError, on_each,
    row::Columns,
    tasks::{Purged, ledger, rows::read_purged},
    value::{Id, Stamp},
    within,
};
use crate::task::{ModelId, TaskId, TaskKey, TenantId, lifecycle::State};

/// How long one batch may take, on either side of the connection.
const BATCH_TIMEOUT: Duration = Duration::from_secs(300);

const PATIENTLY: &str = "SET LOCAL statement_timeout = '300s'";

// Ids of a tenant grow with time, so its oldest rows come first in the index. Those of one moment may
// be in another order; what is passed over today goes tomorrow.
const PURGE_OP_LOGS: &str = "\
    DELETE FROM asynch_op_log WHERE tenant_id = $1 AND created_at < $2 \
    AND id IN (SELECT id FROM asynch_op_log WHERE tenant_id = $1 ORDER BY id LIMIT $3)";

const NEXT_OP_LOG_TENANT: &str = "SELECT tenant_id FROM asynch_op_log WHERE tenant_id > $1 ORDER BY tenant_id LIMIT 1";

const PURGE_RUNS: &str = "\
    DELETE FROM asynch_job_run WHERE id IN ( \
        SELECT id FROM asynch_job_run WHERE state >= 2 AND created_at < $1 ORDER BY id LIMIT $2)";

const TASKS_BEFORE: &str = "\
    SELECT task_id, model_id, state FROM asynch_task WHERE tenant_id = $1 AND task_id < $2 \
    ORDER BY task_id DESC LIMIT $3";

// A row that is locked is being picked up this moment; it is found again next time.
const PURGE_RESULTS_POSTGRES: &str = "\
    WITH gone AS MATERIALIZED ( \
        SELECT tenant_id AS tenant, task_id AS task FROM asynch_task \
        WHERE tenant_id = $1 AND task_id = ANY($2) AND state >= 2 FOR UPDATE SKIP LOCKED \
    ) \
    DELETE FROM asynch_task USING gone WHERE tenant_id = gone.tenant AND task_id = gone.task \
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key";

const PURGE_RESULTS_SQLITE: &str = "\
    DELETE FROM asynch_task \
    WHERE tenant_id = $1 AND task_id IN (SELECT value FROM json_each($2)) AND state >= 2 \
    RETURNING tenant_id, task_id, model_name, attempt, oss_file, oss_key";

/// A task as far as counting results goes.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Its id.
    pub id: TaskId,
    /// Its model.
    pub model: ModelId,
    /// True where it reached a final state.
    pub is_result: bool,
}

impl Store {
    /// The tenant after that one that has rows in the operation log.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn next_op_log_tenant(&self, after: TenantId) -> Result<Option<TenantId>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let next = sqlx::query_scalar(NEXT_OP_LOG_TENANT).bind(after.0).fetch_optional(pool).await?;
                Ok(next.map(TenantId))
            })
        })
        .await
    }

    /// Deletes at most `most` rows of a tenant's operation log, written before that moment.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge_op_logs(&self, tenant: TenantId, before: DateTime<Utc>, most: u32) -> Result<u64, StoreError> {
        patiently(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let mut transaction = patient(pool).await?;
                    let purge = sqlx::query(PURGE_OP_LOGS).bind(tenant.0).bind(before).bind(i64::from(most));
                    let deleted = purge.execute(&mut *transaction).await?.rows_affected();
                    transaction.commit().await?;
                    Ok(deleted)
                }
                Backend::Sqlite { writer, .. } => {
                    let purge = sqlx::query(PURGE_OP_LOGS).bind(tenant.0).bind(Stamp(before)).bind(most);
                    Ok(purge.execute(writer).await?.rows_affected())
                }
            }
        })
        .await
    }

    /// Deletes at most `most` runs of jobs that are over and were asked for before that moment.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge_runs(&self, before: DateTime<Utc>, most: u32) -> Result<u64, StoreError> {
        patiently(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let mut transaction = patient(pool).await?;
                    let purge = sqlx::query(PURGE_RUNS).bind(before).bind(i64::from(most));
                    let deleted = purge.execute(&mut *transaction).await?.rows_affected();
                    transaction.commit().await?;
                    Ok(deleted)
                }
                Backend::Sqlite { writer, .. } => {
                    let purge = sqlx::query(PURGE_RUNS).bind(Stamp(before)).bind(most);
                    Ok(purge.execute(writer).await?.rows_affected())
                }
            }
        })
        .await
    }

    /// Up to `most` of a tenant's tasks that are older than `before`, newest first.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn tasks_before(&self, tenant: TenantId, before: TaskId, most: u32) -> Result<Vec<Counted>, StoreError> {
        patiently(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let mut transaction = patient(pool).await?;
                    let tasks = sqlx::query(TASKS_BEFORE).bind(tenant.0).bind(Id(before.0)).bind(i64::from(most));
                    let rows = tasks.fetch_all(&mut *transaction).await?;
                    rows.iter().map(read_counted).collect()
                }
                Backend::Sqlite { readers, .. } => {
                    let tasks = sqlx::query(TASKS_BEFORE).bind(tenant.0).bind(Id(before.0)).bind(most);
                    tasks.fetch_all(readers).await?.iter().map(read_counted).collect()
                }
            }
        })
        .await
    }

    /// Deletes those of a tenant's tasks that are in a final state, whatever their age.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn purge_results(&self, tenant: TenantId, ids: &[TaskId]) -> Result<Vec<Purged>, StoreError> {
        patiently(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => purge_postgres(pool, tenant, ids).await,
                Backend::Sqlite { writer, .. } => purge_sqlite(writer, tenant, ids).await,
            }
        })
        .await
    }
}

async fn purge_postgres(pool: &PgPool, tenant: TenantId, ids: &[TaskId]) -> Result<Vec<Purged>, StoreError> {
    let mut transaction = patient(pool).await?;
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(PURGE_RESULTS_POSTGRES).bind(tenant.0).bind(ids).fetch_all(&mut *transaction).await?;
    let purged: Vec<Purged> = rows.iter().map(read_purged).collect::<Result<_, _>>()?;
    ledger::forget_postgres(&mut transaction, &keys(&purged)).await?;
    transaction.commit().await?;
    Ok(purged)
}

async fn purge_sqlite(writer: &SqlitePool, tenant: TenantId, ids: &[TaskId]) -> Result<Vec<Purged>, StoreError> {
    let ids = serde_json::Value::from_iter(ids.iter().map(|id| id.0.hyphenated().to_string())).to_string();
    let mut transaction = writer.begin().await?;
    let rows = sqlx::query(PURGE_RESULTS_SQLITE).bind(tenant.0).bind(ids).fetch_all(&mut *transaction).await?;
    let purged: Vec<Purged> = rows.iter().map(read_purged).collect::<Result<_, _>>()?;
    ledger::forget_sqlite(&mut transaction, &keys(&purged)).await?;
    transaction.commit().await?;
    Ok(purged)
}

/// The tasks whose attempts go with them.
fn keys(purged: &[Purged]) -> Vec<TaskKey> {
    purged.iter().map(|task| task.key).collect()
}

/// A transaction whose statements may take as long as a batch.
async fn patient(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    let mut transaction = pool.begin().await?;
    sqlx::query(PATIENTLY).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// Ends a batch that the database does not answer in time.
async fn patiently<T>(batch: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable(format!("no answer within {} s", BATCH_TIMEOUT.as_secs()));
    tokio::time::timeout(BATCH_TIMEOUT, batch).await.map_err(late)?
}

fn read_counted(row: &impl Columns) -> Result<Counted, StoreError> {
    let state = row.small("state")?;
    let state =
        State::from_number(i64::from(state)).ok_or_else(|| StoreError::Broken(format!("unknown state {state}")))?;
    let is_result = match state {
        State::Queued | State::Running => false,
        State::Succeeded | State::Failed | State::PickedUp | State::Cancelled => true,
    };
    Ok(Counted { id: TaskId(row.uuid("task_id")?), model: ModelId(row.big("model_id")?), is_result })
}
