//! What a token is asked for: `repository:group/app:pull,push`.
//!
//! Grammar: distribution, "Docker Registry Token Scope and Access". Scopes are a set of actions for each
//! resource, so that asking for more is a union and "does this token do" is a subset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Read manifests and blobs.
const PULL: &str = "pull";
/// Write them.
const PUSH: &str = "push";
/// Remove them.
const DELETE: &str = "delete";
/// Everything on the resource.
const ANY: &str = "*";

/// A set of actions for each of a set of resources; empty where none is needed (`/v2/` itself).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// No access to any resource: only who one is.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reading the repository `path`.
    pub fn pull(path: &str) -> Self {
        Self::repository(path, &[PULL])
    }

    /// Reading and writing the repository `path`. Registries grant `push` only along with `pull`.
    pub fn push(path: &str) -> Self {
        Self::repository(path, &[PULL, PUSH])
    }

    /// Deleting in the repository `path`.
    pub fn delete(path: &str) -> Self {
        Self::repository(path, &[PULL, DELETE])
    }

    fn repository(path: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        Self(BTreeMap::from([(format!("repository:{path}"), actions)]))
    }

    /// Reads the `scope` parameter of a challenge: scopes parted by blanks. What is no scope is left out, since
    /// it could not be asked for.
    pub fn parse(text: &str) -> Self {
        let mut scopes = Self::none();
        for scope in text.split_whitespace() {
            // The name may hold colons (`repository:registry:5000/app:pull`), the actions are behind the last.
            let Some((resource, actions)) = scope.rsplit_once(':') else { continue };
            if !resource.contains(':') {
                continue;
            }
            let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned);
            scopes.0.entry(resource.to_owned()).or_default().extend(actions);
        }
        scopes
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
        self
    }

    /// Whether a token for these scopes does where `wanted` is needed.
    pub fn cover(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(resource, actions)| {
            self.0.get(resource).is_some_and(|granted| {
                granted.contains(ANY) || actions.iter().all(|action| granted.contains(action))
            })
        })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each resource's scope, as a `scope` parameter of its own.
    pub fn each(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.each().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&scope)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("repository:a/b:pull", "repository:a/b:pull")]
    #[case("repository:a/b:push,pull repository:c:pull", "repository:a/b:pull,push repository:c:pull")]
    #[case("repository:host:5000/a:pull", "repository:host:5000/a:pull")]
    #[case("repository(plugin):a:pull", "repository(plugin):a:pull")]
    #[case("registry:catalog:*", "registry:catalog:*")]
    #[case("nonsense  aws", "")]
    fn reads_scopes(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(Scopes::parse(text).to_string(), shown);
    }

    #[test]
    fn a_grown_scope_covers_the_smaller() {
        let push = Scopes::push("a");
        let mount = push.clone().and(&Scopes::pull("b"));
        assert_eq!(mount.to_string(), "repository:a:pull,push repository:b:pull");
        assert!(mount.cover(&push) && push.cover(&Scopes::pull("a")) && push.cover(&Scopes::none()));
        assert!(!push.cover(&mount) && !Scopes::pull("a").cover(&push) && !Scopes::none().cover(&push));
        assert!(Scopes::parse("repository:a:*").cover(&push), "`*` is every action");
    }
}
