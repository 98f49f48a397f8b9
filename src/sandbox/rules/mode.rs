//! Modes: what a file's mode is to the step, and what it is on disk.
//!
//! The step's mode is what it set. The mode on disk must let the one real user that owns every file read and
//! write it, must not carry set-ID bits of a user it is not about, and must never be `0000`: that mode on disk
//! marks the places where something else is to be looked up (mount points, device nodes).

/// The bits that say what kind of file it is.
pub const KIND: u32 = 0o170_000;
/// Socket.
pub const SOCKET: u32 = 0o140_000;
/// Symbolic link.
pub const SYMLINK: u32 = 0o120_000;
/// Regular file.
pub const REGULAR: u32 = 0o100_000;
/// Block device.
pub const BLOCK: u32 = 0o060_000;
/// Directory.
pub const DIRECTORY: u32 = 0o040_000;
/// Character device.
pub const CHARACTER: u32 = 0o020_000;
/// Named pipe.
pub const FIFO: u32 = 0o010_000;

/// Permissions, set-ID and sticky bits.
pub const PERMISSIONS: u32 = 0o7777;
/// Set-user-ID.
pub const SET_UID: u32 = 0o4000;
/// Set-group-ID.
pub const SET_GID: u32 = 0o2000;
/// Sticky.
pub const STICKY: u32 = 0o1000;
/// The group may execute.
pub const GROUP_EXECUTE: u32 = 0o0010;
/// Somebody may execute.
pub const ANY_EXECUTE: u32 = 0o0111;

/// The mode on disk for a file that has `mode` (with its kind) to the step. Gives permissions only.
pub const fn on_disk(mode: u32) -> u32 {
    match mode & KIND {
        DIRECTORY => mode & 0o777 | 0o700,
        // A link's permissions cannot be changed and never count.
        SYMLINK => 0o777,
        CHARACTER | BLOCK => 0,
        _ => mode & 0o777 | 0o600,
    }
}

/// The mode of a new file (with its kind): `asked` less the umask, and set-group-ID handed down from a directory
/// to a directory (inode(7)).
pub const fn created(asked: u32, umask: u32, parent: u32) -> u32 {
    if asked & KIND == SYMLINK {
        return asked;
    }
    let mode = asked & KIND | asked & PERMISSIONS & !(umask & 0o777);
    if asked & KIND == DIRECTORY && parent & SET_GID != 0 { mode | SET_GID } else { mode }
}

/// The mode after a change of owner: set-ID bits are lost except on directories, and set-group-ID without group
/// execution (mandatory locking) stays (chown(2)).
pub const fn after_chown(mode: u32) -> u32 {
    if mode & KIND == DIRECTORY {
        return mode;
    }
    let mode = mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 { mode & !SET_GID } else { mode }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_can_always_use_what_is_on_disk() {
        assert_eq!(on_disk(REGULAR | 0o4000), 0o600);
        assert_eq!(on_disk(REGULAR | 0o6755), 0o755);
        assert_eq!(on_disk(DIRECTORY | 0o1777), 0o777);
        assert_eq!(on_disk(DIRECTORY), 0o700);
        assert_eq!(on_disk(CHARACTER | 0o666), 0, "a device node on disk is a place to look up");
    }

    #[test]
    fn new_files_get_the_umask_and_new_directories_the_group() {
        assert_eq!(created(REGULAR | 0o666, 0o022, DIRECTORY | 0o2775), REGULAR | 0o644);
        assert_eq!(created(DIRECTORY | 0o777, 0o022, DIRECTORY | 0o2775), DIRECTORY | 0o2755);
        assert_eq!(created(DIRECTORY | 0o777, 0o077, DIRECTORY | 0o755), DIRECTORY | 0o700);
        assert_eq!(created(REGULAR | 0o4755, 0, DIRECTORY), REGULAR | 0o4755);
        assert_eq!(created(SYMLINK | 0o777, 0o077, DIRECTORY), SYMLINK | 0o777, "links know no umask");
    }

    #[test]
    fn a_new_owner_does_not_get_the_old_ones_set_id_bits() {
        assert_eq!(after_chown(REGULAR | 0o6755), REGULAR | 0o755);
        assert_eq!(after_chown(REGULAR | 0o2745), REGULAR | 0o2745);
        assert_eq!(after_chown(DIRECTORY | 0o2775), DIRECTORY | 0o2775);
    }
}
