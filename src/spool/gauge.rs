//! How full the disk of the spool is. A node that could not park a result should not ask for one: a
//! call costs the model's time whether or not its answer can be kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use super::{PART, Spool, blocking};
use crate::{clock, metrics::SpoolMeter};

/// Time between looks: with a thousand results of a mebibyte a second, this is the gibibyte that
/// the disk must have to spare.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks for room between two looks at what the spool holds.
const LOOKS_PER_SHOW: usize = 10;

/// Written after a result could not be, to see whether the disk takes it again.
const PROBE: &[u8] = &[0; 64 * 1024];

/// When the spool counts as full.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of results, on this node; 0 = no such limit.
    pub most_bytes: u64,
    /// Bytes that have to stay free on the disk.
    pub min_free: u64,
}

/// Whether there is room for more; cheap to clone.
#[derive(Clone)]
pub struct Gauge {
    folder: PathBuf,
    limits: Limits,
    meter: SpoolMeter,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    full: AtomicBool,
    /// A result could not be written since the last look.
    failed: AtomicBool,
}

impl Gauge {
    /// The gauge of that spool, shown on that meter; full only once it has looked.
    pub fn new(spool: &Spool, limits: Limits, meter: SpoolMeter) -> Gauge {
        Gauge { folder: spool.inner.folder.clone(), limits, meter, state: Arc::default() }
    }

    /// No more results, please.
    pub fn is_full(&self) -> bool {
        self.state.full.load(Ordering::Acquire)
    }

    /// A result could not be written: full until the disk takes something again.
    pub fn failed(&self) {
        self.state.failed.store(true, Ordering::Release);
        if !self.state.full.swap(true, Ordering::AcqRel) {
            warn!("a result could not be parked on this node's disk; no more tasks are claimed until that works");
        }
    }

    /// Looks for ever.
    pub async fn run(&self) {
        loop {
            self.show().await;
            for _ in 0..LOOKS_PER_SHOW {
                self.look().await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Shows what it holds. Adding that up takes a look at each file, of which there may be thousands
    /// while storage is away.
    async fn show(&self) {
        let folder = self.folder.clone();
        if let Ok(bytes) = blocking(move || held(&folder)).await {
            self.meter.holds(bytes);
        }
    }

    async fn look(&self) {
        let (folder, limits) = (self.folder.clone(), self.limits);
        let failed = self.state.failed.swap(false, Ordering::AcqRel);
        let reason = blocking(move || reason(&folder, limits, failed)).await;
        let reason = reason.unwrap_or_else(|error| Some(format!("the spool cannot be used: {}", error.kind())));
        // Tried again at the next look: one that failed leaves no other trace.
        self.state.failed.fetch_or(failed && reason.is_some(), Ordering::AcqRel);
        let was_full = self.state.full.swap(reason.is_some(), Ordering::AcqRel);
        self.meter.is_full(reason.is_some());
        match reason {
            Some(reason) if !was_full => warn!(reason, "no more tasks are claimed until the spool has room"),
            None if was_full => info!("the spool has room again"),
            Some(_) | None => {}
        }
    }
}

/// Why there is no room; nothing where there is.
fn reason(folder: &Path, limits: Limits, failed: bool) -> io::Result<Option<String>> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < limits.min_free {
        return Ok(Some(format!("{free} bytes are free on its disk, worker.spoolMinFreeBytes is {}", limits.min_free)));
    }
    if limits.most_bytes > 0 {
        let held = held(folder)?;
        if held >= limits.most_bytes {
            return Ok(Some(format!("it holds {held} bytes, worker.spoolMaxBytes is {}", limits.most_bytes)));
        }
    }
    if failed {
        let path = folder.join(clock::token()).with_extension(PART);
        let probed = fs::write(&path, PROBE);
        fs::remove_file(&path).ok();
        probed?;
    }
    Ok(None)
}

/// Bytes of all files in the folder. One that goes meanwhile does not count.
fn held(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata().map_or(0, |file| file.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn meter() -> SpoolMeter {
        Metrics::new(0).unwrap().spool()
    }

    #[tokio::test]
    async fn the_gauge_shows_full_at_each_limit_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        for limits in [Limits { most_bytes: 10, min_free: 0 }, Limits { most_bytes: 0, min_free: u64::MAX }] {
            let mut gauge = Gauge::new(&spool, limits, meter());
            let file = spool.inner.folder.join("x");
            fs::write(&file, b"ten bytes!").unwrap();
            gauge.look().await;
            assert!(gauge.is_full(), "{limits:?}");
            fs::remove_file(&file).unwrap();
            gauge.limits.min_free = 0;
            gauge.look().await;
            assert!(!gauge.is_full());
        }
    }

    #[tokio::test]
    async fn after_a_failed_write_it_is_full_until_the_disk_takes_something() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let gauge = Gauge::new(&spool, Limits { most_bytes: 0, min_free: 0 }, meter());
        let away = dir.path().join("away");
        fs::rename(&spool.inner.folder, &away).unwrap();
        gauge.failed();
        assert!(gauge.is_full(), "at once");
        gauge.look().await;
        assert!(gauge.is_full());
        fs::rename(&away, &spool.inner.folder).unwrap();
        gauge.look().await;
        assert!(!gauge.is_full());
    }
}
