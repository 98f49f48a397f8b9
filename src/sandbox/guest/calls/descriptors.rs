//! Calls about descriptors, among which the guest's own must not be seen.

use crate::abi::HIDDEN_FDS;
use crate::kernel::*;
use crate::nr;
use crate::resolve::Last;

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

pub fn inotify_add_watch(instance: usize, path: CString, mask: usize) -> Result {
    let last = if mask & IN_DONT_FOLLOW == 0 { Last::Follow } else { Last::Keep };
    // Through a descriptor the link has been followed, or is itself what is watched.
    let mask = mask & !IN_DONT_FOLLOW;
    through_descriptor(AT_FDCWD, path, last, |path| {
        call(nr::INOTIFY_ADD_WATCH, [instance, path as usize, mask, 0, 0, 0])
    })
}
