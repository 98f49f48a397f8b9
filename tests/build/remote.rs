//! What is not on this machine: files that ADD fetches, repositories, contexts that are archives or lie elsewhere.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use rstest::rstest;

use super::{Ran, build, context, differential, run};
use crate::support::{Cofferdam, Registry, Web, git, layers, sha256};

/// A web server with a repository `app.git` of two branches and a tag, and files.
fn web() -> Web {
    let web = Web::start();
    web.file("/plain.txt", "plain\n", Some("Wed, 21 Oct 2015 07:28:00 GMT"));
    web.file("/dir/", "with a slash\n", None);
    web.file("/a%20b.txt", "a blank\n", None);
    web.file("/files.tar.gz", archive("gzip", &[("in/side", "abc")]), None);
    web.redirect("/moved", "/plain.txt");
    let tree = web.repository("app.git");
    let write = |name: &str, content: &str| {
        std::fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        std::fs::write(tree.join(name), content).unwrap();
    };
    write("run.sh", "#!/bin/sh\n");
    write("notes.md", "notes\n");
    write("sub/main.c", "int x;\n");
    write("sub/deep/a.md", "deep\n");
    write("Dockerfile", "FROM scratch\nCOPY . /\n");
    write("sub/Dockerfile", "FROM scratch\nCOPY main.c /\n");
    write(".dockerignore", "*.md\n");
    std::os::unix::fs::symlink("run.sh", tree.join("link")).unwrap();
    git(&tree, &["add", "-A"]);
    git(&tree, &["update-index", "--chmod=+x", "run.sh"]);
    git(&tree, &["commit", "-qm", "one"]);
    git(&tree, &["tag", "-am", "first", "v1"]);
    git(&tree, &["checkout", "-qb", "other"]);
    write("sub/other.c", "int y;\n");
    git(&tree, &["add", "-A"]);
    git(&tree, &["commit", "-qm", "two"]);
    web
}

/// An archive, compressed.
fn archive(how: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if name.ends_with(".sh") { 0o755 } else { 0o644 });
        header.set_mtime(1_500_000_000);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    match how {
        "plain" => tar,
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        "bzip2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(tar.as_slice(), 1).unwrap(),
    }
}

#[test]
fn add_of_addresses_is_what_buildkit_makes() {
    let web = web();
    let at = |path: &str| web.url(path);
    let (plain, app) = (at("/plain.txt"), at("/git/app.git"));
    let digest = sha256(b"plain\n");
    let commit = {
        let tree = web.repository("other.git");
        std::fs::write(tree.join("f"), "f").unwrap();
        git(&tree, &["add", "-A"]);
        git(&tree, &["commit", "-qm", "one"]);
        git(&tree, &["rev-parse", "HEAD"])
    };
    let dockerfile = format!(
        "FROM debian:bookworm-slim
ADD {plain} /dest/
ADD --chmod=640 --chown=12:games {plain} /named
ADD --checksum={digest} {plain} /checked
ADD {files} /packed/
ADD --unpack {files} /unpacked/
ADD {slash} {blank} /names/
ADD {moved} app.py {plain} /many/
ADD {app} /repository/
ADD {app}#main:sub /sub/
ADD {app}#v1 /tag
ADD --exclude=**/*.md {app}?branch=other /excluded/
ADD --chown=5:6 --checksum={short} {other} /other/
ADD --link {app}?ref=other&subdir=sub/ /linked/
",
        files = at("/files.tar.gz"),
        slash = at("/dir/"),
        blank = at("/a%20b.txt"),
        moved = at("/moved"),
        other = at("/git/other.git"),
        short = &commit[..10],
    );
    let directory = tempfile::tempdir().unwrap();
    differential::context(directory.path());
    std::fs::write(directory.path().join("Dockerfile"), &dockerfile).unwrap();
    differential::compare(&differential::JUDGE, directory.path(), "add of addresses");
}

/// A repository with a submodule by a relative address, which has one by an absolute address, on another server.
fn with_submodules(web: &Web, other: &Web) -> std::path::PathBuf {
    let file = |tree: &Path, name: &str| std::fs::write(tree.join(name), format!("{name}\n")).unwrap();
    let submodule = |tree: &Path, path: &str, url: &str, of: &Path| {
        let commit = git(of, &["rev-parse", "HEAD"]);
        let text = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
        std::fs::write(tree.join(".gitmodules"), text).unwrap();
        git(tree, &["add", "-A"]);
        git(tree, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
    };
    let commit = |tree: &Path| {
        git(tree, &["add", "--ignore-removal", "."]);
        git(tree, &["commit", "-qm", "x"]);
    };
    let far = other.repository("far.git");
    file(&far, "far.txt");
    commit(&far);
    let near = web.repository("near.git");
    file(&near, "near.txt");
    submodule(&near, "deep/far", &other.url("/git/far.git"), &far);
    git(&near, &["commit", "-qm", "x"]);
    let main = web.repository("main.git");
    file(&main, "main.txt");
    submodule(&main, "lib/near", "../near.git", &near);
    git(&main, &["commit", "-qm", "x"]);
    main
}

/// Those of submodules too, wherever they are, and again those of theirs.
#[test]
fn submodules_are_what_buildkit_makes() {
    let (web, other) = (Web::start(), Web::start());
    with_submodules(&web, &other);
    let main = web.url("/git/main.git");
    // In BuildKit's result a file `.git` of each says where on its machine the rest is.
    let dockerfile = format!(
        "FROM debian:bookworm-slim
ADD --exclude=**/.git {main} /all/
ADD --exclude=**/.git {main}#:lib/near/deep /inner/
ADD {main}?submodules=false /none/
"
    );
    let directory = tempfile::tempdir().unwrap();
    differential::context(directory.path());
    std::fs::write(directory.path().join("Dockerfile"), &dockerfile).unwrap();
    differential::compare(&differential::JUDGE, directory.path(), "submodules");
    assert!(other.asked().iter().any(|asked| asked.path.starts_with("/git/far.git")));
}

/// The context itself, with all of its submodules; nothing of them is fetched from this machine's disk.
#[test]
fn submodules_of_a_context_are_there_and_come_from_servers_alone() {
    let (web, other, registry) = (Web::start(), Web::start(), Registry::start());
    let main = with_submodules(&web, &other);
    std::fs::write(main.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    git(&main, &["add", "Dockerfile"]);
    git(&main, &["commit", "-qm", "x"]);
    let cofferdam = Cofferdam::new();
    let of = |url: &str, name: &str| {
        let mut command = cofferdam.command();
        command.args(["build", "--progress=plain", "--push", "-t", &registry.reference(name), url]);
        run(&mut command)
    };
    of(&web.url("/git/main.git"), "submodules:1").succeeded();
    let all = layers(&registry, "submodules:1");
    let names: Vec<&str> = all[0].keys().map(String::as_str).collect();
    assert!(
        names.contains(&"lib/near/near.txt") && names.contains(&"lib/near/deep/far/far.txt"),
        "{names:?}"
    );
    assert!(!names.iter().any(|name| name.ends_with(".git")), "{names:?}");
    let here = web.repository("here.git");
    std::fs::write(here.join("f"), "f").unwrap();
    let near = main.parent().unwrap().join("near.git.tree");
    let text = format!("[submodule \"l\"]\n\tpath = l\n\turl = file://{}\n", near.display());
    std::fs::write(here.join(".gitmodules"), text).unwrap();
    git(&here, &["add", "-A"]);
    let commit = git(&near, &["rev-parse", "HEAD"]);
    git(&here, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},l")]);
    git(&here, &["commit", "-qm", "x"]);
    of(&web.url("/git/here.git"), "submodules:2")
        .failed(5, &["fetch the submodules", "transport 'file' not allowed"]);
}

/// git asks the agent that `--ssh` gives, be it one with keys from files. In place of `ssh` a script tells what it is offered.
#[test]
fn git_is_offered_the_keys_of_the_build() {
    use std::os::unix::fs::PermissionsExt;
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    let home = cofferdam.home();
    let (key, script, offered) = (home.join("key"), home.join("ssh"), home.join("offered"));
    let keygen = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "of the build", "-f"])
        .arg(&key)
        .status();
    assert!(keygen.unwrap().success());
    let text = format!(
        "#!/bin/sh\nssh-add -L >> {}\nfor last; do :; done\nexec sh -c \"$last\"\n",
        offered.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let repository = web.repository("ssh.git");
    std::fs::write(repository.join("f"), "f").unwrap();
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "x"]);
    let dockerfile = format!("FROM scratch\nADD ssh://git@127.0.0.1{}/.git /\n", repository.display());
    let tree = context(&dockerfile, &[]);
    let mut command = cofferdam.command();
    command.env("GIT_SSH", &script).args(["build", "--progress=plain"]);
    command.arg(format!("--ssh=default={}", key.display()));
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(tree.path());
    run(&mut command).succeeded();
    let (offered, public) =
        (std::fs::read_to_string(offered), std::fs::read_to_string(key.with_extension("pub")));
    assert_eq!(offered.unwrap().lines().next(), public.unwrap().lines().next());
}

/// Times are the server's and the commit's, so that the image is the same whenever it is built.
#[test]
fn what_is_fetched_has_the_time_of_its_source() {
    let (web, registry) = (web(), Registry::start());
    let dockerfile = format!(
        "FROM scratch\nADD {} {} /\nADD {} /git/\n",
        web.url("/plain.txt"),
        web.url("/dir/"),
        web.url("/git/app.git#v1")
    );
    let name = registry.reference("times:1");
    let tree = context(&dockerfile, &[]);
    build(&Cofferdam::new(), &registry, tree.path(), &["--push", "-t", &name]).succeeded();
    let layers = layers(&registry, "times:1");
    let time = |layer: usize, name: &str| layers[layer].get(name).unwrap_or_else(|| panic!("{name}")).mtime;
    assert_eq!(time(0, "plain.txt"), 1_445_412_480);
    assert_eq!(time(0, "dir"), 0);
    assert_eq!((time(1, "git/run.sh"), time(1, "git/link")), (1_600_000_000, 1_600_000_000));
}

#[test]
fn a_file_is_downloaded_again_only_if_it_has_changed() {
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    let url = web.url("/plain.txt");
    let tree = context(&format!("FROM scratch\nADD {url} /\n"), &[]);
    let again = || build(&cofferdam, &registry, tree.path(), &[]).succeeded();
    let first = again();
    assert_eq!(web.asked().iter().map(|asked| (asked.status, asked.sent)).collect::<Vec<_>>(), [(200, 6)]);
    let second = again();
    assert_eq!(web.asked().iter().map(|asked| (asked.status, asked.sent)).collect::<Vec<_>>(), [(304, 0)]);
    assert_eq!(first.digest(), second.digest());
    assert!(second.stderr.contains("1 cached"), "{}", second.stderr);
    web.file("/plain.txt", "other\n", None);
    let third = again();
    assert!(third.digest() != second.digest() && third.stderr.contains("0 cached"), "{}", third.stderr);
    web.asked();
    // Who says what it has to be need not ask.
    let checked = format!("FROM scratch\nADD --checksum={} {url} /\n", sha256(b"other\n"));
    std::fs::write(tree.path().join("Dockerfile"), checked).unwrap();
    again();
    assert_eq!(web.asked(), []);
}

#[test]
fn what_cannot_be_fetched_is_said_with_its_place() {
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    let (plain, app) = (web.url("/plain.txt"), web.url("/git/app.git"));
    web.redirect("/loop", "/loop");
    web.redirect("/away", "ftp://127.0.0.1/x");
    let zeros = "0".repeat(64);
    let cases: Vec<(String, i32, Vec<String>)> = vec![
        (format!("ADD {} /", web.url("/absent")), 5, vec!["Dockerfile:2:5".into(), "answered 404".into()]),
        (format!("ADD {} /", web.url("/loop")), 5, vec!["redirected more than 10 times".into()]),
        (format!("ADD {} /", web.url("/away")), 5, vec!["ftp://127.0.0.1/x".into()]),
        (format!("ADD --checksum=sha256:{zeros} {plain} /"), 5, vec![format!("and not sha256:{zeros}")]),
        (
            format!("ADD --checksum=md5:x {plain} /"),
            3,
            vec!["Dockerfile:2:16".into(), "algorithm `md5`".into()],
        ),
        (format!("ADD --checksum=sha256:{zeros} Dockerfile /"), 3, vec!["this is a path".into()]),
        (format!("ADD --checksum=sha256:{zeros} {plain} {plain} /"), 3, vec!["there are several".into()]),
        (format!("ADD {app}#nothing /"), 5, vec!["no branch, tag or reference `nothing`".into()]),
        (format!("ADD {app}#:nowhere /"), 5, vec!["no directory `nowhere`".into()]),
        (format!("ADD {app}#:link /"), 5, vec!["no directory `link`".into()]),
        (format!("ADD {app}?commit=0000000 /"), 5, vec!["and not at 0000000".into()]),
        (format!("ADD {app}?depth=3 /"), 3, vec!["`depth` means nothing".into()]),
        (format!("ADD {} /", web.url("/git/absent.git")), 5, vec!["absent.git".into(), "git says".into()]),
        (format!("COPY {app} /"), 3, vec!["ADD takes URLs and git repositories".into()]),
        (format!("COPY {plain} /"), 3, vec!["ADD takes URLs and git repositories".into()]),
    ];
    for (instruction, status, says) in cases {
        let tree = context(&format!("FROM scratch\n{instruction}\n"), &[]);
        let says: Vec<&str> = says.iter().map(String::as_str).collect();
        build(&cofferdam, &registry, tree.path(), &[]).failed(status, &says);
    }
}

/// The token is in no message, no file that is kept and no request to somebody else.
#[test]
fn a_private_repository_is_shown_a_token_and_nobody_else_is() {
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    // base64 of `x-access-token:s3cret`
    web.want_authorization("basic eC1hY2Nlc3MtdG9rZW46czNjcmV0");
    let app = web.url("/git/app.git");
    let tree =
        context(&format!("FROM scratch\nADD --keep-git-dir {app} /\nADD {} /\n", web.url("/plain.txt")), &[]);
    build(&cofferdam, &registry, tree.path(), &[]).failed(5, &["git says", "GIT_AUTH_TOKEN"]);
    let token = tree.path().join("../token");
    std::fs::write(&token, "s3cret\n").unwrap();
    web.asked();
    let layout = tempfile::tempdir().unwrap();
    let output = format!("--output=type=local,dest={}", layout.path().join("out").display());
    for id in ["GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN.127.0.0.1"] {
        let secret = format!("--secret=id={id},src={}", token.display());
        let ran = build(&cofferdam, &registry, tree.path(), &["--no-cache", &secret, &output]).succeeded();
        assert!(!ran.stderr.contains("s3cret") && !ran.stderr.contains("czNjcmV0"), "{}", ran.stderr);
    }
    std::fs::remove_file(token).unwrap();
    for asked in web.asked() {
        assert!(asked.path.starts_with("/git/") == asked.authorization.is_some(), "{asked:?}");
    }
    let kept = std::fs::read_to_string(layout.path().join("out/.git/config")).unwrap();
    assert!(kept.contains("app.git") && !kept.contains("uthorization"), "{kept}");
}

/// What is kept of `.git` has neither clock nor inode in it, and git can work with it.
#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_kept_git_directory_is_the_same_each_time(#[case] uid: Option<u32>) {
    let (web, registry) = (web(), Registry::start());
    let url = web.url("/git/app.git#v1");
    let tree = context(&format!("FROM scratch\nADD --keep-git-dir {url} /src/\n"), &[]);
    let new = || uid.map_or_else(Cofferdam::new, Cofferdam::as_uid);
    let (one, other) = (new(), new());
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
    let first = build(&one, &registry, tree.path(), &[epoch]).succeeded();
    let second = build(&other, &registry, tree.path(), &[epoch]).succeeded();
    assert_eq!(first.digest(), second.digest());
    let third = build(&one, &registry, tree.path(), &[epoch]).succeeded();
    assert!(third.stderr.contains("1 cached"), "{}", third.stderr);
    let out = one.home().join("out");
    let output = format!("--output=type=local,dest={}", out.display());
    build(&one, &registry, tree.path(), &[&output]).succeeded();
    let source = out.join("src");
    let seen = |args: &[&str]| git(&source, &[&["-c", "safe.directory=*"], args].concat());
    assert_eq!(seen(&["describe", "--tags"]), "v1");
    assert_eq!(seen(&["status", "--porcelain"]), "");
}

/// The same files are the same image, however they come.
#[test]
fn a_context_is_the_same_from_everywhere() {
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    let files = [("run.sh", "#!/bin/sh\n"), ("sub/main.c", "int x;\n"), ("sub/deep/a.md", "deep\n")];
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let ignore = ("Dockerfile.dockerignore", "Dockerfile*\n.dockerignore\n*.md\nlink\n");
    let tree = context(dockerfile, &[&files[..], &[ignore]].concat());
    std::fs::set_permissions(tree.path().join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let epoch = |ran: Ran| ran.succeeded().digest().to_owned();
    let plain = ["--build-arg=SOURCE_DATE_EPOCH=1000000000"];
    let wanted = epoch(build(&cofferdam, &registry, tree.path(), &plain));
    let of = |context: &str, args: &[&str], stdin: Vec<u8>| {
        let mut command = cofferdam.command();
        command.arg("build").arg("--progress=plain").args(plain).args(args).arg(context).write_stdin(stdin);
        run(&mut command)
    };
    let packed = [&files[..], &[("Dockerfile", dockerfile), ignore]].concat();
    for how in ["plain", "gzip", "bzip2", "xz", "zstd"] {
        assert_eq!(epoch(of("-", &[], archive(how, &packed))), wanted, "{how}");
    }
    web.file("/context.tar.xz", archive("xz", &packed), None);
    assert_eq!(epoch(of(&web.url("/context.tar.xz"), &[], Vec::new())), wanted);
    let repository = web.repository("same.git");
    for (name, content) in &packed {
        std::fs::create_dir_all(repository.join("in").join(name).parent().unwrap()).unwrap();
        std::fs::write(repository.join("in").join(name), content).unwrap();
    }
    git(&repository, &["add", "-A"]);
    git(&repository, &["update-index", "--chmod=+x", "in/run.sh"]);
    git(&repository, &["commit", "-qm", "x"]);
    let url = web.url("/git/same.git");
    assert_eq!(epoch(of(&format!("{url}#main:in"), &[], Vec::new())), wanted);
    assert_eq!(epoch(of(&format!("{url}?subdir=in"), &["--file=Dockerfile"], Vec::new())), wanted);
    // The Dockerfile alone: there is nothing to copy.
    let alone = of("-", &[], b"FROM scratch\nCOPY . /\nLABEL a=b\n".to_vec()).succeeded();
    of("-", &[], b"FROM scratch\nCOPY Dockerfile /\n".to_vec())
        .failed(3, &["-:2:6", "not in the build context"]);
    web.file("/Dockerfile.web", "FROM scratch\nCOPY Dockerfile.web /x\n", None);
    of(&web.url("/Dockerfile.web"), &[], Vec::new()).succeeded();
    assert!(alone.digest().starts_with("sha256:"));
    of("-", &["--file=-"], Vec::new()).failed(2, &["standard input"]);
}

#[test]
fn a_context_leads_nowhere_else() {
    let cofferdam = Cofferdam::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "FROM scratch\nCOPY secret /\n").unwrap();
    let packed = |links: &[(&str, &Path)], files: &[(&str, &str)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        }
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let of = |stdin: Vec<u8>| {
        let mut command = cofferdam.command();
        run(command.args(["build", "-"]).write_stdin(stdin))
    };
    // Neither the Dockerfile nor what is copied can be a file of the machine.
    of(packed(&[("Dockerfile", secret.path())], &[])).failed(5, &["cannot read the Dockerfile"]);
    of(packed(&[("x", secret.path())], &[("Dockerfile", "FROM scratch\nCOPY x /\n")]))
        .failed(3, &["`x` leads to"]);
    // Nor does what is unpacked go through a link.
    let out = tempfile::tempdir().unwrap();
    let hostile = packed(&[("out", out.path())], &[("out/file", "x"), ("Dockerfile", "FROM scratch\n")]);
    of(hostile).failed(5, &["cannot unpack `/out/file` of `standard input`"]);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    // What ends in the middle is no context.
    let files = [("Dockerfile", "FROM scratch\n"), ("large", &*"x".repeat(5000))];
    let mut cut = archive("plain", &files);
    cut.truncate(4096);
    of(cut).failed(5, &["cannot unpack `/large` of `standard input`", "the archive is cut off"]);
}

#[test]
fn a_named_context_may_lie_elsewhere() {
    let (web, registry, cofferdam) = (web(), Registry::start(), Cofferdam::new());
    let dockerfile = "FROM scratch\nCOPY --from=app main.c /\nCOPY --from=file context /plain\n";
    let tree = context(dockerfile, &[]);
    let (app, file) = (
        format!("--build-context=app={}#v1:sub", web.url("/git/app.git")),
        format!("--build-context=file={}", web.url("/plain.txt")),
    );
    let name = registry.reference("named:1");
    build(&cofferdam, &registry, tree.path(), &[&app, &file, "--push", "-t", &name]).succeeded();
    let layers = layers(&registry, "named:1");
    assert!(layers[0]["main.c"].content.contains("int x;"), "{:?}", layers[0]["main.c"]);
    assert!(layers[1]["plain"].content.contains("plain"), "{:?}", layers[1]["plain"]);
}
