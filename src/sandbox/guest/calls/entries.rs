//! Calls that make, remove and rename entries of directories.

use crate::file::{FdPath, kernel_device, record_new, seen};
use crate::kernel::*;
use crate::mounts;
use crate::nr;
use crate::resolve::{self, Last, Parent, parent};
use crate::rules::access;
use crate::rules::mode;
use crate::state;
use crate::user;

use super::open::new_attributes;

/// What `make` makes at a place, with the owner and mode the step gave it.
fn made(
    directory: i32,
    path: CString,
    kind_and_mode: u32,
    device: u32,
    make: impl FnOnce(&Parent, u32) -> Result,
) -> Result {
    let place = parent(directory, path)?;
    if let Err(refused) = place.may_create() {
        return Err(if place.entry().is_ok() { EEXIST } else { refused });
    }
    let wanted = new_attributes(&place.seen.attributes, kind_and_mode);
    make(&place, mode::on_disk(wanted.mode))?;
    record_new(&place.entry()?, &wanted, device)?;
    Ok(0)
}

pub fn mkdir(directory: i32, path: CString, asked: u32) -> Result {
    // Of the set bits only the sticky one is taken from the caller.
    let kind_and_mode = mode::DIRECTORY | asked & (0o777 | mode::STICKY);
    made(directory, path, kind_and_mode, 0, |place, disk| {
        call(nr::MKDIRAT, [place.fd() as usize, place.name as usize, disk as usize, 0, 0, 0])
    })
}

pub fn mknod(directory: i32, path: CString, asked: u32, device: u32) -> Result {
    let kind = match asked & mode::KIND {
        0 => mode::REGULAR,
        kind => kind,
    };
    let is_device = matches!(kind, mode::CHARACTER | mode::BLOCK);
    // A device node cannot be made without privilege: an empty file of mode 0000 stands for it.
    let real_kind = if is_device { mode::REGULAR } else { kind };
    let kernel_form = if is_device { kernel_device(device) } else { 0 };
    made(directory, path, kind | asked & mode::PERMISSIONS, kernel_form, |place, disk| {
        access::make_node(state::credentials(), kind)?;
        let real = (real_kind | disk) as usize;
        call(nr::MKNODAT, [place.fd() as usize, place.name as usize, real, 0, 0, 0])
    })
}

pub fn symlink(target: CString, directory: i32, path: CString) -> Result {
    made(directory, path, mode::SYMLINK | 0o777, 0, |place, _| {
        call(nr::SYMLINKAT, [target as usize, place.fd() as usize, place.name as usize, 0, 0, 0])
    })
}

pub fn link(from_directory: i32, from: CString, to_directory: i32, to: CString, flags: usize) -> Result {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    let by_descriptor = flags & AT_EMPTY_PATH != 0 && user::first_byte(from)? == 0;
    let to = parent(to_directory, to)?;
    let (to_fd, to_name) = (to.fd() as usize, to.name as usize);
    mounts::writable(to.fd())?;
    let credentials = state::credentials();
    if by_descriptor || flags & AT_SYMLINK_FOLLOW != 0 {
        let last = if by_descriptor { AT_EMPTY_PATH } else { 0 };
        let node = resolve::node_at(from_directory, from, last)?;
        access::link(credentials, &node.seen().attributes)?;
        to.may_create()?;
        mounts::same_mount(node.fd.number(), to.fd())?;
        let path = FdPath::new(node.fd.number());
        let from = [AT_FDCWD as usize, path.as_ptr() as usize];
        return call(nr::LINKAT, [from[0], from[1], to_fd, to_name, AT_SYMLINK_FOLLOW, 0]);
    }
    let from = parent(from_directory, from)?;
    mounts::same_mount(from.fd(), to.fd())?;
    if from.is_mount_point()? {
        return Err(EXDEV);
    }
    if !access::unrestricted(credentials) {
        access::link(credentials, &seen(&from.entry()?).attributes)?;
        to.may_create()?;
    }
    call(nr::LINKAT, [from.fd() as usize, from.name as usize, to_fd, to_name, 0, 0])
}

pub fn unlink(directory: i32, path: CString, flags: usize) -> Result {
    let place = parent(directory, path)?;
    place.may_remove()?;
    call(nr::UNLINKAT, [place.fd() as usize, place.name as usize, flags, 0, 0, 0])
}

/// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`
const RENAME_WHITEOUT: usize = 4;

pub fn rename(from_directory: i32, from: CString, to_directory: i32, to: CString, flags: usize) -> Result {
    if flags & RENAME_WHITEOUT != 0 {
        return Err(EINVAL);
    }
    let from = parent(from_directory, from)?;
    from.may_remove()?;
    let to = parent(to_directory, to)?;
    match to.may_remove() {
        Err(ENOENT) => to.may_create()?,
        other => other?,
    }
    mounts::same_mount(from.fd(), to.fd())?;
    let arguments =
        [from.fd() as usize, from.name as usize, to.fd() as usize, to.name as usize, flags, 0];
    call(nr::RENAMEAT2, arguments)
}

/// The file a path leads to, links followed, as `/proc/self/fd/N`.
pub fn through_descriptor<T>(
    directory: i32,
    path: CString,
    last: Last,
    then: impl FnOnce(CString) -> Result<T>,
) -> Result<T> {
    let node = resolve::node(directory, path, last)?;
    let path = FdPath::new(node.fd.number());
    then(path.as_ptr())
}
