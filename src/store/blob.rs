//! Blobs: written under a temporary name, hashed on the way, named by their digest.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Store;
use super::error::{At, StoreError};
use super::temp::{self, Temp};
use crate::image::{Digest, Sha256};

/// How stale a blob's time of last use may be. A prune reckons in days; to write an inode on every use would
/// cost more than the precision is worth.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);

/// A blob that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The size of a blob in bytes, if it is there.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("inspect", &path),
        }
    }

    /// Whether a blob is there. Prefer [`Store::holds`] where the size is known.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.size(digest)?.is_some())
    }

    /// Whether a blob is there and has all of its `size` bytes; if so, it counts as used now. A blob of
    /// another size was torn by a loss of power: it counts as missing, and is replaced when it is written
    /// again.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn holds(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => {
                let metadata = file.metadata().at("inspect", &path)?;
                mark_used(&file, metadata.modified().ok());
                Ok(metadata.len() == size)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// Opens a blob. Its content is not checked; see [`Store::open_verified`].
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => {
                mark_used(&file, file.metadata().ok().and_then(|metadata| metadata.modified().ok()));
                Ok(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::Missing(*digest)),
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// Opens a blob for reading to its end, where a digest that is not right is an error.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there.
    pub fn open_verified(&self, digest: &Digest) -> Result<Verified, StoreError> {
        let file = self.open_blob(digest)?;
        Ok(Verified { store: self.clone(), digest: *digest, file, hasher: Sha256::new(), ended: None })
    }

    /// The whole content of a small blob, verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there, [`StoreError::TooLarge`] if it has more than `limit`
    /// bytes, [`StoreError::Mismatch`] if the disk has lost its content; it is removed then.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let file = self.open_blob(digest)?;
        let size = file.metadata().at("inspect", &path)?.len();
        if size > limit {
            return Err(StoreError::TooLarge { digest: *digest, size, limit });
        }
        let mut bytes = Vec::new();
        (&file).take(limit).read_to_end(&mut bytes).at("read", &path)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            self.discard(&file, digest);
            return Err(StoreError::Mismatch { expected: *digest, actual });
        }
        Ok(bytes)
    }

    /// A writer of a blob whose digest is not known yet.
    ///
    /// # Errors
    /// If the temporary file cannot be made.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let temp = Temp::create(&self.temporary(), "")?;
        Ok(BlobWriter { store: self.clone(), temp, hasher: Sha256::new(), size: 0, broken: false })
    }

    /// Stores `bytes` as a blob.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        if self.holds(&blob.digest, blob.size)? {
            return Ok(blob);
        }
        let mut writer = self.writer()?;
        writer.append(bytes)?;
        writer.commit()
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.inner.root.join("blobs/sha256")
    }

    /// Names a complete temporary file as the blob that it was found to be.
    pub(super) fn adopt(&self, temp: Temp, blob: Blob) -> Result<Blob, StoreError> {
        // A blob that is there stays: others may have it open, and it may be on the disk already.
        if !self.holds(&blob.digest, blob.size)? {
            temp.rename(&self.path(&blob.digest))?;
        }
        Ok(blob)
    }

    /// Removes a blob whose content was found to be wrong, unless a good one has taken its place meanwhile.
    pub(super) fn discard(&self, file: &File, digest: &Digest) {
        let path = self.path(digest);
        if temp::still_named(file, &path).unwrap_or(false) {
            tracing::warn!(%digest, "removing a blob whose content is damaged");
            // If it cannot be removed, the next reader finds the same and says so again.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Notes that a file is in use now. The time of last access would tell, but most mounts do not keep it.
pub(super) fn mark_used(file: &File, modified: Option<SystemTime>) {
    let now = SystemTime::now();
    let stale =
        modified.is_none_or(|modified| now.duration_since(modified).is_ok_and(|age| age > USE_GRANULARITY));
    if stale {
        // Only the order of a later prune hangs on it; a store that belongs to somebody else refuses.
        let _ = file.set_modified(now);
    }
}

/// Writes a blob of which the digest is found on the way. Each `write` is a system call: write large pieces.
/// Dropped without [`BlobWriter::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    temp: Temp,
    hasher: Sha256,
    size: u64,
    broken: bool,
}

impl BlobWriter {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// If they cannot be written; the blob cannot be completed then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken(self.temp.path().to_owned()));
        }
        let written = self.temp.file().write_all(bytes).at("write", self.temp.path());
        self.broken = written.is_err();
        written?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names the blob by its digest.
    ///
    /// # Errors
    /// If a write failed before, or the file cannot be renamed.
    pub fn commit(self) -> Result<Blob, StoreError> {
        if self.broken {
            return Err(StoreError::Broken(self.temp.path().to_owned()));
        }
        let blob = Blob { digest: self.hasher.finish(), size: self.size };
        self.store.adopt(self.temp, blob)
    }

    /// Names the blob if it is what was expected.
    ///
    /// # Errors
    /// [`StoreError::Size`] or [`StoreError::Mismatch`] if it is something else; nothing stays behind then.
    pub fn commit_as(self, digest: &Digest, size: Option<u64>) -> Result<Blob, StoreError> {
        if self.broken {
            return Err(StoreError::Broken(self.temp.path().to_owned()));
        }
        if let Some(expected) = size
            && expected != self.size
        {
            return Err(StoreError::Size { digest: *digest, expected, actual: self.size });
        }
        let actual = self.hasher.clone().finish();
        if actual != *digest {
            return Err(StoreError::Mismatch { expected: *digest, actual });
        }
        self.commit()
    }
}

/// Reads a blob; reading to the end fails there if the content is not what the digest says.
#[derive(Debug)]
pub struct Verified {
    store: Store,
    digest: Digest,
    file: File,
    hasher: Sha256,
    /// What the content was found to be, once its end was reached.
    ended: Option<Digest>,
}

impl Verified {
    /// The blob's size in bytes.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn size(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().at("inspect", &self.store.path(&self.digest))?.len())
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer).at("read", &self.store.path(&self.digest))?;
        if count > 0 {
            self.hasher.update(buffer.get(..count).unwrap_or_default());
        } else if !buffer.is_empty() {
            let actual = *self.ended.get_or_insert_with(|| std::mem::take(&mut self.hasher).finish());
            if actual != self.digest {
                self.store.discard(&self.file, &self.digest);
                return Err(StoreError::Mismatch { expected: self.digest, actual }.into());
            }
        }
        Ok(count)
    }
}

/// Opens a file for appending, making it where it is not. Never follows a link.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;
    use std::os::unix::fs::MetadataExt;

    fn nothing_temporary(store: &Store) -> bool {
        std::fs::read_dir(store.temporary()).unwrap().next().is_none()
    }

    #[test]
    fn a_blob_has_the_name_of_its_content() {
        let (_directory, store) = store();
        let mut writer = store.writer().unwrap();
        writer.append(b"hello, ").unwrap();
        writer.append(b"world").unwrap();
        assert_eq!(writer.size(), 12);
        let blob = writer.commit().unwrap();
        assert_eq!(blob, Blob { digest: Digest::of(b"hello, world"), size: 12 });
        assert_eq!(store.read(&blob.digest, 100).unwrap(), b"hello, world");
        assert!(store.holds(&blob.digest, 12).unwrap());
        assert!(!store.holds(&blob.digest, 13).unwrap());
        assert!(matches!(store.read(&blob.digest, 11), Err(StoreError::TooLarge { size: 12, .. })));
        assert!(matches!(store.open_blob(&Digest::of(b"?")), Err(StoreError::Missing(_))));
        assert!(nothing_temporary(&store));
    }

    #[test]
    fn a_blob_that_exists_is_not_rewritten() {
        let (_directory, store) = store();
        let blob = store.put(b"content").unwrap();
        let inode = std::fs::metadata(store.path(&blob.digest)).unwrap().ino();
        let mut writer = store.writer().unwrap();
        writer.append(b"content").unwrap();
        assert_eq!(writer.commit().unwrap(), blob);
        assert_eq!(std::fs::metadata(store.path(&blob.digest)).unwrap().ino(), inode);
        assert!(nothing_temporary(&store));
    }

    #[test]
    fn a_torn_blob_is_replaced() {
        let (_directory, store) = store();
        let blob = store.put(b"content").unwrap();
        std::fs::write(store.path(&blob.digest), b"con").unwrap();
        assert!(!store.holds(&blob.digest, blob.size).unwrap());
        store.put(b"content").unwrap();
        assert_eq!(store.read(&blob.digest, 100).unwrap(), b"content");
    }

    #[test]
    fn a_writer_that_is_dropped_or_wrong_leaves_nothing() {
        let (_directory, store) = store();
        let write = || {
            let mut writer = store.writer().unwrap();
            writer.append(b"abc").unwrap();
            writer
        };
        drop(write());
        let other = Digest::of(b"other");
        let mismatch = write().commit_as(&other, None).unwrap_err();
        assert!(
            matches!(mismatch, StoreError::Mismatch { expected, actual } if expected == other && actual == Digest::of(b"abc"))
        );
        let size = write().commit_as(&Digest::of(b"abc"), Some(4)).unwrap_err();
        assert!(matches!(size, StoreError::Size { expected: 4, actual: 3, .. }));
        assert!(nothing_temporary(&store));
        assert!(std::fs::read_dir(store.blobs()).unwrap().next().is_none());
        write().commit_as(&Digest::of(b"abc"), Some(3)).unwrap();
    }

    #[test]
    fn damaged_content_is_found_and_removed() {
        let (_directory, store) = store();
        let blob = store.put(b"content").unwrap();
        let damage = || std::fs::write(store.path(&blob.digest), b"CONTENT").unwrap();
        damage();
        assert!(matches!(store.read(&blob.digest, 100), Err(StoreError::Mismatch { .. })));
        assert!(!store.has(&blob.digest).unwrap());
        damage();
        let mut reader = store.open_verified(&blob.digest).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(error.downcast::<StoreError>(), Ok(StoreError::Mismatch { .. })));
        assert!(reader.read(&mut [0; 8]).is_err(), "and it stays an error");
        assert!(!store.has(&blob.digest).unwrap());
        store.put(b"content").unwrap();
        let mut back = Vec::new();
        store.open_verified(&blob.digest).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, b"content");
    }

    #[test]
    fn a_good_blob_is_not_removed_for_the_bad_one_it_replaced() {
        let (_directory, store) = store();
        let blob = store.put(b"content").unwrap();
        std::fs::write(store.path(&blob.digest), b"CONTENT").unwrap();
        let mut reader = store.open_verified(&blob.digest).unwrap();
        std::fs::remove_file(store.path(&blob.digest)).unwrap();
        store.put(b"content").unwrap();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(store.has(&blob.digest).unwrap());
    }

    #[test]
    fn use_is_noted() {
        let (_directory, store) = store();
        let blob = store.put(b"content").unwrap();
        let age = || {
            let modified = std::fs::metadata(store.path(&blob.digest)).unwrap().modified().unwrap();
            SystemTime::now().duration_since(modified).unwrap_or_default()
        };
        let old = SystemTime::now() - Duration::from_secs(86_400);
        let make_old = || {
            File::options().write(true).open(store.path(&blob.digest)).unwrap().set_modified(old).unwrap();
        };
        make_old();
        store.has(&blob.digest).unwrap();
        assert!(age() > Duration::from_secs(80_000), "to ask for it is not to use it");
        store.holds(&blob.digest, blob.size).unwrap();
        assert!(age() < Duration::from_secs(60));
        make_old();
        store.open_blob(&blob.digest).unwrap();
        assert!(age() < Duration::from_secs(60));
    }

    #[test]
    fn a_full_disk_is_an_error_of_its_own() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = Err::<(), _>(errno).at("write", Path::new("/x")).unwrap_err();
            assert!(matches!(&error, StoreError::Full { .. }), "{error:?}");
            assert_eq!(error.to_string(), "no space is left to write `/x`");
        }
        let error = Err::<(), _>(rustix::io::Errno::IO).at("write", Path::new("/x")).unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/x`");
    }
}
