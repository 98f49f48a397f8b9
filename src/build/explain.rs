//! What a build would do, step by step, and why: for those who ask before it does.

use serde::Serialize;

use super::error::BuildError;
use super::executor::Executor;
use crate::plan::{Stage, StageIndex};
use crate::report::{Change, Report, Step};

/// A step, and what would become of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Its key.
    pub key: String,
    /// What would become of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// Its result is known.
    Cached {
        /// Where it is from.
        from: String,
    },
    /// It is carried out, unless the files it takes from other stages turn out to be those of before.
    Executed {
        /// Why, in one sentence without a full stop.
        reason: String,
        /// The inputs that differ from the last time.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
    },
    /// Nothing takes anything from it that is not known.
    NotNeeded,
}

impl Explained {
    /// As lines.
    pub fn lines(&self) -> Vec<String> {
        let Self { step, fate, .. } = self;
        let stage = step.stage.as_ref().map(|stage| format!("{stage} ")).unwrap_or_default();
        let title = step.text.lines().next().unwrap_or_default();
        let head = format!("#{} [{stage}{}/{}] {title}", step.id, step.number, step.of);
        let (what, changes) = match fate {
            Fate::Cached { from } => (format!("cached ({from})"), &[][..]),
            Fate::NotNeeded => ("not needed".to_owned(), &[][..]),
            Fate::Executed { reason, changes } => (format!("carried out: {reason}"), changes.as_slice()),
        };
        let one_line = |text: String| text.lines().collect::<Vec<_>>().join(" ");
        let changes = changes.iter().map(|change| format!("    {}", one_line(change.to_string())));
        [head, format!("  {what}")].into_iter().chain(changes).collect()
    }
}

impl Executor {
    /// What would become of each step of the plan.
    pub(super) fn explain(&self) -> Result<Vec<Explained>, BuildError> {
        self.explain_missing()?;
        let needed = self.needed_stages();
        let mut explained = Vec::new();
        for stage in &self.plan.stages {
            for number in 0..stage.steps.len() {
                explained.extend(self.explain_step(stage, number, needed.contains(&stage.index)));
            }
        }
        Ok(explained)
    }

    fn explain_step(&self, stage: &Stage, number: usize, is_needed: bool) -> Option<Explained> {
        let (step, key) = (stage.steps.get(number)?, self.keys.get(stage.index, number)?);
        let at: (StageIndex, usize) = (stage.index, number);
        let fate = match self.known.get(&at) {
            Some(known) => Fate::Cached { from: known.from.clone() },
            None if !is_needed => Fate::NotNeeded,
            None if self.request.no_cache => {
                Fate::Executed { reason: "nothing is looked up".to_owned(), changes: Vec::new() }
            }
            None if self.afresh.contains(&at) => {
                let reason = "not looked up, as `--no-cache-filter` has it".to_owned();
                Fate::Executed { reason, changes: Vec::new() }
            }
            None => {
                let (reason, changes) = self.why_missing(stage, number).unwrap_or_default();
                Fate::Executed { reason, changes }
            }
        };
        Some(Explained { step: self.shown(stage, number, step), key: key.key.to_string(), fate })
    }

    /// Tells what will become of each step.
    pub(super) fn tell_explanations(&self, report: &Report) -> Result<(), BuildError> {
        for explained in self.explain()? {
            report.note(explained.lines().join("\n"));
        }
        Ok(())
    }
}
