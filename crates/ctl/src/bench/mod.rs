//! `efs-autoscale bench`: what one mount target does, and what each further one brings.

mod load;
mod place;
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
use serde_json::{Value, json};

use self::{
    load::{Amount, Lanes, Phase, SMALL_BYTES},
    place::{Place, Target},
    report::{ByTarget, Measured, Rate},
};
use crate::screen::Screen;

/// Exit status when something was measured, and the time was over before all of it was.
const INCOMPLETE: u8 = 1;
/// Exit status when nothing could be measured, or something is left behind.
const FAILED: u8 = 2;
/// Exit status of a run that somebody ended.
const INTERRUPTED: u8 = 130;

const PREFIX: &str = ".efs-autoscale-bench-";
/// Dollars a gigabyte, of elastic throughput in us-east-1 in 2026; each request is at least 4 KiB.
const DOLLARS_READ: f64 = 0.03;
const DOLLARS_WRITTEN: f64 = 0.06;

/// What `--help` says below the options.
pub const HELP: &str = "\
Writes, reads, looks at and deletes small files, and writes and reads large ones in order and anywhere: with the first target,
with the first two, and so on, by one connection to each, by two, and so on. All targets together do the same work as one
does. What comes out are operations and megabytes a second, and within which time half and 99 % of the operations end, of
each target and of all; and for each number of targets how many times as much as one target they did, as the median of the
rounds with the least and the most of them.

A target is HOST[:PORT] of a mount target, which is spoken to by the service's own NFS client, or a directory on which one is
mounted (it begins with / or .). Directories are measured with this machine's cache; mount targets are not.

It makes one directory, .efs-autoscale-bench-…, works in there and removes it, also after Ctrl-C. What a run that was killed
has left is named by the next one; --clean removes it. It says first how many requests it makes and what EFS charges for them.

Exit status: 0 when all was measured, 1 when the time was over before, 2 when it could not be or something is left behind,
130 when it was interrupted.

Examples:
  efs-autoscale bench 10.0.1.5 10.0.2.5 10.0.3.5 --file-system fs-0123456789abcdef0 --region ap-northeast-1 --svg gains.svg
  efs-autoscale bench /mnt/efs-0 /mnt/efs-1 --files 1000 --large-mib 64 --json";

/// What is measured, and how much of it is done.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Mount targets, or directories on which they are mounted
    #[arg(value_name = "TARGET", required = true, num_args = 1..=16)]
    targets: Vec<Target>,
    #[command(flatten)]
    server: ServerOptions,
    /// Small files, of 4 KiB each
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u64).range(1..=10_000_000))]
    files: u64,
    /// MiB of the large files
    #[arg(long, value_name = "MIB", default_value = "256", value_parser = value_parser!(u64).range(1..=1_048_576))]
    large_mib: u64,
    /// Reads and writes of 4 KiB anywhere in the large files
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u64).range(1..=10_000_000))]
    random: u64,
    /// Connections to each target: from one to so many
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u8).range(1..=16))]
    connections: u8,
    /// Operations that each connection has on their way at once
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = value_parser!(u8).range(1..=64))]
    depth: u8,
    /// How often all of it is done, for the spread
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// No more than so many GiB are read and written
    #[arg(long, value_name = "GIB", default_value = "20", value_parser = value_parser!(u64).range(1..=100_000))]
    max_gib: u64,
    /// No longer than this
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = value_parser!(u64).range(1..=86_400))]
    max_seconds: u64,
    /// Ask nobody
    #[arg(long)]
    yes: bool,
    /// One JSON object on stdout, and progress on stderr
    #[arg(long)]
    json: bool,
    /// Draw the gains into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Remove what runs that were killed have left, and end
    #[arg(long)]
    clean: bool,
}

impl Options {
    fn amount(&self) -> Amount {
        // Of each target at least one file of each kind.
        let targets = self.targets.len() as u64;
        Amount { files: self.files.max(targets), large_mib: self.large_mib.max(targets), random: self.random }
    }

    /// How often each phase is done: for each number of targets and of connections, in each round.
    fn repeats(&self) -> u64 {
        self.targets.len() as u64 * u64::from(self.connections) * u64::from(self.rounds)
    }
}

/// What it comes to at most.
struct Cost {
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Cost {
    fn of(options: &Options) -> Self {
        let (amount, mut cost) = (options.amount(), Self { requests: 0, read_bytes: 0, written_bytes: 0 });
        for phase in Phase::ALL {
            let requests = amount.operations(phase) * options.repeats();
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
        self.read_bytes as f64 / 1e9 * DOLLARS_READ + self.written_bytes as f64 / 1e9 * DOLLARS_WRITTEN
    }
}

#[tokio::main]
pub async fn run(options: Options) -> ExitCode {
    let screen = Screen::new(options.json);
    let ended = bench(&options, &screen).await;
    screen.rest();
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn bench(options: &Options, screen: &Screen) -> Result<u8> {
    let cost = Cost::of(options);
    let all_bytes = cost.read_bytes + cost.written_bytes;
    if all_bytes > options.max_gib << 30 {
        let gib = all_bytes as f64 / f64::from(1 << 30);
        bail!(
            "--max-gib {}: this is {gib:.1} GiB; ask for fewer --files, --large-mib, --random, --rounds or --connections",
            options.max_gib
        );
    }
    let dial = Dial::new(&options.server).await.map_err(|err| anyhow::anyhow!("{err}"))?;
    let mut targets = Vec::new();
    for target in &options.targets {
        let mut places = Vec::new();
        for _ in 0..options.connections {
            places.push(Place::open(target, &dial, &options.server.root).await?);
        }
        targets.push(places);
    }
    let left: Vec<String> = targets[0][0].list("").await?.into_iter().filter(|name| name.starts_with(PREFIX)).collect();
    if options.clean {
        for name in &left {
            remove(&targets, name).await.with_context(|| format!("{name} is not removed"))?;
            screen.line(&format!("  removed  {name}"));
        }
        return Ok(0);
    }
    for name in &left {
        screen.line(&format!("  {name} is of a run that was killed, or of one that runs; --clean removes it"));
    }
    screen.line(&format!(
        "  {} requests at most, {:.1} GB read and {:.1} GB written: about {:.2} dollars of elastic throughput",
        grouped(cost.requests),
        cost.read_bytes as f64 / 1e9,
        cost.written_bytes as f64 / 1e9,
        cost.dollars()
    ));
    if !options.yes && !options.json && io::stdin().is_terminal() {
        agree()?;
    }
    let stamp = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let directory = format!("{PREFIX}{stamp}-{}", std::process::id());
    let mut measured = Vec::new();
    let ended = tokio::select! {
        biased;
        () = interruption() => None,
        ended = measure(options, &targets, &directory, screen, &mut measured) => Some(ended),
    };
    let removed = remove(&targets, &directory).await;
    for place in targets.iter().flatten() {
        place.close().await;
    }
    screen.rest();
    removed.with_context(|| format!("{directory} is left behind; --clean removes it"))?;
    let Some(ended) = ended else {
        eprintln!("efs-autoscale: interrupted; nothing is left behind");
        return Ok(INTERRUPTED);
    };
    let complete = ended?;
    say(options, &cost, &measured, complete, screen)?;
    Ok(if complete { 0 } else { INCOMPLETE })
}

/// All rounds, as far as the time goes. Was it enough?
async fn measure(
    options: &Options,
    targets: &[Vec<Place>],
    directory: &str,
    screen: &Screen,
    measured: &mut Vec<Measured>,
) -> Result<bool> {
    let until = Instant::now() + Duration::from_secs(options.max_seconds);
    let amount = options.amount();
    let done = Arc::new(AtomicU64::new(0));
    let all: u64 = Phase::ALL.iter().map(|phase| amount.operations(*phase)).sum::<u64>() * options.repeats();
    make(targets, directory).await?;
    for round in 0..usize::from(options.rounds) {
        for connections in 1..=usize::from(options.connections) {
            for count in 1..=targets.len() {
                let chosen = targets[..count].iter().map(|places| places[..connections].to_vec()).collect();
                let lanes =
                    Lanes { targets: chosen, directory: directory.to_owned(), depth: usize::from(options.depth) };
                for (target, places) in lanes.targets.iter().enumerate() {
                    places[0].put(&format!("{directory}/large-{target}"), Bytes::new()).await?;
                }
                for phase in Phase::ALL {
                    screen.doing(&format!(
                        "round {} of {}, {count} targets, {connections} connections: {} ({} %)",
                        round + 1,
                        options.rounds,
                        phase.title(),
                        done.load(Ordering::Relaxed) * 100 / all.max(1)
                    ));
                    let (mut times, took) = load::run(&lanes, phase, &amount, until, &done).await?;
                    if Instant::now() >= until {
                        return Ok(false);
                    }
                    measured.push(summed(options, phase, (count, connections, round), &mut times, took));
                }
            }
        }
    }
    Ok(true)
}

fn summed(
    options: &Options,
    phase: Phase,
    (targets, connections, round): (usize, usize, usize),
    times: &mut [load::Times],
    took: Duration,
) -> Measured {
    let seconds = took.as_secs_f64();
    let mut all = load::Times::default();
    for one in times.iter() {
        all.add(one);
    }
    let by_target = options.targets.iter().zip(times);
    let by_target = by_target.map(|(target, times)| ByTarget { target: target.name(), rate: Rate::of(times, seconds) });
    Measured { phase, targets, connections, round, by_target: by_target.collect(), total: Rate::of(&mut all, seconds) }
}

/// On each target: they may be mounts of one file system, or not.
async fn make(targets: &[Vec<Place>], directory: &str) -> Result<()> {
    for (index, places) in targets.iter().enumerate() {
        match places[0].make_directory(directory).await {
            // The first one's.
            Err(_) if index > 0 && places[0].attributes(directory).await.is_ok() => {}
            made => made.context("nothing can be written there")?,
        }
    }
    Ok(())
}

async fn remove(targets: &[Vec<Place>], directory: &str) -> Result<()> {
    for places in targets {
        places[0].remove_all(directory).await?;
    }
    Ok(())
}

fn say(options: &Options, cost: &Cost, measured: &[Measured], complete: bool, screen: &Screen) -> Result<()> {
    let gains = report::gains(measured);
    if let Some(file) = &options.svg {
        std::fs::write(file, report::chart(&gains, usize::from(options.connections)))
            .with_context(|| format!("--svg {}", file.display()))?;
    }
    if options.json {
        let object: Value = json!({
            "program": concat!("efs-autoscale ", env!("CARGO_PKG_VERSION")),
            "targets": options.targets.iter().map(Target::name).collect::<Vec<_>>(),
            "complete": complete,
            "cost": {"requests": cost.requests, "read_bytes": cost.read_bytes, "written_bytes": cost.written_bytes,
                     "dollars": cost.dollars()},
            "measured": measured,
            "gains": gains,
            "means": report::meaning(&gains),
        });
        println!("{object}");
        return Ok(());
    }
    screen.line(&report::table(measured, &gains));
    screen.line(&report::meaning(&gains));
    if !complete {
        screen.line("The time was over before all of it was done: --max-seconds.");
    }
    Ok(())
}

/// # Errors
/// When they do not agree.
fn agree() -> Result<()> {
    eprint!("Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nobody agreed; nothing was done (--yes asks nobody)");
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
        let cost = Cost::of(&Program::parse_from(words).options);
        // Two numbers of targets, one of connections, one round.
        assert_eq!(cost.requests, 2 * (4 * 10 + 2 * 2 + 2 * 5));
        assert_eq!(cost.read_bytes, 2 * (10 * 4096 + 10 * 4096 + 2 * LARGE_BYTES + 5 * 4096));
        assert_eq!(cost.written_bytes, 2 * (10 * 4096 + 2 * LARGE_BYTES + 5 * 4096 + 10 * 4096));
        assert!(
            (cost.dollars() - (cost.read_bytes as f64 * 0.03 + cost.written_bytes as f64 * 0.06) / 1e9).abs() < 1e-9
        );
    }
}
