//! The verbs on models.

use super::{Listing, Page, Store, StoreError};
use crate::{
    model::{Model, ModelSpec},
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
