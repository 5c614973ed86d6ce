//! So many requests a second for each tenant on this node.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::error::ApiError;
use crate::{task::TenantId, tenants::Tenants};

/// After so many requests tenants that have been quiet are forgotten, so that memory goes with the
/// tenants of the last seconds and not with all there ever were.
const FORGET_AFTER: u32 = 65_536;

type Limiter = DefaultKeyedRateLimiter<TenantId>;

/// Who has asked how much lately, held against what is in force for it.
pub(crate) struct Rate {
    tenants: Tenants,
    buckets: Buckets,
}

/// A tenant may ask for one second's worth at once. Those with the same rate share a limiter; one whose
/// rate is changed begins anew.
#[derive(Default)]
struct Buckets {
    limiters: RwLock<HashMap<NonZeroU32, Arc<Limiter>>>,
    asked: AtomicU32,
}

impl Rate {
    /// As many requests as those tenants may make.
    pub(crate) fn new(tenants: Tenants) -> Rate {
        Rate { tenants, buckets: Buckets::default() }
    }

    /// Counts a request of that tenant; the caller's own tenant counts, whichever an admin acts for.
    ///
    /// # Errors
    /// 429 where it asks too often.
    pub(crate) fn take(&self, tenant: TenantId) -> Result<(), ApiError> {
        match u32::try_from(self.tenants.in_force(tenant).requests_per_second).ok().and_then(NonZeroU32::new) {
            Some(per_second) => self.buckets.take(tenant, per_second),
            None => Ok(()),
        }
    }
}

impl Buckets {
    fn take(&self, tenant: TenantId, per_second: NonZeroU32) -> Result<(), ApiError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == FORGET_AFTER - 1 {
            self.forget();
        }
        let limiter = self.limiter(per_second);
        limiter.check_key(&tenant).map_err(|refused| {
            let wait = refused.wait_time_from(limiter.clock().now());
            ApiError::rate_limited(wait.as_secs_f64().ceil() as u32)
        })
    }

    fn limiter(&self, per_second: NonZeroU32) -> Arc<Limiter> {
        if let Some(limiter) = self.limiters.read().unwrap_or_else(PoisonError::into_inner).get(&per_second) {
            return Arc::clone(limiter);
        }
        let mut limiters = self.limiters.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RateLimiter::keyed(Quota::per_second(per_second)));
        Arc::clone(limiters.entry(per_second).or_insert_with(new))
    }

    fn forget(&self) {
        self.limiters.write().unwrap_or_else(PoisonError::into_inner).retain(|_, limiter| {
            limiter.retain_recent();
            limiter.shrink_to_fit();
            !limiter.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Kind;

    const THREE: NonZeroU32 = NonZeroU32::new(3).unwrap();

    #[test]
    fn a_tenant_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up() {
        let buckets = Buckets::default();
        for _ in 0..3 {
            assert!(buckets.take(TenantId(7), THREE).is_ok());
        }
        assert_eq!(buckets.take(TenantId(7), THREE).map_err(|error| error.kind()), Err(Kind::RateLimited));
        assert!(buckets.take(TenantId(8), THREE).is_ok());
    }

    #[test]
    fn a_tenant_with_another_rate_is_held_to_that() {
        let buckets = Buckets::default();
        let one = NonZeroU32::MIN;
        assert!(buckets.take(TenantId(7), one).is_ok());
        assert!(buckets.take(TenantId(7), one).is_err());
        assert!(buckets.take(TenantId(7), THREE).is_ok(), "a changed rate holds for the next request");
    }
}
