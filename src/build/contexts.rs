//! The directories that files are copied from: the build context, and the named ones.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::bring;
use super::error::BuildError;
use super::request::{BuildRequest, CachePlace, CacheSource, NamedContext};
use super::transfer::{Origin, Reading, Selection, TransferError, keep, recall};
use crate::context::{Digests, LocalContext};
use crate::plan::{Remote, Source, Transfer};
use crate::store::Store;

/// The contexts of a build that are directories.
#[derive(Debug)]
pub(super) struct Contexts {
    main: Context,
    named: BTreeMap<String, Context>,
    /// What ADD takes that is not on this machine.
    fetched: BTreeMap<Remote, Origin>,
    threads: NonZeroUsize,
}

#[derive(Debug)]
struct Context {
    files: Arc<LocalContext>,
    /// In messages.
    name: Arc<str>,
    /// What is known of its files from earlier builds; it learns.
    digests: Option<Digests>,
}

impl Context {
    fn open(
        directory: &Path,
        dockerfile: Option<&Path>,
        name: String,
        is_main: bool,
        request: &BuildRequest,
        store: &Store,
    ) -> Result<Self, BuildError> {
        // What was brought here lies elsewhere the next time.
        let is_brought = directory.starts_with(store.directory());
        let files = match is_brought && !is_main {
            // Nobody has packed it for this build: as in BuildKit all of it counts.
            true => LocalContext::whole(directory)?,
            false => without_caches(LocalContext::open(directory, dockerfile)?, request, store),
        };
        let digests = if request.no_cache || is_brought { None } else { recall(store, &files)? };
        Ok(Self { files: Arc::new(files), name: name.into(), digests })
    }
}

/// A context without what this program keeps in it.
fn without_caches(files: LocalContext, request: &BuildRequest, store: &Store) -> LocalContext {
    let from = request.cache_from.iter().filter_map(|source| match source {
        CacheSource::Directory(path) => Some(path.as_path()),
        CacheSource::Registry { .. } => None,
    });
    let to = request.cache_to.iter().filter_map(|sink| match &sink.place {
        CachePlace::Directory(path) => Some(path.as_path()),
        CachePlace::Registry(_) | CachePlace::Inline => None,
    });
    from.chain(to).fold(files.without(store.directory()), LocalContext::without)
}

impl Contexts {
    /// Opens them. `dockerfile` is the file that it was read from, which may have an ignore file of its own; `fetched` is what
    /// ADD takes that is not on this machine; files are read by `threads` threads.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn open(
        request: &BuildRequest,
        dockerfile: Option<&Path>,
        store: &Store,
        fetched: BTreeMap<Remote, Origin>,
        threads: NonZeroUsize,
    ) -> Result<Self, BuildError> {
        let directory = bring::directory(request)?;
        let name = "the build context".to_owned();
        let main = Context::open(directory, dockerfile, name, true, request, store)?;
        let mut named = BTreeMap::new();
        for (name, context) in &request.named_contexts {
            if let NamedContext::Directory(directory) = context {
                let shown = format!("the context `{name}`");
                named.insert(name.clone(), Context::open(directory, None, shown, false, request, store)?);
            }
        }
        Ok(Self { main, named, fetched, threads })
    }

    /// The directory of the build context, as it was named.
    pub fn directory(&self) -> &Path {
        self.main.files.path()
    }

    /// Selects the files of a transfer from a context. `None` if it takes them from elsewhere.
    ///
    /// # Errors
    /// If the files cannot be selected or read.
    pub fn select(&self, transfer: &Transfer) -> Result<Option<Selection>, TransferError> {
        let context = match &transfer.source {
            Source::Context => Some(&self.main),
            Source::NamedContext(name) => self.named.get(name),
            Source::Stage(_) | Source::Image(_) => None,
        };
        let Some(context) = context else { return Ok(None) };
        let origin = Origin::context(Arc::clone(&context.files), Arc::clone(&context.name));
        let reading = Reading { digests: context.digests.as_ref(), threads: self.threads };
        Selection::with_fetched(Arc::new(transfer.clone()), origin, &self.fetched, reading).map(Some)
    }

    /// Keeps what was found out of files for the next build.
    ///
    /// # Errors
    /// If the store fails.
    pub fn keep(&self, store: &Store) -> Result<(), TransferError> {
        for context in std::iter::once(&self.main).chain(self.named.values()) {
            if let Some(digests) = &context.digests {
                keep(store, &context.files, digests)?;
            }
        }
        Ok(())
    }
}
