//! What the sources of an instruction mean.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::TransferError;
use super::explain;
use super::item::{Item, Piece};
use super::origin::{Files, Found, Origin, Seen};
use super::walk::{Filter, walk};
use crate::context::ignore::{IgnoreError, Patterns};
use crate::context::wildcard::{Wildcard, has_wildcard, split};
use crate::context::{Led, clean};
use crate::dockerfile::{Diagnostic, Span, quote};
use crate::layer::{LayerError, Node, TreePath, is_archive};
use crate::plan::{Remote, Transfer, Unpack};

/// What stands between the part of a `--parents` source that is kept and the part that is not.
const PIVOT: &str = "/./";

/// The files that were selected, without their digests.
#[derive(Default)]
pub(super) struct Selected {
    pub pieces: Vec<Piece>,
    pub notices: Vec<Diagnostic>,
}

/// Finds what the sources mean.
///
/// `origins` has that of the instruction first; `fetched` says which of the others are which sources.
pub(super) fn select(
    transfer: &Transfer,
    origins: &[Origin],
    fetched: &BTreeMap<usize, usize>,
) -> Result<Selected, TransferError> {
    let Some(own) = origins.first() else { return Ok(Selected::default()) };
    let exclude = Patterns::new(transfer.exclude.iter().map(String::as_str))
        .map_err(|fault| bad_exclude(transfer, &fault))?;
    let selected = Selected::default();
    let mut selector = Selector { transfer, origin: own, number: 0, exclude, selected };
    for (number, (text, span)) in transfer.paths.iter().enumerate() {
        let Some(remote) = transfer.remotes.get(&number) else {
            selector.source(number, text, *span)?;
            continue;
        };
        let origin = fetched.get(&number).and_then(|at| Some((*at, origins.get(*at)?)));
        let Some((at, there)) = origin else {
            let message = format!("{} was not fetched", quote(text));
            return Err(Diagnostic::error(message, *span).into());
        };
        (selector.origin, selector.number) = (there, at);
        selector.remote(remote, Source { number, text, span: *span, include: None })?;
        (selector.origin, selector.number) = (own, 0);
    }
    Ok(selector.selected)
}

struct Selector<'a> {
    transfer: &'a Transfer,
    origin: &'a Origin,
    /// Its number.
    number: usize,
    exclude: Patterns,
    selected: Selected,
}

/// A source, taken apart.
struct Source<'t> {
    number: usize,
    /// As it was written.
    text: &'t str,
    span: Span,
    /// `--parents`: what is taken, seen from what the rest of the source means.
    include: Option<Patterns>,
}

impl Selector<'_> {
    fn source(&mut self, number: usize, text: &str, span: Span) -> Result<(), TransferError> {
        let mut source = Source { number, text, span, include: None };
        if !self.transfer.parents {
            let count = self.matches(&source, text)?;
            if count == 0 {
                self.selected.notices.push(explain::no_match(self.origin, text, span)?);
            }
            return Ok(());
        }
        let (base, pattern) = text.split_once(PIVOT).unwrap_or(("/", text));
        let rooted = clean(&format!("/{pattern}"));
        let pattern = rooted.strip_prefix('/').unwrap_or(&rooted);
        let include = Patterns::new([pattern]).map_err(|fault| bad_pattern(text, span, &fault.reason))?;
        if include.is_empty() {
            let hint =
                "write what is to be copied behind the directory whose name is not to be kept: `./src/./*`";
            let message = format!("{} leaves nothing for `--parents` to copy", quote(text));
            return Err(Diagnostic::error(message, span).hint(hint).into());
        }
        source.include = Some(include);
        let before = self.selected.pieces.len();
        self.matches(&source, base)?;
        let taken = |piece: &Piece| piece.items.len() > 1 || !piece.is_directory();
        if !self.selected.pieces.iter().skip(before).any(taken) {
            if has_wildcard(base) || has_wildcard(pattern) {
                self.selected.notices.push(explain::no_match(self.origin, text, span)?);
            } else {
                let path = TreePath::clean(clean(&format!("/{base}/{pattern}")).as_bytes())?;
                return Err(explain::missing(self.origin, text, span, &path)?.into());
            }
        }
        Ok(())
    }

    /// Adds what was fetched: a file, or all that is in a repository.
    fn remote(&mut self, remote: &Remote, source: Source<'_>) -> Result<(), TransferError> {
        match (remote, self.origin.files()) {
            (Remote::File { .. }, Files::Single(file)) => {
                let path = TreePath::new(file.name.as_slice())?;
                self.piece(&source, &path, false)
            }
            _ => self.piece(&source, &TreePath::root(), false),
        }
    }

    /// Adds what a path or pattern means; gives how many files or directories that were.
    fn matches(&mut self, source: &Source<'_>, text: &str) -> Result<usize, TransferError> {
        let (directory, pattern) = split(&clean(&format!("/{text}")));
        let Some(pattern) = pattern else {
            let written = TreePath::clean(directory.as_bytes())?;
            self.piece(source, &written, false)?;
            return Ok(1);
        };
        let wildcard =
            Wildcard::parse(&pattern).map_err(|bad| bad_pattern(source.text, source.span, bad.reason))?;
        let base = self.follow(source, &TreePath::clean(directory.as_bytes())?)?;
        let mut search = Search { origin: self.origin, wildcard, parts: parts(&pattern), found: Vec::new() };
        match self.origin.look(&base)? {
            Seen::File(Found { node: Node::Directory, .. }) => search.directory(&base, b"", 0)?,
            Seen::File(_) | Seen::Socket => return Err(self.not_a_directory(source, &base)),
            Seen::Nothing => {
                return Err(explain::missing(self.origin, source.text, source.span, &base)?.into());
            }
        }
        for path in &search.found {
            self.piece(source, path, true)?;
        }
        Ok(search.found.len())
    }

    /// Adds what is at a path.
    fn piece(
        &mut self,
        source: &Source<'_>,
        written: &TreePath,
        by_pattern: bool,
    ) -> Result<(), TransferError> {
        let at = self.follow(source, written)?;
        let found = match self.origin.look(&at)? {
            Seen::File(found) => found,
            Seen::Nothing => return Err(explain::missing(self.origin, source.text, source.span, &at)?.into()),
            // A pattern means many things, and some of them happen to be sockets.
            Seen::Socket if by_pattern => return Ok(()),
            Seen::Socket => {
                let message = format!("{} is a socket, which no image can hold", quote(source.text));
                return Err(Diagnostic::error(message, source.span).into());
            }
        };
        let is_directory = found.node == Node::Directory;
        if by_pattern || !is_directory {
            self.check_not_excluded(source, written)?;
        }
        if source.include.is_some() && !is_directory {
            // What stands before the pivot is a directory, and nothing can be in this.
            return Ok(());
        }
        let mut unpacks = false;
        let items = if is_directory {
            let filter = Filter { include: source.include.as_ref(), exclude: &self.exclude };
            let items = walk(self.origin, &at, found, filter)?;
            if by_pattern && filter.include.is_some() && items.len() == 1 {
                return Ok(());
            }
            items
        } else {
            unpacks = self.unpacks(source) && self.is_archive(&found, &at)?;
            vec![Item::new(Found { name: Vec::new(), ..found }, 0)]
        };
        let name = written.file_name().unwrap_or_default().to_vec();
        self.selected.pieces.push(Piece {
            source: source.number,
            origin: self.number,
            name,
            at,
            unpacks,
            items,
        });
        Ok(())
    }

    /// Where a path leads.
    fn follow(&self, source: &Source<'_>, written: &TreePath) -> Result<TreePath, TransferError> {
        match self.origin.resolve(written.as_bytes())? {
            Led::To(path) => Ok(TreePath::new(path)?),
            Led::Loop => {
                let message = format!("{} leads over too many links", quote(source.text));
                Err(Diagnostic::error(message, source.span).into())
            }
            Led::NotADirectory(path) => Err(self.not_a_directory(source, &TreePath::new(path)?)),
        }
    }

    fn not_a_directory(&self, source: &Source<'_>, path: &TreePath) -> TransferError {
        let path = self.origin.shown(path);
        let message = format!("{} is not a directory, and {} is in it", quote(&path), quote(source.text));
        Diagnostic::error(message, source.span).into()
    }

    /// Whether a source is unpacked if it is an archive.
    fn unpacks(&self, source: &Source<'_>) -> bool {
        match self.transfer.remotes.get(&source.number) {
            None => self.transfer.unpack == Unpack::Archives,
            Some(Remote::File { unpacks, .. }) => *unpacks,
            Some(Remote::Repository { .. }) => false,
        }
    }

    /// Whether a file is an archive.
    fn is_archive(&self, found: &Found, at: &TreePath) -> Result<bool, TransferError> {
        if !matches!(found.node, Node::File { size: 1.. }) {
            return Ok(false);
        }
        let directory = at.parent().unwrap_or_default();
        let file = self.origin.opener().open(&directory, at.file_name().unwrap_or_default())?;
        is_archive(file).map_err(|error| match error {
            LayerError::Source(_, source) => TransferError::Read {
                path: self.origin.shown(at),
                origin: self.origin.name().to_owned(),
                source,
            },
            error => error.into(),
        })
    }

    /// BuildKit applies `--exclude` only within directories that are copied, and its documentation says otherwise.
    fn check_not_excluded(&self, source: &Source<'_>, written: &TreePath) -> Result<(), TransferError> {
        let name = written.file_name().unwrap_or_default();
        let pattern = [written.as_bytes(), name].into_iter().find_map(|path| self.exclude.decider(path));
        let Some(pattern) = pattern else { return Ok(()) };
        let shown = self.origin.shown(written);
        let message = format!("{} is a source, and `--exclude={}` is for it", quote(&shown), pattern.text);
        let hint = if has_wildcard(source.text) {
            "copy the directory it is in with `--exclude`, or name what is wanted; BuildKit copies it all the same"
        } else {
            "take it out of the sources, or take the flag away; BuildKit copies it all the same"
        };
        Err(Diagnostic::error(message, source.span).hint(hint).into())
    }
}

/// A search for what a pattern means.
struct Search<'a> {
    origin: &'a Origin,
    wildcard: Wildcard,
    /// The parts of the pattern, if each part of a name has one of its own.
    parts: Option<Vec<Wildcard>>,
    found: Vec<TreePath>,
}

impl Search<'_> {
    /// Looks through one directory. What is found is not looked into.
    fn directory(&mut self, at: &TreePath, relative: &[u8], depth: usize) -> Result<(), TransferError> {
        let (_, files) = self.origin.list(at)?;
        for found in files {
            let path = match relative {
                b"" => Cow::Borrowed(found.name.as_slice()),
                relative => [relative, b"/", &found.name].concat().into(),
            };
            if self.wildcard.matches(&path) {
                self.found.push(at.join(&found.name)?);
            } else if found.node == Node::Directory && self.may_go_into(&found.name, depth) {
                self.directory(&at.join(&found.name)?, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn may_go_into(&self, name: &[u8], depth: usize) -> bool {
        self.parts.as_ref().is_none_or(|parts| {
            depth + 1 < parts.len() && parts.get(depth).is_some_and(|part| part.matches(name))
        })
    }
}

/// The parts of a pattern between its slashes, if that is what the slashes in it are.
fn parts(pattern: &str) -> Option<Vec<Wildcard>> {
    let parts: Vec<_> = pattern.split('/').map(Wildcard::parse).collect::<Result<_, _>>().ok()?;
    (Wildcard::parse(pattern).ok()?.depth() == Some(parts.len())).then_some(parts)
}

fn bad_pattern(text: &str, span: Span, reason: &str) -> TransferError {
    let message = format!("{} is not a pattern: {reason}", quote(text));
    Diagnostic::error(message, span).hint("a `\\` before a letter takes its meaning away: `\\[`").into()
}

fn bad_exclude(transfer: &Transfer, fault: &IgnoreError) -> TransferError {
    let message = format!("`--exclude={}` is not a pattern: {}", fault.text, fault.reason);
    Diagnostic::error(message, transfer.destination_span).into()
}
