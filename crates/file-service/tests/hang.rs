//! One of three targets hangs: it is a FUSE file system whose process is stopped, so that every call into it waits, as
//! on an NFS server that answers no more. What that may cost, and whom.
//!
//! Nothing here may touch the directory of that target itself while it hangs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod service;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use service::{Answer, Place, SOON, Service, order, paths_of};

/// The target that hangs.
const HANGS: usize = 0;

/// A file system in a process that can be stopped. Ended, and taken out of the tree, when it is dropped.
struct Hanging {
    child: Child,
    directory: PathBuf,
}

/// Three targets, of which one can hang; nothing where that cannot be made.
fn place() -> Option<(Place, Hanging)> {
    let root = rustix::process::geteuid().is_root();
    let program = Command::new("bindfs").arg("--version").stdout(Stdio::null()).status().is_ok();
    let device = fs::File::open("/dev/fuse").is_ok();
    if !(root && program && device) {
        println!("skipped: it needs root ({root}), the program bindfs ({program}) and /dev/fuse ({device})");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "and CI has to have them");
        return None;
    }
    // In memory: a disk that is busy is not to be taken for what a hang costs.
    let place = Place::within("/dev/shm", &[1, 2]);
    let directory = place.target(HANGS);
    fs::create_dir(&directory).unwrap();
    // It believes nothing that it has heard before, as NFS when a file is opened; and it moves nothing aside when a
    // file that is open is replaced, as which the others would see no file at all for a moment.
    let options = ["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0,hard_remove"];
    let child = Command::new("bindfs").args(options).args([&place.files(), &directory]).spawn().unwrap();
    let mut hanging = Hanging { child, directory };
    let until = Instant::now() + SOON;
    while !hanging.is_mounted() {
        assert!(hanging.child.try_wait().unwrap().is_none(), "bindfs has ended");
        assert!(Instant::now() < until, "bindfs does not mount");
        thread::sleep(Duration::from_millis(10));
    }
    Some((place, hanging))
}

impl Hanging {
    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4) == self.directory.to_str())
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// From now on every call into it waits.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let until = Instant::now() + SOON;
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next()
        };
        while state() != Some('T') {
            assert!(Instant::now() < until, "bindfs does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.go_on();
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
    }
}

/// Tells the threads of a scope to end, however the scope ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn file(path: &str) -> String {
    format!("/files/{path}")
}

fn is_about(took: Duration, expected: f64) -> bool {
    (expected - 0.05..expected + 2.0).contains(&took.as_secs_f64())
}

fn told(answer: &Answer) -> (u16, String) {
    (answer.status, if answer.is_done() { String::new() } else { answer.code() })
}

/// Nobody finds out by probing that the target hangs: the worst that can be.
const UNNOTICED: (&str, &str) = ("PROBE_SECONDS", "300");

#[test]
fn the_paths_of_other_targets_do_not_notice() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[
        UNNOTICED,
        ("SYNC", "never"),
        ("DEADLINE_SECONDS", "0.5"),
        ("THREADS_PER_TARGET", "2"),
        ("QUEUE_PER_TARGET", "8"),
    ]);
    let others: Vec<_> = [1, 2].into_iter().flat_map(|target| paths_of(target, 20)).collect();
    let hung = paths_of(HANGS, 20);
    for path in others.iter().chain(&hung) {
        assert!(service.put(path, b"content").is_done());
    }
    let end = AtomicBool::new(false);
    let took = Mutex::new(Vec::new());
    let wanting = AtomicU64::new(0);
    let p99 = |wanted: Duration| {
        took.lock().unwrap().clear();
        thread::sleep(wanted);
        let mut took = std::mem::take(&mut *took.lock().unwrap());
        took.sort_unstable();
        // Too few, when the machine has other things to do: they say nothing.
        if took.len() < 200 { Duration::MAX } else { took[took.len() * 99 / 100] }
    };
    let requests = |paths: &[String], pause: Duration, each: &(dyn Fn(Answer) + Sync)| {
        let mut client = service.client();
        for (number, path) in paths.iter().cycle().enumerate() {
            if end.load(Ordering::Relaxed) {
                return;
            }
            let (method, body) = if number % 4 == 3 { ("PUT", &b"content"[..]) } else { ("GET", &b""[..]) };
            each(client.send(method, &file(path), body));
            thread::sleep(pause);
        }
    };
    let (before, during) = thread::scope(|scope| {
        let ends = Ends(&end);
        for _ in 0..4 {
            let (requests, others, took) = (&requests, &others, &took);
            scope.spawn(move || {
                requests(others, Duration::from_millis(1), &|answer| {
                    assert!(answer.is_done() && answer.target() != HANGS, "{answer:?}");
                    took.lock().unwrap().push(answer.took);
                });
            });
        }
        for _ in 0..12 {
            let (requests, hung, wanting) = (&requests, &hung, &wanting);
            scope.spawn(move || {
                requests(hung, Duration::from_millis(4), &|answer| {
                    assert!(matches!(answer.status, 200 | 204 | 503 | 504), "{answer:?}");
                    wanting.fetch_add(u64::from(answer.status > 500), Ordering::Relaxed);
                });
            });
        }
        // What else the machine does may spoil a round; what a hang costs, it costs in each.
        let (mut before, mut during) = (Duration::MAX, Duration::MAX);
        for round in 0..8 {
            before = before.min(p99(Duration::from_millis(700)));
            hanging.stop();
            let refused = wanting.load(Ordering::Relaxed);
            during = during.min(p99(Duration::from_millis(900)));
            assert!(wanting.load(Ordering::Relaxed) > refused + 20, "nobody was refused: it did not hang");
            hanging.go_on();
            thread::sleep(Duration::from_millis(100));
            if round >= 2 && is_no_worse(before, during) {
                break;
            }
        }
        drop(ends);
        (before, during)
    });
    println!("99 of 100 within {before:?} before, {during:?} during the hang");
    assert!(during < Duration::MAX && is_no_worse(before, during), "{before:?} before, {during:?} during the hang");
}

/// Not more than twice as long, where that is more than what a machine does to anybody.
fn is_no_worse(before: Duration, during: Duration) -> bool {
    during <= before.saturating_mul(2).max(Duration::from_millis(5))
}

#[test]
fn its_own_paths_are_told_in_time_and_what_is_too_much_at_once() {
    let Some((place, hanging)) = place() else { return };
    let service =
        place.serve(&[UNNOTICED, ("DEADLINE_SECONDS", "0.5"), ("THREADS_PER_TARGET", "2"), ("QUEUE_PER_TARGET", "2")]);
    let paths = paths_of(HANGS, 40);
    assert!(service.put(&paths[0], b"content").is_done());
    let threads = service.threads();
    hanging.stop();
    thread::scope(|scope| {
        let service = &service;
        let paths = &paths;
        let get = scope.spawn(move || service.get(&paths[0]));
        let put = scope.spawn(move || service.put(&paths[1], b"hung"));
        thread::sleep(Duration::from_millis(150));
        // Both threads are taken: these wait for one.
        let waiting_get = scope.spawn(move || service.get(&paths[0]));
        let waiting_put = scope.spawn(move || service.put(&paths[2], b"never begun"));
        thread::sleep(Duration::from_millis(150));
        let mut refused = Vec::new();
        for path in &paths[3..] {
            for answer in [service.get(path), service.put(path, b"too much"), service.send("DELETE", &file(path), b"")]
            {
                assert_eq!(told(&answer), (503, "Busy".to_owned()));
                assert_eq!(answer.header("retry-after"), Some("1"));
                refused.push(answer.took);
            }
        }
        refused.sort_unstable();
        assert!(refused[refused.len() / 2] < Duration::from_millis(50), "it was not at once: {refused:?}");
        let (get, put) = (get.join().unwrap(), put.join().unwrap());
        assert_eq!(told(&get), (504, "Deadline".to_owned()));
        assert_eq!(told(&put), (504, "Pending".to_owned()));
        for waited in [waiting_get.join().unwrap(), waiting_put.join().unwrap()] {
            assert_eq!(told(&waited), (503, "Busy".to_owned()));
            assert!(is_about(waited.took, 0.5), "{:?}", waited.took);
        }
        for answer in [get, put] {
            assert!(is_about(answer.took, 0.5), "{:?}", answer.took);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    });
    // Three pools of at most two threads and a prober each: the hang costs no more.
    assert!(service.threads() <= threads + 6, "{} threads were {threads}", service.threads());
    let target = service.target(HANGS);
    assert!(target["refused"].as_u64() >= Some(100) && target["failures"].as_u64() >= Some(2), "{target}");

    hanging.go_on();
    let until = Instant::now() + SOON;
    while !service.get(&paths[0]).is_done() {
        assert!(Instant::now() < until, "it does not come back");
        thread::sleep(Duration::from_millis(20));
    }
    // What was begun has happened at last; what was refused, never.
    let ended = Instant::now() + SOON;
    while service.get(&paths[1]).body != b"hung" {
        assert!(Instant::now() < ended, "the write that hung does not end");
        thread::sleep(Duration::from_millis(20));
    }
    for path in &paths[2..] {
        assert_eq!(told(&service.get(path)), (404, "NotFound".to_owned()), "{path}");
    }
}

#[test]
fn many_requests_cost_no_more_threads_than_they_may() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[UNNOTICED, ("DEADLINE_SECONDS", "1"), ("THREADS_PER_TARGET", "4")]);
    let paths = paths_of(HANGS, 50);
    assert!(service.put(&paths[0], b"content").is_done());
    hanging.stop();
    let most = thread::scope(|scope| {
        let mut asking = Vec::new();
        for path in &paths {
            let service = &service;
            asking.push(scope.spawn(move || service.put(path, b"content")));
        }
        let mut most = 0;
        while asking.iter().any(|asks| !asks.is_finished()) {
            most = most.max(service.threads());
            thread::sleep(Duration::from_millis(5));
        }
        most
    });
    // The first thread, the log's, that which reads the list, two that speak HTTP, and three pools with a prober each.
    let bound = 5 + 3 * (4 + 1);
    assert!(most <= bound, "{most} threads, of at most {bound}");
    hanging.go_on();
}

#[test]
fn once_it_is_noticed_its_paths_go_to_their_second_choice_and_return_when_it_answers() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[("PROBE_SECONDS", "0.2"), ("DEADLINE_SECONDS", "0.5")]);
    let paths = paths_of(HANGS, 12);
    let others: Vec<_> = [1, 2].into_iter().flat_map(|target| paths_of(target, 6)).collect();
    for path in paths.iter().chain(&others) {
        assert_eq!(service.put(path, b"first").target(), order(path)[0]);
    }
    let own = |service: &Service, content: &[u8]| {
        for path in &others {
            let read = service.get(path);
            assert_eq!((read.target(), read.body), (order(path)[0], content.to_vec()), "{path} has moved");
        }
    };
    for _ in 0..2 {
        let (said, began) = (service.said(), Instant::now());
        hanging.stop();
        service.wait_for_target(said, HANGS, false);
        // A probe that waits for two seconds, a second one that finds it waiting still.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        for path in &paths {
            let second = order(path)[1];
            let (read, written) = (service.get(path), service.put(path, b"second"));
            assert_eq!((read.status, &read.body[..], read.target()), (200, &b"first"[..], second), "{path}");
            assert_eq!((written.status, written.target()), (204, second), "{path}");
            assert_eq!(service.get(path).body, b"second");
        }
        own(&service, b"first");

        let said = service.said();
        hanging.go_on();
        service.wait_for_target(said, HANGS, true);
        for path in &paths {
            let read = service.get(path);
            assert_eq!((read.target(), &read.body[..]), (HANGS, &b"second"[..]), "{path}");
            assert_eq!(service.put(path, b"first").target(), HANGS);
        }
        own(&service, b"first");
    }
}

#[test]
fn a_change_that_hangs_fences_its_path_until_it_has_ended() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[("PROBE_SECONDS", "0.2"), ("DEADLINE_SECONDS", "0.5")]);
    let paths = paths_of(HANGS, 4);
    let [put, append, delete, free] = &paths[..] else { panic!() };
    for path in &paths {
        assert!(service.put(path, b"first").is_done());
    }
    let said = service.said();
    hanging.stop();
    thread::scope(|scope| {
        let service = &service;
        let hung = [
            scope.spawn(move || service.put(put, b"late")),
            scope.spawn(move || service.send("POST", &format!("{}?append", file(append)), b"late")),
            scope.spawn(move || service.send("DELETE", &file(delete), b"")),
        ];
        for hung in hung {
            assert_eq!(told(&hung.join().unwrap()), (504, "Pending".to_owned()));
        }
    });
    let fenced = |when: &str| {
        let mut fastest = Duration::MAX;
        for path in [put, append, delete] {
            for (method, query) in [("PUT", ""), ("POST", "?append"), ("DELETE", "")] {
                let body: &[u8] = if method == "DELETE" { b"" } else { b"newer" };
                let answer = service.send(method, &format!("{}{query}", file(path)), body);
                assert_eq!(told(&answer), (503, "Fenced".to_owned()), "{when}: {method} {path}");
                assert_eq!(answer.header("retry-after"), Some("1"));
                fastest = fastest.min(answer.took);
            }
        }
        assert!(fastest < Duration::from_millis(200), "{when}: nobody is told before {fastest:?}");
    };
    fenced("before it is noticed");
    service.wait_for_target(said, HANGS, false);
    fenced("by way of the second choice");
    // Who reads is not kept out, and sees what there was; another path is free.
    for path in [put, append, delete] {
        let read = service.get(path);
        assert_eq!((read.target(), &read.body[..]), (order(path)[1], &b"first"[..]));
    }
    assert_eq!(told(&service.put(free, b"second")), (204, String::new()));

    hanging.go_on();
    for path in [put, append, delete] {
        let until = Instant::now() + SOON;
        loop {
            let answer = service.put(path, b"newest");
            if answer.is_done() {
                break;
            }
            assert_eq!(told(&answer), (503, "Fenced".to_owned()));
            assert!(Instant::now() < until, "the fence of {path} does not open");
            thread::sleep(Duration::from_millis(2));
        }
    }
    // What came late came before, and nothing comes any more.
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        for path in [put, append, delete] {
            assert_eq!(service.get(path).body, b"newest");
            assert_eq!(fs::read(place.files().join(path)).unwrap(), b"newest");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whenever it hangs and comes back, in whatever step of a write: what was acknowledged is never covered by an older
/// content.
#[test]
fn no_acknowledged_write_is_covered_by_an_older_one() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[("PROBE_SECONDS", "0.1"), ("DEADLINE_SECONDS", "0.2"), ("SYNC", "never")]);
    let paths = paths_of(HANGS, 3);
    let acknowledged: Vec<_> = paths.iter().map(|_| AtomicU64::new(0)).collect();
    let (tried, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().trim_end().parse::<u64>().unwrap();
    for path in &paths {
        assert!(service.put(path, b"0").is_done());
    }
    let codes = thread::scope(|scope| {
        let ends = Ends(&end);
        let writers: Vec<_> = paths
            .iter()
            .zip(&acknowledged)
            .map(|(path, acknowledged)| {
                let (service, end, tried) = (&service, &end, &tried);
                scope.spawn(move || {
                    let (mut client, mut codes) = (service.client(), Vec::new());
                    while !end.load(Ordering::Relaxed) {
                        let next = tried.fetch_add(1, Ordering::Relaxed) + 1;
                        // Of several sizes: a large one goes the way of those that come in pieces.
                        let size = if next % 7 == 0 { 600_000 } else { 10 };
                        let mut content = next.to_string().into_bytes();
                        content.resize(size, b' ');
                        // A large one that is refused may not be told so: nobody reads it to its end.
                        let Ok(answer) = client.try_send("PUT", &file(path), &content) else { continue };
                        match told(&answer) {
                            (200..300, _) => acknowledged.store(next, Ordering::Release),
                            (503 | 504, code) => codes.push(code),
                            other => panic!("{other:?}"),
                        }
                    }
                    codes
                })
            })
            .collect();
        let readers: Vec<_> = paths
            .iter()
            .zip(&acknowledged)
            .map(|(path, acknowledged)| {
                let (service, end, place) = (&service, &end, &place);
                scope.spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        let least = acknowledged.load(Ordering::Acquire);
                        // When it begins to hang amid a content, that is cut off.
                        let answer = service.client().try_send("GET", &file(path), b"");
                        if let Ok(answer) = answer {
                            if !answer.is_done() {
                                // FUSE opens what it has found in a second step, and finds it gone when it was
                                // replaced between them. NFS asks again.
                                assert!(matches!(answer.status, 404 | 503 | 504), "{answer:?}");
                                continue;
                            }
                            let read = number(&answer.body);
                            assert!(read >= least, "{path}: {read} is read after {least} was acknowledged");
                        }
                        // Beside the service too, which may have its own view.
                        let least = acknowledged.load(Ordering::Acquire);
                        let read = number(&fs::read(place.files().join(path)).unwrap());
                        assert!(read >= least, "{path}: {read} is there after {least} was acknowledged");
                    }
                })
            })
            .collect();
        for pause in [130, 2300, 370, 2600, 90, 240] {
            thread::sleep(Duration::from_millis(300));
            hanging.stop();
            thread::sleep(Duration::from_millis(pause));
            hanging.go_on();
        }
        thread::sleep(Duration::from_millis(500));
        drop(ends);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    let count = |code: &str| codes.iter().filter(|known| *known == code).count();
    println!("{} tried, {} fenced, {} pending", tried.into_inner(), count("Fenced"), count("Pending"));
    assert!(count("Fenced") > 0 && count("Pending") > 0, "nothing hung");
}

#[test]
fn a_content_that_came_halfway_is_given_up_and_leaves_nothing() {
    let Some((place, hanging)) = place() else { return };
    let service = place.serve(&[("PROBE_SECONDS", "0.2"), ("DEADLINE_SECONDS", "0.5")]);
    let path = &paths_of(HANGS, 1)[0];
    assert!(service.put(path, b"first").is_done());
    let half = vec![b'x'; 1 << 20];
    let mut client = service.client();
    client.begin("PUT", &file(path), 2 * half.len(), &half).unwrap();
    let directory = place.files().join(path);
    let directory = directory.parent().unwrap();
    let temporary = || {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".efs-router.")).count()
    };
    let until = Instant::now() + SOON;
    while temporary() == 0 {
        assert!(Instant::now() < until, "no temporary file is made");
        thread::sleep(Duration::from_millis(5));
    }
    let said = service.said();
    hanging.stop();
    let began = Instant::now();
    client.more(&half).unwrap();
    let answer = client.answer(began).unwrap();
    assert_eq!(told(&answer), (504, "Deadline".to_owned()));
    assert!(is_about(answer.took, 0.5), "{:?}", answer.took);
    // It was not about to come into its place: nobody is fenced.
    service.wait_for_target(said, HANGS, false);
    assert_eq!(told(&service.put(path, b"second")), (204, String::new()));
    hanging.go_on();
    let until = Instant::now() + SOON;
    while temporary() > 0 {
        assert!(Instant::now() < until, "the temporary file stays");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(service.get(path).body, b"second");
}

#[test]
fn the_end_does_not_wait_for_it() {
    let Some((place, hanging)) = place() else { return };
    let mut service = place.serve(&[UNNOTICED, ("DEADLINE_SECONDS", "60"), ("SHUTDOWN_SECONDS", "1")]);
    let paths = paths_of(HANGS, 4);
    assert!(service.put(&paths[0], b"content").is_done());
    // What bindfs has begun when it is stopped keeps a thread that not even the end of its process frees, unlike a hard
    // mount of NFS: nothing may be under way, not the probe after the first one either.
    thread::sleep(Duration::from_millis(500));
    hanging.stop();
    let mut clients: Vec<_> = (0..4).map(|_| service.client()).collect();
    for ((client, path), method) in clients.iter_mut().zip(&paths).zip(["GET", "PUT", "DELETE", "GET"]) {
        client.begin(method, &file(path), 0, b"").unwrap();
    }
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    service.terminate();
    let status = service.wait_for_end(SOON);
    let took = began.elapsed();
    println!("it ended {took:?} after SIGTERM");
    assert_eq!(status.code(), Some(0));
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
    let said = service.wait_for_message(0, "ended before these did");
    assert_eq!(said["connections"], 4);
}

#[test]
fn a_target_that_hangs_at_the_start_is_used_when_it_answers() {
    let Some((place, hanging)) = place() else { return };
    hanging.stop();
    let began = Instant::now();
    let service = place.serve(&[("PROBE_SECONDS", "0.2")]);
    println!("it was ready after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let path = &paths_of(HANGS, 1)[0];
    assert_eq!(service.put(path, b"content").target(), order(path)[1]);
    let said = service.said();
    hanging.go_on();
    service.wait_for_target(said, HANGS, true);
    let read = service.get(path);
    assert_eq!((read.target(), &read.body[..]), (HANGS, &b"content"[..]));
}

/// The first probes are over before it answers: mounting takes as long, over TLS.
#[test]
fn a_start_waits_for_the_only_target_until_it_answers() {
    let Some((place, hanging)) = place() else { return };
    place.remove(1);
    place.remove(2);
    hanging.stop();
    let mut service = place.begin(&[("PROBE_SECONDS", "0.2")]);
    thread::sleep(Duration::from_secs(3));
    hanging.go_on();
    service.wait_until_ready();
    assert_eq!(service.put("file", b"content").target(), HANGS);
}
