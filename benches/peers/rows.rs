//! The rows that are whole builds.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::Bench;
use super::inputs;
use super::support::{BuildKit, Registry, testdata};
use super::tool::gone;
use super::tools::Session;

/// How often a short build is measured in one session.
const SHORT: usize = 3;
const BASE: &str = "debian:bookworm-slim";

/// Rows 1 to 3: cold, nothing changed, a line of source changed.
pub fn calculator(bench: &mut Bench) {
    let registry = Registry::start();
    for round in 0..bench.repeat {
        for tool in Bench::turn(round) {
            let context = bench.scratch.join("calculator");
            inputs::copy(&testdata("calculator"), &context);
            let name = registry.reference(&format!("peers/calculator-{}-{round}:1", tool.name()));
            let session = Session::start(tool, &registry, &bench.scratch);
            bench.note("1", tool, session.build(&context, &name));
            for _ in 0..SHORT {
                bench.note("2", tool, session.build(&context, &name));
            }
            for change in 0..SHORT {
                let app = File::options().append(true).open(context.join("app.py"));
                writeln!(app.expect("the application"), "# changed {change}").expect("a line");
                bench.note("3", tool, session.build(&context, &name));
            }
            session.end();
            fs::remove_dir_all(context).expect("the context can be removed");
        }
    }
    end(registry);
}

/// Row 4.
pub fn many_files(bench: &mut Bench) {
    copy(bench, "4", inputs::many_files);
}

/// Row 5.
pub fn one_gib(bench: &mut Bench) {
    copy(bench, "5", inputs::one_gib);
}

/// COPY onto a base that each tool has used, and its registry has, already.
fn copy(bench: &mut Bench, row: &'static str, fill: fn(&Path)) {
    let registry = Registry::start();
    let files = inputs::context(bench.scratch.join("copied"), &format!("FROM {BASE}\nCOPY files /files\n"));
    fill(&files);
    let before =
        inputs::context(bench.scratch.join("before"), &format!("FROM {BASE}\nCOPY Dockerfile /before\n"));
    for round in 0..bench.repeat {
        for tool in Bench::turn(round) {
            let repository = format!("peers/copy-{row}-{}-{round}", tool.name());
            let session = Session::start(tool, &registry, &bench.scratch);
            session.build(&before, &registry.reference(&format!("{repository}:before")));
            let name = format!("{repository}:1");
            let sample = session.build(&files, &registry.reference(&name));
            bench.note(row, tool, sample);
            bench.table.note_layer(row, tool, last_layer(&registry, &name));
            session.end();
        }
    }
    fs::remove_dir_all(files).expect("the context can be removed");
    fs::remove_dir_all(before).expect("the context can be removed");
    end(registry);
}

/// Row 6: RUN on an image of many files; a tool that has never seen it, and one that has built on it before.
pub fn touch(bench: &mut Bench) {
    let registry = Registry::start();
    let base = registry.reference("peers/files:base");
    let files = inputs::context(bench.scratch.join("base"), &format!("FROM {BASE}\nCOPY files /files\n"));
    inputs::many_files(&files);
    let maker = BuildKit::start(&[&registry]);
    let directory = maker.directory().to_owned();
    maker.build(&files).push(&base).run().unwrap_or_else(|log| panic!("the base is not built:\n{log}"));
    drop(maker);
    gone(&directory);
    fs::remove_dir_all(files).expect("the context can be removed");
    for round in 0..bench.repeat {
        for tool in Bench::turn(round) {
            let name = registry.reference(&format!("peers/touch-{}-{round}:1", tool.name()));
            let session = Session::start(tool, &registry, &bench.scratch);
            for (row, number) in [("6", 1), ("6b", 2)] {
                let text = format!("FROM {base}\nRUN echo {number} > /files/000/file-00000{number}.txt\n");
                let context = inputs::context(bench.scratch.join("touch"), &text);
                bench.note(row, tool, session.build(&context, &name));
            }
            session.end();
        }
    }
    end(registry);
}

/// The size of the last layer of an image, as the registry has it.
fn last_layer(registry: &Registry, name: &str) -> u64 {
    let manifest = registry.manifest(name);
    let layers = manifest["layers"].as_array().expect("layers");
    layers.last().and_then(|layer| layer["size"].as_u64()).expect("a size")
}

/// Ends a registry, and waits until its files are gone.
pub fn end(registry: Registry) {
    let directory = registry.storage();
    drop(registry);
    gone(&directory);
}
