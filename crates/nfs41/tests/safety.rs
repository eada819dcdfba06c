//! What a client must never do: publish part of a file, execute a call after its caller got an error, append twice, or
//! leave files open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    Failing, Lab, WRITE, content, has, lab, lab_with, names, operations, read_file, relayed, set_word, until, word,
};
use nfs_lab::{Action, Direction, End, Ganesha, Relay, lab_or_skip};
use nfs41::{AttributeMask, Client, Error, Precondition, PutOptions, SetAttributes, Status, Time};
use tokio::task::JoinSet;

fn put(precondition: Precondition) -> PutOptions {
    PutOptions { precondition, time_modify: Some(Time { seconds: 7, nanoseconds: 7 }), ..PutOptions::default() }
}

fn always() -> Precondition {
    Precondition::If(Arc::new(|_| true))
}

/// Shortens every WRITE to this many bytes, which the server then reports as written.
fn shorten_writes(relay: &Relay, most: u32) -> Arc<AtomicUsize> {
    let shortened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shortened);
    relay.on_record(move |way, record| {
        if way == Direction::ToServer
            && let Some((_, at)) = operations(record).into_iter().find(|(operation, _)| *operation == WRITE)
        {
            // Stateid, offset and stability; then length and data.
            let length = at + 4 + 16 + 8 + 4;
            let given = word(record, length);
            if given > most {
                let end = |count: u32| length + 4 + count.next_multiple_of(4) as usize;
                record.drain(end(most)..end(given));
                set_word(record, length, most);
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Action::Pass
    });
    shortened
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_a_part_of_each_write_gets_the_rest_and_nothing_is_published_before() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    let file = |name: &str| fs::read(server.directory().join(name)).unwrap();
    for (name, precondition) in [
        ("none", Precondition::None),
        ("file", Precondition::RegularFile),
        ("new", Precondition::Absent),
        ("if", always()),
    ] {
        if name != "new" {
            client.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
        }
        let shortened = shorten_writes(&relay, 1000);
        let found = client.put(name.as_bytes(), content(5000), put(precondition)).await.unwrap();
        relay.pass_records();
        assert!(found.size == Some(5000) && file(name) == content(5000), "{name}");
        assert!(shortened.load(Ordering::Relaxed) >= 4, "{name}");
    }
    shorten_writes(&relay, 1000);
    let found = client.append(b"file", content(3500), put(Precondition::None)).await.unwrap().unwrap();
    assert_eq!(found.size, Some(8500));
    assert!(file("file") == [content(5000), content(3500)].concat());
    client.write_at(b"file", 2, content(3000)).await.unwrap();
    assert!(file("file")[2..3002] == content(3000));
    assert_eq!(names(server.directory()).len(), 4, "{:?}", names(server.directory()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_keeps_the_old_content_and_no_part_of_the_new_one() {
    let options = nfs_lab::Options { size: Some(600 << 10), ..nfs_lab::Options::default() };
    let Some(Lab { server: _server, relay: _relay, client }) = lab_with(options, |_| {}) else { return };
    let old = content(100_000);
    client.put(b"f", old.clone(), PutOptions::default()).await.unwrap();
    let all = |name: &'static str| {
        let client = client.clone();
        async move { read_file(&client, name.as_bytes(), 0, u64::MAX).await }
    };
    let full = |answer: &Result<(), Error>| {
        answer.as_ref().err().and_then(Error::status).is_some_and(|status| status == Status::NOSPC)
    };
    for precondition in [Precondition::None, Precondition::RegularFile, always()] {
        let case = format!("{precondition:?}");
        let answer = client.put(b"f", content(700_000), put(precondition)).await.map(drop);
        assert!(full(&answer), "{case}: {answer:?}");
        assert!(all("f").await.unwrap() == old, "{case}");
    }
    let answer = client.put(b"new", content(700_000), put(Precondition::Absent)).await.map(drop);
    assert!(full(&answer), "{answer:?}");
    assert_eq!(all("new").await.unwrap_err().status(), Some(Status::NOENT));
    // More than there is space for, in one WRITE and in several.
    for length in [700_000, 2_000_000] {
        let answer = client.append(b"f", content(length), put(Precondition::None)).await.map(drop);
        assert!(full(&answer), "{length}: {answer:?}");
        let now = all("f").await.unwrap();
        assert!(now == old, "{length}: {} bytes", now.len());
    }
    // All of the space is free again.
    client.put(b"more", content(300_000), PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_file_of_somebody_else_that_may_be_written_to_is_done_once() {
    let change = |options: &mut nfs41::Options| {
        options.credentials = nfs41::Credentials { user: 12345, group: 12345, groups: Vec::new() };
    };
    let Some(Lab { server, relay: _relay, client }) = lab_with(nfs_lab::Options::default(), change) else { return };
    let root = Client::new(nfs41::Options::new(server.address())).unwrap();
    root.put(b"log", "one ".into(), PutOptions::default()).await.unwrap();
    root.set_attributes(b"log", SetAttributes::mode(0o666)).await.unwrap();
    // Only the owner may set a time.
    let found = client.append(b"log", "two ".into(), put(Precondition::None)).await.unwrap().unwrap();
    assert_eq!(found.size, Some(8));
    assert_ne!(found.time_modify, Some(Time { seconds: 7, nanoseconds: 7 }));
    assert_eq!(fs::read(server.directory().join("log")).unwrap(), b"one two ");
    // No lock remains.
    root.append(b"log", "three".into(), PutOptions::default()).await.unwrap().unwrap();
    assert_eq!(fs::read(server.directory().join("log")).unwrap(), b"one two three");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_of_which_a_later_part_fails_is_taken_back() {
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), |options| {
        options.max_io_bytes = 4096;
    }) else {
        return;
    };
    client.put(b"log", content(1000), PutOptions::default()).await.unwrap();
    let log = || fs::read(server.directory().join("log")).unwrap();
    for (index, status) in [(2, Status::IO), (5, Status::NOSPC)] {
        let (mut failing, mut writes) = (Failing::default(), 0);
        relay.on_record(move |way, record| {
            if way == Direction::ToClient {
                return failing.answered(record);
            }
            let position = operations(record).iter().position(|(operation, _)| *operation == WRITE);
            writes += usize::from(position.is_some());
            match position {
                Some(position) if writes == index => failing.stop(record, position, status.0),
                _ => Action::Pass,
            }
        });
        let answer = client.append(b"log", content(40_000), put(Precondition::None)).await;
        assert_eq!(answer.unwrap_err().status(), Some(status));
        assert!(log() == content(1000), "{status}: {} bytes", log().len());
        relay.pass_records();
    }
    let found = client.append(b"log", content(40_000), put(Precondition::None)).await.unwrap().unwrap();
    assert!(found.size == Some(41_000) && log() == [content(1000), content(40_000)].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_keeps_its_mode_and_its_owner() {
    let Some(Lab { server, relay: _relay, client }) = lab() else { return };
    let is = |name: &str| {
        let found = fs::metadata(server.directory().join(name)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    client.put(b"new", "1".into(), PutOptions { mode: 0o640, ..PutOptions::default() }).await.unwrap();
    assert_eq!(is("new"), (0o640, 0, 0));
    let file = |content: &'static str| (Bytes::from(content), put(Precondition::RegularFile));
    for (name, mode, owner) in [("a", 0o600, "12345"), ("b", 0o666, "0"), ("c", 0o6755, "54321")] {
        client.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
        let owner = Some(owner.as_bytes().into());
        let set =
            SetAttributes { mode: Some(mode), owner: owner.clone(), owner_group: owner, ..SetAttributes::default() };
        client.set_attributes(name.as_bytes(), set).await.unwrap();
        // The server may clear the set-ID bits when the owner changes.
        client.set_attributes(name.as_bytes(), SetAttributes::mode(mode)).await.unwrap();
        let before = is(name);
        let kept = (before.0 & 0o1777, before.1, before.2);
        let (content, how) = file("in one call");
        client.put(name.as_bytes(), content, how).await.unwrap();
        assert_eq!(is(name), kept, "{name}");
        client.put(name.as_bytes(), "on a condition".into(), put(always())).await.unwrap();
        assert_eq!(is(name), kept, "{name}");
        client.put(name.as_bytes(), "whatever is there".into(), PutOptions::default()).await.unwrap();
        assert_eq!(is(name), kept, "{name}");
        let mut staged = client.begin_upload(name.as_bytes(), PutOptions::default()).await.unwrap();
        staged.write("in pieces".into()).await.unwrap();
        staged.commit().await.unwrap();
        assert_eq!(is(name), kept, "{name}");
        assert_eq!(fs::read(server.directory().join(name)).unwrap(), b"in pieces");
    }
}

/// A group that is inherited from the directory, and one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_kept_whatever_the_file_before_had() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    let group = |name: &str| fs::metadata(server.directory().join(name)).unwrap().gid();
    let give = |group: &'static [u8]| SetAttributes { owner_group: Some(group.into()), ..SetAttributes::default() };
    client.create_dir(b"shared", 0o777).await.unwrap();
    client.set_attributes(b"shared", give(b"1234")).await.unwrap();
    client.set_attributes(b"shared", SetAttributes::mode(0o2777)).await.unwrap();
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    client.set_attributes(b"f", give(b"1234")).await.unwrap();
    client.put(b"shared/f", "old".into(), PutOptions::default()).await.unwrap();
    assert_eq!(group("shared/f"), 1234);
    for name in ["f", "shared/f", "f", "shared/f"] {
        client.put(name.as_bytes(), "new".into(), put(Precondition::RegularFile)).await.unwrap();
        assert_eq!(group(name), 1234, "{name}");
    }
    client.put(b"g", "old".into(), PutOptions::default()).await.unwrap();
    client.put(b"g", "new".into(), PutOptions::default()).await.unwrap();
    assert_eq!(group("g"), 0);
    // A file with this client's default attributes is replaced in one call.
    let before = relay.counts().calls;
    client.put(b"g", "newer".into(), put(Precondition::RegularFile)).await.unwrap();
    assert_eq!(relay.counts().calls - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_give_a_file_away_replaces_it_all_the_same() {
    let user = |options: &mut nfs41::Options| {
        options.credentials = nfs41::Credentials { user: 12345, group: 12345, groups: Vec::new() };
    };
    let Some(Lab { server, relay: _relay, client }) = lab_with(nfs_lab::Options::default(), user) else { return };
    let root = Client::new(nfs41::Options::new(server.address())).unwrap();
    client.put(b"own", "1".into(), PutOptions::default()).await.unwrap();
    for precondition in [Precondition::RegularFile, always()] {
        root.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
        root.set_attributes(
            b"f",
            SetAttributes { mode: Some(0o666), owner: Some(b"777"[..].into()), ..SetAttributes::default() },
        )
        .await
        .unwrap();
        client.put(b"f", "new".into(), put(precondition)).await.unwrap();
        let found = fs::metadata(server.directory().join("f")).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o666, 12345));
        root.remove(b"f").await.unwrap();
    }
}

/// Counts the OPENs and CLOSEs that the server has executed, to know how many files are open.
fn count_opens(relay: &Relay) -> Arc<Mutex<(i64, i64)>> {
    const CLOSE: u32 = 4;
    let counts = Arc::new(Mutex::new((0, 0)));
    let counted = Arc::clone(&counts);
    let mut calls = std::collections::HashMap::new();
    relay.on_record(move |way, record| {
        let number = common::number(record);
        match way {
            Direction::ToServer => drop(calls.insert(number, operations(record))),
            Direction::ToClient => {
                let done = word(record, common::answer::COUNT) as usize;
                let failed = usize::from(word(record, common::answer::STATUS) != 0);
                if let Some(operations) = calls.remove(&number) {
                    let mut counts = counted.lock().unwrap();
                    for (operation, _) in &operations[..done - failed] {
                        counts.0 += i64::from(*operation == common::OPEN);
                        counts.1 += i64::from(*operation == CLOSE);
                    }
                }
            }
        }
        Action::Pass
    });
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_write_leaves_nothing_open() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    // Every second put is executed up to its WRITE, which gets NFS4ERR_DELAY.
    let (mut failing, mut puts) = (Failing::default(), 0_u32);
    let between = Relay::target(3, relay.address());
    between.on_record(move |way, record| {
        if way == Direction::ToClient {
            return failing.answered(record);
        }
        match operations(record).iter().position(|(operation, _)| *operation == WRITE) {
            Some(index) => {
                puts += 1;
                if puts % 2 == 0 { failing.stop(record, index, Status::DELAY.0) } else { Action::Pass }
            }
            None => Action::Pass,
        }
    });
    let counts = count_opens(&relay);
    let delayed = Client::new(nfs41::Options::new(between.address())).unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..640 {
        let client = delayed.clone();
        tasks.spawn(async move {
            client.put(format!("{number}").as_bytes(), content(10), put(Precondition::Absent)).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    until("all are closed", || {
        let (opened, closed) = *counts.lock().unwrap();
        (opened == closed && opened >= 960).then_some(())
    })
    .await;
    drop(client);
    assert_eq!(names(server.directory()).len(), 640);
}

/// A client behind a relay that hangs on demand, with an alternate address of the same server.
fn with_another_way(server: &Ganesha, deadline: Duration) -> (Relay, Relay, Client) {
    let other = Relay::target(4, server.address());
    let address = other.address();
    let (relay, client) = relayed(server, move |options| {
        options.operation_timeout = Some(deadline);
        options.alternate_addresses.set([address]);
    });
    (relay, other, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_hangs_is_never_done_after_its_caller_was_told_so() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relay, _other, client) = with_another_way(&server, Duration::from_millis(500));
    let (path, at) = (|name: &str| server.directory().join(name), Instant::now);
    for name in ["put", "new", "if", "append", "remove", "set", "rename"] {
        client.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
    }
    client.remove(b"new").await.unwrap();
    relay.hang(true);
    let began = at();
    let answers = tokio::join!(
        client.put(b"put", "late".into(), put(Precondition::RegularFile)),
        client.put(b"new", "late".into(), put(Precondition::Absent)),
        client.put(b"if", "late".into(), put(always())),
        client.append(b"append", " late".into(), put(Precondition::None)),
        client.remove(b"remove"),
        client.set_attributes(b"set", SetAttributes { size: Some(0), ..SetAttributes::default() }),
        client.rename(b"rename", b"renamed"),
    );
    let answers = [
        answers.0.map(drop),
        answers.1.map(drop),
        answers.2.map(drop),
        answers.3.map(drop),
        answers.4,
        answers.5,
        answers.6,
    ];
    for answer in answers {
        assert!(matches!(answer, Err(Error::Deadline(_))), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    relay.hang(false);
    // The late calls arrive before this one.
    client.attributes(b"put", AttributeMask::SIZE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let expected = ["append", "if", "put", "remove", "rename", "set"];
    until("only what was there is there", || (names(server.directory()) == expected).then_some(())).await;
    for name in expected {
        assert_eq!(fs::read(path(name)).unwrap(), b"old", "{name}");
    }
    // The session is the same, and all its slots are usable.
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let client = client.clone();
        tasks.spawn(async move { client.put(b"put", content(number), PutOptions::default()).await.map(drop) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_done_and_whose_answer_hangs_is_told_to_be_done() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relay, _other, client) = with_another_way(&server, Duration::from_millis(500));
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    // The call reaches the server, and its reply is lost.
    relay.on_record(|way, _| if way == Direction::ToClient { Action::Drop } else { Action::Pass });
    let found = client.put(b"f", "new".into(), put(Precondition::RegularFile)).await.unwrap();
    assert_eq!((found.size, found.time_modify), (Some(3), put(Precondition::None).time_modify));
    assert_eq!(fs::read(server.directory().join("f")).unwrap(), b"new");
    relay.pass_records();
    relay.cut(End::Reset);
    assert_eq!(&client.read(b"f", 0, 10).await.unwrap().data[..], b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_always_wants_to_be_asked_later_is_asked_until_the_deadline_and_seldom() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relay, _other, client) = with_another_way(&server, Duration::from_millis(1500));
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&asked);
    relay.on_record(move |way, record| {
        if way == Direction::ToServer && has(record, common::RENAME) {
            times.lock().unwrap().push(Instant::now());
            return Action::Reply(common::refusal(record, Status::DELAY.0));
        }
        Action::Pass
    });
    let began = Instant::now();
    let answer = client.put(b"f", "late".into(), put(Precondition::RegularFile)).await;
    assert!(matches!(answer, Err(Error::Deadline(_))), "{answer:?}");
    let count = asked.lock().unwrap().len();
    assert!((4..=14).contains(&count), "{count} times in {:?}", began.elapsed());
    relay.pass_records();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(asked.lock().unwrap().len(), count);
    assert_eq!(fs::read(server.directory().join("f")).unwrap(), b"old");
    // The sequence ID of the slot is in step.
    client.put(b"f", "new".into(), put(Precondition::RegularFile)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_failed_at_an_unknown_point_leaves_its_slot_in_step() {
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), |options| {
        options.max_in_flight = 1;
    }) else {
        return;
    };
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    // Once before the server has executed it, and once after.
    for executed in [false, true] {
        let mut chosen = None;
        relay.on_record(move |way, record| {
            let number = common::number(record);
            let system_error = |number: u32| common::words(&[number, 1, 0, 0, 0, 5]);
            if way == Direction::ToServer && chosen.is_none() && has(record, common::RENAME) {
                chosen = Some((number, true));
                return if executed { Action::Pass } else { Action::Reply(system_error(number)) };
            }
            if way == Direction::ToClient && executed && chosen == Some((number, true)) {
                chosen = Some((number, false));
                *record = system_error(number);
            }
            Action::Pass
        });
        let name = format!("{executed}");
        let answer = client.put(b"f", Bytes::from(name.clone()), put(Precondition::RegularFile)).await;
        let found = fs::read(server.directory().join("f")).unwrap();
        // A call that was not executed is sent again.
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(found, name.as_bytes());
        relay.pass_records();
        client.put(b"g", "more".into(), PutOptions::default()).await.unwrap();
        assert_eq!(relay.counts().connections, 1, "the session is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_is_committed_on_the_way() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    relay.on_record(move |way, record| {
        const COMMIT: u32 = 5;
        if way == Direction::ToServer && has(record, COMMIT) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Action::Pass
    });
    let mut staged = client.begin_upload(b"f", PutOptions::default()).await.unwrap();
    for _ in 0..40 {
        staged.write(content(1 << 20)).await.unwrap();
    }
    assert_eq!(commits.load(Ordering::Relaxed), 2);
    staged.commit().await.unwrap();
    assert_eq!(commits.load(Ordering::Relaxed), 3);
    assert_eq!(fs::metadata(server.directory().join("f")).unwrap().len(), 40 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_take_as_many_calls_as_their_path_is_long() {
    let Some(Lab { server: _server, relay, client }) = lab() else { return };
    client.attributes(b"", AttributeMask::TYPE).await.unwrap();
    for depth in [1, 10, 100, 250] {
        let path = format!("{depth}/{}", ["d"; 249].join("/"));
        let path = path.split('/').take(depth).collect::<Vec<_>>().join("/");
        let before = relay.counts().calls;
        assert_eq!(client.create_dir_all(path.as_bytes(), 0o755).await.unwrap(), depth);
        let calls = relay.counts().calls - before;
        assert!(calls <= 2 + depth as u64 / 8, "{calls} calls for {depth}");
        let before = relay.counts().calls;
        assert_eq!(client.create_dir_all(path.as_bytes(), 0o755).await.unwrap(), 0);
        assert!(relay.counts().calls - before <= 1 + depth as u64 / 32);
    }
    client.put(b"file", content(1), PutOptions::default()).await.unwrap();
    for path in [&b"file/below"[..], b"file"] {
        assert_eq!(client.create_dir_all(path, 0o755).await.unwrap_err().status(), Some(Status::NOTDIR));
    }
    // Directories that were created on the way to an invalid path are removed again.
    let long = format!("a/b/{}", "x".repeat(255));
    client.create_dir_all(long.as_bytes(), 0o755).await.unwrap();
    let hang = Instant::now();
    relay.hang(true);
    let hasty = client.with_timeout(Some(Duration::from_millis(300)));
    let deep = ["e"; 200].join("/");
    assert!(hasty.create_dir_all(deep.as_bytes(), 0o755).await.is_err());
    assert!(hang.elapsed() < Duration::from_secs(2), "{:?}", hang.elapsed());
    let before = relay.counts().calls;
    relay.hang(false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(relay.counts().calls - before < 4, "it goes on after the deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_file_system_that_the_root_is_in() {
    let options = nfs_lab::Options {
        pseudo: "/data".to_owned(),
        export: "MaxWrite = 65536; MaxRead = 65536; PrefWrite = 65536; PrefRead = 65536;".to_owned(),
        ..nfs_lab::Options::default()
    };
    let Some(Lab { server, relay, client }) = lab_with(options, |options| options.root = b"/data".to_vec()) else {
        return;
    };
    assert_eq!(client.limits().await.unwrap().max_write_bytes, 65536);
    let before = relay.counts().calls;
    client.put(b"f", content(65536), put(Precondition::Absent)).await.unwrap();
    assert_eq!(relay.counts().calls - before, 1);
    for length in [65537, 300_000] {
        client.put(b"f", content(length), put(Precondition::RegularFile)).await.unwrap();
        assert!(fs::read(server.directory().join("f")).unwrap() == content(length), "{length}");
    }
    let found = client.append(b"f", content(1 << 20), put(Precondition::None)).await.unwrap().unwrap();
    assert_eq!(found.size, Some(300_000 + (1 << 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_for_longer_than_the_lease_is_given_up_where_there_is_no_other_way() {
    let lease = Duration::from_secs(2);
    let options = nfs_lab::Options { lease: lease.as_secs() as u32, ..nfs_lab::Options::default() };
    let Some(Lab { server: _server, relay, client }) = lab_with(options, |_| {}) else { return };
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    relay.hang(true);
    let waits = client.with_deadline(tokio::time::Instant::now() + Duration::from_millis(300));
    let put = tokio::spawn(async move { waits.put(b"f", "late".into(), put(Precondition::RegularFile)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!put.is_finished(), "it may still be done");
    relay.refuse(true);
    relay.cut(End::Fin);
    let began = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(60), put).await.unwrap().unwrap();
    assert!(matches!(answer, Err(Error::Uncertain(_))), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
