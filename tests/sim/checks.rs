//! What must be true at every step, seen from outside: from the rows as they are written, the calls
//! as models get them, and the objects as they lie in storage.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use model_asynch::task::{
    Attempt, Lane, NodeId, TaskKey,
    lifecycle::{Phase, State},
};

use crate::{
    process::{Process, short},
    runtime::{Micros, ProcessId},
    table::{Buried, PickedUp, Row, Written},
    world::{Call, Sim, name},
};

const SECOND: Micros = 1_000_000;

/// How long a task may be left alone while nothing is in its way: a scan, a poll, and some.
const IDLE: Micros = 25 * SECOND;

/// What the checks remember.
#[derive(Default)]
pub struct Checks {
    /// The first thing that is wrong.
    pub violation: Option<String>,
    /// Tasks whose creation was confirmed.
    pub promised: Vec<TaskKey>,
    /// Who is or was a node.
    pub owners: HashMap<NodeId, ProcessId>,
    /// Whose each watch is or was.
    pub watchers: HashMap<NodeId, ProcessId>,
    /// Nodes whose calls may go on after they were declared dead, as the watch says of itself.
    beyond_the_watch: HashSet<NodeId>,
    accepted: HashMap<Lane, i64>,
    purged: HashMap<Lane, i64>,
    tasks: BTreeMap<(i64, uuid::Uuid), Known>,
    claims: i64,
    /// Since when each task is left alone.
    alone: HashMap<(i64, uuid::Uuid), Micros>,
    pub counts: Counts,
}

/// What a run saw, to know that the seeds reach what they should.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub tasks: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub lost: i64,
    pub retries: i64,
    pub adopted: i64,
    /// Leases that outlived the database by the watchers' word.
    pub borrowed: i64,
    pub stale_calls: i64,
    pub steps: u64,
}

#[derive(Default)]
struct Known {
    attempt: i32,
    ends: u32,
    purged: bool,
    /// What a caller was told the result is.
    told: Option<String>,
}

fn id(key: TaskKey) -> (i64, uuid::Uuid) {
    (key.tenant.0, key.id.0)
}

impl Checks {
    fn wrong(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// After each step: what was written is looked at.
    pub fn after_step(&mut self, sim: &Sim) {
        let (written, buried) = {
            let mut table = sim.table.borrow_mut();
            if table.written.is_empty() && table.buried.is_empty() {
                return;
            }
            (std::mem::take(&mut table.written), std::mem::take(&mut table.buried))
        };
        let claimed: Vec<Lane> = written.iter().filter_map(|written| self.look(sim, written)).collect();
        for lane in claimed {
            self.limits(sim, lane);
        }
        for burial in buried {
            self.buried(sim, &burial);
        }
    }

    /// One row as it was and as it is; the lane, where it was claimed.
    fn look(&mut self, sim: &Sim, Written { before, after }: &Written) -> Option<Lane> {
        match (before, after) {
            (None, Some(row)) => self.entered(sim, row),
            (Some(row), None) => self.purged(sim, row),
            (Some(before), Some(after)) => return self.changed(sim, before, after),
            (None, None) => {}
        }
        None
    }

    fn entered(&mut self, sim: &Sim, row: &Row) {
        *self.accepted.entry(row.lane).or_default() += 1;
        self.counts.tasks += 1;
        let table = sim.table.borrow();
        let limit = i64::from(table.models[&row.lane.model].model.spec.queue_limit);
        if limit > 0 && table.live(row.lane) > limit {
            self.wrong(format!("lane {} has more live tasks than queueLimit {limit}", row.lane));
        }
        if self.tasks.insert(id(row.key), Known::default()).is_some() {
            self.wrong(format!("{} entered twice", name(row.key)));
        }
    }

    fn purged(&mut self, sim: &Sim, row: &Row) {
        *self.purged.entry(row.lane).or_default() += 1;
        let now = sim.rt.now();
        let due = match row.state {
            State::Queued | State::Running => false,
            State::Succeeded => {
                row.finished_at.is_some_and(|at| at + sim.settings.unclaimed.as_micros() as Micros <= now)
            }
            State::Failed | State::PickedUp | State::Cancelled => row.expire_at.is_some_and(|at| at <= now),
        };
        if !due {
            self.wrong(format!("{} was purged in state {:?} before its time", name(row.key), row.state));
        }
        self.tasks.entry(id(row.key)).or_default().purged = true;
    }

    fn changed(&mut self, sim: &Sim, before: &Row, after: &Row) -> Option<Lane> {
        sim.rt.note(|| {
            let Row { state, phase, attempt, owner, retry_count, lost_attempts, .. } = after;
            let owner = owner.map(short).unwrap_or_default();
            format!(
                "{}: {:?} → {state:?}/{phase:?} attempt {attempt} retries {retry_count} lost {lost_attempts} {owner}",
                name(after.key),
                before.state
            )
        });
        let key = after.key;
        let claim = before.state == State::Queued && after.state == State::Running && after.phase == Phase::Model;
        let allowed = matches!(
            (before.state, after.state),
            (State::Queued, State::Queued | State::Running | State::Failed)
                | (State::Running, State::Queued | State::Running | State::Succeeded | State::Failed)
                | (State::Succeeded, State::PickedUp)
        );
        if !allowed {
            self.wrong(format!("{} went from {:?} to {:?}", name(key), before.state, after.state));
        }
        let expected = Attempt(before.attempt.0 + i32::from(claim));
        if after.attempt != expected {
            self.wrong(format!("{} has attempt {} and not {expected}", name(key), after.attempt));
        }
        let known = self.tasks.entry(id(key)).or_default();
        if claim {
            if after.attempt.0 <= known.attempt {
                let attempt = after.attempt;
                self.wrong(format!("{} was claimed again under attempt {attempt}: the fence stands still", name(key)));
                return None;
            }
            known.attempt = after.attempt.0;
            self.claims += 1;
        }
        if after.state.is_final() && !before.state.is_final() {
            known.ends += 1;
            if known.ends > 1 {
                self.wrong(format!("{} ended twice", name(key)));
            }
        }
        self.tries(sim, before, after);
        if after.state == State::Succeeded && before.state != State::Succeeded {
            self.result(sim, after);
        }
        claim.then_some(after.lane)
    }

    fn tries(&mut self, sim: &Sim, before: &Row, after: &Row) {
        let (retried, lost) = (after.retry_count - before.retry_count, after.lost_attempts - before.lost_attempts);
        if retried > 0 && lost > 0 {
            self.wrong(format!("{} lost its attempt and a retry, too", name(after.key)));
        }
        let times = sim.table.borrow().models[&after.lane.model].model.spec.retry_times;
        if after.retry_count > times {
            self.wrong(format!("{} was tried again more than {times} times", name(after.key)));
        }
        if after.lost_attempts > sim.settings.max_lost {
            self.wrong(format!("{} lost more than {} attempts", name(after.key), sim.settings.max_lost));
        }
        self.counts.retries += i64::from(retried);
        self.counts.lost += i64::from(lost);
        self.counts.failed += i64::from(after.state == State::Failed);
        self.counts.succeeded += i64::from(after.state == State::Succeeded && before.state != State::Succeeded);
        let adopted = after.state == State::Running && before.owner != after.owner && !after.tmp_file.is_empty();
        self.counts.adopted += i64::from(adopted);
    }

    /// A referenced result exists, and is the one of the attempt that finished.
    fn result(&mut self, sim: &Sim, row: &Row) {
        let objects = sim.objects.borrow();
        match objects.get(&row.oss_key) {
            None => self.wrong(format!("{} succeeded and its object is missing", name(row.key))),
            Some(object) if object.key != row.key || object.attempt != row.attempt => {
                let (key, attempt) = (name(object.key), object.attempt);
                self.wrong(format!("the object of {} is of {key} attempt {attempt}", name(row.key)));
            }
            Some(_) => {}
        }
    }

    pub fn object_deleted(&mut self, sim: &Sim, object: &str) {
        let table = sim.table.borrow();
        let refers = |row: &&Row| matches!(row.state, State::Succeeded | State::PickedUp) && row.oss_key == object;
        if let Some(row) = table.rows.values().find(refers) {
            self.wrong(format!("the object of {} was deleted while its row refers to it", name(row.key)));
        }
    }

    /// A claim keeps within the limits.
    fn limits(&mut self, sim: &Sim, lane: Lane) {
        let table = sim.table.borrow();
        let spec = &table.models[&lane.model].model.spec;
        let (calling, limit) = (table.calling(lane), i64::from(spec.max_concurrency));
        if calling > limit {
            self.wrong(format!("{calling} calls run in lane {lane}, whose maxConcurrency is {limit}"));
        }
        let (calling, limit) = (table.calling_model(lane.model), i64::from(spec.total_concurrency));
        if limit > 0 && calling > limit {
            self.wrong(format!("{calling} calls of model {} run, whose totalConcurrency is {limit}", lane.model));
        }
        let calling = table.calling_tenant(lane.tenant);
        if let Some(cap) = table.caps.get(&lane.tenant).filter(|cap| calling > **cap) {
            self.wrong(format!("{calling} calls of tenant {} run, whose maxConcurrency is {cap}", lane.tenant));
        }
    }

    /// Nobody is declared dead for what the database did, and whoever is calls no model any more.
    fn buried(&mut self, sim: &Sim, burial: &Buried) {
        let Buried { node, watcher } = *burial;
        let now = sim.rt.now();
        let since = now - sim.settings.lease.as_micros() as Micros - SECOND;
        let Some(process) = self.process_of(sim, node) else { return };
        let excused = process.node.get() != Some(node)
            || process.gone.get()
            || sim.rt.is_paused(process.id)
            || process.resumed.get() > since
            || process.hurt.get() > since;
        if !excused {
            self.wrong(format!("{}, which is alive and connected, was declared dead", short(node)));
        }
        if self.is_beyond_the_watch(sim, &process, watcher, since) {
            self.beyond_the_watch.insert(node);
        }
        let calls = sim.calls.borrow();
        if let Some(call) = calls.values().find(|call| call.node == node && !self.may_go_on(sim, call)) {
            let (node, task) = (short(node), name(call.key));
            self.wrong(format!("{node} was declared dead while it was calling {task}"));
        }
    }

    fn process_of(&self, sim: &Sim, node: NodeId) -> Option<Rc<Process>> {
        self.owners.get(&node).and_then(|owner| sim.processes.borrow().get(owner).cloned())
    }

    /// What the watch says that it cannot know of: a watcher that came after the node lost the
    /// database, and that Redis does not hear.
    fn is_beyond_the_watch(&self, sim: &Sim, process: &Process, watcher: NodeId, since: Micros) -> bool {
        let stranger = !process.watched_by.borrow().contains(&watcher);
        let burier = self.watchers.get(&watcher).and_then(|id| sim.processes.borrow().get(id).cloned());
        stranger && burier.is_none_or(|burier| burier.unheard.get() > since)
    }

    /// A paused process stops its calls when it goes on, and nobody can make it do so before.
    fn may_go_on(&self, sim: &Sim, call: &Call) -> bool {
        let resumed = sim.processes.borrow().get(&call.process).map(|process| process.resumed.get());
        sim.rt.is_paused(call.process)
            || resumed.is_none_or(|at| at + 2 * SECOND > sim.rt.now())
            || self.beyond_the_watch.contains(&call.node)
    }

    /// No two processes have the model called for one task.
    pub fn call_begins(&mut self, sim: &Sim, call: &Call) {
        let table = sim.table.borrow();
        let is_live = |node: &NodeId| table.nodes.get(node).is_some_and(|until| *until >= sim.rt.now());
        self.counts.stale_calls += i64::from(!is_live(&call.node));
        let calls = sim.calls.borrow();
        let both_live = |other: &Call| is_live(&call.node) && is_live(&other.node);
        let rival = |other: &&Call| {
            other.key == call.key && (both_live(other) || !(self.may_go_on(sim, other) || self.may_go_on(sim, call)))
        };
        if let Some(other) = calls.values().find(rival) {
            let (this, other) = (short(call.node), short(other.node));
            self.wrong(format!("{} is being called by {other} and by {this}", name(call.key)));
        }
    }

    pub fn picked_up(&mut self, picked: &[PickedUp]) {
        for task in picked.iter().filter(|task| matches!(task.state, State::Succeeded | State::PickedUp)) {
            let known = self.tasks.entry(id(task.key)).or_default();
            let told = known.told.get_or_insert_with(|| task.oss_key.clone());
            if *told != task.oss_key {
                self.wrong(format!("{} was handed out with two results", name(task.key)));
            }
        }
    }

    /// Every second.
    pub fn tick(&mut self, sim: &Sim) {
        let now = sim.rt.now();
        self.fenced(sim);
        self.conservation(sim);
        let calm_since = sim.disturbed.get();
        self.idle(sim, now, calm_since);
    }

    /// A process that runs makes no calls for a node that was declared dead.
    fn fenced(&mut self, sim: &Sim) {
        let (table, calls) = (sim.table.borrow(), sim.calls.borrow());
        let is_wrong = |call: &&Call| !table.nodes.contains_key(&call.node) && !self.may_go_on(sim, call);
        if let Some(call) = calls.values().find(is_wrong) {
            self.wrong(format!("{} goes on calling {} after its death", short(call.node), name(call.key)));
        }
    }

    /// Nothing lost, nothing invented.
    pub fn conservation(&mut self, sim: &Sim) {
        let table = sim.table.borrow();
        let mut there: HashMap<Lane, i64> = HashMap::new();
        for row in table.rows.values() {
            *there.entry(row.lane).or_default() += 1;
        }
        for (lane, accepted) in &self.accepted {
            let purged = self.purged.get(lane).copied().unwrap_or_default();
            let there = there.get(lane).copied().unwrap_or_default();
            if *accepted != purged + there {
                let what = format!("lane {lane}: {accepted} accepted, {there} there, {purged} purged");
                self.violation.get_or_insert(what);
            }
        }
        let lost = |key: &&TaskKey| {
            let purged = self.tasks.get(&id(**key)).is_some_and(|known| known.purged);
            !purged && table.row(**key).is_none()
        };
        if let Some(key) = self.promised.iter().find(lost) {
            self.violation.get_or_insert(format!("{} was accepted and is lost", name(*key)));
        }
        let (successes, failures) = table.counted;
        if successes + failures > self.claims {
            let (all, claims) = (successes + failures, self.claims);
            self.violation.get_or_insert(format!("{all} calls were counted for {claims} claims"));
        }
        // An attempt that counts as lost and is adopted all the same was counted with its loss.
        let (succeeded, retried) = (self.counts.succeeded, self.counts.retries);
        if successes + failures < succeeded + retried {
            let all = successes + failures;
            let what = format!("{all} calls were counted, {succeeded} tasks succeeded after {retried} retries");
            self.violation.get_or_insert(what);
        }
    }

    /// No task is left alone for long where nothing is in its way.
    fn idle(&mut self, sim: &Sim, now: Micros, calm_since: Micros) {
        let table = sim.table.borrow();
        let mut alone = HashMap::new();
        for row in table.rows.values() {
            if !self.is_left_alone(sim, &table, row, now) {
                continue;
            }
            let since = self.alone.get(&id(row.key)).copied().unwrap_or(now).max(calm_since);
            alone.insert(id(row.key), since);
            if now - since > IDLE {
                let seconds = (now - since) / SECOND;
                let what = match row.state {
                    State::Running => "runs, but nobody works on it",
                    _ => "waits, though there is room for it",
                };
                self.violation.get_or_insert(format!("{} {what} for {seconds} s", name(row.key)));
            }
        }
        self.alone = alone;
    }

    fn is_left_alone(&self, sim: &Sim, table: &crate::table::Table, row: &Row, now: Micros) -> bool {
        let processes = sim.processes.borrow();
        if row.state == State::Running {
            let owner = row.owner.and_then(|node| self.owners.get(&node)).and_then(|id| processes.get(id));
            return match owner {
                Some(process) if process.node.get() == row.owner => !process.works_on(row.key, row.attempt),
                // Its lease has to run out first, and somebody has to have watched for a whole one.
                Some(_) | None => {
                    let lease = sim.settings.lease.as_micros() as Micros;
                    let database_back = sim.trouble.borrow().database_back;
                    let watched = |process: &&Rc<Process>| {
                        let began = process.started.max(process.resumed.get());
                        let well_since = began.max(process.hurt.get()).max(database_back);
                        process.node.get().is_some() && now - well_since > 2 * lease
                    };
                    row.owner.is_none_or(|node| !table.nodes.contains_key(&node))
                        && row.updated_at + IDLE < now
                        && processes.values().any(|process| watched(&process))
                }
            };
        }
        if row.state != State::Queued {
            return false;
        }
        if let Some(due) = row.due_at {
            return due < now;
        }
        let registered = &table.models[&row.lane.model];
        if registered.deleted || !registered.model.spec.enabled {
            return registered.deleted;
        }
        let spec = &registered.model.spec;
        let (max, total) = (spec.max_concurrency, spec.total_concurrency);
        let redis = sim.redis_sets.borrow();
        let lane_full = table.calling(row.lane).max(redis.out(row.lane, now) as i64) >= i64::from(max);
        let out = table.calling_model(row.lane.model).max(redis.out_total(row.lane.model, now) as i64);
        let model_full = total > 0 && out >= i64::from(total);
        let out = table.calling_tenant(row.lane.tenant).max(redis.out_cap(row.lane.tenant, now) as i64);
        let tenant_full = table.caps.get(&row.lane.tenant).is_some_and(|cap| out >= *cap);
        let someone = processes.values().any(|process| process.node.get().is_some() && process.free() > 0);
        !lane_full && !model_full && !tenant_full && someone
    }

    /// Tasks that have not ended.
    pub fn unfinished(&self, sim: &Sim) -> Vec<TaskKey> {
        let table = sim.table.borrow();
        table.rows.values().filter(|row| !row.state.is_final()).map(|row| row.key).collect()
    }
}
