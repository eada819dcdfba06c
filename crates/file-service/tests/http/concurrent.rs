//! Many clients and two processes at once.

use super::common::Answer;
use super::common::Request;
use super::common::SMALL;
use super::common::Server;
use super::common::World;
use super::common::temporaries;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

/// The body of one of many writers: of its number alone, and of a length that follows from it.
fn whole_body(number: u8) -> Vec<u8> {
    let length = match number % 4 {
        0 => usize::from(number) + 1,
        1 => 4096 + usize::from(number),
        2 => SMALL - usize::from(number),
        _ => SMALL * 2 + 1000 * usize::from(number),
    };
    vec![number; length]
}

/// Is it one whole body of [`whole_body`]?
fn is_whole(body: &[u8]) -> bool {
    body.first().is_some_and(|number| *number < 240 && body == whole_body(*number))
}

/// Writers and readers of one path, spread over these servers: nobody sees anything but one whole body.
fn nobody_sees_a_mixture(servers: &[&Server], path: &str, rounds: u8) {
    let writers = 16;
    let target = format!("/files/{path}");
    let target = target.as_str();
    assert_eq!(servers[0].put(target, whole_body(0)).status, 201);
    let done = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    let read = |reader: usize| {
        let mut client = servers[reader % servers.len()].client();
        while !done.load(Ordering::Relaxed) {
            let answer = client.get(target);
            assert_eq!(answer.status, 200);
            assert!(is_whole(&answer.body), "{} bytes from {:?}", answer.body.len(), answer.body.first());
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    let write = |writer: u8| {
        let mut client = servers[usize::from(writer) % servers.len()].client();
        for round in 0..rounds {
            let request = Request::put(target, whole_body(round * writers + writer));
            let request = if writer.is_multiple_of(3) { request.chunked(30_000) } else { request };
            assert_eq!(client.send(&request).status, 204);
        }
    };
    let (read, write) = (&read, &write);
    thread::scope(|scope| {
        for reader in 0..4 {
            scope.spawn(move || read(reader));
        }
        let writing: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        // All are waited for before one that has failed is told of: the readers would never end.
        let failed: Vec<_> = writing.into_iter().filter_map(|writer| writer.join().err()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{} writers have failed", failed.len());
    });
    assert!(reads.into_inner() > 0, "nobody has read anything");
    let last = servers[0].get(target).body;
    let written_last = (rounds - 1) * writers;
    // The last of each writer is the only one that may stay: what it wrote before was over by then.
    assert!(is_whole(&last) && last[0] >= written_last, "{} stays", last[0]);
}

/// Adds one to a number in a file until it was added so often; every refusal is one that says that nothing happened.
fn count_up(server: &Server, target: &str, times: usize) {
    let mut client = server.client();
    let mut added = 0;
    while added < times {
        let read = client.get(target);
        assert_eq!(read.status, 200);
        let number: u64 = String::from_utf8(read.body.clone()).unwrap().parse().unwrap();
        let request = Request::put(target, (number + 1).to_string()).header("if-match", read.tag());
        match client.send(&request) {
            Answer { status: 204, .. } => added += 1,
            Answer { status: 412, .. } => {}
            refused => assert!(["503 Locked", "503 Fenced"].contains(&&*refused.api_error()), "{refused:?}"),
        }
    }
}

fn counts_are_exact(servers: &[&Server], target: &str) {
    let (clients, times) = (16, 8);
    assert_eq!(servers[0].put(target, "0").status, 201);
    thread::scope(|scope| {
        for client in 0..clients {
            let server = servers[client % servers.len()];
            scope.spawn(move || count_up(server, target, times));
        }
    });
    assert_eq!(servers[0].get(target).body, (clients * times).to_string().as_bytes());
}

/// Of so many clients who create the same file at once, again and again.
fn one_creates(servers: &[&Server], directory: &str, clients: u8, rounds: usize, body: fn(u8) -> Vec<u8>) {
    let begin = Barrier::new(clients.into());
    let target = |round: usize| format!("/files/{directory}/{round}");
    let create = |client: u8| {
        let mut connection = servers[usize::from(client) % servers.len()].client();
        let one = |round| {
            let request = Request::put(&target(round), body(client)).header("if-none-match", "*");
            // A connection that was refused is closed; all are to arrive at once.
            assert_eq!(connection.get("/healthz").status, 200);
            begin.wait();
            connection.send(&request).status
        };
        (0..rounds).map(one).collect::<Vec<_>>()
    };
    let create = &create;
    let statuses: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|client| scope.spawn(move || create(client))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for round in 0..rounds {
        let said: Vec<_> = statuses.iter().map(|statuses| statuses[round]).collect();
        let created: Vec<_> = (0..clients).filter(|client| said[usize::from(*client)] == 201).collect();
        let refused = said.iter().filter(|status| **status == 412).count();
        assert_eq!((created.len(), refused), (1, usize::from(clients) - 1), "{said:?}");
        assert!(servers[0].get(&target(round)).body == body(created[0]), "the content of one that was refused");
    }
}

#[test]
fn a_put_is_atomic_whoever_else_writes_and_reads() {
    let world = World::new(2);
    let server = world.serve(&[]);
    nobody_sees_a_mixture(&[&server], "shared/file", 6);
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn compare_and_swap_loses_no_increment() {
    let world = World::new(2);
    counts_are_exact(&[&world.serve(&[])], "/files/counters/one");
}

#[test]
fn of_many_who_create_one_does() {
    let world = World::new(2);
    one_creates(&[&world.serve(&[])], "race", 16, 12, whole_body);
}

/// Each record is as long as it says, so that a mixture of two is seen.
fn record(process: usize, writer: usize, number: usize) -> String {
    let most = if number.is_multiple_of(2) { 100 } else { 100_000 };
    let length = (process * 31 + writer * 1700 + number * 9700) % most;
    format!("{process} {writer} {number} {length} {}\n", "x".repeat(length))
}

#[test]
fn two_processes_append_whole_records_and_lose_none() {
    let world = World::new(2);
    let servers = [world.serve(&[]), world.serve(&[])];
    let (writers, records) = (4, 150);
    thread::scope(|scope| {
        for (process, server) in servers.iter().enumerate() {
            for writer in 0..writers {
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 0..records {
                        let request = Request::append("/files/log/records", record(process, writer, number));
                        let request = if number.is_multiple_of(3) { request.chunked(10_000) } else { request };
                        // What is not begun is begun again; nothing else may be.
                        loop {
                            let answer = client.send(&request);
                            if answer.status < 300 {
                                break;
                            }
                            assert!(
                                ["503 Locked", "503 Fenced", "503 Busy"].contains(&&*answer.api_error()),
                                "{answer:?}"
                            );
                        }
                    }
                });
            }
        }
    });
    let text = String::from_utf8(servers[0].get("/files/log/records").body).unwrap();
    let mut found: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
    let each =
        |process| (0..writers).flat_map(move |writer| (0..records).map(move |number| record(process, writer, number)));
    let mut expected: Vec<_> = (0..2).flat_map(each).collect();
    // What one writer has added is in its order.
    for line in expected.chunks(records) {
        let places: Vec<_> = line.iter().map(|record| found.iter().position(|found| found == record)).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}");
    }
    found.sort();
    expected.sort();
    assert!(found == expected, "{} records of {}", found.len(), expected.len());
}

#[test]
fn two_processes_put_whole_contents() {
    let world = World::new(2);
    nobody_sees_a_mixture(&[&world.serve(&[]), &world.serve(&[])], "shared", 3);
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn two_processes_compare_and_swap_and_lose_no_increment() {
    let world = World::new(2);
    counts_are_exact(&[&world.serve(&[]), &world.serve(&[])], "/files/counter");
}

#[test]
fn of_many_who_create_by_way_of_two_processes_one_does() {
    let world = World::new(2);
    let servers = [world.serve(&[]), world.serve(&[])];
    one_creates(&[&servers[0], &servers[1]], "race/of/two", 16, 12, whole_body);
    // They meet between the look and the link only now and then.
    one_creates(&[&servers[0], &servers[1]], "short/race/of/two", 2, 300, |client| vec![client]);
}

/// As when a client of another kind, on another machine, has it.
#[test]
fn a_file_that_somebody_else_has_locked_is_not_changed_by_who_asks_for_locks() {
    if super::common::without_a_mount() {
        // The server does not ask the kernel for this kind of lock.
        return;
    }
    let world = World::new(1);
    let server = world.serve(&[("DEADLINE_SECONDS", "1")]);
    assert_eq!(server.put("/files/f", "old").status, 201);
    let tag = server.get("/files/f").tag().to_owned();
    let file = fs::File::open(world.root().join("f")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for request in [
        Request::append("/files/f", "more"),
        Request::put("/files/f", "new").header("if-match", &tag),
        Request::put("/files/f", "new").chunked(1).header("if-match", &tag),
        Request::new("DELETE", "/files/f").header("if-match", &tag),
    ] {
        let answer = server.send(&request);
        assert_eq!((answer.api_error(), answer.header("retry-after")), ("503 Locked".to_owned(), Some("1")));
        assert_eq!(server.get("/files/f").tag(), tag);
    }
    // Who has the lock gives it back.
    drop(file);
    assert_eq!(server.send(&Request::append("/files/f", " and more")).status, 204);
    assert_eq!(server.get("/files/f").body, b"old and more");
}
