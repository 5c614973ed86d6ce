//! The route of a task's attempts: its timeline.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Acting,
    envelope::{self, Answer, Envelope},
    error::ApiError,
    request::Ask,
    wire::Time,
};
use crate::{
    clock,
    task::{PastAttempt, TaskKey},
};

/// Names a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"taskId": "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d"}))]
pub(crate) struct ListAttempt {
    /// The task's id.
    task_id: String,
}

/// The attempts of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Attempts {
    /// The oldest first.
    list: Vec<AttemptView>,
}

/// One attempt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt, example = json!({
    "attempt": 1, "startedAt": "2026-11-22T03:04:05.700Z", "endedAt": "2026-11-22T03:04:07.012Z", "outcome": "failed",
    "error": "the model answered 500: overloaded", "node": "5b1f0e6c-8f65-4a7e-9a51-0f6f7f0f1c2d", "seconds": 1.312
}))]
pub(crate) struct AttemptView {
    /// Its number, from 1.
    #[schema(minimum = 1)]
    attempt: i32,
    /// When a worker took the task.
    #[schema(required = true)]
    started_at: Option<Time>,
    /// When it was over.
    #[schema(required = true)]
    ended_at: Option<Time>,
    /// `running`; `succeeded`; `failed`: the call failed; `lost`: with its worker, or its result with a
    /// disk; `handedBack`: by a worker that stopped; `uploadFailed`: the result could not be stored.
    #[schema(pattern = "^(running|succeeded|failed|lost|handedBack|uploadFailed)$")]
    outcome: &'static str,
    /// What went wrong; empty where nothing did.
    error: String,
    /// The worker that held the task, see listNode; null where that is not known any more.
    #[schema(required = true)]
    node: Option<String>,
    /// How long it took, or has taken until now.
    #[schema(required = true)]
    seconds: Option<f64>,
}

/// List the attempts of a task, oldest first
///
/// Every one that ended without success (the latest 100), and the one that runs or succeeded.
#[utoipa::path(post, path = "/task/listAttempt", tag = "tasks", request_body = ListAttempt, responses(
    (status = 200, description = "Its attempts", body = Envelope<Attempts>),
    (status = 404, description = "No such task"),
))]
pub(crate) async fn list_attempt(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ListAttempt { task_id }): Ask<ListAttempt>,
) -> Answer<Attempts> {
    let id = task_id.parse().map_err(|_| ApiError::no_such_task())?;
    let attempts = api.store.attempts(TaskKey { tenant: caller.tenant, id }).await?;
    let now = clock::now();
    let list = attempts.ok_or_else(ApiError::no_such_task)?.into_iter().map(|past| AttemptView::of(past, now));
    envelope::ok(Attempts { list: list.collect() })
}

impl AttemptView {
    fn of(past: PastAttempt, now: DateTime<Utc>) -> AttemptView {
        // The database's clock said when it began, and this node's may be behind it.
        let length = past.started_at.map(|began| (past.ended_at.unwrap_or(now) - began).num_milliseconds().max(0));
        AttemptView {
            attempt: past.attempt.0,
            started_at: past.started_at.map(Time),
            ended_at: past.ended_at.map(Time),
            outcome: past.outcome.word(),
            error: past.error,
            node: past.node.map(|node| node.to_string()),
            seconds: length.map(|millis| millis as f64 / 1000.0),
        }
    }
}
