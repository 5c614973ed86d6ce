//! The verbs on models.

use super::{Listing, Page, Store, StoreError, row::Columns};
use crate::{
    model::{HttpMethod, Model, ModelSpec, headers::Headers},
    secrets::Vault,
    task::{ModelId, TenantId},
};

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
    pub async fn create_model(
        &self,
        _tenant: TenantId,
        _user: &str,
        _spec: &ModelSpec,
    ) -> Result<ModelChanged, StoreError> {
        todo!()
    }

    /// Changes a model: reads it, lets `change` make the new spec, and writes that in the same
    /// transaction. `E` is the caller's reason to refuse.
    pub async fn update_model<E>(
        &self,
        _tenant: TenantId,
        _id: ModelId,
        _user: &str,
        _change: impl FnOnce(&Model) -> Result<ModelSpec, E> + Send,
    ) -> Result<Result<ModelChanged, E>, StoreError>
    where
        E: Send,
    {
        todo!()
    }

    /// Deletes a model softly: its name can be used again.
    pub async fn delete_model(&self, _tenant: TenantId, _id: ModelId, _user: &str) -> Result<ModelChanged, StoreError> {
        todo!()
    }

    /// One model of a tenant.
    pub async fn model(&self, _tenant: TenantId, _id: ModelId) -> Result<Option<Model>, StoreError> {
        todo!()
    }

    /// The model that `tenant` means by `name`: its own first, then a shared one of tenant 0.
    pub async fn model_by_name(&self, _tenant: TenantId, _name: &str) -> Result<Option<Model>, StoreError> {
        todo!()
    }

    /// Models by id, of any tenant, deleted ones left out: the limits of lanes.
    pub async fn models_by_id(&self, _ids: &[ModelId]) -> Result<Vec<Model>, StoreError> {
        todo!()
    }

    /// Models of a tenant whose name contains `name`, newest first.
    pub async fn list_models(
        &self,
        _tenant: TenantId,
        _name: Option<&str>,
        _page: Page,
    ) -> Result<Listing<Model>, StoreError> {
        todo!()
    }
}

/// The columns that [`read_model`] reads.
pub(super) const MODEL_COLUMNS: &str = "id, tenant_id, creator, updater, created_at, updated_at, model_name, base_url, \
     route, http_method, api_key, enabled, max_concurrency, total_concurrency, queue_limit, timeout_seconds, \
     retry_times, retry_queue_max_seconds, auto_clean_seconds, remark, shared";

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
