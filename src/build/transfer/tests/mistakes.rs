//! What is said of instructions that cannot be carried out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rstest::rstest;

use super::super::{Origin, Selection, Target, TransferError};
use super::bench::{Bench, instruction, reading, told};
use crate::layer::Tree;

const FILES: [&str; 9] = [
    "file .dockerignore 644 secret%0A*.log%0Adist/*%0A!dist/keep%0A",
    "file package.json 644 {}",
    "file src/main.rs 644 fn",
    "file secret 600 s",
    "file debug.log 644 l",
    "file dist/app 755 a",
    "file dist/keep 755 k",
    "link current 777 releases/7",
    "link outside 777 ../../etc/passwd",
];

fn context_error(lines: &[&str], line: &str) -> String {
    let bench = Bench::new();
    let context = bench.context("context", lines, 0);
    let text = format!("FROM scratch\n{line}\n");
    let transfer = instruction(&text).unwrap();
    let origin = Origin::context(context.clone(), "the build context");
    let error = bench.transfer(&transfer, origin, &Tree::default(), 2).unwrap_err();
    told(&error, &text).replace(&bench.path("context").display().to_string(), "CONTEXT")
}

#[test]
fn a_source_that_is_not_there_is_explained() {
    let lines = [
        "COPY package.jsn /x",
        "COPY src/mian.rs /x",
        "COPY a src/nothing /x/",
        "COPY secret /x",
        "COPY dist/app /x",
        "COPY current/app /x",
        "COPY ../package.json ../../up /x/",
        "COPY outside /x",
        "COPY --parents src/./mian.rs /x/",
        "COPY srcs/*.rs /x/",
        "COPY package.json/* /x/",
        "COPY package.json/x /x/",
        "COPY src[ /x/",
    ];
    let told: Vec<_> = lines
        .iter()
        .filter(|line| instruction(&format!("FROM scratch\n{line}\n")).is_ok())
        .map(|line| context_error(&FILES, line))
        .collect();
    insta::assert_snapshot!(told.join("\n----\n"));
}

#[rstest]
#[case("COPY *.log /x/", "`*.log` means no file in the build context", Some("line 2 is `*.log`"))]
#[case("COPY dist/a* /x/", "`dist/a*` means no file in the build context", Some("line 3 is `dist/*`"))]
#[case("COPY *.none /x/", "`*.none` means no file in the build context", None)]
fn a_pattern_that_means_nothing_is_told(
    #[case] line: &str,
    #[case] message: &str,
    #[case] hint: Option<&str>,
) {
    let bench = Bench::new();
    let context = bench.context("context", &FILES, 0);
    let transfer = instruction(&format!("FROM scratch\n{line}\n")).unwrap();
    let selection = Selection::new(
        transfer.clone(),
        Origin::context(context.clone(), "the build context"),
        reading(None, 1),
    )
    .unwrap();
    let [notice] = selection.notices() else { panic!("{:?}", selection.notices()) };
    assert_eq!(notice.message, message);
    let hints = format!("{notice:?}");
    assert!(hint.is_none_or(|hint| hints.contains(hint)), "{hints}");
    assert_eq!((selection.files(), selection.bytes()), (0, 0));
}

#[test]
fn what_is_in_the_way_is_named() {
    let bench = Bench::new();
    let context = bench.context("context", &FILES, 0);
    let base = ["dir d/package.json 755", "file f 644 f", "link l 777 l2", "link l2 777 l", "dir m/src 755"];
    let image = bench.tree(&[base.map(str::to_owned).to_vec()]);
    let lines = [
        "COPY package.json /d/",
        "COPY src /f",
        "COPY package.json /f/x",
        "COPY package.json /l/x",
        "COPY src package.json /f",
        "COPY package.json src/main.rs /new",
        "COPY --chown=web package.json /new",
        "COPY --chown=4294967295 package.json /new",
        "COPY --chmod=9 package.json /new",
        "COPY --exclude=package.json package.json /new",
    ];
    let mut all = Vec::new();
    for line in lines {
        let text = format!("FROM base\n{line}\n");
        let transfer = instruction(&text).unwrap();
        let origin = Origin::context(context.clone(), "the build context");
        all.push(told(&bench.transfer(&transfer, origin, &image, 1).unwrap_err(), &text));
    }
    insta::assert_snapshot!(all.join("\n----\n"));
}

/// Changes a file in some way.
fn change(path: &Path, how: &str) {
    match how {
        "content" => fs::write(path, "22").unwrap(),
        "longer" => fs::write(path, "longer").unwrap(),
        "shorter" => fs::write(path, "").unwrap(),
        "mode" => fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
        "replaced" => {
            let other = path.with_extension("new");
            fs::write(&other, fs::read(path).unwrap()).unwrap();
            fs::rename(other, path).unwrap();
        }
        how => panic!("{how}"),
    }
}

#[rstest]
fn a_file_that_changes_meanwhile_is_not_copied(
    #[values("a", "x.tar")] name: &str,
    #[values("content", "longer", "shorter", "mode", "replaced")] how: &str,
) {
    let bench = Bench::new();
    let context = bench.context("context", &["file a 644 11", "archive x.tar 644 plain.tar"], 0);
    let transfer = instruction(&format!("FROM scratch\nADD {name} /x/\n")).unwrap();
    let origin = Origin::context(context.clone(), "the build context");
    let selection = Selection::new(transfer.clone(), origin, reading(None, 1)).unwrap();
    let path = bench.path("context").join(name);
    super::bench::settle(&path);
    change(&path, how);
    let mut writer = bench.writer();
    let image = Tree::default();
    let target = Target { image: &image, store: &bench.store, time: Target::TIME };
    let error = selection.write(target, &mut writer).unwrap_err();
    assert!(matches!(&error, TransferError::Changed { path, .. } if path == name), "{error:?}");
}

#[test]
fn a_file_that_goes_away_meanwhile_is_named() {
    let bench = Bench::new();
    let context = bench.context("context", &["file d/a 644 1"], 0);
    let transfer = instruction("FROM scratch\nCOPY d /x/\n").unwrap();
    let origin = Origin::context(context.clone(), "the build context");
    let selection = Selection::new(transfer.clone(), origin, reading(None, 1)).unwrap();
    // A link to something else must not be followed.
    fs::remove_file(bench.path("context/d/a")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bench.path("context/d/a")).unwrap();
    let image = Tree::default();
    let target = Target { image: &image, store: &bench.store, time: Target::TIME };
    let error = selection.write(target, &mut bench.writer()).unwrap_err();
    assert!(told(&error, "").contains("context/d/a"), "{error:?}");
    // Nor may a directory become a link.
    fs::rename(bench.path("context/d"), bench.path("context/real")).unwrap();
    std::os::unix::fs::symlink("real", bench.path("context/d")).unwrap();
    let error = selection.write(target, &mut bench.writer()).unwrap_err();
    assert!(told(&error, "").contains("context/d"), "{error:?}");
}

#[rstest]
#[case("dotdot.tar", "../../evil")]
#[case("absolute-link.tar", "`/out/passwd` in the archive `x.tar` goes through `/out`")]
#[case("up-link.tar", "goes through `/out`, which is no directory there")]
#[case("swap.tar", "`/d/two` in the archive `x.tar` goes through `/d`")]
#[case("loop-link.tar", "goes through `/a`, which is no directory there")]
#[case(
    "hard-outside.tar",
    "`/h` in the archive `x.tar` is a hard link to `/etc/passwd`, which is no file there"
)]
#[case("hard-missing.tar", "is a hard link to `/nothing`, which is no file there")]
#[case("truncated.tar", "cannot unpack `x.tar` in the build context")]
#[case("truncated.tar.gz", "cannot unpack `x.tar` in the build context")]
#[case("whiteout.tar", ".wh.kept")]
fn a_hostile_archive_is_refused(#[case] archive: &str, #[case] message: &str) {
    let line = format!("archive x.tar 644 {archive}");
    // The image has what a link could be about.
    let told = context_error(&[&line], "ADD x.tar /u/");
    assert!(message.split('|').any(|message| told.contains(message)), "{told}");
}

#[test]
fn an_archive_stays_in_its_destination() {
    let bench = Bench::new();
    let context = bench.context("context", &["archive x.tar 644 absolute-link.tar"], 0);
    let base = ["file etc/passwd 644 root", "file u/etc/other 644 o"];
    let image = bench.tree(&[base.map(str::to_owned).to_vec()]);
    let transfer = instruction("FROM base\nADD x.tar /u/\n").unwrap();
    let made = bench.transfer(&transfer, Origin::context(context.clone(), "c"), &image, 1).unwrap();
    let lines = bench.lines(&made.layer);
    assert!(lines.iter().any(|line| line.starts_with("file u/etc/passwd ")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("file etc/")), "{lines:#?}");
}
