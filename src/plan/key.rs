//! Keys of steps: equal inputs, equal key; any change of an input, another key.
//!
//! A key is a digest of fields, each with its name, and each name and value with its length in front, so that no two
//! lists of fields are written alike. The fields are kept beside the key: when a step is not found in the cache, they
//! tell what has changed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::checks::sounds_secret;
use super::operation::{Operation, Remote, Run, Source, Transfer};
use crate::dockerfile::{FileAttributes, Mount, Network};
use crate::image::{Digest, DigestError, Platform, Sha256};

/// Version of what goes into keys, and of what steps make of it. To be raised whenever either changes.
const VERSION: &str = "1";

/// Longest value that is kept beside a key as it is; of longer ones the digest is.
const SHORT: usize = 200;

/// The key of a step: what it does, and what it does it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Digest);

impl Key {
    /// The digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl FromStr for Key {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        format!("sha256:{text}").parse().map(Self)
    }
}

/// One field of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPart {
    /// What it is: `command`, `environment PATH`, `files`, …
    pub name: String,
    /// Its value, or the digest of a long one.
    pub value: String,
}

/// Puts a key together.
#[derive(Debug)]
pub struct KeyBuilder {
    hash: Sha256,
    parts: Vec<KeyPart>,
}

impl KeyBuilder {
    /// A key of a kind of thing, with no fields yet.
    pub fn new(kind: &str) -> Self {
        let mut builder = Self { hash: Sha256::new(), parts: Vec::new() };
        builder.hash_text(VERSION);
        builder.hash_text(kind);
        builder
    }

    /// Adds a field.
    pub fn field(&mut self, name: &str, value: &str) -> &mut Self {
        self.hash_text(name);
        self.hash_text(value);
        let value =
            if value.len() <= SHORT { value.to_owned() } else { Digest::of(value.as_bytes()).to_string() };
        self.parts.push(KeyPart { name: name.to_owned(), value });
        self
    }

    /// Adds a field whose value is for nobody to read: of it too the digest is kept.
    pub fn hidden(&mut self, name: &str, value: &str) -> &mut Self {
        self.hash_text(name);
        self.hash_text(value);
        let value = Digest::of(value.as_bytes()).to_string();
        self.parts.push(KeyPart { name: name.to_owned(), value });
        self
    }

    /// Adds the words of a list as one field.
    pub fn list<S: AsRef<str>>(&mut self, name: &str, words: &[S]) -> &mut Self {
        let mut value = String::new();
        for word in words {
            let word = word.as_ref();
            value.push_str(&format!("{}:{word} ", word.len()));
        }
        self.hash_text(name);
        self.hash_text(&value);
        let shown: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let shown = shown.join(" ");
        let value = if shown.len() <= SHORT { shown } else { Digest::of(value.as_bytes()).to_string() };
        self.parts.push(KeyPart { name: name.to_owned(), value });
        self
    }

    /// The key, and its fields.
    pub fn finish(self) -> (Key, Vec<KeyPart>) {
        (Key(self.hash.finish()), self.parts)
    }

    fn hash_text(&mut self, text: &str) {
        self.hash.update(&(text.len() as u64).to_le_bytes());
        self.hash.update(text.as_bytes());
    }
}

/// The key of a base that is an image, or nothing.
pub fn base(image: Option<&Digest>, platform: &Platform) -> Key {
    let mut builder = KeyBuilder::new("base");
    match image {
        Some(digest) => builder.field("image", &digest.to_string()),
        None => builder.field("image", "scratch").field("platform", &platform.to_string()),
    };
    builder.finish().0
}

/// The key of what layers come to, whatever made them: by their diff IDs, the lowest first.
pub fn layers(diff_ids: &[Digest]) -> Key {
    let mut builder = KeyBuilder::new("layers");
    let words: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
    builder.list("layers", &words);
    builder.finish().0
}

/// What a step depends on besides its own text.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The key of each thing that files are taken from, in the order of the operation: the digest of the files selected
    /// for COPY and ADD, the key of a stage, the digest of an image.
    pub sources: Vec<String>,
    /// How layers are written: the compressor's identity, the latest time.
    pub layer: String,
}

/// The key of a step, given that of what it is done to.
pub fn step(
    parent: &Key,
    operation: &Operation,
    platform: &Platform,
    inputs: &Inputs,
) -> (Key, Vec<KeyPart>) {
    let mut builder = KeyBuilder::new("step");
    match operation {
        Operation::Run(run) => run_fields(&mut builder, run),
        Operation::Transfer(transfer) => transfer_fields(&mut builder, transfer),
        Operation::MakeDirectory { path, user } => {
            builder.field("instruction", "WORKDIR").field("directory", path).field("owner", user);
        }
    }
    for source in &inputs.sources {
        builder.field("files", source);
    }
    builder
        .field("platform", &platform.to_string())
        .field("layer", &inputs.layer)
        .field("previous step", &parent.to_string());
    builder.finish()
}

fn run_fields(builder: &mut KeyBuilder, run: &Run) {
    builder.field("instruction", "RUN").list("command", &run.arguments);
    if let Some(script) = &run.script {
        builder.field("script", &script.content);
    }
    // Sorted: in which order ENV and ARG were written makes no difference to a program.
    let mut environment: Vec<&(String, String)> = run.environment.iter().collect();
    environment.sort();
    for (name, value) in environment {
        let field = format!("environment {name}");
        match sounds_secret(name) {
            true => builder.hidden(&field, value),
            false => builder.field(&field, value),
        };
    }
    builder.field("directory", &run.directory).field("user", &run.user);
    let network = match run.network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    };
    builder.field("network", network);
    for mount in &run.mounts {
        mount_fields(builder, &mount.mount);
    }
}

/// All that a mount says. Where its files come from is in the sources; of a secret neither the value nor whether there is one
/// is in a key, and of a cache not what it holds.
fn mount_fields(builder: &mut KeyBuilder, mount: &Mount) {
    let switch = |on: bool| if on { "yes" } else { "no" };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match mount {
        Mount::Bind { from, source, target, writable } => {
            builder.field("mount", "bind").field("mount target", target).field("mount source", source);
            builder
                .field("mount from elsewhere", switch(from.is_some()))
                .field("mount writable", switch(*writable));
        }
        Mount::Cache { id, from, source, target, read_only, sharing, file } => {
            builder.field("mount", "cache").field("mount target", target).field("mount source", source);
            builder.field("mount from elsewhere", switch(from.is_some())).field("mount id", &text(id));
            builder
                .field("mount read-only", switch(*read_only))
                .field("mount sharing", &format!("{sharing:?}"));
            file_fields(builder, file);
        }
        Mount::Tmpfs { target, size, read_only } => {
            let size = size.map(|size| size.to_string()).unwrap_or_default();
            builder.field("mount", "tmpfs").field("mount target", target).field("mount size", &size);
            builder.field("mount read-only", switch(*read_only));
        }
        Mount::Secret { id, target, env, required, file } => {
            builder.field("mount", "secret").field("mount id", id).field("mount target", &text(target));
            builder.field("mount variable", &text(env)).field("mount required", switch(*required));
            file_fields(builder, file);
        }
        Mount::Ssh { id, target, required, file } => {
            builder.field("mount", "ssh").field("mount id", id).field("mount target", &text(target));
            builder.field("mount required", switch(*required));
            file_fields(builder, file);
        }
    }
}

fn file_fields(builder: &mut KeyBuilder, file: &FileAttributes) {
    let FileAttributes { mode, uid, gid } = file;
    for (name, value) in [("mount mode", mode), ("mount uid", uid), ("mount gid", gid)] {
        builder.field(name, &value.map(|value| value.to_string()).unwrap_or_default());
    }
}

fn transfer_fields(builder: &mut KeyBuilder, transfer: &Transfer) {
    builder.field("instruction", transfer.name);
    builder.field("destination", &transfer.destination);
    let source = match &transfer.source {
        Source::Context => "context".to_owned(),
        Source::NamedContext(name) => format!("context {name}"),
        Source::Stage(_) => "stage".to_owned(),
        Source::Image(_) => "image".to_owned(),
    };
    builder.field("source", &source);
    let paths: Vec<&str> = transfer.paths.iter().map(|(path, _)| path.as_str()).collect();
    builder.list("paths", &paths);
    for remote in transfer.remotes.values() {
        // Of a repository its files say all, and they are among those that were selected.
        if let Remote::File { unpacks, .. } = remote {
            builder.field("unpack", if *unpacks { "yes" } else { "no" });
        }
    }
    for (name, content) in &transfer.inline {
        builder.field("inline file", name).field("content", content);
    }
    let text = |flag: &Option<(String, crate::dockerfile::Span)>| {
        flag.as_ref().map(|(text, _)| text.clone()).unwrap_or_default()
    };
    builder.field("--chown", &text(&transfer.chown)).field("--chmod", &text(&transfer.chmod));
    builder.list("--exclude", &transfer.exclude);
    builder.field("--parents", if transfer.parents { "yes" } else { "no" });
    builder.field("--link", if transfer.link { "yes" } else { "no" });
    builder.field("unpack", &format!("{:?}", transfer.unpack));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_lists_of_fields_never_have_one_key(
            a in prop::collection::vec((".{0,4}", ".{0,4}"), 0..4),
            b in prop::collection::vec((".{0,4}", ".{0,4}"), 0..4),
        ) {
            let key = |fields: &[(String, String)]| {
                let mut builder = KeyBuilder::new("test");
                for (name, value) in fields {
                    builder.field(name, value);
                }
                builder.finish().0
            };
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }

        #[test]
        fn two_lists_of_words_never_have_one_key(
            a in prop::collection::vec("[a: 1]{0,4}", 0..4),
            b in prop::collection::vec("[a: 1]{0,4}", 0..4),
        ) {
            let key = |words: &[String]| {
                let mut builder = KeyBuilder::new("test");
                builder.list("words", words);
                builder.finish().0
            };
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }

    #[test]
    fn every_word_of_a_mount_is_in_the_key() {
        use crate::dockerfile::Sharing;
        let file = FileAttributes::default();
        let (text, some) = (String::new, || Some("x".to_owned()));
        let cache = |id, from, source: &str, target: &str, read_only, sharing, file| {
            let (source, target) = (source.to_owned(), target.to_owned());
            Mount::Cache { id, from, source, target, read_only, sharing, file }
        };
        let bind = |from, source: &str, target: &str, writable| {
            let (source, target) = (source.to_owned(), target.to_owned());
            Mount::Bind { from, source, target, writable }
        };
        let secret = |id: &str, target, env, required, file| {
            let id = id.to_owned();
            Mount::Secret { id, target, env, required, file }
        };
        let ssh = |id: &str, target, required, file| Mount::Ssh { id: id.to_owned(), target, required, file };
        let (shared, mode) = (Sharing::Shared, FileAttributes { mode: Some(0), ..file });
        let owned = [FileAttributes { uid: Some(0), ..file }, FileAttributes { gid: Some(0), ..file }];
        let mounts = [
            bind(None, "", "", false),
            bind(some(), "", "", false),
            bind(None, "x", "", false),
            bind(None, "", "x", false),
            bind(None, "", "", true),
            cache(None, None, "", "", false, shared, file),
            cache(some(), None, "", "", false, shared, file),
            cache(None, some(), "", "", false, shared, file),
            cache(None, None, "x", "", false, shared, file),
            cache(None, None, "", "x", false, shared, file),
            cache(None, None, "", "", true, shared, file),
            cache(None, None, "", "", false, Sharing::Locked, file),
            cache(None, None, "", "", false, Sharing::Private, file),
            cache(None, None, "", "", false, shared, mode),
            cache(None, None, "", "", false, shared, owned[0]),
            cache(None, None, "", "", false, shared, owned[1]),
            Mount::Tmpfs { target: text(), size: None, read_only: false },
            Mount::Tmpfs { target: "x".to_owned(), size: None, read_only: false },
            Mount::Tmpfs { target: text(), size: Some(1), read_only: false },
            Mount::Tmpfs { target: text(), size: None, read_only: true },
            secret("", None, None, false, file),
            secret("x", None, None, false, file),
            secret("", some(), None, false, file),
            secret("", None, some(), false, file),
            secret("", None, None, true, file),
            secret("", None, None, false, mode),
            secret("", None, None, false, owned[0]),
            ssh("", None, false, file),
            ssh("x", None, false, file),
            ssh("", some(), false, file),
            ssh("", None, true, file),
            ssh("", None, false, mode),
            ssh("", None, false, owned[1]),
        ];
        let key = |mounts: &[&Mount]| {
            let mut builder = KeyBuilder::new("test");
            mounts.iter().for_each(|mount| mount_fields(&mut builder, mount));
            builder.finish().0
        };
        let mut keys: std::collections::BTreeSet<Key> = mounts.iter().map(|mount| key(&[mount])).collect();
        assert_eq!(keys.len(), mounts.len());
        // And so is their order.
        assert!(keys.insert(key(&[&mounts[0], &mounts[5]])) && keys.insert(key(&[&mounts[5], &mounts[0]])));
    }

    #[test]
    fn long_values_are_kept_as_digests() {
        let mut builder = KeyBuilder::new("test");
        builder.field("short", "value").field("long", &"x".repeat(1000));
        let (_, parts) = builder.finish();
        assert_eq!(parts[0].value, "value");
        assert!(parts[1].value.starts_with("sha256:"));
    }

    #[test]
    fn what_sounds_like_a_secret_is_hashed_as_ever_and_kept_as_a_digest() {
        let of = |add: &dyn Fn(&mut KeyBuilder)| {
            let mut builder = KeyBuilder::new("test");
            add(&mut builder);
            builder.finish()
        };
        let (open, _) = of(&|builder| {
            builder.field("environment TOKEN", "value");
        });
        let (hidden, parts) = of(&|builder| {
            builder.hidden("environment TOKEN", "value");
        });
        assert_eq!(hidden, open);
        assert_eq!(parts[0].value, Digest::of(b"value").to_string());
        for (name, is_secret) in
            [("NPM_TOKEN", true), ("apikey", true), ("TOKEN_FILE", false), ("MONKEY", false)]
        {
            assert_eq!(sounds_secret(name), is_secret, "{name}");
        }
    }
}
