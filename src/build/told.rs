//! What is told of steps: what they are called, why they are executed, how they failed.

use std::collections::BTreeMap;

use super::error::BuildError;
use super::executor::Executor;
use super::keys::StepKey;
use super::lies;
use crate::cache::{Explanation, FileList, Place};
use crate::dockerfile::Diagnostic;
use crate::plan::{Base, KeyPart, Stage, Step};
use crate::report::{self, Event, LiveStep, StepFailure};

impl Executor {
    /// A step as it is shown.
    pub(super) fn shown(&self, stage: &Stage, number: usize, step: &Step) -> report::Step {
        let before = self.plan.stages.iter().take_while(|other| other.index != stage.index);
        let id = self.part.steps_before + before.map(|stage| stage.steps.len()).sum::<usize>() + number + 1;
        let several = self.plan.stages.len() > 1;
        let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index));
        let name = match &self.part.platform {
            Some(_) if several => format!("{} {name}", stage.platform),
            Some(_) => stage.platform.to_string(),
            None => name,
        };
        report::Step {
            id: u32::try_from(id).unwrap_or(u32::MAX),
            stage: (several || self.part.platform.is_some()).then_some(name),
            number: u32::try_from(step.number.0).unwrap_or(u32::MAX),
            of: u32::try_from(step.number.1).unwrap_or(u32::MAX),
            text: step.title.clone(),
        }
    }

    /// What a step is known by from build to build, whatever it does.
    pub(super) fn place(&self, stage: &Stage, number: usize) -> Place {
        let name = stage.name.clone().unwrap_or_else(|| stage.index.to_string());
        Place {
            dockerfile: self.dockerfile(),
            stage: match &self.part.platform {
                Some(platform) => format!("{platform} {name}"),
                None => name,
            },
            step: number,
        }
    }

    /// The Dockerfile and its context, told apart from all others that this store knows.
    pub(super) fn dockerfile(&self) -> String {
        lies::here(self.contexts.directory(), &self.text)
    }

    /// Keeps the list of the files that a step selects, for the message of a later miss. Of very many files it is not worth
    /// its room.
    pub(super) fn keep_files(&self, key: &StepKey) -> Result<(), BuildError> {
        const MOST: usize = 20_000;
        let all = key.selection.iter().chain(key.mounts.values());
        for selection in all.filter(|selection| selection.files() <= MOST) {
            self.caches.store().keep_files(&selection.digest(), || FileList(selection.list()))?;
        }
        Ok(())
    }

    /// Tells why a step was not found in the cache.
    pub(super) fn tell_miss(&self, live: &LiveStep, stage: &Stage, number: usize) {
        if let Some((reason, changes)) = self.why_missing(stage, number) {
            self.services.report.event(Event::CacheMiss { step: live.id(), reason, changes });
        }
    }

    /// Why a step was not found, and the inputs that are not what they were.
    pub(super) fn why_missing(&self, stage: &Stage, number: usize) -> Option<(String, Vec<report::Change>)> {
        let at = (stage.index, number);
        let explanation = self.explanations.get()?.get(&at)?;
        if self.results.is_stale(at) {
            return Some(("its result is older than `--cache-ttl`".to_owned(), Vec::new()));
        }
        let changes = explanation.changes().iter().map(|change| report::Change {
            what: change.what.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        });
        let reason = match (explanation, number, stage.base) {
            (Explanation::Follows, 0, Base::Stage(_)) => {
                "the stage that it is built upon has changed".to_owned()
            }
            (Explanation::Follows, 0, _) => "the base image has changed".to_owned(),
            (Explanation::Gone, ..) if self.results.has(at) => {
                "its result was made above other layers".to_owned()
            }
            (explanation, ..) => explanation.reason(),
        };
        Some((reason, changes.collect()))
    }

    /// Finds out why steps are missing, once, before any of them is carried out and remembered.
    pub(super) fn explain_missing(&self) -> Result<(), BuildError> {
        if self.explanations.get().is_some() {
            return Ok(());
        }
        let mut found = BTreeMap::new();
        for stage in self.plan.stages.iter().filter(|_| !self.request.no_cache) {
            let keys: Vec<&StepKey> =
                (0..stage.steps.len()).filter_map(|number| self.keys.get(stage.index, number)).collect();
            let missing = |number: &usize| !self.is_known(stage.index, *number);
            if !(0..keys.len()).any(|number| missing(&number)) {
                continue;
            }
            for (_, key) in keys.iter().enumerate().filter(|(number, _)| missing(number)) {
                self.keep_files(key)?;
            }
            let parts: Vec<&[KeyPart]> = keys.iter().map(|key| key.parts.as_slice()).collect();
            let place = self.place(stage, 0);
            let explained = self.caches.store().explain(&place.dockerfile, &place.stage, &parts)?;
            let explained = explained.into_iter().enumerate().filter(|(number, _)| missing(number));
            found.extend(explained.map(|(number, explanation)| ((stage.index, number), explanation)));
        }
        let _ = self.explanations.set(found);
        Ok(())
    }

    /// The error of a step that ran and failed.
    pub(super) fn step_failed(
        &self,
        step: &Step,
        failure: StepFailure,
        output: &[String],
        hint: Option<String>,
    ) -> BuildError {
        let message = format!("`{}` failed: {failure}", first_line(&step.title));
        let mut finding = Diagnostic::error(message, step.span).label(failure.to_string());
        let output = (!output.is_empty()).then(|| format!("the last it wrote:\n{}", output.join("\n")));
        let hints: Vec<String> = hint.into_iter().chain(output).collect();
        if !hints.is_empty() {
            finding = finding.hint(hints.join("\n"));
        }
        BuildError::Step { finding: self.text.finding(finding), failure }
    }

    /// An error of a step, with the step's place.
    pub(super) fn located(&self, step: &Step, error: BuildError) -> BuildError {
        self.located_with(step, error, None)
    }

    /// The same, with advice where the error itself gives none.
    pub(super) fn located_with(&self, step: &Step, error: BuildError, advice: Option<String>) -> BuildError {
        match error {
            error @ (BuildError::Dockerfile(_) | BuildError::Step { .. } | BuildError::Cancelled) => error,
            BuildError::Refused { what, hint } => {
                BuildError::Dockerfile(self.text.finding(Diagnostic::error(what, step.span).maybe_hint(hint)))
            }
            error => {
                let message = format!("`{}` cannot be carried out", first_line(&step.title));
                let finding = self.text.finding(Diagnostic::error(message, step.span).maybe_hint(advice));
                BuildError::Setup { finding, source: Box::new(error) }
            }
        }
    }
}

/// Says that a step failed, unless it was given up.
pub(super) fn tell_failure(live: Option<LiveStep>, error: &BuildError) {
    let Some(live) = live else { return };
    match error {
        BuildError::Cancelled => {}
        BuildError::Step { failure, .. } => live.failed(failure.clone()),
        error => live.failed(StepFailure::Reason(error.to_string())),
    }
}

/// A title may be a whole script.
fn first_line(title: &str) -> &str {
    title.lines().next().unwrap_or_default()
}
