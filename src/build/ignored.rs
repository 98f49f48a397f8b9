//! The check whether COPY and ADD name files that the ignore file excludes.

use super::bring;
use super::error::BuildError;
use super::inputs::Text;
use super::request::BuildRequest;
use crate::context::{LocalContext, clean};
use crate::dockerfile::{Diagnostic, Dockerfile, Rule, Span, Spanned, quote};
use crate::plan::{Operation, Plan, Source, Stage};

/// Patterns that exclude all that is in a context.
const EVERYTHING: [&str; 3] = ["*", "**", "**/*"];

/// Checks the steps of a plan.
///
/// Where an exception (`!`) stands in the ignore file nothing is said, as by BuildKit: a directory that is excluded may
/// have something in it that is not.
///
/// # Errors
/// If the ignore file cannot be read.
pub(super) fn check(
    request: &BuildRequest,
    text: &Text,
    dockerfile: &Dockerfile,
    plan: &mut Plan,
) -> Result<(), BuildError> {
    let steps = plan.stages.iter().flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)));
    let transfers: Vec<Named> = steps
        .filter_map(|(stage, step)| match &step.operation {
            Operation::Transfer(transfer) if transfer.source == Source::Context => {
                let (subject, comments) = instruction(dockerfile, stage, step.span);
                let paths = transfer.paths.iter().enumerate();
                let here = paths.filter(|(number, _)| !transfer.remotes.contains_key(number));
                let paths = here.map(|(_, path)| path.clone()).collect();
                Some(Named { subject, comments, name: transfer.name, paths })
            }
            _ => None,
        })
        .collect();
    if transfers.is_empty() {
        return Ok(());
    }
    let directory = bring::directory(request)?;
    let context = LocalContext::open(directory, text.path.as_deref())?;
    let (file, ignore) = context.ignore_file();
    if ignore.patterns().iter().any(|pattern| pattern.exception) {
        return Ok(());
    }
    let excludes_everything =
        ignore.patterns().iter().any(|pattern| EVERYTHING.contains(&clean(&pattern.text).as_str()));
    for Named { subject, comments, name, paths } in transfers {
        for (path, place) in &paths {
            let cleaned = clean(path);
            // The context itself is there, whatever of it is excluded.
            if matches!(cleaned.as_str(), "." | "/") && !excludes_everything {
                continue;
            }
            let Some(pattern) = ignore.explain(cleaned.as_bytes()) else { continue };
            // What a trigger names has no place of its own.
            let place =
                if subject.start <= place.start && place.end <= subject.end { *place } else { subject };
            let message = format!("{name} names {}, which is not in the context", quote(path));
            let finding = Diagnostic::warning(message, place).hint(format!(
                "{} on line {} of `{}` excludes it",
                quote(&pattern.text),
                pattern.line,
                file.display()
            ));
            plan.checks.add(Rule::CopyIgnoredFile, subject, &comments, finding);
        }
    }
    Ok(())
}

/// What a COPY or ADD names in the context.
struct Named {
    /// The instruction, and the comments before it.
    subject: Span,
    comments: Vec<Spanned<String>>,
    name: &'static str,
    paths: Vec<(String, Span)>,
}

/// The instruction that a step is about, and the comments before it: FROM without any, if its base has brought the step
/// along.
fn instruction(dockerfile: &Dockerfile, stage: &Stage, step: Span) -> (Span, Vec<Spanned<String>>) {
    let own = dockerfile.stages.get(stage.index);
    let own = own.and_then(|stage| stage.instructions.iter().find(|instruction| instruction.span == step));
    match own {
        Some(instruction) => (instruction.span, instruction.comments.clone()),
        None => (stage.span, Vec::new()),
    }
}
