//! A server, a relay in front of it and a client behind the relay. Decodes calls and replies in the relay's hook, and
//! simulates servers that execute only the first operations of a call.
#![allow(dead_code, reason = "each of the tests takes its part")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nfs_lab::{Action, Direction, Ganesha, PATIENCE, Relay, lab_or_skip};
use nfs41::{AttributeMask, Client, Error, Options};
use tokio::{sync::Semaphore, task::JoinSet};

pub const GETATTR: u32 = 9;
pub const GETFH: u32 = 10;
pub const LOCK: u32 = 12;
pub const OPEN: u32 = 18;
pub const READ: u32 = 25;
pub const READDIR: u32 = 26;
pub const REMOVE: u32 = 28;
pub const RENAME: u32 = 29;
pub const WRITE: u32 = 38;
pub const EXCHANGE_ID: u32 = 42;
pub const CREATE_SESSION: u32 = 43;
pub const DESTROY_SESSION: u32 = 44;
pub const SEQUENCE: u32 = 53;
pub const DESTROY_CLIENTID: u32 = 57;

pub struct Lab {
    pub server: Ganesha,
    pub relay: Relay,
    pub client: Client,
}

pub fn lab() -> Option<Lab> {
    lab_with(nfs_lab::Options::default(), |_| {})
}

pub fn lab_with(server: nfs_lab::Options, change: impl FnOnce(&mut Options)) -> Option<Lab> {
    let server = lab_or_skip(server)?;
    let (relay, client) = relayed(&server, change);
    Some(Lab { server, relay, client })
}

/// Another relay and client of a server.
pub fn relayed(server: &Ganesha, change: impl FnOnce(&mut Options)) -> (Relay, Client) {
    let relay = Relay::target(2, server.address());
    let mut options = Options::new(relay.address());
    change(&mut options);
    (relay, Client::new(options).unwrap())
}

pub fn content(length: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>().into()
}

/// Reads up to `length` bytes of a file as the service does: the first piece by its path, the rest from the open file.
pub async fn read_file(client: &Client, path: &[u8], offset: u64, length: u64) -> Result<Bytes, Error> {
    const MAX_ATTEMPTS: usize = 16;
    for _ in 1..MAX_ATTEMPTS {
        match read_file_once(client, path, offset, length).await {
            // Another file replaced it between LOOKUP and READ.
            Err(err) if err.is_stale() => {}
            read => return read,
        }
    }
    read_file_once(client, path, offset, length).await
}

async fn read_file_once(client: &Client, path: &[u8], offset: u64, length: u64) -> Result<Bytes, Error> {
    let left = |read: usize| u32::try_from(length - read as u64).unwrap_or(u32::MAX);
    let first = client.read(path, offset, left(0)).await?;
    if first.eof || first.data.len() as u64 == length {
        return Ok(first.data);
    }
    let file = client.open_by_handle(&first.handle).await?;
    let mut data = first.data.to_vec();
    loop {
        let (piece, eof) = file.read(offset + data.len() as u64, left(data.len())).await?;
        data.extend_from_slice(&piece);
        if eof || data.len() as u64 == length {
            let _ = file.close().await;
            return Ok(data.into());
        }
    }
}

/// Polls a condition without blocking the runtime.
pub async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The names in a directory of the server.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

pub fn word(record: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(record[at..at + 4].try_into().unwrap())
}

pub fn set_word(record: &mut [u8], at: usize, value: u32) {
    record[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The XID of a call or a reply.
pub fn number(record: &[u8]) -> u32 {
    word(record, 0)
}

/// Offsets in the reply to a compound, which has no verifier and no tag.
pub mod answer {
    pub const STATUS: usize = 24;
    pub const COUNT: usize = 32;
    pub const FIRST: usize = 36;
    pub const SESSION: usize = 44;
    pub const SEQUENCE_NUMBER: usize = 60;
    pub const SLOT: usize = 64;
    /// The server's target for the highest slot.
    pub const TARGET: usize = 72;
    pub const FLAGS: usize = 76;
    /// After the result of SEQUENCE.
    pub const REST: usize = 80;
}

/// The operations of a call with their offsets; empty if it is not a compound of this client.
pub fn operations(record: &[u8]) -> Vec<(u32, usize)> {
    let opaque = |at: usize| at + 4 + word(record, at).next_multiple_of(4) as usize;
    let bitmap = |at: usize| at + 4 + 4 * word(record, at) as usize;
    // Call header, credentials, verifier and tag; then the minor version.
    let mut at = opaque(opaque(opaque(28) + 4)) + 4;
    let count = word(record, at);
    at += 4;
    let mut operations = Vec::new();
    for left in (0..count).rev() {
        let operation = word(record, at);
        operations.push((operation, at));
        if left == 0 {
            break;
        }
        at += 4;
        at = match operation {
            SEQUENCE => at + 32,
            // PUTROOTFH, SAVEFH, RESTOREFH
            24 | 32 | 31 | GETFH | 27 => at,
            // PUTFH, LOOKUP, LINK
            22 | 15 | 11 | REMOVE => opaque(at),
            RENAME => opaque(opaque(at)),
            GETATTR => bitmap(at),
            // SETATTR
            34 => opaque(bitmap(at + 16)),
            // VERIFY
            37 => opaque(bitmap(at)),
            // CREATE
            6 => opaque(bitmap(opaque(at + 4))),
            OPEN => {
                let at = opaque(at + 20);
                let at = match (word(record, at), word(record, at + 4)) {
                    (0, _) => at + 4,
                    (_, 3) => opaque(bitmap(at + 16)),
                    _ => opaque(bitmap(at + 8)),
                };
                // CLAIM_FH has no name.
                if word(record, at) == 4 { at + 4 } else { opaque(at + 4) }
            }
            WRITE => opaque(at + 28),
            READ => at + 28,
            READDIR => bitmap(at + 24),
            // CLOSE
            4 => at + 20,
            LOCK => opaque(at + 24 + 4 + 4 + 16 + 4 + 8),
            // LOCKU
            14 => at + 40,
            // COMMIT
            5 => at + 12,
            // ACCESS
            3 => at + 4,
            other => panic!("operation {other} is the last one of its call"),
        };
    }
    operations
}

/// Whether the call has this operation.
pub fn has(record: &[u8], operation: u32) -> bool {
    operations(record).iter().any(|(found, _)| *found == operation)
}

/// Slot and sequence ID of a call in a session.
pub fn slot(record: &[u8]) -> Option<(u32, u32)> {
    match operations(record)[..] {
        [(SEQUENCE, at), ..] => Some((word(record, at + 24), word(record, at + 20))),
        _ => None,
    }
}

/// A reply in which the first operation has this status.
pub fn refusal(call: &[u8], status: u32) -> Vec<u8> {
    words(&[number(call), 1, 0, 0, 0, 0, status, 0, 1, operations(call)[0].0, status])
}

/// Makes the server execute a compound up to an operation, and return a status for that one.
#[derive(Default)]
pub struct Failing {
    /// By XID.
    stopped: HashMap<u32, (u32, u32)>,
}

impl Failing {
    /// Stops the call at the operation with this index, of which 0 is SEQUENCE, with this status.
    pub fn stop(&mut self, call: &mut Vec<u8>, index: usize, status: u32) -> Action {
        let operations = operations(call);
        if index == 0 {
            return Action::Reply(refusal(call, status));
        }
        let (operation, at) = operations[index];
        let count = operations[0].1 - 4;
        call.truncate(at);
        set_word(call, count, index as u32);
        self.stopped.insert(number(call), (operation, status));
        Action::Pass
    }

    /// Must be called with every reply.
    pub fn answered(&mut self, answer: &mut Vec<u8>) -> Action {
        if let Some((operation, status)) = self.stopped.remove(&number(answer))
            && word(answer, answer::STATUS) == 0
        {
            set_word(answer, answer::STATUS, status);
            let count = word(answer, answer::COUNT);
            set_word(answer, answer::COUNT, count + 1);
            answer.extend(words(&[operation, status]));
        }
        Action::Pass
    }
}

/// Answers every call in a session with this status until there is a new session, as a server that does not know the
/// session.
pub fn forget_session(relay: &Relay, status: u32) {
    let mut forgotten = true;
    relay.on_record(move |way, record| {
        if way == Direction::ToServer {
            let operations = operations(record);
            forgotten &= operations.first().is_none_or(|(first, _)| *first != CREATE_SESSION);
            if forgotten && operations.first().is_some_and(|(first, _)| *first == SEQUENCE) {
                return Action::Reply(refusal(record, status));
            }
        }
        Action::Pass
    });
}

/// The files in a directory with their contents.
pub fn found(directory: &Path) -> BTreeMap<String, Option<Bytes>> {
    names(directory)
        .into_iter()
        .map(|name| (name.clone(), fs::read(directory.join(name)).ok().map(Bytes::from)))
        .collect()
}

/// Runs `work` for all cases with limited concurrency, and reports all failures.
pub async fn each<C, F>(cases: impl IntoIterator<Item = C>, at_once: usize, work: impl Fn(C) -> F)
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

/// The files in a directory when the condition holds, or after 10 s: background tasks may still clean up.
pub async fn until_found(
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

/// Counts the calls with an operation from now on.
pub fn count(relay: &Relay, operation: u32) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    relay.on_record(move |way, record| {
        if way == Direction::ToServer && has(record, operation) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Action::Pass
    });
    count
}

/// The calls without a reply, and the maximum number of them.
#[derive(Clone, Default)]
pub struct OnTheirWay(Arc<Mutex<(BTreeSet<u32>, usize)>>);

impl OnTheirWay {
    pub fn see(&self, way: Direction, record: &[u8]) {
        let (now, most) = &mut *self.0.lock().unwrap();
        match way {
            // Fencing does not use the slots of calls.
            Direction::ToServer if operations(record).len() < 2 => false,
            Direction::ToServer => now.insert(number(record)),
            Direction::ToClient => now.remove(&number(record)),
        };
        *most = now.len().max(*most);
    }

    pub fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }

    pub fn begin_anew(&self) {
        let (now, most) = &mut *self.0.lock().unwrap();
        *most = now.len();
    }
}

/// Asserts that all of the client's slots are free: exactly as many calls are in flight at once.
pub async fn has_all_slots(relay: &Relay, client: &Client, slots: usize) {
    let on_their_way = OnTheirWay::default();
    let seen = on_their_way.clone();
    relay.on_record(move |way, record| {
        seen.see(way, record);
        Action::Pass
    });
    relay.delay(Direction::ToServer, Duration::from_millis(10));
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
    relay.delay(Direction::ToServer, Duration::ZERO);
    relay.pass_records();
}
