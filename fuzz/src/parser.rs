//! Whatever the bytes are, they are a Dockerfile or the findings say why not, each at a place that is in the text.

use std::collections::BTreeMap;

use cofferdam::dockerfile::{self, Diagnostics, Dockerfile};
use cofferdam::image::Platform;
use cofferdam::plan::{Graph, Options};
use cofferdam::report::Findings;

pub fn run(data: &[u8]) {
    let text = match dockerfile::decode(data) {
        Ok(text) => text,
        Err(wrong) => return show(&wrong.1, Diagnostics(vec![wrong.0])),
    };
    // What checks find goes on where building gives up.
    if let Err(broken) = dockerfile::parse_for_checks(&text, None) {
        show(&text, broken.findings);
    }
    match dockerfile::parse(&text) {
        Ok(parsed) => {
            in_order(&parsed, &text);
            show(&text, Diagnostics(parsed.warnings.0.clone()));
            planned(&parsed, &text);
        }
        Err(found) => {
            assert!(!found.0.is_empty(), "it is refused for no reason");
            show(&text, found);
        }
    }
    // A trigger is an instruction of its own, with other rules.
    if let Err(found) = dockerfile::parse_trigger(&text) {
        show(&text, found);
    }
}

/// Findings are drawn, with their lines.
fn show(text: &str, found: Diagnostics) {
    for finding in &found.0 {
        let span = finding.span();
        assert!(span.is_empty() || text.get(span.start..span.end).is_some(), "{span:?} is not in the text");
    }
    if !found.0.is_empty() {
        assert!(!Findings::new("Dockerfile", text, found).render(false).is_empty());
    }
}

/// Instructions are pieces of the text, one after the other.
fn in_order(parsed: &Dockerfile, text: &str) {
    let mut end = 0;
    let global = parsed.global_args.iter().map(|instruction| instruction.span);
    let stages = parsed.stages.iter().flat_map(|stage| {
        std::iter::once(stage.from.span).chain(stage.instructions.iter().map(|instruction| instruction.span))
    });
    for span in global.chain(stages) {
        assert!(end <= span.start && span.start <= span.end, "{span:?} begins before {end}");
        assert!(text.get(span.start..span.end).is_some(), "{span:?} is not in the text");
        end = span.end;
    }
}

fn planned(parsed: &Dockerfile, text: &str) {
    let options = Options {
        target: None,
        build_args: BTreeMap::from([("x".to_owned(), "value".to_owned())]),
        labels: Vec::new(),
        platform: None,
        build_platform: Platform::host(),
        named_contexts: BTreeMap::new(),
    };
    let graph = match Graph::new(parsed, &options) {
        Ok(graph) => graph,
        Err(found) => return show(text, found),
    };
    let mut graph = graph;
    match graph.wanted() {
        // Images are not to be had here.
        Ok(wanted) if !wanted.is_empty() => {}
        Ok(_) => {
            if let Err(found) = graph.plan() {
                show(text, found);
            }
        }
        Err(found) => show(text, found),
    }
}
