//! Lists, tokens, routes, metrics and the access log.

use super::common::Client;
use super::common::MEBIBYTE;
use super::common::PATIENCE;
use super::common::Request;
use super::common::SMALL;
use super::common::Server;
use super::common::World;
use super::common::connect;
use super::common::content;
use super::common::eventually;
use super::common::list;
use super::common::temporaries;
use super::common::tree;
use super::model::{address, entries};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::process::Stdio;

#[test]
fn pages_of_every_size_give_each_entry_once() {
    let world = World::new(2);
    let server = world.serve(&[]);
    let mut client = server.client();
    let mut names = BTreeSet::new();
    fs::create_dir(world.root().join("d")).unwrap();
    for number in 0..40 {
        fs::write(world.root().join(format!("d/file {number}")), "").unwrap();
        fs::create_dir(world.root().join(format!("d/directory {number}"))).unwrap();
        // Hidden ones lie between the others, and must not make a page end early or a name come twice.
        fs::write(world.root().join(format!("d/.efs-router.{number}")), "").unwrap();
        names.extend([
            (format!("file {number}"), "file".to_owned()),
            (format!("directory {number}"), "directory".to_owned()),
        ]);
    }
    for limit in [None, Some(1), Some(2), Some(3), Some(7), Some(79), Some(80), Some(81), Some(10_000)] {
        let found = entries(&mut client, "/list/d", limit).unwrap();
        let found: Vec<_> = found.into_iter().map(|(name, kind, _)| (name, kind)).collect();
        assert_eq!(found.len(), names.len(), "{limit:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), names, "{limit:?}");
    }
    // What goes and comes meanwhile changes nothing for the others.
    let page = client.get("/list/d?limit=20").json();
    let first: BTreeSet<_> =
        page["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    for name in &first {
        let _ = fs::remove_file(world.root().join("d").join(name));
        let _ = fs::remove_dir(world.root().join("d").join(name));
    }
    let place = page["next"].as_str().unwrap();
    let rest = client.get(&format!("/list/d?from={place}")).json();
    let rest: Vec<_> =
        rest["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rest.len(), names.len() - first.len());
    assert!(rest.iter().all(|name| !first.contains(name)), "an entry twice");
}

#[test]
fn names_of_any_bytes_come_back_by_their_addresses() {
    let world = World::new(2);
    let server = world.serve(&[]);
    let mut client = server.client();
    let names: [&[u8]; 20] = [
        b"plain",
        b"with space",
        b"100%",
        b"%2e%2e",
        b"%2F",
        b"a?b",
        b"a#b",
        b"a;b=c",
        b"back\\slash",
        b"\"quoted\"",
        b"new\nline",
        b"tab\t",
        b"\x01\x7f",
        b"...",
        b"-rf",
        b"a&b+c",
        "ünïcode 文件 🗄".as_bytes(),
        b"not \xff UTF-8 \xc3",
        b"<script>",
        b"{a}|[b]^`~",
    ];
    for (number, name) in names.iter().enumerate() {
        let path = world.root().join("odd").join(OsStr::from_bytes(name));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), number.to_string()).unwrap();
    }
    // As somebody walks: only by the addresses that lists give.
    let directories = entries(&mut client, "/list/odd", Some(3)).unwrap();
    assert_eq!(directories.len(), names.len());
    let mut found = BTreeSet::new();
    for (name, kind, href) in directories {
        let href = href.unwrap();
        assert_eq!(kind, "directory");
        assert!(href.is_ascii() && !href.contains([' ', '?', '#', '"', '<', '\n']), "{href:?}");
        let [(inner, _, file)] = &entries(&mut client, &href, None).unwrap()[..] else { panic!("{name:?}") };
        let file = file.as_deref().unwrap();
        let got = client.get(file);
        assert_eq!(got.status, 200, "{file}");
        let number: usize = String::from_utf8(got.body.clone()).unwrap().parse().unwrap();
        assert_eq!((inner, &name), (&String::from_utf8_lossy(names[number]).into_owned(), inner));
        let decoded: Vec<u8> = percent_decode_str(file.strip_prefix("/files/odd/").unwrap()).collect();
        assert_eq!(decoded, [names[number], names[number]].join(&b'/'));
        // The same address takes a new content, and gives it up.
        assert_eq!(client.put(file, "new").status, 204, "{file}");
        assert_eq!(client.get(file).body, b"new");
        assert_eq!(client.send(&Request::new("DELETE", file)).status, 204);
        found.insert(number);
    }
    assert_eq!(found.len(), names.len());
}

#[test]
fn a_list_tells_kinds_and_refuses_what_is_none() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let at = |name: &str| world.root().join(name);
    fs::create_dir(at("d")).unwrap();
    for name in ["d/file", "d/.hidden", "d/.efs-router.1.2", "d/.efs-router"] {
        fs::write(at(name), "").unwrap();
    }
    fs::create_dir(at("d/below")).unwrap();
    symlink("file", at("d/link")).unwrap();
    let mut client = server.client();
    let mut found = entries(&mut client, "/list/d", None).unwrap();
    found.sort();
    let expected = [
        (".efs-router", "file", Some("/files/d/.efs-router")),
        (".hidden", "file", Some("/files/d/.hidden")),
        ("below", "directory", Some("/list/d/below")),
        ("file", "file", Some("/files/d/file")),
        ("link", "other", None),
    ];
    let expected = expected.map(|(name, kind, href)| (name.to_owned(), kind.to_owned(), href.map(str::to_owned)));
    assert_eq!(found, expected);
    for root in ["/list", "/list/"] {
        assert_eq!(
            entries(&mut client, root, None).unwrap(),
            [("d".to_owned(), "directory".to_owned(), Some("/list/d".to_owned()))]
        );
    }
    assert_eq!(client.get("/list/d/").status, 200);
    assert_eq!(entries(&mut client, "/list/d/below", None).unwrap(), []);
    for (target, api_error) in [
        ("/list/d?limit=0", "400 BadQuery"),
        ("/list/d?limit=10001", "400 BadQuery"),
        ("/list/d?limit=-1", "400 BadQuery"),
        ("/list/d?limit=x", "400 BadQuery"),
        ("/list/d?limit=", "400 BadQuery"),
        ("/list/d?limit=99999999999999999999", "400 BadQuery"),
        ("/list/d?from=x", "400 BadQuery"),
        ("/list/d?from=-1", "400 BadQuery"),
        ("/list/d?from=99999999999999999999", "400 BadQuery"),
        ("/list/d?from=18446744073709551615", "400 BadCursor"),
        ("/list/nothing", "404 NotFound"),
        ("/list/d/nothing/below", "404 NotFound"),
        ("/list/d/file", "409 NotADirectory"),
        ("/list/d/file/below", "409 NotADirectory"),
        ("/list/d/link", "403 LinkInPath"),
    ] {
        assert_eq!(client.get(target).api_error(), api_error, "{target}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Tokens

#[test]
fn without_the_token_there_is_nothing_but_health() {
    const TOKEN: &str = "0123456789abcdefghijklmnopqrstuv";
    let world = World::new(2);
    let server = world.serve(&[("AUTH_TOKEN", TOKEN), ("ACCESS_LOG", "1"), ("LOG_LEVEL", "trace")]);
    let good = format!("Bearer {TOKEN}");
    let with = |request: Request| request.header("authorization", &good);
    assert_eq!(server.send(&with(Request::put("/files/f", "secret"))).status, 201);
    let wrong = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {}", "x".repeat(TOKEN.len()))),
        Some(format!("Bearer {}", &TOKEN[..TOKEN.len() - 1])),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {TOKEN} {TOKEN}")),
        Some(format!("Bearer {TOKEN}, Bearer x")),
        Some(format!("Bearer {}", TOKEN.to_uppercase())),
        Some(format!("Bearer {}w", &TOKEN[..TOKEN.len() - 1])),
    ];
    let requests = [
        Request::get("/files/f"),
        Request::new("HEAD", "/files/f"),
        Request::put("/files/f", "changed"),
        Request::put("/files/f", vec![0; SMALL + 1]).chunked(100_000),
        Request::append("/files/f", "changed"),
        Request::new("DELETE", "/files/f"),
        Request::new("PATCH", "/files/f"),
        Request::new("OPTIONS", "/files/f"),
        Request::get("/files/.."),
        Request::get(&format!("/files/f?token={TOKEN}")),
        Request::get("/list"),
        Request::get("/list/"),
        Request::get("/list/f"),
        Request::get("/route/f"),
        Request::get("/targets"),
        Request::get("/metrics"),
        Request::get("/events"),
        Request::get("/openapi.json"),
        Request::get("/nothing"),
        Request::get("//healthz"),
        Request::get("/healthz/"),
        Request::get("/healthz/../metrics"),
        Request::get("/%68ealthz"),
    ];
    for header in &wrong {
        for request in &requests {
            let request = match header {
                Some(header) => request.clone().header("authorization", header),
                None => request.clone(),
            };
            let answer = server.send(&request);
            assert_eq!(answer.status, 401, "{} {} with {header:?}", request.method, request.target);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(request.method == "HEAD" || answer.code() == "NoToken");
        }
        for open in ["/healthz", "/readyz"] {
            let request = Request::get(open);
            let request = header.iter().fold(request, |request, header| request.header("authorization", header));
            assert_eq!(server.send(&request).status, 200);
        }
    }
    // The name of the scheme is written as anybody likes.
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = Request::get("/files/f").header("authorization", &format!("{scheme} {TOKEN}"));
        assert_eq!(server.send(&request).status, 200, "{scheme}");
    }
    let got = server.send(&with(Request::get("/files/f")));
    assert_eq!((got.status, &*got.body), (200, &b"secret"[..]));
    for target in ["/list", "/route/f", "/targets", "/metrics"] {
        assert_eq!(server.send(&with(Request::get(target))).status, 200, "{target}");
    }
    assert_eq!(server.send(&with(Request::get("/nothing"))).status, 404);
    let log = server.lines();
    assert!(!log.iter().any(|line| line.to_string().contains(TOKEN)), "the token is in the log");
}

#[test]
fn an_address_that_others_reach_is_not_served_without_a_token() {
    let world = World::new(1);
    // Nobody listens meanwhile: it ends before.
    let output = world.command(&[("LISTEN", "0.0.0.0:0")]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stdout).unwrap();
    let [line] = &log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()[..] else {
        panic!("{log}")
    };
    assert_eq!((&line["level"], &line["code"]), (&json!("ERROR"), &json!("InvalidConfiguration")));
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("AUTH_TOKEN") && error.contains("AUTH=none"), "{error}");
    // A loopback address needs none; one that is set is asked for, unless that is taken back.
    let open = world.serve(&[("AUTH_TOKEN", "0123456789abcdef"), ("AUTH", "none")]);
    assert_eq!(open.get("/targets").status, 200);
}

// ---------------------------------------------------------------------------------------------------------------
// Where paths go, and what is told of it

#[test]
fn a_route_is_told_as_it_is_taken_and_nothing_is_touched() {
    let world = World::new(3);
    let paths: Vec<_> = (0..60).map(|number| format!("user {number}/ünï/{}", number * 7)).collect();
    let mut chosen = Vec::new();
    for strategy in ["rendezvous", "sha256-modulo"] {
        let server = world.serve(&[("ROUTE_STRATEGY", strategy)]);
        let mut client = server.client();
        // The service is ready with the first target that answers.
        eventually("every target is up", || {
            let targets = client.get("/targets").json();
            targets["targets"].as_array()?.iter().all(|target| target["up"] == true).then_some(())
        });
        let told: Vec<_> = paths.iter().map(|path| client.get(&address("/route/", path)).json()).collect();
        assert_eq!(server.metric("router_operations_total"), 0.0, "an operation was done");
        assert_eq!(tree(&world.root()), [], "something was made");
        for (path, told) in paths.iter().zip(&told) {
            assert_eq!((&told["path"], &told["strategy"]), (&json!(path), &json!(strategy)));
            let order: BTreeSet<_> = told["order"]
                .as_array()
                .unwrap()
                .iter()
                .map(|target| target["mount_target_id"].as_str().unwrap())
                .collect();
            assert_eq!((order.len(), &told["order"][0]), (3, &told["target"]));
            let target = address("/files/", path);
            let put = client.put(&target, "x");
            assert_eq!(put.status, 201);
            for answer in [
                put,
                client.get(&target),
                client.send(&Request::new("HEAD", &target)),
                client.send(&Request::new("DELETE", &target)),
            ] {
                assert_eq!(answer.header("x-mount-target"), told["target"]["mount_target_id"].as_str(), "{path}");
            }
        }
        for entry in fs::read_dir(world.root()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
        command.args(["route", "--strategy", strategy, "--targets-file"]).arg(world.targets_file()).args(&paths);
        let output = command.env_clear().output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let ids: Vec<Value> =
            serde_json::from_str::<Value>(&list(3)).unwrap()["mount_targets"].as_array().unwrap().clone();
        for ((line, path), told) in text.lines().zip(&paths).zip(&told) {
            let [index, id, said] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert_eq!((Some(id), said), (told["target"]["mount_target_id"].as_str(), &**path));
            assert_eq!(ids[index.parse::<usize>().unwrap()]["mount_target_id"], id);
        }
        let ids: Vec<_> =
            told.iter().map(|told| told["target"]["mount_target_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3, "one target has nothing");
        chosen.push(ids);
    }
    assert_ne!(chosen[0], chosen[1], "both strategies choose the same");
}

#[test]
fn shares_add_up_and_the_metrics_are_in_the_format_they_say() {
    let world = World::new(3);
    let server = world.serve(&[]);
    let mut client = server.client();
    let shares = |client: &mut Client, key: &str| {
        let targets = client.get("/targets").json();
        targets["targets"].as_array().unwrap().iter().map(|target| target[key].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for key in ["share_of_operations", "share_of_bytes"] {
        assert_eq!(shares(&mut client, key), [0.0; 3], "of nothing");
    }
    for number in 0..60 {
        assert_eq!(client.put(&format!("/files/{number}"), vec![0; 1000 * number]).status, 201);
        assert_eq!(client.get(&format!("/files/{number}")).status, 200);
    }
    for key in ["share_of_operations", "share_of_bytes"] {
        let shares = shares(&mut client, key);
        assert!(
            (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares.iter().all(|share| *share > 0.0),
            "{key}: {shares:?}"
        );
    }
    let targets = client.get("/targets").json();
    let sum = |key: &str| {
        targets["targets"].as_array().unwrap().iter().map(|target| target[key].as_f64().unwrap()).sum::<f64>()
    };
    let bytes = (0..60).map(|number| 1000.0 * f64::from(number)).sum::<f64>();
    assert_eq!((sum("bytes_read"), sum("bytes_written"), sum("operations")), (bytes, bytes, 120.0));

    let answer = client.get("/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let page = String::from_utf8(answer.body).unwrap();
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    let mut seen = BTreeSet::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&words[0]), "{line}");
            if words[0] == "TYPE" {
                assert_eq!(known.insert(words[1].to_owned(), words[2].to_owned()), None, "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {line}");
        let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
        assert!(
            name.starts_with("router_") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{line}"
        );
        for label in labels.iter().flat_map(|labels| labels.strip_suffix('}').unwrap().split(',')) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(
                ["target", "le"].contains(&key) && value.len() > 2 && value.starts_with('"') && value.ends_with('"'),
                "{line}"
            );
        }
        let declared = ["", "_total", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| Some((known.get(name.strip_suffix(suffix)?)?, *suffix)));
        let declared: Vec<_> = declared.map(|(kind, suffix)| (kind.as_str(), suffix)).collect();
        let allowed = [
            ("counter", "_total"),
            ("gauge", ""),
            ("histogram", "_bucket"),
            ("histogram", "_sum"),
            ("histogram", "_count"),
        ];
        assert!(declared.iter().any(|declared| allowed.contains(declared)), "{line}: {declared:?}");
    }
    assert!(["counter", "gauge", "histogram"].iter().all(|kind| known.values().any(|known| known == kind)));
    assert_eq!((server.metric("router_operations_total"), server.metric("router_written_bytes_total")), (120.0, bytes));
    assert_eq!((server.metric("router_operation_seconds_count"), server.metric("router_target_up")), (120.0, 3.0));
}

/// The format asks for a bucket without a bound; of a histogram that has none, Prometheus tells no quantile.
#[test]
fn the_last_bucket_of_a_histogram_has_no_bound() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for number in 0..5 {
        server.put(&format!("/files/{number}"), "x");
    }
    let page = String::from_utf8(server.get("/metrics").body).unwrap();
    let buckets: Vec<_> = page.lines().filter(|line| line.starts_with("router_operation_seconds_bucket{")).collect();
    let counts: Vec<u64> = buckets.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    // Each holds those of the smaller ones too.
    assert!(counts.is_sorted() && counts.last() == Some(&5), "{buckets:#?}");
    assert!(buckets.last().unwrap().contains("le=\"+Inf\""), "{buckets:#?}");
}

// ---------------------------------------------------------------------------------------------------------------
// The access log

#[test]
fn each_operation_on_a_file_is_a_line_of_the_access_log() {
    let world = World::new(2);
    let server = world.serve(&[("ACCESS_LOG", "1"), ("MAX_BODY_BYTES", "1000000")]);
    let mut client = server.client();
    let large = SMALL + 1000;
    let requests = [
        (Request::put("/files/d/a%20b", "hello"), "d/a b", 201, "Done", 5),
        (Request::get("/files/d/a%20b"), "d/a b", 200, "Done", 5),
        (Request::new("HEAD", "/files/d/a%20b"), "d/a b", 200, "Done", 0),
        (Request::get("/files/d/a%20b").header("range", "bytes=1-2"), "d/a b", 206, "Done", 2),
        (Request::get("/files/d/a%20b").header("range", "bytes=9-"), "d/a b", 416, "Done", 0),
        (Request::get("/files/d/a%20b").header("if-none-match", "*"), "d/a b", 304, "Done", 0),
        (Request::append("/files/d/a%20b", " world"), "d/a b", 204, "Done", 6),
        (Request::put("/files/large", content(1, large)), "large", 201, "Done", large),
        (Request::put("/files/large", content(2, large)).chunked(9999), "large", 204, "Done", large),
        (Request::get("/files/large"), "large", 200, "Done", large),
        (Request::put("/files/empty", ""), "empty", 201, "Done", 0),
        (Request::get("/files/empty"), "empty", 200, "Done", 0),
        (Request::get("/files/nothing"), "nothing", 404, "NotFound", 0),
        (Request::get("/files/d"), "d", 409, "IsADirectory", 0),
        (Request::put("/files/d/a%20b", "x").header("if-none-match", "*"), "d/a b", 412, "PreconditionFailed", 1),
        (Request::put("/files/large", vec![0; 1_000_001]), "large", 413, "TooLarge", 0),
        (Request::new("DELETE", "/files/large"), "large", 204, "Done", 0),
        (Request::new("DELETE", "/files/large"), "large", 404, "NotFound", 0),
    ];
    let files =
        |server: &Server| server.lines().into_iter().filter(|line| line["message"] == "file").collect::<Vec<_>>();
    for (number, (request, path, status, outcome, bytes)) in requests.iter().enumerate() {
        let answer = client.send(request);
        assert_eq!(answer.status, *status, "{} {}", request.method, request.target);
        let line = eventually("the line of an operation", || files(&server).get(number).cloned());
        assert_eq!(
            (&line["level"], &line["method"], &line["path"]),
            (&json!("INFO"), &json!(request.method), &json!(path))
        );
        assert_eq!(
            (&line["status"], &line["outcome"], &line["bytes"]),
            (&json!(status), &json!(outcome), &json!(bytes)),
            "{line}"
        );
        assert!(
            line["seconds"].as_f64().is_some_and(|seconds| (0.0..PATIENCE.as_secs_f64()).contains(&seconds)),
            "{line}"
        );
        assert!(line["target_id"].is_string(), "{line}");
        if let Some(target) = answer.header("x-mount-target") {
            assert_eq!(line["target_id"], target);
        }
    }
    client.get("/list/d");
    client.get("/targets");
    client.get("/files/..");
    assert_eq!(files(&server).len(), requests.len(), "what is no operation on a file is logged as one");
}

#[test]
fn a_client_that_goes_away_half_way_is_logged_as_one() {
    let world = World::new(1);
    let server = world.serve(&[("ACCESS_LOG", "1")]);
    let size = 64 * MEBIBYTE;
    fs::write(world.root().join("large"), vec![7; size]).unwrap();
    let mut stream = connect(server.address);
    stream.write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut some = vec![0; MEBIBYTE];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    let line = server.wait_for("of the GET", |line| line["message"] == "file" && line["method"] == "GET");
    assert_eq!((&line["outcome"], &line["status"], &line["path"]), (&json!("Aborted"), &json!(200), &json!("large")));
    let bytes = line["bytes"].as_u64().unwrap() as usize;
    assert!((MEBIBYTE - 1000..size).contains(&bytes), "{line}");
    // Of a content that did not come whole nothing stays, and the log says so too.
    let mut stream = connect(server.address);
    stream.write_all(b"PUT /files/new HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    stream.write_all(&[0; 300_000]).unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
    drop(stream);
    let line = server.wait_for("of the PUT", |line| line["message"] == "file" && line["method"] == "PUT");
    assert!(["Aborted", "IncompleteBody"].contains(&line["outcome"].as_str().unwrap()), "{line}");
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    assert_eq!(server.get("/files/new").status, 404);
}
