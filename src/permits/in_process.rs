//! Permits kept in this process: the embedded default.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    permits::Ask,
    task::{Lane, ModelId, TenantId},
};

/// A counter per lane, per model and per tenant.
#[derive(Clone, Default)]
pub struct InProcessPermits {
    counters: Arc<Mutex<Counters>>,
}

/// Permits out; what has none has no entry.
#[derive(Default)]
struct Counters {
    lanes: HashMap<Lane, u32>,
    models: HashMap<ModelId, u32>,
    tenants: HashMap<TenantId, u32>,
}

/// One permit of a lane; dropping it counts it back.
pub(super) struct InProcessPermit {
    lane: Lane,
    counters: Arc<Mutex<Counters>>,
}

impl InProcessPermits {
    pub(super) fn held(&self) -> usize {
        locked(&self.counters).lanes.values().map(|count| *count as usize).sum()
    }

    pub(super) fn try_acquire(&self, asks: &[Ask]) -> Vec<Vec<InProcessPermit>> {
        let mut counters = locked(&self.counters);
        asks.iter()
            .map(|ask| {
                let granted = counters.take(ask);
                (0..granted).map(|_| InProcessPermit { lane: ask.lane, counters: self.counters.clone() }).collect()
            })
            .collect()
    }
}

impl Counters {
    /// Counts as many as fit, and says how many.
    fn take(&mut self, ask: &Ask) -> u32 {
        let in_lane = self.lanes.get(&ask.lane).copied().unwrap_or(0);
        let in_model = self.models.get(&ask.lane.model).copied().unwrap_or(0);
        let of_tenant = self.tenants.get(&ask.lane.tenant).copied().unwrap_or(0);
        let room_in_lane = ask.limit.saturating_sub(in_lane);
        let room_in_model = ask.total.map_or(u32::MAX, |total| total.saturating_sub(in_model));
        let room_of_tenant = ask.cap.map_or(u32::MAX, |cap| cap.saturating_sub(of_tenant));
        let granted = ask.want.min(room_in_lane).min(room_in_model).min(room_of_tenant);
        if granted > 0 {
            self.lanes.insert(ask.lane, in_lane + granted);
            // Counted with or without these limits, so that one set later is exact from the start.
            self.models.insert(ask.lane.model, in_model + granted);
            self.tenants.insert(ask.lane.tenant, of_tenant + granted);
        }
        granted
    }

    fn give_back(&mut self, lane: Lane) {
        decrement(&mut self.lanes, &lane);
        decrement(&mut self.models, &lane.model);
        decrement(&mut self.tenants, &lane.tenant);
    }
}

impl Drop for InProcessPermit {
    fn drop(&mut self) {
        locked(&self.counters).give_back(self.lane);
    }
}

impl fmt::Debug for InProcessPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InProcessPermit({})", self.lane)
    }
}

/// Every change to the counters is complete before anything could panic, so poison means nothing.
fn locked(counters: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_without_permits_out_takes_no_memory() {
        let gate = InProcessPermits::default();
        let lane = Lane { model: ModelId(1), tenant: TenantId(2) };
        let granted = gate.try_acquire(&[Ask { lane, limit: 3, total: Some(5), cap: Some(4), want: 9 }]);
        assert_eq!(granted[0].len(), 3);
        drop(granted);
        let counters = locked(&gate.counters);
        assert!(counters.lanes.is_empty() && counters.models.is_empty() && counters.tenants.is_empty());
    }
}
