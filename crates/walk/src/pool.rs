//! The tasks of a walk, and the threads that do them.

use std::{
    ffi::CString,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{getdents::Kind, node::Node, partition::ResumePoint};

/// A task that no thread has started.
pub(crate) enum Task<D> {
    ResumePoint(Arc<Node>, ResumePoint),
    Names(Names<D>),
    PartialDirectory(PartialDirectory<D>),
}

/// Queued entries of a directory: subdirectories, and entries to stat. Never empty.
pub(crate) struct Names<D> {
    pub of: Arc<Node>,
    /// `None` when too many are open; then they are opened from the root down.
    pub directory: Option<Arc<Open<D>>>,
    pub names: Vec<(Kind, CString)>,
}

/// A partly read directory.
pub(crate) struct PartialDirectory<D> {
    pub node: Arc<Node>,
    /// `None` when too many are open; then it is opened again, if it still has this inode.
    pub directory: Option<Arc<Open<D>>>,
    pub inode: u64,
    /// Records that have been read, and how many bytes of them are counted.
    pub records: Vec<u8>,
    pub seen: usize,
    /// Cookie of the first entry that is not counted.
    pub cookie: i64,
}

/// An open directory, counted in the number of open ones.
pub(crate) struct Open<D> {
    pub directory: D,
    /// The inode in its entry `.`; 0 until that has been read.
    pub inode: AtomicU64,
    /// It was just opened to resume in the middle.
    pub resumed: AtomicBool,
    number: Arc<AtomicUsize>,
}

impl<D> Open<D> {
    pub fn new(directory: D, number: &Arc<AtomicUsize>) -> Arc<Self> {
        number.fetch_add(1, Ordering::Relaxed);
        let (inode, resumed) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { directory, inode, resumed, number: Arc::clone(number) })
    }
}

impl<D> Drop for Open<D> {
    fn drop(&mut self) {
        self.number.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a thread does next.
pub(crate) enum Job<D> {
    ResumePoint(Arc<Node>, ResumePoint),
    Name { of: Arc<Node>, directory: Option<Arc<Open<D>>>, kind: Kind, name: CString },
    PartialDirectory(PartialDirectory<D>),
}

/// The tasks, and the threads that wait for one.
pub(crate) struct Pool<D> {
    state: Mutex<State<D>>,
    changed: Condvar,
    stop: AtomicBool,
    /// Maximum number of threads.
    most: usize,
}

struct State<D> {
    /// Last in, first out: deep before wide, so that little is queued.
    stack: Vec<Task<D>>,
    /// Threads with a job, which may push more.
    active: usize,
    /// Threads that wait for a job.
    idle: usize,
    /// All threads.
    threads: usize,
}

impl<D> Pool<D> {
    /// For this thread and at most so many in all.
    pub fn new(most: usize) -> Self {
        let state = State { stack: vec![], active: 0, idle: 0, threads: 1 };
        Self { state: Mutex::new(state), changed: Condvar::new(), stop: AtomicBool::new(false), most }
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts these on the stack: what is last in here is taken first. Whoever pushes asks for the next job
    /// soon, and wakes another then.
    pub fn push(&self, tasks: impl IntoIterator<Item = Task<D>>) {
        self.lock().stack.extend(tasks);
    }

    /// Waits for a job; `None` when there will be none. `had_one` is done. Wakes another thread when there are
    /// more jobs, or calls `start_another`.
    pub fn next(&self, had_one: bool, start_another: impl FnOnce()) -> Option<Job<D>> {
        let mut state = self.lock();
        state.active -= usize::from(had_one);
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(job) = state.take() {
                state.active += 1;
                let more = !state.stack.is_empty();
                if more && state.idle > 0 {
                    self.changed.notify_one();
                } else if more && state.threads < self.most {
                    state.threads += 1;
                    drop(state);
                    start_another();
                }
                return Some(job);
            }
            if state.active == 0 {
                self.changed.notify_all();
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// No thread gets another job.
    pub fn stop(&self) {
        // Under the lock, so that no thread starts to wait between the two.
        let _state = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What nobody has begun with.
    pub fn into_tasks(self) -> Vec<Task<D>> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).stack
    }
}

impl<D> State<D> {
    fn take(&mut self) -> Option<Job<D>> {
        if let Some(Task::Names(waiting)) = self.stack.last_mut()
            && waiting.names.len() > 1
            && let Some((kind, name)) = waiting.names.pop()
        {
            let (of, directory) = (Arc::clone(&waiting.of), waiting.directory.clone());
            return Some(Job::Name { of, directory, kind, name });
        }
        match self.stack.pop()? {
            Task::ResumePoint(node, place) => Some(Job::ResumePoint(node, place)),
            Task::PartialDirectory(rest) => Some(Job::PartialDirectory(rest)),
            Task::Names(Names { of, directory, mut names }) => {
                let (kind, name) = names.pop()?;
                Some(Job::Name { of, directory, kind, name })
            }
        }
    }
}
