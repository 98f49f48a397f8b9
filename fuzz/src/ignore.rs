//! What a walk sees of an ignore file is what each path by itself is told: a directory that is passed over has nothing in it.

use cofferdam::context::clean;
use cofferdam::context::ignore::{IgnoreFile, Verdict};
use cofferdam::context::wildcard::Wildcard;

pub fn run(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let Some(Ok(text)) = parts.next().map(std::str::from_utf8) else { return };
    if let Ok(wildcard) = Wildcard::parse(text) {
        wildcard.matches(data);
    }
    let ignore = match IgnoreFile::parse(text) {
        Ok(ignore) => ignore,
        Err(error) => {
            assert!((1..=text.lines().count()).contains(&error.line));
            return;
        }
    };
    for path in parts.take(8) {
        let Ok(path) = std::str::from_utf8(path) else { continue };
        let path = clean(&format!("/{path}"));
        let path = path.trim_start_matches('/').as_bytes();
        if path.is_empty() {
            continue;
        }
        let mut directory = ignore.root();
        let mut passed_over = false;
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let (verdict, inside) = ignore.enter(&directory, &path[..end]);
            directory = inside;
            passed_over |= verdict == Verdict::Excluded;
        }
        let excluded = ignore.check(&directory, path) == Verdict::Excluded;
        assert_eq!(excluded, ignore.is_excluded(path));
        assert!(!passed_over || excluded, "a walk would have missed it");
    }
}
