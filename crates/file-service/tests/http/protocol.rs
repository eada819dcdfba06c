//! Conditions, ranges and connections as HTTP has them.

use super::common::Answer;
use super::common::Request;
use super::common::SMALL;
use super::common::World;
use super::common::answer;
use super::common::connect;
use super::common::content;
use super::common::eventually;
use super::common::temporaries;
use super::common::tree;
use std::collections::BTreeSet;
use std::fs;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::process::Command;
use std::time::Duration;
use std::time::UNIX_EPOCH;

#[test]
fn conditions_are_judged_as_rfc_9110_has_them() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    assert_eq!(client.put("/files/f", "0123456789").status, 201);
    let answer = client.get("/files/f");
    let tag = answer.tag().to_owned();
    let weak = format!("W/{tag}");
    let listed = format!("\"a,b\", {tag} ,\"c\"");
    let modified = answer.header("last-modified").unwrap().to_owned();
    assert!(httpdate_is_recent(&modified), "{modified}");
    for (method, name, value, status) in [
        ("GET", "if-none-match", &*tag, 304),
        ("GET", "if-none-match", &weak, 304),
        ("GET", "if-none-match", &listed, 304),
        ("GET", "if-none-match", "*", 304),
        ("GET", "if-none-match", "\"other\"", 200),
        ("HEAD", "if-none-match", &tag, 304),
        ("GET", "if-match", &tag, 200),
        ("GET", "if-match", &listed, 200),
        ("GET", "if-match", "*", 200),
        ("GET", "if-match", &weak, 412),
        ("GET", "if-match", "\"other\"", 412),
        ("HEAD", "if-match", "\"other\"", 412),
        ("PUT", "if-match", &weak, 412),
        ("PUT", "if-none-match", "*", 412),
        ("PUT", "if-none-match", &weak, 412),
        ("POST", "if-match", "\"other\"", 412),
        ("POST", "if-none-match", "*", 412),
        ("DELETE", "if-match", "\"other\"", 412),
        ("DELETE", "if-none-match", &tag, 412),
        // What is neither is the client's mistake, and never taken for nothing.
        ("GET", "if-none-match", "tag", 400),
        ("GET", "if-match", "\"a", 400),
        ("PUT", "if-match", "'a'", 400),
        ("PUT", "if-match", "\"a\" \"b\"", 400),
        ("PUT", "if-none-match", "\"a\";", 400),
        ("POST", "if-match", "a", 400),
        ("DELETE", "if-match", "w/\"a\"", 400),
        ("DELETE", "if-none-match", "**", 400),
    ] {
        let target = if method == "POST" { "/files/f?append" } else { "/files/f" };
        let mut request = Request::new(method, target).header(name, value);
        if ["PUT", "POST"].contains(&method) {
            request = request.body("other");
        }
        let answer = client.send(&request);
        assert_eq!(answer.status, status, "{method} {name}: {value}");
        if status == 304 {
            assert_eq!((answer.tag(), answer.header("last-modified")), (&*tag, Some(&*modified)));
        }
        let now = client.get("/files/f");
        assert_eq!((now.tag(), &*now.body), (&*tag, &b"0123456789"[..]), "after {method} {name}: {value}");
    }
    // Several lines of one header are one list.
    let twice = Request::get("/files/f").header("if-none-match", "\"a\"").header("if-none-match", &tag);
    assert_eq!(client.send(&twice).status, 304);
    // If-Match goes before If-None-Match, and both before Range.
    let both = Request::get("/files/f").header("if-match", "\"a\"").header("if-none-match", &tag);
    assert_eq!(client.send(&both).status, 412);
    let both = Request::get("/files/f").header("if-none-match", &tag).header("range", "bytes=0-1");
    assert_eq!(client.send(&both).status, 304);
    // Of what is not there.
    for (method, name, value, status) in [
        ("GET", "if-none-match", "*", 404),
        ("GET", "if-match", "*", 404),
        ("PUT", "if-match", "*", 412),
        ("PUT", "if-match", &tag, 412),
        ("POST", "if-match", "*", 412),
        ("DELETE", "if-match", "*", 404),
        ("DELETE", "if-match", &tag, 404),
    ] {
        let target = if method == "POST" { "/files/nothing?append" } else { "/files/nothing" };
        let answer = client.send(&Request::new(method, target).header(name, value).body(""));
        assert_eq!(answer.status, status, "{method} {name}: {value}");
    }
    assert_eq!(client.send(&Request::new("DELETE", "/files/f").header("if-match", &tag)).status, 204);
    assert_eq!(client.get("/files/f").status, 404);
}

#[test]
fn dates_are_conditions_where_there_are_no_tags() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    // A time between two seconds: what a client is told is the one before.
    let set = || {
        let file = fs::File::options().write(true).open(world.root().join("f")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(1_000_000_000_500)).unwrap();
    };
    let (before, same, after) =
        ("Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:41 GMT");
    client.put("/files/f", "content");
    set();
    let read = client.get("/files/f");
    assert_eq!(read.header("last-modified"), Some(same));
    let tag = read.tag().to_owned();
    for method in ["GET", "HEAD"] {
        for (conditions, status) in [
            (&[("if-modified-since", before)][..], 200),
            (&[("if-modified-since", same)], 304),
            (&[("if-modified-since", after)], 304),
            (&[("if-modified-since", "yesterday")], 200),
            // A tag says more than a date.
            (&[("if-modified-since", after), ("if-none-match", "\"other\"")], 200),
            (&[("if-modified-since", before), ("if-none-match", &tag)], 304),
            (&[("if-unmodified-since", before)], 412),
            (&[("if-unmodified-since", same)], 200),
            (&[("if-unmodified-since", after)], 200),
            (&[("if-unmodified-since", "yesterday")], 200),
            (&[("if-unmodified-since", before), ("if-match", &tag)], 200),
            (&[("if-unmodified-since", after), ("if-match", "\"other\"")], 412),
            (&[("if-unmodified-since", before), ("if-modified-since", after)], 412),
        ] {
            let request = Request::new(method, "/files/f");
            let request = conditions.iter().fold(request, |request, (name, value)| request.header(name, value));
            assert_eq!(client.send(&request).status, status, "{method} {conditions:?}");
        }
    }
    let writes = || {
        let large = content(1, SMALL + 1);
        [
            Request::put("/files/f", "x"),
            Request::put("/files/f", large),
            Request::append("/files/f", "x"),
            Request::new("DELETE", "/files/f"),
        ]
    };
    for request in writes() {
        assert_eq!(client.send(&request.header("if-unmodified-since", before)).status, 412);
        assert_eq!(client.get("/files/f").tag(), tag);
    }
    for request in writes() {
        set();
        // The other one is for readers, and says nothing here.
        let request = request.header("if-unmodified-since", same).header("if-modified-since", after);
        assert_eq!(client.send(&request).status, 204);
    }
    // Of what is not there, there is no date.
    assert_eq!(client.send(&Request::put("/files/f", "x").header("if-unmodified-since", before)).status, 201);
}

/// RFC 9110, section 8.6: none with 204; with 304 none but that of 200. Who keeps a copy takes it for the copy's.
#[test]
fn an_answer_without_content_says_no_length_that_is_wrong() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for (request, status, allowed) in [
        (Request::put("/files/f", "0123456789"), 201, Some("0")),
        (Request::put("/files/f", "0123456789"), 204, None),
        (Request::append("/files/f", ""), 204, None),
        (Request::get("/files/f").header("if-none-match", "*"), 304, Some("10")),
        (Request::new("HEAD", "/files/f").header("if-none-match", "*"), 304, Some("10")),
        (Request::get("/files/f").header("range", "bytes=10-"), 416, Some("0")),
        (Request::new("DELETE", "/files/f"), 204, None),
    ] {
        let answer = server.send(&request);
        let length = answer.header("content-length");
        assert!(
            answer.status == status && (length.is_none() || length == allowed),
            "{} {}: {answer:?}",
            request.method,
            request.target
        );
    }
}

/// Within the last hours, in the one form that is to be sent.
fn httpdate_is_recent(date: &str) -> bool {
    let output = Command::new("date")
        .args(["-u", "-d", date, "+%s %a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    shown
        .trim()
        .split_once(' ')
        .is_some_and(|(seconds, again)| again == date && now.abs_diff(seconds.parse().unwrap()) < 7200)
}

#[test]
fn ranges_are_cut_as_rfc_9110_has_them() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    let size = SMALL * 3 + 5;
    let body = content(3, size);
    assert_eq!(client.put("/files/f", &*body).status, 201);
    let tag = client.get("/files/f").tag().to_owned();
    let cases: [(&str, Option<(usize, usize)>); 13] = [
        ("bytes=0-0", Some((0, 1))),
        ("bytes=0-", Some((0, size))),
        ("bytes=5-9", Some((5, 10))),
        ("bytes=262143-262144", Some((262_143, 262_145))),
        ("bytes=1-600000", Some((1, 600_001))),
        ("bytes=-1", Some((size - 1, size))),
        ("bytes=-700000", Some((size - 700_000, size))),
        ("bytes=-99999999999999999999999999", Some((0, size))),
        ("bytes=10-99999999999999999999999999", Some((10, size))),
        // Not one range, or none: the whole.
        ("bytes=0-1,3-4", None),
        ("bytes=9-5", None),
        ("characters=0-1", None),
        ("bytes", None),
    ];
    for (range, part) in cases {
        for method in ["GET", "HEAD"] {
            let answer = client.send(&Request::new(method, "/files/f").header("range", range));
            // A range means nothing to HEAD.
            let part = part.filter(|_| method == "GET");
            let (from, to) = part.unwrap_or((0, size));
            assert_eq!(answer.status, if part.is_some() { 206 } else { 200 }, "{method} {range}");
            assert_eq!(answer.header("content-length"), Some(&*(to - from).to_string()), "{method} {range}");
            let told = part.map(|(from, to)| format!("bytes {from}-{}/{size}", to - 1));
            assert_eq!(answer.header("content-range"), told.as_deref());
            assert_eq!((answer.header("accept-ranges"), answer.tag()), (Some("bytes"), &*tag));
            assert!(answer.body == if method == "GET" { &body[from..to] } else { &[] }, "{method} {range}");
        }
    }
    for range in [
        format!("bytes={size}-"),
        format!("bytes={size}-{size}"),
        "bytes=99999999999999999999-".to_owned(),
        "bytes=-0".to_owned(),
    ] {
        let answer = client.send(&Request::get("/files/f").header("range", &range));
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (416, Some(&*format!("bytes */{size}"))),
            "{range}"
        );
    }
    // The part only of the content that the client has; anything else is no reason to send a part.
    for (validator, status) in [
        (&*tag, 206),
        (&format!("W/{tag}"), 200),
        ("\"other\"", 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ("nonsense", 200),
    ] {
        let request = Request::get("/files/f").header("range", "bytes=0-4").header("if-range", validator);
        assert_eq!(client.send(&request).status, status, "{validator}");
        let unsatisfiable = Request::get("/files/f").header("range", "bytes=9999999-").header("if-range", validator);
        assert_eq!(client.send(&unsatisfiable).status, if status == 206 { 416 } else { 200 }, "{validator}");
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    for request in [
        Request::put("/files/put", ""),
        Request::put("/files/chunks", "").chunked(1),
        Request::append("/files/append", ""),
    ] {
        assert_eq!(client.send(&request).status, 201);
        let target = request.target.trim_end_matches("?append");
        for method in ["GET", "HEAD"] {
            let answer = client.send(&Request::new(method, target));
            assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("0"), 0));
        }
        for range in ["bytes=0-0", "bytes=0-", "bytes=1-"] {
            let answer = client.send(&Request::get(target).header("range", range));
            assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */0")), "{range}");
        }
    }
}

#[test]
fn head_is_get_without_the_content() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    client.put("/files/f", content(1, SMALL + 1));
    let (get, head) = (client.get("/files/f"), client.send(&Request::new("HEAD", "/files/f")));
    let said =
        |answer: &Answer| answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<BTreeSet<_>>();
    assert_eq!((said(&get), head.status), (said(&head), 200));
    // Two answers after one another: had the first one a body, the second would not be found.
    let mut stream = connect(server.address);
    for request in ["HEAD /files/f", "HEAD /files/nothing", "GET /healthz"] {
        let close = if request.starts_with('G') { "connection: close\r\n" } else { "" };
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: a\r\n{close}\r\n").as_bytes()).unwrap();
    }
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let heads: Vec<_> = all.split("\r\n\r\n").map(|part| part.lines().next().unwrap_or_default()).collect();
    assert_eq!(heads[..3], ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK"], "{all}");
    assert!(all.ends_with("\r\n\r\nalive\n"), "{all}");
}

#[test]
fn a_request_that_makes_no_sense_changes_nothing() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000000")]);
    assert_eq!(server.put("/files/f", "old").status, 201);
    let before = server.get("/files/f");
    for (request, api_error) in [
        (Request::put("/files/f", "new").header("content-range", "bytes 0-2/3"), "400 BadHeader"),
        (Request::put("/files/f", "new").header("content-range", "nonsense").chunked(1), "400 BadHeader"),
        (Request::new("POST", "/files/f").body("new"), "400 BadQuery"),
        (Request::new("POST", "/files/f?appendix").body("new"), "400 BadQuery"),
        (Request::new("PATCH", "/files/f").body("new"), "405 NoSuchMethod"),
        (Request::new("MKCOL", "/files/d"), "405 NoSuchMethod"),
        (Request::new("PUT", "/list/d").body("new"), "405 NoSuchMethod"),
        (Request::new("DELETE", "/targets"), "405 NoSuchMethod"),
        (Request::get("/page"), "404 NoSuchAddress"),
        (Request::get("/files"), "404 NoSuchAddress"),
        (Request::get("/files/"), "404 NoSuchAddress"),
        (Request::put("/files/f", vec![0; 1_000_001]), "413 TooLarge"),
        (Request::put("/files/f", vec![0; 1_000_001]).chunked(100_000), "413 TooLarge"),
        (Request::append("/files/f", vec![0; 1_000_001]), "413 TooLarge"),
    ] {
        assert_eq!(server.send(&request).api_error(), api_error, "{} {}", request.method, request.target);
    }
    // Lengths that contradict each other, and a body that is less than was said: framed by nobody's guess.
    for head in [
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3x\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n3\r\nnew\r\n0\r\n\r\n",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nnew\r\n0\r\n\r\n",
    ] {
        let answer = server.client().send_bytes(head.as_bytes(), false).map_or(400, |answer| answer.status);
        assert!((400..500).contains(&answer), "{answer} to {head:?}");
    }
    for unfinished in [
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 400000\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnew\r\n",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnew\r\n0\r\n",
        "POST /files/f?append HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nnew",
        "POST /files/f?append HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nnew",
    ] {
        let mut stream = connect(server.address);
        stream.write_all(unfinished.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{unfinished:?}: {}", String::from_utf8_lossy(&said));
    }
    let after = server.get("/files/f");
    assert_eq!((after.tag(), &after.body), (before.tag(), &before.body));
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    assert_eq!(tree(&world.root()).len(), 1);
}

#[test]
fn whoever_expects_to_be_asked_is_refused_before_the_body() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000")]);
    server.put("/files/f", "old");
    let ask = |method: &str, target: &str, length: usize| {
        let mut stream = BufReader::new(connect(server.address));
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        stream
    };
    for (method, target, length, api_error) in [
        ("PUT", "/files/f", 1001, "413 TooLarge"),
        ("PUT", "/files/f", usize::MAX >> 1, "413 TooLarge"),
        ("POST", "/files/f?append", 1001, "413 TooLarge"),
        ("PUT", "/files/../f", 10, "400 BadPath"),
    ] {
        let mut stream = ask(method, target, length);
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, format!("HTTP/1.1 {}", &api_error[..3]).as_bytes());
        let answer = answer(&mut first.chain(stream), false).unwrap();
        assert_eq!(answer.api_error(), api_error);
    }
    let mut stream = ask("PUT", "/files/f", 3);
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(server.get("/files/f").body, b"old");
    stream.get_mut().write_all(b"new").unwrap();
    assert_eq!(answer(&mut stream, false).unwrap().status, 204);
    assert_eq!(server.get("/files/f").body, b"new");
}

#[test]
fn a_connection_is_used_again_also_after_a_refusal() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut stream = BufReader::new(connect(server.address));
    for (request, status) in [
        ("GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        ("PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx", 201),
        ("GET /files/.. HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("PUT /files/f HTTP/1.1\r\nhost: a\r\nif-none-match: *\r\ncontent-length: 1\r\n\r\nx", 412),
        ("GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 200),
    ] {
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        assert_eq!(answer(&mut stream, false).unwrap().status, status, "{request}");
    }
}
