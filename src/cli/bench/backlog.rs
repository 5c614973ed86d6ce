//! `backlog`: whether a full queue makes anything slower. So many rows in so many lanes; with more
//! than one, the first holds 90 % of them and is full: its calls never end. Measured are createTask, one
//! claim, and the drain of what the others hold; then, with `--hold`, all at once while an old
//! transaction keeps dead rows from being cleaned up.
//!
//! Whatever has a rate is measured beside each number of rows in turn, a little at a time: the speed of a
//! machine changes from one second to the next by more than a backlog costs.

use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::{
    api::{NewModel, PAYLOAD, new_task},
    drain::as_tenant,
    fairness::HELD,
    load::{self, Latencies},
    report::{At, Report, Sample},
    stage::{Bed, LOOK, Stage},
    tell,
    usage::Used,
    yardstick::Yardstick,
};
use crate::{
    clock,
    config::check,
    store::{
        Store,
        bench::Fill,
        tasks::{MOST_CLAIMED, Want},
    },
    task::{Lane, ModelId, TenantId, lifecycle},
};

/// Name of the model.
const MODEL: &str = "bench-backlog";

/// Rows, unless told otherwise.
const ROWS: [u64; 2] = [10_000, 1_000_000];

/// Lanes, unless told otherwise.
const LANES: [u64; 3] = [1, 100, 10_000];

/// Tasks that are drained: as many for every backlog worth the name, so that only the backlog
/// differs.
const DRAINED: u64 = 16_000;

/// Turns that createTask takes beside each number of rows.
const TURNS: u32 = 8;

/// Turns that the drain takes, an even number: every other one goes in the opposite order.
const DRAINS: u64 = 2;

/// Calls that a lane may have running where there are several.
const LIMIT: i64 = 8;

/// Connections to createTask.
const CONNECTIONS: usize = 32;

/// Claims that are timed.
const CLAIMS: usize = 10;

/// Most lanes asked in one claim: as the worker does.
const CLAIMED_LANES: u64 = 64;

/// The tenant that creates tasks beside the backlog.
const NEWCOMER: u64 = 1_000_000;

/// How long each end of the time with an old transaction is measured.
const WINDOW: Duration = Duration::from_secs(8);

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    let or = |given: &[u64], otherwise: &[u64]| if given.is_empty() { otherwise.to_vec() } else { given.to_vec() };
    sweep(bed, report, &or(&bed.options.rows, &ROWS), &or(&bed.options.lanes, &LANES)).await?;
    match bed.options.hold {
        0 => Ok(()),
        seconds => hold(bed, report, Duration::from_secs(seconds)).await,
    }
}

/// Every number of rows in every number of lanes; rounds outermost, and every number of rows side by
/// side, so that they are compared within the same seconds.
pub(super) async fn sweep(bed: &Bed, report: &mut Report, rows: &[u64], lanes: &[u64]) -> anyhow::Result<()> {
    if bed.options.url.is_some() {
        bail!("a backlog is made in a database of its own; leave out --url");
    }
    for round in 1..=bed.options.rounds.get() {
        let yardstick = report.yardstick(bed).await?;
        for &lanes in lanes {
            let mut backlogs = Vec::with_capacity(rows.len());
            let measured = measure_beside(bed, &mut backlogs, round, rows, lanes).await;
            bed.gate("/hold/open").await?;
            for Backlog { stage, .. } in backlogs {
                stage.clear().await?;
            }
            bed.gate("/hold/closed").await?;
            for (at, samples) in measured? {
                add(report, samples, &yardstick, at);
            }
        }
    }
    Ok(())
}

fn add(report: &mut Report, samples: Samples, yardstick: &Yardstick, at: At) {
    for (what, unit, sample) in samples {
        let case = format!("{what}: {} rows, {} lanes", at.rows, at.lanes);
        let sample = if unit == "/s" { sample.compared_with(yardstick) } else { sample };
        report.add_at("backlog", what, &case, unit, Some(at), sample);
    }
}

/// What is measured on one backlog: what, its unit, the sample.
type Samples = Vec<(&'static str, &'static str, Sample)>;

/// A service on a database with a backlog.
struct Backlog<'a> {
    at: At,
    model: ModelId,
    stage: Stage<'a>,
}

/// Leaves the backlogs to be cleared, however far it came.
async fn measure_beside<'a>(
    bed: &'a Bed,
    backlogs: &mut Vec<Backlog<'a>>,
    round: usize,
    rows: &[u64],
    lanes: u64,
) -> anyhow::Result<Vec<(At, Samples)>> {
    for &rows in rows {
        tell(&format!("backlog, round {round}: making {rows} rows in {lanes} lanes"));
        let stage = bed.stage(bed.setup(false)).await?;
        let model = fill(bed, &stage, rows, lanes).await?;
        backlogs.push(Backlog { at: At { rows, lanes }, model, stage });
    }
    tell(&format!("backlog, round {round}: createTask beside each in turn"));
    let created = create_in_turns(bed, backlogs).await?;
    for Backlog { stage, .. } in &mut *backlogs {
        stage.stop().await?;
    }
    let mut claimed = Vec::with_capacity(backlogs.len());
    for Backlog { at, model, stage } in &*backlogs {
        tell(&format!("backlog, round {round}: claims beside {} rows", at.rows));
        let claims = claims(stage, *model, lanes).await?;
        let summary = claims.summary();
        claimed.push(Sample::plain(summary.p50, claims.len()).with_latency(summary));
    }
    tell(&format!("backlog, round {round}: the drain beside each in turn"));
    let drained = drain_in_turns(bed, backlogs).await?;
    let samples = created.into_iter().zip(claimed).zip(drained).map(|((created, claimed), drained)| {
        vec![("createTask", "/s", created), ("one claim", "ms", claimed), ("drain", "/s", drained)]
    });
    Ok(backlogs.iter().map(|backlog| backlog.at).zip(samples).collect())
}

/// The drain beside each backlog.
async fn drain_in_turns(bed: &Bed, backlogs: &mut [Backlog<'_>]) -> anyhow::Result<Vec<Sample>> {
    let mut sums: Vec<Option<(u64, Used)>> = backlogs.iter().map(|_| None).collect();
    for _ in 0..DRAINS {
        for (Backlog { at, stage, .. }, sum) in backlogs.iter_mut().zip(&mut sums) {
            stage.restart(bed.setup(true)).await?;
            let (tasks, used) = drain(stage, at.lanes, drained(at.rows) / DRAINS).await?;
            // Calls that are held would keep the service from stopping.
            bed.gate("/hold/open").await?;
            stage.stop().await?;
            bed.gate("/hold/closed").await?;
            *sum = Some(sum.take().map_or((tasks, used), |(before, all)| (before + tasks, all.and(&used))));
        }
        backlogs.reverse();
        sums.reverse();
    }
    Ok(sums.into_iter().flatten().map(|(tasks, used)| Sample::rate(tasks, &used)).collect())
}

/// createTask of a newcomer beside each backlog.
async fn create_in_turns(bed: &Bed, backlogs: &[Backlog<'_>]) -> anyhow::Result<Vec<Sample>> {
    let mut sums: Vec<Option<(u64, Used, Latencies)>> = backlogs.iter().map(|_| None).collect();
    for _ in 0..TURNS {
        for (Backlog { stage, .. }, sum) in backlogs.iter().zip(&mut sums) {
            let newcomer = as_tenant(&stage.api, 2, NEWCOMER).post("/task/createTask", &new_task(MODEL, PAYLOAD));
            let (loaded, used) = load::press(&stage.api.target, &newcomer, CONNECTIONS, async || {
                let before = stage.reading().await;
                tokio::time::sleep(Duration::from_secs_f64(bed.options.seconds / f64::from(TURNS))).await;
                stage.reading().await.since(&before)
            })
            .await?;
            *sum = Some(match sum.take() {
                None => (loaded.answers, used, loaded.latencies),
                Some((answers, before, mut latencies)) => {
                    latencies.add(&loaded.latencies);
                    (answers + loaded.answers, before.and(&used), latencies)
                }
            });
        }
    }
    let sample = |(answers, used, latencies): (u64, Used, Latencies)| {
        Sample::rate(answers, &used).with_latency(latencies.summary())
    };
    Ok(sums.into_iter().flatten().map(sample).collect())
}

/// Makes the rows: the full lane's, and what the others hold.
async fn fill(bed: &Bed, stage: &Stage<'_>, rows: u64, lanes: u64) -> anyhow::Result<ModelId> {
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: "answer/100",
        max_concurrency: if lanes == 1 { bed.options.concurrency } else { LIMIT },
        total_concurrency: 0,
    };
    let id = stage.api.create_model(&model).await?;
    let database = stage.database.as_ref().context("a backlog needs a database of its own")?;
    let full = if lanes == 1 { 0 } else { i64::try_from(rows * 9 / 10)? };
    let others = (i64::try_from(rows)? - full).max(i64::try_from(2 * drained(rows))?);
    let others_are = i64::try_from(lanes.saturating_sub(1).max(1))?;
    let fill =
        Fill { model: id, model_name: MODEL, rows: full, first_tenant: 1, tenants: 1, payload: HELD, first_row: 0 };
    if full > 0 {
        database.fill(&fill).await?;
    }
    let fill = Fill { rows: others, first_tenant: 2, tenants: others_are, payload: PAYLOAD, first_row: full, ..fill };
    database.fill(&fill).await?;
    Ok(id)
}

/// Times claims as the worker makes them, and hands everything back.
async fn claims(stage: &Stage<'_>, model: ModelId, lanes: u64) -> anyhow::Result<Latencies> {
    let config = check::check(stage.raw())?;
    let (store, committers) = Store::open(&config.database, config.vault.clone()).await?;
    // Only what is batched needs them, and a claim is not.
    drop(committers);
    let node = clock::node_id();
    store.register_node(node, "bench", Duration::from_secs(60)).await?;
    let asked = lanes.saturating_sub(1).clamp(1, CLAIMED_LANES);
    let most = u32::try_from(MOST_CLAIMED as u64 / asked)?;
    let wants: Vec<Want> = (0..asked)
        .map(|tenant| Lane { model, tenant: TenantId(2 + i64::try_from(tenant).unwrap_or_default()) })
        .map(|lane| Want { lane, most, since: None, shares: false })
        .collect();
    let mut latencies = Latencies::new();
    for _ in 0..CLAIMS {
        let began = clock::tick();
        let claim = store.claim(node, &wants).await?;
        latencies.record(began.elapsed());
        ensure!(!claim.tasks.is_empty(), "a claim found nothing in the backlog");
        let back: Vec<_> = claim.tasks.iter().map(|task| lifecycle::handed_back(task, None)).collect();
        store.apply_all(&back).await?;
    }
    store.remove_node(node).await?;
    store.close().await;
    Ok(latencies)
}

/// Tasks to drain beside so many rows.
fn drained(rows: u64) -> u64 {
    DRAINED.min(2 * rows)
}

/// Tasks that were done, and in what time: the first fifth, when the service has just started, is not counted.
async fn drain(stage: &Stage<'_>, lanes: u64, tasks: u64) -> anyhow::Result<(u64, Used)> {
    let done = wait_until(stage, lanes, 0).await?;
    let from = wait_until(stage, lanes, done + tasks / 5).await?;
    let before = stage.reading().await;
    let to = wait_until(stage, lanes, (done + tasks).max(from + 1)).await?;
    Ok((to - from, stage.reading().await.since(&before)))
}

/// Waits until at least so many tasks are done; returns how many are.
async fn wait_until(stage: &Stage<'_>, lanes: u64, tasks: u64) -> anyhow::Result<u64> {
    let began = clock::tick();
    loop {
        let (well, ill) = stage.api.ended(MODEL, lanes).await?;
        ensure!(ill == 0, "{ill} calls of the no-op model failed");
        if well >= tasks {
            return Ok(well);
        }
        if began.elapsed() > Duration::from_secs(120) {
            bail!("only {well} of {tasks} tasks were done within two minutes");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Tasks come and go; at first freely, then while an old transaction is open, for so long.
pub(super) async fn hold(bed: &Bed, report: &mut Report, held: Duration) -> anyhow::Result<()> {
    if bed.options.database.is_none() {
        tell("an old transaction holds nothing back in the embedded database; that part is left out");
        return Ok(());
    }
    tell(&format!("backlog: an old transaction holds vacuum back for {} s", held.as_secs()));
    let yardstick = report.yardstick(bed).await?;
    let stage = bed.stage(bed.setup(true)).await?;
    let samples = held_back(bed, &stage, held).await;
    stage.clear().await?;
    let (free, kept) = samples?;
    report.add("vacuum", "created and drained, vacuum free", "/s", free.compared_with(&yardstick));
    let case = format!("created and drained, vacuum held back for {} s", held.as_secs());
    report.add("vacuum", &case, "/s", kept.compared_with(&yardstick));
    Ok(())
}

async fn held_back(bed: &Bed, stage: &Stage<'_>, held: Duration) -> anyhow::Result<(Sample, Sample)> {
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: "answer/100",
        max_concurrency: bed.options.concurrency,
        total_concurrency: 0,
    };
    stage.api.create_model(&model).await?;
    let database = stage.database.as_ref().context("an old transaction needs a database of its own")?;
    let request = stage.api.target.post("/task/createTask", &new_task(MODEL, PAYLOAD));
    let (_, measured) = load::press(&stage.api.target, &request, CONNECTIONS, async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let free = window(stage).await?;
        let snapshot = database.old_snapshot().await?;
        tokio::time::sleep(held.saturating_sub(WINDOW)).await;
        let kept = window(stage).await?;
        drop(snapshot);
        anyhow::Ok((free, kept))
    })
    .await?;
    measured
}

/// Tasks that are done within a window.
async fn window(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let (before, from) = (stage.reading().await, stage.api.ended(MODEL, 1).await?.0);
    tokio::time::sleep(WINDOW).await;
    let to = stage.api.ended(MODEL, 1).await?.0;
    Ok(Sample::rate(to - from, &stage.reading().await.since(&before)))
}
