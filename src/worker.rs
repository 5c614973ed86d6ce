//! The worker: finds out which lanes have work and room, claims exactly what it may run, and runs
//! it. It decides nothing about a task's life (that is `task::lifecycle`) and holds no transaction.
//!
//! A worker lives under a lease. When that is lost it drops what it does and starts over as a new
//! incarnation; what it had parked is adopted by the next one.

mod ahead;
mod call;
pub mod lanes;
pub mod lease;
mod pulse;
mod run;
mod salvage;
mod slot;
mod upload;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, UnboundedReceiver},
    },
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};

pub use self::pulse::Pulse;
use self::{
    ahead::Ahead,
    call::ModelClient,
    lanes::Lanes,
    lease::Keeper,
    run::{Cut, Run},
    salvage::{Found, Salvage, Salvaged},
    slot::{Slot, Slots},
};
use crate::{
    breath::Breath,
    catalog::Catalog,
    clock,
    config::Config,
    consul::Services,
    faults::{self, Point},
    metrics::Metrics,
    permits::Permits,
    spool::{
        Spool,
        gauge::{Gauge, Limits},
    },
    storage::Storage,
    store::{
        Store, StoreError,
        tasks::{Claim, MOST_CLAIMED, Want},
    },
    task::{Attempt, Lane, ModelId, NodeId, TaskKey, lifecycle, retry, trace::trace_id},
    tenants::Tenants,
    trace::Tracer,
    wake::{Wake, WakeUp},
    watch::Board,
};

/// Most lanes asked in one round: one Redis round trip and one claim.
const LANES_PER_ROUND: usize = 64;

/// Tasks on this node, calling or uploading, for each call that it may make: a storage outage
/// stops the claims before the disk is full of results.
const RUNS_PER_CALL: usize = 4;

/// How often the whole table is scanned for lanes with work, the correction of what wake-ups missed,
/// and dead neighbours' spools for results.
const SCAN: Duration = Duration::from_secs(10);

/// How long a worker waits for handed-back tasks to be written when it stops.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What every run of this process needs.
struct Shared {
    store: Store,
    storage: Storage,
    spool: Spool,
    gauge: Gauge,
    metrics: Metrics,
    max_lost: i32,
    wake: Wake,
    client: ModelClient,
    max_result_bytes: u64,
    upload_for: Duration,
    upload_gate: Semaphore,
    stat_zone: chrono_tz::Tz,
    slots: Slots,
    tracer: Tracer,
}

impl Shared {
    /// A task of the lane is not running any more.
    fn left(&self, lane: Lane) {
        self.slots.tell(lane);
    }
}

/// The worker of this process.
pub struct Worker {
    shared: Arc<Shared>,
    catalog: Catalog,
    permits: Permits,
    tenants: Tenants,
    board: Board,
    pulse: Pulse,
    concurrency: usize,
    lease: Duration,
    poll_interval: Duration,
    shutdown_grace: Duration,
    name: String,
    room: UnboundedReceiver<Lane>,
}

/// The parts that a worker is made of.
pub struct Parts {
    /// The durable memory.
    pub store: Store,
    /// The models' limits.
    pub catalog: Catalog,
    /// The gate.
    pub permits: Permits,
    /// What tenants may have running.
    pub tenants: Tenants,
    /// Who tells of work.
    pub wake: Wake,
    /// Where watchers say whether they reach the database.
    pub board: Board,
    /// Where results are parked.
    pub spool: Spool,
    /// Where they are stored.
    pub storage: Storage,
    /// What is counted.
    pub metrics: Metrics,
    /// Where models are that are named by a service.
    pub services: Services,
    /// What is recorded of it all.
    pub tracer: Tracer,
}

/// One incarnation: from the lease row to its end.
struct Life {
    node: NodeId,
    lanes: Lanes,
    runs: JoinSet<()>,
    /// What this node works on.
    live: LiveSet,
    cut: Cut,
    /// Lets work gather between the claims of a busy node.
    breath: Breath,
    running_after_claim: usize,
    ahead: Ahead,
    /// The last claim failed: rows may be ours without our knowing.
    doubtful: bool,
    failures: i32,
}

/// The attempts that this node is working on.
type LiveSet = Arc<Mutex<HashSet<(TaskKey, Attempt)>>>;

/// Takes an attempt off the list when its run ends, by a panic too.
struct Live {
    set: LiveSet,
    attempt: (TaskKey, Attempt),
}

/// How an incarnation ended.
enum End {
    Stopped,
    LeaseLost,
}

impl Worker {
    /// Builds it; nothing runs yet.
    ///
    /// # Errors
    /// Where no HTTP client can be made on this machine.
    pub fn new(parts: Parts, config: &Config) -> anyhow::Result<Worker> {
        let (sender, room) = mpsc::unbounded_channel();
        let limits = Limits { most_bytes: config.worker.spool_max_bytes, min_free: config.worker.spool_min_free_bytes };
        let upload_gate = run::upload_gate(&parts.storage);
        let shared = Shared {
            gauge: Gauge::new(&parts.spool, limits, parts.metrics.spool()),
            metrics: parts.metrics,
            max_lost: config.worker.max_lost_attempts,
            store: parts.store,
            storage: parts.storage,
            spool: parts.spool,
            wake: parts.wake,
            client: ModelClient::new(&config.egress, parts.services, parts.tracer.clone())?,
            max_result_bytes: config.worker.max_result_bytes,
            upload_for: config.oss.retry_for,
            upload_gate,
            stat_zone: config.stat_zone,
            slots: Slots::new(sender),
            tracer: parts.tracer,
        };
        Ok(Worker {
            shared: Arc::new(shared),
            catalog: parts.catalog,
            permits: parts.permits,
            tenants: parts.tenants,
            board: parts.board,
            pulse: Pulse::new(config.worker.lease, config.worker.poll_interval.min(SCAN)),
            concurrency: config.worker.concurrency,
            lease: config.worker.lease,
            poll_interval: config.worker.poll_interval,
            shutdown_grace: config.server.shutdown_grace,
            name: config.node_name(),
            room,
        })
    }

    /// The signs of life of this worker.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Works until `stop`, incarnation after incarnation. Calls `ready` when the first one has its
    /// lease and has adopted what was parked: from then on others may clean up after the dead.
    pub async fn run(mut self, stop: CancellationToken, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        while !stop.is_cancelled() {
            let (node, registered) = (clock::node_id(), clock::tick());
            if let Err(error) = self.shared.store.register_node(node, &self.name, self.lease).await {
                warn!(%error, "cannot register this node, trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(clock::jittered(Duration::from_secs(1))) => continue,
                }
            }
            info!(node = %node, "working");
            if let End::Stopped = Box::pin(self.live(node, registered, &stop, &mut ready)).await {
                return;
            }
        }
    }

    async fn live(
        &mut self,
        node: NodeId,
        registered: std::time::Instant,
        stop: &CancellationToken,
        ready: &mut Option<impl FnOnce()>,
    ) -> End {
        let cut = Cut { lease_lost: CancellationToken::new(), grace_over: CancellationToken::new() };
        let mut life = Life {
            node,
            lanes: Lanes::default(),
            runs: JoinSet::new(),
            live: Arc::default(),
            cut: cut.clone(),
            breath: Breath::of_runs(),
            running_after_claim: 0,
            ahead: Ahead::default(),
            doubtful: false,
            failures: 0,
        };
        let (store, board, pulse) = (self.shared.store.clone(), self.board.clone(), self.pulse.clone());
        let shared = self.shared.clone();
        let keeper = Keeper { store: &store, board: &board, pulse: &pulse, node, lease: self.lease };
        let (found, mut salvaged) = salvage::channel();
        let salvage = Salvage { shared: &shared, node, live: life.live.clone(), found, stop };
        // Side by side in one task: the lease is renewed whatever the dispatcher waits for, and what
        // the salvage holds of the database is never waited for by a dispatcher that keeps it from
        // going on.
        let end = tokio::select! {
            () = self.dispatch(&mut life, &mut salvaged, stop, ready) => End::Stopped,
            () = async { tokio::join!(salvage.run(), shared.gauge.run()); } => End::Stopped,
            reason = keeper.keep(registered) => {
                error!(node = %node, reason, "lost the lease, dropping what is running and starting over");
                End::LeaseLost
            }
        };
        cut.lease_lost.cancel();
        if tokio::time::timeout(LAST_WRITES, ended(&mut life.runs)).await.is_err() {
            life.runs.shutdown().await;
        }
        if matches!(end, End::Stopped)
            && let Err(error) = store.remove_node(node).await
        {
            warn!(node = %node, %error, "could not give the lease back, it will run out by itself");
        }
        end
    }

    /// The dispatch loop: until `stop`, and then the grace.
    async fn dispatch(
        &mut self,
        life: &mut Life,
        salvaged: &mut mpsc::Receiver<Salvaged>,
        stop: &CancellationToken,
        ready: &mut Option<impl FnOnce()>,
    ) {
        self.scan(life).await;
        let shared = self.shared.clone();
        let mut next_scan = Instant::now() + clock::jittered(SCAN);
        let mut next_poll = Instant::now() + clock::jittered(self.poll_interval);
        loop {
            let rested = self.claim_all(life).await;
            let is_idle = rested && life.is_idle();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(salvaged) = salvaged.recv() => match salvaged {
                    Salvaged::Found(found) => life.take_up(&self.shared, *found),
                    Salvaged::Looked => {
                        if let Some(ready) = ready.take() {
                            ready();
                        }
                    }
                },
                () = life.breath.end() => {}
                () = life.ahead.run_out() => {
                    if let Some(lane) = life.ahead.give_up() {
                        life.lanes.room(lane);
                    }
                }
                wake_ups = shared.wake.next(), if rested => {
                    for wake_up in wake_ups {
                        life.lanes.wake(wake_up);
                    }
                }
                lane = shared.wake.announced(), if is_idle => self.reach_ahead(life, lane).await,
                Some(lane) = self.room.recv() => {
                    life.lanes.room(lane);
                    while let Ok(lane) = self.room.try_recv() {
                        life.lanes.room(lane);
                    }
                }
                Some(ended) = life.runs.join_next() => {
                    life.reaped(ended);
                    // All of them: each one left would take the place of a run, and of the next claim's batch.
                    while let Some(ended) = life.runs.try_join_next() {
                        life.reaped(ended);
                    }
                }
                () = sleep_until(next_poll) => {
                    life.lanes.poll();
                    next_poll = Instant::now() + clock::jittered(self.poll_interval);
                }
                () = sleep_until(next_scan) => {
                    self.scan(life).await;
                    next_scan = Instant::now() + clock::jittered(SCAN);
                }
            }
        }
        self.wind_down(life).await;
    }

    /// Lets running calls end, then has the rest handed back.
    async fn wind_down(&mut self, life: &mut Life) {
        life.ahead.give_up();
        let running = life.runs.len();
        if running > 0 {
            info!(running, "no more claims, waiting up to {:?} for running tasks", self.shutdown_grace);
        }
        if tokio::time::timeout(self.shutdown_grace, ended(&mut life.runs)).await.is_err() {
            life.cut.grace_over.cancel();
            if tokio::time::timeout(LAST_WRITES, ended(&mut life.runs)).await.is_err() {
                warn!(running = life.runs.len(), "could not hand back every task; others will when the lease runs out");
            }
        }
    }

    /// Settles doubt, then claims while there are calls to spare and lanes to ask. False: the
    /// database is away, wait for the poll.
    async fn claim_all(&mut self, life: &mut Life) -> bool {
        loop {
            if life.doubtful {
                match self.settle_doubt(life).await {
                    Ok(()) => life.doubtful = false,
                    Err(error) => return self.claim_failed(life, &error).await,
                }
            }
            if !life.has_breathed() || self.free(life) == 0 || !life.lanes.any_ready() {
                self.pulse.looked();
                return true;
            }
            if let Err(error) = self.claim_round(life).await {
                return self.claim_failed(life, &error).await;
            }
            self.pulse.looked();
            if std::mem::take(&mut life.failures) > 0 {
                info!("tasks are claimed again");
            }
        }
    }

    async fn claim_failed(&self, life: &mut Life, error: &StoreError) -> bool {
        life.doubtful = true;
        life.failures = life.failures.saturating_add(1);
        if life.failures == 1 {
            warn!(%error, "cannot claim tasks, trying again until it works");
        }
        tokio::time::sleep(clock::jittered(retry::backoff(life.failures).mul_f64(0.1))).await;
        false
    }

    /// Calls that can be started now.
    fn free(&self, life: &Life) -> usize {
        let calls = self.concurrency.saturating_sub(self.shared.slots.calling());
        if self.shared.gauge.is_full() {
            return 0;
        }
        let runs = (self.concurrency * RUNS_PER_CALL).saturating_sub(life.runs.len());
        calls.min(runs).min(MOST_CLAIMED)
    }

    /// Capacity first, then the claim: permits for some lanes, then exactly as many tasks.
    async fn claim_round(&mut self, life: &mut Life) -> Result<(), StoreError> {
        let free = self.free(life);
        let asked = life.lanes.take(free.min(LANES_PER_ROUND));
        let result = self.claim_from(life, &asked, free).await;
        if result.is_err() {
            for lane in asked {
                life.lanes.wait(lane);
            }
        }
        result
    }

    async fn claim_from(&mut self, life: &mut Life, asked: &[Lane], free: usize) -> Result<(), StoreError> {
        let ids: HashSet<ModelId> = asked.iter().map(|lane| lane.model).collect();
        let models = self.catalog.by_id(&ids.into_iter().collect::<Vec<_>>()).await?;
        let asks = life.lanes.asks(asked, free, &models, |tenant| self.tenants.cap(tenant));
        let mut permits = self.permits_for(life, &asks).await;
        let mut wants = Vec::with_capacity(asks.len());
        for ask in &asks {
            let granted = permits.get(&ask.lane).map_or(0, Vec::len);
            match ask.want.min(u32::try_from(granted).unwrap_or(u32::MAX)) {
                0 => life.lanes.wait(ask.lane),
                most => {
                    wants.push(Want { lane: ask.lane, most, since: life.lanes.since(ask.lane), shares: ask.shares() });
                }
            }
        }
        if wants.is_empty() {
            return Ok(());
        }
        faults::pass(Point::AfterPermit);
        let began = clock::tick();
        let Claim { tasks, models, lanes } = self.shared.store.claim(life.node, &wants).await?;
        self.shared.metrics.claimed(began.elapsed(), &tasks);
        faults::pass_if(!tasks.is_empty(), Point::AfterClaim);
        let many = tasks.len();
        let mut newest: HashMap<Lane, DateTime<Utc>> = HashMap::new();
        for task in tasks {
            let lane = task.lane;
            let place = newest.entry(lane).or_insert(task.enqueue_at);
            *place = task.enqueue_at.max(*place);
            let (Some(permit), Some(model)) = (permits.get_mut(&lane).and_then(Vec::pop), models.get(&lane.model))
            else {
                // The store gave more than it was asked for, or no model: a bug, but the task is ours.
                error!(task_id = %task.key.id, tenant_id = %task.key.tenant, model_name = task.model_name,
                    attempt = task.attempt.0, trace_id = trace_id(&task.traceparent), "claimed a task without a permit or model");
                life.doubtful = true;
                continue;
            };
            let slot = self.shared.slots.take(lane, permit);
            let run = Run::claimed(self.shared.clone(), task, model.clone(), life.cut.clone());
            life.start(run, slot);
        }
        for (lane, verdict) in lanes {
            life.lanes.verdict(lane, verdict, newest.get(&lane).copied());
        }
        life.took(many);
        // What is left in `permits` is surplus and goes back, but the calls go out first: both are work
        // for the same threads.
        tokio::task::yield_now().await;
        drop(permits);
        Ok(())
    }

    /// After a claim whose outcome is unknown: hands back what the database says is ours and we
    /// know nothing of. Nobody else would, for our lease is alive.
    async fn settle_doubt(&self, life: &mut Life) -> Result<(), StoreError> {
        for held in self.shared.store.held_by(life.node).await? {
            if !life.works_on((held.key, held.attempt)) {
                let lane = held.lane;
                let transition = lifecycle::never_started(&held);
                if self.shared.store.apply(transition.clone()).await? == lifecycle::Applied::Done {
                    self.shared.metrics.moved(&held.model_name, &transition);
                    self.shared.wake.send([WakeUp { lane, rewind: true }]);
                }
            }
        }
        Ok(())
    }

    /// Looks for lanes with work in the whole table.
    async fn scan(&self, life: &mut Life) {
        // A claim that nobody waited for any more may have been committed after its doubt was settled.
        life.doubtful = true;
        match self.shared.store.lanes_with_work().await {
            Ok(lanes) => lanes.into_iter().for_each(|lane| life.lanes.wake(WakeUp { lane, rewind: true })),
            Err(error) => warn!(%error, "cannot scan for lanes with work, trying again"),
        }
    }
}

impl Life {
    fn works_on(&self, attempt: (TaskKey, Attempt)) -> bool {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).contains(&attempt)
    }

    /// Takes note of a claim. The next one waits until half of all that runs has ended, or the pause is over.
    fn took(&mut self, many: usize) {
        self.running_after_claim = self.runs.len();
        self.breath.took(many, self.running_after_claim / 2);
    }

    /// True if the next claim may be made, as far as the pause goes.
    fn has_breathed(&mut self) -> bool {
        self.breath.is_over(self.running_after_claim.saturating_sub(self.runs.len()))
    }

    /// True if there is nothing to claim, and nothing that a claim waits for.
    fn is_idle(&mut self) -> bool {
        !self.ahead.any() && !self.lanes.any_ready() && self.has_breathed()
    }

    /// Takes note of how a run ended.
    fn reaped(&mut self, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            error!(%error, "a run panicked, its task goes back to the queue");
            self.doubtful = true;
        }
    }

    /// Goes on with a result that was found parked.
    fn take_up(&mut self, shared: &Arc<Shared>, found: Found) {
        let Found { adopted, parked, live } = found;
        let run = Run::adopted(shared.clone(), adopted, &parked, self.cut.clone());
        self.spawn(run, live, |run| async move {
            info!("found the parked result of this task, only the upload is left");
            run.go_on(parked).await;
        });
    }

    /// Runs a task that was just claimed.
    fn start(&mut self, run: Run, slot: Slot) {
        // The fence is new with each claim, so nobody can be on the list under it.
        if let Some(live) = Live::begin(&self.live, (run.task.key, run.task.attempt)) {
            self.spawn(run, live, |run| run.begin(slot));
        }
    }

    /// Runs a task in the set that this life joins at its end.
    fn spawn<F>(&mut self, run: Run, live: Live, go: impl FnOnce(Run) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = &run.task;
        let span = info_span!("task", task_id = %task.key.id, tenant_id = %task.key.tenant,
            model_name = task.model_name, attempt = task.attempt.0, trace_id = trace_id(&task.traceparent));
        // Not a block that awaits it, which would hold the whole future twice.
        let running = go(run).map(move |()| drop(live));
        self.runs.spawn(Box::pin(running).instrument(span));
    }
}

/// Waits for every run to end.
async fn ended(runs: &mut JoinSet<()>) {
    while runs.join_next().await.is_some() {}
}

impl Live {
    /// Puts an attempt on the list; nothing if it is there already.
    fn begin(set: &LiveSet, attempt: (TaskKey, Attempt)) -> Option<Live> {
        let new = set.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt);
        new.then(|| Live { set: set.clone(), attempt })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.attempt);
    }
}
