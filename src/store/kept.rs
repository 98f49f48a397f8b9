//! Directories that outlive a build because the next may go on from them: unpacked root filesystems.
//!
//! A kept directory is nobody's. Whoever wants one renames it into its own workspace, which only one can; so there is no
//! lock, and what a process had that was killed goes with its workspace.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{At, StoreError};
use super::prune::{PrunePolicy, Pruned, bytes_below};
use super::records::list;
use super::workspace::remove_tree;
use super::{Store, Workspace, temp};

/// So many directories are kept; the one that was used longest ago makes way.
const MOST: usize = 4;

impl Store {
    /// The kept directories, that which was used last first.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn kept(&self) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.ours("roots");
        let mut found = Vec::new();
        for name in list(&directory)? {
            let path = directory.join(name);
            match std::fs::metadata(&path) {
                Ok(metadata) => found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path)),
                // Somebody has taken it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("inspect", &path),
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Takes one of [`Store::kept`] as `to`, in a workspace. `false` if somebody else has taken it.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn take_kept(&self, kept: &Path, to: &Path) -> Result<bool, StoreError> {
        match std::fs::rename(kept, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("move", kept),
        }
    }

    /// Keeps `directory`, which lies in `workspace`. If there are too many then, others are left to the workspace's end.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn keep(&self, directory: &Path, workspace: &Workspace) -> Result<(), StoreError> {
        let to = self.ours("roots").join(temp::unique_name());
        std::fs::rename(directory, &to).at("move", directory)?;
        for (number, old) in self.kept()?.iter().enumerate().skip(MOST) {
            self.take_kept(old, &workspace.path().join(format!("old-{number}")))?;
        }
        Ok(())
    }

    /// Removes what was kept, as far as the policy does not spare it. Under a limit of bytes it goes first: it can be made
    /// again from what else there is.
    pub(super) fn prune_kept(&self, policy: &PrunePolicy, pruned: &mut Pruned) -> Result<(), StoreError> {
        for path in self.kept()? {
            let metadata = std::fs::metadata(&path).at("inspect", &path)?;
            let size = bytes_below(&path);
            if policy.leaves(&metadata, size, pruned) {
                continue;
            }
            remove_tree(&path)?;
            pruned.roots += 1;
            pruned.bytes += size;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(workspace: &Workspace, name: &str) -> PathBuf {
        let path = workspace.path().join(name);
        std::fs::create_dir_all(path.join("fs/usr")).unwrap();
        std::fs::write(path.join("fs/usr/file"), "content").unwrap();
        path
    }

    #[test]
    fn a_kept_directory_is_taken_once_and_the_oldest_makes_way() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let workspace = store.workspace().unwrap();
        for number in 0..MOST + 1 {
            let path = directory(&workspace, &format!("root-{number}"));
            std::fs::write(path.join("number"), number.to_string()).unwrap();
            store.keep(&path, &workspace).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let kept = store.kept().unwrap();
        let numbers: Vec<_> =
            kept.iter().map(|path| std::fs::read_to_string(path.join("number")).unwrap()).collect();
        assert_eq!(numbers, ["4", "3", "2", "1"]);
        let mine = workspace.path().join("mine");
        assert!(store.take_kept(&kept[0], &mine).unwrap());
        assert!(!store.take_kept(&kept[0], &workspace.path().join("again")).unwrap());
        assert_eq!(std::fs::read(mine.join("fs/usr/file")).unwrap(), b"content");
        assert_eq!(store.kept().unwrap(), kept[1..]);
    }

    #[test]
    fn a_prune_removes_what_was_kept_unless_it_is_young() {
        let place = tempfile::tempdir().unwrap();
        let mut store = Store::open(place.path()).unwrap();
        let workspace = store.workspace().unwrap();
        store.keep(&directory(&workspace, "root"), &workspace).unwrap();
        drop(workspace);
        let hour = Some(std::time::Duration::from_hours(1));
        let young = PrunePolicy { older_than: hour, ..PrunePolicy::default() };
        assert_eq!(store.prune(&young, |_| Vec::new()).unwrap().roots, 0);
        let pruned = store.prune(&PrunePolicy::default(), |_| Vec::new()).unwrap();
        assert_eq!(pruned.roots, 1);
        assert!(pruned.bytes >= 4096, "{pruned:?}");
        assert!(store.kept().unwrap().is_empty());
    }
}
