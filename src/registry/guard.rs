//! Where a registry may send us.
//!
//! Realms, redirects and upload locations are addresses that a registry chooses. They must not lead from TLS to
//! plain HTTP, not to this machine or its network's metadata service, and credentials go to a foreign host only
//! where it is the realm that the registry announced. A host the user has configured is one the user vouches
//! for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use url::Host;

use super::endpoint::is_loopback;
use super::options::ClientOptions;

/// Amazon's metadata service over IPv6, the one cloud address of this kind that is not link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether two addresses have scheme, host and port in common.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// The address `to` that `from` named, on TLS if it is the same server without: a registry behind a proxy that
/// ends TLS often does not know that it is spoken to by HTTPS (distribution without `X-Forwarded-Proto`, Harbor
/// with a wrong external address).
pub(crate) fn upgraded(from: &Url, mut to: Url) -> Url {
    let same_port = match to.port() {
        None => from.port().is_none(),
        Some(port) => Some(port) == from.port_or_known_default(),
    };
    if from.scheme() == "https" && to.scheme() == "http" && from.host_str() == to.host_str() && same_port {
        let port = from.port();
        // Both are defined for addresses that have a host.
        let _set = to.set_scheme("https").and_then(|()| to.set_port(port));
    }
    to
}

/// Whether a request may go to `to` because `from` says so, with credentials or without.
///
/// # Errors
/// In words, why not.
pub(crate) fn check(
    from: &Url,
    to: &Url,
    with_credentials: bool,
    options: &ClientOptions,
) -> Result<(), String> {
    let Some(host) = to.host_str() else { return Err("an address without a host".to_owned()) };
    if !matches!(to.scheme(), "http" | "https") {
        return Err(format!("an address of scheme `{}`", to.scheme()));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("an address with a user in it".to_owned());
    }
    let name = to.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let configured = options.host(&name);
    let same_host = from.host_str() == to.host_str();
    if configured.is_none() && !same_host {
        if is_special(to) {
            return Err(format!("`{name}`, an address of the local network's own services"));
        }
        if is_loopback(host) && !from.host_str().is_some_and(is_loopback) {
            return Err(format!("`{name}`, this machine"));
        }
    }
    let plain_is_fine = configured.is_some_and(|host| host.plain_http) || is_loopback(host);
    if to.scheme() == "http" && !plain_is_fine {
        if from.scheme() == "https" {
            return Err(format!("`http://{name}`, which is not encrypted"));
        }
        if with_credentials && !same_host {
            return Err(format!("`http://{name}`, which is not encrypted, with credentials"));
        }
    }
    Ok(())
}

/// Link-local addresses, where clouds keep their metadata services, and "this network".
fn is_special(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6(address),
        },
        Some(Host::Domain(name)) => return name.trim_end_matches('.') == "metadata.google.internal",
        None => return false,
    };
    match address {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.is_unspecified() || address == METADATA_V6
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::registry::options::HostOptions;
    use rstest::rstest;

    fn options() -> ClientOptions {
        let plain = HostOptions { plain_http: true, ..HostOptions::default() };
        let hosts = BTreeMap::from([("plain.svc:5000".to_owned(), plain)]);
        ClientOptions { hosts, ..ClientOptions::default() }
    }

    #[rstest]
    #[case("https://r.example/", "https://auth.example/token", true)]
    #[case("https://r.example/", "https://r.example/token", true)]
    #[case("https://r.example/", "https://10.0.0.7/token", true)]
    #[case("https://r.example/", "http://plain.svc:5000/token", true)]
    #[case("http://plain.svc:5000/", "http://plain.svc:5000/token", true)]
    #[case("http://plain.svc:5000/", "http://plain.svc:5001/token", true)]
    #[case("http://127.0.0.1:5000/", "http://127.0.0.1:5001/token", true)]
    #[case("http://127.0.0.1:5000/", "http://auth.svc/token", false)]
    #[case("https://r.example/", "http://auth.example/token", false)]
    #[case("https://r.example/", "http://r.example:8080/token", false)]
    #[case("https://r.example/", "ftp://r.example/", false)]
    #[case("https://r.example/", "https://u:p@r.example/", false)]
    #[case("https://r.example/", "http://127.0.0.1:8001/token", false)]
    #[case("https://r.example/", "https://localhost/token", false)]
    #[case("https://r.example/", "https://169.254.169.254/latest", false)]
    #[case("https://r.example/", "https://[fe80::1]/", false)]
    #[case("https://r.example/", "https://[::ffff:169.254.169.254]/", false)]
    #[case("https://r.example/", "https://[fd00:ec2::254]/", false)]
    #[case("https://r.example/", "https://metadata.google.internal/", false)]
    fn credentials_go_where_they_may(#[case] from: Url, #[case] to: Url, #[case] may: bool) {
        assert_eq!(check(&from, &to, true, &options()).is_ok(), may);
    }

    #[test]
    fn without_credentials_plain_may_lead_to_plain() {
        let (from, to) = ("http://plain.svc:5000/", "http://storage.svc/b");
        assert!(check(&from.parse().unwrap(), &to.parse().unwrap(), false, &options()).is_ok());
    }

    #[rstest]
    #[case("https://r.example/", "http://r.example/v2/x?_state=a%3D", "https://r.example/v2/x?_state=a%3D")]
    #[case("https://r.example:8443/", "http://r.example:8443/x", "https://r.example:8443/x")]
    #[case("https://r.example/", "http://r.example:443/x", "https://r.example/x")]
    #[case("https://r.example/", "http://r.example:5000/x", "http://r.example:5000/x")]
    #[case("https://r.example:8443/", "http://r.example/x", "http://r.example/x")]
    #[case("https://r.example/", "http://other.example/x", "http://other.example/x")]
    #[case("http://r.example/", "http://r.example/x", "http://r.example/x")]
    fn the_same_server_is_kept_on_tls(#[case] from: Url, #[case] to: Url, #[case] then: &str) {
        assert_eq!(upgraded(&from, to).as_str(), then);
    }
}
