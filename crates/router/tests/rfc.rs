//! What RFC 9110 and RFC 9112 require of an origin server. `docs/http.md` is the table of these tests.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    time::{Duration, Instant, SystemTime},
};

use common::{Answer, MEBIBYTE, Request, Server, World, answer, connect, content, eventually, temporaries, tree};

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuv";

/// What is asked last on a connection; its answer shows that the connection was still open.
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// Sends bytes on a connection of their own. All that comes back, without the answer to [`LAST`].
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server.address);
    let _ = stream.write_all(&[bytes, LAST].concat());
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    match said.strip_suffix("alive\n").and_then(|said| said.rfind("HTTP/1.")) {
        Some(last) => said[..last].to_owned(),
        _ => said,
    }
}

/// The statuses of all the answers to these bytes.
fn statuses(server: &Server, bytes: &[u8]) -> Vec<u16> {
    let said = raw(server, bytes);
    let lines = said.split("HTTP/1.").skip(1);
    lines.map(|line| line.get(2..5).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{said}"))).collect()
}

fn with(request: Request, headers: &[(&str, &str)]) -> Request {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

fn header_lines(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// A served directory with one file, `f`.
fn one_file() -> (World, Server, Answer) {
    let world = World::new(1);
    let server = world.serve(&[]);
    assert_eq!(server.put("/files/f", "0123456789").status, 201);
    let read = server.get("/files/f");
    (world, server, read)
}

fn is_unchanged(world: &World, server: &Server, before: &Answer) -> bool {
    let now = server.get("/files/f");
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    (now.tag(), &now.body) == (before.tag(), &before.body) && tree(&world.root()).len() == 1
}

// ---------------------------------------------------------------------------------------------------------------
// Messages: RFC 9112

#[test]
fn a_request_has_one_host_and_it_is_one() {
    let (_world, server, _) = one_file();
    for (version, hosts, status) in [
        ("1.1", &["a"][..], 200),
        ("1.1", &["a.example:8080"], 200),
        ("1.1", &["[::1]:8080"], 200),
        ("1.1", &[""], 200),
        ("1.1", &[], 400),
        ("1.1", &["a", "a"], 400),
        ("1.1", &["a", "b"], 400),
        ("1.1", &["a b"], 400),
        ("1.1", &["a, b"], 400),
        ("1.1", &["a/b"], 400),
        ("1.1", &["user@a"], 400),
        ("1.1", &["a:x"], 400),
        ("1.1", &["::1"], 400),
        ("1.0", &[], 200),
        ("1.0", &["a"], 200),
        ("1.0", &["a", "b"], 400),
        ("1.0", &["a b"], 400),
    ] {
        for target in ["/files/f", "http://a/files/f", "/readyz"] {
            let lines: String = hosts.iter().map(|host| format!("host: {host}\r\n")).collect();
            let bytes = format!("GET {target} HTTP/{version}\r\n{lines}\r\n");
            assert_eq!(statuses(&server, bytes.as_bytes()), [status], "{bytes}");
        }
    }
    assert_eq!(raw(&server, b"GET /files/f HTTP/1.1\r\n\r\n").matches("\"code\":\"BadHeader\"").count(), 1);
}

#[test]
fn a_raw_number_sign_in_a_target_cuts_no_name_off() {
    let (world, server, before) = one_file();
    for target in ["/files/report#1.txt", "/files/f#", "/files/f?append#x", "http://a/files/f#x", "/#/files/f"] {
        for method in ["PUT", "POST", "DELETE", "GET", "HEAD"] {
            let request = Request::new(method, target).body(if method == "PUT" || method == "POST" { "x" } else { "" });
            let answer = server.client().send_bytes(&request.bytes(), method == "HEAD").unwrap();
            assert_eq!(answer.status, 400, "{method} {target}");
            assert_eq!(answer.header("connection"), Some("close"), "{method} {target}");
            assert!(method == "HEAD" || answer.code() == "BadPath", "{answer:?}");
        }
    }
    assert!(is_unchanged(&world, &server, &before));
    // It may be anywhere else, and written as %23 in a name too.
    let put = "PUT /files/f HTTP/1.1\r\nhost: a\r\nx: #\r\ncontent-length: 25\r\n\r\nGET /files/#a HTTP/1.1\r\n\r\n";
    let get = "GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n";
    let bad = "GET /files/f#a HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunks =
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;#\r\n#\r\n\r\n0\r\nx: #\r\n\r\n";
    assert_eq!(statuses(&server, [put, chunks, get].concat().as_bytes()), [204, 204, 200]);
    assert_eq!(server.get("/files/f").body, b"#\r\n");
    // What comes after it on the connection is not done.
    assert_eq!(statuses(&server, [chunks, put, bad, put, get].concat().as_bytes()), [204, 204, 400]);
    assert_eq!(server.put("/files/a%23b", "x").status, 201);
    assert_eq!(fs::read(world.root().join("a#b")).unwrap(), b"x");
}

#[test]
fn a_target_has_the_form_that_its_method_takes() {
    let (_world, server, _) = one_file();
    for (method, target, status) in [
        ("GET", "/files/f", 200),
        ("GET", "http://elsewhere.example:80/files/f", 200),
        ("GET", "*", 400),
        ("GET", "elsewhere.example:80", 400),
        ("PUT", "files", 400),
        ("OPTIONS", "*", 404),
        ("CONNECT", "elsewhere.example:80", 404),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(statuses(&server, bytes.as_bytes()), [status], "{method} {target}");
    }
}

#[test]
fn a_transfer_coding_besides_chunked_is_not_stored() {
    let (world, server, before) = one_file();
    for (codings, refusal) in [
        (&["gzip, chunked"][..], "501 UnsupportedCoding"),
        (&["gzip", "chunked"], "501 UnsupportedCoding"),
        (&["x;a=b, chunked"], "501 UnsupportedCoding"),
        (&["identity, chunked"], "501 UnsupportedCoding"),
        (&["chunked, chunked"], "400 BadFraming"),
        (&["chunked", "chunked"], "400 BadFraming"),
    ] {
        for method in ["PUT", "GET"] {
            let lines: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).collect();
            let lines = header_lines(&lines);
            let bytes = format!("{method} /files/f HTTP/1.1\r\nhost: a\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\n");
            let answer = server.client().send_bytes(bytes.as_bytes(), false).unwrap();
            assert_eq!(answer.refusal(), refusal, "{method} {codings:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{method} {codings:?}");
        }
    }
    // Without chunked at the end nobody knows where the content ends.
    for coding in ["gzip", "chunked, gzip", "identity", "chunked;a=b", "xchunked", ""] {
        let bytes =
            format!("PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(statuses(&server, bytes.as_bytes()), [400], "{coding:?}");
    }
    assert!(is_unchanged(&world, &server, &before));
    for coding in ["chunked", "Chunked", " chunked ", ", chunked"] {
        let bytes =
            format!("PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding:{coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(statuses(&server, bytes.as_bytes()), [204], "{coding:?}");
        assert_eq!(server.get("/files/f").body, b"abc");
    }
}

#[test]
fn a_request_with_two_lengths_is_refused_and_smuggles_nothing() {
    let (world, server, before) = one_file();
    let smuggled = "DELETE /files/f HTTP/1.1\r\nhost: a\r\n\r\n";
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "Content-Length:0\r\nX: y\r\nTRANSFER-ENCODING:chunked\r\n",
    ] {
        for method in ["PUT", "GET"] {
            let bytes = format!("{method} /files/f HTTP/1.1\r\nhost: a\r\n{lengths}\r\n0\r\n\r\n{smuggled}");
            let answer = server.client().send_bytes(bytes.as_bytes(), false).unwrap();
            assert_eq!((&*answer.refusal(), answer.header("connection")), ("400 BadFraming", Some("close")), "{bytes}");
            assert_eq!(statuses(&server, bytes.as_bytes()), [400], "{bytes}");
        }
    }
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn a_content_length_is_one_number() {
    let (world, server, before) = one_file();
    for lengths in [
        &["3", "4"][..],
        &["3, 4"],
        &["3, 3"],
        &["-3"],
        &["+3"],
        &["3x"],
        &["0x3"],
        &["3.0"],
        &[""],
        &["18446744073709551616"],
    ] {
        let lines: String = lengths.iter().map(|length| format!("content-length: {length}\r\n")).collect();
        let bytes = format!("PUT /files/f HTTP/1.1\r\nhost: a\r\n{lines}\r\nabc");
        assert_eq!(statuses(&server, bytes.as_bytes()), [400], "{lengths:?}");
    }
    assert!(is_unchanged(&world, &server, &before));
    let same = b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(statuses(&server, same), [204]);
    assert_eq!(server.get("/files/f").body, b"abc");
}

#[test]
fn a_chunk_that_is_none_is_the_clients_mistake() {
    let (world, server, before) = one_file();
    for method in ["PUT /files/f", "POST /files/f?append"] {
        for chunks in [
            "-3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3 3\r\nabc\r\n0\r\n\r\n",
            "\r\nabc\r\n0\r\n\r\n",
            "g\r\nabc\r\n0\r\n\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\rabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\nno field\r\n\r\n",
        ] {
            let bytes = format!("{method} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
            let next = format!("{bytes}DELETE /files/f HTTP/1.1\r\nhost: a\r\n\r\n");
            let mut client = server.client();
            let answer = client.send_bytes(next.as_bytes(), false).unwrap();
            assert_eq!(answer.refusal(), "400 BadFraming", "{method} {chunks:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{method} {chunks:?}");
            assert_eq!(statuses(&server, next.as_bytes()), [400], "{method} {chunks:?}");
        }
        // One that only stops has not been sent wrong.
        let mut stream = connect(server.address);
        let part = format!("{method} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab");
        stream.write_all(part.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{method}: {said}");
    }
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn chunk_extensions_and_trailers_are_no_content() {
    let (world, server, _) = one_file();
    let head = "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunks in
        ["3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n", "3 \r\nabc\r\n000\r\n\r\n", "3\r\nabc\r\n0\r\nx: y\r\nz: \r\n\r\n"]
    {
        assert_eq!(statuses(&server, format!("{head}{chunks}").as_bytes()), [204], "{chunks:?}");
        assert_eq!(server.get("/files/f").body, b"abc", "{chunks:?}");
    }
    let before = server.get("/files/f");
    // A trailer that the service would have to act on.
    let bytes = format!("{head}1\r\nx\r\n0\r\ncontent-digest: sha-256=:AA==:\r\n\r\n");
    assert_eq!(server.client().send_bytes(bytes.as_bytes(), false).unwrap().refusal(), "400 BadHeader");
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn a_head_is_read_by_its_grammar() {
    let (world, server, before) = one_file();
    for (bytes, status) in [
        ("\r\n\r\nGET /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 200),
        ("GET /files/f HTTP/1.1\nhost: a\n\n", 200),
        ("GET /files/f HTTP/1.1\r\nhost:a\t \r\n\r\n", 200),
        // A fold, spaces before the colon, or before the first field.
        ("DELETE /files/f HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\nhost: a\r\nif-match : \"a\"\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\n host: a\r\n\r\n", 400),
        // A bare CR, NUL, no name, no version, another one.
        ("DELETE /files/f HTTP/1.1\r\nhost: a\rx: y\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\nhost: a\r\n: y\r\n\r\n", 400),
        ("DELETE /files/f HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", 400),
        ("DELETE /files/f\r\nhost: a\r\n\r\n", 400),
        ("DELETE /files/f HTTP/2.0\r\nhost: a\r\n\r\n", 400),
        ("DELETE /files/f http/1.1\r\nhost: a\r\n\r\n", 400),
        ("DELETE  /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("DEL(TE /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ] {
        assert_eq!(statuses(&server, bytes.as_bytes()), [status], "{bytes:?}");
    }
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn what_is_too_long_is_told_so() {
    let (world, server, before) = one_file();
    let get = "GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n";
    for length in [16_384, 20_000, 31_000, 33_000, 70_000, 1_000_000] {
        let long = format!("{get}DELETE /files/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(length));
        assert_eq!(statuses(&server, long.as_bytes()), [200, 414], "{length}");
    }
    // The longest path that a file may have, written as long as it can be, is not too long.
    let longest = vec!["%61".repeat(255); 16].join("/");
    assert_eq!(server.put(&format!("/files/{longest}"), "x").status, 201);
    assert_eq!(server.get(&format!("http://a/files/{longest}")).body, b"x");
    fs::remove_dir_all(world.root().join("a".repeat(255))).unwrap();
    let long = format!("GET /files/f HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    assert_eq!(statuses(&server, long.as_bytes()), [431]);
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn http_1_0_is_answered_and_its_connection_closed() {
    let (_world, server, _) = one_file();
    let said = raw(&server, b"GET /files/f HTTP/1.0\r\n\r\nGET /files/f HTTP/1.0\r\n\r\n");
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.ends_with("\r\n\r\n0123456789"), "{said}");
    let chunked = b"PUT /files/f HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(statuses(&server, chunked), [400]);
    // It knows no expectations.
    let expecting = b"PUT /files/f HTTP/1.0\r\nexpect: 100-continue, x\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(statuses(&server, expecting), [204]);
    assert_eq!(server.get("/files/f").body, b"abc");
}

#[test]
fn requests_of_one_connection_are_answered_in_their_order() {
    let (_world, server, _) = one_file();
    let bytes = "GET /files/nothing HTTP/1.1\r\nhost: a\r\n\r\nPUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx\
        DELETE /files/f HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(statuses(&server, bytes.as_bytes()), [404, 204, 204]);
}

#[test]
fn a_connection_that_will_be_closed_says_so() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000000")]);
    assert_eq!(server.put("/files/f", "0123456789").status, 201);
    for (request, status, closes) in [
        (Request::get("/files/f"), 200, false),
        (Request::get("/files/f").header("connection", "close"), 200, true),
        (Request::get("/files/f").header("connection", "x, Close"), 200, true),
        // A content that nobody reads: thrown away if it is short and its length known.
        (Request::put("/files/..", "x"), 400, false),
        (Request::put("/files/..", "x").chunked(1), 400, true),
        (Request::put("/files/f", vec![0; 1_000_001]), 413, true),
        (Request::put("/files/f", vec![0; 1_000_001]).chunked(10_000), 413, true),
        (Request::put("/files/f", "x").header("if-none-match", "*"), 412, false),
        (Request::put("/files/f", "x").header("if-none-match", "*").chunked(1), 412, false),
    ] {
        let mut stream = connect(server.address);
        let _ = stream.write_all(&request.bytes());
        let mut stream = BufReader::new(stream);
        let said = answer(&mut stream, false).unwrap();
        assert_eq!(said.status, status, "{request:?}");
        assert_eq!(said.header("connection") == Some("close"), closes, "{} {said:?}", request.target);
        if closes {
            assert!(stream.fill_buf().is_ok_and(<[u8]>::is_empty), "{} is not closed", request.target);
        } else {
            stream.get_mut().write_all(&Request::get("/healthz").bytes()).unwrap();
            assert_eq!(answer(&mut stream, false).unwrap().status, 200, "{}", request.target);
        }
    }
}

/// Sends a large content, all of it, before it looks for an answer.
fn answer_after_sending(server: &Server, head: &str, bytes: usize) -> std::io::Result<Answer> {
    let mut stream = connect(server.address);
    stream.write_all(head.as_bytes())?;
    for _ in 0..bytes / MEBIBYTE {
        stream.write_all(&vec![b'x'; MEBIBYTE])?;
    }
    answer(&mut BufReader::new(stream), false)
}

#[test]
fn who_still_sends_sees_an_early_refusal() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000"), ("AUTH_TOKEN", TOKEN)]);
    let authorization = format!("authorization: Bearer {TOKEN}\r\n");
    for (target, headers, refusal) in [
        ("/files/f", String::new(), "401 NoToken"),
        ("/files/f", authorization.clone(), "413 TooLarge"),
        ("/files/..", authorization.clone(), "400 BadPath"),
        ("/files/f#x", authorization.clone(), "400 BadPath"),
        ("/files/f", format!("{authorization}if-match: x\r\n"), "400 BadHeader"),
        ("/files/f", format!("{authorization}content-encoding: gzip\r\n"), "415 UnsupportedCoding"),
        ("/files/f", format!("{authorization}expect: x\r\n"), "417 UnsupportedExpectation"),
        // hyper does not shut down a connection that may be upgraded.
        ("/files/f", format!("{authorization}connection: upgrade\r\nupgrade: h2c\r\n"), "413 TooLarge"),
        ("/list/f", authorization, "405 NoSuchMethod"),
    ] {
        let head = format!("PUT {target} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n", 16 * MEBIBYTE);
        for _ in 0..3 {
            let answer = answer_after_sending(&server, &head, 16 * MEBIBYTE);
            assert_eq!(answer.unwrap_or_else(|why| panic!("{refusal}: {why}")).refusal(), refusal);
        }
    }
    assert!(tree(&world.root()).is_empty());
}

#[test]
fn a_lingering_connection_ends() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000")]);
    let head = "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
    // By what it sends, and by time.
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        let began = Instant::now();
        let mut stream = connect(server.address);
        stream.write_all(head.as_bytes()).unwrap();
        while stream.write_all(&[b'x'; 1024]).is_ok() {
            std::thread::sleep(pause);
            assert!(began.elapsed() < common::PATIENCE, "it reads for ever");
        }
    }
    assert_eq!(server.metric("router_connections"), 1.0);
}

// ---------------------------------------------------------------------------------------------------------------
// Writes

#[test]
fn an_expectation_other_than_100_continue_is_refused() {
    let (world, server, before) = one_file();
    for expectations in [&["x"][..], &["100-continue, x"], &["100-continue", "x"], &["100-continue=1"], &[""]] {
        let lines: Vec<_> = expectations.iter().map(|value| ("expect", *value)).collect();
        for request in [Request::put("/files/f", "x"), Request::get("/files/f")] {
            assert_eq!(server.send(&with(request, &lines)).refusal(), "417 UnsupportedExpectation", "{expectations:?}");
        }
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.send(&Request::put("/files/f", "x").header("expect", "100-Continue")).status, 204);
    // Whoever is refused is not asked for the content first.
    let head = "PUT /files/.. HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    assert!(raw(&server, head.as_bytes()).starts_with("HTTP/1.1 400 "));
}

#[test]
fn what_a_write_cannot_honour_is_refused() {
    let (world, server, before) = one_file();
    let refusals: Vec<(&str, &str, &str)> = vec![
        ("content-range", "bytes 0-1/10", "400 BadHeader"),
        ("content-digest", "sha-256=:AA==:", "400 BadHeader"),
        ("repr-digest", "sha-256=:AA==:", "400 BadHeader"),
        ("digest", "sha-256=AA==", "400 BadHeader"),
        ("content-md5", "AA==", "400 BadHeader"),
        ("x-http-method-override", "PATCH", "400 BadHeader"),
        ("x-http-method", "PATCH", "400 BadHeader"),
        ("x-method-override", "PATCH", "400 BadHeader"),
        ("upload-offset", "5", "400 BadHeader"),
        ("upload-complete", "?0", "400 BadHeader"),
        ("upload-incomplete", "?1", "400 BadHeader"),
        ("x-update-range", "append", "400 BadHeader"),
        ("if", "(<a>)", "400 BadHeader"),
        ("x-amz-copy-source", "/a/b", "400 BadHeader"),
        ("content-encoding", "gzip", "415 UnsupportedCoding"),
        ("content-encoding", "identity, br", "415 UnsupportedCoding"),
        ("content-encoding", "aws-chunked", "415 UnsupportedCoding"),
        ("content-type", "multipart/form-data; boundary=x", "415 UnsupportedType"),
        ("content-type", "Multipart/ByteRanges;boundary=x", "415 UnsupportedType"),
    ];
    for (name, value, refusal) in refusals {
        for request in
            [Request::put("/files/f", "x"), Request::put("/files/f", "x").chunked(1), Request::append("/files/f", "x")]
        {
            let answer = server.send(&request.clone().header(name, value));
            assert_eq!(answer.refusal(), refusal, "{} {name}: {value}", request.method);
            let told = (refusal == "415 UnsupportedCoding").then_some("identity");
            assert_eq!(answer.header("accept-encoding"), told, "{name}: {value}");
        }
        if refusal.ends_with("BadHeader") {
            let delete = Request::new("DELETE", "/files/f").header(name, value);
            assert_eq!(server.send(&delete).refusal(), refusal, "DELETE {name}: {value}");
        }
    }
    assert_eq!(server.send(&Request::new("DELETE", "/files/f").body("x")).refusal(), "400 BadHeader");
    assert_eq!(server.send(&Request::new("DELETE", "/files/f").body("x").chunked(1)).refusal(), "400 BadHeader");
    assert!(is_unchanged(&world, &server, &before));
    // What describes a content is not kept, and changes none.
    for (name, value) in [
        ("content-encoding", "identity"),
        ("content-type", "text/plain"),
        ("content-language", "en"),
        ("content-location", "/x"),
        ("content-disposition", "attachment; filename=x"),
        // RFC 9110, section 14.2: means nothing but to GET.
        ("range", "bytes=0-1"),
        ("if-range", "\"x\""),
    ] {
        assert_eq!(server.send(&Request::put("/files/f", "x").header(name, value)).status, 204, "{name}");
        assert_eq!(server.get("/files/f").body, b"x", "{name}");
    }
}

#[test]
fn a_query_that_a_write_does_not_know_is_refused() {
    let (world, server, before) = one_file();
    let writes = [
        ("PUT", &["append", "", "x", "x=y", "append=1", "versionId=1"][..]),
        ("POST", &["", "x", "append=0", "append=false", "append&x", "x&append", "append&append", "Append", "append&"]),
        ("DELETE", &["append", "", "recursive=true", "versionId=1"]),
    ];
    for (method, queries) in writes {
        for query in queries {
            let request = Request::new(method, &format!("/files/f?{query}"));
            let request = if method == "DELETE" { request } else { request.body("x") };
            assert_eq!(server.send(&request).refusal(), "400 BadQuery", "{method} ?{query}");
        }
    }
    for query in ["x", "limit=1&limit=2", "limit=1&x", "From=1", "limit", "limit=+1", "limit=%31"] {
        assert_eq!(server.get(&format!("/list/?{query}")).refusal(), "400 BadQuery", "?{query}");
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.send(&Request::new("POST", "/files/f?append=").body("x")).status, 204);
    // What it makes has another address than the request.
    let made = server.send(&Request::append("/files/d/%5ea%20b", "x"));
    assert_eq!((made.status, made.header("location")), (201, Some("/files/d/%5Ea%20b")));
    assert_eq!(server.get("/files/d/%5Ea%20b").body, b"x");
    assert_eq!(server.put("/files/new", "x").header("location"), None);
    // A read does not depend on it: caches and browsers add what they like.
    assert_eq!(server.get("/files/f?v=1").body, b"0123456789x");
}

#[test]
fn a_write_without_a_length_is_refused() {
    let (world, server, before) = one_file();
    for version in ["1.0", "1.1"] {
        for target in ["PUT /files/f", "PUT /files/new", "POST /files/f?append"] {
            let bytes = format!("{target} HTTP/{version}\r\nhost: a\r\n\r\n");
            let said = raw(&server, bytes.as_bytes());
            assert!(
                said.contains(" 411 Length Required\r\n") && said.contains("\"code\":\"NoLength\""),
                "{bytes}{said}"
            );
        }
    }
    assert!(is_unchanged(&world, &server, &before));
    assert_eq!(server.put("/files/f", "").status, 204);
    assert_eq!(server.get("/files/f").body, b"");
    assert_eq!(server.send(&Request::new("DELETE", "/files/f")).status, 204);
}

// ---------------------------------------------------------------------------------------------------------------
// Fields: RFC 9110

#[test]
fn tags_are_lists_by_their_grammar() {
    let (world, server, before) = one_file();
    let tag = before.tag();
    let listed = format!(", {tag} ,, \"a\",");
    let foreign = format!("\"\u{e9}\", {tag}");
    let (after, joined) = (format!("{tag} x"), format!("{tag}\"a\""));
    for (name, values, status) in [
        ("if-match", &[&*listed][..], 200),
        ("if-match", &["\"a\"", tag], 200),
        ("if-match", &[&foreign], 200),
        ("if-match", &[""], 412),
        ("if-match", &["\"\""], 412),
        ("if-match", &["*, \"a\""], 400),
        ("if-match", &["*", "\"a\""], 400),
        ("if-match", &["*", "*"], 400),
        ("if-match", &["\"a b\""], 400),
        ("if-match", &[&after], 400),
        ("if-match", &[&joined], 400),
        ("if-match", &["W/\"a"], 400),
        ("if-none-match", &[&listed], 304),
        ("if-none-match", &["\"a\"", tag], 304),
        ("if-none-match", &["", tag], 304),
        ("if-none-match", &["\"a\", *"], 400),
        ("if-none-match", &[&after], 400),
    ] {
        let lines: Vec<_> = values.iter().map(|value| (name, *value)).collect();
        let read = server.send(&with(Request::get("/files/f"), &lines));
        assert_eq!(read.status, status, "GET {name}: {values:?}");
        if status != 200 {
            let write = server.send(&with(Request::put("/files/f", "x"), &lines));
            assert_eq!(write.status, if status == 304 { 412 } else { status }, "PUT {name}: {values:?}");
        }
    }
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn a_date_has_one_of_three_forms_and_is_one() {
    let (world, server, _) = one_file();
    let file = fs::File::options().write(true).open(world.root().join("f")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)).unwrap();
    let same = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(server.get("/files/f").header("last-modified"), Some(same));
    for (dates, is_date) in [
        (&[same][..], true),
        (&["Sunday, 06-Nov-94 08:49:37 GMT"], true),
        (&["Sun Nov  6 08:49:37 1994"], true),
        (&[same, same], false),
        (&["Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT"], false),
        (&["Sun, 06 Nov 1994 08:49:37 GMT x"], false),
        (&["Sun, 06 Nov 1994 08:49:37 +0000"], false),
        (&["784111777"], false),
        (&["Sun, 31 Feb 1994 08:49:37 GMT"], false),
    ] {
        let lines: Vec<_> = dates.iter().map(|date| ("if-modified-since", *date)).collect();
        let status = if is_date { 304 } else { 200 };
        assert_eq!(server.send(&with(Request::get("/files/f"), &lines)).status, status, "{dates:?}");
    }
    let before = "Sun, 06 Nov 1994 08:49:36 GMT";
    for (dates, status) in [(&[before][..], 412), (&[before, before], 200), (&["Sunday, 06-Nov-94 08:49:36 GMT"], 412)]
    {
        let lines: Vec<_> = dates.iter().map(|date| ("if-unmodified-since", *date)).collect();
        assert_eq!(server.send(&with(Request::get("/files/f"), &lines)).status, status, "{dates:?}");
    }
}

#[test]
fn a_range_is_one_by_its_grammar_or_is_ignored() {
    let (_world, server, read) = one_file();
    let tag = read.tag();
    for (ranges, part) in [
        (&["bytes=2-4"][..], Some("234")),
        (&["Bytes=2-4"], Some("234")),
        (&["BYTES=-3"], Some("789")),
        (&["bytes=, 2-4 ,"], Some("234")),
        (&["bytes=2-4", "bytes=2-4"], None),
        (&["bytes=2-4", ""], None),
        (&["bytes=2-4x"], None),
        (&["bytes=2 -4"], None),
        (&["bytes =2-4"], None),
        (&["bytes:2-4"], None),
        (&["bytes=2-4-"], None),
        (&["bytes=+2-4"], None),
        (&["bytes=0x2-4"], None),
        (&["bytes="], None),
        (&[""], None),
    ] {
        let lines: Vec<_> = ranges.iter().map(|range| ("range", *range)).collect();
        let answer = server.send(&with(Request::get("/files/f"), &lines));
        let expected = part.map_or((200, &b"0123456789"[..]), |part| (206, part.as_bytes()));
        assert_eq!((answer.status, &*answer.body), expected, "{ranges:?}");
    }
    let (after, joined, listed) = (format!("{tag} x"), format!("{tag}, \"a\""), format!("\"a\", {tag}"));
    for (validators, status) in [
        (&[tag][..], 206),
        (&[tag, tag], 200),
        (&[&*after], 200),
        (&[&joined], 200),
        (&[&listed], 200),
        (&["*"], 200),
        (&[""], 200),
        (&["\"\""], 200),
    ] {
        let lines: Vec<_> = validators.iter().map(|validator| ("if-range", *validator)).collect();
        let request = with(Request::get("/files/f").header("range", "bytes=2-4"), &lines);
        assert_eq!(server.send(&request).status, status, "{validators:?}");
    }
}

#[test]
fn a_token_is_given_once_and_after_spaces() {
    let world = World::new(1);
    let server = world.serve(&[("AUTH_TOKEN", TOKEN)]);
    let good = format!("Bearer {TOKEN}");
    for (values, status) in [
        (&[&*good][..], 200),
        (&[&format!("bearer   {TOKEN}")], 200),
        (&[&good, &good], 401),
        (&["Basic x", &good], 401),
        (&[&good, "Basic x"], 401),
        (&[&format!("Bearer{TOKEN}")], 401),
        (&[&format!("Bearer\t{TOKEN}")], 401),
        (&[&format!("{good},")], 401),
        (&[], 401),
    ] {
        let lines: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        let answer = server.send(&with(Request::get("/targets"), &lines));
        assert_eq!(answer.status, status, "{values:?}");
        assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"), "{values:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Responses

#[test]
fn last_modified_is_not_in_the_future() {
    let (world, server, _) = one_file();
    let file = fs::File::options().write(true).open(world.root().join("f")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(1_000_000)).unwrap();
    let tag = server.get("/files/f").tag().to_owned();
    for request in [
        Request::get("/files/f"),
        Request::new("HEAD", "/files/f"),
        Request::get("/files/f").header("range", "bytes=0-1"),
        Request::get("/files/f").header("if-none-match", &tag),
    ] {
        let answer = server.send(&request);
        assert_eq!(answer.header("last-modified"), answer.header("date"), "{answer:?}");
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == "date").count(), 1);
    }
    // The date that was told is no reason to believe that nothing has changed.
    let told = server.get("/files/f").header("last-modified").unwrap().to_owned();
    assert_eq!(server.send(&Request::get("/files/f").header("if-modified-since", &told)).status, 200);
    assert_eq!(server.send(&Request::put("/files/f", "x").header("if-unmodified-since", &told)).status, 412);
}

#[test]
fn every_response_has_a_date_and_is_not_kept_by_caches() {
    let (_world, server, read) = one_file();
    let (tag, none) = (read.tag(), "\"x\"");
    for (request, status) in [
        (Request::get("/files/f"), 200),
        (Request::new("HEAD", "/files/f"), 200),
        (Request::get("/files/f").header("range", "bytes=0-1"), 206),
        (Request::get("/files/f").header("if-none-match", tag), 304),
        (Request::new("HEAD", "/files/f").header("if-none-match", tag), 304),
        (Request::get("/files/f").header("if-match", none), 412),
        (Request::get("/files/f").header("range", "bytes=10-"), 416),
        (Request::get("/files/nothing"), 404),
        (Request::new("HEAD", "/files/nothing"), 404),
        (Request::get("/nothing"), 404),
        (Request::new("PATCH", "/files/f"), 405),
        (Request::get("/files/.."), 400),
        (Request::get("/files/f").header("expect", "x"), 417),
        (Request::get("/list/"), 200),
        (Request::get("/route/f"), 200),
        (Request::get("/targets"), 200),
        (Request::get("/metrics"), 200),
        (Request::get("/healthz"), 200),
        (Request::get("/readyz"), 200),
        (Request::put("/files/f", "x"), 204),
        (Request::new("DELETE", "/files/f"), 204),
    ] {
        let answer = server.send(&request);
        assert_eq!(answer.status, status, "{request:?}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{request:?}");
        assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
    }
}

#[test]
fn parts_and_not_modified_say_what_the_whole_says() {
    let (_world, server, whole) = one_file();
    let tag = whole.tag();
    for (headers, status) in [
        (&[("range", "bytes=2-4")][..], 206),
        (&[("range", "bytes=2-4"), ("if-range", tag)], 206),
        (&[("if-none-match", tag)], 304),
    ] {
        let answer = server.send(&with(Request::get("/files/f"), headers));
        assert_eq!(answer.status, status);
        for name in ["etag", "last-modified", "cache-control", "x-mount-target", "accept-ranges"] {
            assert!(whole.header(name).is_some() && answer.header(name) == whole.header(name), "{status} {name}");
        }
        let (range, length) = if status == 206 { (Some("bytes 2-4/10"), Some("3")) } else { (None, None) };
        assert_eq!(answer.header("content-range"), range);
        assert!([length, None].contains(&answer.header("content-length")) || status == 304);
    }
    let unsatisfiable = server.send(&Request::get("/files/f").header("range", "bytes=10-"));
    assert_eq!((unsatisfiable.status, unsatisfiable.header("content-range")), (416, Some("bytes */10")));
    // A tag is strong: another content has another one, within the same second too.
    assert!(!tag.starts_with("W/"));
    let tags = ["a", "b", "a"].map(|body| server.put("/files/f", body).tag().to_owned());
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    assert_eq!(server.get("/files/f").tag(), tags[2]);
}

#[test]
fn head_says_what_get_says_everywhere() {
    let (_world, server, _) = one_file();
    for target in [
        "/files/f",
        "/files/nothing",
        "/files/..",
        "/list/",
        "/list/nothing",
        "/route/f",
        "/healthz",
        "/readyz",
        "/nothing",
    ] {
        let (get, head) = (server.get(target), server.send(&Request::new("HEAD", target)));
        let said = |answer: &Answer| {
            let mut said: Vec<_> = answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
            said.sort();
            (answer.status, said)
        };
        assert_eq!(said(&get), said(&head), "{target}");
        assert_eq!(get.header("content-length"), Some(&*get.body.len().to_string()), "{target}");
    }
}

#[test]
fn a_405_says_what_is_allowed() {
    let (world, server, before) = one_file();
    let of_files = ["DELETE", "GET", "HEAD", "POST", "PUT"];
    for (method, target, allowed) in [
        ("PATCH", "/files/f", &of_files[..]),
        ("OPTIONS", "/files/f", &of_files),
        ("TRACE", "/files/f", &of_files),
        ("MKCOL", "/files/f", &of_files),
        ("get", "/files/f", &of_files),
        ("PUT", "/list/d", &["GET", "HEAD"]),
        ("DELETE", "/list/", &["GET", "HEAD"]),
        ("POST", "/route/f", &["GET", "HEAD"]),
        ("POST", "/targets", &["GET", "HEAD"]),
        ("POST", "/metrics", &["GET", "HEAD"]),
        ("POST", "/healthz", &["GET", "HEAD"]),
        ("POST", "/readyz", &["GET", "HEAD"]),
    ] {
        let answer = server.send(&Request::new(method, target).body(""));
        assert_eq!(answer.refusal(), "405 NoSuchMethod", "{method} {target}");
        let mut told: Vec<_> = answer.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        told.sort_unstable();
        assert_eq!(told, allowed, "{method} {target}");
    }
    assert!(is_unchanged(&world, &server, &before));
}

#[test]
fn an_href_is_a_uri_reference_that_leads_to_its_file() {
    let world = World::new(1);
    let server = world.serve(&[]);
    // Every byte that a name can have.
    let names: Vec<Vec<u8>> = (1..=255).filter(|byte| *byte != b'/').map(|byte| vec![b'a', byte]).collect();
    for name in &names {
        let escaped: String = name.iter().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(server.put(&format!("/files/d/{escaped}"), &**name).status, 201);
    }
    let page = server.get("/list/d").json();
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries.len(), names.len());
    let mut client = server.client();
    let mut found = Vec::new();
    for entry in entries {
        let href = entry["href"].as_str().unwrap();
        let rest = href.strip_prefix("/files/d/a").unwrap();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        let is_escape = rest.len() == 3
            && rest.starts_with('%')
            && rest[1..].bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
        assert!(is_escape || (rest.len() == 1 && rest.bytes().all(is_plain)), "{href}");
        found.push(client.get(href).body);
    }
    found.sort();
    assert_eq!(found, names);
    assert_eq!(server.put("/files/d/%5E/x", content(0, 1)).status, 201);
    let page = server.get("/list/d").json();
    let directory = page["entries"].as_array().unwrap().iter().find(|entry| entry["kind"] == "directory").unwrap();
    assert_eq!(directory["href"], "/list/d/%5E");
}
