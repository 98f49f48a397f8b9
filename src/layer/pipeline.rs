//! Tar bytes to a blob: blocks → diff ID; blocks → compressor → digest → store.
//!
//! The caller's thread only fills blocks. One thread hashes them, the pool compresses them, one thread
//! collects the results in order, hashes and writes them. A layer of a single block, which most `COPY` steps
//! make, starts no thread at all. Between the threads are queues of fixed length: memory is bounded, by the
//! number of threads and not by the layer.

use std::io::{self, ErrorKind, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::compression::{Compression, Encoder};
use super::error::LayerError;
use super::pool::Pool;
use crate::image::{Digest, Sha256};
use crate::store::{Blob, BlobWriter, Store};

/// How many blocks wait besides one for each thread of the pool.
const WAITING: usize = 2;

/// What came out.
#[derive(Debug)]
pub(super) struct Written {
    pub blob: Blob,
    pub diff_id: Digest,
    pub diff_size: u64,
}

/// A block of plain bytes that several threads read. Its buffer goes back to the filler when the last is
/// done.
struct Block {
    bytes: Vec<u8>,
    used: SyncSender<Vec<u8>>,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let _ = self.used.try_send(std::mem::take(&mut self.bytes));
    }
}

/// A compressed block in its place in the order.
enum Part {
    /// Not compressed.
    Plain(Arc<Block>),
    /// To come from the pool. A sender that is gone without a word had a panic.
    Encoded(Receiver<io::Result<Vec<u8>>>),
    /// The blob is complete. A queue that ends without this belongs to a layer that was given up.
    End,
}

/// Takes the bytes of a tar and makes a blob of them.
pub(super) struct Pipeline {
    store: Store,
    pool: Pool,
    compression: Compression,
    /// The block that is being filled; all of its length can be written.
    block: Vec<u8>,
    filled: usize,
    total: u64,
    threads: Option<Threads>,
}

/// What runs once there is a second block.
struct Threads {
    hash: Option<(SyncSender<Arc<Block>>, JoinHandle<Digest>)>,
    parts: SyncSender<Part>,
    collector: JoinHandle<Result<Blob, LayerError>>,
    used: SyncSender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("compression", &self.compression)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    pub(super) fn new(store: &Store, pool: &Pool, compression: Compression) -> Self {
        Self {
            store: store.clone(),
            pool: pool.clone(),
            compression,
            block: Vec::new(),
            filled: 0,
            total: 0,
            threads: None,
        }
    }

    /// Appends `bytes`.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let count = bytes.len().min(space.len());
            let (now, later) = bytes.split_at(count);
            if let Some(space) = space.get_mut(..count) {
                space.copy_from_slice(now);
            }
            bytes = later;
            self.advance(count);
        }
        Ok(())
    }

    /// Appends NUL.
    pub(super) fn write_zeros(&mut self, mut count: u64) -> Result<(), LayerError> {
        while count > 0 {
            let space = self.space()?;
            let now = space.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            space.get_mut(..now).unwrap_or_default().fill(0);
            count -= now as u64;
            self.advance(now);
        }
        Ok(())
    }

    /// Appends up to `limit` bytes of `source`, and says how many there were: fewer only at its end. The
    /// outer error is the layer's, the inner one the source's.
    pub(super) fn copy(&mut self, source: &mut dyn Read, limit: u64) -> Result<io::Result<u64>, LayerError> {
        let mut copied = 0;
        while copied < limit {
            let space = self.space()?;
            let wanted = space.len().min(usize::try_from(limit - copied).unwrap_or(usize::MAX));
            match source.read(space.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => break,
                Ok(count) => {
                    self.advance(count.min(wanted));
                    copied += count.min(wanted) as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(copied))
    }

    /// Ends the layer and names its blob.
    pub(super) fn finish(mut self) -> Result<Written, LayerError> {
        let diff_size = self.total;
        if self.threads.is_some() {
            self.send_block()?;
            let (blob, diff_id) = self.join()?;
            return Ok(Written { blob, diff_id, diff_size });
        }
        let plain = self.block.get(..self.filled).unwrap_or_default();
        let encoded = Encoder::default().encode(self.compression, plain).map_err(LayerError::Compress)?;
        let mut writer = self.store.writer()?;
        writer.append(&encoded)?;
        Ok(Written { blob: writer.commit()?, diff_id: Digest::of(plain), diff_size })
    }

    /// Where the next bytes go; never empty.
    fn space(&mut self) -> Result<&mut [u8], LayerError> {
        if self.filled == self.compression.block_size() {
            self.send_block()?;
        }
        if self.block.len() <= self.filled {
            // A small layer should not pay for a whole block.
            let least = if self.threads.is_some() { usize::MAX } else { 64 * 1024 };
            let size = (self.block.len() * 4).max(least).min(self.compression.block_size());
            self.block.resize(size, 0);
        }
        Ok(self.block.get_mut(self.filled..).unwrap_or_default())
    }

    fn advance(&mut self, count: usize) {
        self.filled += count;
        self.total += count as u64;
    }

    /// Hands the filled part of the block to the threads.
    fn send_block(&mut self) -> Result<(), LayerError> {
        if self.filled == 0 {
            return Ok(());
        }
        let threads = match self.threads.take() {
            Some(threads) => threads,
            None => Threads::start(&self.store, &self.pool, self.compression)?,
        };
        let mut bytes = std::mem::replace(&mut self.block, threads.free.try_recv().unwrap_or_default());
        bytes.truncate(self.filled);
        self.filled = 0;
        let sent = threads.send(bytes, &self.pool, self.compression);
        self.threads = Some(threads);
        if sent.is_none() {
            // The collector has ended, and knows why.
            self.join()?;
            return Err(LayerError::Broken);
        }
        Ok(())
    }

    fn join(&mut self) -> Result<(Blob, Digest), LayerError> {
        let panicked = || LayerError::Compress(io::Error::other("a thread has panicked"));
        let threads = self.threads.take().ok_or(LayerError::Broken)?;
        // If the collector is gone, joining it says why.
        let _ = threads.parts.send(Part::End);
        let blob = threads.collector.join().map_err(|_| panicked())??;
        let diff_id = match threads.hash {
            Some((blocks, hasher)) => {
                drop(blocks);
                hasher.join().map_err(|_| panicked())?
            }
            None => blob.digest,
        };
        Ok((blob, diff_id))
    }
}

impl Threads {
    fn start(store: &Store, pool: &Pool, compression: Compression) -> Result<Self, LayerError> {
        let depth = pool.threads().get() + WAITING;
        let spawn_error = LayerError::Compress;
        // What is not compressed has one digest.
        let hash = match compression {
            Compression::None => None,
            _ => {
                let (sender, blocks) = sync_channel::<Arc<Block>>(depth);
                let work = move || {
                    let mut hasher = Sha256::new();
                    blocks.iter().for_each(|block| hasher.update(&block));
                    hasher.finish()
                };
                let thread =
                    std::thread::Builder::new().name("hash".into()).spawn(work).map_err(spawn_error)?;
                Some((sender, thread))
            }
        };
        let writer = store.writer()?;
        let (parts, queue) = sync_channel(depth);
        let collector = std::thread::Builder::new()
            .name("collect".into())
            .spawn(move || collect(writer, &queue))
            .map_err(spawn_error)?;
        let (used, free) = sync_channel(depth);
        Ok(Self { hash, parts, collector, used, free })
    }

    /// `None` if a thread has gone away.
    fn send(&self, bytes: Vec<u8>, pool: &Pool, compression: Compression) -> Option<()> {
        let block = Arc::new(Block { bytes, used: self.used.clone() });
        if let Some((blocks, _)) = &self.hash {
            blocks.send(Arc::clone(&block)).ok()?;
        }
        if compression == Compression::None {
            return self.parts.send(Part::Plain(block)).ok();
        }
        let (sender, encoded) = sync_channel(1);
        // In the queue first: that is what bounds how many blocks the pool is given.
        self.parts.send(Part::Encoded(encoded)).ok()?;
        pool.submit(Box::new(move |encoder| {
            let result = encoder.encode(compression, &block);
            drop(block);
            let _ = sender.send(result);
        }));
        Some(())
    }
}

/// Writes the parts of a blob in their order.
fn collect(mut writer: BlobWriter, parts: &Receiver<Part>) -> Result<Blob, LayerError> {
    for part in parts {
        match part {
            Part::End => return Ok(writer.commit()?),
            Part::Plain(block) => writer.append(&block)?,
            Part::Encoded(encoded) => {
                let lost = |_| LayerError::Compress(io::Error::other("a compressor has panicked"));
                writer.append(&encoded.recv().map_err(lost)?.map_err(LayerError::Compress)?)?;
            }
        }
    }
    Err(LayerError::Broken)
}
