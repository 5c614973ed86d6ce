//! The spool: results on their way from the model to storage, as files on this node's disk.
//!
//! A file's name is its manifest: tenant, task, attempt, type, size, checksum, call time and the
//! unguessable part of the object's key. A result appears under that name only when it is whole
//! (written as `.part`, then renamed), so a restarted node needs nothing else to go on with the
//! upload. Every process has a folder of its own below `worker.tmpDir`, with a lock that the
//! kernel drops when the process dies: a folder whose lock is free belongs to nobody, and its
//! results can be adopted.
//!
//! Small results of quick calls share a file until their upload has failed; see `slots`. What is
//! said here goes for them too.
//!
//! # What survives what
//!
//! A parked result survives the death of its process, since what is written is the kernel's: the
//! next process adopts it. Of a power failure it is only kept safe where its call took a second or
//! more: a cheaper call is cheaper to repeat than to sync for, and a checksum tells a torn result.
//! The point from which a result may not be lost any more is its place in storage, which is synced
//! before the task reaches state 2.

pub mod file_type;
pub mod gauge;
mod manifest;
mod reader;
mod slots;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::reader::{ReadError, Reader};
use self::slots::{Slot, Slots};
use crate::{
    clock,
    faults::{self, Point},
    task::{Attempt, TaskKey},
};

/// In every process's folder; held locked as long as the process lives.
const LOCK: &str = "lock";

/// How a result is called while it is being written.
const PART: &str = "part";

/// Bytes gathered in memory before they are written. A result that fits in costs one trip to the
/// disk; more of it costs this much memory for each running call.
const BUFFER: usize = 256 * 1024;

/// A result is synced to disk before it is parked if its call took this long. A cheaper call is
/// cheaper to repeat than to sync for: after a power failure the checksum in the name tells a torn
/// file, and the model is called again.
const WORTH_SYNCING: Duration = Duration::from_secs(1);

/// This process's folder of results.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    /// `worker.tmpDir`.
    root: PathBuf,
    /// This process's folder in it.
    folder: PathBuf,
    /// Open, and so locked, until the process ends.
    _lock: File,
    /// For the small results in it.
    slots: Slots,
    /// The last round of taking over left a folder behind, which is logged when it begins.
    stuck: AtomicBool,
}

/// A result that is being written. Dropped unfinished, its file is deleted.
pub struct Draft {
    spool: Spool,
    key: TaskKey,
    attempt: Attempt,
    size: u64,
    checksum: crc32fast::Hasher,
    head: Vec<u8>,
    buffer: Vec<u8>,
    disk: Disk,
}

/// What of a draft is on disk.
enum Disk {
    Nothing,
    Part(PartFile),
    /// A write failed or was abandoned half-way; nobody knows how much of it is there.
    Lost,
}

/// A file that is deleted unless it is kept.
struct PartFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

/// A whole result on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Where it lies, or will lie when it gets a file of its own.
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
    /// How long the call took, in whole milliseconds.
    pub call_time: Duration,
    /// Random part of the object's key, the same at every try of the upload.
    pub token: String,
    /// The slot that it lies in instead of a file of its own.
    pub(crate) slot: Option<Slot>,
}

impl Spool {
    /// Makes this process's folder below `dir` and locks it.
    ///
    /// # Errors
    /// Where the folder cannot be made or locked.
    pub fn open(dir: &Path) -> io::Result<Spool> {
        fs::create_dir_all(dir)?;
        let name = clock::node_id().to_string();
        let folder = dir.join(&name);
        // Made under a name that nobody takes over and renamed when it is locked: otherwise
        // another process could find it in between and clear it away.
        let unlocked = dir.join(format!("new-{name}"));
        fs::create_dir(&unlocked)?;
        let lock = try_lock(&unlocked)?.ok_or_else(|| io::Error::other("the new spool folder is locked already"))?;
        fs::rename(&unlocked, &folder)?;
        Ok(Spool {
            inner: Arc::new(Inner {
                root: dir.to_owned(),
                slots: Slots::new(&folder),
                folder,
                _lock: lock,
                stuck: AtomicBool::new(false),
            }),
        })
    }

    /// Begins a result. No file is made before bytes come.
    pub fn draft(&self, key: TaskKey, attempt: Attempt) -> Draft {
        Draft {
            spool: self.clone(),
            key,
            attempt,
            size: 0,
            checksum: crc32fast::Hasher::new(),
            head: Vec::new(),
            buffer: Vec::new(),
            disk: Disk::Nothing,
        }
    }

    /// Deletes a result that is stored or not wanted. A missing file is fine.
    ///
    /// # Errors
    /// Where the file is there and cannot be deleted.
    pub async fn remove(&self, parked: &Parked) -> io::Result<()> {
        if let Some(slot) = &parked.slot {
            return self.inner.slots.release(slot).await;
        }
        match tokio::fs::remove_file(&parked.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Gives a result a file of its own, for one that has to wait: it leaves its slot and, with the
    /// last clone, its place in memory.
    ///
    /// # Errors
    /// Where the disk is full or fails; the result stays where it is.
    pub async fn settle(&self, parked: &mut Parked) -> io::Result<()> {
        let Some(slot) = parked.slot.clone() else { return Ok(()) };
        let (folder, target) = (self.inner.folder.clone(), parked.path.clone());
        let content = slot.content().clone();
        blocking(move || write_whole(&folder, &target, &content)).await?;
        parked.slot = None;
        self.inner.slots.release(&slot).await
    }

    /// How long ago a result was parked, restarts included; nothing where it has no file, not yet or
    /// not any more.
    pub async fn age(&self, parked: &Parked) -> Duration {
        let parked_at = tokio::fs::metadata(&parked.path).await.and_then(|file| file.modified());
        parked_at.map(clock::since).unwrap_or_default()
    }

    /// Whole results in this process's own folder. For a worker that starts over and holds nothing.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub async fn own(&self) -> io::Result<Vec<Parked>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut results = Vec::new();
            inner
                .slots
                .each_abandoned(|name, content| write_whole(&inner.folder, &inner.folder.join(name), content))?;
            for entry in fs::read_dir(&inner.folder)? {
                results.extend(manifest::read(&entry?.path()));
            }
            Ok(results)
        })
        .await
    }

    /// Takes over what dead processes left: moves whole results into this folder and returns them;
    /// deletes half-written ones, ones whose checksum is wrong, and the empty folders. Reads every
    /// result that it takes over. Folders and files that the spool did not make are left alone.
    ///
    /// # Errors
    /// Where `worker.tmpDir` cannot be read. A dead process's folder that cannot be cleared is
    /// logged when that begins, and tried again with the next call.
    pub async fn take_over(&self) -> io::Result<Vec<Parked>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.take_over()).await
    }
}

impl Inner {
    fn take_over(&self) -> io::Result<Vec<Parked>> {
        let mut taken = Vec::new();
        let mut trouble = None;
        for entry in fs::read_dir(&self.root)? {
            let folder = entry?.path();
            if folder == self.folder || !is_incarnation(&folder) {
                continue;
            }
            match self.clear(&folder, &mut taken) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => trouble = Some(error),
                Ok(()) => {}
            }
        }
        let was_stuck = self.stuck.swap(trouble.is_some(), Ordering::Relaxed);
        if let Some(error) = trouble.filter(|_| !was_stuck) {
            warn!(%error, "cannot take over all that dead processes left in worker.tmpDir, trying again");
        }
        Ok(taken)
    }

    /// Empties a folder that nobody holds, and removes it.
    fn clear(&self, folder: &Path, taken: &mut Vec<Parked>) -> io::Result<()> {
        // Held to the end: a second process that takes over at the same time leaves the folder be.
        let Some(_lock) = try_lock(folder)? else { return Ok(()) };
        let mut foreign = false;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            if path.file_name().is_some_and(|name| name == slots::FILE) {
                slots::read(&path, |parked, content| {
                    taken.push(self.adopt_slot(parked, content)?);
                    Ok(())
                })?;
                fs::remove_file(&path)?;
            } else if path.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(&path)?;
            } else if let Some(parked) = manifest::read(&path) {
                taken.extend(self.adopt(parked)?);
            } else {
                foreign = true;
            }
        }
        if foreign {
            return Ok(());
        }
        // The lock file goes last: a folder without it would look like one that is being removed.
        fs::remove_file(folder.join(LOCK))?;
        fs::remove_dir(folder)
    }

    /// Makes a file in this process's folder of a result that lay in a slot.
    fn adopt_slot(&self, found: Parked, content: &[u8]) -> io::Result<Parked> {
        let path = self.folder.join(manifest::name(&found));
        write_whole(&self.folder, &path, content)?;
        Ok(Parked { path, ..found })
    }

    /// Moves a result into this process's folder, or deletes it if it is not what its name says.
    fn adopt(&self, found: Parked) -> io::Result<Option<Parked>> {
        if !is_whole(&found)? {
            let (task_id, tenant_id, attempt) = (found.key.id, found.key.tenant, found.attempt);
            info!(%task_id, %tenant_id, %attempt, "deleting a parked result that a crash has torn");
            fs::remove_file(&found.path)?;
            return Ok(None);
        }
        let path = self.folder.join(manifest::name(&found));
        fs::rename(&found.path, &path)?;
        Ok(Some(Parked { path, ..found }))
    }
}

impl Draft {
    /// Adds bytes. Buffers small ones.
    ///
    /// # Errors
    /// Where the disk is full or fails; the draft cannot be finished after that.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let wanted = file_type::HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..wanted]);
        self.checksum.update(&bytes);
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush().await }
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The whole result, under its final name. The file type comes from the first bytes, then from
    /// `content_type`. Synced to disk where the call took long enough to be worth it; in a slot
    /// where it is small and did not.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub async fn finish(self, content_type: Option<&str>, call_time: Duration) -> io::Result<Parked> {
        let Draft { spool, key, attempt, size, checksum, head, buffer, disk } = self;
        let folder = spool.inner.folder.clone();
        let mut parked = Parked {
            path: PathBuf::new(),
            key,
            attempt,
            file_type: file_type::detect(&head, content_type),
            size,
            crc: checksum.finalize(),
            call_time: Duration::from_millis(u64::try_from(call_time.as_millis()).unwrap_or(u64::MAX)),
            token: clock::token(),
            slot: None,
        };
        let name = manifest::name(&parked);
        parked.path = folder.join(&name);
        let buffer = Bytes::from(buffer);
        if matches!(disk, Disk::Nothing)
            && call_time < WORTH_SYNCING
            && let Some(slot) = spool.inner.slots.take(&name, &buffer)
        {
            parked.slot = Some(spool.inner.slots.park(slot).await?);
            return Ok(parked);
        }
        let target = parked.path.clone();
        // One trip: for a small result this is all the disk ever sees of it.
        let mut part = blocking(move || {
            let mut part = disk.append(&folder, &buffer)?;
            faults::pass(Point::HalfPark);
            let synced = call_time >= WORTH_SYNCING;
            if synced {
                part.file.sync_data()?;
            }
            fs::rename(&part.path, &target)?;
            part.path = target;
            if synced {
                File::open(&folder)?.sync_all()?;
            }
            Ok(part)
        })
        .await?;
        // Only now: if nobody waits for the answer any more, the file goes with the part.
        part.kept = true;
        Ok(parked)
    }

    async fn flush(&mut self) -> io::Result<()> {
        let folder = self.spool.inner.folder.clone();
        let disk = std::mem::replace(&mut self.disk, Disk::Lost);
        let mut buffer = std::mem::take(&mut self.buffer);
        let (part, buffer) = blocking(move || {
            let part = disk.append(&folder, &buffer)?;
            buffer.clear();
            Ok((part, buffer))
        })
        .await?;
        self.disk = Disk::Part(part);
        self.buffer = buffer;
        Ok(())
    }
}

impl Disk {
    /// Writes more of the draft, into a new file if there is none yet.
    fn append(self, folder: &Path, bytes: &[u8]) -> io::Result<PartFile> {
        let mut part = match self {
            Disk::Nothing => PartFile::create(folder)?,
            Disk::Part(part) => part,
            Disk::Lost => return Err(io::Error::other("an earlier write of this result failed")),
        };
        part.file.write_all(bytes)?;
        Ok(part)
    }
}

impl PartFile {
    fn create(folder: &Path) -> io::Result<PartFile> {
        let path = folder.join(clock::token()).with_extension(PART);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(PartFile { path, file, kept: false })
    }
}

impl Drop for PartFile {
    /// Blocks for one `unlink`, which only failed and abandoned calls come to; a file that stays
    /// behind all the same is deleted by whoever takes the folder over.
    fn drop(&mut self) {
        if !self.kept {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Parked {
    /// The file that it lies in, which may hold others too.
    pub fn lies_in(&self) -> PathBuf {
        match self.slot {
            Some(_) => self.path.with_file_name(slots::FILE),
            None => self.path.clone(),
        }
    }

    /// All of it, where it is small enough to be in memory still.
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.slot.as_ref().map(Slot::content)
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn open(&self) -> Result<Reader, ReadError> {
        Reader::open(self).await
    }
}

/// Makes a result's file in one go. It appears under its name when it is whole.
fn write_whole(folder: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let mut part = PartFile::create(folder)?;
    part.file.write_all(content)?;
    fs::rename(&part.path, target)?;
    part.kept = true;
    Ok(())
}

/// Locks a process's folder; `None` where its process lives.
fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether this is a folder that a process made for itself.
fn is_incarnation(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| Uuid::parse_str(name).is_ok_and(|id| id.hyphenated().to_string() == name))
        && folder.is_dir()
}

/// Whether a result has the size and the checksum that its name says.
fn is_whole(parked: &Parked) -> io::Result<bool> {
    let mut file = File::open(&parked.path)?;
    if file.metadata()?.len() != parked.size {
        return Ok(false);
    }
    let mut checksum = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(checksum.finalize() == parked.crc),
            Ok(length) => checksum.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
