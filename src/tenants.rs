//! Tenants as this node knows them: what is in force for each, looked up for every request and every
//! claim, and so kept in memory. What is changed through this node is known at once; what others
//! change is read every few seconds, and everything every ten minutes, should anything have slipped by.
//!
//! Of a tenant's limit over all models this is the view of the gate only; the claim reads the row.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    periodic::{Pace, Swept},
    store::{Store, StoreError},
    task::TenantId,
    tenant::{InForce, Plans, Tenant},
};

/// How often changes of other nodes are read.
const READ_EVERY: Duration = Duration::from_secs(5);

/// How often everything is read again.
const ALL_EVERY: Duration = Duration::from_secs(600);

/// A change is found by its time, which it gets before it can be seen: so much is read twice.
const OVERLAP: TimeDelta = TimeDelta::seconds(60);

/// Rows read at once.
const PAGE: i64 = 1_000;

/// The tenants that something is set for; cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    store: Store,
    plans: Plans,
    known: RwLock<Known>,
}

/// What was read.
#[derive(Default)]
struct Known {
    in_force: HashMap<TenantId, (DateTime<Utc>, InForce)>,
    /// The latest change among them.
    newest: DateTime<Utc>,
}

impl Tenants {
    /// Reads every tenant, and puts in force what plans say now of their limits.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn load(store: Store, plans: Plans) -> Result<Tenants, StoreError> {
        let tenants = Tenants(Arc::new(Inner { store, plans, known: RwLock::default() }));
        tenants.read_since(DateTime::UNIX_EPOCH, true).await?;
        Ok(tenants)
    }

    /// What is in force for that tenant.
    pub fn in_force(&self, id: TenantId) -> InForce {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.in_force.get(&id).map_or(self.0.plans.default, |(_, in_force)| *in_force)
    }

    /// Calls that a tenant may have running over all models, where that is limited.
    pub fn cap(&self, id: TenantId) -> Option<u32> {
        u32::try_from(self.in_force(id).max_concurrency).ok().filter(|cap| *cap > 0)
    }

    /// Takes in a tenant as it is now.
    pub fn learn(&self, tenant: &Tenant) {
        let in_force = self.0.plans.in_force(tenant.plan.as_deref(), &tenant.own);
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        known.newest = known.newest.max(tenant.updated_at);
        let entry = known.in_force.entry(tenant.id).or_insert((tenant.updated_at, in_force));
        // Read before a change that this node made itself, and come later.
        if entry.0 <= tenant.updated_at {
            *entry = (tenant.updated_at, in_force);
        }
    }

    /// Reads what others change, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut pace = Pace::new("reading tenants", READ_EVERY);
        let mut all_read = clock::tick();
        while pace.wait(&stop).await {
            let read = self.read(&mut all_read).await;
            pace.ticked(read);
        }
    }

    async fn read(&self, all_read: &mut Instant) -> Result<Swept, StoreError> {
        let everything = all_read.elapsed() >= ALL_EVERY;
        let newest = self.0.known.read().unwrap_or_else(PoisonError::into_inner).newest;
        self.read_since(if everything { DateTime::UNIX_EPOCH } else { newest - OVERLAP }, false).await?;
        if everything {
            *all_read = clock::tick();
        }
        Ok(Swept::All)
    }

    async fn read_since(&self, since: DateTime<Utc>, sets_caps: bool) -> Result<(), StoreError> {
        let mut after = (since, TenantId(i64::MIN));
        loop {
            let changed = self.0.store.tenants_changed_after(after, PAGE).await?;
            let Some(last) = changed.last() else { return Ok(()) };
            after = (last.updated_at, last.id);
            for tenant in &changed {
                self.learn(tenant);
                let cap = self.0.plans.in_force(tenant.plan.as_deref(), &tenant.own).max_concurrency;
                if sets_caps && cap != tenant.cap {
                    self.0.store.set_tenant_cap(tenant.id, cap).await?;
                }
            }
        }
    }
}
