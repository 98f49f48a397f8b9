//! The process: working directory, root, forks, prctl(2), uname(2).

use crate::abi::ROOT_FD;
use crate::arch::Frame;
use crate::kernel::{self, *};
use crate::nr;
use crate::resolve::{self, Last};
use crate::rules::access::{EXECUTE, permission};
use crate::rules::credentials::{Capability, SECBIT_KEEP_CAPS};
use crate::rules::mode;
use crate::scratch::{self, Scratch};
use crate::shared::block;
use crate::state;
use crate::user;

use super::Arguments;
use super::stat::to_step;

/// A directory that the identity may search.
fn directory(path: CString) -> Result<resolve::Node> {
    let node = resolve::node(AT_FDCWD, path, Last::Follow)?;
    if node.stat.mode & mode::KIND != mode::DIRECTORY {
        return Err(ENOTDIR);
    }
    let seen = node.seen();
    if seen.key.is_some() {
        permission(state::credentials(), &seen.attributes, EXECUTE)?;
    }
    Ok(node)
}

pub fn chdir(path: CString) -> Result {
    let node = directory(path)?;
    call(nr::FCHDIR, [node.fd.number() as usize, 0, 0, 0, 0, 0])
}

pub fn chroot(path: CString) -> Result {
    let node = directory(path)?;
    if !state::credentials().capable(Capability::SysChroot) {
        return Err(EPERM);
    }
    state::change(|task| {
        dup3(node.fd.number(), ROOT_FD, 0)?;
        task.chrooted = u32::from(!crate::file::is_step_root(&node.stat));
        Ok(0)
    })
}

pub fn getcwd(buffer: usize, size: usize) -> Result {
    let mut scratch = Scratch::take();
    let buffers = scratch.buffers();
    let host = &mut buffers.path;
    let (start, room) = (host.as_mut_ptr() as usize, host.len());
    let length = call(nr::GETCWD, [start, room, 0, 0, 0, 0])? as usize;
    let path = to_step(host.get(..length - 1).unwrap_or(&[]), &mut buffers.other);
    if path.len() >= size {
        return Err(ERANGE);
    }
    user::write_bytes(buffer, path)?;
    user::write(buffer + path.len(), 0_u8)?;
    Ok(path.len() as isize + 1)
}

/// Length of a field of `struct utsname`, and the offset of the host name.
const UTSNAME_FIELD: usize = 65;

pub fn uname(buffer: usize) -> Result {
    call(nr::UNAME, [buffer, 0, 0, 0, 0, 0])?;
    let block = block();
    let name = block.text(block.hostname);
    let mut field = [0; UTSNAME_FIELD];
    for (slot, byte) in field.iter_mut().zip(name.iter().take(UTSNAME_FIELD - 1)) {
        *slot = *byte;
    }
    user::write_bytes(buffer + UTSNAME_FIELD, &field)?;
    Ok(0)
}

/// `clone(2)` flags for new namespaces: a step cannot have any.
const NEW_NAMESPACES: usize = 0x7e02_0080;

/// `fork(2)` and `clone(2)` without shared memory. They are made here so that the child's state is its own from
/// its first instruction on.
pub fn fork(number: usize, mut a: Arguments, frame: &mut Frame) -> Result {
    let mut stack = 0;
    if number == nr::CLONE {
        if a[0] & NEW_NAMESPACES != 0 {
            return Err(EPERM);
        }
        // The child must come back here first: it takes its own stack when it leaves the guest.
        stack = core::mem::replace(&mut a[1], 0);
    }
    let task = *state::task();
    let child = call(number, a)?;
    if child == 0 {
        scratch::after_fork();
        state::after_fork(task);
        if stack != 0 {
            frame.set_stack(stack);
        }
    }
    Ok(child)
}

/// `prctl(2)` operations that concern the identity.
mod operation {
    pub const SET_KEEPCAPS: usize = 8;
    pub const GET_KEEPCAPS: usize = 7;
    pub const SET_SECCOMP: usize = 22;
    pub const CAPBSET_READ: usize = 23;
    pub const CAPBSET_DROP: usize = 24;
    pub const GET_SECUREBITS: usize = 27;
    pub const SET_SECUREBITS: usize = 28;
    pub const SET_NO_NEW_PRIVS: usize = 38;
    pub const GET_NO_NEW_PRIVS: usize = 39;
    pub const CAP_AMBIENT: usize = 47;
}

pub fn prctl(a: Arguments) -> Result {
    let who = state::credentials();
    match a[0] {
        operation::SET_SECCOMP => Ok(0),
        operation::GET_KEEPCAPS => Ok(isize::from(who.securebits & SECBIT_KEEP_CAPS != 0)),
        operation::SET_KEEPCAPS if a[1] > 1 => Err(EINVAL),
        operation::SET_KEEPCAPS => state::change(|task| {
            task.credentials.set_keepcaps(a[1] == 1)?;
            Ok(0)
        }),
        operation::CAPBSET_READ if a[1] >= 41 => Err(EINVAL),
        operation::CAPBSET_READ => Ok((who.bounding >> a[1] & 1) as isize),
        operation::CAPBSET_DROP => state::change(|task| {
            task.credentials.drop_bounding(a[1] as u32)?;
            Ok(0)
        }),
        operation::GET_SECUREBITS => Ok(who.securebits as isize),
        operation::SET_SECUREBITS => state::change(|task| {
            task.credentials.set_securebits(a[1] as u32)?;
            Ok(0)
        }),
        operation::GET_NO_NEW_PRIVS => Ok(who.no_new_privs as isize),
        operation::SET_NO_NEW_PRIVS if a[1] != 1 => Err(EINVAL),
        operation::SET_NO_NEW_PRIVS => state::change(|task| {
            task.credentials.no_new_privs = 1;
            Ok(0)
        }),
        operation::CAP_AMBIENT => ambient(a[1], a[2]),
        _ => kernel::call(nr::PRCTL, a),
    }
}

/// `PR_CAP_AMBIENT`: is set, raise, lower, clear all.
fn ambient(what: usize, capability: usize) -> Result {
    if what < 4 && capability >= 41 {
        return Err(EINVAL);
    }
    match what {
        1 => Ok((state::credentials().ambient >> capability & 1) as isize),
        2 => state::change(|task| {
            task.credentials.raise_ambient(capability as u32)?;
            Ok(0)
        }),
        3 | 4 => state::change(|task| {
            task.credentials.ambient &= if what == 3 { !(1 << capability) } else { 0 };
            Ok(0)
        }),
        _ => Err(EINVAL),
    }
}
