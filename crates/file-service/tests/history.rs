//! Checks a recorded history of the file service for linearizability. Clients of several tasks record each request and
//! its answer while a nemesis kills tasks and breaks their paths to the mount targets. The checker then looks for one
//! order in which every operation takes effect at one moment.
//!
//! `make history SEED=n OPERATIONS=10000 TASKS=3` runs a long history. A seed repeats the requests and the faults; it
//! does not repeat how they interleave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

#[path = "../../nfs41/tests/common/mod.rs"]
mod calls;
#[path = "history/checker.rs"]
mod checker;
#[path = "history/client.rs"]
mod client;
#[path = "history/cluster.rs"]
mod cluster;
mod common;
#[path = "history/content.rs"]
mod content;
#[path = "history/known.rs"]
mod known;
#[path = "history/late.rs"]
mod late;
#[path = "history/nemesis.rs"]
mod nemesis;
#[path = "history/operation.rs"]
mod operation;
#[path = "history/random.rs"]
mod random;

use std::{
    collections::{BTreeMap, HashSet},
    env,
    fmt::Write,
    fs,
    path::Path,
    thread,
    time::Duration,
};

use checker::{Mode, Violation, check, resolve};
use client::{History, read_all, work};
use cluster::{Cluster, DEADLINE};
use nemesis::{Done, torment};
use operation::{Operation, Outcome, timeline};

/// The outcome of a change by the error code of its answer. A lost connection counts as [`Outcome::Later`].
pub const CODES: &[(&str, Outcome)] = &[
    ("Busy", Outcome::Nothing),
    ("Fenced", Outcome::Nothing),
    ("Locked", Outcome::Nothing),
    ("NoTarget", Outcome::Nothing),
    ("TooManyConnections", Outcome::Nothing),
    ("Deadline", Outcome::Nothing),
    ("NotFound", Outcome::Nothing),
    ("IncompleteBody", Outcome::Nothing),
    ("Shortened", Outcome::Nothing),
    ("TargetFailed", Outcome::Within),
    ("Uncertain", Outcome::Within),
    ("Pending", Outcome::Later),
];

const CLIENTS: usize = 8;
const TARGETS: usize = 3;
/// Maximum number of operations in the timeline of a violation.
const MAX_LINES: usize = 40;
/// Wait this long after the last fault, so that late writes arrive before the final reads.
const QUIET: Duration = Duration::from_secs(3);

/// Parameters of a run, from the environment.
struct Run {
    seed: u64,
    operations: u32,
    tasks: usize,
    mode: Mode,
}

impl Run {
    fn new() -> Self {
        fn variable(name: &str, default: u64) -> u64 {
            env::var(name).ok().filter(|value| !value.is_empty()).map_or(default, |value| value.parse().unwrap())
        }
        let mode = if env::var("LAX").is_ok_and(|value| value == "1") { Mode::Lax } else { Mode::Strict };
        let (operations, tasks) = (variable("OPERATIONS", 800) as u32, variable("TASKS", 3) as usize);
        Self { seed: variable("SEED", 1), operations, tasks, mode }
    }

    fn command(&self) -> String {
        let lax = if self.mode == Mode::Lax { " LAX=1" } else { "" };
        format!("make history SEED={} OPERATIONS={} TASKS={}{lax}", self.seed, self.operations, self.tasks)
    }
}

/// Runs the clients and the nemesis. Returns all operations and all faults.
fn recorded(run: &Run) -> Option<(Vec<Operation>, Vec<Done>)> {
    let cluster = Cluster::new(run.tasks, TARGETS, &[])?;
    let history = History::new(run.operations);
    let (history_ref, cluster_ref, seed) = (&history, &cluster, run.seed);
    let faults = thread::scope(|scope| {
        let faults: Vec<_> =
            (0..run.tasks).map(|task| scope.spawn(move || torment(history_ref, cluster_ref, task, seed))).collect();
        for client in 0..CLIENTS {
            scope.spawn(move || work(history_ref, cluster_ref, client, seed));
        }
        faults.into_iter().flat_map(|faults| faults.join().unwrap()).collect()
    });
    thread::sleep(DEADLINE + QUIET);
    read_all(&history, &cluster);
    Some((history.into_operations(), faults))
}

fn by_path(operations: &[Operation]) -> BTreeMap<&str, Vec<&Operation>> {
    let mut paths = BTreeMap::<_, Vec<_>>::new();
    for operation in operations {
        paths.entry(operation.path.as_str()).or_default().push(operation);
    }
    paths
}

/// Counts operations by kind and answer, and faults by kind.
fn summary(operations: &[Operation], faults: &[Done]) -> String {
    let mut text = String::new();
    let mut counts = BTreeMap::<_, BTreeMap<_, usize>>::new();
    for operation in operations {
        *counts.entry(operation.action.name()).or_default().entry(operation.answer.clone()).or_default() += 1;
    }
    for (name, answers) in &counts {
        let answers: Vec<_> = answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        let _ = writeln!(text, "  {name:<20} {}", answers.join(", "));
    }
    let mut kinds = BTreeMap::<_, usize>::new();
    faults.iter().for_each(|fault| *kinds.entry(fault.fault).or_default() += 1);
    let kinds: Vec<_> = kinds.iter().map(|(fault, count)| format!("{fault:?}: {count}")).collect();
    let _ = writeln!(text, "  faults               {}", kinds.join(", "));
    text
}

/// Describes a violation: the operations that show it, related operations, and the faults at that time.
fn shown(path: &str, violation: &Violation, operations: &[&Operation], faults: &[Done]) -> String {
    let Violation { err, window, related } = violation;
    let wanted: HashSet<_> = window.iter().chain(related).collect();
    let mut wanted: Vec<_> =
        operations.iter().copied().filter(|operation| wanted.contains(&operation.number)).collect();
    wanted.sort_by_key(|operation| operation.began);
    let mut text = format!("{path}: {err}\n");
    if wanted.len() > MAX_LINES {
        let _ = writeln!(text, "  the last {MAX_LINES} of {} operations", wanted.len());
        wanted.drain(..wanted.len() - MAX_LINES);
    }
    text += &timeline(wanted.iter().copied());
    let from = wanted.iter().map(|operation| operation.began).min().unwrap_or_default();
    let to = wanted.iter().map(|operation| operation.ended).max().unwrap_or_default();
    for Done { fault, task, target, began, ended } in
        faults.iter().filter(|fault| fault.began <= to && fault.ended >= from)
    {
        let target = target.map_or_else(String::new, |target| format!(" target {target}"));
        let (began, ended) = (began.as_secs_f64(), ended.as_secs_f64());
        let _ = writeln!(text, "  {began:9.4} {ended:9.4} {fault:?} task {task}{target}");
    }
    text
}

#[test]
fn what_several_tasks_do_to_a_file_has_one_order_whatever_fails() {
    let run = Run::new();
    let Some((mut operations, faults)) = recorded(&run) else { return };
    resolve(&mut operations);
    println!("{} operations, {:?}:\n{}", operations.len(), run.mode, summary(&operations, &faults));
    let mut violations = Vec::new();
    for (path, operations) in by_path(&operations) {
        if let Err(violation) = check(&operations, run.mode) {
            let is_late = check(&operations, Mode::Lax).is_ok();
            let note =
                if is_late { "  (there is an order if what is uncertain may be done after its answer)\n" } else { "" };
            violations.push(shown(path, &violation, &operations, &faults) + note);
        }
    }
    println!("violations: {}", violations.len());
    if violations.is_empty() {
        return;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{}.txt", run.seed));
    fs::write(&file, timeline(&operations)).unwrap();
    panic!("{}\nagain: {}\nall operations: {}", violations.join("\n"), run.command(), file.display());
}
