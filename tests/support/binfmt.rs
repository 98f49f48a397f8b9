//! The kernel's own way to emulators (binfmt_misc): what builders and containers elsewhere depend on.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The machines that are tried: what qemu calls them, `e_machine`, 64 bits, highest byte first.
const MACHINES: [(&str, u16, bool, bool); 4] = [
    ("aarch64", 183, true, false),
    ("arm", 40, false, false),
    ("ppc64le", 21, true, false),
    ("s390x", 22, true, true),
];

/// Registers the lines it is given, and removes them when its standard input ends, however that comes about. The list is
/// there as long as it is mounted somewhere; here that is a mount namespace of the script's own.
const KEEP: &str = r#"
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
cd /proc/sys/fs/binfmt_misc
for line; do printf %s "$line" > register; done
echo ready
read end || true
for line; do name=${line#:}; echo -1 > "${name%%:*}"; done
"#;

/// The kernel starts the emulators by itself while this is there.
pub struct Binfmt(Child);

impl Binfmt {
    /// Tells the kernel.
    ///
    /// # Panics
    /// If this process is not root, or the kernel has no binfmt_misc.
    pub fn register() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name_of = |emulated: &str| format!("cofferdam-test-{}-{number}-{emulated}", std::process::id());
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-euc", KEEP, "sh"])
            .args(MACHINES.map(|machine| registration(&name_of(machine.0), machine)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = [0; 6];
        let ready = child.stdout.as_mut().expect("a pipe").read_exact(&mut said);
        assert!(ready.is_ok() && said == *b"ready\n", "the kernel does not register emulators");
        Self(child)
    }
}

impl Drop for Binfmt {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A line for the kernel, as Debian's package has it: programs are known by the first 20 bytes, the emulator is opened now
/// and given the program open, with the identity that the program's set-ID bits ask for.
fn registration(name: &str, (emulated, number, is_64, highest_first): (&str, u16, bool, bool)) -> String {
    let (class, order) = (if is_64 { 2 } else { 1 }, if highest_first { 2 } else { 1 });
    let half = |value: u16| if highest_first { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut magic = vec![0x7f, b'E', b'L', b'F', class, order, 1];
    magic.resize(16, 0);
    magic.extend([half(2), half(number)].concat());
    let mut mask = vec![0xff; 7];
    // Whatever ABI, and an executable as well as a shared object.
    mask.resize(16, 0);
    mask.extend([half(0xfffe), half(0xffff)].concat());
    let [magic, mask] =
        [magic, mask].map(|bytes| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>());
    format!(":{name}:M::{magic}:{mask}:/usr/bin/qemu-{emulated}-static:POCF")
}
