//! One connection with its session. A task manages both: it connects, sets the session up, retransmits calls that a lost
//! connection left without a reply, renews the lease, and finally destroys the session.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    compound::{Compound, Message},
    error::{Error, Result},
    handshake::{Handshake, RPC_OVERHEAD_BYTES},
    identity::{ClientOwner, ServerIdentity},
    options::Options,
    session::Session,
    transport::{self, BoxedWriter, RecordReader, dial},
};

/// Backoff between attempts to connect.
const INITIAL_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// A connection on which the oldest call has waited this long for its reply is considered dead.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of setting a session up: a server that has restarted may be in its grace period.
const SESSION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long closing waits for outstanding replies, and for destroying the session.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of calls in flight from which it pays to wait for more than one reply.
const COALESCE_MIN_IN_FLIGHT: u32 = 8;
/// Below this round-trip time, processing dominates and the network does not.
const NEAR_SERVER_RTT: Duration = Duration::from_micros(300);
/// How long a retired session waits for its changes to be fenced before a new session replaces it.
const RETIRING_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that has received nothing for the lease time plus this margin is assumed to have discarded the client (RFC
/// 8881, section 8.3).
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// State of a connection.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The first attempt has not ended.
    Connecting,
    /// The last attempt failed for this reason; `None` if the connection was up before and no attempt has failed since.
    Down(Option<Arc<io::Error>>),
    Up(Arc<Session>, Arc<ServerIdentity>),
    Closed,
}

/// Handle of a connection, which is managed until the handle is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub state: watch::Receiver<State>,
    close_tx: watch::Sender<bool>,
}

impl Connection {
    /// Begins to connect. Must be called in a tokio runtime.
    pub fn new(options: Arc<Options>) -> Result<Self> {
        let (state_tx, state) = watch::channel(State::Connecting);
        let (close_tx, close_rx) = watch::channel(false);
        let owner = Arc::new(ClientOwner::new(Arc::clone(&options))?);
        let manager = ConnectionManager {
            options,
            owner,
            state_tx,
            close_rx,
            session: None,
            epoch: 0,
            last_reply: Instant::now(),
        };
        tokio::spawn(manager.run());
        Ok(Self { state, close_tx })
    }

    /// The session, if it takes calls.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Up(session, _) if !session.slots.is_closed() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Destroys the session and closes the connection.
    pub async fn close(&self) {
        let _ = self.close_tx.send(true);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Closed)).await;
    }
}

struct ConnectionManager {
    options: Arc<Options>,
    owner: Arc<ClientOwner>,
    state_tx: watch::Sender<State>,
    close_rx: watch::Receiver<bool>,
    session: Option<(Arc<Session>, Arc<ServerIdentity>)>,
    epoch: u64,
    /// When the last reply came.
    last_reply: Instant,
}

/// Why a connection ended.
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
                if self.last_reply.elapsed() > session.attrs.lease_time + LEASE_MARGIN {
                    session.mark_lost();
                }
                if session.is_lost() {
                    self.session = None;
                }
            }
            // A connection that lasted for a while is replaced at once.
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
    /// Connects, and sets a session up unless there is one.
    async fn connect(&mut self) -> Result<(BoxedWriter, RecordReader), End> {
        let deadline = self.options.connect_timeout;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {deadline:?}"));
        let (mut writer, mut reader) =
            timeout(deadline, dial(&self.options, self.options.address)).await.map_err(late)??;
        if self.session.as_ref().is_none_or(|(session, _)| session.is_retired()) {
            if let Some((retired, _)) = &self.session {
                wait_for_late_calls(retired).await;
            }
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the server grants no session");
            let made = timeout(deadline.max(SESSION_TIMEOUT), self.establish(&mut writer, &mut reader))
                .await
                .map_err(late)??;
            // The new client ID makes the server discard the owner's earlier one. Calls that it is executing continue.
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
        let made = Handshake::new(writer, reader, &self.owner.rpc_header).establish(&self.owner, self.epoch).await?;
        self.last_reply = Instant::now();
        let (session, server) = (Arc::new(made.0), Arc::new(made.1));
        let (owner, fenced, its) = (Arc::clone(&self.owner), Arc::clone(&session), Arc::clone(&server));
        tokio::spawn(async move { owner.fence(&fenced, &its).await });
        Ok((session, server))
    }

    /// Uses the connection until it fails or the client is closed.
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
            // Nothing else uses the connection any more.
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
        let mut ticks = tokio::time::interval((session.attrs.lease_time / 3).min(REPLY_TIMEOUT / 4));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let began = Instant::now();
        let is_near = session.attrs.round_trip < NEAR_SERVER_RTT;
        let mut peers = PeerYield { not_before: began };
        // Deadline for outstanding replies, while the client is being closed.
        let mut drain_deadline = None;
        loop {
            if drain_deadline.is_some() && session.in_flight() == 0 {
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
                    // The server has discarded the client, too.
                    if self.last_reply.elapsed() > session.attrs.lease_time + LEASE_MARGIN {
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
                _ = close_rx.wait_for(|close_rx| *close_rx), if drain_deadline.is_none() => {
                    drain_deadline = Some(Instant::now() + DESTROY_TIMEOUT);
                    session.slots.close();
                }
                () = session.lost.notified() => return Error::SessionLost.into(),
                // The remaining calls have no reply.
                () = tokio::time::sleep_until(drain_deadline.unwrap_or_else(Instant::now)), if drain_deadline.is_some() => {
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
        Handshake::new(&mut writer, &mut reader, &self.owner.rpc_header).destroy(session.id, session.client_id).await
    }
}

/// Waits up to [`RETIRING_TIMEOUT`] until the late changes of a retired session are fenced, which works only while the
/// server has the session.
async fn wait_for_late_calls(session: &Session) {
    let end = Instant::now() + RETIRING_TIMEOUT;
    while session.has_late_calls() && Instant::now() < end {
        tokio::time::sleep(INITIAL_BACKOFF).await;
    }
}

/// Yields the processor to a server on this machine and to other threads of this process.
struct PeerYield {
    not_before: Instant,
}

impl PeerYield {
    /// Yields before the next read, so that replies arrive in batches, and so do the calls that follow them: a wake-up for
    /// each reply costs both sides more than the reply itself. If another thread keeps the processor for longer than
    /// `MAX_YIELD`, this does not yield for 32 times as long, so that it gives away at most about 3 % of the time.
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

/// Processes a record, and those that were read together with it.
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

/// Sends an empty SEQUENCE to renew the lease, unless another call is in flight.
fn renew_lease(session: &Session) {
    if session.in_flight() == 0
        && let Ok(permit) = session.slots.try_acquire()
    {
        permit.forget();
        // The reply is discarded.
        let _ = session.submit(&Compound::new(), false);
    }
}
