//! What is asked of a Dockerfile without a build: what is to be said against it, what a target takes, which targets
//! there are.
//!
//! Nothing is executed and nothing written but what is kept of base images. Registries are asked for base images where
//! there are any, as by BuildKit: their environment, shell and triggers belong to the stages built upon them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::bring;
use super::error::BuildError;
use super::ignored;
use super::images::Found;
use super::inputs::{self, Text};
use super::request::{BuildRequest, Services};
use crate::dockerfile::{self, Broken, CheckOptions, Diagnostic, Diagnostics, Dockerfile, Span};
pub use crate::plan::CHECK_ARGUMENT;
use crate::plan::{self, Graph, Outline, Plan, Target};
use crate::store::Workspace;

/// A Dockerfile that was looked at.
#[derive(Debug, Clone)]
pub struct Inspected<T> {
    /// What it is called in messages.
    pub name: String,
    /// Its text.
    pub text: Arc<str>,
    /// What was asked for.
    pub answer: T,
}

/// What is to be said against a Dockerfile.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What checks have found, in the order of the lines; each has a rule.
    pub found: Vec<Diagnostic>,
    /// What else its author should know.
    pub warnings: Vec<Diagnostic>,
    /// Why it cannot be built, if it cannot.
    pub error: Option<BuildError>,
    /// The instruction that the error is about, if it is about one.
    pub place: Option<Span>,
}

/// Checks all stages of a Dockerfile, or those that the target of the request needs. `services` are made when they are
/// needed.
///
/// # Errors
/// If there is no Dockerfile to be checked, or there are no services.
pub async fn check<E: From<BuildError>>(
    request: &BuildRequest,
    services: impl Fn() -> Result<Services, E>,
) -> Result<Inspected<Verdict>, E> {
    let here = Here::bring(request, &services).await?;
    let text = Text::read(&here.request)?;
    let answer = verdict(&here.request, &text, services).await?;
    Ok(Inspected { name: text.name, text: text.text, answer })
}

/// A request whose contexts are on this machine, as long as this lives.
struct Here<'r> {
    request: Cow<'r, BuildRequest>,
    _workspace: Option<Workspace>,
}

impl<'r> Here<'r> {
    async fn bring<E: From<BuildError>>(
        request: &'r BuildRequest,
        services: &impl Fn() -> Result<Services, E>,
    ) -> Result<Self, E> {
        if bring::is_here(request) {
            return Ok(Self { request: Cow::Borrowed(request), _workspace: None });
        }
        let services = services()?;
        let workspace = services.store.workspace().map_err(BuildError::from)?;
        let request = bring::context(request.clone(), &services, &workspace).await?;
        Ok(Self { request: Cow::Owned(request), _workspace: Some(workspace) })
    }
}

async fn verdict<E: From<BuildError>>(
    request: &BuildRequest,
    text: &Text,
    services: impl Fn() -> Result<Services, E>,
) -> Result<Verdict, E> {
    let instead = request.build_args.iter().find(|(name, _)| name == CHECK_ARGUMENT);
    let instead = instead.and_then(|(_, options)| CheckOptions::parse(options).ok());
    let dockerfile = match dockerfile::parse_for_checks(&text.text, instead) {
        Ok(dockerfile) => dockerfile,
        Err(Broken { findings, checks }) => {
            let errors: Vec<Diagnostic> = findings.0.into_iter().filter(Diagnostic::is_error).collect();
            let place = errors.first().and_then(|error| error.about);
            let error = Some(text.findings(Diagnostics(errors)));
            return Ok(Verdict { found: checks, warnings: Vec::new(), error, place });
        }
    };
    let warnings = inputs::other_warnings(&dockerfile, None);
    let options = inputs::options(request);
    // A list that holds what checks have found, and what is wrong.
    let broken = |list: Diagnostics, warnings: Vec<Diagnostic>| {
        let (errors, mut found): (Vec<_>, Vec<_>) = list.0.into_iter().partition(Diagnostic::is_error);
        found.sort_by_key(|finding| finding.subject().start);
        let place = errors.first().and_then(|error| place(&dockerfile, error));
        Verdict { found, warnings, error: Some(text.findings(Diagnostics(errors))), place }
    };
    if let Err(finding) = inputs::refuse_frontend(&dockerfile) {
        return Ok(broken(Diagnostics(vec![finding]), warnings));
    }
    let mut graph = match Graph::new(&dockerfile, &options) {
        Ok(graph) if options.target.is_none() => graph.with_everything(),
        Ok(graph) => graph,
        Err(list) => return Ok(broken(list, warnings)),
    };
    match images(request, text, &dockerfile, &mut graph, services).await? {
        Ok(_) => {}
        Err(BuildError::Dockerfile(findings)) => return Ok(broken(findings.list().clone(), warnings)),
        Err(error) => {
            let place = match &error {
                BuildError::Setup { finding, .. } => {
                    finding.list().0.first().and_then(|finding| place(&dockerfile, finding))
                }
                _ => None,
            };
            let found = graph.checks().clone().into_found();
            return Ok(Verdict { found, warnings, error: Some(error), place });
        }
    }
    let mut plan = match graph.plan() {
        Ok(plan) => plan,
        Err(list) => return Ok(broken(list, warnings)),
    };
    ignored::check(request, text, &dockerfile, &mut plan)?;
    let warnings = inputs::other_warnings(&dockerfile, Some(&plan));
    let error = plan.checks.verdict().err().map(|finding| text.findings(Diagnostics(vec![finding])));
    Ok(Verdict { found: plan.checks.into_found(), warnings, error, place: None })
}

/// The instruction that a finding is about.
fn place(dockerfile: &Dockerfile, finding: &Diagnostic) -> Option<Span> {
    let span = finding.subject();
    if span.is_empty() {
        return None;
    }
    let own = |stage: &dockerfile::Stage| -> Vec<Span> {
        let instructions = stage.instructions.iter().map(|instruction| instruction.span);
        std::iter::once(stage.from.span).chain(instructions).collect()
    };
    let global = dockerfile.global_args.iter().map(|instruction| instruction.span);
    let mut all = global.chain(dockerfile.stages.iter().flat_map(own));
    all.find(|whole| whole.start <= span.start && span.end <= whole.end)
}

/// Finds the images of a graph, if it needs any.
async fn images<E>(
    request: &BuildRequest,
    text: &Text,
    dockerfile: &Dockerfile,
    graph: &mut Graph<'_>,
    services: impl Fn() -> Result<Services, E>,
) -> Result<Result<BTreeMap<usize, Found>, BuildError>, E> {
    match graph.wanted() {
        Err(list) => Ok(Err(text.findings(list))),
        Ok(wanted) if wanted.is_empty() => Ok(Ok(BTreeMap::new())),
        Ok(_) => Ok(inputs::find_images(request, &services()?, text, dockerfile, graph).await),
    }
}

/// What the target of the request takes.
///
/// # Errors
/// If the target could not be built.
pub async fn outline<E: From<BuildError>>(
    request: &BuildRequest,
    services: impl Fn() -> Result<Services, E>,
) -> Result<Inspected<Outline>, E> {
    let here = Here::bring(request, &services).await?;
    let request = &*here.request;
    let text = Text::read(request)?;
    let dockerfile = dockerfile::parse(&text.text).map_err(|list| text.findings(list))?;
    inputs::refuse_frontend(&dockerfile).map_err(|finding| text.findings(Diagnostics(vec![finding])))?;
    let options = inputs::options(request);
    let mut graph = Graph::new(&dockerfile, &options).map_err(|list| text.findings(list))?;
    images(request, &text, &dockerfile, &mut graph, services).await??;
    let plan: Plan = graph.plan().map_err(|list| text.findings(list))?;
    plan.checks.verdict().map_err(|finding| text.findings(Diagnostics(vec![finding])))?;
    Ok(Inspected { name: text.name, text: text.text, answer: plan.outline })
}

/// The stages of a Dockerfile.
///
/// # Errors
/// If it cannot be understood.
pub async fn targets<E: From<BuildError>>(
    request: &BuildRequest,
    services: impl Fn() -> Result<Services, E>,
) -> Result<Inspected<Vec<Target>>, E> {
    let here = Here::bring(request, &services).await?;
    let text = Text::read(&here.request)?;
    let dockerfile = dockerfile::parse(&text.text).map_err(|list| text.findings(list))?;
    Ok(Inspected { name: text.name, text: text.text, answer: plan::targets(&dockerfile) })
}
