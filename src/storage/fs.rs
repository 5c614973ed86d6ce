//! Files in a folder, served by the service itself below `/file/`.
//!
//! A result is durable when [`FsStorage::put`] returns: file, folder and the folders above are
//! synced before its task reaches state 2. Small results that come together are written by one
//! thread and synced together: those of one tenant and day as records of one file, a `pack`, where
//! they are many, each as a file of its own otherwise; see `batch_sync`.

mod batch_sync;
mod folders;
mod pack;
mod packed;
mod placing;
mod signed_url;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::task::spawn_blocking;
use url::Url;

use self::{
    batch_sync::{BatchSync, WORTH_ONE_SYNC},
    pack::Record,
    packed::Address,
    placing::{Large, Unsynced},
    signed_url::SignedUrls,
};
use super::{PING_TIMEOUT, Placed, StorageError, base, by, checked_key, deadline, object_key};
use crate::{
    clock,
    secrets::Vault,
    spool::Parked,
    trips::{Errand, Trips},
};

/// Small results placed and synced in one trip.
const MOST_AT_ONCE: usize = pack::MOST_RECORDS;

/// Small results that are placed while those before them are synced; fewer wait for that sync's end.
const WORTH_A_SECOND_TRIP: usize = 32;

/// Results of one folder from which on one file for all of them is cheaper than one for each.
const WORTH_A_PACK: usize = 8;

/// Bytes of a pack, beyond which another one is begun; so much is put together in memory.
const PACK_SIZE: usize = 4 * 1024 * 1024;

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

/// What lies under a key.
pub enum Opened {
    /// A file of its own (or a folder, which is nobody's result).
    File(File),
    /// One of those that share a file.
    Record {
        /// All of it.
        content: Bytes,
        /// When it was stored.
        stored_at: SystemTime,
    },
}

impl FsStorage {
    /// `signing`: under which key, and how long a URL works. `packs`: many small results may share a
    /// file.
    pub(super) fn open(
        folder: &Path,
        public_url: &Url,
        signing: Option<(&Vault, Duration)>,
        packs: bool,
        timeout: Duration,
    ) -> Result<FsStorage, String> {
        let signed = signing.map(|(vault, ttl)| {
            SignedUrls::new(vault, ttl).ok_or("oss.urlTtlSeconds: URLs cannot be signed without secrets.key")
        });
        let signed = signed.transpose()?.map(Arc::new);
        fs::create_dir_all(folder)
            .map_err(|error| format!("oss.path: cannot make the folder {}: {error}", folder.display()))?;
        folders::keep_apart(folder);
        let folder: Arc<Path> = folder.into();
        let sync = BatchSync::of(&folder);
        let placer = Placer { root: Arc::clone(&folder), packs, sync, settled: Mutex::default() };
        let small = Trips::in_pairs(placer, MOST_AT_ONCE, WORTH_A_SECOND_TRIP);
        Ok(FsStorage { folder, public_url: base(public_url).into(), signed, timeout, small })
    }

    /// When this returns, file and folders are synced: the result survives a power failure as far
    /// as the file system keeps the promise of `fsync`.
    pub(super) async fn put(&self, parked: &Parked) -> Result<Placed, StorageError> {
        let key = object_key(parked);
        let placed = async {
            let Some(content) = parked.in_memory() else {
                // A large one takes its time, which the small ones need not wait for.
                return self.put_large(key, parked).await;
            };
            self.small.send(Small { key, content: content.clone() }).await.map_err(|_| stopped())?
        };
        let key = by(deadline(self.timeout), placed).await?;
        let url = if self.signed.is_some() { String::new() } else { self.unsigned(&key) };
        Ok(Placed { url, key })
    }

    async fn put_large(&self, key: String, parked: &Parked) -> Result<String, StorageError> {
        let (root, target) = (Arc::clone(&self.folder), self.folder.join(&key));
        let large = Large { parked: parked.path.clone(), size: parked.size, target };
        blocking(move || sync_each(vec![large.place(&root)]).into_iter().collect()).await.map(|()| key)
    }

    /// What lies under that key. Blocks.
    ///
    /// # Errors
    /// `NotFound` where nothing lies there, or nothing for anybody to see.
    pub fn look(&self, key: &str) -> io::Result<Opened> {
        let key = checked_key(key).map_err(|_| io::ErrorKind::NotFound)?;
        if let Some(address) = Address::read(key) {
            let (content, stored_at) = address.open(&self.folder)?;
            return Ok(Opened::Record { content, stored_at });
        }
        if packed::is_closed(key) {
            return Err(io::ErrorKind::NotFound.into());
        }
        File::open(self.folder.join(key)).map(Opened::File)
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
        let (root, key) = (Arc::clone(&self.folder), checked_key(key)?.to_owned());
        let delete = move || {
            let deleted = match Address::read(&key) {
                Some(address) => address.delete(&root),
                None => fs::remove_file(root.join(&key)),
            };
            match deleted {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                deleted => deleted.map_err(|error| failed("delete the file", &error)),
            }
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

/// A small result on its way to its place.
struct Small {
    /// Its key as a file.
    key: String,
    content: Bytes,
}

/// What is written as one file. Results come with their place in the batch.
enum Load {
    File(usize, Small),
    Pack { key: String, records: Vec<(usize, Small)> },
}

/// Places small results, and syncs them together.
struct Placer {
    root: Arc<Path>,
    packs: bool,
    sync: BatchSync,
    /// The folder that was synced last, with those above it: only what is in it is new since.
    settled: Mutex<PathBuf>,
}

impl Errand for Placer {
    type Item = Small;
    /// The key under which it lies now.
    type Answer = Result<String, StorageError>;

    fn run(&self, batch: Vec<Small>) -> Vec<Result<String, StorageError>> {
        let loads = self.loads(batch);
        let synced = self.sync(loads.iter().map(|load| self.place(load)).collect());
        let mut answers = Vec::new();
        for (load, synced) in loads.into_iter().zip(synced) {
            if synced.is_err() {
                self.withdraw(&load);
            }
            answers.extend(load.keys().into_iter().map(|(at, key)| (at, synced.clone().map(|()| key))));
        }
        answers.sort_unstable_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

impl Placer {
    /// Which results share a file.
    fn loads(&self, batch: Vec<Small>) -> Vec<Load> {
        let mut rest: Vec<_> = batch.into_iter().enumerate().collect();
        rest.sort_by(|(_, one), (_, other)| one.folder().cmp(other.folder()));
        let mut rest = rest.into_iter().peekable();
        let mut loads = Vec::new();
        while let Some((at, first)) = rest.next() {
            let (folder, mut size) = (first.folder().to_owned(), first.content.len());
            let mut records = vec![(at, first)];
            while let Some(next) = rest
                .next_if(|(_, next)| self.packs && next.folder() == folder && size + next.content.len() <= PACK_SIZE)
            {
                size += next.1.content.len();
                records.push(next);
            }
            if records.len() < WORTH_A_PACK {
                loads.extend(records.into_iter().map(|(at, small)| Load::File(at, small)));
            } else {
                loads.push(Load::Pack { key: packed::new_key(&folder), records });
            }
        }
        loads
    }

    fn place(&self, load: &Load) -> Result<Unsynced, StorageError> {
        match load {
            Load::File(_, small) => placing::write(&self.root, &self.root.join(&small.key), &small.content),
            Load::Pack { key, records } => {
                let records: Vec<_> =
                    records.iter().map(|(_, small)| Record { name: small.name(), content: &small.content }).collect();
                let pack = pack::encode(clock::now().into(), &records)
                    .ok_or_else(|| StorageError::new("storage could not pack so large a result"))?;
                placing::write_pack(&self.root, &self.root.join(key), &pack)
            }
        }
    }

    fn sync(&self, mut placed: Vec<Result<Unsynced, StorageError>>) -> Vec<Result<(), StorageError>> {
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

    /// Removes a pack that came to nothing. Its results are stored anew, under other keys.
    fn withdraw(&self, load: &Load) {
        match load {
            // Overwritten by the next try.
            Load::File(..) => {}
            Load::Pack { key, .. } => drop(fs::remove_file(self.root.join(key))),
        }
    }

    fn settled(&self) -> MutexGuard<'_, PathBuf> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Small {
    fn folder(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

impl Load {
    /// Where each result lies, with its place in the batch.
    fn keys(self) -> Vec<(usize, String)> {
        match self {
            Load::File(at, small) => vec![(at, small.key)],
            Load::Pack { key, records } => {
                let record = |(number, (at, small)): (usize, (usize, Small))| {
                    (at, packed::record_key(&key, number, small.name()))
                };
                records.into_iter().enumerate().map(record).collect()
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn placer(packs: bool) -> (Placer, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let sync = BatchSync::of(root.path());
        (Placer { root: root.path().into(), packs, sync, settled: Mutex::default() }, root)
    }

    /// A result of that tenant, with its number and size.
    fn small(tenant: usize, number: usize, size: usize) -> Small {
        Small { key: format!("{tenant}/20251122/{number}.txt"), content: vec![b'x'; size].into() }
    }

    /// How many results each file of a batch holds.
    fn sizes(placer: &Placer, batch: Vec<Small>) -> Vec<usize> {
        let size = |load: &Load| match load {
            Load::File(..) => 1,
            Load::Pack { records, .. } => records.len(),
        };
        placer.loads(batch).iter().map(size).collect()
    }

    #[test]
    fn results_share_a_file_where_one_tenant_has_many_and_they_are_not_too_large_together() {
        let (placer, _root) = placer(true);
        assert_eq!(sizes(&placer, vec![small(1, 0, 9)]), [1]);
        assert_eq!(sizes(&placer, (0..7).map(|n| small(1, n, 9)).collect()), [1; 7]);
        assert_eq!(sizes(&placer, (0..8).map(|n| small(1, n, 9)).collect()), [8]);
        let mixed = (0..30).map(|n| small(n % 3, n, 9)).chain([small(7, 30, 9)]).collect();
        assert_eq!(sizes(&placer, mixed), [10, 10, 10, 1]);
        let part = PACK_SIZE / 16;
        assert_eq!(sizes(&placer, (0..40).map(|n| small(1, n, part)).collect()), [16, 16, 8]);
    }

    #[test]
    fn without_packs_nothing_shares_a_file() {
        let (placer, _root) = placer(false);
        assert_eq!(sizes(&placer, (0..20).map(|n| small(1, n, 9)).collect()), [1; 20]);
    }

    #[test]
    fn every_result_of_a_batch_is_told_its_own_place() {
        let (placer, root) = placer(true);
        let batch: Vec<_> = (0..50).map(|n| small(n % 4, n, n)).chain([small(9, 50, 50)]).collect();
        let keys = placer.run(batch);
        for (n, key) in keys.into_iter().enumerate() {
            let key = key.unwrap();
            assert!(key.ends_with(&format!("/{n}.txt")), "{key}");
            let length = match Address::read(&key) {
                Some(address) => address.open(root.path()).unwrap().0.len(),
                None => fs::read(root.path().join(&key)).unwrap().len(),
            };
            assert_eq!((length, key.contains(".pack/")), (n, n < 50), "{key}");
        }
    }

    #[test]
    fn a_pack_that_cannot_be_written_fails_its_own_results_only() {
        let (placer, root) = placer(true);
        // A file where tenant 1's folder would have to be made.
        fs::write(root.path().join("1"), "").unwrap();
        let answers = placer.run((0..20).map(|n| small(n % 2, n, 9)).collect());
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_ok(), n % 2 == 0, "{n}");
        }
    }
}
