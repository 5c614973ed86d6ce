//! Results in packs: how they are found, read and deleted.
//!
//! The key of one is `<tenant>/<day>/<pack>.pack/<number>/<name>`, its name the last part of the key
//! that it would have as a file. Whoever knows pack and number knows nothing yet: only the name, with
//! its token, opens a record.
//!
//! A record is deleted by one byte, and its name and content are overwritten. Whoever finds all records of
//! a pack deleted removes it. Nodes that share the folder take turns by a lock on the pack: network
//! file systems write whole pages back, and with them what another node has just changed.
//!
//! A try of which nobody learns how it ended (the process died, or waited for too long) leaves a
//! record behind that no task refers to, as the result is stored once more; it keeps its pack
//! from being removed. That is at most what was on its way at that moment.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::SystemTime,
};

use bytes::Bytes;

use super::pack::{self, DEAD, ENTRY, Entry, HEAD, Head};
use crate::clock;

/// How the name of a pack ends.
const SUFFIX: &str = ".pack";

/// Random hex digits before that, which tell the packs of a folder apart and are no secret.
const DIGITS: usize = 16;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// Below the storage's folder.
    pack: &'a str,
    number: u32,
    name: &'a str,
}

/// A pack in which a record was found.
struct Found {
    file: File,
    head: Head,
    entry: Entry,
    /// Where the mark of the entry lies.
    mark: u64,
    /// Name and content.
    record: Vec<u8>,
}

impl<'a> Address<'a> {
    /// Nothing where the key is one of a file.
    pub(super) fn read(key: &'a str) -> Option<Address<'a>> {
        let (rest, name) = key.rsplit_once('/')?;
        let (pack, number) = rest.rsplit_once('/')?;
        let is_pack = is_pack(pack.rsplit('/').next().unwrap_or_default());
        // The numbers that are written have no signs and no leading zeros.
        let number = number.parse().ok().filter(|read: &u32| read.to_string() == number)?;
        is_pack.then_some(Address { pack, number, name })
    }

    /// The record's content, and when its pack was made.
    ///
    /// # Errors
    /// `NotFound` where there is no such record any more, or it is damaged.
    pub(super) fn open(&self, root: &Path) -> io::Result<(Bytes, SystemTime)> {
        let Found { head, entry, record, .. } = self.find(File::open(root.join(self.pack))?)?;
        let content = entry.content(&record, self.name).ok_or_else(missing)?;
        Ok((Bytes::from(record).slice(content), head.made()))
    }

    /// Deletes the record, and the pack with the last one. One that is not there is fine.
    pub(super) fn delete(&self, root: &Path) -> io::Result<()> {
        let found = match self.open_alone(root).and_then(|file| self.find(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        // The mark goes first: from here on nobody is shown half of it.
        found.file.write_all_at(&[DEAD], found.mark)?;
        let mut table = vec![0; found.head.table()];
        found.file.read_exact_at(&mut table, HEAD as u64)?;
        if !pack::all_dead(&table) {
            return found.file.write_all_at(&vec![0; found.entry.size()], found.entry.begin());
        }
        match fs::remove_file(root.join(self.pack)) {
            // Another node has deleted a record at the same moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The pack, for one who changes it; others wait until it is closed.
    fn open_alone(&self, root: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(root.join(self.pack))?;
        match file.lock() {
            // Where nobody can lock, one byte for each record has to do.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
            locked => locked.map(|()| file),
        }
    }

    fn find(&self, file: File) -> io::Result<Found> {
        let mut bytes = [0; HEAD];
        read_at(&file, &mut bytes, 0)?;
        let head = Head::read(&bytes).ok_or_else(missing)?;
        let mark = head.entry(self.number).ok_or_else(missing)?;
        let mut bytes = [0; ENTRY];
        read_at(&file, &mut bytes, mark)?;
        let entry = Entry::read(&bytes).filter(Entry::is_alive).ok_or_else(missing)?;
        let mut record = vec![0; entry.size()];
        read_at(&file, &mut record, entry.begin())?;
        match entry.is_named(&record, self.name) {
            true => Ok(Found { file, head, entry, mark, record }),
            false => Err(missing()),
        }
    }
}

/// Whether a file of that name is a pack. No result has such a name: they begin with their task.
fn is_pack(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether nothing is to be served under a key that is no record's: it names a whole pack, or may do so
/// where a file system takes letters for one another.
pub(super) fn is_closed(key: &str) -> bool {
    !key.is_ascii() || is_pack(&key.rsplit('/').next().unwrap_or_default().to_ascii_lowercase())
}

/// The key of a new pack in the folder of that key.
pub(super) fn new_key(folder: &str) -> String {
    format!("{folder}/{:.DIGITS$}{SUFFIX}", clock::token())
}

/// The key of a record; `name` is the last part of the key that it would have as a file.
pub(super) fn record_key(pack: &str, number: usize, name: &str) -> String {
    format!("{pack}/{number}/{name}")
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(missing()),
        read => read,
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fs::pack::Record;

    const PACK: &str = "7/20251122/0123456789abcdef.pack";

    /// A folder with a pack of `count` records, each with its number for content and name.
    fn folder(count: usize) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let numbers: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        let records: Vec<_> = numbers.iter().map(|n| Record { name: n, content: n.as_bytes() }).collect();
        let path = root.path().join(PACK);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, pack::encode(clock::now().into(), &records).unwrap()).unwrap();
        root
    }

    fn open(root: &Path, number: u32, name: &str) -> io::Result<Bytes> {
        Address { pack: PACK, number, name }.open(root).map(|(content, _)| content)
    }

    #[test]
    fn a_records_key_says_where_it_lies_and_a_files_key_nothing() {
        let key = record_key(PACK, 17, "a-1-b.wav");
        assert_eq!(Address::read(&key), Some(Address { pack: PACK, number: 17, name: "a-1-b.wav" }));
        let fresh = record_key(&new_key("7/20251122"), 0, "a");
        assert!(Address::read(&fresh).is_some(), "{fresh}");
        for other in [
            "",
            "7/20251122/a-1-b.wav",
            "7/20251122/a.pack/17/a-1-b.wav",
            "7/20251122/0123456789abcdef.pack/a-1-b.wav",
            "7/20251122/0123456789abcdef.pack/017/a-1-b.wav",
            "7/20251122/0123456789abcdef.pack/+17/a-1-b.wav",
            "7/20251122/0123456789abcdef.pack/17/",
            "7/20251122/0123456789abcdef.pack/17/a/b",
            "7/20251122/0123456789ABCDEF.pack/17/a-1-b.wav",
        ] {
            let name = other.rsplit('/').next().unwrap();
            assert!(Address::read(other).is_none_or(|address| address.name.is_empty()), "{other} {name}");
        }
    }

    #[test]
    fn a_pack_as_a_whole_is_closed_however_it_is_spelt() {
        for closed in [PACK, "0123456789abcdef.PACK", "7/0123456789ABCDEF.Pack", "7/0123456789abcdef.pac\u{212a}"] {
            assert!(is_closed(closed), "{closed}");
        }
        for open in ["", "7/20251122/a-1-b.wav", "7/20251122/019aa9b1-7c00-7000-8000-000000000001-1-a.pack"] {
            assert!(!is_closed(open), "{open}");
        }
    }

    #[test]
    fn a_record_opens_by_its_name_until_it_is_deleted() {
        let root = folder(3);
        assert_eq!(open(root.path(), 1, "1").unwrap(), "1");
        for (number, name) in [(1, "2"), (3, "3"), (u32::MAX, "1")] {
            assert_eq!(open(root.path(), number, name).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let address = Address { pack: PACK, number: 1, name: "1" };
        for _ in 0..2 {
            address.delete(root.path()).unwrap();
            assert_eq!(open(root.path(), 1, "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(open(root.path(), 2, "2").unwrap(), "2");
    }

    #[test]
    fn what_is_deleted_is_overwritten_and_the_last_one_takes_the_pack_along() {
        let root = folder(3);
        let path = root.path().join(PACK);
        let size = fs::metadata(&path).unwrap().len();
        for (number, name) in [(2, "2"), (0, "0")] {
            Address { pack: PACK, number, name }.delete(root.path()).unwrap();
        }
        let left = fs::read(&path).unwrap();
        assert_eq!(left.len() as u64, size);
        assert_eq!(&left[HEAD + 3 * ENTRY..], b"\0\x0011\0\0".as_slice());
        Address { pack: PACK, number: 1, name: "wrong" }.delete(root.path()).unwrap();
        assert!(path.exists());
        Address { pack: PACK, number: 1, name: "1" }.delete(root.path()).unwrap();
        assert!(!path.exists());
        Address { pack: PACK, number: 1, name: "1" }.delete(root.path()).unwrap();
    }

    #[test]
    fn nodes_that_delete_at_once_leave_nothing() {
        let root = folder(64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..64_u32 {
                        let name = number.to_string();
                        Address { pack: PACK, number, name: &name }.delete(root.path()).unwrap();
                    }
                });
            }
        });
        assert!(!root.path().join(PACK).exists());
    }

    #[test]
    fn a_damaged_pack_is_not_there() {
        let root = folder(2);
        let path = root.path().join(PACK);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, HEAD, HEAD + ENTRY, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(open(root.path(), 1, "1").unwrap_err().kind(), io::ErrorKind::NotFound, "{length}");
            Address { pack: PACK, number: 1, name: "1" }.delete(root.path()).unwrap();
        }
    }
}
