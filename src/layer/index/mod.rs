//! Tree indexes: what a layer says, without its contents, sorted, on disk.
//!
//! With the indexes of its layers the tree of an image can be looked at ([`crate::layer::Tree`]) without
//! unpacking anything. An index is a side file of the store that goes with the layer's diff ID. It is written
//! while the layer is written or read, in bounded memory whatever the layer's order and size, and read block
//! by block.
//!
//! # Format
//! ```text
//! magic
//! block…          records, sorted by key, 4 KiB or so each
//! implicit        keys of directories that the layer goes through and has no entry for
//! small           the files `passwd` and `group`: key, content
//! table           for each block: first key, offset, length, CRC-32
//! footer          offsets of the sections, CRC-32 of the sections behind the blocks, magic
//! ```
//! A key is a path with NUL for `/`, so that plain byte order is the order of paths. A key in a block is what
//! it shares with the key before it, as a length, and the rest; its record follows, behind its own length.
//! Numbers are LEB128, but for those of the footer. An index that is torn, damaged or of another version is
//! one that is not there: it can be made again from the layer.
//!
//! # What a record means
//! A layer's statements on one path are folded into one record, as if the layer were applied in its order:
//! the last entry counts, removals and opaque markers hold for lower layers only (image specification,
//! "Layer", "Whiteouts"), and what lay in a directory that the same layer replaced later is gone.

mod codec;
mod pack;
mod read;
mod sort;
mod write;

pub(super) use codec::Record;
pub use pack::{copy_index, has_index, pack_index, unpack_index};
pub(super) use read::{Cursor, Index};
pub(super) use write::IndexBuilder;

/// The kind of side file.
const SIDE: &str = "tree";
/// The beginning and the end of an index; the digit is the version of the format.
const MAGIC: &[u8; 16] = b"cofferdam tree 1";
/// The size at which a block is closed, in bytes. A lookup decodes one block; the table has an entry for
/// each.
const BLOCK: usize = 4096;
/// The largest file whose content is kept. The largest `passwd` seen has 3 MB; those of images have 1 KB.
pub(super) const MAX_SMALL: u64 = 1 << 20;
/// How many contents are kept of a layer. Two are usual.
const MAX_SMALL_FILES: usize = 32;

/// Whether the content of a file is kept, by its name: the files that `USER` and `--chown` look names up in.
/// They can lie elsewhere than in `/etc`, with a link there.
pub(super) fn keeps_content(path: &super::TreePath, size: u64) -> bool {
    matches!(path.file_name(), Some(b"passwd" | b"group")) && size <= MAX_SMALL
}
