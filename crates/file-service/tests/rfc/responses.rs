//! What responses say: RFC 9110.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{
    common::{Answer, Request, World},
    is_unchanged, one_file, with,
};

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
        ("OPTIONS", "*", &of_files),
    ] {
        let answer = server.send(&Request::new(method, target).body(""));
        assert_eq!(answer.api_error(), "405 NoSuchMethod", "{method} {target}");
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
    assert_eq!(server.put("/files/d/%5E/x", "x").status, 201);
    let page = server.get("/list/d").json();
    let directory = page["entries"].as_array().unwrap().iter().find(|entry| entry["kind"] == "directory").unwrap();
    assert_eq!(directory["href"], "/list/d/%5E");
}
