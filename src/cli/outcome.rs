//! What a command has done in a cluster: lines as it goes, or one document at the end, which is written if the command
//! has failed or was cancelled too, and then says why.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::arguments::{Format, FormatArgs};
use super::error::{CliError, Scene};
use super::stdout;
use crate::deploy::object::ObjectId;
use crate::report::{Failure, redact};

/// What became of an object.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    action: &'static str,
}

impl Row {
    pub(super) fn new(id: &ObjectId, action: &'static str) -> Self {
        let ObjectId { kind, namespace, name } = id;
        Self { kind: kind.to_string(), namespace: namespace.clone(), name: name.clone(), action }
    }

    /// `deployment.apps/web configured`
    fn line(&self) -> String {
        format!("{}/{} {}\n", self.kind, self.name, self.action)
    }
}

/// The document.
#[derive(Debug, Serialize)]
struct Document<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    objects: Vec<T>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pruned: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rolled_back: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

/// What a command has come to so far. Objects are `T`.
#[derive(Debug)]
pub(super) struct Outcome<T = Row> {
    format: Format,
    document: Mutex<Document<T>>,
}

impl<T: Serialize> Outcome<T> {
    pub(super) fn new(form: &FormatArgs) -> Self {
        let document = Document {
            server: None,
            name: None,
            dry_run: None,
            objects: Vec::new(),
            pruned: Vec::new(),
            rolled_back: Vec::new(),
            failure: None,
        };
        Self { format: form.format, document: Mutex::new(document) }
    }

    fn document(&self) -> MutexGuard<'_, Document<T>> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which cluster it is, and which deployment of it.
    pub(super) fn place(&self, server: &str, name: Option<&str>) {
        let mut document = self.document();
        document.server = Some(server.to_owned());
        document.name = name.map(str::to_owned);
    }

    /// Whether nothing is done for good.
    pub(super) fn is_dry(&self, dry_run: bool) {
        self.document().dry_run = Some(dry_run);
    }

    /// An object is through; `line` tells so to people.
    pub(super) fn object(&self, object: T, line: &str) {
        if self.format == Format::Text {
            // Who does not read on is told by the write of the end.
            let _ = stdout::write(line);
        }
        self.document().objects.push(object);
    }

    /// An object that was no part of it any more.
    pub(super) fn pruned(&self, row: Row) {
        if self.format == Format::Text {
            let _ = stdout::write(&row.line());
        }
        self.document().pruned.push(row);
    }

    /// A workload that was taken back.
    pub(super) fn rolled_back(&self, row: Row) {
        self.document().rolled_back.push(row);
    }

    /// Ends with `result`, and writes the document if it was asked for.
    ///
    /// # Errors
    /// That of `result`; or if the document cannot be written.
    pub(super) fn end(self, result: Result<(), CliError>) -> Result<(), CliError> {
        if self.format == Format::Text {
            return result;
        }
        let mut document = self.document.into_inner().unwrap_or_else(PoisonError::into_inner);
        document.failure = match &result {
            // It is no failure: the objects say it.
            Ok(()) | Err(CliError::Differs) => None,
            Err(error) => Some(shown(error)),
        };
        let written = stdout::write_json(&document);
        // Why the command has failed comes before that nobody could be told.
        result.and(written)
    }
}

impl Outcome<Row> {
    /// An object is through.
    pub(super) fn row(&self, row: Row) {
        let line = row.line();
        self.object(row, &line);
    }
}

/// As the report tells it, without passwords of addresses.
fn shown(error: &CliError) -> Failure {
    let Failure { message, causes, hints, source, kind } = error.failure(Scene::default());
    let hidden = |texts: Vec<String>| texts.iter().map(|text| redact(text).into_owned()).collect();
    Failure {
        message: redact(&message).into_owned(),
        causes: hidden(causes),
        hints: hidden(hints),
        source,
        kind,
    }
}
