//! When a cleaner may declare other nodes dead.

use std::time::{Duration, Instant};

/// After an outage of the database everybody's lease looks old; live nodes need time to renew it
/// before anyone is buried.
#[derive(Debug, Clone)]
pub struct Patience {
    lease: Duration,
    /// A pause between two rounds that reached the database which is longer than this counts as an
    /// outage.
    outage: Duration,
    last_good: Instant,
    not_before: Instant,
}

/// What a round may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Whoever let its lease run out is dead.
    Bury,
    /// Not yet.
    Wait,
    /// Not yet, because the database was away just now.
    WasAway,
}

impl Patience {
    /// At its own start a cleaner cannot know whether the database was away just before: a third of
    /// a lease is twice the time between renewals. The embedded store has no other nodes.
    pub fn new(lease: Duration, interval: Duration, embedded: bool, now: Instant) -> Patience {
        let not_before = if embedded { now } else { now + lease / 3 };
        Patience { lease, outage: lease / 2 + interval, last_good: now, not_before }
    }

    /// What a round that reached the database at `now` may do; to be asked once in each.
    pub fn reached(&mut self, now: Instant) -> Verdict {
        let was_away = now.saturating_duration_since(self.last_good) > self.outage;
        self.last_good = now;
        if was_away {
            self.not_before = now + self.lease;
            return Verdict::WasAway;
        }
        if now >= self.not_before { Verdict::Bury } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn a_cleaner_that_just_started_waits_for_a_third_of_a_lease() {
        let start = clock::tick();
        let mut patience = Patience::new(LEASE, Duration::from_secs(1), false, start);
        assert_eq!(patience.reached(start + Duration::from_secs(9)), Verdict::Wait);
        assert_eq!(patience.reached(start + Duration::from_secs(10)), Verdict::Bury);
        assert_eq!(Patience::new(LEASE, Duration::from_secs(1), true, start).reached(start), Verdict::Bury);
    }

    #[test]
    fn after_an_outage_nobody_is_buried_for_a_whole_lease() {
        let start = clock::tick();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(LEASE, Duration::from_secs(1), false, start);
        assert_eq!(patience.reached(at(16)), Verdict::Bury);
        assert_eq!(patience.reached(at(33)), Verdict::WasAway);
        for second in [40, 50, 62] {
            assert_eq!(patience.reached(at(second)), Verdict::Wait);
        }
        assert_eq!(patience.reached(at(63)), Verdict::Bury);
    }
}
