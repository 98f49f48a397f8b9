//! Manifests, what is made of them without a cluster, and what `kubectl` and `envsubst` make of the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cofferdam::deploy::manifest::{self, Options};
use cofferdam::deploy::{DeployError, render};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use support::{Cofferdam, Registry, part};

/// What a program answers to `input`; its standard error if it fails.
fn ask(mut command: Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn kubectl() -> PathBuf {
    part("kubernetes").join("kubectl")
}

/// The objects that kubectl reads, by a command that needs no server and changes nothing but to add empty annotations.
fn by_kubectl(text: &str) -> Result<Vec<Value>, String> {
    let mut command = Command::new(kubectl());
    command.args(["annotate", "--local", "-f", "-", "none-", "-o", "json"]).env("KUBECONFIG", "/dev/null");
    let out = ask(command, text.as_bytes())?;
    let objects = serde_json::Deserializer::from_slice(&out).into_iter::<Value>();
    Ok(objects.map(|object| comparable(object.unwrap())).collect())
}

fn by_us(text: &str) -> Result<Vec<Value>, String> {
    match manifest::read(&["-".to_owned()], text.as_bytes(), &Options::default()) {
        Ok(objects) => {
            // What is sent is compared, not what it is in memory.
            Ok(objects.into_iter().map(|object| comparable(reread(&Value::Object(object.fields)))).collect())
        }
        Err(DeployError::Manifests(faults)) if faults.is_empty() => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

fn reread(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap()
}

fn comparable(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("annotations").is_some_and(|annotations| *annotations == json!({}))
    {
        metadata.remove("annotations");
    }
    numbers(&mut object);
    object
}

/// Numbers beyond 64 bits are doubles, however many digits they are written with.
fn numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_i64().is_none() => *value = json!(number.as_f64()),
        Value::Array(list) => list.iter_mut().for_each(numbers),
        Value::Object(fields) => fields.values_mut().for_each(numbers),
        _ => {}
    }
}

/// Scalars as people write them, right and wrong.
fn scalars() -> Vec<String> {
    #[rustfmt::skip]
    let listed = [
        "", "~", "null", "Null", "NULL", "nULL", "y", "Y", "yes", "Yes", "YES", "yEs", "n", "N", "no", "on", "On", "oN", "off",
        "OFF", "true", "True", "TRUE", "tRue", "false", "0", "00", "-0", "+0", "07", "08", "0644", "0o644", "0O7", "0o8", "-0o7",
        "0x1F", "0X1f", "0x", "0xG", "-0x10", "+0x10", "0b101", "0B1", "0b2", "0b-1", "-0b1", "-0b-1", "0b+1", "1_000", "1__0", "_1",
        "1_", "+1", "-1", "+-1", "1e3", "1E3", "1e+3", "1e-3", "1e", "1.0", "1.", ".5", "+.5", "-.5", ".", "..", "1.5e3", ".5e1",
        "1e999", "-1e999", ".5e999", "1e-999", "0.1", "3.14159265358979323846", "1.7976931348623157e308", "5e-324", "1e21", "1e20",
        "123456789012345678901", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
        "18446744073709551615", "18446744073709551616", "+9223372036854775808", "0xFFFFFFFFFFFFFFFF", "0xFFFFFFFFFFFFFFFFF", "1:30",
        "190:20:30", "1:30.5", "2001-01-01", "2001-12-14t21:59:43.10-05:00", "2001-1-1", "12-34", "1234-", "1.2.3", "v1", "1Gi", "500m",
        "0.5", "<<", "=", "a b", "a: b", "a#b", "'5'", "\"5\"", "'it''s'", "\"a\\tb\"", "\"\\u00e9\\x41\\U0001F600\"", "'~'", "''",
        "!!str 5", "!!str", "!!int 5", "!!int '5'", "!!float 5", "!!float 0x10", "!!bool yes", "!!bool 'yes'", "!!null ''", "!!binary aGk=",
        "!own 5", "! 5", "! '5'", "!!timestamp 2001-01-01", "&a 5", "[1, yes, ~]", "{a: 1, b: [x]}", "[a, , b]", "{a, b: 1}", "{a: , b: }",
        "|\n    x\n     y\n", ">-\n    x\n    y\n\n    z", "|+\n    x\n\n", "a\n    b", "'a\n\n    b'", "\"a\\\n    b\"", "-", "?a", ":a", "a:b", "a\tb",
        "http://x/y?z#w", "%a", "@a", "`a", "*a", "[", "é", "x # y",
    ];
    listed.map(str::to_owned).into()
}

fn config_map(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n{data}\n")
}

/// kubectl is asked once for all that it takes: starting it is what takes the time. What it refuses is asked alone.
fn compare(texts: &[String]) {
    let (taken, refused): (Vec<&String>, Vec<&String>) = texts.iter().partition(|text| by_us(text).is_ok());
    let joined = taken.iter().map(|text| format!("---\n{text}\n")).collect::<String>();
    let ours: Vec<Value> = taken.iter().flat_map(|text| by_us(text).unwrap()).collect();
    let mut differences = Vec::new();
    if by_kubectl(&joined).as_ref() != Ok(&ours) {
        differences.extend(taken.into_iter().filter(|text| by_us(text) != by_kubectl(text)));
    }
    differences.extend(refused.into_iter().filter(|text| by_kubectl(text).is_ok()));
    let words = differences
        .iter()
        .map(|text| format!("{text}\nkubectl {:?}\nwe {:?}\n", by_kubectl(text), by_us(text)));
    assert!(differences.is_empty(), "{}", words.collect::<String>());
}

#[test]
fn scalars_are_what_kubectl_takes_them_for() {
    compare(&scalars().iter().map(|scalar| config_map(&format!("data:\n  v: {scalar}"))).collect::<Vec<_>>());
}

#[test]
fn names_of_fields_are_what_kubectl_takes_them_for() {
    let keys = scalars().into_iter().filter(|key| !key.contains('\n') && !key.is_empty());
    compare(&keys.map(|key| config_map(&format!("data:\n  {key}: v"))).collect::<Vec<_>>());
}

#[test]
fn documents_are_what_kubectl_takes_them_for() {
    let a = config_map("");
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}, \"data\": {\"n\": 1.0, \"m\": 1e3, \"o\": 12345678901234567890}}";
    let list = |kind: &str, items: &str| format!("apiVersion: v1\nkind: {kind}\nitems:\n{items}\n");
    let texts = [
        a.replace('\n', "\r\n"),
        format!("# x\n---\n{a}--- # y\n# z\n---\n\n---\nnull\n"),
        format!("\u{feff}{a}"),
        format!("{a}...\n# end\n"),
        format!("{a}--- x\n"),
        format!("{a}---x\n"),
        format!("%YAML 1.1\n---\n{a}"),
        json.to_owned(),
        format!("{json}{}", json.replace("\"a\"", "\"b\"")),
        format!("{json}\n---\n{}", a.replace("name: a", "name: b")),
        format!("  \n{json}\n"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}".to_owned(),
        "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"},}".to_owned(),
        list(
            "List",
            "- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: a}",
        ),
        list(
            "ConfigMapList",
            "- metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: b}",
        ),
        list("ConfigMapList", "- kind: ConfigMap\n  metadata: {name: a}"),
        list("List", "- metadata: {name: a}"),
        "apiVersion: v1\nkind: ConfigMapList\nitems: []\n".to_owned(),
        "- a\n".to_owned(),
        "a\n".to_owned(),
        config_map("data: {b: &b {x: 1, z: 2}, m: {x: 9, <<: *b, z: 7}, n: {<<: [*b, {x: 5, w: 6}]}}"),
        config_map("data: {b: &b {x: 1}, m: {<<: 5}}"),
        config_map("data: {b: &b [1], m: {<<: *b}}"),
        config_map("data: {&k a: *k}"),
        config_map("data: {? [a] : b}"),
        config_map("data: &d {x: *d}"),
        config_map("data:\n  ? a\n  : b\n  ? c\n"),
        config_map("data:\n\ta: b"),
        config_map("data:\n  a: b\n c: d"),
        config_map("data:\n- a\n- - b\n  - c\n-\n  d: e\n"),
        config_map("data: {\"a\":1,b:2, c: d}"),
        config_map("data:\n  \"a\":1"),
        config_map("data:\n  a: 'x'y"),
        config_map("data: [a\n]"),
        config_map("data: *none"),
        config_map("data:\n  a: \"\\q\""),
        config_map("data:\n  a: |2\n      x\n    y\n  b: >\n    folded\n    text\n\n      more\n    end\n"),
        config_map("data:\n  a: x\n   y: z"),
    ];
    compare(&texts);
}

/// What kubectl drops without a word, and we refuse.
#[test]
fn where_kubectl_is_silent_there_is_a_fault() {
    for (text, fault) in [
        (config_map("data: {a: 1, a: 2}"), "there twice"),
        (format!("{}...\nb: 1\n", config_map("")), "more behind `...`"),
        (config_map("data: {a: !!binary /w==}"), "is no text"),
        (config_map("data:\n  a: x # y\u{2028}  b: z"), "a line break of Unicode"),
    ] {
        assert!(by_kubectl(&text).is_ok(), "{text}");
        let error = by_us(&text).unwrap_err();
        assert!(error.contains(fault), "{error}");
    }
}

/// What is YAML 1.2 and not 1.1: JSON's own escapes.
#[test]
fn what_we_read_and_kubectl_does_not() {
    for (scalar, value) in [("\"\\/\"", "/"), ("\"\\ud83d\\ude00\"", "\u{1f600}")] {
        let text = config_map(&format!("data:\n  a: {scalar}"));
        assert!(by_kubectl(&text).is_err(), "{text}");
        assert_eq!(by_us(&text).unwrap()[0]["data"]["a"], value);
    }
}

#[test]
fn generated_scalars_are_what_kubectl_takes_them_for() {
    let scalar = prop_oneof![
        "[-+]?[0-9_.eE]{1,12}",
        "[-+]?0[xXoObB]?[0-9a-f_]{0,17}",
        "[-+]?[0-9]{15,25}",
        "[-+]?[0-9]{1,20}\\.[0-9]{0,20}([eE][-+]?[0-9]{1,3})?",
        "[yYnNtTfFoO~.][a-zA-Z.]{0,4}",
        "[0-9]{4}-[0-9]{1,2}(-[0-9]{1,2})?",
    ];
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 4, ..Config::default() });
    let many = proptest::collection::vec(scalar, 400);
    let result = runner.run(&many, |scalars| {
        let lines = scalars.iter().enumerate().map(|(index, scalar)| format!("  k{index}: {scalar}\n"));
        let text = config_map(&format!("data:\n{}", lines.collect::<String>()));
        let (ours, theirs) = (by_us(&text).unwrap(), by_kubectl(&text).unwrap());
        for (index, scalar) in scalars.iter().enumerate() {
            let key = format!("k{index}");
            prop_assert_eq!(&ours[0]["data"][&key], &theirs[0]["data"][&key], "{}", scalar);
        }
        Ok(())
    });
    result.unwrap();
}

fn by_envsubst(text: &str, variables: &BTreeMap<String, String>, format: Option<&str>) -> String {
    let mut command = Command::new("envsubst");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(variables).args(format);
    String::from_utf8(ask(command, text.as_bytes()).unwrap()).unwrap()
}

fn rendered(text: &str, variables: &BTreeMap<String, String>, format: Option<&str>) -> String {
    let names = format
        .map_or(render::Names::All, |format| render::Names::Only(render::Names::parse(format).unwrap()));
    let lookup = |name: &str| variables.get(name).cloned();
    render::render(text, &lookup, &render::Options { names, strict: false }).unwrap()
}

#[test]
fn variables_are_replaced_as_by_envsubst() {
    let pieces = prop_oneof![
        Just("$".to_owned()),
        Just("${".to_owned()),
        Just("}".to_owned()),
        Just(":-".to_owned()),
        "[A-C_a]{1,2}",
        "\\$[A-C][0-9]?",
        "\\$\\{[A-C][0-9]?\\}",
        "[ \\n0-9é\\\\\"'#-]",
    ];
    let text = proptest::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat());
    let variables = proptest::collection::btree_map("[A-Ca_]{1,2}", "[$A{}x\\n ]{0,4}", 0..5);
    let format = proptest::option::of("\\$[A-C_a]{1,2}( \\$\\{[A-C]\\})?x?(\\$\\{A)?");
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 300, ..Config::default() });
    let result = runner.run(&(text, variables, format), |(text, variables, format)| {
        let format = format.as_deref();
        prop_assert_eq!(rendered(&text, &variables, format), by_envsubst(&text, &variables, format));
        Ok(())
    });
    result.unwrap();
}

/// What a run of cofferdam wrote and how it ended.
struct Ran {
    stdout: String,
    stderr: String,
    status: i32,
}

fn run(cofferdam: &Cofferdam, line: &[&str], variables: &[(&str, &str)], stdin: &str) -> Ran {
    let mut command = cofferdam.command();
    command.args(line).envs(variables.iter().copied()).write_stdin(stdin);
    let output = command.output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap(),
    }
}

const APP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  template:
    spec:
      containers:
      - name: c
        image: $IMAGE
        env:
        - {name: A, value: '${VALUE}'}
";

#[test]
fn render_writes_what_envsubst_writes() {
    let cofferdam = Cofferdam::new();
    let variables = [("IMAGE", "r.example/app:v1"), ("VALUE", "")];
    let map: BTreeMap<String, String> =
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let text = format!("{APP}# $ABSENT ${{IMAGE:-x}} $$IMAGE\n");
    for (line, format) in [
        (vec!["render"], None),
        (vec!["render", "-f", "-"], None),
        (vec!["render", "$IMAGE only"], Some("$IMAGE only")),
        (vec!["render", "nothing"], Some("nothing")),
        (vec!["render", "--variables", "IMAGE,OTHER"], Some("$IMAGE $OTHER")),
    ] {
        let ran = run(&cofferdam, &line, &variables, &text);
        assert_eq!((ran.status, &*ran.stderr), (0, ""));
        assert_eq!(ran.stdout, by_envsubst(&text, &map, format), "{line:?}");
    }
}

#[test]
fn render_refuses_what_is_not_set_where_that_was_asked_for() {
    let cofferdam = Cofferdam::new();
    let home = cofferdam.home();
    fs::write(home.join("a.yaml"), APP).unwrap();
    fs::write(home.join("b.yaml"), "x: $OTHER").unwrap();
    let ran = run(&cofferdam, &["render", "-f", ".", "--strict"], &[("VALUE", "")], "");
    assert_eq!((ran.status, &*ran.stdout), (14, ""), "{}", ran.stderr);
    for words in
        ["./a.yaml:11: the variable `IMAGE` is not set", "./b.yaml:1: the variable `OTHER` is not set"]
    {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("VALUE"), "what is empty is set: {}", ran.stderr);
    let ran = run(&cofferdam, &["render", "-f", "b.yaml", "-f", "a.yaml"], &[], "");
    assert!(ran.stdout.starts_with("x: \n---\napiVersion: apps/v1\n"), "{}", ran.stdout);
    let ran = run(&cofferdam, &["render", "--variables", "A-B"], &[], "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
}

fn secret_by_kubectl(line: &[&str]) -> String {
    let mut command = Command::new(kubectl());
    command.args(["create", "secret", "docker-registry", "--dry-run=client", "-o", "json"]).args(line);
    String::from_utf8(ask(command, b"").unwrap()).unwrap()
}

#[test]
fn pull_secrets_are_kubectls_byte_for_byte() {
    let cofferdam = Cofferdam::new();
    for (server, user, password, more) in [
        ("r.example", "robot", "open sesame", vec![]),
        ("r.example:5000", "u\"<>&'\\é\u{2028}", "p\t<>&\"\\ü\u{2029}/\u{7f}", vec!["--namespace=shop"]),
        ("quay.io/group", "a", "b", vec!["-n", "shop"]),
    ] {
        let server_flag = format!("--docker-server={server}");
        let (user_flag, password_flag) =
            (format!("--docker-username={user}"), format!("--docker-password={password}"));
        let mut line = vec!["pull", &*server_flag, &*user_flag, &*password_flag];
        line.extend(&more);
        let theirs = secret_by_kubectl(&line);
        let mut line = vec![
            "pull-secret",
            "pull",
            "--print",
            "--server",
            server,
            "--username",
            user,
            "--password-stdin",
        ];
        line.extend(&more);
        let ran = run(&cofferdam, &line, &[], &format!("{password}\n"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.stdout, theirs);
        assert!(!ran.stderr.contains(password));
    }
    let theirs =
        secret_by_kubectl(&["pull", "--docker-username=u", "--docker-password=p", "--docker-email=e@x"]);
    let line = [
        "pull-secret",
        "pull",
        "--print",
        "--server=docker.io",
        "-u",
        "u",
        "--password-stdin",
        "--email=e@x",
    ];
    assert_eq!(run(&cofferdam, &line, &[], "p").stdout, theirs, "Docker Hub as kubelets know it");
}

#[test]
fn pull_secrets_come_from_deploy_tokens_and_never_from_those_of_jobs() {
    let cofferdam = Cofferdam::new();
    let line = ["pull-secret", "pull", "--print"];
    let deploy = [
        ("CI_REGISTRY", "r.example"),
        ("CI_DEPLOY_USER", "gitlab+deploy-token-1"),
        ("CI_DEPLOY_PASSWORD", "p"),
    ];
    let ran = run(&cofferdam, &line, &deploy, "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        secret_by_kubectl(&[
            "pull",
            "--docker-server=r.example",
            "--docker-username=gitlab+deploy-token-1",
            "--docker-password=p"
        ])
    );
    let job =
        [("CI_REGISTRY", "r.example"), ("CI_JOB_TOKEN", "jobs-own"), ("CI_REGISTRY_PASSWORD", "jobs-other")];
    for (user, password, words) in [
        ("robot", "jobs-own", "the password is that of $CI_JOB_TOKEN"),
        ("robot", "jobs-other", "the password is that of $CI_REGISTRY_PASSWORD"),
        ("gitlab-ci-token", "x", "the user `gitlab-ci-token` has a token that ends with the job"),
    ] {
        let line = ["pull-secret", "pull", "--print", "--username", user, "--password-stdin"];
        let ran = run(&cofferdam, &line, &job, password);
        assert_eq!((ran.status, &*ran.stdout), (2, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("read_registry"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("jobs-o"), "{}", ran.stderr);
    }
    let ran = run(&cofferdam, &line, &job, "");
    assert_eq!(ran.status, 2, "what the job has is not taken: {}", ran.stderr);
    let ran = run(&cofferdam, &["pull-secret", "Pull", "--print"], &deploy, "");
    assert!(ran.status == 2 && ran.stderr.contains("is no name for a Secret"), "{}", ran.stderr);
}

#[test]
fn rights_are_found_without_a_cluster() {
    let cofferdam = Cofferdam::new();
    let manifest = by_envsubst(APP, &BTreeMap::new(), None);
    let ran = run(&cofferdam, &["rbac", "generate", "-f", "-", "--user", "me"], &[], &manifest);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
    let objects = by_us(&ran.stdout).unwrap();
    let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Role", "RoleBinding"]);
    assert_eq!(objects[0]["metadata"], json!({"name": "cofferdam-deploy", "namespace": "shop"}));
    assert_eq!(objects[1]["subjects"][0]["name"], "me");
    let unknown = "apiVersion: x.example/v1\nkind: App\nmetadata: {name: a}\n";
    let ran = run(&cofferdam, &["rbac", "generate", "-f", "-"], &[], unknown);
    assert_eq!((ran.status, &*ran.stdout), (14, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("no cluster can be asked"), "{}", ran.stderr);
}

#[test]
fn images_go_from_a_build_to_a_deployment() {
    let registry = Registry::options().empty().start();
    let cofferdam = Cofferdam::new();
    let home = cofferdam.home();
    fs::write(home.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let name = format!("{}/g/web:v1", registry.address());
    let line = [
        "build",
        "-q",
        "-t",
        &*name,
        "--push",
        "--image-json",
        "image.json",
        "--image-env",
        "WEB=image.env",
        ".",
    ];
    let ran = run(&cofferdam, &line, &[], "");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let digest = ran.stdout.trim();
    let env = fs::read_to_string(home.join("image.env")).unwrap();
    let repository = name.strip_suffix(":v1").unwrap();
    assert_eq!(env, format!("WEB={repository}\nWEB_TAG=v1\nWEB_DIGEST={digest}\nWEB_REF={name}@{digest}\n"));
    let json: Value = serde_json::from_slice(&fs::read(home.join("image.json")).unwrap()).unwrap();
    let image = &json["images"][0];
    assert_eq!((&image["ref"], &image["digest"]), (&json!(format!("{name}@{digest}")), &json!(digest)));
    assert_eq!(image["platforms"][0]["digest"], digest);
    assert!(image["platforms"][0]["size"].as_u64().unwrap() > 100);

    // What is not pushed cannot be handed on; nothing is built for it.
    for flag in ["--image-json=x.json", "--image-env=x.env"] {
        let ran = run(&cofferdam, &["build", "-t", "a", flag, "."], &[], "");
        assert!(ran.status == 2 && ran.stderr.contains("is about an image that is pushed"), "{}", ran.stderr);
    }
    let long = format!("--image-env={}=x.env", "A".repeat(1300));
    let ran = run(&cofferdam, &["build", "-t", &name, "--push", &long, "."], &[], "");
    assert!(ran.status == 2 && ran.stderr.contains("GitLab takes 5120"), "{}", ran.stderr);

    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, image: {repository}}}]}}\n"
    );
    let line = ["rbac", "generate", "-f", "-", "--images", "image.json"];
    let ran = run(&cofferdam, &line, &[], &manifest);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let words = format!("pod/p: spec.containers[0].image is {name}@{digest}");
    assert!(ran.stderr.contains(&words), "{}", ran.stderr);
    let ran = run(&cofferdam, &line, &[], &manifest.replace("web", "other"));
    assert!(ran.status == 14 && ran.stderr.contains("no manifest uses the image"), "{}", ran.stderr);
}
