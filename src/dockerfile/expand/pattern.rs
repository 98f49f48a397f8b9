//! The patterns of `${v#pattern}`, `${v%pattern}` and `${v/pattern/with}`: `*`, `?` and characters.
//!
//! Neither wildcard matches a line break, as in BuildKit, which makes regular expressions of them. Matching takes
//! time in proportion to pattern × text, whatever they are.

/// One step of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// `*`
    Any,
    /// `?`
    One,
    /// The character itself.
    Letter(char),
}

/// A pattern, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Step>);

impl Pattern {
    /// Reads a pattern; fails with the character that a backslash escapes without need, or with none if nothing
    /// follows it. `\}` and `\/` are how these are written inside `${…}`.
    pub(super) fn parse(text: &str) -> Result<Self, Option<char>> {
        let mut steps = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            steps.push(match letter {
                '*' => Step::Any,
                '?' => Step::One,
                '\\' => match letters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Step::Letter(escaped),
                    other => return Err(other),
                },
                letter => Step::Letter(letter),
            });
        }
        Ok(Self(steps))
    }

    /// Reads a pattern to be matched from the end of a text: its steps in reverse.
    ///
    /// A backslash at the very end (possible where another escape character is chosen) comes to stand before the
    /// last character, as in BuildKit.
    pub(super) fn parse_reversed(text: &str) -> Result<Self, Option<char>> {
        let mut units: Vec<String> = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let mut unit = String::from(letter);
            if letter == '\\' {
                unit.extend(letters.next());
            }
            units.push(unit);
        }
        units.reverse();
        Self::parse(&units.concat())
    }

    /// For each place in `text`, and the place behind its end: where a match that begins there ends, the longest or
    /// the shortest one.
    fn ends(&self, text: &[char], longest: bool) -> Vec<Option<usize>> {
        let better = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(if longest { a.max(b) } else { a.min(b) }),
            (a, b) => a.or(b),
        };
        // From the last step to the first: where the rest of the pattern ends if it begins at each place.
        let mut ends: Vec<Option<usize>> = (0..=text.len()).map(Some).collect();
        for step in self.0.iter().rev() {
            let mut now = vec![None; text.len() + 1];
            for at in (0..=text.len()).rev() {
                let letter = text.get(at).copied();
                let skipped = |list: &[Option<usize>]| list.get(at + 1).copied().flatten();
                let end = match step {
                    Step::Letter(wanted) if letter == Some(*wanted) => skipped(&ends),
                    Step::One if letter.is_some_and(|letter| letter != '\n') => skipped(&ends),
                    Step::Letter(_) | Step::One => None,
                    Step::Any => {
                        let stays = ends.get(at).copied().flatten();
                        let goes_on = letter.filter(|&letter| letter != '\n').and_then(|_| skipped(&now));
                        better(stays, goes_on)
                    }
                };
                if let Some(place) = now.get_mut(at) {
                    *place = end;
                }
            }
            ends = now;
        }
        ends
    }
}

/// `value` without the match at its beginning.
pub(super) fn strip_prefix(pattern: &Pattern, value: &str, longest: bool) -> String {
    let letters: Vec<char> = value.chars().collect();
    let end = pattern.ends(&letters, longest).first().copied().flatten().unwrap_or(0);
    letters.into_iter().skip(end).collect()
}

/// `value` without the match at its end; `pattern` is a reversed one.
pub(super) fn strip_suffix(pattern: &Pattern, value: &str, longest: bool) -> String {
    let letters: Vec<char> = value.chars().rev().collect();
    let end = pattern.ends(&letters, longest).first().copied().flatten().unwrap_or(0);
    letters.into_iter().skip(end).collect::<Vec<_>>().into_iter().rev().collect()
}

/// `value` with the first match, or with all matches, replaced; each is as far left and as long as possible.
///
/// Where all are replaced, BuildKit hands `with` to Go's regular expressions as a template, so `$0` in it (a `$` that
/// a variable brought or that was escaped) is the matched text, `$$` is `$`, and other groups are empty.
///
/// `None` if that would be longer than `most` bytes.
pub(super) fn replace(pattern: &Pattern, value: &str, with: &str, all: bool, most: usize) -> Option<String> {
    let letters: Vec<char> = value.chars().collect();
    let ends = pattern.ends(&letters, true);
    let piece = |from: usize, to: usize| letters.get(from..to).unwrap_or(&[]);
    let mut out = String::with_capacity(value.len());
    let mut copied = 0;
    let mut from = 0;
    while let Some((start, end)) = first_match(&ends, from) {
        out.extend(piece(copied, start));
        // An empty match right behind another one is none.
        if !all {
            out.push_str(with);
        } else if end > copied || start == 0 {
            out.push_str(&fill_template(with, &piece(start, end).iter().collect::<String>()));
        }
        if out.len() > most {
            return None;
        }
        copied = end;
        if !all {
            break;
        }
        from = end.max(from + 1);
    }
    out.extend(piece(copied, letters.len()));
    Some(out).filter(|out| out.len() <= most)
}

fn first_match(ends: &[Option<usize>], from: usize) -> Option<(usize, usize)> {
    ends.iter().enumerate().skip(from).find_map(|(start, end)| end.map(|end| (start, end)))
}

/// Go's `regexp` template with `matched` as group 0 and no other group.
fn fill_template(template: &str, matched: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{');
        let body = braced.unwrap_or(after);
        let named = |letter: char| letter == '_' || letter.is_ascii_digit() || letter.is_alphabetic();
        let length = body.find(|letter| !named(letter)).unwrap_or(body.len());
        let (name, behind) = body.split_at_checked(length).unwrap_or((body, ""));
        let behind = if braced.is_some() { behind.strip_prefix('}') } else { Some(behind) };
        match behind {
            Some(behind) if !name.is_empty() => {
                if name == "0" {
                    out.push_str(matched);
                }
                rest = behind;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}
