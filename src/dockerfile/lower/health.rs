//! HEALTHCHECK.

use std::time::Duration;

use super::super::diagnostic::{Diagnostic, quote};
use super::super::instruction::Healthcheck;
use super::super::suggest::nearest;
use super::super::values;
use super::Lowering;
use super::flags::{FlagKind, FlagSpec, Flags};

const FLAGS: [FlagSpec; 5] = [
    FlagSpec { name: "interval", kind: FlagKind::Value },
    FlagSpec { name: "timeout", kind: FlagKind::Value },
    FlagSpec { name: "start-period", kind: FlagKind::Value },
    FlagSpec { name: "start-interval", kind: FlagKind::Value },
    FlagSpec { name: "retries", kind: FlagKind::Value },
];

/// The shortest duration that is one.
const SHORTEST: Duration = Duration::from_millis(1);

impl Lowering<'_> {
    pub(super) fn healthcheck(&mut self) -> Option<Healthcheck> {
        let rest = self.rest_as_one("CMD or NONE")?;
        let text = self.line.slice(rest.clone());
        let length = text.find(char::is_whitespace).unwrap_or(text.len());
        let kind = rest.start..rest.start + length;
        let behind = text.get(length..).unwrap_or("");
        let arguments = rest.end - behind.trim_start().len()..rest.end;
        let written = self.line.slice(kind.clone()).to_owned();
        if written.eq_ignore_ascii_case("none") {
            self.idle_flags_of_none();
            if !arguments.is_empty() {
                let finding = Diagnostic::error("NONE is followed by something", self.line.span(arguments));
                self.findings
                    .push(finding.hint("HEALTHCHECK NONE switches the probe off and takes no arguments"));
                return None;
            }
            return Some(Healthcheck::None);
        }
        let flags = Flags::read(self, &FLAGS);
        if !written.eq_ignore_ascii_case("cmd") {
            let message = format!("HEALTHCHECK is followed by {}", quote(&written));
            let finding = Diagnostic::error(message, self.line.span(kind));
            self.findings.push(finding.hint(match nearest(&written, ["CMD", "NONE"]) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "write `HEALTHCHECK CMD …`, or NONE to switch the probe off".to_owned(),
            }));
            return None;
        }
        let command = self.command(arguments)?;
        if command.is_empty() {
            self.findings.push(Diagnostic::error("CMD is not followed by a command", self.line.span(kind)));
            return None;
        }
        Some(Healthcheck::Probe {
            command,
            interval: self.duration(&flags, "interval"),
            timeout: self.duration(&flags, "timeout"),
            start_period: self.duration(&flags, "start-period"),
            start_interval: self.duration(&flags, "start-interval"),
            retries: self.retries(&flags),
        })
    }

    fn idle_flags_of_none(&mut self) {
        for raw in &self.head.flags {
            let place = self.line.span(raw.range.clone());
            let message = format!("{} has no effect", quote(&raw.text.text));
            self.findings.push(Diagnostic::warning(message, place).hint("HEALTHCHECK NONE has no flags"));
        }
    }

    fn duration(&mut self, flags: &Flags, name: &str) -> Duration {
        let Some(value) = flags.text(name) else { return Duration::ZERO };
        let wrong = match values::duration(&value.text) {
            Ok(duration) if duration.is_zero() || duration >= SHORTEST => return duration,
            Ok(_) => "is less than a millisecond",
            Err(wrong) => wrong,
        };
        let message = format!("{} of `--{name}` {wrong}", quote(&value.text));
        self.findings.push(Diagnostic::error(message, value.span(self.line)));
        Duration::ZERO
    }

    fn retries(&mut self, flags: &Flags) -> u32 {
        let Some(value) = flags.text("retries") else { return 0 };
        if let Some(retries) = value.text.parse::<i32>().ok().and_then(|retries| u32::try_from(retries).ok())
        {
            return retries;
        }
        let message = format!("{} of `--retries` is not a number of times", quote(&value.text));
        self.findings.push(Diagnostic::error(message, value.span(self.line)));
        0
    }
}
