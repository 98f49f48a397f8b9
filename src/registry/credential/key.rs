//! The keys under which credentials are filed, and which of them is meant for a repository.
//!
//! People and tools write the same registry as `ghcr.io`, `https://ghcr.io`, `ghcr.io:443` or
//! `https://ghcr.io/v2/`, and Docker Hub under four names; podman and GitLab file credentials for a part of a
//! registry (`ghcr.io/org`). All of them are brought into one form and compared there.

/// What Docker Hub is called in this program.
const DOCKER_HUB: &str = "docker.io";

/// The key that `docker login` files Docker Hub under, and that helpers know it by.
pub(super) const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// A key in its one form: `host[:port][/path]`, the host in lower case, without scheme, `/v1/`, `/v2/` and the
/// port that goes without saying.
pub(crate) fn normal(key: &str) -> String {
    let key = key.trim();
    let (bare, default_port) = match key.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, ":80"),
        Some((_, rest)) => (rest, ":443"),
        None => (key, ":443"),
    };
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" | "hub.docker.com" => {
            DOCKER_HUB
        }
        other => other,
    };
    match path.trim_matches('/') {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// The name a credential helper is asked for.
pub(super) fn server_name(registry: &str) -> String {
    let host = normal(registry);
    let host = host.split('/').next().unwrap_or_default();
    if host == DOCKER_HUB { DOCKER_HUB_SERVER.to_owned() } else { host.to_owned() }
}

/// The key that a login to `registry` is filed under.
pub(super) fn filed_under(registry: &str) -> String {
    match normal(registry) {
        host if host == DOCKER_HUB => DOCKER_HUB_SERVER.to_owned(),
        other => other,
    }
}

/// Of `keys`, the one that reaches furthest into `registry`/`path` (both in normal form).
pub(super) fn best<'k>(
    keys: impl IntoIterator<Item = &'k String>,
    registry: &str,
    path: &str,
) -> Option<&'k String> {
    let wanted = format!("{}/{path}", normal(registry));
    let mut best: Option<(usize, &String)> = None;
    for key in keys {
        let prefix = normal(key);
        let serves =
            wanted.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // Of two spellings of one key the first in the file's order of names wins.
        if serves && best.is_none_or(|(length, _)| prefix.len() > length) {
            best = Some((prefix.len(), key));
        }
    }
    best.map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Source: docker/cli, reference of "docker login".
    #[rstest]
    #[case("ghcr.io", "ghcr.io")]
    #[case("https://GHCR.io/", "ghcr.io")]
    #[case("ghcr.io:443", "ghcr.io")]
    #[case("https://ghcr.io/v2/", "ghcr.io")]
    #[case("http://r.example:80/v1/", "r.example")]
    #[case("http://r.example:443", "r.example:443")]
    #[case("r.example:5000/Group", "r.example:5000/Group")]
    #[case("https://index.docker.io/v1/", "docker.io")]
    #[case("index.docker.io", "docker.io")]
    #[case("registry-1.docker.io", "docker.io")]
    #[case("docker.io/library", "docker.io/library")]
    #[case("ghcr.io/org/v2", "ghcr.io/org/v2")]
    #[case("[::1]:5000", "[::1]:5000")]
    fn keys_have_one_form(#[case] written: &str, #[case] form: &str) {
        assert_eq!(normal(written), form);
    }

    #[rstest]
    #[case("docker.io", "https://index.docker.io/v1/")]
    #[case("ghcr.io", "ghcr.io")]
    #[case("r.example:5000", "r.example:5000")]
    fn helpers_know_docker_hub_by_its_old_name(#[case] registry: &str, #[case] server: &str) {
        assert_eq!(server_name(registry), server);
    }

    /// Source: containers-auth.json(5).
    #[rstest]
    #[case("ghcr.io", "org/other", Some("ghcr.io/org"))]
    #[case("ghcr.io", "org/app/web", Some("https://ghcr.io/org/app"))]
    #[case("ghcr.io", "organisation/app", Some("ghcr.io"))]
    #[case("docker.io", "library/debian", Some("https://index.docker.io/v1/"))]
    #[case("r.example:5000", "a", None)]
    #[case("r.example", "a", Some("r.example:443"))]
    fn the_longest_prefix_wins(#[case] registry: &str, #[case] path: &str, #[case] key: Option<&str>) {
        let keys = [
            "ghcr.io",
            "ghcr.io/org",
            "https://ghcr.io/org/app",
            "https://index.docker.io/v1/",
            "r.example:443",
            "r.example:5001",
        ]
        .map(String::from);
        assert_eq!(best(&keys, registry, path).map(String::as_str), key);
    }
}
