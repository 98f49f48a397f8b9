//! Where what was selected goes: BuildKit's copier (`fsutil/copy`), on paper.

use super::canvas::{Astray, Canvas, Content, Inode, Kind, Meta, SET_GID};
use super::error::TransferError;
use super::item::{Item, ItemKind, ItemNumber, Piece};
use super::mode::Chmod;
use super::origin::Origin;
use super::owner::Owner;
use crate::context::clean;
use crate::dockerfile::{Diagnostic, Span, quote};
use crate::layer::{Node, TreePath};
use crate::plan::Transfer;

/// Carries an instruction out.
pub(super) struct Placer<'a> {
    pub canvas: Canvas<'a>,
    pub transfer: &'a Transfer,
    pub origins: &'a [Origin],
    pub owner: Option<Owner>,
    pub chmod: Option<&'a Chmod>,
    /// The time of what has none of its own.
    pub time: i64,
    /// What became the destination itself, in words.
    pub single: Option<String>,
}

/// Where something is copied to.
struct Target {
    directory: Inode,
    name: Vec<u8>,
    path: TreePath,
    /// Whether this is the destination as it was written, and not something in it.
    is_destination: bool,
}

/// A directory that is being copied.
struct Job<'p> {
    number: u32,
    piece: &'p Piece,
    /// Where it goes.
    top: TreePath,
    span: Span,
}

impl Placer<'_> {
    /// Copies a piece that is not unpacked.
    pub(super) fn piece(&mut self, number: u32, piece: &Piece) -> Result<(), TransferError> {
        let span = self.span(piece);
        if piece.is_directory() {
            self.directory_piece(number, piece, span)
        } else {
            let target = self.file_target(&piece.name)?;
            let shown = self.shown(piece);
            self.check_single(&target, &shown, span)?;
            let Some(item) = piece.items.first() else { return Ok(()) };
            self.make_way(&target.path, target.directory, &target.name, item_kind(item), span)?;
            let (kind, meta) = self.made_of(number, 0, item);
            self.canvas.put(target.directory, &target.name, kind, meta);
            Ok(())
        }
    }

    /// Copies a file that stands in the Dockerfile.
    pub(super) fn inline(&mut self, number: u32, name: &str, content: &str) -> Result<(), TransferError> {
        let span = self.transfer.destination_span;
        let target = self.file_target(name.as_bytes())?;
        self.check_single(&target, name, span)?;
        self.make_way(&target.path, target.directory, &target.name, "file", span)?;
        let mode = self.chmod.map_or(super::INLINE_MODE, |chmod| chmod.apply(super::INLINE_MODE, false));
        let Owner { uid, gid } = self.owner.unwrap_or(Owner { uid: 0, gid: 0 });
        let meta = Meta { mode, uid, gid, mtime: self.time, xattrs: None };
        let kind = Kind::File { size: content.len() as u64, content: Content::Inline(number) };
        self.canvas.put(target.directory, &target.name, kind, meta);
        Ok(())
    }

    /// Where a piece is, for messages.
    pub(super) fn shown(&self, piece: &Piece) -> String {
        self.origins.get(piece.origin).map(|origin| origin.shown(&piece.at)).unwrap_or_default()
    }

    /// Where the source of a piece was written.
    pub(super) fn span(&self, piece: &Piece) -> Span {
        self.transfer.paths.get(piece.source).map_or(self.transfer.destination_span, |(_, span)| *span)
    }

    /// A directory's content goes into the destination, whatever it is called.
    fn directory_piece(&mut self, number: u32, piece: &Piece, span: Span) -> Result<(), TransferError> {
        self.destination_parent()?;
        let path = self.destination()?;
        let directory = match self.canvas.at(&path)? {
            Some(inode) if self.canvas.is_directory(inode) => inode,
            Some(inode) => return Err(self.blocked(&path, inode, "directory", span)),
            None => self.directories(&path, Chmod::of_parents(self.chmod))?,
        };
        // A directory that was made for this takes the source's time; one of the image keeps its own.
        let mtime = piece.items.first().and_then(|item| item.mtime);
        if let (Some(mtime), true) = (mtime, self.canvas.is_new(directory))
            && let Some(meta) = self.canvas.meta(directory).cloned()
        {
            self.canvas.set_meta(directory, Meta { mtime, ..meta });
        }
        let mut made = vec![directory];
        let job = Job { number, piece, top: path, span };
        for (index, item) in piece.items.iter().enumerate().skip(1) {
            // Items come after the directories that they are in.
            let Some(&parent) = made.get(item.parent as usize) else { continue };
            let inode = match item.kind {
                ItemKind::Directory => self.nested_directory(&job, parent, item)?,
                _ => {
                    let twin = item.twin.and_then(|twin| made.get(twin as usize).copied());
                    self.nested_file(&job, parent, index as ItemNumber, item, twin)?
                }
            };
            made.push(inode);
        }
        Ok(())
    }

    fn nested_directory(
        &mut self,
        job: &Job<'_>,
        parent: Inode,
        item: &Item,
    ) -> Result<Inode, TransferError> {
        let meta = self.meta(item);
        let Some(inode) = self.canvas.child(parent, &item.name)? else {
            return self.canvas.make_directory(parent, &item.name, meta);
        };
        let before = match self.canvas.meta(inode) {
            Some(before) if self.canvas.is_directory(inode) => before.clone(),
            _ => return Err(self.blocked(&job.path(item), inode, "directory", job.span)),
        };
        if item.is_way {
            // BuildKit gives it the mode of the source, and neither its owner nor the mode of the flag.
            self.canvas.set_meta(inode, Meta { mode: item.mode, ..before });
        } else {
            let mut xattrs = before.xattrs;
            if let Some(more) = meta.xattrs {
                xattrs.get_or_insert_default().extend(*more);
            }
            self.canvas.set_meta(inode, Meta { xattrs, ..meta });
        }
        Ok(inode)
    }

    /// `twin` is another name of the same file, which was copied before.
    fn nested_file(
        &mut self,
        job: &Job<'_>,
        parent: Inode,
        index: ItemNumber,
        item: &Item,
        twin: Option<Inode>,
    ) -> Result<Inode, TransferError> {
        if let Some(inode) = self.canvas.child(parent, &item.name)? {
            if self.canvas.is_directory(inode) {
                return Err(self.blocked(&job.path(item), inode, item_kind(item), job.span));
            }
            self.canvas.remove(parent, &item.name);
        }
        if let Some(twin) = twin {
            self.canvas.link(parent, &item.name, twin);
            return Ok(twin);
        }
        let (kind, meta) = self.made_of(job.number, index, item);
        Ok(self.canvas.put(parent, &item.name, kind, meta))
    }

    /// Makes the directories that the destination is in, or those that it is if it ends in `/`.
    fn destination_parent(&mut self) -> Result<(), TransferError> {
        let destination = &self.transfer.destination;
        let cleaned = clean(&format!("/{destination}"));
        let is_directory =
            destination.is_empty() || destination.ends_with('/') || destination.ends_with("/.");
        let directory = if is_directory {
            cleaned.as_str()
        } else {
            cleaned.rsplit_once('/').map_or("/", |(directory, _)| directory)
        };
        let path = self.lead(directory)?;
        self.directories(&path, Chmod::of_parents(self.chmod))?;
        Ok(())
    }

    /// Where the destination leads.
    pub(super) fn destination(&mut self) -> Result<TreePath, TransferError> {
        self.lead(&clean(&format!("/{}", self.transfer.destination)))
    }

    fn lead(&mut self, path: &str) -> Result<TreePath, TransferError> {
        let span = self.transfer.destination_span;
        match self.canvas.resolve(0, path.as_bytes(), true)? {
            Ok(path) => Ok(path),
            Err(Astray::Loop) => {
                let message = format!("{} leads over too many links in the image", quote(path));
                Err(Diagnostic::error(message, span).into())
            }
            Err(Astray::NotADirectory(at)) => {
                let message = format!("{} in the image is not a directory", quote(&at.to_string()));
                Err(Diagnostic::error(message, span).into())
            }
        }
    }

    /// The file that a source which is not a directory becomes.
    fn file_target(&mut self, name: &[u8]) -> Result<Target, TransferError> {
        self.destination_parent()?;
        let path = self.destination()?;
        if let Some(inode) = self.canvas.at(&path)?
            && self.canvas.is_directory(inode)
        {
            let path = path.join(name)?;
            return Ok(Target { directory: inode, name: name.to_vec(), path, is_destination: false });
        }
        // A link has led to where there is not even a directory.
        let parent = path.parent().unwrap_or_default();
        let directory = self.directories(&parent, Chmod::of_parents(self.chmod))?;
        let name = path.file_name().unwrap_or_default().to_vec();
        Ok(Target { directory, name, path, is_destination: true })
    }

    /// Two files cannot both become the destination. BuildKit keeps the last.
    fn check_single(&mut self, target: &Target, shown: &str, span: Span) -> Result<(), TransferError> {
        if !target.is_destination {
            return Ok(());
        }
        match self.single.replace(shown.to_owned()) {
            None => Ok(()),
            Some(first) => {
                let destination = &self.transfer.destination;
                let message = format!(
                    "{} and {} would both become {}, which is no directory in the image",
                    quote(&first),
                    quote(shown),
                    quote(destination)
                );
                let hint = format!(
                    "end the destination with `/` to copy both into a directory: `{destination}/`; BuildKit keeps the last"
                );
                let finding = Diagnostic::error(message, self.transfer.destination_span);
                Err(finding.context(span, "the second of them").hint(hint).into())
            }
        }
    }

    /// Makes the directories of a path, as far as they are missing. The path has no links in it.
    pub(super) fn directories(&mut self, path: &TreePath, mode: u32) -> Result<Inode, TransferError> {
        let mut at = 0;
        let mut done = TreePath::root();
        for component in path.components() {
            done = done.join(component)?;
            at = match self.canvas.child(at, component)? {
                Some(inode) if self.canvas.is_directory(inode) => inode,
                Some(_) => {
                    let message = format!("{} in the image is not a directory", quote(&done.to_string()));
                    return Err(Diagnostic::error(message, self.transfer.destination_span).into());
                }
                None => {
                    let meta = self.fresh_directory(at, mode, self.owner);
                    self.canvas.make_directory(at, component, meta)?
                }
            };
        }
        Ok(at)
    }

    /// What `mkdir` makes in a directory: with a set-group-ID bit it hands down that and its group.
    pub(super) fn fresh_directory(&self, parent: Inode, mode: u32, owner: Option<Owner>) -> Meta {
        let (bit, gid) = match self.canvas.meta(parent) {
            Some(parent) if parent.mode & SET_GID != 0 => (SET_GID, parent.gid),
            _ => (0, 0),
        };
        let Owner { uid, gid } = owner.unwrap_or(Owner { uid: 0, gid });
        Meta { mode: mode | bit, uid, gid, mtime: self.time, xattrs: None }
    }

    /// Takes away what a file replaces.
    fn make_way(
        &mut self,
        path: &TreePath,
        directory: Inode,
        name: &[u8],
        kind: &'static str,
        span: Span,
    ) -> Result<(), TransferError> {
        if let Some(inode) = self.canvas.child(directory, name)? {
            if self.canvas.is_directory(inode) {
                return Err(self.blocked(path, inode, kind, span));
            }
            self.canvas.remove(directory, name);
        }
        Ok(())
    }

    fn made_of(&self, piece: u32, number: ItemNumber, item: &Item) -> (Kind, Meta) {
        let kind = match &item.kind {
            ItemKind::File(_) | ItemKind::Directory => {
                Kind::File { size: item.stamp.size, content: Content::Item { piece, item: number } }
            }
            ItemKind::Symlink(target) => Kind::Symlink(target.clone()),
            ItemKind::CharDevice(major, minor) => Kind::CharDevice(*major, *minor),
            ItemKind::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
            ItemKind::Fifo => Kind::Fifo,
        };
        (kind, self.meta(item))
    }

    /// The metadata that an item will have.
    fn meta(&self, item: &Item) -> Meta {
        let mode = match (self.chmod, &item.kind) {
            (None, _) | (_, ItemKind::Symlink(_)) => item.mode,
            (Some(chmod), _) => chmod.apply(item.mode, item.is_directory()),
        };
        let Owner { uid, gid } = self.owner.unwrap_or(Owner { uid: item.uid, gid: item.gid });
        // A directory that is only gone through is one that is made on the way.
        let mtime = item.mtime.filter(|_| !item.is_way).unwrap_or(self.time);
        Meta { mode, uid, gid, mtime, xattrs: item.xattrs.clone() }
    }

    /// Something in the image is in the way.
    fn blocked(&self, path: &TreePath, inode: Inode, kind: &str, span: Span) -> TransferError {
        let there = self.canvas.kind_name(inode);
        let whose = if self.canvas.is_new(inode) { "copied before" } else { "in the image" };
        let message =
            format!("{} {whose} is a {there}: a {kind} cannot replace it", quote(&path.to_string()));
        let finding = Diagnostic::error(message, span).label("copied from here");
        finding
            .context(self.transfer.destination_span, "to here")
            .hint("remove it with a RUN before, or copy elsewhere")
            .into()
    }
}

/// What an item is called in messages.
fn item_kind(item: &Item) -> &'static str {
    let node = match &item.kind {
        ItemKind::Directory => Node::Directory,
        ItemKind::File(_) => Node::File { size: 0 },
        ItemKind::Symlink(_) => Node::Symlink { target: Vec::new() },
        ItemKind::CharDevice(..) => Node::CharDevice { major: 0, minor: 0 },
        ItemKind::BlockDevice(..) => Node::BlockDevice { major: 0, minor: 0 },
        ItemKind::Fifo => Node::Fifo,
    };
    node.kind()
}

impl Job<'_> {
    /// Where in the image an item goes, for messages.
    fn path(&self, item: &Item) -> TreePath {
        let (directory, name) = self.piece.place(item);
        let inside = directory.join(&name).ok().and_then(|path| path.strip_prefix(&self.piece.at));
        self.top.join_path(&inside.unwrap_or_default())
    }
}
