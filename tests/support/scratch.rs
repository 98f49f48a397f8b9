//! Directories of tests.

use std::path::Path;
use std::process::{Command, Stdio};

/// A temporary directory. It is removed by a process that no test waits for: what builds keep is many files, and to remove
/// them takes longer than most tests.
pub struct Scratch(Option<tempfile::TempDir>);

impl Scratch {
    /// A new one, whose name begins with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self(Some(tempfile::Builder::new().prefix(prefix).tempdir().expect("a directory")))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until it is dropped").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(directory) = self.0.take() else { return };
        let mut removal = Command::new("nice");
        removal.args(["rm", "-rf"]).arg(directory.path()).stdin(Stdio::null());
        if removal.stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok() {
            let _ = directory.keep();
        }
    }
}
