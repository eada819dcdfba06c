//! The real server starts, answers, crashes and restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nfs_lab::{Ganesha, Options, Relay, framed, is_answering, lab_or_skip, null_call, read_record};

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    [&words(&[bytes.len() as u32]), bytes, &[0; 3][..bytes.len().wrapping_neg() % 4]].concat()
}

/// Sends EXCHANGE_ID. Returns the client ID and the status.
fn exchange_id(stream: &mut TcpStream, owner: &str) -> (u32, u64) {
    let call = [
        // Call 7, RPC 2, NFS 4, COMPOUND; AUTH_SYS of root with no name and no groups; no verifier.
        words(&[7, 0, 2, 100_003, 4, 1, 1]),
        opaque(&words(&[0, 0, 0, 0, 0])),
        words(&[0, 0]),
        // No tag, minor version 1, one operation: EXCHANGE_ID with a verifier, the owner, no flags, SP4_NONE, no name.
        words(&[0, 1, 1, 42, 1, 2]),
        opaque(owner.as_bytes()),
        words(&[0, 0, 0]),
    ];
    stream.write_all(&framed(&call.concat())).unwrap();
    let reply = read_record(stream).unwrap();
    let word = |index: usize| u32::from_be_bytes(reply[4 * index..][..4].try_into().unwrap());
    // XID, a reply, accepted, no verifier, success; the status of the compound, no tag, one result of this operation,
    // its status.
    assert_eq!([0, 1, 2, 3, 4, 5].map(word), [7, 1, 0, 0, 0, 0]);
    assert_eq!([7, 8, 9].map(word), [0, 1, 42]);
    (word(10), u64::from(word(11)) << 32 | u64::from(word(12)))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(nfs_lab::PATIENCE)).unwrap();
    stream
}

#[test]
fn it_answers_dies_and_comes_back_at_the_same_port() {
    let began = Instant::now();
    let Some(mut server) = lab_or_skip(Options { lease: 5, grace: Some(5), ..Options::default() }) else { return };
    println!("it answers after {:?}", began.elapsed());
    let port = server.port();
    for round in 0..3 {
        let mut stream = connect(server.address());
        stream.write_all(&framed(&null_call(round))).unwrap();
        assert_eq!(read_record(&mut stream).unwrap(), words(&[round, 1, 0, 0, 0, 0]));
        let (status, client) = exchange_id(&mut stream, "it answers");
        assert!(status == 0 && client != 0, "{status} {client}");

        // With an open connection, and one in TIME_WAIT.
        server.kill();
        assert!(!is_answering(server.address()));
        assert!(read_record(&mut stream).is_err());
        let began = Instant::now();
        server.start_again();
        println!("it is back after {:?}", began.elapsed());
        assert_eq!(server.port(), port);
        assert_ne!(exchange_id(&mut connect(server.address()), "it answers").1, client);
    }
    let began = Instant::now();
    server.stop();
    println!("it ends in good order after {:?}", began.elapsed());
    assert!(!is_answering(server.address()));
    server.start_again();
    assert!(is_answering(server.address()));
}

#[test]
fn several_run_at_once_and_one_can_pause() {
    let Some(one) = lab_or_skip(Options { cached: false, ..Options::default() }) else { return };
    let other = Ganesha::start(Options { directory: Some(one.directory().to_owned()), ..Options::default() });
    assert_ne!(one.port(), other.port());
    let mut stream = connect(one.address());
    one.pause();
    stream.write_all(&framed(&null_call(1))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(stream.peek(&mut [0]).is_err());
    assert!(is_answering(other.address()) && !is_answering(one.address()));
    one.resume();
    stream.set_read_timeout(Some(nfs_lab::PATIENCE)).unwrap();
    assert_eq!(read_record(&mut stream).unwrap(), words(&[1, 1, 0, 0, 0, 0]));
}

#[test]
fn many_clients_come_by_way_of_several_targets() {
    let Some(server) = lab_or_skip(Options::default()) else { return };
    let targets = [2, 3, 4].map(|number| Relay::target(number, server.address()));
    let mut streams: Vec<_> = (0..600).map(|index| connect(targets[index % 3].address())).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        assert_eq!(exchange_id(stream, &format!("client {index}")).0, 0);
    }
    for target in &targets {
        let counts = target.counts();
        assert_eq!((counts.open, counts.connections, counts.calls, counts.replies), (200, 200, 200, 200));
    }
}
