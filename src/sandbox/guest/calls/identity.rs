//! Who the process is: the calls of credentials(7), and capabilities.

use crate::kernel::*;
use crate::nr;
use crate::rules::credentials::{ALL_CAPABILITIES, Credentials, MAX_GROUPS, Refused};
use crate::state;
use crate::user;

use super::Arguments;

/// Carries out `number` if it is one of these calls.
pub fn call(number: usize, a: &Arguments) -> Option<Result> {
    let credentials = state::credentials();
    let [x, y, z] = [a[0] as u32, a[1] as u32, a[2] as u32];
    Some(match number {
        nr::GETUID => Ok(credentials.user.real as isize),
        nr::GETEUID => Ok(credentials.user.effective as isize),
        nr::GETGID => Ok(credentials.group.real as isize),
        nr::GETEGID => Ok(credentials.group.effective as isize),
        nr::GETRESUID => write_three(a, [credentials.user.real, credentials.user.effective, credentials.user.saved]),
        nr::GETRESGID => {
            write_three(a, [credentials.group.real, credentials.group.effective, credentials.group.saved])
        }
        nr::GETGROUPS => getgroups(x, a[1]),
        nr::SETUID => set(|who| who.set_uid(x)),
        nr::SETGID => set(|who| who.set_gid(x)),
        nr::SETREUID => set(|who| who.set_reuid(x, y)),
        nr::SETREGID => set(|who| who.set_regid(x, y)),
        nr::SETRESUID => set(|who| who.set_resuid(x, y, z)),
        nr::SETRESGID => set(|who| who.set_resgid(x, y, z)),
        nr::SETFSUID => state::change(|task| Ok(task.credentials.set_fsuid(x) as isize)),
        nr::SETFSGID => state::change(|task| Ok(task.credentials.set_fsgid(x) as isize)),
        nr::SETGROUPS => setgroups(a[0], a[1]),
        nr::CAPGET => capget(a[0], a[1]),
        nr::CAPSET => capset(a[0], a[1]),
        _ => return None,
    })
}

fn set(change: impl FnOnce(&mut Credentials) -> core::result::Result<(), Refused>) -> Result {
    state::change(|task| Ok(change(&mut task.credentials)?))?;
    Ok(0)
}

fn write_three(pointers: &Arguments, values: [u32; 3]) -> Result {
    for (pointer, value) in pointers.iter().zip(values) {
        user::write(*pointer, value)?;
    }
    Ok(0)
}

fn getgroups(room: u32, list: usize) -> Result {
    let groups = state::credentials().supplementary();
    if room == 0 {
        return Ok(groups.len() as isize);
    }
    if (room as usize) < groups.len() || room > i32::MAX as u32 {
        return Err(EINVAL);
    }
    for (index, group) in groups.iter().enumerate() {
        user::write(list + index * 4, *group)?;
    }
    Ok(groups.len() as isize)
}

fn setgroups(count: usize, list: usize) -> Result {
    let mut groups = [0; MAX_GROUPS];
    let used = groups.get_mut(..count).ok_or(EINVAL)?;
    for (index, group) in used.iter_mut().enumerate() {
        *group = user::read(list + index * 4)?;
    }
    set(|who| who.set_groups(used))
}

/// `_LINUX_CAPABILITY_VERSION_1`, with one word a set; versions 2 and 3 have two.
const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// The number of words of a set that the header asks for, and whether it names the caller.
fn capability_header(header: usize) -> Result<Option<usize>> {
    match user::read::<u32>(header)? {
        VERSION_1 => Ok(Some(1)),
        VERSION_2 | VERSION_3 => Ok(Some(2)),
        _ => {
            user::write(header, VERSION_3)?;
            Ok(None)
        }
    }
}

fn capget(header: usize, data: usize) -> Result {
    let Some(words) = capability_header(header)? else {
        return if data == 0 { Ok(0) } else { Err(EINVAL) };
    };
    if data == 0 {
        return Ok(0);
    }
    let who = state::credentials();
    for word in 0..words {
        for (field, set) in [who.effective, who.permitted, who.inheritable].into_iter().enumerate() {
            user::write(data + (word * 3 + field) * 4, (set >> (word * 32)) as u32)?;
        }
    }
    Ok(0)
}

fn capset(header: usize, data: usize) -> Result {
    let words = capability_header(header)?.ok_or(EINVAL)?;
    let pid: u32 = user::read(header + 4)?;
    if pid != 0 && pid != getpid() && Ok(pid as isize) != crate::kernel::call(nr::GETTID, [0; 6]) {
        return Err(EPERM);
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        for (field, set) in sets.iter_mut().enumerate() {
            let bits: u32 = user::read(data + (word * 3 + field) * 4)?;
            *set |= u64::from(bits) << (word * 32);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & ALL_CAPABILITIES);
    set(|who| who.set_capabilities(effective, permitted, inheritable))
}
