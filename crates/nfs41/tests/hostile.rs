//! A peer that is not an NFS server, or that sends invalid replies: every operation returns a specific error in time
//! and in bounded memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fmt::Debug,
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Lab, answer, content, has, lab_with, read_file, relayed, set_word, word, words};
use nfs_lab::{Action, Direction, Ganesha, Relay, framed, lab_or_skip, read_record};
use nfs41::{AttributeMask, Client, Create, DirCursor, Error, Options, Precondition, PutOptions, SetAttributes};
use proptest::{collection::vec, prelude::*};
use tokio::task::JoinSet;

/// Timeout of one operation in these tests.
const DEADLINE: Duration = Duration::from_millis(250);
/// Upper bound of a test step on a busy machine.
const IN_TIME: Duration = Duration::from_secs(15);

fn hasty(options: &mut Options) {
    (options.operation_timeout, options.connect_wait) = (Some(DEADLINE), DEADLINE);
}

/// Makes a panic of any task fail the test.
fn panics() -> usize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
    PANICS.load(Ordering::Relaxed)
}

/// Peak resident memory and peak virtual memory of this process in bytes.
fn memory() -> [usize; 2] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["VmHWM:", "VmPeak:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    })
}

/// Every operation once. Results are ignored.
async fn everything(client: &Client, name: &str) {
    let put = |conditions| PutOptions { precondition: conditions, lock_timeout: DEADLINE, ..PutOptions::default() };
    let always = || put(Precondition::If(Arc::new(|_| true)));
    let (f, g) = (name.as_bytes(), format!("{name}.other"));
    let directory = format!("{name}.directory");
    fn seen<T: Debug>(answer: Result<T, Error>) {
        if let Err(err) = answer {
            assert!(!err.to_string().is_empty());
        }
    }
    seen(client.put(f, content(100), put(Precondition::None)).await);
    seen(client.attributes(f, AttributeMask::STAT | AttributeMask::OWNER | AttributeMask::TIME_ACCESS).await);
    seen(client.read(f, 0, 1000).await);
    seen(read_file(client, f, 0, u64::MAX).await);
    seen(client.write_at(f, 1, content(10)).await);
    seen(client.append(f, content(10), put(Precondition::None)).await);
    seen(client.put(f, content(10), always()).await);
    seen(client.put(g.as_bytes(), content(10), put(Precondition::Absent)).await);
    seen(client.put(g.as_bytes(), content(30_000), put(Precondition::None)).await);
    seen(client.set_attributes(f, SetAttributes { size: Some(5), ..SetAttributes::mode(0o600) }).await);
    seen(client.list(b"", DirCursor::default(), AttributeMask::STAT, 4096).await);
    seen(client.create_dir_all(format!("{directory}/below").as_bytes(), 0o755).await);
    seen(client.rename(g.as_bytes(), format!("{directory}/g").as_bytes()).await);
    seen(client.link(f, g.as_bytes()).await);
    seen(client.access(f, 0x3F).await);
    seen(client.limits().await);
    seen(client.server_identities().await);
    if let Ok(file) = client.open_file(f, Create::Never).await {
        seen(file.lock(Instant::now().into()).await);
        seen(file.read(0, 10).await);
        seen(file.write(0, content(30)).await);
        seen(file.commit().await);
        seen(file.attributes(AttributeMask::SIZE).await);
        seen(file.close().await);
    }
    seen(client.remove_if(f, always()).await);
    seen(client.remove_file(g.as_bytes()).await);
    seen(client.remove(g.as_bytes()).await);
}

/// A peer in front of a real server. It passes a number of calls and replies of each connection, and then answers the
/// next call with these bytes, repeatedly if they never end.
fn raw(to: SocketAddr, passes: usize, bytes: Vec<u8>, endless: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, bytes) = (client.unwrap(), bytes.clone());
            thread::spawn(move || {
                let mut server = TcpStream::connect(to)?;
                for _ in 0..passes {
                    server.write_all(&framed(&read_record(&mut client)?))?;
                    client.write_all(&framed(&read_record(&mut server)?))?;
                }
                read_record(&mut client)?;
                // Until the client closes the connection.
                loop {
                    client.write_all(&bytes)?;
                    if !endless {
                        break;
                    }
                }
                client.shutdown(std::net::Shutdown::Write)?;
                io::copy(&mut client, &mut io::sink()).map(drop)
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_answers_end_in_an_error_in_time_and_take_no_memory() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let all: [(&str, Vec<u8>, bool); 14] = [
        ("four gigabytes", vec![0xFF; 4], false),
        ("two gigabytes and more to come", vec![0x7F, 0xFF, 0xFF, 0xFF], false),
        ("a little too much", 0x8020_0000_u32.to_be_bytes().to_vec(), false),
        ("two gigabytes without an end", [&[0xFF; 4][..], &[7; 65532]].concat(), true),
        ("pieces of nothing", vec![0; 65536], true),
        ("pieces of one byte", [0, 0, 0, 1, 7].repeat(10_000), true),
        ("pieces of a kilobyte", [&[0, 0, 4, 0][..], &[7; 1024]].concat(), true),
        ("records of nothing", [0x80, 0, 0, 0].repeat(10_000), true),
        ("records of three bytes", [0x80, 0, 0, 3, 1, 2, 3].repeat(10_000), true),
        ("half a length", vec![0x80, 0], false),
        ("half an answer", [&[0x80, 0, 0, 100][..], &[0; 50]].concat(), false),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
        ("TLS", vec![0x15, 3, 1, 0, 2, 2, 0x46], false),
        ("nothing", Vec::new(), false),
    ];
    panics();
    let before = memory();
    let mut tasks = JoinSet::new();
    for (name, bytes, endless) in all {
        // Before there is a session, when there is one, and after a call in it.
        for passes in [0, 1, 2, 4, 5] {
            let mut options = Options::new(raw(server.address(), passes, bytes.clone(), endless));
            hasty(&mut options);
            tasks.spawn(async move {
                let client = Client::new(options).unwrap();
                let began = Instant::now();
                for _ in 0..2 {
                    let read = client.read(b"none", 0, 10).await;
                    let put = client.put(b"f", "f".into(), PutOptions::default()).await;
                    if passes < 4 {
                        assert!(matches!(read, Err(Error::Unreachable { .. })), "{name} after {passes}: {read:?}");
                        assert!(
                            matches!(put, Err(Error::Unreachable { .. } | Error::Busy(_))),
                            "{name} after {passes}: {put:?}"
                        );
                    }
                    for err in [read.unwrap_err().to_string(), put.err().map_or("-".to_owned(), |err| err.to_string())]
                    {
                        assert!(!err.is_empty());
                    }
                }
                assert!(began.elapsed() < IN_TIME, "{name} after {passes}: {:?}", began.elapsed());
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let after = memory();
    assert!(after[0] - before[0] < 200 << 20, "{before:?} {after:?}");
    assert!(after[1] - before[1] < 1500 << 20, "{before:?} {after:?}");
    assert_eq!(panics(), 0);
}

/// How a reply is altered.
type Alteration = fn(&mut Vec<u8>);

/// The offset of an operation's status in the reply to a call of which the operation is the last one.
fn last(record: &[u8], operation: u32) -> usize {
    // Nothing else in the reply has this value, and the last match is the operation.
    let found = record.windows(8).rposition(|words| words == [operation.to_be_bytes(), [0; 4]].concat());
    found.expect("the operation's answer") + 4
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_are_told_of_in_a_sentence() {
    let Some(Lab { server, relay: _relay, client }) = lab_with(nfs_lab::Options::default(), |_| {}) else { return };
    client.put(b"f", content(100), PutOptions::default()).await.unwrap();
    let server = Arc::new(server);
    // If every reply is invalid, the operation returns an error that says so. If replies are ignored or end the
    // session, the operation retries until the deadline.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Says {
        Protocol,
        Refused,
        NotYet,
    }
    let read: [(&str, Alteration, Says); 16] = [
        ("another number", |record| record[0] ^= 0x80, Says::NotYet),
        ("a slot that is not there", |record| record[3] = 0xFF, Says::NotYet),
        ("a call", |record| set_word(record, 4, 0), Says::NotYet),
        ("it is denied: credentials", |record| *record = words(&[word(record, 0), 1, 1, 1, 1]), Says::Refused),
        ("it is denied: version", |record| *record = words(&[word(record, 0), 1, 1, 0, 2, 2]), Says::Refused),
        ("garbage arguments", |record| set_word(record, 20, 4), Says::Refused),
        ("no such procedure", |record| set_word(record, 20, 3), Says::Refused),
        ("a system error", |record| set_word(record, 20, 5), Says::Refused),
        ("another session", |record| set_word(record, answer::SESSION, 7), Says::NotYet),
        ("another number in the slot", |record| set_word(record, answer::SEQUENCE_NUMBER, 77), Says::NotYet),
        ("another slot", |record| set_word(record, answer::SLOT, 9), Says::NotYet),
        ("another operation", |record| set_word(record, answer::REST, 99), Says::Protocol),
        ("too short", |record| record.truncate(record.len() - 8), Says::Protocol),
        ("only SEQUENCE", |record| record.truncate(answer::REST), Says::Protocol),
        ("no operation", |record| record.truncate(answer::COUNT), Says::NotYet),
        (
            "more content than was asked for",
            |record| {
                let at = last(record, common::READ) + 8;
                set_word(record, at, 2000);
                record.extend([0; 2000]);
            },
            Says::Protocol,
        ),
    ];
    let mut tasks = JoinSet::new();
    for (name, alter, says) in read {
        let (relay, client) = relayed(&server, hasty);
        tasks.spawn(async move {
            client.attributes(b"f", AttributeMask::SIZE).await.unwrap();
            let numbers = std::sync::Mutex::new(std::collections::BTreeSet::new());
            relay.on_record(move |way, record| {
                let mut numbers = numbers.lock().unwrap();
                if way == Direction::ToServer && has(record, common::READ) {
                    numbers.insert(common::number(record));
                } else if way == Direction::ToClient && numbers.remove(&common::number(record)) {
                    alter(record);
                }
                Action::Pass
            });
            let began = Instant::now();
            let found = client.read(b"f", 0, 1000).await;
            let so = match says {
                Says::Protocol => matches!(found, Err(Error::Protocol(_))),
                Says::Refused => matches!(found, Err(Error::Refused(_))),
                Says::NotYet => matches!(found, Err(Error::Deadline(_) | Error::Busy(_))),
            };
            assert!(so, "{name}: {found:?}");
            assert!(began.elapsed() < IN_TIME, "{name}");
            relay.pass_records();
            is_usable(&client, b"f").await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Retries until it succeeds.
async fn is_usable(client: &Client, file: &[u8]) {
    let end = Instant::now() + nfs_lab::PATIENCE;
    loop {
        match client.with_timeout(Some(nfs_lab::PATIENCE)).read(file, 0, 100).await {
            Ok(found) if found.data == content(100) => return,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_lies_is_not_believed() {
    let Some(Lab { server: _server, relay, client }) = lab_with(nfs_lab::Options::default(), hasty) else { return };
    client.put(b"abc", content(10), PutOptions::default()).await.unwrap();
    let list = || client.list(b"", DirCursor::default(), AttributeMask::SIZE, 4096);
    assert_eq!(list().await.unwrap().entries.len(), 1);
    // After the verifier: whether there is an entry, its cookie, name, attribute bitmap and attribute length; the end.
    let alterations: [(&str, Alteration, bool); 8] = [
        ("a slash", |record| replace(record, b"abc\0", b"a/c\0"), true),
        ("a NUL", |record| replace(record, b"abc\0", b"a\0c\0"), true),
        ("no name", |record| replace(record, b"\0\0\0\x03abc\0", b"\0\0\0\0"), true),
        ("a name of a megabyte", |record| replace(record, b"\0\0\0\x03abc\0", b"\0\x10\0\0abc\0"), true),
        ("one that is not its own", |record| replace(record, b"\0\0\0\x03abc\0", b"\0\0\0\x02..\0\0"), false),
        (
            "an attribute that nobody knows",
            |record| replace(record, b"\0\0\0\x01\0\0\0\x10", b"\0\0\0\x01\x02\0\0\x10"),
            true,
        ),
        (
            "attributes of four gigabytes",
            |record| replace(record, b"\0\0\0\x10\0\0\0\x08", b"\0\0\0\x10\xFF\xFF\xFF\xFF"),
            true,
        ),
        (
            "more after the last one, for ever",
            |record| {
                // No entry, and not the end.
                let at = last(record, common::READDIR) + 12;
                record.truncate(at);
                record.extend([0; 8]);
            },
            true,
        ),
    ];
    for (name, alter, is_error) in alterations {
        relay.on_record(move |way, record| {
            if way == Direction::ToClient {
                alter(record);
            }
            Action::Pass
        });
        match list().await {
            Err(Error::Protocol(err)) => assert!(is_error && !err.is_empty(), "{name}: {err}"),
            Ok(page) => assert!(!is_error && page.entries.is_empty(), "{name}: {page:?}"),
            Err(err) => panic!("{name}: {err}"),
        }
        relay.pass_records();
    }
}

/// Replaces all occurrences.
fn replace(record: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let at = record.windows(from.len()).position(|bytes| bytes == from).expect("it is there");
    record.splice(at..at + from.len(), to.iter().copied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_less_than_it_is_asked_for_is_asked_again_and_one_that_gives_nothing_is_not() {
    let small = |options: &mut Options| options.max_io_bytes = 16 << 10;
    let Some(Lab { server: _server, relay, client }) = lab_with(nfs_lab::Options::default(), small) else { return };
    let length = 200_000;
    client.put(b"f", content(length), PutOptions::default()).await.unwrap();
    // Every third READ is altered to request less: a part, or a little less.
    for part in [|asked| asked / 3, |asked| asked - 1, |asked: u32| asked.min(1000)] {
        let mut reads = 0;
        relay.on_record(move |way, record| {
            if way == Direction::ToServer && has(record, common::READ) {
                reads += 1;
                let at = record.len() - 4;
                if reads % 3 == 1 {
                    let asked = word(record, at);
                    set_word(record, at, part(asked).max(1));
                }
            }
            Action::Pass
        });
        let found = read_file(&client, b"f", 0, u64::MAX).await.unwrap();
        assert!(found == content(length), "{} of {length}", found.len());
        let found = read_file(&client, b"f", 77, 100_000).await.unwrap();
        assert!(found == content(length)[77..100_077], "{}", found.len());
    }
    relay.on_record(|way, record| {
        if way == Direction::ToServer && has(record, common::READ) {
            let at = record.len() - 4;
            set_word(record, at, 0);
        }
        Action::Pass
    });
    let found = tokio::time::timeout(IN_TIME, read_file(&client, b"f", 0, u64::MAX)).await.expect("it ends");
    assert!(matches!(found, Err(Error::Protocol(_))), "{found:?}");
}

/// Replaces the result after SEQUENCE.
fn refuse_first(record: &mut Vec<u8>, status: u32) {
    set_word(record, answer::STATUS, status);
    set_word(record, answer::COUNT, 2);
    set_word(record, answer::REST + 4, status);
    record.truncate(answer::REST + 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_whose_handle_is_no_longer_known_is_read_anew() {
    const PUTFH: u32 = 22;
    let small = |options: &mut Options| options.max_io_bytes = 16 << 10;
    let Some(Lab { server: _server, relay, client }) = lab_with(nfs_lab::Options::default(), small) else { return };
    client.put(b"f", content(200_000), PutOptions::default()).await.unwrap();
    // STALE, and SERVERFAULT, which NFS-Ganesha returns for a file that is being replaced.
    for status in [70, 10006] {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        relay.on_record(move |way, record| {
            let is_of_a_handle = record.len() > answer::REST + 8 && word(record, answer::REST) == PUTFH;
            if way == Direction::ToClient && is_of_a_handle && count.fetch_add(1, Ordering::Relaxed) < 3 {
                refuse_first(record, status);
            }
            Action::Pass
        });
        let found = read_file(&client, b"f", 0, u64::MAX).await.unwrap();
        assert!(found == content(200_000), "{} bytes", found.len());
        assert!(refused.load(Ordering::Relaxed) > 3, "nothing was refused");
    }
}

/// An alteration of a record's bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(usize, u8),
    /// A whole word, such as a length, a number or a status.
    Set(usize, u32),
    Cut(usize),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
}

impl Mutation {
    fn any() -> impl Strategy<Value = Self> {
        let at = 0..400_usize;
        // Near the beginning, where most fields are.
        let at = prop_oneof![0..100_usize, at];
        let value = prop_oneof![0..20_u32, Just(u32::MAX), Just(1 << 31), 10_000..10_100_u32, any::<u32>()];
        prop_oneof![
            (at.clone(), any::<u8>()).prop_map(|(at, bits)| Self::Flip(at, bits)),
            (at.clone(), value).prop_map(|(at, value)| Self::Set(at / 4 * 4, value)),
            at.clone().prop_map(Self::Cut),
            (at.clone(), 1..40_usize).prop_map(|(at, count)| Self::Remove(at, count)),
            (at, vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
        ]
    }

    fn apply(&self, record: &mut Vec<u8>) {
        let length = record.len();
        let within = |at: usize| at % length.max(1);
        match *self {
            Self::Flip(at, bits) if length > 0 => record[within(at)] ^= bits,
            Self::Set(at, value) if length >= 4 => set_word(record, at.min(length - 4) / 4 * 4, value),
            Self::Cut(at) => record.truncate(within(at)),
            Self::Remove(at, count) => drop(record.drain(within(at)..(within(at) + count).min(length))),
            Self::Insert(at, ref bytes) => drop(record.splice(within(at)..within(at), bytes.iter().copied())),
            _ => {}
        }
    }
}

/// A client for which some replies are altered, including those of the session setup.
async fn garbled(server: &Ganesha, number: usize, mutations: Vec<(usize, Mutation)>) {
    let relay = Relay::target(2, server.address());
    let mut answers = 0;
    let all = mutations.clone();
    relay.on_record(move |way, record| {
        if way == Direction::ToClient {
            all.iter().filter(|(which, _)| *which == answers).for_each(|(_, mutation)| mutation.apply(record));
            answers += 1;
        }
        Action::Pass
    });
    let mut options = Options::new(relay.address());
    hasty(&mut options);
    options.max_io_bytes = 4096;
    let client = Client::new(options).unwrap();
    let done = tokio::time::timeout(nfs_lab::PATIENCE, everything(&client, &format!("{number}"))).await;
    assert!(done.is_ok(), "it hangs: {mutations:?}");
    relay.pass_records();
    is_usable(&client, b"good").await;
}

#[test]
fn garbled_answers_do_no_harm() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, count) = (Arc::new(server), AtomicUsize::new(0));
    runtime.block_on(async {
        let client = Client::new(Options::new(server.address())).unwrap();
        client.put(b"good", content(100), PutOptions::default()).await.unwrap();
        client.close().await;
    });
    let case = vec((0..70_usize, Mutation::any()), 1..6);
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(cases in vec(case, 24))| {
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for mutations in cases {
                let (server, number) = (Arc::clone(&server), count.fetch_add(1, Ordering::Relaxed));
                tasks.spawn(async move { garbled(&server, number, mutations).await });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
        prop_assert_eq!(panics(), 0);
    });
}
