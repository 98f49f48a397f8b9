//! What happens to a workspace when nobody waits for it any more.
//!
//! A root filesystem is ten to a hundred thousand files. To bring one back to what the next build wants, or to remove it,
//! can take longer than the build did: some disks are told of every block that becomes free, and answer before the next.
//! So a workspace that held one is left to a process of its own: this program again, started with [`COMMAND`], which
//! outlives the build and holds nothing but the workspace's lock. If it is killed, the next build sweeps up what it has
//! left; if it cannot be started, the build removes its workspace itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::error::{At, StoreError};
use super::{Store, Workspace, temp};

/// The first argument that makes this program take over a workspace. No verb of the command line begins like this.
pub const COMMAND: &str = "--cofferdam-take-over-workspace";

/// So long a prune waits for what is being kept.
const LONGEST: Duration = Duration::from_secs(30);

/// Starts `program` to take over the workspace whose lock is `lock`. Nobody waits for it, and it waits for nobody: it has
/// no terminal, no pipe and no directory that could be in somebody's way.
pub(super) fn start(program: &Path, lock: &Path) -> io::Result<()> {
    Command::new(program)
        // What lists of processes show.
        .arg0("cofferdam")
        .arg(COMMAND)
        .arg(std::path::absolute(lock)?)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map(drop)
}

/// The lock of the workspace that this process was started to take over, if it was.
pub fn asked() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().as_deref() == Some(OsStr::new(COMMAND));
    arguments.next().filter(|_| asked).map(PathBuf::from)
}

/// The workspace with this lock, and the store that it belongs to. `None` if somebody else has it. The store can be pruned
/// meanwhile, as soon as what is returned last is dropped: whoever goes on after that only removes.
///
/// # Errors
/// If it is in no store, or cannot be taken over.
pub fn take_over(lock: &Path) -> Result<Option<(Store, Workspace, Keeping)>, StoreError> {
    // DIR/cofferdam/workspaces/<id>.lock
    let Some(directory) = lock.ancestors().nth(3) else { return Ok(None) };
    let store = Store::open(directory)?;
    let Some(workspace) = store.take_over(lock)? else { return Ok(None) };
    let keeping = store.keeping(false)?;
    store.stand_aside()?;
    Ok(keeping.map(|keeping| (store, workspace, keeping)))
}

/// Held while what a build has left may still be kept. A prune waits for it a while.
#[derive(Debug)]
pub struct Keeping(#[allow(dead_code)] File);

impl Store {
    /// Says that something may be kept, or waits until nothing will (`alone`). `None` if that takes too long.
    pub(super) fn keeping(&self, alone: bool) -> Result<Option<Keeping>, StoreError> {
        let path = self.ours("keeping");
        let file = temp::open_lock(&path).at("open", &path)?;
        if !alone {
            temp::shared(&file, &path)?;
            return Ok(Some(Keeping(file)));
        }
        let deadline = Instant::now() + LONGEST;
        while !temp::try_exclusive(&file, &path)? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(Keeping(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(heir: &str) -> (tempfile::TempDir, Store, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = store.workspace().unwrap();
        let path = workspace.path().to_owned();
        std::fs::create_dir_all(path.join("root/usr/bin")).unwrap();
        workspace.leave_to(Path::new(heir));
        assert!(path.exists());
        drop(workspace);
        (directory, store, path)
    }

    #[test]
    fn a_workspace_is_removed_at_once_where_nobody_can_be_started() {
        let (_directory, _store, path) = workspace("/there/is/no/such/program");
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    #[test]
    fn what_a_successor_leaves_is_swept_up() {
        // A program that ends without having removed anything, as one that is killed does.
        let (_directory, store, path) = workspace("/bin/true");
        assert!(path.exists() && path.with_extension("lock").exists());
        assert_eq!(store.sweep().unwrap().workspaces, 1);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    #[test]
    fn a_workspace_is_taken_over_by_one_alone_and_goes_with_it() {
        let (_directory, _, path) = workspace("/bin/true");
        let lock = path.with_extension("lock");
        let (_store, taken, _keeping) = take_over(&lock).unwrap().unwrap();
        assert!(take_over(&lock).unwrap().is_none());
        assert_eq!(taken.path(), path);
        drop(taken);
        assert!(!path.exists() && !lock.exists());
    }
}
