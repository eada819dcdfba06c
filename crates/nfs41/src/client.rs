//! What one may do, and how a call finds its connection, its session and its slot.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    attributes::{Attributes, Set, Wanted},
    compound::{ANONYMOUS, CURRENT, Compound, Create, Op, Owner, Results, Share},
    connection::{Connection, Server, State},
    error::{Error, Result},
    open::futures,
    path::Path,
    rpc::Credentials,
    session::{Agreed, Fault, Session},
    status::Status,
};

/// Pauses where the server says later.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
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
    /// How long a call takes at most, all in all; `None` for as long as it takes. A change that is late goes on to its
    /// end all the same: see [`Error::Uncertain`].
    pub deadline: Option<Duration>,
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
/// | [`append`](Client::append) | 3 |
/// | `put` with a condition | 4 |
///
/// More where a path has so many components that the server does not take them in one call, and where the server
/// refuses the stateids that make one of them enough.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    deadline: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    options: Options,
    connections: Vec<Connection>,
    owners: AtomicU32,
    /// The server takes no current stateid.
    pub plain: AtomicBool,
    /// Nor one that is none, from a reader.
    opens_to_read: AtomicBool,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Content {
    pub data: Bytes,
    /// It goes up to the end of the file.
    pub end: bool,
    pub attributes: Attributes,
    /// For [`Client::read_on`].
    pub handle: Handle,
}

/// The server's own name of a file: good for as long as the file is there, whatever its path names by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handle(pub(crate) Bytes);

/// May a call be sent again when nobody knows whether it was done?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// Who decides first whether a change is begun: whoever sends it, or whoever does not wait any longer.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    decided: AtomicBool,
    sent: AtomicBool,
}

impl Begin {
    /// True: it may be sent.
    pub fn sending(&self) -> bool {
        self.sent.load(Ordering::Acquire) || {
            let first = !self.decided.swap(true, Ordering::AcqRel);
            self.sent.store(first, Ordering::Release);
            first
        }
    }

    /// True: it was not sent, and never will be.
    fn give_up(&self) -> bool {
        !self.decided.swap(true, Ordering::AcqRel)
    }
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
        let deadline = options.deadline;
        let (owners, plain, opens_to_read) = Default::default();
        Ok(Self { inner: Arc::new(Inner { options, connections, owners, plain, opens_to_read }), deadline })
    }

    /// The same client, whose calls take this long at most.
    #[must_use]
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Self {
        Self { inner: Arc::clone(&self.inner), deadline }
    }

    /// Ends the sessions and the connections. What is asked afterwards is [`Error::Closed`].
    pub async fn close(&self) {
        for connection in &self.inner.connections {
            connection.close().await;
        }
    }

    /// Who each connection's server says it is, once all are up.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Closed`].
    pub async fn servers(&self) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for connection in &self.inner.connections {
            let (_, server) = self.up(connection).await?;
            servers.push((*server).clone());
        }
        Ok(servers)
    }

    /// Some connection has a session.
    pub fn is_up(&self) -> bool {
        self.inner.connections.iter().any(|connection| matches!(*connection.state.borrow(), State::Up(..)))
    }

    /// Uses no memory of the current stateid that an operation before has left: more round trips, for servers that
    /// refuse it. Found out by itself; this is to try it.
    #[doc(hidden)]
    pub fn without_current_stateid(&self) {
        self.inner.plain.store(true, Ordering::Relaxed);
    }

    #[doc(hidden)]
    pub fn opening_to_read(&self) {
        self.inner.opens_to_read.store(true, Ordering::Relaxed);
    }

    /// Of the connection that has the most slots free; where there is none, of the first that is up again.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        let inner = &*self.inner;
        let sessions = inner.connections.iter().filter_map(Connection::session);
        if let Some(session) = sessions.max_by_key(|session| session.slots.available_permits()) {
            return Ok(session);
        }
        let mut waiting = futures(inner.connections.len());
        inner.connections.iter().for_each(|connection| waiting.push(Box::pin(self.up(connection))));
        loop {
            match waiting.next().await {
                Err(_) if !waiting.is_empty() => {}
                last => return Ok(last?.0),
            }
        }
    }

    async fn up(&self, connection: &Connection) -> Result<(Arc<Session>, Arc<Server>)> {
        let Options { address, patience, .. } = &self.inner.options;
        up(connection, address, self.deadline.map_or(*patience, |deadline| deadline.min(*patience))).await
    }

    pub(crate) async fn agreed(&self) -> Result<Agreed> {
        Ok(self.session().await?.agreed)
    }

    /// A number that no other open file of this client has.
    pub(crate) fn owner(&self) -> u32 {
        self.inner.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends it once: over any connection, or in this session and no other.
    pub(crate) async fn once(
        &self,
        compound: &Compound,
        only: Option<&Arc<Session>>,
        begin: &Begin,
    ) -> Result<Result<(Results, Arc<Session>), Fault>> {
        loop {
            let session = match only {
                Some(session) => Arc::clone(session),
                None => self.session().await?,
            };
            let agreed = &session.agreed;
            if compound.operations() >= agreed.most_operations {
                return Err(Error::BadPath("so many components are more than the server takes in one call"));
            }
            if compound.len() + session.before.len() + 64 > agreed.largest_call {
                return Err(Error::BadInput("that is more than the server takes in one call"));
            }
            let slot = session.slots.acquire().await.map(SemaphorePermit::forget);
            if slot.is_ok() {
                if !begin.sending() {
                    session.slots.add_permits(1);
                    return Err(Error::Busy(self.deadline.unwrap_or_default()));
                }
                if let Some(answer) = session.submit(compound) {
                    let answer = answer.await.unwrap_or(Err(Fault::Lost { sent: true }));
                    return Ok(answer.map(|results| (results, session)));
                }
            }
            if only.is_some() {
                return Err(Error::SessionLost);
            }
        }
    }

    /// Sends it, and again where that is right, until there is an answer.
    pub(crate) async fn repeat<T>(
        &self,
        compound: &Compound,
        again: Again,
        begin: &Begin,
        read: impl Fn(Results, Arc<Session>) -> Result<T>,
    ) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.once(compound, None, begin).await? {
                Ok((results, session)) => match read(results, session) {
                    Err(why) if why.status().is_some_and(Status::is_later) => why,
                    other => return other,
                },
                Err(Fault::Lost { sent: false }) => continue,
                Err(Fault::Refused(why)) if why.status().is_some_and(Status::is_later) => why,
                Err(Fault::Refused(why)) => return Err(why),
                Err(_) if again == Again::Yes => continue,
                Err(Fault::Lost { .. }) => return Err(Error::Uncertain("the session was lost")),
                Err(Fault::Forgotten) => return Err(Error::Uncertain("the server has not kept its answer")),
            };
            tracing::debug!(error = %why, "the server says later");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What is done until the deadline, and what is said then.
    pub(crate) async fn in_time<T>(
        &self,
        again: Again,
        begin: &Begin,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(deadline) = self.deadline else { return work.await };
        match timeout_at(Instant::now() + deadline, work).await {
            Ok(answer) => answer,
            Err(_) if begin.give_up() => Err(Error::Busy(deadline)),
            Err(_) if again == Again::Yes => Err(Error::Deadline(deadline)),
            Err(_) => Err(Error::Uncertain("no answer came in time")),
        }
    }

    /// One compound.
    pub(crate) async fn ask<T>(
        &self,
        again: Again,
        compound: &Compound,
        read: impl Fn(Results) -> Result<T>,
    ) -> Result<T> {
        let begin = Begin::default();
        self.in_time(again, &begin, self.repeat(compound, again, &begin, |results, _| read(results))).await
    }

    /// What must come to its end whoever waits for it, since it leaves something open until then.
    pub(crate) async fn to_the_end<T: Send + 'static, F>(&self, work: impl FnOnce(Self, Arc<Begin>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let begin = Arc::new(Begin::default());
        let task = tokio::spawn(work(self.clone(), Arc::clone(&begin)));
        let ended = async { task.await.unwrap_or(Err(Error::Uncertain("its task has ended"))) };
        self.in_time(Again::No, &begin, ended).await
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

    /// The attributes of what the path names, if it is a link of the link.
    ///
    /// # Errors
    /// `NOENT`, `NOTDIR`, `ACCESS`; `SYMLINK` or `NOTDIR` where a component before the last is a link.
    pub async fn attributes(&self, path: &[u8], wanted: Wanted) -> Result<Attributes> {
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.attributes(wanted);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.attributes()
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// Up to so many bytes from there on, as many as one call carries, with [`Wanted::USUAL`] of the file.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `ISDIR`.
    pub async fn read(&self, path: &[u8], offset: u64, length: u32) -> Result<Content> {
        self.read_with(path, offset, length, Wanted::USUAL).await
    }

    /// Asked for these attributes; where the file must be opened, for the usual ones.
    async fn read_with(&self, path: &[u8], offset: u64, length: u32, wanted: Wanted) -> Result<Content> {
        let path = Path::new(path)?;
        if !self.inner.opens_to_read.load(Ordering::Relaxed) {
            match self.read_anonymously(&path, offset, length, wanted).await {
                Err(Error::Status { op: Op::READ, status }) if refuses(status) => {
                    self.inner.opens_to_read.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        self.read_opened(&path, offset, length).await
    }

    pub(crate) async fn read_anonymously(
        &self,
        path: &Path<'_>,
        offset: u64,
        length: u32,
        wanted: Wanted,
    ) -> Result<Content> {
        let start = self.start(path).await?;
        let length = length.min(self.agreed().await?.largest_read);
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::GETFH);
        if wanted != Wanted::NOTHING {
            compound.attributes(wanted);
        }
        compound.read(&ANONYMOUS, offset, length);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            let handle = Handle(results.handle()?);
            let attributes = match wanted {
                Wanted::NOTHING => Attributes::default(),
                _ => results.attributes()?,
            };
            let (data, end) = content(&mut results, length)?;
            Ok(Content { data, end, attributes, handle })
        };
        self.ask(Again::Yes, &compound, read).await
    }

    async fn read_opened(&self, path: &Path<'_>, offset: u64, length: u32) -> Result<Content> {
        let (directory, name) = path.split()?;
        let length = length.min(self.agreed().await?.largest_read);
        if self.inner.plain.load(Ordering::Relaxed) {
            let file = self.open(path, Share::Read, Create::No).await?;
            let read = file.read_with_attributes(offset, length).await;
            file.close().await?;
            return read;
        }
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.open(name, Share::Read, Create::No, Owner::Slot).plain(Op::GETFH).attributes(Wanted::USUAL);
        compound.read(&CURRENT, offset, length).close(&CURRENT);
        // Nothing is changed: asked again it is done again. A content is more than a server keeps of an answer.
        compound.kept = false;
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.opened()?;
            let handle = Handle(results.handle()?);
            let attributes = results.attributes()?;
            let (data, end) = content(&mut results, length)?;
            results.stateid(Op::CLOSE)?;
            Ok(Content { data, end, attributes, handle })
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// More of the same file, even if its path names another by now.
    ///
    /// # Errors
    /// `STALE`: the file is gone.
    pub async fn read_on(&self, handle: &Handle, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let length = length.min(self.agreed().await?.largest_read);
        let mut compound = Compound::new();
        compound.at(&handle.0).read(&ANONYMOUS, offset, length);
        let read = |mut results: Results| {
            results.op(Op::PUTFH)?;
            content(&mut results, length)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// All of these bytes, in as many calls as they take, several on their way at once. Fewer at the end of the file.
    ///
    /// # Errors
    /// As [`Client::read`]. `STALE`: it was replaced again and again while it was read.
    pub async fn read_all(&self, path: &[u8], offset: u64, length: u64) -> Result<Vec<Bytes>> {
        const TRIES: usize = 16;
        for _ in 1..TRIES {
            match self.read_all_once(path, offset, length).await {
                // It was replaced between its name and its content: what has the name now is another one.
                Err(why) if why.is_gone() => {}
                read => return read,
            }
        }
        self.read_all_once(path, offset, length).await
    }

    async fn read_all_once(&self, path: &[u8], offset: u64, length: u64) -> Result<Vec<Bytes>> {
        /// So many calls on their way at once.
        const WINDOW: usize = 8;
        if let Some(pieces) = self.read_together(path, offset, length).await? {
            return Ok(pieces);
        }
        let most = u32::try_from(length).unwrap_or(u32::MAX);
        let first = self.read_with(path, offset, most, Wanted::NOTHING).await?;
        let piece = self.agreed().await?.largest_read;
        let mut asked = first.data.len() as u64;
        let (mut pieces, handle, mut ended) = (vec![first.data], first.handle, first.end);
        let mut waiting = std::collections::VecDeque::new();
        while !ended {
            while waiting.len() < WINDOW && asked < length {
                let wanted = u32::try_from(length - asked).unwrap_or(u32::MAX).min(piece);
                let (client, handle, from) = (self.clone(), handle.clone(), offset.saturating_add(asked));
                waiting.push_back(tokio::spawn(async move { client.read_piece(&handle, from, wanted).await }));
                asked += u64::from(wanted);
            }
            let Some(task) = waiting.pop_front() else { break };
            let (data, end) = task.await.unwrap_or(Err(Error::Closed))?;
            pieces.extend(data);
            ended = end;
        }
        Ok(pieces)
    }

    /// What one call could carry, in two that go together: the server reads one half while it sends the other. `None`:
    /// it is too little for that, or too much, or the halves are not of one file, or not whole.
    async fn read_together(&self, path: &[u8], offset: u64, length: u64) -> Result<Option<Vec<Bytes>>> {
        const LEAST: u32 = 512 << 10;
        let most = self.agreed().await?.largest_read;
        let length = match u32::try_from(length) {
            Ok(length) if (LEAST..=most).contains(&length) => length,
            _ => return Ok(None),
        };
        let half = (length / 2).next_multiple_of(4096);
        let (from, rest) = (offset.saturating_add(half.into()), length - half);
        let (first, second) = tokio::try_join!(
            self.read_with(path, offset, half, Wanted::NOTHING),
            self.read_with(path, from, rest, Wanted::NOTHING),
        )?;
        let is_whole = |read: &Content, length: u32| read.end || read.data.len() == length as usize;
        let fit = first.handle == second.handle && is_whole(&first, half) && is_whole(&second, rest);
        Ok(fit.then(|| vec![first.data, second.data]))
    }

    /// A server may give less than it is asked for.
    async fn read_piece(&self, handle: &Handle, mut from: u64, mut length: u32) -> Result<(Vec<Bytes>, bool)> {
        let mut pieces = Vec::new();
        loop {
            let (data, end) = self.read_on(handle, from, length).await?;
            from = from.saturating_add(data.len() as u64);
            length = length.saturating_sub(u32::try_from(data.len()).unwrap_or(length));
            pieces.push(data);
            if end || length == 0 {
                return Ok((pieces, end));
            }
        }
    }

    /// # Errors
    /// As [`Client::attributes`], and what the server says of the new values.
    pub async fn set_attributes(&self, path: &[u8], set: Set) -> Result<()> {
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.set(&ANONYMOUS, &set);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.set()
        };
        // The same values once more are the same values.
        let begin = Begin::default();
        self.in_time(Again::No, &begin, self.repeat(&compound, Again::Yes, &begin, |results, _| read(results))).await
    }

    /// A file, a link or an empty directory.
    ///
    /// # Errors
    /// `NOENT`, `NOTEMPTY`; [`Error::Uncertain`].
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.name(Op::REMOVE, name);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.changed(Op::REMOVE)
        };
        self.ask(Again::No, &compound, read).await
    }

    /// A plain file and nothing else.
    ///
    /// # Errors
    /// As [`Client::remove`]; `NOT_SAME`: it is something else.
    pub async fn remove_file(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH).lookup(name).only_a_file().plain(Op::RESTOREFH).name(Op::REMOVE, name);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.plain(&[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH])?;
            results.changed(Op::REMOVE)
        };
        self.ask(Again::No, &compound, read).await
    }

    /// Over what is there, if anything is.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `NOTEMPTY`, `ISDIR`; [`Error::Uncertain`].
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((old, from), (new, to)) = (Path::new(from)?.split()?, Path::new(to)?.split()?);
        let (old, new) = (self.start(&old).await?, self.start(&new).await?);
        let mut compound = Compound::new();
        old.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        new.walk(&mut compound);
        compound.rename(from, to);
        let read = |mut results: Results| {
            old.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            new.walked(&mut results)?;
            results.renamed()
        };
        self.ask(Again::No, &compound, read).await
    }

    /// A second name for the same file.
    ///
    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn link(&self, file: &[u8], name: &[u8]) -> Result<()> {
        let (file, (directory, name)) = (Path::new(file)?, Path::new(name)?.split()?);
        let (file, directory) = (self.start(&file).await?, self.start(&directory).await?);
        let mut compound = Compound::new();
        file.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        directory.walk(&mut compound);
        compound.name(Op::LINK, name);
        let read = |mut results: Results| {
            file.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            directory.walked(&mut results)?;
            results.changed(Op::LINK)
        };
        self.ask(Again::No, &compound, read).await
    }

    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.make_directory(name, mode);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.changed(Op::CREATE)
        };
        self.ask(Again::No, &compound, read).await
    }

    /// A directory and those above it that are missing. So many were made.
    ///
    /// # Errors
    /// `NOTDIR`, `EXIST`: a component is a file.
    pub async fn make_directories(&self, path: &[u8], mode: u32) -> Result<usize> {
        let all = Path::new(path)?;
        let depth = all.depth();
        let prefix = |count: usize| all.components().take(count).collect::<Vec<_>>().join(&b'/');
        let mut missing = 0;
        // From below: mostly it is the last ones that are missing.
        loop {
            match self.attributes(&prefix(depth - missing), Wanted::KIND).await {
                Ok(found) if found.kind == Some(crate::Kind::Directory) => break,
                Ok(_) => return Err(Error::Status { op: Op::LOOKUP, status: Status::NOTDIR }),
                Err(why) if why.is(Status::NOENT) && missing < depth => missing += 1,
                Err(why) => return Err(why),
            }
        }
        let mut made = 0;
        for count in depth - missing + 1..=depth {
            match self.make_directory(&prefix(count), mode).await {
                Ok(()) => made += 1,
                // Somebody else made it: what is above it is not ours to take away.
                Err(why) if why.is(Status::EXIST) => made = 0,
                Err(why) => return Err(why),
            }
        }
        Ok(made)
    }

    /// Which of these permissions the server would give: 1 read, 2 look up, 4 change, 8 add to, 16 delete, 32 execute.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn access(&self, path: &[u8], asked: u32) -> Result<u32> {
        use crate::xdr::Encode;
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.op(Op::ACCESS).word(asked & 0x3F);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            let answer = results.op(Op::ACCESS)?;
            answer.word()?;
            Ok(answer.word()? & asked)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// Where a link leads, as it is written there.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `INVAL`: it is no link.
    pub async fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        const LONGEST: usize = 4096;
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::READLINK);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.op(Op::READLINK)?.opaque(LONGEST)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// The path without links that this one leads to. `..` in a link goes up to the root at most, and a link that
    /// begins with `/` begins there. Like every look before an act it is true when it is made.
    ///
    /// # Errors
    /// As [`Client::attributes`]; [`Error::BadPath`]: the links go on and on.
    pub async fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        const MOST_LINKS: usize = 40;
        let mut left: Vec<Vec<u8>> = Path::new(path)?.components().map(<[u8]>::to_vec).rev().collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            match &name[..] {
                b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(name),
            }
            let here = done.join(&b'/');
            if self.attributes(&here, Wanted::KIND).await?.kind == Some(crate::Kind::Link) {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Error::BadPath("it leads through more than 40 links"));
                }
                let target = self.read_link(&here).await?;
                match target.first() {
                    Some(b'/') => done.clear(),
                    _ => drop(done.pop()),
                }
                let components = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
                left.extend(components.map(<[u8]>::to_vec).rev().collect::<Vec<_>>());
            }
        }
        Ok(done.join(&b'/'))
    }

    /// What the server and its file system allow.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn file_system(&self) -> Result<FileSystem> {
        let limits = self.attributes(b"", Wanted::LIMITS).await?.limits;
        let agreed = self.agreed().await?;
        Ok(FileSystem {
            lease: agreed.lease,
            largest_file: limits.largest_file,
            longest_name: limits.longest_name,
            largest_read: agreed.largest_read,
            largest_write: agreed.largest_write,
            calls_in_flight: agreed.slots,
            operations_in_a_call: agreed.most_operations,
            largest_call: agreed.largest_call,
            largest_answer: agreed.largest_answer,
            kept_answer: agreed.kept_answer,
            space_available: limits.space_available,
            space_total: limits.space_total,
        })
    }
}

/// What a server and its file system allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSystem {
    /// How long it remembers a client that says nothing.
    pub lease: Duration,
    pub largest_file: Option<u64>,
    pub longest_name: Option<u32>,
    /// Bytes of content in one call.
    pub largest_read: u32,
    pub largest_write: u32,
    /// For each connection.
    pub calls_in_flight: u32,
    pub operations_in_a_call: u32,
    /// Bytes of a whole call, and of an answer; no more than was asked for.
    pub largest_call: usize,
    pub largest_answer: usize,
    /// Bytes of an answer that it keeps, to give it again.
    pub kept_answer: u32,
    /// In bytes.
    pub space_available: Option<u64>,
    pub space_total: Option<u64>,
}

/// Of the answers to a stateid, those that say that the server takes none of its kind.
pub(crate) fn refuses(status: Status) -> bool {
    matches!(
        status,
        Status::BAD_STATEID | Status::STALE_STATEID | Status::OLD_STATEID | Status::NOTSUPP | Status::OPENMODE
    )
}

/// What a READ gives.
pub(crate) fn content(results: &mut Results, length: u32) -> Result<(Bytes, bool)> {
    let answer = results.op(Op::READ)?;
    let end = answer.boolean()?;
    let data = answer.opaque(length as usize)?;
    match data.is_empty() && length > 0 && !end {
        // Whoever asked on would do so for ever.
        true => Err(Error::Protocol("nothing is read, and it is not the end")),
        false => Ok((data, end)),
    }
}

async fn up(connection: &Connection, address: &SocketAddr, patience: Duration) -> Result<(Arc<Session>, Arc<Server>)> {
    let usable = |state: &State| match state {
        State::Up(session, _) => !session.slots.is_closed(),
        State::Closed => true,
        State::Down(_) => false,
    };
    let found = |state: &State| match state {
        State::Up(session, server) => Ok((Arc::clone(session), Arc::clone(server))),
        State::Closed => Err(Error::Closed),
        State::Down(why) => {
            let why = why.clone().unwrap_or_else(|| Arc::new(io::ErrorKind::TimedOut.into()));
            Err(Error::Unreachable { address: address.to_string(), why })
        }
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
