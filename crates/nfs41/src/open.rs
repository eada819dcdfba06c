//! Files that stay open for more than one call, and locks of them. What is open is open in one session: when that is
//! lost, so is it, and whatever is asked of it says so.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    attributes::{AttributeMask, Attributes, SetAttributes},
    budget::{Backoff, Budget},
    client::{Client, Idempotent, PathPrefix},
    compound::{
        ANONYMOUS, Compound, CompoundReply, Create, Op, OpenOwner, ShareAccess, StableHow, Stateid, WriteReply,
    },
    error::{Error, Result},
    path::Path,
    read::{FileHandle, ReadResult, content},
    rpc,
    session::{CallError, Session},
    status::Status,
};

/// Pauses where the server says later, or somebody else has a lock.
const INITIAL_BACKOFF: Duration = Duration::from_millis(4);
const MAX_BACKOFF: Duration = Duration::from_millis(100);
/// What is asked of a file that is written: what `stat` shows, and whose it is.
pub(crate) const WRITTEN_FILE_ATTRS: AttributeMask =
    AttributeMask::STAT.and(AttributeMask::OWNER).and(AttributeMask::OWNER_GROUP);
/// So many writes of one content are on their way at once.
const MAX_CONCURRENT_WRITES: usize = 8;

/// A file that is open. Closed when it is dropped, in a task of its own; [`File::close`] waits for that.
#[derive(Debug)]
pub struct File {
    client: Client,
    session: Arc<Session>,
    pub(crate) handle: Bytes,
    stateid: Stateid,
    lock: Arc<Mutex<Option<Stateid>>>,
    /// Taken while a lock is asked for: whoever closes the file has to know which one it has.
    lock_in_progress: Arc<tokio::sync::Mutex<()>>,
    /// Of the server's run in which what is not on stable storage yet was written.
    write_verifier: Mutex<Option<[u8; 8]>>,
    /// The server has said of some bytes that they are written.
    has_written: AtomicBool,
    is_open: bool,
}

impl Client {
    /// For reading and writing.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `ISDIR`, `SYMLINK`, `ACCESS`; `NOENT` also where a directory on the way is missing.
    pub async fn open_file(&self, path: &[u8], create: Create) -> Result<File> {
        let path = path.to_vec();
        let opened = self.run_detached(false, |client, budget| async move {
            let path = Path::new(&path)?;
            Ok(client.open_with(&path, ShareAccess::ReadWrite, create, &budget).await?.0)
        });
        Ok(opened.await?.with_client(self))
    }

    /// The file that was read from, to read on: it stays for that, even if its path names another by then.
    ///
    /// # Errors
    /// `STALE`: it is gone.
    pub async fn open_by_handle(&self, handle: &FileHandle) -> Result<File> {
        let handle = handle.clone();
        let opened = self.run_detached(false, |client, budget| async move {
            let mut compound = Compound::new();
            compound.putfh(&handle.0).open_current(OpenOwner::Unique(client.next_open_owner()));
            let read = |mut results: CompoundReply, session: Arc<Session>| {
                results.expect(Op::PUTFH)?;
                Ok(File::new(client.clone(), session, handle.0.clone(), results.opened()?))
            };
            client.call_with_retry(&compound, Idempotent::Yes, &budget, read).await
        });
        Ok(opened.await?.with_client(self))
    }

    pub(crate) async fn open(&self, path: &Path<'_>, share: ShareAccess, create: Create) -> Result<File> {
        Ok(self.open_with(path, share, create, &self.budget(false)).await?.0)
    }

    /// With the handle of its directory.
    pub(crate) async fn open_with(
        &self,
        path: &Path<'_>,
        share: ShareAccess,
        create: Create,
        budget: &Budget,
    ) -> Result<(File, Bytes)> {
        let (directory, name) = path.split()?;
        let prefix = self.path_prefix(&directory).await?;
        self.open_at(&prefix, name, share, create, budget).await
    }

    pub(crate) async fn open_at(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        share: ShareAccess,
        create: Create,
        budget: &Budget,
    ) -> Result<(File, Bytes)> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::GETFH).open(name, share, create, OpenOwner::Unique(self.next_open_owner())).op(Op::GETFH);
        let read = |mut results: CompoundReply, session: Arc<Session>| {
            prefix.decode(&mut results)?;
            let directory = results.handle()?;
            let stateid = results.opened()?;
            let handle = results.handle()?;
            Ok((File::new(self.clone(), session, handle, stateid), directory))
        };
        // To open is safe to repeat; to find that it was made already is not known to be ours.
        let again = match create {
            Create::Guarded(_) => Idempotent::No,
            _ => Idempotent::Yes,
        };
        self.call_with_retry(&compound, again, budget, read).await
    }
}

impl File {
    pub(crate) fn new(client: Client, session: Arc<Session>, handle: Bytes, stateid: Stateid) -> Self {
        let (lock, lock_in_progress, write_verifier, has_written) = Default::default();
        Self { client, session, handle, stateid, lock, lock_in_progress, write_verifier, has_written, is_open: true }
    }

    /// What is asked of it has the time that this client gives, and not what was left when it was opened.
    fn with_client(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self
    }

    /// In the session that it is open in.
    pub(crate) async fn call<T>(
        &self,
        budget: &Budget,
        compound: &Compound,
        read: impl Fn(CompoundReply) -> Result<T>,
    ) -> Result<T> {
        call_in_session(&self.client, &self.session, budget, compound, read).await
    }

    pub(crate) fn set_written(&self) {
        self.has_written.store(true, Ordering::Release);
    }

    pub(crate) fn has_written(&self) -> bool {
        self.has_written.load(Ordering::Acquire)
    }

    /// It was closed, or not, by a compound of somebody else's.
    pub(crate) fn set_closed(&mut self, is_closed: bool) {
        self.is_open = !is_closed;
    }

    pub(crate) fn lock_stateid(&self) -> Option<Stateid> {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stateid to read and write with: of a lock where there is one, so that nothing is written when it is gone.
    pub(crate) fn io_stateid(&self) -> Stateid {
        self.lock_stateid().unwrap_or(self.stateid)
    }

    pub(crate) fn open_stateid(&self) -> &Stateid {
        &self.stateid
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// # Errors
    /// [`Error::SessionLost`].
    pub async fn attributes(&self, wanted: AttributeMask) -> Result<Attributes> {
        self.attributes_within(wanted, &self.client.budget(false)).await
    }

    pub(crate) async fn attributes_within(&self, wanted: AttributeMask, budget: &Budget) -> Result<Attributes> {
        let mut compound = Compound::new();
        compound.putfh(&self.handle).getattr(wanted);
        self.call(budget, &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            results.attributes()
        })
        .await
    }

    pub(crate) async fn read_with_attributes(&self, offset: u64, length: u32) -> Result<ReadResult> {
        let mut compound = Compound::new();
        compound.putfh(&self.handle).getattr(AttributeMask::STAT).read(&self.io_stateid(), offset, length);
        self.call(&self.client.budget(false), &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            let attributes = results.attributes()?;
            let (data, eof) = content(&mut results, length)?;
            Ok(ReadResult { data, eof, attributes, handle: FileHandle(self.handle.clone()) })
        })
        .await
    }

    /// As many bytes as one call carries, and whether they go up to the end.
    ///
    /// # Errors
    /// [`Error::SessionLost`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let content = self.read_with_attributes(offset, length.min(self.session.attrs.max_read_bytes)).await?;
        Ok((content.data, content.eof))
    }

    /// All of it, in as many calls as it takes, several on their way at once. On stable storage after
    /// [`File::commit`].
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]. Some of it may have been written.
    pub async fn write(&self, offset: u64, content: Bytes) -> Result<()> {
        let budget = self.client.budget(true);
        self.client.within_deadline(&budget, self.write_all(offset, content, &budget)).await
    }

    pub(crate) async fn write_all(&self, offset: u64, content: Bytes, budget: &Budget) -> Result<()> {
        let largest = self.session.attrs.max_write_bytes as usize;
        if content.len() <= largest {
            return self.write_once(offset, content, budget).await;
        }
        let (mut at, mut failed) = (0, None);
        let mut waiting = futures(MAX_CONCURRENT_WRITES);
        while (at < content.len() && failed.is_none()) || !waiting.is_empty() {
            while at < content.len() && failed.is_none() && waiting.has_room() {
                let piece = content.slice(at..content.len().min(at + largest));
                let from = offset.saturating_add(at as u64);
                at += piece.len();
                waiting.push(Box::pin(self.write_once(from, piece, budget)));
            }
            // One that fails ends the others, too: whoever is told of it must not meet them later.
            if let Err(err) = waiting.next().await {
                failed.get_or_insert(err);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn write_once(&self, mut offset: u64, mut content: Bytes, budget: &Budget) -> Result<()> {
        loop {
            let mut compound = Compound::new();
            compound.putfh(&self.handle).write(&self.io_stateid(), offset, StableHow::Unstable, &content);
            let WriteReply { bytes, verifier, .. } = self
                .call(budget, &compound, |mut results| {
                    results.expect(Op::PUTFH)?;
                    results.written().inspect(|_| self.set_written())
                })
                .await?;
            let count = bytes as usize;
            if count > content.len() || (count == 0 && !content.is_empty()) {
                return Err(Error::Protocol("more or less is written than was sent"));
            }
            self.check_write_verifier(verifier)?;
            // A server may take less than it was given.
            if count == content.len() {
                return Ok(());
            }
            offset = offset.saturating_add(count as u64);
            content = content.slice(count..);
        }
    }

    fn check_write_verifier(&self, verifier: [u8; 8]) -> Result<()> {
        let mut written = self.write_verifier.lock().unwrap_or_else(PoisonError::into_inner);
        match *written.get_or_insert(verifier) == verifier {
            true => Ok(()),
            false => Err(Error::Uncertain("the server has begun anew, and may have lost what was not committed")),
        }
    }

    /// Everything that was written is on stable storage now.
    ///
    /// # Errors
    /// [`Error::Uncertain`]: the server has begun anew meanwhile; `IO`, `NOSPC`, `DQUOT`.
    pub async fn commit(&self) -> Result<()> {
        self.commit_within(&self.client.budget(false)).await
    }

    pub(crate) async fn commit_within(&self, budget: &Budget) -> Result<()> {
        let mut compound = Compound::new();
        compound.putfh(&self.handle).commit();
        let asked = self.call(budget, &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            results.committed()
        });
        self.check_write_verifier(asked.await?)
    }

    /// As [`File::commit`], of what a call that does not go by [`File::write`] has written.
    pub(crate) async fn commit_with_verifier(&self, verifier: [u8; 8], budget: &Budget) -> Result<()> {
        self.check_write_verifier(verifier)?;
        self.commit_within(budget).await
    }

    /// Commits, sets, closes: one round trip for the end of a content, which must have this size then.
    pub(crate) async fn finish(mut self, size: u64, set: &SetAttributes, budget: &Budget) -> Result<Attributes> {
        let mut compound = Compound::new();
        compound.putfh(&self.handle).commit();
        if *set != SetAttributes::default() {
            compound.setattr(&ANONYMOUS, set);
        }
        compound.close(&self.stateid).getattr(WRITTEN_FILE_ATTRS);
        let ended = self
            .call(budget, &compound, |mut results| {
                results.expect(Op::PUTFH)?;
                let verifier = results.committed()?;
                if *set != SetAttributes::default() {
                    results.set()?;
                }
                results.stateid(Op::CLOSE)?;
                Ok((verifier, results.attributes()?))
            })
            .await;
        let (verifier, attributes) = ended?;
        self.is_open = false;
        self.check_write_verifier(verifier)?;
        match attributes.size {
            Some(found) if found == size => Ok(attributes),
            _ => Err(Error::Protocol("the server has another size for a file than was written to it")),
        }
    }

    /// All of the file, for as long as it is open: nobody else who asks for a lock has one. Waits until then for a
    /// lock that somebody else has.
    ///
    /// # Errors
    /// `DENIED`: somebody else still has it; `LOCK_NOTSUPP`.
    pub async fn lock(&self, until: Instant) -> Result<()> {
        let budget = self.client.budget(false);
        self.client.within_deadline(&budget, self.lock_inner(until, &budget)).await
    }

    async fn lock_inner(&self, until: Instant, budget: &Budget) -> Result<()> {
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        loop {
            // To its end, whoever waits for it: the server gives the lock in any case.
            let lock_in_progress = Arc::clone(&self.lock_in_progress).lock_owned().await;
            let (client, session, lock) = (self.client.clone(), Arc::clone(&self.session), Arc::clone(&self.lock));
            let its = budget.clone();
            let mut compound = Compound::new();
            compound.putfh(&self.handle).lock(&self.stateid, self.client.next_open_owner());
            let asked = tokio::spawn(async move {
                let given = call_in_session(&client, &session, &its, &compound, |mut results| {
                    results.expect(Op::PUTFH)?;
                    results.stateid(Op::LOCK)
                });
                *lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.await?);
                drop(lock_in_progress);
                Ok(())
            });
            match asked.await.unwrap_or(Err(Error::Uncertain("its task has ended"))) {
                Ok(()) => return Ok(()),
                Err(err) if err.is(Status::DENIED) && Instant::now() + MAX_BACKOFF < until => {
                    budget.pause(&mut backoff).await?;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// Locks all of the file, and looks then: what it is, and which file its name in this directory names, if any.
    pub(crate) async fn lock_and_getattr(
        &self,
        directory: &Bytes,
        name: &[u8],
        until: Instant,
        budget: &Budget,
    ) -> Result<(Attributes, Option<u64>)> {
        let (mut backoff, mut lockable) = (Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF), true);
        loop {
            let mut compound = Compound::new();
            compound.putfh(&self.handle);
            if lockable {
                compound.lock(&self.stateid, self.client.next_open_owner());
            }
            compound.getattr(WRITTEN_FILE_ATTRS).putfh(directory).lookup(name).getattr(AttributeMask::FILEID);
            let looked = self.call(budget, &compound, |mut results| {
                results.expect(Op::PUTFH)?;
                if lockable {
                    let lock = results.stateid(Op::LOCK)?;
                    *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
                }
                let attributes = results.attributes()?;
                results.expect(Op::PUTFH)?;
                match results.expect(Op::LOOKUP).map(drop) {
                    Ok(()) => Ok((attributes, results.attributes()?.fileid)),
                    Err(err) if err.is(Status::NOENT) => Ok((attributes, None)),
                    Err(err) => Err(err),
                }
            });
            match looked.await {
                Err(err) if err.is(Status::DENIED) && Instant::now() + MAX_BACKOFF < until => {
                    budget.pause(&mut backoff).await?;
                }
                // There are no locks here: then it is as exact as it can be.
                Err(Error::Status { op: Op::LOCK, status: Status::LOCK_NOTSUPP | Status::NOTSUPP }) => lockable = false,
                other => return other,
            }
        }
    }

    /// What a compound of somebody else's has to do to end this: unlock, and close.
    pub(crate) fn push_close(&self, compound: &mut Compound) {
        compound.putfh(&self.handle);
        if let Some(lock) = self.lock_stateid() {
            compound.unlock(&lock);
        }
        compound.close(&self.stateid);
    }

    pub(crate) fn decode_close(&mut self, results: &mut CompoundReply) -> Result<()> {
        results.expect(Op::PUTFH)?;
        if self.lock_stateid().is_some() {
            results.stateid(Op::LOCKU)?;
        }
        results.stateid(Op::CLOSE)?;
        self.is_open = false;
        Ok(())
    }

    /// # Errors
    /// [`Error::SessionLost`]: it was closed by that.
    pub async fn close(mut self) -> Result<()> {
        let budget = self.client.budget(false);
        budget.set_sent();
        let closing = async {
            let _no_lock_in_progress = self.lock_in_progress.lock().await;
            close(&self.client, &self.session, &self.handle, self.stateid, self.lock_stateid()).await
        };
        let closed = self.client.within_deadline(&budget, closing).await;
        // Whoever does not wait for this, and where it takes too long, closes it all the same.
        self.is_open = matches!(closed, Err(Error::Deadline(_)));
        closed
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_open && !self.session.is_lost() {
            let (client, session, handle) = (self.client.clone(), Arc::clone(&self.session), self.handle.clone());
            let (stateid, lock, lock_in_progress) =
                (self.stateid, Arc::clone(&self.lock), Arc::clone(&self.lock_in_progress));
            let cleanup = client.cleanup_guard();
            runtime.spawn(async move {
                let _cleanup = cleanup;
                let _no_lock_in_progress = lock_in_progress.lock().await;
                let lock = *lock.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(err) = close(&client, &session, &handle, stateid, lock).await {
                    tracing::debug!(error = %err, "a file could not be closed");
                }
            });
        }
    }
}

pub(crate) async fn close(
    client: &Client,
    session: &Arc<Session>,
    handle: &[u8],
    open: Stateid,
    lock: Option<Stateid>,
) -> Result<()> {
    let closing = async |lock: Option<Stateid>| {
        let mut compound = Compound::new();
        compound.putfh(handle);
        if let Some(lock) = lock {
            compound.unlock(&lock);
        }
        compound.close(&open);
        call_in_session(client, session, &Budget::cleanup(), &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            if lock.is_some() {
                results.stateid(Op::LOCKU)?;
            }
            results.stateid(Op::CLOSE).map(drop)
        })
        .await
    };
    match closing(lock).await {
        // The server unlocked the file before it answered CLOSE with NFS4ERR_DELAY.
        Err(Error::Status { op: Op::LOCKU, status: Status::OLD_STATEID }) => closing(None).await,
        closed => closed,
    }
}

/// Sends it in this session, and again where the server says later.
pub(crate) async fn call_in_session<T>(
    client: &Client,
    session: &Arc<Session>,
    budget: &Budget,
    compound: &Compound,
    read: impl Fn(CompoundReply) -> Result<T>,
) -> Result<T> {
    let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
    loop {
        let later = match client.send_once(compound, Some(session), budget).await? {
            Ok((results, _)) => match read(results) {
                Err(err) if err.status().is_some_and(Status::is_delay) => err,
                other => return other,
            },
            Err(CallError::Refused(err)) if err.status().is_some_and(Status::is_delay) => err,
            // It changes nothing.
            Err(CallError::ReplyNotCached) if !compound.cache_this => continue,
            // It was never executed, and there is time.
            Err(CallError::Withdrawn) if !budget.is_over() => Error::Refused(rpc::SYSTEM_ERROR),
            Err(CallError::NotSent) => return Err(Error::SessionLost),
            Err(CallError::Lost | CallError::Abandoned) if !compound.cache_this => return Err(Error::SessionLost),
            Err(fault) => return Err(fault.error(budget)),
        };
        tracing::debug!(error = %later, "the server says later");
        budget.pause(&mut backoff).await?;
    }
}

/// Some futures of one kind that go on together.
pub(crate) struct Together<F> {
    most: usize,
    all: Vec<F>,
}

pub(crate) fn futures<F>(most: usize) -> Together<F> {
    Together { most, all: Vec::new() }
}

impl<T, F: Future<Output = T> + Unpin> Together<F> {
    fn has_room(&self) -> bool {
        self.all.len() < self.most
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn push(&mut self, future: F) {
        self.all.push(future);
    }

    /// The answer of whichever has one first.
    pub async fn next(&mut self) -> T {
        std::future::poll_fn(|context| {
            for index in 0..self.all.len() {
                if let std::task::Poll::Ready(answer) = std::pin::Pin::new(&mut self.all[index]).poll(context) {
                    drop(self.all.swap_remove(index));
                    return std::task::Poll::Ready(answer);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

impl PathPrefix<'_> {
    /// The directory with this handle.
    pub(crate) fn at(handle: Bytes) -> PathPrefix<'static> {
        PathPrefix::new(Some(handle), Vec::new())
    }
}
