//! One change of a path at a time, within this process. A change whose outcome nobody waits for any more keeps
//! the others out until it has ended: its late rename must not cover a newer content.

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

/// The paths that are being changed.
#[derive(Clone, Default)]
pub(crate) struct Fences(Arc<Mutex<HashMap<FilePath, Fence>>>);

#[derive(Default)]
struct Fence {
    /// Those who have their turn or wait for it. The last one takes the path out of the map.
    users: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Of the one who has it: whether its outcome is uncertain.
    uncertain: Option<Arc<AtomicBool>>,
}

/// The right to change a path, until it is dropped.
pub(crate) struct Turn {
    fences: Fences,
    path: FilePath,
    held: Option<OwnedMutexGuard<()>>,
    uncertain: Arc<AtomicBool>,
}

/// Makes a change uncertain when it is dropped before [`Watch::ended`].
pub(crate) struct Watch(Option<Arc<AtomicBool>>);

impl Fences {
    fn paths(&self) -> MutexGuard<'_, HashMap<FilePath, Fence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is no path being changed?
    pub fn are_open(&self) -> bool {
        self.paths().is_empty()
    }

    /// Waits for the changes of this path that came before.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the one that is being done is uncertain, or has not ended by then.
    pub async fn enter(&self, path: &FilePath, until: Instant) -> Result<Turn> {
        let wait = {
            let mut paths = self.paths();
            let fence = paths.entry(path.clone()).or_default();
            if fence.uncertain.as_ref().is_some_and(|uncertain| uncertain.load(Ordering::Acquire)) {
                return Err(Error::Fenced);
            }
            fence.users += 1;
            Arc::clone(&fence.turn).lock_owned()
        };
        // Made before it is held, so that waiting is forgotten again however it ends.
        let mut turn = Turn { fences: self.clone(), path: path.clone(), held: None, uncertain: Arc::default() };
        let held = timeout_at(until, wait).await.map_err(|_| Error::Fenced)?;
        if let Some(fence) = self.paths().get_mut(path) {
            fence.uncertain = Some(Arc::clone(&turn.uncertain));
        }
        turn.held = Some(held);
        Ok(turn)
    }
}

impl Turn {
    pub fn watch(&self) -> Watch {
        Watch(Some(Arc::clone(&self.uncertain)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut paths = self.fences.paths();
        let Some(fence) = paths.get_mut(&self.path) else { return };
        if self.held.take().is_some() {
            fence.uncertain = None;
        }
        fence.users -= 1;
        if fence.users == 0 {
            paths.remove(&self.path);
        }
    }
}

impl Watch {
    pub fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Watch {
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
        let fences = Fences::default();
        let path = FilePath::new("a").unwrap();
        let first = fences.enter(&path, soon()).await.unwrap();
        assert!(fences.enter(&FilePath::new("b").unwrap(), soon()).await.is_ok());
        // Not yet ended: whoever waits too long goes away.
        assert!(matches!(fences.enter(&path, soon()).await, Err(Error::Fenced)));
        let waiting = tokio::spawn({
            let (fences, path) = (fences.clone(), path.clone());
            async move { fences.enter(&path, Instant::now() + Duration::from_secs(5)).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        drop(first.watch());
        // Uncertain: refused at once.
        assert!(matches!(fences.enter(&path, Instant::now() + Duration::from_secs(60)).await, Err(Error::Fenced)));
        drop(first);
        waiting.await.unwrap().unwrap();
        let second = fences.enter(&path, soon()).await.unwrap();
        let watch = second.watch();
        drop(second);
        drop(watch);
        // What is over fences nobody.
        assert!(fences.enter(&path, soon()).await.is_ok());
        assert!(fences.paths().is_empty());
    }
}
