//! Files that say what came of a command.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::error::CliError;

/// A file that is written when the work is done. From before it begins there is none, so that nobody takes the result
/// of an earlier command for that of one which failed.
#[derive(Debug)]
pub struct ResultFile {
    path: PathBuf,
    umask: u32,
}

impl ResultFile {
    /// Makes sure, before the work begins, that nothing old is there and something new can be.
    ///
    /// # Errors
    /// If the directory is not there, or an old file cannot be removed.
    pub fn prepare(path: PathBuf, umask: u32) -> Result<Self, CliError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What is a directory, a pipe or a device is left alone.
        let old = match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if found.is_file() => std::fs::remove_file(&path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::read_dir(parent).map(drop),
            Err(error) => Err(error),
        };
        match old {
            Ok(()) => Ok(Self { path, umask }),
            Err(source) => Err(CliError::Output { path, source }),
        }
    }

    /// Writes it, with the mode that the user's own umask gives it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(self, content: &[u8]) -> Result<(), CliError> {
        let Self { path, umask } = self;
        let attempt = || -> io::Result<()> {
            let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.set_permissions(Permissions::from_mode(0o666 & !umask))?;
                    file
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::create(&path)?,
                Err(error) => return Err(error),
            };
            file.write_all(content)?;
            file.flush()
        };
        attempt().map_err(|source| CliError::Output { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_old_result_is_gone_before_the_work_begins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("id");
        std::fs::write(&path, "old").unwrap();
        let file = ResultFile::prepare(path.clone(), 0o002).unwrap();
        assert!(!path.exists());
        file.write(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(mode(&path), 0o664, "the user's umask counts, not the program's");
    }

    #[test]
    fn what_cannot_be_written_is_known_before_the_work_begins() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("absent/id")] {
            let error = ResultFile::prepare(path.clone(), 0o022).unwrap_err();
            assert!(matches!(error, CliError::Output { path: named, .. } if named == path));
        }
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        ResultFile::prepare("/dev/null".into(), 0o022).unwrap().write(b"x").unwrap();
        assert!(Path::new("/dev/null").exists());
    }
}
