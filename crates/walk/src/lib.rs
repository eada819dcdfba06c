//! Counts the regular files below a directory, as fast as the kernel hands out names, and on NFS with as
//! few calls as the protocol allows.
//!
//! # What counts
//! - Regular files, by name: one with two names counts twice. Hidden ones too. Names are bytes.
//! - Not symbolic links, fifos, sockets, devices. No link to a directory is ever followed; a link to a
//!   regular file counts when asked for ([`Walk::follow_file_symlinks`]).
//! - One file system, unless asked otherwise ([`Walk::one_file_system`]): a directory belongs to it when its
//!   device number (`st_dev`), or over NFS its file system's number (`fsid`), is the root's, as `find -xdev` has
//!   it. A directory of another number, be it a mount, a subvolume of btrfs or another export, is not entered, and
//!   is counted in [`Counted::other_file_systems`]. A bind mount of the same file system is entered: its files
//!   have another name there, and count once more. A file counts by its name, whatever is mounted over it.
//! - A directory that vanishes meanwhile had no files, and is counted in [`Counted::vanished`].
//! - A directory whose handle turned stale is opened once more, by its path.
//! - What cannot be read (`EACCES`, `EIO`, `ELOOP`, …) is an error: the count goes on, and is incomplete.
//!   When it is the root, there is no count at all ([`UnreadableRoot`]).
//!
//! # How
//! `getdents64` with 1 MiB buffers tells the kind of each entry; only where it does not is an entry looked
//! at by itself. 64 threads, whatever the number of cores: over NFS a walk waits, and a session has 64
//! slots. They share one stack, so that the walk goes deep first and little is in flight.
//!
//! The Linux NFS client stops telling kinds after the first buffer of a directory unless somebody looks at
//! some of the entries: so the walk does, ten for each buffer that another one follows.
//!
//! # Without a mount
//! With the feature `nfs`, [`Walk::nfs`] walks a directory of an NFS server through a client in this process (see
//! [`nfs`]). The same counts, for fewer calls: one for each directory and megabyte of names in it.
//!
//! # In parts
//! A walk with a budget ([`Walk::until`]) stops between two reads and hands back what is left as
//! [`Partition`]s, which other walks take up ([`Walk::count_partition`]): a large directory goes on at its
//! cookie. Nothing is counted twice and nothing is left out, but what is moved meanwhile.

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

/// As many as an NFSv4.1 session has slots; more gain nothing, fewer lose.
pub const DEFAULT_THREADS: usize = 64;
/// What a read of a directory takes at most: from Linux 5.18 on the answers of an NFS server grow with it.
const BUFFER_BYTES: usize = 1 << 20;

/// The root cannot be opened or read as a directory: there is nothing to count.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {source}", path = path.display())]
pub struct UnreadableRoot {
    pub path: PathBuf,
    pub source: io::Error,
}

/// How far a walk has come, for whoever looks from another thread. Counts that are taken back when a walk
/// is cut short stay in here.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    directories: AtomicU64,
    errors: AtomicU64,
}

impl Progress {
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// What a walk has found.
#[derive(Debug, Default)]
pub struct Counted {
    /// Regular files, by name; at least this many when not [complete](Self::complete).
    pub files: u64,
    /// Directories read to their end, the root among them.
    pub directories: u64,
    /// Directories that were there when their parent was read, and were gone when it was their turn.
    pub vanished: u64,
    /// Directories not entered, since they are on another file system than the root.
    pub other_file_systems: u64,
    /// Directories that were not read, since a cache knew them unchanged.
    pub unchanged: u64,
    /// What could not be read.
    pub errors: u64,
    /// The first [100](TOLD_ERRORS) of them: `path: why`, the path escaped and cut after 200 bytes.
    pub first_errors: Vec<String>,
    /// What is left, when the budget ended before the walk.
    pub rest: Vec<Partition>,
    /// The walk ended before its end and hands nothing back: [`Walk::stop_above`] was reached, or a
    /// directory took the whole budget and cannot be gone on with.
    pub truncated: bool,
    /// The cache that the walk was to go by is of another directory, and was of no use.
    pub foreign_cache: bool,
    /// What a next walk may go by; of a walk that was asked for it and came to its end, unless it met more
    /// than 500,000 directories.
    pub cache: Option<Cache>,
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
    /// Of a directory of this machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of(Root::Directory(root.into()))
    }

    /// Of a directory of a server. [`threads`](Self::threads) says how many calls are on their way at once, if the
    /// server lets there be so many; [`follow_file_symlinks`](Self::follow_file_symlinks) has no meaning without a
    /// mount, and makes the walk fail.
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

    /// At most so many threads, this one among them; at least 1. More are started only while there is work.
    #[must_use]
    pub fn threads(mut self, most: usize) -> Self {
        self.options.threads = most.max(1);
        self
    }

    /// Stays on the root's file system; the default. Otherwise a file system that cannot be entered, as one that the
    /// server does not go to, is an error.
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

    /// Ends soon after more than this many files are found.
    #[must_use]
    pub fn stop_above(mut self, files: Option<u64>) -> Self {
        self.options.stop_above = files;
        self
    }

    /// The budget: stops at this time, or as soon after it as something has been read.
    #[must_use]
    pub fn until(mut self, time: Instant) -> Self {
        self.options.until = Some(time);
        self
    }

    /// Another budget: stops after so many steps, which are reads of directories, looks at entries of unknown
    /// kind, and directories that a cache knows unchanged.
    #[must_use]
    pub fn steps(mut self, most: u64) -> Self {
        self.options.steps = Some(most);
        self
    }

    /// What a walk that is stopped hands back at most: so many partitions, and so many bytes of JSON in all.
    /// What does not fit is cut higher up in the tree, and counted again by whoever takes it up.
    #[must_use]
    pub fn return_unvisited(mut self, partitions: usize, bytes: usize) -> Self {
        self.options.partitions = partitions.max(1);
        self.options.partition_bytes = bytes;
        self
    }

    /// Bytes that a read of a directory takes at most; at least 1 KiB.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.options.buffer = bytes.max(1024);
        self
    }

    /// Where to look meanwhile.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Walks.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root is.
    pub fn count(self) -> Result<Counted, UnreadableRoot> {
        self.count_partition(&Partition::whole())
    }

    /// Walks what another walk of this root has left. A place that is not there any more makes the count
    /// incomplete.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root is.
    pub fn count_partition(self, partition: &Partition) -> Result<Counted, UnreadableRoot> {
        self.run(partition, None)
    }

    /// Walks, and does not read again what `old` knows unchanged. [`Cache::default`] knows nothing; either
    /// way [`Counted::cache`] knows more afterwards. Links to files are not followed.
    ///
    /// A directory is unchanged when its modification and change times are: what makes, removes or renames
    /// a name changes both. Times within 2 s of a walk's beginning are not trusted. This goes by the
    /// server's word: a file system that does not keep these times must not be counted so.
    ///
    /// # Errors
    /// [`UnreadableRoot`] when the root is.
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
/// [`UnreadableRoot`] when the root is.
pub fn count(root: &Path) -> Result<Counted, UnreadableRoot> {
    Walk::new(root).count()
}

#[cfg(all(test, feature = "nfs"))]
mod mounts;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watched;
