//! `efs-autoscale bench` on directories, and on a real NFS server behind relays that act as mount targets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod schema;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use nfs_lab::{Relay, eventually, lab_or_skip};
use serde_json::Value;

/// Little work: these tests check the output, not the speed.
const SMALL_WORKLOAD: [[&str; 2]; 4] = [["--files", "40"], ["--large-mib", "4"], ["--random", "30"], ["--rounds", "2"]];

fn command(targets: &[String], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efs-autoscale"));
    let defaults = SMALL_WORKLOAD.iter().filter(|[name, _]| !more.contains(name)).flatten();
    command.arg("bench").args(targets).args(defaults).args(more).env_remove("AWS_REGION").stdin(Stdio::null());
    command
}

fn run(targets: &[String], more: &[&str]) -> Output {
    command(targets, more).output().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks what holds for every report.
fn check(output: &Output, targets: usize, connections: usize) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("bench", &object);
    let measured = object["measured"].as_array().unwrap();
    assert_eq!(measured.len(), 8 * targets * connections * 2, "a line for each phase, and each number, in each round");
    for one in measured {
        let by_target = one["by_target"].as_array().unwrap();
        assert_eq!(by_target.len() as u64, one["targets"].as_u64().unwrap());
        let of_each: u64 = by_target.iter().map(|one| one["operations"].as_u64().unwrap()).sum();
        assert_eq!(of_each, one["operations"].as_u64().unwrap(), "the targets together did all of it");
        let expected = match one["phase"].as_str().unwrap() {
            "sequential_write" | "sequential_read" => 4,
            "random_write" | "random_read" => 30,
            _ => 40,
        };
        assert_eq!(of_each, expected, "{one}");
        let of = |name: &str| one[name].as_f64().unwrap();
        assert!(of("operations_per_second") > 0.0 && of("p50_milliseconds") <= of("p99_milliseconds"), "{one}");
    }
    let gains = object["gains"].as_array().unwrap();
    assert_eq!(gains.len(), 8 * (targets - 1) * connections);
    for gain in gains {
        let of = |name: &str| gain[name].as_f64().unwrap();
        assert!(of("least") <= of("factor") && of("factor") <= of("most"), "{gain}");
    }
    assert!(object["means"].is_string() && object["cost"]["dollars"].as_f64().unwrap() > 0.0);
    assert_eq!(object["complete"], true);
    object
}

#[test]
fn directories_are_measured_and_nothing_stays_behind() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let targets: Vec<_> = folders.iter().map(|folder| folder.path().to_str().unwrap().to_owned()).collect();
    let svg = folders[0].path().join("gains.svg");
    let object = check(&run(&targets, &["--json", "--svg", svg.to_str().unwrap()]), 2, 1);
    assert_eq!(object["cost"]["requests"], 2 * 2 * (4 * 40 + 2 * 4 + 2 * 30));
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.trim_end().ends_with("</svg>"));
    assert_eq!(drawn.matches("fill=\"steelblue\"").count(), 8, "a bar for each phase");
    assert_eq!((names(folders[0].path()), names(folders[1].path())), (vec!["gains.svg".to_owned()], vec![]));

    let plain = text(&run(&targets, &[]).stdout);
    for expected in ["at most ", "about 0.00 dollars", "write files of 4 KiB", "gain over one target"] {
        assert!(plain.contains(expected), "{expected}: {plain}");
    }
}

#[test]
fn mount_targets_are_measured_by_one_and_two_connections_each() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let relays: Vec<_> = (2..4).map(|number| Relay::target(number, server.address())).collect();
    let targets: Vec<_> = relays.iter().map(|relay| relay.address().to_string()).collect();
    check(&run(&targets, &["--json", "--connections", "2"]), 2, 2);
    assert_eq!(names(server.directory()), [""; 0]);
    assert!(relays.iter().all(|relay| relay.counts().calls > 500), "each of them had its share");
}

#[test]
fn what_cannot_be_measured_is_said_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = vec![folder.path().to_str().unwrap().to_owned()];
    for (targets, more, expected) in [
        (&here, &["--files", "10000000", "--max-gib", "1"][..], "--max-gib 1: the run would transfer "),
        (&vec!["/nowhere".to_owned()], &[], "/nowhere is not an accessible directory"),
        (&vec!["127.0.0.1:9".to_owned()], &["--timeout", "2"], "127.0.0.1:9"),
        (&here, &["--svg", "/nowhere/gains.svg"], "--svg /nowhere/gains.svg"),
        (&here, &["--rounds", "0"], "--rounds"),
        (&vec!["a b".to_owned()], &[], "or a directory that begins with / or ."),
    ] {
        let output = run(targets, more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
        assert_eq!(names(folder.path()), [""; 0]);
    }
    // Too little time: the report is printed, and marked as incomplete.
    let output = run(&here, &["--max-seconds", "1", "--files", "1000000", "--max-gib", "100", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["complete"], false);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn an_interrupt_leaves_nothing_and_what_a_kill_leaves_is_named_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let here = vec![folder.path().to_str().unwrap().to_owned()];
    let start = || {
        let mut child = command(&here, &["--files", "5000000", "--max-gib", "1000"]);
        let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("it works", || names(folder.path()).first().map(drop));
        child
    };
    let mut interrupted = start();
    let id = rustix::process::Pid::from_child(&interrupted);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
    assert_eq!(names(folder.path()), [""; 0]);

    let mut killed = start();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = names(folder.path());
    assert_eq!(left.len(), 1);
    let next = run(&here, &[]);
    assert!(text(&next.stdout).contains(&left[0]), "{}", text(&next.stdout));
    assert_eq!(names(folder.path()), left, "it may belong to a running process");
    assert_eq!(run(&here, &["--clean"]).status.code(), Some(0));
    assert_eq!(names(folder.path()), [""; 0]);
}
