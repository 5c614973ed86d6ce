//! The verbs on models.

use super::{Backend, Listing, Page, Store, StoreError, on_each, row::Columns, value::Stamp, within};
use crate::{
    clock,
    model::{HttpMethod, Model, ModelSpec, headers::Headers},
    secrets::Vault,
    task::{ModelId, TenantId},
};

/// What [`read_model`] reads, as a literal for `concat!`.
macro_rules! model_columns {
    () => {
        "id, tenant_id, creator, updater, created_at, updated_at, model_name, base_url, route, http_method, api_key, \
         enabled, max_concurrency, total_concurrency, queue_limit, timeout_seconds, retry_times, \
         retry_queue_max_seconds, auto_clean_seconds, remark, shared"
    };
}

pub(super) use model_columns;

/// The columns that [`read_model`] wants to find in a row.
pub(super) const MODEL_COLUMNS: &str = model_columns!();

/// A spec is bound to `$1` to `$15` in both statements that write one.
macro_rules! bind_spec {
    ($query:expr, $spec:expr, $api_key:expr) => {
        $query
            .bind(&$spec.model_name)
            .bind(&$spec.base_url)
            .bind(&$spec.route)
            .bind($spec.http_method.word())
            .bind($api_key)
            .bind(i16::from($spec.enabled))
            .bind($spec.max_concurrency)
            .bind($spec.total_concurrency)
            .bind($spec.queue_limit)
            .bind($spec.timeout_seconds)
            .bind($spec.retry_times)
            .bind($spec.retry_queue_max_seconds)
            .bind($spec.auto_clean_seconds)
            .bind(&$spec.remark)
            .bind(i16::from($spec.shared))
    };
}

const INSERT: &str = "\
    INSERT INTO asynch_models (model_name, base_url, route, http_method, api_key, enabled, max_concurrency, \
        total_concurrency, queue_limit, timeout_seconds, retry_times, retry_queue_max_seconds, auto_clean_seconds, \
        remark, shared, tenant_id, creator, updater, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17, $18, $18) \
    RETURNING id";

const UPDATE: &str = "\
    UPDATE asynch_models SET model_name = $1, base_url = $2, route = $3, http_method = $4, api_key = $5, \
        enabled = $6, max_concurrency = $7, total_concurrency = $8, queue_limit = $9, timeout_seconds = $10, \
        retry_times = $11, retry_queue_max_seconds = $12, auto_clean_seconds = $13, remark = $14, shared = $15, \
        updater = $16, updated_at = $17 \
    WHERE id = $18";

const DELETE: &str = "\
    UPDATE asynch_models SET deleted_at = $1, updated_at = $1, updater = $2 \
    WHERE id = $3 AND tenant_id = $4 AND deleted_at IS NULL";

macro_rules! select_one {
    ($($lock:literal)?) => {
        concat!(
            "SELECT ",
            model_columns!(),
            " FROM asynch_models WHERE id = $1 AND tenant_id = $2 AND deleted_at IS NULL",
            $($lock)?
        )
    };
}

const SELECT_BY_NAME: &str = concat!(
    "SELECT ",
    model_columns!(),
    " FROM asynch_models \
     WHERE tenant_id IN ($1, 0) AND model_name = $2 AND deleted_at IS NULL AND (tenant_id = $1 OR shared = 1) \
     ORDER BY CASE WHEN tenant_id = $1 THEN 0 ELSE 1 END LIMIT 1"
);

const SELECT_BY_ID_POSTGRES: &str =
    concat!("SELECT ", model_columns!(), " FROM asynch_models WHERE id = ANY($1) AND deleted_at IS NULL");

const SELECT_BY_ID_SQLITE: &str = concat!(
    "SELECT ",
    model_columns!(),
    " FROM asynch_models WHERE id IN (SELECT value FROM json_each($1)) AND deleted_at IS NULL"
);

/// "Contains" is worded with `replace` because both dialects read that alike and to the letter:
/// LIKE ignores case on SQLite and gives `%` and `_` a meaning.
macro_rules! listed {
    () => {
        " FROM asynch_models WHERE tenant_id = $1 AND deleted_at IS NULL \
         AND ($2 IS NULL OR replace(model_name, $2, '') <> model_name)"
    };
}

const COUNT: &str = concat!("SELECT count(*)", listed!());

const LIST: &str =
    concat!("SELECT ", model_columns!(), listed!(), " ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4");

/// What became of a change to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChanged {
    /// It is stored.
    Done(ModelId),
    /// The tenant has another model of that name.
    NameTaken,
    /// The tenant has no such model.
    NotFound,
}

impl Store {
    /// Registers a model.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn create_model(
        &self,
        tenant: TenantId,
        user: &str,
        spec: &ModelSpec,
    ) -> Result<ModelChanged, StoreError> {
        let api_key = self.vault.seal(&spec.api_key.written())?;
        let inserted: sqlx::Result<i64> = on_each!(&self.backend, write pool => {
            bind_spec!(sqlx::query_scalar(INSERT), spec, &api_key)
                .bind(tenant.0)
                .bind(user)
                .bind(Stamp(clock::now()))
                .fetch_one(pool)
                .await
        });
        match inserted {
            Ok(id) => Ok(ModelChanged::Done(ModelId(id))),
            Err(error) if is_name_taken(&error) => Ok(ModelChanged::NameTaken),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes a model: reads it, lets `change` make the new spec, and writes that in the same
    /// transaction. `E` is the caller's reason to refuse.
    ///
    /// # Errors
    /// Where the database is out of reach or the stored row cannot be read.
    pub async fn update_model<E>(
        &self,
        tenant: TenantId,
        id: ModelId,
        user: &str,
        change: impl FnOnce(&Model) -> Result<ModelSpec, E> + Send,
    ) -> Result<Result<ModelChanged, E>, StoreError>
    where
        E: Send,
    {
        // Two updates of one model follow each other, so that neither loses a field of the other.
        let (begin, select) = match &self.backend {
            Backend::Postgres { .. } => ("BEGIN", select_one!(" FOR UPDATE")),
            Backend::Sqlite { .. } => ("BEGIN IMMEDIATE", select_one!()),
        };
        on_each!(&self.backend, write pool => {
            let mut transaction = pool.begin_with(begin).await?;
            let row = sqlx::query(select).bind(id.0).bind(tenant.0).fetch_optional(&mut *transaction).await?;
            let Some(row) = row else {
                return Ok(Ok(ModelChanged::NotFound));
            };
            let spec = match change(&read_model(&row, &self.vault)?) {
                Ok(spec) => spec,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let updated = bind_spec!(sqlx::query(UPDATE), spec, self.vault.seal(&spec.api_key.written())?)
                .bind(user)
                .bind(Stamp(clock::now()))
                .bind(id.0)
                .execute(&mut *transaction)
                .await;
            match updated {
                Ok(_) => {
                    transaction.commit().await?;
                    Ok(Ok(ModelChanged::Done(id)))
                }
                Err(error) if is_name_taken(&error) => Ok(Ok(ModelChanged::NameTaken)),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Deletes a model softly: its name can be used again.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn delete_model(&self, tenant: TenantId, id: ModelId, user: &str) -> Result<ModelChanged, StoreError> {
        let now = Stamp(clock::now());
        let deleted = on_each!(&self.backend, write pool => {
            sqlx::query(DELETE).bind(now).bind(user).bind(id.0).bind(tenant.0).execute(pool).await?.rows_affected()
        });
        Ok(if deleted == 1 { ModelChanged::Done(id) } else { ModelChanged::NotFound })
    }

    /// One model of a tenant.
    ///
    /// # Errors
    /// Where the database is out of reach or the stored row cannot be read.
    pub async fn model(&self, tenant: TenantId, id: ModelId) -> Result<Option<Model>, StoreError> {
        on_each!(&self.backend, read pool => {
            let row = sqlx::query(select_one!()).bind(id.0).bind(tenant.0).fetch_optional(pool).await?;
            row.map(|row| read_model(&row, &self.vault)).transpose()
        })
    }

    /// The model that `tenant` means by `name`: its own first, then a shared one of tenant 0.
    ///
    /// # Errors
    /// Where the database is out of reach or the stored row cannot be read.
    pub async fn model_by_name(&self, tenant: TenantId, name: &str) -> Result<Option<Model>, StoreError> {
        if is_nowhere(name) {
            return Ok(None);
        }
        within(async {
            on_each!(&self.backend, read pool => {
                let row = sqlx::query(SELECT_BY_NAME).bind(tenant.0).bind(name).fetch_optional(pool).await?;
                row.map(|row| read_model(&row, &self.vault)).transpose()
            })
        })
        .await
    }

    /// Models by id, of any tenant, deleted ones left out: the limits of lanes.
    ///
    /// # Errors
    /// Where the database is out of reach or a stored row cannot be read.
    pub async fn models_by_id(&self, ids: &[ModelId]) -> Result<Vec<Model>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        within(async {
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let rows = sqlx::query(SELECT_BY_ID_POSTGRES).bind(ids).fetch_all(pool).await?;
                    rows.iter().map(|row| read_model(row, &self.vault)).collect()
                }
                Backend::Sqlite { readers, .. } => {
                    let ids = serde_json::Value::from(ids).to_string();
                    let rows = sqlx::query(SELECT_BY_ID_SQLITE).bind(ids).fetch_all(readers).await?;
                    rows.iter().map(|row| read_model(row, &self.vault)).collect()
                }
            }
        })
        .await
    }

    /// Models of a tenant whose name contains `name` (to the letter, case counts), newest first.
    ///
    /// # Errors
    /// Where the database is out of reach or a stored row cannot be read.
    pub async fn list_models(
        &self,
        tenant: TenantId,
        name: Option<&str>,
        page: Page,
    ) -> Result<Listing<Model>, StoreError> {
        let name = name.filter(|name| !name.is_empty());
        if name.is_some_and(is_nowhere) {
            return Ok(Listing { list: Vec::new(), total: 0 });
        }
        on_each!(&self.backend, read pool => {
            let total = sqlx::query_scalar(COUNT).bind(tenant.0).bind(name).fetch_one(pool).await?;
            let rows = sqlx::query(LIST)
                .bind(tenant.0)
                .bind(name)
                .bind(page.limit)
                .bind(page.offset)
                .fetch_all(pool)
                .await?;
            let list = rows.iter().map(|row| read_model(row, &self.vault)).collect::<Result<_, _>>()?;
            Ok(Listing { list, total })
        })
    }
}

/// Reads [`MODEL_COLUMNS`].
pub(super) fn read_model(row: &impl Columns, vault: &Vault) -> Result<Model, StoreError> {
    let method = row.text("http_method")?;
    let api_key = vault.open(&row.text("api_key")?).map_err(|error| StoreError::Broken(error.to_string()))?;
    Ok(Model {
        id: ModelId(row.big("id")?),
        tenant: TenantId(row.big("tenant_id")?),
        creator: row.text("creator")?,
        updater: row.text("updater")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        spec: ModelSpec {
            model_name: row.text("model_name")?,
            base_url: row.text("base_url")?,
            route: row.text("route")?,
            http_method: HttpMethod::from_word(&method)
                .ok_or_else(|| StoreError::Broken(format!("a model has the unknown method {method}")))?,
            api_key: Headers::parse(&api_key)
                .map_err(|error| StoreError::Broken(format!("a model's stored apiKey {error}")))?,
            enabled: row.small("enabled")? != 0,
            max_concurrency: row.int("max_concurrency")?,
            total_concurrency: row.int("total_concurrency")?,
            queue_limit: row.int("queue_limit")?,
            timeout_seconds: row.int("timeout_seconds")?,
            retry_times: row.int("retry_times")?,
            retry_queue_max_seconds: row.int("retry_queue_max_seconds")?,
            auto_clean_seconds: row.int("auto_clean_seconds")?,
            remark: row.text("remark")?,
            shared: row.small("shared")? != 0,
        },
    })
}

/// True of a text that no row can hold: Postgres refuses NUL, even in a question.
pub(super) fn is_nowhere(text: &str) -> bool {
    text.contains('\0')
}

/// The name's index is the only one that a new or changed row can violate: ids are the database's.
fn is_name_taken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.is_unique_violation())
}
