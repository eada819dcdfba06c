//! The end of the process, full file systems and damaged lists.

use super::common::MEBIBYTE;
use super::common::Request;
use super::common::Server;
use super::common::World;
use super::common::answer;
use super::common::connect;
use super::common::content;
use super::common::eventually;
use super::common::is_read;
use super::common::list;
use super::common::temporaries;
use super::common::tree;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::json;
use std::fs;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

#[test]
fn what_runs_at_the_end_is_finished_and_nothing_is_begun() {
    let world = World::new(2);
    let (large, new) = (content(3, 32 * MEBIBYTE), content(4, 3 * MEBIBYTE));
    fs::write(world.root().join("large"), &large).unwrap();
    let mut server = world.serve(&[]);
    let mut idle = BufReader::new(connect(server.address));
    idle.get_mut().write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert_eq!(answer(&mut idle, false).unwrap().status, 200);
    let mut reader = BufReader::with_capacity(1024, connect(server.address));
    reader.get_mut().write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut first = [0; 4096];
    reader.read_exact(&mut first).unwrap();
    let mut writer = BufReader::new(connect(server.address));
    let head = format!("PUT /files/new HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", new.len());
    writer.get_mut().write_all(head.as_bytes()).unwrap();
    writer.get_mut().write_all(&new[..MEBIBYTE]).unwrap();
    // A balancer that has begun to ask.
    let mut balancer = BufReader::new(connect(server.address));
    balancer.get_mut().write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n").unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
    eventually("all are there", || (server.metric("router_connections") == 5.0).then_some(()));
    eventually("the request is begun", || is_read(balancer.get_ref()).then_some(()));

    server.terminate();
    server.wait_for("ending", |line| line["message"] == "ending");
    let refused = TcpStream::connect(server.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // A connection on which nothing runs is closed.
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    balancer.get_mut().write_all(b"\r\n").unwrap();
    let told = answer(&mut balancer, false).unwrap();
    assert_eq!((told.status, told.header("connection")), (503, Some("close")));

    writer.get_mut().write_all(&new[MEBIBYTE..]).unwrap();
    assert_eq!(answer(&mut writer, false).unwrap().status, 201);
    assert!(fs::read(world.root().join("new")).unwrap() == new);
    let got = answer(&mut first.chain(&mut reader), false).unwrap();
    assert!(got.status == 200 && got.body == large);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn what_is_stuck_holds_the_end_up_no_longer_than_it_may() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new(1);
        fs::write(world.root().join("large"), vec![1; 64 * MEBIBYTE]).unwrap();
        fs::write(world.root().join("f"), "old").unwrap();
        let mut server = world.serve(&[("SHUTDOWN_SECONDS", "1"), ("IDLE_SECONDS", "3600")]);
        let mut reader = connect(server.address);
        reader.write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        reader.read_exact(&mut [0; 100]).unwrap();
        let mut writer = connect(server.address);
        writer.write_all(b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nnew").unwrap();
        eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
        let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(server.wait().code(), Some(0));
        let line = server.wait_for("of what was left", |line| line["message"] == "ended before these did");
        assert_eq!(line["connections"], 2);
        assert_eq!(fs::read_to_string(world.root().join("f")).unwrap(), "old");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// A file system that is full

/// The same command, begun by a shell that does something before.
fn after(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// What is refused for want of room changes nothing and leaves nothing.
fn refuses_what_has_no_room(server: &Server, root: &Path, expected: &str) {
    let old = content(1, 600_000);
    assert_eq!(server.put("/files/d/f", &*old).status, 201);
    let before = server.get("/files/d/f");
    let large = content(2, 2 * MEBIBYTE);
    for request in [
        Request::put("/files/d/f", &*large),
        Request::put("/files/d/f", &*large).chunked(100_000),
        Request::put("/files/d/f", &*large).header("if-match", before.tag()),
        Request::put("/files/d/new", &*large).header("if-none-match", "*"),
        Request::append("/files/d/f", &large[..MEBIBYTE - 1]),
    ] {
        let answer = server.send(&request);
        assert_eq!(answer.api_error(), expected, "{} {:?}", request.method, request.headers);
        eventually("no temporary file stays", || temporaries(root).is_empty().then_some(()));
        assert!(server.get("/files/d/f").body == old, "the old content is changed");
        assert_eq!(tree(root).len(), 2, "{:?}", tree(root).iter().map(|(path, _)| path).collect::<Vec<_>>());
    }
    // A tag that is not the file's any more would make its owner lose a race that nobody else has won.
    let tag = server.get("/files/d/f").tag().to_owned();
    assert_eq!(server.send(&Request::put("/files/d/f", "new").header("if-match", &tag)).status, 204);
    assert_eq!(server.send(&Request::append("/files/d/f", " and more")).status, 204);
    assert_eq!(server.get("/files/d/f").body, b"new and more");
}

#[test]
fn a_file_that_may_not_become_larger_stays_as_it_was() {
    if super::common::without_a_mount() {
        // The limit is one of this process, and another one writes the file.
        return;
    }
    let world = World::new(1);
    // Blocks of 512 bytes; and the signal that comes with it is not to end the process.
    let command = after("trap '' XFSZ; ulimit -f 2048", &world.command(&[]));
    let server = Server::start(command);
    refuses_what_has_no_room(&server, &world.root(), "413 TooLarge");
}

#[test]
fn a_full_file_system_loses_nothing() {
    if super::common::without_a_mount() {
        // What this process mounts is not what the server has.
        return;
    }
    let world = World::new(1);
    // A small file system that nobody else sees, and that ends with the process.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "true"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: this machine lets nobody mount anything");
        return;
    }
    let inner =
        after(&format!("mount -t tmpfs -o size=1m none '{}' || exit 9", world.root().display()), &world.command(&[]));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start(command);
    let root = PathBuf::from(format!("/proc/{}/root{}", server.id(), world.root().display()));
    refuses_what_has_no_room(&server, &root, "507 NoSpace");
    // Small ones, until it is full to the last page.
    let mut stored = Vec::new();
    let refused = loop {
        let number = stored.len() as u8;
        let answer = server.put(&format!("/files/many/{number}"), content(number, 50_000));
        if answer.status != 201 {
            break answer;
        }
        stored.push(number);
        assert!(stored.len() < 100, "it is never full");
    };
    assert_eq!(refused.api_error(), "507 NoSpace");
    assert_eq!(server.send(&Request::append("/files/many/0", vec![0; 60_000])).api_error(), "507 NoSpace");
    assert_eq!(server.put("/files/many/0", content(9, 60_000)).api_error(), "507 NoSpace");
    for number in &stored {
        assert!(server.get(&format!("/files/many/{number}")).body == content(*number, 50_000), "{number} is changed");
    }
    eventually("no temporary file stays", || temporaries(&root).is_empty().then_some(()));
    assert_eq!(server.send(&Request::new("DELETE", "/files/many/0")).status, 204);
    assert_eq!(server.put("/files/many/new", content(9, 50_000)).status, 201);
}

// ---------------------------------------------------------------------------------------------------------------
// Lists of targets

#[test]
fn a_damaged_list_changes_nothing_and_a_good_one_is_used_at_once() {
    let world = World::new(2);
    let server = world.serve(&[("REFRESH_SECONDS", "0.2"), ("PROBE_SECONDS", "0.1")]);
    let ids = || {
        let targets = server.get("/targets").json();
        let targets = targets["targets"].as_array().unwrap().clone();
        targets.iter().map(|target| target["mount_target_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["fsmt-00000000", "fsmt-00000001", "fsmt-00000002"];
    let done = AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        // Nobody who uses the service notices anything of all this.
        let user = scope.spawn(|| {
            let mut client = server.client();
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let target = format!("/files/{}", number % 50);
                let put = client.put(&target, number.to_string());
                assert!(put.status < 300, "{put:?}");
                assert_eq!(client.get(&target).body, number.to_string().as_bytes());
                number += 1;
            }
            number
        });
        let checks = || {
            let good = list(2);
            let damaged = [
                String::new(),
                " ".to_owned(),
                "{".to_owned(),
                "[]".to_owned(),
                "null".to_owned(),
                "{\"mount_targets\":[]}".to_owned(),
                "{\"mount_targets\":[{}]}".to_owned(),
                good[..good.len() / 2].to_owned(),
                good.replace("127.0.0.3", "127.0.0.3000"),
                good.replace("fsmt-00000001", "fsmt-00000000"),
                good.replace("fsmt-00000001", ""),
                list(65),
            ];
            for text in &damaged {
                let before = server.metric("router_unreadable_lists_total");
                world.publish(text);
                // One may have been read before; the second has not.
                eventually("it is read", || {
                    (server.metric("router_unreadable_lists_total") >= before + 2.0).then_some(())
                });
                assert_eq!(ids(), all[..2], "{text:?}");
                world.publish(&good);
            }
            let before = server.metric("router_unreadable_lists_total");
            fs::remove_file(world.targets_file()).unwrap();
            eventually("it is missed", || {
                (server.metric("router_unreadable_lists_total") >= before + 2.0).then_some(())
            });
            assert_eq!(ids(), all[..2]);
            assert!(server.lines().iter().any(|line| line["level"] == "WARN"
                && line["message"].as_str().is_some_and(|text| text.contains("the one in use stays"))));

            world.publish(&list(3));
            let goes_to = |id: &str| {
                (0..50).any(|number| server.get(&format!("/route/{number}")).json()["target"]["mount_target_id"] == id)
            };
            eventually("the third one is used", || (ids() == all && goes_to(all[2])).then_some(()));
            let line =
                server.wait_for("of another list", |line| line["message"] == "another list of targets is in use");
            assert_eq!(line["targets"], 3);
            eventually("files go to it", || {
                let targets = server.get("/targets").json();
                (targets["targets"][2]["operations"].as_u64().unwrap() > 0).then_some(())
            });
            // The first one goes; the others keep what they have counted.
            let snapshot = server.get("/targets").json()["targets"][1]["operations"].as_u64().unwrap();
            let mut fewer: serde_json::Value = serde_json::from_str(&list(3)).unwrap();
            fewer["mount_targets"].as_array_mut().unwrap().remove(0);
            world.publish(&fewer.to_string());
            eventually("the first one is gone", || (ids() == all[1..]).then_some(()));
            assert!(!goes_to(all[0]) && goes_to(all[1]) && goes_to(all[2]));
            assert!(server.get("/targets").json()["targets"][0]["operations"].as_u64().unwrap() >= snapshot);
            assert_eq!(server.get("/targets").json()["targets"][0]["up"], json!(true));
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(checks));
        done.store(true, Ordering::Relaxed);
        assert!(user.join().unwrap() > 0);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
}
