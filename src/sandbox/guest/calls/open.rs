//! open(2), openat2(2), truncate(2).

use crate::abi::ROOT_FD;
use crate::file::{FdPath, record_new};
use crate::kernel::{self, *};
use crate::mounts;
use crate::nr;
use crate::resolve::{self, Parent, parent};
use crate::rules::access::{self, Attributes};
use crate::rules::mode;
use crate::scratch::Scratch;
use crate::state;
use crate::trap::StepMask;
use crate::user;

/// The flags `open(2)` knows; it ignores all others, and `openat2`, by which it is carried out, does not.
const KNOWN_FLAGS: usize = 0o37_777_703;
/// The flags that mean something with `O_PATH`.
const PATH_FLAGS: usize = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
/// As `MAX_LINKS` of a look-up: dangling links that `O_CREAT` goes through.
const MAX_LINKS: usize = 40;

pub fn open(directory: i32, path: CString, flags: usize, mode: u32, step: StepMask) -> Result {
    let flags = if flags & O_PATH != 0 { flags & PATH_FLAGS } else { flags & KNOWN_FLAGS };
    if flags & O_PATH == 0 && is_temporary(flags) {
        return temporary(directory, path, flags, mode);
    }
    let fd = if flags & O_PATH == 0 && flags & O_CREAT != 0 {
        create(directory, path, flags, mode, step)?
    } else {
        resolve::open_existing(directory, path, flags, step)?
    };
    Ok(fd.release() as isize)
}

pub fn openat2(directory: i32, path: CString, how: usize, size: usize, step: StepMask) -> Result {
    if size < core::mem::size_of::<OpenHow>() {
        return Err(EINVAL);
    }
    let [flags, mode, resolve] = user::read::<[u64; 3]>(how)?;
    let scoped = RESOLVE_IN_ROOT | RESOLVE_BENEATH;
    if resolve == 0 {
        return open(directory, path, flags as usize, mode as u32, step);
    }
    // A look-up that the step itself confines needs no walk: it stays where it may be, or fails.
    let (start, resolve) = if resolve & scoped != 0 {
        (directory, resolve)
    } else if user::first_byte(path)? == b'/' {
        (ROOT_FD, resolve | RESOLVE_IN_ROOT)
    } else {
        (directory, resolve | RESOLVE_BENEATH)
    };
    if flags as usize & O_CREAT != 0 {
        // The new file's owner must be recorded, and by this way it could not be told from an old one.
        return Err(ENOSYS);
    }
    let fd = step.wait(|| kernel::openat2(start, path, flags as usize, mode as u32, resolve))?;
    Ok(fd.release() as isize)
}

pub fn truncate(path: CString, length: usize) -> Result {
    let node = resolve::node(AT_FDCWD, path, resolve::Last::Follow)?;
    let seen = node.seen();
    if seen.key.is_some() {
        access::permission(state::credentials(), &seen.attributes, access::WRITE)?;
    }
    mounts::writable(node.fd.number())?;
    let path = FdPath::new(node.fd.number());
    call(nr::TRUNCATE, [path.as_ptr() as usize, length, 0, 0, 0, 0])
}

fn is_temporary(flags: usize) -> bool {
    flags & (O_TMPFILE_BIT | O_DIRECTORY) == O_TMPFILE_BIT | O_DIRECTORY
}

/// `O_TMPFILE`: a file without a name, which may get one later.
fn temporary(directory: i32, path: CString, flags: usize, mode: u32) -> Result {
    let node = resolve::node(directory, path, resolve::Last::Follow)?;
    let seen = node.seen();
    mounts::writable(node.fd.number())?;
    access::create(state::credentials(), &seen.attributes)?;
    let wanted = new_attributes(&seen.attributes, mode::REGULAR | mode & mode::PERMISSIONS);
    let path = FdPath::new(node.fd.number());
    let fd = openat(AT_FDCWD, path.as_ptr(), flags, mode::on_disk(wanted.mode))?;
    record_new(&fstat(fd.number())?, &wanted, 0)?;
    Ok(fd.release() as isize)
}

/// What a new file of `kind_and_mode` is, made in a directory.
pub fn new_attributes(directory: &Attributes, kind_and_mode: u32) -> Attributes {
    let task = state::task();
    let (uid, gid) = access::new_owner(&task.credentials, directory);
    Attributes { uid, gid, mode: mode::created(kind_and_mode, task.umask, directory.mode) }
}

/// `O_CREAT`: opens the file, and makes it if it is not there.
fn create(directory: i32, path: CString, flags: usize, mode: u32, step: StepMask) -> Result<Fd> {
    let exclusive = flags & O_EXCL != 0;
    if !exclusive {
        match resolve::open_existing(directory, path, flags & !O_CREAT, step) {
            Err(ENOENT) => {}
            Ok(fd) => return not_a_directory(fd, flags),
            error => return error,
        }
    }
    let place = parent(directory, path)?;
    match create_in(&place, flags, mode) {
        Err(EEXIST) if !exclusive => create_through_link(place, flags, mode, step),
        other => other,
    }
}

/// A directory cannot be opened with `O_CREAT`, not even to read; to write it never can.
fn not_a_directory(fd: Fd, flags: usize) -> Result<Fd> {
    if flags & O_ACCMODE == O_RDONLY && fstat(fd.number())?.mode & mode::KIND == mode::DIRECTORY {
        return Err(EISDIR);
    }
    Ok(fd)
}

fn create_in(place: &Parent, flags: usize, mode: u32) -> Result<Fd> {
    if let Err(refused) = place.may_create() {
        // Where the file is there after all, that is the answer.
        return Err(if place.entry().is_ok() { EEXIST } else { refused });
    }
    let wanted = new_attributes(&place.seen.attributes, mode::REGULAR | mode & mode::PERMISSIONS);
    let flags = flags & !O_TRUNC | O_CREAT | O_EXCL;
    let fd = openat(place.fd(), place.name, flags, mode::on_disk(wanted.mode))?;
    record_new(&fstat(fd.number())?, &wanted, 0)?;
    Ok(fd)
}

/// The name is taken and yet nothing could be opened: a link to what is not there, or another process was faster.
#[inline(never)]
fn create_through_link(mut place: Parent, flags: usize, mode: u32, step: StepMask) -> Result<Fd> {
    let mut scratch = Scratch::take();
    let buffers = scratch.buffers();
    // A target's last component is the next name: it must outlive the reading of the next target.
    let (mut target, mut kept) = (&mut buffers.path, &mut buffers.other);
    for _ in 0..MAX_LINKS {
        if readlinkat(place.fd(), place.name, target).is_err() {
            return resolve::open_existing(place.fd(), place.name, flags & !O_CREAT, step);
        }
        if flags & O_NOFOLLOW != 0 {
            return Err(ELOOP);
        }
        let next = parent(place.fd(), target.as_ptr())?;
        match create_in(&next, flags, mode) {
            Err(EEXIST) => place = next,
            other => return other,
        }
        core::mem::swap(&mut target, &mut kept);
    }
    Err(ELOOP)
}
