//! Extended attributes: `user.*` are the filesystem's; `security.capability` is the ledger's, since no unprivileged
//! process can set it; there are no others.

use crate::file::{FdPath, Seen, seen};
use crate::kernel::*;
use crate::ledger::MAX_CAPABILITY;
use crate::nr;
use crate::resolve::{Last, Node, node};
use crate::rules::access::{READ, WRITE, permission};
use crate::rules::credentials::{Capability, FileCapabilities};
use crate::rules::mode;
use crate::scratch::Scratch;
use crate::shared::ledger;
use crate::{mounts, state, user};

use super::Arguments;

const CAPABILITY: &[u8] = b"security.capability";
const XATTR_CREATE: usize = 1;
const XATTR_REPLACE: usize = 2;

/// What a name stands for.
enum Name {
    User,
    Capability,
    /// `EOPNOTSUPP` to read and write, as of a filesystem that has none.
    Absent,
    /// `trusted.*`, which a container's root may neither see nor set.
    Trusted,
}

fn name(pointer: CString) -> Result<Name> {
    let bytes = user::path_bytes(pointer)?;
    Ok(if bytes.starts_with(b"user.") {
        Name::User
    } else if bytes == CAPABILITY {
        Name::Capability
    } else if bytes.starts_with(b"trusted.") {
        Name::Trusted
    } else {
        Name::Absent
    })
}

/// A file and the path by which the kernel's own calls reach it.
struct File {
    _node: Option<Node>,
    path: FdPath,
    fd: i32,
    seen: Seen,
}

fn by_path(path: CString, flags: usize) -> Result<File> {
    let node = node(AT_FDCWD, path, Last::unless_nofollow(flags))?;
    let (fd, seen) = (node.fd.number(), node.seen());
    Ok(File { _node: Some(node), path: FdPath::new(fd), fd, seen })
}

fn by_fd(fd: i32) -> Result<File> {
    Ok(File { _node: None, path: FdPath::new(fd), fd, seen: seen(&fstat(fd)?) })
}

impl File {
    fn may(&self, want: u32) -> Result<()> {
        if self.seen.key.is_none() {
            return Ok(());
        }
        Ok(permission(state::credentials(), &self.seen.attributes, want)?)
    }

    fn call(&self, number: usize, rest: [usize; 4]) -> Result {
        call(number, [self.path.as_ptr() as usize, rest[0], rest[1], rest[2], rest[3], 0])
    }

    fn set(&self, a: &Arguments) -> Result {
        match name(a[1] as CString)? {
            Name::User => {
                mounts::writable(self.fd)?;
                self.may(WRITE)?;
                self.call(nr::SETXATTR, [a[1], a[2], a[3], a[4]])
            }
            Name::Capability => self.set_capability(a[2], a[3], a[4]),
            Name::Trusted => Err(EPERM),
            Name::Absent => Err(EOPNOTSUPP),
        }
    }

    fn set_capability(&self, value: usize, size: usize, flags: usize) -> Result {
        mounts::writable(self.fd)?;
        if !state::credentials().capable(Capability::Setfcap) {
            return Err(EPERM);
        }
        if self.seen.attributes.mode & mode::KIND != mode::REGULAR {
            return Err(EINVAL);
        }
        let key = self.seen.key.ok_or(EOPNOTSUPP)?;
        let mut bytes = [0; MAX_CAPABILITY];
        let bytes = bytes.get_mut(..size).ok_or(EINVAL)?;
        user::read_bytes(value, bytes)?;
        if FileCapabilities::parse(bytes).is_none() {
            return Err(EINVAL);
        }
        let had = self.capability().is_some();
        if flags & XATTR_CREATE != 0 && had {
            return Err(EEXIST);
        }
        if flags & XATTR_REPLACE != 0 && !had {
            return Err(ENODATA);
        }
        let entry = ledger().entry(key).ok_or(ENOSPC)?;
        if entry.get().is_none() {
            record_as_is(&self.seen, entry);
        }
        entry.set_capability(bytes);
        crate::file::touch(self.fd)
    }

    fn capability(&self) -> Option<([u8; MAX_CAPABILITY], usize)> {
        self.seen.entry()?.capability()
    }

    fn get(&self, a: &Arguments) -> Result {
        match name(a[1] as CString)? {
            Name::User => {
                self.may(READ)?;
                self.call(nr::GETXATTR, [a[1], a[2], a[3], 0])
            }
            Name::Capability => {
                let (bytes, length) = self.capability().ok_or(ENODATA)?;
                answer(bytes.get(..length).unwrap_or(&[]), a[2], a[3])
            }
            Name::Trusted => Err(ENODATA),
            Name::Absent => Err(EOPNOTSUPP),
        }
    }

    fn remove(&self, a: &Arguments) -> Result {
        mounts::writable(self.fd)?;
        match name(a[1] as CString)? {
            Name::User => {
                self.may(WRITE)?;
                self.call(nr::REMOVEXATTR, [a[1], 0, 0, 0])
            }
            Name::Capability => {
                if !state::credentials().capable(Capability::Setfcap) {
                    return Err(EPERM);
                }
                self.capability().ok_or(ENODATA)?;
                if let Some(entry) = self.seen.entry() {
                    entry.set_capability(&[]);
                }
                crate::file::touch(self.fd)
            }
            Name::Trusted => Err(EPERM),
            Name::Absent => Err(EOPNOTSUPP),
        }
    }

    /// The names: those of `user.*` that the filesystem has, and the ledger's.
    fn list(&self, a: &Arguments) -> Result {
        let mut scratch = Scratch::take();
        let buffers = scratch.buffers();
        let from = &mut buffers.path;
        let (start, room) = (from.as_mut_ptr() as usize, from.len());
        // A list that is longer than the buffer is passed on as it is: it holds no more than `user.*` names.
        let length = match self.call(nr::LISTXATTR, [start, room, 0, 0]) {
            Ok(length) => length as usize,
            Err(EOPNOTSUPP) => 0,
            Err(ERANGE) => return self.call(nr::LISTXATTR, [a[1], a[2], 0, 0]),
            Err(error) => return Err(error),
        };
        let mut kept = 0;
        let listed = buffers.path.get(..length).unwrap_or(&[]);
        let own = self.capability().map(|_| CAPABILITY);
        for name in listed.split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")).chain(own) {
            let room = buffers.other.get_mut(kept..kept + name.len() + 1).ok_or(ERANGE)?;
            for (slot, byte) in room.iter_mut().zip(name.iter().chain(&[0])) {
                *slot = *byte;
            }
            kept += name.len() + 1;
        }
        answer(buffers.other.get(..kept).unwrap_or(&[]), a[1], a[2])
    }
}

/// Writes a default record, so that the entry counts.
fn record_as_is(seen: &Seen, entry: &crate::ledger::Entry) {
    let attributes = seen.attributes;
    entry.set(crate::ledger::Record {
        uid: attributes.uid,
        gid: attributes.gid,
        mode: attributes.mode,
        device: seen.device,
    });
}

/// Gives a value: its length alone where no room is offered.
fn answer(value: &[u8], buffer: usize, size: usize) -> Result {
    if size != 0 {
        if size < value.len() {
            return Err(ERANGE);
        }
        user::write_bytes(buffer, value)?;
    }
    Ok(value.len() as isize)
}

pub fn set(path: CString, flags: usize, a: &Arguments) -> Result {
    by_path(path, flags)?.set(a)
}

pub fn fset(fd: i32, a: &Arguments) -> Result {
    by_fd(fd)?.set(a)
}

pub fn get(path: CString, flags: usize, a: &Arguments) -> Result {
    by_path(path, flags)?.get(a)
}

pub fn fget(fd: i32, a: &Arguments) -> Result {
    by_fd(fd)?.get(a)
}

pub fn list(path: CString, flags: usize, a: &Arguments) -> Result {
    by_path(path, flags)?.list(a)
}

pub fn flist(fd: i32, a: &Arguments) -> Result {
    by_fd(fd)?.list(a)
}

pub fn remove(path: CString, flags: usize, a: &Arguments) -> Result {
    by_path(path, flags)?.remove(a)
}

pub fn fremove(fd: i32, a: &Arguments) -> Result {
    by_fd(fd)?.remove(a)
}
