//! The spool: results on their way from the model to storage, as files on this node's disk.
//!
//! A file's name is its manifest: tenant, task, attempt, type, size, checksum, call time and the
//! unguessable part of the object's key. A result appears under that name only when it is whole
//! (written as `.part`, then renamed), so a restarted node needs nothing else to go on with the
//! upload. Every process has a folder of its own below `worker.tmpDir`, with a lock that the
//! kernel drops when the process dies: a folder whose lock is free belongs to nobody, and its
//! results can be adopted.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::task::{Attempt, TaskKey};

/// This process's folder of results.
#[derive(Clone)]
pub struct Spool {
    #[expect(dead_code)]
    inner: (),
}

/// A result that is being written. Dropped unfinished, its file is deleted.
pub struct Draft {
    #[expect(dead_code)]
    inner: (),
}

/// A whole result on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Where it lies.
    pub path: PathBuf,
    /// Whose it is.
    pub key: TaskKey,
    /// The attempt that made it.
    pub attempt: Attempt,
    /// Short extension, such as `wav`.
    pub file_type: String,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32 of the content.
    pub crc: u32,
    /// How long the call took.
    pub call_time: Duration,
    /// Random part of the object's key, the same at every try of the upload.
    pub token: String,
}

impl Spool {
    /// Makes this process's folder below `dir` and locks it.
    ///
    /// # Errors
    /// Where the folder cannot be made or locked.
    pub fn open(_dir: &Path) -> io::Result<Spool> {
        todo!()
    }

    /// Begins a result. No file is made before bytes come.
    pub fn draft(&self, _key: TaskKey, _attempt: Attempt) -> Draft {
        todo!()
    }

    /// Deletes a result that is stored or not wanted. A missing file is fine.
    ///
    /// # Errors
    /// Where the file is there and cannot be deleted.
    pub async fn remove(&self, _parked: &Parked) -> io::Result<()> {
        todo!()
    }

    /// Whole results in this process's own folder. For a worker that starts over and holds nothing.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub async fn own(&self) -> io::Result<Vec<Parked>> {
        todo!()
    }

    /// Takes over what dead processes left: moves whole results into this folder and returns them;
    /// deletes half-written ones, ones whose checksum is wrong, and the empty folders.
    ///
    /// # Errors
    /// Where a folder cannot be read; what was taken over until then comes with the next call to
    /// [`Spool::own`].
    pub async fn take_over(&self) -> io::Result<Vec<Parked>> {
        todo!()
    }
}

impl Draft {
    /// Adds bytes. Buffers small ones.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub async fn write(&mut self, _bytes: bytes::Bytes) -> io::Result<()> {
        todo!()
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// The whole result, under its final name. The file type comes from the first bytes, then from
    /// `content_type`. Synced to disk where the call took long enough to be worth it.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub async fn finish(self, _content_type: Option<&str>, _call_time: Duration) -> io::Result<Parked> {
        todo!()
    }
}
