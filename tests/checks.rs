//! What `build --check` and `--call` say of Dockerfiles, against what BuildKit says: `testdata/checks`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};
use support::{BuildKit, Cofferdam, Registry, testdata};

/// Cases that are answered otherwise on purpose: what is answered here, and why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (
        "an unterminated heredoc",
        r#"{"error":"2-3","found":["FromAsCasing 1 https://docs.docker.com/go/dockerfile/rule/from-as-casing/"]}"#,
        "what stands before a heredoc without an end is checked as what stands before any other mistake",
    ),
    (
        "a directive that is given twice",
        r#"{"error":"2","found":[]}"#,
        "lines of directives are counted from 1 like all others; BuildKit counts from 0 there",
    ),
    (
        "a mistake in a stage that the target does not need",
        r#"{"found":[]}"#,
        "such stages are not looked at in builds, and so not here if a target is named",
    ),
    (
        "a step with privileges",
        r#"{"error":"2","found":[]}"#,
        "no step is run with privileges, so the Dockerfile cannot be built",
    ),
    (
        "triggers in a stage that nothing needs",
        r#"{"found":["JSONArgsRecommended 3 https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"]}"#,
        "where all stages are checked, triggers belong to each; BuildKit knows those of the last stage's bases alone",
    ),
    (
        "another platform",
        r#"{"found":[]}"#,
        "the platform that is asked for counts; BuildKit checks for that of its own machine",
    ),
    (
        "a named context takes the place of a stage",
        r#"{"found":["WorkdirRelativePath 4 https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"]}"#,
        "the instructions of a stage whose place something else takes are not carried out, so they are not checked",
    ),
    (
        "outline of caches",
        r#"{"cache":[{"ID":"/var/cache/x","location":"2"},{"ID":"named","location":"2"}],"name":"build"}"#,
        "BuildKit has a field for cache mounts and leaves it empty",
    ),
];

/// Images that cases are built upon: name, platform, Dockerfile.
const IMAGES: [(&str, &str, &str); 3] = [
    ("checks-shell:1", "linux/amd64", "FROM busybox:1\nSHELL [\"/bin/ash\", \"-c\"]\n"),
    (
        "checks-onbuild:1",
        "linux/amd64",
        "FROM busybox:1\nONBUILD ARG LATER=$UNSET\nONBUILD COPY secret.key /\nONBUILD WORKDIR x\nONBUILD CMD y\n",
    ),
    ("checks-arm:1", "linux/arm64", "FROM scratch\nCOPY app /app\n"),
];

/// A registry with the images, and a program that asks it.
struct Scene {
    registry: Registry,
    cofferdam: Cofferdam,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let scene = Scene { registry: Registry::start(), cofferdam: Cofferdam::new() };
    for (name, platform, dockerfile) in IMAGES {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("app"), "app\n").unwrap();
        fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
        let pushed = format!("{}/library/{name}", scene.registry.address());
        let mut command = scene.build();
        command.args(["--push", "--platform", platform, "-t", &pushed]).arg(directory.path());
        command.assert().success();
    }
    scene
});

impl Scene {
    fn build(&self) -> assert_cmd::Command {
        let mut command = self.cofferdam.command();
        let mirror = format!("--registry-mirror=docker.io=http://{}", self.registry.address());
        command.args(["build", "--progress=plain", &mirror]);
        command
    }
}

/// A Dockerfile and what is asked of it.
struct Case {
    title: String,
    request: String,
    /// Options of BuildKit's frontend.
    options: BTreeMap<String, String>,
    ignore: String,
    text: String,
}

fn cases() -> Vec<Case> {
    let file = fs::read_to_string(testdata("checks").join("cases.txt")).unwrap();
    let read = |case: &str| {
        let (title, text) = case.split_once('\n').unwrap();
        let mut case = Case {
            title: title.to_owned(),
            request: "lint".to_owned(),
            options: BTreeMap::new(),
            ignore: String::new(),
            text: String::new(),
        };
        for line in text.lines() {
            match line.strip_prefix("@ ").map(|option| option.split_once(' ').unwrap()) {
                Some(("request", request)) => case.request = request.to_owned(),
                Some(("ignore", pattern)) => case.ignore.push_str(&format!("{pattern}\n")),
                Some((name, value)) => drop(case.options.insert(name.to_owned(), value.to_owned())),
                None => case.text.push_str(&format!("{}\n", line.replace("CR", "\r"))),
            }
        }
        case
    };
    file.split("===== ").skip(1).map(read).collect()
}

impl Case {
    /// A context with the Dockerfile.
    fn context(&self, parent: &Path, number: usize) -> PathBuf {
        let directory = parent.join(number.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("Dockerfile"), &self.text).unwrap();
        if !self.ignore.is_empty() {
            fs::write(directory.join(".dockerignore"), &self.ignore).unwrap();
        }
        directory
    }

    /// What cofferdam answers.
    fn ask(&self, context: &Path) -> Value {
        let mut command = SCENE.build();
        let method = if self.request == "lint" { "check" } else { &self.request };
        command.arg(format!("--call={method},format=json"));
        for (name, value) in &self.options {
            match name.split_once(':') {
                Some(("build-arg", name)) => command.args(["--build-arg", &format!("{name}={value}")]),
                Some(("context", name)) => command.args(["--build-context", &format!("{name}={value}")]),
                _ => command.args([&format!("--{name}"), value]),
            };
        }
        let output = command.arg(context).output().unwrap();
        let status = output.status.code().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.stdout.is_empty() {
            assert!(status != 0, "{}: {told}", self.title);
            return json!({ "error": true });
        }
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = !result["warnings"].as_array().is_none_or(Vec::is_empty);
        assert_eq!(status != 0, found || result.get("buildError").is_some(), "{}: {told}", self.title);
        normal(&self.request, &result)
    }
}

/// The lines of a location: `3`, `3-5`; nothing if it has none.
fn lines(location: &Value) -> String {
    let ranges = location["ranges"].as_array().cloned().unwrap_or_default();
    let line = |range: &Value| range["start"]["line"].as_u64().unwrap_or(0);
    match (ranges.first(), ranges.last()) {
        (Some(first), Some(last)) if line(first) < line(last) => format!("{}-{}", line(first), line(last)),
        (Some(first), _) => line(first).to_string(),
        _ => String::new(),
    }
}

/// An answer without what is everybody's own.
fn normal(request: &str, result: &Value) -> Value {
    let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
    if request == "lint" {
        let one = |warning: &Value| {
            let text = |key: &str| warning[key].as_str().unwrap_or_default().to_owned();
            assert!(!text("description").is_empty() && !text("detail").is_empty(), "{warning}");
            format!("{} {} {}", text("ruleName"), lines(&warning["location"]), text("url"))
        };
        let mut found: Vec<String> = list("warnings").iter().map(one).collect();
        found.sort();
        let error = result.get("buildError").map(|error| lines(&error["location"]));
        return match error {
            Some(error) => json!({ "found": found, "error": error }),
            None => json!({ "found": found }),
        };
    }
    let mut result = result.clone();
    let object = result.as_object_mut().unwrap();
    assert!(object.remove("sources").is_some_and(|sources| sources.is_array()));
    for list in object.values_mut().filter_map(Value::as_array_mut) {
        for one in list.iter_mut().filter_map(Value::as_object_mut) {
            let place = lines(&one["location"]);
            one.insert("location".to_owned(), place.into());
        }
        // BuildKit has no order for what is on one line.
        list.sort_by_key(|one| (one["location"].as_str().map(str::to_owned), one["name"].to_string()));
    }
    result
}

fn golden() -> PathBuf {
    testdata("checks").join("buildkit.jsonl")
}

#[test]
fn what_is_found_is_what_buildkit_finds() {
    let golden = fs::read_to_string(golden()).unwrap();
    let answers = golden.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["case"].as_str().unwrap().to_owned(), value["expect"].clone())
    });
    let answers: BTreeMap<String, Value> = answers.collect();
    let cases = cases();
    let counts = (cases.len(), answers.len());
    assert!(counts.0 > 100 && counts.0 == counts.1, "cases and answers: {counts:?}");
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = String::new();
    for (number, case) in cases.iter().enumerate() {
        let answer = case.ask(&case.context(directory.path(), number));
        let expected = &answers[&case.title];
        let right = match DIFFERENT.iter().find(|(title, ..)| *title == case.title) {
            None => answer == *expected,
            Some((_, ours, _)) => {
                answer == serde_json::from_str::<Value>(ours).unwrap() && answer != *expected
            }
        };
        if !right {
            wrong.push_str(&format!("{}\n  here      {answer}\n  BuildKit  {expected}\n", case.title));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    for (title, ..) in DIFFERENT {
        assert!(answers.contains_key(*title), "there is no case {title}");
    }
}

/// What a command wrote and how it ended.
fn run(command: &mut assert_cmd::Command) -> (String, String, Option<i32>) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn context(dockerfile: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    directory
}

/// `cofferdam build ARGS` with nothing there but the Dockerfile: no registry, no place for state.
fn alone(dockerfile: &str, args: &[&str]) -> (String, String, Option<i32>) {
    let directory = context(dockerfile);
    let cofferdam = Cofferdam::new();
    let mut command = cofferdam.command();
    command.args(["build", "--state-dir=/proc/none", "--registry-mirror=docker.io=http://127.0.0.1:1"]);
    run(command.args(args).arg(directory.path()))
}

#[test]
fn findings_are_the_result_and_a_failure() {
    let dockerfile = "FROM scratch\nENV A=$PAHT\nWORKDIR x\n";
    let (stdout, stderr, status) = alone(dockerfile, &["--check"]);
    assert_eq!(status, Some(3), "{stderr}");
    insta::assert_snapshot!(stdout, @r"
    warning[UndefinedVar]: `$PAHT` is not set
     --> Dockerfile:2:7
      |
    2 | ENV A=$PAHT
      |       ^^^^^
      |
      = help: did you mean `$PATH`?
      = note: https://docs.docker.com/go/dockerfile/rule/undefined-var/

    warning[WorkdirRelativePath]: `x` is relative to whatever directory the base has set
     --> Dockerfile:3:9
      |
    3 | WORKDIR x
      |         ^
      |
      = help: write an absolute path
      = note: https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/

    Dockerfile: 2 findings
    ");
    insta::assert_snapshot!(stderr, @"error: `Dockerfile` has 2 findings");
    let (_, stderr, status) = alone(dockerfile, &["--call=check,ignorestatus=true"]);
    assert_eq!((&*stderr, status), ("", Some(0)));
}

#[test]
fn nothing_to_be_said_is_success() {
    let ran = alone("FROM scratch\nWORKDIR /x\n", &["--check", "--push", "-t", "r.example/x:1"]);
    assert_eq!(ran, ("Dockerfile: nothing was found\n".to_owned(), String::new(), Some(0)));
}

#[test]
fn a_finding_has_the_shape_that_buildx_gives_it() {
    let dockerfile = "FROM scratch\nCMD a \\\n  b\n";
    let (stdout, _, status) = alone(dockerfile, &["--call=check,format=json"]);
    let line = |line: u32| json!({ "start": { "line": line }, "end": { "line": line } });
    assert_eq!(status, Some(3));
    assert_eq!(
        serde_json::from_str::<Value>(&stdout).unwrap(),
        json!({
            "warnings": [{
                "ruleName": "JSONArgsRecommended",
                "description": "CMD and ENTRYPOINT are in the JSON form, so that signals reach the program",
                "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
                "detail": "CMD in the shell form: signals reach the shell, not the program; \
                           write `CMD [\"PROGRAM\", \"ARGUMENT\"]`, or choose a shell with SHELL",
                "location": { "ranges": [line(2), line(3)] },
            }],
            "sources": [{
                "filename": "Dockerfile",
                "language": "Dockerfile",
                "data": "RlJPTSBzY3JhdGNoCkNNRCBhIFwKICBiCg==",
            }],
        })
    );
}

#[test]
fn what_cannot_be_built_is_told_of_with_what_was_found() {
    let dockerfile = "FROM busybox:1 as a\nCMD a\n";
    let (stdout, stderr, status) = alone_with_state(dockerfile, &["--call=check,format=json"]);
    assert_eq!(status, Some(6), "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["warnings"][0]["ruleName"], "FromAsCasing");
    let message = result["buildError"]["message"].as_str().unwrap();
    assert!(message.contains("busybox:1") && message.contains("refused"), "{message}");
    assert!(stderr.contains("error: the image cannot be used\n --> Dockerfile:1:6"), "{stderr}");
}

/// With a place for state, and no registry.
fn alone_with_state(dockerfile: &str, args: &[&str]) -> (String, String, Option<i32>) {
    let directory = context(dockerfile);
    let cofferdam = Cofferdam::new();
    let mut command = cofferdam.command();
    command.args(["build", "--progress=plain", "--registry-mirror=docker.io=http://127.0.0.1:1"]);
    // No registry but the mirror: names of hosts outside are not looked up.
    command.env("HTTPS_PROXY", "http://127.0.0.1:1");
    run(command.args(args).arg(directory.path()))
}

#[test]
fn builds_tell_what_checks_find_and_fail_if_that_is_an_error() {
    let found = "FROM scratch\nWORKDIR x\n";
    let (stdout, stderr, status) = alone_with_state(found, &[]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.starts_with("sha256:"), "{stdout}");
    assert!(stderr.contains("warning[WorkdirRelativePath]: `x` is relative"), "{stderr}");

    let (stdout, stderr, status) = alone_with_state(&format!("# check=error=true\n{found}"), &[]);
    assert_eq!((&*stdout, status), ("", Some(3)), "{stderr}");
    assert!(stderr.contains("warning[WorkdirRelativePath]: `x` is relative"), "{stderr}");
    let error = "error: checks have found something, which is an error here: WorkdirRelativePath\n --> Dockerfile:1:9";
    assert!(stderr.contains(error), "{stderr}");

    let skipped = ["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=WorkdirRelativePath"];
    let (_, stderr, status) = alone_with_state(&format!("# check=error=true\n{found}"), &skipped);
    assert!(status == Some(0) && !stderr.contains("warning"), "{stderr}");
}

#[test]
fn an_outline_and_targets_are_tables() {
    let dockerfile = "\
# MODE is fast or slow
ARG MODE=fast
# base is below all
FROM scratch AS base
FROM --platform=linux/$MODE scratch
# app is all
FROM base AS app
ARG MODE
ARG DEBUG
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/c true
";
    let (stdout, stderr, status) = alone(dockerfile, &["--call=targets"]);
    assert_eq!((&*stderr, status), ("", Some(0)));
    insta::assert_snapshot!(stdout, @"
    TARGET         DESCRIPTION   BASE     PLATFORM
    base           is below all  scratch
    (1)                          scratch  linux/$MODE
    app (default)  is all        base
    ");
    let dockerfile = dockerfile.replace("FROM --platform=linux/$MODE scratch\n", "");
    let (stdout, stderr, status) = alone(&dockerfile, &["--call=outline", "--build-arg=MODE=slow"]);
    assert_eq!((&*stderr, status), ("", Some(0)));
    insta::assert_snapshot!(stdout, @"
    TARGET:       app
    DESCRIPTION:  is all

    BUILD ARG  VALUE  DESCRIPTION
    MODE       slow
    DEBUG

    SECRET  REQUIRED
    token   true

    SSH      REQUIRED
    default

    CACHE MOUNT
    /c
    ");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (stdout, stderr, status) = alone("FROM scratch\n", &["--call=chek"]);
    assert_eq!((&*stdout, status), ("", Some(2)));
    assert!(
        stderr.contains("`--call`: `chek` cannot be asked") && stderr.contains("did you mean `check`?"),
        "{stderr}"
    );
    let (stdout, stderr, status) =
        alone("FROM scratch\n", &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skipp=all"]);
    assert_eq!((&*stdout, status), ("", Some(2)));
    assert!(stderr.contains("BUILDKIT_DOCKERFILE_CHECK: `skipp` is not an option of `check`"), "{stderr}");
}

/// Asks BuildKit anew.
#[test]
#[ignore = "writes the answers that the other test compares with"]
fn renew() {
    let buildkit = BuildKit::start(&[&SCENE.registry]);
    let cases = cases();
    let directory = tempfile::tempdir().unwrap();
    let mut questions = String::new();
    for (number, case) in cases.iter().enumerate() {
        let context = case.context(directory.path(), number);
        let question = json!({
            "directory": context,
            "request": format!("frontend.{}", case.request),
            "options": case.options,
        });
        questions.push_str(&format!("{question}\n"));
    }
    let host = buildkit.buildctl().get_args().nth(1).unwrap().to_owned();
    let mut asking = Command::new("go")
        .args(["run", "-mod=readonly", "-tags=osusergo,netgo", "./ask"])
        .arg(host)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/go/buildkit"))
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    asking.stdin.take().unwrap().write_all(questions.as_bytes()).unwrap();
    let output = asking.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut renewed = String::new();
    for (case, line) in cases.iter().zip(String::from_utf8(output.stdout).unwrap().lines()) {
        let answer: Value = serde_json::from_str(line).unwrap();
        let expect = match answer.get("result") {
            Some(result) => normal(&case.request, result),
            None => json!({ "error": true }),
        };
        renewed.push_str(&format!("{}\n", json!({ "case": case.title, "expect": expect })));
    }
    assert_eq!(renewed.lines().count(), cases.len());
    fs::write(golden(), renewed).unwrap();
}
