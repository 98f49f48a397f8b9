//! Typed instructions: what a Dockerfile says, before any variable is expanded.
//!
//! The types tell what is expanded and when:
//! - a [`Word`] is expanded by the planner in the scope of its stage (in FROM: of the global ARGs);
//! - a [`Spanned<String>`](Spanned) is final: the bodies of RUN, CMD, ENTRYPOINT, HEALTHCHECK and SHELL, names of
//!   ARGs, `--from`, `--exclude`, `--network`, `--security`, `--device`, durations, MAINTAINER;
//! - numbers, switches and durations have been read.
//!
//! Every part knows its place in the source.

use std::time::Duration;

use super::expand::{Syntax, Word};
use super::heredoc::{self, Heredoc};
use super::keyword::Keyword;
use super::mount::MountFlag;
use super::span::{Span, Spanned};

/// An instruction of a stage, or an ARG before the first stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its name and where that is.
    pub keyword: Spanned<Keyword>,
    /// Its name as it was written (`Run`).
    pub written: String,
    /// The whole instruction on one line: continuation characters, line breaks, comments and blank lines taken out,
    /// other white space (that before continued lines, too) as it was. Heredocs are not part of it. This is what
    /// BuildKit shows as the step's name.
    pub original: String,
    /// Everything that belongs to it, heredocs included.
    pub span: Span,
    /// The comments right before it, oldest first; a blank line does not part them from it, a `#` alone does.
    pub comments: Vec<Spanned<String>>,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ADD`
    Add(AddInstruction),
    /// `ARG`
    Arg(Vec<Arg>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(CopyInstruction),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`: the values of one instruction do not see each other.
    Env(Vec<Pair>),
    /// `EXPOSE`: sorted by text, which is the order in which BuildKit handles and records them. Each may expand to
    /// several words.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(Spanned<String>),
    /// `ONBUILD`
    Onbuild(OnbuildInstruction),
    /// `RUN`
    Run(RunInstruction),
    /// `SHELL`: not empty.
    Shell(Vec<Spanned<String>>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`: not empty, none of them blank.
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

/// One declaration of an ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name; never empty, never expanded.
    pub name: Spanned<String>,
    /// Its default, expanded where it is used.
    pub default: Option<Word>,
}

/// One pair of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name: never empty as written, expanded as the value is.
    pub key: Word,
    /// The value.
    pub value: Word,
    /// Whether it was written with a blank instead of `=` (`ENV key value`), which is deprecated.
    pub legacy: bool,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// `echo hi`: for the stage's shell. Empty where the instruction has no arguments, as BuildKit allows.
    Shell(Spanned<String>),
    /// `["echo", "hi"]`: program and arguments. Perhaps empty (`CMD []`).
    Exec(Vec<Spanned<String>>),
}

impl CommandLine {
    /// Whether nothing is written in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.value.is_empty(),
            Self::Exec(words) => words.is_empty(),
        }
    }
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInstruction {
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Spanned<Network>,
    /// `--security`
    pub security: Spanned<Security>,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// The command line, as it was written. Empty in the shell form it runs the shell on an empty text, as BuildKit
    /// does; empty in the exec form there is nothing that could be run, which is an error once the stage is built.
    pub command: CommandLine,
    /// Its heredocs; only in the shell form.
    pub heredocs: Vec<Heredoc>,
}

/// What a RUN executes once its heredocs are put in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Program and arguments.
    Exec(Vec<String>),
    /// A text for the stage's shell.
    Shell(String),
    /// A file with a `#!` line: it is placed, executable, under its name in a directory of its own and run. (BuildKit
    /// uses `/dev/pipes`; on Windows it does not do this at all.)
    File {
        /// The name of the file.
        name: String,
        /// Its content.
        content: String,
    },
}

impl RunInstruction {
    /// What is executed.
    ///
    /// A heredoc that is the whole command is the script itself; variables are never expanded in it, whatever its
    /// quotes say. If there is anything else on the line, line and heredocs go to the shell together, which knows
    /// what to do with them.
    pub fn script(&self) -> Script {
        let line = match &self.command {
            CommandLine::Exec(words) => {
                return Script::Exec(words.iter().map(|word| word.value.clone()).collect());
            }
            CommandLine::Shell(line) => &line.value,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(line.clone()) };
        if heredoc::opening(line).is_ok_and(|opening| opening.is_some()) {
            let content = first.content();
            return if content.starts_with("#!") {
                Script::File { name: first.name.clone(), content }
            } else {
                Script::Shell(content)
            };
        }
        let mut text = line.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.body.value);
            text.push_str(&heredoc.name);
        }
        Script::Shell(text)
    }
}

/// `RUN --network=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// What the build was started with.
    #[default]
    Default,
    /// No network.
    None,
    /// The machine's network.
    Host,
}

/// `RUN --security=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// As every other step.
    #[default]
    Sandbox,
    /// With all privileges.
    Insecure,
}

/// `RUN --device=`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name of the device, as the Container Device Interface has it.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Where it was asked for.
    pub span: Span,
}

/// What COPY and ADD have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Spanned<String>>,
    /// Paths (for ADD also URLs and repositories), in order. They are copied before [`Transfer::inline`].
    pub paths: Vec<Word>,
    /// Files whose content stands in the Dockerfile, in order.
    pub inline: Vec<InlineFile>,
    /// The destination.
    pub destination: Word,
}

/// A file whose content stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name, the heredoc's delimiter; not expanded.
    pub name: Spanned<String>,
    /// Its content, tabs already stripped: with variables, or [`Syntax::Verbatim`] if the delimiter was quoted.
    pub content: Word,
}

impl InlineFile {
    /// The file that a heredoc is.
    pub(super) fn new(heredoc: &Heredoc) -> Self {
        let syntax = if heredoc.expand { Syntax::Text } else { Syntax::Verbatim };
        Self {
            name: Spanned::new(heredoc.name.clone(), heredoc.span),
            content: Word::new(heredoc.content(), heredoc.body.span, syntax),
        }
    }
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyInstruction {
    /// `--from`: a stage's name or number, a named context or an image. It has neither variables nor quotes.
    pub from: Option<Spanned<String>>,
    /// `--parents`
    pub parents: bool,
    /// What is copied where.
    pub transfer: Transfer,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddInstruction {
    /// `--keep-git-dir`; none if it is not given.
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--unpack`; none if it is not given.
    pub unpack: Option<Spanned<bool>>,
    /// What is added where.
    pub transfer: Transfer,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: no probe, not even the base's.
    None,
    /// `HEALTHCHECK CMD …`
    Probe {
        /// What is run; not empty.
        command: CommandLine,
        /// `--interval`; zero for the default.
        interval: Duration,
        /// `--timeout`; zero for the default.
        timeout: Duration,
        /// `--start-period`; zero for the default.
        start_period: Duration,
        /// `--start-interval`; zero for the default.
        start_interval: Duration,
        /// `--retries`; zero for the default.
        retries: u32,
    },
}

/// `ONBUILD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnbuildInstruction {
    /// The text that is kept in the image: the instruction behind ONBUILD on one line, and its heredocs. It is read
    /// with [`parse_trigger`](super::parse_trigger) where the image is used.
    pub trigger: String,
    /// The instruction, to see now what it will be: neither ONBUILD, FROM nor MAINTAINER.
    pub instruction: Box<Instruction>,
}
