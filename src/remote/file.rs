//! A file on the web becomes a blob.
//!
//! What is known of an address is a record: whoever gives the digest of a file that is here, or meets a server that says
//! it has not changed, downloads nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;

use super::error::RemoteError;
use crate::context::address::{Address, file_name};
use crate::image::Digest;
use crate::registry::{Client, WebError, WebHead, WebRequest, WebSink};
use crate::store::{BlobWriter, Store};

/// The namespace of the records.
const RECORDS: &str = "web";

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// When the server says it last changed, seconds since 1970; 0 if it does not say.
    pub mtime: i64,
    /// What its address calls it.
    pub name: String,
    /// Where its content is: a blob, not to be changed.
    pub path: PathBuf,
    /// Whether it was downloaded just now.
    pub is_new: bool,
}

/// What is known of an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    digest: Digest,
    size: u64,
    etag: Option<String>,
    last_modified: Option<i64>,
}

/// Brings a file here. `progress` hears how many bytes there are.
///
/// # Errors
/// If the server does not give it, or it is not what `expected` says.
pub async fn fetch(
    store: &Store,
    client: &Client,
    url: &str,
    expected: Option<&Digest>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<RemoteFile, RemoteError> {
    let shown = Address::File(url.to_owned()).shown();
    let key = Digest::of(url.as_bytes()).hex();
    let known: Option<Known> = store.record(RECORDS, &key)?;
    let known = match known {
        Some(known) if store.holds(&known.digest, known.size)? => Some(known),
        _ => None,
    };
    if let Some(known) = known.as_ref().filter(|known| expected == Some(&known.digest)) {
        return file(store, url, known, false);
    }
    let Ok(address) = Url::parse(url) else {
        let source = WebError::Redirect(shown.clone());
        return Err(RemoteError::Web { url: shown, source });
    };
    let request = WebRequest { url: address, etag: known.as_ref().and_then(|known| known.etag.clone()) };
    let mut sink = Sink { store: store.clone(), writer: None, progress };
    let head = client
        .get_file(&request, &mut sink)
        .await
        .map_err(|source| RemoteError::Web { url: shown.clone(), source })?;
    let (now, is_new) = match (head, known) {
        (None, Some(known)) => (known, false),
        (head, _) => {
            let WebHead { etag, last_modified } = head.unwrap_or_default();
            let blob = match sink.writer {
                Some(writer) => writer.commit()?,
                None => store.put(b"")?,
            };
            (Known { digest: blob.digest, size: blob.size, etag, last_modified }, true)
        }
    };
    if let Some(expected) = expected.filter(|expected| **expected != now.digest) {
        return Err(RemoteError::Digest { url: shown, expected: *expected, found: now.digest });
    }
    store.put_record(RECORDS, &key, &now)?;
    file(store, url, &now, is_new)
}

fn file(store: &Store, url: &str, known: &Known, is_new: bool) -> Result<RemoteFile, RemoteError> {
    // It counts as used, so that nobody touches it for a while: a change of its stamp would be one of its content.
    store.open_blob(&known.digest)?;
    Ok(RemoteFile {
        mtime: known.last_modified.unwrap_or(0),
        name: file_name(url),
        path: store.path(&known.digest),
        is_new,
    })
}

/// Writes what comes into a blob.
struct Sink {
    store: Store,
    writer: Option<BlobWriter>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl WebSink for Sink {
    fn begin(&mut self) -> io::Result<()> {
        self.writer = Some(self.store.writer().map_err(|error| error.into_io())?);
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.append(piece).map_err(|error| error.into_io())?;
        (self.progress)(writer.size());
        Ok(())
    }
}
