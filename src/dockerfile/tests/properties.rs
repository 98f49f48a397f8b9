//! What holds for every text.

use super::super::line::LogicalLine;
use super::super::scan::scan;
use super::super::*;
use proptest::prelude::*;

/// Texts that reach deep into the grammar: pieces of it in any order.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "FROM a\n", "FROM a AS b", "RUN ", "COPY ", "ADD ", "ENV ", "LABEL ", "ARG ", "CMD ", "HEALTHCHECK ",
            "ONBUILD ", "SHELL ", "EXPOSE ", "VOLUME ", "USER ", "WORKDIR ", "--mount=", "--from=x ", "--chown=",
            "type=cache,", "target=/x", "--link", "--", "<<EOF", "<<-'E F'", "EOF\n", "\tE F\n", "\\\n", "\n", "\r\n", " ",
            "\t", "\"", "'", "\\", "`", "$x", "${x:-", "}", "a=b", "=", ",", "[\"a\", \"b\"]", "[", "]", "# c\n",
            "# escape=`\n", "# syntax=x\n", "# check=skip=all\n", "é", "世界", "\u{a0}", "\u{feff}", "CMD x", "NONE", "0",
        ]),
        1 => any::<char>().prop_map(|letter| match letter { _ if letter < '\u{80}' => "x", _ => "𝒳" }),
    ];
    // Half of them begin as a file does, so that instructions are reached.
    (any::<bool>(), prop::collection::vec(piece, 0..40)).prop_map(|(file, pieces)| {
        let start = if file { "FROM a\n" } else { "" };
        format!("{start}{}", pieces.concat())
    })
}

fn check_span(span: Span, source: &str) -> Result<(), TestCaseError> {
    prop_assert!(span.text(source).is_some(), "{span:?} is not a piece of {source:?}");
    Ok(())
}

fn check_word(word: &Word, source: &str) -> Result<(), TestCaseError> {
    check_span(word.span, source)?;
    let expanded = word.expand(&|name| (name == "x").then(|| "value".to_owned()));
    if let Err(error) = expanded {
        check_span(word.explain(&error).span(), source)?;
    }
    Ok(())
}

fn check_instruction(instruction: &Instruction, source: &str) -> Result<(), TestCaseError> {
    check_span(instruction.span, source)?;
    check_span(instruction.keyword.span, source)?;
    prop_assert!(instruction.original.starts_with(&instruction.written));
    for comment in &instruction.comments {
        check_span(comment.span, source)?;
    }
    match &instruction.kind {
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            for pair in pairs {
                check_word(&pair.key, source)?;
                check_word(&pair.value, source)?;
            }
        }
        InstructionKind::Copy(copy) => {
            for word in copy.transfer.paths.iter().chain([&copy.transfer.destination]) {
                check_word(word, source)?;
            }
            for file in &copy.transfer.inline {
                check_word(&file.content, source)?;
            }
        }
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
            for word in words {
                check_word(word, source)?;
            }
        }
        InstructionKind::Workdir(word) | InstructionKind::User(word) => check_word(word, source)?,
        InstructionKind::Arg(args) => {
            for arg in args {
                prop_assert_eq!(arg.name.span.text(source).is_some(), true);
                prop_assert!(!arg.name.value.is_empty());
            }
        }
        InstructionKind::Run(run) => {
            let _ = run.script();
            for heredoc in &run.heredocs {
                prop_assert_eq!(heredoc.body.span.text(source), Some(heredoc.body.value.as_str()));
                check_span(heredoc.span, source)?;
            }
            for mount in &run.mounts {
                check_span(mount.span, source)?;
                for field in &mount.fields {
                    check_span(field.span, source)?;
                    check_span(field.key.span, source)?;
                }
                if let Err(finding) = mount.resolve(&mut |word: &Word| Ok(word.text.clone())) {
                    check_span(finding.span(), source)?;
                }
            }
        }
        InstructionKind::Onbuild(onbuild) => {
            check_instruction(&onbuild.instruction, source)?;
            prop_assert!(
                parse_trigger(&onbuild.trigger).is_ok() || source.contains('`'),
                "{:?}",
                onbuild.trigger
            );
        }
        _ => {}
    }
    Ok(())
}

fn check(source: &str) -> Result<(), TestCaseError> {
    let findings = match parse(source) {
        Ok(file) => {
            for instruction in
                file.global_args.iter().chain(file.stages.iter().flat_map(|stage| &stage.instructions))
            {
                check_instruction(instruction, source)?;
            }
            for stage in &file.stages {
                check_word(&stage.from.image, source)?;
                check_span(stage.from.span, source)?;
            }
            prop_assert!(!file.stages.is_empty() && !file.warnings.has_errors());
            file.warnings
        }
        Err(findings) => {
            prop_assert!(findings.has_errors());
            findings
        }
    };
    for finding in &findings.0 {
        for label in &finding.labels {
            check_span(label.span, source)?;
        }
        let drawn = finding.render(Source { name: "D", text: source }, false);
        prop_assert!(drawn.contains("D:"), "{}", drawn);
    }
    Ok(())
}

/// All bytes of a logical line come from the source, in order.
fn check_line(line: &LogicalLine, source: &str) -> Result<(), TestCaseError> {
    let mut last = 0;
    for (at, letter) in line.text.char_indices() {
        let span = line.span(at..at + letter.len_utf8());
        prop_assert_eq!(span.text(source), line.text.get(at..at + letter.len_utf8()));
        prop_assert!(span.start >= last, "bytes in order");
        last = span.end;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parsing_is_total_and_places_are_right(source in texts()) {
        check(&source)?;
    }

    #[test]
    fn parsing_takes_any_text(source in "(?s).{0,200}") {
        check(&source)?;
    }

    #[test]
    fn lines_are_made_of_the_source(source in texts()) {
        for statement in scan(&source).statements {
            check_line(&statement.line, &source)?;
            let whole = statement.span.text(&source);
            prop_assert!(whole.is_some());
            for heredoc in &statement.heredocs {
                prop_assert!(heredoc.body.span.end <= statement.span.end);
            }
        }
    }

    #[test]
    fn what_a_file_says_does_not_depend_on_its_line_ends(source in texts()) {
        // A carriage return alone is a character like others, and bodies of heredocs keep theirs.
        let source = source.replace('\r', "").replace("<<", "<");
        let windows = source.replace('\n', "\r\n");
        let texts = |source: &str| parse(source).map(|file| {
            file.stages.iter().flat_map(|stage| &stage.instructions).map(|it| it.original.clone()).collect::<Vec<_>>()
        }).map_err(|findings| findings.to_string());
        prop_assert_eq!(texts(&source), texts(&windows));
    }

    #[test]
    fn a_statement_comes_back_from_its_original_text(source in texts()) {
        let source = source.replace("<<", "<").replace('`', "");
        if let Ok(file) = parse(&source) {
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                // A line that ends with the escape character or begins with a mark was not the last or the first.
                if instruction.original.ends_with('\\') || instruction.original.contains('\u{feff}') {
                    continue;
                }
                let again = parse_trigger(&instruction.original);
                prop_assert!(again.is_ok_and(|again| again.original == instruction.original), "{:?}", instruction.original);
            }
        }
    }
}

/// Megabytes of nesting, quotes and continuations.
#[test]
fn long_texts_take_neither_stack_nor_long() {
    for unit in ["${a:-", "\\\n", "\"", "[", "--a ", "<<A ", "a=b ", "é"] {
        for head in ["RUN ", "ENV a=", "COPY ", "CMD ", "RUN --mount="] {
            let source = format!("FROM a\n{head}{}", unit.repeat(40_000));
            if let Ok(file) = parse(&source)
                && let Some(InstructionKind::Env(pairs)) =
                    file.stages[0].instructions.first().map(|it| &it.kind)
            {
                let _ = pairs[0].value.expand(&|_| None);
            }
        }
    }
}
