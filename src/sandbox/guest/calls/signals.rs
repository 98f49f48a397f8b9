//! Signals: SIGSYS is the guest's. It must never be blocked, ignored or handled by anybody else, and nobody should
//! notice.

use crate::arch::{self, Frame};
use crate::kernel::*;
use crate::nr;
use crate::state;
use crate::trap::{Action, SIGSYS, SIGSYS_BIT};
use crate::user;

use super::Arguments;

const SIG_BLOCK: usize = 0;
const SIG_UNBLOCK: usize = 1;
const SIG_SETMASK: usize = 2;

pub fn sigaction(a: Arguments) -> Result {
    let [signal, new, old, size, ..] = a;
    if signal == SIGSYS {
        if new == 0 {
            return user::write(old, state::task().sigsys).map(|()| 0);
        }
        let action: Action = user::read(new)?;
        let before = state::change(|task| Ok(core::mem::replace(&mut task.sigsys, action)))?;
        return if old == 0 { Ok(0) } else { user::write(old, before).map(|()| 0) };
    }
    if new == 0 {
        return call(nr::RT_SIGACTION, a);
    }
    let mut action: Action = user::read(new)?;
    action.mask &= !SIGSYS_BIT;
    call(nr::RT_SIGACTION, [signal, &raw const action as usize, old, size, 0, 0])
}

/// Changes the mask that the thread will have when it leaves the handler; the kernel is not asked.
pub fn sigprocmask(a: Arguments, frame: &mut Frame) -> Result {
    let [how, new, old, size, ..] = a;
    if size != 8 {
        return Err(EINVAL);
    }
    let before = frame.mask;
    let after = if new == 0 {
        before
    } else {
        let set: u64 = user::read(new)?;
        match how {
            SIG_BLOCK => before | set & !SIGSYS_BIT,
            SIG_UNBLOCK => before & !set,
            SIG_SETMASK => set & !SIGSYS_BIT,
            _ => return Err(EINVAL),
        }
    };
    if old != 0 {
        user::write(old, before)?;
    }
    frame.mask = after;
    Ok(0)
}

/// Returns from a handler of the step, which may have changed the mask that is to hold then (qemu blocks everything until
/// its loop has seen the signal): without SIGSYS, the next trap would end the process. The frame is at the stack's
/// top, and the call is made anew from the guest's own code.
pub fn sigreturn(frame: &mut Frame) -> Result {
    let mask = frame.stack() + Frame::MASK;
    user::write(mask, user::read::<u64>(mask)? & !SIGSYS_BIT)?;
    frame.set_instruction(arch::guest_restorer as *const () as usize);
    Ok(0)
}

pub fn sigsuspend(a: Arguments) -> Result {
    let mask = user::read::<u64>(a[0])? & !SIGSYS_BIT;
    call(nr::RT_SIGSUSPEND, [&raw const mask as usize, 8, 0, 0, 0, 0])
}

/// A call that waits with the mask that argument `index` points to.
pub fn with_mask(number: usize, mut a: Arguments, index: usize) -> Result {
    let mut mask = 0_u64;
    if let Some(pointer) = a.get_mut(index)
        && *pointer != 0
    {
        mask = user::read::<u64>(*pointer)? & !SIGSYS_BIT;
        *pointer = &raw const mask as usize;
    }
    let result = call(number, a);
    // The kernel reads the mask during the call.
    core::hint::black_box(&mask);
    result
}

/// `pselect6` takes a pointer to a pointer and a size.
pub fn pselect6(mut a: Arguments) -> Result {
    let mut mask = 0_u64;
    let mut argument = [0_usize; 2];
    if a[5] != 0 {
        argument = user::read(a[5])?;
        if argument[0] != 0 {
            mask = user::read::<u64>(argument[0])? & !SIGSYS_BIT;
            argument[0] = &raw const mask as usize;
        }
        a[5] = argument.as_ptr() as usize;
    }
    let result = call(nr::PSELECT6, a);
    core::hint::black_box((&mask, &argument));
    result
}
