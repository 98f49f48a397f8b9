//! A blob of one registry on its way to another: the bytes go through memory, a few pieces at a time.
//!
//! What an upload has to send again comes again from the registry that has it, from the byte on that is needed. The last
//! piece is handed on only when the hash of everything was found to be the blob's digest, so that no whole upload of
//! wrong bytes ever goes out.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::super::fetch::lock;
use crate::image::{Digest, Repository, Sha256};
use crate::registry::{BlobSink, BlobSource, Client, ErrorKind, RegistryError, Resume};

/// Pieces between the two lines; a piece is what the socket gave at once, some hundred kilobytes.
const AHEAD: usize = 4;
/// Bytes between two states of the hash that are kept. A download that begins anew goes on from one of them.
const MARK: u64 = 4 << 20;

/// A blob that is read from a registry whenever it is opened.
pub(super) struct Stream {
    client: Client,
    repository: Repository,
    digest: Digest,
    size: u64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The hash of the first bytes, by their number, which grows.
    marks: Mutex<Vec<(u64, Sha256)>>,
    /// Why the blob could not be read.
    failure: Mutex<Option<RegistryError>>,
}

impl Stream {
    pub(super) fn new(client: &Client, repository: &Repository, digest: Digest, size: u64) -> Self {
        let (client, repository) = (client.clone(), repository.clone());
        Self { client, repository, digest, size, shared: Arc::default() }
    }

    /// Why the blob could not be read, if it could not.
    pub(super) fn take_failure(&self) -> Option<RegistryError> {
        lock(&self.shared.failure).take()
    }
}

impl BlobSource for Stream {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let (begin, hash) = {
            let marks = lock(&self.shared.marks);
            let mark = marks.iter().rev().find(|(position, _)| *position <= offset);
            mark.cloned().unwrap_or_default()
        };
        let (sender, receiver) = sync_channel(AHEAD);
        let end = Arc::new(Mutex::new(None));
        let sink = Sink {
            sender: sender.clone(),
            position: begin,
            skip: offset - begin,
            hash: hash.clone(),
            shared: Arc::clone(&self.shared),
        };
        let (client, repository, digest, size) =
            (self.client.clone(), self.repository.clone(), self.digest, self.size);
        let (shared, ended) = (Arc::clone(&self.shared), Arc::clone(&end));
        runtime.spawn(async move {
            let resume = Resume { offset: begin, hash };
            let outcome = match client.fetch_blob(&repository, digest, size, resume, sink).await {
                Ok(_) => Ok(()),
                // Nobody wants the bytes any more: the upload is over or begins anew.
                Err(error) if error.kind() == ErrorKind::Local => Err(error.to_string()),
                Err(error) => {
                    let words = error.to_string();
                    *lock(&shared.failure) = Some(error);
                    Err(words)
                }
            };
            *lock(&ended) = Some(outcome);
            // The reader is told last, so that it finds the outcome.
            drop(sender);
        });
        Ok(Box::new(Reader {
            receiver,
            end,
            left: self.size - offset.min(self.size),
            piece: Vec::new(),
            at: 0,
        }))
    }
}

/// Takes what comes in, and remembers the hash here and there.
struct Sink {
    sender: SyncSender<Vec<u8>>,
    /// Bytes of the blob that have come in.
    position: u64,
    /// Bytes still to be passed over: they lie between the mark and the byte that is wanted.
    skip: u64,
    hash: Sha256,
    shared: Arc<Shared>,
}

impl BlobSink for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hash.update(piece);
        self.position += piece.len() as u64;
        {
            let mut marks = lock(&self.shared.marks);
            let last = marks.last().map_or(0, |(position, _)| *position);
            if self.position >= last + MARK {
                marks.push((self.position, self.hash.clone()));
            }
        }
        let passed = self.skip.min(piece.len() as u64);
        self.skip -= passed;
        let rest = piece.get(passed as usize..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        self.sender.send(rest.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The bytes from one offset on.
struct Reader {
    receiver: Receiver<Vec<u8>>,
    /// How the download ended; there when the channel is closed.
    end: Arc<Mutex<Option<Result<(), String>>>>,
    /// Bytes that have not come in yet.
    left: u64,
    piece: Vec<u8>,
    /// Bytes of the piece that have been read.
    at: usize,
}

impl Reader {
    /// Waits for the verdict.
    fn verdict(&self) -> io::Result<()> {
        if self.receiver.recv().is_ok() {
            return Err(io::Error::other("more came than the blob has"));
        }
        match lock(&self.end).clone() {
            Some(Ok(())) => Ok(()),
            Some(Err(words)) => Err(io::Error::other(words)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            if self.left == 0 {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(piece) => {
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    if self.left == 0 {
                        self.verdict()?;
                    }
                    (self.piece, self.at) = (piece, 0);
                }
                // It ended early: there is an error then.
                Err(_) => {
                    self.verdict()?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}
