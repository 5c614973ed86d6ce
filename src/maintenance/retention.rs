//! The job `retention`: deletes what is kept no longer, step by step. A step that fails does not keep
//! the others from their work; it counts as -1.
//!
//! Tasks past their time are not among the steps: the cleaner purges them as they come. Statistics are
//! kept for ever.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use serde_json::Value;
use tracing::error;
use uuid::Uuid;

use super::{Maintenance, Outcome};
use crate::{
    cleaner::purge,
    clock,
    faults::{self, Point},
    store::{Page, StoreError},
    task::{ModelId, TaskId, TenantId},
    tenant::Tenant,
};

/// Rows deleted in one transaction: it holds its locks for some milliseconds.
const BATCH: u32 = 500;

/// Tasks looked at in one statement, which locks nothing.
const LOOK_AT: u32 = 5_000;

/// Tenants read at once.
const TENANTS: i64 = 1_000;

/// Longest rest after a batch.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// One kind of row that gets old.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The operation log, by age.
    OpLog,
    /// Runs of jobs, by age.
    Runs,
    /// Results of tenants that have settings, by count.
    Results,
}

impl Step {
    const ALL: [Step; 3] = [Step::OpLog, Step::Runs, Step::Results];

    /// As it is called in the run's result.
    const fn name(self) -> &'static str {
        match self {
            Step::OpLog => "opLog",
            Step::Runs => "runs",
            Step::Results => "results",
        }
    }

    /// Deletes; returns how many rows.
    async fn take(self, maintenance: &Maintenance) -> Result<u64, StoreError> {
        match self {
            Step::OpLog => op_logs(maintenance).await,
            Step::Runs => runs(maintenance).await,
            Step::Results => results(maintenance).await,
        }
    }
}

/// All steps; the result says how many rows each of them deleted.
pub(super) async fn run(maintenance: &Maintenance) -> Outcome {
    let mut outcome = Outcome::default();
    for step in Step::ALL {
        let deleted = match step.take(maintenance).await {
            Ok(deleted) => Value::from(deleted),
            Err(error) => {
                error!(step = step.name(), %error, "a step of retention failed, the others go on");
                outcome.errors.push(format!("{}: {}", step.name(), in_words(&error)));
                Value::from(-1)
            }
        };
        outcome.result.insert(step.name().to_owned(), deleted);
        faults::pass(Point::DuringRetention);
    }
    outcome
}

/// What callers may know of it; the log has the rest.
fn in_words(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "the database was out of reach, or too slow",
        StoreError::Broken(_) => "the database refused, see the log of the node",
    }
}

/// Each tenant's operation log, for as many days as it is to be kept.
async fn op_logs(maintenance: &Maintenance) -> Result<u64, StoreError> {
    let store = &maintenance.store;
    let (mut deleted, mut after) = (0, TenantId(i64::MIN));
    while let Some(id) = store.next_op_log_tenant(after).await? {
        after = id;
        let tenant = store.tenant(id).await?;
        let days = match &tenant {
            Some(Tenant { plan, own, .. }) => maintenance.plans.in_force(plan.as_deref(), own).op_log_days,
            None => maintenance.plans.default.op_log_days,
        };
        if days > 0 {
            let before = clock::now() - TimeDelta::days(i64::from(days));
            deleted += in_batches(|| store.purge_op_logs(id, before, BATCH)).await?;
        }
    }
    Ok(deleted)
}

async fn runs(maintenance: &Maintenance) -> Result<u64, StoreError> {
    if maintenance.config.run_days == 0 {
        return Ok(0);
    }
    let before = clock::now() - TimeDelta::days(i64::from(maintenance.config.run_days));
    in_batches(|| maintenance.store.purge_runs(before, BATCH)).await
}

/// What is more than tenants keep. Nobody has said how much a tenant without settings keeps, so
/// nothing of it is touched.
async fn results(maintenance: &Maintenance) -> Result<u64, StoreError> {
    let (mut deleted, mut offset) = (0, 0);
    loop {
        let tenants = maintenance.store.list_tenants(None, Page { offset, limit: TENANTS }).await?.list;
        for tenant in &tenants {
            let keep = maintenance.plans.in_force(tenant.plan.as_deref(), &tenant.own).keep_results;
            if let Ok(keep @ 1..) = u64::try_from(keep) {
                deleted += results_of(maintenance, tenant.id, keep).await?;
            }
        }
        if tenants.is_empty() {
            return Ok(deleted);
        }
        offset += TENANTS;
    }
}

/// Walks from the newest task to the oldest, and deletes each result that comes after the first `keep`
/// of its model.
async fn results_of(maintenance: &Maintenance, tenant: TenantId, keep: u64) -> Result<u64, StoreError> {
    let (mut deleted, mut before) = (0, TaskId(Uuid::max()));
    let mut kept: HashMap<ModelId, u64> = HashMap::new();
    loop {
        let tasks = maintenance.store.tasks_before(tenant, before, LOOK_AT).await?;
        let Some(last) = tasks.last() else { return Ok(deleted) };
        before = last.id;
        let mut surplus = Vec::new();
        for task in tasks.iter().filter(|task| task.is_result) {
            let kept = kept.entry(task.model).or_default();
            match *kept < keep {
                true => *kept += 1,
                false => surplus.push(task.id),
            }
        }
        for batch in surplus.chunks(BATCH as usize) {
            let began = clock::tick();
            let purged = maintenance.store.purge_results(tenant, batch).await?;
            deleted += purged.len() as u64;
            if maintenance.delete_on_purge {
                purge::delete_objects(&maintenance.storage, &purged).await;
            }
            rest(began.elapsed()).await;
        }
    }
}

/// Deletes batch after batch until one finds nothing.
async fn in_batches<F>(batch: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut deleted = 0;
    loop {
        let began = clock::tick();
        match batch().await? {
            0 => return Ok(deleted),
            rows => deleted += rows,
        }
        rest(began.elapsed()).await;
    }
}

/// As long as the work before it, so that at least half of the database's time is left to the queue.
async fn rest(took: Duration) {
    tokio::time::sleep(took.min(LONGEST_REST)).await;
}
