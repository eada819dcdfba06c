//! Clients that are slow on purpose.

use super::common::Client;
use super::common::MEBIBYTE;
use super::common::SMALL;
use super::common::Server;
use super::common::World;
use super::common::connect;
use super::common::content;
use super::common::eventually;
use super::common::temporaries;
use super::common::tree;
use std::fs;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

const MANY: usize = 200;
/// What the service may take for all of them.
const MOST_MEMORY: u64 = 128 << 20;

/// Has the service ended this connection? Whatever it still says is read.
fn is_closed(stream: &mut TcpStream, said: &mut Vec<u8>) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    let closed = loop {
        match stream.read(&mut bytes) {
            Ok(0) => break true,
            Ok(length) => said.extend_from_slice(&bytes[..length]),
            Err(err) if err.kind() == ErrorKind::WouldBlock => break false,
            Err(_) => break true,
        }
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

/// Looks at a service that is being attacked: others are served, and its memory is bounded.
fn goes_on(server: &Server, client: &mut Client) {
    let answer = client.get("/files/small");
    assert_eq!((answer.status, &*answer.body), (200, &b"content"[..]));
    assert_eq!(client.put("/files/changed", content(1, SMALL + 1)).status / 100, 2);
    let resident = server.resident();
    assert!(resident < MOST_MEMORY, "{} MiB", resident >> 20);
}

#[test]
fn heads_that_come_byte_by_byte_are_not_waited_for() {
    let world = World::new(2);
    fs::write(world.root().join("small"), "content").unwrap();
    let server = world.serve(&[("IDLE_SECONDS", "1")]);
    let head = b"GET /files/small HTTP/1.1\r\nhost: a\r\nx-filler: ";
    let mut open: Vec<_> = (0..MANY).map(|_| connect(server.address)).collect();
    // Some say nothing at all.
    let silent = MANY / 10;
    let mut index = 0;
    let began = Instant::now();
    eventually("all are closed", || {
        for stream in &mut open[silent..] {
            // Once it is closed this fails.
            let _ = stream.write_all(&[head.get(index).copied().unwrap_or(b'x')]);
        }
        index += 1;
        goes_on(&server, &mut server.client());
        let mut said = Vec::new();
        let closed = open.iter_mut().filter_map(|stream| is_closed(stream, &mut said).then_some(())).count();
        assert!(!said.starts_with(b"HTTP/1.1 200"));
        (closed == MANY).then_some(())
    });
    // What HTTP's library does by itself takes half a minute.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    // The one that asks is one.
    eventually("none is counted", || (server.metric("router_connections") == 1.0).then_some(()));
}

#[test]
fn bodies_that_stall_are_not_waited_for() {
    let world = World::new(2);
    fs::write(world.root().join("small"), "content").unwrap();
    let server = world.serve(&[("IDLE_SECONDS", "1")]);
    let mut open: Vec<_> = (0..MANY).map(|_| (connect(server.address), Vec::new())).collect();
    for (number, (stream, _)) in open.iter_mut().enumerate() {
        let head = match number % 4 {
            0 => format!("PUT /files/stalled/{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"),
            1 => format!(
                "PUT /files/stalled/{number} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n100000\r\n"
            ),
            // A body that is taken whole if it comes soon.
            2 => format!("PUT /files/stalled/{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 250000\r\n\r\n"),
            _ => format!("POST /files/stalled/{number}?append HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"),
        };
        let body = if number % 8 < 4 { &b""[..] } else { &[1; 60_000] };
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
    }
    eventually("all are closed", || {
        goes_on(&server, &mut server.client());
        let closed = open.iter_mut().filter_map(|(stream, said)| is_closed(stream, said).then_some(())).count();
        (closed == MANY).then_some(())
    });
    for (_, said) in &open {
        let said = String::from_utf8_lossy(said);
        assert!(said.starts_with("HTTP/1.1 408 "), "{said:?}");
    }
    // The one that asks is one.
    eventually("none is counted", || (server.metric("router_connections") == 1.0).then_some(()));
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    let files = tree(&world.root()).into_iter().filter(|(_, content)| content != b"directory").count();
    assert_eq!(files, 2, "something of what did not come whole is there");
}

#[test]
fn who_asks_and_does_not_read_is_not_waited_for() {
    let world = World::new(2);
    fs::write(world.root().join("small"), "content").unwrap();
    fs::write(world.root().join("large"), vec![7; 64 * MEBIBYTE]).unwrap();
    let server = world.serve(&[("IDLE_SECONDS", "1")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The kernel's own buffers are to hold little of it.
    let small = || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = runtime.block_on(socket.connect(server.address)).unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    };
    let open: Vec<_> = (0..MANY)
        .map(|number| {
            let mut stream = small();
            // Some ask again and again.
            let times = if number % 2 == 0 { 1 } else { 100 };
            stream.write_all("GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(times).as_bytes()).unwrap();
            stream
        })
        .collect();
    let most = AtomicUsize::new(0);
    eventually("all are closed", || {
        let mut client = server.client();
        goes_on(&server, &mut client);
        most.fetch_max(server.resident() as usize, Ordering::Relaxed);
        (server.metric("router_connections") == 2.0).then_some(())
    });
    assert!((most.into_inner() as u64) < MOST_MEMORY);
    // It is the service who has ended them; none of them has its file. To read on from all would only take long.
    for mut stream in open.into_iter().step_by(MANY / 8 + 1) {
        let mut some = Vec::new();
        let _ = stream.read_to_end(&mut some);
        assert!(some.starts_with(b"HTTP/1.1 200 OK\r\n") && some.len() < 64 * MEBIBYTE);
    }
}

#[test]
fn one_connection_too_many_is_told_so() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_CONNECTIONS", "4")]);
    let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/healthz").status, 200);
    }
    for _ in 0..3 {
        let refused = server.get("/healthz");
        assert_eq!(
            (refused.api_error(), refused.header("retry-after")),
            ("503 TooManyConnections".to_owned(), Some("1"))
        );
        assert_eq!(refused.header("connection"), Some("close"));
    }
    // Those who are in stay in.
    for client in &mut clients {
        assert_eq!(client.put("/files/f", "x").status / 100, 2);
    }
    let metrics = String::from_utf8(clients[0].get("/metrics").body).unwrap();
    assert!(
        metrics.contains("\nrouter_connections 4\n") && metrics.contains("\nrouter_refused_connections_total 3\n"),
        "{metrics}"
    );
    clients.pop();
    eventually("there is room again", || (server.get("/healthz").status == 200).then_some(()));
}
