//! The seccomp filter of a step: which calls the kernel carries out as they are, which the guest takes, and which
//! are answered at once.
//!
//! The filter is the same for every step, on every machine, at every privilege. What a pod's own profile would
//! refuse is refused here as well, so that a program finds the same machine everywhere.
//!
//! The program is a binary search over the call's number, then a few shared tails. Calls that are always allowed
//! look at nothing but the number: the kernel proves that once and skips the filter for them.

mod assembler;

use super::abi::{HIDDEN_FDS, Instruction};
use super::nr;
use assembler::{Assembler, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, Label};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The kernel carries it out.
    Allow,
    /// The guest does.
    Trap,
    /// It returns 0 at once: durability of a build that would be thrown away after a crash is worth nothing.
    Done,
    /// It fails.
    Errno(u16),
    /// Trap if the descriptor in argument 0 is the guest's.
    TrapHidden0,
    /// Trap if the descriptor in argument 1 is the guest's, or argument 0 is.
    TrapHidden01,
    /// `rt_sigaction`: trap if an action is set, or SIGSYS is meant.
    TrapAction,
    /// `rt_sigprocmask`: trap if signals are blocked.
    TrapMask,
    /// Trap if argument 4 is a pointer (an address to send to).
    TrapPointer4,
    /// Trap if argument N is a pointer (a signal mask).
    TrapPointer3,
    /// Trap if argument 5 is a pointer.
    TrapPointer5,
    /// `clone`: trap unless memory is shared.
    TrapFork,
    /// `prctl`: trap if it concerns the identity or filters.
    TrapPrctl,
    /// `socket`: refused unless it is one between processes, or asks the kernel.
    LocalSocket,
}

use Verdict::*;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
const EOPNOTSUPP: u16 = 95;

/// Every call that is not simply allowed.
const VERDICTS: &[(usize, Verdict)] = &[
    (nr::OPEN, Trap),
    (nr::CLOSE, TrapHidden0),
    (nr::STAT, Trap),
    (nr::FSTAT, Trap),
    (nr::LSTAT, Trap),
    (nr::RT_SIGACTION, TrapAction),
    (nr::RT_SIGPROCMASK, TrapMask),
    (nr::RT_SIGRETURN, Trap),
    (nr::ACCESS, Trap),
    (nr::MSYNC, Done),
    (nr::DUP, TrapHidden0),
    (nr::DUP2, TrapHidden01),
    (nr::CONNECT, Trap),
    (nr::SENDTO, TrapPointer4),
    (nr::BIND, Trap),
    (nr::CLONE, TrapFork),
    (nr::FORK, Trap),
    (nr::EXECVE, Trap),
    (nr::UNAME, Trap),
    (nr::FCNTL, TrapHidden0),
    (nr::FSYNC, Done),
    (nr::FDATASYNC, Done),
    (nr::TRUNCATE, Trap),
    (nr::GETCWD, Trap),
    (nr::CHDIR, Trap),
    (nr::RENAME, Trap),
    (nr::MKDIR, Trap),
    (nr::RMDIR, Trap),
    (nr::CREAT, Trap),
    (nr::LINK, Trap),
    (nr::UNLINK, Trap),
    (nr::SYMLINK, Trap),
    (nr::READLINK, Trap),
    (nr::CHMOD, Trap),
    (nr::FCHMOD, Trap),
    (nr::CHOWN, Trap),
    (nr::FCHOWN, Trap),
    (nr::LCHOWN, Trap),
    (nr::UMASK, Trap),
    (nr::GETUID, Trap),
    (nr::SYSLOG, Errno(EPERM)),
    (nr::GETGID, Trap),
    (nr::SETUID, Trap),
    (nr::SETGID, Trap),
    (nr::GETEUID, Trap),
    (nr::GETEGID, Trap),
    (nr::SETREUID, Trap),
    (nr::SETREGID, Trap),
    (nr::GETGROUPS, Trap),
    (nr::SETGROUPS, Trap),
    (nr::SETRESUID, Trap),
    (nr::GETRESUID, Trap),
    (nr::SETRESGID, Trap),
    (nr::GETRESGID, Trap),
    (nr::SETFSUID, Trap),
    (nr::SETFSGID, Trap),
    (nr::CAPGET, Trap),
    (nr::CAPSET, Trap),
    (nr::RT_SIGSUSPEND, Trap),
    (nr::UTIME, Trap),
    (nr::MKNOD, Trap),
    (nr::STATFS, Trap),
    (nr::PIVOT_ROOT, Errno(EPERM)),
    (nr::PRCTL, TrapPrctl),
    (nr::CHROOT, Trap),
    (nr::SYNC, Done),
    (nr::ACCT, Errno(EPERM)),
    (nr::SETTIMEOFDAY, Errno(EPERM)),
    (nr::MOUNT, Errno(EPERM)),
    (nr::UMOUNT2, Errno(EPERM)),
    (nr::SWAPON, Errno(EPERM)),
    (nr::SWAPOFF, Errno(EPERM)),
    (nr::REBOOT, Errno(EPERM)),
    (nr::SETHOSTNAME, Errno(EPERM)),
    (nr::SETDOMAINNAME, Errno(EPERM)),
    (nr::IOPL, Errno(EPERM)),
    (nr::IOPERM, Errno(EPERM)),
    (nr::INIT_MODULE, Errno(EPERM)),
    (nr::DELETE_MODULE, Errno(EPERM)),
    (nr::QUOTACTL, Errno(EPERM)),
    (nr::SETXATTR, Trap),
    (nr::LSETXATTR, Trap),
    (nr::FSETXATTR, Trap),
    (nr::GETXATTR, Trap),
    (nr::LGETXATTR, Trap),
    (nr::FGETXATTR, Trap),
    (nr::LISTXATTR, Trap),
    (nr::LLISTXATTR, Trap),
    (nr::FLISTXATTR, Trap),
    (nr::REMOVEXATTR, Trap),
    (nr::LREMOVEXATTR, Trap),
    (nr::FREMOVEXATTR, Trap),
    (nr::GETDENTS64, Trap),
    (nr::CLOCK_SETTIME, Errno(EPERM)),
    (nr::UTIMES, Trap),
    (nr::KEXEC_LOAD, Errno(EPERM)),
    (nr::ADD_KEY, Errno(EPERM)),
    (nr::REQUEST_KEY, Errno(EPERM)),
    (nr::KEYCTL, Errno(EPERM)),
    (nr::INOTIFY_ADD_WATCH, Trap),
    (nr::OPENAT, Trap),
    (nr::MKDIRAT, Trap),
    (nr::MKNODAT, Trap),
    (nr::FCHOWNAT, Trap),
    (nr::FUTIMESAT, Trap),
    (nr::NEWFSTATAT, Trap),
    (nr::UNLINKAT, Trap),
    (nr::RENAMEAT, Trap),
    (nr::LINKAT, Trap),
    (nr::SYMLINKAT, Trap),
    (nr::READLINKAT, Trap),
    (nr::FCHMODAT, Trap),
    (nr::FACCESSAT, Trap),
    (nr::PSELECT6, TrapPointer5),
    (nr::PPOLL, TrapPointer3),
    (nr::UNSHARE, Errno(EPERM)),
    (nr::SYNC_FILE_RANGE, Done),
    (nr::UTIMENSAT, Trap),
    (nr::EPOLL_PWAIT, TrapPointer4),
    (nr::DUP3, TrapHidden01),
    (nr::PERF_EVENT_OPEN, Errno(EPERM)),
    (nr::FANOTIFY_INIT, Errno(EPERM)),
    (nr::NAME_TO_HANDLE_AT, Errno(EOPNOTSUPP)),
    (nr::OPEN_BY_HANDLE_AT, Errno(EPERM)),
    (nr::SYNCFS, Done),
    (nr::SETNS, Errno(EPERM)),
    (nr::FINIT_MODULE, Errno(EPERM)),
    (nr::RENAMEAT2, Trap),
    (nr::SECCOMP, Trap),
    (nr::KEXEC_FILE_LOAD, Errno(EPERM)),
    (nr::BPF, Errno(EPERM)),
    (nr::EXECVEAT, Trap),
    (nr::USERFAULTFD, Errno(EPERM)),
    (nr::STATX, Trap),
    (nr::IO_URING_SETUP, Errno(ENOSYS)),
    (nr::IO_URING_ENTER, Errno(ENOSYS)),
    (nr::IO_URING_REGISTER, Errno(ENOSYS)),
    (nr::OPEN_TREE, Errno(EPERM)),
    (nr::MOVE_MOUNT, Errno(EPERM)),
    (nr::FSOPEN, Errno(EPERM)),
    (nr::FSCONFIG, Errno(EPERM)),
    (nr::FSMOUNT, Errno(EPERM)),
    (nr::FSPICK, Errno(EPERM)),
    // Without it the C libraries use clone, whose flags a filter can read.
    (nr::CLONE3, Errno(ENOSYS)),
    (nr::CLOSE_RANGE, Trap),
    (nr::OPENAT2, Trap),
    (nr::FACCESSAT2, Trap),
    (nr::EPOLL_PWAIT2, TrapPointer4),
    (nr::MOUNT_SETATTR, Errno(EPERM)),
    (nr::QUOTACTL_FD, Errno(EPERM)),
    (nr::FCHMODAT2, Trap),
    // Both tell the pod's mounts.
    (nr::STATMOUNT, Errno(ENOSYS)),
    (nr::LISTMOUNT, Errno(ENOSYS)),
    (nr::SETXATTRAT, Errno(ENOSYS)),
    (nr::GETXATTRAT, Errno(ENOSYS)),
    (nr::LISTXATTRAT, Errno(ENOSYS)),
    (nr::REMOVEXATTRAT, Errno(ENOSYS)),
];

/// The first call that kernels gained after this table was made: whatever comes from here on is not there.
const UNKNOWN_FROM: usize = 467;

/// `AUDIT_ARCH_X86_64`
const ARCHITECTURE: u32 = 0xc000_003e;
/// Numbers from here on are of the x32 interface.
const X32: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_POINTER: u32 = 8;
const OFFSET_ARGUMENTS: u32 = 16;

const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// The filter for a guest whose code lies in `code` (first address, and first behind). Without `network` there are no sockets
/// but those between processes (`AF_UNIX`) and to the kernel (`AF_NETLINK`).
pub fn program(code: (u64, u64), network: bool) -> Vec<Instruction> {
    let mut assembler = Assembler::default();
    let refuse = assembler.label();
    assembler.load(OFFSET_ARCHITECTURE);
    assembler.jump_unless(JUMP_EQUAL, ARCHITECTURE, refuse);
    assembler.load(OFFSET_NUMBER);
    assembler.jump_if(JUMP_AT_LEAST, X32, refuse);

    let ranges = ranges(network);
    let mut tails: Vec<(Verdict, Label)> = Vec::new();
    for (_, verdict) in &ranges {
        if !tails.iter().any(|(known, _)| known == verdict) {
            tails.push((*verdict, assembler.label()));
        }
    }
    // Jumps go forward only: the tails that others jump to stand last.
    tails.sort_by_key(|(verdict, _)| match verdict {
        Allow => 2,
        Trap => 1,
        _ => 0,
    });
    search(&mut assembler, &ranges, &tails);
    let tail_of =
        |verdict: Verdict| tails.iter().find(|(known, _)| *known == verdict).map(|(_, label)| *label);
    let (Some(allow), Some(trap)) = (tail_of(Allow), tail_of(Trap)) else {
        unreachable!("the table has allowed and trapped calls");
    };
    for (verdict, label) in &tails {
        assembler.place(*label);
        tail(&mut assembler, *verdict, code, allow, trap);
    }
    assembler.place(refuse);
    assembler.answer(RET_ERRNO | u32::from(ENOSYS));
    assembler.finish()
}

/// The table as ranges of numbers: first number of each, and its verdict.
fn ranges(network: bool) -> Vec<(u32, Verdict)> {
    let verdict_of = |number: usize| {
        if number == nr::SOCKET && !network {
            return LocalSocket;
        }
        if number >= UNKNOWN_FROM {
            return Errno(ENOSYS);
        }
        VERDICTS.iter().find(|(known, _)| *known == number).map_or(Allow, |(_, verdict)| *verdict)
    };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=UNKNOWN_FROM {
        let verdict = verdict_of(number);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number as u32, verdict));
        }
    }
    ranges
}

fn search(assembler: &mut Assembler, ranges: &[(u32, Verdict)], tails: &[(Verdict, Label)]) {
    if let [(_, verdict)] = ranges {
        if let Some((_, label)) = tails.iter().find(|(known, _)| known == verdict) {
            assembler.jump(*label);
        }
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((first, _)) = high.first() else { return };
    let upper = assembler.label();
    assembler.jump_if(JUMP_AT_LEAST, *first, upper);
    search(assembler, low, tails);
    assembler.place(upper);
    search(assembler, high, tails);
}

/// The low word of an argument; the high word is behind it.
fn argument(index: u32) -> u32 {
    OFFSET_ARGUMENTS + index * 8
}

fn tail(assembler: &mut Assembler, verdict: Verdict, code: (u64, u64), allow: Label, trap: Label) {
    match verdict {
        Allow => assembler.answer(RET_ALLOW),
        Done => assembler.answer(RET_ERRNO),
        Errno(number) => assembler.answer(RET_ERRNO | u32::from(number)),
        Trap => trap_unless_guest(assembler, code, allow),
        TrapHidden0 => trap_if_hidden(assembler, 0, allow, trap),
        LocalSocket => {
            const AF_UNIX: u32 = 1;
            const AF_NETLINK: u32 = 16;
            assembler.load(argument(0));
            assembler.jump_if(JUMP_EQUAL, AF_UNIX, allow);
            assembler.jump_if(JUMP_EQUAL, AF_NETLINK, allow);
            // The guest refuses it, and notes that it was asked for. Whoever jumps into the guest's code gets no further.
            assembler.answer(RET_TRAP);
        }
        TrapHidden01 => {
            let second = assembler.label();
            trap_if_hidden(assembler, 0, second, trap);
            assembler.place(second);
            trap_if_hidden(assembler, 1, allow, trap);
        }
        TrapAction => {
            const SIGSYS: u32 = 31;
            assembler.load(argument(0));
            assembler.jump_if(JUMP_EQUAL, SIGSYS, trap);
            trap_if_pointer(assembler, 1, allow, trap);
        }
        TrapMask => {
            const SIG_UNBLOCK: u32 = 1;
            assembler.load(argument(0));
            assembler.jump_if(JUMP_EQUAL, SIG_UNBLOCK, allow);
            trap_if_pointer(assembler, 1, allow, trap);
        }
        TrapPointer3 => trap_if_pointer(assembler, 3, allow, trap),
        TrapPointer4 => trap_if_pointer(assembler, 4, allow, trap),
        TrapPointer5 => trap_if_pointer(assembler, 5, allow, trap),
        TrapFork => {
            const CLONE_VM: u32 = 0x100;
            /// Every `CLONE_NEW*`: the guest refuses them.
            const NAMESPACES: u32 = 0x7e02_0080;
            assembler.load(argument(0));
            assembler.jump_if(JUMP_ANY_BIT, NAMESPACES, trap);
            assembler.jump_if(JUMP_ANY_BIT, CLONE_VM, allow);
            assembler.jump(trap);
        }
        TrapPrctl => {
            assembler.load(argument(0));
            for operation in [7, 8, 22, 23, 24, 27, 28, 38, 39, 47] {
                assembler.jump_if(JUMP_EQUAL, operation, trap);
            }
            assembler.jump(allow);
        }
    }
}

fn trap_if_hidden(assembler: &mut Assembler, index: u32, allow: Label, trap: Label) {
    let (first, last) = HIDDEN_FDS;
    assembler.load(argument(index));
    assembler.jump_unless(JUMP_AT_LEAST, first.unsigned_abs(), allow);
    assembler.jump_unless(JUMP_AT_LEAST, last.unsigned_abs() + 1, trap);
    assembler.jump(allow);
}

fn trap_if_pointer(assembler: &mut Assembler, index: u32, allow: Label, trap: Label) {
    assembler.load(argument(index));
    assembler.jump_unless(JUMP_EQUAL, 0, trap);
    assembler.load(argument(index) + 4);
    assembler.jump_unless(JUMP_EQUAL, 0, trap);
    assembler.jump(allow);
}

/// The guest's own calls pass: they are known by where they come from.
fn trap_unless_guest(assembler: &mut Assembler, (first, behind): (u64, u64), allow: Label) {
    let trap = assembler.label();
    // The guest's code lies within 4 GiB of addresses that share their high word.
    assembler.load(OFFSET_POINTER + 4);
    assembler.jump_unless(JUMP_EQUAL, (first >> 32) as u32, trap);
    assembler.load(OFFSET_POINTER);
    assembler.jump_unless(JUMP_AT_LEAST, first as u32, trap);
    assembler.jump_if(JUMP_AT_LEAST, behind as u32, trap);
    assembler.jump(allow);
    assembler.place(trap);
    assembler.answer(RET_TRAP);
}

#[cfg(test)]
mod tests {
    use super::assembler::{JUMP, LOAD, RETURN};
    use super::*;
    use crate::sandbox::abi::MAX_FILTER;

    const CODE: (u64, u64) = (0x5500_0000_1000, 0x5500_0000_9000);

    /// `struct seccomp_data`
    struct Call {
        number: u32,
        architecture: u32,
        pointer: u64,
        arguments: [u64; 6],
    }

    fn call(number: usize) -> Call {
        Call { number: number as u32, architecture: ARCHITECTURE, pointer: 0x40_0000, arguments: [0; 6] }
    }

    fn with(number: usize, arguments: &[u64]) -> Call {
        let mut call = call(number);
        call.arguments[..arguments.len()].copy_from_slice(arguments);
        call
    }

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], call: &Call) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NUMBER => call.number,
            OFFSET_ARCHITECTURE => call.architecture,
            8 => call.pointer as u32,
            12 => (call.pointer >> 32) as u32,
            _ => {
                let argument = call.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            at += 1;
            let truth = match code {
                LOAD => {
                    value = word(operand);
                    continue;
                }
                JUMP => {
                    at += operand as usize;
                    continue;
                }
                RETURN => return operand,
                JUMP_EQUAL => value == operand,
                JUMP_AT_LEAST => value >= operand,
                JUMP_ANY_BIT => value & operand != 0,
                other => panic!("{other:#x}"),
            };
            at += usize::from(if truth { jump_true } else { jump_false });
        }
    }

    fn verdict(call: &Call) -> u32 {
        run(&program(CODE, true), call)
    }

    #[test]
    fn every_number_gets_its_verdict() {
        let program = program(CODE, true);
        assert!(program.len() <= MAX_FILTER, "{} instructions", program.len());
        for number in 0..600 {
            let expected = match VERDICTS.iter().find(|(known, _)| *known == number) {
                None if number >= UNKNOWN_FROM => RET_ERRNO | 38,
                None => RET_ALLOW,
                Some((_, Trap)) => RET_TRAP,
                Some((_, Done)) => RET_ERRNO,
                Some((_, Errno(errno))) => RET_ERRNO | u32::from(*errno),
                // What these say depends on the arguments: below.
                Some(_) => continue,
            };
            assert_eq!(run(&program, &call(number)), expected, "call {number}");
        }
    }

    #[test]
    fn the_guests_own_calls_pass() {
        for (pointer, expected) in [
            (CODE.0, RET_ALLOW),
            (CODE.1 - 1, RET_ALLOW),
            (CODE.1, RET_TRAP),
            (CODE.0 - 1, RET_TRAP),
            (CODE.0 & 0xffff_ffff, RET_TRAP),
        ] {
            assert_eq!(verdict(&Call { pointer, ..call(nr::OPENAT) }), expected, "{pointer:#x}");
        }
    }

    #[test]
    fn other_interfaces_are_not_there() {
        assert_eq!(verdict(&Call { architecture: 0x4000_0003, ..call(nr::OPENAT) }), RET_ERRNO | 38);
        assert_eq!(verdict(&call(nr::OPENAT | X32 as usize)), RET_ERRNO | 38);
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let (hidden, high) = (HIDDEN_FDS.0 as u64, 1_u64 << 32);
        let cases = [
            (with(nr::CLOSE, &[3]), RET_ALLOW),
            (with(nr::CLOSE, &[hidden]), RET_TRAP),
            (with(nr::CLOSE, &[HIDDEN_FDS.1 as u64 + 1]), RET_ALLOW),
            (with(nr::DUP2, &[1, hidden]), RET_TRAP),
            (with(nr::DUP2, &[hidden, 1]), RET_TRAP),
            (with(nr::DUP2, &[1, 2]), RET_ALLOW),
            (with(nr::RT_SIGACTION, &[15, 0, 4096]), RET_ALLOW),
            (with(nr::RT_SIGACTION, &[15, 4096]), RET_TRAP),
            (with(nr::RT_SIGACTION, &[31, 0]), RET_TRAP),
            (with(nr::RT_SIGPROCMASK, &[2, high]), RET_TRAP),
            (with(nr::RT_SIGPROCMASK, &[1, 4096]), RET_ALLOW),
            (with(nr::RT_SIGPROCMASK, &[0, 0, 4096]), RET_ALLOW),
            (with(nr::CLONE, &[17]), RET_TRAP),
            (with(nr::CLONE, &[0x4111]), RET_ALLOW),
            (with(nr::CLONE, &[0x1000_0100]), RET_TRAP),
            (with(nr::SENDTO, &[1, 1, 1, 0, 0]), RET_ALLOW),
            (with(nr::SENDTO, &[1, 1, 1, 0, high]), RET_TRAP),
            (with(nr::PRCTL, &[15]), RET_ALLOW),
            (with(nr::PRCTL, &[38, 1]), RET_TRAP),
        ];
        for (call, expected) in cases {
            assert_eq!(verdict(&call), expected, "call {} {:x?}", call.number, call.arguments);
        }
    }

    #[test]
    fn without_network_there_are_local_sockets_alone() {
        let program = program(CODE, false);
        assert!(program.len() <= MAX_FILTER, "{} instructions", program.len());
        for (family, expected) in
            [(1, RET_ALLOW), (16, RET_ALLOW), (2, RET_TRAP), (10, RET_TRAP), (17, RET_TRAP), (40, RET_TRAP)]
        {
            // The guest's own code may not either: a step can jump there.
            for pointer in [0x40_0000, CODE.0] {
                let call = Call { pointer, ..with(nr::SOCKET, &[family]) };
                assert_eq!(run(&program, &call), expected, "family {family}");
            }
            assert_eq!(verdict(&with(nr::SOCKET, &[family])), RET_ALLOW);
        }
        assert_eq!(run(&program, &call(nr::GETPID)), RET_ALLOW);
    }

    #[test]
    fn always_allowed_calls_look_at_the_number_alone() {
        // The kernel marks a call as always allowed only if the filter loads nothing but number and architecture.
        let program = program(CODE, true);
        for number in [0_u32, 1, 9, 202, 228] {
            let mut at = 0;
            loop {
                let Instruction { code, jump_true, jump_false, operand } = program[at];
                at += 1;
                match code {
                    LOAD => assert!(operand <= OFFSET_ARCHITECTURE),
                    JUMP => at += operand as usize,
                    RETURN => break,
                    _ => {
                        let value = if at == 2 { ARCHITECTURE } else { number };
                        let truth = if code == JUMP_EQUAL { value == operand } else { value >= operand };
                        at += usize::from(if truth { jump_true } else { jump_false });
                    }
                }
            }
        }
    }
}
