//! The tree by cases, and against a model that applies layers as a runtime does.

mod model;

use rstest::rstest;

use super::*;
use crate::layer::entry::Change;
use crate::layer::index::IndexBuilder;
use crate::layer::path::tests::path;
use crate::layer::{LayerOptions, LayerReader, LayerWriter, Pool};
use model::agrees_with_model;

/// A store with layers that have indexes alone.
struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { _directory: directory, store }
    }

    fn index(&self, layer: &[Change]) -> Digest {
        let diff_id = Digest::of(format!("{layer:?}").as_bytes());
        let mut builder = IndexBuilder::new(&self.store);
        for change in layer {
            builder.add(change).unwrap();
        }
        builder.finish(&diff_id).unwrap();
        diff_id
    }

    fn tree(&self, layers: &[Vec<Change>]) -> Tree {
        let layers: Vec<_> = layers.iter().map(|layer| self.index(layer)).collect();
        Tree::open(&self.store, &layers).unwrap()
    }
}

fn entry(at: &str, node: Node, mark: u32) -> Change {
    // The mark tells which statement an entry comes from.
    Change::Entry(Entry {
        path: path(at),
        node,
        metadata: Metadata { mode: 0o644, uid: mark, ..Metadata::default() },
    })
}

fn dir(at: &str, mark: u32) -> Change {
    entry(at, Node::Directory, mark)
}

fn file(at: &str, mark: u32) -> Change {
    entry(at, Node::File { size: u64::from(mark) }, mark)
}

fn link(at: &str, target: &str, mark: u32) -> Change {
    entry(at, Node::Symlink { target: target.as_bytes().to_vec() }, mark)
}

fn hard(at: &str, target: &str, mark: u32) -> Change {
    entry(at, Node::Hardlink { target: path(target) }, mark)
}

fn gone(at: &str) -> Change {
    Change::Remove(path(at))
}

fn opaque(at: &str) -> Change {
    Change::Opaque(path(at))
}

/// All of a tree, as `path:mark` (`path:-` for a directory that no layer has an entry for).
fn listing(tree: &Tree) -> Vec<String> {
    tree.walk(&TreePath::root()).unwrap().map(|entry| shown(&entry.unwrap())).collect()
}

fn shown(entry: &Entry) -> String {
    let text = String::from_utf8(entry.path.as_bytes().to_vec()).unwrap();
    let kind = match &entry.node {
        Node::Directory => "/",
        Node::Symlink { .. } => "@",
        _ => "",
    };
    let mark =
        if entry.metadata == implicit_metadata() { "-".to_owned() } else { entry.metadata.uid.to_string() };
    format!("{text}{kind}:{mark}")
}

#[rstest]
#[case::nothing(vec![], &[])]
#[case::one_layer(vec![vec![dir("a", 1), file("a/f", 2), link("l", "a", 3)]], &["a/:1", "a/f:2", "l@:3"])]
#[case::metadata_from_above(vec![vec![dir("a", 1), file("a/f", 2)], vec![dir("a", 3), file("a/g", 4)]],
    &["a/:3", "a/f:2", "a/g:4"])]
#[case::removed(vec![vec![dir("a", 1), file("a/f", 2), file("a/g", 3)], vec![dir("a", 4), gone("a/f")]],
    &["a/:4", "a/g:3"])]
#[case::removed_with_all_in_it(vec![vec![dir("a", 1), dir("a/b", 2), file("a/b/f", 3)], vec![gone("a")]], &[])]
#[case::removed_and_back_again(vec![vec![dir("a", 1), file("a/f", 2)], vec![gone("a")], vec![dir("a", 3)]], &["a/:3"])]
#[case::opaque(vec![vec![dir("a", 1), file("a/f", 2)], vec![dir("a", 3), opaque("a"), file("a/g", 4)]],
    &["a/:3", "a/g:4"])]
#[case::opaque_root(vec![vec![file("f", 1)], vec![opaque(""), file("g", 2)]], &["g:2"])]
#[case::file_over_directory(vec![vec![dir("a", 1), file("a/f", 2)], vec![file("a", 3)]], &["a:3"])]
#[case::link_over_directory(vec![vec![dir("a", 1), file("a/f", 2)], vec![link("a", "b", 3)]], &["a@:3"])]
#[case::directory_over_file(vec![vec![file("a", 1)], vec![dir("a", 2), file("a/f", 3)]], &["a/:2", "a/f:3"])]
#[case::directory_file_directory(
    vec![vec![dir("a", 1), file("a/old", 2)], vec![file("a", 3)], vec![dir("a", 4), file("a/new", 5)]],
    &["a/:4", "a/new:5"])]
#[case::whiteout_and_entry_in_one_layer(vec![vec![dir("a", 1), file("a/f", 2)], vec![gone("a"), dir("a", 3), file("a/g", 4)]],
    &["a/:3", "a/g:4"])]
#[case::a_whiteout_spares_its_own_layer(vec![vec![file("f", 1)], vec![file("f", 2), gone("f")]], &["f:2"])]
#[case::an_opaque_marker_spares_its_own_layer(vec![vec![dir("a", 1), file("a/f", 2)], vec![file("a/g", 3), opaque("a")]],
    &["a/:1", "a/g:3"])]
#[case::hard_link_in_a_layer(vec![vec![file("f", 1), hard("h", "f", 2)]], &["f:1", "h:1"])]
#[case::hard_link_to_a_lower_layer(vec![vec![file("f", 1)], vec![hard("h", "f", 2)]], &["f:1", "h:1"])]
#[case::hard_link_outlives_its_target(vec![vec![file("f", 1)], vec![hard("h", "f", 2)], vec![gone("f")]], &["h:1"])]
#[case::hard_link_keeps_the_old_content(vec![vec![file("f", 1), hard("h", "f", 2)], vec![file("f", 3)]], &["f:3", "h:1"])]
#[case::hard_link_of_a_hard_link(vec![vec![file("f", 1), hard("g", "f", 2), hard("h", "g", 3)]], &["f:1", "g:1", "h:1"])]
#[case::a_moved_file_as_a_hard_link(vec![vec![file("f", 1)], vec![gone("f"), hard("h", "f", 2)]], &["h:1"])]
#[case::parents_that_nobody_wrote(vec![vec![file("a/b/f", 1)]], &["a/:-", "a/b/:-", "a/b/f:1"])]
#[case::parents_of_a_lower_layer(vec![vec![dir("a", 1), dir("a/b", 2)], vec![file("a/b/f", 3)]], &["a/:1", "a/b/:2", "a/b/f:3"])]
#[case::parents_of_a_higher_layer(vec![vec![file("a/b/f", 1)], vec![dir("a", 2)]], &["a/:2", "a/b/:-", "a/b/f:1"])]
#[case::a_later_entry_counts(vec![vec![file("f", 1), file("f", 2)]], &["f:2"])]
#[case::a_file_that_replaces_a_directory_in_one_layer(vec![vec![dir("a", 1), file("a/f", 2), file("a", 3)]], &["a:3"])]
#[case::replaced_twice_in_one_layer(
    vec![vec![dir("a", 1), file("a/x", 2)], vec![file("a/f", 3), file("a", 4), dir("a", 5), file("a/g", 6)]],
    &["a/:5", "a/g:6"])]
#[case::unsorted(vec![vec![file("b/f", 1), dir("b", 2), file("a", 3)]], &["a:3", "b/:2", "b/f:1"])]
#[case::through_a_lower_link(
    vec![vec![link("lib", "usr/lib", 1), dir("usr", 2), dir("usr/lib", 3), file("usr/lib/x", 4)], vec![file("lib/y", 5)]],
    &["lib@:1", "usr/:2", "usr/lib/:3", "usr/lib/x:4", "usr/lib/y:5"])]
#[case::whiteout_through_a_lower_link(
    vec![vec![link("lib", "usr/lib", 1), dir("usr", 2), dir("usr/lib", 3), file("usr/lib/x", 4)], vec![gone("lib/x")]],
    &["lib@:1", "usr/:2", "usr/lib/:3"])]
#[case::opaque_through_a_lower_link(
    vec![vec![link("lib", "usr/lib", 1), dir("usr", 2), dir("usr/lib", 3), file("usr/lib/x", 4)], vec![opaque("lib"), file("lib/y", 5)]],
    &["lib@:1", "usr/:2", "usr/lib/:3", "usr/lib/y:5"])]
#[case::through_two_links(
    vec![vec![link("a", "/b", 1), dir("b", 2), link("b/c", "../d", 3), dir("d", 4)], vec![file("a/c/f", 5), file("a/g", 6)]],
    &["a@:1", "b/:2", "b/c@:3", "b/g:6", "d/:4", "d/f:5"])]
#[case::through_its_own_link(vec![vec![dir("d", 1)], vec![link("l", "d", 2), file("l/f", 3)]], &["d/:1", "d/f:3", "l@:2"])]
#[case::a_directory_over_a_link_is_a_directory(
    vec![vec![link("lib", "usr", 1), dir("usr", 2)], vec![dir("lib", 3), file("lib/y", 4)]],
    &["lib/:3", "lib/y:4", "usr/:2"])]
#[case::a_link_that_is_removed_is_not_followed(
    vec![vec![link("lib", "usr", 1), dir("usr", 2)], vec![gone("lib"), file("lib/y", 4)]],
    &["lib/:-", "lib/y:4", "usr/:2"])]
#[case::a_hard_link_through_a_link(
    vec![vec![link("l", "d", 1), dir("d", 2)], vec![file("l/f", 3), hard("l/h", "l/f", 4)]],
    &["d/:2", "d/f:3", "d/h:3", "l@:1"])]
fn merges(#[case] layers: Vec<Vec<Change>>, #[case] expected: &[&str]) {
    let bench = Bench::new();
    let tree = bench.tree(&layers);
    assert_eq!(listing(&tree), expected);
    // Each entry is found alone too, and what is not listed is not found.
    for entry in tree.walk(&TreePath::root()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(tree.lookup(&entry.path).unwrap(), Some(entry));
    }
    for change in layers.iter().flatten().filter(|change| !change.path().is_root()) {
        let text = String::from_utf8(change.path().as_bytes().to_vec()).unwrap();
        let listed = expected
            .iter()
            .any(|line| line.trim_end_matches(|c: char| c != ':').trim_end_matches([':', '/', '@']) == text);
        assert_eq!(tree.lookup(change.path()).unwrap().is_some(), listed, "{text}");
    }
    agrees_with_model(&tree, &layers);
}

#[test]
fn lists_children_and_skips_content() {
    let bench = Bench::new();
    let tree = bench.tree(&[
        vec![dir("a", 1), dir("a/b", 2), file("a/b/f", 3), file("a/b-", 4), file("a/c", 5), file("z", 6)],
        vec![dir("a", 7), gone("a/c"), file("a/b/g", 8), file("a/d", 9)],
    ]);
    let names = |walk: Walk| walk.map(|entry| shown(&entry.unwrap())).collect::<Vec<_>>();
    assert_eq!(names(tree.list(&TreePath::root()).unwrap()), ["a/:7", "z:6"]);
    assert_eq!(names(tree.list(&path("a")).unwrap()), ["a/b/:2", "a/b-:4", "a/d:9"]);
    assert_eq!(names(tree.walk(&path("a/b")).unwrap()), ["a/b/f:3", "a/b/g:8"]);
    let mut walk = tree.walk(&TreePath::root()).unwrap();
    assert_eq!(shown(&walk.next().unwrap().unwrap()), "a/:7");
    assert_eq!(shown(&walk.next().unwrap().unwrap()), "a/b/:2");
    walk.skip_content().unwrap();
    assert_eq!(names(walk), ["a/b-:4", "a/d:9", "z:6"]);
    for nothing in ["z", "a/c", "none"] {
        assert!(
            matches!(tree.list(&path(nothing)), Err(TreeError::NotADirectory(at)) if at == path(nothing))
        );
    }
}

#[rstest]
#[case("/usr/lib/x", false, "usr/lib/x", true)]
#[case("usr/./lib//x", false, "usr/lib/x", true)]
#[case("/lib/x", false, "usr/lib/x", true)]
#[case("/lib", false, "lib", true)]
#[case("/lib", true, "usr/lib", true)]
#[case("/lib/", false, "usr/lib", true)]
#[case("/lib/.", false, "usr/lib", true)]
#[case("/lib/..", false, "usr", true)]
#[case("/../../usr", false, "usr", true)]
#[case("/", false, "", true)]
#[case("", false, "", true)]
#[case("/out/lib/x", false, "usr/lib/x", true)]
#[case("/abs", true, "usr/lib", true)]
#[case("/dangling", true, "no/where", false)]
#[case("/dangling/file", false, "no/where/file", false)]
#[case("/new/dir/file", false, "new/dir/file", false)]
#[case("/new/../usr", false, "usr", true)]
#[case("/usr/lib/new", true, "usr/lib/new", false)]
fn resolves(#[case] text: &str, #[case] follow: bool, #[case] expected: &str, #[case] exists: bool) {
    let bench = Bench::new();
    let tree = bench.tree(&[
        vec![dir("usr", 1), dir("usr/lib", 2), file("usr/lib/x", 3)],
        vec![
            link("lib", "usr/lib", 4),
            link("out", "../../..", 5),
            link("abs", "/lib", 6),
            link("dangling", "no/where", 7),
        ],
    ]);
    let resolved = tree.resolve(text.as_bytes(), follow).unwrap();
    assert_eq!((&resolved.path, resolved.entry.is_some()), (&path(expected), exists));
    assert_eq!(resolved.entry, tree.lookup(&resolved.path).unwrap());
}

#[test]
fn resolution_ends() {
    let bench = Bench::new();
    let mut chain = vec![
        link("loop", "loop", 1),
        link("ping", "pong", 2),
        link("pong", "ping/x", 3),
        file("f", 4),
        link("to-f", "f", 5),
    ];
    chain.extend((0..40).map(|number| link(&format!("l{number}"), &format!("l{}", number + 1), 6)));
    let tree = bench.tree(&[chain]);
    for circular in ["loop", "loop/x", "ping"] {
        assert!(matches!(tree.resolve(circular.as_bytes(), true), Err(TreeError::Loop(_))), "{circular}");
    }
    assert_eq!(tree.resolve(b"l0", true).unwrap().path, path("l40"), "forty links are followed");
    assert!(tree.resolve(b"loop", false).unwrap().entry.is_some(), "a link need not lead anywhere");
    for through_file in ["f/x", "to-f/x", "f/", "to-f/."] {
        let error = tree.resolve(through_file.as_bytes(), false).unwrap_err();
        assert!(matches!(error, TreeError::NotADirectory(at) if at == path("f")), "{through_file}");
    }
    assert!(matches!(tree.resolve(b"a\0b", true), Err(TreeError::Path(_))));
}

#[test]
fn hard_links_to_nothing_are_errors() {
    let bench = Bench::new();
    let tree = bench.tree(&[vec![hard("h", "f", 1), hard("x", "y", 2), hard("y", "x", 3)]]);
    assert!(matches!(tree.lookup(&path("h")), Err(TreeError::BrokenHardlink { .. })));
    assert!(matches!(tree.lookup(&path("x")), Err(TreeError::Loop(_))));
}

/// Layers with contents, as they are written and read.
#[test]
fn small_files_are_had_through_links() {
    let bench = Bench::new();
    let pool = Pool::default();
    let write = |entries: &[(Change, &str)]| {
        let mut writer = LayerWriter::new(&bench.store, &pool, LayerOptions::default()).unwrap();
        for (change, content) in entries {
            writer.change(change, &mut content.as_bytes()).unwrap();
        }
        let blob = writer.finish().unwrap();
        // Written and read, a layer has the same index.
        let index = |store: &Store| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut store.side("tree", &blob.diff_id).unwrap().unwrap(), &mut bytes)
                .unwrap();
            bytes
        };
        let written = index(&bench.store);
        bench.store.remove_side("tree", &blob.diff_id).unwrap();
        let reader =
            LayerReader::new(bench.store.open_blob(&blob.digest).unwrap()).unwrap().indexed(&bench.store);
        reader.finish().unwrap().expect_diff_id(&blob.diff_id).unwrap();
        assert!(index(&bench.store) == written);
        blob.diff_id
    };
    let text = |at: &str, content: &str| {
        (entry(at, Node::File { size: content.len() as u64 }, 1), content.to_owned())
    };
    let (etc_group, group) = text("etc/group", "root:x:0:\n");
    let (lib_passwd, passwd) = text("usr/lib/passwd", "root:x:0:0::/:/bin/sh\n");
    let (binary, elf) = text("usr/bin/passwd", "\u{7f}ELF\0");
    let lower = write(&[
        (etc_group.clone(), &group),
        (link("etc/passwd", "../usr/lib/passwd", 1), ""),
        (binary, &elf),
        (lib_passwd, &passwd),
    ]);
    let (newer_group, more) = text("etc/group", "root:x:0:\nnew:x:1:\n");
    let upper = write(&[(newer_group, &more), (hard("x/group", "etc/group", 2), "")]);
    let top = write(&[(gone("etc/group"), "")]);
    let tree = Tree::open(&bench.store, &[lower, upper]).unwrap();
    let small = |tree: &Tree, at: &str| {
        tree.small_file(at.as_bytes()).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    };
    assert_eq!(small(&tree, "/etc/passwd").as_deref(), Some(&*passwd));
    assert_eq!(small(&tree, "/etc/group").as_deref(), Some(&*more), "the topmost layer's");
    assert_eq!(small(&tree, "/x/group").as_deref(), Some(&*more), "by another name");
    assert_eq!(small(&tree, "/etc/shadow"), None);
    assert!(matches!(tree.small_file(b"/usr/bin/passwd"), Err(TreeError::NotKept(_))));
    let tree = Tree::open(&bench.store, &[lower, upper, top]).unwrap();
    assert_eq!(small(&tree, "/etc/group"), None);
    assert_eq!(small(&tree, "/x/group").as_deref(), Some(&*more), "a hard link outlives its target");
    assert_eq!(tree.layers(), 3);
}

#[test]
fn a_layer_without_a_usable_index_is_named() {
    let bench = Bench::new();
    let diff_id = bench.index(&[file("f", 1)]);
    let unknown = Digest::of(b"unknown");
    assert!(
        matches!(Tree::open(&bench.store, &[diff_id, unknown]), Err(TreeError::NotIndexed(id)) if id == unknown)
    );
    let at = bench.store.directory().join("cofferdam/sides/tree").join(diff_id.hex());
    let good = std::fs::read(&at).unwrap();
    for damage in 0..good.len() {
        let mut bytes = good.clone();
        bytes[damage] ^= 0x41;
        std::fs::write(&at, &bytes).unwrap();
        match Tree::open(&bench.store, &[diff_id]) {
            // A damaged block is found when it is read.
            Ok(tree) => {
                assert!(matches!(tree.lookup(&path("f")), Err(TreeError::Index { .. })), "byte {damage}")
            }
            Err(error) => {
                assert!(matches!(error, TreeError::NotIndexed(_)), "byte {damage}: {error}");
                assert!(!at.exists(), "it is not tried again");
            }
        }
    }
    for length in 0..good.len() {
        std::fs::write(&at, &good[..length]).unwrap();
        assert!(
            matches!(Tree::open(&bench.store, &[diff_id]), Err(TreeError::NotIndexed(_))),
            "length {length}"
        );
    }
    std::fs::write(&at, &good).unwrap();
    assert!(Tree::open(&bench.store, &[diff_id]).unwrap().lookup(&path("f")).unwrap().is_some());
}

#[test]
fn something_in_a_file_is_an_error() {
    let bench = Bench::new();
    let mut builder = IndexBuilder::new(&bench.store);
    builder.add(&file("a", 1)).unwrap();
    builder.add(&file("a/b", 2)).unwrap();
    let error = builder.finish(&Digest::of(b"")).unwrap_err();
    assert_eq!(error.to_string(), "`/a/b` of the layer lies in `/a`, which is a file");
}

#[test]
fn large_trees_are_walked_and_looked_up() {
    let bench = Bench::new();
    let many = |mark: u32| {
        (0..60).flat_map(move |outer| {
            let directory = format!("d{:03}", outer * 7 % 60);
            let files = (0..100)
                .map(move |inner| file(&format!("d{:03}/f{:03}", outer * 7 % 60, inner * 31 % 100), mark));
            std::iter::once(dir(&directory, mark)).chain(files)
        })
    };
    let removed: Vec<_> = (0..60).map(|outer| gone(&format!("d{outer:03}/f050"))).collect();
    let layers = [
        many(1).collect::<Vec<_>>(),
        removed,
        many(2).filter(|change| change.path().as_bytes().ends_with(b"7")).collect(),
    ];
    let tree = bench.tree(&layers);
    let entries: Vec<_> = tree.walk(&TreePath::root()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(entries.len(), 60 + 60 * 99);
    assert!(entries.is_sorted_by(|a, b| a.path < b.path));
    for entry in entries.iter().step_by(17) {
        assert_eq!(tree.lookup(&entry.path).unwrap().as_ref(), Some(entry));
        let expected = if entry.path.as_bytes().ends_with(b"7") { 2 } else { 1 };
        assert_eq!(entry.metadata.uid, expected, "{}", entry.path);
    }
    assert_eq!(tree.list(&path("d030")).unwrap().count(), 99);
    assert_eq!(tree.lookup(&path("d030/f050")).unwrap(), None);
}
