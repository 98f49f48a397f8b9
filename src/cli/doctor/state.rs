//! The state directory: which, why, on what kind of file system, and how much room there is.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::session::Session;

/// Kinds of file systems by the number that `statfs` gives (linux/magic.h and the file systems' own headers).
const KINDS: [(u64, &str); 17] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
    (0x794C_7630, "overlay"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x6969, "nfs"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x00C3_6400, "ceph"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x4750_4653, "gpfs"),
    (0x0BD0_0BD0, "lustre"),
    (0xCA45_1A4E, "bcachefs"),
];

/// Less room than this is seldom enough for one image of a programming language.
const LITTLE: u64 = 2_000_000_000;

/// What is known of the state directory.
#[derive(Debug, Serialize)]
pub(super) struct StateReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Why it is this one, or why there is none.
    pub why: String,
    /// Those that would have been preferred.
    pub passed_over: Vec<PassedOver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system: Option<FileSystem>,
    /// What is to be thought of before building there.
    pub notes: Vec<String>,
}

/// A directory that is not used.
#[derive(Debug, Serialize)]
pub(super) struct PassedOver {
    pub path: PathBuf,
    pub why: String,
}

/// The file system that it is on.
#[derive(Debug, Serialize)]
pub(super) struct FileSystem {
    pub kind: String,
    pub free_bytes: u64,
    pub size_bytes: u64,
    pub free_files: u64,
}

impl StateReport {
    /// Finds out.
    pub fn examine(session: &Session) -> Self {
        let state = match session.state() {
            Ok(state) => state,
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                let why = format!("{error}{cause}");
                let passed_over = Vec::new();
                return Self { directory: None, why, passed_over, file_system: None, notes: Vec::new() };
            }
        };
        let why = match (&state.origin, state.passed_over.is_empty()) {
            (crate::settings::Origin::Default, true) => {
                "nobody has named one, and this is the first choice".to_owned()
            }
            (crate::settings::Origin::Default, false) => {
                "nobody has named one, and this is the first that may be written to".to_owned()
            }
            (origin, _) => format!("named by {origin}"),
        };
        let file_system = FileSystem::of(&state.directory);
        let notes = file_system.as_ref().map(FileSystem::notes).unwrap_or_default();
        let passed_over = state
            .passed_over
            .into_iter()
            .map(|tried| PassedOver { path: tried.path, why: tried.why })
            .collect();
        Self { directory: Some(state.directory), why, passed_over, file_system, notes }
    }

    /// The directory, if there is one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

impl FileSystem {
    fn of(directory: &Path) -> Option<Self> {
        let room = rustix::fs::statvfs(directory).ok()?;
        let kind = rustix::fs::statfs(directory).ok()?;
        Some(Self {
            kind: kind_of(kind.f_type as u64),
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
            size_bytes: room.f_blocks.saturating_mul(room.f_frsize),
            free_files: room.f_favail,
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if matches!(&*self.kind, "tmpfs" | "ramfs") {
            notes.push("it is in memory: what is kept there counts as memory of the pod".to_owned());
        }
        if matches!(&*self.kind, "nfs" | "cifs" | "smb2" | "ceph" | "9p" | "lustre" | "gpfs") {
            notes.push("it is on a network: many small files are slow there".to_owned());
        }
        if self.kind == "overlay" {
            notes.push(
                "it is in the container's own layer: a volume (an `emptyDir`) is faster, and often larger"
                    .to_owned(),
            );
        }
        if self.free_bytes < LITTLE {
            notes.push("there is little room for layers".to_owned());
        }
        notes
    }
}

fn kind_of(magic: u64) -> String {
    // The number is a C long, which some systems extend by its sign.
    let magic = magic & 0xFFFF_FFFF;
    let known = KINDS.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_named() {
        assert_eq!(kind_of(0x0102_1994), "tmpfs");
        assert_eq!(kind_of(0xFFFF_FFFF_FF53_4D42), "cifs");
        assert_eq!(kind_of(0x1234), "0x1234");
        // Where it is mounted at all, `/dev/shm` is in memory.
        let memory = FileSystem::of(Path::new("/dev/shm")).unwrap();
        assert_eq!(memory.kind, "tmpfs");
        assert!(memory.notes()[0].contains("in memory"));
        assert!(memory.size_bytes >= memory.free_bytes && memory.size_bytes > 0);
    }
}
