//! What `docker save` writes, read: an OCI layout where there is one in it (Docker 25 and later, skopeo, this program), and
//! else the images of its `manifest.json`, for which a manifest of Docker's schema 2 is made.
//!
//! Nothing is unpacked: a file of the archive is a part of it. Layers are taken as they are; the bytes of those that are
//! not compressed are not compressed here, because their digests would be others.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use super::super::error::{BuildError, ImageFault};
use super::super::layout::{CONTAINERD_NAME, shown};
use super::super::output::DockerImage;
use super::super::request::Selector;
use super::source::{Section, choose_in_layout};
use crate::image::{Descriptor, Digest, ImageConfig, ImageIndex, MediaType, Reference, Sha256, media_type};
use crate::registry::BlobSource;
use crate::store::{Store, Workspace};

/// The files that name images. Larger ones name nothing.
const LARGEST_DOCUMENT: u64 = 8 << 20;
/// Files of one archive. Docker writes a handful for each layer.
const MOST_FILES: usize = 100_000;
/// Links that lead to a layer, one after the other.
const MOST_LINKS: usize = 8;
/// A Docker layer that is not compressed.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// How gzip begins (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// An archive, and what of it one image is made of.
#[derive(Debug)]
pub(super) struct Archive {
    sections: HashMap<Digest, Section>,
    /// A manifest that the archive does not have.
    made: Option<(Digest, Vec<u8>)>,
    /// The archive itself lies there if it was compressed.
    _workspace: Option<Workspace>,
}

/// A file of the archive.
#[derive(Debug)]
enum Entry {
    File(Section),
    Link(PathBuf),
}

/// All files of an archive by their names.
struct Files {
    archive: PathBuf,
    entries: HashMap<PathBuf, Entry>,
}

impl Archive {
    /// Finds an image in the archive `file`: the one that is called `wanted`, or the only one.
    ///
    /// # Errors
    /// If there is none, or the archive is none.
    pub(super) fn open(
        file: &Path,
        wanted: Option<&Reference>,
        store: &Store,
    ) -> Result<(Self, Descriptor), BuildError> {
        let input = |source| unreadable(file, source);
        let mut head = [0; 2];
        let is_gzip =
            File::open(file).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == GZIP;
        let (path, workspace) = if is_gzip {
            let workspace = store.workspace()?;
            let path = workspace.path().join("archive");
            let from = File::open(file).map_err(input)?;
            let mut to = File::create(&path).map_err(input)?;
            io::copy(&mut flate2::read::MultiGzDecoder::new(from), &mut to).map_err(input)?;
            (path, Some(workspace))
        } else {
            (file.to_owned(), None)
        };
        let files = Files::read(&path).map_err(input)?;
        let (mut archive, descriptor) = match files.document("index.json").map_err(input)? {
            Some(index) => Self::of_layout(&files, file, &index, wanted)?,
            None => Self::of_docker(&files, file, wanted)?,
        };
        archive._workspace = workspace;
        Ok((archive, descriptor))
    }

    /// Where a blob is.
    pub(super) fn section(&self, digest: &Digest) -> Option<Section> {
        self.sections.get(digest).cloned()
    }

    /// A manifest that was made.
    pub(super) fn made(&self, digest: &Digest) -> Option<&[u8]> {
        self.made.as_ref().filter(|(made, _)| made == digest).map(|(_, bytes)| bytes.as_slice())
    }

    fn of_layout(
        files: &Files,
        file: &Path,
        index: &[u8],
        wanted: Option<&Reference>,
    ) -> Result<(Self, Descriptor), BuildError> {
        let index: ImageIndex =
            serde_json::from_slice(index).map_err(|error| fault(file, ImageFault::Manifest(error.into())))?;
        // By the full name, or by the one that `docker` shows.
        let names = wanted.map(|name| [name.to_string(), name.familiar()]);
        let select = |name: Option<String>| choose_in_layout(&index, &Selector { name, digest: None });
        let found = match names {
            None => select(None),
            Some([full, familiar]) => select(Some(full)).or_else(|| select(Some(familiar))),
        };
        let name_of = |one: &Descriptor| {
            let annotations = one.annotations().as_ref();
            annotations.and_then(|known| known.get(CONTAINERD_NAME)).cloned().unwrap_or_else(|| shown(one))
        };
        let found = found.ok_or_else(|| {
            let known: Vec<String> = index.manifests().iter().map(name_of).collect();
            fault(file, ImageFault::NotInLayout { known: known.join(", ") })
        })?;
        let mut sections = HashMap::new();
        for (name, entry) in &files.entries {
            let hex = name.strip_prefix("blobs/sha256").ok().and_then(Path::to_str);
            if let (Some(hex), Entry::File(section)) = (hex, entry)
                && let Ok(digest) = format!("sha256:{hex}").parse()
            {
                sections.insert(digest, section.clone());
            }
        }
        Ok((Self { sections, made: None, _workspace: None }, found))
    }

    fn of_docker(
        files: &Files,
        file: &Path,
        wanted: Option<&Reference>,
    ) -> Result<(Self, Descriptor), BuildError> {
        let input = |source| unreadable(file, source);
        let list = files.document("manifest.json").map_err(input)?;
        let list = list.ok_or_else(|| BuildError::Input {
            what: format!("`{}` is no archive of `docker save`: it has no `manifest.json`", file.display()),
            source: None,
            hint: None,
        })?;
        let list: Vec<DockerImage> =
            serde_json::from_slice(&list).map_err(|error| fault(file, ImageFault::Manifest(error.into())))?;
        let image = chosen(&list, wanted).ok_or_else(|| {
            let known: Vec<&str> =
                list.iter().flat_map(|image| &image.repo_tags).map(String::as_str).collect();
            fault(file, ImageFault::NotInLayout { known: known.join(", ") })
        })?;
        let (config, config_digest, _) = files.hashed(&image.config).map_err(input)?;
        let text = config.open(0).and_then(|reader| whole(reader, LARGEST_DOCUMENT)).map_err(input)?;
        let parsed: ImageConfig =
            serde_json::from_slice(&text).map_err(|error| fault(file, ImageFault::Config(error)))?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let (layers, diff_ids) = (image.layers.len(), diff_ids.len());
            return Err(fault(file, ImageFault::LayerCount { layers, diff_ids }));
        }
        let mut sections = HashMap::new();
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(diff_ids) {
            let (section, digest, is_gzip) = files.hashed(name).map_err(input)?;
            if !is_gzip && digest != diff_id {
                return Err(fault(file, ImageFault::Blob { expected: diff_id, actual: digest }));
            }
            let kind = if is_gzip { media_type::DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
            layers.push(json!({"mediaType": kind, "size": section.size, "digest": digest}));
            sections.insert(digest, section);
        }
        let size = config.size;
        sections.insert(config_digest, config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::DOCKER_MANIFEST,
            "config": {"mediaType": media_type::DOCKER_CONFIG, "size": size, "digest": config_digest},
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let descriptor =
            Descriptor::new(MediaType::from(media_type::DOCKER_MANIFEST), bytes.len() as u64, digest);
        Ok((Self { sections, made: Some((digest, bytes)), _workspace: None }, descriptor))
    }
}

fn chosen<'a>(list: &'a [DockerImage], wanted: Option<&Reference>) -> Option<&'a DockerImage> {
    let Some(wanted) = wanted else {
        return match list {
            [one] => Some(one),
            _ => None,
        };
    };
    let is_wanted = |name: &String| name.parse::<Reference>().is_ok_and(|name| name.or_latest() == *wanted);
    list.iter().find(|image| image.repo_tags.iter().any(is_wanted))
}

impl Files {
    /// Reads the heads of an archive.
    fn read(path: &Path) -> io::Result<Self> {
        let mut archive = tar::Archive::new(File::open(path)?);
        let mut entries = HashMap::new();
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = plain(&entry.path()?);
            let kind = entry.header().entry_type();
            let found = if kind.is_file() {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                Entry::File(Section { path: path.to_owned(), offset, size })
            } else if let (true, Some(target)) =
                (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?)
            {
                let parent = name.parent().unwrap_or(Path::new(""));
                Entry::Link(plain(&if kind.is_symlink() { parent.join(target) } else { target.into_owned() }))
            } else {
                continue;
            };
            entries.insert(name, found);
            if entries.len() > MOST_FILES {
                return Err(io::Error::other(format!("it has more than {MOST_FILES} files")));
            }
        }
        Ok(Self { archive: path.to_owned(), entries })
    }

    /// The part that is the file `name`, through links.
    fn find(&self, name: &str) -> Option<&Section> {
        let mut name = plain(Path::new(name));
        for _ in 0..MOST_LINKS {
            match self.entries.get(&name)? {
                Entry::File(section) => return Some(section),
                Entry::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// A small file, if it is there.
    fn document(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(section) = self.find(name) else { return Ok(None) };
        section.open(0).and_then(|reader| whole(reader, LARGEST_DOCUMENT)).map(Some)
    }

    /// A file, its digest, and whether it is compressed.
    fn hashed(&self, name: &str) -> io::Result<(Section, Digest, bool)> {
        let section = self
            .find(name)
            .cloned()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("it has no file `{name}`")))?;
        let mut file = File::open(&self.archive)?;
        file.seek(SeekFrom::Start(section.offset))?;
        let mut file = file.take(section.size);
        let mut hash = Sha256::new();
        let (mut buffer, mut begin, mut total) = (vec![0; 256 << 10], Vec::<u8>::new(), 0);
        loop {
            let count = file.read(&mut buffer)?;
            let piece = buffer.get(..count).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            begin.extend(piece.iter().take(GZIP.len() - begin.len().min(GZIP.len())));
            total += count as u64;
            hash.update(piece);
        }
        if total < section.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((section, hash.finish(), begin == GZIP))
    }
}

/// A name without `.`, `..` and what is before the first part. Names only find each other; no file is opened by them.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn whole(reader: Box<dyn Read + Send>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn unreadable(file: &Path, source: io::Error) -> BuildError {
    BuildError::Input {
        what: format!("cannot read the archive `{}`", file.display()),
        source: Some(source),
        hint: None,
    }
}

fn fault(file: &Path, source: ImageFault) -> BuildError {
    BuildError::Image { name: format!("docker-archive://{}", file.display()), source }
}
