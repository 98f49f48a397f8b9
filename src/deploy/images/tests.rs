use rstest::rstest;
use serde_json::json;

use super::*;
use crate::deploy::manifest;

const OTHER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn digest() -> Digest {
    Digest::of(b"image")
}

fn image(name: Option<&str>, refs: &[&str]) -> Image {
    let refs = refs.iter().map(|text| text.parse::<Reference>().unwrap().pinned(digest())).collect();
    Image { name: name.map(str::to_owned), refs, origin: "image.json".to_owned() }
}

fn app() -> Vec<Image> {
    vec![image(None, &["r.example/g/app:v2", "other.example:5000/app:v2"])]
}

fn objects(text: &str) -> Vec<Object> {
    manifest::read(&["-".to_owned()], text.as_bytes(), &manifest::Options::default()).unwrap()
}

fn pod(image: &str) -> Vec<Object> {
    objects(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    ))
}

/// What becomes of the image of a pod.
fn of_pod(text: &str, images: &[Image], options: &ImageOptions) -> String {
    let mut objects = pod(text);
    substitute(&mut objects, images, options).unwrap();
    objects[0].fields["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}

fn faults(objects: &mut [Object], images: &[Image], options: &ImageOptions) -> Vec<String> {
    match substitute(objects, images, options) {
        Err(DeployError::Manifests(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case("r.example/g/app:v1", "r.example/g/app:v2@")]
#[case("r.example/g/app", "r.example/g/app:v2@")]
#[case("other.example:5000/app", "other.example:5000/app:v2@")]
#[case("cofferdam://app", "r.example/g/app:v2@")]
#[case("cofferdam://r.example/g/app", "r.example/g/app:v2@")]
#[case("cofferdam://other.example:5000/app", "r.example/g/app:v2@")]
fn what_is_of_the_repository_is_replaced(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(of_pod(text, &app(), &ImageOptions::default()), format!("{expected}{}", digest()));
}

#[rstest]
#[case("r.example/g/app2:v1")]
#[case("r.example/x/g/app")]
#[case("r.example/g")]
#[case("app")]
#[case("$IMAGE")]
#[case("")]
fn what_is_not_stays(#[case] text: &str) {
    let options = ImageOptions { allow_unused: true, ..ImageOptions::default() };
    assert_eq!(of_pod(text, &app(), &options), text);
}

#[test]
fn a_name_may_be_that_of_a_repository() {
    let images = [image(Some("nginx"), &["r.example/web:v1"])];
    let options = ImageOptions::default();
    let to = format!("r.example/web:v1@{}", digest());
    for text in ["nginx", "docker.io/library/nginx:1.27", "cofferdam://nginx", "r.example/web:old"] {
        assert_eq!(of_pod(text, &images, &options), to, "{text}");
    }
}

#[test]
fn the_tag_may_be_left_out() {
    let options = ImageOptions { without_tag: true, ..ImageOptions::default() };
    assert_eq!(of_pod("r.example/g/app:v1", &app(), &options), format!("r.example/g/app@{}", digest()));
}

#[test]
fn what_is_pinned_to_another_digest_stays_and_is_noted() {
    let mut objects = pod(&format!("r.example/g/app:v1@{OTHER}"));
    let out = substitute(&mut objects, &app(), &ImageOptions::default()).unwrap();
    assert_eq!(out.replaced, []);
    assert_eq!(
        out.notes,
        [format!(
            "standard input:1: spec.containers[0].image of `pod/p` stays as it is: it is pinned to {OTHER}"
        )]
    );
    // The same digest is the same image, whatever the tag.
    let same = format!("r.example/g/app@{}", digest());
    assert_eq!(of_pod(&same, &app(), &ImageOptions::default()), format!("r.example/g/app:v2@{}", digest()));
}

#[test]
fn every_kind_that_makes_pods() {
    let spec = "{initContainers: [{name: i, image: r.example/g/app}], containers: [{name: c, image: r.example/g/app}], \
                ephemeralContainers: [{name: e, image: r.example/g/app}], volumes: [{name: v, image: {reference: r.example/g/app}}]}";
    let template = format!("{{template: {{spec: {spec}}}}}");
    let kinds = [
        ("v1", "Pod", format!("spec: {spec}")),
        ("v1", "PodTemplate", format!("template: {{spec: {spec}}}")),
        ("v1", "ReplicationController", format!("spec: {template}")),
        ("apps/v1", "Deployment", format!("spec: {template}")),
        ("apps/v1", "StatefulSet", format!("spec: {template}")),
        ("apps/v1", "DaemonSet", format!("spec: {template}")),
        ("apps/v1", "ReplicaSet", format!("spec: {template}")),
        ("batch/v1", "Job", format!("spec: {template}")),
        ("batch/v1", "CronJob", format!("spec: {{jobTemplate: {{spec: {template}}}}}")),
        ("argoproj.io/v1alpha1", "Rollout", format!("spec: {template}")),
        ("serving.knative.dev/v1", "Service", format!("spec: {template}")),
    ];
    for (version, kind, rest) in kinds {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, labels: {{app: r.example/g/app}}}}\n{rest}\n"
        );
        let mut objects = objects(&text);
        let out = substitute(&mut objects, &app(), &ImageOptions::default()).unwrap();
        assert_eq!(out.replaced.len(), 4, "{kind}: {:?}", out.replaced);
        assert_eq!(objects[0].label("app"), Some("r.example/g/app"), "nothing but images is touched");
    }
}

#[test]
fn what_was_replaced_is_told() {
    let mut objects = pod("r.example/g/app:v1");
    let out = substitute(&mut objects, &app(), &ImageOptions::default()).unwrap();
    let [replaced] = out.replaced.as_slice() else { panic!("{out:?}") };
    assert_eq!(replaced.object.to_string(), "pod/p");
    assert_eq!(replaced.path, "spec.containers[0].image");
    assert_eq!(
        (&*replaced.from, &*replaced.to),
        ("r.example/g/app:v1", &*format!("r.example/g/app:v2@{}", digest()))
    );
}

#[test]
fn mistakes_are_told_together() {
    let mut objects = pod("cofferdam://nope");
    let mut images = app();
    images.push(image(None, &["x.example/app:v1"]));
    images.push(Image {
        refs: vec!["r.example/g/app:v3".parse::<Reference>().unwrap().pinned(OTHER.parse().unwrap())],
        ..image(None, &["r.example/g/app"])
    });
    let d = digest();
    assert_eq!(
        faults(&mut objects, &images, &ImageOptions::default()),
        [
            format!(
                "two images are of repository `r.example/g/app`: image.json says {d}, and image.json says {OTHER}"
            ),
            "standard input:1: spec.containers[0].image: there is no image `nope`".to_owned(),
            format!("no manifest uses the image `r.example/g/app:v2@{d}` of image.json"),
            format!("no manifest uses the image `x.example/app:v1@{d}` of image.json"),
            format!("no manifest uses the image `r.example/g/app:v3@{OTHER}` of image.json"),
        ]
    );
    let mut objects = pod("cofferdam://app");
    let options = ImageOptions { allow_unused: true, ..ImageOptions::default() };
    let found = faults(&mut objects, &images[..2], &options);
    assert_eq!(found, ["standard input:1: spec.containers[0].image: there are several images `app`"]);
}

#[test]
fn fields_of_custom_resources() {
    let text = "apiVersion: x.example/v1\nkind: App\nmetadata: {name: a}\nspec:\n  image: r.example/g/app:v1\n  parts:\n  - {repo: r.example/g/app, tag: v1}\n  \
                - {repo: r.example/else, tag: v1}\n  - {repo: r.example/g/app}\n  full: {repo: r.example/g/app, tag: v0, digest: ''}\n";
    let paths = [
        "App.x.example=spec.image",
        "app.x.example=$.spec.parts[*].repo,spec.parts[*].tag",
        "App.x.example=spec.full.repo,spec.full.tag,spec.full.digest",
        "App.y.example=spec.image",
    ];
    let options = ImageOptions {
        paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
        ..ImageOptions::default()
    };
    let mut objects = objects(text);
    let out = substitute(&mut objects, &app(), &options).unwrap();
    let d = digest();
    assert_eq!(
        objects[0].fields["spec"],
        json!({
            "image": format!("r.example/g/app:v2@{d}"),
            "parts": [
                {"repo": "r.example/g/app", "tag": format!("v2@{d}")},
                {"repo": "r.example/else", "tag": "v1"},
                {"repo": "r.example/g/app", "tag": format!("v2@{d}")}
            ],
            "full": {"repo": "r.example/g/app", "tag": "v2", "digest": d.to_string()}
        })
    );
    let places: Vec<&str> = out.replaced.iter().map(|replaced| &*replaced.path).collect();
    assert_eq!(places, ["spec.image", "spec.parts[0].repo", "spec.parts[2].repo", "spec.full.repo"]);
    let options = ImageOptions {
        paths: vec!["App.x.example=spec".parse().unwrap()],
        allow_unused: true,
        ..ImageOptions::default()
    };
    assert_eq!(
        faults(&mut objects, &app(), &options),
        ["standard input:1: spec: it is not the text that `--image-path` takes it for"]
    );
}
