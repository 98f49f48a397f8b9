//! Plans of whole Dockerfiles, against what BuildKit 0.33.0 made of the same.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{BaseImage, Graph, ImageName, Named, Operation, Options, Plan, Source};
use crate::dockerfile::{self, Diagnostic, Diagnostics, Source as Text};
use crate::image::{Digest, ImageConfig, Platform};

fn options() -> Options {
    Options {
        target: None,
        build_args: BTreeMap::new(),
        labels: Vec::new(),
        platform: None,
        build_platform: "linux/amd64".parse::<Platform>().unwrap(),
        named_contexts: BTreeMap::new(),
    }
}

/// A base image with some configuration.
fn base(config: &str) -> BaseImage {
    let config: ImageConfig = serde_json::from_str(config).unwrap();
    BaseImage { name: "base".into(), digest: Digest::of(b"base"), config, layers: Vec::new() }
}

fn plan_with(text: &str, options: &Options, image: &BaseImage) -> Result<Plan, Diagnostics> {
    let dockerfile = dockerfile::parse(text)?;
    let mut graph = Graph::new(&dockerfile, options)?;
    loop {
        let wanted = graph.wanted()?;
        if wanted.is_empty() {
            return graph.plan();
        }
        for (number, _) in wanted {
            graph.found(number, image.clone())?;
        }
    }
}

fn plan(text: &str) -> Plan {
    plan_with(text, &options(), &base("{}")).unwrap()
}

fn error(text: &str) -> String {
    error_with(text, &options())
}

fn error_with(text: &str, options: &Options) -> String {
    let mut found = plan_with(text, options, &base("{}")).unwrap_err();
    // What checks have found stands there, too.
    found.0.retain(Diagnostic::is_error);
    found.render(Text { name: "Dockerfile", text }, false)
}

#[derive(Deserialize)]
struct Case {
    name: String,
    dockerfile: String,
    args: BTreeMap<String, String>,
    target: Option<String>,
    config: serde_json::Value,
}

#[test]
fn configuration_and_history_are_those_of_buildkit() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../testdata/plan/buildkit.json")).unwrap();
    assert!(cases.len() > 40);
    let mut different = Vec::new();
    for case in cases {
        let options = Options { build_args: case.args, target: case.target, ..options() };
        let plan = plan_with(&case.dockerfile, &options, &base("{}"))
            .unwrap_or_else(|found| panic!("{}: {found:?}", case.name));
        let mut config = serde_json::to_value(&plan.stage(plan.target).unwrap().config).unwrap();
        config.as_object_mut().unwrap().remove("rootfs");
        config.as_object_mut().unwrap().entry("history").or_insert(serde_json::Value::Null);
        let mut expected = case.config;
        expected.as_object_mut().unwrap().entry("history").or_insert(serde_json::Value::Null);
        if config != expected {
            different.push(format!("{}:\n{config:#}\nBuildKit:\n{expected:#}", case.name));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
fn a_run_has_its_shell_environment_directory_and_user() {
    let plan = plan(concat!(
        "FROM x\nENV A=1\nARG B=2\nWORKDIR /w\nUSER u\nSHELL [\"/bin/bash\", \"-c\"]\n",
        "RUN echo $A\nRUN [\"a\", \"b\"]\nRUN <<EOF\n#!/usr/bin/env python\nprint()\nEOF\n",
    ));
    let stage = plan.stage(0).unwrap();
    let runs: Vec<_> = stage
        .steps
        .iter()
        .filter_map(|step| match &step.operation {
            Operation::Run(run) => Some((step, run)),
            _ => None,
        })
        .collect();
    let (step, run) = runs[0];
    assert_eq!(run.arguments, ["/bin/bash", "-c", "echo $A"]);
    let environment: Vec<_> = run.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(environment[1..], ["A=1", "B=2"]);
    assert!(environment[0].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!((run.directory.as_str(), run.user.as_str()), ("/w", "u"));
    assert_eq!((step.title.as_str(), step.number), ("RUN echo 1", (3, 5)), "the base and WORKDIR come first");
    assert_eq!(runs[1].1.arguments, ["a", "b"]);
    assert_eq!(runs[2].1.arguments, ["/bin/bash", "-c", "/dev/pipes/EOF"]);
    assert_eq!(runs[2].1.script.as_ref().unwrap().content, "#!/usr/bin/env python\nprint()\n");
}

#[test]
fn stages_that_are_not_needed_are_not_looked_at() {
    let text = "FROM never AS unused\nSTOPSIGNAL nonsense\nRUN --mount=type=no x\nFROM scratch\nLABEL a=b\n";
    let plan = plan(text);
    assert_eq!(plan.stages.len(), 1);
    assert_eq!(plan.images, [None], "the image of a stage that is not needed is not wanted");
}

#[test]
fn copy_takes_from_stages_images_and_named_contexts() {
    let mut options = options();
    options.named_contexts.insert("assets".into(), Named::Directory);
    options
        .named_contexts
        .insert("tool".into(), Named::Image(ImageName::Registry("other:1".parse().unwrap())));
    options.named_contexts.insert("alias".into(), Named::Target("one".into()));
    let text = "FROM scratch AS One\nLABEL a=b\nFROM scratch\nCOPY --from=one / /\nCOPY --from=0 / /\n\
        COPY --from=busybox:1 / /\nCOPY --from=assets / /\nCOPY --from=tool / /\nCOPY --from=alias / /\nCOPY a b/\n";
    let plan = plan_with(text, &options, &base("{}")).unwrap();
    let sources: Vec<_> = plan
        .stage(1)
        .unwrap()
        .steps
        .iter()
        .map(|step| match &step.operation {
            Operation::Transfer(transfer) => transfer.source.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    use Source::{Context, Image, NamedContext, Stage};
    assert_eq!(
        sources,
        [Stage(0), Stage(0), Image(0), NamedContext("assets".into()), Image(1), Stage(0), Context]
    );
}

#[test]
fn triggers_of_a_base_run_first_and_may_need_other_stages() {
    let config = r#"{"config": {"OnBuild": ["ARG X=1", "COPY --from=data /a /b", "RUN make $X"]}}"#;
    let text = "FROM scratch AS data\nCOPY a /a\nFROM base\nRUN after\n";
    let plan = plan_with(text, &options(), &base(config)).unwrap();
    let stage = plan.stage(1).unwrap();
    let titles: Vec<_> = stage.steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(titles, ["ONBUILD COPY --from=data /a /b", "ONBUILD RUN make 1", "RUN after"]);
    assert!(stage.config.config.on_build.is_empty());
    assert_eq!(plan.stages.len(), 2, "the trigger needs the stage `data`");
    let broken = base(r#"{"config": {"OnBuild": ["COPYY a b"]}}"#);
    let found = plan_with("FROM base\n", &options(), &broken).unwrap_err();
    assert!(found.0[0].message.contains("ONBUILD COPYY a b"), "{found:?}");
}

#[test]
fn a_named_context_stands_in_for_a_stage_or_a_base() {
    let mut options = options();
    options
        .named_contexts
        .insert("build".into(), Named::Image(ImageName::Registry("prebuilt:1".parse().unwrap())));
    options.named_contexts.insert("alpine".into(), Named::Image(ImageName::Layout("alpine".into())));
    let text =
        "FROM golang AS build\nRUN go build\nFROM docker.io/library/alpine:latest\nCOPY --from=build /a /a\n";
    let dockerfile = dockerfile::parse(text).unwrap();
    let mut graph = Graph::new(&dockerfile, &options).unwrap();
    let wanted: Vec<_> = graph.wanted().unwrap().into_iter().map(|(_, wanted)| wanted.name).collect();
    assert_eq!(
        wanted,
        [ImageName::Registry("prebuilt:1".parse().unwrap()), ImageName::Layout("alpine".into())]
    );
}

#[test]
fn unused_arguments_are_told() {
    let mut options = options();
    for name in ["USED", "UNUSED", "http_proxy", "TARGETARCH"] {
        options.build_args.insert(name.into(), "1".into());
    }
    let plan = plan_with("FROM scratch\nARG USED\nLABEL a=b\n", &options, &base("{}")).unwrap();
    assert_eq!(plan.unused_arguments, ["UNUSED"]);
}

#[test]
fn mistakes_are_shown_where_they_are() {
    let mut target = options();
    target.target = Some("relase".into());
    let with_target = error_with("FROM scratch AS release\nFROM scratch AS test\n", &target);
    let texts = [
        error("ARG BASE\nFROM $BASE\n"),
        error("FROM scratch\nCOPY --from=missing:Tag:x a b\n"),
        error("FROM scratch AS build\nFROM scratch\nCOPY --from=biuld a b\nCOPY --from=Biuld a b\n"),
        error("FROM scratch AS a\nCOPY --from=a x y\n"),
        error("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a\n"),
        error("FROM scratch\nCOPY --from=3 x y\n"),
        error("FROM --platform=linux/x/y/z scratch\n"),
        error("FROM scratch\nEXPOSE 80/icmp\n"),
        error("FROM scratch\nSTOPSIGNAL SIGFOO\n"),
        error("FROM scratch\nENV A=${B:?must be set}\n"),
        error("FROM scratch\nRUN --security=insecure id\n"),
        error("FROM scratch\nCOPY https://example.com/x /x\n"),
        error("FROM scratch\nCOPY git@example.com:a.git /x\n"),
        error("FROM scratch\nADD https://example.com/a.git?depth=1 /x\n"),
        error("FROM scratch\nADD --checksum=sha256:0 https://example.com/x /x\n"),
        error("FROM scratch\nADD --checksum=x git@example.com:a.git /x\n"),
        error("FROM scratch\nADD --checksum=x y /x\n"),
        error("FROM scratch\nADD --keep-git-dir=false https://example.com/a.git?keep-git-dir=1 /x\n"),
        error("FROM scratch\nRUN []\n"),
        with_target,
    ];
    insta::assert_snapshot!(texts.join("\n----\n"));
}
