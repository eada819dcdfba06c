//! New contents of files: written under a name of their own first, and then moved to where they shall be, so that
//! whoever reads sees the old content or the new one, whole.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::{
    attributes::{Attributes, Set, Time, Wanted},
    client::{Again, Begin, Client, Start, refuses},
    compound::{ANONYMOUS, CURRENT, Compound, Create, Op, Owner, Results, Share, Stable, Stateid},
    error::{Error, Result},
    open::{File, close, in_session},
    path::{self, Path},
    session::Session,
    status::Status,
};

/// How often it is begun anew when others change the path meanwhile.
const TRIES: usize = 32;
/// A pause where the server says later, and has done a part.
const LATER: Duration = Duration::from_millis(50);
/// Operations of a whole `put` besides the way to its directory.
const ONE_CALL: u32 = 24;

/// Whether a file, or that there is none, is as it must be.
pub type Holds = Arc<dyn Fn(Option<&Attributes>) -> bool + Send + Sync>;

/// What must be true of the file that is there.
#[derive(Clone, Default)]
pub enum Conditions {
    #[default]
    None,
    /// There is a plain file. Else it is `NOENT`, or `NOT_SAME` where it is something else. Not judged under a lock: two
    /// that ask for this both replace it.
    File,
    /// There is none. Of several that ask for this one is let in.
    New,
    /// Judged under a lock of the file, which whoever else asks for one respects.
    If(Holds),
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::File => "File",
            Self::New => "New",
            Self::If(_) => "If",
        })
    }
}

/// How a content is put into its place.
#[derive(Clone, Debug)]
pub struct Put {
    /// The permissions of the new file.
    pub mode: u32,
    /// When its content shall be said to have changed last; `None` for the server's own time, of which two changes
    /// may have the same.
    pub modified: Option<Time>,
    pub conditions: Conditions,
    /// The name that it is written under, in the same directory. Nobody else may use it.
    pub temporary: Vec<u8>,
    /// A second name for a file that is replaced or removed on a condition, for as long as that takes.
    pub alias: Vec<u8>,
    /// How long a lock of somebody else is waited for.
    pub patience: Duration,
}

impl Default for Put {
    fn default() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, count));
        Self {
            mode: 0o666,
            modified: None,
            conditions: Conditions::None,
            temporary: format!(".nfs41-{random:016x}.{count}").into(),
            alias: format!(".nfs41-{random:016x}.{count}.alias").into(),
            patience: Duration::from_secs(5),
        }
    }
}

/// What is done with a temporary file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing yet.
    Stay,
    Replace,
    ReplaceFile,
    /// A second name, where there is none, and the first one goes: of several one gets in.
    New,
}

/// What a compound has left open when it went no further.
struct Left {
    session: Arc<Session>,
    handle: Bytes,
    stateid: Stateid,
}

/// A content that comes in pieces. Given up when it is dropped; what it has written is removed then.
#[derive(Debug)]
pub struct Staged {
    client: Client,
    file: Option<File>,
    directory: Bytes,
    name: Vec<u8>,
    put: Put,
    at: u64,
    is_moved: bool,
}

impl Client {
    /// A new file with this content, in the place of what was there, at once; on stable storage.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`: the directory is missing; `ISDIR`, `NOSPC`, `DQUOT`; `DENIED`: somebody
    /// else has a lock of the file; [`Error::Uncertain`].
    pub async fn put(&self, path: &[u8], content: Bytes, put: Put) -> Result<Attributes> {
        let path = path.to_vec();
        self.to_the_end(|client, begin| async move { client.put_to_the_end(&path, content, put, &begin).await }).await
    }

    async fn put_to_the_end(&self, path: &[u8], content: Bytes, put: Put, begin: &Begin) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        path::check(&put.temporary).and_then(|()| path::check(&put.alias))?;
        let agreed = self.agreed().await?;
        let fits = content.len() <= agreed.largest_write as usize && agreed.most_operations >= ONE_CALL;
        let step = match put.conditions {
            Conditions::None => Step::Replace,
            Conditions::File => Step::ReplaceFile,
            Conditions::New => Step::New,
            Conditions::If(_) => Step::Stay,
        };
        if fits && !self.inner.plain.load(Ordering::Relaxed) {
            let start = self.start(&directory).await?;
            match self.make(&start, &content, &put, name, step, begin).await {
                Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                    tracing::info!(%status, "the server takes no current stateid; more round trips from now on");
                    self.inner.plain.store(true, Ordering::Relaxed);
                }
                Ok(made) if step == Step::Stay => {
                    return self.settle(&start, name, &put, begin).await.map(|()| made);
                }
                other => return other,
            }
        }
        let staged = self.stage_to_the_end(path, put, begin).await?;
        staged.file.as_ref().ok_or(Error::Closed)?.write_all(0, content, begin).await?;
        staged.commit_to_the_end().await
    }

    /// Begins a content that comes in pieces.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn stage(&self, path: &[u8], put: Put) -> Result<Staged> {
        let path = path.to_vec();
        self.to_the_end(|client, begin| async move { client.stage_to_the_end(&path, put, &begin).await }).await
    }

    async fn stage_to_the_end(&self, path: &[u8], put: Put, begin: &Begin) -> Result<Staged> {
        let (directory, name) = Path::new(path)?.split()?;
        path::check(&put.temporary).and_then(|()| path::check(&put.alias))?;
        let mut beside: Vec<u8> = directory.components().collect::<Vec<_>>().join(&b'/');
        beside.push(b'/');
        beside.extend_from_slice(&put.temporary);
        // Not "new": repeated where nobody knows whether it was done, it would find its own.
        let create = Create::IfMissing(put.mode);
        let (file, directory) = self.open_with(&Path::new(&beside)?, Share::Both, create, begin).await?;
        let (client, name) = (self.with_deadline(None), name.to_vec());
        Ok(Staged { client, file: Some(file), directory, name, put, at: 0, is_moved: false })
    }

    /// The temporary file, and what comes after it, in one compound. What was made.
    pub(crate) async fn make(
        &self,
        start: &Start<'_>,
        content: &Bytes,
        put: &Put,
        name: &[u8],
        step: Step,
        begin: &Begin,
    ) -> Result<Attributes> {
        let set = put.modified.map(Set::modified);
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        if step == Step::ReplaceFile {
            compound.lookup(name).only_a_file().plain(Op::RESTOREFH);
        }
        compound.open(&put.temporary, Share::Both, Create::IfMissing(put.mode), Owner::Slot).plain(Op::GETFH);
        compound.write(&CURRENT, 0, Stable::Yes, content).close(&CURRENT);
        if let Some(set) = &set {
            compound.set(&ANONYMOUS, set);
        }
        compound.attributes(Wanted::USUAL);
        if step.renames() {
            compound.plain(Op::RESTOREFH);
        }
        step.ask(&mut compound, start, &put.temporary, name);
        // What stays open where the server goes no further.
        let left: Mutex<Option<Left>> = Mutex::default();
        let leave = |value| *left.lock().unwrap_or_else(PoisonError::into_inner) = value;
        let read = |mut results: Results, session| {
            start.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            if step == Step::ReplaceFile {
                results.plain(&[Op::LOOKUP, Op::VERIFY, Op::RESTOREFH])?;
            }
            let stateid = results.opened()?;
            let handle = results.handle()?;
            leave(Some(Left { session, handle, stateid }));
            let (written, ..) = results.written()?;
            results.stateid(Op::CLOSE)?;
            leave(None);
            if set.is_some() {
                results.set()?;
            }
            let attributes = results.attributes()?;
            if step.renames() {
                results.op(Op::RESTOREFH)?;
            }
            let tidy = step.done(&mut results, start)?;
            Ok((attributes, written as usize == content.len(), tidy))
        };
        let made = self.repeat(&compound, Again::No, begin, read).await;
        if let Some(left) = left.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = close(self, &left.session, &left.handle, left.stateid, None).await;
        }
        if let Ok((.., false)) = made {
            let _ = self.remove_at(start, &put.temporary).await;
        }
        match made {
            Ok((attributes, true, _)) => Ok(attributes),
            // It is where it should not be: a server that takes less than a call's content is none that we know.
            Ok((_, false, _)) => Err(Error::Uncertain("the server has written a part of it")),
            Err(why) => {
                // Refused, or of a session that is over: nothing of it goes on, and what is there is ours to remove.
                if !why.is_not_begun() {
                    let _ = self.remove_at(start, &put.temporary).await;
                }
                Err(step.error(why))
            }
        }
    }

    /// Moves a temporary file to where it shall be, if the conditions hold; else it goes.
    async fn settle(&self, start: &Start<'_>, name: &[u8], put: &Put, begin: &Begin) -> Result<()> {
        let settled = match &put.conditions {
            Conditions::None => self.step(start, &put.temporary, name, Step::Replace, begin).await,
            Conditions::File => self.step(start, &put.temporary, name, Step::ReplaceFile, begin).await,
            Conditions::New => self.step(start, &put.temporary, name, Step::New, begin).await,
            Conditions::If(holds) => self.settle_if(start, name, put, &**holds, begin).await,
        };
        // If it is not known to be moved, too: then the one or the other comes first, and both are as they should be.
        if settled.is_err() {
            let _ = self.remove_at(start, &put.temporary).await;
        }
        settled
    }

    async fn step(&self, start: &Start<'_>, temporary: &[u8], name: &[u8], step: Step, begin: &Begin) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        let before: &[Op] = match step {
            Step::New => {
                compound.lookup(temporary);
                &[Op::LOOKUP]
            }
            Step::ReplaceFile => {
                compound.plain(Op::SAVEFH).lookup(name).only_a_file().plain(Op::RESTOREFH);
                &[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH]
            }
            _ => {
                compound.plain(Op::SAVEFH);
                &[Op::SAVEFH]
            }
        };
        step.ask(&mut compound, start, temporary, name);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            results.plain(before)?;
            step.done(&mut results, start)
        };
        let tidy = self.repeat(&compound, Again::No, begin, read).await.map_err(|why| step.error(why))?;
        if !tidy {
            let _ = self.remove_at(start, temporary).await;
        }
        Ok(())
    }

    async fn settle_if(
        &self,
        start: &Start<'_>,
        name: &[u8],
        put: &Put,
        holds: &(dyn Fn(Option<&Attributes>) -> bool + Send + Sync),
        begin: &Begin,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let Some((held, attributes)) = self.hold(start, name, put.patience, begin).await? else {
                if !holds(None) {
                    return Err(Error::ConditionFailed);
                }
                match self.step(start, &put.temporary, name, Step::New, begin).await {
                    // Somebody made it meanwhile: that one is to be judged.
                    Err(Error::ConditionFailed) => continue,
                    other => return other,
                }
            };
            if !holds(Some(&attributes)) {
                held.close().await?;
                return Err(Error::ConditionFailed);
            }
            return self.replace_held(start, held, put, name).await;
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file of this name, locked, and what it is; `None` when there is none.
    pub(crate) async fn hold(
        &self,
        start: &Start<'_>,
        name: &[u8],
        patience: Duration,
        begin: &Begin,
    ) -> Result<Option<(File, Attributes)>> {
        let until = Instant::now() + patience;
        for _ in 0..TRIES {
            let opened = self.open_at(start, name, Share::Both, Create::No, begin).await;
            let (file, directory) = match opened {
                Ok(opened) => opened,
                Err(Error::Status { op: Op::OPEN, status: Status::NOENT }) => return Ok(None),
                Err(why) => return Err(why),
            };
            // Looked at when the lock is held, and by the name: whoever had the lock may have replaced the file.
            let (attributes, named) = match file.lock_and_look(&directory, name, until).await {
                Ok(found) => found,
                Err(why) if why.is_gone() => continue,
                Err(why) => return Err(why),
            };
            if named.is_some() && named == attributes.file_id {
                return Ok(Some((file, attributes)));
            }
            file.close().await.or_else(|why| if why.is_gone() { Ok(()) } else { Err(why) })?;
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file that is held gets another name for as long as this takes: nothing can be asked of a file that has
    /// none any more, not even to unlock it.
    async fn replace_held(&self, start: &Start<'_>, mut held: File, put: &Put, name: &[u8]) -> Result<()> {
        let Put { temporary, alias, .. } = put;
        let session = Arc::clone(held.session());
        let mut linked = false;
        let mut rest = loop {
            let mut compound = Compound::new();
            compound.at(&held.handle).plain(Op::SAVEFH);
            start.walk(&mut compound);
            if !linked {
                compound.name(Op::LINK, alias);
            }
            compound.plain(Op::SAVEFH).rename(temporary, name);
            held.end_in(&mut compound);
            start.walk(&mut compound);
            compound.name(Op::REMOVE, alias);
            let read = |mut results: Results| {
                results.op(Op::PUTFH)?;
                results.op(Op::SAVEFH)?;
                start.walked(&mut results)?;
                if !linked {
                    results.changed(Op::LINK)?;
                }
                // It has that name now: what is done again is done without it.
                let moved = results.op(Op::SAVEFH).map(drop).and_then(|()| results.renamed());
                Ok((moved, results))
            };
            match in_session(self, &session, &Begin::default(), &compound, read).await {
                Ok((Ok(()), rest)) => break rest,
                Ok((Err(why), _)) if why.status().is_some_and(Status::is_later) => {
                    linked = true;
                    tokio::time::sleep(LATER).await;
                }
                Ok((Err(why), _)) | Err(why) => {
                    let _ = held.close().await;
                    let _ = self.remove_at(start, alias).await;
                    return Err(why);
                }
            }
        };
        // It is in its place: what follows only tidies up.
        if held.ended(&mut rest).is_err() || start.walked(&mut rest).is_err() || rest.changed(Op::REMOVE).is_err() {
            let _ = held.close().await;
            let _ = self.remove_at(start, alias).await;
        }
        Ok(())
    }

    /// A plain file, if it is as `put` has it; of which the alias and the patience matter besides.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`, `ISDIR`, `DENIED`; [`Error::Uncertain`].
    pub async fn remove_if(&self, path: &[u8], put: Put) -> Result<()> {
        let Conditions::If(holds) = put.conditions.clone() else { return self.remove_file(path).await };
        let path = path.to_vec();
        self.to_the_end(|client, begin| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            path::check(&put.alias)?;
            let start = client.start(&directory).await?;
            match client.hold(&start, name, put.patience, &begin).await? {
                None if holds(None) => Err(Error::Status { op: Op::REMOVE, status: Status::NOENT }),
                None => Err(Error::ConditionFailed),
                Some((held, attributes)) if holds(Some(&attributes)) => {
                    client.remove_held(&start, held, name, &put.alias).await
                }
                Some((held, _)) => held.close().await.and(Err(Error::ConditionFailed)),
            }
        })
        .await
    }

    /// By giving it another name first: see [`Client::replace_held`].
    async fn remove_held(&self, start: &Start<'_>, mut held: File, name: &[u8], alias: &[u8]) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH).rename(name, alias);
        held.end_in(&mut compound);
        start.walk(&mut compound);
        compound.name(Op::REMOVE, alias);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            results.renamed()?;
            Ok(results)
        };
        let session = Arc::clone(held.session());
        let mut rest = match in_session(self, &session, &Begin::default(), &compound, read).await {
            Ok(rest) => rest,
            Err(why) => {
                let _ = self.remove_at(start, alias).await;
                return Err(why);
            }
        };
        if held.ended(&mut rest).is_err() || start.walked(&mut rest).is_err() || rest.changed(Op::REMOVE).is_err() {
            let _ = held.close().await;
            let _ = self.remove_at(start, alias).await;
        }
        Ok(())
    }

    /// Adds to the end of a file, under its lock. All of it or nothing, but for a crash of the server. `None`: there
    /// is no such file.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `DENIED`, `NOSPC`, `ISDIR`; [`Error::BadInput`]: more than one call carries;
    /// [`Error::Uncertain`].
    pub async fn append(&self, path: &[u8], content: Bytes, put: Put) -> Result<Option<Attributes>> {
        let path = path.to_vec();
        self.to_the_end(|client, begin| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            if content.len() > client.agreed().await?.largest_write as usize {
                return Err(Error::BadInput("an append is at most what one call carries"));
            }
            let start = client.start(&directory).await?;
            let Some((held, attributes)) = client.hold(&start, name, put.patience, &begin).await? else {
                return Ok(None);
            };
            let allowed = match &put.conditions {
                Conditions::None | Conditions::File => true,
                Conditions::New => false,
                Conditions::If(holds) => holds(Some(&attributes)),
            };
            if !allowed {
                held.close().await?;
                return Err(Error::ConditionFailed);
            }
            let size = attributes.size.ok_or(Error::Protocol("a file without a size"))?;
            let set = Set { modified: put.modified, ..Set::default() };
            held.write_and_close(size, &content, &set).await.map(Some)
        })
        .await
    }

    /// Into a file that is open for nobody else's sake: opened, written and closed in one round trip where the content
    /// is not larger than one call carries. On stable storage.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `ISDIR`, `NOSPC`; [`Error::Uncertain`].
    pub async fn write(&self, path: &[u8], offset: u64, content: Bytes, create: Create) -> Result<Attributes> {
        let path = path.to_vec();
        self.to_the_end(
            |client, begin| async move { client.write_to_the_end(&path, offset, content, create, &begin).await },
        )
        .await
    }

    async fn write_to_the_end(
        &self,
        path: &[u8],
        offset: u64,
        content: Bytes,
        create: Create,
        begin: &Begin,
    ) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        let fits = content.len() <= self.agreed().await?.largest_write as usize;
        if !fits || self.inner.plain.load(Ordering::Relaxed) {
            let (file, _) = self.open_with(&whole, Share::Both, create, begin).await?;
            file.write_all(offset, content, begin).await?;
            return file.finish(&Set::default()).await;
        }
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.open(name, Share::Both, create, Owner::Slot).plain(Op::GETFH);
        compound.write(&CURRENT, offset, Stable::Yes, &content).close(&CURRENT).attributes(Wanted::USUAL);
        let left: Mutex<Option<Left>> = Mutex::default();
        let leave = |value| *left.lock().unwrap_or_else(PoisonError::into_inner) = value;
        let read = |mut results: Results, session| {
            start.walked(&mut results)?;
            let stateid = results.opened()?;
            let rest = || -> Result<_> {
                let handle = results.handle()?;
                leave(Some(Left { session, handle, stateid }));
                let (written, ..) = results.written()?;
                results.stateid(Op::CLOSE)?;
                leave(None);
                Ok((results.attributes()?, written as usize == content.len()))
            };
            match (rest(), create) {
                (Err(why), Create::New(_)) if why.status().is_some_and(Status::is_later) => Ok(None),
                (other, _) => other.map(Some),
            }
        };
        // The same bytes at the same place once more are the same file, unless it had to be new.
        let again = if let Create::New(_) = create { Again::No } else { Again::Yes };
        let written = self.repeat(&compound, again, begin, read).await;
        if let Some(left) = left.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = close(self, &left.session, &left.handle, left.stateid, None).await;
        }
        match written {
            Ok(Some((attributes, true))) => return Ok(attributes),
            Ok(Some((_, false))) => return Err(Error::Uncertain("the server has written a part of it")),
            Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                self.inner.plain.store(true, Ordering::Relaxed);
            }
            Err(why) => return Err(why),
            Ok(None) => {}
        }
        // It is there now, if it was not.
        let create = if let Create::New(mode) = create { Create::IfMissing(mode) } else { create };
        Box::pin(self.write_to_the_end(path, offset, content, create, begin)).await
    }

    /// A name that is this client's own: to remove it once more is safe.
    async fn remove_at(&self, start: &Start<'_>, name: &[u8]) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.name(Op::REMOVE, name);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            results.changed(Op::REMOVE)
        };
        self.repeat(&compound, Again::Yes, &Begin::default(), read).await
    }
}

impl Step {
    fn renames(self) -> bool {
        matches!(self, Self::Replace | Self::ReplaceFile)
    }

    /// With the directory saved, and current for `Replace`; with the file current for `New`.
    fn ask(self, compound: &mut Compound, start: &Start<'_>, temporary: &[u8], name: &[u8]) {
        match self {
            Self::Stay => {}
            Self::Replace | Self::ReplaceFile => drop(compound.rename(temporary, name)),
            Self::New => {
                compound.plain(Op::SAVEFH);
                start.walk(compound);
                compound.name(Op::LINK, name).name(Op::REMOVE, temporary);
            }
        }
    }

    /// Whether nothing is left to tidy up.
    fn done(self, results: &mut Results, start: &Start<'_>) -> Result<bool> {
        match self {
            Self::Stay => Ok(true),
            Self::Replace | Self::ReplaceFile => results.renamed().map(|()| true),
            Self::New => {
                results.op(Op::SAVEFH)?;
                start.walked(results)?;
                results.changed(Op::LINK)?;
                // It is in its place, whatever becomes of its first name.
                Ok(results.changed(Op::REMOVE).is_ok())
            }
        }
    }

    fn error(self, why: Error) -> Error {
        match (self, &why) {
            (Self::New, Error::Status { op: Op::LINK, status: Status::EXIST }) => Error::ConditionFailed,
            _ => why,
        }
    }
}

impl Staged {
    /// The bytes that follow.
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]: it has to be begun anew.
    pub async fn write(&mut self, content: Bytes) -> Result<()> {
        let length = content.len() as u64;
        self.file.as_ref().ok_or(Error::Closed)?.write(self.at, content).await?;
        self.at += length;
        Ok(())
    }

    /// All that was written so far.
    ///
    /// # Errors
    /// [`Error::SessionLost`]; [`Error::Protocol`]: the server has less of it.
    pub async fn content(&self) -> Result<Bytes> {
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        let mut content = BytesMut::new();
        while (content.len() as u64) < self.at {
            let (from, left) = (content.len() as u64, self.at - content.len() as u64);
            let (piece, _) = file.read(from, u32::try_from(left).unwrap_or(u32::MAX)).await?;
            if piece.is_empty() {
                return Err(Error::Protocol("the server has less of a content than was written"));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// Makes it durable and, if the conditions hold, puts it into its place at once.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit(self) -> Result<Attributes> {
        let client = self.client.clone();
        client.to_the_end(|_, _| self.commit_to_the_end()).await
    }

    /// As [`Staged::commit`], under conditions that were not known before.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit_if(mut self, conditions: Conditions, modified: Option<Time>) -> Result<Attributes> {
        (self.put.conditions, self.put.modified) = (conditions, modified);
        self.commit().await
    }

    /// Removes what was written. To drop it does the same, later.
    pub async fn give_up(mut self) {
        self.is_moved = true;
        if let Some(file) = self.file.take() {
            let _ = file.close().await;
        }
        let _ = self.client.remove_at(&Start::at(self.directory.clone()), &self.put.temporary).await;
    }

    async fn commit_to_the_end(mut self) -> Result<Attributes> {
        let file = self.file.take().ok_or(Error::Closed)?;
        let set = Set { modified: self.put.modified, ..Set::default() };
        let attributes = file.finish(&set).await?;
        let start = Start::at(self.directory.clone());
        self.is_moved = true;
        self.client.settle(&start, &self.name, &self.put, &Begin::default()).await?;
        Ok(attributes)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_moved {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, file, directory) = (self.client.clone(), self.file.take(), self.directory.clone());
        let temporary = std::mem::take(&mut self.put.temporary);
        runtime.spawn(async move {
            if let Some(file) = file {
                let _ = file.close().await;
            }
            let _ = client.remove_at(&Start::at(directory), &temporary).await;
        });
    }
}
