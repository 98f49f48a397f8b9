//! What plain, JSON and quiet reporters write.

use std::io;
use std::sync::Arc;

use super::script::{Script, bad_build, err, good_build, out, rollout, started, step};
use crate::report::{Event, Json, Plain, Quiet, Sink, Stream, Style, SystemClock};

fn plain(play: impl FnOnce(&Script)) -> String {
    let script = Script::new(|written, clock| Plain::new(Sink::new(written), clock, false));
    play(&script);
    script.written.text()
}

fn json(play: impl FnOnce(&Script)) -> String {
    let script = Script::new(|written, clock| Json::new(Sink::new(written), clock, true));
    play(&script);
    script.written.text()
}

#[test]
fn plain_tells_a_build_that_succeeds() {
    insta::assert_snapshot!(plain(good_build), @r"
    cofferdam 0.1.0 build
    no privilege; steps run as uid 1000, confined by Landlock
    #1 [1/4] FROM python:3.9-slim
    #1 pulling layer 1/1 of python:3.9-slim sha256:cae662172fd4: 9.0 MB of 45.0 MB, 1.5 MB/s
    #1 pulling layer 1/1 of python:3.9-slim sha256:cae662172fd4: 40.0 MB of 45.0 MB, 3.3 MB/s
    #1 pulled layer 1/1 of python:3.9-slim sha256:cae662172fd4: 45.0 MB in 12.5s, 3.6 MB/s
    #1 done in 12.6s
    #2 [2/4] WORKDIR /app
    #2 cached (local cache)
    #3 [3/4] RUN pip install --index-url https://***@pypi.example/simple flask
    #3 not cached: `requirements.txt` changed
    #3   file requirements.txt: sha256:11 -> sha256:22
    #3 0.20 Collecting flask
    #3 0.30 WARNING: � running as root
    #3 0.40 Downloading: 100%
    warning: variable `FOO` is not used
      help: remove `ARG FOO`
    #3 2.00 Installed
    #3 done in 2.0s
    #3 layer sha256:dac1d7cfa950: 10.3 MB (31.2 MB uncompressed)
    #4 [4/4] COPY app.py .
    #4 done in 0.0s
    mounted layer 1 sha256:cae662172fd4: 45.0 MB from group/base
    pushed layer 2 sha256:dac1d7cfa950: 10.3 MB in 1.9s, 5.3 MB/s
    already there: configuration sha256:b79606fb3afe: 3.0 kB
    image sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f
      named registry.example/app:1
      pushed registry.example/app:1
      wrote app.tar
    finished in 17.2s: 4 steps, 1 cached; pulled 45.0 MB; pushed 10.3 MB; 1 blob already there; 1 blob mounted; 1 warning
       12.6s  #1 [1/4] FROM python:3.9-slim
        2.0s  #3 [3/4] RUN pip install --index-url https://***@pypi.example/simple flask
    ");
}

#[test]
fn plain_tells_a_build_that_fails() {
    insta::assert_snapshot!(plain(bad_build), @r"
    cofferdam 0.1.0 build
    no privilege; steps run as uid 1000, confined by Landlock
    #1 [build 2/3] RUN make
    #2 [assets 2/2] RUN npm ci
    #1 0.10 cc -c a.c
    #2 0.20 npm warn
    #1 0.30 a.c:1: error
    #1 0.40 make: *** [a.o] Error 1
    #1 failed after 0.4s: exit code 2
    #1 its last lines were:
    #1 | cc -c a.c
    #1 | a.c:1: error
    #1 | make: *** [a.o] Error 1
    #2 cancelled after 0.5s
    failed after 0.8s: 2 steps, 0 cached
        0.4s  #1 [build 2/3] RUN make
        0.5s  #2 [assets 2/2] RUN npm ci
    error: step `RUN make` failed with exit code 2
      because: first cause
      because: second
        cause
    help: do better
    ");
}

#[test]
fn json_tells_a_build_that_succeeds() {
    insta::assert_snapshot!(json(good_build), @r#"
    {"event":"started","command":"build","version":"0.1.0","machine":"no privilege; steps run as uid 1000, confined by Landlock","timestamp":"2023-11-14T22:13:20.000Z","seconds":0.0}
    {"event":"planned","steps":5,"timestamp":"2023-11-14T22:13:20.005Z","seconds":0.005}
    {"event":"step_started","step":1,"number":1,"of":4,"text":"FROM python:3.9-slim","timestamp":"2023-11-14T22:13:20.010Z","seconds":0.01}
    {"event":"transfer_started","transfer":1,"direction":"download","step":1,"digest":"sha256:cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2","what":"layer 1/1 of python:3.9-slim","total":45000000,"timestamp":"2023-11-14T22:13:20.020Z","seconds":0.02}
    {"event":"transfer_progress","transfer":1,"done":1000000,"timestamp":"2023-11-14T22:13:21.000Z","seconds":1.0}
    {"event":"transfer_progress","transfer":1,"done":9000000,"timestamp":"2023-11-14T22:13:26.000Z","seconds":6.0}
    {"event":"transfer_progress","transfer":1,"done":11000000,"timestamp":"2023-11-14T22:13:27.000Z","seconds":7.0}
    {"event":"transfer_progress","transfer":1,"done":40000000,"timestamp":"2023-11-14T22:13:32.000Z","seconds":12.0}
    {"event":"transfer_done","transfer":1,"outcome":"downloaded","timestamp":"2023-11-14T22:13:32.500Z","seconds":12.5,"duration":12.48}
    {"event":"step_done","step":1,"timestamp":"2023-11-14T22:13:32.600Z","seconds":12.6,"duration":12.59}
    {"event":"step_cached","step":2,"number":2,"of":4,"text":"WORKDIR /app","from":"local cache","timestamp":"2023-11-14T22:13:32.600Z","seconds":12.6}
    {"event":"step_started","step":3,"number":3,"of":4,"text":"RUN pip install \\\n   --index-url https://***@pypi.example/simple flask","timestamp":"2023-11-14T22:13:32.700Z","seconds":12.7}
    {"event":"cache_miss","step":3,"reason":"`requirements.txt` changed","changes":[{"what":"file requirements.txt","before":"sha256:11","after":"sha256:22"}],"timestamp":"2023-11-14T22:13:32.700Z","seconds":12.7}
    {"event":"output","step":3,"stream":"stdout","text":"Collecting flask","timestamp":"2023-11-14T22:13:32.900Z","seconds":12.9}
    {"event":"output","step":3,"stream":"stderr","text":"\u001b[33mWARNING\u001b[0m: � running as root","base64":"G1szM21XQVJOSU5HG1swbTog/yBydW5uaW5nIGFzIHJvb3Q=","timestamp":"2023-11-14T22:13:33.000Z","seconds":13.0}
    {"event":"output","step":3,"stream":"stdout","text":"Downloading: 100%","timestamp":"2023-11-14T22:13:33.100Z","seconds":13.1}
    {"event":"warning","text":"variable `FOO` is not used","hint":"remove `ARG FOO`","timestamp":"2023-11-14T22:13:34.000Z","seconds":14.0}
    {"event":"output","step":3,"stream":"stdout","text":"Installed","timestamp":"2023-11-14T22:13:34.700Z","seconds":14.7}
    {"event":"step_done","step":3,"timestamp":"2023-11-14T22:13:34.700Z","seconds":14.7,"duration":2.0}
    {"event":"layer","step":3,"digest":"sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85","size":10300000,"content_size":31200000,"timestamp":"2023-11-14T22:13:34.800Z","seconds":14.8}
    {"event":"detail","text":"mount refused","timestamp":"2023-11-14T22:13:34.900Z","seconds":14.9}
    {"event":"step_started","step":4,"number":4,"of":4,"text":"COPY app.py .","timestamp":"2023-11-14T22:13:35.000Z","seconds":15.0}
    {"event":"step_done","step":4,"timestamp":"2023-11-14T22:13:35.040Z","seconds":15.04,"duration":0.04}
    {"event":"transfer_started","transfer":2,"direction":"upload","digest":"sha256:cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2","what":"layer 1","total":45000000,"timestamp":"2023-11-14T22:13:35.050Z","seconds":15.05}
    {"event":"transfer_done","transfer":2,"outcome":"mounted","from":"group/base","timestamp":"2023-11-14T22:13:35.060Z","seconds":15.06,"duration":0.01}
    {"event":"transfer_started","transfer":3,"direction":"upload","digest":"sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85","what":"layer 2","total":10300000,"timestamp":"2023-11-14T22:13:35.060Z","seconds":15.06}
    {"event":"transfer_done","transfer":3,"outcome":"pushed","timestamp":"2023-11-14T22:13:37.000Z","seconds":17.0,"duration":1.94}
    {"event":"transfer_started","transfer":4,"direction":"upload","digest":"sha256:b79606fb3afea5bd1609ed40b622142f1c98125abcfe89a76a661b0e8e343910","what":"configuration","total":3000,"timestamp":"2023-11-14T22:13:37.000Z","seconds":17.0}
    {"event":"transfer_done","transfer":4,"outcome":"already_there","timestamp":"2023-11-14T22:13:37.010Z","seconds":17.01,"duration":0.01}
    {"event":"built","digest":"sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f","names":["registry.example/app:1"],"pushed":["registry.example/app:1"],"written":["app.tar"],"timestamp":"2023-11-14T22:13:37.100Z","seconds":17.1}
    {"event":"ended","status":0,"timestamp":"2023-11-14T22:13:37.200Z","seconds":17.2,"summary":{"steps":4,"cached":1,"pulled":45000000,"pushed":10300000,"already_there":1,"mounted":1,"warnings":1}}
    "#);
}

#[test]
fn json_tells_a_build_that_fails() {
    insta::assert_snapshot!(json(bad_build), @r#"
    {"event":"started","command":"build","version":"0.1.0","machine":"no privilege; steps run as uid 1000, confined by Landlock","timestamp":"2023-11-14T22:13:20.000Z","seconds":0.0}
    {"event":"step_started","step":1,"stage":"build","number":2,"of":3,"text":"RUN make","timestamp":"2023-11-14T22:13:20.100Z","seconds":0.1}
    {"event":"step_started","step":2,"stage":"assets","number":2,"of":2,"text":"RUN npm ci","timestamp":"2023-11-14T22:13:20.100Z","seconds":0.1}
    {"event":"output","step":1,"stream":"stdout","text":"cc -c a.c","timestamp":"2023-11-14T22:13:20.200Z","seconds":0.2}
    {"event":"output","step":2,"stream":"stdout","text":"npm warn","timestamp":"2023-11-14T22:13:20.300Z","seconds":0.3}
    {"event":"output","step":1,"stream":"stderr","text":"a.c:1: error","timestamp":"2023-11-14T22:13:20.400Z","seconds":0.4}
    {"event":"output","step":1,"stream":"stderr","text":"make: *** [a.o] Error 1","timestamp":"2023-11-14T22:13:20.500Z","seconds":0.5}
    {"event":"step_failed","step":1,"exit_code":2,"timestamp":"2023-11-14T22:13:20.500Z","seconds":0.5,"duration":0.4,"last_lines":["cc -c a.c","a.c:1: error","make: *** [a.o] Error 1"]}
    {"event":"step_cancelled","step":2,"timestamp":"2023-11-14T22:13:20.600Z","seconds":0.6,"duration":0.5}
    {"event":"failed","message":"step `RUN make` failed with exit code 2","causes":["first cause","second\ncause"],"hints":["do better"],"kind":"step","timestamp":"2023-11-14T22:13:20.700Z","seconds":0.7}
    {"event":"ended","status":4,"timestamp":"2023-11-14T22:13:20.800Z","seconds":0.8,"summary":{"steps":2,"cached":0,"pulled":0,"pushed":0,"already_there":0,"mounted":0,"warnings":0}}
    "#);
}

#[test]
fn quiet_tells_failures_alone() {
    let quiet = |play: fn(&Script)| {
        let script = Script::new(|written, clock| Quiet::new(Sink::new(written), clock, Style::default()));
        play(&script);
        script.written.text()
    };
    assert_eq!(quiet(good_build), "");
    insta::assert_snapshot!(quiet(bad_build), @r"
    [build 2/3] RUN make: exit code 2
      | cc -c a.c
      | a.c:1: error
      | make: *** [a.o] Error 1
    error: step `RUN make` failed with exit code 2
      because: first cause
      because: second
        cause
    help: do better
    ");
}

/// Every event there is, so that no kind can be added without its place in the documentation.
#[test]
fn every_event_is_documented() {
    let documentation = include_str!("../../../docs/events.md");
    let mut names: Vec<String> = json(good_build)
        .lines()
        .chain(json(bad_build).lines())
        .chain(json(rollout).lines())
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned()
        })
        .collect();
    names.extend(["note".to_owned(), "findings".to_owned()]);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 22, "{names:?}");
    for name in names {
        assert!(documentation.contains(&format!("| `{name}` |")), "`{name}` is not in docs/events.md");
    }
}

#[test]
fn output_can_break_no_line_of_json() {
    let text = json(|script| {
        script.at(0, Event::StepStarted(step(1, "", 1, 1, "RUN x\"\u{1b}[2J")));
        script.at(1, out(1, b"\"}\n{\x00\x1b]0;x\x07\xff\r\n\xe2\x80\xa8\n"));
        script.at(2, err(1, b"no end \\"));
        script.at(3, Event::StepDone { step: 1 });
    });
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = lines.iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(said, ["RUN x\"\u{1b}[2J", "\"}", "{\0\u{1b}]0;x\u{7}\u{fffd}", "\u{2028}", "no end \\"]);
    assert_eq!(lines[2]["base64"], "ewAbXTA7eAf/", "what is no text is there in full");
}

#[test]
fn a_step_cannot_steer_the_log() {
    let text = plain(|script| {
        script.at(0, Event::StepStarted(step(1, "", 1, 1, "RUN a\u{1b}[31m\nFAKE")));
        script.at(1, out(1, b"\x1b[2J\x1b[Hhello\x07\n\rsection_end:0:x\r\x1b[0K\n\n"));
        script.at(2, Event::StepDone { step: 1 });
    });
    assert_eq!(text, "#1 [1/1] RUN a FAKE\n#1 0.00 hello\n#1 0.00\n#1 0.00\n#1 done in 0.0s\n");
}

#[test]
fn nothing_is_written_behind_the_end() {
    let text = plain(|script| {
        script.at(0, started());
        let step = script.report.step(step(1, "", 1, 1, "RUN x"));
        script.at(1, Event::Ended { status: 130 });
        step.output(Stream::Stdout, b"late\n");
        drop(step);
    });
    assert!(text.contains("#1 cancelled after 0.0s\nfailed after 0.0s: 1 step, 0 cached\n"), "{text}");
    assert!(!text.contains("late"));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    struct Gone;
    impl io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let script = Script::new(|_, clock| Plain::new(Sink::new(Gone), clock, false));
    good_build(&script);
}

#[test]
fn many_threads_at_once_lose_nothing() {
    const THREADS: u32 = 8;
    const LINES: usize = 2000;
    let script =
        Script::new(|written, _| Plain::new(Sink::new(written), Arc::new(SystemClock::start()), false));
    std::thread::scope(|scope| {
        for id in 1..=THREADS {
            let report = script.report.clone();
            scope.spawn(move || {
                let live = report.step(step(id, "", id, THREADS, "RUN x"));
                for line in 0..LINES {
                    live.output(Stream::Stdout, format!("line {line} ").as_bytes());
                    live.output(Stream::Stderr, b"!");
                    live.output(Stream::Stdout, format!("of {id}\n").as_bytes());
                }
                live.done();
            });
        }
    });
    let text = script.written.text();
    for id in 1..=THREADS {
        let said: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(&format!("#{id} ")) && line.contains(" line "))
            .filter_map(|line| line.splitn(3, ' ').nth(2))
            .collect();
        let expected: Vec<String> = (0..LINES).map(|line| format!("line {line} of {id}")).collect();
        assert_eq!(said, expected);
        assert!(
            text.contains(&format!("#{id} {:.2} {}\n", 0.0, "!".repeat(LINES)))
                || text.contains(&"!".repeat(LINES))
        );
        assert!(text.contains(&format!("#{id} done in ")));
    }
}

#[test]
fn plain_tells_a_rollout_line_by_line() {
    insta::assert_snapshot!(plain(rollout), @r"
    deployment.apps/web: 0 of 2 replicas ready
    statefulset.apps/database: its controller has not seen it yet
    job.batch/migrate: 0 of 1 completion done
    deployment.apps/web: 1 of 2: 1 old replica to end
    deployment.apps/web: ready after 1.2s
    job.batch/migrate: the ConfigMap `settings` does not exist (pod migrate-x, container app); given 8 s to heal
    ");
}

#[test]
fn json_tells_a_rollout() {
    let text = json(rollout);
    assert!(text.contains(r#""event":"rollout_progress","object":"deployment.apps/web","namespace":"shop","state":"in_progress","done":1,"of":2,"text":"1 old replica to end""#), "{text}");
    assert!(
        text.contains(r#""event":"diagnosis""#) && text.contains(r#""final":false,"patience":8"#),
        "{text}"
    );
    assert!(text.contains("https://***@host/") && !text.contains("hunter2"), "{text}");
}
