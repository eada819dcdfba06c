//! Header fields of requests by their grammar: RFC 9110.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{
    TOKEN,
    common::{Request, World},
    is_unchanged, one_file, with,
};

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
    // A suffix that is longer than the content is all of it (RFC 9110, section 14.1.2), also where there is nothing.
    assert_eq!(server.put("/files/empty", "").status, 201);
    for (range, status) in [("bytes=-5", 200), ("bytes=-0", 416), ("bytes=0-", 416), ("bytes=0-0", 416)] {
        let answer = server.send(&Request::get("/files/empty").header("range", range));
        let told = (status == 416).then_some("bytes */0");
        assert_eq!((answer.status, answer.header("content-range")), (status, told), "{range}");
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
