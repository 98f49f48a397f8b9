//! `cofferdam build --check` and `--call`: what is asked of a Dockerfile, and answered on standard output.
//!
//! The JSON has the shape that `docker buildx build --call=…,format=json` gives it, so that programs which read that read
//! this: lines are numbered from 1, each line of an instruction is a range of its own, texts are in base64.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::arguments::RegistryArgs;
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::build::BuildError;
use crate::build::inspect::{self, Inspected, Verdict};
use crate::build::request::BuildRequest;
use crate::dockerfile::{Diagnostic, Diagnostics, LineIndex, Span};
use crate::plan::{Needed, Outline, Target};
use crate::report::{Event, Findings, redact};
use crate::settings::{Call, Method};

/// Answers. Nothing is built.
pub(super) async fn run(
    call: Call,
    request: &BuildRequest,
    registry: RegistryArgs,
    session: &Session,
) -> Result<(), CliError> {
    let flags = registry.lower();
    let services = || session.services(&flags);
    match call.method {
        Method::Check => {
            let checked = session.or_cancelled(inspect::check(request, services)).await?;
            check(call, checked, session)
        }
        Method::Outline => {
            let outline = session.or_cancelled(inspect::outline(request, services)).await?;
            match call.json {
                true => stdout::write_json(&outline_json(&outline)),
                false => stdout::write(&outline_text(&outline.answer)),
            }
        }
        Method::Targets => {
            let targets = session.or_cancelled(inspect::targets(request, services)).await?;
            match call.json {
                true => stdout::write_json(&targets_json(&targets)),
                false => stdout::write(&targets_text(&targets.answer)),
            }
        }
        // That is another function's.
        Method::Build => Ok(()),
    }
}

fn check(call: Call, checked: Inspected<Verdict>, session: &Session) -> Result<(), CliError> {
    if call.json {
        stdout::write_json(&verdict_json(&checked))?;
    } else {
        stdout::write(&verdict_text(&checked, session.stdout_is_colourful()))?;
    }
    let Inspected { name, text, answer: Verdict { found, warnings, error, .. } } = checked;
    if !warnings.is_empty() {
        let warnings = Findings::new(name.clone(), &text, Diagnostics(warnings));
        session.report.event(Event::Findings(warnings));
    }
    match error {
        Some(error) => Err(error.into()),
        None if found.is_empty() || call.ignore_status => Ok(()),
        None => Err(CliError::Findings { what: name, count: found.len() }),
    }
}

fn verdict_text(checked: &Inspected<Verdict>, color: bool) -> String {
    let Inspected { name, text, answer } = checked;
    let mut out = String::new();
    for finding in &answer.found {
        let one = Findings::new(name.clone(), text, Diagnostics(vec![finding.clone()]));
        // Writing to a string does not fail.
        let _ = writeln!(out, "{}\n", one.render(color));
    }
    let found = match answer.found.len() {
        0 => "nothing was found".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let verdict = if answer.error.is_some() { ", and it cannot be built" } else { "" };
    let _ = writeln!(out, "{name}: {found}{verdict}");
    out
}

fn verdict_json(checked: &Inspected<Verdict>) -> Value {
    let Inspected { name, text, answer } = checked;
    let lines = LineIndex::new(text);
    let warning = |finding: &Diagnostic| {
        let mut object = Map::new();
        if let Some(rule) = finding.rule {
            object.insert("ruleName".to_owned(), rule.name().into());
            object.insert("description".to_owned(), rule.description().into());
            if let Some(url) = rule.url() {
                object.insert("url".to_owned(), url.into());
            }
        }
        let hint = finding.hint.iter().map(|hint| format!("; {hint}"));
        object.insert("detail".to_owned(), format!("{}{}", finding.message, hint.collect::<String>()).into());
        object.insert("location".to_owned(), location(&lines, finding.subject()));
        Value::Object(object)
    };
    let mut object = json!({
        "warnings": answer.found.iter().map(warning).collect::<Vec<Value>>(),
        "sources": [{ "filename": name, "language": "Dockerfile", "data": BASE64.encode(&**text) }],
    });
    if let (Some(error), Some(object)) = (&answer.error, object.as_object_mut()) {
        let place = answer.place.map_or_else(|| json!({}), |span| location(&lines, span));
        object.insert("buildError".to_owned(), json!({ "message": message(error), "location": place }));
    }
    object
}

/// An error in one line, with what lies behind it.
fn message(error: &BuildError) -> String {
    let (findings, cause): (Option<&Findings>, Option<&(dyn Error + 'static)>) = match error {
        BuildError::Dockerfile(findings) => (Some(findings), None),
        BuildError::Setup { finding, source } => (Some(finding), Some(source)),
        other => (None, Some(other)),
    };
    let errors = findings.into_iter().flat_map(|findings| &findings.list().0);
    let mut said: Vec<String> =
        errors.filter(|finding| finding.is_error()).map(|finding| finding.message.clone()).collect();
    for cause in std::iter::successors(cause, |&error| error.source()) {
        let text = cause.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
    }
    redact(&said.join(": ")).into_owned()
}

/// The lines of an instruction as BuildKit gives them: a range each.
fn location(lines: &LineIndex<'_>, span: Span) -> Value {
    let (first, last) = lines.lines(span);
    let ranges = (first..=last).map(|line| json!({ "start": { "line": line }, "end": { "line": line } }));
    json!({ "ranges": ranges.collect::<Vec<Value>>() })
}

/// Adds what is there and not empty.
fn put(object: &mut Map<String, Value>, key: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        object.insert(key.to_owned(), value.into());
    }
}

fn outline_json(outline: &Inspected<Outline>) -> Value {
    let lines = LineIndex::new(&outline.text);
    let found = &outline.answer;
    let mut object = Map::new();
    put(&mut object, "name", found.name.as_deref());
    put(&mut object, "description", found.description.as_deref());
    let arguments = found.arguments.iter().map(|argument| {
        let mut object = Map::new();
        object.insert("name".to_owned(), argument.name.as_str().into());
        put(&mut object, "description", argument.description.as_deref());
        put(&mut object, "value", argument.value.as_deref());
        object.insert("location".to_owned(), location(&lines, argument.span));
        Value::Object(object)
    });
    let needed = |list: &[Needed]| -> Vec<Value> {
        let one = |needed: &Needed| {
            let mut object = json!({ "name": needed.name, "location": location(&lines, needed.span) });
            if let Some(object) = object.as_object_mut().filter(|_| needed.required) {
                object.insert("required".to_owned(), true.into());
            }
            object
        };
        list.iter().map(one).collect()
    };
    let caches = found.caches.iter().map(|it| json!({ "ID": it.id, "location": location(&lines, it.span) }));
    let lists = [
        ("args", arguments.collect()),
        ("secrets", needed(&found.secrets)),
        ("ssh", needed(&found.ssh)),
        ("cache", caches.collect::<Vec<Value>>()),
    ];
    for (key, list) in lists {
        if !list.is_empty() {
            object.insert(key.to_owned(), list.into());
        }
    }
    object.insert("sources".to_owned(), json!([BASE64.encode(&*outline.text)]));
    Value::Object(object)
}

fn outline_text(outline: &Outline) -> String {
    let own = |text: &str| text.to_owned();
    let mut parts: Vec<String> = Vec::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![[own("TARGET:"), own(name)]];
        rows.extend(outline.description.as_deref().map(|text| [own("DESCRIPTION:"), own(text)]));
        parts.push(stdout::table(&rows, &[]));
    }
    if !outline.arguments.is_empty() {
        let mut rows = vec![[own("BUILD ARG"), own("VALUE"), own("DESCRIPTION")]];
        rows.extend(outline.arguments.iter().map(|it| {
            let value = it.value.as_deref().unwrap_or_default();
            [own(&it.name), own(value), own(it.description.as_deref().unwrap_or_default())]
        }));
        parts.push(stdout::table(&rows, &[]));
    }
    for (heading, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![[own(heading), own("REQUIRED")]];
            rows.extend(list.iter().map(|it| [own(&it.name), own(if it.required { "true" } else { "" })]));
            parts.push(stdout::table(&rows, &[]));
        }
    }
    if !outline.caches.is_empty() {
        let mut rows = vec![[own("CACHE MOUNT")]];
        rows.extend(outline.caches.iter().map(|it| [own(&it.id)]));
        parts.push(stdout::table(&rows, &[]));
    }
    parts.join("\n")
}

fn targets_json(targets: &Inspected<Vec<Target>>) -> Value {
    let lines = LineIndex::new(&targets.text);
    let one = |target: &Target| {
        let mut object = Map::new();
        put(&mut object, "name", target.name.as_deref());
        if target.default {
            object.insert("default".to_owned(), true.into());
        }
        put(&mut object, "description", target.description.as_deref());
        put(&mut object, "base", Some(&target.base));
        put(&mut object, "platform", target.platform.as_deref());
        object.insert("location".to_owned(), location(&lines, target.span));
        Value::Object(object)
    };
    json!({
        "targets": targets.answer.iter().map(one).collect::<Vec<Value>>(),
        "sources": [BASE64.encode(&*targets.text)],
    })
}

fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![["TARGET", "DESCRIPTION", "BASE", "PLATFORM"].map(str::to_owned)];
    for (number, target) in targets.iter().enumerate() {
        let name = match (&target.name, target.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => format!("({number})"),
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        rows.push([name, text(&target.description), target.base.clone(), text(&target.platform)]);
    }
    stdout::table(&rows, &[])
}
