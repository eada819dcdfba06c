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
    budget::{Backoff, Budget, Limit},
    compound::{Compound, Op, Results},
    connection::{Connection, Server, State},
    error::{Error, Result},
    fence::Alternatives,
    open::futures,
    path::Path,
    put::Ownership,
    rpc::{self, Credentials},
    session::{Agreed, Answer, CallId, Fault, Session},
    status::Status,
};

/// Pauses where the server says later.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long a client that is closed waits for what tidies up.
const CLEANING_TIMEOUT: Duration = Duration::from_secs(5);
/// After the deadline of a change that has no answer, whoever waits for it waits this long to know whether it is fenced.
const FENCING_TIMEOUT: Duration = Duration::from_secs(2);
/// What a compound has besides the way to a directory, at most; and that way is in it twice, at most.
const BESIDES: usize = 22;

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
    pub most_in_flight: u32,
    /// Bytes of content in one call, if the server takes so many.
    pub largest_io: u32,
    pub connect_deadline: Duration,
    /// How long a call waits where there is no connection.
    pub patience: Duration,
    /// No call is sent after this; `None` for as long as it takes. A change that was sent by then is fenced: see
    /// [`Error::Uncertain`] and [`Error::Pending`]. What needs several calls to walk a deep path has it for each of them;
    /// with [`Client::until`] for all.
    pub deadline: Option<Duration>,
    /// Other addresses of the same file system, to fence what hangs on its way to this one.
    pub alternatives: Alternatives,
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
            most_in_flight: 64,
            largest_io: 1 << 20,
            connect_deadline: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            deadline: Some(Duration::from_secs(30)),
            alternatives: Alternatives::default(),
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
    limit: Limit,
    /// Whoever asks for a change wants to know that it has ended, however long that takes.
    awaits_end: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub options: Options,
    connections: Vec<Connection>,
    owners: AtomicU32,
    /// Who the last new file belonged to, as the server writes it.
    pub created_as: Mutex<Option<Ownership>>,
    /// Tasks that tidy up, and whoever waits until there is none.
    cleaning: watch::Sender<usize>,
    /// The server takes no current stateid.
    pub plain: AtomicBool,
    /// Nor one that is none, from a reader.
    opens_to_read: AtomicBool,
}

/// Something is being tidied up.
#[derive(Debug)]
pub struct Cleaning(Arc<Inner>);

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.0.cleaning.send_modify(|tasks| *tasks -= 1);
    }
}

/// May a call be sent again when nobody knows whether it was done?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// Where a path begins for a compound: at the root, or at a handle that is on its way.
pub(crate) struct Start<'a> {
    handle: Option<Bytes>,
    names: Vec<&'a [u8]>,
}

impl<'a> Start<'a> {
    pub fn new(handle: Option<Bytes>, names: Vec<&'a [u8]>) -> Self {
        Self { handle, names }
    }

    pub fn handle(&self) -> Option<&Bytes> {
        self.handle.as_ref()
    }

    /// What its own names and handles are answered with, for whoever does not have it any more.
    pub fn steps(&self) -> Vec<Op> {
        let first = if self.handle.is_none() { Op::PUTROOTFH } else { Op::PUTFH };
        std::iter::once(first).chain(self.names.iter().map(|_| Op::LOOKUP)).collect()
    }

    pub fn walk(&self, compound: &mut Compound) {
        match &self.handle {
            None => compound.plain(Op::PUTROOTFH),
            Some(handle) => compound.at(handle),
        };
        for name in &self.names {
            compound.lookup(name);
        }
    }

    pub fn walked(&self, results: &mut Results) -> Result<()> {
        results.op(if self.handle.is_none() { Op::PUTROOTFH } else { Op::PUTFH })?;
        self.names.iter().try_for_each(|_| results.op(Op::LOOKUP).map(drop))
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
        let limit = options.deadline.map_or(Limit::None, Limit::Within);
        let (owners, created_as, plain, opens_to_read) = Default::default();
        let cleaning = watch::Sender::default();
        let inner = Inner { options, connections, owners, created_as, cleaning, plain, opens_to_read };
        Ok(Self { inner: Arc::new(inner), limit, awaits_end: false })
    }

    /// The same client, whose operations have this long.
    #[must_use]
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Self {
        Self { inner: Arc::clone(&self.inner), limit: deadline.map_or(Limit::None, Limit::Within), awaits_end: false }
    }

    /// The same client, whose operations send nothing after this. A change answers when it is known that it was done, or
    /// never will be, however long that takes: never with [`Error::Pending`], unless the client is closed.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { inner: Arc::clone(&self.inner), limit: Limit::At(deadline), awaits_end: true }
    }

    pub(crate) fn budget(&self, is_change: bool) -> Budget {
        Budget::new(self.limit, is_change)
    }

    /// Ends the sessions and the connections, when what tidies up has ended, or after some seconds. What is asked
    /// afterwards is [`Error::Closed`].
    pub async fn close(&self) {
        let mut cleaning = self.inner.cleaning.subscribe();
        let _ = tokio::time::timeout(CLEANING_TIMEOUT, cleaning.wait_for(|tasks| *tasks == 0)).await;
        for connection in &self.inner.connections {
            connection.close().await;
        }
    }

    /// For as long as this is there, [`Client::close`] waits.
    #[doc(hidden)]
    pub fn cleaning(&self) -> Cleaning {
        self.inner.cleaning.send_modify(|tasks| *tasks += 1);
        Cleaning(Arc::clone(&self.inner))
    }

    /// Who each connection's server says it is, once all are up.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Closed`].
    pub async fn servers(&self) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for connection in &self.inner.connections {
            let (_, server) = self.up(connection, &self.budget(false)).await?;
            servers.push((*server).clone());
        }
        Ok(servers)
    }

    /// Some connection has a session.
    pub fn is_up(&self) -> bool {
        self.inner.connections.iter().any(|connection| matches!(*connection.state.borrow(), State::Up(..)))
    }

    /// Calls that are on their way now.
    pub fn in_flight(&self) -> u32 {
        self.sessions().map(|session| session.in_flight()).sum()
    }

    /// Bytes of calls and answers, both ways, in the sessions that there are now.
    pub fn traffic(&self) -> u64 {
        self.sessions().map(|session| session.traffic.load(Ordering::Relaxed)).sum()
    }

    fn sessions(&self) -> impl Iterator<Item = Arc<Session>> {
        self.inner.connections.iter().filter_map(Connection::session)
    }

    /// Uses no memory of the current stateid that an operation before has left: more round trips, for servers that
    /// refuse it. Found out by itself; this is to try it.
    #[doc(hidden)]
    pub fn without_current_stateid(&self) {
        self.inner.plain.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.inner.plain.load(Ordering::Relaxed)
    }

    pub(crate) fn opens_to_read(&self) -> bool {
        self.inner.opens_to_read.load(Ordering::Relaxed)
    }

    #[doc(hidden)]
    pub fn opening_to_read(&self) {
        self.inner.opens_to_read.store(true, Ordering::Relaxed);
    }

    /// Of the connection that has the most slots free; where there is none, of the first that is up again.
    pub(crate) async fn session(&self, budget: &Budget) -> Result<Arc<Session>> {
        let inner = &*self.inner;
        if let Some(session) = self.sessions().max_by_key(|session| session.slots.available_permits()) {
            return Ok(session);
        }
        let mut waiting = futures(inner.connections.len());
        inner.connections.iter().for_each(|connection| waiting.push(Box::pin(self.up(connection, budget))));
        loop {
            match waiting.next().await {
                Err(_) if !waiting.is_empty() => {}
                last => return Ok(last?.0),
            }
        }
    }

    async fn up(&self, connection: &Connection, budget: &Budget) -> Result<(Arc<Session>, Arc<Server>)> {
        let Options { address, patience, .. } = &self.inner.options;
        let left = budget.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // The first connection may take as long as there is time: it has not failed, and a server that is slow is not dead.
        if let Some(left) = left {
            let is_decided = |state: &State| !matches!(state, State::New);
            let _ = tokio::time::timeout(left, connection.state.clone().wait_for(is_decided)).await;
        }
        up(connection, address, left.map_or(*patience, |left| left.min(*patience))).await
    }

    pub(crate) async fn agreed(&self) -> Result<Agreed> {
        Ok(self.session(&self.budget(false)).await?.agreed)
    }

    /// A number that no other open file of this client has.
    pub(crate) fn owner(&self) -> u32 {
        self.inner.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends it once: over any connection, or in this session and no other.
    ///
    /// # Errors
    /// The deadline passed before it was sent, or, of what changes nothing, before it was answered.
    pub(crate) async fn once(
        &self,
        compound: &Compound,
        only: Option<&Arc<Session>>,
        budget: &Budget,
    ) -> Result<Result<(Results, Arc<Session>), Fault>> {
        loop {
            let session = match only {
                Some(session) => Arc::clone(session),
                // Why there is no connection is worth more than that the time is over, but to whoever had one.
                None => self.session(budget).await.map_err(|why| match budget.was_sent() && budget.is_over() {
                    true => budget.error(),
                    false => why,
                })?,
            };
            let agreed = &session.agreed;
            if compound.operations() >= agreed.most_operations {
                return Err(Error::BadPath("so many components are more than the server takes in one call"));
            }
            if compound.len() + session.before.len() + 64 > agreed.largest_call {
                return Err(Error::BadInput("that is more than the server takes in one call"));
            }
            let Some(slot) = budget.wait(session.slots.acquire()).await else { return Err(budget.error()) };
            if slot.map(SemaphorePermit::forget).is_ok() {
                if budget.is_over() {
                    session.slots.add_permits(1);
                    return Err(budget.error());
                }
                if let Some((id, answer)) = session.submit(compound, budget.is_cleanup) {
                    let answer = answered(&session, id, answer, compound, budget).await?;
                    return Ok(answer.map(|results| (results, session)));
                }
            }
            if only.is_some() {
                return Err(Error::SessionLost);
            }
        }
    }

    /// Sends it, and again where that is right, until there is an answer or the time is over.
    pub(crate) async fn repeat<T>(
        &self,
        compound: &Compound,
        again: Again,
        budget: &Budget,
        read: impl Fn(Results, Arc<Session>) -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let mut was_lost = false;
        // Of a change that may have been done once nothing else is known any more.
        let told = |why: Error, was_lost: bool| match was_lost && budget.is_change {
            true => Error::Uncertain("the session was lost"),
            false => why,
        };
        loop {
            let answer = self.once(compound, None, budget).await.map_err(|why| told(why, was_lost))?;
            let later = match answer {
                Ok((results, session)) => match read(results, session) {
                    Err(why) if why.status().is_some_and(Status::is_later) => why,
                    other => return other,
                },
                Err(Fault::NotSent) => continue,
                Err(Fault::Refused(why)) if why.status().is_some_and(Status::is_later) => why,
                Err(Fault::Lost | Fault::Forgotten | Fault::Abandoned) if again == Again::Yes && !budget.is_over() => {
                    was_lost = true;
                    continue;
                }
                // It was never executed, and there is time.
                Err(Fault::Withdrawn) if !budget.is_over() => Error::Refused(rpc::SYSTEM_ERROR),
                Err(fault) => return Err(told(fault.error(budget), was_lost)),
            };
            tracing::debug!(error = %later, "the server says later");
            budget.pause(&mut backoff).await.map_err(|why| told(why, was_lost))?;
        }
    }

    /// One compound.
    pub(crate) async fn ask<T>(
        &self,
        again: Again,
        compound: &Compound,
        read: impl Fn(Results) -> Result<T>,
    ) -> Result<T> {
        self.repeat(compound, again, &self.budget(false), |results, _| read(results)).await
    }

    /// One compound that changes something.
    pub(crate) async fn change<T>(
        &self,
        again: Again,
        compound: &Compound,
        read: impl Fn(Results) -> Result<T>,
    ) -> Result<T> {
        let budget = self.budget(true);
        self.in_time(&budget, self.repeat(compound, again, &budget, |results, _| read(results))).await
    }

    /// What must come to its end whoever waits for it: it leaves something open until then, or changes something.
    pub(crate) async fn to_the_end<T: Send + 'static, F>(
        &self,
        is_change: bool,
        work: impl FnOnce(Self, Budget) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let budget = self.budget(is_change);
        // One deadline for all that it asks.
        let limit = budget.deadline().map_or(Limit::None, Limit::At);
        let task = tokio::spawn(work(Self { limit, ..self.clone() }, budget.clone()));
        self.in_time(&budget, async { task.await.unwrap_or(Err(Error::Uncertain("its task has ended"))) }).await
    }

    /// What was sent has to end after the deadline; a change has some time to be fenced.
    pub(crate) async fn in_time<T>(&self, budget: &Budget, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(deadline) = budget.deadline().filter(|_| !self.awaits_end || !budget.is_change) else {
            return work.await;
        };
        let time = if budget.is_change { FENCING_TIMEOUT } else { Duration::ZERO };
        match timeout_at(deadline + time, work).await {
            Ok(answer) => answer,
            Err(_) if budget.is_change && budget.was_sent() => Err(Error::Pending("no answer came in time")),
            Err(_) => Err(budget.error()),
        }
    }

    /// Where a path begins. A handle on its way is asked for only where the server does not take the whole way at once.
    pub(crate) async fn start<'a>(&'a self, path: &Path<'a>) -> Result<Start<'a>> {
        let root = Path::new(&self.inner.options.root)?;
        let mut start = Start { handle: None, names: root.components().chain(path.components()).collect() };
        let at_once = ((self.agreed().await?.most_operations as usize).saturating_sub(BESIDES) / 2).max(1);
        while start.names.len() > at_once {
            let rest = start.names.split_off(at_once);
            let mut compound = Compound::new();
            start.walk(&mut compound);
            compound.plain(Op::GETFH);
            let handle = self.ask(Again::Yes, &compound, |mut results| {
                start.walked(&mut results)?;
                results.handle()
            });
            start = Start { handle: Some(handle.await?), names: rest };
        }
        Ok(start)
    }
}

/// Waits for the answer to a call. One that changes something, and has none by the deadline, is fenced: then the server
/// has executed it, or never will.
async fn answered(
    session: &Session,
    id: CallId,
    mut answer: oneshot::Receiver<Answer>,
    compound: &Compound,
    budget: &Budget,
) -> Result<Answer> {
    let ended = |answer: Result<Answer, _>| answer.unwrap_or(Err(Fault::Abandoned));
    if let Some(answer) = budget.wait(&mut answer).await {
        budget.set_sent();
        return Ok(ended(answer));
    }
    if session.withdraw(id) {
        return Err(budget.error());
    }
    budget.set_sent();
    if compound.kept && budget.is_change {
        session.fenced.notify_one();
    } else if !compound.opens {
        return Err(budget.error());
    }
    // Of what changes nothing: what it opens has to be closed.
    Ok(ended(answer.await))
}

impl Fault {
    /// What is known of a call that had no answer.
    pub fn error(self, budget: &Budget) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::NotSent | Self::Withdrawn => budget.error(),
            Self::Lost => Error::Uncertain("the session was lost"),
            Self::Forgotten => Error::Uncertain("the server has not kept its answer"),
            Self::Abandoned => Error::Pending("its session was given up"),
        }
    }
}

async fn up(connection: &Connection, address: &SocketAddr, patience: Duration) -> Result<(Arc<Session>, Arc<Server>)> {
    let usable = |state: &State| match state {
        State::Up(session, _) => !session.slots.is_closed(),
        State::Closed => true,
        State::New | State::Down(_) => false,
    };
    let unreachable = |why: Option<Arc<io::Error>>| {
        let why = why.unwrap_or_else(|| Arc::new(io::ErrorKind::TimedOut.into()));
        Error::Unreachable { address: address.to_string(), why }
    };
    let found = |state: &State| match state {
        State::Up(session, server) => Ok((Arc::clone(session), Arc::clone(server))),
        State::Closed => Err(Error::Closed),
        State::New => Err(unreachable(None)),
        State::Down(why) => Err(unreachable(why.clone())),
    };
    let now = connection.state.borrow().clone();
    if usable(&now) {
        return found(&now);
    }
    let mut state = connection.state.clone();
    match tokio::time::timeout(patience, state.wait_for(usable)).await {
        Ok(Ok(state)) => found(&state),
        Ok(Err(_)) => Err(Error::Closed),
        Err(_) => found(&connection.state.borrow()).and(Err(Error::Closed)),
    }
}
