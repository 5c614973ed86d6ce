//! When to stop asking Redis: values only, the gate acts on them. Public for `tests/sim` alone.

use std::time::{Duration, Instant};

/// So many failures in a row, within [`WINDOW`], open the breaker.
const FAILURES: u32 = 3;

/// Failures further apart than this are hiccups, each on its own.
const WINDOW: Duration = Duration::from_secs(1);

/// Open = Redis is left alone but for a probe now and then.
#[derive(Debug, Default)]
pub struct Breaker {
    open: bool,
    failures: u32,
    since: Option<Instant>,
}

impl Breaker {
    /// True while Redis is left alone.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Counts a failure; true where this one opened the breaker. `dead`: there is no point in
    /// counting on, because another try would only wait or be refused again.
    pub fn failed(&mut self, at: Instant, dead: bool) -> bool {
        if self.open {
            return false;
        }
        match self.since {
            Some(since) if at.saturating_duration_since(since) <= WINDOW => self.failures += 1,
            _ => (self.since, self.failures) = (Some(at), 1),
        }
        self.open = dead || self.failures >= FAILURES;
        self.open
    }

    /// Forgets the failures before it. An open breaker stays open: one lucky call says nothing
    /// about whether Redis knows what it must know.
    pub fn succeeded(&mut self) {
        self.since = None;
    }

    /// Redis is back and knows what it must know.
    pub fn close(&mut self) {
        *self = Breaker::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn three_failures_within_a_second_open_it() {
        let (mut breaker, at) = (Breaker::default(), clock::tick());
        assert!(!breaker.failed(at, false));
        assert!(!breaker.failed(at + Duration::from_millis(500), false));
        assert!(breaker.failed(at + Duration::from_secs(1), false));
        assert!(breaker.is_open());
        assert!(!breaker.failed(at + Duration::from_secs(1), false), "it opens once");
    }

    #[test]
    fn failures_far_apart_or_with_a_success_between_leave_it_closed() {
        let (mut breaker, at) = (Breaker::default(), clock::tick());
        for second in [0, 2, 4, 6] {
            assert!(!breaker.failed(at + Duration::from_secs(second), false));
        }
        for _ in 0..4 {
            breaker.succeeded();
            assert!(!breaker.failed(at, false));
        }
    }

    #[test]
    fn a_dead_redis_opens_it_at_once_and_only_closing_closes_it() {
        let mut breaker = Breaker::default();
        assert!(breaker.failed(clock::tick(), true));
        breaker.succeeded();
        assert!(breaker.is_open());
        breaker.close();
        assert!(!breaker.is_open());
        assert!(!breaker.failed(clock::tick(), false), "failures before it count no more");
    }
}
