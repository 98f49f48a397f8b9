//! Settings as a whole: precedence, places, and what is said about what is wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rstest::rstest;

use super::*;
use crate::build::request::{ContextSource, DockerfileSource, Output};
use crate::layer::Compression;
use crate::registry::Environment;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        environment: Environment::new(variables.iter().copied()),
        uid: rustix::process::geteuid().as_raw(),
        umask: 0o022,
        threads: 3,
        stdin_is_terminal: false,
        stdout_is_terminal: false,
        stderr_is_terminal: true,
    }
}

/// Settings without any file but `text`, if there is one.
fn settings(flags: GlobalFlags, variables: &[(&str, &str)], text: &str) -> Settings {
    let file = if text.is_empty() {
        ConfigFile::default()
    } else {
        ConfigFile::parse(Path::new("/conf/config.toml"), text).unwrap()
    };
    Settings { surroundings: surroundings(variables), flags, file }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn message(error: &SettingsError) -> String {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

#[rstest]
#[case(Some("zstd"), Some("gzip:1"), "compression = \"gzip:2\"", Compression::ZSTD)]
#[case(None, Some("gzip:1"), "compression = \"gzip:2\"", Compression::Gzip(1))]
#[case(None, Some(""), "compression = \"gzip:2\"", Compression::Gzip(2))]
#[case(None, None, "", Compression::default())]
fn a_flag_goes_before_a_variable_before_the_file(
    #[case] flag: Option<&str>,
    #[case] variable: Option<&str>,
    #[case] file: &str,
    #[case] expected: Compression,
) {
    let variables: Vec<_> = variable.map(|value| (variables::COMPRESSION, value)).into_iter().collect();
    let settings = settings(GlobalFlags::default(), &variables, file);
    let flags = BuildFlags { compression: flag.map(str::to_owned), ..BuildFlags::default() };
    assert_eq!(settings.build(&flags).unwrap().request.compression, expected);
}

#[test]
fn an_error_says_where_the_value_came_from() {
    let build = |flag: Option<&str>, variables: &[(&str, &str)], file: &str| {
        let flags = BuildFlags { parallel: flag.map(str::to_owned), ..BuildFlags::default() };
        message(&settings(GlobalFlags::default(), variables, file).build(&flags).unwrap_err())
    };
    assert_eq!(build(Some("0"), &[], ""), "`--parallel`: `0` is no number of stages, 1 or more");
    assert_eq!(
        build(None, &[(variables::PARALLEL, "many")], ""),
        "environment variable `COFFERDAM_PARALLEL`: `many` is no number of stages, 1 or more"
    );
    assert_eq!(
        build(None, &[], "\nparallel = 0"),
        "`parallel` in `/conf/config.toml`, line 2: `0` is no number of stages, 1 or more"
    );
    assert_eq!(
        build(None, &[(variables::NO_CACHE, "maybe")], ""),
        "environment variable `COFFERDAM_NO_CACHE`: `maybe` is neither `true` nor `false`"
    );
}

#[test]
fn a_build_is_resolved_whole() {
    let variables = [("TOKEN", "t"), (variables::SOURCE_DATE_EPOCH, "1700000000")];
    let settings = settings(GlobalFlags::default(), &variables, "");
    let flags = BuildFlags {
        file: Some("-".into()),
        tags: strings(&["app", "app:latest", "r.example/app:1"]),
        build_args: strings(&["A=1", "TOKEN", "MISSING", "A=2", "EMPTY="]),
        labels: strings(&["a=1", "b", "a=2"]),
        platforms: vec!["arm64".to_owned()],
        build_contexts: strings(&["src=../src"]),
        outputs: strings(&["type=oci,dest=x.tar,compression=zstd"]),
        push: true,
        ..BuildFlags::default()
    };
    let request = settings.build(&flags).unwrap().request;
    assert_eq!(request.context, ContextSource::Directory(".".into()));
    assert_eq!(request.dockerfile, DockerfileSource::Stdin);
    let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["docker.io/library/app:latest", "r.example/app:1"]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        request.build_args,
        [pair("A", "2"), pair("TOKEN", "t"), pair("EMPTY", ""), pair("SOURCE_DATE_EPOCH", "1700000000")]
    );
    assert_eq!(request.labels, [pair("a", "2"), pair("b", "")]);
    assert_eq!(request.platforms[0].to_string(), "linux/arm64");
    assert_eq!(request.outputs.len(), 2);
    assert!(matches!(&request.outputs[1], Output::Registry { names } if names == &request.tags));
    assert_eq!(request.compression, Compression::ZSTD);
    assert_eq!((request.parallel, request.source_date_epoch), (3, Some(1_700_000_000)));
}

#[rstest]
#[case(&[("SOURCE_DATE_EPOCH", "5")], &["SOURCE_DATE_EPOCH=7"], Ok(Some(7)))]
#[case(&[("SOURCE_DATE_EPOCH", "5")], &["SOURCE_DATE_EPOCH"], Ok(Some(5)))]
#[case(&[("SOURCE_DATE_EPOCH", "5")], &["SOURCE_DATE_EPOCH="], Ok(None))]
#[case(&[], &["SOURCE_DATE_EPOCH"], Ok(None))]
#[case(&[("SOURCE_DATE_EPOCH", "today")], &[], Err("environment variable `SOURCE_DATE_EPOCH`: `today` is no time: SOURCE_DATE_EPOCH is a number of seconds since 1970"))]
#[case(&[], &["SOURCE_DATE_EPOCH=-1"], Err("`--build-arg`: `-1` is no time: SOURCE_DATE_EPOCH is a number of seconds since 1970"))]
fn the_epoch(
    #[case] variables: &[(&str, &str)],
    #[case] arguments: &[&str],
    #[case] expected: Result<Option<i64>, &str>,
) {
    let flags = BuildFlags { build_args: strings(arguments), ..BuildFlags::default() };
    let found = settings(GlobalFlags::default(), variables, "").build(&flags);
    let found = found.map(|build| build.request.source_date_epoch).map_err(|error| message(&error));
    assert_eq!(found, expected.map_err(str::to_owned));
}

#[rstest]
#[case(BuildFlags { push: true, ..BuildFlags::default() }, "`--push`: there is no name to push to; give one with `-t NAME`")]
#[case(BuildFlags { tags: strings(&["App"]), ..BuildFlags::default() }, "`--tag`: image name `App` must be lower case")]
#[case(BuildFlags { outputs: strings(&["-", "type=oci,dest=-"]), ..BuildFlags::default() }, "two outputs go to standard output; write one of them to a file")]
#[case(BuildFlags { outputs: strings(&["type=oci,dest=a,compression=zstd", "type=oci,dest=b,compression=gzip"]), ..BuildFlags::default() }, "two outputs want layers to be compressed in different ways, and they are made once; build twice; nothing is executed the second time")]
#[case(BuildFlags { platforms: strings(&["linux/amd64,linux/arm64"]), outputs: strings(&["type=docker,dest=x"]), ..BuildFlags::default() }, "an output of `type=docker` holds one platform, and there are 2; write `type=oci`, or build them one at a time")]
#[case(BuildFlags { no_cache_filter: strings(&["a", "b,,c"]), ..BuildFlags::default() }, "`--no-cache-filter`: `a,b,,c` has an empty name; stages are parted by commas")]
#[case(BuildFlags { context: Some("https://me:pw@example.com/x.git?ref=".into()), ..BuildFlags::default() }, "`CONTEXT`: `https://***@example.com/x.git?ref=` is not an address: `ref` has no value")]
#[case(BuildFlags { build_args: strings(&["=x"]), ..BuildFlags::default() }, "`--build-arg`: `=x` has no name before the `=`")]
fn builds_that_make_no_sense(#[case] flags: BuildFlags, #[case] expected: &str) {
    let error = settings(GlobalFlags::default(), &[], "").build(&flags).unwrap_err();
    assert_eq!(message(&error), expected);
}

#[test]
fn no_archive_goes_to_a_terminal() {
    let mut settings = settings(GlobalFlags::default(), &[], "");
    let flags = BuildFlags { outputs: strings(&["-"]), ..BuildFlags::default() };
    assert!(settings.build(&flags).is_ok());
    settings.surroundings.stdout_is_terminal = true;
    assert!(
        message(&settings.build(&flags).unwrap_err()).starts_with("an archive is not written to a terminal")
    );
}

#[test]
fn an_output_that_brings_its_own_name_is_not_pushed_under_others() {
    let flags = BuildFlags {
        tags: strings(&["local"]),
        outputs: strings(&["type=registry,name=r.example/app:1"]),
        ..BuildFlags::default()
    };
    let request = settings(GlobalFlags::default(), &[], "").build(&flags).unwrap().request;
    assert_eq!(request.tags[0].familiar(), "local:latest");
    assert!(
        matches!(&request.outputs[..], [Output::Registry { names }] if names[0].to_string() == "r.example/app:1")
    );
    let flags = BuildFlags { tags: Vec::new(), ..flags };
    let request = settings(GlobalFlags::default(), &[], "").build(&flags).unwrap().request;
    assert_eq!(request.tags[0].to_string(), "r.example/app:1");
}

#[rstest]
#[case(&[], true, Form::Tty)]
#[case(&[], false, Form::Plain)]
#[case(&[("CI", "true")], true, Form::Plain)]
#[case(&[("CI", "false")], true, Form::Tty)]
#[case(&[("GITLAB_CI", "true")], true, Form::Plain)]
#[case(&[("GITHUB_ACTIONS", "true")], true, Form::Plain)]
#[case(&[("TERM", "dumb")], true, Form::Plain)]
#[case(&[("NO_COLOR", "1")], true, Form::Tty)]
#[case(&[("COFFERDAM_PROGRESS", "json")], true, Form::Json)]
#[case(&[("BUILDKIT_PROGRESS", "plain")], true, Form::Plain)]
#[case(&[("BUILDKIT_PROGRESS", "rawjson")], true, Form::Tty)]
#[case(&[("COFFERDAM_PROGRESS", "quiet"), ("BUILDKIT_PROGRESS", "plain")], true, Form::Quiet)]
#[case(&[("COFFERDAM_PROGRESS", "tty"), ("CI", "true")], true, Form::Tty)]
fn the_form_of_progress(
    #[case] variables: &[(&str, &str)],
    #[case] is_terminal: bool,
    #[case] expected: Form,
) {
    let mut settings = settings(GlobalFlags::default(), variables, "");
    settings.surroundings.stderr_is_terminal = is_terminal;
    assert_eq!(settings.report().unwrap().form, expected);
}

#[test]
fn flags_on_progress() {
    let form =
        |flags: GlobalFlags| settings(flags, &[], "progress = \"plain\"").report().map(|report| report.form);
    assert_eq!(form(GlobalFlags::default()).unwrap(), Form::Plain);
    assert_eq!(form(GlobalFlags { quiet: true, ..GlobalFlags::default() }).unwrap(), Form::Quiet);
    let json = GlobalFlags { progress: Some("json".into()), quiet: true, ..GlobalFlags::default() };
    assert_eq!(form(json).unwrap(), Form::Json);
    let wrong = GlobalFlags { progress: Some("plian".into()), ..GlobalFlags::default() };
    assert_eq!(
        message(&form(wrong).unwrap_err()),
        "`--progress`: `plian` is no form of progress: give `auto`, `tty`, `plain`, `json` or `quiet`; did you mean `plain`?"
    );
}

#[test]
fn tty_without_a_terminal_is_plain_and_says_so() {
    let flags = GlobalFlags { progress: Some("tty".into()), ..GlobalFlags::default() };
    let mut settings = settings(flags, &[], "");
    settings.surroundings.stderr_is_terminal = false;
    let report = settings.report().unwrap();
    assert_eq!(report.form, Form::Plain);
    assert!(report.warning.unwrap().contains("no terminal") && !report.style.color);
}

#[rstest]
#[case(&[], true, false)]
#[case(&[("LANG", "de_AT.UTF-8")], true, true)]
#[case(&[("NO_COLOR", "1"), ("LC_ALL", "C"), ("LANG", "de_AT.UTF-8")], false, false)]
fn the_style(#[case] variables: &[(&str, &str)], #[case] color: bool, #[case] unicode: bool) {
    let style = settings(GlobalFlags::default(), variables, "").report().unwrap().style;
    assert_eq!((style.color, style.unicode), (color, unicode));
}

#[test]
fn mirrors_of_all_places_are_taken_together() {
    let text = r#"
        [registry."docker.io"]
        mirrors = ["from-file.example"]
        fall-back = false
        [registry."quay.io"]
        mirrors = ["http://quay.svc:5000/hub"]
        [registry."r.example:5000"]
        insecure = true
        upload = "chunked:4MB"
    "#;
    let variables = [
        (variables::REGISTRY_MIRRORS, "ghcr.io=ghcr.svc; docker.io=never.example"),
        (variables::INSECURE_REGISTRIES, "a.svc:80,b.svc"),
    ];
    let flags = RegistryFlags {
        mirrors: strings(&["one.example", "docker.io=two.example,three.example"]),
        insecure: strings(&["A.svc:80"]),
        ca: Vec::new(),
    };
    let options = settings(GlobalFlags::default(), &variables, text).registry(&flags).unwrap().options;
    let shown: Vec<(String, String, bool)> = options
        .mirrors
        .iter()
        .map(|rule| (rule.prefix.clone(), rule.mirrors.join(","), rule.fall_back))
        .collect();
    let rule = |prefix: &str, mirrors: &str, fall_back| (prefix.to_owned(), mirrors.to_owned(), fall_back);
    assert_eq!(
        shown,
        [
            rule("docker.io", "one.example,two.example,three.example", false),
            rule("ghcr.io", "ghcr.svc", true),
            rule("quay.io", "http://quay.svc:5000/hub", true),
        ]
    );
    let insecure: Vec<&str> = options.hosts.keys().map(String::as_str).collect();
    assert_eq!(insecure, ["a.svc:80", "b.svc", "r.example:5000"]);
    assert!(options.hosts.values().all(|host| host.plain_http && host.untrusted_certificate));
    assert!(options.hosts["r.example:5000"].upload.is_some());
}

#[test]
fn certificates_are_read_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("ca.pem");
    std::fs::write(&good, "text\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
    let bad = directory.path().join("ca.der");
    std::fs::write(&bad, [0x30, 0x82, 1, 2]).unwrap();
    let registry = |ca: String| {
        let flags = RegistryFlags { ca: vec![ca], ..RegistryFlags::default() };
        settings(GlobalFlags::default(), &[], "").registry(&flags)
    };
    let all = registry(good.display().to_string()).unwrap().options;
    assert_eq!((all.extra_roots.len(), all.hosts.len()), (1, 0));
    let one = registry(format!("r.example={}", good.display())).unwrap().options;
    assert_eq!((one.extra_roots.len(), one.hosts["r.example"].extra_roots.len()), (0, 1));
    assert!(!one.hosts["r.example"].untrusted_certificate);
    let error = message(&registry(bad.display().to_string()).unwrap_err());
    assert!(error.contains("holds no certificate in PEM; a certificate in DER"), "{error}");
    let error = message(&registry("/no/such/ca.pem".to_owned()).unwrap_err());
    assert_eq!(error, "cannot read `/no/such/ca.pem` (`--registry-ca`)");
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let file =
        settings(GlobalFlags::default(), &[], "state-dir = \"state\"\nregistry-ca = \"/abs.pem\"").file;
    assert_eq!(file.state_dir.unwrap().value, Path::new("/conf/state"));
    assert_eq!(file.registry_ca[0].value, Path::new("/abs.pem"));
}

fn config_error(text: &str) -> String {
    match ConfigFile::parse(Path::new("config.toml"), text).unwrap_err() {
        SettingsError::Config(findings) => findings.render(false),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_keys_are_pointed_at() {
    insta::assert_snapshot!(config_error("progress = \"plain\"\nstate_dir = \"x\"\n\n[registry.\"a.b\"]\nmirror = [\"x\"]\n"), @r#"
    error: there is no setting `state_dir`
     --> config.toml:2:1
      |
    2 | state_dir = "x"
      | ^^^^^^^^^
      |
      = help: did you mean `state-dir`?

    error: there is no setting `mirror`
     --> config.toml:5:1
      |
    5 | mirror = ["x"]
      | ^^^^^^
      |
      = help: did you mean `mirrors`?
    "#);
}

#[test]
fn values_of_the_wrong_kind_are_pointed_at() {
    insta::assert_snapshot!(config_error("parallel = \"4\"\nno-cache = 1\nregistry-ca = [1]\nregistry = 1"), @r#"
    error: `parallel` must be a number
     --> config.toml:1:12
      |
    1 | parallel = "4"
      |            ^^^

    error: `no-cache` must be `true` or `false`
     --> config.toml:2:12
      |
    2 | no-cache = 1
      |            ^

    error: `registry-ca` must be a list of texts, such as `["a", "b"]`
     --> config.toml:3:15
      |
    3 | registry-ca = [1]
      |               ^^^

    error: `registry` must be a table of registries, such as `[registry."docker.io"]`
     --> config.toml:4:12
      |
    4 | registry = 1
      |            ^
    "#);
}

#[test]
fn a_host_must_be_quoted() {
    insta::assert_snapshot!(config_error("[registry.docker.io]\nmirrors = [\"x\"]"), @r#"
    error: a host with a dot in its name must be quoted
     --> config.toml:1:18
      |
    1 | [registry.docker.io]
      |                  ^^
      |
      = help: write `[registry."docker.io"]`
    "#);
}

#[test]
fn what_is_no_toml_is_pointed_at() {
    insta::assert_snapshot!(config_error("progress = plain\n"), @r"
    error: string values must be quoted, expected literal string
     --> config.toml:1:12
      |
    1 | progress = plain
      |            ^^^^^
    ");
}

#[test]
fn the_first_file_that_is_there_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let user = home.join(".config/cofferdam/config.toml");
    let xdg = directory.path().join("xdg/cofferdam/config.toml");
    let named = directory.path().join("named.toml");
    for path in [&user, &xdg, &named] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (home, xdg_home, named_text) = (text(&home), text(&directory.path().join("xdg")), text(&named));
    let find = |flag: Option<&Path>, variables: &[(&str, &str)]| {
        ConfigFile::find(flag, &Environment::new(variables.iter().copied()))
    };
    let all = [("HOME", home.as_str()), ("XDG_CONFIG_HOME", &xdg_home), ("COFFERDAM_CONFIG", &named_text)];
    assert_eq!(find(Some(&user), &all).unwrap().path, Some(user.clone()));
    assert_eq!(find(None, &all).unwrap().path, Some(named));
    assert_eq!(find(None, &all[..2]).unwrap().path, Some(xdg));
    assert_eq!(find(None, &all[..1]).unwrap().path, Some(user));
    let missing = find(None, &[("COFFERDAM_CONFIG", "/no/such.toml")]).unwrap_err();
    assert_eq!(message(&missing), "cannot read `/no/such.toml` (environment variable `COFFERDAM_CONFIG`)");
}

/// A directory with sub-directories that have the given modes, and its path.
fn directories(modes: &[(&str, u32)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for (name, mode) in modes {
        let path = directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
    }
    let path = directory.path().to_owned();
    (directory, path)
}

#[test]
fn a_state_directory_that_is_named_is_used() {
    let (_directory, path) = directories(&[]);
    let wanted = path.join("a/b");
    let variable = [(variables::STATE_DIR, wanted.to_str().unwrap())];
    let state = settings(GlobalFlags::default(), &variable, "").state().unwrap();
    assert_eq!((&state.directory, state.origin), (&wanted, Origin::Variable(variables::STATE_DIR)));
    assert_eq!(std::fs::metadata(&wanted).unwrap().permissions().mode() & 0o777, 0o700);

    assert!(state.keep_roots);
    let job = [variable[0], (variables::CI_PROJECT_DIR, path.to_str().unwrap())];
    let state = settings(GlobalFlags::default(), &job, "").state().unwrap();
    assert!(!state.keep_roots, "what lies in a job's project may be archived");

    std::fs::write(path.join("file"), "").unwrap();
    let flags = GlobalFlags { state_dir: Some(path.join("file/x")), ..GlobalFlags::default() };
    let error = settings(flags, &variable, "").state().unwrap_err();
    assert!(message(&error).contains("(`--state-dir`) cannot be used; name a directory"), "{error}");
    assert!(error.is_about_the_disk());
}

#[test]
fn a_state_directory_is_found_where_home_is_of_no_use() {
    let (_directory, path) = directories(&[("home", 0o755), ("tmp", 0o777)]);
    let place = |name: &str| path.join(name).to_str().unwrap().to_owned();
    let (home, tmp) = (place("home"), place("tmp"));
    let uid = rustix::process::geteuid().as_raw();
    let state = |home: &str| {
        settings(GlobalFlags::default(), &[("HOME", home), ("TMPDIR", &tmp)], "").state().unwrap()
    };
    assert_eq!(state(&home).directory, path.join("home/.local/share/cofferdam"));
    // A home that is no directory cannot be written to by anybody, also not by root.
    let no_home = state("/dev/null");
    assert_eq!(no_home.directory, path.join(format!("tmp/cofferdam-{uid}")));
    assert_eq!(no_home.passed_over.len(), 1);
    let xdg = [("XDG_DATA_HOME", home.as_str()), ("HOME", "/dev/null")];
    assert_eq!(
        settings(GlobalFlags::default(), &xdg, "").state().unwrap().directory,
        path.join("home/cofferdam")
    );
}

#[test]
fn a_temporary_directory_that_others_may_write_to_is_passed_over() {
    let uid = rustix::process::geteuid().as_raw();
    let name = format!("tmp/cofferdam-{uid}");
    let (_directory, path) = directories(&[("tmp", 0o1777), (&name, 0o777)]);
    let tmp = path.join("tmp");
    let variables = [("HOME", "/dev/null"), ("TMPDIR", tmp.to_str().unwrap())];
    let state = settings(GlobalFlags::default(), &variables, "").state().unwrap();
    assert_eq!(state.passed_over[1].why, "other users may write to it");
    assert_ne!(state.directory, path.join(&name));

    std::fs::remove_dir(path.join(&name)).unwrap();
    std::fs::create_dir(path.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(path.join("elsewhere"), path.join(&name)).unwrap();
    let state = settings(GlobalFlags::default(), &variables, "").state().unwrap();
    assert_eq!(state.passed_over[1].why, "it is no directory");
}

#[test]
fn where_there_is_no_place_it_says_what_was_tried() {
    let mut settings =
        settings(GlobalFlags::default(), &[("HOME", "/dev/null"), ("TMPDIR", "/dev/null")], "");
    // Nobody is this user: every temporary directory belongs to another.
    settings.surroundings.uid = 3_000_000_000;
    let error = settings.state().unwrap_err();
    let text = message(&error);
    for place in [
        "`/dev/null/.local/share/cofferdam`: ",
        "`/var/tmp/cofferdam-3000000000`: it belongs to another user",
    ] {
        assert!(text.contains(place), "{text}");
    }
    for place in ["/var/tmp", "/tmp"] {
        let _ = std::fs::remove_dir(Path::new(place).join("cofferdam-3000000000"));
    }
    assert!(error.is_about_the_disk());
}

#[test]
fn variables_that_are_no_settings_are_told() {
    let odd = settings(GlobalFlags::default(), &[("COFFERDAM_STATEDIR", "x"), ("COFFERDAM_CONFIG", "x")], "")
        .oddities();
    assert_eq!(
        odd,
        [(
            "environment variable `COFFERDAM_STATEDIR` is no setting and is not used".to_owned(),
            Some("did you mean `COFFERDAM_STATE_DIR`?".to_owned())
        )]
    );
}

/// The table in the documentation is the one in the program.
#[test]
fn the_documentation_has_every_setting() {
    let documentation = include_str!("../../docs/configuration.md");
    for key in [keys::GENERAL, keys::REGISTRY, keys::BUILD].concat() {
        let cell = |text: Option<&str>| text.map_or("–".to_owned(), |text| format!("`{text}`"));
        let row = format!(
            "| {} | {} | {} | {} | {} |",
            cell(key.flag),
            cell(key.variable),
            cell(key.file),
            key.default,
            key.meaning
        );
        assert!(documentation.contains(&row), "docs/configuration.md lacks:\n{row}");
    }
    for variable in variables::ALL {
        assert!(documentation.contains(&format!("`{variable}`")), "{variable}");
    }
}

/// The air-gapped case: what is mapped is asked for at its new place first, and with `fall-back = false` nowhere else.
/// Source: GoogleContainerTools/kaniko#2935.
#[test]
fn a_registry_map_is_a_list_of_mirrors() {
    let typed =
        strings(&["index.docker.io=harbor.example/hub;gcr.io=harbor.example/gcr", "gcr.io=b.example"]);
    let flags = RegistryFlags { mirrors: typed, ..RegistryFlags::default() };
    let file = "[registry.\"docker.io\"]\nfall-back = false\n";
    let rules = settings(GlobalFlags::default(), &[], file).registry(&flags).unwrap().options.mirrors;
    let shown: Vec<_> = rules
        .iter()
        .map(|rule| format!("{} {} {}", rule.prefix, rule.mirrors.join(","), rule.fall_back))
        .collect();
    assert_eq!(shown, ["docker.io harbor.example/hub false", "gcr.io harbor.example/gcr,b.example true"]);
}
