//! Removing what is not needed.
//!
//! What a name refers to stays, unless the policy has names go too. Everything else is a cache: records with what they
//! refer to, and loose blobs that nothing refers to (a build that failed has left them, or a name was taken away). A prune
//! has the store for itself, so that it never meets a build between writing a blob and referring to it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::caches::StoredCache;
use super::error::{At, StoreError};
use super::names::{MAX_MANIFEST, MAX_NESTING, children};
use super::records::{StoredRecord, list, read_small};
use super::temp;
use super::{Inner, Store};
use crate::image::{Digest, Manifest, Reference};

/// How often the lock is tried while builds run.
const POLL: Duration = Duration::from_millis(50);

/// What becomes of images with a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NamedImages {
    /// They stay.
    #[default]
    Stay,
    /// They are a cache like the rest: those that were not used for longest lose their names and go, if a limit demands
    /// it. These stay.
    GoBut(Vec<Reference>),
}

/// What a prune removes besides leftovers.
///
/// With neither limit, loose blobs go, and records and cache mounts only if `all` is set. With a limit, records, cache
/// mounts and loose blobs alike go, least recently used first, as far as the limits demand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrunePolicy {
    /// What becomes of images with a name.
    pub names: NamedImages,
    /// Forget every record of the cache, and remove every cache mount.
    pub all: bool,
    /// Remove what was not used for this long.
    pub older_than: Option<Duration>,
    /// Keep the store to this many bytes, named images included: blobs, side files, cache mounts, unfinished downloads
    /// and kept root filesystems.
    pub keep_bytes: Option<u64>,
    /// How long to wait for running builds to end.
    pub wait: Duration,
}

/// What a prune has freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// How many blobs.
    pub blobs: u64,
    /// How many names.
    pub names: u64,
    /// How many records.
    pub records: u64,
    /// How many directories of cache mounts.
    pub mounts: u64,
    /// How many unfinished downloads.
    pub downloads: u64,
    /// How many root filesystems that were kept between builds.
    pub roots: u64,
    /// How many bytes in all.
    pub bytes: u64,
    /// How many bytes are left, of what [`PrunePolicy::keep_bytes`] counts.
    pub left: u64,
}

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many temporary files.
    pub files: u64,
    /// How many workspaces.
    pub workspaces: u64,
}

/// A record, for the judgement of what it needs.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Its JSON.
    pub content: &'a [u8],
}

/// Says which digests a record needs.
type References<'a> = dyn FnMut(RecordView<'_>) -> Vec<Digest> + 'a;

/// Something that is kept or removed as one.
struct Unit {
    used: SystemTime,
    /// The digests it keeps, and what goes with it.
    holds: HashSet<Digest>,
    what: What,
}

/// What a unit is, besides the digests that it keeps.
enum What {
    /// An image of the index, by the digest of its manifest.
    Image(Digest),
    Record(StoredRecord),
    Mount(StoredCache),
    /// A digest that nothing refers to.
    Loose,
}

impl Unit {
    /// What it takes up besides what it holds.
    fn own_bytes(&self) -> u64 {
        if let What::Mount(mount) = &self.what { mount.bytes } else { 0 }
    }
}

/// What the store has under the name of a digest: a blob, side files, or both.
#[derive(Default)]
struct Item {
    bytes: u64,
    used: Option<SystemTime>,
    paths: Vec<PathBuf>,
    is_blob: bool,
}

impl Store {
    /// Removes what `policy` says, and leftovers. `references` is given each record and
    /// says which digests it needs: of blobs (what manifests refer to follows by itself) and of side files.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if builds use the store, or this process has other handles to it, for longer
    /// than the policy waits. A file that cannot be removed ends the prune; what is left is whole.
    pub fn prune(
        &mut self,
        policy: &PrunePolicy,
        mut references: impl FnMut(RecordView<'_>) -> Vec<Digest>,
    ) -> Result<Pruned, StoreError> {
        self.lock_alone(policy.wait)?;
        // What the last build has left is swept up, or kept within moments and then pruned with the rest.
        let pruned = self.keeping(true).and_then(|_alone| {
            self.sweep()?;
            self.prune_locked(policy, &mut references)
        });
        // Others may come in again. Giving up the exclusive lock for the shared one never waits.
        temp::shared(&self.inner.in_use, &self.ours("in-use"))?;
        pruned
    }

    fn lock_alone(&mut self, wait: Duration) -> Result<(), StoreError> {
        let path = self.ours("in-use");
        let root = self.inner.root.clone();
        let deadline = Instant::now() + wait;
        loop {
            let Some(Inner { in_use, .. }) = Arc::get_mut(&mut self.inner) else {
                return Err(StoreError::InUse(root));
            };
            if temp::try_exclusive(in_use, &path)? {
                return Ok(());
            }
            // The failed attempt has given up the shared lock (flock(2): a conversion is not atomic).
            temp::shared(in_use, &path)?;
            if Instant::now() >= deadline {
                return Err(StoreError::InUse(root));
            }
            std::thread::sleep(POLL);
        }
    }

    fn prune_locked(
        &self,
        policy: &PrunePolicy,
        references: &mut References<'_>,
    ) -> Result<Pruned, StoreError> {
        let mut items = self.items()?;
        let (mut kept, images) = self.images(policy, &items)?;
        let units = self.units(&items, &kept, images, references)?;
        let all_mounts: u64 = units.iter().map(Unit::own_bytes).sum();
        let mut pruned = Pruned { left: all_mounts, ..Pruned::default() };
        let going = retain(units, policy, &items, &mut kept);
        // The index first: it never names an image that is not whole.
        let nameless: HashSet<Digest> = going
            .iter()
            .filter_map(|unit| if let What::Image(digest) = unit.what { Some(digest) } else { None })
            .collect();
        pruned.names = if nameless.is_empty() { 0 } else { self.forget(&nameless)? };
        for unit in going {
            match unit.what {
                What::Record(record) => {
                    remove(&record.path)?;
                    pruned.records += 1;
                    pruned.bytes += record.size;
                }
                What::Mount(mount) => {
                    self.remove_cache(&mount.path)?;
                    pruned.mounts += 1;
                    pruned.bytes += mount.bytes;
                    pruned.left -= mount.bytes;
                }
                What::Image(_) | What::Loose => {}
            }
        }
        items.retain(|digest, item| {
            pruned.left += if kept.contains(digest) { item.bytes } else { 0 };
            !kept.contains(digest)
        });
        for item in items.into_values() {
            for path in &item.paths {
                remove(path)?;
            }
            pruned.blobs += u64::from(item.is_blob);
            pruned.bytes += item.bytes;
        }
        self.prune_downloads(policy, &mut pruned)?;
        self.prune_kept(policy, &mut pruned)?;
        Ok(pruned)
    }

    /// Unfinished downloads: nobody is at them now, and how much of them is right is not known.
    fn prune_downloads(&self, policy: &PrunePolicy, pruned: &mut Pruned) -> Result<(), StoreError> {
        let directory = self.ours("partial");
        for name in list(&directory)? {
            let path = directory.join(name);
            let metadata = std::fs::metadata(&path).at("inspect", &path)?;
            if policy.leaves(&metadata, metadata.len(), pruned) {
                continue;
            }
            remove(&path)?;
            pruned.downloads += 1;
            pruned.bytes += metadata.len();
        }
        Ok(())
    }

    /// Everything the store has under digests.
    fn items(&self) -> Result<HashMap<Digest, Item>, StoreError> {
        let mut items: HashMap<Digest, Item> = HashMap::new();
        let mut add = |path: PathBuf, digest: Digest, is_blob: bool| -> Result<(), StoreError> {
            let metadata = std::fs::metadata(&path).at("inspect", &path)?;
            let item = items.entry(digest).or_default();
            item.bytes += metadata.len();
            item.used = item.used.max(metadata.modified().ok());
            item.paths.push(path);
            item.is_blob |= is_blob;
            Ok(())
        };
        for name in list(&self.blobs())? {
            // What has no digest for a name is not ours to remove.
            if let Ok(digest) = format!("sha256:{name}").parse() {
                add(self.blobs().join(name), digest, true)?;
            }
        }
        for (path, digest) in self.stored_sides()? {
            if let Some(digest) = digest {
                add(path, digest, false)?;
            }
        }
        Ok(items)
    }

    /// What the images of the index keep that stay in any case, and those that may go.
    fn images(
        &self,
        policy: &PrunePolicy,
        items: &HashMap<Digest, Item>,
    ) -> Result<(HashSet<Digest>, Vec<Unit>), StoreError> {
        let mut kept = HashSet::new();
        let mut units: Vec<Unit> = Vec::new();
        let mut staying = HashSet::new();
        if let NamedImages::GoBut(names) = &policy.names {
            for name in names {
                if let Some(descriptor) = self.resolve(name)? {
                    staying.insert(super::names::part(&descriptor, self)?.digest);
                }
            }
        }
        for root in self.roots()? {
            let digest = super::names::part(&root, self)?.digest;
            if policy.names == NamedImages::Stay || staying.contains(&digest) {
                self.reach(digest, &mut kept)?;
                continue;
            }
            let mut holds = HashSet::new();
            self.reach(digest, &mut holds)?;
            let used = items.get(&digest).and_then(|item| item.used).unwrap_or(SystemTime::UNIX_EPOCH);
            units.push(Unit { used, holds, what: What::Image(digest) });
        }
        Ok((kept, units))
    }

    /// To `images` that may go the records, the cache mounts, and the digests that neither a name nor a record refers to.
    fn units(
        &self,
        items: &HashMap<Digest, Item>,
        named: &HashSet<Digest>,
        images: Vec<Unit>,
        references: &mut References<'_>,
    ) -> Result<Vec<Unit>, StoreError> {
        let mut referred = named.clone();
        referred.extend(images.iter().flat_map(|unit| &unit.holds));
        let mut units = images;
        for record in self.stored_records()? {
            let content = read_small(&record.path, false)?.unwrap_or_default();
            let mut holds = HashSet::new();
            let view = RecordView { namespace: &record.namespace, key: &record.key, content: &content };
            for digest in references(view) {
                self.reach(digest, &mut holds)?;
            }
            referred.extend(&holds);
            units.push(Unit { used: record.used, holds, what: What::Record(record) });
        }
        for (digest, item) in items.iter().filter(|(digest, _)| !referred.contains(digest)) {
            let used = item.used.unwrap_or(SystemTime::UNIX_EPOCH);
            units.push(Unit { used, holds: HashSet::from([*digest]), what: What::Loose });
        }
        units.extend(self.stored_caches()?.into_iter().map(|mount| Unit {
            used: mount.used,
            holds: HashSet::new(),
            what: What::Mount(mount),
        }));
        Ok(units)
    }

    /// Adds a digest and all that follows from it: what a manifest refers to, and the diff IDs of a
    /// configuration, with which side files go.
    fn reach(&self, digest: Digest, reached: &mut HashSet<Digest>) -> Result<(), StoreError> {
        let mut open = vec![(digest, 0)];
        while let Some((digest, depth)) = open.pop() {
            if !reached.insert(digest) || depth > MAX_NESTING {
                continue;
            }
            let Some(bytes) = self.json_blob(&digest)? else { continue };
            if let Ok(manifest) = Manifest::parse(&bytes, None) {
                for child in children(&manifest) {
                    open.push((super::names::part(child, self)?.digest, depth + 1));
                }
            } else if let Ok(config) = serde_json::from_slice::<crate::image::ImageConfig>(&bytes) {
                reached.extend(config.rootfs.diff_ids);
            }
        }
        Ok(())
    }

    /// The content of a blob that may be a manifest or a configuration. What a record refers to comes without
    /// a media type; to take another document for a manifest would only keep more.
    fn json_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("open", &path),
        };
        let mut bytes = Vec::new();
        (&file).take(1).read_to_end(&mut bytes).at("read", &path)?;
        if bytes != b"{" || file.metadata().at("inspect", &path)?.len() > MAX_MANIFEST {
            return Ok(None);
        }
        (&file).take(MAX_MANIFEST).read_to_end(&mut bytes).at("read", &path)?;
        Ok(Some(bytes))
    }
}

/// What is below a directory, in bytes on the disk: a file of several names once. What cannot be looked at counts nothing.
pub(super) fn bytes_below(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() || metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    bytes
}

impl PrunePolicy {
    fn is_limited(&self) -> bool {
        self.older_than.is_some() || self.keep_bytes.is_some()
    }

    /// Whether something of `size` bytes that stands alone may stay; if so it is counted.
    pub(super) fn leaves(&self, metadata: &std::fs::Metadata, size: u64, pruned: &mut Pruned) -> bool {
        let young = metadata.modified().is_ok_and(|used| self.spares(used));
        let fits = self.keep_bytes.is_none_or(|keep| pruned.left + size <= keep);
        let stays = self.is_limited() && young && fits;
        pruned.left += if stays { size } else { 0 };
        stays
    }

    /// Whether the age of what was last used then is no reason to remove it.
    fn spares(&self, used: SystemTime) -> bool {
        let Some(limit) = self.older_than else { return true };
        // A time in the future, from another machine's clock, is young.
        !SystemTime::now().duration_since(used).is_ok_and(|age| age > limit)
    }
}

/// Adds to `kept` what stays, and gives back the units that go.
fn retain(
    mut units: Vec<Unit>,
    policy: &PrunePolicy,
    items: &HashMap<Digest, Item>,
    kept: &mut HashSet<Digest>,
) -> Vec<Unit> {
    let weight = |digest: &Digest| items.get(digest).map_or(0, |item| item.bytes);
    let mut total: u64 = kept.iter().map(weight).sum();
    // The most recently used first: those that fit stay.
    units.sort_unstable_by_key(|unit| std::cmp::Reverse(unit.used));
    let mut going = Vec::new();
    for unit in units {
        let held: u64 = unit.holds.iter().filter(|digest| !kept.contains(digest)).map(weight).sum();
        let added = held + unit.own_bytes();
        let stays = if policy.is_limited() {
            policy.spares(unit.used) && policy.keep_bytes.is_none_or(|keep| total + added <= keep)
        } else {
            match unit.what {
                What::Image(_) => true,
                What::Record(_) | What::Mount(_) => !policy.all,
                What::Loose => false,
            }
        };
        if stays {
            total += added;
            kept.extend(unit.holds);
        } else {
            going.push(unit);
        }
    }
    going
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
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
        let week =
            PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
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
        let manifest =
            crate::store::names::part(&store.resolve(&name("app")).unwrap().unwrap(), &store).unwrap();
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
        let week =
            PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
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
        let week =
            PrunePolicy { older_than: Some(Duration::from_secs(7 * 86_400)), ..PrunePolicy::default() };
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

    #[test]
    fn nothing_is_removed_while_the_store_is_used() {
        let (directory, mut store) = furnished();
        let policy = PrunePolicy { wait: Duration::from_millis(120), ..PrunePolicy::default() };
        let clone = store.clone();
        assert!(
            matches!(store.prune(&policy, references), Err(StoreError::InUse(_))),
            "a clone in this process"
        );
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
}
