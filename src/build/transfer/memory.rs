//! Keeps the digests of a context's files in the store, for the next build.

use std::io::{BufWriter, Read, Write};

use super::error::TransferError;
use crate::context::{Digests, LocalContext};
use crate::store::{Store, StoreError};

/// The kind of side file.
const SIDE: &str = "context";

/// What is known of a context's files from builds before. `None` where the file system does not tell of every change, so that
/// nothing may be remembered.
///
/// # Errors
/// If the context cannot be looked at, or the store fails.
pub fn recall(store: &Store, context: &LocalContext) -> Result<Option<Digests>, TransferError> {
    let Some(identity) = context.identity()? else { return Ok(None) };
    let mut bytes = Vec::new();
    if let Some(mut file) = store.side(SIDE, &identity)? {
        // It is a cache: what cannot be read is not known.
        if let Err(error) = file.read_to_end(&mut bytes) {
            tracing::warn!(%error, "ignoring digests that cannot be read");
            bytes.clear();
        }
    }
    Ok(Some(Digests::read(bytes)))
}

/// Keeps what has been found out of a context's files. Of two builds at once the later one's stays.
///
/// # Errors
/// If the context cannot be looked at, or the store fails.
pub fn keep(store: &Store, context: &LocalContext, digests: &Digests) -> Result<(), TransferError> {
    let Some(identity) = context.identity()?.filter(|_| digests.learnt() > 0) else { return Ok(()) };
    let writer = store.side_writer()?;
    let mut buffered = BufWriter::with_capacity(256 << 10, writer);
    let written = digests.write(&mut buffered).and_then(|()| buffered.flush());
    let writer = written.and_then(|()| buffered.into_inner().map_err(std::io::IntoInnerError::into_error));
    let writer = writer.map_err(|error| match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(source) => StoreError::Io { operation: "write", path: store.directory().to_owned(), source },
    })?;
    Ok(writer.commit(SIDE, &identity)?)
}
