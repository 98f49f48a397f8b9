//! Where the bytes of an upload come from, and how they get onto the wire.
//!
//! A source can be opened again and anywhere, so every attempt can be replayed. Reading is done on a thread of
//! its own that stays a few buffers ahead of the network.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::client::lock;
use super::transport::Body;

/// Bytes that are read, and handed to the socket, at once. Larger ones fall out of the processor's cache
/// between the read and the write; smaller ones cost more hand-overs.
const PIECE: u64 = 256 * 1024;
/// Pieces that wait for the network.
const AHEAD: usize = 4;

/// The bytes of a blob, which can be read again.
pub trait BlobSource: Send + Sync {
    /// A new reader of the bytes from `offset` to the end.
    ///
    /// # Errors
    /// If the bytes cannot be read, or there are fewer than `offset`.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

impl BlobSource for Bytes {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut reader = Cursor::new(self.clone());
        reader.set_position(offset);
        Ok(Box::new(reader))
    }
}

/// A blob that is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource(pub PathBuf);

impl BlobSource for FileSource {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(&self.0).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open `{}`: {error}", self.0.display()))
        })?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

/// Is told how many bytes of a blob are on their way. It goes back where an attempt begins again.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What went wrong on this side while a body was made. The transport sees only that the body ended.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    pub(crate) fn take(&self) -> Option<io::Error> {
        lock(&self.0).take()
    }

    fn set(&self, error: io::Error) -> io::Error {
        let shown = io::Error::new(error.kind(), error.to_string());
        *lock(&self.0) = Some(error);
        shown
    }
}

/// The body that is `length` bytes of `source` from `offset` on.
///
/// # Errors
/// If the source cannot be opened.
pub(crate) fn body(
    source: &dyn BlobSource,
    offset: u64,
    length: u64,
    progress: Option<&Progress>,
) -> io::Result<(Body, Failure)> {
    let failure = Failure::default();
    if length == 0 {
        return Ok((Body::Empty, failure));
    }
    let reader = source.open(offset)?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = reader;
        let mut left = length;
        while left > 0 {
            let piece = read_piece(&mut reader, left);
            let read = piece.as_ref().map(Bytes::len).ok();
            // No receiver: the attempt is over.
            if sender.blocking_send(piece).is_err() {
                return;
            }
            match read {
                Some(read) => left -= read as u64,
                None => return,
            }
        }
    });
    let (progress, slot) = (progress.cloned(), failure.clone());
    let mut sent = offset;
    let pieces = stream::poll_fn(move |context| receiver.poll_recv(context)).map(move |piece| {
        let piece = piece.map_err(|error| slot.set(error))?;
        sent += piece.len() as u64;
        if let Some(progress) = &progress {
            progress(sent);
        }
        Ok(piece)
    });
    Ok((Body::Stream { length, stream: pieces.boxed() }, failure))
}

/// The next piece, full unless it is the last.
fn read_piece(reader: &mut dyn Read, left: u64) -> io::Result<Bytes> {
    let wanted = left.min(PIECE);
    let mut piece = Vec::with_capacity(wanted as usize);
    reader.take(wanted).read_to_end(&mut piece)?;
    if piece.len() as u64 == wanted {
        Ok(Bytes::from(piece))
    } else {
        let missing = left - piece.len() as u64;
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("it is {missing} bytes shorter than announced"),
        ))
    }
}
