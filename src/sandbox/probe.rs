//! What this machine allows, found out by trying.

use std::io;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{Resource, Rlimit, getegid, geteuid, getrlimit, setrlimit};
use serde::Serialize;

use super::abi::HIDDEN_FDS;
use super::root::Owner;
use super::sys;
use super::wall::{self, Protection};

/// The user that steps run as where cofferdam may choose: one that owns nothing on any machine. It lies between the
/// users that distributions give out and those that systemd makes up, and within the 65 536 that a pod's user
/// namespace maps.
const STEP_USER: Owner = Owner { uid: 60_117, gid: 60_117 };

/// Most descriptors that a step may have open, unless the machine allows fewer: what container engines give.
const STEP_DESCRIPTORS: u64 = 1_048_576;

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was tried.
    pub name: &'static str,
    /// What came of it.
    pub outcome: String,
    /// Whether all is as it should be.
    pub good: bool,
    /// Whether no step can run without it.
    pub needed: bool,
    /// What it means for builds.
    pub meaning: &'static str,
}

/// What was found out.
#[derive(Debug, Clone)]
pub struct Findings {
    list: Vec<Finding>,
    owner: Owner,
    protection: Protection,
}

impl Findings {
    /// Tries everything. Raises the process's limit on descriptors to what steps need.
    pub fn gather() -> Self {
        let (owner, identity) = find_owner();
        let protection = wall::protection();
        let list = vec![
            identity,
            attempt("seccomp filter with TRAP", sys::seccomp_can_trap(), true, FILTER_MEANING),
            attempt(
                "openat2",
                try_openat2(),
                true,
                "paths inside a root filesystem are resolved by the kernel",
            ),
            attempt(
                "descriptors",
                raise_descriptor_limit(),
                true,
                "the sandbox keeps its own out of a step's way",
            ),
            wall_finding(protection),
        ];
        Self { list, owner, protection }
    }

    /// Everything that was tried.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// The real user of steps.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// How far the kernel confines steps.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Why no step can run, if none can.
    pub fn obstacle(&self) -> Option<String> {
        let missing = self.list.iter().find(|finding| finding.needed && !finding.good)?;
        Some(format!("{}: {}", missing.name, missing.outcome))
    }

    /// All in one line, for the log.
    pub fn summary(&self) -> String {
        let privilege = if geteuid().is_root() { "root" } else { "no privilege" };
        let wall = match self.protection {
            Protection::Full => "confined by Landlock",
            Protection::Partial => "confined by Landlock as far as this kernel can",
            Protection::None => "NOT confined: this kernel has no usable Landlock",
        };
        format!("cofferdam has {privilege}; steps run as uid {}, {wall}", self.owner.uid)
    }
}

const FILTER_MEANING: &str =
    "calls of a step that name a path or an identity are carried out in its own root";

fn attempt(name: &'static str, outcome: io::Result<String>, needed: bool, meaning: &'static str) -> Finding {
    let good = outcome.is_ok();
    let outcome = outcome.unwrap_or_else(|error| error.to_string());
    Finding { name, outcome, good, needed, meaning }
}

/// Who steps run as: an unprivileged user of their own, if this process may act as one; else its own user, without
/// capabilities.
fn find_owner() -> (Owner, Finding) {
    let own = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    let may_choose = own.uid == 0 && can_give_files_to(STEP_USER).is_ok();
    let owner = if may_choose { STEP_USER } else { own };
    let outcome = match (own.uid, may_choose) {
        (0, true) => format!("cofferdam runs as root, steps run as uid {}", owner.uid),
        (0, false) => {
            "cofferdam runs as root but may not act as another user: steps are root without capabilities"
                .to_owned()
        }
        _ => format!("cofferdam and steps run as uid {}", own.uid),
    };
    let meaning = "a step never has privileges, and believes that it has those of a container";
    // uid 0 owns much that a step which got past the guest could change the mode of.
    let good = owner.uid != 0;
    (owner, Finding { name: "identity", outcome, good, needed: false, meaning })
}

fn can_give_files_to(user: Owner) -> io::Result<()> {
    drop(sys::FileIdentity::assume(user.uid, user.gid)?);
    let (read, _write) = sys::pipe()?;
    std::os::unix::fs::fchown(&read, Some(user.uid), Some(user.gid))?;
    sys::may_become_another_user()
}

fn try_openat2() -> io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok("works".to_owned())
}

/// The guest's descriptors have high numbers; a shell's soft limit may be lower.
fn raise_descriptor_limit() -> io::Result<String> {
    let needed = u64::from(HIDDEN_FDS.1.unsigned_abs()) + 64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(STEP_DESCRIPTORS).min(STEP_DESCRIPTORS);
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    if wanted < needed {
        let message = format!("the limit is {wanted}, a step needs {needed} (`ulimit -Hn`)");
        return Err(io::Error::other(message));
    }
    Ok(format!("{wanted} allowed"))
}

fn wall_finding(protection: Protection) -> Finding {
    let outcome = match protection {
        Protection::Full => "works, with all that it can confine",
        Protection::Partial => "works; this kernel (before 6.12) does not confine signals",
        Protection::None => "not available (it needs Linux 5.19 and `landlock` in the kernel's `lsm=` list)",
    };
    Finding {
        name: "Landlock",
        outcome: outcome.to_owned(),
        good: protection != Protection::None,
        needed: false,
        meaning: "a step that gets past the guest reaches no file outside of its root",
    }
}
