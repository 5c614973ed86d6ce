//! The service as real processes on a real Postgres and Redis, and everything done to them that a bad
//! year does: killed at named points and at any time, paused, stopped, with their database, Redis,
//! storage, models and disks failing. Judged from outside when the dust has settled.
//!
//! ```text
//! cargo test --test chaos                                  two minutes, as in the test run
//! cargo test --test chaos -- --minutes 20 --seed 7         longer; the seed draws the faults
//! cargo test --test chaos -- --write-matrix                the crash matrix, into docs/crash-matrix.md
//! ```
//!
//! It brings its own servers. The seed fixes what is done and in which order; when it meets which
//! task is up to the machine.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests, and not every one uses everything they share"
)]

mod clients;
mod files;
mod matrix;
mod model;
mod node;
mod postgres;
mod schedule;
mod verdict;
mod world;

/// What the tests in one process share with these.
#[path = "../it/support"]
mod support {
    pub mod app;
    pub mod backend;
    pub mod eventually;
    pub mod file_service;
    pub mod model;
    pub mod redis;
}

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use model_asynch::faults::Point;
use serde_json::json;

use self::{
    clients::{Business, LANES, Ledger},
    schedule::{Place, SCENARIOS},
    support::eventually,
    verdict::Verdict,
    world::World,
};

/// Nodes at once.
const NODES: usize = 3;

/// How long a scenario has the stage in the test run's own version, which has one round of them, and
/// in a long run.
const STAGE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(15));

/// How long what was accepted may take to end when all is well again.
const DRAIN: Duration = Duration::from_secs(150);

/// Longest list of what was wrong that is printed.
const MOST_WRONG: usize = 40;

#[derive(Parser)]
struct Args {
    /// Inject faults for this long instead of the short version.
    #[arg(long)]
    minutes: Option<f64>,
    /// Draws the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what was observed as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only make the crash matrix, and write it into docs/crash-matrix.md.
    #[arg(long)]
    write_matrix: bool,
    /// Keep the nodes' logs.
    #[arg(long)]
    keep_logs: bool,
    /// What `cargo test` passes on: run only if one of these is part of a test's name.
    filters: Vec<String>,
    /// These, and all below, as the usual test harness has them.
    #[arg(long)]
    skip: Vec<String>,
    #[arg(long)]
    list: bool,
    #[arg(long)]
    ignored: bool,
    #[arg(long)]
    include_ignored: bool,
    #[arg(long)]
    exact: bool,
    #[arg(long, alias = "show-output")]
    nocapture: bool,
    #[arg(long, short)]
    quiet: bool,
    #[arg(long)]
    test_threads: Option<usize>,
    #[arg(long)]
    color: Option<String>,
}

impl Args {
    /// Whether a test of that name is to run.
    fn want(&self, name: &str) -> bool {
        let named = |words: &[String]| words.iter().any(|word| name.contains(word));
        (self.filters.is_empty() || named(&self.filters)) && !named(&self.skip)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        println!("chaos: test\ncrash_matrix: test");
        return ExitCode::SUCCESS;
    }
    if args.ignored {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let fine = runtime.block_on(async {
        let matrix_fine = !args.want("crash_matrix") || args.minutes.is_some() || matrix::run(&args).await;
        let chaos_fine = !args.want("chaos") || args.write_matrix || chaos(&args).await;
        matrix_fine && chaos_fine
    });
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The chaos run; true if nothing was wrong.
async fn chaos(args: &Args) -> bool {
    let Some(world) = World::new(NODES).await else { return true };
    let faults_for = args.minutes.map_or(Duration::ZERO, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let stage = if args.minutes.is_some() { STAGE.1 } else { STAGE.0 };
    let mut rng = fastrand::Rng::with_seed(args.seed);
    println!("\nchaos: {NODES} nodes, {stage:?} for each scenario, --seed {}", args.seed);
    let mut places = Vec::new();
    for index in 0..NODES {
        places.push(Place::new(index, &world, rng.fork()).await);
    }
    schedule::watch_the_machine(&world);
    let ledger = Arc::new(Ledger::default());
    Business::new(&world, &ledger, rng.fork()).register().await;
    let creators = LANES.map(|lane| tokio::spawn(Business::new(&world, &ledger, rng.fork()).create(lane)));
    let pickers = [1, 2, 3].map(|tenant| tokio::spawn(Business::new(&world, &ledger, rng.fork()).pick_up(tenant)));

    schedule::run(&world, &mut places, &mut rng, stage, Instant::now() + faults_for).await;
    ledger.closed.store(true, Ordering::SeqCst);
    futures::future::join_all(creators).await.into_iter().for_each(|creator| creator.unwrap());
    let drained = drain(&ledger).await;
    ledger.over.store(true, Ordering::SeqCst);
    futures::future::join_all(pickers).await.into_iter().for_each(|picker| picker.unwrap());

    let listed = list_all(&world, &ledger, rng.fork()).await;
    pick_up_all_again(&world, &ledger, rng.fork()).await;
    for place in &mut places {
        place.look_after().await;
    }
    let verdict = verdict::judge(&world, &ledger, &listed);
    report(args, &verdict, drained);
    if args.keep_logs || !verdict.wrong.is_empty() {
        drop(places);
        keep_logs(&world);
    }
    verdict.wrong.is_empty()
}

/// Waits until everything accepted has ended; how long that took.
async fn drain(ledger: &Ledger) -> Duration {
    let began = Instant::now();
    let all_done = || ledger.accepted.lock().unwrap().values().all(|task| task.done.is_some());
    while !all_done() && began.elapsed() < DRAIN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    began.elapsed()
}

/// Every task that the service knows, when those without a businesses' knowledge have ended too.
async fn list_all(world: &Arc<World>, ledger: &Arc<Ledger>, rng: fastrand::Rng) -> Vec<serde_json::Value> {
    let mut business = Business::new(world, ledger, rng);
    let began = Instant::now();
    loop {
        let mut all = Vec::new();
        for tenant in [1, 2, 3] {
            all.extend(business.list(tenant).await);
        }
        let over = all.iter().all(|task| task["state"].as_i64().unwrap() >= 2);
        if over || began.elapsed() > DRAIN {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The last word on every task is the same as the first.
async fn pick_up_all_again(world: &Arc<World>, ledger: &Arc<Ledger>, rng: fastrand::Rng) {
    let mut business = Business::new(world, ledger, rng);
    for tenant in [1, 2, 3] {
        let accepted = ledger.accepted.lock().unwrap().clone();
        let ids: Vec<String> =
            accepted.iter().filter(|(_, task)| task.tenant == tenant).map(|(id, _)| id.clone()).collect();
        for ids in ids.chunks(200) {
            eventually::until("an answer of getTaskBatch", async || business.pick_up_these(tenant, ids).await).await;
        }
    }
}

fn report(args: &Args, verdict: &Verdict, drained: Duration) {
    println!(
        "\n| {:<36} | tasks | faults | lost | run twice | unexplained | limit exceeded | stuck | recovery (s) |",
        "scenario"
    );
    println!(
        "| {:-<36} | ----: | -----: | ---: | --------: | ----------: | -------------: | ----: | -----------: |",
        ""
    );
    let mut total = verdict::Row::default();
    for (scenario, row) in SCENARIOS.iter().zip(&verdict.rows) {
        print_row(scenario.name, row);
        total.add(row);
    }
    print_row("total", &total);
    println!("\n{} calls of models; all ended {:.1} s after the last fault", verdict.calls, drained.as_secs_f64());
    println!(
        "nodes died at {} of {} kill points",
        verdict.points.len(),
        Point::ALL.into_iter().filter(|point| point.is_of_a_task()).count()
    );
    if verdict.stalls > 0 {
        println!("this machine stood still for more than a second {} times, which counts as a fault", verdict.stalls);
    }
    for wrong in verdict.wrong.iter().take(MOST_WRONG) {
        println!("WRONG: {wrong}");
    }
    if verdict.wrong.len() > MOST_WRONG {
        println!("… and {} more", verdict.wrong.len() - MOST_WRONG);
    }
    if let Some(path) = &args.json {
        let rows: Vec<_> = SCENARIOS.iter().zip(&verdict.rows).map(|(scenario, row)| row.json(scenario.name)).collect();
        let json = json!({ "seed": args.seed, "calls": verdict.calls, "rows": rows, "wrong": verdict.wrong });
        std::fs::write(path, format!("{json:#}\n")).unwrap();
    }
}

fn print_row(name: &str, row: &verdict::Row) {
    println!(
        "| {name:<36} | {:>5} | {:>6} | {:>4} | {:>9} | {:>11} | {:>14} | {:>5} | {:>12.1} |",
        row.tasks,
        row.faults,
        row.lost,
        row.twice,
        row.unexplained,
        row.over_limit,
        row.stuck,
        row.recovery.as_secs_f64()
    );
}

/// The logs stay where somebody can read them.
fn keep_logs(world: &World) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chaos-logs");
    std::fs::remove_dir_all(&target).ok();
    std::fs::create_dir_all(&target).unwrap();
    for entry in std::fs::read_dir(world.logs()).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    let faults: String = world.faults.lock().unwrap().iter().map(|fault| format!("{fault:?}\n")).collect();
    std::fs::write(target.join("faults"), faults).unwrap();
    println!("the nodes' logs are in {}", target.display());
}
