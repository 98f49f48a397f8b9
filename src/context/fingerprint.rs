//! What a file's content is, and how to know that it has stayed so.
//!
//! The kernel sets the ctime of a file at each change of content or metadata, and nothing can set it back. So a file
//! whose [`Stamp`] is the one it had when it was hashed has the content that was hashed, with one exception: a change in
//! the same tick of the kernel's clock as the stamp's own. A stamp that young is *racy*, and is not to be remembered.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self as rfs, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::image::{Digest, Sha256};

/// Extended attributes by name.
pub type Attributes = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

/// The attributes that files may be given by anyone who may write them. The others belong to the system they lie on.
const USER: &[u8] = b"user.";
/// Linux's limit on the value of an attribute (`XATTR_SIZE_MAX`).
const LARGEST_VALUE: usize = 64 << 10;
/// How much of a file is read at once.
pub const READ: usize = 128 << 10;
const SECOND: i64 = 1_000_000_000;

/// The state that a file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of content or metadata, nanoseconds since 1970.
    pub ctime: i64,
    /// Size in bytes.
    pub size: u64,
}

impl Stamp {
    /// The stamp in what `stat` says.
    pub fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            ctime: stat.st_ctime.saturating_mul(SECOND).saturating_add(stat.st_ctime_nsec as i64),
            size: stat.st_size.unsigned_abs(),
        }
    }

    /// Whether a later change is sure to make another stamp, if the file is not touched before `now`.
    fn is_settled(&self, now: i64) -> bool {
        // A time without a fraction comes from a file system that keeps whole seconds, ext3 for one.
        let tick = if self.ctime % SECOND == 0 { 2 * SECOND } else { 0 };
        self.ctime.saturating_add(tick) < now
    }
}

/// How many names a file has.
// Its type is not the same on every architecture.
#[allow(clippy::unnecessary_cast)]
pub fn link_count(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not what it was when it was looked at, or has changed while it was read.
    #[error("it changed while it was read")]
    Changed,
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its `user.*` attributes.
    pub attributes: Attributes,
    /// Whether the stamp alone will tell of every later change.
    pub is_settled: bool,
}

/// Reads the whole of a regular file, which is open and has not been read from, and whose stamp is to be `stamp`.
/// `buffer` is kept from file to file.
///
/// # Errors
/// [`ReadError::Changed`] if the stamp is another one before or after.
pub fn read_content(file: &File, stamp: &Stamp, buffer: &mut Vec<u8>) -> Result<Content, ReadError> {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    check_stamp(file.as_fd(), stamp)?;
    let attributes = user_attributes(file.as_fd())?;
    buffer.resize(READ, 0);
    let mut hash = Sha256::new();
    let mut total = 0;
    loop {
        let count = match (&*file).read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hash.update(buffer.get(..count).unwrap_or_default());
        total += count as u64;
        if total > stamp.size {
            return Err(ReadError::Changed);
        }
        // The end of a small file need not be asked for: its stamp is looked at again.
        if total == stamp.size && count < READ {
            break;
        }
    }
    if total != stamp.size {
        return Err(ReadError::Changed);
    }
    check_stamp(file.as_fd(), stamp)?;
    let now = now.tv_sec.saturating_mul(SECOND).saturating_add(now.tv_nsec);
    Ok(Content { digest: hash.finish(), attributes, is_settled: stamp.is_settled(now) })
}

/// Sees that an open file is in the state that it was in when it was looked at.
///
/// # Errors
/// [`ReadError::Changed`] if it is not.
pub fn check_stamp(file: BorrowedFd<'_>, stamp: &Stamp) -> Result<(), ReadError> {
    match rfs::fstat(file) {
        Ok(stat) if Stamp::of(&stat) == *stamp => Ok(()),
        Ok(_) => Err(ReadError::Changed),
        Err(error) => Err(error.into()),
    }
}

/// The `user.*` attributes of an open file or directory; none where the file system knows none. A descriptor that was
/// opened for its path alone will do.
///
/// # Errors
/// If they cannot be read.
pub fn user_attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let path_only;
    let mut names = [0; 512];
    let length = match rfs::flistxattr(file, &mut names) {
        // Nearly every file there is.
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Attributes::new()),
        Ok(length) => length,
        Err(Errno::RANGE | Errno::BADF) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut more = Vec::new();
    let names = if length > 0 {
        path_only = None;
        names.get(..length).unwrap_or_default()
    } else {
        // Opened for its path, or with very many names.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        more.resize(LARGEST_VALUE, 0);
        match rfs::listxattr(&path, &mut more) {
            Ok(length) => more.truncate(length),
            Err(Errno::NOTSUP) => more.clear(),
            Err(error) => return Err(error.into()),
        }
        path_only = Some(path);
        more.as_slice()
    };
    let mut attributes = Attributes::new();
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(USER)) {
        let mut value = vec![0; LARGEST_VALUE];
        let length = match &path_only {
            Some(path) => rfs::getxattr(path, name, &mut value),
            None => rfs::fgetxattr(file, name, &mut value),
        };
        match length {
            Ok(length) => value.truncate(length),
            // It was taken away in between.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn stamped(content: &[u8]) -> (tempfile::NamedTempFile, Stamp) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let stamp = Stamp::of(&rfs::fstat(file.as_file()).unwrap());
        (file, stamp)
    }

    fn read(file: &tempfile::NamedTempFile, stamp: &Stamp) -> Result<Content, ReadError> {
        read_content(&file.reopen().unwrap(), stamp, &mut Vec::new())
    }

    #[test]
    fn hashes_all_of_a_file_of_any_size() {
        for size in [0, 1, READ - 1, READ, READ + 1, 3 * READ] {
            let content = vec![7; size];
            let (file, stamp) = stamped(&content);
            assert_eq!(read(&file, &stamp).unwrap().digest, Digest::of(&content), "{size}");
        }
    }

    #[test]
    fn a_stamp_of_the_present_tick_is_not_settled() {
        let (file, stamp) = stamped(b"x");
        // Hashed at once or a little later: what counts is that the clock has moved on since.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !read(&file, &stamp).unwrap().is_settled {
            assert!(std::time::Instant::now() < deadline, "never settles");
        }
        let stamp = Stamp { ctime: 7 * SECOND + 5, ..stamp };
        assert!(!stamp.is_settled(7 * SECOND + 5) && stamp.is_settled(7 * SECOND + 6));
        let stamp = Stamp { ctime: 7 * SECOND, ..stamp };
        assert!(!stamp.is_settled(9 * SECOND) && stamp.is_settled(9 * SECOND + 1));
    }

    #[test]
    fn another_stamp_is_a_change() {
        let (mut file, stamp) = stamped(b"one");
        file.write_all(b" more").unwrap();
        assert!(matches!(read(&file, &stamp), Err(ReadError::Changed)));
        let (other, _) = stamped(b"one");
        assert!(matches!(read(&other, &stamp), Err(ReadError::Changed)), "the same content in another file");
    }

    #[test]
    fn reads_the_attributes_that_a_user_can_set() {
        let (file, _) = stamped(b"x");
        rfs::fsetxattr(&file, "user.one", b"1", rfs::XattrFlags::empty()).unwrap();
        rfs::fsetxattr(&file, "user.empty", b"", rfs::XattrFlags::empty()).unwrap();
        let expected =
            Attributes::from([(b"user.empty".to_vec(), Vec::new()), (b"user.one".to_vec(), b"1".to_vec())]);
        assert_eq!(user_attributes(file.as_fd()).unwrap(), expected);
        let path = rfs::open(file.path(), rfs::OFlags::PATH, rfs::Mode::empty()).unwrap();
        assert_eq!(user_attributes(path.as_fd()).unwrap(), expected);
    }
}
