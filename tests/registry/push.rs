//! Pushing, and the ways in which registries differ at it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cofferdam::image::{Digest, Repository, media_type};
use cofferdam::registry::{BlobOutcome, BlobUpload, Client, ErrorKind, RegistryError};
use rstest::rstest;

use crate::client::{anonymous, bytes, reference, repository, user_at};
use crate::faulty::http::{Answer, Reply, Server};
use crate::faulty::registry::{Bearer, FakeRegistry, Logged};

/// Pushes `blob` as it is.
pub async fn upload(
    client: &Client,
    host: &str,
    path: &str,
    blob: &[u8],
) -> Result<BlobOutcome, RegistryError> {
    upload_from(client, &repository(host, path), blob, &[]).await
}

async fn upload_from(
    client: &Client,
    repository: &Repository,
    blob: &[u8],
    mount_from: &[Repository],
) -> Result<BlobOutcome, RegistryError> {
    let source = Bytes::copy_from_slice(blob);
    let blob = BlobUpload {
        digest: Digest::of(blob),
        size: blob.len() as u64,
        source: &source,
        is_new: false,
        mount_from,
        progress: None,
    };
    client.push_blob(repository, &blob).await
}

#[tokio::test]
async fn a_blob_is_one_streamed_patch_and_a_put() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let blob = bytes(1_500_000);
    assert_eq!(upload(&client, &registry.host(), "group/app", &blob).await.unwrap(), BlobOutcome::Uploaded);
    assert_eq!(
        registry.lines(),
        [
            "HEAD /v2/group/app/blobs/<digest> 404",
            "POST /v2/group/app/blobs/uploads/ 202",
            "PATCH /v2/group/app/blobs/uploads/<id> 202",
            "PUT /v2/group/app/blobs/uploads/<id>?digest 201",
        ]
    );
    let log = registry.log();
    let patch = &log[2].head;
    assert_eq!(patch.header("content-length"), Some("1500000"));
    assert_eq!(patch.header("transfer-encoding"), None);
    assert_eq!(patch.header("content-range"), None);
    assert_eq!(patch.header("content-type"), Some("application/octet-stream"));
    assert_eq!(log[1].head.header("content-length"), Some("0"));
    assert_eq!(log[3].head.header("content-length"), Some("0"));
    assert_eq!(registry.blob("group/app", Digest::of(&blob)).unwrap(), blob);
    assert_eq!(
        upload(&client, &registry.host(), "group/app", &blob).await.unwrap(),
        BlobOutcome::AlreadyThere
    );
    assert!(client.has_blob(&repository(&registry.host(), "group/app"), Digest::of(&blob)).await.unwrap());
    assert!(!client.has_blob(&repository(&registry.host(), "x"), Digest::of(&blob)).await.unwrap());
}

#[tokio::test]
async fn an_empty_blob_can_be_pushed() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    upload(&client, &registry.host(), "a", b"").await.unwrap();
    assert_eq!(registry.count("PATCH", "/"), 0);
    assert_eq!(registry.blob("a", Digest::of(b"")).unwrap(), b"");
}

/// Source: oras-project/rust-oci-client#235.
#[tokio::test]
async fn a_blob_is_mounted_with_a_token_for_both_repositories() {
    let registry = FakeRegistry::bearer(Bearer::default());
    let blob = b"base layer";
    let digest = registry.put_blob("base", blob);
    let host = registry.host();
    let (client, _) = user_at(&host);
    let from = [repository("elsewhere.example", "base"), repository(&host, "base")];
    let outcome = upload_from(&client, &repository(&host, "app"), blob, &from).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Mounted(from[1].clone()));
    let scopes: Vec<Vec<String>> = registry
        .log()
        .iter()
        .filter(|logged| logged.head.path() == "/token")
        .map(|logged| logged.head.parameters("scope"))
        .collect();
    // Docker Hub mounts only where the token may read the source.
    assert_eq!(scopes.last().unwrap(), &["repository:app:pull,push", "repository:base:pull"]);
    assert_eq!(registry.blob("app", digest).unwrap(), blob);
    assert_eq!(registry.count("PATCH", "/"), 0);
}

/// 202: the registry does not mount, and has opened an upload instead, which is used.
/// Source: OCI distribution specification 1.1, "Mounting a blob".
#[tokio::test]
async fn a_mount_that_becomes_an_upload_is_used_as_one() {
    let registry = FakeRegistry::open();
    registry.put_blob("base", b"layer");
    registry.behave(|manners| manners.mount = Err(202));
    let (client, _) = anonymous();
    let host = registry.host();
    let from = [repository(&host, "base"), repository(&host, "other")];
    let outcome = upload_from(&client, &repository(&host, "app"), b"layer", &from).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Uploaded);
    assert_eq!(registry.count("POST", "/uploads/"), 2, "each mount once, and no other upload");
    assert_eq!(registry.open_uploads(), 0, "the first is given up");
}

/// Harbor answers the mount from a foreign project with 401 and not with 202 (goharbor/harbor), Quay with 403,
/// others with 404 or 405: none of them means that one may not push.
/// Source: goharbor/harbor#17097.
#[rstest]
#[case(400)]
#[case(401)]
#[case(403)]
#[case(404)]
#[case(405)]
#[tokio::test]
async fn a_mount_that_is_refused_becomes_an_upload(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.put_blob("base", b"layer");
    registry.behave(|manners| manners.mount = Err(status));
    let (client, _) = anonymous();
    let host = registry.host();
    let from = [repository(&host, "base")];
    let outcome = upload_from(&client, &repository(&host, "app"), b"layer", &from).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Uploaded);
    assert!(registry.blob("app", Digest::of(b"layer")).is_some());
}

/// A registry that is unwell at the mount has not said no to it: the layer may not even be here to be sent. One that is always
/// unwell at mounts, and takes uploads, is sent the bytes all the same.
/// Source: OCI distribution specification 1.1, "Mounting a blob".
#[rstest]
#[case::unavailable(503, 1, true)]
#[case::too_many_requests(429, 1, true)]
#[case::too_many_requests_for_long(429, 4, true)]
#[case::broken(0, 1, true)]
#[case::always_unwell(500, 99, false)]
#[tokio::test]
async fn a_mount_is_not_used_up_by_a_failure_that_passes(
    #[case] status: u16,
    #[case] times: usize,
    #[case] mounted: bool,
) {
    let registry = FakeRegistry::open();
    let digest = registry.put_blob("base", b"layer");
    registry.fault("POST", "mount=", times, move |_, _| match status {
        0 => Reply::HangUp,
        status => Answer::error(status, "UNKNOWN", "not now").into(),
    });
    let (client, clock) = anonymous();
    let host = registry.host();
    let from = [repository(&host, "base")];
    let outcome = upload_from(&client, &repository(&host, "app"), b"layer", &from).await.unwrap();
    let expected = if mounted { BlobOutcome::Mounted(from[0].clone()) } else { BlobOutcome::Uploaded };
    assert_eq!(outcome, expected, "{:?}", registry.lines());
    assert_eq!(registry.blob("app", digest).unwrap(), b"layer");
    assert_eq!(clock.pauses().len(), if mounted { times } else { 3 });
    assert_eq!(registry.count("PATCH", "/") + registry.count("PUT", "/uploads/"), usize::from(!mounted));
}

/// The same where tokens are used: the 401 says nothing of what is wanted, and is no reason to show the password.
#[tokio::test]
async fn a_mount_that_is_refused_in_spite_of_its_token_becomes_an_upload() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_blob("base", b"layer");
    registry.fail("POST", "mount=", 9, Answer::error(401, "UNAUTHORIZED", "foreign project"));
    let host = registry.host();
    let (client, _) = user_at(&host);
    let from = [repository(&host, "base")];
    let outcome = upload_from(&client, &repository(&host, "app"), b"layer", &from).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Uploaded);
    let sent_basic = |logged: &Logged| logged.authorization().is_some_and(|sent| sent.starts_with("Basic"));
    let to_registry = registry.log().into_iter().filter(|logged| logged.head.path() != "/token");
    assert_eq!(to_registry.filter(sent_basic).count(), 0);
}

/// A token server that refuses the whole question because of the foreign repository.
/// Source: estesp/manifest-tool#42.
#[tokio::test]
async fn a_token_that_is_refused_for_the_source_is_asked_for_without_it() {
    let registry = FakeRegistry::bearer(Bearer { foreign: vec!["base".into()], ..Bearer::default() });
    registry.put_blob("base", b"layer");
    let host = registry.host();
    let (client, _) = user_at(&host);
    let from = [repository(&host, "base")];
    let outcome = upload_from(&client, &repository(&host, "app"), b"layer", &from).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Uploaded);
}

/// GitLab's deploy tokens may write and not read.
#[rstest]
#[case(401)]
#[case(403)]
#[tokio::test]
async fn credentials_that_may_write_and_not_read_are_enough(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.fail("HEAD", "/blobs/", 9, Answer::new(status));
    let (client, _) = anonymous();
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
}

/// A registry behind a proxy that ends TLS, and does not know it: distribution without `X-Forwarded-Proto`.
/// Source: OCI distribution specification 1.1, "Pushing blobs".
#[tokio::test]
async fn a_location_on_another_host_is_used_without_authorization() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let registry = FakeRegistry::basic();
    let backend = registry.registry.clone();
    let storage = Server::on("127.0.0.2", None, move |exchange| {
        record.lock().unwrap().push(exchange.head.clone());
        backend.change_auth(|auth| *auth = crate::faulty::registry::Auth::None);
        backend.normal(exchange)
    });
    registry.behave(|manners| manners.location_base = Some(storage.url()));
    let (client, _) = user_at(&registry.host());
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen.iter().all(|head| head.header("authorization").is_none()));
}

/// Source: OWASP, "Server-Side Request Forgery Prevention".
#[tokio::test]
async fn a_location_that_leads_astray_is_refused() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.location_base = Some("http://169.254.169.254".into()));
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "a", b"blob").await.unwrap_err();
    assert!(error.to_string().contains("169.254.169.254"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Registry);
}

#[tokio::test]
async fn an_upload_without_location_is_an_error() {
    let registry = FakeRegistry::open();
    registry.alter("POST", "/uploads/", 9, |answer| answer.without("Location"));
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "a", b"blob").await.unwrap_err();
    assert!(error.to_string().contains("no `Location`"), "{error}");
}

/// ECR drops the connection when there is no such repository (aws/containers-roadmap#853 asks to create it).
/// Source: aws/containers-roadmap#1970.
#[tokio::test]
async fn a_missing_repository_that_drops_the_connection_is_named() {
    let registry = FakeRegistry::open();
    registry.fault("POST", "/uploads/", 99, |_, _| Reply::HangUp);
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "app", b"blob").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("NAME_UNKNOWN"), "{error}");
    assert!(error.hint().unwrap().contains("repository may have to be made"));
    let error = client.check_push(&repository(&registry.host(), "app")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Alibaba ACR refuses manifests with `application/vnd.oci.empty.v1+json`: its own words must be seen.
#[tokio::test]
async fn a_manifest_that_is_refused_says_why() {
    let registry = FakeRegistry::open();
    let refusal =
        Answer::error(400, "MANIFEST_INVALID", "unsupported media type application/vnd.oci.empty.v1+json");
    registry.fail("PUT", "/manifests/", 9, refusal);
    let (client, _) = anonymous();
    let name = reference(&registry.host(), "a:v1");
    let error = client.push_manifest(&name, media_type::OCI_MANIFEST, Bytes::from("{}")).await.unwrap_err();
    assert!(
        error.to_string().contains("unsupported media type application/vnd.oci.empty.v1+json"),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_is_pushed_by_tag_and_by_digest() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let manifest = Bytes::from(r#"{"schemaVersion":2}"#);
    let digest = Digest::of(&manifest);
    let host = registry.host();
    for name in ["a:v1".to_owned(), "a:v2".to_owned(), format!("a@{digest}"), format!("a:v3@{digest}")] {
        let name = reference(&host, &name);
        let pushed = client.push_manifest(&name, media_type::OCI_MANIFEST, manifest.clone()).await;
        assert_eq!(pushed.unwrap(), digest);
    }
    let targets: Vec<String> = registry.log().iter().map(|logged| logged.head.path().to_owned()).collect();
    assert_eq!(targets[2], format!("/v2/a/manifests/{digest}"));
    assert_eq!(targets[3], "/v2/a/manifests/v3");
    assert_eq!(registry.log()[0].head.header("content-type"), Some(media_type::OCI_MANIFEST));
    assert_eq!(registry.manifest("a", "v2").unwrap(), manifest);
    let other = reference(&host, &format!("a@{}", Digest::of(b"other")));
    let error = client.push_manifest(&other, media_type::OCI_MANIFEST, manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

/// A push by digest need not be answered with `Location` (oci-client panics there).
#[tokio::test]
async fn a_manifest_may_be_stored_without_a_word() {
    let registry = FakeRegistry::open();
    registry.fail("PUT", "/manifests/", 1, Answer::new(201));
    let (client, _) = anonymous();
    let name = reference(&registry.host(), &format!("a@{}", Digest::of(b"{}")));
    client.push_manifest(&name, media_type::OCI_MANIFEST, Bytes::from("{}")).await.unwrap();
}

/// A registry that rewrites what it stores.
/// Source: opencontainers/distribution-spec#333.
#[tokio::test]
async fn a_manifest_that_is_stored_as_another_is_an_error() {
    let registry = FakeRegistry::open();
    let stored = Answer::new(201).header("Docker-Content-Digest", Digest::of(b"other").to_string());
    registry.fail("PUT", "/manifests/", 9, stored);
    let (client, _) = anonymous();
    let name = reference(&registry.host(), "a:v1");
    let error = client.push_manifest(&name, media_type::OCI_MANIFEST, Bytes::from("{}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

/// Immutable tags: ECR answers 400, Artifact Registry 409, Harbor 412. The same digest is a success.
/// Source: GoogleContainerTools/kaniko#3481.
#[rstest]
#[case(400, "TAG_INVALID")]
#[case(409, "MANIFEST_INVALID")]
#[case(412, "PRECONDITION")]
#[tokio::test]
async fn an_immutable_tag_that_names_the_same_is_a_success(#[case] status: u16, #[case] code: &str) {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let name = reference(&registry.host(), "a:v1");
    let manifest = Bytes::from(r#"{"schemaVersion":2}"#);
    client.push_manifest(&name, media_type::OCI_MANIFEST, manifest.clone()).await.unwrap();
    registry.behave(|manners| manners.immutable = Some((status, code.to_owned())));
    client.push_manifest(&name, media_type::OCI_MANIFEST, manifest).await.unwrap();
    let other = client.push_manifest(&name, media_type::OCI_MANIFEST, Bytes::from("{}")).await;
    let error = other.unwrap_err();
    assert_eq!(error.status(), Some(status));
    assert!(error.hint().unwrap().contains("immutable"), "{error}");
}

#[tokio::test]
async fn whether_one_may_push_is_found_out_without_leaving_anything() {
    let registry = FakeRegistry::bearer(Bearer::default());
    let a = repository(&registry.host(), "a");
    let (client, _) = user_at(&registry.host());
    client.check_push(&a).await.unwrap();
    // It is given up while other things go on.
    for _ in 0..500 {
        if registry.open_uploads() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    assert_eq!(registry.open_uploads(), 0);
    let (nobody, _) = anonymous();
    let error = nobody.check_push(&a).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("repository:a:pull,push"), "{error}");
    // GHCR and ECR cannot give an upload up.
    registry.fail("DELETE", "/uploads/", 9, Answer::new(405));
    client.check_push(&a).await.unwrap();
}

/// The project of a Harbor robot, a read-only token.
#[tokio::test]
async fn credentials_that_may_not_push_are_denied_with_the_registrys_words() {
    let registry = FakeRegistry::basic();
    registry.fault("POST", "/uploads/", 99, |exchange, registry| match registry.normal(exchange) {
        Reply::Answer(answer) if answer.status == 401 => answer.into(),
        _ => Answer::error(403, "DENIED", "requested access to the resource is denied").into(),
    });
    let (client, clock) = user_at(&registry.host());
    let error = client.check_push(&repository(&registry.host(), "a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("credentials: the test's login"), "{error}");
    assert!(error.hint().unwrap().contains("Harbor robot"));
    assert!(clock.pauses().is_empty());
}

/// Storage addresses are signed for one method: a HEAD that is redirected to one signed for GET is refused there,
/// though the blob is there.
/// Source: AWS documentation, "Sharing objects with presigned URLs".
#[tokio::test]
async fn a_blob_behind_an_address_signed_for_get_is_found() {
    let storage = Server::on("127.0.0.2", None, |exchange| match exchange.head.method.as_str() {
        "GET" => {
            assert_eq!(exchange.head.header("range"), Some("bytes=0-0"));
            Answer::new(206).header("Content-Range", "bytes 0-0/4").body("b").into()
        }
        _ => Answer::new(403).into(),
    });
    let registry = FakeRegistry::open();
    registry.put_blob("a", b"blob");
    let location = Answer::new(307).header("Location", format!("{}/blob?sig=x", storage.url()));
    registry.fail("HEAD", "/blobs/", 9, location.clone());
    registry.fail("GET", "/blobs/", 9, location);
    let (client, _) = anonymous();
    let outcome = upload(&client, &registry.host(), "a", b"blob").await.unwrap();
    assert_eq!(outcome, BlobOutcome::AlreadyThere);
    assert_eq!(registry.count("POST", "/"), 0);
}
