//! The verbs on tenants that somebody has set something for.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Backend, Listing, Page, Store, StoreError, on_each, row::Columns, value::Stamp, within};
use crate::{
    task::TenantId,
    tenant::{Plans, Tenant, Terms},
};

/// The columns that [`read_tenant`] wants to find in a row, as a literal for `concat!`.
macro_rules! tenant_columns {
    () => {
        "tenant_id, plan, requests_per_second, max_concurrency, keep_results, op_log_days, cap, creator, created_at, \
         updater, updated_at"
    };
}

const INSERT: &str = "\
    INSERT INTO asynch_tenant (tenant_id, creator, created_at, updater, updated_at) VALUES ($1, $2, $3, $2, $3) \
    ON CONFLICT (tenant_id) DO NOTHING";

const SELECT_POSTGRES: &str =
    concat!("SELECT ", tenant_columns!(), " FROM asynch_tenant WHERE tenant_id = $1 FOR UPDATE");

const SELECT: &str = concat!("SELECT ", tenant_columns!(), " FROM asynch_tenant WHERE tenant_id = $1");

const UPDATE: &str = "\
    UPDATE asynch_tenant SET plan = $2, requests_per_second = $3, max_concurrency = $4, keep_results = $5, \
        op_log_days = $6, cap = $7, updater = $8, updated_at = $9 \
    WHERE tenant_id = $1";

const LIST: &str = concat!(
    "SELECT ",
    tenant_columns!(),
    " FROM asynch_tenant WHERE ($1 IS NULL OR tenant_id = $1) ORDER BY tenant_id LIMIT $2 OFFSET $3"
);

const COUNT: &str = "SELECT count(*) FROM asynch_tenant WHERE ($1 IS NULL OR tenant_id = $1)";

const CHANGED: &str = concat!(
    "SELECT ",
    tenant_columns!(),
    " FROM asynch_tenant WHERE updated_at > $1 OR (updated_at = $1 AND tenant_id > $2) \
     ORDER BY updated_at, tenant_id LIMIT $3"
);

const SET_CAP: &str = "UPDATE asynch_tenant SET cap = $2 WHERE tenant_id = $1 AND cap <> $2";

impl Store {
    /// Changes what is set for a tenant, or sets it for the first time: `change` makes plan and
    /// settings out of what there is.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn update_tenant(
        &self,
        id: TenantId,
        user: &str,
        plans: &Plans,
        change: impl FnOnce(&mut Option<String>, &mut Terms) + Send,
    ) -> Result<Tenant, StoreError> {
        let (begin, select) = match &self.backend {
            Backend::Postgres { .. } => ("BEGIN", SELECT_POSTGRES),
            Backend::Sqlite { .. } => ("BEGIN IMMEDIATE", SELECT),
        };
        let now = self.now().await?;
        within(async {
            on_each!(&self.backend, write pool => {
                let mut transaction = pool.begin_with(begin).await?;
                sqlx::query(INSERT).bind(id.0).bind(user).bind(Stamp(now)).execute(&mut *transaction).await?;
                let row = sqlx::query(select).bind(id.0).fetch_one(&mut *transaction).await?;
                let mut tenant = read_tenant(&row)?;
                change(&mut tenant.plan, &mut tenant.own);
                tenant.cap = plans.in_force(tenant.plan.as_deref(), &tenant.own).max_concurrency;
                tenant.updater = user.to_owned();
                // Of two changes the later one is the later one, whatever clocks say.
                tenant.updated_at = now.max(tenant.updated_at + TimeDelta::microseconds(1));
                sqlx::query(UPDATE)
                    .bind(id.0)
                    .bind(tenant.plan.as_deref())
                    .bind(tenant.own.requests_per_second)
                    .bind(tenant.own.max_concurrency)
                    .bind(tenant.own.keep_results)
                    .bind(tenant.own.op_log_days)
                    .bind(tenant.cap)
                    .bind(user)
                    .bind(Stamp(tenant.updated_at))
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                Ok(tenant)
            })
        })
        .await
    }

    /// Tenants that something is set for, by number; one of them, or all.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn list_tenants(&self, id: Option<TenantId>, page: Page) -> Result<Listing<Tenant>, StoreError> {
        within(async {
            let id = id.map(|id| id.0);
            on_each!(&self.backend, read pool => {
                let total = sqlx::query_scalar(COUNT).bind(id).fetch_one(pool).await?;
                let rows = sqlx::query(LIST).bind(id).bind(page.limit).bind(page.offset).fetch_all(pool).await?;
                Ok(Listing { list: rows.iter().map(read_tenant).collect::<Result<_, _>>()?, total })
            })
        })
        .await
    }

    /// What is set for a tenant.
    ///
    /// # Errors
    /// Where the database is out of reach or the row cannot be read.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        Ok(self.list_tenants(Some(id), Page { offset: 0, limit: 1 }).await?.list.pop())
    }

    /// Up to `limit` tenants that were changed after that one, the earliest change first.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn tenants_changed_after(
        &self,
        (at, id): (DateTime<Utc>, TenantId),
        limit: i64,
    ) -> Result<Vec<Tenant>, StoreError> {
        within(async {
            on_each!(&self.backend, read pool => {
                let rows = sqlx::query(CHANGED).bind(Stamp(at)).bind(id.0).bind(limit).fetch_all(pool).await?;
                rows.iter().map(read_tenant).collect()
            })
        })
        .await
    }

    /// Puts a tenant's limit over all models in force, where plans say another than the row has;
    /// returns whether they did.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn set_tenant_cap(&self, id: TenantId, cap: i32) -> Result<bool, StoreError> {
        within(async {
            on_each!(&self.backend, write pool => {
                let done = sqlx::query(SET_CAP).bind(id.0).bind(cap).execute(pool).await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }
}

fn read_tenant(row: &impl Columns) -> Result<Tenant, StoreError> {
    Ok(Tenant {
        id: TenantId(row.big("tenant_id")?),
        plan: row.text_if_any("plan")?,
        own: Terms {
            requests_per_second: row.int_if_any("requests_per_second")?,
            max_concurrency: row.int_if_any("max_concurrency")?,
            keep_results: row.int_if_any("keep_results")?,
            op_log_days: row.int_if_any("op_log_days")?,
        },
        cap: row.int("cap")?,
        creator: row.text("creator")?,
        created_at: row.time("created_at")?,
        updater: row.text("updater")?,
        updated_at: row.time("updated_at")?,
    })
}
