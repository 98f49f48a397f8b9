//! A commit of a git repository becomes a directory.
//!
//! Only that commit is fetched, with nothing before it. Files have the time of the commit and the modes 0644 and 0755
//! whatever the machine's umask; what stays of `.git`, if it is to stay, holds no clock, inode or user: two checkouts of one
//! commit by one version of git are the same.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tokio::process::Command;
use url::Url;

use super::error::RemoteError;
use crate::context::address::GitAddress;

/// The lines of git's messages that are kept.
const TAIL: usize = 4;
/// The length of a commit in hexadecimal: SHA-1 and SHA-256.
const COMMITS: [usize; 2] = [40, 64];
/// Variables of the user's that tell git of another repository than this.
const REPOSITORY_VARIABLES: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
];

/// With what a repository is asked for.
#[derive(Clone, Default)]
pub struct GitAccess {
    /// A value of the `Authorization` header for repositories on the web.
    pub authorization: Option<String>,
    /// The socket of an SSH agent.
    pub agent: Option<PathBuf>,
}

impl std::fmt::Debug for GitAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authorization = self.authorization.as_ref().map(|_| "***");
        f.debug_struct("GitAccess")
            .field("authorization", &authorization)
            .field("agent", &self.agent)
            .finish()
    }
}

impl GitAccess {
    /// The header that a token makes, as services of repositories take it.
    pub fn of_token(token: &str) -> String {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
        format!("basic {pair}")
    }
}

/// A commit, checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// The commit, in full.
    pub commit: String,
    /// The directory that is meant.
    pub files: PathBuf,
}

/// Checks a repository out below `directory`, which is there and empty. `keep_git_dir` says whether its files keep their
/// `.git`.
///
/// # Errors
/// If there is no git, no such repository, reference, commit or directory.
pub async fn check_out(
    address: &GitAddress,
    keep_git_dir: bool,
    access: &GitAccess,
    directory: &Path,
) -> Result<Checkout, RemoteError> {
    let tree = directory.join("files");
    let git_dir = if keep_git_dir { tree.join(".git") } else { directory.join("git") };
    let repository = Repository { address, access, tree, git_dir };
    let in_order = |source| RemoteError::Files { url: address.shown(), source };
    std::fs::create_dir(&repository.tree).map_err(in_order)?;
    let (name, commit_length) = repository.reference().await?;
    repository.fetch(&name, commit_length).await?;
    let commit = repository.verify().await?;
    repository.run("check out", &["checkout", "-q", "--detach", "FETCH_HEAD"]).await?;
    if address.submodules && repository.tree.join(".gitmodules").is_file() {
        let arguments = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
        repository.run("fetch the submodules of", &arguments).await?;
    }
    let time = repository.run("look at", &["log", "-1", "--format=%ct", "FETCH_HEAD"]).await?;
    let time = time.parse().unwrap_or_default();
    if keep_git_dir {
        repository.settle().await?;
    }
    let files = repository.meant().map_err(|error| match error {
        None => RemoteError::NoDirectory { url: address.shown(), directory: address.directory.clone() },
        Some(source) => in_order(source),
    })?;
    let top = files.clone();
    let ordered = tokio::task::spawn_blocking(move || in_place(&top, time, keep_git_dir)).await;
    ordered.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(in_order)?;
    Ok(Checkout { commit, files })
}

struct Repository<'a> {
    address: &'a GitAddress,
    access: &'a GitAccess,
    tree: PathBuf,
    git_dir: PathBuf,
}

impl Repository<'_> {
    /// What is asked for: a full reference, or a commit; and the length of the repository's commits.
    async fn reference(&self) -> Result<(String, usize), RemoteError> {
        let is_commit =
            |text: &str| COMMITS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let reference = match (&self.address.commit, &self.address.reference) {
            (Some(commit), _) if self.address.by_commit => commit,
            (_, Some(reference)) => reference,
            (_, None) => "HEAD",
        };
        if is_commit(reference) {
            return Ok((reference.to_owned(), reference.len()));
        }
        let listed = self.run("look at", &["ls-remote", "--", &self.address.remote, reference]).await?;
        let names: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
        // A branch comes before a tag of the same name, as for BuildKit.
        let wanted = [
            reference.to_owned(),
            format!("refs/{}", reference.trim_start_matches("refs/")),
            format!("refs/heads/{reference}"),
            format!("refs/tags/{reference}"),
        ];
        let of = |wanted: String| {
            let (commit, name) = names.iter().find(|(_, name)| *name == wanted)?;
            Some(((*name).to_owned(), commit.len()))
        };
        wanted.into_iter().find_map(of).ok_or_else(|| RemoteError::NoReference {
            url: self.address.shown(),
            reference: reference.to_owned(),
        })
    }

    /// Brings a reference or a commit, as `FETCH_HEAD`.
    async fn fetch(&self, name: &str, commit_length: usize) -> Result<(), RemoteError> {
        let format = if commit_length == COMMITS[1] { "sha256" } else { "sha1" };
        let format = format!("--object-format={format}");
        self.run("prepare for", &["-c", "init.defaultBranch=master", "init", "-q", "--template=", &format])
            .await?;
        let remote = &self.address.remote;
        // Addresses of submodules may be relative to it.
        let plain = without_user(remote).map_or_else(|| remote.clone(), |(plain, _)| plain);
        self.run("prepare for", &["remote", "add", "origin", &plain]).await?;
        // What refers to the commit comes along for those who keep the directory.
        let wanted = if name.starts_with("refs/") { format!("+{name}:{name}") } else { name.to_owned() };
        let arguments = ["fetch", "-q", "-u", "--depth=1", "--no-tags", "--", remote, &wanted];
        let Err(error) = self.run("fetch", &arguments).await else { return Ok(()) };
        if name == "HEAD" || name.starts_with("refs/") {
            return Err(error);
        }
        // Servers may give only what a reference leads to: then it is somewhere in all of it, or nowhere.
        let everything = ["fetch", "-q", "-u", "--tags", "--", remote, "+refs/heads/*:refs/remotes/origin/*"];
        self.run("fetch", &everything).await?;
        let object = format!("{name}^{{commit}}");
        if self.run("look at", &["rev-parse", "-q", "--verify", &object]).await.is_err() {
            return Err(error);
        }
        let head = self.git_dir.join("FETCH_HEAD");
        std::fs::write(head, format!("{name}\t\t{remote}\n"))
            .map_err(|source| RemoteError::Files { url: self.address.shown(), source })
    }

    /// The commit that was fetched, if it is the one that the address says.
    async fn verify(&self) -> Result<String, RemoteError> {
        let commit = self.run("look at", &["rev-parse", "FETCH_HEAD^{commit}"]).await?;
        if let Some(expected) = &self.address.commit {
            let object = self.run("look at", &["rev-parse", "FETCH_HEAD"]).await?;
            // The digest of an annotated tag is as good as that of its commit.
            if !commit.starts_with(expected) && !object.starts_with(expected) {
                let (url, expected) = (self.address.shown(), expected.clone());
                return Err(RemoteError::Commit { url, expected, found: commit });
            }
        }
        Ok(commit)
    }

    /// Takes out of `.git` what is another each time.
    async fn settle(&self) -> Result<(), RemoteError> {
        let shown = self.address.shown();
        self.run("put in order", &["remote", "set-url", "origin", &shown]).await?;
        // An index that has no times and inodes in it.
        self.run("put in order", &["read-tree", "HEAD"]).await?;
        if self.tree.join(".gitmodules").is_file() && self.address.submodules {
            let each = ["submodule", "--quiet", "foreach", "--recursive", "git read-tree HEAD"];
            self.run("put in order", &each).await?;
        }
        match std::fs::remove_file(self.git_dir.join("FETCH_HEAD")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RemoteError::Files { url: shown, source: error })
            }
            _ => Ok(()),
        }
    }

    /// The directory that is meant, with `.git` in it if that is kept; `Err(None)` if there is none.
    fn meant(&self) -> Result<PathBuf, Option<io::Error>> {
        let mut at = self.tree.clone();
        for component in self.address.directory.split('/').filter(|component| !component.is_empty()) {
            at.push(component);
            // A link may lead out of the repository.
            if !at.symlink_metadata().is_ok_and(|found| found.is_dir()) || component == ".git" {
                return Err(None);
            }
        }
        if self.git_dir.starts_with(&self.tree) && at != self.tree {
            std::fs::rename(&self.git_dir, at.join(".git")).map_err(Some)?;
        }
        Ok(at)
    }

    /// Runs git. Gives what it wrote, without the blanks at the end.
    async fn run(&self, what: &'static str, arguments: &[&str]) -> Result<String, RemoteError> {
        let mut command = Command::new("git");
        for setting in [
            "core.autocrlf=false",
            "core.symlinks=true",
            "core.hooksPath=/dev/null",
            "core.logAllRefUpdates=false",
            "core.fsmonitor=false",
            "pack.threads=1",
            "gc.auto=0",
            "maintenance.auto=false",
            "advice.detachedHead=false",
            "protocol.file.allow=user",
        ] {
            command.args(["-c", setting]);
        }
        command.args(arguments).current_dir(&self.tree).stdin(Stdio::null()).kill_on_drop(true);
        for name in REPOSITORY_VARIABLES {
            command.env_remove(name);
        }
        // Before there is a repository of its own, one that the state directory may lie in is none of its.
        if self.git_dir.is_dir() || arguments.contains(&"init") {
            command.env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", &self.tree);
        } else {
            command.env("GIT_CEILING_DIRECTORIES", &self.tree);
        }
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        // Submodules are not to be taken from this machine's disk.
        command.env("GIT_PROTOCOL_FROM_USER", "0");
        if let Some(agent) = &self.access.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let credentials: Vec<(String, String)> = self.header().into_iter().chain(self.user()).collect();
        // Not among the arguments, which everyone on the machine can read.
        command.env("GIT_CONFIG_COUNT", credentials.len().to_string());
        for (number, (name, value)) in credentials.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let output = command.output().await.map_err(RemoteError::NoGit)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            let said = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("; ");
            let mut said = said.replace(&self.address.remote, &self.address.shown());
            if let Some((_, [with, without])) = without_user(&self.address.remote) {
                said = said.replace(&with, &without);
            }
            return Err(RemoteError::Git { what, url: self.address.shown(), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The setting by which submodules of the same server are fetched as the user that the address names, who is in no file.
    fn user(&self) -> Option<(String, String)> {
        let (_, [with, without]) = without_user(&self.address.remote)?;
        Some((format!("url.{with}.insteadOf"), without))
    }

    /// The setting that shows the user's credentials to this repository's host alone.
    fn header(&self) -> Option<(String, String)> {
        let authorization = self.access.authorization.as_ref()?;
        let url = Url::parse(&self.address.remote).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let origin = url.origin().ascii_serialization();
        Some((format!("http.{origin}/.extraheader"), format!("Authorization: {authorization}")))
    }
}

/// The address without the user and password in it, and the part that is the same for all repositories of the server: with
/// them and without. `None` where there are none, or git has its own way with them.
fn without_user(remote: &str) -> Option<(String, [String; 2])> {
    let url = Url::parse(remote).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    if !has_user || !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let mut plain = url.clone();
    plain.set_username("").ok()?;
    plain.set_password(None).ok()?;
    let server = |url: &Url| {
        let mut server = url.clone();
        server.set_path("/");
        server.set_query(None);
        server.set_fragment(None);
        server.to_string()
    };
    Some((plain.to_string(), [server(&url), server(&plain)]))
}

/// Gives all files one time, and modes that no umask has touched.
fn in_place(directory: &Path, time: i64, keeps_git: bool) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if !keeps_git && entry.file_name() == OsStr::new(".git") {
            // A submodule's: it says where on this machine the rest of it is.
            if kind.is_dir() {
                std::fs::remove_dir_all(&path)?
            } else {
                std::fs::remove_file(&path)?
            }
            continue;
        }
        if kind.is_dir() {
            in_place(&path, time, keeps_git)?;
            continue;
        }
        if kind.is_file() {
            let mode = match entry.metadata()?.permissions().mode() {
                mode if mode & 0o100 != 0 => 0o755,
                mode if mode & 0o200 == 0 => 0o444,
                _ => 0o644,
            };
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        set_time(&path, time)?;
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    set_time(directory, time)
}

fn set_time(path: &Path, time: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: time, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
