//! The walkers that are libraries, and the bare calls. Each is a mode of this program and so a process of
//! its own, like the tools that it is compared with.

use std::{
    fs,
    num::NonZero,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, openat};
use walk::{Cache, Partition, Walk};

/// Runs one of them on a directory, and gives the files that it counted; `pure` counts none. `file` is what
/// it goes by: the list of directories, or a cache.
pub fn run(name: &str, directory: &Path, file: Option<&Path>) -> Result<Option<u64>> {
    let file = || file.context("it needs a file to go by");
    let files = match name {
        "pure" => return pure(directory, &fs::read(file()?)?).map(|()| None),
        "ours" => ours(directory)?,
        "in-parts" => in_parts(directory)?,
        #[cfg(feature = "nfs")]
        "inside" => inside(directory)?,
        "learn" => learn(directory, file()?)?,
        "unchanged" => unchanged(directory, file()?)?,
        "ignore" => ignore(directory, 0),
        "ignore-64" => ignore(directory, 64),
        "jwalk" => jwalk(directory, jwalk::Parallelism::RayonDefaultPool { busy_timeout: Duration::MAX }),
        "jwalk-64" => jwalk(directory, jwalk::Parallelism::RayonNewPool(64)),
        "walkdir" => walkdir(directory),
        other => bail!("there is no walker {other}"),
    };
    Ok(Some(files))
}

fn ours(directory: &Path) -> Result<u64> {
    let counted = Walk::new(directory).count()?;
    anyhow::ensure!(counted.complete(), "{counted:?}");
    Ok(counted.files)
}

/// Without a mount: of the server on this machine, whose root `directory` is below.
#[cfg(feature = "nfs")]
fn inside(directory: &Path) -> Result<u64> {
    const PORT: u16 = 2049;
    let location = walk::nfs::Location::new("127.0.0.1", PORT, directory.as_os_str().as_bytes());
    let counted = Walk::nfs(location).count()?;
    anyhow::ensure!(counted.complete(), "{counted:?}");
    Ok(counted.files)
}

/// Stops after half a second, and goes on where it was with what a state machine would pass on.
fn in_parts(directory: &Path) -> Result<u64> {
    const HALF_A_SECOND: Duration = Duration::from_millis(500);
    let (mut left, mut files) = (vec![Partition::whole()], 0);
    while let Some(partition) = left.pop() {
        let partition: Partition = serde_json::from_str(&serde_json::to_string(&partition)?)?;
        let counted = Walk::new(directory)
            .until(Instant::now() + HALF_A_SECOND)
            .return_unvisited(8, 100_000)
            .count_partition(&partition)?;
        anyhow::ensure!(counted.errors == 0 && !counted.truncated, "{counted:?}");
        files += counted.files;
        left.extend(counted.rest);
    }
    Ok(files)
}

/// Writes the cache that `unchanged` goes by.
fn learn(directory: &Path, cache: &Path) -> Result<u64> {
    let counted = Walk::new(directory).count_changed(&Cache::default())?;
    counted.cache.context("an incomplete walk")?.save(cache)?;
    Ok(counted.files)
}

fn unchanged(directory: &Path, cache: &Path) -> Result<u64> {
    let counted = Walk::new(directory).count_changed(&Cache::load(cache)?)?;
    anyhow::ensure!(counted.unchanged == counted.directories, "something has changed: {counted:?}");
    Ok(counted.files)
}

/// As many threads as an engine takes by itself for 0.
fn ignore(directory: &Path, threads: usize) -> u64 {
    /// A thread's own count, so that they do not meet at each entry.
    struct Count<'a> {
        files: u64,
        total: &'a AtomicU64,
    }
    impl Count<'_> {
        fn add(&mut self, file: bool) {
            self.files += u64::from(file);
        }
    }
    impl Drop for Count<'_> {
        fn drop(&mut self) {
            self.total.fetch_add(self.files, Ordering::Relaxed);
        }
    }
    let total = AtomicU64::new(0);
    ignore::WalkBuilder::new(directory).standard_filters(false).threads(threads).build_parallel().run(|| {
        let mut count = Count { files: 0, total: &total };
        Box::new(move |entry| {
            count.add(entry.is_ok_and(|entry| entry.file_type().is_some_and(|kind| kind.is_file())));
            ignore::WalkState::Continue
        })
    });
    total.into_inner()
}

fn jwalk(directory: &Path, parallelism: jwalk::Parallelism) -> u64 {
    let walk = jwalk::WalkDir::new(directory).skip_hidden(false).sort(false).parallelism(parallelism);
    walk.into_iter().flatten().map(|entry| u64::from(entry.file_type().is_file())).sum()
}

fn walkdir(directory: &Path) -> u64 {
    let walk = walkdir::WalkDir::new(directory).into_iter().flatten();
    walk.map(|entry| u64::from(entry.file_type().is_file())).sum()
}

/// The directories of a tree for `pure`: the first is the root, and each comes after its parent, deep before
/// wide. A line each, `parent name\0`: the parent's line, and its name in there.
pub fn list(directory: &Path) -> Result<Vec<u8>> {
    let mut lines = vec![];
    // The line of the last directory at each depth.
    let mut above: Vec<usize> = vec![];
    let walk = walkdir::WalkDir::new(directory).into_iter().filter_entry(|entry| entry.file_type().is_dir());
    for (line, entry) in walk.enumerate() {
        let entry = entry?;
        above.truncate(entry.depth());
        lines.extend(format!("{} ", above.last().copied().unwrap_or_default()).into_bytes());
        lines.extend(entry.file_name().as_bytes());
        lines.push(0);
        above.push(line);
    }
    Ok(lines)
}

/// What no walker can do without: opens the directories in their parents and reads them, with as many
/// threads and as large buffers as ours, and looks at nothing that it reads. It knows the directories
/// beforehand.
fn pure(root: &Path, list: &[u8]) -> Result<()> {
    struct Directory<'a> {
        parent: usize,
        name: &'a std::ffi::OsStr,
        children: usize,
        /// For each child that has not taken one yet: the last one closes it. More of them open than needed
        /// would cost more than the reading, since the kernel waits whenever the table of descriptors grows.
        open: OnceLock<Mutex<Vec<Arc<OwnedFd>>>>,
    }
    let mut directories: Vec<Directory<'_>> = vec![];
    for line in list.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let at = line.iter().position(|byte| *byte == b' ').context("not such a list")?;
        let parent = std::str::from_utf8(&line[..at])?.parse::<usize>()?;
        let name = if directories.is_empty() { root.as_os_str() } else { std::ffi::OsStr::from_bytes(&line[at + 1..]) };
        if let Some(parent) = directories.get_mut(parent) {
            parent.children += 1;
        }
        directories.push(Directory { parent, name, children: 0, open: OnceLock::new() });
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0_u8; 1 << 20];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(directory) = directories.get(number) else { return Ok(()) };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = match number {
                0 => openat(CWD, directory.name, flags, Mode::empty()),
                _ => {
                    // Whoever took the parent before opens it without waiting for this one.
                    let parent = locked(directories[directory.parent].open.wait()).pop();
                    let parent = parent.context("a child too many")?;
                    openat(parent, directory.name, flags, Mode::empty())
                }
            }?;
            let open = Arc::new(open);
            let _ = directory.open.set(Mutex::new(vec![Arc::clone(&open); directory.children]));
            while getdents(&open, &mut buffer)? > 0 {}
        }
    };
    let threads = directories.len().min(walk::DEFAULT_THREADS);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work()?;
        others.into_iter().try_for_each(|other| other.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "rustix parses what it reads, and this is not to")]
fn getdents(directory: &OwnedFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed mutably.
    let filled =
        unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    usize::try_from(filled).map_err(|_| std::io::Error::last_os_error().into())
}

/// The processors that this process may use.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
