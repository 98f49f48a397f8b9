//! Identity: user and group IDs and capabilities of a process, and how calls and `execve` change them.

/// Why a call is refused; the guest turns it into the errno of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `EPERM`: the identity may not do this.
    NotPermitted,
    /// `EACCES`: the file's mode does not allow it.
    Access,
    /// `EINVAL`: the arguments make no sense.
    Invalid,
}

/// One capability, by its number in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the kernel's.
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    NetBindService = 10,
    NetRaw = 13,
    SysChroot = 18,
    SysAdmin = 21,
    Mknod = 27,
    AuditWrite = 29,
    Setfcap = 31,
}

/// A set of capabilities, a bit each.
pub type CapabilitySet = u64;

/// All capabilities the kernel has had so far; `CAP_CHECKPOINT_RESTORE` is the last.
pub const ALL_CAPABILITIES: CapabilitySet = (1 << 41) - 1;

/// What a container gets from Docker and from BuildKit: the machine that a Dockerfile is written for.
pub const CONTAINER_CAPABILITIES: CapabilitySet = 0xa804_25fb;

/// The capabilities that `setfsuid` and the effective set of a changed file-system user are about.
const FS_CAPABILITIES: CapabilitySet = 1 << Capability::Chown as u8
    | 1 << Capability::DacOverride as u8
    | 1 << Capability::DacReadSearch as u8
    | 1 << Capability::Fowner as u8
    | 1 << Capability::Fsetid as u8
    | 1 << Capability::Mknod as u8
    | 1 << 9 // CAP_LINUX_IMMUTABLE
    | 1 << 32; // CAP_MAC_OVERRIDE

/// `-1` in a call: "leave as it is".
pub const KEEP: u32 = u32::MAX;

/// `SECBIT_NOROOT`
pub const SECBIT_NOROOT: u32 = 1;
/// `SECBIT_NO_SETUID_FIXUP`
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`
pub const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
/// The bits that lock those above.
const SECBIT_LOCKS: u32 = 0b1010_1010;

/// How many supplementary groups are remembered. The kernel takes 65 536; images use a handful.
pub const MAX_GROUPS: usize = 128;

/// The four IDs of a user or of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ids {
    /// Who started the process.
    pub real: u32,
    /// Who it acts as.
    pub effective: u32,
    /// Who it may become again.
    pub saved: u32,
    /// Who it is for files.
    pub fs: u32,
}

impl Ids {
    const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, fs: id }
    }

    fn has(&self, id: u32) -> bool {
        id == self.real || id == self.effective || id == self.saved
    }
}

/// The identity of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Credentials {
    /// User IDs.
    pub user: Ids,
    /// Group IDs.
    pub group: Ids,
    /// Number of valid entries in `groups`.
    pub group_count: u32,
    /// `SECBIT_*`.
    pub securebits: u32,
    /// Capabilities the process may make effective.
    pub permitted: CapabilitySet,
    /// Capabilities that count now.
    pub effective: CapabilitySet,
    /// Capabilities handed to programs that accept them.
    pub inheritable: CapabilitySet,
    /// Capabilities that can ever be had again.
    pub bounding: CapabilitySet,
    /// Capabilities handed to any program.
    pub ambient: CapabilitySet,
    /// Whether `execve` can no longer raise privileges, as the step sees it.
    pub no_new_privs: u32,
    /// Supplementary groups.
    pub groups: [u32; MAX_GROUPS],
}

/// What `execve` of a file needs to know about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode, 12 bits.
    pub mode: u32,
    /// Capabilities of the file (`security.capability`), if any.
    pub capabilities: Option<FileCapabilities>,
}

/// The contents of a `security.capability` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCapabilities {
    /// Added to the process's permitted set.
    pub permitted: CapabilitySet,
    /// Kept from the process's inheritable set.
    pub inheritable: CapabilitySet,
    /// Whether they are effective at once.
    pub effective: bool,
}

impl FileCapabilities {
    /// Reads `struct vfs_cap_data` or `vfs_ns_cap_data` (`linux/capability.h`), revisions 2 and 3.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| -> Option<u32> {
            let bytes = bytes.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let magic = word(0)?;
        let (revision, length) = (magic >> 24, bytes.len());
        if !(revision == 2 && length == 20 || revision == 3 && length == 24) {
            return None;
        }
        Some(Self {
            permitted: u64::from(word(1)?) | u64::from(word(3)?) << 32,
            inheritable: u64::from(word(2)?) | u64::from(word(4)?) << 32,
            effective: magic & 1 != 0,
        })
    }
}

impl Credentials {
    /// The identity of nobody, who may nothing: before a process knows better.
    pub const NOBODY: Self = Self {
        user: Ids::all(65534),
        group: Ids::all(65534),
        group_count: 0,
        securebits: 0,
        permitted: 0,
        effective: 0,
        inheritable: 0,
        bounding: 0,
        ambient: 0,
        no_new_privs: 0,
        groups: [0; MAX_GROUPS],
    };

    /// The identity a container starts with as `uid`, `gid` and `groups`: root has the container's capabilities,
    /// nobody else has any.
    pub fn container(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let capabilities = if uid == 0 { CONTAINER_CAPABILITIES } else { 0 };
        let mut credentials = Self {
            user: Ids::all(uid),
            group: Ids::all(gid),
            permitted: capabilities,
            effective: capabilities,
            bounding: CONTAINER_CAPABILITIES,
            ..Self::NOBODY
        };
        for (slot, group) in credentials.groups.iter_mut().zip(groups) {
            *slot = *group;
            credentials.group_count += 1;
        }
        credentials
    }

    /// Whether `capability` is effective.
    pub fn capable(&self, capability: Capability) -> bool {
        self.effective & 1 << capability as u8 != 0
    }

    /// The supplementary groups.
    pub fn supplementary(&self) -> &[u32] {
        let count = self.group_count as usize;
        self.groups.get(..count).unwrap_or(&self.groups)
    }

    /// Whether the process counts as a member of `gid` for files.
    pub fn in_group(&self, gid: u32) -> bool {
        gid == self.group.fs || self.supplementary().contains(&gid)
    }

    /// `setgroups(2)`. More than [`MAX_GROUPS`] are invalid here.
    pub fn set_groups(&mut self, groups: &[u32]) -> Result<(), Refused> {
        if !self.capable(Capability::Setgid) {
            return Err(Refused::NotPermitted);
        }
        if groups.len() > MAX_GROUPS {
            return Err(Refused::Invalid);
        }
        self.group_count = 0;
        for (slot, group) in self.groups.iter_mut().zip(groups) {
            *slot = *group;
            self.group_count += 1;
        }
        Ok(())
    }

    /// `setuid(2)`
    pub fn set_uid(&mut self, uid: u32) -> Result<(), Refused> {
        let old = *self;
        if self.capable(Capability::Setuid) {
            self.user = Ids::all(uid);
        } else if uid == self.user.real || uid == self.user.saved {
            (self.user.effective, self.user.fs) = (uid, uid);
        } else {
            return Err(Refused::NotPermitted);
        }
        self.after_user_change(&old);
        Ok(())
    }

    /// `setgid(2)`
    pub fn set_gid(&mut self, gid: u32) -> Result<(), Refused> {
        if self.capable(Capability::Setgid) {
            self.group = Ids::all(gid);
        } else if gid == self.group.real || gid == self.group.saved {
            (self.group.effective, self.group.fs) = (gid, gid);
        } else {
            return Err(Refused::NotPermitted);
        }
        Ok(())
    }

    /// `setreuid(2)`
    pub fn set_reuid(&mut self, real: u32, effective: u32) -> Result<(), Refused> {
        let old = *self;
        self.user = reset_pair(self.user, real, effective, self.capable(Capability::Setuid))?;
        self.after_user_change(&old);
        Ok(())
    }

    /// `setregid(2)`
    pub fn set_regid(&mut self, real: u32, effective: u32) -> Result<(), Refused> {
        self.group = reset_pair(self.group, real, effective, self.capable(Capability::Setgid))?;
        Ok(())
    }

    /// `setresuid(2)`
    pub fn set_resuid(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Refused> {
        let old = *self;
        self.user = reset_triple(self.user, real, effective, saved, self.capable(Capability::Setuid))?;
        self.after_user_change(&old);
        Ok(())
    }

    /// `setresgid(2)`
    pub fn set_resgid(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Refused> {
        self.group = reset_triple(self.group, real, effective, saved, self.capable(Capability::Setgid))?;
        Ok(())
    }

    /// `setfsuid(2)`: gives the old ID, whether or not it changed.
    pub fn set_fsuid(&mut self, uid: u32) -> u32 {
        let old = self.user.fs;
        let allowed = self.user.has(uid) || uid == old || self.capable(Capability::Setuid);
        if uid != KEEP && allowed {
            self.user.fs = uid;
            if self.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
                if old == 0 && uid != 0 {
                    self.effective &= !FS_CAPABILITIES;
                } else if old != 0 && uid == 0 {
                    self.effective |= self.permitted & FS_CAPABILITIES;
                }
            }
        }
        old
    }

    /// `setfsgid(2)`: gives the old ID, whether or not it changed.
    pub fn set_fsgid(&mut self, gid: u32) -> u32 {
        let old = self.group.fs;
        if gid != KEEP && (self.group.has(gid) || gid == old || self.capable(Capability::Setgid)) {
            self.group.fs = gid;
        }
        old
    }

    /// `capset(2)` on the process itself.
    pub fn set_capabilities(
        &mut self,
        effective: CapabilitySet,
        permitted: CapabilitySet,
        inheritable: CapabilitySet,
    ) -> Result<(), Refused> {
        let may_inherit = if self.capable(Capability::Setpcap) {
            self.inheritable | self.bounding
        } else {
            (self.inheritable | self.permitted) & (self.inheritable | self.bounding)
        };
        let refused = permitted & !self.permitted != 0 || effective & !permitted != 0;
        if refused || inheritable & !may_inherit != 0 {
            return Err(Refused::NotPermitted);
        }
        (self.effective, self.permitted, self.inheritable) = (effective, permitted, inheritable);
        self.ambient &= permitted & inheritable;
        Ok(())
    }

    /// `prctl(PR_CAPBSET_DROP)`
    pub fn drop_bounding(&mut self, capability: u32) -> Result<(), Refused> {
        if !self.capable(Capability::Setpcap) {
            return Err(Refused::NotPermitted);
        }
        if capability >= 64 || ALL_CAPABILITIES >> capability & 1 == 0 {
            return Err(Refused::Invalid);
        }
        self.bounding &= !(1 << capability);
        Ok(())
    }

    /// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)`
    pub fn raise_ambient(&mut self, capability: u32) -> Result<(), Refused> {
        if capability >= 64 || ALL_CAPABILITIES >> capability & 1 == 0 {
            return Err(Refused::Invalid);
        }
        let bit = 1 << capability;
        let had = self.permitted & self.inheritable & bit != 0;
        if !had || self.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
            return Err(Refused::NotPermitted);
        }
        self.ambient |= bit;
        Ok(())
    }

    /// `prctl(PR_SET_SECUREBITS)`
    pub fn set_securebits(&mut self, bits: u32) -> Result<(), Refused> {
        let locked = (self.securebits & SECBIT_LOCKS) >> 1;
        let changes = self.securebits ^ bits;
        let unlocks = self.securebits & SECBIT_LOCKS & !bits;
        if changes & locked != 0 || unlocks != 0 || !self.capable(Capability::Setpcap) {
            return Err(Refused::NotPermitted);
        }
        self.securebits = bits;
        Ok(())
    }

    /// `prctl(PR_SET_KEEPCAPS)`
    pub fn set_keepcaps(&mut self, keep: bool) -> Result<(), Refused> {
        if self.securebits & SECBIT_KEEP_CAPS << 1 != 0 {
            return Err(Refused::NotPermitted);
        }
        self.securebits = self.securebits & !SECBIT_KEEP_CAPS | if keep { SECBIT_KEEP_CAPS } else { 0 };
        Ok(())
    }

    /// The identity `access(2)` asks with: the real IDs, and the capabilities they would have.
    pub fn as_real(&self) -> Self {
        let mut credentials = *self;
        credentials.user.fs = self.user.real;
        credentials.group.fs = self.group.real;
        if self.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            credentials.effective = if self.user.real == 0 { self.permitted } else { 0 };
        }
        credentials
    }

    /// What the identity becomes when the process executes `program`, and whether the program must distrust its
    /// environment (`AT_SECURE`). The rules are those of `cap_bprm_creds_from_file` (capabilities(7),
    /// "Transformation of capabilities during execve").
    pub fn execute(&self, program: &Program) -> (Self, bool) {
        let mut new = *self;
        let may_raise = self.no_new_privs == 0;
        if may_raise && program.mode & super::mode::SET_UID != 0 {
            new.user.effective = program.uid;
        }
        let group_executable = super::mode::SET_GID | super::mode::GROUP_EXECUTE;
        if may_raise && program.mode & group_executable == group_executable {
            new.group.effective = program.gid;
        }
        let changed_ids =
            new.user.effective != self.user.effective || new.group.effective != self.group.effective;

        let file = program.capabilities;
        let mut effective = false;
        new.permitted = 0;
        if let Some(file) = file {
            new.permitted = self.inheritable & file.inheritable | self.bounding & file.permitted;
            effective = file.effective;
        }
        let root_rules = self.securebits & SECBIT_NOROOT == 0;
        // A set-user-ID-root program that has capabilities of its own gets just those.
        let own_capabilities_only = file.is_some() && new.user.real != 0 && new.user.effective == 0;
        if root_rules && !own_capabilities_only {
            if new.user.effective == 0 || new.user.real == 0 {
                new.permitted = self.bounding | self.inheritable;
            }
            if new.user.effective == 0 {
                effective = true;
            }
        }
        if file.is_some() || changed_ids {
            new.ambient = 0;
        }
        if !may_raise {
            // It gets no more than it had.
            new.permitted &= self.permitted;
        }
        new.permitted |= new.ambient;
        new.effective = if effective { new.permitted } else { new.ambient };
        (new.user.saved, new.user.fs) = (new.user.effective, new.user.effective);
        (new.group.saved, new.group.fs) = (new.group.effective, new.group.effective);
        new.securebits &= !SECBIT_KEEP_CAPS;

        let gained = new.user.real != 0 && (effective || new.permitted & !new.ambient != 0);
        let secure = changed_ids
            || new.user.real != new.user.effective
            || new.group.real != new.group.effective
            || gained;
        (new, secure)
    }

    /// What the kernel does to capabilities when the user changes (`cap_emulate_setxuid`).
    fn after_user_change(&mut self, old: &Self) {
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return;
        }
        if old.user.has(0) && !self.user.has(0) {
            if self.securebits & SECBIT_KEEP_CAPS == 0 {
                (self.permitted, self.effective) = (0, 0);
            }
            self.ambient = 0;
        }
        if old.user.effective == 0 && self.user.effective != 0 {
            self.effective = 0;
        }
        if old.user.effective != 0 && self.user.effective == 0 {
            self.effective = self.permitted;
        }
    }
}

fn reset_pair(ids: Ids, real: u32, effective: u32, capable: bool) -> Result<Ids, Refused> {
    let mut new = ids;
    if real != KEEP {
        if real != ids.real && real != ids.effective && !capable {
            return Err(Refused::NotPermitted);
        }
        new.real = real;
    }
    if effective != KEEP {
        if !ids.has(effective) && !capable {
            return Err(Refused::NotPermitted);
        }
        new.effective = effective;
    }
    if real != KEEP || effective != KEEP && effective != ids.real {
        new.saved = new.effective;
    }
    new.fs = new.effective;
    Ok(new)
}

fn reset_triple(ids: Ids, real: u32, effective: u32, saved: u32, capable: bool) -> Result<Ids, Refused> {
    let mut new = ids;
    for (slot, id) in [(&mut new.real, real), (&mut new.effective, effective), (&mut new.saved, saved)] {
        if id != KEEP {
            if !ids.has(id) && !capable {
                return Err(Refused::NotPermitted);
            }
            *slot = id;
        }
    }
    new.fs = new.effective;
    Ok(new)
}

#[cfg(test)]
mod tests;
