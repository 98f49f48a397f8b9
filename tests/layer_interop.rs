//! Layers and stores beside other tools: what is written here is read by GNU tar, gzip, zstd, Python, umoci
//! and skopeo (Go's `archive/tar` and `compress/gzip`, which every container runtime uses); what they write
//! is read here.
//!
//! A test whose tool is missing fails and says which.

// Helpers of tests are tests, which the lint does not see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use cofferdam::image::{Descriptor, Digest, ImageConfig, media_type};
use cofferdam::layer::{
    ArchiveReader, Change, Compression, Entry, LayerBlob, LayerOptions, LayerReader, LayerWriter, Metadata,
    Node, Pool, TreePath, Xattrs, is_archive,
};
use cofferdam::store::Store;

const COMPRESSIONS: [Compression; 4] =
    [Compression::None, Compression::Gzip(4), Compression::Gzip(1), Compression::Zstd(3)];

/// Runs a tool that has to be there and to succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(
        output.status.success(),
        "{command:?} has failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn path(text: impl Into<Vec<u8>>) -> TreePath {
    TreePath::new(text).unwrap()
}

/// A file that does not compress in a trivial way, of several blocks.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = state >> 28;
        bytes.extend_from_slice(format!("word-{word} ").as_bytes());
        if bytes.len() % 3_000_000 < 1_000_000 {
            bytes.extend_from_slice(&state.to_le_bytes());
        }
    }
    bytes.truncate(size);
    bytes
}

/// One of everything that a layer can have.
fn everything() -> Vec<(Entry, Vec<u8>)> {
    let metadata = |mode, uid, gid, mtime| Metadata { mode, uid, gid, mtime, xattrs: Xattrs::new() };
    let plain = metadata(0o644, 0, 0, 1_600_000_000);
    let big = content(3_500_000);
    let long = "a-directory-with-a-long-name/".repeat(6);
    let mut with_xattrs = plain.clone();
    with_xattrs.xattrs.insert(b"user.note".to_vec(), b"line\nline\0".to_vec());
    with_xattrs.xattrs.insert(
        b"security.capability".to_vec(),
        vec![1, 0, 0, 2, 0, 4, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let file = |bytes: &[u8]| Node::File { size: bytes.len() as u64 };
    let mut entries = vec![
        (b"".to_vec(), Node::Directory, metadata(0o755, 0, 0, 1), Vec::new()),
        (b"big".to_vec(), file(&big), metadata(0o600, 1000, 1000, 1_700_000_000), big),
        (b"cap".to_vec(), file(b"x"), with_xattrs, b"x".to_vec()),
        (b"dev".to_vec(), Node::Directory, metadata(0o1777, 0, 5, 0), Vec::new()),
        (b"dev/null".to_vec(), Node::CharDevice { major: 1, minor: 3 }, metadata(0o666, 0, 0, 0), Vec::new()),
        (b"dev/sda".to_vec(), Node::BlockDevice { major: 8, minor: 0 }, metadata(0o660, 0, 6, 0), Vec::new()),
        (b"empty".to_vec(), file(b""), metadata(0o4755, 0, 0, 0), Vec::new()),
        (b"fifo".to_vec(), Node::Fifo, plain.clone(), Vec::new()),
        (
            b"hard".to_vec(),
            Node::Hardlink { target: path("big") },
            metadata(0o600, 1000, 1000, 1_700_000_000),
            Vec::new(),
        ),
        (format!("{long}file").into_bytes(), file(b"long"), plain.clone(), b"long".to_vec()),
        (
            "link".into(),
            Node::Symlink { target: b"/usr/../big".to_vec() },
            metadata(0o777, 0, 0, 0),
            Vec::new(),
        ),
        (
            "link-long".into(),
            Node::Symlink { target: long.clone().into_bytes() },
            metadata(0o777, 0, 0, 0),
            Vec::new(),
        ),
        ("n\u{e4}me".into(), file(b"utf-8"), plain.clone(), b"utf-8".to_vec()),
        (b"n\xe4me".to_vec(), file(b"latin-1"), plain.clone(), b"latin-1".to_vec()),
        (b"owner".to_vec(), file(b"o"), metadata(0o640, 3_000_000, 4_000_000_000, 0), b"o".to_vec()),
        (b"sp ace \n line".to_vec(), file(b"odd"), plain, b"odd".to_vec()),
    ];
    entries.sort_by_key(|(at, ..)| path(at.clone()));
    let entry = |(at, node, metadata, content)| (Entry { path: path(at), node, metadata }, content);
    entries.into_iter().map(entry).collect()
}

fn write(store: &Store, compression: Compression, changes: &[(Change, Vec<u8>)]) -> LayerBlob {
    let options = LayerOptions { compression, clamp_mtime: None };
    let mut writer = LayerWriter::new(store, &Pool::default(), options).unwrap();
    for (change, content) in changes {
        writer.change(change, &mut content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

fn changes(entries: &[(Entry, Vec<u8>)]) -> Vec<(Change, Vec<u8>)> {
    entries.iter().map(|(entry, content)| (Change::Entry(entry.clone()), content.clone())).collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    (directory, store)
}

/// Makes an image of layers and names it.
fn tag(store: &Store, name: &str, layers: &[LayerBlob]) {
    let mut config = ImageConfig::scratch(&"linux/amd64".parse().unwrap());
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let config = store.put(&serde_json::to_vec(&config).unwrap()).unwrap();
    let layers: Vec<Descriptor> = layers.iter().map(LayerBlob::descriptor).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": config.digest, "size": config.size},
        "layers": layers});
    let manifest = store.put(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    let digest = oci_spec::image::Digest::from(manifest.digest);
    let descriptor = Descriptor::new(media_type::OCI_MANIFEST.into(), manifest.size, digest);
    store.tag(&name.parse().unwrap(), &descriptor).unwrap();
}

#[test]
fn gzip_and_zstd_decompress_layers_to_the_diff_id() {
    let (_directory, store) = store();
    for compression in COMPRESSIONS {
        let layer = write(&store, compression, &changes(&everything()));
        let blob = store.path(&layer.digest);
        let plain = match compression {
            Compression::None => std::fs::read(&blob).unwrap(),
            Compression::Gzip(_) => {
                run(Command::new("gzip").args(["-dc"]).stdin(File::open(&blob).unwrap())).stdout
            }
            Compression::Zstd(_) => {
                run(Command::new("zstd").args(["-dcq"]).stdin(File::open(&blob).unwrap())).stdout
            }
        };
        assert_eq!(Digest::of(&plain), layer.diff_id, "{compression:?}");
    }
}

/// Python's `tarfile` has its own reader of ustar and PAX. Its mode `r|gz` alone reads the first member of a
/// gzip file only, of whatever tool; `r:gz` and the `gzip` module read all.
#[test]
fn python_reads_layers() {
    const SCRIPT: &str = r#"
import gzip, hashlib, json, os, sys, tarfile
archive = tarfile.open(fileobj=gzip.open(sys.argv[1]), mode="r|") if sys.argv[2] == "stream" else tarfile.open(sys.argv[1], sys.argv[2])
for member in archive:
    content = hashlib.sha256(archive.extractfile(member).read()).hexdigest() if member.isreg() else None
    print(json.dumps({"name": os.fsencode(member.name).hex(), "kind": member.type.decode(), "mode": member.mode, "uid": member.uid,
        "gid": member.gid, "mtime": int(member.mtime), "size": member.size, "link": os.fsencode(member.linkname).hex(),
        "device": [member.devmajor, member.devminor], "owner": member.uname + member.gname, "content": content,
        "xattrs": sorted(key for key in member.pax_headers if key.startswith("SCHILY.xattr."))}))
"#;
    let (_directory, store) = store();
    let entries = everything();
    for (compression, mode) in
        [(Compression::None, "r:"), (Compression::Gzip(4), "r:gz"), (Compression::Gzip(1), "stream")]
    {
        let layer = write(&store, compression, &changes(&entries));
        let output =
            run(Command::new("python3").args(["-c", SCRIPT]).arg(store.path(&layer.digest)).arg(mode));
        let members: Vec<serde_json::Value> = output
            .stdout
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(members.len(), entries.len());
        for (member, (entry, content)) in members.iter().zip(&entries) {
            let name = match entry.path.as_bytes() {
                b"" => b".",
                name => name,
            };
            let (kind, link, device) = match &entry.node {
                Node::Directory => ("5", Vec::new(), [0, 0]),
                Node::File { .. } => ("0", Vec::new(), [0, 0]),
                Node::Symlink { target } => ("2", target.clone(), [0, 0]),
                Node::Hardlink { target } => ("1", target.as_bytes().to_vec(), [0, 0]),
                Node::CharDevice { major, minor } => ("3", Vec::new(), [*major, *minor]),
                Node::BlockDevice { major, minor } => ("4", Vec::new(), [*major, *minor]),
                Node::Fifo => ("6", Vec::new(), [0, 0]),
            };
            let is_file = matches!(entry.node, Node::File { .. });
            let xattrs: Vec<String> = entry
                .metadata
                .xattrs
                .keys()
                .map(|key| format!("SCHILY.xattr.{}", String::from_utf8_lossy(key)))
                .collect();
            let expected = serde_json::json!({"name": cofferdam::image::hex(name), "kind": kind, "mode": entry.metadata.mode,
                "uid": entry.metadata.uid, "gid": entry.metadata.gid, "mtime": entry.metadata.mtime, "size": entry.node.size(),
                "link": cofferdam::image::hex(&link), "device": device, "owner": "",
                "content": is_file.then(|| Digest::of(content).hex()), "xattrs": xattrs});
            assert_eq!(*member, expected);
        }
    }
}

#[test]
fn gnu_tar_unpacks_layers() {
    let (directory, store) = store();
    let mut entries = everything();
    // Device nodes and owners need privileges that a test does not ask for.
    entries.retain(|(entry, _)| !matches!(entry.node, Node::CharDevice { .. } | Node::BlockDevice { .. }));
    let layer = write(&store, Compression::default(), &changes(&entries));
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let output = run(Command::new("tar")
        .args(["--no-same-owner", "-xzpf"])
        .arg(store.path(&layer.digest))
        .arg("-C")
        .arg(&root));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "not even a warning");
    for (entry, content) in &entries {
        let at = root.join(entry.path.as_path());
        let metadata = std::fs::symlink_metadata(&at).unwrap();
        match &entry.node {
            Node::File { .. } => assert_eq!(std::fs::read(&at).unwrap(), *content),
            Node::Symlink { target } => {
                assert_eq!(std::fs::read_link(&at).unwrap().as_os_str().as_encoded_bytes(), target);
                continue;
            }
            Node::Hardlink { target } => {
                assert_eq!(metadata.ino(), std::fs::metadata(root.join(target.as_path())).unwrap().ino());
            }
            _ => {}
        }
        assert_eq!(metadata.permissions().mode() & 0o7777, entry.metadata.mode, "{}", entry.path);
        assert_eq!(metadata.mtime(), entry.metadata.mtime, "{}", entry.path);
    }
}

/// Two layers with every way to change something.
fn two_layers(store: &Store, compression: Compression) -> [LayerBlob; 2] {
    let metadata = |mode| Metadata { mode, mtime: 1_600_000_000, ..Metadata::default() };
    let directory = |at: &str| {
        (
            Change::Entry(Entry { path: path(at), node: Node::Directory, metadata: metadata(0o755) }),
            Vec::new(),
        )
    };
    let file = |at: &str, content: &[u8]| {
        let node = Node::File { size: content.len() as u64 };
        (Change::Entry(Entry { path: path(at), node, metadata: metadata(0o644) }), content.to_vec())
    };
    let link = |at: &str, target: &str| {
        let node = Node::Symlink { target: target.into() };
        (Change::Entry(Entry { path: path(at), node, metadata: metadata(0o777) }), Vec::new())
    };
    let gone = |at: &str| (Change::Remove(path(at)), Vec::new());
    let big = content(2_500_000);
    let lower = write(
        store,
        compression,
        &[
            directory("emptied"),
            file("emptied/old", b"1"),
            directory("kept"),
            file("kept/a", b"2"),
            file("kept/b", &big),
            file("to-directory", b"4"),
            directory("to-file"),
            file("to-file/x", b"3"),
            directory("to-link"),
            file("to-link/x", b"5"),
        ],
    );
    let upper = write(
        store,
        compression,
        &[
            directory("emptied"),
            (Change::Opaque(path("emptied")), Vec::new()),
            file("emptied/new", b"6"),
            directory("kept"),
            gone("kept/a"),
            file("kept/c", b"7"),
            directory("to-directory"),
            file("to-directory/y", b"8"),
            file("to-file", b"9"),
            link("to-link", "kept"),
        ],
    );
    [lower, upper]
}

/// What is in a directory: path → content, link target in front of `->`, or `/`.
fn tree_on_disk(root: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|found| {
            let found = found.unwrap();
            let name = found.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let what = match found.file_type() {
                kind if kind.is_dir() => b"/".to_vec(),
                kind if kind.is_symlink() => {
                    let target = std::fs::read_link(found.path()).unwrap();
                    [b"->", target.as_os_str().as_encoded_bytes()].concat()
                }
                _ => std::fs::read(found.path()).unwrap(),
            };
            (name, what)
        })
        .collect()
}

fn expected_tree() -> BTreeMap<String, Vec<u8>> {
    let big = content(2_500_000);
    let entries: [(&str, &[u8]); 9] = [
        ("emptied", b"/"),
        ("emptied/new", b"6"),
        ("kept", b"/"),
        ("kept/b", &big),
        ("kept/c", b"7"),
        ("to-directory", b"/"),
        ("to-directory/y", b"8"),
        ("to-file", b"9"),
        ("to-link", b"->kept"),
    ];
    entries.map(|(name, what)| (name.to_owned(), what.to_vec())).into()
}

#[test]
fn umoci_unpacks_an_image_from_the_store() {
    let (directory, store) = store();
    for (number, compression) in
        [Compression::None, Compression::Gzip(4), Compression::Gzip(1)].into_iter().enumerate()
    {
        let name = format!("app:v{number}");
        tag(&store, &name, &two_layers(&store, compression));
        let bundle = directory.path().join(format!("bundle-{number}"));
        let image = format!("{}:{name}", store.directory().display());
        run(Command::new("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle));
        assert!(tree_on_disk(&bundle.join("rootfs")) == expected_tree(), "{compression:?}");
    }
    let layout = store.directory().to_str().unwrap();
    let listed = run(Command::new("umoci").args(["ls", "--layout", layout])).stdout;
    let mut listed: Vec<&str> = std::str::from_utf8(&listed).unwrap().lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["app:v0", "app:v1", "app:v2"]);
}

#[test]
fn skopeo_copies_an_image_from_the_store() {
    let (directory, store) = store();
    tag(&store, "registry.example:5000/group/app:v1", &two_layers(&store, Compression::Gzip(4)));
    tag(&store, "app:zstd", &two_layers(&store, Compression::Zstd(3)));
    tag(&store, "app", &two_layers(&store, Compression::None));
    let layout = format!("oci:{}", store.directory().display());
    for (number, name) in
        ["registry.example:5000/group/app:v1", "app:zstd", "app:latest"].into_iter().enumerate()
    {
        let out = directory.path().join(format!("out-{number}"));
        let source = format!("{layout}:{name}");
        // Every blob is read and its digest compared.
        run(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "-q",
            &source,
            &format!("oci:{}:x", out.display()),
        ]));
        let copied = Store::open(&out).unwrap();
        assert_eq!(copied.names().unwrap()[0].name, "x");
        let plain = directory.path().join(format!("plain-{number}"));
        let target = format!("dir:{}", plain.display());
        run(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-decompress",
            &source,
            &target,
        ]));
        let is_layer = |name: &str| {
            name.len() == 64 && File::open(plain.join(name)).is_ok_and(|file| is_archive(file).unwrap())
        };
        let mut layers: Vec<Digest> = std::fs::read_dir(&plain)
            .unwrap()
            .map(|found| found.unwrap().file_name().into_string().unwrap())
            .filter(|name| is_layer(name))
            .map(|name| Digest::of(&std::fs::read(plain.join(name)).unwrap()))
            .collect();
        let mut expected = two_layers(&store, Compression::None).map(|layer| layer.diff_id);
        expected.sort();
        layers.sort();
        assert_eq!(layers, expected, "{name}");
        if name != "app:zstd" {
            // Diff IDs are compared on the way to an archive that `docker load` takes; docker's format has no
            // zstd.
            let target =
                format!("docker-archive:{}:x:y", directory.path().join(format!("{number}.tar")).display());
            run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &source, &target]));
        }
    }
}

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

/// Memory does not depend on what goes through: a file, and a layer, many times larger than what a process
/// may have.
#[test]
fn layers_of_any_size_need_little_memory() {
    const LIMIT: &str = "180000";
    let directory = tempfile::tempdir().unwrap();
    for compression in ["none", "gzip", "zstd"] {
        let mut child = Command::new("sh");
        child
            .args(["-c", &format!("ulimit -v {LIMIT}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_and_reads_a_large_layer", "--ignored", "--nocapture"])
            .env("COFFERDAM_TEST_COMPRESSION", compression)
            .env("COFFERDAM_TEST_STORE", directory.path().join(compression));
        run(&mut child);
    }
}

#[test]
#[ignore = "a child of another test"]
fn child_writes_and_reads_a_large_layer() {
    let store = std::env::var_os("COFFERDAM_TEST_STORE").expect("this test is a child of another");
    let compression = match std::env::var("COFFERDAM_TEST_COMPRESSION").unwrap().as_str() {
        "none" => Compression::None,
        "gzip" => Compression::Gzip(1),
        _ => Compression::Zstd(1),
    };
    let store = Store::open(store).unwrap();
    let mut large = tempfile::tempfile_in(store.directory()).unwrap();
    let piece = content(8 << 20);
    for _ in 0..40 {
        large.write_all(&piece).unwrap();
    }
    let size = 40 * piece.len() as u64;
    let options = LayerOptions { compression, clamp_mtime: None };
    let pool = Pool::new(8.try_into().unwrap());
    let mut writer = LayerWriter::new(&store, &pool, options).unwrap();
    for name in ["a", "b"] {
        large.seek(SeekFrom::Start(0)).unwrap();
        let entry = Entry { path: path(name), node: Node::File { size }, metadata: Metadata::default() };
        writer.file_from(&entry, &large).unwrap();
    }
    let layer = writer.finish().unwrap();
    let reader = LayerReader::new(store.open_blob(&layer.digest).unwrap()).unwrap();
    reader.indexed(&store).finish().unwrap().expect_diff_id(&layer.diff_id).unwrap();
}
