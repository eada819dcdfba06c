//! Connecting and closing: servers that are slow, unreachable or refuse, and clients that are closed or dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use common::{content, count, operations, refusal, relayed, until};
use nfs_lab::{Action, Direction, Relay, lab_or_skip};
use nfs41::{AttributeMask, Client, Create, Error, Precondition, PutOptions, Status};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_to_be_asked_later_is_connected_to_later() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let relay = Relay::target(2, server.address());
    let mut told = BTreeMap::new();
    relay.on_record(move |way, record| {
        let Some((first, _)) = (way == Direction::ToServer).then(|| operations(record)[0]) else { return Action::Pass };
        let times = told.entry(first).or_insert(0);
        *times += 1;
        let early = *times <= 2 && first != common::SEQUENCE;
        if early { Action::Reply(refusal(record, Status::DELAY.0)) } else { Action::Pass }
    });
    let client = Client::new(nfs41::Options::new(relay.address())).unwrap();
    client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
    assert_eq!(relay.counts().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_cannot_be_reached_until_he_is() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let relay = Relay::target(2, server.address());
    relay.refuse(true);
    let began = Instant::now();
    let mut options = nfs41::Options::new(relay.address());
    options.connect_wait = Duration::from_millis(200);
    let client = Client::new(options.clone()).unwrap();
    let read = client.read(b"f", 0, 10).await;
    assert!(matches!(read, Err(Error::Unreachable { .. })), "{read:?}");
    let put = client.put(b"f", "f".into(), PutOptions::default()).await;
    assert!(matches!(put, Err(Error::Unreachable { .. })), "{put:?}");
    assert!(put.unwrap_err().to_string().contains("refused"));
    // A client whose timeout is shorter than its `connect_wait`.
    options.connect_wait = Duration::from_secs(600);
    options.operation_timeout = Some(Duration::from_millis(200));
    let hasty = Client::new(options).unwrap();
    let put = PutOptions::default();
    for answer in [
        hasty.read(b"f", 0, 10).await.map(drop),
        hasty.remove(b"f").await,
        hasty.rename(b"f", b"g").await,
        hasty.append(b"f", "f".into(), put.clone()).await.map(drop),
        hasty.put(b"f", "f".into(), put).await.map(drop),
        hasty.list(b"", nfs41::DirCursor::default(), AttributeMask::TYPE, 4096).await.map(drop),
    ] {
        assert!(answer.as_ref().is_err_and(Error::was_never_sent), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    relay.refuse(false);
    until("it is up", || client.is_connected().then_some(())).await;
    client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_that_is_not_up_keeps_nobody_from_the_others() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    for hung in 0..3 {
        let relay = Relay::target(2, server.address());
        let mut seen = 0;
        // One connection never gets a reply to EXCHANGE_ID.
        relay.on_record(move |way, record| {
            let first = way == Direction::ToServer && operations(record)[0].0 == common::EXCHANGE_ID;
            seen += usize::from(first);
            if first && seen == hung + 1 { Action::Drop } else { Action::Pass }
        });
        let mut options = nfs41::Options::new(relay.address());
        options.connections = 3;
        let client = Client::new(options).unwrap();
        let began = Instant::now();
        client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_closed_ends_what_is_on_its_way() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    for hangs in [false, true] {
        let (relay, client) = relayed(&server, |_| {});
        client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
        relay.delay_round_trip(Duration::from_millis(20));
        let ends = count(&relay, common::DESTROY_CLIENTID);
        let before = relay.counts().calls;
        relay.hang(hangs);
        let puts: Vec<_> = (0..100)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let put = PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
                    client.put(format!("{number}").as_bytes(), content(10), put).await
                })
            })
            .collect();
        until("all slots are used", || (relay.counts().calls - before >= 64).then_some(())).await;
        let began = Instant::now();
        client.close().await;
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        let mut done = 0;
        for put in puts {
            match put.await.unwrap() {
                Ok(_) => done += 1,
                Err(Error::Closed) => {}
                // Nothing can fence it any more.
                Err(err) => assert!(hangs && matches!(err, Error::Pending(_)), "{err}"),
            }
        }
        let expected = if hangs { (0, 0) } else { (64, 1) };
        assert_eq!((done, ends.load(Ordering::Relaxed)), expected);
        assert!(matches!(client.read(b"f", 0, 1).await, Err(Error::Closed)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clients_that_are_closed_or_dropped_the_server_keeps_nothing() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let relay = Relay::target(2, server.address());
    let ended = Arc::new(Mutex::new([0; 2]));
    let seen = Arc::clone(&ended);
    relay.on_record(move |way, record| {
        if way == Direction::ToClient {
            let first = common::answer::FIRST;
            for (count, operation) in
                seen.lock().unwrap().iter_mut().zip([common::DESTROY_SESSION, common::DESTROY_CLIENTID])
            {
                *count += usize::from(common::word(record, first) == operation && common::word(record, first + 4) == 0);
            }
        }
        Action::Pass
    });
    for number in 0..20 {
        let mut options = nfs41::Options::new(relay.address());
        options.connections = 2;
        let client = Client::new(options).unwrap();
        client.put(b"f", content(number), PutOptions::default()).await.unwrap();
        client.server_identities().await.unwrap();
        // Each with an open and locked file.
        let file = client.open_file(b"f", Create::Never).await.unwrap();
        file.lock(Instant::now().into()).await.unwrap();
        if number % 2 == 0 {
            client.close().await;
        } else {
            drop(file);
        }
    }
    until("all have said goodbye", || (*ended.lock().unwrap() == [40; 2]).then_some(())).await;
    until("no connection is left", || (relay.counts().open == 0).then_some(())).await;
}
