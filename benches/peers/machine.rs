//! What benchmarks share: a place on disk, what is said of a run besides its figures, and where it is written down.

use std::fs;
use std::path::Path;
use std::process::Command;

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Date, commit, machine and the peers that build of a run that writes below `directory`.
pub fn describe(directory: &Path) -> String {
    let buildah = said("buildah", &["--version"]);
    let buildah = buildah.split(' ').nth(2).unwrap_or("?");
    format!("{} BuildKit 0.33.0, buildah {buildah}.", describe_alone(directory))
}

/// The same without peers.
pub fn describe_alone(directory: &Path) -> String {
    format!(
        "{date}, commit {commit}; {cores} processors ({model}), {memory} GiB, Linux {kernel}, {disk}.",
        date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        commit = commit(),
        cores = std::thread::available_parallelism().map_or(0, usize::from),
        model = field("/proc/cpuinfo", "model name").trim_start_matches(": "),
        memory =
            field("/proc/meminfo", "MemTotal:").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 20,
        kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        disk = said("findmnt", &["-no", "FSTYPE,SOURCE", "-T", &directory.display().to_string()]),
    )
}

/// A directory on disk that anyone may read, and an end to those of runs that were killed. `prefix` is the benchmark's.
pub fn scratch(prefix: &str) -> tempfile::TempDir {
    let parent = std::env::temp_dir();
    let kind = rustix::fs::statfs(&parent).expect("a file system").f_type;
    assert!(kind != TMPFS_MAGIC, "temporary files would be in memory: set TMPDIR to a directory on a disk");
    for entry in fs::read_dir(&parent).expect("a directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(entry.path()).expect("what a killed run has left can be removed");
        }
    }
    let scratch =
        tempfile::Builder::new().prefix(&format!("{prefix}{}-", std::process::id())).tempdir_in(parent);
    let scratch = scratch.expect("a directory");
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("its mode");
    scratch
}

/// Puts tables between the markers of a benchmark in `docs/benchmarks.md`.
pub fn write_into_documentation(benchmark: &str, text: &str) {
    let (begin, end) = (format!("<!-- {benchmark}: begin -->"), format!("<!-- {benchmark}: end -->"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let old = fs::read_to_string(&path).expect("docs/benchmarks.md");
    let (before, rest) = old.split_once(&begin).expect("a marker where the tables begin");
    let (_, after) = rest.split_once(&end).expect("a marker where they end");
    fs::write(&path, format!("{before}{begin}\n{text}{end}{after}"))
        .expect("docs/benchmarks.md can be written");
}

/// What is said of a goal.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// The median of sorted numbers.
pub fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// What is built, and whether it is just that.
fn commit() -> String {
    let directory = env!("CARGO_MANIFEST_DIR");
    let commit = said("git", &["-C", directory, "rev-parse", "--short=12", "HEAD"]);
    let changed =
        !said("git", &["-C", directory, "status", "--porcelain", "--", "src", "Cargo.lock"]).is_empty();
    if changed { format!("{commit} with changes") } else { commit }
}

/// A line of a file of the kernel's, without its name.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

/// How busy the machine is.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}
