//! Expansion is a function of the word and the variables; it ends, and knows which variables it has asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cofferdam::dockerfile::{Escape, Span, Syntax, Word, display};

pub fn run(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (syntax, escape) = match how % 4 {
        0 => (Syntax::Shell(Escape::Backslash), Escape::Backslash),
        1 => (Syntax::Shell(Escape::Backtick), Escape::Backtick),
        2 => (Syntax::Text, Escape::Backslash),
        _ => (Syntax::Verbatim, Escape::Backslash),
    };
    let word = Word::new(text, Span::new(0, text.len()), syntax);
    let asked = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        match name.len() % 3 {
            0 => None,
            1 => Some(format!("a b/{name}*")),
            _ => Some(String::new()),
        }
    };
    match word.expand(&lookup) {
        Ok(expanded) => {
            if word.is_plain() {
                assert_eq!(expanded.text, text);
            }
            let known: BTreeSet<String> = expanded.used.union(&expanded.undefined).cloned().collect();
            assert!(expanded.used.is_disjoint(&expanded.undefined));
            assert!(asked.borrow().is_subset(&known), "it asked for what it does not say");
            assert_eq!(word.expand(&lookup).as_ref(), Ok(&expanded), "it is another the second time");
        }
        Err(error) => {
            let span = word.explain(&error).span();
            assert!(text.get(span.start..span.end).is_some(), "{span:?} is not in the text");
        }
    }
    if let Ok(several) = word.expand_words(&lookup) {
        assert!(several.words.iter().all(|word| !word.is_empty()));
    }
    let _ = display(text, escape, &lookup);
}
