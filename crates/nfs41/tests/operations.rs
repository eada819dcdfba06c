//! The effect of each operation on a real server, and its number of round trips.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{fs, sync::Arc};

use bytes::Bytes;
use common::{Lab, content, lab, lab_with, read_file};
use nfs41::{
    AttributeMask, Client, Create, DirCursor, Error, FileType, Options, Precondition, PutOptions, SetAttributes,
    Status, Time,
};

fn status(answer: Result<impl std::fmt::Debug, Error>) -> Status {
    let err = answer.expect_err("the server says no");
    err.status().unwrap_or_else(|| panic!("{err}"))
}

#[tokio::test]
async fn each_operation_takes_as_few_round_trips_as_it_says() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    client.create_dir(b"d", 0o755).await.unwrap();
    client.put(b"d/f", content(4096), PutOptions::default()).await.unwrap();
    let trips = || relay.counts().calls;
    macro_rules! trips {
        ($expected:expr, $what:expr) => {{
            let before = trips();
            let answer = $what.await.unwrap();
            assert_eq!(trips() - before, $expected, "{}", stringify!($what));
            answer
        }};
    }
    assert_eq!(trips!(1, client.attributes(b"d/f", AttributeMask::SIZE)).size, Some(4096));
    assert_eq!(trips!(1, client.read(b"d/f", 0, 65536)).data, content(4096));
    let absent = || PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
    trips!(1, client.put(b"d/g", content(4096), absent()));
    trips!(1, client.write_at(b"d/g", 1, content(10)));
    let modified = Some(Time { seconds: 5, nanoseconds: 7 });
    assert_eq!(
        trips!(1, client.put(b"d/f", content(9), PutOptions { time_modify: modified, ..PutOptions::default() }))
            .time_modify,
        modified
    );
    trips!(1, client.put(b"d/new", content(9), absent()));
    trips!(3, client.append(b"d/new", content(3), PutOptions::default()));
    trips!(1, client.rename(b"d/g", b"h"));
    trips!(1, client.link(b"h", b"i"));
    trips!(1, client.set_attributes(b"h", SetAttributes { size: Some(3), ..SetAttributes::default() }));
    assert_eq!(trips!(1, client.list(b"d", DirCursor::default(), AttributeMask::NONE, 1 << 20)).entries.len(), 2);
    trips!(1, client.remove_file(b"h"));
    assert_eq!(status(client.remove_file(b"d").await), Status::NOT_SAME);
    assert_eq!(trips!(1, client.access(b"i", 0x1)), 1);
    let names = |below: &str| {
        let mut names: Vec<_> =
            fs::read_dir(server.directory().join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!((names(""), names("d")), (vec!["d".into(), "i".into()], vec!["f".into(), "new".into()]));
    assert_eq!(fs::read(server.directory().join("d/new")).unwrap().len(), 12);
    client.close().await;
    assert!(matches!(client.remove(b"i").await, Err(Error::Closed)));
}

#[tokio::test]
async fn what_is_large_goes_in_pieces_and_comes_back_whole() {
    let Some(Lab { server, relay: _relay, client }) =
        lab_with(nfs_lab::Options::default(), |options| options.max_io_bytes = 64 << 10)
    else {
        return;
    };
    client.put(b"in place", Bytes::new(), PutOptions::default()).await.unwrap();
    for length in [0, 1, 4095, 65535, 65536, 65537, 1_000_003] {
        let name = format!("f{length}");
        client.put(name.as_bytes(), content(length), PutOptions::default()).await.unwrap();
        assert_eq!(fs::read(server.directory().join(&name)).unwrap(), content(length), "{length}");
        let read = read_file(&client, name.as_bytes(), 0, u64::MAX).await.unwrap();
        assert_eq!(read, content(length), "{length}");
        let part = read_file(&client, name.as_bytes(), 10, 100_000).await.unwrap();
        assert_eq!(part, content(length).get(10..length.min(100_010)).unwrap_or_default(), "{length}");
        client.write_at(b"in place", 3, content(length)).await.unwrap();
    }
    assert_eq!(fs::read(server.directory().join("in place")).unwrap()[3..], content(1_000_003));
}

#[tokio::test]
async fn a_server_that_takes_no_current_stateid_is_served_in_more_round_trips() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    client.disable_current_stateid();
    client.disable_anonymous_read();
    client.put(b"a", content(5000), PutOptions::default()).await.unwrap();
    client
        .put(b"b", content(50), PutOptions { precondition: Precondition::Absent, ..PutOptions::default() })
        .await
        .unwrap();
    let again =
        client.put(b"b", content(50), PutOptions { precondition: Precondition::Absent, ..PutOptions::default() }).await;
    assert!(matches!(again, Err(Error::ConditionFailed)), "{again:?}");
    client.write_at(b"a", 5000, content(3)).await.unwrap();
    assert_eq!(client.read(b"a", 4999, 10).await.unwrap().data.len(), 4);
    assert_eq!(fs::read(server.directory().join("a")).unwrap().len(), 5003);
    assert_eq!(fs::read_dir(server.directory()).unwrap().count(), 2, "no temporary file stays");
}

#[tokio::test]
async fn conditions_are_judged_and_nothing_stays_behind() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let when = |holds: fn(Option<&nfs41::Attributes>) -> bool| PutOptions {
        precondition: Precondition::If(Arc::new(holds)),
        ..PutOptions::default()
    };
    let refused = client.put(b"f", content(1), when(|found| found.is_some())).await;
    assert!(matches!(refused, Err(Error::ConditionFailed)), "{refused:?}");
    client.put(b"f", content(1), when(|found| found.is_none())).await.unwrap();
    client.put(b"f", content(2), when(|found| found.unwrap().size == Some(1))).await.unwrap();
    let refused = client.put(b"f", content(3), when(|found| found.unwrap().size == Some(1))).await;
    assert!(matches!(refused, Err(Error::ConditionFailed)), "{refused:?}");
    let refused = client.append(b"f", content(3), when(|_| false)).await;
    assert!(matches!(refused, Err(Error::ConditionFailed)), "{refused:?}");
    client.append(b"f", content(3), when(|found| found.unwrap().size == Some(2))).await.unwrap().unwrap();
    assert!(client.append(b"none", content(3), PutOptions::default()).await.unwrap().is_none());
    let refused = client.remove_if(b"f", when(|_| false)).await;
    assert!(matches!(refused, Err(Error::ConditionFailed)), "{refused:?}");
    assert_eq!(fs::read(server.directory().join("f")).unwrap(), [&content(2)[..], &content(3)].concat());
    client.remove_if(b"f", when(|_| true)).await.unwrap();
    assert_eq!(fs::read_dir(server.directory()).unwrap().count(), 0, "no name stays");
}

/// Each client increments a number in a file, by replacing the file if it has not changed since it was read.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_compare_and_replace_lose_nothing() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let other = Client::new(Options::new(server.address())).unwrap();
    client.put(b"count", "0".into(), PutOptions::default()).await.unwrap();
    let add = |client: Client| async move {
        let mut done = 0;
        while done < 40 {
            let found = client.read(b"count", 0, 100).await.unwrap();
            let next = std::str::from_utf8(&found.data).unwrap().parse::<u32>().unwrap() + 1;
            let id = found.attributes.fileid;
            let conditions = Precondition::If(Arc::new(move |found| found.is_some_and(|found| found.fileid == id)));
            // The inode can be reused, so the modification time is compared, too.
            let modified = found.attributes.time_modify;
            let conditions = match conditions {
                Precondition::If(same) => Precondition::If(Arc::new(move |found| {
                    same(found) && found.is_some_and(|found| found.time_modify == modified)
                })),
                other => other,
            };
            let mut unique = Time::from(std::time::SystemTime::now());
            unique.nanoseconds = unique.nanoseconds / 1000 * 1000 + next;
            let put = PutOptions { precondition: conditions, time_modify: Some(unique), ..PutOptions::default() };
            match client.put(b"count", next.to_string().into(), put).await {
                Ok(_) => done += 1,
                Err(Error::ConditionFailed) => {}
                Err(err) => panic!("{err}"),
            }
        }
    };
    let (one, two) = (tokio::spawn(add(client.clone())), tokio::spawn(add(other)));
    one.await.unwrap();
    two.await.unwrap();
    assert_eq!(fs::read(server.directory().join("count")).unwrap(), b"80");
    assert_eq!(fs::read_dir(server.directory()).unwrap().count(), 1, "no name stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_two_clients_are_all_there_and_whole() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let other = Client::new(Options::new(server.address())).unwrap();
    client.put(b"log", Bytes::new(), PutOptions::default()).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let client = if writer % 2 == 0 { client.clone() } else { other.clone() };
            tokio::spawn(async move {
                for number in 0..10 {
                    let line = format!("{writer} {number} {}\n", "x".repeat(writer * 100));
                    client.append(b"log", line.into(), PutOptions::default()).await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let log = fs::read_to_string(server.directory().join("log")).unwrap();
    let mut lines: Vec<_> = log.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = (0..8)
        .flat_map(|writer| (0..10).map(move |number| format!("{writer} {number} {}", "x".repeat(writer * 100))))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn links_are_not_followed_and_lead_nowhere_outside() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let root = server.directory();
    client.create_dir_all(b"a/b/c", 0o755).await.unwrap();
    client.put(b"a/b/c/f", content(3), PutOptions::default()).await.unwrap();
    for (target, name) in
        [("c/f", "a/b/file"), ("/a/b", "dir"), ("../../../../../a", "a/b/up"), ("loop", "loop"), ("/etc/passwd", "out")]
    {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    assert_eq!(client.attributes(b"out", AttributeMask::TYPE).await.unwrap().file_type, Some(FileType::Symlink));
    for path in [&b"dir/c/f"[..], b"a/b/file", b"out"] {
        let found = status(client.read(path, 0, 10).await);
        assert!(matches!(found, Status::SYMLINK | Status::NOTDIR | Status::INVAL), "{found}");
    }
}

#[tokio::test]
async fn a_path_of_many_components_goes_through() {
    let Some(Lab { server: _server, relay: _relay, client }) = lab() else { return };
    let deep = ["d"; 300].join("/");
    assert_eq!(client.create_dir_all(deep.as_bytes(), 0o755).await.unwrap(), 300);
    let file = format!("{deep}/f");
    for conditions in [Precondition::None, Precondition::If(Arc::new(|_| true))] {
        client
            .put(file.as_bytes(), content(100), PutOptions { precondition: conditions, ..PutOptions::default() })
            .await
            .unwrap();
    }
    assert_eq!(client.read(file.as_bytes(), 0, 100).await.unwrap().data, content(100));
    assert_eq!(
        client.list(deep.as_bytes(), DirCursor::default(), AttributeMask::TYPE, 4096).await.unwrap().entries.len(),
        1
    );
    client.remove(file.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_directory_is_listed_page_by_page_each_entry_once() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    for number in 0..1000 {
        fs::write(server.directory().join(format!("file {number}")), "").unwrap();
    }
    fs::create_dir(server.directory().join("directory")).unwrap();
    let (mut place, mut names, mut kinds) = (DirCursor::default(), Vec::new(), Vec::new());
    loop {
        let page = client.list(b"", place, AttributeMask::TYPE, 8192).await.unwrap();
        names.extend(page.entries.iter().map(|entry| entry.name.clone()));
        kinds.extend(page.entries.iter().map(|entry| entry.attributes.file_type));
        if page.eof {
            break;
        }
        place = page.cursor;
    }
    assert_eq!((names.len(), kinds.iter().filter(|kind| **kind == Some(FileType::Directory)).count()), (1001, 1));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 1001);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_said_with_its_name() {
    let Some(Lab { server: _server, relay: _relay, client }) = lab() else { return };
    client.create_dir(b"d", 0o755).await.unwrap();
    client.put(b"f", content(1), PutOptions::default()).await.unwrap();
    assert_eq!(status(client.attributes(b"none", AttributeMask::SIZE).await), Status::NOENT);
    assert_eq!(status(client.attributes(b"f/x", AttributeMask::SIZE).await), Status::NOTDIR);
    assert_eq!(status(client.read(b"d", 0, 1).await), Status::ISDIR);
    assert_eq!(status(client.create_dir(b"d", 0o755).await), Status::EXIST);
    assert_eq!(status(client.put(b"none/f", content(1), PutOptions::default()).await), Status::NOENT);
    assert!(matches!(status(client.put(b"d", content(1), PutOptions::default()).await), Status::ISDIR | Status::EXIST));
    client.put(b"d/x", content(1), PutOptions::default()).await.unwrap();
    assert_eq!(status(client.remove(b"d").await), Status::NOTEMPTY);
    client.open_file(b"x", Create::Guarded(0o644)).await.unwrap().close().await.unwrap();
    assert_eq!(status(client.open_file(b"x", Create::Guarded(0o644)).await), Status::EXIST);
    assert!(matches!(client.read(b"a/../b", 0, 1).await, Err(Error::BadPath(_))));
    let err: std::io::Error = client.remove(b"none").await.unwrap_err().into();
    assert_eq!((err.kind(), err.to_string().as_str()), (std::io::ErrorKind::NotFound, "REMOVE: NFS4ERR_NOENT"));
}

#[tokio::test]
async fn the_server_says_who_it_is_and_what_it_takes() {
    let Some(Lab { server: _server, relay: _relay, client }) =
        lab_with(nfs_lab::Options::default(), |options| options.connections = 2)
    else {
        return;
    };
    let servers = client.server_identities().await.unwrap();
    assert_eq!(servers.len(), 2);
    assert_eq!(servers[0], servers[1]);
    assert!(!servers[0].owner_major.is_empty());
    let allows = client.limits().await.unwrap();
    assert_eq!((allows.max_read_bytes, allows.max_write_bytes), (1 << 20, 1 << 20));
}

#[tokio::test]
async fn a_root_below_the_servers_keeps_everything_in_it() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    client.create_dir_all(b"tenants/one", 0o755).await.unwrap();
    let mut options = Options::new(server.address());
    options.root = b"/tenants/one".to_vec();
    let inside = Client::new(options).unwrap();
    inside.put(b"f", content(2), PutOptions::default()).await.unwrap();
    assert!(server.directory().join("tenants/one/f").is_file());
}

#[tokio::test]
async fn what_is_no_file_is_told_apart_and_left_alone() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let fifo = server.directory().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(client.attributes(b"fifo", AttributeMask::TYPE).await.unwrap().file_type, Some(FileType::Other));
    for asked in [Precondition::None, Precondition::If(Arc::new(|_| true))] {
        let added =
            client.append(b"fifo", content(1), PutOptions { precondition: asked, ..PutOptions::default() }).await;
        assert!(matches!(status(added), Status::SYMLINK | Status::WRONG_TYPE | Status::INVAL));
    }
    assert_eq!(
        status(
            client
                .put(
                    b"fifo",
                    content(1),
                    PutOptions { precondition: Precondition::RegularFile, ..PutOptions::default() }
                )
                .await
        ),
        Status::NOT_SAME
    );
    assert_eq!(fs::read_dir(server.directory()).unwrap().count(), 1);
}
