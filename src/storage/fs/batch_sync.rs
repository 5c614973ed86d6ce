//! One sync for many files.
//!
//! To sync files one by one costs each a commit of the file system's journal or a flush of the disk.
//! `syncfs` does it once for all of them, together with whatever else waits to be written to that
//! file system. Where that is much (a large result is being written, a neighbour copies a disk) it
//! takes long, so that files are synced one by one again for a while.
//!
//! Linux 5.8 and later report a failed write here; earlier ones only to `fsync`.

use std::{
    fs::File,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::clock;

/// Files from which on one sync for all is cheaper than one for each.
pub(super) const WORTH_ONE_SYNC: usize = 4;

/// A sync for all that takes longer than this has written what was not ours.
const LONG: Duration = Duration::from_secs(1);

/// How long files are then synced one by one.
const REST: Duration = Duration::from_secs(10);

/// Syncs a file system as a whole.
pub(super) struct BatchSync {
    /// Opened before any file was written: errors of writes since then are reported to it.
    root: Option<File>,
    opened: Instant,
    /// Not before then, in milliseconds since `opened`.
    rests_until: AtomicU64,
}

impl BatchSync {
    /// For the file system that this folder lies on.
    pub(super) fn of(folder: &Path) -> BatchSync {
        BatchSync { root: File::open(folder).ok(), opened: clock::tick(), rests_until: AtomicU64::new(0) }
    }

    /// Whether all files written so far are now safe. False: sync each of them.
    pub(super) fn all(&self) -> bool {
        let Some(root) = &self.root else { return false };
        let began = self.opened.elapsed();
        if millis(began) < self.rests_until.load(Ordering::Relaxed) {
            return false;
        }
        let synced = sync_file_system(root);
        if self.opened.elapsed() - began > LONG {
            self.rests_until.store(millis(began + REST), Ordering::Relaxed);
        }
        synced
    }
}

#[cfg(target_os = "linux")]
fn sync_file_system(root: &File) -> bool {
    rustix::fs::syncfs(root).is_ok()
}

/// Elsewhere there is nothing of the kind.
#[cfg(not(target_os = "linux"))]
fn sync_file_system(_root: &File) -> bool {
    false
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
