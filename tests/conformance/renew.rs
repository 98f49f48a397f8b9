//! Their side: BuildKit is asked.

use std::collections::BTreeSet;
use std::fs;

use super::answer;
use super::area::{Area, TITLE, golden};
use super::case::{BuildOption, Case, Context};
use super::files;
use super::images::{self, REGISTRY};
use super::support::{BuildKit, Scratch};
use super::web;

/// Writes the answers to all cases of these areas, or of those among them that the variable `AREAS` names.
pub fn renew(areas: &[&str]) {
    let buildkit = BuildKit::start(&[&REGISTRY]);
    let wanted = std::env::var("AREAS").unwrap_or_default();
    let wanted: BTreeSet<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    for area in areas.iter().filter(|area| wanted.is_empty() || wanted.contains(**area)) {
        let mut text = String::new();
        for (number, case) in Area::read(area).cases.iter().enumerate() {
            text.push_str(&format!("{TITLE}{} {}\n", case.fingerprint(), case.title));
            for line in ask(&buildkit, case, area, number) {
                text.push_str(&format!("{line}\n"));
            }
        }
        fs::write(golden(area), text).unwrap();
    }
}

fn ask(buildkit: &BuildKit, case: &Case, area: &str, number: usize) -> Vec<String> {
    let directory = Scratch::new("conformance-");
    let context = directory.path().join("context");
    files::make(case, &context);
    let name = format!("theirs/{area}-{number}:1");
    let mut output =
        format!("--output=type=image,name={},push=true,oci-mediatypes=true", REGISTRY.reference(&name));
    for option in &case.options {
        if let BuildOption::Annotation(annotation) = option {
            let (place, annotation) = annotation.split_once(':').unwrap_or(("", annotation));
            let place = if place.is_empty() { String::new() } else { format!("-{place}") };
            output.push_str(&format!(",annotation{place}.{annotation}"));
        }
    }
    let mut build = buildkit
        .build(&context)
        .dockerfile(&context.join(&case.name))
        .option(&output)
        // A step that was carried out for another case has the times of that one's files.
        .option("--no-cache");
    for option in &case.options {
        build = match option {
            BuildOption::Arg(arg) => build.option(&format!("--opt=build-arg:{arg}")),
            BuildOption::Label(label) => build.option(&format!("--opt=label:{label}")),
            BuildOption::Target(stage) => build.target(stage),
            BuildOption::Platform(platform) => build.option(&format!("--opt=platform={platform}")),
            BuildOption::Secret(id, value) => {
                let file = directory.path().join(format!("secret-{id}"));
                fs::write(&file, value).unwrap();
                build.option(&format!("--secret=id={id},src={}", file.display()))
            }
            BuildOption::Context(name, Context::Address(address)) => {
                build.option(&format!("--opt=context:{name}={address}"))
            }
            BuildOption::Context(name, Context::Directory(place)) => build
                .option(&format!("--opt=context:{name}=local:{name}"))
                .option(&format!("--local={name}={}", context.join(place).display())),
            BuildOption::Context(name, Context::Layout(image)) => {
                let layout = images::layout(image, directory.path());
                let digest = images::digest_in(&layout);
                // The name may be one that no store can have.
                let store = format!("store{}", images::digest_in(&layout).trim_start_matches("sha256:"));
                build
                    .option(&format!("--oci-layout={store}={}", layout.display()))
                    .option(&format!("--opt=context:{name}=oci-layout://{store}@{digest}"))
            }
            // BuildKit itself has no such context: buildx builds the target, and gives what came of it.
            BuildOption::Context(name, Context::Target(stage)) => {
                let other = REGISTRY.reference(&format!("theirs/{area}-{number}-{name}:1"));
                let asked = buildkit.build(&context).dockerfile(&context.join(&case.name)).target(stage);
                if let Err(log) = asked.push(&other).option("--no-cache").run() {
                    return vec![answer::of_error(place(&log)), format!("# {}", message(&log, buildkit))];
                }
                build.option(&format!("--opt=context:{name}=docker-image://{other}"))
            }
            BuildOption::Annotation(_) => build,
        };
    }
    match build.run() {
        Ok(_) => answer::of_image(&REGISTRY, &name),
        Err(log) => vec![answer::of_error(place(&log)), format!("# {}", message(&log, buildkit))],
    }
}

/// The lines that BuildKit marks; it marks those of the error alone.
fn place(log: &str) -> Option<(usize, usize)> {
    let marked = log.lines().filter_map(|line| line.split_once(" | >>>")?.0.trim().parse().ok());
    let marked: Vec<usize> = marked.collect();
    if let (Some(first), Some(last)) = (marked.iter().min(), marked.iter().max()) {
        return Some((*first, *last));
    }
    let (_, rest) = log.split_once("parse error on line ")?;
    let line = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((line, line))
}

/// What BuildKit says of an error, for those who read the answers: without the places where it was this time.
fn message(log: &str, buildkit: &BuildKit) -> String {
    let line = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("no message");
    let mut line = web::hide(line).replace(REGISTRY.address(), "registry.example.com");
    let state = buildkit.directory().display().to_string();
    while let Some(start) = line.find(&state) {
        let word = line[start..].split_whitespace().next().unwrap_or_default();
        let (_, below) = word.split_once("cachemounts/buildkit").unwrap_or_default();
        let shown = format!("ROOT{}", below.trim_start_matches(|c: char| c.is_ascii_digit()));
        line.replace_range(start..start + word.len(), &shown);
    }
    // References to what is in its cache are random.
    line.split(' ').map(|word| if word.contains("::") { "REF" } else { word }).collect::<Vec<_>>().join(" ")
}
