//! Counters of each target since the start, lock-free, with a histogram of durations.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the histogram's buckets in microseconds. One more bucket counts longer durations.
pub const BUCKET_BOUNDS_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// The counters of one target.
#[derive(Debug, Default)]
pub struct Stats {
    operations: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; BUCKET_BOUNDS_MICROS.len() + 1],
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StatsSnapshot {
    /// Operations on files and directories that were started.
    pub operations: u64,
    /// Operations that failed because of the target.
    pub failures: u64,
    /// Operations that were not started because the target was at capacity.
    pub refused: u64,
    /// Bytes of content that readers took.
    pub bytes_read: u64,
    /// Bytes of content that writers sent.
    pub bytes_written: u64,
    /// Sum of the durations of all operations.
    pub time: Duration,
    /// Operations by duration; not cumulative.
    pub buckets: [u64; BUCKET_BOUNDS_MICROS.len() + 1],
}

impl Stats {
    pub(crate) fn done(&self, took: Duration, failed: bool) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes of content that a reader took.
    pub fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> StatsSnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            operations: of(&self.operations),
            failures: of(&self.failures),
            refused: of(&self.refused),
            bytes_read: of(&self.bytes_read),
            bytes_written: of(&self.bytes_written),
            time: Duration::from_nanos(of(&self.nanoseconds)),
            buckets: std::array::from_fn(|bucket| of(&self.buckets[bucket])),
        }
    }
}

impl StatsSnapshot {
    /// The difference to an earlier snapshot.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            operations: self.operations.saturating_sub(earlier.operations),
            failures: self.failures.saturating_sub(earlier.failures),
            refused: self.refused.saturating_sub(earlier.refused),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            time: self.time.saturating_sub(earlier.time),
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].saturating_sub(earlier.buckets[bucket])),
        }
    }

    /// The quantile `share` (0 to 1) of the durations, interpolated within its bucket; `None` without operations. Durations
    /// above the last bound count as that bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all: u64 = self.buckets.iter().sum();
        let wanted = (share * all as f64).ceil().max(1.0) as u64;
        let mut before = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            if before + count >= wanted {
                let low = bucket.checked_sub(1).map_or(0, |below| BUCKET_BOUNDS_MICROS[below]) as f64;
                let high = BUCKET_BOUNDS_MICROS.get(bucket).map_or(low, |high| *high as f64);
                let within = (wanted - before) as f64 / *count as f64;
                return Some(Duration::from_secs_f64((low + (high - low) * within) / 1e6));
            }
            before += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_their_bucket() {
        let stats = Stats::default();
        assert_eq!(stats.snapshot().quantile(0.5), None);
        for micros in 1..=1000 {
            stats.done(Duration::from_micros(micros), false);
        }
        let snapshot = stats.snapshot();
        for (share, micros) in [(0.01, 10.0), (0.5, 500.0), (0.75, 750.0), (1.0, 1000.0)] {
            let told = snapshot.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((told - micros).abs() < 2.0, "{share}: {told}");
        }
        stats.done(Duration::from_secs(100), true);
        assert_eq!(stats.snapshot().quantile(1.0), Some(Duration::from_secs(10)));
        assert_eq!(stats.snapshot().since(&snapshot).operations, 1);
    }
}
