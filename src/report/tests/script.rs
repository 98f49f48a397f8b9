//! Builds that were written down, a clock, and a place to write to.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::image::Digest;
use crate::report::{
    Built, Change, Clock, Direction, Event, Failure, Outcome, OutputBytes, Report, Reporter,
    RolloutDiagnosis, RolloutProgress, Started, Step, StepFailure, Stream,
};

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Default)]
pub struct StillClock(AtomicU64);

impl StillClock {
    pub fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn date(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.elapsed()
    }
}

/// Keeps what is written.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A build under way.
pub struct Script {
    pub report: Report,
    pub clock: Arc<StillClock>,
    pub written: Written,
}

impl Script {
    pub fn new<R: Reporter + 'static>(make: impl FnOnce(Written, Arc<dyn Clock>) -> R) -> Self {
        let (clock, written) = (Arc::new(StillClock::default()), Written::default());
        let report = Report::new(make(written.clone(), clock.clone()));
        Self { report, clock, written }
    }

    /// Something that happens at a time in milliseconds.
    pub fn at(&self, millis: u64, event: Event) {
        self.clock.set(millis);
        self.report.event(event);
    }
}

pub fn step(id: u32, stage: &str, number: u32, of: u32, text: &str) -> Step {
    Step { id, stage: (!stage.is_empty()).then(|| stage.to_owned()), number, of, text: text.to_owned() }
}

pub fn out(step: u32, bytes: &[u8]) -> Event {
    Event::Output { step, stream: Stream::Stdout, bytes: OutputBytes(bytes.to_vec()) }
}

pub fn err(step: u32, bytes: &[u8]) -> Event {
    Event::Output { step, stream: Stream::Stderr, bytes: OutputBytes(bytes.to_vec()) }
}

pub fn started() -> Event {
    Event::Started(Started {
        command: "build".to_owned(),
        version: "0.1.0".to_owned(),
        machine: Some("no privilege; steps run as uid 1000, confined by Landlock".to_owned()),
    })
}

/// A build that succeeds, with everything that may happen on the way.
pub fn good_build(script: &Script) {
    let base = Digest::of(b"base");
    let layer = Digest::of(b"layer");
    script.at(0, started());
    script.at(5, Event::Planned { steps: 5 });
    script.at(10, Event::StepStarted(step(1, "", 1, 4, "FROM python:3.9-slim")));
    script.clock.set(20);
    let pull = script.report.transfer(
        Direction::Download,
        Some(1),
        base,
        "layer 1/1 of python:3.9-slim",
        Some(45_000_000),
    );
    for (millis, done) in [(1000, 1_000_000), (6000, 9_000_000), (7000, 11_000_000), (12_000, 40_000_000)] {
        script.clock.set(millis);
        pull.progress(done);
    }
    script.clock.set(12_500);
    pull.end(Outcome::Downloaded);
    script.at(12_600, Event::StepDone { step: 1 });
    script.at(
        12_600,
        Event::StepCached { step: step(2, "", 2, 4, "WORKDIR /app"), from: "local cache".to_owned() },
    );
    script.at(
        12_700,
        Event::StepStarted(step(
            3,
            "",
            3,
            4,
            "RUN pip install \\\n   --index-url https://me:secret@pypi.example/simple flask",
        )),
    );
    let change = Change {
        what: "file requirements.txt".to_owned(),
        before: Some("sha256:11".to_owned()),
        after: Some("sha256:22".to_owned()),
    };
    script.at(
        12_700,
        Event::CacheMiss { step: 3, reason: "`requirements.txt` changed".to_owned(), changes: vec![change] },
    );
    script.at(12_900, out(3, b"Collecting flask\nDownloading: 10%\rDownloading: 50%\r"));
    script.at(13_000, err(3, b"\x1b[33mWARNING\x1b[0m: \xff running as root\n"));
    script.at(13_100, out(3, b"Downloading: 100%\nInstalled"));
    script.at(
        14_000,
        Event::Warning {
            text: "variable `FOO` is not used".to_owned(),
            hint: Some("remove `ARG FOO`".to_owned()),
        },
    );
    script.at(14_700, Event::StepDone { step: 3 });
    script.at(14_800, Event::Layer { step: 3, digest: layer, size: 10_300_000, content_size: 31_200_000 });
    script.at(14_900, Event::Detail { text: "mount refused".to_owned() });
    script.at(15_000, Event::StepStarted(step(4, "", 4, 4, "COPY app.py .")));
    script.at(15_040, Event::StepDone { step: 4 });
    script.clock.set(15_050);
    let push = |digest, what: &str, total, millis, outcome| {
        let push = script.report.transfer(Direction::Upload, None, digest, what, Some(total));
        script.clock.set(millis);
        push.end(outcome);
    };
    push(base, "layer 1", 45_000_000, 15_060, Outcome::Mounted { from: "group/base".to_owned() });
    push(layer, "layer 2", 10_300_000, 17_000, Outcome::Pushed);
    push(Digest::of(b"config"), "configuration", 3_000, 17_010, Outcome::AlreadyThere);
    script.at(
        17_100,
        Event::Built(Built {
            digest: Digest::of(b"manifest"),
            names: vec!["registry.example/app:1".to_owned()],
            pushed: vec!["registry.example/app:1".to_owned()],
            written: vec!["app.tar".to_owned()],
        }),
    );
    script.at(17_200, Event::Ended { status: 0 });
}

/// Two steps at once, of which one fails.
pub fn bad_build(script: &Script) {
    script.at(0, started());
    script.at(100, Event::StepStarted(step(1, "build", 2, 3, "RUN make")));
    script.at(100, Event::StepStarted(step(2, "assets", 2, 2, "RUN npm ci")));
    script.at(200, out(1, b"cc -c a.c\n"));
    script.at(300, out(2, b"npm warn\n"));
    script.at(400, err(1, b"a.c:1: error\nmake: *** [a.o] Error 1"));
    script.at(500, Event::StepFailed { step: 1, failure: StepFailure::ExitCode(2) });
    script.at(600, Event::StepCancelled { step: 2 });
    script.at(
        700,
        Event::Failed(Failure {
            message: "step `RUN make` failed with exit code 2".to_owned(),
            causes: vec!["first cause".to_owned(), "second\ncause".to_owned()],
            hints: vec!["do better".to_owned()],
            source: None,
            kind: "step".to_owned(),
        }),
    );
    script.at(800, Event::Ended { status: 4 });
}

/// An object's way, in a word.
pub fn rolled(object: &str, state: &str, parts: Option<(u64, u64)>, text: &str) -> Event {
    Event::RolloutProgress(RolloutProgress {
        object: object.to_owned(),
        namespace: Some("shop".to_owned()),
        state: state.to_owned(),
        done: parts.map(|(done, _)| done),
        of: parts.map(|(_, of)| of),
        text: text.to_owned(),
    })
}

/// One object that is ready, one that is troubled, one on its way.
pub fn rollout(script: &Script) {
    script.at(0, rolled("deployment.apps/web", "in_progress", Some((0, 2)), "0 of 2 replicas ready"));
    script.at(
        0,
        rolled("statefulset.apps/database", "in_progress", None, "its controller has not seen it yet"),
    );
    script.at(10, rolled("job.batch/migrate", "in_progress", Some((0, 1)), "0 of 1 completion done"));
    script.at(500, rolled("deployment.apps/web", "in_progress", Some((1, 2)), "1 old replica to end"));
    script.at(1200, rolled("deployment.apps/web", "ready", None, ""));
    let diagnosis = RolloutDiagnosis {
        object: "job.batch/migrate".to_owned(),
        namespace: Some("shop".to_owned()),
        cause: "config_map_missing".to_owned(),
        text: "the ConfigMap `settings` does not exist".to_owned(),
        pod: Some("migrate-x".to_owned()),
        container: Some("app".to_owned()),
        evidence: vec!["state: x at https://user:hunter2@host/".to_owned()],
        patience: Some(8),
        ..RolloutDiagnosis::default()
    };
    script.at(1500, Event::Diagnosis(diagnosis));
}
