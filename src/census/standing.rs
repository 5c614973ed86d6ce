//! How a lane stands: does it move, and if not, what holds it up? Pure.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    store::census::{Census, LaneCensus, ModelFacts},
    task::{Lane, ModelId, TenantId},
};

/// A lane with room that starts nothing for this long is stalled.
const PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is queued or running.
    Idle,
    /// Tasks run, or are about to.
    Moving,
    /// As many calls run as `maxConcurrency` allows.
    Full,
    /// Tasks wait because other lanes of the model use up `totalConcurrency`.
    ModelFull,
    /// The model is disabled or deleted.
    Disabled,
    /// `queueLimit` is reached: new tasks are refused.
    QueueFull,
    /// Tasks wait and could run, but none is started.
    Stalled,
}

/// One lane as somebody sees it.
#[derive(Debug, Clone)]
pub struct LaneView<'a> {
    /// Its numbers.
    pub counted: LaneCensus,
    /// Its model; `None` where that is gone altogether.
    pub model: Option<&'a ModelFacts>,
    /// What it is doing.
    pub standing: Standing,
    view: &'a View<'a>,
}

/// A census as one tenant sees it, or an admin all of it.
#[derive(Debug)]
pub struct View<'a> {
    census: &'a Census,
    tenant: Option<TenantId>,
    /// What runs of each model over all lanes, which a shared model's limit counts.
    running: HashMap<ModelId, i64>,
}

impl Standing {
    /// Every one of them.
    pub const ALL: [Standing; 7] = [
        Standing::Idle,
        Standing::Moving,
        Standing::Full,
        Standing::ModelFull,
        Standing::Disabled,
        Standing::QueueFull,
        Standing::Stalled,
    ];

    /// As it is written in requests and answers.
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Idle => "idle",
            Standing::Moving => "moving",
            Standing::Full => "full",
            Standing::ModelFull => "modelFull",
            Standing::Disabled => "disabled",
            Standing::QueueFull => "queueFull",
            Standing::Stalled => "stalled",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Standing> {
        Standing::ALL.into_iter().find(|standing| standing.word() == word)
    }

    /// True where a limit is reached.
    pub const fn is_full(self) -> bool {
        match self {
            Standing::Full | Standing::ModelFull | Standing::QueueFull => true,
            Standing::Idle | Standing::Moving | Standing::Disabled | Standing::Stalled => false,
        }
    }
}

impl<'a> View<'a> {
    /// What that tenant may see, everything for `None`.
    pub fn new(census: &'a Census, tenant: Option<TenantId>) -> View<'a> {
        let mut running = HashMap::new();
        for lane in &census.lanes {
            *running.entry(lane.lane.model).or_default() += lane.running;
        }
        View { census, tenant, running }
    }

    /// When it was counted.
    pub fn taken_at(&self) -> DateTime<Utc> {
        self.census.taken_at
    }

    /// The models whose tasks it may show: a tenant's own, shared ones, and others that still have
    /// some of its tasks.
    pub fn models(&self) -> impl Iterator<Item = &'a ModelFacts> {
        self.census
            .models
            .values()
            .filter(|model| !model.deleted && self.tenant.is_none_or(|tenant| model.tenant == tenant || model.shared))
    }

    /// Lanes with tasks.
    pub fn busy_lanes(&'a self) -> impl Iterator<Item = LaneView<'a>> {
        let visible =
            self.census.lanes.iter().filter(|lane| self.tenant.is_none_or(|tenant| lane.lane.tenant == tenant));
        visible.map(|lane| self.lane(lane.clone()))
    }

    /// Lanes with tasks, and for each model without any the lane that its first task would be in.
    pub fn lanes(&'a self) -> Vec<LaneView<'a>> {
        let mut lanes: Vec<LaneView<'a>> = self.busy_lanes().collect();
        let busy: std::collections::HashSet<ModelId> = lanes.iter().map(|lane| lane.counted.lane.model).collect();
        let idle = self.models().filter(|model| !busy.contains(&model.id)).map(|model| {
            let lane = Lane { model: model.id, tenant: self.tenant.unwrap_or(model.tenant) };
            self.lane(LaneCensus::empty(lane, model.model_name.clone()))
        });
        lanes.extend(idle);
        lanes
    }

    fn lane(&'a self, counted: LaneCensus) -> LaneView<'a> {
        let model = self.census.models.get(&counted.lane.model);
        let standing = self.standing(&counted, model);
        LaneView { counted, model, standing, view: self }
    }

    fn standing(&self, lane: &LaneCensus, model: Option<&ModelFacts>) -> Standing {
        let Some(model) = model.filter(|model| model.enabled && !model.deleted) else {
            return Standing::Disabled;
        };
        let model_is_full = self.model_is_full(model);
        let lane_is_full = lane.running >= i64::from(model.max_concurrency);
        if lane.tasks() == 0 {
            Standing::Idle
        } else if lane.queued > 0 && !lane_is_full && !model_is_full && self.is_quiet(lane) {
            Standing::Stalled
        } else if model.queue_limit > 0 && lane.tasks() >= i64::from(model.queue_limit) {
            Standing::QueueFull
        } else if lane_is_full {
            Standing::Full
        } else if lane.queued > 0 && model_is_full {
            Standing::ModelFull
        } else {
            Standing::Moving
        }
    }

    fn model_is_full(&self, model: &ModelFacts) -> bool {
        let running = self.running.get(&model.id).copied().unwrap_or_default();
        model.total_concurrency > 0 && running >= i64::from(model.total_concurrency)
    }

    /// True where nothing was started for a while. Without a worker that needs no watching: what has
    /// waited for so long has not been started in that time.
    fn is_quiet(&self, lane: &LaneCensus) -> bool {
        let waits_since = if self.census.workers == 0 { lane.oldest_enqueue_at } else { lane.waiting_since };
        let last_move = waits_since.max(lane.started_at);
        last_move.is_some_and(|at| self.census.taken_at - at >= PATIENCE)
    }
}

impl LaneView<'_> {
    /// Calls of this lane that may run at once.
    pub fn limit(&self) -> i64 {
        self.model.map_or(0, |model| i64::from(model.max_concurrency))
    }

    /// Why it stands as it does, in one sentence.
    pub fn reason(&self) -> String {
        let LaneCensus { queued, resting, running, uploading, .. } = self.counted;
        let limit = self.limit();
        match self.standing {
            Standing::Idle => "No task is queued or running.".to_owned(),
            Standing::Moving if queued > 0 => {
                format!("{running} of {limit} calls are running and {queued} tasks wait.")
            }
            Standing::Moving if running > 0 => format!("{running} of {limit} calls are running and no task waits."),
            Standing::Moving if resting > 0 => format!("{resting} failed tasks pause before their next try."),
            Standing::Moving => format!("The results of {uploading} calls are being uploaded."),
            Standing::Full => format!(
                "All {limit} calls that maxConcurrency allows are running; {queued} tasks wait for one of them to end."
            ),
            Standing::ModelFull => {
                let total = self.model.map_or(0, |model| model.total_concurrency);
                format!(
                    "All {total} calls that the shared model's totalConcurrency allows are running, some for others."
                )
            }
            Standing::Disabled if self.model.is_none_or(|model| model.deleted) => {
                "The model was deleted; its queued tasks are about to fail.".to_owned()
            }
            Standing::Disabled => "The model is disabled; its queued tasks wait until it is enabled.".to_owned(),
            Standing::QueueFull => {
                let most = self.model.map_or(0, |model| model.queue_limit);
                format!(
                    "The queueLimit of {most} tasks is reached, so createTask answers 429; {running} of {limit} calls are running."
                )
            }
            Standing::Stalled if self.view.census.workers == 0 => {
                format!("{queued} tasks wait and no worker is alive: start a node with worker.enabled.")
            }
            Standing::Stalled => format!(
                "{queued} tasks wait, {running} of {limit} calls are running and none was started for {} s: the workers \
                 may be at their worker.concurrency or cut off from Redis; see /node/listNode and the log.",
                PATIENCE.num_seconds()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { model: ModelId(1), tenant: TenantId(7) };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn model() -> ModelFacts {
        ModelFacts {
            id: LANE.model,
            tenant: LANE.tenant,
            model_name: "tts".into(),
            enabled: true,
            shared: false,
            deleted: false,
            max_concurrency: 2,
            total_concurrency: 0,
            queue_limit: 10,
        }
    }

    /// Tasks that have waited since 900 at least, counted at 1000.
    fn lane(queued: i64, running: i64) -> LaneCensus {
        let waiting_since = (queued > 0).then(|| at(990));
        let oldest_enqueue_at = (queued > 0).then(|| at(900));
        LaneCensus { queued, running, waiting_since, oldest_enqueue_at, ..LaneCensus::empty(LANE, "tts".into()) }
    }

    fn census(lanes: Vec<LaneCensus>, model: ModelFacts) -> Census {
        Census { taken_at: at(1000), lanes, models: HashMap::from([(model.id, model)]), workers: 1 }
    }

    fn judged(census: &Census) -> (Standing, String) {
        let view = View::new(census, Some(LANE.tenant));
        let lane = view.lanes().swap_remove(0);
        (lane.standing, lane.reason())
    }

    fn standing(lane: LaneCensus, model: ModelFacts) -> Standing {
        judged(&census(vec![lane], model)).0
    }

    #[test]
    fn a_lane_stands_as_its_numbers_and_limits_say() {
        for (lane, expected) in [
            (lane(0, 0), Standing::Idle),
            (lane(0, 1), Standing::Moving),
            (lane(3, 1), Standing::Moving),
            (lane(3, 2), Standing::Full),
            (lane(8, 2), Standing::QueueFull),
            (lane(10, 0), Standing::QueueFull),
            (LaneCensus { resting: 1, ..lane(0, 0) }, Standing::Moving),
            (LaneCensus { uploading: 10, ..lane(0, 0) }, Standing::QueueFull),
        ] {
            assert_eq!(standing(lane.clone(), model()), expected, "{lane:?}");
        }
        assert_eq!(standing(lane(3, 1), ModelFacts { enabled: false, ..model() }), Standing::Disabled);
        assert_eq!(standing(lane(30, 1), ModelFacts { queue_limit: 0, ..model() }), Standing::Moving);
    }

    #[test]
    fn a_shared_model_is_full_of_what_other_lanes_run() {
        let other = LaneCensus { lane: Lane { tenant: TenantId(8), ..LANE }, ..lane(0, 2) };
        let shared = ModelFacts { shared: true, total_concurrency: 3, ..model() };
        let mut census = census(vec![lane(3, 1), other], shared);
        assert_eq!(judged(&census).0, Standing::ModelFull);
        census.lanes[1].running = 1;
        assert_eq!(judged(&census).0, Standing::Moving);
        assert_eq!(View::new(&census, Some(LANE.tenant)).busy_lanes().count(), 1, "the other's lane is not shown");
    }

    #[test]
    fn a_lane_with_room_that_starts_nothing_is_stalled() {
        let quiet = LaneCensus { waiting_since: Some(at(970)), ..lane(3, 1) };
        assert_eq!(standing(quiet.clone(), model()), Standing::Stalled);
        assert_eq!(standing(LaneCensus { waiting_since: Some(at(971)), ..quiet.clone() }, model()), Standing::Moving);
        assert_eq!(standing(LaneCensus { started_at: Some(at(971)), ..quiet.clone() }, model()), Standing::Moving);
        assert_eq!(standing(LaneCensus { running: 2, ..quiet }, model()), Standing::Full, "it has no room");
    }

    #[test]
    fn without_a_worker_the_age_of_the_oldest_task_says_enough() {
        let mut census = census(vec![lane(3, 0)], model());
        assert_eq!(judged(&census).0, Standing::Moving);
        census.workers = 0;
        let (standing, reason) = judged(&census);
        assert!(standing == Standing::Stalled && reason.contains("no worker is alive"), "{reason}");
    }

    #[test]
    fn every_standing_has_its_own_word_and_each_reason_is_a_sentence() {
        for standing in Standing::ALL {
            assert_eq!(Standing::from_word(standing.word()), Some(standing));
            let census = census(vec![lane(3, 1)], model());
            let view = View::new(&census, None);
            let reason = LaneView { standing, ..view.lanes().swap_remove(0) }.reason();
            assert!(reason.ends_with('.') && !reason.contains("  "), "{reason}");
        }
        assert_eq!(Standing::from_word("busy"), None);
    }
}
