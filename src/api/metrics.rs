//! The route that Prometheus scrapes.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use super::{ApiState, auth, error::ApiError};
use crate::{
    caller::Scope,
    metrics::{CONTENT_TYPE, LaneReading, Queues, Readings},
    store::census::{Census, LaneCensus, ModelFacts},
};

/// Metrics for Prometheus
///
/// The text format 0.0.4. Opened by `metrics.token` where that is set, otherwise by an admin of `auth.mode`. It
/// never waits for the database: what is queued was counted some seconds ago where counting takes long.
#[utoipa::path(get, path = "/metrics", tag = "tools", responses(
    (status = 200, description = "Counters, gauges and histograms", body = String, content_type = "text/plain"),
    (status = 401, description = "The token is missing or wrong, or the caller is unknown"),
    (status = 403, description = "The caller is no admin"),
))]
pub(crate) async fn metrics(State(api): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    admit(&api, &headers).await?;
    let census = api.queues.look().await;
    let readings = Readings {
        database: api.store.kind(),
        queues: census.map(|census| queues(&census)),
        pools: api.store.pools(),
        permits: api.permits.held(),
        call_limit: if api.config.worker.enabled { api.config.worker.concurrency } else { 0 },
        permits_open: api.permits.is_open(),
        op_log_dropped: api.oplog.dropped(),
    };
    let page = api.metrics.page(readings).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response())
}

async fn admit(api: &ApiState, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(token) = &api.config.metrics.token {
        return auth::check_bearer(token, headers);
    }
    let caller = api.gate.caller(headers).await?;
    if caller.is_admin() { Ok(()) } else { Err(ApiError::lacks_scope(Scope::Admin)) }
}

fn queues(census: &Census) -> Queues {
    let lane = |lane: &LaneCensus| LaneReading {
        tenant: lane.lane.tenant,
        model_name: lane.model_name.clone(),
        queued: lane.queued,
        resting: lane.resting,
        running: lane.running,
        uploading: lane.uploading,
        limit: census.models.get(&lane.lane.model).map_or(0, limit),
        oldest_age: lane.oldest_enqueue_at.map(|at| (census.taken_at - at).as_seconds_f64().max(0.0)),
    };
    Queues {
        taken_at: census.taken_at.timestamp_millis() as f64 / 1000.0,
        workers: census.workers,
        lanes: census.lanes.iter().map(lane).collect(),
    }
}

/// Calls of a lane that may run at once: none where the model is disabled.
fn limit(model: &ModelFacts) -> i64 {
    let per_lane = i64::from(model.max_concurrency);
    match (model.enabled, model.total_concurrency) {
        (false, _) => 0,
        (true, 0) => per_lane,
        (true, total) => per_lane.min(total.into()),
    }
}
