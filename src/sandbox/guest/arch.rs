//! The processor and the kernel's binary interface: x86-64.
//!
//! Everything that another architecture would do in another way is here: the entry point, the `syscall`
//! instruction, the frame of a signal, the number of each call.

use core::arch::{asm, global_asm};

use super::abi::Machine;

/// One system call.
///
/// # Safety
/// The call may do anything to memory that its arguments name.
#[inline(always)]
pub unsafe fn syscall(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

// The kernel enters here with the stack as execve(2) laid it out. `guest_main` prepares the program and tells where
// to go on: with a clean set of registers, as the kernel would have started the program itself.
global_asm!(
    ".globl _start",
    "_start:",
    "    mov rdi, rsp",
    "    and rsp, -16",
    "    call {main}",
    "    mov rsp, rdx",
    "    mov rcx, rax",
    "    xor eax, eax",
    "    xor ebx, ebx",
    "    xor edx, edx", // rdx: a function to register with atexit; none
    "    xor esi, esi",
    "    xor edi, edi",
    "    xor ebp, ebp",
    "    xor r8d, r8d",
    "    xor r9d, r9d",
    "    xor r10d, r10d",
    "    xor r11d, r11d",
    "    xor r12d, r12d",
    "    xor r13d, r13d",
    "    xor r14d, r14d",
    "    xor r15d, r15d",
    "    jmp rcx",
    main = sym super::guest_main,
);

// What a signal handler returns to.
global_asm!(".globl guest_restorer", "guest_restorer:", "    mov eax, 15", "    syscall");

unsafe extern "C" {
    /// Returns from a signal handler; never called from Rust.
    pub fn guest_restorer();
}

/// Where the program starts: returned to `_start` in rax and rdx.
#[repr(C)]
pub struct Jump {
    /// First instruction.
    pub entry: usize,
    /// Stack pointer.
    pub stack: usize,
}

/// `struct ucontext` as the kernel lays it on the stack of a signal handler, up to the signal mask.
#[repr(C)]
pub struct Frame {
    flags: u64,
    link: usize,
    stack: [u64; 3],
    /// r8 to r15
    upper: [usize; 8],
    rdi: usize,
    rsi: usize,
    rbp: usize,
    rbx: usize,
    rdx: usize,
    rax: usize,
    rcx: usize,
    rsp: usize,
    rip: usize,
    rest: [u64; 15],
    /// The signals that are blocked when the handler returns.
    pub mask: u64,
}

const _: () = assert!(core::mem::offset_of!(Frame, rip) == 168);
const _: () = assert!(core::mem::offset_of!(Frame, mask) == 296);

impl Frame {
    /// Where the mask is in it.
    pub const MASK: usize = core::mem::offset_of!(Self, mask);

    /// The arguments of the system call that was trapped.
    pub fn arguments(&self) -> [usize; 6] {
        [self.rdi, self.rsi, self.rdx, self.upper[2], self.upper[0], self.upper[1]]
    }

    /// Makes the call appear to have returned `value`.
    pub fn set_result(&mut self, value: isize) {
        self.rax = value as usize;
    }

    /// Where the stack was at the call.
    pub fn stack(&self) -> usize {
        self.rsp
    }

    /// Makes the thread continue at another place.
    pub fn set_instruction(&mut self, instruction: usize) {
        self.rip = instruction;
    }

    /// Makes the thread continue on another stack.
    pub fn set_stack(&mut self, stack: usize) {
        self.rsp = stack;
    }
}

/// What programs of this machine say of themselves.
pub const NATIVE: Machine = Machine { number: 62, class: 2, order: 1 };
