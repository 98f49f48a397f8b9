//! The digests of files, remembered from build to build.
//!
//! A file is known by its inode and stamp, not by its path, so a renamed directory costs nothing but looking. Only
//! settled stamps are remembered (see [`super::fingerprint`]).
//!
//! ```text
//! magic, 32 bytes
//! record, 64 bytes each, sorted by inode and device:
//!     inode 8, ctime 8, size 8, device 4, unused 2, flags 2, digest 32    (numbers little-endian)
//! SHA-256 of all before
//! ```
//! What is torn, damaged or of another version is as if nothing were known.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fingerprint::Stamp;
use crate::image::{Digest, Sha256};

/// The number is the version of the format.
const MAGIC: &[u8; 32] = b"cofferdam digests of files 1\0\0\0\0";
const RECORD: usize = 64;
/// How many times a record is written again without having been asked for: other Dockerfiles may use other parts
/// of a context, and files that are gone are never asked for.
const MOST_UNUSED: u16 = 16;
/// The most records that are kept; 256 MB.
const MOST: usize = 1 << 22;
/// The flag of a file that has `user.*` attributes, which are not in the record.
const HAS_ATTRIBUTES: u16 = 1;

/// The digests of files that are known, and those that are found out in this build. Can be shared between threads.
#[derive(Debug, Default)]
pub struct Digests {
    /// Records as they were read.
    known: Vec<u8>,
    /// A bit for each of them: whether it was asked for.
    used: Vec<AtomicU64>,
    learnt: Mutex<Vec<Record>>,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The digest of its content.
    pub digest: Digest,
    /// Whether it has `user.*` attributes.
    pub has_attributes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    stamp: Stamp,
    unused: u16,
    known: Known,
}

impl Digests {
    /// Those that [`Digests::write`] has written.
    pub fn read(mut bytes: Vec<u8>) -> Self {
        let whole = bytes.len().checked_sub(32).filter(|end| {
            end.checked_sub(MAGIC.len()).is_some_and(|size| size % RECORD == 0)
                && bytes.starts_with(MAGIC)
                && bytes
                    .get(*end..)
                    .is_some_and(|sum| sum == Digest::of(bytes.get(..*end).unwrap_or_default()).as_raw())
        });
        let Some(end) = whole else { return Self::default() };
        bytes.truncate(end);
        bytes.drain(..MAGIC.len());
        let words = (bytes.len() / RECORD).div_ceil(64);
        let used = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Self { known: bytes, used, learnt: Mutex::default() }
    }

    /// What is known of the file with this stamp.
    pub fn get(&self, stamp: &Stamp) -> Option<Known> {
        let (records, _) = self.known.as_chunks::<RECORD>();
        let key = (stamp.inode, u32::try_from(stamp.device).ok()?);
        let found = records.binary_search_by_key(&key, key_of).ok()?;
        let record = Record::decode(records.get(found)?);
        if record.stamp != *stamp {
            return None;
        }
        if let Some(word) = self.used.get(found / 64) {
            word.fetch_or(1 << (found % 64), Ordering::Relaxed);
        }
        Some(record.known)
    }

    /// Remembers what a file is. The stamp has to be a settled one.
    pub fn learn(&self, stamp: Stamp, known: Known) {
        // Where device numbers are larger nothing is remembered.
        if u32::try_from(stamp.device).is_ok() {
            let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
            learnt.push(Record { stamp, unused: 0, known });
        }
    }

    /// How many files were found out in this build. If none, there is nothing to write.
    pub fn learnt(&self) -> usize {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Writes what is known by now.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut records = self.learnt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Of two states of a file the later one counts.
        records.sort_by_key(|record| (record.key(), std::cmp::Reverse(record.stamp.ctime)));
        records.dedup_by_key(|record| record.key());
        let fresh = records.len();
        let (known, _) = self.known.as_chunks::<RECORD>();
        for (index, record) in known.iter().enumerate() {
            let used = self
                .used
                .get(index / 64)
                .is_some_and(|word| word.load(Ordering::Relaxed) >> (index % 64) & 1 == 1);
            let mut record = Record::decode(record);
            record.unused = if used { 0 } else { record.unused.saturating_add(1) };
            let is_replaced = records
                .get(..fresh)
                .is_some_and(|fresh| fresh.binary_search_by_key(&record.key(), Record::key).is_ok());
            if record.unused <= MOST_UNUSED && !is_replaced {
                records.push(record);
            }
        }
        if records.len() > MOST {
            records.sort_by_key(|record| record.unused);
            records.truncate(MOST);
        }
        records.sort_unstable_by_key(Record::key);
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes)
        };
        put(MAGIC)?;
        for record in &records {
            put(&record.encode())?;
        }
        out.write_all(hash.finish().as_raw())
    }
}

/// The inode and device of a record.
fn key_of(record: &[u8; RECORD]) -> (u64, u32) {
    Record::decode(record).key()
}

impl Record {
    fn key(&self) -> (u64, u32) {
        (self.stamp.inode, self.stamp.device as u32)
    }

    fn decode(bytes: &[u8; RECORD]) -> Self {
        fn part<const N: usize>(bytes: &[u8; RECORD], at: usize) -> [u8; N] {
            bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
        }
        let stamp = Stamp {
            inode: u64::from_le_bytes(part(bytes, 0)),
            ctime: i64::from_le_bytes(part(bytes, 8)),
            size: u64::from_le_bytes(part(bytes, 16)),
            device: u64::from(u32::from_le_bytes(part(bytes, 24))),
        };
        let has_attributes = u16::from_le_bytes(part(bytes, 30)) & HAS_ATTRIBUTES != 0;
        let known = Known { digest: Digest::from_raw(part(bytes, 32)), has_attributes };
        Self { stamp, unused: u16::from_le_bytes(part(bytes, 28)), known }
    }

    fn encode(&self) -> [u8; RECORD] {
        let flags = if self.known.has_attributes { HAS_ATTRIBUTES } else { 0 };
        let parts: [&[u8]; 7] = [
            &self.stamp.inode.to_le_bytes(),
            &self.stamp.ctime.to_le_bytes(),
            &self.stamp.size.to_le_bytes(),
            &(self.stamp.device as u32).to_le_bytes(),
            &self.unused.to_le_bytes(),
            &flags.to_le_bytes(),
            self.known.digest.as_raw(),
        ];
        let mut bytes = [0; RECORD];
        for (place, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp { device: 7, inode, ctime: 1_000 + inode as i64, size: inode * 2 }
    }

    fn known(text: &str) -> Known {
        Known { digest: Digest::of(text.as_bytes()), has_attributes: text.len() % 2 == 1 }
    }

    fn again(digests: &Digests) -> Digests {
        let mut bytes = Vec::new();
        digests.write(&mut bytes).unwrap();
        Digests::read(bytes)
    }

    #[test]
    fn remembers_until_a_stamp_changes() {
        let digests = Digests::default();
        for inode in [9, 3, 77] {
            digests.learn(stamp(inode), known(&inode.to_string()));
        }
        assert_eq!(digests.learnt(), 3);
        let digests = again(&digests);
        assert_eq!(digests.learnt(), 0);
        assert_eq!(digests.get(&stamp(3)), Some(known("3")));
        assert_eq!(digests.get(&stamp(77)), Some(known("77")));
        assert_eq!(digests.get(&stamp(4)), None);
        for other in [
            Stamp { ctime: 1, ..stamp(3) },
            Stamp { size: 1, ..stamp(3) },
            Stamp { device: 8, ..stamp(3) },
            Stamp { device: 7 | 1 << 32, ..stamp(3) },
        ] {
            assert_eq!(digests.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_not_asked_for_is_forgotten_after_a_while() {
        let mut digests = Digests::default();
        digests.learn(stamp(1), known("a"));
        digests.learn(stamp(2), known("b"));
        for _ in 0..MOST_UNUSED {
            digests = again(&digests);
            assert!(digests.get(&stamp(1)).is_some());
        }
        assert_eq!(again(&digests).get(&stamp(2)), Some(known("b")));
        digests = again(&digests);
        digests = again(&digests);
        assert_eq!(digests.get(&stamp(2)), None);
        assert_eq!(digests.get(&stamp(1)), Some(known("a")));
    }

    #[test]
    fn a_later_state_replaces_an_earlier_one() {
        let first = Digests::default();
        first.learn(stamp(1), known("old"));
        let second = again(&first);
        let later = Stamp { ctime: 5_000, ..stamp(1) };
        second.learn(Stamp { ctime: 4_000, ..stamp(1) }, known("between"));
        second.learn(later, known("new"));
        let third = again(&second);
        assert_eq!(third.get(&stamp(1)), None);
        assert_eq!(third.get(&later), Some(known("new")));
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        let digests = Digests::default();
        digests.learn(stamp(1), known("a"));
        let mut bytes = Vec::new();
        digests.write(&mut bytes).unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Digests::read(bytes[..length].to_vec()).get(&stamp(1)), None, "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Digests::read(bytes).get(&stamp(1)), None, "changed at {at}");
        }
        assert!(Digests::read(bytes).get(&stamp(1)).is_some());
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_are_written(inode: u64, ctime: i64, size: u64, device: u32, unused: u16, has_attributes: bool, raw: [u8; 32]) {
            let stamp = Stamp { inode, ctime, size, device: device.into() };
            let record = Record { stamp, unused, known: Known { digest: Digest::from_raw(raw), has_attributes } };
            prop_assert_eq!(Record::decode(&record.encode()), record);
        }
    }
}
