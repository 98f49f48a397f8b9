//! Builds that are killed at any moment leave nothing that a later build, or a reader of the registry, could trip over.
//!
//! `KILLS=200` runs the campaign at full size; see `docs/campaigns.md`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::faults::{nothing_is_left, state_directory};
use crate::support::{Cofferdam, Registry};
use crate::{build, context, run};

/// In an ordinary run of the tests.
const FEW: u32 = 12;

const DOCKERFILE: &str = "\
FROM busybox:1 AS one
RUN for i in $(seq 200); do echo $i > /file$i; done
COPY . /context/
FROM python:3.9-slim
COPY --from=one / /one/
RUN python -c 'import os; [open(f\"/tmp/{n}\", \"wb\").write(os.urandom(100000)) for n in range(50)]'
WORKDIR /made
RUN ln /tmp/1 /made/hard && chown -R 1000 /made && rm /tmp/2
";

#[test]
fn killed_builds_leave_nothing_in_the_way() {
    let kills = std::env::var("KILLS").map_or(FEW, |count| count.parse().unwrap());
    let registry = Registry::start();
    let directory = context(DOCKERFILE, &[("a", "1"), ("b/c", "2")]);
    std::fs::write(directory.path().join("large"), vec![7; 3 << 20]).unwrap();
    for cofferdam in [Cofferdam::new(), Cofferdam::as_uid(1000)] {
        let whole = Cofferdam::new();
        let began = Instant::now();
        build(&whole, &registry, directory.path(), &["--no-cache"]).succeeded();
        let whole = began.elapsed();
        let state = state_directory(&cofferdam);
        for number in 0..kills / 2 {
            let name = registry.reference(&format!("killed/x:{number}"));
            // From the first moment to the last; every third begins from nothing.
            if number % 3 == 0 {
                let _ = std::fs::remove_dir_all(&state);
            }
            let after = whole.mul_f64(fastrand::f64() * 1.1);
            kill_one(&cofferdam, &registry, directory.path(), &name, after);
            // A name that is on the registry names a whole image.
            if registry.digest(&format!("killed/x:{number}")).is_some() {
                let another = Cofferdam::new();
                run(another.command().args(["validate", &name])).succeeded();
            }
        }
        let name = registry.reference("killed/x:last");
        let tag = format!("--tag={name}");
        build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]).succeeded();
        run(cofferdam.command().args(["validate", &name])).succeeded();
        run(cofferdam.command().arg("validate").arg(&state)).succeeded();
        // What killed builds left is cleared away by those that follow.
        nothing_is_left(&state);
    }
}

fn kill_one(
    cofferdam: &Cofferdam,
    registry: &Registry,
    context: &std::path::Path,
    name: &str,
    after: Duration,
) {
    let mut child = cofferdam
        .process()
        .args(["build", "--push", "--quiet", &format!("--tag={name}")])
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .arg(context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    // setpriv has become the program: the same process.
    child.kill().unwrap();
    child.wait().unwrap();
}
