//! Sealing what is stored anew after `secrets.key` was changed.
//!
//! Safe while services run: a row is only changed if it still says what was read, and pages are
//! small, so nobody waits for long.

use sqlx::Row as _;
use uuid::Uuid;

use super::{Backend, Store, StoreError, on_each, value::Id, within};
use crate::secrets::Resealed;

/// Rows looked at in one transaction.
const PAGE: i64 = 200;

const MODELS: &str = "SELECT id, api_key FROM asynch_models WHERE id > $1 ORDER BY id LIMIT $2";

const RESEAL_MODEL: &str = "UPDATE asynch_models SET api_key = $1 WHERE id = $2 AND api_key = $3";

const TASKS: &str = "\
    SELECT tenant_id, task_id, caller_headers FROM asynch_task \
    WHERE (tenant_id, task_id) > ($1, $2) ORDER BY tenant_id, task_id LIMIT $3";

const RESEAL_TASK: &str =
    "UPDATE asynch_task SET caller_headers = $1 WHERE tenant_id = $2 AND task_id = $3 AND caller_headers = $4";

/// What sealing anew came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Values that are sealed under the current key now and were not before.
    pub resealed: u64,
    /// Values that none of the keys opens; they are left as they are.
    pub unreadable: u64,
    /// Values that somebody else changed meanwhile; they are left as they are.
    pub overtaken: u64,
}

impl Store {
    /// Seals the headers of all models under the current key.
    ///
    /// # Errors
    /// Where the database is out of reach; what is done by then stays done.
    pub async fn reseal_models(&self) -> Result<Rotation, StoreError> {
        let mut total = Rotation::default();
        let mut after = i64::MIN;
        loop {
            let (page, last) = within(self.reseal_page_of_models(after)).await?;
            total.add(page);
            match last {
                Some(last) => after = last,
                None => return Ok(total),
            }
        }
    }

    /// Seals the headers that tasks keep of their callers under the current key.
    ///
    /// # Errors
    /// Where the database is out of reach; what is done by then stays done.
    pub async fn reseal_tasks(&self) -> Result<Rotation, StoreError> {
        let mut total = Rotation::default();
        let mut after = (i64::MIN, Id(Uuid::nil()));
        loop {
            let (page, last) = within(self.reseal_page_of_tasks(after)).await?;
            total.add(page);
            match last {
                Some(last) => after = last,
                None => return Ok(total),
            }
        }
    }

    async fn reseal_page_of_models(&self, after: i64) -> Result<(Rotation, Option<i64>), StoreError> {
        let mut page = Rotation::default();
        let mut last = None;
        on_each!(&self.backend, write pool => {
            let mut transaction = pool.begin_with(self.begin_writing()).await?;
            let rows = sqlx::query(MODELS).bind(after).bind(PAGE).fetch_all(&mut *transaction).await?;
            for row in rows {
                let (id, stored): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
                last = Some(id);
                if let Some(sealed) = page.wanted(self.vault.reseal(&stored)?) {
                    let update = sqlx::query(RESEAL_MODEL).bind(sealed).bind(id).bind(stored);
                    page.written(update.execute(&mut *transaction).await?.rows_affected());
                }
            }
            transaction.commit().await?;
        });
        Ok((page, last))
    }

    async fn reseal_page_of_tasks(&self, after: (i64, Id)) -> Result<(Rotation, Option<(i64, Id)>), StoreError> {
        let mut page = Rotation::default();
        let mut last = None;
        on_each!(&self.backend, write pool => {
            let mut transaction = pool.begin_with(self.begin_writing()).await?;
            let rows =
                sqlx::query(TASKS).bind(after.0).bind(after.1).bind(PAGE).fetch_all(&mut *transaction).await?;
            for row in rows {
                let (tenant, id): (i64, Id) = (row.try_get(0)?, row.try_get(1)?);
                let stored: String = row.try_get(2)?;
                last = Some((tenant, id));
                if let Some(sealed) = page.wanted(self.vault.reseal(&stored)?) {
                    let update = sqlx::query(RESEAL_TASK).bind(sealed).bind(tenant).bind(id).bind(stored);
                    page.written(update.execute(&mut *transaction).await?.rows_affected());
                }
            }
            transaction.commit().await?;
        });
        Ok((page, last))
    }

    fn begin_writing(&self) -> &'static str {
        match &self.backend {
            Backend::Postgres { .. } => "BEGIN",
            Backend::Sqlite { .. } => "BEGIN IMMEDIATE",
        }
    }
}

impl Rotation {
    /// Both together.
    pub fn add(&mut self, other: Rotation) {
        self.resealed += other.resealed;
        self.unreadable += other.unreadable;
        self.overtaken += other.overtaken;
    }

    /// The text to write, if there is one.
    fn wanted(&mut self, outcome: Resealed) -> Option<String> {
        match outcome {
            Resealed::Changed(sealed) => return Some(sealed),
            Resealed::Unreadable => self.unreadable += 1,
            Resealed::Current => {}
        }
        None
    }

    fn written(&mut self, rows: u64) {
        match rows {
            0 => self.overtaken += 1,
            rows => self.resealed += rows,
        }
    }
}
