//! Fetching blobs: streamed, resumed where the connection broke, verified at the end.
//!
//! The network is read here; hashing and writing happen on a thread of their own, a few pieces behind, so that
//! neither waits for the other and a slow disk does not stall other transfers. The bytes of a blob are the same
//! at every mirror, so what one began another can finish.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::client::{Client, Trail};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::exchange::{Call, Target, corrupt};
use super::retry::Reason;
use super::scope::Scopes;
use crate::image::{Digest, Repository, Sha256};

/// Pieces that wait to be hashed and written; a piece is what the socket gave at once, some hundred kilobytes.
const BEHIND: usize = 4;
/// Bytes of a blob that is held in memory: configurations are small.
const LARGEST_IN_MEMORY: u64 = 32 * 1024 * 1024;

/// Takes the bytes of a blob in their order.
pub trait BlobSink: Send + 'static {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// What keeps them from being taken; the transfer ends with it.
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;

    /// Forgets everything, also what was there before the transfer: the blob comes again from its first byte,
    /// because what came was not it.
    ///
    /// # Errors
    /// If that cannot be done; the transfer then fails with the wrong digest.
    fn restart(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()> + Send + 'static> BlobSink for F {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self(piece)
    }
}

impl BlobSink for Vec<u8> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.extend_from_slice(piece);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

/// Where a transfer begins: behind bytes that are there from an earlier one.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// How many bytes are there.
    pub offset: u64,
    /// The hash of them.
    pub hash: Sha256,
}

impl Client {
    /// Fetches a blob of `size` bytes into `sink`, from `resume` on, and gives the sink back when the whole blob
    /// has been verified.
    ///
    /// # Errors
    /// [`ErrorKind::Integrity`] if the bytes are not those of `digest`; [`ErrorKind::Local`] if the sink fails;
    /// whatever kept the blob from being read. The sink is dropped then.
    pub async fn fetch_blob<S: BlobSink>(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
        resume: Resume,
        sink: S,
    ) -> Result<S, RegistryError> {
        let operation = format!("pull blob `{digest}` of `{repository}`");
        let pipe = Pipe::new(sink, resume.hash);
        let mut transfer = Transfer { digest, size, position: resume.offset, spoilt: false, pipe };
        if transfer.position > size {
            return Err(RegistryError::new(ErrorKind::Integrity, operation)
                .saying(format!("{} bytes are there of a blob of {size}", transfer.position)));
        }
        let mut trail = Trail::default();
        for endpoint in self.pull_endpoints(repository) {
            match self.fetch_from(&operation, &endpoint, &mut transfer).await {
                Ok(()) => return transfer.pipe.finish(&operation).await,
                Err(error) => trail.failed(self, &endpoint, error)?,
            }
            if transfer.spoilt {
                break;
            }
        }
        Err(trail.error(&operation))
    }

    /// A small blob, a configuration, in memory.
    ///
    /// # Errors
    /// As [`Client::fetch_blob`]; [`ErrorKind::Registry`] if it is too large to be one.
    pub async fn blob_bytes(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if size > LARGEST_IN_MEMORY {
            return Err(RegistryError::new(
                ErrorKind::Registry,
                format!("pull blob `{digest}` of `{repository}`"),
            )
            .saying(format!("it has {size} bytes, too many to be a configuration")));
        }
        self.fetch_blob(repository, digest, size, Resume::default(), Vec::new()).await
    }

    async fn fetch_from<S: BlobSink>(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        transfer: &mut Transfer<S>,
    ) -> Result<(), RegistryError> {
        let mut retries = self.retries(endpoint);
        loop {
            match self.fetch_once(operation, endpoint, transfer).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    retries.reached(transfer.position);
                    retries.after(error).await?;
                }
            }
        }
    }

    async fn fetch_once<S: BlobSink>(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        transfer: &mut Transfer<S>,
    ) -> Result<(), RegistryError> {
        let path = format!("blobs/{}", transfer.digest);
        let scopes = Scopes::pull(&endpoint.path);
        // Bytes that something on the way compresses are not those of the digest, and have no ranges.
        let mut call = Call::new(self, operation, endpoint, Method::GET, Target::Path(&path), scopes)
            .header(ACCEPT_ENCODING, "identity");
        if transfer.position > 0 {
            call = call.header(RANGE, &format!("bytes={}-", transfer.position));
        }
        if transfer.position < transfer.size {
            self.read_body(&call, transfer).await?;
        }
        let arrived = transfer.pipe.digest(operation).await?;
        if arrived == transfer.digest {
            return Ok(());
        }
        let home = endpoint.url(self.scheme(endpoint), &path)?;
        let error = corrupt(&call, &home, format!("what arrived is {arrived}, not {}", transfer.digest));
        if transfer.pipe.restart(operation).await? {
            transfer.position = 0;
            Err(error)
        } else {
            transfer.spoilt = true;
            Err(error.exhausted())
        }
    }

    /// Reads the rest of the blob, or as much of it as comes.
    async fn read_body<S: BlobSink>(
        &self,
        call: &Call<'_>,
        transfer: &mut Transfer<S>,
    ) -> Result<(), RegistryError> {
        let wanted = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        let answer = self.once(call, &wanted).await?;
        let url = answer.url.clone();
        let begins = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.response.header(CONTENT_RANGE).and_then(content_range);
                match range {
                    Some((begins, total))
                        if begins <= transfer.position
                            && total.is_none_or(|total| total == transfer.size) =>
                    {
                        begins
                    }
                    _ => {
                        return Err(corrupt(
                            call,
                            &url,
                            "the part that was sent is not the one that was asked for".into(),
                        ));
                    }
                }
            }
            // The server knows no ranges and sends everything.
            _ => 0,
        };
        if let Some(length) = answer.response.number(CONTENT_LENGTH)
            && length != transfer.size - begins
        {
            let what = format!("it has {} bytes, not {}", begins.saturating_add(length), transfer.size);
            return Err(corrupt(call, &url, what));
        }
        let mut known = transfer.position - begins;
        let mut body = answer.response.body;
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|error| self.broken_body(call, &url, error))?;
            let passed = known.min(piece.len() as u64);
            known -= passed;
            // No more than the piece has.
            let piece = piece.split_off(passed as usize);
            let length = piece.len() as u64;
            if length > transfer.size - transfer.position {
                return Err(corrupt(call, &url, format!("it has more than {} bytes", transfer.size)));
            }
            if length > 0 {
                transfer.pipe.write(call.operation, piece).await?;
                transfer.position += length;
            }
        }
        if transfer.position < transfer.size {
            let missing = transfer.size - transfer.position;
            return Err(RegistryError::new(ErrorKind::Network, call.operation)
                .asked(&call.method, &url)
                .saying(format!("the answer ended {missing} bytes early"))
                .again(Reason::Broken));
        }
        Ok(())
    }
}

/// `bytes 100-199/200` or `bytes 100-199/*`: the first byte and the total.
fn content_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// A blob on its way.
struct Transfer<S> {
    digest: Digest,
    size: u64,
    /// Bytes that have been handed on.
    position: u64,
    /// The sink holds wrong bytes and cannot forget them.
    spoilt: bool,
    pipe: Pipe<S>,
}

/// What the thread behind the network is told.
enum Message {
    Bytes(Bytes),
    /// Tell the hash of all bytes so far.
    Digest(oneshot::Sender<Digest>),
    /// Forget all bytes; tell whether that worked.
    Restart(oneshot::Sender<bool>),
}

/// The way from the network to the sink.
struct Pipe<S> {
    messages: Option<mpsc::Sender<Message>>,
    worker: Option<JoinHandle<io::Result<S>>>,
}

impl<S: BlobSink> Pipe<S> {
    fn new(sink: S, hash: Sha256) -> Self {
        let (sender, receiver) = mpsc::channel(BEHIND);
        let worker = tokio::task::spawn_blocking(move || drain(receiver, sink, hash));
        Self { messages: Some(sender), worker: Some(worker) }
    }

    async fn send(&mut self, operation: &str, message: Message) -> Result<(), RegistryError> {
        let sent = match &self.messages {
            Some(messages) => messages.send(message).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.worker_error(operation).await) }
    }

    async fn write(&mut self, operation: &str, bytes: Bytes) -> Result<(), RegistryError> {
        self.send(operation, Message::Bytes(bytes)).await
    }

    async fn digest(&mut self, operation: &str) -> Result<Digest, RegistryError> {
        let (sender, receiver) = oneshot::channel();
        self.send(operation, Message::Digest(sender)).await?;
        match receiver.await {
            Ok(digest) => Ok(digest),
            Err(_) => Err(self.worker_error(operation).await),
        }
    }

    async fn restart(&mut self, operation: &str) -> Result<bool, RegistryError> {
        let (sender, receiver) = oneshot::channel();
        self.send(operation, Message::Restart(sender)).await?;
        match receiver.await {
            Ok(done) => Ok(done),
            Err(_) => Err(self.worker_error(operation).await),
        }
    }

    async fn finish(mut self, operation: &str) -> Result<S, RegistryError> {
        self.messages = None;
        match self.join().await {
            Ok(sink) => Ok(sink),
            Err(error) => Err(local(operation, error)),
        }
    }

    /// Why the thread is gone.
    async fn worker_error(&mut self, operation: &str) -> RegistryError {
        self.messages = None;
        match self.join().await {
            Ok(_) => local(operation, io::Error::other("the writer ended early")),
            Err(error) => local(operation, error),
        }
    }

    async fn join(&mut self) -> io::Result<S> {
        match self.worker.take() {
            Some(worker) => worker.await.map_err(io::Error::other)?,
            None => Err(io::Error::other("the writer has ended")),
        }
    }
}

fn drain<S: BlobSink>(mut messages: mpsc::Receiver<Message>, mut sink: S, mut hash: Sha256) -> io::Result<S> {
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Bytes(bytes) => {
                hash.update(&bytes);
                sink.write(&bytes)?;
            }
            // Who asked may have been cancelled.
            Message::Digest(reply) => {
                let _cancelled = reply.send(hash.clone().finish());
            }
            Message::Restart(reply) => {
                hash = Sha256::new();
                let _cancelled = reply.send(sink.restart().is_ok());
            }
        }
    }
    Ok(sink)
}

fn local(operation: &str, error: io::Error) -> RegistryError {
    RegistryError::new(ErrorKind::Local, operation).saying("what arrived could not be written").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("bytes 100-199/200", Some((100, Some(200))))]
    #[case("bytes 0-0/1", Some((0, Some(1))))]
    #[case("bytes 5-9/*", Some((5, None)))]
    #[case("bytes */200", None)]
    #[case("100-199", None)]
    fn ranges(#[case] header: &str, #[case] read: Option<(u64, Option<u64>)>) {
        assert_eq!(content_range(header), read);
    }
}
