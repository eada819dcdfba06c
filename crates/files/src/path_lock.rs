//! One lock per path, within this process: a path has one change at a time. A change keeps its lock until it ends, even
//! after its caller has given up, because its late rename must not overwrite a newer content.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};

use crate::error::{Error, Result};
use router::path::FilePath;

/// The locks of all paths that are being changed.
#[derive(Clone, Default)]
pub(crate) struct PathLocks(Arc<Mutex<HashMap<FilePath, PathLock>>>);

#[derive(Default)]
struct PathLock {
    /// Holders and waiters. The last one removes the entry from the map.
    users: usize,
    guard: Arc<tokio::sync::Mutex<()>>,
    /// Whether the caller of the holder gave up, so that the outcome is uncertain.
    uncertain: Option<Arc<AtomicBool>>,
}

/// Holds the lock of a path until it is dropped.
pub(crate) struct PathGuard {
    path_locks: PathLocks,
    path: FilePath,
    held: Option<OwnedMutexGuard<()>>,
    uncertain: Arc<AtomicBool>,
}

/// Marks a change as uncertain when it is dropped before [`UncertainOnDrop::ended`].
pub(crate) struct UncertainOnDrop(Option<Arc<AtomicBool>>);

impl PathLocks {
    fn paths(&self) -> MutexGuard<'_, HashMap<FilePath, PathLock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no path is locked.
    pub fn is_idle(&self) -> bool {
        self.paths().is_empty()
    }

    /// Waits for earlier changes of the path.
    ///
    /// # Errors
    /// [`Error::Fenced`]: the current change is uncertain, or has not ended by `until`.
    pub async fn lock(&self, path: &FilePath, until: Instant) -> Result<PathGuard> {
        let wait = {
            let mut paths = self.paths();
            let path_lock = paths.entry(path.clone()).or_default();
            if path_lock.uncertain.as_ref().is_some_and(|uncertain| uncertain.load(Ordering::Acquire)) {
                return Err(Error::Fenced);
            }
            path_lock.users += 1;
            Arc::clone(&path_lock.guard).lock_owned()
        };
        // Created before the lock is held, so that dropping the future also removes the waiter.
        let mut guard =
            PathGuard { path_locks: self.clone(), path: path.clone(), held: None, uncertain: Arc::default() };
        let held = timeout_at(until, wait).await.map_err(|_| Error::Fenced)?;
        if let Some(path_lock) = self.paths().get_mut(path) {
            path_lock.uncertain = Some(Arc::clone(&guard.uncertain));
        }
        guard.held = Some(held);
        Ok(guard)
    }
}

impl PathGuard {
    pub fn uncertain_on_drop(&self) -> UncertainOnDrop {
        UncertainOnDrop(Some(Arc::clone(&self.uncertain)))
    }
}

impl Drop for PathGuard {
    fn drop(&mut self) {
        let mut paths = self.path_locks.paths();
        let Some(path_lock) = paths.get_mut(&self.path) else { return };
        if self.held.take().is_some() {
            path_lock.uncertain = None;
        }
        path_lock.users -= 1;
        if path_lock.users == 0 {
            paths.remove(&self.path);
        }
    }
}

impl UncertainOnDrop {
    pub fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for UncertainOnDrop {
    fn drop(&mut self) {
        if let Some(uncertain) = self.0.take() {
            uncertain.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn one_at_a_time_and_nobody_behind_an_uncertain_one() {
        let path_locks = PathLocks::default();
        let path = FilePath::new("a").unwrap();
        let first = path_locks.lock(&path, soon()).await.unwrap();
        assert!(path_locks.lock(&FilePath::new("b").unwrap(), soon()).await.is_ok());
        // Not yet ended: whoever waits too long goes away.
        assert!(matches!(path_locks.lock(&path, soon()).await, Err(Error::Fenced)));
        let waiting = tokio::spawn({
            let (path_locks, path) = (path_locks.clone(), path.clone());
            async move { path_locks.lock(&path, Instant::now() + Duration::from_secs(5)).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        drop(first.uncertain_on_drop());
        // Uncertain: refused at once.
        assert!(matches!(path_locks.lock(&path, Instant::now() + Duration::from_secs(60)).await, Err(Error::Fenced)));
        drop(first);
        waiting.await.unwrap().unwrap();
        let second = path_locks.lock(&path, soon()).await.unwrap();
        let uncertain_on_drop = second.uncertain_on_drop();
        drop(second);
        drop(uncertain_on_drop);
        // What is over fences nobody.
        assert!(path_locks.lock(&path, soon()).await.is_ok());
        assert!(path_locks.paths().is_empty());
    }
}
