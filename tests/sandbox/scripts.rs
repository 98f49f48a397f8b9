//! The rows of the matrix: what is run in each base image. Rows of one image build on one another.

use crate::programs::Row;

/// What package managers write with the time, or in an order of their own, into what they keep.
const PACKAGE_STATE: &[&str] =
    &["/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/", "/etc/shadow", "/etc/ld.so.cache"];

pub const DEBIAN: &[Row] = &[
    Row::new(
        "dash",
        "set -e; mkdir /w; cd /w
         echo one | cat - | tr a-z A-Z; printf '%s\\n' b a | sort | tee sorted; x=$(sh -c 'exit 3' || echo $?); echo $x
         cat <<EOF > here\nhere $x\nEOF
         cat here; (cd /tmp; pwd); pwd; for i in 1 2 3; do echo $i; done > loop; wc -l < loop
         trap 'echo trapped' USR1; kill -USR1 $$; trap - USR1; sleep 0.1 & wait; echo $#; set -- a b; echo $# $0
         umask; umask 027; touch masked; mkdir masked.d; ls -l masked | cut -c1-10; exec 3< here; read line <&3; echo $line
         test -r /etc/passwd -a -w /etc/passwd; test ! -x /etc/passwd; [ -d . ]; [ -L /bin ]; ulimit -n > /dev/null; times > /dev/null
         echo $HOME; cd -; eval 'echo evaluated'; command -v sh; readlink /proc/self/exe; cat /proc/sys/kernel/hostname",
    ),
    Row::new(
        "bash",
        "exec bash -euc 'cd /w; a=(1 2 3); echo ${#a[@]} <(true | cat) > /dev/null; diff <(echo 1) <(echo 1) && echo same
         set -o pipefail; false | true || echo pipefail; echo $BASH_SUBSHELL $UID $EUID; shopt -s globstar nullglob
         mkdir -p g/h/i; touch g/h/i/f g/f; echo g/**/f; mapfile -t lines < /etc/passwd; echo ${lines[0]}
         coproc { cat; }; echo through >&${COPROC[1]}; read -r line <&${COPROC[0]}; echo $line; set -m; sleep 5 & kill %1; wait %1 || echo $?
         exec {fd}> numbered; echo x >&$fd; exec {fd}>&-; cat numbered; echo ${PWD} $(<here); [[ -O here && -G here ]] && echo mine
         echo time > /dev/fd/1; read -r first < /dev/stdin || echo empty; ulimit -c 0; hash -r; type -t cd; disown -a; echo done'",
    ),
    Row::new(
        "coreutils",
        "set -e; mkdir /c; cd /c; echo text > f; install -o 33 -g 44 -m 4750 f installed; install -d -o 7 -g 8 -m 2775 d/e
         ln f hard; ln -s f soft; ln -s /c/d abs; cp -a d copied; cp -a hard soft installed copied/; mv copied/soft copied/moved
         chown 5 f; chown :6 f; chown -h 9:9 soft; chown --reference=f installed; chmod u+s,g=rx,o= f; chmod -R a+rX d
         mknod null c 1 3; mknod -m 600 disk b 8 1; mkfifo -m 640 pipe; (echo through > pipe &); cat pipe
         truncate -s 3M sparse; printf end >> sparse; cp --sparse=always sparse sparse2; dd if=sparse of=dd bs=64k conv=fsync status=none; cmp sparse dd
         touch -d 2001-02-03T04:05:06Z dated; touch -r dated dated2; touch -h -d 2002-02-03 soft; mkdir -m 1777 sticky; mkdir -p a/b/c; rmdir -p a/b/c
         split -b 1M sparse part.; cat part.* | cmp - sparse; rm part.*; shred -u -n 1 dd; mktemp -u > /dev/null; ln -sfn d abs; unlink hard
         cp -r --preserve=mode,ownership,timestamps,links . /c2; mv /c2 /c/c2; rm -rf c2/d; nohup true; nice true; timeout 5 true; stdbuf -o0 true; chroot / true
         stat -c '%n %f %u:%g %h %t:%T %F %N' * c2/*; stat -c '%s %b' sparse2; stat -c %Y dated dated2 soft; id; groups; whoami; logname 2>/dev/null || true
         ls -lna --time-style=+%Y soft null disk; find . -perm -4000 | sort; find . -type c; find . -type f -name null; find . -user 33 -o -group 8 | sort; du -b sparse2; df . > /dev/null; realpath abs/e soft
         readlink -f abs/../soft; pwd -P; stat -f -c %T . > /dev/null; sha256sum f; tail -c 3 sparse; chgrp 60 f; stat -c %g:%a f; sync; sync f",
    )
    .transient(&["nohup.out"]),
    Row::new(
        "archives keep owners, set-ID bits and holes",
        "set -e; mkdir /a; cd /a; mkdir in; echo 1 > in/one; chown 1000:1001 in/one; cp /bin/true in/suid; chmod 6755 in/suid; chown 0:50 in/suid; chmod 2755 in/suid
         truncate -s 20M in/sparse; touch -d @1700000000 in/sparse; ln in/one in/hard; ln -s one in/link; chown -h 3:4 in/link; mkfifo in/pipe; mknod in/dev c 5 1; mkdir -m 1770 in/dir; chown 12:34 in/dir
         tar -S -cf plain.tar in; tar -czf t.gz in; tar -tvf plain.tar | sed 's/ 20[0-9-]* [0-9:]*//'
         for a in plain.tar t.gz; do mkdir out-$a; tar -C out-$a -xpf $a; stat -c '%n %a %u:%g %F %t:%T %h %s' out-$a/in/*; done
         [ $(stat -c %b out-plain.tar/in/sparse) -lt 100 ]; gzip -k plain.tar; gunzip -c plain.tar.gz | cmp - plain.tar; rm t.gz plain.tar* ; mkdir o; tar -C in -cf - . | tar -C o -xf - --no-same-owner --no-same-permissions
         stat -c '%n %a %u:%g' o/*; getent passwd root; perl -e 'print \"$< $> $^O\\n\"; chown 8,9,\"o/one\"; my @s=stat(\"o/one\"); print \"$s[4]:$s[5]\\n\"; $>=1000; print open(F,\">/etc/x\") ? \"opened\" : \"$!\", \"\\n\"; if (!fork) { exec \"id\" } wait; print $?, \"\\n\"'",
    )
    .varying(&["in/sparse", "out-"]),
    Row::new(
        "users",
        "set -e; groupadd -g 1500 team; useradd -m -u 1234 -g team -G games,mail -s /bin/bash -c 'A User' user; usermod -aG audio user; id user
         echo 'user:secret' | chpasswd; passwd -S user | cut -d' ' -f1,2; passwd -l user > /dev/null; su user -c 'id; cd; pwd; umask; touch mine; mkdir -m 700 own; ls -n mine | cut -d\" \" -f3,4'
         su user -c 'touch /etc/refused' || echo refused; su user -c 'cat /etc/shadow' || echo refused; su user -c 'rm /home/user/.bashrc && ln -s /etc/shadow s && cat s' || echo refused
         su - user -c 'echo $HOME $USER $PWD'; runuser -u user -- id -un; setpriv --reuid=user --regid=team --init-groups id; setpriv --reuid=1234 --clear-groups --regid=5 sh -c 'id; chmod 777 /etc || echo refused'
         useradd -r -s /usr/sbin/nologin daemonuser; id -nG user; stat -c '%n %a %U:%G' /home/user /home/user/* /home/user/.[a-z]* /etc/shadow /etc/gshadow
         chage -l user > /dev/null; gpasswd -d user mail; groupmod -n crew team; userdel -r daemonuser 2> /dev/null || true; getent group crew; userdel -r user; groupdel crew; ls /home; getent passwd user || echo gone",
    )
    .varying(&["/etc/shadow", "/var/log/"])
    .transient(&["/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-"]),
    Row::new(
        "dpkg with maintainer scripts",
        "set -e; mkdir -p /pkg/DEBIAN /pkg/etc /pkg/usr/bin /pkg/var/lib/thing; cd /pkg; echo conf > etc/thing.conf; echo '#!/bin/sh' > usr/bin/thing; chmod 4755 usr/bin/thing
         printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: thing\\n' > DEBIAN/control; echo /etc/thing.conf > DEBIAN/conffiles
         printf '#!/bin/sh\\nset -e\\nif [ $1 = configure ]; then groupadd -r thing; useradd -r -g thing -d /var/lib/thing thing; chown thing:thing /var/lib/thing; chmod 2750 /var/lib/thing; dpkg-statoverride --update --add root thing 2755 /usr/bin/thing; fi\\n' > DEBIAN/postinst
         printf '#!/bin/sh\\nset -e\\ndpkg-statoverride --remove /usr/bin/thing || true\\n' > DEBIAN/prerm; chmod 755 DEBIAN/p*; cd /; dpkg-deb --root-owner-group -b pkg thing.deb > /dev/null; dpkg -i thing.deb > /dev/null 2>&1
         stat -c '%n %a %u:%g' /usr/bin/thing /var/lib/thing /etc/thing.conf | sed 's/[0-9]*:[0-9]*$//'; dpkg -V thing; dpkg -L thing; dpkg -s thing | head -2; echo changed >> /etc/thing.conf; dpkg -r thing > /dev/null 2>&1; ls /etc/thing.conf; dpkg -P thing > /dev/null 2>&1; ls /etc/thing.conf 2>&1 || true",
    )
    .varying(&["/var/lib/dpkg/", "/var/log/", "/etc/shadow", "thing.deb"])
    .transient(&["/var/cache/debconf"]),
    Row::new(
        "apt",
        "set -e; apt-get update -qq; apt-get install -y -qq --no-install-recommends openssh-client iputils-ping xz-utils acl- > /dev/null 2>&1
         stat -c '%n %a %U:%G' /usr/bin/ssh-agent /usr/bin/ping; getcap /usr/bin/ping 2> /dev/null || true; dpkg --audit; ssh -V 2> /dev/null; ssh-keygen -q -t ed25519 -N '' -f /root/key; stat -c '%n %a' /root/key*; rm /root/key*
         apt-get check -qq; dpkg -l openssh-client | tail -1 | cut -c1-2; echo packed | xz | xz -d; apt-get purge -y -qq openssh-client > /dev/null 2>&1; apt-get clean; ls /usr/bin/ssh 2>&1 || true",
    )
    .varying(PACKAGE_STATE)
    .transient(&["/var/cache/", "/var/lib/apt/lists", "/var/log/", "/var/lib/dpkg/info/", "/etc/passwd-", "/etc/group-", "/etc/gshadow-", "/etc/shadow-"]),
    Row::new(
        "a user may not what it may not",
        "echo x > /etc/new; echo x >> /etc/passwd; rm /etc/hostname; rm -f /bin/true; mv /usr/bin/env /tmp; chmod 777 /tmp; chown 65534 /etc/passwd; mkdir /new; ln -s x /new; cat /etc/shadow; kill -9 1; mknod /tmp/x c 1 3; chroot / true; ls /root; cd /root; touch -d 2001-01-01 /etc/passwd; cp /etc/shadow /tmp; ln /etc/shadow /tmp/s; su -c id < /dev/null; rm -rf /a/in /home; truncate -s 0 /etc/passwd; install -o 0 /bin/true /tmp/t; (echo x > /w/masked) ; : > /dev/null; touch /tmp/mine; ls -n /tmp/mine | cut -d' ' -f3,4; id; exit 0",
    )
    .by(65534),
];

pub const PYTHON: &[Row] = &[
    Row::new(
        "python",
        r#"set -e; mkdir /p; cd /p; cat > t.py <<'EOF'
import asyncio, concurrent.futures, ctypes, fcntl, glob, grp, json, mmap, multiprocessing, os, pathlib, pwd, resource, select, shutil, signal, socket, sqlite3, stat, subprocess, sys, tempfile, threading, time

def square(n): return n * n

def main():
    print(os.getuid(), os.geteuid(), os.getgroups(), os.path.realpath('/proc/self/exe'), sys.executable, os.getcwd())
    print(subprocess.run(['id'], user=1000, group=1000, extra_groups=[5], capture_output=True, text=True).stdout)
    print(subprocess.run('echo shell; exit 3', shell=True, capture_output=True).returncode, subprocess.check_output(['cat'], input=b'in'))
    with multiprocessing.Pool(2) as pool: print(pool.map(square, range(5)))
    for method in 'fork', 'spawn', 'forkserver':
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool: print(method, list(pool.map(square, range(3))))
    counts = []
    def work(n):
        for i in range(200):
            path = f'thread-{n}-{i}'; open(path, 'w').close(); os.chmod(path, 0o640); os.chown(path, n, i); s = os.stat(path); assert (s.st_uid, s.st_gid, s.st_mode & 0o777) == (n, i, 0o640); os.rename(path, path + 'r'); os.unlink(path + 'r')
        counts.append(n)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]; print(sorted(counts))
    async def several():
        ps = [await asyncio.create_subprocess_exec('sh', '-c', f'echo {n}', stdout=-1) for n in range(4)]
        return [(await p.communicate())[0] for p in ps]
    print(asyncio.run(several()))
    db = sqlite3.connect('data.db'); db.execute('create table t (a)'); db.executemany('insert into t values (?)', [(i,) for i in range(100)]); db.commit(); print(db.execute('select sum(a) from t').fetchone()); db.close()
    with tempfile.TemporaryDirectory() as d:
        p = pathlib.Path(d, 'a'); p.write_text('x'); os.setxattr(p, 'user.note', b'1'); shutil.copytree(d, '/p/tree'); print(os.getxattr('/p/tree/a', 'user.note'))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('/p/socket'); server.listen(); client = socket.socket(socket.AF_UNIX); client.connect('/p/socket'); print(server.accept()[0].getpeername() == ''); client.close()
    os.mkfifo('fifo', 0o600); os.mknod('null', 0o666 | stat.S_IFCHR, os.makedev(1, 3)); print(oct(os.stat('null').st_mode), os.stat('null').st_rdev)
    with open('mapped', 'wb+') as f:
        f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); m[:3] = b'abc'; m.flush(); os.fsync(f.fileno()); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)
    signal.signal(signal.SIGALRM, lambda *_: print('alarm')); signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)
    print(sorted(os.listdir('/dev')), pwd.getpwuid(0).pw_name, grp.getgrgid(0).gr_name, sorted(e.name for e in os.scandir('/p') if e.is_file()))
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
        for what in (lambda: open('/etc/x', 'w'), lambda: os.setuid(0), lambda: os.chown('/p/mapped', 1000, 1000), lambda: os.listdir('/root'), lambda: os.kill(1, 9), lambda: os.chroot('/')):
            try: print(what())
            except OSError as e: print(type(e).__name__, e.errno, flush=True)
        os._exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    r = os.open('/p', os.O_PATH); f = os.open('mapped', os.O_RDONLY, dir_fd=r); print(os.fstat(f).st_size, os.stat('mapped', dir_fd=r).st_uid, os.readlink(f'/proc/self/fd/{f}'))
    print(resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1, os.cpu_count() > 0, ctypes.CDLL(None).getpid() == os.getpid(), json.dumps(glob.glob('/etc/pass*')))
    os.sync(); print(os.memfd_create('x') > 2, [n for n in sorted(map(int, os.listdir('/proc/self/fd'))) if n >= 1000])

if __name__ == '__main__': main()
EOF
python3 t.py"#,
    )
    .varying(&["data.db", ".pyc"]),
    Row::new(
        "pip and venv",
        r#"set -e; mkdir -p /pip/package/mod; cd /pip; printf 'from setuptools import setup\nsetup(name="mod", version="1", packages=["mod"], entry_points={"console_scripts": ["mod=mod:main"]})\n' > package/setup.py
         echo 'def main(): print("mod runs")' > package/mod/__init__.py; pip install -q --no-index --no-build-isolation ./package 2> err || { cat err; exit 1; }; mod; pip list 2> /dev/null | grep mod; pip show -f mod 2> /dev/null | tail -3; pip uninstall -q -y mod 2> /dev/null
         python3 -m venv --without-pip v; v/bin/python -c 'import sys; print(sys.prefix)'; pip install -q --root-user-action=ignore six; python3 -c 'import six; print(six.__name__)'; python3 -m compileall -q /pip/package/mod; python3 -m zipapp -h > /dev/null; rm -rf /root/.cache"#,
    )
    .varying(&["/pip/", ".pyc", "/RECORD", "/direct_url.json"])
    .transient(&["/root/.cache", "/tmp/", "/pip/package/build"]),
];

pub const NODE: &[Row] = &[
    Row::new(
        "node",
        r#"set -e; mkdir /n; cd /n; cat > t.js <<'EOF'
const fs = require('fs'), os = require('os'), cp = require('child_process'), { Worker } = require('worker_threads'), net = require('net'), path = require('path');
fs.writeFileSync('x.txt', 'hi'); fs.chownSync('x.txt', 5, 6); fs.chmodSync('x.txt', 0o4640); const s = fs.statSync('x.txt'); console.log(s.uid, s.gid, s.mode.toString(8), process.execPath, os.hostname(), process.cwd(), os.userInfo().username);
fs.mkdirSync('a/b/c', { recursive: true }); fs.symlinkSync('b', 'a/link'); fs.cpSync('a', 'copy', { recursive: true, verbatimSymlinks: true }); fs.rmSync('a', { recursive: true }); console.log(fs.readdirSync('copy'), fs.realpathSync('copy/link'), fs.existsSync('a'));
console.log(cp.execSync('id').toString(), cp.spawnSync('id', ['-u'], { uid: 1000, gid: 1000 }).stdout.toString(), cp.spawnSync('no-such').error.code);
fs.promises.open('p', 'w').then(async f => { await f.write('x'); await f.chmod(0o600); await f.chown(1, 2); await f.sync(); console.log((await f.stat()).uid); await f.close(); await Promise.all([...Array(50).keys()].map(i => fs.promises.writeFile('many' + i, '' + i))); console.log(fs.readdirSync('.').length);
  new Worker('require("fs").writeFileSync("worker", "1"); require("worker_threads").parentPort.postMessage(process.getuid())', { eval: true }).on('message', m => { console.log('worker', m);
    const w = fs.watch('.', () => { w.close(); console.log('watched'); const server = net.createServer(c => c.end('socket')).listen('/n/sock', () => net.connect('/n/sock').on('data', d => { console.log('' + d); server.close(); process.setgid(1000); process.setuid(1000); try { fs.writeFileSync('/etc/x', '') } catch (e) { console.log(e.code) } })); }); fs.writeFileSync('w', ''); }); });
EOF
node t.js"#,
    ),
    Row::new(
        "npm",
        r#"set -e; mkdir -p /m/local; cd /m; echo '{"name":"local","version":"1.0.0","bin":{"local-cli":"cli.js"},"scripts":{"postinstall":"id -u > installed"}}' > local/package.json; printf '#!/usr/bin/env node\nconsole.log("local runs")\n' > local/cli.js
         echo '{"name":"app","version":"1.0.0","scripts":{"go":"local-cli && echo $npm_package_name"}}' > package.json; npm install --no-audit --no-fund --silent --install-links ./local is-number; npm run --silent go; node -e 'console.log(require("is-number")(5))'; cat node_modules/local/installed; ls -A node_modules; rm -rf /root/.npm"#,
    )
    .varying(&["package-lock.json", "/.package-lock.json"])
    .transient(&["/root/.npm", "/tmp/"]),
];

pub const GOLANG: &[Row] = &[
    Row::new(
        "git",
        "set -e; export GIT_AUTHOR_DATE='2020-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2020-01-01 00:00:00 +0000'; git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
         git init -q /g; cd /g; for i in $(seq 200); do echo $i > f$i; done; chmod 755 f1; ln -s f1 l; git add .; git commit -q -m first; git rev-parse HEAD; git checkout -q -b other; rm f2; echo x > f3; git commit -q -a -m second; git checkout -q main; git merge -q other; git tag v1; git log --oneline | wc -l
         git clone -q /g /g2; git clone -q --bare file:///g /g3; cd /g2; git status --short; git diff --stat HEAD~1 | tail -1; git gc -q; git fsck; git worktree add -q /g4 v1; git archive HEAD | tar -tf - | wc -l; git submodule status; git stash list; cat f3; git -C /g3 rev-parse HEAD",
    )
    .varying(&["/index", "/logs/", "/.git/", "/g3/"])
    .transient(&["/objects/"]),
    Row::new(
        "go build",
        r#"set -e; mkdir -p /s/lib; cd /s; cat > main.go <<'EOF'
package main
import ("fmt"; "os"; "os/exec"; "os/user"; "sync"; "syscall"; "example.org/s/lib")
func main() {
	u, _ := user.Current(); fmt.Println(u.Uid, u.Username, lib.Double(21))
	var w sync.WaitGroup
	for i := 0; i < 50; i++ { w.Add(1); go func() { defer w.Done(); os.WriteFile(fmt.Sprint("/s/out", i), nil, 0640); os.Chown(fmt.Sprint("/s/out", i), i, i); exec.Command("/bin/true").Run() }() }
	w.Wait()
	s, _ := os.Stat("/s/out7"); fmt.Println(s.Mode(), s.Sys().(*syscall.Stat_t).Uid)
	c := exec.Command("id", "-u"); c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}; o, e := c.Output(); fmt.Println(string(o), e)
	c = exec.Command("/bin/ls", "/"); c.SysProcAttr = &syscall.SysProcAttr{Chroot: "/usr/lib"}; _, e = c.Output(); fmt.Println(e)
	p, _ := os.Executable(); fmt.Println(p); fmt.Println(syscall.Mount("a", "/s", "tmpfs", 0, ""), syscall.Setuid(5), os.Getuid()); _, e = os.Create("/etc/x"); fmt.Println(e)
}
EOF
printf 'package lib\nfunc Double(n int) int { return 2 * n }\n' > lib/lib.go; printf 'package lib\nimport "testing"\nfunc TestDouble(t *testing.T) { if Double(1) != 2 { t.Fail() } }\n' > lib/lib_test.go; printf 'module example.org/s\ngo 1.22\n' > go.mod
         export GOCACHE=/tmp/cache GOFLAGS=-mod=mod GOTOOLCHAIN=local GOPROXY=off; CGO_ENABLED=0 go build -trimpath -o app .; ./app; go vet ./lib; go test ./lib | cut -f1,2; go list ./...; rm -rf /tmp/cache"#,
    )
    .varying(&["/root/"])
    .transient(&["/tmp/"]),
];

pub const GCC: &[Row] = &[Row::new(
    "gcc, make and the sanitizers",
    r#"set -e; mkdir /k; cd /k; for i in $(seq 40); do echo "int f$i(void){return $i;}" > $i.c; done
cat > main.c <<'EOF'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
int f1(void), f40(void);
static void *work(void *a) { struct stat s; for (int i = 0; i < 1000; i++) if (stat("/k", &s) || s.st_uid) abort(); return malloc(10); }
int main(void) { pthread_t t[8]; void *r; for (int i = 0; i < 8; i++) pthread_create(t + i, 0, work, 0); for (int i = 0; i < 8; i++) { pthread_join(t[i], &r); free(r); } printf("%d %u\n", f1() + f40(), getuid()); return 0; }
EOF
printf 'SRC=$(wildcard [0-9]*.c)\nall: main shared\nlib.a: $(SRC:.c=.o)\n\tar rcs $@ $^\nmain: main.c lib.a\n\t$(CC) -pthread -o $@ $^\nshared: main.c libn.so\n\t$(CC) -pthread -o $@ main.c -L. -ln -Wl,-rpath,/k\nlibn.so: $(SRC)\n\t$(CC) -shared -fPIC -o $@ $^\n' > Makefile
make -s -j2; ./main; ./shared; ldd shared | grep -c libn; strip -o stripped main; ./stripped; nm lib.a | grep -c ' T '; g++ -x c++ -o cpp - <<'EOF'
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>
int main() { namespace fs = std::filesystem; fs::create_directories("t/u"); std::ofstream("t/u/v") << 1; fs::copy("t", "w", fs::copy_options::recursive); fs::permissions("w/u/v", fs::perms::owner_read); fs::remove_all("t"); std::thread([] { std::cout << fs::file_size("w/u/v") << fs::exists("t") << std::endl; }).join(); }
EOF
./cpp; for s in address undefined thread; do gcc -fsanitize=$s -g -pthread -o san main.c lib.a; ./san 2>&1 || echo $s $?; done; rm san; gcc -static -o linked main.c lib.a; ./linked; make -s -q"#,
)
.varying(&["lib.a"])];

pub const BUSYBOX: &[Row] = &[Row::new(
    "busybox",
    "set -e; mkdir /b; cd /b; id; echo x > f; chown 3:4 f; chmod 4711 f; ls -ln f | awk '{print $1,$3,$4}'; cp -a f g; stat -c '%a %u:%g' g; tar -czf t.tgz f g; mkdir o; tar -C o -xzf t.tgz; stat -c '%n %a %u:%g' o/*
     adduser -D -u 1001 me 2>/dev/null || echo 'me:x:1001:1001::/home:/bin/sh' >> /etc/passwd; su me -c 'id -u; touch /etc/x || echo refused'; find / -xdev -user 3 | sort; (while :; do sleep 1; done) & kill $!; mknod n c 1 3; ls -l n | cut -c1-10; ps > /dev/null; mount > /dev/null; grep -c . /proc/self/mounts > /dev/null; which ls; env | sort; sh -c 'echo $$ > /dev/null'; vi -h 2>/dev/null || true; seq 3 | xargs -n1 echo | tail -1; rm t.tgz; test -w /etc/passwd; ln -s f s; readlink -f s; chroot / /bin/busybox true; sync; du -s . > /dev/null; md5sum f; mktemp -u > /dev/null; nslookup 2>/dev/null || true",
)
.transient(&["/etc/passwd-", "/etc/group-"])];
