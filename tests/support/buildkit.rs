//! BuildKit: the reference of the Dockerfile language, and a peer in the benchmarks.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Fixture, Registry};

/// A BuildKit daemon. It ends when this is dropped.
pub struct BuildKit {
    fixture: Fixture,
}

impl BuildKit {
    /// With nothing in its cache. It takes `docker.io`'s images from the first registry, and talks to no other.
    pub fn start(registries: &[&Registry]) -> Self {
        Self::launch(registries, None)
    }

    /// With its state in `root`, which outlives it.
    pub fn start_in(root: &Path, registries: &[&Registry]) -> Self {
        Self::launch(registries, Some(root))
    }

    fn launch(registries: &[&Registry], root: Option<&Path>) -> Self {
        let mut args = Vec::new();
        for (index, registry) in registries.iter().enumerate() {
            let https = if registry.ca().is_some() { "=https" } else { "" };
            args.extend(["--registry".to_owned(), format!("{}{https}", registry.address())]);
            if index == 0 {
                args.extend(["--mirror".to_owned(), registry.address().to_owned()]);
            }
        }
        if let Some(root) = root {
            args.extend(["--root".to_owned(), root.display().to_string()]);
        }
        Self { fixture: Fixture::start("buildkit", args) }
    }

    /// Its configuration, log and, unless it was given a place for that, state.
    pub fn directory(&self) -> &Path {
        self.fixture.path("DIR")
    }

    /// `buildctl ARGS` for this daemon.
    pub fn buildctl(&self) -> Command {
        let mut command = Command::new(self.fixture.path("BUILDCTL"));
        command.args(["--addr", self.fixture.value("BUILDKIT_HOST")]);
        command
    }

    /// A build of the directory `context`.
    pub fn build(&self, context: &Path) -> Build<'_> {
        let options = vec![
            "--frontend=dockerfile.v0".to_owned(),
            "--progress=plain".to_owned(),
            format!("--local=context={}", context.display()),
        ];
        Build { buildkit: self, options, dockerfile: context.join("Dockerfile") }
    }
}

/// A build to be run.
pub struct Build<'a> {
    buildkit: &'a BuildKit,
    options: Vec<String>,
    dockerfile: PathBuf,
}

/// A build that succeeded.
#[derive(Debug)]
pub struct Built {
    /// Of the manifest or index, if the build exported an image.
    pub digest: Option<String>,
    /// What `buildctl` printed.
    pub log: String,
}

impl Build<'_> {
    /// Another file than the context's `Dockerfile`.
    pub fn dockerfile(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.dockerfile);
        self
    }

    pub fn target(self, stage: &str) -> Self {
        self.option(&format!("--opt=target={stage}"))
    }

    pub fn arg(self, name: &str, value: &str) -> Self {
        self.option(&format!("--opt=build-arg:{name}={value}"))
    }

    /// Pushes to a registry that the daemon was told of.
    pub fn push(self, reference: &str) -> Self {
        self.option(&format!("--output=type=image,name={reference},push=true,oci-mediatypes=true"))
    }

    /// Any other option of `buildctl build`.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// # Errors
    /// What `buildctl` printed, if the build failed.
    pub fn run(self) -> Result<Built, String> {
        let metadata = tempfile::NamedTempFile::new().expect("a temporary file");
        let name = self.dockerfile.file_name().expect("a Dockerfile").to_string_lossy().into_owned();
        let directory = self.dockerfile.parent().expect("its directory");
        let output = self
            .buildkit
            .buildctl()
            .arg("build")
            .args(&self.options)
            .arg(format!("--local=dockerfile={}", directory.display()))
            .arg(format!("--opt=filename={name}"))
            .arg(format!("--metadata-file={}", metadata.path().display()))
            .output()
            .expect("buildctl runs");
        let log =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(log);
        }
        let metadata = std::fs::read(metadata.path()).expect("metadata");
        let digest = serde_json::from_slice::<serde_json::Value>(&metadata)
            .ok()
            .and_then(|m| Some(m["containerimage.digest"].as_str()?.to_owned()));
        Ok(Built { digest, log })
    }
}
