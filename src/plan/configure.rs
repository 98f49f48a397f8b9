//! Instructions that say something of the image and make no layer: ENV, LABEL, EXPOSE, VOLUME, HEALTHCHECK, STOPSIGNAL.

use super::stage::Draft;
use super::{history, ports};
use crate::dockerfile::{CommandLine, Diagnostic, Healthcheck, Pair, Word, quote};
use crate::image;

pub(super) fn env(draft: &mut Draft, pairs: &[Pair]) -> Result<(), Diagnostic> {
    let pairs = expand_pairs(draft, pairs)?;
    let mut entry = "ENV".to_owned();
    for (name, value) in pairs {
        draft.environment.set(&name, &value);
        draft.stage.config.config.set_env(&name, &value);
        entry.push_str(&format!(" {name}={value}"));
    }
    draft.history(entry, false);
    Ok(())
}

pub(super) fn label(draft: &mut Draft, pairs: &[Pair]) -> Result<(), Diagnostic> {
    let pairs = expand_pairs(draft, pairs)?;
    let mut entry = "LABEL".to_owned();
    for (name, value) in pairs {
        entry.push_str(&format!(" {name}={value}"));
        draft.stage.config.config.labels.insert(name, value);
    }
    draft.history(entry, false);
    Ok(())
}

/// The pairs of one instruction: they see what was there before it, not each other.
fn expand_pairs(draft: &Draft, pairs: &[Pair]) -> Result<Vec<(String, String)>, Diagnostic> {
    let expand = |pair: &Pair| {
        let key = draft.environment.text(&pair.key)?;
        if key.is_empty() {
            return Err(Diagnostic::error("the name is empty", pair.key.span));
        }
        Ok((key, draft.environment.text(&pair.value)?))
    };
    pairs.iter().map(expand).collect()
}

pub(super) fn expose(draft: &mut Draft, words: &[Word]) -> Result<(), Diagnostic> {
    let mut exposed = Vec::new();
    for word in words {
        for specification in draft.environment.expand_words(word)?.words {
            exposed
                .extend(ports::parse(&specification).map_err(|error| Diagnostic::error(error, word.span))?);
        }
    }
    let known = &mut draft.stage.config.config.exposed_ports;
    known.extend(exposed.iter().map(|port| (port.clone(), serde_json::json!({}))));
    draft.history(format!("EXPOSE {}", history::list(&exposed)), false);
    Ok(())
}

pub(super) fn volume(draft: &mut Draft, words: &[Word]) -> Result<(), Diagnostic> {
    let mut volumes = Vec::new();
    for word in words {
        let volume = draft.environment.text(word)?;
        if volume.is_empty() {
            return Err(Diagnostic::error("the path of the volume is empty", word.span));
        }
        volumes.push(volume);
    }
    let known = &mut draft.stage.config.config.volumes;
    known.extend(volumes.iter().map(|volume| (volume.clone(), serde_json::json!({}))));
    draft.history(format!("VOLUME {}", history::list(&volumes)), false);
    Ok(())
}

pub(super) fn healthcheck(draft: &mut Draft, check: &Healthcheck) -> Result<(), Diagnostic> {
    let check = match check {
        Healthcheck::None => image::Healthcheck { test: vec!["NONE".to_owned()], ..Default::default() },
        Healthcheck::Probe { command, interval, timeout, start_period, start_interval, retries } => {
            let (kind, words) = match command {
                CommandLine::Shell(line) => ("CMD-SHELL", vec![line.value.clone()]),
                CommandLine::Exec(words) => ("CMD", words.iter().map(|word| word.value.clone()).collect()),
            };
            let nanoseconds =
                |duration: &std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
            image::Healthcheck {
                test: std::iter::once(kind.to_owned()).chain(words).collect(),
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: i64::from(*retries),
            }
        }
    };
    let entry = format!("HEALTHCHECK {}", history::healthcheck(&check));
    draft.stage.config.config.healthcheck = Some(check);
    draft.history(entry, false);
    Ok(())
}

pub(super) fn stopsignal(draft: &mut Draft, word: &Word) -> Result<(), Diagnostic> {
    let signal = draft.environment.text(word)?;
    if !is_signal(&signal) {
        let message = format!("{} is not a signal", quote(&signal));
        let hint = "write a number, or a name such as `SIGTERM`, `QUIT` or `RTMIN+3`";
        return Err(Diagnostic::error(message, word.span).hint(hint));
    }
    draft.stage.config.config.stop_signal = signal.clone();
    draft.history(format!("STOPSIGNAL {signal}"), false);
    Ok(())
}

/// Whether container runtimes know a signal by this name or number.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 35] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, last: u32| {
        let offset = name.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
        offset.is_some_and(|offset| (1..=last).contains(&offset))
    };
    NAMES.contains(&name) || name == "RTMAX" || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}
