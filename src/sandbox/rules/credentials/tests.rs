use super::*;

fn root() -> Credentials {
    Credentials::container(0, 0, &[])
}

fn user() -> Credentials {
    Credentials::container(1000, 1000, &[27])
}

const PLAIN: Program = Program { uid: 0, gid: 0, mode: 0o755, capabilities: None };

#[test]
fn root_that_becomes_a_user_cannot_go_back() {
    let mut credentials = root();
    credentials.set_groups(&[33, 44]).unwrap();
    credentials.set_gid(33).unwrap();
    credentials.set_uid(33).unwrap();
    assert_eq!((credentials.permitted, credentials.effective), (0, 0));
    assert_eq!(credentials.set_uid(0), Err(Refused::NotPermitted));
    assert_eq!(credentials.set_groups(&[]), Err(Refused::NotPermitted));
    assert!(credentials.in_group(44) && !credentials.in_group(0));
}

#[test]
fn apt_can_drop_to_its_user_and_return() {
    // apt: seteuid(_apt), then seteuid(0): the saved and real IDs stay root.
    let mut credentials = root();
    credentials.set_resuid(KEEP, 100, KEEP).unwrap();
    assert_eq!((credentials.user.effective, credentials.effective), (100, 0));
    assert_eq!(credentials.permitted, CONTAINER_CAPABILITIES);
    credentials.set_resuid(KEEP, 0, KEEP).unwrap();
    assert_eq!(credentials.effective, CONTAINER_CAPABILITIES);
}

#[test]
fn setreuid_sets_the_saved_id_as_the_manual_says() {
    let mut credentials = root();
    credentials.set_reuid(KEEP, 5).unwrap();
    assert_eq!(credentials.user, Ids { real: 0, effective: 5, saved: 5, fs: 5 });
    let mut credentials = root();
    credentials.set_reuid(7, KEEP).unwrap();
    assert_eq!(credentials.user, Ids { real: 7, effective: 0, saved: 0, fs: 0 });
    let mut credentials = user();
    assert_eq!(credentials.set_reuid(1, KEEP), Err(Refused::NotPermitted));
    assert_eq!(credentials.set_regid(KEEP, 1), Err(Refused::NotPermitted));
}

#[test]
fn keepcaps_keeps_the_permitted_set_over_a_change_of_user() {
    // setpriv and capsh: keep, change user, raise again, ambient.
    let mut credentials = root();
    credentials.set_keepcaps(true).unwrap();
    credentials.set_resuid(1000, 1000, 1000).unwrap();
    assert_eq!((credentials.permitted, credentials.effective), (CONTAINER_CAPABILITIES, 0));
    let bind = 1 << Capability::NetBindService as u8;
    assert_eq!(credentials.raise_ambient(10), Err(Refused::NotPermitted), "not inheritable yet");
    credentials.set_capabilities(bind, bind, bind).unwrap();
    credentials.raise_ambient(10).unwrap();
    let (program, secure) = credentials.execute(&PLAIN);
    assert_eq!((program.permitted, program.effective, program.ambient), (bind, bind, bind));
    assert!(!secure);
    assert_eq!(program.securebits & SECBIT_KEEP_CAPS, 0, "execve forgets it");
}

#[test]
fn setfsuid_gives_the_old_id_and_moves_file_capabilities() {
    let mut credentials = root();
    assert_eq!(credentials.set_fsuid(1000), 0);
    assert!(!credentials.capable(Capability::DacOverride) && credentials.capable(Capability::Setuid));
    assert_eq!(credentials.set_fsuid(0), 1000);
    assert!(credentials.capable(Capability::DacOverride));
    let mut credentials = user();
    assert_eq!(credentials.set_fsuid(0), 1000);
    assert_eq!(credentials.user.fs, 1000, "refused without a word");
}

#[test]
fn set_user_id_programs_raise_unless_the_process_gave_that_up() {
    let sudo = Program { uid: 0, gid: 0, mode: 0o4755, capabilities: None };
    let (raised, secure) = user().execute(&sudo);
    assert_eq!(raised.user, Ids { real: 1000, effective: 0, saved: 0, fs: 0 });
    assert_eq!(raised.effective, CONTAINER_CAPABILITIES);
    assert!(secure);
    let mut tame = user();
    tame.no_new_privs = 1;
    let (same, secure) = tame.execute(&sudo);
    assert_eq!(same.user.effective, 1000);
    assert!(!secure);
}

#[test]
fn set_group_id_needs_the_group_to_execute() {
    let locks = Program { uid: 0, gid: 42, mode: 0o2755, capabilities: None };
    assert_eq!(user().execute(&locks).0.group.effective, 42);
    let mandatory_lock = Program { mode: 0o2745, ..locks };
    assert_eq!(user().execute(&mandatory_lock).0.group.effective, 1000);
}

#[test]
fn file_capabilities_make_ping_work() {
    let mut attribute = vec![1, 0, 0, 2]; // revision 2, effective
    attribute.extend((1_u32 << Capability::NetRaw as u8).to_le_bytes());
    attribute.extend([0; 12]);
    let capabilities = FileCapabilities::parse(&attribute).unwrap();
    let ping = Program { capabilities: Some(capabilities), ..PLAIN };
    let (raised, secure) = user().execute(&ping);
    assert_eq!(raised.effective, 1 << Capability::NetRaw as u8);
    assert!(secure);
    assert_eq!(FileCapabilities::parse(&attribute[..8]), None);
    assert_eq!(FileCapabilities::parse(&[0; 20]), None);
}

#[test]
fn root_keeps_its_capabilities_over_execve_and_a_user_has_none() {
    assert_eq!(root().execute(&PLAIN), (root(), false));
    assert_eq!(user().execute(&PLAIN), (user(), false));
    let mut dropped = root();
    dropped.drop_bounding(Capability::Mknod as u32).unwrap();
    assert!(!dropped.execute(&PLAIN).0.capable(Capability::Mknod));
}

#[test]
fn access_asks_as_the_real_user() {
    let mut credentials = root();
    credentials.set_reuid(1000, 0).unwrap();
    let asked = credentials.as_real();
    assert_eq!((asked.user.fs, asked.effective), (1000, 0));
}
