use serde_json::{Value, json};

use super::*;

fn read_text(text: &str) -> Result<Vec<Object>, DeployError> {
    read(&["-".to_owned()], text.as_bytes(), &Options::default())
}

fn faults(text: &str) -> Vec<String> {
    match read_text(text) {
        Err(DeployError::Manifests(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn object(text: &str) -> Object {
    let mut objects = read_text(text).unwrap();
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

#[test]
fn documents_in_their_order() {
    let text = "\u{feff}# head\n---\n# nothing\n---\r\napiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: a}\r\n\
                --- # next\n\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n...\n---\nnull\n--- \n";
    let objects = read_text(text).unwrap();
    let places: Vec<String> =
        objects.iter().map(|object| format!("{} {}", object.source, object.name())).collect();
    assert_eq!(places, ["standard input:5 a", "standard input:10 b"]);
}

#[test]
fn lists_are_taken_apart() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMapList\n  items:\n  - metadata: {name: a}\n\
                - apiVersion: v1\n  kind: Secret\n  metadata: {name: b}\n---\n{apiVersion: v1, kind: PodList, items: null}\n";
    let objects = read_text(text).unwrap();
    let ids: Vec<String> =
        objects.iter().map(|object| format!("{} {}", object.source, object.id())).collect();
    assert_eq!(ids, ["standard input:7 (item 1) configmap/a", "standard input:8 (item 2) secret/b"]);
}

#[test]
fn json_may_go_on_as_yaml() {
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}}\n---\napiVersion: v1\n\
                kind: ConfigMap\nmetadata:\n  name: b\n";
    assert_eq!(read_text(text).unwrap().iter().map(|object| object.source.line).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(object("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}").name(), "a");
}

#[test]
fn all_faults_are_told_with_their_places() {
    let text = "kind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: 5\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  \
                namespace: x\n---\n- a\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: 5\n---\napiVersion: v1\n\
                kind: Job\nmetadata:\n  generateName: a-\n---\na: [\n---x\n---\napiVersion: v1\nkind: List\nitems: 5\n\
                ---\n%YAML 1.2\n";
    insta::assert_snapshot!(faults(text).join("\n"), @r"
    standard input:1: the object has no `apiVersion`
    standard input:5: `kind` is a number, not a text
    standard input:9: the Pod has no name
    standard input:12: an object is a mapping, and this is a list
    standard input:17: `metadata.name` is a number, not a text
    standard input:22: the Job has `generateName`, and what is applied needs a name of its own
    standard input:24: this is no YAML: unclosed bracket '['
    standard input:25: a line that begins with `---` parts documents, and has nothing else
    standard input:29: `items` is a number, not a list
    standard input:32: this is no YAML: did not find expected <document start>
    ");
}

#[test]
fn an_object_that_is_there_twice_is_named_with_both_places() {
    let one = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: review}\n";
    let text = format!("{one}---\n{}", one.replace("apps/v1", "apps/v1beta1"));
    assert_eq!(
        faults(&text),
        [
            "standard input:5: `deployment.apps/a` of namespace `review` is there twice: it is in standard input:1 too"
        ]
    );
}

#[test]
fn nothing_is_no_manifest() {
    assert_eq!(faults("# nothing\n"), [""; 0]);
}

#[test]
fn a_text_may_be_rewritten_before_it_is_parsed() {
    let transform = |file: &Arc<str>, text: &str| {
        assert_eq!(&**file, "standard input");
        Ok(text.replace("$NAME", "a"))
    };
    let options = Options { recursive: false, transform: Some(&transform) };
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: $NAME}\n";
    assert_eq!(read(&["-".to_owned()], text.as_bytes(), &options).unwrap()[0].name(), "a");
}

#[test]
fn what_belongs_to_the_server_is_left_out() {
    let text = "apiVersion: v1\nkind: Pod\nstatus: {phase: Running}\nmetadata:\n  name: a\n  uid: x\n  generation: 2\n  \
                resourceVersion: '5'\n  creationTimestamp: null\n  selfLink: /x\n  managedFields: []\n  labels: {a: b}\n  \
                annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}\n";
    let expected =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}}});
    assert_eq!(Value::Object(object(text).fields), expected);
}

#[test]
fn plain_texts_of_secrets_become_data() {
    let secret = |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\n{rest}\n");
    let data = |rest: &str| object(&secret(rest)).fields;
    assert_eq!(
        data("stringData: {a: x, b: null}\ndata: {a: eQ==, c: eg==}")["data"],
        json!({"a": "eA==", "b": "", "c": "eg=="})
    );
    assert!(!data("stringData: {a: x}\ndata:").contains_key("stringData"));
    let found = faults(&secret("stringData: {pin: 1234}"));
    assert_eq!(found, ["standard input:1: stringData.pin: it is no text; put it in quotes"]);
}

#[test]
fn entries_with_the_same_key_are_named() {
    let text = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec:\n  jobTemplate:\n    spec:\n      template:\n        \
                spec:\n          volumes: [{name: v}, {name: v}]\n          containers:\n          - name: c\n            env: [{name: A}, \
                {name: B}, {name: A}, {name: A}]\n            ports: [{containerPort: 93}, {containerPort: 93, protocol: TCP}, \
                {containerPort: 93, protocol: UDP}]\n            volumeMounts: [{mountPath: /a, name: v}, {mountPath: /a, name: w}]\n\
                ---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports: [{port: 80, name: a}, {port: 80, name: b}, {port: 80, protocol: UDP}]\n";
    insta::assert_snapshot!(faults(text).join("\n"), @r"
    standard input:1: spec.jobTemplate.spec.template.spec.volumes: `v` is there twice
    standard input:1: spec.jobTemplate.spec.template.spec.containers[0].ports: `93/TCP` is there twice
    standard input:1: spec.jobTemplate.spec.template.spec.containers[0].env: `A` is there twice
    standard input:1: spec.jobTemplate.spec.template.spec.containers[0].volumeMounts: `/a` is there twice
    standard input:16: spec.ports: `80/TCP` is there twice
    ");
}
