//! Roots that are kept: what steps have done to them is undone, exactly or not at all.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use super::tests::{Bench, directory, entry, file, link, path};
use super::{Root, RootError};
use crate::layer::{LayerBlob, LayerReader, Node, Tree};
use crate::sandbox::ledger::{Record, inode_key};

/// An image of two layers, the upper one changing the lower.
fn image(bench: &Bench) -> Vec<LayerBlob> {
    let lower = bench.layer(&[
        directory("bin"),
        file("bin/sh", "shell", 0o755, 0),
        file("bin/su", "set-ID", 0o4755, 0),
        directory("etc"),
        file("etc/hosts", "localhost", 0o644, 0),
        file("etc/passwd", "root", 0o644, 0),
        file("etc/shadow", "secret", 0o640, 42),
        directory("lib"),
        file("lib/large", "content that is replaced", 0o644, 0),
        link("lib/link", "large"),
        directory("srv"),
        directory("srv/www"),
        file("srv/www/index", "hello", 0o644, 33),
        directory("srv/www/empty"),
    ]);
    let upper = bench.layer(&[
        directory("dev"),
        entry("dev/null", Node::CharDevice { major: 1, minor: 3 }, 0o666, 0),
        directory("etc"),
        file("etc/passwd", "root and others", 0o644, 0),
        entry("pipe", Node::Fifo, 0o600, 5),
    ]);
    vec![lower, upper]
}

fn filled(bench: &Bench, layers: &[LayerBlob]) -> Root {
    let root = bench.root();
    for layer in layers {
        bench.apply(&root, layer).unwrap();
    }
    root
}

fn tree(bench: &Bench, layers: &[LayerBlob]) -> Tree {
    Tree::open(&bench.store, &layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>()).unwrap()
}

/// Brings back the root in `place`. Gives it, and which layers were read for that.
fn restored(bench: &Bench, root: Root, layers: &[LayerBlob]) -> Result<(Root, Vec<usize>), RootError> {
    let (place, owner) = (root.path().parent().unwrap().to_owned(), root.owner());
    drop(root);
    let root = Root::take_up(&place, owner).unwrap();
    let mut read = Vec::new();
    root.restore(&tree(bench, layers), &mut |number, act| {
        read.push(number);
        let mut reader = LayerReader::new(bench.store.open_blob(&layers[number].digest).unwrap())?;
        act(&mut reader)?;
        reader.finish()?.expect_diff_id(&layers[number].diff_id)?;
        Ok(())
    })?;
    Ok((root, read))
}

/// Everything in a root, and the times of its files.
fn everything(bench: &Bench, root: &Root) -> Vec<String> {
    let mut writer = bench.writer();
    root.write_everything(&mut writer).unwrap();
    let mut lines = bench.lines(&writer.finish().unwrap());
    for name in
        ["bin", "bin/sh", "dev", "etc", "etc/passwd", "etc/hosts", "lib", "lib/large", "srv/www", "pipe"]
    {
        let metadata = fs::symlink_metadata(root.path().join(name)).unwrap();
        lines.push(format!("{name} {}", metadata.mtime()));
    }
    lines
}

#[test]
fn what_steps_have_done_is_undone() {
    let bench = Bench::new();
    let layers = image(&bench);
    let expected = everything(&bench, &filled(&bench, &layers));

    let root = filled(&bench, &layers);
    root.write_state("label").unwrap();
    let at = |name: &str| root.path().join(name);
    let change_owner = |name: &str, uid| {
        let stat = rustix::fs::lstat(at(name)).unwrap();
        let key = inode_key(&root.devices(), stat.st_dev, stat.st_ino).unwrap();
        root.ledger().entry(key).unwrap().set(Record { uid, gid: uid, mode: stat.st_mode, device: 0 });
    };
    // What is new, and what was something else.
    fs::create_dir_all(at("opt/new/deep")).unwrap();
    fs::write(at("opt/new/deep/file"), "x").unwrap();
    fs::remove_file(at("lib/link")).unwrap();
    fs::create_dir(at("lib/link")).unwrap();
    fs::write(at("lib/link/file"), "x").unwrap();
    fs::remove_dir_all(at("srv/www")).unwrap();
    symlink("/etc", at("srv/www")).unwrap();
    fs::remove_file(at("dev/null")).unwrap();
    fs::remove_file(at("pipe")).unwrap();
    // A change that hides: the same size, the time put back.
    let time = fs::metadata(at("bin/sh")).unwrap().modified().unwrap();
    fs::write(at("bin/sh"), "shall").unwrap();
    fs::File::options().write(true).open(at("bin/sh")).unwrap().set_modified(time).unwrap();
    // Owners and modes, in the ledger and on the disk.
    change_owner("etc", 1000);
    change_owner("lib", 7);
    fs::set_permissions(at("lib"), fs::Permissions::from_mode(0o700)).unwrap();
    change_owner("srv", 33);
    rustix::fs::setxattr(at("srv"), "user.left", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    fs::File::open(at("bin")).unwrap().set_modified(SystemTime::now() - Duration::from_hours(9)).unwrap();
    // As it is when a mount point has lain on it.
    fs::set_permissions(at("etc/hosts"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(at("etc/hosts"), fs::Permissions::from_mode(0o644)).unwrap();
    // A ledger that a step may have filled with lies about what it left alone.
    change_owner("etc/passwd", 666);

    assert_eq!(Root::label(root.path().parent().unwrap(), root.owner()).unwrap(), "label");
    let (root, read) = restored(&bench, root, &layers).unwrap();
    assert_eq!(read, [0], "the upper layer has nothing that is needed, nor is it read for `/etc/hosts`");
    root.write_state("label").unwrap();
    assert!(rustix::fs::getxattr(root.path().join("srv"), "user.left", &mut [0; 8]).is_err());
    // It is taken up once more, as the next build does, and finds nothing to complain of.
    let (place, owner) = (root.path().parent().unwrap().to_owned(), root.owner());
    drop(root);
    let root = Root::take_up(&place, owner).unwrap();
    root.expect_as_kept().unwrap();
    root.take_snapshot().unwrap();
    assert_eq!(bench.changes(&root), [""; 0]);
    assert_eq!(everything(&bench, &root), expected);
}

#[test]
fn files_of_several_names_are_not_brought_back() {
    let bench = Bench::new();
    let target = Node::Hardlink { target: path("a") };
    let layers = [bench.layer(&[
        file("a", "content", 0o644, 0),
        entry("b", target, 0o644, 0),
        file("c", "other", 0o644, 0),
    ])];
    for (change, fits) in [("c", true), ("a", false)] {
        let root = filled(&bench, &layers);
        root.write_state("").unwrap();
        fs::write(root.path().join(change), "changed").unwrap();
        let restored = restored(&bench, root, &layers);
        assert_eq!(restored.is_ok(), fits, "{change}: {:?}", restored.err());
    }
}

#[test]
fn a_root_that_was_touched_meanwhile_is_found_out() {
    let bench = Bench::new();
    let layers = image(&bench);
    let touched = |touch: &dyn Fn(&Root)| {
        let root = filled(&bench, &layers);
        root.write_state("").unwrap();
        let (place, owner) = (root.path().parent().unwrap().to_owned(), root.owner());
        touch(&root);
        drop(root);
        // A change in the same tick of the clock as the taking up could be a step's own.
        std::thread::sleep(Duration::from_millis(20));
        Root::take_up(&place, owner)
    };
    let root = touched(&|root| {
        let sh = root.path().join("bin/sh");
        fs::set_permissions(sh, fs::Permissions::from_mode(0o777)).unwrap();
    })
    .unwrap();
    assert!(matches!(root.expect_as_kept(), Err(RootError::Touched(path)) if path.as_bytes() == b"bin/sh"));
    root.take_snapshot().unwrap();
    let written = root.write_changes(&mut bench.writer());
    assert!(matches!(written, Err(RootError::Touched(_))), "{written:?}");

    // A copy of a root is another root, and half a state is none.
    let moved = touched(&|root| {
        let fs = root.path().to_owned();
        std::fs::rename(&fs, fs.with_extension("old")).unwrap();
        std::fs::create_dir(&fs).unwrap();
    });
    assert!(moved.is_err());
    let cut = touched(&|root| {
        let state = root.path().with_file_name("state");
        let bytes = fs::read(&state).unwrap();
        fs::write(&state, &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(cut.is_err());
}

/// What lies in a directory that a step renames is elsewhere afterwards, with the times of before.
#[test]
fn a_step_may_rename_a_directory_of_a_kept_root_and_nobody_else_may() {
    let bench = Bench::new();
    let layers = image(&bench);
    let changes = |renamed_before: bool| {
        let root = filled(&bench, &layers);
        root.write_state("label").unwrap();
        let rename = |root: &Root| fs::rename(root.path().join("srv"), root.path().join("served")).unwrap();
        if !renamed_before {
            let (root, _) = restored(&bench, root, &layers).unwrap();
            rename(&root);
            return root.write_changes(&mut bench.writer()).map(|_| true);
        }
        let (root, _) = restored(&bench, root, &layers).unwrap();
        let (place, owner) = (root.path().parent().unwrap().to_owned(), root.owner());
        root.write_state("label").unwrap();
        rename(&root);
        drop(root);
        // The clock of ctimes has to go on before the root is taken up again.
        std::thread::sleep(Duration::from_millis(20));
        Root::take_up(&place, owner).unwrap().write_changes(&mut bench.writer()).map(|_| true)
    };
    assert!(changes(false).unwrap());
    assert!(matches!(changes(true), Err(RootError::Touched(_))));
}

#[test]
fn a_scan_by_many_threads_finds_what_is_there() {
    let bench = Bench::new();
    let mut changes = Vec::new();
    let names: Vec<String> = (0..40).map(|number| format!("d{number:02}")).collect();
    for name in &names {
        changes.push(directory(name));
        changes.push((file(&format!("{name}/file"), "x", 0o644, 0).0, "x"));
    }
    let root = filled(&bench, &[bench.layer(&changes)]);
    root.take_snapshot().unwrap();
    for name in names.iter().step_by(7) {
        fs::write(root.path().join(name).join("file"), "y").unwrap();
    }
    let expected: Vec<String> = (names.iter().step_by(7))
        .flat_map(|name| [format!("{name} 755 0:0 directory"), format!("{name}/file 644 0:0 y")])
        .collect();
    assert_eq!(bench.changes(&root), expected);
}
