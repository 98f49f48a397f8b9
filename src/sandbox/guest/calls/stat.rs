//! stat(2) and its family, access(2), readlink(2), statfs(2).

use crate::abi::{MountKind, PROGRAM_FD};
use crate::file::{FdPath, Text, seen};
use crate::kernel::*;
use crate::nr;
use crate::resolve::{self, Last, Node};
use crate::rules::access::{WRITE, permission};
use crate::rules::mode;
use crate::scratch::Scratch;
use crate::shared::block;
use crate::user;
use crate::{mounts, state};

pub fn fstat(fd: i32, buffer: usize) -> Result {
    if buffer < 4096 {
        return Err(EFAULT);
    }
    // The kernel writes straight to the step's memory, and checks it; then the few fields that differ are set.
    let into = buffer as *mut Stat;
    fstatat_into(fd, EMPTY, into, AT_EMPTY_PATH)?;
    patch(into)
}

pub fn stat(directory: i32, path: CString, buffer: usize, flags: usize) -> Result {
    if flags & AT_EMPTY_PATH != 0 && (path.is_null() || user::first_byte(path)? == 0) {
        return fstat(directory, buffer);
    }
    if buffer < 4096 {
        return Err(EFAULT);
    }
    let into = buffer as *mut Stat;
    if is_plain_name(path)? {
        fstatat_into(directory, path, into, AT_SYMLINK_NOFOLLOW)?;
        let stat: Stat = user::read(buffer)?;
        let link = stat.mode & mode::KIND == mode::SYMLINK && flags & AT_SYMLINK_NOFOLLOW == 0;
        if !link && !mounts::is_special(&stat) {
            return patch(into);
        }
    }
    let node = resolve::node(directory, path, Last::unless_nofollow(flags))?;
    fstatat_into(node.fd.number(), EMPTY, into, AT_EMPTY_PATH)?;
    patch(into)
}

/// Whether the path is one component in a directory of the root, and the identity may search it: then one call
/// answers. In `/proc` and other mounts, components can be more than they seem.
fn is_plain_name(path: CString) -> Result<bool> {
    let bytes = user::path_bytes(path)?;
    Ok(!bytes.is_empty()
        && !bytes.contains(&b'/')
        && bytes != b".."
        && crate::rules::access::unrestricted(state::credentials())
        && !matches!(bytes, b"exe" | b"root" | b"mounts" | b"mountinfo" | b"mountstats"))
}

fn patch(into: *mut Stat) -> Result {
    let mut stat: Stat = user::read(into as usize)?;
    seen(&stat).patch(&mut stat);
    user::write(into as usize, stat)?;
    Ok(0)
}

/// Offsets in `struct statx` (linux/stat.h).
mod statx_field {
    pub const UID: usize = 0x14;
    pub const GID: usize = 0x18;
    pub const MODE: usize = 0x1c;
    pub const RDEV_MAJOR: usize = 0x80;
    pub const RDEV_MINOR: usize = 0x84;
}

/// `STATX_BASIC_STATS`: what must be asked for to know the file.
const BASIC_STATS: usize = 0x7ff;

pub fn statx(directory: i32, path: CString, flags: usize, mask: usize, buffer: usize) -> Result {
    let empty = flags & AT_EMPTY_PATH != 0 && (path.is_null() || user::first_byte(path)? == 0);
    let node = if empty { None } else { Some(resolve::node(directory, path, Last::unless_nofollow(flags))?) };
    let fd = node.as_ref().map_or(directory, |node| node.fd.number());
    let flags = flags & !AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    call(nr::STATX, [fd as usize, EMPTY as usize, flags, mask | BASIC_STATS, buffer, 0])?;
    let stat = match &node {
        Some(node) => node.stat,
        None => fstatat(fd, EMPTY, AT_EMPTY_PATH)?,
    };
    let seen = seen(&stat);
    user::write(buffer + statx_field::UID, seen.attributes.uid)?;
    user::write(buffer + statx_field::GID, seen.attributes.gid)?;
    user::write(buffer + statx_field::MODE, seen.attributes.mode as u16)?;
    if seen.device != 0 {
        user::write(buffer + statx_field::RDEV_MAJOR, seen.device >> 20)?;
        user::write(buffer + statx_field::RDEV_MINOR, seen.device & 0xf_ffff)?;
    }
    Ok(0)
}

/// `AT_EACCESS`
const AT_EACCESS: usize = 0x200;

pub fn access(directory: i32, path: CString, want: usize, flags: usize) -> Result {
    if want & !7 != 0 {
        return Err(EINVAL);
    }
    let node = resolve::node_at(directory, path, flags & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))?;
    if want == 0 {
        return Ok(0);
    }
    if want & WRITE as usize != 0 {
        mounts::writable(node.fd.number())?;
    }
    let seen = node.seen();
    if seen.key.is_none() {
        // The pod's own: the kernel knows.
        let path = FdPath::new(node.fd.number());
        return call(nr::FACCESSAT, [AT_FDCWD as usize, path.as_ptr() as usize, want, 0, 0, 0]);
    }
    let credentials = state::credentials();
    let real = credentials.as_real();
    let who = if flags & AT_EACCESS == 0 { &real } else { credentials };
    permission(who, &seen.attributes, want as u32)?;
    Ok(0)
}

pub fn statfs(path: CString, buffer: usize) -> Result {
    let node = resolve::node(AT_FDCWD, path, Last::Follow)?;
    call(nr::FSTATFS, [node.fd.number() as usize, buffer, 0, 0, 0, 0])
}

pub fn readlink(directory: i32, path: CString, buffer: usize, size: usize) -> Result {
    if (size as isize) <= 0 {
        return Err(EINVAL);
    }
    if user::first_byte(path)? == 0 {
        return call(nr::READLINKAT, [directory as usize, path as usize, buffer, size, 0, 0]);
    }
    let place = resolve::parent(directory, path)?;
    if place.seen.key.is_some() {
        return call(nr::READLINKAT, [place.fd() as usize, place.name as usize, buffer, size, 0, 0]);
    }
    let node = resolve::node(directory, path, Last::Keep)?;
    if node.stat.mode & mode::KIND != mode::SYMLINK {
        return Err(EINVAL);
    }
    readlink_of_host(&node, place.name, buffer, size)
}

/// A link in `/proc`: its target names places of the host, which the step knows by other names.
fn readlink_of_host(node: &Node, name: CString, buffer: usize, size: usize) -> Result {
    let bytes = user::path_bytes(name)?;
    if resolve::is_hidden(bytes) {
        return Err(ENOENT);
    }
    if bytes == b"root" {
        return answer(b"/", buffer, size);
    }
    let mut scratch = Scratch::take();
    let buffers = scratch.buffers();
    let length = if bytes == b"exe" {
        program_path(node, &mut buffers.path)?
    } else {
        readlinkat(node.fd.number(), EMPTY, &mut buffers.path)?
    };
    answer(to_step(buffers.path.get(..length).unwrap_or(&[]), &mut buffers.other), buffer, size)
}

fn answer(target: &[u8], buffer: usize, size: usize) -> Result {
    let cut = target.get(..size).unwrap_or(target);
    user::write_bytes(buffer, cut)?;
    Ok(cut.len() as isize)
}

/// The host's path of the program of the process whose `/proc/PID/exe` is `link`.
fn program_path(link: &Node, buffer: &mut [u8]) -> Result<usize> {
    // The link's own path tells whose it is: "/proc/PID/exe".
    let path = FdPath::new(link.fd.number());
    let length = readlinkat(AT_FDCWD, path.as_ptr(), buffer)?;
    let directory = length.checked_sub(b"exe".len()).ok_or(ENOENT)?;
    let mut text = Text::new(buffer.get_mut(directory..).unwrap_or(&mut []));
    text.push(b"fd/");
    text.push_number(PROGRAM_FD.unsigned_abs());
    let pointer = buffer.as_ptr();
    readlinkat(AT_FDCWD, pointer, buffer)
}

/// The path by which the step knows the host's `path`: inside the root, inside a mount, or as it is.
pub fn to_step<'a>(path: &'a [u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let block = block();
    for mount in block.mounts() {
        if mount.kind == MountKind::Directory
            && let Some(below) = below(path, block.text(mount.host_absolute))
        {
            let mut text = Text::new(buffer);
            text.push(block.text(mount.at));
            text.push(below);
            let length = text.length();
            return buffer.get(..length).unwrap_or(path);
        }
    }
    let root = if state::task().chrooted == 0 {
        block.text(block.root_path)
    } else {
        let own_root = FdPath::new(crate::abi::ROOT_FD);
        match readlinkat(AT_FDCWD, own_root.as_ptr(), buffer) {
            Ok(length) => buffer.get(..length).unwrap_or(&[]),
            Err(_) => return path,
        }
    };
    match below(path, root) {
        Some(b"") => b"/",
        Some(below) => below,
        None => path,
    }
}

/// What follows `directory` in `path`, if it lies there: empty or beginning with `/`.
fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest.first() == Some(&b'/')).then_some(rest)
}
