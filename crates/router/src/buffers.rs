//! Memory for contents on their way, used again, and bounded: the more of it is on the way, the smaller the
//! pieces become.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

/// As long as less than this is on the way, pieces are as large as they get. Above it each stream still has
/// the smallest piece: a thousand streams add 16 MiB.
const ENOUGH: usize = 32 << 20;
const SMALLEST: usize = 16 << 10;
const LARGEST: usize = 256 << 10;
/// Kept for the next stream.
const MOST_KEPT: usize = 32;

static ON_THE_WAY: AtomicUsize = AtomicUsize::new(0);
/// Of the largest size, which all throughput is made with; smaller ones come from the allocator's own lists.
static KEPT: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A piece of memory, all of it readable.
pub(crate) struct Buffer(Box<[u8]>);

/// A buffer for the next of so many bytes: as large as they need, and as there is room for.
pub(crate) fn take(wanted: usize) -> Buffer {
    let room = ENOUGH.saturating_sub(ON_THE_WAY.load(Ordering::Relaxed)) / 8;
    let most = if room >= LARGEST { LARGEST } else { room.clamp(SMALLEST, LARGEST) & !(4096 - 1) };
    let size = wanted.min(most);
    let kept = (size == LARGEST).then(|| KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop()).flatten();
    let memory = kept.unwrap_or_else(|| vec![0; size].into_boxed_slice());
    ON_THE_WAY.fetch_add(memory.len(), Ordering::Relaxed);
    Buffer(memory)
}

impl Buffer {
    /// Its first bytes, to be sent; the memory comes back when they are gone.
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
        ON_THE_WAY.fetch_sub(memory.len(), Ordering::Relaxed);
        if memory.len() == LARGEST {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MOST_KEPT {
                kept.push(memory);
            }
        }
    }
}
