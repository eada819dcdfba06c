//! `CONNECTIONS_PER_TARGET=auto`: another connection is tried where calls wait for the one that there is, and what is read
//! meanwhile is what was written. What it brings is decided in `src/nfs/scale.rs`, and measured by `make bench-router`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use common::{MEBIBYTE, Server, World, eventually};

/// Clients that read: more calls than one session has slots.
const CLIENTS: usize = 150;
const FILES: usize = 4;
/// Of the worker, and of the loop that probes and sweeps.
const AT_FIRST: u64 = 2;
/// One connection has at most 64 calls of 128 KiB on their way in this time: 27 MiB a second.
const ROUND_TRIP: Duration = Duration::from_millis(300);

fn connections(server: &Server) -> u64 {
    server.get("/targets").json()["targets"][0]["connections"].as_u64().unwrap()
}

/// Sets it when it goes, so that no client reads on behind an assertion that failed.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn another_connection_is_tried_where_calls_wait_for_the_first() {
    let world = World::new(1);
    let content = |number: usize| vec![u8::try_from(number).unwrap(); MEBIBYTE];
    let variables =
        |connections| [("WORKERS", "1"), ("CONNECTIONS_PER_TARGET", connections), ("DEADLINE_SECONDS", "60")];
    let (fixed, auto) = (world.serve(&variables("1")), world.serve(&variables("auto")));
    for number in 0..FILES {
        let answer = auto.put(&format!("/files/{number}"), content(number));
        assert!([201, 204].contains(&answer.status), "{answer:?}");
    }
    for server in [&fixed, &auto] {
        assert_eq!(server.get("/files/0").status, 200);
        eventually("one connection of the worker", || (connections(server) == AT_FIRST).then_some(()));
    }
    world.relay(0).delay_round_trip(ROUND_TRIP);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let set = SetAtEnd(&end);
        for number in 0..CLIENTS {
            let (server, end) = (if number % 2 == 0 { &auto } else { &fixed }, &end);
            scope.spawn(move || {
                let mut client = server.client();
                while !end.load(Ordering::Relaxed) {
                    let answer = client.get(&format!("/files/{}", number % FILES));
                    assert_eq!((answer.status, answer.body == content(number % FILES)), (200, true));
                }
            });
        }
        eventually("another connection is tried", || (connections(&auto) > AT_FIRST).then_some(()));
        assert_eq!(connections(&fixed), AT_FIRST, "who says how many has so many");
        drop(set);
    });
}
