//! The model of the store against the real ones: the same random verbs give the same verdicts, and in
//! the end of every step the same rows.

use std::{collections::HashSet, time::Duration};

use model_asynch::{
    clock,
    config::Database,
    secrets::Vault,
    store::{
        Store,
        tasks::{TaskFilter, Want},
    },
    task::{
        Abandoned, Attempt, AttemptOutcome, Failure, FailureKind, Lane, ModelId, NodeId, Running, TaskKey, TenantId,
        lifecycle::{self, Phase, Place, Slot, State, StoredFile, Transition},
    },
    tenant::{Plans, Terms},
};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    backend_test,
    run::call_count,
    runtime::Micros,
    support::backend::TestDb,
    table::{Registered, Row, Table},
    world::new_task,
};

/// Verbs of one test.
const VERBS: usize = 300;

const LEASE: Duration = Duration::from_secs(30);

/// One of the two real databases, and a way around its store.
struct Real {
    store: Store,
    raw: Raw,
}

enum Raw {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// Both, side by side.
struct Pair {
    real: Real,
    table: Table,
    now: Micros,
    /// How much time was let go by.
    passed: Micros,
    rng: fastrand::Rng,
    lanes: Vec<Lane>,
    nodes: Vec<NodeId>,
    watchers: Vec<NodeId>,
    /// Tasks as somebody claimed them, most of them out of date.
    held: Vec<Running>,
    abandoned: Vec<Abandoned>,
    keys: Vec<TaskKey>,
}

impl Raw {
    async fn run(&self, sql: &str) {
        match self {
            Raw::Postgres(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Raw::Sqlite(pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
        }
    }

    /// Lets time go by: everything that is written moves into the past.
    async fn pass(&self, seconds: i64) {
        let by = match self {
            Raw::Postgres(_) => format!("{seconds} * interval '1 second'"),
            Raw::Sqlite(_) => (seconds * 1_000_000).to_string(),
        };
        let columns = ["created_at", "updated_at", "enqueue_at", "due_at", "deadline_at", "finished_at", "expire_at"];
        let moved: Vec<String> = columns.iter().map(|column| format!("{column} = {column} - {by}")).collect();
        self.run(&format!("UPDATE asynch_task SET {}", moved.join(", "))).await;
        self.run(&format!("UPDATE asynch_node SET lease_until = lease_until - {by}")).await;
        self.run(&format!("UPDATE asynch_watch SET since = since - {by}, held_until = held_until - {by}")).await;
    }

    /// Rows in the ledger.
    async fn attempts(&self) -> i64 {
        let sql = "SELECT count(*) FROM asynch_attempt";
        match self {
            Raw::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Raw::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// What callers do not see of a row: attempt, owner, lost attempts, and whether it rests.
    async fn inside(&self, key: TaskKey) -> (i32, Option<NodeId>, i32, bool) {
        let (tenant, task) = (key.tenant.0, key.id.0);
        let sql = "SELECT attempt, owner, lost_attempts, due_at IS NOT NULL AS rests FROM asynch_task \
                   WHERE tenant_id = $1 AND task_id = $2";
        match self {
            Raw::Postgres(pool) => {
                let query = sqlx::query_as::<_, (i32, Option<Uuid>, i32, bool)>(sql).bind(tenant).bind(task);
                let (attempt, owner, lost, rests) = query.fetch_one(pool).await.unwrap();
                (attempt, owner.map(NodeId), lost, rests)
            }
            Raw::Sqlite(pool) => {
                let query = sqlx::query_as::<_, (i32, Option<String>, i32, bool)>(sql).bind(tenant);
                let query = query.bind(task.hyphenated().to_string());
                let (attempt, owner, lost, rests) = query.fetch_one(pool).await.unwrap();
                (attempt, owner.map(|owner| NodeId(owner.parse().unwrap())), lost, rests)
            }
        }
    }
}

impl Pair {
    async fn new(db: &TestDb, store: Store, seed: u64) -> Pair {
        let raw = match &db.config {
            Database::Postgres { url, .. } => Raw::Postgres(PgPool::connect_lazy(url).unwrap()),
            Database::Sqlite { path } => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                Raw::Sqlite(SqlitePool::connect_with(options).await.unwrap())
            }
        };
        let mut table = Table::broken(None);
        table.is_embedded = store.is_embedded();
        let mut pair = Pair {
            table,
            real: Real { store, raw },
            now: clock::now().timestamp_micros(),
            passed: 0,
            rng: fastrand::Rng::with_seed(seed),
            lanes: Vec::new(),
            nodes: Vec::new(),
            watchers: vec![clock::node_id(), clock::node_id()],
            held: Vec::new(),
            abandoned: Vec::new(),
            keys: Vec::new(),
        };
        for (max, total, queue) in [(3, 0, 0), (2, 3, 0), (2, 2, 5)] {
            pair.add_model(max, total, queue).await;
        }
        for _ in 0..2 {
            pair.add_node().await;
        }
        pair.cap(TenantId(1), 4).await;
        // Postgres makes a lane's rows with its first task; a claim before that would find it busy.
        for lane in pair.lanes.clone() {
            pair.enqueue(lane).await;
        }
        pair
    }

    async fn add_model(&mut self, max: i64, total: i64, queue: i64) {
        let now = match &self.real.raw {
            Raw::Postgres(_) => "now()".to_owned(),
            Raw::Sqlite(_) => self.now.to_string(),
        };
        let number = self.lanes.len() as i64 / 2 + 1;
        let statement = format!(
            "INSERT INTO asynch_models (id, tenant_id, creator, created_at, updater, updated_at, model_name, base_url,
                 max_concurrency, total_concurrency, queue_limit, timeout_seconds, retry_times, auto_clean_seconds)
             VALUES ({number}, 0, 'ann', {now}, 'ann', {now}, 'model-{number}', 'http://127.0.0.1:1',
                 {max}, {total}, {queue}, 100, 3, 50)"
        );
        self.real.raw.run(&statement).await;
        let model = self.real.store.models_by_id(&[ModelId(number)]).await.unwrap().remove(0);
        self.table.models.insert(model.id, Registered { model: model.into(), deleted: false });
        self.lanes.extend([1, 2].map(|tenant| Lane { model: ModelId(number), tenant: TenantId(tenant) }));
    }

    /// Limits what a tenant may have running over all models.
    async fn cap(&mut self, tenant: TenantId, cap: i32) {
        let set = |_: &mut Option<String>, own: &mut Terms| own.max_concurrency = Some(cap);
        self.real.store.update_tenant(tenant, "ann", &Plans::default(), set).await.unwrap();
        self.table.caps.insert(tenant, i64::from(cap));
    }

    async fn add_node(&mut self) {
        let node = clock::node_id();
        self.real.store.register_node(node, "test", LEASE).await.unwrap();
        self.table.register(node, LEASE, self.now);
        self.nodes.push(node);
    }

    fn lane(&mut self) -> Lane {
        self.lanes[self.rng.usize(..self.lanes.len())]
    }

    fn node(&mut self) -> NodeId {
        self.nodes[self.rng.usize(..self.nodes.len())]
    }

    /// One verb on both.
    async fn verb(&mut self) {
        self.now = clock::now().timestamp_micros() + self.passed;
        match self.rng.usize(..24) {
            0..5 => {
                let lane = self.lane();
                self.enqueue(lane).await;
            }
            5..9 => self.claim().await,
            9..14 => self.apply().await,
            14 => self.adopt().await,
            15 => self.pick_up().await,
            16 => self.promote().await,
            17 => self.rescue().await,
            18..21 => self.hold_watch().await,
            21 => self.purge().await,
            _ => {
                let seconds = [5, 5, 12, 35, 200][self.rng.usize(..5)];
                self.real.raw.pass(seconds).await;
                self.passed += seconds * 1_000_000;
            }
        }
    }

    async fn enqueue(&mut self, lane: Lane) {
        let task = new_task(lane, clock::task_id());
        let key = task.key;
        let expected = self.table.enqueue(&task, self.now);
        assert_eq!(self.real.store.enqueue(task).await.unwrap(), expected);
        self.keys.push(key);
    }

    async fn claim(&mut self) {
        let (node, mut wants) = (self.node(), Vec::new());
        for _ in 0..self.rng.usize(1..4) {
            wants.push(Want { lane: self.lane(), most: self.rng.u32(1..4), since: None, shares: self.rng.bool() });
        }
        let expected = self.table.claim(node, &wants, &HashSet::new(), self.now);
        let claimed = self.real.store.claim(node, &wants).await.unwrap();
        assert_eq!(claimed.lanes, expected.lanes);
        let keys = |tasks: &[Running]| -> Vec<(TaskKey, Attempt)> {
            tasks.iter().map(|task| (task.key, task.attempt)).collect()
        };
        assert_eq!(keys(&claimed.tasks), keys(&expected.tasks));
        self.held.extend(claimed.tasks);
    }

    /// A transition of a task that is held, or was.
    fn transition(&mut self) -> Option<Transition> {
        let task = self.rng.choice(self.held.iter())?.clone();
        let call = |success| Some(call_count("ann", &task.model_name, success));
        let failure = Failure { kind: FailureKind::Timeout, message: "late\0".into(), retry_after: None };
        let delay = Duration::from_secs([0, 20][self.rng.usize(..2)]);
        let place = [Place::Kept, Place::Head, Place::Tail][self.rng.usize(..3)];
        let oss_key = format!("{}/{}", task.key.id, task.attempt);
        // A URL that ends in the key, as those of files and public buckets do, or is made at every look.
        let oss_file = if task.attempt.0 % 2 == 1 { format!("http://files/{oss_key}") } else { String::new() };
        let stored = StoredFile { oss_file, oss_key, file_type: "wav".into(), file_size: 5 };
        Some(match self.rng.usize(..8) {
            0 | 1 => lifecycle::succeeded(&task, stored, call(true)),
            2 => lifecycle::retried(&task, &failure, Slot { delay, place }, call(false)),
            3 => lifecycle::failed(&task, "no".into(), call(false)),
            4 => lifecycle::handed_back(&task, None),
            5 => lifecycle::result_gone(&task, "gone".into(), call(true)),
            6 => lifecycle::result_lost(&task, "full".into(), 3, call(true)),
            _ => lifecycle::parked(&task, "file".into(), None, call(true)),
        })
    }

    /// Once, or twice as a writer that was not told of its commit.
    async fn apply(&mut self) {
        let Some(transition) = self.transition() else { return };
        for _ in 0..self.rng.usize(1..3) {
            let expected = self.table.apply(&transition, self.now);
            assert_eq!(self.real.store.apply(transition.clone()).await.unwrap(), expected, "{transition:?}");
        }
    }

    async fn adopt(&mut self) {
        let Some(task) = self.rng.choice(self.held.iter()).cloned() else { return };
        let node = self.node();
        let expected = self.table.adopt(node, task.key, task.attempt, "file", self.now);
        let adopted = self.real.store.adopt(node, task.key, task.attempt, "file").await.unwrap();
        let facts = |call_uncounted: bool, task: &Running| (call_uncounted, task.attempt, task.phase);
        assert_eq!(
            adopted.as_ref().map(|adopted| facts(adopted.call_uncounted, &adopted.task)),
            expected.as_ref().map(|adopted| facts(adopted.call_uncounted, &adopted.task))
        );
        self.held.extend(adopted.map(|adopted| adopted.task));
    }

    async fn pick_up(&mut self) {
        let tenant = TenantId(self.rng.i64(1..3));
        let mut keys: Vec<TaskKey> = self.keys.iter().rev().take(6).copied().collect();
        keys.retain(|key| key.tenant == tenant);
        let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
        let mut expected: Vec<_> = self.table.pick_up(&keys, self.now);
        let mut picked = self.real.store.pick_up(tenant, &ids).await.unwrap();
        expected.sort_by_key(|task| task.key.id);
        picked.sort_by_key(|task| task.id);
        let expected: Vec<_> = expected.into_iter().map(|task| (task.key.id, task.state, task.oss_key)).collect();
        let picked: Vec<_> = picked.into_iter().map(|task| (task.id, task.state, task.oss_key)).collect();
        assert_eq!(picked, expected);
    }

    async fn promote(&mut self) {
        let expected = self.table.promote_due(500, self.now);
        assert_eq!(self.real.store.promote_due(500).await.unwrap().1, expected);
        let mut lanes = self.real.store.lanes_with_work().await.unwrap();
        let mut expected = self.table.lanes_with_work();
        lanes.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lanes, expected);
    }

    async fn hold_watch(&mut self) {
        let (watcher, anew) = (self.watchers[self.rng.usize(..self.watchers.len())], self.rng.usize(..6) == 0);
        let expected = self.table.hold_watch(watcher, LEASE, anew, self.now);
        assert_eq!(self.real.store.hold_watch(watcher, "sim", LEASE, anew).await.unwrap(), expected);
    }

    async fn rescue(&mut self) {
        let watcher = self.watchers[self.rng.usize(..self.watchers.len())];
        let mut dead = self.real.store.bury_dead_nodes(watcher, LEASE).await.unwrap();
        dead.sort_unstable_by_key(|node| node.0);
        assert_eq!(dead, self.table.bury(watcher, LEASE, self.now));
        let facts = |tasks: Vec<Abandoned>| -> Vec<(TaskKey, Attempt, i32, Phase)> {
            let mut facts: Vec<_> =
                tasks.into_iter().map(|task| (task.key, task.attempt, task.lost_attempts, task.phase)).collect();
            facts.sort_by_key(|(key, ..)| (key.tenant, key.id));
            facts
        };
        let node = self.node();
        let held = self.real.store.held_by(node).await.unwrap();
        assert_eq!(facts(held), facts(self.table.held_by(node)));
        let abandoned = self.real.store.abandoned(500).await.unwrap();
        assert_eq!(facts(abandoned.clone()), facts(self.table.abandoned(self.now)));
        self.abandoned.extend(abandoned);
        if let Some(task) = self.rng.choice(self.abandoned.iter()).cloned() {
            let transition = lifecycle::lease_lost(&task, 2, None);
            let expected = self.table.apply(&transition, self.now);
            assert_eq!(self.real.store.apply_all(&[transition]).await.unwrap(), [expected]);
        }
        self.add_node().await;
    }

    async fn purge(&mut self) {
        let age = Duration::from_secs(100);
        let late = self.real.store.queued_longer_than(age, 500).await.unwrap();
        let late: HashSet<TaskKey> = late.into_iter().map(|task| task.key).collect();
        let expected: HashSet<TaskKey> =
            self.table.queued_longer_than(age, self.now).into_iter().map(|task| task.key).collect();
        assert_eq!(late, expected);
        let unclaimed = Duration::from_secs(300);
        let purged = self.real.store.purge(unclaimed, 500).await.unwrap();
        let purged: HashSet<_> = purged.into_iter().map(|task| (task.key, task.oss_key)).collect();
        let expected: HashSet<_> = self.table.purge(unclaimed, self.now).into_iter().collect();
        assert_eq!(purged, expected);
    }

    /// Every row of the model is in the database as it is here, and there is no other.
    async fn compare(&self) {
        let mut there = 0;
        for tenant in [1, 2] {
            let page = model_asynch::store::Page { offset: 0, limit: 1 };
            there += self.real.store.list_tasks(TenantId(tenant), &TaskFilter::default(), page).await.unwrap().total;
        }
        assert_eq!(there, self.table.rows.len() as i64);
        assert_eq!(self.real.raw.attempts().await, self.table.ledger.len() as i64, "none outlives its task");
        for row in self.table.rows.values() {
            let task = self.real.store.task(row.key).await.unwrap().expect("a row that the model has");
            let seen = (task.state, task.phase, task.retry_count, &task.error_msg, &task.oss_key);
            let Row { state, phase, retry_count, error_msg, oss_key, .. } = row;
            assert_eq!(seen, (*state, *phase, *retry_count, error_msg, oss_key), "{row:?}");
            assert_eq!(task.expire_at.is_some(), row.expire_at.is_some(), "{row:?}");
            assert_eq!(task.finished_at.is_some(), row.finished_at.is_some(), "{row:?}");
            let inside = (row.attempt.0, row.owner, row.lost_attempts, row.due_at.is_some());
            assert_eq!(self.real.raw.inside(row.key).await, inside, "{row:?}");
            let ended: Vec<_> = self
                .real
                .store
                .attempts(row.key)
                .await
                .unwrap()
                .unwrap()
                .into_iter()
                .filter_map(|past| match past.outcome {
                    AttemptOutcome::Ended(ending) => Some((past.attempt, ending, past.node.unwrap(), past.error)),
                    AttemptOutcome::Running | AttemptOutcome::Succeeded => None,
                })
                .collect();
            assert_eq!(ended, self.table.ended(row.key), "{row:?}");
        }
    }
}

backend_test!(the_model_of_the_store_and_the_store_agree, async |db: &TestDb| {
    let (store, committers) = Store::open(&db.config, Vault::default()).await.unwrap();
    let stop = CancellationToken::new();
    let committers = tokio::spawn(committers.run(stop.clone()));
    // Any number would do; a failure names the verb, and this makes it come again.
    let seed = std::env::var("MODEL_ASYNCH_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut pair = Pair::new(db, store, seed).await;
    for n in 0..VERBS {
        pair.verb().await;
        if n % 10 == 0 {
            pair.compare().await;
        }
    }
    pair.compare().await;
    let ended = pair.table.rows.values().filter(|row| row.state != State::Queued).count();
    assert!(ended > 0, "nothing has happened");
    stop.cancel();
    committers.await.unwrap();
});
