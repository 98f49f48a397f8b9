//! What a build takes from elsewhere: contexts that are no directories, and sources of ADD that are addresses.
//!
//! It is brought before anything else is done, for keys are made of contents: contexts become directories of the workspace,
//! files blobs of the store. What follows knows of directories alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::try_join_all;

use super::agent::Served;
use super::error::BuildError;
use super::extract;
use super::fetch::blocking;
use super::inputs::Text;
use super::request::{Agent, BuildRequest, ContextSource, DockerfileSource, NamedContext, Services};
use super::steps::sources as sources_of;
use super::transfer::{Origin, SingleFile};
use crate::context::LocalContext;
use crate::context::address::{Address, GitAddress};
use crate::dockerfile::{Diagnostic, Span};
use crate::image::Digest;
use crate::layer::is_archive;
use crate::plan::{Operation, Plan, Remote, Source};
use crate::remote::{self, GitAccess, RemoteFile};
use crate::report::{Direction, Outcome};
use crate::store::Workspace;

/// The build argument that says whether a repository that is the context keeps its `.git`.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// The secrets that git shows to servers, as BuildKit calls them: a token, and a whole header.
const TOKEN: &str = "GIT_AUTH_TOKEN";
const HEADER: &str = "GIT_AUTH_HEADER";
/// The agent that git asks.
const AGENT: &str = "default";
/// What a Dockerfile is called that comes alone.
const DOCKERFILE: &str = "Dockerfile";
/// Standard input, in messages.
const STDIN: &str = "standard input";
/// The mode of a file that ADD fetches.
const FETCHED_MODE: u32 = 0o600;
/// What a file on the web is called that is a named context.
const NAMED_FILE: &str = "context";

/// The directory that the context of a request is.
///
/// # Errors
/// If it has not been brought here yet, which is the first that a build does.
pub(super) fn directory(request: &BuildRequest) -> Result<&Path, BuildError> {
    match &request.context {
        ContextSource::Directory(directory) => Ok(directory),
        ContextSource::Stdin | ContextSource::Remote(_) => {
            Err(BuildError::refused("the context is not here"))
        }
    }
}

/// Whether the context of a request is a directory already.
pub(super) fn is_here(request: &BuildRequest) -> bool {
    matches!(request.context, ContextSource::Directory(_))
}

/// Where a context is from that is brought here anew for each build: what it is known by from build to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whence {
    /// Its address without a password and without what says which of its states is meant; of standard input a dash.
    pub address: String,
    /// The directory of a repository that it is.
    pub directory: String,
}

/// Where the context of a request is from, if it is to be brought here.
pub(super) fn whence(request: &BuildRequest) -> Option<Whence> {
    let (address, directory) = match &request.context {
        ContextSource::Directory(_) => return None,
        ContextSource::Stdin => ("-".to_owned(), String::new()),
        ContextSource::Remote(Address::Repository(git)) => (git.shown(), git.directory.clone()),
        // What is asked of a server may be a signature, which is another each time.
        ContextSource::Remote(file @ Address::File(_)) => {
            let shown = file.shown();
            (shown.split(['?', '#']).next().unwrap_or_default().to_owned(), String::new())
        }
    };
    Some(Whence { address, directory })
}

/// The same request, with a directory below `workspace` as its context.
///
/// # Errors
/// If it cannot be brought here.
pub(super) async fn context(
    mut request: BuildRequest,
    services: &Services,
    workspace: &Workspace,
) -> Result<BuildRequest, BuildError> {
    let bringing = Bringing { request: &request, services, workspace: workspace.path() };
    let main = bringing.main().await?;
    if let Some(Main { directory, dockerfile }) = main {
        request.dockerfile = match (dockerfile, request.dockerfile) {
            (Some(dockerfile), DockerfileSource::InContext) => dockerfile,
            (Some(_), _) => {
                return Err(BuildError::Refused {
                    what: "the context is a Dockerfile, and `--file` names another".to_owned(),
                    hint: Some("leave `--file` away".to_owned()),
                });
            }
            (None, DockerfileSource::File(path)) => DockerfileSource::Within(path),
            // Whoever packed the files may have made it a link.
            (None, DockerfileSource::InContext) => DockerfileSource::Within(DOCKERFILE.into()),
            (None, source) => source,
        };
        request.context = ContextSource::Directory(directory);
    }
    Ok(request)
}

/// Brings those of the named contexts that a plan takes files from, each in a directory below `workspace`.
///
/// # Errors
/// If one cannot be brought here.
pub(super) async fn named(
    contexts: &mut [(String, NamedContext)],
    plan: &Plan,
    request: &BuildRequest,
    services: &Services,
    workspace: &Workspace,
) -> Result<(), BuildError> {
    let steps = || plan.stages.iter().flat_map(|stage| &stage.steps);
    let is_needed = |name: &str| {
        let is_it = |source: &Source| matches!(source, Source::NamedContext(wanted) if wanted == name);
        steps().any(|step| sources_of(step).into_iter().any(is_it))
    };
    let bringing = Bringing { request, services, workspace: workspace.path() };
    for (number, (name, context)) in contexts.iter_mut().enumerate() {
        if let NamedContext::Remote(address) = context
            && is_needed(name)
        {
            *context = NamedContext::Directory(bringing.named(number, address).await?);
        }
    }
    Ok(())
}

/// Brings what the ADDs of a plan take that is neither on this machine nor in `fetched` yet.
///
/// # Errors
/// If something cannot be had, at the place where it is named.
pub(super) async fn sources(
    fetched: &mut BTreeMap<Remote, Origin>,
    plan: &Plan,
    text: &Text,
    request: &BuildRequest,
    services: &Services,
    workspace: &Workspace,
) -> Result<(), BuildError> {
    let mut wanted: BTreeMap<&Remote, Span> = BTreeMap::new();
    for step in plan.stages.iter().flat_map(|stage| &stage.steps) {
        let Operation::Transfer(transfer) = &step.operation else { continue };
        for (number, remote) in transfer.remotes.iter().filter(|(_, remote)| !fetched.contains_key(*remote)) {
            let span = transfer.paths.get(*number).map_or(step.span, |(_, span)| *span);
            wanted.entry(remote).or_insert(span);
        }
    }
    let bringing = Bringing { request, services, workspace: workspace.path() };
    let all = wanted.into_iter().enumerate().map(|(number, (remote, span))| {
        let bringing = &bringing;
        async move {
            let origin = bringing.source(number, remote).await.map_err(|error| located(text, span, error))?;
            Ok::<_, BuildError>((remote.clone(), origin))
        }
    });
    fetched.extend(try_join_all(all).await?);
    Ok(())
}

fn located(text: &Text, span: Span, error: BuildError) -> BuildError {
    let finding = text.finding(Diagnostic::error("this source cannot be brought here", span));
    BuildError::Setup { finding, source: Box::new(error) }
}

/// A context that was brought here.
struct Main {
    directory: PathBuf,
    /// The Dockerfile, if there is nothing else.
    dockerfile: Option<DockerfileSource>,
}

struct Bringing<'a> {
    request: &'a BuildRequest,
    services: &'a Services,
    workspace: &'a Path,
}

impl Bringing<'_> {
    /// What the context becomes, if it is no directory.
    async fn main(&self) -> Result<Option<Main>, BuildError> {
        let directory = || self.directory("context");
        match &self.request.context {
            ContextSource::Directory(_) => Ok(None),
            ContextSource::Stdin => {
                if self.request.dockerfile == DockerfileSource::Stdin {
                    let what = "the context and the Dockerfile cannot both come from standard input";
                    return Err(BuildError::refused(what));
                }
                let (directory, packed) = (directory()?, self.workspace.join("stdin"));
                blocking(move || {
                    let wrong = |error| cannot("read", STDIN, error);
                    keep(&mut io::stdin(), &packed, 0o600).map_err(wrong)?;
                    let dockerfile = match unpacked(&packed, STDIN, &directory)? {
                        true => None,
                        // It is in no context, as for `docker build -`.
                        false => Some(DockerfileSource::Read(fs::read(&packed).map_err(wrong)?)),
                    };
                    Ok(Some(Main { directory, dockerfile }))
                })
                .await
            }
            ContextSource::Remote(Address::Repository(address)) => {
                let given = self.request.build_args.iter().find(|(name, _)| name == KEEP_GIT_DIR);
                let given = given.is_some_and(|(_, value)| {
                    matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
                });
                let keep = given || address.keep_git_dir.unwrap_or(false);
                let directory = self.check_out(address, keep, "context").await?;
                Ok(Some(Main { directory, dockerfile: None }))
            }
            ContextSource::Remote(Address::File(url)) => {
                let file = self.download(url, None).await?;
                let (directory, shown) = (directory()?, Address::File(url.clone()).shown());
                blocking(move || {
                    let dockerfile = match unpacked(&file.path, &shown, &directory)? {
                        true => None,
                        false => {
                            let to = directory.join(&file.name);
                            place(&file, &to).map_err(|error| cannot("keep", &shown, error))?;
                            Some(DockerfileSource::Within(file.name.into()))
                        }
                    };
                    Ok(Some(Main { directory, dockerfile }))
                })
                .await
            }
        }
    }

    async fn named(&self, number: usize, address: &Address) -> Result<PathBuf, BuildError> {
        let name = format!("context-{number}");
        match address {
            Address::Repository(git) => self.check_out(git, git.keep_git_dir.unwrap_or(false), &name).await,
            Address::File(url) => {
                let file = self.download(url, None).await?;
                let directory = self.directory(&name)?;
                place(&file, &directory.join(NAMED_FILE)).map_err(|error| cannot("keep", url, error))?;
                Ok(directory)
            }
        }
    }

    async fn source(&self, number: usize, remote: &Remote) -> Result<Origin, BuildError> {
        match remote {
            Remote::File { url, checksum, .. } => {
                let file = self.download(url, checksum.as_ref()).await?;
                let RemoteFile { name, path, mtime, .. } = file;
                let file = SingleFile { name: name.into_bytes(), path, mode: FETCHED_MODE, mtime };
                Ok(Origin::single(file, format!("`{}`", Address::File(url.clone()).shown())))
            }
            Remote::Repository { address, keep_git_dir } => {
                let files = self.check_out(address, *keep_git_dir, &format!("source-{number}")).await?;
                let context = Arc::new(LocalContext::whole(&files)?);
                Ok(Origin::context(context, format!("the repository `{}`", address.shown())))
            }
        }
    }

    async fn check_out(&self, address: &GitAddress, keep: bool, name: &str) -> Result<PathBuf, BuildError> {
        let directory = self.directory(name)?;
        let report = &self.services.report;
        let transfer = report.transfer(Direction::Download, None, None, address.shown(), None);
        let agent = self.agent().await?;
        let socket = agent.as_ref().map(|(socket, _)| socket.clone());
        let access = GitAccess { agent: socket, ..self.access(address) };
        match remote::check_out(address, keep, &access, &directory).await {
            Ok(checkout) => {
                transfer.end(Outcome::Downloaded);
                report.note(format!("`{}` is at the commit {}", address.shown(), checkout.commit));
                Ok(checkout.files)
            }
            Err(error) => {
                transfer.end(Outcome::Failed { reason: error.to_string() });
                Err(error.into())
            }
        }
    }

    async fn download(&self, url: &str, checksum: Option<&Digest>) -> Result<RemoteFile, BuildError> {
        let shown = Address::File(url.to_owned()).shown();
        let transfer =
            self.services.report.transfer(Direction::Download, None, checksum.copied(), shown, None);
        let told = transfer.teller();
        let fetched = remote::fetch(&self.services.store, &self.services.client, url, checksum, told).await;
        match &fetched {
            Ok(file) if file.is_new => transfer.end(Outcome::Downloaded),
            Ok(_) => transfer.end(Outcome::AlreadyThere),
            Err(error) => transfer.end(Outcome::Failed { reason: error.to_string() }),
        }
        Ok(fetched?)
    }

    /// With what a repository is asked for: secrets of the build, those for its host first.
    fn access(&self, address: &GitAddress) -> GitAccess {
        let host = url::Url::parse(&address.remote).ok().and_then(|url| url.host_str().map(str::to_owned));
        let secret = |name: &str| {
            let found = self.request.secrets.iter().find(|(id, _)| id == name);
            found.map(|(_, value)| String::from_utf8_lossy(value.expose()).trim().to_owned())
        };
        let of_host = |name: &str| host.as_ref().and_then(|host| secret(&format!("{name}.{host}")));
        let header = of_host(HEADER).or_else(|| of_host(TOKEN).as_deref().map(GitAccess::of_token));
        let header = header.or_else(|| secret(HEADER));
        let authorization = header.or_else(|| secret(TOKEN).as_deref().map(GitAccess::of_token));
        GitAccess { authorization, agent: None }
    }

    /// The socket of the agent that git may ask, and who is behind it, if there is to be one.
    async fn agent(&self) -> Result<Option<(PathBuf, Option<Served>)>, BuildError> {
        match self.request.agents.iter().find(|(id, _)| id == AGENT) {
            None => Ok(None),
            Some((_, Agent::Socket(socket))) => Ok(Some((socket.clone(), None))),
            Some((_, agent)) => {
                // The path of a socket has 107 bytes, and programs that git starts must find it by that.
                let socket = self.directory("a")?.join("s");
                let served =
                    Served::at(&socket, agent.clone()).await.map_err(|source| BuildError::Input {
                        what: format!("cannot serve SSH keys at `{}`", socket.display()),
                        source: Some(source),
                        hint: Some(
                            "name a shorter `--state-dir`, or start an agent (`ssh-agent`)".to_owned(),
                        ),
                    })?;
                Ok(Some((socket, Some(served))))
            }
        }
    }

    /// A new directory. Another platform of the same build may have one of this name.
    fn directory(&self, name: &str) -> Result<PathBuf, BuildError> {
        let builder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .disable_cleanup(true)
            .tempdir_in(self.workspace);
        let directory = builder
            .map_err(|error| cannot("make a directory in", &self.workspace.display().to_string(), error))?;
        Ok(directory.keep())
    }
}

fn cannot(what: &str, of: &str, source: io::Error) -> BuildError {
    BuildError::Input { what: format!("cannot {what} `{of}`"), source: Some(source), hint: None }
}

/// Writes all of `source` to a file.
fn keep(source: &mut dyn Read, path: &Path, mode: u32) -> io::Result<File> {
    let mut file = File::create_new(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    io::copy(source, &mut file)?;
    Ok(file)
}

/// Unpacks an archive into a directory; false if it is none.
fn unpacked(packed: &Path, shown: &str, directory: &Path) -> Result<bool, BuildError> {
    let open = || File::open(packed).map_err(|error| cannot("read", shown, error));
    // Opened twice: what looks at the beginning reads on for a while, beside this.
    let is_archive = is_archive(open()?)?;
    if is_archive {
        extract::archive(directory, open()?, shown)?;
    }
    Ok(is_archive)
}

/// Puts a file that was fetched somewhere, with its time.
fn place(file: &RemoteFile, to: &Path) -> io::Result<()> {
    let placed = keep(&mut File::open(&file.path)?, to, FETCHED_MODE)?;
    placed.set_modified(UNIX_EPOCH + Duration::from_secs(file.mtime.unsigned_abs()))
}
