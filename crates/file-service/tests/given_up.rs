//! What is given up leaves nothing behind and takes nothing away, with targets that are reached without a mount.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

use common::{Request, Server, World, connect, eventually};
use nfs_lab::{Action, Direction};

const NFS: &[(&str, &str)] = &[("BACKEND", "nfs")];

/// An upload of which a part has come.
fn half(server: &Server, path: &str) -> TcpStream {
    let mut stream = connect(server.address);
    write!(stream, "PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; 4_000_000]).unwrap();
    stream
}

/// Somebody else has put a file where an upload had made a directory.
#[test]
fn an_upload_that_is_broken_off_takes_no_file_for_the_directory_that_it_made() {
    let world = World::new(2);
    let server = world.serve(NFS);
    let stream = half(&server, "/files/d/f");
    eventually("it is made", || world.root().join("d").is_dir().then_some(()));
    thread::sleep(Duration::from_millis(500));
    fs::remove_dir_all(world.root().join("d")).unwrap();
    assert_eq!(server.put("/files/d", "acknowledged").status, 201);
    drop(stream);
    thread::sleep(Duration::from_secs(2));
    let got = server.get("/files/d");
    assert_eq!((got.status, &got.body[..]), (200, &b"acknowledged"[..]));
}

#[test]
fn a_content_on_its_way_is_for_its_owner_only() {
    let world = World::new(2);
    let server = world.serve(NFS);
    assert_eq!(server.put("/files/secret", "old").status, 201);
    fs::set_permissions(world.root().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let _stream = half(&server, "/files/secret");
    let mode = eventually("it is made", || {
        let mut entries = fs::read_dir(world.root()).unwrap().map(Result::unwrap);
        let beside = entries.find(|entry| entry.file_name() != "secret")?;
        Some(beside.metadata().unwrap().permissions().mode())
    });
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn all_the_calls_of_a_read_have_one_deadline() {
    let world = World::new(1);
    let server =
        world.serve(&[("BACKEND", "nfs"), ("DEADLINE_SECONDS", "2"), ("PROBE_SECONDS", "60"), ("WORKERS", "1")]);
    let path = format!("/files/{}/f", ["d"; 254].join("/"));
    assert_eq!(server.put(&path, "x").status, 201);
    world.relay(0).delay_round_trip(Duration::from_millis(1700));
    let began = Instant::now();
    assert_eq!(server.get(&path).code(), "Deadline");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Each target hangs when a call with this content comes.
fn hang_at(world: &World, targets: usize, content: &'static str, when: impl Fn() -> bool + Send + Clone + 'static) {
    for target in 0..targets {
        let (handle, when) = ((**world.relay(target)).clone(), when.clone());
        world.relay(target).on_record(move |way, record| {
            let has_it = record.windows(content.len()).any(|window| window == content.as_bytes());
            if way == Direction::ToServer && has_it && when() {
                handle.hang(true);
            }
            Action::Pass
        });
    }
}

#[test]
fn a_put_that_is_given_up_leaves_no_directory() {
    let world = World::new(2);
    let server =
        world.serve(&[("BACKEND", "nfs"), ("DEADLINE_SECONDS", "4"), ("PROBE_SECONDS", "60"), ("WORKERS", "1")]);
    let root = world.root();
    hang_at(&world, 2, "the content", move || root.join("made").exists());
    let answer = server.put("/files/made/by/f", "the content");
    assert_eq!(answer.status, 504, "{answer:?}");
    for target in 0..2 {
        world.relay(target).pass_records();
        world.relay(target).hang(false);
    }
    eventually("nothing is left", || (!world.root().join("made").exists()).then_some(()));
}

#[test]
fn an_append_that_hangs_keeps_its_path_from_nobody() {
    let world = World::new(3);
    let server =
        world.serve(&[("BACKEND", "nfs"), ("DEADLINE_SECONDS", "4"), ("PROBE_SECONDS", "0.5"), ("WORKERS", "1")]);
    assert_eq!(server.put("/files/log", "old").status, 201);
    // All workers and targets have their connections.
    for number in 0..20 {
        server.get(&format!("/files/{number}"));
    }
    let route = server.get("/route/log").json();
    let id = route["target"]["mount_target_id"].as_str().unwrap().to_owned();
    let target: usize = id.trim_start_matches("fsmt-").parse().unwrap();
    let handle = (**world.relay(target)).clone();
    world.relay(target).on_record(move |way, record| {
        if way == Direction::ToServer && record.windows(8).any(|window| window == b" and new") {
            handle.hang(true);
        }
        Action::Pass
    });
    let began = Instant::now();
    let answer = server.send(&Request::append("/files/log", " and new"));
    assert_eq!(answer.code(), "Deadline", "{answer:?}");
    eventually("another target takes over", || {
        (server.send(&Request::append("/files/log", " more")).status == 204).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    world.relay(target).pass_records();
    world.relay(target).hang(false);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::read(world.root().join("log")).unwrap(), b"old more");
}

#[test]
fn what_is_given_up_when_the_service_is_told_to_end_leaves_nothing() {
    for run in 0..5 {
        let world = World::new(2);
        (0..2).for_each(|target| world.relay(target).delay_round_trip(Duration::from_millis(20)));
        let mut server = world.serve(NFS);
        let stream = half(&server, "/files/d/f");
        eventually("it is made", || world.root().join("d").is_dir().then_some(()));
        thread::sleep(Duration::from_millis(500));
        drop(stream);
        thread::sleep(Duration::from_millis(run * 5));
        server.terminate();
        assert!(server.wait().success());
        let left = (common::temporaries(&world.root()), world.root().join("d").exists());
        assert_eq!(left, (Vec::new(), false), "run {run}");
    }
}

/// The directories that an upload made go when it is given up, while others write to the same place.
#[test]
fn who_writes_where_somebody_gives_up_is_told_that_it_is_done() {
    let world = World::new(2);
    let server = world.serve(NFS);
    for number in 0..25 {
        let stream = half(&server, "/files/a/b/c/d/upload");
        eventually("it is made", || world.root().join("a/b/c/d").is_dir().then_some(()));
        thread::sleep(Duration::from_millis(50));
        drop(stream);
        for _ in 0..4 {
            let answer = server.put(&format!("/files/a/b/c/d/{number}"), "content");
            assert!(matches!(answer.status, 201 | 204), "{answer:?}");
            assert_eq!(server.send(&Request::new("DELETE", &format!("/files/a/b/c/d/{number}"))).status, 204);
        }
        eventually("what was left is gone", || common::temporaries(&world.root()).is_empty().then_some(()));
        let _ = fs::remove_dir_all(world.root().join("a"));
    }
}
