//! How many tasks each lane may give: `maxConcurrency`, `totalConcurrency` and the tenant's limit over
//! all models, decided under the lanes' locks. Pure; the statements are in `postgres` and `sqlite`. Public for `tests/sim` alone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{Claim, LaneVerdict, MOST_CLAIMED, Want};
use crate::{
    model::Model,
    task::{Lane, ModelId, Running, TenantId},
};

/// What the claim sees once it holds its locks.
#[derive(Debug, Default)]
pub struct Sight {
    /// The models that may be called.
    pub open: HashMap<ModelId, Arc<Model>>,
    /// Calls running in each lane that is locked; other lanes are busy.
    pub running: HashMap<Lane, i64>,
    /// Calls running over all tenants, of each model with a `totalConcurrency` that is locked.
    pub total: HashMap<ModelId, i64>,
    /// What tenants with a limit over all models may still start; `None`: another node is claiming for
    /// that tenant.
    pub capped: HashMap<TenantId, Option<i64>>,
}

/// What one lane may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The lane.
    pub lane: Lane,
    /// The cursor of the want.
    pub since: Option<DateTime<Utc>>,
    /// Most tasks, at least 1.
    pub most: i64,
    /// The model's `timeoutSeconds`.
    pub timeout_seconds: i32,
}

/// Shares the room out, first come first served, in rounds: what an empty lane leaves of its model's
/// room over all tenants, or its tenant's over all models, goes to the lanes after it. Without that
/// there is one round.
pub struct Plan {
    shares: Vec<Share>,
    /// Room over all tenants, of each model with a `totalConcurrency` that is locked.
    left: HashMap<ModelId, i64>,
    /// Room over all models, of each tenant that has such a limit and is locked.
    left_of: HashMap<TenantId, i64>,
    tasks: Vec<Running>,
}

/// The part of one want.
struct Share {
    want: Want,
    /// Most that the lane's own limit allows, or why it gives nothing at all.
    room: Result<i64, LaneVerdict>,
    timeout_seconds: i32,
    got: i64,
    empty: bool,
}

impl Plan {
    /// What each want may have by its lane's own limit.
    pub fn new(wants: &[Want], sight: &Sight) -> Plan {
        let mut seen = HashSet::new();
        let share = |want: &Want| {
            let room = if seen.insert(want.lane) { room(want, sight) } else { Err(LaneVerdict::Busy) };
            let timeout_seconds = sight.open.get(&want.lane.model).map_or(0, |model| model.spec.timeout_seconds);
            Share { want: *want, room, timeout_seconds, got: 0, empty: false }
        };
        let left = |(id, running): (&ModelId, &i64)| {
            let model = sight.open.get(id).filter(|model| model.spec.total_concurrency > 0)?;
            Some((*id, i64::from(model.spec.total_concurrency) - running))
        };
        Plan {
            shares: wants.iter().map(share).collect(),
            left: sight.total.iter().filter_map(left).collect(),
            left_of: sight.capped.iter().filter_map(|(tenant, left)| Some((*tenant, (*left)?))).collect(),
            tasks: Vec::new(),
        }
    }

    /// The lanes to claim from next; none when the room is shared out.
    pub fn round(&self) -> Vec<Quota> {
        let (mut left, mut left_of) = (self.left.clone(), self.left_of.clone());
        let mut at_once = MOST_CLAIMED as i64;
        let quota = |share: &Share| {
            let Want { lane, since, .. } = share.want;
            let room = share.room.ok().filter(|_| !share.empty)? - share.got;
            let mut shared = [left.get_mut(&lane.model), left_of.get_mut(&lane.tenant)];
            let most = shared.iter().flatten().fold(room.min(at_once), |most, left| most.min(**left));
            if most <= 0 {
                return None;
            }
            at_once -= most;
            for left in shared.iter_mut().flatten() {
                **left -= most;
            }
            Some(Quota { lane, since, most, timeout_seconds: share.timeout_seconds })
        };
        self.shares.iter().filter_map(quota).collect()
    }

    /// Takes in what a round gave.
    pub fn took(&mut self, round: &[Quota], tasks: Vec<Running>) {
        let mut got: HashMap<Lane, i64> = HashMap::new();
        for task in &tasks {
            *got.entry(task.lane).or_default() += 1;
            let shared = [self.left.get_mut(&task.lane.model), self.left_of.get_mut(&task.lane.tenant)];
            for left in shared.into_iter().flatten() {
                *left -= 1;
            }
        }
        let asked: HashMap<Lane, i64> = round.iter().map(|quota| (quota.lane, quota.most)).collect();
        for share in self.shares.iter_mut().filter(|share| share.room.is_ok()) {
            let Some(asked) = asked.get(&share.want.lane) else { continue };
            let got = got.get(&share.want.lane).copied().unwrap_or_default();
            share.got += got;
            share.empty = got < *asked;
        }
        self.tasks.extend(tasks);
    }

    /// Puts what was claimed in order and gives the verdicts.
    pub fn claim(mut self, sight: &Sight) -> Claim {
        let places = self.shares.iter().enumerate().rev();
        let place: HashMap<Lane, usize> = places.map(|(n, share)| (share.want.lane, n)).collect();
        self.tasks.sort_by_key(|task| (place.get(&task.lane).copied(), task.enqueue_at, task.key.id));
        let models = self.tasks.iter().filter_map(|task| sight.open.get(&task.lane.model));
        Claim {
            models: models.map(|model| (model.id, Arc::clone(model))).collect(),
            lanes: self.shares.iter().map(|share| (share.want.lane, share.verdict())).collect(),
            tasks: self.tasks,
        }
    }
}

impl Share {
    fn verdict(&self) -> LaneVerdict {
        match self.room {
            Err(verdict) => verdict,
            Ok(_) if self.empty => LaneVerdict::Empty,
            Ok(_) if self.got < i64::from(self.want.most) => LaneVerdict::Full,
            Ok(_) => LaneVerdict::More,
        }
    }
}

/// What the lane's own limit leaves of the want.
fn room(want: &Want, sight: &Sight) -> Result<i64, LaneVerdict> {
    let model = sight.open.get(&want.lane.model).ok_or(LaneVerdict::Closed)?;
    let running = sight.running.get(&want.lane).ok_or(LaneVerdict::Busy)?;
    if model.spec.total_concurrency > 0 && !sight.total.contains_key(&model.id) {
        return Err(LaneVerdict::Busy);
    }
    if sight.capped.get(&want.lane.tenant).is_some_and(Option::is_none) {
        return Err(LaneVerdict::Busy);
    }
    Ok((i64::from(model.spec.max_concurrency) - running).clamp(0, i64::from(want.most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ModelPatch, ModelSpec},
        task::sample,
    };

    fn lane(tenant: i64) -> Lane {
        Lane { model: ModelId(1), tenant: TenantId(tenant) }
    }

    fn want(tenant: i64, most: u32) -> Want {
        Want { lane: lane(tenant), most, since: None, shares: false }
    }

    /// Model 1 with its limits; `running` in lanes 1, 2, 3 …; all locked.
    fn sight(max: i64, total: i64, running: &[i64]) -> Sight {
        let patch = ModelPatch {
            model_name: Some("tts".into()),
            base_url: Some("http://m".into()),
            max_concurrency: Some(max),
            total_concurrency: Some(total),
            ..ModelPatch::default()
        };
        let model = Model {
            id: ModelId(1),
            tenant: TenantId(0),
            creator: String::new(),
            updater: String::new(),
            created_at: DateTime::<Utc>::UNIX_EPOCH,
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
            spec: ModelSpec::create(&patch, TenantId(0)).unwrap(),
        };
        Sight {
            open: HashMap::from([(model.id, Arc::new(model))]),
            running: (1..).map(lane).zip(running.iter().copied()).collect(),
            total: HashMap::from([(ModelId(1), running.iter().sum())]),
            capped: HashMap::new(),
        }
    }

    fn most(plan: &Plan) -> Vec<(i64, i64)> {
        plan.round().iter().map(|quota| (quota.lane.tenant.0, quota.most)).collect()
    }

    fn verdicts(plan: Plan, sight: &Sight) -> Vec<LaneVerdict> {
        plan.claim(sight).lanes.into_iter().map(|(_, verdict)| verdict).collect()
    }

    fn tasks(tenant: i64, count: usize) -> Vec<Running> {
        let task = Running { lane: lane(tenant), ..sample::running() };
        vec![task; count]
    }

    #[test]
    fn a_lane_gives_up_to_its_limit() {
        let sight = sight(5, 0, &[3, 5, 9]);
        let plan = Plan::new(&[want(1, 9), want(2, 9), want(3, 9)], &sight);
        assert_eq!(most(&plan), [(1, 2)], "nothing is asked of a full lane");
        assert_eq!(verdicts(plan, &sight), [LaneVerdict::Full; 3]);
    }

    #[test]
    fn lanes_share_the_limit_over_all_tenants_in_the_order_asked() {
        let sight = sight(5, 6, &[1, 1, 1]);
        let mut plan = Plan::new(&[want(2, 2), want(1, 2), want(3, 2)], &sight);
        let round = plan.round();
        assert_eq!(most(&plan), [(2, 2), (1, 1)]);
        plan.took(&round, [tasks(2, 2), tasks(1, 1)].concat());
        assert!(plan.round().is_empty());
        assert_eq!(verdicts(plan, &sight), [LaneVerdict::More, LaneVerdict::Full, LaneVerdict::Full]);
    }

    #[test]
    fn what_an_empty_lane_leaves_goes_to_the_next() {
        let sight = sight(5, 6, &[1, 1, 1]);
        let mut plan = Plan::new(&[want(1, 9), want(2, 9), want(3, 1)], &sight);
        let round = plan.round();
        assert_eq!(most(&plan), [(1, 3)]);
        plan.took(&round, tasks(1, 1));
        let round = plan.round();
        assert_eq!(most(&plan), [(2, 2)]);
        plan.took(&round, Vec::new());
        let round = plan.round();
        assert_eq!(most(&plan), [(3, 1)]);
        plan.took(&round, tasks(3, 1));
        assert!(plan.round().is_empty());
        assert_eq!(verdicts(plan, &sight), [LaneVerdict::Empty, LaneVerdict::Empty, LaneVerdict::More]);
    }

    #[test]
    fn a_tenant_at_its_limit_over_all_models_holds_nobody_else_up() {
        let mut sight = sight(5, 0, &[0, 0, 0]);
        sight.capped = HashMap::from([(TenantId(1), Some(0)), (TenantId(2), Some(2)), (TenantId(3), None)]);
        let mut plan = Plan::new(&[want(1, 4), want(2, 4), want(3, 4)], &sight);
        let round = plan.round();
        assert_eq!(most(&plan), [(2, 2)]);
        plan.took(&round, tasks(2, 2));
        assert!(plan.round().is_empty());
        assert_eq!(verdicts(plan, &sight), [LaneVerdict::Full, LaneVerdict::Full, LaneVerdict::Busy]);
    }

    #[test]
    fn lanes_of_a_tenant_share_its_limit_over_all_models() {
        let mut sight = sight(5, 0, &[0]);
        let second = Lane { model: ModelId(2), tenant: TenantId(1) };
        let other = Model { id: ModelId(2), ..(*sight.open[&ModelId(1)]).clone() };
        sight.open.insert(other.id, Arc::new(other));
        sight.running.insert(second, 0);
        sight.capped = HashMap::from([(TenantId(1), Some(3))]);
        let mut plan = Plan::new(&[want(1, 3), Want { lane: second, ..want(1, 9) }], &sight);
        let round = plan.round();
        assert_eq!(round.iter().map(|quota| quota.most).collect::<Vec<_>>(), [3], "the first takes what it wants");
        plan.took(&round, tasks(1, 1));
        let round = plan.round();
        assert_eq!(round.iter().map(|quota| (quota.lane, quota.most)).collect::<Vec<_>>(), [(second, 2)]);
    }

    #[test]
    fn what_is_over_the_most_of_one_statement_is_left_to_the_next() {
        let sight = sight(1000, 0, &[0, 0, 0]);
        let most_at_once = MOST_CLAIMED as i64;
        let mut plan = Plan::new(&[want(1, 200), want(2, 200), want(3, 1)], &sight);
        let round = plan.round();
        assert_eq!(most(&plan), [(1, 200), (2, most_at_once - 200)]);
        plan.took(&round, [tasks(1, 200), tasks(2, MOST_CLAIMED - 200)].concat());
        assert_eq!(most(&plan), [(2, 400 - most_at_once), (3, 1)]);
    }

    #[test]
    fn what_is_not_locked_is_busy_and_what_is_not_open_is_closed() {
        let mut sight = sight(5, 6, &[0]);
        let of = |wants: &[Want], sight: &Sight| verdicts(Plan::new(wants, sight), sight);
        assert_eq!(of(&[want(2, 1)], &sight), [LaneVerdict::Busy]);
        assert_eq!(of(&[want(1, 1), want(1, 1)], &sight)[1], LaneVerdict::Busy, "asked for twice");
        sight.total.clear();
        assert_eq!(of(&[want(1, 1)], &sight), [LaneVerdict::Busy]);
        sight.open.clear();
        assert_eq!(of(&[want(1, 1)], &sight), [LaneVerdict::Closed]);
    }
}
