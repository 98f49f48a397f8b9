//! Connections: TLS and its trust, hosts without it, proxies, and what holds on a transport of another kind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cofferdam::registry::transport::{Request, Response, Transport, TransportError, TransportErrorKind};
use cofferdam::registry::{
    Client, ClientOptions, Environment, ErrorKind, HostOptions, HttpTransport, Identity, Keychain, Proxies,
    RetryPolicy, Secret, TrustStore, install_tls_provider,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use rstest::rstest;

use crate::client::{TestClock, anonymous, client_with, options, reference, repository, user_at};
use crate::faulty::http::Answer;
use crate::faulty::registry::{Auth, FakeRegistry, Running};
use crate::faulty::tls::{Authority, Certificate};

fn over_tls(certificate: &Certificate) -> Running {
    let registry = FakeRegistry::new(Auth::None).serve_on("127.0.0.1", Some(certificate.server(None)));
    registry.put_image("a", "v1");
    registry
}

/// The name `localhost`, which the certificates of these tests are for or not.
fn named(registry: &Running) -> String {
    registry.host().replace("127.0.0.1", "localhost")
}

fn with_host(host: &str, special: HostOptions) -> ClientOptions {
    let mut options = options();
    options.hosts.insert(host.to_owned(), special);
    options
}

#[test]
fn the_provider_can_be_installed_again() {
    install_tls_provider();
    install_tls_provider();
    // What other libraries in this program do; it panics where there is none.
    drop(rustls::ClientConfig::builder());
}

#[tokio::test]
async fn loopback_may_do_without_tls() {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    let (client, _) = anonymous();
    for host in [registry.host(), named(&registry)] {
        client.manifest(&reference(&host, "a:v1")).await.unwrap();
    }
    let before = registry.server.accepted();
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(registry.server.accepted(), before, "TLS is not tried again, the connection is kept");
}

/// Source: docker/docs, "Use a self-signed certificate".
#[tokio::test]
async fn a_certificate_of_a_given_authority_is_trusted() {
    let authority = Authority::new();
    let registry = over_tls(&authority.issue(&["localhost"]));
    let host = named(&registry);
    let mut everywhere = options();
    everywhere.extra_roots.push(authority.pem().into_bytes());
    let roots = vec![authority.pem().into_bytes()];
    let here = with_host(&host, HostOptions { extra_roots: roots, ..HostOptions::default() });
    for options in [everywhere, here] {
        let (client, _) = client_with(options, Keychain::empty());
        client.manifest(&reference(&host, "a:v1")).await.unwrap();
    }
}

#[tokio::test]
async fn the_environment_may_name_the_authorities() {
    let directory = tempfile::TempDir::new().unwrap();
    let authority = Authority::new();
    let registry = over_tls(&authority.issue(&["localhost"]));
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let file = file.to_str().unwrap();
    let nowhere = format!("/nowhere:{}", directory.path().display());
    for (name, value) in [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", nowhere.as_str())] {
        let trust = TrustStore::from_environment(&Environment::new([(name, value)]));
        let (client, _) = client_with(ClientOptions { trust, ..options() }, Keychain::empty());
        client.manifest(&reference(&named(&registry), "a:v1")).await.unwrap();
    }
    let trust = TrustStore::from_environment(&Environment::new([("SSL_CERT_FILE", "/nowhere")]));
    let error = HttpTransport::new(&ClientOptions { trust, ..options() }).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

/// An image without any certificates (`FROM scratch`): the roots that the program carries.
#[tokio::test]
async fn an_image_without_certificates_still_works() {
    let trust = TrustStore { files: vec!["/nowhere".into()], directories: Vec::new(), named: false };
    HttpTransport::new(&ClientOptions { trust, ..options() }).unwrap();
}

#[rstest]
#[case::unknown_authority("localhost", false)]
#[case::other_name("registry.test", true)]
#[tokio::test]
async fn a_certificate_that_does_not_verify_is_final(#[case] name: &str, #[case] known: bool) {
    let authority = Authority::new();
    let registry = over_tls(&authority.issue(&[name]));
    let mut options = options();
    if known {
        options.extra_roots.push(authority.pem().into_bytes());
    }
    let (client, clock) = client_with(options, Keychain::empty());
    let error = client.manifest(&reference(&named(&registry), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(error.to_string().contains("certificate is not trusted"), "{error}");
    assert!(clock.pauses().is_empty(), "a certificate does not get better by asking again");
    assert!(registry.log().is_empty(), "and plain HTTP is not tried, though this is loopback");
}

/// `openssl req -x509` makes a certificate that is its own authority; it is handed in as "the CA".
#[tokio::test]
async fn a_self_signed_certificate_that_is_handed_in_is_trusted() {
    let certificate = Certificate::self_signed(&["localhost"]);
    let registry = over_tls(&certificate);
    let mut trusting = options();
    trusting.extra_roots.push(certificate.pem.clone().into_bytes());
    let (client, _) = client_with(trusting.clone(), Keychain::empty());
    client.manifest(&reference(&named(&registry), "a:v1")).await.unwrap();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "for its own name alone");

    let other = over_tls(&Certificate::self_signed(&["localhost"]));
    let error = client.manifest(&reference(&named(&other), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "and no other certificate");
}

#[tokio::test]
async fn a_certificate_that_has_run_out_is_refused_though_handed_in() {
    let certificate = Certificate::expired(&["localhost"]);
    let registry = over_tls(&certificate);
    let mut options = options();
    options.extra_roots.push(certificate.pem.clone().into_bytes());
    let (client, _) = client_with(options, Keychain::empty());
    let error = client.manifest(&reference(&named(&registry), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
}

/// Per host, never for all.
#[tokio::test]
async fn a_certificate_is_left_unchecked_for_one_host_only() {
    let (one, two) =
        (over_tls(&Certificate::self_signed(&["x.test"])), over_tls(&Certificate::self_signed(&["x.test"])));
    let unchecked = HostOptions { untrusted_certificate: true, ..HostOptions::default() };
    let (client, _) = client_with(with_host(&one.host(), unchecked), Keychain::empty());
    client.manifest(&reference(&one.host(), "a:v1")).await.unwrap();
    let error = client.manifest(&reference(&two.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
}

/// Source: docker/docs, "Verify repository client with certificates".
#[tokio::test]
async fn a_client_certificate_is_shown_where_it_belongs() {
    let authority = Authority::new();
    let server = authority.issue(&["localhost"]);
    let registry = FakeRegistry::new(Auth::None).serve_on("127.0.0.1", Some(server.server(Some(&authority))));
    registry.put_image("a", "v1");
    let host = named(&registry);
    let own = authority.issue(&["client"]);
    let special = HostOptions {
        extra_roots: vec![authority.pem().into_bytes()],
        identity: Some(Identity { certificates: own.pem.clone().into_bytes(), key: Secret::new(own.key) }),
        ..HostOptions::default()
    };
    let (client, _) = client_with(with_host(&host, special.clone()), Keychain::empty());
    client.manifest(&reference(&host, "a:v1")).await.unwrap();
    let without = HostOptions { identity: None, ..special };
    let mut options = with_host(&host, without);
    options.retry = RetryPolicy::never();
    let (client, _) = client_with(options, Keychain::empty());
    client.manifest(&reference(&host, "a:v1")).await.unwrap_err();
}

/// A transport that stands for hosts elsewhere: what is sent where is all that matters.
#[derive(Debug, Default)]
struct Elsewhere {
    sent: Mutex<Vec<String>>,
    /// Hosts that have no TLS.
    plain: Vec<&'static str>,
    failure: Option<TransportErrorKind>,
}

impl Transport for Elsewhere {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        self.sent.lock().unwrap().push(request.url.to_string());
        let host = request.url.host_str().unwrap().to_owned();
        let is_plain = self.plain.contains(&host.as_str());
        if let Some(kind) = self.failure {
            return std::future::ready(Err(TransportError::new(kind))).boxed();
        }
        if request.url.scheme() == "https" && is_plain {
            return std::future::ready(Err(TransportError::new(TransportErrorKind::NotTls))).boxed();
        }
        let body = stream::empty().boxed();
        let status = reqwest::StatusCode::NOT_FOUND;
        std::future::ready(Ok(Response { status, headers: reqwest::header::HeaderMap::new(), body })).boxed()
    }
}

fn elsewhere(options: ClientOptions, transport: Elsewhere) -> (Client, Arc<Elsewhere>, TestClock) {
    let (transport, clock) = (Arc::new(transport), TestClock::default());
    let client =
        Client::with_parts(options, Keychain::empty(), transport.clone(), Arc::new(clock.clone())).unwrap();
    (client, transport, clock)
}

/// Source: docker/docs, "Deploy a plain HTTP registry".
#[tokio::test]
async fn only_hosts_that_are_named_so_are_spoken_to_without_tls() {
    let plain = || Elsewhere { plain: vec!["registry.svc", "other.svc"], ..Elsewhere::default() };
    let insecure = HostOptions { plain_http: true, ..HostOptions::default() };
    let (client, transport, _) = elsewhere(with_host("registry.svc:5000", insecure), plain());
    let name = reference("registry.svc:5000", "a:v1");
    assert_eq!(client.head_manifest(&name).await.unwrap(), None);
    assert_eq!(client.head_manifest(&name).await.unwrap(), None);
    assert_eq!(
        *transport.sent.lock().unwrap(),
        [
            "https://registry.svc:5000/v2/a/manifests/v1",
            "http://registry.svc:5000/v2/a/manifests/v1",
            "http://registry.svc:5000/v2/a/manifests/v1",
        ]
    );
    let error = client.head_manifest(&reference("other.svc:5000", "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    assert!(error.hint().unwrap().contains("insecure registry"));
    assert_eq!(transport.sent.lock().unwrap().len(), 4, "and is not tried again");
}

#[tokio::test]
async fn a_broken_certificate_never_leads_to_plain_http() {
    let insecure = HostOptions { plain_http: true, ..HostOptions::default() };
    let failure = Some(TransportErrorKind::Certificate);
    let (client, transport, _) =
        elsewhere(with_host("registry.svc", insecure), Elsewhere { failure, ..Elsewhere::default() });
    client.head_manifest(&reference("registry.svc", "a:v1")).await.unwrap_err();
    assert_eq!(transport.sent.lock().unwrap().len(), 1);
}

/// Source: distribution/distribution#785.
#[rstest]
#[case(TransportErrorKind::UnknownHost, 1)]
#[case(TransportErrorKind::Certificate, 1)]
#[case(TransportErrorKind::Tls, 1)]
#[case(TransportErrorKind::Resolve, 6)]
#[case(TransportErrorKind::Refused, 6)]
#[case(TransportErrorKind::Broken, 6)]
#[case(TransportErrorKind::Timeout, 6)]
#[tokio::test]
async fn failures_are_tried_again_if_they_pass(#[case] kind: TransportErrorKind, #[case] tries: usize) {
    let (client, transport, _) =
        elsewhere(options(), Elsewhere { failure: Some(kind), ..Elsewhere::default() });
    let error = client.head_manifest(&reference("r.example", "a:v1")).await.unwrap_err();
    assert_eq!(transport.sent.lock().unwrap().len(), tries);
    assert_eq!(error.is_temporary(), tries > 1);
}

#[tokio::test]
async fn docker_hub_is_asked_at_its_own_place() {
    let (client, transport, _) = elsewhere(options(), Elsewhere::default());
    client.head_manifest(&"debian:12".parse().unwrap()).await.unwrap();
    assert_eq!(
        *transport.sent.lock().unwrap(),
        ["https://registry-1.docker.io/v2/library/debian/manifests/12"]
    );
}

/// Nothing listens: the error says so, and which address.
/// A host is an IPv6 address in brackets.
/// Source: distribution/reference, regexp.go.
#[tokio::test]
async fn a_registry_at_an_ipv6_address_is_spoken_to() {
    let registry = FakeRegistry::new(FakeRegistry::basic_auth()).serve_on("::1", None);
    assert!(registry.host().starts_with("[::1]:"), "{}", registry.host());
    registry.put_image("a", "v1");
    let (client, _) = user_at(&registry.host());
    let name = reference(&registry.host(), "a:v1");
    let found = client.resolve(&name, &"linux/amd64".parse().unwrap()).await.unwrap();
    client.push_manifest(&reference(&registry.host(), "a:v2"), &found.media_type, found.bytes).await.unwrap();
    assert_eq!(client.tags(name.repository()).await.unwrap(), ["v1", "v2"]);
}

#[tokio::test]
async fn a_refused_connection_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (client, clock) = anonymous();
    let error = client.manifest(&reference(&format!("127.0.0.1:{port}"), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("the connection was refused"), "{error}");
    assert_eq!(clock.pauses().len(), 5);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_asked_for_again() {
    let (client, clock) = anonymous();
    let error = client.manifest(&reference("no-such-host.invalid", "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    // Without a resolver the machine cannot say that the name does not exist.
    if error.to_string().contains("does not exist") {
        assert!(clock.pauses().is_empty());
    }
}

/// A proxy that makes tunnels and counts them.
fn proxy() -> (String, Arc<AtomicUsize>, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (count, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
    let (counted, recorded) = (count.clone(), seen.clone());
    // It ends with the test program.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            *recorded.lock().unwrap() = String::from_utf8(head).unwrap();
            drop(connection.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    (format!("http://someone:hunter2@{address}"), count, seen)
}

/// Source: Go, net/http documentation, ProxyFromEnvironment.
#[tokio::test]
async fn a_proxy_is_used_but_for_whom_it_is_not() {
    let (address, count, seen) = proxy();
    let environment =
        Environment::new([("HTTPS_PROXY", address.as_str()), ("NO_PROXY", "direct.invalid,.cluster.local")]);
    let mut options = options();
    options.proxies = Proxies::from_environment(&environment);
    options.retry = RetryPolicy::never();
    let (client, _) = client_with(options, Keychain::empty());
    let error = client.manifest(&reference("proxied.invalid", "a:v1")).await.unwrap_err();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let head = seen.lock().unwrap().clone();
    assert!(head.starts_with("CONNECT proxied.invalid:443 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic"), "{head}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    for direct in ["direct.invalid", "registry.kube-system.svc.cluster.local"] {
        client.manifest(&reference(direct, "a:v1")).await.unwrap_err();
    }
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1, "loopback never goes through a proxy");
}

/// An error of a proxy or a load balancer is a page; its title is all that is shown of it.
#[tokio::test]
async fn a_page_instead_of_an_error_is_shown_by_its_title() {
    let registry = FakeRegistry::open();
    let page = format!("<html><head><title>403 Forbidden</title></head><body>{}</body>", "x".repeat(500_000));
    registry.fail("GET", "/tags/list", 9, Answer::new(403).body(page));
    let (client, _) = anonymous();
    let error = client.tags(&repository(&registry.host(), "a")).await.unwrap_err();
    assert!(error.to_string().contains("403 Forbidden: 403 Forbidden"), "{error}");
    assert!(error.to_string().len() < 400);
}

/// The server closes a connection that was kept: the request that runs into it is sent again.
#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    let (client, _) = anonymous();
    let v1 = reference(&registry.host(), "a:v1");
    client.manifest(&v1).await.unwrap();
    registry.alter("GET", "/manifests/", 1, |answer| Answer { rude: true, ..answer });
    client.manifest(&v1).await.unwrap();
    client.manifest(&v1).await.unwrap();
    drop(TcpStream::connect(registry.host()));
}
