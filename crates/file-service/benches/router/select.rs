//! The choice of a target, against what it cannot do without, one SHA-256 of the path, and against other hashes.

use std::{
    hint::black_box,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hashring::HashRing;
use pingora_ketama::{Bucket, Continuum};
use router::{
    select::named,
    table::{Routing, Table},
};
use sha2::{Digest, Sha256};

use crate::{Settings, servers::list};
use bench_kit::allocations;
use bench_kit::report::{Report, Samples, Target, markdown, number, paragraph};

const TARGETS: usize = 6;
const BYTES: usize = 64;
const PATHS: usize = 1024;
const MOST_TIMES_SHA256: f64 = 1.5;

/// The original design's, to the letter, timed by itself: starting Python is not part of it.
const SEED: &str = "
import hashlib, time
paths = [f'user/{n:08}/documents/2024/'.ljust(64, 'x') for n in range(1024)]
began = time.perf_counter_ns()
for _ in range(20):
    for p in paths:
        int(hashlib.sha256(p.encode()).hexdigest(), 16) % 6
print((time.perf_counter_ns() - began) / (20 * len(paths)))
";

/// So many times over all paths, and how long that took.
type Turn<'a> = Box<dyn Fn(&[String], u32) -> Duration + 'a>;

struct Peer<'a> {
    name: &'static str,
    turn: Turn<'a>,
    target: Target,
    ours: bool,
    nanoseconds: Samples,
    allocations: u64,
}

impl<'a> Peer<'a> {
    /// The loop is compiled with the call in it.
    fn new<T>(name: &'static str, call: impl Fn(&str) -> T + 'a) -> Self {
        let turn = move |paths: &[String], times: u32| {
            let began = Instant::now();
            for _ in 0..times {
                for path in paths {
                    black_box(call(black_box(path)));
                }
            }
            began.elapsed()
        };
        Self {
            name,
            turn: Box::new(turn),
            target: Target::None,
            ours: false,
            nanoseconds: Samples::default(),
            allocations: 0,
        }
    }

    fn ours(self) -> Self {
        Self { target: Target::AtMost(MOST_TIMES_SHA256), ours: true, ..self }
    }
}

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let paths: Vec<_> =
        (0..PATHS).map(|index| format!("{:x<BYTES$}", format!("user/{index:08}/documents/2024/"))).collect();
    ensure!(paths.iter().all(|path| path.len() == BYTES), "a path is not of {BYTES} bytes");
    let table = |strategy| {
        let strategy = named(strategy).with_context(|| format!("no strategy {strategy}"))?;
        Ok::<_, anyhow::Error>(Table::new(list(TARGETS)?, Routing { strategy, local: None })?)
    };
    let (rendezvous, modulo) = (table("rendezvous")?, table("sha256-modulo")?);
    let address = |index: usize| SocketAddr::from(([10, 0, index as u8, 1], 2049));
    let buckets: Vec<_> = (0..TARGETS).map(|index| Bucket::new(address(index), 1)).collect();
    let continuum = Continuum::new(&buckets);
    let mut ring = HashRing::new();
    ring.batch_add((0..TARGETS).map(address).collect());

    let mut peers = [
        Peer::new("one SHA-256 of the path", |path| Sha256::digest(path)),
        Peer::new("ours, rendezvous", |path| rendezvous.first(path.as_bytes(), &|_| true)).ours(),
        Peer::new("ours, sha256-modulo", |path| modulo.first(path.as_bytes(), &|_| true)).ours(),
        Peer::new("pingora-ketama", |path| continuum.node(path.as_bytes())),
        Peer::new("hashring", |path| ring.get(&path).copied()),
    ];
    let (rounds, times) = if settings.quick { (7, 20) } else { (51, 100) };
    let mut seed = Samples::default();
    for _ in 0..rounds {
        for peer in &mut peers {
            let before = allocations::count();
            let took = (peer.turn)(&paths, times);
            peer.allocations += allocations::count() - before;
            peer.nanoseconds.add(took.as_secs_f64() * 1e9 / (f64::from(times) * PATHS as f64));
        }
        seed.add(python()?);
    }

    let [sha256, ..] = &peers;
    let sha256 = sha256.nanoseconds.clone();
    let line = |name: &str, nanoseconds: &Samples, allocations: String, target: Target| {
        let ratio = nanoseconds.ratio_to(&sha256);
        let [target, outcome] = target.cells(ratio, 1);
        let cells = [number(nanoseconds.median(), 1), nanoseconds.range(1), format!("{ratio:.2}")];
        let [median, spread, ratio] = cells;
        [name.to_owned(), median, spread, ratio, allocations, target, outcome]
    };
    let lines = peers.iter().map(|peer| {
        let each = peer.allocations as f64 / (f64::from(times) * PATHS as f64 * rounds as f64);
        line(peer.name, &peer.nanoseconds, number(each, 0), peer.target)
    });
    let lines = lines.chain([line("the original design's Python", &seed, String::new(), Target::None)]);
    let head = ["", "ns a call", "from – to", "× SHA-256", "allocations", "target", ""];
    report.say(&format!(
        "\n## select: which of {TARGETS} targets, by a path of {BYTES} bytes\n\n{}\n\n{}",
        paragraph(&format!(
            "{rounds} rounds of {} calls each, over {PATHS} paths. Both of ours by way of `Table`, all targets usable. \
             SHA-256 is that of the same library, of two blocks. pingora-ketama and hashring take hashes that do not \
             resist whoever chooses the paths: CRC-32 over 160 points a target, SipHash with a known key over one.",
            number(f64::from(times) * PATHS as f64, 0)
        )),
        markdown(head, lines)
    ));
    let allocated: u64 = peers.iter().filter(|peer| peer.ours).map(|peer| peer.allocations).sum();
    report.say(&format!("\nOurs allocates: {}.", if allocated == 0 { "never" } else { "NOT KEPT, it is never to" }));
    Ok(())
}

/// Nanoseconds of one call.
fn python() -> Result<f64> {
    let output = Command::new("python3").args(["-c", SEED]).output().context("python3")?;
    ensure!(output.status.success(), "python3: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
