//! The command line as a user has it: what is said, what is written where, with which status the program ends. Nothing here
//! needs a build.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::Value;
use support::{Cofferdam, Registry};

const USER: &str = "robot";
const PASSWORD: &str = "open sesame";

/// What a command wrote and how it ended.
struct Ran {
    stdout: String,
    stderr: String,
    status: i32,
}

fn output(assert: assert_cmd::assert::Assert) -> Ran {
    let output = assert.get_output();
    Ran {
        stdout: String::from_utf8(output.stdout.clone()).unwrap(),
        stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        status: output.status.code().unwrap(),
    }
}

fn run(cofferdam: &Cofferdam, line: &[&str]) -> Ran {
    output(cofferdam.run(line))
}

fn registry() -> Registry {
    Registry::options().empty().user(USER, PASSWORD).start()
}

#[test]
fn help_of_every_command() {
    let cofferdam = Cofferdam::new();
    let mut text = String::new();
    let verbs = [
        "",
        "build",
        "render",
        "pull-secret",
        "rbac generate",
        "push",
        "copy",
        "inspect",
        "login",
        "logout",
        "images",
        "prune",
        "doctor",
        "validate",
        "completions",
        "version",
    ];
    for verb in verbs {
        let line: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let ran = run(&cofferdam, &line);
        assert_eq!((ran.status, &*ran.stderr), (0, ""), "{verb}");
        let widest = ran.stdout.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 110, "{verb}: {widest} columns");
        text.push_str(&format!("$ cofferdam {}\n{}\n", line.join(" "), ran.stdout));
    }
    insta::assert_snapshot!("help", text);
}

#[rstest]
#[case(&["build", "--buld-arg", "A=1"], "--build-arg")]
#[case(&["biuld"], "build")]
#[case(&["images", "--format", "jso"], "json")]
#[case(&["--progres=plain", "images"], "--progress")]
fn what_is_not_known_suggests_what_is(#[case] line: &[&str], #[case] meant: &str) {
    let ran = run(&Cofferdam::new(), line);
    assert_eq!((ran.status, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("similar") && ran.stderr.contains(meant), "{}", ran.stderr);
}

#[rstest]
#[case(&["--progress=tyt", "images"], "error: `--progress`: `tyt` is no form of progress", "help: did you mean `tty`?")]
#[case(&["build", "--parallel=0"], "error: `--parallel`: `0` is no number of stages", "")]
#[case(&["build", "-o", "type=ocl"], "error: `--output`: `ocl` is no type of output", "help: did you mean `oci`?")]
#[case(&["build", "--push"], "error: `--push`: there is no name to push to", "help: give one with `-t NAME`")]
#[case(&["push", "App"], "error: image name `App` must be lower case", "help: an image's name is")]
#[case(&["prune", "--older-than=7"], "error: `--older-than`: `7` is no age", "")]
#[case(&["login", "me"], "error: `me` is no registry", "help: give HOST")]
#[case(&["login", "-u", "me"], "error: there is no password to log in with", "help: give `--password-stdin`")]
#[case(&["login", "--password-stdin"], "error: there is no user to log in as", "help: name one with `-u NAME`")]
#[case(&["login", "-u", "me", "--password-stdin"], "error: there is no password to log in with", "help: standard input is empty")]
#[case(&["--config=/absent.toml", "images"], "error: cannot read `/absent.toml` (`--config`)", "because: ")]
fn wrong_settings_name_their_place(#[case] line: &[&str], #[case] message: &str, #[case] more: &str) {
    let ran = run(&Cofferdam::new(), line);
    assert_eq!((ran.status, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(message) && ran.stderr.contains(more), "{}", ran.stderr);
}

#[test]
fn a_wrong_setting_is_told_as_json_where_json_was_asked_for() {
    let cofferdam = Cofferdam::new();
    let mut command = cofferdam.command();
    let ran = output(
        command.env("COFFERDAM_PROGRESS", "json").env("COFFERDAM_PARALLEL", "x").arg("build").assert(),
    );
    let events: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [failed, ended] = &*events else { panic!("{}", ran.stderr) };
    assert_eq!((&failed["event"], &failed["kind"]), (&"failed".into(), &"usage".into()));
    assert_eq!((&ended["event"], &ended["status"]), (&"ended".into(), &2.into()));
    assert_eq!(ran.status, 2);
}

#[test]
fn variables_that_mean_nothing_are_told_of() {
    let cofferdam = Cofferdam::new();
    let mut command = cofferdam.command();
    let ran = output(command.env("COFFERDAM_STATEDIR", "/x").arg("images").assert());
    assert_eq!(ran.status, 0);
    assert!(
        ran.stderr.contains("warning: environment variable `COFFERDAM_STATEDIR` is no setting"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("did you mean `COFFERDAM_STATE_DIR`?"), "{}", ran.stderr);
}

#[test]
fn a_wrong_configuration_file_is_drawn() {
    let cofferdam = Cofferdam::new();
    let file = cofferdam.home().join("config.toml");
    fs::write(&file, "progress = \"plain\"\nparalel = 3\n").unwrap();
    let ran = run(&cofferdam, &["--config", file.to_str().unwrap(), "images"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("config.toml:2:1") && ran.stderr.contains("`parallel`"), "{}", ran.stderr);
}

#[rstest]
#[case("bash", "complete -F _cofferdam")]
#[case("zsh", "#compdef cofferdam")]
#[case("fish", "complete -c cofferdam")]
fn completions(#[case] shell: &str, #[case] marker: &str) {
    let ran = run(&Cofferdam::new(), &["completions", shell]);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
    assert!(ran.stdout.contains(marker) && ran.stdout.contains("require-isolation"), "{shell}");
}

#[rstest]
#[case(&["version"])]
#[case(&["--version"])]
#[case(&["-V"])]
#[case::whatever_is_configured(&["--config=/absent.toml", "version"])]
fn version(#[case] line: &[&str]) {
    let ran = run(&Cofferdam::new(), line);
    assert_eq!(
        (ran.status, &*ran.stdout, &*ran.stderr),
        (0, concat!("cofferdam ", env!("CARGO_PKG_VERSION"), "\n"), "")
    );
}

#[test]
fn nobody_has_to_read_the_whole_result() {
    let mut child = Command::new(Cofferdam::binary())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[test]
fn an_empty_store() {
    let cofferdam = Cofferdam::new();
    let ran = run(&cofferdam, &["images"]);
    assert_eq!((ran.status, &*ran.stdout, &*ran.stderr), (0, "NAME  DIGEST  SIZE  CREATED\n", ""));
    let ran = run(&cofferdam, &["images", "--format=json"]);
    assert_eq!((ran.status, &*ran.stdout), (0, "[]\n"));
    let ran = run(&cofferdam, &["prune", "--all"]);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
    assert_eq!(
        ran.stdout,
        "freed 0 B: 0 blobs, 0 cache records, 0 cache mounts, 0 unfinished downloads, 0 root filesystems; 0 B left\n"
    );
    assert!(cofferdam.home().join(".local/share/cofferdam/oci-layout").exists());
}

#[test]
fn a_prune_removes_what_is_loose_and_counts_it() {
    let cofferdam = Cofferdam::new();
    run(&cofferdam, &["images"]);
    let blobs = cofferdam.home().join(".local/share/cofferdam/blobs/sha256");
    fs::write(blobs.join("a".repeat(64)), [0; 2500]).unwrap();
    let ran = run(&cofferdam, &["prune", "--format=json"]);
    let freed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&freed["blobs"], &freed["freed_bytes"]), (&1.into(), &2500.into()), "{}", ran.stdout);
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
}

#[test]
fn a_state_directory_that_cannot_be_is_a_matter_of_the_store() {
    let ran = run(&Cofferdam::new(), &["images", "--state-dir=/proc/none"]);
    assert_eq!((ran.status, &*ran.stdout), (8, ""));
    assert!(
        ran.stderr.contains("the state directory `/proc/none` (`--state-dir`) cannot be used"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("help: name a directory that may be written to"), "{}", ran.stderr);
}

fn login(cofferdam: &Cofferdam, registry: &Registry, password: &str, more: &[&str]) -> Ran {
    let mut command = cofferdam.command();
    command.args(["login", registry.address(), "-u", USER, "--password-stdin"]).args(more);
    output(command.write_stdin(format!("{password}\n")).assert())
}

fn config(cofferdam: &Cofferdam) -> PathBuf {
    cofferdam.home().join(".docker/config.json")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_login_is_checked_and_kept_where_docker_looks() {
    let (cofferdam, registry) = (Cofferdam::new(), registry());
    let file = config(&cofferdam);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, r#"{"proxies":{"default":{}},"auths":{"s.example":{"auth":"eDp5"}}}"#).unwrap();

    let ran = login(&cofferdam, &registry, PASSWORD, &[]);
    assert_eq!((ran.status, &*ran.stdout), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("logged in to {}", registry.address())), "{}", ran.stderr);
    assert!(!ran.stderr.contains(PASSWORD));
    let kept = json(&file);
    assert_eq!(kept["auths"][registry.address()]["auth"], "cm9ib3Q6b3BlbiBzZXNhbWU=");
    assert_eq!(
        (&kept["proxies"], &kept["auths"]["s.example"]["auth"]),
        (&serde_json::json!({"default":{}}), &"eDp5".into())
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let ran = run(&cofferdam, &["logout", registry.address()]);
    assert_eq!((ran.status, &*ran.stdout), (0, ""), "{}", ran.stderr);
    assert_eq!(json(&file)["auths"], serde_json::json!({"s.example":{"auth":"eDp5"}}));
    let ran = run(&cofferdam, &["logout", registry.address()]);
    assert!(ran.status == 0 && ran.stderr.contains("there was no login"), "{}", ran.stderr);
}

#[test]
fn a_wrong_password_is_refused_and_not_kept() {
    let (cofferdam, registry) = (Cofferdam::new(), registry());
    let ran = login(&cofferdam, &registry, "open barley", &["--progress=json"]);
    assert_eq!((ran.status, &*ran.stdout), (7, ""), "{}", ran.stderr);
    let failed: Value = serde_json::from_str(ran.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(failed["kind"], "credentials");
    let message = failed["message"].as_str().unwrap();
    for part in [registry.address(), "401", "credentials: standard input"] {
        assert!(message.contains(part), "`{part}` in {message}");
    }
    let hints = failed["hints"].to_string();
    assert!(hints.contains(&format!("cofferdam doctor {}", registry.address())), "{hints}");
    assert!(!ran.stderr.contains("barley") && !config(&cofferdam).exists());
}

#[test]
fn a_login_through_an_authority_of_ones_own() {
    let cofferdam = Cofferdam::new();
    let registry = Registry::options().empty().user(USER, PASSWORD).tls().start();
    let ran = login(&cofferdam, &registry, PASSWORD, &[]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("--registry-ca {}=FILE", registry.address())), "{}", ran.stderr);
    assert!(!config(&cofferdam).exists());
    let ran =
        login(&cofferdam, &registry, PASSWORD, &["--registry-ca", registry.ca().unwrap().to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(config(&cofferdam).exists());
}

#[test]
fn doctor_runs_a_step_and_says_so() {
    let ran = run(&Cofferdam::new(), &["doctor", "--format=json"]);
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "{}", ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["usable"], &report["trial"]["good"]), (&true.into(), &true.into()), "{}", ran.stdout);
    assert!(report["state"]["directory"].as_str().unwrap().ends_with(".local/share/cofferdam"));
    assert!(report["state"]["file_system"]["free_bytes"].as_u64().unwrap() > 0);
    assert!(
        report["machine"]["findings"].as_array().unwrap().iter().any(|finding| finding["name"] == "Landlock")
    );
    let emulators = report["machine"]["emulators"]["found"].as_array().unwrap();
    let arm64 = emulators.iter().find(|emulator| emulator["architecture"] == "arm64").unwrap();
    assert_eq!(arm64["path"], "/usr/bin/qemu-aarch64-static");
    assert_eq!(report["hosts"], serde_json::json!([]));
}

#[test]
fn doctor_runs_a_step_without_any_privilege() {
    let ran = run(&Cofferdam::as_uid(4711), &["doctor"]);
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("ok    trial: a step was run") && ran.stdout.contains("uid 4711"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.ends_with("Builds work here, `RUN` steps included.\n"), "{}", ran.stdout);
}

#[test]
fn doctor_fails_where_no_step_can_be_run() {
    let cofferdam = Cofferdam::new();
    // Fewer descriptors than the sandbox needs, and no way to have more.
    let output = Command::new("prlimit")
        .arg("--nofile=512:512")
        .arg(Cofferdam::binary())
        .args(["doctor", "--state-dir"])
        .arg(cofferdam.home().join("state"))
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(9), "{stdout}{stderr}");
    assert!(stdout.contains("FAIL  descriptors: the limit is 512"), "{stdout}");
    assert!(stderr.contains("error: `RUN` steps cannot be run on this machine"), "{stderr}");
}

#[test]
fn doctor_tries_the_registries_that_are_named() {
    let (cofferdam, registry) = (Cofferdam::new(), registry());
    let doctor = || {
        let ran = run(&cofferdam, &["doctor", "--format=json", registry.address()]);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        (ran.status, report["hosts"][0].clone())
    };
    let (status, host) = doctor();
    assert_eq!(status, 0, "a registry is no matter of the machine");
    assert_eq!(
        (&host["answers"][0]["reachable"], &host["answers"][0]["accepted"]),
        (&true.into(), &false.into())
    );
    assert_eq!(host["credentials"], "none found");

    login(&cofferdam, &registry, PASSWORD, &[]);
    let (_, host) = doctor();
    assert_eq!(host["answers"][0]["accepted"], true, "{host}");
    assert!(host["credentials"].as_str().unwrap().contains(".docker/config.json"), "{host}");
    let used: Vec<&Value> =
        host["places"].as_array().unwrap().iter().filter(|place| place["used"] == true).collect();
    assert_eq!(used.len(), 1, "{host}");

    // Nobody listens there: the text says so, and what to look at.
    let ran = run(&cofferdam, &["doctor", "127.0.0.1:1"]);
    assert!(ran.stdout.contains("FAIL  cannot log in to `127.0.0.1:1`"), "{}", ran.stdout);
    assert!(ran.stdout.contains("help: check that `127.0.0.1:1` is spelled rightly"), "{}", ran.stdout);
}

/// A prune that waits for a build, held up here by whoever holds the store's lock.
fn waiting(cofferdam: &Cofferdam) -> (std::process::Child, fs::File) {
    let state = cofferdam.home().join("state");
    run(cofferdam, &["images", "--state-dir", state.to_str().unwrap()]);
    let lock = fs::File::open(state.join("cofferdam/in-use")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let child = Command::new(Cofferdam::binary())
        .args(["prune", "--wait=1h", "--state-dir"])
        .arg(&state)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, lock)
}

#[rstest]
#[case("TERM", 143)]
#[case("INT", 130)]
fn a_signal_ends_a_command_in_good_order(#[case] signal: &str, #[case] status: i32) {
    let cofferdam = Cofferdam::new();
    let (child, lock) = waiting(&cofferdam);
    let listens = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        // SIGTERM is 15: the bit before it.
        u64::from_str_radix(caught, 16).unwrap() & (1 << 14) != 0
    };
    let begun = Instant::now();
    while !listens() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not listen to signals");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(status), &b""[..]), "{stderr}");
    assert!(stderr.contains(&format!("error: cancelled by SIG{signal}")), "{stderr}");
    drop(lock);
}

#[test]
fn a_store_in_use_is_not_pruned() {
    let cofferdam = Cofferdam::new();
    let (mut child, _lock) = waiting(&cofferdam);
    child.kill().unwrap();
    child.wait().unwrap();
    let state = cofferdam.home().join("state");
    let ran = run(&cofferdam, &["prune", "--state-dir", state.to_str().unwrap()]);
    assert_eq!(ran.status, 8, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("is in use by a running build") && ran.stderr.contains("--wait"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_full_standard_output_is_told() {
    let output = Command::new(Cofferdam::binary())
        .arg("version")
        .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(12));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot write to standard output"), "{stderr}");
}
