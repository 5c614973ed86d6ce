//! Models as this node knows them: looked up by name for createTask and by id for a lane's limits,
//! kept for a second. The database has the last word where tasks are queued and claimed, so a stale
//! entry can delay a change by that second but never break a limit.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    clock,
    model::Model,
    store::{Store, StoreError},
    task::{ModelId, TenantId},
};

/// How long an entry is believed: half of the 2 s in which a change has to take effect.
const TTL: Duration = Duration::from_secs(1);

/// The age at which one of those who ask reads the model again, while the others go on with what is
/// there: so a busy model is never missing for all of them at once.
const REFRESH: Duration = Duration::from_millis(500);

/// Most entries of each kind; forgotten all at once beyond that.
const CAPACITY: usize = 20_000;

/// Names looked up at once: thousands of requests for a model that nobody has asked for lately, or
/// that does not exist, must not take every connection to the database.
const LOOKUPS: usize = 4;

/// How long a request waits for its turn to look a name up.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// Known models; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    store: Store,
    lookups: Arc<Semaphore>,
    by_name: Arc<Known<(TenantId, String)>>,
    by_id: Arc<Known<ModelId>>,
}

/// Models that were read lately.
struct Known<K>(Mutex<HashMap<K, Entry>>);

struct Entry {
    model: Arc<Model>,
    read_at: Instant,
    /// When somebody was last sent to read it.
    asked_at: Instant,
}

impl Catalog {
    /// An empty catalog over that store.
    pub fn new(store: Store) -> Catalog {
        Catalog { store, lookups: Arc::new(Semaphore::new(LOOKUPS)), by_name: Arc::default(), by_id: Arc::default() }
    }

    /// The model that `tenant` means by `name`. What is not there is never remembered, so a model
    /// can be called as soon as it is created.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn by_name(&self, tenant: TenantId, name: &str) -> Result<Option<Arc<Model>>, StoreError> {
        let key = (tenant, name.to_owned());
        let began = clock::tick();
        if let Some(model) = self.by_name.get(&key, began) {
            return Ok(Some(model));
        }
        let late = |_| StoreError::Unavailable("too many requests look models up".to_owned());
        let _turn = tokio::time::timeout(TURN_TIMEOUT, self.lookups.acquire()).await.map_err(late)?;
        // Whoever had the turn before may have brought it.
        if let Some(model) = self.by_name.read_since(&key, began) {
            return Ok(Some(model));
        }
        let asked_at = clock::tick();
        let found = self.store.model_by_name(tenant, name).await?.map(Arc::new);
        if let Some(model) = &found {
            // Its lane is about to be claimed from: one look at the database serves both.
            self.by_id.put(model.id, model.clone(), asked_at);
            self.by_name.put(key, model.clone(), asked_at);
        }
        Ok(found)
    }

    /// The models with those ids; ids of deleted ones are missing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn by_id(&self, ids: &[ModelId]) -> Result<HashMap<ModelId, Arc<Model>>, StoreError> {
        let asked_at = clock::tick();
        let mut known = HashMap::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.by_id.get(id, asked_at) {
                Some(model) => {
                    known.insert(*id, model);
                }
                None => unknown.push(*id),
            }
        }
        if !unknown.is_empty() {
            for model in self.store.models_by_id(&unknown).await? {
                let model = Arc::new(model);
                self.by_id.put(model.id, model.clone(), asked_at);
                known.insert(model.id, model);
            }
        }
        Ok(known)
    }

    /// Forgets everything: a model was changed through this node.
    pub fn forget(&self) {
        self.by_name.entries().clear();
        self.by_id.entries().clear();
    }
}

impl<K: Eq + Hash> Known<K> {
    /// The model if it may be believed. `None` asks the caller to read it and put it back.
    fn get(&self, key: &K, now: Instant) -> Option<Arc<Model>> {
        let mut entries = self.entries();
        let entry = entries.get_mut(key)?;
        if now.saturating_duration_since(entry.read_at) >= TTL {
            return None;
        }
        if now.saturating_duration_since(entry.asked_at) >= REFRESH {
            entry.asked_at = now;
            return None;
        }
        Some(entry.model.clone())
    }

    /// The model if somebody read it at `since` or later.
    fn read_since(&self, key: &K, since: Instant) -> Option<Arc<Model>> {
        self.entries().get(key).filter(|entry| entry.read_at >= since).map(|entry| entry.model.clone())
    }

    /// Remembers a model that was asked for at `asked_at`: it may have changed since.
    fn put(&self, key: K, model: Arc<Model>, asked_at: Instant) {
        let mut entries = self.entries();
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.insert(key, Entry { model, read_at: asked_at, asked_at });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Known<K> {
    fn default() -> Known<K> {
        Known(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelPatch, ModelSpec};

    fn model() -> Arc<Model> {
        let patch =
            ModelPatch { model_name: Some("tts".into()), base_url: Some("http://m".into()), ..ModelPatch::default() };
        Arc::new(Model {
            id: ModelId(1),
            tenant: TenantId(0),
            creator: String::new(),
            updater: String::new(),
            created_at: clock::now(),
            updated_at: clock::now(),
            spec: ModelSpec::create(&patch, TenantId(0)).unwrap(),
        })
    }

    #[test]
    fn an_entry_is_believed_for_its_time_only() {
        let known = Known::default();
        let read = clock::tick();
        assert!(known.get(&1, read).is_none());
        known.put(1, model(), read);
        assert!(known.get(&1, read + REFRESH / 2).is_some());
        assert!(known.get(&1, read + TTL).is_none());
    }

    #[test]
    fn who_waited_for_a_turn_takes_only_what_was_read_meanwhile() {
        let known = Known::default();
        let began = clock::tick();
        known.put(1, model(), began);
        assert!(known.read_since(&1, began).is_some());
        assert!(known.read_since(&1, began + REFRESH).is_none());
    }

    #[test]
    fn one_of_many_is_sent_to_read_an_ageing_entry() {
        let known = Known::default();
        let read = clock::tick();
        known.put(1, model(), read);
        assert!(known.get(&1, read + REFRESH).is_none());
        assert!(known.get(&1, read + REFRESH).is_some(), "the others go on with what is there");
        assert!(known.get(&1, read + TTL).is_none(), "but no longer than its time, should the reader fail");
    }

    #[test]
    fn the_entries_are_bounded() {
        let known = Known::default();
        let model = model();
        for key in 0..=CAPACITY {
            known.put(key, model.clone(), clock::tick());
        }
        assert!(known.entries().len() <= CAPACITY);
    }
}
