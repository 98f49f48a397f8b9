//! Steps that try to get out: `hostile.c`, which tries what there is to try, by the calls' own ways and past the guest.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command as Program, Stdio};

use crate::calls::compile;
use crate::runner::{self, As};
use crate::scenario::{Command, Ending, Scenario};
use crate::{Test, base};

pub fn tests() -> Vec<Test> {
    vec![
        ("hostile::nothing_outside_is_reached_as_root", || nothing_outside_is_reached(As::Root)),
        ("hostile::nothing_outside_is_reached_unprivileged", || nothing_outside_is_reached(As::Unprivileged)),
    ]
}

/// What a step may do of all it tries: calls that reach its own files and processes alone.
const ALLOWED: [&str; 3] = ["chroot(\"/jail\")", "chroot(\".\")", "rename(path, \"/moved\")"];

fn nothing_outside_is_reached(user: As) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("hostile");
    compile("hostile.c", &["-static"], &program);
    // Everybody may write here, and a process of the step's own user runs outside: nothing but the sandbox is in the way.
    let outside = tempfile::Builder::new().prefix("cofferdam-victim-").tempdir().unwrap();
    fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let file = outside.path().join("file");
    fs::write(&file, "safe").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    let before = fs::metadata(&file).unwrap();
    let mut bystander = Program::new("setpriv");
    let id = if user == As::Root { step_user() } else { 1000 };
    bystander.args([format!("--reuid={id}"), format!("--regid={id}")]).args([
        "--clear-groups",
        "sleep",
        "1000",
    ]);
    let mut bystander = bystander.stdin(Stdio::null()).spawn().unwrap();

    let mut layers = base::layers("library/busybox:1");
    layers.push(base::programs(directory.path(), &[("hostile", &program)]));
    let arguments = ["/hostile".to_owned(), outside.path().display().to_string(), bystander.id().to_string()];
    let outcome = runner::run(user, &Scenario::new(layers, vec![Command::new(arguments)]));

    let alive = bystander.try_wait().unwrap().is_none();
    let state = fs::read_to_string(format!("/proc/{}/stat", bystander.id())).unwrap_or_default();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    let step = &outcome.steps[0];
    // The wall is the kernel's: where it has none, this test has nothing to say for the sandbox.
    assert_eq!(outcome.protection, "Full", "the kernel of this machine has no whole Landlock");
    assert_eq!(step.exit, Ending::Status(0), "{}{}", step.stdout, step.stderr);
    let past = step.stdout.contains("# past the guest: a directory was made\n");
    assert!(past && step.stdout.ends_with("# done\n"), "{}", step.stdout);
    let reached: Vec<&str> = step
        .stdout
        .lines()
        .filter(|line| line.ends_with(": done") && !ALLOWED.iter().any(|allowed| line.starts_with(allowed)))
        .collect();
    assert_eq!(reached, Vec::<&str>::new(), "{user:?}");

    let names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"], "{user:?}: the directory was changed");
    let after = fs::metadata(&file).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "safe", "{user:?}");
    let of = |of: &fs::Metadata| (of.ino(), of.nlink(), of.mode(), of.ctime(), of.ctime_nsec());
    assert_eq!(of(&before), of(&after), "{user:?}: the file was changed");
    assert!(alive && state.contains(") S "), "{user:?}: the process outside was reached: {state}");
}

/// Whom steps run as where the build is root.
fn step_user() -> u32 {
    let sandbox = cofferdam::sandbox::Sandbox::prepare(std::env::current_exe().unwrap()).unwrap();
    sandbox.findings().owner().uid
}
