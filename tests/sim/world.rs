//! Everything around the processes: the network, the database, Redis, storage, disks, models and
//! callers. A request that is under way is the network's: it arrives, or does not, whatever becomes
//! of the process that sent it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Deref,
    rc::Rc,
    time::Duration,
};

use model_asynch::{
    model::{Model, ModelPatch, ModelSpec},
    store::tasks::{Enqueued, Want},
    task::{
        CallerHeaders, Failure, FailureKind, Lane, ModelId, NodeId, Running, TaskId, TaskKey, TenantId,
        submission::NewTask,
    },
    wake::WakeUp,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    checks::Checks,
    faults::{Fault, SCENES},
    flaw::Flaw,
    gate::Redis,
    process::Process,
    run::Parked,
    runtime::{Micros, ProcessId, Runtime, WORLD},
    table::{Registered, Table},
};

/// A handle to the world; cheap to clone.
#[derive(Clone)]
pub struct Sim(Rc<World>);

impl Deref for Sim {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

pub struct World {
    pub rt: Runtime,
    pub settings: Settings,
    /// The only faults there are, in some seeds.
    pub scene: Option<&'static [Fault]>,
    pub flaw: Option<Flaw>,
    pub table: RefCell<Table>,
    pub redis_sets: RefCell<Redis>,
    /// Object key → what lies there.
    pub objects: RefCell<BTreeMap<String, Parked>>,
    /// Parked results on all disks.
    pub files: RefCell<Vec<Parked>>,
    pub processes: RefCell<BTreeMap<ProcessId, Rc<Process>>>,
    pub calls: RefCell<BTreeMap<u64, Call>>,
    pub trouble: RefCell<Trouble>,
    pub checks: RefCell<Checks>,
    /// Who is to be killed some steps from now.
    pub armed: RefCell<Vec<ProcessId>>,
    /// When a fault last touched anything.
    pub disturbed: Cell<Micros>,
    pub done: Cell<bool>,
    next_process: Cell<ProcessId>,
    next_disk: Cell<u32>,
    next_call: Cell<u64>,
}

/// What a seed decides once.
#[derive(Debug, Clone)]
pub struct Settings {
    pub lease: Duration,
    pub cleaner_interval: Duration,
    pub poll: Duration,
    pub grace: Duration,
    pub max_lost: i32,
    pub queue_timeout: Option<Duration>,
    pub unclaimed: Duration,
    pub upload_for: Duration,
    pub lanes: Vec<Lane>,
    pub tasks: usize,
    pub processes: u32,
    pub chaos_for: Duration,
    /// How models behave, in the order of their numbers.
    pub behaviours: Vec<Behaviour>,
}

#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    pub fails: f64,
    pub hangs: f64,
    pub longest: Duration,
}

/// What is wrong at the moment.
#[derive(Debug, Default)]
pub struct Trouble {
    pub database_down: u32,
    /// When it was put right last.
    pub database_back: Micros,
    pub redis_down: u32,
    pub storage_down: u32,
    pub models_down: u32,
    pub bus_down: u32,
    pub full_disks: BTreeSet<u32>,
    pub cut_from_database: BTreeSet<ProcessId>,
    pub cut_from_redis: BTreeSet<ProcessId>,
    /// Probability that a message gets lost or late.
    pub flaky: f64,
    pub episodes: u32,
}

/// A call that a model is answering.
#[derive(Debug, Clone)]
pub struct Call {
    pub key: TaskKey,
    pub node: NodeId,
    pub process: ProcessId,
}

/// Why a request got no answer. What it asked for may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    OutOfReach,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutError {
    FileGone,
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Database,
    Redis,
    Storage,
}

struct CallGuard {
    sim: Sim,
    id: u64,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.sim.calls.borrow_mut().remove(&self.id);
    }
}

const MS: Duration = Duration::from_millis(1);

/// How long the product waits for the database before it gives a request up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much later than that a request may still be carried out: as long as Postgres lets a
/// transaction stand idle.
const LATENESS: Duration = Duration::from_secs(10);

impl Settings {
    /// Several processes under a short lease, whose calls take longer than that: most of what can go
    /// wrong between processes goes wrong there.
    fn crowded(self, rt: &Runtime) -> Settings {
        let behaviours = self.behaviours.iter().map(|_| Behaviour { fails: 0.0, hangs: 0.0, longest: 40_000 * MS });
        let (lease, processes) = (Duration::from_secs(6), rt.rng().u32(2..5));
        Settings { lease, processes, behaviours: behaviours.collect(), cleaner_interval: 1000 * MS, ..self }
    }

    fn roll(rt: &Runtime) -> Settings {
        let mut rng = rt.rng();
        let models = rng.i64(1..4);
        let tenants = rng.i64(1..4);
        let mut lanes = Vec::new();
        for model in 1..=models {
            for tenant in 1..=tenants {
                if lanes.is_empty() || rng.bool() {
                    lanes.push(Lane { model: ModelId(model), tenant: TenantId(tenant) });
                }
            }
        }
        let behaviour = |rng: &mut fastrand::Rng| Behaviour {
            fails: [0.0, 0.05, 0.3][rng.usize(..3)],
            hangs: [0.0, 0.0, 0.02][rng.usize(..3)],
            longest: Duration::from_millis([50, 5_000, 20_000, 40_000][rng.usize(..4)]),
        };
        let seconds = |rng: &mut fastrand::Rng, list: &[u64]| Duration::from_secs(list[rng.usize(..list.len())]);
        Settings {
            lease: seconds(&mut rng, &[6, 12, 30]),
            cleaner_interval: seconds(&mut rng, &[1, 3, 5]),
            poll: seconds(&mut rng, &[1, 3]),
            grace: seconds(&mut rng, &[0, 2, 25]),
            max_lost: rng.i32(1..4),
            queue_timeout: rng.bool().then(|| Duration::from_secs(40)),
            unclaimed: seconds(&mut rng, &[30, 100_000]),
            upload_for: seconds(&mut rng, &[20, 100_000]),
            lanes,
            tasks: rng.usize(5..45),
            processes: rng.u32(1..5),
            chaos_for: Duration::from_secs(rng.u64(30..100)),
            behaviours: (0..models).map(|_| behaviour(&mut rng)).collect(),
        }
    }
}

impl Sim {
    pub fn new(seed: u64, tracing: bool, flaw: Option<Flaw>) -> Sim {
        let rt = Runtime::new(seed, tracing);
        let mut settings = Settings::roll(&rt);
        let scene = match flaw.and_then(Flaw::shows_under) {
            Some(scene) => Some(scene),
            None => rt.chance(0.3).then(|| SCENES[rt.rng().usize(..SCENES.len())]),
        };
        if scene.is_some() {
            settings = settings.crowded(&rt);
        }
        let world = World {
            settings,
            scene,
            flaw,
            table: RefCell::new(Table::broken(flaw)),
            redis_sets: RefCell::default(),
            objects: RefCell::default(),
            files: RefCell::default(),
            processes: RefCell::default(),
            calls: RefCell::default(),
            trouble: RefCell::default(),
            checks: RefCell::default(),
            armed: RefCell::default(),
            disturbed: Cell::new(rt.now()),
            done: Cell::new(false),
            next_process: Cell::new(1),
            next_disk: Cell::new(1),
            next_call: Cell::new(1),
            rt,
        };
        let sim = Sim(Rc::new(world));
        sim.register_models();
        for _ in 0..sim.settings.processes {
            sim.start(sim.new_disk());
        }
        sim
    }

    fn register_models(&self) {
        for number in 1..=self.settings.behaviours.len() as i64 {
            let mut rng = self.rt.rng();
            let patch = ModelPatch {
                model_name: Some(format!("model-{number}")),
                base_url: Some("http://m".into()),
                max_concurrency: Some(rng.i64(1..5)),
                total_concurrency: Some(if rng.bool() { rng.i64(1..6) } else { 0 }),
                queue_limit: Some([0, 3, 10, 1000][rng.usize(..4)]),
                timeout_seconds: Some(rng.i64(1..30)),
                retry_times: Some(rng.i64(0..4)),
                retry_queue_max_seconds: Some([0, 10][rng.usize(..2)]),
                auto_clean_seconds: Some([5, 100_000][rng.usize(..2)]),
                ..ModelPatch::default()
            };
            let now = crate::table::stamp(self.rt.now());
            let model = Model {
                id: ModelId(number),
                tenant: TenantId(0),
                creator: String::new(),
                updater: String::new(),
                created_at: now,
                updated_at: now,
                spec: ModelSpec::create(&patch, TenantId(0)).unwrap(),
            };
            let registered = Registered { model: model.into(), deleted: false };
            self.table.borrow_mut().models.insert(ModelId(number), registered);
        }
        // A copy: a seed's faults are the same with and without this limit.
        let mut rng = self.rt.rng().clone();
        if rng.bool() {
            self.table.borrow_mut().caps.insert(TenantId(1), rng.i64(1..6));
        }
    }

    pub fn new_disk(&self) -> u32 {
        self.next_disk.replace(self.next_disk.get() + 1)
    }

    /// Starts a process on that disk.
    pub fn start(&self, disk: u32) {
        let id = self.next_process.replace(self.next_process.get() + 1);
        self.rt.note(|| format!("process {id} starts on disk {disk}"));
        let process = Rc::new(Process::new(self, id, disk));
        self.processes.borrow_mut().insert(id, process.clone());
        process.start(self);
    }

    /// Ends a process where it stands; its disk stays.
    pub fn kill(&self, id: ProcessId) {
        self.rt.note(|| format!("process {id} is killed"));
        self.disturb();
        self.rt.kill(id);
        self.processes.borrow_mut().remove(&id);
    }

    /// A process that ended in order.
    pub fn left(&self, process: &Process) {
        self.rt.note(|| format!("process {} has left", process.id));
        self.armed.borrow_mut().push(process.id);
    }

    pub fn disturb(&self) {
        self.disturbed.set(self.rt.now());
    }

    /// A request to the database; `None` = from the caller's side of the world.
    pub async fn db<T: 'static>(
        &self,
        from: Option<&Rc<Process>>,
        verb: impl FnOnce(&mut Table, Micros) -> T + 'static,
    ) -> Result<T, Away> {
        let execute = |world: &World| verb(&mut world.table.borrow_mut(), world.rt.now());
        self.request(Peer::Database, from, PATIENCE, execute).await
    }

    pub async fn redis<T: 'static>(
        &self,
        from: &Rc<Process>,
        verb: impl FnOnce(&mut Redis, Micros) -> T + 'static,
    ) -> Result<T, Away> {
        let execute = |world: &World| verb(&mut world.redis_sets.borrow_mut(), world.rt.now());
        self.request(Peer::Redis, Some(from), Duration::from_secs(1), execute).await
    }

    fn is_cut(&self, peer: Peer, from: Option<&Rc<Process>>) -> bool {
        let trouble = self.trouble.borrow();
        let is_in = |cut: &BTreeSet<ProcessId>| from.is_some_and(|process| cut.contains(&process.id));
        match peer {
            Peer::Database => trouble.database_down > 0 || is_in(&trouble.cut_from_database),
            Peer::Redis => trouble.redis_down > 0 || is_in(&trouble.cut_from_redis),
            Peer::Storage => trouble.storage_down > 0,
        }
    }

    /// Whether that disk takes nothing more.
    pub fn is_full(&self, disk: u32) -> bool {
        self.trouble.borrow().full_disks.contains(&disk)
    }

    fn is_down(&self, peer: Peer) -> bool {
        let trouble = self.trouble.borrow();
        peer == Peer::Database && trouble.database_down > 0
    }

    /// A fault has touched a request of that process.
    fn hurt(&self, peer: Peer, from: Option<&Rc<Process>>) {
        self.disturb();
        let Some(process) = from.filter(|_| !self.is_down(peer)) else { return };
        match peer {
            Peer::Redis => process.unheard.set(self.rt.now()),
            Peer::Database | Peer::Storage => process.hurt.set(self.rt.now()),
        }
    }

    async fn request<T: 'static>(
        &self,
        peer: Peer,
        from: Option<&Rc<Process>>,
        patience: Duration,
        execute: impl FnOnce(&World) -> T + 'static,
    ) -> Result<T, Away> {
        if self.is_cut(peer, from) {
            self.hurt(peer, from);
            let refused = self.rt.chance(0.5);
            self.rt
                .sleep(if refused { self.rt.between(MS, 20 * MS) } else { patience.min(5 * Duration::from_secs(1)) })
                .await;
            return Err(Away::OutOfReach);
        }
        let flaky = self.trouble.borrow().flaky;
        let (mut there, back) = (self.rt.between(MS / 5, 8 * MS), self.rt.between(MS / 5, 8 * MS));
        let (lost, deaf) = (self.rt.chance(flaky), self.rt.chance(flaky));
        // Slow, or so late that nobody waits for it any more.
        let late = self.rt.chance(flaky) || (peer == Peer::Database && self.rt.chance(flaky / 2.0));
        let patience =
            if late && self.rt.chance(0.3) { patience.min(self.rt.between(MS * 100, patience)) } else { patience };
        if late {
            there = self.rt.between(8 * MS, patience + LATENESS);
        }
        if lost || deaf || late {
            self.hurt(peer, from);
        }
        let (sender, answer) = oneshot::channel();
        let (sim, process) = (self.clone(), from.cloned());
        self.rt.spawn(WORLD, async move {
            sim.rt.sleep(there).await;
            if late {
                sim.hurt(peer, process.as_ref());
            }
            if lost || sim.is_cut(peer, process.as_ref()) {
                sim.hurt(peer, process.as_ref());
                return;
            }
            let done = execute(&sim);
            sim.rt.sleep(back).await;
            if deaf || sim.is_cut(peer, process.as_ref()) {
                sim.hurt(peer, process.as_ref());
                return;
            }
            sender.send(done).ok();
        });
        match self.rt.within(patience, answer).await {
            Some(Ok(done)) => Ok(done),
            Some(Err(_)) => Err(Away::Failed),
            None => {
                // Whoever waited for it in vain goes on only now.
                self.disturb();
                Err(Away::OutOfReach)
            }
        }
    }

    /// Lanes that another claim has locked this moment.
    pub fn busy(&self, wants: &[Want]) -> HashSet<Lane> {
        let others = self.processes.borrow().len() > 1;
        wants.iter().map(|want| want.lane).filter(|_| others && self.rt.chance(0.05)).collect()
    }

    /// Wakes this process's dispatcher and, over the bus, the others.
    pub fn wake(&self, from: &Rc<Process>, wake_ups: &[WakeUp]) {
        if wake_ups.is_empty() {
            return;
        }
        let deliver = |process: &Process, wake_ups: &[WakeUp]| {
            process.tray.borrow_mut().extend_from_slice(wake_ups);
            process.stirred.notify_one();
        };
        deliver(from, wake_ups);
        let (sim, id) = (self.clone(), from.id);
        let copies = if self.rt.chance(0.05) { 2 } else { 1 };
        for _ in 0..copies {
            let (sim, wake_ups) = (sim.clone(), wake_ups.to_vec());
            self.rt.spawn(WORLD, async move {
                sim.rt.sleep(sim.rt.between(MS, 50 * MS)).await;
                let others: Vec<Rc<Process>> = sim.processes.borrow().values().cloned().collect();
                for process in others.iter().filter(|process| process.id != id) {
                    let lost = sim.trouble.borrow().bus_down > 0 || sim.rt.chance(0.02);
                    if !lost {
                        deliver(process, &wake_ups);
                    }
                }
            });
        }
    }

    pub fn node_id(&self) -> NodeId {
        NodeId(Uuid::from_u128(self.rt.rng().u128(..)))
    }

    pub async fn call_model(&self, process: &Rc<Process>, task: &Running, model: &Model) -> Result<Parked, Failure> {
        let Some(node) = process.node.get() else { return Err(failure(FailureKind::Connection)) };
        let call = Call { key: task.key, node, process: process.id };
        self.rt.note(|| format!("process {} calls {} attempt {}", process.id, name(task.key), task.attempt));
        self.checks.borrow_mut().call_begins(self, &call);
        let id = self.next_call.replace(self.next_call.get() + 1);
        self.calls.borrow_mut().insert(id, call);
        let guard = CallGuard { sim: self.clone(), id };
        let answered = self.rt.within(model.spec.timeout(), self.answer(model)).await;
        drop(guard);
        answered.unwrap_or_else(|| Err(failure(FailureKind::Timeout)))?;
        // Written to disk before the permit goes back.
        self.rt.sleep(self.rt.between(MS / 10, 3 * MS)).await;
        if self.is_full(process.disk) {
            return Err(failure(FailureKind::Spool));
        }
        let token = self.rt.rng().u32(..);
        let (disk, folder) = (process.disk, process.id);
        let parked = Parked { disk, folder, key: task.key, attempt: task.attempt, token, at: self.rt.now() };
        self.files.borrow_mut().push(parked.clone());
        Ok(parked)
    }

    async fn answer(&self, model: &Model) -> Result<(), Failure> {
        let behaviour = self.settings.behaviours[model.id.0 as usize - 1];
        let down = self.trouble.borrow().models_down > 0;
        let (hangs, fails) = if down { (0.3, 0.9) } else { (behaviour.hangs, behaviour.fails) };
        if self.rt.chance(hangs) {
            std::future::pending::<()>().await;
        }
        self.rt.sleep(self.rt.between(MS, behaviour.longest)).await;
        if !self.rt.chance(fails) {
            return Ok(());
        }
        let after = Duration::from_secs(self.rt.rng().u64(0..15));
        Err(match self.rt.rng().usize(..5) {
            0 => failure(FailureKind::Status(500)),
            1 => Failure { retry_after: Some(after), ..failure(FailureKind::Status(429)) },
            2 => Failure { retry_after: Some(after), ..failure(FailureKind::Status(503)) },
            3 => failure(FailureKind::Status(400)),
            _ => failure(FailureKind::Connection),
        })
    }

    /// Results in this process's folder, and those of dead ones on its disk, which become its own.
    pub fn parked_results(&self, process: &Process) -> Vec<Parked> {
        let alive: HashSet<ProcessId> = self.processes.borrow().keys().copied().collect();
        let mut files = self.files.borrow_mut();
        let found = files.iter_mut().filter(|file| file.disk == process.disk);
        let found = found.filter(|file| file.folder == process.id || !alive.contains(&file.folder));
        found
            .map(|file| {
                file.folder = process.id;
                file.clone()
            })
            .collect()
    }

    pub fn remove_parked(&self, parked: &Parked) {
        self.files.borrow_mut().retain(|file| file.name() != parked.name());
    }

    pub fn object_key(&self, parked: &Parked) -> String {
        parked.name()
    }

    /// Stores a parked result.
    pub async fn put(&self, parked: &Parked) -> Result<String, PutError> {
        let there = self.files.borrow().iter().any(|file| file.name() == parked.name());
        if !there {
            return Err(PutError::FileGone);
        }
        let (object, parked) = (self.object_key(parked), parked.clone());
        let size = self.rt.between(MS, if self.rt.chance(0.1) { 2_000 * MS } else { 30 * MS });
        self.rt.sleep(size).await;
        let key = object.clone();
        let execute = move |world: &World| world.objects.borrow_mut().insert(key, parked);
        let stored = self.request(Peer::Storage, None, 20 * Duration::from_secs(1), execute).await;
        stored.map(|_| object).map_err(|_| PutError::Failed)
    }

    pub async fn delete_object(&self, object: &str) -> Result<(), Away> {
        let key = object.to_owned();
        let execute = move |world: &World| world.objects.borrow_mut().remove(&key);
        self.request(Peer::Storage, None, 20 * Duration::from_secs(1), execute).await?;
        self.checks.borrow_mut().object_deleted(self, object);
        Ok(())
    }

    /// A process that could serve a caller.
    pub fn any_process(&self) -> Option<Rc<Process>> {
        let processes: Vec<Rc<Process>> = self.processes.borrow().values().cloned().collect();
        self.rt.rng().choice(processes)
    }

    /// A caller creates a task and, if it is told so, relies on it.
    pub async fn create_task(&self, lane: Lane) {
        let Some(process) = self.any_process().filter(|process| !self.rt.is_paused(process.id)) else { return };
        let id = ((self.rt.now() as u128 / 1000) << 80) | (7 << 76) | (2 << 62) | u128::from(self.rt.rng().u32(..));
        let task = new_task(lane, TaskId(Uuid::from_u128(id)));
        let key = task.key;
        // A task has its place from the begin of its transaction, and can be seen when that commits.
        let open = if self.rt.chance(0.03) { 8_000 * MS } else { 2 * MS };
        let open = self.rt.between(Duration::ZERO, open).as_micros() as Micros;
        let answer = self.db(Some(&process), move |table, now| table.enqueue(&task, now - open)).await;
        if answer == Ok(Enqueued::Accepted) {
            self.rt.note(|| format!("{} was accepted", name(key)));
            self.checks.borrow_mut().promised.push(key);
            if self.processes.borrow().contains_key(&process.id) {
                self.wake(&process, &[WakeUp { lane, rewind: false }]);
            }
        }
    }

    /// A caller picks results up.
    pub async fn pick_up(&self, keys: Vec<TaskKey>) {
        let Some(process) = self.any_process() else { return };
        if let Ok(picked) = self.db(Some(&process), move |table, now| table.pick_up(&keys, now)).await {
            self.checks.borrow_mut().picked_up(&picked);
        }
    }
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, message: format!("{kind:?}"), retry_after: None }
}

/// Enough of a task's id to tell it from others.
pub fn name(key: TaskKey) -> String {
    let id = key.id.to_string();
    format!("task {}", &id[id.len() - 6..])
}

/// A task as a caller hands it in.
pub fn new_task(lane: Lane, id: TaskId) -> NewTask {
    NewTask {
        key: TaskKey { tenant: lane.tenant, id },
        lane,
        creator: "ann".into(),
        model_name: format!("model-{}", lane.model),
        biz_name: String::new(),
        input_ref: String::new(),
        request_payload: None,
        caller_headers: CallerHeaders::default(),
        traceparent: String::new(),
    }
}
