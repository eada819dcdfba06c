//! A start with targets that have not said yes or no yet, and with targets that say no. The program reaches an NFS server
//! through relays that stand for the mount targets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use common::World;
use serde_json::Value;

/// docs/reference/service.md: the longest time that a start waits for a yes or a no.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts it, does this to the relays after a while, and waits until it serves. How long that took.
fn starts(world: &World, after: Duration, meanwhile: impl FnOnce() + Send) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(after);
            meanwhile();
        });
        let server = world.serve(&[("PROBE_SECONDS", "60")]);
        let took = began.elapsed();
        assert_eq!(server.put("/files/a", "content").status, 201);
        assert_eq!(server.get("/readyz").status, 200);
        took
    })
}

/// Starts it, and waits until it ends by itself. What it says, and how long that took.
fn ends(world: &World, variables: &[(&str, &str)]) -> (Value, Duration) {
    let began = Instant::now();
    let mut command = world.command(variables);
    let ended = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stdout).unwrap();
    let failure =
        said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|line| line["level"] == "ERROR");
    (failure.unwrap_or_else(|| panic!("no error in {said}")), began.elapsed())
}

#[test]
fn a_start_waits_for_a_target_that_is_silent_at_first() {
    let world = World::new(2);
    for target in 0..2 {
        world.relay(target).hang(true);
    }
    // More than a connection may take, and more than two probes.
    let after = Duration::from_secs(7);
    let took = starts(&world, after, || world.relay(1).hang(false));
    assert!(took > after, "{took:?}");
}

#[test]
fn a_start_waits_for_a_target_whose_session_takes_long_to_be_made() {
    let world = World::new(1);
    world.relay(0).delay_round_trip(Duration::from_millis(1500));
    let took = starts(&world, Duration::ZERO, || ());
    // EXCHANGE_ID, CREATE_SESSION, RECLAIM_COMPLETE, the limits, the probe.
    assert!(took > Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_target_that_says_no_does_not_end_a_start_while_another_is_silent() {
    let world = World::new(2);
    world.relay(0).refuse(true);
    world.relay(1).hang(true);
    let after = Duration::from_secs(6);
    assert!(starts(&world, after, || world.relay(1).hang(false)) > after);
}

#[test]
fn targets_that_say_no_end_a_start_at_once_with_their_reasons() {
    let world = World::new(2);
    // No such directory at the server.
    let (failure, took) = ends(&world, &[("NFS_ROOT", "/nothing/there")]);
    assert_eq!(failure["code"], "NoTarget");
    let err = failure["error"].as_str().unwrap();
    assert_eq!(err.matches("LOOKUP: ").count(), 2, "{err}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // A file.
    std::fs::write(world.root().join("file"), "").unwrap();
    let (failure, took) = ends(&world, &[("NFS_ROOT", "/file")]);
    let err = failure["error"].as_str().unwrap();
    assert_eq!(err.matches("directory").count(), 2, "{err}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Nobody listens there.
    (0..2).for_each(|target| world.relay(target).refuse(true));
    let (failure, took) = ends(&world, &[]);
    let err = failure["error"].as_str().unwrap();
    assert_eq!(err.matches("Connection refused").count(), 2, "{err}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_start_does_not_wait_for_ever() {
    let world = World::new(1);
    world.relay(0).hang(true);
    let (failure, took) = ends(&world, &[]);
    assert_eq!(failure["code"], "NoTarget");
    let err = failure["error"].as_str().unwrap();
    assert!(err.contains("cannot be reached: ") || err.contains("no answer for "), "{err}");
    assert!(took > START_TIMEOUT && took < START_TIMEOUT + Duration::from_secs(5), "{took:?}");
}
