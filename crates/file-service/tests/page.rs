//! The page for people: its session, its live numbers, and the description of the API.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use common::{Answer, Request, Server, World, connect, eventually};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuv";
/// Pages that one task has open at the same time.
const MAX_STREAMS: usize = 32;

/// A stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    /// # Errors
    /// The status of the refusal.
    fn open(server: &Server, cookie: &str) -> Result<Self, u16> {
        let mut stream = connect(server.address);
        write!(stream, "GET /events HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line[9..12].parse().unwrap();
        if status != 200 {
            return Err(status);
        }
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
        assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
        Ok(Self(reader))
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if line.starts_with("0\r\n") {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

fn sign_in(server: &Server, token: &str) -> Answer {
    let form = format!("token={token}");
    server
        .send(&Request::new("POST", "/session").header("content-type", "application/x-www-form-urlencoded").body(form))
}

fn cookie_of(answer: &Answer) -> String {
    let set = answer.header("set-cookie").unwrap_or_else(|| panic!("{answer:?}"));
    set.split(';').next().unwrap().to_owned()
}

#[test]
fn the_token_opens_the_page_by_a_cookie_that_opens_no_file() {
    let world = World::new(2);
    let server = world.serve(&[("AUTH_TOKEN", TOKEN)]);
    fs::write(world.root().join("f"), "secret").unwrap();

    let form = server.get("/");
    assert_eq!((form.status, form.header("www-authenticate")), (401, Some("Bearer")));
    assert!(String::from_utf8_lossy(&form.body).contains("Token of the service"));
    for wrong in ["", "x", &TOKEN[1..], &format!("{TOKEN}x")] {
        let answer = sign_in(&server, wrong);
        assert_eq!((answer.status, answer.header("set-cookie")), (401, None), "{wrong}");
        assert!(String::from_utf8_lossy(&answer.body).contains("not the token"), "{answer:?}");
    }
    assert_eq!(sign_in(&server, &"x".repeat(17_000)).status, 413);
    let signed_in = sign_in(&server, TOKEN);
    assert_eq!((signed_in.status, signed_in.header("location")), (303, Some("/")));
    let set = signed_in.header("set-cookie").unwrap();
    assert!(set.ends_with("; HttpOnly; SameSite=Strict") && !set.contains(TOKEN), "{set}");
    let cookie = cookie_of(&signed_in);

    let with = |method: &str, target: &str| server.send(&Request::new(method, target).header("cookie", &cookie));
    for target in ["/", "/targets", "/route/a/b", "/openapi.json"] {
        assert_eq!(with("GET", target).status, 200, "{target}");
        assert_eq!(with("HEAD", target).status, 200, "{target}");
        assert_eq!(server.get(target).status, 401, "{target}");
    }
    // A page of another site could send the cookie of a browser that ignores SameSite: it must open nothing that matters.
    for (method, target) in [
        ("GET", "/files/f"),
        ("HEAD", "/files/f"),
        ("PUT", "/files/g"),
        ("POST", "/files/f?append"),
        ("DELETE", "/files/f"),
        ("GET", "/list/"),
        ("GET", "/metrics"),
        ("POST", "/targets"),
        ("PUT", "/route/f"),
    ] {
        let answer = with(method, target);
        assert_eq!(answer.status, 401, "{method} {target}");
    }
    assert!(world.root().join("f").exists() && !world.root().join("g").exists());

    // Not by another site.
    let end = Request::new("POST", "/session/end").header("cookie", &cookie);
    let foreign = server.send(&end.clone().header("sec-fetch-site", "cross-site"));
    assert_eq!((foreign.status, foreign.header("set-cookie")), (303, None));
    let ended = server.send(&end.header("sec-fetch-site", "same-origin"));
    assert!(ended.status == 303 && ended.header("set-cookie").unwrap().contains("Max-Age=0"), "{ended:?}");
    let log = server.lines().iter().map(ToString::to_string).collect::<String>();
    assert!(!log.contains(TOKEN) && !log.contains(&cookie), "{log}");
}

#[test]
fn nothing_else_is_loaded_and_nobody_frames_the_page() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let page = server.get("/");
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let mut loaded = BTreeSet::new();
    for target in ["/", "/page.css", "/page.js"] {
        let answer = server.get(target);
        assert_eq!((answer.status, answer.header("x-content-type-options")), (200, Some("nosniff")), "{target}");
        let text = String::from_utf8(answer.body).unwrap();
        for word in text.split(['"', '\'', '(', ')', ' ']).filter(|word| word.contains("://")) {
            loaded.insert(word.to_owned());
        }
        for inline in [" onclick=", " style=", "<script>", "<style>", "innerHTML", "eval("] {
            assert!(!text.contains(inline), "{target}: {inline}");
        }
    }
    // A name, which is not loaded.
    assert_eq!(loaded, ["http://www.w3.org/2000/svg".to_owned()].into());
    assert_eq!(server.send(&Request::new("POST", "/page.css")).status, 405);
    assert_eq!(server.send(&Request::get("/session")).status, 405);
}

#[test]
fn the_events_have_the_numbers_of_the_targets_and_show_a_failure_within_two_seconds() {
    let world = World::new(2);
    let server = world.serve(&[("PROBE_SECONDS", "0.1")]);
    for number in 0..40 {
        assert_eq!(server.put(&format!("/files/{number}"), "x").status, 201);
    }
    assert_eq!(server.get("/files/a%0ab%1b%5b31m").status, 404);
    let mut events = Events::open(&server, "").unwrap();
    let event = events.next().unwrap();
    let targets = server.get("/targets").json();
    assert_eq!((&event["targets"], &event["strategy"]), (&targets["targets"], &targets["strategy"]));
    let counts: u64 = event["histogram"]["counts"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|counts| counts.as_array().unwrap())
        .map(|count| count.as_u64().unwrap())
        .sum();
    let operations: u64 =
        targets["targets"].as_array().unwrap().iter().map(|target| target["operations"].as_u64().unwrap()).sum();
    assert_eq!(counts, operations);
    let error = &event["errors"][0];
    assert_eq!((&error["code"], &error["count"], &error["status"]), (&"NotFound".into(), &1.into(), &404.into()));
    assert_eq!((&error["last_path"], &error["last_method"]), (&"/files/a%0ab%1b%5b31m".into(), &"GET".into()));
    assert!(error["last_mount_target_id"].as_str().unwrap().starts_with("fsmt-"));

    let failed = Instant::now();
    fs::remove_file(world.at("mnt/efs-1")).unwrap();
    let down = eventually("a target is down", || {
        let event = events.next().unwrap();
        let target = event["targets"].as_array().unwrap().iter().find(|target| target["up"] == false)?;
        Some(target.clone())
    });
    assert!(failed.elapsed() < Duration::from_secs(3), "{:?}", failed.elapsed());
    assert_eq!((&down["mount_target_id"], &down["failovers"]), (&"fsmt-00000001".into(), &1.into()));
    symlink("../root", world.at("mnt/efs-1")).unwrap();
    eventually("the target is up", || events.next().unwrap()["targets"][1]["up"].as_bool().filter(|up| *up));
}

#[test]
fn streams_are_bounded_and_end_with_the_service() {
    let world = World::new(1);
    let mut server = world.serve(&[("AUTH_TOKEN", TOKEN)]);
    let cookie = cookie_of(&sign_in(&server, TOKEN));
    assert_eq!(Events::open(&server, "").err(), Some(401));
    assert_eq!(Events::open(&server, "efs-session=1.2").err(), Some(401));
    let mut streams: Vec<_> = (0..MAX_STREAMS).map(|_| Events::open(&server, &cookie).unwrap()).collect();
    assert_eq!(Events::open(&server, &cookie).err(), Some(503));
    drop(streams.pop());
    // The service notices with the next event.
    streams.push(eventually("a stream is free", || Events::open(&server, &cookie).ok()));
    for stream in &mut streams {
        assert!(stream.next().is_some());
    }
    let began = Instant::now();
    server.terminate();
    for stream in &mut streams {
        while stream.next().is_some() {}
    }
    assert!(server.wait().success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_description_of_the_api_has_the_routes_that_there_are() {
    let world = World::new(1);
    let server = world.serve(&[]);
    fs::write(world.root().join("x"), "content").unwrap();
    fs::create_dir(world.root().join("d")).unwrap();
    let described = server.get("/openapi.json").json();
    assert_eq!(described["openapi"], "3.1.0");
    for (path, operations) in described["paths"].as_object().unwrap() {
        let target = path.replace("{path}", "x").replace("{directory}", "d");
        let mut allowed: BTreeSet<_> = operations.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
        if allowed.contains("GET") {
            allowed.insert("HEAD".to_owned());
        }
        let answer = server.send(&Request::new("PATCH", &target));
        assert_eq!(answer.status, 405, "{path}");
        let allow: BTreeSet<_> =
            answer.header("allow").unwrap().split(',').map(|name| name.trim().to_owned()).collect();
        assert_eq!(allow, allowed, "{path}");
        if path != "/events" && allowed.contains("GET") {
            let answer = server.get(&target);
            let kind = &operations["get"]["responses"]["200"]["content"];
            let kind = kind.as_object().unwrap().keys().next().unwrap();
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind.as_str())), "{path}");
        }
    }
}

/// The documented addresses: of the description, of the reference, and of the routes in the sources.
#[test]
fn the_description_the_reference_and_the_routes_name_the_same_addresses() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let description: Value = serde_json::from_str(&read("../../docs/reference/openapi.json")).unwrap();
    let described: BTreeSet<_> = description["paths"].as_object().unwrap().keys().cloned().collect();

    let sources = ["src/routes.rs", "src/page/mod.rs"].map(read).concat();
    let routes = sources.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().replace("{*", "{"));
    // What the page loads is part of the page, and `/list/` is `/list`.
    let internal = ["/page.css", "/page.js", "/list/"];
    let routes: BTreeSet<_> = routes.filter(|path| !internal.contains(&path.as_str())).collect();
    assert_eq!(routes, described);

    let reference = read("../../docs/reference/service.md");
    let rows = reference.split("## Requests").nth(1).unwrap().split("\n## ").next().unwrap();
    let spans: Vec<_> = rows.split('`').skip(1).step_by(2).collect();
    let documented =
        |path: &String| spans.iter().any(|span| span.split(' ').any(|word| word.split('?').next() == Some(path)));
    let missing: Vec<_> = described.iter().filter(|path| *path != "/list" && !documented(path)).collect();
    assert!(missing.is_empty(), "docs/reference/service.md does not name {missing:?}");

    // The codes of each status, from `domain::codes`, are those of the table.
    let table = rows.split("| status | codes |").nth(1).unwrap();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                for code in answer["description"].as_str().unwrap().split('`').skip(1).step_by(2) {
                    let row =
                        table.lines().find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(status)));
                    assert!(
                        row.is_some_and(|row| row.contains(&format!("`{code}`"))),
                        "{method} {path}: {status} {code}"
                    );
                }
            }
        }
    }
}
