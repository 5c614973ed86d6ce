//! `memory`: what the service holds resident: idle, with 10,000 calls in flight, and while an
//! answer of 1 GiB passes through. In MiB.

use std::{fs, time::Duration};

use anyhow::{Context, bail};

use super::{
    api::{NewModel, PAYLOAD, new_task},
    load,
    report::{Report, Sample},
    stage::{Bed, LOOK, Stage},
    tell,
    usage::resident_bytes,
};
use crate::clock;

/// Name of the model.
const MODEL: &str = "bench-memory";

/// Calls in flight, where the limit of open files allows it.
const CALLS: u64 = 10_000;

/// The large answer.
const LARGE: u64 = 1 << 30;

/// Open files that a process needs besides its calls.
const OTHER_FILES: u64 = 500;

/// How long a started service is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// How long it may take until everything is in flight, or has passed through.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    if bed.options.url.is_some() {
        bail!("memory is measured on a service of its own; leave out --url");
    }
    let calls = bed.options.rows.first().copied().unwrap_or(CALLS).min(open_files().saturating_sub(OTHER_FILES));
    let large = bed.options.answers.last().copied().filter(|&bytes| bytes > 1_000_000).unwrap_or(LARGE);
    for round in 1..=bed.options.rounds.get() {
        tell(&format!("memory, round {round}: idle, and {calls} calls in flight"));
        let mut setup = bed.setup(true);
        setup.concurrency = i64::try_from(calls)?;
        let stage = bed.stage(setup).await?;
        let measured = in_flight(bed, &stage, calls).await;
        bed.gate("/gate/open").await?;
        stage.clear().await?;
        let (idle, busy) = measured?;
        report.add("memory", "idle", "MiB", Sample::plain(idle, 1));
        report.add("memory", &format!("{calls} calls in flight"), "MiB", Sample::plain(busy, calls));

        tell(&format!("memory, round {round}: an answer of {} MiB", large >> 20));
        let stage = bed.stage(bed.setup(true)).await?;
        let more = pass_through(bed, &stage, large).await;
        stage.clear().await?;
        let case = format!("more while an answer of {} MiB passes through", large >> 20);
        report.add("memory", &case, "MiB", Sample::plain(more?, 1));
    }
    Ok(())
}

async fn in_flight(bed: &Bed, stage: &Stage<'_>, calls: u64) -> anyhow::Result<(f64, f64)> {
    tokio::time::sleep(SETTLE).await;
    let idle = resident(stage)?;
    let most = i64::try_from(calls)?;
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: "answer/100",
        max_concurrency: most,
        total_concurrency: 0,
    };
    bed.gate("/gate/closed").await?;
    let before = called(bed).await?;
    stage.api.create_model(&model).await?;
    let request = stage.api.target.post("/task/createTask", &new_task(MODEL, PAYLOAD));
    load::send(&stage.api.target, vec![request], 32, calls, |_| Some(())).await?;
    let began = clock::tick();
    while called(bed).await? - before < calls {
        if began.elapsed() > PATIENCE {
            bail!("only {} of {calls} calls are in flight", called(bed).await? - before);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok((idle, resident(stage)?))
}

async fn pass_through(bed: &Bed, stage: &Stage<'_>, bytes: u64) -> anyhow::Result<f64> {
    let model =
        |name, route| NewModel { name, base_url: bed.model_url(), route, max_concurrency: 1, total_concurrency: 0 };
    // One small answer first, so that what is only made once is not counted.
    stage.api.create_model(&model("bench-small", "answer/100")).await?;
    stage.api.call("/task/createTask", &serde_json::from_str(&new_task("bench-small", PAYLOAD))?).await?;
    super::drain::wait_until_ended(&stage.api, "bench-small", 1, 1).await?;
    let route = format!("answer/{bytes}");
    stage.api.create_model(&model(MODEL, &route)).await?;
    let before = resident(stage)?;
    stage.api.call("/task/createTask", &serde_json::from_str(&new_task(MODEL, PAYLOAD))?).await?;
    let (began, mut most) = (clock::tick(), before);
    while stage.api.ended(MODEL, 1).await?.0 == 0 {
        most = most.max(resident(stage)?);
        if began.elapsed() > PATIENCE {
            bail!("the large answer did not pass within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(most - before)
}

fn resident(stage: &Stage<'_>) -> anyhow::Result<f64> {
    let bytes = stage.process().and_then(resident_bytes).context("memory can be measured on Linux only")?;
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// Calls that the no-op model has got so far.
async fn called(bed: &Bed) -> anyhow::Result<u64> {
    let model = bed.model()?;
    let mut connection = model.connect().await?;
    let answer = connection.ask(&model.get("/calls")).await?;
    Ok(std::str::from_utf8(answer.body)?.parse()?)
}

/// Files that a process may have open.
fn open_files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}
