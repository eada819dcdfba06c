//! The time that one operation has, over all the calls that it takes, and the pauses between tries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};

/// A cleanup that has not ended by then is left to whoever removes orphaned temporary files.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);

const CLEANUP_CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the calls of a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimeLimit {
    None,
    Within(Duration),
    At(Instant),
}

/// Shared by all calls of one operation. No call is sent after its deadline.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    deadline: Option<Instant>,
    /// For the message of an error.
    limit: Duration,
    /// The operation changes something: a call that is late must not take effect after its caller was told so.
    pub is_change: bool,
    /// It tidies up after another one, and goes by any way that there is.
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

    /// For calls whose late effect does no harm: they remove names and close files that nobody else has.
    pub fn cleanup() -> Self {
        Self { is_cleanup: true, ..Self::new(TimeLimit::Within(CLEANUP_TIMEOUT), false) }
    }

    /// For what takes a change back: it must not do so late either.
    pub fn cleanup_change() -> Self {
        Self { is_cleanup: true, ..Self::new(TimeLimit::Within(CLEANUP_CHANGE_TIMEOUT), true) }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// A call of this operation may have reached the server.
    pub fn set_sent(&self) {
        self.sent.store(true, Ordering::Release);
    }

    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// What the caller is told when the time is over and nothing has changed, or will.
    pub fn error(&self) -> Error {
        match self.was_sent() {
            true => Error::Deadline(self.limit),
            false => Error::Busy(self.limit),
        }
    }

    /// Until the deadline; `None` when it has passed.
    pub async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            None => Some(work.await),
            Some(deadline) => timeout_at(deadline, work).await.ok(),
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The deadline comes first: there is no next try.
    pub async fn pause(&self, backoff: &mut Backoff) -> Result<()> {
        let pause = backoff.next();
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return Err(self.error());
        }
        tokio::time::sleep(pause).await;
        // A busy machine wakes a task late.
        if self.is_over() { Err(self.error()) } else { Ok(()) }
    }
}

/// Pauses that double up to a maximum, each shortened by up to a half at random, so that clients that were turned away
/// together do not come back together.
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
