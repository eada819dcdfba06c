//! How fast the walk is, against other tools that count or list files, and against the bare calls.
//!
//! `make bench-count` builds and runs this; `cargo bench -p walk --bench count -- WHAT` takes
//!
//! ```text
//! [--quick] [--rounds N] [--trees DIR]   everything but NFS; quick: fewer rounds, no Python, nothing written
//! nfs [KERNEL...]                        over NFS, in a guest: see nfs.sh
//! ```
//!
//! Every tool is a process of its own, and they run in turns: a round is one run of each, so that what
//! disturbs the machine for a while disturbs all of them. Before the rounds each runs once for its count,
//! which is checked, and so that everything is in the page cache. Whoever takes long does so only once.
//!
//! The trees are made once, and kept. It needs fd, ripgrep, dua, find, python3 and strace in the PATH.

mod chart;
mod measure;
mod peers;
mod table;
mod tools;
mod traced;
mod trees;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bench_kit::report::markdown;
use chart::Group;
use table::{Row, compared, seconds, verdict};
use tools::{Files, TOOLS, Tool, UNCHANGED};
use traced::{Calls, Delays};
use trees::Tree;

/// A tool that takes longer than this is not asked again.
const LONG: Duration = Duration::from_secs(3);
const MOST_TIMES_PURE: f64 = 1.05;
const MOST_BYTES: u64 = 8_000_000;
const MOST_TIMES_BOUND: f64 = 2.0;
const MOST_CALLS: f64 = 3.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // What this program starts itself for.
        ["peer", name, directory, file @ ..] => {
            let file = file.first().map(Path::new);
            if let Some(files) = peers::run(name, Path::new(directory), file)? {
                println!("{files}");
            }
            Ok(())
        }
        ["list", directory, file] => Ok(fs::write(file, peers::list(Path::new(directory))?)?),
        ["tree", home, name] => trees::make(Path::new(home), name),
        ["nfs", kernels @ ..] => nfs(kernels),
        options => Settings::new(options)?.run(),
    }
}

struct Settings {
    trees: PathBuf,
    rounds: usize,
    quick: bool,
}

impl Settings {
    fn new(options: &[&str]) -> Result<Self> {
        let mut settings = Self { trees: trees::home()?, rounds: 5, quick: false };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match *option {
                "--quick" => (settings.quick, settings.rounds) = (true, 3),
                "--rounds" => settings.rounds = options.next().context("--rounds N")?.parse()?,
                "--trees" => settings.trees = options.next().context("--trees DIR")?.into(),
                other => bail!("{other}: see the head of benches/count/main.rs"),
            }
        }
        ensure!(settings.rounds > 0, "no rounds");
        Ok(settings)
    }

    fn run(&self) -> Result<()> {
        let files = Files::new()?;
        let mut report = Report::default();
        let mut groups = vec![];
        report.say(&format!(
            "# Counting on one machine\n\nMade by `make bench-count`: {} processors, Linux {}, {} rounds. Seconds are the\n\
             median of the rounds, × ours that of the ratios in the same round. Python counts links to files too, and with\n\
             its pool no file directly in the root, as the original design does.\n",
            peers::processors(),
            rustix::system::uname().release().to_string_lossy(),
            self.rounds
        ));
        for name in ["flat", "wide", "deep"] {
            let tree = Tree::at(&self.trees, name)?;
            files.make(&tree)?;
            groups.push(self.compare(&mut report, &tree, &files)?);
        }
        let small = Tree::at(&self.trees, "small")?;
        files.make(&small)?;
        let calls = self.calls(&mut report, &small, &files)?;
        self.latency(&mut report, Delays::micros(4000, 1000, 4000), &calls, &small, &files)?;
        groups.push(self.latency(&mut report, Delays::micros(2000, 2000, 2000), &calls, &small, &files)?);
        // So much that strace's own time is a small part of it.
        self.latency(&mut report, Delays::micros(8000, 8000, 8000), &calls, &small, &files)?;
        if !self.quick {
            let docs = docs()?;
            fs::write(docs.join("count.md"), report.0)?;
            fs::write(docs.join("count.svg"), chart::svg("Counting files, each tool at its best setting", &groups))?;
            println!("written to {}", docs.display());
        }
        Ok(())
    }

    fn tools(&self) -> impl Iterator<Item = &'static Tool> {
        TOOLS.iter().filter(|tool| !(self.quick && tool.is_python()))
    }

    /// Everybody on one tree, and ours once more by a cache.
    fn compare(&self, report: &mut Report, tree: &Tree, files: &Files) -> Result<Group> {
        let mut rows = vec![];
        for tool in self.tools().chain([&UNCHANGED]) {
            let (usage, counted) = measure::counted(tool.command(tree, files)?, tool.prints)?;
            let usages = if usage.wall > LONG { vec![usage] } else { vec![] };
            rows.push(Row { tool, usages, files: counted });
        }
        let slow: HashSet<_> = rows.iter().filter(|row| !row.usages.is_empty()).map(|row| row.tool.name).collect();
        for _ in 0..self.rounds {
            for row in rows.iter_mut().filter(|row| !slow.contains(row.tool.name)) {
                row.usages.push(measure::run(row.tool.command(tree, files)?)?);
            }
        }
        report.say(&format!("\n## {}\n\n{}", tree.title, compared(&rows, tree.files)));
        let [ours, pure, ..] = &rows[..] else { bail!("no rows") };
        let times_pure = ours.times(pure);
        report.say(&format!(
            "\nOurs: {times_pure:.2} × pure (at most {MOST_TIMES_PURE}: {}), peak {:.1} MB (at most {}: {}).",
            verdict(times_pure <= MOST_TIMES_PURE),
            ours.peak_bytes() as f64 / 1e6,
            MOST_BYTES / 1_000_000,
            verdict(ours.peak_bytes() <= MOST_BYTES)
        ));
        let cached = traced::calls(&UNCHANGED.command(tree, files)?)?;
        report.say(&match tree.directories {
            1 => format!("By a cache: {} calls in all, those of the program's start among them.", cached.total()),
            directories => {
                let each = cached.total() as f64 / directories as f64;
                let verdict = verdict(each <= MOST_CALLS);
                format!(
                    "By a cache: {} calls, {each:.2} a directory (at most {MOST_CALLS}: {verdict}).",
                    cached.total()
                )
            }
        });
        let bars = rows.iter().map(|row| (row.tool, row.median()));
        Ok(Group { title: tree.title.to_owned(), bars: best(bars) })
    }

    /// How often each tool asks the file system.
    fn calls(&self, report: &mut Report, tree: &Tree, files: &Files) -> Result<Vec<(&'static Tool, Calls)>> {
        let calls = self.tools().map(|tool| Ok((tool, traced::calls(&tool.command(tree, files)?)?)));
        let calls: Vec<_> = calls.collect::<Result<_>>()?;
        let table = markdown(
            ["", "open", "getdents64", "statx", "other stat", "all"],
            calls.iter().map(|(tool, calls)| {
                let others = calls.total() - calls.opens() - calls.reads() - calls.statx();
                let numbers = [calls.opens(), calls.reads(), calls.statx(), others, calls.total()];
                let [opens, reads, statx, others, total] = numbers.map(|number| number.to_string());
                [tool.name.to_owned(), opens, reads, statx, others, total]
            }),
        );
        report.say(&format!("\n## Calls: {}\n\nThose of the program's start among them.\n\n{table}", tree.title));
        Ok(calls)
    }

    /// Everybody where each call takes longer, as it does on a distant server.
    fn latency(
        &self,
        report: &mut Report,
        delays: Delays,
        calls: &[(&'static Tool, Calls)],
        tree: &Tree,
        files: &Files,
    ) -> Result<Group> {
        // On two processors its default is 2 threads, and 100,000 delays for them take minutes.
        let patient = calls.iter().filter(|(tool, _)| tool.name != "dua aggregate");
        let mut rows: Vec<_> = patient.map(|(tool, calls)| (*tool, calls, vec![])).collect();
        let mut own = vec![];
        for _ in 0..self.rounds {
            for (tool, _, times) in &mut rows {
                if times.first().is_none_or(|first| *first < LONG) {
                    times.push(traced::delayed(&tool.command(tree, files)?, delays)?);
                }
            }
            own.push(traced::delayed(&tools::OURS.command(tree, files)?, Delays::micros(0, 0, 0))?);
        }
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        let ours = rows.first().map(|(_, _, times)| median(times)).unwrap_or_default();
        let table = markdown(
            ["", "seconds", "from – to", "× ours", "calls × latency ÷ 64", "× that"],
            rows.iter().map(|(tool, calls, times)| {
                let (time, bound) = (median(times), delays.bound(calls));
                let spread = match (times.iter().min(), times.iter().max()) {
                    (Some(first), Some(last)) if first < last => format!("{} – {}", seconds(*first), seconds(*last)),
                    _ => "once".to_owned(),
                };
                let ratio = |other: Duration| format!("{:.2}", time.div_duration_f64(other));
                [tool.name.to_owned(), seconds(time), spread, ratio(ours), seconds(bound), ratio(bound)]
            }),
        );
        let title = format!("{}, {} later", tree.title, delays.title());
        report.say(&format!(
            "\n## {title}\n\nBy strace, which needs {} s for ours with no delay at all. A stat by name with `newfstatat` (find,\n\
             Python) is not delayed, since glibc's `opendir` makes one that no server is asked.\n\n{table}",
            seconds(median(&own))
        ));
        let bound = |bare: bool| {
            let row = rows.iter().find(|(tool, ..)| tool.is_bare() == bare);
            row.map(|(_, calls, _)| delays.bound(calls)).unwrap_or_default()
        };
        let (times_bound, times_own) = (ours.div_duration_f64(bound(true)), ours.div_duration_f64(bound(false)));
        let ahead = rows.iter().filter(|(tool, _, times)| !tool.is_bare() && median(times) < ours);
        let ahead: Vec<_> = ahead.map(|(tool, ..)| tool.name).collect();
        report.say(&format!(
            "\nOurs: {times_bound:.2} × the time of the bare calls, 64 at once (at most {MOST_TIMES_BOUND}: {}); {times_own:.2} × \
             that of its own, which are\nfewer. Ahead of every peer: {}.",
            verdict(times_bound <= MOST_TIMES_BOUND),
            if ahead.is_empty() { "kept".to_owned() } else { format!("NOT KEPT, {} are faster", ahead.join(", ")) }
        ));
        Ok(Group { title, bars: best(rows.iter().map(|(tool, _, times)| (*tool, median(times)))) })
    }
}

/// Each tool at its fastest setting, in the order in which they come.
fn best<'a>(times: impl Iterator<Item = (&'a Tool, Duration)>) -> Vec<(&'static str, f64)> {
    let mut bars: Vec<(&'static str, f64)> = vec![];
    for (tool, time) in times {
        let time = time.as_secs_f64();
        match bars.iter_mut().find(|(family, _)| *family == tool.family) {
            Some((_, best)) => *best = best.min(time),
            None => bars.push((tool.family, time)),
        }
    }
    bars
}

/// What is said is printed at once, and written down at the end.
#[derive(Default)]
struct Report(String);

impl Report {
    fn say(&mut self, text: &str) {
        let text = text.trim_end();
        println!("{text}");
        self.0 += text;
        self.0.push('\n');
    }
}

fn docs() -> Result<PathBuf> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance");
    fs::create_dir_all(&docs)?;
    Ok(docs.canonicalize()?)
}

fn nfs(kernels: &[&str]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/nfs.sh");
    let mut command = Command::new(script);
    let mut child = command.arg(std::env::current_exe()?).args(kernels).stdout(std::process::Stdio::piped()).spawn()?;
    let mut report = Report::default();
    report.say("# Counting over NFS\n\nMade by `make bench-count-nfs`, in an emulated guest: calls are exact, seconds are for comparing.");
    let output = std::io::BufReader::new(child.stdout.take().context("a pipe")?);
    for line in std::io::BufRead::lines(output) {
        report.say(&line?);
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    if std::env::var_os("OURS").is_none_or(|ours| ours.is_empty()) {
        fs::write(docs()?.join("count-nfs.md"), report.0)?;
    }
    Ok(())
}
