//! The main flows against distribution 2.8 as Debian ships it and distribution 3, for everyone, with a password, and with
//! tokens of distribution's own token server; with `oci-client` as a second reader.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cofferdam::image::{Digest, Reference, media_type};
use cofferdam::registry::{
    BlobOutcome, BlobUpload, Client, Credential, ErrorKind, FileSource, HostOptions, Keychain, Login, Resume,
    UploadStyle, install_tls_provider,
};
use rstest::rstest;

use crate::client::{anonymous, bytes, client_with, login, options, reference, repository};
use crate::copy::run;
use crate::faulty::registry::image_manifest;
use crate::support::{Cofferdam, Registry, RegistryOptions};

use super::push::upload;

const USER: &str = "user";
const PASSWORD: &str = "open sesame";

fn open() -> Registry {
    Registry::options().empty().start()
}

fn with_password_wanted() -> Registry {
    Registry::options().empty().user(USER, PASSWORD).start()
}

const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

async fn push_image(client: &Client, name: &Reference, layer: &[u8]) -> Digest {
    let repository = name.repository();
    for blob in [CONFIG, layer] {
        upload(client, repository.registry(), repository.path(), blob).await.unwrap();
    }
    let manifest = image_manifest(Digest::of(CONFIG), CONFIG.len(), Digest::of(layer), layer.len());
    client.push_manifest(name, media_type::OCI_MANIFEST, Bytes::from(manifest)).await.unwrap()
}

fn with_password(host: &str) -> Client {
    client_with(options(), Keychain::empty().with(host, login(USER, PASSWORD))).0
}

fn styled(host: &str, style: UploadStyle) -> Client {
    let mut options = options();
    options.hosts.insert(host.to_owned(), HostOptions { upload: Some(style), ..HostOptions::default() });
    client_with(options, Keychain::empty()).0
}

#[rstest]
#[case::open(false)]
#[case::with_password(true)]
#[tokio::test]
async fn what_is_pushed_is_what_others_pull(#[case] password: bool) {
    install_tls_provider();
    let registry = if password { with_password_wanted() } else { open() };
    let host = registry.address().to_owned();
    let client = if password { with_password(&host) } else { anonymous().0 };
    let name = reference(&host, "group/app:v1");
    let layer = bytes(5_000_000);
    client.check_push(name.repository()).await.unwrap();
    let digest = push_image(&client, &name, &layer).await;

    let config = oci_client::client::ClientConfig {
        protocol: oci_client::client::ClientProtocol::Http,
        ..Default::default()
    };
    let other = oci_client::Client::try_from(config).unwrap();
    let auth = match password {
        true => oci_client::secrets::RegistryAuth::Basic(USER.into(), PASSWORD.into()),
        false => oci_client::secrets::RegistryAuth::Anonymous,
    };
    let image: oci_client::Reference = name.to_string().parse().unwrap();
    let (manifest, theirs) = other.pull_image_manifest(&image, &auth).await.unwrap();
    assert_eq!(theirs, digest.to_string());
    let mut pulled = Vec::new();
    other.pull_blob(&image, &manifest.layers[0], &mut pulled).await.unwrap();
    assert!(pulled == layer, "the layer is the same");

    let resolved = client.resolve(&name, &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!(resolved.digest, digest);
    let back = client.blob_bytes(name.repository(), Digest::of(&layer), layer.len() as u64).await.unwrap();
    assert!(back == layer, "and comes back");
    assert_eq!(client.tags(name.repository()).await.unwrap(), ["v1"]);
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, digest);
    client.delete_manifest(name.repository(), digest).await.unwrap();
    assert_eq!(client.head_manifest(&name).await.unwrap(), None);
}

#[tokio::test]
async fn a_real_registry_wants_the_right_password() {
    let registry = with_password_wanted();
    let host = registry.address().to_owned();
    let (nobody, _) = anonymous();
    let a = repository(&host, "a");
    assert_eq!(nobody.check_push(&a).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    nobody.check_login(&host, &login(USER, PASSWORD)).await.unwrap();
    let wrong = Credential::new(Login::of(USER, "wrong").unwrap(), "test");
    assert_eq!(nobody.check_login(&host, &wrong).await.unwrap_err().kind(), ErrorKind::Unauthorized);
}

#[rstest]
#[case(UploadStyle::Streamed)]
#[case(UploadStyle::Monolithic)]
#[case(UploadStyle::Chunked(700_000))]
#[tokio::test]
async fn every_style_of_upload_works(#[case] style: UploadStyle) {
    let registry = open();
    let client = styled(registry.address(), style);
    let blob = bytes(3_000_001);
    assert_eq!(upload(&client, registry.address(), "a", &blob).await.unwrap(), BlobOutcome::Uploaded);
    assert_eq!(upload(&client, registry.address(), "a", &blob).await.unwrap(), BlobOutcome::AlreadyThere);
    assert_eq!(upload(&client, registry.address(), "a", b"").await.unwrap(), BlobOutcome::Uploaded);
    let back =
        client.blob_bytes(&repository(registry.address(), "a"), Digest::of(&blob), 3_000_001).await.unwrap();
    assert!(back == blob, "what comes back is what was sent");
}

#[tokio::test]
async fn a_blob_is_mounted_from_its_repository() {
    let registry = open();
    let host = registry.address().to_owned();
    let (client, _) = anonymous();
    let layer = bytes(100_000);
    upload(&client, &host, "base", &layer).await.unwrap();
    let source = Bytes::from(layer);
    let from = [repository(&host, "nothing"), repository(&host, "base")];
    let blob = BlobUpload {
        digest: Digest::of(&source),
        size: 100_000,
        source: &source,
        is_new: false,
        mount_from: &from,
        progress: None,
    };
    let outcome = client.push_blob(&repository(&host, "app"), &blob).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Mounted(from[1].clone()));
}

#[tokio::test]
async fn a_file_is_pushed_and_a_rest_is_pulled() {
    let registry = open();
    let (client, _) = anonymous();
    let directory = tempfile::TempDir::new().unwrap();
    let content = bytes(2_000_000);
    let source = FileSource(directory.path().join("layer"));
    std::fs::write(&source.0, &content).unwrap();
    let digest = Digest::of(&content);
    let blob = BlobUpload {
        digest,
        size: 2_000_000,
        source: &source,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    let a = repository(registry.address(), "a");
    client.push_blob(&a, &blob).await.unwrap();
    let mut hash = cofferdam::image::Sha256::new();
    hash.update(&content[..1_500_000]);
    let resume = Resume { offset: 1_500_000, hash };
    let back = client.fetch_blob(&a, digest, 2_000_000, resume, content[..1_500_000].to_vec()).await.unwrap();
    assert!(back == content, "the rest fits");
}

/// A wire to the registry that is cut once, in either direction, after so many bytes.
fn cut_wire(target: String, upstream: u64, downstream: u64) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sent = Arc::new(AtomicU64::new(0));
    let total = sent.clone();
    let limits = [Arc::new(AtomicU64::new(upstream)), Arc::new(AtomicU64::new(downstream))];
    // It ends with the test program.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
            let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for ((mut from, mut to), limit) in pairs.into_iter().zip(limits.clone()) {
                let total = total.clone();
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(read) = from.read(&mut buffer) {
                        total.fetch_add(read as u64, Ordering::SeqCst);
                        if read == 0 {
                            break;
                        }
                        let left = limit.load(Ordering::SeqCst);
                        if left < read as u64 {
                            limit.store(u64::MAX, Ordering::SeqCst);
                            break;
                        }
                        if left != u64::MAX {
                            limit.fetch_sub(read as u64, Ordering::SeqCst);
                        }
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    drop(from.shutdown(std::net::Shutdown::Both));
                    drop(to.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    (address, sent)
}

/// distribution 2.8 keeps the bytes of a broken PATCH and proves nothing: the state in the upload's address says
/// that there are none, the difference is an error, and the upload is thrown away. All is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_upload_is_made_good_in_the_real_registry() {
    let registry = open();
    let (host, _) = cut_wire(registry.address().to_owned(), 8_000_000, u64::MAX);
    let (client, clock) = anonymous();
    let blob = bytes(12_000_000);
    upload(&client, &host, "a", &blob).await.unwrap();
    assert_eq!(clock.pauses().len(), 1, "it was cut");
    let back = client.blob_bytes(&repository(&host, "a"), Digest::of(&blob), 12_000_000).await.unwrap();
    assert!(back == blob, "the blob is whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_download_goes_on_in_the_real_registry() {
    let registry = open();
    let (direct, _) = anonymous();
    let blob = bytes(12_000_000);
    upload(&direct, registry.address(), "a", &blob).await.unwrap();
    let (host, sent) = cut_wire(registry.address().to_owned(), u64::MAX, 8_000_000);
    let (client, clock) = anonymous();
    let back = client.blob_bytes(&repository(&host, "a"), Digest::of(&blob), 12_000_000).await.unwrap();
    assert!(back == blob, "the blob is whole");
    assert_eq!(clock.pauses().len(), 1, "it was cut");
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < 14_000_000, "and not begun anew: {sent} bytes went over the wire");
}

#[tokio::test]
async fn real_errors_are_decoded() {
    let registry = open();
    let (client, _) = anonymous();
    let error = client.manifest(&reference(registry.address(), "a:v1")).await.unwrap_err();
    assert_eq!(error.diagnostics()[0].code, "MANIFEST_UNKNOWN");
    let name = reference(registry.address(), "a:v1");
    let manifest = image_manifest(Digest::of(b"no"), 2, Digest::of(b"such"), 4);
    let error =
        client.push_manifest(&name, media_type::OCI_MANIFEST, Bytes::from(manifest)).await.unwrap_err();
    assert!(error.diagnostics().iter().any(|said| said.code == "MANIFEST_BLOB_UNKNOWN"), "{error}");
    let error = client.tags(&repository(registry.address(), "nothing")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn v2() -> RegistryOptions {
    Registry::options()
}

fn v3() -> RegistryOptions {
    Registry::options().v3()
}

/// How one shows who one is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shown {
    Nothing,
    Password,
    Token,
}

/// A registry, the client that may use it, and the program that may.
fn started(options: RegistryOptions, shown: Shown, tls: bool) -> (Registry, Client, Cofferdam) {
    let options = match shown {
        Shown::Nothing => options.empty(),
        Shown::Password => options.empty().user(USER, PASSWORD),
        Shown::Token => options.empty().user(USER, PASSWORD).token(),
    };
    let registry = if tls { options.tls() } else { options }.start();
    let host = registry.address().to_owned();
    let keychain = match shown {
        Shown::Nothing => Keychain::empty(),
        Shown::Password | Shown::Token => Keychain::empty().with(&host, login(USER, PASSWORD)),
    };
    let mut own = crate::client::options();
    let cofferdam = Cofferdam::new();
    let config = cofferdam.home().join(".config/cofferdam");
    std::fs::create_dir_all(&config).unwrap();
    if let Some(ca) = registry.ca() {
        own.extra_roots.push(std::fs::read(ca).unwrap());
        let line = format!("registry-ca = [{:?}]\n", ca.display().to_string());
        std::fs::write(config.join("config.toml"), line).unwrap();
    }
    if shown != Shown::Nothing {
        let auth = serde_json::json!({"auths": {&*host: {"username": USER, "password": PASSWORD}}});
        std::fs::create_dir(cofferdam.home().join(".docker")).unwrap();
        std::fs::write(cofferdam.home().join(".docker/config.json"), auth.to_string()).unwrap();
    }
    (registry, client_with(own, keychain).0, cofferdam)
}

/// What everyone does with a registry, with each that there is and in each way that it may want to know who asks.
#[rstest]
#[case::v2_open(v2(), Shown::Nothing, false)]
#[case::v2_password(v2(), Shown::Password, false)]
#[case::v2_token(v2(), Shown::Token, false)]
#[case::v2_token_tls(v2(), Shown::Token, true)]
#[case::v3_open(v3(), Shown::Nothing, false)]
#[case::v3_password_tls(v3(), Shown::Password, true)]
#[case::v3_token(v3(), Shown::Token, false)]
#[case::v3_token_tls(v3(), Shown::Token, true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_registries_take_and_give(
    #[case] options: RegistryOptions,
    #[case] shown: Shown,
    #[case] tls: bool,
) {
    install_tls_provider();
    let (registry, client, cofferdam) = started(options, shown, tls);
    let host = registry.address().to_owned();
    // The token server gives a user what is below the user's name.
    let name = reference(&host, "user/app:v1");
    let layer = bytes(3_000_000);
    client.check_push(name.repository()).await.unwrap();
    let digest = push_image(&client, &name, &layer).await;
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, digest);
    let back = client.blob_bytes(name.repository(), Digest::of(&layer), layer.len() as u64).await.unwrap();
    assert!(back == layer, "what comes back is what was sent");
    assert_eq!(client.tags(name.repository()).await.unwrap(), ["v1"]);
    // The same with the program: a promotion moves no layer.
    let (from, to) = (name.to_string(), format!("{host}/user/promoted/app:v1"));
    let before = registry.requests().len();
    let ran = tokio::task::spawn_blocking(move || {
        let copied = run(&cofferdam, &["copy", &from, &to]);
        (copied, run(&cofferdam, &["inspect", "--format=json", &to]), cofferdam)
    });
    let (copied, inspected, _home) = ran.await.unwrap();
    assert_eq!(copied.status, Some(0), "{}", copied.stderr);
    assert_eq!(copied.stdout.trim_end(), format!("{host}/user/promoted/app@{digest}"));
    let requests = registry.requests();
    let moved = requests[before..].iter().filter(|one| matches!(&*one.method, "PATCH" | "PUT"));
    let moved: Vec<_> = moved.filter(|one| one.path.contains("/blobs/")).collect();
    assert!(moved.is_empty(), "{moved:?}");
    let described: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(described["digest"], digest.to_string(), "{}", inspected.stderr);
    assert_eq!(described["images"][0]["layers"][0]["size"], layer.len());
    client.delete_manifest(name.repository(), digest).await.unwrap_or_else(|error| {
        // The token server knows no scope of deletion.
        assert!(shown == Shown::Token && error.kind() == ErrorKind::Denied, "{error}");
    });
}

/// What is not below the user's name the token server leaves out of the token: the registry refuses it with the scope.
#[rstest]
#[case(v2())]
#[case(v3())]
#[tokio::test]
async fn a_real_token_server_gives_no_more_than_it_may(#[case] options: RegistryOptions) {
    let (registry, client, _home) = started(options, Shown::Token, false);
    let elsewhere = repository(registry.address(), "elsewhere/app");
    let error = client.check_push(&elsewhere).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unauthorized), "{error}");
    assert!(error.to_string().contains("repository:elsewhere/app"), "{error}");
    // A mount from there is not possible; what is to be mounted is sent.
    let source = Bytes::from(bytes(1000));
    let from = [elsewhere];
    let blob = BlobUpload {
        digest: Digest::of(&source),
        size: 1000,
        source: &source,
        is_new: false,
        mount_from: &from,
        progress: None,
    };
    let own = repository(registry.address(), "user/app");
    assert_eq!(client.push_blob(&own, &blob).await.unwrap(), BlobOutcome::Uploaded);
    let wrong = Keychain::empty().with(registry.address(), login(USER, "wrong"));
    let (stranger, _) = client_with(crate::client::options(), wrong);
    let error = stranger.check_push(&own).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}
