//! The route of the operation log.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Acting,
    envelope::{self, Answer, Envelope, PageOf},
    error::ApiError,
    request::Ask,
    wire::{Id, PageAsk, Time, filter, raw_json},
};
use crate::{model::MAX_NAME, oplog::OpLog, store::oplog::OpLogFilter};

/// Width of the columns `op_type` and `task_id`.
const MAX_WORD: usize = 64;

/// Filters of listOpLog; all given must hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"page": {"pageNum": 1, "pageSize": 10}, "opType": "createTask", "success": 0}))]
pub(crate) struct ListOpLog {
    /// Which page.
    page: Option<PageAsk>,
    /// The route's last name, such as `createTask`.
    #[schema(max_length = 64)]
    op_type: Option<String>,
    /// Name of the model.
    #[schema(max_length = 128)]
    model_name: Option<String>,
    /// Id of the task.
    #[schema(max_length = 64)]
    task_id: Option<String>,
    /// 1 for calls that succeeded, 0 for those that failed.
    #[schema(minimum = 0, maximum = 1)]
    success: Option<i64>,
}

/// A changing call.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpLog, example = json!({
    "id": "42", "tenantId": "7", "creator": "ann", "createdAt": "2026-11-22T03:04:05.678Z", "updater": "ann",
    "updatedAt": "2026-11-22T03:04:05.678Z", "ip": "203.0.113.7", "userAgent": "curl/8.5.0",
    "apiPath": "/task/createTask", "httpMethod": "POST", "bizName": "audiobook", "modelName": "tts",
    "taskId": "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d", "opType": "createTask", "success": 1, "errorMsg": "",
    "costMs": 3, "requestPayload": {"modelName": "tts", "requestPayload": {"text": "Hello"}},
    "responsePayload": {"code": 0, "message": "OK", "data": {"taskId": "019aa9a3-5d4e-7c3b-9a51-0f6f7f0f1c2d"}}
}))]
pub(crate) struct OpLogView {
    /// Number of the row.
    id: Id,
    /// Tenant that the caller acted for.
    tenant_id: Id,
    /// User who called.
    creator: String,
    /// When the call came in.
    created_at: Time,
    /// The same user: a row is never changed.
    updater: String,
    /// The same time: a row is never changed.
    updated_at: Time,
    /// Address of the caller.
    ip: String,
    /// The caller's program.
    user_agent: String,
    /// Path of the route.
    api_path: String,
    /// Method of the request.
    http_method: String,
    /// `bizName` of the request.
    biz_name: String,
    /// Model the call was about.
    model_name: String,
    /// Task the call was about.
    task_id: String,
    /// The route's last name.
    op_type: String,
    /// 1, or 0 if it failed.
    #[schema(minimum = 0, maximum = 1)]
    success: u8,
    /// The answer's message where it failed.
    error_msg: String,
    /// How long the call took, in milliseconds.
    cost_ms: i64,
    /// What was sent, secrets masked.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    request_payload: Option<Box<RawValue>>,
    /// What was answered, secrets masked.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    response_payload: Option<Box<RawValue>>,
}

/// List changing calls, newest first
#[utoipa::path(post, path = "/opLog/listOpLog", tag = "operation log", request_body = ListOpLog, responses(
    (status = 200, description = "One page of calls", body = Envelope<PageOf<OpLogView>>),
))]
pub(crate) async fn list_op_log(
    State(api): State<ApiState>,
    Acting(caller): Acting,
    Ask(ask): Ask<ListOpLog>,
) -> Answer<PageOf<OpLogView>> {
    let page = PageAsk::check(ask.page)?;
    let found = api.store.list_op_logs(caller.tenant, &ask.filter()?, page).await?;
    envelope::page(found.list.into_iter().map(OpLogView::from).collect(), found.total)
}

impl ListOpLog {
    fn filter(self) -> Result<OpLogFilter, ApiError> {
        Ok(OpLogFilter {
            op_type: filter("opType", self.op_type, MAX_WORD)?,
            model_name: filter("modelName", self.model_name, MAX_NAME)?,
            task_id: filter("taskId", self.task_id, MAX_WORD)?,
            success: match self.success {
                None => None,
                Some(0) => Some(false),
                Some(1) => Some(true),
                Some(_) => return Err(ApiError::validation("success", "must be 0 or 1")),
            },
        })
    }
}

impl From<OpLog> for OpLogView {
    fn from(row: OpLog) -> OpLogView {
        OpLogView {
            id: Id(row.id),
            tenant_id: row.tenant.into(),
            updater: row.creator.clone(),
            creator: row.creator,
            created_at: Time(row.created_at),
            updated_at: Time(row.created_at),
            ip: row.ip,
            user_agent: row.user_agent,
            api_path: row.api_path,
            http_method: row.http_method,
            biz_name: row.biz_name,
            model_name: row.model_name,
            task_id: row.task_id,
            op_type: row.op_type,
            success: u8::from(row.success),
            error_msg: row.error_msg,
            cost_ms: row.cost_ms,
            request_payload: raw_json(row.request_payload),
            response_payload: raw_json(row.response_payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_one_or_zero() {
        let read = |json: &str| serde_json::from_str::<ListOpLog>(json).unwrap().filter().map(|filter| filter.success);
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"success":1}"#), Ok(Some(true)));
        assert_eq!(read(r#"{"success":0}"#), Ok(Some(false)));
        assert!(read(r#"{"success":2}"#).is_err());
    }
}
