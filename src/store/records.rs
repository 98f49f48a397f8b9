//! Records: small JSON documents by key; side files: data that goes with a digest.
//!
//! Both are caches. They are replaced whole, so that a reader sees the old or the new; one that a loss of
//! power has torn is a record that is not there.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::blob::mark_used;
use super::error::{At, StoreError};
use super::temp::{self, Durable, Temp};
use crate::image::Digest;

/// The longest part of a key. Keys are digests and tags; file names end at 255 bytes.
const MAX_KEY: usize = 128;
/// The largest record. Larger than any that is written; a reader does not allocate without bound.
const MAX_RECORD: u64 = 16 << 20;

/// A record as a prune sees it.
#[derive(Debug)]
pub(super) struct StoredRecord {
    pub namespace: String,
    pub key: String,
    pub path: PathBuf,
    pub used: SystemTime,
    pub size: u64,
}

impl Store {
    /// The record of a key; `None` if there is none, or what is there cannot be read as a `T`: an older
    /// program's record, or a torn one.
    ///
    /// # Errors
    /// If the file system fails, or the key cannot be one.
    pub fn record<T: DeserializeOwned>(&self, namespace: &str, key: &str) -> Result<Option<T>, StoreError> {
        let path = self.record_path(namespace, key)?;
        let Some(bytes) = read_small(&path, true)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(namespace, key, %error, "ignoring a record that cannot be read");
                Ok(None)
            }
        }
    }

    /// Writes the record of a key, replacing the one that is there.
    ///
    /// # Errors
    /// If it cannot be written, or the key cannot be one.
    pub fn put_record<T: Serialize>(&self, namespace: &str, key: &str, record: &T) -> Result<(), StoreError> {
        let path = self.record_path(namespace, key)?;
        let bytes =
            serde_json::to_vec(record).map_err(|source| StoreError::Json { path: path.clone(), source })?;
        let directory = self.ours("records").join(namespace);
        super::make_directory(&directory, true).at("create", &directory)?;
        temp::replace(&path, &self.temporary(), &bytes, Durable::Process)
    }

    /// Removes a record. Says whether it was there.
    ///
    /// # Errors
    /// If the file system fails, or the key cannot be one.
    pub fn remove_record(&self, namespace: &str, key: &str) -> Result<bool, StoreError> {
        let path = self.record_path(namespace, key)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("remove", &path),
        }
    }

    /// The keys of a namespace, in order.
    ///
    /// # Errors
    /// If the file system fails, or the namespace cannot be one.
    pub fn record_keys(&self, namespace: &str) -> Result<Vec<String>, StoreError> {
        check_key(namespace)?;
        let directory = self.ours("records").join(namespace);
        let mut keys: Vec<String> =
            list(&directory)?.into_iter().filter(|key| check_key(key).is_ok()).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// The side file of a kind that goes with `digest`, if there is one.
    ///
    /// # Errors
    /// If the file system fails, or the kind cannot be one.
    pub fn side(&self, kind: &str, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.side_path(kind, digest)?;
        match File::open(&path) {
            Ok(file) => {
                mark_used(&file, file.metadata().ok().and_then(|metadata| metadata.modified().ok()));
                Ok(Some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// A writer of a side file, whose digest need not be known yet.
    ///
    /// # Errors
    /// If the temporary file cannot be made.
    pub fn side_writer(&self) -> Result<SideWriter, StoreError> {
        Ok(SideWriter { store: self.clone(), temp: Temp::create(&self.temporary(), "")?, broken: false })
    }

    /// Removes a side file, which was found to be damaged or of an older format.
    ///
    /// # Errors
    /// If the file system fails, or the kind cannot be one.
    pub fn remove_side(&self, kind: &str, digest: &Digest) -> Result<(), StoreError> {
        let path = self.side_path(kind, digest)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", &path),
            _ => Ok(()),
        }
    }

    /// Every record, for a prune.
    pub(super) fn stored_records(&self) -> Result<Vec<StoredRecord>, StoreError> {
        let root = self.ours("records");
        let mut found = Vec::new();
        for namespace in list(&root)? {
            for key in list(&root.join(&namespace))? {
                let path = root.join(&namespace).join(&key);
                let metadata = std::fs::metadata(&path).at("inspect", &path)?;
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(StoredRecord {
                    namespace: namespace.clone(),
                    key,
                    path,
                    used,
                    size: metadata.len(),
                });
            }
        }
        Ok(found)
    }

    /// Every side file: its path and its digest, for a prune.
    pub(super) fn stored_sides(&self) -> Result<Vec<(PathBuf, Option<Digest>)>, StoreError> {
        let root = self.ours("sides");
        let mut found = Vec::new();
        for kind in list(&root)? {
            for name in list(&root.join(&kind))? {
                found.push((root.join(&kind).join(&name), format!("sha256:{name}").parse().ok()));
            }
        }
        Ok(found)
    }

    fn record_path(&self, namespace: &str, key: &str) -> Result<PathBuf, StoreError> {
        check_key(namespace)?;
        check_key(key)?;
        Ok(self.ours("records").join(namespace).join(key))
    }

    fn side_path(&self, kind: &str, digest: &Digest) -> Result<PathBuf, StoreError> {
        check_key(kind)?;
        Ok(self.ours("sides").join(kind).join(digest.hex()))
    }
}

/// Writes a side file. Dropped without [`SideWriter::commit`] it leaves nothing behind. Each `write` is a
/// system call.
#[derive(Debug)]
pub struct SideWriter {
    store: Store,
    temp: Temp,
    broken: bool,
}

impl SideWriter {
    /// Makes the file the side file of a kind of `digest`, replacing the one that is there.
    ///
    /// # Errors
    /// If a write failed before, the file cannot be renamed, or the kind cannot be one.
    pub fn commit(self, kind: &str, digest: &Digest) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken(self.temp.path().to_owned()));
        }
        let path = self.store.side_path(kind, digest)?;
        let directory = self.store.ours("sides").join(kind);
        super::make_directory(&directory, true).at("create", &directory)?;
        self.temp.rename(&path)
    }
}

impl Write for SideWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(StoreError::Broken(self.temp.path().to_owned()).into());
        }
        let written = self.temp.file().write_all(bytes).at("write", self.temp.path());
        self.broken = written.is_err();
        written?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    let legal = (1..=MAX_KEY).contains(&key.len())
        && !key.starts_with('.')
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if legal { Ok(()) } else { Err(StoreError::Key(key.to_owned())) }
}

/// The content of a record, if there is one. `using` makes it count as used now.
pub(super) fn read_small(path: &std::path::Path, using: bool) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", path),
    };
    if using {
        mark_used(&file, file.metadata().ok().and_then(|metadata| metadata.modified().ok()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes).at("read", path)?;
    Ok(Some(bytes))
}

/// The names in a directory; none if it does not exist.
pub(super) fn list(directory: &std::path::Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list", directory),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Every name in our directories is ours, and ASCII.
        names.extend(entry.at("list", directory)?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;
    use rstest::rstest;

    #[test]
    fn records_are_written_replaced_listed_and_removed() {
        let (_directory, store) = store();
        assert_eq!(store.record::<Vec<u32>>("steps", "a").unwrap(), None);
        store.put_record("steps", "b", &[1, 2]).unwrap();
        store.put_record("steps", "a", &[1]).unwrap();
        store.put_record("steps", "a", &[3]).unwrap();
        store.put_record("other", "c", &"x").unwrap();
        assert_eq!(store.record::<Vec<u32>>("steps", "a").unwrap(), Some(vec![3]));
        assert_eq!(store.record_keys("steps").unwrap(), ["a", "b"]);
        assert!(store.record_keys("none").unwrap().is_empty());
        assert!(store.remove_record("steps", "a").unwrap());
        assert!(!store.remove_record("steps", "a").unwrap());
        assert_eq!(store.record_keys("steps").unwrap(), ["b"]);
    }

    #[rstest]
    #[case::torn(b"[1,")]
    #[case::emptied(b"")]
    #[case::of_another_program(b"{\"v\":2}")]
    fn a_record_that_cannot_be_read_is_not_there(#[case] content: &[u8]) {
        let (_directory, store) = store();
        store.put_record("steps", "a", &[1]).unwrap();
        std::fs::write(store.record_path("steps", "a").unwrap(), content).unwrap();
        assert_eq!(store.record::<Vec<u32>>("steps", "a").unwrap(), None);
    }

    #[rstest]
    #[case("")]
    #[case("..")]
    #[case(".hidden")]
    #[case("a/b")]
    #[case("a\0b")]
    #[case("\u{e9}")]
    #[case(&"a".repeat(129))]
    fn keys_cannot_leave_their_directory(#[case] key: &str) {
        let (_directory, store) = store();
        assert!(matches!(store.put_record("steps", key, &1), Err(StoreError::Key(_))));
        assert!(matches!(store.put_record(key, "key", &1), Err(StoreError::Key(_))));
        assert!(matches!(store.record::<u32>("steps", key), Err(StoreError::Key(_))));
        assert!(matches!(store.side(key, &Digest::of(b"")), Err(StoreError::Key(_))));
    }

    #[test]
    fn a_side_file_appears_when_it_is_complete() {
        let (_directory, store) = store();
        let digest = Digest::of(b"layer");
        let mut writer = store.side_writer().unwrap();
        writer.write_all(b"index").unwrap();
        assert!(store.side("tree", &digest).unwrap().is_none());
        writer.commit("tree", &digest).unwrap();
        let mut back = String::new();
        store.side("tree", &digest).unwrap().unwrap().read_to_string(&mut back).unwrap();
        assert_eq!(back, "index");
        assert!(store.side("other", &digest).unwrap().is_none());
        drop(store.side_writer().unwrap());
        assert!(list(&store.temporary()).unwrap().is_empty());
        store.remove_side("tree", &digest).unwrap();
        store.remove_side("tree", &digest).unwrap();
        assert!(store.side("tree", &digest).unwrap().is_none());
    }
}
