//! Flux: a request is an annotation, and the answer is in the status
//! (<https://fluxcd.io/flux/components/kustomize/kustomizations/#triggering-a-reconcile>, and `cmd/flux/reconcile.go`).
//!
//! A controller that sees another value of the annotation than it has answered last reconciles at once, and when it is
//! through writes the value to `status.lastHandledReconcileAt`. Until then `Ready` is that of the time before.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::{AGAIN, Asked, Ended, Fault, Reconciled, Seen, Watcher, is_revision, token};
use crate::deploy::DeployError;
use crate::deploy::apply::MANAGER;
use crate::deploy::cluster::{Cluster, Kinds, PatchKind, Resource};
use crate::deploy::object::GroupKind;
use crate::deploy::status::{condition, integer, text};
use crate::report::Report;

/// How the groups of Flux' kinds end.
const TOOLKIT: &str = ".toolkit.fluxcd.io";
const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io";
const SOURCES: &str = "source.toolkit.fluxcd.io";
const HELM: &str = "helm.toolkit.fluxcd.io";
/// Reconcile now.
const REQUESTED: &str = "reconcile.fluxcd.io/requestedAt";
/// Upgrade a Helm release even if nothing has changed. It counts if it has the value of the request.
const FORCE: &str = "reconcile.fluxcd.io/forceAt";
/// Forget how often a Helm release has failed. It counts if it has the value of the request.
const RESET: &str = "reconcile.fluxcd.io/resetAt";
/// Sources behind sources: a release has a chart, which has a repository.
const DEPTH: usize = 4;

/// How Flux is asked.
#[derive(Debug, Clone)]
pub struct FluxOptions {
    /// The sources are asked first.
    pub with_source: bool,
    /// Helm releases are upgraded even if nothing has changed.
    pub force: bool,
    /// Helm releases forget that they have failed.
    pub reset: bool,
    /// What must be applied at the end: a commit, a digest, a tag or the version of a chart.
    pub revision: Option<String>,
    /// For everything together.
    pub timeout: Duration,
}

/// An object to reconcile, and what comes before it.
struct Chain {
    asked: Asked,
    sources: Vec<Asked>,
}

/// Has Flux reconcile the objects that `words` name (`kustomization/apps`, `hr/web`), and waits until it has.
///
/// # Errors
/// [`DeployError::Refused`] if an object is not there or suspended, or Flux is not; [`DeployError::Rollout`] with what the
/// controllers say; [`DeployError::TimedOut`]; or if the cluster cannot be asked.
pub async fn flux(
    cluster: &Cluster,
    words: &[String],
    namespace: &str,
    options: &FluxOptions,
    report: &Report,
) -> Result<Vec<Reconciled>, DeployError> {
    let kinds = cluster.kinds().await?;
    let mut chains = Vec::with_capacity(words.len());
    for word in words {
        let asked = named(&kinds, word, namespace)?;
        let object = asked.look(cluster).await?;
        refuse_suspended(&asked, &object)?;
        let sources = match options.with_source {
            true => sources(cluster, &kinds, &object, namespace, report).await?,
            false => Vec::new(),
        };
        chains.push(Chain { asked, sources });
    }
    let watcher = Watcher::new(cluster, report, options.timeout);
    let outcomes = join_all(chains.iter().map(|chain| reconcile(&watcher, chain, options))).await;
    watcher.sum(outcomes)
}

/// Sources first, then the object; all of it again until the revision is there that was asked for.
async fn reconcile(watcher: &Watcher<'_>, chain: &Chain, options: &FluxOptions) -> Result<Reconciled, Ended> {
    let Chain { asked, sources } = chain;
    let mut more = Map::new();
    if asked.id.kind.is(HELM, "HelmRelease") {
        let wanted = [(FORCE, options.force), (RESET, options.reset)];
        more.extend(wanted.iter().filter(|(_, is)| *is).map(|(name, _)| ((*name).to_owned(), Value::Null)));
    }
    loop {
        for source in sources {
            answered(watcher, source, &Map::new()).await?;
        }
        let object = answered(watcher, asked, &more).await?;
        // What is forced is forced once, however often is asked for the revision.
        more.clear();
        let revision = revision(&object);
        let Some(wanted) = &options.revision else {
            return Ok(Reconciled { id: asked.id.clone(), revision });
        };
        if is_at(&object, wanted) {
            return Ok(Reconciled { id: asked.id.clone(), revision });
        }
        let have = revision.as_deref().unwrap_or("no revision at all").to_owned();
        let why = format!("it is at {have}, and {wanted} was asked for");
        if watcher.is_over() {
            return Err(Ended::Late(super::late(asked, why)));
        }
        watcher.tell(asked, "in_progress", &why);
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks, and waits for the answer. The annotations `more` get the value of the request.
async fn answered(watcher: &Watcher<'_>, asked: &Asked, more: &Map<String, Value>) -> Result<Value, Ended> {
    let token = token();
    let mut annotations: Map<String, Value> =
        more.keys().map(|name| (name.clone(), token.as_str().into())).collect();
    annotations.insert(REQUESTED.to_owned(), token.as_str().into());
    let patch = json!({"metadata": {"annotations": annotations}});
    let query = [("fieldManager", MANAGER)];
    let written = watcher.cluster.patch(&asked.path, &query, PatchKind::Merge, &patch).await;
    written.map_err(DeployError::from)?;
    let (object, _) = watcher.until(asked, |object| look(object, &token)).await?;
    Ok(object)
}

/// How far `object` is with the request `token`.
fn look(object: &Value, token: &str) -> Seen {
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Seen::Failed(Fault::new("it is being deleted"));
    }
    if is_suspended(object) {
        return Seen::Failed(Fault::new("it was suspended while it was waited for"));
    }
    let handled = text(object, "/status/lastHandledReconcileAt");
    let asked = object.pointer("/metadata/annotations").and_then(|map| map.get(REQUESTED)?.as_str());
    // Whoever has asked since has taken our request's place: what answers them answers us.
    let is_ours = handled == token || asked.is_some_and(|asked| asked != token && asked == handled);
    if !is_ours {
        return Seen::Underway("its controller has not answered yet".to_owned());
    }
    let seen = integer(object, "/status/observedGeneration");
    if let (Some(seen), Some(generation)) = (seen, integer(object, "/metadata/generation"))
        && seen < generation
    {
        return Seen::Underway("its controller has not seen the newest version of it yet".to_owned());
    }
    if let Some(stalled) = condition(object, "Stalled").filter(super::super::status::Condition::is_true) {
        return failed(object, stalled.words());
    }
    let reconciling = condition(object, "Reconciling").filter(super::super::status::Condition::is_true);
    match condition(object, "Ready") {
        Some(ready) if ready.is_true() && reconciling.is_none() => Seen::There(None),
        // What it depends on may still come: it looks again by itself.
        Some(ready) if ready.is_false() && ready.reason == "DependencyNotReady" => {
            Seen::Underway(ready.words())
        }
        // `ProgressingWithRetry` is how a failure is told that will be tried again.
        Some(ready) if ready.is_false() && reconciling.is_none_or(|now| now.reason != "Progressing") => {
            failed(object, ready.words())
        }
        Some(ready) => Seen::Underway(reconciling.unwrap_or(ready).words()),
        None => Seen::Underway("it does not say yet whether it is ready".to_owned()),
    }
}

/// What the controller says, with the revisions that it is about.
fn failed(object: &Value, words: String) -> Seen {
    let ready = condition(object, "Ready").or_else(|| condition(object, "Stalled"));
    let reason = ready.map(|ready| ready.reason).filter(|reason| !reason.is_empty());
    let mut evidence: Vec<String> = reason.map(|reason| format!("reason: {reason}")).into_iter().collect();
    let attempted = text(object, "/status/lastAttemptedRevision");
    let applied = revision(object).unwrap_or_default();
    if !attempted.is_empty() && attempted != applied {
        evidence.push(match &*applied {
            "" => format!("tried: {attempted}, and nothing is applied"),
            applied => format!("tried: {attempted}, and {applied} is applied"),
        });
    }
    Seen::Failed(
        Fault::new(words).seen(evidence).advise("mend it in the repository, or what it needs in the cluster"),
    )
}

/// The revision that is applied: of a Kustomization, of a release's chart, of a source's artifact.
fn revision(object: &Value) -> Option<String> {
    let places =
        ["/status/lastAppliedRevision", "/status/history/0/chartVersion", "/status/artifact/revision"];
    let found = places.iter().map(|place| text(object, place)).find(|revision| !revision.is_empty());
    found.map(str::to_owned)
}

/// Whether `wanted` is what is applied. A chart has a version and, from an OCI registry, a digest.
fn is_at(object: &Value, wanted: &str) -> bool {
    let digest = text(object, "/status/history/0/ociDigest");
    revision(object).is_some_and(|have| is_revision(&have, wanted))
        || !digest.is_empty() && is_revision(digest, wanted)
}

fn is_suspended(object: &Value) -> bool {
    object.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true)
}

fn refuse_suspended(asked: &Asked, object: &Value) -> Result<(), DeployError> {
    if !is_suspended(object) {
        return Ok(());
    }
    let namespace = asked.id.namespace.as_deref().unwrap_or_default();
    Err(DeployError::refused(
        format!("{} in namespace `{namespace}` is suspended: Flux leaves it alone", asked.id),
        "whoever has suspended it may want it so; `flux resume`, or `suspend: false` in the repository, ends it",
    ))
}

/// The object that a user means.
fn named(kinds: &Kinds, word: &str, namespace: &str) -> Result<Asked, DeployError> {
    let parts = word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty());
    let Some((kind, name)) = parts else {
        return Err(DeployError::refused(
            format!("`{word}` names no object"),
            "write KIND/NAME, as in kustomization/apps or helmrelease/web",
        ));
    };
    Ok(Asked::new(kind_of(kinds, kind)?, namespace, name))
}

/// The kind of Flux that a user means: `kustomization`, `ks`, `helmreleases`, `gitrepository.source.toolkit.fluxcd.io`.
fn kind_of<'a>(kinds: &'a Kinds, word: &str) -> Result<&'a Resource, DeployError> {
    let word = word.to_lowercase();
    // The short names of the definitions, which discovery does not tell in its newer form.
    let long = match &*word {
        "ks" => "kustomization",
        "hr" => "helmrelease",
        "gitrepo" => "gitrepository",
        "ocirepo" => "ocirepository",
        "helmrepo" => "helmrepository",
        "hc" => "helmchart",
        other => other,
    };
    let (kind, group) = long.split_once('.').map_or((long, None), |(kind, group)| (kind, Some(group)));
    let of_flux = || kinds.iter().filter(|one| one.gvk.group.ends_with(TOOLKIT));
    let found = of_flux().find(|one| {
        (one.gvk.kind.to_lowercase() == kind || one.plural == kind)
            && group.is_none_or(|group| one.gvk.group == group)
    });
    if let Some(preferred) = found.and_then(|one| kinds.preferred(&one.gvk.group_kind())) {
        return Ok(preferred);
    }
    let names: BTreeSet<String> = of_flux().map(|one| one.gvk.kind.to_lowercase()).collect();
    Err(if names.is_empty() {
        DeployError::refused(
            "Flux is not in this cluster: it has no kind of `toolkit.fluxcd.io`",
            "install it, or look at which cluster this is with `cofferdam deploy doctor`",
        )
    } else {
        let names: Vec<String> = names.into_iter().collect();
        DeployError::refused(
            format!("Flux has no kind `{word}` in this cluster"),
            format!("it has {}", names.join(", ")),
        )
    })
}

/// What `object` is made from, the farthest first.
async fn sources(
    cluster: &Cluster,
    kinds: &Kinds,
    object: &Value,
    namespace: &str,
    report: &Report,
) -> Result<Vec<Asked>, DeployError> {
    let mut chain: Vec<Asked> = Vec::new();
    let mut next = origins(object, namespace);
    for _ in 0..DEPTH {
        let mut farther = Vec::new();
        for Origin { kind, namespace, name, is_made } in std::mem::take(&mut next) {
            let group = GroupKind::new(SOURCES, &*kind);
            let Some(resource) = kinds.preferred(&group) else {
                return Err(DeployError::refused(
                    format!("the source {kind}/{name} is of a kind that this cluster does not have"),
                    "leave `--with-source` out, or see that Flux' source-controller is of the same version",
                ));
            };
            let asked = Asked::new(resource, &namespace, &name);
            let found = match is_made {
                // The chart of a release is made by Flux itself, and may not be there yet.
                true => cluster.find(&asked.path).await?,
                false => Some(asked.look(cluster).await?),
            };
            let Some(found) = found else { continue };
            refuse_suspended(&asked, &found)?;
            farther.extend(origins(&found, &namespace));
            if is_fetched(&kind, &found) {
                chain.retain(|known| known.path != asked.path);
                chain.insert(0, asked);
            } else {
                report.note(format!("{} is not fetched by itself: it is asked when it is used", asked.id));
            }
        }
        next = farther;
    }
    Ok(chain)
}

/// A source, as it is referred to.
struct Origin {
    kind: String,
    namespace: String,
    name: String,
    is_made: bool,
}

/// What `object`, which is in `namespace`, refers to.
fn origins(object: &Value, namespace: &str) -> Vec<Origin> {
    let mut found = Vec::new();
    // Of Kustomizations and charts; of releases, by their chart or without one.
    for place in ["/spec/sourceRef", "/spec/chartRef", "/spec/chart/spec/sourceRef"] {
        let Some(reference) = object.pointer(place) else { continue };
        let namespace = match text(reference, "/namespace") {
            "" => namespace,
            other => other,
        };
        found.push(Origin {
            kind: text(reference, "/kind").to_owned(),
            namespace: namespace.to_owned(),
            name: text(reference, "/name").to_owned(),
            is_made: false,
        });
    }
    if let Some((namespace, name)) = text(object, "/status/helmChart").split_once('/') {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        found.push(Origin { kind: "HelmChart".to_owned(), namespace, name, is_made: true });
    }
    found
}

/// Whether the controller fetches this source by itself, and answers requests: repositories of charts in an OCI registry
/// are but an address, and artifacts of others are made by others.
fn is_fetched(kind: &str, object: &Value) -> bool {
    kind != "ExternalArtifact" && !(kind == "HelmRepository" && text(object, "/spec/type") == "oci")
}

/// The Kustomization that is meant where none is named: the one that `flux bootstrap` makes.
pub fn bootstrapped() -> String {
    format!("kustomization.{KUSTOMIZE}/flux-system")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TOKEN: &str = "2026-01-02T03:04:05.000000001Z";

    fn object(handled: &str, generations: (i64, i64), conditions: &Value) -> Value {
        json!({
            "metadata": {"generation": generations.0, "annotations": {REQUESTED: TOKEN}},
            "status": {"lastHandledReconcileAt": handled, "observedGeneration": generations.1, "conditions": conditions,
                "lastAppliedRevision": "main@sha1:old", "lastAttemptedRevision": "main@sha1:new"},
        })
    }

    fn is(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": format!("{reason}.")})
    }

    #[rstest]
    #[case::old_answer("before", (1, 1), json!([is("Ready", "True", "Done")]), Some("not answered"))]
    #[case::old_failure("before", (1, 1), json!([is("Ready", "False", "Broken")]), Some("not answered"))]
    #[case::old_generation(TOKEN, (2, 1), json!([is("Ready", "True", "Done")]), Some("newest version"))]
    #[case::no_word(TOKEN, (1, 1), json!([]), Some("does not say"))]
    #[case::unknown(TOKEN, (1, 1), json!([is("Ready", "Unknown", "Progressing")]), Some("Progressing"))]
    #[case::begun(TOKEN, (1, 1), json!([is("Ready", "False", "Old"), is("Reconciling", "True", "Progressing")]), Some("Progressing"))]
    #[case::not_through(TOKEN, (1, 1), json!([is("Ready", "True", "Old"), is("Reconciling", "True", "Progressing")]), Some("Progressing"))]
    #[case::waits_for_others(TOKEN, (1, 1), json!([is("Ready", "False", "DependencyNotReady")]), Some("Dependency"))]
    #[case::there(TOKEN, (1, 1), json!([is("Ready", "True", "Done")]), None)]
    fn requests_are_followed(
        #[case] handled: &str,
        #[case] generations: (i64, i64),
        #[case] conditions: Value,
        #[case] waits: Option<&str>,
    ) {
        match (look(&object(handled, generations, &conditions), TOKEN), waits) {
            (Seen::There(None), None) => {}
            (Seen::Underway(why), Some(wanted)) => assert!(why.contains(wanted), "{why}"),
            (seen, _) => panic!("{seen:?}"),
        }
    }

    #[rstest]
    #[case(json!([is("Ready", "False", "BuildFailed")]))]
    #[case(json!([is("Ready", "False", "BuildFailed"), is("Reconciling", "True", "ProgressingWithRetry")]))]
    #[case(json!([is("Ready", "Unknown", "BuildFailed"), is("Stalled", "True", "BuildFailed")]))]
    fn failures_are_in_the_controllers_words(#[case] conditions: Value) {
        let Seen::Failed(fault) = look(&object(TOKEN, (1, 1), &conditions), TOKEN) else { panic!() };
        assert_eq!(fault.what, "BuildFailed");
        assert_eq!(
            fault.evidence,
            ["reason: BuildFailed", "tried: main@sha1:new, and main@sha1:old is applied"]
        );
    }

    #[test]
    fn a_later_request_answers_ours() {
        let mut object = object("later", (1, 1), &json!([is("Ready", "True", "Done")]));
        assert!(matches!(look(&object, TOKEN), Seen::Underway(_)));
        object["metadata"]["annotations"][REQUESTED] = "later".into();
        assert_eq!(look(&object, TOKEN), Seen::There(None));
    }

    #[test]
    fn where_things_are_made_from() {
        let release = json!({"spec": {"chart": {"spec": {"sourceRef": {"kind": "HelmRepository", "name": "r"}}}},
            "status": {"helmChart": "flux-system/shop-web"}});
        let found: Vec<String> = origins(&release, "shop")
            .iter()
            .map(|one| format!("{}/{}/{}", one.kind, one.namespace, one.name))
            .collect();
        assert_eq!(found, ["HelmRepository/shop/r", "HelmChart/flux-system/shop-web"]);
        let address = json!({"spec": {"type": "oci"}});
        assert!(!is_fetched("HelmRepository", &address) && is_fetched("HelmRepository", &json!({})));
    }
}
