//! Our side: the binary builds a case.

use super::answer;
use super::case::{BuildOption, Case, Context};
use super::files;
use super::images::{self, REGISTRY};
use super::support::{Cofferdam, Scratch};

/// The binary, and the state that the builds of an area share.
pub struct Ours(Cofferdam);

/// What a build came to.
#[derive(Debug)]
pub struct Ran {
    /// See [`answer`].
    pub lines: Vec<String>,
    /// What was said.
    pub stderr: String,
    pub status: Option<i32>,
}

impl Ours {
    pub fn new() -> Self {
        Self(Cofferdam::new())
    }

    pub fn build(&self, case: &Case, area: &str, number: usize) -> Ran {
        let directory = Scratch::new("conformance-");
        let context = directory.path().join("context");
        files::make(case, &context);
        let name = format!("ours/{area}-{number}:1");
        let mut command = self.0.command();
        command
            // A layer of an earlier case has the times of that one's files.
            .args(["build", "--push", "--no-cache", "--progress=plain"])
            .arg(format!("--tag={}", REGISTRY.reference(&name)))
            .arg(format!("--registry-mirror=docker.io=http://{}", REGISTRY.address()))
            .arg(format!("--file={}", context.join(&case.name).display()));
        for option in &case.options {
            match option {
                BuildOption::Arg(arg) => command.args(["--build-arg", arg]),
                BuildOption::Label(label) => command.args(["--label", label]),
                BuildOption::Target(stage) => command.args(["--target", stage]),
                BuildOption::Platform(platform) => command.args(["--platform", platform]),
                BuildOption::Secret(id, value) => {
                    let file = directory.path().join(format!("secret-{id}"));
                    std::fs::write(&file, value).unwrap();
                    command.arg(format!("--secret=id={id},src={}", file.display()))
                }
                BuildOption::Annotation(annotation) => command.args(["--annotation", annotation]),
                BuildOption::Context(name, place) => {
                    let place = match place {
                        Context::Directory(place) => context.join(place).display().to_string(),
                        Context::Address(address) => address.clone(),
                        Context::Target(stage) => format!("target:{stage}"),
                        Context::Layout(image) => {
                            format!("oci-layout://{}:it", images::layout(image, directory.path()).display())
                        }
                    };
                    command.arg(format!("--build-context={name}={place}"))
                }
            };
        }
        let output = command.arg(&context).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = match output.status.success() {
            true => answer::of_image(&REGISTRY, &name),
            false => vec![answer::of_error(place(&stderr))],
        };
        Ran { lines, stderr, status: output.status.code() }
    }
}

/// The line that the first error points at. Lines of steps and of progress do not begin so.
fn place(stderr: &str) -> Option<(usize, usize)> {
    let error = if stderr.starts_with("error") { 0 } else { stderr.find("\nerror")? };
    let (_, place) = stderr[error..].split_once(" --> ")?;
    let line = place.lines().next()?.rsplit(':').nth(1)?.parse().ok()?;
    Some((line, line))
}
