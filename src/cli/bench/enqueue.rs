//! `enqueue`: createTask requests a second, and how long one takes. The worker is off, so that
//! nothing but taking tasks in is measured; every answer comes after its commit.

use std::time::Duration;

use anyhow::ensure;

use super::{
    api::{NewModel, PAYLOAD, new_task},
    load, profile,
    report::{Report, Sample},
    stage::{Bed, Stage},
    tell,
};
use crate::task::lifecycle::State;

/// Name of the model.
const MODEL: &str = "bench-enqueue";

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    for round in 1..=bed.options.rounds.get() {
        let yardstick = report.yardstick(bed).await?;
        let stage = bed.stage(bed.setup(false)).await?;
        let samples = measure_on(bed, &stage, round, report).await;
        stage.clear().await?;
        for (connections, sample) in samples? {
            let case = format!("{connections} connections");
            report.add("enqueue", &case, "/s", sample.compared_with(&yardstick));
        }
    }
    Ok(())
}

async fn measure_on(
    bed: &Bed,
    stage: &Stage<'_>,
    round: usize,
    report: &mut Report,
) -> anyhow::Result<Vec<(usize, Sample)>> {
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: "answer/100",
        max_concurrency: 1,
        total_concurrency: 1,
    };
    let id = stage.api.create_model(&model).await?;
    let request = stage.api.target.post("/task/createTask", &new_task(MODEL, PAYLOAD));
    let (mut samples, mut sent) = (Vec::new(), 0);
    for &connections in &bed.options.connections {
        tell(&format!("enqueue, round {round}: {connections} connections"));
        let (loaded, used) = load::press(&stage.api.target, &request, connections, async || {
            let recording = if round == 1 { profile::begin(bed, stage)? } else { None };
            let before = stage.reading().await;
            tokio::time::sleep(Duration::from_secs_f64(bed.options.seconds)).await;
            anyhow::Ok((stage.reading().await.since(&before), recording))
        })
        .await?;
        let (used, recording) = used?;
        if let Some(recording) = recording {
            report.add_profile(&format!("enqueue, {connections} connections"), recording.end().await?);
        }
        sent += loaded.in_all;
        samples.push((connections, Sample::rate(loaded.answers, &used).with_latency(loaded.latencies.summary())));
    }
    match &stage.database {
        Some(database) => {
            let found = database.count(State::Queued).await?;
            ensure!(found.unsigned_abs() == sent, "{sent} tasks were accepted, and {found} are queued");
        }
        None => stage.api.delete_model(id).await?,
    }
    Ok(samples)
}
