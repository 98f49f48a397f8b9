//! The expressions that patterns of ignore files stand for.
//!
//! moby turns a pattern into a regular expression for Go, which makes some patterns mean what nobody would guess: a
//! class takes `/`, `[*]` is no star, `\d` is a digit, `a|*` is everything. Contexts must be the same here, so this is
//! that part of Go's regular expressions which such patterns can reach; what lies beyond (`\x41`, `\pL`, `{2}`) is
//! refused.
//!
//! Invariant: matching takes time in proportion to expression × path.

use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::str::Chars;

use super::super::wildcard::first_character;

/// An expression, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    branches: Vec<Branch>,
}

/// An alternative: `|` parts them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Branch {
    steps: Vec<Step>,
    /// The bytes that every match ends with: most paths are refused by these alone.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Takes one character of the set.
    One(Set),
    /// Takes any number of characters of the set.
    Many(Set),
    /// Leads over itself and the [`Step::Inside`] behind it, or into that.
    Directories,
    /// Takes anything, and leaves behind a `/`.
    Inside,
    /// Takes nothing, and is only in some places.
    Only(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first character.
    Begin,
    /// Behind the last character.
    End,
    /// Where a word of ASCII letters, digits and `_` begins or ends.
    Boundary,
    /// Anywhere else.
    NoBoundary,
}

/// What stands beside a place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Letter(char),
    /// The end of the text.
    Nothing,
    /// Nobody knows: anything may follow.
    Unknown,
}

impl Place {
    /// Whether it can be here.
    fn holds(self, before: Side, behind: Side) -> bool {
        let word =
            |side| matches!(side, Side::Letter(letter) if letter == '_' || letter.is_ascii_alphanumeric());
        match self {
            Self::Begin => before == Side::Nothing,
            _ if behind == Side::Unknown => true,
            Self::End => behind == Side::Nothing,
            Self::Boundary => word(before) != word(behind),
            Self::NoBoundary => word(before) == word(behind),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    negated: bool,
    ranges: Vec<RangeInclusive<char>>,
}

impl Set {
    fn letter(letter: char) -> Self {
        Self { negated: false, ranges: vec![letter..=letter] }
    }

    /// Everything but `letter`.
    fn without(letter: char) -> Self {
        Self { negated: true, ranges: vec![letter..=letter] }
    }

    fn contains(&self, letter: char) -> bool {
        self.ranges.iter().any(|range| range.contains(&letter)) != self.negated
    }

    /// The only character in it.
    fn only(&self) -> Option<char> {
        match self.ranges.as_slice() {
            [range] if !self.negated && range.start() == range.end() => Some(*range.start()),
            _ => None,
        }
    }
}

/// Which of the steps can come next: a bit for each, and one for the end. Paths are many and steps few, so that this
/// is walked by the bits that are set.
#[derive(Debug, Clone)]
struct States {
    words: Vec<u64>,
}

impl States {
    fn new(steps: usize) -> Self {
        Self { words: vec![0; steps / 64 + 1] }
    }

    fn insert(&mut self, at: usize) {
        if let Some(word) = self.words.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    /// The first state that is not before `from`.
    fn next(&self, from: usize) -> Option<usize> {
        let first = self.words.get(from / 64)? & (u64::MAX << (from % 64));
        let rest = self.words.iter().enumerate().skip(from / 64 + 1).map(|(at, word)| (at, *word));
        let (at, word) = std::iter::once((from / 64, first)).chain(rest).find(|(_, word)| *word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    fn contains(&self, at: usize) -> bool {
        self.next(at) == Some(at)
    }

    fn clear(&mut self) {
        self.words.fill(0);
    }
}

impl Expression {
    /// Reads an expression, which is for the whole of a path: it is as if `^` stood before it and `$` behind it.
    /// With `|` in it, only the first alternative has that `^` and only the last one that `$`.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let anything = || Step::Many(Set { negated: true, ranges: Vec::new() });
        let mut branches = Vec::new();
        let mut letters = text.chars().peekable();
        loop {
            let mut steps = Vec::new();
            if !branches.is_empty() {
                steps.push(anything());
            }
            let more = alternative(&mut letters, &mut steps)?;
            if more {
                steps.push(anything());
            }
            branches.push(Branch::new(steps));
            if !more {
                return Ok(Self { branches });
            }
        }
    }

    /// Whether the expression is for `path`.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.branches.iter().any(|branch| branch.matches(path))
    }

    /// Whether the expression is for any path that begins with `start`.
    pub(super) fn can_begin_with(&self, start: &[u8]) -> bool {
        self.branches.iter().any(|branch| branch.can_begin_with(start))
    }
}

/// Reads steps up to a `|`, or to the end; says which.
fn alternative(letters: &mut Peekable<Chars<'_>>, steps: &mut Vec<Step>) -> Result<bool, String> {
    while let Some(letter) = letters.next() {
        match letter {
            '|' => return Ok(true),
            '^' => steps.push(Step::Only(Place::Begin)),
            '(' => {
                // `(.*/)?`, the only group there is.
                letters.by_ref().take(5).for_each(drop);
                steps.extend([Step::Directories, Step::Inside]);
            }
            '{' if is_repetition(letters.clone()) => {
                return Err(
                    "`{…}` with numbers repeats what is before it, which is surely not meant".to_owned()
                );
            }
            '.' => repeatable(Set::without('\n'), letters, steps),
            '[' => repeatable(set(letters)?, letters, steps),
            '\\' => match letters.next() {
                Some('A') => steps.push(Step::Only(Place::Begin)),
                Some('z') => steps.push(Step::Only(Place::End)),
                Some('b') => steps.push(Step::Only(Place::Boundary)),
                Some('B') => steps.push(Step::Only(Place::NoBoundary)),
                other => steps.push(Step::One(escaped(other)?)),
            },
            letter => steps.push(Step::One(Set::letter(letter))),
        }
    }
    Ok(false)
}

/// Whether what follows a `{` makes it a repetition: `2}`, `2,}` or `2,3}`.
fn is_repetition(letters: Peekable<Chars<'_>>) -> bool {
    let inner: String = letters.take_while(|&letter| letter != '}').collect();
    let (least, most) = inner.split_once(',').unwrap_or((&inner, "0"));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && number(least) && number(most)
}

impl Branch {
    fn new(steps: Vec<Step>) -> Self {
        let last: Vec<char> = steps
            .iter()
            .rev()
            .map_while(|step| match step {
                // A byte that is no UTF-8 counts as U+FFFD, so that is not always these three bytes.
                Step::One(set) => set.only().filter(|&letter| letter != char::REPLACEMENT_CHARACTER),
                _ => None,
            })
            .collect();
        let tail = last.into_iter().rev().collect::<String>().into_bytes();
        Self { steps, tail }
    }

    fn matches(&self, path: &[u8]) -> bool {
        path.ends_with(&self.tail)
            && self.run(path, Side::Nothing).is_some_and(|states| states.contains(self.steps.len()))
    }

    fn can_begin_with(&self, start: &[u8]) -> bool {
        self.run(start, Side::Unknown).is_some()
    }

    /// The states behind `text`, with `end` behind it; none if there is none.
    fn run(&self, text: &[u8], end: Side) -> Option<States> {
        let mut states = States::new(self.steps.len());
        let mut next = states.clone();
        states.insert(0);
        let mut before = Side::Nothing;
        let mut rest = text;
        loop {
            let Some((letter, after)) = first_character(rest) else {
                self.follow(&mut states, before, end);
                return Some(states);
            };
            self.follow(&mut states, before, Side::Letter(letter));
            next.clear();
            self.take(&states, letter, &mut next);
            next.next(0)?;
            std::mem::swap(&mut states, &mut next);
            before = Side::Letter(letter);
            rest = after;
        }
    }

    /// Adds the states that are reached without taking a character. They are all further on, so once is enough.
    fn follow(&self, states: &mut States, before: Side, behind: Side) {
        let mut from = 0;
        while let Some(at) = states.next(from) {
            let ahead = match self.steps.get(at) {
                Some(Step::Many(_)) => 1,
                Some(Step::Directories) => 2,
                Some(Step::Only(place)) if place.holds(before, behind) => 1,
                _ => 0,
            };
            (1..=ahead).for_each(|ahead| states.insert(at + ahead));
            from = at + 1;
        }
    }

    /// Puts the states behind `letter` into `next`.
    fn take(&self, states: &States, letter: char, next: &mut States) {
        let mut from = 0;
        while let Some(at) = states.next(from) {
            match self.steps.get(at) {
                Some(Step::One(set)) if set.contains(letter) => next.insert(at + 1),
                Some(Step::Many(set)) if set.contains(letter) => next.insert(at),
                Some(Step::Inside) => {
                    if letter != '\n' {
                        next.insert(at);
                    }
                    if letter == '/' {
                        next.insert(at + 1);
                    }
                }
                _ => {}
            }
            from = at + 1;
        }
    }
}

fn repeatable(set: Set, letters: &mut Peekable<Chars<'_>>, steps: &mut Vec<Step>) {
    let many = letters.next_if_eq(&'*').is_some();
    steps.push(if many { Step::Many(set) } else { Step::One(set) });
}

/// The class whose `[` has been read.
fn set(letters: &mut Peekable<Chars<'_>>) -> Result<Set, String> {
    const OPEN: &str = "a `[` is not closed";
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        let letter = letters.next().ok_or(OPEN)?;
        match letter {
            ']' if !first => return Ok(Set { negated, ranges }),
            '[' if letters.peek() == Some(&':') => match named(letters)? {
                Some(named) => ranges.extend(named),
                None => range('[', letters, &mut ranges)?,
            },
            '\\' => {
                let set = escaped(letters.next())?;
                match set.only() {
                    Some(low) => range(low, letters, &mut ranges)?,
                    None if set.negated => ranges.extend(complement(&set.ranges)),
                    None => ranges.extend(set.ranges),
                }
            }
            low => range(low, letters, &mut ranges)?,
        }
        first = false;
    }
}

/// Adds `low`, or the range that it begins.
fn range(
    low: char,
    letters: &mut Peekable<Chars<'_>>,
    ranges: &mut Vec<RangeInclusive<char>>,
) -> Result<(), String> {
    let mut ahead = letters.clone();
    let ranged = ahead.next() == Some('-') && ahead.peek().is_some_and(|&letter| letter != ']');
    if !ranged {
        ranges.push(low..=low);
        return Ok(());
    }
    letters.next();
    let high = match letters.next() {
        Some('\\') => escaped(letters.next())?.only().ok_or("a range in `[…]` ends with a class")?,
        Some(letter) => letter,
        None => return Err("a `[` is not closed".to_owned()),
    };
    if high < low {
        return Err(format!("the range `{low}-{high}` runs backwards"));
    }
    ranges.push(low..=high);
    Ok(())
}

/// `[:alpha:]` within a class, whose `[` has been read; none if it is something else.
fn named(letters: &mut Peekable<Chars<'_>>) -> Result<Option<Vec<RangeInclusive<char>>>, String> {
    let rest: String = letters.clone().collect();
    let Some((name, _)) = rest.strip_prefix(':').and_then(|rest| rest.split_once(":]")) else {
        return Ok(None);
    };
    let (negated, bare) = match name.strip_prefix('^') {
        Some(bare) => (true, bare),
        None => (false, name),
    };
    let ranges = match bare {
        "alnum" => vec!['0'..='9', 'A'..='Z', 'a'..='z'],
        "alpha" => vec!['A'..='Z', 'a'..='z'],
        "ascii" => vec!['\0'..='\u{7f}'],
        "blank" => vec!['\t'..='\t', ' '..=' '],
        "cntrl" => vec!['\0'..='\u{1f}', '\u{7f}'..='\u{7f}'],
        "digit" => vec!['0'..='9'],
        "graph" => vec!['!'..='~'],
        "lower" => vec!['a'..='z'],
        "print" => vec![' '..='~'],
        "punct" => vec!['!'..='/', ':'..='@', '['..='`', '{'..='~'],
        "space" => vec!['\t'..='\r', ' '..=' '],
        "upper" => vec!['A'..='Z'],
        "word" => vec!['0'..='9', 'A'..='Z', 'a'..='z', '_'..='_'],
        "xdigit" => vec!['0'..='9', 'A'..='F', 'a'..='f'],
        _ => return Err(format!("`[:{name}:]` is not a class of characters")),
    };
    letters.by_ref().take(name.chars().count() + 3).for_each(drop);
    Ok(Some(if negated { complement(&ranges) } else { ranges }))
}

/// What `\` and the character behind it stand for.
fn escaped(letter: Option<char>) -> Result<Set, String> {
    let class = |negated: bool, ranges: Vec<RangeInclusive<char>>| Ok(Set { negated, ranges });
    match letter {
        None => Err("nothing follows the `\\` at its end".to_owned()),
        Some(letter @ ('d' | 'D')) => class(letter == 'D', vec!['0'..='9']),
        Some(letter @ ('s' | 'S')) => class(letter == 'S', vec!['\t'..='\n', '\u{c}'..='\r', ' '..=' ']),
        Some(letter @ ('w' | 'W')) => class(letter == 'W', vec!['0'..='9', 'A'..='Z', 'a'..='z', '_'..='_']),
        Some('a') => Ok(Set::letter('\u{7}')),
        Some('f') => Ok(Set::letter('\u{c}')),
        Some('n') => Ok(Set::letter('\n')),
        Some('r') => Ok(Set::letter('\r')),
        Some('t') => Ok(Set::letter('\t')),
        Some('v') => Ok(Set::letter('\u{b}')),
        Some(letter) if letter.is_ascii_alphanumeric() || !letter.is_ascii() => {
            Err(format!("`\\{letter}` stands for nothing; the parts of a path are separated by `/`"))
        }
        Some(letter) => Ok(Set::letter(letter)),
    }
}

/// All characters that are in none of the ranges, which must be in order.
fn complement(ranges: &[RangeInclusive<char>]) -> Vec<RangeInclusive<char>> {
    let mut rest = Vec::new();
    let mut from = Some('\0');
    for range in ranges {
        if let (Some(low), Some(high)) = (from, before(*range.start()))
            && low <= high
        {
            rest.push(low..=high);
        }
        from = after(*range.end());
    }
    rest.extend(from.map(|low| low..=char::MAX));
    rest
}

fn before(letter: char) -> Option<char> {
    ('\0'..letter).next_back()
}

fn after(letter: char) -> Option<char> {
    (letter..=char::MAX).nth(1)
}
