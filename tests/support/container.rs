//! Running an image with tools that share nothing with the program under test.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::{Fixture, Http, Registry, Response, eventually};

/// A container: skopeo fetched its image, umoci unpacked it, runc runs it. It has a network that only this machine is
/// part of, and so any ports it likes. It ends when this is dropped.
pub struct Container {
    fixture: Fixture,
}

/// Runs `name` (`repository:tag` or `repository@digest`) from `registry`; `args` take the place of its command.
///
/// # Panics
/// If there is no such image, or it cannot be started.
pub fn run_image(registry: &Registry, name: &str, args: &[&str]) -> Container {
    let mut all = Vec::new();
    if let Some(ca) = registry.ca() {
        all.extend(["--ca".to_owned(), ca.display().to_string()]);
    }
    if let Some((user, password)) = registry.user() {
        all.extend(["--creds".to_owned(), format!("{user}:{password}")]);
    }
    all.push(registry.reference(name));
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    Container { fixture: Fixture::start("container", all) }
}

impl Container {
    /// Where its ports answer.
    pub fn address(&self) -> IpAddr {
        self.fixture.value("ADDRESS").parse().expect("an address")
    }

    pub fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.address())
    }

    /// Asks until somebody answers on the port.
    ///
    /// # Panics
    /// If nobody does within 20 seconds, or the container ends; with what it printed.
    pub fn get(&self, port: u16, path: &str) -> Response {
        let http = Http::new();
        eventually("an answer from the container", Duration::from_secs(20), || {
            if let Some(code) = self.exit_code() {
                panic!("the container ended with code {code}:\n{}", self.output());
            }
            http.get(&self.url(port, path)).map_err(|e| format!("{e}\n{}", self.output()))
        })
    }

    /// What it has printed so far, on both streams.
    pub fn output(&self) -> String {
        fs::read(self.fixture.path("OUTPUT"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Its exit code, once it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        fs::read_to_string(self.fixture.path("EXIT")).ok()?.trim().parse().ok()
    }

    /// Waits for its end; gives the exit code and what it printed.
    ///
    /// # Panics
    /// If it has not ended by then.
    pub fn wait(&self, limit: Duration) -> (i32, String) {
        let code = eventually("the container's end", limit, || self.exit_code().ok_or_else(|| self.output()));
        (code, self.output())
    }

    /// Its root directory, as seen from here.
    pub fn rootfs(&self) -> &Path {
        self.fixture.path("ROOTFS")
    }

    /// The runtime configuration that umoci made of the image's.
    pub fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.fixture.path("CONFIG")).expect("a configuration"))
            .expect("JSON")
    }

    /// Ends it now.
    pub fn stop(self) {}
}
