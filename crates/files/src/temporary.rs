//! Names of temporary files, and the unique timestamps that distinguish their contents.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use router::path::RESERVED_PREFIX;

/// A unique name for a temporary file.
pub fn name() -> Vec<u8> {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    [RESERVED_PREFIX, format!("{:016x}.{count}", *PROCESS).as_bytes()].concat()
}

/// Whether [`name`] made this name. The prefix alone is not enough: a file from before this service may have it.
pub fn is(name: &[u8]) -> bool {
    let rest = name.strip_prefix(RESERVED_PREFIX).and_then(|rest| std::str::from_utf8(rest).ok());
    rest.and_then(|rest| rest.split_once('.')).is_some_and(|(process, count)| {
        process.len() == 16 && u64::from_str_radix(process, 16).is_ok() && count.parse::<u64>().is_ok()
    })
}

/// The current time in seconds and nanoseconds since 1970, never the same twice in this process. A server's clock ticks
/// every few milliseconds and an inode may be reused within one tick, so its own time does not identify a content.
pub fn unique_time() -> (i64, u32) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    const SECOND: i64 = 1_000_000_000;
    let now = i64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()).unwrap_or(i64::MAX);
    let before = LAST.fetch_max(now, Ordering::Relaxed);
    let time = if before < now { now } else { LAST.fetch_add(1, Ordering::Relaxed) + 1 };
    (time / SECOND, u32::try_from(time % SECOND).unwrap_or_default())
}
