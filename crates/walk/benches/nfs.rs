//! How fast the walk is without a mount, over NFS-Ganesha on this machine. Prints Markdown.
//!
//! `make bench-count-inside` builds and runs this; it takes `[--files N] [--rounds N]`. To compare with the kernel's
//! client, count the same directory of any server twice: `efs-autoscale count nfs://HOST:PORT/PATH --json`, which needs
//! no mount and is one file that brings all it needs, and `efs-autoscale count MOUNTED --json`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nfs_lab::{Ganesha, Options, Relay};
use walk::{Walk, nfs::Location};

/// In each directory.
const WIDE: usize = 100;

fn main() -> Result<()> {
    let (mut files, mut rounds) = (200_000, 3);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = || arguments.next().context("a number")?.parse().context("a number");
        match argument.as_str() {
            "--files" => files = { value }()?,
            "--rounds" => rounds = { value }()?,
            other => bail!("{other}: see the head of benches/nfs.rs"),
        }
    }
    ensure!(rounds > 0, "no rounds");
    if let Err(err) = Ganesha::available() {
        println!("skipped: {err}");
        return Ok(());
    }
    let server = Ganesha::start(Options { slots: 256, ..Options::default() });
    for (name, directories) in [("wide", files / WIDE), ("flat", 1)] {
        fill(&server.directory().join(name), directories, files / directories.max(1))?;
    }
    let relay = Relay::target(2, server.address());
    for name in ["wide", "flat"] {
        let root = server.directory().join(name);
        let began = Instant::now();
        let expected = walk::count(&root)?;
        println!(
            "\n## {name}: {} files in {} directories\n\nIn its own directory: {:.3} s.\n",
            expected.files,
            expected.directories,
            began.elapsed().as_secs_f64()
        );
        println!(
            "| latency | in flight | seconds | files/s | own processor | calls |\n|---:|---:|---:|---:|---:|---:|"
        );
        for latency in [0, 2] {
            relay.delay_round_trip(Duration::from_millis(latency));
            for threads in [1, 16, 64] {
                let (mut times, mut calls, processor) = (vec![], 0, processor_time()?);
                // Whoever takes long does so only once.
                while times.len() < rounds && times.iter().sum::<Duration>() < Duration::from_secs(6) {
                    // Without latency there is no relay to be measured.
                    let address = if latency == 0 { server.address() } else { relay.address() };
                    let before = relay.counts().calls;
                    let location = Location::new(address.ip().to_string(), address.port(), name);
                    let counted = Walk::nfs(location).threads(threads).count()?;
                    ensure!(counted.complete() && counted.files == expected.files, "{counted:?}");
                    times.push(counted.time);
                    calls = relay.counts().calls - before;
                }
                times.sort();
                let time = times[times.len() / 2].as_secs_f64();
                // The relay runs in this process too, and counts what goes through it.
                let own = (processor_time()? - processor) / times.len() as f64;
                let (own, calls) = match latency {
                    0 => (format!("{own:.3} s"), String::new()),
                    _ => (String::new(), calls.to_string()),
                };
                let rate = expected.files as f64 / time;
                println!("| {latency} ms | {threads} | {time:.3} | {rate:.0} | {own} | {calls} |");
            }
        }
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    println!("\nPeak memory of all of these, the relay's included: {}.", peak.trim());
    Ok(())
}

/// Seconds that this process has computed.
fn processor_time() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    // A hundred a second, on all of Linux.
    Ok(ticks.flat_map(str::parse::<f64>).sum::<f64>() / 100.0)
}

fn fill(root: &Path, directories: usize, files: usize) -> Result<()> {
    for directory in 0..directories {
        // Not all in one.
        let directory = root.join(format!("d{}", directory % 40)).join(format!("directory {directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..files {
            fs::File::create(directory.join(format!("a file of some length {file:06}")))?;
        }
    }
    Ok(())
}
