//! Pulling: manifests, platforms, tags, blobs that break off.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::image::{Digest, Platform, Sha256, media_type};
use cofferdam::registry::{BlobSink, ErrorKind, Keychain, Resume};
use rstest::rstest;

use crate::client::{anonymous, bytes, client_with, options, reference, repository, short_timeouts};
use crate::faulty::http::{Answer, Reply};
use crate::faulty::registry::FakeRegistry;

#[tokio::test]
async fn a_manifest_comes_with_its_type_and_digest() {
    let registry = FakeRegistry::open();
    let digest = registry.put_image("group/app", "v1");
    let (client, _) = anonymous();
    let host = registry.host();
    let fetched = client.manifest(&reference(&host, "group/app:v1")).await.unwrap();
    assert_eq!((fetched.digest, fetched.media_type.as_str()), (digest, media_type::OCI_MANIFEST));
    assert_eq!(fetched.bytes, registry.manifest("group/app", "v1").unwrap());
    let accept = registry.log()[0].head.header("accept").unwrap().to_owned();
    assert!(media_type::MANIFESTS.iter().all(|kind| accept.contains(kind)), "{accept}");

    let pinned = reference(&host, &format!("group/app:gone@{digest}"));
    assert_eq!(client.manifest(&pinned).await.unwrap(), fetched, "the digest decides");
    let head = client.head_manifest(&reference(&host, "group/app:v1")).await.unwrap().unwrap();
    assert_eq!((head.digest, head.size), (digest, fetched.bytes.len() as u64));
    assert_eq!(client.head_manifest(&reference(&host, "group/app:v2")).await.unwrap(), None);
    let error = client.manifest(&reference(&host, "group/app:v2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("MANIFEST_UNKNOWN: manifest unknown"), "{error}");
}

/// Registries that know no HEAD of manifests, or announce no digest.
/// Source: OCI distribution specification 1.1, "Pulling manifests".
#[tokio::test]
async fn a_head_that_says_nothing_is_made_up_for_by_a_get() {
    let registry = FakeRegistry::open();
    let digest = registry.put_image("a", "v1");
    let (client, _) = anonymous();
    let v1 = reference(&registry.host(), "a:v1");
    registry.fail("HEAD", "/manifests/", 1, Answer::new(405));
    assert_eq!(client.head_manifest(&v1).await.unwrap().unwrap().digest, digest);
    registry.alter("HEAD", "/manifests/", 1, |answer| answer.without("Docker-Content-Digest"));
    assert_eq!(client.head_manifest(&v1).await.unwrap().unwrap().digest, digest);
    assert_eq!(registry.count("GET", "/manifests/"), 2);
}

#[tokio::test]
async fn a_manifest_that_is_not_the_one_announced_is_refused() {
    let registry = FakeRegistry::open();
    let digest = registry.put_image("a", "v1");
    let (client, _) = anonymous();
    for name in ["a:v1".to_owned(), format!("a@{digest}")] {
        registry.alter("GET", "/manifests/", 9, |answer| answer.body("{}"));
        let error = client.manifest(&reference(&registry.host(), &name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert_eq!(error.retries(), 1, "once more, no oftener");
    }
}

/// A load balancer's cache that is half written: the next answer is right.
/// Source: opencontainers/distribution-spec#556.
#[tokio::test]
async fn wrong_bytes_are_fetched_once_more() {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    registry.alter("GET", "/manifests/", 1, |answer| answer.body("{}"));
    let (client, _) = anonymous();
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
}

#[tokio::test]
async fn a_manifest_without_end_is_given_up() {
    let registry = FakeRegistry::open();
    registry.fail("GET", "/manifests/", 9, Answer::new(200).body(vec![b' '; 9 << 20]));
    let (client, _) = anonymous();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

fn index(entries: &[(Digest, &str)]) -> String {
    let manifests: Vec<serde_json::Value> = entries
        .iter()
        .map(|(digest, architecture)| {
            serde_json::json!({
                "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 1,
                "platform": { "os": "linux", "architecture": architecture },
            })
        })
        .collect();
    serde_json::json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests })
        .to_string()
}

#[tokio::test]
async fn a_platform_is_found_in_an_index() {
    let registry = FakeRegistry::open();
    let amd64 = registry.put_image("a", "amd64");
    let index = index(&[(amd64, "amd64"), (Digest::of(b"?"), "s390x")]);
    let listed = registry.put_manifest("a", "v1", media_type::OCI_INDEX, index.as_bytes());
    let (client, _) = anonymous();
    let v1 = reference(&registry.host(), "a:v1");
    let image = client.resolve(&v1, &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!((image.digest, image.index), (amd64, Some(listed)));
    assert_eq!(image.platform.unwrap(), "linux/amd64".parse::<Platform>().unwrap());
    assert_eq!(image.reference.to_string(), format!("{}/a:v1@{amd64}", registry.host()));
    assert_eq!(image.manifest.layers().len(), 1);

    let error = client.resolve(&v1, &"linux/arm64".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Platform);
    assert!(error.to_string().contains("linux/amd64, linux/s390x only"), "{error}");

    let alone = reference(&registry.host(), "a:amd64");
    let image = client.resolve(&alone, &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!((image.digest, image.index, image.platform), (amd64, None, None));
}

#[tokio::test]
async fn indexes_in_indexes_have_an_end() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let mut inner = registry.put_image("b", "deepest");
    for level in 0..6 {
        let bytes = index(&[(inner, "amd64")]);
        let bytes = bytes.replace(media_type::OCI_MANIFEST, media_type::OCI_INDEX);
        inner = registry.put_manifest("b", &format!("l{level}"), media_type::OCI_INDEX, bytes.as_bytes());
    }
    let error = client
        .resolve(&reference(&registry.host(), "b:l5"), &"linux/amd64".parse().unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("deep"), "{error}");
}

#[tokio::test]
async fn what_is_no_image_is_said_to_be_none() {
    let registry = FakeRegistry::open();
    let schema1 = br#"{"schemaVersion":1,"fsLayers":[]}"#;
    registry.put_manifest("a", "old", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1);
    let (client, _) = anonymous();
    let old = reference(&registry.host(), "a:old");
    let error = client.resolve(&old, &"linux/amd64".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registry);
    assert!(error.to_string().contains("schema 1"), "{error}");
    let chart = br#"{"schemaVersion":2,"mediaType":"application/vnd.example.chart+json","config":{}}"#;
    registry.put_manifest("a", "chart", "application/vnd.example.chart+json", chart);
    let chart = reference(&registry.host(), "a:chart");
    let error = client.resolve(&chart, &"linux/amd64".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registry);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("application/vnd.example.chart+json"), "{cause}");
}

/// distribution with more tags than a page holds (distribution/distribution#2729 and others).
/// Source: OCI distribution specification 1.1, "Listing tags".
#[tokio::test]
async fn tags_are_listed_over_all_pages() {
    let registry = FakeRegistry::open();
    for tag in ["a", "b", "c", "d", "e"] {
        registry.put_image("x", tag);
    }
    let (client, _) = anonymous();
    assert_eq!(client.tags(&repository(&registry.host(), "x")).await.unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(registry.count("GET", "/tags/list"), 3);
    let error = client.tags(&repository(&registry.host(), "y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Go's `null` for an empty list, and a registry that names the same page again and again.
#[tokio::test]
async fn odd_lists_of_tags_end() {
    let registry = FakeRegistry::open();
    registry.fail("GET", "/tags/list", 1, Answer::new(200).body(r#"{"name":"x","tags":null}"#));
    let (client, _) = anonymous();
    let x = repository(&registry.host(), "x");
    assert!(client.tags(&x).await.unwrap().is_empty());
    let again = Answer::new(200)
        .header("Link", "</v2/x/tags/list?n=1000>; rel=\"next\"")
        .body(r#"{"name":"x","tags":["a"]}"#);
    registry.fail("GET", "/tags/list", 99, again);
    client.tags(&x).await.unwrap();
    let elsewhere = Answer::new(200).header("Link", "<http://127.0.0.9/x>; rel=next").body("{}");
    let registry = FakeRegistry::open();
    registry.fail("GET", "/tags/list", 99, elsewhere);
    let error = client.tags(&repository(&registry.host(), "x")).await.unwrap_err();
    assert!(error.to_string().contains("lies elsewhere"), "{error}");
}

#[tokio::test]
async fn a_manifest_is_deleted() {
    let registry = FakeRegistry::open();
    let digest = registry.put_image("a", "v1");
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    client.delete_manifest(&a, digest).await.unwrap();
    assert_eq!(client.delete_manifest(&a, digest).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_blob_is_streamed_and_verified() {
    let registry = FakeRegistry::open();
    let blob = bytes(3_000_000);
    let digest = registry.put_blob("a", &blob);
    let (client, _) = anonymous();
    let pieces = Arc::new(Mutex::new((0_usize, Sha256::new())));
    let seen = pieces.clone();
    let sink = move |piece: &[u8]| -> io::Result<()> {
        let mut seen = seen.lock().unwrap();
        seen.0 += 1;
        seen.1.update(piece);
        Ok(())
    };
    let a = repository(&registry.host(), "a");
    drop(client.fetch_blob(&a, digest, 3_000_000, Resume::default(), sink).await.unwrap());
    let (count, hash) = pieces.lock().unwrap().clone();
    assert!(count > 1, "in pieces");
    assert_eq!(hash.finish(), digest);
}

#[tokio::test]
async fn an_empty_blob_is_verified_without_a_request() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    assert!(client.blob_bytes(&a, Digest::of(b""), 0).await.unwrap().is_empty());
    let error = client.blob_bytes(&a, Digest::of(b"x"), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

/// A connection that breaks: the rest is asked for, not the whole.
/// Source: RFC 9110, section 14.
#[rstest]
#[case::announced_but_cut(false)]
#[case::without_a_length(true)]
#[tokio::test]
async fn a_blob_that_breaks_off_goes_on_where_it_was(#[case] unmeasured: bool) {
    let registry = FakeRegistry::open();
    let blob = bytes(2_000_000);
    let digest = registry.put_blob("a", &blob);
    registry.alter("GET", "/blobs/", 2, move |answer| {
        let half = answer.body.len() / 2;
        Answer { cut: Some(half), unmeasured, ..answer }
    });
    let (client, clock) = anonymous();
    let a = repository(&registry.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 2_000_000).await.unwrap(), blob);
    let ranges: Vec<Option<String>> =
        registry.log().iter().map(|logged| logged.head.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-".into()), Some("bytes=1500000-".into())]);
    assert_eq!(clock.pauses().len(), 2);
}

/// A line that breaks every few megabytes is not given up, however often it breaks.
#[tokio::test]
async fn many_breaks_with_progress_between_them_are_no_reason_to_give_up() {
    let registry = FakeRegistry::open();
    let blob = bytes(1_000_000);
    let digest = registry.put_blob("a", &blob);
    registry.alter("GET", "/blobs/", 15, |answer| Answer { cut: Some(60_000), ..answer });
    let (client, clock) = anonymous();
    let a = repository(&registry.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 1_000_000).await.unwrap(), blob);
    assert_eq!(clock.pauses().len(), 15);
}

/// A server that knows no ranges sends everything again; what is known is passed over.
/// Source: RFC 9110, section 14.2.
#[tokio::test]
async fn a_server_without_ranges_is_read_from_its_start() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.ranges = false);
    let blob = bytes(500_000);
    let digest = registry.put_blob("a", &blob);
    registry.alter("GET", "/blobs/", 1, |answer| Answer { cut: Some(300_000), ..answer });
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 500_000).await.unwrap(), blob);
}

#[tokio::test]
async fn a_transfer_goes_on_from_an_earlier_one() {
    let registry = FakeRegistry::open();
    let blob = bytes(300_000);
    let digest = registry.put_blob("a", &blob);
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    let mut hash = Sha256::new();
    hash.update(&blob[..100_000]);
    let resume = Resume { offset: 100_000, hash };
    let sink = blob[..100_000].to_vec();
    assert_eq!(client.fetch_blob(&a, digest, 300_000, resume, sink).await.unwrap(), blob);
    assert_eq!(registry.log()[0].head.header("range"), Some("bytes=100000-"));
}

/// What is left of an earlier transfer is not what it should be: it is forgotten and fetched anew.
#[tokio::test]
async fn a_rotten_beginning_is_forgotten() {
    let registry = FakeRegistry::open();
    let blob = bytes(300_000);
    let digest = registry.put_blob("a", &blob);
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    let rotten = vec![0; 100_000];
    let mut hash = Sha256::new();
    hash.update(&rotten);
    let resume = Resume { offset: 100_000, hash };
    assert_eq!(client.fetch_blob(&a, digest, 300_000, resume, rotten).await.unwrap(), blob);
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused() {
    let registry = FakeRegistry::open();
    let digest = Digest::of(&bytes(1000));
    registry.put_wrong_blob("a", digest, &[7; 1000]);
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    let error = client.blob_bytes(&a, digest, 1000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert_eq!(registry.count("GET", "/blobs/"), 2, "once more, no oftener");
    // A sink that cannot forget gets no second try.
    let sink = |_: &[u8]| -> io::Result<()> { Ok(()) };
    let failed = client.fetch_blob(&a, digest, 1000, Resume::default(), sink).await;
    assert_eq!(failed.err().unwrap().kind(), ErrorKind::Integrity);
    assert_eq!(registry.count("GET", "/blobs/"), 3);
}

/// A proxy's page instead of the blob, or a blob of another size than its descriptor says.
#[rstest]
#[case(999)]
#[case(1001)]
#[tokio::test]
async fn a_blob_of_another_size_is_refused_before_it_is_read(#[case] size: u64) {
    let registry = FakeRegistry::open();
    let digest = registry.put_blob("a", &bytes(1000));
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    let error = client.blob_bytes(&a, digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&format!("it has 1000 bytes, not {size}")), "{error}");
}

#[tokio::test]
async fn a_blob_without_end_is_given_up() {
    let registry = FakeRegistry::open();
    let digest = registry.put_blob("a", &bytes(1000));
    registry.alter("GET", "/blobs/", 9, |answer| {
        let mut body = answer.body.clone();
        body.extend_from_slice(b"and more");
        Answer { unmeasured: true, ..answer.body(body) }
    });
    let (client, _) = anonymous();
    let error = client.blob_bytes(&repository(&registry.host(), "a"), digest, 1000).await.unwrap_err();
    assert!(error.to_string().contains("more than 1000 bytes"), "{error}");
}

#[tokio::test]
async fn a_wrong_part_is_refused() {
    let registry = FakeRegistry::open();
    let blob = bytes(1000);
    let digest = registry.put_blob("a", &blob);
    registry.alter("GET", "/blobs/", 1, |answer| Answer { cut: Some(500), ..answer });
    registry.fault("GET", "/blobs/", 1, |_, _| {
        Answer::new(206).header("Content-Range", "bytes 600-999/1000").body(vec![0; 400]).into()
    });
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    assert_eq!(client.blob_bytes(&a, digest, 1000).await.unwrap(), blob, "the third answer is right");
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_transfer() {
    struct Full;
    impl BlobSink for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let registry = FakeRegistry::open();
    let blob = bytes(4_000_000);
    let digest = registry.put_blob("a", &blob);
    let (client, clock) = anonymous();
    let a = repository(&registry.host(), "a");
    let failed = client.fetch_blob(&a, digest, 4_000_000, Resume::default(), Full).await;
    let error = failed.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Local);
    assert!(clock.pauses().is_empty(), "it is not tried again");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::StorageFull);
}

/// A server that stops in mid-body: the limit on standing still ends it, and the rest is asked for.
#[tokio::test]
async fn a_body_that_stands_still_is_given_up_and_gone_on_with() {
    let registry = FakeRegistry::open();
    let blob = bytes(100_000);
    let digest = registry.put_blob("a", &blob);
    registry.alter("GET", "/blobs/", 1, |answer| Answer {
        cut: Some(50_000),
        pause: Duration::from_secs(8),
        ..answer
    });
    let mut options = options();
    options.timeouts = short_timeouts();
    let (client, clock) = client_with(options, Keychain::empty());
    let a = repository(&registry.host(), "a");
    let begun = std::time::Instant::now();
    assert_eq!(client.blob_bytes(&a, digest, 100_000).await.unwrap(), blob);
    assert!(begun.elapsed() < Duration::from_secs(8), "the server was not waited for");
    assert_eq!(clock.pauses().len(), 1);
}

#[rstest]
#[case(408)]
#[case(429)]
#[case(500)]
#[case(502)]
#[case(503)]
#[case(504)]
#[tokio::test]
async fn statuses_that_pass_are_waited_out(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    registry.fail("GET", "/manifests/", 3, Answer::new(status));
    let (client, clock) = anonymous();
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    // Half of 500 ms, 1 s and 2 s: the test's dice always show a half.
    assert_eq!(clock.pauses(), [250, 500, 1000].map(Duration::from_millis));
}

#[rstest]
#[case(400)]
#[case(405)]
#[case(451)]
#[case(501)]
#[tokio::test]
async fn statuses_that_do_not_pass_are_final(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.fail("GET", "/manifests/", 9, Answer::error(status, "X", "no"));
    let (client, clock) = anonymous();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.status(), Some(status));
    assert!(!error.is_temporary() && clock.pauses().is_empty());
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_made_again() {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    registry.hang_up("GET", "/manifests/", 3, 0);
    let (client, _) = anonymous();
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    registry.fault("GET", "/manifests/", 99, |_, _| Reply::HangUp);
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!((error.kind(), error.retries()), (ErrorKind::Network, 5));
    assert!(error.is_temporary() && error.to_string().contains("tried 6 times"), "{error}");
}

/// RFC 9110: seconds or a date.
#[rstest]
#[case("7", 7_000)]
#[case("Sun, 06 Nov 1994 08:49:57 GMT", 20_000)]
#[tokio::test]
async fn a_registry_that_asks_for_time_gets_it(#[case] header: &'static str, #[case] millis: u64) {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    registry.fail("GET", "/manifests/", 1, Answer::new(429).header("Retry-After", header));
    let (client, clock) = anonymous();
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(clock.pauses(), [Duration::from_millis(millis + 250)], "and a little more, not all at once");
}

#[tokio::test]
async fn a_registry_that_asks_for_hours_is_not_waited_for() {
    let registry = FakeRegistry::open();
    registry.fail("GET", "/manifests/", 9, Answer::new(429).header("Retry-After", "21600"));
    let (client, clock) = anonymous();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!(clock.pauses().is_empty());
}

/// Docker Hub's pull limit is counted over hours; its limit against abuse passes in seconds.
/// Source: Docker Hub documentation, "Usage and limits".
#[tokio::test]
async fn docker_hubs_two_kinds_of_429_are_told_apart() {
    let registry = FakeRegistry::open();
    registry.put_image("a", "v1");
    registry.fail("GET", "/manifests/", 1, Answer::new(429).body("Too Many Requests"));
    let (client, clock) = anonymous();
    let v1 = reference(&registry.host(), "a:v1");
    client.manifest(&v1).await.unwrap();
    assert_eq!(clock.pauses().len(), 1);
    let limit =
        "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit";
    registry.fail("GET", "/manifests/", 9, Answer::error(429, "TOOMANYREQUESTS", limit));
    let error = client.manifest(&v1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert_eq!(clock.pauses().len(), 1, "not waited for");
    assert!(error.hint().unwrap().contains("log in"));
}
