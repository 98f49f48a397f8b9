//! Images that cannot be pulled. What the kubelet says is checked against what the registry itself answers.

use super::container::Container;
use super::evidence::{PullAnswer, PullCheck, SecretFact};
use super::{Cause, Fact, Finding, Weight, flat};
use crate::deploy::status::{list, text};
use crate::image::Reference;

/// Why a container's image is not there; `reason` and `message` are those of its waiting.
pub(super) fn finding(container: &Container<'_>, reason: &str, message: &str) -> Finding {
    let image = text(container.spec, "/image");
    let told = message_of(container, message);
    let finding = match reason {
        "InvalidImageName" => container
            .new_finding(Cause::ImageName, format!("`{image}` is no name of an image"))
            .advise("correct it; a variable that was not replaced is the usual reason"),
        "ErrImageNeverPull" => container
            .new_finding(
                Cause::ImageNeverPull,
                format!(
                    "the image `{image}` is not on the node, and `imagePullPolicy: Never` forbids to pull it"
                ),
            )
            .advise("leave imagePullPolicy out, or bring the image to the node"),
        _ => pull(container, image, &told),
    };
    let count = container.event(&["Failed"]).map_or(1, |event| event.count);
    let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
    finding.seen(format!("kubelet{times}: {}", flat(essence(&told))))
}

/// What went wrong in the pull itself. While the kubelet backs off, older ones say so only in the event before.
fn message_of(container: &Container<'_>, message: &str) -> String {
    if let Some((_, rest)) = message.split_once("ErrImagePull: ") {
        return rest.to_owned();
    }
    if !message.is_empty() && !message.starts_with("Back-off pulling image") {
        return message.to_owned();
    }
    let event = container.evidence.events_of("Pod", text(container.pod, "/metadata/name")).find(|event| {
        event.is_of_container(container.name()) && event.message.starts_with("Failed to pull image")
    });
    event.and_then(|event| event.message.split_once("\": ")).map_or(message, |(_, rest)| rest).to_owned()
}

/// Without what every pull says.
fn essence(message: &str) -> &str {
    let message = message
        .strip_prefix("rpc error: code = ")
        .map_or(message, |rest| rest.split_once("desc = ").map_or(rest, |(_, rest)| rest));
    match message.split_once("failed to resolve image: ") {
        Some((_, rest)) => rest,
        None => message,
    }
}

/// The platforms that a registry has the container's image for.
pub(super) fn platforms(container: &Container<'_>) -> Option<String> {
    let check = container.evidence.registries.get(text(container.spec, "/image"))?;
    check.answers().find_map(|answer| match answer {
        PullAnswer::There { platforms } if !platforms.is_empty() => Some(platforms.join(", ")),
        _ => None,
    })
}

fn pull(container: &Container<'_>, image: &str, message: &str) -> Finding {
    let host = image.parse::<Reference>().map(|name| name.registry().to_owned()).unwrap_or_default();
    let said = without_names(message, &host);
    let is_code = |code: &str| {
        said.split(' ').any(|word| word.trim_matches(|letter: char| !letter.is_ascii_digit()) == code)
    };
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let unknown = PullCheck::default();
    let check = container.evidence.registries.get(image).unwrap_or(&unknown);
    if has(&[
        "no match for platform",
        "no matching manifest",
        "does not match the specified platform",
        "no child with platform",
    ]) {
        return wrong_platform(container, image);
    }
    if has(&["x509:", "tls:", "http response to https client", "certificate"]) {
        return tls(container, &host, message, check);
    }
    if has(&["toomanyrequests", "429 too many", "rate limit"]) {
        return container
            .new_finding(Cause::RegistryThrottled, format!("the registry `{host}` limits how much is pulled"))
            .weighing(Weight::Grace(container.policy.late))
            .advise(
                "pull with credentials, whose limits are higher, or through a mirror or the dependency proxy",
            );
    }
    let refused = has(&[
        "unauthorized",
        "authorization failed",
        "authentication required",
        "no basic auth",
        "access denied",
        "denied:",
        "insufficient_scope",
        "may require",
    ]);
    if refused || is_code("401") || is_code("403") {
        return denied(container, image, &host, check);
    }
    if has(&["not found", "manifest unknown", "name unknown", "manifest_unknown", "does not exist"])
        && !has(&["no such host"])
    {
        return missing(container, image, check);
    }
    if has(&[
        "dial tcp",
        "no such host",
        "connection refused",
        "i/o timeout",
        "no route to host",
        "connection reset",
        "eof",
        "deadline exceeded",
        "network is unreachable",
        "proxyconnect",
    ]) {
        return unreachable(container, &host, message, check);
    }
    container
        .new_finding(Cause::PullFailed, format!("the image `{image}` cannot be pulled"))
        .weighing(Weight::Grace(container.policy.late))
        .advise("correct what the message names")
}

/// What is said in lower case, without names and addresses: they may hold any word, and ports any number.
fn without_names(message: &str, host: &str) -> String {
    let is_name = |word: &&str| {
        word.contains('/') && *word != "i/o"
            || word.contains("sha256:")
            || !host.is_empty() && word.contains(host)
    };
    let words: Vec<&str> = message.split_whitespace().filter(|word| !is_name(word)).collect();
    words.join(" ").to_lowercase()
}

fn wrong_platform(container: &Container<'_>, image: &str) -> Finding {
    let node = container.evidence.nodes.get(text(container.pod, "/spec/nodeName")).and_then(Fact::known);
    let machine = node.map(|node| {
        format!(
            "{}/{}",
            text(node, "/status/nodeInfo/operatingSystem"),
            text(node, "/status/nodeInfo/architecture")
        )
    });
    let machine = machine.map_or("its node".to_owned(), |machine| format!("{machine}, as its node is"));
    let finding = container
        .new_finding(Cause::WrongPlatform, format!("the image `{image}` is not there for {machine}"));
    finding
        .seen(platforms(container).map(|offered| format!("registry: it is there for {offered}")).unwrap_or_default())
        .advise("build the image for the nodes' platform (`cofferdam build --platform linux/…`), or select nodes that it is for")
}

fn tls(container: &Container<'_>, host: &str, message: &str, check: &PullCheck) -> Finding {
    let (what, advice) = if message.contains("HTTP response to HTTPS client") {
        (
            format!("the node speaks TLS to `{host}`, and the registry does not"),
            "have the container runtime of the nodes take this registry without TLS, or give the registry a certificate",
        )
    } else {
        (
            format!("the node does not trust the certificate of `{host}`"),
            "give the authority's certificate to the container runtime of the nodes (for containerd: `certs.d`); it is not a matter of these manifests",
        )
    };
    let here = check.answers().any(|answer| {
        matches!(answer, PullAnswer::There { .. } | PullAnswer::Refused | PullAnswer::NotFound)
    });
    let finding = container.new_finding(Cause::RegistryTls, what);
    finding
        .seen(if here { format!("registry: `{host}` can be reached from here") } else { String::new() })
        .advise(advice)
}

fn unreachable(container: &Container<'_>, host: &str, message: &str, check: &PullCheck) -> Finding {
    let finding = container.new_finding(
        Cause::RegistryUnreachable,
        if message.contains("no such host") {
            format!("the node finds no address for the registry `{host}`")
        } else {
            format!("the node does not reach the registry `{host}`")
        },
    );
    let from_here = check.answers().find_map(|answer| match answer {
        PullAnswer::Unreachable(why) => Some(Err(why.clone())),
        PullAnswer::There { .. } | PullAnswer::NotFound | PullAnswer::Refused | PullAnswer::Tls(_) => {
            Some(Ok(()))
        }
        PullAnswer::Other(_) => None,
    });
    match from_here {
        Some(Err(_)) => finding
            .weighing(Weight::Grace(container.policy.grace))
            .seen("registry: it cannot be reached from here either")
            .advise("check the registry's name and port in the image, and whether it runs"),
        Some(Ok(())) => finding
            .weighing(Weight::Grace(container.policy.late))
            .seen("registry: it can be reached from here")
            .advise("the nodes' network, proxy or name server keeps them from it"),
        None => finding.weighing(Weight::Grace(container.policy.grace * 2)).advise(
            "check the registry's name and port in the image, whether it runs, and the nodes' network",
        ),
    }
}

fn missing(container: &Container<'_>, image: &str, check: &PullCheck) -> Finding {
    let name = image.parse::<Reference>().ok();
    let what = match &name {
        Some(name) if name.digest().is_some() => {
            format!("the registry has no image `{image}` of this digest")
        }
        Some(name) => {
            let tag = name.tag().unwrap_or("latest");
            format!("the image `{image}` does not exist: the registry has no tag `{tag}` there")
        }
        None => format!("the image `{image}` does not exist"),
    };
    let finding = container.new_finding(Cause::ImageNotFound, what);
    let confirmed = check.answers().any(|answer| *answer == PullAnswer::NotFound);
    let there = check.answers().any(|answer| matches!(answer, PullAnswer::There { .. }));
    let advised = finding.advise("push it before it is deployed, or correct the name; `cofferdam deploy --images` takes what a build has pushed");
    match (confirmed, there) {
        (true, _) => advised.seen("registry: asked from here, it says the same"),
        // It has come meanwhile: the kubelet will find it at its next try.
        (_, true) => advised
            .weighing(Weight::Grace(container.policy.late))
            .seen("registry: asked from here, it is there now"),
        _ => advised.weighing(Weight::Grace(container.policy.grace)),
    }
}

/// The registry wants credentials, or others.
fn denied(container: &Container<'_>, image: &str, host: &str, check: &PullCheck) -> Finding {
    let evidence = container.evidence;
    let names: Vec<&str> = list(container.pod, "/spec/imagePullSecrets")
        .iter()
        .map(|secret| text(secret, "/name"))
        .filter(|name| !name.is_empty())
        .collect();
    let make = format!("`cofferdam pull-secret` makes one for `{host}`");
    if names.is_empty() {
        return container
            .new_finding(
                Cause::PullSecretAbsent,
                format!("the registry `{host}` wants credentials, and the pod has none"),
            )
            .seen("pod: no imagePullSecrets, neither of its own nor of its service account")
            .advise(format!(
                "{make}; name it in `imagePullSecrets` of the pod template or of the service account"
            ));
    }
    let late = if evidence.has_custom { container.policy.late } else { container.policy.grace };
    let facts: Vec<(&str, &Fact<SecretFact>)> =
        names.iter().filter_map(|name| Some((*name, evidence.secrets.get(*name)?))).collect();
    // One that fits decides, whatever is wrong with the others.
    let fitting: Vec<&str> = facts
        .iter()
        .filter(|(_, fact)| fact.known().is_some_and(|secret| is_for(secret, image)))
        .map(|(name, _)| *name)
        .collect();
    if let Some(name) =
        fitting.iter().copied().find(|name| check.with.get(*name) == Some(&PullAnswer::Refused))
    {
        let is_job_token = facts
            .iter()
            .any(|(other, fact)| *other == name && fact.known().is_some_and(|secret| secret.is_job_token));
        let finding = container
            .new_finding(
                Cause::PullSecretRefused,
                format!("the registry `{host}` does not take the credentials of the Secret `{name}`"),
            )
            .seen("registry: asked from here with this Secret, it refuses too");
        return if is_job_token {
            finding.advise(format!(
                "it holds the token of a CI job, which ends with the job: take a deploy token; {make}"
            ))
        } else {
            finding.advise(format!(
                "the password is wrong, has expired, or may not read this repository; {make}"
            ))
        };
    }
    if fitting.is_empty() {
        if let Some((name, _)) = facts.iter().find(|(_, fact)| fact.is_missing()) {
            return container
                .new_finding(
                    Cause::PullSecretMissing,
                    format!(
                        "the Secret `{name}`, which the pod would pull with, does not exist in the namespace"
                    ),
                )
                .weighing(Weight::Grace(late))
                .advise(format!("{make}; Secrets are not shared between namespaces"));
        }
        let known: Vec<(&str, &SecretFact)> =
            facts.iter().filter_map(|(name, fact)| Some((*name, fact.known()?))).collect();
        if let Some((name, secret)) =
            known.iter().find(|(_, secret)| !is_pull_secret(secret) || secret.is_broken)
        {
            let what = if secret.is_broken && is_pull_secret(secret) {
                format!("the Secret `{name}` does not hold what its type `{}` says", secret.kind)
            } else {
                format!(
                    "the Secret `{name}` is of type `{}`, which the kubelet does not pull with",
                    secret.kind
                )
            };
            return container
                .new_finding(Cause::PullSecretType, what)
                .seen(format!("Secret {name}: type {}", secret.kind))
                .advise(format!("it must be `kubernetes.io/dockerconfigjson`; a Secret's type cannot be changed: delete it; {make}"));
        }
        if let Some((name, secret)) = known.first() {
            let hosts: Vec<String> = secret.hosts.iter().map(|host| format!("`{host}`")).collect();
            let hosts = if hosts.is_empty() { "no registry at all".to_owned() } else { hosts.join(", ") };
            return container
                .new_finding(
                    Cause::PullSecretHost,
                    format!("the Secret `{name}` has no credentials for `{host}`, only for {hosts}"),
                )
                .advise(format!("the name must be that of the image's registry, port included; {make}"));
        }
    }
    let there = check.with.values().any(|answer| matches!(answer, PullAnswer::There { .. }));
    let finding = container
        .new_finding(
            Cause::PullDenied,
            format!("the registry `{host}` does not let the image `{image}` be pulled"),
        )
        .weighing(Weight::Grace(if there { container.policy.late } else { late }));
    finding
        .seen(if there { "registry: asked from here with the pod's Secret, it lets it be pulled" } else { "" })
        .advise("check that the image exists and that the pull secret's user may read it: many registries hide what may not be seen")
}

fn is_pull_secret(secret: &SecretFact) -> bool {
    matches!(&*secret.kind, "kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg")
}

/// Whether the kubelet would use it for this image: its rule is a prefix of path segments behind the host.
pub(super) fn is_for(secret: &SecretFact, image: &str) -> bool {
    is_pull_secret(secret) && !secret.is_broken && secret.hosts.iter().any(|host| serves(host, image))
}

/// Whether an entry of a Docker configuration is for the registry of an image
/// (<https://kubernetes.io/docs/concepts/containers/images/#config-json>: `*` stands for a part of a host name).
pub(super) fn serves(entry: &str, image: &str) -> bool {
    let Ok(name) = image.parse::<Reference>() else { return false };
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let path = path.trim_start_matches("v1").trim_start_matches("v2").trim_matches('/');
    let is_hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let registry = name.registry();
    let same_host = host == registry
        || is_hub(host) && is_hub(registry)
        || (host.contains('*') && {
            let (wanted, given) = (registry.split('.'), host.split('.'));
            registry.split('.').count() == host.split('.').count()
                && wanted.zip(given).all(|(wanted, given)| glob(given, wanted))
        });
    let repository = name.repository().path();
    same_host && (path.is_empty() || repository == path || repository.starts_with(&format!("{path}/")))
}

/// A part of a host name with `*` for any letters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| glob(after, rest)))
        }),
    }
}
