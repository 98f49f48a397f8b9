//! What a user could do about an error. Kept apart from the errors, which say only what happened.

use super::error::{ErrorKind, RegistryError};
use super::quirks::is_amazon;

/// The hint for an error, if there is one to give.
pub(crate) fn for_error(error: &RegistryError) -> Option<String> {
    let host = error.host();
    let name = host.split(':').next().unwrap_or_default();
    match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::Denied => Some(access(error, name)),
        ErrorKind::NotFound if is_amazon(name) || error.has_code("NAME_UNKNOWN") => Some(
            "the repository may have to be made before it can be pushed to (Amazon ECR, and the projects of \
             Harbor, are)"
                .to_owned(),
        ),
        ErrorKind::Throttled => Some(
            "log in, or pull through a mirror: registries count pulls by account, and by address where there \
             is none"
                .to_owned(),
        ),
        ErrorKind::Tls => Some(format!(
            "if `{host}` has a certificate of its own authority, give that authority's certificate; if it has \
             no TLS at all, name it as an insecure registry"
        )),
        ErrorKind::Registry if is_immutable(error) => {
            Some("the tag is immutable and names another image: push under a new tag".to_owned())
        }
        ErrorKind::Registry if error.status() == Some(413) => Some(
            "something before the registry limits the size of a request: for nginx raise `client_max_body_size`"
                .to_owned(),
        ),
        ErrorKind::Platform => Some("choose another with --platform, or another image".to_owned()),
        _ => None,
    }
}

fn access(error: &RegistryError, name: &str) -> String {
    let anonymous = error.credential().is_none_or(|source| source == "none found");
    if anonymous {
        return format!(
            "log in to `{name}`, or mount a file of credentials and set DOCKER_CONFIG to its directory"
        );
    }
    let mut hint = "check that these credentials may do this and have not run out".to_owned();
    if error.credential().is_some_and(|source| source.contains("CI_")) {
        hint.push_str("; a job's token lives as long as the job and reaches its own project");
    }
    hint.push_str("; the name of a Harbor robot holds a `$`, which shells and GitLab's variables eat");
    hint
}

/// How registries word that a tag cannot be moved: ECR, Harbor, Artifact Registry, Docker Hub.
fn is_immutable(error: &RegistryError) -> bool {
    matches!(error.status(), Some(400 | 409 | 412))
        && error.diagnostics().iter().any(|said| {
            let text = format!("{} {}", said.message, said.detail).to_ascii_lowercase();
            text.contains("immutable") || text.contains("cannot be overwritten")
        })
}
