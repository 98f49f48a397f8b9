//! The wait itself.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::follow::{Follow, Update};
use super::{Awaited, Settled, Trouble, WaitOptions};
use crate::deploy::DeployError;
use crate::deploy::cluster::Cluster;
use crate::deploy::diagnose::{Cause, Collector, Finding, Subject, Weight, diagnose};
use crate::deploy::object::{GroupKind, ObjectId};
use crate::deploy::status::{Expectation, Progress, Said, Status, assess, is_observed, list};
use crate::report::{Event, Report, RolloutDiagnosis, RolloutProgress};

/// How often clocks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long after a round of diagnosis the next one begins.
const ROUND: Duration = Duration::from_secs(1);
/// Objects that are looked into in one round.
const AT_ONCE: usize = 8;
/// How long a finding may be out of sight without being over: a program that ends again and again runs in between.
const BREAK: Duration = Duration::from_secs(12);

/// Waits until all of `awaited` are settled, telling `report` how they come along.
///
/// # Errors
/// [`DeployError::Rollout`] on evidence that one of them will not get there, [`DeployError::TimedOut`] at a limit,
/// [`DeployError::Api`] if the cluster is lost. Whoever drops the wait cancels it.
pub async fn wait(
    cluster: &Cluster,
    collector: &Arc<Collector>,
    awaited: Vec<Awaited>,
    options: &WaitOptions,
    report: &Report,
) -> Result<Vec<Settled>, DeployError> {
    let mut run = Run::new(collector.clone(), awaited, options.clone(), report.clone());
    let (sender, mut updates) = mpsc::unbounded_channel();
    // They end with this wait.
    let mut follows = JoinSet::new();
    for follow in run.follows() {
        follows.spawn(follow.run(cluster.clone(), sender.clone()));
    }
    drop(sender);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if run.all_settled() {
            return Ok(run.settled());
        }
        tokio::select! {
            Some(update) = updates.recv() => run.take(update)?,
            Some(round) = run.rounds.join_next(), if !run.rounds.is_empty() => {
                run.looking = false;
                if let Ok(round) = round
                    && let Some(error) = run.judge(round) {
                    return Err(error);
                }
            }
            _ = ticks.tick() => {}
        }
        if let Some(error) = run.check().await {
            return Err(error);
        }
    }
}

/// What a look into an object has found.
struct Look {
    index: usize,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

/// An object on its way.
struct One {
    awaited: Awaited,
    expectation: Expectation,
    follow: Option<usize>,
    status: Status,
    /// Since when its status has been ready, if it has to stay so for a while.
    ready_since: Option<Instant>,
    must_settle: bool,
    began: Instant,
    looked: Option<Instant>,
    /// The most of its parts that were there at a time.
    best: u64,
    stages: BTreeSet<String>,
    shown: Option<(String, String)>,
    findings: Vec<Finding>,
    notes: Vec<String>,
    /// Whether a program of it has ended that should not have.
    has_ended: bool,
}

/// How many times as long something is watched that has ended before.
const ONCE_BITTEN: u32 = 4;
/// How long a failing liveness probe is watched at the most.
const LONGEST_PROBE: Duration = Duration::from_secs(60);

/// A finding, as it is recognised again.
type Key = (ObjectId, Cause, Option<String>);

struct Run {
    options: WaitOptions,
    report: Report,
    collector: Arc<Collector>,
    objects: Vec<One>,
    has_custom: bool,
    began: Instant,
    progressed: Instant,
    rounds: JoinSet<Vec<Look>>,
    looking: bool,
    next_round: Instant,
    /// Since when a finding is there, and when it was last seen.
    seen: BTreeMap<Key, (Instant, Instant)>,
    told: BTreeSet<Key>,
    noted: BTreeSet<String>,
}

impl Run {
    fn new(collector: Arc<Collector>, awaited: Vec<Awaited>, options: WaitOptions, report: Report) -> Self {
        let now = Instant::now();
        let used: BTreeSet<(Option<String>, String)> = awaited
            .iter()
            .flat_map(|one| claims(&one.object).into_iter().map(|claim| (one.id.namespace.clone(), claim)))
            .collect();
        let has_custom = awaited.iter().any(|one| is_custom(&one.id.kind));
        let objects = awaited.into_iter().map(|awaited| {
            let expectation = Expectation {
                generation: awaited.generation,
                load_balancer: options.load_balancer,
                claim_is_used: used.contains(&(awaited.id.namespace.clone(), awaited.id.name.clone())),
                before: Said::of_progress(&awaited.object).filter(|_| awaited.is_changed),
            };
            let must_settle = awaited.is_changed && !is_probed(&awaited.object);
            One {
                awaited,
                expectation,
                follow: None,
                status: Status::InProgress(Progress::default()),
                ready_since: None,
                must_settle,
                began: now,
                looked: None,
                best: 0,
                stages: BTreeSet::new(),
                shown: None,
                findings: Vec::new(),
                notes: Vec::new(),
                has_ended: false,
            }
        });
        let mut run = Self {
            objects: objects.collect(),
            options,
            report,
            collector,
            has_custom,
            began: now,
            progressed: now,
            rounds: JoinSet::new(),
            looking: false,
            next_round: now,
            seen: BTreeMap::new(),
            told: BTreeSet::new(),
            noted: BTreeSet::new(),
        };
        for index in 0..run.objects.len() {
            run.assess(index);
        }
        run
    }

    /// What is to be followed: what is not settled as it was answered.
    fn follows(&mut self) -> Vec<Follow> {
        let mut follows: Vec<Follow> = Vec::new();
        for one in self.objects.iter_mut().filter(|one| !one.status.is_settled()) {
            let Awaited { id, resource, .. } = &one.awaited;
            let same = follows
                .iter_mut()
                .find(|follow| follow.resource == *resource && follow.namespace == id.namespace);
            match same {
                Some(follow) => {
                    follow.names.push(id.name.clone());
                    one.follow = Some(follow.number);
                }
                None => {
                    let number = follows.len();
                    let (resource, namespace) = (resource.clone(), id.namespace.clone());
                    follows.push(Follow { number, resource, namespace, names: vec![id.name.clone()] });
                    one.follow = Some(number);
                }
            }
        }
        follows
    }

    fn all_settled(&self) -> bool {
        self.objects.iter().all(|one| matches!(one.status, Status::Ready(_) | Status::Skipped { .. }))
    }

    fn settled(&self) -> Vec<Settled> {
        let settled = self.objects.iter().map(|one| {
            let (is_skipped, note) = match &one.status {
                Status::Ready(note) => (false, note.clone()),
                Status::Skipped { why } => (true, Some(why.clone())),
                Status::InProgress(_) | Status::Failed { .. } => (false, None),
            };
            Settled { id: one.awaited.id.clone(), is_skipped, note }
        });
        settled.collect()
    }

    fn take(&mut self, update: Update) -> Result<(), DeployError> {
        match update {
            Update::Is { follow, name, object } => {
                if let Some(index) = self.index(follow, &name) {
                    if let Some(one) = self.objects.get_mut(index) {
                        one.awaited.object = object;
                    }
                    self.assess(index);
                }
            }
            Update::Gone { follow, name } => {
                if let Some(index) = self.index(follow, &name) {
                    self.gone(index);
                }
            }
            Update::Note(text) => self.note(text),
            // An object that may not even be read cannot be waited for.
            Update::Lost(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn index(&self, follow: usize, name: &str) -> Option<usize> {
        self.objects.iter().position(|one| one.follow == Some(follow) && one.awaited.id.name == name)
    }

    /// A Job may be deleted as soon as it is done; anything else that goes was taken away.
    fn gone(&mut self, index: usize) {
        let Some(one) = self.objects.get_mut(index) else { return };
        let job = one.awaited.id.kind.is("batch", "Job");
        one.status = match job && one.awaited.object.pointer("/spec/ttlSecondsAfterFinished").is_some() {
            true => Status::Ready(Some("it has ended and was cleaned up".to_owned())),
            false => Status::Failed { why: "it was deleted while it was waited for".to_owned() },
        };
        self.show(index);
    }

    fn assess(&mut self, index: usize) {
        let now = Instant::now();
        let settle = self.options.settle;
        let Some(one) = self.objects.get_mut(index) else { return };
        let mut status = assess(&one.awaited.object, &one.expectation);
        if let Status::Ready(_) = &status {
            let since = *one.ready_since.get_or_insert(now);
            if one.must_settle && now.duration_since(since) < one.settling(settle) {
                status = Status::InProgress(Progress {
                    parts: one.parts(),
                    why: "it is ready, and watched for a moment".to_owned(),
                    trouble: None,
                });
            }
        } else {
            one.ready_since = None;
        }
        if let Status::InProgress(progress) = &status {
            let done = progress.parts.map_or(0, |(done, _)| done);
            if done > one.best || one.stages.insert(progress.why.clone()) {
                one.best = one.best.max(done);
                self.progressed = now;
            }
        } else if status != one.status {
            self.progressed = now;
        }
        one.status = status;
        self.show(index);
    }

    /// Tells of a status that is another than before.
    fn show(&mut self, index: usize) {
        let Some(one) = self.objects.get_mut(index) else { return };
        let (state, text, parts) = match &one.status {
            Status::InProgress(progress) => ("in_progress", progress.why.clone(), progress.parts),
            Status::Ready(note) => ("ready", note.clone().unwrap_or_default(), None),
            Status::Failed { why } => ("failed", why.clone(), None),
            Status::Skipped { why } => ("skipped", why.clone(), None),
        };
        let shown = (state.to_owned(), text.clone());
        // What is there at once is no news.
        let at_once = one.shown.is_none() && state == "ready" && text.is_empty();
        if one.shown.as_ref() == Some(&shown) || at_once {
            return;
        }
        one.shown = Some(shown);
        self.report.event(Event::RolloutProgress(RolloutProgress {
            object: one.awaited.id.to_string(),
            namespace: one.awaited.id.namespace.clone(),
            state: state.to_owned(),
            done: parts.map(|(done, _)| done),
            of: parts.map(|(_, of)| of),
            text,
        }));
    }

    fn note(&mut self, text: String) {
        if self.noted.insert(text.clone()) {
            self.report.note(text);
        }
    }

    /// Looks at the clocks; an error ends the wait.
    async fn check(&mut self) -> Option<DeployError> {
        let now = Instant::now();
        for index in 0..self.objects.len() {
            let settling = self
                .objects
                .get(index)
                .is_some_and(|one| one.ready_since.is_some() && !one.status.is_settled());
            if settling {
                self.assess(index);
            }
        }
        if self.objects.iter().any(|one| matches!(one.status, Status::Failed { .. })) {
            return Some(DeployError::Rollout(self.troubles(true).await));
        }
        // A Job has nothing to show until it has ended: that it runs is all the progress there is.
        if self.objects.iter().any(One::is_at_work) {
            self.progressed = now;
        }
        let waited = now.duration_since(self.began);
        if waited >= self.options.timeout {
            let what =
                format!("not everything is ready after {}", crate::report::duration(self.options.timeout));
            return Some(DeployError::TimedOut { what, troubles: self.troubles(false).await });
        }
        if now.duration_since(self.progressed) >= self.options.no_progress {
            let what = format!("nothing has moved for {}", crate::report::duration(self.options.no_progress));
            return Some(DeployError::TimedOut { what, troubles: self.troubles(false).await });
        }
        if !self.looking && now >= self.next_round {
            self.look(now);
        }
        None
    }

    /// Begins a round of diagnosis with those that were not looked into for the longest time.
    fn look(&mut self, now: Instant) {
        let mut due: Vec<usize> = (0..self.objects.len())
            .filter(|&index| {
                self.objects.get(index).is_some_and(|one| {
                    !one.status.is_settled()
                        && now.duration_since(one.began) >= self.options.quiet
                        && is_observed(&one.awaited.object, &one.expectation)
                })
            })
            .collect();
        due.sort_by_key(|&index| self.objects.get(index).and_then(|one| one.looked));
        due.truncate(AT_ONCE);
        if due.is_empty() {
            return;
        }
        self.looking = true;
        self.next_round = now + ROUND;
        let looks: Vec<_> = due.iter().filter_map(|&index| self.look_into(index, now)).collect();
        self.rounds.spawn(join_all(looks));
    }

    fn look_into(&mut self, index: usize, now: Instant) -> Option<impl Future<Output = Look> + Send + use<>> {
        let others = self.objects.iter().enumerate().any(|(other, one)| {
            other != index && one.findings.is_empty() && matches!(one.status, Status::InProgress(_))
        });
        let one = self.objects.get_mut(index)?;
        one.looked = Some(now);
        let (collector, policy, has_custom) = (self.collector.clone(), self.options.policy, self.has_custom);
        let (id, object) = (one.awaited.id.clone(), one.awaited.object.clone());
        let is_settling = one.ready_since.is_some();
        Some(async move {
            let subject =
                Subject { id: &id, object: &object, others_under_way: others, has_custom, is_settling };
            let evidence = collector.collect(&subject).await;
            Look { index, findings: diagnose(&evidence, &policy), notes: evidence.notes }
        })
    }

    /// Takes note of what was found; an error if that is the end.
    fn judge(&mut self, round: Vec<Look>) -> Option<DeployError> {
        let now = Instant::now();
        let mut over = false;
        for Look { index, findings, notes } in round {
            for note in &notes {
                self.note(note.clone());
            }
            let Some(one) = self.objects.get_mut(index) else { continue };
            if one.status.is_settled() {
                continue;
            }
            one.notes = notes;
            one.has_ended |= findings.iter().any(|finding| is_an_end(finding.cause));
            one.findings = findings;
            for finding in one.findings.clone() {
                over |= self.weigh(&finding, now);
            }
        }
        self.seen.retain(|_, (_, last)| now.duration_since(*last) < BREAK);
        over.then(|| DeployError::Rollout(self.known_troubles()))
    }

    /// Tells of a finding; whether it ends the wait.
    fn weigh(&mut self, finding: &Finding, now: Instant) -> bool {
        let key = (finding.object.clone(), finding.cause, finding.container.clone());
        let (since, last) = self.seen.entry(key.clone()).or_insert((now, now));
        *last = now;
        let over = match finding.weight {
            Weight::Solid => true,
            Weight::Grace(grace) => now.duration_since(*since) >= grace,
            Weight::Told => false,
        };
        if self.told.insert(key) {
            self.report.event(Event::Diagnosis(told(finding, over)));
        }
        over
    }

    /// What is known to be wrong now.
    fn known_troubles(&self) -> Vec<Trouble> {
        let troubled = self.objects.iter().filter(|one| !one.status.is_settled() && !one.findings.is_empty());
        troubled.map(One::trouble).collect()
    }

    /// The same, looked up once more: for those that have failed, or for all that are not there.
    async fn troubles(&mut self, failed_only: bool) -> Vec<Trouble> {
        let now = Instant::now();
        let is_meant = |one: &One| match one.status {
            Status::Failed { .. } => true,
            Status::InProgress(_) => !failed_only,
            Status::Ready(_) | Status::Skipped { .. } => false,
        };
        let mut meant: Vec<usize> =
            (0..self.objects.len()).filter(|&index| self.objects.get(index).is_some_and(is_meant)).collect();
        let looks: Vec<_> =
            meant.iter().take(AT_ONCE).filter_map(|&index| self.look_into(index, now)).collect();
        for Look { index, findings, notes } in join_all(looks).await {
            if let Some(one) = self.objects.get_mut(index) {
                one.findings = findings;
                one.notes = notes;
                for finding in one.findings.clone() {
                    self.weigh(&finding, now);
                }
            }
        }
        meant.retain(|&index| self.objects.get(index).is_some());
        meant.iter().filter_map(|&index| self.objects.get(index)).map(One::trouble).collect()
    }
}

impl One {
    /// How long it must have been ready. While a liveness probe fails it is until the probe has had its say.
    fn settling(&self, settle: Duration) -> Duration {
        let settle = if self.has_ended { settle * ONCE_BITTEN } else { settle };
        if !self.findings.iter().any(|finding| finding.cause == Cause::LivenessProbe) {
            return settle;
        }
        let probes =
            list(&self.awaited.object, "/spec/template/spec/containers").iter().filter_map(|container| {
                let probe = container.get("livenessProbe")?;
                let seconds =
                    |name: &str, default| probe.get(name).and_then(Value::as_u64).unwrap_or(default);
                Some(
                    seconds("initialDelaySeconds", 0)
                        + seconds("periodSeconds", 10) * seconds("failureThreshold", 3),
                )
            });
        settle * 2 + Duration::from_secs(probes.max().unwrap_or(0)).min(LONGEST_PROBE)
    }

    /// Whether it is a Job whose pods run, as far as is known without trouble.
    fn is_at_work(&self) -> bool {
        let object = &self.awaited.object;
        let runs = object.pointer("/status/ready").or_else(|| object.pointer("/status/active"));
        self.awaited.id.kind.is("batch", "Job")
            && !self.status.is_settled()
            && self.findings.is_empty()
            && runs.and_then(Value::as_u64).is_some_and(|pods| pods > 0)
    }

    fn parts(&self) -> Option<(u64, u64)> {
        let wanted = self.awaited.object.pointer("/spec/replicas").and_then(Value::as_u64)?;
        Some((wanted, wanted))
    }

    fn trouble(&self) -> Trouble {
        let why = match &self.status {
            // A finding has it among its evidence.
            Status::InProgress(Progress { why, trouble: Some(trouble), .. }) if self.findings.is_empty() => {
                format!("{why}: {trouble}")
            }
            Status::InProgress(Progress { why, .. }) => why.clone(),
            Status::Failed { why } | Status::Skipped { why } => why.clone(),
            Status::Ready(note) => note.clone().unwrap_or_default(),
        };
        let (findings, notes) = (self.findings.clone(), self.notes.clone());
        Trouble { id: self.awaited.id.clone(), why, findings, notes }
    }
}

/// Whether it shows by a program's end, after which it is started again.
fn is_an_end(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::CrashLoop
            | Cause::OutOfMemory
            | Cause::WrongPlatform
            | Cause::LivenessProbe
            | Cause::StartHook
    )
}

fn told(finding: &Finding, is_final: bool) -> RolloutDiagnosis {
    RolloutDiagnosis {
        object: finding.object.to_string(),
        namespace: finding.object.namespace.clone(),
        cause: finding.cause.name().to_owned(),
        text: finding.what.clone(),
        pod: finding.pod.clone(),
        container: finding.container.clone(),
        node: finding.node.clone(),
        evidence: finding.evidence.clone(),
        advice: finding.advice.clone(),
        is_final,
        patience: match finding.weight {
            Weight::Grace(grace) if !is_final => Some(grace.as_secs()),
            _ => None,
        },
    }
}

/// The claims that the pods of an object use. A class that binds late waits for a pod, and there may be none for long: those of
/// a CronJob come at their time, those of what has no replicas, is paused or suspended do not come.
fn claims(object: &Value) -> Vec<String> {
    let is_on = |place| object.pointer(place).and_then(Value::as_bool) == Some(true);
    let has_none = object.pointer("/spec/replicas").and_then(Value::as_u64) == Some(0);
    if has_none || is_on("/spec/paused") || is_on("/spec/suspend") {
        return Vec::new();
    }
    let specs = ["/spec/template/spec", "/spec"];
    let volumes = specs.into_iter().flat_map(|place| match object.pointer(place) {
        Some(spec) => list(spec, "/volumes"),
        None => &[],
    });
    let names = volumes.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str());
    names.map(str::to_owned).collect()
}

/// Whether all containers of a workload say by a probe that they are ready; anything else that has no pods as well.
fn is_probed(object: &Value) -> bool {
    if !matches!(
        object.get("kind").and_then(Value::as_str),
        Some("Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
    ) {
        return true;
    }
    let idle = object.pointer("/spec/replicas").and_then(Value::as_u64) == Some(0);
    let mut containers = list(object, "/spec/template/spec/containers").iter();
    idle || containers.all(|container| container.get("readinessProbe").is_some_and(|probe| !probe.is_null()))
}

/// Whether a kind is not Kubernetes' own: its controller may make what others wait for.
fn is_custom(kind: &GroupKind) -> bool {
    kind.group.contains('.') && !kind.group.ends_with(".k8s.io")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A class that binds late would be waited for without end.
    #[rstest]
    #[case::pod(json!({"spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]}}), true)]
    #[case::deployment(json!({"spec": {"replicas": 1, "template": template()}}), true)]
    #[case::no_replicas(json!({"spec": {"replicas": 0, "template": template()}}), false)]
    #[case::paused(json!({"spec": {"paused": true, "template": template()}}), false)]
    #[case::suspended_job(json!({"spec": {"suspend": true, "template": template()}}), false)]
    #[case::cron_job(json!({"spec": {"jobTemplate": {"spec": {"template": template()}}}}), false)]
    fn claims_are_those_of_pods_that_come(#[case] object: Value, #[case] used: bool) {
        assert_eq!(claims(&object), if used { vec!["data"] } else { vec![] });
    }

    fn template() -> Value {
        json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}})
    }
}
