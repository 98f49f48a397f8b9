//! What a limit and a prune leave of what builds have kept.

use crate::caches::{FILES, cached};
use crate::support::{Cofferdam, Registry, Request, sha256};
use crate::{build, context, run};

#[test]
fn a_state_directory_stays_within_its_limit() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nCOPY noise /\nRUN echo 1 > /a\n", &[]);
    // Marsaglia, "Xorshift RNGs": what does not compress.
    let xorshift = |state: u32| {
        let state = state ^ (state << 13);
        let state = state ^ (state >> 17);
        state ^ (state << 5)
    };
    let fill = |seed: u32| {
        let noise = std::iter::successors(Some(seed), |state| Some(xorshift(*state)));
        let noise: Vec<u8> = noise.take(750_000).flat_map(u32::to_le_bytes).collect();
        std::fs::write(tree.path().join("noise"), noise).unwrap();
    };
    let kept = Cofferdam::new();
    let images = || run(kept.command().arg("images")).succeeded().stdout;
    let limit = "--state-limit=6MB";
    fill(1);
    // All of it fits, but for a root filesystem that might be kept.
    build(&kept, &registry, tree.path(), &["--tag=first", limit]).succeeded();
    assert_eq!(cached(&build(&kept, &registry, tree.path(), &[limit]).succeeded()), (2, 2));
    fill(2);
    build(&kept, &registry, tree.path(), &["--tag=second"]).succeeded();
    assert!(images().contains("first") && images().contains("second"));

    // What this build has made or used stays, and it is told what went.
    let again = build(&kept, &registry, tree.path(), &["--tag=third", limit]).succeeded();
    assert_eq!(cached(&again), (2, 2));
    assert!(again.stderr.contains("state directory: freed "), "{}", again.stderr);
    let left = images();
    assert!(left.contains("second") && left.contains("third") && !left.contains("first"), "{left}");
    let json = run(kept.command().args(["prune", "--format=json"])).succeeded().stdout;
    let bytes = serde_json::from_str::<serde_json::Value>(&json).unwrap()["left_bytes"].as_u64().unwrap();
    assert!((3_000_000..6_000_000).contains(&bytes), "{bytes}");
    assert_eq!(cached(&build(&kept, &registry, tree.path(), &[limit]).succeeded()), (2, 2));

    // A build that fails leaves no more; an image that is larger alone is kept, and told of.
    fill(3);
    std::fs::write(tree.path().join("Dockerfile"), "FROM busybox:1\nCOPY noise /\nRUN exit 3\n").unwrap();
    build(&kept, &registry, tree.path(), &["--state-limit=1kB"]).failed(4, &["exit 3"]);
    assert!(!images().contains("second"), "{}", images());
    std::fs::write(tree.path().join("Dockerfile"), "FROM busybox:1\nCOPY noise /\n").unwrap();
    let large = build(&kept, &registry, tree.path(), &["--tag=large", "--state-limit=1kB"]).succeeded();
    assert!(large.stderr.contains("more than its limit"), "{}", large.stderr);
    assert!(images().contains("large"));
}

/// Lists of files and base images went with the first prune: misses could not name what had changed, and bases were fetched
/// again.
#[test]
fn a_plain_prune_takes_nothing_that_the_next_build_needs() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nCOPY main conf /srv/\nRUN cat /srv/conf > /all\n", &FILES);
    let kept = Cofferdam::new();
    let state = kept.home().join("state");
    let state_dir = format!("--state-dir={}", state.display());
    // The image is pushed, and has no name here.
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    let args = [state_dir.as_str(), &tag, "--push"];
    build(&kept, &registry, tree.path(), &args).succeeded();
    let stray = state.join("blobs/sha256").join(sha256(b"stray").trim_start_matches("sha256:"));
    std::fs::write(&stray, "stray").unwrap();
    // What the build has left is cleared away behind it.
    run(kept.command().args(["prune", "--wait=1m", &state_dir])).succeeded();
    assert!(!stray.exists());

    std::fs::write(tree.path().join("conf"), "x=2").unwrap();
    let before = registry.requests().len();
    let again = build(&kept, &registry, tree.path(), &[&args[..], &["--explain"]].concat()).succeeded();
    assert!(again.stderr.contains("file conf has changed"), "{}", again.stderr);
    let fetched = |request: &&Request| request.method == "GET" && !request.path.contains("/uploads/");
    let requests = registry.requests().split_off(before);
    assert_eq!(requests.iter().filter(fetched).count(), 0, "{requests:#?}");
}
