//! An allocator that counts: allocations by thread, and bytes of the process.
//!
//! A benchmark that counts declares it:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: bench_kit::allocations::CountingAllocator = bench_kit::allocations::CountingAllocator;
//!
//! let before = bench_kit::allocations::count();
//! drop(Box::new(1));
//! assert_eq!(bench_kit::allocations::count() - before, 1);
//! ```

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicIsize, Ordering},
};

/// The system's allocator, counted.
#[derive(Debug)]
pub struct CountingAllocator;

thread_local! {
    /// By thread, so that counting costs next to nothing.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Shared by all threads, which costs; so bytes are counted on request only.
static COUNTS_BYTES: AtomicBool = AtomicBool::new(false);
static CURRENT_BYTES: AtomicIsize = AtomicIsize::new(0);
static PEAK_BYTES: AtomicIsize = AtomicIsize::new(0);

/// Number of allocations of this thread so far.
#[must_use]
pub fn count() -> u64 {
    COUNT.get()
}

/// Begins to count bytes. Called at startup, so that almost all memory that is freed was counted.
pub fn count_bytes() {
    COUNTS_BYTES.store(true, Ordering::Relaxed);
}

/// Currently allocated bytes.
pub fn current_bytes() -> isize {
    CURRENT_BYTES.load(Ordering::Relaxed)
}

/// The most allocated bytes since the last call.
pub fn peak_bytes() -> isize {
    PEAK_BYTES.swap(current_bytes(), Ordering::Relaxed)
}

fn allocated(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    if COUNTS_BYTES.load(Ordering::Relaxed) {
        let now = CURRENT_BYTES.fetch_add(bytes.cast_signed(), Ordering::Relaxed) + bytes.cast_signed();
        PEAK_BYTES.fetch_max(now, Ordering::Relaxed);
    }
}

fn freed(bytes: usize) {
    if COUNTS_BYTES.load(Ordering::Relaxed) {
        CURRENT_BYTES.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: the system's allocator does all of it; counting allocates nothing and drops nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        allocated(size);
        freed(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}
