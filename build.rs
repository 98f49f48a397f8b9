//! Build script: compiles the freestanding sandbox guest that the binary embeds.
//!
//! The guest is `src/sandbox/guest/main.rs`, a program of its own for a target without an operating system. Cargo
//! cannot yet make one artifact depend on another of a different target, so the compiler is called here.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

/// Where the guest is linked; `src/sandbox/abi.rs` says why there.
const GUEST_BASE: &str = "0x550000000000";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    for shared in ["abi.rs", "ledger.rs", "nr.rs", "rules", "guest"] {
        println!("cargo::rerun-if-changed=src/sandbox/{shared}");
    }
    match build_guest() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build_guest() -> Result<(), String> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| error.to_string())?;
    if architecture != "x86_64" {
        return Err(format!("the sandbox guest is written for x86_64, not for {architecture}"));
    }
    let rustc = env::var("RUSTC").map_err(|error| error.to_string())?;
    let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    let guest = Path::new(&out).join("guest");
    let output = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", "guest", "--crate-type", "bin"])
        // General registers only, no thread-local storage, `core` precompiled.
        .args(["--target", "x86_64-unknown-none"])
        .args(["-C", "opt-level=2", "-C", "codegen-units=1", "-C", "panic=abort", "-C", "strip=symbols"])
        // Position-independent code needs no relocation at the fixed address, however high it is.
        .args(["-C", "relocation-model=pic", "-C", "code-model=small"])
        .args(["-C", "link-arg=--no-pie", "-C", "link-arg=-static"])
        .arg("-C")
        .arg(format!("link-arg=--image-base={GUEST_BASE}"))
        .args(["-C", "link-arg=-z", "-C", "link-arg=noexecstack", "-C", "link-arg=--build-id=none"])
        // The path of the checkout must not become part of the binary.
        .arg(format!("--remap-path-prefix={}=", env::var("CARGO_MANIFEST_DIR").unwrap_or_default()))
        .arg("-o")
        .arg(&guest)
        .arg("src/sandbox/guest/main.rs")
        .output()
        .map_err(|error| format!("cannot run rustc for the sandbox guest: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let hint = if text.contains("can't find crate for `core`") {
            "; `rustup target add x86_64-unknown-none` adds what is missing"
        } else {
            ""
        };
        return Err(
            format!("the sandbox guest does not compile{hint}\n{text}").replace('\n', "\ncargo::error=")
        );
    }
    for line in text.lines() {
        println!("cargo::warning={line}");
    }
    let size = fs::metadata(&guest).map_err(|error| error.to_string())?.len();
    if size == 0 {
        return Err("the sandbox guest is empty".to_owned());
    }
    Ok(())
}
