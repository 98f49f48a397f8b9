//! `RUN --mount`: what a step finds beside its image.
//!
//! Nothing is mounted. A mount is a directory or file beside the root that the sandbox shows at another place:
//! - **bind**: a copy of the selected files, made for the step and removed with it, so that whoever may write, writes into the
//!   copy. Files of a context are as COPY gives them, those of a stage or an image as they are there.
//! - **cache**: a directory of the store that outlives the build ([`crate::store::CacheDirectory`]). What its files are to steps
//!   is kept beside it, as an account.
//! - **tmpfs**: an empty directory, on disk.
//! - **secret**: a file in memory. Its content is nowhere else, and neither in a key nor in a message.
//! - **ssh**: a socket beside the root, from which [`super::agent`] carries bytes to the agent of the build.
//!
//! Of all of them nothing gets into a layer: a mount point that the image lacks goes again with the step, as in BuildKit.
//!
//! # Differences
//! - `size` of a tmpfs is refused; so is `source` of a cache without `from`, which BuildKit does not find in a cache that begins
//!   empty;
//! - a mount point inside of a cache goes with the step, too; BuildKit leaves a directory in the cache, and while the step runs
//!   nobody else uses that cache;
//! - a mount over `/etc` does not hide `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`;
//! - with `--network=none` there is no loopback device;
//! - `--secret` with a variable that is not set is an error; `docker buildx` makes an empty secret of it;
//! - `--ssh` takes agents and no keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self as rfs, MemfdFlags, Mode, OFlags, SealFlags};

use super::agent::Forwarded;
use super::error::BuildError;
use super::executor::Executor;
use super::fetch::blocking;
use super::inputs::Text;
use super::keys::StepKey;
use super::request::SecretValue;
use super::transfer::{Selection, TransferError};
use crate::context::clean;
use crate::dockerfile::{Diagnostic, Diagnostics, FileAttributes, Mount, Sharing, Span, quote};
use crate::image::{Digest, Sha256};
use crate::plan::{Run, RunMount, Source, Transfer, Unpack};
use crate::sandbox::abi::MAX_OWN_MOUNTS;
use crate::sandbox::{Account, MountedDirectory, Root, SandboxError, StepMount, Top};
use crate::store::{CacheDirectory, CacheUse, Store};

/// How often a cache that somebody else uses is asked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The permissions of a file system in memory, as the kernel makes it.
const TMPFS_MODE: u32 = 0o1777;
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
    _agents: Vec<Forwarded>,
    caches: Vec<UsedCache>,
}

/// A cache in use.
#[derive(Debug)]
struct UsedCache {
    cache: Arc<CacheDirectory>,
    files: Arc<OwnedFd>,
    /// What its files were to steps when it was taken in.
    taken: Account,
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
            Mount::Tmpfs { size: Some(_), .. } => {
                let message =
                    "`size` of a mount of type `tmpfs` cannot be kept to: nothing is really mounted";
                let hint = "leave it out: the directory is on disk, and removed after the step";
                Some(Diagnostic::error(message, *span).hint(hint))
            }
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
    Some(Transfer {
        name: "RUN --mount",
        source,
        paths: vec![(literal(&clean(&format!("/{path}"))), mount.span)],
        inline: Vec::new(),
        destination: "/".to_owned(),
        destination_span: mount.span,
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
        unpack: Unpack::Never,
    })
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
                Mount::Tmpfs { read_only, .. } => {
                    let directory = root.mounted_directory(Top { mode: TMPFS_MODE, uid: 0, gid: 0 })?;
                    let what = Arc::new(duplicate(directory.directory()).map_err(host)?);
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
                            let used = blocking(move || take_in(&root, cache, files)).await?;
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
                    let started = Forwarded::start(root, &directory, agent.clone()).await;
                    let (forwarded, what) = started.map_err(|source| {
                        let operation = "reach the SSH agent";
                        SandboxError::Host { operation, source }
                    })?;
                    root.set_file(what.as_fd(), attributes(file, AGENT_MODE))?;
                    mounts.directories.push(directory);
                    mounts._agents.push(forwarded);
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

    /// The caches of a step, by the numbers of their mounts, each of them in use from now on. All steps take them in one order,
    /// so that no two wait for each other.
    async fn caches(
        self: &Arc<Self>,
        run: &Run,
        key: &StepKey,
        root: &Root,
    ) -> Result<BTreeMap<usize, Arc<CacheDirectory>>, BuildError> {
        let mut wanted: BTreeMap<Digest, (CacheUse, Vec<usize>)> = BTreeMap::new();
        for (number, mount) in run.mounts.iter().enumerate() {
            let Some(identity) = cache_key(run, mount, number, key, root) else { continue };
            let entry = wanted.entry(identity).or_insert((CacheUse::Shared, Vec::new()));
            entry.0 = stricter(entry.0, cache_use(run, number));
            entry.1.push(number);
        }
        let mut found = BTreeMap::new();
        for (identity, (how, numbers)) in wanted {
            let cache = loop {
                let store = self.services.store.clone();
                let tried = blocking(move || Ok(store.cache_directory(&identity, how)?));
                match tried.await? {
                    Some(cache) => break Arc::new(cache),
                    None => tokio::time::sleep(LOOK_AGAIN).await,
                }
            };
            found.extend(numbers.into_iter().map(|number| (number, Arc::clone(&cache))));
        }
        Ok(found)
    }

    /// The directory of a cache, made and filled if it is new.
    async fn cache_files(
        self: &Arc<Self>,
        mount: &RunMount,
        number: usize,
        key: &StepKey,
        root: &Arc<Root>,
        cache: &Arc<CacheDirectory>,
    ) -> Result<OwnedFd, BuildError> {
        let is_new = !cache.files().exists();
        let first = match is_new && mount.source.is_some() {
            true => Some(self.selection(mount, number, key).await?),
            false => None,
        };
        let top = new_top(&mount.mount, first.as_deref());
        let (root, cache, executor) = (Arc::clone(root), Arc::clone(cache), Arc::clone(self));
        let span = mount.span;
        blocking(move || {
            if is_new {
                make_cache(&root, &cache, &executor, first.as_deref(), top, span)?;
            }
            Ok(open_directory(&cache.files())?)
        })
        .await
    }
}

impl Mounts {
    /// After the step, whether it failed or not: keeps what it has made of its caches.
    ///
    /// # Errors
    /// If an account cannot be written.
    pub fn keep(&self, root: &Root) -> Result<(), BuildError> {
        for UsedCache { cache, files, taken } in &self.caches {
            let account = cache.account()?;
            let stored: Account = account.read()?;
            let now = root.account(files.as_fd(), taken, &stored)?;
            account.write(&now)?;
        }
        Ok(())
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
        None => duplicate(directory.directory()).map_err(failed)?,
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

fn duplicate(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

fn host(source: std::io::Error) -> SandboxError {
    SandboxError::Host { operation: "mount a directory", source }
}

fn open_directory(path: &Path) -> Result<OwnedFd, SandboxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::open(path, flags, Mode::empty())
        .map_err(|error| SandboxError::Host { operation: "open a cache", source: error.into() })
}

/// Makes the directory of a cache, unless somebody was faster.
fn make_cache(
    root: &Root,
    cache: &CacheDirectory,
    executor: &Executor,
    first: Option<&Selection>,
    top: Top,
    span: Span,
) -> Result<(), BuildError> {
    let account = cache.account()?;
    if cache.files().exists() {
        return Ok(());
    }
    let draft = account.draft()?;
    let owner = root.owner();
    let make = || {
        std::fs::create_dir(&draft)?;
        std::os::unix::fs::chown(&draft, Some(owner.uid), Some(owner.gid))
    };
    make().map_err(|source| SandboxError::Host { operation: "make a cache", source })?;
    let files = open_directory(&draft)?;
    if let Some(selection) = first {
        if selection.single().is_some() {
            let finding = Diagnostic::error("a cache begins with a directory, and this is a file", span);
            return Err(executor.text.findings(Diagnostics(vec![finding])));
        }
        let mut filler = root.filler(files.as_fd());
        selection
            .fill(&executor.services.store, &mut filler)
            .map_err(|error| executor.text.transfer_error(error))?;
        filler.finish()?;
    }
    root.set_top(files.as_fd(), top)?;
    account.write(&root.account(files.as_fd(), &Account::default(), &Account::default())?)?;
    account.publish()?;
    Ok(())
}

/// Has the root's ledger know the files of a cache.
fn take_in(root: &Root, cache: Arc<CacheDirectory>, files: OwnedFd) -> Result<UsedCache, BuildError> {
    let stored: Account = cache.account()?.read()?;
    let taken = root.take_in(files.as_fd(), &stored)?;
    Ok(UsedCache { cache, files: Arc::new(files), taken })
}

/// Mode and owner of a cache that begins.
fn new_top(mount: &Mount, first: Option<&Selection>) -> Top {
    let FileAttributes { mode, uid, gid } = match mount {
        Mount::Cache { file, .. } => *file,
        _ => FileAttributes::default(),
    };
    let (from_mode, from_uid, from_gid) = first.and_then(Selection::top).unwrap_or((DIRECTORY_MODE, 0, 0));
    Top { mode: mode.unwrap_or(from_mode), uid: uid.unwrap_or(from_uid), gid: gid.unwrap_or(from_gid) }
}

/// What a cache is known by: its name, and what it begins with. Caches of steps with another real user are others: nobody could
/// read their files.
fn cache_key(run: &Run, mount: &RunMount, number: usize, key: &StepKey, root: &Root) -> Option<Digest> {
    let Mount::Cache { id, target, source, file, .. } = &mount.mount else { return None };
    let mut hash = Sha256::new();
    let mut field = |value: &str| {
        hash.update(&(value.len() as u64).to_le_bytes());
        hash.update(value.as_bytes());
    };
    field(&id.clone().unwrap_or_else(|| clean(target)));
    // In the order of the sources of the step.
    let before = run.mounts.iter().take(number).filter(|mount| mount.source.is_some()).count();
    let from = mount.source.as_ref().and_then(|_| key.sources.get(before));
    field(from.map_or("", String::as_str));
    field(&from.map(|_| clean(&format!("/{source}"))).unwrap_or_default());
    for value in [file.mode, file.uid, file.gid] {
        field(&value.map(|value| value.to_string()).unwrap_or_default());
    }
    field(&root.owner().uid.to_string());
    Some(hash.finish())
}

fn cache_use(run: &Run, number: usize) -> CacheUse {
    let Some(Mount::Cache { sharing, .. }) = run.mounts.get(number).map(|mount| &mount.mount) else {
        return CacheUse::Shared;
    };
    let own = target(run, number).unwrap_or_default();
    let holds_another = (0..run.mounts.len())
        .filter_map(|other| target(run, other))
        .any(|other| other.strip_prefix(own.as_str()).is_some_and(|below| below.starts_with('/')));
    match sharing {
        Sharing::Locked => CacheUse::Locked,
        Sharing::Private => CacheUse::Private,
        // The mount point lies in it while the step runs: nobody else is to see that.
        Sharing::Shared if holds_another => CacheUse::Private,
        Sharing::Shared => CacheUse::Shared,
    }
}

fn stricter(a: CacheUse, b: CacheUse) -> CacheUse {
    match (a, b) {
        (CacheUse::Locked, _) | (_, CacheUse::Locked) => CacheUse::Locked,
        (CacheUse::Private, _) | (_, CacheUse::Private) => CacheUse::Private,
        _ => CacheUse::Shared,
    }
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
    use crate::dockerfile::Network;

    fn bind(target: &str) -> Mount {
        Mount::Bind { from: None, source: String::new(), target: target.to_owned(), writable: false }
    }

    fn cache(target: &str, sharing: Sharing) -> Mount {
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

    fn run(mounts: Vec<Mount>) -> Run {
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
    fn a_cache_with_another_mount_in_it_is_used_alone() {
        let shared = || cache("/c", Sharing::Shared);
        assert_eq!(cache_use(&run(vec![shared(), bind("/cc"), bind("/")]), 0), CacheUse::Shared);
        assert_eq!(cache_use(&run(vec![bind("/c/d"), shared()]), 1), CacheUse::Private);
        assert_eq!(cache_use(&run(vec![cache("/c", Sharing::Locked), bind("/c/d")]), 0), CacheUse::Locked);
        assert_eq!(stricter(CacheUse::Private, CacheUse::Shared), CacheUse::Private);
        assert_eq!(stricter(CacheUse::Private, CacheUse::Locked), CacheUse::Locked);
    }

    #[test]
    fn a_path_is_no_pattern() {
        let pattern = literal("/a*b/[c]?\\d");
        assert_eq!(pattern, "/a\\*b/\\[c]\\?\\\\d");
        let wildcard = crate::context::wildcard::Wildcard::parse(&pattern).unwrap();
        assert!(wildcard.matches(b"/a*b/[c]?\\d") && !wildcard.matches(b"/axb/c1\\d"));
    }
}
