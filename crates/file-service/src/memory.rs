//! Memory for bodies that are written in one step: bounded per target, allocated as the bytes arrive, and held by fast
//! bodies only. A slow body, or one that finds no memory, is streamed to a temporary file instead.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{api_error::ApiError, content::Incoming};
use files::{Error, Result};

/// Maximum memory per target for all buffered bodies.
const MAX_BUFFERED_BYTES_PER_TARGET: usize = 32 << 20;
/// A body that is not complete after this time releases its memory.
pub(super) const BUFFERING_TIMEOUT: Duration = Duration::from_secs(1);
/// Initial allocation for a body of several pieces.
const INITIAL_BUFFER_BYTES: usize = 16 << 10;

/// The memory budget of one target.
#[derive(Clone)]
pub(super) struct Memory(Arc<Semaphore>);

/// The result of buffering a body.
pub(super) enum Taken {
    Whole(Bytes),
    /// More bytes follow; stream them instead of buffering.
    Begun(Vec<Bytes>),
}

impl Memory {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BUFFERED_BYTES_PER_TARGET)))
    }

    fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Buffers a body of at most `max` bytes to its end, or as much as arrives soon and fits into the budget.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn take(&self, body: &mut Incoming, max: usize) -> std::result::Result<Taken, ApiError> {
        let soon = Instant::now() + BUFFERING_TIMEOUT;
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

    /// The result of `bring`, with a reservation that is waited for this long.
    ///
    /// # Errors
    /// [`Error::Busy`]: no memory, because the target does not finish its writes; and the errors of `bring`.
    pub async fn again(&self, bytes: u64, wait: Duration, bring: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::Busy)?;
        let room = timeout(wait, Arc::clone(&self.0).acquire_many_owned(bytes)).await;
        let room = room.ok().and_then(std::result::Result::ok).ok_or(Error::Busy)?;
        Ok(held(bring.await?, room))
    }
}

/// The buffered part of a body.
#[derive(Default)]
struct ByteRange {
    /// Most small bodies arrive in one piece, which is kept without a copy.
    first: Bytes,
    /// All bytes, after the second piece.
    all: Vec<u8>,
    /// Reservation for the allocated memory, at most twice the received bytes.
    room: Option<OwnedSemaphorePermit>,
}

impl ByteRange {
    /// Returns `false` if the budget has no memory left.
    fn add(&mut self, bytes: &Bytes, max: usize, memory: &Memory) -> bool {
        let is_first = self.first.is_empty();
        let there = self.all.len().max(self.first.len());
        let wanted = there + bytes.len();
        let capacity = match is_first {
            true => wanted,
            false => wanted.max(INITIAL_BUFFER_BYTES).next_power_of_two().min(max.max(wanted)),
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

/// A content that holds its reservation as long as anything references it, such as a queue or a thread that hangs.
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
        let used = || MAX_BUFFERED_BYTES_PER_TARGET - memory.0.available_permits();
        let mut part = ByteRange::default();
        let mut come = 0;
        for piece in pieces(256, 4096) {
            assert!(part.add(&piece, 1 << 20, &memory));
            come += piece.len();
            assert!((come..=(2 * come).max(INITIAL_BUFFER_BYTES)).contains(&used()), "{} for {come}", used());
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
        let all = memory.room(MAX_BUFFERED_BYTES_PER_TARGET - 4096);
        assert!(!part.add(&second, 1 << 20, &memory));
        drop(all);
        assert_eq!(part.content(), first);
        assert_eq!(memory.0.available_permits(), MAX_BUFFERED_BYTES_PER_TARGET);
    }
}
