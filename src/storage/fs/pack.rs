//! What a pack looks like: many small results in one file.
//!
//! Numbers are little-endian. A pack of `count` records is
//!
//! | from | bytes | what |
//! | ---: | ---: | --- |
//! | 0 | 4 | `MAP1` |
//! | 4 | 4 | `count` |
//! | 8 | 8 | when it was made, in milliseconds since 1970 |
//! | 16 + 16 n | 1 | record n: `+` alive, `-` deleted |
//! | 17 + 16 n | 1 | nothing |
//! | 18 + 16 n | 2 | length of its name |
//! | 20 + 16 n | 4 | length of its content |
//! | 24 + 16 n | 4 | where its name begins, right before its content |
//! | 28 + 16 n | 4 | CRC-32 of name and content |
//!
//! A record is only what it says it is if its name is the one that was asked for, with the token in
//! it that nobody can guess, and if its checksum is right: so nothing else of the file is trusted or
//! needs a checksum of its own.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// What a pack begins with.
const MAGIC: [u8; 4] = *b"MAP1";

/// Bytes before the table.
pub(super) const HEAD: usize = 16;

/// Bytes of the table for each record.
pub(super) const ENTRY: usize = 16;

/// Most records of a pack.
pub(super) const MOST_RECORDS: usize = 512;

/// Longest name and largest content of a record that is read. What is written is smaller.
const MOST_NAME: usize = 1024;
const MOST_CONTENT: usize = 1024 * 1024;

/// Milliseconds from 1970 to the first year that has no HTTP date.
const YEAR_10000: u64 = 253_402_300_800_000;

/// The mark of a record that can be read.
const ALIVE: u8 = b'+';

/// The mark of a record that was deleted.
pub(super) const DEAD: u8 = b'-';

/// One result on its way into a pack.
pub(super) struct Record<'a> {
    /// The last part of its key.
    pub(super) name: &'a str,
    pub(super) content: &'a [u8],
}

/// What a pack says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    count: u32,
    made: u64,
}

/// What a pack says of one of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    mark: u8,
    name: usize,
    content: usize,
    begin: u32,
    crc: u32,
}

/// A whole pack, all of its records alive; nothing where they are too many or too large for one.
pub(super) fn encode(made: SystemTime, records: &[Record<'_>]) -> Option<Vec<u8>> {
    if records.len() > MOST_RECORDS {
        return None;
    }
    let table = HEAD + ENTRY * records.len();
    let size = records.iter().map(|record| record.name.len() + record.content.len()).sum::<usize>() + table;
    let made = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut pack = Vec::with_capacity(size);
    pack.extend_from_slice(&MAGIC);
    pack.extend_from_slice(&u32::try_from(records.len()).ok()?.to_le_bytes());
    pack.extend_from_slice(&u64::try_from(made.as_millis()).ok()?.to_le_bytes());
    let mut begin = table;
    for record in records {
        if record.name.len() > MOST_NAME || record.content.len() > MOST_CONTENT {
            return None;
        }
        pack.extend_from_slice(&[ALIVE, 0]);
        pack.extend_from_slice(&u16::try_from(record.name.len()).ok()?.to_le_bytes());
        pack.extend_from_slice(&u32::try_from(record.content.len()).ok()?.to_le_bytes());
        pack.extend_from_slice(&u32::try_from(begin).ok()?.to_le_bytes());
        pack.extend_from_slice(&checksum(record.name.as_bytes(), record.content).to_le_bytes());
        begin += record.name.len() + record.content.len();
    }
    for record in records {
        pack.extend_from_slice(record.name.as_bytes());
        pack.extend_from_slice(record.content);
    }
    Some(pack)
}

impl Head {
    /// Nothing where this is no pack.
    pub(super) fn read(bytes: &[u8; HEAD]) -> Option<Head> {
        let [a, b, c, d, rest @ ..] = bytes;
        let [e, f, g, h, made @ ..] = rest;
        let head = Head { count: u32::from_le_bytes([*e, *f, *g, *h]), made: u64::from_le_bytes(*made) };
        let is_one = [*a, *b, *c, *d] == MAGIC && head.records() <= MOST_RECORDS;
        is_one.then_some(head)
    }

    /// When the pack was made; 1970 where it says what no HTTP date can.
    pub(super) fn made(&self) -> SystemTime {
        let made = Duration::from_millis(Some(self.made).filter(|made| *made < YEAR_10000).unwrap_or_default());
        SystemTime::UNIX_EPOCH.checked_add(made).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Where the entry of that record lies, which begins with its mark; nothing where the pack has no
    /// such record.
    pub(super) fn entry(&self, number: u32) -> Option<u64> {
        (number < self.count).then(|| HEAD as u64 + ENTRY as u64 * u64::from(number))
    }

    /// Bytes of the table.
    pub(super) fn table(&self) -> usize {
        ENTRY * self.records()
    }

    fn records(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }
}

impl Entry {
    /// Nothing where its lengths are none that were ever written.
    pub(super) fn read(bytes: &[u8; ENTRY]) -> Option<Entry> {
        let [mark, _, n0, n1, rest @ ..] = *bytes;
        let [c0, c1, c2, c3, b0, b1, b2, b3, crc @ ..] = rest;
        let entry = Entry {
            mark,
            name: usize::from(u16::from_le_bytes([n0, n1])),
            content: usize::try_from(u32::from_le_bytes([c0, c1, c2, c3])).ok()?,
            begin: u32::from_le_bytes([b0, b1, b2, b3]),
            crc: u32::from_le_bytes(crc),
        };
        (entry.name <= MOST_NAME && entry.content <= MOST_CONTENT).then_some(entry)
    }

    /// Not deleted.
    pub(super) fn is_alive(&self) -> bool {
        self.mark == ALIVE
    }

    /// Where name and content begin.
    pub(super) fn begin(&self) -> u64 {
        u64::from(self.begin)
    }

    /// Bytes of name and content together.
    pub(super) fn size(&self) -> usize {
        self.name + self.content
    }

    /// Whether what was read from [`Entry::begin`] is the record of that name, whatever became of its
    /// content.
    pub(super) fn is_named(&self, record: &[u8], name: &str) -> bool {
        record.len() == self.size() && record.get(..self.name) == Some(name.as_bytes())
    }

    /// Where the content lies in what was read from [`Entry::begin`], if that is the record of that
    /// name and whole.
    pub(super) fn content(&self, record: &[u8], name: &str) -> Option<Range<usize>> {
        let is_whole = self.is_named(record, name) && crc32fast::hash(record) == self.crc;
        is_whole.then_some(self.name..record.len())
    }
}

/// Whether all records are deleted, by the table.
pub(super) fn all_dead(table: &[u8]) -> bool {
    table.chunks(ENTRY).all(|entry| entry.first() == Some(&DEAD))
}

fn checksum(name: &[u8], content: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(name);
    checksum.update(content);
    checksum.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(pack: &[u8]) -> Option<Head> {
        Head::read(pack.get(..HEAD)?.try_into().unwrap())
    }

    /// Reads a record as it is read from a file: past its end there is nothing.
    fn read<'a>(pack: &'a [u8], number: u32, name: &str) -> Option<&'a [u8]> {
        let at = usize::try_from(head(pack)?.entry(number)?).unwrap();
        let entry = Entry::read(pack.get(at..at + ENTRY)?.try_into().unwrap()).filter(Entry::is_alive)?;
        let begin = usize::try_from(entry.begin()).unwrap();
        let record = pack.get(begin..begin.checked_add(entry.size())?)?;
        record.get(entry.content(record, name)?)
    }

    fn encoded(records: &[(String, Vec<u8>)]) -> Vec<u8> {
        let records: Vec<_> = records.iter().map(|(name, content)| Record { name, content }).collect();
        encode(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123), &records).unwrap()
    }

    fn records() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        prop::collection::vec(("[a-z0-9.-]{1,80}", prop::collection::vec(any::<u8>(), 0..300)), 1..20)
    }

    #[test]
    fn a_pack_is_what_its_description_says() {
        let pack = encoded(&[("a.txt".into(), b"hello".to_vec()), ("b".into(), vec![])]);
        assert_eq!(&pack[..8], b"MAP1\x02\0\0\0");
        assert_eq!(pack[8..16], 1_700_000_000_123_u64.to_le_bytes());
        assert_eq!(&pack[16..28], b"+\0\x05\0\x05\0\0\0\x30\0\0\0");
        assert_eq!(pack[28..32], crc32fast::hash(b"a.txthello").to_le_bytes());
        assert_eq!(&pack[32..44], b"+\0\x01\0\0\0\0\0\x3a\0\0\0");
        assert_eq!(&pack[48..], b"a.txthellob");
        assert_eq!(head(&pack).unwrap().made(), SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    }

    #[test]
    fn a_record_opens_by_its_own_name_only() {
        let pack = encoded(&[("a.txt".into(), b"hello".to_vec()), ("b.txt".into(), b"there".to_vec())]);
        assert_eq!(read(&pack, 0, "a.txt"), Some(b"hello".as_slice()));
        for (number, name) in [(0, "b.txt"), (1, "a.txt"), (2, "a.txt"), (0, ""), (0, "a.txth"), (0, "a.tx")] {
            assert_eq!(read(&pack, number, name), None, "{number} {name}");
        }
    }

    #[test]
    fn too_many_or_too_large_records_make_no_pack() {
        let (name, content) = ("n".repeat(MOST_NAME + 1), vec![0; MOST_CONTENT + 1]);
        let made = |records: &[Record<'_>]| encode(SystemTime::UNIX_EPOCH, records).is_some();
        let many = |count: usize| (0..count).map(|_| Record { name: "n", content: b"" }).collect::<Vec<_>>();
        assert!(made(&many(MOST_RECORDS)) && !made(&many(MOST_RECORDS + 1)));
        assert!(!made(&[Record { name: &name, content: b"" }]));
        assert!(!made(&[Record { name: "n", content: &content }]));
    }

    proptest! {
        #[test]
        fn every_record_is_read_back(records in records()) {
            let pack = encoded(&records);
            for (number, (name, content)) in (0..).zip(&records) {
                prop_assert_eq!(read(&pack, number, name), Some(content.as_slice()));
            }
        }

        #[test]
        fn a_record_is_dead_by_its_mark_alone_and_a_pack_when_all_are(records in records()) {
            let mut pack = encoded(&records);
            let table = HEAD..HEAD + head(&pack).unwrap().table();
            for (number, (name, _)) in (0..).zip(&records) {
                prop_assert!(!all_dead(&pack[table.clone()]));
                let mark = usize::try_from(head(&pack).unwrap().entry(number).unwrap()).unwrap();
                pack[mark] = DEAD;
                prop_assert_eq!(read(&pack, number, name), None);
            }
            prop_assert!(all_dead(&pack[table]));
        }

        #[test]
        fn a_damaged_pack_gives_a_record_as_it_was_or_none(
            records in records(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(),
        ) {
            let mut pack = encoded(&records);
            let at = at.index(pack.len());
            pack[at] = byte;
            pack.truncate(cut.index(pack.len()) + 1);
            for (number, (name, content)) in (0..).zip(&records) {
                if let Some(found) = read(&pack, number, name) {
                    prop_assert_eq!(found, content.as_slice());
                }
            }
            if let Some(head) = head(&pack) {
                httpdate::fmt_http_date(head.made());
            }
        }

        #[test]
        fn nothing_is_too_odd_to_be_looked_at(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), number in 0..8_u32, is_labelled: bool,
        ) {
            if is_labelled && bytes.len() > 8 {
                bytes[..8].copy_from_slice(b"MAP1\x08\0\0\0");
            }
            prop_assert_eq!(read(&bytes, number, "7-1-token.wav"), None);
        }
    }
}
