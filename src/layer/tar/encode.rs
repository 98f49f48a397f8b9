//! Entries to headers.

use std::collections::BTreeMap;

use tar::Header;

use super::{BLOCK, MAX_EXTENSION, kind, padding, pax};
use crate::layer::entry::{Entry, MODE_BITS, Node};
use crate::layer::error::LayerError;
use crate::layer::path::MAX_PATH;

/// What a whiteout's name has in front.
pub(in crate::layer) const WHITEOUT: &[u8] = b".wh.";
/// The name that makes its directory opaque.
pub(in crate::layer) const OPAQUE: &[u8] = b".wh..wh..opq";
/// The name in the header of PAX records; readers do not look at it.
const PAX_NAME: &[u8] = b"PaxHeaders/entry";
/// The largest value of an octal field of 7 digits: uid, gid.
const MAX_ID: u32 = 0o7_777_777;
/// The largest value of an octal field of 11 digits: size, mtime.
const MAX_LONG: u64 = 0o77_777_777_777;
/// Two blocks of NUL end an archive.
pub(in crate::layer) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Appends the headers of an entry: PAX records if it needs them, then the header itself. The content, if
/// any, and its padding follow.
pub(in crate::layer) fn entry(out: &mut Vec<u8>, entry: &Entry) -> Result<(), LayerError> {
    let refused = |reason| LayerError::Unrepresentable { path: entry.path.clone(), reason };
    let metadata = &entry.metadata;
    let mut name = entry.path.as_bytes().to_vec();
    if entry.path.is_root() {
        name.push(b'.');
    }
    let mut link: &[u8] = b"";
    let mut device = (0, 0);
    let typeflag = match &entry.node {
        Node::Directory => {
            name.push(b'/');
            kind::DIRECTORY
        }
        Node::File { .. } => kind::FILE,
        Node::Symlink { target } => {
            link = target;
            kind::SYMLINK
        }
        Node::Hardlink { target } => {
            link = target.as_bytes();
            kind::HARDLINK
        }
        Node::CharDevice { major, minor } => {
            device = (*major, *minor);
            kind::CHAR
        }
        Node::BlockDevice { major, minor } => {
            device = (*major, *minor);
            kind::BLOCK
        }
        Node::Fifo => kind::FIFO,
    };
    if matches!(typeflag, kind::SYMLINK | kind::HARDLINK) && (link.is_empty() || link.contains(&0)) {
        return Err(refused("its link target is empty or has a NUL"));
    }
    if link.len() > MAX_PATH {
        return Err(refused("its link target is longer than 4095 bytes"));
    }
    if device.0 > MAX_ID || device.1 > MAX_ID {
        return Err(refused("its device number is larger than tar's"));
    }
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    records.name(&mut header, &name);
    records.link(&mut header, link);
    let fields = header.as_old_mut();
    octal(&mut fields.mode, u64::from(metadata.mode & MODE_BITS));
    octal(&mut fields.uid, records.id(b"uid", metadata.uid));
    octal(&mut fields.gid, records.id(b"gid", metadata.gid));
    octal(&mut fields.size, records.long(b"size", entry.node.size()));
    // Times before 1970 have no spelling that every reader takes.
    octal(&mut fields.mtime, records.long(b"mtime", u64::try_from(metadata.mtime).unwrap_or(0)));
    fields.linkflag = [typeflag];
    for (key, value) in &metadata.xattrs {
        if key.is_empty() || key.iter().any(|byte| matches!(byte, b'=' | 0)) {
            return Err(refused("the name of an extended attribute is empty or has a `=` or NUL"));
        }
        records.0.insert([pax::XATTR, key].concat(), value.clone());
    }
    seal(&mut header, device);
    records.append(out).map_err(refused)?;
    out.extend_from_slice(header.as_bytes());
    Ok(())
}

/// PAX records of an entry, in the order of their keys.
#[derive(Default)]
struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Puts a name where it fits: the name field, name and prefix fields, or a record.
    fn name(&mut self, header: &mut Header, name: &[u8]) {
        let Some(fields) = header.as_ustar_mut() else { return };
        let split = if name.is_ascii() { split_name(name) } else { None };
        let (prefix, rest) = split.unwrap_or_else(|| {
            self.0.insert(b"path".to_vec(), name.to_vec());
            (&b""[..], name)
        });
        put(&mut fields.prefix, prefix);
        put(&mut fields.name, rest);
    }

    fn link(&mut self, header: &mut Header, link: &[u8]) {
        let field = &mut header.as_old_mut().linkname;
        if link.len() > field.len() || !link.is_ascii() {
            self.0.insert(b"linkpath".to_vec(), link.to_vec());
        }
        put(field, link);
    }

    /// What the field of an owner says; 0 where a record says it.
    fn id(&mut self, key: &[u8], id: u32) -> u64 {
        if id <= MAX_ID {
            return u64::from(id);
        }
        self.0.insert(key.to_vec(), id.to_string().into_bytes());
        0
    }

    /// What a long field says; 0 where a record says it.
    fn long(&mut self, key: &[u8], number: u64) -> u64 {
        if number <= MAX_LONG {
            return number;
        }
        self.0.insert(key.to_vec(), number.to_string().into_bytes());
        0
    }

    fn append(self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut records = Vec::new();
        for (key, value) in &self.0 {
            pax::append(&mut records, key, value);
        }
        if records.len() > MAX_EXTENSION {
            return Err("its names and extended attributes are larger than 1 MiB");
        }
        let mut header = Header::new_ustar();
        put(&mut header.as_old_mut().name, PAX_NAME);
        let fields = header.as_old_mut();
        octal(&mut fields.mode, 0o644);
        octal(&mut fields.uid, 0);
        octal(&mut fields.gid, 0);
        octal(&mut fields.size, records.len() as u64);
        octal(&mut fields.mtime, 0);
        fields.linkflag = [kind::PAX];
        seal(&mut header, (0, 0));
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
        Ok(())
    }
}

/// Fills a field with a number that fits: octal digits, and a NUL.
fn octal(field: &mut [u8], mut number: u64) {
    let mut places = field.iter_mut().rev();
    places.next().into_iter().for_each(|place| *place = 0);
    for place in places {
        *place = b'0' + (number & 7) as u8;
        number >>= 3;
    }
}

/// Sets a header's last fields: the device numbers, and the checksum over it all.
fn seal(header: &mut Header, device: (u32, u32)) {
    if let Some(fields) = header.as_ustar_mut() {
        octal(&mut fields.dev_major, u64::from(device.0));
        octal(&mut fields.dev_minor, u64::from(device.1));
        fields.cksum = [b' '; 8];
    }
    let sum = header.as_bytes().iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut header.as_old_mut().cksum, sum);
}

/// Divides an ASCII name into the prefix and name fields of ustar, at the last possible `/`.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    if name.len() <= NAME {
        return Some((b"", name));
    }
    // Neither part may be empty, and a directory's own `/` is not a place to split at.
    let last = (name.len() - 1).min(PREFIX + 1);
    let slash = name.get(..last)?.iter().rposition(|&byte| byte == b'/').filter(|&slash| slash > 0)?;
    let (prefix, rest) = (name.get(..slash)?, name.get(slash + 1..)?);
    (!rest.is_empty() && rest.len() <= NAME).then_some((prefix, rest))
}

/// Fills a field with as much of `value` as fits. What is not ASCII is left out: the record has it whole, and
/// a reader that does not know records should not find half a character.
fn put(field: &mut [u8], value: &[u8]) {
    let ascii = value.iter().filter(|byte| byte.is_ascii());
    for (place, byte) in field.iter_mut().zip(ascii) {
        *place = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::entry::{Metadata, Xattrs};
    use crate::layer::path::TreePath;
    use rstest::rstest;

    fn encode(path: &str, node: Node, metadata: Metadata) -> Vec<u8> {
        let mut out = Vec::new();
        entry(&mut out, &Entry { path: TreePath::new(path).unwrap(), node, metadata }).unwrap();
        out
    }

    fn field(header: &[u8], at: usize, length: usize) -> String {
        String::from_utf8(header[at..at + length].to_vec()).unwrap()
    }

    /// The records in front of an entry's header.
    fn records(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        if bytes.len() == BLOCK {
            return Vec::new();
        }
        assert_eq!(bytes[156], kind::PAX);
        let size = usize::from_str_radix(&field(bytes, 124, 11), 8).unwrap();
        assert_eq!(bytes.len(), BLOCK + size + padding(size as u64) + BLOCK);
        pax::records(&bytes[BLOCK..BLOCK + size])
            .map(|record| record.unwrap())
            .map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), value.to_vec()))
            .collect()
    }

    /// Each byte of an ordinary header, which the digest of every layer depends on.
    #[test]
    fn writes_a_plain_ustar_header() {
        let metadata = Metadata {
            mode: 0o104_755,
            uid: 1000,
            gid: 0o7_777_777,
            mtime: 1_700_000_000,
            ..Default::default()
        };
        let bytes = encode("usr/bin/tool", Node::File { size: 1234 }, metadata);
        let mut expected = vec![0_u8; BLOCK];
        for (at, text) in [
            (0, "usr/bin/tool"),
            (100, "0004755\0"),
            (108, "0001750\0"),
            (116, "7777777\0"),
            (124, "00000002322\0"),
            (136, "14524770400\0"),
            (156, "0"),
            (257, "ustar\x0000"),
            (329, "0000000\0"),
            (337, "0000000\0"),
        ] {
            expected[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        expected[148..156].fill(b' ');
        let sum: u32 = expected.iter().map(|&byte| u32::from(byte)).sum();
        expected[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
        assert_eq!(bytes, expected);
    }

    #[rstest]
    #[case::root("", Node::Directory, b'5', "./")]
    #[case::directory("a/b", Node::Directory, b'5', "a/b/")]
    #[case::fifo("f", Node::Fifo, b'6', "f")]
    fn names(#[case] path: &str, #[case] node: Node, #[case] typeflag: u8, #[case] name: &str) {
        let bytes = encode(path, node, Metadata::default());
        assert_eq!(bytes[156], typeflag);
        assert_eq!(field(&bytes, 0, 100).trim_end_matches('\0'), name);
    }

    #[test]
    fn links_and_devices_have_no_content() {
        let bytes = encode("l", Node::Symlink { target: b"../x y".to_vec() }, Metadata::default());
        assert_eq!((bytes[156], &*field(&bytes, 124, 12)), (b'2', "00000000000\0"));
        assert_eq!(field(&bytes, 157, 100).trim_end_matches('\0'), "../x y");
        let bytes =
            encode("h", Node::Hardlink { target: TreePath::new("a/f").unwrap() }, Metadata::default());
        assert_eq!((bytes[156], field(&bytes, 157, 100).trim_end_matches('\0')), (b'1', "a/f"));
        let bytes = encode("d", Node::BlockDevice { major: 8, minor: 1_048_575 }, Metadata::default());
        assert_eq!((bytes[156], &*field(&bytes, 329, 16)), (b'4', "0000010\x003777777\0"));
    }

    #[test]
    fn long_names_are_split_before_they_need_a_record() {
        let directory = "d".repeat(154);
        let bytes = encode(&format!("{directory}/{}", "f".repeat(100)), Node::Fifo, Metadata::default());
        assert_eq!(records(&bytes), []);
        assert_eq!(field(&bytes, 0, 100), "f".repeat(100));
        assert_eq!(field(&bytes, 345, 155), format!("{directory}\0"));
        // A directory of 100 characters has 101 with its slash.
        let bytes = encode(&format!("a/{}", "d".repeat(99)), Node::Directory, Metadata::default());
        assert_eq!((records(&bytes).len(), &*field(&bytes, 345, 2)), (0, "a\0"));
        for path in [
            "f".repeat(101),
            format!("{}/f", "d".repeat(156)),
            format!("d/{}", "f".repeat(101)),
            "\u{e9}".into(),
        ] {
            let bytes = encode(&path, Node::Fifo, Metadata::default());
            assert_eq!(records(&bytes), [("path".to_owned(), path.clone().into_bytes())]);
        }
    }

    #[test]
    fn records_carry_what_the_fields_cannot() {
        let metadata = Metadata {
            uid: 0o10_000_000,
            gid: u32::MAX,
            mtime: 1 << 40,
            xattrs: Xattrs::from([
                (b"user.b".to_vec(), b"1\n2\0".to_vec()),
                (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0x0a]),
            ]),
            ..Default::default()
        };
        let bytes = encode("big", Node::File { size: 1 << 33 }, metadata);
        let expected: [(&str, &[u8]); 6] = [
            ("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 0x0a]),
            ("SCHILY.xattr.user.b", b"1\n2\0"),
            ("gid", b"4294967295"),
            ("mtime", b"1099511627776"),
            ("size", b"8589934592"),
            ("uid", b"2097152"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_vec()));
        assert_eq!(records(&bytes), expected);
        let limit = encode(
            "big",
            Node::File { size: (1 << 33) - 1 },
            Metadata { uid: 0o7_777_777, ..Default::default() },
        );
        assert_eq!(records(&limit), []);
    }

    #[test]
    fn times_before_1970_become_1970() {
        let bytes = encode("f", Node::Fifo, Metadata { mtime: -5, ..Default::default() });
        assert_eq!(field(&bytes, 136, 12), "00000000000\0");
    }

    #[rstest]
    #[case::empty_link(Node::Symlink { target: Vec::new() }, Metadata::default(), "link target is empty")]
    #[case::long_link(Node::Symlink { target: vec![b'x'; 4096] }, Metadata::default(), "4095 bytes")]
    #[case::nul_link(Node::Symlink { target: b"a\0b".to_vec() }, Metadata::default(), "has a NUL")]
    #[case::device(Node::CharDevice { major: 1 << 21, minor: 0 }, Metadata::default(), "device number")]
    #[case::xattr(Node::Fifo, Metadata { xattrs: Xattrs::from([(b"a=b".to_vec(), vec![])]), ..Default::default() }, "has a `=`")]
    #[case::large(Node::Fifo, Metadata { xattrs: Xattrs::from([(b"user.x".to_vec(), vec![0; 1 << 20])]), ..Default::default() }, "1 MiB")]
    fn refuses_what_no_reader_would_take(
        #[case] node: Node,
        #[case] metadata: Metadata,
        #[case] reason: &str,
    ) {
        let refused = entry(&mut Vec::new(), &Entry { path: TreePath::new("f").unwrap(), node, metadata });
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains("/f"), "{message}");
    }
}
