//! All that `http`, `harm` and `slow.rs` ask of the service, with targets that it reaches by an NFS client of its own: a real
//! server behind relays that stand for the mount targets. And what happens when one of them hangs or goes away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]
#![allow(clippy::duplicate_mod, reason = "each of these is a program of its own elsewhere")]

mod common;
#[path = "harm/main.rs"]
mod harm;
#[path = "http/main.rs"]
mod http;
#[path = "slow.rs"]
mod slow;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Request, Server, World, eventually};
use nfs_lab::{Action, Direction, End};

const TARGETS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(1);
/// What a machine that does much else adds to a deadline.
const SLACK: Duration = Duration::from_secs(4);

fn serve(world: &World) -> Server {
    world.serve(&[("DEADLINE_SECONDS", "1"), ("PROBE_SECONDS", "0.2"), ("WORKERS", "2")])
}

fn id(target: usize) -> String {
    format!("fsmt-{target:08}")
}

/// So many paths that each target has as its own.
fn paths(server: &Server, count: usize) -> Vec<Vec<String>> {
    let mut client = server.client();
    let mut paths = vec![Vec::new(); TARGETS];
    for number in 0.. {
        let path = format!("of/{number}");
        let told = client.get(&format!("/route/{path}")).json();
        let target = (0..TARGETS).find(|target| told["target"]["mount_target_id"] == id(*target)).unwrap();
        paths[target].push(format!("/files/{path}"));
        if paths.iter().all(|paths| paths.len() >= count) {
            return paths;
        }
    }
    unreachable!()
}

fn is_up(server: &Server, target: usize) -> bool {
    let told = server.get("/targets").json();
    let found = told["targets"].as_array().unwrap().iter().find(|found| found["mount_target_id"] == id(target));
    found.unwrap()["up"].as_bool().unwrap()
}

fn threads(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count()
}

#[test]
fn a_target_that_hangs_costs_its_own_paths_a_deadline_and_the_others_nothing() {
    let world = World::new(TARGETS);
    let server = serve(&world);
    let paths = paths(&server, 4);
    for path in paths.iter().flatten() {
        assert_eq!(server.put(path, path.as_bytes()).status, 201);
    }
    let before = threads(&server);
    world.relay(0).hang(true);
    // Many at once: none of them holds a thread.
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let began = Instant::now();
                let answer = server.get(&paths[0][0]);
                // Until the prober has found out; then another target answers.
                assert!(matches!(answer.status, 200 | 503 | 504), "{answer:?}");
                assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
            });
        }
        for path in paths[1..].iter().flatten() {
            let began = Instant::now();
            assert_eq!(server.get(path).status, 200);
            assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
        }
    });
    assert_eq!(threads(&server), before, "threads are held");
    eventually("it is left out", || (!is_up(&server, 0)).then_some(()));
    let answer = server.get(&paths[0][0]);
    assert_eq!((answer.status, answer.body), (200, paths[0][0].clone().into_bytes()));
    assert_eq!(server.put(&paths[0][1], "new").status, 204);
    world.relay(0).hang(false);
    eventually("its paths come back to it", || {
        let answer = server.get(&paths[0][1]);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"new"[..]));
        (answer.header("x-mount-target") == Some(&*id(0))).then_some(())
    });
}

#[test]
fn a_write_that_hangs_is_kept_from_happening_by_way_of_another_target() {
    let world = World::new(TARGETS);
    let server = serve(&world);
    let path = paths(&server, 1)[0][0].clone();
    assert_eq!(server.put(&path, "older").status, 201);
    // Each of the two workers has its connection then: a worker without one starts nothing, and another target answers.
    for _ in 0..8 {
        assert_eq!(server.put(&path, "old").status, 204);
    }
    world.relay(0).hang(true);
    let answer = server.put(&path, "late");
    assert_eq!((answer.status, answer.code().as_str()), (504, "Deadline"), "{answer:?}");
    let file = world.root().join(path.strip_prefix("/files/").unwrap());
    assert_eq!(fs::read(&file).unwrap(), b"old");
    eventually("it is left out", || (!is_up(&server, 0)).then_some(()));
    // It is over: nothing keeps the path. A machine that is busy may need more than one try.
    eventually("the path is free", || (server.put(&path, "newer").status == 204).then_some(()));
    world.relay(0).hang(false);
    eventually("it comes back", || is_up(&server, 0).then_some(()));
    assert_eq!(server.get(&path).body, b"newer");
    assert_eq!(fs::read(&file).unwrap(), b"newer");
}

#[test]
fn a_write_that_hangs_where_there_is_no_other_target_is_pending_and_keeps_its_path_until_it_has_ended() {
    let world = World::new(1);
    let server = serve(&world);
    let path = "/files/f".to_owned();
    assert_eq!(server.put(&path, "older").status, 201);
    for _ in 0..8 {
        assert_eq!(server.put(&path, "old").status, 204);
    }
    world.relay(0).hang(true);
    let answer = server.put(&path, "late");
    assert_eq!((answer.status, answer.code().as_str()), (504, "Pending"), "{answer:?}");
    assert!(matches!(server.put(&path, "newer").code().as_str(), "Fenced" | "NoTarget"));
    world.relay(0).hang(false);
    eventually("it has ended", || (server.put(&path, "newest").status == 204).then_some(()));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(fs::read(world.root().join("f")).unwrap(), b"newest");
}

#[test]
fn whatever_is_cut_off_no_acknowledged_write_is_lost_and_nobody_waits_for_ever() {
    let world = World::new(TARGETS);
    let server = serve(&world);
    let done = AtomicBool::new(false);
    let written: Vec<BTreeMap<String, usize>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (server, done) = (&server, &done);
                scope.spawn(move || {
                    let mut acknowledged = BTreeMap::new();
                    let mut number = 0;
                    while !done.load(Ordering::Relaxed) {
                        number += 1;
                        let path = format!("/files/{writer}/{}", number % 20);
                        let began = Instant::now();
                        let answer = server.put(&path, number.to_string());
                        assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
                        match answer.status {
                            201 | 204 => drop(acknowledged.insert(path, number)),
                            // Done or not: what was acknowledged before may be covered by it.
                            504 => drop(acknowledged.remove(&path)),
                            503 => {}
                            _ => panic!("{answer:?}"),
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        for round in 0..12 {
            let relay = world.relay(round % TARGETS);
            match round % 3 {
                0 => relay.cut(End::Reset),
                1 => relay.cut(End::Fin),
                _ => {
                    relay.refuse(true);
                    relay.cut(End::Reset);
                }
            }
            thread::sleep(Duration::from_millis(150));
            relay.refuse(false);
        }
        eventually("all come back", || (0..TARGETS).all(|target| is_up(&server, target)).then_some(()));
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let written: Vec<_> = written.into_iter().flatten().collect();
    assert!(written.len() > 40, "too few writes: {}", written.len());
    for (path, number) in written {
        let found = eventually("it can be read", || Some(server.get(&path)).filter(|answer| answer.status != 503));
        assert_eq!((found.status, found.body), (200, number.to_string().into_bytes()), "{path}");
    }
}

/// Connections and their work, TLS included, are spread over the workers: with one for all of them more processors would
/// not help.
#[test]
fn every_worker_has_a_connection_of_its_own_and_the_end_closes_all() {
    let world = World::new(1);
    let mut server = world.serve(&[("WORKERS", "3"), ("CONNECTIONS_PER_TARGET", "2")]);
    let mut clients: Vec<_> = (0..6).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.put(&format!("/files/{number}"), number.to_string()).status, 201);
    }
    // What sweeps has some, too, and what probes has one, which waits for nobody.
    let expected = 2 * (3 + 1) + 1;
    eventually("all are there", || (world.relay(0).counts().open == expected).then_some(()));
    // What one has written all the others read.
    for client in &mut clients {
        for number in 0..6 {
            assert_eq!(client.get(&format!("/files/{number}")).body, number.to_string().into_bytes());
        }
    }
    assert_eq!(world.relay(0).counts().connections, expected as u64, "a connection was made anew");
    server.terminate();
    assert!(server.wait().success());
    eventually("all are closed", || (world.relay(0).counts().open == 0).then_some(()));
}

/// Refuses operations in answers with what a server says of a file that is replaced meanwhile. How many of them it has
/// seen.
fn lose(world: &World, operation: u32, status: u32, which: std::ops::Range<usize>) -> Arc<AtomicUsize> {
    /// Of the status, and of what follows the answer to SEQUENCE.
    const STATUS: usize = 24;
    const REST: usize = 80;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    world.relay(0).on_record(move |way, record| {
        let wanted = [operation.to_be_bytes(), [0; 4]].concat();
        let at = record.get(REST..).and_then(|rest| rest.windows(8).step_by(4).position(|words| words == wanted));
        if let (Direction::ToClient, Some(words)) = (way, at)
            && which.contains(&count.fetch_add(1, Ordering::Relaxed))
        {
            let at = REST + 4 * words + 4;
            for place in [STATUS, at] {
                record[place..place + 4].copy_from_slice(&status.to_be_bytes());
            }
            record.truncate(at + 4);
        }
        Action::Pass
    });
    seen
}

#[test]
fn what_is_replaced_while_it_is_looked_at_is_looked_at_anew() {
    let [getattr, putfh, read, verify] = [9, 22, 25, 37];
    let [stale, server_fault, bad_stateid] = [70, 10006, 10025];
    let world = World::new(1);
    let server = world.serve(&[]);
    let long = vec![b'x'; 400_000];
    assert_eq!(server.put("/files/f", &*long).status, 201);
    assert_eq!(server.put("/files/short", "x").status, 201);
    let get = Request::new("GET", "/files/f");
    let put = Request::put("/files/short", "y");
    // Of a long content: the READ by its path, the OPEN to hold it, the first READ of what is held. What comes after that
    // has been begun to be answered.
    let cases = [
        (&get, read, stale, 0..3, 200),
        (&get, putfh, stale, 0..1, 200),
        (&get, putfh, server_fault, 0..1, 200),
        (&get, putfh, server_fault, 1..2, 200),
        (&get, read, bad_stateid, 1..2, 200),
        (&Request::new("HEAD", "/files/f"), getattr, stale, 0..3, 200),
        (&put, verify, stale, 0..3, 204),
        // As long as it may take.
        (&get, putfh, server_fault, 0..usize::MAX, 502),
    ];
    for (request, operation, status, which, expected) in cases {
        let seen = lose(&world, operation, status, which.clone());
        let answer = server.send(request);
        assert_eq!(answer.status, expected, "{operation} {status} {which:?}");
        if request.method == "GET" && expected == 200 {
            assert!(answer.body == long, "{operation} {status} {which:?}: {} bytes", answer.body.len());
        }
        assert!(seen.load(Ordering::Relaxed) > which.start, "{operation} {status} {which:?}: it was not asked");
        world.relay(0).pass_records();
    }
    assert_eq!(server.get("/files/f").body, long);
}

#[test]
fn what_is_replaced_while_it_is_removed_is_removed_all_the_same() {
    let [lookup, noent, stale]: [u32; 3] = [15, 2, 70];
    let world = World::new(1);
    let server = world.serve(&[]);
    assert_eq!(server.put("/files/short", "x").status, 201);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // So that the server does nothing: it does not find the name, and that is told as a handle that is gone.
    world.relay(0).on_record(move |way, record| {
        let place = |record: &[u8], wanted: &[u8]| record.windows(wanted.len()).position(|found| found == wanted);
        let missing = [lookup.to_be_bytes(), noent.to_be_bytes()].concat();
        if way == Direction::ToServer
            && let Some(at) = place(record, b"short")
            && count.fetch_add(1, Ordering::Relaxed) < 3
        {
            record[at] = b'S';
        } else if way == Direction::ToClient
            && let Some(at) = place(record, &missing)
        {
            for place in [24, at + 4] {
                record[place..place + 4].copy_from_slice(&stale.to_be_bytes());
            }
        }
        Action::Pass
    });
    assert_eq!(server.send(&Request::new("DELETE", "/files/short")).status, 204);
    assert!(asked.load(Ordering::Relaxed) > 3, "it was not asked again");
    world.relay(0).pass_records();
    assert_eq!(server.get("/files/short").status, 404);
}

/// As a Fargate task runs it: another user than root, no capability, a file system that nothing can be written to.
#[test]
fn it_needs_no_privilege_at_all() {
    let world = World::new(TARGETS);
    let open = fs::Permissions::from_mode(0o777);
    for directory in [world.at(""), world.root()] {
        fs::set_permissions(directory, open.clone()).unwrap();
    }
    // Where this user may read it.
    let program = world.at("router");
    fs::copy(env!("CARGO_BIN_EXE_file-service"), &program).unwrap();
    let inner = world.command(&[]);
    let mut command = Command::new("unshare");
    let script = "mount --make-rprivate / && mount -o remount,bind,ro / && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all \
                  --bounding-set=-all \"$0\" serve";
    command.args(["--mount", "sh", "-c", script]).arg(&program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can take its privileges away like this");
        return;
    }
    let server = Server::start(command);
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set).trim_start_matches('0'), "", "{set}");
    }
    assert_eq!((value("NoNewPrivs:"), value("Uid:")), ("1".to_owned(), ["65534"; 4].join("\t")));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", server.id())).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{root}");
    assert!(!mounts.contains(" - nfs"), "there is a mount");
    assert_eq!(server.put("/files/a/b", "content").status, 201);
    assert_eq!(server.send(&Request::append("/files/a/b", " and more")).status, 204);
    assert_eq!(server.get("/files/a/b").body, b"content and more");
}

/// A server that takes names in UTF-8 only: a request with another name is the request's mistake, however it is asked.
#[test]
fn a_name_that_the_server_does_not_take_is_a_bad_name_and_no_failure_of_the_target() {
    let options =
        nfs_lab::Options { nfs4: "Enforce_UTF8_Validation = true;".to_owned(), ..nfs_lab::Options::default() };
    let world = World::with_server(1, options);
    let server = serve(&world);
    let large = vec![b'x'; 2 << 20];
    let requests: [(&str, &str, &[u8]); 13] = [
        ("GET", "/files/%ff", b""),
        ("GET", "/files/%ff/below", b""),
        ("HEAD", "/files/%ff", b""),
        ("PUT", "/files/%ff", b"x"),
        ("PUT", "/files/%ff/below", b"x"),
        ("PUT", "/files/directory/%c3%28", b"x"),
        ("PUT", "/files/%ff", &large),
        ("PUT", "/files/directory/%ff", &large),
        ("POST", "/files/%ff?append", b"x"),
        ("POST", "/files/directory/%ff?append", b"x"),
        ("DELETE", "/files/%ff", b""),
        ("DELETE", "/files/%ff/below", b""),
        ("GET", "/list/%ff", b""),
    ];
    for (method, target, content) in requests {
        let answer = server.send(&Request::new(method, target).body(content));
        let code = if method == "HEAD" { "BadName".to_owned() } else { answer.code() };
        assert_eq!((answer.status, &*code), (400, "BadName"), "{method} {target}: {answer:?}");
    }
    for (name, value) in [("If-None-Match", "*"), ("If-Match", "\"x\"")] {
        let answer = server.send(&Request::new("PUT", "/files/%ff").header(name, value).body(b"x"));
        assert_eq!((answer.status, &*answer.code()), (400, "BadName"), "{name}: {answer:?}");
    }
    let told = server.get("/targets").json();
    assert_eq!(told["targets"][0]["failures"], 0, "{told:#}");
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 0, "directories are left");
    assert_eq!(server.put("/files/gr%c3%bcn", "x").status, 201, "UTF-8 is taken");
}
