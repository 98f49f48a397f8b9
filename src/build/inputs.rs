//! What a build is made from: the Dockerfile, the contexts, the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::afresh;
use super::bring::{self, Whence};
use super::error::BuildError;
use super::ignored;
use super::images::Found;
use super::mounts;
use super::request::{BuildRequest, DockerfileSource, NamedContext, Services};
use super::transfer::TransferError;
use crate::context::{Led, LocalContext, clean};
use crate::dockerfile::{self, Diagnostic, Diagnostics, Dockerfile, nearest, quote};
use crate::image::Platform;
use crate::plan::{Graph, ImageName, Named, Operation, Options, Plan};
use crate::report::{Event, Findings, Report};

/// Largest Dockerfile, in bytes: one that is larger is something else.
const LARGEST_DOCKERFILE: u64 = 16 << 20;

/// A Dockerfile, read.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// What it is called in messages.
    pub name: String,
    /// Where it lies, if it is a file.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: Arc<str>,
    /// Where its context is from, if that was brought here for this build.
    pub whence: Option<Whence>,
}

impl Text {
    /// Reads the Dockerfile of a request.
    pub fn read(request: &BuildRequest) -> Result<Self, BuildError> {
        let context = bring::directory(request)?;
        let (path, name) = match &request.dockerfile {
            DockerfileSource::InContext => (context.join("Dockerfile"), "Dockerfile".to_owned()),
            DockerfileSource::Within(within) => return Self::within(context, within),
            DockerfileSource::File(path) => (path.clone(), path.display().to_string()),
            DockerfileSource::Stdin => {
                let bytes = read_all(io::stdin(), Path::new("-"))?;
                return Self::decode("-".to_owned(), None, &bytes);
            }
            DockerfileSource::Read(bytes) => return Self::decode("-".to_owned(), None, bytes),
        };
        let file = std::fs::File::open(&path).map_err(|source| input(&path, source))?;
        let bytes = read_all(file, &path)?;
        Self::decode(name, Some(path), &bytes)
    }

    /// Reads a file of a context that is somebody else's: no link in it leads out of it.
    fn within(context: &Path, within: &Path) -> Result<Self, BuildError> {
        let files = LocalContext::whole(context)?;
        let cleaned = clean(&format!("/{}", within.display()));
        let path = match files.resolve(cleaned.trim_start_matches('/').as_bytes(), true)? {
            Led::To(path) => path,
            Led::Loop | Led::NotADirectory(_) => {
                return Err(input(within, io::ErrorKind::NotFound.into()));
            }
        };
        if files.lookup(&path)?.is_none() {
            return Err(input(within, io::ErrorKind::NotFound.into()));
        }
        let bytes = read_all(files.open_file(&path)?, within)?;
        let lies = context.join(cleaned.trim_start_matches('/'));
        Self::decode(within.display().to_string(), Some(lies), &bytes)
    }

    fn decode(name: String, path: Option<PathBuf>, bytes: &[u8]) -> Result<Self, BuildError> {
        let text = dockerfile::decode(bytes).map_err(|wrong| {
            let (finding, text) = *wrong;
            BuildError::findings(&name, &text, Diagnostics(vec![finding]))
        })?;
        Ok(Self { name, path, text: text.into(), whence: None })
    }

    /// Findings in it, as an error.
    pub fn findings(&self, list: Diagnostics) -> BuildError {
        BuildError::findings(&self.name, &self.text, list)
    }

    /// What is wrong with a transfer, as an error: with its place, if it is the author's.
    pub fn transfer_error(&self, error: TransferError) -> BuildError {
        match error {
            TransferError::Mistake(finding) => self.findings(Diagnostics(vec![*finding])),
            error => error.into(),
        }
    }

    /// One finding in it.
    pub fn finding(&self, finding: Diagnostic) -> Box<Findings> {
        Box::new(Findings::new(&*self.name, &self.text, Diagnostics(vec![finding])))
    }
}

fn input(path: &Path, source: io::Error) -> BuildError {
    let hint = (source.kind() == io::ErrorKind::NotFound)
        .then(|| "name another with `--file`, or another context".to_owned());
    BuildError::Input {
        what: format!("cannot read the Dockerfile `{}`", path.display()),
        source: Some(source),
        hint,
    }
}

fn read_all(source: impl Read, path: &Path) -> Result<Vec<u8>, BuildError> {
    let mut bytes = Vec::new();
    source.take(LARGEST_DOCKERFILE).read_to_end(&mut bytes).map_err(|source| input(path, source))?;
    Ok(bytes)
}

/// A plan, and the images in it.
#[derive(Debug)]
pub(super) struct Planned {
    pub plan: Plan,
    /// The images of the plan, by their number.
    pub images: BTreeMap<usize, Found>,
}

/// Plans a build, finding images as they turn out to be needed.
pub(super) async fn plan(
    request: &BuildRequest,
    services: &Services,
    text: &Text,
    told: &mut Told,
) -> Result<Planned, BuildError> {
    let dockerfile: Dockerfile = dockerfile::parse(&text.text).map_err(|list| text.findings(list))?;
    refuse_frontend(&dockerfile).map_err(|finding| text.findings(Diagnostics(vec![finding])))?;
    let options = options(request);
    let mut graph = Graph::new(&dockerfile, &options).map_err(|list| text.findings(list))?;
    let images = find_images(request, services, text, &dockerfile, &mut graph).await?;
    let mut plan = graph.plan().map_err(|list| text.findings(list))?;
    ignored::check(request, text, &dockerfile, &mut plan)?;
    told.warnings(request, services, text, &dockerfile, &plan);
    plan.checks.verdict().map_err(|finding| text.findings(Diagnostics(vec![finding])))?;
    if let Some(finding) = unsupported(&plan) {
        return Err(text.findings(Diagnostics(vec![finding])));
    }
    Ok(Planned { plan, images })
}

/// Finds the images of a graph, as they turn out to be needed.
pub(super) async fn find_images(
    request: &BuildRequest,
    services: &Services,
    text: &Text,
    dockerfile: &Dockerfile,
    graph: &mut Graph<'_>,
) -> Result<BTreeMap<usize, Found>, BuildError> {
    let mut images = BTreeMap::new();
    let stages: Vec<&str> = dockerfile.stages.iter().filter_map(dockerfile::Stage::name).collect();
    loop {
        let wanted = graph.wanted().map_err(|list| text.findings(list))?;
        if wanted.is_empty() {
            return Ok(images);
        }
        let stages = &stages;
        let find = |(number, wanted): (usize, crate::plan::Wanted)| async move {
            match services.find_image(&wanted.name, &wanted.platform, &request.named_contexts).await {
                Ok(found) => Ok((number, found)),
                Err(source) => {
                    let written = text.text.get(wanted.span.start..wanted.span.end).unwrap_or_default();
                    let hint = nearest(written, stages.iter().copied());
                    let hint = hint.map(|stage| format!("there is a stage `{stage}`"));
                    let finding = Diagnostic::error("the image cannot be used", wanted.span).maybe_hint(hint);
                    Err(BuildError::Setup { finding: text.finding(finding), source: Box::new(source) })
                }
            }
        };
        for (number, found) in try_join_all(wanted.into_iter().map(find)).await? {
            graph.found(number, found.image.clone()).map_err(|list| text.findings(list))?;
            images.insert(number, found);
        }
    }
}

/// Whether a file asks for a language that is not this one.
pub(super) fn refuse_frontend(dockerfile: &Dockerfile) -> Result<(), Diagnostic> {
    let asked = dockerfile.directives.syntax.as_ref();
    match asked.filter(|syntax| !is_known_frontend(&syntax.value)) {
        None => Ok(()),
        Some(syntax) => {
            let message = format!("the frontend {} is not supported", quote(&syntax.value));
            let hint = "only the language of `docker/dockerfile` is, which needs no frontend";
            Err(Diagnostic::error(message, syntax.span).hint(hint))
        }
    }
}

/// Frontends whose language this is: all of it is built in, so their images are not fetched. `None` for any other.
fn is_known_frontend(image: &str) -> bool {
    let name = image.split(['@']).next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let (name, _tag) = name.split_once(':').unwrap_or((name, ""));
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

/// What the plan has that cannot be carried out yet.
fn unsupported(plan: &Plan) -> Option<Diagnostic> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    steps.into_iter().find_map(|step| match &step.operation {
        Operation::Run(run) => mounts::unsupported(run),
        Operation::Transfer(_) | Operation::MakeDirectory { .. } => None,
    })
}

pub(super) fn options(request: &BuildRequest) -> Options {
    let named = |context: &NamedContext| match context {
        NamedContext::Directory(_) | NamedContext::Remote(_) => Named::Directory,
        NamedContext::Image(reference) => Named::Image(ImageName::Registry(reference.clone())),
        NamedContext::Layout { .. } => Named::Image(ImageName::Layout(String::new())),
        NamedContext::Target(target) => Named::Target(target.clone()),
    };
    let contexts = request.named_contexts.iter().map(|(name, context)| {
        let named = match named(context) {
            Named::Image(ImageName::Layout(_)) => Named::Image(ImageName::Layout(name.clone())),
            other => other,
        };
        (name.clone(), named)
    });
    Options {
        target: request.target.clone(),
        build_args: request.build_args.iter().cloned().collect(),
        labels: request.labels.clone(),
        platform: request.platforms.first().cloned(),
        build_platform: Platform::host(),
        named_contexts: contexts.collect(),
    }
}

/// What has been told of a Dockerfile: of what is the same for several platforms once is enough.
#[derive(Debug, Default)]
pub(super) struct Told {
    findings: Vec<Diagnostic>,
    unused_arguments: BTreeSet<String>,
    unknown_stages: bool,
}

impl Told {
    /// Tells what the author should know that has not been told yet.
    fn warnings(
        &mut self,
        request: &BuildRequest,
        services: &Services,
        text: &Text,
        dockerfile: &Dockerfile,
        plan: &Plan,
    ) {
        let mut list = other_warnings(dockerfile, Some(plan));
        list.extend(plan.checks.found().iter().cloned());
        list.retain(|finding| !self.findings.contains(finding));
        list.sort_by_key(|finding| finding.span().start);
        self.findings.extend_from_slice(&list);
        tell_findings(&services.report, text, list);
        for name in &plan.unused_arguments {
            if self.unused_arguments.insert(name.clone()) {
                services.report.warn_with(
                    format!("the build argument `{name}` is not used"),
                    format!("declare it with `ARG {name}` in the stage that needs it"),
                );
            }
        }
        if !std::mem::replace(&mut self.unknown_stages, true) {
            afresh::tell_unknown(&request.no_cache_stages, dockerfile, &services.report);
        }
    }
}

/// What the author should know, apart from what checks have found.
pub(super) fn other_warnings(dockerfile: &Dockerfile, plan: Option<&Plan>) -> Vec<Diagnostic> {
    let of_plan = plan.into_iter().flat_map(|plan| &plan.warnings);
    let all = dockerfile.warnings.0.iter().chain(of_plan);
    all.filter(|finding| finding.rule.is_none()).cloned().collect()
}

/// Tells of findings, if there are any.
pub(super) fn tell_findings(report: &Report, text: &Text, list: Vec<Diagnostic>) {
    if !list.is_empty() {
        report.event(Event::Findings(Findings::new(&*text.name, &text.text, Diagnostics(list))));
    }
}
