//! Files that stay open for more than one call, and their locks. A file is open in one session: when the session is lost,
//! its operations return [`Error::SessionLost`].

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    attributes::{AttributeMask, Attributes, SetAttributes},
    budget::{Backoff, Budget},
    call::{OPEN_FILE_INITIAL_BACKOFF, OPEN_FILE_MAX_BACKOFF, RetryPolicy},
    client::Client,
    compound::{ANONYMOUS, Compound, CompoundReply, Create, OpenOwner, ShareAccess, StableHow, Stateid, WriteReply},
    error::{Error, Result},
    op::Op,
    path::Path,
    prefix::PathPrefix,
    read::{FileHandle, ReadResult, decode_read},
    session::Session,
    status::Status,
};

/// Attributes of a file that was written.
pub(crate) const WRITTEN_FILE_ATTRS: AttributeMask =
    AttributeMask::STAT.union(AttributeMask::OWNER).union(AttributeMask::OWNER_GROUP);
/// Maximum number of concurrent WRITEs of one [`File::write`].
const MAX_CONCURRENT_WRITES: usize = 8;

/// An open file. Dropping it closes it in the background; [`File::close`] waits until it is closed.
#[derive(Debug)]
pub struct File {
    client: Client,
    session: Arc<Session>,
    pub(crate) handle: Bytes,
    stateid: Stateid,
    lock: Arc<Mutex<Option<Stateid>>>,
    /// Held while a LOCK is in flight: CLOSE must know its stateid.
    lock_in_progress: Arc<tokio::sync::Mutex<()>>,
    /// Write verifier of uncommitted data (RFC 8881, section 18.32.3).
    write_verifier: Mutex<Option<[u8; 8]>>,
    /// Some data was written.
    has_written: AtomicBool,
    is_open: bool,
}

impl Client {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NOENT`: the file or a directory of its path is missing; `EXIST`, `ISDIR`, `SYMLINK`, `ACCESS`.
    pub async fn open_file(&self, path: &[u8], create: Create) -> Result<File> {
        let path = path.to_vec();
        let opened = self.run_detached(false, |client, budget| async move {
            let path = Path::new(&path)?;
            Ok(client.open_with(&path, ShareAccess::ReadWrite, create, &budget).await?.0)
        });
        Ok(opened.await?.with_client(self))
    }

    /// Opens a file by its handle for reading. The file stays readable while it is open, even if another file replaces it.
    ///
    /// # Errors
    /// `STALE`: the file no longer exists.
    pub async fn open_by_handle(&self, handle: &FileHandle) -> Result<File> {
        let handle = handle.clone();
        let opened = self.run_detached(false, |client, budget| async move {
            let mut compound = Compound::new();
            compound.putfh(&handle.0).open_current(OpenOwner::Unique(client.next_open_owner()));
            let decode = |mut results: CompoundReply, session: Arc<Session>| {
                results.expect(Op::PUTFH)?;
                Ok(File::new(client.clone(), session, handle.0.clone(), results.opened()?))
            };
            client.call_with_retry(&compound, RetryPolicy::Idempotent, &budget, decode).await
        });
        Ok(opened.await?.with_client(self))
    }

    pub(crate) async fn open(&self, path: &Path<'_>, share: ShareAccess, create: Create) -> Result<File> {
        Ok(self.open_with(path, share, create, &self.budget(false)).await?.0)
    }

    /// Opens a file. Also returns the handle of its directory.
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
        let decode = |mut results: CompoundReply, session: Arc<Session>| {
            prefix.decode(&mut results)?;
            let directory = results.handle()?;
            let stateid = results.opened()?;
            let handle = results.handle()?;
            Ok((File::new(self.clone(), session, handle, stateid), directory))
        };
        // A repeated OPEN with GUARDED4 may find the file of the first attempt.
        let policy = match create {
            Create::Guarded(_) => RetryPolicy::NonIdempotent,
            _ => RetryPolicy::Idempotent,
        };
        self.call_with_retry(&compound, policy, budget, decode).await
    }
}

impl File {
    pub(crate) fn new(client: Client, session: Arc<Session>, handle: Bytes, stateid: Stateid) -> Self {
        let (lock, lock_in_progress, write_verifier, has_written) = Default::default();
        Self { client, session, handle, stateid, lock, lock_in_progress, write_verifier, has_written, is_open: true }
    }

    /// Uses the timeout of this client, and not the rest of the operation that opened the file.
    fn with_client(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self
    }

    /// Sends a compound in the file's session.
    pub(crate) async fn call<T>(
        &self,
        budget: &Budget,
        compound: &Compound,
        decode: impl Fn(CompoundReply) -> Result<T>,
    ) -> Result<T> {
        let policy = RetryPolicy::InSession(&self.session);
        self.client.call_with_retry(compound, policy, budget, |results, _| decode(results)).await
    }

    pub(crate) fn set_written(&self) {
        self.has_written.store(true, Ordering::Release);
    }

    pub(crate) fn has_written(&self) -> bool {
        self.has_written.load(Ordering::Acquire)
    }

    /// Records whether a compound has closed the file.
    pub(crate) fn set_closed(&mut self, is_closed: bool) {
        self.is_open = !is_closed;
    }

    pub(crate) fn lock_stateid(&self) -> Option<Stateid> {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stateid for READ and WRITE: the lock's if there is one, so that a WRITE fails when the lock is lost.
    pub(crate) fn io_stateid(&self) -> Stateid {
        self.lock_stateid().unwrap_or(self.stateid)
    }

    pub(crate) fn open_stateid(&self) -> &Stateid {
        &self.stateid
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The attributes of the file.
    ///
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
            let (data, eof) = decode_read(&mut results, length)?;
            Ok(ReadResult { data, eof, attributes, handle: FileHandle(self.handle.clone()) })
        })
        .await
    }

    /// Reads up to `length` bytes, at most as many as one READ carries, and returns whether they reach the end of the file.
    ///
    /// # Errors
    /// [`Error::SessionLost`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let content = self.read_with_attributes(offset, length.min(self.session.attrs.max_read_bytes)).await?;
        Ok((content.data, content.eof))
    }

    /// Writes all of the data with concurrent calls. It is on stable storage after [`File::commit`].
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]. A part of the data may have been written.
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
        let mut waiting = FuturesUnordered::new();
        while (at < content.len() && failed.is_none()) || !waiting.is_empty() {
            while at < content.len() && failed.is_none() && waiting.len() < MAX_CONCURRENT_WRITES {
                let piece = content.slice(at..content.len().min(at + largest));
                let from = offset.saturating_add(at as u64);
                at += piece.len();
                waiting.push(self.write_once(from, piece, budget));
            }
            // After a failure wait for the others, so that none of them takes effect after the caller has the error.
            if let Some(Err(err)) = waiting.next().await {
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
                return Err(Error::Protocol("the number of bytes written does not match the request"));
            }
            self.check_write_verifier(verifier)?;
            // The server may write less than it was given.
            if count == content.len() {
                return Ok(());
            }
            offset = offset.saturating_add(count as u64);
            content = content.slice(count..);
        }
    }

    /// The verifier changes when the server restarts, which loses uncommitted data (RFC 8881, section 18.32.4).
    fn check_write_verifier(&self, verifier: [u8; 8]) -> Result<()> {
        let mut written = self.write_verifier.lock().unwrap_or_else(PoisonError::into_inner);
        match *written.get_or_insert(verifier) == verifier {
            true => Ok(()),
            false => Err(Error::Uncertain("the server restarted, and may have lost uncommitted data")),
        }
    }

    /// Commits all written data to stable storage.
    ///
    /// # Errors
    /// [`Error::Uncertain`]: the server restarted and may have lost data; `IO`, `NOSPC`, `DQUOT`.
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

    /// As [`File::commit`], for data that another compound wrote with this verifier.
    pub(crate) async fn commit_with_verifier(&self, verifier: [u8; 8], budget: &Budget) -> Result<()> {
        self.check_write_verifier(verifier)?;
        self.commit_within(budget).await
    }

    /// Commits, sets attributes and closes in one round trip. The file must then have this size.
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
            _ => Err(Error::Protocol("a file has another size than what was written to it")),
        }
    }

    /// Locks all of the file exclusively until it is closed. Waits until `until` for another client's lock.
    ///
    /// # Errors
    /// `DENIED`: another client still has a lock; `LOCK_NOTSUPP`.
    pub async fn lock(&self, until: Instant) -> Result<()> {
        let budget = self.client.budget(false);
        self.client.within_deadline(&budget, self.lock_inner(until, &budget)).await
    }

    async fn lock_inner(&self, until: Instant, budget: &Budget) -> Result<()> {
        let mut backoff = Backoff::new(OPEN_FILE_INITIAL_BACKOFF, OPEN_FILE_MAX_BACKOFF);
        loop {
            // A task, which continues when the caller is dropped: the server may grant the lock in any case.
            let lock_in_progress = Arc::clone(&self.lock_in_progress).lock_owned().await;
            let (client, session, lock) = (self.client.clone(), Arc::clone(&self.session), Arc::clone(&self.lock));
            let its = budget.clone();
            let mut compound = Compound::new();
            compound.putfh(&self.handle).lock(&self.stateid, self.client.next_open_owner());
            let asked = tokio::spawn(async move {
                let policy = RetryPolicy::InSession(&session);
                let given = client.call_with_retry(&compound, policy, &its, |mut results, _| {
                    results.expect(Op::PUTFH)?;
                    results.stateid(Op::LOCK)
                });
                *lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.await?);
                drop(lock_in_progress);
                Ok(())
            });
            match asked.await.unwrap_or(Err(Error::Uncertain("its task ended early"))) {
                Ok(()) => return Ok(()),
                Err(err) if err.is(Status::DENIED) && Instant::now() + OPEN_FILE_MAX_BACKOFF < until => {
                    budget.pause(&mut backoff).await?;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// Locks all of the file, and then returns its attributes and the file ID that the name in the directory has, if any.
    pub(crate) async fn lock_and_getattr(
        &self,
        directory: &Bytes,
        name: &[u8],
        until: Instant,
        budget: &Budget,
    ) -> Result<(Attributes, Option<u64>)> {
        let (mut backoff, mut lockable) = (Backoff::new(OPEN_FILE_INITIAL_BACKOFF, OPEN_FILE_MAX_BACKOFF), true);
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
                Err(err) if err.is(Status::DENIED) && Instant::now() + OPEN_FILE_MAX_BACKOFF < until => {
                    budget.pause(&mut backoff).await?;
                }
                // The server has no locks: continue without one.
                Err(Error::Status { op: Op::LOCK, status: Status::LOCK_NOTSUPP | Status::NOTSUPP }) => lockable = false,
                other => return other,
            }
        }
    }

    /// Adds LOCKU and CLOSE of this file to a compound.
    pub(crate) fn push_close(&self, compound: &mut Compound) {
        compound.putfh(&self.handle);
        if let Some(lock) = self.lock_stateid() {
            compound.unlock(&lock);
        }
        compound.close(&self.stateid);
    }

    /// Reads the results of [`File::push_close`].
    pub(crate) fn decode_close(&mut self, results: &mut CompoundReply) -> Result<()> {
        results.expect(Op::PUTFH)?;
        if self.lock_stateid().is_some() {
            results.stateid(Op::LOCKU)?;
        }
        results.stateid(Op::CLOSE)?;
        self.is_open = false;
        Ok(())
    }

    /// Closes the file.
    ///
    /// # Errors
    /// [`Error::SessionLost`]: the file was closed with the session.
    pub async fn close(mut self) -> Result<()> {
        let budget = self.client.budget(false);
        budget.set_sent();
        let closing = async {
            let _no_lock_in_progress = self.lock_in_progress.lock().await;
            close(&self.client, &self.session, &self.handle, self.stateid, self.lock_stateid()).await
        };
        let closed = self.client.within_deadline(&budget, closing).await;
        // After a timeout, dropping the file closes it in the background.
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
                    tracing::debug!(error = %err, "cannot close a file");
                }
            });
        }
    }
}

/// Unlocks and closes a file.
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
        let policy = RetryPolicy::InSession(session);
        let decode = |mut results: CompoundReply, _| {
            results.expect(Op::PUTFH)?;
            if lock.is_some() {
                results.stateid(Op::LOCKU)?;
            }
            results.stateid(Op::CLOSE).map(drop)
        };
        client.call_with_retry(&compound, policy, &Budget::cleanup(), decode).await
    };
    match closing(lock).await {
        // The server unlocked the file before it answered CLOSE with NFS4ERR_DELAY.
        Err(Error::Status { op: Op::LOCKU, status: Status::OLD_STATEID }) => closing(None).await,
        closed => closed,
    }
}
