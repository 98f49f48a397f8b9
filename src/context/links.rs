//! Where a path leads when links are followed inside a root.
//!
//! The one place where links of hostile trees are followed by this program and not by the kernel: a tree that is not on
//! disk, or that is seen only in part, has no kernel to ask.

/// What is at a path, of which no component is a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// A link to this target.
    Link(Vec<u8>),
    /// Anything else.
    Other,
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub enum FollowError<E> {
    /// Links lead to links, more than a kernel would follow.
    Loop,
    /// Something on the way, at this path, is not a directory.
    NotADirectory(Vec<u8>),
    /// Looking failed.
    Look(E),
}

/// How many links are followed on the way to a path: Linux's own limit (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// The path that `path` leads to: relative to the root, clean, without links in it; with one as its last component if
/// `follow_last` is false and `path` does not end in `/`. `..` does not leave the root. Behind what does not exist,
/// components are taken as they stand.
///
/// `look` is asked for clean relative paths, never for the root.
///
/// # Errors
/// [`FollowError::Loop`], [`FollowError::NotADirectory`], and what `look` fails with.
pub fn follow<E>(
    path: &[u8],
    follow_last: bool,
    look: &mut dyn FnMut(&[u8]) -> Result<Look, E>,
) -> Result<Vec<u8>, FollowError<E>> {
    // What is still to go, the next component last.
    let mut ahead: Vec<Vec<u8>> = components(path);
    let mut at: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(component) = ahead.pop() {
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                leave(&mut at);
                continue;
            }
            name => {
                if !at.is_empty() {
                    at.push(b'/');
                }
                at.extend_from_slice(name);
            }
        }
        let is_last = ahead.is_empty();
        match look(&at).map_err(FollowError::Look)? {
            Look::Link(target) if !is_last || follow_last => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(FollowError::Loop);
                }
                if target.starts_with(b"/") {
                    at.clear();
                } else {
                    leave(&mut at);
                }
                ahead.extend(components(&target));
            }
            Look::Other if !is_last => return Err(FollowError::NotADirectory(at)),
            Look::Nothing | Look::Directory | Look::Link(_) | Look::Other => {}
        }
    }
    Ok(at)
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn leave(path: &mut Vec<u8>) {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn tree(path: &[u8]) -> Result<Look, ()> {
        Ok(match std::str::from_utf8(path).unwrap() {
            "d" | "d/e" | "usr" | "usr/lib" => Look::Directory,
            "f" | "d/f" | "usr/lib/x" => Look::Other,
            "lib" => Look::Link(b"usr/lib".to_vec()),
            "abs" => Look::Link(b"/d/e".to_vec()),
            "out" => Look::Link(b"../../../etc".to_vec()),
            "d/up" => Look::Link(b"../lib/".to_vec()),
            "dangling" => Look::Link(b"no/where".to_vec()),
            "one" => Look::Link(b"two".to_vec()),
            "two" => Look::Link(b"one".to_vec()),
            _ => Look::Nothing,
        })
    }

    #[rstest]
    #[case("", "")]
    #[case("/", "")]
    #[case("lib", "usr/lib")]
    #[case("lib/x", "usr/lib/x")]
    #[case("abs/../f", "d/f")]
    #[case("out/passwd", "etc/passwd")]
    #[case("../../d/./up//x", "usr/lib/x")]
    #[case("dangling", "no/where")]
    #[case("dangling/x", "no/where/x")]
    #[case("no/such/../thing", "no/thing")]
    #[case("f", "f")]
    fn follows_links_inside_the_root(#[case] path: &str, #[case] leads_to: &str) {
        let place = follow(path.as_bytes(), true, &mut tree).unwrap();
        assert_eq!(String::from_utf8(place).unwrap(), leads_to);
    }

    #[rstest]
    #[case("lib", "lib")]
    #[case("d/up", "d/up")]
    #[case("lib/", "usr/lib")]
    #[case("lib/x", "usr/lib/x")]
    fn may_stop_at_the_last_one(#[case] path: &str, #[case] leads_to: &str) {
        let place = follow(path.as_bytes(), false, &mut tree).unwrap();
        assert_eq!(String::from_utf8(place).unwrap(), leads_to);
    }

    #[test]
    fn says_why_a_path_leads_nowhere() {
        assert!(matches!(follow(b"one/x", true, &mut tree), Err(FollowError::Loop)));
        assert!(
            matches!(follow(b"lib/x/y", true, &mut tree), Err(FollowError::NotADirectory(at)) if at == b"usr/lib/x")
        );
        let mut fails = |_: &[u8]| Err("no");
        assert!(matches!(follow(b"a", true, &mut fails), Err(FollowError::Look("no"))));
    }
}
