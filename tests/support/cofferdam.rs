//! The program under test, as a user starts it.

use std::path::Path;

use super::{Scratch, Unprivileged};

/// The built `cofferdam`, with a home of its own and nothing of this process's environment but `PATH`: no CI job's
/// variables, no Docker configuration, no proxy.
pub struct Cofferdam {
    home: Scratch,
    user: Option<Unprivileged>,
}

impl Cofferdam {
    /// Where cargo put the binary.
    pub fn binary() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_cofferdam"))
    }

    /// As the user that runs the tests.
    pub fn new() -> Self {
        Self { home: Scratch::new("cofferdam-home-"), user: None }
    }

    /// As user and group `id` without any privilege.
    pub fn as_uid(id: u32) -> Self {
        Self { user: Some(Unprivileged::new(id)), ..Self::new() }
    }

    /// The home directory: caches, state and configuration are below it.
    pub fn home(&self) -> std::path::PathBuf {
        self.user.as_ref().map_or_else(|| self.home.path().to_owned(), Unprivileged::home)
    }

    /// The unprivileged user, if there is one.
    pub fn user(&self) -> Option<&Unprivileged> {
        self.user.as_ref()
    }

    /// `cofferdam`, ready for arguments.
    pub fn command(&self) -> assert_cmd::Command {
        if let Some(user) = &self.user {
            return user.command(user.bring(Self::binary()));
        }
        let mut command = assert_cmd::Command::new(Self::binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path())
            .current_dir(self.home.path());
        command
    }

    /// The same for a process that goes on beside the test.
    pub fn process(&self) -> std::process::Command {
        let inner = self.command();
        let mut command = std::process::Command::new(inner.get_program());
        command.args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        command
    }

    /// `cofferdam ARGS`.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> assert_cmd::assert::Assert {
        self.command().args(args).assert()
    }
}
