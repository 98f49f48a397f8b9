//! What a build keeps on disk: blobs by digest, images by name, records, workspaces.
//!
//! The store is an OCI image layout (image specification 1.1, "Image Layout") that other tools read as
//! `oci:DIR:NAME`, with one directory of ours in it:
//!
//! ```text
//! DIR/oci-layout, index.json       the layout; names are in index.json
//! DIR/blobs/sha256/<hex>           every blob: manifests, configurations, layers
//! DIR/cofferdam/version            the format of this directory
//!               in-use             locked shared by every open `Store`, exclusively by a prune
//!               keeping            locked shared while roots are brought back to be kept
//!               names.lock         locked while index.json is rewritten
//!               tmp/               files that have no name yet, each locked by its writer
//!               partial/<hex>      downloads under way, each locked by its downloader
//!               records/<namespace>/<key>      small JSON documents of the cache
//!               sides/<kind>/<hex>             files that go with a digest (tree indexes)
//!               workspaces/<id>, <id>.lock     private directories of running builds
//!               roots/<id>                     root filesystems that the next build may go on from
//!               caches/<hex>/<n>/              directories of cache mounts
//! ```
//!
//! # Invariants
//! 1. A blob has its name only once its bytes were hashed and found to be what the name says. Blobs are never
//!    changed; they are removed by [`Store::prune`], or when reading them shows that the disk has lost them.
//! 2. `index.json` is replaced whole, and only by one that refers to images of which every blob is there.
//! 3. Every lock is an `flock`, which the kernel drops with its holder; there is nothing a crash can leave
//!    stuck.
//! 4. An open [`Store`] holds the shared lock. A prune needs the exclusive one, so it can never take away
//!    what a running build uses, be it this process's or another's.
//!
//! # Crashes
//! When a *process* dies, what it wrote is still in the kernel's memory, and the order of its operations is
//! kept: write, then rename. Nothing more is needed. What it left under temporary names is recognised by the
//! missing lock and removed by [`Store::sweep`]; a download goes on where it stopped.
//!
//! When the *machine* dies, files that were renamed but not yet written back can be short or missing. To wait
//! for the disk after every blob would cost more than such a loss: nearly all blobs of a CI build can be made
//! again. So only what a name refers to is waited for: [`Store::tag`] syncs the blobs of the image, then the
//! new index, then its directory. Everything else is checked when it is used: sizes by [`Store::holds`]
//! (journalling file systems extend a file only after its data is written, so a torn blob is a short one),
//! digests by [`Store::read`] and [`Store::open_verified`], and the diff ID by whoever unpacks a layer. A
//! blob that fails is removed and made anew; a torn record is a record that is not there.

mod blob;
mod caches;
mod download;
mod error;
mod kept;
mod names;
mod prune;
mod records;
pub mod succession;
mod temp;
mod workspace;

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

pub use blob::{Blob, BlobWriter, Verified};
pub use caches::{CacheAccount, CacheDirectory, CacheUse};
pub use download::{Claim, Download, Follower};
pub use error::StoreError;
pub use names::Named;
pub use prune::{NamedImages, PrunePolicy, Pruned, RecordView, Swept};
pub use records::SideWriter;
pub use workspace::Workspace;

use crate::image::Digest;
use error::At;
use temp::{Durable, Temp};

/// The format of our directory. A change that an older program would misread gets a new number.
const VERSION: &str = "1";
/// The content of `oci-layout`.
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The version of the layout, image specification 1.1.
const LAYOUT_VERSION: &str = "1.0.0";
/// An index with no names in it.
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// Others on the machine have no business in it.
const PRIVATE: u32 = 0o700;

/// A handle to a store, cheap to clone. While one is open nothing is removed from the store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Held shared for as long as this handle or a clone of it lives.
    in_use: File,
    /// The downloads of this process, so that a second part of it can follow instead of waiting.
    downloads: Mutex<HashMap<Digest, Weak<download::Progress>>>,
}

impl Store {
    /// Opens the store in `directory`, making it where there is none. Waits while a prune is running.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`] if the directory cannot be made or written, [`StoreError::NotALayout`] if
    /// it holds something else, [`StoreError::Version`] if it is a layout or store of another format.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = directory.into();
        make_directory(&root, true).map_err(|error| not_writable(&root, error))?;
        check_is_ours_or_empty(&root)?;
        let ours = root.join("cofferdam");
        for path in [
            ours.clone(),
            ours.join("tmp"),
            ours.join("partial"),
            ours.join("records"),
            ours.join("sides"),
            ours.join("workspaces"),
            ours.join("roots"),
            ours.join("caches"),
        ] {
            make_directory(&path, true).map_err(|error| not_writable(&root, error))?;
        }
        make_directory(&root.join("blobs/sha256"), false).map_err(|error| not_writable(&root, error))?;
        let lock_path = ours.join("in-use");
        let in_use = temp::open_lock(&lock_path).map_err(|error| not_writable(&root, error))?;
        temp::shared(&in_use, &lock_path)?;
        let store = Self { inner: Arc::new(Inner { root, in_use, downloads: Mutex::new(HashMap::new()) }) };
        store.lay_out()?;
        Ok(store)
    }

    /// Opens the store in `directory` to read from it: a volume that is mounted read-only, or one of somebody else. Nothing is
    /// made or mended in it, and what would write to it fails. Waits while a prune is running.
    ///
    /// # Errors
    /// [`StoreError::NotALayout`] if it is no store, [`StoreError::Version`] if it is a layout or store of another format; if
    /// the file system fails.
    pub fn open_read_only(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = directory.into();
        let layout_path = root.join("oci-layout");
        if !layout_path.try_exists().at("inspect", &layout_path)? {
            return Err(StoreError::NotALayout(root));
        }
        let lock_path = root.join("cofferdam/in-use");
        let in_use = match File::open(&lock_path) {
            // A layout of another tool, which nobody prunes.
            Err(error) if error.kind() == ErrorKind::NotFound => File::open(&layout_path),
            opened => opened,
        };
        let in_use = in_use.at("open", &lock_path)?;
        temp::shared(&in_use, &lock_path)?;
        let store = Self { inner: Arc::new(Inner { root, in_use, downloads: Mutex::new(HashMap::new()) }) };
        let version_path = store.ours("version");
        match std::fs::read_to_string(&version_path) {
            Ok(version) => store.check_version(&version)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &version_path),
        }
        store.check_layout()?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn directory(&self) -> &Path {
        &self.inner.root
    }

    /// A nameless file on the store's file system, for what does not fit in memory. It vanishes with its
    /// handle.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn scratch_file(&self) -> Result<File, StoreError> {
        let temp = Temp::create(&self.temporary(), "")?;
        // The name goes when `temp` is dropped, the file with the last handle.
        temp.file().try_clone().at("open", temp.path())
    }

    /// Lets a prune have its way, for what does not need it not to: removing what is one's own.
    fn stand_aside(&self) -> Result<(), StoreError> {
        self.inner.in_use.unlock().at("unlock", &self.ours("in-use"))
    }

    fn ours(&self, path: impl AsRef<Path>) -> PathBuf {
        self.inner.root.join("cofferdam").join(path)
    }

    fn temporary(&self) -> PathBuf {
        self.ours("tmp")
    }

    fn index_path(&self) -> PathBuf {
        self.inner.root.join("index.json")
    }

    /// Writes what makes the directory a layout, where it is missing, and checks what is there.
    fn lay_out(&self) -> Result<(), StoreError> {
        // Under the lock of the names: a second process must not replace an index that has a name by now.
        let _lock = self.lock_names()?;
        let write_missing = |path: PathBuf, content: &str| -> Result<(), StoreError> {
            match std::fs::symlink_metadata(&path) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    temp::replace(&path, &self.temporary(), content.as_bytes(), Durable::Process)
                }
                Err(error) => Err(error).at("inspect", &path),
            }
        };
        let version_path = self.ours("version");
        write_missing(version_path.clone(), VERSION)?;
        let version = std::fs::read_to_string(&version_path).at("read", &version_path)?;
        if version.is_empty() {
            temp::replace(&version_path, &self.temporary(), VERSION.as_bytes(), Durable::Process)?;
        }
        self.check_version(&version)?;
        let layout_path = self.inner.root.join("oci-layout");
        write_missing(layout_path.clone(), LAYOUT)?;
        write_missing(self.index_path(), EMPTY_INDEX)?;
        if !self.check_layout()? {
            temp::replace(&layout_path, &self.temporary(), LAYOUT.as_bytes(), Durable::Process)?;
        }
        Ok(())
    }

    /// A marker that was torn by a loss of power says nothing; there was one version only so far.
    fn check_version(&self, version: &str) -> Result<(), StoreError> {
        match version.trim() {
            "" | VERSION => Ok(()),
            other => Err(self.version_error(other, VERSION)),
        }
    }

    /// Says whether `oci-layout` has anything in it, which a loss of power may have taken.
    fn check_layout(&self) -> Result<bool, StoreError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Layout {
            image_layout_version: String,
        }
        let path = self.inner.root.join("oci-layout");
        let bytes = std::fs::read(&path).at("read", &path)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let layout: Layout =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path, source })?;
        if layout.image_layout_version != LAYOUT_VERSION {
            return Err(self.version_error(&layout.image_layout_version, LAYOUT_VERSION));
        }
        Ok(true)
    }

    fn version_error(&self, found: &str, known: &'static str) -> StoreError {
        StoreError::Version { path: self.inner.root.clone(), found: found.to_owned(), known }
    }
}

fn not_writable(root: &Path, source: std::io::Error) -> StoreError {
    StoreError::NotWritable { path: root.to_owned(), source }
}

/// Makes a directory and its parents. One that exists keeps its mode.
fn make_directory(path: &Path, private: bool) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mode = if private { PRIVATE } else { 0o755 };
    match DirBuilder::new().mode(mode).create(path) {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Refuses a directory in which somebody keeps other files: it was surely named by mistake.
fn check_is_ours_or_empty(root: &Path) -> Result<(), StoreError> {
    if root.join("oci-layout").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(root).at("list", root)? {
        let name = entry.at("list", root)?.file_name();
        // A process that is opening the store at this moment has made some of these; a volume's file system
        // root has `lost+found`.
        if !["cofferdam", "blobs", "index.json", "oci-layout", "lost+found"].iter().any(|ours| name == **ours)
        {
            return Err(StoreError::NotALayout(root.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// An empty store, and the directory that it goes with.
    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn makes_a_layout_and_opens_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a/b");
        drop(Store::open(&root).unwrap());
        let store = Store::open(&root).unwrap();
        assert_eq!(store.directory(), root);
        assert_eq!(std::fs::read_to_string(root.join("oci-layout")).unwrap(), LAYOUT);
        assert_eq!(std::fs::read_to_string(root.join("index.json")).unwrap(), EMPTY_INDEX);
        for path in [root.clone(), root.join("cofferdam"), root.join("cofferdam/workspaces")] {
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE, "{path:?}");
        }
        assert!(std::fs::read_dir(root.join("cofferdam/tmp")).unwrap().next().is_none());
    }

    #[test]
    fn leaves_a_directory_of_something_else_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::NotALayout(_))));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was added");
    }

    #[test]
    fn says_which_format_it_found() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        std::fs::write(directory.path().join("cofferdam/version"), "2\n").unwrap();
        let error = Store::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("format `2`") && error.contains("reads and writes `1`"), "{error}");
        std::fs::write(directory.path().join("cofferdam/version"), VERSION).unwrap();
        std::fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Version { .. })));
    }

    #[test]
    fn mends_markers_that_a_loss_of_power_has_emptied() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        std::fs::write(directory.path().join("cofferdam/version"), "").unwrap();
        std::fs::write(directory.path().join("oci-layout"), "").unwrap();
        drop(Store::open(directory.path()).unwrap());
        assert_eq!(std::fs::read_to_string(directory.path().join("oci-layout")).unwrap(), LAYOUT);
    }

    /// Everything below a directory, with modes and times of change.
    fn listing(directory: &Path) -> Vec<(PathBuf, u32, i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let mut open = vec![directory.to_owned()];
        let mut found = Vec::new();
        while let Some(path) = open.pop() {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            found.push((path, metadata.mode(), metadata.ctime(), metadata.ctime_nsec()));
        }
        found.sort();
        found
    }

    #[test]
    fn reading_a_store_makes_nothing_in_it() {
        let (directory, store) = store();
        let blob = store.put(b"layer").unwrap();
        store.put_record("layers", "a", &1).unwrap();
        drop(store);
        // What a loss of power has emptied is for whoever may write to mend.
        std::fs::write(directory.path().join("oci-layout"), "").unwrap();
        let before = listing(directory.path());
        let read = Store::open_read_only(directory.path()).unwrap();
        assert_eq!(read.read(&blob.digest, 10).unwrap(), b"layer");
        assert_eq!(read.record::<u32>("layers", "a").unwrap(), Some(1));
        assert_eq!(listing(directory.path()), before);
        let mut writing = Store::open(directory.path()).unwrap();
        let everything = PrunePolicy { all: true, ..PrunePolicy::default() };
        let prune = |store: &mut Store| store.prune(&everything, |_| Vec::new());
        assert!(matches!(prune(&mut writing), Err(StoreError::InUse(_))), "it is in use while it is read");
        drop(read);
        assert_eq!(prune(&mut writing).unwrap().blobs, 1);
    }

    #[test]
    fn what_is_no_store_or_of_another_format_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Store::open_read_only(directory.path());
        assert!(matches!(open(), Err(StoreError::NotALayout(_))));
        std::fs::write(directory.path().join("oci-layout"), LAYOUT).unwrap();
        drop(open().unwrap());
        drop(Store::open(directory.path()).unwrap());
        std::fs::write(directory.path().join("cofferdam/version"), "7").unwrap();
        assert!(matches!(open(), Err(StoreError::Version { .. })));
        std::fs::write(directory.path().join("cofferdam/version"), VERSION).unwrap();
        std::fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(matches!(open(), Err(StoreError::Version { .. })));
    }

    #[test]
    fn names_a_directory_that_cannot_be_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::open(file.path().join("store")).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
    }

    #[test]
    fn takes_a_layout_of_another_tool_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let index = r#"{"schemaVersion":2,"manifests":[],"annotations":{"com.example":"kept"}}"#;
        std::fs::write(directory.path().join("oci-layout"), LAYOUT).unwrap();
        std::fs::write(directory.path().join("index.json"), index).unwrap();
        std::fs::write(directory.path().join("repositories"), "theirs").unwrap();
        drop(Store::open(directory.path()).unwrap());
        assert_eq!(std::fs::read_to_string(directory.path().join("index.json")).unwrap(), index);
    }

    #[test]
    fn a_scratch_file_has_no_name() {
        use std::io::{Read, Seek, Write};
        let (_directory, store) = store();
        let mut file = store.scratch_file().unwrap();
        assert!(std::fs::read_dir(store.temporary()).unwrap().next().is_none());
        file.write_all(b"spilled").unwrap();
        file.rewind().unwrap();
        let mut back = String::new();
        file.read_to_string(&mut back).unwrap();
        assert_eq!(back, "spilled");
    }
}
