//! Mirrors: in which order they are asked, and what becomes of one that is down or wrong.

use std::io;
use std::time::Duration;

use cofferdam::registry::{ErrorKind, Keychain, MirrorRule, Resume, RetryPolicy};

use crate::client::{bytes, client_with, options, reference, repository};
use crate::faulty::http::{Answer, Reply};
use crate::faulty::registry::FakeRegistry;

fn mirrored(origin: &str, mirrors: &[String], fall_back: bool) -> cofferdam::registry::ClientOptions {
    let mut options = options();
    options.mirrors.push(MirrorRule { prefix: origin.to_owned(), mirrors: mirrors.to_vec(), fall_back });
    options
}

/// Source: GoogleContainerTools/kaniko#3154.
#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_last() {
    let (one, two, origin) = (FakeRegistry::open(), FakeRegistry::open(), FakeRegistry::open());
    let digest = two.put_image("hub/library/debian", "12");
    let options = mirrored(&origin.host(), &[one.host(), format!("{}/hub", two.host())], true);
    let (client, _) = client_with(options, Keychain::empty());
    let name = reference(&origin.host(), "library/debian:12");
    assert_eq!(client.manifest(&name).await.unwrap().digest, digest);
    assert_eq!(one.count("GET", "/v2/library/debian/manifests/12"), 1);
    assert!(origin.log().is_empty());

    let blob = bytes(1000);
    let digest = origin.put_blob("library/debian", &blob);
    let debian = repository(&origin.host(), "library/debian");
    assert_eq!(client.blob_bytes(&debian, digest, 1000).await.unwrap(), blob, "neither mirror has it");

    let error = client.manifest(&reference(&origin.host(), "library/debian:13")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    for host in [one.host(), two.host(), origin.host()] {
        assert!(text.contains(&host), "each endpoint is named: {text}");
    }
    assert_eq!(error.earlier().count(), 2);
}

/// Source: GoogleContainerTools/kaniko#1473.
#[tokio::test]
async fn a_mirror_that_is_down_is_passed_over_for_a_while() {
    let origin = FakeRegistry::open();
    let digest = origin.put_image("a", "v1");
    let mirror = FakeRegistry::open();
    mirror.fault("GET", "/v2/", 99, |_, _| Reply::HangUp);
    let (client, clock) = client_with(mirrored(&origin.host(), &[mirror.host()], true), Keychain::empty());
    let v1 = reference(&origin.host(), "a:v1");
    assert_eq!(client.manifest(&v1).await.unwrap().digest, digest);
    let asked = mirror.log().len();
    assert_eq!(asked, 2, "a mirror is not tried as often as a registry");
    client.manifest(&v1).await.unwrap();
    assert_eq!(mirror.log().len(), asked);
    clock.advance(Duration::from_secs(61));
    client.manifest(&v1).await.unwrap();
    assert_eq!(mirror.log().len(), asked + 2);
}

#[tokio::test]
async fn a_mirror_with_wrong_bytes_is_made_up_for_by_the_registry() {
    let (mirror, origin) = (FakeRegistry::open(), FakeRegistry::open());
    let blob = bytes(100_000);
    let digest = origin.put_blob("a", &blob);
    mirror.put_wrong_blob("a", digest, &vec![1; 100_000]);
    let (client, _) = client_with(mirrored(&origin.host(), &[mirror.host()], true), Keychain::empty());
    let a = repository(&origin.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 100_000).await.unwrap(), blob);
}

/// A sink that holds wrong bytes and cannot forget them is not fed with right ones.
#[tokio::test]
async fn a_sink_that_cannot_forget_is_not_given_the_rest_by_another() {
    let (mirror, origin) = (FakeRegistry::open(), FakeRegistry::open());
    let blob = bytes(1000);
    let digest = origin.put_blob("a", &blob);
    mirror.put_wrong_blob("a", digest, &[1; 1000]);
    let (client, _) = client_with(mirrored(&origin.host(), &[mirror.host()], true), Keychain::empty());
    let sink = |_: &[u8]| -> io::Result<()> { Ok(()) };
    let a = repository(&origin.host(), "a");
    let failed = client.fetch_blob(&a, digest, 1000, Resume::default(), sink).await;
    let error = failed.err().unwrap();
    assert_eq!((error.kind(), error.host()), (ErrorKind::Integrity, mirror.host().as_str()));
    assert_eq!(error.earlier().count(), 0);
}

/// What one mirror began, the registry finishes.
#[tokio::test]
async fn a_blob_is_finished_by_the_next_endpoint() {
    let (mirror, origin) = (FakeRegistry::open(), FakeRegistry::open());
    let blob = bytes(100_000);
    let digest = origin.put_blob("a", &blob);
    mirror.put_blob("a", &blob);
    mirror.alter("GET", "/blobs/", 1, |answer| Answer { cut: Some(40_000), ..answer });
    mirror.fault("GET", "/blobs/", 99, |_, _| Answer::new(500).into());
    let mut options = mirrored(&origin.host(), &[mirror.host()], true);
    options.mirror_retry = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
    let (client, _) = client_with(options, Keychain::empty());
    let a = repository(&origin.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 100_000).await.unwrap(), blob);
    assert_eq!(origin.log().last().unwrap().head.header("range"), Some("bytes=40000-"));
}

/// Source: GoogleContainerTools/kaniko#3182.
#[tokio::test]
async fn a_registry_that_mirrors_replace_is_not_asked() {
    let (mirror, origin) = (FakeRegistry::open(), FakeRegistry::open());
    origin.put_image("a", "v1");
    let (client, _) = client_with(mirrored(&origin.host(), &[mirror.host()], false), Keychain::empty());
    client.manifest(&reference(&origin.host(), "a:v1")).await.unwrap_err();
    assert!(origin.log().is_empty());
}
