//! The conformance suite of the Dockerfile language: what each case of `testdata/conformance` comes to, against what BuildKit
//! makes of it.
//!
//! A case is a Dockerfile with a context. The binary builds it and pushes the image to a registry; the image is read by hand
//! ([`answer`]) and compared with the answer that is kept beside the case, which `renew` asks BuildKit for. Where another
//! answer is meant, the case says which, and `docs/conformance.md` why.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod answer;
mod area;
mod case;
mod files;
mod images;
mod known;
mod renew;
mod run;
mod web;

use std::collections::BTreeSet;

use area::Area;
use case::Case;
use run::Ours;
use support::testdata;

/// One test an area: its cases are built one after the other, with one state directory, as a pipeline would.
macro_rules! areas {
    ($($name:ident),* $(,)?) => {
        /// The names of the files of cases.
        const AREAS: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*
    };
}

areas![
    add,
    arg,
    config,
    contexts,
    copy,
    env,
    errors,
    expansion,
    flags,
    from,
    healthcheck,
    heredoc,
    ignore,
    label,
    mounts,
    onbuild,
    parse,
    platform,
    platforms,
    remote,
    run,
    shell,
    stages,
    user,
    workdir,
];

fn check(name: &str) {
    let area = Area::read(name);
    let ours = Ours::new();
    let mut wrong = Vec::new();
    for (number, case) in area.cases.iter().enumerate() {
        let Some(theirs) = area.answers.get(&case.title) else {
            wrong.push(format!("{}: BuildKit has not been asked: renew the answers", case.title));
            continue;
        };
        if theirs.of != case.fingerprint() {
            wrong.push(format!(
                "{}: the case is another than BuildKit was asked: renew the answers",
                case.title
            ));
            continue;
        }
        let ran = ours.build(case, name, number);
        if let Err(difference) = known::compare(case, &theirs.lines, &ran) {
            wrong.push(format!("{}\n{difference}", case.title));
        }
    }
    assert!(wrong.is_empty(), "{} of {name}'s cases:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_file_of_cases_is_an_area() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(testdata("conformance")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(area) = name.strip_suffix(".txt").or_else(|| name.strip_suffix(".golden")) {
            found.insert(area.to_owned());
        }
    }
    assert_eq!(found, AREAS.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn there_are_many_cases_and_no_two_have_one_title() {
    let mut titles = BTreeSet::new();
    let mut texts = BTreeSet::new();
    for name in AREAS {
        for case in Area::read(name).cases {
            assert!(titles.insert(case.title.clone()), "two cases are called {:?}", case.title);
            assert!(texts.insert(case.fingerprint()), "{:?} asks what another case asks", case.title);
        }
    }
    assert!(titles.len() >= 300, "only {} cases were found: are they still written like this?", titles.len());
}

#[test]
fn what_differs_is_documented() {
    let cases: Vec<Case> = AREAS.iter().flat_map(|name| Area::read(name).cases).collect();
    known::check_documentation(&cases);
}

/// Asks BuildKit anew; of all areas, or of those that the variable `AREAS` names.
#[test]
#[ignore = "writes the answers that the other tests compare with"]
fn renew() {
    renew::renew(AREAS);
}
