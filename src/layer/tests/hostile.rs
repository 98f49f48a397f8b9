//! Layers that mean harm, or make no sense.

use std::io::Cursor;

use ::tar::{EntryType, Header};
use rstest::rstest;

use super::reading::{archive, finished, pax, raw, ustar};
use super::*;
use crate::image::Digest;

fn refusal(bytes: &[u8]) -> String {
    read_bytes(bytes).unwrap_err().to_string()
}

#[rstest]
#[case("..")]
#[case("../etc/passwd")]
#[case("/../../etc/passwd")]
#[case("a/../../etc/passwd")]
#[case("a/.wh.../x")]
#[case("a/.wh..")]
#[case("a/.wh...")]
#[case("a/.wh.")]
fn names_that_lead_out_are_refused(#[case] name: &str) {
    let error = read_bytes(&archive(&[raw(&mut ustar(), name, b'0', b"")]));
    assert!(matches!(error, Err(LayerError::Name(_) | LayerError::Unsupported { .. })), "{error:?}");
    let error = read_bytes(&archive(&[pax(&[("path", name.as_bytes())]), raw(&mut ustar(), "f", b'0', b"")]));
    assert!(error.is_err());
}

#[test]
fn hard_links_that_lead_out_are_refused() {
    for target in ["../../etc/shadow", "/../etc/shadow"] {
        let mut header = ustar();
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        let error = read_bytes(&archive(&[raw(&mut header, "f", b'1', b"")]));
        assert!(matches!(error, Err(LayerError::Name(PathError::Escapes(_)))), "{error:?}");
    }
    // Symbolic links are read as they are: they mean something inside the root alone.
    let mut header = ustar();
    header.as_old_mut().linkname[..8].copy_from_slice(b"../../..");
    let read = read_bytes(&archive(&[raw(&mut header, "f", b'2', b"")])).unwrap();
    assert_eq!(
        read[0].0,
        Change::Entry(Entry {
            metadata: Metadata::default(),
            ..entry("f", Node::Symlink { target: b"../../..".to_vec() })
        })
    );
}

#[rstest]
#[case::path(&[("path", &b"a\0b"[..])], "PAX record `path` has a NUL")]
#[case::link(&[("linkpath", &b"\0"[..])], "PAX record `linkpath` has a NUL")]
#[case::size(&[("size", &b"-1"[..])], "PAX record `size` is out of range")]
#[case::large_size(&[("size", &b"9223372036854775808"[..])], "PAX record `size` is out of range")]
#[case::uid(&[("uid", &b"4294967296"[..])], "PAX record `uid` is out of range")]
#[case::negative_gid(&[("gid", &b"-2"[..])], "PAX record `gid` is out of range")]
#[case::time(&[("mtime", &b"yesterday"[..])], "PAX record `mtime` is no time")]
#[case::base64(&[("LIBARCHIVE.xattr.user.x", &b"!!"[..])], "is not base64")]
#[case::sparse_version(&[("GNU.sparse.major", &b"2"[..]), ("GNU.sparse.minor", b"0")], "unknown version")]
#[case::sparse_order(&[("GNU.sparse.numbytes", &b"1"[..])], "out of order")]
#[case::sparse_odd(&[("GNU.sparse.size", &b"9"[..]), ("GNU.sparse.map", b"1,2,3")], "ends in an offset")]
#[case::sparse_number(&[("GNU.sparse.map", &b"1,x"[..])], "has no number")]
#[case::sparse_without_size(&[("GNU.sparse.map", &b"0,0"[..])], "has no size")]
#[case::sparse_overlap(&[("GNU.sparse.size", &b"99"[..]), ("GNU.sparse.map", b"0,5,4,5")], "overlap")]
#[case::sparse_end(&[("GNU.sparse.size", &b"3"[..]), ("GNU.sparse.map", b"0,10")], "behind its end")]
#[case::sparse_endless(&[("GNU.sparse.size", &b"3"[..]), ("GNU.sparse.map", b"18446744073709551615,10")], "no end")]
#[case::sparse_sum(&[("GNU.sparse.size", &b"99"[..]), ("GNU.sparse.map", b"0,5")], "not what is stored")]
#[case::sparse_map_in_content(&[("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")], "longer than its content")]
fn records_that_make_no_sense_are_refused(#[case] records: &[(&str, &[u8])], #[case] reason: &str) {
    let message = refusal(&archive(&[pax(records), raw(&mut ustar(), "f", b'0', b"0123456789")]));
    assert!(message.contains(reason), "{message}");
}

#[rstest]
#[case::unknown(b'Z', "of type `Z`")]
#[case::label(b'V', "a volume's label")]
#[case::multi_volume(b'M', "another volume")]
#[case::dump(b'D', "incremental dump")]
#[case::solaris(b'X', "of type `X`")]
fn unknown_types_are_named(#[case] typeflag: u8, #[case] what: &str) {
    let message = refusal(&archive(&[raw(&mut ustar(), "odd/one", typeflag, b"")]));
    assert!(message.contains(what) && message.contains("odd/one"), "{message}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    type Damage = fn(&mut Header);
    let set: [(&str, Damage); 7] = [
        ("size is no number", |header| header.as_old_mut().size = *b"hello, world"),
        ("size is negative", |header| header.as_old_mut().size = [0xff; 12]),
        ("uid is out of range", |header| header.as_old_mut().uid = [0x80, 0, 0, 1, 0, 0, 0, 0]),
        ("gid is out of range", |header| header.as_old_mut().gid = [0xff; 8]),
        ("mode is no number", |header| header.as_old_mut().mode = *b"rwxr-xr-"),
        ("time is no number", |header| header.as_old_mut().mtime = [0xbf; 12]),
        ("device number is out of range", |header| {
            header.set_entry_type(EntryType::new(b'3'));
            header.as_ustar_mut().unwrap().dev_major = [0xff; 8];
        }),
    ];
    for (reason, damage) in set {
        let mut header = ustar();
        header.set_size(0);
        header.as_old_mut().name[0] = b'f';
        damage(&mut header);
        let message = refusal(&archive(&[finished(&mut header, b"")]));
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn extensions_are_not_read_without_bound() {
    for typeflag in *b"xLK" {
        for size in [(1 << 20) + 1, 1 << 32, u64::MAX / 2] {
            let mut header = ustar();
            header.set_entry_type(EntryType::new(typeflag));
            header.set_size(size);
            let message = refusal(&finished(&mut header, b"")).to_string();
            assert!(message.contains("at most 1 MiB"), "{message}");
        }
    }
    // One that is announced and does not come.
    let mut header = ustar();
    header.set_entry_type(EntryType::new(b'x'));
    header.set_size(1 << 20);
    assert!(refusal(&finished(&mut header, b"11 path=abc\n")).contains("cut off"));
    // A global one is passed over, however large it is.
    let mut header = ustar();
    header.set_entry_type(EntryType::new(b'g'));
    header.set_size(3 << 20);
    let bytes = archive(&[finished(&mut header, &vec![0; 3 << 20]), raw(&mut ustar(), "f", b'0', b"")]);
    assert_eq!(read_bytes(&bytes).unwrap().len(), 1);
}

#[test]
fn old_sparse_headers_without_end_are_refused() {
    let mut header = Header::new_gnu();
    for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
        set(&mut header, 0);
    }
    header.set_mode(0);
    header.set_entry_type(EntryType::new(b'S'));
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.set_is_extended(true);
    header.set_size(0);
    let mut extension = ::tar::GnuExtSparseHeader::new();
    extension.set_is_extended(true);
    for piece in extension.sparse_mut() {
        piece.offset.copy_from_slice(b"00000000001\0");
        piece.numbytes.copy_from_slice(b"00000000000\0");
    }
    let mut bytes = finished(&mut header, b"");
    for _ in 0..10_000 {
        bytes.extend_from_slice(extension.as_bytes());
    }
    assert!(refusal(&bytes).contains("too many pieces"), "{}", refusal(&bytes));
}

#[test]
fn a_sparse_file_costs_no_memory() {
    // Sixteen exabytes of hole in a kilobyte of archive: to be read as far as its reader likes.
    let bytes = archive(&[
        pax(&[("GNU.sparse.size", b"18446744073709551615"), ("GNU.sparse.map", b"0,1")]),
        raw(&mut ustar(), "f", b'0', b"x"),
        raw(&mut ustar(), "behind", b'0', b""),
    ]);
    let mut reader = LayerReader::new(Cursor::new(bytes)).unwrap();
    let (change, mut content) = reader.next().unwrap().unwrap();
    assert_eq!(
        change,
        Change::Entry(Entry { metadata: Metadata::default(), ..entry("f", Node::File { size: u64::MAX }) })
    );
    let mut start = vec![9; 100_000];
    content.read_exact(&mut start).unwrap();
    assert!(start[0] == b'x' && start[1..].iter().all(|&byte| byte == 0));
    assert_eq!(reader.next().unwrap().unwrap().0.path(), &path("behind"));
}

#[test]
fn paths_longer_than_linux_takes_are_refused() {
    let deep = "a/".repeat(300_000);
    let error = read_bytes(&archive(&[pax(&[("path", deep.as_bytes())]), raw(&mut ustar(), "f", b'5', b"")]));
    assert!(matches!(error, Err(LayerError::Name(PathError::TooLong(_)))));
    let message =
        refusal(&archive(&[pax(&[("linkpath", deep.as_bytes())]), raw(&mut ustar(), "f", b'2', b"")]));
    assert!(message.contains("longer target than Linux takes"), "{message}");
}

#[test]
fn structures_that_make_no_sense_are_refused() {
    let mut wrong = archive(&[raw(&mut ustar(), "f", b'0', b"")]);
    wrong[10] = b'!';
    assert_eq!(refusal(&wrong), "the archive is not valid at byte 0: a header's checksum is wrong");
    let one_zero_block = [vec![0; 512], raw(&mut ustar(), "f", b'0', b"")].concat();
    assert_eq!(
        refusal(&one_zero_block),
        "the archive is not valid at byte 512: a header follows a block of NUL"
    );
    for announced in [pax(&[("path", b"f")]), raw(&mut Header::new_gnu(), "x", b'L', b"f\0")] {
        assert!(refusal(&archive(&[announced])).contains("it ends where an entry was announced"));
    }
    let broken_record = raw(&mut ustar(), "x", b'x', b"99 path=f\n");
    assert!(refusal(&archive(&[broken_record])).contains("a PAX record is not"));
    let empty_link = raw(&mut ustar(), "l", b'2', b"");
    assert!(refusal(&archive(&[empty_link])).contains("a symbolic link to nowhere"));
    let root = raw(&mut ustar(), "./", b'0', b"");
    assert!(refusal(&archive(&[root])).contains("the root, and not a directory"));
    let inside = raw(&mut ustar(), ".wh.a/b", b'0', b"");
    assert!(refusal(&archive(&[inside])).contains("in a directory that is a whiteout"));
}

#[test]
fn a_file_that_is_cut_off_is_an_error_to_who_reads_it_and_who_does_not() {
    let mut header = ustar();
    header.set_entry_type(EntryType::new(b'0'));
    header.set_size(1 << 40);
    header.as_old_mut().name[0] = b'f';
    let bytes = finished(&mut header, &[7; 10_000]);
    let mut reader = LayerReader::new(Cursor::new(bytes.clone())).unwrap();
    let (_, mut content) = reader.next().unwrap().unwrap();
    let error = content.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(
        LayerReader::new(Cursor::new(bytes)).unwrap().finish().unwrap_err().to_string().contains("cut off")
    );
}

#[test]
fn rubbish_behind_a_compressed_layer_is_an_error() {
    let bench = Bench::new();
    for compression in [Compression::default(), Compression::ZSTD] {
        let layer = bench.write(LayerOptions { compression, clamp_mtime: None }, &[directory("a")]);
        let bytes = [bench.blob(&layer), b"rubbish behind it".to_vec()].concat();
        assert!(read_bytes(&bytes).is_err(), "{compression:?}");
    }
}

/// An xz header can ask for a dictionary of 4 GiB.
#[test]
fn decoders_do_not_allocate_what_a_header_asks_for() {
    use std::io::Write;
    let bytes = archive(&[raw(&mut ustar(), "f", b'0', b"content")]);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    encoder.write_all(&bytes).unwrap();
    let mut bytes = encoder.finish().unwrap();
    assert!(read_bytes(&bytes).is_ok());
    // The block's header behind the stream's: its size, flags, the filter (0x21, one byte), padding, a
    // checksum.
    let end = 12 + (usize::from(bytes[12]) + 1) * 4;
    let filter = bytes[12..end].windows(2).position(|window| window == [0x21, 1]).unwrap();
    bytes[12 + filter + 2] = 40;
    let sum = libdeflater::crc32(&bytes[12..end - 4]);
    bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
    let message = read_bytes(&bytes).unwrap_err();
    let source = std::error::Error::source(&message).unwrap().to_string();
    assert!(source.contains("mem"), "{source}");
    // A window of 2 GiB (`zstd --long=31`), in a frame header alone.
    let message = read_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0]).unwrap_err();
    let source = std::error::Error::source(&message).unwrap().to_string();
    assert!(source.to_lowercase().contains("memory"), "{source}");
}

#[test]
fn the_index_of_a_layer_with_wrong_content_goes_with_what_it_is() {
    let bench = Bench::new();
    let bytes = archive(&[raw(&mut ustar(), "f", b'0', b"")]);
    let end = LayerReader::new(Cursor::new(bytes.clone())).unwrap().indexed(&bench.store).finish().unwrap();
    assert_eq!(end.diff_id, Digest::of(&bytes));
    assert!(Tree::open(&bench.store, &[end.diff_id]).is_ok());
}
