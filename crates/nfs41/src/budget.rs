//! The deadline that all calls of one operation share, and the backoff between attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};

/// Timeout of cleanup. What it leaves behind, the removal of stale temporary files takes care of.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout of undoing a partial change.
const CLEANUP_CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an operation of a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimeLimit {
    None,
    Within(Duration),
    At(Instant),
}

/// The time budget of one operation. No call of it is sent after the deadline.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    deadline: Option<Instant>,
    /// Time from start to deadline, for error messages.
    limit: Duration,
    /// The operation changes something: a late call must not take effect after the caller got an error.
    pub is_change: bool,
    /// The operation cleans up after another one: its calls are also sent over the fencing connection.
    pub is_cleanup: bool,
    sent: Arc<AtomicBool>,
}

impl Budget {
    pub fn new(limit: TimeLimit, is_change: bool) -> Self {
        let now = Instant::now();
        let (deadline, limit) = match limit {
            TimeLimit::None => (None, Duration::ZERO),
            TimeLimit::Within(limit) => (now.checked_add(limit), limit),
            TimeLimit::At(deadline) => (Some(deadline), deadline.saturating_duration_since(now)),
        };
        Self { deadline, limit, is_change, is_cleanup: false, sent: Arc::default() }
    }

    /// For calls whose late effect does no harm: they remove names and close files that nothing else uses.
    pub fn cleanup() -> Self {
        Self { is_cleanup: true, ..Self::new(TimeLimit::Within(CLEANUP_TIMEOUT), false) }
    }

    /// For undoing a partial change, which must not take effect late.
    pub fn cleanup_change() -> Self {
        Self { is_cleanup: true, ..Self::new(TimeLimit::Within(CLEANUP_CHANGE_TIMEOUT), true) }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Records that a call of this operation may have reached the server.
    pub fn set_sent(&self) {
        self.sent.store(true, Ordering::Release);
    }

    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// The error of an operation whose deadline has passed, and that has changed nothing and never will.
    pub fn error(&self) -> Error {
        match self.was_sent() {
            true => Error::Deadline(self.limit),
            false => Error::Busy(self.limit),
        }
    }

    /// Waits for work until the deadline; `None` if it passes first.
    pub async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            None => Some(work.await),
            Some(deadline) => timeout_at(deadline, work).await.ok(),
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The deadline would pass first: there is no next attempt.
    pub async fn pause(&self, backoff: &mut Backoff) -> Result<()> {
        let pause = backoff.next();
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return Err(self.error());
        }
        tokio::time::sleep(pause).await;
        // A busy machine can wake the task late.
        if self.is_over() { Err(self.error()) } else { Ok(()) }
    }
}

/// Exponential backoff with jitter: pauses double up to a maximum, and each is shortened by up to a half at random, so that
/// clients that failed together do not retry together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    pub fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_differ() {
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut backoff = Backoff::new(first, max);
            for expected in [10, 20, 40, 80, 100, 100].map(Duration::from_millis) {
                let pause = backoff.next();
                assert!(expected / 2 <= pause && pause <= expected, "{pause:?} of {expected:?}");
                seen.insert(pause);
            }
        }
        assert!(seen.len() > 300, "{} different pauses of 600", seen.len());
    }

    #[tokio::test]
    async fn no_try_begins_after_the_deadline() {
        let budget = Budget::new(TimeLimit::Within(Duration::from_millis(50)), true);
        let mut backoff = Backoff::new(Duration::from_millis(8), Duration::from_millis(16));
        let mut tries = 0;
        let error = loop {
            match budget.pause(&mut backoff).await {
                Ok(()) => tries += 1,
                Err(error) => break error,
            }
        };
        assert!((1..=12).contains(&tries), "{tries}");
        assert!(matches!(error, Error::Busy(_)), "nothing was sent: {error:?}");
        budget.set_sent();
        assert!(matches!(budget.error(), Error::Deadline(_)));
    }

    #[tokio::test]
    async fn no_try_begins_when_the_pause_ends_late() {
        let budget = Budget::new(TimeLimit::Within(Duration::from_millis(500)), true);
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(2));
        // Holds the only thread until the deadline has passed.
        let busy = async { std::thread::sleep(Duration::from_millis(600)) };
        let (paused, ()) = tokio::join!(budget.pause(&mut backoff), busy);
        assert!(matches!(paused, Err(Error::Busy(_))), "{paused:?}");
    }
}
