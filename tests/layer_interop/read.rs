//! What others write, read here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cofferdam::image::Digest;
use cofferdam::layer::{ArchiveReader, Change, Compression, Entry, LayerReader, Node, is_archive};

use crate::{content, path, run, store, tag, two_layers};

/// A directory with what tars differ in.
fn make_tree(root: &Path, with_xattrs: bool) {
    let at = |name: &str| root.join(name);
    std::fs::create_dir_all(at("d/empty")).unwrap();
    std::fs::write(at("d/file"), "content").unwrap();
    std::fs::write(at("d/\u{e9}t\u{e9}"), "utf-8").unwrap();
    std::fs::set_permissions(at("d/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    std::fs::hard_link(at("d/file"), at("d/hard")).unwrap();
    std::os::unix::fs::symlink("../d/file", at("d/link")).unwrap();
    run(Command::new("mkfifo").arg(at("fifo")));
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(&content(5000), 100_000).unwrap();
    sparse.write_all_at(&content(10), 3_000_000).unwrap();
    sparse.set_len(4_000_001).unwrap();
    let many = File::create(at("sparse-many")).unwrap();
    for piece in 0..60 {
        many.write_all_at(&content(700), piece * 65_536).unwrap();
    }
    many.set_len(60 * 65_536).unwrap();
    for name in ["d/file", "sparse", "d/empty"] {
        let file = File::open(at(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789))
            .unwrap();
    }
    if with_xattrs {
        let set = "import os, sys; os.setxattr(sys.argv[1], 'user.note', b'a\\nb\\0')";
        run(Command::new("python3").args(["-c", set]).arg(at("d/file")));
    }
}

/// Compares an archive of a directory with the directory.
fn assert_archive_is(archive: &Path, root: &Path, with_xattrs: bool, what: &str) {
    assert!(is_archive(File::open(archive).unwrap()).unwrap(), "{what}");
    let mut reader = ArchiveReader::new(File::open(archive).unwrap()).unwrap();
    let mut seen = BTreeMap::new();
    while let Some((entry, mut read)) = reader.next().unwrap() {
        let at = root.join(entry.path.as_path());
        let metadata = std::fs::symlink_metadata(&at).unwrap();
        match &entry.node {
            Node::File { size } => {
                assert_eq!(*size, metadata.len(), "{what}: {}", entry.path);
                let mut bytes = Vec::new();
                read.read_to_end(&mut bytes).unwrap();
                assert!(bytes == std::fs::read(&at).unwrap(), "{what}: {}", entry.path);
            }
            Node::Directory => assert!(metadata.is_dir()),
            Node::Symlink { target } => {
                assert_eq!(std::fs::read_link(&at).unwrap().as_os_str().as_encoded_bytes(), target)
            }
            Node::Hardlink { target } => {
                assert_eq!(
                    metadata.ino(),
                    std::fs::symlink_metadata(root.join(target.as_path())).unwrap().ino()
                );
            }
            Node::Fifo => {}
            other => panic!("{what}: {other:?}"),
        }
        if !matches!(entry.node, Node::Symlink { .. }) {
            assert_eq!(entry.metadata.mode, metadata.permissions().mode() & 0o7777, "{what}: {}", entry.path);
        }
        assert_eq!((entry.metadata.uid, entry.metadata.gid), (metadata.uid(), metadata.gid()), "{what}");
        assert_eq!(entry.metadata.mtime, metadata.mtime(), "{what}: {}", entry.path);
        if with_xattrs && entry.path.as_bytes() == b"d/file" && matches!(entry.node, Node::File { .. }) {
            assert_eq!(entry.metadata.xattrs, [(b"user.note".to_vec(), b"a\nb\0".to_vec())].into(), "{what}");
        }
        seen.insert(entry.path.clone(), entry);
    }
    let on_disk = walkdir::WalkDir::new(root).into_iter().count();
    // V7 has no named pipes.
    let left_out = usize::from(what.contains("v7"));
    assert_eq!(seen.len() + left_out, on_disk, "{what}: {:?}", seen.keys());
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    make_tree(&root, true);
    let archive = directory.path().join("archive");
    let formats: [&[&str]; 8] = [
        &["--format=v7", "--exclude=fifo"],
        &["--format=ustar"],
        &["--format=oldgnu"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ];
    for format in formats {
        for compressor in ["", "--gzip", "--bzip2", "--xz", "--zstd"] {
            let mut tar = Command::new("tar");
            tar.args(format).args(Some(compressor).filter(|compressor| !compressor.is_empty()));
            run(tar.arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."));
            let with_xattrs = format.contains(&"--xattrs");
            assert_archive_is(&archive, &root, with_xattrs, &format!("{format:?} {compressor}"));
        }
    }
    // Names and targets that need extensions, which v7 and ustar do not have.
    let long = root.join("x".repeat(120)).join("y".repeat(180));
    std::fs::create_dir_all(&long).unwrap();
    std::os::unix::fs::symlink("z".repeat(300), long.join("link")).unwrap();
    for format in ["gnu", "oldgnu", "posix"] {
        run(Command::new("tar")
            .arg(format!("--format={format}"))
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&root)
            .arg("."));
        assert_archive_is(&archive, &root, false, format);
    }
}

#[test]
fn archives_of_python_are_read() {
    const SCRIPT: &str = "import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w', format=getattr(tarfile, sys.argv[2])) as out: out.add(sys.argv[3], '.')";
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    make_tree(&root, false);
    let archive = directory.path().join("archive");
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        run(Command::new("python3").args(["-c", SCRIPT]).arg(&archive).arg(format).arg(&root));
        assert_archive_is(&archive, &root, false, format);
    }
}

#[test]
fn layers_of_umoci_are_read() {
    let (directory, store) = store();
    let layout = store.directory().to_str().unwrap().to_owned();
    tag(&store, "app:base", &two_layers(&store, Compression::Gzip(4)));
    let bundle = directory.path().join("bundle");
    let image = |tag: &str| format!("{layout}:app:{tag}");
    run(Command::new("umoci").args(["unpack", "--rootless", "--image", &image("base")]).arg(&bundle));
    let rootfs = bundle.join("rootfs");
    std::fs::remove_file(rootfs.join("kept/b")).unwrap();
    std::fs::remove_dir_all(rootfs.join("emptied")).unwrap();
    std::fs::write(rootfs.join("kept/d"), "new").unwrap();
    run(Command::new("umoci").args(["repack", "--image", &image("next")]).arg(&bundle));
    let next = store.names().unwrap().into_iter().find(|named| named.name == "app:next").unwrap();
    let manifest = Digest::try_from(next.descriptor.digest()).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&store.read(&manifest, 1 << 20).unwrap()).unwrap();
    let layer: Digest = manifest["layers"][2]["digest"].as_str().unwrap().parse().unwrap();
    let mut reader = LayerReader::new(store.open_blob(&layer).unwrap()).unwrap();
    let mut removed = Vec::new();
    let mut written = Vec::new();
    while let Some((change, mut read)) = reader.next().unwrap() {
        match change {
            Change::Remove(path) => removed.push(path),
            Change::Entry(Entry { path, node: Node::File { .. }, .. }) => {
                let mut bytes = Vec::new();
                read.read_to_end(&mut bytes).unwrap();
                written.push((path, bytes));
            }
            _ => {}
        }
    }
    removed.sort();
    assert_eq!(removed, [path("emptied"), path("kept/b")]);
    assert_eq!(written, [(path("kept/d"), b"new".to_vec())]);
    assert_eq!(reader.finish().unwrap().digest, layer);
}
