//! `--chown`: who owns what is copied.

use crate::dockerfile::{nearest, quote};
use crate::layer::{Tree, TreeError};

/// A user, and a group if one was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chown {
    pub user: Who,
    pub group: Option<Who>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    Id(u32),
    Name(String),
}

/// Owner and group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Why an image cannot tell who somebody is.
#[derive(Debug)]
pub(super) enum Unknown {
    /// What is wrong, and what to do about it.
    Mistake { message: String, hint: Option<String> },
    /// The image cannot be looked at.
    Tree(TreeError),
}

impl From<TreeError> for Unknown {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// A file with one name a line.
#[derive(Clone, Copy)]
struct Register {
    path: &'static str,
    kind: &'static str,
}

const USERS: Register = Register { path: "/etc/passwd", kind: "user" };
const GROUPS: Register = Register { path: "/etc/group", kind: "group" };

impl Chown {
    /// Reads the flag's value: `USER` or `USER:GROUP`. What is left empty is root, as in BuildKit.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(Self { user: Who::parse(user)?, group: group.map(Who::parse).transpose()? })
    }

    /// Whether the image has to be asked.
    pub(super) fn needs_names(&self) -> bool {
        [Some(&self.user), self.group.as_ref()].into_iter().flatten().any(|who| matches!(who, Who::Name(_)))
    }

    /// Looks names up in the image. A user without a group has the one in `/etc/passwd`; a number is its own group.
    pub(super) fn resolve(&self, tree: &Tree) -> Result<Owner, Unknown> {
        let (uid, own_gid) = match &self.user {
            Who::Id(id) => (*id, Some(*id)),
            Who::Name(name) => {
                let [uid, gid] = USERS.find(tree, name, [2, 3])?;
                (
                    USERS.number(name, &uid)?,
                    if self.group.is_none() { Some(USERS.number(name, &gid)?) } else { None },
                )
            }
        };
        let gid = match (&self.group, own_gid) {
            (Some(Who::Id(id)), _) => *id,
            (Some(Who::Name(name)), _) => {
                let [gid] = GROUPS.find(tree, name, [2])?;
                GROUPS.number(name, &gid)?
            }
            (None, own) => own.unwrap_or_default(),
        };
        Ok(Owner { uid, gid })
    }
}

impl Who {
    fn parse(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "root") {
            return Ok(Self::Id(0));
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        match text.parse() {
            Ok(u32::MAX) | Err(_) => {
                Err(format!("{} is not a user or group ID: they are 0 to 4294967294", quote(text)))
            }
            Ok(id) => Ok(Self::Id(id)),
        }
    }
}

impl Register {
    /// Fields of the first line for a name.
    fn find<const N: usize>(
        self,
        tree: &Tree,
        name: &str,
        fields: [usize; N],
    ) -> Result<[String; N], Unknown> {
        let Self { path, kind } = self;
        let content = match tree.small_file(path.as_bytes()) {
            Ok(Some(content)) => content,
            Ok(None) | Err(TreeError::NotADirectory(_) | TreeError::Loop(_)) => {
                let message = format!("{} has no number: the image has no `{path}`", quote(name));
                return Err(Unknown::Mistake {
                    message,
                    hint: Some(format!("name the {kind} by its number")),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8_lossy(&content);
        let lines = || text.lines().map(|line| line.trim().split(':').collect::<Vec<_>>());
        let line = lines().find(|line| line.first() == Some(&name));
        let Some(line) = line else {
            let message = format!("the image has no {kind} {}", quote(name));
            let names: Vec<&str> = lines().filter_map(|line| line.first().copied()).collect();
            let hint = match nearest(name, names.iter().copied()) {
                Some(near) => format!("`{path}` has `{near}`; BuildKit takes root"),
                None => "a RUN before this has to make it, or name it by its number; BuildKit takes root"
                    .to_owned(),
            };
            return Err(Unknown::Mistake { message, hint: Some(hint) });
        };
        Ok(fields.map(|field| line.get(field).copied().unwrap_or_default().to_owned()))
    }

    fn number(self, name: &str, text: &str) -> Result<u32, Unknown> {
        match text.parse() {
            Ok(u32::MAX) | Err(_) => {
                let message = format!(
                    "`{}` in the image gives {} no number but {}",
                    self.path,
                    quote(name),
                    quote(text)
                );
                Err(Unknown::Mistake { message, hint: None })
            }
            Ok(id) => Ok(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Entry, LayerOptions, LayerWriter, Metadata, Node, Pool, TreePath};
    use crate::store::Store;
    use rstest::rstest;

    const PASSWD: &str = "root:x:0:0::/:\n# a comment\nweb:x:33:44:w:/:\nweb:x:1:1::/:\nbad:x:zz:5::/:\nonly\n\
                          12:x:50:51::/:\n spaced:x:3:3::/:\nbig:x:4294967294:4294967295::/:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web\nweb:x:99:\nbadg:x:y:\n";

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut writer = LayerWriter::new(&store, &Pool::default(), LayerOptions::default()).unwrap();
        for (path, content) in files {
            let entry = Entry {
                path: TreePath::new(*path).unwrap(),
                node: Node::File { size: content.len() as u64 },
                metadata: Metadata::default(),
            };
            writer.file(&entry, &mut content.as_bytes()).unwrap();
        }
        let layer = writer.finish().unwrap();
        (directory, Tree::open(&store, &[layer.diff_id]).unwrap())
    }

    fn resolve(text: &str, tree: &Tree) -> Result<(u32, u32), String> {
        match Chown::parse(text)?.resolve(tree) {
            Ok(owner) => Ok((owner.uid, owner.gid)),
            Err(Unknown::Mistake { message, .. }) => Err(message),
            Err(Unknown::Tree(error)) => Err(error.to_string()),
        }
    }

    /// What BuildKit 0.33.0 made of them.
    #[rstest]
    #[case("web", (33, 44))]
    #[case("web:staff", (33, 50))]
    #[case("web:", (33, 0))]
    #[case("web:web", (33, 99))]
    #[case(":staff", (0, 50))]
    #[case("33:staff", (33, 50))]
    #[case("web:7", (33, 7))]
    #[case("12", (12, 12))]
    #[case("12:staff", (12, 50))]
    #[case("spaced", (3, 3))]
    #[case("root", (0, 0))]
    #[case("root:staff", (0, 50))]
    #[case("5:", (5, 0))]
    #[case(":5", (0, 5))]
    #[case("+5", (5, 5))]
    #[case("05", (5, 5))]
    #[case("2147483647", (2_147_483_647, 2_147_483_647))]
    fn knows_who_is_meant(#[case] text: &str, #[case] owner: (u32, u32)) {
        let (_directory, tree) = tree(&[("etc/group", GROUP), ("etc/passwd", PASSWD)]);
        assert_eq!(resolve(text, &tree), Ok(owner));
    }

    /// BuildKit takes root for all of them.
    #[rstest]
    #[case("nobody", "the image has no user `nobody`")]
    #[case("staff", "the image has no user `staff`")]
    #[case("web:nogroup", "the image has no group `nogroup`")]
    #[case("1:2:3", "the image has no group `2:3`")]
    #[case("bad", "gives `bad` no number but `zz`")]
    #[case("only", "gives `only` no number but ``")]
    #[case("big", "gives `big` no number but `4294967295`")]
    #[case("web:badg", "gives `badg` no number but `y`")]
    #[case("-1", "is not a user or group ID")]
    #[case("4294967295", "is not a user or group ID")]
    #[case("99999999999", "is not a user or group ID")]
    fn fails_where_nobody_is_meant(#[case] text: &str, #[case] message: &str) {
        let (_directory, tree) = tree(&[("etc/group", GROUP), ("etc/passwd", PASSWD)]);
        let error = resolve(text, &tree).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn an_image_without_names_knows_numbers() {
        let (_directory, tree) = tree(&[]);
        assert_eq!(resolve("4294967294:7", &tree), Ok((4_294_967_294, 7)));
        assert!(resolve("web", &tree).unwrap_err().contains("the image has no `/etc/passwd`"));
        assert!(resolve("1:web", &tree).unwrap_err().contains("the image has no `/etc/group`"));
    }
}
