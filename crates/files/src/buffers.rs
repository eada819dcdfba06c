//! A pool of buffers for contents in flight, with a soft limit: the more bytes are in flight, the smaller the pieces.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

/// Below this number of bytes in flight, pieces have their maximum size. Above it each stream still gets a piece of the
/// minimum size: a thousand streams add 16 MiB.
const IN_FLIGHT_SOFT_LIMIT_BYTES: usize = 32 << 20;
const MIN_PIECE_BYTES: usize = 16 << 10;
const MAX_PIECE_BYTES: usize = 256 << 10;
/// Maximum number of buffers that the pool keeps.
const MAX_POOLED_BUFFERS: usize = 32;

static IN_FLIGHT_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Buffers of the maximum size, which carry nearly all bytes. The allocator serves smaller ones.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer whose bytes are all initialised.
pub struct Buffer(Box<[u8]>);

/// The current maximum size of a piece in bytes.
pub fn max() -> usize {
    let reserve = IN_FLIGHT_SOFT_LIMIT_BYTES.saturating_sub(IN_FLIGHT_BYTES.load(Ordering::Relaxed)) / 8;
    if reserve >= MAX_PIECE_BYTES {
        MAX_PIECE_BYTES
    } else {
        reserve.clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES) & !(4096 - 1)
    }
}

/// A buffer for the next piece of `wanted` bytes: as large as needed, at most [`max`].
pub fn take(wanted: usize) -> Buffer {
    let size = wanted.min(max());
    let kept = (size == MAX_PIECE_BYTES).then(|| POOL.lock().unwrap_or_else(PoisonError::into_inner).pop()).flatten();
    let memory = kept.unwrap_or_else(|| vec![0; size].into_boxed_slice());
    IN_FLIGHT_BYTES.fetch_add(memory.len(), Ordering::Relaxed);
    Buffer(memory)
}

impl Buffer {
    /// The first `length` bytes. The memory returns to the pool when they are dropped.
    pub fn filled(self, length: usize) -> Bytes {
        let length = length.min(self.0.len());
        Bytes::from_owner(self).slice(..length)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0);
        IN_FLIGHT_BYTES.fetch_sub(memory.len(), Ordering::Relaxed);
        if memory.len() == MAX_PIECE_BYTES {
            let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MAX_POOLED_BUFFERS {
                kept.push(memory);
            }
        }
    }
}

/// Accounts for a piece whose memory another component allocates, such as the reply to a READ.
pub struct Reservation(usize);

/// A reservation for the next piece of `wanted` bytes, with the same size as [`take`] would return.
pub fn reserve(wanted: usize) -> Reservation {
    let size = wanted.min(max());
    IN_FLIGHT_BYTES.fetch_add(size, Ordering::Relaxed);
    Reservation(size)
}

impl Reservation {
    /// The size of the reservation in bytes.
    pub fn bytes(&self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Accounts for `content` until it is dropped, and releases the rest of the reservation.
    pub fn hold(mut self, content: Bytes) -> Bytes {
        struct Held(Bytes, #[expect(dead_code, reason = "it is for being dropped")] Reservation);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let unused = self.0.saturating_sub(content.len());
        self.0 -= unused;
        IN_FLIGHT_BYTES.fetch_sub(unused, Ordering::Relaxed);
        // Small replies share one allocation, which the slowest reader would keep alive for all.
        let content = match content.len() <= MIN_PIECE_BYTES && max() < MAX_PIECE_BYTES {
            true => Bytes::copy_from_slice(&content),
            false => content,
        };
        Bytes::from_owner(Held(content, self))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        IN_FLIGHT_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_counts_until_it_is_gone() {
        let on_the_way = || IN_FLIGHT_BYTES.load(Ordering::Relaxed);
        let before = on_the_way();
        let asked: Vec<_> = (0..1000).map(|_| reserve(MAX_PIECE_BYTES)).collect();
        assert_eq!((asked[0].0, asked[999].0), (MAX_PIECE_BYTES, MIN_PIECE_BYTES));
        assert!(on_the_way() <= before + IN_FLIGHT_SOFT_LIMIT_BYTES + 1000 * MIN_PIECE_BYTES);
        let held: Vec<_> = asked.into_iter().map(|reserve| reserve.hold(Bytes::from_static(&[7; 10]))).collect();
        assert_eq!((on_the_way() - before, held[0].len()), (10_000, 10));
        drop(held);
        assert_eq!(on_the_way(), before);
    }
}
