//! Paths inside an image.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use thiserror::Error;

/// The longest path in bytes: Linux's `PATH_MAX` without the NUL. No runtime can unpack a longer one.
pub(crate) const MAX_PATH: usize = 4095;

/// A path relative to the root of an image: at most 4095 bytes, components joined by single `/`, none of them
/// empty, `.` or `..`, no NUL, no `/` at either end. The root itself is the path without components.
///
/// The order is component-wise: a directory comes directly before everything in it (`a`, `a/b`, `a-b`), which
/// is not the order of the bytes.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

/// Why some bytes are not a path inside an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PathError {
    /// It begins with `/`, ends with it, or has two in a row.
    #[error("`{}` is not a path inside an image: it has an empty component", shown(.0))]
    EmptyComponent(Vec<u8>),
    /// It has a component `.` or `..`.
    #[error("`{}` is not a path inside an image: it has a component `.` or `..`", shown(.0))]
    DotComponent(Vec<u8>),
    /// It has a NUL, which no file name can have.
    #[error("`{}` is not a path inside an image: it has a NUL", shown(.0))]
    Nul(Vec<u8>),
    /// It is longer than Linux takes.
    #[error("the path `{}…` is longer than {MAX_PATH} bytes", shown(.0.get(..80).unwrap_or(.0)))]
    TooLong(Vec<u8>),
    /// Its `..` lead out of the root.
    #[error("`{}` leads out of the image's root", shown(.0))]
    Escapes(Vec<u8>),
}

/// Bytes as text, for messages.
pub(crate) fn shown(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

impl TreePath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path of these bytes.
    ///
    /// # Errors
    /// If they are not in the form that this type guarantees. Nothing is normalised; see [`TreePath::clean`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.contains(&0) {
            return Err(PathError::Nul(bytes));
        }
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong(bytes));
        }
        if !bytes.is_empty() {
            for component in bytes.split(|&byte| byte == b'/') {
                match component {
                    b"" => return Err(PathError::EmptyComponent(bytes)),
                    b"." | b".." => return Err(PathError::DotComponent(bytes)),
                    _ => {}
                }
            }
        }
        Ok(Self(bytes))
    }

    /// The path that a name in an archive, or what a user typed, means: leading and repeated `/` and `.` are
    /// nothing, `..` takes back the component before it. Lexical: links are not looked at.
    ///
    /// # Errors
    /// [`PathError::Escapes`] if a `..` has nothing to take back; if there is a NUL, or what is left is too
    /// long.
    pub fn clean(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.contains(&0) {
            return Err(PathError::Nul(bytes.to_vec()));
        }
        let mut clean = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if clean.is_empty() {
                        return Err(PathError::Escapes(bytes.to_vec()));
                    }
                    let parent = clean.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                    clean.truncate(parent);
                }
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        if clean.len() > MAX_PATH {
            return Err(PathError::TooLong(clean));
        }
        Ok(Self(clean))
    }

    /// The bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for calls relative to the root's descriptor; empty for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that this is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }

    /// The directories that this is in, the root first; none for the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let root = (!self.is_root()).then(Self::root);
        let inner = self.0.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        root.into_iter().chain(inner.map(|(end, _)| Self(self.0.get(..end).unwrap_or_default().to_vec())))
    }

    /// What `name` is called in this directory.
    ///
    /// # Errors
    /// If `name` is not one legal component, or the path gets too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        let name = Self::new(name)?;
        if name.is_root() || name.0.contains(&b'/') {
            return Err(PathError::EmptyComponent(name.0));
        }
        let joined = self.join_path(&name);
        if joined.0.len() > MAX_PATH {
            return Err(PathError::TooLong(joined.0));
        }
        Ok(joined)
    }

    /// What `path`, which is relative to this directory, is called from the root.
    #[must_use]
    pub fn join_path(&self, path: &Self) -> Self {
        if self.is_root() {
            return path.clone();
        }
        let mut joined = self.0.clone();
        if !path.is_root() {
            joined.push(b'/');
            joined.extend_from_slice(&path.0);
        }
        Self(joined)
    }

    /// This path as seen from the directory `prefix`; `None` if it is neither that directory nor in it.
    pub fn strip_prefix(&self, prefix: &Self) -> Option<Self> {
        if prefix.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(prefix.0.as_slice())? {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.to_vec())),
            _ => None,
        }
    }

    /// Whether this is the directory `prefix` or in it.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        prefix.is_root()
            || self
                .0
                .strip_prefix(prefix.0.as_slice())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Bytes whose plain order is the order of the paths: `/` becomes NUL, which no path has.
    pub(crate) fn to_key(&self) -> Vec<u8> {
        self.0.iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect()
    }

    /// The path of a key that [`TreePath::to_key`] made.
    pub(crate) fn from_key(key: &[u8]) -> Result<Self, PathError> {
        Self::new(key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect::<Vec<u8>>())
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |&byte: &u8| if byte == b'/' { 0 } else { byte };
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl AsRef<Path> for TreePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// With a leading `/`, as users write paths in an image; bytes that are not UTF-8 are replaced.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", shown(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&shown(&self.0), f)
    }
}

impl TryFrom<&str> for TreePath {
    type Error = PathError;

    fn try_from(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    pub(crate) fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[rstest]
    #[case("", Ok(()))]
    #[case("a", Ok(()))]
    #[case("a/.b/..c/d..", Ok(()))]
    #[case("/a", Err(PathError::EmptyComponent(b"/a".to_vec())))]
    #[case("a/", Err(PathError::EmptyComponent(b"a/".to_vec())))]
    #[case("a//b", Err(PathError::EmptyComponent(b"a//b".to_vec())))]
    #[case("/", Err(PathError::EmptyComponent(b"/".to_vec())))]
    #[case(".", Err(PathError::DotComponent(b".".to_vec())))]
    #[case("a/../b", Err(PathError::DotComponent(b"a/../b".to_vec())))]
    #[case("a\0", Err(PathError::Nul(b"a\0".to_vec())))]
    fn accepts_one_spelling(#[case] text: &str, #[case] result: Result<(), PathError>) {
        assert_eq!(TreePath::new(text).map(|_| ()), result);
    }

    #[rstest]
    #[case("./", "")]
    #[case("/", "")]
    #[case("./a/b/", "a/b")]
    #[case("//a/.//b", "a/b")]
    #[case("a/../b", "b")]
    #[case("a/b/../../c", "c")]
    #[case("a/..", "")]
    fn cleans(#[case] text: &str, #[case] clean: &str) {
        assert_eq!(TreePath::clean(text.as_bytes()).unwrap(), path(clean));
    }

    #[rstest]
    #[case("..")]
    #[case("/../a")]
    #[case("a/../../b")]
    fn does_not_leave_the_root(#[case] text: &str) {
        assert_eq!(TreePath::clean(text.as_bytes()), Err(PathError::Escapes(text.as_bytes().to_vec())));
    }

    #[test]
    fn a_directory_sorts_directly_before_its_content() {
        let sorted = ["", "a", "a/b", "a/b/c", "a/b-", "a/c", "a\x01", "a-b", "a.b", "b"].map(path);
        assert!(sorted.is_sorted_by(|a, b| a < b), "{sorted:?}");
        assert!(sorted.iter().map(TreePath::to_key).is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn is_no_longer_than_linux_takes() {
        let longest = "a/".repeat(2047) + "b";
        let too_long = |result: Result<TreePath, PathError>| matches!(result, Err(PathError::TooLong(_)));
        assert!(TreePath::new(longest.as_str()).is_ok() && too_long(TreePath::new(longest.clone() + "b")));
        assert!(TreePath::clean(format!("//./{longest}/").as_bytes()).is_ok());
        assert!(too_long(TreePath::clean(format!("/{longest}b").as_bytes())));
        assert!(too_long(path(&longest).join(b"c")));
    }

    #[test]
    fn takes_paths_apart() {
        let deep = path("usr/local/bin");
        assert_eq!(deep.parent(), Some(path("usr/local")));
        assert_eq!(path("usr").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(deep.file_name(), Some(&b"bin"[..]));
        assert_eq!(deep.ancestors().collect::<Vec<_>>(), ["", "usr", "usr/local"].map(path));
        assert_eq!(TreePath::root().ancestors().count(), 0);
        assert_eq!(deep.strip_prefix(&path("usr")), Some(path("local/bin")));
        assert_eq!(deep.strip_prefix(&deep), Some(TreePath::root()));
        assert_eq!(path("usr2").strip_prefix(&path("usr")), None);
        assert!(deep.starts_with(&TreePath::root()) && !path("usr2").starts_with(&path("usr")));
        assert_eq!(TreePath::root().join(b"a").unwrap(), path("a"));
        assert_eq!(path("a").join(b"b").unwrap(), path("a/b"));
        for bad in [&b""[..], b"..", b"a/b", b"/", b"a\0"] {
            assert!(path("a").join(bad).is_err());
        }
        assert_eq!(deep.to_string(), "/usr/local/bin");
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_components(a in "[a-c/.-]{0,8}", b in "[a-c/.-]{0,8}") {
            let (Ok(a), Ok(b)) = (TreePath::clean(a.as_bytes()), TreePath::clean(b.as_bytes())) else { return Ok(()) };
            let by_components = a.components().cmp(b.components());
            prop_assert_eq!(a.cmp(&b), by_components);
            prop_assert_eq!(a.to_key().cmp(&b.to_key()), by_components);
            prop_assert_eq!(TreePath::from_key(&a.to_key()).unwrap(), a);
        }
    }
}
