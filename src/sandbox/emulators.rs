//! Emulators: what runs the programs of other machines in a step.
//!
//! A program of another machine (`linux/arm64` on x86-64) is run by qemu's user-mode emulator, a program of this machine
//! that translates the other's instructions and passes its system calls on to the kernel, so that they meet the step's
//! filter like everybody's. The emulator is the machine's, not the image's: the guest maps it from a descriptor that the
//! step cannot see. It has to be linked statically, because the step's root has none of its libraries.
//!
//! A step has the emulators of what a machine of its platform runs by itself, and no others: what a native step finds
//! does not depend on what else is installed where it runs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use serde::Serialize;

use super::abi::{MAX_EMULATORS, Machine};

/// The programs of one kind of machine.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// What images call the machine.
    architecture: &'static str,
    /// What qemu calls it.
    emulated: &'static str,
    machine: Machine,
}

const fn kind(architecture: &'static str, emulated: &'static str, number: u16, class: u8, order: u8) -> Kind {
    Kind { architecture, emulated, machine: Machine { number, class, order } }
}

/// All kinds that images are made of and qemu knows (`EM_*` of elf.h).
const KINDS: [Kind; 12] = [
    kind("386", "i386", 3, 1, 1),
    kind("arm", "arm", 40, 1, 1),
    kind("arm64", "aarch64", 183, 2, 1),
    kind("loong64", "loongarch64", 258, 2, 1),
    kind("mips", "mips", 8, 1, 2),
    kind("mips64", "mips64", 8, 2, 2),
    kind("mips64le", "mips64el", 8, 2, 1),
    kind("mipsle", "mipsel", 8, 1, 1),
    kind("ppc64", "ppc64", 21, 2, 2),
    kind("ppc64le", "ppc64le", 21, 2, 1),
    kind("riscv64", "riscv64", 243, 2, 1),
    kind("s390x", "s390x", 22, 2, 2),
];

/// What a machine runs beside its own programs.
const COMPANIONS: [(&str, &str); 2] = [("amd64", "386"), ("arm64", "arm")];
/// What images call the machines whose programs the kernel itself runs under the filter.
const NATIVE_ARCHITECTURE: &str = "amd64";
/// What their programs say.
const NATIVE: Machine = Machine { number: 62, class: 2, order: 1 };

/// Where the kernel says which emulators it starts by itself.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// Enough of a program to find its segments in.
const HEADER: usize = 4096;

/// Where emulators are looked for, beside what the kernel says.
#[derive(Debug, Clone, Default)]
pub struct EmulatorSearch {
    /// A directory that comes first.
    pub directory: Option<PathBuf>,
    /// The directories of programs, as `PATH` has them.
    pub path: OsString,
}

/// An emulator that can be used.
#[derive(Debug, Clone, Serialize)]
pub struct Emulator {
    /// What images call the machine whose programs it runs.
    pub architecture: &'static str,
    /// Where it is.
    pub path: PathBuf,
    #[serde(skip)]
    machine: Machine,
    #[serde(skip)]
    file: Arc<OwnedFd>,
}

impl Emulator {
    /// Whose programs it runs.
    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    /// Its own name.
    pub(super) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The program, open.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// One that was found and is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unusable {
    /// What images call the machine whose programs it would run.
    pub architecture: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// The emulators of this machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Emulators {
    /// Those that can be used, one of each kind.
    found: Vec<Emulator>,
    unusable: Vec<Unusable>,
}

impl Emulators {
    /// Looks for them: in the directory that was named, where the kernel's registrations lead, in the directories of
    /// programs. Of each kind the first that can be used counts.
    pub fn find(search: &EmulatorSearch) -> Self {
        let mut emulators = Self::default();
        for kind in &KINDS {
            for path in places(kind, search) {
                match open(&path) {
                    Ok(Some(file)) => {
                        let (architecture, machine) = (kind.architecture, kind.machine);
                        emulators.found.push(Emulator { architecture, path, machine, file: Arc::new(file) });
                        break;
                    }
                    Ok(None) => {}
                    Err(why) => {
                        emulators.unusable.push(Unusable { architecture: kind.architecture, path, why })
                    }
                }
            }
        }
        emulators
    }

    /// Those that can be used.
    pub fn found(&self) -> &[Emulator] {
        &self.found
    }

    /// Those that cannot.
    pub fn unusable(&self) -> &[Unusable] {
        &self.unusable
    }

    /// Whether programs of an architecture can be run, by whomever.
    pub fn can_run(&self, architecture: &str) -> bool {
        architecture == NATIVE_ARCHITECTURE
            || self.found.iter().any(|emulator| emulator.architecture == architecture)
    }

    /// What to do about programs that cannot be run.
    pub fn advice(&self, architecture: &str) -> String {
        let Some(kind) = KINDS.iter().find(|kind| kind.architecture == architecture) else {
            return "cofferdam knows of no emulator for them".to_owned();
        };
        if self.can_run(architecture) {
            return format!(
                "build for `--platform=linux/{architecture}`: steps have the emulator of their own platform"
            );
        }
        if let Some(unusable) = self.unusable.iter().find(|one| one.architecture == architecture) {
            return format!("`{}` cannot be used: {}", unusable.path.display(), unusable.why);
        }
        format!(
            "install `qemu-{0}-static` (Debian's package `qemu-user-static`), or name the directory that it is in with `--emulator-dir`",
            kind.emulated
        )
    }

    /// The emulators for a step whose image is of these architectures.
    pub(super) fn for_step(&self, architectures: &[String]) -> Vec<&Emulator> {
        let runs = |known: &str| {
            architectures.iter().any(|own| own == known || COMPANIONS.contains(&(own.as_str(), known)))
        };
        self.found.iter().filter(|emulator| runs(emulator.architecture)).take(MAX_EMULATORS).collect()
    }
}

/// What images call the machine of a program.
pub(super) fn architecture_of(machine: Machine) -> Option<&'static str> {
    KINDS.iter().find(|kind| kind.machine == machine).map(|kind| kind.architecture)
}

/// Where an emulator may be, the best place first.
fn places(kind: &Kind, search: &EmulatorSearch) -> Vec<PathBuf> {
    let in_directory = |directory: &Path| {
        let name = kind.emulated;
        [directory.join(format!("qemu-{name}-static")), directory.join(format!("qemu-{name}"))]
    };
    let mut places: Vec<PathBuf> =
        search.directory.iter().flat_map(|directory| in_directory(directory)).collect();
    let registration = Path::new(REGISTERED).join(format!("qemu-{}", kind.emulated));
    places.extend(std::fs::read_to_string(registration).ok().as_deref().and_then(interpreter));
    // A relative entry means the working directory, whose files are the context's and not the machine's.
    let directories = std::env::split_paths(&search.path).filter(|directory| directory.is_absolute());
    places.extend(directories.flat_map(|directory| in_directory(&directory)));
    places
}

/// The program that a registration of the kernel's names.
fn interpreter(registration: &str) -> Option<PathBuf> {
    registration.lines().find_map(|line| line.strip_prefix("interpreter ")).map(PathBuf::from)
}

/// Opens an emulator. Nothing if it is not there.
///
/// # Errors
/// Why it cannot be used, in words.
fn open(path: &Path) -> Result<Option<OwnedFd>, String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err("it is not executable".to_owned());
    }
    let mut header = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut header).map_err(|error| error.to_string())?;
    if Machine::of(&header) != Some(NATIVE) {
        return Err("it is no program of this machine".to_owned());
    }
    if has_interpreter(&header) {
        return Err("it is linked dynamically, and its libraries are not in the step's image".to_owned());
    }
    match fstatvfs(&file) {
        Ok(status) if status.f_flag.contains(StatVfsMountFlags::NOEXEC) => {
            Err("it is on a file system from which nothing is executed (`noexec`)".to_owned())
        }
        _ => Ok(Some(file.into())),
    }
}

/// Whether a program of this machine asks for an ELF interpreter, which loads libraries.
fn has_interpreter(header: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    const SEGMENT: usize = 56;
    let bytes = |at: usize| header.get(at..at.checked_add(8)?)?.try_into().ok();
    let table = bytes(32).map_or(0, u64::from_le_bytes) as usize;
    let count = header.get(56..58).and_then(|half| half.try_into().ok()).map_or(0, u16::from_le_bytes);
    let kind = |index: usize| {
        let at = table.checked_add(index * SEGMENT)?;
        header.get(at..at.checked_add(4)?)
    };
    (0..usize::from(count)).any(|index| kind(index) == Some(&PT_INTERP[..]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program of this machine with one segment of a kind.
    fn program(machine: u16, segment: u32) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([3, 0]);
        file.extend(machine.to_le_bytes());
        file.resize(32, 0);
        file.extend(64_u64.to_le_bytes());
        file.resize(56, 0);
        file.extend(1_u16.to_le_bytes());
        file.resize(64, 0);
        file.extend(segment.to_le_bytes());
        file.resize(64 + 56, 0);
        file
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn add(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
    }

    fn found(directory: &Place, path: &Place) -> Emulators {
        let directory = Some(directory.0.path().to_owned());
        Emulators::find(&EmulatorSearch { directory, path: path.0.path().into() })
    }

    #[test]
    fn the_first_that_can_be_used_counts() {
        let (directory, path) = (Place::new(), Place::new());
        let dynamic = directory.add("qemu-riscv64-static", &program(62, 3));
        let foreign = directory.add("qemu-riscv64", &program(183, 1));
        let second = path.add("qemu-riscv64", &program(62, 1));
        path.add("qemu-s390x", b"#!/bin/sh\n");
        let first = directory.add("qemu-aarch64", &program(62, 1));
        path.add("qemu-aarch64-static", &program(62, 1));
        let emulators = found(&directory, &path);
        let where_is = |architecture: &str| {
            let found = emulators.found().iter().find(|one| one.architecture == architecture);
            found.map(|one| one.path.clone())
        };
        assert_eq!(where_is("arm64"), Some(first));
        assert_eq!(where_is("riscv64"), Some(second));
        assert_eq!(where_is("s390x"), None);
        let unusable = |path: &Path| {
            emulators.unusable().iter().find(|one| one.path == path).map(|one| one.why.as_str())
        };
        assert!(unusable(&dynamic).unwrap().contains("linked dynamically"));
        assert!(unusable(&foreign).unwrap().contains("no program of this machine"));
        assert!(emulators.can_run("arm64") && emulators.can_run("amd64"));
        assert!(
            emulators.advice("s390x").contains("cannot be used: it is no program"),
            "{}",
            emulators.advice("s390x")
        );
        assert!(emulators.advice("ppc64le").contains("install `qemu-ppc64le-static`"));
        assert!(emulators.advice("riscv64").contains("--platform=linux/riscv64"));
        assert!(emulators.advice("wasm").contains("no emulator"));
    }

    #[test]
    fn a_step_has_what_a_machine_of_its_platform_runs() {
        let place = Place::new();
        for name in ["i386", "arm", "aarch64", "s390x"] {
            place.add(&format!("qemu-{name}"), &program(62, 1));
        }
        let emulators = found(&place, &Place::new());
        let of = |architectures: &[&str]| -> Vec<&str> {
            let architectures: Vec<String> = architectures.iter().map(|&own| own.to_owned()).collect();
            emulators.for_step(&architectures).iter().map(|one| one.architecture).collect()
        };
        assert_eq!(of(&["amd64"]), ["386"]);
        assert_eq!(of(&["arm64"]), ["arm", "arm64"]);
        assert_eq!(of(&["arm"]), ["arm"]);
        assert_eq!(of(&["amd64", "s390x"]), ["386", "s390x"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn what_cannot_be_executed_is_no_emulator() {
        let place = Place::new();
        let path = place.add("qemu-arm", &program(62, 1));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open(&path).unwrap_err(), "it is not executable");
        assert!(open(&place.0.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_registration_names_its_interpreter() {
        let text = "enabled\ninterpreter /usr/libexec/qemu-aarch64-static\nflags: F\noffset 0\nmagic 7f\n";
        assert_eq!(interpreter(text), Some(PathBuf::from("/usr/libexec/qemu-aarch64-static")));
        assert_eq!(interpreter("disabled\n"), None);
    }
}
