//! What a prune takes and what it leaves.

use super::*;
use crate::store::names::tests::{image, name};
use std::io::Write;

/// A store with a named image, a record with a blob of 1000 bytes, another with one of 2000 that is
/// older, a loose blob of 500, a side file for the first record's layer and one for nothing, and a
/// partial download.
fn furnished() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.tag(&name("app"), &image(&store, b"layer")).unwrap();
    let young = store.put(&[1; 1000]).unwrap().digest;
    let old = store.put(&[2; 2000]).unwrap().digest;
    store.put(&[3; 500]).unwrap();
    store.put_record("steps", "young", &[young]).unwrap();
    store.put_record("steps", "old", &[old]).unwrap();
    for digest in [young, Digest::of(b"layer"), Digest::of(b"nothing")] {
        let mut side = store.side_writer().unwrap();
        side.write_all(&[0; 10]).unwrap();
        side.commit("tree", &digest).unwrap();
    }
    std::fs::write(store.ours("partial").join(Digest::of(b"?").hex()), [0; 7]).unwrap();
    let days = |days: u64| SystemTime::now() - Duration::from_secs(days * 86_400);
    for (path, used) in [
        (store.ours("records/steps/old"), days(9)),
        (store.path(&old), days(9)),
        (store.path(&Digest::of(&[3; 500])), days(5)),
    ] {
        File::options().write(true).open(path).unwrap().set_modified(used).unwrap();
    }
    (directory, store)
}

fn references(record: RecordView<'_>) -> Vec<Digest> {
    assert_eq!(record.namespace, "steps");
    serde_json::from_slice(record.content).unwrap()
}

fn has(store: &Store, byte: u8, size: usize) -> bool {
    store.has(&Digest::of(&vec![byte; size])).unwrap()
}

fn side(store: &Store, content: &[u8]) -> bool {
    store.side("tree", &Digest::of(content)).unwrap().is_some()
}

#[test]
fn without_limits_loose_blobs_go_and_records_stay() {
    let (_directory, mut store) = furnished();
    let pruned = store.prune(&PrunePolicy::default(), references).unwrap();
    assert_eq!((pruned.blobs, pruned.records, pruned.downloads, pruned.bytes), (1, 0, 1, 500 + 10 + 7));
    assert!(has(&store, 1, 1000) && has(&store, 2, 2000) && !has(&store, 3, 500));
    assert!(side(&store, &[1; 1000]) && side(&store, b"layer") && !side(&store, b"nothing"));
    assert!(store.resolve(&name("app")).unwrap().is_some());
    assert!(store.has(&Digest::of(b"layer")).unwrap());
    let again = store.prune(&PrunePolicy::default(), references).unwrap();
    assert_eq!(again, Pruned { left: pruned.left, ..Pruned::default() });
}

#[test]
fn all_leaves_named_images_alone() {
    let (_directory, mut store) = furnished();
    let policy = PrunePolicy { all: true, ..PrunePolicy::default() };
    let pruned = store.prune(&policy, references).unwrap();
    assert_eq!((pruned.blobs, pruned.records), (3, 2));
    assert!(store.record_keys("steps").unwrap().is_empty());
    assert!(side(&store, b"layer") && !side(&store, &[1; 1000]));
    // The name still works, which `tag` verifies part by part.
    let descriptor = store.resolve(&name("app")).unwrap().unwrap();
    store.tag(&name("again"), &descriptor).unwrap();
}

#[test]
fn what_was_not_used_for_long_goes() {
    let (_directory, mut store) = furnished();
    let week = PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
    let pruned = store.prune(&week, references).unwrap();
    assert_eq!((pruned.blobs, pruned.records, pruned.downloads), (1, 1, 0));
    assert!(!has(&store, 2, 2000) && has(&store, 3, 500), "the loose blob is not that old");
    assert_eq!(store.record_keys("steps").unwrap(), ["young"]);
    assert!(side(&store, b"nothing"));
}

#[test]
fn the_least_recently_used_goes_first_when_space_is_short() {
    let (_directory, mut store) = furnished();
    let named: u64 = 10
        + store.roots().unwrap().iter().fold(0, |_, root| {
            let mut kept = HashSet::new();
            store.reach(super::super::names::part(root, &store).unwrap().digest, &mut kept).unwrap();
            kept.iter().map(|digest| store.size(digest).unwrap().unwrap_or(0)).sum()
        });
    let keep = |bytes| PrunePolicy { keep_bytes: Some(named + bytes), ..PrunePolicy::default() };
    let pruned = store.prune(&keep(1600), references).unwrap();
    assert_eq!((pruned.records, pruned.downloads), (1, 0));
    assert!(pruned.left <= named + 1600, "{pruned:?}");
    assert!(has(&store, 1, 1000) && !has(&store, 2, 2000) && has(&store, 3, 500));
    let pruned = store.prune(&keep(0), references).unwrap();
    assert_eq!((pruned.records, pruned.downloads, pruned.left), (1, 1, named));
    assert!(store.resolve(&name("app")).unwrap().is_some());
}

#[test]
fn names_go_under_a_limit_if_they_may_and_are_not_of_this_build() {
    let (_directory, mut store) = furnished();
    let other = image(&store, b"another layer");
    store.tag(&name("other"), &other).unwrap();
    let limit = |keep: &[&str]| PrunePolicy {
        names: NamedImages::GoBut(keep.iter().copied().map(name).collect()),
        keep_bytes: Some(0),
        ..PrunePolicy::default()
    };
    let pruned = store.prune(&limit(&["other"]), references).unwrap();
    assert_eq!(pruned.names, 1);
    assert!(store.resolve(&name("app")).unwrap().is_none());
    assert!(!store.has(&Digest::of(b"layer")).unwrap() && !side(&store, b"layer"));
    assert!(pruned.left > 0, "the image that stays is counted: {pruned:?}");
    store.tag(&name("again"), &other).unwrap();
    let pruned = store.prune(&limit(&[]), references).unwrap();
    assert_eq!((pruned.names, pruned.left), (2, 0), "two names of one image");
    assert!(store.names().unwrap().is_empty() && !store.has(&Digest::of(b"another layer")).unwrap());
}

#[test]
fn the_name_that_was_used_last_stays() {
    let (_directory, mut store) = furnished();
    let other = image(&store, b"another layer");
    store.tag(&name("other"), &other).unwrap();
    let manifest = crate::store::names::part(&store.resolve(&name("app")).unwrap().unwrap(), &store).unwrap();
    let file = File::options().write(true).open(store.path(&manifest.digest)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    let mut held = HashSet::new();
    store.reach(Digest::try_from(other.digest()).unwrap(), &mut held).unwrap();
    let size: u64 = held.iter().map(|digest| store.size(digest).unwrap().unwrap_or(0)).sum();
    let policy = PrunePolicy {
        names: NamedImages::GoBut(Vec::new()),
        keep_bytes: Some(1000 + 10 + 10 + size),
        ..PrunePolicy::default()
    };
    let pruned = store.prune(&policy, references).unwrap();
    assert_eq!((pruned.names, pruned.left), (1, policy.keep_bytes.unwrap()));
    assert!(store.resolve(&name("other")).unwrap().is_some() && has(&store, 1, 1000));
}

/// A cache mount with 64 KiB, last used so many days ago.
fn cache(store: &Store, name: &str, days: u64) -> PathBuf {
    let cache = store.cache_directory(&Digest::of(name.as_bytes()), crate::store::CacheUse::Shared);
    let files = cache.unwrap().unwrap().files();
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("content"), [1; 65_536]).unwrap();
    std::fs::hard_link(files.join("content"), files.join("again")).unwrap();
    let lock = File::options().write(true).open(files.with_file_name("lock")).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
    files
}

#[test]
fn cache_mounts_go_like_records() {
    let (_directory, mut store) = furnished();
    let (young, old) = (cache(&store, "young", 0), cache(&store, "old", 20));
    let pruned = store.prune(&PrunePolicy::default(), references).unwrap();
    assert_eq!(pruned.mounts, 0);
    assert!((2 * 65_536..3 * 65_536).contains(&pruned.left), "a file counts once: {pruned:?}");
    let week = PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
    let pruned = store.prune(&week, references).unwrap();
    assert_eq!(pruned.mounts, 1);
    assert!(pruned.bytes >= 65_536 && young.exists() && !old.exists(), "{pruned:?}");
    assert!(!old.parent().unwrap().parent().unwrap().exists());
    let keep = PrunePolicy { keep_bytes: Some(40_000), ..PrunePolicy::default() };
    assert_eq!(store.prune(&keep, references).unwrap().mounts, 1);
    assert!(!young.exists());
    cache(&store, "all", 0);
    let all = PrunePolicy { all: true, ..PrunePolicy::default() };
    assert_eq!(store.prune(&all, references).unwrap().mounts, 1);
}

#[test]
fn a_blob_that_two_records_need_stays_with_either() {
    let (_directory, mut store) = furnished();
    let shared = Digest::of(&[2; 2000]);
    store.put_record("steps", "young", &[shared]).unwrap();
    let week = PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
    let pruned = store.prune(&week, references).unwrap();
    assert_eq!(pruned.records, 1);
    assert!(has(&store, 2, 2000));
}

#[test]
fn a_record_keeps_what_its_manifest_refers_to() {
    let (_directory, mut store) = furnished();
    let base = image(&store, b"base layer");
    let digest = Digest::try_from(base.digest()).unwrap();
    store.put_record("steps", "base", &[digest]).unwrap();
    store.prune(&PrunePolicy::default(), references).unwrap();
    assert!(store.has(&digest).unwrap() && store.has(&Digest::of(b"base layer")).unwrap());
}

/// The record of a tag is used by each build. With a limit it must not hold the layers of a base that no build needs.
#[test]
fn with_a_limit_a_base_goes_blob_by_blob() {
    let (_directory, mut store) = furnished();
    let base = image(&store, b"base layer");
    let digest = Digest::try_from(base.digest()).unwrap();
    store.put_record("steps", "base", &[digest]).unwrap();
    let layer = File::options().write(true).open(store.path(&Digest::of(b"base layer"))).unwrap();
    layer.set_modified(SystemTime::now() - Duration::from_secs(9 * 86_400)).unwrap();
    let week = PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
    store.prune(&week, references).unwrap();
    assert!(store.has(&digest).unwrap() && !store.has(&Digest::of(b"base layer")).unwrap());
}

#[test]
fn nothing_is_removed_while_the_store_is_used() {
    let (directory, mut store) = furnished();
    let policy = PrunePolicy { wait: Duration::from_millis(120), ..PrunePolicy::default() };
    let clone = store.clone();
    assert!(matches!(store.prune(&policy, references), Err(StoreError::InUse(_))), "a clone in this process");
    drop(clone);
    let workspace = store.workspace().unwrap();
    assert!(matches!(store.prune(&policy, references), Err(StoreError::InUse(_))), "a workspace");
    drop(workspace);
    let other = Store::open(directory.path()).unwrap();
    let start = Instant::now();
    assert!(matches!(store.prune(&policy, references), Err(StoreError::InUse(_))), "another process");
    assert!(start.elapsed() >= policy.wait);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let build = std::thread::spawn(move || {
        receiver.recv().unwrap();
        drop(other);
    });
    sender.send(()).unwrap();
    let patient = PrunePolicy { wait: Duration::from_secs(60), ..PrunePolicy::default() };
    store.prune(&patient, references).unwrap();
    build.join().unwrap();
    assert!(!has(&store, 3, 500));
    // And the store is shared again.
    Store::open(directory.path()).unwrap();
}
