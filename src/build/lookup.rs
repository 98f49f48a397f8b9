//! Results that are known before anything runs: those of the store, and those of the caches that are looked into.
//!
//! A cache is asked for the last step of the target first, because its answer tells of all steps below; only if it has none,
//! for others, a few at a time, until it is known how far it goes. A cache that cannot be asked is told of once, and left alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};

use super::chosen::{At, Results};
use super::error::BuildError;
use super::fetch::{Fetcher, KnownIndex};
use super::keeping::unix_now;
use super::keys::{Keys, StepKey};
use super::layers::{CachedAt, Layer, Origin};
use super::request::{BuildRequest, CachePlace, CacheSource, Services};
use super::steps::sources;
use crate::cache::{Chain, ChainStep, Found, LayerRecord, LocalCache, PackedIndex, RegistryCache};
use crate::image::{Platform, Reference};
use crate::plan::{Base, Key, Plan, Source, StageIndex};
use crate::registry::RegistryError;
use crate::report::Report;
use crate::store::{Store, StoreError};

/// Questions that one cache is asked at a time.
const AT_ONCE: usize = 16;

/// Questions of a stage that are asked at a time while it is being found out how far it is known.
const SPACED: usize = 6;

/// The result of a step that need not be carried out.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub record: LayerRecord,
    pub layer: Layer,
    /// Where it was found, for people.
    pub from: String,
}

/// The stages whose layers are needed: the target, what it is built upon, and what steps take files from that must be
/// executed.
pub(super) fn needed_stages(
    plan: &Plan,
    is_known: impl Fn(StageIndex, usize) -> bool,
) -> BTreeSet<StageIndex> {
    let mut needed = BTreeSet::new();
    let mut open = vec![plan.target];
    while let Some(index) = open.pop() {
        let Some(stage) = plan.stage(index).filter(|_| needed.insert(index)) else { continue };
        if let Base::Stage(base) = stage.base {
            open.push(base);
        }
        for (number, step) in stage.steps.iter().enumerate() {
            if !is_known(index, number) {
                open.extend(sources(step).into_iter().filter_map(|source| match source {
                    Source::Stage(stage) => Some(*stage),
                    _ => None,
                }));
            }
        }
    }
    needed
}

/// The caches of a build.
#[derive(Debug, Clone)]
pub(super) struct Caches {
    store: LocalCache,
    sources: Arc<Vec<Looked>>,
    /// Results from before are not used; seconds since 1970.
    oldest: Option<i64>,
    report: Report,
}

/// A cache that is looked into.
#[derive(Debug)]
struct Looked {
    place: Place,
    failed: AtomicBool,
}

#[derive(Debug)]
enum Place {
    Registry { cache: RegistryCache, image: Option<Reference> },
    Directory { path: PathBuf, store: Store, cache: LocalCache },
}

/// What a cache has answered.
struct Answer {
    steps: Vec<ChainStep>,
    indexes: Vec<PackedIndex>,
    at: CachedAt,
}

impl Caches {
    /// The caches of a request.
    ///
    /// # Errors
    /// If a directory has a store of another format.
    pub fn open(request: &BuildRequest, services: &Services) -> Result<Self, BuildError> {
        let mut sources = Vec::new();
        for source in request.cache_from.iter().filter(|_| !request.no_cache) {
            let place = match source {
                CacheSource::Registry { repository, image } => Place::Registry {
                    cache: RegistryCache::new(&services.client, repository),
                    image: image.clone(),
                },
                CacheSource::Directory(path) => match open_directory(path, &services.report)? {
                    Some(store) => {
                        Place::Directory { path: path.clone(), cache: LocalCache::new(&store), store }
                    }
                    None => continue,
                },
            };
            sources.push(Looked { place, failed: AtomicBool::new(false) });
        }
        for sink in &request.cache_to {
            // It may lie in the context, which is to be the same in this build and in the next. If it cannot be made, that is
            // said when something is to be put there.
            if let CachePlace::Directory(path) = &sink.place {
                let _ = std::fs::create_dir_all(path);
            }
        }
        let age = request.cache_ttl.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        Ok(Self {
            store: LocalCache::new(&services.store),
            sources: Arc::new(sources),
            oldest: age.map(|age| unix_now().saturating_sub(age)),
            report: services.report.clone(),
        })
    }

    /// The results that are in the store.
    pub fn store(&self) -> &LocalCache {
        &self.store
    }

    /// Those that are registries.
    pub fn registries(&self) -> impl Iterator<Item = &RegistryCache> {
        self.sources.iter().filter_map(|source| match &source.place {
            Place::Registry { cache, .. } if !source.failed.load(Ordering::Relaxed) => Some(cache),
            Place::Registry { .. } | Place::Directory { .. } => None,
        })
    }

    /// The same without those beside the store.
    pub fn alone(&self) -> Self {
        Self { sources: Arc::default(), ..self.clone() }
    }

    /// Whether there are any beside the store.
    pub fn has_others(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Looks up what can be known of the results of a plan's steps, but for those that are to be carried out `afresh`. Gives all that
    /// was found, and what of it is to be used.
    ///
    /// # Errors
    /// If the store cannot be read, or what is to be a cache can never be one.
    pub async fn look_up(
        &self,
        plan: &Plan,
        keys: &Keys,
        afresh: &BTreeSet<At>,
        fetcher: &Fetcher,
    ) -> Result<(Results, BTreeMap<At, Known>), BuildError> {
        let mut results = Results::default();
        let looked_up = || keys.iter().filter(|(step, _)| !afresh.contains(step));
        for (step, key) in looked_up() {
            if let Some(found) = self.in_store(&key.key)? {
                self.sort(*step, found, &mut results);
            }
        }
        let mut known = results.choose(plan);
        if self.sources.is_empty() {
            return Ok((results, known));
        }
        if looked_up().any(|(step, _)| !known.contains_key(step)) {
            self.look_into_directories(looked_up(), &mut results);
            known = results.choose(plan);
        }
        self.lend_indexes(fetcher);
        let mut by_key: HashMap<Key, Vec<At>> = HashMap::new();
        for (step, key) in looked_up() {
            by_key.entry(key.key).or_default().push(*step);
        }
        let mut asked: BTreeSet<Key> = BTreeSet::new();
        let mut questions: Vec<Key> =
            last_unknown(plan, keys, &known, last_of_target(plan)).into_iter().collect();
        // If all is in the store there is nothing to ask.
        let mut images = if questions.is_empty() { Vec::new() } else { self.images(plan) };
        while !questions.is_empty() {
            asked.extend(questions.iter().copied());
            let answers = stream::iter(questions.iter().map(|key| self.ask(*key)))
                .buffer_unordered(AT_ONCE)
                .filter_map(std::future::ready)
                .collect::<Vec<Answer>>();
            let of_images = join_all(std::mem::take(&mut images));
            let (answers, of_images) = futures_util::future::join(answers, of_images).await;
            let of_images = of_images.into_iter().collect::<Result<Vec<_>, _>>()?;
            for answer in answers.into_iter().chain(of_images.into_iter().flatten()) {
                self.take(answer, &by_key, fetcher, &mut results);
            }
            known = results.choose(plan);
            questions = next_questions(plan, keys, &known, &asked);
        }
        Ok((results, known))
    }

    /// What directories have: an entry there tells of one step alone, and to look costs nothing.
    fn look_into_directories<'k>(
        &self,
        wanted: impl Iterator<Item = (&'k At, &'k StepKey)>,
        results: &mut Results,
    ) {
        for (step, key) in wanted {
            let answers = self.sources.iter().filter_map(|source| in_directory(source, key.key));
            for answer in answers {
                let found = answer.steps.iter().map(|found| known_at(&found.record, &answer.at));
                found.for_each(|found| self.sort(*step, found, results));
            }
        }
    }

    /// The result of a step by one key alone: from the store, or if `everywhere`, from the others.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn result(
        &self,
        key: &Key,
        everywhere: bool,
        fetcher: &Fetcher,
    ) -> Result<Option<Known>, BuildError> {
        if let Some(found) = self.in_store(key)?.filter(|found| self.is_fresh(&found.record)) {
            return Ok(Some(found));
        }
        if !everywhere {
            return Ok(None);
        }
        let Some(answer) = self.ask(*key).await else { return Ok(None) };
        learn_indexes(&answer, fetcher);
        let Some(step) = answer.steps.last().filter(|step| self.is_fresh(&step.record)) else {
            return Ok(None);
        };
        Ok(Some(known_at(&step.record, &answer.at)))
    }

    fn in_store(&self, key: &Key) -> Result<Option<Known>, BuildError> {
        let Some(record) = self.store.layer(key)? else { return Ok(None) };
        let (layer, from) = (Layer::of_record(&record), "local cache".to_owned());
        Ok(Some(Known { record, layer, from }))
    }

    /// Adds a result, if it is not too old.
    fn sort(&self, at: At, found: Known, results: &mut Results) {
        match self.is_fresh(&found.record) {
            true => results.add(at, found),
            false => results.add_stale(at),
        }
    }

    fn is_fresh(&self, record: &LayerRecord) -> bool {
        self.oldest.is_none_or(|oldest| record.made >= oldest)
    }

    fn take(&self, answer: Answer, by_key: &HashMap<Key, Vec<At>>, fetcher: &Fetcher, results: &mut Results) {
        learn_indexes(&answer, fetcher);
        for step in &answer.steps {
            for at in by_key.get(&step.key).into_iter().flatten() {
                self.sort(*at, known_at(&step.record, &answer.at), results);
            }
        }
    }

    /// Asks all caches for a key. The first that has it counts.
    async fn ask(&self, key: Key) -> Option<Answer> {
        let all = self.sources.iter().map(|source| self.ask_one(source, key));
        join_all(all).await.into_iter().flatten().next()
    }

    async fn ask_one(&self, source: &Looked, key: Key) -> Option<Answer> {
        if source.failed.load(Ordering::Relaxed) {
            return None;
        }
        match &source.place {
            Place::Registry { cache, .. } => {
                let chain = self.or_told(source, cache, cache.chain(&key).await)?;
                Some(answer(chain?, cache))
            }
            Place::Directory { .. } => in_directory(source, key),
        }
    }

    /// What the images say of their own steps that may be caches.
    fn images<'a>(
        &'a self,
        plan: &Plan,
    ) -> Vec<impl Future<Output = Result<Option<Answer>, BuildError>> + 'a> {
        let platform = plan.stage(plan.target).map_or_else(Platform::host, |stage| stage.platform.clone());
        let of = |source: &'a Looked| match &source.place {
            Place::Registry { cache, image: Some(image) } => Some((source, cache, image, platform.clone())),
            _ => None,
        };
        let images: Vec<_> = self.sources.iter().filter_map(of).collect();
        images
            .into_iter()
            .map(|(source, cache, image, platform)| async move {
                match self.or_told(source, cache, cache.of_image(image, &platform).await) {
                    Some(Found::Chain(chain)) => Ok(Some(answer(chain, cache))),
                    Some(Found::BuildKit) => Err(BuildError::Refused {
                        what: format!(
                            "`{image}` is a cache of BuildKit, whose keys only BuildKit can compute"
                        ),
                        hint: Some("share results in a repository with `--cache-repo`".to_owned()),
                    }),
                    Some(Found::Other) | None => Ok(None),
                }
            })
            .collect()
    }

    /// Tells of a failure, the first time.
    fn or_told<T>(
        &self,
        source: &Looked,
        cache: &RegistryCache,
        asked: Result<T, RegistryError>,
    ) -> Option<T> {
        match asked {
            Ok(found) => Some(found),
            Err(error) => {
                if !source.failed.swap(true, Ordering::Relaxed) {
                    let text = format!("the cache {} cannot be used: {error}", cache.repository());
                    match error.hint() {
                        Some(hint) => self.report.warn_with(text, hint),
                        None => self.report.warn(text),
                    }
                }
                None
            }
        }
    }

    fn lend_indexes(&self, fetcher: &Fetcher) {
        for source in self.sources.iter() {
            if let Place::Directory { store, .. } = &source.place {
                fetcher.borrow_indexes(store);
            }
        }
    }
}

/// The store of a directory that is a cache. It is only read: the volume may be mounted so, or be somebody else's.
///
/// # Errors
/// If it has another format: what reads it is to be replaced, or the directory was named by mistake.
fn open_directory(path: &Path, report: &Report) -> Result<Option<Store>, BuildError> {
    match Store::open_read_only(path) {
        Ok(store) => Ok(Some(store)),
        // The first build of all finds none.
        Err(StoreError::NotALayout(_)) => {
            report.note(format!("there is no cache in `{}` yet", path.display()));
            Ok(None)
        }
        Err(error @ StoreError::Version { .. }) => Err(error.into()),
        Err(error) => {
            let why = error.source().map_or_else(String::new, |source| format!(": {source}"));
            report.warn(format!("the cache in `{}` cannot be used: {error}{why}", path.display()));
            Ok(None)
        }
    }
}

/// What a directory says of a key.
fn in_directory(source: &Looked, key: Key) -> Option<Answer> {
    let Place::Directory { path, cache, .. } = &source.place else { return None };
    match cache.layer(&key) {
        Ok(record) => {
            let steps = vec![ChainStep { key, record: record? }];
            Some(Answer { steps, indexes: Vec::new(), at: CachedAt::Directory(path.clone()) })
        }
        Err(error) => {
            tracing::warn!(%error, "a cache cannot be read");
            None
        }
    }
}

fn answer(chain: Chain, cache: &RegistryCache) -> Answer {
    let at = CachedAt::Registry(cache.repository().clone());
    let indexes = chain.indexes.clone();
    Answer { steps: chain.into_steps(), indexes, at }
}

fn known_at(record: &LayerRecord, at: &CachedAt) -> Known {
    let layer = Layer::of_record(record).at(Origin::Cache(at.clone()));
    Known { record: record.clone(), layer, from: at.to_string() }
}

fn learn_indexes(answer: &Answer, fetcher: &Fetcher) {
    let CachedAt::Registry(repository) = &answer.at else { return };
    for index in &answer.indexes {
        fetcher.learn_index(KnownIndex { packed: index.clone(), repository: repository.clone() });
    }
}

/// The stage that has the target's last step: the target, or what it is built upon if it has none of its own.
fn last_of_target(plan: &Plan) -> StageIndex {
    let mut index = plan.target;
    while let Some(Base::Stage(base)) =
        plan.stage(index).filter(|stage| stage.steps.is_empty()).map(|stage| &stage.base)
    {
        index = *base;
    }
    index
}

/// The key of a stage's last step, if its result is not known.
fn last_unknown(plan: &Plan, keys: &Keys, known: &BTreeMap<At, Known>, index: StageIndex) -> Option<Key> {
    let last = plan.stage(index)?.steps.len().checked_sub(1)?;
    let key = keys.get(index, last)?.key;
    (!known.contains_key(&(index, last))).then_some(key)
}

/// What is to be asked when `asked` has been: of each stage that is needed the last step, then a few that are far apart, then
/// those between the last that is known and the next that is not. Whoever has a step has those below it; but entries go as they
/// come, so if none is found by that, the rest is asked for.
fn next_questions(plan: &Plan, keys: &Keys, known: &BTreeMap<At, Known>, asked: &BTreeSet<Key>) -> Vec<Key> {
    let mut questions = BTreeSet::new();
    for index in needed_stages(plan, |stage, step| known.contains_key(&(stage, step))) {
        match last_unknown(plan, keys, known, index) {
            Some(last) if !asked.contains(&last) => {
                questions.insert(last);
            }
            _ => {
                let steps = plan.stage(index).map_or(0, |stage| stage.steps.len());
                let step = |step: usize| match (keys.get(index, step), known.contains_key(&(index, step))) {
                    (_, true) => Asked::Known,
                    (Some(key), _) if !asked.contains(&key.key) => Asked::NotYet,
                    _ => Asked::InVain,
                };
                let steps: Vec<Asked> = (0..steps).map(step).collect();
                questions.extend(
                    next_steps(&steps)
                        .into_iter()
                        .filter_map(|step| keys.get(index, step))
                        .map(|key| key.key),
                );
            }
        }
    }
    questions.into_iter().filter(|key| !asked.contains(key)).collect()
}

/// What is known of a step's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Known,
    NotYet,
    InVain,
}

/// The steps of a stage that are to be asked for next.
fn next_steps(steps: &[Asked]) -> Vec<usize> {
    let open = |range: std::ops::Range<usize>| {
        let of = steps.get(range.clone()).unwrap_or_default();
        let open = range.zip(of).filter(|(_, asked)| **asked == Asked::NotYet);
        open.map(|(number, _)| number).collect::<Vec<_>>()
    };
    let is_known = |asked: &Asked| *asked == Asked::Known;
    let from = steps.iter().rposition(is_known).map_or(0, |known| known + 1);
    let vain = steps.iter().skip(from).position(|asked| *asked == Asked::InVain);
    let between = open(from..vain.map_or(steps.len(), |vain| from + vain));
    // The store may have lost some that are below others.
    let lost = open(0..from);
    let between = match between.is_empty() && !steps.iter().any(is_known) {
        true => return open(0..steps.len()),
        false => between,
    };
    let spaced: Vec<usize> = match between.len() {
        0..=SPACED => between,
        count => (1..=SPACED).filter_map(|part| between.get(part * count / (SPACED + 1))).copied().collect(),
    };
    lost.into_iter().chain(spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Asks for a stage of which those steps are in the cache that `has` says, each of which tells of all below. Gives the numbers of
    /// rounds and of questions, and the last step that is known.
    fn ask(count: usize, has: impl Fn(usize) -> bool) -> (usize, usize, Option<usize>) {
        let mut steps = vec![Asked::NotYet; count];
        let (mut rounds, mut questions) = (0, 0);
        let mut next = vec![count - 1];
        while !next.is_empty() {
            (rounds, questions) = (rounds + 1, questions + next.len());
            for step in next {
                assert_eq!(steps[step], Asked::NotYet, "{step} is asked for once");
                steps[step] = Asked::InVain;
                if has(step) {
                    steps[..=step].fill(Asked::Known);
                }
            }
            next = if steps[count - 1] == Asked::Known { Vec::new() } else { next_steps(&steps) };
        }
        (rounds, questions, steps.iter().rposition(|asked| *asked == Asked::Known))
    }

    #[rstest]
    #[case(1)]
    #[case(4)]
    #[case(7)]
    #[case(40)]
    #[case(127)]
    fn the_last_step_that_is_there_is_found(#[case] count: usize) {
        for end in 0..=count {
            let (rounds, questions, last) = ask(count, |step| step < end);
            assert_eq!(last, end.checked_sub(1), "{count} steps, {end} there");
            if end == count {
                assert_eq!((rounds, questions), (1, 1));
            } else if end > 0 {
                assert!(
                    rounds <= 4 && questions <= 20,
                    "{count}, {end}: {rounds} rounds, {questions} questions"
                );
            }
            // One that has outlived those below it is found as well.
            if let Some(only) = end.checked_sub(1) {
                assert_eq!(ask(count, |step| step == only).2, Some(only));
            }
        }
        assert_eq!(ask(count, |_| false).1, count);
    }

    #[test]
    fn what_is_lost_below_others_is_asked_for() {
        use Asked::{InVain, Known, NotYet};
        assert_eq!(next_steps(&[Known, NotYet, Known, NotYet, NotYet, InVain]), [1, 3, 4]);
        assert_eq!(next_steps(&[NotYet, Known]), [0]);
        assert_eq!(next_steps(&[Known, InVain, Known, InVain]), [0; 0]);
    }
}
