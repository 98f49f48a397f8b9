//! Images of a registry, read by hand: what is in their layers and configurations, told by nobody under test.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

use super::image::sha256;
use super::registry::Registry;

/// Texts up to this size, in bytes, are told as they are.
const SHORT: usize = 160;

/// What a layer says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `file`, `directory`, `symlink`, …
    pub kind: String,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Of a file its content if that is a short text, else its size and digest; of a link its target, of a device its numbers.
    pub content: String,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Modification time, seconds since 1970.
    pub mtime: u64,
}

/// The names of a layer, without a slash at either end; a hard link is told with its target.
pub type Layer = BTreeMap<String, Node>;

/// The layers of `name` in `registry`, lowest first.
pub fn layers(registry: &Registry, name: &str) -> Vec<Layer> {
    let manifest = registry.manifest(name);
    let layers = manifest["layers"].as_array().expect("layers");
    layers.iter().map(|descriptor| layer(registry, descriptor)).collect()
}

/// The layer that a manifest describes so.
pub fn layer(registry: &Registry, descriptor: &Value) -> Layer {
    let path = registry.blob_path(descriptor["digest"].as_str().expect("a digest"));
    let file = std::fs::File::open(path).expect("the blob");
    match descriptor["mediaType"].as_str().expect("a media type") {
        kind if kind.ends_with("gzip") => read_layer(flate2::read::MultiGzDecoder::new(file)),
        kind if kind.ends_with("zstd") => read_layer(zstd::Decoder::new(file).expect("zstd")),
        _ => read_layer(file),
    }
}

/// The names in an uncompressed archive.
pub fn read_layer(source: impl Read) -> Layer {
    let mut archive = tar::Archive::new(source);
    let mut layer = Layer::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let xattrs = entry.pax_extensions().expect("extensions").map(|extensions| {
            let attribute = |extension: Result<tar::PaxExtension<'_>, _>| {
                let extension: tar::PaxExtension<'_> = extension.expect("an extension");
                let name = extension.key().ok()?.strip_prefix("SCHILY.xattr.")?.to_owned();
                Some((name, extension.value_bytes().to_vec()))
            };
            extensions.filter_map(attribute).collect()
        });
        let header = entry.header().clone();
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_matches('/').to_owned();
        let target = entry.link_name_bytes().map(|target| String::from_utf8_lossy(&target).into_owned());
        let (kind, content) = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::GNUSparse => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("its content");
                ("file", describe(&bytes))
            }
            tar::EntryType::Directory => ("directory", String::new()),
            tar::EntryType::Symlink => ("symlink", target.expect("a target")),
            tar::EntryType::Link => ("link", target.expect("a target").trim_matches('/').to_owned()),
            tar::EntryType::Char => ("char", device(&header)),
            tar::EntryType::Block => ("block", device(&header)),
            tar::EntryType::Fifo => ("fifo", String::new()),
            other => panic!("a layer has no {other:?}"),
        };
        let node = Node {
            kind: kind.to_owned(),
            // Nobody looks at the mode of a link.
            mode: if kind == "symlink" { 0o777 } else { header.mode().expect("a mode") & 0o7777 },
            uid: header.uid().expect("a user"),
            gid: header.gid().expect("a group"),
            content,
            xattrs: xattrs.unwrap_or_default(),
            mtime: header.mtime().expect("a time"),
        };
        layer.insert(name, node);
    }
    layer
}

/// Equal for equal contents, and of short texts to be read.
fn describe(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= SHORT => format!("{text:?}"),
        _ => format!("{} bytes {}", bytes.len(), sha256(bytes)),
    }
}

fn device(header: &tar::Header) -> String {
    let number = |number: std::io::Result<Option<u32>>| number.expect("a number").unwrap_or_default();
    format!("{}:{}", number(header.device_major()), number(header.device_minor()))
}

/// A configuration less what cannot be equal in two builds: times, and digests of layers.
pub fn comparable_config(mut config: Value) -> Value {
    if let Some(config) = config.as_object_mut() {
        config.remove("created");
        config.remove("rootfs");
    }
    for entry in config["history"].as_array_mut().into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("created");
        }
    }
    config
}
