//! The routes of tasks.

use std::collections::{HashMap, HashSet};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, header},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    audit::Notes,
    auth::{Acting, USER_INFO},
    envelope::{self, Answer, Envelope},
    error::ApiError,
    request::Ask,
    traced::{CallersSpan, RequestSpan},
    wire::{Id, PageAsk, Time, filter, moment, raw_json},
};
use crate::{
    caller::{Caller, MAX_USER},
    clock,
    config::{Auth, Config, OssKind},
    faults::{self, Point},
    model::{MAX_NAME, text},
    storage::Storage,
    store::tasks::{Enqueued, PickedUp, TaskFilter},
    task::{
        CallerHeaders, Task, TaskId, TaskKey, TenantId,
        lifecycle::State as TaskState,
        submission::{MAX_BIZ_NAME, Submission},
        trace::TraceContext,
    },
    trace::steps,
    wake::WakeUp,
};

/// Most ids in one batch.
const MAX_BATCH: usize = 1000;

/// Most bytes of a header that is kept for the file service.
const MAX_KEPT_HEADER: usize = 8 * 1024;

/// Length of a task id, the longest part of one to look for.
const TASK_ID_LENGTH: usize = 36;

/// A task to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "modelName": "tts", "bizName": "audiobook", "inputRef": "", "requestPayload": {"text": "Hello"}
}))]
pub(crate) struct CreateTask {
    /// Name of the model that does it: the tenant's own, or a shared one.
    #[schema(min_length = 1, max_length = 128)]
    model_name: String,
    /// The caller's module, free text.
    #[schema(max_length = 128)]
    biz_name: Option<String>,
    /// Reference to the input, passed to the model as it is.
    #[schema(max_length = 4096)]
    input_ref: Option<String>,
    /// Any JSON; it becomes the body of the call, to the letter.
    #[schema(value_type = Option<serde_json::Value>)]
    request_payload: Option<Box<RawValue>>,
}

/// The id of a new task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedTask {
    /// A `UUIDv7`.
    #[schema(format = Uuid, example = "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d")]
    task_id: String,
}

/// Names a task.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskById {
    /// The task's id.
    #[param(example = "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d")]
    task_id: String,
}

/// The tasks whose results to pick up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"taskIds": ["019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d"]}))]
pub(crate) struct GetTaskBatch {
    /// Their ids. What is not the id of a task is answered as missing.
    #[schema(min_items = 1, max_items = 1000)]
    task_ids: Vec<String>,
}

/// What became of a batch, in the order asked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Batch {
    /// The tasks that are known.
    list: Vec<ResultView>,
    /// The ids that are not.
    missing: Vec<String>,
}

/// What became of a task.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Result, example = json!({
    "taskId": "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d", "state": 2,
    "ossFile": "https://files.example.com/file/7/2026/11/22/5b1f0e6c.wav", "fileType": "wav", "fileSize": 48044,
    "errorMsg": ""
}))]
pub(crate) struct ResultView {
    /// The task's id.
    task_id: String,
    /// 0 queued, 1 running, 2 succeeded, 3 failed, 4 picked up, 5 cancelled.
    #[schema(minimum = 0, maximum = 5)]
    state: i16,
    /// Where the result can be fetched; empty until there is one.
    oss_file: String,
    /// Short extension of the result.
    file_type: String,
    /// Size of the result in bytes.
    file_size: i64,
    /// The last failure.
    error_msg: String,
}

/// Filters of listTask; all given must hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "modelName": "tts", "state": 3}))]
pub(crate) struct ListTask {
    /// Which page.
    page: Option<PageAsk>,
    /// Part of the model's name.
    #[schema(max_length = 128)]
    model_name: Option<String>,
    /// Part of the task's id; the whole id is the quickest.
    #[schema(max_length = 36)]
    task_id: Option<String>,
    /// The state.
    #[schema(minimum = 0, maximum = 5)]
    state: Option<i64>,
    /// The caller's module, the whole name.
    #[schema(max_length = 128)]
    biz_name: Option<String>,
    /// User who created it, the whole name.
    #[schema(max_length = 64)]
    creator: Option<String>,
    /// Not created before this moment.
    #[schema(format = DateTime)]
    created_from: Option<String>,
    /// Not created after this moment.
    #[schema(format = DateTime)]
    created_to: Option<String>,
}

/// One page of tasks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskPage {
    /// The tasks of this page.
    list: Vec<TaskView>,
    /// Tasks on all pages; counted up to 10,000.
    #[schema(example = 1)]
    total: i64,
    /// True, and only there, where there are more than `total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool)]
    total_is_at_least: Option<bool>,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Task, example = json!({
    "taskId": "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d", "tenantId": "7", "creator": "ann", "modelName": "tts",
    "bizName": "audiobook", "state": 2, "phase": 0,
    "ossFile": "https://files.example.com/file/7/2026/11/22/5b1f0e6c.wav", "fileType": "wav", "fileSize": 48044,
    "errorMsg": "", "retryCount": 0, "inputRef": "", "requestPayload": {"text": "Hello"},
    "createdAt": "2026-11-22T03:04:05.678Z", "enqueueAt": "2026-11-22T03:04:05.678Z",
    "startedAt": "2026-11-22T03:04:05.700Z", "finishedAt": "2026-11-22T03:04:07.012Z", "expireAt": null
}))]
pub(crate) struct TaskView {
    /// Its id.
    task_id: String,
    /// The tenant that created it.
    tenant_id: Id,
    /// User who created it.
    creator: String,
    /// Name of the model at creation.
    model_name: String,
    /// The caller's module.
    biz_name: String,
    /// 0 queued, 1 running, 2 succeeded, 3 failed, 4 picked up, 5 cancelled.
    #[schema(minimum = 0, maximum = 5)]
    state: i16,
    /// 1 while only the upload of the result is being tried again.
    #[schema(minimum = 0, maximum = 1)]
    phase: i16,
    /// Where the result can be fetched; empty until there is one.
    oss_file: String,
    /// Short extension of the result.
    file_type: String,
    /// Size of the result in bytes.
    file_size: i64,
    /// The last failure.
    error_msg: String,
    /// Failed tries so far.
    retry_count: i32,
    /// Reference to the input.
    input_ref: String,
    /// The payload, to the letter.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    request_payload: Option<Box<RawValue>>,
    /// When it was created.
    created_at: Time,
    /// Its place in the queue.
    enqueue_at: Time,
    /// When its latest attempt began.
    #[schema(required = true)]
    started_at: Option<Time>,
    /// When it succeeded or failed for good.
    #[schema(required = true)]
    finished_at: Option<Time>,
    /// When it will be purged.
    #[schema(required = true)]
    expire_at: Option<Time>,
}

/// Hand in a task
///
/// It is durable before the answer is sent. A `traceparent` header (W3C Trace Context) makes the task part of the
/// caller's trace.
#[utoipa::path(post, path = "/task/createTask", tag = "tasks", request_body = CreateTask, responses(
    (status = 200, description = "It is queued", body = Envelope<CreatedTask>),
    (status = 404, description = "No model of that name"),
    (status = 409, description = "The model is disabled"),
    (status = 429, description = "The queue of this tenant and model is full"),
))]
pub(crate) async fn create_task(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    notes: Notes,
    headers: HeaderMap,
    callers_span: CallersSpan,
    Ask(ask): Ask<CreateTask>,
) -> Answer<CreatedTask> {
    let id = clock::task_id();
    // A trace that begins here is named like the task.
    let mut request = RequestSpan::begin(&api.tracer, "POST /task/createTask", callers_span, || id.0.as_u128());
    let key = TaskKey { tenant: caller.tenant, id };
    steps::message(&mut request.span, "send", "createTask", &ask.model_name, key);
    steps::describe(&mut request.span, key, &ask.model_name);
    let answer = enqueue(&api, id, &caller, &notes, &headers, ask, request.context).await;
    request.end(&answer);
    answer
}

/// Checks what was sent and puts it in the queue.
async fn enqueue(
    api: &ApiState,
    id: TaskId,
    caller: &Caller,
    notes: &Notes,
    headers: &HeaderMap,
    ask: CreateTask,
    trace: Option<TraceContext>,
) -> Answer<CreatedTask> {
    let name = text("modelName", &ask.model_name, 1, MAX_NAME)?;
    notes.model(&name);
    let model = api.catalog.by_name(caller.tenant, &name).await?.ok_or_else(|| ApiError::no_model_named(&name))?;
    if !model.spec.enabled {
        return Err(ApiError::model_disabled(&name));
    }
    let submission = Submission {
        biz_name: ask.biz_name.as_deref().unwrap_or_default(),
        input_ref: ask.input_ref.as_deref().unwrap_or_default(),
        request_payload: ask.request_payload,
        caller_headers: kept_headers(&api.config, caller, headers)?,
        trace,
    };
    let task = submission.check(id, caller, &model)?;
    notes.biz(&task.biz_name);
    let lane = task.lane;
    faults::pass(Point::BeforeEnqueue);
    api.wake.announce(lane);
    match api.store.enqueue(task).await? {
        Enqueued::Accepted => {
            faults::pass(Point::AfterEnqueue);
            api.metrics.created(caller.tenant, &name);
            notes.task(id);
            api.wake.send([WakeUp { lane, rewind: false }]);
            envelope::ok(CreatedTask { task_id: id.to_string() })
        }
        Enqueued::QueueFull { limit } => {
            api.metrics.queue_full();
            Err(ApiError::queue_full(limit))
        }
        Enqueued::ModelDisabled => Err(ApiError::model_disabled(&name)),
        Enqueued::ModelGone => {
            api.catalog.forget();
            Err(ApiError::no_model_named(&name))
        }
    }
}

/// Look at a task
///
/// Changes nothing.
#[utoipa::path(get, path = "/task/getTaskResult", tag = "tasks", params(TaskById), responses(
    (status = 200, description = "The task", body = Envelope<TaskView>),
    (status = 404, description = "No such task"),
))]
pub(crate) async fn get_task_result(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(TaskById { task_id }): Ask<TaskById>,
) -> Answer<TaskView> {
    let id = task_id.parse().map_err(|_| ApiError::no_such_task())?;
    let task = api.store.task(TaskKey { tenant: caller.tenant, id }).await?;
    envelope::ok(TaskView::of(task.ok_or_else(ApiError::no_such_task)?, &api.storage).await)
}

/// Pick results up
///
/// Turns state 2 into 4; the answer that does so still says 2. Picking up again gives the same
/// answer, until `expireAt`.
#[utoipa::path(post, path = "/task/getTaskBatch", tag = "tasks", request_body = GetTaskBatch, responses(
    (status = 200, description = "What became of them, in the order asked", body = Envelope<Batch>),
))]
pub(crate) async fn get_task_batch(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    callers_span: CallersSpan,
    Ask(ask): Ask<GetTaskBatch>,
) -> Answer<Batch> {
    let mut request = RequestSpan::begin(&api.tracer, "POST /task/getTaskBatch", callers_span, clock::trace_id);
    let answer = pick_up(&api, caller.tenant, ask, &mut request).await;
    request.end(&answer);
    answer
}

/// Hands results out. Asking for what was handed out before, or is not ready, begins no trace.
async fn pick_up(
    api: &ApiState,
    tenant: TenantId,
    GetTaskBatch { task_ids }: GetTaskBatch,
    request: &mut RequestSpan,
) -> Answer<Batch> {
    if !(1..=MAX_BATCH).contains(&task_ids.len()) {
        return Err(ApiError::validation("taskIds", &format!("must have 1 to {MAX_BATCH} ids")));
    }
    let ids: HashSet<TaskId> = task_ids.iter().filter_map(|id| id.parse().ok()).collect();
    let ids: Vec<TaskId> = ids.into_iter().collect();
    let mut found = HashMap::with_capacity(ids.len());
    let mut handed_out = 0;
    for task in api.store.pick_up(tenant, &ids).await? {
        if task.state == TaskState::Succeeded {
            handed_out += 1;
            let key = TaskKey { tenant, id: task.id };
            api.tracer.picked_up(key, &task.traceparent, &mut request.span);
        }
        found.insert(task.id, ResultView::of(task, &api.storage).await);
    }
    api.metrics.picked_up(handed_out);
    request.span.set("messaging.batch.message_count", handed_out as i64);
    if handed_out == 0 && !request.continues {
        std::mem::take(&mut request.span).forget();
    }
    faults::pass_if(!found.is_empty(), Point::AfterPickUp);
    envelope::ok(Batch::in_order(task_ids, &found))
}

/// List tasks, newest first
///
/// `total` is exact up to 10,000; beyond that `totalIsAtLeast` is true.
#[utoipa::path(post, path = "/task/listTask", tag = "tasks", request_body = ListTask, responses(
    (status = 200, description = "One page of tasks", body = Envelope<TaskPage>),
))]
pub(crate) async fn list_task(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ask): Ask<ListTask>,
) -> Answer<TaskPage> {
    let page = PageAsk::check(ask.page)?;
    let found = api.store.list_tasks(caller.tenant, &ask.filter()?, page).await?;
    let mut list = Vec::with_capacity(found.list.len());
    for task in found.list {
        list.push(TaskView::of(task, &api.storage).await);
    }
    envelope::ok(TaskPage { list, total: found.total, total_is_at_least: found.total_is_at_least.then_some(true) })
}

impl ListTask {
    fn filter(self) -> Result<TaskFilter, ApiError> {
        let created_from = moment("createdFrom", self.created_from)?;
        let created_to = moment("createdTo", self.created_to)?;
        if created_from.zip(created_to).is_some_and(|(from, to)| to < from) {
            return Err(ApiError::validation("createdTo", "must not be before createdFrom"));
        }
        Ok(TaskFilter {
            model_name: filter("modelName", self.model_name, MAX_NAME)?,
            task_id: filter("taskId", self.task_id, TASK_ID_LENGTH)?,
            state: self.state.map(known_state).transpose()?,
            biz_name: filter("bizName", self.biz_name, MAX_BIZ_NAME)?,
            creator: filter("creator", self.creator, MAX_USER)?,
            created_from,
            created_to,
        })
    }
}

fn known_state(number: i64) -> Result<TaskState, ApiError> {
    TaskState::from_number(number).ok_or_else(|| ApiError::validation("state", "must be between 0 and 5"))
}

/// What only the file service needs is not kept for any other storage.
fn kept_headers(config: &Config, caller: &Caller, headers: &HeaderMap) -> Result<CallerHeaders, ApiError> {
    match &config.oss.kind {
        OssKind::Fs { .. } | OssKind::S3(_) => Ok(CallerHeaders::default()),
        OssKind::Http { .. } => Ok(CallerHeaders {
            authorization: kept_header(headers, &header::AUTHORIZATION)?,
            user_info: match &config.auth {
                Auth::Anonymous | Auth::Gateway { .. } => kept_header(headers, &USER_INFO)?,
                // Nobody vouches for what the caller itself wrote there; the file service would believe it.
                Auth::Token | Auth::Jwt { .. } => caller.user_info(),
            },
        }),
    }
}

fn kept_header(headers: &HeaderMap, name: &HeaderName) -> Result<String, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(String::new());
    };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if text.len() <= MAX_KEPT_HEADER => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(ApiError::malformed(format!(
            "the header {name} is passed on to the file service and must be UTF-8 of at most {MAX_KEPT_HEADER} bytes"
        ))),
    }
}

/// The URL under which a result can be fetched now; empty where there is none yet.
async fn url(storage: &Storage, oss_file: &str, oss_key: &str) -> String {
    if oss_file.is_empty() && oss_key.is_empty() {
        return String::new();
    }
    storage.url(oss_file, oss_key).await
}

impl Batch {
    /// Answers every id asked for, as often as it was asked for.
    fn in_order(asked: Vec<String>, found: &HashMap<TaskId, ResultView>) -> Batch {
        let mut batch = Batch { list: Vec::with_capacity(found.len()), missing: Vec::new() };
        for id in asked {
            match id.parse().ok().and_then(|id: TaskId| found.get(&id)) {
                Some(result) => batch.list.push(result.clone()),
                None => batch.missing.push(id),
            }
        }
        batch
    }
}

impl ResultView {
    async fn of(task: PickedUp, storage: &Storage) -> ResultView {
        ResultView {
            task_id: task.id.to_string(),
            state: task.state.number(),
            oss_file: url(storage, &task.oss_file, &task.oss_key).await,
            file_type: task.file_type,
            file_size: task.file_size,
            error_msg: task.error_msg,
        }
    }
}

impl TaskView {
    async fn of(task: Task, storage: &Storage) -> TaskView {
        TaskView {
            task_id: task.key.id.to_string(),
            tenant_id: task.key.tenant.into(),
            creator: task.creator,
            model_name: task.model_name,
            biz_name: task.biz_name,
            state: task.state.number(),
            phase: task.phase.number(),
            oss_file: url(storage, &task.oss_file, &task.oss_key).await,
            file_type: task.file_type,
            file_size: task.file_size,
            error_msg: task.error_msg,
            retry_count: task.retry_count,
            input_ref: task.input_ref,
            request_payload: raw_json(task.request_payload),
            created_at: Time(task.created_at),
            enqueue_at: Time(task.enqueue_at),
            started_at: task.started_at.map(Time),
            finished_at: task.finished_at.map(Time),
            expire_at: task.expire_at.map(Time),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::config::{check::check, raw::RawConfig};

    fn result(id: &str) -> (TaskId, ResultView) {
        let view = ResultView {
            task_id: id.to_owned(),
            state: 2,
            oss_file: String::new(),
            file_type: String::new(),
            file_size: 0,
            error_msg: String::new(),
        };
        (id.parse().unwrap(), view)
    }

    #[test]
    fn a_batch_answers_every_id_in_the_order_asked() {
        let (a, b) = ("01970000-0000-7000-8000-00000000000a", "01970000-0000-7000-8000-00000000000b");
        let unknown = "01970000-0000-7000-8000-00000000000c";
        let found = HashMap::from([result(a), result(b)]);
        let asked = [b, "nonsense", a, unknown, b, "nonsense"].map(str::to_owned).to_vec();
        let batch = Batch::in_order(asked, &found);
        let ids: Vec<&str> = batch.list.iter().map(|result| result.task_id.as_str()).collect();
        assert_eq!(ids, [b, a, b]);
        assert_eq!(batch.missing, ["nonsense", unknown, "nonsense"]);
    }

    #[test]
    fn only_known_states_can_be_asked_for() {
        assert_eq!(known_state(4), Ok(TaskState::PickedUp));
        for number in [-1, 6, i64::MAX] {
            assert!(known_state(number).is_err(), "{number}");
        }
    }

    #[test]
    fn headers_are_kept_for_a_file_service_only() {
        let config = |mode: &str, kind: &str| {
            let mut raw = RawConfig::default();
            raw.auth.mode = mode.into();
            raw.oss.kind = kind.into();
            raw.oss.url = "http://files".into();
            check(&raw).unwrap()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer t"));
        headers.insert(USER_INFO, HeaderValue::from_bytes("{\"userName\":\"王\"}".as_bytes()).unwrap());
        let kept = |mode: &str, kind: &str, headers: &HeaderMap| {
            kept_headers(&config(mode, kind), &Caller::anonymous(), headers)
        };
        let service = kept("gateway", "http", &headers).unwrap();
        assert_eq!((service.authorization.as_str(), service.user_info.as_str()), ("Bearer t", "{\"userName\":\"王\"}"));
        let vouched = kept("token", "http", &headers).unwrap().user_info;
        assert_eq!(vouched, r#"{"tenantId":"0","userName":"anonymous"}"#);
        assert!(kept("gateway", "fs", &headers).unwrap().is_empty());
        headers.insert(header::AUTHORIZATION, "x".repeat(MAX_KEPT_HEADER + 1).parse().unwrap());
        assert!(kept("gateway", "http", &headers).is_err());
        assert!(kept("gateway", "fs", &headers).is_ok());
    }
}
