//! Running seeds: all go well as the rules are, and each broken rule is noticed.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use model_asynch::task::TaskKey;

use crate::{
    checks::Counts,
    faults,
    flaw::Flaw,
    runtime::{Trace, WORLD},
    world::Sim,
};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2000;

/// Within so many seeds each broken rule has to be noticed.
const ENOUGH: u64 = 600;

/// How long after the last fault every task has ended: a call that nobody waits for is swept two
/// minutes after its limit, and then there may be more tries.
const DRAIN: Duration = Duration::from_secs(900);

/// A step that goes on and on in one moment is a loop.
const MOST_STEPS: u64 = 3_000_000;

/// A seed in which something is wrong.
struct Broken {
    seed: u64,
    what: String,
    trace: Trace,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { seed, what, trace } = self;
        write!(
            f,
            "\n{trace}\nseed {seed}: {what}\nagain: MODEL_ASYNCH_SIM_SEED={seed} cargo test --test sim seeds::all -- --nocapture\n"
        )
    }
}

/// Runs one seed to its end, or to the first thing that is wrong.
fn run(seed: u64, tracing: bool, flaw: Option<Flaw>) -> Result<Counts, Broken> {
    let sim = Sim::new(seed, tracing, flaw);
    sim.rt.spawn(WORLD, story(sim.clone()));
    sim.rt.spawn(WORLD, callers(sim.clone()));
    sim.rt.spawn(WORLD, watch(sim.clone()));
    while !sim.done.get() && sim.rt.step() {
        kill_armed(&sim);
        let mut checks = sim.checks.borrow_mut();
        checks.after_step(&sim);
        if sim.rt.steps() > MOST_STEPS {
            checks.violation.get_or_insert_with(|| format!("no end after {MOST_STEPS} steps"));
        }
        if checks.violation.is_some() {
            break;
        }
    }
    let mut counts = sim.checks.borrow().counts;
    counts.steps = sim.rt.steps();
    let violation = sim.checks.borrow_mut().violation.take();
    let trace = sim.rt.trace();
    sim.processes.borrow_mut().clear();
    sim.rt.clear();
    match violation {
        Some(what) => Err(Broken { seed, what, trace }),
        None => Ok(counts),
    }
}

/// As [`run`]; a seed that fails is run once more with its trace.
fn explained(seed: u64, flaw: Option<Flaw>) -> Result<Counts, Broken> {
    run(seed, false, flaw).map_err(|first| {
        let again = run(seed, true, flaw).err();
        assert_eq!(again.as_ref().map(|again| &again.what), Some(&first.what), "seed {seed} is not deterministic");
        again.unwrap_or(first)
    })
}

/// Processes are killed between any two steps, not only where they wait for long.
fn kill_armed(sim: &Sim) {
    let armed = sim.armed.borrow().first().copied();
    if let Some(process) = armed.filter(|_| sim.rt.chance(0.03)) {
        sim.armed.borrow_mut().retain(|other| *other != process);
        sim.kill(process);
    }
}

async fn story(sim: Sim) {
    faults::rage(sim.clone()).await;
    sim.rt.note(|| "from here on nothing goes wrong".to_owned());
    let until = sim.rt.now() + DRAIN.as_micros() as i64;
    loop {
        sim.rt.sleep(Duration::from_secs(5)).await;
        let unfinished = sim.checks.borrow().unfinished(&sim);
        if unfinished.is_empty() {
            break;
        }
        if sim.rt.now() > until {
            let what = format!("{} tasks have not ended {DRAIN:?} after the last fault", unfinished.len());
            sim.checks.borrow_mut().violation.get_or_insert(what);
        }
    }
    sim.checks.borrow_mut().conservation(&sim);
    sim.done.set(true);
}

/// Callers that create tasks, and pick results up.
async fn callers(sim: Sim) {
    let pause = sim.settings.chaos_for / sim.settings.tasks as u32;
    for n in 0..sim.settings.tasks {
        let burst = sim.rt.chance(0.4);
        if !burst {
            sim.rt.sleep(sim.rt.jittered(pause)).await;
        }
        let Some(lane) = sim.rt.rng().choice(sim.settings.lanes.iter().copied()) else { return };
        let world = sim.clone();
        sim.rt.spawn(WORLD, async move { world.create_task(lane).await });
        if n % 3 == 0 {
            let keys: Vec<TaskKey> = sim.checks.borrow().promised.iter().rev().take(10).copied().collect();
            let world = sim.clone();
            sim.rt.spawn(WORLD, async move { world.pick_up(keys).await });
        }
    }
}

async fn watch(sim: Sim) {
    loop {
        sim.rt.sleep(Duration::from_secs(1)).await;
        let trouble = sim.trouble.borrow().episodes > 0;
        if trouble {
            sim.disturb();
        }
        sim.checks.borrow_mut().tick(&sim);
    }
}

fn setting(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok())
}

/// The first of these seeds that breaks, looked for on all processors.
fn first_broken(seeds: u64, flaw: Option<Flaw>) -> (Option<Broken>, Vec<Counts>) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (next, broken_at) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        let mut counts = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || seed > broken_at.load(Ordering::Relaxed) {
                return counts;
            }
            match run(seed, false, flaw) {
                Ok(seen) => counts.push(seen),
                Err(broken) => drop(broken_at.fetch_min(broken.seed, Ordering::Relaxed)),
            }
        }
    };
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let broken_at = broken_at.into_inner();
    let broken = (broken_at < u64::MAX).then(|| explained(broken_at, flaw).err());
    (broken.flatten(), counts)
}

#[test]
fn all_seeds_keep_every_promise() {
    if let Some(seed) = setting("MODEL_ASYNCH_SIM_SEED") {
        match run(seed, true, None) {
            Ok(counts) => println!("seed {seed}: {counts:?}"),
            Err(broken) => panic!("{broken}"),
        }
        return;
    }
    let (broken, counts) = first_broken(setting("MODEL_ASYNCH_SIM_SEEDS").unwrap_or(SEEDS), None);
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    let sum = |of: fn(&Counts) -> i64| counts.iter().map(of).sum::<i64>();
    let seen = Counts {
        tasks: sum(|seen| seen.tasks),
        succeeded: sum(|seen| seen.succeeded),
        failed: sum(|seen| seen.failed),
        lost: sum(|seen| seen.lost),
        retries: sum(|seen| seen.retries),
        adopted: sum(|seen| seen.adopted),
        borrowed: sum(|seen| seen.borrowed),
        stale_calls: sum(|seen| seen.stale_calls),
        steps: counts.iter().map(|seen| seen.steps).sum(),
    };
    println!("{} seeds: {seen:?}", counts.len());
    let all = [seen.succeeded, seen.failed, seen.lost, seen.retries, seen.adopted, seen.borrowed];
    assert!(all.iter().all(|seen| *seen > 0), "the seeds do not reach everything: {seen:?}");
}

/// The number of the seed that notices it, so that one sees how soon.
fn noticed(flaw: Flaw) {
    let (broken, _) = first_broken(ENOUGH, Some(flaw));
    let Some(broken) = broken else { panic!("{flaw:?} was not noticed within {ENOUGH} seeds") };
    println!("{flaw:?}: seed {}: {}", broken.seed, broken.what);
}

macro_rules! the_simulator_notices {
    ($($name:ident: $flaw:ident,)*) => {
        mod the_simulator_notices {
            use super::*;

            $(
                #[test]
                fn $name() {
                    noticed(Flaw::$flaw);
                }
            )*
        }
    };
}

the_simulator_notices! {
    a_write_without_the_attempt_in_its_guard: GuardWithoutAttempt,
    a_write_without_the_state_in_its_guard: GuardWithoutState,
    a_write_without_the_owner_in_its_guard: GuardWithoutOwner,
    a_claim_that_does_not_raise_the_fence: ClaimWithoutFence,
    a_claim_that_does_not_count_what_runs: ClaimWithoutCount,
    an_adoption_of_another_attempt: AdoptWithoutAttempt,
    a_queue_without_its_limit: QueueWithoutLimit,
    burials_by_whoever_comes: BuriedWithoutWatch,
    a_worker_that_takes_silence_for_the_watchers_word: SilenceTaken,
    a_worker_that_takes_one_watchers_word_for_all: OneWordTaken,
    a_worker_that_believes_the_watchers_for_too_long: WordGoodForLong,
    a_purge_before_its_time: PurgeTooEarly,
    lost_attempts_without_end: LostWithoutEnd,
    a_node_that_believes_in_its_lease_for_ever: BeliefWithoutEnd,
    a_claim_of_unknown_outcome_that_nobody_looks_into: DoubtIgnored,
    doubt_that_is_settled_at_the_cost_of_running_calls: DoubtWithoutLooking,
    an_outcome_that_is_written_only_once: WriteForgotten,
    success_before_the_object_is_stored: SuccessBeforeUpload,
    lost_wake_ups_that_no_scan_makes_good: ScanForgotten,
    retries_without_end: RetryWithoutEnd,
    permits_that_are_never_given_back: PermitLeaked,
}
