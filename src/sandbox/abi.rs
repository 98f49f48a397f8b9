//! What the host and the guest of a sandbox agree on: descriptor numbers, addresses and the layout of the memory
//! they share. Compiled into both; `core` only.
//!
//! One memory file belongs to a root filesystem. At its start lies the [`StepBlock`], which the host writes before
//! a step and the guest reads; behind it the [`Shared`] table that every process of the step maps: the ledger and
//! the slots by which `execve` hands a process's state to its next program.
//!
//! A step can write all of it and so lie about its own files. It can gain nothing else by that: nothing in here
//! opens a way that the kernel's wall (Landlock) does not allow, and the host checks what it reads back.

#[cfg(test)]
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::ledger::Ledger;
use super::rules::credentials::Credentials;

/// Where the guest is linked. PIE programs are loaded above, the sanitizers of gcc and LLVM count this range as
/// the application's, and no allocator in use picks it.
pub const GUEST_BASE: usize = 0x5500_0000_0000;
/// Where the guest maps the shared memory: far enough above its image for the `brk` heap, which starts there.
pub const SHARED_BASE: usize = 0x5510_0000_0000;

/// The step's root directory (`O_PATH`).
pub const ROOT_FD: i32 = 1000;
/// The guest's own program, for `execveat`.
pub const GUEST_FD: i32 = 1001;
/// The shared memory.
pub const SHARED_FD: i32 = 1002;
/// The program that the process runs, for `/proc/PID/exe`.
pub const PROGRAM_FD: i32 = 1003;
/// The directory of the host's that holds what is mounted for the step alone (`O_PATH`).
pub const STEP_FD: i32 = 1004;
/// The first of the files and directories that are mounted for the step alone, one descriptor each. (The number between
/// is the supervisor's.)
pub const MOUNTED_FD: i32 = 1006;
/// Most mounts of a step's own.
pub const MAX_OWN_MOUNTS: usize = 32;
/// The first of the emulators that the step has, one descriptor each.
pub const EMULATOR_FD: i32 = MOUNTED_FD + MAX_OWN_MOUNTS as i32;
/// Most emulators of a step: no machine runs programs of more kinds.
pub const MAX_EMULATORS: usize = 4;
/// First and last of the descriptors that a step must not see or close.
pub const HIDDEN_FDS: (i32, i32) = (ROOT_FD, EMULATOR_FD + MAX_EMULATORS as i32 - 1);

/// Longest path the kernel takes, with its NUL.
pub const PATH_MAX: usize = 4096;
/// Most mounts a step can have.
pub const MAX_MOUNTS: usize = 96;
/// Most instructions of the filter (the kernel takes 4096).
pub const MAX_FILTER: usize = 1024;
/// Bytes for all texts of a step block.
pub const MAX_TEXT: usize = 40 * 1024;
/// The size of the step block in the shared memory, and the offset of the table behind it.
pub const BLOCK_SIZE: usize = 64 * 1024;

/// A text in a step block's `text`, NUL-terminated there; `length` leaves the NUL out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Text {
    /// Offset into [`StepBlock::text`].
    pub offset: u32,
    /// Bytes without the NUL.
    pub length: u32,
}

/// What is at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MountKind {
    /// A directory of the host, whose content belongs to the step as its root does.
    Directory = 0,
    /// One file or device of the host.
    File = 1,
    /// The host's `/proc`.
    Proc = 2,
    /// The host's `/sys`.
    Sys = 3,
}

/// One mount: what a path of the step means.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Mount {
    /// The mount point, absolute in the step's root, without trailing `/`.
    pub at: Text,
    /// The host's path: absolute, or from [`STEP_FD`].
    pub host: Text,
    /// The same as the kernel tells it (of a working directory, say).
    pub host_absolute: Text,
    /// What it is.
    pub kind: MountKind,
    /// Writing is refused with `EROFS`.
    pub read_only: u32,
    /// Whether it is one of the step's own: a file system of its own, into which nothing is renamed or linked.
    pub own: u32,
    /// Inode of the stub that lies at the mount point (see [`super::ledger::inode_key`]); 0 if there is none.
    pub stub: u64,
}

/// What tells programs of one kind of machine from those of others: the beginning of an ELF file says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Machine {
    /// `e_machine`
    pub number: u16,
    /// `EI_CLASS`: 1 for 32 bits, 2 for 64.
    pub class: u8,
    /// `EI_DATA`: 1 if the lowest byte of a word comes first, 2 if the highest does.
    pub order: u8,
}

impl Machine {
    /// The machine that the file which begins with `header` is a program for; `None` if it is no ELF program.
    pub fn of(header: &[u8]) -> Option<Self> {
        const EXECUTABLE: u16 = 2;
        const SHARED_OBJECT: u16 = 3;
        let &[b'\x7f', b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2), 1, ..] = header else {
            return None;
        };
        let half = |at: usize| {
            let bytes = [*header.get(at)?, *header.get(at + 1)?];
            Some(if order == 1 { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
        };
        let is_program = matches!(half(16)?, EXECUTABLE | SHARED_OBJECT);
        is_program.then_some(Self { number: half(18)?, class, order })
    }

    /// All of it in a number, which is never 0.
    pub fn to_word(self) -> u32 {
        u32::from(self.number) | u32::from(self.class) << 16 | u32::from(self.order) << 24
    }

    /// The machine that [`Machine::to_word`] made this of.
    pub fn from_word(word: u32) -> Self {
        Self { number: word as u16, class: (word >> 16) as u8, order: (word >> 24) as u8 }
    }
}

/// A program that runs those of another machine: qemu's user-mode emulator. It is at [`EMULATOR_FD`] and what is
/// behind it, in this order.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Emulator {
    /// Whose programs.
    pub machine: Machine,
    /// What it is called in its own arguments.
    pub name: Text,
}

/// One instruction of a seccomp program (`struct sock_filter`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jump_true: u8,
    /// Instructions to skip if false.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// What the host tells the guest about a step.
#[derive(Debug)]
#[repr(C)]
pub struct StepBlock {
    /// [`StepBlock::MAGIC`]
    pub magic: u64,
    /// Device numbers of directories and of other files in the root (they differ on some overlays), and of files in
    /// memory. Files of other devices have no ledger entry.
    pub devices: [u64; 3],
    /// Inode of the root directory.
    pub root_inode: u64,
    /// The real user and group that own every file of the root.
    pub real_uid: u32,
    /// See `real_uid`.
    pub real_gid: u32,
    /// The host's path of the root, without trailing `/`.
    pub root_path: Text,
    /// Host name the step sees.
    pub hostname: Text,
    /// The host's paths (as of a mount) of the files that stand for `/proc/PID/mounts`, `mountinfo` and `mountstats`.
    pub mounts_file: [Text; 3],
    /// The first program's working directory.
    pub directory: Text,
    /// Search path for a first program without `/`.
    pub search_path: Text,
    /// Initial identity.
    pub credentials: Credentials,
    /// Initial umask.
    pub umask: u32,
    /// Number of mounts. Deeper mount points stand before those above them.
    pub mount_count: u32,
    /// Whether any of them is the step's own, and whether any of those is read-only.
    pub own_mounts: u32,
    /// See `own_mounts`.
    pub own_read_only: u32,
    /// For each byte, whether a mount point begins with `/` and that byte.
    pub first_bytes: [u8; 256],
    /// For each byte, whether the last component of a mount point begins with it.
    pub last_bytes: [u8; 256],
    /// The mounts.
    pub mounts: [Mount; MAX_MOUNTS],
    /// Number of emulators.
    pub emulator_count: u32,
    /// The emulators.
    pub emulators: [Emulator; MAX_EMULATORS],
    /// Number of instructions of the filter.
    pub filter_length: u32,
    /// The filter, which the guest lays on itself before the first program.
    pub filter: [Instruction; MAX_FILTER],
    /// The texts.
    pub text: [u8; MAX_TEXT],
}

impl StepBlock {
    /// Marks a block that was written whole.
    pub const MAGIC: u64 = 0x636f_6666_6572_6431;

    /// The bytes of `text`, without its NUL; empty if it lies outside.
    pub fn text(&self, text: Text) -> &[u8] {
        let start = text.offset as usize;
        self.text.get(start..start + text.length as usize).unwrap_or(&[])
    }

    /// The mounts in use.
    pub fn mounts(&self) -> &[Mount] {
        self.mounts.get(..self.mount_count as usize).unwrap_or(&[])
    }

    /// The emulators in use.
    pub fn emulators(&self) -> &[Emulator] {
        self.emulators.get(..self.emulator_count as usize).unwrap_or(&[])
    }
}

/// Number of slots for processes that are in the middle of an `execve` at one time.
pub const EXEC_SLOTS: usize = 1024;
/// Bytes of a slot: a page.
pub const EXEC_SLOT_SIZE: usize = 4096;

/// Bytes that are kept of the path of a program that could not be executed.
pub const FOREIGN_PATH: usize = 256;

/// What a process hands to its next program.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ExecRecord {
    /// The descriptor of the program, which becomes [`PROGRAM_FD`].
    pub program_fd: i32,
    /// The descriptor of the emulator that is to run it; 0 if it is this machine's.
    pub emulator_fd: i32,
    /// The signals that are blocked for the program.
    pub mask: u64,
    /// `AT_SECURE`
    pub secure: u32,
    /// The umask as the step knows it.
    pub umask: u32,
    /// Whether the process changed its root.
    pub chrooted: u32,
    /// Identity after the `execve`.
    pub credentials: Credentials,
    /// The path as given, NUL-terminated (`AT_EXECFN`); cut where it does not fit.
    pub path: [u8; 3072],
}

/// A slot; the process ID is the key.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ExecSlot {
    /// Process ID of the owner, 0 if free.
    pub owner: AtomicU32,
    /// Room for an [`ExecRecord`], which the owner alone writes and reads; plain words to everybody else.
    pub record: [AtomicU64; (EXEC_SLOT_SIZE - 8) / 8],
}

/// The table that all processes of a step and the host map.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    /// Why the first program could not be started: an errno, 0 if it could.
    pub start_error: AtomicU32,
    /// The machine ([`Machine::to_word`]) of the first program that no emulator was there for; 0 if there was none.
    pub foreign_machine: AtomicU32,
    /// The beginning of that program's path, NUL-terminated; four bytes a word.
    pub foreign_path: [AtomicU32; FOREIGN_PATH / 4],
    /// Whether the step asked for a socket of the network that it has not.
    pub network_refused: AtomicU32,
    /// See [`ExecSlot`].
    pub exec: [ExecSlot; EXEC_SLOTS],
    /// Owners, modes, devices and capabilities of files.
    pub ledger: Ledger,
}

/// Size of the shared memory file. It is sparse: pages that were never used do not exist.
pub const SHARED_SIZE: usize = BLOCK_SIZE + core::mem::size_of::<Shared>();

const _: () = assert!(core::mem::size_of::<StepBlock>() <= BLOCK_SIZE);
const _: () = assert!(core::mem::size_of::<ExecSlot>() == EXEC_SLOT_SIZE);
const _: () = assert!(core::mem::size_of::<ExecRecord>() <= EXEC_SLOT_SIZE - 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_of_a_program_is_in_its_first_bytes() {
        let header = |class: u8, order: u8, halves: [u8; 4]| {
            let mut header = vec![0x7f, b'E', b'L', b'F', class, order, 1];
            header.resize(16, 0);
            header.extend(halves);
            header
        };
        let machine = |number, class, order| Some(Machine { number, class, order });
        assert_eq!(Machine::of(&header(2, 1, [3, 0, 183, 0])), machine(183, 2, 1));
        assert_eq!(Machine::of(&header(2, 2, [0, 2, 0, 22])), machine(22, 2, 2));
        assert_eq!(Machine::of(&header(1, 1, [2, 0, 40, 0])), machine(40, 1, 1));
        assert_eq!(Machine::of(&header(1, 1, [1, 0, 40, 0])), None, "an object file");
        assert_eq!(Machine::of(&header(3, 1, [2, 0, 40, 0])), None);
        assert_eq!(Machine::of(&header(1, 1, [2, 0, 40, 0])[..19]), None);
        assert_eq!(Machine::of(b"#!/bin/sh"), None);
        let s390x = Machine { number: 22, class: 2, order: 2 };
        assert_eq!(Machine::from_word(s390x.to_word()), s390x);
    }

    #[test]
    fn a_slot_is_a_page_and_the_table_is_aligned() {
        assert_eq!(offset_of!(Shared, exec) % EXEC_SLOT_SIZE, 0);
        assert_eq!(BLOCK_SIZE % 4096, 0);
    }
}
