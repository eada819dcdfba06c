//! The file service among those who mean it harm, and in the middle of what goes wrong by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    io::{BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{
    Answer, Client, MEBIBYTE, Request, SMALL, Server, World, answer, connect, content, eventually, is_read, list,
    temporaries, tree,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, RenameFlags},
    process::{Pid, Signal, kill_process},
};
use serde_json::json;

/// What lies beside the root, and is nobody's to read or to change.
const SENTINEL: &str = "SENTINEL 5e2b7a, outside of the root";
/// A client's own content, as different from every other as can be.
const OWN: &str = "owned by whoever sent it";

// ---------------------------------------------------------------------------------------------------------------
// Paths

/// A world with something beside the root that must not be reached.
fn guarded() -> World {
    let world = World::new(2);
    fs::write(world.at("secret"), SENTINEL).unwrap();
    fs::write(world.at("mnt/secret"), SENTINEL).unwrap();
    fs::create_dir(world.at("outside")).unwrap();
    fs::write(world.at("outside/file"), SENTINEL).unwrap();
    fs::create_dir(world.root().join("inside")).unwrap();
    fs::write(world.root().join("inside/file"), "inside").unwrap();
    world
}

/// All that is not below the root.
fn outside(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    tree(&world.at("")).into_iter().filter(|(path, _)| !path.starts_with(world.root().join(""))).collect()
}

fn tells_nothing(answer: &Answer) {
    for secret in [SENTINEL, "SENTINEL", "root:x:0", "root:*:"] {
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains(secret), "{}", String::from_utf8_lossy(&answer.body));
    }
    // Nobody needs to know where the root is.
    assert!(!String::from_utf8_lossy(&answer.body).contains("/tmp/"), "{}", String::from_utf8_lossy(&answer.body));
}

/// Sends the bytes as they are, on a connection of their own.
fn raw(server: &Server, method: &str, target: &[u8]) -> Answer {
    let mut bytes = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: a\r\n"].concat();
    let tail = match method {
        "PUT" | "POST" => format!("content-length: {}\r\n\r\n{OWN}", OWN.len()),
        _ => "\r\n".to_owned(),
    };
    bytes.extend_from_slice(tail.as_bytes());
    let answer = server.client().send_bytes(&bytes, method == "HEAD");
    let answer = answer.unwrap_or_else(|err| panic!("{method} {}: {err}", String::from_utf8_lossy(target)));
    tells_nothing(&answer);
    answer
}

/// The statuses of every way to ask for a path.
fn every_way(server: &Server, path: &[u8]) -> Vec<(&'static str, u16)> {
    let ways: [(&str, &str, &str); 7] = [
        ("GET", "/files/", ""),
        ("HEAD", "/files/", ""),
        ("PUT", "/files/", ""),
        ("POST", "/files/", "?append"),
        ("DELETE", "/files/", ""),
        ("GET", "/list/", ""),
        ("GET", "/route/", ""),
    ];
    let names = ["GET", "HEAD", "PUT", "POST", "DELETE", "LIST", "ROUTE"];
    let one = |(name, (method, prefix, query)): (&'static str, (&str, &str, &str))| {
        (name, raw(server, method, &[prefix.as_bytes(), path, query.as_bytes()].concat()).status)
    };
    names.into_iter().zip(ways).map(one).collect()
}

#[test]
fn no_way_to_write_a_path_leads_out_of_the_root() {
    let world = guarded();
    let server = world.serve(&[]);
    let secret = world.at("secret").to_str().unwrap().to_owned();
    let long = "a".repeat(256);
    let encoded_long = "%61".repeat(256);
    let deep = "d/".repeat(2048) + "f";
    assert_eq!(deep.len(), 4097);
    let huge = "e/".repeat(40_000);
    let mut refused: Vec<Vec<u8>> = [
        "..",
        ".",
        "./a",
        "a/..",
        "a/.",
        "../secret",
        "../../secret",
        "../mnt/secret",
        "../../../../../../../../../../etc/passwd",
        "inside/../../secret",
        "inside/../inside/file",
        "inside/./file",
        "./../secret",
        "a/../../secret",
        "%2e",
        "%2e%2e",
        "%2E%2E",
        "%2e%2e/secret",
        "%2E%2E/secret",
        ".%2e/secret",
        "%2e./secret",
        "..%2fsecret",
        "..%2Fsecret",
        "%2e%2e%2fsecret",
        "%2E%2E%2Fsecret",
        "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "a%2f..%2f..%2fsecret",
        "inside%2f..%2f..%2fsecret",
        "inside/%2e%2e/%2e%2e/secret",
        "inside%2f%2e%2e/../secret",
        "inside/file/..",
        "inside/file/../../../secret",
        "../root/inside/file",
        "/etc/passwd",
        "//etc/passwd",
        "/../secret",
        "%2fetc%2fpasswd",
        "%2Fetc/passwd",
        "/%2fetc/passwd",
        "/proc/self/environ",
        "a//b",
        "a%2f%2fb",
        "a/%2fb",
        "inside//file",
        "/inside/file",
        "%00",
        "a%00",
        "%00a",
        "a%00b/c",
        "../secret%00.txt",
        "inside/file%00",
        "inside/file%00/../../secret",
        &long,
        &encoded_long,
        &format!("inside/{long}"),
        &format!("{long}/file"),
        &deep,
        &huge,
        ".efs-router.",
        ".efs-router.x",
        ".efs-router.0123456789abcdef.1",
        "inside/.efs-router.x",
        ".efs-router.d/a",
        "a/.efs-router.d/a",
        "%2eefs-router.x",
        ".efs%2drouter%2ex",
        "%2e%65%66%73%2drouter.x",
        "%",
        "a%",
        "%2",
        "a/%2",
        "%zz",
        "%g0",
        "%0g",
        "%%",
        "% 2e",
        "%%32e%%32e/secret",
        "%u002e%u002e/secret",
        "%2e%2e%",
        "..%%2fsecret",
        "%-1%-1/secret",
        "%+2e",
        &secret,
        &secret.replace('/', "%2f"),
        &format!("/{secret}"),
        &format!("inside/../../..{secret}"),
    ]
    .map(|path: &str| path.as_bytes().to_vec())
    .to_vec();
    refused.extend(
        [&b"a\0b"[..], b"\xff\xfe", b"a\x01b", b"a b", b"a\tb", b"..\x7f/\r", b"\xc0\xae\xc0\xae/secret"]
            .map(<[u8]>::to_vec),
    );
    assert!(refused.len() >= 60);
    let before = (outside(&world), tree(&world.root()));
    for path in &refused {
        let shown = String::from_utf8_lossy(path);
        let shown = shown.chars().take(80).collect::<String>();
        for (way, status) in every_way(&server, path) {
            assert!((400..500).contains(&status), "{way} {shown}: {status}");
        }
        assert!((outside(&world), tree(&world.root())) == before, "something is changed after {shown}");
    }
    // A directory may be written with a `/` at its end; a file may not.
    for path in ["inside/", "inside%2f", "inside/file/", "inside/file%2F", "new/"] {
        for (way, status) in every_way(&server, path.as_bytes()) {
            match way {
                "LIST" => assert!([200, 404, 409].contains(&status), "{way} {path}: {status}"),
                _ => assert_eq!(status, 400, "{way} {path}"),
            }
        }
        assert!((outside(&world), tree(&world.root())) == before, "something is changed after {path}");
    }
    assert_eq!(server.get("/files/inside/file").body, b"inside");
}

/// Decoded once, these are names as good as others: they lie in the root, and nowhere else.
#[test]
fn names_that_only_look_dangerous_are_names() {
    let world = guarded();
    let server = world.serve(&[]);
    let beside = outside(&world);
    for (path, name) in [
        ("%252e%252e", "%2e%2e"),
        ("%252e%252e%252fsecret", "%2e%2e%2fsecret"),
        ("%252e%252e/secret", "%2e%2e/secret"),
        ("%25252e%25252e", "%252e%252e"),
        ("..%255csecret", "..%5csecret"),
        ("..%5csecret", "..\\secret"),
        ("..\\secret", "..\\secret"),
        ("%2e%2e%5csecret", "..\\secret"),
        ("..\\..\\secret", "..\\..\\secret"),
        ("C:%5csecret", "C:\\secret"),
        ("...", "..."),
        (".../secret", ".../secret"),
        ("..a", "..a"),
        ("a..", "a.."),
        ("..;/secret", "..;/secret"),
        ("..%20/secret", ".. /secret"),
        ("%20../secret", " ../secret"),
        ("..%0d%0a/secret", "..\r\n/secret"),
        ("..%01", "..\u{1}"),
        ("..%3f", "..?"),
        ("..%23", "..#"),
        ("%ef%bc%8e%ef%bc%8e/secret", "．．/secret"),
        ("%e2%80%a5/secret", "‥/secret"),
        ("%e2%81%84etc", "⁄etc"),
        ("~root", "~root"),
        ("$HOME", "$HOME"),
        ("-rf", "-rf"),
        ("*", "*"),
        (".efs-router", ".efs-router"),
        ("x.efs-router.x", "x.efs-router.x"),
        (".EFS-ROUTER.x", ".EFS-ROUTER.x"),
    ] {
        for way in ["GET", "DELETE"] {
            assert_eq!(raw(&server, way, format!("/files/{path}").as_bytes()).status, 404, "{way} {path}");
        }
        assert_eq!(raw(&server, "GET", format!("/list/{path}").as_bytes()).status, 404, "{path}");
        assert_eq!(raw(&server, "GET", format!("/route/{path}").as_bytes()).status, 200, "{path}");
        assert_eq!(raw(&server, "PUT", format!("/files/{path}").as_bytes()).status, 201, "{path}");
        assert_eq!(fs::read_to_string(world.root().join(name)).unwrap(), OWN, "{path}");
        assert_eq!(raw(&server, "POST", format!("/files/{path}?append").as_bytes()).status, 204, "{path}");
        assert_eq!(raw(&server, "GET", format!("/files/{path}").as_bytes()).body, OWN.repeat(2).as_bytes(), "{path}");
        assert_eq!(raw(&server, "DELETE", format!("/files/{path}").as_bytes()).status, 204, "{path}");
        assert!(outside(&world) == beside, "something is changed after {path}");
    }
    // Two bytes that some take for `.`: no UTF-8, and a name all the same.
    for path in ["%c0%ae%c0%ae/secret", "%c0%ae%c0%ae%c0%afsecret", "%e0%80%ae%e0%80%ae%e0%80%afsecret", "%ff%fe"] {
        assert_eq!(raw(&server, "GET", format!("/files/{path}").as_bytes()).status, 404, "{path}");
        assert_eq!(raw(&server, "PUT", format!("/files/{path}").as_bytes()).status, 201, "{path}");
        assert!(outside(&world) == beside, "something is changed after {path}");
    }
}

#[test]
fn no_form_of_a_request_target_leads_out_of_the_root() {
    let world = guarded();
    let server = world.serve(&[]);
    let before = tree(&world.at(""));
    let secret = world.at("secret").to_str().unwrap().to_owned();
    for target in [
        "http://127.0.0.1/files/../secret",
        "http://127.0.0.1/files/%2e%2e/secret",
        "http://elsewhere.example/files/..%2fsecret",
        "http://user@elsewhere.example/files/%00",
        "http://127.0.0.1/../secret",
        "https://127.0.0.1/files//etc/passwd",
        "file:///etc/passwd",
        &format!("file://{secret}"),
        "//etc/passwd",
        "/etc/passwd",
        &secret,
        "/../secret",
        "/%2e%2e/secret",
        "/files/../list/",
        "/files/../healthz",
        "/%66iles/inside/file",
        "/files%2finside/file",
        "/FILES/inside/file",
        "/./files/inside/file",
        "//files/inside/file",
        "/files",
        "/files/",
        "secret",
        "../secret",
        "files/inside/file",
        "*",
        "127.0.0.1:80",
        "",
    ] {
        for method in ["GET", "PUT", "DELETE", "POST", "OPTIONS", "CONNECT", "TRACE"] {
            let status = raw(&server, method, target.as_bytes()).status;
            assert!((400..500).contains(&status), "{method} {target}: {status}");
        }
        assert!(tree(&world.at("")) == before, "something is changed after {target}");
    }
    // The whole address is a form of HTTP too, whoever it names: the path is what counts.
    assert_eq!(raw(&server, "GET", b"http://elsewhere.example/files/inside/file").body, b"inside");
}

/// Each of the ways in which a file is read or changed.
fn every_method(target: &str) -> Vec<Request> {
    let large = || vec![7; SMALL + 1];
    vec![
        Request::get(target),
        Request::get(target).header("range", "bytes=0-1"),
        Request::new("HEAD", target),
        Request::put(target, OWN),
        Request::put(target, OWN).chunked(5),
        Request::put(target, large()),
        Request::put(target, OWN).header("if-match", "*"),
        Request::put(target, OWN).header("if-none-match", "*"),
        Request::put(target, large()).header("if-none-match", "*"),
        Request::append(target, OWN),
        Request::append(target, OWN).header("if-match", "*"),
        Request::append(target, OWN).header("if-none-match", "*"),
        Request::new("DELETE", target),
        Request::new("DELETE", target).header("if-match", "*"),
    ]
}

/// A PUT over a link is refused too: the link stays, and so does what it leads to.
#[test]
fn links_are_followed_by_nothing_wherever_they_lead() {
    let world = guarded();
    let at = |name: &str| world.root().join(name);
    for (name, to) in [
        ("relative", Path::new("../secret")),
        ("absolute", &world.at("secret")),
        ("up", Path::new("..")),
        ("directory", &world.at("outside")),
        ("chain", Path::new("relative")),
        ("chain of directories", Path::new("up")),
        ("dangling", Path::new("nowhere")),
        ("dangling outside", Path::new("../created")),
        ("magic", Path::new("/proc/self/root")),
        ("magic directory", Path::new("/proc/self/cwd")),
        ("within", Path::new("inside/file")),
        ("within to a directory", Path::new("inside")),
        ("to the root", Path::new(".")),
        ("itself", Path::new("itself")),
        ("inside/beside", Path::new("file")),
    ] {
        symlink(to, at(name)).unwrap();
    }
    let paths = [
        "relative",
        "absolute",
        "up",
        "up/secret",
        "up/outside/file",
        "up/root/inside/file",
        "up/new",
        "up/new/file",
        "directory",
        "directory/file",
        "directory/new/file",
        "chain",
        "chain of directories/secret",
        "dangling",
        "dangling/file",
        "dangling outside",
        "dangling outside/file",
        "magic",
        "magic/etc/passwd",
        "magic directory/Cargo.toml",
        "within",
        "within/file",
        "within to a directory",
        "within to a directory/file",
        "within to a directory/new/file",
        "to the root/inside/file",
        "itself",
        "itself/file",
        "relative/file",
        "inside/beside",
        "inside/beside/file",
    ];
    let before = tree(&world.at(""));
    // What is read at once, and by way of a thread.
    for at_once in ["auto", "never"] {
        let server = world.serve(&[("READ_AT_ONCE", at_once)]);
        let mut client = server.client();
        for path in paths {
            let target = format!("/files/{}", path.replace(' ', "%20"));
            let mut requests = every_method(&target);
            requests.push(Request::get(&target.replace("/files/", "/list/")));
            for request in requests {
                let answer = client.send(&request);
                tells_nothing(&answer);
                assert_eq!(answer.status, 403, "{} {path}: {answer:?}", request.method);
                assert!(request.method == "HEAD" || answer.code() == "LinkInPath");
            }
        }
        let listed = client.get("/list/").json();
        for entry in listed["entries"].as_array().unwrap() {
            let is_link = entry["name"] != "inside";
            assert_eq!((entry["kind"] == "other", entry["href"].is_null()), (is_link, is_link), "{entry}");
        }
    }
    assert!(tree(&world.at("")) == before, "something is changed");
}

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    if common::without_a_mount() {
        // A server whose directory is changed behind its back so often fails by itself.
        return;
    }
    let world = guarded();
    let server = world.serve(&[]);
    let (directory, link) = (world.root().join("d"), world.root().join("l"));
    fs::create_dir(&directory).unwrap();
    symlink("../outside", &link).unwrap();
    let beside = outside(&world);
    let done = AtomicBool::new(false);
    let (done, rounds) = (&done, 150);
    thread::scope(|scope| {
        // Each is the other's name at every moment.
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                thread::yield_now();
            }
        });
        let mut refused = 0;
        let mut client = server.client();
        for _ in 0..rounds {
            for request in every_method("/files/d/file") {
                let answer = client.send(&request);
                tells_nothing(&answer);
                refused += usize::from(answer.status == 403);
                assert!(answer.status < 500 || answer.status == 503, "{} {answer:?}", request.method);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(refused > 0 && refused < rounds * every_method("").len(), "nothing was exchanged: {refused} refused");
    });
    assert!(outside(&world) == beside, "something outside is changed");
}

/// Directories that were made for a content that is given up are removed; not what is above them by then.
#[test]
fn a_made_directory_that_is_moved_away_takes_nothing_with_it() {
    let world = guarded();
    let server = world.serve(&[]);
    let mut stream = connect(server.address);
    stream
        .write_all(b"PUT /files/a/b/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
    // Of the same name as what was made, and somebody else's.
    fs::create_dir(world.at("a")).unwrap();
    fs::create_dir(world.at("elsewhere")).unwrap();
    fs::rename(world.root().join("a/b"), world.at("elsewhere/b")).unwrap();
    drop(stream);
    eventually("no temporary file stays", || temporaries(&world.at("")).is_empty().then_some(()));
    for _ in 0..20 {
        assert!(world.at("a").is_dir(), "a directory outside is removed");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_no_file_is_refused_and_keeps_nobody() {
    let world = guarded();
    let at = |name: &str| world.root().join(name);
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    rustix::fs::mknodat(CWD, at("full fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let full = rustix::fs::open(at("full fifo"), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
    rustix::io::write(&full, b"for somebody else").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let mut names = vec!["fifo", "full fifo", "socket", "inside"];
    // A device, where this process may make one.
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::mknodat(CWD, at("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).is_ok() {
        names.push("device");
    }
    let before = tree(&world.at(""));
    for at_once in ["auto", "never"] {
        // One that hangs would keep the only thread.
        let server = world.serve(&[("READ_AT_ONCE", at_once), ("THREADS_PER_TARGET", "1")]);
        let mut client = server.client();
        for name in &names {
            let target = format!("/files/{}", name.replace(' ', "%20"));
            for request in every_method(&target) {
                let answer = client.send(&request);
                assert_eq!(answer.status, 409, "{} {name}: {answer:?}", request.method);
                let code = if *name == "inside" { "IsADirectory" } else { "NotAFile" };
                assert!(request.method == "HEAD" || answer.code() == code, "{} {name}: {answer:?}", request.method);
            }
            if *name == "inside" {
                continue;
            }
            for request in every_method(&format!("{target}/below")) {
                assert_eq!(client.send(&request).status, 409, "{} {name}/below", request.method);
            }
            assert_eq!(client.get(&target.replace("/files/", "/list/")).status, 409, "{name}");
        }
        assert_eq!(client.get("/files/inside/file").body, b"inside");
    }
    assert!(tree(&world.at("")) == before, "something is changed");
    let mut words = [0; 100];
    assert_eq!(rustix::io::read(&full, &mut words).unwrap(), 17, "what was somebody else's is gone");
}

// ---------------------------------------------------------------------------------------------------------------
// A process that dies

/// How far a PUT comes before its service is killed.
#[derive(Clone, Copy, Debug)]
enum Point {
    Head,
    Half,
    AllButOneByte,
    /// Everything is sent; so long afterwards.
    Sent(u64),
    Answered,
}

#[test]
fn a_process_that_is_killed_leaves_the_old_file_or_the_new_one() {
    let world = World::new(1);
    let file = world.root().join("f");
    let mut seen = [0, 0];
    for (length, chunked) in [(100_000, false), (MEBIBYTE, false), (SMALL, true)] {
        for point in [
            Point::Head,
            Point::Half,
            Point::AllButOneByte,
            Point::Sent(0),
            Point::Sent(300),
            Point::Sent(1000),
            Point::Sent(3000),
            Point::Answered,
        ] {
            let (old, new) = (content(1, 5000), content(2, length));
            fs::write(&file, &old).unwrap();
            let server = world.serve(&[("SYNC", "always"), ("SWEEP_SECONDS", "0")]);
            let mut stream = connect(server.address);
            let head =
                if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {length}") };
            let mut bytes = format!("PUT /files/f HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n").into_bytes();
            let head = bytes.len();
            if chunked {
                bytes.extend_from_slice(format!("{length:x}\r\n").as_bytes());
            }
            bytes.extend_from_slice(&new);
            if chunked {
                bytes.extend_from_slice(b"\r\n0\r\n\r\n");
            }
            let sent = match point {
                Point::Head => head,
                Point::Half => bytes.len() / 2,
                Point::AllButOneByte => bytes.len() - 1,
                Point::Sent(_) | Point::Answered => bytes.len(),
            };
            let had = temporaries(&world.root()).len();
            stream.write_all(&bytes[..sent]).unwrap();
            let streamed = chunked || length > SMALL;
            match point {
                // Then it is certain that one is left.
                Point::Half | Point::AllButOneByte if streamed => {
                    eventually("the content is begun", || (temporaries(&world.root()).len() > had).then_some(()));
                }
                Point::Sent(microseconds) => thread::sleep(Duration::from_micros(microseconds)),
                Point::Answered => {
                    assert_eq!(answer(&mut BufReader::new(&stream), false).unwrap().status, 204);
                }
                _ => {}
            }
            server.kill();
            let found = fs::read(&file).unwrap();
            let is_new = found == new;
            assert!(is_new || found == old, "{length} {chunked} {point:?}: {} bytes", found.len());
            match point {
                Point::Answered => assert!(is_new, "an answer was given for nothing"),
                Point::Head | Point::Half | Point::AllButOneByte => assert!(!is_new, "a part was taken for the whole"),
                Point::Sent(_) => {}
            }
            seen[usize::from(is_new)] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0);
    // Nobody sees what the dead have left, and it goes.
    let left = temporaries(&world.root());
    assert!(left.len() >= 4, "{left:?}");
    fs::create_dir_all(world.root().join("a/b")).unwrap();
    fs::rename(&left[0], world.root().join("a/b").join(left[0].file_name().unwrap())).unwrap();
    fs::write(world.root().join("a/b/file"), "").unwrap();
    let server = world.serve(&[("SWEEP_SECONDS", "1"), ("ORPHAN_SECONDS", "1"), ("IDLE_SECONDS", "0.5")]);
    let names = |directory: &str| {
        let page = server.get(directory).json();
        let mut names: Vec<_> = page["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!((names("/list"), names("/list/a/b")), (vec!["a".to_owned(), "f".to_owned()], vec!["file".to_owned()]));
    for path in &left {
        let target = format!("/files/{}", path.file_name().unwrap().to_str().unwrap());
        assert_eq!(server.get(&target).status, 400, "{target}");
    }
    eventually("what is left is swept", || temporaries(&world.root()).is_empty().then_some(()));
    eventually("it is counted", || (server.metric("router_swept_files_total") == left.len() as f64).then_some(()));
    assert_eq!((names("/list"), names("/list/a/b")), (vec!["a".to_owned(), "f".to_owned()], vec!["file".to_owned()]));
    assert!(fs::read(&file).unwrap() == server.get("/files/f").body);
}

/// Swept while its client was slow, or removed by somebody: the content is lost, and it is not the client who has
/// named what there is not.
#[test]
fn a_put_whose_temporary_file_is_gone_is_not_the_clients_mistake() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for condition in ["", "if-none-match: *\r\n"] {
        let mut stream = BufReader::new(connect(server.address));
        let head =
            format!("PUT /files/f HTTP/1.1\r\nhost: a\r\n{condition}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let begun =
            || temporaries(&world.root()).pop().filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() == 5));
        fs::remove_file(eventually("the content is begun", begun)).unwrap();
        stream.get_mut().write_all(b"0\r\n\r\n").unwrap();
        let answer = answer(&mut stream, false).unwrap();
        assert_eq!(server.get("/files/f").status, 404);
        assert!(answer.status >= 500, "{}", answer.api_error());
    }
}

/// What is missing is not made up, and the answer does not look as if it were whole.
#[test]
fn a_file_that_becomes_shorter_while_it_is_read_ends_the_answer() {
    let world = World::new(1);
    let server = world.serve(&[("ACCESS_LOG", "1")]);
    let size = 64 * MEBIBYTE;
    let file = fs::File::create(world.root().join("f")).unwrap();
    file.set_len(size as u64).unwrap();
    let mut stream = connect(server.address);
    stream.write_all(b"GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut got = vec![0; 100_000];
    stream.read_exact(&mut got).unwrap();
    file.set_len(1000).unwrap();
    let _ = stream.read_to_end(&mut got);
    assert!(got.len() < size, "{} bytes", got.len());
    let line = server.wait_for("of the GET", |line| line["message"] == "file");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("Shortened"), &json!(200)));
    assert_eq!(server.get("/files/f").body, [0; 1000]);
}

// ---------------------------------------------------------------------------------------------------------------
// Clients that are slow on purpose

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

// ---------------------------------------------------------------------------------------------------------------
// The end

#[test]
fn what_runs_at_the_end_is_finished_and_nothing_is_begun() {
    let world = World::new(2);
    let (large, new) = (content(3, 32 * MEBIBYTE), content(4, 3 * MEBIBYTE));
    fs::write(world.root().join("large"), &large).unwrap();
    let mut server = world.serve(&[]);
    let mut idle = BufReader::new(connect(server.address));
    idle.get_mut().write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert_eq!(answer(&mut idle, false).unwrap().status, 200);
    let mut reader = BufReader::with_capacity(1024, connect(server.address));
    reader.get_mut().write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut first = [0; 4096];
    reader.read_exact(&mut first).unwrap();
    let mut writer = BufReader::new(connect(server.address));
    let head = format!("PUT /files/new HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", new.len());
    writer.get_mut().write_all(head.as_bytes()).unwrap();
    writer.get_mut().write_all(&new[..MEBIBYTE]).unwrap();
    // A balancer that has begun to ask.
    let mut balancer = BufReader::new(connect(server.address));
    balancer.get_mut().write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n").unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
    eventually("all are there", || (server.metric("router_connections") == 5.0).then_some(()));
    eventually("the request is begun", || is_read(balancer.get_ref()).then_some(()));

    server.terminate();
    server.wait_for("ending", |line| line["message"] == "ending");
    let refused = TcpStream::connect(server.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // A connection on which nothing runs is closed.
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    balancer.get_mut().write_all(b"\r\n").unwrap();
    let told = answer(&mut balancer, false).unwrap();
    assert_eq!((told.status, told.header("connection")), (503, Some("close")));

    writer.get_mut().write_all(&new[MEBIBYTE..]).unwrap();
    assert_eq!(answer(&mut writer, false).unwrap().status, 201);
    assert!(fs::read(world.root().join("new")).unwrap() == new);
    let got = answer(&mut first.chain(&mut reader), false).unwrap();
    assert!(got.status == 200 && got.body == large);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn what_is_stuck_holds_the_end_up_no_longer_than_it_may() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new(1);
        fs::write(world.root().join("large"), vec![1; 64 * MEBIBYTE]).unwrap();
        fs::write(world.root().join("f"), "old").unwrap();
        let mut server = world.serve(&[("SHUTDOWN_SECONDS", "1"), ("IDLE_SECONDS", "3600")]);
        let mut reader = connect(server.address);
        reader.write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        reader.read_exact(&mut [0; 100]).unwrap();
        let mut writer = connect(server.address);
        writer.write_all(b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nnew").unwrap();
        eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
        let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(server.wait().code(), Some(0));
        let line = server.wait_for("of what was left", |line| line["message"] == "ended before these did");
        assert_eq!(line["connections"], 2);
        assert_eq!(fs::read_to_string(world.root().join("f")).unwrap(), "old");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// A file system that is full

/// The same command, begun by a shell that does something before.
fn after(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// What is refused for want of room changes nothing and leaves nothing.
fn refuses_what_has_no_room(server: &Server, root: &Path, expected: &str) {
    let old = content(1, 600_000);
    assert_eq!(server.put("/files/d/f", &*old).status, 201);
    let before = server.get("/files/d/f");
    let large = content(2, 2 * MEBIBYTE);
    for request in [
        Request::put("/files/d/f", &*large),
        Request::put("/files/d/f", &*large).chunked(100_000),
        Request::put("/files/d/f", &*large).header("if-match", before.tag()),
        Request::put("/files/d/new", &*large).header("if-none-match", "*"),
        Request::append("/files/d/f", &large[..MEBIBYTE - 1]),
    ] {
        let answer = server.send(&request);
        assert_eq!(answer.api_error(), expected, "{} {:?}", request.method, request.headers);
        eventually("no temporary file stays", || temporaries(root).is_empty().then_some(()));
        assert!(server.get("/files/d/f").body == old, "the old content is changed");
        assert_eq!(tree(root).len(), 2, "{:?}", tree(root).iter().map(|(path, _)| path).collect::<Vec<_>>());
    }
    // A tag that is not the file's any more would make its owner lose a race that nobody else has won.
    let tag = server.get("/files/d/f").tag().to_owned();
    assert_eq!(server.send(&Request::put("/files/d/f", "new").header("if-match", &tag)).status, 204);
    assert_eq!(server.send(&Request::append("/files/d/f", " and more")).status, 204);
    assert_eq!(server.get("/files/d/f").body, b"new and more");
}

#[test]
fn a_file_that_may_not_become_larger_stays_as_it_was() {
    if common::without_a_mount() {
        // The limit is one of this process, and another one writes the file.
        return;
    }
    let world = World::new(1);
    // Blocks of 512 bytes; and the signal that comes with it is not to end the process.
    let command = after("trap '' XFSZ; ulimit -f 2048", &world.command(&[]));
    let server = Server::start(command);
    refuses_what_has_no_room(&server, &world.root(), "413 TooLarge");
}

#[test]
fn a_full_file_system_loses_nothing() {
    if common::without_a_mount() {
        // What this process mounts is not what the server has.
        return;
    }
    let world = World::new(1);
    // A small file system that nobody else sees, and that ends with the process.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "true"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: this machine lets nobody mount anything");
        return;
    }
    let inner =
        after(&format!("mount -t tmpfs -o size=1m none '{}' || exit 9", world.root().display()), &world.command(&[]));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start(command);
    let root = PathBuf::from(format!("/proc/{}/root{}", server.id(), world.root().display()));
    refuses_what_has_no_room(&server, &root, "507 NoSpace");
    // Small ones, until it is full to the last page.
    let mut stored = Vec::new();
    let refused = loop {
        let number = stored.len() as u8;
        let answer = server.put(&format!("/files/many/{number}"), content(number, 50_000));
        if answer.status != 201 {
            break answer;
        }
        stored.push(number);
        assert!(stored.len() < 100, "it is never full");
    };
    assert_eq!(refused.api_error(), "507 NoSpace");
    assert_eq!(server.send(&Request::append("/files/many/0", vec![0; 60_000])).api_error(), "507 NoSpace");
    assert_eq!(server.put("/files/many/0", content(9, 60_000)).api_error(), "507 NoSpace");
    for number in &stored {
        assert!(server.get(&format!("/files/many/{number}")).body == content(*number, 50_000), "{number} is changed");
    }
    eventually("no temporary file stays", || temporaries(&root).is_empty().then_some(()));
    assert_eq!(server.send(&Request::new("DELETE", "/files/many/0")).status, 204);
    assert_eq!(server.put("/files/many/new", content(9, 50_000)).status, 201);
}

// ---------------------------------------------------------------------------------------------------------------
// Lists of targets

#[test]
fn a_damaged_list_changes_nothing_and_a_good_one_is_used_at_once() {
    let world = World::new(2);
    let server = world.serve(&[("REFRESH_SECONDS", "0.2"), ("PROBE_SECONDS", "0.1")]);
    let ids = || {
        let targets = server.get("/targets").json();
        let targets = targets["targets"].as_array().unwrap().clone();
        targets.iter().map(|target| target["mount_target_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["fsmt-00000000", "fsmt-00000001", "fsmt-00000002"];
    let done = AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        // Nobody who uses the service notices anything of all this.
        let user = scope.spawn(|| {
            let mut client = server.client();
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let target = format!("/files/{}", number % 50);
                let put = client.put(&target, number.to_string());
                assert!(put.status < 300, "{put:?}");
                assert_eq!(client.get(&target).body, number.to_string().as_bytes());
                number += 1;
            }
            number
        });
        let checks = || {
            let good = list(2);
            let damaged = [
                String::new(),
                " ".to_owned(),
                "{".to_owned(),
                "[]".to_owned(),
                "null".to_owned(),
                "{\"mount_targets\":[]}".to_owned(),
                "{\"mount_targets\":[{}]}".to_owned(),
                good[..good.len() / 2].to_owned(),
                good.replace("127.0.0.3", "127.0.0.3000"),
                good.replace("fsmt-00000001", "fsmt-00000000"),
                good.replace("fsmt-00000001", ""),
                list(65),
            ];
            for text in &damaged {
                let before = server.metric("router_unreadable_lists_total");
                world.publish(text);
                // One may have been read before; the second has not.
                eventually("it is read", || {
                    (server.metric("router_unreadable_lists_total") >= before + 2.0).then_some(())
                });
                assert_eq!(ids(), all[..2], "{text:?}");
                world.publish(&good);
            }
            let before = server.metric("router_unreadable_lists_total");
            fs::remove_file(world.targets_file()).unwrap();
            eventually("it is missed", || {
                (server.metric("router_unreadable_lists_total") >= before + 2.0).then_some(())
            });
            assert_eq!(ids(), all[..2]);
            assert!(server.lines().iter().any(|line| line["level"] == "WARN"
                && line["message"].as_str().is_some_and(|text| text.contains("the one in use stays"))));

            world.publish(&list(3));
            let goes_to = |id: &str| {
                (0..50).any(|number| server.get(&format!("/route/{number}")).json()["target"]["mount_target_id"] == id)
            };
            eventually("the third one is used", || (ids() == all && goes_to(all[2])).then_some(()));
            let line =
                server.wait_for("of another list", |line| line["message"] == "another list of targets is in use");
            assert_eq!(line["targets"], 3);
            eventually("files go to it", || {
                let targets = server.get("/targets").json();
                (targets["targets"][2]["operations"].as_u64().unwrap() > 0).then_some(())
            });
            // The first one goes; the others keep what they have counted.
            let snapshot = server.get("/targets").json()["targets"][1]["operations"].as_u64().unwrap();
            let mut fewer: serde_json::Value = serde_json::from_str(&list(3)).unwrap();
            fewer["mount_targets"].as_array_mut().unwrap().remove(0);
            world.publish(&fewer.to_string());
            eventually("the first one is gone", || (ids() == all[1..]).then_some(()));
            assert!(!goes_to(all[0]) && goes_to(all[1]) && goes_to(all[2]));
            assert!(server.get("/targets").json()["targets"][0]["operations"].as_u64().unwrap() >= snapshot);
            assert_eq!(server.get("/targets").json()["targets"][0]["up"], json!(true));
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(checks));
        done.store(true, Ordering::Relaxed);
        assert!(user.join().unwrap() > 0);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
}
