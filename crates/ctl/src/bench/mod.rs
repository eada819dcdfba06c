//! `efs-autoscale bench`: measures one mount target, and the gain of each further one.

mod connection;
mod load;
mod report;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, value_parser};
use probe::{Dial, ServerOptions, grouped, interruption};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use self::{
    connection::{Connection, Target},
    load::{LoadConfig, Phase, SMALL_BYTES, Samples, Workload},
    report::{ByTarget, Measurement, Rate},
};
use crate::screen::Screen;

/// Exit status when `--max-seconds` ended the measurement early.
const INCOMPLETE: u8 = 1;
/// Exit status when the measurement failed, or its directory could not be removed.
const FAILED: u8 = 2;
/// Exit status after Ctrl-C or SIGTERM: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

const DIRECTORY_PREFIX: &str = ".efs-autoscale-bench-";
/// Price of elastic throughput in us-east-1 in 2026. EFS meters at least 4 KiB per request.
const DOLLARS_PER_GB_READ: f64 = 0.03;
const DOLLARS_PER_GB_WRITTEN: f64 = 0.06;

/// Text below the options in `--help`.
pub const HELP: &str = "\
Writes, reads, stats and deletes small files, and reads and writes large files sequentially and at random. It repeats this with
the first target, with the first two, and so on, and with one connection to each target, with two, and so on. The total work is
the same for any number of targets. The report shows operations and megabytes per second and the median and 99th percentile
latency, per target and in total. For each number of targets it shows the gain: the throughput relative to one target, as the
median of the rounds, with minimum and maximum.

A TARGET is HOST[:PORT] of a mount target, accessed with the NFS client of the file service, or a directory on which one is
mounted (it begins with / or .). The page cache of this machine affects directories, but not mount targets.

The run works in one directory, .efs-autoscale-bench-…, and removes it at the end, also after Ctrl-C. If a run is killed, the
next one reports its directory, and --clean removes it. Before it starts, the run prints the number of requests and what EFS
charges for them.

Exit status: 0 if everything was measured, 1 if --max-seconds ended the run early, 2 if the run failed or its directory could
not be removed, 130 if it was interrupted.

Examples:
  efs-autoscale bench 10.0.1.5 10.0.2.5 10.0.3.5 --file-system fs-0123456789abcdef0 --region ap-northeast-1 --svg gains.svg
  efs-autoscale bench /mnt/efs-0 /mnt/efs-1 --files 1000 --large-mib 64 --json";

/// Options of `efs-autoscale bench`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Mount targets, or directories on which they are mounted
    #[arg(value_name = "TARGET", required = true, num_args = 1..=16)]
    targets: Vec<Target>,
    #[command(flatten)]
    server: ServerOptions,
    /// Number of small files (4 KiB each)
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u64).range(1..=10_000_000))]
    files: u64,
    /// Total size of the large files in MiB
    #[arg(long, value_name = "MIB", default_value = "256", value_parser = value_parser!(u64).range(1..=1_048_576))]
    large_mib: u64,
    /// Number of random reads, and of random writes, of 4 KiB in the large files
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u64).range(1..=10_000_000))]
    random: u64,
    /// Maximum number of connections to each target; measured from 1 to this number
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u8).range(1..=16))]
    connections: u8,
    /// Concurrent operations per connection
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = value_parser!(u8).range(1..=64))]
    depth: u8,
    /// Number of rounds; the report shows their median, minimum and maximum
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Refuse to run if more than this would be read and written
    #[arg(long, value_name = "GIB", default_value = "20", value_parser = value_parser!(u64).range(1..=100_000))]
    max_gib: u64,
    /// End the measurement after this time
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = value_parser!(u64).range(1..=86_400))]
    max_seconds: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print one JSON object to stdout, and progress to stderr
    #[arg(long)]
    json: bool,
    /// Write a chart of the gains to this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Remove the directories that killed runs left behind, and exit
    #[arg(long)]
    clean: bool,
}

impl Options {
    fn workload(&self) -> Workload {
        // At least one file of each size per target.
        let targets = self.targets.len() as u64;
        Workload { files: self.files.max(targets), large_mib: self.large_mib.max(targets), random: self.random }
    }

    /// Number of times each phase runs: for each number of targets, each number of connections, and each round.
    fn repetitions(&self) -> u64 {
        self.targets.len() as u64 * u64::from(self.connections) * u64::from(self.rounds)
    }
}

/// Upper bound of the requests and bytes that EFS charges for.
struct Cost {
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Cost {
    fn estimate(options: &Options) -> Self {
        let (workload, mut cost) = (options.workload(), Self { requests: 0, read_bytes: 0, written_bytes: 0 });
        for phase in Phase::ALL {
            let requests = workload.operations(phase) * options.repetitions();
            let bytes = requests * phase.bytes().max(SMALL_BYTES);
            cost.requests += requests;
            match phase.writes() || phase == Phase::SmallDelete {
                true => cost.written_bytes += bytes,
                false => cost.read_bytes += bytes,
            }
        }
        cost
    }

    fn dollars(&self) -> f64 {
        self.read_bytes as f64 / 1e9 * DOLLARS_PER_GB_READ + self.written_bytes as f64 / 1e9 * DOLLARS_PER_GB_WRITTEN
    }
}

#[tokio::main]
pub async fn run(options: Options) -> ExitCode {
    let screen = Screen::new(options.json);
    let result = bench(&options, &screen).await;
    screen.rest();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn bench(options: &Options, screen: &Screen) -> Result<u8> {
    let cost = Cost::estimate(options);
    let all_bytes = cost.read_bytes + cost.written_bytes;
    if all_bytes > options.max_gib << 30 {
        let gib = all_bytes as f64 / f64::from(1 << 30);
        bail!(
            "--max-gib {}: the run would transfer {gib:.1} GiB; reduce --files, --large-mib, --random, --rounds or --connections",
            options.max_gib
        );
    }
    let dial = Dial::new(&options.server).await.map_err(|err| anyhow::anyhow!("{err}"))?;
    let mut targets = Vec::new();
    for target in &options.targets {
        let mut connections = Vec::new();
        for _ in 0..options.connections {
            connections.push(Connection::open(target, &dial, &options.server.root).await?);
        }
        targets.push(connections);
    }
    let left: Vec<String> =
        targets[0][0].list("").await?.into_iter().filter(|name| name.starts_with(DIRECTORY_PREFIX)).collect();
    if options.clean {
        for name in &left {
            remove(&targets, name).await.with_context(|| format!("{name} cannot be removed"))?;
            screen.line(&format!("  removed  {name}"));
        }
        return Ok(0);
    }
    for name in &left {
        screen.line(&format!("  {name} belongs to a killed run or to one that is still running; --clean removes it"));
    }
    screen.line(&format!(
        "  at most {} requests, {:.1} GB read and {:.1} GB written: about {:.2} dollars of elastic throughput",
        grouped(cost.requests),
        cost.read_bytes as f64 / 1e9,
        cost.written_bytes as f64 / 1e9,
        cost.dollars()
    ));
    if !options.yes && !options.json && io::stdin().is_terminal() {
        confirm()?;
    }
    let stamp = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let directory = format!("{DIRECTORY_PREFIX}{stamp}-{}", std::process::id());
    let mut measurements = Vec::new();
    let result = tokio::select! {
        biased;
        () = interruption() => None,
        result = measure(options, &targets, &directory, screen, &mut measurements) => Some(result),
    };
    let removed = remove(&targets, &directory).await;
    for connection in targets.iter().flatten() {
        connection.close().await;
    }
    screen.rest();
    removed.with_context(|| format!("{directory} is left behind; --clean removes it"))?;
    let Some(result) = result else {
        eprintln!("efs-autoscale: interrupted; {directory} was removed");
        return Ok(INTERRUPTED);
    };
    let complete = result?;
    print_report(options, &cost, &measurements, complete, screen)?;
    Ok(if complete { 0 } else { INCOMPLETE })
}

/// Runs all rounds. Returns false if `--max-seconds` ended them early.
async fn measure(
    options: &Options,
    targets: &[Vec<Connection>],
    directory: &str,
    screen: &Screen,
    measurements: &mut Vec<Measurement>,
) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(options.max_seconds);
    let workload = options.workload();
    let completed = Arc::new(AtomicU64::new(0));
    let total: u64 = Phase::ALL.iter().map(|phase| workload.operations(*phase)).sum::<u64>() * options.repetitions();
    create_directory(targets, directory).await?;
    for round in 0..usize::from(options.rounds) {
        for connections in 1..=usize::from(options.connections) {
            for count in 1..=targets.len() {
                let chosen = targets[..count].iter().map(|all| all[..connections].to_vec()).collect();
                let config =
                    LoadConfig { targets: chosen, directory: directory.to_owned(), depth: usize::from(options.depth) };
                for (target, connections) in config.targets.iter().enumerate() {
                    connections[0].put(&format!("{directory}/large-{target}"), Bytes::new()).await?;
                }
                for phase in Phase::ALL {
                    screen.doing(&format!(
                        "round {} of {}, {count} targets, {connections} connections: {} ({} %)",
                        round + 1,
                        options.rounds,
                        phase.title(),
                        completed.load(Ordering::Relaxed) * 100 / total.max(1)
                    ));
                    let (mut samples, elapsed) = load::run(&config, phase, &workload, deadline, &completed).await?;
                    if Instant::now() >= deadline {
                        return Ok(false);
                    }
                    measurements.push(summarize(options, phase, (count, connections, round), &mut samples, elapsed));
                }
            }
        }
    }
    Ok(true)
}

fn summarize(
    options: &Options,
    phase: Phase,
    (targets, connections, round): (usize, usize, usize),
    samples: &mut [Samples],
    elapsed: Duration,
) -> Measurement {
    let seconds = elapsed.as_secs_f64();
    let mut all = Samples::default();
    for one in samples.iter() {
        all.merge(one);
    }
    let by_target = options.targets.iter().zip(samples);
    let by_target =
        by_target.map(|(target, samples)| ByTarget { target: target.name(), rate: Rate::new(samples, seconds) });
    let total = Rate::new(&mut all, seconds);
    Measurement { phase, targets, connections, round, by_target: by_target.collect(), total }
}

/// Creates the directory on each target. The targets may belong to one file system, or to several.
async fn create_directory(targets: &[Vec<Connection>], directory: &str) -> Result<()> {
    for (index, connections) in targets.iter().enumerate() {
        match connections[0].make_directory(directory).await {
            // It exists because an earlier target of the same file system created it.
            Err(_) if index > 0 && connections[0].attributes(directory).await.is_ok() => {}
            created => created.with_context(|| format!("{directory} cannot be created"))?,
        }
    }
    Ok(())
}

async fn remove(targets: &[Vec<Connection>], directory: &str) -> Result<()> {
    for connections in targets {
        connections[0].remove_all(directory).await?;
    }
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize, JsonSchema)]
struct Summary<'a> {
    program: &'static str,
    targets: Vec<String>,
    /// `false`: `--max-seconds` ended the measurement early.
    complete: bool,
    cost: CostSummary,
    measured: &'a [Measurement],
    gains: &'a [report::Gain],
    /// What the gains mean, in a sentence.
    means: String,
}

#[derive(Serialize, JsonSchema)]
struct CostSummary {
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
    /// At list prices of elastic throughput.
    dollars: f64,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Summary<'_>)
}

fn print_report(
    options: &Options,
    cost: &Cost,
    measurements: &[Measurement],
    complete: bool,
    screen: &Screen,
) -> Result<()> {
    let gains = report::gains(measurements);
    if let Some(file) = &options.svg {
        std::fs::write(file, report::chart(&gains, usize::from(options.connections)))
            .with_context(|| format!("--svg {}", file.display()))?;
    }
    if options.json {
        let summary = Summary {
            program: concat!("efs-autoscale ", env!("CARGO_PKG_VERSION")),
            targets: options.targets.iter().map(Target::name).collect(),
            complete,
            cost: CostSummary {
                requests: cost.requests,
                read_bytes: cost.read_bytes,
                written_bytes: cost.written_bytes,
                dollars: cost.dollars(),
            },
            measured: measurements,
            means: report::meaning(&gains),
            gains: &gains,
        };
        println!("{}", serde_json::to_string(&summary)?);
        return Ok(());
    }
    screen.line(&report::table(measurements, &gains));
    screen.line(&report::meaning(&gains));
    if !complete {
        screen.line("The report is incomplete: --max-seconds ended the measurement early.");
    }
    Ok(())
}

/// # Errors
/// The user does not confirm.
fn confirm() -> Result<()> {
    eprint!("Continue? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not confirmed; nothing was changed (--yes skips this question)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{load::LARGE_BYTES, *};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_cost_counts_each_request_as_four_kibibytes_at_least() {
        let words = ["bench", "/a", "/b", "--files", "10", "--large-mib", "2", "--random", "5", "--rounds", "1"];
        let cost = Cost::estimate(&Program::parse_from(words).options);
        // With one target and with two, one connection to each, one round.
        assert_eq!(cost.requests, 2 * (4 * 10 + 2 * 2 + 2 * 5));
        assert_eq!(cost.read_bytes, 2 * (10 * 4096 + 10 * 4096 + 2 * LARGE_BYTES + 5 * 4096));
        assert_eq!(cost.written_bytes, 2 * (10 * 4096 + 2 * LARGE_BYTES + 5 * 4096 + 10 * 4096));
        assert!(
            (cost.dollars() - (cost.read_bytes as f64 * 0.03 + cost.written_bytes as f64 * 0.06) / 1e9).abs() < 1e-9
        );
    }
}
