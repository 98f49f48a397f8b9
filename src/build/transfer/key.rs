//! The digest of a selection: all of it that the image depends on, and nothing else.

use super::item::{Item, ItemKind, Piece};
use super::mode::Chmod;
use super::owner::{Chown, Who};
use crate::image::{Digest, Sha256};
use crate::layer::Xattrs;

/// Changes when what is hashed changes.
const VERSION: &str = "cofferdam selection 1";

/// A hash of fields: each has a tag and a length, so that no two lists of fields are the same bytes.
struct Fields(Sha256);

impl Fields {
    fn put(&mut self, tag: u8, value: &[u8]) {
        self.0.update(&[tag]);
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
    }

    fn number(&mut self, tag: u8, value: u32) {
        self.put(tag, &value.to_le_bytes());
    }

    fn who(&mut self, who: &Who) {
        match who {
            Who::Id(id) => self.number(b'i', *id),
            Who::Name(name) => self.put(b'n', name.as_bytes()),
        }
    }

    fn xattrs(&mut self, xattrs: &Xattrs) {
        for (name, value) in xattrs {
            self.put(b'x', name);
            self.put(b'v', value);
        }
    }
}

/// What the digest covers besides the files.
pub(super) struct Applied<'a> {
    pub chown: Option<&'a Chown>,
    pub chmod: Option<&'a Chmod>,
    /// Names and contents of files that stand in the Dockerfile.
    pub inline: &'a [(String, String)],
}

/// The digest of what was selected. Modes go in as they will be, and so do owners; a name's number is the image's to say,
/// which has a key of its own. Times do not.
pub(super) fn digest(pieces: &[Piece], applied: &Applied<'_>) -> Digest {
    let mut fields = Fields(Sha256::new());
    fields.put(b'V', VERSION.as_bytes());
    if let Some(chown) = applied.chown {
        fields.put(b'o', b"");
        fields.who(&chown.user);
        chown.group.iter().for_each(|group| fields.who(group));
    }
    // What is made on the way has the mode too.
    fields.number(b'm', Chmod::of_parents(applied.chmod));
    for piece in pieces {
        fields.put(if piece.unpacks { b'A' } else { b'P' }, if piece.unpacks { b"" } else { &piece.name });
        for (index, item) in piece.items.iter().enumerate() {
            // Of a directory that is a source nothing is copied but what is in it.
            let bare = piece.unpacks || index == 0 && item.is_directory();
            put_item(&mut fields, item, bare, applied);
        }
    }
    for (name, content) in applied.inline {
        fields.put(b'I', name.as_bytes());
        fields.put(b'c', content.as_bytes());
        fields.number(
            b'm',
            applied.chmod.map_or(super::INLINE_MODE, |chmod| chmod.apply(super::INLINE_MODE, false)),
        );
    }
    fields.0.finish()
}

/// `bare`: kind and content, but neither mode, owner nor attributes.
fn put_item(fields: &mut Fields, item: &Item, bare: bool, applied: &Applied<'_>) {
    fields.put(b'f', &item.name);
    fields.number(b'p', item.parent);
    if let Some(twin) = item.twin {
        // Mode, owner and content are the other's.
        fields.number(b't', twin);
        return;
    }
    match &item.kind {
        ItemKind::Directory => fields.put(b'd', if item.is_way { b"w" } else { b"" }),
        ItemKind::File(digest) => {
            fields.put(b'r', digest.as_ref().map_or(b"".as_slice(), |digest| digest.as_raw()));
        }
        ItemKind::Symlink(target) => fields.put(b'l', target),
        ItemKind::CharDevice(major, minor) => {
            fields.number(b'C', *major);
            fields.number(b'C', *minor);
        }
        ItemKind::BlockDevice(major, minor) => {
            fields.number(b'B', *major);
            fields.number(b'B', *minor);
        }
        ItemKind::Fifo => fields.put(b'q', b""),
    }
    if bare {
        return;
    }
    let changes_mode = !matches!(item.kind, ItemKind::Symlink(_));
    let mode = match applied.chmod {
        Some(chmod) if changes_mode => chmod.apply(item.mode, item.is_directory()),
        _ => item.mode,
    };
    fields.number(b'M', mode);
    // A directory that is only gone through changes one that is there to its own mode, not to that of the flag.
    if item.is_way {
        fields.number(b'W', item.mode);
    }
    if applied.chown.is_none() {
        fields.number(b'u', item.uid);
        fields.number(b'g', item.gid);
    }
    if let Some(xattrs) = &item.xattrs {
        fields.xattrs(xattrs);
    }
}
