//! `--no-cache-filter`: the steps that are not looked up.
//!
//! Stages are found by their names, whatever their case, as by BuildKit; a stage without a name cannot be meant. What is
//! built upon such a stage or takes files from it is carried out anew as well: its key says how those files come about and
//! not what they are, so a layer that was found by it might be of other files than this build has made. By what they are,
//! once that is known, such a step may be found.

use std::collections::BTreeSet;

use super::steps::sources;
use crate::dockerfile::{Dockerfile, Stage, nearest};
use crate::plan::{Base, Plan, Source, StageIndex};
use crate::report::Report;

/// The steps of `plan` that `stages` make anew, each by its stage and number.
pub(super) fn steps(plan: &Plan, stages: &[String]) -> BTreeSet<(StageIndex, usize)> {
    let mut steps = BTreeSet::new();
    // Stages that have such a step.
    let mut anew = BTreeSet::new();
    if stages.is_empty() {
        return steps;
    }
    for stage in &plan.stages {
        let mut is_anew = is_meant(stage.name.as_deref(), stages)
            || matches!(&stage.base, Base::Stage(base) if anew.contains(base));
        for (number, step) in stage.steps.iter().enumerate() {
            is_anew |= sources(step)
                .into_iter()
                .any(|source| matches!(source, Source::Stage(stage) if anew.contains(stage)));
            if is_anew {
                steps.insert((stage.index, number));
                anew.insert(stage.index);
            }
        }
    }
    steps
}

/// Whether a stage is one of those that are meant.
pub(super) fn is_meant(name: Option<&str>, stages: &[String]) -> bool {
    name.is_some_and(|name| stages.iter().any(|meant| meant.eq_ignore_ascii_case(name)))
}

/// Tells of names that no stage has.
pub(super) fn tell_unknown(stages: &[String], dockerfile: &Dockerfile, report: &Report) {
    let names = || dockerfile.stages.iter().filter_map(Stage::name);
    for wanted in stages.iter().filter(|wanted| !names().any(|name| name.eq_ignore_ascii_case(wanted))) {
        let hint = match nearest(&wanted.to_ascii_lowercase(), names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("a stage has the name that its FROM gives it: `FROM … AS {wanted}`"),
        };
        report.warn_with(format!("no stage is called `{wanted}`, as `--no-cache-filter` has it"), hint);
    }
}
