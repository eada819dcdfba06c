//! The backend for mount targets that the kernel has mounted: a directory each, `/mnt/efs-0`, `/mnt/efs-1` and so on.

mod beneath;
mod listing;
mod mount;
mod operations;
mod pool;
mod separate;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use domain::published::PublishedTarget;
use rustix::{
    fs::{self, Mode},
    io::Errno,
};

pub use self::{
    mount::{EFS_OPTIONS, Mount, Mounter, NFS_OPTIONS},
    operations::Sync,
    separate::{SharedMount, shared_mounts},
};
use self::{
    operations::{Flush, Modes, Opened, Temporary, Way},
    pool::Pool,
};
use files::{
    Backend, Error, Result,
    buffers::{self, Buffer},
    health::PROBE_TIMEOUT,
    transport::{
        BodyStream, BoxFuture, Metadata, Page, Preconditions, ReadOptions, ReadOutcome, ReadResult, StagedUpload,
        SweepResult, Transport,
    },
};
use router::path::{DirectoryPath, FilePath};

/// Local file systems that honour RESOLVE_CACHED and RWF_NOWAIT: ext4, XFS, btrfs, tmpfs. NFS asks its server at every
/// open, even with these flags.
const NONBLOCKING_FILE_SYSTEMS: [u64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];
const NFS: u64 = 0x6969;

/// Options of the backend.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that contains `efs-0` and so on.
    pub base: PathBuf,
    pub mount: Mount,
    pub sync: Sync,
    /// Maximum number of threads per target.
    pub threads: usize,
    /// Maximum number of operations that wait for a thread; more are refused.
    pub waiting: usize,
    /// Maximum duration of an operation. A system call in progress cannot be cancelled.
    pub deadline: Duration,
    /// Permissions of new files and directories.
    pub file_mode: u32,
    pub directory_mode: u32,
    /// Read cached content on the caller's thread, where the file system supports that.
    pub read_at_once: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base: PathBuf::from("/mnt"),
            mount: Mount::None,
            sync: Sync::Always,
            threads: 32,
            waiting: 1024,
            deadline: Duration::from_secs(10),
            file_mode: 0o644,
            directory_mode: 0o755,
            read_at_once: true,
        }
    }
}

impl Options {
    /// The directory of the target in this slot.
    pub fn directory(&self, slot: usize) -> PathBuf {
        self.base.join(format!("efs-{slot}"))
    }
}

impl Backend for Options {
    fn transport(&self, target: &PublishedTarget, slot: usize) -> Arc<dyn Transport> {
        Arc::new(Mounted::new(target, self.directory(slot), self))
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// The transport to a target through its directory.
struct Mounted {
    directory: PathBuf,
    mounter: Option<Arc<Mounter>>,
    pool: Arc<Pool>,
    prober: Arc<Pool>,
    root: Arc<ArcSwapOption<Root>>,
    read_at_once: AtomicBool,
    sync: Sync,
    modes: Modes,
    patience: Duration,
}

/// The directory as of the last probe.
struct Root {
    directory: OwnedFd,
    identity: (u64, u64),
    /// The file system's identifier from `statfs`.
    magic: u64,
}

impl Root {
    /// Whether the file system supports non-blocking opens and reads.
    fn at_once(&self) -> bool {
        NONBLOCKING_FILE_SYSTEMS.contains(&self.magic)
    }

    fn way(&self, sync: Sync, patience: Duration) -> Way {
        let flush = match sync {
            Sync::Always => Flush::Everything,
            Sync::Never if self.at_once() => Flush::Nothing,
            Sync::Never => Flush::Content,
        };
        Way { flush, until: Instant::now() + patience }
    }
}

impl Mounted {
    fn new(target: &PublishedTarget, directory: PathBuf, options: &Options) -> Self {
        let name = |what: &str| format!("{what}-{}", target.mount_target_id);
        Self {
            mounter: Mounter::new(&options.mount, target, &directory).map(Arc::new),
            pool: Pool::new(name("files"), options.threads, options.waiting, options.deadline),
            prober: Pool::new(name("probe"), 1, 0, PROBE_TIMEOUT),
            root: Arc::default(),
            read_at_once: AtomicBool::new(options.read_at_once),
            sync: options.sync,
            modes: Modes {
                file: Mode::from_raw_mode(options.file_mode),
                directory: Mode::from_raw_mode(options.directory_mode),
            },
            // A lock that another client holds must not consume the whole deadline.
            patience: options.deadline / 2,
            directory,
        }
    }

    fn root(&self) -> Result<Arc<Root>> {
        self.root.load_full().ok_or(Error::NoTarget)
    }

    /// Runs `job` on the root directory, on a thread of the pool.
    fn run<T: Send + 'static>(&self, job: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> BoxFuture<'static, T> {
        match self.root() {
            Ok(root) => Box::pin(self.pool.run(move || job(&root))),
            Err(err) => Box::pin(std::future::ready(Err(err))),
        }
    }

    /// Like `run`, for a change: it runs to its end even after the deadline.
    fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Root, Way) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let (sync, patience) = (self.sync, self.patience);
        match self.root() {
            Ok(root) => Box::pin(self.pool.run_to_its_end(move || job(&root, root.way(sync, patience)))),
            Err(err) => Box::pin(std::future::ready(Err(err))),
        }
    }

    fn reading(pool: &Arc<Pool>, opened: Opened, at_once: bool) -> ReadResult {
        let Opened { meta, outcome, first, file } = opened;
        let to = match outcome {
            ReadOutcome::Content { from, to, .. } => Some((from + first.len() as u64, to)),
            _ => None,
        };
        let rest = file.zip(to).map(|(file, (at, to))| {
            // Closing a file on NFS may take a round trip.
            let file = OnPool { value: Some(file), pool: (!at_once).then(|| Arc::clone(pool)) };
            Box::new(Remaining { file, pool: Arc::clone(pool), at, to, at_once }) as Box<dyn BodyStream>
        });
        ReadResult { meta, outcome, first, rest }
    }
}

/// Opens the directory again, and makes it the root if it is a different one, such as after a new mount.
fn look(directory: &Path, is_mounted: bool, root: &ArcSwapOption<Root>) -> Result<()> {
    let failed = |err: &str| Err(Error::Failed(std::io::Error::other(format!("{} {err}", directory.display()))));
    let opened = match fs::open(directory, beneath::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return failed("is not there"),
        Err(Errno::NOTDIR) => return failed("is no directory"),
        other => other?,
    };
    // NFS forwards `statfs` to the server: a cached answer would not prove that the target is alive.
    let system = fs::fstatfs(&opened)?;
    let found = fs::fstat(&opened)?;
    // Examine the mount, not the local directory below a mount that has just been removed.
    if is_mounted && found.st_dev == fs::statat(&opened, "..", fs::AtFlags::empty())?.st_dev {
        return failed("is not mounted");
    }
    // 32 bits, in a field whose type depends on the architecture.
    let magic = system.f_type as u64 & 0xFFFF_FFFF;
    let before = root.load();
    if before.as_ref().is_some_and(|before| before.magic == NFS && magic != NFS) {
        return failed("was on NFS and is not any more; mount it again");
    }
    #[allow(clippy::useless_conversion, reason = "the types of these differ from one architecture to the next")]
    let identity = (found.st_dev.into(), found.st_ino.into());
    if before.as_ref().is_none_or(|before| before.identity != identity) {
        root.store(Some(Arc::new(Root { directory: opened, identity, magic })));
    }
    Ok(())
}

impl Transport for Mounted {
    fn probe(&self) -> BoxFuture<'_, ()> {
        let (directory, root) = (self.directory.clone(), Arc::clone(&self.root));
        let mounter = self.mounter.clone();
        Box::pin(self.prober.run(move || {
            if let Some(mounter) = &mounter {
                mounter.mount()?;
            }
            match look(&directory, mounter.is_some(), &root) {
                // No free file descriptor: this says nothing about the target.
                Err(Error::Busy) => Ok(()),
                other => other,
            }
        }))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        match self.mounter.clone() {
            None => Box::pin(std::future::ready(Ok(()))),
            Some(mounter) => Box::pin(self.pool.run(move || {
                mounter.unmount();
                Ok(())
            })),
        }
    }

    fn read_now(&self, path: &FilePath, want: &ReadOptions) -> Option<Result<ReadResult>> {
        let root = self.root.load();
        let root = root.as_ref().filter(|root| root.at_once() && self.read_at_once.load(Ordering::Relaxed))?;
        match operations::read(root.directory.as_fd(), path, want, true) {
            Ok(opened) => Some(Ok(Self::reading(&self.pool, opened, true))),
            Err(Error::NotFound) => Some(Err(Error::NotFound)),
            Err(Error::Failed(err)) => {
                // The file system does not support it.
                if let Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) = Errno::from_io_error(&err) {
                    self.read_at_once.store(false, Ordering::Relaxed);
                }
                None
            }
            // A thread of the pool finds the definite answer.
            Err(_) => None,
        }
    }

    fn read(&self, path: &FilePath, want: &ReadOptions) -> BoxFuture<'_, ReadResult> {
        let (path, want, pool) = (path.clone(), want.clone(), Arc::clone(&self.pool));
        let at_once = self.read_at_once.load(Ordering::Relaxed);
        self.run(move |root| {
            let opened = operations::read(root.directory.as_fd(), &path, &want, false)?;
            Ok(Self::reading(&pool, opened, at_once && root.at_once()))
        })
    }

    fn put(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)> {
        let (path, modes) = (path.clone(), self.modes);
        self.change(move |root, way| {
            operations::evaluate(root.directory.as_fd(), &path, &conditions)?;
            let mut temporary = Temporary::beside(root.directory.as_fd(), &path, modes)?;
            temporary.write(&content, Flush::Nothing)?;
            temporary.commit(&conditions, way)
        })
    }

    fn stage(&self, path: &FilePath) -> BoxFuture<'_, Box<dyn StagedUpload>> {
        let (path, pool) = (path.clone(), Arc::clone(&self.pool));
        let (sync, modes, patience) = (self.sync, self.modes, self.patience);
        let root = self.root();
        self.run(move |opened| {
            let temporary = OnPool::new(Temporary::beside(opened.directory.as_fd(), &path, modes)?, &pool);
            Ok(Box::new(Stage { temporary: Some(temporary), root: root?, pool, sync, patience })
                as Box<dyn StagedUpload>)
        })
    }

    fn append(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)> {
        let (path, modes) = (path.clone(), self.modes);
        self.change(move |root, way| {
            operations::append(root.directory.as_fd(), &path, &content, &conditions, way, modes)
        })
    }

    fn delete(&self, path: &FilePath, conditions: Preconditions) -> BoxFuture<'_, ()> {
        let path = path.clone();
        self.change(move |root, way| operations::delete(root.directory.as_fd(), &path, &conditions, way))
    }

    fn list(&self, directory: &DirectoryPath, cursor: Option<u64>, limit: usize) -> BoxFuture<'_, Page> {
        let directory = directory.clone();
        self.run(move |root| listing::list(root.directory.as_fd(), &directory, cursor, limit))
    }

    fn sweep(&self, directory: &DirectoryPath, cursor: Option<u64>, age: Duration) -> BoxFuture<'_, SweepResult> {
        let directory = directory.clone();
        self.run(move |root| listing::sweep(root.directory.as_fd(), &directory, cursor, age))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Closing the last file of a mount ends its session at the server, which may block.
        let (mounter, root) = (self.mounter.take(), self.root.swap(None));
        self.pool.later(move || {
            if let Some(mounter) = mounter {
                mounter.unmount();
            }
            drop(root);
        });
    }
}

/// A value whose drop may block: it is dropped on a thread of the pool.
struct OnPool<T: Send + 'static> {
    value: Option<T>,
    pool: Option<Arc<Pool>>,
}

impl<T: Send> OnPool<T> {
    fn new(value: T, pool: &Arc<Pool>) -> Self {
        Self { value: Some(value), pool: Some(Arc::clone(pool)) }
    }
}

impl<T: Send> Drop for OnPool<T> {
    fn drop(&mut self) {
        if let (Some(value), Some(pool)) = (self.value.take(), self.pool.take()) {
            pool.later(move || drop(value));
        }
    }
}

/// The stream of the remaining bytes of a file.
struct Remaining {
    file: OnPool<OwnedFd>,
    pool: Arc<Pool>,
    at: u64,
    to: u64,
    at_once: bool,
}

impl Remaining {
    fn buffer(&self) -> Buffer {
        buffers::take(usize::try_from(self.to - self.at).unwrap_or(usize::MAX))
    }

    fn read(&mut self, buffer: Buffer, now: bool) -> Result<Bytes> {
        if self.at == self.to {
            return Ok(Bytes::new());
        }
        let file = self.file.value.as_ref().ok_or(Error::Shortened)?;
        let bytes = operations::read_at(file.as_fd(), self.at, buffer, now)?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

impl BodyStream for Remaining {
    fn next_now(&mut self) -> Option<Result<Bytes>> {
        if !self.at_once && self.at < self.to {
            return None;
        }
        let buffer = self.buffer();
        match self.read(buffer, true) {
            Err(Error::Failed(_)) => None,
            answer => Some(answer),
        }
    }

    fn next(mut self: Box<Self>) -> BoxFuture<'static, (Bytes, Box<dyn BodyStream>)> {
        let pool = Arc::clone(&self.pool);
        // Allocate on the thread that frees it: an allocator keeps memory per allocating thread.
        let buffer = self.buffer();
        Box::pin(pool.go_on(move || {
            let bytes = self.read(buffer, false)?;
            Ok((bytes, self as Box<dyn BodyStream>))
        }))
    }
}

/// An upload.
struct Stage {
    /// `None` during an operation, and after a failed one.
    temporary: Option<OnPool<Temporary>>,
    root: Arc<Root>,
    pool: Arc<Pool>,
    sync: Sync,
    patience: Duration,
}

fn given_up() -> Error {
    Error::Failed(std::io::Error::other("an earlier piece of the content could not be written"))
}

impl StagedUpload for Stage {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ()> {
        let Some(mut temporary) = self.temporary.take() else {
            return Box::pin(std::future::ready(Err(given_up())));
        };
        let flush = self.root.way(self.sync, self.patience).flush;
        let written = self.pool.go_on(move || {
            temporary.value.as_mut().ok_or_else(given_up)?.write(&bytes, flush)?;
            Ok(temporary)
        });
        Box::pin(async move {
            self.temporary = Some(written.await?);
            Ok(())
        })
    }

    fn commit(self: Box<Self>, conditions: Preconditions) -> BoxFuture<'static, (Metadata, bool)> {
        let Self { temporary, root, pool, sync, patience } = *self;
        Box::pin(pool.run_to_its_end(move || {
            let temporary = temporary.and_then(|mut temporary| temporary.value.take()).ok_or_else(given_up)?;
            temporary.commit(&conditions, root.way(sync, patience))
        }))
    }

    fn into_bytes(self: Box<Self>) -> BoxFuture<'static, Bytes> {
        let Self { temporary, pool, .. } = *self;
        Box::pin(pool.go_on(move || {
            let temporary = temporary.and_then(|mut temporary| temporary.value.take()).ok_or_else(given_up)?;
            temporary.content()
        }))
    }
}
