//! What a build is asked to do, what it is given to do it with, and what it answers. Plain values, all resolved: made by
//! `settings` from flags, environment and files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(crate) use super::agent::example_key;
pub use super::agent::{Agent, Key, KeyError};
use crate::context::address::Address;
use crate::image::{Descriptor, Digest, Platform, Reference, Repository};
use crate::layer::Compression;
use crate::registry::Client;
use crate::report::Report;
use crate::sandbox::EmulatorSearch;
use crate::store::Store;

/// A build, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// Where the files of the build are.
    pub context: ContextSource,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// The stage to build; the last if none is named.
    pub target: Option<String>,
    /// Names of the result in the store, each with a tag and without a digest.
    pub tags: Vec<Reference>,
    /// `--build-arg`, values found (those without `=` have taken theirs from the environment, or are left out), each name
    /// once. `SOURCE_DATE_EPOCH` is among them if it is set, as an argument or in the environment.
    pub build_args: Vec<(String, String)>,
    /// `--label`, which override the Dockerfile's, each name once.
    pub labels: Vec<(String, String)>,
    /// `--secret`, each name once.
    pub secrets: Vec<(String, SecretValue)>,
    /// `--ssh`, each name once.
    pub agents: Vec<(String, Agent)>,
    /// `--platform`, each once; the machine's if none is given. Several make an index.
    pub platforms: Vec<Platform>,
    /// `--annotation`; those of an index only if there are several platforms.
    pub annotations: Vec<Annotation>,
    /// `--build-context NAME=…`, each name once.
    pub named_contexts: Vec<(String, NamedContext)>,
    /// Where the result goes; nowhere but into the store if empty.
    pub outputs: Vec<Output>,
    /// Use nothing of what earlier builds have left.
    pub no_cache: bool,
    /// `--cache-from`, `--cache-repo`: where results of steps are looked for that are not in the store, in this order.
    pub cache_from: Vec<CacheSource>,
    /// `--cache-to`, `--cache-repo`: where results of steps are put besides.
    pub cache_to: Vec<CacheSink>,
    /// `--cache-ttl`: results that are older are not used.
    pub cache_ttl: Option<Duration>,
    /// `--explain`: say of each step what becomes of it, and why, before the first is carried out.
    pub explain: bool,
    /// `--no-cache-filter`: the names of stages whose steps are carried out anew.
    pub no_cache_stages: Vec<String>,
    /// `SOURCE_DATE_EPOCH`: no time in the image is later. Seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// How layers are compressed.
    pub compression: Compression,
    /// Compress layers of base images anew that are compressed in another way.
    pub force_compression: bool,
    /// What the documents of the image call each other.
    pub media_types: MediaTypes,
    /// Refuse to run steps that the kernel does not confine.
    pub require_isolation: bool,
    /// How many stages may be worked on at one time, and how many threads read files and compress layers; at least 1.
    pub parallel: usize,
    /// The user's own umask: for files and directories that the user asked for. The process's is another.
    pub umask: u32,
}

/// Whose media types an image has. Its bytes are the same but for these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaTypes {
    /// Those of the OCI's image specification.
    #[default]
    Oci,
    /// Those of Docker's image manifest, version 2, schema 2, for what knows no others.
    Docker,
}

/// Where results of steps are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// A repository that has an entry for each key; and what one of its images says of its own steps.
    Registry {
        /// The repository.
        repository: Repository,
        /// The image, if one may be such.
        image: Option<Reference>,
    },
    /// A directory, itself a store.
    Directory(PathBuf),
}

/// Where results of steps are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSink {
    /// Where.
    pub place: CachePlace,
    /// Of which steps.
    pub mode: CacheMode,
}

/// A place for results of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A repository that gets an entry for each key.
    Registry(Repository),
    /// A directory, itself a store.
    Directory(PathBuf),
    /// The manifest of the image that is built.
    Inline,
}

/// Which steps' results a cache is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Those whose layers are in the image.
    #[default]
    Min,
    /// All.
    Max,
}

/// What a step may know and nobody else. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<[u8]>);

impl SecretValue {
    /// Takes a secret in.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The secret itself, for a step alone.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// An annotation of what is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What it stands in.
    pub place: AnnotationPlace,
    /// The platform whose image it is for; all, if none is named.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What an annotation can stand in (OCI image specification, "Annotations").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationPlace {
    /// The manifest of an image.
    Manifest,
    /// The index of several platforms.
    Index,
    /// The descriptor of an image, in the index or the layout.
    ManifestDescriptor,
    /// The descriptor of the index, in the layout.
    IndexDescriptor,
}

impl AnnotationPlace {
    /// Whether there is such a place only where there is an index.
    pub fn is_of_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// Where the files of a build are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// Standard input: an archive of the files, or else the Dockerfile alone.
    Stdin,
    /// A git repository, an archive on the web, or a Dockerfile there.
    Remote(Address),
}

/// Where a Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    InContext,
    /// A file of the context.
    Within(PathBuf),
    /// A file, relative to the working directory; of the context, if that is not on this machine.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// What was read from standard input already.
    Read(Vec<u8>),
}

/// What a `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Directory(PathBuf),
    /// A git repository, or a file on the web.
    Remote(Address),
    /// `docker-image://…`
    Image(Reference),
    /// `oci-layout://DIR[:TAG][@DIGEST]`
    Layout {
        /// The layout's directory.
        directory: PathBuf,
        /// Which of its images; the only one if none is named.
        selector: Selector,
    },
    /// `target:NAME`: a stage of the same Dockerfile.
    Target(String),
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Its name (`org.opencontainers.image.ref.name`), if it is found by that.
    pub name: Option<String>,
    /// Its digest, which decides if there is a name too.
    pub digest: Option<Digest>,
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `type=registry`, `--push`: to the registries of these names, of which there is at least one.
    Registry {
        /// The names to push under, each with a tag.
        names: Vec<Reference>,
    },
    /// `type=oci`: an OCI layout, as a directory or a tar archive.
    Oci {
        /// Where to.
        destination: Destination,
        /// The names that the image has in it.
        names: Vec<Reference>,
    },
    /// `type=docker`: what `docker load` reads, a tar archive.
    Docker {
        /// Where to: a file or standard output.
        destination: Destination,
        /// The names that the image has in it.
        names: Vec<Reference>,
    },
    /// `type=local`: the files of the image, in a directory.
    Local {
        /// Where to.
        directory: PathBuf,
    },
    /// `type=tar`: the files of the image, in a tar archive.
    Tar {
        /// Where to: a file or standard output.
        destination: Destination,
    },
}

/// A place for one file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output. At most one output of a build goes there.
    Stdout,
    /// A file.
    File(PathBuf),
    /// A directory.
    Directory(PathBuf),
}

impl Output {
    /// The names that it pushes under.
    pub fn pushed_names(&self) -> &[Reference] {
        match self {
            Self::Registry { names } => names,
            _ => &[],
        }
    }

    /// Whether it is written to standard output, where nothing else may be then.
    pub fn is_stdout(&self) -> bool {
        match self {
            Self::Oci { destination, .. } | Self::Docker { destination, .. } | Self::Tar { destination } => {
                *destination == Destination::Stdout
            }
            Self::Registry { .. } | Self::Local { .. } => false,
        }
    }
}

/// What a build is given to work with.
#[derive(Debug, Clone)]
pub struct Services {
    /// Where blobs, names and records are.
    pub store: Store,
    /// How registries are reached.
    pub client: Client,
    /// Who is told.
    pub report: Report,
    /// Whether the build is to be given up.
    pub cancellation: Cancellation,
    /// This very program, which is started again to supervise steps.
    pub launcher: PathBuf,
    /// Whether unpacked root filesystems are kept for the next build.
    pub keep_roots: bool,
    /// Where emulators of other machines' programs are looked for.
    pub emulators: EmulatorSearch,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildOutcome {
    /// Its manifest, or the index of several.
    pub descriptor: Descriptor,
    /// The digest of that.
    pub digest: Digest,
    /// The digest of its configuration, which `docker` calls the image's ID. An index has none.
    pub config: Option<Digest>,
    /// Its names in the store.
    pub names: Vec<Reference>,
    /// The names it was pushed under.
    pub pushed: Vec<Reference>,
    /// The files and directories it was written to.
    pub written: Vec<PathBuf>,
}

/// Whether what is being done is to be given up. Clones are one and the same.
#[derive(Debug, Clone)]
pub struct Cancellation {
    sender: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Default for Cancellation {
    fn default() -> Self {
        Self { sender: Arc::new(tokio::sync::watch::Sender::new(false)) }
    }
}

impl Cancellation {
    /// Gives it up. There is no way back.
    pub fn cancel(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it is to be given up; for code that looks between two pieces of its work.
    pub fn is_cancelled(&self) -> bool {
        *self.sender.borrow()
    }

    /// Ends when it is to be given up; for `tokio::select!`.
    pub async fn cancelled(&self) {
        let mut receiver = self.sender.subscribe();
        // It fails only if the sender is gone, which lives in `self`.
        let _ = receiver.wait_for(|cancelled| *cancelled).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancellation_reaches_every_clone() {
        let cancellation = Cancellation::default();
        let waiting = tokio::spawn({
            let cancellation = cancellation.clone();
            async move { cancellation.cancelled().await }
        });
        assert!(!cancellation.is_cancelled());
        cancellation.clone().cancel();
        waiting.await.unwrap();
        assert!(cancellation.is_cancelled());
        cancellation.cancelled().await;
    }
}
