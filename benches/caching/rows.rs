//! The rows. In each round a tool does what one project sees in a day; the registry is as the builds before have left it.

use super::inputs::{Application, forty_steps as write_forty_steps};
use super::support::TestImage;
use super::tool::Tool;
use super::tools::Job;
use super::{Bench, PIPELINES};

const PYTHON: &str = "library/python:3.9-slim";

/// A project of one tool: where its image and its cache are.
struct Project {
    repository: String,
}

impl Project {
    fn new(name: &str, tool: Tool) -> Self {
        Self { repository: format!("caching/{name}-{}", tool.name()) }
    }

    fn job(&self, bench: &Bench<'_>, tag: &str) -> Job {
        Job {
            context: bench.scratch.join(format!("context-{tag}")),
            image: format!("{}:{tag}", self.repository),
            cache: format!("{}-cache", self.repository),
            contended: false,
        }
    }

    /// Checks an application out, to be pushed under a tag.
    fn checkout(&self, bench: &Bench<'_>, application: &Application, tag: &str) -> Job {
        let job = self.job(bench, tag);
        application.write(&job.context);
        job
    }
}

/// Rows 1 to 7.
pub fn application(bench: &mut Bench<'_>) {
    // Each has a base of its own, since the base changes too.
    let base = |tool: Tool| format!("caching-base-{}:1", tool.name());
    let move_base = |bench: &Bench<'_>, tool: Tool, version: usize| {
        let content = format!("{version}\n");
        let image = TestImage::from(PYTHON).bytes("etc/base-version", 0o644, content.as_bytes());
        image.push(bench.registry, &format!("library/{}", base(tool)));
    };
    for tool in bench.turn(0) {
        move_base(bench, tool, 0);
        let first =
            Project::new("application", tool).checkout(bench, &Application::on(&base(tool)), "latest");
        bench.build(Some("1"), tool, first);
    }
    for round in 1..=bench.arguments.repeat {
        for tool in bench.turn(round) {
            let project = Project::new("application", tool);
            let before = Application { dependencies: round - 1, line: round, ..Application::on(&base(tool)) };
            let mut build = |row, application: &Application, tag: &str| {
                let job = project.checkout(bench, application, tag);
                bench.build(Some(row), tool, job);
            };
            build("4", &before, "latest");
            build("2", &before, "latest");
            build("3", &before, &format!("new-{round}"));
            let installed = Application { dependencies: round, ..before };
            build("5", &installed, "latest");
            build("7", &Application { stage: Some(round), ..installed.clone() }, "latest");
            move_base(bench, tool, round);
            let job = project.checkout(bench, &installed, "latest");
            bench.build(Some("6"), tool, job);
        }
    }
}

/// Row 8.
pub fn run_follows(bench: &mut Bench<'_>) {
    for round in 0..=bench.arguments.repeat {
        for tool in bench.turn(round) {
            let application = Application { compiled: true, line: round, ..Application::on(PYTHON) };
            let job = Project::new("compiled", tool).checkout(bench, &application, "latest");
            bench.build((round > 0).then_some("8"), tool, job);
        }
    }
}

/// Rows 9 and 10.
pub fn forty_steps(bench: &mut Bench<'_>) {
    for round in 0..=bench.arguments.repeat {
        for tool in bench.turn(round) {
            let project = Project::new("forty", tool);
            for row in [(round > 0).then_some("10"), Some("9")] {
                let job = project.job(bench, "latest");
                write_forty_steps("debian:bookworm-slim", round, &job.context);
                if round > 0 || row.is_none() {
                    bench.build(row, tool, job);
                }
            }
        }
    }
}

/// Row 11.
pub fn pipelines(bench: &mut Bench<'_>) {
    for round in 0..=bench.arguments.repeat {
        for tool in bench.turn(round) {
            let project = Project::new("pipelines", tool);
            let of = |line: usize, tag: &str| {
                project.checkout(bench, &Application { line, ..Application::on(PYTHON) }, tag)
            };
            if round == 0 {
                let first = of(0, "latest");
                bench.build(None, tool, first);
            } else {
                let of_one = |number| {
                    let job = of(round * PIPELINES + number, &format!("branch-{number}"));
                    Job { contended: true, ..job }
                };
                let jobs: Vec<Job> = (0..PIPELINES).map(of_one).collect();
                bench.build_all(Some("11"), tool, &jobs);
            }
        }
    }
}
