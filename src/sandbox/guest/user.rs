//! The step's memory: the only place where the guest itself reads or writes through a pointer of the step.
//!
//! The kernel checks the pointers it is given; what the guest looks at itself is checked here. A pointer into the
//! first page is `EFAULT`, which is what a program that passes NULL expects. A pointer into other unmapped memory
//! is the program's fault and ends it, as it would in the C library's own code.

use super::abi::PATH_MAX;
use super::kernel::{CString, EFAULT, ENAMETOOLONG, Result};

/// Nothing is mapped below.
const FIRST_PAGE: usize = 4096;

fn check(address: usize) -> Result<()> {
    if address < FIRST_PAGE { Err(EFAULT) } else { Ok(()) }
}

/// The value at `pointer`.
pub fn read<T: Copy>(pointer: usize) -> Result<T> {
    check(pointer)?;
    // SAFETY: see the module; the step's structures need not be aligned.
    Ok(unsafe { (pointer as *const T).read_unaligned() })
}

/// Writes `value` to `pointer`.
pub fn write<T: Copy>(pointer: usize, value: T) -> Result<()> {
    check(pointer)?;
    // SAFETY: see the module.
    unsafe { (pointer as *mut T).write_unaligned(value) };
    Ok(())
}

/// Writes `bytes` to `pointer`.
pub fn write_bytes(pointer: usize, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    check(pointer)?;
    // SAFETY: see the module; the guest's memory and the step's buffer do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer as *mut u8, bytes.len()) };
    Ok(())
}

/// Reads `buffer.len()` bytes from `pointer`.
pub fn read_bytes(pointer: usize, buffer: &mut [u8]) -> Result<()> {
    if buffer.is_empty() {
        return Ok(());
    }
    check(pointer)?;
    // SAFETY: see the module.
    unsafe { core::ptr::copy_nonoverlapping(pointer as *const u8, buffer.as_mut_ptr(), buffer.len()) };
    Ok(())
}

/// The first byte of a path; 0 if it is empty.
pub fn first_byte(path: CString) -> Result<u8> {
    read(path as usize)
}

/// The bytes of a path, without its NUL. `ENAMETOOLONG` for what the kernel would not take.
pub fn path_bytes<'a>(path: CString) -> Result<&'a [u8]> {
    check(path as usize)?;
    let mut length = 0;
    // SAFETY: bytes up to the NUL are the step's text; see the module.
    unsafe {
        while *path.add(length) != 0 {
            length += 1;
            if length == PATH_MAX {
                return Err(ENAMETOOLONG);
            }
        }
        Ok(core::slice::from_raw_parts(path, length))
    }
}
