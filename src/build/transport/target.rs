//! Where an image goes to on this machine: layouts, archives, the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::super::error::{BuildError, ImageFault};
use super::super::fetch::take_in;
use super::super::output::{DockerImage, archive, atomically, blob_name, make_directories};
use super::index;
use super::is_single;
use super::source::{Blob, Document, Section};
use crate::image::{Digest, Manifest, Reference, Sha256};
use crate::registry::BlobSource;
use crate::store::Store;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// What makes a directory a layout (image specification 1.1, "oci-layout file").
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout or an archive.
#[derive(Debug, Clone)]
pub(super) struct Files {
    kind: Kind,
    umask: u32,
}

#[derive(Debug, Clone)]
enum Kind {
    Layout { directory: PathBuf, name: Option<String> },
    Archive { file: PathBuf, name: Option<Reference> },
}

impl Files {
    pub(super) fn layout(directory: PathBuf, name: Option<String>, umask: u32) -> Self {
        Self { kind: Kind::Layout { directory, name }, umask }
    }

    pub(super) fn archive(file: PathBuf, name: Option<Reference>, umask: u32) -> Self {
        Self { kind: Kind::Archive { file, name }, umask }
    }

    /// Whether it can take such an image; before anything is brought.
    ///
    /// # Errors
    /// If it cannot, or its directory cannot be made.
    pub(super) fn check(&self, root: &Document) -> Result<(), BuildError> {
        match &self.kind {
            Kind::Archive { .. } if !is_single(root) => Err(BuildError::Refused {
                what: "an archive of `docker save` holds the image of one platform, not an index".to_owned(),
                hint: Some("choose one with `--platform`, or copy to `oci-layout://DIR`".to_owned()),
            }),
            Kind::Archive { .. } => Ok(()),
            Kind::Layout { directory, .. } => make_directories(&directory.join("blobs/sha256"), self.umask)
                .map_err(|error| self.failed(error)),
        }
    }

    /// Takes a blob in.
    ///
    /// # Errors
    /// If it cannot be written, or is not what its digest says.
    pub(super) fn blob(&self, blob: &Blob, section: &Section) -> Result<(), BuildError> {
        // An archive is written at the end, in one go.
        let Kind::Layout { directory, .. } = &self.kind else { return Ok(()) };
        let to = directory.join(blob_name(&blob.digest));
        if std::fs::metadata(&to).is_ok_and(|found| found.len() == blob.size) {
            return Ok(());
        }
        let mut wrong = None;
        let written = atomically(&to, self.umask, |file| {
            let found = copy_hashed(section, file)?;
            if found != blob.digest {
                wrong = Some(found);
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok(())
        });
        match (wrong, written) {
            (Some(actual), _) => Err(fault(blob, actual)),
            (None, Err(error)) => Err(self.failed(error)),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Writes what names the image, when its blobs are there.
    ///
    /// # Errors
    /// If something cannot be written.
    pub(super) fn finish(
        &self,
        documents: &[Document],
        blobs: &BTreeMap<Digest, Section>,
    ) -> Result<(), BuildError> {
        let Some(root) = documents.last() else { return Ok(()) };
        match &self.kind {
            Kind::Layout { directory, name } => {
                let write = |name: &str, bytes: &[u8]| {
                    atomically(&directory.join(name), self.umask, |file| file.write_all(bytes))
                };
                let all = || {
                    for document in documents {
                        write(&blob_name(&document.digest), &document.bytes)?;
                    }
                    write("oci-layout", LAYOUT)?;
                    let path = directory.join("index.json");
                    let old = match std::fs::read(&path) {
                        Ok(old) => Some(old),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        Err(error) => return Err(error),
                    };
                    write("index.json", &index::with(old.as_deref(), &root.descriptor(), name.as_deref())?)
                };
                all().map_err(|error| self.failed(error))
            }
            Kind::Archive { file, name } => {
                let written = self.documents(root, name.as_ref()).and_then(|files| {
                    let mut sizes: BTreeMap<Digest, u64> =
                        blobs.iter().map(|(digest, section)| (*digest, section.size)).collect();
                    sizes.insert(root.digest, root.bytes.len() as u64);
                    let open = |digest: &Digest| -> io::Result<Box<dyn Read>> {
                        match blobs.get(digest) {
                            Some(section) => Ok(section.open(0)?),
                            None => Ok(Box::new(io::Cursor::new(root.bytes.clone()))),
                        }
                    };
                    atomically(file, self.umask, |file| archive(file, &sizes, open, &files))
                });
                written.map_err(|error| self.failed(error))
            }
        }
    }

    /// The files of an archive that name its image.
    fn documents(&self, root: &Document, name: Option<&Reference>) -> io::Result<Vec<(String, Vec<u8>)>> {
        let full = name.map(ToString::to_string);
        let index = index::with(None, &root.descriptor(), full.as_deref())?;
        let mut files = vec![("oci-layout".to_owned(), LAYOUT.to_vec()), ("index.json".to_owned(), index)];
        if let Manifest::Image(image) = &root.manifest {
            let file = |descriptor: &crate::image::Descriptor| {
                let digest = Digest::try_from(descriptor.digest()).map_err(io::Error::other)?;
                Ok::<_, io::Error>(blob_name(&digest))
            };
            let image = DockerImage {
                config: file(image.config())?,
                repo_tags: name.iter().map(|name| name.familiar()).collect(),
                layers: image.layers().iter().map(file).collect::<Result<_, _>>()?,
            };
            files.push(("manifest.json".to_owned(), serde_json::to_vec(&[image])?));
        }
        Ok(files)
    }

    fn failed(&self, source: io::Error) -> BuildError {
        let path = match &self.kind {
            Kind::Layout { directory, .. } => directory.clone(),
            Kind::Archive { file, .. } => file.clone(),
        };
        BuildError::Output { path, source }
    }
}

/// Takes a blob into the store, which checks it.
///
/// # Errors
/// If it cannot be read or written, or is not what its digest says.
pub(super) fn into_store(store: &Store, blob: &Blob, section: &Section) -> Result<(), BuildError> {
    if store.holds(&blob.digest, blob.size)? {
        return Ok(());
    }
    let what = || format!("`{}`", section.path.display());
    let mut from = section.open(0).map_err(|source| BuildError::Input {
        what: format!("cannot read {}", what()),
        source: Some(source),
        hint: None,
    })?;
    take_in(store, &mut from, blob.digest, blob.size, what)
}

fn copy_hashed(section: &Section, to: &mut File) -> io::Result<Digest> {
    let mut from = section.open(0)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let count = from.read(&mut buffer)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            return Ok(hash.finish());
        }
        hash.update(piece);
        to.write_all(piece)?;
    }
}

fn fault(blob: &Blob, actual: Digest) -> BuildError {
    let source = ImageFault::Blob { expected: blob.digest, actual };
    BuildError::Image { name: blob.what.clone(), source }
}
