//! `cofferdam pull-secret`

use clap::{Args, ValueHint};

use super::cluster::ClusterArgs;
use super::error::CliError;
use super::login;
use super::session::Session;
use super::stdout;
use crate::deploy::DeployError;
use crate::deploy::pull_secret::{PullSecret, Sent, server};
use crate::registry::{Environment, Secret};

/// The user whose password is a job's token.
const JOB_USER: &str = "gitlab-ci-token";
/// Variables whose values end with the job.
const OF_THE_JOB: [&str; 2] = ["CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD"];
/// GitLab's deploy token, if the project has one of that name.
const DEPLOY_USER: &str = "CI_DEPLOY_USER";
const DEPLOY_PASSWORD: &str = "CI_DEPLOY_PASSWORD";
/// The registry of GitLab.
const REGISTRY: &str = "CI_REGISTRY";

const AFTER_HELP: &str = "\
The Secret is that of `kubectl create secret docker-registry`, byte for byte, and may be sent again and
again. Without a user, $CI_DEPLOY_USER and $CI_DEPLOY_PASSWORD are taken, which GitLab sets where a
project has a deploy token called gitlab-deploy-token. Tokens of a job are refused: they end with it,
and nodes pull later.

Examples:
  echo \"$TOKEN\" | cofferdam pull-secret registry-login -n shop --server registry.example.com \\
    --username robot --password-stdin
  cofferdam pull-secret gitlab -n shop --print";

/// Flags of `pull-secret`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PullSecretArgs {
    /// What the Secret is called
    #[arg(value_name = "NAME")]
    name: String,
    /// The registry, as names of images begin with it [default: $CI_REGISTRY]
    #[arg(long, value_name = "HOST", value_hint = ValueHint::Hostname)]
    server: Option<String>,
    /// The user [default: $CI_DEPLOY_USER]
    #[arg(short, long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input, less one line break at its end
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// An address to put in; nobody reads it
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Write the manifest to standard output instead of sending it: it has the password
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Makes it, and sends or prints it.
pub(super) async fn run(arguments: PullSecretArgs, session: &Session) -> Result<(), CliError> {
    let PullSecretArgs { name, server: host, username, email, print, cluster, .. } = arguments;
    let environment = &session.settings.surroundings().environment;
    let host = host.or_else(|| environment.get(REGISTRY).map(str::to_owned)).ok_or_else(|| {
        CliError::usage("there is no registry to log in to", "name one with `--server HOST`")
    })?;
    let host = login::host(Some(&host))?;
    check_name(&name)?;
    let (username, password) = match username {
        Some(username) => {
            let read = async {
                tokio::task::spawn_blocking(login::read_password).await.map_err(|_| CliError::Panicked)?
            };
            (username, session.or_cancelled(read).await?)
        }
        None => from_environment(environment)?,
    };
    refuse_job_tokens(&username, &password, environment)?;
    let mut secret = PullSecret {
        name,
        namespace: cluster.namespace().map(str::to_owned),
        server: server(&host),
        username,
        password: Secret::new(password),
        email,
    };
    if print {
        return stdout::write(&secret.manifest());
    }
    let connection = cluster.connect(session).await?;
    let namespace = secret.namespace.get_or_insert_with(|| connection.cluster.namespace().to_owned()).clone();
    let sent = session
        .or_cancelled(async { Ok(secret.send(&connection.cluster).await.map_err(DeployError::from)?) });
    let words = match sent.await? {
        Sent::Created => "created",
        Sent::Configured => "configured",
        Sent::Replaced => {
            let text = format!(
                "secret/{} was deleted and created anew, for it may not be changed: `patch` on secrets would do without",
                secret.name
            );
            session.report.note(text);
            "replaced"
        }
    };
    session.report.note(format!(
        "pods of namespace {namespace} use it with imagePullSecrets: [{{name: {}}}]",
        secret.name
    ));
    stdout::write(&format!("secret/{} {words}\n", secret.name))
}

fn from_environment(environment: &Environment) -> Result<(String, String), CliError> {
    match (environment.get(DEPLOY_USER), environment.get(DEPLOY_PASSWORD)) {
        (Some(user), Some(password)) => Ok((user.to_owned(), password.to_owned())),
        _ => {
            let hint = "give `--username NAME --password-stdin`, or set CI_DEPLOY_USER and CI_DEPLOY_PASSWORD: GitLab does so \
                        for a deploy token called gitlab-deploy-token";
            Err(CliError::usage("there is nobody to log in as", hint))
        }
    }
}

/// A job's token is good until the job ends. A node pulls whenever it starts a pod.
fn refuse_job_tokens(username: &str, password: &str, environment: &Environment) -> Result<(), CliError> {
    let of_job = OF_THE_JOB.iter().find(|name| environment.get(name) == Some(password));
    let what = match of_job {
        Some(name) => format!("the password is that of ${name}, which ends with the job"),
        None if username == JOB_USER => format!("the user `{JOB_USER}` has a token that ends with the job"),
        None => return Ok(()),
    };
    let hint = "nodes pull long after: make a deploy token with the scope read_registry (Settings, Repository, Deploy tokens), \
                and give that";
    Err(CliError::usage(what, hint))
}

/// The rule of names of Secrets (RFC 1123 subdomains).
fn check_name(name: &str) -> Result<(), CliError> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|byte| letters(byte) || byte == b'-')
            && label.bytes().next().is_some_and(letters)
            && label.bytes().last().is_some_and(letters)
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let hint = "names have lower-case letters, digits, `-` and `.`, and begin and end with a letter or digit";
    Err(CliError::usage(format!("`{name}` is no name for a Secret"), hint))
}
