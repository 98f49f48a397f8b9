//! Sources that are not on this machine: what ADD says of them.

use std::collections::BTreeMap;

use super::operation::Remote;
use crate::context::address::Address;
use crate::dockerfile::{AddInstruction, Diagnostic, Span, quote};
use crate::image::Digest;

/// COPY takes files of contexts, stages and images.
pub(super) fn refuse(path: &str, span: Span) -> Result<(), Diagnostic> {
    let what = match Address::parse(path) {
        Ok(None) => return Ok(()),
        Ok(Some(Address::File(_))) => "URL",
        Ok(Some(Address::Repository(_))) | Err(_) => "git repository",
    };
    let message = format!("COPY cannot copy the {what} {}", quote(path));
    Err(Diagnostic::error(message, span).hint("ADD takes URLs and git repositories"))
}

/// Which of the sources of an ADD are addresses. `checksum` is the value of the flag.
pub(super) fn sources(
    add: &AddInstruction,
    paths: &[(String, Span)],
    checksum: Option<(String, Span)>,
) -> Result<BTreeMap<usize, Remote>, Diagnostic> {
    let checksum = checksum.filter(|(text, _)| !text.is_empty());
    let mut remotes = BTreeMap::new();
    for (number, (path, span)) in paths.iter().enumerate() {
        let address = Address::parse(path)
            .map_err(|error| Diagnostic::error(format!("{} cannot be: {error}", quote(path)), *span))?;
        if let Some(address) = address {
            remotes.insert(number, remote(add, address, checksum.as_ref())?);
        }
    }
    if let Some((_, span)) = checksum {
        if paths.len() + add.transfer.inline.len() != 1 {
            let message = "`--checksum` goes with one source, and there are several";
            return Err(Diagnostic::error(message, span).hint("write an ADD for each"));
        }
        if remotes.is_empty() {
            let message = "`--checksum` goes with a URL or a git repository, and this is a path";
            return Err(Diagnostic::error(message, span));
        }
    }
    Ok(remotes)
}

/// What is to be said of a `--keep-git-dir` that there is nothing to keep for, which BuildKit accepts.
pub(super) fn nothing_to_keep(add: &AddInstruction, remotes: &BTreeMap<usize, Remote>) -> Option<Diagnostic> {
    let flag = add.keep_git_dir.as_ref().filter(|flag| flag.value)?;
    let is_repository = |remote: &Remote| matches!(remote, Remote::Repository { .. });
    let message = "`--keep-git-dir` means nothing here: no source is a git repository";
    (!remotes.values().any(is_repository)).then(|| Diagnostic::warning(message, flag.span))
}

fn remote(
    add: &AddInstruction,
    address: Address,
    checksum: Option<&(String, Span)>,
) -> Result<Remote, Diagnostic> {
    match address {
        Address::File(url) => {
            let checksum = checksum.map(|(text, span)| {
                let digest: Result<Digest, _> = text.parse();
                digest.map_err(|error| Diagnostic::error(error.to_string(), *span))
            });
            let unpacks = add.unpack.as_ref().is_some_and(|flag| flag.value);
            Ok(Remote::File { url, checksum: checksum.transpose()?, unpacks })
        }
        Address::Repository(mut address) => {
            if let Some((text, span)) = checksum {
                let fault = |error: crate::context::address::AddressError| {
                    Diagnostic::error(format!("`--checksum={text}` cannot be: {error}"), *span)
                };
                address.expect_commit(text).map_err(fault)?;
            }
            let keep_git_dir = match (address.keep_git_dir, &add.keep_git_dir) {
                (Some(said), Some(flag)) if said != flag.value => {
                    let message = "`--keep-git-dir` and the address say the opposite of each other";
                    return Err(Diagnostic::error(message, flag.span));
                }
                (said, flag) => said.or(flag.as_ref().map(|flag| flag.value)).unwrap_or(false),
            };
            Ok(Remote::Repository { address, keep_git_dir })
        }
    }
}
