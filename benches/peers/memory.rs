//! How much memory programs have at most: `VmHWM` of the kernel, which forgets nothing between two looks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a short-lived program is looked at: only what it grew by in its last moment can be missed.
const PERIOD: Duration = Duration::from_millis(10);

/// Looks at the processes of one program among the descendants of a process.
pub struct Peak {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Peak {
    /// Of the processes that `root` begins, those that execute the file `program` count. What such a process starts is not
    /// looked into if it is another program: those are steps.
    pub fn watch(root: u32, program: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let program = fs::metadata(program).map(|found| (found.dev(), found.ino())).unwrap_or_default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                look(root, program, false, &mut peak);
                std::thread::sleep(PERIOD);
            }
            peak
        });
        Self { stop, thread }
    }

    /// The largest of those processes at its largest, in KiB.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch ends")
    }
}

fn look(pid: u32, program: (u64, u64), inside: bool, peak: &mut u64) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let counts = fs::metadata(process.join("exe")).is_ok_and(|found| (found.dev(), found.ino()) == program);
    if counts {
        *peak = (*peak).max(high_water(&process));
    } else if inside {
        return;
    }
    for task in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            look(child, program, counts || inside, peak);
        }
    }
}

fn high_water(process: &Path) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The daemon whose files are in `directory`.
fn daemon(directory: &Path) -> PathBuf {
    let configuration = directory.join("buildkitd.toml").display().to_string();
    let is_it = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"/buildkitd"))
            && words.any(|word| word == configuration.as_bytes())
    };
    let processes = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
    processes.into_iter().find(is_it).expect("buildkitd is running")
}

/// Has the kernel count anew.
pub fn forget_daemon_peak(directory: &Path) {
    fs::write(daemon(directory).join("clear_refs"), "5").expect("root can clear it");
}

/// What the daemon had at most since then, in KiB.
pub fn daemon_peak(directory: &Path) -> u64 {
    high_water(&daemon(directory))
}
