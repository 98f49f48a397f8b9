//! The wall: the kernel's Landlock confines a step, whatever the guest does or fails to do.
//!
//! The guest makes a step *believe* in its own root; a program that jumps past it meets the wall. A domain is laid
//! on the step's first process and inherited by all others; it cannot be shed. It allows the root, the step's own
//! directory, `/proc` and `/sys` as far as the kernel's own rules go, and the devices every container has; it
//! refuses signals to, and tracing of, processes outside.
//!
//! Landlock does not restrict `stat`, `chmod`, `chown`, `utimes` and path-only opens: a hostile step that finds a
//! way past the guest can still change modes of files that its real user owns. A step therefore runs as a user that
//! owns nothing else wherever cofferdam may choose one.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use thiserror::Error;

use super::step::DEVICES;

/// The rights that are handled: those of Linux 6.12, the newest that this file has been thought through for. Older
/// kernels handle fewer; [`Protection`] tells.
const RIGHTS: ABI = ABI::V6;

/// The first interface that is of use: before it, every rename between directories was refused, and no package
/// manager works like that (kernel documentation, "File renaming and linking").
const USABLE: ABI = ABI::V2;

/// How far the kernel confines a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Files, devices, signals and abstract sockets (Linux 6.12 and later).
    Full,
    /// Files; some later rights are missing on this kernel.
    Partial,
    /// Nothing: no Landlock, or one too old to let package managers work.
    None,
}

/// The wall could not be laid though the kernel has Landlock.
#[derive(Debug, Error)]
#[error("cannot lay the Landlock domain")]
pub struct WallError(#[from] landlock::RulesetError);

/// How a mount of a step's own is opened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// A directory.
    Directory,
    /// A directory that is only read.
    ReadOnlyDirectory,
    /// A file.
    File,
    /// A file that is only read.
    ReadOnlyFile,
    /// A file in memory, or a socket.
    Elsewhere,
}

/// A domain that is ready to be laid on a process.
#[derive(Debug)]
pub struct Wall(Option<RulesetCreated>);

impl Wall {
    /// Describes the wall around `root`, `step` (both directories), and what is mounted for the step alone.
    pub fn around(
        root: BorrowedFd<'_>,
        step: BorrowedFd<'_>,
        mounted: &[(BorrowedFd<'_>, Opened)],
    ) -> Result<Self, WallError> {
        if !is_usable() {
            return Ok(Self(None));
        }
        let all = AccessFs::from_all(RIGHTS);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::from_all(RIGHTS))?
            .create()?
            .add_rule(PathBeneath::new(root, all))?
            .add_rule(PathBeneath::new(step, all))?;
        for (place, opened) in mounted {
            let readable = read | AccessFs::Execute;
            let rights = match opened {
                Opened::Directory => all,
                Opened::ReadOnlyDirectory => readable,
                Opened::File => all & AccessFs::from_file(RIGHTS),
                Opened::ReadOnlyFile => readable & AccessFs::from_file(RIGHTS),
                // The wall does not reach what has no place in a file system.
                Opened::Elsewhere => continue,
            };
            ruleset = ruleset.add_rule(PathBeneath::new(place, rights))?;
        }
        let proc_rights = read | AccessFs::WriteFile | AccessFs::Truncate;
        let device_rights =
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
        let places =
            [("/proc", proc_rights), ("/sys", read), ("/dev/pts", device_rights | AccessFs::ReadDir)];
        let devices = DEVICES.iter().map(|device| (*device, device_rights));
        for (path, rights) in places.into_iter().chain(devices) {
            ruleset = allow(ruleset, Path::new(path), rights)?;
        }
        Ok(Self(Some(ruleset)))
    }

    /// Lays the wall on the calling process, which must have one thread.
    pub fn lay(self) -> Result<Protection, WallError> {
        let Some(ruleset) = self.0 else { return Ok(Protection::None) };
        Ok(match ruleset.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => Protection::Full,
            RulesetStatus::PartiallyEnforced => Protection::Partial,
            RulesetStatus::NotEnforced => Protection::None,
        })
    }
}

/// Allows a place if the machine has it: a pod may lack some.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, WallError> {
    match PathFd::new(path) {
        Ok(place) => Ok(ruleset.add_rule(PathBeneath::new(place.as_fd(), rights))?),
        Err(_) => Ok(ruleset),
    }
}

/// What the kernel offers.
pub fn protection() -> Protection {
    if can_handle(RIGHTS) {
        Protection::Full
    } else if is_usable() {
        Protection::Partial
    } else {
        Protection::None
    }
}

/// Whether the kernel's Landlock lets files be renamed between directories.
fn is_usable() -> bool {
    can_handle(USABLE)
}

fn can_handle(version: ABI) -> bool {
    let scope = Scope::from_all(version);
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))
        .and_then(|ruleset| if scope.is_empty() { Ok(ruleset) } else { ruleset.scope(scope) })
        .and_then(Ruleset::create)
        .is_ok()
}
