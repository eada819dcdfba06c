//! A client and its connections.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};

use crate::{
    attributes::Ownership,
    budget::{Budget, TimeLimit},
    channel::ChannelAttrs,
    connection::{Connection, State},
    error::{Error, Result},
    identity::ServerIdentity,
    options::Options,
    path::Path,
    session::Session,
};

/// How long [`Client::close`] waits for cleanup tasks.
const CLEANUP_WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one server. Clones share the connections.
///
/// Create it in a tokio runtime: it connects in the background and reconnects for as long as it exists. Dropping the last
/// clone closes the connections; [`Client::close`] also destroys the sessions at the server.
///
/// | operation | round trips |
/// |---|---|
/// | [`attributes`](Client::attributes), [`read`](Client::read), [`remove`](Client::remove), [`rename`](Client::rename), [`create_dir`](Client::create_dir), [`write_at`](Client::write_at), [`put`](Client::put) | 1 |
/// | `put` without a precondition where there is no file | 2 |
/// | [`append`](Client::append) | 3 |
/// | `put` with a predicate | 5 |
///
/// A path with more components than the server takes in one compound needs more. So does a server that rejects the
/// current stateid (RFC 8881, section 16.2.3.1.2) or the anonymous stateid (section 8.2.3).
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) limit: TimeLimit,
    /// A change returns only when its outcome is known, also after the deadline.
    pub(crate) awaits_end: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub options: Options,
    connections: Vec<Connection>,
    open_owners: AtomicU32,
    /// Owner and group of the last file that this client created.
    pub default_ownership: Mutex<Option<Ownership>>,
    /// Number of cleanup tasks.
    cleanup_tasks: watch::Sender<usize>,
    /// The server rejects the current stateid.
    no_current_stateid: AtomicBool,
    /// The server rejects READ with the anonymous stateid.
    anonymous_read_rejected: AtomicBool,
}

/// Makes [`Client::close`] wait until it is dropped.
#[derive(Debug)]
pub struct CleanupGuard(Arc<Inner>);

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        self.0.cleanup_tasks.send_modify(|tasks| *tasks -= 1);
    }
}

impl Client {
    /// Creates a client, and begins to connect. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::BadPath`]: invalid root. [`Error::BadInput`]: invalid credentials.
    pub fn new(mut options: Options) -> Result<Self> {
        Path::new(&options.root)?;
        options.connections = options.connections.max(1);
        let shared = Arc::new(options.clone());
        let connections =
            (0..options.connections).map(|_| Connection::new(Arc::clone(&shared))).collect::<Result<_>>()?;
        let limit = options.operation_timeout.map_or(TimeLimit::None, TimeLimit::Within);
        let inner = Inner {
            options,
            connections,
            open_owners: AtomicU32::default(),
            default_ownership: Mutex::default(),
            cleanup_tasks: watch::Sender::default(),
            no_current_stateid: AtomicBool::default(),
            anonymous_read_rejected: AtomicBool::default(),
        };
        Ok(Self { inner: Arc::new(inner), limit, awaits_end: false })
    }

    /// The same client with another [`Options::operation_timeout`].
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Self {
        let limit = timeout.map_or(TimeLimit::None, TimeLimit::Within);
        Self { inner: Arc::clone(&self.inner), limit, awaits_end: false }
    }

    /// The same client, whose operations send no call after the deadline. A change returns when its outcome is known, even
    /// after the deadline: it returns [`Error::Pending`] only if the client is closed.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self { inner: Arc::clone(&self.inner), limit: TimeLimit::At(deadline), awaits_end: true }
    }

    pub(crate) fn budget(&self, is_change: bool) -> Budget {
        Budget::new(self.limit, is_change)
    }

    /// Waits up to 5 s for cleanup tasks, destroys the sessions and closes the connections. Later operations return
    /// [`Error::Closed`].
    pub async fn close(&self) {
        let mut cleanup_tasks = self.inner.cleanup_tasks.subscribe();
        let _ = tokio::time::timeout(CLEANUP_WAIT_TIMEOUT, cleanup_tasks.wait_for(|tasks| *tasks == 0)).await;
        for connection in &self.inner.connections {
            connection.close().await;
        }
    }

    /// Makes [`Client::close`] wait until the guard is dropped.
    #[doc(hidden)]
    pub fn cleanup_guard(&self) -> CleanupGuard {
        self.inner.cleanup_tasks.send_modify(|tasks| *tasks += 1);
        CleanupGuard(Arc::clone(&self.inner))
    }

    /// The server's identity on each connection. Waits until all are connected.
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

    /// Whether any connection has a session.
    pub fn is_connected(&self) -> bool {
        self.inner.connections.iter().any(|connection| matches!(*connection.state.borrow(), State::Up(..)))
    }

    /// Number of calls that wait for a reply.
    pub fn in_flight(&self) -> u32 {
        self.sessions().map(|session| session.in_flight()).sum()
    }

    /// Bytes of requests and replies of the current sessions.
    pub fn bytes_transferred(&self) -> u64 {
        self.sessions().map(|session| session.bytes_transferred.load(Ordering::Relaxed)).sum()
    }

    fn sessions(&self) -> impl Iterator<Item = Arc<Session>> {
        self.inner.connections.iter().filter_map(Connection::session)
    }

    /// Uses no current stateid, which takes more round trips. A client switches to this by itself when the server rejects
    /// the current stateid.
    #[doc(hidden)]
    pub fn disable_current_stateid(&self) {
        self.inner.no_current_stateid.store(true, Ordering::Relaxed);
    }

    pub(crate) fn no_current_stateid(&self) -> bool {
        self.inner.no_current_stateid.load(Ordering::Relaxed)
    }

    /// Opens every file before it is read. A client switches to this by itself when the server rejects READ with the
    /// anonymous stateid.
    #[doc(hidden)]
    pub fn disable_anonymous_read(&self) {
        self.inner.anonymous_read_rejected.store(true, Ordering::Relaxed);
    }

    pub(crate) fn anonymous_read_rejected(&self) -> bool {
        self.inner.anonymous_read_rejected.load(Ordering::Relaxed)
    }

    /// The session with the most free slots; if there is none, the first one to be established.
    pub(crate) async fn session(&self, budget: &Budget) -> Result<Arc<Session>> {
        if let Some(session) = self.sessions().max_by_key(|session| session.slots.available_permits()) {
            return Ok(session);
        }
        let connections = self.inner.connections.iter();
        let mut waiting: FuturesUnordered<_> =
            connections.map(|connection| self.wait_connected(connection, budget)).collect();
        let mut last = Err(Error::Closed);
        while let Some(connected) = waiting.next().await {
            last = connected.map(|(session, _)| session);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    async fn wait_connected(
        &self,
        connection: &Connection,
        budget: &Budget,
    ) -> Result<(Arc<Session>, Arc<ServerIdentity>)> {
        let mut connect_wait = self.inner.options.connect_wait;
        if let Some(deadline) = budget.deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            // The first attempt to connect may use all of the time left: a slow server is not a dead one.
            let is_decided = |state: &State| !matches!(state, State::Connecting);
            let _ = tokio::time::timeout(left, connection.state.clone().wait_for(is_decided)).await;
            connect_wait = connect_wait.min(left);
        }
        let found = |state: &State| match state {
            State::Up(session, server) => Ok((Arc::clone(session), Arc::clone(server))),
            State::Closed => Err(Error::Closed),
            State::Connecting => Err(self.unreachable(None)),
            State::Down(err) => Err(self.unreachable(err.clone())),
        };
        let is_usable = |state: &State| match state {
            State::Up(session, _) => !session.slots.is_closed(),
            State::Closed => true,
            State::Connecting | State::Down(_) => false,
        };
        let now = connection.state.borrow().clone();
        if is_usable(&now) {
            return found(&now);
        }
        let mut state = connection.state.clone();
        match tokio::time::timeout(connect_wait, state.wait_for(is_usable)).await {
            Ok(Ok(state)) => found(&state),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => found(&connection.state.borrow()).and(Err(Error::Closed)),
        }
    }

    fn unreachable(&self, err: Option<Arc<io::Error>>) -> Error {
        let source = err.unwrap_or_else(|| Arc::new(io::ErrorKind::TimedOut.into()));
        Error::Unreachable { address: self.inner.options.address.to_string(), source }
    }

    pub(crate) async fn channel_attrs(&self) -> Result<ChannelAttrs> {
        Ok(self.session(&self.budget(false)).await?.attrs)
    }

    /// An open-owner that no other open file of this client has.
    pub(crate) fn next_open_owner(&self) -> u32 {
        self.inner.open_owners.fetch_add(1, Ordering::Relaxed)
    }
}
