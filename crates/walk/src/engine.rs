//! The walk: what happens to a directory and its entries.

use std::{
    ffi::{CStr, CString},
    fmt::Display,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use crate::{
    Counted, MAX_REPORTED_ERRORS, Options, Progress,
    cache::{Cache, Memory},
    frontier::Frontier,
    getdents::{Entries, Entry, Kind},
    node::{Counts, Node},
    partition::{Partition, Position, ResumePoint},
    pool::{Job, Names, Open, PartialDirectory, Pool, Task},
    source::{Identity, Source, Stamp, gone, is},
};

/// Stack frames are small, and untouched pages cost nothing.
const STACK_BYTES: usize = 256 << 10;
/// Maximum number of names queued per directory. The rest of the directory is read when they have been taken. This bounds
/// the memory, and the size of what a stopped walk returns.
const MAX_QUEUED_NAMES_PER_DIRECTORY: usize = 256;
/// Number of entries to stat after each read that another one follows, where the source needs it: Linux 5.10 needs 1, 6.1
/// more than 8.
const READDIRPLUS_HINTS: usize = 10;
/// Size of the first read of a resumed directory where the source needs hints. That read returns no types, and each entry
/// without a type costs a stat.
pub(crate) const FIRST_READ_BYTES: usize = 4096;
/// Maximum length of an escaped path in an error.
const MAX_REPORTED_PATH_BYTES: usize = 200;
/// Maximum number of tries to open a directory while the process has no descriptor left; the delay doubles each time.
const MAX_DESCRIPTOR_TRIES: u32 = 10;

/// Walks the partition.
///
/// # Errors
/// When the root cannot be opened, or read, or vanishes.
pub(crate) fn run<S: Source>(
    source: &S,
    options: &Options,
    progress: &Progress,
    partition: &Partition,
    cache: Option<&Cache>,
) -> io::Result<Counted> {
    let root = Arc::new(Node::root());
    // Each thread may hold one directory and open another from the root down.
    let threads = options.threads.min(source.most_open() / 4).max(1);
    // One allocation for all threads: large allocations come as pages that take no memory until they are touched. Separate
    // ones would be reused memory, which the allocator clears first.
    let mut memory_of_threads = vec![0; threads * options.buffer];
    let open = Arc::new(AtomicUsize::new(0));
    let top = Open::new(source.root()?, &open);
    let memory = match cache {
        Some(old) => {
            let stamp = source.stamp(&top.directory, None)?;
            Some(Memory::new(old, stamp, options.one_file_system, options.trusted_until))
        }
        None => None,
    };
    let foreign_cache = memory.as_ref().is_some_and(Memory::is_foreign);
    let walk = Walking {
        source,
        options,
        progress,
        memory,
        whole: partition.is_whole(),
        buffers: Mutex::new(memory_of_threads.chunks_exact_mut(options.buffer).collect()),
        pool: Pool::new(threads),
        truncated: AtomicBool::new(false),
        steps: AtomicU64::new(0),
        top,
        open,
        first_errors: Mutex::default(),
        root_error: Mutex::default(),
    };
    let places = partition.places().iter().rev();
    let record = || walk.memory.as_ref().map(Memory::root);
    walk.pool.push(places.map(|place| Task::ResumePoint(Node::at(&root, place, record()), place.clone())));
    thread::scope(|scope| walk.work(scope));

    let Walking { memory, pool, truncated, first_errors, root_error, .. } = walk;
    if let Some(err) = unlocked(root_error) {
        return Err(err);
    }
    let (mut stack, mut truncated) = (pool.into_tasks(), truncated.into_inner());
    let cache = memory.filter(|_| stack.is_empty() && !truncated).and_then(Memory::into_cache);
    if truncated {
        // No walk continues with these: the directories add their counts to the root.
        stack.clear();
    }
    let (mut rest, taken_back) = Frontier::of(source, stack).partitions(options.partitions, options.partition_bytes);
    let mut counts = root.counts();
    if rest.is_empty() || counts.steps > taken_back.steps {
        counts -= taken_back;
    } else {
        // The result of this walk would be discarded, and the next walk would get no further.
        (rest, truncated) = (vec![], true);
    }
    Ok(Counted {
        files: counts.files,
        directories: counts.directories,
        vanished: counts.vanished,
        other_file_systems: counts.other_file_systems,
        unchanged: counts.unchanged,
        errors: counts.errors,
        first_errors: unlocked(first_errors),
        rest,
        truncated,
        foreign_cache,
        cache,
        time: Duration::ZERO,
    })
}

fn unlocked<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Walking<'a, S: Source> {
    source: &'a S,
    options: &'a Options,
    progress: &'a Progress,
    memory: Option<Memory<'a>>,
    /// The walk counts the root, not a partition.
    whole: bool,
    /// One for each thread.
    buffers: Mutex<Vec<&'a mut [u8]>>,
    pool: Pool<S::Directory>,
    truncated: AtomicBool,
    steps: AtomicU64,
    /// The root.
    top: Arc<Open<S::Directory>>,
    /// Directories that are open.
    open: Arc<AtomicUsize>,
    first_errors: Mutex<Vec<String>>,
    root_error: Mutex<Option<io::Error>>,
}

/// Ends the walk when its thread panics; otherwise the other threads would wait forever.
struct StopOnPanic<'a, 'b, S: Source>(&'a Walking<'b, S>);

impl<S: Source> Drop for StopOnPanic<'_, '_, S> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.pool.stop();
        }
    }
}

impl<S: Source> Walking<'_, S> {
    fn work<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>) {
        let _guard = StopOnPanic(self);
        let Some(buffer) = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
        let mut had_one = false;
        while let Some(job) = self.next(scope, had_one) {
            self.perform(job, buffer);
            had_one = true;
        }
    }

    fn next<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>, had_one: bool) -> Option<Job<S::Directory>> {
        self.stopping();
        self.pool.next(had_one, || {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            // With fewer threads the walk is slower and still correct.
            let _ = thread.spawn_scoped(scope, move || self.work(scope));
        })
    }

    /// Whether the budget is used up. Never before the first step, so that every walk makes progress.
    fn stopping(&self) -> bool {
        if self.pool.is_stopped() {
            return true;
        }
        let steps = self.steps.load(Ordering::Relaxed);
        let over = steps > 0
            && (self.options.steps.is_some_and(|most| steps >= most)
                || self.options.until.is_some_and(|until| Instant::now() >= until));
        if over {
            self.pool.stop();
        }
        over
    }

    fn perform(&self, job: Job<S::Directory>, buffer: &mut [u8]) {
        match job {
            Job::ResumePoint(node, place) => self.place(&node, place, buffer),
            Job::PartialDirectory(rest) => self.rest(rest, buffer),
            Job::Name { of, directory, kind: Kind::Directory, name } => {
                self.directory(&of, directory.as_deref(), name, buffer);
            }
            Job::Name { of, directory, kind, name } => self.stat_entry(&of, directory, kind, name, buffer),
        }
    }

    /// A resume point that this walk was given.
    fn place(&self, node: &Arc<Node>, place: ResumePoint, buffer: &mut [u8]) {
        let directory = match self.open_path(node) {
            Ok(directory) => directory,
            Err(err) if self.whole => return self.root_failed(err),
            Err(err) => return self.error(node, None, &format!("it was there before, and now: {err}")),
        };
        if place.is_whole() {
            return match self.unchanged(node, || self.source.stamp(&directory.directory, None)) {
                Some(names) => self.pool.push(self.waiting(node, &directory, names)),
                None => self.begin(node, directory, buffer),
            };
        }
        let directories = place.directories.0.into_iter().map(|name| (Kind::Directory, name));
        let names = directories.chain(place.unknown.0.into_iter().map(|name| (Kind::Unknown, name))).collect();
        let waiting = self.waiting(node, &directory, names);
        let Some(Position { cookie, inode }) = place.from else { return self.pool.push(waiting) };
        if self.resume_at(&directory, inode, cookie).is_err() {
            self.error(node, None, "it is not the directory that it was, and cannot be gone on with");
            return self.pool.push(waiting);
        }
        self.push_rest(node, directory, (vec![], 0), cookie, waiting);
    }

    /// An entry of unknown type, or a link to follow.
    fn stat_entry(
        &self,
        of: &Arc<Node>,
        directory: Option<Arc<Open<S::Directory>>>,
        kind: Kind,
        name: CString,
        buffer: &mut [u8],
    ) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.add(of, Counts { steps: 1, ..Counts::default() });
        let directory = match directory.map_or_else(|| self.open_path(of), Ok) {
            Ok(directory) => directory,
            Err(err) if gone(&err) => return,
            Err(err) => return self.error(of, Some(&name), &err),
        };
        let kind = match kind {
            Kind::Unknown => self.source.kind(&directory.directory, &name, false),
            known => Ok(known),
        };
        let leads_to = match kind {
            Ok(Kind::Link) if self.options.follow_file_symlinks => {
                // A link to anything but a regular file does not count.
                match self.source.kind(&directory.directory, &name, true) {
                    Ok(Kind::File) => Ok(Kind::File),
                    Err(err) if !gone(&err) && !is(&err, libc::ELOOP) => Err(err),
                    _ => Ok(Kind::Other),
                }
            }
            other => other,
        };
        match leads_to {
            Ok(Kind::File) => {
                self.add(of, Counts { files: 1, ..Counts::default() });
                of.found(1, []);
            }
            Ok(Kind::Directory) => {
                of.found(0, [&name]);
                self.directory(of, Some(&directory), name, buffer);
            }
            Ok(_) => {}
            Err(err) if gone(&err) => {}
            Err(err) if self.is_other_file_system(&err) => {
                self.add(of, Counts { other_file_systems: 1, ..Counts::default() });
                // The next walk asks again about this entry.
                of.found(0, [&name]);
            }
            Err(err) => {
                self.error(of, Some(&name), &err);
                of.mark_uncacheable();
            }
        }
    }

    fn directory(&self, of: &Arc<Node>, parent: Option<&Open<S::Directory>>, name: CString, buffer: &mut [u8]) {
        let record = self.memory.as_ref().map(|memory| memory.child(of, &name));
        let node = Arc::new(Node::child(of, name, record));
        let unchanged =
            parent.and_then(|parent| self.unchanged(&node, || self.source.stamp(&parent.directory, Some(node.name()))));
        if unchanged.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        match (self.open(&node, parent), unchanged) {
            (Err(err), _) => self.not_opened(&node, &err),
            (Ok(directory), Some(names)) => self.pool.push(self.waiting(&node, &directory, names)),
            (Ok(directory), None) => self.begin(&node, directory, buffer),
        }
    }

    /// The subdirectories of an unchanged directory, which is counted without a read.
    fn unchanged(&self, node: &Arc<Node>, stamp: impl FnOnce() -> io::Result<Stamp>) -> Option<Vec<(Kind, CString)>> {
        let (files, directories) = self.memory.as_ref()?.unchanged(node, stamp)?;
        // It counts as a read for the budget.
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.add(node, Counts { files, directories: 1, unchanged: 1, steps: 1, ..Counts::default() });
        Some(directories.into_iter().map(|name| (Kind::Directory, name)).collect())
    }

    /// Reads a directory from its start.
    fn begin(&self, node: &Arc<Node>, directory: Arc<Open<S::Directory>>, buffer: &mut [u8]) {
        if let Some(memory) = &self.memory {
            // Taken before the first read, so that the next walk sees every change from here on.
            memory.begin(node, self.source.stamp(&directory.directory, None).ok());
        }
        self.read(node, directory, vec![], 0, buffer);
    }

    fn rest(&self, rest: PartialDirectory<S::Directory>, buffer: &mut [u8]) {
        let PartialDirectory { node, directory, inode, records, seen, mut cookie } = rest;
        let directory = match directory.map_or_else(|| self.open_at(&node, inode, cookie), Ok) {
            Ok(directory) => directory,
            Err(err) => return self.not_opened(&node, &err),
        };
        let mut names = Vec::new();
        match self.scan(&node, &directory, &records[seen..], &mut names, &mut cookie) {
            Err(err) => self.not_read(&node, &directory, names, cookie, &err),
            Ok(left) if left > 0 => {
                let waiting = self.waiting(&node, &directory, names);
                let seen = records.len() - left;
                self.push_rest(&node, directory, (records, seen), cookie, waiting);
            }
            Ok(_) => self.read(&node, directory, names, cookie, buffer),
        }
    }

    /// Reads a directory until its end, or until there are names that other threads can take.
    fn read(
        &self,
        node: &Arc<Node>,
        mut directory: Arc<Open<S::Directory>>,
        mut names: Vec<(Kind, CString)>,
        mut cookie: i64,
        buffer: &mut [u8],
    ) {
        let (mut records, mut reopened, mut share) = (vec![], false, false);
        loop {
            if share || self.stopping() {
                let waiting = self.waiting(node, &directory, names);
                return self.push_rest(node, directory, (records, 0), cookie, waiting);
            }
            let resumed = directory.resumed.swap(false, Ordering::Relaxed) && self.source.needs_readdirplus_hints();
            let room = if resumed { FIRST_READ_BYTES.min(buffer.len()) } else { buffer.len() };
            let filled = match self.source.read(&directory.directory, &mut buffer[..room]) {
                Ok(filled) => filled,
                Err(err) if is(&err, libc::ESTALE) && !reopened => {
                    reopened = true;
                    match self.open_at(node, directory.inode.load(Ordering::Relaxed), cookie) {
                        Ok(again) => directory = again,
                        Err(err) => return self.not_read(node, &directory, names, cookie, &err),
                    }
                    continue;
                }
                Err(err) => return self.not_read(node, &directory, names, cookie, &err),
            };
            self.steps.fetch_add(1, Ordering::Relaxed);
            if filled == 0 {
                self.add(node, Counts { directories: 1, steps: 1, ..Counts::default() });
                return self.pool.push(self.waiting(node, &directory, names));
            }
            let full = self.source.goes_on(filled, buffer.len());
            if resumed || (full && self.source.needs_readdirplus_hints()) {
                self.trigger_readdirplus(&directory.directory, &buffer[..filled]);
            }
            let left = match self.scan(node, &directory, &buffer[..filled], &mut names, &mut cookie) {
                Ok(left) => left,
                Err(err) => return self.not_read(node, &directory, names, cookie, &err),
            };
            if left == 0 && self.source.ends(&directory.directory, cookie) {
                self.add(node, Counts { directories: 1, steps: 1, ..Counts::default() });
                return self.pool.push(self.waiting(node, &directory, names));
            }
            self.add(node, Counts { steps: 1, ..Counts::default() });
            records = buffer[filled - left..filled].to_vec();
            share = names.len() >= MAX_QUEUED_NAMES_PER_DIRECTORY || (full && !names.is_empty());
        }
    }

    /// Counts these records until enough entries must be visited. Returns the number of bytes left.
    fn scan(
        &self,
        node: &Node,
        directory: &Open<S::Directory>,
        records: &[u8],
        names: &mut Vec<(Kind, CString)>,
        cookie: &mut i64,
    ) -> io::Result<usize> {
        let (mut files, first) = (0, names.len());
        let mut entries = Entries::new(records);
        let mut outcome = Ok(());
        for entry in entries.by_ref() {
            match entry.and_then(|entry| Ok((entry, self.to_visit(directory, &entry)?))) {
                Ok((entry, name)) => {
                    files += u64::from(entry.kind == Kind::File);
                    *cookie = entry.cookie;
                    names.extend(name);
                }
                Err(err) => outcome = Err(err),
            }
            if names.len() >= MAX_QUEUED_NAMES_PER_DIRECTORY || outcome.is_err() {
                break;
            }
        }
        self.add(node, Counts { files, ..Counts::default() });
        let directories = names[first..].iter().filter(|(kind, _)| *kind == Kind::Directory);
        node.found(files, directories.map(|(_, name)| name));
        outcome.map(|()| entries.left().len())
    }

    /// The entry's name if it must be visited.
    #[inline]
    fn to_visit(&self, directory: &Open<S::Directory>, entry: &Entry<'_>) -> io::Result<Option<(Kind, CString)>> {
        match entry.kind {
            Kind::File | Kind::Other => return Ok(None),
            Kind::Link if !self.options.follow_file_symlinks => return Ok(None),
            Kind::Link | Kind::Directory | Kind::Unknown => {}
        }
        let name = entry.name()?;
        match name.to_bytes() {
            b"." => directory.inode.store(entry.inode, Ordering::Relaxed),
            b".." => {}
            _ => return Ok(Some((entry.kind, name.to_owned()))),
        }
        Ok(None)
    }

    /// Stats some entries, so that the next read returns types.
    fn trigger_readdirplus(&self, directory: &S::Directory, records: &[u8]) {
        let some = Entries::new(records).flatten().filter(|entry| matches!(entry.kind, Kind::File | Kind::Unknown));
        for name in some.take(READDIRPLUS_HINTS).flat_map(|entry| entry.name()) {
            self.source.look(directory, name);
        }
    }

    /// The task for the entries to visit in a directory; `None` without such entries.
    fn waiting(
        &self,
        of: &Arc<Node>,
        directory: &Arc<Open<S::Directory>>,
        names: Vec<(Kind, CString)>,
    ) -> Option<Task<S::Directory>> {
        let directory = (!self.fd_budget_exceeded()).then(|| Arc::clone(directory));
        (!names.is_empty()).then(|| Task::Names(Names { of: Arc::clone(of), directory, names }))
    }

    /// Queued tasks may hold half of the descriptors; the other half is for reads in progress.
    fn fd_budget_exceeded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.source.most_open() / 2
    }

    /// Pushes a partly read directory onto the stack, below its queued names.
    fn push_rest(
        &self,
        node: &Arc<Node>,
        directory: Arc<Open<S::Directory>>,
        (mut records, mut seen): (Vec<u8>, usize),
        cookie: i64,
        waiting: Option<Task<S::Directory>>,
    ) {
        let inode = directory.inode.load(Ordering::Relaxed);
        let mut held = Some(directory);
        // Records that were read but not counted are read again then.
        if self.fd_budget_exceeded()
            && cookie != 0
            && let Some(directory) = &held
            && self.source.identity(&directory.directory).is_ok_and(|now| now == Identity { inode, resumable: true })
        {
            (held, records, seen) = (None, vec![], 0);
        }
        let rest = PartialDirectory { node: Arc::clone(node), directory: held, inode, records, seen, cookie };
        self.pool.push([Task::PartialDirectory(rest)].into_iter().chain(waiting));
    }

    fn opened(&self, directory: S::Directory) -> Arc<Open<S::Directory>> {
        Open::new(directory, &self.open)
    }

    /// Opens a directory in its parent. If the parent is not open or has become stale, opens it from the root down.
    fn open(&self, node: &Node, parent: Option<&Open<S::Directory>>) -> io::Result<Arc<Open<S::Directory>>> {
        let Some(parent) = parent else { return self.open_path(node) };
        match self.retry_on_emfile(|| self.source.open(&parent.directory, node.name())) {
            Err(err) if is(&err, libc::ESTALE) => self.open_path(node),
            other => other.map(|directory| self.opened(directory)),
        }
    }

    /// Opens a directory from the root down, name by name, without following links.
    fn open_path(&self, node: &Node) -> io::Result<Arc<Open<S::Directory>>> {
        node.names().into_iter().try_fold(Arc::clone(&self.top), |above, name| {
            self.retry_on_emfile(|| self.source.open(&above.directory, name)).map(|directory| self.opened(directory))
        })
    }

    /// Retries while the process has no descriptor left: other threads will close theirs.
    fn retry_on_emfile<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for tries in 0..MAX_DESCRIPTOR_TRIES {
            match open() {
                Err(err) if is(&err, libc::EMFILE) || is(&err, libc::ENFILE) => {
                    thread::sleep(Duration::from_millis(1 << tries));
                }
                other => return other,
            }
        }
        open()
    }

    /// Opens a directory from the root down, to resume reading it.
    fn open_at(&self, node: &Node, inode: u64, cookie: i64) -> io::Result<Arc<Open<S::Directory>>> {
        let directory = self.open_path(node)?;
        if cookie != 0 {
            self.resume_at(&directory, inode, cookie)?;
        }
        Ok(directory)
    }

    /// # Errors
    /// `ESTALE`: it is not the directory of the cookie, or its cookies are not stable.
    fn resume_at(&self, directory: &Open<S::Directory>, inode: u64, cookie: i64) -> io::Result<()> {
        let now = self.source.identity(&directory.directory)?;
        if now != (Identity { inode, resumable: true }) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        directory.inode.store(inode, Ordering::Relaxed);
        directory.resumed.store(true, Ordering::Relaxed);
        self.source.seek(&directory.directory, cookie)
    }

    /// Whether it is on another file system and the walk stays on one.
    fn is_other_file_system(&self, err: &io::Error) -> bool {
        self.options.one_file_system && err.kind() == io::ErrorKind::CrossesDevices
    }

    fn not_opened(&self, node: &Node, err: &io::Error) {
        if gone(err) {
            self.add(node, Counts { vanished: 1, ..Counts::default() });
        } else if self.is_other_file_system(err) {
            self.add(node, Counts { other_file_systems: 1, ..Counts::default() });
        } else {
            self.error(node, None, err);
        }
    }

    /// A directory that cannot be read to its end, where a retry may never end. The entries read so far are visited.
    fn not_read(
        &self,
        node: &Arc<Node>,
        directory: &Arc<Open<S::Directory>>,
        names: Vec<(Kind, CString)>,
        cookie: i64,
        err: &io::Error,
    ) {
        node.mark_uncacheable();
        let vanished = gone(err) || (is(err, libc::ESTALE) && self.open_path(node).is_err_and(|err| gone(&err)));
        if self.whole && node.is_root() && cookie == 0 {
            let again = io::Error::new(err.kind(), err.to_string());
            return self.root_failed(err.raw_os_error().map_or(again, io::Error::from_raw_os_error));
        }
        match vanished {
            true => self.add(node, Counts { vanished: 1, ..Counts::default() }),
            // Some sources open a directory only when they read it.
            false => self.not_opened(node, err),
        }
        self.pool.push(self.waiting(node, directory, names));
    }

    fn root_failed(&self, err: io::Error) {
        *self.root_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(err);
        self.pool.stop();
    }

    fn add(&self, node: &Node, counts: Counts) {
        node.add(counts);
        let files = self.progress.files.fetch_add(counts.files, Ordering::Relaxed) + counts.files;
        self.progress.directories.fetch_add(counts.directories, Ordering::Relaxed);
        self.progress.errors.fetch_add(counts.errors, Ordering::Relaxed);
        if self.options.stop_above.is_some_and(|most| files > most) && !self.truncated.swap(true, Ordering::Relaxed) {
            self.pool.stop();
        }
    }

    /// Records that this directory, or an entry in it, could not be read.
    fn error(&self, node: &Node, name: Option<&CStr>, err: &(impl Display + ?Sized)) {
        self.add(node, Counts { errors: 1, ..Counts::default() });
        let mut told = self.first_errors.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_REPORTED_ERRORS {
            let names = node.names().into_iter().chain(name);
            let path = names.map(CStr::to_bytes).collect::<Vec<_>>().join(&b'/');
            let path = if path.is_empty() { b".".to_vec() } else { path };
            let escaped = path.escape_ascii().take(MAX_REPORTED_PATH_BYTES).map(char::from);
            told.push(format!("{}: {err}", escaped.collect::<String>()));
        }
    }
}
