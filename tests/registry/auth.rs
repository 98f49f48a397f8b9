//! Authorization: challenges, tokens, credentials, and where they must not go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::image::Digest;
use cofferdam::registry::{Credential, Environment, ErrorKind, Keychain, Login, MirrorRule, Secret};
use rstest::rstest;

use crate::client::{
    anonymous, bytes, client_with, keychain, login, options, reference, repository, user_at,
};
use crate::faulty::http::{Answer, Server};
use crate::faulty::registry::{Auth, Bearer, FakeRegistry, basic};
use crate::faulty::tls::Authority;

use super::push::upload;

/// Source: distribution's token authentication specification.
#[tokio::test]
async fn a_token_is_fetched_for_what_the_401_asks_and_used_again() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_image("group/app", "v1");
    let (client, _) = user_at(&registry.host());
    let v1 = reference(&registry.host(), "group/app:v1");
    client.manifest(&v1).await.unwrap();
    client.manifest(&v1).await.unwrap();
    assert_eq!(
        registry.lines(),
        [
            "GET /v2/group/app/manifests/v1 401",
            "GET /token?service&scope 200",
            "GET /v2/group/app/manifests/v1 200",
            "GET /v2/group/app/manifests/v1 200",
        ]
    );
    let token = &registry.log()[1];
    assert_eq!(token.head.parameter("scope").unwrap(), "repository:group/app:pull");
    assert_eq!(token.head.parameter("service").unwrap(), "fake");
    assert_eq!(token.authorization(), Some(&*basic("user", "user-password")));
}

/// Docker Hub: reading in public needs a token all the same, given to nobody in particular.
#[tokio::test]
async fn anonymous_tokens_are_fetched_without_authorization() {
    let registry = FakeRegistry::bearer(Bearer { anonymous_pull: true, ..Bearer::default() });
    registry.put_image("library/debian", "latest");
    let (client, _) = anonymous();
    client.manifest(&reference(&registry.host(), "library/debian")).await.unwrap();
    assert!(
        registry
            .log()
            .iter()
            .filter(|logged| logged.head.path() == "/token")
            .all(|logged| { logged.authorization().is_none() })
    );
}

/// Azure and others name the token `access_token`.
/// Source: distribution's token authentication specification.
#[tokio::test]
async fn a_token_may_be_called_access_token() {
    let registry = FakeRegistry::bearer(Bearer { oauth_name: true, ..Bearer::default() });
    registry.put_image("a", "v1");
    let (client, _) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
}

/// A token without `expires_in` is good for 60 s, by the specification; it is renewed before.
/// Source: distribution's token authentication specification.
#[tokio::test]
async fn a_token_without_a_life_lives_for_a_minute() {
    let registry = FakeRegistry::bearer(Bearer { expires_in: None, ..Bearer::default() });
    registry.put_image("a", "v1");
    let (client, clock) = user_at(&registry.host());
    let v1 = reference(&registry.host(), "a:v1");
    client.manifest(&v1).await.unwrap();
    clock.advance(Duration::from_secs(40));
    client.manifest(&v1).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    clock.advance(Duration::from_secs(6));
    client.manifest(&v1).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2, "renewed before it ran out");
    assert_eq!(registry.lines().iter().filter(|line| line.ends_with("401")).count(), 1);
}

/// GitLab: tokens live for five minutes, the upload of a large layer longer (gitlab-org/container-registry).
/// Source: moby/moby#33558.
#[tokio::test]
async fn a_token_that_runs_out_in_mid_upload_is_replaced_and_the_upload_goes_on() {
    let registry = FakeRegistry::bearer(Bearer { uses: Some(2), ..Bearer::default() });
    let (client, _) = user_at(&registry.host());
    let blob = bytes(3_000_000);
    // HEAD and POST use the first token up: the PATCH is the one that is refused.
    upload(&client, &registry.host(), "group/app", &blob).await.unwrap();
    assert_eq!(
        registry.lines(),
        [
            "HEAD /v2/group/app/blobs/<digest> 401",
            "GET /token?service&scope 200",
            "HEAD /v2/group/app/blobs/<digest> 404",
            "POST /v2/group/app/blobs/uploads/ 202",
            "PATCH /v2/group/app/blobs/uploads/<id> 401",
            "GET /token?service&scope 200",
            "PATCH /v2/group/app/blobs/uploads/<id> 202",
            "PUT /v2/group/app/blobs/uploads/<id>?digest 201",
        ]
    );
    assert_eq!(registry.blob("group/app", Digest::of(&blob)).unwrap(), blob);
}

/// The registry's clock and ours differ, or it restarted with another key.
#[tokio::test]
async fn a_token_that_is_refused_early_is_not_used_again() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_image("a", "v1");
    let (client, _) = user_at(&registry.host());
    let v1 = reference(&registry.host(), "a:v1");
    client.manifest(&v1).await.unwrap();
    registry.expire_tokens();
    client.manifest(&v1).await.unwrap();
    client.manifest(&v1).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

/// Scopes grow by need: what a token covers is not asked for again, what it does not is.
/// Source: distribution's token authentication specification.
#[tokio::test]
async fn scopes_grow_by_need() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_image("a", "v1");
    let (client, _) = user_at(&registry.host());
    let host = registry.host();
    client.manifest(&reference(&host, "a:v1")).await.unwrap();
    upload(&client, &host, "a", b"one").await.unwrap();
    upload(&client, &host, "a", b"two").await.unwrap();
    client.manifest(&reference(&host, "a:v1")).await.unwrap();
    let scopes: Vec<String> =
        registry.log().iter().filter_map(|logged| logged.head.parameter("scope")).collect();
    assert_eq!(scopes, ["repository:a:pull", "repository:a:pull,push"]);
}

/// Five uploads begin at once: one token is fetched for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_uploads_share_one_token() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.alter("GET", "/token", 10, |answer| Answer { pause: Duration::from_millis(100), ..answer });
    let (client, _) = user_at(&registry.host());
    let host = registry.host();
    // The challenge is learnt first; all of them would ask for it otherwise.
    client.tags(&repository(&host, "a")).await.unwrap_err();
    registry.forget_log();
    let blobs: Vec<Vec<u8>> = (0..5_u8).map(|number| vec![number; 1000]).collect();
    let uploads = blobs.iter().map(|blob| upload(&client, &host, "a", blob));
    for outcome in futures_util::future::join_all(uploads).await {
        outcome.unwrap();
    }
    assert_eq!(registry.count("GET", "/token"), 1);
}

/// zot and distribution behind a proxy: `GET /v2/` is open to everyone, pushing is not (oci-client sends no
/// credentials then; oras-project/rust-oci-client).
/// Source: OCI distribution specification 1.1, "Determining support".
#[tokio::test]
async fn an_open_root_does_not_mean_that_pushing_is_open() {
    let users = vec![("user".to_owned(), "user-password".to_owned())];
    for auth in [
        Auth::Basic { users, open_root: true, open_reads: true },
        Auth::Bearer(Bearer { open_root: true, anonymous_pull: true, ..Bearer::default() }),
    ] {
        let registry = FakeRegistry::new(auth).serve();
        let (client, _) = user_at(&registry.host());
        upload(&client, &registry.host(), "a", b"blob").await.unwrap();
        client.check_push(&repository(&registry.host(), "b")).await.unwrap();
    }
}

#[tokio::test]
async fn basic_is_answered_and_then_sent_at_once() {
    let registry = FakeRegistry::basic();
    registry.put_image("a", "v1");
    let (client, _) = user_at(&registry.host());
    let v1 = reference(&registry.host(), "a:v1");
    client.manifest(&v1).await.unwrap();
    client.manifest(&v1).await.unwrap();
    assert_eq!(registry.count("GET", "/manifests/"), 3);
    assert_eq!(registry.log()[2].authorization(), Some(&*basic("user", "user-password")));
}

/// RFC 9110: several challenges, in one header or in several, with quoted commas.
#[rstest]
#[case(&[r#"Negotiate, Basic realm="a, b""#])]
#[case(&[r#"Digest realm="x", nonce="y", qop="auth,auth-int""#, r#"basic REALM="z""#])]
#[case(&[])]
#[tokio::test]
async fn the_challenge_that_is_understood_is_answered(#[case] challenges: &[&str]) {
    let registry = FakeRegistry::basic();
    registry.put_image("a", "v1");
    let challenges: Vec<String> = challenges.iter().map(|&challenge| challenge.to_owned()).collect();
    registry.alter("GET", "/manifests/", 1, move |answer| {
        let answer = answer.without("WWW-Authenticate");
        challenges.iter().fold(answer, |answer, challenge| answer.also("WWW-Authenticate", challenge))
    });
    let (client, _) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
}

#[tokio::test]
async fn bearer_goes_before_basic() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_image("a", "v1");
    registry.alter("GET", "/manifests/", 1, |answer| {
        let bearer = answer.headers.iter().find(|(name, _)| name == "WWW-Authenticate").unwrap().1.clone();
        answer.header("WWW-Authenticate", "Basic realm=\"x\"").also("WWW-Authenticate", bearer)
    });
    let (client, _) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
}

/// Azure (`az acr login`) and Docker Hub's single sign-on keep a refresh token; it is posted to the realm.
/// Source: distribution's OAuth2 token specification.
#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let registry =
        FakeRegistry::bearer(Bearer { identity_tokens: vec!["refresh me".into()], ..Bearer::default() });
    registry.put_image("a", "v1");
    let credential = Credential::new(Login::IdentityToken(Secret::new("refresh me")), "test");
    let (client, _) = client_with(options(), Keychain::empty().with(&registry.host(), credential));
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    let form = &registry.token_forms()[0];
    assert_eq!(form["grant_type"], "refresh_token");
    assert_eq!(form["service"], "fake");
    assert_eq!(form["scope"], "repository:a:pull");
    assert!(form.contains_key("client_id"));
}

#[tokio::test]
async fn an_identity_token_that_has_run_out_is_an_error_without_the_token() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.fail(
        "POST",
        "/token",
        9,
        Answer::new(400).body(r#"{"error":"invalid_grant","error_description":"refresh-me-please is old"}"#),
    );
    let credential = Credential::new(Login::IdentityToken(Secret::new("refresh-me-please")), "test");
    let (client, _) = client_with(options(), Keychain::empty().with(&registry.host(), credential));
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let text = format!("{error} {error:?}");
    assert!(text.contains("invalid_grant: *** is old") && !text.contains("refresh-me"), "{text}");
}

/// A token server that moves the request elsewhere would move the refresh token with it.
#[tokio::test]
async fn an_identity_token_does_not_follow_a_redirect() {
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let elsewhere = Server::on("127.0.0.2", None, move |_| {
        *count.lock().unwrap() += 1;
        Answer::new(200).body(r#"{"token":"x"}"#).into()
    });
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.fail("POST", "/token", 9, Answer::new(307).header("Location", elsewhere.url()));
    let credential = Credential::new(Login::IdentityToken(Secret::new("refresh me")), "test");
    let (client, _) = client_with(options(), Keychain::empty().with(&registry.host(), credential));
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.status(), Some(307));
    assert_eq!(*seen.lock().unwrap(), 0);
}

/// Source: docker/cli, reference of "docker login".
#[tokio::test]
async fn a_registry_token_is_used_as_it_is() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.alter("GET", "/manifests/", 1, |answer| answer);
    let credential = Credential::new(Login::RegistryToken(Secret::new("ready made")), "test");
    let (client, _) = client_with(options(), Keychain::empty().with(&registry.host(), credential));
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    let sent: Vec<Option<String>> =
        registry.log().iter().map(|logged| logged.authorization().map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some("Bearer ready made".to_owned())], "and no token server is asked");
}

/// ghcr.io, GitLab, Quay: credentials are filed for a part of the registry.
#[tokio::test]
async fn credentials_for_a_part_of_a_registry_are_used_there() {
    let users =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "pw-of-user".to_owned())).collect();
    let registry = FakeRegistry::new(Auth::Basic {
        users: users(&["host", "org"]),
        open_root: false,
        open_reads: false,
    })
    .serve();
    for name in ["org/app", "organisation/app"] {
        registry.put_image(name, "v1");
    }
    let host = registry.host();
    let keychain = Keychain::empty()
        .with(&host, login("host", "pw-of-user"))
        .with(&format!("{host}/org"), login("org", "pw-of-user"));
    let (client, _) = client_with(options(), keychain);
    client.manifest(&reference(&host, "org/app:v1")).await.unwrap();
    client.manifest(&reference(&host, "organisation/app:v1")).await.unwrap();
    let log = registry.log();
    assert_eq!(log[1].authorization(), Some(&*basic("org", "pw-of-user")));
    assert_eq!(log[2].authorization(), Some(&*basic("host", "pw-of-user")));
}

#[tokio::test]
async fn wrong_credentials_are_named_by_their_place_and_never_shown() {
    let directory = tempfile::TempDir::new().unwrap();
    let registry = FakeRegistry::bearer(Bearer::default());
    let host = registry.host();
    let config = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"wrong-password"}}}}}}"#);
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    let environment = Environment::new([("DOCKER_CONFIG", directory.path())]);
    let (client, clock) = client_with(options(), Keychain::new(environment));
    let error = client.manifest(&reference(&host, "group/app:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(error.status(), Some(401));
    assert_eq!(error.scope(), "repository:group/app:pull");
    let text = error.to_string();
    assert!(text.contains("incorrect username or password"), "{text}");
    assert!(text.contains(&format!("/config.json`, auths[{host}]")), "{text}");
    assert!(!format!("{text}{error:?}{:?}", error.hint()).contains("wrong-password"), "{text}");
    assert!(clock.pauses().is_empty(), "it is not tried again");
}

#[tokio::test]
async fn no_credentials_are_said_to_be_none() {
    let registry = FakeRegistry::basic();
    let (client, _) = anonymous();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.credential(), Some("none found"));
    assert!(error.to_string().contains("credentials: none found"), "{error}");
    assert!(error.hint().unwrap().contains("log in"));
}

/// Artifactory and others: what one may not see is not there, and nobody asks for credentials.
/// Source: OCI distribution specification 1.1, "Pulling manifests".
#[rstest]
#[case(404)]
#[case(403)]
#[tokio::test]
async fn what_is_hidden_without_a_challenge_is_asked_for_with_credentials(#[case] status: u16) {
    let registry = FakeRegistry::basic();
    registry.put_image("a", "v1");
    registry.fault("GET", "/manifests/", 1, move |_, _| {
        Answer::error(status, "MANIFEST_UNKNOWN", "hidden").into()
    });
    let (client, _) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(
        registry.lines(),
        ["GET /v2/a/manifests/v1 404", "GET /v2/ 401", "GET /v2/a/manifests/v1 200"]
            .map(|line| line.replace("404", &status.to_string()))
    );
}

/// A public registry and stale credentials for it: what is not there is not there.
#[tokio::test]
async fn credentials_that_do_not_help_leave_the_first_answer_standing() {
    let registry = FakeRegistry::open();
    registry.fault("GET", "/v2/", 9, |exchange, registry| {
        if exchange.head.header("authorization").is_some() {
            return Answer::new(401).into();
        }
        registry.normal(exchange)
    });
    let (client, _) = user_at(&registry.host());
    for _ in 0..2 {
        let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(404)));
        assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
    }
    assert_eq!(registry.count("GET", "/v2/"), 4, "they are shown once: {:?}", registry.lines());
}

/// A blob redirected to storage: the signed address is all the authorization there (S3 refuses two).
/// Source: open-policy-agent/opa#6580.
#[tokio::test]
async fn authorization_does_not_follow_a_redirect_to_another_host() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let blob = bytes(100_000);
    let content = blob.clone();
    let storage = Server::on("127.0.0.2", None, move |exchange| {
        record.lock().unwrap().push(exchange.head.clone());
        Answer::new(200).body(content.clone()).into()
    });
    for auth in [Auth::Bearer(Bearer::default()), FakeRegistry::basic_auth()] {
        seen.lock().unwrap().clear();
        let registry = FakeRegistry::new(auth).serve();
        let digest = registry.put_blob("a", &blob);
        let location = format!("{}/blob?X-Amz-Signature=very-secret", storage.url());
        registry.alter("GET", "/blobs/", 9, move |answer| match answer.status {
            200 => Answer::new(307).header("Location", location.clone()),
            _ => answer,
        });
        let (client, _) = user_at(&registry.host());
        let fetched = client.blob_bytes(&repository(&registry.host(), "a"), digest, 100_000).await.unwrap();
        assert_eq!(fetched, blob);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].header("authorization"), None);
    }
}

#[tokio::test]
async fn a_signed_address_is_not_shown_in_an_error() {
    let storage = Server::on("127.0.0.2", None, |_| Answer::new(403).body("<Error/>").into());
    let registry = FakeRegistry::open();
    let digest = registry.put_blob("a", b"blob");
    let location = format!("{}/blob?X-Amz-Signature=very-secret", storage.url());
    registry.fail("GET", "/blobs/", 9, Answer::new(307).header("Location", location));
    let (client, _) = anonymous();
    let error = client.blob_bytes(&repository(&registry.host(), "a"), digest, 4).await.unwrap_err();
    assert!(error.to_string().contains("X-Amz-Signature=***"), "{error}");
    assert!(!format!("{error:?}").contains("very-secret"), "{error:?}");
}

/// An `Authorization` is sent again where a redirect stays on the host.
#[tokio::test]
async fn authorization_stays_on_a_redirect_within_the_host() {
    let registry = FakeRegistry::basic();
    registry.put_image("new", "v1");
    registry.fail("GET", "/v2/old/", 9, Answer::new(301).header("Location", "/v2/new/manifests/v1"));
    let (client, _) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "old:v1")).await.unwrap();
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let registry = FakeRegistry::open();
    registry.fail("GET", "/manifests/", 99, Answer::new(302).header("Location", "/v2/a/manifests/v1"));
    let (client, _) = anonymous();
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
}

/// A trusted registry must not get credentials sent in the clear (go-containerregistry's realm checks).
/// Source: CVE-2020-15157.
#[tokio::test]
async fn an_http_realm_announced_over_https_is_refused() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let thief = Server::on("127.0.0.3", None, move |_| {
        *count.lock().unwrap() += 1;
        Answer::new(200).body(r#"{"token":"x"}"#).into()
    });
    let authority = Authority::new();
    let certificate = authority.issue(&["registry.test", "127.0.0.1"]);
    // A foreign host without TLS that is not this machine: a name that only the challenge knows.
    let realm = "http://auth.example/token".to_owned();
    let registry = FakeRegistry::new(Auth::Bearer(Bearer { realm, ..Bearer::default() }))
        .serve_on("127.0.0.1", Some(certificate.server(None)));
    let mut options = options();
    options.extra_roots.push(authority.pem().into_bytes());
    let (client, _) = client_with(options, keychain(&registry.host()));
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("`http://auth.example`, which is not encrypted"), "{error}");
    assert_eq!(*asked.lock().unwrap(), 0);
    drop(thief);
}

/// Harbor with an external address of `http:` behind a proxy that ends TLS (goharbor/harbor): the realm is the
/// registry itself, and is asked over TLS.
#[tokio::test]
async fn an_http_realm_on_the_registry_itself_is_asked_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue(&["127.0.0.1"]);
    let registry = FakeRegistry::new(Auth::Bearer(Bearer::default()))
        .serve_on("127.0.0.1", Some(certificate.server(None)));
    registry.put_image("a", "v1");
    registry.change_auth(|auth| {
        let Auth::Bearer(bearer) = auth else { panic!("it was one") };
        bearer.realm = format!("{}/token", registry.server.url().replace("https:", "http:"));
    });
    let mut options = options();
    options.extra_roots.push(authority.pem().into_bytes());
    let (client, _) = client_with(options, keychain(&registry.host()));
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
}

/// A realm elsewhere gets the credentials only if it is announced by the registry they are for; a mirror gets
/// its own.
#[tokio::test]
async fn a_mirror_is_not_shown_the_registrys_credentials() {
    let mirror = FakeRegistry::basic();
    let registry = FakeRegistry::basic();
    registry.put_image("a", "v1");
    let mut options = options();
    options.mirrors.push(MirrorRule {
        prefix: registry.host(),
        mirrors: vec![mirror.host()],
        fall_back: true,
    });
    let (client, _) = client_with(options, keychain(&registry.host()));
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert!(mirror.log().iter().all(|logged| logged.authorization().is_none()));
    assert_eq!(mirror.log().len(), 1);
}

#[tokio::test]
async fn a_token_server_that_is_unwell_is_asked_again() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.put_image("a", "v1");
    registry.fail("GET", "/token", 2, Answer::new(503));
    let (client, clock) = user_at(&registry.host());
    client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap();
    assert_eq!(clock.pauses().len(), 2);
}

#[tokio::test]
async fn a_token_server_that_stays_unwell_is_not_asked_for_ever() {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.fail("GET", "/token", 999, Answer::new(503));
    let (client, _) = user_at(&registry.host());
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert_eq!(error.status(), Some(503));
    assert_eq!(error.retries(), 5);
    assert_eq!(registry.count("GET", "/token"), 6, "tries do not multiply");
}

#[rstest]
#[case("not json")]
#[case("{}")]
#[case(r#"{"token":""}"#)]
#[tokio::test]
async fn an_answer_without_a_token_is_an_error(#[case] body: &'static str) {
    let registry = FakeRegistry::bearer(Bearer::default());
    registry.fail("GET", "/token", 9, Answer::new(200).body(body));
    let (client, _) = user_at(&registry.host());
    let error = client.manifest(&reference(&registry.host(), "a:v1")).await.unwrap_err();
    assert!(error.to_string().contains("holds no token"), "{error}");
}

/// ECR's tokens live for twelve hours, a workload identity's for one: the helper is asked anew.
#[tokio::test]
async fn a_helper_is_asked_again_when_its_credentials_run_out() {
    let home = tempfile::TempDir::new().unwrap();
    let registry = FakeRegistry::basic();
    registry.put_image("a", "v1");
    let host = registry.host();
    let script = format!(
        "cat > {0}/config.json <<'X'\n{{\"credHelpers\":{{\"{host}\":\"turn\"}}}}\nX\n\
         cat > {0}/docker-credential-turn <<'X'\n#!/bin/sh\nread server\n\
         if [ -e {0}/again ]; then p=user-password; else p=stale; fi; touch {0}/again\n\
         echo \"{{\\\"Username\\\":\\\"user\\\",\\\"Secret\\\":\\\"$p\\\"}}\"\nX\nchmod 755 {0}/docker-credential-turn\n",
        home.path().display()
    );
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let path = format!("{}:/usr/bin:/bin", home.path().display());
    let environment =
        Environment::new([("DOCKER_CONFIG", home.path().to_str().unwrap()), ("PATH", path.as_str())]);
    let (client, clock) = client_with(options(), Keychain::new(environment));
    let v1 = reference(&host, "a:v1");
    client.manifest(&v1).await.expect_err("what the helper has just given is not asked for again");
    clock.advance(Duration::from_secs(60));
    client.manifest(&v1).await.unwrap();
}

#[tokio::test]
async fn a_login_is_checked_against_the_root() {
    for auth in [FakeRegistry::basic_auth(), Auth::Bearer(Bearer::default())] {
        let registry = FakeRegistry::new(auth).serve();
        let (client, _) = anonymous();
        client.check_login(&registry.host(), &login("user", "user-password")).await.unwrap();
        let error = client.check_login(&registry.host(), &login("user", "other-password")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(!error.to_string().contains("other-password"));
    }
}

#[tokio::test]
async fn a_login_is_checked_where_the_root_is_open() {
    let users = vec![("user".to_owned(), "user-password".to_owned())];
    let registry = FakeRegistry::new(Auth::Basic { users, open_root: true, open_reads: true }).serve();
    let (client, _) = anonymous();
    client.check_login(&registry.host(), &login("user", "user-password")).await.unwrap();
    let error = client.check_login(&registry.host(), &login("user", "other-password")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}
