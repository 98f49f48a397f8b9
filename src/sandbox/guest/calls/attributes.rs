//! chmod(2), chown(2), utimensat(2) and their relatives, umask(2).

use crate::file::{FdPath, Seen, record, seen, set_disk_mode, touch};
use crate::kernel::{self, *};
use crate::mounts;
use crate::nr;
use crate::resolve::{self, Last};
use crate::rules::access;
use crate::rules::mode;
use crate::state;
use crate::user;

pub fn chmod(directory: i32, path: CString, asked: usize, flags: usize) -> Result {
    let node = resolve::node_at(directory, path, flags)?;
    if node.stat.mode & mode::KIND == mode::SYMLINK {
        return Err(EOPNOTSUPP);
    }
    change_mode(node.fd.number(), &node.stat, asked)
}

pub fn fchmod(fd: i32, asked: usize) -> Result {
    check_not_path_only(fd)?;
    change_mode(fd, &fstat(fd)?, asked)
}

/// Calls that take a descriptor refuse one that is path-only; those by which they are carried out do not.
fn check_not_path_only(fd: i32) -> Result<()> {
    const F_GETFL: usize = 3;
    let flags = call(nr::FCNTL, [fd as usize, F_GETFL, 0, 0, 0, 0])? as usize;
    if flags & O_PATH != 0 { Err(EBADF) } else { Ok(()) }
}

fn change_mode(fd: i32, stat: &Stat, asked: usize) -> Result {
    mounts::writable(fd)?;
    let seen = seen(stat);
    let wanted = access::chmod(state::credentials(), &seen.attributes, asked as u32)?;
    if seen.key.is_none() {
        return foreign(&seen, set_disk_mode(fd, wanted & mode::PERMISSIONS));
    }
    let disk = mode::on_disk(wanted);
    if wanted == seen.attributes.mode && stat.mode & mode::PERMISSIONS == disk & mode::PERMISSIONS {
        // Nothing changes: a layer need not have the file again.
        return Ok(0);
    }
    let device = seen.device;
    // First the ledger: a file that is for a moment more private than asked harms nobody.
    record(&seen, disk, &access::Attributes { mode: wanted, ..seen.attributes }, device)?;
    set_disk_mode(fd, disk)
}

/// The outcome of changing what is not the step's: a pipe, a terminal, a device. A container's root may, and what it
/// sets there concerns no image; so only a real failure is one.
fn foreign(seen: &Seen, result: Result) -> Result {
    let kind = seen.attributes.mode & mode::KIND;
    match result {
        Err(EPERM | EINVAL) if !matches!(kind, mode::REGULAR | mode::DIRECTORY) => Ok(0),
        other => other,
    }
}

pub fn chown(directory: i32, path: CString, uid: usize, gid: usize, flags: usize) -> Result {
    let node = resolve::node_at(directory, path, flags)?;
    change_owner(node.fd.number(), &node.stat, uid as u32, gid as u32)
}

pub fn fchown(fd: i32, uid: usize, gid: usize) -> Result {
    check_not_path_only(fd)?;
    change_owner(fd, &fstat(fd)?, uid as u32, gid as u32)
}

fn change_owner(fd: i32, stat: &Stat, uid: u32, gid: u32) -> Result {
    mounts::writable(fd)?;
    let seen = seen(stat);
    let wanted = access::chown(state::credentials(), &seen.attributes, uid, gid)?;
    if seen.key.is_none() {
        return foreign(&seen, Err(EPERM));
    }
    let disk = stat.mode & mode::PERMISSIONS;
    let capable = seen.entry().is_some_and(|entry| entry.capability().is_some());
    if wanted == seen.attributes && !capable {
        // `chown -R` over a whole tree that is theirs already: a layer need not have all of it again.
        return Ok(0);
    }
    if let Some(entry) = seen.entry() {
        entry.set_capability(&[]);
    }
    record(&seen, disk, &wanted, seen.device)?;
    touch(fd)
}

/// `tv_nsec` for "now" and for "leave as it is".
const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;

pub fn utimensat(directory: i32, path: CString, times: usize, flags: usize) -> Result {
    let (now, omit) = if times == 0 {
        (true, false)
    } else {
        let [_, access_nanoseconds, _, modify_nanoseconds] = user::read::<[i64; 4]>(times)?;
        let both = |value| access_nanoseconds == value && modify_nanoseconds == value;
        (both(UTIME_NOW), both(UTIME_OMIT))
    };
    if path.is_null() {
        let stat = fstat(directory)?;
        may_set_times(directory, &stat, now, omit)?;
        return call(nr::UTIMENSAT, [directory as usize, 0, times, flags, 0, 0]);
    }
    let node = resolve::node_at(directory, path, flags)?;
    may_set_times(node.fd.number(), &node.stat, now, omit)?;
    set_times(node.fd.number(), times)
}

fn may_set_times(fd: i32, stat: &Stat, now: bool, omit: bool) -> Result<()> {
    mounts::writable(fd)?;
    let seen = seen(stat);
    if omit || seen.key.is_none() {
        return Ok(());
    }
    Ok(access::set_times(state::credentials(), &seen.attributes, now)?)
}

fn set_times(fd: i32, times: usize) -> Result {
    call(nr::UTIMENSAT, [fd as usize, EMPTY as usize, times, AT_EMPTY_PATH, 0, 0])
}

/// `utime(2)`: whole seconds.
pub fn utime(path: CString, times: usize) -> Result {
    let node = resolve::node(AT_FDCWD, path, Last::Follow)?;
    may_set_times(node.fd.number(), &node.stat, times == 0, false)?;
    if times == 0 {
        return set_times(node.fd.number(), 0);
    }
    let [access, modify] = user::read::<[i64; 2]>(times)?;
    let times = [access, 0, modify, 0];
    set_times(node.fd.number(), times.as_ptr() as usize)
}

/// `utimes(2)` and `futimesat(2)`: microseconds.
pub fn utimes(directory: i32, path: CString, times: usize) -> Result {
    let fd_path;
    let (directory, path) = if path.is_null() {
        fd_path = FdPath::new(directory);
        (AT_FDCWD, fd_path.as_ptr())
    } else {
        (directory, path)
    };
    let node = resolve::node(directory, path, Last::Follow)?;
    may_set_times(node.fd.number(), &node.stat, times == 0, false)?;
    if times == 0 {
        return set_times(node.fd.number(), 0);
    }
    let [access, access_us, modify, modify_us] = user::read::<[i64; 4]>(times)?;
    let microseconds = 0..1_000_000;
    if !microseconds.contains(&access_us) || !microseconds.contains(&modify_us) {
        return Err(EINVAL);
    }
    let times = [access, access_us * 1000, modify, modify_us * 1000];
    set_times(node.fd.number(), times.as_ptr() as usize)
}

pub fn umask(mask: u32) -> Result {
    let new = mask & 0o777;
    let old = state::change(|task| Ok(core::mem::replace(&mut task.umask, new)))?;
    // The owner's bits stay out of the kernel's: real files must be the real user's to read and write.
    kernel::call(nr::UMASK, [(new & 0o077) as usize, 0, 0, 0, 0, 0])?;
    Ok(old as isize)
}
