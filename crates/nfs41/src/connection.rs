//! One connection with its session. A task of its own keeps both: it connects, makes the session, sends again what a
//! lost connection has left without an answer, renews the lease, and says goodbye.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    Options,
    compound::{self, Compound, Message},
    error::{Error, Result},
    fence::Origin,
    handshake::{Handshake, RPC_OVERHEAD_BYTES},
    session::Session,
    transport::{self, BoxedWriter, RecordReader, dial},
};

/// Pauses between tries to connect.
const INITIAL_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long the server may leave all calls without an answer before the connection is thought dead.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// What a server may take until it has a session again after its start.
const SESSION_TIMEOUT: Duration = Duration::from_secs(120);
/// What was sent is waited for so long at the end.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls in flight, so that it is worth waiting for more than one answer.
const COALESCE_MIN_IN_FLIGHT: u32 = 8;
/// A server that answers faster than this is near: what is done there and here takes longer than the way.
const NEAR_SERVER_RTT: Duration = Duration::from_micros(300);
/// How long a session that is given up waits until its changes have ended.
const RETIRING_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that has heard nothing of a client for its lease and this long gives the client up (RFC 8881, section 8.3).
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// Who the server says it is: several addresses with one owner and scope are one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerIdentity {
    pub owner_major: Bytes,
    pub owner_minor: u64,
    pub scope: Bytes,
    /// Its program, where it says so.
    pub implementation: Option<String>,
}

impl ServerIdentity {
    /// One server, maybe at another of its addresses (RFC 8881, section 2.10.5).
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.owner_major, &self.scope) == (&other.owner_major, &other.scope)
    }
}

/// What the connection is like.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The first try has not ended yet.
    Connecting,
    /// The last try failed for this reason; none that has failed since there was a connection.
    Down(Option<Arc<io::Error>>),
    Up(Arc<Session>, Arc<ServerIdentity>),
    Closed,
}

/// A connection that is kept until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub state: watch::Receiver<State>,
    close_tx: watch::Sender<bool>,
}

impl Connection {
    /// Begins to connect. In a runtime of tokio.
    pub fn new(options: Arc<Options>) -> Result<Self> {
        let rpc_header = compound::rpc_header(&options.credentials.encode()?);
        let (state_tx, state) = watch::channel(State::Connecting);
        let (close_tx, close_rx) = watch::channel(false);
        let origin = Arc::new(Origin::new(Arc::clone(&options), rpc_header, co_ownerid()));
        let manager = ConnectionManager {
            options,
            origin,
            state_tx,
            close_rx,
            session: None,
            epoch: 0,
            last_reply: Instant::now(),
        };
        tokio::spawn(manager.run());
        Ok(Self { state, close_tx })
    }

    /// The one that calls may be made in, if there is one now.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Up(session, _) if !session.slots.is_closed() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Ends the session at the server, too.
    pub async fn close(&self) {
        let _ = self.close_tx.send(true);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Closed)).await;
    }
}

/// No other client has it, nor another connection of this one: the time of the start, the process and a count.
pub(crate) fn co_ownerid() -> Bytes {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("nfs41 {now:x} {random:x} {} {count}", std::process::id()).into()
}

struct ConnectionManager {
    options: Arc<Options>,
    origin: Arc<Origin>,
    state_tx: watch::Sender<State>,
    close_rx: watch::Receiver<bool>,
    session: Option<(Arc<Session>, Arc<ServerIdentity>)>,
    epoch: u64,
    /// When the server last answered.
    last_reply: Instant,
}

/// Why a connection is not used any more.
enum End {
    Closed,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(err: io::Error) -> Self {
        Self::Failed(err)
    }
}

impl From<Error> for End {
    fn from(err: Error) -> Self {
        Self::Failed(err.into())
    }
}

impl ConnectionManager {
    async fn run(mut self) {
        let mut pause = INITIAL_BACKOFF;
        let mut close_rx = self.close_rx.clone();
        loop {
            let began = Instant::now();
            let end = tokio::select! {
                biased;
                _ = close_rx.wait_for(|close_rx| *close_rx) => Err(End::Closed),
                connected = self.connect() => connected,
            };
            let (end, was_up) = match end {
                Ok((writer, reader)) => (self.drive(writer, reader).await, true),
                Err(end) => (end, false),
            };
            match end {
                End::Closed => break,
                End::Failed(err) => {
                    tracing::debug!(address = %self.options.address, error = %err, "no connection to the NFS server");
                    self.state_tx.send_replace(State::Down((!was_up).then(|| Arc::new(err))));
                }
            }
            if let Some((session, _)) = &self.session {
                session.detach();
                if self.last_reply.elapsed() > session.attrs.lease + LEASE_MARGIN {
                    session.mark_lost();
                }
                if session.is_lost() {
                    self.session = None;
                }
            }
            // One that held for a while is made again at once.
            pause =
                if was_up && began.elapsed() > MAX_BACKOFF { INITIAL_BACKOFF } else { (pause * 2).min(MAX_BACKOFF) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = close_rx.wait_for(|close_rx| *close_rx) => break,
            }
        }
        if let Some((session, _)) = &self.session {
            session.abandon();
        }
        self.state_tx.send_replace(State::Closed);
    }
}

impl ConnectionManager {
    /// A connection with a session.
    async fn connect(&mut self) -> Result<(BoxedWriter, RecordReader), End> {
        let deadline = self.options.connect_timeout;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {deadline:?}"));
        let (mut writer, mut reader) =
            timeout(deadline, dial(&self.options, self.options.address)).await.map_err(late)??;
        if self.session.as_ref().is_none_or(|(session, _)| session.is_retired()) {
            if let Some((retired, _)) = &self.session {
                wait_for_late_calls(retired).await;
            }
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the server gives no session");
            let made = timeout(deadline.max(SESSION_TIMEOUT), self.establish(&mut writer, &mut reader))
                .await
                .map_err(late)??;
            // The server gives up an earlier client of the same owner with that. What it is still executing goes on.
            if let Some((retired, _)) = self.session.replace(made) {
                retired.abandon();
            }
        }
        Ok((writer, reader))
    }

    async fn establish(
        &mut self,
        writer: &mut BoxedWriter,
        reader: &mut RecordReader,
    ) -> io::Result<(Arc<Session>, Arc<ServerIdentity>)> {
        self.epoch += 1;
        let made = Handshake::new(writer, reader, &self.origin.rpc_header).establish(&self.origin, self.epoch).await?;
        self.last_reply = Instant::now();
        let (session, server) = (Arc::new(made.0), Arc::new(made.1));
        let (origin, guarded, its) = (Arc::clone(&self.origin), Arc::clone(&session), Arc::clone(&server));
        tokio::spawn(async move { origin.fence(&guarded, &its).await });
        Ok((session, server))
    }

    /// Until it fails, or this client is closed.
    async fn drive(&mut self, writer: BoxedWriter, mut reader: RecordReader) -> End {
        let Some((session, server)) = self.session.clone() else { return End::Closed };
        reader.max_record_bytes = session.attrs.max_response_bytes + RPC_OVERHEAD_BYTES as usize;
        let (sender, receiver) = mpsc::unbounded_channel();
        session.attach(sender.clone());
        self.state_tx.send_replace(State::Up(Arc::clone(&session), server));
        let mut writer = tokio::spawn(transport::write(writer, receiver, Arc::clone(&session)));
        let end = self.receive(&session, &mut reader, &sender).await;
        session.detach();
        if let End::Closed = end {
            // The session's last calls, on a connection that nobody else uses any more.
            drop(sender);
            if let Ok(Ok(Ok(writer))) = timeout(DESTROY_TIMEOUT, &mut writer).await {
                let _ = timeout(DESTROY_TIMEOUT, self.destroy_session(&session, writer, reader)).await;
            }
        }
        writer.abort();
        end
    }

    async fn receive(
        &mut self,
        session: &Arc<Session>,
        reader: &mut RecordReader,
        link: &mpsc::UnboundedSender<Message>,
    ) -> End {
        let mut close_rx = self.close_rx.clone();
        let mut ticks = tokio::time::interval((session.attrs.lease / 3).min(REPLY_TIMEOUT / 4));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let began = Instant::now();
        let is_near = session.attrs.round_trip < NEAR_SERVER_RTT;
        let mut peers = PeerYield { not_before: began };
        // Until when what is on its way may have its answer.
        let mut close_tx = None;
        loop {
            if close_tx.is_some() && session.in_flight() == 0 {
                return End::Closed;
            }
            let coalesces = session.in_flight() >= COALESCE_MIN_IN_FLIGHT;
            reader.set_bulk(coalesces);
            if coalesces && is_near {
                peers.yield_to_peers();
            }
            tokio::select! {
                record = reader.next() => {
                    self.last_reply = Instant::now();
                    if let Err(err) = process_records(session, record, reader) {
                        match &err {
                            End::Failed(err) if err.get_ref().is_some_and(is_lost) => session.mark_lost(),
                            End::Failed(err) if err.get_ref().is_some_and(needs_new_session) => session.retire(),
                            _ => {}
                        }
                        return err;
                    }
                }
                _ = ticks.tick() => {
                    // As the server sees it, too: it has given this client up.
                    if self.last_reply.elapsed() > session.attrs.lease + LEASE_MARGIN {
                        session.mark_lost();
                        return io::Error::new(io::ErrorKind::TimedOut, "the lease is over").into();
                    }
                    let silent = self.last_reply.max(began).elapsed();
                    let waiting = session.oldest_call().map(|since| since.elapsed()).unwrap_or_default();
                    if silent > REPLY_TIMEOUT && waiting > REPLY_TIMEOUT {
                        return io::Error::new(io::ErrorKind::TimedOut, "the server does not answer any more").into();
                    }
                    if link.is_closed() {
                        return io::Error::from(io::ErrorKind::BrokenPipe).into();
                    }
                    renew_lease(session);
                }
                _ = close_rx.wait_for(|close_rx| *close_rx), if close_tx.is_none() => {
                    close_tx = Some(Instant::now() + DESTROY_TIMEOUT);
                    session.slots.close();
                }
                () = session.lost.notified() => return Error::SessionLost.into(),
                // Whoever is left then has no answer.
                () = tokio::time::sleep_until(close_tx.unwrap_or_else(Instant::now)), if close_tx.is_some() => {
                    session.abandon();
                }
            }
        }
    }

    async fn destroy_session(
        &self,
        session: &Session,
        mut writer: BoxedWriter,
        mut reader: RecordReader,
    ) -> io::Result<()> {
        Handshake::new(&mut writer, &mut reader, &self.origin.rpc_header).destroy(session.id, session.client_id).await
    }
}

/// Late changes in a session that is not used any more are fenced while the server has it still: some time is given to that.
async fn wait_for_late_calls(session: &Session) {
    let end = Instant::now() + RETIRING_TIMEOUT;
    while session.has_late_calls() && Instant::now() < end {
        tokio::time::sleep(INITIAL_BACKOFF).await;
    }
}

/// Whoever else has work for the processors: a server that is on this machine, and the rest of this process.
struct PeerYield {
    not_before: Instant,
}

impl PeerYield {
    /// Lets them run before more is read, so that answers come together and so do the calls that follow from them: to
    /// be woken for each costs both sides more than the answer itself. Not for a while where somebody has kept the
    /// processor, who would do so again: for what it brings, at most a few hundredths of the time are given away.
    fn yield_to_peers(&mut self) {
        const MAX_YIELD: Duration = Duration::from_millis(1);
        let began = Instant::now();
        if began >= self.not_before {
            std::thread::yield_now();
            let took = began.elapsed();
            if took > MAX_YIELD {
                self.not_before = began + took * 32;
            }
        }
    }
}

/// This record, and those that have come with it.
fn process_records(session: &Arc<Session>, first: io::Result<Bytes>, reader: &mut RecordReader) -> Result<(), End> {
    let mut next = Some(first?);
    while let Some(record) = next {
        if let Some(later) = session.on_reply(record)? {
            let session = Arc::clone(session);
            tokio::spawn(async move {
                tokio::time::sleep(later.delay).await;
                session.retransmit(later.id);
            });
        }
        next = reader.next_buffered()?;
    }
    Ok(())
}

fn is_lost(err: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(err.downcast_ref(), Some(Error::SessionLost))
}

fn needs_new_session(err: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(err.downcast_ref(), Some(Error::Protocol(_)))
}

/// Says that this client is still there, if nothing else is on its way to say so.
fn renew_lease(session: &Session) {
    if session.in_flight() == 0
        && let Ok(permit) = session.slots.try_acquire()
    {
        permit.forget();
        // Nobody waits for the answer.
        let _ = session.submit(&Compound::new(), false);
    }
}
