//! Downloads: resumed after a crash, made by one process at a time, readable while they run.
//!
//! A blob that is being downloaded is `partial/<hex>`, locked by its downloader. The bytes of that file are a
//! prefix of the blob, because they are only ever appended; after a loss of power they may be garbage, which
//! the digest shows in the end. A partial file that turns out wrong is removed, so that the next attempt
//! starts from nothing, and not emptied: a reader of the old file must never see bytes of two attempts.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::blob::{Blob, open_append};
use super::error::{At, StoreError};
use super::temp;
use crate::image::{Digest, Sha256};

/// Size of the pieces in which the bytes of an interrupted download are hashed again.
const REHASH_PIECE: usize = 256 * 1024;

/// Who downloads a blob.
#[derive(Debug)]
pub enum Claim {
    /// Nobody: it is in the store.
    Present(Blob),
    /// The caller, who goes on from [`Download::offset`].
    Ours(Download),
    /// Another part of this process; the content can be read while it comes in.
    Following(Follower),
    /// Another process. Claim again a little later: by then the blob is present, or, if that process died,
    /// the caller's to complete.
    Elsewhere,
}

/// How far a download is, for those who follow it.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes of the file that are the blob's.
    written: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
enum Outcome {
    Running,
    Complete,
    Failed(String),
}

impl Progress {
    fn new() -> Arc<Self> {
        let state = State { written: 0, outcome: Outcome::Running };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics with the lock held, and the numbers are valid at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, written: u64) {
        self.lock().written = written;
        self.changed.notify_all();
    }

    /// The first outcome counts.
    fn end(&self, outcome: Outcome) {
        let mut state = self.lock();
        if matches!(state.outcome, Outcome::Running) {
            state.outcome = outcome;
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Store {
    /// Claims the download of a blob. Never waits for a download; it reads what an interrupted one has left,
    /// which takes a moment for large blobs. `size` is what the descriptor says, if there is one.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn claim(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, StoreError> {
        loop {
            if let Some(present) = self.present(digest, size)? {
                return Ok(Claim::Present(present));
            }
            let path = self.partial(digest);
            let (file, progress) = {
                // Two parts of this process must not both find nobody downloading.
                let mut running = self.inner.downloads.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(progress) = running.get(digest).and_then(std::sync::Weak::upgrade)
                    && matches!(progress.lock().outcome, Outcome::Running)
                {
                    match Follower::open(&path, progress) {
                        Ok(follower) => return Ok(Claim::Following(follower)),
                        // It was completed or given up this moment.
                        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
                let file = open_append(&path).at("open", &path)?;
                if !temp::try_exclusive(&file, &path)? {
                    return Ok(Claim::Elsewhere);
                }
                if !temp::still_named(&file, &path).at("inspect", &path)? {
                    // Completed or given up by another process between our opening and our locking it.
                    continue;
                }
                // Another process may have completed it between our look at the blobs and our lock.
                if let Some(present) = self.present(digest, size)? {
                    std::fs::remove_file(&path).at("remove", &path)?;
                    return Ok(Claim::Present(present));
                }
                let progress = Progress::new();
                running.retain(|_, progress| progress.strong_count() > 0);
                running.insert(*digest, Arc::downgrade(&progress));
                (file, progress)
            };
            let mut download = Download {
                store: self.clone(),
                digest: *digest,
                size,
                file,
                path,
                hasher: Sha256::new(),
                written: 0,
                progress,
            };
            download.rehash()?;
            return Ok(Claim::Ours(download));
        }
    }

    fn present(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Blob>, StoreError> {
        let Some(found) = self.size(digest)? else { return Ok(None) };
        let wanted = size.unwrap_or(found);
        Ok(self.holds(digest, wanted)?.then_some(Blob { digest: *digest, size: wanted }))
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.ours("partial").join(digest.hex())
    }
}

/// A download that the caller performs. It outlives any number of connections: fetch from
/// [`Download::offset`] on and [`Download::append`]. Dropped without [`Download::commit`], what came in stays
/// for the next attempt, and followers fail.
#[derive(Debug)]
pub struct Download {
    store: Store,
    digest: Digest,
    size: Option<u64>,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    written: u64,
    progress: Arc<Progress>,
}

impl Download {
    /// How many bytes of the blob are there already.
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// The hash of the bytes that are there already.
    pub fn hash(&self) -> Sha256 {
        self.hasher.clone()
    }

    /// The blob.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Appends what came in.
    ///
    /// # Errors
    /// [`StoreError::Size`] if that is more than the blob's size; else if it cannot be written. After either,
    /// the download is to be dropped.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let after = self.written + bytes.len() as u64;
        if let Some(expected) = self.size
            && after > expected
        {
            return Err(self.spoiled(StoreError::Size { digest: self.digest, expected, actual: after }));
        }
        // By offset: what a failed write left behind is written over by the next.
        self.file.write_all_at(bytes, self.written).at("write", &self.path)?;
        self.hasher.update(bytes);
        self.written = after;
        self.progress.advance(after);
        Ok(())
    }

    /// Names the blob, now that it is complete. Followers reach their end.
    ///
    /// # Errors
    /// [`StoreError::Size`] or [`StoreError::Mismatch`] if it is not the blob that was wanted; nothing of it
    /// is kept then.
    pub fn commit(mut self) -> Result<Blob, StoreError> {
        if let Some(expected) = self.size
            && expected != self.written
        {
            // Too short is not wrong: the rest can still come, in another attempt.
            return Err(StoreError::Size { digest: self.digest, expected, actual: self.written });
        }
        let actual = std::mem::take(&mut self.hasher).finish();
        if actual != self.digest {
            return Err(self.spoiled(StoreError::Mismatch { expected: self.digest, actual }));
        }
        // An earlier process may have written more than it announced as written.
        self.file.set_len(self.written).at("truncate", &self.path)?;
        let path = self.store.path(&self.digest);
        std::fs::rename(&self.path, &path).at("rename a download to", &path)?;
        self.progress.end(Outcome::Complete);
        Ok(Blob { digest: self.digest, size: self.written })
    }

    /// Gives up and keeps nothing: what came in turned out to be wrong. Followers fail.
    pub fn discard(&mut self) {
        self.remove();
        self.progress.end(Outcome::Failed("what came in was not the blob".to_owned()));
    }

    /// Gives up, and tells followers why. What came in is kept for the next attempt.
    pub fn fail(self, reason: &str) {
        self.progress.end(Outcome::Failed(reason.to_owned()));
    }

    /// A reader of the content that waits for what has not come in yet.
    ///
    /// # Errors
    /// If the file cannot be opened again.
    pub fn follow(&self) -> Result<Follower, StoreError> {
        Follower::open(&self.path, Arc::clone(&self.progress))
    }

    /// Hashes what an interrupted download has left.
    fn rehash(&mut self) -> Result<(), StoreError> {
        let length = self.file.metadata().at("inspect", &self.path)?.len();
        if self.size.is_some_and(|size| length > size) {
            // More than there can be: not ours to make sense of. No follower has seen it.
            return self.file.set_len(0).at("truncate", &self.path);
        }
        let mut buffer = vec![0; REHASH_PIECE.min(usize::try_from(length).unwrap_or(REHASH_PIECE))];
        while self.written < length {
            let count = match self.file.read_at(&mut buffer, self.written) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).at("read", &self.path),
            };
            self.hasher.update(buffer.get(..count).unwrap_or_default());
            self.written += count as u64;
            self.progress.advance(self.written);
        }
        Ok(())
    }

    /// Removes the partial file; what is in it is wrong, or not needed.
    fn remove(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }

    fn spoiled(&mut self, error: StoreError) -> StoreError {
        self.remove();
        self.progress.end(Outcome::Failed(error.to_string()));
        error
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.progress.end(Outcome::Failed("the download was given up".to_owned()));
    }
}

/// Reads a blob while it comes in. Blocks until there is more; the end is reached once the blob was verified.
/// An error before it means that the bytes read so far may be wrong: nothing made from them is to be kept.
#[derive(Debug)]
pub struct Follower {
    file: File,
    path: PathBuf,
    position: u64,
    progress: Arc<Progress>,
}

impl Follower {
    /// Opens the file anew: a duplicate of the downloader's descriptor would share, and so prolong, its lock.
    fn open(path: &Path, progress: Arc<Progress>) -> Result<Self, StoreError> {
        let file = File::open(path).at("open", path)?;
        Ok(Self { file, path: path.to_owned(), position: 0, progress })
    }

    /// Waits until there are bytes behind `position`, and says how many; 0 at the verified end.
    fn available(&self) -> io::Result<u64> {
        let mut state = self.progress.lock();
        loop {
            let available = state.written.saturating_sub(self.position);
            match &state.outcome {
                Outcome::Failed(reason) => {
                    let reason = format!("the download of `{}` failed: {reason}", self.path.display());
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, reason));
                }
                Outcome::Complete => return Ok(available),
                Outcome::Running if available > 0 => return Ok(available),
                Outcome::Running => {}
            }
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let available = usize::try_from(self.available()?).unwrap_or(usize::MAX);
        let wanted = available.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let count = self.file.read_at(buffer, self.position).at("read", &self.path)?;
        if count == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the partial download was truncated"));
        }
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    fn ours(store: &Store, content: &[u8]) -> Download {
        match store.claim(&Digest::of(content), Some(content.len() as u64)).unwrap() {
            Claim::Ours(download) => download,
            other => panic!("expected the download to be ours: {other:?}"),
        }
    }

    #[test]
    fn resumes_and_completes() {
        let (_directory, store) = store();
        let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = content.split_at(1_234_567);
        let mut download = ours(&store, &content);
        assert_eq!(download.offset(), 0);
        download.append(first).unwrap();
        drop(download);
        let mut download = ours(&store, &content);
        assert_eq!(download.offset(), first.len() as u64, "goes on where it stopped");
        assert_eq!(download.hash().finish(), Digest::of(first), "which it has read already");
        let mut follower = download.follow().unwrap();
        download.append(second).unwrap();
        let blob = download.commit().unwrap();
        assert_eq!(store.read(&blob.digest, blob.size).unwrap(), content);
        let mut followed = Vec::new();
        follower.read_to_end(&mut followed).unwrap();
        assert!(followed == content, "a follower gets the bytes of the earlier attempt too");
        assert!(
            matches!(store.claim(&blob.digest, Some(blob.size)).unwrap(), Claim::Present(found) if found == blob)
        );
        assert!(std::fs::read_dir(store.ours("partial")).unwrap().next().is_none());
    }

    #[test]
    fn a_follower_reads_while_the_bytes_come_in() {
        let (_directory, store) = store();
        let content = vec![7_u8; 3 << 20];
        let mut download = ours(&store, &content);
        let follower = match store.claim(&Digest::of(&content), None).unwrap() {
            Claim::Following(follower) => follower,
            other => panic!("{other:?}"),
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut follower = follower;
            let mut buffer = vec![0; 1 << 20];
            let mut total = 0;
            loop {
                let count = follower.read(&mut buffer).unwrap();
                total += count;
                sender.send(total).unwrap();
                if count == 0 {
                    return total;
                }
            }
        });
        for piece in content.chunks(1 << 20) {
            download.append(piece).unwrap();
            // The reader gets each piece before the next one is there.
            while receiver.recv().unwrap() as u64 != download.offset() {}
        }
        assert!(!reader.is_finished(), "it waits for the verdict at the end");
        download.commit().unwrap();
        assert_eq!(reader.join().unwrap(), content.len());
    }

    #[test]
    fn followers_learn_of_failure() {
        let (_directory, store) = store();
        let mut download = ours(&store, b"content");
        download.append(b"con").unwrap();
        let mut follower = download.follow().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(follower.read(&mut buffer).unwrap(), 3);
        let waiting = std::thread::spawn(move || follower.read(&mut [0; 16]).unwrap_err().to_string());
        download.fail("the registry has gone away");
        assert!(waiting.join().unwrap().ends_with("failed: the registry has gone away"));
        assert_eq!(ours(&store, b"content").offset(), 3, "what came in is kept");
    }

    #[test]
    fn wrong_content_is_not_kept() {
        let (_directory, store) = store();
        let mut download = ours(&store, b"content");
        let mut follower = download.follow().unwrap();
        download.append(b"CONTENT").unwrap();
        assert!(matches!(download.commit(), Err(StoreError::Mismatch { .. })));
        assert!(follower.read_to_end(&mut Vec::new()).is_err(), "no follower takes it for complete");
        let mut download = ours(&store, b"content");
        assert_eq!(download.offset(), 0, "the next attempt starts anew");
        assert!(matches!(download.append(b"contents"), Err(StoreError::Size { expected: 7, actual: 8, .. })));
        assert!(!store.has(&Digest::of(b"content")).unwrap());
    }

    #[test]
    fn a_short_download_can_go_on() {
        let (_directory, store) = store();
        let mut download = ours(&store, b"content");
        download.append(b"con").unwrap();
        assert!(matches!(download.commit(), Err(StoreError::Size { expected: 7, actual: 3, .. })));
        let mut download = ours(&store, b"content");
        assert_eq!(download.offset(), 3);
        download.append(b"tent").unwrap();
        download.commit().unwrap();
    }

    #[test]
    fn a_partial_file_longer_than_the_blob_is_started_anew() {
        let (_directory, store) = store();
        std::fs::write(store.partial(&Digest::of(b"content")), b"content and more").unwrap();
        let mut download = ours(&store, b"content");
        assert_eq!(download.offset(), 0);
        download.append(b"content").unwrap();
        download.commit().unwrap();
        assert_eq!(store.size(&Digest::of(b"content")).unwrap(), Some(7));
    }

    #[test]
    fn one_of_many_downloads_and_all_get_it() {
        let (directory, _) = store();
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(&content);
        let downloads = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // A handle of its own is to the others what another process is.
                    let store = Store::open(directory.path()).unwrap();
                    loop {
                        match store.claim(&digest, Some(content.len() as u64)).unwrap() {
                            Claim::Present(_) => break,
                            Claim::Ours(mut download) => {
                                downloads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                let start = usize::try_from(download.offset()).unwrap();
                                for piece in content[start..].chunks(100_000) {
                                    download.append(piece).unwrap();
                                }
                                download.commit().unwrap();
                            }
                            Claim::Elsewhere => std::thread::sleep(std::time::Duration::from_millis(1)),
                            Claim::Following(_) => unreachable!("no handle is shared"),
                        }
                    }
                    assert_eq!(store.read(&digest, 1 << 30).unwrap(), content);
                });
            }
        });
        assert_eq!(downloads.into_inner(), 1);
    }
}
