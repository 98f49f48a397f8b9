//! Roots without steps: layers go in, changes made by hand come out.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::stubs::Stubs;
use super::{Owner, Root, RootError};
use crate::layer::{
    Change, Entry, LayerBlob, LayerOptions, LayerReader, LayerWriter, Metadata, Node, Pool, TreePath,
};
use crate::sandbox::ledger::{Record, inode_key};
use crate::sandbox::step::{Step, StepDirectory};
use crate::store::Store;

pub(super) struct Bench {
    pub(super) store: Store,
    pool: Pool,
    directory: tempfile::TempDir,
    roots: std::cell::Cell<u32>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self { store, pool: Pool::default(), directory, roots: 0.into() }
    }

    pub(super) fn root(&self) -> Root {
        self.roots.set(self.roots.get() + 1);
        let place = self.directory.path().join(format!("root-{}", self.roots.get()));
        fs::create_dir(&place).unwrap();
        let metadata = fs::metadata(&place).unwrap();
        Root::create(&place, Owner { uid: metadata.uid(), gid: metadata.gid() }).unwrap()
    }

    pub(super) fn writer(&self) -> LayerWriter {
        LayerWriter::new(&self.store, &self.pool, LayerOptions::default()).unwrap()
    }

    /// A layer of changes, files with their content.
    pub(super) fn layer(&self, changes: &[(Change, &str)]) -> LayerBlob {
        let mut writer = self.writer();
        let mut changes: Vec<_> = changes.iter().collect();
        changes.sort_by(|a, b| a.0.path().cmp(b.0.path()));
        for (change, content) in changes {
            writer.change(change, &mut content.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    pub(super) fn apply(&self, root: &Root, layer: &LayerBlob) -> Result<(), RootError> {
        let mut reader = LayerReader::new(self.store.open_blob(&layer.digest).unwrap()).unwrap();
        root.apply(&mut reader)?;
        reader.finish()?;
        Ok(())
    }

    /// What has changed since the snapshot, as lines.
    pub(super) fn changes(&self, root: &Root) -> Vec<String> {
        let mut writer = self.writer();
        root.write_changes(&mut writer).unwrap();
        self.lines(&writer.finish().unwrap())
    }

    pub(super) fn lines(&self, layer: &LayerBlob) -> Vec<String> {
        let mut reader = LayerReader::new(self.store.open_blob(&layer.digest).unwrap()).unwrap();
        let mut lines = Vec::new();
        while let Some((change, mut content)) = reader.next().unwrap() {
            let path = String::from_utf8_lossy(change.path().as_bytes()).into_owned();
            lines.push(match &change {
                Change::Remove(_) => format!("remove {path}"),
                Change::Opaque(_) => format!("opaque {path}"),
                Change::Entry(Entry { node, metadata: Metadata { mode, uid, gid, .. }, .. }) => {
                    let mut text = String::new();
                    content.read_to_string(&mut text).unwrap();
                    let what = match node {
                        Node::File { .. } => text,
                        Node::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
                        Node::Hardlink { target } => {
                            format!("= {}", String::from_utf8_lossy(target.as_bytes()))
                        }
                        Node::CharDevice { major, minor } => format!("c{major}:{minor}"),
                        other => other.kind().to_owned(),
                    };
                    format!("{path} {mode:o} {uid}:{gid} {what}")
                }
            });
        }
        lines
    }
}

pub(super) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

pub(super) fn entry(text: &str, node: Node, mode: u32, uid: u32) -> (Change, &'static str) {
    let metadata = Metadata { mode, uid, gid: uid, mtime: 1_000_000_000, xattrs: Default::default() };
    (Change::Entry(Entry { path: path(text), node, metadata }), "")
}

pub(super) fn file(text: &str, content: &'static str, mode: u32, uid: u32) -> (Change, &'static str) {
    (entry(text, Node::File { size: content.len() as u64 }, mode, uid).0, content)
}

pub(super) fn directory(text: &str) -> (Change, &'static str) {
    entry(text, Node::Directory, 0o755, 0)
}

pub(super) fn link(text: &str, target: &str) -> (Change, &'static str) {
    entry(text, Node::Symlink { target: target.into() }, 0o777, 0)
}

#[test]
fn what_the_disk_cannot_show_is_in_the_ledger() {
    let bench = Bench::new();
    let root = bench.root();
    let layer = bench.layer(&[
        directory("d"),
        file("d/private", "p", 0o4000, 7),
        file("d/shared", "s", 0o666, 0),
        entry("d/null", Node::CharDevice { major: 1, minor: 3 }, 0o666, 0),
        link("l", "d/shared"),
    ]);
    bench.apply(&root, &layer).unwrap();
    let on_disk = |name: &str| fs::symlink_metadata(root.path().join(name)).unwrap();
    assert_eq!(
        on_disk("d/private").mode() & 0o7777,
        0o600,
        "the build can read its own files, and nothing is set-ID"
    );
    assert_eq!(on_disk("d/null").mode() & 0o7777, 0);
    assert_eq!(on_disk("d/private").mtime(), 1_000_000_000);
    assert_eq!(on_disk("d").mtime(), 1_000_000_000);
    // An empty snapshot makes everything new: what comes out is what went in.
    assert_eq!(bench.changes(&root), bench.lines(&layer));
}

#[test]
fn changes_are_what_changed_and_the_way_to_it() {
    let bench = Bench::new();
    let root = bench.root();
    let layer = bench.layer(&[
        directory("a"),
        directory("a/b"),
        file("a/b/kept", "1", 0o644, 0),
        file("a/b/removed", "2", 0o644, 0),
        file("a/b/rewritten", "3", 0o644, 9),
        directory("a/c"),
        file("a/c/x", "4", 0o644, 0),
        directory("gone"),
        file("gone/with", "", 0o644, 0),
        link("z", "a"),
    ]);
    bench.apply(&root, &layer).unwrap();
    root.take_snapshot().unwrap();
    assert_eq!(bench.changes(&root), [""; 0], "nothing has changed");

    let at = |name: &str| root.path().join(name);
    fs::remove_file(at("a/b/removed")).unwrap();
    let times =
        fs::FileTimes::new().set_modified(fs::metadata(at("a/b/rewritten")).unwrap().modified().unwrap());
    fs::write(at("a/b/rewritten"), "5").unwrap();
    // The same size and time of modification: the ctime tells all the same.
    fs::File::options().write(true).open(at("a/b/rewritten")).unwrap().set_times(times).unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_dir_all(at("a/c")).unwrap();
    fs::write(at("a/c"), "file now").unwrap();
    fs::create_dir(at("new")).unwrap();
    fs::write(at("new/f"), "n").unwrap();
    fs::hard_link(at("new/f"), at("new/g")).unwrap();
    fs::remove_file(at("z")).unwrap();
    symlink("new", at("z")).unwrap();
    assert_eq!(
        bench.changes(&root),
        [
            "a 755 0:0 directory",
            "a/b 755 0:0 directory",
            "remove a/b/removed",
            "a/b/rewritten 644 9:9 5",
            "a/c 644 0:0 file now",
            "remove gone",
            "new 755 0:0 directory",
            "new/f 644 0:0 n",
            "new/g 644 0:0 = new/f",
            "z 777 0:0 -> new",
        ]
    );
    assert_eq!(bench.changes(&root), [""; 0], "the new state is remembered");
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bench.changes(&root), ["a 700 0:0 directory"]);
}

#[test]
fn times_of_directories_and_lost_names_are_no_changes() {
    let bench = Bench::new();
    let root = bench.root();
    let layer = bench.layer(&[directory("d"), file("d/f", "1", 0o644, 0), directory("e")]);
    bench.apply(&root, &layer).unwrap();
    let at = |name: &str| root.path().join(name);
    fs::hard_link(at("d/f"), at("e/g")).unwrap();
    root.take_snapshot().unwrap();

    fs::write(at("d/temporary"), "").unwrap();
    fs::remove_file(at("d/temporary")).unwrap();
    assert_eq!(bench.changes(&root), [""; 0]);

    fs::remove_file(at("e/g")).unwrap();
    assert_eq!(bench.changes(&root), ["e 755 0:0 directory", "remove e/g"]);

    fs::hard_link(at("d/f"), at("e/h")).unwrap();
    let both = ["d 755 0:0 directory", "d/f 644 0:0 1", "e 755 0:0 directory", "e/h 644 0:0 = d/f"];
    assert_eq!(bench.changes(&root), both, "a layer has both names, so that they stay one file");
}

#[test]
fn whiteouts_and_opaque_directories_hide_lower_layers_only() {
    let bench = Bench::new();
    let root = bench.root();
    let lower = bench.layer(&[
        directory("d"),
        directory("d/deep"),
        file("d/deep/old", "", 0o644, 0),
        file("d/old", "", 0o644, 0),
        directory("e"),
        file("e/removed", "", 0o644, 0),
        file("e/stays", "", 0o644, 0),
        file("f", "file", 0o644, 0),
        directory("g"),
        file("g/in", "", 0o644, 0),
    ]);
    bench.apply(&root, &lower).unwrap();
    let upper = bench.layer(&[
        directory("d"),
        (Change::Opaque(path("d")), ""),
        directory("d/deep"),
        file("d/deep/new", "", 0o644, 0),
        (Change::Remove(path("e/removed")), ""),
        (Change::Remove(path("missing/too")), ""),
        directory("f"),
        file("g", "no directory now", 0o644, 0),
    ]);
    bench.apply(&root, &upper).unwrap();
    let is_there = |name: &str| root.path().join(name).exists();
    assert!(is_there("d/deep/new") && !is_there("d/deep/old") && !is_there("d/old"));
    assert!(is_there("e/stays") && !is_there("e/removed"));
    assert!(root.path().join("f").is_dir() && root.path().join("g").is_file());
}

#[test]
fn an_opaque_marker_behind_the_entries_keeps_them() {
    // Archives of other builders are not sorted. This one is made by hand, for our writer will not.
    let bench = Bench::new();
    let root = bench.root();
    bench.apply(&root, &bench.layer(&[directory("d"), file("d/old", "", 0o644, 0)])).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["d/new", "d/.wh..wh..opq"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let mut reader = LayerReader::new(std::io::Cursor::new(builder.into_inner().unwrap())).unwrap();
    root.apply(&mut reader).unwrap();
    assert!(root.path().join("d/new").exists() && !root.path().join("d/old").exists());
}

#[test]
fn a_hostile_layer_stays_inside() {
    let bench = Bench::new();
    let outside = bench.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let outside_text = outside.to_str().unwrap().to_owned();
    let up = format!("../../../../../../../..{outside_text}");
    let cases: Vec<Vec<(Change, &str)>> = vec![
        vec![link("swap", &outside_text), file("swap/victim", "evil", 0o644, 0)],
        vec![link("swap", &up), file("swap/victim", "evil", 0o644, 0)],
        vec![link("swap", &outside_text), (Change::Remove(path("swap/victim")), "")],
        vec![link("swap", &outside_text), (Change::Opaque(path("swap")), "")],
        vec![link("swap", "/"), link("swap/swap2", &outside_text), file("swap2/victim", "evil", 0o644, 0)],
        vec![
            link("swap", &outside_text),
            entry("hard", Node::Hardlink { target: path("swap/victim") }, 0o644, 0),
        ],
        vec![link("victim", &format!("{outside_text}/victim")), file("victim", "evil", 0o644, 0)],
        vec![link("dir", &outside_text), entry("dir/dev", Node::CharDevice { major: 1, minor: 3 }, 0o666, 0)],
    ];
    for case in cases {
        let root = bench.root();
        let mut builder = tar_of(&case);
        let mut reader = LayerReader::new(std::io::Cursor::new(std::mem::take(&mut builder))).unwrap();
        // Refused or done inside the root, either is right.
        let _ = root.apply(&mut reader);
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "{case:?}");
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe", "{case:?}");
        assert_eq!(fs::metadata(outside.join("victim")).unwrap().nlink(), 1, "{case:?}");
    }
}

/// An archive of changes in any order, as our writer would not make it.
fn tar_of(changes: &[(Change, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (change, content) in changes {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        let parent = change.path().parent().unwrap_or_default();
        let name = String::from_utf8_lossy(change.path().file_name().unwrap_or_default()).into_owned();
        let path = change.path().as_path().to_owned();
        match change {
            Change::Remove(_) => builder.append_data(
                &mut header,
                parent.as_path().join(format!(".wh.{name}")),
                std::io::empty(),
            ),
            Change::Opaque(_) => {
                builder.append_data(&mut header, path.join(".wh..wh..opq"), std::io::empty())
            }
            Change::Entry(Entry { node, .. }) => match node {
                Node::Symlink { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, path, Path::new(std::str::from_utf8(target).unwrap()))
                }
                Node::Hardlink { target } => {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, path, target.as_path())
                }
                Node::CharDevice { .. } => {
                    header.set_entry_type(tar::EntryType::Char);
                    header.set_device_major(1).unwrap();
                    header.set_device_minor(3).unwrap();
                    builder.append_data(&mut header, path, std::io::empty())
                }
                _ => {
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_bytes())
                }
            },
        }
        .unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn missing_parents_are_made_also_where_a_link_points() {
    let bench = Bench::new();
    let root = bench.root();
    let layer = [link("run", "var/run"), file("run/lock/pid", "1", 0o644, 0)];
    let mut reader = LayerReader::new(std::io::Cursor::new(tar_of(&layer))).unwrap();
    root.apply(&mut reader).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("var/run/lock/pid")).unwrap(), "1");
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let bench = Bench::new();
    let root = bench.root();
    let layer = [file("a", "", 0o644, 0), file("a/b", "", 0o644, 0)];
    let mut reader = LayerReader::new(std::io::Cursor::new(tar_of(&layer))).unwrap();
    let error = root.apply(&mut reader).unwrap_err();
    assert!(error.to_string().contains("`/a`") || error.to_string().contains("`/a/b`"), "{error}");
}

/// Lays what is at a step's mount points, does something, and lifts it.
fn with_stubs(root: &Root, act: impl FnOnce()) {
    let step = Step {
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: "/".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        resolv_conf: Vec::new(),
        hosts: Vec::new(),
        files: Vec::new(),
        mounts: Vec::new(),
        network: true,
        architectures: Vec::new(),
    };
    let directory = StepDirectory::create(root, &step).unwrap();
    let mut stubs = Stubs::lay(root, directory.fd.as_fd(), &directory.mounts).unwrap();
    act();
    stubs.lift().unwrap();
}

#[test]
fn mount_points_leave_three_directories_and_no_other_trace() {
    let bench = Bench::new();
    let root = bench.root();
    root.take_snapshot().unwrap();
    with_stubs(&root, || assert!(root.path().join("etc/resolv.conf").exists()));
    assert_eq!(
        bench.changes(&root),
        ["dev 755 0:0 directory", "proc 755 0:0 directory", "sys 755 0:0 directory"]
    );
    with_stubs(&root, || {});
    assert_eq!(bench.changes(&root), [""; 0], "the next step finds them");

    // What the image has is covered for a time, and comes back as it was.
    let layer = bench.layer(&[
        entry("dev", Node::Directory, 0o1750, 7),
        file("dev/null", "a file", 0o640, 3),
        directory("etc"),
        file("etc/hosts", "the image's", 0o604, 5),
        link("proc", "elsewhere"),
    ]);
    let root = bench.root();
    bench.apply(&root, &layer).unwrap();
    root.take_snapshot().unwrap();
    with_stubs(&root, || {
        let covered = fs::metadata(root.path().join("etc/hosts")).unwrap();
        assert_eq!(covered.mode() & 0o7777, 0);
    });
    assert_eq!(fs::read_to_string(root.path().join("etc/hosts")).unwrap(), "the image's");
    // Where a link leads is no place of the three.
    assert_eq!(bench.changes(&root), ["sys 755 0:0 directory"]);
}

#[test]
fn what_the_host_makes_for_a_step_has_no_past() {
    let bench = Bench::new();
    let root = bench.root();
    // Whatever inode is next, the ledger has an opinion on it.
    let start = fs::metadata(root.path()).unwrap().ino();
    for inode in start.saturating_sub(5_000)..start + 5_000 {
        let key = inode_key(&root.devices(), root.devices()[0], inode).unwrap();
        let record = Record { uid: 9, gid: 9, mode: 0o020_600, device: 1 << 20 | 3 };
        root.ledger().entry(key).unwrap().set(record);
    }
    with_stubs(&root, || {
        for name in ["etc", "etc/hosts", "dev", "proc"] {
            let stat = rustix::fs::lstat(root.path().join(name)).unwrap();
            assert_eq!(root.seen(&stat).1, 0, "{name}");
        }
        let place = root.path().parent().unwrap().join("step-0");
        for name in ["hosts", "dev", "dev/fd", "dev/shm"] {
            let stat = rustix::fs::lstat(place.join(name)).unwrap();
            assert_eq!(root.seen(&stat).1, 0, "{name}");
        }
    });
}
