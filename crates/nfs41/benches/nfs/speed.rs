//! Operations per second and latency.

use std::{collections::BTreeMap, hint, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Settings,
    clients::{Client, Length, Task},
    lab::{LARGE, LARGE_FILES, Lab, SMALL, SMALL_FILES},
};
use bench_kit::machine;
use bench_kit::report::{Report, Samples, Target, markdown, number, paragraph};

const DELAYS_MS: [u64; 2] = [0, 2];
const MANY: usize = 64;
/// Concurrency for large files.
const SOME: usize = 8;
const PIPELINE_MS: u64 = 10;

/// An operation and its concurrency.
struct Case {
    title: &'static str,
    about: &'static str,
    operation: &'static str,
    directory: &'static str,
    files: u64,
    size: usize,
    in_flight: usize,
    /// Target ratio to nfs-rs, in addition to the fastest other client.
    times_nfs_rs: Option<f64>,
}

const STAT: Case = Case {
    title: "stat, sequentially",
    about: "",
    operation: "stat",
    directory: "small",
    files: SMALL_FILES,
    size: SMALL,
    in_flight: 1,
    times_nfs_rs: None,
};
const READ: Case = Case { title: "read of 4 KiB, sequentially", operation: "read", ..STAT };
const ONE_OPEN: &str = "libnfs opens one file at a time per context: the server refuses concurrent OPENs of one open-owner \
     (NFS4ERR_BAD_SEQID).";
const WRITE: Case = Case {
    title: "write of 4 KiB to a new file, sequentially",
    about: "Created, written to stable storage and closed.",
    operation: "write",
    directory: "",
    ..STAT
};
const READ_LARGE: Case = Case {
    title: "read of 1 MiB, sequentially",
    operation: "read",
    directory: "large",
    files: LARGE_FILES,
    size: LARGE,
    ..STAT
};
const WRITE_LARGE: Case = Case { title: "write of 1 MiB to a new file, sequentially", size: LARGE, ..WRITE };
const CASES: [Case; 12] = [
    STAT,
    Case { title: "stat, 64 in flight", in_flight: MANY, ..STAT },
    WRITE,
    Case { title: "write of 4 KiB to a new file, 64 in flight", in_flight: MANY, times_nfs_rs: Some(2.0), ..WRITE },
    READ,
    Case { title: "read of 4 KiB, 64 in flight", about: ONE_OPEN, in_flight: MANY, times_nfs_rs: Some(2.0), ..READ },
    WRITE_LARGE,
    Case { title: "write of 1 MiB to a new file, 8 in flight", in_flight: SOME, ..WRITE_LARGE },
    READ_LARGE,
    Case { title: "read of 1 MiB, 8 in flight", about: ONE_OPEN, in_flight: SOME, ..READ_LARGE },
    Case {
        title: "names of a directory of 10,000",
        about: "libnfs always requests attributes.",
        operation: "names",
        directory: "many",
        size: 0,
        ..STAT
    },
    Case {
        title: "names and attributes of a directory of 10,000",
        operation: "entries",
        directory: "many",
        size: 0,
        ..STAT
    },
];

/// Results of a client in all rounds, or why it failed.
#[derive(Default)]
struct Measured {
    rate: Samples,
    p50_us: Samples,
    p99_us: Samples,
    processors_us: Samples,
    server_us: Samples,
    failed: Option<String>,
}

impl Measured {
    fn turn(&mut self, lab: &mut Lab, client: &Client, task: Task<'_>) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        let server = lab.server.id().context("the server is gone")?;
        let came = lab.within(task, |task| {
            let before = machine::cpu_time(server)?;
            let turn = client.turn(task)?;
            Ok((turn, machine::cpu_time(server)? - before))
        });
        match came {
            Ok((turn, server)) => {
                if let Length::Milliseconds(length) = task.length {
                    // Includes the warm-up of a quarter: see `drive::drive`.
                    let operations = turn.rate * Duration::from_millis(length).as_secs_f64() * 1.25;
                    self.server_us.add(server.as_secs_f64() * 1e6 / operations);
                }
                self.rate.add(turn.rate);
                self.p50_us.add(turn.p50_us);
                self.p99_us.add(turn.p99_us);
                self.processors_us.add(turn.processors_us);
            }
            Err(err) if client.is_ours() => return Err(err),
            Err(err) => self.failed = Some(format!("{err:#}")),
        }
        Ok(())
    }
}

/// All clients in turns over the same network path.
fn rounds(settings: &Settings, lab: &mut Lab, clients: &[Client], delay: u64, task: Task<'_>) -> Result<Vec<Measured>> {
    let address = lab.address(Duration::from_millis(delay));
    let mut measured: Vec<_> = clients.iter().map(|_| Measured::default()).collect();
    for round in 0..settings.rounds {
        for turn in 0..clients.len() {
            // Rotates the order.
            let index = (turn + round) % clients.len();
            measured[index].turn(lab, &clients[index], Task { address, ..task })?;
        }
    }
    Ok(measured)
}

/// The fastest other client.
fn best(measured: &[Measured]) -> Option<&Measured> {
    let peers = measured.iter().skip(1).filter(|peer| peer.failed.is_none());
    peers.max_by(|one, other| one.rate.median().total_cmp(&other.rate.median()))
}

impl Case {
    fn task(&self, settings: &Settings, lab: &Lab, connections: usize) -> Task<'static> {
        Task {
            address: lab.server.address(),
            connections,
            in_flight: self.in_flight,
            // A listing takes long.
            length: Length::Milliseconds(settings.milliseconds.max(if self.size == 0 { 1000 } else { 0 })),
            operation: self.operation,
            size: self.size,
            directory: self.directory,
            files: self.files,
        }
    }

    fn run(
        &self,
        settings: &Settings,
        lab: &mut Lab,
        clients: &[Client],
        delays: &[u64],
        report: &mut Report,
    ) -> Result<()> {
        let (mut lines, mut failures) = (vec![], BTreeMap::new());
        for &delay in delays {
            let connections: &[usize] = if self.in_flight == 1 { &[1] } else { &[1, 4] };
            for connections in connections {
                let task = self.task(settings, lab, *connections);
                let measured = rounds(settings, lab, clients, delay, task)?;
                let nfs_rs = clients.iter().position(|client| client.name == "nfs-rs").map(|index| &measured[index]);
                for (client, own) in clients.iter().zip(&measured) {
                    let way = match connections {
                        1 => format!("{delay} ms, {}", client.name),
                        _ => format!("{delay} ms, {}, {connections} connections", client.name),
                    };
                    if let Some(err) = &own.failed {
                        // Once per client: the other failures have the same reason.
                        failures.entry(client.name).or_insert_with(|| err.clone());
                        continue;
                    }
                    lines.push(line(way.clone(), own, best(&measured), client.is_ours(), 1.0));
                    if let (true, Some(times), Some(nfs_rs)) = (client.is_ours(), self.times_nfs_rs, nfs_rs) {
                        lines.push(line(format!("{way}, to nfs-rs"), own, Some(nfs_rs), true, times));
                    }
                }
            }
        }
        let head = ["", "each s", "from – to", "p50 µs", "p99 µs", "CPU µs", "server µs", "× best peer", "target", ""];
        let failures = failures.iter().map(|(name, err)| format!("\n\n{name} cannot: {err}.")).collect::<String>();
        let about = if self.about.is_empty() { String::new() } else { format!("\n\n{}", paragraph(self.about)) };
        report.say(&format!("\n## {}{about}\n\n{}{failures}", self.title, markdown(head, lines).trim_end()));
        Ok(())
    }
}

fn line(name: String, own: &Measured, other: Option<&Measured>, has_target: bool, least: f64) -> [String; 10] {
    let times = other.map(|other| own.rate.ratio_to(&other.rate));
    let [target, verdict] = match times {
        Some(times) if has_target => Target::AtLeast(least).cells(times, 1),
        _ => Target::None.cells(0.0, 0),
    };
    let digits = if own.rate.median() < 100.0 { 1 } else { 0 };
    [
        name,
        number(own.rate.median(), digits),
        own.rate.range(digits),
        number(own.p50_us.median(), 0),
        number(own.p99_us.median(), 0),
        number(own.processors_us.median(), 1),
        number(own.server_us.median(), 1),
        times.map(|times| number(times, 2)).unwrap_or_default(),
        target,
        verdict,
    ]
}

pub fn run(settings: &Settings, lab: &mut Lab, clients: &[Client], report: &mut Report) -> Result<()> {
    CASES.iter().try_for_each(|case| case.run(settings, lab, clients, &DELAYS_MS, report))
}

/// While every processor is busy with other threads.
pub fn busy(settings: &Settings, lab: &mut Lab, clients: &[Client], report: &mut Report) -> Result<()> {
    let case = Case {
        title: "stat, 64 in flight, on busy processors",
        about: "With one busy thread per processor.",
        in_flight: MANY,
        ..STAT
    };
    // The threads end when this is dropped.
    let running = Arc::new(());
    for _ in 0..thread::available_parallelism()?.get() {
        let running = Arc::downgrade(&running);
        thread::spawn(move || {
            while running.strong_count() > 0 {
                hint::spin_loop();
            }
        });
    }
    case.run(settings, lab, clients, &DELAYS_MS[..1], report)
}

/// The throughput of a full window of calls, compared with its theoretical maximum.
pub fn pipeline(settings: &Settings, lab: &mut Lab, clients: &[Client], report: &mut Report) -> Result<()> {
    const LEAST_PERCENT: f64 = 90.0;
    let most = MANY as f64 * 1000.0 / PIPELINE_MS as f64;
    let mut lines = vec![];
    for case in [&STAT, &READ, &WRITE] {
        let case = Case { in_flight: MANY, ..*case };
        let task = case.task(settings, lab, 1);
        for (client, own) in clients.iter().zip(rounds(settings, lab, clients, PIPELINE_MS, task)?) {
            let percent = own.rate.median() / most * 100.0;
            let target = if client.is_ours() { Target::AtLeast(LEAST_PERCENT) } else { Target::None };
            let [target, verdict] = target.cells(percent, 0);
            let name = format!("{}, {}", case.operation, client.name);
            if own.failed.is_some() {
                lines.push([name, "cannot".into(), String::new(), String::new(), String::new(), target, String::new()]);
                continue;
            }
            lines.push([
                name,
                number(own.rate.median(), 0),
                own.rate.range(0),
                number(own.p50_us.median() / 1e3, 2),
                number(percent, 1),
                target,
                verdict,
            ]);
        }
    }
    report.say(&format!(
        "\n## a round trip of {PIPELINE_MS} ms, {MANY} in flight over one connection\n\n{}\n\n{}",
        paragraph(&format!(
            "Files of 4 KiB. Percentage of {} operations per second, which {MANY} calls per {PIPELINE_MS} ms would be if server, \
             relay and client took no time.",
            number(most, 0)
        )),
        markdown(["", "each s", "from – to", "p50 ms", "%", "target", ""], lines)
    ));
    Ok(())
}
