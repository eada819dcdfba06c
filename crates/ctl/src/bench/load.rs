//! What is done in each phase, by how many at once, and how long each operation took.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use super::place::Place;

pub const SMALL_BYTES: u64 = 4 << 10;
pub const LARGE_BYTES: u64 = 1 << 20;

/// One kind of work. In this order: what is read was written before, and what was made is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
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
            Self::Attributes => "look at files",
            Self::SequentialWrite => "write 1 MiB in order",
            Self::SequentialRead => "read 1 MiB in order",
            Self::RandomWrite => "write 4 KiB anywhere",
            Self::RandomRead => "read 4 KiB anywhere",
            Self::SmallDelete => "delete files",
        }
    }

    /// Of one operation; what EFS meters at least for a request with content.
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

/// What is to be done, however many targets there are: together they do the same as one.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub files: u64,
    /// Of the large files of all targets together.
    pub large_mib: u64,
    /// Operations of 4 KiB anywhere in them.
    pub random: u64,
}

impl Amount {
    pub fn operations(&self, phase: Phase) -> u64 {
        match phase {
            Phase::SmallWrite | Phase::SmallRead | Phase::Attributes | Phase::SmallDelete => self.files,
            Phase::SequentialWrite | Phase::SequentialRead => self.large_mib,
            Phase::RandomWrite | Phase::RandomRead => self.random,
        }
    }
}

/// How it went at one target.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Of each operation, in microseconds.
    pub micros: Vec<u32>,
    pub bytes: u64,
}

impl Times {
    /// Milliseconds within which this share of the operations ended.
    pub fn quantile(&mut self, share: f64) -> f64 {
        if self.micros.is_empty() {
            return 0.0;
        }
        self.micros.sort_unstable();
        let index = ((self.micros.len() as f64 * share).ceil() as usize).clamp(1, self.micros.len()) - 1;
        f64::from(self.micros[index]) / 1e3
    }

    pub fn add(&mut self, other: &Self) {
        self.micros.extend(&other.micros);
        self.bytes += other.bytes;
    }
}

/// Some connections to each of some targets, and where on them everything is.
pub struct Lanes {
    pub targets: Vec<Vec<Place>>,
    pub directory: String,
    /// Operations on their way at once by each connection.
    pub depth: usize,
}

/// Does a phase, and gives the times of each target and those of all of it. Ends at `until`, done or not.
///
/// # Errors
/// The first operation that failed.
pub async fn run(
    lanes: &Lanes,
    phase: Phase,
    amount: &Amount,
    until: Instant,
    done: &Arc<AtomicU64>,
) -> Result<(Vec<Times>, Duration)> {
    let count = amount.operations(phase);
    let targets = lanes.targets.len() as u64;
    let failed = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (target, places) in (0_u64..).zip(&lanes.targets) {
        // What one target has to do, whose numbers are its own. The next one of it.
        let share = count / targets + u64::from(target < count % targets);
        let next = Arc::new(AtomicU64::new(0));
        let file = amount.large_mib / targets + u64::from(target < amount.large_mib % targets);
        for place in places {
            for _ in 0..lanes.depth {
                let (place, next, failed, done) =
                    (place.clone(), Arc::clone(&next), Arc::clone(&failed), Arc::clone(done));
                let directory = lanes.directory.clone();
                tasks.spawn(async move {
                    let content = Bytes::from(vec![0x5a; phase.bytes() as usize]);
                    let mut times = Times::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= share || failed.load(Ordering::Relaxed) || Instant::now() >= until {
                            return Ok::<_, anyhow::Error>((target, times));
                        }
                        let began = Instant::now();
                        let worked = operation(&place, &directory, phase, target, number, file, content.clone()).await;
                        match worked {
                            Ok(bytes) => times.bytes += bytes,
                            Err(err) => {
                                failed.store(true, Ordering::Relaxed);
                                return Err(anyhow!("{}: {err:#}", phase.title()));
                            }
                        }
                        times.micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
    }
    let mut all = vec![Times::default(); lanes.targets.len()];
    let mut first = None;
    while let Some(ended) = tasks.join_next().await {
        match ended? {
            Ok((target, times)) => all[target as usize].add(&times),
            Err(err) => {
                first.get_or_insert(err);
            }
        }
    }
    first.map_or(Ok((all, began.elapsed())), Err)
}

async fn operation(
    place: &Place,
    directory: &str,
    phase: Phase,
    target: u64,
    number: u64,
    file_mib: u64,
    content: Bytes,
) -> Result<u64> {
    let small = format!("{directory}/small-{target}-{number}");
    let large = format!("{directory}/large-{target}");
    // Anywhere, and the same in each run: a number of the golden ratio.
    let pages = (file_mib * LARGE_BYTES / SMALL_BYTES).max(1);
    let anywhere = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages * SMALL_BYTES;
    match phase {
        Phase::SmallWrite => place.put(&small, content).await.map(|()| SMALL_BYTES),
        Phase::SmallRead => place.read(&small, 0, SMALL_BYTES as u32).await,
        Phase::Attributes => place.attributes(&small).await.map(|()| 0),
        Phase::SequentialWrite => place.write(&large, number * LARGE_BYTES, content).await.map(|()| LARGE_BYTES),
        Phase::SequentialRead => place.read(&large, number * LARGE_BYTES, LARGE_BYTES as u32).await,
        Phase::RandomWrite => place.write(&large, anywhere, content).await.map(|()| SMALL_BYTES),
        Phase::RandomRead => place.read(&large, anywhere, SMALL_BYTES as u32).await,
        Phase::SmallDelete => place.remove_file(&small).await.map(|()| 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let mut times = Times { micros: (1..=100).rev().map(|number| number * 1000).collect(), bytes: 0 };
        for (share, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert!((times.quantile(share) - expected).abs() < 1e-9, "{share}");
        }
        assert!(Times::default().quantile(0.5).abs() < 1e-9);
    }

    #[test]
    fn all_targets_together_do_what_one_does() {
        let amount = Amount { files: 10, large_mib: 7, random: 5 };
        let total: u64 = Phase::ALL.iter().map(|phase| amount.operations(*phase)).sum();
        assert_eq!(total, 4 * 10 + 2 * 7 + 2 * 5);
    }
}
