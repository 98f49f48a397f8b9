//! What is written is read back, whatever it is; and no bytes make a reader panic.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not a separator", |byte| !matches!(byte, 0 | b'/'));
    prop_oneof![
        4 => "[a-c]{1,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(byte, 1..6),
        1 => "[ab]{90,130}".prop_map(String::into_bytes),
        1 => "[\u{e0}-\u{ff}]{1,60}".prop_map(String::into_bytes),
    ]
    .prop_filter("legal", |name| name != b"." && name != b".." && !name.starts_with(b".wh."))
}

fn any_tree_path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec(any_name(), 1..4).prop_map(|parts| TreePath::new(parts.join(&b'/')).unwrap())
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let id = || prop_oneof![Just(0), 0..70_000_u32, any::<u32>()];
    let mtime = prop_oneof![Just(0), 0..2_000_000_000_i64, 0..i64::MAX];
    let xattrs = prop::collection::btree_map(
        "(user|security|trusted)\\.[a-z.\u{e9}]{1,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..50),
        0..3,
    )
    .prop_map(|mut xattrs| {
        xattrs.retain(|name, _| !name.windows(8).any(|part| part == b".overlay"));
        xattrs
    });
    (0..=MODE_BITS, id(), id(), mtime, xattrs).prop_map(|(mode, uid, gid, mtime, xattrs)| Metadata {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

#[derive(Debug, Clone)]
enum Kind {
    Node(Node, Vec<u8>),
    Remove,
    Opaque,
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    let target = prop::collection::vec(1..=255_u8, 1..200);
    let device = || (0..=0o7_777_777_u32, 0..=0o7_777_777_u32);
    let plain = |node| Kind::Node(node, Vec::new());
    prop_oneof![
        3 => Just(plain(Node::Directory)),
        4 => bytes(2000).prop_map(|content| Kind::Node(Node::File { size: content.len() as u64 }, content)),
        2 => target.prop_map(move |target| plain(Node::Symlink { target })),
        1 => any_tree_path().prop_map(move |target| plain(Node::Hardlink { target })),
        1 => device().prop_map(move |(major, minor)| plain(Node::CharDevice { major, minor })),
        1 => device().prop_map(move |(major, minor)| plain(Node::BlockDevice { major, minor })),
        1 => Just(plain(Node::Fifo)),
        1 => Just(Kind::Remove),
        1 => Just(Kind::Opaque),
    ]
}

fn any_layer() -> impl Strategy<Value = Vec<(Change, Vec<u8>)>> {
    prop::collection::vec((any_tree_path(), any_kind(), any_metadata()), 0..20).prop_map(|changes| {
        let sorted: BTreeMap<TreePath, (Kind, Metadata)> =
            changes.into_iter().map(|(path, kind, metadata)| (path, (kind, metadata))).collect();
        let change = |(path, (kind, metadata)): (TreePath, (Kind, Metadata))| match kind {
            Kind::Node(Node::Hardlink { target }, _) if target >= path => None,
            Kind::Node(node, content) => Some((Change::Entry(Entry { path, node, metadata }), content)),
            Kind::Remove => Some((Change::Remove(path), Vec::new())),
            Kind::Opaque => Some((Change::Opaque(path), Vec::new())),
        };
        let mut layer: Vec<(Change, Vec<u8>)> = sorted.into_iter().filter_map(change).collect();
        // Nothing in what is no directory.
        let mut closed: Option<TreePath> = None;
        layer.retain(|(change, _)| {
            if closed.as_ref().is_some_and(|closed| change.path().starts_with(closed)) {
                return false;
            }
            let open =
                matches!(change, Change::Opaque(_) | Change::Entry(Entry { node: Node::Directory, .. }));
            closed = (!open).then(|| change.path().clone());
            true
        });
        layer
    })
}

/// A layer with one of everything, to be damaged.
fn specimen() -> Vec<u8> {
    let long = "l".repeat(150);
    let mut everything = Vec::new();
    for (name, node) in [
        ("a", Node::Directory),
        (&*format!("a/{long}"), Node::File { size: 700 }),
        ("b", Node::Symlink { target: long.clone().into_bytes() }),
        ("c", Node::Hardlink { target: path("b") }),
        ("d", Node::CharDevice { major: 1, minor: 3 }),
    ] {
        let mut entry = entry(name, node);
        entry.metadata.uid = 3_000_000;
        entry.metadata.xattrs.insert(b"user.x".to_vec(), b"1\n2".to_vec());
        let content = vec![7; usize::try_from(entry.node.size()).unwrap()];
        everything.push((Change::Entry(entry), content));
    }
    everything.push((Change::Remove(path("e")), Vec::new()));
    let bench = Bench::new();
    let layer = bench.write(LayerOptions { compression: Compression::None, clamp_mtime: None }, &everything);
    bench.blob(&layer)
}

/// Makes the checksums of headers right again, so that damage gets further than to them.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(changes in any_layer(), zstd: bool, dribble in 1..5000_usize) {
        let bench = Bench::new();
        let compression = if zstd { Compression::ZSTD } else { Compression::default() };
        let layer = bench.write(LayerOptions { compression, clamp_mtime: None }, &changes);
        let blob = bench.blob(&layer);
        let (read, end) = read_all(Dribble(std::io::Cursor::new(blob), dribble)).unwrap();
        prop_assert_eq!(read, changes);
        prop_assert_eq!(end.diff_id, layer.diff_id);
        end.expect_digest(&layer.digest).unwrap();
    }

    /// What is in the index of a layer as it is written is what is in that of the layer as it is read.
    #[test]
    fn written_and_read_layers_have_one_index(changes in any_layer()) {
        let bench = Bench::new();
        let mut writer = bench.writer(LayerOptions::default());
        for (change, content) in &changes {
            writer.change(change, &mut content.as_slice()).unwrap();
        }
        let layer = writer.finish().unwrap();
        let index = || {
            let mut bytes = Vec::new();
            bench.store.side("tree", &layer.diff_id).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let written = index();
        let reader = LayerReader::new(bench.store.open_blob(&layer.digest).unwrap()).unwrap();
        reader.indexed(&bench.store).finish().unwrap();
        prop_assert!(index() == written);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_bytes(&bytes);
        let mut reader = ArchiveReader::new(std::io::Cursor::new(bytes)).unwrap();
        while let Ok(Some(_)) = reader.next() {}
    }

    #[test]
    fn no_magic_number_panics(magic in 0..6_usize, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let magics: [&[u8]; 6] = [
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"",
        ];
        let _ = read_bytes(&[magics[magic], &bytes].concat());
    }

    #[test]
    fn no_damage_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut: prop::sample::Index, mended: bool) {
        let mut bytes = specimen();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if mended {
            mend(&mut bytes);
        }
        let _ = read_bytes(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read_bytes(&bytes);
    }
}

#[test]
fn a_layer_cut_off_anywhere_is_an_error_or_ends_between_entries() {
    let bytes = specimen();
    let whole = read_bytes(&bytes).unwrap();
    for end in 0..bytes.len() {
        match read_bytes(&bytes[..end]) {
            Ok(changes) => assert!(end % 512 == 0 && whole.starts_with(&changes), "at {end}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    // Compressed, a cut is always seen.
    let bench = Bench::new();
    for compression in [Compression::default(), Compression::ZSTD] {
        let layer = bench.write(LayerOptions { compression, clamp_mtime: None }, &whole);
        let blob = bench.blob(&layer);
        for end in 1..blob.len() {
            assert!(read_bytes(&blob[..end]).is_err(), "{compression:?} at {end}");
        }
    }
}
