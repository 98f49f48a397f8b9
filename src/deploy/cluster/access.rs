//! Which cluster, and as whom: kubeconfigs, contexts, service accounts.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

use crate::registry::{Environment, Proxies, TrustStore, system_roots};

/// The context that GitLab adds, and makes the current one, for clusters that were connected by certificate. It is no
/// choice of anybody's, and the connection has been deprecated since GitLab 14.5.
const GITLAB_LEGACY: &str = "gitlab-deploy";
/// Variables that name a context, in the order in which they count.
const CONTEXT_VARIABLES: [&str; 2] = ["AGENT_KUBECONTEXT", "KUBE_CONTEXT"];
/// The variable that names a namespace.
const NAMESPACE_VARIABLE: &str = "KUBE_NAMESPACE";
/// What the pod's own service account is told by.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// How long a connection may take to come about.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A variable that holds a kubeconfig, as it is, in base64, or as the path of a file.
    pub kubeconfig_variable: Option<String>,
    /// A context of the kubeconfig.
    pub context: Option<String>,
    /// The namespace of objects that name none.
    pub namespace: Option<String>,
    /// A file with the certificate of the authority that the API server's certificate is from.
    pub certificate_authority: Option<PathBuf>,
}

/// Why there is no way to a cluster.
#[derive(Debug, Clone, Error)]
#[error("{what}")]
pub struct AccessError {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl AccessError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A way to a cluster.
#[derive(Debug)]
pub struct Access {
    config: Config,
    /// Where it was found: `context `a` of `/x``.
    pub origin: String,
    /// Where the namespace was found: `--namespace`, `KUBE_NAMESPACE`, the context. Nothing if nobody names one.
    pub namespace_origin: Option<String>,
    /// The contexts there are, for who asked for another.
    pub contexts: Vec<String>,
    /// What is not as it should be: text and what to do about it.
    pub oddities: Vec<(String, Option<String>)>,
}

/// Where a kubeconfig is.
enum Place {
    Files(Vec<PathBuf>),
    Text { text: String, variable: String },
    Pod,
}

impl Access {
    /// Finds the way: `options`, then `KUBECONFIG`, then the user's own kubeconfig, then the pod's service account.
    ///
    /// # Errors
    /// If there is none, or it cannot be used.
    pub async fn find(options: &AccessOptions, environment: &Environment) -> Result<Self, AccessError> {
        let mut oddities = Vec::new();
        let mut access = match place(options, environment)? {
            Place::Pod => Self::of_the_pod(oddities)?,
            Place::Files(files) => {
                let kubeconfig = read_files(&files, environment, &mut oddities)?;
                let origin = files.iter().map(|file| format!("`{}`", file.display())).collect::<Vec<_>>();
                Self::of_kubeconfig(kubeconfig, origin.join(", "), options, environment, oddities).await?
            }
            Place::Text { text, variable } => {
                let origin = format!("variable {variable}");
                let kubeconfig = Kubeconfig::from_yaml(&text).map_err(|error| explained(&error, &origin))?;
                Self::of_kubeconfig(kubeconfig, origin, options, environment, oddities).await?
            }
        };
        let asked = options.namespace.as_deref().map(|name| (name, "--namespace"));
        let set = environment.get(NAMESPACE_VARIABLE).map(|name| (name, NAMESPACE_VARIABLE));
        if let Some((namespace, said_by)) = asked.or(set) {
            access.config.default_namespace = namespace.to_owned();
            access.namespace_origin = Some(said_by.to_owned());
        }
        access.trust(options, environment)?;
        access.config.connect_timeout = Some(CONNECT);
        // What is tried again is decided by the client.
        access.config.default_retry = false;
        Ok(access)
    }

    fn of_the_pod(oddities: Vec<(String, Option<String>)>) -> Result<Self, AccessError> {
        let config = Config::incluster().map_err(|error| {
            AccessError::new(format!("the pod's service account cannot be used: {error}"))
                .hint("name a kubeconfig with --kubeconfig or the variable KUBECONFIG")
        })?;
        let origin = "the pod's service account".to_owned();
        Ok(Self { config, namespace_origin: Some(origin.clone()), origin, contexts: Vec::new(), oddities })
    }

    async fn of_kubeconfig(
        mut kubeconfig: Kubeconfig,
        origin: String,
        options: &AccessOptions,
        environment: &Environment,
        oddities: Vec<(String, Option<String>)>,
    ) -> Result<Self, AccessError> {
        let contexts: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
        let (context, said_by) = context(&kubeconfig, &contexts, &origin, options, environment)?;
        for user in kubeconfig.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
            // Nobody is there to answer a question.
            if let Some(exec) = &mut user.exec {
                exec.interactive_mode = Some(ExecInteractiveMode::Never);
            }
        }
        let own_proxy = own_proxy(&kubeconfig, &context);
        let namespace_origin = has_namespace(&kubeconfig, &context).then(|| format!("context `{context}`"));
        let options = KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| explained(&error, &origin))?;
        if !own_proxy {
            config.proxy_url = proxy(&config.cluster_url, environment);
        }
        let origin = format!("context `{context}` of {origin}{said_by}");
        Ok(Self { config, origin, namespace_origin, contexts, oddities })
    }

    /// The certificates that count: those of `--certificate-authority`, of the kubeconfig, or the machine's.
    fn trust(&mut self, options: &AccessOptions, environment: &Environment) -> Result<(), AccessError> {
        if let Some(path) = &options.certificate_authority {
            let unusable = |why: String| AccessError::new(format!("cannot use `{}`: {why}", path.display()));
            let trust = TrustStore { files: vec![path.clone()], directories: Vec::new(), named: true };
            let roots = system_roots(&trust).map_err(unusable)?;
            self.config.root_cert = Some(roots);
            self.config.root_cert_file = None;
        } else if self.config.root_cert.is_none() && self.config.root_cert_file.is_none() {
            let roots = system_roots(&TrustStore::from_environment(environment)).map_err(AccessError::new)?;
            // Where the machine has none, the client carries some.
            self.config.root_cert = Some(roots).filter(|roots| !roots.is_empty());
        }
        if self.config.accept_invalid_certs {
            let text = format!("the certificate of {} is not checked: the kubeconfig says so", self.server());
            self.oddities
                .push((text, Some("put the authority's certificate into the kubeconfig".to_owned())));
        }
        Ok(())
    }

    /// The address of the API server.
    pub fn server(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    pub(super) fn into_config(self) -> Config {
        self.config
    }
}

fn place(options: &AccessOptions, environment: &Environment) -> Result<Place, AccessError> {
    if let Some(path) = &options.kubeconfig {
        return match path.exists() {
            true => Ok(Place::Files(vec![path.clone()])),
            false => Err(AccessError::new(format!("there is no kubeconfig `{}`", path.display()))),
        };
    }
    if let Some(name) = &options.kubeconfig_variable {
        let value = environment.get(name).ok_or_else(|| {
            AccessError::new(format!("variable {name}, which is to hold a kubeconfig, is not set"))
                .hint("a protected variable is there in jobs of protected branches and tags only")
        })?;
        return in_variable(name, value);
    }
    if let Some(value) = environment.get("KUBECONFIG") {
        return in_variable("KUBECONFIG", value).map_err(|error| {
            let hint = if environment.get("GITLAB_CI").is_some() {
                "a variable KUBECONFIG of the pipeline or project hides the one that GitLab's agent gives: take it out, \
                 or name the kubeconfig with --kubeconfig or --kubeconfig-env"
            } else {
                "name the kubeconfig with --kubeconfig, or what it is in with --kubeconfig-env"
            };
            error.hint(hint)
        });
    }
    let own = environment.home().map(|home| home.join(".kube/config")).filter(|path| path.exists());
    if let Some(path) = own {
        return Ok(Place::Files(vec![path]));
    }
    if environment.get(IN_CLUSTER).is_some() {
        return Ok(Place::Pod);
    }
    let hint = if environment.get("GITLAB_CI").is_some() {
        "GitLab's agent gives a kubeconfig to jobs of projects that its `ci_access` names; where that is limited to \
         environments, the job needs an `environment:`. A change of it takes a minute or two"
    } else {
        "name one with --kubeconfig, --kubeconfig-env or the variable KUBECONFIG"
    };
    Err(AccessError::new("there is no kubeconfig, and no service account of a pod").hint(hint))
}

/// What the variable `name` holds: paths, a kubeconfig, or one in base64.
fn in_variable(name: &str, value: &str) -> Result<Place, AccessError> {
    let text = |text: String| Place::Text { text, variable: name.to_owned() };
    if value.contains('\n') || value.contains("apiVersion") {
        return Ok(text(value.to_owned()));
    }
    let files: Vec<PathBuf> =
        std::env::split_paths(value).filter(|path| !path.as_os_str().is_empty()).collect();
    // Of several files some need not be there: kubectl passes them over.
    let there: Vec<PathBuf> = files.iter().filter(|path| path.exists()).cloned().collect();
    if !there.is_empty() {
        return Ok(Place::Files(there));
    }
    let compact: String = value.split_whitespace().collect();
    let decoded = STANDARD.decode(compact).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.filter(|text| text.contains("apiVersion") || text.contains("clusters")) {
        Some(decoded) => Ok(text(decoded)),
        // It may be a secret that was misspelt: it is not shown unless it looks like a path.
        None if value.starts_with('/') || value.len() < 64 => {
            Err(AccessError::new(format!("{name} names `{value}`, and there is no such file")))
        }
        None => {
            Err(AccessError::new(format!("{name} holds neither a kubeconfig, nor one in base64, nor a path")))
        }
    }
}

fn read_files(
    files: &[PathBuf],
    environment: &Environment,
    oddities: &mut Vec<(String, Option<String>)>,
) -> Result<Kubeconfig, AccessError> {
    let mut all = Kubeconfig::default();
    for file in files {
        let shown = format!("`{}`", file.display());
        let read = read_file(file).map_err(|why| AccessError::new(format!("cannot read {shown}: {why}")))?;
        if read.0.trim().is_empty() {
            let error = AccessError::new(format!("the kubeconfig {shown} is empty"));
            return Err(match environment.get("GITLAB_CI") {
                Some(_) => {
                    error.hint("GitLab gives one to jobs that have an `environment:` its agent is for")
                }
                None => error,
            });
        }
        let next = Kubeconfig::read_from(file).map_err(|error| explained(&error, &shown))?;
        all = all.merge(next).map_err(|error| explained(&error, &shown))?;
        // Those that GitLab makes are for everybody in the job's container, and its alone.
        if read.1 & 0o077 != 0 && environment.get("GITLAB_CI").is_none() {
            let text = format!("the kubeconfig {shown} can be read by others than its owner");
            oddities.push((text, Some(format!("chmod 600 {}", file.display()))));
        }
    }
    Ok(all)
}

fn read_file(file: &Path) -> std::io::Result<(String, u32)> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = std::fs::read_to_string(file)?;
    Ok((text, std::fs::metadata(file)?.permissions().mode()))
}

/// The context to take, and what is to be said of how it was chosen.
fn context(
    kubeconfig: &Kubeconfig,
    contexts: &[String],
    origin: &str,
    options: &AccessOptions,
    environment: &Environment,
) -> Result<(String, String), AccessError> {
    let list = || match contexts {
        [] => "it has no context at all".to_owned(),
        names => {
            format!("it has {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
        }
    };
    let known = |name: &str, said_by: &str| {
        if contexts.iter().any(|known| known == name) {
            return Ok((name.to_owned(), format!(" (by {said_by})")));
        }
        Err(AccessError::new(format!("{origin} has no context `{name}`, which {said_by} names")).hint(list()))
    };
    if let Some(name) = &options.context {
        return known(name, "--context");
    }
    for variable in CONTEXT_VARIABLES {
        if let Some(name) = environment.get(variable) {
            return known(name, variable);
        }
    }
    let agents = contexts.iter().any(|name| name != GITLAB_LEGACY);
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    match (current, contexts) {
        (Some(name), _) if name != GITLAB_LEGACY || !agents => known(name, "current-context"),
        (_, [only]) => Ok((only.clone(), String::new())),
        _ => Err(AccessError::new(format!("{origin} does not say which context to use; {}", list()))
            .hint("name one with --context, or the variable AGENT_KUBECONTEXT or KUBE_CONTEXT")),
    }
}

/// Whether the context names a namespace.
fn has_namespace(kubeconfig: &Kubeconfig, context: &str) -> bool {
    let context = kubeconfig.contexts.iter().find(|known| known.name == context);
    context
        .and_then(|context| context.context.as_ref()?.namespace.as_ref())
        .is_some_and(|namespace| !namespace.is_empty())
}

/// Whether the kubeconfig names a proxy for the cluster of `context`.
fn own_proxy(kubeconfig: &Kubeconfig, context: &str) -> bool {
    let context = kubeconfig.contexts.iter().find(|known| known.name == context);
    let cluster = context.and_then(|context| context.context.as_ref()).map(|context| &context.cluster);
    let cluster = kubeconfig.clusters.iter().find(|known| Some(&known.name) == cluster);
    cluster
        .and_then(|cluster| cluster.cluster.as_ref()?.proxy_url.as_ref())
        .is_some_and(|proxy| !proxy.is_empty())
}

/// The environment's proxy for an address. The library's own rule asks whether the *proxy* is one of those that no proxy
/// is for.
fn proxy(server: &http::Uri, environment: &Environment) -> Option<http::Uri> {
    let proxies = Proxies::from_environment(environment);
    let address = |proxy: &Option<crate::registry::Secret>| {
        proxy.as_ref().map(|proxy| proxy.expose().to_owned()).unwrap_or_default()
    };
    let matcher = Matcher::builder()
        .http(address(&proxies.http))
        .https(address(&proxies.https))
        .no(format!("localhost,127.0.0.0/8,::1,{}", proxies.none_for))
        .build();
    matcher.intercept(server)?;
    // With user and password, which the matcher takes apart.
    let address = address(if server.scheme_str() == Some("http") { &proxies.http } else { &proxies.https });
    let address = if address.contains("://") { address } else { format!("http://{address}") };
    address.parse().ok()
}

/// What the library says of a kubeconfig, with what to do about it. It quotes no credential.
fn explained(error: &KubeconfigError, origin: &str) -> AccessError {
    match error {
        KubeconfigError::LoadContext(name) => AccessError::new(format!("{origin} has no context `{name}`")),
        KubeconfigError::LoadClusterOfContext(name) => {
            AccessError::new(format!("{origin} has no cluster `{name}`, which its context names"))
        }
        // The parser's own words may quote the text, and with it a token.
        KubeconfigError::Parse(_) => {
            AccessError::new(format!("{origin} is not a kubeconfig: it cannot be parsed"))
                .hint("a variable of type `File` holds the path, one of type `Variable` the text")
        }
        error => AccessError::new(format!("{origin} cannot be used: {error}")),
    }
}
