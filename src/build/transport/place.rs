//! Places that an image can be in.

use std::fmt;
use std::path::PathBuf;

use super::super::request::Selector;
use crate::image::Reference;

/// A place that an image is in, or is to be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `NAME`, `docker-image://NAME`: a repository of a registry, by tag, digest or both (the digest decides).
    Registry(Reference),
    /// `oci-layout://DIR[:NAME][@DIGEST]`: an OCI image layout.
    Layout {
        /// The layout's directory.
        directory: PathBuf,
        /// Which of its images; the only one if none is named.
        selector: Selector,
    },
    /// `docker-archive://FILE[:NAME]`: what `docker save` writes and `docker load` reads.
    Archive {
        /// The file.
        file: PathBuf,
        /// Which of its images, with a tag; the only one if none is named.
        name: Option<Reference>,
    },
    /// `store://NAME`: the local store.
    Store(Reference),
}

impl Place {
    /// The digest that an image there has to have, if the place names one.
    pub fn digest(&self) -> Option<crate::image::Digest> {
        match self {
            Self::Registry(name) | Self::Store(name) => name.digest(),
            Self::Layout { selector, .. } => selector.digest,
            Self::Archive { .. } => None,
        }
    }
}

impl fmt::Display for Place {
    /// As it is typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => write!(f, "{}", name.familiar()),
            Self::Layout { directory, selector } => {
                write!(f, "oci-layout://{}", directory.display())?;
                if let Some(name) = &selector.name {
                    write!(f, ":{name}")?;
                }
                selector.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
            }
            Self::Archive { file, name } => {
                write!(f, "docker-archive://{}", file.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{}", name.familiar()))
            }
            Self::Store(name) => write!(f, "store://{}", name.familiar()),
        }
    }
}
