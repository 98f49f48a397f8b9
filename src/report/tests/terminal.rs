//! What is seen on a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::emulator::Emulator;
use super::script::{Script, StillClock, Written, bad_build, good_build, out, rollout, started, step};
use crate::image::Digest;
use crate::report::{
    Built, Clock, Direction, Event, Report, Reporter, Sink, Size, Stream, Style, SystemClock, Tty,
};

/// A reporter that is drawn after every event, on an emulated terminal.
#[derive(Debug, Clone)]
struct Drawn(Arc<Tty>);

impl Reporter for Drawn {
    fn event(&self, event: Event) {
        self.0.event(event);
        self.0.draw();
    }
}

struct Seen {
    script: Script,
    tty: Drawn,
    columns: Arc<AtomicU16>,
    screen: Emulator,
}

const ROWS: u16 = 24;

impl Seen {
    fn new(columns: u16, style: Style) -> Self {
        Self::with_rows(columns, ROWS, style)
    }

    fn with_rows(columns: u16, rows: u16, style: Style) -> Self {
        let width = Arc::new(AtomicU16::new(columns));
        let (clock, written) = (Arc::new(StillClock::default()), Written::default());
        let asked = width.clone();
        let size = move || Size { columns: asked.load(Ordering::Relaxed), rows };
        let shared: Arc<dyn Clock> = clock.clone();
        let tty = Tty::without_drawer(Sink::new(written.clone()), shared, style, size, false);
        let tty = Drawn(Arc::new(tty));
        let script = Script { report: Report::new(tty.clone()), clock, written };
        Self { script, tty, columns: width, screen: Emulator::new(columns.into(), rows.into()) }
    }

    fn draw_at(&mut self, millis: u64) -> String {
        self.script.clock.set(millis);
        self.tty.0.draw();
        self.text()
    }

    fn text(&mut self) -> String {
        self.screen.write(&self.script.written.take());
        self.screen.text()
    }

    fn resize(&mut self, columns: u16) {
        self.text();
        self.columns.store(columns, Ordering::Relaxed);
        self.screen.resize(columns.into(), ROWS.into());
    }
}

const UNICODE: Style = Style { color: false, unicode: true };

fn under_way(seen: &Seen) {
    let script = &seen.script;
    script.at(0, started());
    script.at(5, Event::Planned { steps: 6 });
    script.at(
        10,
        Event::StepCached { step: step(1, "build", 1, 3, "FROM golang:1.26"), from: "local cache".into() },
    );
    script.at(20, Event::StepStarted(step(2, "build", 2, 3, "RUN go build ./...")));
    script.at(30, Event::StepStarted(step(4, "assets", 2, 2, "RUN npm ci")));
    for line in 0..9 {
        script.at(100 + line, out(2, format!("package {line}\n").as_bytes()));
    }
    script.at(200, out(4, "\x1b[32mnpm\x1b[0m 日本語 a very long line that does not fit into the terminal at all, ever, anywhere\n".as_bytes()));
    script.at(210, out(4, b"fetching 10%\rfetching 55%"));
}

#[test]
fn what_runs_is_drawn_below_what_is_finished() {
    let mut seen = Seen::new(80, UNICODE);
    under_way(&seen);
    seen.script.clock.set(300);
    let pull = seen.script.report.transfer(
        Direction::Download,
        None,
        Digest::of(b"x"),
        "layer 1/2 of node:20-slim",
        Some(40_000_000),
    );
    pull.progress(10_000_000);
    insta::assert_snapshot!(seen.draw_at(2_300), @r"
    no privilege; steps run as uid 1000, confined by Landlock
    ✓ [build 1/3] FROM golang:1.26                                           cached
    1 of 6 steps, 1 cached                                                     2.3s
    ▸ [build 2/3] RUN go build ./...                                           2.3s
      │ package 3
      │ package 4
      │ package 5
      │ package 6
      │ package 7
      │ package 8
    ▸ [assets 2/2] RUN npm ci                                                  2.3s
      │ npm 日本語 a very long line that does not fit into the terminal at all, ev…
      │ fetching 55%
    ↓ layer 1/2 of node:20-slim ━━━━━───────────────   10.0 MB / 40.0 MB   5.0 MB/s
    ");
    pull.end(crate::report::Outcome::Downloaded);
    seen.script.at(3_000, Event::StepDone { step: 2 });
    seen.script.at(3_100, Event::StepDone { step: 4 });
    seen.script.at(3_200, Event::Ended { status: 0 });
    insta::assert_snapshot!(seen.text(), @r"
    no privilege; steps run as uid 1000, confined by Landlock
    ✓ [build 1/3] FROM golang:1.26                                           cached
    ✓ [build 2/3] RUN go build ./...                                           3.0s
    ✓ [assets 2/2] RUN npm ci                                                  3.1s
    finished in 3.2s: 3 steps, 1 cached; pulled 40.0 MB
    ");
}

#[test]
fn whole_builds_leave_nothing_behind() {
    let mut seen = Seen::new(100, Style::default());
    good_build(&seen.script);
    insta::assert_snapshot!(seen.text(), @r"
    no privilege; steps run as uid 1000, confined by Landlock
    + [1/4] FROM python:3.9-slim                                                                  12.6s
    + [2/4] WORKDIR /app                                                                         cached
    - [3/4] RUN pip install --index-url https://***@pypi.example/simple flask: not cached: `requirements
    .txt` changed
        file requirements.txt: sha256:11 -> sha256:22
    warning: variable `FOO` is not used
      help: remove `ARG FOO`
    + [3/4] RUN pip install --index-url https://***@pypi.example/simple flask                      2.0s
    + [4/4] COPY app.py .                                                                          0.0s
    image sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f
      named registry.example/app:1
      pushed registry.example/app:1
      wrote app.tar
    finished in 17.2s: 4 steps, 1 cached; pulled 45.0 MB; pushed 10.3 MB; 1 blob already there; 1 blob m
    ounted; 1 warning
    ");
    let mut seen = Seen::new(100, Style::default());
    bad_build(&seen.script);
    insta::assert_snapshot!(seen.text(), @r"
    no privilege; steps run as uid 1000, confined by Landlock
    x [build 2/3] RUN make: exit code 2 after 0.4s
      | cc -c a.c
      | a.c:1: error
      | make: *** [a.o] Error 1
    - [assets 2/2] RUN npm ci                                                                 cancelled
    failed after 0.8s: 2 steps, 0 cached
    error: step `RUN make` failed with exit code 2
      because: first cause
      because: second
        cause
    help: do better
    ");
}

#[test]
fn what_is_printed_as_the_result_is_not_drawn_over() {
    let mut seen = Seen::new(100, Style::default());
    seen.script.at(0, started());
    seen.script.at(100, Event::StepStarted(step(1, "build", 2, 3, "RUN make")));
    seen.script.at(200, Event::StepDone { step: 1 });
    let digest = Digest::of(b"manifest");
    let built = Built { digest, names: Vec::new(), pushed: Vec::new(), written: Vec::new() };
    seen.script.at(300, Event::Built(built));
    seen.text();
    // Standard output is the same terminal.
    seen.screen.write(b"the result\r\n");
    seen.draw_at(400);
    seen.script.at(500, Event::Ended { status: 0 });
    let shown = seen.text();
    assert!(shown.contains("the result"), "{shown}");
    assert!(!shown.contains("of 1 step"), "{shown}");
}

#[test]
fn color_changes_nothing_else() {
    let mut colored = Seen::new(100, Style { color: true, unicode: true });
    let mut uncolored = Seen::new(100, UNICODE);
    for seen in [&colored, &uncolored] {
        good_build(&seen.script);
    }
    assert!(String::from_utf8(colored.script.written.bytes()).unwrap().contains("\x1b[32m"));
    assert!(!String::from_utf8(uncolored.script.written.bytes()).unwrap().contains("\x1b[32m"));
    assert_eq!(colored.text(), uncolored.text());
}

/// However the terminal is resized, the lines above stay and no part of an old frame is left.
#[test]
fn resizing_garbles_nothing() {
    let mut seen = Seen::new(120, UNICODE);
    under_way(&seen);
    for (round, columns) in [60, 40, 100, 30, 25, 80].into_iter().enumerate() {
        seen.resize(columns);
        let text = seen.draw_at(1000 + round as u64 * 100);
        let joined = text.replace('\n', "");
        assert_eq!(joined.matches("FROM golang").count(), 1, "at {columns}:\n{text}");
        assert_eq!(joined.matches("of 6 step").count(), 1, "at {columns}:\n{text}");
        assert_eq!(joined.matches("▸ [assets").count(), 1, "at {columns}:\n{text}");
    }
}

#[test]
fn more_than_fits_is_counted() {
    let mut seen = Seen::with_rows(60, 8, UNICODE);
    seen.script.at(0, started());
    for id in 1..=12 {
        seen.script.at(1, Event::StepStarted(step(id, "", id, 12, "RUN sleep")));
    }
    for blob in 0..5_u8 {
        let digest = Digest::of(&[blob]);
        std::mem::forget(seen.script.report.transfer(
            Direction::Upload,
            None,
            digest,
            format!("layer {blob}"),
            None,
        ));
    }
    insta::assert_snapshot!(seen.draw_at(1_000), @r"
    no privilege; steps run as uid 1000, confined by Landlock
    0 of 12 steps, 11 more under way                       1.0s
    ▸ [1/12] RUN sleep                                     1.0s
    ▸ [2/12] RUN sleep                                     1.0s
    ▸ [3/12] RUN sleep                                     1.0s
    ▸ [4/12] RUN sleep                                     1.0s
    ▸ [5/12] RUN sleep                                     1.0s
    ↑ layer 0                                               0 B
    ");
}

#[test]
fn no_size_is_too_small() {
    for columns in 0..12 {
        for rows in 0..6 {
            let seen = Seen::with_rows(columns.max(1), rows, UNICODE);
            seen.columns.store(columns, Ordering::Relaxed);
            under_way(&seen);
            seen.tty.0.draw();
            seen.script.written.take();
        }
    }
}

#[test]
fn it_draws_by_itself_and_stops_at_the_end() {
    let written = Written::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let size = || Size { columns: 80, rows: 24 };
    let report = Report::new(Tty::new(Sink::new(written.clone()), clock, UNICODE, size, false));
    report.event(started());
    let live = report.step(step(1, "", 1, 1, "RUN sleep"));
    live.output(Stream::Stdout, b"something\n");
    let start = std::time::Instant::now();
    while !written.text().contains("something") {
        assert!(start.elapsed().as_secs() < 20, "nothing was drawn");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    live.done();
    report.event(Event::Ended { status: 0 });
    let mut screen = Emulator::new(80, 24);
    screen.write(&written.bytes());
    assert!(
        screen.text().contains("✓ [1/1] RUN sleep") && !screen.text().contains("something"),
        "{}",
        screen.text()
    );
    std::thread::sleep(std::time::Duration::from_millis(250));
    let mut after = Emulator::new(80, 24);
    after.write(&written.bytes());
    assert_eq!(after.text(), screen.text());
}

#[test]
fn a_rollout_is_a_table_with_what_is_troubled_first() {
    let mut seen = Seen::new(90, UNICODE);
    rollout(&seen.script);
    let text = seen.draw_at(2000);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(lines[0].starts_with("✓ deployment.apps/web") && lines[0].ends_with("ready 1.2s"), "{text}");
    assert!(lines[1].starts_with("! job.batch/migrate: the ConfigMap `settings` does not exist"), "{text}");
    let table = lines.iter().position(|line| line.starts_with("1 of 3 objects ready")).expect("a head");
    assert!(lines[table + 1].starts_with("  job.batch/migrate          the ConfigMap"), "{text}");
    assert!(lines[table + 2].starts_with("  statefulset.apps/database  its controller"), "{text}");
    assert_eq!(lines.len(), table + 3, "{text}");
}
