//! A thread pool per target: a file system that hangs blocks the threads of its own pool only.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use files::{Error, Result};

/// Idle time after which a thread ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Jobs need little stack: they make system calls.
const STACK_BYTES: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// The pool of one target.
pub(crate) struct Pool {
    name: String,
    most_threads: usize,
    most_waiting: usize,
    deadline: Duration,
    state: Mutex<State>,
    work: Condvar,
}

/// A queued job.
struct Begun<T> {
    answer: oneshot::Receiver<Result<T>>,
    claimed: Arc<AtomicBool>,
    until: tokio::time::Instant,
}

impl<T> Begun<T> {
    /// Cancels a job that has not started. Returns whether it did.
    fn give_up(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }
}

fn panicked() -> Error {
    Error::Failed(std::io::Error::other("an operation ended unexpectedly; its thread has said why on stderr"))
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
    /// Number of sleeping threads.
    idle: usize,
    /// Number of threads that are about to take a job.
    looking: usize,
}

impl Pool {
    /// A pool with maximum numbers of threads (started on demand) and of waiting jobs, and the deadline of a job.
    pub fn new(name: String, most_threads: usize, most_waiting: usize, deadline: Duration) -> Arc<Self> {
        let (state, work) = (Mutex::default(), Condvar::new());
        Arc::new(Self { name, most_threads, most_waiting, deadline, state, work })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No job runs under this lock, so a panicking job does not poison it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` on a thread and waits for its result until the deadline.
    ///
    /// # Errors
    /// The error of the job; [`Error::Busy`]: the job was not started and never will be; [`Error::Deadline`]: the job still
    /// runs.
    pub fn run<T: Send + 'static, J: FnOnce() -> Result<T> + Send + 'static>(
        self: &Arc<Self>,
        job: J,
    ) -> impl Future<Output = Result<T>> + Send + use<T, J> {
        self.wait(self.begin(job, self.most_waiting))
    }

    /// Like [`Pool::run`], for a step of an upload in progress: not refused by the limit of waiting jobs. The number of
    /// uploads bounds these jobs.
    pub fn go_on<T: Send + 'static, J: FnOnce() -> Result<T> + Send + 'static>(
        self: &Arc<Self>,
        job: J,
    ) -> impl Future<Output = Result<T>> + Send + use<T, J> {
        self.wait(self.begin(job, usize::MAX / 2))
    }

    fn wait<T: Send + 'static>(&self, begun: Option<Begun<T>>) -> impl Future<Output = Result<T>> + Send + use<T> {
        async move {
            let mut begun = begun.ok_or(Error::Busy)?;
            match tokio::time::timeout_at(begun.until, &mut begun.answer).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(panicked())),
                Err(_) if begun.give_up() => Err(Error::Busy),
                Err(_) => Err(Error::Deadline),
            }
        }
    }

    /// Runs `job` on a thread. After it has started, waits for its end without a deadline: the path of a change stays
    /// locked until the change has ended.
    ///
    /// # Errors
    /// The error of the job; [`Error::Busy`]: the job was not started before the deadline and never will be.
    pub fn run_to_its_end<T: Send + 'static, J: FnOnce() -> Result<T> + Send + 'static>(
        self: &Arc<Self>,
        job: J,
    ) -> impl Future<Output = Result<T>> + Send + use<T, J> {
        let begun = self.begin(job, self.most_waiting);
        async move {
            let mut begun = begun.ok_or(Error::Busy)?;
            match tokio::time::timeout_at(begun.until, &mut begun.answer).await {
                Err(_) if begun.give_up() => Err(Error::Busy),
                Err(_) => begun.answer.await.unwrap_or_else(|_| Err(panicked())),
                Ok(answer) => answer.unwrap_or_else(|_| Err(panicked())),
            }
        }
    }

    /// `None` when the queue is full.
    fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> Result<T> + Send + 'static,
        most_waiting: usize,
    ) -> Option<Begun<T>> {
        let (sender, answer) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let claim = Arc::clone(&claimed);
        let job = Box::new(move || {
            // Either the thread claims the job or the caller cancels it, never both: a cancelled job does not start.
            if !sender.is_closed() && !claim.swap(true, Ordering::AcqRel) {
                let _ = sender.send(job());
            }
        });
        let taken = self.submit(job, most_waiting);
        let until = tokio::time::Instant::now() + self.deadline;
        taken.then_some(Begun { answer, claimed, until })
    }

    /// Queues `job` without a limit and without a result, for drops that may block, such as closing a file. The number of
    /// open files bounds these jobs.
    pub fn later(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let state = self.state();
        self.add(state, Box::new(job));
    }

    fn submit(self: &Arc<Self>, job: Job, most_waiting: usize) -> bool {
        let state = self.state();
        // A job that a thread is about to take does not count as waiting.
        let reserve = state.waiting.len() < most_waiting + state.idle + state.looking
            || (state.waiting.len() <= most_waiting + state.looking && state.threads < self.most_threads);
        reserve && self.add(state, job)
    }

    /// Whether a thread will run the job.
    fn add(self: &Arc<Self>, mut state: MutexGuard<'_, State>, job: Job) -> bool {
        state.waiting.push_back(job);
        // Waking a thread costs more than most jobs: prefer one that is awake.
        if state.looking >= state.waiting.len() {
            return true;
        }
        if state.idle + state.looking >= state.waiting.len() {
            drop(state);
            self.work.notify_one();
            return true;
        }
        if state.threads < self.most_threads {
            let pool = Arc::clone(self);
            let started = thread::Builder::new().name(self.name.clone()).stack_size(STACK_BYTES);
            match started.spawn(move || pool.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.looking += 1;
                }
                // No thread can be started: drop the jobs instead of waiting forever, but outside of this lock.
                Err(_) if state.threads == 0 => {
                    let job = state.waiting.pop_back();
                    drop(state);
                    drop(job);
                    return false;
                }
                Err(_) => {}
            }
        }
        true
    }

    fn work(&self) {
        let mut state = self.state();
        state.looking -= 1;
        loop {
            while let Some(job) = state.waiting.pop_front() {
                drop(state);
                // The panic hook reports the panic; the caller gets an error.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state();
                if state.waiting.is_empty() {
                    // The caller may queue its next job.
                    state.looking += 1;
                    drop(state);
                    thread::yield_now();
                    state = self.state();
                    state.looking -= 1;
                }
            }
            state.idle += 1;
            let (back, timeout) = self.work.wait_timeout(state, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_pool_refuses_at_once_and_begins_nothing_late() {
        let pool = Pool::new("test".to_owned(), 2, 1, Duration::from_millis(300));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hang = || {
            let gate = Arc::clone(&gate);
            pool.run(move || {
                let _ = gate.lock().unwrap().recv();
                Ok(())
            })
        };
        let (first, second) = (hang(), hang());
        // Both threads have their job; then one waits, and the next is refused.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (begun, was_begun) = mpsc::channel();
        let waits = pool.run(move || {
            let _ = begun.send(());
            Ok(())
        });
        assert!(matches!(pool.run(|| Ok(())).await, Err(Error::Busy)));
        assert!(matches!(first.await, Err(Error::Deadline)));
        assert!(matches!(second.await, Err(Error::Deadline)));
        assert!(matches!(waits.await, Err(Error::Busy)));
        release.send(()).unwrap();
        release.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pool.run(|| Ok(7)).await.unwrap(), 7);
        assert!(was_begun.try_recv().is_err(), "it was begun although nobody waited");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let pool = Pool::new("test".to_owned(), 1, 8, Duration::from_secs(5));
        let failed = pool.run(|| -> Result<()> { std::panic::resume_unwind(Box::new("on purpose")) });
        assert!(matches!(failed.await, Err(Error::Failed(_))));
        assert_eq!(pool.run(|| Ok(1)).await.unwrap(), 1);
    }
}
