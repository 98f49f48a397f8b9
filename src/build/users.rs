//! Who a step runs as: `USER` looked up in the image's `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of container runtimes (`name`, `uid`, `name:group`, `uid:gid`); a user who is not in the image is
//! an error, unless given by number.

/// A user with groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups: the group itself, as container engines have it, and where none was asked for those that the user
    /// is a member of.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the image does not know the user.
    pub home: String,
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// A line of `/etc/group`: name, ID and members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// The user that `wanted` (empty for root) names in an image.
///
/// # Errors
/// What the image does not know, as a sentence.
pub fn look_up(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let account = accounts(passwd)
        .find(|account| account.name == name)
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let mut user = match (&account, number) {
        (Some(account), _) => User {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: if account.home.is_empty() { "/".to_owned() } else { account.home.to_owned() },
        },
        (None, Some(uid)) => User { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() },
        (None, None) => return Err(format!("the image has no user `{name}` in /etc/passwd")),
    };
    match group_name.filter(|group| !group.is_empty()) {
        Some(wanted) => {
            let number: Option<u32> = wanted.parse().ok();
            let known = groups(group)
                .find(|(name, ..)| *name == wanted)
                .or_else(|| groups(group).find(|(_, gid, _)| Some(*gid) == number));
            user.gid = match (known, number) {
                (Some((_, gid, _)), _) | (None, Some(gid)) => gid,
                (None, None) => return Err(format!("the image has no group `{wanted}` in /etc/group")),
            };
        }
        None => {
            if let Some(account) = &account {
                let member = |members: &str| members.split(',').any(|member| member == account.name);
                user.groups =
                    groups(group).filter(|(.., members)| member(members)).map(|(_, gid, _)| gid).collect();
            }
        }
    }
    if !user.groups.contains(&user.gid) {
        user.groups.insert(0, user.gid);
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken line\nwww:x:33:34::/var/www:/bin/false\n1234:x:7:7::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:www,syslog\nwww:x:34:\nstaff:x:50:www\n";

    #[rstest]
    #[case("", 0, 0, &[0], "/root")]
    #[case("root", 0, 0, &[0], "/root")]
    #[case("www", 33, 34, &[34, 4, 50], "/var/www")]
    #[case("33", 33, 34, &[34, 4, 50], "/var/www")]
    #[case("www:staff", 33, 50, &[50], "/var/www")]
    #[case("www:77", 33, 77, &[77], "/var/www")]
    #[case("www:", 33, 34, &[34, 4, 50], "/var/www")]
    #[case("1000", 1000, 0, &[0], "/")]
    #[case("1000:1001", 1000, 1001, &[1001], "/")]
    #[case(":staff", 0, 50, &[50], "/root")]
    #[case("1234", 7, 7, &[7], "/seven")]
    fn looks_up(
        #[case] wanted: &str,
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] groups: &[u32],
        #[case] home: &str,
    ) {
        let user = User { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
        assert_eq!(look_up(wanted, PASSWD, GROUP), Ok(user));
    }

    #[rstest]
    #[case("nobody", "no user `nobody`")]
    #[case("www:wheel", "no group `wheel`")]
    #[case("99999999999", "no user")]
    fn says_what_the_image_does_not_know(#[case] wanted: &str, #[case] text: &str) {
        assert!(look_up(wanted, PASSWD, GROUP).unwrap_err().contains(text));
    }

    #[test]
    fn an_image_without_the_files_has_root_and_numbers() {
        assert_eq!(
            look_up("", "", "").unwrap(),
            User { home: "/".into(), groups: vec![0], ..User::default() }
        );
        assert_eq!(look_up("5:6", "", "").unwrap().gid, 6);
        assert!(look_up("www", "", "").is_err());
    }
}
