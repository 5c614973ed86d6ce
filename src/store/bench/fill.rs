//! Rows by the million, as createTask would have left them.

use super::{Backend, Scratch};
use crate::{clock, store::StoreError, task::ModelId};

/// Rows in one statement: large enough to be quick, small enough not to outlast a timeout.
const AT_ONCE: i64 = 200_000;

/// Ids increase with their row, as those of one node do, and look like a `UUIDv7`.
const FILL_POSTGRES: &str = "
    INSERT INTO asynch_task (tenant_id, task_id, model_id, creator, updater, model_name, request_payload,
                             created_at, updated_at, enqueue_at)
    SELECT $4 + g % $5, (lpad(to_hex(g + (1::bigint << 40)), 12, '0') || '70008' || lpad(to_hex(g), 15, '0'))::uuid,
           $3, 'bench', 'bench', $6, $7::json, now() - at, now() - at, now() - at
    FROM generate_series($1::bigint, $2::bigint) AS g,
         LATERAL (SELECT make_interval(secs => ($8 - g) * 0.00001) AS at) AS t";

const FILL_SQLITE: &str = "
    WITH RECURSIVE s(g) AS (SELECT $1 UNION ALL SELECT g + 1 FROM s WHERE g < $2)
    INSERT INTO asynch_task (tenant_id, task_id, model_id, creator, updater, model_name, request_payload,
                             created_at, updated_at, enqueue_at)
    SELECT $4 + g % $5,
           printf('%08x-%04x-7000-8000-%012x', (g + (1 << 40)) >> 16, (g + (1 << 40)) & 65535, g),
           $3, 'bench', 'bench', $6, $7, $8 - ($9 - g) * 10, $8 - ($9 - g) * 10, $8 - ($9 - g) * 10
    FROM s";

const LANES_IN: &str = "
    INSERT INTO asynch_lane_in (tenant_id, model_id, entered)
    SELECT tenant_id, model_id, count(*) FROM asynch_task WHERE model_id = $1 GROUP BY tenant_id, model_id
    ON CONFLICT (tenant_id, model_id) DO UPDATE SET entered = EXCLUDED.entered";

const LANES_OUT: &str = "
    INSERT INTO asynch_lane_out (tenant_id, model_id)
    SELECT DISTINCT tenant_id, model_id FROM asynch_task WHERE model_id = $1
    ON CONFLICT DO NOTHING";

/// Queued tasks to make.
#[derive(Debug, Clone, Copy)]
pub struct Fill<'a> {
    /// Of this model.
    pub model: ModelId,
    /// Its name.
    pub model_name: &'a str,
    /// How many.
    pub rows: i64,
    /// The first of the tenants that they belong to.
    pub first_tenant: i64,
    /// How many tenants they are spread over, in turn.
    pub tenants: i64,
    /// What each asks of the model: JSON.
    pub payload: &'a str,
    /// Number of the first row; ids are made of it and must not repeat.
    pub first_row: i64,
}

impl Scratch {
    /// Makes queued tasks and the lanes they are in. Nobody is woken: a worker finds them at its
    /// start, or with its slow scan.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn fill(&self, fill: &Fill<'_>) -> Result<(), StoreError> {
        let last = fill.first_row + fill.rows - 1;
        let mut from = fill.first_row;
        while from <= last {
            let to = last.min(from + AT_ONCE - 1);
            self.fill_some(fill, from, to, last).await?;
            from = to + 1;
        }
        let model = fill.model.0;
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                sqlx::query(LANES_IN).bind(model).execute(pool).await?;
                sqlx::query(LANES_OUT).bind(model).execute(pool).await?;
                // As after an hour of work, when the server has long done so by itself.
                sqlx::query("VACUUM ANALYZE asynch_task").execute(pool).await?;
                sqlx::query("CHECKPOINT").execute(pool).await.ok();
            }
            Backend::Sqlite { pool } => {
                sqlx::query(LANES_IN).bind(model).execute(pool).await?;
                sqlx::query(LANES_OUT).bind(model).execute(pool).await?;
            }
        }
        Ok(())
    }

    async fn fill_some(&self, fill: &Fill<'_>, from: i64, to: i64, last: i64) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Postgres { pool, .. } => {
                sqlx::query(FILL_POSTGRES)
                    .bind(from)
                    .bind(to)
                    .bind(fill.model.0)
                    .bind(fill.first_tenant)
                    .bind(fill.tenants)
                    .bind(fill.model_name)
                    .bind(fill.payload)
                    .bind(last)
                    .execute(pool)
                    .await?;
            }
            Backend::Sqlite { pool } => {
                sqlx::query(FILL_SQLITE)
                    .bind(from)
                    .bind(to)
                    .bind(fill.model.0)
                    .bind(fill.first_tenant)
                    .bind(fill.tenants)
                    .bind(fill.model_name)
                    .bind(fill.payload)
                    .bind(clock::now().timestamp_micros())
                    .bind(last)
                    .execute(pool)
                    .await?;
            }
        }
        Ok(())
    }
}
