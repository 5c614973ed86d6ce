//! `latency`: an idle system and one task at a time. From the answer of createTask (and from its
//! request) to the model receiving the call, and from the model's answer to state 2.
//!
//! State 2 is seen by asking getTaskResult without a pause on a connection that is kept: what is
//! measured includes one such round trip, a fraction of a millisecond.

use std::time::Duration;

use anyhow::{Context, bail};

use super::{
    api::{NewModel, PAYLOAD, new_task, task_id},
    load::Latencies,
    nearby::{Nearby, later, with_model},
    report::{Report, Sample},
    stage::{Bed, Stage},
    tell,
    wire::Connection,
};
use crate::clock;

/// Name of the model.
const MODEL: &str = "bench-latency";

/// Time between two tasks, so that the system is idle when one comes.
const PAUSE: Duration = Duration::from_millis(25);

/// Tasks that are not counted: connections are opened, statements prepared.
const WARM_UP: usize = 10;

/// How long a task may take to finish.
const PATIENCE: Duration = Duration::from_secs(30);

/// The three times.
struct Times {
    from_answer: Latencies,
    from_request: Latencies,
    to_state_2: Latencies,
}

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    for round in 1..=bed.options.rounds.get() {
        tell(&format!("latency, round {round}"));
        let stage = bed.stage(bed.setup(true)).await?;
        let times = with_model(bed, async |nearby| measure_on(bed, &stage, nearby).await).await;
        stage.clear().await?;
        let times = times?;
        for (case, latencies) in [
            ("createTask answered → model called", times.from_answer),
            ("createTask sent → model called", times.from_request),
            ("model answered → state 2", times.to_state_2),
        ] {
            let summary = latencies.summary();
            report.add("latency", case, "ms", Sample::plain(summary.p50, latencies.len()).with_latency(summary));
        }
    }
    Ok(())
}

async fn measure_on(bed: &Bed, stage: &Stage<'_>, mut nearby: Nearby) -> anyhow::Result<Times> {
    let model = NewModel {
        name: MODEL,
        base_url: nearby.url(),
        route: "answer/100",
        max_concurrency: 10,
        total_concurrency: 0,
    };
    let id = stage.api.create_model(&model).await?;
    let request = stage.api.target.post("/task/createTask", &new_task(MODEL, PAYLOAD));
    let mut connection = stage.api.target.connect().await?;
    let mut times =
        Times { from_answer: Latencies::new(), from_request: Latencies::new(), to_state_2: Latencies::new() };
    let began = clock::tick();
    let mut number = 0;
    while number < 2 * WARM_UP || began.elapsed() < Duration::from_secs_f64(bed.options.seconds) {
        tokio::time::sleep(clock::jittered(PAUSE)).await;
        let sent = clock::tick();
        let task = task_id(connection.ask(&request).await?.body).context("createTask answered without an id")?;
        let answered = clock::tick();
        let call = nearby.call_for(&task).await?;
        let finished = finished(&mut connection, stage, &task).await?;
        number += 1;
        if number > WARM_UP {
            times.from_answer.record(later(call.received, answered));
            times.from_request.record(later(call.received, sent));
            times.to_state_2.record(later(finished, call.answered));
        }
    }
    if stage.database.is_none() {
        stage.api.delete_model(id).await?;
    }
    Ok(times)
}

/// When the task was first seen in state 2.
async fn finished(connection: &mut Connection, stage: &Stage<'_>, task: &str) -> anyhow::Result<std::time::Instant> {
    const DONE: &[u8] = b"\"state\":2,";
    let request = stage.api.target.get(&format!("/task/getTaskResult?taskId={task}"));
    let began = clock::tick();
    while began.elapsed() < PATIENCE {
        let answer = connection.ask(&request).await?;
        if answer.body.windows(DONE.len()).any(|window| window == DONE) {
            return Ok(clock::tick());
        }
    }
    bail!("a task was not done within {} s", PATIENCE.as_secs())
}
