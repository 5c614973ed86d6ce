//! How many tasks each lane may give: `maxConcurrency` and `totalConcurrency`, decided under the
//! lanes' locks. Pure; the statements are in `postgres` and `sqlite`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{Claim, LaneVerdict, MOST_CLAIMED, Want};
use crate::{
    model::Model,
    task::{Lane, ModelId, Running},
};

/// What the claim sees once it holds its locks.
#[derive(Debug, Default)]
pub(in crate::store) struct Sight {
    /// The models that may be called.
    pub(in crate::store) open: HashMap<ModelId, Arc<Model>>,
    /// Calls running in each lane that is locked; other lanes are busy.
    pub(in crate::store) running: HashMap<Lane, i64>,
    /// Calls running over all tenants, of each model with a `totalConcurrency` that is locked.
    pub(in crate::store) total: HashMap<ModelId, i64>,
}

/// What one lane may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Quota {
    /// The lane.
    pub(in crate::store) lane: Lane,
    /// The cursor of the want.
    pub(in crate::store) since: Option<DateTime<Utc>>,
    /// Most tasks, at least 1.
    pub(in crate::store) most: i64,
    /// The model's `timeoutSeconds`.
    pub(in crate::store) timeout_seconds: i32,
}

/// One decision for each want, in order: how many tasks (which may be none), or why not.
pub(in crate::store) struct Plan {
    decisions: Vec<(Lane, Result<i64, LaneVerdict>)>,
    quotas: Vec<Quota>,
}

impl Plan {
    /// Shares the room out, first come first served.
    pub(in crate::store) fn new(wants: &[Want], sight: &Sight) -> Plan {
        let mut plan = Plan { decisions: Vec::with_capacity(wants.len()), quotas: Vec::new() };
        let mut total = sight.total.clone();
        let mut seen = HashSet::new();
        let mut left = MOST_CLAIMED as i64;
        for want in wants {
            let decision = match seen.insert(want.lane) {
                true => room(want, left, sight, &mut total),
                false => Err(LaneVerdict::Busy),
            };
            let most = decision.map_or(0, |(most, _)| most);
            left -= most;
            if let Ok((most @ 1.., model)) = decision {
                let timeout_seconds = model.spec.timeout_seconds;
                plan.quotas.push(Quota { lane: want.lane, since: want.since, most, timeout_seconds });
            }
            plan.decisions.push((want.lane, decision.map(|_| most)));
        }
        plan
    }

    /// The lanes to claim from.
    pub(in crate::store) fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// Puts what was claimed in order and gives the verdicts.
    pub(in crate::store) fn claim(self, wants: &[Want], mut tasks: Vec<Running>, sight: &Sight) -> Claim {
        let place: HashMap<Lane, usize> = wants.iter().enumerate().rev().map(|(n, want)| (want.lane, n)).collect();
        tasks.sort_by_key(|task| (place.get(&task.lane).copied(), task.enqueue_at, task.key.id));
        let mut got: HashMap<Lane, i64> = HashMap::new();
        for task in &tasks {
            *got.entry(task.lane).or_default() += 1;
        }
        let verdict = |((lane, decision), want): ((Lane, Result<i64, LaneVerdict>), &Want)| {
            let got = got.get(&lane).copied().unwrap_or_default();
            let verdict = match decision {
                Err(verdict) => verdict,
                Ok(quota) if got < quota => LaneVerdict::Empty,
                Ok(quota) if quota < i64::from(want.most) => LaneVerdict::Full,
                Ok(_) => LaneVerdict::More,
            };
            (lane, verdict)
        };
        let lanes = self.decisions.into_iter().zip(wants).map(verdict).collect();
        let models = tasks
            .iter()
            .filter_map(|task| sight.open.get(&task.lane.model))
            .map(|model| (model.id, Arc::clone(model)))
            .collect();
        Claim { tasks, models, lanes }
    }
}

/// What `want` may have of the `left` tasks, taken off what its model has left over all tenants.
fn room<'a>(
    want: &Want,
    left: i64,
    sight: &'a Sight,
    total: &mut HashMap<ModelId, i64>,
) -> Result<(i64, &'a Model), LaneVerdict> {
    let model = sight.open.get(&want.lane.model).ok_or(LaneVerdict::Closed)?;
    let running = sight.running.get(&want.lane).ok_or(LaneVerdict::Busy)?;
    let most = left.min(i64::from(want.most));
    let mut room = i64::from(model.spec.max_concurrency) - running;
    if model.spec.total_concurrency == 0 {
        return Ok((room.clamp(0, most), model));
    }
    let everywhere = total.get_mut(&want.lane.model).ok_or(LaneVerdict::Busy)?;
    room = room.min(i64::from(model.spec.total_concurrency) - *everywhere).clamp(0, most);
    *everywhere += room;
    Ok((room, model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ModelPatch, ModelSpec},
        task::TenantId,
    };

    fn lane(tenant: i64) -> Lane {
        Lane { model: ModelId(1), tenant: TenantId(tenant) }
    }

    fn want(tenant: i64, most: u32) -> Want {
        Want { lane: lane(tenant), most, since: None }
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
        }
    }

    fn verdicts(wants: &[Want], sight: &Sight) -> Vec<Result<i64, LaneVerdict>> {
        Plan::new(wants, sight).decisions.into_iter().map(|(_, decision)| decision).collect()
    }

    #[test]
    fn a_lane_gives_up_to_its_limit() {
        let sight = sight(5, 0, &[3, 5, 9]);
        assert_eq!(verdicts(&[want(1, 9), want(2, 9), want(3, 9)], &sight), [Ok(2), Ok(0), Ok(0)]);
        assert_eq!(Plan::new(&[want(1, 1), want(2, 1)], &sight).quotas().len(), 1, "nothing is asked of a full lane");
    }

    #[test]
    fn lanes_share_the_limit_over_all_tenants_in_the_order_asked() {
        let sight = sight(5, 6, &[1, 1, 1]);
        assert_eq!(verdicts(&[want(2, 2), want(1, 2), want(3, 2)], &sight), [Ok(2), Ok(1), Ok(0)]);
    }

    #[test]
    fn a_claim_takes_no_more_than_its_most_over_all_lanes() {
        let sight = sight(1000, 0, &[0, 0, 0]);
        let most = MOST_CLAIMED as i64;
        assert_eq!(verdicts(&[want(1, 200), want(2, 200), want(3, 1)], &sight), [Ok(200), Ok(most - 200), Ok(0)]);
    }

    #[test]
    fn what_is_not_locked_is_busy_and_what_is_not_open_is_closed() {
        let mut sight = sight(5, 6, &[0]);
        assert_eq!(verdicts(&[want(2, 1)], &sight), [Err(LaneVerdict::Busy)]);
        assert_eq!(verdicts(&[want(1, 1), want(1, 1)], &sight), [Ok(1), Err(LaneVerdict::Busy)]);
        sight.total.clear();
        assert_eq!(verdicts(&[want(1, 1)], &sight), [Err(LaneVerdict::Busy)]);
        sight.open.clear();
        assert_eq!(verdicts(&[want(1, 1)], &sight), [Err(LaneVerdict::Closed)]);
    }
}
