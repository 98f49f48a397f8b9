//! `force-compression=true`: layers of base images that are compressed otherwise than this build's own are compressed once more.
//!
//! As BuildKit has it, the kind counts and not the level: a layer that is gzip stays as it is where gzip is wanted. What was
//! compressed is remembered, so that it is done once.

use std::sync::Arc;

use super::error::BuildError;
use super::executor::Executor;
use super::fetch::blocking;
use super::keeping::unix_now;
use super::layers::Layer;
use crate::cache::LayerRecord;
use crate::image::Digest;
use crate::layer::{LayerError, recompress};

/// Where it is remembered what a layer has become.
const RECOMPRESSED: &str = "recompressed";

impl Executor {
    /// Whether a layer goes into the image in another form than it has.
    pub(super) fn is_recompressed(&self, layer: &Layer) -> bool {
        self.request.force_compression && layer.media_type != self.request.compression.media_type()
    }

    /// The layers of the image, all compressed in one way if that is wanted.
    pub(super) async fn compressed_alike(
        self: &Arc<Self>,
        layers: Vec<Layer>,
    ) -> Result<Vec<Layer>, BuildError> {
        let mut alike = Vec::with_capacity(layers.len());
        for layer in layers {
            alike.push(match self.is_recompressed(&layer) {
                true => self.recompressed(&layer).await?,
                false => layer,
            });
        }
        Ok(alike)
    }

    async fn recompressed(self: &Arc<Self>, layer: &Layer) -> Result<Layer, BuildError> {
        let (store, compression) = (&self.services.store, self.request.compression);
        let name = format!("{}\0{}", layer.diff_id, compression.identity());
        let key = Digest::of(name.as_bytes()).hex();
        if let Some(known) = store.record::<LayerRecord>(RECOMPRESSED, &key)?
            && store.holds(&known.digest, known.size)?
        {
            return Ok(Layer::of_record(&known));
        }
        self.fetcher.fetch(layer).await?;
        let (executor, layer) = (Arc::clone(self), layer.clone());
        blocking(move || {
            let store = &executor.services.store;
            let blob = recompress(store, &executor.pool, compression, store.open_blob(&layer.digest)?)?;
            if blob.diff_id != layer.diff_id {
                let (expected, actual) = (layer.diff_id, blob.diff_id);
                return Err(LayerError::DiffId { expected, actual }.into());
            }
            let now = unix_now();
            store.put_record(RECOMPRESSED, &key, &LayerRecord::of(&blob, "", now, &layer.what()))?;
            Ok(Layer::of_blob(&blob))
        })
        .await
    }
}
