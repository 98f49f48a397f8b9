//! Images for tests, made without the program under test: a base, some files, a configuration.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Registry;

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    digest(&Sha256::digest(bytes))
}

fn digest(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image of a base and one more layer, put straight into a registry's storage.
pub struct TestImage {
    base: Option<String>,
    layer: tar::Builder<File>,
    config: Vec<(&'static str, Value)>,
    platform: Option<(&'static str, &'static str)>,
}

impl TestImage {
    /// On nothing.
    pub fn scratch() -> Self {
        let layer = tar::Builder::new(tempfile::tempfile().expect("a temporary file"));
        Self { base: None, layer, config: Vec::new(), platform: None }
    }

    /// On a base that is in the registry it will be put in.
    pub fn from(base: &str) -> Self {
        Self { base: Some(base.to_owned()), ..Self::scratch() }
    }

    /// With a file of this machine, owned by root.
    pub fn file(mut self, path: &str, mode: u32, source: &Path) -> Self {
        let mut file = File::open(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let size = file.metadata().expect("its size").len();
        self.layer
            .append_data(&mut header(mode, size), path.trim_start_matches('/'), &mut file)
            .expect("a file");
        self
    }

    /// With a file of these bytes, owned by root.
    pub fn bytes(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = header(mode, content.len() as u64);
        self.layer.append_data(&mut header, path.trim_start_matches('/'), content).expect("a file");
        self
    }

    /// With this archive as the layer, whatever is in it; takes the place of files that were added.
    pub fn layer(mut self, archive: &[u8]) -> Self {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(archive).expect("a layer");
        self.layer = tar::Builder::new(file);
        self
    }

    /// With a value of the container configuration in place of the base's: `User`, `Env`, `Entrypoint`, `Cmd`…
    pub fn set(mut self, key: &'static str, value: Value) -> Self {
        self.config.push((key, value));
        self
    }

    /// For another architecture and variant of Linux; there need not be a variant.
    pub fn platform(mut self, architecture: &'static str, variant: &'static str) -> Self {
        self.platform = Some((architecture, variant));
        self
    }

    /// Puts it into `registry` as `name` (`repository:tag`); gives the full reference.
    pub fn push(self, registry: &Registry, name: &str) -> String {
        let (mut manifest, mut config) = match &self.base {
            Some(base) => (registry.manifest(base), registry.config(base)),
            None => empty(),
        };
        let docker = manifest["mediaType"].as_str().is_some_and(|t| t.contains("docker"));
        let mut file = self.layer.into_inner().expect("a finished layer");
        let (digest, size) = digest_of(&mut file);
        registry.put_blob(&digest, |path| {
            io::Seek::rewind(&mut file)?;
            io::copy(&mut file, &mut File::create(path)?).map(drop)
        });
        let kind = if docker { "docker.image.rootfs.diff.tar" } else { "oci.image.layer.v1.tar" };
        let descriptor =
            json!({"mediaType": format!("application/vnd.{kind}"), "digest": digest, "size": size});
        manifest["layers"].as_array_mut().expect("layers").push(descriptor);
        config["rootfs"]["diff_ids"].as_array_mut().expect("diff ids").push(json!(digest));
        config["history"].as_array_mut().expect("a history").push(json!({"created_by": "a test"}));
        for (key, value) in self.config {
            config["config"][key] = value;
        }
        if let Some((architecture, variant)) = self.platform {
            config["architecture"] = json!(architecture);
            if !variant.is_empty() {
                config["variant"] = json!(variant);
            }
        }
        let config = serde_json::to_vec(&config).expect("JSON");
        manifest["config"]["digest"] = json!(sha256(&config));
        manifest["config"]["size"] = json!(config.len());
        registry.put_blob(&sha256(&config), |path| fs::write(path, &config));
        let digests = |list: &Value| -> Vec<String> {
            list.as_array()
                .into_iter()
                .flatten()
                .filter_map(|d| Some(d["digest"].as_str()?.to_owned()))
                .collect()
        };
        let mut blobs = digests(&manifest["layers"]);
        blobs.extend(digests(&json!([manifest["config"]])));
        registry.put_image(name, &blobs, &serde_json::to_vec(&manifest).expect("JSON"));
        registry.reference(name)
    }
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    // Those who read layers by hand want numbers where numbers belong.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn empty() -> (Value, Value) {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [],
    });
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "history": [], "rootfs": {"type": "layers", "diff_ids": []},
    });
    (manifest, config)
}

fn digest_of(file: &mut File) -> (String, u64) {
    /// A hash as a sink.
    struct Sink(Sha256);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    io::Seek::rewind(file).expect("a file that can be read again");
    let mut sink = Sink(Sha256::new());
    let size = io::copy(file, &mut sink).expect("a readable file");
    (digest(&sink.0.finalize()), size)
}
