//! The order of places, the forms of entries, helpers and logins, each on a home directory of its own.

use std::process::Command;

use rstest::rstest;
use tempfile::TempDir;

use super::*;

/// base64 of `<name>:<name>-password`.
fn auth(name: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{name}:{name}-password"))
}

fn config(key: &str, name: &str) -> String {
    format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, auth(name))
}

struct Home {
    directory: TempDir,
    variables: Vec<(String, String)>,
}

impl Home {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let home = directory.path().to_str().unwrap().to_owned();
        let path = format!("{home}/bin:/usr/bin:/bin");
        Self { directory, variables: vec![("HOME".into(), home), ("PATH".into(), path)] }
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// A helper that is a shell script. A shell writes it, so that this process never has it open for writing:
    /// a test in another thread that forks at that instant would make it "busy".
    fn helper(&self, name: &str, script: &str) {
        let program =
            self.file(&format!("bin/docker-credential-{name}.in"), &format!("#!/bin/sh\n{script}\n"));
        let status = Command::new("/bin/sh")
            .args(["-c", "cp \"$0\" \"${0%.in}\" && chmod 755 \"${0%.in}\""])
            .arg(program)
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn keychain(&self) -> Keychain {
        Keychain::new(Environment::new(self.variables.clone()))
    }

    async fn user(&self, registry: &str, path: &str) -> String {
        let credential = self.keychain().lookup(registry, path).await.unwrap();
        match credential.login() {
            Login::Basic { username, .. } => username.clone(),
            Login::Anonymous => "-".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// Every place, in the documented order; each step takes the one before away.
/// Source: containers-auth.json(5).
#[tokio::test]
async fn places_are_asked_in_the_documented_order() {
    let mut home = Home::new();
    let named = home.file("named.json", &config("r.example", "registry-auth-file"));
    home.set("REGISTRY_AUTH_FILE", named.to_str().unwrap());
    home.set("DOCKER_AUTH_CONFIG", &config("r.example", "docker-auth-config"));
    let docker = home.file("docker/config.json", &config("r.example", "docker-config"));
    home.set("DOCKER_CONFIG", docker.parent().unwrap().to_str().unwrap());
    home.file(".docker/config.json", &config("r.example", "home-docker"));
    let runtime = home.file("run/containers/auth.json", &config("r.example", "xdg-runtime"));
    home.set("XDG_RUNTIME_DIR", home.directory.path().join("run").to_str().unwrap());
    let xdg = home.file("xdg/containers/auth.json", &config("r.example", "xdg-config"));
    home.set("XDG_CONFIG_HOME", home.directory.path().join("xdg").to_str().unwrap());
    home.file(".config/containers/auth.json", &config("r.example", "dot-config"));
    let old = home.file(".dockercfg", &format!(r#"{{"r.example":{{"auth":"{}"}}}}"#, auth("dockercfg")));
    home.set("CI_REGISTRY", "r.example");
    home.set("CI_REGISTRY_USER", "ci-user");
    home.set("CI_REGISTRY_PASSWORD", "secret");
    home.set("CI_JOB_TOKEN", "job-token");

    let flags = home
        .keychain()
        .with("https://r.example/", Credential::new(Login::of("flags", "p").unwrap(), "--username"));
    let credential = flags.lookup("r.example", "a").await.unwrap();
    assert_eq!(credential.source(), "--username");

    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let without = |home: &mut Home, name: &str| home.variables.retain(|(key, _)| key != name);
    assert_eq!(home.user("r.example", "a").await, "registry-auth-file");
    remove(&named);
    assert_eq!(home.user("r.example", "a").await, "docker-auth-config");
    without(&mut home, "DOCKER_AUTH_CONFIG");
    assert_eq!(home.user("r.example", "a").await, "docker-config");
    remove(&docker);
    assert_eq!(home.user("r.example", "a").await, "xdg-runtime", "DOCKER_CONFIG replaces ~/.docker");
    without(&mut home, "DOCKER_CONFIG");
    assert_eq!(home.user("r.example", "a").await, "home-docker");
    remove(&home.directory.path().join(".docker/config.json"));
    assert_eq!(home.user("r.example", "a").await, "xdg-runtime");
    remove(&runtime);
    assert_eq!(home.user("r.example", "a").await, "xdg-config");
    remove(&xdg);
    assert_eq!(home.user("r.example", "a").await, "dockercfg", "XDG_CONFIG_HOME replaces ~/.config");
    without(&mut home, "XDG_CONFIG_HOME");
    assert_eq!(home.user("r.example", "a").await, "dot-config");
    remove(&home.directory.path().join(".config/containers/auth.json"));
    remove(&old);
    assert_eq!(home.user("r.example", "a").await, "ci-user");
    without(&mut home, "CI_REGISTRY_PASSWORD");
    assert_eq!(home.user("r.example", "a").await, "gitlab-ci-token");
    assert_eq!(home.user("other.example", "a").await, "-", "variables are for their registry alone");
}

/// Source: GitLab documentation, "Predefined CI/CD variables".
#[tokio::test]
async fn gitlab_variables_serve_the_registry_and_the_dependency_proxy() {
    let mut home = Home::new();
    for (name, value) in [
        ("CI_REGISTRY", "registry.gitlab.example:443"),
        ("CI_REGISTRY_USER", "ci"),
        ("CI_REGISTRY_PASSWORD", "secret"),
        ("CI_DEPENDENCY_PROXY_SERVER", "gitlab.example:443"),
        ("CI_DEPENDENCY_PROXY_USER", "proxy"),
        ("CI_DEPENDENCY_PROXY_PASSWORD", "secret"),
    ] {
        home.set(name, value);
    }
    assert_eq!(home.user("registry.gitlab.example", "group/app").await, "ci");
    assert_eq!(home.user("gitlab.example", "group/dependency_proxy/containers/debian").await, "proxy");
    home.file(".docker/config.json", &config("registry.gitlab.example", "explicit"));
    assert_eq!(home.user("registry.gitlab.example", "group/app").await, "explicit", "never over an entry");
}

#[tokio::test]
async fn the_source_says_file_and_key() {
    let home = Home::new();
    let file = home.file(".docker/config.json", &config("https://ghcr.io/org", "u"));
    let credential = home.keychain().lookup("ghcr.io", "org/app").await.unwrap();
    assert_eq!(credential.source(), format!("`{}`, auths[https://ghcr.io/org]", file.display()));
    assert_eq!(home.user("ghcr.io", "other/app").await, "-");
}

/// docker/cli: the config file may be given by its own name by mistake.
#[tokio::test]
async fn docker_config_may_name_the_file_itself() {
    let mut home = Home::new();
    let file = home.file("config.json", &config("r.example", "u"));
    home.set("DOCKER_CONFIG", file.to_str().unwrap());
    assert_eq!(home.user("r.example", "a").await, "u");
}

#[tokio::test]
async fn a_broken_file_that_decides_is_an_error_and_quotes_nothing() {
    let home = Home::new();
    home.file(".docker/config.json", r#"{"auths":{"r.example":{"auth":"hunter2!"}}}"#);
    let error = home.keychain().lookup("r.example", "a").await.unwrap_err();
    assert!(error.to_string().contains(".docker/config.json`, auths[r.example]"), "{error}");
    assert!(!with_causes(&error).contains("hunter2"), "{error}");
    assert_eq!(home.user("other.example", "a").await, "-", "another registry's entry is not looked at");
    home.file(".docker/config.json", "{");
    assert!(matches!(home.keychain().lookup("r.example", "a").await, Err(CredentialError::Malformed { .. })));
}

/// Source: docker/cli, reference of "docker login".
#[tokio::test]
async fn helpers_go_before_the_store_and_the_store_before_entries() {
    let home = Home::new();
    home.helper("one", r#"read server; echo "{\"Username\":\"one-$1-$server\",\"Secret\":\"s\"}""#);
    home.helper("all", r#"read server; echo "{\"Username\":\"all-$server\",\"Secret\":\"s\"}""#);
    let text = format!(
        r#"{{"credHelpers":{{"r.example":"one"}},"credsStore":"all",
            "auths":{{"r.example":{{"auth":"{0}"}},"s.example":{{"auth":"{0}"}},"s.example/part":{{"auth":"{0}"}}}}}}"#,
        auth("entry")
    );
    home.file(".docker/config.json", &text);
    assert_eq!(home.user("r.example", "a").await, "one-get-r.example");
    assert_eq!(home.user("s.example", "a").await, "all-s.example");
    assert_eq!(home.user("s.example", "part/a").await, "entry", "the longest prefix wins");
    assert_eq!(home.user("docker.io", "library/x").await, "all-https://index.docker.io/v1/");
}

/// Source: docker/docker-credential-helpers, README.
#[tokio::test]
async fn a_helper_that_has_nothing_is_no_error() {
    let home = Home::new();
    home.helper("none", "echo 'credentials not found in native keychain'; exit 1");
    home.file(
        ".docker/config.json",
        &format!(r#"{{"credsStore":"none","auths":{{"s.example":{{"auth":"{}"}}}}}}"#, auth("entry")),
    );
    assert_eq!(home.user("r.example", "a").await, "-");
    assert_eq!(home.user("s.example", "a").await, "entry", "an entry beside the helper still counts");
}

/// Source: docker/docker-credential-helpers, README.
#[tokio::test]
async fn an_identity_token_comes_from_a_helper_as_the_user_token() {
    let home = Home::new();
    home.helper("idt", r#"echo '{"Username":"<token>","Secret":"idt"}'"#);
    home.file(".docker/config.json", r#"{"credsStore":"idt"}"#);
    let credential = home.keychain().lookup("r.example", "a").await.unwrap();
    assert_eq!(credential.login(), &Login::IdentityToken(Secret::new("idt")));
    assert!(credential.source().ends_with("credsStore: docker-credential-idt"), "{credential}");
}

#[rstest]
#[case::fails("echo 'no session bus'; exit 1", "failed: no session bus")]
#[case::fails_on_stderr("echo 'expired' >&2; exit 2", "failed: expired")]
#[case::is_silent("exit 3", "failed and said nothing")]
#[case::is_garbage("echo hunter2hunter2", "gave an answer that is not valid")]
#[case::hangs("exec sleep 60", "did not answer within 0.3 s")]
#[tokio::test]
async fn a_helper_that_fails_is_an_error_that_names_it(#[case] script: &str, #[case] what: &str) {
    let home = Home::new();
    home.helper("bad", script);
    home.file(".docker/config.json", r#"{"credsStore":"bad"}"#);
    let limit = Duration::from_millis(if script.contains("sleep") { 300 } else { 20_000 });
    let keychain = home.keychain().with_helper_timeout(limit);
    let error = keychain.lookup("r.example", "a").await.unwrap_err().to_string();
    assert!(error.contains("`docker-credential-bad`") && error.contains(what), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_helper_that_is_missing_or_no_name_is_an_error() {
    let home = Home::new();
    home.file(".docker/config.json", r#"{"credsStore":"desktop"}"#);
    let error = home.keychain().lookup("r.example", "a").await.unwrap_err().to_string();
    assert!(error.contains("there is no `docker-credential-desktop` in PATH"), "{error}");
    home.file(".docker/config.json", r#"{"credsStore":"../../evil"}"#);
    assert!(home.keychain().lookup("r.example", "a").await.is_err());
}

#[tokio::test]
async fn doctor_is_told_of_every_place() {
    let mut home = Home::new();
    home.set("DOCKER_AUTH_CONFIG", "{broken");
    home.file(".docker/config.json", &config("r.example", "u"));
    home.file(".config/containers/auth.json", &config("r.example", "later"));
    let findings = home.keychain().explain("r.example", "a").await;
    let used: Vec<&Finding> = findings.iter().filter(|finding| finding.used).collect();
    assert_eq!(used.len(), 1);
    assert!(used[0].found.ends_with(".docker/config.json`, auths[r.example]"), "{used:?}");
    assert!(findings[0].found.contains("not valid JSON"), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.found == "no such file"), "{findings:?}");
    assert!(
        findings
            .iter()
            .any(|finding| finding.found.ends_with("auth.json`, auths[r.example]") && !finding.used)
    );
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn login_keeps_what_it_does_not_know_and_its_file_private() {
    let home = Home::new();
    let path = home.file(
        ".docker/config.json",
        r#"{"proxies":{"default":{"httpProxy":"x"}},"auths":{"https://r.example/v2/":{"auth":"b2xk"},"s.example":{}}}"#,
    );
    let login = Login::of("u", "p:q").unwrap();
    let stored = home.keychain().store("R.example:443", &login).await.unwrap();
    assert_eq!(stored, StoredAt { file: path.clone(), helper: None });
    let text = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["proxies"]["default"]["httpProxy"], "x");
    assert_eq!(value["auths"], serde_json::json!({"r.example":{"auth":"dTpwOnE="},"s.example":{}}));
    assert_eq!(mode(&path), 0o600);
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left");

    assert!(home.keychain().erase("r.example").await.unwrap().is_some());
    assert_eq!(home.user("r.example", "a").await, "-");
    assert_eq!(home.keychain().erase("r.example").await.unwrap(), None);
}

#[tokio::test]
async fn login_makes_the_file_and_follows_a_link() {
    let mut home = Home::new();
    let login = Login::of("u", "p").unwrap();
    let stored = home.keychain().store("docker.io", &login).await.unwrap();
    assert_eq!(mode(stored.file.parent().unwrap()), 0o700);
    let text = std::fs::read_to_string(&stored.file).unwrap();
    assert!(text.contains("https://index.docker.io/v1/"), "docker finds it: {text}");
    assert_eq!(home.user("docker.io", "library/x").await, "u");

    let target = home.file("elsewhere/auth.json", "{}");
    let link = home.directory.path().join("link.json");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    home.set("REGISTRY_AUTH_FILE", link.to_str().unwrap());
    home.keychain().store("r.example", &login).await.unwrap();
    assert!(link.is_symlink() && std::fs::read_to_string(&target).unwrap().contains("r.example"));
}

#[tokio::test]
async fn login_uses_the_helper_that_is_configured() {
    let home = Home::new();
    home.helper("keep", r#"cat > "$HOME/$1.out""#);
    let path = home.file(".docker/config.json", r#"{"credsStore":"keep"}"#);
    let keychain = home.keychain();
    let stored = keychain.store("docker.io", &Login::of("u", "p").unwrap()).await.unwrap();
    assert_eq!(stored.helper.as_deref(), Some("keep"));
    let handed = std::fs::read_to_string(home.directory.path().join("store.out")).unwrap();
    let handed: serde_json::Value = serde_json::from_str(&handed).unwrap();
    let server = "https://index.docker.io/v1/";
    assert_eq!(handed, serde_json::json!({"ServerURL":server,"Username":"u","Secret":"p"}));
    let text = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["auths"], serde_json::json!({server:{}}), "the secret is with the helper alone");
    keychain.erase("docker.io").await.unwrap();
    assert_eq!(std::fs::read_to_string(home.directory.path().join("erase.out")).unwrap(), server);
}

#[tokio::test]
async fn login_leaves_a_broken_file_alone() {
    let home = Home::new();
    let path = home.file(".docker/config.json", "{\"auths\": hunter2}");
    let error = home.keychain().store("r.example", &Login::of("u", "p").unwrap()).await.unwrap_err();
    assert!(matches!(error, CredentialError::Malformed { .. }) && !with_causes(&error).contains("hunter2"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"auths\": hunter2}");
}

#[rstest]
#[case("secret\n", "secret")]
#[case("secret\r\n", "secret")]
#[case("secret", "secret")]
#[case("two\nlines\n\n", "two\nlines\n")]
#[case("", "")]
fn one_newline_is_cut_from_a_password(#[case] input: &str, #[case] password: &str) {
    assert_eq!(password_from_input(input), password);
}
