//! `--secret` and `--ssh`: what steps may know and images may not, by the rules of `docker buildx build`.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{Problem, SettingsError};
use super::fields::fields;
use super::origin::Origin;
use super::values::set;
use crate::build::request::{Agent, Key, KeyError, SecretValue};
use crate::registry::Environment;

const SECRET: &str = "--secret";
const SSH: &str = "--ssh";
/// Where an SSH agent is.
const AGENT: &str = "SSH_AUTH_SOCK";
/// Largest secret, in bytes: BuildKit's limit.
const LARGEST: u64 = 500 * 1024;
/// The agent of `--ssh` and of mounts that name none.
const DEFAULT: &str = "default";

/// A secret as typed.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    id: String,
    from: From,
}

/// Where a secret is.
#[derive(Debug, PartialEq, Eq)]
enum From {
    File(PathBuf),
    Variable(String),
    /// The variable that is called as the secret, or else the file.
    Either,
}

/// Reads the secrets that were given, each name once: the last counts.
pub(super) fn secrets(
    typed: &[String],
    environment: &Environment,
) -> Result<Vec<(String, SecretValue)>, SettingsError> {
    let mut secrets = Vec::new();
    for text in typed {
        let origin = Origin::Flag(SECRET);
        let Typed { id, from } = parse(text).map_err(|problem| problem.at(&origin))?;
        let variable = |name: &str| environment.path(name).map(|value| value.as_os_str().as_bytes().to_vec());
        let value = match from {
            From::File(path) => read(&path, &origin)?,
            From::Variable(name) => variable(&name).ok_or_else(|| {
                let problem = Problem::saying(format!("the variable `{name}` is not set, or is empty"));
                problem.hint("leave the secret out if steps can do without").at(&origin)
            })?,
            From::Either => match variable(&id) {
                Some(value) => value,
                None => read(Path::new(&id), &origin)?,
            },
        };
        if value.len() as u64 > LARGEST {
            let problem = format!("the secret `{id}` is larger than {} KiB", LARGEST / 1024);
            return Err(Problem::saying(problem).at(&origin));
        }
        set(&mut secrets, &id, SecretValue::new(value));
    }
    Ok(secrets)
}

fn read(path: &Path, origin: &Origin) -> Result<Vec<u8>, SettingsError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|source| SettingsError::File { path: path.to_owned(), origin: origin.clone(), source })?;
    Ok(bytes)
}

fn parse(text: &str) -> Result<Typed, Problem> {
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(Problem::new(&field, "is not `KEY=VALUE`").hint("write `id=NAME,src=FILE`"));
        };
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(Problem::new(value, "is no type of a secret").hint("it is `file` or `env`")),
            "source" | "src" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            _ => {
                let problem = Problem::new(key, "is not a key of a secret");
                return Err(problem.hint("the keys are `id`, `src`, `env` and `type`"));
            }
        }
    }
    let filled = |value: Option<String>| value.filter(|value| !value.is_empty());
    let Some(id) = filled(id) else {
        return Err(Problem::saying("the secret has no `id`").hint("write `id=NAME,src=FILE`"));
    };
    let from = match (kind.as_deref(), filled(file), filled(variable)) {
        (_, Some(_), Some(_)) => {
            return Err(Problem::saying(format!("the secret `{id}` has both `src` and `env`")));
        }
        (Some("env"), Some(name), None) | (None | Some("env"), None, Some(name)) => From::Variable(name),
        (Some(_), None, Some(_)) => {
            return Err(Problem::saying(format!("the secret `{id}` is of type `file` and has `env`")));
        }
        (_, Some(path), None) => From::File(path.into()),
        (Some("env"), None, None) => From::Variable(id.clone()),
        (_, None, None) => From::Either,
    };
    Ok(Typed { id, from })
}

/// The agents that were given, by their names: the socket of each, or keys.
pub(super) fn agents(
    typed: &[String],
    environment: &Environment,
) -> Result<Vec<(String, Agent)>, SettingsError> {
    let mut agents = Vec::new();
    for text in typed {
        let (id, agent) = agent(text, environment).map_err(|problem| problem.at(&Origin::Flag(SSH)))?;
        set(&mut agents, &id, agent);
    }
    Ok(agents)
}

fn agent(text: &str, environment: &Environment) -> Result<(String, Agent), Problem> {
    let (id, value) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { DEFAULT } else { id };
    let paths: Vec<PathBuf> = match value {
        "" => vec![environment.path(AGENT).ok_or_else(|| {
            Problem::saying(format!("there is no SSH agent: `{AGENT}` is not set")).hint(format!(
                "start one (`ssh-agent`), or name its socket or keys: `--ssh {id}=SOCKET`, `--ssh {id}=KEY`"
            ))
        })?],
        paths => paths.split(',').map(PathBuf::from).collect(),
    };
    let is_socket = |path: &PathBuf| {
        use std::os::unix::fs::FileTypeExt;
        // What is not there is told of when the agent is needed.
        std::fs::metadata(path).map_or(paths.len() == 1, |found| found.file_type().is_socket())
    };
    let agent = match (paths.as_slice(), paths.iter().find(|path| is_socket(path))) {
        ([socket], Some(_)) => Agent::Socket(socket.clone()),
        (_, Some(socket)) => {
            let problem =
                Problem::new(socket.display().to_string(), "is a socket, and there is more than that");
            return Err(problem.hint("give one socket, or keys alone"));
        }
        (paths, None) => Agent::Keys(paths.iter().map(|path| key(path, id)).collect::<Result<_, _>>()?),
    };
    Ok((id.to_owned(), agent))
}

/// Reads a key.
fn key(path: &Path, id: &str) -> Result<Key, Problem> {
    /// No key is larger, in bytes: BuildKit's limit.
    const LARGEST: u64 = 100 * 1024;
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(|error| Problem::new(&shown, format!("cannot be read: {error}")))?;
    Key::parse(&bytes).map_err(|error| {
        let problem = Problem::new(&shown, format!("cannot be served as an SSH key: {error}"));
        match error {
            KeyError::Encrypted | KeyError::Kind(_) => problem
                .hint(format!("start an agent, add the key (`ssh-add {shown}`), and give `--ssh {id}`")),
            KeyError::NoKey => problem.hint("name the private key, or the socket of an agent"),
            KeyError::Garbled(_) => problem,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::request::example_key;
    use rstest::rstest;

    #[rstest]
    #[case("id=a,src=f", "a", From::File("f".into()))]
    #[case("type=file,source=f,id=a", "a", From::File("f".into()))]
    #[case("id=a,env=B", "a", From::Variable("B".into()))]
    #[case("type=env,id=a,src=B", "a", From::Variable("B".into()))]
    #[case("type=env,id=a", "a", From::Variable("a".into()))]
    #[case("id=a", "a", From::Either)]
    #[case(r#"id=a,"src=f,g""#, "a", From::File("f,g".into()))]
    fn a_secret_is_read(#[case] text: &str, #[case] id: &str, #[case] from: From) {
        assert_eq!(parse(text).unwrap(), Typed { id: id.to_owned(), from });
    }

    #[rstest]
    #[case("src=f", "has no `id`")]
    #[case("id=,src=f", "has no `id`")]
    #[case("a", "is not `KEY=VALUE`")]
    #[case("id=a,src=f,env=B", "both `src` and `env`")]
    #[case("id=a,type=file,env=B", "is of type `file`")]
    #[case("id=a,type=vault", "`vault` is no type")]
    #[case("id=a,mode=1", "`mode` is not a key")]
    fn what_is_no_secret_is_refused(#[case] text: &str, #[case] message: &str) {
        let error = parse(text).unwrap_err().at(&Origin::Flag(SECRET)).to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn values_are_found_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, b"in the file\xff").unwrap();
        let environment = Environment::new([("TOKEN", "in the variable"), ("EMPTY", "")]);
        let typed = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let file_text = format!("id=file,src={}", file.display());
        let given = secrets(&typed(&["id=x,env=TOKEN", "id=TOKEN", &file_text]), &environment).unwrap();
        let values: Vec<_> = given.iter().map(|(id, value)| (id.as_str(), value.expose())).collect();
        let variable = b"in the variable".as_slice();
        assert_eq!(values, [("x", variable), ("TOKEN", variable), ("file", b"in the file\xff".as_slice())]);
        assert!(!format!("{given:?}").contains("in the"), "{given:?}");
        for (text, message) in
            [("id=x,env=EMPTY", "`EMPTY` is not set"), ("id=nowhere", "cannot read `nowhere`")]
        {
            let error = secrets(&typed(&[text]), &environment).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        std::fs::write(&file, vec![0; 600_000]).unwrap();
        let error = secrets(&typed(&[&file_text]), &environment).unwrap_err().to_string();
        assert!(error.contains("larger than 500 KiB"), "{error}");
    }

    #[test]
    fn an_agent_is_a_socket_or_has_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (file, socket) = (directory.path().join("id_ed25519"), directory.path().join("socket"));
        // Without the last line break, and with those of another system.
        std::fs::write(&file, example_key().replace('\n', "\r\n").trim_end()).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let with_agent = Environment::new([(AGENT, "/run/agent")]);
        let at = |path: &Path| Agent::Socket(path.to_owned());
        assert_eq!(
            agent("default", &with_agent).unwrap(),
            ("default".to_owned(), at(Path::new("/run/agent")))
        );
        assert_eq!(agent("git", &with_agent).unwrap().0, "git");
        let none = Environment::default();
        let named = format!("git={}", socket.display());
        assert_eq!(agent(&named, &none).unwrap(), ("git".to_owned(), at(&socket)));
        let absent = directory.path().join("absent");
        assert_eq!(
            agent(&format!("={}", absent.display()), &none).unwrap(),
            ("default".to_owned(), at(&absent))
        );
        let (_, found) = agent(&format!("git={}", file.display()), &none).unwrap();
        let Agent::Keys(keys) = &found else { panic!("{found:?}") };
        assert_eq!((keys.len(), keys[0].comment()), (1, "somebody"));
        let (_, two) = agent(&format!("git={0},{0}", file.display()), &none).unwrap();
        assert!(matches!(two, Agent::Keys(keys) if keys.len() == 2));
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).unwrap();
            path(name)
        };
        let (key, text) = (write("key", &example_key()), write("text", "ssh-ed25519 AAAA somebody\n"));
        let locked = write("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n");
        let cut = write("cut", &example_key().replace("AAAAE", "AAAAF"));
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for (text, message) in [
            ("default".to_owned(), "`SSH_AUTH_SOCK` is not set"),
            (format!("default={text}"), "there is no private key in it"),
            (format!("default={locked}"), "it has a passphrase"),
            (format!("default={cut}"), "the key in it is garbled"),
            (format!("default={key},{}", path("absent")), "cannot be read"),
            (format!("default={}", directory.path().display()), "cannot be read"),
            (format!("default={key},{}", path("socket")), "is a socket, and there is more"),
        ] {
            let error = agent(&text, &Environment::default()).unwrap_err().at(&Origin::Flag(SSH)).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
