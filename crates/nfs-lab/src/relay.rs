//! A TCP relay that stands for one mount target. It counts traffic, and on demand delays, throttles, cuts, hangs,
//! refuses, reorders or alters it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
        unix::pipe,
    },
    runtime::{Builder, Runtime},
    select,
    sync::{Notify, mpsc, watch},
};

use crate::record::{RecordTracker, framed, unframed};

/// Bytes to read at once.
const PIECE: usize = 256 << 10;
/// Maximum number of pieces in flight per direction: more than any delay needs, and bounded.
const PIECES: usize = 4096;
/// How long a RST waits until the receiver has read the bytes before it.
const READS_WITHIN: Duration = Duration::from_secs(1);

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// How both sides of a connection are closed: FIN or RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// What happens after the last byte of [`Handle::after`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// The connection is closed.
    Cut(End),
    /// The relay hangs, as by [`Handle::hang`].
    Hang,
}

/// What happens to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Drop,
    Duplicate,
    /// Delivered after this many later records of its connection and direction.
    Reorder(usize),
    /// Dropped, and this record is sent back instead.
    Reply(Vec<u8>),
    /// The connection is closed.
    Cut(End),
}

/// Traffic counters. A record is counted before it is forwarded, so before the receiver can react to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections, and connections ever accepted.
    pub open: usize,
    pub connections: u64,
    /// RPC records and bytes from clients.
    pub calls: u64,
    pub bytes_to_server: u64,
    /// RPC records and bytes from the server.
    pub replies: u64,
    pub bytes_to_client: u64,
}

type Hook = Arc<Mutex<dyn FnMut(Direction, &mut Vec<u8>) -> Action + Send>>;

/// Limits calls per second, in the order of their arrival. Clones share the limit: one for several relays simulates a
/// throttled file system.
#[derive(Clone, Debug)]
pub struct Throttle {
    interval: Duration,
    /// When the next call may pass.
    next: Arc<Mutex<Instant>>,
}

impl Throttle {
    pub fn new(calls_per_second: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / calls_per_second);
        Self { interval, next: Arc::new(Mutex::new(Instant::now())) }
    }

    /// When a call that arrives now passes.
    fn pass(&self) -> Instant {
        let mut next = locked(&self.next);
        let pass = Instant::now().max(*next);
        *next = pass + self.interval;
        pass
    }
}

#[derive(Default)]
struct Settings {
    delays: [Duration; 2],
    throttle: Option<Throttle>,
    hangs: bool,
    hook: Option<Hook>,
}

struct Shared {
    address: SocketAddr,
    to: SocketAddr,
    settings: watch::Sender<Settings>,
    /// Remaining bytes per direction, and what happens after them.
    limits: Mutex<[Option<(usize, AtLimit)>; 2]>,
    cut: watch::Sender<End>,
    /// `None` while it refuses connections.
    listener: Mutex<Option<TcpListener>>,
    listens: Notify,
    runtime: tokio::runtime::Handle,
    open: AtomicUsize,
    connections: AtomicU64,
    records: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
}

/// Controls a running relay. Every method affects all of its connections at once, and none blocks.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// A relay. Dropping it closes its connections.
pub struct Relay {
    handle: Handle,
    /// A runtime of its own, so that a busy test does not delay it, and tests without a runtime can use it.
    runtime: Option<Runtime>,
}

impl Relay {
    /// Starts a relay at 127.0.0.`number`, on any free port, to a server.
    pub fn target(number: u8, to: SocketAddr) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, number], 0)), to)
    }

    /// Starts a relay at a given address.
    pub fn at(listen: SocketAddr, to: SocketAddr) -> Self {
        assert!(listen.ip().is_loopback() && to.ip().is_loopback(), "a lab is on one machine: {listen}, {to}");
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("relay").enable_io().build().unwrap();
        let _within = runtime.enter();
        let listener = listen_at(listen);
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            to,
            settings: watch::Sender::default(),
            limits: Mutex::default(),
            cut: watch::Sender::new(End::Fin),
            listener: Mutex::new(Some(listener)),
            listens: Notify::new(),
            runtime: runtime.handle().clone(),
            open: AtomicUsize::new(0),
            connections: AtomicU64::new(0),
            records: Default::default(),
            bytes: Default::default(),
        });
        runtime.spawn(accept(Arc::clone(&shared)));
        Self { handle: Handle(shared), runtime: Some(runtime) }
    }
}

impl Deref for Relay {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Handles can outlive the relay.
        *locked(&self.handle.0.listener) = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Handle {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub fn port(&self) -> u16 {
        self.0.address.port()
    }

    pub fn ip(&self) -> IpAddr {
        self.0.address.ip()
    }

    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let [calls, replies] = self.0.records.each_ref().map(count);
        let [bytes_to_server, bytes_to_client] = self.0.bytes.each_ref().map(count);
        let (open, connections) = (self.0.open.load(Ordering::Acquire), count(&self.0.connections));
        Counts { open, connections, calls, bytes_to_server, replies, bytes_to_client }
    }

    /// Delays the data of one direction that arrives from now on. Order and throughput stay, and connecting is not
    /// delayed.
    pub fn delay(&self, way: Direction, delay: Duration) {
        self.0.settings.send_modify(|settings| settings.delays[way as usize] = delay);
    }

    /// Delays a round trip: half of it in each direction.
    pub fn delay_round_trip(&self, delay: Duration) {
        self.0.settings.send_modify(|settings| settings.delays = [delay / 2; 2]);
    }

    /// Limits calls that arrive from now on; `None` for no limit.
    pub fn throttle(&self, throttle: Option<&Throttle>) {
        self.0.settings.send_modify(|settings| settings.throttle = throttle.cloned());
    }

    /// Accepts and keeps connections, and forwards nothing. Afterwards all data is forwarded.
    pub fn hang(&self, hangs: bool) {
        self.0.settings.send_modify(|settings| settings.hangs = hangs);
    }

    /// Refuses new connections with a RST. Existing connections stay.
    pub fn refuse(&self, refuses: bool) {
        let _within = self.0.runtime.enter();
        let mut listener = locked(&self.0.listener);
        if refuses {
            let Some(Ok(listener)) = listener.take().map(TcpListener::into_std) else { return };
            // Connections that the kernel has already accepted.
            while let Ok((client, _)) = listener.accept() {
                client.set_nonblocking(true).unwrap();
                welcome(&self.0, TcpStream::from_std(client).unwrap());
            }
        } else if listener.is_none() {
            *listener = Some(listen_at(self.0.address));
            self.0.listens.notify_one();
        }
    }

    /// Closes all connections, also while the relay hangs. Delayed data is lost.
    pub fn cut(&self, end: End) {
        self.0.cut.send_replace(end);
    }

    /// Forwards exactly this many more bytes, over all connections together, and then acts once. With 0 it acts when
    /// the next byte would be forwarded. Before a RST, a receiver that does not read may lose bytes.
    pub fn after(&self, way: Direction, bytes: usize, then: AtLimit) {
        locked(&self.0.limits)[way as usize] = Some((bytes, then));
    }

    /// Calls a hook with every whole record without its headers. The hook may alter the record, and decides what
    /// happens to it. A record that was partly forwarded before is not passed to the hook.
    pub fn on_record(&self, hook: impl FnMut(Direction, &mut Vec<u8>) -> Action + Send + 'static) {
        self.0.settings.send_modify(|settings| settings.hook = Some(Arc::new(Mutex::new(hook))));
    }

    /// Does this to the next record, and passes the others.
    pub fn on_next(&self, way: Direction, act: Action) {
        let mut act = Some(act);
        self.on_record(move |its, _| act.take_if(|_| its == way).unwrap_or(Action::Pass));
    }

    /// Removes the hook.
    pub fn pass_records(&self) {
        self.0.settings.send_modify(|settings| settings.hook = None);
    }
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Must be called in a runtime. The standard library sets `SO_REUSEADDR`, so connections in TIME_WAIT do not prevent
/// it.
fn listen_at(address: SocketAddr) -> TcpListener {
    let listener = std::net::TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

async fn accept(shared: Arc<Shared>) {
    loop {
        let accepted = std::future::poll_fn(|context| match &*locked(&shared.listener) {
            Some(listener) => listener.poll_accept(context),
            None => std::task::Poll::Pending,
        });
        select! {
            accepted = accepted => if let Ok((client, _)) = accepted {
                welcome(&shared, client);
            },
            () = shared.listens.notified() => {}
        }
    }
}

fn welcome(shared: &Arc<Shared>, client: TcpStream) {
    shared.connections.fetch_add(1, Ordering::AcqRel);
    shared.open.fetch_add(1, Ordering::AcqRel);
    // From here on the connection can be cut.
    let (cut, shared) = (shared.cut.subscribe(), Arc::clone(shared));
    tokio::spawn(async move {
        connection(&shared, client, cut).await;
        shared.open.fetch_sub(1, Ordering::AcqRel);
    });
}

async fn connection(shared: &Shared, mut client: TcpStream, mut cut: watch::Receiver<End>) {
    let mut server = None;
    let end = {
        let relayed = async {
            shared.no_longer_hangs().await;
            let server = server.insert(TcpStream::connect(shared.to).await?);
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            let (calls, replies) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
            tokio::try_join!(
                take(shared, Direction::ToServer, from_client, &calls.0, &replies.0),
                take(shared, Direction::ToClient, from_server, &replies.0, &calls.0),
                give(shared, Direction::ToServer, calls.1, to_server),
                give(shared, Direction::ToClient, replies.1, to_client),
            )
        };
        let relayed = async {
            let end = match relayed.await {
                Ok(_) => End::Fin,
                Err(Ends::By(end)) => end,
                Err(Ends::Failed) => End::Reset,
            };
            // While the relay hangs, it does not forward the end of a connection either.
            shared.no_longer_hangs().await;
            end
        };
        select! {
            biased;
            _ = cut.changed() => *cut.borrow(),
            end = relayed => end,
        }
    };
    for mut stream in [Some(client), server].into_iter().flatten() {
        if end == End::Reset {
            let _ = stream.set_zero_linger();
        } else {
            let _ = stream.shutdown().await;
            // Otherwise unread data would turn the FIN into a RST.
            let mut rest = [0; 4096];
            while stream.try_read(&mut rest).is_ok_and(|read| read > 0) {}
        }
    }
}

/// Why a connection ends before both sides have closed it.
enum Ends {
    By(End),
    Failed,
}

impl From<io::Error> for Ends {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

/// Bytes and when they are due; `None` is the end of the direction.
type Piece = (Instant, Option<Vec<u8>>);

/// Receives from one side.
async fn take(
    shared: &Shared,
    way: Direction,
    mut from: ReadHalf<'_>,
    on: &mpsc::Sender<Piece>,
    back: &mpsc::Sender<Piece>,
) -> Result<(), Ends> {
    let due = |way: Direction| Instant::now() + shared.settings.borrow().delays[way as usize];
    let (mut marking, mut buffer) = (RecordTracker::default(), vec![0; PIECE]);
    // The record so far that will be passed to the hook, and records that wait to be overtaken.
    let (mut record, mut waiting) = (Vec::new(), Vec::<(usize, Vec<u8>)>::new());
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            let _ = on.send((due(way), None)).await;
            return Ok(());
        }
        let due_now = due(way);
        shared.bytes[way as usize].fetch_add(read as u64, Ordering::AcqRel);
        let (hook, throttle) = {
            let settings = shared.settings.borrow();
            (settings.hook.clone(), settings.throttle.clone().filter(|_| way == Direction::ToServer))
        };
        let (mut start, mut at) = (0, 0);
        while at < read {
            let shown = !record.is_empty() || (hook.is_some() || throttle.is_some()) && marking.is_between();
            if shown && start < at {
                let _ = on.send((due_now, Some(buffer[start..at].to_vec()))).await;
            }
            let (length, ended) = marking.advance(&buffer[at..read]);
            at += length;
            shared.records[way as usize].fetch_add(u64::from(ended), Ordering::AcqRel);
            if !shown {
                continue;
            }
            record.extend_from_slice(&buffer[at - length..at]);
            start = at;
            if !ended {
                continue;
            }
            let mut shown = unframed(&std::mem::take(&mut record));
            let act = hook.as_ref().map_or(Action::Pass, |hook| locked(hook)(way, &mut shown));
            let mut passed = Vec::new();
            match act {
                Action::Pass => passed.push(framed(&shown)),
                Action::Duplicate => passed.extend([framed(&shown), framed(&shown)]),
                Action::Reorder(others) => waiting.push((others, framed(&shown))),
                Action::Drop => {}
                Action::Reply(answer) => {
                    let way = if way == Direction::ToServer { Direction::ToClient } else { Direction::ToServer };
                    let _ = back.send((due(way), Some(framed(&answer)))).await;
                }
                Action::Cut(end) => return Err(Ends::By(end)),
            }
            if !passed.is_empty() {
                waiting.iter_mut().for_each(|(others, _)| *others = others.saturating_sub(1));
                passed.extend(waiting.extract_if(.., |(others, _)| *others == 0).map(|(_, record)| record));
            }
            for record in passed {
                let turn = throttle.as_ref().map_or(due_now, Throttle::pass);
                let _ = on.send((due_now.max(turn), Some(record))).await;
            }
        }
        if start < read && record.is_empty() {
            let _ = on.send((due_now, Some(buffer[start..read].to_vec()))).await;
        }
    }
}

/// Sends to the other side when the data is due.
async fn give(
    shared: &Shared,
    way: Direction,
    mut pieces: mpsc::Receiver<Piece>,
    mut to: WriteHalf<'_>,
) -> Result<(), Ends> {
    let mut clock = Clock::new()?;
    while let Some((due, piece)) = pieces.recv().await {
        clock.wait_until(due).await?;
        let Some(piece) = piece else {
            shared.no_longer_hangs().await;
            to.shutdown().await?;
            break;
        };
        let mut left = &piece[..];
        while !left.is_empty() {
            shared.no_longer_hangs().await;
            let (now, then) = shared.limit(way, left.len());
            to.write_all(&left[..now]).await?;
            left = &left[now..];
            match then {
                Some(AtLimit::Cut(end)) => {
                    // A RST would overtake data that does not fit into the receiver's buffer.
                    let until = Instant::now() + READS_WITHIN;
                    while end == End::Reset && is_under_way(to.as_ref())? && Instant::now() < until {
                        clock.wait_until(Instant::now() + Duration::from_millis(1)).await?;
                    }
                    return Err(Ends::By(end));
                }
                Some(AtLimit::Hang) => shared.settings.send_modify(|settings| settings.hangs = true),
                None => {}
            }
        }
    }
    Ok(())
}

/// Whether the peer has not yet acknowledged all data.
fn is_under_way(stream: &TcpStream) -> io::Result<bool> {
    // Addresses as the kernel formats them in the table.
    let name = |address| match address {
        SocketAddr::V4(address) => format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()),
        SocketAddr::V6(_) => String::new(),
    };
    let (ours, theirs) = (name(stream.local_addr()?), name(stream.peer_addr()?));
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let mut rows = table.lines().map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    let row = rows.find(|row| row[0] == ours && row[1] == theirs);
    Ok(row.is_some_and(|row| !row[3].starts_with("00000000:")))
}

impl Shared {
    async fn no_longer_hangs(&self) {
        if self.settings.borrow().hangs {
            let _ = self.settings.subscribe().wait_for(|settings| !settings.hangs).await;
        }
    }

    /// How many of these bytes to forward, and what happens then.
    fn limit(&self, way: Direction, bytes: usize) -> (usize, Option<AtLimit>) {
        let limit = &mut locked(&self.limits)[way as usize];
        match limit {
            Some((left, then)) if *left <= bytes => {
                let reached = (*left, Some(*then));
                *limit = None;
                reached
            }
            Some((left, _)) => {
                *left -= bytes;
                (bytes, None)
            }
            None => (bytes, None),
        }
    }
}

/// A kernel timer, since tokio's timer has a resolution of a millisecond. Tokio reads the timerfd like a pipe.
struct Clock(pipe::Receiver);

impl Clock {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    async fn wait_until(&mut self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
            let once = Itimerspec { it_interval: Timespec::default(), it_value };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
            self.0.read_u64().await?;
        }
        Ok(())
    }
}
