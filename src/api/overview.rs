//! The routes that show what is queued and what runs now.

use std::{cmp::Reverse, collections::HashMap};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Shown,
    envelope::{self, Answer, Envelope},
    error::ApiError,
    request::Ask,
    wire::{Id, PageAsk, Time, filter},
};
use crate::{
    census::standing::{LaneView, Standing, View},
    model::MAX_NAME,
    store::{Page, census::ModelFacts},
    task::ModelId,
};

/// Most models in an overview.
const MAX_MODELS: usize = 200;

/// Of which tenant.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({}))]
pub(crate) struct GetOverview {}

/// What is queued and what runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "takenAt": "2026-11-22T03:04:05.678Z", "queued": 12, "resting": 1, "running": 2, "uploading": 0, "limit": 2,
    "oldestEnqueueAt": "2026-11-22T03:03:51.002Z", "lanes": 1, "fullLanes": 1, "models": [{
        "modelId": "3", "tenantId": "7", "modelName": "tts", "enabled": true, "shared": false, "queued": 12,
        "resting": 1, "running": 2, "uploading": 0, "limit": 2, "totalConcurrency": 0,
        "oldestEnqueueAt": "2026-11-22T03:03:51.002Z"
    }]
}))]
pub(crate) struct Overview {
    /// When it was counted: at most 2 s ago, or 20 times as long ago as the counting took.
    taken_at: Time,
    #[serde(flatten)]
    totals: Totals,
    /// Lanes (tenant and model) with tasks.
    lanes: usize,
    /// Lanes of which a limit is reached: `maxConcurrency`, `totalConcurrency` or `queueLimit`.
    full_lanes: usize,
    /// The 200 models with the most tasks.
    #[schema(max_items = 200)]
    models: Vec<ModelOverview>,
}

/// Numbers of tasks.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    /// Waiting for capacity.
    queued: i64,
    /// Waiting for the pause before a retry to end.
    resting: i64,
    /// Calling a model.
    running: i64,
    /// Only the upload of the result is left.
    uploading: i64,
    /// Calls that may run at once: `maxConcurrency` of every lane, as far as `totalConcurrency` goes.
    /// Nothing for what is disabled.
    limit: i64,
    /// Place in the queue of the oldest that waits for capacity.
    #[schema(required = true)]
    oldest_enqueue_at: Option<Time>,
}

/// One model of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelOverview {
    /// The model.
    model_id: Id,
    /// The tenant that registered it.
    tenant_id: Id,
    /// Its name.
    model_name: String,
    /// False where its tasks wait, whatever is free.
    enabled: bool,
    /// Every tenant may call it; the numbers are of the tenants that the caller may see.
    shared: bool,
    #[serde(flatten)]
    totals: Totals,
    /// Calls that may run at once over all tenants; 0 = no such limit.
    total_concurrency: i32,
}

/// Filters of listLane; all given must hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "modelName": "tts", "status": "full"}))]
pub(crate) struct ListLane {
    /// Which page.
    page: Option<PageAsk>,
    /// Part of the model's name.
    #[schema(max_length = 128)]
    model_name: Option<String>,
    /// `idle`, `moving`, `full`, `modelFull`, `disabled`, `queueFull` or `stalled`.
    #[schema(pattern = "^(idle|moving|full|modelFull|disabled|queueFull|stalled)?$")]
    status: Option<String>,
}

/// One page of lanes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lanes {
    /// The lanes of this page.
    list: Vec<LaneOverview>,
    /// Lanes on all pages.
    #[schema(example = 1)]
    total: usize,
    /// When they were counted.
    taken_at: Time,
}

/// One tenant's queue for one model.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Lane, example = json!({
    "tenantId": "7", "modelId": "3", "modelName": "tts", "queued": 12, "resting": 1, "running": 2, "uploading": 0,
    "limit": 2, "queueLimit": 1000, "oldestEnqueueAt": "2026-11-22T03:03:51.002Z", "status": "full",
    "reason": "All 2 calls that maxConcurrency allows are running; 12 tasks wait for one of them to end."
}))]
pub(crate) struct LaneOverview {
    /// The tenant whose tasks are in it.
    tenant_id: Id,
    /// The model they are for.
    model_id: Id,
    /// Its name.
    model_name: String,
    /// Waiting for capacity.
    queued: i64,
    /// Waiting for the pause before a retry to end.
    resting: i64,
    /// Calling the model.
    running: i64,
    /// Only the upload of the result is left.
    uploading: i64,
    /// `maxConcurrency`: calls of this lane that may run at once.
    limit: i64,
    /// Tasks queued or running at which new ones are refused; 0 = no such limit.
    queue_limit: i32,
    /// Place in the queue of the oldest that waits for capacity.
    #[schema(required = true)]
    oldest_enqueue_at: Option<Time>,
    /// `idle`: no tasks. `moving`: tasks run or are about to. `full`: `maxConcurrency` is reached.
    /// `modelFull`: tasks wait because other lanes use up `totalConcurrency`. `disabled`: the model
    /// is disabled or deleted. `queueFull`: `queueLimit` is reached, new tasks are refused.
    /// `stalled`: tasks wait and could run, but none was started for 30 s.
    #[schema(pattern = "^(idle|moving|full|modelFull|disabled|queueFull|stalled)$")]
    status: &'static str,
    /// Why, in one sentence.
    reason: String,
}

/// See what is queued and what runs
///
/// An admin who names no tenant sees all of them. Of a shared model others see their own tasks.
#[utoipa::path(post, path = "/stat/getOverview", tag = "statistics", request_body = GetOverview, responses(
    (status = 200, description = "The numbers of now", body = Envelope<Overview>),
))]
pub(crate) async fn get_overview(
    State(api): State<ApiState>,
    Shown(tenant): Shown,
    Ask(GetOverview {}): Ask<GetOverview>,
) -> Answer<Overview> {
    let census = api.census.look().await?;
    envelope::ok(Overview::of(&View::new(&census, tenant)))
}

/// List lanes, the longest queue first
///
/// A lane is one tenant's queue for one model. An admin who names no tenant sees those of all.
#[utoipa::path(post, path = "/stat/listLane", tag = "statistics", request_body = ListLane, responses(
    (status = 200, description = "One page of lanes", body = Envelope<Lanes>),
))]
pub(crate) async fn list_lane(
    State(api): State<ApiState>,
    Shown(tenant): Shown,
    Ask(ask): Ask<ListLane>,
) -> Answer<Lanes> {
    let page = PageAsk::check(ask.page)?;
    let name = filter("modelName", ask.model_name, MAX_NAME)?;
    let status = ask.status.filter(|status| !status.is_empty()).map(|status| known_status(&status)).transpose()?;
    let census = api.census.look().await?;
    let view = View::new(&census, tenant);
    let mut lanes = view.lanes();
    lanes.retain(|lane| {
        name.as_ref().is_none_or(|name| lane.counted.model_name.contains(name))
            && status.is_none_or(|status| lane.standing == status)
    });
    envelope::ok(Lanes::of(lanes, page, Time(view.taken_at())))
}

fn known_status(word: &str) -> Result<Standing, ApiError> {
    Standing::from_word(word).ok_or_else(|| {
        let words = Standing::ALL.map(Standing::word).join(", ");
        ApiError::validation("status", &format!("must be one of {words}"))
    })
}

impl Overview {
    fn of(view: &View<'_>) -> Overview {
        let mut models: HashMap<ModelId, (&ModelFacts, Totals)> =
            view.models().map(|model| (model.id, (model, Totals::default()))).collect();
        let mut totals = Totals::default();
        let (mut lanes, mut full_lanes) = (0, 0);
        for lane in view.busy_lanes() {
            lanes += 1;
            full_lanes += usize::from(lane.standing.is_full());
            totals.add(&lane);
            // A deleted model is in no list any more, but its last tasks are.
            if let Some(model) = lane.model {
                models.entry(model.id).or_insert_with(|| (model, Totals::default())).1.add(&lane);
            }
        }
        let mut models: Vec<ModelOverview> =
            models.into_values().map(|(model, totals)| ModelOverview::of(model, totals)).collect();
        totals.limit = models.iter().map(|model| model.totals.limit).sum();
        models.sort_by_cached_key(|model| (Reverse(model.totals.tasks()), model.model_name.clone(), model.model_id.0));
        models.truncate(MAX_MODELS);
        Overview { taken_at: Time(view.taken_at()), totals, lanes, full_lanes, models }
    }
}

impl Totals {
    fn add(&mut self, lane: &LaneView<'_>) {
        let counted = &lane.counted;
        self.queued += counted.queued;
        self.resting += counted.resting;
        self.running += counted.running;
        self.uploading += counted.uploading;
        self.limit += lane.limit();
        let oldest = self.oldest_enqueue_at.map(|at| at.0).into_iter().chain(counted.oldest_enqueue_at).min();
        self.oldest_enqueue_at = oldest.map(Time);
    }

    fn tasks(&self) -> i64 {
        self.queued + self.resting + self.running + self.uploading
    }
}

impl ModelOverview {
    fn of(model: &ModelFacts, totals: Totals) -> ModelOverview {
        let enabled = model.enabled && !model.deleted;
        ModelOverview {
            model_id: model.id.into(),
            tenant_id: model.tenant.into(),
            model_name: model.model_name.clone(),
            enabled,
            shared: model.shared,
            totals: Totals { limit: if enabled { limit(model, totals.limit) } else { 0 }, ..totals },
            total_concurrency: model.total_concurrency,
        }
    }
}

/// What may run of a model whose lanes with tasks may run `of_lanes`.
fn limit(model: &ModelFacts, of_lanes: i64) -> i64 {
    // Without tasks it could still run those of one lane.
    let most = of_lanes.max(model.max_concurrency.into());
    if model.total_concurrency > 0 { most.min(model.total_concurrency.into()) } else { most }
}

impl Lanes {
    fn of(mut lanes: Vec<LaneView<'_>>, page: Page, taken_at: Time) -> Lanes {
        lanes.sort_by_key(|lane| (Reverse(lane.counted.queued), Reverse(lane.counted.tasks()), lane.counted.lane));
        let skip = usize::try_from(page.offset).unwrap_or(usize::MAX);
        let most = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let list = lanes.iter().skip(skip).take(most).map(LaneOverview::of).collect();
        Lanes { list, total: lanes.len(), taken_at }
    }
}

impl LaneOverview {
    fn of(lane: &LaneView<'_>) -> LaneOverview {
        let counted = &lane.counted;
        LaneOverview {
            tenant_id: counted.lane.tenant.into(),
            model_id: counted.lane.model.into(),
            model_name: counted.model_name.clone(),
            queued: counted.queued,
            resting: counted.resting,
            running: counted.running,
            uploading: counted.uploading,
            limit: lane.limit(),
            queue_limit: lane.model.map_or(0, |model| model.queue_limit),
            oldest_enqueue_at: counted.oldest_enqueue_at.map(Time),
            status: lane.standing.word(),
            reason: lane.reason(),
        }
    }
}
