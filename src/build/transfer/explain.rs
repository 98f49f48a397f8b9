//! What is said of sources that mean nothing.

use super::error::TransferError;
use super::origin::{Files, Origin, Seen};
use crate::context::clean;
use crate::context::wildcard::{Wildcard, has_wildcard, split};
use crate::dockerfile::{Diagnostic, Span, nearest, quote};
use crate::layer::TreePath;

/// A source that is not there; `at` is where it leads.
pub(super) fn missing(
    origin: &Origin,
    text: &str,
    span: Span,
    at: &TreePath,
) -> Result<Diagnostic, TransferError> {
    let written = TreePath::clean(clean(&format!("/{text}")).as_bytes()).unwrap_or_default();
    let shown = origin.shown(at);
    let message = if has_wildcard(text) {
        format!("nothing can match {}: {} is not in {}", quote(text), quote(&shown), origin.name())
    } else if *at == written {
        format!("{} is not in {}", quote(text), origin.name())
    } else {
        format!("{} leads to {}, which is not in {}", quote(text), quote(&shown), origin.name())
    };
    let finding = Diagnostic::error(message, span).label("not found");
    if let Files::Context(context) = origin.files()
        && let Some(hidden) = context.hidden(at.as_bytes())?
    {
        let line = format!(
            "`{}` hides {}: line {} is {}",
            hidden.file.display(),
            quote(&shown),
            hidden.pattern.line,
            quote(&hidden.pattern.text)
        );
        return Ok(finding.hint(format!("{line}; a later line `!{shown}` brings it back")));
    }
    if clean(text.trim_start_matches('/')).starts_with("..") {
        let hint = format!("`..` does not lead out of {}: this is {} in it", origin.name(), quote(&shown));
        return Ok(finding.hint(hint));
    }
    Ok(finding.maybe_hint(similar(origin, at)?))
}

/// A pattern that no file has. As with BuildKit it is no error: `COPY package.json package-lock.json* ./` is how
/// a file is copied that may be missing.
pub(super) fn no_match(origin: &Origin, text: &str, span: Span) -> Result<Diagnostic, TransferError> {
    let message = format!("{} means no file in {}", quote(text), origin.name());
    let finding = Diagnostic::warning(message, span).label("nothing matches");
    let Files::Context(context) = origin.files() else { return Ok(finding) };
    let (directory, Some(pattern)) = split(&clean(&format!("/{text}"))) else { return Ok(finding) };
    let Ok(wildcard) = Wildcard::parse(&pattern) else { return Ok(finding) };
    let Ok(directory) = TreePath::clean(directory.as_bytes()) else { return Ok(finding) };
    // Only where the pattern is for one directory: that is what most patterns are, and all that is looked through here.
    let names = context.names_on_disk(directory.as_bytes()).unwrap_or_default();
    for name in names.iter().filter(|name| wildcard.matches(name)) {
        let path = directory.join(name)?;
        if let Some(hidden) = context.hidden(path.as_bytes())? {
            let line = format!(
                "`{}` hides {}: line {} is {}",
                hidden.file.display(),
                quote(&origin.shown(&path)),
                hidden.pattern.line,
                quote(&hidden.pattern.text)
            );
            return Ok(finding.hint(line));
        }
    }
    Ok(finding)
}

/// A file that is there and nearly has the name.
fn similar(origin: &Origin, at: &TreePath) -> Result<Option<String>, TransferError> {
    let mut directory = TreePath::root();
    for component in at.components() {
        let next = directory.join(component)?;
        if let Seen::Nothing = origin.look(&next)? {
            let Ok((_, files)) = origin.list(&directory) else { return Ok(None) };
            let names: Vec<String> =
                files.iter().map(|file| String::from_utf8_lossy(&file.name).into_owned()).collect();
            let wanted = String::from_utf8_lossy(component);
            let near = nearest(&wanted, names.iter().map(String::as_str));
            let hint = near.map(|near| {
                let path = directory.join(near.as_bytes()).unwrap_or_default();
                format!("there is {}", quote(&origin.shown(&path)))
            });
            return Ok(hint);
        }
        directory = next;
    }
    Ok(None)
}
