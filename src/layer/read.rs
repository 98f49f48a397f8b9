//! A layer's blob to changes.

use std::io::{self, BufRead, Read};

use super::decompress::{Plain, Totals};
use super::entry::{Change, Entry, Metadata, Node};
use super::error::LayerError;
use super::index::{self, IndexBuilder};
use super::path::{MAX_PATH, TreePath};
use super::tar::encode::{OPAQUE, WHITEOUT};
use super::tar::kind;
use super::tar::read::{RawEntry, TarReader};
use crate::image::Digest;
use crate::store::Store;

/// What names of aufs's own files begin with; in layers of old images they mean nothing.
const AUFS: &[u8] = b".wh..wh.";
/// What a layer was, after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerEnd {
    /// The digest of the blob, as it was read.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The size of the uncompressed tar in bytes.
    pub diff_size: u64,
    /// How many changes it has.
    pub changes: u64,
}

impl LayerEnd {
    /// Checks that this is the layer that a configuration names.
    ///
    /// # Errors
    /// [`LayerError::DiffId`] if it is not.
    pub fn expect_diff_id(&self, expected: &Digest) -> Result<(), LayerError> {
        if self.diff_id == *expected {
            return Ok(());
        }
        Err(LayerError::DiffId { expected: *expected, actual: self.diff_id })
    }

    /// Checks that this is the blob that a manifest names.
    ///
    /// # Errors
    /// [`LayerError::BlobDigest`] if it is not.
    pub fn expect_digest(&self, expected: &Digest) -> Result<(), LayerError> {
        if self.digest == *expected {
            return Ok(());
        }
        Err(LayerError::BlobDigest { expected: *expected, actual: self.digest })
    }
}

/// Reads a layer from its blob: gzip, zstd, bzip2, xz or plain, seen from its first bytes. Decompression runs
/// ahead on a thread of its own, so that the source may also be a download that is still under way.
///
/// Changes come in the layer's own order, which need not be sorted, and a path may come more than once: they
/// hold one after the other. Nothing is to be trusted before [`LayerReader::finish`] has said what the layer
/// was.
#[derive(Debug)]
pub struct LayerReader {
    tar: TarReader<Plain>,
    changes: u64,
    index: Option<IndexBuilder>,
    /// The file whose content the index keeps, while it is read.
    kept: Option<(TreePath, Vec<u8>)>,
}

impl LayerReader {
    /// A reader of the blob that `source` gives.
    ///
    /// # Errors
    /// If the thread cannot be had.
    pub fn new(source: impl Read + Send + 'static) -> Result<Self, LayerError> {
        let plain = Plain::start(Box::new(source), "layer")?;
        Ok(Self { tar: TarReader::new(plain, "layer"), changes: 0, index: None, kept: None })
    }

    /// Makes the layer's index on the way, for [`super::Tree`]. It is stored when the reader is finished.
    #[must_use]
    pub fn indexed(mut self, store: &Store) -> Self {
        self.index = Some(IndexBuilder::new(store));
        self
    }

    /// The next change, with the content that it has if it is a file. What is not read of the content is
    /// skipped. `None` at the layer's end.
    ///
    /// # Errors
    /// If the layer cannot be read, is not a tar, or has something hostile or unknown in it.
    // Not an iterator: the content borrows the reader.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Change, Content<'_>)>, LayerError> {
        self.finish_kept()?;
        let change = loop {
            let Some(raw) = self.tar.next_entry()? else { return Ok(None) };
            if let Some(change) = change(raw)? {
                break change;
            }
        };
        self.changes += 1;
        if let Some(index) = &mut self.index {
            index.add(&change)?;
            if let Change::Entry(Entry { path, node: Node::File { size }, .. }) = &change
                && index::keeps_content(path, *size)
            {
                self.kept = Some((path.clone(), Vec::new()));
            }
        }
        Ok(Some((change, Content { tar: &mut self.tar, kept: self.kept.as_mut().map(|(_, kept)| kept) })))
    }

    /// Reads the rest, and says what the layer was. Stores the index if one was wanted; it goes with the diff
    /// ID that was found, so that of a layer with wrong content does no harm.
    ///
    /// # Errors
    /// If the rest cannot be read.
    pub fn finish(mut self) -> Result<LayerEnd, LayerError> {
        while self.next()?.is_some() {}
        let Totals { digest, size, diff_id, diff_size } =
            self.tar.source_mut().finish().map_err(|error| LayerError::Source("layer", error))?;
        if let Some(index) = self.index {
            index.finish(&diff_id)?;
        }
        Ok(LayerEnd { digest, size, diff_id, diff_size, changes: self.changes })
    }

    /// Reads what the caller has left of a file that the index keeps.
    fn finish_kept(&mut self) -> Result<(), LayerError> {
        let Some((path, mut content)) = self.kept.take() else { return Ok(()) };
        let rest = io::copy(&mut Content { tar: &mut self.tar, kept: Some(&mut content) }, &mut io::sink());
        rest.map_err(|error| LayerError::Source("layer", error))?;
        if let Some(index) = &mut self.index {
            index.add_small(&path, content);
        }
        Ok(())
    }
}

/// The content of a file in a layer or archive. Reading it as a [`BufRead`] copies nothing.
#[derive(Debug)]
pub struct Content<'a> {
    tar: &'a mut TarReader<Plain>,
    kept: Option<&'a mut Vec<u8>>,
}

impl<'a> Content<'a> {
    pub(super) fn of(tar: &'a mut TarReader<Plain>) -> Self {
        Self { tar, kept: None }
    }

    /// How many bytes are left to read.
    pub fn remaining(&self) -> u64 {
        self.tar.remaining()
    }
}

impl BufRead for Content<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.tar.fill_content()
    }

    fn consume(&mut self, count: usize) {
        if let Some(kept) = &mut self.kept
            && let Ok(bytes) = self.tar.fill_content()
        {
            kept.extend_from_slice(bytes.get(..count).unwrap_or(bytes));
        }
        self.tar.consume_content(count);
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// What an entry of a layer says; `None` if it says nothing.
fn change(raw: RawEntry) -> Result<Option<Change>, LayerError> {
    let path = TreePath::clean(&raw.name)?;
    let in_marker = path.components().rev().skip(1).any(|component| component.starts_with(WHITEOUT));
    let is_aufs = path.components().any(|component| component.starts_with(AUFS) && component != OPAQUE);
    if is_aufs {
        return Ok(None);
    }
    if in_marker {
        return Err(LayerError::Unsupported {
            name: raw.name,
            what: "in a directory that is a whiteout".into(),
        });
    }
    let Some(marker) = path.file_name().filter(|name| name.starts_with(WHITEOUT)) else {
        return Ok(Some(Change::Entry(entry(raw, path)?)));
    };
    let parent = path.parent().unwrap_or_default();
    if marker == OPAQUE {
        return Ok(Some(Change::Opaque(parent)));
    }
    // `.wh...` would remove `..`; `join` refuses it.
    let removed = marker.strip_prefix(WHITEOUT).unwrap_or_default();
    Ok(Some(Change::Remove(parent.join(removed)?)))
}

/// The entry of an archive's header, at the path that its name means.
pub(super) fn entry(raw: RawEntry, path: TreePath) -> Result<Entry, LayerError> {
    let unsupported = |name: Vec<u8>, what: &str| LayerError::Unsupported { name, what: what.to_owned() };
    let (major, minor) = raw.device;
    let node = match raw.typeflag {
        kind::FILE => Node::File { size: raw.size },
        kind::DIRECTORY => Node::Directory,
        kind::SYMLINK if raw.link.is_empty() => {
            return Err(unsupported(raw.name, "a symbolic link to nowhere"));
        }
        kind::SYMLINK if raw.link.len() > MAX_PATH => {
            return Err(unsupported(raw.name, "a symbolic link with a longer target than Linux takes"));
        }
        kind::SYMLINK => Node::Symlink { target: raw.link },
        kind::HARDLINK => {
            let target = TreePath::clean(&raw.link)?;
            if target.components().any(|component| component.starts_with(AUFS)) {
                return Err(unsupported(raw.name, "a hard link to a file of aufs's own"));
            }
            Node::Hardlink { target }
        }
        kind::CHAR => Node::CharDevice { major, minor },
        kind::BLOCK => Node::BlockDevice { major, minor },
        kind::FIFO => Node::Fifo,
        other => {
            let what = match other {
                b'V' => "a volume's label".to_owned(),
                b'M' => "the continuation of a file on another volume".to_owned(),
                b'D' => "a directory of a GNU incremental dump".to_owned(),
                other => format!("of type `{}`", other.escape_ascii()),
            };
            return Err(LayerError::Unsupported { name: raw.name, what });
        }
    };
    if path.is_root() && node != Node::Directory {
        return Err(unsupported(raw.name, "the root, and not a directory"));
    }
    let mut metadata =
        Metadata { mode: raw.mode, uid: raw.uid, gid: raw.gid, mtime: raw.mtime, xattrs: raw.xattrs };
    metadata.drop_overlay_xattrs();
    Ok(Entry { path, node, metadata })
}
