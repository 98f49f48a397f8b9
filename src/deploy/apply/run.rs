//! Trying and applying.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::Value;

use super::MANAGER;
use super::failure::{Failure, FailureKind, sorted};
use super::fields::is_below;
use super::migrate;
use super::order::{DEFINITIONS, WAVES};
use super::resolve::Target;
use crate::deploy::cluster::{ApiError, Applied, Cluster, PatchKind, Refusal, forget_managers};
use crate::deploy::error::DeployError;
use crate::deploy::object::ObjectId;

/// Objects that are under way at one time. The client has a limit of its own for requests.
const AT_ONCE: usize = 16;
/// How long what passes by itself is waited for: races at quotas, a service account that a new namespace is about to get.
const PASSING: Duration = Duration::from_secs(20);
/// How long a definition may take until its kind is served.
const SERVED: Duration = Duration::from_secs(60);
/// How long an object that is being deleted is waited for.
const GONE: Duration = Duration::from_secs(60);
/// How often something is looked at again.
const PAUSE: Duration = Duration::from_millis(200);

/// Whose fields are overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Force {
    /// Nobody's.
    #[default]
    No,
    /// Everybody's.
    All,
    /// Those at and below these paths.
    Paths(Vec<String>),
}

/// What is done about fields that the server does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    /// They are an error.
    #[default]
    Strict,
    /// They are warned of and dropped.
    Warn,
    /// They are dropped.
    Ignore,
}

impl Validation {
    fn name(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Warn => "Warn",
            Self::Ignore => "Ignore",
        }
    }
}

/// How objects are applied.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// Whose fields are overwritten.
    pub force: Force,
    /// What is done about unknown fields.
    pub validation: Validation,
    /// Managers that are taken over from, besides who has applied on the client.
    pub take_over: Vec<String>,
    /// Whether objects are changed that a GitOps controller owns.
    pub take_from_gitops: bool,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Created,
    /// It has changed.
    Configured,
    /// It was as it is to be.
    Unchanged,
}

impl Action {
    /// As kubectl says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What an object has come to, in a dry run or for good.
#[derive(Debug, Clone)]
pub struct Done {
    /// Which object.
    pub id: ObjectId,
    /// What became of it. In a dry run of an object that is there, [`Action::Configured`] stands for either.
    pub action: Action,
    /// The object as the server has answered it; null for one that could not be tried. Its managed fields, which are half
    /// of it, are left out but for a dry run of one that is to be taken over.
    pub object: Value,
    /// What the server warns of.
    pub warnings: Vec<String>,
    /// Who was taken over from.
    pub taken_from: Vec<String>,
    /// Who is to be taken over from, as a dry run has shown.
    earlier: Vec<String>,
}

impl Done {
    /// The generation that was applied; nothing for kinds that do not count.
    pub fn generation(&self) -> Option<i64> {
        self.object.pointer("/metadata/generation").and_then(Value::as_i64)
    }

    /// Lets go of what only a comparison needs: to apply after a dry run its metadata is enough. There may be thousands.
    pub fn forget_content(&mut self) {
        if let Some(fields) = self.object.as_object_mut() {
            fields.retain(|name, _| name == "metadata");
        }
    }

    fn version(&self) -> Option<&str> {
        self.object.pointer("/metadata/resourceVersion").and_then(Value::as_str)
    }
}

/// Has the server do everything but keep it; `warn` is told what it warns of, whether it takes the object or not.
///
/// # Errors
/// [`DeployError::Apply`] with everything that is wrong; or if the cluster cannot be reached.
pub async fn try_all(
    cluster: &Cluster,
    targets: &[Target],
    options: &ApplyOptions,
    warn: impl Fn(&ObjectId, &str),
) -> Result<Vec<Done>, DeployError> {
    let tries = targets.iter().map(|target| try_as_far(cluster, target, options));
    let tried: Vec<Result<Done, Failure>> = stream::iter(tries).buffered(AT_ONCE).try_collect().await?;
    for outcome in &tried {
        // What a refused object is warned of may be why it was refused.
        let (id, warnings) = match outcome {
            Ok(done) => (&done.id, &done.warnings),
            Err(failure) => (&failure.id, &failure.warnings),
        };
        warnings.iter().for_each(|warning| warn(id, warning));
    }
    outcomes(tried)
}

/// Applies, wave by wave; `tried` is what the dry run has shown, in the same order.
///
/// # Errors
/// [`DeployError::Apply`] with everything that is wrong in the wave that failed; what went before it is done, and `tell`
/// has been told. `warn` is told what the server warns of where that could not be tried before.
pub async fn apply_all(
    cluster: &Cluster,
    targets: &[Target],
    tried: &[Done],
    options: &ApplyOptions,
    tell: impl Fn(&Done) + Sync,
    warn: impl Fn(&ObjectId, &str) + Sync,
) -> Result<Vec<Done>, DeployError> {
    let untried: BTreeSet<&ObjectId> =
        tried.iter().filter(|done| done.object.is_null()).map(|done| &done.id).collect();
    let mut done = Vec::with_capacity(targets.len());
    for wave in 0..WAVES {
        let members = targets.iter().zip(tried).filter(|(target, _)| target.wave == wave);
        let work = members.map(|(target, tried)| async {
            settle(target, apply_one(cluster, target, tried, options).await)
        });
        // Side by side, and told in the order of the manifests.
        let told = stream::iter(work).buffered(AT_ONCE).inspect(|outcome| {
            if let Ok(Ok(done)) = outcome {
                tell(done);
                let warnings = done.warnings.iter().filter(|_| untried.contains(&done.id));
                warnings.for_each(|warning| warn(&done.id, warning));
            }
        });
        let through = outcomes(told.try_collect().await?)?;
        if wave == DEFINITIONS && targets.iter().any(|target| target.is_ahead) {
            until_served(cluster, targets).await?;
        }
        done.extend(through);
    }
    Ok(done)
}

/// What an object has come to, or what ends the run: a cluster that has not answered for a minute is not asked about the
/// next hundred objects.
type Outcome = Result<Result<Done, Failure>, ApiError>;

/// All of the results, or all of the failures.
fn outcomes(outcomes: Vec<Result<Done, Failure>>) -> Result<Vec<Done>, DeployError> {
    let mut done = Vec::with_capacity(outcomes.len());
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(one) => done.push(one),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(done) } else { Err(DeployError::Apply(failures)) }
}

fn settle(target: &Target, outcome: Result<Done, Stop>) -> Outcome {
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(Stop::Failure(failure)) => Ok(Err(*failure)),
        Err(Stop::Api(error)) => sorted(target, error).map(Err),
    }
}

/// Why work on an object has come to its end.
enum Stop {
    Failure(Box<Failure>),
    Api(ApiError),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl From<Box<Failure>> for Stop {
    fn from(failure: Box<Failure>) -> Self {
        Self::Failure(failure)
    }
}

/// Tries an object, if it can be; one that is refused may have come early.
async fn try_as_far(cluster: &Cluster, target: &Target, options: &ApplyOptions) -> Outcome {
    if target.is_ahead {
        return Ok(Ok(untried(target, Action::Created)));
    }
    match settle(target, try_one(cluster, target, options).await)? {
        Err(failure) if target.may_be_early && failure.kind == FailureKind::Refused => {
            let is_there = cluster.find(&target.path).await?.is_some();
            Ok(Ok(untried(target, if is_there { Action::Configured } else { Action::Created })))
        }
        outcome => Ok(outcome),
    }
}

/// An object that cannot be tried because something of the same run has to be there first.
fn untried(target: &Target, action: Action) -> Done {
    Done {
        id: target.id.clone(),
        action,
        object: Value::Null,
        warnings: Vec::new(),
        taken_from: Vec::new(),
        earlier: Vec::new(),
    }
}

async fn try_one(cluster: &Cluster, target: &Target, options: &ApplyOptions) -> Result<Done, Stop> {
    let (applied, taken_from) = attempt(cluster, target, options, true).await?;
    if let Some(owner) = gitops_owner(&applied.object).filter(|_| !options.take_from_gitops) {
        return Err(Failure::gitops(target, &owner).into());
    }
    let action = if applied.created { Action::Created } else { Action::Configured };
    let Applied { mut object, warnings, .. } = applied;
    let earlier = migrate::predecessors(&object, MANAGER, &options.take_over);
    let earlier: Vec<String> = earlier.into_iter().map(str::to_owned).collect();
    // Which fields a take-over drops is found in them.
    if earlier.is_empty() {
        forget_managers(&mut object);
    }
    Ok(Done { id: target.id.clone(), action, object, warnings, taken_from, earlier })
}

async fn apply_one(
    cluster: &Cluster,
    target: &Target,
    tried: &Done,
    options: &ApplyOptions,
) -> Result<Done, Stop> {
    if tried.object.pointer("/metadata/deletionTimestamp").is_some() {
        until_gone(cluster, target).await?;
    }
    let mut taken_from: Vec<String> = Vec::new();
    if !tried.earlier.is_empty() || !tried.taken_from.is_empty() {
        taken_from = take_over(cluster, target, options).await?;
    }
    let (applied, _) = attempt(cluster, target, options, false).await?;
    let Applied { mut object, warnings, created, repeated } = applied;
    forget_managers(&mut object);
    let (id, earlier) = (target.id.clone(), Vec::new());
    let mut done = Done { id, action: Action::Created, object, warnings, taken_from, earlier };
    // An answer may have been lost: who asks again for what was not there a moment ago is told that it is there.
    let was_absent = tried.action == Action::Created && !tried.object.is_null();
    if !(created || repeated && was_absent) {
        let is_same = done.version().is_some() && done.version() == tried.version();
        done.action = if is_same { Action::Unchanged } else { Action::Configured };
    }
    Ok(done)
}

/// Applies once, waiting for what passes; says who is to be taken over from.
async fn attempt(
    cluster: &Cluster,
    target: &Target,
    options: &ApplyOptions,
    dry: bool,
) -> Result<(Applied, Vec<String>), Stop> {
    let begun = Instant::now();
    let mut force = options.force == Force::All;
    let mut taken_from = Vec::new();
    loop {
        let error = match send(cluster, target, options, force, dry).await {
            Ok(applied) => return Ok((applied, taken_from)),
            Err(error) => error,
        };
        let Some(refusal) = error.refusal().cloned() else { return Err(error.into()) };
        if refusal.is_field_conflict() && !force {
            let live = cluster.find(&target.path).await.unwrap_or_default();
            taken_from = permission(target, &refusal, live.as_ref(), options)?;
            // The dry run shows what will be once the others' fields are ours; for good they are made ours first.
            force = dry || taken_from.is_empty();
            if !dry && !taken_from.is_empty() {
                take_over(cluster, target, options).await?;
            }
        } else if !(passes(target, &refusal) && begun.elapsed() < PASSING) {
            return Err(error.into());
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn send(
    cluster: &Cluster,
    target: &Target,
    options: &ApplyOptions,
    force: bool,
    dry: bool,
) -> Result<Applied, ApiError> {
    let mut query = vec![
        ("fieldManager", MANAGER),
        ("force", if force { "true" } else { "false" }),
        ("fieldValidation", options.validation.name()),
    ];
    if dry {
        query.push(("dryRun", "All"));
    }
    cluster.apply(&target.path, &query, &Value::Object(target.object.fields.clone())).await
}

/// Whether conflicts may be passed over: all of them lie with who has applied on the client before, whose names are given
/// back, or at paths that the user has named.
fn permission(
    target: &Target,
    refusal: &Refusal,
    live: Option<&Value>,
    options: &ApplyOptions,
) -> Result<Vec<String>, Box<Failure>> {
    let paths: &[String] = match &options.force {
        Force::Paths(paths) => paths,
        Force::No | Force::All => &[],
    };
    let earlier =
        live.map(|live| migrate::predecessors(live, MANAGER, &options.take_over)).unwrap_or_default();
    let is_by = |message: &str, manager: &str| message.contains(&format!("conflict with \"{manager}\""));
    let is_earlier = |message: &str| earlier.iter().any(|manager| is_by(message, manager));
    let is_allowed = |field: &str| paths.iter().any(|path| is_below(field, path));
    let mut taken = false;
    for cause in refusal.field_conflicts() {
        taken |= is_earlier(&cause.message);
        let may =
            is_earlier(&cause.message) || is_by(&cause.message, migrate::NOBODY) || is_allowed(&cause.field);
        if !may {
            return Err(Box::new(Failure::conflict(target, refusal, live, paths)));
        }
    }
    Ok(if taken { earlier.into_iter().map(str::to_owned).collect() } else { Vec::new() })
}

/// Makes fields ours that somebody has applied on the client; gives the names.
async fn take_over(
    cluster: &Cluster,
    target: &Target,
    options: &ApplyOptions,
) -> Result<Vec<String>, ApiError> {
    let begun = Instant::now();
    loop {
        let Some(live) = cluster.find(&target.path).await? else { return Ok(Vec::new()) };
        let Some(entries) = migrate::migrated(&live, MANAGER, &options.take_over) else {
            return Ok(Vec::new());
        };
        let names = migrate::predecessors(&live, MANAGER, &options.take_over);
        let patch = migrate::patch(&live, entries);
        match cluster.patch(&target.path, &[("fieldManager", MANAGER)], PatchKind::Json, &patch).await {
            Ok(_) => return Ok(names.into_iter().map(str::to_owned).collect()),
            // Somebody has changed it meanwhile: from the start.
            Err(ApiError::Refused(refusal)) if refusal.code == 409 && begun.elapsed() < PASSING => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a refusal passes by itself.
fn passes(target: &Target, refusal: &Refusal) -> bool {
    let says = |text: &str| refusal.message.contains(text);
    refusal.is_quota_race()
        // A namespace gets its service account a moment after it is there.
        || says("error looking up service account") && (target.is_ahead || target.may_be_early)
        // What has just been made or changed is known to admission a moment later.
        || target.may_be_early && (says("no PriorityClass with name") || says("RuntimeClass \"") || refusal.is_unknown_field())
        || target.is_ahead && refusal.is_unknown_kind()
        || target.is_ahead && refusal.code == 404 && says("namespaces \"")
}

/// Waits until an object that is being deleted is gone.
async fn until_gone(cluster: &Cluster, target: &Target) -> Result<(), Stop> {
    let begun = Instant::now();
    loop {
        let live = cluster.find(&target.path).await?;
        let Some(live) = live.filter(|live| live.pointer("/metadata/deletionTimestamp").is_some()) else {
            return Ok(());
        };
        if begun.elapsed() > GONE {
            return Err(Failure::deleting(target, &live).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the kinds are served that definitions of this run have defined.
async fn until_served(cluster: &Cluster, targets: &[Target]) -> Result<(), DeployError> {
    let begun = Instant::now();
    loop {
        cluster.forget_kinds();
        let kinds = cluster.kinds().await?;
        let missing = targets.iter().find(|target| kinds.get(&target.resource.gvk).is_none());
        let Some(missing) = missing else { return Ok(()) };
        if begun.elapsed() > SERVED {
            let what = format!("the cluster does not serve `{}` though it was defined", missing.resource.gvk);
            return Err(DeployError::fault(Some(missing.object.source.clone()), what));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The GitOps controller that an object is made by, as its labels say.
fn gitops_owner(object: &Value) -> Option<String> {
    let label = |name: &str| object.pointer("/metadata/labels")?.get(name)?.as_str();
    let annotation = |name: &str| object.pointer("/metadata/annotations")?.get(name)?.as_str();
    if let Some(name) = label("kustomize.toolkit.fluxcd.io/name") {
        return Some(format!("Flux's Kustomization `{name}`"));
    }
    if let Some(name) = label("helm.toolkit.fluxcd.io/name") {
        return Some(format!("Flux's HelmRelease `{name}`"));
    }
    if let Some(id) = annotation("argocd.argoproj.io/tracking-id") {
        let name = id.split_once(':').map_or(id, |(name, _)| name);
        return Some(format!("Argo CD's application `{name}`"));
    }
    label("argocd.argoproj.io/instance").map(|name| format!("Argo CD's application `{name}`"))
}
