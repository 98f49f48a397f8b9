//! Which files of a directory are copied.
//!
//! Patterns are judged as BuildKit's copier (`fsutil/copy`) judges them: by the path from the copied directory, never
//! for that directory itself. A directory that no pattern takes is made if something in it is taken.

use std::collections::HashMap;

use super::error::TransferError;
use super::item::{Item, ItemKind, ItemNumber};
use super::origin::{Found, Origin};
use crate::context::ignore::{Directory, Patterns};
use crate::layer::{Node, TreePath};

/// What is taken and what not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter<'p> {
    /// If there is such a list, only what it is for.
    pub include: Option<&'p Patterns>,
    /// Not what this list is for.
    pub exclude: &'p Patterns,
}

/// The items of a directory: itself, and what of its content is taken.
pub(super) fn walk(
    origin: &Origin,
    at: &TreePath,
    top: Found,
    filter: Filter<'_>,
) -> Result<Vec<Item>, TransferError> {
    let mut item = Item::new(Found { name: Vec::new(), ..top }, 0);
    if at.is_root() {
        item.mtime = None;
    }
    let mut walker = Walker { origin, filter, items: vec![item], way: Vec::new(), first: HashMap::new() };
    let judged = Judged {
        taken: true,
        include: filter.include.map(Patterns::root),
        exclude: filter.exclude.root(),
        is_included: true,
        is_excluded: false,
    };
    walker.way.push(Level::Taken(0));
    walker.directory(at, b"", &judged)?;
    Ok(walker.items)
}

struct Walker<'a> {
    origin: &'a Origin,
    filter: Filter<'a>,
    items: Vec<Item>,
    /// The directories from the top to where the walk is.
    way: Vec<Level>,
    /// The first item of each inode that has several names.
    first: HashMap<(u64, u64), ItemNumber>,
}

/// A directory on the way.
enum Level {
    /// It is an item.
    Taken(ItemNumber),
    /// It becomes one if something in it is taken.
    Open(Box<Item>),
}

/// What the patterns say of a file, and what to judge by in it.
struct Judged {
    taken: bool,
    include: Option<Directory>,
    exclude: Directory,
    is_included: bool,
    is_excluded: bool,
}

impl Walker<'_> {
    fn directory(&mut self, at: &TreePath, relative: &[u8], judged: &Judged) -> Result<(), TransferError> {
        let (attributes, files) = self.origin.list(at)?;
        match self.way.last_mut() {
            Some(Level::Taken(number)) => {
                if let Some(item) = self.items.get_mut(*number as usize) {
                    item.add_attributes(attributes);
                }
            }
            Some(Level::Open(item)) => item.add_attributes(attributes),
            None => {}
        }
        for found in files {
            let path = match relative {
                b"" => found.name.clone(),
                relative => [relative, b"/", &found.name].concat(),
            };
            if found.node == Node::Directory {
                self.entered(at, &path, found, judged)?;
            } else if self.takes(judged, &path) {
                self.take(found);
            }
        }
        Ok(())
    }

    /// One directory in another.
    fn entered(
        &mut self,
        parent: &TreePath,
        path: &[u8],
        found: Found,
        above: &Judged,
    ) -> Result<(), TransferError> {
        let at = parent.join(&found.name)?;
        let judged = self.judge(above, path);
        if judged.taken {
            let number = self.take(found);
            self.way.push(Level::Taken(number));
        } else if self.may_take_in(&judged, path) {
            self.way.push(Level::Open(Box::new(Item::new(found, 0))));
        } else {
            return Ok(());
        }
        let result = self.directory(&at, path, &judged);
        self.way.pop();
        result
    }

    fn takes(&self, above: &Judged, path: &[u8]) -> bool {
        let included = match (self.filter.include, &above.include) {
            (Some(include), Some(state)) => include.matches(state, path),
            _ => true,
        };
        included && !self.filter.exclude.matches(&above.exclude, path)
    }

    fn judge(&self, above: &Judged, path: &[u8]) -> Judged {
        let (is_included, include) = match (self.filter.include, &above.include) {
            (Some(include), Some(state)) => {
                let (is_included, state) = include.enter(state, path);
                (is_included, Some(state))
            }
            _ => (true, None),
        };
        let (is_excluded, exclude) = self.filter.exclude.enter(&above.exclude, path);
        Judged { taken: is_included && !is_excluded, is_included, include, exclude, is_excluded }
    }

    /// Whether anything in a directory that is not taken may be.
    fn may_take_in(&self, judged: &Judged, path: &[u8]) -> bool {
        // If a list is for the directory, it is for what is in it.
        let included =
            judged.is_included || self.filter.include.is_some_and(|include| include.may_match_in(path));
        included && (!judged.is_excluded || self.filter.exclude.may_spare_in(&judged.exclude, path))
    }

    /// The number of the directory where the walk is. All on the way to it become items.
    fn parent(&mut self) -> ItemNumber {
        let mut parent = 0;
        for index in 0..self.way.len() {
            let Some(level) = self.way.get_mut(index) else { break };
            let next = self.items.len() as ItemNumber;
            parent = match std::mem::replace(level, Level::Taken(next)) {
                Level::Taken(number) => {
                    *level = Level::Taken(number);
                    number
                }
                Level::Open(item) => {
                    self.items.push(Item { parent, is_way: true, ..*item });
                    next
                }
            };
        }
        parent
    }

    /// Makes a file an item; gives its number.
    fn take(&mut self, found: Found) -> ItemNumber {
        let parent = self.parent();
        let number = self.items.len() as ItemNumber;
        let links = found.links;
        let mut item = Item::new(found, parent);
        if links > 1 && matches!(item.kind, ItemKind::File(_)) {
            let first = *self.first.entry((item.stamp.device, item.stamp.inode)).or_insert(number);
            item.twin = (first != number).then_some(first);
        }
        self.items.push(item);
        number
    }
}
