//! Why a step was not found: the fields of its key against those of the last time.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::image::Digest;
use crate::plan::{KeyPart, sounds_secret};
use crate::store::{Store, StoreError};

/// The kind of side file that lists the files of a selection, under the digest of the list.
pub const FILE_LISTS: &str = "files";

/// A step of a Dockerfile, told apart from all others on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The context and the Dockerfile, as the user knows them.
    pub dockerfile: String,
    /// The stage: its name, or its number.
    pub stage: String,
    /// The step's number in its stage.
    pub step: usize,
}

impl Place {
    pub(super) fn key(&self) -> String {
        let text = format!("{}\0{}\0{}", self.dockerfile, self.stage, self.step);
        Digest::of(text.as_bytes()).hex()
    }
}

/// One input that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which: `file src/app.py`, `environment VERSION`, `command`.
    pub what: String,
    /// What it was; none if it was not there.
    pub before: Option<String>,
    /// What it is; none if it is gone.
    pub after: Option<String>,
}

/// Why a step was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explanation {
    /// It was never built here.
    New,
    /// Its inputs have changed.
    Changed(Vec<Change>),
    /// Only the step before it has.
    Follows,
    /// Only what is before it is another step, for one has come or gone.
    Moved,
    /// Nothing has: the result was pruned, or was never made.
    Gone,
}

impl Explanation {
    /// In one sentence without a full stop.
    pub fn reason(&self) -> String {
        match self {
            Self::New => "not built here before".to_owned(),
            Self::Follows => "a step before it has changed".to_owned(),
            Self::Moved => "a step before it is new or gone".to_owned(),
            Self::Gone => "its result is no longer in the cache".to_owned(),
            Self::Changed(changes) => match changes.as_slice() {
                [one] => format!("{} {}", one.what, verb(one)),
                [first, rest @ ..] => format!("{} {}, and {} more", first.what, verb(first), rest.len()),
                [] => "its inputs have changed".to_owned(),
            },
        }
    }

    /// What has changed.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Changed(changes) => changes,
            _ => &[],
        }
    }
}

fn verb(change: &Change) -> &'static str {
    match (&change.before, &change.after) {
        (None, Some(_)) => "is new",
        (Some(_), None) => "is gone",
        _ => "has changed",
    }
}

/// What is kept beside the key of a stage's first step, and is not in it: the image that the stage is built upon, and its digest.
pub const BASE_IMAGE: &str = "the base image";
/// Fields that say where a step stands, not what it does.
const PREVIOUS: &str = "previous step";
/// How fields of the environment begin.
pub(super) const ENVIRONMENT: &str = "environment ";
/// What is told of a value that was, and of one that is, if neither is to be told.
const ANOTHER: &str = "another value";
const HIDDEN: &str = "a value that is not shown";
/// The field of a selection of files, whose value is the digest of their list.
const FILES: &str = "files";

/// Why the steps of a stage have no result: each is compared with the step that it most likely was the last time, which need not
/// have had its number.
pub(super) fn stage(
    last: &[Vec<KeyPart>],
    now: &[&[KeyPart]],
    files: &dyn Fn(&Digest) -> Result<Option<FileList>, StoreError>,
) -> Result<Vec<Explanation>, StoreError> {
    let mut claimed: BTreeMap<usize, usize> = BTreeMap::new();
    let nearest = |claimed: &BTreeMap<usize, usize>, number: usize, fits: &dyn Fn(&[KeyPart]) -> bool| {
        let taken = |old: usize| claimed.values().any(|taken| *taken == old);
        let fitting = last.iter().enumerate().filter(|(old, parts)| !taken(*old) && fits(parts));
        fitting.map(|(old, _)| old).min_by_key(|old| old.abs_diff(number))
    };
    for (number, parts) in now.iter().enumerate() {
        if let Some(old) = nearest(&claimed, number, &|old| essence(old) == essence(parts)) {
            claimed.insert(number, old);
        }
    }
    for (number, parts) in now.iter().enumerate() {
        if !claimed.contains_key(&number)
            && let Some(old) = nearest(&claimed, number, &|old| instruction(old) == instruction(parts))
        {
            claimed.insert(number, old);
        }
    }
    let explain = |(number, parts): (usize, &&[KeyPart])| {
        let was = claimed.get(&number).and_then(|old| last.get(*old));
        let explanation = compare(was.map(Vec::as_slice), parts, files)?;
        Ok(match (explanation, claimed.get(&number)) {
            (Explanation::Follows, Some(old)) if *old != number => Explanation::Moved,
            (explanation, _) => explanation,
        })
    };
    now.iter().enumerate().map(explain).collect()
}

/// What a step does, without what it is done to.
fn essence(parts: &[KeyPart]) -> Vec<(&str, &str)> {
    let own = parts.iter().filter(|part| ![PREVIOUS, FILES, BASE_IMAGE].contains(&part.name.as_str()));
    own.map(|part| (part.name.as_str(), part.value.as_str())).collect()
}

fn instruction(parts: &[KeyPart]) -> Option<&str> {
    parts.iter().find(|part| part.name == "instruction").map(|part| part.value.as_str())
}

fn compare(
    last: Option<&[KeyPart]>,
    now: &[KeyPart],
    files: &dyn Fn(&Digest) -> Result<Option<FileList>, StoreError>,
) -> Result<Explanation, StoreError> {
    let Some(last) = last else { return Ok(Explanation::New) };
    let (last, now) = (with_mounts(last), with_mounts(now));
    let (mut before, mut after) = (by_name(&last), by_name(&now));
    // It is told of first steps alone, and says something only against that of another.
    let base = (BASE_IMAGE, 0);
    if !(before.contains_key(&base) && after.contains_key(&base)) {
        before.remove(&base);
        after.remove(&base);
    }
    let mut changes = Vec::new();
    for (name, value) in &before {
        match after.get(name) {
            Some(now) if is_same(value, now) => {}
            Some(now) if name.0 == FILES => changes.extend(changed_files(value, now, files)?),
            Some(now) => changes.extend(change(name, Some(value), Some(now))),
            None => changes.extend(change(name, Some(value), None)),
        }
    }
    for (name, value) in &after {
        if !before.contains_key(name) {
            changes.extend(change(name, None, Some(value)));
        }
    }
    let follows = changes.iter().any(|change| change.what == PREVIOUS);
    changes.retain(|change| change.what != PREVIOUS);
    Ok(match (changes.is_empty(), follows) {
        (false, _) => Explanation::Changed(changes),
        (true, true) => Explanation::Follows,
        (true, false) => Explanation::Gone,
    })
}

/// The fields with those of each mount as one, which is called by its target.
fn with_mounts(parts: &[KeyPart]) -> Vec<KeyPart> {
    let mut found: Vec<KeyPart> = Vec::new();
    let mut mount: Vec<&KeyPart> = Vec::new();
    let take = |mount: &mut Vec<&KeyPart>, found: &mut Vec<KeyPart>| {
        let Some(kind) = mount.first().map(|part| part.value.clone()) else { return };
        let target = mount.iter().find(|part| part.name == "mount target").map(|part| part.value.as_str());
        let name = target
            .filter(|target| !target.is_empty())
            .map_or("mount".to_owned(), |at| format!("mount at {at}"));
        let said =
            |part: &&&KeyPart| part.name != "mount target" && !matches!(part.value.as_str(), "" | "no");
        let words = mount.iter().skip(1).filter(said).map(|part| {
            let name = part.name.trim_start_matches("mount ");
            if part.value == "yes" { name.to_owned() } else { format!("{name} {}", part.value) }
        });
        let value = std::iter::once(kind).chain(words).collect::<Vec<_>>().join(", ");
        found.push(KeyPart { name, value });
        mount.clear();
    };
    for part in parts {
        if part.name == "mount" {
            take(&mut mount, &mut found);
        }
        match part.name == "mount" || part.name.starts_with("mount ") {
            true => mount.push(part),
            false => found.push(part.clone()),
        }
    }
    take(&mut mount, &mut found);
    found
}

/// Fields by name; several of one name by their number too.
fn by_name(parts: &[KeyPart]) -> BTreeMap<(&str, usize), &str> {
    let mut fields = BTreeMap::new();
    for part in parts {
        let mut number = 0;
        while fields.contains_key(&(part.name.as_str(), number)) {
            number += 1;
        }
        fields.insert((part.name.as_str(), number), part.value.as_str());
    }
    fields
}

/// Whether a field has the value that it had: itself, or its digest.
fn is_same(before: &str, now: &str) -> bool {
    let is_digest = |digest: &str, value: &str| {
        digest.parse::<Digest>().is_ok_and(|digest| digest == Digest::of(value.as_bytes()))
    };
    before == now || is_digest(before, now) || is_digest(now, before)
}

/// What of a field is told, if it has changed. Of a value that sounds like a secret, or is known by its digest alone, it is told
/// that it is another: logs have more readers than builds, and a digest says nothing to anybody.
fn change(name: &(&str, usize), before: Option<&str>, after: Option<&str>) -> Option<Change> {
    let variable = name.0.strip_prefix(ENVIRONMENT);
    let is_secret = variable.is_some_and(sounds_secret);
    let shown = |value: &str, hidden: &str| match value.parse::<Digest>() {
        _ if is_secret => hidden.to_owned(),
        Ok(_) if variable.is_some() => hidden.to_owned(),
        _ => value.to_owned(),
    };
    let what = match name.0 {
        "layer" => "how layers are written",
        other => other,
    };
    // What is empty was not said.
    let said = |value: &&str| !value.is_empty() && *value != Digest::of(b"").to_string();
    let (before, after) = (before.filter(said), after.filter(said));
    let told = Change {
        what: what.to_owned(),
        before: before.map(|value| shown(value, ANOTHER)),
        after: after.map(|value| shown(value, HIDDEN)),
    };
    (before != after).then_some(told)
}

/// The digests of the selections of files that fields speak of.
pub fn selections(parts: &[KeyPart]) -> impl Iterator<Item = Digest> {
    parts.iter().filter(|part| part.name == FILES).filter_map(|part| selection(&part.value))
}

fn selection(value: &str) -> Option<Digest> {
    // Of a mount the mode of its top follows.
    value.split(' ').next().and_then(|word| word.parse().ok())
}

/// The files that differ between two selections, if both lists are still known.
fn changed_files(
    before: &str,
    after: &str,
    files: &dyn Fn(&Digest) -> Result<Option<FileList>, StoreError>,
) -> Result<Vec<Change>, StoreError> {
    let load = |value: &str| selection(value).map_or(Ok(None), |digest| files(&digest));
    let (Some(before), Some(after)) = (load(before)?, load(after)?) else {
        let of_context = selection(before).is_some() && selection(after).is_some();
        let what = if of_context { "what it takes files from" } else { "the stage that it takes files from" };
        let short = |value: &str| Some(value.trim_start_matches("sha256:").chars().take(12).collect());
        return Ok(vec![Change { what: what.to_owned(), before: short(before), after: short(after) }]);
    };
    let mut changes = Vec::new();
    for (path, was) in &before.0 {
        match after.0.get(path) {
            Some(is) if is == was => {}
            other => changes.push(file_change(path, Some(was), other)),
        }
    }
    for (path, is) in after.0.iter().filter(|(path, _)| !before.0.contains_key(*path)) {
        changes.push(file_change(path, None, Some(is)));
    }
    Ok(changes)
}

fn file_change(path: &str, before: Option<&String>, after: Option<&String>) -> Change {
    Change { what: format!("file {path}"), before: before.cloned(), after: after.cloned() }
}

/// The files of a selection: path, and what of each goes into the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList(pub BTreeMap<String, String>);

impl FileList {
    /// The list of a digest: lines of a path, a tab, and a description.
    pub(super) fn load(store: &Store, digest: &Digest) -> Result<Option<Self>, StoreError> {
        let Some(mut file) = store.side(FILE_LISTS, digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        if file.read_to_end(&mut bytes).is_err() {
            return Ok(None);
        }
        Ok(Some(Self::parse(&String::from_utf8_lossy(&bytes))))
    }

    /// The list as it is stored.
    pub(super) fn text(&self) -> String {
        let clean = |text: &str| text.replace(['\t', '\n'], "?");
        self.0.iter().map(|(path, description)| format!("{}\t{description}\n", clean(path))).collect()
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        Self(lines.map(|(path, description)| (path.to_owned(), description.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(fields: &[(&str, &str)]) -> Vec<KeyPart> {
        fields.iter().map(|(name, value)| KeyPart { name: (*name).into(), value: (*value).into() }).collect()
    }

    fn explain(before: &[(&str, &str)], after: &[(&str, &str)]) -> Explanation {
        compare(Some(&parts(before)), &parts(after), &|_| Ok(None)).unwrap()
    }

    #[test]
    fn a_step_says_what_has_changed() {
        let base = [("command", "make"), ("environment A", "1"), ("previous step", "x")];
        let cases: [(&[(&str, &str)], &str); 5] = [
            (
                &[("command", "make all"), ("environment A", "1"), ("previous step", "x")],
                "command has changed",
            ),
            (
                &[("command", "make"), ("environment A", "2"), ("previous step", "y")],
                "environment A has changed",
            ),
            (&[("command", "make"), ("previous step", "x")], "environment A is gone"),
            (
                &[("command", "make"), ("environment A", "1"), ("previous step", "y")],
                "a step before it has changed",
            ),
            (&base, "its result is no longer in the cache"),
        ];
        for (after, reason) in cases {
            assert_eq!(explain(&base, after).reason(), reason);
        }
        assert_eq!(compare(None, &[], &|_| Ok(None)).unwrap().reason(), "not built here before");
        let two = explain(
            &base,
            &[("command", "x"), ("environment A", "2"), ("environment B", "3"), ("previous step", "x")],
        );
        assert_eq!(two.reason(), "command has changed, and 2 more");
    }

    #[test]
    fn a_first_step_tells_its_base_from_a_step_that_is_gone() {
        let base = |digest: &'static str| (BASE_IMAGE, digest);
        let first = [("instruction", "RUN"), ("command", "a"), ("previous step", "base"), base("x:1@1")];
        let second = [("instruction", "RUN"), ("command", "b"), ("previous step", "a")];
        let last = [parts(&first), parts(&second)];
        let explain = |now: &[&[(&str, &str)]]| {
            let now: Vec<Vec<KeyPart>> = now.iter().map(|step| parts(step)).collect();
            let now: Vec<&[KeyPart]> = now.iter().map(Vec::as_slice).collect();
            stage(&last, &now, &|_| Ok(None)).unwrap()
        };
        // The first is gone, and the second stands where it stood, on the same base.
        let moved = [("instruction", "RUN"), ("command", "b"), ("previous step", "base"), base("x:1@1")];
        assert_eq!(explain(&[&moved]), [Explanation::Moved]);
        // One has come before it.
        let new = [("instruction", "RUN"), ("command", "c"), ("previous step", "a")];
        let behind = [("instruction", "RUN"), ("command", "b"), ("previous step", "c")];
        assert_eq!(explain(&[&first, &new, &behind])[1..], [Explanation::New, Explanation::Moved]);
        // The base is another.
        let other = [("instruction", "RUN"), ("command", "a"), ("previous step", "other"), base("x:1@2")];
        let found = explain(&[&other]).remove(0);
        assert_eq!(found.reason(), "the base image has changed");
        let [change] = found.changes() else { panic!("{found:?}") };
        assert_eq!((change.before.as_deref(), change.after.as_deref()), (Some("x:1@1"), Some("x:1@2")));
        // Versions before did not keep it.
        assert_eq!(explain(&[&other[..3]]), [Explanation::Follows]);
    }

    #[test]
    fn values_that_sound_like_secrets_are_not_told() {
        let hidden = |value: &str| Digest::of(value.as_bytes()).to_string();
        let (old, new) = (hidden("old-value"), hidden("new-value"));
        let name = "environment NPM_TOKEN";
        // Versions before kept the value itself.
        for before in ["old-value", &old] {
            let found = explain(&[(name, before)], &[(name, &new)]);
            assert_eq!(found.reason(), "environment NPM_TOKEN has changed");
            let [change] = found.changes() else { panic!("{found:?}") };
            assert_eq!(change.before.as_deref(), Some("another value"));
            assert_eq!(change.after.as_deref(), Some("a value that is not shown"));
            assert_eq!(explain(&[(name, before)], &[(name, &old)]), Explanation::Gone);
        }
        let found = explain(&[], &[(name, &new)]);
        assert_eq!(found.reason(), "environment NPM_TOKEN is new");
        assert_eq!(found.changes()[0].after.as_deref(), Some("a value that is not shown"));
        let found = explain(&[(name, "old-value")], &[]);
        assert_eq!(found.changes()[0].before.as_deref(), Some("another value"));
        // An empty one is none.
        assert_eq!(explain(&[], &[(name, &hidden(""))]), Explanation::Gone);
    }

    #[test]
    fn a_selection_says_which_file() {
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let lists = |digest: &Digest| {
            let text = if *digest == old { "a\t1\nb\t2\nc\t3\n" } else { "a\t1\nb\t9\nd\t4\n" };
            Ok(Some(FileList::parse(text)))
        };
        let before = parts(&[("files", &old.to_string())]);
        let after = parts(&[("files", &new.to_string())]);
        let explanation = compare(Some(&before), &after, &lists).unwrap();
        let whats: Vec<_> =
            explanation.changes().iter().map(|change| format!("{} {}", change.what, verb(change))).collect();
        assert_eq!(whats, ["file b has changed", "file c is gone", "file d is new"]);
        assert_eq!(explanation.reason(), "file b has changed, and 2 more");
    }
}
