//! What the digest of a selection depends on, and what is remembered of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rstest::rstest;

use super::super::{Origin, Selection, keep, recall};
use super::bench::{Bench, instruction, reading, set_time, settle};
use crate::context::{Digests, LocalContext};
use crate::image::Digest;
use crate::layer::Tree;

fn select(bench: &Bench, name: &str, lines: &[String], instruction_line: &str, older: i64) -> Digest {
    let context = bench.context(name, lines, older);
    let transfer = instruction(&format!("FROM scratch\n{instruction_line}\n")).unwrap();
    Selection::new(transfer.clone(), Origin::context(context.clone(), "c"), reading(None, 1))
        .unwrap()
        .digest()
}

fn strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[rstest]
#[case::content("file d/a 644 1", "file d/a 644 2", true)]
#[case::mode("file d/a 644 1", "file d/a 600 1", true)]
#[case::name("file d/a 644 1", "file d/b 644 1", true)]
#[case::place("file d/a 644 1", "file d/e/a 644 1", true)]
#[case::kind("file d/a 644 1", "link d/a 777 1", true)]
#[case::target("link d/a 777 1", "link d/a 777 2", true)]
#[case::empty("file d/a 644 ", "dir d/a 644", true)]
#[case::outside("file other 644 1", "file other 600 2", false)]
#[case::the_directory_itself("dir d 755", "dir d 700", false)]
fn it_depends_on_what_is_copied(#[case] one: &str, #[case] other: &str, #[case] differs: bool) {
    let bench = Bench::new();
    let always = "file d/always 644 x";
    let one = select(&bench, "one", &strings(&[one, always]), "COPY d /x/", 0);
    let other = select(&bench, "other", &strings(&[other, always]), "COPY d /x/", 7);
    assert_eq!(one != other, differs);
}

#[test]
fn a_mode_that_is_replaced_does_not_count() {
    let bench = Bench::new();
    let at = |name, mode, line| select(&bench, name, &strings(&[&format!("file a {mode} 1")]), line, 0);
    assert_eq!(at("1", 600, "COPY --chmod=755 a /x"), at("2", 644, "COPY --chmod=755 a /x"));
    assert_ne!(at("3", 600, "COPY --chmod=u+x a /x"), at("4", 644, "COPY --chmod=u+x a /x"));
    assert_ne!(at("5", 600, "COPY --chmod=755 a /x"), at("6", 600, "COPY --chmod=700 a /x"));
    assert_ne!(at("7", 600, "COPY --chown=1 a /x"), at("8", 600, "COPY a /x"));
    assert_ne!(at("9", 600, "COPY --chown=1:2 a /x"), at("10", 600, "COPY --chown=1 a /x"));
}

#[test]
fn owners_and_capabilities_of_a_stage_count() {
    let bench = Bench::new();
    let digest = |name: &str, lines: &[&str], line: &str| {
        let root = bench.root(name, lines);
        let transfer = instruction(&format!("FROM scratch\n{line}\n")).unwrap();
        Selection::new(transfer.clone(), Origin::root(root.clone(), "stage `s`"), reading(None, 1))
            .unwrap()
            .digest()
    };
    let plain = digest("1", &["file d/a 755@1:2 x"], "COPY --from=src /d /x/");
    assert_eq!(plain, digest("2", &["file other 600 y", "file d/a 755@1:2 x"], "COPY --from=src /d /x/"));
    assert_ne!(plain, digest("3", &["file d/a 755@1:3 x"], "COPY --from=src /d /x/"));
    let capable =
        ["file d/a 755@1:2 x", "xattr d/a - security.capability 0100000200200000000000000000000000000000"];
    assert_ne!(plain, digest("4", &capable, "COPY --from=src /d /x/"));
    let owned = digest("5", &["file d/a 755@1:2 x"], "COPY --from=src --chown=7 /d /x/");
    assert_eq!(owned, digest("6", &["file d/a 755@3:4 x"], "COPY --from=src --chown=7 /d /x/"));
}

/// Enough files that several threads have something to do.
#[test]
fn threads_and_order_of_creation_change_no_byte() {
    let bench = Bench::new();
    let mut lines: Vec<_> =
        (0..500).map(|n| format!("file d{}/f{n} 644 content%20of%20{n}", n % 7)).collect();
    lines.push("hard d0/again - d1/f1".into());
    let one = bench.context("one", &lines, 0);
    let hard = lines.pop().unwrap();
    lines.reverse();
    lines.push(hard);
    let other = bench.context("other", &lines, 0);
    for entry in ["one", "other"] {
        flatten_times(&bench.path(entry));
    }
    let transfer = instruction("FROM scratch\nCOPY . /x/\n").unwrap();
    let image = Tree::default();
    let first = bench.transfer(&transfer, Origin::context(one.clone(), "c"), &image, 1).unwrap();
    for threads in [2, 8] {
        let made = bench.transfer(&transfer, Origin::context(other.clone(), "c"), &image, threads).unwrap();
        assert_eq!(made.selection, first.selection);
        assert_eq!(made.layer.digest, first.layer.digest);
    }
    assert_eq!(first.notices, Vec::<String>::new());
}

fn flatten_times(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            flatten_times(&entry.path());
        }
        set_time(&entry.path(), 1_000_000_000);
    }
}

/// Some files by name, each with its mode and content.
fn files() -> impl Strategy<Value = BTreeMap<String, (u32, String)>> {
    let name = "[a-c](/[a-c]){0,1}[.][tx]";
    let file = (prop::sample::select(vec![0o600, 0o644, 0o755]), "[xy]{0,3}");
    prop::collection::btree_map(name, file, 1..5)
}

fn lines_of(files: &BTreeMap<String, (u32, String)>) -> Vec<String> {
    files.iter().map(|(name, (mode, content))| format!("file {name} {mode:o} {content}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn it_changes_exactly_if_a_file_does(one in files(), mut other in files(), same in 0..4) {
        if same == 0 {
            other = one.clone();
        }
        let bench = Bench::new();
        let first = select(&bench, "one", &lines_of(&one), "COPY . /x/", 0);
        let second = select(&bench, "other", &lines_of(&other), "COPY . /x/", 3_600);
        prop_assert_eq!(first == second, one == other);
    }
}

fn learn(bench: &Bench, context: &Arc<LocalContext>, digests: &Digests) -> Digest {
    let transfer = instruction("FROM scratch\nCOPY . /x/\n").unwrap();
    let selection =
        Selection::new(transfer.clone(), Origin::context(context.clone(), "c"), reading(Some(digests), 2));
    let digest = selection.unwrap().digest();
    keep(&bench.store, context, digests).unwrap();
    digest
}

/// A file that cannot be read is no obstacle where nothing has to be read; that the stamp would tell of a change, the ctime
/// sees to.
#[test]
fn what_is_remembered_is_not_read_again() {
    let bench = Bench::new();
    let context = bench.context("context", &["file a 644 1", "file d/b 644 2", "hard c - a"], 0);
    let digests = recall(&bench.store, &context).unwrap().expect("a file system whose times can be trusted");
    settle(&bench.path("context/a"));
    settle(&bench.path("context/d/b"));
    let first = learn(&bench, &context, &digests);
    assert_eq!(digests.learnt(), 2, "a hard link is read once");

    let digests = recall(&bench.store, &context).unwrap().unwrap();
    assert_eq!(learn(&bench, &context, &digests), first);
    assert_eq!(digests.learnt(), 0, "nothing was read");

    // What is remembered is taken at its word: a wrong digest makes another selection.
    let forged = Digests::default();
    let stamp = context.lookup(b"a").unwrap().unwrap().stamp;
    forged.learn(stamp, crate::context::Known { digest: Digest::of(b"forged"), has_attributes: false });
    let mut bytes = Vec::new();
    forged.write(&mut bytes).unwrap();
    assert_ne!(learn(&bench, &context, &Digests::read(bytes)), first);

    // A change of the content is seen, even one that sets the time back.
    fs::write(bench.path("context/a"), "9").unwrap();
    set_time(&bench.path("context/a"), 1_600_000_001);
    settle(&bench.path("context/a"));
    let digests = recall(&bench.store, &context).unwrap().unwrap();
    assert_ne!(learn(&bench, &context, &digests), first);
    assert_eq!(digests.learnt(), 1, "the one that changed, and no other");
}

/// A stamp of the tick in which the file is read says nothing: it is read again each time until it is older.
#[test]
fn a_file_of_this_very_moment_is_not_remembered() {
    let bench = Bench::new();
    let context = bench.context("context", &["file a 644 1"], 0);
    let path = bench.path("context/a");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        fs::write(&path, "2").unwrap();
        let digests = Digests::default();
        learn(&bench, &context, &digests);
        if digests.learnt() == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "never read in the tick in which it was written");
    }
    settle(&path);
    let digests = recall(&bench.store, &context).unwrap().unwrap();
    learn(&bench, &context, &digests);
    assert_eq!(digests.learnt(), 1, "by now it is old enough");
}

/// Attributes are not in the record: a file that has some is opened for them, and not hashed.
#[test]
fn attributes_of_remembered_files_are_read() {
    let bench = Bench::new();
    let context = bench.context("context", &["file a 644 1"], 0);
    let path = bench.path("context/a");
    let without = learn(&bench, &context, &Digests::default());
    let set = |value: &[u8]| rustix::fs::setxattr(&path, "user.note", value, rustix::fs::XattrFlags::empty());
    set(b"one").unwrap();
    settle(&path);
    let digests = recall(&bench.store, &context).unwrap().unwrap();
    let with = learn(&bench, &context, &digests);
    assert_ne!(with, without);
    let digests = recall(&bench.store, &context).unwrap().unwrap();
    assert_eq!(learn(&bench, &context, &digests), with);
    assert_eq!(digests.learnt(), 0);
}
