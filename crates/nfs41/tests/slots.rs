//! Slots of a session: the client uses as many as the server wants, and none is lost when a caller stops waiting, a deadline
//! passes, or replies are duplicated, reordered or not cached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use common::{Failing, Lab, OnTheirWay, content, each, has_all_slots, lab, lab_with, refusal, until, until_found};
use nfs_lab::{Action, Direction};
use nfs41::{AttributeMask, Client, Create, Error, Precondition, PutOptions, SetAttributes, Status};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_operations_that_nobody_waits_for_leave_nothing_behind() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
    client.put(b"log", Bytes::new(), PutOptions::default()).await.unwrap();
    relay.delay_round_trip(Duration::from_millis(1));
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let cases: Vec<_> = (0..1000).map(|case| (case, next(8), next(6000))).collect();
    each(cases, 100, |(case, what, after)| {
        let client = client.clone();
        async move {
            let file = format!("f{}", case % 10);
            let path = file.as_bytes();
            let put = |conditions| PutOptions { precondition: conditions, ..PutOptions::default() };
            let work = async {
                match what {
                    0 => drop(client.read(b"f", 0, 10).await),
                    1 => drop(client.put(path, content(100), PutOptions::default()).await),
                    2 => drop(client.put(b"f", content(100), put(Precondition::If(Arc::new(|_| true)))).await),
                    3 => drop(client.append(b"log", "line\n".into(), PutOptions::default()).await),
                    4 => drop(client.put(path, content(100), put(Precondition::Absent)).await),
                    5 => {
                        let Ok(mut staged) = client.begin_upload(path, PutOptions::default()).await else { return };
                        if staged.write(content(100)).await.is_ok() {
                            let _ = staged.commit().await;
                        }
                    }
                    6 => drop(client.remove_if(path, put(Precondition::If(Arc::new(|_| true)))).await),
                    _ => {
                        let Ok(file) = client.open_file(b"log", Create::Never).await else { return };
                        if file.lock(Instant::now().into()).await.is_ok() {
                            let _ = file.write(0, Bytes::new()).await;
                        }
                    }
                }
            };
            // The runtime's timer has a resolution of a millisecond, so steps within one are cut in the order of their
            // polls.
            let _ = tokio::time::timeout(Duration::from_micros(after), work).await;
        }
    })
    .await;
    has_all_slots(&relay, &client, 64).await;
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    for path in [&b"f"[..], b"log"] {
        let file = other.open_file(path, Create::Never).await.unwrap();
        file.lock((Instant::now() + Duration::from_secs(20)).into()).await.unwrap();
        file.close().await.unwrap();
    }
    let left = until_found(server.directory(), |found| found.keys().all(|name| !name.starts_with('.'))).await;
    assert!(left.keys().all(|name| !name.starts_with('.')), "{:?}", left.keys());
    assert!(fs::read_to_string(server.directory().join("log")).unwrap().lines().all(|line| line == "line"));
    client.append(b"log", "line\n".into(), PutOptions::default()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_nobody_waits_for_any_more_is_given_back() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
    let file = client.open_file(b"f", Create::Never).await.unwrap();
    let before = relay.counts().calls;
    relay.hang(true);
    tokio::select! {
        locked = file.lock(Instant::now().into()) => panic!("{locked:?}"),
        () = until("it is asked for", || (relay.counts().calls > before).then_some(())) => {}
    }
    drop(file);
    relay.hang(false);
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    let file = other.open_file(b"f", Create::Never).await.unwrap();
    file.lock((Instant::now() + Duration::from_secs(10)).into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_together_and_as_many_as_the_server_wants() {
    let Some(Lab { server: _server, relay, client }) = lab() else { return };
    client.put(b"f", content(1000), PutOptions::default()).await.unwrap();
    relay.delay_round_trip(Duration::from_millis(10));
    let (on_their_way, target) = (OnTheirWay::default(), Arc::new(AtomicUsize::new(63)));
    let (seen, wanted) = (on_their_way.clone(), Arc::clone(&target));
    relay.on_record(move |way, record| {
        seen.see(way, record);
        if way == Direction::ToClient {
            common::set_word(record, common::answer::TARGET, wanted.load(Ordering::Relaxed) as u32);
        }
        Action::Pass
    });
    let mut readers = JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        readers.spawn(async move {
            loop {
                assert_eq!(client.read(b"f", 0, 1000).await.unwrap().data, content(1000));
            }
        });
    }
    for slots in [64, 4, 1, 17, 64] {
        target.store(slots - 1, Ordering::Relaxed);
        // Calls that were sent before the change end first.
        let heard = relay.counts().replies;
        until("the window is as it shall be", || (relay.counts().replies > heard + 70).then_some(())).await;
        on_their_way.begin_anew();
        until("it is full", || (on_their_way.most() == slots).then_some(())).await;
        let heard = relay.counts().replies;
        until("it stays so", || (relay.counts().replies > heard + 3 * slots as u64).then_some(())).await;
        assert_eq!(on_their_way.most(), slots);
    }
    relay.pass_records();
    readers.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_order_and_heard_twice_find_their_calls() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    for reader in 0..16 {
        client.put(format!("{reader}").as_bytes(), content(reader * 100 + 1), PutOptions::default()).await.unwrap();
    }
    client.put(b"log", Bytes::new(), PutOptions::default()).await.unwrap();
    let mut count = 0;
    relay.on_record(move |way, _| {
        count += 1;
        match (way, count % 5) {
            (_, 0) => Action::Duplicate,
            (Direction::ToClient, 1 | 2) => Action::Reorder(count % 4),
            _ => Action::Pass,
        }
    });
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for reader in 0..16 {
        let (client, done) = (client.clone(), Arc::clone(&done));
        // Endless, because the last reply waits to be overtaken.
        tasks.spawn(async move {
            for round in 0.. {
                let found = client.read(format!("{reader}").as_bytes(), 0, 10_000).await.unwrap();
                assert_eq!(found.data, content(reader * 100 + 1));
                if reader % 4 == 0 && round < 20 {
                    let line = format!("{reader} {round}\n");
                    client.append(b"log", line.into(), PutOptions::default()).await.unwrap().unwrap();
                }
                done.fetch_add(usize::from(round == 100), Ordering::Relaxed);
            }
        });
    }
    until("all have read", || {
        assert!(tasks.try_join_next().is_none());
        (done.load(Ordering::Relaxed) == 16).then_some(())
    })
    .await;
    tasks.abort_all();
    let log = fs::read_to_string(server.directory().join("log")).unwrap();
    let lines: BTreeSet<_> = log.lines().collect();
    assert_eq!((lines.len(), log.lines().count()), (80, 80));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_in_time_says_whether_it_was_sent() {
    let change = |options: &mut nfs41::Options| {
        options.max_in_flight = 5;
        options.operation_timeout = Some(Duration::from_millis(300));
    };
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), change) else { return };
    let patient = client.with_timeout(None);
    for name in ["sent", "not sent", "log"] {
        patient.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
    }
    relay.hang(true);
    let began = Instant::now();
    let before = relay.counts().calls;
    let ask = |what: &'static str, name: &'static str| {
        let client = client.clone();
        tokio::spawn(async move {
            let always = PutOptions { precondition: Precondition::If(Arc::new(|_| true)), ..PutOptions::default() };
            match what {
                "read" => client.read(name.as_bytes(), 0, 10).await.map(drop),
                "remove" => client.remove(name.as_bytes()).await,
                "remove_if" => client.remove_if(name.as_bytes(), always).await,
                "set" => {
                    client
                        .set_attributes(name.as_bytes(), SetAttributes { size: Some(0), ..SetAttributes::default() })
                        .await
                }
                "append" => client.append(name.as_bytes(), "and new".into(), PutOptions::default()).await.map(drop),
                "stage" => client.begin_upload(name.as_bytes(), PutOptions::default()).await.map(drop),
                _ => client.put(name.as_bytes(), "new".into(), always).await.map(drop),
            }
        })
    };
    let whats = ["read", "remove", "append", "set", "put"];
    let sent = whats.map(|what| (what, ask(what, if what == "append" { "log" } else { "sent" })));
    until("all slots are used", || (relay.counts().calls - before == 5).then_some(())).await;
    let not_sent =
        ["read", "remove", "append", "set", "put", "remove_if", "stage"].map(|what| (what, ask(what, "not sent")));
    for (what, task) in sent {
        let answer = task.await.unwrap();
        match what {
            "read" => assert!(matches!(answer, Err(Error::Deadline(_))), "{answer:?}"),
            _ => assert!(matches!(answer, Err(Error::Pending(_))), "{what}: {answer:?}"),
        }
    }
    for (what, task) in not_sent {
        let answer = task.await.unwrap();
        assert!(matches!(answer, Err(Error::Busy(_))), "{what}: {answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    relay.hang(false);
    has_all_slots(&relay, &patient, 5).await;
    // Either a late call is executed first, or its fence; operations of several calls stop.
    let log = server.directory().join("log");
    assert_eq!(fs::read(&log).unwrap(), b"old");
    assert_eq!(fs::read(server.directory().join("not sent")).unwrap(), b"old");
    let left = until_found(server.directory(), |found| found.keys().all(|name| !name.starts_with('.'))).await;
    assert!(left.keys().all(|name| !name.starts_with('.')), "{:?}", left.keys());
    client.append(b"log", " and more".into(), PutOptions::default()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_keeps_to_the_deadline_too() {
    let change = |options: &mut nfs41::Options| {
        options.max_in_flight = 4;
        options.operation_timeout = Some(Duration::from_millis(300));
    };
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), change) else { return };
    client.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    let file = client.open_file(b"f", Create::Never).await.unwrap();
    let mut staged = client.begin_upload(b"g", PutOptions::default()).await.unwrap();
    relay.hang(true);
    let (began, before) = (Instant::now(), relay.counts().calls);
    let sent =
        async { tokio::join!(file.read(0, 10), file.write(0, "new".into()), file.commit(), staged.write("g".into())) };
    let not_sent = async {
        until("all slots are used", || (relay.counts().calls - before == 4).then_some(())).await;
        tokio::join!(
            file.attributes(AttributeMask::SIZE),
            file.lock(Instant::now().into()),
            file.write(0, "never".into())
        )
    };
    let ((read, written, committed, staged), (asked, locked, not_written)) = tokio::join!(sent, not_sent);
    assert!(matches!(read, Err(Error::Deadline(_))), "{read:?}");
    // There is no alternate address to fence it through.
    assert!(matches!(written, Err(Error::Pending(_))), "{written:?}");
    for answer in [committed, staged] {
        assert!(matches!(answer, Err(Error::Deadline(_))), "{answer:?}");
    }
    for answer in [asked.map(drop), locked, not_written] {
        assert!(matches!(answer, Err(Error::Busy(_))), "{answer:?}");
    }
    let closed = file.close().await;
    assert!(matches!(closed, Err(Error::Deadline(_))), "{closed:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    relay.hang(false);
    // Either the late WRITE is executed first, or its fence.
    has_all_slots(&relay, &client.with_timeout(None), 4).await;
    let path = server.directory().join("f");
    let found = fs::read(&path).unwrap();
    assert!(found == b"new" || found == b"old", "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_server_has_not_kept_is_asked_for_again_or_not_known() {
    let Some(Lab { server, relay, client }) = lab() else { return };
    for name in ["f", "g", "h"] {
        client.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
    }
    let forget = |operation: Option<usize>| {
        let (mut call, mut failing) = (None::<Vec<u8>>, Failing::default());
        relay.on_record(move |way, record| match (way, &call, operation) {
            (Direction::ToServer, None, None) => {
                call = Some(record.clone());
                Action::Pass
            }
            (Direction::ToServer, None, Some(index)) => {
                call = Some(Vec::new());
                failing.stop(record, index, Status::RETRY_UNCACHED_REP.0)
            }
            (Direction::ToClient, Some(its), None)
                if !its.is_empty() && common::number(its) == common::number(record) =>
            {
                *record = refusal(its, Status::RETRY_UNCACHED_REP.0);
                Action::Pass
            }
            (Direction::ToClient, ..) => failing.answered(record),
            _ => Action::Pass,
        });
    };
    for operation in [None, Some(1)] {
        forget(operation);
        assert_eq!(&client.read(b"f", 0, 10).await.unwrap().data[..], b"old");
        forget(operation);
        let name = if operation.is_some() { "g" } else { "h" };
        let removed = client.remove(name.as_bytes()).await;
        assert!(matches!(removed, Err(Error::Uncertain(_))), "{removed:?}");
        assert_eq!(fs::exists(server.directory().join(name)).unwrap(), operation.is_some());
        has_all_slots(&relay, &client, 64).await;
    }
}
