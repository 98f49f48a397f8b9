//! Commands as an ordinary user without any privilege: what a container of a restricted pod is, less its seccomp
//! profile (that one only a pod of [`Cluster`](super::Cluster) has).

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Scratch;

/// A user and directories that are theirs.
pub struct Unprivileged {
    id: u32,
    directory: Scratch,
}

impl Unprivileged {
    /// User and group `id`, with a home and a temporary directory of their own.
    pub fn new(id: u32) -> Self {
        let directory = Scratch::new("cofferdam-user-");
        // Temporary directories are made for root alone; the way to the user's own must be open.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
        let user = Self { id, directory };
        for name in ["home", "tmp", "work"] {
            user.directory(name);
        }
        user
    }

    /// Makes a directory that belongs to the user; gives its path.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        chown(&path, Some(self.id), Some(self.id)).expect("root can give it away");
        path
    }

    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Copies a program to where the user reaches it, whatever directory it was built in.
    pub fn bring(&self, program: &Path) -> PathBuf {
        let to = self.directory.path().join(program.file_name().expect("a file"));
        if !to.exists() && std::fs::hard_link(program, &to).is_err() {
            std::fs::copy(program, &to).expect("a copy of the program");
        }
        to
    }

    /// A command with the user's ids, no group, no capability in any set and no way to gain one; of the environment
    /// it has `PATH`, `HOME` and `TMPDIR`, and it starts in the directory `work`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> assert_cmd::Command {
        assert_cmd::Command::from_std(self.plain_command(program))
    }

    /// The same for who talks to it while it runs.
    pub fn plain_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("TMPDIR", self.directory.path().join("tmp"))
            .current_dir(self.directory.path().join("work"))
            .args([format!("--reuid={}", self.id), format!("--regid={}", self.id)])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"])
            .args(["--no-new-privs", "--"])
            .arg(program);
        command
    }
}
