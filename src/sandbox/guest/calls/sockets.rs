//! Sockets that are named by a path.

use core::sync::atomic::Ordering;

use crate::file::{FdPath, Text, record_new};
use crate::kernel::*;
use crate::nr;
use crate::resolve::{Last, node, parent};
use crate::rules::access::{WRITE, permission};
use crate::rules::mode;
use crate::shared::table;
use crate::state;
use crate::trap::StepMask;
use crate::user;

use super::Arguments;
use super::open::new_attributes;

const AF_UNIX: u16 = 1;
/// Room for a path in `struct sockaddr_un`.
const PATH_ROOM: usize = 108;

/// `struct sockaddr_un`
#[repr(C)]
struct Address {
    family: u16,
    path: [u8; PATH_ROOM],
}

impl Address {
    /// The path of an address of the step's, NUL-terminated; `None` if it names no path.
    fn path_of(address: usize, length: usize) -> Result<Option<[u8; PATH_ROOM + 1]>> {
        if address == 0 || length <= 2 || length > 2 + PATH_ROOM || user::read::<u16>(address)? != AF_UNIX {
            return Ok(None);
        }
        let mut path = [0; PATH_ROOM + 1];
        user::read_bytes(address + 2, path.get_mut(..length - 2).unwrap_or(&mut []))?;
        Ok((path.first() != Some(&0)).then_some(path))
    }

    /// The address of `name` in the directory `fd`, or of `fd` itself; `ENAMETOOLONG` if there is no room.
    fn by_descriptor(fd: i32, name: &[u8]) -> Result<(Self, usize)> {
        let mut address = Self { family: AF_UNIX, path: [0; PATH_ROOM] };
        let mut text = Text::new(&mut address.path);
        let fits = text.push(FdPath::new(fd).bytes()) && (name.is_empty() || text.push(b"/") && text.push(name));
        let length = 2 + text.length() + 1;
        if fits { Ok((address, length)) } else { Err(ENAMETOOLONG) }
    }
}

/// A socket of the network, in a step that has none.
pub fn refuse() -> Result {
    table().network_refused.store(1, Ordering::Relaxed);
    Err(EAFNOSUPPORT)
}

pub fn bind(socket: usize, address: usize, length: usize) -> Result {
    let Some(path) = Address::path_of(address, length)? else {
        return call(nr::BIND, [socket, address, length, 0, 0, 0]);
    };
    let place = parent(AT_FDCWD, path.as_ptr())?;
    place.may_create()?;
    let wanted = new_attributes(&place.seen.attributes, mode::SOCKET | 0o777);
    let (own, own_length) = Address::by_descriptor(place.fd(), user::path_bytes(place.name)?)?;
    call(nr::BIND, [socket, &raw const own as usize, own_length, 0, 0, 0])?;
    let made = place.entry()?;
    record_new(&made, &wanted, 0)?;
    Ok(0)
}

pub fn connect(socket: usize, address: usize, length: usize, step: StepMask) -> Result {
    let Some(path) = Address::path_of(address, length)? else {
        return step.wait(|| call(nr::CONNECT, [socket, address, length, 0, 0, 0]));
    };
    let (fd, own, own_length) = reach(path)?;
    let result = step.wait(|| call(nr::CONNECT, [socket, &raw const own as usize, own_length, 0, 0, 0]));
    drop(fd);
    result
}

pub fn sendto(a: Arguments, step: StepMask) -> Result {
    let Some(path) = Address::path_of(a[4], a[5])? else {
        return step.wait(|| call(nr::SENDTO, a));
    };
    let (fd, own, own_length) = reach(path)?;
    let result =
        step.wait(|| call(nr::SENDTO, [a[0], a[1], a[2], a[3], &raw const own as usize, own_length]));
    drop(fd);
    result
}

/// The socket at `path`, which the identity must be allowed to write to.
fn reach(path: [u8; PATH_ROOM + 1]) -> Result<(Fd, Address, usize)> {
    let node = node(AT_FDCWD, path.as_ptr(), Last::Follow)?;
    let seen = node.seen();
    if seen.key.is_some() {
        permission(state::credentials(), &seen.attributes, WRITE)?;
    }
    let (own, length) = Address::by_descriptor(node.fd.number(), b"")?;
    Ok((node.fd, own, length))
}
