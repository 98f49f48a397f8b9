//! The course of a build: what is brought first, a plan and an executor for each platform, and what is delivered in the end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use super::assemble::Image;
use super::bring;
use super::error::BuildError;
use super::executor::{Executor, Given, LookedFor, Part, Shared};
use super::explain::Explained;
use super::fetch::Fetcher;
use super::inputs::{self, Text, Told};
use super::lookup::Caches;
use super::output;
use super::push::Pusher;
use super::request::{BuildOutcome, BuildRequest, NamedContext, Output, Services};
use super::transfer::Origin;
use crate::image::{Platform, Reference};
use crate::layer::Pool;
use crate::plan::{Operation, Remote};
use crate::registry::with_causes;
use crate::report::{Built, Event};
use crate::sandbox::Emulators;
use crate::store::Workspace;

/// Builds.
pub(super) async fn build(
    request: BuildRequest,
    services: Arc<Services>,
) -> Result<BuildOutcome, BuildError> {
    let (request, text, mut shared) = begin(request, &services).await?;
    if !request.no_cache {
        shared.pusher.begin_to_look();
    }
    let outcome = match attempt(&request, &services, &text, &shared).await {
        Err(error) if shared.caches.has_others() && error.is_of_lost_cache() => {
            services.report.warn(format!("{}: building without it", with_causes(&error)));
            shared.caches = shared.caches.alone();
            attempt(&request, &services, &text, &shared).await
        }
        outcome => outcome,
    }?;
    services.report.event(Event::Built(Built {
        digest: outcome.digest,
        names: outcome.names.iter().map(Reference::familiar).collect(),
        pushed: outcome.pushed.iter().map(ToString::to_string).collect(),
        written: outcome.written.iter().map(|path| path.display().to_string()).collect(),
    }));
    Ok(outcome)
}

/// Says of each step whether it would be carried out, and why. Nothing is.
pub(super) async fn explain(
    request: BuildRequest,
    services: Arc<Services>,
) -> Result<Vec<Explained>, BuildError> {
    let (request, text, shared) = begin(request, &services).await?;
    let mut course = Course::new(&request, &services, &text, &shared);
    let mut explained = Vec::new();
    while let Some(executor) = course.next().await? {
        executor.learn_traces().await?;
        explained.extend(executor.explain()?);
    }
    Ok(explained)
}

/// Brings the contexts and reads the Dockerfile.
async fn begin(
    request: BuildRequest,
    services: &Arc<Services>,
) -> Result<(BuildRequest, Text, Shared), BuildError> {
    let workspace = Arc::new(services.store.workspace()?);
    let whence = bring::whence(&request);
    let request = match bring::is_here(&request) {
        true => request,
        false => bring::context(request, services, &workspace).await?,
    };
    let text = Text { whence, ..Text::read(&request)? };
    let shared = shared(&request, services, workspace)?;
    Ok((request, text, shared))
}

/// What a build has once.
fn shared(
    request: &BuildRequest,
    services: &Arc<Services>,
    workspace: Arc<Workspace>,
) -> Result<Shared, BuildError> {
    // What killed builds have left is in nobody's way: it is cleared away beside the work. A build that has little to do
    // ends before that, and processes that are just dying hold theirs still: what takes over the workspace goes on.
    if services.store.has_others(&workspace)? {
        workspace.leave_to(&services.launcher);
    }
    let sweeping = services.store.clone();
    std::mem::drop(tokio::task::spawn_blocking(move || sweeping.sweep()));
    let fetcher = Fetcher::new(&services.store, &services.client, &services.report);
    let pushed: Vec<Reference> = request.outputs.iter().flat_map(Output::pushed_names).cloned().collect();
    let pusher = Pusher::new(services, &fetcher, pushed);
    let caches = Caches::open(request, services)?;
    let pool = Pool::new(NonZeroUsize::new(request.parallel).unwrap_or(NonZeroUsize::MIN));
    let search = services.emulators.clone();
    let emulators: LookedFor = Arc::new(LazyLock::new(Box::new(move || Emulators::find(&search))));
    Ok(Shared { workspace, fetcher, pusher, caches, pool, sandbox: Arc::default(), emulators })
}

/// The platforms of a build, one after the other: what two of them share has been made when the second comes to it.
struct Course<'a> {
    request: &'a BuildRequest,
    services: &'a Arc<Services>,
    text: &'a Text,
    shared: &'a Shared,
    platforms: std::vec::IntoIter<Option<Platform>>,
    several: bool,
    fetched: BTreeMap<Remote, Origin>,
    contexts: Vec<(String, NamedContext)>,
    told: Told,
    steps: usize,
}

impl<'a> Course<'a> {
    fn new(
        request: &'a BuildRequest,
        services: &'a Arc<Services>,
        text: &'a Text,
        shared: &'a Shared,
    ) -> Self {
        let platforms: Vec<Option<Platform>> = match request.platforms.as_slice() {
            [] => vec![None],
            platforms => platforms.iter().cloned().map(Some).collect(),
        };
        let several = platforms.len() > 1;
        let platforms = platforms.into_iter();
        let contexts = request.named_contexts.clone();
        let (fetched, told) = (BTreeMap::new(), Told::default());
        Self { request, services, text, shared, platforms, several, fetched, contexts, told, steps: 0 }
    }

    /// Refuses what a later platform's steps cannot be carried out for: nobody wants to hear of it after the first one's work.
    async fn refuse_foreign(&mut self) -> Result<(), BuildError> {
        let later: Vec<Option<Platform>> = self.platforms.as_slice().iter().skip(1).cloned().collect();
        let can_run = |platform: &Platform| self.shared.emulators().can_run(&platform.architecture);
        let foreign = |platform: &Option<Platform>| platform.as_ref().is_some_and(|one| !can_run(one));
        let foreign: Vec<Option<Platform>> = later.into_iter().filter(foreign).collect();
        for platform in foreign {
            let executor = self.executor(platform).await?;
            executor.refuse_foreign(&executor.needed_stages())?;
        }
        Ok(())
    }

    /// An executor for the next platform, which knows what is known.
    async fn next(&mut self) -> Result<Option<Arc<Executor>>, BuildError> {
        let Some(platform) = self.platforms.next() else { return Ok(None) };
        let executor = self.executor(platform).await?;
        self.steps += executor.plan.stages.iter().map(|stage| stage.steps.len()).sum::<usize>();
        Ok(Some(Arc::new(executor)))
    }

    async fn executor(&mut self, platform: Option<Platform>) -> Result<Executor, BuildError> {
        let platforms = platform.clone().into_iter().collect();
        let request = BuildRequest { platforms, ..self.request.clone() };
        let planned = inputs::plan(&request, self.services, self.text, &mut self.told).await?;
        let workspace = &self.shared.workspace;
        bring::named(&mut self.contexts, &planned.plan, &request, self.services, workspace).await?;
        let request = BuildRequest { named_contexts: self.contexts.clone(), ..request };
        bring::sources(&mut self.fetched, &planned.plan, self.text, &request, self.services, workspace)
            .await?;
        let part = Part { steps_before: self.steps, platform: platform.filter(|_| self.several) };
        let given = Given { shared: self.shared.clone(), fetched: self.fetched.clone(), part };
        Executor::prepare(request, Arc::clone(self.services), self.text.clone(), planned, given).await
    }
}

/// Builds and delivers, and fills the caches that are to be filled.
async fn attempt(
    request: &BuildRequest,
    services: &Arc<Services>,
    text: &Text,
    shared: &Shared,
) -> Result<BuildOutcome, BuildError> {
    let mut begun = Vec::new();
    let outcome = all_platforms(&mut begun, request, services, text, shared).await;
    // What was made before a failure is worth as much.
    for executor in &begun {
        executor.settle().await;
    }
    outcome
}

/// Builds for all platforms, and delivers. Who is in `begun` then may still be filling caches.
async fn all_platforms(
    begun: &mut Vec<Arc<Executor>>,
    request: &BuildRequest,
    services: &Arc<Services>,
    text: &Text,
    shared: &Shared,
) -> Result<BuildOutcome, BuildError> {
    let mut course = Course::new(request, services, text, shared);
    let mut built: Vec<(Arc<Executor>, Image)> = Vec::new();
    course.refuse_foreign().await?;
    while let Some(executor) = course.next().await? {
        begun.push(Arc::clone(&executor));
        let needed = executor.needed_stages();
        executor.refuse_foreign(&needed)?;
        let runs = executor.missing_steps(&needed).any(|step| matches!(step.operation, Operation::Run(_)));
        let image = executor.run(&needed, runs).await;
        executor.keep_trace();
        built.push((executor, image?));
    }
    output::deliver(request, services, &built).await
}
