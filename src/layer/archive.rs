//! Archives for `ADD x.tar.gz /dir/`: the same entries as in layers, but names that begin with `.wh.` mean
//! nothing.

use std::io::Read;

use super::decompress::Plain;
use super::entry::Entry;
use super::error::LayerError;
use super::path::TreePath;
use super::read::{Content, entry};
use super::tar::read::TarReader;

/// Whether a file is an archive that `ADD` unpacks: a tar, perhaps compressed with gzip, bzip2, xz or zstd,
/// by its content and not its name. As in moby (`archive.IsArchivePath`) its first header has to be a valid
/// one; a compressed file of something else is a file.
///
/// # Errors
/// If the source cannot be read. Bytes that cannot be decompressed are no archive.
pub fn is_archive(source: impl Read + Send + 'static) -> Result<bool, LayerError> {
    let (source, failure) = Watched::new(source);
    let mut tar = TarReader::new(Plain::start(Box::new(source), "archive")?, "archive");
    let answer = matches!(tar.next_entry(), Ok(Some(_)));
    match failure.lock().ok().and_then(|mut failure| failure.take()) {
        Some(error) if !answer => Err(LayerError::Source("archive", error)),
        _ => Ok(answer),
    }
}

/// Reads an archive.
#[derive(Debug)]
pub struct ArchiveReader {
    tar: TarReader<Plain>,
}

impl ArchiveReader {
    /// A reader of the archive that `source` gives, compressed or not.
    ///
    /// # Errors
    /// If the thread that decompresses cannot be had.
    pub fn new(source: impl Read + Send + 'static) -> Result<Self, LayerError> {
        let plain = Plain::start(Box::new(source), "archive")?;
        Ok(Self { tar: TarReader::new(plain, "archive") })
    }

    /// The next entry, with the content that it has if it is a file. Entries come in the archive's order,
    /// which need not be sorted; a path may come more than once, and then the last one counts. `None` at the
    /// end; what lies behind it is not looked at.
    ///
    /// # Errors
    /// If the archive cannot be read, is not a tar, or has something hostile or unknown in it.
    // Not an iterator: the content borrows the reader.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Entry, Content<'_>)>, LayerError> {
        let Some(raw) = self.tar.next_entry()? else { return Ok(None) };
        let path = TreePath::clean(&raw.name)?;
        let entry = entry(raw, path)?;
        Ok(Some((entry, Content::of(&mut self.tar))))
    }
}

/// Tells an error of the source from one of the decoder.
struct Watched<S> {
    source: S,
    failure: std::sync::Arc<std::sync::Mutex<Option<std::io::Error>>>,
}

type Failure = std::sync::Arc<std::sync::Mutex<Option<std::io::Error>>>;

impl<S> Watched<S> {
    fn new(source: S) -> (Self, Failure) {
        let failure = Failure::default();
        (Self { source, failure: Failure::clone(&failure) }, failure)
    }
}

impl<S: Read> Read for Watched<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.source.read(buffer).inspect_err(|error| {
            if error.kind() != std::io::ErrorKind::Interrupted
                && let Ok(mut failure) = self.failure.lock()
            {
                let copy = error.raw_os_error().map_or_else(
                    || std::io::Error::new(error.kind(), error.to_string()),
                    std::io::Error::from_raw_os_error,
                );
                failure.get_or_insert(copy);
            }
        })
    }
}
