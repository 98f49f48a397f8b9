//! The files of what was built, in a directory or an archive: `type=local` and `type=tar`. Those of several platforms are each in a
//! directory of their own, which is called as BuildKit calls it: `linux_arm64`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::Image;
use super::error::BuildError;
use super::executor::Executor;
use super::extract;
use super::fetch::blocking;
use super::output::{atomically, make_directories, place, shown};
use super::request::Destination;
use super::roots::Whose;
use crate::image::{Digest, Platform};
use crate::layer::{
    Change, Compression, Entry, LayerError, LayerOptions, LayerReader, LayerWriter, Metadata, Node, TreePath,
};
use crate::store::{Store, Workspace};

/// The mode of the directory of a platform.
const DIRECTORY_MODE: u32 = 0o755;

/// What a platform's directory is called.
fn directory_name(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// The files of an image, or of several, as one uncompressed layer. Nothing refers to it: it is in a store of its own, which goes with
/// this.
struct Flat {
    store: Store,
    digest: Digest,
    _workspace: Workspace,
}

impl Flat {
    /// Writes one. Of what `fill` has been told, nothing may be missing when it ends.
    fn write(
        executor: &Executor,
        fill: impl FnOnce(&mut LayerWriter) -> Result<(), BuildError>,
    ) -> Result<Self, BuildError> {
        let options =
            LayerOptions { compression: Compression::None, clamp_mtime: executor.request.source_date_epoch };
        let workspace = executor.services.store.workspace()?;
        let store = Store::open(workspace.path().join("flat"))?;
        let mut writer = LayerWriter::new(&store, &executor.pool, options)?;
        fill(&mut writer)?;
        Ok(Self { digest: writer.finish()?.digest, store, _workspace: workspace })
    }

    fn open(&self) -> Result<std::fs::File, BuildError> {
        Ok(self.store.open_blob(&self.digest)?)
    }
}

async fn flat(executor: &Arc<Executor>, image: &Image) -> Result<Flat, BuildError> {
    let sandbox = executor.sandbox().await?;
    let place = executor.roots.place(Whose::Stage(executor.target()));
    let mut rooted = place.lock().await;
    let root = executor.roots.fill(&mut rooted, &image.layers, &sandbox, &executor.fetcher).await?;
    let executor = Arc::clone(executor);
    blocking(move || Flat::write(&executor, |writer| Ok(root.write_everything(writer)?))).await
}

/// Writes the files as an archive. Gives the file.
pub(super) async fn write_tar(
    built: &[(Arc<Executor>, Image)],
    destination: Destination,
) -> Result<Option<PathBuf>, BuildError> {
    let Some((first, _)) = built.first() else { return Ok(None) };
    let first = Arc::clone(first);
    let mut flats = Vec::new();
    for (executor, image) in built {
        flats.push((directory_name(&executor.platform()), flat(executor, image).await?));
    }
    blocking(move || {
        let flat = match flats.pop() {
            Some((_, only)) if flats.is_empty() => only,
            last => {
                flats.extend(last);
                beside_each_other(&first, flats)?
            }
        };
        let mut blob = flat.open()?;
        let written = match &destination {
            Destination::Stdout => io::copy(&mut blob, &mut io::stdout().lock()).map(drop),
            Destination::File(path) => {
                atomically(path, first.request.umask, |file| io::copy(&mut blob, file).map(drop))
            }
            Destination::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
        };
        written.map_err(|source| BuildError::Output { path: shown(&destination), source })?;
        Ok(place(&destination))
    })
    .await
}

/// The files of several platforms, each in its directory.
fn beside_each_other(executor: &Executor, flats: Vec<(String, Flat)>) -> Result<Flat, BuildError> {
    let mut parts = Vec::new();
    for (name, flat) in flats {
        parts.push((TreePath::new(name).map_err(LayerError::from)?, flat));
    }
    // In the order of a layer.
    parts.sort_by(|(one, _), (other, _)| one.cmp(other));
    Flat::write(executor, |writer| {
        for (directory, flat) in &parts {
            writer.entry(&Entry {
                path: directory.clone(),
                node: Node::Directory,
                metadata: Metadata {
                    mode: DIRECTORY_MODE,
                    mtime: executor.request.source_date_epoch.unwrap_or_default(),
                    ..Metadata::default()
                },
            })?;
            let mut reader = LayerReader::new(flat.open()?)?;
            while let Some((change, mut content)) = reader.next()? {
                let Change::Entry(mut entry) = change else { continue };
                if entry.path.is_root() {
                    continue;
                }
                entry.path = directory.join_path(&entry.path);
                if let Node::Hardlink { target } = &mut entry.node {
                    *target = directory.join_path(target);
                }
                writer.file(&entry, &mut content)?;
            }
            reader.finish()?;
        }
        Ok(())
    })
}

/// Writes the files into a directory.
pub(super) async fn write_files(
    built: &[(Arc<Executor>, Image)],
    directory: &Path,
) -> Result<(), BuildError> {
    for (executor, image) in built {
        let directory = match built {
            [_] => directory.to_owned(),
            _ => directory.join(directory_name(&executor.platform())),
        };
        let flat = flat(executor, image).await?;
        let (report, umask) = (executor.services.report.clone(), executor.request.umask);
        blocking(move || {
            let failed = |source: io::Error| BuildError::Output { path: directory.clone(), source };
            make_directories(&directory, umask).map_err(failed)?;
            let mut reader = LayerReader::new(flat.open()?)?;
            let skipped = extract::into(&directory, &mut reader)?;
            reader.finish()?;
            if skipped > 0 {
                report.warn(format!("{skipped} device nodes were left out: only root can make them"));
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
