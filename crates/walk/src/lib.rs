//! Counts the regular files below a directory: on a local file system as fast as the kernel returns names, on NFS with as
//! few calls as the protocol allows.
//!
//! ```
//! # let root = tempfile::tempdir()?;
//! # std::fs::write(root.path().join("a"), "")?;
//! # std::fs::write(root.path().join("b"), "")?;
//! use std::time::{Duration, Instant};
//! use walk::Walk;
//!
//! let budget = Instant::now() + Duration::from_secs(60);
//! let mut counted = Walk::new(root.path()).until(budget).return_unvisited(8, 128 << 10).count()?;
//! let mut files = counted.files;
//! // What did not fit into the budget comes back as partitions, which other processes can count too.
//! while let Some(partition) = counted.rest.pop() {
//!     let mut part = Walk::new(root.path()).count_partition(&partition)?;
//!     files += part.files;
//!     counted.rest.append(&mut part.rest);
//! }
//! assert_eq!(files, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What counts
//! - Regular files, by name. A file with two names counts twice. Hidden files count. Names are bytes.
//! - Symbolic links, FIFOs, sockets and devices do not count. The walk never follows a link to a directory; it counts links
//!   to regular files on request ([`Walk::follow_file_symlinks`]).
//! - One file system, unless [`Walk::one_file_system`] says otherwise. A directory belongs to it when its device number
//!   (`st_dev`), or over NFS its `fsid`, is the root's, as in `find -xdev`. The walk does not enter a directory with another
//!   number (a mount, a btrfs subvolume, another export) and counts it in [`Counted::other_file_systems`]. It enters a bind
//!   mount of the same file system, whose files have another name there and count again. A file counts by its name, whatever
//!   is mounted over it.
//! - A directory that vanishes during the walk has no files and counts in [`Counted::vanished`].
//! - A directory whose handle becomes stale is opened once more, by its path.
//! - What cannot be read (`EACCES`, `EIO`, `ELOOP`, …) is an error: the count continues and is incomplete. If the root cannot
//!   be read, there is no count ([`UnreadableRoot`]).
//!
//! # How
//! `getdents64` with buffers of 1 MiB returns the type of each entry; the walk calls `statx` only for entries without a type.
//! It uses 64 threads on any number of cores, because over NFS threads wait, and an NFSv4.1 session has 64 slots. The threads
//! share one stack, so that the walk goes deep first and little is in flight.
//!
//! After the first buffer of a directory, the Linux NFS client returns types only while a process stats some of the entries.
//! The walk therefore stats ten entries of each buffer that another one follows.
//!
//! # Without a mount
//! With the feature `nfs`, [`Walk::nfs`] walks a directory of an NFS server with a client in this process (see [`nfs`]). It
//! counts the same with fewer calls: one for each directory and megabyte of names.
//!
//! # In parts
//! A walk with a budget ([`Walk::until`]) stops between two reads and returns the rest as [`Partition`]s, which other walks
//! continue ([`Walk::count_partition`]). A large directory resumes at its cookie. Nothing is counted twice or left out, except
//! what is moved meanwhile.
#![deny(missing_docs)]

mod cache;
mod engine;
mod frontier;
mod getdents;
mod kernel;
#[cfg(feature = "nfs")]
pub mod nfs;
mod node;
mod partition;
mod pool;
mod source;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

pub use cache::{Cache, NotACache};
pub use partition::{Partition, ResumePoint};

/// The number of slots of an NFSv4.1 session. More threads gain nothing, fewer are slower.
pub const DEFAULT_THREADS: usize = 64;
/// Buffer size of one read of a directory. From Linux 5.18 on, the replies of an NFS server grow with it.
const BUFFER_BYTES: usize = 1 << 20;

/// The root cannot be opened or read as a directory, so there is no count.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {source}", path = path.display())]
pub struct UnreadableRoot {
    /// The root as it was given; of a server, its URL.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub source: io::Error,
}

/// Progress of a running walk, readable from another thread. It keeps counts that the result leaves out when a walk is
/// truncated.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    directories: AtomicU64,
    errors: AtomicU64,
}

impl Progress {
    /// Regular files found so far.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Directories read so far.
    pub fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// The result of a walk.
#[derive(Debug, Default)]
pub struct Counted {
    /// Regular files, by name. A lower bound unless [complete](Self::complete).
    pub files: u64,
    /// Directories read to their end, including the root.
    pub directories: u64,
    /// Directories that existed when their parent was read and not when the walk opened them.
    pub vanished: u64,
    /// Directories not entered because they are on another file system than the root.
    pub other_file_systems: u64,
    /// Directories not read because the cache shows that they have not changed.
    pub unchanged: u64,
    /// What could not be read.
    pub errors: u64,
    /// The first [100](MAX_REPORTED_ERRORS) of them: `path: why`, the path escaped and cut after 200 bytes.
    pub first_errors: Vec<String>,
    /// What is left, when the budget ended before the walk.
    pub rest: Vec<Partition>,
    /// The walk ended before its end and hands nothing back: [`Walk::stop_above`] was reached, or a
    /// directory took the whole budget and cannot be gone on with.
    pub truncated: bool,
    /// The given cache is of another directory and was not used.
    pub foreign_cache: bool,
    /// The cache for the next walk, from [`Walk::count_changed`] that ran to its end with at most 500,000 directories.
    pub cache: Option<Cache>,
    /// Duration of the walk.
    pub time: Duration,
}

impl Counted {
    /// Everything below the root was counted.
    pub fn complete(&self) -> bool {
        self.errors == 0 && self.rest.is_empty() && !self.truncated
    }
}

/// This many errors are told in full.
pub const MAX_REPORTED_ERRORS: usize = 100;

/// A walk to be made.
#[derive(Debug)]
pub struct Walk {
    root: Root,
    options: Options,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Root {
    Directory(PathBuf),
    #[cfg(feature = "nfs")]
    Nfs(nfs::Location),
}

#[derive(Debug)]
pub(crate) struct Options {
    pub threads: usize,
    pub buffer: usize,
    pub one_file_system: bool,
    pub follow_file_symlinks: bool,
    pub stop_above: Option<u64>,
    pub until: Option<Instant>,
    pub steps: Option<u64>,
    pub partitions: usize,
    pub partition_bytes: usize,
    /// For a cache: what changed after this may change again without its times showing it.
    pub trusted_until: SystemTime,
}

impl Walk {
    /// Walks a directory of this machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of(Root::Directory(root.into()))
    }

    /// Walks a directory of an NFS server. [`threads`](Self::threads) is the number of calls in flight, within what the
    /// server grants. [`follow_file_symlinks`](Self::follow_file_symlinks) needs a mount and makes this walk fail.
    #[cfg(feature = "nfs")]
    pub fn nfs(root: nfs::Location) -> Self {
        Self::of(Root::Nfs(root))
    }

    fn of(root: Root) -> Self {
        let options = Options {
            threads: DEFAULT_THREADS,
            buffer: BUFFER_BYTES,
            one_file_system: true,
            follow_file_symlinks: false,
            stop_above: None,
            until: None,
            steps: None,
            partitions: 1,
            partition_bytes: usize::MAX,
            trusted_until: SystemTime::now() - cache::RACY_WINDOW,
        };
        Self { root, options, progress: Arc::default() }
    }

    /// Maximum number of threads including the calling one, at least 1. Threads start only while there is work.
    #[must_use]
    pub fn threads(mut self, most: usize) -> Self {
        self.options.threads = most.max(1);
        self
    }

    /// Stays on the root's file system (the default). With `false`, a file system that cannot be entered is an error, for
    /// example one that an NFS server does not cross into.
    #[must_use]
    pub fn one_file_system(mut self, stay: bool) -> Self {
        self.options.one_file_system = stay;
        self
    }

    /// Counts symbolic links to regular files too, as Python's `is_file()` does.
    #[must_use]
    pub fn follow_file_symlinks(mut self, follow: bool) -> Self {
        self.options.follow_file_symlinks = follow;
        self
    }

    /// Ends soon after it has found more than this many files.
    #[must_use]
    pub fn stop_above(mut self, files: Option<u64>) -> Self {
        self.options.stop_above = files;
        self
    }

    /// Stops at this time, or at the end of the first read after it.
    #[must_use]
    pub fn until(mut self, time: Instant) -> Self {
        self.options.until = Some(time);
        self
    }

    /// Stops after this many steps: reads of a directory, stats of an entry of unknown type, and directories that the cache
    /// shows unchanged.
    #[must_use]
    pub fn steps(mut self, most: u64) -> Self {
        self.options.steps = Some(most);
        self
    }

    /// Limits what a stopped walk returns: this many partitions, and this many bytes of JSON in total. What does not fit is
    /// cut higher up in the tree and counted again by the walk that continues.
    #[must_use]
    pub fn return_unvisited(mut self, partitions: usize, bytes: usize) -> Self {
        self.options.partitions = partitions.max(1);
        self.options.partition_bytes = bytes;
        self
    }

    /// Buffer size of one read of a directory, in bytes, at least 1 KiB.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.options.buffer = bytes.max(1024);
        self
    }

    /// The progress of this walk.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Counts.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root cannot be read.
    pub fn count(self) -> Result<Counted, UnreadableRoot> {
        self.count_partition(&Partition::whole())
    }

    /// Counts what another walk of this root left. A directory of the partition that no longer exists makes the count
    /// incomplete.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root cannot be read.
    pub fn count_partition(self, partition: &Partition) -> Result<Counted, UnreadableRoot> {
        self.run(partition, None)
    }

    /// Counts, and reads only directories that have changed since `old`. [`Cache::default`] is empty. The result is in
    /// [`Counted::cache`]. Links to files are not followed.
    ///
    /// A directory is unchanged when its modification and change times are: creating, removing or renaming a name changes
    /// both. Times within 2 s of the start of a walk are not trusted. Do not use this on a file system that does not maintain
    /// these times.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root cannot be read.
    pub fn count_changed(mut self, old: &Cache) -> Result<Counted, UnreadableRoot> {
        self.options.follow_file_symlinks = false;
        self.run(&Partition::whole(), Some(old))
    }

    fn run(self, partition: &Partition, cache: Option<&Cache>) -> Result<Counted, UnreadableRoot> {
        let started = Instant::now();
        let Self { root, options, progress } = &self;
        let counted = match root {
            Root::Directory(path) => kernel::Kernel::new(path, options.one_file_system)
                .and_then(|source| engine::run(&source, options, progress, partition, cache)),
            #[cfg(feature = "nfs")]
            Root::Nfs(location) => {
                nfs::within(location, options, |source| engine::run(source, options, progress, partition, cache))
            }
        };
        let mut counted = counted.map_err(|source| UnreadableRoot { path: root.path(), source })?;
        counted.time = started.elapsed();
        Ok(counted)
    }
}

impl Root {
    fn path(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            #[cfg(feature = "nfs")]
            Self::Nfs(location) => location.to_string().into(),
        }
    }
}

/// Counts with the defaults.
///
/// # Errors
/// [`UnreadableRoot`] when the root cannot be read.
pub fn count(root: &Path) -> Result<Counted, UnreadableRoot> {
    Walk::new(root).count()
}

#[cfg(all(test, feature = "nfs"))]
mod mounts;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watched;
