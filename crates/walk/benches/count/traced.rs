//! Tools under `strace`, which counts their calls, or delays each as a distant server would: while one
//! thread waits, the others go on.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// What asks a file system. `newfstatat` also is what glibc asks a descriptor with.
const CALLS: &str = "open,openat,openat2,getdents64,statx,newfstatat,lstat,stat,fstat,readlink,statfs,fstatfs";

/// How long each kind of call takes longer.
#[derive(Clone, Copy)]
pub struct Delays {
    pub open: Duration,
    pub read: Duration,
    pub stat: Duration,
}

impl Delays {
    pub const fn micros(open: u64, read: u64, stat: u64) -> Self {
        let [open, read, stat] =
            [Duration::from_micros(open), Duration::from_micros(read), Duration::from_micros(stat)];
        Self { open, read, stat }
    }

    pub fn title(self) -> String {
        let [open, read, stat] = [self.open, self.read, self.stat].map(|delay| delay.as_millis());
        if open == read && open == stat {
            return format!("each call {open} ms");
        }
        format!("opening {open} ms, reading {read} ms, statx {stat} ms")
    }

    /// What 64 threads that always wait cannot do it faster than.
    pub fn bound(self, calls: &Calls) -> Duration {
        let sum = |names: &[&str], delay: Duration| delay * u32::try_from(calls.of(names)).unwrap_or(u32::MAX);
        (sum(&OPENS, self.open) + sum(&READS, self.read) + sum(&STATS, self.stat)) / 64
    }
}

const OPENS: [&str; 3] = ["open", "openat", "openat2"];
const READS: [&str; 1] = ["getdents64"];
/// Only what asks by name: glibc's `opendir` calls `newfstatat` on what it has just opened, which a client
/// answers by itself. So whoever asks by name with `newfstatat`, as find and Python do, goes free here.
const STATS: [&str; 1] = ["statx"];

/// How often a process made each call.
pub struct Calls(BTreeMap<String, u64>);

impl Calls {
    fn of(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.0.get(*name)).sum()
    }

    pub fn opens(&self) -> u64 {
        self.of(&OPENS)
    }

    pub fn reads(&self) -> u64 {
        self.of(&READS)
    }

    pub fn statx(&self) -> u64 {
        self.of(&STATS)
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Counts its calls, those of its start among them.
pub fn calls(command: &Command) -> Result<Calls> {
    let file = tempfile::NamedTempFile::new()?;
    let trace = format!("trace={CALLS}");
    let mut traced = Command::new("strace");
    traced.args(["-f", "--seccomp-bpf", "-c", "-U", "calls,name", "-e", &trace, "-o"]).arg(file.path());
    finish(traced, command)?;
    // Two columns, between a heading and a sum.
    let counts = fs::read_to_string(file.path())?;
    let rows = counts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (number, name) = (words.next()?.parse().ok()?, words.next()?);
        (name != "total").then(|| (name.to_owned(), number))
    });
    Ok(Calls(rows.collect()))
}

/// How long it takes with these delays.
pub fn delayed(command: &Command, delays: Delays) -> Result<Duration> {
    let mut traced = Command::new("strace");
    traced.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
    let all = [&OPENS[..], &READS, &STATS].concat().join(",");
    traced.args(["-e", &format!("trace={all}")]);
    for (names, delay) in [(&OPENS[..], delays.open), (&READS, delays.read), (&STATS, delays.stat)] {
        if !delay.is_zero() {
            traced.args(["-e", &format!("inject={}:delay_exit={}", names.join(","), delay.as_micros())]);
        }
    }
    let began = Instant::now();
    finish(traced, command)?;
    Ok(began.elapsed())
}

fn finish(mut traced: Command, command: &Command) -> Result<()> {
    traced.env_remove("LD_LIBRARY_PATH");
    traced.arg(command.get_program()).args(command.get_args());
    let status = traced.stdout(std::process::Stdio::null()).status().context("strace")?;
    ensure!(status.success(), "{traced:?}: {status}");
    Ok(())
}
