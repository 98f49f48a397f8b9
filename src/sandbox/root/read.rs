//! A root filesystem as something to copy from.
//!
//! What is in there was written by steps: every path is resolved by the kernel beneath the root, links are followed by
//! [`links`] alone, and what is opened is looked at before it is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::apply::CAPABILITY;
use super::snapshot::list_directory;
use super::{Root, RootError};
use crate::context::links::{self, FollowError, Look};
use crate::context::{Attributes, Led, Stamp, fingerprint};
use crate::layer::{Metadata, Node, TreePath, Xattrs};
use crate::sandbox::ledger::inode_key;
use crate::sandbox::rules::mode;
use crate::sandbox::sys::FileIdentity;

/// A file of a root, as steps see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFile {
    /// The last component of its path; empty for the root.
    pub name: Vec<u8>,
    /// What it is. Hard links are files; those of one file have the same inode.
    pub node: Node,
    /// Whose, and so on; of the attributes only those that are not on disk. The others are told by
    /// [`fingerprint::user_attributes`] once it is open.
    pub metadata: Metadata,
    /// The state it is in.
    pub stamp: Stamp,
    /// How many names it has.
    pub links: u64,
}

/// What is in a directory of a root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootListing {
    /// The directory's own `user.*` attributes.
    pub attributes: Attributes,
    /// Its entries, sorted by name, sockets left out.
    pub files: Vec<RootFile>,
}

impl Root {
    /// What is at a path. Links are not followed. Nothing where a socket is.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn lookup(&self, path: &TreePath) -> Result<Option<RootFile>, RootError> {
        let _identity = self.identity()?;
        let (parent, name) = match path.file_name() {
            Some(name) => (path.parent().unwrap_or_default(), name),
            None => (TreePath::root(), b".".as_slice()),
        };
        let directory = match self.open_beneath(&parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(RootError::at("look at", path)(error)),
        };
        let name = OsStr::from_bytes(name);
        match rfs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.file(&directory, path.file_name().unwrap_or_default(), &stat, path),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(RootError::at("look at", path)(error)),
        }
    }

    /// What is in a directory.
    ///
    /// # Errors
    /// If it is not one, or cannot be read.
    pub fn list(&self, path: &TreePath) -> Result<RootListing, RootError> {
        let _identity = self.identity()?;
        let directory = self.open_directory(path)?;
        let attributes = fingerprint::user_attributes(directory.as_fd())
            .map_err(RootError::at("read the attributes of", path))?;
        let mut files = Vec::new();
        for found in list_directory(&directory, path)? {
            files.extend(self.file(&directory, &found.name, &found.stat, path)?);
        }
        Ok(RootListing { attributes, files })
    }

    /// Where a path leads that somebody wrote: links are followed inside the root, which `..` does not leave.
    ///
    /// # Errors
    /// If something on the way cannot be looked at.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Led, RootError> {
        let mut look = |path: &[u8]| {
            let path = TreePath::new(path).map_err(|error| RootError::Layer(error.into()))?;
            Ok(match self.lookup(&path)?.map(|file| file.node) {
                None => Look::Nothing,
                Some(Node::Directory) => Look::Directory,
                Some(Node::Symlink { target }) => Look::Link(target),
                Some(_) => Look::Other,
            })
        };
        match links::follow(path, follow_last, &mut look) {
            Ok(path) => Ok(Led::To(path)),
            Err(FollowError::Loop) => Ok(Led::Loop),
            Err(FollowError::NotADirectory(path)) => Ok(Led::NotADirectory(path)),
            Err(FollowError::Look(error)) => Err(error),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// If there is none, or a link is in the way.
    pub fn open_file(&self, path: &TreePath) -> Result<File, RootError> {
        let _identity = self.identity()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.open_beneath(path, flags).map(File::from).map_err(RootError::at("read", path))
    }

    /// Opens a directory, to open files in it by their names.
    ///
    /// # Errors
    /// If there is none, or a link is in the way.
    pub fn open_directory(&self, path: &TreePath) -> Result<OwnedFd, RootError> {
        let _identity = self.identity()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.open_beneath(path, flags).map_err(RootError::at("list", path))
    }

    /// Makes the calling thread act on files as their owner, until what is returned is dropped.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub fn identity(&self) -> Result<FileIdentity, RootError> {
        let owner = self.owner();
        FileIdentity::assume(owner.uid, owner.gid)
            .map_err(RootError::at("act as the owner of", &TreePath::root()))
    }

    fn open_beneath(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let within = if path.is_root() { OsStr::new(".") } else { path.as_path().as_os_str() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rfs::openat2(self.directory(), within, flags, Mode::empty(), resolve)
    }

    fn file(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        path: &TreePath,
    ) -> Result<Option<RootFile>, RootError> {
        let target = || Ok(rfs::readlinkat(directory, OsStr::from_bytes(name), Vec::new())?.into_bytes());
        let described = self.describe(stat, target).map_err(RootError::at("look at", path))?;
        Ok(described.map(|(node, metadata)| RootFile {
            name: name.to_vec(),
            node,
            metadata,
            stamp: Stamp::of(stat),
            links: fingerprint::link_count(stat),
        }))
    }

    /// A file as steps see it, by what the disk and the ledger say; of its attributes only those in the ledger. `None`
    /// for a socket, which no image has. `target` reads a link.
    pub(super) fn describe(
        &self,
        stat: &Stat,
        target: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> io::Result<Option<(Node, Metadata)>> {
        let (seen_mode, uid, gid, device) = self.seen(stat);
        let (major, minor) = (device >> 20, device & 0xf_ffff);
        let node = match seen_mode & mode::KIND {
            mode::DIRECTORY => Node::Directory,
            mode::SYMLINK => Node::Symlink { target: target()? },
            mode::CHARACTER => Node::CharDevice { major, minor },
            mode::BLOCK => Node::BlockDevice { major, minor },
            mode::FIFO => Node::Fifo,
            mode::SOCKET => return Ok(None),
            _ => Node::File { size: stat.st_size.unsigned_abs() },
        };
        let capability = self.capability(stat).map(|capability| (CAPABILITY.to_vec(), capability));
        let xattrs: Xattrs = capability.into_iter().collect();
        let mode = seen_mode & mode::PERMISSIONS;
        Ok(Some((node, Metadata { mode, uid, gid, mtime: stat.st_mtime, xattrs })))
    }

    /// A file as steps see it: kind and permissions, owner, group, device.
    pub(super) fn seen(&self, stat: &Stat) -> (u32, u32, u32, u32) {
        let key = inode_key(&self.devices(), stat.st_dev, stat.st_ino);
        let kind = stat.st_mode & mode::KIND;
        match key.and_then(|key| self.ledger().get(key)) {
            None => (stat.st_mode, 0, 0, 0),
            Some(record) => match record.mode & mode::KIND {
                // Only an empty file stands for a device.
                device @ (mode::CHARACTER | mode::BLOCK) if kind == mode::REGULAR && stat.st_size == 0 => {
                    (device | record.mode & mode::PERMISSIONS, record.uid, record.gid, record.device)
                }
                _ => (kind | record.mode & mode::PERMISSIONS, record.uid, record.gid, 0),
            },
        }
    }

    fn capability(&self, stat: &Stat) -> Option<Vec<u8>> {
        let key = inode_key(&self.devices(), stat.st_dev, stat.st_ino)?;
        let (bytes, length) = self.ledger().find(key)?.capability()?;
        bytes.get(..length).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::layer::{Entry, LayerOptions, LayerReader, LayerWriter, Pool};
    use crate::sandbox::Owner;
    use crate::store::Store;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    /// A root with these files, which have the content `content`.
    fn root(entries: &[(&str, Node, Metadata)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let mut writer = LayerWriter::new(&store, &Pool::default(), LayerOptions::default()).unwrap();
        for (at, node, metadata) in entries {
            let entry = Entry { path: path(at), node: node.clone(), metadata: metadata.clone() };
            writer.file(&entry, &mut b"content".take(node.size())).unwrap();
        }
        let layer = writer.finish().unwrap();
        let place = directory.path().join("root");
        fs::create_dir(&place).unwrap();
        let metadata = fs::metadata(&place).unwrap();
        let root = Root::create(&place, Owner { uid: metadata.uid(), gid: metadata.gid() }).unwrap();
        let mut reader = LayerReader::new(store.open_blob(&layer.digest).unwrap()).unwrap();
        root.apply(&mut reader).unwrap();
        (directory, root)
    }

    fn metadata(mode: u32, uid: u32, gid: u32) -> Metadata {
        Metadata { mode, uid, gid, mtime: 1_000_000_000, ..Metadata::default() }
    }

    #[test]
    fn files_are_as_the_layer_said_whatever_the_disk_says() {
        let capability =
            b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
        let capable =
            Metadata { xattrs: Xattrs::from([(CAPABILITY.to_vec(), capability)]), ..metadata(0o755, 0, 0) };
        let file = Node::File { size: 7 };
        let entries = [
            ("d", Node::Directory, metadata(0o2700, 5, 6)),
            ("d/capable", file.clone(), capable),
            ("d/link", Node::Symlink { target: b"/d/private".to_vec() }, metadata(0o777, 8, 9)),
            ("d/null", Node::CharDevice { major: 1, minor: 3 }, metadata(0o666, 0, 6)),
            ("d/pipe", Node::Fifo, metadata(0o600, 1, 1)),
            ("d/private", file.clone(), metadata(0o000, 7, 7)),
            ("d/sda", Node::BlockDevice { major: 8, minor: 300 }, metadata(0o660, 0, 6)),
            ("d/setuid", file.clone(), metadata(0o4755, 0, 0)),
        ];
        let (_directory, root) = root(&entries);
        let listing = root.list(&path("d")).unwrap();
        let told: Vec<_> =
            listing.files.iter().map(|file| (&*file.name, &file.node, &file.metadata)).collect();
        let expected: Vec<_> =
            entries[1..].iter().map(|(at, node, metadata)| (&at.as_bytes()[2..], node, metadata)).collect();
        assert_eq!(told, expected);
        for file in &listing.files {
            let at = path("d").join(&file.name).unwrap();
            assert_eq!(root.lookup(&at).unwrap().as_ref(), Some(file));
        }
        assert_eq!(root.lookup(&path("d")).unwrap().unwrap().metadata, entries[0].2);
        assert_eq!(root.lookup(&TreePath::root()).unwrap().unwrap().node, Node::Directory);
        let mut content = String::new();
        root.open_file(&path("d/private")).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "content", "nobody may read it in the image; the build may");
    }

    #[test]
    fn nothing_outside_is_reached_and_sockets_are_left_out() {
        let file = Node::File { size: 7 };
        let (directory, root) =
            root(&[("etc", Node::Directory, metadata(0o755, 0, 0)), ("etc/f", file, metadata(0o644, 0, 0))]);
        fs::write(directory.path().join("secret"), "s").unwrap();
        // As a step may leave it behind.
        symlink(directory.path(), root.path().join("out")).unwrap();
        symlink("../../../../etc", root.path().join("up")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        let _socket = UnixListener::bind(root.path().join("etc/socket")).unwrap();
        assert_eq!(root.lookup(&path("out/secret")).unwrap(), None);
        assert!(root.open_file(&path("out/secret")).is_err());
        assert!(root.open_file(&path("up/f")).is_err(), "links are not followed when something is opened");
        assert!(root.open_directory(&path("up")).is_err() && root.list(&path("out")).is_err());
        assert!(root.open_file(&path("out")).is_err());
        assert_eq!(root.resolve(b"/up/f", true).unwrap(), Led::To(b"etc/f".to_vec()));
        assert_eq!(root.resolve(b"up", false).unwrap(), Led::To(b"up".to_vec()));
        assert_eq!(root.resolve(b"loop/x", true).unwrap(), Led::Loop);
        assert_eq!(root.resolve(b"etc/f/x", true).unwrap(), Led::NotADirectory(b"etc/f".to_vec()));
        assert_eq!(root.resolve(b"../../etc/../etc/none", true).unwrap(), Led::To(b"etc/none".to_vec()));
        let inside = root.resolve(b"out/secret", true).unwrap();
        let Led::To(inside) = inside else { panic!("{inside:?}") };
        assert_eq!(
            root.lookup(&TreePath::new(inside).unwrap()).unwrap(),
            None,
            "its target is one in the root"
        );
        let names: Vec<_> =
            root.list(&path("etc")).unwrap().files.into_iter().map(|file| file.name).collect();
        assert_eq!(names, [b"f".to_vec()]);
        assert_eq!(root.lookup(&path("etc/socket")).unwrap(), None);
    }

    #[test]
    fn names_of_one_file_have_one_stamp() {
        let file = Node::File { size: 7 };
        let link = Node::Hardlink { target: path("a") };
        let (_directory, root) = root(&[
            ("a", file.clone(), metadata(0o644, 3, 4)),
            ("b", link, metadata(0o644, 3, 4)),
            ("c", file, metadata(0o644, 3, 4)),
        ]);
        let [a, b, c] = ["a", "b", "c"].map(|name| root.lookup(&path(name)).unwrap().unwrap());
        assert_eq!((a.stamp, a.links, &a.metadata), (b.stamp, 2, &b.metadata));
        assert_ne!(a.stamp, c.stamp);
        assert_eq!(c.links, 1);
    }
}
