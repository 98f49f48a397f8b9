//! Files from a source into a layer: what COPY and ADD do.
//!
//! ```text
//! Transfer, Origin ─► Selection: which files, their digests ─► digest, for the step's key
//!                        │
//!        Tree, Options ──┴─► the same operations BuildKit does on disk, on paper ─► LayerWriter
//! ```
//!
//! The selection needs the source alone, so that keys are there before anything runs; where its files go needs the image that is
//! copied into, of which only the tree is looked at: nothing is unpacked for a COPY.
//!
//! The judge of every doubt is BuildKit 0.33.0: `convert_copy.go`, `solver/llbsolver/file` and `fsutil/copy`. What it does
//! and its documentation does not say, this does too: an octal `--chmod` is also for directories made on the way, `--exclude` is
//! for what is in copied directories, a file's name may end in `/`, a pattern that means nothing is no error.
//!
//! # Differences
//! Each of them is a build that would go wrong there, or a layer that would tell of the machine it was made on:
//! - several files for one name (`COPY a b /c` where `/c` is no directory) are an error; BuildKit keeps the last;
//! - a user or group that the image does not know is an error; BuildKit takes root;
//! - a source that `--exclude` is for is an error; BuildKit copies it, and its documentation says otherwise;
//! - a name that begins with `.wh.` is an error; BuildKit writes a layer that removes files;
//! - a name in an archive that leads out of it is an error; BuildKit takes the `..` away;
//! - sockets are left out, and one that is named is an error; BuildKit makes empty files of them;
//! - `user.*` attributes are kept; BuildKit loses them;
//! - `--link` with `--chown` of a name works; BuildKit fails;
//! - a link in the image whose target has `..` behind a link leads where the kernel says;
//! - a pattern in a directory that has no such file means nothing; BuildKit fails if no other source has sent the directory;
//! - block devices stay what they are; BuildKit makes character devices of them;
//! - IDs above 2147483647 are IDs; BuildKit looks them up as names;
//! - a pattern in what is not there or no directory is an error; BuildKit's answer depends on what else is copied;
//! - a link before the pivot of `--parents` is followed; BuildKit finds nothing behind it;
//! - the files of a git repository have the time of their commit, not of the checkout, and submodules have no `.git`, which
//!   in BuildKit's says where on its machine they were;
//! - an archive's hard link to a file of the image is one, and an error where no layer can say so (the file changes as well, or
//!   its name comes later); BuildKit has the content at hand and copies it;
//! - directories of the image keep their times, and those that are made have the time that [`Target::time`] says; one that
//!   is made for a source that is a directory has the time of the last such source. Where BuildKit's clock shows through
//!   (each later file in a directory is a change of it) there is no clock here.
//!
//! Invariants:
//! 1. The digest of a selection depends on names, kinds, modes and owners as applied, contents, link targets and attributes,
//!    and on no time, inode or place.
//! 2. A file goes into the layer as it was hashed, or not at all: its stamp is looked at before and after.
//! 3. Contents are streamed; memory grows with the number of files, by some 300 bytes each.

mod canvas;
mod error;
mod explain;
mod hash;
mod item;
mod key;
mod memory;
mod mode;
mod origin;
mod owner;
mod place;
mod select;
mod unpack;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use error::TransferError;
pub use memory::{keep, recall};
pub use origin::{Files, Origin, SingleFile};
pub use write::Target;

use crate::context::Digests;
use crate::dockerfile::{Diagnostic, Span, quote};
use crate::image::Digest;
use crate::plan::{Remote, Transfer};
use item::{ItemKind, ItemNumber, Piece};
use mode::Chmod;
use owner::Chown;

/// The mode of a file that stands in the Dockerfile.
const INLINE_MODE: u32 = 0o644;

/// How files are read for their digests.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// What is known of files from before, see [`recall`]. It learns.
    pub digests: Option<&'a Digests>,
    /// How many threads read.
    pub threads: NonZeroUsize,
}

/// The files that an instruction copies, with their digests.
#[derive(Debug)]
pub struct Selection {
    transfer: Arc<Transfer>,
    /// Where the files are: first that of the instruction, then one for each source that was fetched.
    origins: Vec<Origin>,
    pieces: Vec<Piece>,
    chown: Option<Chown>,
    chmod: Option<Chmod>,
    notices: Vec<Diagnostic>,
    digest: Digest,
}

impl Selection {
    /// Finds out what the sources of an instruction are, and reads their contents as far as that is needed.
    ///
    /// # Errors
    /// [`TransferError::Mistake`] for what the author can mend: a source that is not there, a pattern, mode or owner that
    /// is none. Else if a file cannot be read, or changes meanwhile.
    pub fn new(transfer: Arc<Transfer>, origin: Origin, reading: Reading<'_>) -> Result<Self, TransferError> {
        Self::with_fetched(transfer, origin, &BTreeMap::new(), reading)
    }

    /// The same, where `fetched` has the sources that are not on this machine.
    ///
    /// # Errors
    /// As [`Selection::new`].
    pub fn with_fetched(
        transfer: Arc<Transfer>,
        origin: Origin,
        fetched: &BTreeMap<Remote, Origin>,
        reading: Reading<'_>,
    ) -> Result<Self, TransferError> {
        let chown = flag("chown", transfer.chown.as_ref(), Chown::parse)?;
        let chmod = flag("chmod", transfer.chmod.as_ref(), Chmod::parse)?;
        let mut origins = vec![origin];
        let mut numbers = BTreeMap::new();
        for (source, remote) in &transfer.remotes {
            if let Some(origin) = fetched.get(remote) {
                numbers.insert(*source, origins.len());
                origins.push(origin.clone());
            }
        }
        let selected = select::select(&transfer, &origins, &numbers)?;
        let mut pieces = selected.pieces;
        hash::hash(&mut pieces, &origins, reading.digests, reading.threads)?;
        let applied = key::Applied { chown: chown.as_ref(), chmod: chmod.as_ref(), inline: &transfer.inline };
        let digest = key::digest(&pieces, &applied);
        Ok(Self { transfer, origins, pieces, chown, chmod, notices: selected.notices, digest })
    }

    /// The digest of all that the files add to the image: with the key of the image that is copied into and the
    /// destination it says what the layer holds, times apart.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The name of what was selected, if it is one thing and no directory.
    pub fn single(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [piece] if !piece.is_directory() => Some(&piece.name),
            _ => None,
        }
    }

    /// Mode, owner and group of the directory that was selected.
    pub fn top(&self) -> Option<(u32, u32, u32)> {
        let piece = self.pieces.first().filter(|piece| piece.is_directory())?;
        piece.items.first().map(|item| (item.mode, item.uid, item.gid))
    }

    /// What the author should know: patterns that mean nothing.
    pub fn notices(&self) -> &[Diagnostic] {
        &self.notices
    }

    /// Whether an owner is named by a name, which the image has to know.
    pub fn needs_names(&self) -> bool {
        self.chown.as_ref().is_some_and(Chown::needs_names)
    }

    /// How many files, directories and links were selected; an archive is one.
    pub fn files(&self) -> usize {
        self.pieces.iter().map(|piece| piece.items.len()).sum::<usize>() + self.transfer.inline.len()
    }

    /// The files and what of each is in the digest, for people who compare two selections.
    pub fn list(&self) -> BTreeMap<String, String> {
        let mut list = BTreeMap::new();
        for piece in &self.pieces {
            for (index, item) in piece.items.iter().enumerate() {
                let number = ItemNumber::try_from(index).unwrap_or(ItemNumber::MAX);
                let path = if item.name.is_empty() { piece.at.clone() } else { piece.path(number) };
                if let Some(origin) = self.origins.get(piece.origin) {
                    list.insert(origin.shown(&path), item.describe());
                }
            }
        }
        for (name, content) in &self.transfer.inline {
            list.insert(format!("<<{name}"), Digest::of(content.as_bytes()).to_string());
        }
        list
    }

    /// How many bytes the selected files have.
    pub fn bytes(&self) -> u64 {
        let items = self.pieces.iter().flat_map(|piece| &piece.items);
        let files = items.filter(|item| matches!(item.kind, ItemKind::File(_)) && item.twin.is_none());
        let inline = self.transfer.inline.iter().map(|(_, content)| content.len() as u64);
        files.map(|item| item.stamp.size).chain(inline).sum()
    }
}

/// Reads the value of a flag; an empty one is the same as none.
fn flag<T>(
    name: &str,
    given: Option<&(String, Span)>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, TransferError> {
    let Some((text, span)) = given.filter(|(text, _)| !text.is_empty()) else { return Ok(None) };
    let fault = |reason| {
        Diagnostic::error(format!("{} cannot be: {reason}", quote(&format!("--{name}={text}"))), *span)
    };
    Ok(Some(parse(text).map_err(fault)?))
}
