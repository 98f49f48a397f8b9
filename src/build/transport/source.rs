//! Where an image is taken from: its documents, byte for byte, and where each of its blobs lies.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::error::{BuildError, ImageFault};
use super::super::fetch::blocking;
use super::super::layout::{is_named, shown, unreadable};
use super::super::request::{Selector, Services};
use super::archive::Archive;
use super::place::Place;
use crate::image::{
    Descriptor, Digest, ImageConfig, ImageIndex, Manifest, MediaType, Platform, Reference, Repository,
    media_type, select,
};
use crate::registry::{BlobSource, Client};
use crate::store::Store;

/// Registries take manifests up to 4 MiB (distribution specification, "Pushing Manifests"); some serve larger ones.
const LARGEST_DOCUMENT: u64 = 8 << 20;
/// No configuration of an image is larger: it is fetched whole by everybody who runs the image.
const LARGEST_CONFIG: u64 = 16 << 20;
/// Indexes in indexes are legal, and nobody nests them deeper.
const DEEPEST_INDEX: usize = 4;
/// Manifests below one name. What names more is no image but an attack on this machine's memory.
const MOST_DOCUMENTS: usize = 2000;
/// Documents that are asked for at one time.
const AT_ONCE: usize = 4;

/// A manifest or index, as it is.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is called.
    pub media_type: String,
    /// Its digest, which has been verified.
    pub digest: Digest,
    /// What it says.
    pub manifest: Manifest,
}

impl Document {
    /// A document whose digest has been verified.
    pub(super) fn new(
        name: &str,
        bytes: Bytes,
        digest: Digest,
        kind: Option<&str>,
    ) -> Result<Self, BuildError> {
        let manifest = Manifest::parse(&bytes, kind)
            .map_err(|error| BuildError::Image { name: name.to_owned(), source: error.into() })?;
        let media_type = kind.filter(|kind| !kind.is_empty()).map(str::to_owned);
        Ok(Self { media_type: media_type.unwrap_or_else(|| manifest.media_type()), bytes, digest, manifest })
    }

    /// The descriptor that names it.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(MediaType::from(&*self.media_type), self.bytes.len() as u64, self.digest)
    }
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// The file.
    pub path: PathBuf,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl BlobSource for Section {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(&self.path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open `{}`: {error}", self.path.display()))
        })?;
        file.seek(SeekFrom::Start(self.offset + offset))?;
        Ok(Box::new(file.take(self.size.saturating_sub(offset))))
    }
}

/// A blob that an image refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What it is, for people.
    pub what: String,
}

/// An image with all that it refers to.
#[derive(Debug)]
pub(super) struct Tree {
    /// Manifests and indexes, each behind those that it refers to; the last is the image itself.
    pub documents: Vec<Document>,
    /// Configurations, layers and what else manifests name, each once.
    pub blobs: Vec<Blob>,
}

/// Where the bytes are.
#[derive(Debug)]
enum Origin {
    Registry(Client, Repository),
    Layout(PathBuf),
    Archive(Box<Archive>),
    Store(Store),
}

/// An image that is to be read.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    origin: Origin,
}

impl Source {
    /// Finds an image, and gives the document that its name stands for.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(super) async fn open(place: &Place, services: &Services) -> Result<(Self, Document), BuildError> {
        let name = place.to_string();
        let (origin, found) = match place {
            Place::Registry(reference) => {
                let fetched = services.client.manifest(reference).await?;
                let kind = Some(&*fetched.media_type).filter(|kind| !kind.is_empty());
                let document = Document::new(&name, fetched.bytes, fetched.digest, kind)?;
                let origin = Origin::Registry(services.client.clone(), reference.repository().clone());
                return Ok((Self { name, origin }, document));
            }
            Place::Layout { directory, selector } => {
                let found = in_layout(&name, directory, selector)?;
                (Origin::Layout(directory.clone()), found)
            }
            Place::Archive { file, name: wanted } => {
                let (file, wanted, store) = (file.clone(), wanted.clone(), services.store.clone());
                let (archive, found) =
                    blocking(move || Archive::open(&file, wanted.as_ref(), &store)).await?;
                (Origin::Archive(Box::new(archive)), found)
            }
            Place::Store(reference) => {
                (Origin::Store(services.store.clone()), in_store(services, reference)?)
            }
        };
        let source = Self { name, origin };
        let document = source.document(&found).await?;
        Ok((source, document))
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The repository that it is in, if it is on a registry.
    pub(super) fn repository(&self) -> Option<&Repository> {
        match &self.origin {
            Origin::Registry(_, repository) => Some(repository),
            _ => None,
        }
    }

    /// A manifest or index.
    ///
    /// # Errors
    /// If it is not there, or not what the descriptor says.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Document, BuildError> {
        let digest = self.digest(descriptor)?;
        let kind = descriptor.media_type().to_string();
        let bytes = match &self.origin {
            Origin::Registry(client, repository) => client.manifest(&repository.at(digest)).await?.bytes,
            _ => Bytes::from(self.read(digest, LARGEST_DOCUMENT)?),
        };
        Document::new(&self.name, bytes, digest, Some(kind.as_str()))
    }

    /// The configuration of an image, as it is.
    ///
    /// # Errors
    /// If it is not there, or too large to be one.
    pub(super) async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, BuildError> {
        let digest = self.digest(descriptor)?;
        match &self.origin {
            Origin::Registry(client, repository) => {
                Ok(client.blob_bytes(repository, digest, descriptor.size()).await?)
            }
            _ => self.read(digest, LARGEST_CONFIG),
        }
    }

    /// Where a blob lies on this machine, if it does.
    pub(super) fn section(&self, digest: &Digest, size: u64) -> Option<Section> {
        match &self.origin {
            Origin::Registry(..) => None,
            Origin::Layout(directory) => {
                let path = directory.join("blobs/sha256").join(digest.hex());
                Some(Section { path, offset: 0, size })
            }
            Origin::Archive(archive) => archive.section(digest),
            Origin::Store(store) => Some(Section { path: store.path(digest), offset: 0, size }),
        }
    }

    /// The whole of a small blob on this machine, verified.
    fn read(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, BuildError> {
        if let Origin::Archive(archive) = &self.origin
            && let Some(made) = archive.made(&digest)
        {
            return Ok(made.to_vec());
        }
        let missing = || BuildError::NotFound { what: format!("`{}` has no blob `{digest}`", self.name) };
        // An archive knows the length of what it has; elsewhere the file does.
        let section = self.section(&digest, limit + 1).ok_or_else(missing)?;
        let mut bytes = Vec::new();
        let read = section.open(0).and_then(|reader| reader.take(limit + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => return Err(self.unreadable(error)),
        }
        if bytes.len() as u64 > limit {
            return Err(BuildError::refused(format!("`{digest}` of `{}` is too large", self.name)));
        }
        let actual = Digest::of(&bytes);
        if actual != digest {
            return Err(BuildError::Image {
                name: self.name.clone(),
                source: ImageFault::Blob { expected: digest, actual },
            });
        }
        Ok(bytes)
    }

    fn unreadable(&self, source: io::Error) -> BuildError {
        BuildError::Input { what: format!("cannot read `{}`", self.name), source: Some(source), hint: None }
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest, BuildError> {
        Digest::try_from(descriptor.digest())
            .map_err(|error| BuildError::Image { name: self.name.clone(), source: error.into() })
    }

    /// The image of one platform: the document itself, or the one that it has for it.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn choose(
        &self,
        document: Document,
        platform: &Platform,
    ) -> Result<Document, BuildError> {
        let mut document = document;
        for _ in 0..DEEPEST_INDEX {
            let chosen = match &document.manifest {
                Manifest::Index(index) => {
                    let chosen = select(index, platform);
                    chosen.cloned().ok_or_else(|| self.no_platform(platform, &offered(index)))?
                }
                Manifest::Image(image) => {
                    let config = self.config(image.config()).await?;
                    let found =
                        serde_json::from_slice::<ImageConfig>(&config).map(|config| config.platform());
                    // What is no image for a machine, a chart say, is for all of them.
                    return match found {
                        Ok(found) if !found.os.is_empty() && !platform.accepts(&found) => {
                            Err(self.no_platform(platform, &found.to_string()))
                        }
                        _ => Ok(document),
                    };
                }
            };
            document = self.document(&chosen).await?;
        }
        Err(BuildError::refused(format!("the indexes of `{}` lie in each other too deep", self.name)))
    }

    fn no_platform(&self, platform: &Platform, offered: &str) -> BuildError {
        BuildError::NotFound {
            what: format!("`{}` has no image for {platform}: it has {offered}", self.name),
        }
    }

    /// Everything that a document refers to.
    ///
    /// # Errors
    /// If a manifest is not there, or is none.
    pub(super) async fn tree(&self, root: Document) -> Result<Tree, BuildError> {
        let mut seen = HashSet::from([root.digest]);
        let mut levels = vec![vec![root]];
        loop {
            let mut below = Vec::new();
            for document in levels.last().into_iter().flatten() {
                if let Manifest::Index(index) = &document.manifest {
                    for descriptor in index.manifests().iter().filter(|one| is_document(one)) {
                        if seen.insert(self.digest(descriptor)?) {
                            below.push(descriptor.clone());
                        }
                    }
                }
            }
            if below.is_empty() {
                break;
            }
            if levels.len() > DEEPEST_INDEX || seen.len() > MOST_DOCUMENTS {
                return Err(BuildError::refused(format!("the indexes of `{}` name too much", self.name)));
            }
            let asked = stream::iter(below.iter().map(|descriptor| self.document(descriptor)));
            levels.push(asked.buffered(AT_ONCE).try_collect().await?);
        }
        let documents: Vec<Document> = levels.into_iter().rev().flatten().collect();
        let blobs = self.blobs(&documents)?;
        Ok(Tree { documents, blobs })
    }

    /// The blobs of documents, each once.
    fn blobs(&self, documents: &[Document]) -> Result<Vec<Blob>, BuildError> {
        let mut blobs: HashMap<Digest, usize> = HashMap::new();
        let mut list = Vec::new();
        let mut add = |descriptor: &Descriptor, what: String| -> Result<(), BuildError> {
            let digest = self.digest(descriptor)?;
            if !is_foreign(descriptor) && blobs.insert(digest, list.len()).is_none() {
                list.push(Blob { digest, size: descriptor.size(), what });
            }
            Ok(())
        };
        for document in documents {
            match &document.manifest {
                Manifest::Index(index) => {
                    for other in index.manifests().iter().filter(|one| !is_document(one)) {
                        add(other, "blob".to_owned())?;
                    }
                }
                Manifest::Image(image) => {
                    for (number, layer) in image.layers().iter().enumerate() {
                        add(layer, format!("layer {}/{}", number + 1, image.layers().len()))?;
                    }
                    add(image.config(), "configuration".to_owned())?;
                }
            }
        }
        Ok(list)
    }
}

/// Whether an index names a manifest; BuildKit's caches name layers in indexes too.
fn is_document(descriptor: &Descriptor) -> bool {
    media_type::MANIFESTS.contains(&descriptor.media_type().as_ref())
}

/// Whether the bytes of a layer are not on registries but at an address (Windows base images). A registry takes a manifest
/// that names one without having it.
pub(super) fn is_foreign(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type().to_string();
    descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty())
        && (kind.contains("nondistributable") || kind.contains("rootfs.foreign"))
}

/// The platforms of an index, in words.
fn offered(index: &ImageIndex) -> String {
    let platforms = index.manifests().iter().filter_map(|one| one.platform().as_ref());
    let names: Vec<String> = platforms
        .map(|platform| Platform::from(platform).to_string())
        // Attestations are filed under this name.
        .filter(|platform| platform != "unknown/unknown")
        .collect();
    if names.is_empty() { "no platform".to_owned() } else { names.join(", ") }
}

fn in_layout(name: &str, directory: &Path, selector: &Selector) -> Result<Descriptor, BuildError> {
    let index =
        std::fs::read(directory.join("index.json")).map_err(|source| unreadable(directory, source))?;
    let index: ImageIndex = serde_json::from_slice(&index).map_err(|error| BuildError::Image {
        name: name.to_owned(),
        source: ImageFault::Manifest(error.into()),
    })?;
    choose_in_layout(&index, selector).ok_or_else(|| {
        let known: Vec<String> = index.manifests().iter().map(shown).collect();
        BuildError::Image {
            name: name.to_owned(),
            source: ImageFault::NotInLayout { known: known.join(", ") },
        }
    })
}

/// The image of a layout that a selector means. A name is one of the annotations, or the tag that one of them ends with.
pub(super) fn choose_in_layout(index: &ImageIndex, selector: &Selector) -> Option<Descriptor> {
    let manifests = index.manifests();
    let one = |found: Vec<&Descriptor>| match found.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other.digest() == first.digest()) => {
            Some((*first).clone())
        }
        _ => None,
    };
    if let Some(digest) = &selector.digest {
        let digest = digest.to_string();
        return manifests.iter().find(|descriptor| descriptor.digest().as_ref() == digest).cloned();
    }
    let Some(name) = &selector.name else { return one(manifests.iter().collect()) };
    let exact = manifests.iter().find(|descriptor| is_named(descriptor, name)).cloned();
    let ends = |descriptor: &&Descriptor| shown(descriptor).ends_with(&format!(":{name}"));
    exact.or_else(|| one(manifests.iter().filter(ends).collect()))
}

fn in_store(services: &Services, reference: &Reference) -> Result<Descriptor, BuildError> {
    let found = services.store.resolve(reference)?;
    found.ok_or_else(|| BuildError::NotFound {
        what: format!("there is no image `{}` in the store", reference.familiar()),
    })
}
