//! Contexts, images and stages from lines of text, and layers as lines again. The format is that of
//! `testdata/transfer/README.md`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::super::{Origin, Reading, Selection, Target, TransferError};
use crate::context::{Digests, LocalContext};
use crate::dockerfile::{self, Source as Text};
use crate::image::{Digest, ImageConfig};
use crate::layer::{
    Change, Entry, LayerBlob, LayerOptions, LayerReader, LayerWriter, Metadata, Node, Pool, Tree, TreePath,
};
use crate::plan::{BaseImage, Graph, Operation, Options, Plan, Transfer};
use crate::sandbox::{Owner, Root};
use crate::store::Store;

const CONTEXT_TIME: i64 = 1_600_000_000;
pub(super) const IMAGE_TIME: i64 = 1_500_000_000;
/// Longer contents are shown by their digest.
const SHOWN: usize = 100;

/// A place for everything that a case needs.
pub(super) struct Bench {
    directory: tempfile::TempDir,
    pub store: Store,
    pool: Pool,
}

/// What an instruction came to.
#[derive(Debug)]
pub(super) struct Made {
    pub selection: Digest,
    pub layer: LayerBlob,
    pub notices: Vec<String>,
}

/// A line: what a path is.
struct Line<'l> {
    kind: &'l str,
    path: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    rest: &'l str,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Self {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (kind, path, mode, rest) = (word(), decode(word()), word(), word());
        let (mode, owner) = mode.split_once('@').unwrap_or((mode, "0:0"));
        let (uid, gid) = owner.split_once(':').unwrap();
        let mode = if mode.chars().all(|digit| digit.is_digit(8)) && !mode.is_empty() {
            u32::from_str_radix(mode, 8).unwrap()
        } else {
            0
        };
        Self { kind, path, mode, uid: uid.parse().unwrap(), gid: gid.parse().unwrap(), rest }
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self { directory, store, pool: Pool::new(NonZeroUsize::new(2).unwrap()) }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory that the lines describe, whose files are `older` seconds older than they say.
    pub(super) fn context(&self, name: &str, lines: &[impl AsRef<str>], older: i64) -> Arc<LocalContext> {
        let top = self.path(name);
        fs::create_dir(&top).unwrap();
        let mut directories = vec![(top.clone(), CONTEXT_TIME)];
        for (number, line) in lines.iter().enumerate() {
            let time = CONTEXT_TIME + 1 + number as i64;
            put(&top, &Line::parse(line.as_ref()), time - older, &mut directories);
        }
        for (path, time) in directories.iter().rev() {
            set_time(path, time - older);
        }
        Arc::new(LocalContext::open(&top, None).unwrap())
    }

    pub(super) fn layer(&self, lines: &[impl AsRef<str>]) -> LayerBlob {
        let mut changes: BTreeMap<TreePath, (Change, Vec<u8>)> = BTreeMap::new();
        let mut last = TreePath::root();
        for (number, line) in lines.iter().enumerate() {
            let line = Line::parse(line.as_ref());
            let path = TreePath::new(line.path.clone()).unwrap();
            if line.kind == "xattr" {
                let (name, value) = line.rest.split_once(' ').unwrap();
                let Some((Change::Entry(entry), _)) = changes.get_mut(&last) else { panic!("{}", line.rest) };
                entry.metadata.xattrs.insert(name.into(), unhex(value));
                continue;
            }
            for parent in path.ancestors().filter(|parent| *parent != path && !parent.is_root()) {
                changes.entry(parent.clone()).or_insert_with(|| {
                    let metadata = Metadata { mode: 0o755, mtime: IMAGE_TIME, ..Metadata::default() };
                    (Change::Entry(Entry { path: parent, node: Node::Directory, metadata }), Vec::new())
                });
            }
            let change = image_change(&line, path.clone(), IMAGE_TIME + 1 + number as i64, &changes);
            changes.insert(path.clone(), change);
            last = path;
        }
        let mut writer = self.writer();
        for (change, content) in changes.values() {
            writer.change(change, &mut content.as_slice()).unwrap();
        }
        writer.finish().unwrap()
    }

    pub(super) fn tree(&self, layers: &[Vec<String>]) -> Tree {
        let layers: Vec<_> = layers.iter().map(|lines| self.layer(lines).diff_id).collect();
        Tree::open(&self.store, &layers).unwrap()
    }

    pub(super) fn root(&self, name: &str, lines: &[impl AsRef<str>]) -> Arc<Root> {
        let place = self.path(name);
        fs::create_dir(&place).unwrap();
        let metadata = fs::metadata(&place).unwrap();
        let root = Root::create(&place, Owner { uid: metadata.uid(), gid: metadata.gid() }).unwrap();
        let layer = self.layer(lines);
        let mut reader = LayerReader::new(self.store.open_blob(&layer.digest).unwrap()).unwrap();
        root.apply(&mut reader).unwrap();
        reader.finish().unwrap();
        Arc::new(root)
    }

    pub(super) fn writer(&self) -> LayerWriter {
        LayerWriter::new(&self.store, &self.pool, LayerOptions::default()).unwrap()
    }

    /// Carries an instruction out.
    pub(super) fn transfer(
        &self,
        transfer: &Arc<Transfer>,
        origin: Origin,
        image: &Tree,
        threads: usize,
    ) -> Result<Made, TransferError> {
        let reading = Reading { digests: None, threads: NonZeroUsize::new(threads).unwrap() };
        let selection = Selection::new(transfer.clone(), origin, reading)?;
        let mut writer = self.writer();
        let target = Target { image, store: &self.store, time: Target::TIME };
        selection.write(target, &mut writer)?;
        let layer = writer.finish().unwrap();
        let notices = selection.notices().iter().map(|notice| notice.message.clone()).collect();
        Ok(Made { selection: selection.digest(), layer, notices })
    }

    /// What a layer says, as lines.
    pub(super) fn lines(&self, layer: &LayerBlob) -> Vec<String> {
        let mut reader = LayerReader::new(self.store.open_blob(&layer.digest).unwrap()).unwrap();
        let mut lines = Vec::new();
        while let Some((change, mut content)) = reader.next().unwrap() {
            let path = encode(change.path().as_bytes());
            let entry = match change {
                Change::Remove(_) => {
                    lines.push(format!("remove {path}"));
                    continue;
                }
                Change::Opaque(_) => {
                    lines.push(format!("opaque {path}"));
                    continue;
                }
                Change::Entry(entry) => entry,
            };
            let Metadata { mode, uid, gid, mtime, xattrs } = entry.metadata;
            let head = |kind: &str| format!("{kind} {path} {mode:o}@{uid}:{gid} {mtime}");
            lines.push(match entry.node {
                Node::Directory => head("dir"),
                Node::File { .. } => {
                    let mut bytes = Vec::new();
                    content.read_to_end(&mut bytes).unwrap();
                    let shown =
                        if bytes.len() > SHOWN { Digest::of(&bytes).to_string() } else { encode(&bytes) };
                    format!("{} {shown}", head("file"))
                }
                Node::Symlink { target } => format!("{} {}", head("link"), encode(&target)),
                Node::Hardlink { target } => format!("hard {path} {}", encode(target.as_bytes())),
                Node::CharDevice { major, minor } => format!("{} {major}:{minor}", head("char")),
                Node::BlockDevice { major, minor } => format!("{} {major}:{minor}", head("block")),
                Node::Fifo => head("fifo"),
            });
            for (name, value) in xattrs {
                lines.push(format!("xattr {path} {} {}", String::from_utf8(name).unwrap(), hex(&value)));
            }
        }
        lines.sort();
        lines
    }
}

/// Digests and a number of threads, to read with.
pub(super) fn reading(digests: Option<&Digests>, threads: usize) -> Reading<'_> {
    Reading { digests, threads: NonZeroUsize::new(threads).unwrap() }
}

/// A file of a context.
fn put(top: &Path, line: &Line<'_>, time: i64, directories: &mut Vec<(PathBuf, i64)>) {
    let path = top.join(OsStr::from_bytes(&line.path));
    let missing: Vec<_> = path.ancestors().skip(1).take_while(|parent| !parent.exists()).collect();
    for parent in missing.into_iter().rev() {
        fs::create_dir(parent).unwrap();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
        directories.push((parent.to_owned(), CONTEXT_TIME));
    }
    match line.kind {
        "dir" => {
            fs::create_dir(&path).unwrap();
            directories.push((path.clone(), time));
        }
        "file" => fs::write(&path, decode(line.rest)).unwrap(),
        "archive" => {
            let archives = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/transfer/archives");
            fs::write(&path, fs::read(Path::new(archives).join(line.rest)).unwrap()).unwrap();
        }
        "link" => {
            symlink(OsStr::from_bytes(&decode(line.rest)), &path).unwrap();
            return set_time(&path, time);
        }
        "hard" => return fs::hard_link(top.join(OsStr::from_bytes(&decode(line.rest))), &path).unwrap(),
        "fifo" => rfs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
        kind => panic!("{kind}"),
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(line.mode)).unwrap();
    set_time(&path, time);
}

pub(super) fn set_time(path: &Path, time: i64) {
    let time = Timespec { tv_sec: time, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rfs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Waits until the clock of the kernel has left the tick in which a file was last changed.
pub(super) fn settle(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let metadata = fs::metadata(path).unwrap();
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (now.tv_sec, now.tv_nsec)
    };
    while now() <= (metadata.ctime(), metadata.ctime_nsec()) {
        assert!(Instant::now() < deadline, "the clock stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn image_change(
    line: &Line<'_>,
    path: TreePath,
    mtime: i64,
    before: &BTreeMap<TreePath, (Change, Vec<u8>)>,
) -> (Change, Vec<u8>) {
    let mut metadata =
        Metadata { mode: line.mode, uid: line.uid, gid: line.gid, mtime, xattrs: Default::default() };
    let mut content = Vec::new();
    let device = || {
        let (major, minor) = line.rest.split_once(':').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    };
    let node = match line.kind {
        "remove" => return (Change::Remove(path), content),
        "dir" => Node::Directory,
        "file" => {
            content = decode(line.rest);
            Node::File { size: content.len() as u64 }
        }
        "link" => Node::Symlink { target: decode(line.rest) },
        "hard" => {
            let target = TreePath::new(decode(line.rest)).unwrap();
            let Some((Change::Entry(other), _)) = before.get(&target) else { panic!("{target}") };
            metadata = other.metadata.clone();
            Node::Hardlink { target }
        }
        "char" => {
            let (major, minor) = device();
            Node::CharDevice { major, minor }
        }
        "block" => {
            let (major, minor) = device();
            Node::BlockDevice { major, minor }
        }
        "fifo" => Node::Fifo,
        kind => panic!("{kind}"),
    };
    (Change::Entry(Entry { path, node, metadata }), content)
}

/// The last instruction of a stage.
pub(super) fn instruction(text: &str) -> Result<Arc<Transfer>, String> {
    let plan = plan(text).map_err(|found| found.render(Text { name: "Dockerfile", text }, false))?;
    let step = plan.stage(plan.target).unwrap().steps.last().unwrap();
    let Operation::Transfer(transfer) = &step.operation else { panic!("{:?}", step.operation) };
    Ok(Arc::new(transfer.clone()))
}

fn plan(text: &str) -> Result<Plan, dockerfile::Diagnostics> {
    let options = Options {
        target: None,
        build_args: BTreeMap::new(),
        labels: Vec::new(),
        platform: None,
        build_platform: "linux/amd64".parse().unwrap(),
        named_contexts: BTreeMap::new(),
    };
    let config: ImageConfig = serde_json::from_str("{}").unwrap();
    let image = BaseImage { name: "base".into(), digest: Digest::of(b"base"), config, layers: Vec::new() };
    let dockerfile = dockerfile::parse(text)?;
    let mut graph = Graph::new(&dockerfile, &options)?;
    loop {
        let wanted = graph.wanted()?;
        if wanted.is_empty() {
            return graph.plan();
        }
        for (number, _) in wanted {
            graph.found(number, image.clone())?;
        }
    }
}

/// All that is said of an error.
pub(super) fn told(error: &TransferError, text: &str) -> String {
    if let TransferError::Mistake(finding) = error {
        return finding.render(Text { name: "Dockerfile", text }, false);
    }
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    bytes
}

fn encode(bytes: &[u8]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'"' | b'`');
    let shown =
        |byte: &u8| if is_plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(shown).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
