//! Measures the speed of the NFS client, beside other clients of the same server.
//!
//! `make bench-nfs` builds and runs this; `cargo bench -p nfs41 --bench nfs -- WHAT` takes
//!
//! ```text
//! [--quick] [--rounds N] [trips] [speed] [busy] [pipeline] [memory]
//! ```
//!
//! Without a name it runs all cases. `--quick`: fewer and shorter rounds. Only a full run is written to the page.
//!
//! Each client is a program of its own. A round is one turn of each client, one after the other, so that a disturbance
//! of the machine affects all of them, and a ratio is the median of the ratios of each round. Requires NFS-Ganesha,
//! root, and `nfs-rs-peer` and `libnfs-peer` in the PATH, which `make` builds.

mod client;
mod clients;
mod drive;
mod kernel;
mod lab;
mod memory;
mod speed;
mod trips;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use bench_kit::{
    allocations::CountingAllocator,
    machine,
    report::{Report, paragraph},
};
use clients::Client;
use lab::Lab;

/// Title of the page, make target, and a note about the kernel's client.
const WITHOUT: [&str; 3] = [
    "The NFS client on one machine",
    "bench-nfs",
    "Without the kernel's client, which `make bench-nfs-guest` measures in a guest.",
];
const WITH_THE_KERNEL: [&str; 3] = [
    "The NFS client and the kernel's client",
    "bench-nfs-guest",
    "The kernel's client uses NFS 4.1, and `nconnect=4` for 4 connections. It is mounted anew for each turn and has a \
     thread per call in flight. Caches are bypassed: attributes with AT_STATX_FORCE_SYNC, data with O_DIRECT. Its CPU time \
     is that of the system calls, without that of the kernel's threads.",
];

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

struct Settings {
    cases: Vec<&'static Case>,
    rounds: usize,
    /// Duration of one turn.
    milliseconds: u64,
    quick: bool,
}

struct Case {
    name: &'static str,
    run: fn(&Settings, &mut Lab, &[Client], &mut Report) -> Result<()>,
}

const CASES: [Case; 5] = [
    Case { name: "trips", run: trips::run },
    Case { name: "speed", run: speed::run },
    Case { name: "busy", run: speed::busy },
    Case { name: "pipeline", run: speed::pipeline },
    Case { name: "memory", run: memory::run },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    if arguments.next_if(|first| first == clients::OURS).is_some() {
        return client::run(arguments);
    }
    if arguments.next_if(|first| first == clients::KERNEL).is_some() {
        return kernel::run(arguments);
    }
    let settings = Settings::new(arguments)?;
    let load = machine::load()?;
    let (clients, mut lab, mut report) = (clients::all()?, Lab::start()?, Report::default());
    let [title, target, kernel] =
        if clients.iter().any(|client| client.name == clients::KERNEL) { WITH_THE_KERNEL } else { WITHOUT };
    report.say(&format!(
        "# {title}\n\nMade by `make {target}`, optimized for speed (`opt-level = 3`):\n{}\n\n{}\n\n{}",
        facts()?,
        paragraph(
            "Each client is a process of its own, and all take turns in front of the same server. Numbers are the median of the \
             rounds, with the range from the least to the most. A ratio is the median of the ratios of each round, to the \
             fastest other client. Server, client and, if there is a delay, the relay share the processors, so a ratio is \
             closer to 1 than that of the clients' own work. The CPU time per operation is given for the client and for the \
             server. With 0 ms the client connects to the server directly, otherwise through a relay that adds the delay."
        ),
        paragraph(&format!(
            "nfs-rs uses NFS 4.1, and 4 mounts for 4 connections. libnfs uses NFS 4.0 in one thread, and 4 contexts for 4 \
             connections. This crate's client reads as the service does: up to 128 KiB by the path, and the rest from the open \
             file in pieces of 128 KiB. {kernel}"
        ))
    ));
    for case in &settings.cases {
        (case.run)(&settings, &mut lab, &clients, &mut report).with_context(|| format!("case {}", case.name))?;
    }
    report.say(&format!("\nThe machine's load was {load} before, and {} at the end.", machine::load()?));
    if !settings.quick && settings.cases.len() == CASES.len() {
        let page =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance").canonicalize()?.join("nfs41.md");
        fs::write(&page, report.text())?;
        println!("written to {}", page.display());
    }
    Ok(())
}

/// The machine, and the versions of the server and the other clients.
fn facts() -> Result<String> {
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    Ok(format!(
        "{}, TCP with {};\nNFS-Ganesha {} on tmpfs, nfs-rs 0.11.1, libnfs {}.",
        machine::facts()?,
        congestion.trim(),
        machine::version("ganesha.nfsd", &["-v"], "V")?,
        machine::version("pkg-config", &["--modversion", "libnfs"], "").unwrap_or_else(|_| "left out".to_owned()),
    ))
}

impl Settings {
    fn new(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut settings = Self { cases: vec![], rounds: 5, milliseconds: 600, quick: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => (settings.quick, settings.rounds, settings.milliseconds) = (true, 2, 250),
                "--rounds" => settings.rounds = arguments.next().context("--rounds N")?.parse()?,
                name => match CASES.iter().find(|case| case.name == name) {
                    Some(case) => settings.cases.push(case),
                    None => bail!("{name}: see the head of benches/nfs/main.rs"),
                },
            }
        }
        if settings.cases.is_empty() {
            settings.cases = CASES.iter().collect();
        }
        ensure!(settings.rounds > 0, "no rounds");
        Ok(settings)
    }
}
