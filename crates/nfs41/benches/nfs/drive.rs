//! Puts one client under load, in a process of its own: arguments, measurement and output. All clients in Rust share
//! this code; `peers/libnfs.c` does the same.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Number of entries in the directory that is listed.
pub const ENTRIES: usize = 10_000;

/// The task of a client.
#[derive(Clone)]
pub struct Job {
    pub address: SocketAddr,
    pub connections: usize,
    /// Concurrent operations over all connections.
    pub in_flight: usize,
    pub length: Length,
    pub operation: Operation,
    /// Bytes of a file.
    pub size: usize,
    /// Directory below the server's root, with files named 0, 1, 2 …
    pub directory: String,
    /// Number of files. Files that are written or removed have new names instead.
    pub files: u64,
}

#[derive(Clone, Copy)]
pub enum Length {
    For(Duration),
    Times(u64),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Operation {
    Stat,
    Read,
    /// Creates a file and writes it to stable storage.
    Write,
    Remove,
    Names,
    /// Names with attributes.
    Entries,
    /// Many connections, each of which reads a file once.
    Idle,
    /// Streams a file that is longer than the memory it may take.
    StreamIn,
    StreamOut,
}

impl Job {
    /// Parses the arguments that `Client::turn` passes.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut next = move |what: &'static str| arguments.next().context(what);
        Ok(Self {
            address: next("an address")?.parse()?,
            connections: next("connections")?.parse()?,
            in_flight: next("calls in flight")?.parse()?,
            length: {
                let length = next("a length")?;
                match length.strip_suffix("ms") {
                    Some(ms) => Length::For(Duration::from_millis(ms.parse()?)),
                    None => Length::Times(length.parse()?),
                }
            },
            operation: match &*next("an operation")? {
                "stat" => Operation::Stat,
                "read" => Operation::Read,
                "write" => Operation::Write,
                "remove" => Operation::Remove,
                "names" => Operation::Names,
                "entries" => Operation::Entries,
                "idle" => Operation::Idle,
                "stream-in" => Operation::StreamIn,
                "stream-out" => Operation::StreamOut,
                other => anyhow::bail!("what is {other}?"),
            },
            size: next("a size")?.parse()?,
            directory: next("a directory")?,
            files: next("files")?.parse()?,
        })
    }

    /// The name of the next file.
    pub fn name(&self, index: u64) -> u64 {
        match self.operation {
            Operation::Write | Operation::Remove => index,
            _ => index % self.files,
        }
    }
}

/// Repeats an operation with the task's concurrency, and prints the results. `one` gets the index of the worker and of
/// the operation.
pub async fn drive<F>(job: &Job, one: impl Fn(usize, u64) -> F + Clone + Send + 'static) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    // Warm-up, which is not measured.
    let (before, length, most) = match job.length {
        Length::For(length) => (length / 4, length, u64::MAX),
        Length::Times(times) => (Duration::ZERO, Duration::from_secs(600), times),
    };
    let next = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + before;
    let until = from + length;
    let mut workers = JoinSet::new();
    for worker in 0..job.in_flight {
        let (next, one) = (Arc::clone(&next), one.clone());
        workers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                if index >= most || began >= until {
                    return anyhow::Ok(took);
                }
                one(worker, index).await.with_context(|| format!("operation {index}"))?;
                let ended = Instant::now();
                if ended >= from && ended < until {
                    took.push(ended - began);
                }
            }
        });
    }
    let began = tokio::spawn(async move {
        sleep_until(from).await;
        processor()
    });
    let used = tokio::spawn(async move {
        sleep_until(until).await;
        processor()
    });
    let mut took: Vec<Duration> = Vec::new();
    while let Some(worker) = workers.join_next().await {
        took.extend(worker??);
    }
    ensure!(!took.is_empty(), "nothing was done in time");
    // With a fixed number of operations, CPU time is not measured.
    let used = if most == u64::MAX { used.await? - began.await? } else { Duration::ZERO };
    took.sort_unstable();
    let at = |part: f64| took[(took.len() as f64 * part) as usize].as_secs_f64() * 1e6;
    let (count, each) = (took.len() as f64, used.as_secs_f64() * 1e6 / took.len() as f64);
    println!("came to {} {:.2} {:.2} {each:.3}", count / length.as_secs_f64(), at(0.5), at(0.99));
    Ok(())
}

/// CPU time of this process.
fn processor() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or_default())
}

/// Resident memory of this process.
pub fn resident_kib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
