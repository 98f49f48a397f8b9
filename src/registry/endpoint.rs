//! Where a repository is asked for: its registry, and mirrors before it.

use reqwest::Url;

use super::credential::normal_key;
use super::error::{ErrorKind, RegistryError};
use super::options::{ClientOptions, MirrorRule};
use crate::image::Repository;

/// Docker Hub's API does not live under Docker Hub's name.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// A repository at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The host as credentials and options know it: `docker.io`.
    pub(crate) registry: String,
    /// The repository's path there; empty for the registry itself.
    pub(crate) path: String,
    /// Whether others are asked if this one fails.
    pub(crate) is_mirror: bool,
}

impl Endpoint {
    /// The registry that `repository` names.
    pub(crate) fn origin(repository: &Repository) -> Self {
        Self {
            registry: repository.registry().to_owned(),
            path: repository.path().to_owned(),
            is_mirror: false,
        }
    }

    /// A registry without a repository.
    pub(crate) fn registry(host: &str) -> Self {
        Self { registry: normal_key(host), path: String::new(), is_mirror: false }
    }

    /// The host and perhaps port that the API is reached at.
    pub(crate) fn host(&self) -> &str {
        if self.registry == "docker.io" { DOCKER_HUB_API } else { &self.registry }
    }

    /// The address of `rest` in the repository: `https://host/v2/path/rest`.
    pub(crate) fn url(&self, scheme: &str, rest: &str) -> Result<Url, RegistryError> {
        let slash = if self.path.is_empty() || rest.is_empty() { "" } else { "/" };
        let text = format!("{scheme}://{}/v2/{}{slash}{rest}", self.host(), self.path);
        Url::parse(&text).map_err(|error| {
            RegistryError::new(ErrorKind::Options, "name an address")
                .saying(format!("`{}` is not a registry host: {error}", self.registry))
        })
    }

    /// Whether the host is this machine, by its name alone.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(self.host())
    }

    /// For errors: "mirror `mirror.example/hub/library/debian`".
    pub(crate) fn describe(&self) -> String {
        let kind = if self.is_mirror { "mirror " } else { "" };
        format!("{kind}`{}/{}`", self.registry, self.path)
    }
}

/// Whether `host` (perhaps with a port) names this machine: 127.0.0.0/8, ::1, localhost.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Mirrors as they are looked up: checked, in one form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirrors(Vec<MirrorRule>);

impl Mirrors {
    /// Takes the rules out of `options`. A mirror written as `http://…` makes its host one that is spoken to without
    /// TLS.
    pub(crate) fn take(options: &mut ClientOptions) -> Result<Self, RegistryError> {
        let mut rules = Vec::new();
        for rule in std::mem::take(&mut options.mirrors) {
            let mut mirrors = Vec::new();
            for mirror in &rule.mirrors {
                let is_plain = mirror.starts_with("http://");
                let mirror = normal_key(mirror);
                let host = mirror.split('/').next().unwrap_or_default();
                if host.is_empty() || Url::parse(&format!("https://{mirror}/")).is_err() {
                    return Err(RegistryError::new(ErrorKind::Options, "set up mirrors")
                        .saying(format!("`{mirror}` is not a registry host and path")));
                }
                if is_plain {
                    let known = options.hosts.iter_mut().find(|(key, _)| normal_key(key) == host);
                    let own = match known {
                        Some((_, own)) => own,
                        None => options.hosts.entry(host.to_owned()).or_default(),
                    };
                    (own.plain_http, own.only_plain_http) = (true, true);
                }
                mirrors.push(mirror);
            }
            rules.push(MirrorRule { prefix: normal_key(&rule.prefix), mirrors, fall_back: rule.fall_back });
        }
        Ok(Self(rules))
    }

    /// Where `repository` is asked for, in order.
    pub(crate) fn endpoints(&self, repository: &Repository) -> Vec<Endpoint> {
        let origin = Endpoint::origin(repository);
        let name = repository.to_string();
        let fitting = self.0.iter().filter_map(|rule| {
            let rest = name.strip_prefix(&rule.prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((rule, rest))
        });
        let Some((rule, rest)) = fitting.max_by_key(|(rule, _)| rule.prefix.len()) else {
            return vec![origin];
        };
        let mut endpoints: Vec<Endpoint> = rule
            .mirrors
            .iter()
            .filter_map(|mirror| {
                let full = format!("{mirror}{rest}");
                let (registry, path) = full.split_once('/')?;
                Some(Endpoint { registry: registry.to_owned(), path: path.to_owned(), is_mirror: true })
            })
            .collect();
        if rule.fall_back || endpoints.is_empty() {
            endpoints.push(origin);
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("localhost", true)]
    #[case("localhost:5000", true)]
    #[case("LocalHost.:5000", true)]
    #[case("registry.localhost", true)]
    #[case("127.0.0.1:5000", true)]
    #[case("127.8.9.1", true)]
    #[case("[::1]:5000", true)]
    #[case("10.0.0.1:5000", false)]
    #[case("127.0.0.1.example.org", false)]
    #[case("mylocalhost", false)]
    #[case("[2001:db8::1]:5000", false)]
    fn loopback(#[case] host: &str, #[case] is: bool) {
        assert_eq!(is_loopback(host), is);
    }

    fn endpoints(rules: &[(&str, &[&str], bool)], repository: &str) -> Vec<String> {
        let mirrors = rules.iter().map(|(prefix, mirrors, fall_back)| MirrorRule {
            prefix: (*prefix).to_owned(),
            mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect(),
            fall_back: *fall_back,
        });
        let mut options = ClientOptions { mirrors: mirrors.collect(), ..ClientOptions::default() };
        let mirrors = Mirrors::take(&mut options).unwrap();
        let repository: Repository = repository.parse().unwrap();
        mirrors
            .endpoints(&repository)
            .iter()
            .map(|endpoint| endpoint.url("https", "x").unwrap().to_string())
            .collect()
    }

    #[test]
    fn mirrors_replace_the_longest_prefix_and_fall_back() {
        let rules: &[(&str, &[&str], bool)] = &[
            ("docker.io", &["https://mirror.example:443/hub/", "other.example:5000"], true),
            ("docker.io/library", &["official.example/x"], false),
            ("quay.io", &[], false),
        ];
        assert_eq!(
            endpoints(rules, "group/app"),
            [
                "https://mirror.example/v2/hub/group/app/x",
                "https://other.example:5000/v2/group/app/x",
                "https://registry-1.docker.io/v2/group/app/x",
            ]
        );
        assert_eq!(endpoints(rules, "debian"), ["https://official.example/v2/x/debian/x"]);
        assert_eq!(endpoints(rules, "quay.io/a/b"), ["https://quay.io/v2/a/b/x"]);
        assert_eq!(endpoints(rules, "ghcr.io/a/b"), ["https://ghcr.io/v2/a/b/x"]);
    }

    #[test]
    fn a_mirror_without_tls_is_so_by_its_scheme() {
        let rule = MirrorRule {
            prefix: "docker.io".into(),
            mirrors: vec!["http://mirror.svc:5000".into()],
            fall_back: true,
        };
        let mut options = ClientOptions { mirrors: vec![rule], ..ClientOptions::default() };
        Mirrors::take(&mut options).unwrap();
        let host = options.host("mirror.svc:5000").unwrap();
        assert!(host.plain_http && host.only_plain_http);
    }

    #[test]
    fn a_mirror_that_is_no_host_is_refused() {
        let rule = MirrorRule { prefix: "docker.io".into(), mirrors: vec!["a b".into()], fall_back: true };
        let mut options = ClientOptions { mirrors: vec![rule], ..ClientOptions::default() };
        assert_eq!(Mirrors::take(&mut options).unwrap_err().kind(), ErrorKind::Options);
    }
}
