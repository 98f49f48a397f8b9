//! Uploads: the ways in which registries want the bytes, and what happens when they break off.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam::image::Digest;
use cofferdam::registry::{
    BlobOutcome, BlobSource, BlobUpload, Client, ErrorKind, HostOptions, Keychain, UploadStyle,
};
use rstest::rstest;

use super::push::upload;
use crate::client::{anonymous, bytes, client_with, options, repository, short_timeouts};
use crate::faulty::http::{Answer, Exchange, Reply};
use crate::faulty::registry::FakeRegistry;

fn styled(host: &str, style: UploadStyle) -> Client {
    let mut options = options();
    options.hosts.insert(host.to_owned(), HostOptions { upload: Some(style), ..HostOptions::default() });
    client_with(options, Keychain::empty()).0
}

#[tokio::test]
async fn progress_is_told_to_the_last_byte() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let told = Arc::new(Mutex::new(Vec::new()));
    let record = told.clone();
    let source = Bytes::from(bytes(1_000_000));
    let blob = BlobUpload {
        digest: Digest::of(&source),
        size: 1_000_000,
        source: &source,
        is_new: false,
        mount_from: &[],
        progress: Some(Arc::new(move |sent| record.lock().unwrap().push(sent))),
    };
    client.push_blob(&repository(&registry.host(), "a"), &blob).await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.len() > 1 && told.is_sorted() && *told.last().unwrap() == 1_000_000, "{told:?}");
}

/// ECR answers a PATCH with 201, others with 204 (containerd, regclient).
/// Source: openai/tart#273.
#[rstest]
#[case(200)]
#[case(201)]
#[case(204)]
#[tokio::test]
async fn a_patch_may_be_answered_with_any_success(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.patched = status);
    let (client, _) = anonymous();
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
}

/// distribution with `relativeurls`, zot, Gitea.
/// Source: opencontainers/distribution-spec#80.
#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn a_location_may_be_relative_and_its_query_is_kept(#[case] relative: bool) {
    // The registry refuses an upload whose `_state` does not come back as it was.
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.relative_location = relative);
    let (client, _) = anonymous();
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
    let put = registry.log().pop().unwrap();
    assert!(put.head.target.contains("?_state=a%2Fb%2Bc%3D%3D&digest=sha256:"), "{}", put.head.target);
}

/// Google Artifact Registry takes no chunked uploads: everything in the PUT.
/// Source: podman-container-tools/skopeo#1101.
#[tokio::test]
async fn a_monolithic_upload_is_post_and_put() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.monolithic_only = true);
    let client = styled(&registry.host(), UploadStyle::Monolithic);
    let blob = bytes(1_000_000);
    upload(&client, &registry.host(), "a", &blob).await.unwrap();
    assert_eq!(
        registry.lines()[1..],
        ["POST /v2/a/blobs/uploads/ 202", "PUT /v2/a/blobs/uploads/<id>?digest 201"]
    );
    assert_eq!(registry.blob("a", Digest::of(&blob)).unwrap(), blob);
}

/// A registry that takes only one of the two and is not known by its name is found out, once.
/// Source: kitops-ml/kitops#777.
#[rstest]
#[case(UploadStyle::Streamed)]
#[case(UploadStyle::Monolithic)]
#[tokio::test]
async fn a_style_that_is_refused_gives_way_to_the_other(#[case] refused: UploadStyle) {
    let registry = FakeRegistry::open();
    registry.behave(|manners| match refused {
        UploadStyle::Streamed => manners.monolithic_only = true,
        // Artifactory of old.
        _ => manners.patch_only = true,
    });
    let client = styled(&registry.host(), refused);
    upload(&client, &registry.host(), "a", b"one").await.unwrap();
    assert_eq!(registry.open_uploads(), 0, "the refused upload is given up");
    registry.forget_log();
    upload(&client, &registry.host(), "a", b"two").await.unwrap();
    assert!(registry.log().iter().all(|logged| logged.status != 405), "{:?}", registry.lines());
}

/// GHCR refuses a PATCH above 4 MB, a content delivery network one above 100 MB, nginx by default one above 1 MB.
/// Source: smol-machines/smolvm#436.
#[rstest]
#[case(4_194_304, 4_000_000)]
#[case(1_048_576, 900_000)]
#[tokio::test]
async fn a_body_that_is_too_large_is_sent_in_chunks_that_fit(#[case] largest: u64, #[case] chunk: usize) {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.largest_body = Some(largest));
    let (client, _) = anonymous();
    let blob = bytes(9_000_000);
    upload(&client, &registry.host(), "a", &blob).await.unwrap();
    assert_eq!(registry.blob("a", Digest::of(&blob)).unwrap(), blob);
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .filter_map(|logged| logged.head.header("content-range").map(str::to_owned))
        .collect();
    assert!(ranges.contains(&format!("{chunk}-{}", 2 * chunk - 1)), "{ranges:?}");
    assert_eq!(registry.open_uploads(), 0);
    // The next blob is sent so at once, and one that fits is not cut up.
    registry.forget_log();
    upload(&client, &registry.host(), "a", &blob[1..]).await.unwrap();
    assert_eq!(registry.log().iter().filter(|logged| logged.status == 413).count(), 0);
}

/// GHCR calls a chunk above 4 MiB out of range, and means too large.
/// Source: wasmCloud/wash-archive#268.
#[tokio::test]
async fn a_chunk_that_is_called_out_of_range_is_sent_in_smaller_ones() {
    let registry = FakeRegistry::open();
    registry.fault("PATCH", "/uploads/", 99, |exchange, registry| {
        let length: u64 = exchange.head.header("content-length").unwrap().parse().unwrap();
        if length <= 4 << 20 {
            return registry.normal(exchange);
        }
        drop(exchange.body(usize::MAX));
        let words = "the request body is too large and exceeds the maximum permissible limit of 4.00MiB";
        Answer::error(416, "REQUESTED_RANGE_NOT_SATISFIABLE", words).into()
    });
    let client = styled(&registry.host(), UploadStyle::Chunked(16_000_000));
    let blob = bytes(9_000_000);
    upload(&client, &registry.host(), "a", &blob).await.unwrap();
    assert_eq!(registry.blob("a", Digest::of(&blob)).unwrap(), blob);
    assert_eq!(registry.log().iter().filter(|logged| logged.status == 416).count(), 1);
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_however_small_is_an_error_with_a_hint() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.largest_body = Some(1000));
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "a", &bytes(2_000_000)).await.unwrap_err();
    assert_eq!(error.status(), Some(413));
    assert!(error.to_string().contains("413 Request Entity Too Large"), "{error}");
    assert!(error.hint().unwrap().contains("client_max_body_size"));
}

/// OCI distribution specification 1.1: a registry may want larger chunks.
/// Source: dotnet/sdk-container-builds#424.
#[tokio::test]
async fn chunks_are_as_large_as_the_registry_wants_them() {
    let registry = FakeRegistry::open();
    registry.alter("POST", "/uploads/", 9, |answer| answer.header("OCI-Chunk-Min-Length", "500000"));
    let client = styled(&registry.host(), UploadStyle::Chunked(100_000));
    upload(&client, &registry.host(), "a", &bytes(1_200_000)).await.unwrap();
    assert_eq!(registry.count("PATCH", "/uploads/"), 3);
}

/// An early refusal and a reset: the answer must not be lost behind the broken pipe.
#[tokio::test]
async fn a_refusal_in_mid_body_is_read() {
    let registry = FakeRegistry::open();
    registry.fault("PATCH", "/uploads/", 99, |exchange, _| {
        drop(exchange.body(100_000));
        Answer::error(403, "DENIED", "the quota is used up").into()
    });
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "a", &bytes(3_000_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("the quota is used up"), "{error}");
}

fn counted(source: &Bytes, opened: &Arc<AtomicUsize>) -> impl BlobSource + use<> {
    struct Counted(Bytes, Arc<AtomicUsize>);
    impl BlobSource for Counted {
        fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.open(offset)
        }
    }
    Counted(source.clone(), opened.clone())
}

/// distribution keeps what arrived of a broken PATCH and says so: only the rest is sent.
/// Source: OCI distribution specification 1.1, "Resuming an upload".
#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_proves_it() {
    let registry = FakeRegistry::open();
    registry.hang_up("PATCH", "/uploads/", 1, 1_000_000);
    registry.hang_up("PATCH", "/uploads/", 1, 500_000);
    let (client, clock) = anonymous();
    let source = Bytes::from(bytes(3_000_000));
    let opened = Arc::new(AtomicUsize::new(0));
    let counting = counted(&source, &opened);
    let blob = BlobUpload {
        digest: Digest::of(&source),
        size: 3_000_000,
        source: &counting,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    client.push_blob(&repository(&registry.host(), "a"), &blob).await.unwrap();
    assert_eq!(registry.blob("a", Digest::of(&source)).unwrap(), source);
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .filter_map(|logged| logged.head.header("content-range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["1000000-2999999", "1500000-2999999"]);
    assert_eq!(registry.count("POST", "/uploads/"), 1, "in the same session");
    assert_eq!(opened.load(Ordering::SeqCst), 3);
    assert_eq!(clock.pauses().len(), 2);
}

/// A registry that has nothing of a broken PATCH, or says nothing that proves what it has (ECR), or says what
/// is not true: everything is sent again in a new session.
/// Source: OCI distribution specification 1.1, "Resuming an upload".
#[rstest]
#[case::has_nothing(Some("0-0"))]
#[case::nonsense(Some("5-999"))]
#[case::more_than_there_is(Some("0-99999999"))]
#[case::is_wrong(Some("0-1999999"))]
#[tokio::test]
async fn a_broken_upload_begins_anew_where_nothing_is_proven(#[case] range: Option<&str>) {
    let registry = FakeRegistry::open();
    registry.behave(|manners| {
        manners.keeps_broken = false;
        manners.status_range = range.map(str::to_owned);
    });
    registry.hang_up("PATCH", "/uploads/", 1, 1_000_000);
    let (client, _) = anonymous();
    let blob = bytes(3_000_000);
    upload(&client, &registry.host(), "a", &blob).await.unwrap();
    assert_eq!(registry.blob("a", Digest::of(&blob)).unwrap(), blob);
    assert_eq!(registry.count("POST", "/uploads/"), 2);
}

/// Each chunk but the first fails once in each way that there is: nothing of it is kept, a part of it is, or all of it and only
/// the answer is lost. A registry that restarts does not say at once how much it has either.
#[rstest]
#[case::refused(|_: &mut Exchange<'_>, _: &FakeRegistry| Answer::new(502).into())]
#[case::too_many_requests(|_: &mut Exchange<'_>, _: &FakeRegistry| Answer::new(429).into())]
#[case::cut(|exchange: &mut Exchange<'_>, registry: &FakeRegistry| {
    let body = exchange.body(30_000).unwrap();
    registry.keep_of_upload(exchange.head.path().rsplit('/').next().unwrap(), &body);
    Reply::HangUp
})]
#[case::answer_lost(|exchange: &mut Exchange<'_>, registry: &FakeRegistry| {
    registry.normal(exchange);
    Reply::HangUp
})]
/// Source: OCI distribution specification 1.1, "Resuming an upload".
#[tokio::test]
async fn a_chunk_that_fails_does_not_send_those_before_it_again(
    #[case] failure: fn(&mut Exchange<'_>, &FakeRegistry) -> Reply,
) {
    let registry = FakeRegistry::open();
    let patches = AtomicUsize::new(0);
    registry.fault("PATCH", "/uploads/", usize::MAX, move |exchange, registry| {
        // Far more failures than there are tries, and never two in a row.
        match patches.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => registry.normal(exchange),
            _ => failure(exchange, registry),
        }
    });
    registry.fail("GET", "/uploads/", 1, Answer::new(503));
    let client = styled(&registry.host(), UploadStyle::Chunked(100_000));
    let blob = bytes(1_950_000);
    upload(&client, &registry.host(), "a", &blob).await.unwrap();
    assert_eq!(registry.blob("a", Digest::of(&blob)).unwrap(), blob);
    assert_eq!(registry.count("POST", "/uploads/"), 1, "in the same session: {:?}", registry.lines());
    assert!(registry.log().iter().filter(|logged| matches!(logged.status, 0 | 429 | 502)).count() > 6);
}

/// Two replicas that do not share sessions: each new session gets as far as the one before and no further.
#[tokio::test]
async fn chunks_that_get_no_further_in_any_session_are_given_up() {
    let registry = FakeRegistry::open();
    registry.fault("PATCH", "/uploads/", usize::MAX, |exchange, registry| {
        match exchange.head.header("content-range").is_some_and(|range| range.starts_with("0-")) {
            true => registry.normal(exchange),
            false => {
                drop(exchange.body(usize::MAX));
                Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into()
            }
        }
    });
    let client = styled(&registry.host(), UploadStyle::Chunked(100_000));
    let error = upload(&client, &registry.host(), "a", &bytes(1_000_000)).await.unwrap_err();
    assert_eq!((error.status(), error.retries()), (Some(404), 5), "{error}");
    assert_eq!(registry.count("POST", "/uploads/"), 6);
}

#[tokio::test]
async fn an_upload_that_breaks_again_and_again_is_given_up() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.keeps_broken = false);
    registry.hang_up("PATCH", "/uploads/", 99, 1000);
    let (client, _) = anonymous();
    let error = upload(&client, &registry.host(), "a", &bytes(3_000_000)).await.unwrap_err();
    assert_eq!((error.kind(), error.retries()), (ErrorKind::Network, 5), "{error}");
    assert_eq!(registry.count("PATCH", "/uploads/"), 6);
}

/// A registry behind two replicas that do not share sessions, or that restarted.
/// Source: OCI distribution specification 1.1, "Error codes".
#[tokio::test]
async fn a_session_that_is_lost_is_opened_again() {
    let registry = FakeRegistry::open();
    registry.fail("PUT", "/uploads/", 1, Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"));
    let (client, _) = anonymous();
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
    assert_eq!(registry.count("POST", "/uploads/"), 2);
}

/// The same at the bytes: what the registry says of one session speaks against no way of sending, and the next blob is sent as
/// this one, so that it can go on after a break.
/// Source: OCI distribution specification 1.1, "Error codes".
#[tokio::test]
async fn a_session_that_is_lost_changes_nothing_in_how_bytes_are_sent() {
    let registry = FakeRegistry::open();
    registry.fail("PATCH", "/uploads/", 1, Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"));
    let (client, _) = anonymous();
    for blob in [bytes(1_000_000), bytes(1_000_001)] {
        upload(&client, &registry.host(), "a", &blob).await.unwrap();
    }
    assert_eq!(registry.count("PATCH", "/uploads/"), 3, "{:?}", registry.lines());
    let puts = registry.log().into_iter().filter(|logged| logged.head.method == "PUT");
    assert!(puts.into_iter().all(|put| put.head.header("content-length") == Some("0")));
}

/// The commit worked and the answer was lost: the blob is there, and is not sent again.
/// Source: RFC 9110, section 9.2.2.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_out() {
    let registry = FakeRegistry::open();
    registry.fault("PUT", "/uploads/", 1, |exchange, registry| {
        registry.normal(exchange);
        Reply::HangUp
    });
    let (client, _) = anonymous();
    let outcome = upload(&client, &registry.host(), "a", &bytes(1_000_000)).await.unwrap();
    assert_eq!(outcome, BlobOutcome::Uploaded);
    assert_eq!(registry.count("PATCH", "/uploads/"), 1);
}

/// A registry on object storage hashes gigabytes at the commit; a slow answer there is not a dead one.
#[tokio::test]
async fn a_commit_may_take_longer_than_other_requests() {
    let registry = FakeRegistry::open();
    registry.alter("PUT", "/uploads/", 1, |answer| Answer { pause: Duration::from_secs(2), ..answer });
    let mut options = options();
    options.timeouts = short_timeouts();
    options.timeouts.commit = Duration::from_secs(20);
    let (client, clock) = client_with(options, Keychain::empty());
    upload(&client, &registry.host(), "a", b"blob").await.unwrap();
    assert!(clock.pauses().is_empty());
}

/// A body that moves slowly is not cut by the limit on standing still.
#[tokio::test]
async fn a_slow_upload_is_not_cut() {
    let registry = FakeRegistry::open();
    registry.fault("PATCH", "/uploads/", 1, |exchange, _| {
        // The whole takes two seconds, more than twice the limit; each step far less.
        let mut read = Vec::new();
        for _ in 0..60 {
            std::thread::sleep(Duration::from_millis(35));
            read.extend(exchange.body(500_000).unwrap());
        }
        assert_eq!(read.len(), 30_000_000);
        Answer::error(418, "READ", "everything was read").into()
    });
    let mut options = options();
    options.timeouts = short_timeouts();
    options.timeouts.commit = Duration::from_secs(20);
    let (client, _) = client_with(options, Keychain::empty());
    let error = upload(&client, &registry.host(), "a", &bytes(30_000_000)).await.unwrap_err();
    assert_eq!(error.status(), Some(418), "{error}");
}

/// A server that stops reading.
#[tokio::test]
async fn an_upload_that_stands_still_is_given_up() {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.keeps_broken = false);
    registry.fault("PATCH", "/uploads/", 1, |_, _| {
        std::thread::sleep(Duration::from_secs(8));
        Reply::HangUp
    });
    let mut options = options();
    options.timeouts = short_timeouts();
    let (client, _) = client_with(options, Keychain::empty());
    let begun = std::time::Instant::now();
    upload(&client, &registry.host(), "a", &bytes(30_000_000)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "it was not waited for");
}

#[tokio::test]
async fn a_source_that_fails_is_a_local_error_and_not_tried_again() {
    struct Broken;
    impl BlobSource for Broken {
        fn open(&self, _: u64) -> io::Result<Box<dyn Read + Send>> {
            struct Fails(u64);
            impl Read for Fails {
                fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                    self.0 += buffer.len() as u64;
                    if self.0 > 1_000_000 {
                        Err(io::Error::other("the disk is gone"))
                    } else {
                        Ok(buffer.len())
                    }
                }
            }
            Ok(Box::new(Fails(0)))
        }
    }
    let registry = FakeRegistry::open();
    let (client, clock) = anonymous();
    let blob = BlobUpload {
        digest: Digest::of(b"?"),
        size: 3_000_000,
        source: &Broken,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    let error = client.push_blob(&repository(&registry.host(), "a"), &blob).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Local, "{error}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the disk is gone");
    assert!(clock.pauses().is_empty());
}

#[rstest]
#[case::shorter(2_000_001)]
#[tokio::test]
async fn a_source_of_another_length_is_a_local_error(#[case] size: u64) {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let source = Bytes::from(bytes(2_000_000));
    let blob = BlobUpload {
        digest: Digest::of(&source),
        size,
        source: &source,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    let error = client.push_blob(&repository(&registry.host(), "a"), &blob).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Local, "{error}");
}

/// Who is at fault for `DIGEST_INVALID`: the source, or the way to the registry.
#[tokio::test]
async fn wrong_bytes_are_blamed_on_who_sent_them() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let source = Bytes::from(bytes(1000));
    let blob = BlobUpload {
        digest: Digest::of(b"other"),
        size: 1000,
        source: &source,
        is_new: false,
        mount_from: &[],
        progress: None,
    };
    let a = repository(&registry.host(), "a");
    let error = client.push_blob(&a, &blob).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(
        error.to_string().contains(&format!("what was to be sent is {}", Digest::of(&source))),
        "{error}"
    );
    assert_eq!(registry.count("PUT", "/"), 1, "it is not sent again");

    let digest = Digest::of(&source);
    registry.fail("PUT", "/uploads/", 1, Answer::error(400, "DIGEST_INVALID", "no"));
    let blob = BlobUpload { digest, ..blob };
    client.push_blob(&a, &blob).await.unwrap();
}

/// Source: OCI distribution specification 1.1, "POST then PUT".
#[tokio::test]
async fn a_small_blob_that_was_made_just_now_is_two_requests() {
    let registry = FakeRegistry::open();
    let (client, _) = anonymous();
    let a = repository(&registry.host(), "a");
    let push = async |content: Bytes| {
        let digest = Digest::of(&content);
        let (size, source) = (content.len() as u64, content);
        let blob =
            BlobUpload { digest, size, source: &source, is_new: true, mount_from: &[], progress: None };
        let before = registry.log().len();
        assert_eq!(client.push_blob(&a, &blob).await.unwrap(), BlobOutcome::Uploaded);
        let methods = registry.log().split_off(before);
        // An upload that was given up is cancelled at some time: nobody waits for it.
        let methods = methods.iter().map(|one| one.head.method.to_string());
        methods.filter(|method| method != "DELETE").collect::<Vec<_>>()
    };
    assert_eq!(push(Bytes::from(bytes(64 << 10))).await, ["POST", "PUT"]);
    assert_eq!(push(Bytes::from(bytes((64 << 10) + 1))).await, ["HEAD", "POST", "PATCH", "PUT"]);
    // A failed commit may have been one: then it is looked up.
    registry.fail("PUT", "/uploads/", 1, Answer::new(503));
    assert_eq!(push(Bytes::from_static(b"other")).await, ["POST", "PUT", "HEAD", "POST", "PUT"]);
    // A registry that takes no bytes with the commit is sent none again.
    registry.fail("PUT", "/uploads/", 1, Answer::new(405));
    push(Bytes::from_static(b"third")).await;
    assert_eq!(push(Bytes::from_static(b"fourth")).await, ["POST", "PATCH", "PUT"]);
}
