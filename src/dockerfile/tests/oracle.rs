//! `testdata/dockerfile/parse*.jsonl` and `mount.jsonl` hold Dockerfiles and what BuildKit 0.33.0 makes of them.

use super::super::*;
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn words(words: &[Word]) -> Value {
    words.iter().map(|word| word.text.as_str()).collect()
}

fn texts(texts: &[Spanned<String>]) -> Value {
    texts.iter().map(|text| text.value.as_str()).collect()
}

fn optional(word: &Option<Word>) -> Value {
    word.as_ref().map_or("", |word| word.text.as_str()).into()
}

/// The command as BuildKit keeps it. A heredoc is named there without its tabs stripped.
fn line(command: &CommandLine, heredocs: &[Heredoc]) -> Value {
    let files: Vec<Value> =
        heredocs.iter().map(|file| json!([file.name, file.body.value, file.strip_tabs])).collect();
    match command {
        CommandLine::Shell(text) if text.value.is_empty() => {
            json!({ "args": [], "shell": true, "files": files })
        }
        CommandLine::Shell(text) => json!({ "args": [text.value], "shell": true, "files": files }),
        CommandLine::Exec(words) => json!({ "args": texts(words), "shell": false, "files": files }),
    }
}

fn transfer(transfer: &Transfer, out: &mut Value) {
    let inline: Vec<Value> = transfer
        .inline
        .iter()
        .map(|file| json!([file.name.value, file.content.text, file.content.syntax == Syntax::Text]))
        .collect();
    out["paths"] = words(&transfer.paths);
    out["inline"] = inline.into();
    out["dest"] = transfer.destination.text.as_str().into();
    out["chown"] = optional(&transfer.chown);
    out["chmod"] = optional(&transfer.chmod);
    out["link"] = transfer.link.into();
    out["exclude"] = texts(&transfer.exclude);
}

fn pairs(pairs: &[Pair]) -> Value {
    pairs.iter().map(|pair| json!([pair.key.text, pair.value.text, pair.legacy])).collect()
}

fn instruction(instruction: &Instruction, index: &LineIndex<'_>) -> Value {
    let lines = index.lines(instruction.span);
    let mut out = json!({
        "name": instruction.written.to_lowercase(),
        "lines": [lines.0, lines.1],
        "comments": texts(&instruction.comments),
        "code": instruction.original,
    });
    match &instruction.kind {
        InstructionKind::Env(list) | InstructionKind::Label(list) => out["pairs"] = pairs(list),
        InstructionKind::Maintainer(name) => out["value"] = name.value.as_str().into(),
        InstructionKind::Workdir(word) | InstructionKind::User(word) | InstructionKind::Stopsignal(word) => {
            out["value"] = word.text.as_str().into();
        }
        InstructionKind::Add(add) => {
            transfer(&add.transfer, &mut out);
            out["keep-git-dir"] = json!(add.keep_git_dir.map(|it| it.value));
            out["unpack"] = json!(add.unpack.map(|it| it.value));
            out["checksum"] = optional(&add.checksum);
        }
        InstructionKind::Copy(copy) => {
            transfer(&copy.transfer, &mut out);
            out["from"] = copy.from.as_ref().map_or("", |from| from.value.as_str()).into();
            out["parents"] = copy.parents.into();
        }
        InstructionKind::Onbuild(onbuild) => out["trigger"] = onbuild.trigger.as_str().into(),
        InstructionKind::Expose(list) | InstructionKind::Volume(list) => out["words"] = words(list),
        InstructionKind::Shell(list) => out["words"] = texts(list),
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
            out["line"] = line(command, &[])
        }
        InstructionKind::Run(run) => {
            out["line"] = line(&run.command, &run.heredocs);
            out["network"] = match run.network.value {
                Network::Default => "default",
                Network::None => "none",
                Network::Host => "host",
            }
            .into();
            out["security"] = match run.security.value {
                Security::Sandbox => "sandbox",
                Security::Insecure => "insecure",
            }
            .into();
            out["devices"] = run.devices.iter().map(|it| json!([it.name, it.required])).collect();
            out["mounts"] = run.mounts.len().into();
        }
        InstructionKind::Healthcheck(check) => out["health"] = health(check),
        InstructionKind::Arg(args) => {
            out["args"] = args
                .iter()
                .map(|arg| {
                    let about = description(&instruction.comments, &arg.name.value).unwrap_or("");
                    json!([arg.name.value, arg.default.as_ref().map(|word| &word.text), about])
                })
                .collect();
        }
    }
    out
}

fn health(check: &Healthcheck) -> Value {
    let zero = std::time::Duration::ZERO;
    let (test, durations, retries) = match check {
        Healthcheck::None => (vec!["NONE"], [zero; 4], 0),
        Healthcheck::Probe { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                CommandLine::Shell(text) => vec!["CMD-SHELL", &text.value],
                CommandLine::Exec(words) => {
                    std::iter::once("CMD").chain(words.iter().map(|word| word.value.as_str())).collect()
                }
            };
            (test, [*interval, *timeout, *start_period, *start_interval], *retries)
        }
    };
    let [interval, timeout, start_period, start_interval] = durations.map(|it| it.as_nanos() as u64);
    json!({
        "test": test, "interval": interval, "timeout": timeout,
        "start-period": start_period, "start-interval": start_interval, "retries": retries,
    })
}

fn dockerfile(file: &Dockerfile, source: &str) -> Value {
    let index = LineIndex::new(source);
    let blank_lines =
        file.warnings.0.iter().filter(|finding| finding.rule == Some(Rule::NoEmptyContinuation)).count();
    let stages: Vec<Value> = file
        .stages
        .iter()
        .map(|stage| {
            let from = &stage.from;
            let lines = index.lines(from.span);
            let name = stage.name().unwrap_or("");
            json!({
                "name": name,
                "base": from.image.text,
                "platform": optional(&from.platform),
                "code": from.original,
                "comments": texts(&from.comments),
                "doc": description(&from.comments, name).unwrap_or(""),
                "lines": [lines.0, lines.1],
                "commands": stage.instructions.iter().map(|it| instruction(it, &index)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "escape": file.directives.escape.char().to_string(),
        "warnings": blank_lines,
        "meta": file.global_args.iter().map(|it| instruction(it, &index)).collect::<Vec<_>>(),
        "stages": stages,
    })
}

/// BuildKit counts comments and blank lines behind a last line that goes on; here an instruction ends with its text.
fn without_last_comments(mut expect: Value, source: &str) -> Value {
    let lines: Vec<&str> = source.lines().collect();
    let stages = expect["stages"].as_array_mut().into_iter().flatten();
    for command in stages.flat_map(|stage| stage["commands"].as_array_mut()).flatten() {
        let (first, mut last) =
            (command["lines"][0].as_u64().unwrap(), command["lines"][1].as_u64().unwrap());
        let idle = |line: u64| {
            let line = lines[line as usize - 1].trim();
            line.is_empty() || line.starts_with('#')
        };
        while last > first && idle(last) {
            last -= 1;
        }
        command["lines"][1] = last.into();
    }
    expect
}

#[rstest]
#[case::picked(include_str!("../../../testdata/dockerfile/parse.jsonl"))]
#[case::random(include_str!("../../../testdata/dockerfile/parse-random.jsonl"))]
fn reads_what_buildkit_reads(#[case] table: &str) {
    let mut wrong = Vec::new();
    for case in table.lines() {
        let case: Value = serde_json::from_str(case).unwrap();
        let source = case["text"].as_str().unwrap();
        let expect = &without_last_comments(case["expect"].clone(), source);
        let refused = expect["error"].is_string() || case["differs"].is_string();
        match parse(source) {
            Err(_) if refused => {}
            Ok(file) if !refused => {
                let actual = dockerfile(&file, source);
                if actual != *expect {
                    wrong.push(format!("{source:?}\n  expected {expect}\n  gave     {actual}"));
                }
            }
            Ok(_) => wrong.push(format!("{source:?}\n  is accepted, and {expect}")),
            Err(findings) => wrong.push(format!("{source:?}\n  is refused ({findings}), and {expect}")),
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn reads_mounts_as_buildkit_does() {
    let table = include_str!("../../../testdata/dockerfile/mount.jsonl");
    let mut wrong = Vec::new();
    for case in table.lines() {
        let case: Value = serde_json::from_str(case).unwrap();
        let env: BTreeMap<String, String> = serde_json::from_value(case["env"].clone()).unwrap_or_default();
        let source = format!("FROM x\nRUN --mount={} x", case["mount"].as_str().unwrap());
        let expect = &case["expect"];
        let refused = expect["error"].is_string() || case["differs"].is_string();
        match mounts(&source, &env) {
            Err(_) if refused => {}
            Ok(actual) if !refused => {
                if actual != expect["mounts"] {
                    wrong.push(format!("{source:?}\n  expected {expect}\n  gave     {actual}"));
                }
            }
            Ok(actual) => wrong.push(format!("{source:?}\n  is accepted ({actual}), and {expect}")),
            Err(findings) => wrong.push(format!("{source:?}\n  is refused ({findings}), and {expect}")),
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn mounts(source: &str, env: &BTreeMap<String, String>) -> Result<Value, Diagnostics> {
    let file = parse(source)?;
    let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else { panic!("a RUN") };
    let mut out = Vec::new();
    for flag in &run.mounts {
        let mut expand = |word: &Word| match word.expand(&|name| env.get(name).cloned()) {
            Ok(done) => Ok(done.text),
            Err(error) => Err(word.explain(&error)),
        };
        let resolved = flag.resolve(&mut expand).map_err(|finding| Diagnostics(vec![finding]))?;
        out.push(mount(&resolved.mount));
    }
    Ok(out.into())
}

/// The mount in BuildKit's terms, its defaults for names and targets left out (the table has none of these).
fn mount(mount: &Mount) -> Value {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut out = json!({
        "from": "", "source": "", "target": "", "ro": true, "size": 0, "id": "", "sharing": "",
        "required": false, "env": null, "mode": null, "uid": null, "gid": null,
    });
    let attributes = |out: &mut Value, file: &FileAttributes| {
        out["mode"] = json!(file.mode);
        out["uid"] = json!(file.uid);
        out["gid"] = json!(file.gid);
    };
    match mount {
        Mount::Bind { from, source, target, writable } => {
            out["type"] = "bind".into();
            out["from"] = text(from).into();
            out["source"] = source.as_str().into();
            out["target"] = target.as_str().into();
            out["ro"] = (!writable).into();
        }
        Mount::Cache { id, from, source, target, read_only, sharing, file } => {
            out["type"] = "cache".into();
            out["id"] = text(id).into();
            out["from"] = text(from).into();
            out["source"] = source.as_str().into();
            out["target"] = target.as_str().into();
            out["ro"] = (*read_only).into();
            out["sharing"] = match sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            }
            .into();
            attributes(&mut out, file);
        }
        Mount::Tmpfs { target, size, read_only } => {
            out["type"] = "tmpfs".into();
            out["target"] = target.as_str().into();
            out["size"] = size.unwrap_or(0).into();
            out["ro"] = (*read_only).into();
        }
        Mount::Secret { id, target, env, required, file } => {
            out["type"] = "secret".into();
            out["id"] = id.as_str().into();
            out["target"] = text(target).into();
            out["env"] = json!(env);
            out["required"] = (*required).into();
            attributes(&mut out, file);
        }
        Mount::Ssh { id, target, required, file } => {
            out["type"] = "ssh".into();
            out["id"] = id.as_str().into();
            out["target"] = text(target).into();
            out["required"] = (*required).into();
            attributes(&mut out, file);
        }
    }
    out
}
