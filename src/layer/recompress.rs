//! The same tar in another compression.

use std::io::{BufRead as _, Read};

use super::compression::Compression;
use super::decompress::Plain;
use super::error::LayerError;
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::write::LayerBlob;
use crate::store::Store;

/// Writes the layer in `source` into `store` once more, compressed as is wanted: not a byte of its tar is another, so its diff
/// ID stays, and so does the index of its files. The number of its changes is not counted.
///
/// # Errors
/// [`LayerError::Level`] if the compression has no such level; if the layer cannot be read or written.
pub fn recompress(
    store: &Store,
    pool: &Pool,
    compression: Compression,
    source: impl Read + Send + 'static,
) -> Result<LayerBlob, LayerError> {
    const WHAT: &str = "a layer";
    compression.check()?;
    let mut plain = Plain::start(Box::new(source), WHAT)?;
    let mut pipeline = Pipeline::new(store, pool, compression);
    loop {
        let piece = plain.fill_buf().map_err(|error| LayerError::Source(WHAT, error))?;
        let count = piece.len();
        if count == 0 {
            break;
        }
        pipeline.write(piece)?;
        plain.consume(count);
    }
    let written = pipeline.finish()?;
    Ok(LayerBlob {
        media_type: compression.media_type(),
        digest: written.blob.digest,
        size: written.blob.size,
        diff_id: written.diff_id,
        diff_size: written.diff_size,
        compression: compression.identity(),
        changes: 0,
    })
}
