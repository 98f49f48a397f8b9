//! The files of a case's context, made on disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::case::Case;

/// The earliest time of a file of a context: long ago, so that no clock shows it.
const CONTEXT_TIME: i64 = 1_000_000_000;
/// The same in archives.
const ARCHIVE_TIME: u64 = 1_500_000_000;

/// A file that is written in a case.
#[derive(Debug)]
pub struct File {
    path: String,
    kind: Kind,
    mode: Option<u32>,
    content: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Regular,
    Directory,
    Symlink(String),
    /// Another name of a file before.
    Hard(String),
    Fifo,
    /// The lines of the content are its members.
    Archive,
}

impl File {
    /// What stands behind the mark: `PATH [MODE]`, `PATH/ [MODE]`, `PATH -> TARGET`, `PATH = NAME`, `PATH fifo`,
    /// `PATH archive`.
    pub fn parse(line: &str) -> Self {
        let new = |path: &str, kind| Self { path: path.to_owned(), kind, mode: None, content: Vec::new() };
        if let Some((path, target)) = line.split_once(" -> ") {
            return new(path, Kind::Symlink(target.to_owned()));
        }
        if let Some((path, name)) = line.split_once(" = ") {
            return new(path, Kind::Hard(name.to_owned()));
        }
        if let Some(path) = line.strip_suffix(" fifo") {
            return new(path, Kind::Fifo);
        }
        if let Some(path) = line.strip_suffix(" archive") {
            return new(path, Kind::Archive);
        }
        let octal = |mode: &str| u32::from_str_radix(mode, 8).ok();
        let (path, mode) = match line.rsplit_once(' ') {
            Some((path, mode)) if octal(mode).is_some() => (path, octal(mode)),
            _ => (line, None),
        };
        let kind = if path.ends_with('/') { Kind::Directory } else { Kind::Regular };
        Self { mode, ..new(path.trim_end_matches('/'), kind) }
    }

    /// A line of the content.
    pub fn add(&mut self, line: &[u8]) {
        self.content.extend(line);
    }

    fn make(&self, root: &Path) -> std::io::Result<()> {
        let path = root.join(&self.path);
        fs::create_dir_all(path.parent().unwrap())?;
        match &self.kind {
            Kind::Regular => fs::write(&path, &self.content)?,
            Kind::Directory => fs::create_dir_all(&path)?,
            Kind::Symlink(target) => return symlink(target, &path),
            Kind::Hard(name) => return fs::hard_link(root.join(name), &path),
            Kind::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?,
            Kind::Archive => fs::write(&path, archive(&self.path, &String::from_utf8_lossy(&self.content)))?,
        }
        let usual = if matches!(self.kind, Kind::Directory) { 0o755 } else { 0o644 };
        fs::set_permissions(path, PermissionsExt::from_mode(self.mode.unwrap_or(usual)))
    }
}

/// Makes the context of a case: whatever this process's umask and clock are, it is the same.
pub fn make(case: &Case, root: &Path) {
    let path = root.join(&case.name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, case.dockerfile()).unwrap();
    for file in &case.files {
        file.make(root).unwrap_or_else(|error| panic!("{}: {}: {error}", case.title, file.path));
    }
    // BuildKit takes a file for that of an earlier build, of whatever directory, if size and time are equal. So each case has
    // times of its own, and each file of a case another.
    let own = i64::from_str_radix(&case.fingerprint()[..7], 16).unwrap();
    let made = walkdir::WalkDir::new(root).contents_first(true).sort_by_file_name();
    for entry in made.into_iter().map(Result::unwrap) {
        let name = entry.path().strip_prefix(root).unwrap();
        let place = case.files.iter().position(|file| Path::new(&file.path) == name);
        if place.is_none() && !entry.file_type().is_symlink() {
            let mode = if entry.file_type().is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), PermissionsExt::from_mode(mode)).unwrap();
        }
        let seconds = CONTEXT_TIME + own + place.map_or(0, |place| 1 + i64::try_from(place).unwrap());
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// An archive, compressed as its name says. Its members are lines: `MODE UID:GID PATH CONTENT`, `… PATH/`,
/// `… PATH -> TARGET`, `… PATH = NAME`.
pub fn archive(name: &str, members: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (number, member) in members.lines().enumerate() {
        let mut words = member.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("{name}: {member}"));
        let (mode, owner, rest) = (word(), word(), word());
        let (uid, gid) = owner.split_once(':').unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mode(u32::from_str_radix(mode, 8).unwrap());
        header.set_uid(uid.parse().unwrap());
        header.set_gid(gid.parse().unwrap());
        header.set_mtime(ARCHIVE_TIME + number as u64);
        header.set_size(0);
        if let Some((path, target)) = rest.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, path, target).unwrap();
        } else if let Some((path, other)) = rest.split_once(" = ") {
            header.set_entry_type(tar::EntryType::Link);
            archive.append_link(&mut header, path, other).unwrap();
        } else if rest.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, rest, std::io::empty()).unwrap();
        } else {
            let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
    }
    compress(name, archive.into_inner().unwrap())
}

fn compress(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match name.rsplit('.').next() {
        Some("gz" | "tgz") => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap()
        }
        Some("bz2") => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap()
        }
        Some("xz") => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap()
        }
        Some("zst") => zstd::encode_all(&*bytes, 1).unwrap(),
        _ => bytes,
    }
}
