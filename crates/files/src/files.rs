//! Files on several mount targets. Every operation on a path goes through one target: the first healthy target in the
//! path's order of preference.
//!
//! What happens to a write whose target hangs:
//! 1. [`Files::write`] chooses the target and takes the lock of the path ([`PathLocks`]). A second write of the same path
//!    waits, so that a late write never overwrites a newer one.
//! 2. The write runs in a task of its own, so that it ends even if the caller goes away.
//! 3. After the deadline the caller gets [`Error::Deadline`] if nothing was changed and nothing will be,
//!    [`Error::Uncertain`] if it was done or never will be, or [`Error::Pending`] if it may still happen. While it is pending,
//!    the path stays locked and other writes of it get [`Error::Fenced`].
//! 4. The failed request does not mark the target as unhealthy. Its probes do ([`Health`]), within seconds; then paths go to
//!    their next target.

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

/// Wait slightly longer than the deadline of a change, so that we know whether it started.
const START_MARGIN: Duration = Duration::from_millis(100);

/// Maximum time that a start waits for a target that neither accepts nor refuses.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_POLL_INTERVAL: Duration = Duration::from_millis(20);
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Makes transports for published targets. The two implementations are `files_mounted::Options` and `files_nfs::Options`.
pub trait Backend: Send + Sync + 'static {
    /// The transport to a target. No other target has the same `slot` at the same time; the mounted backend uses it in
    /// the name of the mount point. The transport is probed before it is used.
    fn transport(&self, target: &PublishedTarget, slot: usize) -> Arc<dyn Transport>;

    /// Maximum duration of an operation.
    fn deadline(&self) -> Duration;

    /// Called with the whole list before [`Backend::transport`] is called for its new targets. Every target reaches the
    /// same file system, so a backend may use one to resolve the outcome of a write that another did not answer.
    fn published(&self, targets: &[PublishedTarget]) {
        let _ = targets;
    }
}

/// Options of [`Files`].
#[derive(Clone)]
pub struct Options {
    /// How paths are distributed over the targets.
    pub routing: Routing,
    /// Pause between two probes of a target.
    pub probe_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { routing: Routing::default(), probe_interval: Duration::from_secs(2) }
    }
}

/// A target in use, with its health and its counters.
pub struct Endpoint {
    /// The target as published.
    pub published: PublishedTarget,
    /// The number in the name of its mount point, where it has one.
    pub slot: usize,
    /// Whether paths are sent to it.
    pub health: Health,
    /// What it has done since the start.
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

/// A table and its endpoints, in the same order.
pub(crate) struct EndpointSet {
    table: Table,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// The error of [`Files::start`].
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list is too long.
    #[error(transparent)]
    TooMany(#[from] TooManyTargets),
    /// No target answered its first probe; one message for each.
    #[error("none of the {} mount targets answers: {}", .0.len(), .0.join("; "))]
    NoTarget(Vec<String>),
}

/// The route of a path: see [`Files::route`].
pub struct Route {
    /// The name of the strategy.
    pub strategy: &'static str,
    /// All targets in order of preference, each with whether it is healthy.
    pub order: Vec<(PublishedTarget, bool)>,
    /// The position in `order` of the target that the path goes to now; `None` when no target is healthy.
    pub chosen: Option<usize>,
}

/// The files of one file system, accessed through several mount targets.
pub struct Files {
    endpoint_set: Arc<ArcSwap<EndpointSet>>,
    backend: Box<dyn Backend>,
    options: Options,
    path_locks: PathLocks,
    /// Endpoints of this set and of earlier sets that operations still use.
    gone: Mutex<Vec<Weak<Endpoint>>>,
}

impl Files {
    /// Makes a transport for each target and probes it. Returns when at least one target answers; the others are used as
    /// soon as their probes succeed.
    ///
    /// # Errors
    /// [`StartError`]: the list is too long, or no target answers.
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

    /// Replaces the list of targets. A target of both lists keeps its connections, health and counters. A new target gets
    /// paths after its first successful probe. A removed target finishes its operations. Returns whether the list differs.
    ///
    /// # Errors
    /// [`TooManyTargets`]: the current list stays in use.
    pub fn replace(&self, list: PublishedList) -> std::result::Result<bool, TooManyTargets> {
        let before = self.endpoint_set.load();
        if before.table.list() == &list {
            return Ok(false);
        }
        let table = Table::new(list, self.options.routing.clone())?;
        self.backend.published(table.targets());
        let kept =
            |target: &PublishedTarget| before.endpoints.iter().find(|endpoint| endpoint.published == *target).cloned();
        // A removed target keeps its slot until its last operation ends.
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

    /// The targets in published order.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoint_set.load().endpoints.clone()
    }

    /// The name of the strategy.
    pub fn strategy(&self) -> &'static str {
        self.options.routing.strategy.name()
    }

    /// Whether at least one target is healthy.
    pub fn is_ready(&self) -> bool {
        self.endpoint_set.load().endpoints.iter().any(|endpoint| endpoint.health.is_up())
    }

    /// The route of a path. Performs no I/O.
    pub fn route(&self, path: &[u8]) -> Route {
        let endpoint_set = self.endpoint_set.load();
        let order: Vec<_> = endpoint_set.table.order(path).iter().map(|index| &endpoint_set.endpoints[index]).collect();
        let order: Vec<_> =
            order.iter().map(|endpoint| (endpoint.published.clone(), endpoint.health.is_up())).collect();
        let chosen = order.iter().position(|(_, up)| *up);
        Route { strategy: endpoint_set.table.strategy().name(), order, chosen }
    }

    /// Maximum duration of an operation.
    pub fn deadline(&self) -> Duration {
        self.backend.deadline()
    }

    /// The target that a path goes to now; `None` when no target is healthy.
    pub fn target_of(&self, path: &FilePath) -> Option<Arc<Endpoint>> {
        self.endpoint(path.as_bytes()).ok()
    }

    /// The endpoint that a path goes to now.
    ///
    /// # Errors
    /// [`Error::NoTarget`]
    fn endpoint(&self, path: &[u8]) -> Result<Arc<Endpoint>> {
        let endpoint_set = self.endpoint_set.load();
        let usable = |index: usize| endpoint_set.endpoints[index].health.is_up();
        let index = endpoint_set.table.first(path, &usable).ok_or(Error::NoTarget)?;
        Ok(Arc::clone(&endpoint_set.endpoints[index]))
    }

    /// Reads a whole file of at most `max` bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and the errors of [`Files::open`].
    pub async fn read(&self, path: &FilePath, max: u64) -> Result<Bytes> {
        self.read_wanted(path, ReadOptions::default(), max).await
    }

    /// Reads `length` bytes from offset `from`, or fewer at the end of the file.
    ///
    /// # Errors
    /// The errors of [`Files::open`].
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

    /// Opens a file to stream it, or to get its metadata.
    ///
    /// # Errors
    /// [`Error::NotFound`] and other errors of the path; [`Error::Busy`] and [`Error::Deadline`] of the target.
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

    /// The metadata of a file.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn stat(&self, path: &FilePath) -> Result<Metadata> {
        Ok(self.open(path, &ReadOptions { head: true, ..ReadOptions::default() }).await?.reading.meta)
    }

    /// Whether the file exists.
    ///
    /// # Errors
    /// As [`Files::open`], except [`Error::NotFound`] and [`Error::NotADirectory`].
    pub async fn exists(&self, path: &FilePath) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound | Error::NotADirectory) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Replaces the content of a file atomically, and creates its parent directories. Readers see the old content or the
    /// new content, never a mixture.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`], [`Error::Fenced`], [`Error::Busy`], [`Error::Deadline`]: nothing was changed.
    /// [`Error::Uncertain`]: the write happened or never will. [`Error::Pending`]: it may still happen.
    pub async fn write(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> Result<Written> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let (length, name) = (content.len(), path.clone());
        let change = |endpoint: Arc<Endpoint>| async move { endpoint.transport.put(&name, content, conditions).await };
        let (meta, new) = self.change(path, &endpoint, change).await?;
        endpoint.stats.written(length);
        Ok(Written { endpoint, meta, new })
    }

    /// Starts an upload: a content that is written in pieces and then committed.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn begin(self: &Arc<Self>, path: &FilePath) -> Result<Upload> {
        let endpoint = self.endpoint(path.as_bytes())?;
        let began = Instant::now();
        let staged = endpoint.done(began, endpoint.transport.stage(path).await)?;
        Ok(Upload { files: Arc::clone(self), path: path.clone(), endpoint, staged })
    }

    /// Appends to a file, and creates it if it does not exist. All or nothing, unless this process dies during the call.
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

    /// Deletes a file. Its parent directory stays.
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

    /// Lists at most `limit` entries of a directory, in no order, from `cursor` (the `next` of the previous page). The pages
    /// together contain every entry that exists during the whole listing exactly once.
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

    /// Removes temporary files that were not written to for `age`, in all directories. Returns how many were removed.
    pub async fn sweep(&self, age: Duration) -> u64 {
        let Ok(root) = DirectoryPath::new("") else { return 0 };
        let mut removed = 0;
        // Depth first, so that few directories are queued.
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
                // The next sweep tries again.
                Err(err) => tracing::debug!(?directory, error = %err, "cannot sweep a directory"),
            }
        }
        removed
    }

    /// Waits until no write is in progress, including writes whose caller went away.
    pub async fn wait_idle(&self) {
        while !self.path_locks.is_idle() {
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
        }
    }

    /// Waits like [`Files::wait_idle`], then closes the transports. No operation may follow.
    pub async fn close(&self) {
        self.wait_idle().await;
        for endpoint in self.endpoints() {
            if let Some(prober) = endpoint.prober.get() {
                prober.abort();
            }
            if let Err(err) = endpoint.transport.close().await {
                tracing::warn!(target_id = %endpoint.published.mount_target_id, error = %err, "cannot close the transport to a target");
            }
        }
    }

    /// Runs a change under the lock of its path, in a task of its own: the change ends even if the caller goes away.
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
            // The task panicked, the process ends, or the target does not answer.
            Ok(Err(_)) | Err(_) => Err(Error::Pending),
        };
        endpoint.done(began, answer)
    }
}

/// An open file and the target that it is read from.
pub struct Opened {
    /// The target.
    pub endpoint: Arc<Endpoint>,
    /// Metadata and content.
    pub reading: ReadResult,
}

/// The result of a write.
pub struct Written {
    /// The target.
    pub endpoint: Arc<Endpoint>,
    /// The metadata of the new content.
    pub meta: Metadata,
    /// Whether the file did not exist before.
    pub new: bool,
}

/// A content that is written in pieces. Dropping it before [`Upload::commit`] removes the temporary file.
pub struct Upload {
    files: Arc<Files>,
    path: FilePath,
    endpoint: Arc<Endpoint>,
    staged: Box<dyn StagedUpload>,
}

impl Upload {
    /// Appends bytes to the content.
    ///
    /// # Errors
    /// As [`Files::write`]; the upload cannot be continued.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len();
        self.staged.write(bytes).await.inspect_err(|err| self.endpoint.record_late_failure(err))?;
        self.endpoint.stats.written(length);
        Ok(())
    }

    /// Aborts the upload and returns what was written.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn into_bytes(self) -> Result<Bytes> {
        let Self { endpoint, staged, .. } = self;
        staged.into_bytes().await.inspect_err(|err| endpoint.record_late_failure(err))
    }

    /// Makes the content durable and installs it under its path, atomically.
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
    /// Number of connections for requests; `None` where the kernel manages them.
    pub fn connections(&self) -> Option<usize> {
        self.transport.connections()
    }

    /// Counts an operation that failed after its first bytes were delivered.
    pub fn record_late_failure(&self, err: &Error) {
        if err.is_target_fault() {
            self.stats.failed();
        }
    }

    /// Counts an operation that ended.
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

/// Waits until one target answers, or all targets refuse. A target that has not answered yet may still do so: mounting
/// takes seconds, and so does a TLS handshake on a fraction of a processor.
async fn first_answer(endpoints: &[Arc<Endpoint>]) -> std::result::Result<(), StartError> {
    let until = Instant::now() + START_TIMEOUT;
    while !endpoints.iter().any(|endpoint| endpoint.health.is_up()) {
        let all_say_no = endpoints.iter().all(|endpoint| endpoint.health.last_probe_failed());
        if all_say_no || Instant::now() > until {
            let err = |endpoint: &Arc<Endpoint>| {
                let err = endpoint.health.err().unwrap_or_else(|| "no answer yet".to_owned());
                format!("{} ({}): {err}", endpoint.published.mount_target_id, endpoint.published.ip_address)
            };
            return Err(StartError::NoTarget(endpoints.iter().map(err).collect()));
        }
        tokio::time::sleep(START_POLL_INTERVAL).await;
    }
    Ok(())
}
