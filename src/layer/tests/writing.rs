//! The writer: order, sizes, determinism, failure.

use rstest::rstest;

use super::*;
use crate::image::{Digest, media_type};
use crate::layer::compression::tests::{noise, prose};

fn some_changes() -> Vec<(Change, Vec<u8>)> {
    vec![
        directory("a"),
        (Change::Opaque(path("a")), Vec::new()),
        file("a/noise", &noise(1, 2_500_000)),
        file("a/prose", &prose(1, 3_000_001)),
        file("b", b""),
        (Change::Remove(path("c")), Vec::new()),
        (Change::Entry(entry("d", Node::Hardlink { target: path("b") })), Vec::new()),
        file("zeros", &vec![0; 9_000_000]),
    ]
}

const ALL: [Compression; 4] =
    [Compression::None, Compression::Gzip(4), Compression::Gzip(1), Compression::ZSTD];

#[test]
fn equal_changes_make_equal_bytes_whatever_the_threads_and_reads() {
    let changes = some_changes();
    for compression in ALL {
        let options = LayerOptions { compression, ..LayerOptions::default() };
        let mut layers = Vec::new();
        for (threads, piece) in [(1, usize::MAX), (2, 100_003), (7, 4096), (3, 1)] {
            let bench = Bench::new();
            let mut writer = LayerWriter::new(&bench.store, &pool(threads), options).unwrap();
            for (change, content) in &changes {
                // Reading single bytes of everything would take long.
                let piece = if content.len() > 1_000_000 { piece.max(999) } else { piece };
                writer.change(change, &mut Dribble(content.as_slice(), piece)).unwrap();
            }
            let layer = writer.finish().unwrap();
            let (read, end) = read_all(bench.store.open_blob(&layer.digest).unwrap()).unwrap();
            assert!(read == changes, "{compression:?}");
            assert_eq!((end.digest, end.size), (layer.digest, layer.size));
            assert_eq!((end.diff_id, end.diff_size), (layer.diff_id, layer.diff_size));
            assert_eq!((end.changes, layer.changes), (8, 8));
            layers.push(layer);
        }
        assert!(layers.windows(2).all(|pair| pair[0] == pair[1]), "{compression:?}");
        let layer = &layers[0];
        assert_eq!(layer.compression, compression.identity());
        assert_eq!(layer.descriptor().media_type().to_string(), compression.media_type());
        assert_eq!(layer.diff_size % 512, 0);
        if compression == Compression::None {
            assert_eq!((layer.digest, layer.size), (layer.diff_id, layer.diff_size));
        } else {
            // The noise is half of what is left.
            assert!(layer.size < 3_500_000, "{} bytes of {compression:?}", layer.size);
        }
    }
}

/// The digest of a layer that is compressed on threads and that of one that is not are pinned: whatever
/// changes them makes every cache useless, and needs another identity.
#[test]
fn the_bytes_of_layers_are_fixed() {
    let digests = |changes: &[(Change, Vec<u8>)]| {
        let bench = Bench::new();
        [Compression::None, Compression::default(), Compression::ZSTD].map(|compression| {
            let layer = bench.write(LayerOptions { compression, ..LayerOptions::default() }, changes);
            layer.digest.hex()[..16].to_owned()
        })
    };
    assert_eq!(digests(&[]), ["5f70bf18a0860070", "62539018952ddec3", "3fe6727a01380b87"]);
    assert_eq!(digests(&some_changes()), ["18e4ecfe8dd294dd", "cd6fb4b83eb7e771", "c3461258a3642132"]);
}

#[test]
fn an_empty_layer_is_the_empty_tar() {
    let bench = Bench::new();
    let layer = bench.write(LayerOptions { compression: Compression::None, clamp_mtime: None }, &[]);
    assert_eq!(bench.blob(&layer), [0; 1024]);
    // The diff ID that every empty layer has.
    assert_eq!(layer.diff_id.hex(), "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
    assert_eq!((layer.media_type, layer.changes), (media_type::OCI_LAYER, 0));
}

#[rstest]
#[case::smaller(&["b", "a"])]
#[case::equal(&["a", "a"])]
#[case::by_bytes(&["a-b", "a/b"])]
fn order_is_checked(#[case] paths: &[&str]) {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    writer.entry(&entry(paths[0], Node::Directory)).unwrap();
    let error = writer.entry(&entry(paths[1], Node::Directory)).unwrap_err();
    assert!(
        matches!(&error, LayerError::Order { path: at, previous } if *at == path(paths[1]) && *previous == path(paths[0]))
    );
    assert!(matches!(writer.finish(), Err(LayerError::Broken)));
    assert!(bench.is_clean());
}

#[test]
fn an_opaque_marker_follows_its_directory_alone() {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    writer.entry(&entry("a", Node::Directory)).unwrap();
    writer.opaque(&path("a")).unwrap();
    assert!(matches!(writer.opaque(&path("a")), Err(LayerError::Order { .. })), "once");
    let mut writer = bench.writer(LayerOptions::default());
    writer.entry(&entry("a", Node::Fifo)).unwrap();
    assert!(matches!(writer.opaque(&path("a")), Err(LayerError::Order { .. })), "a pipe is no directory");
    let mut writer = bench.writer(LayerOptions::default());
    writer.remove(&path("a")).unwrap();
    assert!(
        matches!(writer.entry(&entry("a", Node::Fifo)), Err(LayerError::Order { .. })),
        "a path is said once"
    );
    let mut writer = bench.writer(LayerOptions::default());
    writer.opaque(&TreePath::root()).unwrap();
    writer.entry(&entry("a", Node::Directory)).unwrap();
    let layer = writer.finish().unwrap();
    let changes = read_bytes(&bench.blob(&layer)).unwrap();
    assert_eq!(changes[0].0, Change::Opaque(TreePath::root()));
}

#[rstest]
#[case(".wh.x")]
#[case("a/.wh..wh..opq")]
#[case("a/.wh.b/c")]
fn names_of_markers_are_refused(#[case] name: &str) {
    let bench = Bench::new();
    for refused in [
        bench.writer(LayerOptions::default()).entry(&entry(name, Node::Directory)),
        bench.writer(LayerOptions::default()).remove(&path(name)),
        bench.writer(LayerOptions::default()).opaque(&path(name)),
        bench.writer(LayerOptions::default()).entry(&entry("z", Node::Hardlink { target: path(name) })),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(&error, LayerError::WhiteoutName(at) if *at == path(name)));
    }
}

#[test]
fn nothing_lies_in_what_is_no_directory() {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    writer.entry(&entry("a", Node::Symlink { target: b"b".to_vec() })).unwrap();
    let error = writer.entry(&entry("a/f", Node::Fifo)).unwrap_err();
    assert_eq!(error.to_string(), "`/a/f` of the layer lies in `/a`, which is a symbolic link");
    let mut writer = bench.writer(LayerOptions::default());
    writer.remove(&path("a")).unwrap();
    let error = writer.entry(&entry("a/f", Node::Fifo)).unwrap_err();
    assert_eq!(error.to_string(), "`/a/f` of the layer lies in `/a`, which is a removed path");
}

#[test]
fn hard_links_follow_their_targets() {
    let bench = Bench::new();
    for target in ["b", "c"] {
        let mut writer = bench.writer(LayerOptions::default());
        let error = writer.entry(&entry("b", Node::Hardlink { target: path(target) })).unwrap_err();
        assert_eq!(error.to_string(), format!("hard link `/b` comes before its target `/{target}`"));
    }
}

#[test]
fn the_root_is_a_directory_that_stays() {
    let bench = Bench::new();
    assert!(bench.writer(LayerOptions::default()).remove(&TreePath::root()).is_err());
    assert!(bench.writer(LayerOptions::default()).entry(&entry("", Node::Fifo)).is_err());
    let changes = [directory(""), directory("a")];
    let layer = bench.write(LayerOptions::default(), &changes);
    assert_eq!(read_bytes(&bench.blob(&layer)).unwrap(), changes);
}

#[rstest]
#[case::empty(10, 0)]
#[case::in_the_first_block(1000, 999)]
#[case::in_a_later_block(5_000_000, 4_000_000)]
fn a_file_that_shrinks_is_named(#[case] size: u64, #[case] actual: usize) {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    let content = noise(1, actual);
    let error = writer.file(&entry("a/log", Node::File { size }), &mut content.as_slice()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`/a/log` changed while it was read: it had {size} bytes, {actual} could be read")
    );
    assert!(matches!(writer.entry(&entry("b", Node::Fifo)), Err(LayerError::Broken)));
    drop(writer);
    assert!(bench.is_clean());
}

#[rstest]
#[case(0)]
#[case(511)]
#[case(512)]
#[case(3_000_000)]
fn a_file_that_grows_is_named(#[case] size: usize) {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    let content = noise(1, size + 1);
    let error =
        writer.file(&entry("log", Node::File { size: size as u64 }), &mut content.as_slice()).unwrap_err();
    assert!(matches!(&error, LayerError::Grew { expected, .. } if *expected == size as u64), "{error}");
    drop(writer);
    assert!(bench.is_clean());
}

#[test]
fn only_files_have_content() {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    let refused = writer.file(&entry("d", Node::Directory), &mut &b"x"[..]);
    assert!(matches!(refused, Err(LayerError::Grew { expected: 0, .. })));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is on fire"))
        }
    }
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    let error = writer.file(&entry("a/b", Node::File { size: 3 }), &mut Failing).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the content of `/a/b`");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the disk is on fire");
}

#[test]
fn a_layer_that_is_given_up_leaves_nothing() {
    let bench = Bench::new();
    let mut writer = bench.writer(LayerOptions::default());
    for (change, content) in some_changes() {
        writer.change(&change, &mut content.as_slice()).unwrap();
    }
    drop(writer);
    assert!(bench.is_clean());
}

#[test]
fn later_times_become_the_epochs() {
    let bench = Bench::new();
    let at = |mtime| Metadata { mtime, ..Metadata::default() };
    let times = |layer: &LayerBlob| -> Vec<i64> {
        let changes = read_bytes(&bench.blob(layer)).unwrap();
        changes
            .iter()
            .map(|(change, _)| match change {
                Change::Entry(entry) => entry.metadata.mtime,
                _ => -1,
            })
            .collect()
    };
    let write = |clamp_mtime| {
        let mut writer = bench.writer(LayerOptions { clamp_mtime, ..LayerOptions::default() });
        for (name, mtime) in [("a", 5), ("b", 1000), ("c", 1001), ("d", 1 << 40), ("e", -3)] {
            writer.entry(&Entry { metadata: at(mtime), ..entry(name, Node::Fifo) }).unwrap();
        }
        writer.finish().unwrap()
    };
    assert_eq!(times(&write(None)), [5, 1000, 1001, 1 << 40, 0]);
    assert_eq!(times(&write(Some(1000))), [5, 1000, 1000, 1000, 0]);
}

#[test]
fn attributes_of_overlayfs_are_not_written() {
    let bench = Bench::new();
    let mut marked = entry("d", Node::Directory);
    for name in ["trusted.overlay.opaque", "user.overlay.redirect", "user.overlaid", "trusted.x"] {
        marked.metadata.xattrs.insert(name.as_bytes().to_vec(), b"y".to_vec());
    }
    let layer = bench.write(
        LayerOptions { compression: Compression::None, clamp_mtime: None },
        &[(Change::Entry(marked), Vec::new())],
    );
    let blob = bench.blob(&layer);
    assert!(!blob.windows(9).any(|bytes| bytes == b".overlay."));
    let (Change::Entry(read), _) = &read_bytes(&blob).unwrap()[0] else { panic!() };
    let names: Vec<_> = read.metadata.xattrs.keys().map(Vec::as_slice).collect();
    assert_eq!(names, [&b"trusted.x"[..], b"user.overlaid"]);
}

#[test]
fn sparse_files_are_written_as_what_they_read() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new();
    let sizes: [(u64, &[(u64, usize)]); 6] = [
        (20 << 20, &[]),
        (20 << 20, &[(0, 5000), (7 << 20, 1 << 20)]),
        ((20 << 20) + 17, &[((20 << 20) - 100, 117)]),
        (3 << 20, &[(0, 3 << 20)]),
        (1000, &[(0, 10)]),
        (0, &[]),
    ];
    for (size, pieces) in sizes {
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(size).unwrap();
        for &(offset, length) in pieces {
            sparse.write_all_at(&noise(offset, length), offset).unwrap();
        }
        let file_entry = entry("sparse", Node::File { size });
        let write = |from_holes: bool| {
            std::io::Seek::rewind(&mut &sparse).unwrap();
            let mut writer = bench.writer(LayerOptions::default());
            if from_holes {
                writer.file_from(&file_entry, &sparse).unwrap();
            } else {
                writer.file(&file_entry, &mut &sparse).unwrap();
            }
            writer.finish().unwrap()
        };
        assert_eq!(write(true), write(false), "{size} {pieces:?}");
        for wrong in [size + 1, size + (2 << 20)] {
            std::io::Seek::rewind(&mut &sparse).unwrap();
            let longer = entry("sparse", Node::File { size: wrong });
            let error = bench.writer(LayerOptions::default()).file_from(&longer, &sparse).unwrap_err();
            assert!(matches!(error, LayerError::Shrank { actual, .. } if actual == size), "{error}");
        }
        if size > 1 {
            std::io::Seek::rewind(&mut &sparse).unwrap();
            let shorter = entry("sparse", Node::File { size: size - 1 });
            let error = bench.writer(LayerOptions::default()).file_from(&shorter, &sparse).unwrap_err();
            assert!(matches!(error, LayerError::Grew { .. }), "{error}");
        }
    }
}

#[test]
fn layers_written_at_once_share_a_pool() {
    let bench = Bench::new();
    let pool = pool(2);
    let changes = some_changes();
    let digests: Vec<Digest> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut writer = LayerWriter::new(&bench.store, &pool, LayerOptions::default()).unwrap();
                    for (change, content) in &changes {
                        writer.change(change, &mut content.as_slice()).unwrap();
                    }
                    writer.finish().unwrap().digest
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn levels_that_do_not_exist_are_refused() {
    let bench = Bench::new();
    let options = LayerOptions { compression: Compression::Zstd(99), ..LayerOptions::default() };
    assert!(matches!(LayerWriter::new(&bench.store, &pool(1), options), Err(LayerError::Level(99, _))));
}
