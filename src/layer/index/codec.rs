//! Records and numbers as bytes.

use crate::layer::entry::{Metadata, Node, Xattrs};
use crate::layer::path::TreePath;

/// What a layer says of one path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::layer) struct Record {
    /// What lower layers have here is gone.
    pub removes: bool,
    /// What lower layers have in this directory is gone.
    pub opaque: bool,
    /// The layer has something in this directory, but no entry for it.
    pub implicit: bool,
    /// The entry is a link, and the layer has something behind it.
    pub through: bool,
    /// What the path is.
    pub entry: Option<(Node, Metadata)>,
}

const REMOVES: u8 = 1;
const OPAQUE: u8 = 2;
const IMPLICIT: u8 = 4;
const THROUGH: u8 = 8;
const ENTRY: u8 = 16;

impl Record {
    pub(super) fn flags(&self) -> u8 {
        [
            (self.removes, REMOVES),
            (self.opaque, OPAQUE),
            (self.implicit, IMPLICIT),
            (self.through, THROUGH),
            (self.entry.is_some(), ENTRY),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// Appends the record.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.flags());
        if let Some((node, metadata)) = &self.entry {
            put_entry(out, node, metadata);
        }
    }

    /// The record of these bytes.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let flags = take_byte(bytes)?;
        let entry = if flags & ENTRY != 0 { Some(take_entry(bytes)?) } else { None };
        let has = |flag| flags & flag != 0;
        bytes.is_empty().then_some(Self {
            removes: has(REMOVES),
            opaque: has(OPAQUE),
            implicit: has(IMPLICIT),
            through: has(THROUGH),
            entry,
        })
    }

    /// What two records of one layer say that, because of links on the way, are on one path: both, and of two
    /// entries the first.
    pub(in crate::layer) fn merge(self, other: Self) -> Self {
        Self {
            removes: self.removes || other.removes,
            opaque: self.opaque || other.opaque,
            implicit: self.implicit || other.implicit,
            through: self.through || other.through,
            entry: self.entry.or(other.entry),
        }
    }

    /// Whether the path is a directory in this layer, with an entry or without.
    pub(in crate::layer) fn is_directory(&self) -> bool {
        match &self.entry {
            Some((node, _)) => *node == Node::Directory,
            None => self.implicit,
        }
    }
}

/// Appends an entry without its path.
pub(super) fn put_entry(out: &mut Vec<u8>, node: &Node, metadata: &Metadata) {
    match node {
        Node::Directory => out.push(b'd'),
        Node::File { size } => {
            out.push(b'f');
            put_number(out, *size);
        }
        Node::Symlink { target } => {
            out.push(b'l');
            put_bytes(out, target);
        }
        Node::Hardlink { target } => {
            out.push(b'h');
            put_bytes(out, target.as_bytes());
        }
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            out.push(if matches!(node, Node::CharDevice { .. }) { b'c' } else { b'b' });
            put_number(out, u64::from(*major));
            put_number(out, u64::from(*minor));
        }
        Node::Fifo => out.push(b'p'),
    }
    put_number(out, u64::from(metadata.mode));
    put_number(out, u64::from(metadata.uid));
    put_number(out, u64::from(metadata.gid));
    // The sign goes to the lowest bit, so that small negative numbers are short too.
    put_number(out, (metadata.mtime << 1 ^ (metadata.mtime >> 63)).cast_unsigned());
    put_number(out, metadata.xattrs.len() as u64);
    for (name, value) in &metadata.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

pub(super) fn take_entry(bytes: &mut &[u8]) -> Option<(Node, Metadata)> {
    let node = match take_byte(bytes)? {
        b'd' => Node::Directory,
        b'f' => Node::File { size: take_number(bytes)? },
        b'l' => Node::Symlink { target: take_bytes(bytes)?.to_vec() },
        b'h' => Node::Hardlink { target: TreePath::new(take_bytes(bytes)?).ok()? },
        b'c' => Node::CharDevice { major: take_small(bytes)?, minor: take_small(bytes)? },
        b'b' => Node::BlockDevice { major: take_small(bytes)?, minor: take_small(bytes)? },
        b'p' => Node::Fifo,
        _ => return None,
    };
    let (mode, uid, gid) = (take_small(bytes)?, take_small(bytes)?, take_small(bytes)?);
    let folded = take_number(bytes)?;
    let mtime = (folded >> 1).cast_signed() ^ -((folded & 1).cast_signed());
    let mut xattrs = Xattrs::new();
    for _ in 0..take_number(bytes)? {
        xattrs.insert(take_bytes(bytes)?.to_vec(), take_bytes(bytes)?.to_vec());
    }
    Some((node, Metadata { mode, uid, gid, mtime, xattrs }))
}

/// Appends a number in LEB128.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

pub(super) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_small(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(take_number(bytes)?).ok()
}

pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_record_comes_back() {
        let metadata = Metadata {
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0,
            mtime: i64::MIN,
            xattrs: Xattrs::from([(b"user.a".to_vec(), vec![0, 255]), (b"user.b".to_vec(), Vec::new())]),
        };
        let nodes = [
            Node::Directory,
            Node::File { size: u64::MAX },
            Node::Symlink { target: b"\xff/x".to_vec() },
            Node::Hardlink { target: TreePath::new("a/b").unwrap() },
            Node::CharDevice { major: 1, minor: u32::MAX },
            Node::BlockDevice { major: 8, minor: 0 },
            Node::Fifo,
        ];
        for node in nodes {
            let record = Record {
                opaque: true,
                through: true,
                entry: Some((node, metadata.clone())),
                ..Record::default()
            };
            let mut bytes = Vec::new();
            record.put(&mut bytes);
            assert_eq!(Record::parse(&bytes), Some(record));
            for end in 0..bytes.len() {
                assert_eq!(Record::parse(&bytes[..end]), None, "cut off at {end}");
            }
        }
        for flags in 0..16 {
            assert_eq!(Record::parse(&[flags]).unwrap().flags(), flags);
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, mtime: i64) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            put_entry(&mut bytes, &Node::Fifo, &Metadata { mtime, ..Metadata::default() });
            let mut rest = &bytes[..];
            prop_assert_eq!(take_number(&mut rest), Some(number));
            prop_assert_eq!(take_entry(&mut rest).unwrap().1.mtime, mtime);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
        }
    }
}
