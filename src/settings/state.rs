//! Where state is kept.
//!
//! A directory that the user names is used or is an error. Where none is named, pods differ: the home directory may be
//! missing, belong to somebody else, or lie on a read-only file system. So places are tried in order.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::error::SettingsError;
use super::file::ConfigFile;
use super::flags::GlobalFlags;
use super::origin::{Given, Origin};
use super::surroundings::Surroundings;
use super::variables;

/// The directory's name where directories of many programs are.
const NAME: &str = "cofferdam";
/// Where temporary files may be when no variable says so. `/var/tmp` first: `/tmp` is often in memory.
const TEMPORARY: [&str; 2] = ["/var/tmp", "/tmp"];
/// Others have no business in it: layers hold what an image's authors meant for its users.
const MODE: u32 = 0o700;

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// The directory, which is there and may be written to.
    pub directory: PathBuf,
    /// Who chose it.
    pub origin: Origin,
    /// Places that would have been preferred.
    pub passed_over: Vec<Tried>,
    /// Whether unpacked root filesystems are kept for the next build. Not where GitLab's runner may put them into an
    /// archive when the job has ended: that is slower than to unpack them anew.
    pub keep_roots: bool,
}

/// A place that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The directory.
    pub path: PathBuf,
    /// Why it was passed over.
    pub why: String,
}

pub(super) fn resolve(
    flags: &GlobalFlags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<StateSettings, SettingsError> {
    let environment = &surroundings.environment;
    let project = environment.path(variables::CI_PROJECT_DIR);
    let found = |directory: PathBuf, origin, passed_over| {
        let archived = project.as_ref().is_some_and(|project| directory.starts_with(project));
        StateSettings { directory, origin, passed_over, keep_roots: !archived }
    };
    let flag = flags.state_dir.clone().map(|path| Given::new(path, Origin::Flag("--state-dir")));
    let variable = environment.path(variables::STATE_DIR);
    let variable = variable.map(|path| Given::new(path, Origin::Variable(variables::STATE_DIR)));
    if let Some(Given { value: path, origin }) = flag.or(variable).or_else(|| file.state_dir.clone()) {
        return match prepare(&path) {
            Ok(()) => Ok(found(path, origin, Vec::new())),
            Err(source) => Err(SettingsError::State { path, origin, source }),
        };
    }
    let mut passed_over = Vec::new();
    for place in places(surroundings) {
        let outcome = match place.shared {
            true => prepare_among_others(&place.path, surroundings.uid),
            false => prepare(&place.path),
        };
        match outcome {
            Ok(()) => {
                return Ok(found(place.path, Origin::Default, passed_over));
            }
            Err(error) => passed_over.push(Tried { path: place.path, why: error.to_string() }),
        }
    }
    Err(SettingsError::NoState(passed_over))
}

struct Place {
    path: PathBuf,
    /// Whether other users may make files beside it.
    shared: bool,
}

/// The places that are tried where none is named, in order.
fn places(surroundings: &Surroundings) -> Vec<Place> {
    let environment = &surroundings.environment;
    let data = environment.path(variables::XDG_DATA_HOME).map(|data| data.join(NAME));
    let home = environment.home().map(|home| home.join(".local/share").join(NAME));
    let temporary = environment.path(variables::TMPDIR).into_iter().chain(TEMPORARY.map(PathBuf::from));
    let mut places: Vec<Place> =
        data.into_iter().chain(home).map(|path| Place { path, shared: false }).collect();
    for directory in temporary {
        let path = directory.join(format!("{NAME}-{}", surroundings.uid));
        if places.iter().all(|place| place.path != path) {
            places.push(Place { path, shared: true });
        }
    }
    places
}

/// Makes the directory if it is not there, and sees whether it may be written to.
fn prepare(path: &Path) -> io::Result<()> {
    // Where it cannot be made, why not its next parent that is there is no better answer: this one names the reason.
    std::fs::DirBuilder::new().recursive(true).mode(MODE).create(path)?;
    accessat(CWD, path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(())
}

/// The same where others may make files: the directory must be our own and nobody else's to write to, for whoever was
/// faster could change what images are made of.
fn prepare_among_others(path: &Path, uid: u32) -> io::Result<()> {
    prepare(path)?;
    let found = std::fs::symlink_metadata(path)?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !found.is_dir() {
        return refuse("it is no directory");
    }
    if found.uid() != uid {
        return refuse("it belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refuse("other users may write to it");
    }
    Ok(())
}
