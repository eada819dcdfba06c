//! Counts the memory that this program allocates, for the client that holds connections.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicIsize, Ordering},
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Set at startup or never, so that almost all memory that is freed was counted.
static COUNTS: AtomicBool = AtomicBool::new(false);
static NOW: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

pub fn begin() {
    COUNTS.store(true, Ordering::Relaxed);
}

/// Currently allocated bytes.
pub fn now() -> isize {
    NOW.load(Ordering::Relaxed)
}

/// Peak since the last call.
pub fn most() -> isize {
    MOST.swap(now(), Ordering::Relaxed)
}

fn taken(bytes: usize) {
    if COUNTS.load(Ordering::Relaxed) {
        let now = NOW.fetch_add(bytes.cast_signed(), Ordering::Relaxed) + bytes.cast_signed();
        MOST.fetch_max(now, Ordering::Relaxed);
    }
}

fn given_back(bytes: usize) {
    if COUNTS.load(Ordering::Relaxed) {
        NOW.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: the system's allocator does all of it; counting allocates nothing and drops nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size);
        given_back(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}
