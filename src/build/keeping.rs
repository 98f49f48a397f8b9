//! Filling the caches beside the store: what a step has made goes into each of them while the build goes on.
//!
//! An entry is there only when all that it names is. What goes wrong with a cache is told of once, and never the end of a
//! build.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::{try_join_all, try_join3};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::error::BuildError;
use super::executor::{Executor, Made};
use super::fetch::{blocking, borrow, lock};
use super::layers::{Layer, Origin};
use super::request::{CacheMode, CachePlace};
use crate::cache::{ANNOTATION, Chain, ChainStep, LocalCache, PackedIndex, RegistryCache};
use crate::image::{Digest, Repository};
use crate::layer::{copy_index, pack_index};
use crate::plan::{Base, Key, Stage, StageIndex};
use crate::registry::with_causes;
use crate::store::Store;

/// Where it is noted that a registry has an entry.
const SENT: &str = "sent";
/// How long such a note is believed, in seconds: registries forget.
const BELIEVED: i64 = 24 * 3600;

/// The packed index of a layer, and its blob, if there is an index.
type Packing = Arc<OnceCell<Option<(PackedIndex, Layer)>>>;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) tasks: Mutex<JoinSet<()>>,
    /// Whether a step was carried out.
    pub(super) executed: AtomicBool,
    begun: Mutex<BTreeSet<(StageIndex, usize)>>,
    packed: Mutex<HashMap<Digest, Packing>>,
    /// Caches that have failed, by their number.
    failed: Vec<AtomicBool>,
}

impl Keeping {
    /// Nothing yet, for so many caches.
    pub fn new(caches: usize) -> Self {
        Self { failed: (0..caches).map(|_| AtomicBool::new(false)).collect(), ..Self::default() }
    }
}

/// When a registry was last known to have an entry, seconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
struct Sent(i64);

/// What is put into a cache.
#[derive(Debug, Clone)]
struct Kept {
    /// The keys that it is found by.
    keys: Vec<Key>,
    /// All steps from the base on, and their layers.
    steps: Vec<(ChainStep, Layer)>,
    /// The layers of the base.
    base: Vec<Layer>,
    /// Whether its layers are the image's.
    of_image: bool,
    /// Whether the step was carried out just now, so that nobody has its result yet.
    executed: bool,
}

impl Executor {
    /// Begins to put the result of a step into the caches that are to be filled.
    pub(super) fn keep(self: &Arc<Self>, stage: &Stage, number: usize, made: &Made) {
        let sinks = &self.request.cache_to;
        let new = sinks.iter().any(|sink| sink.place != CachePlace::Inline)
            && lock(&self.keeping.begun).insert((stage.index, number));
        let Some(key) = self.keys.get(stage.index, number).filter(|_| new) else { return };
        let Some(steps) = self.chain(stage, number, made) else { return };
        let result = Kept {
            keys: std::iter::once(key.key).chain(made.content).collect(),
            steps,
            base: self.base_layers_of(stage.index),
            of_image: self.is_of_target(stage.index),
            executed: made.executed,
        };
        for (sink_number, sink) in sinks.iter().enumerate() {
            if sink.mode == CacheMode::Min && !result.of_image {
                continue;
            }
            let (executor, place, result) = (Arc::clone(self), sink.place.clone(), result.clone());
            lock(&self.keeping.tasks).spawn(async move {
                let kept = match &place {
                    CachePlace::Registry(repository) => executor.keep_on_registry(repository, result).await,
                    CachePlace::Directory(path) => executor.keep_in_directory(path.clone(), result).await,
                    CachePlace::Inline => Ok(()),
                };
                if let Err(error) = kept {
                    executor.not_kept(sink_number, &place, &error);
                }
            });
        }
    }

    /// Layers below a step that was carried out may have come for it from other caches. From now on they count as results that are
    /// here, and so does what was made above them.
    pub(super) fn keep_below(&self, stage: &Stage, number: usize, made: &Made) -> Result<(), BuildError> {
        let cache = self.caches.store();
        for (step, layer) in self.chain(stage, number, made).unwrap_or_default() {
            if layer.origin != Origin::Store
                && self.services.store.holds(&layer.digest, layer.size)?
                && cache.layer(&step.key)?.as_ref() != Some(&step.record)
            {
                cache.put(&step.key, &step.record)?;
            }
        }
        Ok(())
    }

    /// Waits until everything is kept that is to be.
    pub(super) async fn settle(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.keeping.tasks));
        // A build that is given up drops them.
        while tasks.join_next().await.is_some() {}
    }

    /// The steps of a stage and of those it is built upon, up to one that was just made.
    pub(super) fn chain(&self, stage: &Stage, number: usize, last: &Made) -> Option<Vec<(ChainStep, Layer)>> {
        let step = |index: StageIndex, number: usize, made: &Made| {
            let key = self.keys.get(index, number)?.key;
            Some((ChainStep { key, record: made.record.clone() }, made.layer.clone()))
        };
        let mut chain = match stage.base {
            Base::Stage(base) => self.chain_of(self.plan.stage(base)?)?,
            Base::Scratch | Base::Image(_) => Vec::new(),
        };
        for below in 0..number {
            chain.push(step(stage.index, below, self.made.get(&(stage.index, below))?.get()?)?);
        }
        chain.push(step(stage.index, number, last)?);
        Some(chain)
    }

    /// All steps of a stage and of those it is built upon, if all have been made.
    pub(super) fn chain_of(&self, stage: &Stage) -> Option<Vec<(ChainStep, Layer)>> {
        match (stage.steps.len().checked_sub(1), stage.base) {
            (Some(end), _) => self.chain(stage, end, self.made.get(&(stage.index, end))?.get()?),
            (None, Base::Stage(base)) => self.chain_of(self.plan.stage(base)?),
            (None, Base::Scratch | Base::Image(_)) => Some(Vec::new()),
        }
    }

    /// What the image says of its own steps, if it is to be a cache of them.
    pub(super) fn inline_cache(&self, stage: &Stage) -> Result<Option<(String, String)>, BuildError> {
        if !self.request.cache_to.iter().any(|sink| sink.place == CachePlace::Inline) {
            return Ok(None);
        }
        let Some(steps) = self.chain_of(stage) else { return Ok(None) };
        let chain = Chain::new(steps.into_iter().map(|(step, _)| step).collect(), Vec::new());
        let text = chain.annotation().map_err(|error| undescribed(&error))?;
        Ok(Some((ANNOTATION.to_owned(), text)))
    }

    async fn keep_on_registry(
        self: &Arc<Self>,
        repository: &Repository,
        result: Kept,
    ) -> Result<(), BuildError> {
        let cache = RegistryCache::new(&self.services.client, repository);
        let missing = self.missing_keys(&cache, &result).await?;
        if missing.is_empty() {
            return Ok(());
        }
        // An entry that came from there, under another key, has all that it takes.
        let is_there = |layer: &Layer| layer.repository() == Some(repository);
        let layers = result.steps.iter().map(|(_, layer)| layer).filter(|layer| !is_there(layer));
        let layers = layers.map(|layer| self.cache_pusher().cache_layer(repository, layer, result.of_image));
        let all = result.base.iter().chain(result.steps.iter().map(|(_, layer)| layer));
        let indexes = all.map(|layer| self.keep_index(repository, layer));
        let config = self.cache_pusher().cache_config(repository);
        let (_, _, indexes) = try_join3(config, try_join_all(layers), try_join_all(indexes)).await?;
        let chain = Chain::new(
            result.steps.into_iter().map(|(step, _)| step).collect(),
            indexes.into_iter().flatten().collect(),
        );
        let manifest = chain.manifest().map_err(|error| undescribed(&error))?;
        for key in &missing {
            cache.put(key, manifest.clone()).await?;
            self.services.store.put_record(SENT, &sent_key(repository, key), &Sent(unix_now()))?;
        }
        Ok(())
    }

    /// The keys of a result that a registry has no entry of.
    async fn missing_keys(&self, cache: &RegistryCache, result: &Kept) -> Result<Vec<Key>, BuildError> {
        if result.executed {
            return Ok(result.keys.clone());
        }
        let came_from_there =
            result.steps.last().is_some_and(|(_, layer)| layer.repository() == Some(cache.repository()));
        if came_from_there {
            // By the key that it was found by: the second, if there is one.
            return Ok(result.keys.split_last().map(|(_, others)| others.to_vec()).unwrap_or_default());
        }
        let mut missing = Vec::new();
        for key in &result.keys {
            if !self.is_on_registry(cache, key).await? {
                missing.push(*key);
            }
        }
        Ok(missing)
    }

    /// Whether a registry is known to have an entry, or says that it has.
    async fn is_on_registry(&self, cache: &RegistryCache, key: &Key) -> Result<bool, BuildError> {
        let note = sent_key(cache.repository(), key);
        let store = &self.services.store;
        if let Some(Sent(at)) = store.record(SENT, &note)?
            && unix_now().saturating_sub(at) < BELIEVED
        {
            return Ok(true);
        }
        let there = cache.has(key).await;
        if there {
            store.put_record(SENT, &note, &Sent(unix_now()))?;
        }
        Ok(there)
    }

    /// Sees to it that a repository has the index of a layer, if there is one here or there.
    async fn keep_index(
        self: &Arc<Self>,
        repository: &Repository,
        layer: &Layer,
    ) -> Result<Option<PackedIndex>, BuildError> {
        if let Some(known) = self.fetcher.known_index(&layer.diff_id)
            && (known.repository == *repository || known.packed.content().is_some())
        {
            return Ok(Some(known.packed));
        }
        let cell = Arc::clone(lock(&self.keeping.packed).entry(layer.diff_id).or_default());
        let Some((packed, blob)) = cell.get_or_try_init(|| self.pack_index(layer)).await? else {
            return Ok(None);
        };
        if packed.content().is_none() {
            self.cache_pusher().cache_layer(repository, blob, false).await?;
        }
        Ok(Some(packed.clone()))
    }

    async fn pack_index(self: &Arc<Self>, layer: &Layer) -> Result<Option<(PackedIndex, Layer)>, BuildError> {
        let (executor, diff_id) = (Arc::clone(self), layer.diff_id);
        blocking(move || {
            let store = &executor.services.store;
            let Some(blob) = pack_index(store, &diff_id, executor.layer_writer()?)? else { return Ok(None) };
            executor.cache_pusher().note_new(blob.digest);
            let packed = PackedIndex::new(diff_id, blob.digest, blob.size, blob.media_type);
            let packed = match packed.is_small() {
                true => packed.with_content(&store.read(&blob.digest, blob.size)?),
                false => packed,
            };
            Ok(Some((packed, Layer::of_blob(&blob))))
        })
        .await
    }

    async fn keep_in_directory(self: &Arc<Self>, path: PathBuf, result: Kept) -> Result<(), BuildError> {
        let Some((step, layer)) = result.steps.last().cloned() else { return Ok(()) };
        let (executor, store) = (Arc::clone(self), self.services.store.clone());
        // It may be in another cache alone.
        self.fetcher.fetch(&layer).await?;
        blocking(move || {
            let into = Store::open(&path)?;
            let cache = LocalCache::new(&into);
            if !into.holds(&layer.digest, layer.size)? {
                borrow(&store, &into, &layer)?;
            }
            for known in result.base.iter().chain([&layer]) {
                copy_index(&executor.services.store, &into, &known.diff_id)?;
            }
            for key in &result.keys {
                cache.put(key, &step.record)?;
            }
            Ok(())
        })
        .await
    }

    fn not_kept(&self, number: usize, place: &CachePlace, error: &BuildError) {
        let told = self.keeping.failed.get(number).is_none_or(|failed| failed.swap(true, Ordering::Relaxed));
        if told || matches!(error, BuildError::Cancelled) {
            return;
        }
        let shown = match place {
            CachePlace::Registry(repository) => repository.to_string(),
            CachePlace::Directory(path) => format!("in `{}`", path.display()),
            CachePlace::Inline => "in the image".to_owned(),
        };
        self.services.report.warn(format!("the cache {shown} cannot be written: {}", with_causes(error)));
    }
}

/// The error of an entry that cannot be written down.
pub(super) fn undescribed(error: &serde_json::Error) -> BuildError {
    BuildError::refused(format!("cannot describe the cache: {error}"))
}

fn sent_key(repository: &Repository, key: &Key) -> String {
    Digest::of(format!("{repository}\0{key}").as_bytes()).hex()
}

/// The present time, seconds since 1970.
pub(super) fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
