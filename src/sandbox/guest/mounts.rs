//! The step's mounts: which paths do not mean what lies in the root.
//!
//! A mount point is found in two ways. An absolute path that plainly begins with one is seen by its text. Every
//! other way to it (relative, by a link) leads to the *stub* that the host laid there: a file or directory of mode
//! 0000, which nobody can pass, and which is known by its inode.

use super::abi::{Mount, MountKind, STEP_FD, Text};
use super::kernel::{self, CString, Fd, O_CLOEXEC, O_PATH, Result, Stat};
use super::ledger::inode_key;
use super::rules::mode;
use super::shared::block;
use super::state;

/// What the text of an absolute path says about mounts.
pub enum ByText {
    /// The path does not begin with a mount point.
    None,
    /// The path is a mount point.
    At(&'static Mount),
    /// The path begins with a mount point: the rest must be walked.
    Below(&'static Mount),
}

/// Compares `path` (absolute) with the mount points. With a `..` in it the text tells nothing and the path must be
/// walked; but then it is `Below` whatever mount it begins with.
pub fn by_text(path: &[u8]) -> ByText {
    let block = block();
    let slashes = path.iter().take_while(|&&byte| byte == b'/').count();
    let rest = path.get(slashes..).unwrap_or(&[]);
    let Some(&first) = rest.first() else { return ByText::None };
    // A process that changed its root has other paths: only stubs count for it.
    if !block.first_bytes.get(usize::from(first)).is_some_and(|&used| used != 0) || state::task().chrooted != 0 {
        return ByText::None;
    }
    for mount in block.mounts() {
        let at = block.text(mount.at).get(1..).unwrap_or(&[]);
        if let Some(below) = rest.strip_prefix(at) {
            match below.first() {
                None => return ByText::At(mount),
                Some(b'/') => return ByText::Below(mount),
                Some(_) => {}
            }
        }
    }
    ByText::None
}

/// Whether the last component of a path could be a mount point's.
pub fn may_be_mount_point(name: &[u8]) -> bool {
    let first = usize::from(name.first().copied().unwrap_or(0));
    block().last_bytes.get(first).is_some_and(|&used| used != 0)
}

/// Whether `stat` is of a place where something else is to be looked up.
pub fn is_special(stat: &Stat) -> bool {
    stat.mode & mode::PERMISSIONS == 0 && stat.mode & mode::KIND != mode::SYMLINK
}

/// The mount whose stub has been reached.
pub fn by_stub(stat: &Stat) -> Option<&'static Mount> {
    let block = block();
    let key = inode_key(&block.devices, stat.device, stat.inode)?;
    block.mounts().iter().find(|mount| mount.stub == key)
}

/// What is mounted, as a path-only descriptor.
pub fn open(mount: &Mount) -> Result<Fd> {
    kernel::openat(STEP_FD, text(mount.host), O_PATH | O_CLOEXEC, 0)
}

/// The mount whose root directory `stat` is of.
pub fn root_of(stat: &Stat) -> Option<&'static Mount> {
    let is_root = |mount: &&Mount| {
        mount.kind != MountKind::File
            && kernel::fstatat(STEP_FD, text(mount.host), 0)
                .is_ok_and(|root| (root.device, root.inode) == (stat.device, stat.inode))
    };
    block().mounts().iter().find(is_root)
}

/// A text of the step block as the kernel takes it.
pub fn text(text: Text) -> CString {
    match block().text.get(text.offset as usize) {
        Some(first) => first,
        None => kernel::EMPTY,
    }
}
