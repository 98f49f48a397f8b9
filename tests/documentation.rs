//! What the documentation says, held against the tree: links, paths, rooms and their imports, flags, variables.
//!
//! The table of rooms in `docs/architecture.md` is the source; the sources of the program have to agree with it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files have "up to about 600 lines" (CONTRIBUTING.md), not counting their tests: a tenth more is still about 600.
const MOST_LINES: usize = 660;

/// Absolute paths that mean the same on every machine, or in every container.
const PLACES: [&str; 14] = [
    "/etc/",
    "/dev/",
    "/proc",
    "/sys",
    "/tmp/",
    "/usr/",
    "/bin/",
    "/run/",
    "/var/tmp/cofferdam-",
    "/app",
    "/cache/",
    "/workspace",
    "/src/",
    "/v2/",
];

/// Hosts that documentation may name besides those reserved for examples (RFC 2606): of image registries, never of package
/// registries.
const HOSTS: [&str; 3] = ["docker.io", "ghcr.io", "github.com"];

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `directory` with this ending, by their paths in the tree.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(tree().join(directory)).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_file() && entry.path().to_string_lossy().ends_with(ending) {
            found.push(entry.path().strip_prefix(tree()).unwrap().to_owned());
        }
    }
    assert!(!found.is_empty(), "there is no {ending} in {directory}");
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(tree().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every text for people, with its content.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = vec!["README.md".into(), "CONTRIBUTING.md".into()];
    for directory in ["docs", "fixtures", "testdata"] {
        paths.extend(files(directory, ".md"));
    }
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The lines of a document outside of fenced blocks, or inside of them.
fn lines(text: &str, fenced: bool) -> Vec<&str> {
    let mut inside = false;
    let wanted = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !is_fence && inside == fenced
    };
    text.lines().filter(wanted).collect()
}

/// The name that a heading is linked to by.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect();
    kept.replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for line in lines(&text, false) {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if target.contains("://") {
                    continue;
                }
                seen += 1;
                let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
                let linked = match file {
                    "" => path.clone(),
                    file => path.parent().unwrap().join(file),
                };
                assert!(tree().join(&linked).exists(), "{}: {target}", path.display());
                let headings =
                    || read(&linked).lines().filter(|line| line.starts_with('#')).map(anchor).collect();
                let headings: BTreeSet<String> =
                    if fragment.is_empty() { BTreeSet::new() } else { headings() };
                assert!(fragment.is_empty() || headings.contains(fragment), "{}: {target}", path.display());
            }
        }
    }
    assert!(seen > 5, "only {seen} links were found: are they still written like this?");
}

#[test]
fn paths_in_the_tree_exist() {
    let rooms = ["docs/", "src/", "tests/", "fixtures/", "testdata/", "benches/", ".ci/"];
    let mut seen = 0;
    for (document, text) in documents() {
        for line in lines(&text, false) {
            for span in line.split('`').skip(1).step_by(2) {
                let plain = |c: char| c.is_alphanumeric() || "-_./".contains(c);
                let path = span.split([' ', ':']).next().unwrap();
                if rooms.iter().any(|room| path.starts_with(room)) && path.chars().all(plain) {
                    seen += 1;
                    assert!(tree().join(path).exists(), "{}: `{path}`", document.display());
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} paths were found: are they still written like this?");
}

#[test]
fn nothing_is_said_of_one_machine() {
    let here = [Some(tree().to_owned()), std::env::var_os("HOME").map(PathBuf::from)];
    let here: Vec<String> = here.into_iter().flatten().map(|path| format!("{}/", path.display())).collect();
    for (path, text) in documents() {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}: {line}", path.display(), number + 1);
            for own in &here {
                assert!(!line.contains(own), "{place}");
            }
            // Words that are absolute paths of two parts at least.
            let words = line.split(|c: char| c.is_whitespace() || "`\"'()=,;:|<>[]".contains(c));
            for word in words
                .filter(|word| word.starts_with('/') && !word.starts_with("//") && word[1..].contains('/'))
            {
                assert!(PLACES.iter().any(|known| word.starts_with(known)), "`{word}` in {place}");
            }
        }
    }
}

#[test]
fn hosts_are_examples() {
    let is_example = |host: &str| {
        let host = host.split(':').next().unwrap();
        let reserved = ["example.com", "example.org", "example", "svc", "localhost"];
        reserved.iter().any(|name| host == *name || host.ends_with(&format!(".{name}")))
            || host.parse::<std::net::Ipv4Addr>().is_ok()
            || HOSTS.contains(&host)
            || host.chars().all(|c| c.is_ascii_uppercase() || c == '$')
    };
    for (path, text) in documents() {
        let parts: Vec<&str> = text.split("://").collect();
        // Behind these there is no host of a registry, or none that is asked.
        let is_file = |before: &str| {
            before.ends_with("oci-layout") || before.ends_with("docker-archive") || before.ends_with("store")
        };
        for host in parts
            .windows(2)
            .filter(|pair| !is_file(pair[0]))
            .filter_map(|pair| pair[1].split(['/', '`', '"', ' ', '\n', ')']).next())
        {
            // Schemes of ours have an image's name behind them, or a stage's.
            let is_word = !host.contains(['.', ':', '$']);
            assert!(is_word || is_example(host), "{}: {host}", path.display());
        }
        let names = text.split(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)));
        for name in names.map(|name| name.trim_matches('.')) {
            let end = name.rsplit('.').next().unwrap();
            if name.contains('.') && matches!(end, "com" | "org" | "io" | "net" | "dev" | "cloud") {
                assert!(is_example(name), "{}: {name}", path.display());
            }
        }
    }
}

#[test]
fn variables_are_settings() {
    use cofferdam::settings::variables;
    let of = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words
            .filter(|word| word.len() > variables::PREFIX.len() && word.starts_with(variables::PREFIX))
            .map(str::to_owned)
            .collect()
    };
    for (path, text) in documents() {
        for name in of(&text) {
            let known = match path.starts_with("fixtures") {
                // The scripts there have variables of their own.
                true => files("fixtures", "").iter().any(|path| {
                    fs::read_to_string(tree().join(path))
                        .is_ok_and(|text| text.contains(&format!("${{{name}")))
                }),
                false => variables::ALL.contains(&&*name),
            };
            assert!(known, "{}: {name}", path.display());
        }
    }
    let configuration = of(&read(Path::new("docs/configuration.md")));
    for name in variables::ALL {
        assert!(configuration.contains(name), "docs/configuration.md says nothing of {name}");
    }
}

#[test]
fn commands_exist_and_have_the_flags_they_are_shown_with() {
    let help = |verb: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        let output = command.args(verb.split(' ').chain(["--help"])).output().unwrap();
        assert!(output.status.success(), "there is no `cofferdam {verb}`");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for (path, text) in documents() {
        let joined = text.replace("\\\n", " ");
        for line in lines(&joined, true) {
            for command in line.split("cofferdam ").skip(1) {
                let command = command.split(" # ").next().unwrap();
                let words: Vec<&str> =
                    command.split([' ', '"', ',', '[', ']']).filter(|word| !word.is_empty()).collect();
                let is_verb = |verb: &&&str| verb.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                let Some(verb) = words.first().filter(is_verb).filter(|verb| !verb.starts_with('-')) else {
                    continue;
                };
                let mut verb = (*verb).to_owned();
                let above = known.entry(verb.clone()).or_insert_with(|| help(&verb));
                // A verb of a verb has the flags.
                if let Some(second) = words.get(1).filter(is_verb)
                    && above.contains("\nCommands:\n")
                    && above.contains(&format!("\n  {second} "))
                {
                    verb = format!("{verb} {second}");
                }
                let text = known.entry(verb.clone()).or_insert_with(|| help(&verb));
                let flags = words
                    .iter()
                    .take_while(|word| !matches!(**word, "|" | "&&" | ";"))
                    .filter(|word| word.starts_with("--"));
                for flag in flags.filter_map(|word| word.split('=').next()) {
                    seen += 1;
                    assert!(
                        text.contains(&format!("{flag} ")) || text.contains(&format!("{flag}\n")),
                        "{}: `cofferdam {verb}` has no {flag}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(seen > 5, "only {seen} flags were found: are commands still written like this?");
}

/// Every test of a tree of sources by its name: where it is, and what is said above it.
fn tests_above() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut found: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for path in ["src", "tests"].iter().flat_map(|directory| files(directory, ".rs")) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((_, rest)) = line.split_once("fn ") else { continue };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let ends = |line: &&&str| !line.trim().is_empty() && !line.trim_end().ends_with(['{', '}']);
            let above: Vec<&str> = lines[..number].iter().rev().take_while(ends).copied().collect();
            if above.iter().any(|line| line.contains("test]")) {
                found.entry(name).or_default().push((path.clone(), above.join("\n")));
            }
        }
    }
    found
}

#[test]
fn every_manner_of_registries_has_its_test() {
    let tests = tests_above();
    let text = read(Path::new("docs/registries.md"));
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what they do"));
    let mut seen = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, _, test, source] = *cells else { panic!("{row}") };
        let name = test.trim_matches('`');
        assert!(seen.insert(name), "{name} stands for two manners");
        let [(path, above)] = tests.get(name).map_or(&[][..], Vec::as_slice) else {
            panic!("there is no one test {name}")
        };
        let wanted = format!("/// Source: {source}.");
        assert!(above.contains(&wanted), "{}: {name} does not say {wanted:?}", path.display());
    }
    assert!(seen.len() > 50, "only {} manners were found", seen.len());
}

/// A row of the table of rooms.
struct Room {
    name: String,
    imports: BTreeSet<String>,
}

/// The table of `docs/architecture.md`, from the top down.
fn rooms() -> Vec<Room> {
    let text = read(Path::new("docs/architecture.md"));
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| room |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let spans =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rooms: Vec<Room> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "{row}");
            let [name] = &*spans(cells[0]) else { panic!("{row}") };
            Room { name: name.clone(), imports: spans(cells[2]).into_iter().collect() }
        })
        .collect();
    assert!(rooms.len() > 10, "the table of rooms was not found");
    rooms
}

/// The code of a file without comments: that of the program, and that of its tests.
fn code(path: &Path) -> (String, String) {
    let text = read(path);
    let is_test =
        path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
    let without_comments = |text: &str| -> String {
        let lines = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    };
    match text.find("\n#[cfg(test)]\nmod ") {
        _ if is_test => (String::new(), without_comments(&text)),
        Some(at) => (without_comments(&text[..at]), without_comments(&text[at..])),
        None => (without_comments(&text), String::new()),
    }
}

/// The names behind `root` (`crate::`): one, or those of a list in braces.
fn names_behind(code: &str, root: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(word(&item));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        names.insert(word(&item));
    }
    names.remove("");
    names
}

#[test]
fn every_room_is_in_the_table_once() {
    let library = read(Path::new("src/lib.rs"));
    let modules = library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut modules: Vec<&str> = modules.chain(["main"]).collect();
    modules.sort_unstable();
    let rooms = rooms();
    let mut names: Vec<&str> = rooms.iter().map(|room| &*room.name).collect();
    names.sort_unstable();
    assert_eq!(names, modules);
}

#[test]
fn imports_point_down_the_table() {
    let rooms = rooms();
    let height = |name: &str| rooms.iter().position(|room| room.name == name);
    for (place, room) in rooms.iter().enumerate() {
        for import in &room.imports {
            assert!(
                height(import).is_some_and(|below| below > place),
                "the table has `{}` import `{import}`",
                room.name
            );
        }
        let (sources, root) = match &*room.name {
            "main" => (vec![PathBuf::from("src/main.rs")], "cofferdam::"),
            name => (files(&format!("src/{name}"), ".rs"), "crate::"),
        };
        let mut imported = BTreeSet::new();
        // The guest is a program of its own, which nothing can be imported into: its `crate` is itself.
        for path in sources.iter().filter(|path| !path.starts_with("src/sandbox/guest")) {
            let (program, tests) = code(path);
            let of = |code: &str| {
                names_behind(code, root)
                    .into_iter()
                    .filter(|name| *name != room.name && height(name).is_some())
            };
            imported.extend(of(&program));
            for import in of(&tests) {
                assert!(height(&import) > Some(place), "{}: its tests import `{import}`", path.display());
            }
            assert!(
                !climbs_out(path, &program),
                "{}: `super` of a room is the crate: say `crate`",
                path.display()
            );
        }
        assert_eq!(
            imported, room.imports,
            "imports of `{}`: left what they are, right what the table says",
            room.name
        );
    }
}

/// Whether a chain of `super` leads out of the file's room.
fn climbs_out(path: &Path, code: &str) -> bool {
    let parts = path.components().count();
    // src/room/mod.rs is one step below the crate, src/room/file.rs two, src/room/part/mod.rs two.
    let depth = if path.ends_with("mod.rs") { parts - 2 } else { parts - 1 };
    parts > 2 && code.contains(&"super::".repeat(depth))
}

#[test]
fn files_are_of_a_size_to_be_read() {
    for directory in ["src", "tests", "benches"] {
        for path in files(directory, ".rs") {
            let (program, tests) = code(&path);
            // Files of tests have no other code; they are read as well.
            let lines = if program.is_empty() { tests.lines().count() } else { program.lines().count() };
            assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn the_checks_find_what_they_look_for() {
    let code = "use crate::{image::{Digest, Platform}, store::Store};\nfn f() { crate::plan::key(); $crate::macro_(); }";
    let expected: Vec<&str> = vec!["image", "plan", "store"];
    assert_eq!(names_behind(code, "crate::").iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert!(climbs_out(Path::new("src/plan/key.rs"), "use super::super::build;"));
    assert!(!climbs_out(Path::new("src/plan/key.rs"), "use super::operation;"));
    assert!(climbs_out(Path::new("src/plan/mod.rs"), "use super::build;"));
    assert!(!climbs_out(Path::new("src/layer/tar/read.rs"), "use super::super::path;"));
    assert_eq!(anchor("## Credentials, and where they come from"), "credentials-and-where-they-come-from");
}
