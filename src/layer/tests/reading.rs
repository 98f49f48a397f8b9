//! The reader: dialects, what names mean, compressions, sparse files. Archives are made by hand here; those
//! of real tools are read in `tests/layer_interop`.

use std::io::{BufRead, Cursor, Write};

use ::tar::{EntryType, Header};
use rstest::rstest;

use super::*;
use crate::image::Digest;

/// One entry of an archive, with its content and padding.
pub(super) fn raw(header: &mut Header, name: &str, typeflag: u8, content: &[u8]) -> Vec<u8> {
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkflag[0] = typeflag;
    header.set_size(content.len() as u64);
    finished(header, content)
}

/// As [`raw`], the header as it is but for its checksum.
pub(super) fn finished(header: &mut Header, content: &[u8]) -> Vec<u8> {
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(super) fn ustar() -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// PAX records as an entry.
pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (1..)
            .map(|digits| rest + digits)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    raw(&mut ustar(), "PaxHeaders/x", b'x', &content)
}

pub(super) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}

fn entries(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let entry = |(change, content)| match change {
        Change::Entry(entry) => (entry, content),
        other => panic!("expected an entry: {other:?}"),
    };
    read_bytes(bytes).unwrap().into_iter().map(entry).collect()
}

#[rstest]
#[case("./", b'5', "")]
#[case("/", b'5', "")]
#[case("./a/b/", b'5', "a/b")]
#[case("/abs/olute", b'0', "abs/olute")]
#[case("./././f", b'0', "f")]
#[case("a/../b", b'0', "b")]
fn names_are_cleaned(#[case] name: &str, #[case] typeflag: u8, #[case] expected: &str) {
    let read = entries(&archive(&[raw(&mut ustar(), name, typeflag, b"")]));
    assert_eq!(read[0].0.path, path(expected));
}

#[rstest]
#[case("a/.wh.b", Some(Change::Remove(path("a/b"))))]
#[case("./.wh.b", Some(Change::Remove(path("b"))))]
#[case("a/.wh..b", Some(Change::Remove(path("a/.b"))))]
#[case("a/.wh..wh..opq", Some(Change::Opaque(path("a"))))]
#[case(".wh..wh..opq", Some(Change::Opaque(TreePath::root())))]
#[case(".wh..wh.aufs", None)]
#[case(".wh..wh.orph/", None)]
#[case(".wh..wh.plnk/12.34", None)]
#[case("a/b.wh.c", Some(Change::Entry(entry("a/b.wh.c", Node::File { size: 0 }))))]
fn markers_are_recognised(#[case] name: &str, #[case] expected: Option<Change>) {
    let mut header = ustar();
    header.set_mode(0o644);
    let read = read_bytes(&archive(&[raw(&mut header, name, b'0', b"")])).unwrap();
    assert_eq!(read.into_iter().map(|(change, _)| change).collect::<Vec<_>>(), Vec::from_iter(expected));
}

#[test]
fn old_headers_are_read() {
    let v7 = || {
        let mut header = Header::new_old();
        header.set_mode(0o100_755);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(7);
        header
    };
    let read = entries(&archive(&[
        raw(&mut v7(), "bin/", 0, b""),
        raw(&mut v7(), "bin/x", 0, b"#!"),
        raw(&mut v7(), "c", b'7', b"!"),
    ]));
    let metadata = Metadata { mode: 0o755, uid: 5, gid: 6, mtime: 7, ..Metadata::default() };
    assert_eq!(read[0].0, Entry { path: path("bin"), node: Node::Directory, metadata: metadata.clone() });
    assert_eq!(
        read[1],
        (Entry { path: path("bin/x"), node: Node::File { size: 2 }, metadata }, b"#!".to_vec())
    );
    assert_eq!(read[2].0.node, Node::File { size: 1 });
}

#[test]
fn gnu_long_names_are_read() {
    let long = "n".repeat(300);
    let target = "t".repeat(300);
    let with_nul = |text: &str| format!("{text}\0").into_bytes();
    let mut link = Header::new_gnu();
    link.set_mode(0o777);
    link.set_uid(0);
    link.set_gid(0);
    link.set_mtime(0);
    // Too large for octal: base 256.
    let mut large = Header::new_gnu();
    large.set_mode(0o644);
    large.set_uid(4_000_000_000);
    large.set_gid(3_000_000);
    large.set_mtime(1 << 40);
    let read = entries(&archive(&[
        raw(&mut Header::new_gnu(), "././@LongLink", b'K', &with_nul(&target)),
        raw(&mut Header::new_gnu(), "././@LongLink", b'L', &with_nul(&long)),
        raw(&mut link, "nnn", b'2', b""),
        raw(&mut large, "large", b'0', b"content"),
    ]));
    assert_eq!(read[0].0.path, path(&long));
    assert_eq!(read[0].0.node, Node::Symlink { target: target.into_bytes() });
    assert_eq!(
        (read[1].0.metadata.uid, read[1].0.metadata.gid, read[1].0.metadata.mtime),
        (4_000_000_000, 3_000_000, 1 << 40)
    );
    assert_eq!(read[1].1, b"content");
}

#[test]
fn negative_times_in_base_256_are_read() {
    let mut header = ustar();
    header.as_old_mut().mtime = [0xff; 12];
    let read = entries(&archive(&[raw(&mut header, "f", b'0', b"")]));
    assert_eq!(read[0].0.metadata.mtime, -1);
}

#[test]
fn pax_records_are_read() {
    let mut global = ustar();
    let records = raw(&mut global, "pax_global_header", b'g', b"17 path=everyone\n");
    let read = entries(&archive(&[
        records,
        pax(&[
            ("path", "d\u{e9}/\u{fc}".as_bytes()),
            ("uid", b"4294967295"),
            ("gid", b"2097152"),
            ("mtime", b"1700000000.987654321"),
            ("size", b"5"),
            ("atime", b"1"),
            ("comment", b"nothing"),
            ("SCHILY.xattr.user.a", b"x\ny\0"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("LIBARCHIVE.xattr.user.a", b"aWdub3JlZA=="),
            ("LIBARCHIVE.xattr.user.%25b", b"AQI"),
            ("SCHILY.xattr.user.empty", b""),
        ]),
        raw(&mut ustar(), "short", b'0', b"12345"),
        pax(&[("linkpath", b"/etc/target"), ("path", b"link")]),
        raw(&mut ustar(), "short", b'1', b""),
        pax(&[("path", b"taken"), ("path", b""), ("mtime", b"-1.5")]),
        raw(&mut ustar(), "own", b'0', b""),
    ]));
    let (first, content) = &read[0];
    assert_eq!((first.path.as_bytes(), &content[..]), ("d\u{e9}/\u{fc}".as_bytes(), &b"12345"[..]));
    let expected: [(&[u8], &[u8]); 3] = [(b"user.%b", &[1, 2]), (b"user.a", b"x\ny\0"), (b"user.empty", b"")];
    let xattrs = expected.map(|(key, value)| (key.to_vec(), value.to_vec())).into();
    assert_eq!(
        first.metadata,
        Metadata { mode: 0, uid: u32::MAX, gid: 2_097_152, mtime: 1_700_000_000, xattrs }
    );
    assert_eq!(read[1].0.node, Node::Hardlink { target: path("etc/target") });
    assert_eq!(
        (&read[2].0.path, read[2].0.metadata.mtime),
        (&path("own"), -2),
        "an empty record says nothing"
    );
}

/// A header extension between the PAX records and their entry must not take the records for its own: with
/// another size the rest of the archive would be read from another place (CVE-2025-62518).
#[test]
fn records_are_those_of_the_entry_and_not_of_an_extension() {
    let inner = archive(&[raw(&mut ustar(), "smuggled", b'0', b"x")]);
    let bytes = archive(&[
        pax(&[("size", inner.len().to_string().as_bytes())]),
        raw(&mut Header::new_gnu(), "././@LongLink", b'L', b"named\0"),
        {
            let mut header = ustar();
            header.set_size(0);
            header.set_entry_type(EntryType::new(b'0'));
            header.as_old_mut().name[0] = b'f';
            finished(&mut header, &inner)
        },
        raw(&mut ustar(), "last", b'0', b""),
    ]);
    let read = entries(&bytes);
    assert_eq!(
        read.iter().map(|(entry, _)| entry.path.clone()).collect::<Vec<_>>(),
        ["named", "last"].map(path)
    );
    assert_eq!(read[0].1, inner);
}

#[test]
fn links_and_directories_have_no_content_whatever_their_size_says() {
    let mut parts = Vec::new();
    for typeflag in *b"12345" {
        let mut header = ustar();
        header.as_old_mut().linkname[0] = b'x';
        header.set_device_major(1).unwrap();
        header.set_device_minor(2).unwrap();
        header.as_old_mut().name[0] = typeflag;
        header.set_entry_type(EntryType::new(typeflag));
        header.set_size(1_000_000);
        parts.push(finished(&mut header, b""));
    }
    let read = entries(&archive(&parts));
    assert_eq!(
        read.iter().map(|(entry, _)| entry.node.kind()).collect::<Vec<_>>(),
        ["hard link", "symbolic link", "character device", "block device", "directory"]
    );
    assert_eq!(read[3].0.node, Node::BlockDevice { major: 1, minor: 2 });
}

/// `offset,length` pieces of a file of `size` bytes, and its content.
fn sparse_content(size: usize, pieces: &[(usize, usize)]) -> (Vec<u8>, Vec<u8>) {
    let mut whole = vec![0; size];
    let mut stored = Vec::new();
    for &(offset, length) in pieces {
        let bytes = crate::layer::compression::tests::noise(offset as u64 + 1, length);
        whole[offset..offset + length].copy_from_slice(&bytes);
        stored.extend_from_slice(&bytes);
    }
    (whole, stored)
}

#[rstest]
#[case(100_000, &[])]
#[case(100_000, &[(0, 700), (50_000, 3)])]
#[case(100_000, &[(99_000, 1000)])]
#[case(100_000, &[(5000, 10), (100_000, 0)])]
fn sparse_files_of_every_version_are_read(#[case] size: usize, #[case] pieces: &[(usize, usize)]) {
    let (whole, stored) = sparse_content(size, pieces);
    let octal =
        |field: &mut [u8; 12], number: usize| field.copy_from_slice(format!("{number:011o}\0").as_bytes());
    let old = {
        let mut header = Header::new_gnu();
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let gnu = header.as_gnu_mut().unwrap();
        for (place, &(offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            octal(&mut place.offset, offset);
            octal(&mut place.numbytes, length);
        }
        octal(&mut gnu.realsize, size);
        raw(&mut header, "s", b'S', &stored)
    };
    let size_text = size.to_string();
    let count = pieces.len().to_string();
    let map: Vec<String> = pieces.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
    let numbers: Vec<(String, String)> =
        pieces.iter().map(|(offset, length)| (offset.to_string(), length.to_string())).collect();
    let mut v00: Vec<(&str, &[u8])> =
        vec![("GNU.sparse.size", size_text.as_bytes()), ("GNU.sparse.numblocks", count.as_bytes())];
    for (offset, length) in &numbers {
        v00.extend([("GNU.sparse.offset", offset.as_bytes()), ("GNU.sparse.numbytes", length.as_bytes())]);
    }
    let map = map.join(",");
    let mut v01: Vec<(&str, &[u8])> =
        vec![("GNU.sparse.size", size_text.as_bytes()), ("GNU.sparse.name", b"s")];
    if !map.is_empty() {
        v01.push(("GNU.sparse.map", map.as_bytes()));
    }
    let mut in_content = format!("{count}\n");
    for (offset, length) in &numbers {
        in_content.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut in_content = in_content.into_bytes();
    in_content.resize(in_content.len().next_multiple_of(512), 0);
    in_content.extend_from_slice(&stored);
    let v10: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", size_text.as_bytes()),
    ];
    let versions = [
        old,
        [pax(&v00), raw(&mut ustar(), "s", b'0', &stored)].concat(),
        [pax(&v01), raw(&mut ustar(), "GNUSparseFile.0/s", b'0', &stored)].concat(),
        [pax(&v10), raw(&mut ustar(), "GNUSparseFile.0/s", b'0', &in_content)].concat(),
    ];
    for (version, bytes) in versions.into_iter().enumerate() {
        let read = entries(&archive(&[bytes, raw(&mut ustar(), "behind", b'0', b"it")]));
        assert_eq!(read[0].0.path, path("s"), "version {version}");
        assert_eq!(read[0].0.node, Node::File { size: size as u64 });
        assert!(read[0].1 == whole, "version {version}");
        assert_eq!((&read[1].0.path, &read[1].1[..]), (&path("behind"), &b"it"[..]), "version {version}");
    }
}

#[test]
fn content_that_is_not_read_is_skipped() {
    let noise = crate::layer::compression::tests::noise(1, 1_500_000);
    let bytes = archive(&[raw(&mut ustar(), "a", b'0', &noise), raw(&mut ustar(), "b", b'0', &noise[..700])]);
    let mut reader = LayerReader::new(Cursor::new(bytes.clone())).unwrap();
    let (_, mut content) = reader.next().unwrap().unwrap();
    let mut part = [0; 1000];
    content.read_exact(&mut part).unwrap();
    assert_eq!(content.remaining(), 1_499_000);
    let (_, mut content) = reader.next().unwrap().unwrap();
    assert!(!content.fill_buf().unwrap().is_empty());
    let end = reader.finish().unwrap();
    assert_eq!((end.changes, end.diff_size, end.diff_id), (2, bytes.len() as u64, Digest::of(&bytes)));
    assert_eq!((end.size, end.digest), (end.diff_size, end.diff_id));
    end.expect_diff_id(&Digest::of(&bytes)).unwrap();
    let wrong = Digest::of(b"other");
    assert!(
        matches!(end.expect_diff_id(&wrong), Err(LayerError::DiffId { expected, .. }) if expected == wrong)
    );
    assert!(
        matches!(end.expect_digest(&wrong), Err(LayerError::BlobDigest { expected, .. }) if expected == wrong)
    );
}

#[test]
fn what_lies_behind_the_end_belongs_to_the_digest() {
    let mut bytes = archive(&[raw(&mut ustar(), "a", b'0', b"")]);
    bytes.extend_from_slice(&[0; 8192]);
    bytes.extend_from_slice(b"and more");
    let (changes, end) = read_all(Cursor::new(bytes.clone())).unwrap();
    assert_eq!((changes.len(), end.diff_id), (1, Digest::of(&bytes)));
}

#[rstest]
#[case::no_end(0)]
#[case::half_an_end(512)]
fn an_archive_may_lack_its_end(#[case] zeros: usize) {
    let bytes = [raw(&mut ustar(), "a", b'0', b"x"), vec![0; zeros]].concat();
    assert_eq!(entries(&bytes).len(), 1);
    assert_eq!(read_bytes(&[]).unwrap().len(), 0);
}

fn compress(format: &str, bytes: &[u8]) -> Vec<u8> {
    match format {
        "plain" => bytes.to_vec(),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let mut encoder =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        "zstd with a skippable frame" => {
            [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd::encode_all(bytes, 3).unwrap()]
                .concat()
        }
        other => panic!("{other}"),
    }
}

#[rstest]
#[case("plain")]
#[case("gzip")]
#[case("bzip2")]
#[case("xz")]
#[case("zstd")]
#[case("zstd with a skippable frame")]
fn every_compression_is_seen_by_its_content(#[case] format: &str) {
    let content = crate::layer::compression::tests::prose(1, 800_000);
    let plain = archive(&[raw(&mut ustar(), "f", b'0', &content)]);
    let blob = compress(format, &plain);
    let (changes, end) = read_all(Dribble(Cursor::new(blob.clone()), 777)).unwrap();
    assert!(changes[0].1 == content);
    assert_eq!((end.digest, end.size), (Digest::of(&blob), blob.len() as u64));
    assert_eq!((end.diff_id, end.diff_size), (Digest::of(&plain), plain.len() as u64));
    assert!(is_archive(Cursor::new(blob.clone())).unwrap());
    let mut reader = ArchiveReader::new(Cursor::new(blob.clone())).unwrap();
    let (found, mut read) = reader.next().unwrap().unwrap();
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).unwrap();
    assert!(found.path == path("f") && bytes == content);
    assert!(reader.next().unwrap().is_none());
    // A second stream behind the first is the same archive, as `cat a.gz b.gz` makes it.
    let (first, second) = plain.split_at(300_000);
    let parts = [compress(format, first), compress(format, second)].concat();
    assert!(read_bytes(&parts).unwrap()[0].1 == content);
    if format != "plain" {
        let mut damaged = blob;
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(read_bytes(&damaged).is_err(), "{format} has a checksum");
    }
}

#[rstest]
#[case::empty(b"".to_vec())]
#[case::text(b"#!/bin/sh\necho an ordinary script that is longer than nothing\n".repeat(20))]
#[case::zeros(vec![0; 4096])]
#[case::compressed_text(compress("gzip", &b"only text\n".repeat(500)))]
#[case::compressed_nothing(compress("xz", b""))]
#[case::compressed_zeros(compress("zstd", &[0; 4096]))]
#[case::cut_off(archive(&[raw(&mut ustar(), "f", b'0', b"")])[..400].to_vec())]
#[case::like_gzip(b"\x1f\x8b\x08 but not really".to_vec())]
#[case::wrong_checksum({ let mut bytes = archive(&[raw(&mut ustar(), "f", b'0', b"")]); bytes[0] = b'g'; bytes })]
fn what_is_no_archive_is_a_file(#[case] bytes: Vec<u8>) {
    assert!(!is_archive(Cursor::new(bytes)).unwrap());
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_file_that_is_no_archive() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    assert!(
        matches!(is_archive(Failing), Err(LayerError::Source("archive", error)) if error.raw_os_error() == Some(5))
    );
}

#[test]
fn in_archives_markers_are_names() {
    let bytes =
        archive(&[raw(&mut ustar(), "a/.wh.b", b'0', b"x"), raw(&mut ustar(), "a/.wh..wh..opq", b'0', b"")]);
    let mut reader = ArchiveReader::new(Cursor::new(bytes)).unwrap();
    let mut names = Vec::new();
    while let Some((entry, _)) = reader.next().unwrap() {
        names.push(entry.path);
    }
    assert_eq!(names, ["a/.wh.b", "a/.wh..wh..opq"].map(path));
}

#[test]
fn a_reader_that_is_dropped_does_not_wait_for_its_source() {
    /// Never has anything.
    struct Silent(std::sync::mpsc::Receiver<()>);
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(0)
        }
    }
    let (_sender, receiver) = std::sync::mpsc::channel();
    drop(LayerReader::new(Silent(receiver)).unwrap());
}
