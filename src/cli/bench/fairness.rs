//! `fairness`: how long a tenant waits whose neighbour has filled the queue and reached its limit,
//! and what tenants of one shared model get of it.

use std::collections::HashMap;

use anyhow::Context;

use super::{
    api::{NewModel, PAYLOAD, new_task, task_id},
    drain::as_tenant,
    load::{self, Latencies},
    nearby::{Nearby, later, with_model},
    report::{Report, Sample},
    stage::{Bed, Stage},
    tell,
};
use crate::{clock, store::bench::Fill};

/// Name of the model.
const MODEL: &str = "bench-fairness";

/// What the full tenant's tasks ask of the model: never to answer.
pub(super) const HELD: &str = "{\"hold\":true}";

/// Calls that each tenant may have running.
const LIMIT: i64 = 8;

/// The neighbour's tasks, one at a time.
const TASKS: u64 = 200;

/// Queued tasks of the full tenant.
const QUEUED: u64 = 100_000;

/// Tenants that share a model, and what the first of them has queued against each other one.
const SHARING: u64 = 5;
const GREED: u64 = 4;

/// Most tasks of each of the others.
const EACH: u64 = 600;

/// Calls that the shared model takes at once.
const TOTAL: i64 = 10;

pub(super) async fn measure(bed: &Bed, report: &mut Report) -> anyhow::Result<()> {
    let queued = bed.options.rows.first().copied().unwrap_or(QUEUED);
    let each = queued.clamp(SHARING, EACH);
    for round in 1..=bed.options.rounds.get() {
        tell(&format!("fairness, round {round}: behind {queued} tasks of a full tenant"));
        let mut stage = bed.stage(bed.setup(false)).await?;
        let waits = with_model(bed, async |nearby| behind_a_full_tenant(bed, &mut stage, nearby, queued).await).await;
        stage.clear().await?;
        for (case, latencies) in waits? {
            let summary = latencies.summary();
            let case = format!("{case}, {queued} tasks of a full tenant queued");
            report.add("fairness", &case, "ms", Sample::plain(summary.p50, latencies.len()).with_latency(summary));
        }
        tell(&format!("fairness, round {round}: {SHARING} tenants share a model"));
        let stage = bed.stage(bed.setup(true)).await?;
        let index = with_model(bed, async |nearby| sharing(&stage, nearby, each).await).await;
        stage.clear().await?;
        let case = format!("Jain's index, {SHARING} tenants share a model, one with {GREED} times the tasks");
        report.add("fairness", &case, "", Sample::plain(index?, SHARING * each / 2));
    }
    Ok(())
}

async fn behind_a_full_tenant(
    bed: &Bed,
    stage: &mut Stage<'_>,
    mut nearby: Nearby,
    queued: u64,
) -> anyhow::Result<Vec<(&'static str, Latencies)>> {
    let model = NewModel {
        name: MODEL,
        base_url: nearby.url(),
        route: "answer/100",
        max_concurrency: LIMIT,
        total_concurrency: 0,
    };
    let id = stage.api.create_model(&model).await?;
    match &stage.database {
        Some(database) => {
            let (rows, payload) = (i64::try_from(queued)?, HELD);
            let fill = Fill { model: id, model_name: MODEL, rows, first_tenant: 1, tenants: 1, payload, first_row: 0 };
            database.fill(&fill).await?;
        }
        None => {
            let full = as_tenant(&stage.api, 2, 0).post("/task/createTask", &new_task(MODEL, HELD));
            load::send(&stage.api.target, vec![full], 32, queued, |_| Some(())).await?;
        }
    }
    stage.restart(bed.setup(true)).await?;
    for _ in 0..LIMIT {
        nearby.next().await?;
    }
    let request = as_tenant(&stage.api, 2, 1).post("/task/createTask", &new_task(MODEL, PAYLOAD));
    let mut connection = stage.api.target.connect().await?;
    let (mut from_answer, mut from_request) = (Latencies::new(), Latencies::new());
    for _ in 0..TASKS {
        let sent = clock::tick();
        let task = task_id(connection.ask(&request).await?.body).context("createTask answered without an id")?;
        let answered = clock::tick();
        let call = nearby.call_for(&task).await?;
        from_answer.record(later(call.received, answered));
        from_request.record(later(call.received, sent));
    }
    nearby.gate("/hold/open").await?;
    if stage.database.is_none() {
        stage.api.delete_model(id).await?;
    }
    Ok(vec![("answered → called", from_answer), ("sent → called", from_request)])
}

/// Jain's index over the calls that each tenant got while all of them wanted more: 1 is fair, one
/// over the number of tenants is one who gets everything.
async fn sharing(stage: &Stage<'_>, mut nearby: Nearby, each: u64) -> anyhow::Result<f64> {
    let model = NewModel {
        name: MODEL,
        base_url: nearby.url(),
        route: "answer/100",
        max_concurrency: TOTAL,
        total_concurrency: TOTAL,
    };
    nearby.gate("/gate/closed").await?;
    let id = stage.api.create_model(&model).await?;
    let request = |tenant: u64| {
        let payload = format!("{{\"tenant\":{tenant}}}");
        as_tenant(&stage.api, SHARING, tenant).post("/task/createTask", &new_task(MODEL, &payload))
    };
    let greedy = (1..GREED).map(|_| 0);
    let requests: Vec<Vec<u8>> = (0..SHARING).chain(greedy).map(request).collect();
    let all = each * requests.len() as u64;
    load::send(&stage.api.target, requests, 32, all, |_| Some(())).await?;
    nearby.gate("/gate/open").await?;
    let mut calls: HashMap<Vec<u8>, u64> = HashMap::new();
    // Within these every tenant has work, however it is shared, up to twice its due.
    for _ in 0..SHARING * each / 2 {
        *calls.entry(nearby.next().await?.payload.to_vec()).or_default() += 1;
    }
    if stage.database.is_none() {
        stage.api.delete_model(id).await?;
    }
    Ok(jain(&calls.into_values().collect::<Vec<u64>>(), SHARING))
}

fn jain(got: &[u64], tenants: u64) -> f64 {
    let sum: f64 = got.iter().map(|&calls| calls as f64).sum();
    let squares: f64 = got.iter().map(|&calls| (calls as f64).powi(2)).sum();
    sum * sum / (tenants as f64 * squares.max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_have_the_index_1_and_one_who_gets_all_has_a_share() {
        assert!((jain(&[7, 7, 7, 7], 4) - 1.0).abs() < 1e-9);
        assert!((jain(&[7], 4) - 0.25).abs() < 1e-9);
    }
}
