//! Carries out a plan: looks every step up, executes those that are missing on the way to the target.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use futures_util::future::try_join_all;
use tokio::sync::{OnceCell, Semaphore};

use super::afresh;
use super::assemble::{self, Image};
use super::chosen::Results;
use super::contexts::Contexts;
use super::error::BuildError;
use super::fetch::{Fetcher, blocking, lock};
use super::images::Found;
use super::inputs::{Planned, Text};
use super::keeping::{Keeping, unix_now};
use super::keys::Keys;
use super::layers::{Layer, Origin};
use super::lookup::{Caches, Known, needed_stages};
use super::push::Pusher;
use super::request::{AnnotationPlace, BuildRequest, Services};
use super::roots::Roots;
use super::steps::sources;
use super::told::tell_failure;
use super::transfer;
use crate::cache::{Explanation, LayerRecord};
use crate::image::Platform;
use crate::layer::{LayerOptions, LayerWriter, Pool};
use crate::plan::{Base, Key, Operation, Plan, Remote, Source, Stage, StageIndex, Step, layers_key};
use crate::report::{Event, Started};
use crate::sandbox::{Emulators, Protection, Sandbox, SandboxError};
use crate::store::Workspace;

/// Where a layer is from that this build has made just now, for people.
const FOR_ANOTHER: &str = "made for another stage";

/// A layer that a step made, now or before.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub layer: Layer,
    pub record: LayerRecord,
    /// The key by what was there and not by how it came to be, if the step was looked up by that too.
    pub content: Option<Key>,
    /// Whether the step was carried out just now.
    pub executed: bool,
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
pub(super) struct Shared {
    pub workspace: Arc<Workspace>,
    pub fetcher: Fetcher,
    pub pusher: Pusher,
    pub caches: Caches,
    pub pool: Pool,
    pub sandbox: Arc<OnceCell<Arc<Sandbox>>>,
    pub emulators: LookedFor,
}

/// What runs the programs of other machines here, looked for when it is first asked for.
pub(super) type LookedFor = Arc<LazyLock<Emulators, Box<dyn FnOnce() -> Emulators + Send>>>;

impl Shared {
    /// What runs the programs of other machines here.
    pub fn emulators(&self) -> &Emulators {
        &self.emulators
    }
}

/// What an executor is given besides its plan.
pub(super) struct Given {
    pub shared: Shared,
    pub fetched: BTreeMap<Remote, transfer::Origin>,
    pub part: Part,
}

pub(super) struct Executor {
    pub(super) request: BuildRequest,
    pub(super) services: Arc<Services>,
    pub(super) text: Text,
    pub(super) plan: Plan,
    pub(super) part: Part,
    images: BTreeMap<usize, Found>,
    pub(super) contexts: Arc<Contexts>,
    pub(super) keys: Keys,
    pub(super) caches: Caches,
    /// What was found in the caches, and what of it is used.
    pub(super) results: Results,
    pub(super) known: BTreeMap<(StageIndex, usize), Known>,
    pub(super) made: BTreeMap<(StageIndex, usize), OnceCell<Made>>,
    /// What this build has made, by key and by what it was made above: stages that do the same get the same, and it is done once.
    same: Mutex<HashMap<(Key, Key), Same>>,
    /// What was not looked up in them.
    pub(super) afresh: BTreeSet<(StageIndex, usize)>,
    pub(super) fetcher: Fetcher,
    pub(super) roots: Roots,
    /// The threads that compress; as many read files.
    pub(super) pool: Pool,
    sandbox: Arc<OnceCell<Arc<Sandbox>>>,
    emulators: LookedFor,
    pusher: Pusher,
    pub(super) keeping: Keeping,
    /// Why steps are missing, once it was found out.
    pub(super) explanations: OnceLock<BTreeMap<(StageIndex, usize), Explanation>>,
    /// Whether there is a step to be executed.
    pub(super) executes: bool,
    /// Steps that are executed at one time.
    turns: Semaphore,
}

/// What a step has made, and its turn to make it.
type Same = Arc<tokio::sync::Mutex<Option<Made>>>;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, BuildError>> + Send + 'a>>;

impl Executor {
    /// Opens the contexts, computes all keys and looks them up.
    pub(super) async fn prepare(
        request: BuildRequest,
        services: Arc<Services>,
        text: Text,
        planned: Planned,
        given: Given,
    ) -> Result<Self, BuildError> {
        let Planned { plan, images } = planned;
        let Given { shared, fetched, part } = given;
        let Shared { workspace, fetcher, pusher, caches, pool, sandbox, emulators } = shared;
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
        let afresh = afresh::steps(&plan, &request.no_cache_stages);
        let (results, known) = match request.no_cache {
            true => Default::default(),
            false => caches.look_up(&plan, &keys, &afresh, &fetcher).await?,
        };
        let made = keys.iter().map(|(step, _)| (*step, OnceCell::new())).collect();
        let turns = Semaphore::new(request.parallel.max(1));
        let mut executor = Self {
            text,
            part,
            images,
            contexts,
            keys,
            caches,
            results,
            known,
            afresh,
            made,
            same: Mutex::default(),
            fetcher,
            roots: Roots::new(workspace, services.launcher.clone(), services.keep_roots),
            pool,
            sandbox,
            emulators,
            pusher,
            keeping: Keeping::new(request.cache_to.len()),
            explanations: OnceLock::new(),
            executes: false,
            turns,
            plan,
            request,
            services,
        };
        let executes = executor.missing_steps(&executor.needed_stages()).next().is_some();
        executor.executes = executes;
        Ok(executor)
    }

    /// Brings the layers of the stages that are needed, and makes the image. `runs` says whether there is a RUN to be executed.
    pub(super) async fn run(
        self: &Arc<Self>,
        needed: &BTreeSet<StageIndex>,
        runs: bool,
    ) -> Result<Image, BuildError> {
        self.tell_start(needed, runs).await?;
        if self.executes {
            let check = async {
                match self.pusher() {
                    Some(pusher) => pusher.check().await,
                    None => Ok(()),
                }
            };
            futures_util::future::try_join3(check, self.learn_traces(), self.bring_indexes(needed)).await?;
            self.explain_missing()?;
        }
        if self.request.explain {
            self.tell_explanations(&self.services.report)?;
        }
        if let Some(pusher) = self.pusher().filter(|_| self.executes) {
            let base = self.base_layers_of(self.plan.target);
            for layer in base.into_iter().filter(|layer| !self.is_recompressed(layer)) {
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

    /// Brings what will be asked first of the images that files are to be copied into, as far as it can be had alone.
    async fn bring_indexes(&self, needed: &BTreeSet<StageIndex>) -> Result<(), BuildError> {
        let copies = |stage: &&Stage| {
            let first = (0..stage.steps.len()).find(|number| !self.is_known(stage.index, *number));
            let step = first.and_then(|number| stage.steps.get(number));
            needed.contains(&stage.index)
                && step.is_some_and(|step| !matches!(step.operation, Operation::Run(_)))
        };
        let stages = self.plan.stages.iter().filter(copies);
        let brought = stages.map(|stage| async {
            let layers = self.known_layers(stage.index);
            self.fetcher.bring_indexes(&layers).await
        });
        try_join_all(brought).await.map(drop)
    }

    /// The layers of a stage from its base up to the first step whose result is not known.
    fn known_layers(&self, index: StageIndex) -> Vec<Layer> {
        let Some(stage) = self.plan.stage(index) else { return Vec::new() };
        let mut layers = match stage.base {
            Base::Scratch => Vec::new(),
            Base::Image(number) => self.image_layers(number),
            Base::Stage(base) => self.known_layers(base),
        };
        let known = (0..stage.steps.len()).map_while(|number| self.known.get(&(index, number)));
        layers.extend(known.map(|known| known.layer.clone()));
        layers
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

    /// The stages whose layers are needed.
    pub(super) fn needed_stages(&self) -> BTreeSet<StageIndex> {
        needed_stages(&self.plan, |stage, step| self.is_known(stage, step))
    }

    /// Their steps that are in no cache.
    pub(super) fn missing_steps<'a>(
        &'a self,
        needed: &'a BTreeSet<StageIndex>,
    ) -> impl Iterator<Item = &'a Step> {
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
    pub(super) fn base_layers_of(&self, index: StageIndex) -> Vec<Layer> {
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
                self.keep(stage, number, made);
                layers.push(made.layer.clone());
            }
            Ok(layers)
        })
    }

    /// The layer of a step: from a cache, or made.
    async fn make(
        self: &Arc<Self>,
        stage: &Stage,
        number: usize,
        below: &[Layer],
    ) -> Result<Made, BuildError> {
        let (Some(step), Some(key)) = (stage.steps.get(number), self.keys.get(stage.index, number)) else {
            return Err(BuildError::refused("the plan has no such step"));
        };
        let above = self.above(stage, below);
        if let Some(known) = self.known_above((stage.index, number), step, &above) {
            return self.found(stage, number, known, None, above);
        }
        for source in sources(step) {
            if let Source::Stage(index) = source {
                self.stage_layers(*index).await?;
            }
        }
        let same = Arc::clone(lock(&self.same).entry((key.key, above)).or_default());
        let mut same = same.lock().await;
        if let Some(Made { layer, record, content, executed }) = &*same {
            let from = FOR_ANOTHER.to_owned();
            let known = Known { layer: layer.clone(), record: record.clone(), from };
            let found = self.found(stage, number, &known, None, above)?;
            return Ok(Made { content: *content, executed: *executed, ..found });
        }
        let made = self.carry_out(stage, number, below, above).await?;
        *same = Some(made.clone());
        Ok(made)
    }

    /// The layer of a step that no cache has by its first key: by what is there, or made.
    async fn carry_out(
        self: &Arc<Self>,
        stage: &Stage,
        number: usize,
        below: &[Layer],
        above: Key,
    ) -> Result<Made, BuildError> {
        let (Some(step), Some(key)) = (stage.steps.get(number), self.keys.get(stage.index, number)) else {
            return Err(BuildError::refused("the plan has no such step"));
        };
        let Ok(_turn) = self.turns.acquire().await else { return Err(BuildError::Cancelled) };
        let taken = self.with_contents(step, key).await.map_err(|error| self.located(step, error))?;
        let key = taken.as_ref().unwrap_or(key);
        let content = self.content_key(stage, number, key, below);
        if let Some(content) = &content
            && !self.request.no_cache
            && !afresh::is_meant(stage.name.as_deref(), &self.request.no_cache_stages)
            && let Some(known) =
                self.caches.result(content, self.may_be_elsewhere(stage, number), &self.fetcher).await?
        {
            return self.found(stage, number, &known, Some(*content), above);
        }
        let live = Arc::new(self.services.report.step(self.shown(stage, number, step)));
        let place = self.place(stage, number);
        self.keep_files(key)?;
        // Of what is not looked up nothing is amiss.
        if !self.afresh.contains(&(stage.index, number)) {
            self.tell_miss(&live, stage, number);
        }
        self.keeping.executed.store(true, Ordering::Relaxed);
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
        let record = LayerRecord {
            above: Some(above),
            ..LayerRecord::of(&blob, &self.now(), unix_now(), &step.title)
        };
        let cache = self.caches.store();
        for key in [Some(key.key), content].into_iter().flatten() {
            cache.put(&key, &record)?;
        }
        cache.remember(&place, &key.parts)?;
        if let Some(live) = live {
            live.layer(blob.digest, blob.size, blob.diff_size);
            live.done();
        }
        let layer = Layer::of_record(&record);
        self.pusher.note_new(layer.digest);
        self.leaves(stage, &layer);
        let made = Made { layer, record, content, executed: true };
        self.keep_below(stage, number, &made)?;
        Ok(made)
    }

    /// The layers that steps have made below a step, given all that are below it: where what a step made counts.
    fn above(&self, stage: &Stage, below: &[Layer]) -> Key {
        let of_steps = below.iter().skip(self.base_layers_of(stage.index).len());
        layers_key(&of_steps.map(|layer| layer.diff_id).collect::<Vec<_>>())
    }

    /// The result of a step that was found when keys were looked up, or that turns out to be one now that what is below has been
    /// carried out. What takes files from a stage is then found by these files alone, for that stage may be another as well.
    fn known_above(&self, at: (StageIndex, usize), step: &Step, above: &Key) -> Option<&Known> {
        let takes_files = || sources(step).into_iter().any(|source| matches!(source, Source::Stage(_)));
        let known = self.known.get(&at);
        known.or_else(|| if takes_files() { None } else { self.results.above(at, above) })
    }

    /// The layer of a step whose result was found.
    fn found(
        &self,
        stage: &Stage,
        number: usize,
        known: &Known,
        content: Option<Key>,
        above: Key,
    ) -> Result<Made, BuildError> {
        let (Some(step), Some(key)) = (stage.steps.get(number), self.keys.get(stage.index, number)) else {
            return Err(BuildError::refused("the plan has no such step"));
        };
        let Known { record, layer, from } = known;
        let from = match content {
            Some(_) => format!("{from}, by the same content"),
            None => from.clone(),
        };
        self.services.report.event(Event::StepCached { step: self.shown(stage, number, step), from });
        let cache = self.caches.store();
        cache.remember(&self.place(stage, number), &key.parts)?;
        // What is in the store by this very key has its record there, and its list of files.
        let is_of_key = layer.origin == Origin::Store && content.is_none();
        if !is_of_key {
            self.keep_files(key)?;
        }
        let is_noted = is_of_key && record.above == Some(above);
        let record = LayerRecord { above: Some(above), ..record.clone() };
        // It counts from the moment on that the blob is here. Until then another result, which is, is worth more.
        let is_here = || self.services.store.holds(&record.digest, record.size);
        if !is_noted && (is_here()? || cache.layer(&key.key)?.is_none()) {
            cache.put(&key.key, &record)?;
        }
        self.leaves(stage, layer);
        Ok(Made { layer: layer.clone(), record, content, executed: false })
    }

    /// A layer is there: if it is one of the target's, it leaves for the registry. Where nothing is executed there is no
    /// time to be gained by it, and the registry is asked for the whole image first.
    fn leaves(&self, stage: &Stage, layer: &Layer) {
        if let Some(pusher) = self.pusher().filter(|_| self.executes && self.is_of_target(stage.index)) {
            pusher.begin(layer);
        }
    }

    /// Whether the layers of a stage are the image's.
    pub(super) fn is_of_target(&self, stage: StageIndex) -> bool {
        let mut target = self.plan.stage(self.plan.target);
        while let Some(current) = target {
            if current.index == stage {
                return true;
            }
            target = match current.base {
                Base::Stage(base) => self.plan.stage(base),
                Base::Scratch | Base::Image(_) => None,
            };
        }
        false
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
    pub(super) fn refuse_foreign(&self, needed: &BTreeSet<StageIndex>) -> Result<(), BuildError> {
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
        config.settle_platform(self.request.platforms.first());
        if self.request.source_date_epoch.is_some() {
            // Whatever has no time of its own is as old as the source.
            config.created = Some(self.now());
        }
        let platform = stage.platform.clone();
        let mut annotations =
            assemble::of(&self.request.annotations, AnnotationPlace::Manifest, Some(&platform));
        annotations.extend(self.inline_cache(stage)?);
        let layers = self.compressed_alike(layers).await?;
        let layers = layers.into_iter().zip(times).collect();
        Image::new(config, layers, annotations, self.request.media_types)
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
            made.map(|made| made.record.created.clone())
        }));
        times
    }

    /// Who pushes, if anything is to be pushed.
    pub(super) fn pusher(&self) -> Option<&Pusher> {
        Some(&self.pusher).filter(|pusher| !pusher.names().is_empty())
    }

    /// Who pushes to caches.
    pub(super) fn cache_pusher(&self) -> &Pusher {
        &self.pusher
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
        self.request.source_date_epoch.unwrap_or_else(unix_now)
    }
}

pub(super) fn layer_options(request: &BuildRequest) -> LayerOptions {
    LayerOptions { compression: request.compression, clamp_mtime: request.source_date_epoch }
}
