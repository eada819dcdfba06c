//! Messages and connections: RFC 9112.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use super::{
    TOKEN,
    common::{Answer, MEBIBYTE, PATIENCE, Request, Server, World, answer, connect, eventually, tree},
    header_lines, is_unchanged, one_file, raw, statuses,
};

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
        ("GET", "HTTPS://elsewhere.example/files/f", 200),
        ("GET", "ftp://a/files/f", 400),
        ("GET", "httpx://a/files/f", 400),
        ("GET", "http://user@a/files/f", 400),
        ("GET", "http://user:word@a:80/files/f", 400),
        ("OPTIONS", "*", 405),
        ("CONNECT", "elsewhere.example:80", 400),
        ("CONNECT", "/files/f", 400),
        ("CONNECT", "http://a/files/f", 400),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(statuses(&server, bytes.as_bytes()), [status], "{method} {target}");
    }
}

#[test]
fn a_transfer_coding_besides_chunked_is_not_stored() {
    let (world, server, before) = one_file();
    for (codings, api_error) in [
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
            assert_eq!(answer.api_error(), api_error, "{method} {codings:?}");
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
            assert_eq!(
                (&*answer.api_error(), answer.header("connection")),
                ("400 BadFraming", Some("close")),
                "{bytes}"
            );
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
            // hyper takes a bare LF for a part of a trailer, and what follows it too.
            "3\r\nabc\r\n0\r\n\n",
            "3\r\nabc\r\n0\r\nx: y\n\r\n",
            "3\r\nabc\r\n0\r\nx: y\n\n",
            "3\r\nabc\r\n0\r\n\ncontent-digest: sha-256=:AA==:\r\n\r\n",
        ] {
            let bytes = format!("{method} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
            let next = format!("{bytes}DELETE /files/f HTTP/1.1\r\nhost: a\r\n\r\n");
            let mut client = server.client();
            let answer = client.send_bytes(next.as_bytes(), false).unwrap();
            assert_eq!(answer.api_error(), "400 BadFraming", "{method} {chunks:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{method} {chunks:?}");
            assert_eq!(statuses(&server, next.as_bytes()), [400], "{method} {chunks:?}");
            // Also when nothing comes after it: the service does not wait for what would make it whole.
            assert_eq!(server.client().send_bytes(bytes.as_bytes(), false).unwrap().api_error(), "400 BadFraming");
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
    assert_eq!(server.client().send_bytes(bytes.as_bytes(), false).unwrap().api_error(), "400 BadHeader");
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
    for (target, headers, api_error) in [
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
            assert_eq!(answer.unwrap_or_else(|err| panic!("{api_error}: {err}")).api_error(), api_error);
        }
    }
    assert!(tree(&world.root()).is_empty());
}

#[test]
fn who_sends_more_than_is_read_on_is_held_up_and_sees_it_too() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000")]);
    let mut stream = connect(server.address);
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let head = "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; MEBIBYTE];
    let refused = (0..1000).find_map(|_| stream.write_all(&piece).err()).unwrap();
    // No room, and no reset.
    assert_eq!(refused.kind(), ErrorKind::WouldBlock, "{refused}");
    assert_eq!(answer(&mut BufReader::new(stream), false).unwrap().api_error(), "413 TooLarge");
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
            thread::sleep(pause);
            assert!(began.elapsed() < PATIENCE, "it reads for ever");
        }
    }
    assert_eq!(server.metric("router_connections"), 1.0);
}

/// Sends piece after piece, slowly, before it looks for an answer. The status, or why there is none.
fn status_after_pieces(server: &Server, first: &[u8], piece: &[u8]) -> Result<u16, String> {
    let mut stream = connect(server.address);
    stream.write_all(first).map_err(|err| format!("the first write: {err}"))?;
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(2));
        stream.write_all(piece).map_err(|err| format!("a later write: {err}"))?;
    }
    thread::sleep(Duration::from_millis(50));
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(|err| format!("the read: {err}"))?;
    said.get(9..12).and_then(|status| status.parse().ok()).ok_or(said)
}

#[test]
fn every_last_response_is_seen_by_who_still_sends() {
    let (_world, server, _) = one_file();
    let get = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let (path, field) = ("a".repeat(20_000), "x".repeat(40_000));
    for (first, piece, status) in [
        (format!("GET /files/{path}"), &*path, 414),
        (format!("GET /files/f HTTP/1.1\r\nx: {field}"), &field, 431),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), get, 400),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nexpect: b\r\n\r\n".to_owned(), get, 417),
        ("GET /heal thz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), get, 400),
        ("GET /healthz#a HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), get, 400),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), get, 200),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), get, 200),
    ] {
        for _ in 0..3 {
            let seen = status_after_pieces(&server, first.as_bytes(), piece.as_bytes());
            assert_eq!(seen, Ok(status), "{:?}", first.get(..60).unwrap_or(&first));
        }
    }
    // Whoever closes after the answer is not waited for.
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(server.send(&Request::get("/healthz").header("connection", "close")).status, 200);
        eventually("its connection ends", || (server.metric("router_connections") == 1.0).then_some(()));
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    }
}

#[test]
fn who_sends_no_more_than_a_request_is_answered() {
    let (world, server, _) = one_file();
    for bytes in [3, 300_000] {
        let content = vec![b'x'; bytes];
        for request in [
            Request::put("/files/f", content.clone()),
            Request::put("/files/f", content.clone()).chunked(1000),
            Request::append("/files/f", content.clone()),
            Request::get("/files/f"),
        ] {
            for _ in 0..5 {
                let mut stream = connect(server.address);
                stream.write_all(&request.bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut said = BufReader::new(stream);
                let status = if request.method == "GET" { 200 } else { 204 };
                assert_eq!(answer(&mut said, false).unwrap().status, status, "{}", request.method);
                // Nothing more comes, so the connection ends.
                assert!(said.fill_buf().is_ok_and(<[u8]>::is_empty), "{}", request.method);
            }
        }
        // The last PUT, and five appends.
        assert_eq!(fs::read(world.root().join("f")).unwrap().len(), 6 * bytes);
    }
    // What has not come whole is not done.
    let mut stream = connect(server.address);
    stream.write_all(b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = answer(&mut BufReader::new(stream), false).unwrap();
    assert_eq!(answer.api_error(), "408 IncompleteBody");
    assert_eq!(fs::read(world.root().join("f")).unwrap().len(), 1_800_000);
}
