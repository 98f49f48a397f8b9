//! Running the scripts in `fixtures/`: how a thing is started, asked where it is, and ended.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The script `fixtures/NAME`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Where a part that `fixtures/provision` builds lies: `bases`, `foreign`, `runc`, `containerd`, `buildkit`, `kubernetes` or
/// `distribution`.
///
/// # Panics
/// If it has not been built; the message is the command that does.
pub fn part(name: &str) -> PathBuf {
    let output =
        Command::new(script("provision")).args(["path", name]).output().expect("fixtures/provision runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim_end())
}

/// Something that a script of `fixtures/` keeps up for as long as this lives.
pub struct Fixture {
    name: String,
    child: Child,
    /// The script waits for the end of its standard input: it comes when this is dropped, or with the process.
    stdin: Option<ChildStdin>,
    /// Ends when everything but files is gone.
    stdout: BufReader<ChildStdout>,
    values: BTreeMap<String, String>,
}

impl Fixture {
    /// Starts `fixtures/NAME run ARGS` and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get there; with what the script had to say.
    pub fn start<S: AsRef<std::ffi::OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Self {
        let mut stderr = tempfile::tempfile().expect("a temporary file");
        let mut child = Command::new(script(name))
            .arg("run")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("a second handle"))
            // An interrupt at the terminal is for the tests; the supervisor ends because they do.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("fixtures/{name} cannot be run: {e}"));
        let stdin = child.stdin.take();
        let mut values = BTreeMap::new();
        let mut ready = false;
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        for line in stdout.by_ref().lines().map_while(Result::ok) {
            match line.split_once('=') {
                Some((key, value)) => drop(values.insert(key.to_owned(), value.to_owned())),
                None => ready = line == "ready",
            }
            if ready {
                break;
            }
        }
        if !ready {
            let status = child.wait().expect("the script ends");
            let mut said = String::new();
            stderr.rewind().and_then(|()| stderr.read_to_string(&mut said)).expect("its messages");
            panic!("fixtures/{name} did not start ({status}):\n{said}");
        }
        Self { name: name.to_owned(), child, stdin, stdout, values }
    }

    /// A value that the script printed.
    pub fn value(&self, key: &str) -> &str {
        self.values.get(key).unwrap_or_else(|| panic!("fixtures/{} said nothing of {key}", self.name))
    }

    /// A path that the script printed.
    pub fn path(&self, key: &str) -> &Path {
        Path::new(self.value(key))
    }

    /// What its control groups and packet rules are called, and what `ID` is in its processes' environment.
    pub fn id(&self) -> String {
        let (_, unique) = self.value("DIR").rsplit_once('.').expect("a directory's name");
        format!("cofferdam_{unique}")
    }

    /// The supervisor's process id, for tests of its end.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Not to wait would let tests see each other's remains. Files are deleted a little later: it takes long.
        let _ = self.stdout.read_to_end(&mut Vec::new());
    }
}

/// Calls `probe` until it gives a value, for at most `limit`.
///
/// # Panics
/// With `what` and the last reason, when the time is over.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}: {reason}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
