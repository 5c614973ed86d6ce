//! Models as this node knows them: looked up by name for createTask and by id for a lane's limits,
//! kept for a second. The database has the last word where tasks are queued and claimed, so a stale
//! entry can delay a change by that second but never break a limit.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::future::Cache;

use crate::{
    model::Model,
    store::{Store, StoreError},
    task::{ModelId, TenantId},
};

/// How long an entry is believed: half of the 2 s in which a change has to take effect.
const TTL: Duration = Duration::from_secs(1);

/// Most entries of each kind.
const CAPACITY: u64 = 20_000;

/// Known models; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    store: Store,
    by_name: Cache<(TenantId, String), Arc<Model>>,
    by_id: Cache<ModelId, Arc<Model>>,
}

impl Catalog {
    /// An empty catalog over that store.
    pub fn new(store: Store) -> Catalog {
        Catalog {
            store,
            by_name: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
            by_id: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
        }
    }

    /// The model that `tenant` means by `name`. What is not there is never remembered, so a model
    /// can be called as soon as it is created.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn by_name(&self, tenant: TenantId, name: &str) -> Result<Option<Arc<Model>>, StoreError> {
        let key = (tenant, name.to_owned());
        if let Some(model) = self.by_name.get(&key).await {
            return Ok(Some(model));
        }
        let found = self.store.model_by_name(tenant, name).await?.map(Arc::new);
        if let Some(model) = &found {
            self.by_name.insert(key, model.clone()).await;
            // Its lane is about to be claimed from: one look at the database serves both.
            self.by_id.insert(model.id, model.clone()).await;
        }
        Ok(found)
    }

    /// The models with those ids; ids of deleted ones are missing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn by_id(&self, ids: &[ModelId]) -> Result<HashMap<ModelId, Arc<Model>>, StoreError> {
        let mut known = HashMap::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.by_id.get(id).await {
                Some(model) => {
                    known.insert(*id, model);
                }
                None => unknown.push(*id),
            }
        }
        if !unknown.is_empty() {
            for model in self.store.models_by_id(&unknown).await? {
                let model = Arc::new(model);
                self.by_id.insert(model.id, model.clone()).await;
                known.insert(model.id, model);
            }
        }
        Ok(known)
    }

    /// Forgets everything: a model was changed through this node.
    pub fn forget(&self) {
        self.by_name.invalidate_all();
        self.by_id.invalidate_all();
    }
}
