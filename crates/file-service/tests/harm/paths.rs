//! Paths that must not lead out of the root.

use super::OWN;
use super::SENTINEL;
use super::common::Answer;
use super::common::Request;
use super::common::SMALL;
use super::common::Server;
use super::common::World;
use super::common::connect;
use super::common::eventually;
use super::common::temporaries;
use super::common::tree;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

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
    if super::common::without_a_mount() {
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
