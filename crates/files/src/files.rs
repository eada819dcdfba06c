//! Files on several targets: every operation of one path goes through one target, which the path's hash chooses
//! among those that work.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use domain::published::{PublishedList, PublishedTarget};
use tokio::task::AbortHandle;

use crate::{
    error::{Error, Result},
    health::Health,
    path_lock::PathLocks,
    prober::spawn_prober,
    stats::Stats,
    transport::{
        ByteRange, Metadata, Page, Preconditions, ReadOptions, ReadOutcome, ReadResult, StagedUpload, Transport,
    },
};
use router::{
    path::{DirectoryPath, FilePath},
    table::{Routing, Table, TooManyTargets},
};

/// Who waits for a change waits a little longer than it may take to begin: then it is known whether it did.
const START_MARGIN: Duration = Duration::from_millis(100);

/// The longest time that a start waits for a target that says neither yes nor no.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_POLL_INTERVAL: Duration = Duration::from_millis(20);
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Makes targets that can be used, of those that are published.
pub trait Backend: Send + Sync + 'static {
    /// The target at this place, a number that no other target has meanwhile. It is probed before it is used.
    fn transport(&self, target: &PublishedTarget, slot: usize) -> Arc<dyn Transport>;

    /// How long an operation may take.
    fn deadline(&self) -> Duration;

    /// The whole list, before targets are made of what is new in it: each is another way to the same file system.
    fn published(&self, targets: &[PublishedTarget]) {
        let _ = targets;
    }
}

/// Besides the backend's own.
#[derive(Clone)]
pub struct Options {
    pub routing: Routing,
    /// From one probe of a target to the next.
    pub probe_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { routing: Routing::default(), probe_interval: Duration::from_secs(2) }
    }
}

/// A target with what is known of it.
pub struct Endpoint {
    pub published: PublishedTarget,
    /// The number in the name of its directory, where it has one.
    pub slot: usize,
    pub health: Health,
    pub stats: Stats,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) prober: std::sync::OnceLock<AbortHandle>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(prober) = self.prober.get() {
            prober.abort();
        }
    }
}

impl Backend for Box<dyn Backend> {
    fn transport(&self, target: &PublishedTarget, slot: usize) -> Arc<dyn Transport> {
        (**self).transport(target, slot)
    }

    fn deadline(&self) -> Duration {
        (**self).deadline()
    }

    fn published(&self, targets: &[PublishedTarget]) {
        (**self).published(targets);
    }
}

/// A table with its members, in the same order.
pub(crate) struct EndpointSet {
    table: Table,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    TooMany(#[from] TooManyTargets),
    #[error("none of the {} mount targets works: {}", .0.len(), .0.join("; "))]
    NoTarget(Vec<String>),
}

/// What [`Files::route`] tells.
pub struct Route {
    pub strategy: &'static str,
    /// The path's own target first; with whether it works.
    pub order: Vec<(PublishedTarget, bool)>,
    /// Where in `order` the path goes now; `None` when no target works.
    pub chosen: Option<usize>,
}

/// The files of one file system, by way of several mount targets.
pub struct Files {
    endpoint_set: Arc<ArcSwap<EndpointSet>>,
    backend: Box<dyn Backend>,
    options: Options,
    path_locks: PathLocks,
    /// Members of this fleet and of earlier ones, as long as there are.
    gone: Mutex<Vec<Weak<Endpoint>>>,
}

impl Files {
    /// Makes the targets, probes each, and gives the files when at least one works. The others are used as soon as
    /// their probes succeed.
    ///
    /// # Errors
    /// [`StartError`]: none works, with the reason of each.
    pub async fn start(
        list: PublishedList,
        backend: impl Backend,
        options: Options,
    ) -> std::result::Result<Arc<Self>, StartError> {
        let table = Table::new(list, options.routing.clone())?;
        backend.published(table.targets());
        let targets = table.targets().iter().enumerate();
        let endpoints: Vec<_> = targets.map(|(slot, target)| endpoint(&backend, target, slot)).collect();
        let endpoint_set = Arc::new(ArcSwap::from_pointee(EndpointSet { table, endpoints: endpoints.clone() }));
        endpoints.iter().for_each(|endpoint| spawn_prober(endpoint, &endpoint_set, options.probe_interval));
        first_answer(&endpoints).await?;
        let (path_locks, gone) = (PathLocks::default(), Mutex::default());
        Ok(Arc::new(Self { endpoint_set, backend: Box::new(backend), options, path_locks, gone }))
    }

    /// Uses another list from now on. A target that is in both keeps its connections, its health and its counters;
    /// a new one gets paths when its first probe has succeeded; one that is gone ends with the operations that it
    /// has. The same list changes nothing. Whether anything was changed.
    ///
    /// # Errors
    /// [`TooManyTargets`]: the list of before stays.
    pub fn replace(&self, list: PublishedList) -> std::result::Result<bool, TooManyTargets> {
        let before = self.endpoint_set.load();
        if before.table.list() == &list {
            return Ok(false);
        }
        let table = Table::new(list, self.options.routing.clone())?;
        self.backend.published(table.targets());
        let kept =
            |target: &PublishedTarget| before.endpoints.iter().find(|endpoint| endpoint.published == *target).cloned();
        // One that is gone has its place until its last operation has ended.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.extend(before.endpoints.iter().map(Arc::downgrade));
        gone.retain(|endpoint| endpoint.strong_count() > 0);
        let mut slots: BTreeSet<_> = gone.iter().filter_map(|endpoint| Some(endpoint.upgrade()?.slot)).collect();
        let mut free = || {
            let slot = (0..).find(|slot| !slots.contains(slot)).unwrap_or_default();
            slots.insert(slot);
            slot
        };
        let made = |target: &PublishedTarget| {
            let endpoint = endpoint(&*self.backend, target, free());
            spawn_prober(&endpoint, &self.endpoint_set, self.options.probe_interval);
            endpoint
        };
        let mut made = made;
        let endpoints = table.targets().iter().map(|target| kept(target).unwrap_or_else(|| made(target))).collect();
        self.endpoint_set.store(Arc::new(EndpointSet { table, endpoints }));
        Ok(true)
    }

    /// The targets, in the order in which they were published.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoint_set.load().endpoints.clone()
    }

    /// The name of the strategy.
    pub fn strategy(&self) -> &'static str {
        self.options.routing.strategy.name()
    }

    /// Does any target work?
    pub fn is_ready(&self) -> bool {
        self.endpoint_set.load().endpoints.iter().any(|endpoint| endpoint.health.is_up())
    }

    /// Where a path goes, and where it would go next. Touches nothing.
    pub fn route(&self, path: &[u8]) -> Route {
        let endpoint_set = self.endpoint_set.load();
        let order: Vec<_> = endpoint_set.table.order(path).iter().map(|index| &endpoint_set.endpoints[index]).collect();
        let order: Vec<_> =
            order.iter().map(|endpoint| (endpoint.published.clone(), endpoint.health.is_up())).collect();
        let chosen = order.iter().position(|(_, up)| *up);
        Route { strategy: endpoint_set.table.strategy().name(), order, chosen }
    }

    /// How long an operation may take.
    pub fn deadline(&self) -> Duration {
        self.backend.deadline()
    }

    /// The target that a path goes to now; `None` when none works.
    pub fn target_of(&self, path: &FilePath) -> Option<Arc<Endpoint>> {
        self.endpoint(path.as_bytes()).ok()
    }

    /// The member that a path goes to now.
    ///
    /// # Errors
    /// [`Error::NoTarget`]
    fn endpoint(&self, path: &[u8]) -> Result<Arc<Endpoint>> {
        let endpoint_set = self.endpoint_set.load();
        let usable = |index: usize| endpoint_set.endpoints[index].health.is_up();
        let index = endpoint_set.table.first(path, &usable).ok_or(Error::NoTarget)?;
        Ok(Arc::clone(&endpoint_set.endpoints[index]))
    }

    /// The whole of a file, which must not be larger than `max` bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and whatever [`Files::open`] says.
    pub async fn read(&self, path: &FilePath, max: u64) -> Result<Bytes> {
        self.read_wanted(path, ReadOptions::default(), max).await
    }

    /// `length` bytes from `from` on, or as many as there are.
    ///
    /// # Errors
    /// Whatever [`Files::open`] says.
    pub async fn read_part(&self, path: &FilePath, from: u64, length: u64) -> Result<Bytes> {
        let last = match length {
            0 => return self.stat(path).await.map(|_| Bytes::new()),
            length => from.saturating_add(length - 1),
        };
        let want = ReadOptions { part: Some(ByteRange::From(from, Some(last))), ..ReadOptions::default() };
        self.read_wanted(path, want, length).await
    }

    async fn read_wanted(&self, path: &FilePath, want: ReadOptions, max: u64) -> Result<Bytes> {
        let opened = self.open(path, &want).await?;
        let length = match opened.reading.outcome {
            ReadOutcome::Content { from, to, .. } => to - from,
            _ => 0,
        };
        if length > max {
            return Err(Error::TooLarge(max));
        }
        let ReadResult { first, rest: Some(mut rest), .. } = opened.reading else {
            return Ok(opened.reading.first);
        };
        let mut content = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
        content.extend_from_slice(&first);
        while (content.len() as u64) < length {
            let (bytes, more) = rest.next().await?;
            opened.endpoint.stats.read(bytes.len());
            content.extend_from_slice(&bytes);
            rest = more;
        }
        Ok(content.freeze())
    }

    /// Opens a file to read it in pieces, or to look at its properties.
    ///
    /// # Errors
    /// [`Error::NotFound`] and others of the path; [`Error::Busy`], [`Error::Deadline`] of its target.
    pub async fn open(&self, path: &FilePath, want: &ReadOptions) -> Result<Opened> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let began = Instant::now();
        let reading = match endpoint.transport.read_now(path, want) {
            Some(answer) => answer,
            None => endpoint.transport.read(path, want).await,
        };
        let reading = endpoint.done(began, reading)?;
        endpoint.stats.read(reading.first.len());
        Ok(Opened { endpoint, reading })
    }

    /// The properties of a file.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn stat(&self, path: &FilePath) -> Result<Metadata> {
        Ok(self.open(path, &ReadOptions { head: true, ..ReadOptions::default() }).await?.reading.meta)
    }

    /// Is there such a file?
    ///
    /// # Errors
    /// As [`Files::open`], but for [`Error::NotFound`] and what says that a directory on the way is none.
    pub async fn exists(&self, path: &FilePath) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound | Error::NotADirectory) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Puts a new content into its place at once; makes the directories above it. Whoever reads sees the old
    /// content or the new one, whole.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Fenced`] and [`Error::Busy`], when nothing has happened;
    /// [`Error::Deadline`], when nothing has happened either; [`Error::Uncertain`], when it has happened or never will;
    /// [`Error::Pending`], when it may still happen.
    pub async fn write(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> Result<Written> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let (length, name) = (content.len(), path.clone());
        let change = |endpoint: Arc<Endpoint>| async move { endpoint.transport.put(&name, content, conditions).await };
        let (meta, new) = self.change(path, &endpoint, change).await?;
        endpoint.stats.written(length);
        Ok(Written { endpoint, meta, new })
    }

    /// Begins to write a content that comes in pieces.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn begin(self: &Arc<Self>, path: &FilePath) -> Result<Upload> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let began = Instant::now();
        let staged = endpoint.done(began, endpoint.transport.stage(path).await)?;
        Ok(Upload { files: Arc::clone(self), path: path.clone(), endpoint, staged })
    }

    /// Adds to the end of a file; makes it if there is none. All of it or nothing, unless this process or its
    /// machine dies meanwhile.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn append(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> Result<Written> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let (length, name) = (content.len(), path.clone());
        let change =
            |endpoint: Arc<Endpoint>| async move { endpoint.transport.append(&name, content, conditions).await };
        let (meta, new) = self.change(path, &endpoint, change).await?;
        endpoint.stats.written(length);
        Ok(Written { endpoint, meta, new })
    }

    /// Removes a file. The directory that it was in stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Files::write`].
    pub async fn delete(&self, path: &FilePath, conditions: Preconditions) -> Result<Arc<Endpoint>> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let name = path.clone();
        let change = |endpoint: Arc<Endpoint>| async move { endpoint.transport.delete(&name, conditions).await };
        self.change(path, &endpoint, change).await?;
        Ok(endpoint)
    }

    /// At most `limit` entries of a directory, in no order, from `cursor` on, an earlier page's `next`. Going on in
    /// this way meets everything that was there from beginning to end exactly once.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadCursor`], and as [`Files::open`].
    pub async fn list(
        &self,
        directory: &DirectoryPath,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Page, Arc<Endpoint>)> {
        let endpoint = self.endpoint(directory.as_bytes())?;
        let began = Instant::now();
        let page = endpoint.transport.list(directory, cursor, limit.max(1)).await;
        Ok((endpoint.done(began, page)?, endpoint))
    }

    /// Removes the temporary files that nobody has written to for `age`, everywhere. Their number.
    pub async fn sweep(&self, age: Duration) -> u64 {
        let Ok(root) = DirectoryPath::new("") else { return 0 };
        let mut removed = 0;
        // The deepest first: no more waits than a step finds on each level.
        let mut waiting = vec![(root, None)];
        while let Some((directory, cursor)) = waiting.pop() {
            let swept = match self.endpoint(directory.as_bytes()) {
                Ok(endpoint) => endpoint.transport.sweep(&directory, cursor, age).await,
                Err(err) => Err(err),
            };
            match swept {
                Ok(swept) => {
                    removed += swept.removed;
                    waiting.extend(swept.next.map(|next| (directory, Some(next))));
                    waiting.extend(swept.directories.into_iter().map(|directory| (directory, None)));
                }
                // Another time.
                Err(err) => tracing::debug!(?directory, error = %err, "a directory was not swept"),
            }
        }
        removed
    }

    /// Waits until nothing is being changed any more: what has begun ends, also where nobody waits for it.
    pub async fn wait_idle(&self) {
        while !self.path_locks.is_idle() {
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
        }
    }

    /// Waits as [`Files::wait_idle`], and closes the targets. Nothing may be asked for afterwards.
    pub async fn close(&self) {
        self.wait_idle().await;
        for endpoint in self.endpoints() {
            if let Some(prober) = endpoint.prober.get() {
                prober.abort();
            }
            if let Err(err) = endpoint.transport.close().await {
                tracing::warn!(target_id = %endpoint.published.mount_target_id, error = %err, "a target could not be closed");
            }
        }
    }

    /// Does a change in its turn, in a task of its own: it goes on to its end whatever becomes of who asked for it.
    async fn change<T, F>(
        &self,
        path: &FilePath,
        endpoint: &Arc<Endpoint>,
        change: impl FnOnce(Arc<Endpoint>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let began = Instant::now();
        let deadline = self.backend.deadline();
        let guard = self.path_locks.lock(path, tokio::time::Instant::now() + deadline).await?;
        let uncertain_on_drop = guard.uncertain_on_drop();
        let change = change(Arc::clone(endpoint));
        let doing = tokio::spawn(async move {
            let answer = change.await;
            drop(guard);
            answer
        });
        let answer = match tokio::time::timeout(deadline + START_MARGIN, doing).await {
            Ok(Ok(answer)) => {
                uncertain_on_drop.ended();
                answer
            }
            // It panicked, or this process ends, or the target says nothing.
            Ok(Err(_)) | Err(_) => Err(Error::Pending),
        };
        endpoint.done(began, answer)
    }
}

/// A file that was opened, and the target that it is read from.
pub struct Opened {
    pub endpoint: Arc<Endpoint>,
    pub reading: ReadResult,
}

/// A content that is in its place.
pub struct Written {
    pub endpoint: Arc<Endpoint>,
    pub meta: Metadata,
    /// There was no file under this path before.
    pub new: bool,
}

/// A content that comes in pieces; given up when it is dropped before [`Upload::commit`].
pub struct Upload {
    files: Arc<Files>,
    path: FilePath,
    endpoint: Arc<Endpoint>,
    staged: Box<dyn StagedUpload>,
}

impl Upload {
    /// The bytes that follow.
    ///
    /// # Errors
    /// As [`Files::write`]; the content is given up.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len();
        self.staged.write(bytes).await.inspect_err(|err| self.endpoint.record_late_failure(err))?;
        self.endpoint.stats.written(length);
        Ok(())
    }

    /// All that was written, in memory; with that the content is given up.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn into_bytes(self) -> Result<Bytes> {
        let Self { endpoint, staged, .. } = self;
        staged.into_bytes().await.inspect_err(|err| endpoint.record_late_failure(err))
    }

    /// Puts the content into its place.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn commit(self, conditions: Preconditions) -> Result<Written> {
        let Self { files, path, endpoint, staged } = self;
        let change = |_| staged.commit(conditions);
        let (meta, new) = files.change(&path, &endpoint, change).await?;
        Ok(Written { endpoint, meta, new })
    }
}

impl Endpoint {
    /// Connections for requests that there are now; `None` where the kernel has them.
    pub fn connections(&self) -> Option<usize> {
        self.transport.connections()
    }

    /// Counts what ended early although it had begun well.
    pub fn record_late_failure(&self, err: &Error) {
        if err.is_target_fault() {
            self.stats.failed();
        }
    }

    /// Counts an operation that has ended.
    fn done<T>(&self, began: Instant, answer: Result<T>) -> Result<T> {
        match &answer {
            Err(Error::Busy) => self.stats.refused(),
            Err(err) => self.stats.done(began.elapsed(), err.is_target_fault()),
            Ok(_) => {
                let took = began.elapsed();
                self.health.succeeded(began + took);
                self.stats.done(took, false);
            }
        }
        answer
    }
}

fn endpoint(backend: &(impl Backend + ?Sized), target: &PublishedTarget, slot: usize) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        published: target.clone(),
        slot,
        health: Health::default(),
        stats: Stats::default(),
        transport: backend.transport(target, slot),
        prober: std::sync::OnceLock::new(),
    })
}

/// Waits until one target works, or all say that they do not. One that has not answered yet may still: mounting takes a
/// while, and so does TLS on a small share of a processor.
async fn first_answer(endpoints: &[Arc<Endpoint>]) -> std::result::Result<(), StartError> {
    let until = Instant::now() + START_TIMEOUT;
    while !endpoints.iter().any(|endpoint| endpoint.health.is_up()) {
        let all_say_no = endpoints.iter().all(|endpoint| endpoint.health.last_probe_failed());
        if all_say_no || Instant::now() > until {
            let err = |endpoint: &Arc<Endpoint>| {
                let err = endpoint.health.err().unwrap_or_else(|| "it has not answered yet".to_owned());
                format!("{} ({}): {err}", endpoint.published.mount_target_id, endpoint.published.ip_address)
            };
            return Err(StartError::NoTarget(endpoints.iter().map(err).collect()));
        }
        tokio::time::sleep(START_POLL_INTERVAL).await;
    }
    Ok(())
}
