//! Layers and archives of strangers: they are read or refused. What is read has names that lead nowhere else.

use std::io::{Cursor, Read};

use cofferdam::layer::{ArchiveReader, Change, Entry, LayerReader, is_archive};

/// No more than this is read of what a small input can be unpacked to.
const MOST: u64 = 8 << 20;

pub fn run(data: &[u8]) {
    let source = || Cursor::new(data.to_vec());
    let _ = is_archive(source());
    if let Ok(mut reader) = ArchiveReader::new(source()) {
        let mut left = MOST;
        while let Ok(Some((entry, mut content))) = reader.next() {
            named(&entry);
            if !drain(&mut content, &mut left) {
                break;
            }
        }
    }
    if let Ok(mut reader) = LayerReader::new(source()) {
        let mut left = MOST;
        while let Ok(Some((change, mut content))) = reader.next() {
            if let Change::Entry(entry) = &change {
                named(entry);
            }
            if !drain(&mut content, &mut left) {
                return;
            }
        }
    }
}

fn named(entry: &Entry) {
    for component in entry.path.components() {
        assert!(!component.is_empty() && component != b"." && component != b"..");
        assert!(!component.contains(&b'/') && !component.contains(&0));
    }
}

/// Reads what there is; false at an error, or if it was too much.
fn drain(content: &mut impl Read, left: &mut u64) -> bool {
    match std::io::copy(&mut content.take(*left), &mut std::io::sink()) {
        Ok(count) => {
            *left -= count;
            *left > 0
        }
        Err(_) => false,
    }
}
