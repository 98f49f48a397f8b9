//! How registries are reached: mirrors, hosts without TLS or with an authority of their own.

use std::path::{Path, PathBuf};

use super::error::{Problem, SettingsError};
use super::file::{ConfigFile, HostSection};
use super::flags::RegistryFlags;
use super::origin::{Given, Origin};
use super::surroundings::Surroundings;
use super::variables;
use crate::registry::{ClientOptions, HostOptions, Identity, Keychain, MirrorRule, Secret, UploadStyle};

/// The registry that a mirror without a name before it is for.
const DOCKER_HUB: &str = "docker.io";
/// What begins a certificate in PEM (RFC 7468, 5).
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// What the client is told.
    pub options: ClientOptions,
    /// Where credentials are looked up.
    pub keychain: Keychain,
}

pub(super) fn resolve(
    flags: &RegistryFlags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<RegistrySettings, SettingsError> {
    let environment = &surroundings.environment;
    let entries = |typed: &[String], flag: &'static str, variable: &'static str, separators: &[char]| {
        let listed = environment.get(variable).unwrap_or_default();
        let listed = listed.split(separators).map(str::trim).filter(|entry| !entry.is_empty());
        let listed: Vec<_> =
            listed.map(|entry| Given::new(entry.to_owned(), Origin::Variable(variable))).collect();
        let typed = typed.iter().map(|entry| Given::new(entry.clone(), Origin::Flag(flag)));
        typed.chain(listed).collect::<Vec<_>>()
    };
    // kaniko's `--registry-map` has several entries in one value.
    let typed: Vec<String> =
        flags.mirrors.iter().flat_map(|entry| entry.split(';').map(str::to_owned)).collect();
    let mirrors = entries(&typed, "--registry-mirror", variables::REGISTRY_MIRRORS, &[' ', ';', '\n', '\t']);
    let insecure = entries(
        &flags.insecure,
        "--insecure-registry",
        variables::INSECURE_REGISTRIES,
        &[' ', ',', ';', '\n', '\t'],
    );
    let authorities =
        entries(&flags.ca, "--registry-ca", variables::REGISTRY_CA, &[' ', ',', ';', '\n', '\t']);

    let mut options = ClientOptions::from_environment(environment);
    options.mirrors = mirror_rules(&mirrors, file)?;
    for (name, section) in &file.registries {
        apply_section(&mut options, name, section)?;
    }
    for entry in &insecure {
        let host = host(&entry.value).map_err(|problem| problem.at(&entry.origin))?;
        allow_insecure(options.hosts.entry(host).or_default());
    }
    for path in &file.registry_ca {
        options.extra_roots.push(read_certificates(&path.value, &path.origin)?);
    }
    for entry in &authorities {
        let (for_host, path) = authority(&entry.value).map_err(|problem| problem.at(&entry.origin))?;
        let pem = read_certificates(&path, &entry.origin)?;
        match for_host {
            Some(host) => options.hosts.entry(host).or_default().extra_roots.push(pem),
            None => options.extra_roots.push(pem),
        }
    }
    Ok(RegistrySettings { options, keychain: Keychain::new(environment.clone()) })
}

fn allow_insecure(options: &mut HostOptions) {
    options.plain_http = true;
    options.untrusted_certificate = true;
}

/// The rules of the flags and the variable, and behind them those of the file for registries that neither names.
fn mirror_rules(typed: &[Given<String>], file: &ConfigFile) -> Result<Vec<MirrorRule>, SettingsError> {
    let mut rules: Vec<(MirrorRule, &Origin)> = Vec::new();
    for entry in typed {
        let (prefix, mirrors) = mirror(&entry.value).map_err(|problem| problem.at(&entry.origin))?;
        match rules.iter_mut().find(|(rule, _)| rule.prefix == prefix) {
            Some((rule, origin)) if **origin == entry.origin => rule.mirrors.extend(mirrors),
            // A higher place has spoken.
            Some(_) => {}
            None => rules.push((MirrorRule { prefix, mirrors, fall_back: true }, &entry.origin)),
        }
    }
    let mut rules: Vec<MirrorRule> = rules.into_iter().map(|(rule, _)| rule).collect();
    for (name, section) in &file.registries {
        let Some(listed) = &section.mirrors else {
            set_fall_back(&mut rules, name, section)?;
            continue;
        };
        let prefix = prefix(name).map_err(|problem| problem.at(&listed.origin))?;
        let mirrors = listed.value.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>();
        let mirrors = mirrors.map_err(|problem| problem.at(&listed.origin))?;
        let fall_back = section.fall_back.as_ref().is_none_or(|given| given.value);
        match rules.iter_mut().find(|rule| rule.prefix == prefix) {
            // Whether the registry itself is asked is for the file alone to say.
            Some(rule) => rule.fall_back = fall_back,
            None => rules.push(MirrorRule { prefix, mirrors, fall_back }),
        }
    }
    Ok(rules)
}

/// `fall-back` in a section without mirrors of its own is about those of a flag or variable.
fn set_fall_back(rules: &mut [MirrorRule], name: &str, section: &HostSection) -> Result<(), SettingsError> {
    let Some(given) = &section.fall_back else { return Ok(()) };
    let prefix = prefix(name).map_err(|problem| problem.at(&given.origin))?;
    match rules.iter_mut().find(|rule| rule.prefix == prefix) {
        Some(rule) => rule.fall_back = given.value,
        None => {
            return Err(SettingsError::Conflict {
                problem: format!("{} is about mirrors, and there are none of `{name}`", given.origin),
                hint: Some("add `mirrors`, or remove `fall-back`".to_owned()),
            });
        }
    }
    Ok(())
}

fn apply_section(
    options: &mut ClientOptions,
    name: &str,
    section: &HostSection,
) -> Result<(), SettingsError> {
    let mut own = HostOptions::default();
    if section.insecure.as_ref().is_some_and(|given| given.value) {
        allow_insecure(&mut own);
    }
    for path in &section.ca {
        own.extra_roots.push(read_certificates(&path.value, &path.origin)?);
    }
    own.identity = identity(section)?;
    if let Some(given) = &section.upload {
        own.upload = Some(upload_style(&given.value).map_err(|problem| problem.at(&given.origin))?);
    }
    if let Some(about_host) = section.any_about_host() {
        let host = host(name).map_err(|problem| problem.at(about_host))?;
        options.hosts.insert(host, own);
    }
    Ok(())
}

fn identity(section: &HostSection) -> Result<Option<Identity>, SettingsError> {
    let (certificate, key) = match (&section.client_certificate, &section.client_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(given), None) | (None, Some(given)) => {
            return Err(SettingsError::Conflict {
                problem: format!("{} stands alone", given.origin),
                hint: Some("give `client-certificate` and `client-key`".to_owned()),
            });
        }
    };
    let key_bytes = read(&key.value, &key.origin)?;
    let key_text = String::from_utf8(key_bytes)
        .map_err(|_| Problem::new(key.value.display().to_string(), "is no key in PEM").at(&key.origin))?;
    Ok(Some(Identity {
        certificates: read_certificates(&certificate.value, &certificate.origin)?,
        key: Secret::new(key_text),
    }))
}

/// Reads `HOST=MIRROR[,MIRROR]`, or `MIRROR[,MIRROR]` for Docker Hub.
fn mirror(text: &str) -> Result<(String, Vec<String>), Problem> {
    let (name, mirrors) = match text.split_once('=') {
        Some((name, mirrors)) => (prefix(name)?, mirrors),
        None => (DOCKER_HUB.to_owned(), text),
    };
    let mirrors = mirrors.split(',').map(str::trim).map(address).collect::<Result<Vec<_>, _>>()?;
    if let Some(same) = mirrors.iter().find(|mirror| without_scheme(mirror).1 == name) {
        return Err(Problem::new(same, "is what it would be a mirror of"));
    }
    Ok((name, mirrors))
}

/// What is mirrored: a registry, or a part of it (`docker.io/library`).
fn prefix(text: &str) -> Result<String, Problem> {
    let (_, rest) = without_scheme(text.trim());
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host(name)?;
    Ok(if path.is_empty() { host } else { format!("{host}/{path}") })
}

/// A mirror's address: `mirror.example`, `mirror.example/hub`, `http://mirror.svc:5000`.
fn address(text: &str) -> Result<String, Problem> {
    let (scheme, rest) = without_scheme(text.trim());
    if rest.contains('@') {
        return Err(Problem::new(text, "holds a user or a password")
            .hint("log in to the mirror with `cofferdam login`"));
    }
    if rest.contains("://") {
        return Err(Problem::new(text, "has a scheme that is neither `http` nor `https`"));
    }
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host(name)?;
    let plain = if scheme == Some("http") { "http://" } else { "" };
    let slash = if path.is_empty() { "" } else { "/" };
    Ok(format!("{plain}{host}{slash}{path}"))
}

/// A registry's host, and perhaps port, in one spelling.
pub(crate) fn host(text: &str) -> Result<String, Problem> {
    let (_, rest) = without_scheme(text.trim());
    let problem = |what: &str| Err(Problem::new(text, what));
    if rest.contains("://") {
        return problem("has a scheme that is neither `http` nor `https`");
    }
    if let Some((address, bits)) = rest.split_once('/') {
        if address.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok() {
            return problem("is a range of addresses: name single hosts");
        }
        return problem("is no host: it has a path");
    }
    let (name, port) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                (address, port.strip_prefix(':'))
            }
            _ => return problem("is no IPv6 address in brackets"),
        },
        None => match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        },
    };
    let is_v6 = rest.starts_with('[');
    let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if name.is_empty() || !is_v6 && !name.chars().all(legal) {
        return problem("is no host name");
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return problem("has a port that is no number");
    }
    let host = rest.to_ascii_lowercase();
    Ok(match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        _ => host,
    })
}

/// Reads `[HOST=]FILE`.
fn authority(text: &str) -> Result<(Option<String>, PathBuf), Problem> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((Some(host(name)?), path.into())),
        Some(_) => Err(Problem::new(text, "names no file")),
        None => Ok((None, text.into())),
    }
}

/// Reads `streamed`, `monolithic` or `chunked:SIZE`.
fn upload_style(text: &str) -> Result<UploadStyle, Problem> {
    const WRONG: &str = "is no way to upload: give `streamed`, `monolithic` or `chunked:SIZE`";
    match text.split_once(':') {
        None if text == "streamed" => Ok(UploadStyle::Streamed),
        None if text == "monolithic" => Ok(UploadStyle::Monolithic),
        Some(("chunked", size)) => match super::values::size(size)? {
            0 => Err(Problem::new(text, WRONG)),
            size => Ok(UploadStyle::Chunked(size)),
        },
        _ => Err(Problem::new(text, WRONG).meant(text, ["streamed", "monolithic", "chunked"])),
    }
}

fn without_scheme(text: &str) -> (Option<&str>, &str) {
    let trimmed = text.trim_end_matches('/');
    for scheme in ["http", "https"] {
        if let Some(rest) = trimmed.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) {
            return (Some(scheme), rest);
        }
    }
    (None, trimmed)
}

fn read(path: &Path, origin: &Origin) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(path).map_err(|source| SettingsError::File {
        path: path.to_owned(),
        origin: origin.clone(),
        source,
    })
}

fn read_certificates(path: &Path, origin: &Origin) -> Result<Vec<u8>, SettingsError> {
    let pem = read(path, origin)?;
    if pem.windows(PEM_CERTIFICATE.len()).any(|window| window == PEM_CERTIFICATE) {
        return Ok(pem);
    }
    let problem = Problem::new(path.display().to_string(), "holds no certificate in PEM");
    Err(problem.hint("a certificate in DER is made PEM by `openssl x509 -inform der`").at(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("mirror.example", "docker.io", &["mirror.example"])]
    #[case("https://mirror.example/", "docker.io", &["mirror.example"])]
    #[case("docker.io=a.example,http://b.svc:5000/hub/", "docker.io", &["a.example", "http://b.svc:5000/hub"])]
    #[case("index.docker.io=a", "docker.io", &["a"])]
    #[case("quay.io=MIRROR.example/quay", "quay.io", &["mirror.example/quay"])]
    #[case("docker.io/library=a", "docker.io/library", &["a"])]
    #[case("[::1]:5000=127.0.0.1:5001", "[::1]:5000", &["127.0.0.1:5001"])]
    fn mirrors_as_typed(#[case] text: &str, #[case] prefix: &str, #[case] mirrors: &[&str]) {
        let (found, list) = mirror(text).unwrap();
        assert_eq!(
            (found.as_str(), list),
            (prefix, mirrors.iter().map(|&mirror| mirror.to_owned()).collect())
        );
    }

    #[rstest]
    #[case("", "`` is no host name")]
    #[case("docker.io=", "`` is no host name")]
    #[case("docker.io=a,,b", "`` is no host name")]
    #[case("a b", "`a b` is no host name")]
    #[case("mirror.example:x", "`mirror.example:x` has a port that is no number")]
    #[case(
        "https://u:p@mirror.example",
        "`https://u:p@mirror.example` holds a user or a password; log in to the mirror with `cofferdam login`"
    )]
    #[case("docker.io=https://docker.io", "`docker.io` is what it would be a mirror of")]
    #[case("ftp://mirror.example", "`ftp://mirror.example` has a scheme that is neither `http` nor `https`")]
    fn mirrors_that_are_none(#[case] text: &str, #[case] message: &str) {
        assert_eq!(mirror(text).unwrap_err().words(), message);
    }

    #[rstest]
    #[case("Registry.Example:5000", Ok("registry.example:5000"))]
    #[case("http://r.example", Ok("r.example"))]
    #[case("registry-1.docker.io", Ok("docker.io"))]
    #[case("10.0.0.0/8", Err("`10.0.0.0/8` is a range of addresses: name single hosts"))]
    #[case("r.example/group", Err("`r.example/group` is no host: it has a path"))]
    #[case("[::zz]", Err("`[::zz]` is no IPv6 address in brackets"))]
    fn hosts(#[case] text: &str, #[case] expected: Result<&str, &str>) {
        assert_eq!(
            host(text).map_err(|problem| problem.words()),
            expected.map(str::to_owned).map_err(str::to_owned)
        );
    }

    #[rstest]
    #[case("streamed", Ok(UploadStyle::Streamed))]
    #[case("chunked:5MiB", Ok(UploadStyle::Chunked(5 << 20)))]
    #[case(
        "chunked:0",
        Err("`chunked:0` is no way to upload: give `streamed`, `monolithic` or `chunked:SIZE`")
    )]
    #[case(
        "streaming",
        Err("`streaming` is no way to upload: give `streamed`, `monolithic` or `chunked:SIZE`")
    )]
    fn upload_styles(#[case] text: &str, #[case] expected: Result<UploadStyle, &str>) {
        assert_eq!(upload_style(text).map_err(|problem| problem.words()), expected.map_err(str::to_owned));
    }

    #[test]
    fn an_authority_may_be_for_one_host() {
        assert_eq!(authority("/etc/ca.pem"), Ok((None, "/etc/ca.pem".into())));
        assert_eq!(authority("r.example=/etc/ca.pem"), Ok((Some("r.example".into()), "/etc/ca.pem".into())));
        assert!(authority("r.example=").is_err());
    }
}
