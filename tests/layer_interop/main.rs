//! Layers and stores beside other tools: what is written here is read by GNU tar, gzip, zstd, Python, umoci
//! and skopeo (Go's `archive/tar` and `compress/gzip`, which every container runtime uses); what they write
//! is read here.
//!
//! A test whose tool is missing fails and says which.

// Helpers of tests are tests, which the lint does not see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod read;
mod written;

use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Output};

use cofferdam::image::{Descriptor, ImageConfig, media_type};
use cofferdam::layer::{
    Change, Compression, Entry, LayerBlob, LayerOptions, LayerReader, LayerWriter, Metadata, Node, Pool,
    TreePath,
};
use cofferdam::store::Store;

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

fn write(store: &Store, compression: Compression, changes: &[(Change, Vec<u8>)]) -> LayerBlob {
    let options = LayerOptions { compression, clamp_mtime: None };
    let mut writer = LayerWriter::new(store, &Pool::default(), options).unwrap();
    for (change, content) in changes {
        writer.change(change, &mut content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
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
