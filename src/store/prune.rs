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
/// mounts and loose blobs alike go, least recently used first, as far as the limits demand; an image that only a record refers
/// to goes blob by blob then, for the layers of a base that is asked for daily may not have been needed for months.
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
    /// says which digests it needs: of blobs (what manifests refer to follows by itself, if there is no limit) and of side files.
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
        let units = self.units(policy, &items, &kept, images, references)?;
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
        policy: &PrunePolicy,
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
                if policy.is_limited() {
                    holds.insert(digest);
                } else {
                    self.reach(digest, &mut holds)?;
                }
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
mod tests;
