//! Passwords in addresses are not shown: not in instructions, warnings, errors or notes, and not in any format.

use std::borrow::Cow;
use std::ops::Range;

use super::event::{Event, Failure, Outcome};

/// What stands where a user and a password were.
const HIDDEN: &str = "***";

/// `text` with `user:password@` of every address in it hidden: `https://***@host/`.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut from = 0;
    for hidden in user_parts(text) {
        shown.push_str(text.get(from..hidden.start).unwrap_or_default());
        shown.push_str(HIDDEN);
        from = hidden.end;
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    shown.push_str(text.get(from..).unwrap_or_default());
    Cow::Owned(shown)
}

/// The same with a `*` for every byte, so that places in the text stay where they are.
pub(super) fn masked_in_place(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for hidden in user_parts(text) {
        shown.push_str(text.get(from..hidden.start).unwrap_or_default());
        shown.extend(std::iter::repeat_n('*', hidden.len()));
        from = hidden.end;
    }
    shown.push_str(text.get(from..).unwrap_or_default());
    shown
}

/// Where addresses in `text` name a user (RFC 3986, 3.2.1: what stands between `//` and the last `@` of the authority).
fn user_parts(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, found)| {
        let start = at + found.len();
        let rest = text.get(start..)?;
        let ends = |letter: char| letter.is_whitespace() || "/?#\"'`<>\\".contains(letter);
        let authority = rest.get(..rest.find(ends).unwrap_or(rest.len()))?;
        let user = authority.rfind('@')?;
        // A variable is not the secret it stands for.
        let is_variable =
            authority.get(..user).is_some_and(|user| user.starts_with('$') && !user.contains(':'));
        (user > 0 && !is_variable).then_some(start..start + user)
    })
}

/// Hides passwords in the texts of an event. What steps write is theirs and stays as it is.
pub(super) fn redact_event(event: &mut Event) {
    match event {
        Event::StepStarted(step) | Event::StepCached { step, .. } => hide(&mut step.text),
        Event::CacheMiss { reason, changes, .. } => {
            hide(reason);
            for change in changes {
                hide(&mut change.what);
                change.before.iter_mut().chain(change.after.iter_mut()).for_each(hide);
            }
        }
        Event::TransferStarted(transfer) => hide(&mut transfer.what),
        Event::TransferDone { outcome: Outcome::Failed { reason }, .. } => hide(reason),
        Event::Warning { text, hint } => {
            hide(text);
            hint.iter_mut().for_each(hide);
        }
        Event::Note { text } | Event::Detail { text } => hide(text),
        Event::RolloutProgress(progress) => hide(&mut progress.text),
        Event::Diagnosis(diagnosis) => {
            hide(&mut diagnosis.text);
            diagnosis.evidence.iter_mut().for_each(hide);
        }
        Event::Failed(Failure { message, causes, hints, .. }) => {
            hide(message);
            causes.iter_mut().chain(hints.iter_mut()).for_each(hide);
        }
        _ => {}
    }
}

fn hide(text: &mut String) {
    if let Cow::Owned(shown) = redact(text) {
        *text = shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("https://user:pass@host/path", "https://***@host/path")]
    #[case(
        "pip install -i https://token@pypi.example/simple flask",
        "pip install -i https://***@pypi.example/simple flask"
    )]
    #[case("http://a:b@x and http://c:d@y", "http://***@x and http://***@y")]
    #[case("https://u:p@ss@host", "https://***@host")]
    #[case("https://user:${TOKEN}@host", "https://***@host")]
    #[case("https://${TOKEN}@host", "https://${TOKEN}@host")]
    #[case("https://host/a@b", "https://host/a@b")]
    #[case("https://host:8080/?mail=a@b", "https://host:8080/?mail=a@b")]
    #[case("ssh://git@host", "ssh://***@host")]
    #[case("no address", "no address")]
    #[case("://", "://")]
    fn addresses(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(redact(text), shown);
        assert_eq!(masked_in_place(text).len(), text.len());
        assert_eq!(masked_in_place(text) == text, shown == text);
    }

    #[test]
    fn a_failure_shows_none_of_its_secrets() {
        let secret = || "x https://u:hunter2@h/ y".to_owned();
        let mut event = Event::Failed(Failure {
            message: secret(),
            causes: vec![secret()],
            hints: vec![secret()],
            ..Failure::default()
        });
        redact_event(&mut event);
        assert!(!format!("{event:?}").contains("hunter2"));
    }
}
