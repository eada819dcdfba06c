//! How the service starts, and what makes it refuse to. Each test runs the program.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod service;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use service::{Place, Service, TARGETS, address, id, list, order, some_paths, zone};

/// A path goes to the first of its targets that works.
fn expected(path: &str, works: &[usize]) -> usize {
    order(path).into_iter().find(|target| works.contains(target)).unwrap()
}

fn serves(service: &Service, works: &[usize]) {
    let mut client = service.client();
    for path in some_paths(30) {
        let file = format!("/files/{path}");
        let written = client.send("PUT", &file, path.as_bytes());
        assert!(written.is_done(), "{written:?}");
        let read = client.send("GET", &file, b"");
        assert_eq!((read.status, &read.body[..]), (200, path.as_bytes()));
        let expected = expected(&path, works);
        assert_eq!((written.target(), read.target()), (expected, expected), "{path}");

        let told = client.send("GET", &format!("/route/{path}"), b"").json();
        let told_order: Vec<_> =
            told["order"].as_array().unwrap().iter().map(|each| &each["mount_target_id"]).collect();
        assert_eq!(
            told_order,
            order(&path).iter().map(|each| json!(id(*each))).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
        for each in told["order"].as_array().unwrap() {
            assert_eq!(each["up"], works.iter().any(|target| each["mount_target_id"] == id(*target)), "{each}");
        }
        assert_eq!(told["target"]["mount_target_id"], id(expected));
    }
}

#[test]
fn any_targets_that_are_there_are_enough_and_the_paths_of_the_others_go_to_their_next_choice() {
    for subset in 1..1 << TARGETS {
        let present: Vec<_> = (0..TARGETS).filter(|target| subset >> target & 1 == 1).collect();
        let place = Place::with(&present);
        let service = place.serve(&[("SYNC", "never")]);
        serves(&service, &present);
        assert_eq!(service.send("GET", "/readyz", b"").status, 200);
    }
}

#[test]
fn without_any_target_it_ends_at_once_and_says_why_of_each() {
    let place = Place::with(&[]);
    // Not there; a file; a link to nowhere.
    fs::write(place.target(1), "").unwrap();
    std::os::unix::fs::symlink("nowhere", place.target(2)).unwrap();
    let began = Instant::now();
    let mut service = place.begin(&[]);
    let failure = service.wait_for_failure();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(failure["code"], "NoTarget");
    let err = failure["error"].as_str().unwrap();
    for target in 0..TARGETS {
        let named = format!("{} ({}): ", id(target), address(target));
        let (_, err) = err.split_once(&named).unwrap_or_else(|| panic!("{named} is not in {err}"));
        assert!(err.starts_with(|first: char| first.is_alphabetic()), "{err}");
    }
}

#[test]
fn a_target_that_comes_gets_its_paths_and_one_that_goes_gives_them_up_and_no_other_path_moves() {
    let place = Place::with(&[0, 1]);
    let service = place.serve(&[("SYNC", "never")]);
    serves(&service, &[0, 1]);

    let said = service.said();
    place.add(2);
    service.wait_for_target(said, 2, true);
    serves(&service, &[0, 1, 2]);

    let said = service.said();
    place.remove(0);
    let left_out = service.wait_for_target(said, 0, false);
    assert_eq!((&left_out["level"], &left_out["address"]), (&json!("WARN"), &json!(address(0))));
    assert!(!left_out["error"].as_str().unwrap().is_empty());
    serves(&service, &[1, 2]);

    let said = service.said();
    place.add(0);
    service.wait_for_target(said, 0, true);
    serves(&service, &[0, 1, 2]);
}

#[test]
fn one_failed_probe_leaves_no_target_out() {
    let place = Place::with(&[0, 1, 2]);
    let service = place.serve(&[("PROBE_SECONDS", "0.5")]);
    place.remove(1);
    let until = Instant::now() + service::SOON;
    let mut failed_once = false;
    loop {
        let target = service.target(1);
        if target["up"] == json!(false) {
            break;
        }
        failed_once |= !target["error"].is_null();
        assert!(Instant::now() < until, "it is never left out");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(failed_once, "the first failed probe has left it out");
}

#[test]
fn when_no_target_works_any_more_requests_are_told_so_and_it_goes_on() {
    let place = Place::with(&[0]);
    let service = place.serve(&[]);
    assert!(service.put("file", b"content").is_done());
    let said = service.said();
    place.remove(0);
    service.wait_for_target(said, 0, false);
    for answer in [service.get("file"), service.put("file", b"other"), service.send("GET", "/list", b"")] {
        assert_eq!((answer.status, answer.code().as_str()), (503, "NoTarget"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(service.send("GET", "/readyz", b"").status, 503);
    // It is alive: to start it anew would mend nothing.
    assert_eq!(service.send("GET", "/healthz", b"").status, 200);
    place.add(0);
    service.wait_for_target(said, 0, true);
    assert_eq!(service.get("file").body, b"content");
    assert_eq!(service.send("GET", "/readyz", b"").status, 200);
}

#[test]
fn when_the_file_with_the_list_is_no_good_the_given_list_is_used() {
    let empty = r#"{"mount_targets":[]}"#;
    let cut = &list()[..list().len() - 3];
    let twice = list().replace(&id(1), &id(0));
    let damaged: [(&str, Option<&[u8]>, &str); 6] = [
        ("it is not there", None, "No such file"),
        ("nothing", Some(b""), "not a JSON object"),
        ("cut off", Some(cut.as_bytes()), "not a JSON object"),
        ("no target", Some(empty.as_bytes()), "`mount_targets` is empty"),
        ("a target twice", Some(twice.as_bytes()), "is there twice"),
        ("no text", Some(b"\xff\xfe"), "UTF-8"),
    ];
    let place = Place::with(&[0, 1, 2]);
    let file = place.path("targets.json");
    for (what, content, err) in damaged {
        let _ = fs::remove_file(&file);
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let service = place.serve(&[("DEFAULT_MOUNT_TARGETS", &list())]);
        let warned = service.wait_for_message(0, "a source gave no list of targets");
        let said = warned["error"].as_str().unwrap();
        assert_eq!(warned["level"], "WARN", "{what}");
        assert!(said.contains(file.to_str().unwrap()) && said.contains(err), "{what}: {said}");
        assert_eq!(service.wait_for_message(0, "the list of targets is read")["source"], "the given list", "{what}");
        assert!(service.put("file", b"content").is_done(), "{what}");

        // And without one it ends, and says where it has looked.
        let failure = place.begin(&[]).wait_for_failure();
        let said = failure["error"].as_str().unwrap();
        assert_eq!(failure["code"], "NoList", "{what}");
        assert!(said.contains(file.to_str().unwrap()) && said.contains(err), "{what}: {said}");
        assert!(said.contains("DEFAULT_MOUNT_TARGETS"), "{what}: {said}");
    }
    // A file that is good is what counts.
    fs::write(&file, list()).unwrap();
    let other = list().replace("fsmt-", "fsmt-f");
    let service = place.serve(&[("DEFAULT_MOUNT_TARGETS", &other)]);
    serves(&service, &[0, 1, 2]);
}

#[test]
fn a_missing_or_bad_variable_ends_it_and_is_named() {
    let place = Place::with(&[0, 1, 2]);
    let many = format!(r#"{{"mount_targets":{}}}"#, "[".repeat(2000));
    for (name, value, others) in [
        ("ROUTE_STRATEGY", "random", &[][..]),
        ("ROUTE_LOCAL_ZONE_WEIGHT", "0.5", &[]),
        ("ROUTE_LOCAL_ZONE_WEIGHT", "2", &[("ROUTE_STRATEGY", "sha256-modulo")]),
        ("BACKEND", "nfs4", &[]),
        ("MOUNT", "nfs", &[]),
        ("MOUNT_BASE", "mnt", &[]),
        ("MOUNT_OPTIONS", "-o ro", &[]),
        ("REQUIRE_SEPARATE_MOUNTS", "yes", &[]),
        ("SYNC", "sometimes", &[]),
        ("READ_AT_ONCE", "1", &[]),
        ("THREADS_PER_TARGET", "0", &[]),
        ("THREADS_PER_TARGET", "1025", &[]),
        ("QUEUE_PER_TARGET", "-1", &[]),
        ("DEADLINE_SECONDS", "0", &[]),
        ("DEADLINE_SECONDS", "inf", &[]),
        ("FILE_MODE", "0888", &[]),
        ("FILE_MODE", "0440", &[]),
        ("FILE_MODE", "04755", &[]),
        ("FILE_MODE", "+644", &[]),
        ("FILE_MODE", "rw-r--r--", &[]),
        ("DIRECTORY_MODE", "0644", &[]),
        ("DIRECTORY_MODE", "2775", &[]),
        ("DIRECTORY_MODE", "00755", &[]),
        ("PROBE_SECONDS", "NaN", &[]),
        ("SWEEP_SECONDS", "1e300", &[]),
        ("ORPHAN_SECONDS", "0", &[]),
        ("REFRESH_SECONDS", "soon", &[]),
        ("LISTEN", "localhost:80", &[]),
        ("LISTEN", "127.0.0.1", &[]),
        ("AUTH", "no", &[]),
        ("AUTH_TOKEN", "too short", &[]),
        ("WORKERS", "257", &[]),
        ("MAX_BODY_BYTES", "1 GB", &[]),
        ("MAX_CONNECTIONS", "0", &[]),
        ("IDLE_SECONDS", "0", &[]),
        ("SHUTDOWN_SECONDS", "-0.1", &[]),
        ("ACCESS_LOG", "all", &[]),
        ("METRICS", "prometheus", &[]),
        ("LOG_LEVEL", "loud", &[]),
        ("EFS_FILE_SYSTEM_ID", "fs-1", &[]),
        #[cfg(feature = "aws")]
        ("SSM_PARAMETER_NAME", "no/slash", &[]),
        ("DEFAULT_MOUNT_TARGETS", "[]", &[]),
        ("DEFAULT_MOUNT_TARGETS", &many, &[]),
    ] {
        let failure = place.begin(&[&[(name, value)], others].concat()).wait_for_failure();
        let err = failure["error"].as_str().unwrap();
        assert_eq!(failure["code"], "InvalidConfiguration", "{name}={value}");
        assert!(err.starts_with(&format!("{name} is ")) && err.contains(": expected "), "{name}={value}: {err}");
        assert!(name != "AUTH_TOKEN" || !err.contains(value), "a secret in the log: {err}");
    }
    for (name, others) in [("EFS_FILE_SYSTEM_ID", ("MOUNT", "efs")), ("AUTH_TOKEN", ("LISTEN", "0.0.0.0:0"))] {
        let failure = place.begin(&[others]).wait_for_failure();
        let err = failure["error"].as_str().unwrap();
        assert_eq!(failure["code"], "InvalidConfiguration", "{name}");
        assert!(err.starts_with(&format!("{name} is missing: expected ")), "{err}");
    }
}

#[test]
fn a_port_that_is_taken_ends_it_and_is_named() {
    let place = Place::with(&[0]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failure = place.begin(&[("LISTEN", &address)]).wait_for_failure();
    let err = failure["error"].as_str().unwrap();
    assert_eq!(failure["code"], "CannotListen");
    assert!(err.starts_with(&format!("LISTEN {address}: ")) && err.contains("in use"), "{err}");
}

/// Stands for what ECS tells a task of itself; answers every request with the same text.
fn metadata(status: &'static str, text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/v4/0123456789", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "half a request");
                request.extend_from_slice(&piece[..length]);
            }
            assert!(request.starts_with(b"GET /v4/0123456789/task HTTP/1.1\r\n"), "{}", request.escape_ascii());
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).unwrap();
        }
    });
    uri
}

#[test]
fn the_target_of_the_tasks_own_zone_is_preferred_as_much_as_asked_for() {
    let place = Place::with(&[0, 1, 2]);
    let from_ecs = metadata("200 OK", r#"{"Cluster":"here","AvailabilityZone":"ap-northeast-1c","Revision":"1"}"#);
    let own = |service: &Service| {
        let mut client = service.client();
        let mut to = |path: &String| client.send("GET", &format!("/route/{path}"), b"").json()["target"].clone();
        some_paths(400).iter().filter(|path| to(path)["mount_target_id"] == id(1)).count()
    };
    let plain = place.serve(&[("ECS_CONTAINER_METADATA_URI_V4", &from_ecs)]);
    assert!((100..170).contains(&own(&plain)), "a third: {}", own(&plain));
    let told_by_ecs = place.serve(&[("ROUTE_LOCAL_ZONE_WEIGHT", "8"), ("ECS_CONTAINER_METADATA_URI_V4", &from_ecs)]);
    assert!((300..340).contains(&own(&told_by_ecs)), "eight tenths: {}", own(&told_by_ecs));
    // What a person says counts more.
    let zone = zone(0);
    let told = [
        ("ROUTE_LOCAL_ZONE_WEIGHT", "8"),
        ("ECS_CONTAINER_METADATA_URI_V4", &from_ecs),
        ("AVAILABILITY_ZONE", zone.as_str()),
    ];
    assert!((20..60).contains(&own(&place.serve(&told))), "a tenth: {}", own(&place.serve(&told)));
    // When the target of the zone does not work, its paths go to the others.
    place.remove(1);
    let without = place.serve(&[("ROUTE_LOCAL_ZONE_WEIGHT", "8"), ("ECS_CONTAINER_METADATA_URI_V4", &from_ecs)]);
    assert_eq!(own(&without), 0);
    assert!(without.put("file", b"content").is_done());
}

#[test]
fn a_preference_without_a_zone_ends_it_and_names_the_variable() {
    let place = Place::with(&[0, 1, 2]);
    let weight = ("ROUTE_LOCAL_ZONE_WEIGHT", "8");
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let uri = "ECS_CONTAINER_METADATA_URI_V4";
    let no_zone = metadata("200 OK", "{}");
    let fails = metadata("500 No", "");
    for others in [&[][..], &[(uri, "nonsense")], &[(uri, &silent)], &[(uri, &no_zone)], &[(uri, &fails)]] {
        let began = Instant::now();
        let failure = place.begin(&[&[weight], others].concat()).wait_for_failure();
        let err = failure["error"].as_str().unwrap();
        assert_eq!(failure["code"], "InvalidConfiguration", "{others:?}");
        assert!(err.starts_with("AVAILABILITY_ZONE is missing"), "{others:?}: {err}");
        assert!(began.elapsed() < Duration::from_secs(5), "{others:?}: {:?}", began.elapsed());
    }
}
