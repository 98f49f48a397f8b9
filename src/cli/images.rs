//! `cofferdam images`

use clap::Args;
use serde::Serialize;

use super::arguments::{Format, FormatArgs};
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::image::{Descriptor, Digest, ImageConfig, Manifest};
use crate::report::{bytes, short};
use crate::store::{Named, Store, StoreError};

/// Registries take manifests up to 4 MiB (distribution specification, "Pushing Manifests"); nothing larger is one.
const MAX_MANIFEST: u64 = 4 << 20;
/// No configuration of an image is larger: it is fetched whole by everybody who runs the image.
const MAX_CONFIG: u64 = 16 << 20;
/// In place of what is not known.
const UNKNOWN: &str = "-";

const AFTER_HELP: &str = "\
Images are in the order of their names. SIZE is that of all blobs, with layers as they are stored,
compressed.";

/// Flags of `images`.
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    mut_arg("format", |format| format.help("Form of the list: text or json [default: text]"))
)]
pub struct ImagesArgs {
    #[command(flatten)]
    form: FormatArgs,
}

/// An image, as it is listed.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Row {
    /// As `docker` shows it.
    name: String,
    /// In full, if the name is one of an image in a registry.
    reference: Option<String>,
    digest: String,
    media_type: String,
    /// Bytes of the blobs that it is made of.
    size: u64,
    /// RFC 3339; nothing for an index, and for an image that does not say.
    created: Option<String>,
    platforms: Vec<String>,
}

/// Lists.
pub(super) fn run(arguments: &ImagesArgs, session: &Session) -> Result<(), CliError> {
    let store = session.store()?;
    let mut rows = store.names()?.iter().map(|named| row(&store, named)).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    match arguments.form.format {
        Format::Json => stdout::write_json(&rows),
        Format::Text => stdout::write(&table(&rows)),
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "DIGEST", "SIZE", "CREATED"].map(str::to_owned);
    let mut cells = vec![head];
    cells.extend(rows.iter().map(|row| {
        let digest = row.digest.parse().map_or_else(|_| row.digest.clone(), |digest: Digest| short(&digest));
        let created = row.created.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        [row.name.clone(), digest, bytes(row.size), created]
    }));
    stdout::table(&cells, &[2])
}

fn row(store: &Store, named: &Named) -> Result<Row, StoreError> {
    let mut found = Found::default();
    found.add(store, &named.descriptor, 0)?;
    Ok(Row {
        name: named.reference.as_ref().map_or_else(|| named.name.clone(), |reference| reference.familiar()),
        reference: named.reference.as_ref().map(ToString::to_string),
        digest: named.descriptor.digest().to_string(),
        media_type: named.descriptor.media_type().to_string(),
        size: found.size,
        created: found.created.filter(|_| !found.is_index),
        platforms: found.platforms,
    })
}

/// What the blobs of an image say. A part that is missing is passed over: that is for `validate` to tell.
#[derive(Debug, Default)]
struct Found {
    size: u64,
    created: Option<String>,
    platforms: Vec<String>,
    is_index: bool,
}

impl Found {
    fn add(&mut self, store: &Store, descriptor: &Descriptor, depth: usize) -> Result<(), StoreError> {
        const DEEPEST: usize = 8;
        self.size = self.size.saturating_add(descriptor.size());
        let Some(bytes) = read(store, descriptor, MAX_MANIFEST)? else { return Ok(()) };
        match Manifest::parse(&bytes, Some(descriptor.media_type().as_ref())) {
            Ok(Manifest::Image(manifest)) => {
                let blobs = manifest.layers().iter().chain([manifest.config()]);
                self.size = blobs.map(Descriptor::size).fold(self.size, u64::saturating_add);
                let config = read(store, manifest.config(), MAX_CONFIG)?;
                if let Some(config) =
                    config.and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok())
                {
                    self.platforms.push(config.platform().to_string());
                    self.created = config.created;
                }
            }
            Ok(Manifest::Index(index)) => {
                self.is_index = true;
                for child in index.manifests() {
                    if depth < DEEPEST {
                        self.add(store, child, depth + 1)?;
                    }
                }
            }
            Err(_) => {}
        }
        Ok(())
    }
}

fn read(store: &Store, descriptor: &Descriptor, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Ok(digest) = descriptor.digest().to_string().parse::<Digest>() else { return Ok(None) };
    match store.read(&digest, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::Missing(_) | StoreError::Mismatch { .. } | StoreError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{MediaType, media_type};

    fn put(store: &Store, kind: &str, bytes: &[u8]) -> Descriptor {
        let blob = store.put(bytes).unwrap();
        Descriptor::new(MediaType::from(kind), bytes.len() as u64, oci_spec::image::Digest::from(blob.digest))
    }

    #[test]
    fn an_image_is_listed_with_what_its_blobs_say() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let config = br#"{"created":"2026-11-03T12:00:00Z","architecture":"amd64","os":"linux"}"#;
        let layer = put(&store, media_type::OCI_LAYER, &[7; 1500]);
        let config = put(&store, "application/vnd.oci.image.config.v1+json", config);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer]
        });
        let manifest = put(&store, media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        store.tag(&"r.example/group/app:1".parse().unwrap(), &manifest).unwrap();
        store.tag(&"app".parse().unwrap(), &manifest).unwrap();
        let rows: Vec<Row> = store.names().unwrap().iter().map(|named| row(&store, named).unwrap()).collect();
        let size = 1500 + config.size() + manifest.size();
        let digest = manifest.digest().to_string();
        assert_eq!(
            rows[1],
            Row {
                name: "app:latest".into(),
                reference: Some("docker.io/library/app:latest".into()),
                digest: digest.clone(),
                media_type: media_type::OCI_MANIFEST.into(),
                size,
                created: Some("2026-11-03T12:00:00Z".into()),
                platforms: vec!["linux/amd64".into()],
            }
        );
        let shown = table(&rows);
        let line = shown.lines().nth(1).unwrap();
        let expected =
            format!("r.example/group/app:1  {}  {}  2026-11-03T12:00:00Z", &digest[..19], bytes(size));
        assert_eq!(line, expected, "{shown}");
    }
}
