//! The metrics that are counted as things happen, with their names, help and buckets. Handles are
//! made once; only requests look theirs up, by labels from the table of routes.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::task::FailureKind;

type Made<T> = Result<T, prometheus::Error>;

/// Seconds from the queue to the end: a task may wait for a day.
const LONG: [f64; 14] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0];

/// Seconds of one call or upload.
const CALL: [f64; 14] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0];

/// Seconds of a request or a transaction.
const SHORT: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Requests in one transaction.
const BATCH: [f64; 10] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What a call may fail by, as labels; see [`failure`].
const FAILURES: [&str; 10] = [
    "status_3xx",
    "status_4xx",
    "status_5xx",
    "status_other",
    "empty_body",
    "timeout",
    "connection",
    "too_large",
    "unsendable",
    "spool",
];

/// Methods that have a label of their own: a caller may send any word.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];

/// What the service cannot do its work without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// The database.
    Database,
    /// Redis; always up where permits are kept in the process.
    Redis,
    /// Object storage.
    Storage,
    /// This node's worker, up while it renews its lease and looks for work.
    Worker,
}

impl Dependency {
    /// Its label.
    const fn name(self) -> &'static str {
        match self {
            Dependency::Database => "database",
            Dependency::Redis => "redis",
            Dependency::Storage => "storage",
            Dependency::Worker => "worker",
        }
    }
}

/// Transactions of one kind: how long they take, and how much goes into one.
#[derive(Clone)]
pub struct CommitMeter {
    seconds: Histogram,
    batch: Histogram,
    failures: IntCounter,
}

impl CommitMeter {
    /// A transaction with so many in it was committed.
    pub fn committed(&self, took: Duration, batch: usize) {
        self.seconds.observe(took.as_secs_f64());
        self.batch.observe(batch as f64);
    }

    /// A transaction failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

/// How full the spool is.
#[derive(Clone)]
pub struct SpoolMeter {
    bytes: IntGauge,
    full: IntGauge,
}

impl SpoolMeter {
    /// It holds so many bytes.
    pub fn holds(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether it takes no more.
    pub fn is_full(&self, full: bool) {
        self.full.set(full.into());
    }
}

/// Every handle.
pub(super) struct Meters {
    pub(super) created: IntCounter,
    pub(super) queue_full: IntCounter,
    pub(super) picked_up: IntCounter,
    pub(super) purged: IntCounter,
    pub(super) succeeded: IntCounter,
    pub(super) failed: IntCounter,
    pub(super) retried: IntCounter,
    pub(super) lost: IntCounter,
    pub(super) handed_back: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) calls_succeeded: IntCounter,
    calls_failed: [IntCounter; FAILURES.len()],
    pub(super) result_bytes: IntCounter,
    pub(super) upload_failures: IntCounter,
    pub(super) wait: Histogram,
    pub(super) call: Histogram,
    pub(super) upload: Histogram,
    pub(super) total: Histogram,
    pub(super) enqueue: CommitMeter,
    pub(super) apply: CommitMeter,
    pub(super) claim: CommitMeter,
    pub(super) spool: SpoolMeter,
    pub(super) requests: IntCounterVec,
    pub(super) request: HistogramVec,
    dependency_up: IntGaugeVec,
    dependency_seconds: prometheus::GaugeVec,
}

impl Meters {
    pub(super) fn registered(registry: &Registry) -> Made<Meters> {
        let make = Maker(registry);
        let finished = make.counters("tasks_finished_total", "Tasks that came to an end on this node", &["outcome"])?;
        let calls = make.counters("model_calls_total", "Calls of models that came to an end", &["outcome"])?;
        let commit = make.histograms("commit_seconds", "Transactions, by what they write", &["work"], &SHORT)?;
        let batch = make.histograms("commit_batch_size", "Requests in one transaction", &["work"], &BATCH)?;
        let failures = make.counters("commit_failures_total", "Transactions that failed", &["work"])?;
        let commits = |work: &str| CommitMeter {
            seconds: commit.with_label_values(&[work]),
            batch: batch.with_label_values(&[work]),
            failures: failures.with_label_values(&[work]),
        };
        Ok(Meters {
            created: make.counter("tasks_created_total", "Tasks that this node put in the queue")?,
            queue_full: make
                .counter("tasks_queue_full_total", "Tasks refused because their lane had queueLimit tasks")?,
            picked_up: make.counter("tasks_picked_up_total", "Results handed out for the first time by this node")?,
            purged: make.counter("tasks_purged_total", "Tasks past their time that this node deleted")?,
            succeeded: finished.with_label_values(&["succeeded"]),
            failed: finished.with_label_values(&["failed"]),
            retried: make.counter("tasks_retried_total", "Calls that failed and whose task went back to the queue")?,
            lost: make.counter("tasks_lost_total", "Attempts lost with their worker or disk, found by this node")?,
            handed_back: make.counter("tasks_handed_back_total", "Tasks given back to the queue, nothing used up")?,
            stale: make.counter("stale_writes_total", "Outcomes dropped because the task had moved on")?,
            calls_succeeded: calls.with_label_values(&["succeeded"]),
            calls_failed: FAILURES.map(|kind| calls.with_label_values(&[kind])),
            result_bytes: make.counter("result_bytes_total", "Bytes that models answered with")?,
            upload_failures: make.counter("upload_failures_total", "Tries to store a result that failed")?,
            wait: make.histogram("task_wait_seconds", "From a task's place in the queue to its claim", &LONG)?,
            call: make.histogram("model_call_seconds", "One call of a model, from connect to the last byte", &CALL)?,
            upload: make.histogram("upload_seconds", "One upload that succeeded", &CALL)?,
            total: make.histogram("task_seconds", "From createTask to success or final failure", &LONG)?,
            enqueue: commits("enqueue"),
            apply: commits("apply"),
            claim: commits("claim"),
            spool: SpoolMeter {
                bytes: make.gauge("spool_bytes", "Bytes of results in worker.tmpDir on their way to storage")?,
                full: make.gauge("spool_full", "1 while this node claims nothing because its spool has no room")?,
            },
            requests: make.counters("http_requests_total", "Requests answered", &["method", "route", "status"])?,
            request: make.histograms(
                "http_request_seconds",
                "From the head of a request to its answer",
                &["method", "route"],
                &SHORT,
            )?,
            dependency_up: make.gauges(
                "dependency_up",
                "1 if it gave a sign of life within 2 s, asked every 5 s",
                &["dependency"],
            )?,
            dependency_seconds: make.float_gauges(
                "dependency_ping_seconds",
                "How long the last sign of life took",
                &["dependency"],
            )?,
        })
    }

    pub(super) fn call_failures(&self, kind: FailureKind) -> &IntCounter {
        &self.calls_failed[failure(kind)]
    }

    pub(super) fn asked(&self, dependency: Dependency, took: Duration, up: bool) {
        self.dependency_up.with_label_values(&[dependency.name()]).set(up.into());
        self.dependency_seconds.with_label_values(&[dependency.name()]).set(took.as_secs_f64());
    }
}

/// The place in [`FAILURES`].
fn failure(kind: FailureKind) -> usize {
    match kind {
        FailureKind::Status(300..=399) => 0,
        FailureKind::Status(400..=499) => 1,
        FailureKind::Status(500..=599) => 2,
        FailureKind::Status(_) => 3,
        FailureKind::EmptyBody => 4,
        FailureKind::Timeout => 5,
        FailureKind::Connection => 6,
        FailureKind::TooLarge => 7,
        FailureKind::Unsendable => 8,
        FailureKind::Spool => 9,
    }
}

/// The method, or `other`.
pub(super) fn known_method(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.keep(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<prometheus::GaugeVec> {
        self.keep(prometheus::GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<Histogram> {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Made<HistogramVec> {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    fn keep<M: Collector + Clone + 'static>(&self, metric: M) -> Made<M> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
