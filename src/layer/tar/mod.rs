//! Tar headers, written and read. The layout of a header's fields is the `tar` crate's; what the fields mean,
//! and which of many dialects is written, is decided here.
//!
//! Written is POSIX.1-1988 ustar, with POSIX.1-2001 (PAX) records only for what does not fit, so that equal
//! entries have equal bytes. Read is what builders have put into layers in ten years: ustar, PAX, GNU, V7 and
//! star headers, and GNU's four kinds of sparse files. Where a header can be read in two ways, it is read the
//! way of Go's `archive/tar`: that is what every container runtime uses, and a difference would let an image
//! look other here than there.

pub(super) mod decode;
pub(super) mod encode;
pub(super) mod pax;
pub(super) mod read;
pub(super) mod sparse;

/// The unit of a tar archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// The largest header extension that is read or written: PAX records, GNU long names. It is the limit of Go's
/// `archive/tar`, so that no runtime could read more.
pub(super) const MAX_EXTENSION: usize = 1 << 20;

/// Bytes that fill up the last block of `size` bytes of content.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// The kinds of entries, by their `typeflag`.
pub(super) mod kind {
    /// A regular file.
    pub const FILE: u8 = b'0';
    /// A regular file in V7 archives, or a directory if its name ends in `/`.
    pub const OLD_FILE: u8 = 0;
    /// A hard link.
    pub const HARDLINK: u8 = b'1';
    /// A symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHAR: u8 = b'3';
    /// A block device.
    pub const BLOCK: u8 = b'4';
    /// A directory.
    pub const DIRECTORY: u8 = b'5';
    /// A named pipe.
    pub const FIFO: u8 = b'6';
    /// A regular file that should lie in one piece.
    pub const CONTIGUOUS: u8 = b'7';
    /// PAX records for the next entry.
    pub const PAX: u8 = b'x';
    /// PAX records for all entries behind.
    pub const PAX_GLOBAL: u8 = b'g';
    /// GNU: the name of the next entry.
    pub const GNU_LONG_NAME: u8 = b'L';
    /// GNU: the link target of the next entry.
    pub const GNU_LONG_LINK: u8 = b'K';
    /// GNU: a sparse file.
    pub const GNU_SPARSE: u8 = b'S';
}
