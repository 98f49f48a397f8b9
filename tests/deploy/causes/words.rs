//! What was said, without what differs from run to run and from machine to machine.

use serde_json::Value;

use super::{LIMIT, Place};

/// The end of a run in words.
pub(super) fn shown(failed: &Value, place: &Place) -> String {
    let texts = |field: &str| failed[field].as_array().cloned().unwrap_or_default();
    let mut lines = vec![format!("error: {}", failed["message"].as_str().unwrap_or_default())];
    for cause in texts("causes") {
        lines.extend(cause.as_str().unwrap_or_default().lines().map(|line| format!("  {line}")));
    }
    lines.extend(texts("hints").iter().map(|hint| format!("help: {}", hint.as_str().unwrap_or_default())));
    // How often, and how far it was at that moment, is a matter of time.
    lines.retain(|line| {
        !line.trim_start().starts_with("state: restarted") && !line.trim_start().starts_with("status: ")
    });
    let mut text = lines.join("\n");
    for (address, name) in
        [(&place.open, "OPEN"), (&place.private, "PRIVATE"), (&place.untrusted, "UNTRUSTED")]
    {
        text = text.replace(address.address(), name);
    }
    // A node that has gone silent gets these when the controller finds out.
    for taint in
        ["unreachable:NoSchedule", "unreachable:NoExecute", "not-ready:NoSchedule", "not-ready:NoExecute"]
    {
        text = text.replace(&format!("`node.kubernetes.io/{taint}`, "), "");
        text = text.replace(&format!(", `node.kubernetes.io/{taint}`"), "");
    }
    let words = text.replace(", at once", "").replace(&format!("after {LIMIT}.0s"), "after …");
    let redact = |line: &str| if line.starts_with("help: ") { line.to_owned() } else { redacted(line) };
    words.lines().map(redact).collect::<Vec<_>>().join("\n")
}

/// A line without counts, addresses, and names that are drawn by lot.
fn redacted(line: &str) -> String {
    if let Some((before, _)) = line.split_once("scheduler: ") {
        return format!("{before}scheduler: …");
    }
    // What this machine has, as opposed to the nodes that are made up.
    if let Some((before, rest)) = line.split_once("node node has cpu ") {
        let rest = rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == 'm');
        return format!("{before}node node has cpu …{rest}");
    }
    let line = match (line.find(" ("), line.find(" times)")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &line[..from], &line[to + " times)".len()..]),
        _ => line.to_owned(),
    };
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-.:".contains(letter);
    let mut shown = String::new();
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        shown.push_str(&drawn(word));
        let next = after.chars().next().map_or(0, char::len_utf8);
        shown.push_str(&after[..next]);
        rest = &after[next..];
    }
    shown
}

fn drawn(word: &str) -> String {
    let address = word.trim_end_matches([':', '.']);
    let is_address = address.split(':').next().is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok());
    if is_address {
        return word.replace(address, "ADDRESS");
    }
    for name in ["web-", "task-"] {
        if word.starts_with(name) && word.len() > name.len() + 4 {
            return format!("{name}…");
        }
    }
    let bare = word.trim_end_matches(':');
    match bare.split_once(':') {
        // Programs in images are this machine's compiler's.
        Some(("sha256", hex)) if hex.len() == 64 && !hex.trim_start_matches('0').is_empty() => {
            word.replace(hex, "…")
        }
        _ if word.len() == 36 && word.matches('-').count() == 4 => "UID".to_owned(),
        _ => word.to_owned(),
    }
}
