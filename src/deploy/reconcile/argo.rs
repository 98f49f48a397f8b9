//! Argo CD: everything is written into the Application and read from it
//! (<https://argo-cd.readthedocs.io/en/stable/user-guide/sync-kubectl/>).
//!
//! A refresh is an annotation that the controller takes away when it has compared anew. A sync is the field `operation`,
//! of which there is one at a time; the controller copies it to `status.operationState`, where ours is known again by an
//! entry of its `info`. The object has no subresource for its status.
//!
//! # Invariants
//! 1. An operation of somebody else is never replaced: ours is written only into the version that had none.
//! 2. Whether an application is synced and healthy counts only as compared after the sync.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{AGAIN, Asked, Ended, Fault, Reconciled, Seen, Watcher, is_revision, token};
use crate::deploy::DeployError;
use crate::deploy::apply::MANAGER;
use crate::deploy::cluster::{ApiError, Cluster, PatchKind};
use crate::deploy::object::GroupKind;
use crate::deploy::status::{list, text};
use crate::report::Report;

const GROUP: &str = "argoproj.io";
const KIND: &str = "Application";
/// Compare anew; `hard` without what is cached of manifests.
const REFRESH: &str = "argocd.argoproj.io/refresh";
/// How long an application may be degraded after a sync until that is what it is: what was broken before is so for a
/// moment longer.
const DEGRADED: Duration = Duration::from_secs(10);
/// How often an operation is tried to be written while others change the object.
const TRIES: usize = 20;
/// Resources that are named one by one.
const NAMED: usize = 10;

/// How Argo CD is asked.
#[derive(Debug, Clone)]
pub struct ArgoOptions {
    /// What must be synced at the end: a commit, a tag or the version of a chart.
    pub revision: Option<String>,
    /// Manifests are made anew, too.
    pub hard: bool,
    /// It is synced, and not only compared.
    pub sync: Option<Sync>,
    /// For everything together.
    pub timeout: Duration,
}

/// How it is synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sync {
    /// What the repository no longer has is removed.
    pub prune: bool,
}

/// Has Argo CD refresh, and if asked for sync, the applications `names`, and waits until they are synced and healthy.
///
/// # Errors
/// [`DeployError::Refused`] if there is no such application, or no Argo CD; [`DeployError::Busy`] if another operation
/// runs; [`DeployError::Rollout`] with what Argo CD says; [`DeployError::TimedOut`]; or if the cluster cannot be asked.
pub async fn argo(
    cluster: &Cluster,
    names: &[String],
    namespace: &str,
    options: &ArgoOptions,
    report: &Report,
) -> Result<Vec<Reconciled>, DeployError> {
    let kinds = cluster.kinds().await?;
    let Some(resource) = kinds.preferred(&GroupKind::new(GROUP, KIND)) else {
        return Err(DeployError::refused(
            format!("Argo CD is not in this cluster: it has no kind `{KIND}` of `{GROUP}`"),
            "applications are in the cluster that Argo CD runs in, which need not be the one it deploys to; \
             `cofferdam deploy doctor` shows which cluster this is",
        ));
    };
    let asked: Vec<Asked> = names.iter().map(|name| Asked::new(resource, namespace, name)).collect();
    for one in &asked {
        let object = one.look(cluster).await?;
        if options.sync.is_some() {
            refuse_busy(one, &object)?;
        }
    }
    let watcher = Watcher::new(cluster, report, options.timeout);
    watcher.sum(join_all(asked.iter().map(|one| reconcile(&watcher, one, options))).await)
}

async fn reconcile(watcher: &Watcher<'_>, asked: &Asked, options: &ArgoOptions) -> Result<Reconciled, Ended> {
    let mut object = refreshed(watcher, asked, options.hard).await?;
    let mut own = None;
    if let Some(sync) = options.sync {
        own = Some(synced(watcher, asked, options, sync).await?);
        // What is said of it now may be from before the sync.
        object = refreshed(watcher, asked, false).await?;
    }
    // Where the sync itself was of a revision that the application does not follow, the comparison is with another.
    let is_apart = own.as_ref().is_some_and(|own| own.is_apart);
    let wanted = options.revision.as_deref().filter(|_| !is_apart);
    while let Some(wanted) = wanted.filter(|wanted| !is_at(&object, wanted)) {
        let why = format!("it is compared with {}, and {wanted} was asked for", compared(&object));
        if watcher.is_over() {
            return Err(Ended::Late(super::late(asked, why)));
        }
        watcher.tell(asked, "in_progress", &why);
        tokio::time::sleep(AGAIN).await;
        object = refreshed(watcher, asked, options.hard).await?;
    }
    let mut degraded = None;
    let (object, note) = watcher
        .until(asked, |object| {
            let seen = look(object, own.as_ref(), options.sync);
            patiently(seen, object, &mut degraded)
        })
        .await?;
    if let Some(note) = note {
        watcher.report.note(format!("{}: {note}", asked.id));
    }
    let revision = own.and_then(|own| own.revision).or_else(|| Some(compared(&object)));
    Ok(Reconciled { id: asked.id.clone(), revision: revision.filter(|revision| !revision.is_empty()) })
}

/// Compares anew, and gives the application as it is then.
async fn refreshed(watcher: &Watcher<'_>, asked: &Asked, hard: bool) -> Result<Value, Ended> {
    let form = if hard { "hard" } else { "normal" };
    let patch = json!({"metadata": {"annotations": {REFRESH: form}}});
    let query = [("fieldManager", MANAGER)];
    let written = watcher.cluster.patch(&asked.path, &query, PatchKind::Merge, &patch).await;
    written.map_err(DeployError::from)?;
    let (object, _) = watcher
        .until(asked, |object| {
            let annotations = object.pointer("/metadata/annotations");
            match annotations.and_then(|map| map.get(REFRESH)) {
                Some(_) => Seen::Underway("its controller has not compared it yet".to_owned()),
                None => Seen::There(None),
            }
        })
        .await?;
    if let Some(fault) = broken(&object) {
        return Err(Ended::Failed(super::trouble(asked, fault)));
    }
    Ok(object)
}

/// A sync of ours that has ended well.
struct Own {
    /// What was synced.
    revision: Option<String>,
    /// Whether that is another revision than the application follows.
    is_apart: bool,
}

/// Syncs, and waits for the end of it.
async fn synced(
    watcher: &Watcher<'_>,
    asked: &Asked,
    options: &ArgoOptions,
    sync: Sync,
) -> Result<Own, Ended> {
    let token = token();
    let explicit = begin(watcher.cluster, asked, options.revision.as_deref(), sync, &token).await?;
    let (object, _) = watcher.until(asked, |object| operation(object, &token)).await?;
    let revision = text(&object, "/status/operationState/syncResult/revision");
    let revision = (!revision.is_empty()).then(|| revision.to_owned());
    let is_apart = explicit && revision.as_deref().is_some_and(|revision| !is_at(&object, revision));
    Ok(Own { revision, is_apart })
}

/// Writes the operation; says whether it names a revision of its own.
async fn begin(
    cluster: &Cluster,
    asked: &Asked,
    revision: Option<&str>,
    sync: Sync,
    token: &str,
) -> Result<bool, DeployError> {
    let mut tries = 0;
    loop {
        let object = asked.look(cluster).await?;
        refuse_busy(asked, &object)?;
        // An application that is synced by itself would go back to what it follows; there the revision is only what must
        // have been reached. One of several sources has several revisions.
        let is_several = object.pointer("/spec/sources").is_some_and(|sources| !sources.is_null());
        let revision = revision.filter(|_| !is_automated(&object) && !is_several);
        let mut operation = json!({
            "initiatedBy": {"username": MANAGER},
            "info": [{"name": MANAGER, "value": token}],
            "sync": {"prune": sync.prune, "syncStrategy": {"hook": {}}},
        });
        if let (Some(revision), Some(sync)) = (revision, operation.get_mut("sync")) {
            sync["revision"] = revision.into();
        }
        if let (Some(options), Some(sync)) =
            (object.pointer("/spec/syncPolicy/syncOptions"), operation.get_mut("sync"))
        {
            sync["syncOptions"] = options.clone();
        }
        let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": version}, "operation": operation});
        let query = [("fieldManager", MANAGER)];
        match cluster.patch(&asked.path, &query, PatchKind::Merge, &patch).await {
            Ok(_) => return Ok(revision.is_some()),
            // Somebody has changed it meanwhile: whether with an operation is looked at anew.
            Err(ApiError::Refused(refusal)) if refusal.code == 409 && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn refuse_busy(asked: &Asked, object: &Value) -> Result<(), DeployError> {
    let running = matches!(text(object, "/status/operationState/phase"), "Running" | "Terminating");
    let waiting = object.get("operation").filter(|operation| !operation.is_null());
    let Some(operation) =
        waiting.or_else(|| object.pointer("/status/operationState/operation").filter(|_| running))
    else {
        return Ok(());
    };
    let by = match (text(operation, "/initiatedBy/username"), operation.pointer("/initiatedBy/automated")) {
        ("", Some(Value::Bool(true))) => "Argo CD itself".to_owned(),
        ("", _) => "somebody".to_owned(),
        (user, _) => format!("`{user}`"),
    };
    Err(DeployError::Busy {
        what: format!("another operation runs on {}, begun by {by}", asked.id),
        hint: "wait until it is through, and try again; `argocd app terminate-op` ends it".to_owned(),
    })
}

/// How far the operation `token` is.
fn operation(object: &Value, token: &str) -> Seen {
    let is_ours = |operation: Option<&Value>| {
        operation.is_some_and(|operation| {
            list(operation, "/info").iter().any(|info| text(info, "/value") == token)
        })
    };
    if !is_ours(object.pointer("/status/operationState/operation")) {
        return match object.get("operation").filter(|operation| !operation.is_null()) {
            Some(other) if !is_ours(Some(other)) => {
                Seen::Failed(Fault::new("another operation has taken the place of this one"))
            }
            _ => Seen::Underway("its controller has not begun the sync yet".to_owned()),
        };
    }
    let message = text(object, "/status/operationState/message");
    match text(object, "/status/operationState/phase") {
        "Succeeded" => Seen::There(None),
        phase @ ("Failed" | "Error") => Seen::Failed(failed_sync(object, phase)),
        _ if message.is_empty() => Seen::Underway("it is being synced".to_owned()),
        _ => Seen::Underway(message.to_owned()),
    }
}

fn failed_sync(object: &Value, phase: &str) -> Fault {
    let what = match text(object, "/status/operationState/message") {
        "" => format!("the sync has ended with {phase}"),
        message => format!("the sync has failed: {message}"),
    };
    let results = list(object, "/status/operationState/syncResult/resources").iter();
    let failed = results.filter(|one| {
        text(one, "/status") == "SyncFailed" || matches!(text(one, "/hookPhase"), "Failed" | "Error")
    });
    let told = failed.map(|one| told(one, text(one, "/message")));
    Fault::new(what)
        .seen(told.take(NAMED))
        .advise("mend it in the repository, or what it needs in the cluster")
}

/// Why an application cannot even be compared.
fn broken(object: &Value) -> Option<Fault> {
    let conditions = list(object, "/status/conditions").iter();
    let errors: Vec<String> = conditions
        .filter(|one| {
            matches!(
                text(one, "/type"),
                "ComparisonError" | "InvalidSpecError" | "UnknownError" | "DeletionError"
            )
        })
        .map(|one| format!("{}: {}", text(one, "/type"), text(one, "/message")))
        .collect();
    let first = errors.first()?.clone();
    let rest = errors.into_iter().skip(1);
    Some(Fault::new(first).seen(rest).advise("Argo CD cannot say what there should be: look at the repository, its access and the application's spec"))
}

/// How far an application is that was compared just now. `own` is the sync that went before, if one did.
fn look(object: &Value, own: Option<&Own>, asked: Option<Sync>) -> Seen {
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Seen::Failed(Fault::new("it is being deleted"));
    }
    if let Some(fault) = broken(object) {
        return Seen::Failed(fault);
    }
    let mut note = None;
    match text(object, "/status/sync/status") {
        "Synced" => {}
        "OutOfSync" if own.is_some_and(|own| own.is_apart) => {
            note = Some(format!("it follows {}, and is out of sync with that", compared(object)));
        }
        "OutOfSync" => return out_of_sync(object, own, asked),
        _ => return Seen::Underway("it is not known whether it is synced".to_owned()),
    }
    match text(object, "/status/health/status") {
        "Healthy" => Seen::There(note),
        // As a paused rollout: it goes on when somebody says so.
        "Suspended" => Seen::There(Some("it is suspended: it goes on when somebody says so".to_owned())),
        "Degraded" => Seen::Failed(degraded(object)),
        "" => Seen::Underway("its health is not known yet".to_owned()),
        health => {
            let unwell = unwell(object, health).next();
            let first = unwell.map(|one| format!(": {one}")).unwrap_or_default();
            Seen::Underway(format!("its health is {health}{first}"))
        }
    }
}

fn out_of_sync(object: &Value, own: Option<&Own>, asked: Option<Sync>) -> Seen {
    let resources = list(object, "/status/resources").iter();
    let differing: Vec<&Value> = resources.filter(|one| text(one, "/status") == "OutOfSync").collect();
    let surplus = |one: &&Value| one.get("requiresPruning").and_then(Value::as_bool) == Some(true);
    let is_surplus = !differing.is_empty() && differing.iter().all(surplus);
    let named = differing.iter().take(NAMED).map(|one| {
        told(one, if surplus(one) { "no longer in the repository" } else { "not as in the repository" })
    });
    if own.is_some() || asked.is_some() {
        let fault = Fault::new("it is out of sync although it was synced").seen(named);
        return Seen::Failed(match (is_surplus, asked) {
            (true, Some(Sync { prune: false })) => fault.advise("`--prune` removes what the repository no longer has"),
            _ => fault.advise("something changes it back, or it cannot be as the repository says: `argocd app diff` shows what"),
        });
    }
    if !is_automated(object) {
        let fault = Fault::new("it is out of sync, and is not synced by itself").seen(named);
        return Seen::Failed(fault.advise("`--sync` syncs it"));
    }
    let of_this =
        text(object, "/status/operationState/syncResult/revision") == text(object, "/status/sync/revision");
    match text(object, "/status/operationState/phase") {
        phase @ ("Failed" | "Error") if of_this => Seen::Failed(failed_sync(object, phase)),
        _ => Seen::Underway("it is out of sync, and about to be synced by itself".to_owned()),
    }
}

fn degraded(object: &Value) -> Fault {
    let evidence: Vec<String> = unwell(object, "Degraded").take(NAMED).collect();
    let what = match text(object, "/status/health/message") {
        "" => "it is synced, and degraded".to_owned(),
        message => format!("it is synced, and degraded: {message}"),
    };
    let about = "`cofferdam rollout status KIND/NAME`, in the cluster and namespace that it is deployed to, says what is wrong";
    Fault { may_pass: true, ..Fault::new(what) }.seen(evidence).advise(about)
}

/// What is degraded may have been so before: it is believed when it lasts.
fn patiently(seen: Seen, object: &Value, since: &mut Option<Instant>) -> Seen {
    if !matches!(&seen, Seen::Failed(Fault { may_pass: true, .. })) {
        *since = None;
        return seen;
    }
    if since.get_or_insert_with(Instant::now).elapsed() >= DEGRADED {
        return seen;
    }
    let first = unwell(object, "Degraded").next().map(|one| format!(": {one}")).unwrap_or_default();
    Seen::Underway(format!("its health is Degraded{first}"))
}

/// The resources of this health, with what is said of each.
fn unwell<'a>(object: &'a Value, health: &'a str) -> impl Iterator<Item = String> + 'a {
    let resources = list(object, "/status/resources").iter();
    let unwell = resources.filter(move |one| text(one, "/health/status") == health);
    unwell.map(|one| told(one, text(one, "/health/message")))
}

/// `deployment.apps/web in shop: message`
fn told(resource: &Value, message: &str) -> String {
    let kind = GroupKind::new(text(resource, "/group"), text(resource, "/kind"));
    let place = match text(resource, "/namespace") {
        "" => String::new(),
        namespace => format!(" in {namespace}"),
    };
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("{kind}/{}{place}{message}", text(resource, "/name"))
}

/// Whether Argo CD syncs it by itself.
fn is_automated(object: &Value) -> bool {
    let automated = object.pointer("/spec/syncPolicy/automated").filter(|automated| !automated.is_null());
    automated.is_some_and(|automated| automated.get("enabled").and_then(Value::as_bool) != Some(false))
}

/// The revision that it was compared with; of several sources all, with commas.
fn compared(object: &Value) -> String {
    let several: Vec<&str> =
        list(object, "/status/sync/revisions").iter().filter_map(Value::as_str).collect();
    if several.is_empty() { text(object, "/status/sync/revision").to_owned() } else { several.join(",") }
}

fn is_at(object: &Value, wanted: &str) -> bool {
    compared(object).split(',').any(|have| is_revision(have, wanted))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn application(sync: &str, health: &str) -> Value {
        json!({"spec": {}, "status": {"sync": {"status": sync, "revision": "abc"}, "health": {"status": health}}})
    }

    #[rstest]
    #[case("Synced", "Healthy", "there")]
    #[case("Synced", "Suspended", "there")]
    #[case("Synced", "Progressing", "its health is Progressing")]
    #[case("Synced", "Missing", "its health is Missing")]
    #[case("Synced", "", "not known yet")]
    #[case("Synced", "Degraded", "failed: it is synced, and degraded")]
    #[case("OutOfSync", "Healthy", "failed: it is out of sync, and is not synced by itself")]
    #[case("Unknown", "Healthy", "not known whether it is synced")]
    fn states(#[case] sync: &str, #[case] health: &str, #[case] wanted: &str) {
        let said = match look(&application(sync, health), None, None) {
            Seen::There(_) => "there".to_owned(),
            Seen::Underway(why) => why,
            Seen::Failed(fault) => format!("failed: {}", fault.what),
        };
        assert!(said.contains(wanted), "{said}");
    }

    #[test]
    fn what_is_synced_by_itself_is_waited_for_until_it_has_failed() {
        let mut object = application("OutOfSync", "Healthy");
        object["spec"] = json!({"syncPolicy": {"automated": {}}});
        assert!(matches!(look(&object, None, None), Seen::Underway(_)));
        object["status"]["operationState"] = json!({"phase": "Failed", "message": "one or more objects failed",
            "syncResult": {"revision": "before"}});
        assert!(matches!(look(&object, None, None), Seen::Underway(_)), "that was another revision");
        object["status"]["operationState"]["syncResult"] = json!({"revision": "abc", "resources": [
            {"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web", "status": "SyncFailed",
                "message": "field is immutable"},
            {"group": "", "kind": "Service", "namespace": "shop", "name": "web", "status": "Synced"}]});
        let Seen::Failed(fault) = look(&object, None, None) else { panic!() };
        assert_eq!(fault.what, "the sync has failed: one or more objects failed");
        assert_eq!(fault.evidence, ["deployment.apps/web in shop: field is immutable"]);
        object["spec"]["syncPolicy"]["automated"]["enabled"] = false.into();
        assert!(!is_automated(&object));
    }

    #[test]
    fn only_our_operation_counts() {
        let entry = |value: &str| json!({"info": [{"name": "cofferdam", "value": value}]});
        let mut object = json!({"operation": entry("t"), "status": {"operationState": {"phase": "Succeeded",
            "operation": entry("earlier")}}});
        assert!(matches!(operation(&object, "t"), Seen::Underway(_)));
        object["operation"] = entry("other");
        assert!(matches!(operation(&object, "t"), Seen::Failed(_)));
        object["operation"] = Value::Null;
        object["status"]["operationState"]["operation"] = entry("t");
        assert_eq!(operation(&object, "t"), Seen::There(None));
        object["status"]["operationState"]["phase"] = "Running".into();
        assert!(matches!(operation(&object, "t"), Seen::Underway(_)));
    }

    #[test]
    fn what_is_surplus_is_a_matter_of_pruning() {
        let mut object = application("OutOfSync", "Healthy");
        object["status"]["resources"] = json!([{"kind": "ConfigMap", "name": "old", "namespace": "shop", "status": "OutOfSync", "requiresPruning": true}]);
        let Seen::Failed(fault) = look(&object, None, Some(Sync { prune: false })) else { panic!() };
        assert_eq!(fault.evidence, ["configmap/old in shop: no longer in the repository"]);
        assert!(fault.advice[0].contains("--prune"));
    }

    #[test]
    fn what_was_degraded_before_is_given_a_moment() {
        let object = application("Synced", "Degraded");
        let seen = || look(&object, None, None);
        let mut since = None;
        assert!(matches!(patiently(seen(), &object, &mut since), Seen::Underway(_)));
        since = Instant::now().checked_sub(DEGRADED);
        assert!(matches!(patiently(seen(), &object, &mut since), Seen::Failed(_)));
    }
}
