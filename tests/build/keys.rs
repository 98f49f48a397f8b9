//! Keys of steps: a change of an input changes the keys of the step that it is an input of, and of those above it, and no
//! other; and a build that finds results has the digest of one that finds none.
//!
//! Dockerfiles are drawn by lot, and so is what changes in them: what has to follow is known from how they were drawn.
//! `KEYS=300` runs the campaign at full size, `KEYS_FROM=SEED KEYS=1` one of it; see `docs/campaigns.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;

use fastrand::Rng;

use crate::support::{Cofferdam, Registry};
use crate::{build, context, run};

/// In an ordinary run of the tests.
const FEW: u64 = 12;
/// How often something changes in each.
const CHANGES: usize = 3;
/// Files of the context.
const FILES: u32 = 4;

/// What a step does. Each number is an input that can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    RunWithoutNetwork,
    RunWithSecret,
    RunWithFile { file: u32 },
    RunWithStage { stage: usize, step: u32 },
    CopyFile { file: u32 },
    CopyWithOwner { file: u32 },
    CopyWithMode { file: u32 },
    CopyFrom { stage: usize, step: u32 },
    Heredoc,
    Workdir,
    Arg,
    Env,
    Label,
    User,
    Shell,
}

use Kind::{
    Arg, CopyFile, CopyFrom, CopyWithMode, CopyWithOwner, Env, Heredoc, Label, Run, RunWithFile,
    RunWithSecret, RunWithStage, RunWithoutNetwork, Shell, User, Workdir,
};

#[derive(Debug, Clone)]
struct Step {
    id: u32,
    kind: Kind,
    value: u32,
}

#[derive(Debug, Clone)]
struct Stage {
    /// The stage it begins with, if it is not the image.
    from: Option<usize>,
    steps: Vec<Step>,
}

/// A Dockerfile and what belongs to it.
#[derive(Debug, Clone)]
struct Project {
    stages: Vec<Stage>,
    /// Contents and permissions.
    files: Vec<(u32, u32)>,
    base: u32,
    /// What must never matter: comments, names of stages, values of secrets, times, files that nothing takes.
    trifle: u32,
    /// Arguments that are given, by the step that declares them.
    given: BTreeMap<u32, u32>,
    next: u32,
}

impl Step {
    fn runs(&self) -> bool {
        matches!(
            self.kind,
            Run | RunWithoutNetwork | RunWithSecret | RunWithFile { .. } | RunWithStage { .. }
        )
    }

    /// Whether it makes a layer, so that it has a key.
    fn has_key(&self) -> bool {
        !matches!(self.kind, Arg | Env | Label | User | Shell)
    }

    /// Whether there is a file `/out/sID` after it.
    fn makes_file(&self) -> bool {
        self.has_key() && self.kind != Workdir
    }

    fn source(&self) -> Option<(usize, u32)> {
        match self.kind {
            RunWithStage { stage, step } | CopyFrom { stage, step } => Some((stage, step)),
            _ => None,
        }
    }

    fn file(&self) -> Option<u32> {
        match self.kind {
            RunWithFile { file } | CopyFile { file } | CopyWithOwner { file } | CopyWithMode { file } => {
                Some(file)
            }
            _ => None,
        }
    }

    fn text(&self, trifle: u32) -> String {
        let Self { id, value, .. } = self;
        match self.kind {
            Run => format!("RUN echo {value} $E0 > /out/s{id}"),
            RunWithoutNetwork => format!("RUN --network=none echo {value} > /out/s{id}"),
            RunWithSecret => {
                format!(
                    "RUN --mount=type=secret,id=word,target=/tmp/word,mode=0444 cat /tmp/word | wc -l > /out/s{id}; true {value}"
                )
            }
            RunWithFile { file } => {
                format!(
                    "RUN --mount=type=bind,source=f{file},target=/tmp/f cat /tmp/f > /out/s{id}; true {value}"
                )
            }
            RunWithStage { stage, step } => {
                format!(
                    "RUN --mount=type=bind,from=t{trifle}n{stage},target=/mnt cat /mnt/out/s{step} > /out/s{id}; true {value}"
                )
            }
            CopyFile { file } => format!("COPY f{file} /out/s{id}"),
            CopyWithOwner { file } => format!("COPY --chown={value}:7 f{file} /out/s{id}"),
            CopyWithMode { file } => format!("COPY --chmod={:o} f{file} /out/s{id}", 0o600 + value % 64),
            CopyFrom { stage, step } => format!("COPY --from=t{trifle}n{stage} /out/s{step} /out/s{id}"),
            Heredoc => format!("COPY <<EOF /out/s{id}\ntext {value}\nEOF"),
            Workdir => format!("WORKDIR /out/s{id}/v{value}"),
            Arg => format!("ARG A{id}={value}"),
            Env => format!("ENV E{id}={value}"),
            Label => format!("LABEL l{id}={value}"),
            User => format!("USER {}", 1000 + value),
            Shell => format!("SHELL [\"/bin/sh\", \"-c\", \"eval \\\"$0\\\"; true {value}\"]"),
        }
    }
}

impl Project {
    fn draw(rng: &mut Rng) -> Self {
        let mut project = Self {
            stages: Vec::new(),
            files: (0..FILES).map(|file| (file, 0o644)).collect(),
            base: rng.u32(..3),
            trifle: 0,
            given: BTreeMap::new(),
            next: 1,
        };
        for number in 0..rng.usize(2..5) {
            let from = if number > 0 && rng.u8(..10) < 4 { Some(rng.usize(..number)) } else { None };
            project.stages.push(Stage { from, steps: Vec::new() });
            for _ in 0..rng.usize(2..6) {
                let step = project.step(number, rng);
                project.stages[number].steps.push(step);
            }
        }
        project
    }

    /// A new step for a stage.
    fn step(&mut self, stage: usize, rng: &mut Rng) -> Step {
        let id = self.next;
        self.next += 1;
        let sources: Vec<(usize, u32)> = (0..stage)
            .flat_map(|other| self.stages[other].steps.iter().map(move |step| (other, step)))
            .filter_map(|(other, step)| step.makes_file().then_some((other, step.id)))
            .collect();
        let file = rng.u32(..FILES);
        let kind = match (rng.u8(..20), rng.choice(&sources)) {
            (0..3, Some(&(stage, step))) => CopyFrom { stage, step },
            (3..5, Some(&(stage, step))) => RunWithStage { stage, step },
            (5, _) => RunWithoutNetwork,
            (6, _) => RunWithSecret,
            (7..9, _) => RunWithFile { file },
            (9..11, _) => CopyFile { file },
            (11, _) => CopyWithOwner { file },
            (12, _) => CopyWithMode { file },
            (13, _) => Heredoc,
            (14, _) => Workdir,
            (15, _) => Arg,
            (16, _) => Env,
            (17, _) => Label,
            (18, _) => User,
            (19, _) => Shell,
            _ => Run,
        };
        Step { id, kind, value: rng.u32(..50) }
    }

    fn dockerfile(&self, base: &str) -> String {
        let mut text = format!("# {}\n", self.trifle);
        for (number, stage) in self.stages.iter().enumerate() {
            let trifle = self.trifle;
            let from = stage
                .from
                .map_or_else(|| format!("{base}:{}", self.base), |from| format!("t{trifle}n{from}"));
            let _ = writeln!(text, "FROM {from} AS t{trifle}n{number}");
            for step in &stage.steps {
                let _ = writeln!(
                    text,
                    "{}{}",
                    step.text(trifle),
                    if trifle.is_multiple_of(2) { "" } else { "\n# between" }
                );
            }
        }
        text
    }

    fn write(&self, directory: &std::path::Path, base: &str) {
        std::fs::write(directory.join("Dockerfile"), self.dockerfile(base)).unwrap();
        for (number, (content, mode)) in self.files.iter().enumerate() {
            let path = directory.join(format!("f{number}"));
            // Written anew, so that its times differ.
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, format!("content {content}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
        }
        std::fs::write(directory.join("nobody-takes-it"), self.trifle.to_string()).unwrap();
        std::fs::write(directory.join("word"), format!("{}\n", self.trifle)).unwrap();
    }

    fn flags(&self, directory: &std::path::Path) -> Vec<String> {
        let mut flags = vec![format!("--secret=id=word,src={}", directory.join("word").display())];
        flags.extend(self.given.iter().map(|(id, value)| format!("--build-arg=A{id}={value}")));
        // Predefined, and no input of a step.
        flags.push(format!("--build-arg=HTTPS_PROXY=http://proxy-{}.example.com", self.trifle));
        flags
    }

    /// The steps that come after a step, in its stage and in those that begin with it, until one says `ends`.
    fn after(&self, id: u32, ends: impl Fn(&Step) -> bool) -> Vec<&Step> {
        let mut found = Vec::new();
        // Whether what the step says holds at the end of each stage.
        let mut holds = vec![false; self.stages.len()];
        for (number, stage) in self.stages.iter().enumerate() {
            let mut inside = stage.from.is_some_and(|from| holds[from]);
            for step in &stage.steps {
                if step.id == id {
                    inside = true;
                } else if inside && ends(step) {
                    inside = false;
                } else if inside {
                    found.push(step);
                }
            }
            holds[number] = inside;
        }
        found
    }

    /// The steps of which an input is what changed, all that stands on them, and what takes files from those besides:
    /// these keep their key if the files turn out to be the same.
    fn follow(&self, changed: &BTreeSet<u32>) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        let mut ends: Vec<(bool, bool)> = Vec::new();
        for stage in &self.stages {
            let (mut surely, mut perhaps) = stage.from.map_or((false, false), |from| ends[from]);
            for step in stage.steps.iter().filter(|step| step.has_key()) {
                surely |= changed.contains(&step.id);
                perhaps |= surely || step.source().is_some_and(|(stage, _)| ends[stage].1);
                if surely {
                    must.insert(step.id);
                }
                if perhaps {
                    may.insert(step.id);
                }
            }
            ends.push((surely, perhaps));
        }
        (must, may)
    }

    fn all(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Changes something. Gives what, and the steps of which it is an input.
    fn change(&mut self, rng: &mut Rng) -> (String, BTreeSet<u32>) {
        let ids = |steps: Vec<&Step>, of: fn(&Step) -> bool| {
            steps.into_iter().filter(|step| of(step)).map(|step| step.id).collect::<BTreeSet<u32>>()
        };
        match rng.u8(..12) {
            0 => {
                self.trifle += 1;
                ("what does not matter".to_owned(), BTreeSet::new())
            }
            1 => {
                self.base += 1;
                let first =
                    |stage: &Stage| stage.steps.iter().find(|step| step.has_key()).map(|step| step.id);
                // A stage without steps hands the image on.
                let mut bare = vec![false; self.stages.len()];
                let mut changed = BTreeSet::new();
                for (number, stage) in self.stages.iter().enumerate() {
                    if stage.from.is_none_or(|from| bare[from]) {
                        bare[number] = first(stage).is_none();
                        changed.extend(first(stage));
                    }
                }
                ("the base image".to_owned(), changed)
            }
            2 | 3 => {
                let file = rng.u32(..FILES);
                let entry = &mut self.files[file as usize];
                let what = if rng.bool() {
                    entry.0 += 100;
                    "content"
                } else {
                    entry.1 ^= 0o111;
                    "mode"
                };
                let changed = self.all().filter(|step| step.file() == Some(file));
                // A mode that a COPY sets is none of the file's.
                let changed =
                    changed.filter(|step| what == "content" || !matches!(step.kind, CopyWithMode { .. }));
                (format!("the {what} of f{file}"), changed.map(|step| step.id).collect())
            }
            4 => {
                let number = rng.usize(..self.stages.len());
                let at = rng.usize(..=self.stages[number].steps.len());
                let step = Step { kind: Heredoc, ..self.step(number, rng) };
                let id = step.id;
                self.stages[number].steps.insert(at, step);
                (format!("step {id} is new"), BTreeSet::from([id]))
            }
            _ => {
                let stages = self.stages.len();
                let stage = &mut self.stages[rng.usize(..stages)];
                let count = stage.steps.len();
                let step = &mut stage.steps[rng.usize(..count)];
                let (id, kind) = (step.id, step.kind);
                if kind == Arg && rng.bool() {
                    *self.given.entry(id).or_insert(50) += 1;
                } else if kind == Arg && self.given.contains_key(&id) {
                    step.value += 1;
                    return (format!("the default of A{id}, which is given"), BTreeSet::new());
                } else if matches!(kind, CopyFile { .. } | CopyFrom { .. }) {
                    // Where it goes to is its name.
                    return ("nothing".to_owned(), BTreeSet::new());
                } else {
                    step.value += 1;
                }
                let what = format!("the value of step {id}, {kind:?}");
                let changed = match kind {
                    Arg | Env => ids(self.after(id, |_| false), Step::runs),
                    Shell => ids(self.after(id, |step| step.kind == Shell), Step::runs),
                    // A directory that WORKDIR makes is the user's.
                    User => ids(self.after(id, |step| step.kind == User), |step| {
                        step.runs() || step.kind == Workdir
                    }),
                    Label => BTreeSet::new(),
                    _ => BTreeSet::from([id]),
                };
                (what, changed)
            }
        }
    }
}

/// Keys and fates of steps, by the numbers of steps.
type Keys = BTreeMap<u32, (String, String)>;

/// Where the parts of a run are.
struct Place<'a> {
    registry: &'a Registry,
    tree: tempfile::TempDir,
    base: String,
    cache: String,
}

impl Place<'_> {
    /// What a machine that has built nothing says of each step.
    fn keys(&self, project: &Project) -> Keys {
        let cofferdam = Cofferdam::new();
        let mut command = cofferdam.command();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["cache", "why", "--format=json", &self.cache]);
        let said =
            run(command.args(project.flags(self.tree.path())).arg(self.tree.path())).succeeded().stdout;
        let steps: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        let known = steps.iter().map(|step| {
            let text = |field: &str| step[field].as_str().unwrap().to_owned();
            let title = text("text");
            let (_, after) = title.rsplit_once("/out/s").unwrap_or_else(|| panic!("no number in {step}"));
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            (digits.parse().unwrap(), (text("key"), text("fate")))
        });
        known.collect()
    }

    /// The digest of what a machine that has built nothing builds.
    fn digest(&self, project: &Project, how: &str) -> String {
        let flags = project.flags(self.tree.path());
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.extend(["--build-arg=SOURCE_DATE_EPOCH=1700000000", how]);
        build(&Cofferdam::new(), self.registry, self.tree.path(), &flags).succeeded().digest().to_owned()
    }

    fn bases(&self, up_to: u32, made: &mut BTreeSet<u32>) {
        for number in 0..=up_to {
            if !made.insert(number) {
                continue;
            }
            let base =
                context(&format!("FROM busybox:1\nRUN mkdir -m 1777 /out && echo {number} > /base\n"), &[]);
            let tag = format!("--tag={}:{number}", self.base);
            build(&Cofferdam::new(), self.registry, base.path(), &[&tag, "--push"]).succeeded();
        }
    }
}

#[test]
fn a_change_reaches_its_steps_and_no_others() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("KEYS_FROM", 1), number("KEYS", FEW));
    let registry = Registry::start();
    let mut bases = BTreeSet::new();
    let (mut changes, mut steps, mut kept) = (0, 0, 0);
    for seed in first..first + count {
        let mut rng = Rng::with_seed(seed);
        let mut project = Project::draw(&mut rng);
        let place = Place {
            registry: &registry,
            tree: context("", &[]),
            base: registry.reference("group/base"),
            cache: format!("--cache-repo={}", registry.reference(&format!("group/keys-{seed}"))),
        };
        place.bases(project.base + 1, &mut bases);
        project.write(place.tree.path(), &place.base);
        place.digest(&project, &place.cache);
        for _ in 0..CHANGES {
            let before = place.keys(&project);
            let (what, changed) = project.change(&mut rng);
            place.bases(project.base, &mut bases);
            project.write(place.tree.path(), &place.base);
            let after = place.keys(&project);
            let told = || {
                format!(
                    "seed {seed}: {what} has changed\n{}\n{before:#?}\n{after:#?}",
                    project.dockerfile("BASE")
                )
            };
            let (must, may) = project.follow(&changed);
            for (id, (key, fate)) in &after {
                let Some((known, _)) = before.get(id) else {
                    assert!(changed.contains(id) || fate == "executed", "step {id} is new: {}", told());
                    continue;
                };
                assert!(key != known || !must.contains(id), "step {id} keeps its key: {}", told());
                assert!(fate != "cached" || !must.contains(id), "step {id} is cached: {}", told());
                assert!(key == known || may.contains(id), "step {id} has another key: {}", told());
                assert!(fate != "executed" || may.contains(id), "step {id} is carried out: {}", told());
                steps += 1;
                kept += usize::from(key == known);
            }
            let digest = place.digest(&project, &place.cache);
            assert_eq!(digest, place.digest(&project, "--no-cache"), "{}", told());
            changes += 1;
        }
    }
    eprintln!("{count} seeds, {changes} changes, {steps} keys compared: {kept} are the same");
    assert!(kept > 0 && kept < steps, "this has compared nothing");
}
