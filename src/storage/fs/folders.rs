//! Folders that do not get into each other's way.
//!
//! Ext4 puts a file near its folder and a folder near the one that it is made in, so that all results
//! of all tenants and days come to lie in one part of the disk. There it does not give an inode out
//! again that was deleted within the last minutes but looks for another, one by one from the
//! beginning: where thousands of results were just cleaned up, or anybody else has just deleted as
//! many files near by, each new one cost half a millisecond and more of processor time. A folder
//! that is marked as the top of a hierarchy has those in it spread over the disk by their names; so
//! the days of a tenant lie apart, and what is deleted is seldom near what is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::clock;

/// Makes a folder and those above it that are missing.
///
/// It is made under a random name first: by its own name the same day of every tenant would come to
/// the same place. A folder that somebody else has made meanwhile stays: whoever is about to make a file
/// in it would lose it.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent)?;
    }
    let fresh: PathBuf = folder.with_file_name(clock::token());
    fs::create_dir(&fresh)?;
    keep_apart(&fresh);
    if rename_to_new(&fresh, folder).is_ok() {
        return Ok(());
    }
    fs::remove_dir(&fresh).ok();
    // Somebody else was faster, or this is a file system that cannot do so, and needs none of this.
    fs::create_dir_all(folder)
}

/// Renames, but replaces nothing, not even the empty folder that a rename usually replaces.
#[cfg(target_os = "linux")]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Elsewhere it cannot be done in one step.
#[cfg(not(target_os = "linux"))]
fn rename_to_new(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Marks a folder so that those in it are spread over the disk. What cannot be marked, on a file
/// system of another kind, needs no mark.
#[cfg(target_os = "linux")]
pub(super) fn keep_apart(folder: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

    let Ok(folder) = fs::File::open(folder) else { return };
    if let Ok(flags) = ioctl_getflags(&folder) {
        ioctl_setflags(&folder, flags | IFlags::TOPDIR).ok();
    }
}

/// Elsewhere there is nothing of the kind.
#[cfg(not(target_os = "linux"))]
pub(super) fn keep_apart(_folder: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_those_above_it_and_nothing_beside() {
        let root = tempfile::tempdir().unwrap();
        let day = root.path().join("7/20251122");
        make(&day).unwrap();
        fs::write(day.join("x"), "x").unwrap();
        make(&day).unwrap();
        assert!(day.join("x").is_file());
        let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((names(root.path()), names(&root.path().join("7"))), (1, 1));
    }

    #[test]
    fn some_that_make_a_folder_at_once_all_fill_it() {
        let root = tempfile::tempdir().unwrap();
        for tenant in 0..200 {
            let tenant = root.path().join(tenant.to_string());
            let day = tenant.join("20251122");
            let fill = &|name: usize| make(&day).and_then(|()| fs::write(day.join(name.to_string()), "x"));
            std::thread::scope(|scope| {
                let filled: Vec<_> = (0..4).map(|name| scope.spawn(move || fill(name))).collect();
                filled.into_iter().for_each(|filled| filled.join().unwrap().unwrap());
            });
            let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
            assert_eq!((names(&tenant), names(&day)), (1, 4));
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 200);
    }
}
