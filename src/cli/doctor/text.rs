//! The report for people.

use std::fmt::Write as _;

use super::registries::{Answer, HostReport, Registries};
use super::state::StateReport;
use super::{Machine, Report};
use crate::report::bytes;
use crate::sandbox::{Emulators, Unusable};

/// A line that is as it should be.
const GOOD: &str = "ok  ";
/// One that is not, and that builds live with.
const WARNING: &str = "warn";
/// One that builds with `RUN` cannot live with.
const BAD: &str = "FAIL";

/// Draws the report.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut out, report);
    out
}

fn write_all(out: &mut String, report: &Report) -> std::fmt::Result {
    machine(out, report.version, &report.machine)?;
    let sign = if report.trial.good { GOOD } else { BAD };
    writeln!(out, "  {sign}  trial: {}", report.trial.outcome)?;
    state(out, &report.state)?;
    registries(out, &report.registries)?;
    for one in &report.hosts {
        host(out, one)?;
    }
    let verdict = match (report.usable, &report.machine.obstacle) {
        (true, _) => "Builds work here, `RUN` steps included.".to_owned(),
        (false, Some(obstacle)) => format!("`RUN` steps cannot be run here: {obstacle}"),
        (false, None) => format!("`RUN` steps cannot be run here: {}", report.trial.outcome),
    };
    writeln!(out, "\n{verdict}")
}

fn machine(out: &mut String, version: &str, machine: &Machine) -> std::fmt::Result {
    writeln!(out, "cofferdam {version}")?;
    let Machine { kernel, platform, uid, processors, .. } = machine;
    writeln!(out, "  {platform}, Linux {kernel}, uid {uid}, {processors} processors")?;
    if let Some(file) = &machine.config_file {
        writeln!(out, "  configuration: {file}")?;
    }
    writeln!(out, "\nSandbox")?;
    for finding in &machine.findings {
        let sign = match (finding.good, finding.needed) {
            (true, _) => GOOD,
            (false, false) => WARNING,
            (false, true) => BAD,
        };
        writeln!(out, "  {sign}  {}: {}", finding.name, finding.outcome)?;
        if !finding.good {
            writeln!(out, "        it means: {}", finding.meaning)?;
        }
    }
    emulators(out, &machine.emulators)
}

/// Whose programs `RUN` can execute besides this machine's. That there are none is as it should be on most machines.
fn emulators(out: &mut String, emulators: &Emulators) -> std::fmt::Result {
    let found = emulators.found();
    if found.is_empty() {
        writeln!(out, "  {GOOD}  other machines' programs: none can be executed, there is no emulator")?;
    } else {
        writeln!(
            out,
            "  {GOOD}  other machines' programs: executed by emulators of {} architectures",
            found.len()
        )?;
    }
    for emulator in found {
        writeln!(out, "        {}: {}", emulator.architecture, emulator.path.display())?;
    }
    for Unusable { architecture, path, why } in emulators.unusable() {
        writeln!(out, "        {architecture}: not {}: {why}", path.display())?;
    }
    Ok(())
}

fn state(out: &mut String, state: &StateReport) -> std::fmt::Result {
    writeln!(out, "\nState directory")?;
    match &state.directory {
        Some(directory) => writeln!(out, "  {GOOD}  {}\n        {}", directory.display(), state.why)?,
        None => writeln!(out, "  {BAD}  {}", state.why)?,
    }
    for passed in &state.passed_over {
        writeln!(out, "        not {}: {}", passed.path.display(), passed.why)?;
    }
    if let Some(system) = &state.file_system {
        let (free, size) = (bytes(system.free_bytes), bytes(system.size_bytes));
        writeln!(out, "        {free} of {size} free, on {}", system.kind)?;
    }
    for note in &state.notes {
        writeln!(out, "  {WARNING}  {note}")?;
    }
    Ok(())
}

fn registries(out: &mut String, registries: &Registries) -> std::fmt::Result {
    let Registries { mirrors, hosts, extra_authorities } = registries;
    if mirrors.is_empty() && hosts.is_empty() && *extra_authorities == 0 {
        return Ok(());
    }
    writeln!(out, "\nRegistries")?;
    for rule in mirrors {
        let last = if rule.fall_back { ", then the registry itself" } else { ", and nowhere else" };
        writeln!(out, "  {}: from {}{last}", rule.of, rule.mirrors.join(", "))?;
    }
    for special in hosts {
        let mut traits = Vec::new();
        if special.insecure {
            traits.push("may have no TLS, or a certificate that is not trusted".to_owned());
        }
        if special.authorities > 0 {
            traits.push(format!("certificates of its own: {}", special.authorities));
        }
        if special.client_certificate {
            traits.push("is shown a certificate".to_owned());
        }
        if traits.is_empty() {
            traits.push("is uploaded to in a way of its own".to_owned());
        }
        writeln!(out, "  {}: {}", special.host, traits.join("; "))?;
    }
    if *extra_authorities > 0 {
        writeln!(out, "  certificates that are trusted beside the system's: {extra_authorities}")?;
    }
    Ok(())
}

fn host(out: &mut String, report: &HostReport) -> std::fmt::Result {
    writeln!(out, "\n{}", report.host)?;
    for answer in &report.answers {
        let Answer { host, is_mirror, reachable, accepted, outcome, hints } = answer;
        let sign = match (reachable, accepted) {
            (true, true) => GOOD,
            (true, false) => WARNING,
            (false, _) => BAD,
        };
        let whose = if *is_mirror { format!("mirror {host}: ") } else { String::new() };
        writeln!(out, "  {sign}  {whose}{outcome}")?;
        for hint in hints {
            writeln!(out, "        help: {hint}")?;
        }
    }
    writeln!(out, "  credentials: {}", report.credentials)?;
    for place in &report.places {
        let mark = if place.used { "->" } else { "  " };
        writeln!(out, "    {mark} {}: {}", place.place, place.found)?;
    }
    Ok(())
}
