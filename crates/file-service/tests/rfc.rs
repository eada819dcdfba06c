//! What RFC 9110 and RFC 9112 require of an origin server. `docs/reference/http.md` is the table of these tests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;
#[path = "rfc/fields.rs"]
mod fields;
#[path = "rfc/messages.rs"]
mod messages;
#[path = "rfc/responses.rs"]
mod responses;
#[path = "rfc/writes.rs"]
mod writes;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::Path,
};

use common::{Answer, Request, Server, World, connect, eventually, temporaries, tree};

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

/// Every test here is in `docs/reference/http.md`, and every test that is named there exists.
#[test]
fn the_table_is_of_these_tests() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let sources = |names: &[&str]| names.iter().map(|name| read(&format!("tests/{name}.rs"))).collect::<String>();
    let table = read("../../docs/reference/http.md");
    let is_name = |text: &&str| {
        text.contains('_')
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
    };
    let told: BTreeSet<_> = table.split('`').filter(is_name).collect();
    let here = sources(&["rfc/messages", "rfc/writes", "rfc/fields", "rfc/responses"]);
    let tests: BTreeSet<_> = here.split("#[test]\nfn ").skip(1).filter_map(|test| test.split('(').next()).collect();
    let others = sources(&[
        "http/model",
        "http/concurrent",
        "http/protocol",
        "http/service",
        "harm/paths",
        "harm/failures",
        "harm/slow",
        "harm/end",
        "tls",
    ]);
    let unknown: Vec<_> = told.difference(&tests).filter(|name| !others.contains(&format!("fn {name}("))).collect();
    assert!(unknown.is_empty(), "in the table, but no test: {unknown:?}");
    assert!(tests.is_subset(&told), "not in the table: {:?}", tests.difference(&told).collect::<Vec<_>>());
}
