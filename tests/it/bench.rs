//! `model-asynch bench` with tiny numbers: everything that it does is done, and what it writes is
//! consistent. How fast anything was is not looked at.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::support::{
    backend::{Kind, server},
    process::Process,
};

/// Longer than tests wait otherwise: a bench makes several databases and services.
const LIMIT: Duration = Duration::from_secs(120);

/// Servers to measure with; `None` where they are missing.
fn servers(kind: Kind) -> Option<Vec<String>> {
    match kind {
        Kind::Sqlite => Some(Vec::new()),
        Kind::Postgres => {
            let (database, redis) = (server("TEST_POSTGRES_URL")?, server("TEST_REDIS_URL")?);
            Some(["--database".to_owned(), database, "--redis".to_owned(), redis].to_vec())
        }
    }
}

/// Runs it to its end and returns what it wrote.
async fn measured(kind: Kind, args: &[&str]) -> Option<(Value, String)> {
    let servers = servers(kind)?;
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(dir.path(), &servers, &[args, &["--seconds", "0.2"]].concat());
    assert_eq!(bench.exit_code_within(LIMIT).await, Some(0), "{}", bench.said());
    let json = std::fs::read_to_string(dir.path().join("report.json")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something is left behind");
    Some((serde_json::from_str(&json).unwrap(), bench.said()))
}

fn bench(dir: &Path, servers: &[String], args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-asynch"));
    command.arg("bench").args(args).args(servers).args(["--rounds", "1", "--json", "report.json"]);
    Process::start(command.env_remove("RUST_LOG").env("TMPDIR", dir).current_dir(dir))
}

/// The only sample of a figure whose case begins so.
fn sample<'a>(report: &'a Value, bench: &str, case: &str) -> &'a Value {
    let figures = report["figures"].as_array().unwrap();
    let of = |figure: &&Value| figure["bench"] == bench && figure["case"].as_str().unwrap().starts_with(case);
    let figure = figures.iter().find(of).unwrap_or_else(|| panic!("no {bench} {case:?} in {report}"));
    let samples = figure["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 1);
    &samples[0]
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A rate is tasks by time, and latencies grow.
fn assert_consistent(sample: &Value) {
    let (value, tasks, seconds) = (number(&sample["value"]), number(&sample["tasks"]), number(&sample["seconds"]));
    assert!(value > 0.0 && (value - tasks / seconds).abs() < 0.01 * value, "{sample}");
    if !sample["latency"].is_null() {
        let latency = |name: &str| number(&sample["latency"][name]);
        assert!(latency("p50") > 0.0 && latency("p50") <= latency("p95"), "{sample}");
        assert!(latency("p95") <= latency("p99") && latency("p99") <= latency("max"), "{sample}");
    }
}

async fn enqueue_and_drain(kind: Kind) {
    let Some((report, said)) = measured(kind, &["enqueue", "--connections", "2"]).await else { return };
    assert_consistent(sample(&report, "enqueue", "2 connections"));
    assert_consistent(sample(&report, "yardstick", "single-row inserts"));
    assert_consistent(sample(&report, "yardstick", "bare HTTP"));
    assert!(said.contains("×inserts") && said.contains("2 connections"), "{said}");
    for storage in ["fs", "http"] {
        let args = ["drain", "--rows", "60", "--lanes", "3", "--answers", "100,70000", "--storage", storage];
        let (report, _) = measured(kind, &args).await.unwrap();
        for bytes in [100, 70_000] {
            let sample = sample(&report, "drain", &format!("{bytes} B, {storage}"));
            assert_consistent(sample);
            assert_eq!(sample["tasks"], 60);
            assert_eq!(sample["cost"]["walBytes"].is_null(), kind == Kind::Sqlite);
        }
    }
}

#[tokio::test]
async fn bench_enqueue_and_drain_count_what_they_did_on_sqlite() {
    enqueue_and_drain(Kind::Sqlite).await;
}

#[tokio::test]
async fn bench_enqueue_and_drain_count_what_they_did_on_postgres() {
    enqueue_and_drain(Kind::Postgres).await;
}

async fn latency_and_pickup(kind: Kind) {
    let Some((report, _)) = measured(kind, &["latency"]).await else { return };
    for case in ["createTask answered", "createTask sent", "model answered"] {
        let sample = sample(&report, "latency", case);
        assert!(number(&sample["tasks"]) >= 10.0 && number(&sample["latency"]["max"]) > 0.0, "{sample}");
    }
    let (report, _) = measured(kind, &["pickup", "--rows", "10"]).await.unwrap();
    for case in ["1 ids, first", "100 ids, again", "1000 ids, first"] {
        assert!(number(&sample(&report, "pickup", case)["value"]) > 0.0);
    }
}

#[tokio::test]
async fn bench_latency_and_pickup_time_each_step_on_sqlite() {
    latency_and_pickup(Kind::Sqlite).await;
}

#[tokio::test]
async fn bench_latency_and_pickup_time_each_step_on_postgres() {
    latency_and_pickup(Kind::Postgres).await;
}

async fn fairness_and_backlog(kind: Kind) {
    let Some((report, _)) = measured(kind, &["fairness", "--rows", "60"]).await else { return };
    assert_eq!(sample(&report, "fairness", "answered → called")["tasks"], 200);
    let index = number(&sample(&report, "fairness", "Jain's index")["value"]);
    assert!((0.2..=1.0).contains(&index), "{index}");
    let (report, _) = measured(kind, &["backlog", "--rows", "200", "--lanes", "10"]).await.unwrap();
    for what in ["createTask", "drain"] {
        assert_consistent(sample(&report, "backlog", what));
    }
    assert!(number(&sample(&report, "backlog", "one claim")["value"]) > 0.0);
}

#[tokio::test]
async fn bench_fairness_and_backlog_fill_the_queue_themselves_on_sqlite() {
    fairness_and_backlog(Kind::Sqlite).await;
}

#[tokio::test]
async fn bench_fairness_and_backlog_fill_the_queue_themselves_on_postgres() {
    fairness_and_backlog(Kind::Postgres).await;
}

#[tokio::test]
async fn an_interrupted_bench_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(dir.path(), &[], &["enqueue", "--seconds", "600"]);
    bench.says("connections").await;
    bench.signal("INT");
    assert_eq!(bench.exit_code().await, Some(1));
    assert!(bench.said().contains("interrupted by SIGINT"), "{}", bench.said());
    let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name != "report.json").count(), 0);
}
