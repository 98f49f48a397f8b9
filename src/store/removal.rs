//! Removing a workspace when nobody waits for it any more.
//!
//! A root filesystem is ten to a hundred thousand files, and to remove them can take longer than the build did: some disks
//! are told of every block that becomes free, and answer before the next. So a workspace that held one is left to a process
//! of its own: this program again, started with [`COMMAND`], which outlives the build and holds nothing but the workspace's
//! lock. If it is killed, the next build sweeps up what it has left; if it cannot be started, the build removes its
//! workspace itself.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::workspace::sweep_workspace;

/// The first argument that makes this program remove a workspace. No verb of the command line begins like this.
pub const COMMAND: &str = "--cofferdam-remove-workspace";

/// Starts `program` to remove the workspace whose lock is `lock`. Nobody waits for it, and it waits for nobody: it has no
/// terminal, no pipe and no directory that could be in somebody's way.
pub(super) fn start(program: &Path, lock: &Path) -> io::Result<()> {
    Command::new(program)
        // What lists of processes show.
        .arg0("cofferdam")
        .arg(COMMAND)
        .arg(lock)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map(drop)
}

/// Whether this process was started to remove a workspace; if so it does, and gives its exit status.
pub fn run_if_asked() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(COMMAND)) {
        return None;
    }
    let lock = arguments.next().map(PathBuf::from)?;
    let (Some(workspaces), Some(name)) = (lock.parent(), lock.file_name().and_then(OsStr::to_str)) else {
        return Some(2);
    };
    // Whoever builds meanwhile goes first.
    let _ = rustix::process::nice(LAST);
    Some(i32::from(sweep_workspace(workspaces, name).is_err()))
}

/// The lowest priority.
const LAST: i32 = 19;

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    fn workspace(remover: &str) -> (tempfile::TempDir, Store, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = store.workspace().unwrap();
        let path = workspace.path().to_owned();
        std::fs::create_dir_all(path.join("root/usr/bin")).unwrap();
        workspace.remove_later(Path::new(remover));
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
    fn what_a_remover_leaves_is_swept_up() {
        // A program that ends without having removed anything, as one that is killed does.
        let (_directory, store, path) = workspace("/bin/true");
        assert!(path.exists() && path.with_extension("lock").exists());
        assert_eq!(store.sweep().unwrap().workspaces, 1);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }
}
