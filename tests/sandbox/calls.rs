//! `calls.c`, a program of some 560 system calls that says what each gave, beside the kernel's answers: linked
//! statically, and dynamically with the C library of the image.

use std::path::Path;
use std::process::Command;

use crate::programs::{Comparison, compare};
use crate::runner::As;
use crate::scenario::{self, Scenario};
use crate::{Test, base, native, runner};

pub fn tests() -> Vec<Test> {
    vec![("calls::answer_as_the_kernel_does_a_containers_root", calls_answer_as_the_kernel_does)]
}

/// Compiles a program of this directory.
///
/// # Panics
/// If there is no compiler.
pub fn compile(source: &str, options: &[&str], to: &Path) {
    compile_with("gcc", source, options, to);
}

/// The same with a compiler for another machine.
///
/// # Panics
/// If there is no such compiler.
pub fn compile_with(compiler: &str, source: &str, options: &[&str], to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox").join(source);
    let mut gcc = Command::new(compiler);
    gcc.args(["-O1", "-w", "-pthread"]).args(options).arg("-o").arg(to).arg(source);
    assert!(gcc.status().expect("gcc").success(), "{gcc:?} has failed");
}

fn calls_answer_as_the_kernel_does() {
    let directory = tempfile::tempdir().unwrap();
    let (linked, loaded) = (directory.path().join("static"), directory.path().join("dynamic"));
    compile("calls.c", &["-static"], &linked);
    compile("calls.c", &[], &loaded);
    let mut layers = base::layers("library/debian:bookworm-slim");
    layers.push(base::programs(directory.path(), &[("calls-static", &linked), ("calls-dynamic", &loaded)]));
    let remove = ["/bin/rm", "-rf", "/t"];
    let commands: [&[&str]; 3] = [&["/calls-static"], &remove, &["/calls-dynamic"]];
    let steps = commands.map(|arguments| scenario::Command::new(arguments.iter().copied())).into();
    let scenario = Scenario::new(layers, steps);
    let expected = native::run(&scenario);
    for (index, what) in [(0, "static"), (2, "dynamic")] {
        let said = expected.steps[index].stdout.lines().collect::<Vec<_>>();
        assert!(said.len() > 500 && said.last() == Some(&"# done"), "{what}, natively: {said:#?}");
    }
    for user in [As::Root, As::Unprivileged] {
        let outcome = runner::run(user, &scenario);
        let mut differences = Vec::new();
        for (index, (expected, found)) in expected.steps.iter().zip(&outcome.steps).enumerate() {
            let what = format!("{user:?}, step {index}");
            differences.extend(compare(&what, expected, found, &Comparison::default()));
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
