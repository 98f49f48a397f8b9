//! Which files are meant, in kubectl's order (cli-runtime, `resource/builder.go` and `visitor.go`).

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::super::error::{DeployError, Fault};

/// How files of a directory end that are looked at.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];
/// Bytes of one file that are read. A cluster takes a tenth of it in one object at most.
const LARGEST: u64 = 64 << 20;
/// What standard input is called where a file is named.
const STDIN: &str = "standard input";

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    /// Its name, as the user gave it or would.
    pub file: Arc<str>,
    /// What is in it.
    pub text: String,
}

/// Reads what `inputs` name, in their order.
///
/// # Errors
/// If something is not there, or cannot be read.
pub(super) fn gather(inputs: &[String], stdin: impl Read, recursive: bool) -> Result<Vec<Text>, DeployError> {
    let mut stdin = Some(stdin);
    let mut texts = Vec::new();
    for input in inputs {
        match input.as_str() {
            "-" => {
                let input = stdin.take().ok_or_else(|| {
                    refused("standard input is named twice", "it can be read once: give `-f -` once")
                })?;
                texts.push(read(input, STDIN)?);
            }
            url if url.starts_with("http://") || url.starts_with("https://") => {
                let what = format!("`{}` is an address, and nothing is fetched", crate::report::redact(url));
                return Err(refused(what, "fetch it first, and look at it: curl -fsSLO …"));
            }
            pattern => {
                for path in matching(pattern)? {
                    files(&path, recursive, &mut texts)?;
                }
            }
        }
    }
    Ok(texts)
}

fn refused(what: impl Into<String>, hint: &str) -> DeployError {
    DeployError::Manifests(vec![Fault { source: None, what: what.into(), hint: Some(hint.to_owned()) }])
}

fn failed(path: &Path, source: io::Error) -> DeployError {
    DeployError::Input { what: format!("`{}`", path.display()), source }
}

/// The file or directory of that name, else what the pattern finds.
fn matching(pattern: &str) -> Result<Vec<PathBuf>, DeployError> {
    match fs::symlink_metadata(pattern) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Ok(vec![pattern.into()]),
    }
    let found = if pattern.contains(['*', '?', '[']) { glob(Path::new(pattern)) } else { Vec::new() };
    if found.is_empty() { Err(failed(Path::new(pattern), io::ErrorKind::NotFound.into())) } else { Ok(found) }
}

/// Reads a file, or those of a directory: by name, without looking at those that end otherwise, or below it only if
/// `recursive`.
fn files(path: &Path, recursive: bool, texts: &mut Vec<Text>) -> Result<(), DeployError> {
    let found = fs::metadata(path).map_err(|error| failed(path, error))?;
    if !found.is_dir() {
        texts.push(open(path)?);
        return Ok(());
    }
    let before = texts.len();
    directory(path, recursive, texts)?;
    if texts.len() == before {
        let what = format!("there are no manifests in `{}`", path.display());
        let hint =
            "files are looked at that end in .json, .yaml or .yml; `-R` looks into directories below too";
        return Err(refused(what, hint));
    }
    Ok(())
}

fn directory(path: &Path, recursive: bool, texts: &mut Vec<Text>) -> Result<(), DeployError> {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| failed(path, error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // A link to a directory is not followed, one to a file is: that is how a ConfigMap is mounted.
        let kind = entry.file_type().map_err(|error| failed(&path, error))?;
        if kind.is_dir() {
            if recursive {
                directory(&path, recursive, texts)?;
            }
        } else if path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending))
        {
            texts.push(open(&path)?);
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Text, DeployError> {
    let file = fs::File::open(path).map_err(|error| failed(path, error))?;
    read(file, &path.to_string_lossy())
}

fn read(from: impl Read, name: &str) -> Result<Text, DeployError> {
    let mut bytes = Vec::new();
    let what = || if name == STDIN { name.to_owned() } else { format!("`{name}`") };
    let result = from.take(LARGEST + 1).read_to_end(&mut bytes);
    result.map_err(|source| DeployError::Input { what: what(), source })?;
    let fault = |what: String| DeployError::Manifests(vec![Fault { source: None, what, hint: None }]);
    if bytes.len() as u64 > LARGEST {
        return Err(fault(format!("{} is larger than {} MiB", what(), LARGEST >> 20)));
    }
    let text = decode(bytes).ok_or_else(|| fault(format!("{} is not text in UTF-8", what())))?;
    Ok(Text { file: name.into(), text })
}

/// UTF-8, or UTF-16 where a byte order mark says so, as editors of another system write it.
fn decode(bytes: Vec<u8>) -> Option<String> {
    let units = |order: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().skip(1).map(|&pair| order(pair)).collect();
        if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => units(u16::from_le_bytes),
        [0xfe, 0xff, ..] => units(u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(str::to_owned),
        _ => String::from_utf8(bytes).ok(),
    }
}

/// What Go's `filepath.Glob` finds: `*`, `?`, `[a-z]`, `[^a-z]` and `\` within each part of the path.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let Component::Normal(part) = component else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let part: Vec<char> = part.to_string_lossy().chars().collect();
        found = found.iter().flat_map(|path| within(path, &part)).collect();
    }
    found
}

fn within(directory: &Path, pattern: &[char]) -> Vec<PathBuf> {
    if !pattern.iter().any(|c| matches!(c, '*' | '?' | '[' | '\\')) {
        let path = directory.join(pattern.iter().collect::<String>());
        return if fs::symlink_metadata(&path).is_ok() { vec![path] } else { Vec::new() };
    }
    let place = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let fits =
        |name: &std::ffi::OsString| fits(pattern, &name.to_string_lossy().chars().collect::<Vec<char>>());
    names.iter().filter(|name| fits(name)).map(|name| directory.join(name)).collect()
}

/// Whether a name fits a pattern. Only the last `*` is ever tried again, which is enough and never takes long.
fn fits(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star = None;
    while place < name.len() || at < pattern.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, place));
            at += 1;
            continue;
        }
        if let (Some(rest), Some(&c)) = (pattern.get(at..), name.get(place))
            && let Some(length) = one(rest, c)
        {
            at += length;
            place += 1;
            continue;
        }
        match star {
            Some((again, from)) if from < name.len() => {
                star = Some((again, from + 1));
                (at, place) = (again, from + 1);
            }
            _ => return false,
        }
    }
    true
}

/// The length of the first part of `pattern`, if it fits `c`.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', set @ ..] => {
            let (except, set, before) = match set {
                ['^', rest @ ..] => (true, rest, 2),
                set => (false, set, 1),
            };
            let end = 1 + set.iter().skip(1).position(|&c| c == ']')?;
            let mut members = set.get(..end)?;
            let mut inside = false;
            while let [low, rest @ ..] = members {
                let (high, rest) = match rest {
                    ['-', high, rest @ ..] => (high, rest),
                    rest => (low, rest),
                };
                inside |= (*low..=*high).contains(&c);
                members = rest;
            }
            (inside != except).then_some(before + end + 1)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("*.yaml", "a.yaml", true)]
    #[case("*.yaml", ".yaml", true)]
    #[case("*.yaml", "a.yml", false)]
    #[case("a?c*", "abcd", true)]
    #[case("[a-c]x", "bx", true)]
    #[case("[^a-c]x", "bx", false)]
    #[case("[^a-c]x", "dx", true)]
    #[case("\\*x", "*x", true)]
    #[case("\\*x", "ax", false)]
    #[case("*a*b*c", "xaxbxc", true)]
    #[case("*a*b*c", "xaxcxb", false)]
    #[case("[", "[", false)]
    #[case("*", "", true)]
    #[case("", "", true)]
    fn patterns(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(fits(&chars(pattern), &chars(name)), expected);
    }

    fn names(inputs: &[&str], recursive: bool, root: &Path) -> Result<Vec<String>, DeployError> {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|input| if *input == "-" { "-".to_owned() } else { root.join(input).display().to_string() })
            .collect();
        let texts = gather(&inputs, "x".as_bytes(), recursive)?;
        let prefix = format!("{}/", root.display());
        Ok(texts
            .iter()
            .map(|text| text.file.strip_prefix(&prefix).unwrap_or(&text.file).to_owned())
            .collect())
    }

    #[test]
    fn files_come_in_kubectls_order() {
        let root = tempfile::tempdir().unwrap();
        for file in ["b.yaml", "a.yml", "c.json", "d.txt", "sub/e.yaml"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let names = |inputs: &[&str], recursive| names(inputs, recursive, root.path());
        assert_eq!(names(&["."], false).unwrap(), ["./a.yml", "./b.yaml", "./c.json"]);
        assert_eq!(names(&["."], true).unwrap(), ["./a.yml", "./b.yaml", "./c.json", "./sub/e.yaml"]);
        assert_eq!(
            names(&["d.txt", "-", "a.yml", "a.yml"], false).unwrap(),
            ["d.txt", STDIN, "a.yml", "a.yml"]
        );
        assert_eq!(names(&["*.y*ml"], false).unwrap(), ["a.yml", "b.yaml"]);
        assert_eq!(names(&["s?b/*"], false).unwrap(), ["sub/e.yaml"]);
        assert!(matches!(names(&["none*"], false), Err(DeployError::Input { .. })));
        assert!(matches!(names(&["none"], false), Err(DeployError::Input { .. })));
        assert!(matches!(names(&["-", "-"], false), Err(DeployError::Manifests(_))));
        fs::create_dir(root.path().join("empty")).unwrap();
        assert!(matches!(names(&["empty"], false), Err(DeployError::Manifests(_))));
    }

    #[test]
    fn addresses_are_refused() {
        let inputs = ["https://user:secret@x.example/a.yaml".to_owned()];
        let error = gather(&inputs, io::empty(), false).unwrap_err().to_string();
        assert!(error.contains("is an address") && !error.contains("secret"), "{error}");
    }

    #[rstest]
    #[case(b"\xef\xbb\xbfa: 1", Some("a: 1"))]
    #[case(b"\xff\xfea\0:\0", Some("a:"))]
    #[case(b"\xfe\xff\0a\0:", Some("a:"))]
    #[case(b"\xfe\xff\0", None)]
    #[case(b"\xff", None)]
    fn encodings(#[case] bytes: &[u8], #[case] expected: Option<&str>) {
        assert_eq!(decode(bytes.to_vec()).as_deref(), expected);
    }
}
