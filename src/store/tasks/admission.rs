//! Who gets into a lane: `queueLimit`, decided under the lane's lock. Pure; the statements are in
//! `postgres` and `sqlite`. Public for `tests/sim` alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::Enqueued;
use crate::task::{Lane, submission::NewTask};

/// Lanes whose rows are known to exist; forgotten all at once beyond that.
const MOST_KNOWN: usize = 100_000;

/// A count that took less may be repeated for every batch.
const CHEAP: Duration = Duration::from_millis(5);

/// An expensive count is left alone for so many times its own duration, so that a full lane takes
/// at most a tenth of the committer's time.
const REST_FACTOR: u32 = 10;

/// But never longer, so that a lane with room again is noticed.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The entrance of one lane as it stands under its lock.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The model takes tasks.
    pub enabled: bool,
    /// The model is deleted.
    pub deleted: bool,
    /// `queueLimit`; 0 = none.
    pub limit: i32,
    /// Tasks that ever entered.
    pub entered: i64,
    /// `entered` when live tasks were counted last.
    pub counted_entered: i64,
    /// Live tasks at that count.
    pub counted_live: i64,
    /// These numbers are no longer those of the row.
    pub changed: bool,
}

/// The gates of a batch, in the order in which lanes are locked.
pub type Gates = BTreeMap<Lane, Gate>;

impl Gate {
    /// Tasks that may still enter. Since the last count no more than `entered` says can have come,
    /// and whatever left makes this number too small, never too large.
    fn room(&self) -> i64 {
        if self.limit <= 0 {
            return i64::MAX;
        }
        let most_live = self.counted_live + (self.entered - self.counted_entered);
        (i64::from(self.limit) - most_live).max(0)
    }

    /// Takes in a fresh count of live tasks.
    pub fn recounted(&mut self, live: i64) {
        self.counted_live = live;
        self.counted_entered = self.entered;
        self.changed = true;
    }

    fn admit(&mut self) -> Enqueued {
        if self.deleted {
            return Enqueued::ModelGone;
        }
        if !self.enabled {
            return Enqueued::ModelDisabled;
        }
        if self.room() == 0 {
            return Enqueued::QueueFull { limit: self.limit };
        }
        self.entered += 1;
        self.changed = true;
        Enqueued::Accepted
    }
}

/// The lanes of a batch, in the order in which they are locked, and how many tasks want into each.
pub type Demand = BTreeMap<Lane, i64>;

/// What a batch wants.
pub fn lanes_of(tasks: &[NewTask]) -> Demand {
    let mut demand = Demand::new();
    for task in tasks {
        *demand.entry(task.lane).or_default() += 1;
    }
    demand
}

/// The lanes whose gate may be too narrow for what wants in, because tasks left since the count.
pub fn crowded(gates: &Gates, demand: &Demand) -> Vec<Lane> {
    let crowded = |(lane, gate): (&Lane, &Gate)| {
        let wanted = demand.get(lane).copied().unwrap_or_default();
        (gate.enabled && !gate.deleted && gate.room() < wanted).then_some(*lane)
    };
    gates.iter().filter_map(crowded).collect()
}

/// One verdict for each task, first come first served. A lane without a gate has lost its model.
pub fn admit(gates: &mut Gates, tasks: &[NewTask]) -> Vec<Enqueued> {
    tasks.iter().map(|task| gates.get_mut(&task.lane).map_or(Enqueued::ModelGone, Gate::admit)).collect()
}

/// What a node's enqueuer remembers of lanes between batches.
#[derive(Debug, Default)]
pub(in crate::store) struct LaneMemory {
    known: HashSet<Lane>,
    counted: HashMap<Lane, Counted>,
    /// Those that had no room in the last batch that was counted in.
    full: HashSet<Lane>,
}

/// An expensive count.
#[derive(Debug, Clone, Copy)]
struct Counted {
    ended: Instant,
    rest: Duration,
}

impl LaneMemory {
    /// The lanes whose rows may be missing.
    pub(in crate::store) fn unknown(&self, lanes: &Demand) -> BTreeSet<Lane> {
        lanes.keys().filter(|lane| !self.known.contains(lane)).copied().collect()
    }

    /// The rows of these lanes exist.
    pub(in crate::store) fn learn(&mut self, lanes: impl IntoIterator<Item = Lane>) {
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.extend(lanes);
    }

    /// Whether one of these lanes was full lately: it has to be counted in again.
    pub(in crate::store) fn was_full(&self, lanes: &Demand) -> bool {
        self.full.iter().any(|lane| lanes.contains_key(lane))
    }

    /// A batch was counted in, with those verdicts.
    pub(in crate::store) fn learn_full(&mut self, tasks: &[NewTask], verdicts: &[Enqueued]) {
        let is_full = |verdict: &Enqueued| matches!(verdict, Enqueued::QueueFull { .. });
        self.full =
            tasks.iter().zip(verdicts).filter(|(_, verdict)| is_full(verdict)).map(|(task, _)| task.lane).collect();
    }

    /// Whether the lane may be counted (again) at `now`.
    pub(in crate::store) fn may_count(&mut self, lane: Lane, now: Instant) -> bool {
        self.counted.retain(|_, counted| now.saturating_duration_since(counted.ended) < counted.rest);
        !self.counted.contains_key(&lane)
    }

    /// The lane was counted from `began` to `ended`.
    pub(in crate::store) fn counted(&mut self, lane: Lane, began: Instant, ended: Instant) {
        let cost = ended.saturating_duration_since(began);
        if cost > CHEAP {
            self.counted.insert(lane, Counted { ended, rest: (cost * REST_FACTOR).min(LONGEST_REST) });
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        clock,
        task::{CallerHeaders, ModelId, TaskId, TaskKey, TenantId},
    };

    const LANE: Lane = Lane { model: ModelId(3), tenant: TenantId(7) };

    fn gate(limit: i32) -> Gate {
        Gate { enabled: true, deleted: false, limit, entered: 10, counted_entered: 8, counted_live: 3, changed: false }
    }

    fn tasks(count: usize) -> Vec<NewTask> {
        let task = NewTask {
            key: TaskKey { tenant: LANE.tenant, id: TaskId(Uuid::nil()) },
            lane: LANE,
            creator: String::new(),
            model_name: String::new(),
            biz_name: String::new(),
            input_ref: String::new(),
            request_payload: None,
            caller_headers: CallerHeaders::default(),
            traceparent: String::new(),
        };
        vec![task; count]
    }

    fn accepted(verdicts: &[Enqueued]) -> usize {
        verdicts.iter().filter(|verdict| **verdict == Enqueued::Accepted).count()
    }

    #[test]
    fn a_batch_fills_the_lane_exactly_and_in_order() {
        let mut gates = Gates::from([(LANE, gate(7))]);
        let verdicts = admit(&mut gates, &tasks(4));
        let full = Enqueued::QueueFull { limit: 7 };
        assert_eq!(verdicts, [Enqueued::Accepted, Enqueued::Accepted, full.clone(), full]);
        assert_eq!(gates[&LANE].entered, 12);
    }

    #[test]
    fn a_count_makes_room_for_what_left() {
        let mut gates = Gates::from([(LANE, gate(7))]);
        assert_eq!(crowded(&gates, &lanes_of(&tasks(3))), [LANE]);
        assert!(crowded(&gates, &lanes_of(&tasks(2))).is_empty());
        gates.get_mut(&LANE).unwrap().recounted(0);
        assert_eq!(accepted(&admit(&mut gates, &tasks(9))), 7);
        assert_eq!(gates[&LANE].room(), 0);
    }

    #[test]
    fn no_limit_is_never_counted() {
        let mut gates = Gates::from([(LANE, gate(0))]);
        assert!(crowded(&gates, &lanes_of(&tasks(100))).is_empty());
        assert_eq!(accepted(&admit(&mut gates, &tasks(100))), 100);
    }

    #[test]
    fn a_closed_model_admits_nothing_and_is_not_counted() {
        for (closed, verdict) in [
            (Gate { enabled: false, ..gate(1) }, Enqueued::ModelDisabled),
            (Gate { deleted: true, ..gate(1) }, Enqueued::ModelGone),
        ] {
            let mut gates = Gates::from([(LANE, closed)]);
            assert!(crowded(&gates, &lanes_of(&tasks(1))).is_empty());
            assert_eq!(admit(&mut gates, &tasks(1)), [verdict]);
        }
        assert_eq!(admit(&mut Gates::new(), &tasks(1)), [Enqueued::ModelGone]);
    }

    #[test]
    fn a_lane_is_remembered_as_full_until_it_is_counted_in_again() {
        let mut memory = LaneMemory::default();
        let demand = lanes_of(&tasks(1));
        assert!(!memory.was_full(&demand));
        memory.learn_full(&tasks(2), &[Enqueued::Accepted, Enqueued::QueueFull { limit: 7 }]);
        assert!(memory.was_full(&demand));
        memory.learn_full(&tasks(1), &[Enqueued::Accepted]);
        assert!(!memory.was_full(&demand));
    }

    #[test]
    fn an_expensive_count_rests_ten_times_as_long_but_at_most_a_second() {
        let mut memory = LaneMemory::default();
        let began = clock::tick();
        let cost = Duration::from_millis(20);
        memory.counted(LANE, began, began + cost);
        assert!(!memory.may_count(LANE, began + cost * 10));
        assert!(memory.may_count(LANE, began + cost * 11));
        memory.counted(LANE, began, began + Duration::from_secs(5));
        assert!(memory.may_count(LANE, began + Duration::from_secs(6)));
        memory.counted(LANE, began, began + CHEAP);
        assert!(memory.may_count(LANE, began + CHEAP));
    }
}
