//! What was probably meant: the nearest of the words that would have been right.

/// More edits than this make another word, not a slip. BuildKit's suggestions use the same bound.
const MOST_EDITS: usize = 2;
/// In words up to this length, one edit is as much as a slip can be: `cd` is no `ADD`.
const SHORT: usize = 3;

/// The candidate nearest to `word`, letter case aside, if it is near enough. Of several equally near ones the first.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let most = if word.len() <= SHORT { 1 } else { MOST_EDITS };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= most && *edits < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out or replaced to make one word of the other.
fn distance(from: &str, to: &str) -> usize {
    // Nothing a user meant is further than this from a keyword; a long word would only cost time.
    if from.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in to.chars().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
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
    fn counts_edits(#[case] from: &str, #[case] to: &str, #[case] edits: usize) {
        assert_eq!(distance(from, to), edits);
        assert_eq!(distance(to, from), edits);
    }
}
