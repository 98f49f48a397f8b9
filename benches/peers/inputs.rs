//! What is built: the same bytes on every machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

pub const MIB: usize = 1 << 20;
/// Files of the row of many.
pub const FILES: usize = 100_000;
const DIRECTORIES: usize = 1000;
/// Files of the row of a GiB, of 16 MiB each.
const LARGE_FILES: usize = 64;
/// Words that text is made of; few enough that text compresses as text does.
const WORDS: usize = 6000;

/// Text: words of which some are frequent and most rare, in lines.
struct Text {
    words: Vec<Vec<u8>>,
    random: fastrand::Rng,
}

impl Text {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let word =
            |random: &mut fastrand::Rng| (0..random.usize(2..11)).map(|_| random.lowercase() as u8).collect();
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        Self { words, random: fastrand::Rng::with_seed(seed) }
    }

    fn write(&mut self, size: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(size + 16);
        while text.len() < size {
            // The square makes the first words the frequent ones.
            let at = self.random.f64();
            text.extend_from_slice(&self.words[(at * at * WORDS as f64) as usize]);
            text.push(if self.random.u8(..) < 24 { b'\n' } else { b' ' });
        }
        text.truncate(size);
        text
    }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A directory of a hundred thousand files of text, 0.5 to 3.5 kB each, a hundred in a directory.
pub fn many_files(context: &Path) {
    let mut text = Text::new(1);
    for number in 0..FILES {
        let directory = context.join(format!("files/{:03}", number / (FILES / DIRECTORIES)));
        if number % (FILES / DIRECTORIES) == 0 {
            fs::create_dir_all(&directory).expect("a directory");
        }
        let content = text.write(500 + number * 7919 % 3000);
        fs::write(directory.join(format!("file-{number:06}.txt")), content).expect("a file");
    }
}

/// A directory with a GiB: half of it noise, as what is compressed already, half of it text.
pub fn one_gib(context: &Path) {
    fs::create_dir_all(context.join("files")).expect("a directory");
    for number in 0..LARGE_FILES {
        let content = match number % 2 {
            0 => noise(number as u64, 16 * MIB),
            _ => Text::new(number as u64).write(16 * MIB),
        };
        let path = context.join(format!("files/{number:02}"));
        File::create(path).and_then(|mut file| file.write_all(&content)).expect("a file");
    }
}

/// A context of a Dockerfile, and what else is in it already.
pub fn context(directory: PathBuf, dockerfile: &str) -> PathBuf {
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    directory
}

/// A copy of a directory of plain files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
