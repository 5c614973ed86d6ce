//! What one model call adds to which day.

use chrono::NaiveDate;

/// One real call of a model, to be added to its row in `asynch_model_stat`.
///
/// Every call is counted exactly once, in the transaction of the first transition after it, be
/// that its own worker's or that of the cleaner which found the worker dead:
/// `requestCount` is the sum of `successCount` and `failureCount`.
#[derive(Debug, Clone, PartialEq)]
pub struct CallCount {
    /// Day of the call in the configured time zone.
    pub day: NaiveDate,
    /// User who created the task.
    pub creator: String,
    /// Name of the model at creation of the task.
    pub model_name: String,
    /// Whether the model gave a result.
    pub success: bool,
    /// How long the call took; 0 where its end was never seen.
    pub seconds: f64,
    /// Size of the result.
    pub bytes: u64,
}

/// One row of the statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct DayStat {
    /// The day, in the configured time zone.
    pub day: NaiveDate,
    /// Tenant of the tasks.
    pub tenant: crate::task::TenantId,
    /// User who created the tasks.
    pub creator: String,
    /// Name of the model.
    pub model_name: String,
    /// Real model calls.
    pub request_count: i64,
    /// Calls that gave a result.
    pub success_count: i64,
    /// Calls that did not.
    pub failure_count: i64,
    /// Seconds spent in calls.
    pub total_seconds: f64,
    /// Bytes of results.
    pub result_bytes: i64,
    /// First call of the day.
    pub created_at: chrono::DateTime<chrono::Utc>,
    /// Latest call of the day.
    pub updated_at: chrono::DateTime<chrono::Utc>,
}
