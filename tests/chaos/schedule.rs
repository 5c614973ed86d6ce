//! What is done to whom and when: scenario by scenario, every node and everything around them has
//! its own sequence of faults, drawn from the seed.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use model_asynch::faults::Point;
use tokio::time::sleep;

use crate::{
    files, model,
    node::Node,
    world::{Disk, LEASE, What, World},
};

/// How long a node that is armed may take to come to its kill point.
const ARMED: Duration = Duration::from_secs(4);

/// How long a node may take to stop: its grace, its last writes, and its parts on a busy machine.
const STOP: Duration = Duration::from_secs(60);

/// What can be done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToNode {
    KillAtPoint,
    KillAnyTime,
    Pause,
    Terminate,
    FillDisk,
}

/// What can be done to what is around the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToServers {
    KillRedis,
    FlushRedis,
    RestartPostgres,
    KillBackends,
    Storage(files::Mood),
    Models(model::Mood),
}

/// A class of faults that has the stage for a while.
pub struct Scenario {
    pub name: &'static str,
    nodes: &'static [ToNode],
    servers: &'static [ToServers],
}

const STORAGE: &[ToServers] = &[
    ToServers::Storage(files::Mood::Fail),
    ToServers::Storage(files::Mood::Hang),
    ToServers::Storage(files::Mood::Truncate),
    ToServers::Storage(files::Mood::Refuse),
];

const MODELS: &[ToServers] = &[
    ToServers::Models(model::Mood::Hang),
    ToServers::Models(model::Mood::Trickle),
    ToServers::Models(model::Mood::Break),
    ToServers::Models(model::Mood::Busy),
    ToServers::Models(model::Mood::Unavailable),
    ToServers::Models(model::Mood::Empty),
];

/// All of them, in the order in which they take turns.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "nothing", nodes: &[], servers: &[] },
    Scenario { name: "kill -9 at a named point", nodes: &[ToNode::KillAtPoint], servers: &[] },
    Scenario { name: "kill -9 at any time", nodes: &[ToNode::KillAnyTime], servers: &[] },
    Scenario { name: "SIGSTOP longer than the lease", nodes: &[ToNode::Pause], servers: &[] },
    Scenario { name: "SIGTERM and restart", nodes: &[ToNode::Terminate], servers: &[] },
    Scenario { name: "disk full in the spool", nodes: &[ToNode::FillDisk], servers: &[] },
    Scenario {
        name: "Redis killed and flushed",
        nodes: &[],
        servers: &[ToServers::KillRedis, ToServers::FlushRedis, ToServers::FlushRedis],
    },
    Scenario {
        name: "Postgres restarted, backends killed",
        nodes: &[],
        servers: &[ToServers::RestartPostgres, ToServers::KillBackends, ToServers::KillBackends],
    },
    Scenario { name: "storage fails, hangs, truncates", nodes: &[], servers: STORAGE },
    Scenario { name: "models hang, trickle, break, refuse", nodes: &[], servers: MODELS },
    Scenario {
        name: "everything at once",
        nodes: &[ToNode::KillAtPoint, ToNode::KillAnyTime, ToNode::Pause, ToNode::Terminate, ToNode::FillDisk],
        servers: &[
            ToServers::KillRedis,
            ToServers::FlushRedis,
            ToServers::RestartPostgres,
            ToServers::KillBackends,
            ToServers::Storage(files::Mood::Fail),
            ToServers::Storage(files::Mood::Hang),
            ToServers::Models(model::Mood::Hang),
            ToServers::Models(model::Mood::Unavailable),
        ],
    },
];

/// A node's place: the process that is there now, and its disk.
pub struct Place {
    index: usize,
    world: Arc<World>,
    rng: fastrand::Rng,
    disk: Disk,
    /// A fresh one after some restarts, as on another machine.
    spool: PathBuf,
    spools: usize,
    node: Option<Node>,
}

impl Place {
    pub async fn new(index: usize, world: &Arc<World>, rng: fastrand::Rng) -> Place {
        let disk = Disk::new(world.dir.path().join(format!("disk-{index}")));
        let spool = disk.path.join("spool-0");
        let mut place = Place { index, world: world.clone(), rng, disk, spool, spools: 0, node: None };
        place.start(None).await;
        place
    }

    /// One fault after the other until then; the node is up and well at the end.
    pub async fn suffer(&mut self, scenario: &Scenario, until: Instant) {
        loop {
            let pause = Duration::from_millis(self.rng.u64(300..1500));
            if Instant::now() + pause > until {
                return sleep(until.saturating_duration_since(Instant::now())).await;
            }
            sleep(pause).await;
            self.look_after().await;
            match self.rng.choice(scenario.nodes) {
                None => sleep(until.saturating_duration_since(Instant::now())).await,
                Some(ToNode::KillAtPoint) => self.kill_at_point().await,
                Some(ToNode::KillAnyTime) => self.kill_any_time().await,
                Some(ToNode::Pause) => self.pause().await,
                Some(ToNode::Terminate) => self.terminate().await,
                Some(ToNode::FillDisk) => self.fill_disk().await,
            }
        }
    }

    async fn kill_at_point(&mut self) {
        self.kill("to be armed");
        // The crash matrix comes to all of them; these two need a failure at the right moment.
        let rare = [Point::BeforeRetry, Point::AfterParkedMark];
        let points: Vec<Point> =
            Point::ALL.into_iter().filter(|point| point.is_of_a_task() && !rare.contains(point)).collect();
        let point = self.rng.choice(points).unwrap();
        // Only the first pass of rare ones is likely to come.
        let pass = if self.rng.bool() { 1 } else { self.rng.u8(2..4) };
        let at = format!("{}:{pass}", point.name());
        self.start(Some(&at)).await;
        if let (Point::BeforeHandBack, Some(node)) = (point, &self.node) {
            node.signal("TERM");
        }
        let ended = match &mut self.node {
            Some(node) => node.end_within(ARMED).await.is_some(),
            // It died before it was up.
            None => false,
        };
        if ended {
            self.died(Instant::now(), &at);
        } else {
            self.kill("its kill point was never passed");
        }
        self.restart().await;
    }

    async fn kill_any_time(&mut self) {
        self.kill("at any time");
        let away = Duration::from_millis(self.rng.u64(0..1500));
        sleep(away).await;
        self.restart().await;
    }

    async fn pause(&mut self) {
        let Some(node) = &self.node else { return };
        // Somebody has to be awake, or nothing happens to a sleeper's tasks.
        let Ok(_asleep) = self.world.may_sleep.try_acquire() else { return };
        let (incarnation, at) = (node.incarnation, Instant::now());
        node.signal("STOP");
        sleep(Duration::from_secs(LEASE) + Duration::from_millis(self.rng.u64(1500..4000))).await;
        node.signal("CONT");
        self.world.injected(What::Paused, Some(incarnation), at, "SIGSTOP");
    }

    async fn terminate(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        let at = Instant::now();
        node.signal("TERM");
        let status = node.end_within(STOP).await;
        self.world.urls.lock().unwrap()[self.index] = None;
        self.world.injected(What::Stopped, Some(node.incarnation), at, "SIGTERM");
        if status.and_then(|status| status.code()) != Some(0) {
            self.world.blame(format!("node {} ended with {status:?} after SIGTERM", node.incarnation));
        }
        self.restart().await;
    }

    async fn fill_disk(&mut self) {
        let at = Instant::now();
        self.disk.fill();
        sleep(Duration::from_millis(self.rng.u64(1500..4000))).await;
        self.disk.heal();
        let incarnation = self.node.as_ref().map(|node| node.incarnation);
        self.world.injected(What::DiskFull, incarnation, at, "no space left in the spool");
    }

    fn kill(&mut self, why: &str) {
        let at = Instant::now();
        if let Some(node) = &mut self.node {
            node.kill();
            self.died(at, why);
        }
    }

    fn died(&mut self, at: Instant, why: &str) {
        let Some(node) = self.node.take() else { return };
        self.world.urls.lock().unwrap()[self.index] = None;
        self.world.injected(What::Killed, Some(node.incarnation), at, why);
    }

    async fn restart(&mut self) {
        if self.rng.u8(..) < 80 {
            self.spools += 1;
            self.spool = self.disk.path.join(format!("spool-{}", self.spools));
        }
        self.start(None).await;
    }

    /// Starts a process, again and again while servers are away; one that is armed only once.
    async fn start(&mut self, kill_at: Option<&str>) {
        loop {
            let incarnation = self.world.next_incarnation();
            let settings = self.world.settings(&self.spool);
            let mut node = Node::spawn(incarnation, self.world.logs(), &settings, kill_at);
            if node.ready().await {
                self.world.urls.lock().unwrap()[self.index] = Some(node.url.clone());
                self.node = Some(node);
                return;
            }
            if let Some(at) = kill_at {
                self.node = Some(node);
                return self.died(Instant::now(), at);
            }
        }
    }

    /// A node that ended without anybody's doing is trouble, unless somebody else took its port.
    pub async fn look_after(&mut self) {
        let Some(status) = self.node.as_mut().and_then(Node::ended) else { return };
        let node = self.node.take().unwrap();
        let said = node.said();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        if !said.contains("cannot listen") {
            self.world.blame(format!("node {} ended by itself with {status}: {last:?}", node.incarnation));
        }
        self.start(None).await;
    }
}

/// One fault of the servers after the other until then; they are up and well at the end.
async fn disturb(world: &World, rng: &mut fastrand::Rng, scenario: &Scenario, stage: Duration, until: Instant) {
    // Everyone's turn comes, beginning anywhere.
    let mut turn = rng.usize(..);
    while !scenario.servers.is_empty() {
        let pause = stage.mul_f64(0.02 + 0.08 * rng.f64());
        if Instant::now() + pause > until {
            return;
        }
        sleep(pause).await;
        let at = Instant::now();
        let fault = scenario.servers[turn % scenario.servers.len()];
        turn = turn.wrapping_add(1);
        let long = stage.mul_f64(0.1 + 0.15 * rng.f64());
        let what = match fault {
            ToServers::KillRedis => {
                let mut redis = world.redis.lock().await;
                redis.kill();
                sleep(long).await;
                redis.restart().await;
                What::Redis
            }
            ToServers::FlushRedis => {
                world.redis.lock().await.command::<()>(&["FLUSHALL"]).await;
                What::Redis
            }
            ToServers::RestartPostgres => {
                world.postgres.lock().await.restart().await;
                What::Database
            }
            ToServers::KillBackends => {
                world.postgres.lock().await.kill_backends().await;
                What::Database
            }
            ToServers::Storage(mood) => {
                world.files.set(mood);
                sleep(long).await;
                world.files.set(files::Mood::Calm);
                What::Storage
            }
            ToServers::Models(mood) => {
                world.models.set(mood);
                sleep(long).await;
                world.models.set(model::Mood::Calm);
                What::Models
            }
        };
        world.injected(what, None, at, format!("{fault:?}"));
    }
}

/// Records when this machine stands still, which looks like a pause to everyone on it.
pub fn watch_the_machine(world: &Arc<World>) {
    const STEP: Duration = Duration::from_millis(100);
    let world = Arc::downgrade(world);
    std::thread::spawn(move || {
        let mut last = Instant::now();
        loop {
            std::thread::sleep(STEP);
            let Some(world) = world.upgrade() else { return };
            if last.elapsed() > STEP + Duration::from_secs(1) {
                world.injected(What::Stall, None, last, "the machine stood still");
            }
            last = Instant::now();
        }
    });
}

/// Runs the scenarios one after the other, each for `long`, all of them once and then on until `end`.
pub async fn run(world: &Arc<World>, places: &mut [Place], rng: &mut fastrand::Rng, long: Duration, end: Instant) {
    for round in 0.. {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            if round > 0 && Instant::now() >= end {
                return;
            }
            world.scenario.store(index, Ordering::SeqCst);
            let until = Instant::now() + long;
            let nodes = futures::future::join_all(places.iter_mut().map(|place| place.suffer(scenario, until)));
            tokio::join!(nodes, disturb(world, rng, scenario, long, until));
        }
    }
}
