//! The base images of `fixtures/provision`, as layers.

use std::fs::File;
use std::path::{Path, PathBuf};

use cofferdam::layer::{Change, Entry, LayerReader};
use serde_json::Value;

use crate::support;

/// The layers of a base image, lowest first.
///
/// # Panics
/// If the fixtures have not been made, or there is no such image.
pub fn layers(image: &str) -> Vec<PathBuf> {
    let layout = support::part("bases").join("oci");
    let index = read(&layout.join("index.json"));
    let named = |manifest: &&Value| manifest["annotations"]["org.opencontainers.image.ref.name"] == image;
    let manifests = index["manifests"].as_array().expect("manifests");
    let mut found = manifests.iter().find(named).unwrap_or_else(|| panic!("no base image `{image}`")).clone();
    loop {
        let document = read(&blob(&layout, &found["digest"]));
        if let Some(layers) = document["layers"].as_array() {
            return layers.iter().map(|layer| blob(&layout, &layer["digest"])).collect();
        }
        found = document["manifests"][0].clone();
    }
}

fn blob(layout: &Path, digest: &Value) -> PathBuf {
    let digest = digest.as_str().expect("a digest").replace(':', "/");
    layout.join("blobs").join(digest)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a document of the layout")).expect("JSON")
}

/// A layer of programs of this machine, all of mode 0755 and root's.
pub fn programs(directory: &Path, files: &[(&str, &Path)]) -> PathBuf {
    let place = directory.join("programs.tar");
    let mut tar = tar::Builder::new(File::create(&place).expect("a layer"));
    for (name, source) in files {
        let content = std::fs::read(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, name, content.as_slice()).expect("a file");
    }
    tar.finish().expect("a layer");
    place
}

/// What each layer of an image in an OCI archive has, sorted: path, mode, user and group.
pub fn entries_of_archive(archive: &Path) -> Vec<Vec<String>> {
    let directory = tempfile::tempdir().expect("a directory");
    tar::Archive::new(File::open(archive).expect("an archive")).unpack(directory.path()).expect("a layout");
    let mut document = read(&directory.path().join("index.json"));
    while document["layers"].is_null() {
        document = read(&blob(directory.path(), &document["manifests"][0]["digest"]));
    }
    let layers = document["layers"].as_array().expect("layers").iter();
    layers
        .map(|layer| {
            let file = File::open(blob(directory.path(), &layer["digest"])).expect("a layer");
            let mut reader = LayerReader::new(file).expect("a reader");
            let mut entries = Vec::new();
            while let Some((change, _)) = reader.next().expect("a change") {
                let Change::Entry(Entry { path, metadata, .. }) = change else { panic!("{change:?}") };
                entries.push(format!("{path} {:o} {}:{}", metadata.mode, metadata.uid, metadata.gid));
            }
            entries.sort();
            entries
        })
        .collect()
}
