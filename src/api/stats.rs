//! The route of statistics.

use axum::extract::State;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Shown,
    envelope::{self, Answer, Envelope, PageOf},
    error::ApiError,
    request::Ask,
    wire::{Id, PageAsk, Time, filter},
};
use crate::{caller::MAX_USER, model::MAX_NAME, stats::DayStat, store::stats::StatFilter};

/// Length of `YYYY-MM-DD`.
const DAY_LENGTH: usize = 10;

/// Filters of listModelStat; all given must hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "page": {"pageNum": 1, "pageSize": 10}, "startDay": "2026-11-01", "endDay": "2026-11-30", "modelName": "tts"
}))]
pub(crate) struct ListModelStat {
    /// Which page.
    page: Option<PageAsk>,
    /// First day.
    #[schema(format = Date)]
    start_day: Option<String>,
    /// Last day, inclusive.
    #[schema(format = Date)]
    end_day: Option<String>,
    /// Part of the creator's name.
    #[schema(max_length = 64)]
    creator: Option<String>,
    /// Part of the model's name.
    #[schema(max_length = 128)]
    model_name: Option<String>,
}

/// What one creator's calls of one model came to on one day.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Stat, example = json!({
    "day": "2026-11-22", "tenantId": "7", "creator": "ann", "modelName": "tts", "requestCount": 12,
    "successCount": 11, "failureCount": 1, "totalSeconds": 18.25, "resultBytes": 576528,
    "createdAt": "2026-11-22T03:04:05.678Z", "updatedAt": "2026-11-22T09:10:11.121Z"
}))]
pub(crate) struct StatView {
    /// The day, in the configured time zone.
    day: NaiveDate,
    /// Tenant of the tasks.
    tenant_id: Id,
    /// User who created the tasks.
    creator: String,
    /// Name of the model.
    model_name: String,
    /// Real model calls.
    request_count: i64,
    /// Calls that gave a result.
    success_count: i64,
    /// Calls that did not.
    failure_count: i64,
    /// Seconds spent in calls.
    total_seconds: f64,
    /// Bytes of results.
    result_bytes: i64,
    /// First call of the day.
    created_at: Time,
    /// Latest call of the day.
    updated_at: Time,
}

/// List statistics, newest day first, then the largest count
///
/// An admin who names no tenant sees all of them.
#[utoipa::path(post, path = "/stat/listModelStat", tag = "statistics", request_body = ListModelStat, responses(
    (status = 200, description = "One page of statistics", body = Envelope<PageOf<StatView>>),
))]
pub(crate) async fn list_model_stat(
    State(api): State<ApiState>,
    Shown(tenant): Shown,
    Ask(ask): Ask<ListModelStat>,
) -> Answer<PageOf<StatView>> {
    let page = PageAsk::check(ask.page)?;
    let found = api.store.list_stats(tenant, &ask.filter()?, page).await?;
    envelope::page(found.list.into_iter().map(StatView::from).collect(), found.total)
}

impl ListModelStat {
    fn filter(self) -> Result<StatFilter, ApiError> {
        let (start_day, end_day) = (day("startDay", self.start_day)?, day("endDay", self.end_day)?);
        if start_day.zip(end_day).is_some_and(|(start, end)| end < start) {
            return Err(ApiError::validation("endDay", "must not be before startDay"));
        }
        Ok(StatFilter {
            start_day,
            end_day,
            creator: filter("creator", self.creator, MAX_USER)?,
            model_name: filter("modelName", self.model_name, MAX_NAME)?,
        })
    }
}

fn day(field: &'static str, written: Option<String>) -> Result<Option<NaiveDate>, ApiError> {
    let Some(written) = written.filter(|written| !written.is_empty()) else {
        return Ok(None);
    };
    // chrono also takes `2026-1-2` and years of five digits, which the databases read differently.
    let day = NaiveDate::parse_from_str(&written, "%Y-%m-%d").ok().filter(|_| written.len() == DAY_LENGTH);
    day.map(Some).ok_or_else(|| ApiError::validation(field, "must be a day written YYYY-MM-DD"))
}

impl From<DayStat> for StatView {
    fn from(stat: DayStat) -> StatView {
        StatView {
            day: stat.day,
            tenant_id: stat.tenant.into(),
            creator: stat.creator,
            model_name: stat.model_name,
            request_count: stat.request_count,
            success_count: stat.success_count,
            failure_count: stat.failure_count,
            total_seconds: stat.total_seconds,
            result_bytes: stat.result_bytes,
            created_at: Time(stat.created_at),
            updated_at: Time(stat.updated_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_in_exactly_one_spelling() {
        let read = |written: &str| day("startDay", Some(written.to_owned()));
        assert_eq!(read("2026-11-22"), Ok(NaiveDate::from_ymd_opt(2026, 11, 22)));
        assert_eq!(read(""), Ok(None));
        for other in ["2026-1-2", "2026-02-30", "22.11.2026", "2026-11-22T00:00:00Z", "+12026-01-01", "today", " "] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_refused() {
        let ask: ListModelStat = serde_json::from_str(r#"{"startDay":"2026-11-22","endDay":"2026-11-21"}"#).unwrap();
        assert_eq!(ask.filter().unwrap_err(), ApiError::validation("endDay", "must not be before startDay"));
    }
}
