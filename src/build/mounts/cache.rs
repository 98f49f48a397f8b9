//! Caches that steps mount: which directory of the store one is, how it begins, and how it is shared.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self as rfs, Mode, OFlags};

use super::{DIRECTORY_MODE, target};
use crate::build::error::BuildError;
use crate::build::executor::Executor;
use crate::build::fetch::blocking;
use crate::build::keys::StepKey;
use crate::build::transfer::Selection;
use crate::context::clean;
use crate::dockerfile::{Diagnostic, Diagnostics, FileAttributes, Mount, Sharing, Span};
use crate::image::{Digest, Sha256};
use crate::plan::{Run, RunMount};
use crate::sandbox::{Account, Root, SandboxError, Top};
use crate::store::{CacheDirectory, CacheUse};

/// How often a cache that somebody else uses is asked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A cache in use.
#[derive(Debug)]
pub(super) struct UsedCache {
    pub cache: Arc<CacheDirectory>,
    pub files: Arc<OwnedFd>,
    /// What its files were to steps when it was taken in.
    taken: Account,
}

impl UsedCache {
    /// Has the root's ledger know the files of a cache.
    pub fn take_in(root: &Root, cache: Arc<CacheDirectory>, files: OwnedFd) -> Result<Self, BuildError> {
        let stored: Account = cache.account()?.read()?;
        let taken = root.take_in(files.as_fd(), &stored)?;
        Ok(Self { cache, files: Arc::new(files), taken })
    }

    /// Keeps what a step has made of its files.
    pub fn keep(&self, root: &Root) -> Result<(), BuildError> {
        let account = self.cache.account()?;
        let stored: Account = account.read()?;
        let now = root.account(self.files.as_fd(), &self.taken, &stored)?;
        Ok(account.write(&now)?)
    }
}

impl Executor {
    /// The caches of a step, by the numbers of their mounts, each of them in use from now on. All steps take them in one order,
    /// so that no two wait for each other.
    pub(super) async fn caches(
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
    pub(super) async fn cache_files(
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

#[cfg(test)]
mod tests {
    use super::super::tests::{bind, cache, run};
    use super::*;

    #[test]
    fn a_cache_with_another_mount_in_it_is_used_alone() {
        let shared = || cache("/c", Sharing::Shared);
        assert_eq!(cache_use(&run(vec![shared(), bind("/cc"), bind("/")]), 0), CacheUse::Shared);
        assert_eq!(cache_use(&run(vec![bind("/c/d"), shared()]), 1), CacheUse::Private);
        assert_eq!(cache_use(&run(vec![cache("/c", Sharing::Locked), bind("/c/d")]), 0), CacheUse::Locked);
        assert_eq!(stricter(CacheUse::Private, CacheUse::Shared), CacheUse::Private);
        assert_eq!(stricter(CacheUse::Private, CacheUse::Locked), CacheUse::Locked);
    }
}
