//! The store when processes are killed in the middle, when several work at once, and when the disk is full.
//!
//! The children are this test binary itself, told by an environment variable which store to work on.

// Helpers of tests are tests, which the lint does not see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::image::{Descriptor, Digest, ImageConfig, Manifest, Reference, media_type};
use cofferdam::store::{Claim, PrunePolicy, Store, StoreError};

/// Names the store's directory to a child.
const STORE: &str = "COFFERDAM_TEST_STORE";
/// Tells children of one store apart.
const SEED: &str = "COFFERDAM_TEST_SEED";

fn child(test: &str, store: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(STORE, store)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child was told. A child test that is run by hand fails here.
fn orders() -> (Store, u64) {
    let store = std::env::var_os(STORE).expect("this test is a child of the others");
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    (Store::open(store).unwrap(), seed)
}

/// Waits for a line of a child's output.
fn wait_for(child: &mut Child, line: &str) {
    let mut output = BufReader::new(child.stdout.as_mut().unwrap());
    let mut text = String::new();
    while text.trim() != line {
        text.clear();
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "the child ended before it said `{line}`");
    }
}

/// Bytes that differ from every other `number`'s.
fn content(number: u64, size: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn image(store: &Store, layer: &[u8]) -> Descriptor {
    let config = ImageConfig::scratch(&"linux/amd64".parse().unwrap());
    let config = store.put(&serde_json::to_vec(&config).unwrap()).unwrap();
    let layer = store.put(layer).unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": media_type::OCI_LAYER, "digest": layer.digest, "size": layer.size}]});
    let manifest = store.put(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    let digest = oci_spec::image::Digest::from(manifest.digest);
    Descriptor::new(media_type::OCI_MANIFEST.into(), manifest.size, digest)
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Every blob is what its name says, every name has a whole image, every record reads, and a sweep leaves
/// nothing.
fn validate(directory: &Path) {
    let store = Store::open(directory).unwrap();
    for entry in std::fs::read_dir(directory.join("blobs/sha256")).unwrap() {
        let digest: Digest =
            format!("sha256:{}", entry.unwrap().file_name().to_str().unwrap()).parse().unwrap();
        store.open_verified(&digest).unwrap().read_to_end(&mut Vec::new()).unwrap();
    }
    for named in store.names().unwrap() {
        let digest = Digest::try_from(named.descriptor.digest()).unwrap();
        let manifest = Manifest::parse(&store.read(&digest, 1 << 20).unwrap(), None).unwrap();
        let Manifest::Image(manifest) = manifest else { panic!("only images were tagged") };
        for part in manifest.layers().iter().chain([manifest.config()]) {
            assert!(store.holds(&Digest::try_from(part.digest()).unwrap(), part.size()).unwrap());
        }
    }
    for key in store.record_keys("steps").unwrap() {
        assert!(store.record::<Vec<u64>>("steps", &key).unwrap().is_some(), "record {key} is torn");
    }
    store.sweep().unwrap();
    for empty in ["cofferdam/tmp", "cofferdam/workspaces"] {
        let left: Vec<_> = std::fs::read_dir(directory.join(empty)).unwrap().collect();
        assert!(left.is_empty(), "{empty}: {left:?}");
    }
}

#[test]
#[ignore = "a child of other tests"]
fn child_works_until_it_is_killed() {
    let (store, seed) = orders();
    println!("started");
    for round in 0.. {
        let number = seed * 1_000_000 + round;
        let workspace = store.workspace().unwrap();
        std::fs::create_dir_all(workspace.path().join("a/b")).unwrap();
        std::fs::write(workspace.path().join("a/b/c"), "x").unwrap();
        // Layers that all children write, and some of their own.
        let layer = content(if round % 2 == 0 { round } else { number }, 50_000);
        let image = image(&store, &layer);
        store.tag(&name(&format!("app:{}", round % 5)), &image).unwrap();
        store.put_record("steps", &format!("key-{}", round % 7), &vec![number; 500]).unwrap();
        let blob = content(round + 500_000_000, 200_000);
        if let Claim::Ours(mut download) = store.claim(&Digest::of(&blob), Some(blob.len() as u64)).unwrap() {
            let start = usize::try_from(download.offset()).unwrap();
            for piece in blob[start..].chunks(30_000) {
                download.append(piece).unwrap();
            }
            download.commit().unwrap();
        }
    }
}

#[test]
fn a_store_is_whole_after_many_kills() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..24 {
        let mut children = [
            child("child_works_until_it_is_killed", directory.path(), seed * 2),
            child("child_works_until_it_is_killed", directory.path(), seed * 2 + 1),
        ];
        for child in &mut children {
            wait_for(child, "started");
        }
        // Anywhere in the work; one of the two goes on for a moment while the other is dead.
        let [first, second] = &mut children;
        std::thread::sleep(Duration::from_millis(5 + seed * 3));
        first.kill().unwrap();
        first.wait().unwrap();
        std::thread::sleep(Duration::from_millis(10));
        second.kill().unwrap();
        second.wait().unwrap();
        validate(directory.path());
    }
    let mut store = Store::open(directory.path()).unwrap();
    assert!(!store.names().unwrap().is_empty(), "the children came as far as tagging");
    // No lock is stuck: the store can be had alone at once.
    store.prune(&PrunePolicy { all: true, ..PrunePolicy::default() }, |_| Vec::new()).unwrap();
    drop(store);
    validate(directory.path());
}

#[test]
#[ignore = "a child of other tests"]
fn child_tags_images() {
    let (store, seed) = orders();
    for round in 0..10 {
        let image = image(&store, &content(round, 10_000));
        store.tag(&name(&format!("app:{seed}-{round}")), &image).unwrap();
        store.tag(&name("app:latest"), &image).unwrap();
    }
}

#[test]
fn no_name_is_lost_when_processes_and_threads_tag_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> =
        (0..3).map(|seed| child("child_tags_images", directory.path(), seed)).collect();
    let store = Store::open(directory.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 3..6 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10 {
                    let image = image(store, &content(round, 10_000));
                    store.tag(&name(&format!("app:{thread}-{round}")), &image).unwrap();
                }
            });
        }
    });
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let names: HashMap<_, _> =
        store.names().unwrap().into_iter().map(|named| (named.name, named.descriptor)).collect();
    assert_eq!(names.len(), 61);
    for seed in 0..6 {
        for round in 0..10 {
            let descriptor = &names[&format!("app:{seed}-{round}")];
            assert_eq!(descriptor.digest(), names[&format!("app:0-{round}")].digest());
        }
    }
    drop(store);
    validate(directory.path());
}

#[test]
#[ignore = "a child of other tests"]
fn child_downloads_half() {
    let (store, seed) = orders();
    let blob = content(seed, 1_000_000);
    let Claim::Ours(mut download) = store.claim(&Digest::of(&blob), Some(1_000_000)).unwrap() else {
        panic!("nobody else downloads")
    };
    download.append(&blob[..500_000]).unwrap();
    println!("half");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_second_process_takes_over_when_the_downloader_dies() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let blob = content(7, 1_000_000);
    let mut child = child("child_downloads_half", directory.path(), 7);
    wait_for(&mut child, "half");
    let claim = || store.claim(&Digest::of(&blob), Some(1_000_000)).unwrap();
    assert!(matches!(claim(), Claim::Elsewhere), "it is not downloaded twice");
    child.kill().unwrap();
    child.wait().unwrap();
    let Claim::Ours(mut download) = claim() else { panic!("the dead process holds nothing") };
    assert_eq!(download.offset(), 500_000, "what it got is kept");
    download.append(&blob[500_000..]).unwrap();
    download.commit().unwrap();
    assert_eq!(store.read(&Digest::of(&blob), 1 << 20).unwrap(), blob);
}

#[test]
#[ignore = "a child of other tests"]
fn child_builds_until_its_input_ends() {
    let (store, seed) = orders();
    let blob = store.put(&content(seed, 1000)).unwrap();
    println!("built");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(store.holds(&blob.digest, blob.size).unwrap(), "nothing was taken away");
}

#[test]
fn a_prune_waits_for_a_build_and_never_for_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_builds_until_its_input_ends", "--ignored", "--nocapture"])
        .env(STORE, directory.path())
        .env(SEED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut build = command.spawn().unwrap();
    wait_for(&mut build, "built");
    let impatient = PrunePolicy::default();
    assert!(matches!(store.prune(&impatient, |_| Vec::new()), Err(StoreError::InUse(_))));
    drop(build.stdin.take());
    let patient = PrunePolicy { wait: Duration::from_secs(60), ..impatient.clone() };
    assert_eq!(store.prune(&patient, |_| Vec::new()).unwrap().blobs, 1);
    assert!(build.wait().unwrap().success());
    let mut build = command.spawn().unwrap();
    wait_for(&mut build, "built");
    build.kill().unwrap();
    build.wait().unwrap();
    let start = Instant::now();
    assert_eq!(store.prune(&impatient, |_| Vec::new()).unwrap().blobs, 1);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
#[ignore = "a child of other tests"]
fn child_writes_more_than_it_may() {
    let (store, seed) = orders();
    let blob = content(seed, 4 << 20);
    let error = store.put(&blob).unwrap_err();
    assert!(matches!(&error, StoreError::Io { operation: "write", .. }), "{error:?}");
    let mut writer = store.writer().unwrap();
    writer.append(&blob).unwrap_err();
    assert!(matches!(writer.append(b"more"), Err(StoreError::Broken(_))));
    assert!(matches!(writer.commit(), Err(StoreError::Broken(_))), "half a blob is never named");
    let Claim::Ours(mut download) = store.claim(&Digest::of(&blob), None).unwrap() else { panic!() };
    download.append(&blob).unwrap_err();
    drop(download);
    assert!(store.put_record("steps", "key", &vec![1_u64; 2 << 20]).is_err());
    println!("refused");
}

/// A limit on the size of files stands for the full disk: a write fails in the middle.
#[test]
fn nothing_half_remains_when_a_write_fails() {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_more_than_it_may", "--ignored", "--nocapture"])
        .env(STORE, directory.path())
        .env(SEED, "3")
        .status()
        .unwrap();
    assert!(status.success());
    for empty in ["blobs/sha256", "cofferdam/tmp", "cofferdam/records/steps"] {
        assert_eq!(std::fs::read_dir(directory.path().join(empty)).unwrap().count(), 0, "{empty}");
    }
    // The download can be completed once there is space.
    let store = Store::open(directory.path()).unwrap();
    let blob = content(3, 4 << 20);
    let Claim::Ours(mut download) = store.claim(&Digest::of(&blob), None).unwrap() else { panic!() };
    let start = usize::try_from(download.offset()).unwrap();
    assert!(start > 0);
    download.append(&blob[start..]).unwrap();
    download.commit().unwrap();
    drop(store);
    validate(directory.path());
}

#[test]
fn a_remover_takes_away_a_workspace_that_nobody_has_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut paths = Vec::new();
    for _ in 0..2 {
        let workspace = store.workspace().unwrap();
        std::fs::create_dir_all(workspace.path().join("root/usr/bin")).unwrap();
        // A program that ends without having removed anything.
        workspace.leave_to(std::path::Path::new("/bin/true"));
        paths.push(workspace.path().with_extension("lock"));
    }
    let held = std::fs::File::open(&paths[0]).unwrap();
    held.lock().unwrap();
    for lock in &paths {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"))
            .arg(cofferdam::store::succession::COMMAND)
            .arg(lock)
            .status();
        assert!(status.unwrap().success());
    }
    assert!(paths[0].exists() && paths[0].with_extension("").exists(), "somebody has it");
    assert!(!paths[1].exists() && !paths[1].with_extension("").exists());
}
