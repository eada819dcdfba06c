//! How fast the router is: the choice of a target against other hashes, the service against nginx, the library
//! against the bare calls.
//!
//! `make bench-router` builds and runs this; `cargo bench -p router --bench router -- WHAT` takes
//!
//! ```text
//! [--quick] [--rounds N] [--seconds N] [--disk DIR] [select] [get] [get-large] [put] [memory] [start] [added] [nfs]
//! ```
//!
//! Without a name all of them. Quick: fewer and shorter rounds. Only a full run of everything is written down.
//! Files are made below `--disk`, else below cargo's folder, and are gone afterwards; and some below `/dev/shm`.
//!
//! All that are compared run side by side and are loaded in turns: a round is one turn of each, so that what
//! disturbs the machine for a while disturbs all of them, and a ratio is the median of those in the same round.
//! It needs nginx with its dav module, wrk and python3 in the PATH; `nfs` needs NFS-Ganesha, and root.

mod added;
mod alone;
mod front;
mod get;
mod load;
mod memory;
mod mount;
mod nfs;
mod put;
mod select;
mod servers;
mod start;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use bench_kit::{
    allocations::CountingAllocator,
    machine,
    report::{Report, paragraph},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

struct Settings {
    cases: Vec<&'static Case>,
    /// Where files are made.
    disk: PathBuf,
    rounds: usize,
    /// Of one turn.
    seconds: u64,
    quick: bool,
}

struct Case {
    name: &'static str,
    run: fn(&Settings, &mut Report) -> Result<()>,
}

const CASES: [Case; 8] = [
    Case { name: "select", run: select::run },
    Case { name: "get", run: get::small },
    Case { name: "get-large", run: get::large },
    Case { name: "put", run: put::run },
    Case { name: "memory", run: memory::run },
    Case { name: "start", run: start::run },
    Case { name: "added", run: added::run },
    Case { name: "nfs", run: nfs::run },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    if arguments.next_if(|first| first == alone::ALONE).is_some() {
        return alone::run(arguments);
    }
    let settings = Settings::new(arguments)?;
    let mut report = Report::default();
    report.say(&format!(
        "# The router on one machine\n\nMade by `make bench-router`, optimized for speed (`opt-level = 3`):\n{}\n\n{}",
        format_args!(
            "{};\nnginx {}, wrk {}, Python {}.",
            machine::facts()?,
            machine::version("nginx", &["-v"], "nginx/")?,
            machine::version("wrk", &["-v"], "wrk ")?,
            machine::version("python3", &["--version"], "Python ")?
        ),
        paragraph(
            "All that are compared run side by side and are loaded in turns. Numbers are the median of the rounds, and \
             from the least to the most; a ratio is the median of those in the same round. wrk has the same processors \
             as what it loads, so that a ratio of requests a second is nearer to 1 than one of the servers' own work; \
             the processors' time that a server itself takes for a request stands beside it."
        )
    ));
    for case in &settings.cases {
        (case.run)(&settings, &mut report).with_context(|| format!("case {}", case.name))?;
    }
    if !settings.quick && settings.cases.len() == CASES.len() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance");
        fs::create_dir_all(&docs)?;
        let page = docs.canonicalize()?.join("router.md");
        fs::write(&page, report.text())?;
        println!("written to {}", page.display());
    }
    Ok(())
}

impl Settings {
    fn new(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut settings =
            Self { cases: vec![], disk: env!("CARGO_TARGET_TMPDIR").into(), rounds: 7, seconds: 3, quick: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => (settings.quick, settings.rounds, settings.seconds) = (true, 3, 1),
                "--rounds" => settings.rounds = arguments.next().context("--rounds N")?.parse()?,
                "--seconds" => settings.seconds = arguments.next().context("--seconds N")?.parse()?,
                "--disk" => settings.disk = fs::canonicalize(arguments.next().context("--disk DIR")?)?,
                name => match CASES.iter().find(|case| case.name == name) {
                    Some(case) => settings.cases.push(case),
                    None => bail!("{name}: see the head of benches/router/main.rs"),
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
