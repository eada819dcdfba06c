//! A server that crashes, forgets or revokes sessions, or lets leases expire: no acknowledged change is lost, and an unknown
//! outcome is reported as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use common::{Lab, count, each, lab, lab_with, relayed, until, until_found};
use nfs_lab::{Action, Direction, lab_or_skip};
use nfs41::{Client, Create, Error, Precondition, PutOptions, Status};

/// What a writer knows about its file.
struct Writer {
    client: Client,
    server: std::path::PathBuf,
    /// Number of successful operations of all writers.
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Replaces or overwrites the content of one file, again and again.
    async fn contents(self, number: usize) {
        let name = format!("file {number}");
        let text = |round: u32| Bytes::from(format!("{round:8}").repeat(1000));
        let make = |round, exists| {
            let (client, path, text) = (&self.client, name.as_bytes(), text(round));
            async move {
                match number % 3 {
                    1 if exists => client.write_at(path, 0, text).await,
                    0 | 1 => client.put(path, text, PutOptions::default()).await,
                    _ => {
                        let conditions = Precondition::If(Arc::new(|_| true));
                        client.put(path, text, PutOptions { precondition: conditions, ..PutOptions::default() }).await
                    }
                }
            }
        };
        let mut known = None;
        for round in 0.. {
            match make(round, known.is_some()).await {
                Ok(_) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    known = Some(text(round));
                }
                Err(err) => {
                    assert!(is_honest(&err), "{err:?}");
                    // The file has the old or the new content, and keeps it.
                    let found = loop {
                        match self.client.read(name.as_bytes(), 0, 1 << 20).await {
                            Ok(found) => break Some(found.data),
                            Err(err) if err.status() == Some(Status::NOENT) => break None,
                            Err(err) => assert!(is_honest(&err), "{err:?}"),
                        }
                    };
                    assert!(found == known || (found == Some(text(round)) && !err.was_never_sent()), "{err:?}");
                    known = found;
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        assert_eq!(fs::read(self.server.join(&name)).unwrap(), known.unwrap(), "{name}");
    }

    /// Appends lines to a file that all writers share.
    async fn lines(self, number: usize) -> (Vec<String>, Vec<String>) {
        let (mut done, mut unknown) = (Vec::new(), Vec::new());
        for round in 0.. {
            let line = format!("{number} {round} {}", "x".repeat(100 * number));
            match self.client.append(b"log", format!("{line}\n").into(), PutOptions::default()).await {
                Ok(found) => {
                    assert!(found.is_some());
                    self.done.fetch_add(1, Ordering::Relaxed);
                    done.push(line);
                }
                Err(err) => {
                    assert!(is_honest(&err), "{err:?}");
                    if !err.was_never_sent() {
                        unknown.push(line);
                    }
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        (done, unknown)
    }
}

/// Whether an error tells the truth about the outcome.
fn is_honest(err: &Error) -> bool {
    err.was_never_sent() || matches!(err, Error::Uncertain(_) | Error::SessionLost)
}

async fn it_dies_among_writes(options: nfs_lab::Options, connections: usize) {
    let Some(Lab { mut server, relay, client }) = lab_with(options, |options| options.connections = connections) else {
        return;
    };
    client.put(b"log", Bytes::new(), PutOptions::default()).await.unwrap();
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = || Writer {
        client: client.clone(),
        server: server.directory().to_owned(),
        done: Arc::clone(&done),
        stop: Arc::clone(&stop),
    };
    let contents: Vec<_> = (0..9).map(|number| tokio::spawn(writer().contents(number))).collect();
    let lines: Vec<_> = (0..4).map(|number| tokio::spawn(writer().lines(number))).collect();
    for _ in 0..3 {
        let before = done.load(Ordering::Relaxed);
        until("more is written", || (done.load(Ordering::Relaxed) > before + 100).then_some(())).await;
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server.start_again();
            server
        })
        .await
        .unwrap();
    }
    let before = done.load(Ordering::Relaxed);
    until("more is written", || (done.load(Ordering::Relaxed) > before + 100).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    for task in contents {
        task.await.unwrap();
    }
    let (mut acknowledged, mut unknown) = (Vec::new(), BTreeSet::new());
    for task in lines {
        let (these, others) = task.await.unwrap();
        acknowledged.extend(these);
        unknown.extend(others);
    }
    let log = fs::read_to_string(server.directory().join("log")).unwrap();
    let mut found: Vec<_> = log.lines().map(str::to_owned).collect();
    println!("{} lines, and {} of which it is not known", acknowledged.len(), unknown.len());
    found.retain(|line| !unknown.remove(line));
    found.sort();
    acknowledged.sort();
    assert!(found == acknowledged, "lines are lost, double or broken");
    let tidy = until_found(server.directory(), |found| found.keys().all(|name| !name.starts_with('.'))).await;
    assert_eq!(tidy.len(), 10, "{:?}", tidy.keys());
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_among_writes_loses_none_that_it_acknowledged() {
    it_dies_among_writes(nfs_lab::Options::default(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_has_a_grace_loses_none_either() {
    it_dies_among_writes(nfs_lab::Options { lease: 2, grace: Some(2), ..nfs_lab::Options::default() }, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_idle_and_one_that_is_over_is_begun_anew() {
    let lease = Duration::from_secs(4);
    let options = nfs_lab::Options { lease: lease.as_secs() as u32, ..nfs_lab::Options::default() };
    let Some(Lab { server, relay, client: idle }) = lab_with(options, |_| {}) else { return };
    let (hung_relay, hung) = relayed(&server, |_| {});
    idle.put(b"f", "old".into(), PutOptions::default()).await.unwrap();
    let file = hung.open_file(b"f", Create::Never).await.unwrap();
    file.lock(Instant::now().into()).await.unwrap();
    let (kept, anew) = (count(&relay, common::EXCHANGE_ID), count(&hung_relay, common::EXCHANGE_ID));
    hung_relay.hang(true);
    let began = Instant::now();
    tokio::time::sleep(lease * 9 / 4).await;
    assert_eq!(&idle.read(b"f", 0, 10).await.unwrap().data[..], b"old");
    assert_eq!(kept.load(Ordering::Relaxed), 0, "after {:?}", began.elapsed());
    // The lock of a silent client ends with its lease.
    let patience = nfs_lab::PATIENCE;
    let conditions = Precondition::If(Arc::new(|_| true));
    idle.with_timeout(None)
        .put(
            b"f",
            "new".into(),
            PutOptions { precondition: conditions, lock_timeout: patience, ..PutOptions::default() },
        )
        .await
        .unwrap();
    hung_relay.hang(false);
    let written = file.write(0, "lost".into()).await;
    assert!(matches!(written, Err(Error::SessionLost | Error::Uncertain(_))), "{written:?}");
    hung.append(b"f", " and more".into(), PutOptions::default()).await.unwrap().unwrap();
    assert_eq!(&hung.read(b"f", 0, 100).await.unwrap().data[..], b"new and more");
    assert_eq!(anew.load(Ordering::Relaxed), 1);
    assert!(matches!(file.commit().await, Err(Error::SessionLost)));
}

/// Each status with which a server reports an unknown session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_does_not_know_is_made_anew() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let statuses = [
        Status::BADSESSION,
        Status::DEADSESSION,
        Status::STALE_CLIENTID,
        Status::EXPIRED,
        Status::SEQ_MISORDERED,
        Status::BADSLOT,
        Status::CONN_NOT_BOUND_TO_SESSION,
    ];
    each(statuses, 7, |status| {
        let server = Arc::clone(&server);
        async move {
            let (relay, client) = relayed(&server, |_| {});
            let name = format!("{status}");
            let f = name.as_bytes();
            client.put(f, "old".into(), PutOptions::default()).await.unwrap();
            common::forget_session(&relay, status.0);
            assert_eq!(&client.read(f, 0, 10).await.unwrap().data[..], b"old", "{status}");
            common::forget_session(&relay, status.0);
            let written = client.write_at(f, 0, "old".into()).await;
            assert!(matches!(written, Ok(_) | Err(Error::Pending(_))), "{status}: {written:?}");
            common::forget_session(&relay, status.0);
            let put = client.put(f, "new".into(), PutOptions::default()).await;
            match fs::read(server.directory().join(&name)).unwrap() == b"new" {
                true => assert!(put.is_ok(), "{status}: {put:?}"),
                // The client gives up a session that the server may still have, so the outcome is unknown.
                false => assert!(matches!(put, Err(Error::Uncertain(_) | Error::Pending(_))), "{status}: {put:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_tells_of_lost_state_is_taken_and_the_session_made_anew() {
    let Some(Lab { server: _server, relay, client }) = lab() else { return };
    client.put(b"f", "f".into(), PutOptions::default()).await.unwrap();
    let file = client.open_file(b"f", Create::Never).await.unwrap();
    relay.on_record({
        let mut told = false;
        move |way, record| {
            if way == Direction::ToClient && !std::mem::replace(&mut told, true) {
                // All open and lock state is revoked.
                common::set_word(record, common::answer::FLAGS, 0x8);
            }
            Action::Pass
        }
    });
    client.put(b"f", "g".into(), PutOptions::default()).await.unwrap();
    let anew = count(&relay, common::EXCHANGE_ID);
    client.put(b"f", "h".into(), PutOptions::default()).await.unwrap();
    assert_eq!(anew.load(Ordering::Relaxed), 1);
    assert!(matches!(file.read(0, 1).await, Err(Error::SessionLost)));
}
