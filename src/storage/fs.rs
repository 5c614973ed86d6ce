//! Files in a folder, served by the service itself below `/file/`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::spawn_blocking;
use url::Url;

use super::{PING_TIMEOUT, Placed, StorageError, base, by, checked_key, deadline, object_key};
use crate::{
    clock,
    faults::{self, Point},
    spool::{Parked, ReadError},
};

/// See the module.
#[derive(Clone)]
pub struct FsStorage {
    folder: Arc<Path>,
    public_url: Arc<str>,
    timeout: Duration,
}

impl FsStorage {
    pub(super) fn open(folder: &Path, public_url: &Url, timeout: Duration) -> Result<FsStorage, String> {
        fs::create_dir_all(folder)
            .map_err(|error| format!("oss.path: cannot make the folder {}: {error}", folder.display()))?;
        Ok(FsStorage { folder: folder.into(), public_url: base(public_url).into(), timeout })
    }

    /// Where the files lie; a key is a path below it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// When this returns, file and folders are synced: the result survives a power failure as far
    /// as the file system keeps the promise of `fsync`.
    pub(super) async fn put(&self, parked: &Parked) -> Result<Placed, StorageError> {
        let key = object_key(parked);
        let placing = Placing { root: Arc::clone(&self.folder), parked: parked.path.clone(), size: parked.size };
        let target = self.folder.join(&key);
        by(deadline(self.timeout), blocking(move || placing.run(&target))).await?;
        Ok(Placed { url: format!("{}/file/{key}", self.public_url), key })
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
    size: u64,
}

impl Placing {
    fn run(&self, target: &Path) -> Result<(), StorageError> {
        if fs::metadata(&self.parked).map_err(|error| self.unreadable(error))?.len() != self.size {
            return Err(ReadError::Gone("its size is wrong").into());
        }
        let folders: Vec<&Path> =
            target.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)).collect();
        if let Some(folder) = folders.first() {
            fs::create_dir_all(folder).map_err(|error| failed("make a folder", &error))?;
        }
        self.link(target)?;
        faults::pass(Point::HalfUpload);
        // Synced in any case, also where an earlier try has placed the file: it may have died
        // before it came to this. On folders that have not changed this costs next to nothing.
        File::open(target).and_then(|file| file.sync_all()).map_err(|error| failed("sync the file", &error))?;
        folders.iter().try_for_each(|folder| sync_folder(folder)).map_err(|error| failed("sync a folder", &error))
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
    spawn_blocking(work).await.unwrap_or_else(|_| Err(StorageError::new("storage was stopped")))
}
