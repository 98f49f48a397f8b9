//! Where a result goes: names in the store, registries, layouts, archives, files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::assemble::{self, Image, Product};
use super::error::BuildError;
use super::executor::Executor;
use super::fetch::blocking;
use super::files;
use super::layout::REF_NAME;
use super::request::{BuildOutcome, BuildRequest, Destination, Output, Services};
use crate::image::{Digest, Reference, media_type};
use crate::store::Store;

/// Delivers what was built everywhere it was asked for.
pub(super) async fn deliver(
    request: &BuildRequest,
    services: &Services,
    built: &[(Arc<Executor>, Image)],
) -> Result<BuildOutcome, BuildError> {
    let platform = |executor: &Executor| executor.platform();
    let images = built.iter().map(|(executor, image)| (platform(executor), image.clone())).collect();
    let product = Product::new(images, &request.annotations, request.media_types)?;
    let (_, document, digest) = product.document();
    for (_, image) in built {
        services.store.put(&image.config)?;
        services.store.put(&image.manifest)?;
    }
    services.store.put(document)?;
    let pushed = push(built, &product).await?;
    let mut written = Vec::new();
    for output in &request.outputs {
        match output {
            Output::Registry { .. } => {}
            Output::Oci { destination, names } => {
                written.extend(write_image(built, &product, destination, names, Format::Oci).await?);
            }
            Output::Docker { destination, names } => {
                written.extend(write_image(built, &product, destination, names, Format::Docker).await?);
            }
            Output::Local { directory } => {
                files::write_files(built, directory).await?;
                written.push(directory.clone());
            }
            Output::Tar { destination } => {
                written.extend(files::write_tar(built, destination.clone()).await?);
            }
        }
    }
    if request.outputs.is_empty() {
        bring_all(built).await?;
    }
    Ok(BuildOutcome {
        descriptor: product.descriptor(),
        digest,
        config: product.single().map(|image| image.config_digest),
        names: name_here(services, &product, &request.tags)?,
        pushed,
        written,
    })
}

/// Pushes what was built, if it is to be pushed. Gives the names.
async fn push(built: &[(Arc<Executor>, Image)], product: &Product) -> Result<Vec<Reference>, BuildError> {
    let Some(pusher) = built.first().and_then(|(executor, _)| executor.pusher()) else {
        return Ok(Vec::new());
    };
    let executes = built.iter().any(|(executor, _)| executor.executes);
    if !executes && pusher.is_there(product).await {
        return Ok(pusher.names().to_vec());
    }
    for (_, image) in built {
        pusher.finish(image).await?;
    }
    pusher.name(product).await
}

/// Names the product in the store, if all of it is there. Gives the names.
fn name_here(
    services: &Services,
    product: &Product,
    names: &[Reference],
) -> Result<Vec<Reference>, BuildError> {
    for layer in product.images.iter().flat_map(|(_, image)| &image.layers) {
        if !services.store.holds(&layer.digest, layer.size)? {
            return Ok(Vec::new());
        }
    }
    for name in names {
        services.store.tag(name, &product.descriptor())?;
    }
    Ok(names.to_vec())
}

/// Brings the layers that are not here.
async fn bring_all(built: &[(Arc<Executor>, Image)]) -> Result<(), BuildError> {
    let fetches = built
        .iter()
        .flat_map(|(executor, image)| image.layers.iter().map(|layer| executor.fetcher.fetch(layer)));
    futures_util::future::try_join_all(fetches).await?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Oci,
    Docker,
}

/// Writes a product as a layout, in a directory or an archive. Gives the file or directory.
async fn write_image(
    built: &[(Arc<Executor>, Image)],
    product: &Product,
    destination: &Destination,
    names: &[Reference],
    format: Format,
) -> Result<Option<PathBuf>, BuildError> {
    bring_all(built).await?;
    let Some((executor, _)) = built.first() else { return Ok(None) };
    let store = executor.services.store.clone();
    let (product, destination, names) = (product.clone(), destination.clone(), names.to_vec());
    let umask = executor.request.umask;
    blocking(move || {
        let failed = |source: io::Error| BuildError::Output { path: shown(&destination), source };
        let documents = documents(&product, &names, format).map_err(failed)?;
        let result = match &destination {
            Destination::Directory(directory) => write_layout(&store, &product, &documents, directory, umask),
            Destination::File(path) => {
                atomically(path, umask, |file| write_archive(&store, &product, &documents, file))
            }
            Destination::Stdout => write_archive(&store, &product, &documents, &mut io::stdout().lock()),
        };
        result.map_err(failed)?;
        Ok(place(&destination))
    })
    .await
}

/// A destination in messages.
pub(super) fn shown(destination: &Destination) -> PathBuf {
    place(destination).unwrap_or_else(|| PathBuf::from("standard output"))
}

/// The file or directory that a destination is.
pub(super) fn place(destination: &Destination) -> Option<PathBuf> {
    match destination {
        Destination::Stdout => None,
        Destination::File(path) | Destination::Directory(path) => Some(path.clone()),
    }
}

/// An entry of `manifest.json`, by which `docker save` names an image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// The file of the configuration.
    pub config: String,
    /// The names, with tags.
    #[serde(default, deserialize_with = "null_is_none")]
    pub repo_tags: Vec<String>,
    /// The files of the layers, lowest first.
    pub layers: Vec<String>,
}

/// Go writes `null` for a list that has nothing.
fn null_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

/// The files of a layout besides its blobs.
fn documents(product: &Product, names: &[Reference], format: Format) -> io::Result<Vec<(String, Vec<u8>)>> {
    let named = |name: Option<&Reference>| {
        let of_name = |name: &Reference| {
            [REF_NAME, "io.containerd.image.name"].map(|annotation| (annotation.to_owned(), name.to_string()))
        };
        product.annotated(name.into_iter().flat_map(of_name))
    };
    let manifests = match names {
        [] => vec![named(None)],
        names => names.iter().map(|name| named(Some(name))).collect(),
    };
    let mut documents = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), assemble::index(media_type::OCI_INDEX, manifests, BTreeMap::new())?),
    ];
    if let (Format::Docker, Some(image)) = (format, product.single()) {
        let image = DockerImage {
            config: blob_name(&image.config_digest),
            repo_tags: names.iter().map(Reference::familiar).collect(),
            layers: image.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
        };
        documents.push(("manifest.json".to_owned(), serde_json::to_vec(&[image])?));
    }
    Ok(documents)
}

pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The blobs of a product, each once, in the order of their names.
fn blobs(product: &Product) -> BTreeMap<Digest, u64> {
    let (_, bytes, digest) = product.document();
    let mut blobs = BTreeMap::from([(digest, bytes.len() as u64)]);
    for (_, image) in &product.images {
        blobs.insert(image.digest, image.manifest.len() as u64);
        blobs.insert(image.config_digest, image.config.len() as u64);
        blobs.extend(image.layers.iter().map(|layer| (layer.digest, layer.size)));
    }
    blobs
}

fn write_layout(
    store: &Store,
    product: &Product,
    documents: &[(String, Vec<u8>)],
    directory: &Path,
    umask: u32,
) -> io::Result<()> {
    make_directories(&directory.join("blobs/sha256"), umask)?;
    for digest in blobs(product).keys() {
        let to = directory.join(blob_name(digest));
        if to.exists() {
            continue;
        }
        let mut from = open(store, digest)?;
        atomically(&to, umask, |file| io::copy(&mut from, file).map(drop))?;
    }
    // The index last: what it names is there.
    for (name, content) in documents {
        atomically(&directory.join(name), umask, |file| file.write_all(content))?;
    }
    Ok(())
}

fn open(store: &Store, digest: &Digest) -> io::Result<File> {
    store.open_blob(digest).map_err(|error| error.into_io())
}

fn write_archive(
    store: &Store,
    product: &Product,
    documents: &[(String, Vec<u8>)],
    into: &mut dyn Write,
) -> io::Result<()> {
    archive(into, &blobs(product), |digest| Ok(Box::new(open(store, digest)?)), documents)
}

/// Writes a layout as an archive: blobs in the order of their digests, then the files that name them.
pub(super) fn archive(
    into: &mut dyn Write,
    blobs: &BTreeMap<Digest, u64>,
    open: impl Fn(&Digest) -> io::Result<Box<dyn io::Read>>,
    documents: &[(String, Vec<u8>)],
) -> io::Result<()> {
    let mut archive = tar::Builder::new(into);
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut entry = header(0);
        entry.set_entry_type(tar::EntryType::Directory);
        entry.set_mode(0o755);
        archive.append_data(&mut entry, directory, io::empty())?;
    }
    for (digest, size) in blobs {
        archive.append_data(&mut header(*size), blob_name(digest), open(digest)?)?;
    }
    for (name, content) in documents {
        archive.append_data(&mut header(content.len() as u64), name, content.as_slice())?;
    }
    archive.into_inner()?.flush()
}

/// Writes a file under a temporary name beside it, then names it. The process's own umask is not the user's.
pub(super) fn atomically(
    path: &Path,
    umask: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directories(parent, umask)?;
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        // `/dev/stdout`, a pipe: nothing can take their place.
        return write(&mut File::options().write(true).open(path)?);
    }
    let mut file = tempfile::Builder::new().prefix(".cofferdam-").tempfile_in(parent)?;
    write(file.as_file_mut())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o666 & !umask))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

pub(super) fn make_directories(path: &Path, umask: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(parent, umask)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o777 & !umask)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}
