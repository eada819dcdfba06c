//! A process that dies.

use super::common::MEBIBYTE;
use super::common::SMALL;
use super::common::World;
use super::common::answer;
use super::common::connect;
use super::common::content;
use super::common::eventually;
use super::common::temporaries;
use serde_json::json;
use std::fs;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::thread;
use std::time::Duration;

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
