//! The page that Prometheus reads: what was counted, and what is read off the parts at that moment.

use prometheus::{
    Encoder as _, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::{Metrics, Unmeasurable, process};
use crate::{series::Counts, task::TenantId};

/// Before every name of ours.
pub(super) const PREFIX: &str = "model_asynch";

/// What the page is: the text format that every version of Prometheus reads.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Stands for tenant and model of all lanes that have no line of their own.
const REST: &str = "(rest)";

/// What is read when somebody asks.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Which database: `postgres` or `sqlite`.
    pub database: &'static str,
    /// What is queued and runs, on all nodes; `None` while that is not known.
    pub queues: Option<Queues>,
    /// The connections.
    pub pools: Vec<PoolReading>,
    /// Permits that this node holds.
    pub permits: usize,
    /// Calls that this node may make at once; 0 where it has no worker.
    pub call_limit: usize,
    /// Redis is left alone, and the database alone limits calls.
    pub permits_open: bool,
    /// Rows that the operation log could not keep.
    pub op_log_dropped: u64,
}

/// What is queued and what runs.
#[derive(Debug, Clone, Default)]
pub struct Queues {
    /// When that was counted, in seconds since 1970.
    pub taken_at: f64,
    /// Workers whose lease runs.
    pub workers: i64,
    /// The lanes with tasks, in any order.
    pub lanes: Vec<LaneReading>,
}

/// One lane, or what several come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LaneReading {
    /// The tenant.
    pub tenant: TenantId,
    /// Name of the model.
    pub model_name: String,
    /// Waiting for capacity.
    pub queued: i64,
    /// Waiting for the pause before a retry to end.
    pub resting: i64,
    /// Calling the model.
    pub running: i64,
    /// Being uploaded.
    pub uploading: i64,
    /// Calls running at once.
    pub limit: i64,
    /// How long the oldest that waits for capacity has been queued, in seconds.
    pub oldest_age: Option<f64>,
}

/// Connections to the database.
#[derive(Debug, Clone, Copy)]
pub struct PoolReading {
    /// Its name.
    pub pool: &'static str,
    /// Connections at work.
    pub used: u32,
    /// Connections that wait for work.
    pub idle: u32,
    /// Most connections.
    pub limit: u32,
}

impl LaneReading {
    fn add(&mut self, other: &LaneReading) {
        self.queued += other.queued;
        self.resting += other.resting;
        self.running += other.running;
        self.uploading += other.uploading;
        self.limit = self.limit.saturating_add(other.limit);
        self.oldest_age = self.oldest_age.into_iter().chain(other.oldest_age).reduce(f64::max);
    }
}

impl Metrics {
    /// The page.
    ///
    /// # Errors
    /// Where two metrics have the same name, which is a bug.
    pub fn page(&self, readings: Readings) -> Result<String, Unmeasurable> {
        let sheet = Sheet(Registry::new_custom(Some(PREFIX.to_owned()), None)?);
        sheet.readings(&readings)?;
        if let Some(queues) = readings.queues {
            sheet.queues(queues, self.top_lanes())?;
        }
        let (lanes, rest, dropped) = {
            let minutes = self.minutes();
            let (lanes, rest) = minutes.lanes();
            (lanes, rest, minutes.dropped())
        };
        sheet.lane_counts(&lanes, rest)?;
        sheet.counter("series_dropped_total", "Events that are in no row of the series, for want of room", dropped)?;
        let own = Registry::new();
        process::register(&own)?;
        let mut text = Vec::new();
        for registry in [&self.0.registry, &sheet.0, &own] {
            TextEncoder::new().encode(&registry.gather(), &mut text)?;
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Metrics that live as long as one page.
struct Sheet(Registry);

impl Sheet {
    fn readings(&self, readings: &Readings) -> prometheus::Result<()> {
        let build = self.gauges("build_info", "1, with what this process is", &["version", "database"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), readings.database]).set(1);
        self.gauge("permits_held", "Permits that this node holds: calls it has running", readings.permits as i64)?;
        self.gauge(
            "permits_limit",
            "Calls that this node may have running (worker.concurrency)",
            readings.call_limit as i64,
        )?;
        let open = "1 while Redis is out of reach and the database alone limits calls";
        self.gauge("permits_breaker_open", open, readings.permits_open.into())?;
        self.counter("op_log_dropped_total", "Calls that got no row in the operation log", readings.op_log_dropped)?;
        let connections = self.gauges("pool_connections", "Connections to the database", &["pool", "state"])?;
        let limits = self.gauges("pool_connections_limit", "Most connections to the database", &["pool"])?;
        for pool in &readings.pools {
            connections.with_label_values(&[pool.pool, "used"]).set(pool.used.into());
            connections.with_label_values(&[pool.pool, "idle"]).set(pool.idle.into());
            limits.with_label_values(&[pool.pool]).set(pool.limit.into());
        }
        Ok(())
    }

    /// The whole, and the longest queues by name.
    fn queues(&self, queues: Queues, top_lanes: usize) -> prometheus::Result<()> {
        let Queues { taken_at, workers, mut lanes } = queues;
        self.float("census_timestamp_seconds", "When the tasks in the queues were counted", taken_at)?;
        self.gauge("workers", "Nodes with a worker whose lease runs", workers)?;
        self.gauge("lanes", "Lanes with tasks: a lane is one tenant's queue for one model", lanes.len() as i64)?;
        let whole = sum(&lanes);
        let tasks = self.gauges("tasks", "Tasks that are not finished, on all nodes", &["state"])?;
        for (state, count) in states(&whole) {
            tasks.with_label_values(&[state]).set(count);
        }
        let age = "Age of the oldest task that waits for capacity, on all nodes";
        self.float("oldest_queued_age_seconds", age, whole.oldest_age.unwrap_or(0.0))?;
        lanes.sort_by_key(|lane| std::cmp::Reverse((lane.queued, lane.running, lane.resting)));
        let rest = lanes.split_off(top_lanes.min(lanes.len()));
        let labels = ["tenant_id", "model_name"];
        let by_state =
            self.gauges("lane_tasks", "Tasks of a lane that are not finished", &["tenant_id", "model_name", "state"])?;
        let limits = self.gauges("lane_limit", "Calls of a lane that may run at once (maxConcurrency)", &labels)?;
        let age = "Age of the oldest task of a lane that waits for capacity";
        let ages = self.floats("lane_oldest_queued_age_seconds", age, &labels)?;
        // Added up: a deleted model and its successor have the same name.
        let show = |tenant: &str, model: &str, lane: &LaneReading| {
            for (state, count) in states(lane) {
                by_state.with_label_values(&[tenant, model, state]).add(count);
            }
            limits.with_label_values(&[tenant, model]).add(lane.limit);
            let age = ages.with_label_values(&[tenant, model]);
            age.set(age.get().max(lane.oldest_age.unwrap_or(0.0)));
        };
        lanes.iter().for_each(|lane| show(&lane.tenant.to_string(), &lane.model_name, lane));
        if !rest.is_empty() {
            show(REST, REST, &sum(&rest));
        }
        Ok(())
    }

    fn lane_counts(&self, lanes: &[(TenantId, String, Counts)], rest: Counts) -> prometheus::Result<()> {
        let help = "What became of a lane's tasks on this node; lanes beyond metrics.topLanes are one";
        let opts = Opts::new("lane_events_total", help);
        let events = IntCounterVec::new(opts, &["tenant_id", "model_name", "event"])?;
        self.0.register(Box::new(events.clone()))?;
        let show = |tenant: &str, model: &str, counts: Counts| {
            let Counts { created, succeeded, failed, retried, lost, .. } = counts;
            let kinds = [
                ("created", created),
                ("succeeded", succeeded),
                ("failed", failed),
                ("retried", retried),
                ("lost", lost),
            ];
            for (event, count) in kinds {
                events.with_label_values(&[tenant, model, event]).inc_by(count);
            }
        };
        lanes.iter().for_each(|(tenant, model, counts)| show(&tenant.to_string(), model, *counts));
        if rest != Counts::default() {
            show(REST, REST, rest);
        }
        Ok(())
    }

    fn gauge(&self, name: &str, help: &str, value: i64) -> prometheus::Result<()> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    fn float(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = prometheus::Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        self.0.register(Box::new(counter))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn floats(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }
}

fn sum(lanes: &[LaneReading]) -> LaneReading {
    lanes.iter().fold(LaneReading::default(), |mut sum, lane| {
        sum.add(lane);
        sum
    })
}

fn states(lane: &LaneReading) -> [(&'static str, i64); 4] {
    [("queued", lane.queued), ("resting", lane.resting), ("running", lane.running), ("uploading", lane.uploading)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::sample;

    fn lane(tenant: i64, queued: i64, oldest_age: Option<f64>) -> LaneReading {
        LaneReading {
            tenant: TenantId(tenant),
            model_name: "tts".to_owned(),
            queued,
            limit: 2,
            oldest_age,
            ..LaneReading::default()
        }
    }

    fn page(metrics: &Metrics, lanes: Vec<LaneReading>) -> String {
        let queues = Some(Queues { lanes, ..Queues::default() });
        metrics.page(Readings { database: "sqlite", queues, ..Readings::default() }).unwrap()
    }

    fn says(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.lines().any(|other| other == *line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn the_longest_queues_have_a_name_and_the_rest_is_one() {
        let lanes = vec![lane(1, 5, Some(1.0)), lane(2, 50, Some(2.0)), lane(3, 7, Some(9.0)), lane(4, 1, None)];
        let page = page(&Metrics::new(2).unwrap(), lanes);
        says(
            &page,
            &[
                r#"model_asynch_lane_tasks{model_name="tts",state="queued",tenant_id="2"} 50"#,
                r#"model_asynch_lane_tasks{model_name="tts",state="queued",tenant_id="3"} 7"#,
                r#"model_asynch_lane_tasks{model_name="(rest)",state="queued",tenant_id="(rest)"} 6"#,
                r#"model_asynch_lane_limit{model_name="(rest)",tenant_id="(rest)"} 4"#,
                r#"model_asynch_lane_oldest_queued_age_seconds{model_name="(rest)",tenant_id="(rest)"} 1"#,
                r#"model_asynch_tasks{state="queued"} 63"#,
                "model_asynch_oldest_queued_age_seconds 9",
                "model_asynch_lanes 4",
            ],
        );
        assert_eq!(page.matches("state=\"queued\"").count(), 4);
    }

    #[test]
    fn lanes_of_the_same_name_are_one() {
        let page = page(&Metrics::new(5).unwrap(), vec![lane(1, 5, Some(8.0)), lane(1, 2, Some(3.0))]);
        says(
            &page,
            &[
                r#"model_asynch_lane_tasks{model_name="tts",state="queued",tenant_id="1"} 7"#,
                r#"model_asynch_lane_oldest_queued_age_seconds{model_name="tts",tenant_id="1"} 8"#,
            ],
        );
    }

    #[test]
    fn lanes_are_counted_by_name_as_far_as_names_go() {
        let metrics = Metrics::new(1).unwrap();
        for (tenant, times) in [(7, 2), (8, 3), (7, 1), (9, 1)] {
            (0..times).for_each(|_| metrics.created(TenantId(tenant), "a \"b\"\n"));
        }
        let page = page(&metrics, Vec::new());
        says(
            &page,
            &[
                r#"model_asynch_lane_events_total{event="created",model_name="a \"b\"\n",tenant_id="7"} 3"#,
                r#"model_asynch_lane_events_total{event="created",model_name="(rest)",tenant_id="(rest)"} 4"#,
                "model_asynch_tasks_created_total 7",
            ],
        );
    }

    #[test]
    fn what_was_measured_is_in_the_buckets() {
        let metrics = Metrics::new(1).unwrap();
        metrics.called(&sample::running(), Duration::from_millis(70), Ok(5));
        metrics.answered("BREW", "/healthz", "200", Duration::from_millis(2));
        metrics.applies().committed(Duration::from_millis(3), 17);
        says(
            &page(&metrics, Vec::new()),
            &[
                r#"model_asynch_model_call_seconds_bucket{le="0.05"} 0"#,
                r#"model_asynch_model_call_seconds_bucket{le="0.1"} 1"#,
                "model_asynch_result_bytes_total 5",
                r#"model_asynch_http_requests_total{method="other",route="/healthz",status="200"} 1"#,
                r#"model_asynch_commit_batch_size_bucket{work="apply",le="16"} 0"#,
                r#"model_asynch_commit_batch_size_bucket{work="apply",le="32"} 1"#,
            ],
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_tells_of_itself() {
        let page = page(&Metrics::new(1).unwrap(), Vec::new());
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            let line = page.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.split(' ').next_back().unwrap().parse::<f64>().unwrap() >= 0.0, "{line}");
        }
    }
}
