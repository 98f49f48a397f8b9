//! Calls about descriptors, among which the guest's own must not be seen.

use crate::abi::HIDDEN_FDS;
use crate::kernel::*;
use crate::ledger::inode_key;
use crate::nr;
use crate::resolve::Last;
use crate::rules::mode;
use crate::shared::{block, ledger};
use crate::user;

use super::entries::through_descriptor;

/// `IN_DONT_FOLLOW`
const IN_DONT_FOLLOW: usize = 0x0200_0000;

/// `close_range(2)`, around the guest's descriptors.
pub fn close_range(first: usize, last: usize, flags: usize) -> Result {
    let (first, last) = (first as u32, last as u32);
    if first > last {
        return Err(EINVAL);
    }
    let (hidden_first, hidden_last) = (HIDDEN_FDS.0.unsigned_abs(), HIDDEN_FDS.1.unsigned_abs());
    let close = |first: u32, last: u32| {
        if first > last { Ok(0) } else { call(nr::CLOSE_RANGE, [first as usize, last as usize, flags, 0, 0, 0]) }
    };
    close(first, last.min(hidden_first - 1))?;
    close(first.max(hidden_last + 1), last)
}

/// Fields of `struct linux_dirent64` (getdents(2)).
mod entry_field {
    pub const INODE: usize = 0;
    pub const LENGTH: usize = 16;
    pub const KIND: usize = 18;
    pub const NAME: usize = 19;
}

/// `DT_REG`
const KIND_REGULAR: u8 = 8;

/// `getdents64(2)`. Of a process's descriptors the guest's own are left out, and a file that stands for a device is
/// told to be one, for `find` and others believe what a directory says.
pub fn getdents64(directory: usize, buffer: usize, size: usize) -> Result {
    loop {
        let length = call(nr::GETDENTS64, [directory, buffer, size, 0, 0, 0])? as usize;
        let devices = device_of(directory as i32);
        let (mut from, mut kept) = (0, 0);
        while from < length {
            let entry = buffer + from;
            let entry_length = usize::from(user::read::<u16>(entry + entry_field::LENGTH)?);
            if entry_length == 0 {
                break;
            }
            from += entry_length;
            if is_hidden_name(entry + entry_field::NAME)? && is_in_proc(directory)? {
                continue;
            }
            if let Some(device) = devices {
                tell_device(entry, device)?;
            }
            if entry != buffer + kept {
                // Entries are whole words, and move down.
                for at in (0..entry_length).step_by(8) {
                    user::write(buffer + kept + at, user::read::<u64>(entry + at)?)?;
                }
            }
            kept += entry_length;
        }
        // Nothing at all would mean the directory's end.
        if kept != 0 || length == 0 {
            return Ok(kept as isize);
        }
    }
}

/// Whether a name is the number of a hidden descriptor.
fn is_hidden_name(name: usize) -> Result<bool> {
    let mut number = 0;
    // One more than the digits of the last: most names are told apart by their first byte.
    for index in 0..5 {
        match user::read::<u8>(name + index)? {
            0 => return Ok((HIDDEN_FDS.0..=HIDDEN_FDS.1).contains(&number)),
            digit @ b'0'..=b'9' => number = number * 10 + i32::from(digit - b'0'),
            _ => break,
        }
    }
    Ok(false)
}

/// Whether a directory is the kernel's account of processes.
fn is_in_proc(directory: usize) -> Result<bool> {
    /// `PROC_SUPER_MAGIC`
    const PROC: u64 = 0x9fa0;
    let mut status = [0_u64; 15];
    call(nr::FSTATFS, [directory, (&raw mut status) as usize, 0, 0, 0, 0])?;
    Ok(status.first() == Some(&PROC))
}

/// The device number of a directory, if files in it may stand for device nodes.
fn device_of(directory: i32) -> Option<u64> {
    if !ledger().has_devices() {
        return None;
    }
    fstat(directory).ok().map(|stat| stat.device)
}

fn tell_device(entry: usize, device: u64) -> Result<()> {
    if user::read::<u8>(entry + entry_field::KIND)? != KIND_REGULAR {
        return Ok(());
    }
    let [of_directories, of_files, _] = block().devices;
    let device = if device == of_directories { of_files } else { device };
    let key = inode_key(&block().devices, device, user::read(entry + entry_field::INODE)?);
    let kind = key.and_then(|key| ledger().get(key)).map_or(0, |record| record.mode & mode::KIND);
    if matches!(kind, mode::CHARACTER | mode::BLOCK) {
        // `DT_*` are the bits of the kind in a mode.
        user::write(entry + entry_field::KIND, (kind >> 12) as u8)?;
    }
    Ok(())
}

pub fn inotify_add_watch(instance: usize, path: CString, mask: usize) -> Result {
    let last = if mask & IN_DONT_FOLLOW == 0 { Last::Follow } else { Last::Keep };
    // Through a descriptor the link has been followed, or is itself what is watched.
    let mask = mask & !IN_DONT_FOLLOW;
    through_descriptor(AT_FDCWD, path, last, |path| {
        call(nr::INOTIFY_ADD_WATCH, [instance, path as usize, mask, 0, 0, 0])
    })
}
