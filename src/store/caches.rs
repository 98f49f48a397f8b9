//! Directories of cache mounts: what steps keep from one build to the next.
//!
//! ```text
//! cofferdam/caches/<hex>/lock                    held while one of the directories is chosen
//! cofferdam/caches/<hex>/<n>/lock                held by who uses the directory: shared, or exclusively
//! cofferdam/caches/<hex>/<n>/account.lock        held while `files` is made and `account` is rewritten
//! cofferdam/caches/<hex>/<n>/account             what the files are to steps
//! cofferdam/caches/<hex>/<n>/files               the directory that steps see
//! ```
//!
//! A cache has more than one directory only where two steps used it at a time that would not share it. Locks are `flock`s:
//! a build that is killed leaves none, and the files as they are.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{At, StoreError};
use super::prune::bytes_below;
use super::records::list;
use super::temp::{self, Durable};
use super::workspace::remove_tree;
use super::{Store, blob, make_directory};
use crate::image::Digest;

/// The directory that steps see.
const FILES: &str = "files";
/// What its files are to steps.
const ACCOUNT: &str = "account";
const LOCK: &str = "lock";
const ACCOUNT_LOCK: &str = "account.lock";

/// How a step uses a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// With everybody else who does so.
    Shared,
    /// Alone: if somebody else uses it, another directory is made.
    Private,
    /// Alone: if somebody else uses it, after them.
    Locked,
}

/// A cache's directory, in use. Given back when dropped.
#[derive(Debug)]
pub struct CacheDirectory {
    path: PathBuf,
    temporary: PathBuf,
    /// Held while this lives.
    _lock: File,
    /// Nothing is pruned meanwhile.
    _store: Store,
}

/// The right to change a cache's account, alone.
#[derive(Debug)]
pub struct CacheAccount<'a> {
    cache: &'a CacheDirectory,
    _lock: File,
}

/// A cache's directory as a prune sees it.
#[derive(Debug)]
pub(super) struct StoredCache {
    pub path: PathBuf,
    pub used: SystemTime,
    pub bytes: u64,
}

impl Store {
    /// A directory of the cache `key`. `None` if it has to be waited for.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn cache_directory(&self, key: &Digest, how: CacheUse) -> Result<Option<CacheDirectory>, StoreError> {
        let place = self.ours("caches").join(key.hex());
        make_directory(&place, true).at("create", &place)?;
        let choosing = place.join(LOCK);
        let lock = temp::open_lock(&choosing).at("open", &choosing)?;
        temp::exclusive(&lock, &choosing)?;
        let mut number = 0_u32;
        loop {
            let path = place.join(number.to_string());
            let is_new = !path.exists();
            if is_new && number > 0 && how == CacheUse::Locked {
                return Ok(None);
            }
            make_directory(&path, true).at("create", &path)?;
            let in_use = path.join(LOCK);
            let lock = temp::open_lock(&in_use).at("open", &in_use)?;
            let ours = match how {
                CacheUse::Shared => temp::try_shared(&lock, &in_use)?,
                CacheUse::Private | CacheUse::Locked => temp::try_exclusive(&lock, &in_use)?,
            };
            if ours {
                blob::mark_used(&lock, None);
                let temporary = self.temporary();
                return Ok(Some(CacheDirectory { path, temporary, _lock: lock, _store: self.clone() }));
            }
            number += 1;
        }
    }

    /// The directories of all caches.
    pub(super) fn stored_caches(&self) -> Result<Vec<StoredCache>, StoreError> {
        let caches = self.ours("caches");
        let mut stored = Vec::new();
        for cache in list(&caches)? {
            for name in list(&caches.join(&cache))? {
                let path = caches.join(&cache).join(name);
                if !path.is_dir() {
                    continue;
                }
                let used = std::fs::metadata(path.join(LOCK)).and_then(|lock| lock.modified());
                let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
                let bytes = bytes_below(&path);
                stored.push(StoredCache { path, used, bytes });
            }
        }
        Ok(stored)
    }

    /// Removes a cache's directory, which nobody uses.
    pub(super) fn remove_cache(&self, path: &Path) -> Result<(), StoreError> {
        remove_tree(path)?;
        if let Some(place) = path.parent()
            && !list(place)?.iter().any(|name| name != LOCK)
        {
            remove_tree(place)?;
        }
        Ok(())
    }
}

impl CacheDirectory {
    /// Where the directory that steps see is, or is to be.
    pub fn files(&self) -> PathBuf {
        self.path.join(FILES)
    }

    /// Waits for the right to make the directory and to change what is known of its files.
    ///
    /// # Errors
    /// If the lock cannot be had.
    pub fn account(&self) -> Result<CacheAccount<'_>, StoreError> {
        let path = self.path.join(ACCOUNT_LOCK);
        let lock = temp::open_lock(&path).at("open", &path)?;
        temp::exclusive(&lock, &path)?;
        Ok(CacheAccount { cache: self, _lock: lock })
    }
}

impl CacheAccount<'_> {
    /// What was written last; the default if there is nothing that can be read.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn read<T: DeserializeOwned + Default>(&self) -> Result<T, StoreError> {
        let path = self.cache.path.join(ACCOUNT);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => return Err(error).at("read", &path),
        };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "ignoring what cannot be read of a cache");
            T::default()
        }))
    }

    /// Replaces it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write<T: Serialize>(&self, account: &T) -> Result<(), StoreError> {
        let path = self.cache.path.join(ACCOUNT);
        let bytes =
            serde_json::to_vec(account).map_err(|source| StoreError::Json { path: path.clone(), source })?;
        temp::replace(&path, &self.cache.temporary, &bytes, Durable::Process)
    }

    /// A place beside the directory in which its first content is put together; what an earlier attempt has left is removed.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn draft(&self) -> Result<PathBuf, StoreError> {
        let path = self.cache.path.join("draft");
        remove_tree(&path)?;
        Ok(path)
    }

    /// Makes the draft the directory.
    ///
    /// # Errors
    /// If there is one.
    pub fn publish(&self) -> Result<(), StoreError> {
        let files = self.cache.files();
        std::fs::rename(self.cache.path.join("draft"), &files).at("make", &files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(store: &Store) -> Vec<String> {
        let caches = store.stored_caches().unwrap();
        let mut names: Vec<_> = caches.iter().map(|cache| cache.path.display().to_string()).collect();
        names.sort();
        names.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn who_shares_has_one_directory_and_who_does_not_another() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let get = |how| store.cache_directory(&Digest::of(b"pip"), how).unwrap();
        let (first, second) = (get(CacheUse::Shared).unwrap(), get(CacheUse::Shared).unwrap());
        assert_eq!(first.files(), second.files());
        assert!(get(CacheUse::Locked).is_none(), "it has to wait");
        let private = get(CacheUse::Private).unwrap();
        assert_ne!(private.files(), first.files());
        drop((first, second));
        let locked = get(CacheUse::Locked).unwrap();
        assert!(get(CacheUse::Locked).is_none());
        let beside = get(CacheUse::Shared).unwrap();
        assert!(beside.files() != locked.files() && beside.files() != private.files());
        drop((private, locked, beside));
        assert_eq!(numbers(&store), ["0", "1", "2"]);
        assert!(get(CacheUse::Private).unwrap().files().ends_with("0/files"), "the first that is free");
        let other = store.cache_directory(&Digest::of(b"npm"), CacheUse::Locked).unwrap();
        assert!(other.is_some());
    }

    #[test]
    fn an_account_is_read_as_it_was_written_and_rubbish_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let cache = store.cache_directory(&Digest::of(b"pip"), CacheUse::Shared).unwrap().unwrap();
        let account = cache.account().unwrap();
        assert_eq!(account.read::<Vec<u32>>().unwrap(), Vec::<u32>::new());
        account.write(&vec![1, 2]).unwrap();
        assert_eq!(account.read::<Vec<u32>>().unwrap(), [1, 2]);
        std::fs::write(cache.path.join(ACCOUNT), "[1, ").unwrap();
        assert_eq!(account.read::<Vec<u32>>().unwrap(), Vec::<u32>::new());
        std::fs::create_dir(account.draft().unwrap()).unwrap();
        account.publish().unwrap();
        assert!(cache.files().is_dir());
    }
}
