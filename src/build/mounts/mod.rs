//! `RUN --mount`: what a step finds beside its image.
//!
//! Nothing is mounted. A mount is a directory or file beside the root that the sandbox shows at another place:
//! - **bind**: a copy of the selected files, made for the step and removed with it, so that whoever may write, writes into the
//!   copy. Files of a context are as COPY gives them, those of a stage or an image as they are there.
//! - **cache**: a directory of the store that outlives the build ([`crate::store::CacheDirectory`]). What its files are to steps
//!   is kept beside it, as an account.
//! - **tmpfs**: an empty directory, on disk. Nothing without privilege can hold it to its `size`, so what is in it is counted
//!   while the step runs ([`Mounts::overfull`]), and the step is killed when it is more.
//! - **secret**: a file in memory. Its content is nowhere else, and neither in a key nor in a message.
//! - **ssh**: a socket beside the root, behind which [`crate::build::agent`] asks the agent of the build, or signs with the keys it was given.
//!
//! Of all of them nothing gets into a layer: a mount point that the image lacks goes again with the step, as in BuildKit.
//!
//! # Differences
//! - a step that puts more into a tmpfs than its `size` fails, within a fifth of a second or when it ends; from BuildKit its
//!   program gets `ENOSPC`, and may live with it;
//! - `source` of a cache without `from` is refused, which BuildKit does not find in a cache that begins empty;
//! - a mount point inside of a cache goes with the step, too; BuildKit leaves a directory in the cache, and while the step runs
//!   nobody else uses that cache;
//! - a mount over `/etc` does not hide `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`;
//! - with `--network=none` there is no loopback device;
//! - `--secret` with a variable that is not set is an error; `docker buildx` makes an empty secret of it;

mod cache;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as rfs, MemfdFlags, SealFlags};

use crate::build::agent::Served;
use crate::build::error::BuildError;
use crate::build::executor::Executor;
use crate::build::fetch::blocking;
use crate::build::inputs::Text;
use crate::build::keys::StepKey;
use crate::build::request::SecretValue;
use crate::build::transfer::{Selection, TransferError};
use crate::context::clean;
use crate::dockerfile::{Diagnostic, Diagnostics, FileAttributes, Mount, Span, quote};
use crate::plan::{Run, RunMount, Source, Transfer};
use crate::report::bytes;
use crate::sandbox::abi::MAX_OWN_MOUNTS;
use crate::sandbox::{MountedDirectory, Root, SandboxError, StepMount, Top};
use crate::store::Store;
use cache::UsedCache;

/// The permissions of a file system in memory, as the kernel makes it.
const TMPFS_MODE: u32 = 0o1777;
/// What a file system in memory gives out.
const PAGE: u64 = 4096;
/// The permissions of a directory that nobody has said any of.
const DIRECTORY_MODE: u32 = 0o755;
/// Those of a secret.
const SECRET_MODE: u32 = 0o400;
/// Those of the socket of an agent.
const AGENT_MODE: u32 = 0o600;
/// The variable that programs find an SSH agent by.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The mounts of a step, ready.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// For the sandbox.
    pub list: Vec<StepMount>,
    /// Variables that they give to the step.
    pub environment: Vec<(OsString, OsString)>,
    directories: Vec<MountedDirectory>,
    /// Which of them may hold how many bytes, and where they are seen.
    limits: Vec<Limit>,
    _agents: Vec<Served>,
    caches: Vec<UsedCache>,
}

/// How much a directory may hold.
#[derive(Debug)]
struct Limit {
    /// Its number among the directories.
    directory: usize,
    bytes: u64,
    at: PathBuf,
}

/// Where a mount is seen: absolute and clean. `None` for what has no file.
pub(super) fn target(run: &Run, number: usize) -> Option<String> {
    let target = match &run.mounts.get(number)?.mount {
        Mount::Bind { target, .. } | Mount::Cache { target, .. } | Mount::Tmpfs { target, .. } => target,
        Mount::Secret { target, .. } => target.as_ref()?,
        Mount::Ssh { target: Some(target), .. } => target,
        Mount::Ssh { target: None, .. } => {
            let before = run.mounts.iter().take(number);
            let agents = before.filter(|other| matches!(other.mount, Mount::Ssh { .. })).count();
            return Some(format!("/run/buildkit/ssh_agent.{agents}"));
        }
    };
    let within = if target.starts_with('/') { "" } else { run.directory.as_str() };
    Some(clean(&format!("/{within}/{target}")))
}

/// What a mount has that cannot be.
pub(super) fn unsupported(run: &Run) -> Option<Diagnostic> {
    run.mounts.iter().enumerate().find_map(|(number, RunMount { mount, span, .. })| {
        if target(run, number).as_deref() == Some("/") {
            return Some(Diagnostic::error("nothing can be mounted at `/`, which is the image", *span));
        }
        if number >= MAX_OWN_MOUNTS {
            let message = format!("a step cannot have more than {MAX_OWN_MOUNTS} mounts");
            return Some(Diagnostic::error(message, *span));
        }
        match mount {
            Mount::Cache { from: None, source, .. } if clean(&format!("/{source}")) != "/" => {
                let message = format!("there is no {} in a cache that begins empty", quote(source));
                Some(Diagnostic::error(message, *span).hint("say with `from` what the cache begins with"))
            }
            _ => None,
        }
    })
}

/// The files of a mount, as a transfer that selects them.
pub(super) fn transfer(mount: &RunMount) -> Option<Transfer> {
    let (source, path) = match (&mount.source, &mount.mount) {
        (Some(from), Mount::Bind { source, .. } | Mount::Cache { source, .. }) => (from.clone(), source),
        _ => return None,
    };
    let path = literal(&clean(&format!("/{path}")));
    Some(Transfer::whole("RUN --mount", source, path, mount.span))
}

/// The pattern that means just this path.
fn literal(path: &str) -> String {
    path.chars().fold(String::new(), |mut pattern, character| {
        if matches!(character, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
        pattern
    })
}

/// What identifies the files of a mount that come from a context.
pub(super) fn identity(selection: &Selection) -> String {
    let (mode, ..) = selection.top().unwrap_or_default();
    format!("{} mode {mode:o}", selection.digest())
}

impl Executor {
    /// Gets ready what a step mounts.
    ///
    /// # Errors
    /// If files cannot be selected, copied, or a cache not be used.
    pub(super) async fn mounts(
        self: &Arc<Self>,
        run: &Run,
        key: &StepKey,
        root: &Arc<Root>,
    ) -> Result<Mounts, BuildError> {
        let caches = self.caches(run, key, root).await?;
        let mut mounts = Mounts::default();
        for (number, mount) in run.mounts.iter().enumerate() {
            let at = target(run, number).map(PathBuf::from);
            if let Mount::Secret { env: Some(name), .. } = &mount.mount {
                // The variable of a secret that was not given is empty, as BuildKit has it.
                let value =
                    self.secret(mount)?.map(|value| variable(value, mount, &self.text)).transpose()?;
                mounts.environment.push((name.into(), value.unwrap_or_default()));
            }
            let Some(at) = at else { continue };
            let made = match &mount.mount {
                Mount::Bind { writable, .. } => {
                    let selection = self.selection(mount, number, key).await?;
                    let (root, store) = (Arc::clone(root), self.services.store.clone());
                    let executor = Arc::clone(self);
                    let filled = blocking(move || {
                        bind(&root, &store, &selection).map_err(|error| executor.text.transfer_error(error))
                    });
                    let (directory, what, is_directory) = filled.await?;
                    mounts.directories.push(directory);
                    StepMount { at, what: Arc::new(what), is_directory, read_only: !writable }
                }
                Mount::Tmpfs { read_only, size, .. } => {
                    let directory = root.mounted_directory(Top { mode: TMPFS_MODE, uid: 0, gid: 0 })?;
                    // To the kernel a size of 0 is none, and others are whole pages.
                    if let Some(size) = size.filter(|size| *size != 0) {
                        let bytes = size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
                        mounts.limits.push(Limit {
                            directory: mounts.directories.len(),
                            bytes,
                            at: at.clone(),
                        });
                    }
                    let what = Arc::new(directory.directory().try_clone_to_owned().map_err(host)?);
                    mounts.directories.push(directory);
                    StepMount { at, what, is_directory: true, read_only: *read_only }
                }
                Mount::Cache { read_only, .. } => {
                    let Some(cache) = caches.get(&number) else { continue };
                    let files = self.cache_files(mount, number, key, root, cache).await?;
                    let used = mounts.caches.iter().find(|used| Arc::ptr_eq(&used.cache, cache));
                    let what = match used {
                        Some(used) => Arc::clone(&used.files),
                        None => {
                            let (root, cache) = (Arc::clone(root), Arc::clone(cache));
                            let used = blocking(move || UsedCache::take_in(&root, cache, files)).await?;
                            let what = Arc::clone(&used.files);
                            mounts.caches.push(used);
                            what
                        }
                    };
                    StepMount { at, what, is_directory: true, read_only: *read_only }
                }
                Mount::Secret { file, .. } => {
                    let Some(value) = self.secret(mount)? else { continue };
                    let top = attributes(file, SECRET_MODE);
                    let what = in_memory(root, number, value.expose(), top).map_err(host)?;
                    StepMount { at, what: Arc::new(what), is_directory: false, read_only: true }
                }
                Mount::Ssh { id, required, file, .. } => {
                    if !mounts.environment.iter().any(|(name, _)| name == AGENT_VARIABLE) {
                        mounts.environment.push((AGENT_VARIABLE.into(), at.clone().into()));
                    }
                    let given = self.request.agents.iter().find(|(name, _)| name == id);
                    let Some((_, agent)) = given else {
                        if *required {
                            let hint = format!("give it with `--ssh {id}`");
                            return Err(missing("SSH agent", id, mount.span, hint, &self.text));
                        }
                        continue;
                    };
                    let directory = root.mounted_directory(Top { mode: DIRECTORY_MODE, uid: 0, gid: 0 })?;
                    let started = Served::in_step(root, &directory, agent.clone()).await;
                    let (served, what) = started.map_err(|source| {
                        let operation = "reach the SSH agent";
                        SandboxError::Host { operation, source }
                    })?;
                    root.set_file(what.as_fd(), attributes(file, AGENT_MODE))?;
                    mounts.directories.push(directory);
                    mounts._agents.push(served);
                    StepMount { at, what: Arc::new(what), is_directory: false, read_only: false }
                }
            };
            mounts.list.push(made);
        }
        Ok(mounts)
    }

    /// The value of a mounted secret; nothing if it was not given and need not be.
    fn secret(&self, mount: &RunMount) -> Result<Option<&SecretValue>, BuildError> {
        let Mount::Secret { id, required, .. } = &mount.mount else { return Ok(None) };
        match self.request.secrets.iter().find(|(name, _)| name == id) {
            Some((_, value)) => Ok(Some(value)),
            None if *required => {
                let hint =
                    format!("give it with `--secret id={id},src=FILE` or `--secret id={id},env=VARIABLE`");
                Err(missing("secret", id, mount.span, hint, &self.text))
            }
            None => Ok(None),
        }
    }

    /// The files of a mount: those of a context were selected for the key.
    async fn selection(
        self: &Arc<Self>,
        mount: &RunMount,
        number: usize,
        key: &StepKey,
    ) -> Result<Arc<Selection>, BuildError> {
        if let Some(selection) = key.mounts.get(&number) {
            return Ok(Arc::clone(selection));
        }
        match transfer(mount) {
            Some(transfer) => self.select_from_root(&transfer).await,
            None => Err(BuildError::refused("the mount has no files")),
        }
    }
}

impl Mounts {
    /// Whether there is anything whose size is to be watched.
    pub fn are_limited(&self) -> bool {
        !self.limits.is_empty()
    }

    /// What is wrong if a directory holds more than it may.
    pub fn overfull(&self) -> Option<String> {
        self.limits.iter().find_map(|Limit { directory, bytes: limit, at }| {
            // What cannot be counted now is counted the next time, or when the step has ended.
            let used = self.directories.get(*directory)?.usage().ok()?;
            (used > *limit).then(|| {
                let (used, limit) = (bytes(used), bytes(*limit));
                format!("`{}` is a tmpfs of {limit}, and the step has put {used} there", at.display())
            })
        })
    }

    /// After the step, whether it failed or not: keeps what it has made of its caches.
    ///
    /// # Errors
    /// If an account cannot be written.
    pub fn keep(&self, root: &Root) -> Result<(), BuildError> {
        self.caches.iter().try_for_each(|used| used.keep(root))
    }
}

/// A copy of the selected files beside the root, and what of it is mounted: the directory, or the one file in it.
fn bind(
    root: &Root,
    store: &Store,
    selection: &Selection,
) -> Result<(MountedDirectory, OwnedFd, bool), TransferError> {
    let (mode, uid, gid) = selection.top().unwrap_or((DIRECTORY_MODE, 0, 0));
    let directory = root.mounted_directory(Top { mode, uid, gid })?;
    let mut filler = root.filler(directory.directory());
    selection.fill(store, &mut filler)?;
    filler.finish()?;
    let failed = |source| TransferError::Read {
        path: "a copy".to_owned(),
        origin: "the state directory".to_owned(),
        source,
    };
    let what = match selection.single() {
        Some(name) => directory.entry(name).map_err(failed)?,
        None => directory.directory().try_clone_to_owned().map_err(failed)?,
    };
    Ok((directory, what, selection.single().is_none()))
}

/// Says that something which the step cannot do without was not given.
fn missing(what: &str, id: &str, span: Span, hint: String, text: &Text) -> BuildError {
    let finding = Diagnostic::error(format!("the {what} {} is required, and was not given", quote(id)), span);
    text.findings(Diagnostics(vec![finding.hint(hint)]))
}

/// A secret as the value of a variable.
fn variable(value: &SecretValue, mount: &RunMount, text: &Text) -> Result<OsString, BuildError> {
    if value.expose().contains(&0) {
        let message = "the secret has a NUL byte in it, which no environment variable can have";
        return Err(text.findings(Diagnostics(vec![Diagnostic::error(message, mount.span)])));
    }
    Ok(OsString::from_vec(value.expose().to_vec()))
}

fn attributes(file: &FileAttributes, mode: u32) -> Top {
    Top { mode: file.mode.unwrap_or(mode), uid: file.uid.unwrap_or(0), gid: file.gid.unwrap_or(0) }
}

/// A file that is nowhere but in memory.
fn in_memory(root: &Root, number: usize, content: &[u8], top: Top) -> std::io::Result<OwnedFd> {
    let file = {
        let _identity = root.identity().map_err(std::io::Error::other)?;
        rfs::memfd_create(
            format!("cofferdam-secret-{number}"),
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?
    };
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    rfs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    root.set_file(file.as_fd(), top).map_err(std::io::Error::other)?;
    Ok(file.into())
}

fn host(source: std::io::Error) -> SandboxError {
    SandboxError::Host { operation: "mount a directory", source }
}

/// Where the files of a mount come from, if that is a context.
pub(super) fn is_of_context(mount: &RunMount) -> bool {
    matches!(mount.source, Some(Source::Context | Source::NamedContext(_)))
}

/// What went wrong with a step, with the place of the mount if it was one.
pub(super) fn located(run: &Run, error: BuildError, text: &Text) -> BuildError {
    let BuildError::Sandbox(SandboxError::MountPoint { at, source }) = &error else { return error };
    let is_there = |number: &usize| target(run, *number).is_some_and(|target| Path::new(&target) == at);
    // Of two at one place the later one counts.
    let number = (0..run.mounts.len()).rev().find(is_there);
    let Some(mount) = number.and_then(|number| run.mounts.get(number)) else { return error };
    let reason = match source.kind() {
        std::io::ErrorKind::NotADirectory => "the image has a file there, or on the way".to_owned(),
        std::io::ErrorKind::IsADirectory => "the image has a directory there, and this is a file".to_owned(),
        _ => source.to_string(),
    };
    let finding = Diagnostic::error(format!("{error}: {reason}"), mount.span);
    text.findings(Diagnostics(vec![finding]))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::dockerfile::{Network, Sharing};

    pub(super) fn bind(target: &str) -> Mount {
        Mount::Bind { from: None, source: String::new(), target: target.to_owned(), writable: false }
    }

    pub(super) fn cache(target: &str, sharing: Sharing) -> Mount {
        let (id, from, source) = (None, None, String::new());
        let (target, read_only, file) = (target.to_owned(), false, FileAttributes::default());
        Mount::Cache { id, from, source, target, read_only, sharing, file }
    }

    fn ssh(target: Option<&str>) -> Mount {
        let (id, target) = ("default".to_owned(), target.map(str::to_owned));
        Mount::Ssh { id, target, required: false, file: FileAttributes::default() }
    }

    fn secret(target: Option<&str>) -> Mount {
        let (id, target) = ("token".to_owned(), target.map(str::to_owned));
        Mount::Secret { id, target, env: None, required: false, file: FileAttributes::default() }
    }

    pub(super) fn run(mounts: Vec<Mount>) -> Run {
        let mount = |mount| RunMount { mount, source: None, span: Span::at(0) };
        Run {
            arguments: Vec::new(),
            script: None,
            environment: Vec::new(),
            hidden_environment: Vec::new(),
            directory: "/work/dir".to_owned(),
            user: String::new(),
            network: Network::Default,
            mounts: mounts.into_iter().map(mount).collect(),
        }
    }

    #[rstest]
    #[case(bind("/a"), Some("/a"))]
    #[case(bind("/a//b/../c/"), Some("/a/c"))]
    #[case(bind("a"), Some("/work/dir/a"))]
    #[case(bind("../a"), Some("/work/a"))]
    #[case(bind(""), Some("/work/dir"))]
    #[case(bind("/.."), Some("/"))]
    #[case(secret(Some("a")), Some("/work/dir/a"))]
    #[case(secret(None), None)]
    #[case(ssh(Some("/s")), Some("/s"))]
    fn a_target_is_absolute_and_clean(#[case] mount: Mount, #[case] expected: Option<&str>) {
        assert_eq!(target(&run(vec![mount]), 0).as_deref(), expected);
    }

    #[test]
    fn agents_are_numbered_as_in_buildkit() {
        let run = run(vec![ssh(None), bind("/a"), ssh(Some("/s")), ssh(None)]);
        let targets: Vec<_> = (0..4).map(|number| target(&run, number).unwrap()).collect();
        assert_eq!(targets, ["/run/buildkit/ssh_agent.0", "/a", "/s", "/run/buildkit/ssh_agent.2"]);
    }

    #[rstest]
    #[case(vec![bind("a")], None)]
    #[case(vec![bind("/a"), bind("../..")], Some("nothing can be mounted at `/`"))]
    #[case((0..33).map(|_| bind("/a")).collect(), Some("more than 32 mounts"))]
    fn what_cannot_be_is_refused(#[case] mounts: Vec<Mount>, #[case] expected: Option<&str>) {
        let message = unsupported(&run(mounts)).map(|finding| finding.message);
        match (message, expected) {
            (Some(message), Some(expected)) => assert!(message.contains(expected), "{message}"),
            (message, expected) => assert_eq!(message.as_deref(), expected),
        }
    }

    #[test]
    fn a_path_is_no_pattern() {
        let pattern = literal("/a*b/[c]?\\d");
        assert_eq!(pattern, "/a\\*b/\\[c]\\?\\\\d");
        let wildcard = crate::context::wildcard::Wildcard::parse(&pattern).unwrap();
        assert!(wildcard.matches(b"/a*b/[c]?\\d") && !wildcard.matches(b"/axb/c1\\d"));
    }
}
