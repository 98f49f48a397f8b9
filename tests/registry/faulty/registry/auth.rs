//! Who may do what at the registry of the tests: Basic, and tokens with a token server.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::FakeRegistry;
use crate::faulty::http::{Answer, Exchange, Head, form};

/// Who may do what.
#[derive(Clone, Default)]
pub enum Auth {
    /// Everyone everything.
    #[default]
    None,
    /// `user:password`, for everything but the root if that is open.
    Basic { users: Vec<(String, String)>, open_root: bool, open_reads: bool },
    /// Tokens.
    Bearer(Bearer),
}

/// How tokens are handed out.
#[derive(Clone)]
pub struct Bearer {
    pub users: Vec<(String, String)>,
    /// Identity tokens that are exchanged for access tokens.
    pub identity_tokens: Vec<String>,
    /// Whether tokens for reading are given to everyone.
    pub anonymous_pull: bool,
    /// Where tokens are to be had; this server's `/token` if empty.
    pub realm: String,
    /// `expires_in` of the answer; left out if nothing.
    pub expires_in: Option<u64>,
    /// `access_token` instead of `token`.
    pub oauth_name: bool,
    /// A token is good for so many requests.
    pub uses: Option<usize>,
    /// Repositories that a token is only given for to nobody: asking for them is a 401.
    pub foreign: Vec<String>,
    /// Whether `GET /v2/` is open.
    pub open_root: bool,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            users: vec![("user".into(), "user-password".into())],
            identity_tokens: Vec::new(),
            anonymous_pull: false,
            realm: String::new(),
            expires_in: Some(300),
            oauth_name: false,
            uses: None,
            foreign: Vec::new(),
            open_root: false,
        }
    }
}

impl FakeRegistry {
    /// What is needed: `repository:name:action`.
    fn needed(head: &Head) -> Vec<String> {
        let Some(rest) = head.path().strip_prefix("/v2/").filter(|rest| !rest.is_empty()) else {
            return Vec::new();
        };
        let name = ["/tags/list", "/manifests/", "/blobs/"]
            .iter()
            .find_map(|part| rest.split_once(part))
            .map_or(rest, |(name, _)| name);
        let actions: &[&str] = match head.method.as_str() {
            // The status of an upload is part of pushing.
            "GET" | "HEAD" if !rest.contains("/uploads/") => &["pull"],
            "DELETE" if !rest.contains("/uploads/") => &["delete"],
            _ => &["pull", "push"],
        };
        actions.iter().map(|action| format!("repository:{name}:{action}")).collect()
    }

    pub(super) fn refused(&self, head: &Head) -> Option<Answer> {
        let auth = self.0.auth.lock().unwrap().clone();
        let needed = Self::needed(head);
        let header = head.header("authorization");
        match auth {
            Auth::None => None,
            Auth::Basic { users, open_root, open_reads } => {
                let known = users.iter().any(|(user, password)| header == Some(&*basic(user, password)));
                let is_read = matches!(head.method.as_str(), "GET" | "HEAD");
                if known
                    || header.is_none()
                        && (needed.is_empty() && open_root || !needed.is_empty() && open_reads && is_read)
                {
                    return None;
                }
                let challenge = "Basic realm=\"fake\"";
                Some(
                    Answer::error(401, "UNAUTHORIZED", "authentication required")
                        .header("WWW-Authenticate", challenge),
                )
            }
            Auth::Bearer(bearer) => {
                if needed.is_empty() && bearer.open_root {
                    return None;
                }
                let mut state = self.state();
                let token = header.and_then(|header| header.strip_prefix("Bearer "));
                let granted = token.and_then(|token| state.tokens.get_mut(token));
                let is_known = granted.is_some();
                if let Some((scopes, uses)) = granted
                    && needed.iter().all(|scope| scopes.contains(scope))
                    && *uses > 0
                {
                    *uses -= 1;
                    return None;
                }
                let realm = if bearer.realm.is_empty() {
                    format!("{}/token", self.0.base.lock().unwrap())
                } else {
                    bearer.realm.clone()
                };
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
                if !needed.is_empty() {
                    challenge.push_str(&format!(",scope=\"{}\"", joined(&needed)));
                }
                if is_known {
                    challenge.push_str(",error=\"insufficient_scope\"");
                }
                Some(
                    Answer::error(401, "UNAUTHORIZED", "authentication required")
                        .header("WWW-Authenticate", challenge),
                )
            }
        }
    }

    pub(super) fn token(&self, exchange: &mut Exchange<'_>) -> Answer {
        let Auth::Bearer(bearer) = self.0.auth.lock().unwrap().clone() else { return Answer::new(404) };
        let refused = || Answer::new(401).body(r#"{"details":"incorrect username or password"}"#);
        let (scopes, known) = if exchange.head.method == "POST" {
            let body = String::from_utf8(exchange.body(usize::MAX).unwrap()).unwrap();
            let fields: BTreeMap<String, String> = form(&body).into_iter().collect();
            self.state().token_forms.push(fields.clone());
            let known = fields.get("grant_type").is_some_and(|kind| kind == "refresh_token")
                && bearer.identity_tokens.contains(&fields["refresh_token"]);
            if !known {
                return Answer::new(400).body(r#"{"error":"invalid_grant"}"#);
            }
            let scopes = fields.get("scope").cloned().unwrap_or_default();
            (scopes.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), true)
        } else {
            let header = exchange.head.header("authorization");
            let known = bearer.users.iter().any(|(user, password)| header == Some(&*basic(user, password)));
            if header.is_some() && !known {
                return refused();
            }
            (exchange.head.parameters("scope"), known)
        };
        let wanted: Vec<String> = scopes.iter().flat_map(|scope| actions(scope)).collect();
        if wanted.iter().any(|scope| bearer.foreign.iter().any(|name| scope.contains(&format!(":{name}:")))) {
            return refused();
        }
        let granted: Vec<String> = wanted
            .into_iter()
            .filter(|scope| known || bearer.anonymous_pull && scope.ends_with(":pull"))
            .collect();
        if granted.is_empty() && !known && !bearer.anonymous_pull {
            return refused();
        }
        let mut state = self.state();
        state.counter += 1;
        let token = format!("token-{}", state.counter);
        state.tokens.insert(token.clone(), (granted, bearer.uses.unwrap_or(usize::MAX)));
        let name = if bearer.oauth_name { "access_token" } else { "token" };
        let mut answer = serde_json::json!({ name: token });
        if let Some(life) = bearer.expires_in {
            answer["expires_in"] = life.into();
        }
        Answer::new(200).header("Content-Type", "application/json").body(answer.to_string())
    }
}

/// `Basic …`
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `repository:a:pull,push` as `repository:a:pull` and `repository:a:push`.
fn actions(scope: &str) -> Vec<String> {
    let (resource, actions) = scope.rsplit_once(':').unwrap();
    actions.split(',').map(|action| format!("{resource}:{action}")).collect()
}

/// The other way round, for scopes of one resource.
fn joined(scopes: &[String]) -> String {
    let resource = scopes[0].rsplit_once(':').unwrap().0;
    let actions: Vec<&str> = scopes.iter().map(|scope| scope.rsplit_once(':').unwrap().1).collect();
    format!("{resource}:{}", actions.join(","))
}
