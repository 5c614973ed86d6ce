//! The operation log: one row per changing call, written in batches behind the caller's back.
//!
//! It never fails or slows a call: rows go into a bounded channel, and what does not fit is
//! dropped and counted.

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{store::Store, task::TenantId};

/// One row of `asynch_op_log`.
#[derive(Debug, Clone)]
pub struct OpLog {
    /// Number of the row; 0 before it is written.
    pub id: i64,
    /// Tenant of the caller.
    pub tenant: TenantId,
    /// User who called.
    pub creator: String,
    /// When the call came in.
    pub created_at: DateTime<Utc>,
    /// Address of the caller.
    pub ip: String,
    /// `User-Agent`, cut to 256 characters.
    pub user_agent: String,
    /// Path of the route.
    pub api_path: String,
    /// Method of the request.
    pub http_method: String,
    /// `bizName` of the request.
    pub biz_name: String,
    /// Model the call was about.
    pub model_name: String,
    /// Task the call was about.
    pub task_id: String,
    /// The route's last name, such as `createTask`.
    pub op_type: String,
    /// Whether the answer's code was 0.
    pub success: bool,
    /// The answer's message where it was not.
    pub error_msg: String,
    /// How long the call took.
    pub cost_ms: i64,
    /// Request body (or query), JSON text with secrets masked.
    pub request_payload: Option<String>,
    /// Answer, JSON text with secrets masked.
    pub response_payload: Option<String>,
}

/// A call as the API saw it, before it becomes a row.
#[derive(Debug, Clone)]
pub struct OpRecord {
    /// See [`OpLog::tenant`].
    pub tenant: TenantId,
    /// See [`OpLog::creator`].
    pub creator: String,
    /// See [`OpLog::created_at`].
    pub created_at: DateTime<Utc>,
    /// See [`OpLog::ip`].
    pub ip: String,
    /// See [`OpLog::user_agent`].
    pub user_agent: String,
    /// See [`OpLog::api_path`].
    pub api_path: String,
    /// See [`OpLog::http_method`].
    pub http_method: String,
    /// See [`OpLog::biz_name`].
    pub biz_name: String,
    /// See [`OpLog::model_name`].
    pub model_name: String,
    /// See [`OpLog::task_id`].
    pub task_id: String,
    /// See [`OpLog::op_type`].
    pub op_type: String,
    /// See [`OpLog::success`].
    pub success: bool,
    /// See [`OpLog::error_msg`].
    pub error_msg: String,
    /// See [`OpLog::cost_ms`].
    pub cost_ms: i64,
    /// The request's body as it came in (or its query as JSON); empty if there was none.
    pub request: bytes::Bytes,
    /// The answer's body as it went out; empty if there was none.
    pub response: bytes::Bytes,
}

/// Where rows are handed in; cheap to clone.
#[derive(Clone)]
pub struct OpLogger {
    #[expect(dead_code)]
    inner: (),
}

/// The loop that writes them.
pub struct OpLogWriter {
    #[expect(dead_code)]
    inner: (),
}

/// A logger and its writer.
pub fn channel() -> (OpLogger, OpLogWriter) {
    todo!()
}

impl OpLogger {
    /// Hands a row in; drops and counts it where the writer cannot keep up.
    pub fn record(&self, _record: OpRecord) {
        todo!()
    }

    /// Rows dropped since the start.
    pub fn dropped(&self) -> u64 {
        todo!()
    }
}

impl OpLogWriter {
    /// Writes until `stop`, then what is left.
    pub async fn run(self, _store: Store, _stop: CancellationToken) {
        todo!()
    }
}
