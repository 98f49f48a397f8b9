use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rstest::rstest;

use super::*;

/// A directory with these files in it, each with its content.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

fn open(directory: &tempfile::TempDir) -> LocalContext {
    LocalContext::open(directory.path(), None).unwrap()
}

fn listed(context: &LocalContext, directory: &str) -> Vec<String> {
    let files = context.list(directory.as_bytes()).unwrap().files;
    files.into_iter().map(|file| String::from_utf8(file.name).unwrap()).collect()
}

#[test]
fn files_are_told_as_they_are_and_sorted() {
    let place = directory(&[("b", "12345"), ("a/in", ""), ("c", "")]);
    let path = |name: &str| place.path().join(name);
    fs::set_permissions(path("b"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../nowhere", path("link")).unwrap();
    fs::hard_link(path("c"), path("d")).unwrap();
    rfs::mknodat(rfs::CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let context = open(&place);
    let files = context.list(b"").unwrap().files;
    let told: Vec<_> = files
        .iter()
        .map(|file| (String::from_utf8_lossy(&file.name).into_owned(), &file.kind, file.links))
        .collect();
    let target = Kind::Symlink { target: b"../nowhere".to_vec() };
    let expected: Vec<(String, &Kind, u64)> = vec![
        ("a".into(), &Kind::Directory, 2),
        ("b".into(), &Kind::File, 1),
        ("c".into(), &Kind::File, 2),
        ("d".into(), &Kind::File, 2),
        ("link".into(), &target, 1),
        ("pipe".into(), &Kind::Fifo, 1),
        ("socket".into(), &Kind::Socket, 1),
    ];
    assert_eq!(told[1..], expected[1..]);
    // How many links a directory has is the file system's affair.
    assert_eq!((&told[0].0, told[0].1), (&expected[0].0, expected[0].1));
    assert_eq!((files[1].mode, files[1].stamp.size), (0o4751, 5));
    assert_eq!(files[2].stamp, files[3].stamp, "two names of one file");
    for file in files {
        assert_eq!(context.lookup(&file.name).unwrap().as_ref(), Some(&file));
    }
    assert_eq!(context.lookup(b"").unwrap().unwrap().kind, Kind::Directory);
    assert_eq!(context.lookup(b"nothing").unwrap(), None);
    assert_eq!(context.lookup(b"b/in").unwrap(), None);
}

#[test]
fn no_link_leads_out_or_is_followed_unasked() {
    let outside = directory(&[("secret", "s"), ("d/secret", "s")]);
    let place = directory(&[("real/f", "1")]);
    let path = |name: &str| place.path().join(name);
    symlink(outside.path(), path("out")).unwrap();
    symlink(outside.path().join("secret"), path("file")).unwrap();
    symlink("real", path("in")).unwrap();
    let context = open(&place);
    assert!(matches!(context.lookup(b"file").unwrap().unwrap().kind, Kind::Symlink { .. }));
    for inside_of_a_link in [b"out/secret".as_slice(), b"out/d", b"in/f"] {
        assert_eq!(context.lookup(inside_of_a_link).unwrap(), None);
        assert!(context.open_file(inside_of_a_link).is_err());
    }
    assert!(context.list(b"in").is_err() && context.list(b"out").is_err());
    assert!(context.open_file(b"file").is_err());
    assert!(context.open_file(b"../secret").is_err());
    assert_eq!(context.resolve(b"in/f", true).unwrap(), Led::To(b"real/f".to_vec()));
    assert_eq!(context.resolve(b"../../in/f", true).unwrap(), Led::To(b"real/f".to_vec()));
    assert_eq!(context.resolve(b"in", false).unwrap(), Led::To(b"in".to_vec()));
    // An absolute target is one in the context.
    let led = context.resolve(b"out/secret", true).unwrap();
    let inside = outside.path().join("secret");
    assert_eq!(led, Led::To(inside.as_os_str().as_bytes()[1..].to_vec()));
    assert_eq!(context.resolve(b"real/f/x", true).unwrap(), Led::NotADirectory(b"real/f".to_vec()));
    let mut content = String::new();
    context.open_file(b"real/f").unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "1");
}

#[test]
fn what_became_a_pipe_does_not_hold_the_build_up() {
    let place = directory(&[("f", "1")]);
    let context = open(&place);
    fs::remove_file(place.path().join("f")).unwrap();
    rfs::mknodat(rfs::CWD, place.path().join("f"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let stamp = context.lookup(b"f").unwrap().unwrap().stamp;
    // It opens at once; that it is no file its stamp has told before.
    let opened = context.open_file(b"f").unwrap();
    assert_eq!(Stamp::of(&rfs::fstat(&opened).unwrap()), stamp);
}

#[test]
fn what_the_ignore_file_excludes_is_not_there() {
    let place = directory(&[
        (".dockerignore", "*.log\nnode_modules\n!node_modules/kept/*.js\nempty\n!empty/nothing\n/dir/\n"),
        ("a.log", ""),
        ("sub/a.log", ""),
        ("node_modules/other/x.js", ""),
        ("node_modules/kept/x.js", ""),
        ("node_modules/kept/x.css", ""),
        ("empty/x", ""),
        ("dir/x", ""),
    ]);
    let context = open(&place);
    assert_eq!(listed(&context, ""), [".dockerignore", "node_modules", "sub"]);
    assert_eq!(listed(&context, "node_modules"), ["kept"]);
    assert_eq!(listed(&context, "node_modules/kept"), ["x.js"]);
    assert_eq!(listed(&context, "sub"), ["a.log"]);
    for hidden in
        ["a.log", "node_modules/other", "node_modules/kept/x.css", "empty", "empty/x", "dir", "dir/x"]
    {
        assert_eq!(context.lookup(hidden.as_bytes()).unwrap(), None, "{hidden}");
        assert_eq!(context.resolve(hidden.as_bytes(), true).unwrap(), Led::To(hidden.into()));
    }
    assert_eq!(context.names_on_disk(b"").unwrap().len(), 6, "messages may speak of what is hidden");
}

#[rstest]
#[case("a.log", Some((1, "*.log")))]
#[case("d/x", Some((2, "d")))]
#[case("d/kept", None)]
#[case("shown", None)]
#[case("missing.log", None)]
fn what_is_hidden_says_by_which_line(#[case] path: &str, #[case] expected: Option<(usize, &str)>) {
    let place = directory(&[
        (".dockerignore", "*.log\nd\n!d/kept\nd/*.log\n"),
        ("a.log", ""),
        ("d/x", ""),
        ("d/kept", ""),
        ("d/a.log", ""),
        ("shown", ""),
    ]);
    let context = open(&place);
    let hidden = context.hidden(path.as_bytes()).unwrap();
    assert_eq!(hidden.map(|hidden| (hidden.pattern.line, hidden.pattern.text.as_str())), expected);
    assert!(hidden.is_none_or(|hidden| hidden.file == place.path().join(".dockerignore")));
}

#[test]
fn the_ignore_file_of_the_dockerfile_goes_before_the_contexts() {
    let place = directory(&[(".dockerignore", "a"), ("a", ""), ("b", "")]);
    let elsewhere = directory(&[("Dockerfile", ""), ("Dockerfile.dockerignore", "b"), ("Other", "")]);
    let with = |name: &str| LocalContext::open(place.path(), Some(&elsewhere.path().join(name))).unwrap();
    assert_eq!(listed(&with("Dockerfile"), ""), [".dockerignore", "a"]);
    assert_eq!(listed(&with("Other"), ""), [".dockerignore", "b"]);
    let hidden = with("Dockerfile");
    let hidden = hidden.hidden(b"b").unwrap().unwrap().file.to_owned();
    assert_eq!(hidden, elsewhere.path().join("Dockerfile.dockerignore"));
}

#[test]
fn an_ignore_file_that_is_none_is_told_or_passed_over() {
    let place = directory(&[(".dockerignore/x", "")]);
    assert_eq!(listed(&open(&place), ""), [".dockerignore"], "a directory has its name");
    let place = directory(&[("a", "")]);
    symlink("/etc/passwd", place.path().join(".dockerignore")).unwrap();
    assert_eq!(listed(&open(&place), ""), [".dockerignore", "a"], "a link does not lead out");
    let place = directory(&[("a", ""), ("real", "a")]);
    symlink("real", place.path().join(".dockerignore")).unwrap();
    assert_eq!(listed(&open(&place), ""), [".dockerignore", "real"], "one inside is followed");
    let place = directory(&[(".dockerignore", "a\n[\n")]);
    let error = LocalContext::open(place.path(), None).unwrap_err();
    assert!(
        matches!(&error, ContextError::Ignore { path, .. } if path.ends_with(".dockerignore")),
        "{error:?}"
    );
    let place = directory(&[(".dockerignore", &"#".repeat(LARGEST_IGNORE as usize + 1))]);
    let error = LocalContext::open(place.path(), None).unwrap_err();
    assert!(matches!(error, ContextError::IgnoreTooLarge { limit: LARGEST_IGNORE, .. }), "{error:?}");
    let error = LocalContext::open(&place.path().join("missing"), None).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let error = LocalContext::open(&place.path().join(".dockerignore"), None).unwrap_err();
    assert!(error.to_string().starts_with("cannot open"), "{error}");
}

#[test]
fn an_identity_is_that_of_the_directory_and_not_of_its_content() {
    let (one, other) = (directory(&[("a", "")]), directory(&[("a", "")]));
    let identity =
        |place: &tempfile::TempDir| open(place).identity().unwrap().expect("a file system with ctimes");
    let first = identity(&one);
    assert_ne!(first, identity(&other));
    fs::write(one.path().join("b"), "more").unwrap();
    assert_eq!(first, identity(&one));
    let roundabout = one.path().join("..").join(one.path().file_name().unwrap());
    assert_eq!(LocalContext::open(&roundabout, None).unwrap().identity().unwrap(), Some(first));
}

#[test]
fn a_directorys_attributes_come_with_its_list() {
    let place = directory(&[("d/a", "")]);
    rfs::setxattr(place.path().join("d"), "user.note", b"n", rfs::XattrFlags::empty()).unwrap();
    let context = open(&place);
    assert_eq!(
        context.list(b"d").unwrap().attributes,
        Attributes::from([(b"user.note".to_vec(), b"n".to_vec())])
    );
    assert!(context.list(b"").unwrap().attributes.is_empty());
}
