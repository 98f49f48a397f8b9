//! The handle that whoever has something to tell is given.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Reporter;
use super::event::{Direction, Event, Outcome, OutputBytes, Step, StepFailure, Stream, TransferStarted};
use super::redact::redact_event;
use crate::image::Digest;

/// A reporter, shared. Clones are the same one.
#[derive(Clone)]
pub struct Report {
    inner: Arc<Inner>,
}

struct Inner {
    reporter: Box<dyn Reporter>,
    transfers: AtomicU64,
    ended: AtomicBool,
}

impl Report {
    /// The handle of `reporter`.
    pub fn new(reporter: impl Reporter + 'static) -> Self {
        Self::boxed(Box::new(reporter))
    }

    /// The same for a reporter whose kind is known only now.
    pub fn boxed(reporter: Box<dyn Reporter>) -> Self {
        Self {
            inner: Arc::new(Inner { reporter, transfers: AtomicU64::new(0), ended: AtomicBool::new(false) }),
        }
    }

    /// Tells of an event. Passwords in addresses are hidden here.
    pub fn event(&self, mut event: Event) {
        // What threads that are being given up still have to say is not worth a line behind the last.
        if self.inner.ended.load(Ordering::Acquire) {
            return;
        }
        if matches!(event, Event::Ended { .. }) {
            self.inner.ended.store(true, Ordering::Release);
        }
        redact_event(&mut event);
        self.inner.reporter.event(event);
    }

    /// Tells something worth knowing.
    pub fn note(&self, text: impl Into<String>) {
        self.event(Event::Note { text: text.into() });
    }

    /// Warns.
    pub fn warn(&self, text: impl Into<String>) {
        self.event(Event::Warning { text: text.into(), hint: None });
    }

    /// Warns, and says what to do about it.
    pub fn warn_with(&self, text: impl Into<String>, hint: impl Into<String>) {
        self.event(Event::Warning { text: text.into(), hint: Some(hint.into()) });
    }

    /// Tells that a step is being executed. What is returned tells of its end.
    pub fn step(&self, step: Step) -> LiveStep {
        let id = step.id;
        self.event(Event::StepStarted(step));
        LiveStep { report: self.clone(), id, ended: false }
    }

    /// Tells that bytes are to be moved: those of `digest`, if it is known. What is returned tells of its progress and end.
    pub fn transfer(
        &self,
        direction: Direction,
        step: Option<u32>,
        digest: impl Into<Option<Digest>>,
        what: impl Into<String>,
        total: Option<u64>,
    ) -> Transfer {
        let digest = digest.into();
        let transfer = self.inner.transfers.fetch_add(1, Ordering::Relaxed) + 1;
        let started = TransferStarted { transfer, direction, step, digest, what: what.into(), total };
        self.event(Event::TransferStarted(started));
        Transfer { report: self.clone(), id: transfer, ended: false }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Report").field(&self.inner.reporter).finish()
    }
}

/// A step that is being executed. Dropped without a word it counts as cancelled.
#[derive(Debug)]
pub struct LiveStep {
    report: Report,
    id: u32,
    ended: bool,
}

impl LiveStep {
    /// The step's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The step has written something.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        let bytes = OutputBytes(bytes.to_vec());
        self.report.event(Event::Output { step: self.id, stream, bytes });
    }

    /// The step's changes have become a layer.
    pub fn layer(&self, digest: Digest, size: u64, content_size: u64) {
        self.report.event(Event::Layer { step: self.id, digest, size, content_size });
    }

    /// The step is done.
    pub fn done(mut self) {
        self.end(Event::StepDone { step: self.id });
    }

    /// The step has failed.
    pub fn failed(mut self, failure: StepFailure) {
        self.end(Event::StepFailed { step: self.id, failure });
    }

    fn end(&mut self, event: Event) {
        self.ended = true;
        self.report.event(event);
    }
}

impl Drop for LiveStep {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Event::StepCancelled { step: self.id });
        }
    }
}

/// A transfer under way. Dropped without a word it counts as cancelled.
#[derive(Debug)]
pub struct Transfer {
    report: Report,
    id: u64,
    ended: bool,
}

impl Transfer {
    /// So many bytes are through.
    pub fn progress(&self, done: u64) {
        self.report.event(Event::TransferProgress { transfer: self.id, done });
    }

    /// The same as a function that others can call while the transfer lasts.
    pub fn teller(&self) -> Arc<dyn Fn(u64) + Send + Sync> {
        let (report, transfer) = (self.report.clone(), self.id);
        Arc::new(move |done| report.event(Event::TransferProgress { transfer, done }))
    }

    /// It is over.
    pub fn end(mut self, outcome: Outcome) {
        self.tell_end(outcome);
    }

    fn tell_end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.report.event(Event::TransferDone { transfer: self.id, outcome });
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.ended {
            self.tell_end(Outcome::Cancelled);
        }
    }
}
