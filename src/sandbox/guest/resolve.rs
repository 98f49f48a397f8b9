//! Paths: from what the step wrote to an open descriptor inside its root.
//!
//! The kernel does it (`openat2` with `RESOLVE_IN_ROOT`), in one call, wherever the path meets no mount and the
//! identity may search every directory. Else the path is walked here, component by component. The kernel's look-up
//! and the walk cannot disagree: wherever a mount is in the way lies a stub that stops the kernel with `EACCES`,
//! an error that it has no other reason to give, since every real directory is searchable by the real user.

use super::abi::{MountKind, PROGRAM_FD, ROOT_FD, STEP_FD};
use super::file::{self, FdPath, Seen, Text, seen};
use super::kernel::*;
use super::mounts::{self, ByText};
use super::nr;
use super::rules::access::{self, EXECUTE};
use super::rules::credentials::Refused;
use super::rules::mode;
use super::scratch::{Buffers, Scratch};
use super::state;
use super::trap::StepMask;
use super::user;

/// The kernel's limit on links in one look-up.
const MAX_LINKS: usize = 40;
/// The type `statfs` gives for `/proc`.
const PROC_SUPER_MAGIC: usize = 0x9fa0;

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotPermitted => EPERM,
            Refused::Access => EACCES,
            Refused::Invalid => EINVAL,
        }
    }
}

/// What to do with a link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Go where it points.
    Follow,
    /// Take the link itself.
    Keep,
}

impl Last {
    /// What the flag `AT_SYMLINK_NOFOLLOW` in `flags` asks for.
    pub fn unless_nofollow(flags: usize) -> Self {
        if flags & AT_SYMLINK_NOFOLLOW == 0 { Self::Follow } else { Self::Keep }
    }
}

/// A file that exists: open path-only, and what the kernel says of it.
pub struct Node {
    /// The descriptor.
    pub fd: Fd,
    /// The kernel's view.
    pub stat: Stat,
}

impl Node {
    fn new(fd: Fd) -> Result<Self> {
        let stat = fstat(fd.number())?;
        Ok(Self { fd, stat })
    }

    /// The step's view.
    pub fn seen(&self) -> Seen {
        seen(&self.stat)
    }

    fn is(&self, kind: u32) -> bool {
        self.stat.mode & mode::KIND == kind
    }
}

/// The file at `path`, from `directory` if it is relative. The identity must be allowed to reach it.
pub fn node(directory: i32, path: CString, last: Last) -> Result<Node> {
    let first = user::first_byte(path)?;
    if first == 0 {
        return Err(ENOENT);
    }
    let nofollow = if last == Last::Keep { O_NOFOLLOW } else { 0 };
    match quick(directory, path, first, O_PATH | O_CLOEXEC | nofollow)? {
        Some(fd) => {
            let node = Node::new(fd)?;
            // Only a link that leads straight to a mount point ends on its stub.
            if mounts::is_special(&node.stat) && mounts::by_stub(&node.stat).is_some() {
                return walk(directory, path, last);
            }
            Ok(node)
        }
        None => walk(directory, path, last),
    }
}

/// The file of an `*at` call: `path`, or with `AT_EMPTY_PATH` what `directory` is open on.
pub fn node_at(directory: i32, path: CString, flags: usize) -> Result<Node> {
    if flags & AT_EMPTY_PATH != 0 && (path.is_null() || user::first_byte(path)? == 0) {
        return Node::new(openat_self(directory)?);
    }
    node(directory, path, Last::unless_nofollow(flags))
}

/// Another, path-only descriptor of what `fd` is open on.
fn openat_self(fd: i32) -> Result<Fd> {
    if fd == AT_FDCWD {
        return openat(AT_FDCWD, c".".as_ptr().cast(), O_PATH | O_CLOEXEC, 0);
    }
    openat(AT_FDCWD, FdPath::new(fd).as_ptr(), O_PATH | O_CLOEXEC, 0).map_err(|error| {
        if error == ENOENT { EBADF } else { error }
    })
}

/// One look-up by the kernel, with `flags` and no creation. `None` if it must be walked.
fn quick(directory: i32, path: CString, first: u8, flags: usize) -> Result<Option<Fd>> {
    if !access::unrestricted(state::credentials()) {
        return Ok(None);
    }
    let fd = if first == b'/' {
        let bytes = user::path_bytes(path)?;
        match mounts::by_text(bytes) {
            ByText::None => openat2(ROOT_FD, path, flags, 0, RESOLVE_IN_ROOT),
            ByText::At(mount) if mount.kind == MountKind::File => {
                refuse_writing(mount.read_only != 0, flags)?;
                // The step's own are named by a link to a descriptor, which is to be followed in any case.
                let flags = if mount.own != 0 { flags & !O_NOFOLLOW } else { flags };
                openat(STEP_FD, mounts::text(mount.host), flags, 0)
            }
            ByText::Below(mount, _) if mount.kind == MountKind::Sys && !has_parent_step(bytes) => {
                refuse_writing(true, flags)?;
                openat(AT_FDCWD, path, flags, 0)
            }
            ByText::Below(mount, rest) if mount.own != 0 && !has_parent_step(bytes) => {
                let directory = mounts::open(mount)?;
                if user::first_byte(rest)? == 0 {
                    return Ok(None);
                }
                refuse_writing(mount.read_only != 0, flags)?;
                openat2(directory.number(), rest, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
            }
            ByText::At(_) | ByText::Below(..) => return Ok(None),
        }
    } else if super::shared::block().own_read_only != 0 && writes(flags) {
        // Where it leads must be known before anything is cut off there.
        return Ok(None);
    } else {
        openat2(directory, path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    };
    match fd {
        Err(EACCES | EXDEV | ELOOP) => Ok(None),
        other => other.map(Some),
    }
}

fn refuse_writing(read_only: bool, flags: usize) -> Result<()> {
    if read_only && writes(flags) { Err(EROFS) } else { Ok(()) }
}

fn writes(flags: usize) -> bool {
    flags & O_PATH == 0 && (flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0)
}

fn has_parent_step(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|component| component == b"..")
}

/// Opens a file that exists, with the flags of `open(2)`; `O_CREAT` must not be among them.
///
/// Opening may wait (a pipe, for its other end): `step` are the signals that come in meanwhile.
pub fn open_existing(directory: i32, path: CString, flags: usize, step: StepMask) -> Result<Fd> {
    let first = user::first_byte(path)?;
    if first == 0 {
        return Err(ENOENT);
    }
    let found = if may_wait(flags) {
        step.wait(|| quick(directory, path, first, flags))?
    } else {
        quick(directory, path, first, flags)?
    };
    if let Some(fd) = found {
        return Ok(fd);
    }
    let last = if flags & O_NOFOLLOW == 0 { Last::Follow } else { Last::Keep };
    let node = walk(directory, path, last)?;
    if flags & O_PATH == 0 {
        let writes = if flags & O_ACCMODE == O_RDONLY { 0 } else { access::WRITE };
        let truncates = if flags & O_TRUNC == 0 { 0 } else { access::WRITE };
        let reads = if flags & O_ACCMODE == O_WRONLY { 0 } else { access::READ };
        let seen = node.seen();
        if seen.key.is_some() {
            access::permission(state::credentials(), &seen.attributes, reads | writes | truncates)?;
        }
        if writes | truncates != 0 {
            mounts::writable(node.fd.number())?;
        }
    }
    reopen(node, flags, step)
}

fn may_wait(flags: usize) -> bool {
    flags & (O_PATH | O_DIRECTORY | O_NONBLOCK) == 0
}

/// Opens anew, with the step's flags, what a path-only descriptor is open on.
fn reopen(node: Node, flags: usize, step: StepMask) -> Result<Fd> {
    if flags & O_DIRECTORY != 0 && !node.is(mode::DIRECTORY) {
        return Err(ENOTDIR);
    }
    if flags & O_PATH != 0 {
        if flags & O_CLOEXEC == 0 {
            keep_over_exec(&node.fd)?;
        }
        return Ok(node.fd);
    }
    if node.is(mode::SYMLINK) {
        return Err(ELOOP);
    }
    let flags = flags & !O_NOFOLLOW;
    if mounts::is_special(&node.stat) {
        return open_device(&node.seen(), flags);
    }
    let path = FdPath::new(node.fd.number());
    let open = || openat(AT_FDCWD, path.as_ptr(), flags, 0);
    if may_wait(flags) { step.wait(open) } else { open() }
}

/// Clears `FD_CLOEXEC`.
pub fn keep_over_exec(fd: &Fd) -> Result {
    const F_SETFD: usize = 2;
    call(nr::FCNTL, [fd.number() as usize, F_SETFD, 0, 0, 0, 0])
}

/// Opens a device node that the step made: those that every container may use are there, under `/dev`.
fn open_device(seen: &Seen, flags: usize) -> Result<Fd> {
    let name: &[u8] = match (seen.attributes.mode & mode::KIND, seen.device >> 20, seen.device & 0xf_ffff) {
        (mode::CHARACTER, 1, 3) => b"/dev/null",
        (mode::CHARACTER, 1, 5) => b"/dev/zero",
        (mode::CHARACTER, 1, 7) => b"/dev/full",
        (mode::CHARACTER, 1, 8) => b"/dev/random",
        (mode::CHARACTER, 1, 9) => b"/dev/urandom",
        (mode::CHARACTER, 5, 0) => b"/dev/tty",
        _ => return Err(file::DEVICE_REFUSED),
    };
    match mounts::by_text(name) {
        ByText::At(mount) => openat(STEP_FD, mounts::text(mount.host), flags, 0),
        _ => Err(file::DEVICE_REFUSED),
    }
}

/// A place in a directory: where an entry is to be made, removed or renamed.
pub struct Parent {
    fd: ParentFd,
    /// The entry's name, in the step's memory or static; slashes may follow it.
    pub name: CString,
    /// The directory, as the step sees it.
    pub seen: Seen,
}

enum ParentFd {
    Own(Fd),
    /// The directory of the call itself.
    Borrowed(i32),
}

impl Parent {
    /// The directory.
    pub fn fd(&self) -> i32 {
        match &self.fd {
            ParentFd::Own(fd) => fd.number(),
            ParentFd::Borrowed(number) => *number,
        }
    }

    /// What is there, links not followed.
    pub fn entry(&self) -> Result<Stat> {
        fstatat(self.fd(), self.name, AT_SYMLINK_NOFOLLOW)
    }

    /// Whether something is mounted there.
    pub fn is_mount_point(&self) -> Result<bool> {
        if !mounts::may_be_mount_point(component(self.name)?) {
            return Ok(false);
        }
        Ok(self.entry().is_ok_and(|stat| mounts::is_special(&stat) && mounts::by_stub(&stat).is_some()))
    }

    /// Whether the identity may make an entry.
    pub fn may_create(&self) -> Result<()> {
        mounts::writable(self.fd())?;
        Ok(access::create(state::credentials(), &self.seen.attributes)?)
    }

    /// Whether the identity may remove or replace the entry, and nothing is mounted there.
    pub fn may_remove(&self) -> Result<()> {
        mounts::writable(self.fd())?;
        let credentials = state::credentials();
        let name = component(self.name)?;
        let restricted = !access::unrestricted(credentials);
        if !restricted && !mounts::may_be_mount_point(name) {
            return Ok(());
        }
        let stat = match self.entry() {
            Ok(stat) => stat,
            Err(error) => {
                access::create(credentials, &self.seen.attributes)?;
                return Err(error);
            }
        };
        if mounts::is_special(&stat) && mounts::by_stub(&stat).is_some() {
            return Err(EBUSY);
        }
        Ok(access::remove(credentials, &self.seen.attributes, &seen(&stat).attributes)?)
    }
}

/// The bytes of the component that `name` begins with.
fn component<'a>(name: CString) -> Result<&'a [u8]> {
    let bytes = user::path_bytes(name)?;
    let length = bytes.iter().position(|&byte| byte == b'/').unwrap_or(bytes.len());
    Ok(bytes.get(..length).unwrap_or(bytes))
}

/// The directory of `path` and the name in it. The identity must be allowed to reach the directory; what it may do
/// there is for the caller to ask.
pub fn parent(directory: i32, path: CString) -> Result<Parent> {
    let bytes = user::path_bytes(path)?;
    if bytes.is_empty() {
        return Err(ENOENT);
    }
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let start = bytes.get(..end).unwrap_or(&[]).iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let name = bytes.get(start..end).unwrap_or(&[]);
    if matches!(name, b"" | b"." | b"..") {
        // No entry can be made or removed by such a name; the kernel has an error for each of them.
        let node = node(directory, path, Last::Follow)?;
        let name = match name {
            b"" => c"/",
            b"." => c".",
            _ => c"..",
        };
        let seen = node.seen();
        return Ok(Parent { fd: ParentFd::Own(node.fd), name: name.as_ptr().cast(), seen });
    }
    let name = path.wrapping_add(start);
    if start == 0 {
        let stat = fstatat(directory, EMPTY, AT_EMPTY_PATH)?;
        if stat.mode & mode::KIND != mode::DIRECTORY {
            return Err(ENOTDIR);
        }
        let seen = searchable(seen(&stat))?;
        return Ok(Parent { fd: ParentFd::Borrowed(directory), name, seen });
    }
    let node = directory_node(directory, bytes.get(..start).unwrap_or(&[]))?;
    if !node.is(mode::DIRECTORY) {
        return Err(ENOTDIR);
    }
    let seen = searchable(node.seen())?;
    Ok(Parent { fd: ParentFd::Own(node.fd), name, seen })
}

fn searchable(seen: Seen) -> Result<Seen> {
    if seen.key.is_some() {
        access::permission(state::credentials(), &seen.attributes, EXECUTE)?;
    }
    Ok(seen)
}

/// The file at a path that is not NUL-terminated.
fn directory_node(directory: i32, path: &[u8]) -> Result<Node> {
    /// Paths this short are copied on the stack; most are.
    const SHORT: usize = 192;
    if path.len() < SHORT {
        let mut copy = [0; SHORT];
        Text::new(&mut copy).push(path);
        return node(directory, copy.as_ptr(), Last::Follow);
    }
    let mut scratch = Scratch::take();
    let buffers = scratch.buffers();
    if !Text::new(&mut buffers.other).push(path) {
        return Err(ENAMETOOLONG);
    }
    node(directory, buffers.other.as_ptr(), Last::Follow)
}

/// Where a walk is.
struct Here {
    node: Node,
    /// In `/proc`, where some links are no texts.
    in_proc: bool,
}

/// Walks `path` component by component: through mounts, and as an identity that is not root.
#[inline(never)]
fn walk(directory: i32, path: CString, last: Last) -> Result<Node> {
    let bytes = user::path_bytes(path)?;
    let mut scratch = Scratch::take();
    let Buffers { path: rest, other } = scratch.buffers();
    // The rest of the path lies at the end of its buffer, so that a link's target can be put in front.
    let end = rest.len() - 1;
    let mut start = end - bytes.len();
    rest.get_mut(start..end).ok_or(ENAMETOOLONG)?.copy_from_slice(bytes);
    put_byte(rest, end, 0);
    let mut here = if bytes.first() == Some(&b'/') { root()? } else { start_at(directory)? };
    let mut links = 0;
    loop {
        while rest.get(start) == Some(&b'/') {
            start += 1;
        }
        let remaining = rest.get_mut(start..).unwrap_or(&mut []);
        let length = remaining.iter().position(|&byte| byte == b'/' || byte == 0).unwrap_or(0);
        if length == 0 {
            return Ok(here.node);
        }
        let more = remaining.get(length) == Some(&b'/');
        put_byte(remaining, length, 0);
        let name = remaining.get(..length).unwrap_or(&[]);
        let name_pointer = remaining.as_ptr();
        start += if more { length + 1 } else { length };
        if !here.node.is(mode::DIRECTORY) {
            return Err(ENOTDIR);
        }
        searchable(here.node.seen())?;
        if name == b"." {
            continue;
        }
        if name == b".." {
            here = above(here, other)?;
            continue;
        }
        let next = Node::new(openat(here.node.fd.number(), name_pointer, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0)?)?;
        if next.is(mode::SYMLINK) && (more || last == Last::Follow) {
            links += 1;
            if links > MAX_LINKS {
                return Err(ELOOP);
            }
            if here.in_proc && !is_text_link(name) {
                here = enter_object(&here, name, name_pointer)?;
                continue;
            }
            let length = readlinkat(next.fd.number(), EMPTY, other)?;
            let target = other.get(..length).unwrap_or(&[]);
            // What is left is "/rest" (its slash was cut to end the name) or nothing.
            if more {
                start -= 1;
                put_byte(rest, start, b'/');
            }
            start = start.checked_sub(length).ok_or(ENAMETOOLONG)?;
            rest.get_mut(start..start + length).ok_or(ENAMETOOLONG)?.copy_from_slice(target);
            if target.first() == Some(&b'/') {
                here = root()?;
            }
            continue;
        }
        here = step_to(here, next, name)?;
        if more && !here.node.is(mode::DIRECTORY) {
            return Err(ENOTDIR);
        }
    }
}

fn put_byte(buffer: &mut [u8], at: usize, byte: u8) {
    if let Some(slot) = buffer.get_mut(at) {
        *slot = byte;
    }
}

/// The root of the calling process.
fn root() -> Result<Here> {
    let fd = openat(ROOT_FD, c".".as_ptr().cast(), O_PATH | O_DIRECTORY | O_CLOEXEC, 0)?;
    Ok(Here { node: Node::new(fd)?, in_proc: false })
}

/// The directory that a relative path begins in.
fn start_at(directory: i32) -> Result<Here> {
    let node = Node::new(openat_self(directory)?)?;
    let in_proc = node.seen().key.is_none() && is_proc(&node.fd);
    Ok(Here { node, in_proc })
}

fn is_proc(fd: &Fd) -> bool {
    let mut statfs = [0_usize; 15];
    let pointer = statfs.as_mut_ptr() as usize;
    call(nr::FSTATFS, [fd.number() as usize, pointer, 0, 0, 0, 0]).is_ok()
        && statfs.first() == Some(&PROC_SUPER_MAGIC)
}

/// One step down, to a file that is no link to follow.
fn step_to(here: Here, next: Node, name: &[u8]) -> Result<Here> {
    if mounts::is_special(&next.stat)
        && let Some(mount) = mounts::by_stub(&next.stat)
    {
        return Ok(Here { node: Node::new(mounts::open(mount)?)?, in_proc: mount.kind == MountKind::Proc });
    }
    if here.in_proc && next.is(mode::REGULAR) {
        let index = match name {
            b"mounts" => 0,
            b"mountinfo" => 1,
            b"mountstats" => 2,
            _ => return Ok(Here { node: next, in_proc: true }),
        };
        if let Some(&text) = super::shared::block().mounts_file.get(index) {
            let fd = openat(STEP_FD, mounts::text(text), O_PATH | O_CLOEXEC, 0)?;
            return Ok(Here { node: Node::new(fd)?, in_proc: false });
        }
    }
    Ok(Here { node: next, in_proc: here.in_proc })
}

/// One step up. The root's parent is the root, a mount's is the mount point's.
fn above(here: Here, buffer: &mut [u8]) -> Result<Here> {
    let stat = &here.node.stat;
    if file::is_root(stat) || file::is_step_root(stat) {
        return Ok(here);
    }
    if let Some(mount) = mounts::root_of(stat) {
        let (outer, at) = match mounts::outer(mount) {
            Some((outer, below)) => (Some(mounts::open(outer)?), below),
            None => (None, super::shared::block().text(mount.at)),
        };
        let length = at.iter().rposition(|&byte| byte == b'/').unwrap_or(0).max(1);
        Text::new(buffer).push(at.get(..length).unwrap_or(b"/"));
        let start = outer.as_ref().map_or(ROOT_FD, Fd::number);
        let fd = openat2(start, buffer.as_ptr(), O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT)?;
        return step_to(Here { node: here.node, in_proc: false }, Node::new(fd)?, b"");
    }
    let fd = openat(here.node.fd.number(), c"..".as_ptr().cast(), O_PATH | O_DIRECTORY | O_CLOEXEC, 0)?;
    Ok(Here { node: Node::new(fd)?, in_proc: here.in_proc })
}

/// Whether a link in `/proc` is a text like any other; all others stand for an object of a process.
fn is_text_link(name: &[u8]) -> bool {
    matches!(name, b"self" | b"thread-self" | b"mounts" | b"net" | b"device-tree")
}

/// Goes through a link of `/proc/PID` to the object it stands for.
fn enter_object(here: &Here, name: &[u8], name_pointer: CString) -> Result<Here> {
    let hidden = match name {
        b"exe" => Some(PROGRAM_FD),
        b"root" => Some(ROOT_FD),
        _ if is_hidden(name) => return Err(ENOENT),
        _ => None,
    };
    let fd = match hidden {
        Some(number) => {
            let mut path = [0; 16];
            let mut text = Text::new(&mut path);
            text.push(b"fd/");
            text.push_number(number.unsigned_abs());
            openat(here.node.fd.number(), path.as_ptr(), O_PATH | O_CLOEXEC, 0)?
        }
        None => openat(here.node.fd.number(), name_pointer, O_PATH | O_CLOEXEC, 0)?,
    };
    let node = Node::new(fd)?;
    let in_proc = node.seen().key.is_none() && is_proc(&node.fd);
    Ok(Here { node, in_proc })
}

/// Whether `name`, in `/proc/PID/fd`, is a descriptor of the guest's. No other link there has such a name.
pub fn is_hidden(name: &[u8]) -> bool {
    let (first, last) = super::abi::HIDDEN_FDS;
    let mut number = 0_i32;
    for &digit in name {
        match digit {
            b'0'..=b'9' if number < 100_000 => number = number * 10 + i32::from(digit - b'0'),
            _ => return false,
        }
    }
    !name.is_empty() && (first..=last).contains(&number)
}
