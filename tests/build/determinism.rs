//! Same input, same digest: whoever builds, with whatever privilege, umask, time zone and number of threads.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::{Cofferdam, Registry, layers};
use crate::{context, run};

/// Everything that a machine could leave a trace of itself in: owners, modes, devices, users, links, attributes.
const DOCKERFILE: &str = r#"
FROM debian:bookworm-slim
WORKDIR /srv/app
COPY . .
COPY --chown=games:100 --chmod=u+s script.sh /usr/local/bin/
ADD data /data
RUN groupadd -g 900 team && useradd -u 900 -g 900 -m -s /bin/sh worker
RUN chown -R worker:team /srv/app && chmod 2775 /srv/app && chmod u+s /bin/true
RUN mknod /dev0 c 1 3 && mkfifo /pipe && ln -s nowhere /link && ln /pipe /pipe2 && rm /etc/issue
USER worker
RUN mkdir ~/made && echo content > ~/made/file && umask > ~/umask && mkdir -m 700 ~/private
"#;

pub fn input() -> tempfile::TempDir {
    let directory = context(
        DOCKERFILE,
        &[("a.txt", "a\n"), ("script.sh", "#!/bin/sh\n"), ("data/one", "1\n"), ("data/deep/er/two", "2\n")],
    );
    for path in walk(directory.path()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    directory
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let below = if path.is_dir() { walk(&path) } else { Vec::new() };
            std::iter::once(path).chain(below)
        })
        .collect()
}

/// One way of building.
pub struct Way {
    name: &'static str,
    uid: Option<u32>,
    umask: &'static str,
    environment: &'static [(&'static str, &'static str)],
    parallel: &'static str,
    touched: bool,
}

pub const PLAIN: Way =
    Way { name: "plain", uid: None, umask: "022", environment: &[], parallel: "2", touched: false };

const WAYS: [Way; 7] = [
    Way { name: "again, from nothing", ..PLAIN },
    Way { name: "unprivileged", uid: Some(1000), ..PLAIN },
    Way { name: "umask 000, one thread", umask: "000", parallel: "1", ..PLAIN },
    Way {
        name: "unprivileged, umask 077, eight threads",
        uid: Some(1000),
        umask: "077",
        parallel: "8",
        ..PLAIN
    },
    Way {
        name: "elsewhere on earth",
        environment: &[("TZ", "Pacific/Chatham"), ("LC_ALL", "C.UTF-8"), ("LANG", "de_DE"), ("USER", "me")],
        ..PLAIN
    },
    Way { name: "touched files", touched: true, ..PLAIN },
    Way { name: "another user", uid: Some(4711), umask: "027", touched: true, ..PLAIN },
];

/// Builds the input in one way and pushes it as `name`.
pub fn digest(way: &Way, registry: &Registry, name: &str) -> String {
    let cofferdam = way.uid.map_or_else(Cofferdam::new, Cofferdam::as_uid);
    let directory = input();
    if way.touched {
        let then = SystemTime::now() - Duration::from_hours(1000);
        for path in walk(directory.path()) {
            std::fs::File::open(path).unwrap().set_modified(then).unwrap();
        }
    }
    // The umask is set by a shell between the test and the program.
    let inner = cofferdam.command();
    let mut command = assert_cmd::Command::new("sh");
    command.env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.current_dir(cofferdam.user().map_or_else(|| cofferdam.home(), |user| user.directory("work")));
    command.envs(way.environment.iter().copied()).env("SOURCE_DATE_EPOCH", "1700000000");
    command.args(["-c", &format!("umask {} && exec \"$@\"", way.umask), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.args(["build", "--progress=plain", "--push", "--parallel", way.parallel]);
    command.args(["--tag", &registry.reference(name), "--insecure-registry", registry.address()]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    run(&mut command).succeeded().digest().to_owned()
}

#[test]
fn the_digest_depends_on_the_input_alone() {
    let registry = Registry::start();
    let expected = digest(&PLAIN, &registry, "same/plain:1");
    assert!(expected.starts_with("sha256:"), "{expected}");
    for way in &WAYS {
        let made = digest(way, &registry, "same/other:1");
        // The layers first: they say what differs.
        assert_eq!(layers(&registry, "same/other:1"), layers(&registry, "same/plain:1"), "{}", way.name);
        assert_eq!(made, expected, "{}", way.name);
    }
}

#[test]
fn without_a_date_only_times_differ() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let directory = input();
    for name in ["one:1", "two:1"] {
        let tag = format!("--tag={}", registry.reference(name));
        let args = [&*tag, "--push", "--no-cache"];
        crate::build(&cofferdam, &registry, directory.path(), &args).succeeded();
    }
    let plain = |name: &str| {
        let mut layers = crate::support::layers(&registry, name);
        layers.iter_mut().flat_map(|layer| layer.values_mut()).for_each(|node| node.mtime = 0);
        layers
    };
    assert_eq!(plain("one:1"), plain("two:1"));
}
