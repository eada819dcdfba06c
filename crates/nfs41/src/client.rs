//! What one may do, and how a call finds its connection, its session and its slot.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{SemaphorePermit, oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::{
    budget::{Backoff, Budget, TimeLimit},
    compound::{Compound, CompoundReply, Op},
    connection::{Connection, ServerIdentity, State},
    error::{Error, Result},
    fence::AlternateAddresses,
    open::futures,
    path::Path,
    put::Ownership,
    rpc::{self, Credentials},
    session::{CallError, CallId, ChannelAttrs, Reply, Session},
    status::Status,
};

/// Pauses where the server says later.
const INITIAL_BACKOFF: Duration = Duration::from_millis(15);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a client that is closed waits for what tidies up.
const CLEANUP_WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// After the deadline of a change that has no answer, whoever waits for it waits this long to know whether it is fenced.
const FENCING_TIMEOUT: Duration = Duration::from_secs(2);
/// What a compound has besides the way to a directory, at most; and that way is in it twice, at most.
const MAX_NON_LOOKUP_OPS: usize = 22;

/// Where the server is, and what is asked of it.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: SocketAddr,
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Tls>,
    pub credentials: Credentials,
    /// The directory at the server that is the root of all paths.
    pub root: Vec<u8>,
    /// Each is another client for the server. At least 1.
    pub connections: usize,
    /// Calls on their way at once, for each connection, if the server lets there be so many. 1 to 256.
    pub max_in_flight: u32,
    /// Bytes of content in one call, if the server takes so many.
    pub max_io_bytes: u32,
    pub connect_timeout: Duration,
    /// How long a call waits where there is no connection.
    pub connect_wait: Duration,
    /// No call is sent after this; `None` for as long as it takes. A change that was sent by then is fenced: see
    /// [`Error::Uncertain`] and [`Error::Pending`]. What needs several calls to walk a deep path has it for each of them;
    /// with [`Client::until`] for all.
    pub operation_timeout: Option<Duration>,
    /// Other addresses of the same file system, to fence what hangs on its way to this one.
    pub alternate_addresses: AlternateAddresses,
}

impl Options {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            #[cfg(feature = "tls")]
            tls: None,
            credentials: Credentials::default(),
            root: Vec::new(),
            connections: 1,
            max_in_flight: 64,
            max_io_bytes: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            connect_wait: Duration::from_secs(10),
            operation_timeout: Some(Duration::from_secs(30)),
            alternate_addresses: AlternateAddresses::default(),
        }
    }
}

/// A client of one server. Cheap to clone; what is cloned is the same client.
///
/// Made in a runtime of tokio; it begins to connect at once and goes on for ever. The last one that is dropped gives
/// up the connections; [`Client::close`] also tells the server.
///
/// | operation | round trips |
/// |---|---|
/// | [`attributes`](Client::attributes), [`read`](Client::read), [`remove`](Client::remove), [`rename`](Client::rename), [`make_directory`](Client::make_directory), [`write`](Client::write), [`put`](Client::put) | 1 |
/// | `put` without a condition where there is nothing | 2 |
/// | [`append`](Client::append) | 3 |
/// | `put` with a condition | 5 |
///
/// More where a path has so many components that the server does not take them in one call, and where the server
/// refuses the stateids that make one of them enough.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    limit: TimeLimit,
    /// Whoever asks for a change wants to know that it has ended, however long that takes.
    awaits_end: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub options: Options,
    connections: Vec<Connection>,
    open_owners: AtomicU32,
    /// Who the last new file belonged to, as the server writes it.
    pub default_ownership: Mutex<Option<Ownership>>,
    /// Tasks that tidy up, and whoever waits until there is none.
    cleanup: watch::Sender<usize>,
    /// The server takes no current stateid.
    pub no_current_stateid: AtomicBool,
    /// Nor one that is none, from a reader.
    anonymous_read_rejected: AtomicBool,
}

/// Something is being tidied up.
#[derive(Debug)]
pub struct CleanupGuard(Arc<Inner>);

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        self.0.cleanup.send_modify(|tasks| *tasks -= 1);
    }
}

/// May a call be sent again when nobody knows whether it was done?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Idempotent {
    Yes,
    No,
}

/// Where a path begins for a compound: at the root, or at a handle that is on its way.
pub(crate) struct PathPrefix<'a> {
    handle: Option<Bytes>,
    names: Vec<&'a [u8]>,
}

impl<'a> PathPrefix<'a> {
    pub fn new(handle: Option<Bytes>, names: Vec<&'a [u8]>) -> Self {
        Self { handle, names }
    }

    pub fn handle(&self) -> Option<&Bytes> {
        self.handle.as_ref()
    }

    /// What its own names and handles are answered with, for whoever does not have it any more.
    pub fn ops(&self) -> Vec<Op> {
        let first = if self.handle.is_none() { Op::PUTROOTFH } else { Op::PUTFH };
        std::iter::once(first).chain(self.names.iter().map(|_| Op::LOOKUP)).collect()
    }

    pub fn encode(&self, compound: &mut Compound) {
        match &self.handle {
            None => compound.op(Op::PUTROOTFH),
            Some(handle) => compound.putfh(handle),
        };
        for name in &self.names {
            compound.lookup(name);
        }
    }

    pub fn decode(&self, results: &mut CompoundReply) -> Result<()> {
        results.expect(if self.handle.is_none() { Op::PUTROOTFH } else { Op::PUTFH })?;
        self.names.iter().try_for_each(|_| results.expect(Op::LOOKUP).map(drop))
    }
}

impl Client {
    /// # Errors
    /// [`Error::BadInput`], [`Error::BadPath`]: an option that cannot be.
    pub fn new(mut options: Options) -> Result<Self> {
        Path::new(&options.root)?;
        options.connections = options.connections.max(1);
        let shared = Arc::new(options.clone());
        let connections =
            (0..options.connections).map(|_| Connection::new(Arc::clone(&shared))).collect::<Result<_>>()?;
        let limit = options.operation_timeout.map_or(TimeLimit::None, TimeLimit::Within);
        let (open_owners, default_ownership, no_current_stateid, anonymous_read_rejected) = Default::default();
        let cleanup = watch::Sender::default();
        let inner = Inner {
            options,
            connections,
            open_owners,
            default_ownership,
            cleanup,
            no_current_stateid,
            anonymous_read_rejected,
        };
        Ok(Self { inner: Arc::new(inner), limit, awaits_end: false })
    }

    /// The same client, whose operations have this long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            limit: timeout.map_or(TimeLimit::None, TimeLimit::Within),
            awaits_end: false,
        }
    }

    /// The same client, whose operations send nothing after this. A change answers when it is known that it was done, or
    /// never will be, however long that takes: never with [`Error::Pending`], unless the client is closed.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self { inner: Arc::clone(&self.inner), limit: TimeLimit::At(deadline), awaits_end: true }
    }

    pub(crate) fn budget(&self, is_change: bool) -> Budget {
        Budget::new(self.limit, is_change)
    }

    /// Ends the sessions and the connections, when what tidies up has ended, or after some seconds. What is asked
    /// afterwards is [`Error::Closed`].
    pub async fn close(&self) {
        let mut cleanup = self.inner.cleanup.subscribe();
        let _ = tokio::time::timeout(CLEANUP_WAIT_TIMEOUT, cleanup.wait_for(|tasks| *tasks == 0)).await;
        for connection in &self.inner.connections {
            connection.close().await;
        }
    }

    /// For as long as this is there, [`Client::close`] waits.
    #[doc(hidden)]
    pub fn cleanup_guard(&self) -> CleanupGuard {
        self.inner.cleanup.send_modify(|tasks| *tasks += 1);
        CleanupGuard(Arc::clone(&self.inner))
    }

    /// Who each connection's server says it is, once all are up.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Closed`].
    pub async fn server_identities(&self) -> Result<Vec<ServerIdentity>> {
        let mut servers = Vec::new();
        for connection in &self.inner.connections {
            let (_, server) = self.wait_connected(connection, &self.budget(false)).await?;
            servers.push((*server).clone());
        }
        Ok(servers)
    }

    /// Some connection has a session.
    pub fn is_connected(&self) -> bool {
        self.inner.connections.iter().any(|connection| matches!(*connection.state.borrow(), State::Up(..)))
    }

    /// Calls that are on their way now.
    pub fn in_flight(&self) -> u32 {
        self.sessions().map(|session| session.in_flight()).sum()
    }

    /// Bytes of calls and answers, both ways, in the sessions that there are now.
    pub fn bytes_transferred(&self) -> u64 {
        self.sessions().map(|session| session.bytes_transferred.load(Ordering::Relaxed)).sum()
    }

    fn sessions(&self) -> impl Iterator<Item = Arc<Session>> {
        self.inner.connections.iter().filter_map(Connection::session)
    }

    /// Uses no memory of the current stateid that an operation before has left: more round trips, for servers that
    /// refuse it. Found out by itself; this is to try it.
    #[doc(hidden)]
    pub fn disable_current_stateid(&self) {
        self.inner.no_current_stateid.store(true, Ordering::Relaxed);
    }

    pub(crate) fn no_current_stateid(&self) -> bool {
        self.inner.no_current_stateid.load(Ordering::Relaxed)
    }

    pub(crate) fn anonymous_read_rejected(&self) -> bool {
        self.inner.anonymous_read_rejected.load(Ordering::Relaxed)
    }

    #[doc(hidden)]
    pub fn disable_anonymous_read(&self) {
        self.inner.anonymous_read_rejected.store(true, Ordering::Relaxed);
    }

    /// Of the connection that has the most slots free; where there is none, of the first that is up again.
    pub(crate) async fn session(&self, budget: &Budget) -> Result<Arc<Session>> {
        let inner = &*self.inner;
        if let Some(session) = self.sessions().max_by_key(|session| session.slots.available_permits()) {
            return Ok(session);
        }
        let mut waiting = futures(inner.connections.len());
        inner.connections.iter().for_each(|connection| waiting.push(Box::pin(self.wait_connected(connection, budget))));
        loop {
            match waiting.next().await {
                Err(_) if !waiting.is_empty() => {}
                last => return Ok(last?.0),
            }
        }
    }

    async fn wait_connected(
        &self,
        connection: &Connection,
        budget: &Budget,
    ) -> Result<(Arc<Session>, Arc<ServerIdentity>)> {
        let Options { address, connect_wait, .. } = &self.inner.options;
        let left = budget.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // The first connection may take as long as there is time: it has not failed, and a server that is slow is not dead.
        if let Some(left) = left {
            let is_decided = |state: &State| !matches!(state, State::Connecting);
            let _ = tokio::time::timeout(left, connection.state.clone().wait_for(is_decided)).await;
        }
        wait_connected(connection, address, left.map_or(*connect_wait, |left| left.min(*connect_wait))).await
    }

    pub(crate) async fn channel_attrs(&self) -> Result<ChannelAttrs> {
        Ok(self.session(&self.budget(false)).await?.attrs)
    }

    /// A number that no other open file of this client has.
    pub(crate) fn next_open_owner(&self) -> u32 {
        self.inner.open_owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends it once: over any connection, or in this session and no other.
    ///
    /// # Errors
    /// The deadline passed before it was sent, or, of what changes nothing, before it was answered.
    pub(crate) async fn send_once(
        &self,
        compound: &Compound,
        only: Option<&Arc<Session>>,
        budget: &Budget,
    ) -> Result<Result<(CompoundReply, Arc<Session>), CallError>> {
        loop {
            let session = match only {
                Some(session) => Arc::clone(session),
                // Why there is no connection is worth more than that the time is over, but to whoever had one.
                None => self.session(budget).await.map_err(|err| match budget.was_sent() && budget.is_over() {
                    true => budget.error(),
                    false => err,
                })?,
            };
            let attrs = &session.attrs;
            if compound.operations() >= attrs.max_operations {
                return Err(Error::BadPath("so many components are more than the server takes in one call"));
            }
            if compound.len() + session.rpc_header.len() + 64 > attrs.max_request_bytes {
                return Err(Error::BadInput("that is more than the server takes in one call"));
            }
            let Some(slot) = budget.wait(session.slots.acquire()).await else { return Err(budget.error()) };
            if slot.map(SemaphorePermit::forget).is_ok() {
                if budget.is_over() {
                    session.slots.add_permits(1);
                    return Err(budget.error());
                }
                if let Some((id, reply)) = session.submit(compound, budget.is_cleanup) {
                    let reply = await_reply(&session, id, reply, compound, budget).await?;
                    return Ok(reply.map(|results| (results, session)));
                }
            }
            if only.is_some() {
                return Err(Error::SessionLost);
            }
        }
    }

    /// Sends it, and again where that is right, until there is an answer or the time is over.
    pub(crate) async fn call_with_retry<T>(
        &self,
        compound: &Compound,
        idempotent: Idempotent,
        budget: &Budget,
        read: impl Fn(CompoundReply, Arc<Session>) -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        let mut was_lost = false;
        // Of a change that may have been done once nothing else is known any more.
        let uncertain_if_lost = |err: Error, was_lost: bool| match was_lost && budget.is_change {
            true => Error::Uncertain("the session was lost"),
            false => err,
        };
        loop {
            let reply = self.send_once(compound, None, budget).await.map_err(|err| uncertain_if_lost(err, was_lost))?;
            let later = match reply {
                Ok((results, session)) => match read(results, session) {
                    Err(err) if err.status().is_some_and(Status::is_delay) => err,
                    other => return other,
                },
                Err(CallError::NotSent) => continue,
                Err(CallError::Refused(err)) if err.status().is_some_and(Status::is_delay) => err,
                Err(CallError::Lost | CallError::ReplyNotCached | CallError::Abandoned)
                    if idempotent == Idempotent::Yes && !budget.is_over() =>
                {
                    was_lost = true;
                    continue;
                }
                // It was never executed, and there is time.
                Err(CallError::Withdrawn) if !budget.is_over() => Error::Refused(rpc::SYSTEM_ERROR),
                Err(fault) => return Err(uncertain_if_lost(fault.error(budget), was_lost)),
            };
            tracing::debug!(error = %later, "the server says later");
            budget.pause(&mut backoff).await.map_err(|err| uncertain_if_lost(err, was_lost))?;
        }
    }

    /// One compound.
    pub(crate) async fn call<T>(
        &self,
        idempotent: Idempotent,
        compound: &Compound,
        read: impl Fn(CompoundReply) -> Result<T>,
    ) -> Result<T> {
        self.call_with_retry(compound, idempotent, &self.budget(false), |results, _| read(results)).await
    }

    /// One compound that changes something.
    pub(crate) async fn call_change<T>(
        &self,
        idempotent: Idempotent,
        compound: &Compound,
        read: impl Fn(CompoundReply) -> Result<T>,
    ) -> Result<T> {
        let budget = self.budget(true);
        self.within_deadline(&budget, self.call_with_retry(compound, idempotent, &budget, |results, _| read(results)))
            .await
    }

    /// What must come to its end whoever waits for it: it leaves something open until then, or changes something.
    pub(crate) async fn run_detached<T: Send + 'static, F>(
        &self,
        is_change: bool,
        work: impl FnOnce(Self, Budget) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let budget = self.budget(is_change);
        // One deadline for all that it asks.
        let limit = budget.deadline().map_or(TimeLimit::None, TimeLimit::At);
        let task = tokio::spawn(work(Self { limit, ..self.clone() }, budget.clone()));
        self.within_deadline(&budget, async { task.await.unwrap_or(Err(Error::Uncertain("its task has ended"))) }).await
    }

    /// What was sent has to end after the deadline; a change has some time to be fenced.
    pub(crate) async fn within_deadline<T>(&self, budget: &Budget, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(deadline) = budget.deadline().filter(|_| !self.awaits_end || !budget.is_change) else {
            return work.await;
        };
        let time = if budget.is_change { FENCING_TIMEOUT } else { Duration::ZERO };
        match timeout_at(deadline + time, work).await {
            Ok(reply) => reply,
            Err(_) if budget.is_change && budget.was_sent() => Err(Error::Pending("no reply came in time")),
            Err(_) => Err(budget.error()),
        }
    }

    /// Where a path begins. A handle on its way is asked for only where the server does not take the whole way at once.
    pub(crate) async fn path_prefix<'a>(&'a self, path: &Path<'a>) -> Result<PathPrefix<'a>> {
        let root = Path::new(&self.inner.options.root)?;
        let mut prefix = PathPrefix { handle: None, names: root.components().chain(path.components()).collect() };
        let at_once =
            ((self.channel_attrs().await?.max_operations as usize).saturating_sub(MAX_NON_LOOKUP_OPS) / 2).max(1);
        while prefix.names.len() > at_once {
            let rest = prefix.names.split_off(at_once);
            let mut compound = Compound::new();
            prefix.encode(&mut compound);
            compound.op(Op::GETFH);
            let handle = self.call(Idempotent::Yes, &compound, |mut results| {
                prefix.decode(&mut results)?;
                results.handle()
            });
            prefix = PathPrefix { handle: Some(handle.await?), names: rest };
        }
        Ok(prefix)
    }
}

/// Waits for the answer to a call. One that changes something, and has none by the deadline, is fenced: then the server
/// has executed it, or never will.
async fn await_reply(
    session: &Session,
    id: CallId,
    mut reply: oneshot::Receiver<Reply>,
    compound: &Compound,
    budget: &Budget,
) -> Result<Reply> {
    let ended = |reply: Result<Reply, _>| reply.unwrap_or(Err(CallError::Abandoned));
    if let Some(reply) = budget.wait(&mut reply).await {
        budget.set_sent();
        return Ok(ended(reply));
    }
    if session.withdraw(id) {
        return Err(budget.error());
    }
    budget.set_sent();
    if compound.cache_this && budget.is_change {
        session.fence_requested.notify_one();
    } else if !compound.opens_state {
        return Err(budget.error());
    }
    // Of what changes nothing: what it opens has to be closed.
    Ok(ended(reply.await))
}

impl CallError {
    /// What is known of a call that had no answer.
    pub fn error(self, budget: &Budget) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::NotSent | Self::Withdrawn => budget.error(),
            Self::Lost => Error::Uncertain("the session was lost"),
            Self::ReplyNotCached => Error::Uncertain("the server has not kept its reply"),
            Self::Abandoned => Error::Pending("its session was given up"),
        }
    }
}

async fn wait_connected(
    connection: &Connection,
    address: &SocketAddr,
    connect_wait: Duration,
) -> Result<(Arc<Session>, Arc<ServerIdentity>)> {
    let usable = |state: &State| match state {
        State::Up(session, _) => !session.slots.is_closed(),
        State::Closed => true,
        State::Connecting | State::Down(_) => false,
    };
    let unreachable = |err: Option<Arc<io::Error>>| {
        let err = err.unwrap_or_else(|| Arc::new(io::ErrorKind::TimedOut.into()));
        Error::Unreachable { address: address.to_string(), source: err }
    };
    let found = |state: &State| match state {
        State::Up(session, server) => Ok((Arc::clone(session), Arc::clone(server))),
        State::Closed => Err(Error::Closed),
        State::Connecting => Err(unreachable(None)),
        State::Down(err) => Err(unreachable(err.clone())),
    };
    let now = connection.state.borrow().clone();
    if usable(&now) {
        return found(&now);
    }
    let mut state = connection.state.clone();
    match tokio::time::timeout(connect_wait, state.wait_for(usable)).await {
        Ok(Ok(state)) => found(&state),
        Ok(Err(_)) => Err(Error::Closed),
        Err(_) => found(&connection.state.borrow()).and(Err(Error::Closed)),
    }
}
