//! Blobs that are not here yet: downloaded once, however many want them, and readable while they come in.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};

use super::error::BuildError;
use super::layers::{CachedAt, Layer, Origin};
use crate::cache::PackedIndex;
use crate::image::{Digest, Repository};
use crate::layer::{LayerReader, Tree, TreeError, copy_index, has_index, unpack_index};
use crate::registry::{BlobSink, Client, ErrorKind, Resume};
use crate::report::{Direction, Outcome, Report, Transfer};
use crate::store::{Claim, Download, Follower, Store, StoreError};

/// Downloads at one time: more share one line, fewer leave it idle between blobs.
const AT_ONCE: usize = 4;
/// The same for small ones, which are over before they could share a line.
const SMALL_AT_ONCE: usize = 8;
/// What is small, in bytes: less than is on its way at a time.
const SMALL: u64 = 256 << 10;
/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;
/// How often another process's download is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

type Flight = Arc<OnceCell<()>>;

/// Brings blobs into the store.
#[derive(Debug, Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    client: Client,
    report: Report,
    at_once: Semaphore,
    small_at_once: Semaphore,
    flights: Mutex<HashMap<Digest, Flight>>,
    /// Where the indexes of layers can be had, by diff ID.
    indexes: Mutex<HashMap<Digest, KnownIndex>>,
    /// Other stores that may have indexes.
    lenders: Mutex<Vec<Store>>,
}

/// The packed index of a layer, which can be had.
#[derive(Debug, Clone)]
pub struct KnownIndex {
    /// What it is.
    pub packed: PackedIndex,
    /// Where its blob is, unless it is in the entry itself.
    pub repository: Repository,
}

impl KnownIndex {
    fn layer(&self) -> Layer {
        let what = "list of a layer's files".to_owned();
        Layer {
            digest: self.packed.digest,
            size: self.packed.size,
            media_type: self.packed.media_type.clone(),
            diff_id: self.packed.digest,
            origin: Origin::Registry { repository: self.repository.clone(), what },
        }
    }
}

/// The bytes of a layer, whole or still coming in.
#[derive(Debug)]
pub enum Bytes {
    /// All there.
    Whole(File),
    /// On their way.
    Coming(Follower),
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.read(buffer),
            Self::Coming(follower) => follower.read(buffer),
        }
    }
}

impl Fetcher {
    /// A fetcher into `store`.
    pub fn new(store: &Store, client: &Client, report: &Report) -> Self {
        let inner = Inner {
            store: store.clone(),
            client: client.clone(),
            report: report.clone(),
            at_once: Semaphore::new(AT_ONCE),
            small_at_once: Semaphore::new(SMALL_AT_ONCE),
            flights: Mutex::default(),
            indexes: Mutex::default(),
            lenders: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Sees to it that the blob of a layer is in the store.
    ///
    /// # Errors
    /// If it cannot be downloaded; if it is said to be in the store and is not.
    pub async fn fetch(&self, layer: &Layer) -> Result<(), BuildError> {
        let flight = {
            let mut flights = lock(&self.inner.flights);
            Arc::clone(flights.entry(layer.digest).or_default())
        };
        flight.get_or_try_init(|| self.bring(layer)).await?;
        Ok(())
    }

    async fn bring(&self, layer: &Layer) -> Result<(), BuildError> {
        let store = &self.inner.store;
        if store.holds(&layer.digest, layer.size)? {
            return Ok(());
        }
        match &layer.origin {
            Origin::Registry { .. } | Origin::Cache(CachedAt::Registry(_)) => {}
            Origin::Cache(CachedAt::Directory(directory)) => {
                let (directory, store, wanted) = (directory.clone(), store.clone(), layer.clone());
                let copy = move || {
                    let from =
                        Store::open_read_only(&directory).map_err(|error| unreadable(&directory, error))?;
                    borrow(&from, &store, &wanted)
                };
                return blocking(copy).await.map_err(|error| lost(layer, error));
            }
            Origin::Store => {
                // Opening it says best what is missing.
                store.open_blob(&layer.digest)?;
                return Ok(());
            }
        }
        let mut again = true;
        loop {
            match store.claim(&layer.digest, Some(layer.size))? {
                Claim::Present(_) => return Ok(()),
                Claim::Ours(download) => match self.download(layer, download).await {
                    // The line was at fault, or what an earlier build had left of it: nothing is left now.
                    Err(BuildError::Registry(error)) if again && error.kind() == ErrorKind::Integrity => {
                        tracing::info!("trying again from the first byte: {error}");
                        again = false;
                    }
                    outcome => return outcome.map_err(|error| lost(layer, error)),
                },
                // Both end by themselves; then there is another look.
                Claim::Following(_) | Claim::Elsewhere => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn download(&self, layer: &Layer, download: Download) -> Result<(), BuildError> {
        let Some(repository) = layer.repository() else { return Ok(()) };
        let transfer = self.inner.report.transfer(
            Direction::Download,
            None,
            layer.digest,
            layer.what(),
            Some(layer.size),
        );
        let turns = if layer.size <= SMALL { &self.inner.small_at_once } else { &self.inner.at_once };
        let Ok(_turn) = turns.acquire().await else { return Err(BuildError::Cancelled) };
        let resume = Resume { offset: download.offset(), hash: download.hash() };
        let sink = Sink { download, told: Told::new(&transfer) };
        let fetched = self.inner.client.fetch_blob(repository, layer.digest, layer.size, resume, sink).await;
        match fetched {
            Ok(sink) => {
                sink.download.commit()?;
                transfer.end(Outcome::Downloaded);
                Ok(())
            }
            Err(error) => {
                transfer.end(Outcome::Failed { reason: error.to_string() });
                Err(error.into())
            }
        }
    }

    /// Begins to bring the blob of a layer, and gives its bytes: readable while they come in.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn open(&self, layer: &Layer) -> Result<Bytes, BuildError> {
        let store = &self.inner.store;
        let mut begun = false;
        loop {
            if store.holds(&layer.digest, layer.size)? {
                return Ok(Bytes::Whole(store.open_blob(&layer.digest)?));
            }
            if !begun {
                begun = true;
                let (fetcher, layer) = (self.clone(), layer.clone());
                // Its error is every follower's error too, and that of whoever fetches the blob next.
                tokio::spawn(async move { fetcher.fetch(&layer).await });
                tokio::task::yield_now().await;
            }
            match store.claim(&layer.digest, Some(layer.size))? {
                Claim::Present(_) => {}
                Claim::Following(follower) => return Ok(Bytes::Coming(follower)),
                Claim::Ours(unused) => {
                    // The task has not come to it yet, or has failed: then its error is the answer.
                    drop(unused);
                    self.fetch(layer).await?;
                }
                Claim::Elsewhere => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Takes note of where the index of a layer can be had.
    pub fn learn_index(&self, index: KnownIndex) {
        lock(&self.inner.indexes).entry(index.packed.diff_id).or_insert(index);
    }

    /// Where the index of a layer can be had.
    pub fn known_index(&self, diff_id: &Digest) -> Option<KnownIndex> {
        lock(&self.inner.indexes).get(diff_id).cloned()
    }

    /// Indexes may be taken from another store.
    pub fn borrow_indexes(&self, store: &Store) {
        lock(&self.inner.lenders).push(store.clone());
    }

    /// Brings the indexes of layers that are not here and can be had without the layers.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn bring_indexes(&self, layers: &[Layer]) -> Result<(), BuildError> {
        let lenders = lock(&self.inner.lenders).clone();
        if lenders.is_empty() && lock(&self.inner.indexes).is_empty() {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for layer in layers {
            if has_index(&self.inner.store, &layer.diff_id)? {
                continue;
            }
            for lender in &lenders {
                copy_index(lender, &self.inner.store, &layer.diff_id)?;
            }
            wanted.extend(self.known_index(&layer.diff_id));
        }
        let all = wanted.iter().map(|index| self.bring_index(index));
        futures_util::future::join_all(all).await;
        Ok(())
    }

    /// Brings an index. What cannot be had is made of the layer itself.
    async fn bring_index(&self, index: &KnownIndex) {
        let diff_id = index.packed.diff_id;
        let brought = async {
            let store = self.inner.store.clone();
            match index.packed.content() {
                Some(content) => {
                    blocking(move || Ok(unpack_index(&store, &diff_id, io::Cursor::new(content))?)).await
                }
                None => {
                    let bytes = self.open(&index.layer()).await?;
                    blocking(move || Ok(unpack_index(&store, &diff_id, bytes)?)).await
                }
            }
        };
        if let Err(error) = brought.await {
            tracing::warn!(%diff_id, %error, "the index of a layer cannot be had from the cache");
        }
    }

    /// The tree of an image's layers. Layers whose files are not known are read for it, and brought for that.
    ///
    /// # Errors
    /// If a layer cannot be brought or read, or is not what its diff ID says.
    pub async fn tree(&self, layers: &[Layer]) -> Result<Tree, BuildError> {
        self.bring_indexes(layers).await?;
        loop {
            let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
            match Tree::open(&self.inner.store, &diff_ids) {
                Ok(tree) => return Ok(tree),
                Err(TreeError::NotIndexed(diff_id)) => {
                    let Some(layer) = layers.iter().find(|layer| layer.diff_id == diff_id) else {
                        return Err(TreeError::NotIndexed(diff_id).into());
                    };
                    self.index(layer).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads a layer for its index.
    async fn index(&self, layer: &Layer) -> Result<(), BuildError> {
        let bytes = self.open(layer).await?;
        let came_in = matches!(bytes, Bytes::Coming(_));
        let read = self.read(layer, bytes).await;
        // What broke the download says more than what the reader saw of it.
        self.fetch(layer).await?;
        match read {
            // It came wrong, and then right.
            Err(_) if came_in => {
                let whole = Bytes::Whole(self.inner.store.open_blob(&layer.digest)?);
                self.read(layer, whole).await
            }
            read => read,
        }
    }

    async fn read(&self, layer: &Layer, bytes: Bytes) -> Result<(), BuildError> {
        let (store, diff_id) = (self.inner.store.clone(), layer.diff_id);
        blocking(move || {
            let reader = LayerReader::new(bytes)?.indexed(&store);
            Ok(reader.finish()?.expect_diff_id(&diff_id)?)
        })
        .await
    }
}

/// The error of a layer that could not be had. If it is the cache's, it need not be the end; if it is this machine's, a full
/// disk perhaps, it would come again.
fn lost(layer: &Layer, error: BuildError) -> BuildError {
    let is_the_caches = match &error {
        BuildError::Registry(error) => error.kind() != ErrorKind::Local,
        BuildError::Store(error) => {
            matches!(error, StoreError::Missing(_) | StoreError::Mismatch { .. } | StoreError::Size { .. })
        }
        // Of a directory that cannot be read.
        BuildError::Input { .. } => true,
        _ => false,
    };
    match &layer.origin {
        Origin::Cache(cache) if is_the_caches => {
            BuildError::CacheLost { cache: cache.to_string(), source: Box::new(error) }
        }
        _ => error,
    }
}

/// What another store has to say for itself, as an error of what is read.
fn unreadable(directory: &Path, error: StoreError) -> BuildError {
    let what = format!("cannot read the cache in `{}`", directory.display());
    BuildError::Input { what, source: Some(io::Error::other(error)), hint: None }
}

/// Copies the blob of a layer from one store to another.
///
/// # Errors
/// If it cannot be read there or written here, or is not what its digest says.
pub(super) fn borrow(from: &Store, into: &Store, layer: &Layer) -> Result<(), BuildError> {
    let mut source = from.open_blob(&layer.digest).map_err(|error| match error {
        StoreError::Missing(_) => error.into(),
        error => unreadable(from.directory(), error),
    })?;
    let what = || format!("the cache in `{}`", from.directory().display());
    take_in(into, &mut source, layer.digest, layer.size, what)
}

/// Takes the bytes of a blob into a store, which checks them. `what` is where they are from.
///
/// # Errors
/// [`BuildError::Input`] if they cannot be read; if they cannot be written, or are not what the digest says.
pub(super) fn take_in(
    store: &Store,
    from: &mut impl Read,
    digest: Digest,
    size: u64,
    what: impl Fn() -> String,
) -> Result<(), BuildError> {
    let mut writer = store.writer()?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = from.read(&mut buffer).map_err(|source| BuildError::Input {
            what: format!("cannot read {}", what()),
            source: Some(source),
            hint: None,
        })?;
        match buffer.get(..count) {
            Some(piece) if !piece.is_empty() => writer.append(piece)?,
            _ => break,
        }
    }
    writer.commit_as(&digest, Some(size))?;
    Ok(())
}

/// Runs what waits for disks and processors on a thread where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(BuildError::Cancelled),
    }
}

/// A lock whose holder never panics half-way through a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a download, and tells how far it is.
struct Sink {
    download: Download,
    told: Told,
}

impl BlobSink for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.download.append(piece).map_err(|error| error.into_io())?;
        self.told.tell(self.download.offset());
        Ok(())
    }

    /// Readers have had some of the wrong bytes already: they and this transfer fail, and the next begins anew.
    fn restart(&mut self) -> io::Result<()> {
        self.download.discard();
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Tells progress, not more often than anybody wants to hear.
struct Told {
    tell: Arc<dyn Fn(u64) + Send + Sync>,
    last: u64,
}

impl Told {
    const STEP: u64 = 256 * 1024;

    fn new(transfer: &Transfer) -> Self {
        Self { tell: transfer.teller(), last: 0 }
    }

    fn tell(&mut self, done: u64) {
        if done.abs_diff(self.last) >= Self::STEP {
            self.last = done;
            (self.tell)(done);
        }
    }
}
