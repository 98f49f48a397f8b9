//! Changes to a layer: tar, diff ID, compression, digest, index, all in one pass.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::SeekFrom;

use super::compression::Compression;
use super::entry::{Change, Entry, MODE_BITS, Metadata, Node};
use super::error::LayerError;
use super::index::{self, IndexBuilder};
use super::path::TreePath;
use super::pipeline::Pipeline;
use super::pool::Pool;
use super::tar::{encode, padding};
use crate::image::{Descriptor, Digest, MediaType};
use crate::store::Store;

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerOptions {
    /// The compression.
    pub compression: Compression,
    /// `SOURCE_DATE_EPOCH`: later times become this one. Seconds since 1970.
    pub clamp_mtime: Option<i64>,
}

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The OCI media type.
    pub media_type: &'static str,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The size of the uncompressed tar in bytes.
    pub diff_size: u64,
    /// [`Compression::identity`]: what else the digest depends on.
    pub compression: String,
    /// How many changes it has.
    pub changes: u64,
}

impl LayerBlob {
    /// The blob's descriptor for a manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            MediaType::from(self.media_type),
            self.size,
            oci_spec::image::Digest::from(self.digest),
        )
    }
}

/// What was said of the last path, for what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It is a directory: its marker and what is in it may follow.
    Directory,
    /// It is opaque: what is in it may follow.
    Opaque,
    /// It is no directory; what it is called in messages.
    Other(&'static str),
}

/// Writes a layer into the store. Changes are given in the order of their paths ([`TreePath`]'s), each path
/// once, except that [`LayerWriter::opaque`] may follow the entry of its directory. Equal changes make equal
/// bytes.
///
/// After an error nothing can be added, and the layer cannot be finished. A writer that is dropped leaves
/// nothing.
#[derive(Debug)]
pub struct LayerWriter {
    pipeline: Pipeline,
    options: LayerOptions,
    index: IndexBuilder,
    /// The last change's path, and what it was.
    last: Option<(TreePath, Said)>,
    changes: u64,
    broken: bool,
    header: Vec<u8>,
}

impl LayerWriter {
    /// A writer of an empty layer into `store`, compressing on the threads of `pool`.
    ///
    /// # Errors
    /// [`LayerError::Level`] if the compression has no such level.
    pub fn new(store: &Store, pool: &Pool, options: LayerOptions) -> Result<Self, LayerError> {
        options.compression.check()?;
        Ok(Self {
            pipeline: Pipeline::new(store, pool, options.compression),
            options,
            index: IndexBuilder::new(store),
            last: None,
            changes: 0,
            broken: false,
            header: Vec::new(),
        })
    }

    /// Adds an entry without content: anything but a file that is not empty.
    ///
    /// # Errors
    /// If it is out of order, cannot be in a layer, or the layer cannot be written.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.file(entry, &mut io::empty())
    }

    /// Adds an entry with its content, of which there must be exactly the size that the entry names.
    ///
    /// # Errors
    /// As [`LayerWriter::entry`]; [`LayerError::Shrank`] or [`LayerError::Grew`] if there is less or more
    /// content; [`LayerError::Content`] if it cannot be read.
    pub fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        self.guarded(|writer| {
            writer.put_header(entry)?;
            let size = entry.node.size();
            if index::keeps_content(&entry.path, size) && matches!(entry.node, Node::File { .. }) {
                let kept = writer.copy_kept(entry, content)?;
                writer.index.add_small(&entry.path, kept);
            } else {
                writer.copy(entry, content, size, 0)?;
            }
            writer.end_content(entry, content)
        })
    }

    /// Adds a file with the content of an open one, from its present position on. Holes are not read, which
    /// makes large sparse files fast; what is written is the same as [`LayerWriter::file`] writes.
    ///
    /// # Errors
    /// As [`LayerWriter::file`].
    pub fn file_from(&mut self, entry: &Entry, content: &File) -> Result<(), LayerError> {
        /// Smaller files are not worth two system calls.
        const SMALLEST: u64 = 1 << 20;
        let size = entry.node.size();
        if size < SMALLEST || !has_holes(content) {
            return self.file(entry, &mut &*content);
        }
        self.guarded(|writer| {
            writer.put_header(entry)?;
            let failed = |source: io::Error| LayerError::Content { path: entry.path.clone(), source };
            let start = rustix::fs::tell(content).map_err(|error| failed(error.into()))?;
            let mut done = 0;
            while done < size {
                let data = match rustix::fs::seek(content, SeekFrom::Data(start + done)) {
                    Ok(data) => data - start,
                    // Nothing but a hole up to the end, wherever that is.
                    Err(rustix::io::Errno::NXIO) => {
                        let end = content.metadata().map_err(failed)?.len().saturating_sub(start);
                        rustix::fs::seek(content, SeekFrom::Start(start + end.min(size)))
                            .map_err(|error| failed(error.into()))?;
                        writer.pipeline.write_zeros(end.min(size).saturating_sub(done))?;
                        done = end.min(size);
                        if done < size {
                            return Err(shrank(entry, done));
                        }
                        break;
                    }
                    Err(error) => return Err(failed(error.into())),
                };
                writer.pipeline.write_zeros(data.min(size) - done)?;
                done = data.min(size);
                let hole = rustix::fs::seek(content, SeekFrom::Hole(start + done))
                    .map_err(|error| failed(error.into()))?;
                rustix::fs::seek(content, SeekFrom::Start(start + done))
                    .map_err(|error| failed(error.into()))?;
                let end = (hole - start).min(size);
                writer.copy(entry, &mut &*content, end - done, done)?;
                done = end;
            }
            writer.end_content(entry, &mut &*content)
        })
    }

    /// Says that what lower layers have at `path` is gone. To be said only where they have something.
    ///
    /// # Errors
    /// If it is out of order, or the layer cannot be written.
    pub fn remove(&mut self, path: &TreePath) -> Result<(), LayerError> {
        self.guarded(|writer| {
            let parent = path.parent().ok_or_else(|| LayerError::Unrepresentable {
                path: path.clone(),
                reason: "the root cannot be removed",
            })?;
            writer.check_order(path, Said::Other("removed path"))?;
            check_name(path)?;
            writer.put_marker(&parent, &[encode::WHITEOUT, path.file_name().unwrap_or_default()].concat())?;
            writer.index.add(&Change::Remove(path.clone()))
        })
    }

    /// Says that what lower layers have in the directory `path` is gone. Comes after the directory's own
    /// entry, if it has one.
    ///
    /// # Errors
    /// If it is out of order, or the layer cannot be written.
    pub fn opaque(&mut self, path: &TreePath) -> Result<(), LayerError> {
        self.guarded(|writer| {
            writer.check_order(path, Said::Opaque)?;
            check_name(path)?;
            writer.put_marker(path, encode::OPAQUE)?;
            writer.index.add(&Change::Opaque(path.clone()))
        })
    }

    /// Adds any change. `content` is for files.
    ///
    /// # Errors
    /// Those of the method for its kind.
    pub fn change(&mut self, change: &Change, content: &mut dyn Read) -> Result<(), LayerError> {
        match change {
            Change::Entry(entry) => self.file(entry, content),
            Change::Remove(path) => self.remove(path),
            Change::Opaque(path) => self.opaque(path),
        }
    }

    /// Ends the layer, names its blob, and stores its index.
    ///
    /// # Errors
    /// [`LayerError::Broken`] if a change has failed, else if the layer cannot be written.
    pub fn finish(mut self) -> Result<LayerBlob, LayerError> {
        if self.broken {
            return Err(LayerError::Broken);
        }
        self.pipeline.write(&encode::END)?;
        let written = self.pipeline.finish()?;
        self.index.finish(&written.diff_id)?;
        Ok(LayerBlob {
            media_type: self.options.compression.media_type(),
            digest: written.blob.digest,
            size: written.blob.size,
            diff_id: written.diff_id,
            diff_size: written.diff_size,
            compression: self.options.compression.identity(),
            changes: self.changes,
        })
    }

    /// Lets nothing follow a failure.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), LayerError>) -> Result<(), LayerError> {
        if self.broken {
            return Err(LayerError::Broken);
        }
        let result = work(self);
        self.broken = result.is_err();
        self.changes += 1;
        result
    }

    fn check_order(&mut self, path: &TreePath, said: Said) -> Result<(), LayerError> {
        if let Some((last, was)) = &self.last {
            let follows = match path.cmp(last) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => (*was, said) == (Said::Directory, Said::Opaque),
                std::cmp::Ordering::Less => false,
            };
            if !follows {
                return Err(LayerError::Order { path: path.clone(), previous: last.clone() });
            }
            // What is in a path comes directly behind it.
            if let Said::Other(kind) = *was
                && path.starts_with(last)
            {
                return Err(LayerError::Inside { path: path.clone(), parent: last.clone(), kind });
            }
        }
        self.last = Some((path.clone(), said));
        Ok(())
    }

    fn put_header(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let said = match &entry.node {
            Node::Directory => Said::Directory,
            node => Said::Other(node.kind()),
        };
        self.check_order(&entry.path, said)?;
        check_name(&entry.path)?;
        if let Node::Hardlink { target } = &entry.node {
            check_name(target)?;
            if *target >= entry.path {
                return Err(LayerError::HardlinkOrder { path: entry.path.clone(), target: target.clone() });
            }
        }
        if entry.path.is_root() && entry.node != Node::Directory {
            return Err(LayerError::Unrepresentable {
                path: entry.path.clone(),
                reason: "the root is a directory",
            });
        }
        // What a reader of the layer sees; the index has to say the same.
        let mut entry = entry.clone();
        entry.metadata.mode &= MODE_BITS;
        entry.metadata.mtime = entry.metadata.mtime.min(self.options.clamp_mtime.unwrap_or(i64::MAX)).max(0);
        entry.metadata.drop_overlay_xattrs();
        self.header.clear();
        encode::entry(&mut self.header, &entry)?;
        self.pipeline.write(&self.header)?;
        self.index.add(&Change::Entry(entry))
    }

    /// An empty file whose name says something of its directory.
    fn put_marker(&mut self, directory: &TreePath, name: &[u8]) -> Result<(), LayerError> {
        self.header.clear();
        let entry = Entry {
            path: directory.join(name)?,
            node: Node::File { size: 0 },
            metadata: Metadata::default(),
        };
        encode::entry(&mut self.header, &entry)?;
        self.pipeline.write(&self.header)
    }

    /// Copies `count` bytes of the content; `before` were copied already.
    fn copy(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        count: u64,
        before: u64,
    ) -> Result<(), LayerError> {
        let copied = self.pipeline.copy(content, count)?;
        let copied = copied.map_err(|source| LayerError::Content { path: entry.path.clone(), source })?;
        if copied < count {
            return Err(shrank(entry, before + copied));
        }
        Ok(())
    }

    /// Copies a small file, and keeps a copy.
    fn copy_kept(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<Vec<u8>, LayerError> {
        let mut kept = Vec::new();
        let read = content.take(entry.node.size()).read_to_end(&mut kept);
        read.map_err(|source| LayerError::Content { path: entry.path.clone(), source })?;
        self.copy(entry, &mut kept.as_slice(), entry.node.size(), 0)?;
        Ok(kept)
    }

    /// Sees that there is no more content, and fills up the last block.
    fn end_content(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        let size = entry.node.size();
        loop {
            match content.read(&mut [0]) {
                Ok(0) => break,
                Ok(_) => return Err(LayerError::Grew { path: entry.path.clone(), expected: size }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Content { path: entry.path.clone(), source }),
            }
        }
        self.pipeline.write_zeros(padding(size) as u64)
    }
}

fn shrank(entry: &Entry, actual: u64) -> LayerError {
    LayerError::Shrank { path: entry.path.clone(), expected: entry.node.size(), actual }
}

/// Refuses names that readers would take for markers, wherever in the path.
fn check_name(path: &TreePath) -> Result<(), LayerError> {
    if path.components().any(|component| component.starts_with(encode::WHITEOUT)) {
        return Err(LayerError::WhiteoutName(path.clone()));
    }
    Ok(())
}

/// Whether a file has fewer blocks than its size needs.
fn has_holes(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.blocks().saturating_mul(512) < metadata.len())
}
