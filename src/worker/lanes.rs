//! Which lanes this node asks next: fairly by tenant, then by lane, and only those that may have
//! work and room. In memory only; wake-ups feed it and a slow scan of the table corrects it. Public for
//! `tests/sim` alone.
//!
//! A lane is *ready* (in the ring), *asked* (taken out of the ring until its verdict is in) or
//! *waiting* (its limit is reached; it comes back when a permit does, or at the next poll). A lane
//! without work is not kept at all.
//!
//! Room in one lane is room for the others of its model too where that has a limit over all
//! tenants, and for the others of its tenant where that has one over all models, so those that were
//! not asked for longest go ahead of the lane that had its turn.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    model::Model,
    permits::Ask,
    store::tasks::LaneVerdict,
    task::{Lane, ModelId, TenantId},
    wake::WakeUp,
};

/// How far a lane's cursor stays behind the newest task claimed from it. A task gets its place when
/// its transaction begins and can be seen when that commits; this must be longer than the two are
/// usually apart. What is slower is found when the lane seems empty, or by the slow scan. Not longer
/// than needed: while an old transaction holds vacuum back, each claim walks over what was claimed
/// within it.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// Waiting lanes of a model, or of a tenant, that are worth a look when one of its calls ends: enough to find one
/// that its own limit does not hold back, few enough for a model that thousands of tenants wait for.
const LOOK_AT: usize = 16;

/// The lanes that may have work.
#[derive(Default)]
pub struct Lanes {
    known: HashMap<Lane, Known>,
    /// Tenants that have a ready lane, each once.
    tenants: VecDeque<TenantId>,
    ready: HashMap<TenantId, VecDeque<ModelId>>,
    /// Of each model, the one that was asked least recently first.
    waiting: BTreeSet<(ModelId, u64, TenantId)>,
    /// The same lanes, of each tenant that has a limit over all models.
    waiting_of: BTreeSet<(TenantId, u64, ModelId)>,
    /// Those tenants, as far as their lanes were asked.
    capped: HashSet<TenantId>,
    /// Lanes asked so far.
    turns: u64,
}

struct Known {
    status: Status,
    /// When it was asked last, counted in [`Lanes::turns`].
    turn: u64,
    /// Nothing is queued before this moment, as far as we know.
    since: Option<DateTime<Utc>>,
    /// Something happened while the lane was asked; its verdict may be out of date.
    stirred: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Asked,
    Waiting,
}

impl Lanes {
    /// A lane may have work.
    pub fn wake(&mut self, wake_up: WakeUp) {
        let known = self.known.entry(wake_up.lane).or_insert(Known {
            status: Status::Waiting,
            turn: self.turns,
            since: None,
            stirred: false,
        });
        if wake_up.rewind {
            known.since = None;
        }
        match known.status {
            Status::Ready => {}
            Status::Asked => known.stirred = true,
            Status::Waiting => self.make_ready(wake_up.lane),
        }
    }

    /// A permit of the lane came back, or one of its running tasks left.
    pub fn room(&mut self, lane: Lane) {
        let of_model = self.waiting.range((lane.model, 0, TenantId(i64::MIN))..);
        let of_model = of_model.take_while(|(model, ..)| *model == lane.model).take(LOOK_AT);
        let of_tenant = self.waiting_of.range((lane.tenant, 0, ModelId(i64::MIN))..);
        let of_tenant = of_tenant.take_while(|(tenant, ..)| *tenant == lane.tenant).take(LOOK_AT);
        let waiting: Vec<Lane> = of_model
            .map(|&(model, _, tenant)| Lane { model, tenant })
            .chain(of_tenant.map(|&(tenant, _, model)| Lane { model, tenant }))
            .collect();
        for lane in waiting {
            self.make_ready(lane);
        }
        match self.known.get_mut(&lane) {
            Some(known) if known.status == Status::Asked => known.stirred = true,
            Some(known) if known.status == Status::Waiting => self.make_ready(lane),
            Some(_) | None => {}
        }
    }

    /// Every waiting lane is worth another look.
    pub fn poll(&mut self) {
        let waiting: Vec<Lane> = self.waiting.iter().map(|&(model, _, tenant)| Lane { model, tenant }).collect();
        for lane in waiting {
            self.make_ready(lane);
        }
    }

    /// True if a lane can be taken.
    pub fn any_ready(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Takes up to `most` ready lanes, one from each tenant in turn. Each has to be given a
    /// [`Lanes::verdict`], [`Lanes::wait`] or [`Lanes::drop`] afterwards.
    pub fn take(&mut self, most: usize) -> Vec<Lane> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(tenant) = self.tenants.pop_front() else { break };
            let Some(models) = self.ready.get_mut(&tenant) else { continue };
            if let Some(model) = models.pop_front() {
                let lane = Lane { model, tenant };
                if let Some(known) = self.known.get_mut(&lane) {
                    self.turns += 1;
                    known.turn = self.turns;
                    known.status = Status::Asked;
                    known.stirred = false;
                    taken.push(lane);
                }
            }
            if models.is_empty() {
                self.ready.remove(&tenant);
            } else {
                self.tenants.push_back(tenant);
            }
        }
        taken
    }

    /// True of a lane that is ready, asked or waiting.
    pub fn is_known(&self, lane: Lane) -> bool {
        self.known.contains_key(&lane)
    }

    /// The lane's cursor.
    pub fn since(&self, lane: Lane) -> Option<DateTime<Utc>> {
        self.known.get(&lane).and_then(|known| known.since)
    }

    /// What the claim said of a lane that was asked; `newest` is the place of the last task it gave.
    pub fn verdict(&mut self, lane: Lane, verdict: LaneVerdict, newest: Option<DateTime<Utc>>) {
        let Some(known) = self.known.get_mut(&lane) else { return };
        let had_cursor = known.since.is_some();
        if let Some(newest) = newest {
            let since = newest - SLACK;
            known.since = Some(known.since.map_or(since, |old| old.max(since)));
        }
        match verdict {
            LaneVerdict::More => self.make_ready(lane),
            LaneVerdict::Empty if known.stirred => self.make_ready(lane),
            LaneVerdict::Empty if had_cursor => {
                // A late commit may lie before the cursor: look once without it.
                known.since = None;
                self.make_ready(lane);
            }
            LaneVerdict::Empty => self.drop(lane),
            LaneVerdict::Full | LaneVerdict::Busy | LaneVerdict::Closed => self.wait(lane),
        }
    }

    /// No permit for the lane now.
    pub fn wait(&mut self, lane: Lane) {
        let Some(known) = self.known.get_mut(&lane) else { return };
        known.status = Status::Waiting;
        self.waiting.insert((lane.model, known.turn, lane.tenant));
        if self.capped.contains(&lane.tenant) {
            self.waiting_of.insert((lane.tenant, known.turn, lane.model));
        }
        if known.stirred {
            self.make_ready(lane);
        }
    }

    /// What to ask for each lane: an equal share of the `free` calls, within the lane's limit and the
    /// tenant's, which `cap` knows. A lane whose model is gone or disabled is not asked.
    pub fn asks(
        &mut self,
        asked: &[Lane],
        free: usize,
        models: &HashMap<ModelId, Arc<Model>>,
        cap: impl Fn(TenantId) -> Option<u32>,
    ) -> Vec<Ask> {
        let want = share(free, asked.len());
        let mut asks = Vec::with_capacity(asked.len());
        for &lane in asked {
            let Some(model) = models.get(&lane.model) else {
                self.drop(lane);
                continue;
            };
            if !model.spec.enabled {
                self.verdict(lane, LaneVerdict::Closed, None);
                continue;
            }
            let limit = model.spec.max_concurrency.unsigned_abs();
            let total = (model.spec.total_concurrency > 0).then_some(model.spec.total_concurrency.unsigned_abs());
            let cap = cap(lane.tenant);
            match cap {
                Some(_) => self.capped.insert(lane.tenant),
                None => self.capped.remove(&lane.tenant),
            };
            asks.push(Ask { lane, limit, total, cap, want: want.min(limit).min(cap.unwrap_or(limit)) });
        }
        asks
    }

    /// The lane has no work, or no model.
    fn drop(&mut self, lane: Lane) {
        if let Some(known) = self.known.remove(&lane) {
            self.waiting.remove(&(lane.model, known.turn, lane.tenant));
            self.waiting_of.remove(&(lane.tenant, known.turn, lane.model));
        }
    }

    fn make_ready(&mut self, lane: Lane) {
        let Some(known) = self.known.get_mut(&lane) else { return };
        if known.status == Status::Ready {
            return;
        }
        self.waiting.remove(&(lane.model, known.turn, lane.tenant));
        self.waiting_of.remove(&(lane.tenant, known.turn, lane.model));
        known.status = Status::Ready;
        known.stirred = false;
        let models = self.ready.entry(lane.tenant).or_default();
        if models.is_empty() {
            self.tenants.push_back(lane.tenant);
        }
        models.push_back(lane.model);
    }
}

/// How many tasks to want from each of `lanes` lanes when `free` calls can be started: equal
/// shares, at least one each.
fn share(free: usize, lanes: usize) -> u32 {
    u32::try_from((free / lanes.max(1)).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(tenant: i64, model: i64) -> Lane {
        Lane { model: ModelId(model), tenant: TenantId(tenant) }
    }

    fn woken(lanes: &[Lane]) -> Lanes {
        let mut set = Lanes::default();
        for &lane in lanes {
            set.wake(WakeUp { lane, rewind: false });
        }
        set
    }

    #[test]
    fn tenants_take_turns_however_many_lanes_one_has() {
        let mut set = woken(&[lane(1, 1), lane(1, 2), lane(1, 3), lane(2, 1)]);
        assert_eq!(set.take(2), [lane(1, 1), lane(2, 1)]);
        assert_eq!(set.take(9), [lane(1, 2), lane(1, 3)]);
        assert!(!set.any_ready());
    }

    #[test]
    fn a_lane_with_more_goes_behind_the_others() {
        let mut set = woken(&[lane(1, 1), lane(2, 1)]);
        assert_eq!(set.take(1), [lane(1, 1)]);
        set.verdict(lane(1, 1), LaneVerdict::More, None);
        assert_eq!(set.take(2), [lane(2, 1), lane(1, 1)]);
    }

    #[test]
    fn an_empty_lane_is_forgotten_but_not_if_it_was_woken_meanwhile() {
        let mut set = woken(&[lane(1, 1)]);
        set.take(1);
        set.wake(WakeUp { lane: lane(1, 1), rewind: false });
        set.verdict(lane(1, 1), LaneVerdict::Empty, None);
        assert_eq!(set.take(1), [lane(1, 1)]);
        set.verdict(lane(1, 1), LaneVerdict::Empty, None);
        set.poll();
        assert!(!set.any_ready());
    }

    #[test]
    fn a_full_lane_costs_nothing_until_there_is_room() {
        let mut set = woken(&[lane(1, 1)]);
        set.take(1);
        set.verdict(lane(1, 1), LaneVerdict::Full, None);
        assert!(!set.any_ready());
        set.room(lane(1, 1));
        assert_eq!(set.take(1), [lane(1, 1)]);
        set.wait(lane(1, 1));
        set.poll();
        assert!(set.any_ready());
    }

    #[test]
    fn room_goes_to_the_lane_of_the_model_that_was_not_asked_for_longest() {
        let mut set = woken(&[lane(1, 1), lane(2, 1), lane(3, 2)]);
        for asked in set.take(3) {
            set.wait(asked);
        }
        set.room(lane(2, 1));
        assert_eq!(set.take(9), [lane(1, 1), lane(2, 1)], "not those of another model");
        set.verdict(lane(2, 1), LaneVerdict::Full, None);
        set.verdict(lane(1, 1), LaneVerdict::More, None);
        assert_eq!(set.take(9), [lane(1, 1)]);
        set.wait(lane(1, 1));
        set.room(lane(1, 1));
        assert_eq!(set.take(9), [lane(2, 1), lane(1, 1)]);
    }

    #[test]
    fn room_goes_to_other_lanes_of_a_tenant_that_has_a_limit_over_all_models() {
        let spec = crate::model::ModelSpec::create(
            &crate::model::ModelPatch {
                model_name: Some("tts".into()),
                base_url: Some("http://m".into()),
                ..Default::default()
            },
            TenantId(0),
        )
        .unwrap();
        let model = |id| {
            let at = DateTime::<Utc>::UNIX_EPOCH;
            let model = Model {
                id: ModelId(id),
                tenant: TenantId(0),
                creator: String::new(),
                updater: String::new(),
                created_at: at,
                updated_at: at,
                spec: spec.clone(),
            };
            (ModelId(id), Arc::new(model))
        };
        let models = HashMap::from([model(1), model(2), model(3)]);
        let mut set = woken(&[lane(1, 1), lane(1, 2), lane(2, 3)]);
        let asked = set.take(3);
        let asks = set.asks(&asked, 90, &models, |tenant| (tenant == TenantId(1)).then_some(4));
        assert_eq!(
            asks.iter().map(|ask| (ask.want, ask.cap)).collect::<Vec<_>>(),
            [(4, Some(4)), (10, None), (4, Some(4))]
        );
        for asked in asked {
            set.wait(asked);
        }
        set.room(lane(1, 1));
        assert_eq!(set.take(9), [lane(1, 1), lane(1, 2)], "not those of another tenant");
    }

    #[test]
    fn room_is_offered_to_few_of_many_but_to_the_lane_itself_in_any_case() {
        let lanes: Vec<Lane> = (0..100).map(|tenant| lane(tenant, 1)).collect();
        let mut set = woken(&lanes);
        for asked in set.take(100) {
            set.wait(asked);
        }
        set.room(lanes[99]);
        let taken = set.take(100);
        assert_eq!(taken[..LOOK_AT], lanes[..LOOK_AT]);
        assert_eq!(taken[LOOK_AT..], [lanes[99]]);
    }

    #[test]
    fn room_that_comes_while_a_lane_is_asked_is_not_lost() {
        let mut set = woken(&[lane(1, 1)]);
        set.take(1);
        set.room(lane(1, 1));
        set.verdict(lane(1, 1), LaneVerdict::Full, None);
        assert!(set.any_ready());
    }

    #[test]
    fn the_cursor_follows_with_slack_and_is_dropped_before_a_lane_counts_as_empty() {
        let at = DateTime::from_timestamp(1000, 0).unwrap();
        let mut set = woken(&[lane(1, 1)]);
        set.take(1);
        set.verdict(lane(1, 1), LaneVerdict::More, Some(at));
        assert_eq!(set.since(lane(1, 1)), Some(at - SLACK));
        set.take(1);
        set.verdict(lane(1, 1), LaneVerdict::Empty, None);
        assert_eq!(set.since(lane(1, 1)), None);
        assert!(set.any_ready(), "one look without the cursor");
        set.take(1);
        set.verdict(lane(1, 1), LaneVerdict::Empty, None);
        assert!(!set.any_ready());
    }

    #[test]
    fn a_task_that_came_back_rewinds_the_cursor() {
        let at = DateTime::from_timestamp(1000, 0).unwrap();
        let mut set = woken(&[lane(1, 1)]);
        set.take(1);
        set.verdict(lane(1, 1), LaneVerdict::More, Some(at));
        set.wake(WakeUp { lane: lane(1, 1), rewind: true });
        assert_eq!(set.since(lane(1, 1)), None);
    }

    #[test]
    fn free_calls_are_shared_equally() {
        assert_eq!(share(10, 3), 3);
        assert_eq!(share(2, 5), 1);
        assert_eq!(share(7, 0), 7);
    }
}
