//! `RUN --mount=…`: the five kinds of mounts.
//!
//! The values may hold variables, `type` included, so a mount is understood in two steps: [`MountFlag`] is what was
//! written, [`MountFlag::resolve`] makes a [`Mount`] of it once the planner can expand words.
//!
//! Keys are read in order, as in BuildKit: `size` and `required` must stand behind the `type` they belong to, and
//! of a key that is given twice the last one counts.

use super::diagnostic::{Diagnostic, quote};
use super::directives::parse_bool;
use super::expand::{Escape, Word};
use super::head::Mapped;
use super::line::LogicalLine;
use super::span::{Span, Spanned};
use super::suggest::nearest;
use super::values;

/// A mount as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The whole value of the flag.
    pub span: Span,
    /// Its fields, in order.
    pub fields: Vec<MountField>,
    /// `from`: a stage's name, a named context or an image. Never expanded, so that stages depend on each other by
    /// what is written.
    pub from: Option<Spanned<String>>,
}

/// One `key=value` of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// The key in lower case.
    pub key: Spanned<String>,
    /// The value; none for a key alone (`ro`).
    pub value: Option<Word>,
    /// The whole field.
    pub span: Span,
}

/// A mount, understood.
///
/// A `target` is as it was written: relative ones are relative to the working directory, and one that is empty is the
/// working directory itself. A `source` is a path within what is mounted, its root if it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// `type=bind`: files of the context, a stage or an image.
    Bind {
        /// Where the files come from; none for the context.
        from: Option<String>,
        /// Which of them.
        source: String,
        /// Where they are seen.
        target: String,
        /// Whether the step may write; what it writes is thrown away.
        writable: bool,
    },
    /// `type=cache`: a directory that outlives the build.
    Cache {
        /// Its name; none for the cleaned target.
        id: Option<String>,
        /// Where its first content comes from; none for nothing.
        from: Option<String>,
        /// Which part of that.
        source: String,
        /// Where it is seen.
        target: String,
        /// Whether the step may only read.
        read_only: bool,
        /// Who else may use it at the same time.
        sharing: Sharing,
        /// How the directory is made.
        file: FileAttributes,
    },
    /// `type=tmpfs`: an empty directory that the step leaves nothing of.
    Tmpfs {
        /// Where it is seen.
        target: String,
        /// How many bytes it may hold.
        size: Option<u64>,
        /// Whether the step may only read, and so find nothing.
        read_only: bool,
    },
    /// `type=secret`: something the step may know and the image may not.
    Secret {
        /// Its name.
        id: String,
        /// The file it is seen as; none where it is an environment variable only.
        target: Option<String>,
        /// The environment variable it is seen as.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// How the file is made; mode 0400, root's, unless it says otherwise.
        file: FileAttributes,
    },
    /// `type=ssh`: an SSH agent.
    Ssh {
        /// Its name, `default` if none is given.
        id: String,
        /// The socket it is seen as; none for the usual one.
        target: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// How the socket is made; mode 0600, root's, unless it says otherwise.
        file: FileAttributes,
    },
}

/// Mode and owner of a file, each none for its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileAttributes {
    /// Its mode.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One each: a second user gets another directory.
    Private,
    /// One after the other.
    Locked,
}

/// A mount and what its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The mount.
    pub mount: Mount,
    /// Keys that are given and mean nothing for this kind of mount.
    pub warnings: Vec<Diagnostic>,
}

/// The kinds, as they are written.
const KINDS: [(&str, Kind); 5] = [
    ("bind", Kind::Bind),
    ("cache", Kind::Cache),
    ("tmpfs", Kind::Tmpfs),
    ("secret", Kind::Secret),
    ("ssh", Kind::Ssh),
];

const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether a key (by its main name) means something here. What must not be given at all is an error elsewhere.
    fn knows(self, key: &str) -> bool {
        match key {
            "id" => matches!(self, Self::Cache | Self::Secret | Self::Ssh),
            "from" => matches!(self, Self::Bind | Self::Cache),
            "env" => self == Self::Secret,
            "writable" => matches!(self, Self::Bind | Self::Cache | Self::Tmpfs),
            _ => true,
        }
    }
}

/// What the fields said so far, each with its place.
#[derive(Default)]
struct Fields {
    kind: Option<Kind>,
    source: Option<Spanned<String>>,
    target: Option<Spanned<String>>,
    writable: Option<Spanned<bool>>,
    required: bool,
    size: Option<u64>,
    id: Option<Spanned<String>>,
    sharing: Option<Spanned<Sharing>>,
    env: Option<Spanned<String>>,
    mode: Option<Spanned<u32>>,
    uid: Option<Spanned<u32>>,
    gid: Option<Spanned<u32>>,
}

impl MountFlag {
    /// Reads the value of the flag.
    pub(super) fn parse(value: &Mapped, line: &LogicalLine, escape: Escape) -> Result<Self, Diagnostic> {
        let span = value.span(line);
        let mut fields = Vec::new();
        let mut from = None;
        for field in comma_separated(value, line)? {
            let place = field.span(line);
            let (key, value) = match field.text.find('=') {
                Some(at) => (field.part(0..at), Some(field.part(at + 1..field.text.len()))),
                None => (field, None),
            };
            let key = Spanned::new(key.text.to_lowercase(), key.span(line));
            if let Some(value) = value.as_ref().filter(|_| key.value == "from") {
                let dollar = value.text.find('$').filter(|at| at + 1 < value.text.len());
                if let Some(at) = dollar {
                    let place = value.part(at..value.text.len()).span(line);
                    let finding = Diagnostic::error("`from` of a mount cannot hold a variable", place);
                    let hint = "name the image with `FROM $VARIABLE AS name` and write `from=name`";
                    return Err(finding.hint(hint));
                }
                from = Some(value.spanned(line)).filter(|from| !from.value.is_empty());
            }
            let value = value.map(|value| value.word(line, escape));
            fields.push(MountField { key, value, span: place });
        }
        Ok(Self { span, fields, from })
    }

    /// Makes a mount of the flag; `expand` gives the values of its words.
    ///
    /// # Errors
    /// What `expand` says; an unknown key, a value that its key cannot have, keys that exclude each other.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&Word) -> Result<String, Diagnostic>,
    ) -> Result<Resolved, Diagnostic> {
        let mut found = Fields::default();
        for field in &self.fields {
            match &field.value {
                None => found.switch(field)?,
                Some(word) => {
                    let value = expand(word)?;
                    found.set(field, value, word.span)?;
                }
            }
        }
        let kind = found.kind.unwrap_or(Kind::Bind);
        self.check(kind, &found)?;
        let warnings = self.idle_keys(kind, &found);
        Ok(Resolved { mount: self.mount(kind, found)?, warnings })
    }

    /// Keys that must not stand together.
    fn check(&self, kind: Kind, found: &Fields) -> Result<(), Diagnostic> {
        let attributes = [("mode", &found.mode), ("uid", &found.uid), ("gid", &found.gid)];
        if matches!(kind, Kind::Bind | Kind::Tmpfs) {
            for (key, value) in attributes {
                if let Some(value) = value {
                    return refuse(kind, key, value.span);
                }
            }
        }
        if let Some(sharing) = found.sharing.filter(|_| kind != Kind::Cache) {
            return refuse(kind, "sharing", sharing.span);
        }
        let filled = |value: &Option<Spanned<String>>| value.clone().filter(|it| !it.value.is_empty());
        match (kind, &self.from, filled(&found.source), filled(&found.id)) {
            (Kind::Secret, Some(from), ..) => refuse(kind, "from", self.field("from").unwrap_or(from.span)),
            (Kind::Secret, _, Some(source), Some(id)) => {
                let finding = Diagnostic::error("a secret has either `id` or `source`", source.span);
                Err(finding.context(id.span, "`id` is given here"))
            }
            // BuildKit looks for the source in the empty directory, and the step fails.
            (Kind::Ssh | Kind::Tmpfs, _, Some(source), _) => refuse(kind, "source", source.span),
            _ => Ok(()),
        }
    }

    /// A warning for each key that means nothing here.
    fn idle_keys(&self, kind: Kind, found: &Fields) -> Vec<Diagnostic> {
        let written: [(&str, Option<Span>); 4] = [
            ("id", found.id.as_ref().map(|it| it.span)),
            ("from", self.from.as_ref().and(self.field("from"))),
            ("env", found.env.as_ref().map(|it| it.span)),
            // That a secret is read-only needs no saying, but says nothing wrong.
            ("writable", found.writable.filter(|it| it.value).map(|it| it.span)),
        ];
        written
            .into_iter()
            .filter(|(key, _)| !kind.knows(key))
            .filter_map(|(key, span)| {
                let key = if key == "writable" { "rw" } else { key };
                let message = format!("`{key}` means nothing for a mount of type `{}`", kind.name());
                Some(Diagnostic::warning(message, span?).label("has no effect"))
            })
            .collect()
    }

    /// The place of the last field with this key.
    fn field(&self, key: &str) -> Option<Span> {
        self.fields.iter().rev().find(|field| field.key.value == key).map(|field| field.span)
    }

    fn mount(&self, kind: Kind, found: Fields) -> Result<Mount, Diagnostic> {
        let text = |value: Option<Spanned<String>>| value.map(|it| it.value).filter(|it| !it.is_empty());
        let from = self.from.as_ref().map(|from| from.value.clone());
        let value = |number: Option<Spanned<u32>>| number.map(|it| it.value);
        let file = FileAttributes { mode: value(found.mode), uid: value(found.uid), gid: value(found.gid) };
        let source = text(found.source);
        let target = text(found.target);
        let id = text(found.id);
        let writable = found.writable.map(|it| it.value);
        let target_or_here = target.clone().unwrap_or_default();
        Ok(match kind {
            Kind::Bind => Mount::Bind {
                from,
                source: source.unwrap_or_default(),
                target: target_or_here,
                writable: writable.unwrap_or(false),
            },
            Kind::Cache => Mount::Cache {
                id,
                from,
                source: source.unwrap_or_default(),
                target: target_or_here,
                read_only: !writable.unwrap_or(true),
                sharing: found.sharing.map(|it| it.value).unwrap_or_default(),
                file,
            },
            Kind::Tmpfs => Mount::Tmpfs {
                target: target_or_here,
                size: found.size.filter(|&size| size > 0),
                read_only: !writable.unwrap_or(true),
            },
            Kind::Secret => self.secret(source.or(id), target, found.env, found.required, file)?,
            Kind::Ssh => Mount::Ssh {
                id: id.unwrap_or_else(|| "default".to_owned()),
                target,
                required: found.required,
                file,
            },
        })
    }

    fn secret(
        &self,
        id: Option<String>,
        target: Option<String>,
        env: Option<Spanned<String>>,
        required: bool,
        file: FileAttributes,
    ) -> Result<Mount, Diagnostic> {
        if let Some(env) = env.as_ref().filter(|env| env.value.is_empty()) {
            let finding = Diagnostic::error("`env` of a secret names no variable", env.span);
            return Err(finding.hint("write `env=NAME`"));
        }
        let Some(id) = id.or_else(|| target.as_deref().map(|target| base_name(target).to_owned())) else {
            let finding = Diagnostic::error("the secret has no name", self.span);
            return Err(finding.hint("write `id=NAME`, the name given with `--secret`"));
        };
        let target = match (target, &env) {
            (None, None) => Some(format!("/run/secrets/{}", base_name(&id))),
            (target, _) => target,
        };
        Ok(Mount::Secret { id, target, env: env.map(|it| it.value), required, file })
    }
}

impl Fields {
    /// A key without a value.
    fn switch(&mut self, field: &MountField) -> Result<(), Diagnostic> {
        match field.key.value.as_str() {
            "readonly" | "ro" => self.writable = Some(Spanned::new(false, field.span)),
            "readwrite" | "rw" => self.writable = Some(Spanned::new(true, field.span)),
            "required" => self.require(true, field)?,
            "" => {
                let finding = Diagnostic::error("a field of the mount is empty", field.span);
                return Err(finding.hint("remove the comma"));
            }
            key if KEYS.contains(&key) => {
                let finding = Diagnostic::error(format!("`{key}` of the mount has no value"), field.span);
                return Err(finding.hint(format!("write `{key}=…`")));
            }
            _ => return Err(unknown(field)),
        }
        Ok(())
    }

    fn set(&mut self, field: &MountField, value: String, place: Span) -> Result<(), Diagnostic> {
        let key = field.key.value.as_str();
        match key {
            "type" => self.kind = Some(choose(key, &value, place, &KINDS)?),
            "from" => {}
            "source" | "src" => self.source = Some(Spanned::new(value, field.span)),
            "target" | "dst" | "destination" => self.target = Some(Spanned::new(value, field.span)),
            "readonly" | "ro" => {
                self.writable = Some(Spanned::new(!boolean(key, &value, place)?, field.span))
            }
            "readwrite" | "rw" => {
                self.writable = Some(Spanned::new(boolean(key, &value, place)?, field.span))
            }
            "required" => self.require(boolean(key, &value, place)?, field)?,
            "size" if self.kind == Some(Kind::Tmpfs) => match values::size(&value) {
                Some(size) => self.size = Some(size),
                None => return wrong(key, &value, place, "a number of bytes such as `64m` or `1g`"),
            },
            "size" => return Err(self.too_early(field, Kind::Tmpfs)),
            "id" => self.id = Some(Spanned::new(value, field.span)),
            "sharing" => {
                self.sharing = Some(Spanned::new(choose(key, &value, place, &SHARINGS)?, field.span))
            }
            "mode" => {
                self.mode = Some(Spanned::new(
                    number(key, &value, place, 8, "an octal mode such as `0644`")?,
                    field.span,
                ))
            }
            "uid" => {
                self.uid =
                    Some(Spanned::new(number(key, &value, place, 10, "the number of a user")?, field.span))
            }
            "gid" => {
                self.gid =
                    Some(Spanned::new(number(key, &value, place, 10, "the number of a group")?, field.span))
            }
            "env" => self.env = Some(Spanned::new(value, field.span)),
            _ => return Err(unknown(field)),
        }
        Ok(())
    }

    fn require(&mut self, required: bool, field: &MountField) -> Result<(), Diagnostic> {
        if !matches!(self.kind, Some(Kind::Secret | Kind::Ssh)) {
            return Err(self.too_early(field, Kind::Secret));
        }
        self.required = required;
        Ok(())
    }

    /// `field` belongs to mounts of `wanted`, and this one is not, or not yet.
    fn too_early(&self, field: &MountField, wanted: Kind) -> Diagnostic {
        let key = &field.key.value;
        let kind = self.kind.unwrap_or(Kind::Bind);
        let finding = Diagnostic::error(
            format!("`{key}` cannot be given for a mount of type `{}`", kind.name()),
            field.span,
        );
        match self.kind {
            None => finding.hint(format!("write `type={}` before `{key}`", wanted.name())),
            Some(_) => finding,
        }
    }
}

fn refuse(kind: Kind, key: &str, place: Span) -> Result<(), Diagnostic> {
    let message = format!("`{key}` cannot be given for a mount of type `{}`", kind.name());
    Err(Diagnostic::error(message, place))
}

fn unknown(field: &MountField) -> Diagnostic {
    let key = &field.key;
    let finding = Diagnostic::error(format!("{} is not a key of a mount", quote(&key.value)), key.span);
    let hint = nearest(&key.value, KEYS).map(|key| format!("did you mean `{key}`?"));
    finding.maybe_hint(hint)
}

fn wrong<T>(key: &str, value: &str, place: Span, expected: &str) -> Result<T, Diagnostic> {
    let message = format!("`{key}` of the mount cannot be {}", quote(value));
    Err(Diagnostic::error(message, place).hint(format!("it is {expected}")))
}

fn boolean(key: &str, value: &str, place: Span) -> Result<bool, Diagnostic> {
    parse_bool(value).map_or_else(|| wrong(key, value, place, "`true` or `false`"), Ok)
}

fn number(key: &str, value: &str, place: Span, base: u32, expected: &str) -> Result<u32, Diagnostic> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(value, base) {
        Ok(number) if digits => Ok(number),
        _ => wrong(key, value, place, expected),
    }
}

fn choose<T: Copy>(key: &str, value: &str, place: Span, choices: &[(&str, T)]) -> Result<T, Diagnostic> {
    let lower = value.to_lowercase();
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == lower) {
        return Ok(*choice);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let message = format!("`{key}` of the mount cannot be {}", quote(value));
    let hint = match nearest(value, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("it is one of `{}`", names.join("`, `")),
    };
    Err(Diagnostic::error(message, place).hint(hint))
}

/// The last part of a path, as Go's `path.Base`.
fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// The fields of a line of comma-separated values: a field may stand in double quotes, where `""` is a quote.
pub(super) fn comma_separated(value: &Mapped, line: &LogicalLine) -> Result<Vec<Mapped>, Diagnostic> {
    let wrong = |message: &str, at: usize| {
        let place = value.part(at..value.text.len()).span(line);
        Err(Diagnostic::error(message, place))
    };
    if value.text.is_empty() {
        return wrong("the flag has an empty value", 0);
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = value.text.get(at..).unwrap_or("");
        let (field, end) = if rest.starts_with('"') {
            let Some((field, end)) = quoted(value, at) else {
                return wrong("the quote around a field is not closed", at);
            };
            (field, end)
        } else {
            let end = at + rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest.get(..end - at).and_then(|field| field.find('"')) {
                return wrong("a quote within a field: quotes stand around a whole field", at + quote);
            }
            (value.part(at..end), end)
        };
        fields.push(field);
        match value.text.get(end..).and_then(|rest| rest.chars().next()) {
            None => return Ok(fields),
            Some(',') => at = end + 1,
            Some(_) => return wrong("text behind a field in quotes: quotes stand around a whole field", end),
        }
    }
}

/// The quoted field that begins at `start`, and where its closing quote ends.
fn quoted(value: &Mapped, start: usize) -> Option<(Mapped, usize)> {
    let mut field = value.part(start + 1..start + 1);
    let mut at = start + 1;
    loop {
        let end = at + value.text.get(at..)?.find('"')?;
        field = field.followed_by(&value.part(at..end));
        if !value.text.get(end + 1..)?.starts_with('"') {
            return Some((field, end + 1));
        }
        field = field.followed_by(&value.part(end..end + 1));
        at = end + 2;
    }
}
