//! What networks and servers do to a client: connections that end in the middle of a byte, servers that die, forget,
//! ask for patience, or say nothing. What was acknowledged is there, what was done was done once, and what is not known
//! is said so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Failing, Lab, content, has, lab, lab_with, names, operations, refusal, relayed, until};
use nfs_lab::{Act, End, Ganesha, Relay, Then, Way, lab_or_skip};
use nfs41::{AttributeMask, Client, Create, Error, Precondition, PutOptions, SetAttributes, Status};
use tokio::{sync::Semaphore, task::JoinSet};

/// A change of a directory, in which there may be a file `f`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    Put,
    /// Over a plain file only.
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
        // Names of one length, so that the same calls are.
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

/// What is in a directory: the contents of its files.
fn found(directory: &Path) -> BTreeMap<String, Option<Bytes>> {
    names(directory)
        .into_iter()
        .map(|name| (name.clone(), fs::read(directory.join(name)).ok().map(Bytes::from)))
        .collect()
}

/// A directory of its own in which a change is to be made, behind a relay and by a client of its own.
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
        // So that a large content takes several calls.
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

    /// Nobody has a lock of what is there.
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

    /// The operations of the calls that the change takes.
    async fn calls(server: &Ganesha, change: Change) -> Vec<Vec<u32>> {
        let scenario = Self::new(server, change).await;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        scenario.relay.on_record(move |way, record| {
            if way == Way::ToServer {
                seen.lock().unwrap().push(operations(record).iter().map(|(operation, _)| *operation).collect());
            }
            Act::Pass
        });
        scenario.make().await.unwrap();
        assert_eq!(found(&scenario.path), change.after(), "{change:?}");
        scenario.relay.pass_records();
        scenario.client.close().await;
        std::mem::take(&mut *calls.lock().unwrap())
    }
}

/// So many at once. All that fail are told of.
async fn each<C, F>(cases: impl IntoIterator<Item = C>, at_once: usize, work: impl Fn(C) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for case in cases {
        let permit = Arc::clone(&room).acquire_owned().await.unwrap();
        let work = work(case);
        tasks.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    let mut failed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        if let Err(err) = done {
            failed.push(err.into_panic().downcast::<String>().map_or_else(|_| "?".to_owned(), |err| *err));
        }
    }
    failed.sort();
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
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
            (Way::ToServer, after.bytes_to_server - before.bytes_to_server),
            (Way::ToClient, after.bytes_to_client - before.bytes_to_client),
        ] {
            let all = 0..=length as usize;
            cases.extend(all.clone().map(|bytes| (change, way, bytes, End::Fin)));
            // For which the relay looks at all connections of the machine.
            cases.splice(..0, all.step_by(32).map(|bytes| (change, way, bytes, End::Reset)));
        }
    }
    println!("{} cases", cases.len());
    each(cases, 48, |(change, way, bytes, end)| {
        let server = Arc::clone(&server);
        async move {
            let scenario = Scenario::new(&server, change).await;
            scenario.relay.after(way, bytes, Then::Cut(end));
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

/// The `call`-th call of what is to come, and those that repeat it, are done up to an operation, so many times.
fn stop(relay: &Relay, call: usize, index: usize, status: Status, times: usize) {
    let (mut failing, mut seen, mut left, mut chosen) = (Failing::default(), 0, times, Vec::new());
    relay.on_record(move |way, record| {
        if way == Way::ToClient {
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
        Act::Pass
    });
}

/// Each operation of each call of each change.
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

/// What is in the directory when that is so, or some seconds later: tasks that nobody waits for may tidy up.
async fn until_found(
    path: &Path,
    so: impl Fn(&BTreeMap<String, Option<Bytes>>) -> bool,
) -> BTreeMap<String, Option<Bytes>> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let found = found(path);
        if so(&found) || Instant::now() > end {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_halfway_leaves_nothing_behind() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let server = Arc::new(server);
    let other = Client::new(nfs41::Options::new(server.address())).unwrap();
    let points = points(&server).await;
    // One that opens a file can say which it is.
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
                    // A file that is made and not written to any more stays.
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

/// The `call`-th call of what is to come is done up to an operation; then the session is lost.
fn lose(relay: &Relay, call: usize, index: usize, status: Status) {
    let (mut failing, mut seen, mut lost, mut last) = (Failing::default(), 0, false, None::<Vec<u8>>);
    relay.on_record(move |way, record| {
        if way == Way::ToClient {
            if last.as_ref().is_some_and(|last| common::number(last) == common::number(record)) {
                *record = refusal(&last.take().unwrap(), status.0);
                lost = true;
            }
            return Act::Pass;
        }
        let these = operations(record);
        lost &= these[0].0 != common::CREATE_SESSION;
        lost |= seen == call && index == 0;
        if lost && these[0].0 == common::SEQUENCE {
            seen += 1;
            return Act::Answer(refusal(record, status.0));
        }
        if seen == call {
            last = Some(record.clone());
            failing.stop(record, index, 0);
        }
        seen += 1;
        Act::Pass
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
            // The client is as good as new.
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

/// What a writer knows of its file.
struct Writer {
    client: Client,
    server: std::path::PathBuf,
    /// Answered with success, of all writers.
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// An answer that says what is known.
fn is_honest(err: &Error) -> bool {
    err.was_never_sent() || matches!(err, Error::Uncertain(_) | Error::SessionLost)
}

impl Writer {
    /// Contents of a file of its own, one after the other, each whole; in place or not.
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
                    // Old or new, and it stays what it is.
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

    /// Lines at the end of one file.
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

/// How often an operation has been asked for since.
fn count(relay: &Relay, operation: u32) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    relay.on_record(move |way, record| {
        if way == Way::ToServer && has(record, operation) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Act::Pass
    });
    count
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
    // Nor does a lock of somebody who says nothing last for ever.
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

/// Calls that have no answer yet, and the most of them that there were since.
#[derive(Clone, Default)]
struct OnTheirWay(Arc<Mutex<(BTreeSet<u32>, usize)>>);

impl OnTheirWay {
    fn see(&self, way: Way, record: &[u8]) {
        let (now, most) = &mut *self.0.lock().unwrap();
        match way {
            // Whoever fences a late call does so beside the slots.
            Way::ToServer if operations(record).len() < 2 => false,
            Way::ToServer => now.insert(common::number(record)),
            Way::ToClient => now.remove(&common::number(record)),
        };
        *most = now.len().max(*most);
    }

    fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }

    fn begin_anew(&self) {
        let (now, most) = &mut *self.0.lock().unwrap();
        *most = now.len();
    }
}

/// All slots of a client that has so many are free: so many calls are on their way at once, and no more.
async fn has_all_slots(relay: &Relay, client: &Client, slots: usize) {
    let on_their_way = OnTheirWay::default();
    let seen = on_their_way.clone();
    relay.on_record(move |way, record| {
        seen.see(way, record);
        Act::Pass
    });
    relay.delay(Way::ToServer, Duration::from_millis(10));
    let mut readers = JoinSet::new();
    for _ in 0..slots + 20 {
        let client = client.clone();
        readers.spawn(async move {
            loop {
                client.attributes(b"", AttributeMask::SIZE).await.unwrap();
            }
        });
    }
    until("all slots are used", || (on_their_way.most() >= slots).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(on_their_way.most(), slots);
    assert!(readers.try_join_next().is_none());
    relay.delay(Way::ToServer, Duration::ZERO);
    relay.pass_records();
}

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
            // The runtime counts in milliseconds, so that what it does in one is cut by its own steps.
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
        if way == Way::ToClient {
            common::set_word(record, common::answer::TARGET, wanted.load(Ordering::Relaxed) as u32);
        }
        Act::Pass
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
        // Those that were on their way before come to their end first.
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
            (_, 0) => Act::Twice,
            (Way::ToClient, 1 | 2) => Act::After(count % 4),
            _ => Act::Pass,
        }
    });
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for reader in 0..16 {
        let (client, done) = (client.clone(), Arc::clone(&done));
        // On and on: the last answer waits for others to overtake it.
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
    // Of what was sent the late call comes first, or what fences it; what takes more calls goes no further.
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
    // There is no other way to the server by which it could be kept from it.
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
    // Either the late WRITE comes first, or what fences it.
    has_all_slots(&relay, &client.with_timeout(None), 4).await;
    let path = server.directory().join("f");
    let found = fs::read(&path).unwrap();
    assert!(found == b"new" || found == b"old", "{found:?}");
}

/// Whose session the server does not know any more, in each way that it may say so.
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
                // A session that the server may still have is given up, and nobody can tell.
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
            if way == Way::ToClient && !std::mem::replace(&mut told, true) {
                // All that was open or locked is revoked.
                common::set_word(record, common::answer::FLAGS, 0x8);
            }
            Act::Pass
        }
    });
    client.put(b"f", "g".into(), PutOptions::default()).await.unwrap();
    let anew = count(&relay, common::EXCHANGE_ID);
    client.put(b"f", "h".into(), PutOptions::default()).await.unwrap();
    assert_eq!(anew.load(Ordering::Relaxed), 1);
    assert!(matches!(file.read(0, 1).await, Err(Error::SessionLost)));
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
            (Way::ToServer, None, None) => {
                call = Some(record.clone());
                Act::Pass
            }
            (Way::ToServer, None, Some(index)) => {
                call = Some(Vec::new());
                failing.stop(record, index, Status::RETRY_UNCACHED_REP.0)
            }
            (Way::ToClient, Some(its), None) if !its.is_empty() && common::number(its) == common::number(record) => {
                *record = refusal(its, Status::RETRY_UNCACHED_REP.0);
                Act::Pass
            }
            (Way::ToClient, ..) => failing.answered(record),
            _ => Act::Pass,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_to_be_asked_later_is_connected_to_later() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let relay = Relay::target(2, server.address());
    let mut told = BTreeMap::new();
    relay.on_record(move |way, record| {
        let Some((first, _)) = (way == Way::ToServer).then(|| operations(record)[0]) else { return Act::Pass };
        let times = told.entry(first).or_insert(0);
        *times += 1;
        let early = *times <= 2 && first != common::SEQUENCE;
        if early { Act::Answer(refusal(record, Status::DELAY.0)) } else { Act::Pass }
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
    // Who has less time than patience.
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
        // One of them is never told who it is.
        relay.on_record(move |way, record| {
            let first = way == Way::ToServer && operations(record)[0].0 == common::EXCHANGE_ID;
            seen += usize::from(first);
            if first && seen == hung + 1 { Act::Drop } else { Act::Pass }
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
                // Nobody is left who could keep the server from it.
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
        if way == Way::ToClient {
            let first = common::answer::FIRST;
            for (count, operation) in
                seen.lock().unwrap().iter_mut().zip([common::DESTROY_SESSION, common::DESTROY_CLIENTID])
            {
                *count += usize::from(common::word(record, first) == operation && common::word(record, first + 4) == 0);
            }
        }
        Act::Pass
    });
    for number in 0..20 {
        let mut options = nfs41::Options::new(relay.address());
        options.connections = 2;
        let client = Client::new(options).unwrap();
        client.put(b"f", content(number), PutOptions::default()).await.unwrap();
        client.server_identities().await.unwrap();
        // With something that is open and locked.
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
