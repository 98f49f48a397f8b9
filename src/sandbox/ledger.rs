//! The ledger: what a file is to the step where it differs from what it is on disk.
//!
//! Every real file belongs to one user. Owners, modes that this user could not live with, device nodes and file
//! capabilities are written here: a shared, mapped table keyed by inode. `stat` in the step answers from it, and
//! so does the writer of layers. A file without an entry is `root:root` with the mode that it has on disk.
//!
//! Inode numbers are reused at once by some filesystems, within one tick of their clock, so a birth time cannot
//! tell two files apart. Instead every way by which a step makes a file resets the inode's entry
//! ([`Ledger::reset`]), and there is no other way: the step's root is private to the build.
//!
//! Readers and writers in many processes never lock. The index is an open-addressed table of positions in a dense
//! array of entries; entries are never removed, only reset. The hash keeps neighbouring inodes together, so that
//! the pages touched are few (inodes are handed out in order when a base is unpacked).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Places in the index: twice the entries, so that probing stays short.
const INDEX: usize = 1 << 23;
/// Most files that can differ from their default. The memory exists only as far as it is used.
const ENTRIES: usize = 1 << 22;
/// Inodes that stay together in the index: a page of it.
const RUN: u64 = 1 << 10;
/// The largest capability attribute (`struct vfs_ns_cap_data`).
pub const MAX_CAPABILITY: usize = 24;

/// What the ledger says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Kind and permissions; the kind matters for device nodes alone.
    pub mode: u32,
    /// Device number of a device node: major << 20 | minor, as the kernel keeps it.
    pub device: u32,
}

/// An entry. A reset entry has `state` 0.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry {
    key: AtomicU64,
    /// uid << 32 | gid
    owner: AtomicU64,
    /// [`PRESENT`] | mode << 32 | device
    state: AtomicU64,
    capability: [AtomicU64; 3],
    capability_length: AtomicU32,
}

const PRESENT: u64 = 1 << 63;

impl Entry {
    /// What is recorded, unless the entry was reset.
    pub fn get(&self) -> Option<Record> {
        let state = self.state.load(Ordering::Acquire);
        if state & PRESENT == 0 {
            return None;
        }
        let owner = self.owner.load(Ordering::Relaxed);
        Some(Record {
            uid: (owner >> 32) as u32,
            gid: owner as u32,
            mode: (state >> 32) as u32 & 0xffff,
            device: state as u32,
        })
    }

    /// Records `record`.
    pub fn set(&self, record: Record) {
        self.owner.store(u64::from(record.uid) << 32 | u64::from(record.gid), Ordering::Relaxed);
        let state = PRESENT | u64::from(record.mode & 0xffff) << 32 | u64::from(record.device);
        self.state.store(state, Ordering::Release);
    }

    /// The file's `security.capability`: bytes and their number.
    pub fn capability(&self) -> Option<([u8; MAX_CAPABILITY], usize)> {
        let length = self.capability_length.load(Ordering::Acquire) as usize;
        if length == 0 || length > MAX_CAPABILITY || self.state.load(Ordering::Relaxed) & PRESENT == 0 {
            return None;
        }
        let mut bytes = [0; MAX_CAPABILITY];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(&self.capability) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        Some((bytes, length))
    }

    /// Sets the file's `security.capability`; empty removes it. `false` if it is too long to be one.
    pub fn set_capability(&self, value: &[u8]) -> bool {
        if value.len() > MAX_CAPABILITY {
            return false;
        }
        let mut bytes = [0; MAX_CAPABILITY];
        for (slot, byte) in bytes.iter_mut().zip(value) {
            *slot = *byte;
        }
        for (chunk, word) in bytes.chunks_exact(8).zip(&self.capability) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
        self.capability_length.store(value.len() as u32, Ordering::Release);
        true
    }

    /// Everything as words, for keeping; what [`Ledger::load`] takes.
    fn save(&self) -> Saved {
        let [first, second, third] = &self.capability;
        [
            self.key.load(Ordering::Relaxed),
            self.owner.load(Ordering::Relaxed),
            self.state.load(Ordering::Acquire),
            first.load(Ordering::Relaxed),
            second.load(Ordering::Relaxed),
            third.load(Ordering::Relaxed),
            u64::from(self.capability_length.load(Ordering::Relaxed)),
        ]
    }

    fn clear(&self) {
        self.state.store(0, Ordering::Release);
        self.capability_length.store(0, Ordering::Relaxed);
    }
}

/// An entry as it is kept between builds.
pub type Saved = [u64; 7];

/// The table. It is never built, only mapped: memory that is all zero is an empty ledger.
#[derive(Debug)]
#[repr(C)]
pub struct Ledger {
    used: AtomicU32,
    /// Whether a device node was ever recorded.
    devices: AtomicU32,
    index: [AtomicU32; INDEX],
    entries: [Entry; ENTRIES],
}

/// The key of an inode: its number, and which of the root's device numbers it was seen under.
/// `None` if the file is not the step's at all.
pub fn inode_key(devices: &[u64; 3], device: u64, inode: u64) -> Option<u64> {
    // Never 0, which is "no key".
    if device == devices[0] {
        Some(inode << 2 | 1)
    } else if device == devices[1] {
        Some(inode << 2 | 3)
    } else if device == devices[2] {
        Some(inode << 2 | 2)
    } else {
        None
    }
}

impl Ledger {
    /// The entry of `key`, if there ever was one.
    pub fn find(&self, key: u64) -> Option<&Entry> {
        let start = place(key);
        for step in 0..INDEX {
            match self.at(start + step)? {
                Some(entry) if entry.key.load(Ordering::Relaxed) == key => return Some(entry),
                Some(_) => {}
                None => return None,
            }
        }
        None
    }

    /// What is recorded of `key`.
    pub fn get(&self, key: u64) -> Option<Record> {
        self.find(key)?.get()
    }

    /// The entry of `key`, made if need be. `None` if the ledger is full.
    pub fn entry(&self, key: u64) -> Option<&Entry> {
        if let Some(entry) = self.find(key) {
            return Some(entry);
        }
        let position = self.used.fetch_add(1, Ordering::Relaxed);
        let Some(entry) = self.entries.get(position as usize) else {
            self.used.store(ENTRIES as u32, Ordering::Relaxed);
            return None;
        };
        entry.key.store(key, Ordering::Relaxed);
        let start = place(key);
        for step in 0..INDEX {
            let slot = self.index.get((start + step) % INDEX)?;
            match slot.compare_exchange(0, position + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(entry),
                // Another process was faster: with this very key, or with another of the same place.
                Err(other) => {
                    let other = self.entries.get((other as usize).wrapping_sub(1))?;
                    if other.key.load(Ordering::Relaxed) == key {
                        return Some(other);
                    }
                }
            }
        }
        None
    }

    /// Says that a device node is recorded.
    pub fn note_device(&self) {
        self.devices.store(1, Ordering::Relaxed);
    }

    /// Whether there may be device nodes among the records. Most roots have none, and need no looking for them.
    pub fn has_devices(&self) -> bool {
        self.devices.load(Ordering::Relaxed) != 0
    }

    /// All that is recorded.
    pub fn saved(&self) -> impl Iterator<Item = Saved> {
        let used = self.used.load(Ordering::Acquire) as usize;
        let entries = self.entries.get(..used.min(ENTRIES)).unwrap_or_default();
        entries.iter().filter(|entry| entry.get().is_some()).map(Entry::save)
    }

    /// Records what was recorded before. `false` if the ledger is full.
    pub fn load(&self, saved: impl Iterator<Item = Saved>) -> bool {
        for [key, owner, state, first, second, third, length] in saved {
            let Some(entry) = self.entry(key) else { return false };
            entry.owner.store(owner, Ordering::Relaxed);
            for (word, value) in entry.capability.iter().zip([first, second, third]) {
                word.store(value, Ordering::Relaxed);
            }
            entry.capability_length.store(length as u32, Ordering::Relaxed);
            entry.state.store(state, Ordering::Release);
            if matches!((state >> 32) as u32 & 0o170_000, 0o020_000 | 0o060_000) {
                self.note_device();
            }
        }
        true
    }

    /// Forgets what was known of `key`: a new file has got the inode.
    pub fn reset(&self, key: u64) {
        if let Some(entry) = self.find(key) {
            entry.clear();
        }
    }

    /// The entry at a place of the index: `Some(None)` if the place is free, `None` if it is corrupt.
    fn at(&self, place: usize) -> Option<Option<&Entry>> {
        match self.index.get(place % INDEX)?.load(Ordering::Acquire) {
            0 => Some(None),
            position => self.entries.get(position as usize - 1).map(Some),
        }
    }
}

/// Where probing for `key` starts.
fn place(key: u64) -> usize {
    let inode = key >> 2;
    let run = ((inode / RUN) ^ (key << 62)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51;
    (run * RUN + inode % RUN) as usize % INDEX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::sys::SharedMemory;

    const RECORD: Record = Record { uid: 1, gid: 2, mode: 0o100_644, device: 0 };

    #[test]
    fn records_are_found_by_inode_and_forgotten_when_it_is_reused() {
        let memory = SharedMemory::create().unwrap();
        let ledger = &memory.shared().ledger;
        let devices = [10, 11, 13];
        let key = inode_key(&devices, 10, 77).unwrap();
        assert_eq!(ledger.get(key), None);
        ledger.entry(key).unwrap().set(RECORD);
        assert_eq!(ledger.get(key), Some(RECORD));
        assert_eq!(ledger.get(inode_key(&devices, 11, 77).unwrap()), None, "another device, another file");
        assert_eq!(inode_key(&devices, 12, 77), None);
        assert!(ledger.find(key).unwrap().set_capability(b"0123456789abcdefghij"));
        assert_eq!(ledger.find(key).unwrap().capability().unwrap().0[..20], *b"0123456789abcdefghij");
        ledger.reset(key);
        assert_eq!(ledger.get(key), None);
        ledger.entry(key).unwrap().set(RECORD);
        assert_eq!(ledger.find(key).unwrap().capability(), None, "the old file's capability is gone");
    }

    #[test]
    fn many_inodes_from_many_threads_keep_their_own_records() {
        let memory = SharedMemory::create().unwrap();
        let ledger = &memory.shared().ledger;
        // Inodes as filesystems hand them out: runs far apart, and colliding ones.
        let inode = |thread: u64, n: u64| (thread % 2) << 40 | (n * 3) << (thread & 4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let key = inode_key(&[1, 2, 3], 1, inode(thread, n)).unwrap();
                        let record = Record { uid: n as u32, ..RECORD };
                        ledger.entry(key).unwrap().set(record);
                    }
                });
            }
        });
        for n in 0..20_000 {
            for thread in 0..4 {
                let key = inode_key(&[1, 2, 3], 1, inode(thread, n)).unwrap();
                assert_eq!(ledger.get(key).unwrap().uid, n as u32);
            }
        }
    }
}
