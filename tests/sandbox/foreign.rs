//! Programs of other machines, run by an emulator that the guest starts, beside the same emulator started by the kernel
//! (binfmt_misc) in a container's real root.

use std::path::PathBuf;

use crate::programs::{self, Comparison, Row, compare};
use crate::runner::As;
use crate::scenario::{Command, Ending, Scenario};
use crate::support::Binfmt;
use crate::{Test, base, calls, native, runner, scripts, support};

pub fn tests() -> Vec<Test> {
    vec![
        ("foreign::debian_does_what_it_does_behind_binfmt", debian),
        ("foreign::calls_answer_as_behind_binfmt", calls_answer),
        ("foreign::other_word_sizes_and_orders_work", other_machines),
        ("foreign::nothing_of_an_emulator_is_seen", nothing_is_seen),
        ("foreign::a_step_has_the_emulators_of_its_own_platform", own_platform),
    ]
}

fn part(name: &str) -> PathBuf {
    support::part("foreign").join(name)
}

fn of(architecture: &str, layers: Vec<PathBuf>, steps: Vec<Command>) -> Scenario {
    Scenario { layers, steps, architectures: vec![architecture.to_owned()] }
}

const OWN: &[Row] = &[
    Row::new(
        "who, where and what the machine is",
        "set -e; uname -m; id; pwd; readlink /proc/self/exe; tr '\\0' ' ' < /proc/self/cmdline; echo; cat /proc/self/comm > /dev/null
         python3 -c 'import os, platform, struct; print(platform.machine(), os.path.realpath(\"/proc/self/exe\"), struct.calcsize(\"P\"), os.uname().nodename)'
         (exec -a other python3 -c 'import sys; print(open(\"/proc/self/cmdline\").read().split(chr(0))[0])') 2> /dev/null || bash -c 'exec -a other python3 -c \"print(open(\\\"/proc/self/cmdline\\\").read().split(chr(0))[0])\"'",
    ),
    Row::new(
        "scripts, links and odd names",
        "set -e; mkdir /s; cd /s; printf '#!/bin/sh -e\\necho \"$0 $*\"\\n' > script; chmod 755 script; ./script a 'b c'; /s/script; cd /; s/script; PATH=/s:$PATH script x
         printf '#!/s/script  with  arguments \\n' > /s/second; chmod 755 /s/second; /s/second y; cp /bin/true /s/-x; cd /s; PATH=/s -x; ./-x; ln -s /bin/echo linked; ./linked through a link
         printf 'echo no line\\n' > plain; chmod 755 plain; ./plain; bash -c ./plain; printf '#!/none\\n' > broken; chmod 755 broken; ./broken || echo $?
         cp /bin/echo only; chmod 711 only; ./only executable; printf '\\177ELF' > torn; chmod 755 torn; ./torn 2> /dev/null || echo $?; ./ 2> /dev/null || echo $?; env -i /bin/echo empty environment",
    ),
    Row::new(
        "hundreds of processes",
        "set -e; for i in $(seq 400); do (exit 0) & done; wait; i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done
         seq 200 | xargs -P 8 -n 1 sh -c 'touch /tmp/p$0; chown $0:$0 /tmp/p$0'; stat -c '%u:%g' /tmp/p1 /tmp/p200; ls /tmp/p* | wc -l; rm /tmp/p*
         yes | head -1000 | sort | uniq -c | tr -s ' '; for i in $(seq 60); do sleep 10 & p=$!; kill $p; wait $p || echo $?; done | sort | uniq -c | tr -s ' '",
    ),
    Row::new(
        "threads, signals and descriptors",
        "cat > /t.py <<'EOF'
import ctypes, os, select, signal, socket, subprocess, sys, threading, time
counts = []
def work(n):
    for i in range(50):
        path = f'/tmp/t{n}-{i}'; open(path, 'w').close(); os.chown(path, n, i); s = os.stat(path); assert (s.st_uid, s.st_gid) == (n, i); os.unlink(path)
    counts.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]; print(sorted(counts))
caught = []
for s in signal.SIGUSR1, signal.SIGCHLD, signal.SIGSYS, signal.SIGALRM: signal.signal(s, lambda s, f: caught.append(int(s)))
os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGSYS); signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)
subprocess.run(['true']); print(sorted(set(caught)))
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64)); open('/tmp/blocked', 'w').close(); print(os.stat('/tmp/blocked').st_size)
print(subprocess.run(['sh', '-c', 'echo $$ > /dev/null; grep SigBlk /proc/self/status | wc -l'], capture_output=True).stdout)
print(signal.sigtimedwait([signal.SIGUSR2], 0.01), subprocess.run(['id', '-u'], user=7, group=8, extra_groups=[9], capture_output=True, text=True).stdout)
fd = os.memfd_create('m'); os.write(fd, open('/bin/echo', 'rb').read())
pid = os.fork()
if pid == 0: os.execve(fd, ['echo', 'from', 'memory'], {})
print(os.waitpid(pid, 0)[1]); r, w = os.pipe(); p = select.poll(); p.register(r); print(p.poll(10))
a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1)); s = socket.socket(socket.AF_UNIX); s.bind('/tmp/sock'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('/tmp/sock'); print(s.accept()[0].fileno() > 0)
print(sorted(os.listdir('/proc/self/fd'))[:3], os.path.exists('/proc/self/fd/1000'), open('/proc/self/exe', 'rb').read(4), open('/proc/self/exe', 'rb').read(4))
os.posix_spawn('/bin/echo', ['echo', 'spawned'], {}); os.wait(); sys.stdout.flush(); os.execv('/bin/sh', ['sh', '-c', 'kill -9 $$'])
EOF
         python3 /t.py; echo $?; rm -f /tmp/sock",
    ),
    Row::new(
        "identity",
        "set -e; cp /bin/id /i; chmod 4755 /i; chown 5:6 /i; chmod 6755 /i; setpriv --reuid=1000 --regid=1000 --clear-groups /i; setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'touch /refused || echo $?'
         chroot / id; mkdir -p /r/bin /r/lib; cp /bin/busybox /r/bin 2> /dev/null || true; cp /lib/ld-linux-aarch64.so.1 /r/lib; mkdir -p /r/lib/aarch64-linux-gnu; cp /lib/aarch64-linux-gnu/libc.so.6 /r/lib/aarch64-linux-gnu; cp /bin/echo /r/bin
         chroot /r /bin/echo inside; umask 027; touch /u; stat -c %a /u; rm -rf /r /u",
    ),
];

fn debian() {
    let _registered = Binfmt::register();
    // What it leaves out needs the network, and packages that are not in the tree.
    let rows: Vec<&Row> = OWN.iter().chain(scripts::DEBIAN.iter().filter(|row| row.name != "apt")).collect();
    programs::beside_native(&of("arm64", vec![part("debian-arm64.tar")], programs::steps(&rows)), &rows);
}

fn calls_answer() {
    let _registered = Binfmt::register();
    let directory = tempfile::tempdir().unwrap();
    let (linked, loaded) = (directory.path().join("static"), directory.path().join("dynamic"));
    calls::compile_with("aarch64-linux-gnu-gcc", "calls.c", &["-static"], &linked);
    calls::compile_with("aarch64-linux-gnu-gcc", "calls.c", &[], &loaded);
    let programs = base::programs(directory.path(), &[("calls-static", &linked), ("calls-dynamic", &loaded)]);
    let commands: [&[&str]; 3] = [&["/calls-static"], &["/bin/rm", "-rf", "/t"], &["/calls-dynamic"]];
    let steps = commands.map(|arguments| Command::new(arguments.iter().copied())).into();
    let scenario = of("arm64", vec![part("debian-arm64.tar"), programs], steps);
    let mut expected = native::run(&scenario);
    for index in [0, 2] {
        let said = expected.steps[index].stdout.lines().collect::<Vec<_>>();
        assert!(said.len() > 500 && said.last() == Some(&"# done"), "natively: {said:#?}");
    }
    for user in [As::Root, As::Unprivileged] {
        let mut outcome = runner::run(user, &scenario);
        for step in outcome.steps.iter_mut().chain(&mut expected.steps) {
            step.stdout = comparable(&step.stdout);
        }
        let steps = expected.steps.iter().zip(&outcome.steps).enumerate();
        let differences: Vec<String> = steps
            .flat_map(|(index, (expected, found))| {
                compare(&format!("{user:?}, step {index}"), expected, found, &Comparison::default())
            })
            .collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

/// What the calls printed, less what the two ways to start an emulator differ in. It has a thread of its own, for which
/// `unshare` has another error than for a lack of privilege; and it is told the program by another name where that was
/// executed by its descriptor.
fn comparable(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.contains("SYS_unshare"));
    lines.map(|line| line.replace("execfn /proc/self/fd/3 ", "execfn /proc/self/exe ") + "\n").collect()
}

/// What every busybox is asked.
const BUSYBOX: &[Row] = &[Row::new(
    // Not `uname`: the kernel runs programs of 386 by itself, and says its own name.
    "busybox",
    "set -e; for i in $(/b/busybox seq 50); do /b/busybox true & done; wait; printf '#!/b/busybox sh\\necho script $0\\n' > /s; /b/busybox chmod 755 /s; /s
     /b/busybox chown 5:6 /s; /b/busybox stat -c '%u:%g %a' /s; /b/busybox ls -ln /b | /b/busybox wc -l; /b/busybox mkdir -p /d/e; echo x > /d/e/f; /b/busybox ln -s e/f /d/l; /b/busybox tar -C /d -cf /d.tar .
     /b/busybox tar -tf /d.tar | /b/busybox sort; /b/busybox rm /d.tar; /b/busybox mknod /n c 1 3; /b/busybox stat -c '%t:%T %F' /n; /b/busybox sleep 0.1; trap 'echo caught' USR1; kill -USR1 $$; /b/busybox sha256sum /d/l",
)];

fn other_machines() {
    let _registered = Binfmt::register();
    for architecture in ["386", "arm", "ppc64le", "s390x"] {
        let directory = tempfile::tempdir().unwrap();
        let program = part(&format!("busybox-{architecture}"));
        let files = [("b/busybox", program.as_path()), ("bin/sh", program.as_path())];
        let layer = base::programs(directory.path(), &files);
        let rows: Vec<&Row> = BUSYBOX.iter().collect();
        let scenario = of(architecture, vec![layer], programs::steps(&rows));
        programs::beside_native(&scenario, &rows);
    }
}

fn nothing_is_seen() {
    let script = "set -e; ls / /usr/bin | grep -i qemu || echo none; ls /proc/self/fd | wc -l; tr '\\0' '\\n' < /proc/self/environ | grep -i qemu || echo none
        cat /proc/self/maps | grep -ci qemu || true; readlink /proc/$$/exe; touch /made";
    for user in [As::Root, As::Unprivileged] {
        let scenario = of("arm64", vec![part("debian-arm64.tar")], vec![Command::shell(script)]);
        let outcome = runner::run(user, &scenario);
        let step = &outcome.steps[0];
        assert_eq!(step.exit, Ending::Status(0), "{}{}", step.stdout, step.stderr);
        assert_eq!(step.stdout, "none\n4\nnone\n0\n/usr/bin/dash\n", "{}", step.stderr);
        assert!(step.changes.contains_key("/made"));
        let unexpected: Vec<_> = step
            .changes
            .keys()
            .filter(|path| !["/made", "/dev", "/proc", "/sys"].contains(&path.as_str()))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}

/// A native step does not find an emulator of a machine that its own would not run, and one of another machine has the
/// native programs and its own.
fn own_platform() {
    let directory = tempfile::tempdir().unwrap();
    let (arm, s390x) = (part("busybox-arm"), part("busybox-s390x"));
    let files = [("arm/busybox", arm.as_path()), ("s390x/busybox", s390x.as_path())];
    let layers = || {
        let mut layers = base::layers("library/busybox:1");
        layers.push(base::programs(directory.path(), &files));
        layers
    };
    let steps = || {
        ["/arm/busybox", "/s390x/busybox", "/bin/busybox"]
            .map(|program| Command::new([program, "true"]))
            .into()
    };
    let (runs, refused) =
        (Ending::Status(0), Ending::NotStarted("Exec format error (os error 8)".to_owned()));
    for (architecture, expected) in [
        ("amd64", [&refused, &refused, &runs]),
        ("arm64", [&runs, &refused, &runs]),
        ("s390x", [&refused, &runs, &runs]),
    ] {
        let outcome = runner::run(As::Unprivileged, &of(architecture, layers(), steps()));
        let exits: Vec<&Ending> = outcome.steps.iter().map(|step| &step.exit).collect();
        assert_eq!(exits, expected, "{architecture}");
    }
}
