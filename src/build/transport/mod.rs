//! Images from place to place, as they are: between registries, layouts, archives and the store.
//!
//! | file | owns |
//! |---|---|
//! | `place` | what a place is called |
//! | `source`, `archive` | where an image is taken from: its documents, where its blobs lie |
//! | `stream` | a blob on its way from one registry to another |
//! | `target`, `index` | where it goes to |
//! | `look` | what an image is, without its layers |
//!
//! # Invariants
//! 1. Manifests and indexes keep their bytes, and so their digests. Nothing is compressed anew, nothing converted.
//! 2. Nothing has a name, anywhere, before everything that it refers to is everywhere it goes to.
//! 3. A blob is asked for before it is sent, mounted where the registry has it, read once however many places it goes to,
//!    and verified on its way. From one registry to one other it lies on no disk.
//! 4. What lies on a disk meanwhile is in a workspace of the run, and goes with the blob it was kept for.

mod archive;
mod index;
mod look;
mod place;
mod source;
mod stream;
mod target;

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream as futures};

pub use look::{Described, DescribedImage, DescribedLayer, Look, look};
pub use place::Place;

use self::source::{Blob, Document, Section, Source, Tree};
use self::stream::Stream;
use self::target::Files;
use super::error::BuildError;
use super::fetch::{Fetcher, blocking};
use super::layers::{Layer, Origin};
use super::push;
use super::request::Services;
use crate::image::{Digest, Manifest, Platform, Reference, Repository};
use crate::registry::{BlobSource, BlobUpload, ErrorKind, RegistryError};
use crate::report::Direction;
use crate::store::{Store, Workspace};

/// Blobs that are on their way at one time: more share one line, fewer leave it idle between blobs.
const AT_ONCE: usize = 4;

/// An image to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRequest {
    /// Where it is.
    pub source: Place,
    /// Where it is to be, at least one place.
    pub targets: Vec<Place>,
    /// The one platform of an index that is meant; all of it if none is named.
    pub platform: Option<Platform>,
    /// The user's own umask: for files and directories that the user asked for.
    pub umask: u32,
}

/// An image that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The digest of its manifest or index.
    pub digest: Digest,
    /// For each target what it is now called there: pinned to the digest on a registry, the digest alone elsewhere.
    pub names: Vec<String>,
}

/// Copies.
///
/// # Errors
/// If there is no such image, a target cannot take it, or a transfer failed. Then no target's name has changed, but perhaps
/// those before the one that failed.
pub async fn copy(request: &CopyRequest, services: &Services) -> Result<Copied, BuildError> {
    let (source, document) = Source::open(&request.source, services).await?;
    let root = match &request.platform {
        Some(platform) => source.choose(document, platform).await?,
        None => document,
    };
    let digest = root.digest;
    for target in &request.targets {
        if target.digest().is_some_and(|wanted| wanted != digest) {
            let (what, from) = (format!("`{target}` names another digest"), source.name());
            return Err(BuildError::refused(format!("{what}: `{from}` is {digest}")));
        }
    }
    let mut run = Run::new(request, services, source)?;
    run.leave_out_what_is_there(digest).await;
    if run.is_work() {
        run.carry(root).await?;
    }
    let name = |place: &Place| match place {
        Place::Registry(name) => name.repository().at(digest).to_string(),
        _ => digest.to_string(),
    };
    Ok(Copied { digest, names: request.targets.iter().map(name).collect() })
}

/// One image on its way.
struct Run<'a> {
    services: &'a Services,
    source: Source,
    /// Names on registries that are to be given.
    names: Vec<Reference>,
    /// Repositories that need blobs, by their registries: in one of them a blob is sent, into the others mounted.
    groups: BTreeMap<String, Vec<Repository>>,
    /// Layouts and archives.
    files: Vec<Files>,
    /// Names in the store.
    stored: Vec<Reference>,
    /// Where blobs lie that more than one target needs.
    spool: Spool,
}

/// Blobs that were brought here only to be taken on.
struct Spool {
    store: Store,
    fetcher: Fetcher,
    /// Whether blobs go when their targets have them.
    sheds: bool,
    _workspace: Option<Workspace>,
}

impl Spool {
    fn new(services: &Services, into_store: bool, sheds: bool) -> Result<Self, BuildError> {
        let (store, workspace) = if into_store {
            (services.store.clone(), None)
        } else {
            let workspace = services.store.workspace()?;
            (Store::open(workspace.path().join("blobs"))?, Some(workspace))
        };
        let fetcher = Fetcher::new(&store, &services.client, &services.report);
        Ok(Self { store, fetcher, sheds: sheds && !into_store, _workspace: workspace })
    }

    /// Brings a blob here.
    async fn bring(&self, blob: &Blob, repository: &Repository, name: &str) -> Result<Section, BuildError> {
        let what = format!("{} of {name}", blob.what);
        let layer = Layer {
            digest: blob.digest,
            size: blob.size,
            media_type: String::new(),
            diff_id: blob.digest,
            origin: Origin::Registry { repository: repository.clone(), what },
        };
        self.fetcher.fetch(&layer).await?;
        Ok(Section { path: self.store.path(&blob.digest), offset: 0, size: blob.size })
    }

    fn shed(&self, section: &Section) {
        if self.sheds {
            // The workspace takes it away else.
            let _ = std::fs::remove_file(&section.path);
        }
    }
}

impl<'a> Run<'a> {
    fn new(request: &CopyRequest, services: &'a Services, source: Source) -> Result<Self, BuildError> {
        let mut run = Self {
            services,
            source,
            names: Vec::new(),
            groups: BTreeMap::new(),
            files: Vec::new(),
            stored: Vec::new(),
            spool: {
                let into_store = request.targets.iter().any(|place| matches!(place, Place::Store(_)));
                let archives = request.targets.iter().any(|place| matches!(place, Place::Archive { .. }));
                Spool::new(services, into_store, !archives)?
            },
        };
        for target in &request.targets {
            match target {
                Place::Registry(name) => run.names.push(name.clone()),
                Place::Store(name) => run.stored.push(name.clone()),
                Place::Layout { directory, selector } => {
                    run.files.push(Files::layout(directory.clone(), selector.name.clone(), request.umask));
                }
                Place::Archive { file, name } => {
                    run.files.push(Files::archive(file.clone(), name.clone(), request.umask));
                }
            }
        }
        Ok(run)
    }

    fn is_work(&self) -> bool {
        !(self.names.is_empty() && self.files.is_empty() && self.stored.is_empty())
    }

    /// Forgets the names that are those of the image already. In the image's own repository naming it anew is as cheap.
    async fn leave_out_what_is_there(&mut self, digest: Digest) {
        let own = self.source.repository().cloned();
        let client = &self.services.client;
        let asked = self.names.iter().map(|name| async {
            let is_foreign = own.as_ref() != Some(name.repository());
            is_foreign && client.has_manifest(name, digest).await
        });
        let there = futures_util::future::join_all(asked).await;
        for (name, _) in self.names.iter().zip(&there).filter(|(_, there)| **there) {
            self.services.report.note(format!("already there: {name}"));
        }
        let mut there = there.into_iter();
        self.names.retain(|_| !there.next().unwrap_or(false));
        for name in &self.names {
            let repository = name.repository();
            // What a registry has itself it has with all blobs; what a mirror has for it may be the mirror's alone.
            if own.as_ref() == Some(repository) && !client.is_mirrored(repository) {
                continue;
            }
            let group = self.groups.entry(repository.registry().to_owned()).or_default();
            if !group.contains(repository) {
                group.push(repository.clone());
            }
        }
    }

    async fn carry(&self, root: Document) -> Result<(), BuildError> {
        for files in &self.files {
            files.check(&root)?;
        }
        let is_naming_alone = self.groups.is_empty() && self.files.is_empty() && self.stored.is_empty();
        let tree = match is_naming_alone {
            true => Tree { documents: vec![root], blobs: Vec::new() },
            false => self.source.tree(root).await?,
        };
        let moves = futures::iter(tree.blobs.iter().map(|blob| self.blob(blob)));
        moves.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        self.documents(&tree).await
    }

    /// Brings manifests where the blobs are, and names the last.
    async fn documents(&self, tree: &Tree) -> Result<(), BuildError> {
        let Some((root, below)) = tree.documents.split_last() else { return Ok(()) };
        let client = &self.services.client;
        for repository in self.groups.values().flatten() {
            // Those of one level refer to none of each other, but an order is an order.
            for document in below {
                let at = repository.at(document.digest);
                client.push_manifest(&at, &document.media_type, document.bytes.clone()).await?;
            }
        }
        for files in &self.files {
            let (files, documents, blobs) = (files.clone(), tree.documents.clone(), self.sections(tree));
            blocking(move || files.finish(&documents, &blobs)).await?;
        }
        if !self.stored.is_empty() {
            for document in &tree.documents {
                self.services.store.put(&document.bytes)?;
            }
            for name in &self.stored {
                self.services.store.tag(name, &root.descriptor())?;
            }
        }
        for name in &self.names {
            client.push_manifest(name, &root.media_type, root.bytes.clone()).await?;
            self.services.report.note(format!("named {name}"));
        }
        Ok(())
    }

    /// Where the blobs lie that archives are written from.
    fn sections(&self, tree: &Tree) -> BTreeMap<Digest, Section> {
        let section = |blob: &Blob| {
            let spooled = Section { path: self.spool.store.path(&blob.digest), offset: 0, size: blob.size };
            self.here(blob).unwrap_or(spooled)
        };
        tree.blobs.iter().map(|blob| (blob.digest, section(blob))).collect()
    }

    /// Where a blob lies on this machine without having been brought for this.
    fn here(&self, blob: &Blob) -> Option<Section> {
        let stored = || {
            let held = self.services.store.holds(&blob.digest, blob.size).unwrap_or(false);
            held.then(|| Section { path: self.services.store.path(&blob.digest), offset: 0, size: blob.size })
        };
        self.source.section(&blob.digest, blob.size).or_else(stored)
    }

    /// Brings a blob everywhere it is to be.
    async fn blob(&self, blob: &Blob) -> Result<(), BuildError> {
        let on_disk = !self.files.is_empty() || !self.stored.is_empty();
        let here = self.here(blob);
        let repository = self.source.repository();
        let spooled = match (&here, repository) {
            (None, Some(repository)) if on_disk || self.is_needed_twice(blob, repository).await? => {
                Some(self.spool.bring(blob, repository, self.source.name()).await?)
            }
            _ => None,
        };
        let section = here.as_ref().or(spooled.as_ref());
        let groups = self.groups.values().map(|group| self.group(blob, group, section));
        futures_util::future::try_join_all(groups).await?;
        if on_disk && let Some(section) = section {
            self.to_disk(blob, section).await?;
        }
        if let Some(spooled) = &spooled {
            self.spool.shed(spooled);
        }
        Ok(())
    }

    /// Whether more than one upload of a blob is to be expected. Then it comes here first, once.
    async fn is_needed_twice(&self, blob: &Blob, from: &Repository) -> Result<bool, BuildError> {
        let elsewhere = self.groups.iter().filter(|(registry, _)| *registry != from.registry());
        let repositories: Vec<&Repository> = elsewhere.flat_map(|(_, group)| group).collect();
        if repositories.len() < 2 {
            return Ok(false);
        }
        let client = &self.services.client;
        let asked = repositories.iter().map(|repository| client.has_blob(repository, blob.digest));
        let there = futures_util::future::try_join_all(asked).await?;
        Ok(there.into_iter().filter(|there| !there).count() > 1)
    }

    /// Brings a blob to the repositories of one registry.
    async fn group(
        &self,
        blob: &Blob,
        group: &[Repository],
        section: Option<&Section>,
    ) -> Result<(), BuildError> {
        let mut known: Vec<Repository> = self.source.repository().cloned().into_iter().collect();
        for repository in group {
            self.push(blob, repository, section, &known).await?;
            known.push(repository.clone());
        }
        Ok(())
    }

    async fn push(
        &self,
        blob: &Blob,
        repository: &Repository,
        section: Option<&Section>,
        mount_from: &[Repository],
    ) -> Result<(), BuildError> {
        let what = format!("{} to {repository}", blob.what);
        let transfer =
            self.services.report.transfer(Direction::Upload, None, blob.digest, what, Some(blob.size));
        let mut tries = 0;
        let pushed = loop {
            let stream = match (section, self.source.repository()) {
                (None, Some(from)) => Some(Stream::new(&self.services.client, from, blob.digest, blob.size)),
                _ => None,
            };
            let source: &dyn BlobSource = match (&stream, section) {
                (Some(stream), _) => stream,
                (None, Some(section)) => section,
                (None, None) => break Err(missing(blob)),
            };
            let upload = BlobUpload {
                digest: blob.digest,
                size: blob.size,
                source,
                is_new: false,
                mount_from,
                progress: Some(transfer.teller()),
            };
            let pushed = self.services.client.push_blob(repository, &upload).await;
            let error = match pushed {
                Ok(outcome) => break Ok(outcome),
                Err(error) => explained(error, stream.as_ref()),
            };
            tries += 1;
            // Wrong bytes twice are no accident of the line.
            if error.kind() != ErrorKind::Integrity || stream.is_none() || tries > 1 {
                break Err(error.into());
            }
        };
        push::end(transfer, pushed)
    }

    /// Brings a blob into layouts and the store.
    async fn to_disk(&self, blob: &Blob, section: &Section) -> Result<(), BuildError> {
        let (files, section, blob) = (self.files.clone(), section.clone(), blob.clone());
        let store = (!self.stored.is_empty()).then(|| self.services.store.clone());
        let cancellation = self.services.cancellation.clone();
        blocking(move || {
            if let Some(store) = store {
                target::into_store(&store, &blob, &section)?;
            }
            for files in &files {
                if cancellation.is_cancelled() {
                    return Err(BuildError::Cancelled);
                }
                files.blob(&blob, &section)?;
            }
            Ok(())
        })
        .await
    }
}

/// The error of an upload, or that of the download it was fed by.
fn explained(error: RegistryError, stream: Option<&Stream>) -> RegistryError {
    match stream {
        Some(stream) if error.kind() == ErrorKind::Local => stream.take_failure().unwrap_or(error),
        _ => error,
    }
}

fn missing(blob: &Blob) -> BuildError {
    BuildError::NotFound { what: format!("blob `{}` is nowhere to be had", blob.digest) }
}

/// Whether a document is one image, not several.
fn is_single(document: &Document) -> bool {
    matches!(document.manifest, Manifest::Image(_))
}
