//! May this identity do this to this file? The kernel's discretionary rules, from `fs/namei.c` and `fs/attr.c`.

use super::credentials::{Capability, Credentials, KEEP, Refused};
use super::mode;

/// A file as the step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Kind and permissions.
    pub mode: u32,
}

impl Attributes {
    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        self.mode & mode::KIND == mode::DIRECTORY
    }
}

/// `R_OK`
pub const READ: u32 = 4;
/// `W_OK`
pub const WRITE: u32 = 2;
/// `X_OK`, and searching a directory
pub const EXECUTE: u32 = 1;

type Verdict = Result<(), Refused>;

/// Whether nothing about files can be refused to this identity but executing what nobody may execute: then the
/// directories on a path need no looking at.
pub fn unrestricted(who: &Credentials) -> bool {
    who.capable(Capability::DacOverride)
}

/// Permission to `want` (a mask of [`READ`], [`WRITE`], [`EXECUTE`]) of `file`.
pub fn permission(who: &Credentials, file: &Attributes, want: u32) -> Verdict {
    let class = if who.user.fs == file.uid {
        file.mode >> 6
    } else if who.in_group(file.gid) {
        file.mode >> 3
    } else {
        file.mode
    };
    if class & want == want {
        return Ok(());
    }
    let executable = file.is_directory() || file.mode & mode::ANY_EXECUTE != 0;
    if who.capable(Capability::DacOverride) && (want & EXECUTE == 0 || executable) {
        return Ok(());
    }
    let readable = if file.is_directory() { want & WRITE == 0 } else { want == READ };
    if who.capable(Capability::DacReadSearch) && readable {
        return Ok(());
    }
    Err(Refused::Access)
}

/// Permission to add an entry to `directory`.
pub fn create(who: &Credentials, directory: &Attributes) -> Verdict {
    permission(who, directory, WRITE | EXECUTE)
}

/// Permission to remove or replace the entry of `victim` in `directory`.
pub fn remove(who: &Credentials, directory: &Attributes, victim: &Attributes) -> Verdict {
    permission(who, directory, WRITE | EXECUTE)?;
    let sticky = directory.mode & mode::STICKY != 0;
    let owner = who.user.fs == victim.uid || who.user.fs == directory.uid;
    if sticky && !owner && !who.capable(Capability::Fowner) { Err(Refused::NotPermitted) } else { Ok(()) }
}

/// The mode that `chmod(2)` to `asked` (permissions) really gives.
pub fn chmod(who: &Credentials, file: &Attributes, asked: u32) -> Result<u32, Refused> {
    if who.user.fs != file.uid && !who.capable(Capability::Fowner) {
        return Err(Refused::NotPermitted);
    }
    let mut mode = file.mode & mode::KIND | asked & mode::PERMISSIONS;
    if !who.in_group(file.gid) && !who.capable(Capability::Fsetid) {
        mode &= !mode::SET_GID;
    }
    Ok(mode)
}

/// What a file is after `chown(2)` to `uid` and `gid` (either may be [`KEEP`]).
pub fn chown(who: &Credentials, file: &Attributes, uid: u32, gid: u32) -> Result<Attributes, Refused> {
    if !who.capable(Capability::Chown) {
        let owner = who.user.fs == file.uid;
        let user_stays = uid == KEEP || owner && uid == file.uid;
        let group_allowed = gid == KEEP || owner && (gid == file.gid || who.in_group(gid));
        if !user_stays || !group_allowed {
            return Err(Refused::NotPermitted);
        }
    }
    Ok(Attributes {
        uid: if uid == KEEP { file.uid } else { uid },
        gid: if gid == KEEP { file.gid } else { gid },
        mode: mode::after_chown(file.mode),
    })
}

/// Permission to give a file another name: nobody may so keep a file alive that is neither his nor his to change
/// (`/proc/sys/fs/protected_hardlinks`, which every distribution turns on).
pub fn link(who: &Credentials, file: &Attributes) -> Verdict {
    if who.user.fs == file.uid || who.capable(Capability::Fowner) {
        return Ok(());
    }
    let set_group_id = mode::SET_GID | mode::GROUP_EXECUTE;
    let harmless = file.mode & mode::KIND == mode::REGULAR
        && file.mode & mode::SET_UID == 0
        && file.mode & set_group_id != set_group_id;
    if harmless && permission(who, file, READ | WRITE).is_ok() { Ok(()) } else { Err(Refused::NotPermitted) }
}

/// Permission to set a file's times: to given ones, or to `now`.
pub fn set_times(who: &Credentials, file: &Attributes, now: bool) -> Verdict {
    if who.user.fs == file.uid || who.capable(Capability::Fowner) {
        return Ok(());
    }
    if now { permission(who, file, WRITE) } else { Err(Refused::NotPermitted) }
}

/// Permission to make a file of the kind in `mode`.
pub fn make_node(who: &Credentials, mode: u32) -> Verdict {
    match mode & mode::KIND {
        mode::CHARACTER | mode::BLOCK if !who.capable(Capability::Mknod) => Err(Refused::NotPermitted),
        _ => Ok(()),
    }
}

/// Owner of a file made by `who` in `directory`: the group is the directory's where it is set-group-ID.
pub fn new_owner(who: &Credentials, directory: &Attributes) -> (u32, u32) {
    let inherits = directory.mode & mode::SET_GID != 0;
    (who.user.fs, if inherits { directory.gid } else { who.group.fs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(uid: u32, gid: u32, mode: u32) -> Attributes {
        let kind = if mode & mode::KIND == 0 { mode::REGULAR } else { 0 };
        Attributes { uid, gid, mode: kind | mode }
    }

    fn directory(uid: u32, gid: u32, mode: u32) -> Attributes {
        file(uid, gid, mode::DIRECTORY | mode)
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let user = Credentials::container(1000, 1000, &[27]);
        let cases = [
            (file(1000, 0, 0o600), READ | WRITE, true),
            (file(1000, 1000, 0o077), READ, false), // the owner is not "other"
            (file(0, 27, 0o640), READ, true),
            (file(0, 27, 0o604), READ, false), // nor is a member of the group
            (file(0, 0, 0o604), READ, true),
            (file(0, 0, 0o604), WRITE, false),
            (directory(0, 0, 0o700), EXECUTE, false),
            (directory(0, 0, 0o711), EXECUTE, true),
        ];
        for (file, want, allowed) in cases {
            assert_eq!(permission(&user, &file, want).is_ok(), allowed, "{file:?} {want}");
        }
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_may() {
        let root = Credentials::container(0, 0, &[]);
        assert!(permission(&root, &file(5, 5, 0), READ | WRITE).is_ok());
        assert!(permission(&root, &file(5, 5, 0o644), EXECUTE).is_err());
        assert!(permission(&root, &file(5, 5, 0o645), EXECUTE).is_ok());
        assert!(permission(&root, &directory(5, 5, 0), EXECUTE).is_ok());
    }

    #[test]
    fn a_sticky_directory_protects_its_entries() {
        let user = Credentials::container(1000, 1000, &[]);
        let tmp = directory(0, 0, 0o1777);
        assert!(remove(&user, &tmp, &file(1000, 1000, 0o600)).is_ok());
        assert_eq!(remove(&user, &tmp, &file(0, 0, 0o666)), Err(Refused::NotPermitted));
        assert!(remove(&user, &directory(1000, 0, 0o1777), &file(0, 0, 0o666)).is_ok());
        assert_eq!(remove(&user, &directory(0, 0, 0o755), &file(1000, 0, 0o666)), Err(Refused::Access));
    }

    #[test]
    fn only_the_owner_changes_modes_and_loses_a_foreign_group_bit() {
        let user = Credentials::container(1000, 1000, &[27]);
        assert_eq!(chmod(&user, &file(0, 0, 0o644), 0o600), Err(Refused::NotPermitted));
        assert_eq!(chmod(&user, &file(1000, 27, 0o644), 0o2755), Ok(mode::REGULAR | 0o2755));
        assert_eq!(chmod(&user, &file(1000, 50, 0o644), 0o2755), Ok(mode::REGULAR | 0o755));
    }

    #[test]
    fn a_user_may_give_a_file_to_a_group_it_is_in_and_to_nobody_else() {
        let user = Credentials::container(1000, 1000, &[27]);
        let own = file(1000, 1000, 0o4755);
        assert_eq!(chown(&user, &own, KEEP, 27), Ok(file(1000, 27, 0o755)));
        assert_eq!(chown(&user, &own, 1000, 1000), Ok(file(1000, 1000, 0o755)));
        assert_eq!(chown(&user, &own, KEEP, 50), Err(Refused::NotPermitted));
        assert_eq!(chown(&user, &own, 0, KEEP), Err(Refused::NotPermitted));
        assert_eq!(chown(&user, &file(0, 0, 0o644), KEEP, KEEP), Ok(file(0, 0, 0o644)));
    }

    #[test]
    fn only_files_one_may_change_can_be_linked() {
        let user = Credentials::container(1000, 1000, &[]);
        assert!(link(&user, &file(1000, 0, 0o600)).is_ok());
        assert!(link(&user, &file(0, 0, 0o666)).is_ok());
        assert_eq!(link(&user, &file(0, 0, 0o644)), Err(Refused::NotPermitted));
        assert_eq!(link(&user, &file(0, 0, 0o4666)), Err(Refused::NotPermitted));
        assert!(link(&Credentials::container(0, 0, &[]), &file(5, 5, 0o4000)).is_ok());
    }

    #[test]
    fn times_need_ownership_or_for_now_the_right_to_write() {
        let user = Credentials::container(1000, 1000, &[]);
        assert!(set_times(&user, &file(1000, 0, 0), false).is_ok());
        assert_eq!(set_times(&user, &file(0, 0, 0o666), false), Err(Refused::NotPermitted));
        assert!(set_times(&user, &file(0, 0, 0o666), true).is_ok());
        assert_eq!(set_times(&user, &file(0, 0, 0o644), true), Err(Refused::Access));
    }

    #[test]
    fn a_set_group_id_directory_hands_its_group_down() {
        let root = Credentials::container(0, 0, &[]);
        assert_eq!(new_owner(&root, &directory(0, 50, 0o2775)), (0, 50));
        assert_eq!(new_owner(&root, &directory(0, 50, 0o775)), (0, 0));
    }
}
