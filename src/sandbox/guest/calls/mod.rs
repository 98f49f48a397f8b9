//! What each trapped call does. One function a call, in the families of the kernel's manual; [`dispatch`] is the
//! table. The numbers trapped are those of `filter.rs` on the host's side.

mod attributes;
mod descriptors;
mod entries;
mod identity;
mod open;
mod process;
mod signals;
mod sockets;
mod stat;
mod xattr;

pub use process::chdir as enter_directory;

use super::arch::Frame;
use super::trap::StepMask;
use super::exec;
use super::kernel::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, CString, ENOSYS, O_CREAT, O_TRUNC, O_WRONLY, Result};
use super::nr;

/// The arguments of a call.
pub type Arguments = [usize; 6];

/// Carries out call `number`.
pub fn dispatch(number: usize, a: Arguments, frame: &mut Frame) -> Result {
    let step = StepMask::of(frame);
    match number {
        nr::OPEN => open::open(AT_FDCWD, path(a[0]), a[1], a[2] as u32, step),
        nr::OPENAT => open::open(fd(a[0]), path(a[1]), a[2], a[3] as u32, step),
        nr::OPENAT2 => open::openat2(fd(a[0]), path(a[1]), a[2], a[3], step),
        nr::CREAT => open::open(AT_FDCWD, path(a[0]), O_CREAT | O_WRONLY | O_TRUNC, a[1] as u32, step),
        nr::TRUNCATE => open::truncate(path(a[0]), a[1]),

        nr::STAT => stat::stat(AT_FDCWD, path(a[0]), a[1], 0),
        nr::LSTAT => stat::stat(AT_FDCWD, path(a[0]), a[1], AT_SYMLINK_NOFOLLOW),
        nr::NEWFSTATAT => stat::stat(fd(a[0]), path(a[1]), a[2], a[3]),
        nr::FSTAT => stat::fstat(fd(a[0]), a[1]),
        nr::STATX => stat::statx(fd(a[0]), path(a[1]), a[2], a[3], a[4]),
        nr::ACCESS => stat::access(AT_FDCWD, path(a[0]), a[1], 0),
        nr::FACCESSAT => stat::access(fd(a[0]), path(a[1]), a[2], 0),
        nr::FACCESSAT2 => stat::access(fd(a[0]), path(a[1]), a[2], a[3]),
        nr::READLINK => stat::readlink(AT_FDCWD, path(a[0]), a[1], a[2]),
        nr::READLINKAT => stat::readlink(fd(a[0]), path(a[1]), a[2], a[3]),
        nr::STATFS => stat::statfs(path(a[0]), a[1]),

        nr::CHMOD => attributes::chmod(AT_FDCWD, path(a[0]), a[1], 0),
        nr::FCHMODAT => attributes::chmod(fd(a[0]), path(a[1]), a[2], 0),
        nr::FCHMODAT2 => attributes::chmod(fd(a[0]), path(a[1]), a[2], a[3]),
        nr::FCHMOD => attributes::fchmod(fd(a[0]), a[1]),
        nr::CHOWN => attributes::chown(AT_FDCWD, path(a[0]), a[1], a[2], 0),
        nr::LCHOWN => attributes::chown(AT_FDCWD, path(a[0]), a[1], a[2], AT_SYMLINK_NOFOLLOW),
        nr::FCHOWNAT => attributes::chown(fd(a[0]), path(a[1]), a[2], a[3], a[4]),
        nr::FCHOWN => attributes::fchown(fd(a[0]), a[1], a[2]),
        nr::UTIMENSAT => attributes::utimensat(fd(a[0]), path(a[1]), a[2], a[3]),
        nr::UTIME => attributes::utime(path(a[0]), a[1]),
        nr::UTIMES => attributes::utimes(AT_FDCWD, path(a[0]), a[1]),
        nr::FUTIMESAT => attributes::utimes(fd(a[0]), path(a[1]), a[2]),
        nr::UMASK => attributes::umask(a[0] as u32),

        nr::MKDIR => entries::mkdir(AT_FDCWD, path(a[0]), a[1] as u32),
        nr::MKDIRAT => entries::mkdir(fd(a[0]), path(a[1]), a[2] as u32),
        nr::MKNOD => entries::mknod(AT_FDCWD, path(a[0]), a[1] as u32, a[2] as u32),
        nr::MKNODAT => entries::mknod(fd(a[0]), path(a[1]), a[2] as u32, a[3] as u32),
        nr::SYMLINK => entries::symlink(path(a[0]), AT_FDCWD, path(a[1])),
        nr::SYMLINKAT => entries::symlink(path(a[0]), fd(a[1]), path(a[2])),
        nr::LINK => entries::link(AT_FDCWD, path(a[0]), AT_FDCWD, path(a[1]), 0),
        nr::LINKAT => entries::link(fd(a[0]), path(a[1]), fd(a[2]), path(a[3]), a[4]),
        nr::UNLINK => entries::unlink(AT_FDCWD, path(a[0]), 0),
        nr::RMDIR => entries::unlink(AT_FDCWD, path(a[0]), super::kernel::AT_REMOVEDIR),
        nr::UNLINKAT => entries::unlink(fd(a[0]), path(a[1]), a[2]),
        nr::RENAME => entries::rename(AT_FDCWD, path(a[0]), AT_FDCWD, path(a[1]), 0),
        nr::RENAMEAT => entries::rename(fd(a[0]), path(a[1]), fd(a[2]), path(a[3]), 0),
        nr::RENAMEAT2 => entries::rename(fd(a[0]), path(a[1]), fd(a[2]), path(a[3]), a[4]),

        nr::CHDIR => process::chdir(path(a[0])),
        nr::GETCWD => process::getcwd(a[0], a[1]),
        nr::CHROOT => process::chroot(path(a[0])),
        nr::UNAME => process::uname(a[0]),
        nr::FORK => process::fork(nr::FORK, a, frame),
        nr::CLONE => process::fork(nr::CLONE, a, frame),
        nr::PRCTL => process::prctl(a),
        // The step's own filters would outrank ours; what they forbid, the wall forbids as well.
        nr::SECCOMP => Ok(0),
        nr::EXECVE => exec::execute(AT_FDCWD, path(a[0]), a[1], a[2], 0, step),
        nr::EXECVEAT => exec::execute(fd(a[0]), path(a[1]), a[2], a[3], a[4], step),

        nr::CLOSE | nr::DUP | nr::FCNTL | nr::DUP2 | nr::DUP3 => Err(super::kernel::EBADF),
        nr::CLOSE_RANGE => descriptors::close_range(a[0], a[1], a[2]),
        nr::GETDENTS64 => descriptors::getdents64(a[0], a[1], a[2]),
        nr::INOTIFY_ADD_WATCH => descriptors::inotify_add_watch(a[0], path(a[1]), a[2]),
        nr::SOCKET => sockets::refuse(),
        nr::BIND => sockets::bind(a[0], a[1], a[2]),
        nr::CONNECT => sockets::connect(a[0], a[1], a[2], step),
        nr::SENDTO => sockets::sendto(a, step),

        nr::SETXATTR => xattr::set(path(a[0]), 0, &a),
        nr::LSETXATTR => xattr::set(path(a[0]), AT_SYMLINK_NOFOLLOW, &a),
        nr::FSETXATTR => xattr::fset(fd(a[0]), &a),
        nr::GETXATTR => xattr::get(path(a[0]), 0, &a),
        nr::LGETXATTR => xattr::get(path(a[0]), AT_SYMLINK_NOFOLLOW, &a),
        nr::FGETXATTR => xattr::fget(fd(a[0]), &a),
        nr::LISTXATTR => xattr::list(path(a[0]), 0, &a),
        nr::LLISTXATTR => xattr::list(path(a[0]), AT_SYMLINK_NOFOLLOW, &a),
        nr::FLISTXATTR => xattr::flist(fd(a[0]), &a),
        nr::REMOVEXATTR => xattr::remove(path(a[0]), 0, &a),
        nr::LREMOVEXATTR => xattr::remove(path(a[0]), AT_SYMLINK_NOFOLLOW, &a),
        nr::FREMOVEXATTR => xattr::fremove(fd(a[0]), &a),

        nr::RT_SIGACTION => signals::sigaction(a),
        nr::RT_SIGPROCMASK => signals::sigprocmask(a, frame),
        nr::RT_SIGRETURN => signals::sigreturn(frame),
        nr::RT_SIGSUSPEND => signals::sigsuspend(a),
        nr::PPOLL => signals::with_mask(nr::PPOLL, a, 3),
        nr::EPOLL_PWAIT => signals::with_mask(nr::EPOLL_PWAIT, a, 4),
        nr::EPOLL_PWAIT2 => signals::with_mask(nr::EPOLL_PWAIT2, a, 4),
        nr::PSELECT6 => signals::pselect6(a),

        _ => identity::call(number, &a).unwrap_or(Err(ENOSYS)),
    }
}

fn fd(argument: usize) -> i32 {
    argument as i32
}

fn path(argument: usize) -> CString {
    argument as CString
}
