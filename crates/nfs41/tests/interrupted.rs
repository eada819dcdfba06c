//! Changes that are interrupted at any point: the connection ends after any byte, the server delays or refuses any operation,
//! or loses the session. What was acknowledged is there, each change is made once, and an unknown outcome is reported as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use common::{Failing, content, each, found, operations, refusal, relayed, until, until_found};
use nfs_lab::{Action, AtLimit, Direction, End, Ganesha, Relay, lab_or_skip};
use nfs41::{Client, Create, Error, Precondition, PutOptions, SetAttributes, Status};

/// A change of a directory that may contain a file `f`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    Put,
    /// With [`Precondition::RegularFile`].
    PutFile,
    PutNew,
    PutIf,
    PutIfNone,
    /// In several calls.
    PutLarge,
    Append,
    Remove,
    RemoveFile,
    RemoveIf,
    Rename,
    Link,
    MakeDirectory,
    Write,
    SetSize,
}

impl Change {
    const ALL: [Self; 15] = [
        Self::Put,
        Self::PutFile,
        Self::PutNew,
        Self::PutIf,
        Self::PutIfNone,
        Self::PutLarge,
        Self::Append,
        Self::Remove,
        Self::RemoveFile,
        Self::RemoveIf,
        Self::Rename,
        Self::Link,
        Self::MakeDirectory,
        Self::Write,
        Self::SetSize,
    ];

    async fn make(self, client: &Client, directory: &str) -> Result<(), Error> {
        let at = |name: &str| format!("{directory}/{name}").into_bytes();
        // Names of constant length, so that all calls have the same length.
        let put = |conditions| PutOptions {
            precondition: conditions,
            temp_name: b".nfs41-temporary".to_vec(),
            pin_name: b".nfs41-alias".to_vec(),
            ..PutOptions::default()
        };
        let none = || put(Precondition::None);
        let holds = |is_there: bool| put(Precondition::If(Arc::new(move |found| found.is_some() == is_there)));
        let f = &at("f")[..];
        match self {
            Self::Put => client.put(f, "new".into(), none()).await.map(drop),
            Self::PutFile => client.put(f, "new".into(), put(Precondition::RegularFile)).await.map(drop),
            Self::PutNew => client.put(f, "new".into(), put(Precondition::Absent)).await.map(drop),
            Self::PutIf => client.put(f, "new".into(), holds(true)).await.map(drop),
            Self::PutIfNone => client.put(f, "new".into(), holds(false)).await.map(drop),
            Self::PutLarge => client.put(f, content(20_000), none()).await.map(drop),
            Self::Append => client.append(f, " and new".into(), none()).await.map(|found| assert!(found.is_some())),
            Self::Remove => client.remove(f).await,
            Self::RemoveFile => client.remove_file(f).await,
            Self::RemoveIf => client.remove_if(f, holds(true)).await,
            Self::Rename => client.rename(f, &at("g")).await,
            Self::Link => client.link(f, &at("g")).await,
            Self::MakeDirectory => client.create_dir(f, 0o755).await,
            Self::Write => client.write_at(f, 1, "new".into()).await.map(drop),
            Self::SetSize => {
                client.set_attributes(f, SetAttributes { size: Some(1), ..SetAttributes::default() }).await
            }
        }
    }

    fn before(self) -> BTreeMap<String, Option<Bytes>> {
        let empty = matches!(self, Self::PutNew | Self::PutIfNone | Self::MakeDirectory);
        if empty { BTreeMap::new() } else { [("f".to_owned(), Some("old".into()))].into() }
    }

    fn after(self) -> BTreeMap<String, Option<Bytes>> {
        let file = |name: &str, content: &'static str| (name.to_owned(), Some(Bytes::from(content)));
        match self {
            Self::Put | Self::PutFile | Self::PutNew | Self::PutIf | Self::PutIfNone => [file("f", "new")].into(),
            Self::PutLarge => [("f".to_owned(), Some(content(20_000)))].into(),
            Self::Append => [file("f", "old and new")].into(),
            Self::Remove | Self::RemoveFile | Self::RemoveIf => BTreeMap::new(),
            Self::Rename => [file("g", "old")].into(),
            Self::Link => [file("f", "old"), file("g", "old")].into(),
            Self::MakeDirectory => [("f".to_owned(), None)].into(),
            Self::Write => [file("f", "onew")].into(),
            Self::SetSize => [file("f", "o")].into(),
        }
    }
}

/// A directory in which a change is made, with a relay and a client of its own.
struct Scenario {
    relay: Relay,
    client: Client,
    name: String,
    path: std::path::PathBuf,
    change: Change,
}

impl Scenario {
    async fn new(server: &Ganesha, change: Change) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{:06}", COUNT.fetch_add(1, Ordering::Relaxed));
        // Small WRITEs, so that a large file takes several calls.
        let (relay, client) = relayed(server, |options| options.max_io_bytes = 4096);
        client.create_dir(name.as_bytes(), 0o755).await.unwrap();
        for (file, content) in change.before() {
            client.put(format!("{name}/{file}").as_bytes(), content.unwrap(), PutOptions::default()).await.unwrap();
        }
        let path = server.directory().join(&name);
        Self { relay, client, name, path, change }
    }

    async fn make(&self) -> Result<(), Error> {
        self.change.make(&self.client, &self.name).await
    }

    /// Asserts that no client has a lock of the files.
    async fn is_not_locked(&self, other: &Client) {
        for (name, content) in found(&self.path) {
            if content.is_none() {
                continue;
            }
            let path = format!("{}/{name}", self.name);
            let file = other.open_file(path.as_bytes(), Create::Never).await.unwrap();
            let soon = Instant::now() + Duration::from_secs(20);
            file.lock(soon.into()).await.unwrap_or_else(|err| panic!("{:?}: {path}: {err}", self.change));
            file.close().await.unwrap();
        }
    }

    /// The operations of each call that the change sends.
    async fn calls(server: &Ganesha, change: Change) -> Vec<Vec<u32>> {
        let scenario = Self::new(server, change).await;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        scenario.relay.on_record(move |way, record| {
            if way == Direction::ToServer {
                seen.lock().unwrap().push(operations(record).iter().map(|(operation, _)| *operation).collect());
            }
            Action::Pass
        });
        scenario.make().await.unwrap();
        assert_eq!(found(&scenario.path), change.after(), "{change:?}");
        scenario.relay.pass_records();
        scenario.client.close().await;
        std::mem::take(&mut *calls.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_at_any_byte_costs_nothing_and_does_nothing_twice() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let mut cases = Vec::new();
    for change in [Change::Put, Change::PutNew, Change::Append, Change::Remove, Change::Rename] {
        let scenario = Scenario::new(&server, change).await;
        let before = scenario.relay.counts();
        scenario.make().await.unwrap();
        let after = scenario.relay.counts();
        for (way, length) in [
            (Direction::ToServer, after.bytes_to_server - before.bytes_to_server),
            (Direction::ToClient, after.bytes_to_client - before.bytes_to_client),
        ] {
            let all = 0..=length as usize;
            cases.extend(all.clone().map(|bytes| (change, way, bytes, End::Fin)));
            // For RST the relay reads the table of all connections of the machine, so there are fewer cases.
            cases.splice(..0, all.step_by(32).map(|bytes| (change, way, bytes, End::Reset)));
        }
    }
    println!("{} cases", cases.len());
    each(cases, 48, |(change, way, bytes, end)| {
        let server = Arc::clone(&server);
        async move {
            let scenario = Scenario::new(&server, change).await;
            scenario.relay.after(way, bytes, AtLimit::Cut(end));
            let made = scenario.make().await;
            let case = format!("{change:?} {way:?} {bytes} {end:?}");
            assert!(made.is_ok(), "{case}: {made:?}");
            assert_eq!(found(&scenario.path), change.after(), "{case}");
            until("it was cut", || {
                (scenario.relay.counts().open == 0 || scenario.relay.counts().connections > 1).then_some(())
            })
            .await;
            scenario.client.close().await;
        }
    })
    .await;
}

/// Executes the `call`-th call and its repetitions only up to an operation, so many times.
fn stop(relay: &Relay, call: usize, index: usize, status: Status, times: usize) {
    let (mut failing, mut seen, mut left, mut chosen) = (Failing::default(), 0, times, Vec::new());
    relay.on_record(move |way, record| {
        if way == Direction::ToClient {
            return failing.answered(record);
        }
        let these: Vec<_> = operations(record).iter().map(|(operation, _)| *operation).collect();
        if seen == call {
            chosen.clone_from(&these);
        }
        seen += 1;
        if chosen == these && left > 0 {
            left -= 1;
            return failing.stop(record, index, status.0);
        }
        Action::Pass
    });
}

/// Every operation of every call of every change.
async fn points(server: &Ganesha) -> Vec<(Change, usize, usize, Vec<u32>)> {
    let mut points = Vec::new();
    for change in Change::ALL {
        for (call, operations) in Scenario::calls(server, change).await.into_iter().enumerate() {
            points.extend((0..operations.len()).map(|index| (change, call, index, operations.clone())));
        }
    }
    points
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_done_later_is_done_once_wherever_the_server_says_so() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    let points = points(&server).await;
    println!("{} points", points.len());
    let cases =
        points.into_iter().flat_map(|point| [Status::DELAY, Status::GRACE].map(|status| (point.clone(), status)));
    each(cases, 16, |((change, call, index, operations), status)| {
        let (server, other) = (Arc::clone(&server), other.clone());
        async move {
            let scenario = Scenario::new(&server, change).await;
            stop(&scenario.relay, call, index, status, 2);
            let made = scenario.make().await;
            let case = format!("{change:?}, call {call}, {status} for operation {index} of {operations:?}");
            assert!(made.is_ok(), "{case}: {made:?}");
            let left = until_found(&scenario.path, |found| *found == change.after()).await;
            assert_eq!(left, change.after(), "{case}");
            scenario.is_not_locked(&other).await;
            scenario.client.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_halfway_leaves_nothing_behind() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    let points = points(&server).await;
    // Leaves out GETFH after OPEN, without which the file cannot be closed.
    let points =
        points.into_iter().filter(|(_, _, index, operations)| *index > 0 && operations[*index] != common::GETFH);
    each(points, 16, |(change, call, index, operations)| {
        let (server, other) = (Arc::clone(&server), other.clone());
        async move {
            let scenario = Scenario::new(&server, change).await;
            stop(&scenario.relay, call, index, Status::SERVERFAULT, 1);
            let made = scenario.make().await;
            let case = format!("{change:?}, call {call}, refused at operation {index} of {operations:?}: {made:?}");
            let expected = match &made {
                Ok(()) => vec![change.after()],
                Err(err) => {
                    assert_eq!(err.status(), Some(Status::SERVERFAULT), "{case}");
                    // A file that was created and not written may remain.
                    vec![change.before(), change.after(), [("f".to_owned(), Some(Bytes::new()))].into()]
                }
            };
            let found = until_found(&scenario.path, |found| expected.contains(found)).await;
            assert!(expected.contains(&found), "{case}: {found:?}");
            scenario.is_not_locked(&other).await;
            scenario.client.close().await;
        }
    })
    .await;
}

/// Executes the `call`-th call up to an operation, and then loses the session.
fn lose(relay: &Relay, call: usize, index: usize, status: Status) {
    let (mut failing, mut seen, mut lost, mut last) = (Failing::default(), 0, false, None::<Vec<u8>>);
    relay.on_record(move |way, record| {
        if way == Direction::ToClient {
            if last.as_ref().is_some_and(|last| common::number(last) == common::number(record)) {
                *record = refusal(&last.take().unwrap(), status.0);
                lost = true;
            }
            return Action::Pass;
        }
        let these = operations(record);
        lost &= these[0].0 != common::CREATE_SESSION;
        lost |= seen == call && index == 0;
        if lost && these[0].0 == common::SEQUENCE {
            seen += 1;
            return Action::Reply(refusal(record, status.0));
        }
        if seen == call {
            last = Some(record.clone());
            failing.stop(record, index, 0);
        }
        seen += 1;
        Action::Pass
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_halfway_leaves_the_old_or_the_new_and_no_lock() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    each(points(&server).await, 16, |(change, call, index, operations)| {
        let (server, other) = (Arc::clone(&server), other.clone());
        async move {
            let scenario = Scenario::new(&server, change).await;
            lose(&scenario.relay, call, index, Status::BADSESSION);
            let made = scenario.make().await;
            let case = format!("{change:?}, call {call}, lost after {index} of {operations:?}: {made:?}");
            let expected = match &made {
                Ok(()) => vec![change.after()],
                Err(Error::Uncertain(_) | Error::SessionLost) => {
                    vec![change.before(), change.after(), [("f".to_owned(), Some(Bytes::new()))].into()]
                }
                Err(_) => panic!("{case}"),
            };
            let found = until_found(&scenario.path, |found| expected.contains(found)).await;
            assert!(expected.contains(&found), "{case}: {found:?}");
            scenario.is_not_locked(&other).await;
            // The client works with a new session.
            scenario
                .client
                .put(format!("{}/more", scenario.name).as_bytes(), content(1), PutOptions::default())
                .await
                .unwrap();
            scenario.client.close().await;
        }
    })
    .await;
}
