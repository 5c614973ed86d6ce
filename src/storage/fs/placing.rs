//! How a file comes to its place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{failed, folders};
use crate::{
    clock,
    faults::{self, Point},
    spool::ReadError,
    storage::StorageError,
};

/// A file in its place that power failure may still take away. Synced by the caller in any case,
/// also where an earlier try has placed it: that may have died before it came to it.
pub(super) struct Unsynced {
    pub(super) file: File,
    /// The folder that it lies in and those above it.
    pub(super) folders: Vec<PathBuf>,
    /// The folder had to be made for it.
    pub(super) in_new_folder: bool,
}

/// A large result on its way from the spool to its place.
pub(super) struct Large {
    pub(super) parked: PathBuf,
    pub(super) size: u64,
    pub(super) target: PathBuf,
}

/// Writes a small result. An earlier try of it is overwritten: nobody else knows this name.
pub(super) fn write(root: &Path, target: &Path, content: &[u8]) -> Result<Unsynced, StorageError> {
    let written = match create(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).truncate(true).open(target).map(|file| (file, false))
        }
        created => created,
    };
    faults::pass(Point::HalfUpload);
    written
        .and_then(|(mut file, is_new)| file.write_all(content).map(|()| unsynced(root, target, file, is_new)))
        .map_err(|error| failed("write the file", &error))
}

/// Writes a pack under its final name, which nobody knows before it is whole.
pub(super) fn write_pack(root: &Path, target: &Path, pack: &[u8]) -> Result<Unsynced, StorageError> {
    let (head, rest) = pack.split_at(pack.len() / 2);
    let write = |(mut file, in_new_folder): (File, bool)| {
        file.write_all(head)?;
        faults::pass(Point::HalfUpload);
        file.write_all(rest)?;
        Ok(unsynced(root, target, file, in_new_folder))
    };
    create(target).and_then(write).map_err(|error| failed("write the file", &error))
}

impl Large {
    /// Gives the file its second name, or copies it where names cannot be shared.
    pub(super) fn place(&self, root: &Path) -> Result<Unsynced, StorageError> {
        if fs::metadata(&self.parked).map_err(unreadable)?.len() != self.size {
            return Err(ReadError::Gone("its size is wrong").into());
        }
        make_folder_of(&self.target).map_err(|error| failed("make a folder", &error))?;
        self.link()?;
        faults::pass(Point::HalfUpload);
        let file = File::open(&self.target).map_err(|error| failed("sync the file", &error))?;
        Ok(unsynced(root, &self.target, file, true))
    }

    fn link(&self) -> Result<(), StorageError> {
        match fs::hard_link(&self.parked, &self.target) {
            Ok(()) => Ok(()),
            // An earlier try: nobody else knows this name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_placed() => Ok(()),
            // Another file system, or one without links; a copy names any other trouble better.
            Err(_) => self.copy(),
        }
    }

    fn is_placed(&self) -> bool {
        fs::metadata(&self.target).is_ok_and(|found| found.is_file() && found.len() == self.size)
    }

    fn copy(&self) -> Result<(), StorageError> {
        // A name of its own for every try: one that ran into its timeout may still be writing.
        let part = self.target.with_extension(clock::token());
        let copied = self
            .copy_to(&part)
            .and_then(|()| fs::rename(&part, &self.target).map_err(|error| failed("rename the file", &error)));
        if copied.is_err() {
            fs::remove_file(&part).ok();
        }
        copied
    }

    fn copy_to(&self, part: &Path) -> Result<(), StorageError> {
        let mut from = File::open(&self.parked).map_err(unreadable)?;
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(part)
            .and_then(|mut to| io::copy(&mut from, &mut to))
            .map_err(|error| failed("write the file", &error))?;
        if written == self.size { Ok(()) } else { Err(ReadError::Gone("its size is wrong").into()) }
    }
}

/// Makes a new file. True: in a folder that had to be made.
fn create(target: &Path) -> io::Result<(File, bool)> {
    let create = || OpenOptions::new().write(true).create_new(true).open(target);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder_of(target)?;
            create().map(|file| (file, true))
        }
        created => created.map(|file| (file, false)),
    }
}

fn make_folder_of(target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), folders::make)
}

fn unsynced(root: &Path, target: &Path, file: File, in_new_folder: bool) -> Unsynced {
    let folders = target.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
    Unsynced { file, folders: folders.map(Path::to_owned).collect(), in_new_folder }
}

fn unreadable(error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound => ReadError::Gone("no such file").into(),
        _ => ReadError::Disk(error).into(),
    }
}
