//! What the library adds to the calls that it makes.

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use files::{Files, Options};
use files_mounted as mounted;
use router::{
    FilePath,
    table::{Routing, Table},
};

use crate::{
    Settings,
    servers::{Site, content, list, place},
};
use bench_kit::report::{Report, Samples, Target, markdown, number, paragraph};

const TARGETS: usize = 3;
const FILES: usize = 100;
const SIZE: usize = 4 << 10;
const MOST: u64 = 1 << 20;
const MOST_ADDED_US: f64 = 10.0;

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let place = place(&settings.disk)?;
    let site = Site::new(place.path(), "site")?;
    let mut files = vec![];
    for number in 0..FILES {
        let (path, name) = (site.files().join(number.to_string()), FilePath::new(number.to_string())?);
        fs::write(&path, content(number, SIZE))?;
        files.push((path, name));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let turns = if settings.quick { 2_000 } else { 20_000 };
    let [bare, at_once, by_threads] = runtime.block_on(compare(&site, &files, settings.rounds, turns))?;
    let routing = routing(&files, settings.rounds, turns)?;

    let line = |name: &str, p50: &Samples, added: Option<Samples>| {
        let cells = added.map(|added| (added.median(), added.range(2)));
        let [target, outcome] = match &cells {
            Some((added, _)) => Target::AtMost(MOST_ADDED_US).cells(*added, 0),
            None => Target::None.cells(0.0, 0),
        };
        let (added, spread) = cells.map_or_else(Default::default, |(added, spread)| (number(added, 2), spread));
        [name.to_owned(), number(p50.median(), 2), p50.range(2), added, spread, target, outcome]
    };
    let difference = |of: &Samples| Some(of.zip_with(&bare, |one, other| one - other));
    let lines = [
        line("std::fs::read", &bare, None),
        line("Files::read, at once", &at_once, difference(&at_once)),
        line("Files::read, by a thread of its target", &by_threads, difference(&by_threads)),
        line("of that, the route and the counters", &routing, None),
    ];
    let head = ["", "p50 µs", "from – to", "added µs", "from – to", "target", ""];
    report.say(&format!(
        "\n## added: reading a warm file of 4 KiB through the library\n\n{}\n\n{}",
        paragraph(&format!(
            "{} rounds of {} reads each, one after the other, on a runtime of one thread. `std::fs::read` blocks whoever \
             calls it. The counters of the last line are stand-ins: two readings of the clock and four additions, as \
             each operation has.",
            settings.rounds,
            number(turns as f64, 0)
        )),
        markdown(head, lines)
    ));
    Ok(())
}

async fn compare(site: &Site, files: &[(PathBuf, FilePath)], rounds: usize, turns: usize) -> Result<[Samples; 3]> {
    let start = async |read_at_once| {
        let options = mounted::Options { base: site.base(), read_at_once, ..mounted::Options::default() };
        Files::start(list(TARGETS)?, options, Options::default()).await.map_err(anyhow::Error::from)
    };
    let ours: [Arc<Files>; 2] = [start(true).await?, start(false).await?];
    for (number, (path, name)) in files.iter().enumerate() {
        let expected = content(number, SIZE);
        ensure!(fs::read(path)? == expected, "{}", path.display());
        for ours in &ours {
            ensure!(ours.read(name, MOST).await? == expected, "{name}");
        }
    }
    let [mut bare, mut at_once, mut by_threads] = [const { Samples::new() }; 3];
    for _ in 0..rounds {
        let mut times = Vec::with_capacity(turns);
        for (path, _) in files.iter().cycle().take(turns) {
            let began = Instant::now();
            black_box(fs::read(path)?);
            times.push(began.elapsed());
        }
        bare.add(p50(times));
        for (ours, samples) in ours.iter().zip([&mut at_once, &mut by_threads]) {
            let mut times = Vec::with_capacity(turns);
            for (_, name) in files.iter().cycle().take(turns) {
                let began = Instant::now();
                black_box(ours.read(name, MOST).await?);
                times.push(began.elapsed());
            }
            samples.add(p50(times));
        }
    }
    Ok([bare, at_once, by_threads])
}

/// In microseconds.
fn p50(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Microseconds each: too short to be timed one by one.
fn routing(files: &[(PathBuf, FilePath)], rounds: usize, turns: usize) -> Result<Samples> {
    let table = Table::new(list(TARGETS)?, Routing::default())?;
    let counters: [AtomicU64; 4] = Default::default();
    let round = |_| {
        let began = Instant::now();
        for (_, name) in files.iter().cycle().take(turns) {
            let began = Instant::now();
            black_box(table.first(black_box(name.as_bytes()), &|_| true));
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            for counter in &counters {
                counter.fetch_add(took, Ordering::Relaxed);
            }
        }
        began.elapsed().as_secs_f64() * 1e6 / turns as f64
    };
    Ok((0..rounds).map(round).collect())
}
