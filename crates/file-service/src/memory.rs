//! Memory for bodies that are put into their place in one step: bounded for each target, taken as the bytes come, and
//! kept only by bodies that come soon. Whoever is slow, or finds no room, goes by way of a temporary file, and keeps
//! nobody from anything.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{api_error::ApiError, content::Incoming};
use files::{Error, Result};

/// Of one target, for all bodies together.
const MAX_BYTES: usize = 32 << 20;
/// A body that has not come whole by then gives its memory back.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// A body that comes in several pieces has this much at first.
const FIRST_BYTES: usize = 16 << 10;

/// What one target has for the bodies that go to it.
#[derive(Clone)]
pub(super) struct Memory(Arc<Semaphore>);

/// What of a body has been taken into memory.
pub(super) enum Taken {
    Whole(Bytes),
    /// More is to come, and is not to be waited for in memory.
    Begun(Vec<Bytes>),
}

impl Memory {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES)))
    }

    fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Takes a body up to its end, of at most `max` bytes; or as much of it as comes soon and has room.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn take(&self, body: &mut Incoming, max: usize) -> std::result::Result<Taken, ApiError> {
        let soon = Instant::now() + SOON;
        let mut part = ByteRange::default();
        loop {
            let Ok(next) = timeout_at(soon, body.next()).await else {
                return Ok(Taken::Begun(vec![part.content()]));
            };
            let Some(bytes) = next? else { return Ok(Taken::Whole(part.content())) };
            if !part.add(&bytes, max, self) {
                return Ok(Taken::Begun(vec![part.content(), bytes]));
            }
        }
    }

    /// What `bring` brings, with the room for it, which is waited for this long.
    ///
    /// # Errors
    /// [`Error::Busy`]: there is no room, since the target does not put what is in memory into its place. And those of
    /// `bring`.
    pub async fn again(&self, bytes: u64, wait: Duration, bring: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        let room = timeout(wait, Arc::clone(&self.0).acquire_many_owned(bytes)).await;
        let room = room.ok().and_then(std::result::Result::ok).ok_or(Error::Busy)?;
        Ok(held(bring.await?, room))
    }
}

/// The beginning of a body.
#[derive(Default)]
struct ByteRange {
    /// Most bodies that are small come in one piece: it is kept as it is.
    first: Bytes,
    /// All, once there is more than that.
    all: Vec<u8>,
    /// For as much memory as there is, which is at most twice what has come.
    room: Option<OwnedSemaphorePermit>,
}

impl ByteRange {
    /// False: there is no room for it.
    fn add(&mut self, bytes: &Bytes, max: usize, memory: &Memory) -> bool {
        let is_first = self.first.is_empty();
        let there = self.all.len().max(self.first.len());
        let wanted = there + bytes.len();
        let capacity = match is_first {
            true => wanted,
            false => wanted.max(FIRST_BYTES).next_power_of_two().min(max.max(wanted)),
        };
        let reserved = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if capacity > reserved {
            let Some(more) = memory.room(capacity - reserved) else { return false };
            match &mut self.room {
                Some(room) => room.merge(more),
                none => *none = Some(more),
            }
        }
        if is_first {
            self.first = bytes.clone();
            return true;
        }
        if self.all.is_empty() {
            self.all.reserve_exact(capacity);
            self.all.extend_from_slice(&self.first);
        }
        self.all.reserve_exact(capacity - self.all.len());
        self.all.extend_from_slice(bytes);
        true
    }

    fn content(self) -> Bytes {
        let content = if self.all.is_empty() { self.first } else { self.all.into() };
        match self.room {
            None => content,
            Some(room) => held(content, room),
        }
    }
}

/// A content that keeps its room as long as anything has it: a queue, or a thread that hangs.
fn held(content: Bytes, room: OwnedSemaphorePermit) -> Bytes {
    struct Held(Bytes, #[expect(dead_code, reason = "it is for being dropped")] OwnedSemaphorePermit);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Held(content, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(count: usize, length: usize) -> Vec<Bytes> {
        (0..count).map(|number| vec![number as u8; length].into()).collect()
    }

    #[test]
    fn a_body_has_at_most_twice_the_memory_of_what_has_come_and_gives_it_back() {
        let memory = Memory::new();
        let used = || MAX_BYTES - memory.0.available_permits();
        let mut part = ByteRange::default();
        let mut come = 0;
        for piece in pieces(256, 4096) {
            assert!(part.add(&piece, 1 << 20, &memory));
            come += piece.len();
            assert!((come..=(2 * come).max(FIRST_BYTES)).contains(&used()), "{} for {come}", used());
        }
        assert_eq!(used(), 1 << 20);
        let content = part.content();
        assert_eq!(content, pieces(256, 4096).concat());
        let other = content.slice(..1);
        drop(content);
        assert_eq!(used(), 1 << 20, "somebody still has it");
        drop(other);
        assert_eq!(used(), 0);
    }

    #[test]
    fn what_finds_no_room_takes_none() {
        let memory = Memory::new();
        let mut part = ByteRange::default();
        let [first, second] = [vec![1; 4096], vec![2; 4096]].map(Bytes::from);
        assert!(part.add(&first, 1 << 20, &memory));
        let all = memory.room(MAX_BYTES - 4096);
        assert!(!part.add(&second, 1 << 20, &memory));
        drop(all);
        assert_eq!(part.content(), first);
        assert_eq!(memory.0.available_permits(), MAX_BYTES);
    }
}
