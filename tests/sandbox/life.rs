//! How steps begin and end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::runner::As;
use crate::scenario::{Change, Command, Ending, Scenario, StepOutcome};
use crate::support::{BuildKit, eventually};
use crate::{Test, base, runner};

pub fn tests() -> Vec<Test> {
    vec![
        ("life::a_step_ends_as_its_first_process_does", steps_end_as_their_first_process),
        ("life::what_cannot_be_started_is_an_error", what_cannot_be_started),
        ("life::an_image_without_mount_points_gets_what_buildkit_gives_it", mount_points_are_given),
        ("life::output_is_whole", output_is_whole),
        ("life::a_step_gets_its_environment_and_nothing_else", environment_is_the_steps),
        ("life::what_a_step_leaves_running_is_ended", leftovers_are_ended),
        ("life::a_killed_step_ends_with_all_it_started", killed_steps_end),
        ("life::a_step_ends_with_the_build", steps_end_with_the_build),
    ]
}

const USERS: [As; 2] = [As::Root, As::Unprivileged];

fn scenario(steps: Vec<Command>) -> Scenario {
    Scenario::new(base::layers("library/busybox:1"), steps)
}

fn run(user: As, steps: Vec<Command>) -> Vec<StepOutcome> {
    runner::run(user, &scenario(steps)).steps
}

/// Command lines of this machine's processes that have `marker` in them.
fn processes_with(marker: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(marker))
        .collect()
}

/// A number of seconds to sleep for that no other test sleeps for.
fn marker() -> String {
    format!("1{}", fastrand::u32(100_000..1_000_000))
}

fn steps_end_as_their_first_process() {
    let cases = [
        ("true", Ending::Status(0)),
        ("exit 7", Ending::Status(7)),
        ("exit 255", Ending::Status(255)),
        ("kill -TERM $$", Ending::Signal(15)),
        ("kill -KILL $$", Ending::Signal(9)),
        ("sh -c 'kill -INT $$'; exit $(($? - 128))", Ending::Status(2)),
        ("trap 'exit 3' USR1; kill -USR1 $$; exit 4", Ending::Status(3)),
        ("(sleep 0.1; exit 9) & wait $!", Ending::Status(9)),
        ("no-such-command", Ending::Status(127)),
        ("/etc/passwd", Ending::Status(126)),
        ("timeout 1 sleep 100; [ $? = 143 ] || [ $? = 124 ]", Ending::Status(0)),
        ("timeout -s KILL 1 sh -c 'sleep 100 | sleep 100'; echo ended", Ending::Status(0)),
        (
            "set -m; sleep 100 & kill -STOP %1; kill -CONT %1; kill %1; wait %1; [ $? = 143 ]",
            Ending::Status(0),
        ),
    ];
    for user in USERS {
        let outcomes = run(user, cases.iter().map(|(script, _)| Command::shell(script)).collect());
        for ((script, expected), outcome) in cases.iter().zip(outcomes) {
            assert_eq!(outcome.exit, *expected, "{user:?}: {script}: {}", outcome.stderr);
        }
    }
}

fn what_cannot_be_started() {
    let cases = [
        ("/no/such/program", "No such file or directory"),
        ("no-such-program", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/etc", "Permission denied"),
        ("/tmp/text", "Exec format error"),
        ("/tmp/interpreter", "No such file or directory"),
    ];
    for user in USERS {
        let script = "echo text > /tmp/text; echo '#!/no/such' > /tmp/interpreter; chmod 755 /tmp/*";
        let mut steps = vec![Command::shell(script)];
        steps.extend(cases.iter().map(|(program, _)| Command::new([*program])));
        // The sandbox goes on: after a step that could not be started comes one that can.
        steps.push(Command::new(["true"]));
        let outcomes = run(user, steps);
        for ((program, reason), outcome) in cases.iter().zip(&outcomes[1..]) {
            let Ending::NotStarted(found) = &outcome.exit else { panic!("{user:?}: {program}: {outcome:?}") };
            assert!(found.starts_with(reason), "{user:?}: {program}: {found}");
            assert_eq!(outcome.changes, BTreeMap::new(), "{program}");
        }
        assert_eq!(outcomes.last().unwrap().exit, Ending::Status(0));
    }
}

fn mount_points_are_given() {
    let context = tempfile::tempdir().unwrap();
    let busybox = Path::new("/bin/busybox");
    std::fs::copy(busybox, context.path().join("busybox")).unwrap();
    let dockerfile = "FROM scratch\nCOPY busybox /etc/busybox\nRUN [\"/etc/busybox\", \"true\"]\n\
                      RUN [\"/etc/busybox\", \"touch\", \"/new\"]\n";
    std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    let image = context.path().join("image.tar");
    let buildkit = BuildKit::start(&[]);
    buildkit
        .build(context.path())
        .option(&format!("--output=type=oci,dest={}", image.display()))
        .run()
        .unwrap();
    let expected = base::entries_of_archive(&image);
    // The first layer is the copy.
    let expected = &expected[1..];
    assert!(expected[0].iter().any(|entry| entry == "/dev 755 0:0"), "{expected:?}");

    let layer = base::programs(context.path(), &[("etc/busybox", busybox)]);
    let steps = vec![Command::new(["/etc/busybox", "true"]), Command::new(["/etc/busybox", "touch", "/new"])];
    for user in USERS {
        let outcomes = runner::run(user, &Scenario::new(vec![layer.clone()], steps.clone())).steps;
        for (outcome, expected) in outcomes.iter().zip(expected) {
            assert_eq!(outcome.exit, Ending::Status(0), "{}", outcome.stderr);
            let entry = |(path, change): (&String, &Change)| match change {
                Change::Is(seen) => format!("{path} {:o} {}:{}", seen.mode, seen.uid, seen.gid),
                Change::Removed => format!("{path} removed"),
            };
            assert_eq!(outcome.changes.iter().map(entry).collect::<Vec<_>>(), *expected, "{user:?}");
        }
        assert_eq!(outcomes.len(), expected.len());
    }
}

fn output_is_whole() {
    let script = "head -c 3000000 /dev/zero | tr '\\0' o; head -c 2000000 /dev/zero | tr '\\0' e >&2; \
                  echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr; (sleep 0.2; echo last)";
    for user in USERS {
        let outcome = &run(user, vec![Command::shell(script)])[0];
        assert_eq!(outcome.exit, Ending::Status(0));
        assert_eq!(outcome.stdout, "o".repeat(3_000_000) + "to-stdout\nlast\n", "{user:?}");
        assert_eq!(outcome.stderr, "e".repeat(2_000_000) + "to-stderr\n", "{user:?}");
    }
}

fn environment_is_the_steps() {
    let script = "cat /proc/self/environ | tr '\\0' '\\n' | grep -v -e ^PWD= -e ^SHLVL= | sort; ls /proc/self/fd; readlink /proc/self/fd/0; hostname; \
                  umask; pwd; cat /proc/1/environ /proc/$PPID/environ 2>/dev/null | wc -c; grep -c . /proc/self/mounts";
    for user in USERS {
        let mut command = Command::shell(script);
        command.environment = [("PATH", "/bin"), ("ONE", "1 one"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let outcome = &run(user, vec![command])[0];
        assert_eq!(outcome.exit, Ending::Status(0), "{outcome:?}");
        let expected = "EMPTY=\nONE=1 one\nPATH=/bin\n0\n1\n2\n3\n/dev/null\ncofferdam\n0022\n/\n0\n7\n";
        assert_eq!(outcome.stdout, expected, "{user:?}: {}", outcome.stderr);
    }
}

fn leftovers_are_ended() {
    for user in USERS {
        let marker = marker();
        let script = format!(
            "sleep {marker} & setsid sleep {marker} & (trap '' TERM HUP; setsid sh -c 'sleep {marker}; :' &) ; \
             ps | grep -c '[s]leep {marker}'; exit 5"
        );
        let outcome = &run(user, vec![Command::shell(&script)])[0];
        assert_eq!(outcome.exit, Ending::Status(5), "{user:?}");
        assert!(outcome.took < 10_000, "{user:?}: {} ms", outcome.took);
        assert_eq!(processes_with(&marker), Vec::<String>::new(), "{user:?}");
    }
}

fn killed_steps_end() {
    for user in USERS {
        let marker = marker();
        let script = format!("trap '' TERM INT HUP; setsid sleep {marker} & sleep {marker}; sleep {marker}");
        let command = Command { limit: 1, ..Command::shell(&script) };
        let outcome = &run(user, vec![command])[0];
        assert_eq!(outcome.exit, Ending::Signal(9), "{user:?}");
        assert!(outcome.took < 10_000, "{user:?}: {} ms", outcome.took);
        assert_eq!(processes_with(&marker), Vec::<String>::new(), "{user:?}");
    }
}

fn steps_end_with_the_build() {
    for user in USERS {
        let marker = marker();
        let script = format!("trap '' TERM INT HUP; setsid sleep {marker} & sleep {marker}");
        let mut build = runner::start(user, &scenario(vec![Command::shell(&script)]), Stdio::null());
        let limit = Duration::from_secs(30);
        eventually("both processes of the step", limit, || {
            match processes_with(&format!("sleep\0{marker}")) {
                found if found.len() == 2 => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
        build.child.kill().unwrap();
        build.child.wait().unwrap();
        eventually("the end of the step", limit, || match processes_with(&marker) {
            found if found.is_empty() => Ok(()),
            found => Err(format!("{user:?}: {found:?}")),
        });
    }
}
