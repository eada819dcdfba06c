//! Late changes whose fencing is refused, unanswered or unnecessary. Each test reproduces a finding of a review.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{Lab, REMOVE, WRITE, has, lab, lab_with, number, refusal, relayed, slot, words};
use nfs_lab::{Action, Direction, End, Ganesha, Relay, lab_or_skip};
use nfs41::{AttributeMask, Client, Error, PutOptions, Status};

const CREATE: u32 = 6;
const LINK: u32 = 11;
const VERIFY: u32 = 37;

/// An RPC reply that rejects the credentials of a call.
fn denied(call: &[u8]) -> Vec<u8> {
    words(&[number(call), 1, 1, 1, 1])
}

/// A reply to a call.
type Answer = fn(&[u8]) -> Vec<u8>;

/// The two ways to refuse a call before executing any of it.
const REFUSALS: [Answer; 2] = [|call| refusal(call, Status::SERVERFAULT.0), denied];

fn with_others(server: &Ganesha, others: &[&Relay], deadline: Duration) -> (Relay, Client) {
    let addresses: Vec<_> = others.iter().map(|other| other.address()).collect();
    relayed(server, |options| {
        options.alternate_addresses.set(addresses);
        options.operation_timeout = Some(deadline);
    })
}

async fn put_each(client: &Client, names: &[&str]) {
    for name in names {
        client.put(name.as_bytes(), "old".into(), PutOptions::default()).await.unwrap();
    }
}

/// The reply to REMOVE is lost with its connection, and the server refuses the retransmission. REMOVE was executed, and
/// the next call of the slot must not be mistaken for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_what_is_sent_again_says_nothing_of_the_first_time() {
    for refuse in REFUSALS {
        let Some(Lab { server, relay, client }) = lab() else { return };
        put_each(&client, &["a", "b"]).await;
        let mut sent = Vec::new();
        relay.on_record(move |way, record| match way {
            Direction::ToServer if has(record, REMOVE) => {
                sent.push(number(record));
                let is_second = sent.len() == 2 && sent[0] == sent[1];
                if is_second { Action::Reply(refuse(record)) } else { Action::Pass }
            }
            Direction::ToClient if sent.len() == 1 && sent[0] == number(record) => Action::Cut(End::Fin),
            _ => Action::Pass,
        });
        client.remove_file(b"a").await.unwrap();
        assert!(!server.directory().join("a").exists());
        client.remove_file(b"b").await.unwrap();
        assert!(!server.directory().join("b").exists(), "somebody was told that b is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_refused_is_none() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    for refuse in REFUSALS {
        let other = Relay::target(3, server.address());
        other.on_record(move |way, record| match way {
            Direction::ToServer if slot(record).is_some() => Action::Reply(refuse(record)),
            _ => Action::Pass,
        });
        let (relay, client) = with_others(&server, &[&other], Duration::from_secs(1));
        put_each(&client, &["a", "b"]).await;
        relay.hang(true);
        let heard = client.remove_file(b"a").await;
        assert!(matches!(heard, Err(Error::Pending(_))), "{heard:?}");
        let patient = client.with_timeout(None);
        let second = tokio::spawn(async move { patient.remove_file(b"b").await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        relay.hang(false);
        second.await.unwrap().unwrap();
        assert!(!server.directory().join("b").exists(), "somebody was told that b is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_keeps_no_other_one_from_fencing() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (silent, good) = (Relay::target(3, server.address()), Relay::target(4, server.address()));
    silent.hang(true);
    let (relay, client) = with_others(&server, &[&silent, &good], Duration::from_secs(1));
    put_each(&client, &["a"]).await;
    relay.hang(true);
    let heard = client.remove_file(b"a").await;
    assert!(matches!(heard, Err(Error::Deadline(_))), "{heard:?}");
    relay.hang(false);
    client.attributes(b"a", AttributeMask::SIZE).await.unwrap();
}

/// An address that identifies itself and then sends nothing is given up after 30 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_falls_silent_is_given_up() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (silent, good) = (Relay::target(3, server.address()), Relay::target(4, server.address()));
    silent.on_record(|way, record| match way {
        Direction::ToServer if slot(record).is_some() => Action::Drop,
        _ => Action::Pass,
    });
    let (relay, client) = with_others(&server, &[&silent, &good], Duration::from_secs(1));
    put_each(&client, &["a"]).await;
    relay.hang(true);
    let patient = client.with_deadline((Instant::now() + Duration::from_secs(1)).into());
    let heard = tokio::time::timeout(Duration::from_secs(60), patient.remove_file(b"a")).await;
    assert!(matches!(heard, Ok(Err(Error::Deadline(_)))), "{heard:?}");
}

/// The relay hangs when a call with this operation arrives.
fn hang_at(relay: &Relay, operation: u32) {
    let handle = (**relay).clone();
    relay.on_record(move |way, record| {
        if way == Direction::ToServer && has(record, operation) {
            handle.hang(true);
        }
        Action::Pass
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_made_after_its_caller_was_told_so() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let good = Relay::target(4, server.address());
    let (relay, client) = with_others(&server, &[&good], Duration::from_secs(1));
    client.attributes(b"", AttributeMask::TYPE).await.unwrap();
    hang_at(&relay, CREATE);
    let heard = client.create_dir_all(b"d/e", 0o755).await;
    assert!(matches!(heard, Err(Error::Deadline(_))), "{heard:?}");
    relay.pass_records();
    relay.hang(false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!server.directory().join("d").exists());
}

/// Its unlock is sent over the fencing connection, so other clients need not wait for the lease to expire.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_hangs_is_given_up_in_time_and_gives_its_lock_back() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let good = Relay::target(4, server.address());
    let (relay, client) = with_others(&server, &[&good], Duration::from_secs(1));
    put_each(&client, &["log"]).await;
    hang_at(&relay, WRITE);
    let patient = client.with_deadline((Instant::now() + Duration::from_secs(1)).into());
    let began = Instant::now();
    let heard = patient.append(b"log", " and late".into(), PutOptions::default()).await;
    assert!(matches!(heard, Err(Error::Deadline(_))), "{heard:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let other = Client::new(nfs41::Options::new(good.address())).unwrap();
    other.append(b"log", " and new".into(), PutOptions::default()).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    relay.pass_records();
    relay.hang(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fs::read(server.directory().join("log")).unwrap(), b"old and new");
}

/// An idempotent change was executed, its session is lost, and then there is no connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_told_to_be_unreachable() {
    let options = |options: &mut nfs41::Options| options.connect_wait = Duration::from_secs(1);
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), options) else { return };
    put_each(&client, &["f"]).await;
    let (handle, mut sent) = ((*relay).clone(), None);
    relay.on_record(move |way, record| {
        if way == Direction::ToServer && has(record, WRITE) {
            sent = Some(number(record));
        }
        if way == Direction::ToClient && sent == Some(number(record)) {
            let bad = Status::BADSESSION.0;
            *record = words(&[number(record), 1, 0, 0, 0, 0, bad, 0, 1, common::SEQUENCE, bad]);
            handle.refuse(true);
        }
        Action::Pass
    });
    let heard = client.write_at(b"f", 0, "new".into()).await;
    assert!(matches!(heard, Err(Error::Uncertain(_))), "{heard:?}");
    assert_eq!(fs::read(server.directory().join("f")).unwrap(), b"new");
}

/// The server answers NFS4ERR_DELAY to the operation after the WRITE of an append until the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_was_written_and_not_ended_is_taken_back() {
    let uncached = nfs_lab::Options { cached: false, ..nfs_lab::Options::default() };
    let Some(Lab { server, relay, client }) = lab_with(uncached, |_| {}) else { return };
    put_each(&client, &["log"]).await;
    for operation in [common::GETATTR, VERIFY] {
        let mut failing = common::Failing::default();
        relay.on_record(move |way, record| {
            if way == Direction::ToClient {
                return failing.answered(record);
            }
            let all: Vec<_> = common::operations(record).into_iter().map(|(operation, _)| operation).collect();
            let write = all.iter().position(|found| *found == WRITE);
            let after =
                write.and_then(|write| Some(write + all[write..].iter().position(|found| *found == operation)?));
            after.map_or(Action::Pass, |index| failing.stop(record, index, Status::DELAY.0))
        });
        let late = client.with_deadline((Instant::now() + Duration::from_millis(700)).into());
        let heard = late.append(b"log", " new".into(), PutOptions::default()).await;
        relay.pass_records();
        assert!(matches!(heard, Err(Error::Deadline(_))), "{heard:?}");
        assert_eq!(fs::read(server.directory().join("log")).unwrap(), b"old");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_of_which_a_part_is_refused_is_taken_back() {
    let small = |options: &mut nfs41::Options| options.max_io_bytes = 64 << 10;
    let Some(Lab { server, relay, client }) = lab_with(nfs_lab::Options::default(), small) else { return };
    put_each(&client, &["log"]).await;
    let mut writes = 0;
    relay.on_record(move |way, record| {
        writes += usize::from(way == Direction::ToServer && has(record, WRITE));
        if way == Direction::ToServer && writes == 2 && has(record, WRITE) {
            return Action::Reply(denied(record));
        }
        Action::Pass
    });
    let heard = client.append(b"log", common::content(3 * (64 << 10)), PutOptions::default()).await;
    relay.pass_records();
    assert!(matches!(heard, Err(Error::Refused(_))), "{heard:?}");
    assert_eq!(fs::read(server.directory().join("log")).unwrap(), b"old");
}

/// A private file is created between the lookup and the LINK of a conditional put.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_meanwhile_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let uncached = nfs_lab::Options { cached: false, ..nfs_lab::Options::default() };
    let Some(Lab { server, relay, client }) = lab_with(uncached, |_| {}) else { return };
    for mode in [0o600, 0o640] {
        let name = format!("f{mode:o}");
        let (path, mut once) = (server.directory().join(&name), true);
        let made = path.clone();
        relay.on_record(move |way, record| {
            let is_link = way == Direction::ToServer && has(record, LINK) && !has(record, common::RENAME);
            if is_link && std::mem::take(&mut once) {
                fs::write(&made, "secret").unwrap();
                fs::set_permissions(&made, fs::Permissions::from_mode(mode)).unwrap();
            }
            Action::Pass
        });
        let conditions = nfs41::Precondition::If(std::sync::Arc::new(|_| true));
        let put = client
            .put(name.as_bytes(), "new".into(), PutOptions { precondition: conditions, ..PutOptions::default() })
            .await;
        assert_eq!(put.unwrap().mode, Some(mode));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
}
