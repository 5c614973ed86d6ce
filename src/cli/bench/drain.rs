//! `drain`: from queued to state 2. All tasks are queued while the model keeps its first calls
//! back; then it lets go, and the clock runs until the last result is stored.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{
    Kind, Options,
    api::{Api, NewModel, PAYLOAD, new_task},
    load, profile,
    report::{Report, Sample},
    stage::{Bed, LOOK, Setup, Stage},
    tell,
    usage::Used,
};
use crate::{clock, task::lifecycle::State};

/// Name of the model.
const MODEL: &str = "bench-drain";

/// Connections that queue the tasks.
const CONNECTIONS: usize = 32;

/// How long nothing may move before it counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    with(bed, report, &bed.options.answers, bed.options.storage).await
}

/// Answers of these sizes to that storage.
pub(super) async fn with(bed: &Bed, report: &mut Report, answers: &[u64], storage: Kind) -> anyhow::Result<()> {
    let setup = Setup { storage, ..bed.setup(true) };
    for round in 1..=bed.options.rounds.get() {
        let yardstick = report.yardstick(bed).await?;
        for &bytes in answers {
            let tasks = tasks(&bed.options, bytes);
            let case = format!("{bytes} B, {}", storage.name());
            tell(&format!("drain, round {round}: {tasks} tasks, {case}"));
            let stage = bed.stage(setup).await?;
            let profiled = (round == 1).then_some(&mut *report);
            let sample = measure_on(bed, &stage, tasks, bytes, profiled).await;
            bed.gate("/gate/open").await?;
            stage.clear().await?;
            report.add("drain", &case, "/s", sample?.compared_with(&yardstick));
        }
    }
    Ok(())
}

/// Enough for a few seconds, and no more than the disk likes.
fn tasks(options: &Options, bytes: u64) -> u64 {
    options.rows.first().copied().unwrap_or(match bytes {
        0..1_000 => 20_000,
        1_000..100_000 => 10_000,
        _ => 400,
    })
}

async fn measure_on(
    bed: &Bed,
    stage: &Stage<'_>,
    tasks: u64,
    bytes: u64,
    profiled: Option<&mut Report>,
) -> anyhow::Result<Sample> {
    let lanes = bed.options.lanes.first().copied().unwrap_or(1).max(1);
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: &format!("answer/{bytes}"),
        max_concurrency: bed.options.concurrency,
        total_concurrency: 0,
    };
    bed.gate("/gate/closed").await?;
    let id = stage.api.create_model(&model).await?;
    let body = new_task(MODEL, PAYLOAD);
    let requests = (0..lanes).map(|tenant| as_tenant(&stage.api, lanes, tenant).post("/task/createTask", &body));
    load::send(&stage.api.target, requests.collect(), CONNECTIONS, tasks, |_| Some(())).await?;

    let recording = if profiled.is_some() { profile::begin(bed, stage)? } else { None };
    let before = stage.reading().await;
    let began = clock::tick();
    bed.gate("/gate/open").await?;
    wait_until_ended(&stage.api, MODEL, lanes, tasks).await?;
    let took = began.elapsed();
    let used: Used = stage.reading().await.since(&before);
    if let (Some(report), Some(recording)) = (profiled, recording) {
        report.add_profile(&format!("drain, {bytes} B"), recording.end().await?);
    }
    match &stage.database {
        Some(database) => {
            let done = settled(database, tasks).await?;
            ensure!(done == tasks, "{tasks} tasks were accepted, and {done} succeeded");
        }
        None => stage.api.delete_model(id).await?,
    }
    Ok(Sample::rate_over(tasks, took, &used))
}

/// With one lane whoever calls, else a tenant of its own for each.
pub(super) fn as_tenant(api: &Api, lanes: u64, tenant: u64) -> super::wire::Target {
    match lanes {
        1 => api.target.clone(),
        _ => api.target.with(&format!(r#"x-user-info: {{"tenantId":{},"userName":"bench"}}"#, tenant + 1)),
    }
}

/// Waits until so many calls of the model are counted as ended, which happens with the commit that
/// ends their task.
pub(super) async fn wait_until_ended(api: &Api, model: &str, lanes: u64, tasks: u64) -> anyhow::Result<()> {
    let mut last: (u64, Instant) = (0, clock::tick());
    loop {
        let (well, ill) = api.ended(model, lanes).await?;
        if ill > 0 {
            bail!("{ill} calls of the no-op model failed");
        }
        if well >= tasks {
            return Ok(());
        }
        if well > last.0 {
            last = (well, clock::tick());
        }
        if last.1.elapsed() > STUCK {
            bail!("nothing has moved for {} s, {well} of {tasks} tasks are done", STUCK.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Tasks in state 2, once there are as many as there should be, or a little later.
async fn settled(database: &crate::store::bench::Scratch, tasks: u64) -> anyhow::Result<u64> {
    let began = clock::tick();
    loop {
        let done = database.count(State::Succeeded).await?.unsigned_abs();
        if done >= tasks || began.elapsed() > Duration::from_secs(10) {
            return Ok(done);
        }
        tokio::time::sleep(LOOK).await;
    }
}
