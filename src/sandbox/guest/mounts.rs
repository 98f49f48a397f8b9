//! The step's mounts: which paths do not mean what lies in the root.
//!
//! A mount point is found in two ways. An absolute path that plainly begins with one is seen by its text. Every
//! other way to it (relative, by a link) leads to the *stub* that the host laid there: a file or directory of mode
//! 0000, which nobody can pass, and which is known by its inode.

use super::abi::{Mount, MountKind, STEP_FD, Text};
use super::file::FdPath;
use super::kernel::{self, AT_FDCWD, CString, EROFS, EXDEV, Fd, O_CLOEXEC, O_PATH, Result, Stat};
use super::ledger::inode_key;
use super::rules::mode;
use super::scratch::Scratch;
use super::shared::block;
use super::state;

/// What the text of an absolute path says about mounts.
pub enum ByText {
    /// The path does not begin with a mount point.
    None,
    /// The path is a mount point.
    At(&'static Mount),
    /// The path begins with a mount point; what follows it is looked up there.
    Below(&'static Mount, CString),
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
                Some(b'/') => return ByText::Below(mount, below_slashes(below)),
                Some(_) => {}
            }
        }
    }
    ByText::None
}

fn below_slashes(below: &[u8]) -> CString {
    let slashes = below.iter().take_while(|&&byte| byte == b'/').count();
    below.as_ptr().wrapping_add(slashes)
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

/// The mount of the step's own that the open file `fd` lies in. Which one that is only its path tells: all of them are
/// directories of one file system.
fn own_around(fd: i32) -> Option<&'static Mount> {
    let mut scratch = Scratch::take();
    let path = &mut scratch.buffers().path;
    let by_number = FdPath::new(fd);
    let link = if fd == AT_FDCWD { c"/proc/self/cwd".as_ptr().cast() } else { by_number.as_ptr() };
    let length = kernel::readlinkat(AT_FDCWD, link, path).ok()?;
    let path = path.get(..length).unwrap_or(&[]);
    let block = block();
    block.mounts().iter().filter(|mount| mount.own != 0).find(|mount| {
        let below = path.strip_prefix(block.text(mount.host_absolute));
        below.is_some_and(|below| below.is_empty() || below.first() == Some(&b'/'))
    })
}

/// `EROFS` if what `fd` is open on, path-only or not, lies in a read-only mount of the step's own.
pub fn writable(fd: i32) -> Result<()> {
    if block().own_read_only != 0 && own_around(fd).is_some_and(|mount| mount.read_only != 0) {
        return Err(EROFS);
    }
    Ok(())
}

/// `EXDEV` if two directories do not lie in the same mount.
pub fn same_mount(a: i32, b: i32) -> Result<()> {
    let place = |fd| own_around(fd).map_or(0, |mount| mount as *const Mount as usize);
    if block().own_mounts != 0 && a != b && place(a) != place(b) {
        return Err(EXDEV);
    }
    Ok(())
}

/// The mount that the mount point of `mount` lies in, and the rest of its path there.
pub fn outer(mount: &Mount) -> Option<(&'static Mount, &'static [u8])> {
    let block = block();
    let at = block.text(mount.at);
    // Deeper mounts stand first: the first that fits is the nearest.
    block.mounts().iter().filter(|outer| outer.kind != MountKind::File).find_map(|outer| {
        let below = at.strip_prefix(block.text(outer.at))?;
        (below.first() == Some(&b'/')).then_some((outer, below))
    })
}
