//! Credential helpers: `docker-credential-<name> get|store|erase`.
//!
//! Protocol (docker/docker-credential-helpers): the server's name on stdin, JSON on stdout, an error text on
//! stdout with status 1. A helper talks to keyrings, agents and cloud services and may hang: it has a limit.
//! It sees the environment that was handed in and nothing else.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Environment, Login};

/// Bytes of an answer that are read; a token of a cloud provider has a few thousand.
const LONGEST_ANSWER: u64 = 256 * 1024;
/// Characters of an error that are shown.
const LONGEST_MESSAGE: usize = 300;

/// A helper and what it runs with.
pub(super) struct Helper<'a> {
    /// What stands in the file: `ecr-login` for `docker-credential-ecr-login`.
    pub(super) name: &'a str,
    pub(super) environment: &'a Environment,
    pub(super) timeout: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl Helper<'_> {
    /// The login for `server`, nothing if the helper has none.
    ///
    /// # Errors
    /// What went wrong, in words that quote nothing but the helper's own error text.
    pub(super) async fn get(&self, server: &str) -> Result<Option<Login>, String> {
        let (success, stdout, stderr) = self.run("get", server).await?;
        if !success {
            let said = if stdout.trim().is_empty() { stderr } else { stdout };
            return if is_not_found(&said) { Ok(None) } else { Err(failed(&said)) };
        }
        let answer: Answer = serde_json::from_str(&stdout)
            .map_err(|error| format!("gave an answer that is not valid (column {})", error.column()))?;
        Ok(Login::of(answer.username, answer.secret))
    }

    /// Hands a login over to be kept.
    pub(super) async fn store(&self, server: &str, username: &str, secret: &str) -> Result<(), String> {
        let entry = serde_json::json!({ "ServerURL": server, "Username": username, "Secret": secret });
        let (success, stdout, stderr) = self.run("store", &entry.to_string()).await?;
        let said = if stdout.trim().is_empty() { stderr } else { stdout };
        if success { Ok(()) } else { Err(failed(&said.replace(secret, "***"))) }
    }

    /// Forgets the login for `server`; it is fine if there is none.
    pub(super) async fn erase(&self, server: &str) -> Result<(), String> {
        let (success, stdout, stderr) = self.run("erase", server).await?;
        let said = if stdout.trim().is_empty() { stderr } else { stdout };
        if success || is_not_found(&said) { Ok(()) } else { Err(failed(&said)) }
    }

    async fn run(&self, action: &str, input: &str) -> Result<(bool, String, String), String> {
        let program = self.find()?;
        let mut command = Command::new(&program);
        command.arg(action).env_clear().envs(self.environment.variables()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = input.to_owned();
        let talk = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A helper that does not read its input and answers all the same is no failure of ours.
                    let _closed = stdin.write_all(input.as_bytes()).await;
                }
            };
            let (_, stdout, stderr) = tokio::join!(write, capture(stdout), capture(stderr));
            child.wait().await.map(|status| (status.success(), stdout, stderr))
        };
        match tokio::time::timeout(self.timeout, talk).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(format!("cannot be waited for: {error}")),
            Err(_) => Err(format!("did not answer within {} s", self.timeout.as_secs_f32())),
        }
    }

    /// The helper's file, looked for in the `PATH` of the environment that was handed in.
    fn find(&self) -> Result<PathBuf, String> {
        if self.name.is_empty() || self.name.contains(['/', '\0']) {
            return Err("has a name that is no program's".to_owned());
        }
        let program = format!("docker-credential-{}", self.name);
        let path = self.environment.get("PATH").unwrap_or_default();
        let found = std::env::split_paths(path).map(|directory| directory.join(&program)).find(|file| {
            std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        });
        found.ok_or_else(|| format!("is not installed: there is no `{program}` in PATH"))
    }
}

async fn capture(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read before an error is all there is to show.
        let _broken = stream.take(LONGEST_ANSWER).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The texts by which helpers say that they have nothing: docker-credential-helpers
/// `credentials/error.go`, which ecr-login, gcloud and the others repeat.
fn is_not_found(said: &str) -> bool {
    said.contains("credentials not found")
        || said.contains("no credentials server URL")
        || said.contains("no credentials username")
}

fn failed(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = line.chars().take(LONGEST_MESSAGE).collect();
    if shown.is_empty() { "failed and said nothing".to_owned() } else { format!("failed: {shown}") }
}
