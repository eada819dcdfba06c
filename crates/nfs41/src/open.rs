//! Files that stay open for more than one call, and locks of them. What is open is open in one session: when that is
//! lost, so is it, and whatever is asked of it says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    attributes::{Attributes, Set, Wanted},
    client::{Again, Begin, Client, Content, Handle, Start, content},
    compound::{ANONYMOUS, Compound, Create, Op, Owner, Results, Share, Stable, Stateid},
    error::{Error, Result},
    path::Path,
    session::{Fault, Session},
    status::Status,
};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// So many writes of one content are on their way at once.
const WINDOW: usize = 8;

/// A file that is open. Closed when it is dropped, in a task of its own; [`File::close`] waits for that.
#[derive(Debug)]
pub struct File {
    client: Client,
    session: Arc<Session>,
    pub(crate) handle: Bytes,
    stateid: Stateid,
    lock: Arc<Mutex<Option<Stateid>>>,
    /// Taken while a lock is asked for: whoever closes the file has to know which one it has.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// Of the server's run in which what is not on stable storage yet was written.
    written: Mutex<Option<[u8; 8]>>,
    is_open: bool,
}

impl Client {
    /// For reading and writing.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `ISDIR`, `SYMLINK`, `ACCESS`; `NOENT` also where a directory on the way is missing.
    pub async fn open_file(&self, path: &[u8], create: Create) -> Result<File> {
        let path = path.to_vec();
        self.to_the_end(|client, begin| async move {
            let path = Path::new(&path)?;
            Ok(client.open_with(&path, Share::Both, create, &begin).await?.0)
        })
        .await
    }

    /// The file that was read from, to read on: it stays for that, even if its path names another by then.
    ///
    /// # Errors
    /// `STALE`: it is gone.
    pub async fn hold_to_read(&self, handle: &Handle) -> Result<File> {
        let handle = handle.clone();
        self.to_the_end(|client, begin| async move {
            let mut compound = Compound::new();
            compound.at(&handle.0).open_this(Owner::Own(client.owner()));
            let read = |mut results: Results, session: Arc<Session>| {
                results.op(Op::PUTFH)?;
                Ok(File::new(client.clone(), session, handle.0.clone(), results.opened()?))
            };
            client.repeat(&compound, Again::Yes, &begin, read).await
        })
        .await
    }

    pub(crate) async fn open(&self, path: &Path<'_>, share: Share, create: Create) -> Result<File> {
        Ok(self.open_with(path, share, create, &Begin::default()).await?.0)
    }

    /// With the handle of its directory.
    pub(crate) async fn open_with(
        &self,
        path: &Path<'_>,
        share: Share,
        create: Create,
        begin: &Begin,
    ) -> Result<(File, Bytes)> {
        let (directory, name) = path.split()?;
        let start = self.start(&directory).await?;
        self.open_at(&start, name, share, create, begin).await
    }

    pub(crate) async fn open_at(
        &self,
        start: &Start<'_>,
        name: &[u8],
        share: Share,
        create: Create,
        begin: &Begin,
    ) -> Result<(File, Bytes)> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::GETFH).open(name, share, create, Owner::Own(self.owner())).plain(Op::GETFH);
        let read = |mut results: Results, session: Arc<Session>| {
            start.walked(&mut results)?;
            let directory = results.handle()?;
            let stateid = results.opened()?;
            let handle = results.handle()?;
            Ok((File::new(self.clone(), session, handle, stateid), directory))
        };
        // To open is safe to repeat; to find that it was made already is not known to be ours.
        let again = match create {
            Create::New(_) => Again::No,
            _ => Again::Yes,
        };
        self.repeat(&compound, again, begin, read).await
    }
}

impl File {
    fn new(client: Client, session: Arc<Session>, handle: Bytes, stateid: Stateid) -> Self {
        let (lock, asking, written) = Default::default();
        Self { client, session, handle, stateid, lock, asking, written, is_open: true }
    }

    /// In the session that it is open in.
    async fn ask<T>(&self, begin: &Begin, compound: &Compound, read: impl Fn(Results) -> Result<T>) -> Result<T> {
        in_session(&self.client, &self.session, begin, compound, read).await
    }

    fn locked(&self) -> Option<Stateid> {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stateid to read and write with: of a lock where there is one, so that nothing is written when it is gone.
    fn current(&self) -> Stateid {
        self.locked().unwrap_or(self.stateid)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// # Errors
    /// [`Error::SessionLost`].
    pub async fn attributes(&self, wanted: Wanted) -> Result<Attributes> {
        let mut compound = Compound::new();
        compound.at(&self.handle).attributes(wanted);
        let begin = Begin::default();
        let asked = self.ask(&begin, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            results.attributes()
        });
        self.client.in_time(Again::Yes, &begin, asked).await
    }

    pub(crate) async fn read_with_attributes(&self, offset: u64, length: u32) -> Result<Content> {
        let mut compound = Compound::new();
        compound.at(&self.handle).attributes(Wanted::USUAL).read(&self.current(), offset, length);
        let begin = Begin::default();
        let asked = self.ask(&begin, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            let attributes = results.attributes()?;
            let (data, end) = content(&mut results, length)?;
            Ok(Content { data, end, attributes, handle: Handle(self.handle.clone()) })
        });
        self.client.in_time(Again::Yes, &begin, asked).await
    }

    /// As many bytes as one call carries, and whether they go up to the end.
    ///
    /// # Errors
    /// [`Error::SessionLost`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let content = self.read_with_attributes(offset, length.min(self.session.agreed.largest_read)).await?;
        Ok((content.data, content.end))
    }

    /// All of it, in as many calls as it takes, several on their way at once. On stable storage after
    /// [`File::commit`].
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]. Some of it may have been written.
    pub async fn write(&self, offset: u64, content: Bytes) -> Result<()> {
        let begin = Begin::default();
        self.client.in_time(Again::No, &begin, self.write_all(offset, content, &begin)).await
    }

    /// However long it takes.
    pub(crate) async fn write_all(&self, offset: u64, content: Bytes, begin: &Begin) -> Result<()> {
        let largest = self.session.agreed.largest_write as usize;
        if content.len() <= largest {
            return self.write_once(offset, content, begin).await;
        }
        let mut at = 0;
        let mut waiting = futures(WINDOW);
        while at < content.len() || !waiting.is_empty() {
            while at < content.len() && waiting.has_room() {
                let piece = content.slice(at..content.len().min(at + largest));
                let from = offset.saturating_add(at as u64);
                at += piece.len();
                waiting.push(Box::pin(self.write_once(from, piece, begin)));
            }
            waiting.next().await?;
        }
        Ok(())
    }

    async fn write_once(&self, mut offset: u64, mut content: Bytes, begin: &Begin) -> Result<()> {
        loop {
            let mut compound = Compound::new();
            compound.at(&self.handle).write(&self.current(), offset, Stable::No, &content);
            let (count, _, run) = self
                .ask(begin, &compound, |mut results| {
                    results.op(Op::PUTFH)?;
                    results.written()
                })
                .await?;
            let count = count as usize;
            if count > content.len() || (count == 0 && !content.is_empty()) {
                return Err(Error::Protocol("more or less is written than was sent"));
            }
            self.is_of(run)?;
            // A server may take less than it was given.
            if count == content.len() {
                return Ok(());
            }
            offset = offset.saturating_add(count as u64);
            content = content.slice(count..);
        }
    }

    fn is_of(&self, run: [u8; 8]) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match *written.get_or_insert(run) == run {
            true => Ok(()),
            false => Err(Error::Uncertain("the server has begun anew, and may have lost what was not committed")),
        }
    }

    /// Everything that was written is on stable storage now.
    ///
    /// # Errors
    /// [`Error::Uncertain`]: the server has begun anew meanwhile; `IO`, `NOSPC`, `DQUOT`.
    pub async fn commit(&self) -> Result<()> {
        let mut compound = Compound::new();
        compound.at(&self.handle).commit();
        let begin = Begin::default();
        let asked = self.ask(&begin, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            results.committed()
        });
        self.is_of(self.client.in_time(Again::No, &begin, asked).await?)
    }

    /// Commits, sets, closes: one round trip for the end of a content.
    pub(crate) async fn finish(mut self, set: &Set) -> Result<Attributes> {
        let mut compound = Compound::new();
        compound.at(&self.handle).commit().set(&ANONYMOUS, set).close(&self.stateid).attributes(Wanted::USUAL);
        let ended = self
            .ask(&Begin::default(), &compound, |mut results| {
                results.op(Op::PUTFH)?;
                let run = results.committed()?;
                results.set()?;
                results.stateid(Op::CLOSE)?;
                Ok((run, results.attributes()?))
            })
            .await;
        let (run, attributes) = ended?;
        self.is_open = false;
        self.is_of(run)?;
        Ok(attributes)
    }

    /// Sets, closes, and tells what the file is now.
    pub(crate) async fn write_and_close(mut self, offset: u64, content: &Bytes, set: &Set) -> Result<Attributes> {
        let mut compound = Compound::new();
        compound.at(&self.handle).write(&self.current(), offset, Stable::Yes, content).set(&ANONYMOUS, set);
        compound.attributes(Wanted::USUAL);
        let lock = self.locked();
        if let Some(lock) = lock {
            compound.unlock(&lock);
        }
        compound.close(&self.stateid);
        let begin = Begin::default();
        let ended = self.ask(&begin, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            let (count, ..) = results.written()?;
            // What follows has been done, too.
            results.set()?;
            let attributes = results.attributes()?;
            let closed = lock.map_or(Ok(()), |_| results.stateid(Op::LOCKU).map(drop));
            Ok((count, attributes, closed.and_then(|()| results.stateid(Op::CLOSE)).is_ok()))
        });
        let (count, attributes, closed) = ended.await?;
        self.is_open = !closed;
        match count as usize == content.len() {
            true => Ok(attributes),
            false => Err(Error::Uncertain("the server has written a part of it")),
        }
    }

    /// All of the file, for as long as it is open: nobody else who asks for a lock has one. Waits until then for a
    /// lock that somebody else has.
    ///
    /// # Errors
    /// `DENIED`: somebody else still has it; `LOCK_NOTSUPP`.
    pub async fn lock(&self, until: Instant) -> Result<()> {
        let begin = Arc::default();
        self.client.in_time(Again::No, &begin, self.lock_in_the_end(until, &begin)).await
    }

    async fn lock_in_the_end(&self, until: Instant, begin: &Arc<Begin>) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            // To its end, whoever waits for it: the server gives the lock in any case.
            let asking = Arc::clone(&self.asking).lock_owned().await;
            let (client, session, lock) = (self.client.clone(), Arc::clone(&self.session), Arc::clone(&self.lock));
            let begin = Arc::clone(begin);
            let mut compound = Compound::new();
            compound.at(&self.handle).lock(&self.stateid, self.client.owner());
            let asked = tokio::spawn(async move {
                let given = in_session(&client, &session, &begin, &compound, |mut results| {
                    results.op(Op::PUTFH)?;
                    results.stateid(Op::LOCK)
                });
                *lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.await?);
                drop(asking);
                Ok(())
            });
            match asked.await.unwrap_or(Err(Error::Uncertain("its task has ended"))) {
                Ok(()) => return Ok(()),
                Err(why) if why.is(Status::DENIED) && Instant::now() + pause < until => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(why) => return Err(why),
            }
        }
    }

    /// Locks all of the file, and looks then: what it is, and which file its name in this directory names, if any.
    pub(crate) async fn lock_and_look(
        &self,
        directory: &Bytes,
        name: &[u8],
        until: Instant,
    ) -> Result<(Attributes, Option<u64>)> {
        let (mut pause, mut lockable) = (FIRST_PAUSE, true);
        loop {
            let mut compound = Compound::new();
            compound.at(&self.handle);
            if lockable {
                compound.lock(&self.stateid, self.client.owner());
            }
            compound.attributes(Wanted::USUAL).at(directory).lookup(name).attributes(Wanted::FILE_ID);
            let begin = Begin::default();
            let looked = self.ask(&begin, &compound, |mut results| {
                results.op(Op::PUTFH)?;
                if lockable {
                    let lock = results.stateid(Op::LOCK)?;
                    *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
                }
                let attributes = results.attributes()?;
                results.op(Op::PUTFH)?;
                match results.op(Op::LOOKUP).map(drop) {
                    Ok(()) => Ok((attributes, results.attributes()?.file_id)),
                    Err(why) if why.is(Status::NOENT) => Ok((attributes, None)),
                    Err(why) => Err(why),
                }
            });
            match looked.await {
                Err(why) if why.is(Status::DENIED) && Instant::now() + pause < until => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // There are no locks here: then it is as exact as it can be.
                Err(Error::Status { op: Op::LOCK, status: Status::LOCK_NOTSUPP | Status::NOTSUPP }) => lockable = false,
                other => return other,
            }
        }
    }

    /// What a compound of somebody else's has to do to end this: unlock, and close.
    pub(crate) fn end_in(&self, compound: &mut Compound) {
        compound.at(&self.handle);
        if let Some(lock) = self.locked() {
            compound.unlock(&lock);
        }
        compound.close(&self.stateid);
    }

    pub(crate) fn ended(&mut self, results: &mut Results) -> Result<()> {
        results.op(Op::PUTFH)?;
        if self.locked().is_some() {
            results.stateid(Op::LOCKU)?;
        }
        results.stateid(Op::CLOSE)?;
        self.is_open = false;
        Ok(())
    }

    /// # Errors
    /// [`Error::SessionLost`]: it was closed by that.
    pub async fn close(mut self) -> Result<()> {
        let begin = Begin::default();
        begin.sending();
        let closing = async {
            let _asked = self.asking.lock().await;
            close(&self.client, &self.session, &self.handle, self.stateid, self.locked()).await
        };
        let closed = self.client.in_time(Again::No, &begin, closing).await;
        // Whoever does not wait for this, and where it takes too long, closes it all the same.
        self.is_open = matches!(closed, Err(Error::Uncertain(_)));
        closed
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_open && !self.session.is_lost() {
            let (client, session, handle) = (self.client.clone(), Arc::clone(&self.session), self.handle.clone());
            let (stateid, lock, asking) = (self.stateid, Arc::clone(&self.lock), Arc::clone(&self.asking));
            runtime.spawn(async move {
                let _asked = asking.lock().await;
                let lock = *lock.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(why) = close(&client, &session, &handle, stateid, lock).await {
                    tracing::debug!(error = %why, "a file could not be closed");
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
        compound.at(handle);
        if let Some(lock) = lock {
            compound.unlock(&lock);
        }
        compound.close(&open);
        in_session(client, session, &Begin::default(), &compound, |mut results| {
            results.op(Op::PUTFH)?;
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
pub(crate) async fn in_session<T>(
    client: &Client,
    session: &Arc<Session>,
    begin: &Begin,
    compound: &Compound,
    read: impl Fn(Results) -> Result<T>,
) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    loop {
        let why = match client.once(compound, Some(session), begin).await? {
            Ok((results, _)) => match read(results) {
                Err(why) if why.status().is_some_and(Status::is_later) => why,
                other => return other,
            },
            Err(Fault::Refused(why)) if why.status().is_some_and(Status::is_later) => why,
            Err(Fault::Refused(why)) => return Err(why),
            Err(Fault::Lost { sent: true }) if compound.kept => return Err(Error::Uncertain("the session was lost")),
            Err(Fault::Lost { .. }) => return Err(Error::SessionLost),
            // It changes nothing.
            Err(Fault::Forgotten) if !compound.kept => continue,
            Err(Fault::Forgotten) => return Err(Error::Uncertain("the server has not kept its answer")),
        };
        tracing::debug!(error = %why, "the server says later");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
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

impl Start<'_> {
    /// The directory with this handle.
    pub(crate) fn at(handle: Bytes) -> Start<'static> {
        Start::new(Some(handle), Vec::new())
    }
}
