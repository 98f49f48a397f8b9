//! What is built. Each build has a checkout of its own: files that nobody changed have another time.

use std::fs;
use std::path::Path;

use super::support::testdata;

/// Steps of the long Dockerfile.
const STEPS: usize = 40;
/// The step of it that takes the file that changes.
const CHANGED: usize = 20;
/// Modules of the application beside `app.py`.
const MODULES: usize = 20;

/// What `pip install` leaves, in numbers: 3000 files, 30 MB, which do not compress, and are others each time.
const INSTALL: &str = r#"import os
for package in range(30):
    directory = f"/opt/dependencies/{package:02}"
    os.makedirs(directory)
    for module in range(100):
        with open(f"{directory}/{module:02}", "wb") as file:
            file.write(os.urandom(10_000))
"#;

/// An application whose dependencies are installed before its sources are copied.
#[derive(Debug, Clone)]
pub struct Application {
    /// A name on docker.io.
    pub base: String,
    /// What `requirements.txt` says.
    pub dependencies: usize,
    /// What the last line of `src/app.py` says.
    pub line: usize,
    /// Whether a step that runs follows the sources.
    pub compiled: bool,
    /// A stage of which a file is taken last, if there is one.
    pub stage: Option<usize>,
}

impl Application {
    /// The first of its versions.
    pub fn on(base: &str) -> Self {
        Self { base: base.to_owned(), dependencies: 0, line: 0, compiled: false, stage: None }
    }

    fn dockerfile(&self) -> String {
        let base = &self.base;
        let mut text = String::new();
        if let Some(number) = self.stage {
            text += &format!("FROM {base} AS version\nRUN echo {number} > /version\n\n");
        }
        text += &format!("FROM {base}\nWORKDIR /app\nCOPY requirements.txt install.py ./\n");
        text += "RUN python install.py\nCOPY src src\n";
        if self.compiled {
            text += "RUN python -m compileall -q src\n";
        }
        if self.stage.is_some() {
            text += "COPY --from=version /version .\n";
        }
        text + "CMD [\"python\", \"src/app.py\"]\n"
    }

    /// Checks it out.
    pub fn write(&self, context: &Path) {
        let sources = anew(context).join("src");
        fs::create_dir(&sources).expect("a directory");
        write(&context.join("Dockerfile"), &self.dockerfile());
        write(&context.join("requirements.txt"), &format!("dependency=={}\n", self.dependencies));
        write(&context.join("install.py"), INSTALL);
        let application = fs::read_to_string(testdata("calculator").join("app.py")).expect("the calculator");
        write(&sources.join("app.py"), &format!("{application}# line {}\n", self.line));
        for number in 0..MODULES {
            let text = format!("\"\"\"Module {number}.\"\"\"\n\n\ndef value():\n    return {number}\n");
            write(&sources.join(format!("module_{number:02}.py")), &text);
        }
    }
}

/// Forty steps, by turns one that runs and one that copies a file; the file of the twentieth says `changed`.
pub fn forty_steps(base: &str, changed: usize, context: &Path) {
    anew(context);
    let mut text = format!("FROM {base}\n");
    for number in 1..=STEPS {
        if number % 2 == 1 {
            text += &format!("RUN echo {number} > /ran-{number}\n");
        } else {
            text += &format!("COPY file-{number} /copied/\n");
            let content = if number == CHANGED { changed } else { 0 };
            write(&context.join(format!("file-{number}")), &format!("{content}\n"));
        }
    }
    write(&context.join("Dockerfile"), &text);
}

fn anew(context: &Path) -> &Path {
    if context.exists() {
        fs::remove_dir_all(context).expect("the last checkout can be removed");
    }
    fs::create_dir(context).expect("a directory");
    context
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
