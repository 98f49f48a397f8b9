//! What is written here, read by others.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cofferdam::image::Digest;
use cofferdam::layer::{Change, Compression, Entry, Metadata, Node, Xattrs, is_archive};
use cofferdam::store::Store;

use crate::{content, path, run, store, tag, two_layers, write};

const COMPRESSIONS: [Compression; 4] =
    [Compression::None, Compression::Gzip(4), Compression::Gzip(1), Compression::Zstd(3)];

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

fn changes(entries: &[(Entry, Vec<u8>)]) -> Vec<(Change, Vec<u8>)> {
    entries.iter().map(|(entry, content)| (Change::Entry(entry.clone()), content.clone())).collect()
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
