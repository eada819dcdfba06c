//! The operations of each phase, run concurrently, and their latencies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::task::JoinSet;

use super::connection::Connection;

pub const SMALL_BYTES: u64 = 4 << 10;
pub const LARGE_BYTES: u64 = 1 << 20;

/// One kind of operation. The order matters: reads use the files of earlier writes, and the last phase deletes them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    SmallWrite,
    SmallRead,
    Attributes,
    SequentialWrite,
    SequentialRead,
    RandomWrite,
    RandomRead,
    SmallDelete,
}

impl Phase {
    pub const ALL: [Self; 8] = [
        Self::SmallWrite,
        Self::SmallRead,
        Self::Attributes,
        Self::SequentialWrite,
        Self::SequentialRead,
        Self::RandomWrite,
        Self::RandomRead,
        Self::SmallDelete,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::SmallWrite => "write files of 4 KiB",
            Self::SmallRead => "read files of 4 KiB",
            Self::Attributes => "stat files",
            Self::SequentialWrite => "write 1 MiB sequential",
            Self::SequentialRead => "read 1 MiB sequential",
            Self::RandomWrite => "write 4 KiB random",
            Self::RandomRead => "read 4 KiB random",
            Self::SmallDelete => "delete files",
        }
    }

    /// Content bytes of one operation.
    pub fn bytes(self) -> u64 {
        match self {
            Self::SequentialWrite | Self::SequentialRead => LARGE_BYTES,
            Self::Attributes | Self::SmallDelete => 0,
            _ => SMALL_BYTES,
        }
    }

    pub fn writes(self) -> bool {
        matches!(self, Self::SmallWrite | Self::SequentialWrite | Self::RandomWrite)
    }
}

/// The work of one pass. It does not depend on the number of targets, which share it.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub files: u64,
    /// Total size of the large files, one per target.
    pub large_mib: u64,
    /// Random reads, and random writes, of 4 KiB in the large files.
    pub random: u64,
}

impl Workload {
    pub fn operations(&self, phase: Phase) -> u64 {
        match phase {
            Phase::SmallWrite | Phase::SmallRead | Phase::Attributes | Phase::SmallDelete => self.files,
            Phase::SequentialWrite | Phase::SequentialRead => self.large_mib,
            Phase::RandomWrite | Phase::RandomRead => self.random,
        }
    }
}

/// Measurements of one target.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Latency of each operation, in microseconds.
    pub latencies_micros: Vec<u32>,
    pub bytes: u64,
}

impl Samples {
    /// The latency in milliseconds at this quantile (0 to 1), by the nearest-rank method.
    pub fn quantile_ms(&mut self, quantile: f64) -> f64 {
        if self.latencies_micros.is_empty() {
            return 0.0;
        }
        self.latencies_micros.sort_unstable();
        let index =
            ((self.latencies_micros.len() as f64 * quantile).ceil() as usize).clamp(1, self.latencies_micros.len()) - 1;
        f64::from(self.latencies_micros[index]) / 1e3
    }

    pub fn merge(&mut self, other: &Self) {
        self.latencies_micros.extend(&other.latencies_micros);
        self.bytes += other.bytes;
    }
}

/// Where a pass runs.
pub struct LoadConfig {
    /// Connections by target.
    pub targets: Vec<Vec<Connection>>,
    /// The working directory, the same on each target.
    pub directory: String,
    /// Concurrent operations per connection.
    pub depth: usize,
}

/// Runs a phase until it is done or `deadline` passes. Returns the samples of each target, and the duration of the
/// phase.
///
/// # Errors
/// The error of the first operation that fails.
pub async fn run(
    config: &LoadConfig,
    phase: Phase,
    workload: &Workload,
    deadline: Instant,
    completed: &Arc<AtomicU64>,
) -> Result<(Vec<Samples>, Duration)> {
    let count = workload.operations(phase);
    let targets = config.targets.len() as u64;
    let failed = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (target, connections) in (0_u64..).zip(&config.targets) {
        // This target's share of the operations, which its workers take one by one.
        let share = count / targets + u64::from(target < count % targets);
        let next = Arc::new(AtomicU64::new(0));
        let file_mib = workload.large_mib / targets + u64::from(target < workload.large_mib % targets);
        for connection in connections {
            for _ in 0..config.depth {
                let (connection, next, failed, completed) =
                    (connection.clone(), Arc::clone(&next), Arc::clone(&failed), Arc::clone(completed));
                let directory = config.directory.clone();
                tasks.spawn(async move {
                    let content = Bytes::from(vec![0x5a; phase.bytes() as usize]);
                    let mut samples = Samples::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= share || failed.load(Ordering::Relaxed) || Instant::now() >= deadline {
                            return Ok::<_, anyhow::Error>((target, samples));
                        }
                        let began = Instant::now();
                        let result =
                            operation(&connection, &directory, phase, target, number, file_mib, content.clone()).await;
                        match result {
                            Ok(bytes) => samples.bytes += bytes,
                            Err(err) => {
                                failed.store(true, Ordering::Relaxed);
                                return Err(anyhow!("{}: {err:#}", phase.title()));
                            }
                        }
                        samples.latencies_micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                        completed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
    }
    let mut by_target = vec![Samples::default(); config.targets.len()];
    let mut first_error = None;
    while let Some(ended) = tasks.join_next().await {
        match ended? {
            Ok((target, samples)) => by_target[target as usize].merge(&samples),
            Err(err) => {
                first_error.get_or_insert(err);
            }
        }
    }
    first_error.map_or(Ok((by_target, began.elapsed())), Err)
}

async fn operation(
    connection: &Connection,
    directory: &str,
    phase: Phase,
    target: u64,
    number: u64,
    file_mib: u64,
    content: Bytes,
) -> Result<u64> {
    let small = format!("{directory}/small-{target}-{number}");
    let large = format!("{directory}/large-{target}");
    // Pseudorandom offsets, the same in each run: Fibonacci hashing of the operation's number.
    let pages = (file_mib * LARGE_BYTES / SMALL_BYTES).max(1);
    let random_offset = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages * SMALL_BYTES;
    match phase {
        Phase::SmallWrite => connection.put(&small, content).await.map(|()| SMALL_BYTES),
        Phase::SmallRead => connection.read(&small, 0, SMALL_BYTES as u32).await,
        Phase::Attributes => connection.attributes(&small).await.map(|()| 0),
        Phase::SequentialWrite => connection.write(&large, number * LARGE_BYTES, content).await.map(|()| LARGE_BYTES),
        Phase::SequentialRead => connection.read(&large, number * LARGE_BYTES, LARGE_BYTES as u32).await,
        Phase::RandomWrite => connection.write(&large, random_offset, content).await.map(|()| SMALL_BYTES),
        Phase::RandomRead => connection.read(&large, random_offset, SMALL_BYTES as u32).await,
        Phase::SmallDelete => connection.remove_file(&small).await.map(|()| 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let mut samples = Samples { latencies_micros: (1..=100).rev().map(|number| number * 1000).collect(), bytes: 0 };
        for (quantile, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert!((samples.quantile_ms(quantile) - expected).abs() < 1e-9, "{quantile}");
        }
        assert!(Samples::default().quantile_ms(0.5).abs() < 1e-9);
    }

    #[test]
    fn all_targets_together_do_what_one_does() {
        let workload = Workload { files: 10, large_mib: 7, random: 5 };
        let total: u64 = Phase::ALL.iter().map(|phase| workload.operations(*phase)).sum();
        assert_eq!(total, 4 * 10 + 2 * 7 + 2 * 5);
    }
}
