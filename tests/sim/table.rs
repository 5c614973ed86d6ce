//! A model of the store: the task table and the leases of nodes, in memory. The decisions are the
//! product's own (lifecycle, quota, admission, tally); what SQL says in its own words is said here
//! once more in Rust, and `conformance.rs` holds both against each other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use model_asynch::{
    model::Model,
    store::tasks::{
        AUTO_CLEAN_SECONDS, CLAIM_GRACE_SECONDS, Claim, Enqueued, OVERDUE_SECONDS, UPLOAD_DEADLINE_SECONDS, Want,
        admission::{self, Gate, Gates},
        quota::{Plan, Quota, Sight},
        tally::{self, Outcome},
    },
    task::{
        Abandoned, Attempt, CallerHeaders, Lane, ModelId, NodeId, Running, TaskId, TaskKey, TenantId, Waiting,
        lifecycle::{Applied, CLAIM, Ending, PICK_UP, Phase, Place, State, Transition},
        submission::NewTask,
    },
};

use crate::{flaw::Flaw, runtime::Micros};

const SECOND: Micros = 1_000_000;

/// One row of `asynch_task`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: TaskKey,
    pub lane: Lane,
    pub creator: String,
    pub model_name: String,
    pub state: State,
    pub phase: Phase,
    pub attempt: Attempt,
    pub owner: Option<NodeId>,
    pub retry_count: i32,
    pub lost_attempts: i32,
    pub error_msg: String,
    pub tmp_file: String,
    pub oss_key: String,
    pub created_at: Micros,
    pub updated_at: Micros,
    pub enqueue_at: Micros,
    pub due_at: Option<Micros>,
    pub deadline_at: Option<Micros>,
    pub finished_at: Option<Micros>,
    pub expire_at: Option<Micros>,
}

/// A registered model.
#[derive(Debug, Clone)]
pub struct Registered {
    pub model: Arc<Model>,
    pub deleted: bool,
}

/// The entrance of a lane.
#[derive(Debug, Clone, Copy, Default)]
struct Entrance {
    entered: i64,
    counted_entered: i64,
    counted_live: i64,
}

/// What happened to a row, for the checks.
pub struct Written {
    pub before: Option<Row>,
    pub after: Option<Row>,
}

/// A node that was declared dead, and by which watcher.
pub struct Buried {
    pub node: NodeId,
    pub watcher: NodeId,
}

/// The database.
#[derive(Default)]
pub struct Table {
    pub rows: BTreeMap<RowKey, Row>,
    pub nodes: HashMap<NodeId, Micros>,
    /// When each watch began, and until when it is held.
    pub watch: HashMap<NodeId, (Micros, Micros)>,
    pub models: BTreeMap<ModelId, Registered>,
    /// What tenants may have running over all models, where that is limited.
    pub caps: BTreeMap<TenantId, i64>,
    entrances: HashMap<Lane, Entrance>,
    /// Calls counted in the statistics: successes and failures.
    pub counted: (i64, i64),
    /// What was written since the checks looked last.
    pub written: Vec<Written>,
    /// Who was buried since then.
    pub buried: Vec<Buried>,
    /// Attempts that ended without success, of tasks that are still there.
    pub ledger: BTreeMap<(RowKey, Attempt), (Ending, NodeId, String)>,
    pub flaw: Option<Flaw>,
    /// No other process uses it.
    pub is_embedded: bool,
}

/// The order of rows: by tenant, then by id.
pub type RowKey = (i64, TaskId);

/// See `store::tasks::Adopted`.
pub struct Adopted {
    pub task: Running,
    pub model: Arc<Model>,
    pub call_uncounted: bool,
}

/// See `store::tasks::PickedUp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickedUp {
    pub key: TaskKey,
    pub state: State,
    pub oss_key: String,
}

fn place(key: TaskKey) -> RowKey {
    (key.tenant.0, key.id)
}

pub fn stamp(at: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at).unwrap()
}

impl Row {
    pub fn is_claimable(&self) -> bool {
        self.state == State::Queued && self.due_at.is_none()
    }

    pub fn is_calling(&self) -> bool {
        self.state == State::Running && self.phase == Phase::Model
    }

    fn running(&self) -> Running {
        Running {
            key: self.key,
            lane: self.lane,
            attempt: self.attempt,
            node: self.owner.unwrap_or(NodeId(uuid::Uuid::nil())),
            retry_count: self.retry_count,
            lost_attempts: self.lost_attempts,
            phase: self.phase,
            creator: self.creator.clone(),
            model_name: self.model_name.clone(),
            input_ref: String::new(),
            request_payload: None,
            caller_headers: CallerHeaders::default(),
            traceparent: String::new(),
            created_at: stamp(self.created_at),
            enqueue_at: stamp(self.enqueue_at),
            started_at: None,
        }
    }

    fn abandoned(&self) -> Abandoned {
        Abandoned {
            key: self.key,
            lane: self.lane,
            attempt: self.attempt,
            owner: self.owner.unwrap_or(NodeId(uuid::Uuid::nil())),
            lost_attempts: self.lost_attempts,
            phase: self.phase,
            creator: self.creator.clone(),
            model_name: self.model_name.clone(),
            traceparent: String::new(),
            started_at: None,
        }
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            key: self.key,
            lane: self.lane,
            attempt: self.attempt,
            model_name: self.model_name.clone(),
            traceparent: String::new(),
        }
    }
}

impl Table {
    /// An empty database with a rule that is broken, or none.
    pub fn broken(flaw: Option<Flaw>) -> Table {
        Table { flaw, ..Table::default() }
    }

    pub fn row(&self, key: TaskKey) -> Option<&Row> {
        self.rows.get(&place(key))
    }

    /// The attempts of a task that ended without success.
    pub fn ended(&self, key: TaskKey) -> Vec<(Attempt, Ending, NodeId, String)> {
        let of_task = self.ledger.range((place(key), Attempt::NONE)..=(place(key), Attempt(i32::MAX)));
        of_task.map(|((_, attempt), (ending, node, error))| (*attempt, *ending, *node, error.clone())).collect()
    }

    /// Calls running in a lane, as rows.
    pub fn calling(&self, lane: Lane) -> i64 {
        self.rows.values().filter(|row| row.lane == lane && row.is_calling()).count() as i64
    }

    /// Calls running over all tenants of a model, as rows.
    pub fn calling_model(&self, model: ModelId) -> i64 {
        self.rows.values().filter(|row| row.lane.model == model && row.is_calling()).count() as i64
    }

    /// Calls running over all models of a tenant, as rows.
    pub fn calling_tenant(&self, tenant: TenantId) -> i64 {
        self.rows.values().filter(|row| row.lane.tenant == tenant && row.is_calling()).count() as i64
    }

    /// Tasks queued or running.
    pub fn live(&self, lane: Lane) -> i64 {
        self.rows.values().filter(|row| row.lane == lane && !row.state.is_final()).count() as i64
    }

    /// Inserts a task whose transaction began at `began`.
    pub fn enqueue(&mut self, task: &NewTask, began: Micros) -> Enqueued {
        let lane = task.lane;
        let Some(registered) = self.models.get(&lane.model) else { return Enqueued::ModelGone };
        let entrance = self.entrances.get(&lane).copied().unwrap_or_default();
        let spec = &registered.model.spec;
        let gate = Gate {
            enabled: spec.enabled,
            deleted: registered.deleted,
            limit: spec.queue_limit,
            entered: entrance.entered,
            counted_entered: entrance.counted_entered,
            counted_live: entrance.counted_live,
            changed: false,
        };
        let mut gates = Gates::from([(lane, gate)]);
        let tasks = std::slice::from_ref(task);
        for lane in admission::crowded(&gates, &admission::lanes_of(tasks)) {
            let live = self.live(lane);
            gates.get_mut(&lane).unwrap().recounted(live);
        }
        if self.flaw == Some(Flaw::QueueWithoutLimit) {
            gates.get_mut(&lane).unwrap().limit = 0;
        }
        let verdict = admission::admit(&mut gates, tasks).remove(0);
        let gate = &gates[&lane];
        let Gate { entered, counted_entered, counted_live, .. } = *gate;
        self.entrances.insert(lane, Entrance { entered, counted_entered, counted_live });
        if verdict == Enqueued::Accepted {
            let row = Row {
                key: task.key,
                lane,
                creator: task.creator.clone(),
                model_name: task.model_name.clone(),
                state: State::Queued,
                phase: Phase::Model,
                attempt: Attempt::NONE,
                owner: None,
                retry_count: 0,
                lost_attempts: 0,
                error_msg: String::new(),
                tmp_file: String::new(),
                oss_key: String::new(),
                created_at: began,
                updated_at: began,
                enqueue_at: began,
                due_at: None,
                deadline_at: None,
                finished_at: None,
                expire_at: None,
            };
            self.write(task.key, Some(row));
        }
        verdict
    }

    /// `busy`: lanes that somebody else has locked.
    pub fn claim(&mut self, node: NodeId, wants: &[Want], busy: &HashSet<Lane>, now: Micros) -> Claim {
        let sight = self.look(wants, busy);
        let mut plan = Plan::new(wants, &sight);
        let mut round = plan.round();
        while !round.is_empty() {
            let tasks = round.iter().flat_map(|quota| self.take(node, quota, now)).collect();
            plan.took(&round, tasks);
            round = plan.round();
        }
        plan.claim(&sight)
    }

    fn look(&self, wants: &[Want], busy: &HashSet<Lane>) -> Sight {
        let lanes: BTreeSet<Lane> = wants.iter().map(|want| want.lane).collect();
        let open: HashMap<ModelId, Arc<Model>> = lanes
            .iter()
            .filter_map(|lane| self.models.get(&lane.model))
            .filter(|registered| !registered.deleted && registered.model.spec.enabled)
            .map(|registered| (registered.model.id, registered.model.clone()))
            .collect();
        let blind = self.flaw == Some(Flaw::ClaimWithoutCount);
        let count = |count: i64| if blind { 0 } else { count };
        let locked = lanes.into_iter().filter(|lane| !busy.contains(lane));
        let total = open.keys().map(|id| (*id, count(self.calling_model(*id)))).collect();
        let room = |(tenant, cap): (&TenantId, &i64)| (*tenant, Some(cap - count(self.calling_tenant(*tenant))));
        let capped = self.caps.iter().map(room).collect();
        Sight { running: locked.map(|lane| (lane, count(self.calling(lane)))).collect(), total, open, capped }
    }

    fn take(&mut self, node: NodeId, quota: &Quota, now: Micros) -> Vec<Running> {
        let since = quota.since.map_or(Micros::MIN, |since| since.timestamp_micros());
        let mut found: Vec<(Micros, TaskId, TaskKey)> = self
            .rows
            .values()
            .filter(|row| row.lane == quota.lane && row.is_claimable() && row.enqueue_at >= since)
            .map(|row| (row.enqueue_at, row.key.id, row.key))
            .collect();
        found.sort_unstable_by_key(|&(at, id, _)| (at, id));
        found.truncate(usize::try_from(quota.most).unwrap_or(0));
        let step = i32::from(self.flaw != Some(Flaw::ClaimWithoutFence));
        let mut tasks = Vec::new();
        for (.., key) in found {
            let mut row = self.rows[&place(key)].clone();
            row.state = CLAIM.to;
            row.phase = Phase::Model;
            row.attempt = Attempt(row.attempt.0 + step);
            row.owner = Some(node);
            row.updated_at = now;
            row.deadline_at = Some(now + (i64::from(quota.timeout_seconds) + CLAIM_GRACE_SECONDS) * SECOND);
            tasks.push(row.running());
            self.write(key, Some(row));
        }
        tasks
    }

    pub fn apply(&mut self, transition: &Transition, now: Micros) -> Applied {
        let outcome = self.apply_one(transition, now);
        for tally in tally::tallies(std::slice::from_ref(transition), &[outcome]).into_values() {
            self.counted.0 += tally.successes;
            self.counted.1 += tally.failures;
        }
        outcome.into()
    }

    fn apply_one(&mut self, transition: &Transition, now: Micros) -> Outcome {
        let change = transition.row();
        let Some(row) = self.rows.get(&place(change.key)) else { return Outcome::Stale };
        let error_msg = change.error_msg.map_or_else(|| row.error_msg.clone(), tally::storable);
        let same = row.phase == change.phase && row.tmp_file == change.tmp_file && row.error_msg == error_msg;
        let attempt = row.attempt == change.attempt || self.flaw == Some(Flaw::GuardWithoutAttempt);
        let state = row.state == change.from || self.flaw == Some(Flaw::GuardWithoutState);
        let again = transition.call().is_some() && change.state == change.from && same;
        let anybodys = matches!(self.flaw, Some(Flaw::GuardWithoutAttempt | Flaw::GuardWithoutOwner));
        let owner = anybodys || change.owner.is_none_or(|owner| row.owner == Some(owner));
        if state && attempt && owner && !again {
            let mut row = row.clone();
            let rest = change.delay.map(|delay| delay.as_micros() as Micros);
            row.state = change.state;
            row.phase = change.phase;
            change.tmp_file.clone_into(&mut row.tmp_file);
            row.error_msg = error_msg;
            if let Some(stored) = change.stored {
                stored.oss_key.clone_into(&mut row.oss_key);
            }
            row.retry_count += change.retries;
            row.lost_attempts += change.lost;
            row.due_at = rest.map(|rest| now + rest);
            match change.place {
                Place::Kept => {}
                Place::Head => row.enqueue_at = row.created_at,
                Place::Tail => row.enqueue_at = now + rest.unwrap_or_default(),
            }
            let running = change.state == State::Running;
            row.owner = row.owner.filter(|_| running);
            row.deadline_at = running.then_some(now + UPLOAD_DEADLINE_SECONDS * SECOND);
            row.finished_at = change.state.is_final().then_some(now);
            row.expire_at = (change.state == State::Failed).then(|| now + self.auto_clean(row.lane.model));
            row.updated_at = now;
            self.write(change.key, Some(row));
            if let Some(ended) = transition.ended() {
                let entry = (ended.ending, ended.node, tally::storable(ended.error));
                self.ledger.entry((place(ended.key), ended.attempt)).or_insert(entry);
            }
            return Outcome::Done;
        }
        let reached = row.state == change.state || (change.state == PICK_UP.from && row.state == PICK_UP.to);
        let stored = change.stored.is_none_or(|stored| stored.oss_key == row.oss_key);
        if row.attempt == change.attempt && reached && same && stored { Outcome::Repeated } else { Outcome::Stale }
    }

    fn auto_clean(&self, model: ModelId) -> Micros {
        let seconds = self.models.get(&model).map(|registered| registered.model.spec.auto_clean_seconds);
        seconds.map_or(AUTO_CLEAN_SECONDS, i64::from) * SECOND
    }

    pub fn adopt(
        &mut self,
        node: NodeId,
        key: TaskKey,
        attempt: Attempt,
        tmp_file: &str,
        now: Micros,
    ) -> Option<Adopted> {
        let mut row = self.rows.get(&place(key))?.clone();
        let current = row.attempt == attempt || self.flaw == Some(Flaw::AdoptWithoutAttempt);
        if !current || row.state.is_final() {
            return None;
        }
        let model = self.models.get(&row.lane.model)?.model.clone();
        let call_uncounted = row.state == State::Running && row.phase == Phase::Model;
        if row.state == State::Queued {
            self.ledger.remove(&(place(key), attempt));
        }
        row.state = CLAIM.to;
        row.phase = if call_uncounted { Phase::Model } else { Phase::Upload };
        row.owner = Some(node);
        tmp_file.clone_into(&mut row.tmp_file);
        row.due_at = None;
        row.updated_at = now;
        row.deadline_at = Some(now + UPLOAD_DEADLINE_SECONDS * SECOND);
        let task = row.running();
        self.write(key, Some(row));
        Some(Adopted { task, model, call_uncounted })
    }

    pub fn pick_up(&mut self, keys: &[TaskKey], now: Micros) -> Vec<PickedUp> {
        let mut picked = Vec::new();
        for &key in keys {
            let Some(row) = self.rows.get(&place(key)) else { continue };
            picked.push(PickedUp { key, state: row.state, oss_key: row.oss_key.clone() });
            if row.state == PICK_UP.from {
                let mut row = row.clone();
                row.state = PICK_UP.to;
                row.updated_at = now;
                row.expire_at = Some(now + self.auto_clean(row.lane.model));
                self.write(key, Some(row));
            }
        }
        picked
    }

    pub fn lanes_with_work(&self) -> Vec<Lane> {
        let lanes: BTreeSet<Lane> = self.rows.values().filter(|row| row.is_claimable()).map(|row| row.lane).collect();
        lanes.into_iter().collect()
    }

    pub fn promote_due(&mut self, most: usize, now: Micros) -> Vec<Lane> {
        let is_due = |row: &Row| row.state == State::Queued && row.due_at.is_some_and(|due| due <= now);
        let mut due: Vec<(Option<Micros>, TaskKey)> =
            self.rows.values().filter(|row| is_due(row)).map(|row| (row.due_at, row.key)).collect();
        due.sort_unstable_by_key(|&(at, key)| (at, place(key)));
        due.truncate(most);
        let mut lanes = Vec::new();
        for (_, key) in due {
            let mut row = self.rows[&place(key)].clone();
            row.due_at = None;
            row.updated_at = now;
            lanes.push(row.lane);
            self.write(key, Some(row));
        }
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    pub fn abandoned(&self, now: Micros) -> Vec<Abandoned> {
        // An embedded database declares nothing dead by its own clock.
        let overdue = if self.is_embedded { Micros::MIN } else { now - OVERDUE_SECONDS * SECOND };
        let is_dead = |owner: Option<NodeId>| owner.is_none_or(|owner| !self.nodes.contains_key(&owner));
        let is_abandoned =
            |row: &&Row| is_dead(row.owner) || row.deadline_at.is_some_and(|deadline| deadline < overdue);
        let running = self.rows.values().filter(|row| row.state == State::Running);
        running.filter(is_abandoned).map(Row::abandoned).collect()
    }

    pub fn held_by(&self, node: NodeId) -> Vec<Abandoned> {
        let held = self.rows.values().filter(|row| row.state == State::Running && row.owner == Some(node));
        held.map(Row::abandoned).collect()
    }

    pub fn queued_longer_than(&self, age: Duration, now: Micros) -> Vec<Waiting> {
        let before = now - age.as_micros() as Micros;
        let is_late = |row: &&Row| row.is_claimable() && row.enqueue_at < before && row.updated_at < before;
        self.rows.values().filter(is_late).map(Row::waiting).collect()
    }

    pub fn queued_for_deleted_models(&self) -> Vec<Waiting> {
        let gone = |row: &&Row| row.state == State::Queued && self.models[&row.lane.model].deleted;
        self.rows.values().filter(gone).map(Row::waiting).collect()
    }

    /// Object keys of what was purged.
    pub fn purge(&mut self, unclaimed: Duration, now: Micros) -> Vec<(TaskKey, String)> {
        let early = if self.flaw == Some(Flaw::PurgeTooEarly) { 10 * SECOND } else { 0 };
        let before = now - unclaimed.as_micros() as Micros;
        let is_due = |row: &&Row| match row.state {
            State::Queued | State::Running => false,
            State::Succeeded => row.finished_at.is_some_and(|at| at <= before),
            State::Failed | State::PickedUp | State::Cancelled => row.expire_at.is_some_and(|at| at <= now + early),
        };
        let due: Vec<(TaskKey, String)> =
            self.rows.values().filter(is_due).map(|row| (row.key, row.oss_key.clone())).collect();
        for (key, _) in &due {
            self.write(*key, None);
            self.ledger.retain(|(task, _), _| *task != place(*key));
        }
        due
    }

    pub fn register(&mut self, node: NodeId, lease: Duration, now: Micros) {
        self.nodes.insert(node, now + lease.as_micros() as Micros);
    }

    pub fn renew(&mut self, node: NodeId, lease: Duration, now: Micros) -> bool {
        let until = self.nodes.get_mut(&node);
        until.map(|until| *until = now + lease.as_micros() as Micros).is_some()
    }

    /// True where the watch has been held for a lease without a break.
    pub fn hold_watch(&mut self, watcher: NodeId, lease: Duration, anew: bool, now: Micros) -> bool {
        let length = lease.as_micros() as Micros;
        let fresh = now + length * 2 / 3;
        let held = self.watch.get(&watcher).filter(|(_, held_until)| !anew && *held_until >= fresh);
        let since = held.map_or(now, |(since, _)| *since);
        self.watch.insert(watcher, (since, now + length));
        since <= now - length
    }

    pub fn watchers(&self) -> Vec<NodeId> {
        let mut watchers: Vec<NodeId> = self.watch.keys().copied().collect();
        watchers.sort_unstable_by_key(|watcher| watcher.0);
        watchers
    }

    pub fn bury(&mut self, watcher: NodeId, lease: Duration, now: Micros) -> Vec<NodeId> {
        let length = lease.as_micros() as Micros;
        let held = self.watch.get(&watcher);
        let may = held.is_some_and(|(since, until)| *since <= now - length && *until > now + length * 2 / 3);
        if !may && self.flaw != Some(Flaw::BuriedWithoutWatch) {
            return Vec::new();
        }
        self.watch.retain(|_, (_, held_until)| *held_until >= now);
        let mut dead: Vec<NodeId> =
            self.nodes.iter().filter(|(_, until)| **until < now).map(|(node, _)| *node).collect();
        dead.sort_unstable_by_key(|node| node.0);
        for node in &dead {
            self.nodes.remove(node);
        }
        self.buried.extend(dead.iter().map(|&node| Buried { node, watcher }));
        dead
    }

    fn write(&mut self, key: TaskKey, after: Option<Row>) {
        let before = match after.clone() {
            Some(row) => self.rows.insert(place(key), row),
            None => self.rows.remove(&place(key)),
        };
        self.written.push(Written { before, after });
    }
}
