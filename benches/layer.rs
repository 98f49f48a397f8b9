//! How fast layers are written and read, beside `tar | gzip -1` (and `pigz -1`, `zstd`, where they are
//! installed) in the same run.
//!
//! `cargo bench --bench layer [-- FILTER]`. Each case runs in a process of its own, so that its peak memory
//! is its own.

// A bench is run by hand: it prints, and a failure is a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use cofferdam::layer::{
    Compression, Entry, LayerOptions, LayerReader, LayerWriter, Metadata, Node, Pool, Tree, TreePath,
};
use cofferdam::store::Store;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: u64 = 1 << 20;
const SMALL_FILES: usize = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [case, directory] if case.starts_with("case:") => run(&case["case:".len()..], Path::new(directory)),
        filters => all(filters),
    }
}

/// Runs every case in a child, and the peers.
fn all(filters: &[String]) {
    let directory = std::env::var_os("COFFERDAM_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = tempfile::tempdir_in(directory).unwrap();
    println!("{:34} {:>8} {:>9} {:>7} {:>9}", "case", "wall s", "MB/s", "ratio", "peak RSS");
    let wanted =
        |case: &str| filters.is_empty() || filters.iter().any(|filter| case.contains(filter.as_str()));
    for (input, bytes) in [("small", small_files(scratch.path())), ("mixed", mixed(scratch.path()))] {
        for compression in ["gzip-4", "gzip-1", "zstd-3", "none"] {
            let case = format!("{input}/{compression}");
            if wanted(&case) {
                child(&case, scratch.path(), bytes);
            }
        }
        for peer in ["gzip -1", "pigz -1", "zstd -3 -T0"] {
            if wanted(&format!("{input}/{peer}")) {
                peers(peer, input, scratch.path(), bytes);
            }
        }
    }
    for case in ["noise/gzip-4", "zeros/gzip-4", "sparse/gzip-4", "index/million"] {
        if wanted(case) {
            child(case, scratch.path(), 0);
        }
    }
}

fn child(case: &str, scratch: &Path, _bytes: u64) {
    let status = Command::new(std::env::current_exe().unwrap())
        .arg(format!("case:{case}"))
        .arg(scratch)
        .status()
        .unwrap();
    assert!(status.success());
}

/// A line of the table.
fn report(case: &str, start: Instant, bytes: u64, out: u64) {
    let wall = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_owned();
    let rate = bytes as f64 / 1e6 / wall;
    println!("{case:34} {wall:8.2} {rate:9.0} {:7.3} {peak:>12}", out as f64 / bytes as f64);
}

fn compression(name: &str) -> Compression {
    match name {
        "gzip-4" => Compression::Gzip(4),
        "gzip-1" => Compression::Gzip(1),
        "zstd-3" => Compression::Zstd(3),
        _ => Compression::None,
    }
}

fn run(case: &str, scratch: &Path) {
    let (input, compressor) = case.split_once('/').unwrap();
    let stores = tempfile::tempdir_in(scratch).unwrap();
    let store = Store::open(stores.path()).unwrap();
    let options = LayerOptions { compression: compression(compressor), clamp_mtime: None };
    let mut writer = LayerWriter::new(&store, &Pool::default(), options).unwrap();
    let start = Instant::now();
    match input {
        "small" => write_tree(&mut writer, &scratch.join("small")),
        "mixed" => write_tree(&mut writer, &scratch.join("mixed")),
        "noise" => write_one(&mut writer, &mut Noise(1).take(2048 * MIB), 2048 * MIB),
        "zeros" => write_one(&mut writer, &mut std::io::repeat(0).take(10_240 * MIB), 10_240 * MIB),
        "sparse" => {
            let sparse = tempfile::tempfile_in(scratch).unwrap();
            sparse.set_len(10_240 * MIB).unwrap();
            writer.file_from(&file("sparse", 10_240 * MIB), &sparse).unwrap();
        }
        _ => return index(&store, writer),
    }
    let layer = writer.finish().unwrap();
    report(&format!("write {case}"), start, layer.diff_size, layer.size);
    let start = Instant::now();
    let reader = LayerReader::new(store.open_blob(&layer.digest).unwrap()).unwrap().indexed(&store);
    reader.finish().unwrap().expect_diff_id(&layer.diff_id).unwrap();
    report(&format!("read  {case}"), start, layer.diff_size, layer.size);
}

/// A layer of a million files, its index and the tree of it.
fn index(store: &Store, mut writer: LayerWriter) {
    let start = Instant::now();
    for outer in 0..1000 {
        writer.entry(&entry(&format!("usr/lib/package-{outer:04}"), Node::Directory)).unwrap();
        for inner in 0..1000 {
            let name = format!("usr/lib/package-{outer:04}/some-file-with-a-name-{inner:04}.txt");
            writer.entry(&entry(&name, Node::File { size: 0 })).unwrap();
        }
    }
    let layer = writer.finish().unwrap();
    report("write index/million", start, layer.diff_size, layer.size);
    let start = Instant::now();
    let tree = Tree::open(store, &[layer.diff_id]).unwrap();
    let count = tree.walk(&TreePath::root()).unwrap().filter(|entry| entry.is_ok()).count();
    report(&format!("walk {count} entries"), start, layer.diff_size, 0);
    let start = Instant::now();
    let mut found = 0;
    for number in 0..100_000_u64 {
        let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (outer, inner) = (number % 1000, number / 1000 % 1000);
        let name = format!("usr/lib/package-{outer:04}/some-file-with-a-name-{inner:04}.txt");
        found += u32::from(tree.lookup(&TreePath::new(name).unwrap()).unwrap().is_some());
    }
    let each = start.elapsed().as_secs_f64() / 1e5 * 1e6;
    println!("{found} look-ups at random, {each:.1} µs each");
}

fn entry(at: &str, node: Node) -> Entry {
    Entry {
        path: TreePath::new(at).unwrap(),
        node,
        metadata: Metadata { mode: 0o644, ..Metadata::default() },
    }
}

fn file(at: &str, size: u64) -> Entry {
    entry(at, Node::File { size })
}

fn write_one(writer: &mut LayerWriter, content: &mut dyn Read, size: u64) {
    writer.file(&file("file", size), content).unwrap();
}

/// What the build room does: sorted names, a stat and a read for each.
fn write_tree(writer: &mut LayerWriter, root: &Path) {
    let mut paths: Vec<(TreePath, PathBuf)> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|found| found.unwrap().into_path())
        .map(|path| {
            let inside = path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes();
            (TreePath::new(inside).unwrap(), path)
        })
        .collect();
    paths.sort();
    for (path, on_disk) in paths {
        let metadata = std::fs::symlink_metadata(&on_disk).unwrap();
        let of = |node| Entry { path, node, metadata: Metadata { mode: 0o644, ..Metadata::default() } };
        if metadata.is_dir() {
            writer.entry(&of(Node::Directory)).unwrap();
        } else {
            let content = File::open(&on_disk).unwrap();
            writer.file_from(&of(Node::File { size: metadata.len() }), &content).unwrap();
        }
    }
}

/// Random bytes.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for bytes in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[..bytes.len()]);
        }
        Ok(buffer.len())
    }
}

/// Source code of about 2 KB a file, as in `node_modules`.
fn small_files(scratch: &Path) -> u64 {
    let mut text = Vec::new();
    for found in walkdir::WalkDir::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")) {
        let found = found.unwrap();
        if found.file_type().is_file() {
            File::open(found.path()).unwrap().read_to_end(&mut text).unwrap();
        }
    }
    let mut bytes = 0;
    for number in 0..SMALL_FILES {
        let directory = scratch.join(format!("small/{:03}", number % 1000));
        if number < 1000 {
            std::fs::create_dir_all(&directory).unwrap();
        }
        let start = number * 997 % (text.len() - 4096);
        let size = 1000 + number % 2000;
        std::fs::write(directory.join(format!("{number}.rs")), &text[start..start + size]).unwrap();
        bytes += size as u64;
    }
    bytes
}

/// A GiB as an image's layer has it: programs and libraries, noise (what is compressed already), zeros.
fn mixed(scratch: &Path) -> u64 {
    let directory = scratch.join("mixed");
    std::fs::create_dir(&directory).unwrap();
    let mut bytes = 0;
    let mut add = |name: &str, content: &mut dyn Read, limit: u64| {
        let mut file = File::create(directory.join(name)).unwrap();
        bytes += std::io::copy(&mut content.take(limit), &mut file).unwrap();
    };
    let mut number = 0;
    let mut left = 640 * MIB;
    for found in walkdir::WalkDir::new("/usr").sort_by_file_name().into_iter().flatten() {
        let Ok(metadata) = found.metadata() else { continue };
        if metadata.is_file() && metadata.len() > 0 && left > 0 {
            number += 1;
            let Ok(mut content) = File::open(found.path()) else { continue };
            add(&format!("usr-{number:06}"), &mut content, left);
            left -= left.min(metadata.len());
        }
    }
    add("noise", &mut Noise(7), 256 * MIB);
    add("zeros", &mut std::io::repeat(0), 128 * MIB);
    bytes
}

/// `tar | COMPRESSOR > file`, if the compressor is installed.
fn peers(compressor: &str, input: &str, scratch: &Path, _bytes: u64) {
    let program = compressor.split(' ').next().unwrap();
    let installed =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_err() {
        println!("tar | {compressor:28} not installed");
        return;
    }
    let out = scratch.join("peer");
    let script =
        format!("tar -C {0}/{input} --sort=name -cf - . | {compressor} > {0}/peer", scratch.display());
    let start = Instant::now();
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let wall = start.elapsed().as_secs_f64();
    let size = std::fs::metadata(&out).unwrap().len();
    let tar = Command::new("sh")
        .args(["-c", &format!("tar -C {}/{input} -cf - . | wc -c", scratch.display())])
        .output()
        .unwrap();
    let plain: u64 = String::from_utf8(tar.stdout).unwrap().trim().parse().unwrap();
    println!(
        "{:34} {wall:8.2} {:9.0} {:7.3}",
        format!("tar {input} | {compressor}"),
        plain as f64 / 1e6 / wall,
        size as f64 / plain as f64
    );
    std::io::stdout().flush().unwrap();
}
