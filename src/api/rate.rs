//! So many requests a second for each tenant on this node.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::error::ApiError;
use crate::task::TenantId;

/// After so many requests tenants that have been quiet are forgotten, so that memory goes with the
/// tenants of the last seconds and not with all there ever were.
const FORGET_AFTER: u32 = 65_536;

/// Who has asked how much lately. A tenant may ask for one second's worth at once.
pub(crate) struct Rate {
    limiter: DefaultKeyedRateLimiter<TenantId>,
    asked: AtomicU32,
}

impl Rate {
    /// So many requests a second.
    pub(crate) fn per_second(requests: NonZeroU32) -> Rate {
        Rate { limiter: RateLimiter::keyed(Quota::per_second(requests)), asked: AtomicU32::new(0) }
    }

    /// Counts a request of that tenant; the caller's own tenant counts, whichever an admin acts for.
    ///
    /// # Errors
    /// 429 where it asks too often.
    pub(crate) fn take(&self, tenant: TenantId) -> Result<(), ApiError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == FORGET_AFTER - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(&tenant).map_err(|refused| {
            let wait = refused.wait_time_from(self.limiter.clock().now());
            ApiError::rate_limited(wait.as_secs_f64().ceil() as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Kind;

    #[test]
    fn a_tenant_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up() {
        let rate = Rate::per_second(NonZeroU32::new(3).unwrap());
        for _ in 0..3 {
            assert!(rate.take(TenantId(7)).is_ok());
        }
        assert_eq!(rate.take(TenantId(7)).map_err(|error| error.kind()), Err(Kind::RateLimited));
        assert!(rate.take(TenantId(8)).is_ok());
    }
}
