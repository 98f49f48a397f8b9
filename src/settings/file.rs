//! The configuration file: TOML, in which every key is known or is an error that points at it.
//!
//! Paths in it are relative to its own directory. The first file that is there is read: the named one, the user's, the
//! system's.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::SettingsError;
use super::origin::{Given, Origin};
use super::variables;
use crate::dockerfile::{Diagnostic, Diagnostics, LineIndex, nearest};
use crate::registry::Environment;
use crate::report::Findings;

/// The system's file.
const SYSTEM: &str = "/etc/cofferdam/config.toml";
/// The user's, in the directory of configurations.
const USER: &str = "cofferdam/config.toml";

/// The keys of the file itself.
const KEYS: [&str; 15] = [
    "state-dir",
    "emulator-dir",
    "progress",
    "verbose",
    "parallel",
    "compression",
    "require-isolation",
    "no-cache",
    "no-cache-filter",
    "platform",
    "cache-repo",
    "cache-ttl",
    "state-limit",
    "registry-ca",
    "registry",
];
/// The keys of a registry.
const HOST_KEYS: [&str; 7] =
    ["mirrors", "fall-back", "insecure", "ca", "client-certificate", "client-key", "upload"];

/// What the configuration file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    pub(super) state_dir: Option<Given<PathBuf>>,
    pub(super) emulator_dir: Option<Given<PathBuf>>,
    pub(super) progress: Option<Given<String>>,
    pub(super) verbose: Option<Given<bool>>,
    pub(super) parallel: Option<Given<String>>,
    pub(super) compression: Option<Given<String>>,
    pub(super) require_isolation: Option<Given<bool>>,
    pub(super) no_cache: Option<Given<bool>>,
    pub(super) no_cache_filter: Option<Given<String>>,
    pub(super) platform: Option<Given<String>>,
    pub(super) cache_repo: Option<Given<String>>,
    pub(super) cache_ttl: Option<Given<String>>,
    pub(super) state_limit: Option<Given<String>>,
    pub(super) registry_ca: Vec<Given<PathBuf>>,
    pub(super) registries: Vec<(String, HostSection)>,
}

/// `[registry."HOST"]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostSection {
    pub mirrors: Option<Given<Vec<String>>>,
    pub fall_back: Option<Given<bool>>,
    pub insecure: Option<Given<bool>>,
    pub ca: Vec<Given<PathBuf>>,
    pub client_certificate: Option<Given<PathBuf>>,
    pub client_key: Option<Given<PathBuf>>,
    pub upload: Option<Given<String>>,
}

impl HostSection {
    /// Where something stands that is about the host itself and not about mirrors of it.
    pub fn any_about_host(&self) -> Option<&Origin> {
        let insecure = self.insecure.as_ref().map(|given| &given.origin);
        let ca = self.ca.first().map(|given| &given.origin);
        let certificate = self.client_certificate.as_ref().map(|given| &given.origin);
        let upload = self.upload.as_ref().map(|given| &given.origin);
        insecure.or(ca).or(certificate).or(upload)
    }
}

impl ConfigFile {
    /// Reads the file that `named` or `COFFERDAM_CONFIG` names, or else the first of the usual places that has one.
    ///
    /// # Errors
    /// If a file that is named cannot be read, or the file is wrong.
    pub fn find(named: Option<&Path>, environment: &Environment) -> Result<Self, SettingsError> {
        let flag = named.map(|path| (path.to_owned(), Origin::Flag("--config")));
        let variable =
            || environment.path(variables::CONFIG).map(|path| (path, Origin::Variable(variables::CONFIG)));
        if let Some((path, origin)) = flag.or_else(variable) {
            return match std::fs::read_to_string(&path) {
                Ok(text) => Self::parse(&path, &text),
                Err(source) => Err(SettingsError::File { path, origin, source }),
            };
        }
        let user = environment.path(variables::XDG_CONFIG_HOME);
        let user = user.or_else(|| environment.home().map(|home| home.join(".config")));
        for path in user.map(|directory| directory.join(USER)).into_iter().chain([PathBuf::from(SYSTEM)]) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&path, &text),
                Err(error) if is_not_there(&error) => {}
                Err(source) => return Err(SettingsError::File { path, origin: Origin::Default, source }),
            }
        }
        Ok(Self::default())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        let wrong = |list: Vec<Diagnostic>| {
            SettingsError::Config(Box::new(Findings::new(name.clone(), text, Diagnostics(list))))
        };
        let table = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            wrong(vec![Diagnostic::error(error.message().trim(), span.into())])
        })?;
        let mut reader = Reader { path, lines: LineIndex::new(text), findings: Vec::new() };
        let mut file = reader.file(table.get_ref());
        if !reader.findings.is_empty() {
            reader.findings.sort_by_key(|finding| finding.span().start);
            return Err(wrong(reader.findings));
        }
        file.path = Some(path.to_owned());
        Ok(file)
    }
}

/// Whether a file that nobody named is to be passed over. A pod's user often has the home directory of another.
fn is_not_there(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// A key in the file: its name with the tables around it, and its value.
struct Entry<'a> {
    key: String,
    value: &'a Spanned<DeValue<'a>>,
}

struct Reader<'a> {
    path: &'a Path,
    lines: LineIndex<'a>,
    findings: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn file(&mut self, table: &DeTable<'_>) -> ConfigFile {
        let mut file = ConfigFile::default();
        for (key, value) in table {
            let entry = Entry { key: key.get_ref().to_string(), value };
            match entry.key.as_str() {
                "state-dir" => file.state_dir = self.path(&entry),
                "emulator-dir" => file.emulator_dir = self.path(&entry),
                "progress" => file.progress = self.text(&entry),
                "verbose" => file.verbose = self.switch(&entry),
                "parallel" => file.parallel = self.number(&entry),
                "compression" => file.compression = self.text(&entry),
                "require-isolation" => file.require_isolation = self.switch(&entry),
                "no-cache" => file.no_cache = self.switch(&entry),
                "no-cache-filter" => file.no_cache_filter = self.text(&entry),
                "platform" => file.platform = self.text(&entry),
                "cache-repo" => file.cache_repo = self.text(&entry),
                "cache-ttl" => file.cache_ttl = self.text(&entry),
                "state-limit" => file.state_limit = self.text(&entry),
                "registry-ca" => file.registry_ca = self.paths(&entry),
                "registry" => file.registries = self.registries(&entry),
                _ => self.unknown(key.span(), &entry.key, &KEYS),
            }
        }
        file
    }

    fn registries(&mut self, entry: &Entry<'_>) -> Vec<(String, HostSection)> {
        let DeValue::Table(table) = entry.value.get_ref() else {
            self.wrong::<()>(entry, "a table of registries, such as `[registry.\"docker.io\"]`");
            return Vec::new();
        };
        let mut registries = Vec::new();
        for (name, value) in table {
            let host = name.get_ref();
            let entry = Entry { key: format!("registry.\"{host}\""), value };
            let DeValue::Table(section) = value.get_ref() else {
                self.wrong::<()>(&entry, "a table");
                continue;
            };
            // `[registry.docker.io]` is a table `io` in a table `docker`.
            if let Some((inner, _)) =
                section.iter().find(|(_, value)| matches!(value.get_ref(), DeValue::Table(_)))
            {
                let (host, inner_name) = (host.to_string(), inner.get_ref().to_string());
                let finding =
                    Diagnostic::error("a host with a dot in its name must be quoted", inner.span().into());
                self.findings.push(finding.hint(format!("write `[registry.\"{host}.{inner_name}\"]`")));
                continue;
            }
            let section = self.section(&entry.key, section);
            registries.push((host.to_string(), section));
        }
        registries
    }

    fn section(&mut self, name: &str, table: &DeTable<'_>) -> HostSection {
        let mut section = HostSection::default();
        for (key, value) in table {
            let entry = Entry { key: format!("{name}.{}", key.get_ref()), value };
            match key.get_ref().as_ref() {
                "mirrors" => section.mirrors = self.texts(&entry),
                "fall-back" => section.fall_back = self.switch(&entry),
                "insecure" => section.insecure = self.switch(&entry),
                "ca" => section.ca = self.paths(&entry),
                "client-certificate" => section.client_certificate = self.path(&entry),
                "client-key" => section.client_key = self.path(&entry),
                "upload" => section.upload = self.text(&entry),
                other => self.unknown(key.span(), other, &HOST_KEYS),
            }
        }
        section
    }

    fn given<T>(&self, entry: &Entry<'_>, value: T) -> Given<T> {
        let line = self.lines.line(entry.value.span().start);
        Given::new(value, Origin::File { path: self.path.to_owned(), line, key: entry.key.clone() })
    }

    fn text(&mut self, entry: &Entry<'_>) -> Option<Given<String>> {
        match entry.value.get_ref() {
            DeValue::String(text) => Some(self.given(entry, text.to_string())),
            _ => self.wrong(entry, "a text in quotes"),
        }
    }

    fn switch(&mut self, entry: &Entry<'_>) -> Option<Given<bool>> {
        match entry.value.get_ref() {
            DeValue::Boolean(on) => Some(self.given(entry, *on)),
            _ => self.wrong(entry, "`true` or `false`"),
        }
    }

    fn number(&mut self, entry: &Entry<'_>) -> Option<Given<String>> {
        match entry.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => {
                Some(self.given(entry, number.as_str().to_owned()))
            }
            _ => self.wrong(entry, "a number"),
        }
    }

    fn path(&mut self, entry: &Entry<'_>) -> Option<Given<PathBuf>> {
        match entry.value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(self.given(entry, self.relative(text))),
            _ => self.wrong(entry, "a path in quotes"),
        }
    }

    /// A path, or a list of paths.
    fn paths(&mut self, entry: &Entry<'_>) -> Vec<Given<PathBuf>> {
        match entry.value.get_ref() {
            DeValue::Array(_) => self.texts(entry).map_or_else(Vec::new, |texts| {
                texts.value.iter().map(|text| Given::new(self.relative(text), texts.origin.clone())).collect()
            }),
            _ => self.path(entry).into_iter().collect(),
        }
    }

    fn texts(&mut self, entry: &Entry<'_>) -> Option<Given<Vec<String>>> {
        const EXPECTED: &str = "a list of texts, such as `[\"a\", \"b\"]`";
        let DeValue::Array(array) = entry.value.get_ref() else {
            return self.wrong(entry, EXPECTED);
        };
        let texts = array.iter().map(|value| match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text.to_string()),
            _ => None,
        });
        match texts.collect::<Option<Vec<String>>>() {
            Some(texts) => Some(self.given(entry, texts)),
            None => self.wrong(entry, EXPECTED),
        }
    }

    fn relative(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn wrong<T>(&mut self, entry: &Entry<'_>, expected: &str) -> Option<T> {
        let message = format!("`{}` must be {expected}", entry.key);
        self.findings.push(Diagnostic::error(message, entry.value.span().into()));
        None
    }

    fn unknown(&mut self, span: Range<usize>, key: &str, known: &[&'static str]) {
        let finding = Diagnostic::error(format!("there is no setting `{key}`"), span.into());
        // `state_dir` is what those write who know other files.
        let meant = nearest(&key.replace('_', "-"), known.iter().copied());
        self.findings.push(finding.maybe_hint(meant.map(|meant| format!("did you mean `{meant}`?"))));
    }
}
