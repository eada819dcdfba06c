//! Threads that may block, for one target: a file system that hangs keeps these and no others.

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

/// A thread with nothing to do ends after this.
const IDLE: Duration = Duration::from_secs(30);
/// A job is small, and its file system is the kernel's.
const STACK: usize = 256 << 10;

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

/// A job that a thread will take.
struct Begun<T> {
    answer: oneshot::Receiver<Result<T>>,
    claimed: Arc<AtomicBool>,
    until: tokio::time::Instant,
}

impl<T> Begun<T> {
    /// True: it was not begun, and never will be.
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
    /// Threads that sleep until they are woken.
    idle: usize,
    /// Threads that have just begun, or have just ended a job, and are about to look for another.
    looking: usize,
}

impl Pool {
    /// At most so many threads, made when they are needed; at most so many jobs that wait for one; and the
    /// time after which nobody waits for a job's answer any more.
    pub fn new(name: String, most_threads: usize, most_waiting: usize, deadline: Duration) -> Arc<Self> {
        let (state, work) = (Mutex::default(), Condvar::new());
        Arc::new(Self { name, most_threads, most_waiting, deadline, state, work })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of a job runs under this lock, so that it is never poisoned by one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` on one of the threads, and waits for its answer until the deadline.
    ///
    /// # Errors
    /// What the job says; [`Error::Busy`] when it was not begun, and never will be; [`Error::Deadline`] when it
    /// goes on, and nobody waits for it any more.
    pub fn run<T: Send + 'static, J: FnOnce() -> Result<T> + Send + 'static>(
        self: &Arc<Self>,
        job: J,
    ) -> impl Future<Output = Result<T>> + Send + use<T, J> {
        self.wait(self.begin(job, self.most_waiting))
    }

    /// The same for a step of something that has begun: it is not refused for those that come after it. Their number
    /// is bounded by that of the things that have begun.
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

    /// Runs `job` on one of the threads; once it has begun, waits for its end however long that takes. For what
    /// changes something: who else may change it must know that it has ended.
    ///
    /// # Errors
    /// What the job says; [`Error::Busy`] when it was not begun before the deadline, and never will be.
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

    /// `None` when there is no room.
    fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> Result<T> + Send + 'static,
        most_waiting: usize,
    ) -> Option<Begun<T>> {
        let (sender, answer) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let claim = Arc::clone(&claimed);
        let job = Box::new(move || {
            // Of two that claim it, a thread and who has waited long enough, one gets it. And what nobody waits
            // for any more is not begun.
            if !sender.is_closed() && !claim.swap(true, Ordering::AcqRel) {
                let _ = sender.send(job());
            }
        });
        let taken = self.submit(job, most_waiting);
        let until = tokio::time::Instant::now() + self.deadline;
        taken.then_some(Begun { answer, claimed, until })
    }

    /// Runs `job` at some time, whatever waits already: for what must not block here, such as closing a file.
    /// Their number is bounded by that of the things that are closed.
    pub fn later(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let state = self.state();
        self.add(state, Box::new(job));
    }

    fn submit(self: &Arc<Self>, job: Job, most_waiting: usize) -> bool {
        let state = self.state();
        // What waits for a thread that is about to take it is not waiting.
        let reserve = state.waiting.len() < most_waiting + state.idle + state.looking
            || (state.waiting.len() <= most_waiting + state.looking && state.threads < self.most_threads);
        reserve && self.add(state, job)
    }

    /// Whether there is a thread that will run it.
    fn add(self: &Arc<Self>, mut state: MutexGuard<'_, State>, job: Job) -> bool {
        state.waiting.push_back(job);
        // Waking a thread costs more than most jobs: one that is awake takes it.
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
            let started = thread::Builder::new().name(self.name.clone()).stack_size(STACK);
            match started.spawn(move || pool.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.looking += 1;
                }
                // No thread at all: it would wait for ever. What it holds may need this lock when it is dropped.
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
                // A panic is reported by the hook of the standard library; whoever waits is told.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state();
                if state.waiting.is_empty() {
                    // Whoever waited for it may have the next one.
                    state.looking += 1;
                    drop(state);
                    thread::yield_now();
                    state = self.state();
                    state.looking -= 1;
                }
            }
            state.idle += 1;
            let (back, timeout) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
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
