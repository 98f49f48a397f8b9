//! The digests of the selected files: from memory where their stamps are known, else by reading them, on all processors.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::TransferError;
use super::item::{ItemKind, Piece};
use super::origin::{Opener, Origin};
use crate::context::fingerprint::{check_stamp, read_content, user_attributes};
use crate::context::{Digests, Known};
use crate::image::Digest;
use crate::layer::Xattrs;

/// How many files a thread takes at once: those of a directory mostly stay together.
const SHARE: usize = 64;

/// A file by its place in the selection.
#[derive(Clone, Copy)]
struct Place {
    piece: usize,
    item: usize,
}

/// What was found out about a file.
struct Answer {
    place: Place,
    digest: Digest,
    attributes: Xattrs,
}

/// Gives each file its digest and its attributes.
pub(super) fn hash(
    pieces: &mut [Piece],
    origins: &[Origin],
    digests: Option<&Digests>,
    threads: NonZeroUsize,
) -> Result<(), TransferError> {
    let mut places = Vec::new();
    for (number, piece) in pieces.iter_mut().enumerate() {
        for (index, item) in piece.items.iter_mut().enumerate() {
            let ItemKind::File(digest) = &mut item.kind else { continue };
            if item.twin.is_some() {
                continue;
            }
            let known = digests.filter(|_| piece.origin == 0).and_then(|digests| digests.get(&item.stamp));
            match known {
                Some(Known { digest: known, has_attributes: false }) => *digest = Some(known),
                _ => places.push(Place { piece: number, item: index }),
            }
        }
    }
    for answer in read_all(pieces, &places, origins, digests, threads)? {
        let Some(item) =
            pieces.get_mut(answer.place.piece).and_then(|piece| piece.items.get_mut(answer.place.item))
        else {
            continue;
        };
        item.kind = ItemKind::File(Some(answer.digest));
        item.add_attributes(answer.attributes);
    }
    Ok(())
}

fn read_all(
    pieces: &[Piece],
    places: &[Place],
    origins: &[Origin],
    digests: Option<&Digests>,
    threads: NonZeroUsize,
) -> Result<Vec<Answer>, TransferError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let openers = origins.iter().map(Origin::opener).collect();
        let mut reader = Reader { pieces, origins, digests, openers, buffer: Vec::new() };
        let mut answers = Vec::new();
        loop {
            let start = next.fetch_add(SHARE, Ordering::Relaxed);
            let Some(share) = places.get(start..).filter(|rest| !rest.is_empty()) else { break };
            for place in share.iter().take(SHARE) {
                match reader.read(*place) {
                    Ok(answer) => answers.extend(answer),
                    Err(error) => {
                        // The others need not go on.
                        next.store(places.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        }
        Ok(answers)
    };
    let helpers = threads.get().min(places.len().div_ceil(SHARE)).saturating_sub(1);
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().name("hash files".into()).spawn_scoped(scope, work).ok();
        // With fewer threads than wanted, which a pod's limit of processes can cause, it takes longer.
        let helpers: Vec<_> = (0..helpers).map_while(spawn).collect();
        let mut answers = work();
        for helper in helpers {
            let theirs = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (&mut answers, theirs) {
                (Ok(answers), Ok(theirs)) => answers.extend(theirs),
                (Ok(_), Err(error)) => answers = Err(error),
                (Err(_), _) => {}
            }
        }
        answers
    })
}

struct Reader<'a> {
    pieces: &'a [Piece],
    origins: &'a [Origin],
    digests: Option<&'a Digests>,
    openers: Vec<Opener<'a>>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn read(&mut self, place: Place) -> Result<Option<Answer>, TransferError> {
        let Some(piece) = self.pieces.get(place.piece) else { return Ok(None) };
        let Some(item) = piece.items.get(place.item) else { return Ok(None) };
        let (directory, name) = piece.place(item);
        let (Some(origin), Some(opener)) =
            (self.origins.get(piece.origin), self.openers.get_mut(piece.origin))
        else {
            return Ok(None);
        };
        let file = opener.open(&directory, &name)?;
        let failed = |error| {
            let path = directory.join(&name).unwrap_or_default();
            TransferError::reading(error, origin.shown(&path), origin.name())
        };
        let stamp = item.stamp;
        // What is known is known of the files of the context.
        let digests = self.digests.filter(|_| piece.origin == 0);
        if let Some(known) = digests.and_then(|digests| digests.get(&stamp)) {
            let attributes = user_attributes(file.as_fd()).map_err(|error| failed(error.into()))?;
            check_stamp(file.as_fd(), &stamp).map_err(failed)?;
            return Ok(Some(Answer { place, digest: known.digest, attributes }));
        }
        let content = read_content(&file, &stamp, &mut self.buffer).map_err(failed)?;
        if let Some(digests) = digests.filter(|_| content.is_settled) {
            let has_attributes = !content.attributes.is_empty();
            digests.learn(stamp, Known { digest: content.digest, has_attributes });
        }
        Ok(Some(Answer { place, digest: content.digest, attributes: content.attributes }))
    }
}
