//! Targets that are slow, and targets that are dead, under the load of a few hundred clients: what is slow stays, and
//! what is dead is left out. The program reaches an NFS server through relays that stand for the mount targets.
//!
//! `cargo nextest run -p router --test throttled --features service`
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Server, World, eventually};
use nfs_lab::Throttle;

const TARGETS: usize = 3;
/// docs/reference/service.md: the shortest silence that counts; and how many times the time that another target takes.
const SILENCE: Duration = Duration::from_secs(3);
const RATIO: u32 = 4;
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// What a machine that does much else adds.
const SLACK: Duration = Duration::from_secs(4);

fn serve(world: &World) -> Server {
    world.serve(&[
        ("DEADLINE_SECONDS", "60"),
        ("PROBE_SECONDS", "0.5"),
        ("WORKERS", "2"),
        ("CONNECTIONS_PER_TARGET", "2"),
    ])
}

fn id(target: usize) -> String {
    format!("fsmt-{target:08}")
}

/// Files of these targets, each with its own path as its content.
fn files(server: &Server, targets: &[usize], count: usize) -> Vec<String> {
    let mut client = server.client();
    let is_wanted =
        |told: serde_json::Value| targets.iter().any(|target| told["target"]["mount_target_id"] == id(*target));
    let mut files = Vec::new();
    for number in 0.. {
        let path = format!("of/{number}");
        if is_wanted(client.get(&format!("/route/{path}")).json()) {
            let file = format!("/files/{path}");
            assert_eq!(client.put(&file, file.as_bytes()).status, 201);
            files.push(file);
        }
        if files.len() == count {
            return files;
        }
    }
    unreachable!()
}

/// Each message of the log about a target that has come or gone, with its identifier.
fn changes(server: &Server, message: &str) -> Vec<String> {
    let lines = server.lines();
    let lines = lines.iter().filter(|line| line["message"] == message);
    lines.map(|line| line["target_id"].as_str().unwrap().to_owned()).collect()
}

fn is_up(server: &Server, target: usize) -> bool {
    let told = server.get("/targets").json();
    let found = told["targets"].as_array().unwrap().iter().find(|found| found["mount_target_id"] == id(target));
    found.unwrap()["up"].as_bool().unwrap()
}

/// What clients that ask one after the other, for as long as `meanwhile` takes, are told: the number of each answer, by
/// status and code; and the longest that one has taken.
fn load<T>(
    server: &Server,
    files: &[String],
    clients: usize,
    meanwhile: impl FnOnce() -> T,
) -> (T, BTreeMap<String, usize>, Duration) {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|number| {
                let end = &end;
                scope.spawn(move || {
                    let (mut client, mut told, mut longest) = (server.client(), BTreeMap::new(), Duration::ZERO);
                    for file in files.iter().cycle().skip(number) {
                        let began = Instant::now();
                        let answer = client.get(file);
                        longest = longest.max(began.elapsed());
                        let said = if answer.status < 400 { answer.status.to_string() } else { answer.api_error() };
                        assert!(answer.status != 200 || answer.body == file.as_bytes(), "{answer:?}");
                        *told.entry(said).or_insert(0) += 1;
                        if end.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    (told, longest)
                })
            })
            .collect();
        let done = meanwhile();
        end.store(true, Ordering::Relaxed);
        let (mut all, mut longest) = (BTreeMap::new(), Duration::ZERO);
        for (told, its_longest) in clients.into_iter().map(|client| client.join().unwrap()) {
            told.into_iter().for_each(|(said, count)| *all.entry(said).or_insert(0) += count);
            longest = longest.max(its_longest);
        }
        (done, all, longest)
    })
}

#[test]
fn a_probe_does_not_wait_behind_the_requests_of_its_target() {
    let world = World::new(TARGETS);
    let server = serve(&world);
    let files = files(&server, &[0], 20);
    // 128 calls on their way take a round trip; 600 clients wait for more than two seconds. The others are idle.
    (0..TARGETS).for_each(|target| world.relay(target).delay_round_trip(Duration::from_millis(500)));
    let ((), told, longest) = load(&server, &files, 600, || thread::sleep(Duration::from_secs(10)));
    println!("{told:?}, the longest {longest:?}");
    assert!(longest > Duration::from_secs(2), "the requests did not wait: {longest:?}");
    assert_eq!(told.keys().collect::<Vec<_>>(), ["200"], "{told:?}");
    assert_eq!(changes(&server, "target is down"), [""; 0]);
}

/// The file system answers late through all of its targets: to leave one out would only give its load to the others.
#[test]
fn of_targets_that_are_equally_slow_none_is_left_out_and_a_dead_one_is() {
    const CLIENTS: usize = 300;
    let world = World::new(TARGETS);
    let server = serve(&world);
    let files = files(&server, &[0, 1, 2], 60);

    // With a call of each client on its way, one takes three seconds; so does a probe.
    let throttle = Throttle::new(100.0);
    let throttled = |is: bool| (0..TARGETS).for_each(|target| world.relay(target).throttle(is.then_some(&throttle)));
    throttled(true);
    let ((), told, longest) = load(&server, &files, CLIENTS, || thread::sleep(Duration::from_secs(12)));
    println!("throttled: {told:?}, the longest {longest:?}");
    assert!(longest > Duration::from_millis(2500), "it was not slow: {longest:?}");
    assert_eq!(told.keys().collect::<Vec<_>>(), ["200"], "{told:?}");
    assert_eq!(changes(&server, "target is down"), [""; 0]);

    // A dead one among fast ones.
    throttled(false);
    eventually("the probes are fast again", || (server.get(&files[0]).status == 200).then_some(()));
    thread::sleep(4 * PROBE_EVERY);
    let hang = |target: usize, most: Duration| {
        let began = Instant::now();
        world.relay(target).hang(true);
        eventually("it is left out", || (!is_up(&server, target)).then_some(()));
        let took = began.elapsed();
        println!("target {target} was left out after {took:?}");
        assert!(took > SILENCE - PROBE_EVERY && took < most + SLACK, "{took:?}, and not {most:?}");
    };
    hang(0, SILENCE + 2 * PROBE_EVERY);
    eventually("it is logged", || (changes(&server, "target is down") == [id(0)]).then_some(()));
    load(&server, &files, 20, || thread::sleep(Duration::from_millis(500))).1.into_iter().for_each(|(said, count)| {
        assert_eq!(said, "200", "{count} times");
    });
    world.relay(0).hang(false);
    eventually("it comes back", || is_up(&server, 0).then_some(()));

    // And among slow ones.
    throttled(true);
    let slow = Duration::from_millis(1000);
    let ((), told, longest) = load(&server, &files, 100, || {
        thread::sleep(Duration::from_secs(2));
        hang(1, RATIO * slow + 2 * (PROBE_EVERY + slow));
        world.relay(1).hang(false);
    });
    println!("one of them dead: {told:?}, the longest {longest:?}");
    assert_eq!(told.keys().collect::<Vec<_>>(), ["200"], "{told:?}");
    eventually("it is logged", || (changes(&server, "target is down").len() == 2).then_some(()));
    assert_eq!(changes(&server, "target is down"), [id(0), id(1)]);
}
