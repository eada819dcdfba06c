//! Clients that are slow, on purpose or not: what they hold is bounded, and nobody who is not slow waits for it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    io::{BufReader, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use common::{Answer, MEBIBYTE, Request, Server, World, answer, connect, content, eventually, temporaries};

/// More than 32 MiB of them would take, if each had what it has announced.
const MANY: usize = 300;

/// The head of a request whose body is to come.
fn head(method: &str, target: &str, length: usize) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")
}

fn begin(server: &Server, method: &str, target: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut stream = connect(server.address);
    stream.write_all(head(method, target, length).as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    stream
}

fn answered(stream: TcpStream) -> Answer {
    answer(&mut BufReader::new(stream), false).unwrap()
}

/// Appends of several sizes, one after the other; none may be refused.
fn appends_are_done(server: &Server, path: &str, rounds: usize) {
    let mut client = server.client();
    for round in 0..rounds {
        for length in [10, 100_000, MEBIBYTE] {
            let answer = client.send(&Request::append(path, content(round as u8, length)));
            assert!([201, 204].contains(&answer.status), "{answer:?}");
        }
    }
}

#[test]
fn slow_appends_keep_nobody_from_appending() {
    let world = World::new(1);
    let server = world.serve(&[]);
    // Each has all but one byte, which is still to come.
    let whole = content(1, MEBIBYTE);
    let mut slow: Vec<_> = (0..MANY)
        .map(|number| begin(&server, "POST", &format!("/files/slow/{number}?append"), MEBIBYTE, &whole[1..]))
        .collect();
    appends_are_done(&server, "/files/fast", 5);
    // Nobody is refused for being slow, either: what has begun comes to its end.
    for stream in slow.iter_mut().step_by(10) {
        stream.write_all(&whole[..1]).unwrap();
    }
    for (number, stream) in slow.into_iter().enumerate().step_by(10) {
        assert_eq!(answered(stream).status, 201);
        let expected = [&whole[1..], &whole[..1]].concat();
        assert!(fs::read(world.root().join(format!("slow/{number}"))).unwrap() == expected, "{number}");
    }
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
}

#[test]
fn what_is_announced_takes_no_room() {
    let world = World::new(1);
    let server = world.serve(&[]);
    // Of two hundred of them each would have had a whole mebibyte.
    let _slow: Vec<_> = (0..MANY)
        .map(|number| match number % 3 {
            0 => begin(&server, "POST", &format!("/files/slow/{number}?append"), MEBIBYTE, b""),
            1 => begin(&server, "PUT", &format!("/files/slow/{number}"), 256 << 10, b""),
            _ => {
                let mut stream = connect(server.address);
                let head = format!(
                    "POST /files/slow/{number}?append HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream
            }
        })
        .collect();
    appends_are_done(&server, "/files/fast", 5);
}

/// Sends it in so many pieces, and waits as long before each of them.
fn send_slowly(stream: &mut TcpStream, body: &[u8], pieces: usize, pause: Duration) {
    for piece in body.chunks(body.len().div_ceil(pieces)) {
        thread::sleep(pause);
        // Once it is refused this fails.
        if stream.write_all(piece).is_err() {
            return;
        }
    }
}

#[test]
fn what_comes_slowly_is_written_as_what_comes_at_once() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let (old, more) = (content(1, 1000), content(2, 200_000));
    fs::write(world.root().join("appended"), &old).unwrap();
    fs::write(world.root().join("kept"), &old).unwrap();
    let slowly = |method: &str, target: &str, headers: &str| {
        let mut stream = connect(server.address);
        let head = format!("{method} {target} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n", more.len());
        stream.write_all(head.as_bytes()).unwrap();
        // Longer than anything waits for in memory.
        send_slowly(&mut stream, &more, 8, Duration::from_millis(250));
        answered(stream)
    };
    thread::scope(|scope| {
        let slowly = &slowly;
        let cases = [
            ("POST", "/files/appended?append", "", 204),
            ("POST", "/files/new/appended?append", "", 201),
            ("PUT", "/files/new/put", "", 201),
            ("POST", "/files/kept?append", "if-match: \"other\"\r\n", 412),
            ("POST", "/files/none/at/all?append", "if-match: *\r\n", 412),
            ("PUT", "/files/kept", "if-none-match: *\r\n", 412),
        ];
        let answers = cases.map(|(method, target, headers, expected)| {
            (scope.spawn(move || slowly(method, target, headers)), target, expected)
        });
        for (answer, target, expected) in answers {
            assert_eq!(answer.join().unwrap().status, expected, "{target}");
        }
    });
    let read = |name: &str| fs::read(world.root().join(name)).unwrap();
    assert!(read("appended") == [old.clone(), more.clone()].concat());
    assert!(read("new/appended") == more && read("new/put") == more && read("kept") == old);
    eventually("nothing else stays", || {
        (temporaries(&world.root()).is_empty() && !world.root().join("none").exists()).then_some(())
    });
}

#[test]
fn a_body_below_the_least_rate_is_told_so_and_one_above_it_comes_whole() {
    let world = World::new(1);
    let server = world.serve(&[("IDLE_SECONDS", "1"), ("MIN_BODY_BYTES_PER_SECOND", "10000")]);
    let length = 60_000;
    let bodies = ["PUT /files/put", "POST /files/append?append", "PUT /files/large"];
    let rate = |request: &'static str, pieces: usize| {
        let (method, target) = request.split_once(' ').unwrap();
        // The third one is never taken into memory.
        let length = if target == "/files/large" { 5 * length } else { length };
        let mut stream = begin(&server, method, target, length, b"");
        let body = content(1, length);
        send_slowly(&mut stream, &body[..length / 5], pieces, Duration::from_millis(100));
        (stream, body)
    };
    thread::scope(|scope| {
        let rate = &rate;
        // 12,000 bytes in 4 s.
        let slow =
            ["PUT /files/put", "POST /files/append?append"].map(|request| scope.spawn(move || rate(request, 40)));
        for slow in slow {
            let began = Instant::now();
            let (stream, _) = slow.join().unwrap();
            assert_eq!(answered(stream).api_error(), "408 SlowBody");
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    });
    for path in ["put", "append", "large"] {
        assert_eq!(server.get(&format!("/files/{path}")).status, 404);
    }
    thread::scope(|scope| {
        let rate = &rate;
        // A fifth in 500 ms, and the rest at once.
        let fast = bodies.map(|request| scope.spawn(move || rate(request, 5)));
        for fast in fast {
            let (mut stream, body) = fast.join().unwrap();
            stream.write_all(&body[body.len() / 5..]).unwrap();
            assert_eq!(answered(stream).status, 201);
        }
    });
    eventually("nothing else stays", || temporaries(&world.root()).is_empty().then_some(()));
}

/// Bytes of names in the directory that is listed, and of all of its answer at least twice as much.
const NAMES: usize = 2_000;
const NAME: usize = 200;
/// Each is made by a program that is not optimized.
const LISTS: usize = 100;

fn listed(directory: &std::path::Path) -> Vec<String> {
    fs::create_dir_all(directory).unwrap();
    let mut names: Vec<_> = (0..NAMES).map(|number| format!("{number:0NAME$}")).collect();
    for name in &names {
        fs::write(directory.join(name), "").unwrap();
    }
    names.sort();
    names
}

fn names(answer: &Answer) -> Vec<String> {
    let told = answer.json();
    let mut names: Vec<_> =
        told["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn who_lists_and_does_not_read_holds_a_page() {
    let world = World::new(1);
    let expected = listed(&world.root().join("many"));
    let server = world.serve(&[]);
    let list = "/list/many?limit=10000";
    let all = server.get(list);
    assert_eq!((all.status, all.json()["next"].is_null(), names(&all).len()), (200, true, NAMES));
    assert!(names(&all) == expected);
    let before = server.resident();
    let slow: Vec<_> = (0..LISTS).map(|_| unread(&server, list)).collect();
    // Each has been asked for, and has come as far as it comes.
    eventually("all are answered", || slow.iter().all(|stream| stream.peek(&mut [0; 1]).unwrap() > 0).then_some(()));
    thread::sleep(Duration::from_millis(500));
    let resident = server.resident();
    assert!(resident < before + LISTS as u64 * (256 << 10), "{} MiB after {}", resident >> 20, before >> 20);
    assert!(names(&server.get(list)) == expected);
}

/// Asks for something that it does not read, with little room for it in the kernel.
fn unread(server: &Server, target: &str) -> TcpStream {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &server.address).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// What a slow client may hold at most of the service's memory, as `docs/reference/service.md` says it: its connection, and one
/// piece of what it sends or reads. A program that is not optimized has a stack and tasks that are larger.
const OF_A_CLIENT: u64 = 160 << 10;
/// Of all of them: bodies of one target that come soon, pieces that are on their way, and those that are kept for the
/// next ones.
const OF_ALL: u64 = (32 + 32 + 8) << 20;

#[test]
fn slow_clients_of_every_kind_hold_no_more_than_is_said_and_the_others_are_served() {
    let world = World::new(1);
    listed(&world.root().join("many"));
    fs::write(world.root().join("large"), vec![7; 16 * MEBIBYTE]).unwrap();
    let server = world.serve(&[]);
    appends_are_done(&server, "/files/before", 1);
    let (before, large) = (server.resident(), content(1, MEBIBYTE));
    let slow: Vec<_> = (0..2 * MANY)
        .map(|number| match number % 6 {
            0 => begin(&server, "POST", &format!("/files/slow/{number}?append"), MEBIBYTE, &large[1..]),
            1 => begin(&server, "PUT", &format!("/files/slow/{number}"), 256 << 10, &large[..200 << 10]),
            2 => begin(&server, "PUT", &format!("/files/slow/{number}"), 2 * MEBIBYTE, &large),
            3 | 4 => unread(&server, "/files/large"),
            _ => begin(&server, "GET", "/files/large", 10, b""),
        })
        .chain((0..LISTS / 4).map(|_| unread(&server, "/list/many?limit=10000")))
        .collect();
    appends_are_done(&server, "/files/fast", 3);
    // Longer than anything waits in memory for more of it.
    let until = Instant::now() + Duration::from_secs(2);
    let mut most = 0;
    while Instant::now() < until {
        most = most.max(server.resident());
        appends_are_done(&server, "/files/fast", 1);
    }
    let bound = before + OF_ALL + slow.len() as u64 * OF_A_CLIENT;
    println!("{} MiB before, {} with {} slow clients, of {}", before >> 20, most >> 20, slow.len(), bound >> 20);
    assert!(most < bound, "{} MiB of {}", most >> 20, bound >> 20);
    let kept = before + slow.len() as u64 * OF_A_CLIENT + (48 << 20);
    assert!(server.resident() < kept, "{} MiB of {}", server.resident() >> 20, kept >> 20);
}

fn bytes_read(server: &Server) -> u64 {
    let told = server.get("/targets").json();
    told["targets"].as_array().unwrap().iter().map(|target| target["bytes_read"].as_u64().unwrap()).sum()
}

#[test]
fn who_asks_for_files_and_does_not_read_holds_two_small_pieces() {
    let world = World::new(1);
    fs::write(world.root().join("large"), vec![7; 16 * MEBIBYTE]).unwrap();
    let server = world.serve(&[]);
    let before = server.resident();
    let slow: Vec<_> = (0..2 * MANY).map(|_| unread(&server, "/files/large")).collect();
    eventually("all are answered", || slow.iter().all(|stream| stream.peek(&mut [0; 1]).unwrap() > 0).then_some(()));
    // Each has come as far as it comes, once no more is read for any.
    let (mut most, mut read) = (0, 0);
    eventually("nothing more is read", || {
        thread::sleep(Duration::from_secs(1));
        most = most.max(server.resident());
        let before = std::mem::replace(&mut read, bytes_read(&server));
        (before == read).then_some(())
    });
    // 40 MiB of pieces, and of each two of 16 KiB and what a connection takes.
    let (resident, bound) = (most, before + (40 << 20) + slow.len() as u64 * (64 << 10));
    println!("{} MiB before, {} with {} slow clients", before >> 20, resident >> 20, slow.len());
    assert!(resident < bound, "{} MiB of {}", resident >> 20, bound >> 20);
    assert!(server.get("/files/large").body == vec![7; 16 * MEBIBYTE]);
}

#[test]
fn a_body_on_its_way_keeps_nobody_from_its_path() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let slow = |method, target| begin(&server, method, target, 1000, b"slow");
    let mut slow =
        [slow("PUT", "/files/f"), slow("POST", "/files/f?append"), begin(&server, "PUT", "/files/f", MEBIBYTE, b"")];
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.put("/files/f", "one").status, 201);
    assert_eq!(server.send(&Request::append("/files/f", " two")).status, 204);
    assert_eq!(server.get("/files/f").body, b"one two");
    // Each has its turn when it is whole.
    for (stream, left) in slow.iter_mut().zip([996, 996, MEBIBYTE]) {
        stream.write_all(&vec![b'x'; left]).unwrap();
        let answer = answer(&mut BufReader::new(&*stream), false).unwrap();
        assert_eq!(answer.status, 204);
    }
    assert!(server.get("/files/f").body == vec![b'x'; MEBIBYTE]);
}

#[test]
fn who_asks_no_more_is_closed() {
    let world = World::new(1);
    let server = world.serve(&[("IDLE_SECONDS", "1")]);
    let mut stream = connect(server.address);
    let began = Instant::now();
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(answer(&mut BufReader::new(&stream), false).unwrap().status, 200);
    }
    assert_eq!(std::io::Read::read(&mut stream, &mut [0; 1]).unwrap(), 0, "it says something");
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(20)).contains(&took), "{took:?}");
}
