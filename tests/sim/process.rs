//! A process of the service: lease keeper, dispatcher and cleaner, as `worker.rs` and `cleaner/`
//! have them, over the world's database, permits and disks. The decisions are the product's own:
//! which lanes to ask, what becomes of a task, when a lease is lost, when a node may be buried.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use model_asynch::{
    model::Model,
    stats::CallCount,
    store::tasks::Want,
    task::{
        Abandoned, Attempt, Lane, ModelId, NodeId, TaskKey,
        lifecycle::{self, Applied, Phase, Transition},
        retry,
    },
    wake::WakeUp,
    worker::lanes::Lanes,
};
use tokio::sync::{Notify, mpsc};

use crate::{
    flaw::Flaw,
    gate::{Gate, Permit},
    lease::Keeper,
    run::{self, Live, Parked, Run},
    runtime::{Micros, ProcessId, Switch},
    table::Adopted,
    watch::Watch,
    world::{Away, Sim},
};

const RUNS_PER_CALL: usize = 4;
const SCAN: Duration = Duration::from_secs(10);
const LAST_WRITES: Duration = Duration::from_secs(5);
const LOOK_AT_DISK: Duration = Duration::from_secs(1);

/// Adopted results that may wait for the dispatcher.
const WAITING: usize = 16;

/// One process, from its start to its end.
pub struct Process {
    pub id: ProcessId,
    /// The machine, whose disk outlives the process.
    pub disk: u32,
    /// What its wall clock is wrong by.
    pub skew: Micros,
    pub node: Cell<Option<NodeId>>,
    pub started: Micros,
    /// When a fault last kept it from the database.
    pub hurt: Cell<Micros>,
    /// When a fault last kept it from Redis.
    pub unheard: Cell<Micros>,
    /// Who watched when its lease was renewed last.
    pub watched_by: RefCell<Vec<NodeId>>,
    /// Its disk refused a result, and has not been seen to take one since.
    pub full: Cell<bool>,
    pub resumed: Cell<Micros>,
    pub calling: Cell<usize>,
    pub concurrency: usize,
    pub tray: RefCell<Vec<WakeUp>>,
    pub room: RefCell<Vec<Lane>>,
    /// Something is in the tray, there is room, or a run has ended.
    pub stirred: Notify,
    /// What it works on.
    pub live: RefCell<BTreeSet<(i64, TaskKeyId, Attempt)>>,
    pub runs: Cell<usize>,
    pub stop: Switch,
    pub gone: Cell<bool>,
    catalog: RefCell<(Micros, HashMap<ModelId, Arc<Model>>)>,
    pub gate: Gate,
    pub cleaner_interval: Duration,
}

type TaskKeyId = model_asynch::task::TaskId;

/// A claim's right to one call: given back when dropped.
pub struct Slot {
    process: Rc<Process>,
    lane: Lane,
    permit: Option<Permit>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit.take();
        self.process.calling.set(self.process.calling.get() - 1);
        self.process.tell_room(self.lane);
    }
}

/// What can cut a run short.
#[derive(Clone, Default)]
pub struct Cut {
    pub lease_lost: Switch,
    pub grace_over: Switch,
}

/// What the dispatcher is told by the salvage.
enum Salvaged {
    Found(Box<Found>),
    Looked,
}

/// A result whose task is this process's now.
struct Found {
    adopted: Adopted,
    parked: Parked,
    live: Live,
}

struct Life {
    node: NodeId,
    lanes: Lanes,
    cut: Cut,
    doubtful: bool,
    failures: i32,
}

impl Process {
    pub fn new(sim: &Sim, id: ProcessId, disk: u32) -> Process {
        let mut rng = sim.rt.rng();
        let skew = if rng.bool() { 0 } else { rng.i64(-600_000_000..600_000_000) };
        let concurrency = rng.usize(1..12);
        drop(rng);
        Process {
            id,
            disk,
            skew,
            node: Cell::new(None),
            started: sim.rt.now(),
            hurt: Cell::new(0),
            unheard: Cell::new(0),
            watched_by: RefCell::default(),
            full: Cell::new(false),
            resumed: Cell::new(0),
            calling: Cell::new(0),
            concurrency,
            tray: RefCell::default(),
            room: RefCell::default(),
            stirred: Notify::new(),
            live: RefCell::default(),
            runs: Cell::new(0),
            stop: Switch::default(),
            gone: Cell::new(false),
            catalog: RefCell::default(),
            gate: Gate::new(sim, id),
            cleaner_interval: sim.settings.cleaner_interval,
        }
    }

    /// Starts its loops.
    pub fn start(self: &Rc<Process>, sim: &Sim) {
        let (this, world) = (self.clone(), sim.clone());
        sim.rt.spawn(self.id, async move {
            this.gate.run(&this.clone()).await;
            drop(world)
        });
        let (this, world) = (self.clone(), sim.clone());
        sim.rt.spawn(self.id, async move { this.work(&world).await });
    }

    pub fn tell_room(&self, lane: Lane) {
        self.room.borrow_mut().push(lane);
        self.stirred.notify_one();
    }

    pub fn works_on(&self, key: TaskKey, attempt: Attempt) -> bool {
        self.live.borrow().contains(&(key.tenant.0, key.id, attempt))
    }

    pub fn wall_clock(&self, sim: &Sim) -> Micros {
        sim.rt.now() + self.skew
    }

    async fn work(self: &Rc<Process>, sim: &Sim) {
        let mut first = true;
        while !self.stop.is_thrown() {
            let node = sim.node_id();
            let (lease, id, registered) = (sim.settings.lease, self.id, sim.rt.tick());
            if self.db(sim, move |table, now| table.register(node, lease, now)).await.is_err() {
                sim.rt.sleep(sim.rt.jittered(Duration::from_secs(1))).await;
                continue;
            }
            sim.rt.note(|| format!("process {id} works as {}", short(node)));
            self.node.set(Some(node));
            sim.checks.borrow_mut().owners.insert(node, id);
            let life = Life { node, lanes: Lanes::default(), cut: Cut::default(), doubtful: false, failures: 0 };
            self.live(sim, life, registered, &mut first).await;
        }
        self.gone.set(true);
        sim.left(self);
    }

    async fn live(self: &Rc<Process>, sim: &Sim, mut life: Life, registered: Instant, first: &mut bool) {
        let (node, cut) = (life.node, life.cut.clone());
        let keeper = Keeper { sim, process: self, node };
        let (found, mut salvaged) = mpsc::channel(WAITING);
        let stopped = tokio::select! {
            biased;
            () = keeper.keep(registered) => false,
            () = self.dispatch(sim, &mut life, &mut salvaged, first) => true,
            () = self.salvage(sim, node, found) => true,
            () = self.look_at_disk(sim) => true,
        };
        cut.lease_lost.throw();
        sim.rt.within(LAST_WRITES, self.ended()).await;
        // From here on nobody renews it.
        self.node.set(None);
        if stopped {
            self.db(sim, move |table, _| table.nodes.remove(&node)).await.ok();
        } else {
            sim.rt.note(|| format!("process {} lost the lease of {}", self.id, short(node)));
        }
    }

    async fn ended(&self) {
        while self.runs.get() > 0 {
            self.stirred.notified().await;
        }
    }

    async fn dispatch(
        self: &Rc<Process>,
        sim: &Sim,
        life: &mut Life,
        salvaged: &mut mpsc::Receiver<Salvaged>,
        first: &mut bool,
    ) {
        self.scan(sim, life).await;
        let mut next_scan = sim.rt.sleep(sim.rt.jittered(SCAN));
        let mut next_poll = sim.rt.sleep(sim.rt.jittered(sim.settings.poll));
        while !self.stop.is_thrown() {
            let rested = self.claim_all(sim, life).await;
            tokio::select! {
                biased;
                () = self.stop.thrown() => break,
                Some(salvaged) = salvaged.recv() => match salvaged {
                    Salvaged::Found(found) => self.take_up(sim, life, *found),
                    // The cleaner starts when the worker has adopted what was parked.
                    Salvaged::Looked => if std::mem::take(first) {
                        self.start_cleaner(sim);
                    },
                },
                () = &mut next_scan => {
                    self.scan(sim, life).await;
                    next_scan = sim.rt.sleep(sim.rt.jittered(SCAN));
                }
                () = &mut next_poll => {
                    life.lanes.poll();
                    next_poll = sim.rt.sleep(sim.rt.jittered(sim.settings.poll));
                }
                () = self.stirred.notified() => {}
            }
            if rested {
                for wake_up in self.tray.take() {
                    life.lanes.wake(wake_up);
                }
            }
            for lane in self.room.take() {
                life.lanes.room(lane);
            }
        }
        if sim.rt.within(sim.settings.grace, self.ended()).await.is_none() {
            life.cut.grace_over.throw();
            sim.rt.within(LAST_WRITES, self.ended()).await;
        }
    }

    /// False: the database is away, wait for the poll.
    async fn claim_all(self: &Rc<Process>, sim: &Sim, life: &mut Life) -> bool {
        loop {
            if life.doubtful {
                match self.settle_doubt(sim, life).await {
                    Ok(()) => life.doubtful = false,
                    Err(_) => return self.claim_failed(sim, life).await,
                }
            }
            if self.free() == 0 || !life.lanes.any_ready() {
                return true;
            }
            if self.claim_round(sim, life).await.is_err() {
                return self.claim_failed(sim, life).await;
            }
            life.failures = 0;
        }
    }

    async fn claim_failed(&self, sim: &Sim, life: &mut Life) -> bool {
        life.doubtful = sim.flaw != Some(Flaw::DoubtIgnored);
        life.failures = life.failures.saturating_add(1);
        sim.rt.sleep(sim.rt.jittered(retry::backoff(life.failures).mul_f64(0.1))).await;
        false
    }

    pub fn free(&self) -> usize {
        if self.full.get() {
            return 0;
        }
        let calls = self.concurrency.saturating_sub(self.calling.get());
        calls.min((self.concurrency * RUNS_PER_CALL).saturating_sub(self.runs.get()))
    }

    async fn claim_round(self: &Rc<Process>, sim: &Sim, life: &mut Life) -> Result<(), Away> {
        let free = self.free();
        let asked = life.lanes.take(free);
        let result = self.claim_from(sim, life, &asked, free).await;
        if result.is_err() {
            for lane in asked {
                life.lanes.wait(lane);
            }
        }
        result
    }

    async fn claim_from(
        self: &Rc<Process>,
        sim: &Sim,
        life: &mut Life,
        asked: &[Lane],
        free: usize,
    ) -> Result<(), Away> {
        let models = self.models(sim).await?;
        let caps = sim.table.borrow().caps.clone();
        let cap = |tenant| caps.get(&tenant).and_then(|cap| u32::try_from(*cap).ok());
        let asks = life.lanes.asks(asked, free, &models, cap);
        let granted = self.gate.try_acquire(self, &asks).await;
        let mut permits: HashMap<Lane, Vec<Permit>> = HashMap::new();
        let mut wants = Vec::new();
        for (ask, granted) in asks.iter().zip(granted) {
            if granted.is_empty() {
                life.lanes.wait(ask.lane);
                continue;
            }
            let (most, since) = (granted.len() as u32, life.lanes.since(ask.lane));
            wants.push(Want { lane: ask.lane, most, since, shares: ask.shares() });
            permits.insert(ask.lane, granted);
        }
        if wants.is_empty() {
            return Ok(());
        }
        let (node, busy) = (life.node, sim.busy(&wants));
        let claim = self.db(sim, move |table, now| table.claim(node, &wants, &busy, now)).await?;
        let mut newest: HashMap<Lane, DateTime<Utc>> = HashMap::new();
        for task in claim.tasks {
            let lane = task.lane;
            let place = newest.entry(lane).or_insert(task.enqueue_at);
            *place = task.enqueue_at.max(*place);
            let permit = permits.get_mut(&lane).and_then(Vec::pop);
            assert!(permit.is_some(), "a claim gives no more than was asked for");
            self.calling.set(self.calling.get() + 1);
            let slot = Slot { process: self.clone(), lane, permit };
            let run = Run::new(sim, self, task, claim.models[&lane.model].clone(), life.cut.clone());
            let live = Live::begin(self, run.key(), run.attempt()).expect("the fence is new with each claim");
            run::begin(run, live, slot);
        }
        for (lane, verdict) in claim.lanes {
            life.lanes.verdict(lane, verdict, newest.get(&lane).copied());
        }
        if sim.flaw == Some(Flaw::PermitLeaked) {
            std::mem::forget(permits);
        }
        Ok(())
    }

    /// What it knows of the models, at most a second old.
    async fn models(self: &Rc<Process>, sim: &Sim) -> Result<HashMap<ModelId, Arc<Model>>, Away> {
        if sim.rt.now() - self.catalog.borrow().0 > 1_000_000 {
            let models = self.db(sim, |table, _| {
                let open = table.models.iter().filter(|(_, registered)| !registered.deleted);
                open.map(|(id, registered)| (*id, registered.model.clone())).collect()
            });
            let models = models.await?;
            self.catalog.replace((sim.rt.now(), models));
        }
        Ok(self.catalog.borrow().1.clone())
    }

    async fn settle_doubt(self: &Rc<Process>, sim: &Sim, life: &mut Life) -> Result<(), Away> {
        let node = life.node;
        for held in self.db(sim, move |table, _| table.held_by(node)).await? {
            let works = self.works_on(held.key, held.attempt) && sim.flaw != Some(Flaw::DoubtWithoutLooking);
            if !works {
                let (lane, transition) = (held.lane, lifecycle::never_started(&held));
                if self.db(sim, move |table, now| table.apply(&transition, now)).await? == Applied::Done {
                    sim.wake(self, &[WakeUp { lane, rewind: true }]);
                }
            }
        }
        Ok(())
    }

    async fn scan(self: &Rc<Process>, sim: &Sim, life: &mut Life) {
        life.doubtful = sim.flaw != Some(Flaw::DoubtIgnored);
        if sim.flaw != Some(Flaw::ScanForgotten)
            && let Ok(lanes) = self.db(sim, |table, _| table.lanes_with_work()).await
        {
            lanes.into_iter().for_each(|lane| life.lanes.wake(WakeUp { lane, rewind: true }));
        }
    }

    /// Looks for parked results that nobody works on, as `worker/salvage.rs` does. Never returns.
    async fn salvage(self: &Rc<Process>, sim: &Sim, node: NodeId, found: mpsc::Sender<Salvaged>) {
        self.look_for_results(sim, node, &found).await;
        found.send(Salvaged::Looked).await.ok();
        while !self.stop.is_thrown() {
            sim.rt.sleep(sim.rt.jittered(SCAN)).await;
            self.look_for_results(sim, node, &found).await;
        }
        std::future::pending().await
    }

    async fn look_for_results(self: &Rc<Process>, sim: &Sim, node: NodeId, found: &mpsc::Sender<Salvaged>) {
        for parked in sim.parked_results(self) {
            if self.stop.is_thrown() {
                return;
            }
            let Some(live) = Live::begin(self, parked.key, parked.attempt) else { continue };
            let file = parked.clone();
            let adopt = move |table: &mut crate::table::Table, now| {
                table.adopt(node, file.key, file.attempt, &file.name(), now)
            };
            match self.db(sim, adopt).await {
                Ok(Some(adopted)) => {
                    found.send(Salvaged::Found(Box::new(Found { adopted, parked, live }))).await.ok();
                }
                Ok(None) => sim.remove_parked(&parked),
                Err(_) => {}
            }
        }
    }

    fn take_up(self: &Rc<Process>, sim: &Sim, life: &Life, found: Found) {
        let Found { adopted, parked, live } = found;
        let mut run = Run::new(sim, self, adopted.task, adopted.model, life.cut.clone());
        if adopted.call_uncounted {
            run.count(true);
        }
        run::resume(run, live, parked);
    }

    /// As the spool's gauge: full until the disk takes something again. Never returns.
    async fn look_at_disk(&self, sim: &Sim) {
        loop {
            sim.rt.sleep(LOOK_AT_DISK).await;
            if !sim.is_full(self.disk) {
                self.full.set(false);
            }
        }
    }

    /// A request to the database.
    pub async fn db<T: 'static>(
        self: &Rc<Process>,
        sim: &Sim,
        verb: impl FnOnce(&mut crate::table::Table, Micros) -> T + 'static,
    ) -> Result<T, Away> {
        sim.db(Some(self), verb).await
    }

    fn start_cleaner(self: &Rc<Process>, sim: &Sim) {
        let (this, world) = (self.clone(), sim.clone());
        sim.rt.spawn(self.id, async move { while this.paced(&world, this.requeue(&world)).await {} });
        let watch = Rc::new(Watch::new(sim, self));
        let held = watch.clone();
        sim.rt.spawn(self.id, async move { held.run().await });
        let (this, world) = (self.clone(), sim.clone());
        sim.rt.spawn(self.id, async move { while this.paced(&world, this.rescue(&world, &watch)).await {} });
        let (this, world) = (self.clone(), sim.clone());
        sim.rt.spawn(self.id, async move { while this.paced(&world, this.tidy(&world)).await {} });
    }

    /// One round and the pause after it.
    async fn paced(&self, sim: &Sim, round: impl Future<Output = Result<(), Away>>) -> bool {
        let pause = match round.await {
            Ok(()) => self.cleaner_interval,
            Err(_) => sim.rt.jittered(self.cleaner_interval * 2),
        };
        sim.rt.sleep(pause).await;
        !self.stop.is_thrown()
    }

    async fn requeue(self: &Rc<Process>, sim: &Sim) -> Result<(), Away> {
        let lanes = self.db(sim, |table, now| table.promote_due(500, now)).await?;
        let wake_ups: Vec<WakeUp> = lanes.into_iter().map(|lane| WakeUp { lane, rewind: true }).collect();
        sim.wake(self, &wake_ups);
        Ok(())
    }

    async fn rescue(self: &Rc<Process>, sim: &Sim, watch: &Watch) -> Result<(), Away> {
        if !watch.may_bury() && sim.flaw != Some(Flaw::BuriedWithoutWatch) {
            return Ok(());
        }
        let (watcher, lease) = (watch.watcher, sim.settings.lease);
        for node in self.db(sim, move |table, now| table.bury(watcher, lease, now)).await? {
            sim.rt.note(|| format!("process {} buried {}", self.id, short(node)));
        }
        let abandoned = self.db(sim, |table, now| table.abandoned(now)).await?;
        let max_lost = if sim.flaw == Some(Flaw::LostWithoutEnd) { i32::MAX } else { sim.settings.max_lost };
        for task in abandoned {
            let transition = lifecycle::lease_lost(&task, max_lost, lost_call(&task));
            let (lane, rewinds) = (transition.lane(), transition.rewinds_lane());
            self.write(sim, transition).await?;
            if rewinds {
                sim.wake(self, &[WakeUp { lane, rewind: true }]);
            }
        }
        Ok(())
    }

    async fn tidy(self: &Rc<Process>, sim: &Sim) -> Result<(), Away> {
        let mut waiting = self.db(sim, |table, _| table.queued_for_deleted_models()).await?;
        if let Some(timeout) = sim.settings.queue_timeout {
            waiting.extend(self.db(sim, move |table, now| table.queued_longer_than(timeout, now)).await?);
        }
        for task in waiting {
            self.write(sim, lifecycle::dropped_from_queue(&task, "too late".into())).await?;
        }
        let unclaimed = sim.settings.unclaimed;
        let purged = self.db(sim, move |table, now| table.purge(unclaimed, now)).await?;
        for (_, object) in purged.into_iter().filter(|(_, object)| !object.is_empty()) {
            sim.delete_object(&object).await.ok();
        }
        Ok(())
    }

    async fn write(self: &Rc<Process>, sim: &Sim, transition: Transition) -> Result<(), Away> {
        match self.db(sim, move |table, now| table.apply(&transition, now)).await? {
            Applied::Done | Applied::Stale => Ok(()),
        }
    }
}

/// As the cleaner counts the call of a lost attempt.
fn lost_call(task: &Abandoned) -> Option<CallCount> {
    (task.phase == Phase::Model).then(|| run::call_count(&task.creator, &task.model_name, false))
}

/// Enough of a node's id to tell it from others.
pub fn short(node: NodeId) -> String {
    node.to_string()[..4].to_owned()
}
