//! Everything around the nodes, and the record of what was done to it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::Semaphore;

use crate::{
    files::Files,
    model::Models,
    postgres::{Postgres, is_root},
    support::redis::RedisServer,
};

/// Bytes of each node's own disk for the spool.
const DISK: &str = "size=48m";

/// The lease of the nodes, in seconds: short, so that what a fault interrupts goes on in the run.
pub const LEASE: u64 = 5;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `kill -9`, from outside or at a kill point.
    Killed,
    /// SIGSTOP, and SIGCONT at the end.
    Paused,
    /// SIGTERM.
    Stopped,
    /// Its disk was full.
    DiskFull,
    /// Redis was away, or forgot everything.
    Redis,
    /// Postgres was away, or dropped every connection.
    Database,
    /// Object storage misbehaved.
    Storage,
    /// Models misbehaved.
    Models,
    /// Nobody's doing: this machine stood still.
    Stall,
}

/// One fault that was injected, or observed.
#[derive(Debug, Clone)]
pub struct Fault {
    pub scenario: usize,
    pub what: What,
    /// The process it happened to.
    pub incarnation: Option<usize>,
    pub at: Instant,
    pub until: Instant,
    pub detail: String,
}

/// See the module.
pub struct World {
    pub models: Models,
    pub files: Files,
    pub postgres: tokio::sync::Mutex<Postgres>,
    pub redis: tokio::sync::Mutex<RedisServer>,
    pub dir: tempfile::TempDir,
    pub scenario: AtomicUsize,
    /// How many nodes may be paused at once.
    pub may_sleep: Semaphore,
    pub faults: Mutex<Vec<Fault>>,
    /// What must not happen whatever is done, in words.
    pub trouble: Mutex<Vec<String>>,
    /// Where the nodes that are up listen.
    pub urls: Mutex<Vec<Option<String>>>,
    incarnations: AtomicUsize,
    base: Vec<(String, String)>,
}

impl World {
    /// Servers up, `nodes` places for nodes, no node yet. `None` where a server is not installed.
    pub async fn new(nodes: usize) -> Option<Arc<World>> {
        let postgres = Postgres::start().await?;
        let redis = RedisServer::start().await?;
        let (models, files) = (Models::start().await, Files::start().await);
        postgres.create("chaos").await;
        let base = settings(&[
            ("database.url", &postgres.url("chaos")),
            ("egress.otherwise", "all"),
            ("database.maxConnections", "8"),
            ("redis.url", &redis.url()),
            ("worker.leaseSeconds", &LEASE.to_string()),
            ("worker.concurrency", "32"),
            ("worker.maxLostAttempts", "1000"),
            // Which process made which call is told by its log.
            ("log.level", "info,model_asynch::worker=debug"),
            // The disks are small, so that one can be filled.
            ("worker.spoolMinFreeBytes", "1048576"),
            ("worker.pollInterval", "500ms"),
            ("cleaner.interval", "500ms"),
            ("server.shutdownGrace", "2s"),
            ("oss.kind", "http"),
            ("oss.url", &files.url),
            ("oss.timeout", "3s"),
        ]);
        Some(Arc::new(World {
            models,
            files,
            postgres: tokio::sync::Mutex::new(postgres),
            redis: tokio::sync::Mutex::new(redis),
            dir: tempfile::tempdir().unwrap(),
            scenario: AtomicUsize::new(0),
            may_sleep: Semaphore::new(nodes - 1),
            faults: Mutex::default(),
            trouble: Mutex::default(),
            urls: Mutex::new(vec![None; nodes]),
            incarnations: AtomicUsize::new(0),
            base,
        }))
    }

    pub fn logs(&self) -> &Path {
        self.dir.path()
    }

    /// The settings of a node with that spool.
    pub fn settings(&self, spool: &Path) -> Vec<(String, String)> {
        let mut settings = self.base.clone();
        settings.push(("worker.tmpDir".to_owned(), spool.to_string_lossy().into_owned()));
        settings
    }

    pub fn next_incarnation(&self) -> usize {
        self.incarnations.fetch_add(1, Ordering::SeqCst)
    }

    pub fn incarnations(&self) -> usize {
        self.incarnations.load(Ordering::SeqCst)
    }

    /// Records a fault that began at `at` and is over.
    pub fn injected(&self, what: What, incarnation: Option<usize>, at: Instant, detail: impl Into<String>) {
        let scenario = self.scenario.load(Ordering::SeqCst);
        let fault = Fault { scenario, what, incarnation, at, until: Instant::now(), detail: detail.into() };
        self.faults.lock().unwrap().push(fault);
    }

    pub fn blame(&self, trouble: impl Into<String>) {
        self.trouble.lock().unwrap().push(trouble.into());
    }
}

/// Settings by dotted key.
pub fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A node's own small disk: a file system in memory where this may be mounted, else a folder.
pub struct Disk {
    pub path: PathBuf,
    mounted: bool,
}

impl Disk {
    pub fn new(path: PathBuf) -> Disk {
        fs::create_dir_all(&path).unwrap();
        let mount = || {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", DISK, "none"]).arg(&path).stderr(Stdio::null());
            mount.status().is_ok_and(|status| status.success())
        };
        let mounted = is_root() && mount();
        Disk { path, mounted }
    }

    /// No byte more fits, until [`Disk::heal`]. What cannot be filled up is made read-only.
    pub fn fill(&self) {
        if !self.mounted {
            return self.writable(false);
        }
        // Ends when there is no space left.
        let full = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", self.ballast().display()))
            .stderr(Stdio::null())
            .status();
        assert!(full.is_ok_and(|status| !status.success()), "a disk that takes everything");
    }

    pub fn heal(&self) {
        if self.mounted { fs::remove_file(self.ballast()).unwrap() } else { self.writable(true) }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    fn writable(&self, writable: bool) {
        let mode = if writable { 0o755 } else { 0o555 };
        for folder in fs::read_dir(&self.path).unwrap().flatten() {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).ok();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            Command::new("umount").arg("-l").arg(&self.path).status().ok();
        }
    }
}
