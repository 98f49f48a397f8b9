//! The web server of the suite: what is at `http://WEB` in cases. `testdata/conformance/README.md` lists it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use super::files::archive;
use super::support::{Web, git};

/// What cases and answers say for the server's address, which is another each time.
const NAME: &str = "http://WEB";
/// When most pages were last changed.
const TIME: Option<&str> = Some("Wed, 21 Oct 2015 07:28:00 GMT");

/// For all cases of both sides. It ends with the process.
static WEB: LazyLock<Web> = LazyLock::new(|| {
    let web = Web::start();
    web.file("/plain.txt", "plain\n", TIME);
    web.file("/sub/deep/name.conf", "deep\n", TIME);
    web.file("/run.sh", "#!/bin/sh\necho run\n", TIME);
    web.file("/empty", "", TIME);
    web.file("/a%20b.txt", "a blank\n", TIME);
    web.file("/dir/", "with a slash\n", TIME);
    web.file("/undated.txt", "undated\n", None);
    web.file("/oldest.txt", "oldest\n", Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    web.file("/odd-date.txt", "odd\n", Some("yesterday"));
    let members = "755 3:4 in/\n640 12:34 in/side abc\n777 0:0 in/link -> side\n";
    for name in ["/files.tar", "/files.tar.gz", "/files.tar.xz", "/files.tar.bz2", "/files.tar.zst"] {
        web.file(name, archive(name, members), TIME);
    }
    web.file("/packed", archive("packed.tar.gz", members), TIME);
    let named = |path: &str, disposition: &str| {
        web.file_with(path, "named\n", &[("Content-Disposition", disposition)]);
    };
    named("/given", "attachment; filename=\"given.txt\"");
    named("/leading", "attachment; filename=\"../../up.txt\"");
    named("/nameless", "attachment");
    web.redirect("/moved", "/plain.txt");
    web.redirect("/moved-twice", "/moved");
    web.redirect("/moved-away", "/sub/deep/name.conf");
    web.redirect("/moved.tar.gz", "/files.tar.gz");
    web.redirect("/circle", "/circle");
    repositories(&web);
    web
});

/// `app.git` with its submodule `lib.git`, all commits of which have fixed digests.
fn repositories(web: &Web) {
    let write = |tree: &Path, name: &str, content: &str| {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), content).unwrap();
    };
    let commit = |tree: &Path, message: &str| {
        git(tree, &["add", "-A"]);
        git(tree, &["commit", "-qm", message]);
    };
    let inner = web.repository("inner.git");
    write(&inner, "inner.txt", "inner\n");
    commit(&inner, "inner");
    let lib = web.repository("lib.git");
    write(&lib, "lib.txt", "lib\n");
    git(&lib, &["add", "-A"]);
    submodule(&lib, "deep/inner", "../inner.git", &inner);
    git(&lib, &["commit", "-qm", "lib"]);

    let app = web.repository("app.git");
    write(&app, "run.sh", "#!/bin/sh\n");
    write(&app, "notes.md", "notes\n");
    write(&app, "sub/main.c", "int x;\n");
    write(&app, "sub/deep/a.md", "deep\n");
    write(&app, ".dockerignore", "*.md\n");
    std::os::unix::fs::symlink("sub/main.c", app.join("link")).unwrap();
    git(&app, &["add", "-A"]);
    git(&app, &["update-index", "--chmod=+x", "run.sh"]);
    git(&app, &["commit", "-qm", "one"]);
    git(&app, &["tag", "-am", "first", "v1"]);
    git(&app, &["checkout", "-qb", "other"]);
    write(&app, "sub/other.c", "int y;\n");
    commit(&app, "two");
    git(&app, &["tag", "light"]);
    // A branch and a tag of one name.
    git(&app, &["branch", "both", "v1"]);
    git(&app, &["tag", "both"]);
    git(&app, &["checkout", "-qb", "with-lib", "v1"]);
    submodule(&app, "lib", "../lib.git", &lib);
    git(&app, &["commit", "-qm", "three"]);
    git(&app, &["checkout", "-q", "main"]);
}

/// Adds the present commit of `of` as a submodule, without fetching it.
fn submodule(tree: &Path, path: &str, url: &str, of: &Path) {
    let commit = git(of, &["rev-parse", "HEAD"]);
    fs::write(tree.join(".gitmodules"), format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"))
        .unwrap();
    git(tree, &["add", ".gitmodules"]);
    git(tree, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
}

/// A text of a case with the server's address.
pub fn fill(text: &str) -> String {
    if text.contains(NAME) { text.replace(NAME, &WEB.url("")) } else { text.to_owned() }
}

/// A text of an answer without it.
pub fn hide(text: &str) -> String {
    text.replace(&WEB.url(""), NAME)
}
