//! The relay between a client and a server in this process that exchange RPC records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use nfs_lab::{Action, AtLimit, Direction, End, RecordTracker, Relay, Throttle, eventually, framed, read_record};

const SHORT: Duration = Duration::from_millis(100);

/// An echo server.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// A server that reads until the connection ends, and reports the number of bytes and how it ended.
fn sink() -> (SocketAddr, thread::JoinHandle<(usize, Option<ErrorKind>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || until_the_end(&mut listener.accept().unwrap().0)))
}

fn until_the_end(stream: &mut TcpStream) -> (usize, Option<ErrorKind>) {
    let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (read, None),
            Ok(more) => read += more,
            Err(error) => return (read, Some(error.kind())),
        }
    }
}

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn send(stream: &mut TcpStream, records: &[&[u8]]) {
    let bytes: Vec<_> = records.iter().flat_map(|record| framed(record)).collect();
    stream.write_all(&bytes).unwrap();
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_read_timeout(None).unwrap();
    silent
}

#[test]
fn records_are_told_apart_however_they_are_cut() {
    // Two fragments, an empty one, a single one.
    let bytes = [&[0, 0, 0, 2, 1, 2, 0x80, 0, 0, 1, 3][..], &[0x80, 0, 0, 0], &framed(b"four")].concat();
    for size in 1..bytes.len() {
        let (mut marking, mut ends, mut offset) = (RecordTracker::default(), Vec::new(), 0);
        for part in bytes.chunks(size) {
            let mut at = 0;
            while at < part.len() {
                let (length, ended) = marking.advance(&part[at..]);
                at += length;
                ends.extend(ended.then_some(offset + at));
                assert_eq!(marking.is_between(), ended);
            }
            offset += part.len();
        }
        assert_eq!(ends, [11, 15, 23], "in parts of {size}");
    }
}

#[test]
fn what_goes_through_is_counted() {
    let relay = Relay::target(2, echo());
    assert_eq!(relay.ip().to_string(), "127.0.0.2");
    let (mut one, mut other) = (connect(&relay), connect(&relay));
    for number in 0..100_u8 {
        send(&mut one, &[&[number; 10], &[number; 300_000]]);
        assert_eq!(read_record(&mut one).unwrap(), [number; 10]);
        assert_eq!(read_record(&mut one).unwrap(), [number; 300_000]);
        send(&mut other, &[b""]);
        assert_eq!(read_record(&mut other).unwrap(), b"");
        let (count, counts) = (u64::from(number) + 1, relay.counts());
        assert_eq!((counts.calls, counts.replies), (3 * count, 3 * count));
        assert_eq!((counts.bytes_to_server, counts.bytes_to_client), (300_022 * count, 300_022 * count));
    }
    assert_eq!((relay.counts().open, relay.counts().connections), (2, 2));
    drop(one);
    eventually("a connection less", || (relay.counts().open == 1).then_some(()));
    // One direction is closed, and then the other.
    other.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(until_the_end(&mut other), (0, None));
    eventually("none", || (relay.counts().open == 0).then_some(()));
    assert_eq!(relay.counts().connections, 2);
}

#[test]
fn a_delay_is_kept_and_costs_no_throughput() {
    let relay = Relay::target(3, echo());
    let mut stream = connect(&relay);
    let mut median = || {
        let mut took: Vec<_> = (0..101)
            .map(|_| {
                let began = Instant::now();
                send(&mut stream, &[b"record"]);
                read_record(&mut stream).unwrap();
                began.elapsed()
            })
            .collect();
        took.sort();
        took[took.len() / 2]
    };
    let without = median();
    relay.delay_round_trip(Duration::from_micros(1500));
    let with = median();
    println!("a round trip takes {without:?}, and with a delay of 1.5 ms {with:?}");
    assert!(with >= Duration::from_micros(1500));
    // Skipped on a busy machine, which keeps no times.
    assert!(with - without < Duration::from_millis(5), "{without:?} {with:?}");

    // 200 round trips and 100 MB, all in flight at once.
    relay.delay(Direction::ToServer, Duration::from_millis(150));
    relay.delay(Direction::ToClient, Duration::from_millis(50));
    let mut writer = stream.try_clone().unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || (0..200).for_each(|_| send(&mut writer, &[&[7; 500_000]])));
        (0..200).for_each(|_| assert_eq!(read_record(&mut stream).unwrap().len(), 500_000));
    });
    let took = began.elapsed();
    println!("100 MB there and back with a delay of 200 ms take {took:?}");
    assert!((0.2..5.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn relays_that_share_a_throttle_pass_so_many_calls_together_in_their_order_and_none_is_lost() {
    const CALLS: usize = 20;
    let (one, other) = (Relay::target(15, echo()), Relay::target(16, echo()));
    let throttle = Throttle::new(100.0);
    one.throttle(Some(&throttle));
    other.throttle(Some(&throttle));
    let mut streams = [connect(&one), connect(&other)];
    let began = Instant::now();
    for stream in &mut streams {
        let calls: Vec<_> = (0..CALLS).map(|call| call.to_string().into_bytes()).collect();
        send(stream, &calls.iter().map(|call| &call[..]).collect::<Vec<_>>());
    }
    let mut halfway = None;
    for call in 0..CALLS {
        for stream in &mut streams {
            assert_eq!(read_record(stream).unwrap(), call.to_string().as_bytes());
        }
        halfway = halfway.or((call == CALLS / 2).then(|| began.elapsed()));
    }
    // The first call passes at once, each of the others 10 ms after the one before.
    let (took, halfway) = (began.elapsed(), halfway.unwrap());
    let least = Duration::from_millis(10) * (2 * CALLS as u32 - 1);
    assert!(took >= least && took < least + Duration::from_secs(5), "{took:?}");
    assert!(halfway >= Duration::from_millis(100), "they come all at once at the end: {halfway:?}");
    assert!(halfway < took, "{halfway:?} {took:?}");

    one.throttle(None);
    let began = Instant::now();
    for _ in 0..100 {
        send(&mut streams[0], &[b"at once"]);
        assert_eq!(read_record(&mut streams[0]).unwrap(), b"at once");
    }
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn it_hangs_and_goes_on() {
    let relay = Relay::target(4, echo());
    let mut stream = connect(&relay);
    send(&mut stream, &[b"before"]);
    assert_eq!(read_record(&mut stream).unwrap(), b"before");
    relay.hang(true);
    // Existing connections, and new ones.
    let mut late = connect(&relay);
    send(&mut stream, &[b"first"]);
    send(&mut late, &[b"second"]);
    assert!(is_silent(&mut stream) && is_silent(&mut late));
    assert_eq!((relay.counts().open, relay.counts().calls), (2, 2));
    relay.hang(false);
    assert_eq!(read_record(&mut stream).unwrap(), b"first");
    assert_eq!(read_record(&mut late).unwrap(), b"second");
    // A hanging connection can be cut.
    relay.hang(true);
    relay.cut(End::Reset);
    assert_eq!(until_the_end(&mut stream), (0, Some(ErrorKind::ConnectionReset)));
}

#[test]
fn it_refuses_and_accepts_again_at_the_same_port() {
    let relay = Relay::target(5, echo());
    let mut stream = connect(&relay);
    for _ in 0..20 {
        relay.refuse(true);
        assert_eq!(TcpStream::connect(relay.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        send(&mut stream, &[b"who is connected stays"]);
        read_record(&mut stream).unwrap();
        relay.refuse(false);
        let mut another = connect(&relay);
        send(&mut another, &[b"again"]);
        assert_eq!(read_record(&mut another).unwrap(), b"again");
    }
    let (address, handle) = (relay.address(), nfs_lab::Handle::clone(&relay));
    drop(relay);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(handle.counts().connections, 21);
}

#[test]
fn all_connections_are_cut_with_a_fin_or_a_rst() {
    let relay = Relay::target(6, echo());
    for (end, error) in [(End::Fin, None), (End::Reset, Some(ErrorKind::ConnectionReset))] {
        let mut streams: Vec<_> = (0..3).map(|_| connect(&relay)).collect();
        for stream in &mut streams {
            send(stream, &[b"record"]);
            read_record(stream).unwrap();
        }
        relay.cut(end);
        for stream in &mut streams {
            assert_eq!(until_the_end(stream), (0, error));
        }
        eventually("no connection", || (relay.counts().open == 0).then_some(()));
    }
    let mut stream = connect(&relay);
    send(&mut stream, &[b"it goes on"]);
    assert_eq!(read_record(&mut stream).unwrap(), b"it goes on");
}

#[test]
fn a_connection_is_cut_at_exactly_that_byte() {
    for (end, error) in [(End::Fin, None), (End::Reset, Some(ErrorKind::ConnectionReset))] {
        for bytes in [0, 1, 3, 4, 5, 1000, 299_999] {
            let (address, server) = sink();
            let relay = Relay::target(7, address);
            relay.after(Direction::ToServer, bytes, AtLimit::Cut(end));
            // The client's own writes may already fail.
            let mut stream = connect(&relay);
            let _ = stream.write_all(&framed(&vec![1; 500_000]));
            assert_eq!(server.join().unwrap(), (bytes, error), "{end:?} to the server");

            let relay = Relay::target(7, echo());
            relay.after(Direction::ToClient, bytes, AtLimit::Cut(end));
            let mut stream = connect(&relay);
            let mut writer = stream.try_clone().unwrap();
            let writer = thread::spawn(move || drop(writer.write_all(&framed(&vec![1; 500_000]))));
            let (read, how) = until_the_end(&mut stream);
            assert_eq!(read, bytes, "{end:?} to the client");
            // The peer answers data after its FIN with a RST.
            assert!(how == error || end == End::Fin, "{how:?}");
            writer.join().unwrap();
        }
    }
}

#[test]
fn a_record_is_cut_short_and_the_rest_hangs() {
    let relay = Relay::target(8, echo());
    let (mut stream, mut other) = (connect(&relay), connect(&relay));
    relay.after(Direction::ToClient, 7, AtLimit::Hang);
    send(&mut stream, &[b"truncated"]);
    let mut start = [0; 7];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(start, framed(b"truncated")[..7]);
    send(&mut other, &[b"of the same target"]);
    assert!(is_silent(&mut stream) && is_silent(&mut other));
    relay.hang(false);
    let mut rest = [0; 6];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"ncated");
    assert_eq!(read_record(&mut other).unwrap(), b"of the same target");
}

#[test]
fn whole_records_are_altered_held_back_doubled_lost_and_answered() {
    let relay = Relay::target(9, echo());
    let mut stream = connect(&relay);
    // A record that was partly forwarded is not passed to the hook.
    stream.write_all(&framed(b"begun before")[..9]).unwrap();
    eventually("its start goes", || (relay.counts().bytes_to_client == 9).then_some(()));
    relay.on_record(|way, record| match (way, &record[..]) {
        (Direction::ToServer, b"lost") => Action::Drop,
        (Direction::ToServer, b"asked") => Action::Reply(b"answered".to_vec()),
        (Direction::ToServer, b"begun before") => panic!("it is shown"),
        (Direction::ToClient, b"slow") => Action::Reorder(2),
        (Direction::ToClient, b"twice") => Action::Duplicate,
        (Direction::ToClient, b"good") => {
            *record = b"bad".to_vec();
            Action::Pass
        }
        (_, b"the end") => Action::Cut(End::Fin),
        _ => Action::Pass,
    });
    stream.write_all(&framed(b"begun before")[9..]).unwrap();
    let large = vec![5; 1_000_000];
    let records = [b"slow", &large[..], b"lost", b"twice", b"good"];
    // In two fragments, in small pieces.
    let mut bytes: Vec<_> = [&[0, 0, 0, 2][..], b"on", &[0x80, 0, 0, 1], b"e"].concat();
    bytes.extend(records.iter().flat_map(|record| framed(record)));
    for part in bytes.chunks(77_777) {
        stream.write_all(part).unwrap();
    }
    for expected in [b"begun before", &b"one"[..], &large, b"twice", b"twice", b"slow", b"bad"] {
        assert_eq!(read_record(&mut stream).unwrap(), expected);
    }
    send(&mut stream, &[b"asked"]);
    assert_eq!(read_record(&mut stream).unwrap(), b"answered");
    assert_eq!((relay.counts().calls, relay.counts().replies), (8, 6));

    relay.on_next(Direction::ToClient, Action::Reorder(1));
    send(&mut stream, &[b"first", b"second", b"third"]);
    for expected in [&b"second"[..], b"first", b"third"] {
        assert_eq!(read_record(&mut stream).unwrap(), expected);
    }
    relay.pass_records();
    send(&mut stream, &[b"the end"]);
    assert_eq!(read_record(&mut stream).unwrap(), b"the end");
    relay.on_next(Direction::ToServer, Action::Cut(End::Fin));
    send(&mut stream, &[b"the end"]);
    assert_eq!(until_the_end(&mut stream), (0, None));
}

#[test]
fn bytes_that_are_no_records_pass_at_once() {
    let relay = Relay::target(10, echo());
    let mut stream = connect(&relay);
    for bytes in [&b"x"[..], b"hello", b"\x16\x03\x01", b"\x80"] {
        stream.write_all(bytes).unwrap();
        let mut read = vec![0; bytes.len()];
        stream.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes);
    }
}

/// In a test whose runtime has a single thread.
#[tokio::test]
async fn it_is_made_used_and_dropped_within_a_runtime() {
    let relay = Relay::target(11, echo());
    let stream = tokio::net::TcpStream::connect(relay.address()).await.unwrap();
    relay.refuse(true);
    relay.refuse(false);
    relay.cut(End::Fin);
    drop((stream, relay));
}
