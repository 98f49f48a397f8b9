//! Why something cannot be brought here.

use thiserror::Error;

use crate::image::Digest;
use crate::registry::WebError;
use crate::store::StoreError;

/// Why something cannot be brought here.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// A file cannot be had.
    #[error("cannot fetch `{url}`")]
    Web {
        /// Its address, without a password.
        url: String,
        /// Why not.
        source: WebError,
    },
    /// A file is not the one that is expected.
    #[error("`{url}` has the digest {found}, and not {expected}")]
    Digest {
        /// Its address, without a password.
        url: String,
        /// What it should have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// There is no `git` on this machine.
    #[error("cannot start `git`, which fetches repositories")]
    NoGit(#[source] std::io::Error),
    /// `git` has failed.
    #[error("cannot {what} `{url}`: git says: {said}")]
    Git {
        /// What it was to do.
        what: &'static str,
        /// The repository, without a password.
        url: String,
        /// The last lines that it wrote.
        said: String,
    },
    /// A repository has no such reference.
    #[error("`{url}` has no branch, tag or reference `{reference}`")]
    NoReference {
        /// The repository, without a password.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// A commit is not the one that is expected.
    #[error("`{url}` is at the commit {found}, and not at {expected}")]
    Commit {
        /// The repository, without a password.
        url: String,
        /// What it should be, or begin with.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A repository has no such directory.
    #[error("`{url}` has no directory `{directory}`")]
    NoDirectory {
        /// The repository, without a password.
        url: String,
        /// What was asked for.
        directory: String,
    },
    /// What was checked out cannot be worked on.
    #[error("cannot put the files of `{url}` in order")]
    Files {
        /// The repository, without a password.
        url: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Web { source: WebError::Status { status, .. }, .. } => match status.as_u16() {
                401 | 403 => "a user and a password can stand in the address: `https://USER:PASSWORD@…`",
                _ => return None,
            },
            Self::Digest { .. } => "the file has changed, or the checksum is that of another",
            Self::NoGit(_) => {
                "put `git` into the image that the build runs in, or give a directory or an archive"
            }
            Self::NoReference { reference, .. } if is_short_commit(reference) => {
                "a commit that is meant to be found by its beginning has to be written in full"
            }
            Self::Git { .. } => {
                "a token is given with `--secret id=GIT_AUTH_TOKEN,env=…`, an SSH agent with `--ssh default`"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn is_short_commit(reference: &str) -> bool {
    (4..40).contains(&reference.len()) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}
