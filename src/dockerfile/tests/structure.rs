//! What the planner relies on, beside what the tables say: places of all parts, scripts, triggers, descriptions.

use super::super::*;
use rstest::rstest;

/// The only stage of a Dockerfile, its FROM line put in front.
fn stage(body: &str) -> (String, Stage) {
    let source = format!("FROM a\n{body}");
    let mut file = parse(&source).unwrap_or_else(|findings| panic!("{body}: {findings}"));
    (source, file.stages.remove(0))
}

fn run(body: &str) -> RunInstruction {
    let (_, mut stage) = stage(body);
    match stage.instructions.remove(0).kind {
        InstructionKind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_part_knows_its_place() {
    let source = "FROM --platform=$P image AS Name\n\
        COPY --from=x --chown='$U':g --exclude=\"a b\" --link s1 \"s 2\" /d\n\
        RUN --mount=type=cache,target=/x --network=none --device=d,required make \\\n  all\n\
        ENV A=\"b c\" D=e\n\
        ENV F g h\n\
        ARG I=j\n\
        CMD [\"k\", \"l\\tm\"]\n\
        COPY <<N /o\nbody\nN\n";
    let file = parse(source).unwrap();
    let at = |span: Span| span.text(source).unwrap();
    let [stage] = file.stages.as_slice() else { panic!("one stage") };
    assert_eq!(at(stage.from.platform.as_ref().unwrap().span), "$P");
    assert_eq!(at(stage.from.image.span), "image");
    let name = stage.from.name.as_ref().unwrap();
    assert_eq!((at(name.span), name.name.as_str(), at(name.keyword.span)), ("Name", "name", "AS"));
    assert_eq!(at(stage.from.keyword), "FROM");
    let mut parts = Vec::new();
    for instruction in &stage.instructions {
        parts.push(at(instruction.keyword.span));
        match &instruction.kind {
            InstructionKind::Copy(copy) => {
                parts.extend(copy.from.iter().map(|from| at(from.span)));
                parts.extend(copy.transfer.chown.iter().map(|chown| at(chown.span)));
                parts.extend(copy.transfer.exclude.iter().map(|exclude| at(exclude.span)));
                parts.extend(copy.transfer.paths.iter().map(|path| at(path.span)));
                for file in &copy.transfer.inline {
                    parts.extend([at(file.name.span), at(file.content.span)]);
                }
                parts.push(at(copy.transfer.destination.span));
            }
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    parts.push(at(mount.span));
                    for field in &mount.fields {
                        let value = field.value.as_ref().unwrap();
                        parts.extend([at(field.span), at(field.key.span), at(value.span)]);
                    }
                }
                parts.push(at(run.network.span));
                parts.extend(run.devices.iter().map(|device| at(device.span)));
                let CommandLine::Shell(line) = &run.command else { panic!("shell form") };
                parts.push(at(line.span));
            }
            InstructionKind::Env(pairs) => {
                parts.extend(pairs.iter().flat_map(|pair| [at(pair.key.span), at(pair.value.span)]));
            }
            InstructionKind::Arg(args) => {
                let arg = &args[0];
                parts.extend([at(arg.name.span), at(arg.default.as_ref().unwrap().span)]);
            }
            InstructionKind::Cmd(CommandLine::Exec(words)) => {
                parts.extend(words.iter().map(|word| at(word.span)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        parts,
        [
            "COPY",
            "x",
            "$U':g",
            "a b",
            "s1",
            "\"s",
            "2\"",
            "/d", //
            "RUN",
            "type=cache,target=/x",
            "type=cache",
            "type",
            "cache",
            "target=/x",
            "target",
            "/x",
            "none",
            "d,required",
            "make \\\n  all", //
            "ENV",
            "A",
            "\"b c\"",
            "D",
            "e", //
            "ENV",
            "F",
            "g h", //
            "ARG",
            "I",
            "j", //
            "CMD",
            "k",
            "l\\tm", //
            "COPY",
            "<<N",
            "body\n",
            "/o",
        ]
    );
}

#[test]
fn an_instruction_is_kept_on_one_line_as_it_is_written() {
    let (source, stage) = stage("run  echo a \\\n    b \\\n# c\n\n  d  \nCOPY <<E /x\nbody\nE\n  USER u\n");
    let texts: Vec<&str> = stage.instructions.iter().map(|it| it.original.as_str()).collect();
    assert_eq!(texts, ["run  echo a     b   d", "COPY <<E /x", "USER u"]);
    let spans: Vec<&str> = stage.instructions.iter().map(|it| it.span.text(&source).unwrap()).collect();
    assert_eq!(
        spans,
        ["run  echo a \\\n    b \\\n# c\n\n  d  ", "COPY <<E /x\nbody\nE", "USER u"],
        "heredocs belong to the instruction"
    );
    assert_eq!(stage.instructions[0].written, "run");
    assert_eq!(stage.instructions[0].keyword.value, Keyword::Run);
}

#[rstest]
#[case::plain("RUN echo hi", Script::Shell("echo hi".into()))]
#[case::exec("RUN [\"a\", \"b c\"]", Script::Exec(vec!["a".into(), "b c".into()]))]
#[case::nothing("RUN", Script::Shell(String::new()))]
#[case::whole("RUN <<EOF\na\nb\nEOF", Script::Shell("a\nb\n".into()))]
#[case::quotes_do_not_matter("RUN <<'EOF'\n$a\nEOF", Script::Shell("$a\n".into()))]
#[case::tabs("RUN <<-EOF\n\t\ta\n\tEOF", Script::Shell("a\n".into()))]
#[case::descriptor("RUN 3<<EOF\na\nEOF", Script::Shell("a\n".into()))]
#[case::shebang(
    "RUN <<run.py\n#!/usr/bin/python3\nprint()\nrun.py",
    Script::File { name: "run.py".into(), content: "#!/usr/bin/python3\nprint()\n".into() }
)]
#[case::shebang_behind_tabs(
    "RUN <<-E\n\t#!/bin/sh\n\tE",
    Script::File { name: "E".into(), content: "#!/bin/sh\n".into() }
)]
#[case::command("RUN <<EOF cat\na\nEOF", Script::Shell("<<EOF cat\na\nEOF".into()))]
#[case::program("RUN python3 <<EOF\n#!x\nEOF", Script::Shell("python3 <<EOF\n#!x\nEOF".into()))]
#[case::two("RUN <<A <<B\na\nA\nb\nB", Script::Shell("<<A <<B\na\nA\nb\nB".into()))]
#[case::tabs_are_the_shells(
    "RUN cat <<-'A'\n\ta\n\tA",
    Script::Shell("cat <<-'A'\n\ta\nA".into())
)]
#[case::continued("RUN cat <<A \\\n  | tac\na\nA", Script::Shell("cat <<A   | tac\na\nA".into()))]
fn heredocs_become_scripts(#[case] body: &str, #[case] script: Script) {
    assert_eq!(run(body).script(), script);
}

#[test]
fn a_copied_heredoc_is_a_file_with_its_own_rules() {
    let (_, stage) = stage("COPY <<a <<-'b' p /d/\n$x \"q\" \\$y\na\n\t$x\n\tb\n");
    let InstructionKind::Copy(copy) = &stage.instructions[0].kind else { panic!("a COPY") };
    let lookup = |name: &str| (name == "x").then(|| "1".to_owned());
    let files: Vec<(String, String)> = copy
        .transfer
        .inline
        .iter()
        .map(|file| (file.name.value.clone(), file.content.expand(&lookup).unwrap().text))
        .collect();
    assert_eq!(
        files,
        [("a".to_owned(), "1 \"q\" $y\n".to_owned()), ("b".to_owned(), "$x\n".to_owned())],
        "quotes stay, a quoted delimiter keeps variables"
    );
    assert_eq!(copy.transfer.paths[0].text, "p");
}

#[test]
fn a_trigger_reads_back_what_onbuild_keeps() {
    let body = "ONBUILD COPY --chown=1 <<a b /d/\n$x\na\n";
    let (_, stage) = stage(body);
    let InstructionKind::Onbuild(onbuild) = &stage.instructions[0].kind else { panic!("ONBUILD") };
    assert_eq!(onbuild.trigger, "COPY --chown=1 <<a b /d/\n$x\na");
    assert_eq!(onbuild.instruction.keyword.value, Keyword::Copy);
    let read = parse_trigger(&onbuild.trigger).unwrap();
    let (InstructionKind::Copy(read), InstructionKind::Copy(inner)) = (&read.kind, &onbuild.instruction.kind)
    else {
        panic!("COPY")
    };
    let texts = |copy: &CopyInstruction| {
        let transfer = &copy.transfer;
        (
            transfer.paths[0].text.clone(),
            transfer.inline[0].content.text.clone(),
            transfer.destination.text.clone(),
        )
    };
    assert_eq!(texts(read), texts(inner));
}

#[rstest]
#[case("FROM x", "FROM cannot be a trigger")]
#[case("RUN a\nRUN b", "a trigger is exactly one instruction")]
#[case("", "a trigger is exactly one instruction")]
#[case("RNU a", "`RNU` is not an instruction")]
#[case("COPY a", "COPY has no destination")]
#[case("RUN <<EOF", "the heredoc `EOF` is not closed")]
fn triggers_of_other_images_may_be_wrong(#[case] trigger: &str, #[case] message: &str) {
    assert_eq!(parse_trigger(trigger).unwrap_err().to_string(), message);
}

#[test]
fn stages_are_counted_and_arguments_before_them_are_global() {
    let file = parse("ARG A=1\nARG B C=2\nFROM x AS One\nRUN a\nfrom One\nFROM y aS two\n").unwrap();
    assert_eq!(file.global_args.len(), 2);
    let stages: Vec<_> = file
        .stages
        .iter()
        .map(|stage| (stage.index, stage.name(), stage.from.image.text.as_str(), stage.instructions.len()))
        .collect();
    assert_eq!(stages, [(0, Some("one"), "x", 1), (1, None, "One", 0), (2, Some("two"), "y", 0)]);
    assert_eq!(file.stages[2].from.name.as_ref().unwrap().keyword.value, "aS");
}

#[test]
fn comments_describe_what_follows_them() {
    let source = "# version of the base\n# other words\nARG version=1\n#\n# build makes it\nFROM x AS build\n# lost\n#\nRUN a\n";
    let file = parse(source).unwrap();
    assert_eq!(description(&file.global_args[0].comments, "version"), Some("of the base"));
    assert_eq!(description(&file.global_args[0].comments, ""), None);
    let stage = &file.stages[0];
    assert_eq!(description(&stage.from.comments, stage.name().unwrap()), Some("makes it"));
    assert!(stage.instructions[0].comments.is_empty(), "a comment sign alone starts over");
    for comment in file.global_args[0].comments.iter().chain(&stage.from.comments) {
        assert_eq!(comment.span.text(source), Some(comment.value.as_str()));
    }
}

#[test]
fn directives_are_kept() {
    let source =
        "# syntax=docker/dockerfile:1.7-labs\n# check=skip=A;error=true\n# escape=`\nFROM a\nRUN b `\n c\n";
    let directives = parse(source).unwrap().directives;
    assert_eq!(directives.syntax.unwrap().value, "docker/dockerfile:1.7-labs");
    assert_eq!(directives.escape, Escape::Backtick);
    let check = directives.check.unwrap().value;
    assert!(check.error && check.skip.contains("A"));
}

#[test]
fn ports_come_in_the_order_they_are_recorded() {
    let (source, stage) = stage("EXPOSE 9 80/tcp 10\n");
    let InstructionKind::Expose(ports) = &stage.instructions[0].kind else { panic!("EXPOSE") };
    let ports: Vec<_> =
        ports.iter().map(|port| (port.text.as_str(), port.span.text(&source).unwrap())).collect();
    assert_eq!(ports, [("10", "10"), ("80/tcp", "80/tcp"), ("9", "9")]);
}

#[test]
fn words_of_a_file_use_its_escape_character() {
    let file = parse("# escape=`\nFROM a\nENV A=`$x B=\\$x\n").unwrap();
    let InstructionKind::Env(pairs) = &file.stages[0].instructions[0].kind else { panic!("ENV") };
    let lookup = |_: &str| Some("1".to_owned());
    let values: Vec<String> = pairs.iter().map(|pair| pair.value.expand(&lookup).unwrap().text).collect();
    assert_eq!(values, ["$x", "\\1"]);
}

/// One mistake does not hide the next, and a broken instruction does not break its stage.
#[test]
fn all_mistakes_are_found_at_once() {
    let source = "FROM a AS 1\nENV A\nRUN ok\nCOPY --bad x\nFROM b\nWORKDIR\n";
    let findings = parse(source).unwrap_err();
    let index = LineIndex::new(source);
    let lines: Vec<usize> = findings.0.iter().map(|finding| index.line(finding.span().start)).collect();
    assert_eq!(lines, [1, 2, 4, 4, 6]);
}
