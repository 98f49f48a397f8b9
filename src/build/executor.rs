//! Carries out a plan: looks every step up, executes those that are missing on the way to the target.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use futures_util::future::try_join_all;
use tokio::sync::{OnceCell, Semaphore};

use super::assemble::{self, Image};
use super::bring;
use super::contexts::Contexts;
use super::error::BuildError;
use super::fetch::{Fetcher, blocking};
use super::images::Found;
use super::inputs::{self, Planned, Text};
use super::keys::Keys;
use super::layers::Layer;
use super::output;
use super::push::Pusher;
use super::request::{AnnotationPlace, BuildOutcome, BuildRequest, Output, Services};
use super::roots::Roots;
use super::steps::sources;
use super::told::tell_failure;
use super::transfer::Origin;
use crate::cache::{LayerRecord, LocalCache};
use crate::image::{Platform, Reference};
use crate::layer::{LayerOptions, LayerWriter, Pool};
use crate::plan::{Base, Operation, Plan, Remote, Source, Stage, StageIndex, Step};
use crate::report::{Built, Event, Started};
use crate::sandbox::{Emulators, Protection, Sandbox, SandboxError};
use crate::store::Workspace;

/// A layer that a step made, now or before.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub layer: Layer,
    /// When, RFC 3339.
    pub created: String,
}

/// Builds.
pub(super) async fn build(
    request: BuildRequest,
    services: Arc<Services>,
) -> Result<BuildOutcome, BuildError> {
    let workspace = Arc::new(services.store.workspace()?);
    let request = match bring::is_here(&request) {
        true => request,
        false => bring::contexts(request, &services, &workspace).await?,
    };
    let text = Text::read(&request)?;
    let platforms: Vec<Option<Platform>> = match request.platforms.as_slice() {
        [] => vec![None],
        platforms => platforms.iter().cloned().map(Some).collect(),
    };
    let several = platforms.len() > 1;
    let mut built: Vec<(Arc<Executor>, Image)> = Vec::new();
    let shared = Shared::new(&request, &services, workspace);
    let mut fetched = BTreeMap::new();
    let mut steps = 0;
    let part_of = |platform: &Option<Platform>, steps_before| Part {
        steps_before,
        platform: platform.clone().filter(|_| several),
    };
    // Nobody wants to hear after the first platform's work that the second's cannot be done.
    for platform in platforms.iter().skip(1) {
        if platform.as_ref().is_some_and(|platform| !shared.emulators().can_run(&platform.architecture)) {
            let part = part_of(platform, 0);
            let request = of_platform(&request, platform);
            let executor = Executor::of(part, request, &services, &text, &shared, &mut fetched).await?;
            executor.refuse_foreign(&executor.needed_stages())?;
        }
    }
    // One after the other: what two platforms share has been made when the second comes to it.
    for platform in platforms {
        let part = part_of(&platform, steps);
        let request = of_platform(&request, &platform);
        let mut executor = Executor::of(part, request, &services, &text, &shared, &mut fetched).await?;
        steps += executor.plan.stages.iter().map(|stage| stage.steps.len()).sum::<usize>();
        let needed = executor.needed_stages();
        let (executes, runs) = {
            let mut missing = executor.missing_steps(&needed).peekable();
            (missing.peek().is_some(), missing.any(|step| matches!(step.operation, Operation::Run(_))))
        };
        executor.refuse_foreign(&needed)?;
        executor.executes = executes;
        let executor = Arc::new(executor);
        let image = executor.run(&needed, runs).await?;
        built.push((executor, image));
    }
    let outcome = output::deliver(&request, &services, &built).await?;
    services.report.event(Event::Built(Built {
        digest: outcome.digest,
        names: outcome.names.iter().map(Reference::familiar).collect(),
        pushed: outcome.pushed.iter().map(ToString::to_string).collect(),
        written: outcome.written.iter().map(|path| path.display().to_string()).collect(),
    }));
    Ok(outcome)
}

/// What is asked for, for one of its platforms.
fn of_platform(request: &BuildRequest, platform: &Option<Platform>) -> BuildRequest {
    BuildRequest { platforms: platform.iter().cloned().collect(), ..request.clone() }
}

/// Which part of a build an executor carries out.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Steps of other platforms, which come before.
    pub steps_before: usize,
    /// The platform, if there are several.
    pub platform: Option<Platform>,
}

/// What a build has once, however many platforms it is for.
#[derive(Clone)]
struct Shared {
    workspace: Arc<Workspace>,
    fetcher: Fetcher,
    pusher: Option<Pusher>,
    pool: Pool,
    sandbox: Arc<OnceCell<Arc<Sandbox>>>,
    emulators: LookedFor,
}

/// What runs the programs of other machines here, looked for when it is first asked for.
type LookedFor = Arc<LazyLock<Emulators, Box<dyn FnOnce() -> Emulators + Send>>>;

impl Shared {
    /// What runs the programs of other machines here.
    fn emulators(&self) -> &Emulators {
        &self.emulators
    }

    fn new(request: &BuildRequest, services: &Arc<Services>, workspace: Arc<Workspace>) -> Self {
        // What killed builds have left is in nobody's way: it is cleared away beside the work.
        let sweeping = services.store.clone();
        std::mem::drop(tokio::task::spawn_blocking(move || sweeping.sweep()));
        let fetcher = Fetcher::new(&services.store, &services.client, &services.report);
        let pushed: Vec<Reference> = request.outputs.iter().flat_map(Output::pushed_names).cloned().collect();
        let pusher = (!pushed.is_empty()).then(|| Pusher::new(services, &fetcher, pushed));
        let pool = Pool::new(NonZeroUsize::new(request.parallel).unwrap_or(NonZeroUsize::MIN));
        let search = services.emulators.clone();
        let emulators: LookedFor = Arc::new(LazyLock::new(Box::new(move || Emulators::find(&search))));
        Self { workspace, fetcher, pusher, pool, sandbox: Arc::default(), emulators }
    }
}

/// What an executor is given besides its plan.
struct Given {
    shared: Shared,
    fetched: BTreeMap<Remote, Origin>,
    part: Part,
}

pub(super) struct Executor {
    pub(super) request: BuildRequest,
    pub(super) services: Arc<Services>,
    pub(super) text: Text,
    pub(super) plan: Plan,
    pub(super) part: Part,
    images: BTreeMap<usize, Found>,
    pub(super) contexts: Arc<Contexts>,
    keys: Keys,
    pub(super) cache: LocalCache,
    /// What was found in the cache.
    known: BTreeMap<(StageIndex, usize), LayerRecord>,
    made: BTreeMap<(StageIndex, usize), OnceCell<Made>>,
    pub(super) fetcher: Fetcher,
    pub(super) roots: Roots,
    /// The threads that compress; as many read files.
    pub(super) pool: Pool,
    sandbox: Arc<OnceCell<Arc<Sandbox>>>,
    emulators: LookedFor,
    pusher: Option<Pusher>,
    /// Whether there is a step to be executed.
    pub(super) executes: bool,
    /// Steps that are executed at one time.
    turns: Semaphore,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, BuildError>> + Send + 'a>>;

impl Executor {
    /// Plans a part of a build, brings what its steps take from elsewhere, and looks its keys up.
    async fn of(
        part: Part,
        request: BuildRequest,
        services: &Arc<Services>,
        text: &Text,
        shared: &Shared,
        fetched: &mut BTreeMap<Remote, Origin>,
    ) -> Result<Self, BuildError> {
        let planned = inputs::plan(&request, services, text).await?;
        bring::sources(fetched, &planned.plan, text, &request, services, &shared.workspace).await?;
        let given = Given { shared: shared.clone(), fetched: fetched.clone(), part };
        Self::prepare(request, Arc::clone(services), text.clone(), planned, given).await
    }

    /// Opens the contexts, computes all keys and looks them up.
    async fn prepare(
        request: BuildRequest,
        services: Arc<Services>,
        text: Text,
        planned: Planned,
        given: Given,
    ) -> Result<Self, BuildError> {
        let Planned { plan, images } = planned;
        let Given { shared, fetched, part } = given;
        let Shared { workspace, fetcher, pusher, pool, sandbox, emulators } = shared;
        let store = services.store.clone();
        let threads = pool.threads();
        let contexts = Arc::new(Contexts::open(&request, text.path.as_deref(), &store, fetched, threads)?);
        let (keys, plan, text) = {
            let (contexts, options, kept) = (Arc::clone(&contexts), layer_options(&request), store.clone());
            blocking(move || {
                let keys = Keys::compute(&plan, &contexts, &options, &text)?;
                contexts.keep(&kept)?;
                Ok((keys, plan, text))
            })
            .await?
        };
        let cache = LocalCache::new(&store);
        let mut known = BTreeMap::new();
        if !request.no_cache {
            for (step, key) in keys.iter() {
                if let Some(record) = cache.layer(&key.key)? {
                    known.insert(*step, record);
                }
            }
        }
        let made = keys.iter().map(|(step, _)| (*step, OnceCell::new())).collect();
        let turns = Semaphore::new(request.parallel.max(1));
        Ok(Self {
            text,
            part,
            images,
            contexts,
            keys,
            cache,
            known,
            made,
            fetcher,
            roots: Roots::new(workspace, services.launcher.clone(), services.keep_roots),
            pool,
            sandbox,
            emulators,
            pusher,
            executes: true,
            turns,
            plan,
            request,
            services,
        })
    }

    /// Brings the layers of the stages that are needed, and makes the image. `runs` says whether there is a RUN to be executed.
    async fn run(self: &Arc<Self>, needed: &BTreeSet<StageIndex>, runs: bool) -> Result<Image, BuildError> {
        self.tell_start(needed, runs).await?;
        if let Some(pusher) = self.pusher.as_ref().filter(|_| self.executes) {
            pusher.check().await?;
            for layer in self.base_layers_of(self.plan.target) {
                pusher.begin(&layer);
            }
        }
        let stages = needed.iter().map(|stage| {
            let executor = Arc::clone(self);
            let stage = *stage;
            async move { executor.stage_layers(stage).await.map(drop) }
        });
        try_join_all(stages).await?;
        self.image().await
    }

    /// Says what will be done, and on what ground.
    async fn tell_start(&self, needed: &BTreeSet<StageIndex>, runs: bool) -> Result<(), BuildError> {
        let machine = if runs { Some(self.sandbox().await?.findings().summary()) } else { None };
        if self.part.steps_before == 0 {
            self.services.report.event(Event::Started(Started {
                command: "build".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine,
            }));
        }
        let stages = self.plan.stages.iter().filter(|stage| needed.contains(&stage.index));
        let steps = stages.map(|stage| stage.steps.len()).sum::<usize>() + self.part.steps_before;
        self.services.report.event(Event::Planned { steps });
        Ok(())
    }

    /// The stages whose layers are needed: the target, what it is built upon, and what steps take files from that must
    /// be executed.
    fn needed_stages(&self) -> BTreeSet<StageIndex> {
        let mut needed = BTreeSet::new();
        let mut open = vec![self.plan.target];
        while let Some(index) = open.pop() {
            let Some(stage) = self.plan.stage(index).filter(|_| needed.insert(index)) else { continue };
            if let Base::Stage(base) = stage.base {
                open.push(base);
            }
            for (number, step) in stage.steps.iter().enumerate() {
                if !self.is_known(index, number) {
                    open.extend(sources(step).into_iter().filter_map(|source| match source {
                        Source::Stage(stage) => Some(*stage),
                        _ => None,
                    }));
                }
            }
        }
        needed
    }

    fn missing_steps<'a>(&'a self, needed: &'a BTreeSet<StageIndex>) -> impl Iterator<Item = &'a Step> {
        let stages = self.plan.stages.iter().filter(|stage| needed.contains(&stage.index));
        stages.flat_map(|stage| {
            let missing = |(number, _): &(usize, &Step)| !self.is_known(stage.index, *number);
            stage.steps.iter().enumerate().filter(missing).map(|(_, step)| step)
        })
    }

    /// Whether the result of a step was in the cache.
    pub(super) fn is_known(&self, stage: StageIndex, step: usize) -> bool {
        self.known.contains_key(&(stage, step))
    }

    /// The layers that a stage gets from an image, which are known without any work.
    fn base_layers_of(&self, index: StageIndex) -> Vec<Layer> {
        match self.plan.stage(index).map(|stage| stage.base) {
            Some(Base::Image(number)) => self.image_layers(number),
            Some(Base::Stage(base)) => self.base_layers_of(base),
            Some(Base::Scratch) | None => Vec::new(),
        }
    }

    pub(super) fn image_layers(&self, number: usize) -> Vec<Layer> {
        self.images.get(&number).map(|found| found.layers.clone()).unwrap_or_default()
    }

    /// All layers of a stage, its steps carried out where they must be.
    pub(super) fn stage_layers(self: &Arc<Self>, index: StageIndex) -> Boxed<'_, Vec<Layer>> {
        Box::pin(async move {
            let Some(stage) = self.plan.stage(index) else { return Ok(Vec::new()) };
            let mut layers = match stage.base {
                Base::Scratch => Vec::new(),
                Base::Image(number) => self.image_layers(number),
                Base::Stage(base) => self.stage_layers(base).await?,
            };
            for number in 0..stage.steps.len() {
                let Some(cell) = self.made.get(&(index, number)) else { continue };
                let made = cell.get_or_try_init(|| self.make(stage, number, &layers)).await?;
                layers.push(made.layer.clone());
            }
            Ok(layers)
        })
    }

    /// The layer of a step: from the cache, or made.
    async fn make(
        self: &Arc<Self>,
        stage: &Stage,
        number: usize,
        below: &[Layer],
    ) -> Result<Made, BuildError> {
        let (Some(step), Some(key)) = (stage.steps.get(number), self.keys.get(stage.index, number)) else {
            return Err(BuildError::refused("the plan has no such step"));
        };
        let shown = self.shown(stage, number, step);
        let place = self.place(stage, number);
        if let Some(record) = self.known.get(&(stage.index, number)) {
            let from = "local cache".to_owned();
            self.services.report.event(Event::StepCached { step: shown, from });
            self.cache.remember(&place, &key.parts)?;
            let layer = Layer::of_record(record);
            self.leaves(stage, &layer);
            return Ok(Made { layer, created: record.created.clone() });
        }
        for source in sources(step) {
            if let Source::Stage(index) = source {
                self.stage_layers(*index).await?;
            }
        }
        let Ok(_turn) = self.turns.acquire().await else { return Err(BuildError::Cancelled) };
        let live = Arc::new(self.services.report.step(shown));
        self.keep_files(key)?;
        self.tell_miss(&live, &place, key)?;
        let made = self.execute(stage, number, key, below, &live).await;
        // Nobody else has it any more: what the step was given has been dropped with it.
        let live = Arc::into_inner(live);
        let blob = match made {
            Ok(blob) => blob,
            Err(error) => {
                tell_failure(live, &error);
                return Err(self.located(step, error));
            }
        };
        let created = self.now();
        let record = LayerRecord::of(&blob, &created, &step.title);
        self.cache.put(&key.key, &record)?;
        self.cache.remember(&place, &key.parts)?;
        if let Some(live) = live {
            live.layer(blob.digest, blob.size, blob.diff_size);
            live.done();
        }
        let layer = Layer::of_record(&record);
        self.leaves(stage, &layer);
        Ok(Made { layer, created })
    }

    /// A layer is there: if it is one of the target's, it leaves for the registry. Where nothing is executed there is no
    /// time to be gained by it, and the registry is asked for the whole image first.
    fn leaves(&self, stage: &Stage, layer: &Layer) {
        let mut target = self.plan.stage(self.plan.target);
        while let Some(current) = target {
            if current.index == stage.index
                && let Some(pusher) = self.pusher.as_ref().filter(|_| self.executes)
            {
                pusher.begin(layer);
            }
            target = match current.base {
                Base::Stage(base) => self.plan.stage(base),
                Base::Scratch | Base::Image(_) => None,
            };
        }
    }

    /// The sandbox, found out about when it is first needed.
    pub(super) async fn sandbox(&self) -> Result<Arc<Sandbox>, BuildError> {
        let prepare = || async {
            let launcher = self.services.launcher.clone();
            let emulators = Emulators::clone(&self.emulators);
            let sandbox = blocking(move || Ok(Sandbox::prepare(launcher)?.with_emulators(emulators))).await?;
            let sandbox = Arc::new(sandbox);
            if self.request.require_isolation && sandbox.findings().protection() == Protection::None {
                let what =
                    "steps are to be run only if the kernel confines them, and it has no usable Landlock";
                return Err(SandboxError::Unusable { what: what.to_owned() }.into());
            }
            Ok(sandbox)
        };
        self.sandbox.get_or_try_init(prepare).await.map(Arc::clone)
    }

    /// Refuses a RUN that must be executed above an image for another machine, if nothing here runs the programs of
    /// that one. Above anything else the programs themselves will tell.
    fn refuse_foreign(&self, needed: &BTreeSet<StageIndex>) -> Result<(), BuildError> {
        for stage in self.plan.stages.iter().filter(|stage| needed.contains(&stage.index)) {
            let missing = |(number, step): &(usize, &Step)| {
                matches!(step.operation, Operation::Run(_)) && !self.is_known(stage.index, *number)
            };
            let Some((_, step)) = stage.steps.iter().enumerate().find(missing) else { continue };
            let architecture = stage.config.platform().architecture;
            if !self.base_layers_of(stage.index).is_empty() && !self.emulators.can_run(&architecture) {
                let advice = self.emulators.advice(&architecture);
                let error = SandboxError::Foreign { architecture };
                return Err(self.located_with(step, error.into(), Some(advice)));
            }
        }
        Ok(())
    }

    /// A writer of a layer as this build makes them.
    pub(super) fn layer_writer(&self) -> Result<LayerWriter, BuildError> {
        Ok(LayerWriter::new(&self.services.store, &self.pool, layer_options(&self.request))?)
    }

    /// The target's configuration, and its layers with their times.
    async fn image(self: &Arc<Self>) -> Result<Image, BuildError> {
        let layers = self.stage_layers(self.plan.target).await?;
        let mut times: Vec<Option<String>> = self.times(self.plan.target);
        let unknown = layers.len().saturating_sub(times.len());
        times.splice(0..0, std::iter::repeat_n(None, unknown));
        let Some(stage) = self.plan.stage(self.plan.target) else {
            return Err(BuildError::refused("the plan has no target"));
        };
        let mut config = stage.config.clone();
        if self.request.source_date_epoch.is_some() {
            // Whatever has no time of its own is as old as the source.
            config.created = Some(self.now());
        }
        let platform = stage.platform.clone();
        let annotations = assemble::of(&self.request.annotations, AnnotationPlace::Manifest, Some(&platform));
        Image::new(config, layers.into_iter().zip(times).collect(), annotations)
    }

    /// When the layers of a stage's steps were made, those of the stages it is built upon first.
    fn times(&self, index: StageIndex) -> Vec<Option<String>> {
        let Some(stage) = self.plan.stage(index) else { return Vec::new() };
        let mut times = match stage.base {
            Base::Stage(base) => self.times(base),
            Base::Scratch | Base::Image(_) => Vec::new(),
        };
        times.extend((0..stage.steps.len()).map(|number| {
            let made = self.made.get(&(index, number)).and_then(OnceCell::get);
            made.map(|made| made.created.clone())
        }));
        times
    }

    /// Who pushes, if anything is to be pushed.
    pub(super) fn pusher(&self) -> Option<&Pusher> {
        self.pusher.as_ref()
    }

    /// The platform that is built for.
    pub(super) fn platform(&self) -> Platform {
        self.plan.stage(self.plan.target).map_or_else(Platform::host, |stage| stage.platform.clone())
    }

    /// The stage that is built.
    pub(super) fn target(&self) -> StageIndex {
        self.plan.target
    }

    /// The time that goes into what is made now, RFC 3339.
    fn now(&self) -> String {
        let now = match self.request.source_date_epoch {
            Some(epoch) => jiff::Timestamp::from_second(epoch).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
            None => jiff::Timestamp::now(),
        };
        now.to_string()
    }

    /// The same in seconds since 1970.
    pub(super) fn now_seconds(&self) -> i64 {
        self.request.source_date_epoch.unwrap_or_else(|| jiff::Timestamp::now().as_second())
    }
}

pub(super) fn layer_options(request: &BuildRequest) -> LayerOptions {
    LayerOptions { compression: request.compression, clamp_mtime: request.source_date_epoch }
}
