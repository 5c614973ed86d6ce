//! Slots: where small results of quick calls are parked.
//!
//! A file made and deleted for every task is what file systems are slowest at. So small results
//! share one file, cut into slots that are used again and again; the one that lies in a slot says
//! in front of its content what a file's name says otherwise. The content stays in memory too,
//! until it is stored, so that nothing is read back.
//!
//! A slot is not wiped when its result goes: a restarted node finds the latest result of every slot,
//! asks the database about it as about any other, and drops it where its task has moved on. When
//! the last result goes, the file is emptied.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{Parked, manifest};
use crate::trips::{Errand, Trips};

/// The file's name in a process's folder.
pub(super) const FILE: &str = "slots";

/// Bytes of a slot: a label, the length of the manifest, the manifest and the content.
const SLOT: usize = 32 * 1024;

/// Most slots. Together with [`SLOT`] this bounds what they take of the disk and, at worst, of memory.
const MOST_SLOTS: u32 = 1024;

/// Slots written in one trip.
const MOST_AT_ONCE: usize = 256;

/// What a slot in use begins with.
const LABEL: [u8; 4] = *b"MAS1";

/// Label and length.
const HEAD: usize = LABEL.len() + 4;

/// The slots of one process.
#[derive(Clone)]
pub(super) struct Slots {
    trips: Trips<Writer>,
}

/// A result in its slot. Clones are the same slot; it is free again when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Slot {
    held: Arc<Held>,
}

struct Held {
    table: Arc<Mutex<Table>>,
    number: u32,
    name: String,
    content: Bytes,
    /// The result is whole and somebody was told so.
    parked: AtomicBool,
    /// Nobody needs the result any more.
    released: AtomicBool,
}

/// Which slots are in use.
#[derive(Default)]
struct Table {
    free: Vec<u32>,
    /// The first slot that was never used.
    next: u32,
    /// Results that somebody needs, or that are being written.
    needed: usize,
    /// Results that were parked, and dropped by whoever had them: nobody works on them.
    abandoned: Vec<Abandoned>,
}

struct Abandoned {
    number: u32,
    name: String,
    content: Bytes,
}

struct Writer {
    path: PathBuf,
    file: OnceLock<File>,
    table: Arc<Mutex<Table>>,
}

enum Work {
    Write(Slot),
    /// Empty the file if nobody needs what is in it.
    Empty,
}

impl Slots {
    /// Slots in that folder. The file is made when the first result comes.
    pub(super) fn new(folder: &Path) -> Slots {
        let writer = Writer { path: folder.join(FILE), file: OnceLock::new(), table: Arc::default() };
        Slots { trips: Trips::new(writer, MOST_AT_ONCE) }
    }

    /// A slot for that result; nothing where it is too large or all slots are in use.
    pub(super) fn take(&self, name: &str, content: &Bytes) -> Option<Slot> {
        if HEAD + name.len() + content.len() > SLOT {
            return None;
        }
        let table = &self.trips.errand().table;
        let number = lock(table).take()?;
        Some(Slot {
            held: Arc::new(Held {
                table: Arc::clone(table),
                number,
                name: name.to_owned(),
                content: content.clone(),
                parked: AtomicBool::new(false),
                released: AtomicBool::new(false),
            }),
        })
    }

    /// Writes the result into its slot. If nobody waits any more, the slot is free again.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub(super) async fn park(&self, slot: Slot) -> io::Result<Slot> {
        let slot = self.trips.send(Work::Write(slot)).await??.ok_or_else(|| io::Error::other("not written"))?;
        slot.held.parked.store(true, Ordering::Release);
        Ok(slot)
    }

    /// Nobody needs this result any more.
    ///
    /// # Errors
    /// Where the file cannot be emptied.
    pub(super) async fn release(&self, slot: &Slot) -> io::Result<()> {
        if slot.held.released.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let last = {
            let mut table = lock(&slot.held.table);
            table.needed -= 1;
            table.needed == 0
        };
        if last {
            self.trips.send(Work::Empty).await??;
        }
        Ok(())
    }

    /// Parked results that nobody works on, each with its manifest. `settled` makes a file of one;
    /// where that fails, it stays in its slot.
    pub(super) fn each_abandoned(&self, mut settled: impl FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let abandoned = std::mem::take(&mut lock(&self.trips.errand().table).abandoned);
        let mut result = Ok(());
        for one in abandoned {
            let outcome = if result.is_ok() { settled(&one.name, &one.content) } else { Ok(()) };
            let mut table = lock(&self.trips.errand().table);
            if result.is_ok() && outcome.is_ok() {
                table.needed -= 1;
                table.free.push(one.number);
            } else {
                table.abandoned.push(one);
            }
            result = result.and(outcome);
        }
        result
    }
}

impl Slot {
    /// The result.
    pub(super) fn content(&self) -> &Bytes {
        &self.held.content
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {}", self.held.number)
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Slot) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
    }
}

impl Eq for Slot {}

impl Drop for Held {
    fn drop(&mut self) {
        let released = *self.released.get_mut();
        let mut table = lock(&self.table);
        if *self.parked.get_mut() && !released {
            let (name, content) = (std::mem::take(&mut self.name), std::mem::take(&mut self.content));
            table.abandoned.push(Abandoned { number: self.number, name, content });
            return;
        }
        table.needed -= usize::from(!released);
        table.free.push(self.number);
    }
}

impl Table {
    /// The slot that was used last, so that few pages of the file are touched.
    fn take(&mut self) -> Option<u32> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.next < MOST_SLOTS => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.needed += 1;
        Some(number)
    }
}

impl Errand for Writer {
    type Item = Work;
    type Answer = io::Result<Option<Slot>>;

    fn run(&self, batch: Vec<Work>) -> Vec<io::Result<Option<Slot>>> {
        let mut record = Vec::with_capacity(SLOT);
        let work = |work| match work {
            Work::Write(slot) => self.write(&slot.held, &mut record).map(|()| Some(slot)),
            Work::Empty => self.empty().map(|()| None),
        };
        batch.into_iter().map(work).collect()
    }
}

impl Writer {
    fn write(&self, held: &Held, record: &mut Vec<u8>) -> io::Result<()> {
        record.clear();
        record.extend_from_slice(&LABEL);
        // It fits: a slot is smaller than that.
        record.extend_from_slice(&u32::try_from(held.name.len()).unwrap_or_default().to_le_bytes());
        record.extend_from_slice(held.name.as_bytes());
        record.extend_from_slice(&held.content);
        self.file()?.write_all_at(record, u64::from(held.number) * SLOT as u64)
    }

    fn empty(&self) -> io::Result<()> {
        // Whoever takes a slot from here on writes after this, on this thread.
        let needed = lock(&self.table).needed > 0;
        match self.file.get() {
            Some(file) if !needed => file.set_len(0),
            Some(_) | None => Ok(()),
        }
    }

    fn file(&self) -> io::Result<&File> {
        match self.file.get() {
            Some(file) => Ok(file),
            None => {
                let file = OpenOptions::new().write(true).create_new(true).open(&self.path)?;
                Ok(self.file.get_or_init(|| file))
            }
        }
    }
}

/// Reads the slots that a dead process left. Hands over the whole results only; what a crash has torn
/// is told by its checksum.
///
/// # Errors
/// Where the file cannot be read, and those of `found`.
pub(super) fn read(path: &Path, mut found: impl FnMut(Parked, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut slot = Vec::with_capacity(SLOT);
    loop {
        slot.clear();
        if file.by_ref().take(SLOT as u64).read_to_end(&mut slot)? == 0 {
            return Ok(());
        }
        if let Some((parked, content)) = parse(path, &slot) {
            found(parked, content)?;
        }
    }
}

fn parse<'a>(path: &Path, slot: &'a [u8]) -> Option<(Parked, &'a [u8])> {
    let (length, rest) = slot.strip_prefix(&LABEL)?.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let parked = manifest::read(&path.with_file_name(std::str::from_utf8(name).ok()?))?;
    let content = rest.get(..usize::try_from(parked.size).ok()?)?;
    (crc32fast::hash(content) == parked.crc).then_some((parked, content))
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
