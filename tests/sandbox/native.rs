//! The oracle: the same scenario by the kernel alone, in a chroot with real mounts and a container's capabilities.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::scenario::{self, Change, Ending, Outcome, Scenario, Seen, StepOutcome, digest, hexadecimal};

/// What a container's runtime does before it gives the machine to a command: `ROOT USER GROUPS COMMAND…`.
const ENTER: &str = r#"
set -e
root=$1 user=$2 groups=$3; shift 3
hostname cofferdam
mkdir -p "$root/proc" "$root/sys" "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm" "$root/dev/mqueue"; mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"; ln -s /proc/self/fd "$root/dev/fd"; ln -s /proc/kcore "$root/dev/core"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done
capabilities=-all
for name in chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod \
  audit_write setfcap; do capabilities=$capabilities,+$name; done
exec setpriv --bounding-set "$capabilities" --inh-caps=-all chroot --userspec="$user" --groups="$groups" "$root" "$@"
"#;

/// Where a container has mounts: what is there is not the image's, only the directories are.
const MOUNTED: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
const MOUNTED_DIRECTORIES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Carries out `scenario` with the privileges that it is made to do without.
///
/// # Panics
/// If this process is not root, or has no `unshare`, `setpriv` and `chroot`.
pub fn run(scenario: &Scenario) -> Outcome {
    let place = tempfile::tempdir().expect("a directory");
    let root = place.path().join("root");
    fs::create_dir(&root).expect("a root");
    for layer in &scenario.layers {
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
            .arg(layer)
            .arg("-C")
            .arg(&root);
        assert!(tar.status().expect("tar").success(), "tar cannot unpack {}", layer.display());
    }
    fs::create_dir_all(root.join("etc")).expect("a mount point");
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).expect("this machine resolves names");
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("hosts");
    fs::write(root.join("etc/hostname"), "cofferdam\n").expect("a host name");
    let mut before = Tree::default();
    before.walk(&root, "");
    let mut steps = Vec::new();
    for command in &scenario.steps {
        let mut outcome = step(&root, command);
        let mut after = Tree::default();
        after.walk(&root, "");
        outcome.changes = after.changes_since(&before, &root);
        steps.push(outcome);
        before = after;
    }
    Outcome { protection: String::new(), steps }
}

fn step(root: &Path, command: &scenario::Command) -> StepOutcome {
    let start = Instant::now();
    let groups: Vec<String> = command.groups.iter().map(ToString::to_string).collect();
    let output = Command::new("timeout")
        .args(["--kill-after=1", &command.limit.to_string()])
        .args([
            "unshare",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "sh",
            "-c",
            ENTER,
            "sh",
        ])
        .arg(root)
        .arg(format!("{}:{}", command.uid, command.gid))
        .arg(groups.join(","))
        .args(&command.arguments)
        .env_clear()
        .envs(&command.environment)
        .stdin(Stdio::null())
        .output()
        .expect("a command");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    StepOutcome {
        exit: output.status.code().map_or(Ending::Signal(9), Ending::Status),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        took: start.elapsed().as_millis() as u64,
        changes: BTreeMap::new(),
    }
}

/// All files of a root in the order of a layer: a directory's entries by name, each with what is in it.
#[derive(Default)]
struct Tree {
    paths: Vec<String>,
    files: BTreeMap<String, Metadata>,
}

impl Tree {
    fn walk(&mut self, root: &Path, path: &str) {
        let directory = root.join(path.trim_start_matches('/'));
        let mut names: Vec<_> = fs::read_dir(&directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        for name in names {
            let path = format!("{path}/{}", name.to_string_lossy());
            if MOUNTED.contains(&path.as_str()) {
                continue;
            }
            let metadata = fs::symlink_metadata(directory.join(&name)).expect("a file");
            let is_directory = metadata.is_dir() && !MOUNTED_DIRECTORIES.contains(&path.as_str());
            self.paths.push(path.clone());
            self.files.insert(path.clone(), metadata);
            if is_directory {
                self.walk(root, &path);
            }
        }
    }

    fn changes_since(&self, before: &Self, root: &Path) -> BTreeMap<String, Change> {
        let mut changes = BTreeMap::new();
        let mut links = BTreeMap::new();
        for path in &self.paths {
            let now = &self.files[path];
            if before.files.get(path).is_some_and(|before| same(before, now)) || is_socket(now) {
                continue;
            }
            let mut seen = look(&root.join(&path[1..]), now);
            if !now.is_dir() && now.nlink() > 1 {
                let first = links.entry(now.ino()).or_insert_with(|| path.clone());
                if first != path {
                    seen.what = format!("same as {first}");
                    seen.digest = None;
                }
            }
            changes.insert(path.clone(), Change::Is(seen));
        }
        for path in before.paths.iter().filter(|path| !self.files.contains_key(*path)) {
            // With a directory goes what is in it; and a socket was never there.
            let above = parent(path);
            let is_told = above.is_empty() || self.files.get(above).is_some_and(Metadata::is_dir);
            if is_told && !is_socket(&before.files[path]) {
                changes.insert(path.clone(), Change::Removed);
            }
        }
        // A layer has the directories above whatever it has.
        for path in changes.keys().cloned().collect::<Vec<_>>() {
            let mut above = parent(&path);
            while !above.is_empty() {
                let metadata = &self.files[above];
                let place = root.join(&above[1..]);
                changes.entry(above.to_owned()).or_insert_with(|| Change::Is(look(&place, metadata)));
                above = parent(above);
            }
        }
        changes
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn same(before: &Metadata, now: &Metadata) -> bool {
    if before.is_dir() && now.is_dir() {
        // The time of a directory alone is no change: layers leave it out, as BuildKit's do.
        let of = |of: &Metadata| (of.mode(), of.uid(), of.gid());
        return of(before) == of(now);
    }
    let of = |of: &Metadata| (of.is_dir(), of.ino(), of.ctime(), of.ctime_nsec());
    of(before) == of(now)
}

const KIND: u32 = 0o170_000;

fn is_socket(metadata: &Metadata) -> bool {
    metadata.mode() & KIND == 0o140_000
}

fn look(place: &Path, metadata: &Metadata) -> Seen {
    let number = || format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let what = match metadata.mode() & KIND {
        0o040_000 => "directory".to_owned(),
        0o120_000 => format!("link to {}", fs::read_link(place).expect("a link").display()),
        0o020_000 => format!("character device {}", number()),
        0o060_000 => format!("block device {}", number()),
        0o010_000 => "pipe".to_owned(),
        _ => "file".to_owned(),
    };
    let digest = (what == "file").then(|| digest(fs::File::open(place).expect("a file")));
    Seen {
        what,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        attributes: attributes(place),
        digest,
    }
}

fn attributes(place: &Path) -> BTreeMap<String, String> {
    let mut names = Vec::with_capacity(1024);
    match llistxattr(place, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return BTreeMap::new(),
        Err(error) => panic!("{}: {error}", place.display()),
    }
    let of_images = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
    names
        .split(|byte| *byte == 0)
        .filter(of_images)
        .map(|name| {
            let mut value = Vec::with_capacity(1024);
            lgetxattr(place, OsStr::from_bytes(name), rustix::buffer::spare_capacity(&mut value))
                .expect("a value");
            (String::from_utf8_lossy(name).into_owned(), hexadecimal(&value))
        })
        .collect()
}
