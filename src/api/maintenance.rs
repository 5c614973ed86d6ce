//! The routes of maintenance jobs.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Acting,
    envelope::{self, Answer, Envelope, PageOf},
    error::ApiError,
    request::Ask,
    wire::{Id, PageAsk, Time, raw_json},
};
use crate::{
    job::{Job, Run},
    store::{Page, jobs::Requested},
};

/// Nothing has to be said to list jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({}))]
pub(crate) struct ListJob {}

/// Which job to run.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"job": "retention"}))]
pub(crate) struct RunJob {
    /// Its name.
    job: String,
}

/// Filters of listRun.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "job": "retention"}))]
pub(crate) struct ListRun {
    /// Which page.
    page: Option<PageAsk>,
    /// Runs of that job only.
    job: Option<String>,
}

/// A run that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AskedRun {
    /// Its number, for listRun.
    run_id: Id,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
pub(crate) struct JobView {
    /// Its name.
    #[schema(example = "retention")]
    job: &'static str,
    /// What it does.
    description: &'static str,
    /// When it runs, as a cron expression; null where it only runs when asked for.
    #[schema(example = "0 3 * * *")]
    schedule: Option<String>,
    /// Where the expression is read.
    #[schema(example = "UTC")]
    timezone: Option<&'static str>,
    /// When it is due next; in the past where nothing has begun it yet.
    next_at: Option<Time>,
    /// The run that waits or is under way.
    open: Option<RunView>,
    /// The latest run that is over.
    last: Option<RunView>,
}

/// A run of a job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Run, example = json!({
    "runId": "12", "job": "retention", "state": "succeeded", "cause": "schedule", "creator": "",
    "createdAt": "2026-11-22T03:00:02.678Z", "startedAt": "2026-11-22T03:00:02.701Z",
    "finishedAt": "2026-11-22T03:00:04.811Z", "seconds": 2.11, "node": "10.0.0.5:8080",
    "result": {"opLog": 1200, "runs": 1, "results": 3400}, "errorMsg": ""
}))]
pub(crate) struct RunView {
    /// Its number.
    run_id: Id,
    /// The job's name.
    job: String,
    /// `waiting`, `running`, `succeeded`, `failed` or `lost` (with its node).
    state: &'static str,
    /// `schedule`, `request`, or `loss`: the run before was lost.
    cause: &'static str,
    /// User who asked for it.
    creator: String,
    /// When it was asked for.
    created_at: Time,
    /// When a node began it.
    started_at: Option<Time>,
    /// When it ended.
    finished_at: Option<Time>,
    /// How long it took, or has taken until it was lost.
    seconds: Option<f64>,
    /// The node that is or was at it.
    node: String,
    /// What it did: rows deleted by each step, -1 for a step that failed.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
    /// What went wrong.
    error_msg: String,
}

/// List jobs, with when they run and how they last went
#[utoipa::path(post, path = "/maintenance/listJob", tag = "maintenance", request_body = ListJob, responses(
    (status = 200, description = "The jobs", body = Envelope<PageOf<JobView>>),
))]
pub(crate) async fn list_job(State(api): State<ApiState>, _: Acting, _: Ask<ListJob>) -> Answer<PageOf<JobView>> {
    let now = api.store.now().await?;
    let mut list = Vec::with_capacity(Job::ALL.len());
    for job in Job::ALL {
        list.push(view(&api, job, now).await?);
    }
    let total = list.len() as i64;
    envelope::page(list, total)
}

/// Run a job now
///
/// Answers at once with the number of the run, which a node begins within seconds.
#[utoipa::path(post, path = "/maintenance/runJob", tag = "maintenance", request_body = RunJob, responses(
    (status = 200, description = "It is asked for", body = Envelope<AskedRun>),
    (status = 404, description = "No such job"),
    (status = 409, description = "A run of the job waits or is under way: it never overlaps itself"),
))]
pub(crate) async fn run_job(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ask): Ask<RunJob>,
) -> Answer<AskedRun> {
    let job = named(&ask.job)?;
    match api.store.request_run(job, &caller.user, api.store.now().await?).await? {
        Requested::Waiting(run) => {
            api.bell.ring(job);
            envelope::ok(AskedRun { run_id: Id(run.0) })
        }
        Requested::Open(run) => Err(ApiError::job_has_open_run(job, run)),
    }
}

/// List runs of jobs, newest first
#[utoipa::path(post, path = "/maintenance/listRun", tag = "maintenance", request_body = ListRun, responses(
    (status = 200, description = "One page of runs", body = Envelope<PageOf<RunView>>),
    (status = 404, description = "No such job"),
))]
pub(crate) async fn list_run(
    State(api): State<ApiState>,
    _: Acting,
    Ask(ask): Ask<ListRun>,
) -> Answer<PageOf<RunView>> {
    let page = PageAsk::check(ask.page)?;
    let job = ask.job.filter(|name| !name.is_empty()).map(|name| named(&name)).transpose()?;
    let found = api.store.list_runs(job, page).await?;
    envelope::page(found.list.into_iter().map(RunView::from).collect(), found.total)
}

fn named(name: &str) -> Result<Job, ApiError> {
    Job::from_name(name).ok_or_else(ApiError::no_such_job)
}

async fn view(api: &ApiState, job: Job, now: DateTime<Utc>) -> Result<JobView, ApiError> {
    let schedule = api.config.maintenance.schedule(job);
    let since = api.store.job_done_until(job).await?.unwrap_or(now);
    // One may be open, so the latest that is over is among the last two.
    let (over, open): (Vec<Run>, Vec<Run>) = api
        .store
        .list_runs(Some(job), Page { offset: 0, limit: 2 })
        .await?
        .list
        .into_iter()
        .partition(|run| run.state.is_over());
    Ok(JobView {
        job: job.name(),
        description: job.description(),
        schedule: schedule.map(|schedule| schedule.expression().to_owned()),
        timezone: schedule.map(|schedule| schedule.zone().name()),
        next_at: schedule.and_then(|schedule| schedule.next_after(since)).map(Time),
        open: open.into_iter().next().map(RunView::from),
        last: over.into_iter().next().map(RunView::from),
    })
}

impl From<Run> for RunView {
    fn from(run: Run) -> RunView {
        let seconds = |took: TimeDelta| took.as_seconds_f64();
        RunView {
            run_id: Id(run.id.0),
            job: run.job,
            state: run.state.word(),
            cause: run.cause.word(),
            creator: run.creator,
            created_at: Time(run.created_at),
            started_at: run.started_at.map(Time),
            finished_at: run.finished_at.map(Time),
            seconds: run.started_at.zip(run.finished_at).map(|(began, ended)| seconds(ended - began)),
            node: run.node,
            result: raw_json(run.result),
            error_msg: run.error_msg,
        }
    }
}
