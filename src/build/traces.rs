//! Why steps are not found, on a machine that has never built them: what the last build knew comes from the caches, and what
//! this one knows goes there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::BuildError;
use super::executor::Executor;
use super::fetch::{blocking, lock};
use super::keeping::undescribed;
use super::layers::{Layer, Origin};
use super::lies;
use super::request::CachePlace;
use super::transfer::Selection;
use crate::cache::{
    FileList, PackedTrace, Place, RegistryCache, Trace, selections, trace_manifest, trace_tag,
};
use crate::image::{Digest, Repository};
use crate::layer::{Entry, LayerReader, Metadata, Node, TreePath};
use crate::store::StoreError;

/// What the file of a trace is called.
const NAME: &str = "trace";
/// The largest trace that is in its manifest too, in bytes. Registries take manifests of 4 MB.
const LARGEST_WITHIN: u64 = 16 << 10;
/// What a trace is, for people.
const WHAT: &str = "what the last build knew";

impl Executor {
    /// Learns what other machines knew of steps that are missing here and that this one does not remember. Without it, a log says
    /// less.
    pub(super) async fn learn_traces(self: &Arc<Self>) -> Result<(), BuildError> {
        let mut forgotten = false;
        for stage in &self.plan.stages {
            for number in (0..stage.steps.len()).filter(|number| !self.is_known(stage.index, *number)) {
                forgotten |= !self.caches.store().remembers(&self.place(stage, number))?;
            }
        }
        if !forgotten || self.request.no_cache {
            return Ok(());
        }
        for cache in self.caches.registries() {
            match self.learn_trace(cache).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => tracing::info!(%error, "what the last build knew cannot be had"),
            }
        }
        Ok(())
    }

    async fn learn_trace(self: &Arc<Self>, cache: &RegistryCache) -> Result<bool, BuildError> {
        let Some(PackedTrace { descriptor, blob }) = cache.trace(&self.trace_tag()).await? else {
            return Ok(false);
        };
        if let Some(blob) = blob {
            return self.take_trace(io::Cursor::new(blob)).await;
        }
        let Ok(digest) = Digest::try_from(descriptor.digest()) else { return Ok(false) };
        let layer = Layer {
            digest,
            size: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
            diff_id: digest,
            origin: Origin::Registry { repository: cache.repository().clone(), what: WHAT.to_owned() },
        };
        let bytes = self.fetcher.open(&layer).await?;
        self.take_trace(bytes).await
    }

    /// Learns from the layer of a trace.
    async fn take_trace(self: &Arc<Self>, bytes: impl io::Read + Send + 'static) -> Result<bool, BuildError> {
        let executor = Arc::clone(self);
        blocking(move || {
            let mut reader = LayerReader::new(bytes)?;
            let Some((_, mut content)) = reader.next()? else { return Ok(false) };
            let Some(trace) = Trace::read(io::Read::by_ref(&mut content)) else { return Ok(false) };
            trace.teach(executor.caches.store(), &executor.dockerfile())?;
            Ok(true)
        })
        .await
    }

    /// Begins to put what this build knows into the caches that are to be filled, if it has carried anything out.
    pub(super) fn keep_trace(self: &Arc<Self>) {
        if !self.keeping.executed.load(Ordering::Relaxed) {
            return;
        }
        for sink in &self.request.cache_to {
            let CachePlace::Registry(repository) = &sink.place else { continue };
            let (executor, repository) = (Arc::clone(self), repository.clone());
            lock(&self.keeping.tasks).spawn(async move {
                if let Err(error) = executor.keep_trace_in(&repository).await {
                    // If the whole cache cannot be written that was told already.
                    tracing::info!(%error, "what this build knew cannot be kept");
                }
            });
        }
    }

    async fn keep_trace_in(self: &Arc<Self>, repository: &Repository) -> Result<(), BuildError> {
        let executor = Arc::clone(self);
        let layer = blocking(move || executor.write_trace()).await?;
        let pusher = self.cache_pusher();
        pusher.note_new(layer.digest);
        let layer_there = pusher.cache_layer(repository, &layer, false);
        futures_util::future::try_join(pusher.cache_config(repository), layer_there).await?;
        let cache = RegistryCache::new(&self.services.client, repository);
        let blob = match layer.size <= LARGEST_WITHIN {
            true => Some(self.services.store.read(&layer.digest, layer.size)?),
            false => None,
        };
        let manifest =
            trace_manifest(layer.descriptor(), blob.as_deref()).map_err(|error| undescribed(&error))?;
        Ok(cache.put_trace(&self.trace_tag(), manifest).await?)
    }

    /// Of each step what it was when it was last a success, here or where a trace came from.
    fn write_trace(&self) -> Result<Layer, BuildError> {
        let mut trace = Trace::new();
        let store = self.caches.store();
        let made_now = self.keys.iter().flat_map(|(_, key)| key.selection.iter().chain(key.mounts.values()));
        let made_now: BTreeMap<Digest, &Selection> =
            made_now.map(|selection| (selection.digest(), &**selection)).collect();
        for stage in &self.plan.stages {
            let first = self.place(stage, 0);
            let steps = store.remembered(&first.dockerfile, &first.stage, stage.steps.len())?;
            for (step, parts) in steps.into_iter().enumerate() {
                trace.add(&Place { step, ..first.clone() }, &parts);
                for digest in selections(&parts) {
                    let list = match made_now.get(&digest) {
                        Some(selection) => Some(FileList(selection.list())),
                        None => store.files(&digest)?,
                    };
                    if let Some(list) = list {
                        trace.add_files(&digest, list);
                    }
                }
            }
        }
        let path = self.services.store.directory().to_owned();
        let bytes = trace.write().map_err(|source| StoreError::Json { path, source })?;
        let entry = Entry {
            path: TreePath::new(NAME.as_bytes()).map_err(crate::layer::LayerError::from)?,
            node: Node::File { size: bytes.len() as u64 },
            metadata: Metadata { mode: 0o644, ..Metadata::default() },
        };
        let mut writer = self.layer_writer()?;
        writer.file(&entry, &mut bytes.as_slice())?;
        let blob = writer.finish()?;
        Ok(Layer::of_blob(&blob))
    }

    /// What this Dockerfile's trace is called: the same on every machine.
    fn trace_tag(&self) -> String {
        let target = self.plan.stage(self.plan.target);
        let name = target.map(|stage| stage.name.clone().unwrap_or_else(|| stage.index.to_string()));
        let file = lies::everywhere(self.contexts.directory(), &self.text);
        trace_tag(&file, &name.unwrap_or_default(), &self.platform().to_string())
    }
}
