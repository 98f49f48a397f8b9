//! Compressed bytes to plain ones, on a thread that runs ahead of the reader by a bounded number of chunks.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::error::LayerError;
use crate::image::{Digest, Sha256};

/// Size of a chunk of plain bytes. Large enough that handing it over costs nothing, small enough for a cache.
const CHUNK: usize = 256 * 1024;
/// How many chunks the thread may be ahead.
const AHEAD: usize = 4;
/// Size of the pieces in which the source is read.
const SOURCE_BUFFER: usize = 128 * 1024;
/// What an xz decoder may allocate, in KiB: `xz -9` needs 65 MiB, a hostile header asks for 4 GiB.
const XZ_MEMORY: u32 = 128 * 1024 + 1024;
/// The longest magic number.
const MAGIC: usize = 6;

/// How some bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Not at all, or in a way that is not known.
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Format {
    /// The format by its magic number, as moby's `DetectCompression` knows them.
    pub(super) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // Zstandard frames, and skippable ones, with which some tools begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// A whole stream, after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// The digest of the compressed bytes.
    pub digest: Digest,
    /// How many compressed bytes there were.
    pub size: u64,
    /// The digest of the plain bytes.
    pub diff_id: Digest,
    /// How many plain bytes there were.
    pub diff_size: u64,
}

enum Message {
    Chunk(Vec<u8>),
    End(Totals),
    Failed(io::Error),
}

/// The plain bytes of a source.
pub(super) struct Plain {
    messages: Receiver<Message>,
    /// Used chunks go back, so that none is allocated twice.
    used: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
    totals: Option<Totals>,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl Plain {
    /// Starts to decompress `source`, whatever format it has. `what` is its name in messages.
    pub(super) fn start(source: Box<dyn Read + Send>, what: &'static str) -> Result<Self, LayerError> {
        let (sender, messages) = sync_channel(AHEAD);
        let (used, free) = sync_channel(AHEAD + 2);
        let work = move || {
            let last = match decompress(source, &sender, &free) {
                Ok(Some(totals)) => Message::End(totals),
                // The reader has gone away.
                Ok(None) => return,
                Err(error) => Message::Failed(error),
            };
            let _ = sender.send(last);
        };
        // Not joined when dropped: the source may be a download that hangs.
        std::thread::Builder::new()
            .name("decompress".into())
            .spawn(work)
            .map_err(|error| LayerError::Source(what, error))?;
        Ok(Self { messages, used, chunk: Vec::new(), position: 0, totals: None })
    }

    /// Reads to the end and says what all of it was.
    pub(super) fn finish(&mut self) -> io::Result<Totals> {
        loop {
            let count = self.fill_buf()?.len();
            if let (0, Some(totals)) = (count, self.totals) {
                return Ok(totals);
            }
            self.consume(count);
        }
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position >= self.chunk.len() && self.totals.is_none() {
            match self.messages.recv() {
                Ok(Message::Chunk(chunk)) => {
                    let used = std::mem::replace(&mut self.chunk, chunk);
                    self.position = 0;
                    let _ = self.used.try_send(used);
                }
                Ok(Message::End(totals)) => self.totals = Some(totals),
                Ok(Message::Failed(error)) => return Err(error),
                // The thread has ended without a last word: a decoder panicked, or has failed before.
                Err(_) => return Err(io::Error::other("the decompressor has failed")),
            }
        }
        Ok(self.chunk.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position = self.chunk.len().min(self.position + count);
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Decompresses all of `source` into `sender`. `None` if the receiver is gone.
fn decompress(
    source: Box<dyn Read + Send>,
    sender: &SyncSender<Message>,
    free: &Receiver<Vec<u8>>,
) -> io::Result<Option<Totals>> {
    let mut source = BufReader::with_capacity(SOURCE_BUFFER, Hashed::new(source));
    let start = peek(&mut source)?;
    let (plain, size, mut hashed) = {
        let mut decoder = Decoder::new(Format::detect(&start), io::Cursor::new(start).chain(source))?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        loop {
            let mut chunk = free.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let (count, failure) = fill(&mut decoder, &mut chunk);
            chunk.truncate(count);
            hasher.update(&chunk);
            size += count as u64;
            // What came before a fault is handed on: it shows what the damaged thing was.
            if count > 0 && sender.send(Message::Chunk(chunk)).is_err() {
                return Ok(None);
            }
            match failure {
                Some(error) => return Err(error),
                None if count == 0 => break,
                None => {}
            }
        }
        (hasher.finish(), size, decoder.into_source())
    };
    // What a decoder left unread belongs to the blob as well.
    io::copy(&mut hashed, &mut io::sink())?;
    Ok(Some(Totals { digest: hashed.hasher.finish(), size: hashed.size, diff_id: plain, diff_size: size }))
}

/// The first bytes of a source.
fn peek(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    source.take(MAGIC as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Reads until `buffer` is full, the source ends or fails. Gives how much was read.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
        match source.read(space) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// The source with the magic number put back in front.
type Start<S> = io::Chain<io::Cursor<Vec<u8>>, BufReader<Hashed<S>>>;

/// A decoder of any format. All of them read concatenated streams to the end, as `gzip -d` does and as layers
/// that are compressed in parallel need.
enum Decoder<S: Read> {
    Plain(Start<S>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Start<S>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Start<S>>>),
    Xz(Box<lzma_rust2::XzReader<Start<S>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Start<S>>>),
}

impl<S: Read> Decoder<S> {
    fn new(format: Format, source: Start<S>) -> io::Result<Self> {
        Ok(match format {
            Format::Plain => Self::Plain(source),
            Format::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Format::Bzip2 => Self::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(source))),
            Format::Xz => Self::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY))),
            Format::Zstd => Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?)),
        })
    }

    fn into_source(self) -> Hashed<S> {
        let start = match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Bzip2(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        // What the buffer holds was hashed when it was read.
        start.into_inner().1.into_inner()
    }
}

impl<S: Read> Read for Decoder<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Bzip2(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Hashes what is read through it.
struct Hashed<S> {
    source: S,
    hasher: Sha256,
    size: u64,
}

impl<S> Hashed<S> {
    fn new(source: S) -> Self {
        Self { source, hasher: Sha256::new(), size: 0 }
    }
}

impl<S: Read> Read for Hashed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }
}
