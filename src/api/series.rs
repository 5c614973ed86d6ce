//! The route of the series: what happened in the last hours or weeks, step by step.

use std::collections::HashMap;

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Shown,
    envelope::{self, Answer, Envelope},
    error::ApiError,
    request::Ask,
    wire::{Id, Time, filter},
};
use crate::{
    clock,
    model::MAX_NAME,
    recorder,
    series::{Histogram, Point, SeriesRow, Span},
    store::series::SeriesFilter,
    task::TenantId,
};

/// Minutes looked back where the request does not say.
const DEFAULT_MINUTES: i64 = 60;
/// Most minutes looked back: hours are kept so long.
const MAX_MINUTES: i64 = 62 * 24 * 60;
/// Most points in an answer.
const MAX_POINTS: i64 = 1500;
/// Points that make a good chart: the step is chosen so that there are no more.
const GOOD_POINTS: i64 = 360;
/// Most models in an answer.
const MAX_MODELS: usize = 200;
/// The lengths that a step may have, in seconds.
const STEPS: [i64; 4] = [60, 300, 3600, 86_400];
/// Up to here minutes are read, and beyond it hours.
const MOST_BY_MINUTES: TimeDelta = TimeDelta::hours(25);

/// Which span of time, and of what.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"modelName": "tts", "minutes": 60, "stepSeconds": 60, "byModel": true}))]
pub(crate) struct ListSeries {
    /// Name of a model, whole.
    #[schema(max_length = 128)]
    model_name: Option<String>,
    /// The last so many minutes, 1 to 89280 (62 days); 60 where neither this nor `from` is given.
    #[schema(minimum = 1, maximum = 89280)]
    minutes: Option<i64>,
    /// The first moment, instead of `minutes`.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// The last moment; now where it is not given.
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Length of a point: 60, 300, 3600 or 86400 (days in UTC). Chosen to suit the span where not given.
    step_seconds: Option<i64>,
    /// Also what each model came to.
    by_model: Option<bool>,
}

/// What happened in a span of time.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SeriesTotals)]
pub(crate) struct Totals {
    /// Tasks put in the queue.
    created: u64,
    /// Tasks whose result was stored.
    succeeded: u64,
    /// Tasks that failed for good.
    failed: u64,
    /// Calls that failed and are tried again.
    retried: u64,
    /// Attempts that were lost with their worker.
    lost: u64,
    /// Calls of models that came to an end.
    calls: u64,
    /// Bytes of results.
    bytes: u64,
    /// Half of the claims waited at most so long, from the task's place in the queue.
    wait_p50_ms: f64,
    /// 95 % of the claims waited at most so long.
    wait_p95_ms: f64,
    /// Half of the calls took at most so long.
    run_p50_ms: f64,
    /// 95 % of the calls took at most so long.
    run_p95_ms: f64,
    /// Half of the tasks that came to an end took at most so long, from createTask.
    total_p50_ms: f64,
    /// 95 % of the tasks that came to an end took at most so long.
    total_p95_ms: f64,
}

/// What happened in one step.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SeriesPoint)]
pub(crate) struct PointView {
    /// When it began.
    at: Time,
    #[serde(flatten)]
    totals: Totals,
}

/// What one tenant's tasks for one model came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelSum {
    /// Name of the model when the tasks were created.
    model_name: String,
    /// Tenant of the tasks.
    tenant_id: Id,
    #[serde(flatten)]
    totals: Totals,
}

/// The series.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Series {
    /// Length of a point.
    step_seconds: i64,
    /// Every step of the span, the oldest first.
    list: Vec<PointView>,
    /// The whole span.
    sum: Totals,
    /// What each model came to, the busiest first, at most 200; only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<ModelSum>>,
}

/// List what happened, minute by minute or in longer steps
///
/// At most 1500 points, the oldest first, with zeros where nothing happened. Up to 25 hours are read minute by
/// minute, which are kept for 8 days; anything longer hour by hour, which are kept for 63 days. Times are right to
/// within 10 %. An admin who names no tenant sees all of them.
#[utoipa::path(post, path = "/stat/listSeries", tag = "statistics", request_body = ListSeries, responses(
    (status = 200, description = "The steps and their sum", body = Envelope<Series>),
))]
pub(crate) async fn list_series(
    State(api): State<ApiState>,
    Shown(tenant): Shown,
    Ask(ask): Ask<ListSeries>,
) -> Answer<Series> {
    let model_name = filter("modelName", ask.model_name.clone(), MAX_NAME)?;
    let window = Window::of(&ask, clock::now())?;
    let (from, to) = (window.begin(0), window.begin(window.steps));
    let filter = SeriesFilter { span: window.span, from, to, tenant, model_name };
    let mut sums = Sums::new(&window, ask.by_model.unwrap_or(false));
    api.store.read_series(&filter, |row| sums.add(&window, row)).await?;
    envelope::ok(sums.view(&window))
}

/// The steps of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    /// Seconds since 1970, a multiple of the step.
    from: i64,
    step: i64,
    steps: i64,
    /// What is read.
    span: Span,
}

impl Window {
    fn of(ask: &ListSeries, now: DateTime<Utc>) -> Result<Window, ApiError> {
        let to = moment("to", ask.to.as_deref())?.unwrap_or(now).min(now);
        let from = match (moment("from", ask.from.as_deref())?, ask.minutes) {
            (Some(from), _) => from,
            (None, minutes @ (None | Some(1..=MAX_MINUTES))) => {
                to - TimeDelta::minutes(minutes.unwrap_or(DEFAULT_MINUTES))
            }
            (None, Some(_)) => {
                return Err(ApiError::validation("minutes", &format!("must be between 1 and {MAX_MINUTES}")));
            }
        };
        if from >= to {
            return Err(ApiError::validation("from", "must be before to, and not ahead of now"));
        }
        let seconds = (to - from).num_seconds();
        let step = match ask.step_seconds {
            Some(step) if STEPS.contains(&step) => step,
            Some(_) => return Err(ApiError::validation("stepSeconds", "must be 60, 300, 3600 or 86400")),
            None => STEPS.into_iter().find(|step| seconds / step <= GOOD_POINTS).unwrap_or(STEPS[3]),
        };
        let recent = now - from <= recorder::kept(Span::Minute);
        let span = if step < 3600 || (to - from <= MOST_BY_MINUTES && recent) { Span::Minute } else { Span::Hour };
        let begin = from.timestamp().div_euclid(step) * step;
        // A step that begins with `to` itself has nothing in it.
        let steps = (to.timestamp() - begin).div_euclid(step) + i64::from((to.timestamp() - begin) % step != 0);
        if steps > MAX_POINTS {
            let message = format!("makes {steps} points, at most {MAX_POINTS} are answered; take a longer step");
            return Err(ApiError::validation("stepSeconds", &message));
        }
        Ok(Window { from: begin, step, steps: steps.max(1), span })
    }

    fn begin(&self, step: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(self.from + step * self.step, 0).unwrap_or_default()
    }

    /// The step that a moment is in.
    fn place(&self, at: DateTime<Utc>) -> Option<usize> {
        usize::try_from((at.timestamp() - self.from).div_euclid(self.step)).ok()
    }
}

fn moment(field: &'static str, written: Option<&str>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(written) = written.filter(|written| !written.is_empty()) else { return Ok(None) };
    let at = DateTime::parse_from_rfc3339(written).ok().map(|at| at.to_utc());
    // Years of more digits are no times that anything happened at, and overflow.
    let known = at.filter(|at| (0..=253_402_300_799).contains(&at.timestamp()));
    known.map(Some).ok_or_else(|| ApiError::validation(field, "must be a time as 2026-11-22T03:04:05Z"))
}

/// What rows add up to.
struct Sums {
    steps: Vec<Point>,
    all: Point,
    models: Option<HashMap<(TenantId, String), Point>>,
}

impl Sums {
    fn new(window: &Window, by_model: bool) -> Sums {
        let steps = usize::try_from(window.steps).unwrap_or_default();
        Sums { steps: vec![Point::default(); steps], all: Point::default(), models: by_model.then(HashMap::new) }
    }

    fn add(&mut self, window: &Window, row: SeriesRow) {
        let place = window.place(row.at).and_then(|place| self.steps.get_mut(place));
        let Some(step) = place else { return };
        step.add(&row.point);
        self.all.add(&row.point);
        if let Some(models) = &mut self.models {
            models.entry((row.tenant, row.model_name)).or_default().add(&row.point);
        }
    }

    fn view(self, window: &Window) -> Series {
        let points = self.steps.iter().zip(0..);
        let models = self.models.map(|models| {
            let mut models: Vec<_> = models.into_iter().collect();
            let busy = |point: &Point| point.counts.created.max(point.counts.calls);
            models.sort_by(|(one, a), (other, b)| busy(b).cmp(&busy(a)).then_with(|| one.cmp(other)));
            models.truncate(MAX_MODELS);
            let view = |((tenant, model_name), point): ((TenantId, String), Point)| ModelSum {
                model_name,
                tenant_id: tenant.into(),
                totals: Totals::from(&point),
            };
            models.into_iter().map(view).collect()
        });
        Series {
            step_seconds: window.step,
            list: points.map(|(point, n)| PointView { at: Time(window.begin(n)), totals: point.into() }).collect(),
            sum: Totals::from(&self.all),
            models,
        }
    }
}

impl From<&Point> for Totals {
    fn from(point: &Point) -> Totals {
        // The buckets are far wider than the digits that are left.
        let ms = |times: &Histogram, share: f64| (times.percentile_ms(share) * 10.0).round() / 10.0;
        let counts = point.counts;
        Totals {
            created: counts.created,
            succeeded: counts.succeeded,
            failed: counts.failed,
            retried: counts.retried,
            lost: counts.lost,
            calls: counts.calls,
            bytes: counts.bytes,
            wait_p50_ms: ms(&point.wait, 0.5),
            wait_p95_ms: ms(&point.wait, 0.95),
            run_p50_ms: ms(&point.run, 0.5),
            run_p95_ms: ms(&point.run, 0.95),
            total_p50_ms: ms(&point.total, 0.5),
            total_p95_ms: ms(&point.total, 0.95),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;
    use crate::api::exchange::RequestId;

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 22, 10, 30, 30).unwrap()
    }

    fn window(ask: &str) -> Result<Window, ApiError> {
        Window::of(&serde_json::from_str(ask).unwrap(), now())
    }

    #[test]
    fn the_last_hour_is_shown_where_nothing_is_said() {
        let window = window("{}").unwrap();
        assert_eq!((window.step, window.steps, window.span), (60, 61, Span::Minute));
        assert_eq!(window.begin(0).to_rfc3339(), "2026-11-22T09:30:00+00:00");
        assert_eq!(window.begin(60).to_rfc3339(), "2026-11-22T10:30:00+00:00", "the minute that goes on");
    }

    #[test]
    fn the_step_suits_the_span() {
        for (minutes, step, span) in [
            (360, 60, Span::Minute),
            (1440, 300, Span::Minute),
            (10_080, 3600, Span::Hour),
            (80_000, 86_400, Span::Hour),
        ] {
            let window = window(&format!(r#"{{"minutes":{minutes}}}"#)).unwrap();
            assert_eq!((window.step, window.span), (step, span), "{minutes}");
        }
        let days = window(r#"{"minutes":1440,"stepSeconds":86400}"#).unwrap();
        assert_eq!((days.steps, days.span), (2, Span::Minute), "yesterday and today, to the minute");
        let old = r#"{"from":"2026-11-10T00:00:00Z","to":"2026-11-10T12:00:00Z","stepSeconds":3600}"#;
        assert_eq!((window(old).unwrap().steps, window(old).unwrap().span), (12, Span::Hour));
    }

    #[test]
    fn a_span_that_makes_no_sense_is_refused() {
        for (ask, field) in [
            (r#"{"minutes":0}"#, "minutes"),
            (r#"{"minutes":89281}"#, "minutes"),
            (r#"{"stepSeconds":61}"#, "stepSeconds"),
            (r#"{"minutes":10080,"stepSeconds":60}"#, "stepSeconds"),
            (r#"{"from":"yesterday"}"#, "from"),
            (r#"{"to":"+12026-11-22T00:00:00Z"}"#, "to"),
            (r#"{"from":"2026-11-23T00:00:00Z"}"#, "from"),
            (r#"{"from":"2026-11-22T02:00:00Z","to":"2026-11-22T01:00:00Z"}"#, "from"),
        ] {
            let refused = window(ask).unwrap_err().body(&RequestId::example());
            let refused: serde_json::Value = serde_json::from_slice(&refused).unwrap();
            assert_eq!(refused["error"]["field"], field, "{ask}");
        }
    }

    #[test]
    fn rows_of_several_nodes_add_up_in_their_step() {
        let window = window(r#"{"minutes":3}"#).unwrap();
        let mut sums = Sums::new(&window, true);
        for (minute, created) in [(28, 1), (28, 2), (30, 5), (10, 100)] {
            let at = Utc.with_ymd_and_hms(2026, 11, 22, 10, minute, 0).unwrap();
            let mut point = Point::default();
            point.counts.created = created;
            sums.add(&window, SeriesRow { span: Span::Minute, at, tenant: TenantId(7), model_name: "m".into(), point });
        }
        let series = sums.view(&window);
        let created: Vec<u64> = series.list.iter().map(|point| point.totals.created).collect();
        assert_eq!((created, series.sum.created), (vec![0, 3, 0, 5], 8));
        assert_eq!(series.models.unwrap()[0].totals.created, 8);
    }
}
