/* A step that tries to get out: `hostile VICTIM SUPERVISOR`. VICTIM is a directory of the host that everybody may write
 * to, with a file `file` in it; SUPERVISOR is a process of the host that runs as the step's real user.
 *
 * One line an attempt: what was tried, and what came of it. The test decides what may not come of it; whatever it
 * says here, the host looks at the directory and the process afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char victim[3000], file[3100], made[3100];
static pid_t outside;

static void say(const char *what, long result)
{
	printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
}
#define TRY(call) do { errno = 0; long result_ = (long)(call); say(#call, result_); } while (0)

/* What is tried on a path that leads to the victim, if the step can name it at all. */
static void on_path(const char *label, const char *directory)
{
	char path[4000];
	struct stat s;
	printf("# %s\n", label);
	snprintf(path, sizeof path, "%s/file", directory);
	TRY(open(path, O_RDONLY));
	TRY(open(path, O_WRONLY | O_TRUNC));
	TRY(stat(path, &s));
	TRY(truncate(path, 0));
	TRY(unlink(path));
	TRY(chmod(path, 0));
	TRY(link(path, "/stolen"));
	TRY(rename(path, "/moved"));
	snprintf(path, sizeof path, "%s/made", directory);
	TRY(open(path, O_CREAT | O_WRONLY, 0666));
	TRY(mkdir(path, 0777));
	TRY(symlink("x", path));
	struct open_how how = {.flags = O_CREAT | O_WRONLY, .mode = 0666};
	TRY(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how));
	struct sockaddr_un address = {AF_UNIX};
	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	TRY(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof address));
}

static void by_names(void)
{
	char path[4000];
	on_path("by its own path", victim);
	snprintf(path, sizeof path, "/../../../../../../../..%s", victim);
	on_path("by ..", path);
	symlink(victim, "/absolute");
	on_path("through a link", "/absolute");
	snprintf(path, sizeof path, "../../../../../../../..%s", victim);
	symlink(path, "/relative");
	on_path("through a relative link", "/relative");
	const char *roots[] = {"/proc/self/root", "/proc/thread-self/root", "/proc/1/root", "/proc/self/cwd/..", "/proc/self/fd/1000/..", "/proc/self/fd/1004/..", "/dev/fd/1004/../..", "/proc/self/task/../root"};
	for (unsigned i = 0; i < sizeof roots / sizeof *roots; i++) {
		snprintf(path, sizeof path, "%s%s", roots[i], victim);
		on_path(roots[i], path);
	}
	const char *of[] = {"root", "cwd"};
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s%s", outside, of[i], victim);
		on_path("of the supervisor", path);
		snprintf(path, sizeof path, "/proc/%d/%s%s", getppid(), of[i], victim);
		on_path("of the parent", path);
	}
	for (int fd = 0; fd < 1100; fd++) {
		snprintf(path, sizeof path, "../../../../../../../..%s/made", victim);
		if (openat(fd, path, O_CREAT | O_WRONLY, 0666) >= 0) printf("out by descriptor %d: done\n", fd);
		if (fchdir(fd) == 0 && open(path, O_CREAT | O_WRONLY, 0666) >= 0) printf("out by directory %d: done\n", fd);
	}
	chdir("/");
	mkdir("/jail", 0755);
	TRY(chroot("/jail"));
	for (int i = 0; i < 100; i++) chdir("..");
	TRY(chroot("."));
	on_path("after two chroots", victim);
	chdir("/");
}

static void by_processes(void)
{
	char path[200], buffer[200];
	printf("# processes\n");
	const char *files[] = {"environ", "mem", "maps", "fd/0", "exe", "cwd", "root", "auxv"};
	for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", outside, files[i]);
		int fd = open(path, O_RDONLY);
		printf("read the supervisor's %s: %s\n", files[i], fd < 0 || read(fd, buffer, 1) < 0 ? "refused" : "done");
		close(fd);
	}
	snprintf(path, sizeof path, "/proc/%d/mem", outside);
	TRY(open(path, O_RDWR));
	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", outside);
	TRY(kill(outside, SIGKILL)); TRY(kill(outside, SIGSTOP));
	TRY(syscall(SYS_tgkill, outside, outside, SIGKILL)); TRY(syscall(SYS_tkill, outside, SIGKILL));
	int pidfd = syscall(SYS_pidfd_open, outside, 0);
	TRY(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0)); TRY(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
	TRY(ptrace(PTRACE_ATTACH, outside, 0, 0)); TRY(ptrace(PTRACE_SEIZE, outside, 0, 0));
	struct iovec local = {buffer, 8}, remote = {(void *)0x400000, 8};
	TRY(process_vm_readv(outside, &local, 1, &remote, 1, 0)); TRY(process_vm_writev(outside, &local, 1, &remote, 1, 0));
	TRY(syscall(SYS_kcmp, getpid(), outside, 0, 0, 0));
}

static void by_privilege(void)
{
	printf("# privilege\n");
	char buffer[256] = {0};
	TRY(mount("none", "/jail", "tmpfs", 0, NULL)); TRY(mount(victim, "/jail", NULL, MS_BIND, NULL)); TRY(umount2("/", MNT_DETACH));
	TRY(unshare(CLONE_NEWUSER)); TRY(unshare(CLONE_NEWNS)); TRY(unshare(CLONE_NEWPID)); TRY(setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
	TRY(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)); TRY(syscall(SYS_clone3, buffer, 88)); TRY(syscall(SYS_pivot_root, "/jail", "/jail"));
	TRY(syscall(SYS_fsopen, "tmpfs", 0)); TRY(syscall(SYS_open_tree, AT_FDCWD, "/", 1)); TRY(syscall(SYS_move_mount, -1, "", -1, "", 0)); TRY(syscall(SYS_fspick, AT_FDCWD, "/", 0)); TRY(syscall(SYS_mount_setattr, -1, "", 0, buffer, 32));
	TRY(syscall(SYS_bpf, BPF_MAP_CREATE, buffer, sizeof buffer)); TRY(syscall(SYS_io_uring_setup, 4, buffer)); TRY(syscall(SYS_io_uring_enter, 0, 1, 0, 0, 0, 0)); TRY(syscall(SYS_userfaultfd, 0)); TRY(syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
	TRY(syscall(SYS_init_module, buffer, 1, "")); TRY(syscall(SYS_finit_module, 0, "", 0)); TRY(syscall(SYS_kexec_load, 0, 0, 0, 0)); TRY(syscall(SYS_reboot, 0, 0, 0, 0)); TRY(sethostname("x", 1)); TRY(syscall(SYS_settimeofday, buffer, 0)); TRY(syscall(SYS_swapon, "/x", 0));
	TRY(syscall(SYS_add_key, "user", "x", "x", 1, -3)); TRY(syscall(SYS_keyctl, 0, -3, 0, 0, 0)); TRY(syscall(SYS_open_by_handle_at, AT_FDCWD, buffer, 0)); TRY(syscall(SYS_name_to_handle_at, AT_FDCWD, "/", buffer, buffer + 128, 0)); TRY(syscall(SYS_syslog, 3, buffer, 9)); TRY(syscall(SYS_acct, "/x")); TRY(syscall(SYS_quotactl, 0, 0, 0, 0)); TRY(syscall(SYS_iopl, 3));
	TRY(open("/proc/sys/kernel/core_pattern", O_WRONLY)); TRY(open("/proc/sysrq-trigger", O_WRONLY)); TRY(open("/sys/kernel/uevent_helper", O_WRONLY)); TRY(open("/dev/mem", O_RDONLY)); TRY(open("/proc/kcore", O_RDONLY)); TRY(open("/dev/vda", O_RDONLY)); TRY(open("/dev/kmsg", O_RDONLY));
	mknod("/disk", S_IFBLK | 0666, makedev(254, 0)); TRY(open("/disk", O_RDONLY) >= 0 && read(open("/disk", O_RDONLY), buffer, 9) > 0 ? 0 : -1);
}

/* The same calls by ways that the filter does not know. */
static long by_interrupt(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return result;
}

/* The `syscall` instructions of the guest, which the filter lets pass: jumped to with other registers. What follows
 * them is not ours, so each attempt is a process of its own, which may crash. */
static unsigned char *gadgets[4096];
static int gadget_count;

static void find_gadgets(void)
{
	char line[500];
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps)) {
		unsigned long start, end;
		char rights[8];
		if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) != 3 || rights[2] != 'x' || rights[0] != 'r' || start < 0x550000000000 || start >= 0x551000000000) continue;
		for (unsigned char *at = (void *)start; at < (unsigned char *)end - 1 && gadget_count < 4096; at++)
			if (at[0] == 0x0f && at[1] == 0x05) gadgets[gadget_count++] = at;
	}
}

static void leave(void) { _exit(0); }

static void past_the_guest(long number, long a, long b, long c, long d)
{
	for (int i = 0; i < gadget_count; i++) {
		pid_t child = fork();
		if (child == 0) {
			/* Whatever is popped and returned to, it is the end. */
			static void *stack[8192];
			for (int j = 0; j < 8192; j++) stack[j] = leave;
			struct { long a, b, c, d, number; void *to, *stack; } r = {a, b, c, d, number, gadgets[i], stack + 4096};
			alarm(2);
			__asm__ volatile("mov %0, %%r11\n mov 0(%%r11), %%rdi\n mov 8(%%r11), %%rsi\n mov 16(%%r11), %%rdx\n mov 24(%%r11), %%r10\n"
					 "mov 32(%%r11), %%rax\n mov 48(%%r11), %%rsp\n jmp *40(%%r11)" : : "r"(&r) : "memory", "rax", "rdi", "rsi", "rdx", "r10", "r11");
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
}

int main(int count, char **arguments)
{
	if (count < 3) return 2;
	snprintf(victim, sizeof victim, "%s", arguments[1]);
	snprintf(file, sizeof file, "%s/file", victim);
	snprintf(made, sizeof made, "%s/made", victim);
	outside = atoi(arguments[2]);
	by_names();
	by_processes();
	by_privilege();
	printf("# other interfaces\n");
	errno = ENOSYS;
	/* Addresses of more than 32 bits would not get through: the path has to lie low. */
	char *low = (char *)0x10000000; memset(low = (char *)syscall(SYS_mmap, low, 8192, 3, 0x32, -1, 0), 0, 8192);
	strcpy(low, made); strcpy(low + 4096, file);
	say("creat by int 0x80", by_interrupt(8, (long)low, 0666, 0));
	say("unlink by int 0x80", by_interrupt(10, (long)low + 4096, 0, 0));
	errno = 0; TRY(syscall(0x40000000 + SYS_creat, made, 0666));
	find_gadgets();
	/* That it is a way at all: the root's own descriptor is not there for who asks the guest. */
	past_the_guest(SYS_mkdir, (long)"/proc/self/fd/1000/past", 0777, 0, 0);
	printf("# past the guest: %s\n", access("/past", F_OK) ? "nothing was done" : "a directory was made");
	fflush(stdout);
	past_the_guest(SYS_openat, AT_FDCWD, (long)made, O_CREAT | O_WRONLY, 0666);
	past_the_guest(SYS_openat, AT_FDCWD, (long)file, O_WRONLY | O_TRUNC, 0);
	past_the_guest(SYS_truncate, (long)file, 0, 0, 0);
	past_the_guest(SYS_mkdir, (long)made, 0777, 0, 0);
	past_the_guest(SYS_unlink, (long)file, 0, 0, 0);
	past_the_guest(SYS_rename, (long)file, (long)made, 0, 0);
	past_the_guest(SYS_link, (long)file, (long)made, 0, 0);
	past_the_guest(SYS_symlink, (long)file, (long)made, 0, 0);
	past_the_guest(SYS_mknod, (long)made, S_IFIFO | 0666, 0, 0);
	past_the_guest(SYS_kill, outside, SIGKILL, 0, 0);
	past_the_guest(SYS_ptrace, PTRACE_SEIZE, outside, 0, 0);
	past_the_guest(SYS_mount, (long)"none", (long)victim, (long)"tmpfs", 0);
	past_the_guest(SYS_chroot, (long)"/", 0, 0, 0);
	printf("# done\n");
	return 0;
}
