/* Makes a great many system calls and prints what each gave: one line a call, nothing that changes from run to run.
 *
 * The test runs it twice in the same root filesystem: as a container's real root in a chroot, and inside the sandbox,
 * where it runs without any privilege. The two outputs must be equal. Part of it runs as an ordinary user.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <ucontext.h>
#include <unistd.h>
#include <utime.h>

extern char **environ;

static const char *name_of(int error)
{
	const char *name = error ? strerrorname_np(error) : "ok";
	return name ? name : "?";
}

/* Prints "what: result", the error by name. */
static void say(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

#define TRY(call) do { errno = 0; long result_ = (long)(call); int error_ = errno; \
	say("%s = %s", #call, result_ < 0 ? name_of(error_) : "ok"); } while (0)
#define VALUE(call) do { errno = 0; long value_ = (long)(call); int error_ = errno; \
	if (value_ < 0) say("%s = %s", #call, name_of(error_)); else say("%s = %ld", #call, value_); } while (0)
/* For calls whose result is a descriptor: its number is nobody's business. */
#define OPEN(call) do { errno = 0; int fd_ = (call); int error_ = errno; \
	say("%s = %s", #call, fd_ < 0 ? name_of(error_) : "opened"); if (fd_ >= 0) close(fd_); } while (0)

static void show(const char *path)
{
	struct stat s;
	if (lstat(path, &s) < 0) {
		say("  %s: %s", path, name_of(errno));
		return;
	}
	char target[256] = "";
	if (S_ISLNK(s.st_mode)) {
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length >= 0) target[length] = 0;
	}
	say("  %s: %06o %u:%u links %lu size %ld dev %u:%u %s", path, s.st_mode, s.st_uid, s.st_gid,
	    S_ISDIR(s.st_mode) ? 0ul : (unsigned long)s.st_nlink, S_ISREG(s.st_mode) ? (long)s.st_size : 0l,
	    major(s.st_rdev), minor(s.st_rdev), target);
}

static void make(const char *path, const char *text, int mode)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
	if (fd < 0 || write(fd, text, strlen(text)) < 0) say("make %s: %s", path, name_of(errno));
	if (fd >= 0) close(fd);
}

static void modes_and_owners(void)
{
	say("# modes and owners");
	umask(022);
	make("f", "text", 0666); show("f");
	umask(077);
	make("g", "", 0666); show("g");
	umask(0777);
	make("h", "", 0666); show("h");
	say("umask was %o", umask(022));
	OPEN(open("h", O_RDWR));
	OPEN(open("ro", O_CREAT | O_WRONLY | O_EXCL, 0444)); show("ro");
	OPEN(open("ro", O_WRONLY));
	TRY(chmod("f", 0)); show("f");
	OPEN(open("f", O_RDWR));
	TRY(chmod("f", 06755)); show("f");
	TRY(chown("f", 1000, 50)); show("f");
	TRY(chmod("f", 04711)); show("f");
	TRY(chown("f", -1, -1)); show("f");
	TRY(chown("f", 7, -1)); show("f");
	TRY(chown("f", -1, 8)); show("f");
	TRY(chmod("f", 02644)); TRY(chown("f", 0, 0)); show("f");
	TRY(mkdir("d", 0777)); show("d");
	TRY(mkdir("d", 0777));
	TRY(mkdir("d/", 0777));
	TRY(mkdir("e/", 01777)); show("e");
	TRY(mkdir("missing/e", 0777));
	TRY(mkdir("f/e", 0777));
	TRY(chmod("d", 02775)); TRY(chown("d", 0, 50)); show("d");
	make("d/in", "", 0644); show("d/in");
	TRY(mkdir("d/sub", 0755)); show("d/sub");
	TRY(symlink("in", "d/link")); show("d/link");
	TRY(lchown("d/link", 5, 6)); show("d/link"); show("d/in");
	TRY(chown("d/link", 9, 9)); show("d/link"); show("d/in");
	TRY(fchmodat(AT_FDCWD, "d/link", 0600, AT_SYMLINK_NOFOLLOW));
	TRY(link("d/in", "d/hard")); TRY(chown("d/hard", 11, 12)); show("d/in"); show("d/hard");
	TRY(rename("d/hard", "d/renamed")); show("d/renamed");
	TRY(unlink("d/in")); show("d/renamed");
	TRY(unlink("d/renamed"));
	make("d/again", "", 0644); show("d/again");
	for (int round = 0; round < 20; round++) {
		/* An inode that was just freed is given out again: the old owner must not come with it. */
		char path[32];
		struct stat s;
		snprintf(path, sizeof path, "d/r%d", round);
		make(path, "", 0600);
		if (lstat(path, &s) || s.st_uid || (s.st_mode & 07777) != 0600) say("inode came back as %o %u", s.st_mode, s.st_uid);
		if (chown(path, 1234, 1234) || chmod(path, 04777) || unlink(path)) say("round %d: %s", round, name_of(errno));
	}
	int fd = open("f", O_RDONLY);
	TRY(fchmod(fd, 0601)); TRY(fchown(fd, 3, 4));
	struct stat s; fstat(fd, &s); say("fstat %o %u:%u", s.st_mode, s.st_uid, s.st_gid);
	struct statx x; TRY(statx(fd, "", AT_EMPTY_PATH, STATX_ALL, &x)); say("statx %o %u:%u", x.stx_mode, x.stx_uid, x.stx_gid);
	TRY(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x)); say("statx %o %u:%u", x.stx_mode, x.stx_uid, x.stx_gid);
	TRY(fchownat(fd, "", 0, 0, AT_EMPTY_PATH)); show("f");
	close(fd);
	fd = open("f", O_PATH);
	TRY(fchmod(fd, 0600)); TRY(fchown(fd, 1, 1));
	TRY(fchownat(fd, "", 21, 22, AT_EMPTY_PATH)); show("f");
	fstat(fd, &s); say("fstat of path-only %o %u:%u", s.st_mode, s.st_uid, s.st_gid);
	close(fd);
	TRY(chown("missing", 0, 0)); TRY(chmod("missing", 0)); TRY(chmod("", 0)); TRY(chown(NULL, 0, 0));
	TRY(fchmod(999, 0)); TRY(fchown(-1, 0, 0));
}

static void nodes(void)
{
	say("# nodes");
	TRY(mknod("null", S_IFCHR | 0666, makedev(1, 3))); show("null");
	OPEN(open("null", O_RDWR));
	TRY(chmod("null", 0600)); TRY(chown("null", 0, 5)); show("null");
	TRY(mknod("big", S_IFCHR | 0600, makedev(259, 70000))); show("big");
	TRY(mknod("disk", S_IFBLK | 0660, makedev(8, 1))); show("disk");
	TRY(rename("disk", "disk2")); show("disk2");
	TRY(link("disk2", "disk3")); show("disk3");
	TRY(mknod("pipe", S_IFIFO | 0640, 0)); show("pipe");
	TRY(mkfifo("pipe", 0600));
	TRY(mknod("sock", S_IFSOCK | 0600, 0)); show("sock");
	TRY(mknod("plain", S_IFREG | 0601, 0)); show("plain");
	TRY(mknod("plain0", 0644, 0)); show("plain0");
	TRY(mknod("dir", S_IFDIR | 0700, 0));
	int fd = open("null", O_WRONLY);
	say("write to made /dev/null: %zd", fd < 0 ? -1 : write(fd, "x", 1));
	close(fd);
	show("/dev/null"); show("/dev/zero"); show("/dev/tty"); show("/dev/fd"); show("/dev/stdin");
	OPEN(open("/dev/null", O_RDWR)); OPEN(open("/dev/full", O_WRONLY)); OPEN(open("/dev/../dev/zero", O_RDONLY));
	TRY(chdir("/dev")); OPEN(open("null", O_RDWR)); OPEN(open("../dev/null", O_RDWR)); TRY(chdir("/t"));
	OPEN(open("/dev/shm/x", O_CREAT | O_RDWR, 0600)); TRY(unlink("/dev/shm/x"));
	OPEN(posix_openpt(O_RDWR));
}

static void paths(void)
{
	say("# paths");
	char cwd[4200];
	TRY(mkdir("p", 0755)); TRY(mkdir("p/q", 0755)); make("p/q/file", "1", 0644);
	TRY(symlink("/t/p/q", "abs")); TRY(symlink("p/q", "rel")); TRY(symlink("../../../../t/p", "p/up"));
	TRY(symlink("loop2", "loop1")); TRY(symlink("loop1", "loop2")); TRY(symlink("nowhere/at/all", "dangling"));
	TRY(symlink("", "empty")); TRY(symlink("made-through-link", "through")); TRY(symlink("through", "through2"));
	OPEN(open("abs/file", O_RDONLY)); OPEN(open("rel/file", O_RDONLY)); OPEN(open("p/up/q/file", O_RDONLY));
	OPEN(open("/../../../t/p/q/file", O_RDONLY)); OPEN(open("p/../p/q/../q/./file", O_RDONLY));
	OPEN(open("loop1", O_RDONLY)); OPEN(open("loop1", O_PATH | O_NOFOLLOW)); OPEN(open("dangling", O_RDONLY));
	OPEN(open("dangling", O_CREAT | O_WRONLY, 0644)); OPEN(open("through2", O_CREAT | O_WRONLY, 0640)); show("made-through-link");
	OPEN(open("through", O_CREAT | O_EXCL | O_WRONLY, 0644)); OPEN(open("rel", O_CREAT | O_WRONLY, 0644));
	OPEN(open("abs", O_NOFOLLOW | O_RDONLY)); OPEN(open("abs", O_NOFOLLOW | O_PATH)); OPEN(open("abs/", O_NOFOLLOW | O_RDONLY));
	OPEN(open("abs", O_DIRECTORY | O_RDONLY)); OPEN(open("p/q/file", O_DIRECTORY | O_RDONLY)); OPEN(open("p/q/file/", O_RDONLY));
	OPEN(open("p/q/file/x", O_RDONLY)); OPEN(open("p", O_WRONLY)); OPEN(open("p", O_CREAT | O_RDONLY, 0644)); OPEN(open("new/", O_CREAT | O_WRONLY, 0644));
	OPEN(open("", O_RDONLY)); OPEN(open(NULL, O_RDONLY)); OPEN(open("/", O_RDONLY)); OPEN(open("//", O_RDONLY)); OPEN(open("/.", O_RDONLY)); OPEN(open("/..", O_RDONLY));
	OPEN(open("p", O_TMPFILE | O_RDWR, 0640));
	int fd = open("p", O_TMPFILE | O_RDWR, 0640);
	char path[64]; snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	TRY(fchown(fd, 31, 32)); TRY(linkat(AT_FDCWD, path, AT_FDCWD, "p/tmp", AT_SYMLINK_FOLLOW)); show("p/tmp"); close(fd);
	char longname[300]; memset(longname, 'a', 299); longname[299] = 0; OPEN(open(longname, O_CREAT | O_RDWR, 0600));
	char longpath[5000]; for (int i = 0; i < 4998; i += 2) memcpy(longpath + i, "./", 2); longpath[4998] = 0;
	OPEN(open(longpath, O_RDONLY)); longpath[4000] = 0; OPEN(open(longpath, O_RDONLY)); TRY(chdir(longpath));
	strcpy(longpath + 3900, "/p/q/file"); OPEN(open(longpath, O_RDONLY)); TRY(access(longpath, R_OK)); TRY(chmod(longpath, 0640)); show("p/q/file");
	TRY(chdir("p/q")); say("cwd %s", getcwd(cwd, sizeof cwd)); OPEN(open("file", O_RDONLY)); OPEN(open("../q/file", O_RDONLY)); OPEN(open("../../../../../../t/p/q/file", O_RDONLY));
	TRY(chdir("../..")); say("cwd %s", getcwd(cwd, sizeof cwd)); VALUE(syscall(SYS_getcwd, cwd, 2)); VALUE(syscall(SYS_getcwd, cwd, 3));
	TRY(chdir("abs")); say("cwd %s", getcwd(cwd, sizeof cwd)); TRY(chdir("/t")); TRY(chdir("p/q/file")); TRY(chdir("missing"));
	fd = open("p", O_RDONLY | O_DIRECTORY); OPEN(openat(fd, "q/file", O_RDONLY)); OPEN(openat(fd, "../p/q/file", O_RDONLY)); OPEN(openat(fd, "/t/p/q/file", O_RDONLY)); OPEN(openat(fd, "up/q/file", O_RDONLY));
	TRY(mkdirat(fd, "made", 0700)); TRY(unlinkat(fd, "made", AT_REMOVEDIR)); TRY(fchdir(fd)); say("cwd %s", getcwd(cwd, sizeof cwd)); close(fd); TRY(chdir("/t"));
	fd = open("p/q/file", O_RDONLY); OPEN(openat(fd, "x", O_RDONLY)); TRY(fchdir(fd)); close(fd); OPEN(openat(999, "x", O_RDONLY)); OPEN(openat(999, "/t/p/q/file", O_RDONLY));
	TRY(mkdir("gone", 0755)); TRY(chdir("gone")); TRY(rmdir("/t/gone")); say("cwd %s", getcwd(cwd, sizeof cwd) ? cwd : name_of(errno)); OPEN(open("x", O_CREAT | O_RDWR, 0600)); OPEN(open("..", O_RDONLY)); TRY(chdir("/t"));
	TRY(rmdir("p")); TRY(rmdir("p/q/file")); TRY(unlink("p")); TRY(rmdir(".")); TRY(rmdir("p/..")); TRY(unlink("missing")); TRY(rmdir("rel")); TRY(unlink("rel/")); TRY(unlink("/")); TRY(rmdir("/"));
	TRY(rename("p/q/file", "p/q/other")); TRY(rename("p", "p/q/inside")); TRY(rename("p/q/other", "p")); TRY(rename("missing", "x")); TRY(rename("p/q", "p/q2")); TRY(rename("p/q2/", "p/q/")); TRY(rename("p/q/other", "p/q/file/")); TRY(rename(".", "x"));
	make("a", "a", 0600); make("b", "b", 0644); TRY(chown("a", 1, 1)); TRY(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 2)); show("a"); show("b");
	TRY(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 1)); TRY(rename("a", "b")); show("b");
	TRY(link("p/q/other", "hard")); TRY(link("abs", "hardlink-to-link")); show("hardlink-to-link"); TRY(linkat(AT_FDCWD, "made-through-link", AT_FDCWD, "hl", AT_SYMLINK_FOLLOW)); show("hl"); TRY(link("p", "x")); TRY(link("hard", "hl")); TRY(link("missing", "x"));
	char buffer[64]; VALUE(readlink("rel", buffer, 2)); VALUE(readlink("p", buffer, 9)); VALUE(readlink("missing", buffer, 9)); VALUE(readlink("rel", buffer, 0)); VALUE(readlink("abs/../q", buffer, 9));
	TRY(truncate("b", 5)); TRY(truncate("p", 5)); TRY(truncate("missing", 5)); show("b"); struct statfs fs; TRY(statfs("p", &fs)); TRY(statfs("missing", &fs));
	TRY(access("b", F_OK)); TRY(access("b", X_OK)); TRY(access("b", 99)); TRY(access("missing", F_OK)); TRY(access("p", R_OK | W_OK | X_OK)); TRY(faccessat(AT_FDCWD, "b", W_OK, AT_EACCESS)); TRY(faccessat(AT_FDCWD, "dangling", F_OK, AT_SYMLINK_NOFOLLOW)); TRY(access("dangling", F_OK));
	show("abs/"); show("p/q/other/"); show("."); show("..");
	OPEN(open("/proc/self/root/t/b", O_RDONLY)); OPEN(open("/proc/self/cwd/b", O_RDONLY)); OPEN(open("/proc/self/exe", O_RDONLY)); OPEN(open("/proc/../t/b", O_RDONLY)); OPEN(open("/proc/self/cwd/../t/b", O_RDONLY));
	TRY(symlink("/proc/self/exe", "exe")); OPEN(open("exe", O_RDONLY)); VALUE(readlink("/proc/self/exe", cwd, sizeof cwd)); TRY(symlink("/proc/self", "me")); OPEN(open("me/status", O_RDONLY)); OPEN(open("me/cwd/b", O_RDONLY)); OPEN(open("/dev/stdin", O_RDONLY));
	ssize_t n = readlink("/proc/self/cwd", cwd, sizeof cwd - 1); cwd[n < 0 ? 0 : n] = 0; say("/proc/self/cwd -> %s", cwd);
	n = readlink("/proc/self/root", cwd, sizeof cwd - 1); cwd[n < 0 ? 0 : n] = 0; say("/proc/self/root -> %s", cwd);
	fd = open("b", O_RDONLY); snprintf(path, sizeof path, "/proc/self/fd/%d", fd); n = readlink(path, cwd, sizeof cwd - 1); cwd[n < 0 ? 0 : n] = 0; say("fd -> %s", cwd); close(fd);
	fd = open("p", O_RDONLY); snprintf(path, sizeof path, "/proc/self/fd/%d/q/other", fd); OPEN(open(path, O_RDONLY)); snprintf(path, sizeof path, "/proc/self/fd/%d/../b", fd); OPEN(open(path, O_RDONLY)); close(fd);
}

static void times_and_attributes(void)
{
	say("# times, extended attributes");
	make("t", "", 0644); struct timespec when[2] = {{1000000000, 5}, {1100000000, 7}}; TRY(utimensat(AT_FDCWD, "t", when, 0));
	struct stat s; stat("t", &s); say("%ld.%09ld %ld.%09ld", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
	TRY(symlink("t", "tl")); when[1].tv_sec = 1200000000; TRY(utimensat(AT_FDCWD, "tl", when, AT_SYMLINK_NOFOLLOW)); lstat("tl", &s); say("link %ld", s.st_mtim.tv_sec); stat("t", &s); say("file %ld", s.st_mtim.tv_sec);
	struct utimbuf u = {5, 6}; TRY(utime("t", &u)); stat("t", &s); say("%ld %ld", s.st_atim.tv_sec, s.st_mtim.tv_sec); struct timeval tv[2] = {{7, 8}, {9, 10}}; TRY(utimes("t", tv)); stat("t", &s); say("%ld.%09ld", s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
	int fd = open("t", O_RDWR); TRY(futimens(fd, when)); fstat(fd, &s); say("%ld", s.st_mtim.tv_sec); TRY(futimens(fd, NULL)); TRY(utimensat(AT_FDCWD, "missing", NULL, 0));
	char value[64]; TRY(setxattr("t", "user.a", "1234", 4, 0)); VALUE(getxattr("t", "user.a", value, sizeof value)); VALUE(getxattr("t", "user.b", value, sizeof value)); TRY(setxattr("t", "user.a", "x", 1, XATTR_CREATE)); TRY(setxattr("tl", "user.link", "y", 1, 0)); TRY(lsetxattr("tl", "user.link", "y", 1, 0)); VALUE(listxattr("t", value, sizeof value)); VALUE(fgetxattr(fd, "user.a", NULL, 0)); TRY(removexattr("t", "user.link")); TRY(removexattr("t", "user.link"));
	struct vfs_cap_data caps = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1 << CAP_NET_BIND_SERVICE, 0}, {0, 0}}};
	TRY(setxattr("t", "security.capability", &caps, sizeof caps, 0)); VALUE(getxattr("t", "security.capability", value, sizeof value)); VALUE(listxattr("t", value, sizeof value)); TRY(chown("t", 0, 0)); VALUE(getxattr("t", "security.capability", value, sizeof value)); TRY(fsetxattr(fd, "security.capability", &caps, sizeof caps, 0)); VALUE(fgetxattr(fd, "security.capability", value, 3)); TRY(setxattr("t", "security.capability", "bad", 3, 0)); TRY(removexattr("t", "security.capability")); TRY(setxattr("t", "trusted.a", "1", 1, 0)); VALUE(getxattr("t", "trusted.a", value, 9)); close(fd);
	fd = inotify_init(); VALUE(inotify_add_watch(fd, "/t", IN_CREATE)); make("watched", "", 0600); VALUE(read(fd, value, sizeof value) > 0); VALUE(inotify_add_watch(fd, "missing", IN_CREATE)); close(fd);
	int s1 = socket(AF_UNIX, SOCK_STREAM, 0), s2 = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = {AF_UNIX, "/t/socket"}; TRY(bind(s1, (void *)&a, sizeof a)); show("socket"); TRY(listen(s1, 1)); TRY(connect(s2, (void *)&a, sizeof a)); TRY(chown("socket", 1, 2)); show("socket"); close(s1); close(s2); s1 = socket(AF_UNIX, SOCK_STREAM, 0); TRY(bind(s1, (void *)&a, sizeof a)); close(s1); struct sockaddr_un m = {AF_UNIX, "missing"}; s1 = socket(AF_UNIX, SOCK_DGRAM, 0); TRY(connect(s1, (void *)&m, sizeof m)); TRY(sendto(s1, "x", 1, 0, (void *)&m, sizeof m)); close(s1);
}

static void who(const char *label)
{
	uid_t r, e, s; gid_t gr, ge, gs; getresuid(&r, &e, &s); getresgid(&gr, &ge, &gs);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0}; struct __user_cap_data_struct data[2]; syscall(SYS_capget, &header, data);
	gid_t groups[64]; int n = getgroups(64, groups);
	printf("%s: uid %u %u %u gid %u %u %u caps %08x %08x %08x groups", label, r, e, s, gr, ge, gs, data[0].effective, data[0].permitted, data[0].inheritable);
	for (int i = 0; i < n; i++) printf(" %u", groups[i]);
	printf("\n"); fflush(stdout);
}

/* Runs what follows in a child, so that the identity of the parent stays. */
#define IN_CHILD for (pid_t child_ = fork(), once_ = 1; once_; once_ = 0, child_ == 0 ? _exit(0) : (void)waitpid(child_, NULL, 0)) if (child_ == 0)

static void identity(void)
{
	say("# identity");
	who("start");
	IN_CHILD { gid_t g[3] = {10, 20, 30}; TRY(setgroups(3, g)); TRY(setgid(40)); TRY(setuid(50)); who("dropped"); TRY(setuid(0)); TRY(setgid(0)); TRY(setgroups(0, NULL)); TRY(chroot("/t")); TRY(mknod("no", S_IFCHR, makedev(1, 3))); }
	IN_CHILD { TRY(seteuid(50)); who("seteuid"); TRY(seteuid(0)); who("back"); TRY(setresuid(1, 2, 3)); who("three"); TRY(setresuid(-1, 1, -1)); TRY(setresuid(-1, 4, -1)); TRY(setreuid(3, 2)); who("reuid"); }
	IN_CHILD { TRY(setregid(5, 6)); who("regid"); VALUE(setfsuid(1000)); VALUE(setfsuid(-1)); VALUE(setfsgid(7)); VALUE(setfsgid(-1)); make("fs", "", 0644); show("fs"); }
	IN_CHILD { TRY(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)); TRY(setresuid(9, 9, 9)); who("kept"); VALUE(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0)); TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0)); }
	IN_CHILD { VALUE(prctl(PR_CAPBSET_READ, CAP_MKNOD, 0, 0, 0)); VALUE(prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0)); TRY(prctl(PR_CAPBSET_DROP, CAP_MKNOD, 0, 0, 0)); VALUE(prctl(PR_CAPBSET_READ, CAP_MKNOD, 0, 0, 0)); VALUE(prctl(PR_CAPBSET_READ, 99, 0, 0, 0)); VALUE(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)); }
	IN_CHILD { TRY(setresgid(1000, 1000, 1000)); TRY(setresuid(1000, 1000, 1000)); VALUE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); VALUE(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); }
	IN_CHILD { TRY(chroot("/t/p")); TRY(chdir("/")); char cwd[99]; say("cwd %s", getcwd(cwd, 99)); OPEN(open("/q/other", O_RDONLY)); OPEN(open("/../../b", O_RDONLY)); OPEN(open("/proc/self/exe", O_RDONLY)); OPEN(open("up/q/other", O_RDONLY)); show("/"); make("/made-in-chroot", "", 0600); }
	show("p/made-in-chroot");
	IN_CHILD { TRY(chroot("/t/missing")); TRY(chroot("/t/b")); }
}

static void *thread_user(void *argument) { (void)argument; say("thread euid %u", geteuid()); OPEN(open("/t/b", O_RDONLY)); return NULL; }

static void processes(const char *self)
{
	say("# processes");
	pid_t pid = vfork(); if (pid == 0) { setuid(77); execl(self, self, "who", "vfork child", NULL); _exit(127); } waitpid(pid, NULL, 0); who("parent of vfork");
	pid = fork(); if (pid == 0) { pid_t inner = vfork(); if (inner == 0) { setgid(88); setuid(88); _exit(0); } waitpid(inner, NULL, 0); who("forked parent of vfork"); _exit(0); } waitpid(pid, NULL, 0);
	char *spawn[] = {(char *)self, "who", "spawned", NULL}; int spawned = posix_spawn(&pid, self, NULL, NULL, spawn, environ); waitpid(pid, NULL, 0); say("posix_spawn %s", name_of(spawned)); say("posix_spawn %s", name_of(posix_spawn(&pid, "/t/missing", NULL, NULL, spawn, environ)));
	for (int i = 0; i < 40; i++) { pid = vfork(); if (pid == 0) { setuid(66); char *many[80]; for (int j = 0; j < 79; j++) many[j] = "x"; many[79] = NULL; execv("/t/script", many); _exit(0); } waitpid(pid, NULL, 0); }
	who("after many");
	pthread_t thread; pthread_create(&thread, NULL, thread_user, NULL); pthread_join(thread, NULL);
	IN_CHILD { TRY(setegid(5)); TRY(seteuid(5)); pthread_create(&thread, NULL, thread_user, NULL); pthread_join(thread, NULL); }
	make("/t/script", "#!/bin/sh\necho script $0 \"$@\"\n", 0755); make("/t/script2", "#! /t/script  one two \nignored", 0755); make("/t/noexec", "#!/bin/sh\n", 0644); make("/t/badinterp", "#!/t/missing\n", 0755); make("/t/empty-script", "#!\n", 0755); make("/t/text", "echo plain\n", 0755); make("/t/selfscript", "#!/t/selfscript\n", 0755); make("/t/argument", "#!/bin/sh -e -u\necho never\n", 0755);
	const char *programs[] = {"/t/script", "/t/script2", "/t/noexec", "/t/badinterp", "/t/empty-script", "/t/text", "/t/selfscript", "/t", "/t/missing", "/t/b/x", "/t/null", "/t/argument", "script", "./script", "/proc/self/exe"};
	for (unsigned i = 0; i < sizeof programs / sizeof *programs; i++) { pid = fork(); if (pid == 0) { char *arguments[] = {"zero", "who", "executed", NULL}; execve(programs[i], arguments, environ); say("exec %s: %s", programs[i], name_of(errno)); _exit(0); } waitpid(pid, NULL, 0); }
	int fd = open(self, O_RDONLY | O_CLOEXEC); pid = fork(); if (pid == 0) { char *arguments[] = {"fexecve", "who", "by descriptor", NULL}; fexecve(fd, arguments, environ); say("fexecve: %s", name_of(errno)); _exit(0); } waitpid(pid, NULL, 0); close(fd);
	fd = open("/t", O_PATH); pid = fork(); if (pid == 0) { char *arguments[] = {"execveat", "who", "relative", NULL}; syscall(SYS_execveat, fd, "script", arguments, environ, 0); _exit(0); } waitpid(pid, NULL, 0); close(fd);
	char command[200]; snprintf(command, sizeof command, "cp %s /t/suid && chmod 4755 /t/suid && chown 0:60 /t/sgid 2>/dev/null; cp %s /t/sgid; chgrp 60 /t/sgid; chmod 2755 /t/sgid; cp %s /t/fcap", self, self, self); VALUE(system(command)); show("/t/suid"); show("/t/sgid");
	struct vfs_cap_data caps = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1 << CAP_NET_RAW, 0}, {0, 0}}}; TRY(setxattr("/t/fcap", "security.capability", &caps, sizeof caps, 0));
	const char *raising[] = {"/t/suid", "/t/sgid", "/t/fcap"}; for (int tame = 0; tame < 2; tame++) for (int i = 0; i < 3; i++) { pid = fork(); if (pid == 0) { setgroups(0, NULL); setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); if (tame) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); execl(raising[i], raising[i], "who", raising[i], NULL); say("%s: %s", raising[i], name_of(errno)); _exit(0); } waitpid(pid, NULL, 0); }
	make("/t/private", "", 0700); VALUE(system("cp /bin/true /t/private; chmod 0711 /t/private")); IN_CHILD { setuid(1000); char *arguments[] = {"private", NULL}; execv("/t/private", arguments); say("execute-only: %s", name_of(errno)); }
	pid = fork(); if (pid == 0) { struct rlimit limit = {64, 64}; setrlimit(RLIMIT_NOFILE, &limit); execl(self, self, "who", "few descriptors", NULL); _exit(1); } waitpid(pid, NULL, 0);
	TRY(syscall(SYS_close_range, 3, ~0u, 0)); OPEN(open("/t/b", O_RDONLY)); who("after close_range"); VALUE(system("true"));
}

static volatile sig_atomic_t caught; static sigjmp_buf jump;
static void on_signal(int number) { caught = number; struct stat s; stat("/t/b", &s); }
static void on_signal_jump(int number) { caught = number; siglongjmp(jump, 1); }

/* Blocks everything for when it has returned. */
static void fills(int number, siginfo_t *info, void *context)
{
	sigfillset(&((ucontext_t *)context)->uc_sigmask);
}

static void signals(void)
{
	say("# signals");
	struct sigaction action = {.sa_handler = on_signal}, old; sigset_t all, seen; sigfillset(&all);
	TRY(sigaction(SIGSYS, NULL, &old)); say("SIGSYS action %s", old.sa_handler == SIG_DFL ? "default" : "other"); TRY(sigaction(SIGSYS, &action, NULL)); TRY(sigaction(SIGSYS, NULL, &old)); say("SIGSYS action %s", old.sa_handler == on_signal ? "mine" : "other");
	OPEN(open("/t/b", O_RDONLY)); caught = 0; TRY(raise(SIGSYS)); say("caught %d", caught);
	TRY(sigprocmask(SIG_SETMASK, &all, NULL)); OPEN(open("/t/b", O_RDONLY)); sigprocmask(SIG_SETMASK, NULL, &seen); say("blocked: USR1 %d", sigismember(&seen, SIGUSR1)); raise(SIGUSR1);
	struct pollfd nothing; struct timespec soon = {0, 1000000}; VALUE(ppoll(&nothing, 0, &soon, &all)); OPEN(open("/t/b", O_RDONLY));
	sigaction(SIGUSR1, &action, NULL); sigset_t none; sigemptyset(&none); caught = 0; struct timespec later = {5, 0}; VALUE(ppoll(&nothing, 0, &later, &none)); say("caught %d in ppoll", caught); fd_set set; FD_ZERO(&set); raise(SIGUSR1); caught = 0; VALUE(pselect(0, &set, NULL, NULL, &later, &none)); say("caught %d in pselect", caught);
	int ep = epoll_create1(0); struct epoll_event event; raise(SIGUSR1); caught = 0; VALUE(epoll_pwait(ep, &event, 1, 5000, &none)); say("caught %d in epoll_pwait", caught); close(ep); raise(SIGUSR1); caught = 0; VALUE(sigsuspend(&none)); say("caught %d in sigsuspend", caught);
	TRY(sigprocmask(SIG_UNBLOCK, &all, NULL)); mkfifo("/t/fifo", 0600); sigaction(SIGALRM, &action, NULL); struct itimerval timer = {{0, 0}, {0, 50000}}; setitimer(ITIMER_REAL, &timer, NULL); OPEN(open("/t/fifo", O_RDONLY)); say("caught %d in open", caught);
	action.sa_handler = on_signal_jump; sigaction(SIGALRM, &action, NULL); for (int i = 0; i < 100; i++) { timer.it_value.tv_usec = 500; setitimer(ITIMER_REAL, &timer, NULL); if (!sigsetjmp(jump, 1)) for (;;) { struct stat s; stat("/t/p/../p/q/other", &s); stat("/proc/self/status", &s); } } say("jumped out of calls"); OPEN(open("/t/p/../b", O_RDONLY));
	static char tiny[8192]; stack_t stack = {.ss_sp = tiny, .ss_size = sizeof tiny}; TRY(sigaltstack(&stack, NULL)); action.sa_handler = on_signal; action.sa_flags = SA_ONSTACK; sigaction(SIGUSR2, &action, NULL); raise(SIGUSR2); say("caught %d on a small stack", caught);
	struct sigaction filling = {.sa_sigaction = fills, .sa_flags = SA_SIGINFO}; TRY(sigaction(SIGUSR2, &filling, NULL)); syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2); OPEN(open("/t/b", O_RDONLY)); sigprocmask(SIG_SETMASK, NULL, &seen); say("a handler has blocked USR1 %d", sigismember(&seen, SIGUSR1)); sigemptyset(&seen); TRY(sigprocmask(SIG_SETMASK, &seen, NULL));
	sigset_t sys; sigemptyset(&sys); sigaddset(&sys, SIGSYS); TRY(sigprocmask(SIG_BLOCK, &sys, NULL)); OPEN(open("/t/b", O_RDONLY)); TRY(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); OPEN(open("/proc/self/status", O_RDONLY)); TRY(fsync(1) < -1); sync();
}

static void refused(void)
{
	say("# refused");
	TRY(syscall(SYS_mount, "none", "/t/p", "tmpfs", 0, NULL)); TRY(syscall(SYS_umount2, "/t/p", 0)); TRY(syscall(SYS_unshare, 0x10000000)); TRY(syscall(SYS_sethostname, "x", 1)); TRY(syscall(SYS_pivot_root, "/t", "/t")); TRY(syscall(SYS_reboot, 0, 0, 0, NULL)); TRY(syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0)); TRY(syscall(SYS_swapon, "/x", 0)); TRY(syscall(9999, 0));
}

static void user(void)
{
	say("# as an ordinary user");
	IN_CHILD {
		gid_t groups[1] = {50}; setgroups(1, groups); setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); umask(022);
		OPEN(open("/t/u/secret", O_RDONLY)); OPEN(open("/t/u/secret", O_PATH)); OPEN(open("/t/u/group", O_RDONLY)); OPEN(open("/t/u/group", O_RDWR)); OPEN(open("/t/u/other", O_RDONLY)); OPEN(open("/t/u/other", O_WRONLY)); OPEN(open("/t/u/new", O_CREAT | O_RDWR, 0600)); OPEN(open("/t/u/other", O_CREAT | O_RDWR, 0600)); OPEN(open("/t/u/other", O_CREAT | O_EXCL | O_RDWR, 0600)); OPEN(open("/t/u/other", O_RDONLY | O_TRUNC));
		OPEN(open("/t/u/closed/file", O_RDONLY)); TRY(access("/t/u/closed/file", F_OK)); TRY(chdir("/t/u/closed")); OPEN(open("/t/u/closed", O_RDONLY)); OPEN(open("/t/u/search/file", O_RDONLY)); OPEN(open("/t/u/search", O_RDONLY)); struct stat s; TRY(stat("/t/u/closed/file", &s)); TRY(lstat("/t/u/closed/link", &s)); TRY(readlink("/t/u/closed/link", (char *)&s, 9));
		TRY(mkdir("/t/u/x", 0755)); TRY(unlink("/t/u/other")); TRY(rmdir("/t/u/closed")); TRY(rename("/t/u/other", "/t/u/y")); TRY(symlink("x", "/t/u/z")); TRY(link("/t/u/other", "/t/u/z")); TRY(mknod("/t/u/fifo", S_IFIFO, 0)); TRY(chmod("/t/u/other", 0777)); TRY(chown("/t/u/other", 1000, 1000)); TRY(truncate("/t/u/other", 0)); TRY(utimensat(AT_FDCWD, "/t/u/other", NULL, 0)); struct timespec when[2] = {{1, 1}, {1, 1}}; TRY(utimensat(AT_FDCWD, "/t/u/other", when, 0)); TRY(utimensat(AT_FDCWD, "/t/u/writable", NULL, 0)); TRY(utimensat(AT_FDCWD, "/t/u/writable", when, 0)); TRY(setxattr("/t/u/other", "user.x", "1", 1, 0)); char v[9]; VALUE(getxattr("/t/u/secret", "user.x", v, 9));
		OPEN(open("/t/u/sticky/mine", O_CREAT | O_RDWR, 0666)); show("/t/u/sticky/mine"); TRY(unlink("/t/u/sticky/theirs")); TRY(rename("/t/u/sticky/theirs", "/t/u/sticky/x")); TRY(rename("/t/u/sticky/mine", "/t/u/sticky/theirs")); TRY(unlink("/t/u/sticky/mine")); TRY(mkdir("/t/u/sticky/d", 0777)); show("/t/u/sticky/d"); TRY(chown("/t/u/sticky/d", -1, 50)); TRY(chown("/t/u/sticky/d", -1, 51)); TRY(chown("/t/u/sticky/d", 0, -1)); TRY(chmod("/t/u/sticky/d", 02770)); show("/t/u/sticky/d"); TRY(mknod("/t/u/sticky/dev", S_IFCHR, makedev(1, 3))); TRY(chroot("/t")); TRY(mknod("/t/u/sticky/d/p", S_IFIFO | 0666, 0)); show("/t/u/sticky/d/p");
		TRY(access("/t/u/secret", R_OK)); TRY(access("/t/u/other", R_OK)); TRY(access("/t/u/other", W_OK)); TRY(access("/t/u/group", R_OK)); OPEN(open("/etc/shadow", O_RDONLY)); OPEN(open("/etc/passwd", O_WRONLY)); OPEN(open("/etc/x", O_CREAT | O_RDWR, 0600)); OPEN(open("/root/x", O_CREAT | O_RDWR, 0600)); TRY(chdir("/root")); OPEN(open("/tmp/user", O_CREAT | O_RDWR, 0600)); TRY(unlink("/tmp/user"));
		execl("/t/u/noexec", "x", NULL); say("exec %s", name_of(errno)); execl("/t/u/rootonly", "x", NULL); say("exec %s", name_of(errno)); OPEN(open("/t/u/suidscript", O_RDONLY)); TRY(chdir("/t/u/sticky")); OPEN(open("theirs", O_RDWR)); OPEN(open("../other", O_RDONLY)); OPEN(open("../closed/file", O_RDONLY)); TRY(chdir("../search")); OPEN(open("file", O_RDONLY)); OPEN(open(".", O_RDONLY)); OPEN(open("new", O_CREAT | O_RDWR, 0600)); OPEN(open("/dev/null", O_RDWR)); OPEN(open("/proc/self/status", O_RDONLY)); TRY(kill(getpid(), 0)); int sock = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = {AF_UNIX, "/t/u/sock"}; TRY(bind(sock, (void *)&a, sizeof a));
	}
}

static void prepare_user(void)
{
	mkdir("/t/u", 0755); make("/t/u/secret", "s", 0600); make("/t/u/group", "g", 0640); chown("/t/u/group", 0, 50); make("/t/u/other", "o", 0644); make("/t/u/writable", "w", 0666); chmod("/t/u/writable", 0666); mkdir("/t/u/closed", 0700); make("/t/u/closed/file", "", 0666); symlink("file", "/t/u/closed/link"); mkdir("/t/u/search", 0711); make("/t/u/search/file", "", 0644); mkdir("/t/u/sticky", 0777); chmod("/t/u/sticky", 01777); make("/t/u/sticky/theirs", "", 0644); make("/t/u/noexec", "#!/bin/sh\n", 0644); make("/t/u/rootonly", "#!/bin/sh\n", 0700);
}

int main(int count, char **arguments)
{
	if (count > 2 && !strcmp(arguments[1], "who")) { who(arguments[2]); say("secure %lu execfn %s argv0 %s", getauxval(AT_SECURE), (char *)getauxval(AT_EXECFN), arguments[0]); return 0; }
	if (mkdir("/t", 0755) || chdir("/t")) { say("/t: %s", name_of(errno)); return 1; }
	const char *self = arguments[0];
	modes_and_owners(); nodes(); paths(); times_and_attributes(); identity(); refused(); prepare_user(); user(); signals(); processes(self);
	say("# done");
	return 0;
}
