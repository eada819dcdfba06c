//! The walk: what is done with a directory, and with what is in it.

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
    Counted, Options, Progress, TOLD_ERRORS,
    cache::{Cache, Memory},
    dents::{Entries, Entry, Kind},
    frontier::{Frontier, Partition, Place, Position},
    node::{Node, Record, Tally},
    pool::{Job, Names, Open, Pool, Rest, Task},
    source::{Identity, Source, Stamp},
};

/// Frames are small, and a page that is not touched costs nothing.
const STACK_BYTES: usize = 256 << 10;
/// So many names of one directory wait at once; the rest of it is read when they have been taken. It bounds
/// what is in memory, and what has to be handed back when a walk is stopped.
const NAMES: usize = 256;
/// So many entries are looked at after each read that another one follows, where the source wants it: Linux
/// 5.10 needs 1, 6.1 more than 8.
const LOOKS: usize = 10;
/// Bytes of the first read of a directory that is gone on with, where the source wants looks: it tells no
/// kinds then, and the fewer entries it tells so the fewer have to be looked at.
pub(crate) const FIRST_READ: usize = 4096;
/// A path in an error, escaped, is cut after this many bytes.
const TOLD_BYTES: usize = 200;
/// How often a directory is tried again that could not be opened for want of a descriptor; each time after
/// twice as long.
const DESCRIPTOR_TRIES: u32 = 10;

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
    // Each may hold a directory and open another from the root down.
    let threads = options.threads.min(source.most_open() / 4).max(1);
    // In one piece: so much comes as pages that take no memory until they are touched. Piece by piece the
    // allocator would give used memory to a late thread, and clear it first.
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
        cut_short: AtomicBool::new(false),
        steps: AtomicU64::new(0),
        top,
        open,
        first_errors: Mutex::default(),
        root_error: Mutex::default(),
    };
    let places = partition.places().iter().rev();
    let record = || walk.memory.as_ref().map(Memory::root);
    walk.pool.push(places.map(|place| Task::Place(given(&root, place, record()), place.clone())));
    thread::scope(|scope| walk.work(scope));

    let Walking { memory, pool, cut_short, first_errors, root_error, .. } = walk;
    if let Some(why) = unlocked(root_error) {
        return Err(why);
    }
    let (mut stack, mut cut_short) = (pool.into_tasks(), cut_short.into_inner());
    let cache = memory.filter(|_| stack.is_empty() && !cut_short).and_then(Memory::into_cache);
    if cut_short {
        // Nobody goes on with these: the directories give what was counted in them to the root.
        stack.clear();
    }
    let (mut rest, taken_back) = frontier(source, stack).partitions(options.partitions, options.partition_bytes);
    let mut tally = root.tally();
    if rest.is_empty() || tally.steps > taken_back.steps {
        tally -= taken_back;
    } else {
        // Nothing of this walk would stay, and the next one would come no further.
        (rest, cut_short) = (vec![], true);
    }
    Ok(Counted {
        files: tally.files,
        directories: tally.directories,
        vanished: tally.vanished,
        other_file_systems: tally.other_file_systems,
        unchanged: tally.unchanged,
        errors: tally.errors,
        first_errors: unlocked(first_errors),
        rest,
        cut_short,
        foreign_cache,
        cache,
        time: Duration::ZERO,
    })
}

fn unlocked<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The node of a place, with nodes on the way to it.
fn given(root: &Arc<Node>, place: &Place, record: Option<Box<Record>>) -> Arc<Node> {
    let (last, above) = place.path.0.split_last().map_or((c"", &[][..]), |(last, above)| (last, above));
    let parent = above.iter().fold(Arc::clone(root), |parent, name| Arc::new(Node::child(&parent, name.clone(), None)));
    Arc::new(Node::given(&parent, last.to_owned(), place.clone(), record))
}

/// What the tasks that nobody has begun with are, as places.
fn frontier<S: Source>(source: &S, stack: Vec<Task<S::Directory>>) -> Frontier {
    let mut frontier = Frontier::default();
    for task in stack {
        match task {
            Task::Place(node, place) => frontier.untouched(&node, place),
            Task::Names(Names { of, names, .. }) => {
                for (kind, name) in names {
                    frontier.name(&of, kind, name);
                }
            }
            Task::Rest(Rest { node, directory: None, inode, cookie, .. }) => {
                frontier.from(&node, Position { cookie, inode });
            }
            Task::Rest(Rest { node, directory: Some(directory), cookie, .. }) => {
                match source.identity(&directory.directory) {
                    Ok(found) if found.resumable && cookie != 0 => {
                        frontier.from(&node, Position { cookie, inode: found.inode });
                    }
                    _ => frontier.anew(&node),
                }
            }
        }
    }
    frontier
}

struct Walking<'a, S: Source> {
    source: &'a S,
    options: &'a Options,
    progress: &'a Progress,
    memory: Option<Memory<'a>>,
    /// The root is what is counted, not places below it that another walk has found.
    whole: bool,
    /// One for each thread.
    buffers: Mutex<Vec<&'a mut [u8]>>,
    pool: Pool<S::Directory>,
    cut_short: AtomicBool,
    steps: AtomicU64,
    /// The root.
    top: Arc<Open<S::Directory>>,
    /// Directories that are open.
    open: Arc<AtomicUsize>,
    first_errors: Mutex<Vec<String>>,
    root_error: Mutex<Option<io::Error>>,
}

/// Ends the walk when its thread panics: the others would wait for it for ever.
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
            // Without another thread the walk is slower, and just as right.
            let _ = thread.spawn_scoped(scope, move || self.work(scope));
        })
    }

    /// Has the budget ended? Never before the first step: every walk comes further.
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
            Job::Place(node, place) => self.place(&node, place, buffer),
            Job::Rest(rest) => self.rest(rest, buffer),
            Job::Name { of, directory, kind: Kind::Directory, name } => {
                self.directory(&of, directory.as_deref(), name, buffer);
            }
            Job::Name { of, directory, kind, name } => self.look_at(&of, directory, kind, name, buffer),
        }
    }

    /// A place that this walk was given.
    fn place(&self, node: &Arc<Node>, place: Place, buffer: &mut [u8]) {
        let directory = match self.open_path(node) {
            Ok(directory) => directory,
            Err(why) if self.whole => return self.root_failed(why),
            Err(why) => return self.error(node, None, &format!("it was there before, and now: {why}")),
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
        if self.go_on(&directory, inode, cookie).is_err() {
            self.error(node, None, "it is not the directory that it was, and cannot be gone on with");
            return self.pool.push(waiting);
        }
        self.push_rest(node, directory, (vec![], 0), cookie, waiting);
    }

    /// An entry of a kind that is not known yet, or a link that is to be followed.
    fn look_at(
        &self,
        of: &Arc<Node>,
        directory: Option<Arc<Open<S::Directory>>>,
        kind: Kind,
        name: CString,
        buffer: &mut [u8],
    ) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.add(of, Tally { steps: 1, ..Tally::default() });
        let directory = match directory.map_or_else(|| self.open_path(of), Ok) {
            Ok(directory) => directory,
            Err(why) if gone(&why) => return,
            Err(why) => return self.error(of, Some(&name), &why),
        };
        let kind = match kind {
            Kind::Unknown => self.source.kind(&directory.directory, &name, false),
            known => Ok(known),
        };
        let leads_to = match kind {
            Ok(Kind::Link) if self.options.follow_file_symlinks => {
                // What is no file behind a link is nothing.
                match self.source.kind(&directory.directory, &name, true) {
                    Ok(Kind::File) => Ok(Kind::File),
                    Err(why) if !gone(&why) && !is(&why, libc::ELOOP) => Err(why),
                    _ => Ok(Kind::Other),
                }
            }
            other => other,
        };
        match leads_to {
            Ok(Kind::File) => {
                self.add(of, Tally { files: 1, ..Tally::default() });
                of.found(1, []);
            }
            Ok(Kind::Directory) => {
                of.found(0, [&name]);
                self.directory(of, Some(&directory), name, buffer);
            }
            Ok(_) => {}
            Err(why) if gone(&why) => {}
            Err(why) if self.is_elsewhere(&why) => {
                self.add(of, Tally { other_file_systems: 1, ..Tally::default() });
                // The next walk asks again.
                of.found(0, [&name]);
            }
            Err(why) => {
                self.error(of, Some(&name), &why);
                of.distrust();
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
            (Err(why), _) => self.not_opened(&node, &why),
            (Ok(directory), Some(names)) => self.pool.push(self.waiting(&node, &directory, names)),
            (Ok(directory), None) => self.begin(&node, directory, buffer),
        }
    }

    /// The directories in this one, if it need not be read, and then it is counted.
    fn unchanged(&self, node: &Arc<Node>, stamp: impl FnOnce() -> io::Result<Stamp>) -> Option<Vec<(Kind, CString)>> {
        let (files, directories) = self.memory.as_ref()?.unchanged(node, stamp)?;
        // For the budget it is as good as read.
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.add(node, Tally { files, directories: 1, unchanged: 1, steps: 1, ..Tally::default() });
        Some(directories.into_iter().map(|name| (Kind::Directory, name)).collect())
    }

    /// Reads a directory from its beginning.
    fn begin(&self, node: &Arc<Node>, directory: Arc<Open<S::Directory>>, buffer: &mut [u8]) {
        if let Some(memory) = &self.memory {
            // Before the first read: what changes from here on is seen the next time.
            memory.begin(node, self.source.stamp(&directory.directory, None).ok());
        }
        self.read(node, directory, vec![], 0, buffer);
    }

    fn rest(&self, rest: Rest<S::Directory>, buffer: &mut [u8]) {
        let Rest { node, directory, inode, records, seen, mut cookie } = rest;
        let directory = match directory.map_or_else(|| self.open_at(&node, inode, cookie), Ok) {
            Ok(directory) => directory,
            Err(why) => return self.not_opened(&node, &why),
        };
        let mut names = Vec::new();
        match self.scan(&node, &directory, &records[seen..], &mut names, &mut cookie) {
            Err(why) => self.not_read(&node, &directory, names, cookie, &why),
            Ok(left) if left > 0 => {
                let waiting = self.waiting(&node, &directory, names);
                let seen = records.len() - left;
                self.push_rest(&node, directory, (records, seen), cookie, waiting);
            }
            Ok(_) => self.read(&node, directory, names, cookie, buffer),
        }
    }

    /// Reads a directory on, until its end, or until there are names that somebody else may take.
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
            let resumed = directory.resumed.swap(false, Ordering::Relaxed) && self.source.wants_looks();
            let room = if resumed { FIRST_READ.min(buffer.len()) } else { buffer.len() };
            let filled = match self.source.read(&directory.directory, &mut buffer[..room]) {
                Ok(filled) => filled,
                Err(why) if is(&why, libc::ESTALE) && !reopened => {
                    reopened = true;
                    match self.open_at(node, directory.inode.load(Ordering::Relaxed), cookie) {
                        Ok(again) => directory = again,
                        Err(why) => return self.not_read(node, &directory, names, cookie, &why),
                    }
                    continue;
                }
                Err(why) => return self.not_read(node, &directory, names, cookie, &why),
            };
            self.steps.fetch_add(1, Ordering::Relaxed);
            if filled == 0 {
                self.add(node, Tally { directories: 1, steps: 1, ..Tally::default() });
                return self.pool.push(self.waiting(node, &directory, names));
            }
            let full = self.source.goes_on(filled, buffer.len());
            if resumed || (full && self.source.wants_looks()) {
                self.keep_telling(&directory.directory, &buffer[..filled]);
            }
            let left = match self.scan(node, &directory, &buffer[..filled], &mut names, &mut cookie) {
                Ok(left) => left,
                Err(why) => return self.not_read(node, &directory, names, cookie, &why),
            };
            if left == 0 && self.source.ends(&directory.directory, cookie) {
                self.add(node, Tally { directories: 1, steps: 1, ..Tally::default() });
                return self.pool.push(self.waiting(node, &directory, names));
            }
            self.add(node, Tally { steps: 1, ..Tally::default() });
            records = buffer[filled - left..filled].to_vec();
            share = names.len() >= NAMES || (full && !names.is_empty());
        }
    }

    /// Counts these records, until enough of them have to be visited. Gives how many bytes of them are left.
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
                Err(why) => outcome = Err(why),
            }
            if names.len() >= NAMES || outcome.is_err() {
                break;
            }
        }
        self.add(node, Tally { files, ..Tally::default() });
        let directories = names[first..].iter().filter(|(kind, _)| *kind == Kind::Directory);
        node.found(files, directories.map(|(_, name)| name));
        outcome.map(|()| entries.left().len())
    }

    /// The entry's name, if somebody has to go there.
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

    /// Looks at some entries, so that the next read tells kinds too.
    fn keep_telling(&self, directory: &S::Directory, records: &[u8]) {
        let some = Entries::new(records).flatten().filter(|entry| matches!(entry.kind, Kind::File | Kind::Unknown));
        for name in some.take(LOOKS).flat_map(|entry| entry.name()) {
            self.source.look(directory, name);
        }
    }

    /// What is to be visited in a directory, as a task; none when nothing is.
    fn waiting(
        &self,
        of: &Arc<Node>,
        directory: &Arc<Open<S::Directory>>,
        names: Vec<(Kind, CString)>,
    ) -> Option<Task<S::Directory>> {
        let directory = (!self.crowded()).then(|| Arc::clone(directory));
        (!names.is_empty()).then(|| Task::Names(Names { of: Arc::clone(of), directory, names }))
    }

    /// What waits may hold half of what may be open: the other half is for what is being read.
    fn crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.source.most_open() / 2
    }

    /// Puts a directory that is read in part on the stack, below the names in it that wait.
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
        // What has been read and not looked at is read again then.
        if self.crowded()
            && cookie != 0
            && let Some(directory) = &held
            && self.source.identity(&directory.directory).is_ok_and(|now| now == Identity { inode, resumable: true })
        {
            (held, records, seen) = (None, vec![], 0);
        }
        let rest = Rest { node: Arc::clone(node), directory: held, inode, records, seen, cookie };
        self.pool.push([Task::Rest(rest)].into_iter().chain(waiting));
    }

    fn opened(&self, directory: S::Directory) -> Arc<Open<S::Directory>> {
        Open::new(directory, &self.open)
    }

    /// Opens a directory in its parent, or where that is not open, or turned stale, from the root down.
    fn open(&self, node: &Node, parent: Option<&Open<S::Directory>>) -> io::Result<Arc<Open<S::Directory>>> {
        let Some(parent) = parent else { return self.open_path(node) };
        match self.patiently(|| self.source.open(&parent.directory, node.name())) {
            Err(why) if is(&why, libc::ESTALE) => self.open_path(node),
            other => other.map(|directory| self.opened(directory)),
        }
    }

    /// Opens a directory from the root down, one name after the other, through no link.
    fn open_path(&self, node: &Node) -> io::Result<Arc<Open<S::Directory>>> {
        node.names().into_iter().try_fold(Arc::clone(&self.top), |above, name| {
            self.patiently(|| self.source.open(&above.directory, name)).map(|directory| self.opened(directory))
        })
    }

    /// Tries again what fails for want of a descriptor: others will close theirs.
    fn patiently<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for tries in 0..DESCRIPTOR_TRIES {
            match open() {
                Err(why) if is(&why, libc::EMFILE) || is(&why, libc::ENFILE) => {
                    thread::sleep(Duration::from_millis(1 << tries));
                }
                other => return other,
            }
        }
        open()
    }

    /// Opens a directory from the root down, to go on where it was.
    fn open_at(&self, node: &Node, inode: u64, cookie: i64) -> io::Result<Arc<Open<S::Directory>>> {
        let directory = self.open_path(node)?;
        if cookie != 0 {
            self.go_on(&directory, inode, cookie)?;
        }
        Ok(directory)
    }

    /// # Errors
    /// `ESTALE`: it is not the directory that the cookie is of, or its cookies do not hold.
    fn go_on(&self, directory: &Open<S::Directory>, inode: u64, cookie: i64) -> io::Result<()> {
        let now = self.source.identity(&directory.directory)?;
        if now != (Identity { inode, resumable: true }) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        directory.inode.store(inode, Ordering::Relaxed);
        directory.resumed.store(true, Ordering::Relaxed);
        self.source.seek(&directory.directory, cookie)
    }

    /// Is it on a file system that was not asked for?
    fn is_elsewhere(&self, why: &io::Error) -> bool {
        self.options.one_file_system && why.kind() == io::ErrorKind::CrossesDevices
    }

    fn not_opened(&self, node: &Node, why: &io::Error) {
        if gone(why) {
            self.add(node, Tally { vanished: 1, ..Tally::default() });
        } else if self.is_elsewhere(why) {
            self.add(node, Tally { other_file_systems: 1, ..Tally::default() });
        } else {
            self.error(node, None, why);
        }
    }

    /// A directory that cannot be read to its end: asking again may never end. What it has told is visited.
    fn not_read(
        &self,
        node: &Arc<Node>,
        directory: &Arc<Open<S::Directory>>,
        names: Vec<(Kind, CString)>,
        cookie: i64,
        why: &io::Error,
    ) {
        node.distrust();
        let vanished = gone(why) || (is(why, libc::ESTALE) && self.open_path(node).is_err_and(|why| gone(&why)));
        if self.whole && node.is_root() && cookie == 0 {
            let again = io::Error::new(why.kind(), why.to_string());
            return self.root_failed(why.raw_os_error().map_or(again, io::Error::from_raw_os_error));
        }
        match vanished {
            true => self.add(node, Tally { vanished: 1, ..Tally::default() }),
            // A source may open a directory only when it reads it.
            false => self.not_opened(node, why),
        }
        self.pool.push(self.waiting(node, directory, names));
    }

    fn root_failed(&self, why: io::Error) {
        *self.root_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.pool.stop();
    }

    fn add(&self, node: &Node, tally: Tally) {
        node.add(tally);
        let files = self.progress.files.fetch_add(tally.files, Ordering::Relaxed) + tally.files;
        self.progress.directories.fetch_add(tally.directories, Ordering::Relaxed);
        self.progress.errors.fetch_add(tally.errors, Ordering::Relaxed);
        if self.options.stop_above.is_some_and(|most| files > most) && !self.cut_short.swap(true, Ordering::Relaxed) {
            self.pool.stop();
        }
    }

    /// Something in this directory, or the directory itself, that could not be read.
    fn error(&self, node: &Node, name: Option<&CStr>, why: &(impl Display + ?Sized)) {
        self.add(node, Tally { errors: 1, ..Tally::default() });
        let mut told = self.first_errors.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_ERRORS {
            let names = node.names().into_iter().chain(name);
            let path = names.map(CStr::to_bytes).collect::<Vec<_>>().join(&b'/');
            let path = if path.is_empty() { b".".to_vec() } else { path };
            let escaped = path.escape_ascii().take(TOLD_BYTES).map(char::from);
            told.push(format!("{}: {why}", escaped.collect::<String>()));
        }
    }
}

/// What was there when its parent was read, and is not any more.
fn gone(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is(why: &io::Error, number: i32) -> bool {
    why.raw_os_error() == Some(number)
}
