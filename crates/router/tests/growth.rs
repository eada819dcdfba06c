//! `CONNECTIONS_PER_TARGET=auto`: more connections where each is the limit, and none more where it is not.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{MEBIBYTE, Server, World, eventually};

/// Clients that read: more calls than one session has slots.
const CLIENTS: usize = 300;
const FILES: usize = 4;
/// Of the worker, and of the loop that probes and sweeps.
const AT_FIRST: u64 = 2;
/// One connection has at most 64 calls of 128 KiB on their way in this time: 10 MiB a second.
const ROUND_TRIP: Duration = Duration::from_millis(800);

fn serve(world: &World, connections: &str) -> Server {
    let server = world.serve(&[("WORKERS", "1"), ("CONNECTIONS_PER_TARGET", connections), ("DEADLINE_SECONDS", "60")]);
    for number in 0..FILES {
        let answer = server.put(&format!("/files/{number}"), vec![7; MEBIBYTE]);
        assert!([201, 204].contains(&answer.status), "{answer:?}");
    }
    server
}

fn told(server: &Server, what: &str) -> u64 {
    server.get("/targets").json()["targets"][0][what].as_u64().unwrap()
}

/// Bytes a second that are read during `meanwhile`'s last part, which begins when it returns.
fn rate(server: &Server, meanwhile: impl FnOnce()) -> f64 {
    const MEASURED: Duration = Duration::from_secs(4);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let end = &end;
            scope.spawn(move || {
                let mut client = server.client();
                while !end.load(Ordering::Relaxed) {
                    assert_eq!(client.get(&format!("/files/{}", number % FILES)).status, 200);
                }
            });
        }
        meanwhile();
        let (began, before) = (Instant::now(), told(server, "bytes_read"));
        thread::sleep(MEASURED);
        let rate = (told(server, "bytes_read") - before) as f64 / began.elapsed().as_secs_f64();
        end.store(true, Ordering::Relaxed);
        rate
    })
}

#[test]
fn connections_are_added_where_each_is_the_limit() {
    let world = World::new(1);
    let (one, auto) = (serve(&world, "1"), serve(&world, "auto"));
    assert_eq!((told(&one, "connections"), told(&auto, "connections")), (AT_FIRST, AT_FIRST));
    world.relay(0).delay_round_trip(ROUND_TRIP);
    let of_one = rate(&one, || thread::sleep(Duration::from_secs(3)));
    let of_more = rate(&auto, || {
        eventually("a third connection is there", || (told(&auto, "connections") >= AT_FIRST + 2).then_some(()));
        thread::sleep(Duration::from_secs(3));
    });
    let mib = |rate: f64| rate / MEBIBYTE as f64;
    println!(
        "{:.1} MiB/s with one connection, {:.1} with auto: {:.2} times",
        mib(of_one),
        mib(of_more),
        of_more / of_one
    );
    assert!(of_more > 1.5 * of_one, "{:.1} and {:.1} MiB/s", mib(of_one), mib(of_more));
}

#[test]
fn no_connection_stays_where_another_one_brings_nothing() {
    let world = World::new(1);
    let (one, auto) = (serve(&world, "1"), serve(&world, "auto"));
    let of_one = rate(&one, || thread::sleep(Duration::from_secs(1)));
    // Time for a trial, if there is one.
    let of_auto = rate(&auto, || thread::sleep(Duration::from_secs(8)));
    let mib = |rate: f64| rate / MEBIBYTE as f64;
    println!(
        "{:.1} MiB/s with one connection, {:.1} with auto: {:.2} times",
        mib(of_one),
        mib(of_auto),
        of_auto / of_one
    );
    eventually("no other one is left", || (told(&auto, "connections") == AT_FIRST).then_some(()));
}
