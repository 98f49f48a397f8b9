//! One gigabyte to and from a registry on loopback, beside `curl`, which does the same without hashing.
//!
//! `cargo bench --bench registry_throughput [-- MEGABYTES]`. The registry is Debian's `docker-registry` on a
//! directory in `$TMPDIR`; it hashes what it takes, so uploads are bound by it. Several transfers at once show
//! what a build does. Prints MB/s, processor seconds of this process a gigabyte, and its peak memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use cofferdam::image::{Digest, Repository};
use cofferdam::registry::{
    BlobUpload, Client, ClientOptions, FileSource, HostOptions, Keychain, Resume, UploadStyle,
    install_tls_provider,
};

use support::Registry;

/// As in the program itself: musl's own gives every buffer back to the kernel and has it cleared again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Transfers at once in the parallel runs, as a build has them.
const PIECES: usize = 4;

/// Kilobytes of a line of `/proc/self/status`.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor seconds of this process so far.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

struct Row {
    what: &'static str,
    begun: Instant,
    used: f64,
}

fn begin(what: &'static str) -> Row {
    // Resets the peak to what is used now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    Row { what, begun: Instant::now(), used: processor() }
}

impl Row {
    fn end(self, size: u64) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let megabytes = size as f64 / 1e6;
        println!(
            "{:<40} {:>6.0} MB/s {:>6.2} CPU s/GB {:>6} kB peak",
            self.what,
            megabytes / seconds,
            (processor() - self.used) / megabytes * 1e3,
            status("VmHWM:"),
        );
    }
}

struct Blob {
    source: FileSource,
    digest: Digest,
    size: u64,
}

/// A megabyte that is like no other part of itself.
fn noise() -> Vec<u8> {
    let mut block = vec![0; 1 << 20];
    fastrand::Rng::with_seed(1).fill(&mut block);
    block
}

fn blob(directory: &std::path::Path, name: &str, size: u64) -> Blob {
    let path = directory.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    let mut hash = cofferdam::image::Sha256::new();
    let mut block = noise();
    for number in 0..size >> 20 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        block[8..8 + name.len()].copy_from_slice(name.as_bytes());
        hash.update(&block);
        file.write_all(&block).unwrap();
    }
    Blob { source: FileSource(path), digest: hash.finish(), size }
}

async fn push(client: &Client, to: &Repository, blob: &Blob) {
    let upload = BlobUpload {
        digest: blob.digest,
        size: blob.size,
        source: &blob.source,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    client.push_blob(to, &upload).await.unwrap();
}

async fn pull(client: &Client, from: &Repository, blob: &Blob, to: &std::path::Path) {
    let mut file = std::fs::File::create(to).unwrap();
    let sink = move |piece: &[u8]| file.write_all(piece);
    drop(client.fetch_blob(from, blob.digest, blob.size, Resume::default(), sink).await.unwrap());
}

fn curl(arguments: &[&str]) -> String {
    let output =
        Command::new("curl").args(["-sS"]).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "curl {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn curl_push(host: &str, path: &str, blob: &Blob) {
    let head = curl(&[
        "-D",
        "-",
        "-o",
        "/dev/null",
        "-X",
        "POST",
        &format!("http://{host}/v2/{path}/blobs/uploads/"),
    ]);
    let location = |head: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("location:")).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    let file = blob.source.0.to_str().unwrap();
    let head = curl(&[
        "-D",
        "-",
        "-o",
        "/dev/null",
        "-X",
        "PATCH",
        "-H",
        "Expect:",
        "-H",
        "Content-Type: application/octet-stream",
        "-T",
        file,
        &location(&head),
    ]);
    curl(&["-X", "PUT", "-d", "", &format!("{}&digest={}", location(&head), blob.digest)]);
}

#[tokio::main]
async fn main() {
    install_tls_provider();
    let megabytes: u64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1024);
    let size = megabytes << 20;
    let directory = tempfile::TempDir::new().unwrap();
    let registry = Registry::options().empty().start();
    let host = registry.address().to_owned();
    let whole = blob(directory.path(), "whole", size);
    let parts: Vec<Blob> = (0..PIECES)
        .map(|number| blob(directory.path(), &format!("part{number}"), size / PIECES as u64))
        .collect();
    let client = Client::new(ClientOptions::default(), Keychain::empty()).unwrap();
    let monolithic = {
        let mut options = ClientOptions::default();
        let host_options = HostOptions { upload: Some(UploadStyle::Monolithic), ..HostOptions::default() };
        options.hosts.insert(host.clone(), host_options);
        Client::new(options, Keychain::empty()).unwrap()
    };
    let name = |path: &str| format!("{host}/{path}").parse::<Repository>().unwrap();
    println!("{:<40} {:>6} kB", "resident at rest", status("VmRSS:"));

    let row = begin("curl: up");
    curl_push(&host, "curl", &whole);
    row.end(size);
    let row = begin("cofferdam: up, one streamed PATCH");
    push(&client, &name("streamed"), &whole).await;
    row.end(size);
    let row = begin("cofferdam: up, monolithic PUT");
    push(&monolithic, &name("monolithic"), &whole).await;
    row.end(size);
    let row = begin("cofferdam: up, parts at once");
    let to = name("parts");
    futures_util::future::join_all(parts.iter().map(|part| push(&client, &to, part))).await;
    row.end(size);

    let target = directory.path().join("down");
    let row = begin("curl: down to a file");
    curl(&["-o", target.to_str().unwrap(), &format!("http://{host}/v2/curl/blobs/{}", whole.digest)]);
    row.end(size);
    let row = begin("cofferdam: down to a file, verified");
    pull(&client, &name("curl"), &whole, &target).await;
    row.end(size);
    let row = begin("cofferdam: down to nowhere, verified");
    pull(&client, &name("curl"), &whole, std::path::Path::new("/dev/null")).await;
    row.end(size);
    let row = begin("cofferdam: down to nowhere, parts at once");
    let from = name("parts");
    let nowhere = std::path::Path::new("/dev/null");
    let pulls = parts.iter().map(|part| pull(&client, &from, part, nowhere));
    futures_util::future::join_all(pulls).await;
    row.end(size);
}
