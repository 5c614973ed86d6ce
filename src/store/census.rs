//! Counting what is queued and what runs, lane by lane, in one look at the database.
//!
//! Nothing keeps these numbers: a counter would be written by every task. They are counted from the
//! partial indexes that carry the queue, which takes a few tenths of a second for a million tasks; so nobody
//! counts for itself, but asks [`CensusTaker`](crate::census::CensusTaker).

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use super::{Backend, Store, StoreError, row::Columns, value::Stamp, within};
use crate::{
    clock,
    task::{Lane, ModelId, TenantId, lifecycle::Phase},
};

/// How the parts of [`COUNT`] are told apart: `CALLING` plus the phase are those that run.
const QUEUED: i32 = 0;
const RESTING: i32 = 1;
const CALLING: i32 = 2;

/// One statement, so that one snapshot: no task is missed or counted twice on its way from one part
/// to the next. Each part reads its own partial index; only of tasks that run, of which there are as
/// many as calls, the rows themselves.
const COUNT: &str = "
    SELECT tenant_id, model_id, 0 AS part, count(*) AS tasks, min(enqueue_at) AS at FROM asynch_task
    WHERE state = 0 AND due_at IS NULL GROUP BY tenant_id, model_id
    UNION ALL
    SELECT tenant_id, model_id, 1, count(*), NULL FROM asynch_task
    WHERE state = 0 AND due_at IS NOT NULL GROUP BY tenant_id, model_id
    UNION ALL
    SELECT tenant_id, model_id, 2 + phase, count(*), max(started_at) FROM asynch_task
    WHERE state = 1 GROUP BY model_id, tenant_id, phase";

/// For this transaction only. Where most tasks are queued Postgres would rather read the whole table,
/// payloads and all, with a process on every core.
const BY_INDEX: &str = "
    SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)";

macro_rules! counted_models {
    ($lanes:literal) => {
        concat!(
            "SELECT id, tenant_id, model_name, enabled, shared, max_concurrency, total_concurrency, queue_limit,
                    CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END AS deleted
             FROM asynch_models WHERE deleted_at IS NULL OR ",
            $lanes
        )
    };
}

const MODELS_POSTGRES: &str = counted_models!("id = ANY($1)");
const MODELS_SQLITE: &str = counted_models!("id IN (SELECT value FROM json_each($1))");

const WORKERS_POSTGRES: &str = "SELECT count(*) FROM asynch_node WHERE lease_until > now()";
const WORKERS_SQLITE: &str = "SELECT count(*) FROM asynch_node WHERE lease_until > $1";

/// What is queued and what runs at one moment.
#[derive(Debug, Clone)]
pub struct Census {
    /// When it was counted.
    pub taken_at: DateTime<Utc>,
    /// Every lane that has a task queued or running, in their order.
    pub lanes: Vec<LaneCensus>,
    /// Every registered model, and the deleted ones that still have tasks.
    pub models: HashMap<ModelId, ModelFacts>,
    /// Workers whose lease runs.
    pub workers: i64,
}

/// One lane of it. All numbers are tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneCensus {
    /// Model and tenant.
    pub lane: Lane,
    /// Name of the model as it is registered now.
    pub model_name: String,
    /// Waiting for capacity.
    pub queued: i64,
    /// Waiting for the pause before a retry to end.
    pub resting: i64,
    /// Calling the model: what `maxConcurrency` limits.
    pub running: i64,
    /// Only the upload of their result is left.
    pub uploading: i64,
    /// Place in the queue of the oldest that waits for capacity.
    pub oldest_enqueue_at: Option<DateTime<Utc>>,
    /// When the latest of those that run now was started.
    pub started_at: Option<DateTime<Utc>>,
    /// Since when at least `oldest_enqueue_at` has been that of the same task, so that nothing else was
    /// started: as far as this process has looked. `None` where nothing waits.
    pub waiting_since: Option<DateTime<Utc>>,
}

/// What the numbers of a lane are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The model.
    pub id: ModelId,
    /// The tenant that registered it.
    pub tenant: TenantId,
    /// Its name.
    pub model_name: String,
    /// False where its tasks wait, whatever is free.
    pub enabled: bool,
    /// Every tenant may call it.
    pub shared: bool,
    /// It is gone, and its last tasks are on their way out.
    pub deleted: bool,
    /// Calls running at once per lane.
    pub max_concurrency: i32,
    /// Calls running at once over all lanes; 0 = no such limit.
    pub total_concurrency: i32,
    /// Tasks queued or running per lane; 0 = no limit.
    pub queue_limit: i32,
}

impl LaneCensus {
    /// A lane without tasks.
    pub fn empty(lane: Lane, model_name: String) -> LaneCensus {
        LaneCensus {
            lane,
            model_name,
            queued: 0,
            resting: 0,
            running: 0,
            uploading: 0,
            oldest_enqueue_at: None,
            started_at: None,
            waiting_since: None,
        }
    }

    /// All of its tasks: what `queueLimit` limits.
    pub fn tasks(&self) -> i64 {
        self.queued + self.resting + self.running + self.uploading
    }
}

impl Store {
    /// Counts. Its cost grows with the number of queued tasks.
    ///
    /// # Errors
    /// Where the database is out of reach or a row cannot be read.
    pub async fn count_lanes(&self) -> Result<Census, StoreError> {
        within(async {
            let taken_at = clock::now();
            let mut lanes: BTreeMap<Lane, LaneCensus> = BTreeMap::new();
            match &self.backend {
                Backend::Postgres { pool, .. } => {
                    let mut transaction = pool.begin().await?;
                    sqlx::query(BY_INDEX).execute(&mut *transaction).await?;
                    for row in sqlx::query(COUNT).fetch_all(&mut *transaction).await? {
                        add(&mut lanes, &row)?;
                    }
                    transaction.commit().await?;
                }
                Backend::Sqlite { readers, .. } => {
                    for row in sqlx::query(COUNT).fetch_all(readers).await? {
                        add(&mut lanes, &row)?;
                    }
                }
            }
            let models = self.counted_models(lanes.keys().map(|lane| lane.model)).await?;
            let lanes = lanes.into_values().map(|lane| named(lane, &models)).collect();
            Ok(Census { taken_at, lanes, models, workers: self.count_workers(taken_at).await? })
        })
        .await
    }

    async fn counted_models(
        &self,
        of_lanes: impl Iterator<Item = ModelId>,
    ) -> Result<HashMap<ModelId, ModelFacts>, StoreError> {
        let mut ids: Vec<i64> = of_lanes.map(|model| model.0).collect();
        ids.dedup();
        let facts: Vec<ModelFacts> = match &self.backend {
            Backend::Postgres { pool, .. } => {
                let rows = sqlx::query(MODELS_POSTGRES).bind(ids).fetch_all(pool).await?;
                rows.iter().map(read_facts).collect::<Result<_, _>>()?
            }
            Backend::Sqlite { readers, .. } => {
                let ids = serde_json::Value::from(ids).to_string();
                let rows = sqlx::query(MODELS_SQLITE).bind(ids).fetch_all(readers).await?;
                rows.iter().map(read_facts).collect::<Result<_, _>>()?
            }
        };
        Ok(facts.into_iter().map(|facts| (facts.id, facts)).collect())
    }

    async fn count_workers(&self, now: DateTime<Utc>) -> Result<i64, StoreError> {
        Ok(match &self.backend {
            Backend::Postgres { pool, .. } => sqlx::query_scalar(WORKERS_POSTGRES).fetch_one(pool).await?,
            Backend::Sqlite { readers, .. } => {
                sqlx::query_scalar(WORKERS_SQLITE).bind(Stamp(now)).fetch_one(readers).await?
            }
        })
    }
}

/// Adds one row of [`COUNT`] to its lane.
fn add(lanes: &mut BTreeMap<Lane, LaneCensus>, row: &impl Columns) -> Result<(), StoreError> {
    const UPLOADING: i32 = CALLING + Phase::Upload.number() as i32;
    let lane = Lane { model: ModelId(row.big("model_id")?), tenant: TenantId(row.big("tenant_id")?) };
    let (part, tasks, at) = (row.int("part")?, row.big("tasks")?, row.time_if_any("at")?);
    let census = lanes.entry(lane).or_insert_with(|| LaneCensus::empty(lane, String::new()));
    match part {
        QUEUED => (census.queued, census.oldest_enqueue_at) = (tasks, at),
        RESTING => census.resting = tasks,
        CALLING => (census.running, census.started_at) = (tasks, census.started_at.max(at)),
        UPLOADING => (census.uploading, census.started_at) = (tasks, census.started_at.max(at)),
        other => return Err(StoreError::Broken(format!("a task has the unknown phase {}", other - CALLING))),
    }
    Ok(())
}

fn named(mut lane: LaneCensus, models: &HashMap<ModelId, ModelFacts>) -> LaneCensus {
    if let Some(model) = models.get(&lane.lane.model) {
        lane.model_name.clone_from(&model.model_name);
    }
    lane
}

fn read_facts(row: &impl Columns) -> Result<ModelFacts, StoreError> {
    Ok(ModelFacts {
        id: ModelId(row.big("id")?),
        tenant: TenantId(row.big("tenant_id")?),
        model_name: row.text("model_name")?,
        enabled: row.small("enabled")? != 0,
        shared: row.small("shared")? != 0,
        deleted: row.int("deleted")? != 0,
        max_concurrency: row.int("max_concurrency")?,
        total_concurrency: row.int("total_concurrency")?,
        queue_limit: row.int("queue_limit")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_in_the_statement_are_those_of_the_code() {
        assert!(COUNT.contains(&format!("{QUEUED} AS part")) && COUNT.contains(&format!(" {CALLING} + phase")));
        assert!(COUNT.contains(&format!("model_id, {RESTING}, count(*)")));
        assert_eq!((Phase::Model.number(), Phase::Upload.number()), (0, 1));
    }
}
