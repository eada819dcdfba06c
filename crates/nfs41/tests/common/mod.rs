//! A server, a relay before it and a client behind that; and calls and answers as the relay's hook sees them: which
//! operations are in a call, and a server that does the first ones only.
#![allow(dead_code, reason = "each of the tests takes its part")]

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nfs_lab::{Act, Ganesha, PATIENCE, Relay, Way, lab_or_skip};
use nfs41::{Client, Error, Options};

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

/// One more relay and client of a server.
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

/// Asks until it is so, and lets others work meanwhile.
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

/// What is in a directory of the server.
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

/// The number of a call, and of its answer.
pub fn number(record: &[u8]) -> u32 {
    word(record, 0)
}

/// Where in an answer to a compound these are. It has no verifier and no tag.
pub mod answer {
    pub const STATUS: usize = 24;
    pub const COUNT: usize = 32;
    pub const FIRST: usize = 36;
    pub const SESSION: usize = 44;
    pub const SEQUENCE_NUMBER: usize = 60;
    pub const SLOT: usize = 64;
    /// The highest slot that the server wants to be used.
    pub const TARGET: usize = 72;
    pub const FLAGS: usize = 76;
    /// After the answer to SEQUENCE.
    pub const REST: usize = 80;
}

/// The operations of a call and where in its record they begin; none, if it is no compound of this client.
pub fn operations(record: &[u8]) -> Vec<(u32, usize)> {
    let opaque = |at: usize| at + 4 + word(record, at).next_multiple_of(4) as usize;
    let bitmap = |at: usize| at + 4 + 4 * word(record, at) as usize;
    // The call, with its credentials, verifier and tag; then the minor version.
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
            // PUTROOTFH, SAVEFH, RESTOREFH, READLINK
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

/// Has this operation.
pub fn has(record: &[u8], operation: u32) -> bool {
    operations(record).iter().any(|(found, _)| *found == operation)
}

/// Of a call in a session: the slot and its number there.
pub fn slot(record: &[u8]) -> Option<(u32, u32)> {
    match operations(record)[..] {
        [(SEQUENCE, at), ..] => Some((word(record, at + 24), word(record, at + 20))),
        _ => None,
    }
}

/// The answer to a call of which the first operation has this status.
pub fn refusal(call: &[u8], status: u32) -> Vec<u8> {
    words(&[number(call), 1, 0, 0, 0, 0, status, 0, 1, operations(call)[0].0, status])
}

/// The server does a compound up to an operation, and gives a status for that one: as one that has not the means for
/// it now, or does not take it.
#[derive(Default)]
pub struct Failing {
    /// By the numbers of the calls.
    stopped: HashMap<u32, (u32, u32)>,
}

impl Failing {
    /// The `index`-th operation of this call, of which the first is SEQUENCE, is answered with this status.
    pub fn stop(&mut self, call: &mut Vec<u8>, index: usize, status: u32) -> Act {
        let operations = operations(call);
        if index == 0 {
            return Act::Answer(refusal(call, status));
        }
        let (operation, at) = operations[index];
        let count = operations[0].1 - 4;
        call.truncate(at);
        set_word(call, count, index as u32);
        self.stopped.insert(number(call), (operation, status));
        Act::Pass
    }

    /// Every answer has to be shown to this.
    pub fn answered(&mut self, answer: &mut Vec<u8>) -> Act {
        if let Some((operation, status)) = self.stopped.remove(&number(answer))
            && word(answer, answer::STATUS) == 0
        {
            set_word(answer, answer::STATUS, status);
            let count = word(answer, answer::COUNT);
            set_word(answer, answer::COUNT, count + 1);
            answer.extend(words(&[operation, status]));
        }
        Act::Pass
    }
}

/// Answers every call in a session with this, until there is a new session, as a server that does not know it.
pub fn forget_session(relay: &Relay, status: u32) {
    let mut forgotten = true;
    relay.on_record(move |way, record| {
        if way == Way::ToServer {
            let operations = operations(record);
            forgotten &= operations.first().is_none_or(|(first, _)| *first != CREATE_SESSION);
            if forgotten && operations.first().is_some_and(|(first, _)| *first == SEQUENCE) {
                return Act::Answer(refusal(record, status));
            }
        }
        Act::Pass
    });
}
