//! A selection into a layer.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::fd::AsFd;

use super::Selection;
use super::canvas::{Canvas, Content, Stroke};
use super::error::TransferError;
use super::item::{ItemNumber, Piece};
use super::origin::{Opener, Origin};
use super::owner::{Chown, Owner, Unknown};
use super::place::Placer;
use super::unpack::Scratch;
use crate::context::fingerprint::check_stamp;
use crate::dockerfile::{Diagnostic, quote};
use crate::layer::{Entry, LayerError, LayerWriter, Node, Tree, TreePath};
use crate::sandbox::Filler;
use crate::store::Store;

/// Where files are copied to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The image that is copied into.
    pub image: &'a Tree,
    /// Where the contents of archives lie meanwhile.
    pub store: &'a Store,
    /// The time of what has none of its own, seconds since 1970: files that stand in the Dockerfile, directories that are
    /// made. `SOURCE_DATE_EPOCH` if there is one, else [`Target::TIME`].
    pub time: i64,
}

impl Target<'_> {
    /// The second of January 1980, UTC: a constant, so that layers are the same whenever they are made, and not 1970, because
    /// ZIP archives (and so Python wheels and JAR files) have no time before 1980, in whatever zone.
    pub const TIME: i64 = 315_619_200;
}

impl Selection {
    /// Writes what the instruction adds to the image: what it copies, and the directories above that, which stay as they
    /// are. The writer is finished by the caller.
    ///
    /// # Errors
    /// [`TransferError::Mistake`] if something in the image is in the way, or it does not know the owner.
    /// [`TransferError::Changed`] if a file is not what it was when it was selected. Else if something cannot be read
    /// or written.
    pub fn write(&self, target: Target<'_>, writer: &mut LayerWriter) -> Result<(), TransferError> {
        self.put(target, Sink::Layer(writer))
    }

    /// Makes the files themselves, as the instruction would add them to an empty image.
    ///
    /// # Errors
    /// As [`Selection::write`].
    pub fn fill(&self, store: &Store, filler: &mut Filler<'_>) -> Result<(), TransferError> {
        let nothing = Tree::default();
        self.put(Target { image: &nothing, store, time: Target::TIME }, Sink::Files(filler))
    }

    fn put(&self, target: Target<'_>, sink: Sink<'_, '_>) -> Result<(), TransferError> {
        // With `--chmod` BuildKit takes no notice of `--link`.
        let is_linked = self.transfer.link && self.chmod.is_none();
        let nothing = Tree::default();
        let mut placer = Placer {
            canvas: Canvas::new(if is_linked { &nothing } else { target.image })?,
            transfer: &self.transfer,
            origins: &self.origins,
            owner: self.owner(target.image)?,
            chmod: self.chmod.as_ref(),
            time: target.time,
            single: None,
        };
        let mut scratch = Scratch::new(target.store);
        for (number, piece) in self.pieces.iter().enumerate() {
            if piece.unpacks {
                placer.archive(piece, &mut scratch)?;
            } else {
                placer.piece(number as u32, piece)?;
            }
        }
        for (number, (name, content)) in self.transfer.inline.iter().enumerate() {
            placer.inline(number as u32, name, content)?;
        }
        if let Some(path) = placer.canvas.lost()? {
            let path = quote(&path.to_string());
            let message =
                format!("an archive has a hard link to {path} of the image, and changes it as well");
            return Err(Diagnostic::error(message, self.transfer.destination_span).into());
        }
        let mut emitter = Emitter {
            selection: self,
            openers: self.origins.iter().map(Origin::opener).collect(),
            directory: None,
            scratch: scratch.finish().map_err(scratch_error)?,
            sink,
        };
        placer.canvas.draw(&mut |stroke| emitter.stroke(stroke))
    }

    fn owner(&self, image: &Tree) -> Result<Option<Owner>, TransferError> {
        let Some(chown) = &self.chown else { return Ok(None) };
        let span = self.transfer.chown.as_ref().map_or(self.transfer.destination_span, |(_, span)| *span);
        Chown::resolve(chown, image).map(Some).map_err(|unknown| match unknown {
            Unknown::Tree(error) => error.into(),
            Unknown::Mistake { message, hint } => Diagnostic::error(message, span).maybe_hint(hint).into(),
        })
    }
}

/// Where files go.
enum Sink<'w, 'r> {
    /// Into a layer.
    Layer(&'w mut LayerWriter),
    /// Into a directory.
    Files(&'w mut Filler<'r>),
}

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;

impl Sink<'_, '_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TransferError> {
        match self {
            Self::Layer(writer) => Ok(writer.entry(entry)?),
            Self::Files(filler) => Ok(filler.entry(entry, &mut io::empty())?),
        }
    }

    fn file(&mut self, entry: &Entry, content: &mut dyn io::Read) -> Result<(), TransferError> {
        match self {
            Self::Layer(writer) => Ok(writer.file(entry, content)?),
            Self::Files(filler) => Ok(filler.entry(entry, &mut BufReader::with_capacity(PIECE, content))?),
        }
    }

    fn file_from(&mut self, entry: &Entry, content: &File) -> Result<(), TransferError> {
        match self {
            Self::Layer(writer) => Ok(writer.file_from(entry, content)?),
            // That it has neither shrunk nor grown its stamp tells, which the caller compares.
            Self::Files(_) => self.file(entry, &mut io::Read::take(content, entry.node.size())),
        }
    }

    /// In an empty directory there is nothing to hide or remove.
    fn change(
        &mut self,
        change: impl FnOnce(&mut LayerWriter) -> Result<(), LayerError>,
    ) -> Result<(), TransferError> {
        match self {
            Self::Layer(writer) => Ok(change(writer)?),
            Self::Files(_) => Ok(()),
        }
    }
}

/// Writes what is on the canvas.
struct Emitter<'s, 'w, 'r> {
    selection: &'s Selection,
    /// Of each origin.
    openers: Vec<Opener<'s>>,
    /// The directory of the last item, by its piece and number there.
    directory: Option<((u32, ItemNumber), TreePath)>,
    scratch: Option<File>,
    sink: Sink<'w, 'r>,
}

impl Emitter<'_, '_, '_> {
    fn stroke(&mut self, stroke: Stroke<'_>) -> Result<(), TransferError> {
        match stroke {
            Stroke::Entry(entry, None) => {
                if let Node::Hardlink { target } = &entry.node
                    && *target > entry.path
                {
                    return Err(self.too_early(&entry.path, target));
                }
                self.sink.entry(&entry)
            }
            Stroke::Entry(entry, Some(Content::Item { piece, item })) => self.item(&entry, piece, item),
            Stroke::Entry(entry, Some(Content::Inline(number))) => {
                let content = self.selection.transfer.inline.get(number as usize);
                let mut bytes = content.map_or(b"".as_slice(), |(_, content)| content.as_bytes());
                self.sink.file(&entry, &mut bytes)
            }
            Stroke::Entry(entry, Some(Content::Scratch { offset })) => {
                let Some(mut file) = self.scratch.as_ref() else { return self.sink.entry(&entry) };
                file.seek(SeekFrom::Start(offset)).map_err(scratch_error)?;
                let mut content = io::Read::take(file, entry.node.size());
                self.sink.file(&entry, &mut content)
            }
            Stroke::Opaque(path) => self.sink.change(|writer| writer.opaque(path)),
            Stroke::Remove(path) => self.sink.change(|writer| writer.remove(&path)),
        }
    }

    /// In a layer, a link comes behind what it is a link to.
    fn too_early(&self, path: &TreePath, target: &TreePath) -> TransferError {
        let message = format!(
            "an archive has a hard link {} to {} of the image, whose name comes later",
            quote(&path.to_string()),
            quote(&target.to_string())
        );
        let finding = Diagnostic::error(message, self.selection.transfer.destination_span);
        finding.hint("a layer names what is linked to first: unpack the archive with a RUN").into()
    }

    fn item(&mut self, entry: &Entry, number: u32, index: ItemNumber) -> Result<(), TransferError> {
        let piece = self.selection.pieces.get(number as usize);
        let item = piece.and_then(|piece| piece.items.get(index as usize));
        let (Some(piece), Some(item)) = (piece, item) else { return Ok(()) };
        if item.stamp.size == 0 {
            return self.sink.entry(entry);
        }
        let (directory, name) = self.place(piece, number, index);
        let origin = self.selection.origins.get(piece.origin);
        let (Some(origin), Some(opener)) = (origin, self.openers.get_mut(piece.origin)) else {
            return Ok(());
        };
        let file = opener.open(&directory, &name)?;
        let shown = || origin.shown(&directory.join(&name).unwrap_or_default());
        let failed = |error| TransferError::reading(error, shown(), origin.name());
        check_stamp(file.as_fd(), &item.stamp).map_err(failed)?;
        self.sink.file_from(entry, &file).map_err(|error| match error {
            TransferError::Layer(LayerError::Shrank { .. } | LayerError::Grew { .. }) => {
                TransferError::Changed { path: shown(), origin: origin.name().to_owned() }
            }
            TransferError::Layer(LayerError::Content { source, .. }) => {
                TransferError::Read { path: shown(), origin: origin.name().to_owned(), source }
            }
            error => error,
        })?;
        check_stamp(file.as_fd(), &item.stamp).map_err(failed)
    }

    /// The directory that an item is in, and its name there.
    fn place(&mut self, piece: &Piece, number: u32, index: ItemNumber) -> (TreePath, Vec<u8>) {
        let Some(item) = piece.items.get(index as usize) else { return Default::default() };
        let key = (number, item.parent);
        match &self.directory {
            Some((last, directory)) if *last == key && !item.name.is_empty() => {
                (directory.clone(), item.name.to_vec())
            }
            _ => {
                let (directory, name) = piece.place(item);
                if !item.name.is_empty() {
                    self.directory = Some((key, directory.clone()));
                }
                (directory, name)
            }
        }
    }
}

fn scratch_error(source: io::Error) -> TransferError {
    TransferError::Read { path: "a scratch file".to_owned(), origin: "the store".to_owned(), source }
}
