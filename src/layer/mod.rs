//! Layers: what an image says changed, as tar archives, compressed or not.
//!
//! ```text
//! LayerWriter   changes ─► tar ─► diff ID ─► compressor ─► digest ─► blob in the store, and a tree index
//! LayerReader   blob ─► decompressor ─► diff ID ─► tar ─► changes, and a tree index
//! ArchiveReader the same for archives that a Dockerfile adds
//! Tree          tree indexes of an image's layers ─► what is at a path, without unpacking
//! ```
//!
//! # Invariants
//! 1. Equal changes at equal [`Compression::identity`] make equal bytes, whatever the number of threads, the
//!    sizes of reads, or the machine.
//! 2. Memory is bounded, whatever the size of layers, files, and what hostile headers say.
//! 3. What is written is read back as it was given, except that times before 1970 become 1970.
//! 4. No path that comes out of a reader leaves the root, lexically. Links are the business of who applies a
//!    layer.
//! 5. A layer is what its diff ID says only once its reader has been finished and asked.
//!
//! This room knows tar and compression; of directories on disk, sandboxes and Dockerfiles it knows nothing.

mod archive;
mod compression;
mod decompress;
mod entry;
mod error;
mod index;
mod path;
mod pipeline;
mod pool;
mod read;
mod recompress;
mod tar;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use archive::{ArchiveReader, is_archive};
pub use compression::Compression;
pub use entry::{Change, Entry, MODE_BITS, Metadata, Node, Xattrs};
pub use error::LayerError;
pub use index::{copy_index, has_index, pack_index, unpack_index};
pub use path::{PathError, TreePath};
pub use pool::Pool;
pub use read::{Content, LayerEnd, LayerReader};
pub use recompress::recompress;
pub use tree::{Resolved, Tree, TreeError, Walk};
pub use write::{LayerBlob, LayerOptions, LayerWriter};
