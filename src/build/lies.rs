//! Where a Dockerfile and its context lie: what the steps of one build are known by in the next.
//!
//! On a machine that is the paths of both, whatever the user's directory is. On others these paths mean nothing, and what counts is
//! where they lie in their repository. A context that is brought here lies elsewhere each time, and is known by where it is from.

use std::path::{Path, PathBuf};

use super::bring::Whence;
use super::inputs::Text;

/// What is in the top directory of a repository: git's directory, or the file that names it.
const GIT: &str = ".git";

/// The Dockerfile and its context, told apart from all others on this machine.
pub(super) fn here(context: &Path, text: &Text) -> String {
    if let Some(Whence { address, directory }) = &text.whence {
        return format!("{address}\0{directory}\0{}", text.name);
    }
    let file = match &text.path {
        // As the context's own it is called the same wherever that lies.
        Some(path) if *path != context.join(&text.name) => real(path).display().to_string(),
        _ => text.name.clone(),
    };
    format!("{}\0{file}", real(context).display())
}

/// The Dockerfile and its context, told apart from the others of their repository on every machine; by the file's name alone if they
/// lie in none.
pub(super) fn everywhere(context: &Path, text: &Text) -> String {
    let placed = |directory: &str, file: &str| match directory {
        // Most have one Dockerfile, at the top.
        "" => file.to_owned(),
        _ => format!("{directory}\0{file}"),
    };
    if let Some(Whence { directory, .. }) = &text.whence {
        return placed(directory, &text.name);
    }
    let context = real(context);
    let top = context.ancestors().find(|directory| directory.join(GIT).symlink_metadata().is_ok());
    let Some(top) = top else {
        let file = Path::new(&text.name).file_name().map(|name| name.to_string_lossy().into_owned());
        return file.unwrap_or_default();
    };
    let within = |path: &Path| path.strip_prefix(top).ok().map(|path| path.display().to_string());
    let file = text.path.as_deref().map(real);
    let file = file.and_then(|file| match file.strip_prefix(&context) {
        Ok(file) => Some(file.display().to_string()),
        // Beside the context, or above it: told from a file of the same name in it.
        Err(_) => within(&file).map(|file| format!("/{file}")),
    });
    placed(&within(&context).unwrap_or_default(), &file.unwrap_or_else(|| text.name.clone()))
}

/// A path without links and without what leads back; as it is if that cannot be found out.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn text(name: &str, path: Option<PathBuf>) -> Text {
        Text { name: name.to_owned(), path, text: "".into(), whence: None }
    }

    fn of_context(context: &Path) -> Text {
        text("Dockerfile", Some(context.join("Dockerfile")))
    }

    #[test]
    fn dockerfiles_of_one_name_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("a/services/api"), directory.path().join("a/services/web"));
        for context in [&one, &other] {
            fs::create_dir_all(context).unwrap();
            fs::write(context.join("Dockerfile"), "").unwrap();
        }
        assert_ne!(here(&one, &of_context(&one)), here(&other, &of_context(&other)));
        // However one gets there.
        let around = other.join("../api");
        assert_eq!(here(&around, &of_context(&around)), here(&one, &of_context(&one)));
        std::os::unix::fs::symlink(&one, directory.path().join("link")).unwrap();
        let link = directory.path().join("link");
        assert_eq!(here(&link, &of_context(&link)), here(&one, &of_context(&one)));
        // Another file for the same context is another.
        let beside = text("x", Some(other.join("Dockerfile")));
        assert_ne!(here(&one, &beside), here(&one, &of_context(&one)));

        // In no repository nothing is known but the name.
        assert_eq!(everywhere(&one, &of_context(&one)), "Dockerfile");
        let top = directory.path().join("a");
        fs::create_dir(top.join(GIT)).unwrap();
        assert_eq!(everywhere(&one, &of_context(&one)), "services/api\0Dockerfile");
        assert_eq!(everywhere(&around, &of_context(&around)), "services/api\0Dockerfile");
        assert_eq!(everywhere(&one, &beside), "services/api\0/services/web/Dockerfile");
        fs::write(top.join("Dockerfile"), "").unwrap();
        assert_eq!(everywhere(&top, &of_context(&top)), "Dockerfile");
        assert_eq!(everywhere(&top, &of_context(&one)), "services/api/Dockerfile");
        assert_eq!(everywhere(&top, &text("-", None)), "-");
    }

    #[test]
    fn what_is_brought_here_is_known_by_where_it_is_from() {
        let brought = |address: &str, directory: &str| Text {
            whence: Some(Whence { address: address.to_owned(), directory: directory.to_owned() }),
            ..text("Dockerfile", Some("/state/work/1/context/Dockerfile".into()))
        };
        let (once, again) = (Path::new("/state/work/1/context"), Path::new("/state/work/2/context"));
        let git = brought("https://example.com/a.git", "api");
        assert_eq!(here(once, &git), here(again, &git));
        assert_ne!(here(once, &git), here(once, &brought("https://example.com/a.git", "web")));
        assert_ne!(here(once, &git), here(once, &brought("https://example.com/b.git", "api")));
        // The same as from a directory of the repository.
        assert_eq!(everywhere(once, &git), "api\0Dockerfile");
        assert_eq!(everywhere(once, &brought("-", "")), "Dockerfile");
    }
}
