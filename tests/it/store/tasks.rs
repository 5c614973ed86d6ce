//! The verbs on tasks.

mod adopt;
mod apply;
mod census;
mod claim;
mod enqueue;
mod faults;
mod find;
mod ledger;
mod pickup;
mod plans;
mod sweep;

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use model_asynch::{
    clock,
    config::Database,
    secrets::Vault,
    stats::CallCount,
    store::{
        Store,
        tasks::{Claim, Enqueued, LaneVerdict, Want},
    },
    task::{
        CallerHeaders, Failure, FailureKind, Lane, ModelId, NodeId, Running, Task, TaskId, TaskKey, TenantId,
        lifecycle::{self, Applied, StoredFile, Transition},
        submission::NewTask,
    },
};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::backend::TestDb;

/// The tenant of most tests.
const TENANT: TenantId = TenantId(7);

/// A store with its committers, and a way around it.
struct Fixture {
    store: Store,
    raw: Raw,
    node: NodeId,
    stop: CancellationToken,
    committers: JoinHandle<()>,
}

/// The database itself, for what no verb does.
enum Raw {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// What tests vary in a model.
#[derive(Clone, Copy)]
struct Limits {
    max: i32,
    total: i32,
    queue: i32,
}

/// Nothing in the way.
const ROOMY: Limits = Limits { max: 1000, total: 0, queue: 0 };

impl Fixture {
    async fn open(db: &TestDb) -> Fixture {
        Fixture::on(&db.config).await
    }

    async fn on(config: &Database) -> Fixture {
        Fixture::with_vault(config, Vault::default()).await
    }

    async fn with_vault(config: &Database, vault: Vault) -> Fixture {
        let (store, committers) = Store::open(config, vault).await.unwrap();
        let stop = CancellationToken::new();
        let committers = tokio::spawn(committers.run(stop.clone()));
        let raw = match config {
            Database::Postgres { url, .. } => Raw::Postgres(PgPool::connect_lazy(url).unwrap()),
            Database::Sqlite { path } => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                Raw::Sqlite(SqlitePool::connect_with(options).await.unwrap())
            }
        };
        Fixture { store, raw, node: clock::node_id(), stop, committers }
    }

    /// Another node's store, where there can be one.
    async fn second(&self, db: &TestDb) -> Store {
        if self.store.is_embedded() {
            return self.store.clone();
        }
        let (store, committers) = Store::open(&db.config, Vault::default()).await.unwrap();
        tokio::spawn(committers.run(self.stop.clone()));
        store
    }

    /// A lane of `TENANT` with a model of its own.
    async fn lane(&self, limits: Limits) -> Lane {
        Lane { model: self.model(limits).await, tenant: TENANT }
    }

    async fn model(&self, Limits { max, total, queue }: Limits) -> ModelId {
        let (now, name) = (self.raw.at(0), clock::token());
        let id = self
            .raw
            .number(&format!(
                "INSERT INTO asynch_models (tenant_id, creator, created_at, updater, updated_at, model_name, base_url,
                     max_concurrency, total_concurrency, queue_limit, timeout_seconds, auto_clean_seconds)
                 VALUES (7, 'ann', {now}, 'ann', {now}, '{name}', 'http://127.0.0.1:1', {max}, {total}, {queue}, 100, 50)
                 RETURNING id"
            ))
            .await;
        ModelId(id)
    }

    async fn delete_model(&self, model: ModelId) {
        let now = self.raw.at(0);
        self.raw.run(&format!("UPDATE asynch_models SET deleted_at = {now} WHERE id = {model}")).await;
    }

    /// Queues tasks one after the other; their ids, in that order.
    async fn queue(&self, lane: Lane, count: usize) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let task = new_task(lane);
            ids.push(task.key.id);
            assert_eq!(self.store.enqueue(task).await.unwrap(), Enqueued::Accepted);
        }
        ids
    }

    async fn claim(&self, lane: Lane, most: u32) -> Claim {
        self.store.claim(self.node, &[want(lane, most)]).await.unwrap()
    }

    /// Queues and claims one task.
    async fn running(&self, lane: Lane) -> Running {
        self.queue(lane, 1).await;
        self.claim_one(lane).await
    }

    async fn claim_one(&self, lane: Lane) -> Running {
        self.claim(lane, 1).await.tasks.pop().expect("a claimable task")
    }

    async fn task(&self, key: TaskKey) -> Task {
        self.store.task(key).await.unwrap().expect("a stored task")
    }

    async fn done(&self, transition: Transition) {
        assert_eq!(self.store.apply(transition).await.unwrap(), Applied::Done);
    }

    /// Request, success and failure counts and bytes over all statistics.
    async fn calls(&self) -> [i64; 4] {
        let mut sums = [0; 4];
        for (sum, column) in sums.iter_mut().zip(["request_count", "success_count", "failure_count", "result_bytes"]) {
            let sql = format!("SELECT CAST(COALESCE(sum({column}), 0) AS BIGINT) FROM asynch_model_stat");
            *sum = self.raw.number(&sql).await;
        }
        sums
    }
}

impl Raw {
    async fn run(&self, sql: &str) {
        match self {
            Raw::Postgres(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Raw::Sqlite(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        match self {
            Raw::Postgres(pool) => {
                // Postgres is strict about the width of numbers.
                let wide = if sql.trim_start().starts_with("SELECT") {
                    format!("SELECT CAST(n AS BIGINT) FROM ({sql}) AS q(n)")
                } else {
                    sql.to_owned()
                };
                sqlx::query_scalar(AssertSqlSafe(wide)).fetch_one(pool).await.unwrap()
            }
            Raw::Sqlite(pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap(),
        }
    }

    async fn text(&self, sql: &str) -> String {
        match self {
            Raw::Postgres(pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap(),
            Raw::Sqlite(pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap(),
        }
    }

    /// A moment, so many seconds from now, as SQL.
    fn at(&self, seconds: i64) -> String {
        match self {
            Raw::Postgres(_) => format!("now() + {seconds} * interval '1 second'"),
            Raw::Sqlite(_) => (clock::now().timestamp_micros() + seconds * 1_000_000).to_string(),
        }
    }

    /// Moves a column of every task by so many seconds.
    async fn shift(&self, column: &str, seconds: i64) {
        let by = match self {
            Raw::Postgres(_) => format!("{seconds} * interval '1 second'"),
            Raw::Sqlite(_) => (seconds * 1_000_000).to_string(),
        };
        self.run(&format!("UPDATE asynch_task SET {column} = {column} + {by}")).await;
    }
}

fn new_task(lane: Lane) -> NewTask {
    NewTask {
        key: TaskKey { tenant: lane.tenant, id: clock::task_id() },
        lane,
        creator: "ann".into(),
        model_name: "tts".into(),
        biz_name: String::new(),
        input_ref: String::new(),
        request_payload: None,
        caller_headers: CallerHeaders::default(),
        traceparent: String::new(),
    }
}

fn want(lane: Lane, most: u32) -> Want {
    Want { lane, most, since: None, shares: false }
}

fn verdicts(claim: &Claim) -> Vec<LaneVerdict> {
    claim.lanes.iter().map(|(_, verdict)| *verdict).collect()
}

fn ids(claim: &Claim) -> Vec<TaskId> {
    claim.tasks.iter().map(|task| task.key.id).collect()
}

fn stored() -> StoredFile {
    StoredFile { oss_file: "http://files/a.wav".into(), oss_key: "a.wav".into(), file_type: "wav".into(), file_size: 5 }
}

fn failure(message: &str) -> Failure {
    Failure { kind: FailureKind::Timeout, message: message.into(), retry_after: None }
}

fn call(success: bool) -> Option<CallCount> {
    let day = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
    Some(CallCount { day, creator: "ann".into(), model_name: "tts".into(), success, seconds: 0.5, bytes: 5 })
}

fn succeeded(task: &Running) -> Transition {
    lifecycle::succeeded(task, stored(), None)
}

/// The difference of two moments in whole seconds.
fn seconds_between(earlier: Option<DateTime<Utc>>, later: Option<DateTime<Utc>>) -> i64 {
    (later.unwrap() - earlier.unwrap()).num_seconds()
}

fn distinct<T: std::hash::Hash + Eq>(items: impl IntoIterator<Item = T>) -> HashSet<T> {
    items.into_iter().collect()
}

/// Tries until it holds; for what another loop has to notice.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(result) = attempt().await {
                return result;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), tries).await.expect("it never came to hold")
}
