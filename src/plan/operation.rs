//! What a step does to the filesystem, with every word expanded: all that is needed to carry it out, and all that goes
//! into its key.

use std::collections::BTreeMap;

use crate::context::address::GitAddress;
use crate::dockerfile::{Mount, Network, Span};
use crate::image::Digest;

/// The number of a stage in the Dockerfile.
pub type StageIndex = usize;

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `RUN`
    Run(Run),
    /// `COPY` and `ADD`
    Transfer(Transfer),
    /// `WORKDIR`: makes a directory and its parents with mode 0755, where they are missing.
    MakeDirectory {
        /// Absolute, not cleaned.
        path: String,
        /// Whose the directories are: `USER` as written; empty for root.
        user: String,
    },
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments, the shell included.
    pub arguments: Vec<String>,
    /// A script that is put into a file of its own (a heredoc with `#!`); `arguments` then have the shell execute it.
    pub script: Option<Script>,
    /// The declared environment: ENV and the ARGs in scope, in order.
    pub environment: Vec<(String, String)>,
    /// Variables that the step sees and its key does not: predefined proxy arguments.
    pub hidden_environment: Vec<(String, String)>,
    /// Working directory, absolute.
    pub directory: String,
    /// `USER` as written: `name`, `uid`, `name:group`, …; empty for root.
    pub user: String,
    /// The network.
    pub network: Network,
    /// What is mounted, in order.
    pub mounts: Vec<RunMount>,
}

/// The file of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where the step finds it, absolute.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// A mount of a RUN, and what its files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount {
    /// The mount.
    pub mount: Mount,
    /// Where its files come from, if they come from anywhere.
    pub source: Option<Source>,
    /// Where it was written.
    pub span: Span,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The build context.
    Context,
    /// A named context that is a directory.
    NamedContext(String),
    /// A stage of this Dockerfile.
    Stage(StageIndex),
    /// An image, by its number in [`super::Plan::images`].
    Image(usize),
}

/// `COPY` and `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// `COPY` or `ADD`: for messages.
    pub name: &'static str,
    /// Where the paths are.
    pub source: Source,
    /// Paths and patterns in the source, as written after expansion, in order, each with its place.
    pub paths: Vec<(String, Span)>,
    /// Those of the paths that are no paths, by their number.
    pub remotes: BTreeMap<usize, Remote>,
    /// Files whose content stands in the Dockerfile, copied after the paths: name and content.
    pub inline: Vec<(String, String)>,
    /// Where to: absolute, not cleaned; a `/` at the end says that it is a directory.
    pub destination: String,
    /// Where the destination was written.
    pub destination_span: Span,
    /// `--chown`: `user`, `uid`, `user:group`, …
    pub chown: Option<(String, Span)>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<(String, Span)>,
    /// `--exclude`, in order.
    pub exclude: Vec<String>,
    /// `--parents`
    pub parents: bool,
    /// `--link`
    pub link: bool,
    /// What is done with archives.
    pub unpack: Unpack,
}

impl Transfer {
    /// What takes the files at a path to the root of an image, just as they are.
    pub fn whole(name: &'static str, source: Source, path: String, span: Span) -> Self {
        Self {
            name,
            source,
            paths: vec![(path, span)],
            remotes: BTreeMap::new(),
            inline: Vec::new(),
            destination: "/".to_owned(),
            destination_span: span,
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
            link: false,
            unpack: Unpack::Never,
        }
    }
}

/// A source of ADD that is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// A file on the web.
    File {
        /// Its address.
        url: String,
        /// What it has to be.
        checksum: Option<Digest>,
        /// Whether it is unpacked if it is an archive.
        unpacks: bool,
    },
    /// A git repository.
    Repository {
        /// Its address, and the commit it has to be at.
        address: GitAddress,
        /// Whether `.git` is copied too.
        keep_git_dir: bool,
    },
}

/// What is done with a source that is an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// It is copied as a file (COPY, `ADD --unpack=false`).
    Never,
    /// It is unpacked if it is one (ADD of local files).
    Archives,
}
