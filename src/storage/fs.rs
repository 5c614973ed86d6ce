//! Files in a folder, served by the service itself below `/file/`.
//!
//! A result is durable when [`FsStorage::put`] returns: file, folder and the folders above are
//! synced before its task reaches state 2. Small results that come together are written by one
//! thread and synced together; see `batch_sync`.

mod batch_sync;
mod folders;
mod signed_url;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::task::spawn_blocking;
use url::Url;

use self::{
    batch_sync::{BatchSync, WORTH_ONE_SYNC},
    signed_url::SignedUrls,
};
use super::{PING_TIMEOUT, Placed, StorageError, base, by, checked_key, deadline, object_key};
use crate::{
    clock,
    faults::{self, Point},
    secrets::Vault,
    spool::{Parked, ReadError},
    trips::{Errand, Trips},
};

/// Small results placed and synced in one trip.
const MOST_AT_ONCE: usize = 512;

/// Small results that are placed while those before them are synced; fewer wait for that sync's end.
const WORTH_A_SECOND_TRIP: usize = 32;

/// See the module.
#[derive(Clone)]
pub struct FsStorage {
    folder: Arc<Path>,
    public_url: Arc<str>,
    /// `None` where URLs never run out.
    signed: Option<Arc<SignedUrls>>,
    timeout: Duration,
    small: Trips<Placer>,
}

impl FsStorage {
    /// `signing`: under which key, and how long a URL works.
    pub(super) fn open(
        folder: &Path,
        public_url: &Url,
        signing: Option<(&Vault, Duration)>,
        timeout: Duration,
    ) -> Result<FsStorage, String> {
        let signed = signing.map(|(vault, ttl)| {
            SignedUrls::new(vault, ttl).ok_or("oss.urlTtlSeconds: URLs cannot be signed without secrets.key")
        });
        let signed = signed.transpose()?.map(Arc::new);
        fs::create_dir_all(folder)
            .map_err(|error| format!("oss.path: cannot make the folder {}: {error}", folder.display()))?;
        folders::keep_apart(folder);
        let placer = Placer { sync: BatchSync::of(folder), settled: Mutex::default() };
        let small = Trips::in_pairs(placer, MOST_AT_ONCE, WORTH_A_SECOND_TRIP);
        Ok(FsStorage { folder: folder.into(), public_url: base(public_url).into(), signed, timeout, small })
    }

    /// Where the files lie; a key is a path below it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// When this returns, file and folders are synced: the result survives a power failure as far
    /// as the file system keeps the promise of `fsync`.
    pub(super) async fn put(&self, parked: &Parked) -> Result<Placed, StorageError> {
        let key = object_key(parked);
        let placing = Placing {
            root: Arc::clone(&self.folder),
            parked: parked.path.clone(),
            content: parked.in_memory().cloned(),
            size: parked.size,
            target: self.folder.join(&key),
        };
        let placed = async {
            match placing.content {
                Some(_) => self.small.send(placing).await.map_err(|_| stopped())?,
                // A large one takes its time, which the small ones need not wait for.
                None => blocking(move || sync_each(vec![placing.place()]).into_iter().collect()).await,
            }
        };
        by(deadline(self.timeout), placed).await?;
        let url = if self.signed.is_some() { String::new() } else { self.unsigned(&key) };
        Ok(Placed { url, key })
    }

    /// The URL of what lies under `key`; `stored` is the one it was stored with, if any.
    pub(super) fn url(&self, stored: &str, key: &str) -> String {
        let plain = match stored {
            "" if key.is_empty() => return String::new(),
            // Stored while URLs were signed.
            "" => self.unsigned(key),
            stored => stored.to_owned(),
        };
        match &self.signed {
            // What another kind of storage holds is not for us to open.
            Some(signed) if !key.is_empty() && plain.ends_with(&format!("/file/{key}")) => {
                format!("{plain}?{}", signed.query(key, clock::now()))
            }
            _ => plain,
        }
    }

    /// Whether a URL with that key and that query (without the `?`) opens the file now.
    pub fn opens(&self, key: &str, query: &str) -> bool {
        self.signed.as_ref().is_none_or(|signed| signed.opens(key, query, clock::now()))
    }

    fn unsigned(&self, key: &str) -> String {
        format!("{}/file/{key}", self.public_url)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let path = self.folder.join(checked_key(key)?);
        let delete = move || match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| failed("delete the file", &error)),
        };
        by(deadline(self.timeout), blocking(delete)).await
    }

    pub(super) async fn ping(&self) -> Result<(), StorageError> {
        let folder = Arc::clone(&self.folder);
        let look = move || match fs::metadata(&folder) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(StorageError::new("oss.path is not a folder")),
            Err(error) => Err(failed("find the folder oss.path", &error)),
        };
        by(deadline(PING_TIMEOUT), blocking(look)).await
    }
}

/// One file on its way from the spool to its place.
struct Placing {
    root: Arc<Path>,
    parked: PathBuf,
    /// A small result, which has no file in the spool.
    content: Option<Bytes>,
    size: u64,
    target: PathBuf,
}

/// A file in its place that power failure may still take away.
struct Unsynced {
    file: File,
    /// The folder that it lies in and those above it.
    folders: Vec<PathBuf>,
    /// The folder had to be made for it.
    in_new_folder: bool,
}

/// Places small results, and syncs them together.
struct Placer {
    sync: BatchSync,
    /// The folder that was synced last, with those above it: only what is in it is new since.
    settled: Mutex<PathBuf>,
}

impl Errand for Placer {
    type Item = Placing;
    type Answer = Result<(), StorageError>;

    fn run(&self, batch: Vec<Placing>) -> Vec<Result<(), StorageError>> {
        let mut placed: Vec<_> = batch.iter().map(Placing::place).collect();
        if placed.len() >= WORTH_ONE_SYNC && self.sync.all() {
            return placed.into_iter().map(|placed| placed.map(drop)).collect();
        }
        let settled = self.settled().clone();
        let mut last = None;
        for placed in placed.iter_mut().flatten() {
            if !placed.in_new_folder && placed.folders.first() == Some(&settled) {
                placed.folders.truncate(1);
            }
            last = placed.folders.first().cloned();
        }
        let synced = sync_each(placed);
        if let Some(last) = last.filter(|_| synced.iter().all(Result::is_ok)) {
            *self.settled() = last;
        }
        synced
    }
}

impl Placer {
    fn settled(&self) -> MutexGuard<'_, PathBuf> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Syncs file by file, then every folder once.
fn sync_each(placed: Vec<Result<Unsynced, StorageError>>) -> Vec<Result<(), StorageError>> {
    let mut folders = BTreeSet::new();
    let mut files = Vec::with_capacity(placed.len());
    for placed in placed {
        files.push(placed.and_then(|placed| {
            folders.extend(placed.folders);
            placed.file.sync_all().map_err(|error| failed("sync the file", &error))
        }));
    }
    // On folders that have not changed this costs next to nothing.
    let synced =
        folders.iter().try_for_each(|folder| sync_folder(folder)).map_err(|error| failed("sync a folder", &error));
    files.into_iter().map(|file| file.and_then(|()| synced.clone())).collect()
}

impl Placing {
    /// Synced by the caller in any case, also where an earlier try has placed the file: it may
    /// have died before it came to that.
    fn place(&self) -> Result<Unsynced, StorageError> {
        let (file, in_new_folder) = match &self.content {
            Some(content) => self.write(content)?,
            None => (self.link_or_copy()?, true),
        };
        let folders = self.target.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        Ok(Unsynced { file, folders: folders.map(Path::to_owned).collect(), in_new_folder })
    }

    /// Writes it under its final name, which nobody knows before it is whole. True: in a folder that
    /// had to be made.
    fn write(&self, content: &[u8]) -> Result<(File, bool), StorageError> {
        let mut in_new_folder = false;
        let create = || OpenOptions::new().write(true).create_new(true).open(&self.target);
        let created = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folders()?;
                in_new_folder = true;
                create()
            }
            // An earlier try of this same result.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenOptions::new().write(true).truncate(true).open(&self.target)
            }
            created => created,
        };
        faults::pass(Point::HalfUpload);
        created
            .and_then(|mut file| file.write_all(content).map(|()| (file, in_new_folder)))
            .map_err(|error| failed("write the file", &error))
    }

    fn link_or_copy(&self) -> Result<File, StorageError> {
        if fs::metadata(&self.parked).map_err(|error| self.unreadable(error))?.len() != self.size {
            return Err(ReadError::Gone("its size is wrong").into());
        }
        self.make_folders()?;
        self.link(&self.target)?;
        faults::pass(Point::HalfUpload);
        File::open(&self.target).map_err(|error| failed("sync the file", &error))
    }

    fn make_folders(&self) -> Result<(), StorageError> {
        let folder = self.target.parent().unwrap_or(&self.root);
        folders::make(folder).map_err(|error| failed("make a folder", &error))
    }

    /// Gives the file its second name, or copies it where names cannot be shared.
    fn link(&self, target: &Path) -> Result<(), StorageError> {
        match fs::hard_link(&self.parked, target) {
            Ok(()) => Ok(()),
            // An earlier try: nobody else knows this name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_placed(target) => Ok(()),
            // Another file system, or one without links; a copy names any other trouble better.
            Err(_) => self.copy(target),
        }
    }

    fn is_placed(&self, target: &Path) -> bool {
        fs::metadata(target).is_ok_and(|found| found.is_file() && found.len() == self.size)
    }

    fn copy(&self, target: &Path) -> Result<(), StorageError> {
        // A name of its own for every try: one that ran into its timeout may still be writing.
        let part = target.with_extension(clock::token());
        let copied = self
            .copy_to(&part)
            .and_then(|()| fs::rename(&part, target).map_err(|error| failed("rename the file", &error)));
        if copied.is_err() {
            fs::remove_file(&part).ok();
        }
        copied
    }

    fn copy_to(&self, part: &Path) -> Result<(), StorageError> {
        let mut from = File::open(&self.parked).map_err(|error| self.unreadable(error))?;
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(part)
            .and_then(|mut to| io::copy(&mut from, &mut to))
            .map_err(|error| failed("write the file", &error))?;
        if written == self.size { Ok(()) } else { Err(ReadError::Gone("its size is wrong").into()) }
    }

    fn unreadable(&self, error: io::Error) -> StorageError {
        match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone("no such file").into(),
            _ => ReadError::Disk(error).into(),
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network shares sync folders by themselves and refuse to be told.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// The kind of the error only: its text may name a path.
fn failed(what: &str, error: &io::Error) -> StorageError {
    StorageError::new(format!("storage could not {what}: {}", error.kind()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> StorageError {
    StorageError::new("storage was stopped")
}
