//! `pickup`: getTaskBatch of 1, 100 and 1000 ids, one batch after the other; at first, when results
//! turn from state 2 to 4, and again, when nothing is written.

use anyhow::ensure;

use super::{
    api::{NewModel, PAYLOAD, new_task, task_id},
    drain::wait_until_ended,
    load::{self, Latencies},
    report::{Report, Sample},
    stage::{Bed, Stage},
    tell,
};
use crate::clock;

/// Name of the model.
const MODEL: &str = "bench-pickup";

/// Ids in a batch, and how many batches; `--rows` limits the ids of each size.
const BATCHES: [(usize, usize); 3] = [(1, 300), (100, 30), (1000, 6)];

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    for round in 1..=bed.options.rounds.get() {
        tell(&format!("pickup, round {round}"));
        let stage = bed.stage(bed.setup(true)).await?;
        let samples = measure_on(bed, &stage).await;
        stage.clear().await?;
        for (case, sample) in samples? {
            report.add("pickup", &case, "ms", sample);
        }
    }
    Ok(())
}

async fn measure_on(bed: &Bed, stage: &Stage<'_>) -> anyhow::Result<Vec<(String, Sample)>> {
    let model = NewModel {
        name: MODEL,
        base_url: bed.model_url(),
        route: "answer/100",
        max_concurrency: bed.options.concurrency,
        total_concurrency: 0,
    };
    let id = stage.api.create_model(&model).await?;
    let most = usize::try_from(bed.options.rows.first().copied().unwrap_or(u64::from(u32::MAX)))?;
    let sized = BATCHES.map(|(size, batches)| (size, batches.min(most / size).max(1)));
    let tasks: usize = sized.iter().map(|(size, batches)| size * batches).sum();
    let request = stage.api.target.post("/task/createTask", &new_task(MODEL, PAYLOAD));
    let ids = load::send(&stage.api.target, vec![request], 32, tasks as u64, task_id).await?;
    ensure!(ids.len() == tasks, "{tasks} tasks were created, and {} ids came back", ids.len());
    wait_until_ended(&stage.api, MODEL, 1, tasks as u64).await?;
    let (mut samples, mut rest) = (Vec::new(), ids.as_slice());
    for (size, batches) in sized {
        let (ids, others) = rest.split_at(size * batches);
        rest = others;
        for case in ["first", "again"] {
            samples.push((format!("{size} ids, {case}"), batches_of(stage, ids, size).await?));
        }
    }
    if stage.database.is_none() {
        stage.api.delete_model(id).await?;
    }
    Ok(samples)
}

/// The median time of a batch, and what it costs.
async fn batches_of(stage: &Stage<'_>, ids: &[String], size: usize) -> anyhow::Result<Sample> {
    let mut connection = stage.api.target.connect().await?;
    let mut latencies = Latencies::new();
    let before = stage.reading().await;
    for batch in ids.chunks(size) {
        let request = stage.api.target.post("/task/getTaskBatch", &serde_json::json!({ "taskIds": batch }).to_string());
        let began = clock::tick();
        let answer = connection.ask(&request).await?;
        latencies.record(began.elapsed());
        ensure!(answer.status == 200, "getTaskBatch answered {}", answer.status);
    }
    let used = stage.reading().await.since(&before);
    let summary = latencies.summary();
    let sample = Sample::rate(latencies.len(), &used).with_latency(summary);
    Ok(Sample { value: summary.p50, ..sample })
}
