//! Results of different runs of a step: which of them go together.

use crate::caches::{FILES, cache_repo, cached, fresh};
use crate::faults::state_directory;
use crate::support::{Cofferdam, Registry, layers};
use crate::{build, context};

/// What no two runs make alike, and what is made of that. Of `steps` the first so many.
fn of_a_run(steps: usize) -> String {
    let all = ["RUN cat /proc/sys/kernel/random/uuid > /a", "RUN cp /a /b", "COPY conf /", "RUN cp /b /c"];
    format!("FROM busybox:1\n{}\n", all[..steps].join("\n"))
}

/// Whether the files of an image come from one run.
fn is_of_one_run(registry: &Registry, image: &str) -> bool {
    let all = layers(registry, image);
    let of = |name: &str| all.iter().find_map(|layer| layer.get(name)).map(|node| node.content.clone());
    let files: Vec<String> = ["a", "b", "c"].into_iter().filter_map(of).collect();
    assert!(files.len() > 1, "{image} has {files:?}");
    files.iter().all(|content| *content == files[0])
}

#[test]
fn layers_that_two_machines_have_made_are_not_mixed() {
    let registry = Registry::start();
    let tree = context(&of_a_run(1), &FILES);
    let change = |steps: usize| std::fs::write(tree.path().join("Dockerfile"), of_a_run(steps)).unwrap();
    let cache = cache_repo(&registry);
    let (one, other) = (Cofferdam::new(), Cofferdam::new());
    let push = |cofferdam: &Cofferdam, name: &str, more: &[&str]| {
        let tag = format!("--tag={}", registry.reference(name));
        build(cofferdam, &registry, tree.path(), &[&[tag.as_str(), "--push"], more].concat()).succeeded()
    };
    // Each has carried out the first step itself; one alone has shared what comes of it.
    push(&other, "group/app:other", &[]);
    push(&one, "group/app:one", &[&cache]);
    change(2);
    push(&one, "group/app:one", &[&cache]);
    let built = push(&other, "group/app:other", &[&cache]);
    assert!(is_of_one_run(&registry, "group/app:other"), "{}", built.stderr);
    // It has taken both, rather than the one that it had and another of its own.
    assert_eq!(cached(&built), (2, 2), "{}", built.stderr);

    // It goes on from there, here, and for one that has never built it.
    change(4);
    let built = push(&other, "group/app:other", &[&cache]);
    assert_eq!(cached(&built), (2, 4), "{}", built.stderr);
    assert!(is_of_one_run(&registry, "group/app:other"), "{}", built.stderr);
    let third = push(&Cofferdam::new(), "group/app:third", &[&cache]);
    assert_eq!((cached(&third), third.digest()), ((4, 4), built.digest()), "{}", third.stderr);
    // What came from elsewhere is here by now, and enough without that.
    let alone = push(&other, "group/app:alone", &[]);
    assert_eq!((cached(&alone), alone.digest()), ((4, 4), built.digest()), "{}", alone.stderr);
}

#[test]
fn layers_that_two_pipelines_have_made_side_by_side_are_not_mixed() {
    let registry = Registry::start();
    let tree = context(&of_a_run(2), &FILES);
    let change = |steps: usize| std::fs::write(tree.path().join("Dockerfile"), of_a_run(steps)).unwrap();
    let cache = cache_repo(&registry);
    let own = |number: usize| format!("--cache-repo={}", registry.reference(&format!("group/cache{number}")));
    for number in 0..2 {
        fresh(&registry, tree.path(), &own(number), &[]).0.succeeded();
    }
    // Neither has found what the other made: of one there is the first step, of the other the second.
    change(1);
    let shared = [format!("--cache-to=type=registry,ref={}:any", registry.reference("group/app/cache"))];
    let copy = |number: usize| {
        let from = format!(
            "--cache-from=type=registry,ref={}:any",
            registry.reference(&format!("group/cache{number}"))
        );
        fresh(&registry, tree.path(), &shared[0], &[&from]).0.succeeded();
    };
    copy(0);
    change(2);
    copy(1);
    // Which of them answers first is left to chance.
    for number in 0..8 {
        let dockerfile = format!("{}RUN cp /b /c && echo {number}\n", of_a_run(2));
        std::fs::write(tree.path().join("Dockerfile"), dockerfile).unwrap();
        let tag = format!("--tag={}", registry.reference(&format!("group/app:{number}")));
        let (built, _) = fresh(&registry, tree.path(), &cache, &[&tag, "--push"]);
        let built = built.succeeded();
        assert_eq!(cached(&built), (2, 3), "{}", built.stderr);
        assert!(is_of_one_run(&registry, &format!("group/app:{number}")), "{}", built.stderr);
    }
}

#[test]
fn what_two_stages_begin_with_is_carried_out_once() {
    let registry = Registry::start();
    let begin = "RUN cat /proc/sys/kernel/random/uuid > /a";
    let dockerfile = format!(
        "FROM busybox:1 AS one\n{begin}\nRUN cp /a /b\nFROM busybox:1\n{begin}\nRUN cp /a /own && sleep 0.1\nCOPY --from=one /b /\n"
    );
    let tree = context(&dockerfile, &[]);
    let kept = Cofferdam::new();
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    for (flag, known) in [("--no-cache", 1), ("--cache-ttl=1h", 3)] {
        let built = build(&kept, &registry, tree.path(), &[&tag, "--push", flag]).succeeded();
        assert_eq!(cached(&built).0, known, "{flag}: {}", built.stderr);
        assert!(is_of_one_run(&registry, "group/app:1"), "{flag}: {}", built.stderr);
    }
}

#[test]
fn nothing_is_put_above_a_step_that_was_carried_out_again() {
    let registry = Registry::start();
    let tree = context(&of_a_run(1), &FILES);
    let change = |steps: usize| std::fs::write(tree.path().join("Dockerfile"), of_a_run(steps)).unwrap();
    let kept = Cofferdam::new();
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    let push =
        |more: &[&str]| build(&kept, &registry, tree.path(), &[&[&tag, "--push"], more].concat()).succeeded();
    // The first step is too old, the others are not.
    push(&[]);
    std::thread::sleep(std::time::Duration::from_secs(4));
    change(4);
    push(&[]);
    let built = push(&["--cache-ttl=3s"]);
    assert_eq!(cached(&built).0, 0, "{}", built.stderr);
    assert!(is_of_one_run(&registry, "group/app:1"), "{}", built.stderr);

    // A step below others is lost, as it may be where room is short.
    let blob = |layer: usize| {
        let digest = registry.manifest("group/app:1")["layers"][layer]["digest"].as_str().unwrap().to_owned();
        state_directory(&kept).join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    };
    let of_base = registry.manifest("group/app:1")["layers"].as_array().unwrap().len() - 4;
    std::fs::remove_file(blob(of_base)).unwrap();
    let built = push(&[]);
    assert_eq!(cached(&built).0, 0, "{}", built.stderr);
    assert!(is_of_one_run(&registry, "group/app:1"), "{}", built.stderr);
    // One that comes out the same is no reason to do more.
    std::fs::remove_file(blob(of_base + 2)).unwrap();
    let built = push(&[]);
    assert_eq!(cached(&built), (3, 4), "{}", built.stderr);
    assert!(is_of_one_run(&registry, "group/app:1"), "{}", built.stderr);
}
