//! Paths in their shortest form.

/// `path` without empty parts, `.` and, where there is something before it, `..`: Go's `filepath.Clean`. Nothing is
/// asked of any file system. An empty path is `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !rooted => parts.push(part),
                _ => {
                    parts.pop();
                }
            },
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", ".")]
    #[case(".", ".")]
    #[case("/", "/")]
    #[case("//a//b/", "/a/b")]
    #[case("a/./b/../c", "a/c")]
    #[case("a/..", ".")]
    #[case("../a", "../a")]
    #[case("../../a/..", "../..")]
    #[case("a/../../b", "../b")]
    #[case("/../a", "/a")]
    #[case("a/b/../../..", "..")]
    #[case("...", "...")]
    #[case("!../a", "!../a")]
    fn cleans(#[case] path: &str, #[case] shortest: &str) {
        assert_eq!(clean(path), shortest);
        assert_eq!(clean(shortest), shortest, "once is enough");
    }
}
