//! Cases, and how they are written: `testdata/conformance/README.md` has the format.

use super::files::File;
use super::support::sha256;
use super::web;

/// What stands before an option.
const OPTION: &str = "@ ";
/// What stands before a file.
const FILE: &str = "+++++ ";

/// A Dockerfile with a context, and what else is said of the build.
#[derive(Debug)]
pub struct Case {
    pub title: String,
    dockerfile: Vec<u8>,
    /// The Dockerfile's name in the context.
    pub name: String,
    pub files: Vec<File>,
    pub options: Vec<BuildOption>,
    /// What our message has to contain.
    pub says: Vec<String>,
    /// The kind of a known difference, and what differs.
    pub differs: Option<(String, Vec<String>)>,
    text: String,
}

/// An option of the build.
#[derive(Debug)]
pub enum BuildOption {
    Arg(String),
    Label(String),
    Target(String),
    Platform(String),
    /// Name and value.
    Secret(String, String),
    /// Name, and what it is.
    Context(String, Context),
    /// `[PLACE:]NAME=VALUE`
    Annotation(String),
}

/// A named context.
#[derive(Debug)]
pub enum Context {
    /// A directory of the case.
    Directory(String),
    /// An address.
    Address(String),
    /// An image of the registry, in a layout.
    Layout(String),
    /// A stage of the Dockerfile.
    Target(String),
}

impl Context {
    fn parse(place: &str) -> Self {
        if let Some(image) = place.strip_prefix("oci-layout:") {
            return Self::Layout(image.to_owned());
        }
        match place.strip_prefix("target:") {
            Some(stage) => Self::Target(stage.to_owned()),
            None if place.contains("://") => Self::Address(web::fill(place)),
            None => Self::Directory(place.to_owned()),
        }
    }
}

impl Case {
    /// # Panics
    /// If it is not written as it should be.
    pub fn parse(text: &str) -> Self {
        let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
        let mut case = Self {
            title: title.to_owned(),
            dockerfile: Vec::new(),
            name: "Dockerfile".to_owned(),
            files: Vec::new(),
            options: Vec::new(),
            says: Vec::new(),
            differs: None,
            text: rest.to_owned(),
        };
        for line in rest.split_inclusive('\n') {
            if let Some(file) = line.strip_prefix(FILE) {
                case.files.push(File::parse(file.trim_end()));
            } else if let Some(file) = case.files.last_mut() {
                file.add(&decode(line));
            } else if let Some(option) = line.strip_prefix(OPTION).filter(|_| case.dockerfile.is_empty()) {
                case.option(option.trim_end_matches('\n'));
            } else {
                case.dockerfile.extend(decode(line));
            }
        }
        case
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(' ').unwrap_or((option, ""));
        let pair = || {
            let (left, right) = value.split_once('=').unwrap_or_else(|| panic!("{}: {option}", self.title));
            (left.to_owned(), right.to_owned())
        };
        let value = value.to_owned();
        match name {
            "build-arg" => self.options.push(BuildOption::Arg(value)),
            "label" => self.options.push(BuildOption::Label(value)),
            "target" => self.options.push(BuildOption::Target(value)),
            "platform" => self.options.push(BuildOption::Platform(value)),
            "annotation" => self.options.push(BuildOption::Annotation(value)),
            "secret" => {
                let (name, value) = pair();
                self.options.push(BuildOption::Secret(name, value));
            }
            "context" => {
                let (name, place) = pair();
                self.options.push(BuildOption::Context(name, Context::parse(&place)));
            }
            "file" => self.name = value,
            "says" => self.says.push(value),
            "differs" => self.differs = Some((value, Vec::new())),
            "-" | "+" => match &mut self.differs {
                Some((_, lines)) => lines.push(format!("{name}{value}")),
                None => panic!("{}: a difference without a kind", self.title),
            },
            _ => panic!("{}: there is no option {name}", self.title),
        }
    }

    /// With the address of the web server.
    pub fn dockerfile(&self) -> Vec<u8> {
        match std::str::from_utf8(&self.dockerfile) {
            Ok(text) => web::fill(text).into_bytes(),
            Err(_) => self.dockerfile.clone(),
        }
    }

    /// Of everything that BuildKit is asked: not of what is expected of us.
    pub fn fingerprint(&self) -> String {
        let ours = ["says", "differs", "-", "+"];
        let is_theirs = |line: &&str| {
            let option = line.strip_prefix(OPTION).and_then(|option| option.split_whitespace().next());
            !option.is_some_and(|option| ours.contains(&option))
        };
        let asked: String = self.text.split_inclusive('\n').filter(is_theirs).collect();
        sha256(asked.as_bytes()).trim_start_matches("sha256:")[..12].to_owned()
    }
}

/// The text with the bytes that `⟪HEX⟫` stands for; `⟪⟫` at the end of a line takes the line break away.
fn decode(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('⟪') {
        let (hex, after) = after.split_once('⟫').unwrap_or_else(|| panic!("no ⟫: {line}"));
        bytes.extend(before.as_bytes());
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        bytes.extend(digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()));
        rest = if hex.is_empty() { after.strip_prefix('\n').unwrap_or(after) } else { after };
    }
    bytes.extend(rest.as_bytes());
    bytes
}

#[test]
fn bytes_stand_for_themselves() {
    assert_eq!(decode("a⟪0D⟫\n"), b"a\r\n");
    assert_eq!(decode("⟪EFBBBF⟫FROM scratch⟪⟫\n"), b"\xef\xbb\xbfFROM scratch");
}
