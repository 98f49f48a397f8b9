//! The images that are to be deployed: from `image.json`, and as the user names them.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::{DeployError, Fault};
use super::images::Image;
use crate::image::{Handoff, Reference};

/// Bytes of `image.json` that are read.
const LARGEST: u64 = 16 << 20;

/// Reads `files` (`--images`) and `given` (`--image`, each `NAME=REF` or `REF`).
///
/// # Errors
/// If a file cannot be read; [`DeployError::Manifests`] with every image that is not pinned to a digest.
pub fn images(files: &[PathBuf], given: &[String]) -> Result<Vec<Image>, DeployError> {
    let mut images = Vec::new();
    let mut faults = Vec::new();
    for file in files {
        let text = read(file)?;
        match Handoff::parse(&text) {
            Ok(handoff) => {
                let origin = file.display().to_string();
                images.extend(handoff.images.into_iter().map(|image| Image {
                    name: None,
                    refs: image.refs,
                    origin: origin.clone(),
                }));
            }
            Err(error) => {
                let what = format!("`{}` cannot be used: {}", file.display(), causes(&error));
                let hint = "`cofferdam build --push --image-json FILE` writes it".to_owned();
                faults.push(Fault { source: None, what, hint: Some(hint) });
            }
        }
    }
    for text in given {
        match one(text) {
            Ok(image) => images.push(image),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(images) } else { Err(DeployError::Manifests(faults)) }
}

/// An error and what lies behind it.
fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn read(path: &Path) -> Result<Vec<u8>, DeployError> {
    let mut bytes = Vec::new();
    let result = fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    result.map_err(|source| DeployError::Input { what: format!("`{}`", path.display()), source })?;
    Ok(bytes)
}

/// `NAME=REF`, or `REF`: a reference has no `=`.
fn one(text: &str) -> Result<Image, Fault> {
    let fault = |what: String, hint: &str| Fault { source: None, what, hint: Some(hint.to_owned()) };
    let (name, reference) = match text.split_once('=') {
        Some((name, reference)) => (Some(name), reference),
        None => (None, text),
    };
    let form = "give NAME=REPOSITORY:TAG@sha256:…";
    if name == Some("") {
        return Err(fault(format!("--image `{text}`: the name is empty"), form));
    }
    let reference: Reference =
        reference.parse().map_err(|error| fault(format!("--image `{text}`: {error}"), form))?;
    if reference.digest().is_none() {
        let hint = "a tag may be another image by the time it is pulled: give its digest too, as \
                    `cofferdam build --push` prints it";
        return Err(fault(format!("--image `{text}` has no digest"), hint));
    }
    Ok(Image { name: name.map(str::to_owned), refs: vec![reference], origin: "--image".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Digest, HandedImage};

    fn messages(files: &[PathBuf], given: &[&str]) -> Vec<String> {
        let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
        match images(files, &given) {
            Err(DeployError::Manifests(faults)) => faults.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_and_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.json");
        let digest = Digest::of(b"x");
        let built = HandedImage::new(&["r.example/a:1".parse().unwrap()], digest, Vec::new(), None).unwrap();
        fs::write(&path, Handoff::of(vec![built]).to_json()).unwrap();
        let found =
            images(&[path], &[format!("web=r.example/b@{digest}"), format!("r.example/c:1@{digest}")])
                .unwrap();
        let found: Vec<(Option<&str>, String)> =
            found.iter().map(|image| (image.name.as_deref(), image.refs[0].to_string())).collect();
        assert_eq!(
            found,
            [
                (None, format!("r.example/a:1@{digest}")),
                (Some("web"), format!("r.example/b@{digest}")),
                (None, format!("r.example/c:1@{digest}"))
            ]
        );
    }

    #[test]
    fn a_moving_tag_is_a_mistake() {
        let found = messages(&[], &["web=r.example/b:latest", "=x", "a=B"]);
        assert_eq!(
            found,
            [
                "--image `web=r.example/b:latest` has no digest",
                "--image `=x`: the name is empty",
                "--image `a=B`: image name `B` must be lower case"
            ]
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.json");
        fs::write(&path, "{}").unwrap();
        assert!(messages(&[path], &[])[0].contains("is not what `--image-json` writes"));
        assert!(matches!(images(&["/absent".into()], &[]), Err(DeployError::Input { .. })));
    }
}
