//! Containers that are not started, that end, and that are not healthy.

use serde_json::Value;

use super::{Cause, EventFact, Evidence, Finding, Policy, Weight, between, containers, flat, image, pod};
use crate::deploy::status::{count, text};
use crate::report::signal_name;

/// Exit codes from here on are of programs that a signal has ended: 128 and its number (what shells and runtimes agree on).
const SIGNALLED: i64 = 128;
/// Lines of a log that are shown: the last ones say what happened.
const LINES: usize = 20;
/// How often a readiness probe must have failed before it is worth telling: while something starts it fails.
const PROBED: u64 = 2;

pub(super) fn findings(evidence: &Evidence, policy: &Policy, pod: &Value) -> Vec<Finding> {
    containers(pod)
        .filter_map(|(spec, state, is_init)| {
            let container = Container { evidence, policy, pod, spec, state: state?, is_init };
            let mut finding = container.finding()?;
            finding.container = Some(container.name().to_owned());
            Some(finding)
        })
        .collect()
}

/// A container of a pod, and how it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Container<'a> {
    pub evidence: &'a Evidence,
    pub policy: &'a Policy,
    pub pod: &'a Value,
    /// What is asked for.
    pub spec: &'a Value,
    /// What there is.
    pub state: &'a Value,
    is_init: bool,
}

impl<'a> Container<'a> {
    pub fn name(&self) -> &'a str {
        text(self.spec, "/name")
    }

    /// How it is spoken of.
    fn me(&self) -> String {
        format!("container `{}`", self.name())
    }

    fn pod_name(&self) -> &'a str {
        text(self.pod, "/metadata/name")
    }

    pub fn new_finding(&self, cause: Cause, what: impl Into<String>) -> Finding {
        Finding::new(&self.evidence.object, cause, what)
    }

    pub fn event(&self, reasons: &[&str]) -> Option<&'a EventFact> {
        self.evidence.container_event(self.pod_name(), self.name(), reasons)
    }

    /// For what may still be brought by somebody else.
    fn late(&self) -> Weight {
        Weight::Grace(if self.evidence.has_custom { self.policy.late } else { self.policy.grace })
    }

    /// What it ended with, the last time or now, unless it is well.
    fn end(&self) -> Option<&'a Value> {
        ["/state/terminated", "/lastState/terminated"].into_iter().find_map(|place| self.state.pointer(place))
    }

    /// How often it has ended.
    fn ends(&self) -> u64 {
        count(self.state, "/restartCount") + u64::from(self.state.pointer("/state/terminated").is_some())
    }

    fn finding(&self) -> Option<Finding> {
        let waiting = self.state.pointer("/state/waiting");
        let (reason, message) =
            waiting.map_or(("", ""), |state| (text(state, "/reason"), text(state, "/message")));
        match reason {
            "InvalidImageName"
            | "ErrImageNeverPull"
            | "ErrImagePull"
            | "ImagePullBackOff"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "ErrImagePullBackOff" => return Some(image::finding(self, reason, message)),
            "CreateContainerConfigError" => return Some(self.unconfigured(message)),
            "CreateContainerError" | "RunContainerError" | "PreStartHookError" => {
                return Some(self.unstarted(message).seen(format!("state: {reason}")));
            }
            _ => {}
        }
        if let Some(end) = self.end()
            && matches!(text(end, "/reason"), "StartError" | "ContainerCannotRun")
            && self.state.pointer("/state/running").is_none()
        {
            return Some(
                self.unstarted(text(end, "/message")).seen(format!("state: {}", text(end, "/reason"))),
            );
        }
        if self.state.pointer("/state/running").is_some() {
            return self.unhealthy();
        }
        self.ended()
    }

    /// What it is made of is not there.
    fn unconfigured(&self, message: &str) -> Finding {
        let finding = if let Some(finding) = pod::reference_fault(self.evidence, message, None) {
            finding.weighing(self.late())
        } else if message.contains("runAsNonRoot") {
            let why = if message.contains("non-numeric user") {
                format!(
                    "the image of {} names its user, and only a number shows that it is not root",
                    self.me()
                )
            } else {
                format!("{} would run as root, as its image says, and the pod does not allow that", self.me())
            };
            self.new_finding(Cause::RunsAsRoot, why)
                .advise("give the image a `USER` by number, or set securityContext.runAsUser")
        } else {
            self.new_finding(
                Cause::StartFailed,
                format!("{} cannot be configured: {}", self.me(), flat(message)),
            )
            .weighing(self.late())
            .advise("correct what the message names")
        };
        finding.seen(format!("state: CreateContainerConfigError: {}", flat(message)))
    }

    /// The runtime does not get its program going.
    fn unstarted(&self, message: &str) -> Finding {
        let program = between(message, "exec: \"", "\"").or_else(|| between(message, "exec \"", "\""));
        let named = program.map_or("the program".to_owned(), |program| format!("`{program}`"));
        let finding = if message.contains("no such file or directory") && program.is_some()
            || message.contains("executable file not found")
        {
            self.new_finding(Cause::CommandNotFound, format!("{named} is not in the image"))
                .advise("correct `command`, or the image's ENTRYPOINT; see what it holds with `cofferdam inspect`")
                .advise("a script whose first line names an interpreter that is not in the image looks the same")
        } else if message.contains("exec format error") {
            self.wrong_format(Some(named))
        } else if message.contains("permission denied") && program.is_some() {
            self.new_finding(Cause::CommandNotFound, format!("{named} cannot be executed: permission denied"))
                .advise("make it executable in the image (`COPY --chmod=755`, `RUN chmod +x`), for the user that it runs as")
        } else {
            self.new_finding(
                Cause::StartFailed,
                format!("the runtime cannot start {}: {}", self.me(), flat(cause_of(message))),
            )
            .weighing(Weight::Grace(self.policy.grace))
            .advise("correct what the message names")
        };
        finding.seen(format!("runtime: {}", flat(cause_of(message))))
    }

    /// The program is not one that this node executes.
    fn wrong_format(&self, program: Option<String>) -> Finding {
        let node = self.evidence.nodes.get(text(self.pod, "/spec/nodeName")).and_then(super::Fact::known);
        let machine = node.map(|node| text(node, "/status/nodeInfo/architecture")).unwrap_or_default();
        let program = program.unwrap_or_else(|| format!("the program of {}", self.me()));
        let offered = image::platforms(self);
        let says_so =
            offered.as_ref().is_some_and(|offered| !machine.is_empty() && offered.contains(machine));
        let what = if says_so {
            format!(
                "{program} cannot be executed (exec format error): it is for another machine than its image says, or a script without `#!`"
            )
        } else if machine.is_empty() {
            format!("{program} is not for its node's machine (exec format error)")
        } else {
            format!("{program} is not for `{machine}`, as its node is (exec format error)")
        };
        let finding = self
            .new_finding(Cause::WrongPlatform, what)
            .seen(offered.map(|offered| format!("registry: the image is for {offered}")).unwrap_or_default())
            .advise("build the image for the nodes' platform (`cofferdam build --platform linux/…`)");
        if machine.is_empty() || says_so {
            return finding.advise("a script needs a first line such as `#!/bin/sh`");
        }
        finding
    }

    /// It has ended, and is not running now.
    fn ended(&self) -> Option<Finding> {
        let end = self.end()?;
        let code = end.pointer("/exitCode").and_then(Value::as_i64).unwrap_or(0);
        let never = text(self.pod, "/spec/restartPolicy") == "Never";
        let on_failure = text(self.pod, "/spec/restartPolicy") == "OnFailure";
        let oom = text(end, "/reason") == "OOMKilled";
        // What is to end has ended.
        let sidecar = text(self.spec, "/restartPolicy") == "Always";
        if code == 0 && !oom && (never || on_failure || self.is_init && !sidecar) {
            return None;
        }
        let log = self.log();
        if log.iter().any(|line| line.contains("exec format error")) && self.lived(end) == Some(0) {
            return Some(with_log(self.wrong_format(None), log));
        }
        if let Some(finding) = self.killed_by_probe() {
            return Some(with_log(finding.weighing(self.crash_weight()), log));
        }
        let finding = if oom { self.out_of_memory() } else { self.crashed(end, code) };
        Some(with_log(finding.weighing(self.crash_weight()), log))
    }

    fn crash_weight(&self) -> Weight {
        if self.ends() < self.policy.crashes && text(self.pod, "/spec/restartPolicy") != "Never" {
            Weight::Grace(self.policy.grace)
        } else if self.evidence.others_under_way {
            // What it needs may not be there yet: a database of the same run.
            Weight::Grace(self.policy.late)
        } else {
            Weight::Solid
        }
    }

    /// The probe or hook for which the kubelet has ended it.
    fn killed_by_probe(&self) -> Option<Finding> {
        let kill = self.event(&["Killing"])?;
        if kill.message.contains("PostStartHook") {
            let event = self.event(&["FailedPostStartHook"]);
            return Some(
                self.new_finding(
                    Cause::StartHook,
                    format!("the postStart hook of {} fails, so it is ended", self.me()),
                )
                .seen(event.map(EventFact::line).unwrap_or_default())
                .seen(kill.line())
                .advise("correct `lifecycle.postStart`; its own output is shown nowhere"),
            );
        }
        let which = ["startup", "liveness"]
            .into_iter()
            .find(|which| kill.message.contains(&format!("{which} probe")))?;
        Some(self.probe_fault(which)?.seen(kill.line()))
    }

    /// It runs, and a probe says that it is not well.
    fn unhealthy(&self) -> Option<Finding> {
        // One that has just been restarted for a probe is as sick as before.
        if self.ends() > 0
            && let Some(finding) = self.killed_by_probe()
        {
            return Some(with_log(finding.weighing(self.crash_weight()), self.log()));
        }
        if self.state.get("ready").and_then(Value::as_bool) == Some(true) {
            // Until its liveness probe has failed often enough it is ready all the same.
            return Some(self.probe_fault("liveness")?.weighing(Weight::Told));
        }
        let which = if self.state.get("started").and_then(Value::as_bool) == Some(false) {
            "startup"
        } else {
            "readiness"
        };
        let finding = self.probe_fault(which)?;
        Some(with_log(finding.weighing(Weight::Told), self.log()))
    }

    /// What a failing probe answers, if it fails.
    fn probe_fault(&self, which: &str) -> Option<Finding> {
        let (cause, word) = match which {
            "startup" => (Cause::StartupProbe, "Startup"),
            "liveness" => (Cause::LivenessProbe, "Liveness"),
            _ => (Cause::ReadinessProbe, "Readiness"),
        };
        let prefix = format!("{word} probe ");
        let event = self.evidence.events_of("Pod", self.pod_name()).find(|event| {
            event.reason == "Unhealthy"
                && event.is_of_container(self.name())
                && event.message.starts_with(&prefix)
        });
        let event = match event {
            Some(event) if event.count >= PROBED || cause != Cause::ReadinessProbe => event,
            _ => return None,
        };
        let answer = event.message.split_once(": ").map_or(event.message.as_str(), |(_, rest)| rest);
        let probe = self.spec.get(format!("{which}Probe"));
        let asks = probe.map(asked).unwrap_or_default();
        let asks = if asks.is_empty() { String::new() } else { format!(" ({asks})") };
        Some(
            self.new_finding(
                cause,
                format!("the {which} probe of {}{asks} fails: {}", self.me(), flat(&shortened(answer))),
            )
            .seen(event.line())
            .advise(advice(which, answer)),
        )
    }

    fn out_of_memory(&self) -> Finding {
        let limit = self.spec.pointer("/resources/limits/memory").and_then(Value::as_str);
        let what = match limit {
            Some(limit) => format!(
                "{} needs more memory than its limit of {limit} and was killed (OOMKilled)",
                self.me()
            ),
            None => format!("{} was killed because its node ran out of memory (OOMKilled)", self.me()),
        };
        self.new_finding(Cause::OutOfMemory, what)
            .seen(self.restarts())
            .advise("raise resources.limits.memory, or have the program use less (heap sizes of Java and Node.js are limits of their own)")
    }

    fn crashed(&self, end: &Value, code: i64) -> Finding {
        let signal = end.pointer("/signal").and_then(Value::as_i64).filter(|signal| *signal > 0);
        let signal = signal.or((code > SIGNALLED && code <= SIGNALLED + 64).then(|| code - SIGNALLED));
        let name = signal.and_then(|signal| signal_name(i32::try_from(signal).ok()?));
        let how = match (signal, name) {
            (Some(signal), Some(name)) => format!("a signal ends {}: {signal} ({name})", self.me()),
            (Some(signal), None) => format!("a signal ends {}: {signal}", self.me()),
            (None, _) if code == 0 => {
                format!("{} ends with exit code 0, and should go on running", self.me())
            }
            (None, _) => format!("{} ends with exit code {code}", self.me()),
        };
        let after = match self.lived(end) {
            Some(0) => ", at once",
            _ => "",
        };
        let message = text(end, "/message");
        let finding = self.new_finding(Cause::CrashLoop, format!("{how}{after}")).seen(self.restarts()).seen(
            if message.is_empty() { String::new() } else { format!("its last words: {}", flat(message)) },
        );
        match (code, signal) {
            (0, _) => finding
                .advise("a program that ends is for a Job; one that serves must stay in the foreground")
                .advise(
                    "without a command of its own the image may just run a shell that has nothing to read",
                ),
            (126 | 127, _) => {
                finding.advise("the shell did not find or could not execute a program: see the log")
            }
            (_, Some(9)) => finding.advise(
                "something killed it: a liveness probe, or memory that ran out in a process below it",
            ),
            _ if self.log().is_empty() => finding
                .advise("it has written nothing: run the image by hand, or have the program say why it ends"),
            _ => finding.advise(
                "see the log; settings, migrations and services it needs are what most often is missing",
            ),
        }
    }

    fn restarts(&self) -> String {
        match count(self.state, "/restartCount") {
            0 => String::new(),
            1 => "state: restarted once".to_owned(),
            times => format!("state: restarted {times} times"),
        }
    }

    /// For how many seconds it ran, if that is known.
    fn lived(&self, end: &Value) -> Option<i64> {
        let at = |place| text(end, place).parse::<jiff::Timestamp>().ok();
        let (from, to) = (at("/startedAt")?, at("/finishedAt")?);
        Some(to.as_second() - from.as_second())
    }

    fn log(&self) -> &'a [String] {
        let key = (self.pod_name().to_owned(), self.name().to_owned());
        self.evidence.logs.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}

fn with_log(mut finding: Finding, log: &[String]) -> Finding {
    let from = log.len().saturating_sub(LINES);
    let lines = log.get(from..).unwrap_or_default();
    finding.evidence.extend(lines.iter().map(|line| format!("log: {line}")));
    finding
}

/// What a probe asks: `GET :8080/healthz`, `TCP :81`, `exec cat /ready`.
fn asked(probe: &Value) -> String {
    let shown = |place: &str| match probe.pointer(place) {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    if let Some(http) = probe.get("httpGet") {
        let path = Some(text(http, "/path")).filter(|path| !path.is_empty()).unwrap_or("/");
        return format!("GET :{}{path}", shown("/httpGet/port"));
    }
    if probe.get("tcpSocket").is_some() {
        return format!("TCP :{}", shown("/tcpSocket/port"));
    }
    if probe.get("grpc").is_some() {
        return format!("gRPC :{}", shown("/grpc/port"));
    }
    let words = probe.pointer("/exec/command").and_then(Value::as_array);
    let words: Vec<&str> = words.into_iter().flatten().filter_map(Value::as_str).collect();
    if words.is_empty() { String::new() } else { format!("exec {}", flat(&words.join(" "))) }
}

fn advice(which: &str, answer: &str) -> String {
    if answer.contains("connection refused") {
        return "nothing listens there: check the port, and that the program listens on 0.0.0.0 and not on 127.0.0.1".to_owned();
    }
    if answer.contains("context deadline exceeded")
        || answer.contains("timed out")
        || answer.contains("timeout")
    {
        return format!("it answers too late: give `{which}Probe.timeoutSeconds` more, or see what keeps it");
    }
    if answer.contains("statuscode: 404") {
        return format!("nothing is there: check `{which}Probe.httpGet.path`");
    }
    if answer.contains("statuscode: 401") || answer.contains("statuscode: 403") {
        return "a probe has no credentials: ask for a path that needs none".to_owned();
    }
    match which {
        "startup" => {
            "give it more time (`startupProbe.failureThreshold`), or see in the log what it waits for"
                .to_owned()
        }
        "liveness" => {
            "a program that starts slowly wants a startupProbe; otherwise see in the log why it answers so"
                .to_owned()
        }
        _ => "see in the log why it answers so".to_owned(),
    }
}

/// The longest answer of a probe that is shown.
const ANSWER: usize = 300;

fn shortened(answer: &str) -> String {
    match answer.char_indices().nth(ANSWER) {
        Some((end, _)) => format!("{}…", answer.get(..end).unwrap_or_default()),
        None => answer.to_owned(),
    }
}

/// Without the layers of programs that the message came through.
fn cause_of(message: &str) -> &str {
    let words = [
        "unable to start container process: ",
        "OCI runtime create failed: ",
        "failed to create shim task: ",
        "failed to create containerd task: ",
    ];
    let rest = words.iter().find_map(|word| message.split_once(word)).map_or(message, |(_, rest)| rest);
    rest.strip_prefix("error during container init: ").unwrap_or(rest)
}
