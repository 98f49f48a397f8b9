//! Addresses of what is not on this machine, told from paths as BuildKit tells them: `dfgitutil` and `gitutil` of 0.33.0.
//!
//! ```text
//! https://example.org/tool.tar.gz                      a file
//! https://example.org/team/app.git#v1.2:cmd            a repository: reference `v1.2`, directory `cmd`
//! https://example.org/team/app.git?branch=main&subdir=cmd
//! git@example.org:team/app.git, ssh://…, git://…       repositories
//! ```

use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;
use url::form_urlencoded;

/// Schemes that git speaks and this understands. Of `http` and `https` only paths that end in `.git` are repositories.
const SCHEMES: [&str; 4] = ["http", "https", "ssh", "git"];
/// What a file is called whose address has no path.
const NAMELESS: &str = "__unnamed__";
/// The shortest beginning of a commit that a checksum may be.
const SHORTEST_COMMIT: usize = 7;
/// The longest: SHA-256 in hexadecimal.
const LONGEST_COMMIT: usize = 64;

/// Where something is that is not on this machine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A file behind `http:` or `https:`, as it was written.
    File(String),
    /// A git repository.
    Repository(GitAddress),
}

/// A git repository, and what of it is meant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitAddress {
    /// What git is given: the address without what this reads out of it.
    pub remote: String,
    /// A branch, a tag, a full reference or a commit; the remote's own HEAD if there is none.
    pub reference: Option<String>,
    /// The directory that is meant: relative, clean, empty for all of the repository.
    pub directory: String,
    /// What the commit has to be, or begin with.
    pub commit: Option<String>,
    /// The commit is asked for by itself, whatever the reference is.
    pub by_commit: bool,
    /// Whether the files keep their `.git`, if that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are brought too.
    pub submodules: bool,
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct AddressError {
    /// Why not.
    pub reason: String,
}

impl Address {
    /// Reads a source of ADD; `None` if it is a path.
    ///
    /// # Errors
    /// If it is an address with something in it that means nothing.
    pub fn parse(text: &str) -> Result<Option<Self>, AddressError> {
        if let Some(git) = repository(text)? {
            return Ok(Some(Self::Repository(git)));
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(None);
        }
        match Url::parse(text) {
            Ok(_) => Ok(Some(Self::File(text.to_owned()))),
            Err(error) => Err(wrong(format!("it is not a URL: {error}"))),
        }
    }

    /// Reads a build context, for which `github.com/…` is a repository too.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn parse_context(text: &str) -> Result<Option<Self>, AddressError> {
        if text.starts_with("github.com/") {
            return Ok(git_url(&format!("https://{text}"), true)?.map(Self::Repository));
        }
        Self::parse(text)
    }

    /// The address without a password.
    pub fn shown(&self) -> String {
        match self {
            Self::File(url) => without_password(url),
            Self::Repository(git) => git.shown(),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_) => f.debug_tuple("File").field(&self.shown()).finish(),
            Self::Repository(git) => f.debug_tuple("Repository").field(git).finish(),
        }
    }
}

impl fmt::Debug for GitAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitAddress")
            .field("remote", &self.shown())
            .field("reference", &self.reference)
            .field("directory", &self.directory)
            .field("commit", &self.commit)
            .field("by_commit", &self.by_commit)
            .field("keep_git_dir", &self.keep_git_dir)
            .field("submodules", &self.submodules)
            .finish()
    }
}

impl GitAddress {
    /// The address of the repository without a password.
    pub fn shown(&self) -> String {
        without_password(&self.remote)
    }

    /// Sees to it that the commit is `wanted`, as `--checksum` says.
    ///
    /// # Errors
    /// If that is no commit, or the address says another.
    pub fn expect_commit(&mut self, wanted: &str) -> Result<(), AddressError> {
        let wanted = commit(wanted)?;
        match &self.commit {
            Some(known) if *known != wanted => {
                Err(wrong(format!("the address says the commit `{known}`, and the flag `{wanted}`")))
            }
            _ => {
                self.commit = Some(wanted);
                Ok(())
            }
        }
    }
}

/// What a file is called that is fetched from an address.
pub fn file_name(url: &str) -> String {
    let path =
        Url::parse(url).ok().map(|url| percent_decode_str(url.path()).decode_utf8_lossy().into_owned());
    let path = path.unwrap_or_default();
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => NAMELESS.to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn wrong(reason: impl Into<String>) -> AddressError {
    AddressError { reason: reason.into() }
}

fn without_password(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            // It fails only for addresses that cannot have a password.
            let _ = url.set_password(Some("***"));
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

fn repository(text: &str) -> Result<Option<GitAddress>, AddressError> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(None);
    }
    match text.split_once("://") {
        Some((scheme, _))
            if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
        {
            if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) {
                git_url(text, false)
            } else {
                Ok(None)
            }
        }
        _ => of_scp(text),
    }
}

/// `scheme://…`; on the web only what ends in `.git`, if `any_path` does not say otherwise.
fn git_url(text: &str, any_path: bool) -> Result<Option<GitAddress>, AddressError> {
    let is_web = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    let url = match Url::parse(text) {
        Ok(url) => url,
        // A file's address says so itself.
        Err(_) if is_web => return Ok(None),
        Err(error) => return Err(wrong(format!("it is not a URL: {error}"))),
    };
    let path = percent_decode_str(url.path()).decode_utf8_lossy();
    if is_web && !any_path && !path.ends_with(".git") {
        return Ok(None);
    }
    let remote = text.split(['#', '?']).next().unwrap_or_default();
    read(remote, url.query(), url.fragment()).map(Some)
}

/// `user@host:path`
fn of_scp(text: &str) -> Result<Option<GitAddress>, AddressError> {
    let is_name = |name: &str, more: &[u8]| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let parts = text.split_once('@').and_then(|(user, rest)| Some((user, rest.split_once(':')?)));
    match parts {
        Some((user, (host, _))) if is_name(user, b"-_") && is_name(host, b"-.") => {
            let (rest, fragment) = part(text, '#');
            let (remote, query) = part(rest, '?');
            read(remote, query, fragment).map(Some)
        }
        _ => Ok(None),
    }
}

fn part(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(text, rest)| (text, Some(rest)))
}

fn read(remote: &str, query: Option<&str>, fragment: Option<&str>) -> Result<GitAddress, AddressError> {
    let (reference, directory) = part(fragment.unwrap_or_default(), ':');
    let mut query = Query::of(query.unwrap_or_default())?;
    let reference = query.reference(Some(reference).filter(|reference| !reference.is_empty()))?;
    let directory = query.one("subdir", relative(directory.unwrap_or_default()), relative)?;
    let commit = match (query.take("checksum")?, query.take("commit")?) {
        (Some(one), Some(other)) if one != other => {
            return Err(wrong("`checksum` and `commit` are two names of one thing"));
        }
        (one, other) => one.or(other).map(|text| commit(&text)).transpose()?,
    };
    let by_commit = query.switch("fetch-by-commit")?.unwrap_or(false);
    if by_commit && commit.is_none() {
        return Err(wrong("`fetch-by-commit` goes with `commit`"));
    }
    if query.take("mtime")?.is_some_and(|time| time != "commit") {
        return Err(wrong(
            "`mtime` can only be `commit`: files have the time of their commit here, so that layers are the same whenever they are made",
        ));
    }
    let git = GitAddress {
        remote: remote.to_owned(),
        reference,
        directory: directory.unwrap_or_default(),
        commit,
        by_commit,
        keep_git_dir: query.switch("keep-git-dir")?,
        submodules: query.switch("submodules")?.unwrap_or(true),
    };
    query.finish()?;
    if git.reference.as_ref().is_some_and(|reference| reference.starts_with('-'))
        || git.remote.starts_with('-')
    {
        return Err(wrong("it begins with `-`, which git would take for an option"));
    }
    Ok(git)
}

/// A directory of a repository: nothing leads out of it.
fn relative(text: &str) -> Option<String> {
    let cleaned = super::clean(&format!("/{text}"));
    Some(cleaned.trim_start_matches('/').to_owned()).filter(|directory| !directory.is_empty())
}

fn commit(text: &str) -> Result<String, AddressError> {
    let is_commit = (SHORTEST_COMMIT..=LONGEST_COMMIT).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_commit {
        Ok(text.to_owned())
    } else {
        Err(wrong(format!(
            "`{text}` is not a commit: {SHORTEST_COMMIT} to {LONGEST_COMMIT} hexadecimal digits"
        )))
    }
}

/// What stands behind `?`.
struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    fn of(text: &str) -> Result<Self, AddressError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()).into_owned() {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(wrong(format!("`{name}` is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    fn raw(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// The value of a name, which must not be empty.
    fn take(&mut self, name: &str) -> Result<Option<String>, AddressError> {
        match self.raw(name) {
            Some(value) if value.is_empty() => Err(wrong(format!("`{name}` has no value"))),
            value => Ok(value),
        }
    }

    /// A value that may stand behind `#` as well.
    fn one(
        &mut self,
        name: &str,
        known: Option<String>,
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, AddressError> {
        let value = self.take(name)?.and_then(|value| read(&value));
        match (known, value) {
            (Some(known), Some(value)) if known != value => {
                Err(wrong(format!("`{known}` behind `#` and `{name}={value}` are not the same")))
            }
            (known, value) => Ok(known.or(value)),
        }
    }

    fn reference(&mut self, known: Option<&str>) -> Result<Option<String>, AddressError> {
        let mut found = self.one("ref", known.map(str::to_owned), |text| Some(text.to_owned()))?;
        let (tag, branch) = (self.take("tag")?, self.take("branch")?);
        if tag.is_some() && branch.is_some() {
            return Err(wrong("`tag` and `branch` cannot be given together"));
        }
        for (value, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            let Some(value) = value else { continue };
            let full = if value.starts_with(prefix) { value } else { format!("{prefix}{value}") };
            if let Some(found) = found.filter(|found| *found != full) {
                return Err(wrong(format!("`{found}` and `{full}` are not the same reference")));
            }
            found = Some(full);
        }
        Ok(found)
    }

    fn switch(&mut self, name: &str) -> Result<Option<bool>, AddressError> {
        match self.raw(name).as_deref() {
            None => Ok(None),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(wrong(format!("`{name}` cannot be `{other}`: it is `true` or `false`"))),
        }
    }

    fn finish(self) -> Result<(), AddressError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(wrong(format!(
                "`{name}` means nothing behind the `?` of a repository: ref, tag, branch, subdir, checksum, commit, fetch-by-commit, keep-git-dir, submodules and mtime do"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn git(remote: &str) -> GitAddress {
        GitAddress {
            remote: remote.to_owned(),
            reference: None,
            directory: String::new(),
            commit: None,
            by_commit: false,
            keep_git_dir: None,
            submodules: true,
        }
    }

    fn at(remote: &str, reference: &str, directory: &str) -> GitAddress {
        let reference = (!reference.is_empty()).then(|| reference.to_owned());
        GitAddress { reference, directory: directory.to_owned(), ..git(remote) }
    }

    #[rstest]
    #[case("https://h/t/a.git", git("https://h/t/a.git"))]
    #[case("https://h/t/a.git#v1:sub/dir", at("https://h/t/a.git", "v1", "sub/dir"))]
    #[case("https://h/t/a.git#:/../sub/", at("https://h/t/a.git", "", "sub"))]
    #[case("https://h/a.git#feature/x", at("https://h/a.git", "feature/x", ""))]
    #[case("http://h:8080/a.git?branch=main&subdir=b", at("http://h:8080/a.git", "refs/heads/main", "b"))]
    #[case("https://h/a.git?tag=v1#refs/tags/v1", at("https://h/a.git", "refs/tags/v1", ""))]
    #[case("https://h/a.git?ref=x&submodules=0", GitAddress { submodules: false, ..at("https://h/a.git", "x", "") })]
    #[case("git://h/a?keep-git-dir", GitAddress { keep_git_dir: Some(true), ..git("git://h/a") })]
    #[case("git@h:t/a.git#x:y", at("git@h:t/a.git", "x", "y"))]
    #[case("git@h:t/a.git?commit=0123456", GitAddress { commit: Some("0123456".to_owned()), ..git("git@h:t/a.git") })]
    #[case("ssh://git@h:22/a.git", git("ssh://git@h:22/a.git"))]
    fn repositories(#[case] text: &str, #[case] expected: GitAddress) {
        assert_eq!(Address::parse(text).unwrap(), Some(Address::Repository(expected)));
    }

    #[rstest]
    #[case("https://h/a.tar.gz", true)]
    #[case("http://h/a.git/file", true)]
    #[case("https://github.com/t/a", true)]
    #[case("./git@h:a", false)]
    #[case("src/a.git", false)]
    #[case("github.com/t/a", false)]
    #[case("a@b/c:d", false)]
    #[case("ftp://h/a", false)]
    #[case("git+ssh://h/a", false)]
    #[case("C:\\x", false)]
    fn files_and_paths(#[case] text: &str, #[case] is_file: bool) {
        let expected = is_file.then(|| Address::File(text.to_owned()));
        assert_eq!(Address::parse(text).unwrap(), expected);
    }

    #[test]
    fn a_context_may_be_short() {
        let found = Address::parse_context("github.com/t/a#v1").unwrap();
        assert_eq!(found, Some(Address::Repository(at("https://github.com/t/a", "v1", ""))));
    }

    #[rstest]
    #[case("https://h/a.git?branch=a&tag=b", "together")]
    #[case("https://h/a.git?ref=a#b", "not the same")]
    #[case("https://h/a.git?subdir=a#:b", "not the same")]
    #[case("https://h/a.git?ref=", "no value")]
    #[case("https://h/a.git?ref=a&ref=b", "twice")]
    #[case("https://h/a.git?commit=xyz", "not a commit")]
    #[case("https://h/a.git?fetch-by-commit", "goes with `commit`")]
    #[case("https://h/a.git?mtime=checkout", "the time of their commit")]
    #[case("https://h/a.git?depth=1", "means nothing")]
    #[case("https://h/a.git?submodules=maybe", "`true` or `false`")]
    #[case("https://h/a.git#--upload-pack=x", "option")]
    #[case("https://[h/a.tar", "not a URL")]
    #[case("ssh://[h/a.git", "not a URL")]
    fn mistakes(#[case] text: &str, #[case] reason: &str) {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[rstest]
    #[case("https://h/a/tool%20one.tar?x=1#y", "tool one.tar")]
    #[case("https://h/a/b/", "b")]
    #[case("https://h", "__unnamed__")]
    #[case("https://h/", "__unnamed__")]
    #[case("https://h/a%2F..", "__unnamed__")]
    fn names(#[case] url: &str, #[case] name: &str) {
        assert_eq!(file_name(url), name);
    }

    #[test]
    fn a_password_is_not_shown() {
        let address = Address::parse("https://u:hunter2@h/a.git#x").unwrap().unwrap();
        assert_eq!(address.shown(), "https://u:***@h/a.git");
        let file = Address::parse("https://u:hunter2@h/a?b").unwrap().unwrap();
        assert_eq!(file.shown(), "https://u:***@h/a?b");
        assert!(!format!("{address:?} {file:?}").contains("hunter2"));
    }
}
