//! What a user reads: `testdata/dockerfile/errors.txt` and `warnings.txt` hold Dockerfiles under a title each, and
//! the snapshots beside them every finding as it is drawn.

use super::super::*;
use std::fmt::Write;

/// The titles and texts of a file of cases.
fn cases(file: &str) -> Vec<(&str, &str)> {
    file.split("===== ").skip(1).filter_map(|case| case.split_once('\n')).collect()
}

fn snapshot(name: &str, drawn: &str) {
    insta::with_settings!({ snapshot_path => "../../../testdata/dockerfile", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, drawn);
    });
}

#[test]
fn errors_say_what_is_wrong_where_and_what_was_meant() {
    let mut drawn = String::new();
    let cases = cases(include_str!("../../../testdata/dockerfile/errors.txt"));
    assert!(cases.len() > 100, "{} cases were read", cases.len());
    for (title, text) in cases {
        let findings = parse(text).expect_err(title);
        assert!(findings.has_errors(), "{title}");
        let source = Source { name: "Dockerfile", text };
        write!(drawn, "===== {title}\n{}\n\n", findings.render(source, false)).unwrap();
    }
    snapshot("errors", &drawn);
}

#[test]
fn warnings_say_what_has_no_effect() {
    let mut drawn = String::new();
    for (title, text) in cases(include_str!("../../../testdata/dockerfile/warnings.txt")) {
        let file = parse(text).expect(title);
        assert!(!file.warnings.has_errors());
        let source = Source { name: "Dockerfile", text };
        write!(drawn, "===== {title}\n{}\n\n", file.warnings.render(source, false)).unwrap();
    }
    snapshot("warnings", &drawn);
}

/// Mounts are understood when a step is planned; their findings point into the flag all the same.
#[test]
fn errors_of_mounts_point_into_the_flag() {
    let mut drawn = String::new();
    for mount in [
        "type=cahce,target=/x",
        "type=cache,tarjet=/x",
        "type=cache,target=/x,sharing=lock",
        "type=cache,target=/x,sharing=mine",
        "type=cache,target=/x,mode=rwx",
        "type=cache,target=/x,uid=root",
        "type=bind,target=/x,mode=0755",
        "type=bind,target=/x,required",
        "required,type=secret,id=a",
        "size=1m,type=tmpfs,target=/x",
        "type=tmpfs,target=/x,size=big",
        "type=bind,target=/x,ro=maybe",
        "type=bind,target",
        "type=bind,,target=/x",
        "type=bind,target=/x,bogus",
        "type=secret",
        "type=secret,id=a,src=b",
        "type=secret,id=a,from=b",
        "type=secret,id=a,env=",
        "type=secret,id=a,sharing=locked",
        "type=ssh,source=a",
        "type=tmpfs,target=/x,source=a",
        "type=$KIND,target=/x",
        "type=cache,target='/a b',id=${MISSING:?name-it}",
        // Warnings.
        "type=bind,target=/x,id=a,env=B",
        "type=tmpfs,target=/x,from=a",
        "type=secret,id=a,rw",
    ] {
        let text = format!("FROM a\nRUN --mount={mount} make\n");
        let source = Source { name: "Dockerfile", text: &text };
        let file = parse(&text).unwrap();
        let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else { panic!("a RUN") };
        let mut expand = |word: &Word| {
            let lookup = |name: &str| (name == "KIND").then(|| "bond".to_owned());
            word.expand(&lookup).map(|done| done.text).map_err(|error| word.explain(&error))
        };
        let findings = match run.mounts[0].resolve(&mut expand) {
            Err(finding) => vec![finding],
            Ok(resolved) => resolved.warnings,
        };
        assert!(!findings.is_empty(), "{mount}");
        writeln!(drawn, "{}\n", Diagnostics(findings).render(source, false)).unwrap();
    }
    snapshot("mounts", &drawn);
}
