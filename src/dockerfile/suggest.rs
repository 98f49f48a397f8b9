//! What was probably meant: the nearest of the words that would have been right.

/// In words up to this length one edit is as much as a slip can be, in longer ones two: `hello` is no `shell`.
const SHORT: usize = 5;

/// The candidate nearest to `word`, letter case aside, if it is near enough. Of several equally near ones the first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let most = if word.chars().count() <= SHORT { 1 } else { 2 };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= most && *edits < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, replaced or exchanged with their neighbour to make one word of the
/// other.
fn distance(from: &str, to: &str) -> usize {
    // Nothing a user meant is further than this from a keyword; a long word would only cost time.
    if from.len() > 64 {
        return usize::MAX;
    }
    let to: Vec<char> = to.chars().collect();
    let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX);
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut letter_before = None;
    for (line, a) in from.chars().enumerate() {
        let mut row = vec![line + 1];
        for (at, &b) in to.iter().enumerate() {
            let replaced = cell(&last, at) + usize::from(a != b);
            let mut least = replaced.min(cell(&last, at + 1) + 1).min(cell(&row, at) + 1);
            let crossed = at > 0 && letter_before == Some(b) && to.get(at - 1) == Some(&a);
            if crossed {
                least = least.min(cell(&before, at - 1).saturating_add(1));
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
        letter_before = Some(a);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("RUNN", Some("RUN"))]
    #[case("run", Some("RUN"))]
    #[case("COPPY", Some("COPY"))]
    #[case("FORM", Some("FROM"))]
    #[case("ENTRYPIONT", Some("ENTRYPOINT"))]
    #[case("ADDD", Some("ADD"))]
    #[case("xy", None)]
    #[case("cd", None)]
    #[case("RNU", Some("RUN"))]
    #[case("ENTYPOIN", Some("ENTRYPOINT"))]
    #[case("ad", Some("ADD"))]
    #[case("EXECUTE", None)]
    #[case("", None)]
    fn finds_slips_only(#[case] word: &str, #[case] meant: Option<&str>) {
        assert_eq!(nearest(word, ["RUN", "COPY", "FROM", "ENTRYPOINT", "ADD"]), meant);
    }

    #[rstest]
    #[case("kitten", "sitting", 3)]
    #[case("", "abc", 3)]
    #[case("abc", "", 3)]
    #[case("abc", "abc", 0)]
    #[case("é", "e", 1)]
    #[case("form", "from", 1)]
    #[case("cahce", "cache", 1)]
    fn counts_edits(#[case] from: &str, #[case] to: &str, #[case] edits: usize) {
        assert_eq!(distance(from, to), edits);
        assert_eq!(distance(to, from), edits);
    }
}
