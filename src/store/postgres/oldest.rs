//! From when on the running calls of a lane have to be counted.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::task::Lane;

/// How far the database's clock may be set back without a call being missed.
const SLACK: TimeDelta = TimeDelta::seconds(2);

/// Lanes that are remembered. Of a forgotten one all running calls are looked for.
const MOST_LANES: usize = 10_000;

/// Of each lane a moment before which none of its running calls began.
///
/// Calls begin under their lane's lock, at a time that was read after the lock was granted. So whatever
/// begins after a count began later than what that count saw, on whichever node, and the oldest call of
/// one count is a bound for all that come after it. Where a count saw none, the time that was read
/// before it is one.
#[derive(Debug, Default)]
pub(super) struct OldestCalls {
    lanes: HashMap<Lane, DateTime<Utc>>,
}

impl OldestCalls {
    /// Where to begin in each lane; nothing where that is not known.
    pub(super) fn since<'a>(&self, wanted: impl IntoIterator<Item = &'a Lane>) -> Vec<Option<DateTime<Utc>>> {
        wanted.into_iter().map(|lane| self.lanes.get(lane).copied()).collect()
    }

    /// A count under the lane's lock saw no call older than that.
    pub(super) fn seen(&mut self, lane: Lane, oldest: DateTime<Utc>) {
        if self.lanes.len() >= MOST_LANES && !self.lanes.contains_key(&lane) {
            self.lanes.clear();
        }
        self.lanes.insert(lane, oldest - SLACK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{ModelId, TenantId};

    #[test]
    fn a_count_begins_shortly_before_the_oldest_call_of_the_last_one() {
        let lane = |tenant| Lane { model: ModelId(1), tenant: TenantId(tenant) };
        let at = DateTime::from_timestamp(1000, 0).unwrap();
        let mut oldest = OldestCalls::default();
        oldest.seen(lane(2), at);
        assert_eq!(oldest.since(&[lane(1), lane(2)]), [None, Some(at - SLACK)]);
    }

    #[test]
    fn of_too_many_lanes_all_are_forgotten() {
        let mut oldest = OldestCalls::default();
        for tenant in 0..=MOST_LANES as i64 {
            oldest.seen(Lane { model: ModelId(1), tenant: TenantId(tenant) }, DateTime::UNIX_EPOCH);
        }
        assert_eq!(oldest.lanes.len(), 1);
    }
}
