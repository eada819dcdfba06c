//! New contents of files: written under a name of their own first, and then moved to where they shall be, so that
//! whoever reads sees the old content or the new one, whole. Nothing is moved before the server has said that all of it
//! is there.

use std::{
    fmt,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Expected, Kind, Set, Time, Wanted},
    budget::Budget,
    client::{Again, Client, Start},
    compound::{ANONYMOUS, CURRENT, Compound, Create, Op, Owner, Results, Share, Stable},
    error::{Error, Result},
    open::{File, MADE},
    path::{self, Path},
    read::refuses,
    replace::Step,
    status::Status,
};

/// How often it is begun anew when others change the path meanwhile.
pub(crate) const TRIES: usize = 32;
/// Of a content that may have to be for its owner only: what it replaces is not known yet.
pub(crate) const PRIVATE_MODE: u32 = 0o600;
/// Bits of a mode that another content does not inherit from the one before: to run as its owner or group.
const RUNS_AS_OTHERS: u32 = 0o6000;
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
    /// The permissions of a file that was not there. One that replaces another has the other's, but for those to run as
    /// its owner and group; and its owner and group, where the server lets this client give them away.
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
            mode: 0o644,
            modified: None,
            conditions: Conditions::None,
            temporary: format!(".nfs41-{random:016x}.{count}").into(),
            alias: format!(".nfs41-{random:016x}.{count}.alias").into(),
            patience: Duration::from_secs(5),
        }
    }
}

/// Who a file belongs to, as the server writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ownership {
    owner: Box<[u8]>,
    group: Box<[u8]>,
}

impl Ownership {
    fn of(found: &Attributes) -> Option<Self> {
        Some(Self { owner: found.owner.clone()?, group: found.group.clone()? })
    }
}

/// What a new content has of the file that it replaces.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    mode: u32,
    /// None where the server does not tell, or does not let it be given.
    ownership: Option<Ownership>,
    /// New files there belong to somebody else: it has to be given.
    is_given: bool,
}

impl Kept {
    fn of(found: &Attributes) -> Option<Self> {
        Some(Self { mode: found.mode?, ownership: Ownership::of(found), is_given: false })
    }

    /// What a file has to be given so that it is as the one that it replaces; with this mode, where there is none.
    pub fn difference(old: Option<&Attributes>, made: &Attributes, new_mode: u32) -> Set {
        let mode = old.map_or(Some(new_mode), |old| old.mode).map(|mode| mode & !RUNS_AS_OTHERS);
        let mode = mode.filter(|mode| made.mode != Some(*mode));
        let differs =
            |old: Option<&Box<[u8]>>, made: &Option<Box<[u8]>>| old.filter(|old| made.as_ref() != Some(*old)).cloned();
        let owner = differs(old.and_then(|old| old.owner.as_ref()), &made.owner);
        let group = differs(old.and_then(|old| old.group.as_ref()), &made.group);
        Set { mode, owner, group, ..Set::default() }
    }
}

/// What became of a content that was to be put into its place by one call.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
pub(crate) enum Made {
    Whole(Attributes),
    /// The server has not taken all of it: nothing was moved.
    Short,
    /// It belongs to somebody else than the file that it is to replace: nothing was moved.
    Foreign,
}

impl Client {
    /// A new file with this content, in the place of what was there, at once; on stable storage.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`: the directory is missing; `ISDIR`, `NOSPC`, `DQUOT`; `DENIED`: somebody
    /// else has a lock of the file; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn put(&self, path: &[u8], content: Bytes, put: Put) -> Result<Attributes> {
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move { client.put_to_the_end(&path, content, put, &budget).await })
            .await
    }

    async fn put_to_the_end(&self, path: &[u8], content: Bytes, put: Put, budget: &Budget) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        put.check()?;
        let agreed = self.agreed().await?;
        let fits = content.len() <= agreed.largest_write as usize && agreed.most_operations >= ONE_CALL;
        if fits && !self.is_plain() {
            let start = self.start(&directory).await?;
            match self.put_in_one(&start, name, &content, &put, budget).await {
                Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                    tracing::info!(%status, "the server takes no current stateid; more round trips from now on");
                    self.without_current_stateid();
                }
                Ok(Made::Short | Made::Foreign) => {
                    tracing::debug!("the server takes less of a content at once than it said");
                }
                Ok(Made::Whole(attributes)) => return Ok(attributes),
                Err(why) => return Err(why),
            }
        }
        let length = content.len() as u64;
        let staged = self.stage_to_the_end(path, put, budget).await?;
        staged.file.as_ref().ok_or(Error::Closed)?.write_all(0, content, budget).await?;
        staged.commit_to_the_end(length, budget).await
    }

    async fn put_in_one(
        &self,
        start: &Start<'_>,
        name: &[u8],
        content: &Bytes,
        put: &Put,
        budget: &Budget,
    ) -> Result<Made> {
        match put.conditions {
            Conditions::None => match self.replace_in_one(start, name, content, put, budget).await {
                // There is none yet, or something that the server will not let be replaced.
                Err(Error::Status { op: Op::LOOKUP, status: Status::NOENT })
                | Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME }) => {
                    self.make(start, content, put, name, Step::Replace, None, budget).await
                }
                other => other,
            },
            Conditions::New => self.make(start, content, put, name, Step::New, None, budget).await,
            Conditions::File => self.replace_in_one(start, name, content, put, budget).await,
            Conditions::If(_) => {
                let mut made = self.make(start, content, put, name, Step::Stay, None, budget).await?;
                if let Made::Whole(attributes) = &mut made {
                    self.settle(start, name, put, attributes, budget).await?;
                }
                Ok(made)
            }
        }
    }

    /// What is there is taken for a file as this client makes them, and looked at only where it is none.
    async fn replace_in_one(
        &self,
        start: &Start<'_>,
        name: &[u8],
        content: &Bytes,
        put: &Put,
        budget: &Budget,
    ) -> Result<Made> {
        let own = self.created_as().clone();
        let mut kept = own.map(|own| Kept { mode: put.mode, ownership: Some(own), is_given: false });
        for _ in 0..TRIES {
            if kept.is_none() {
                let found = match self.look(start, name, budget).await {
                    Err(why) if why.is_gone() => continue,
                    found => found?,
                };
                if found.kind != Some(Kind::File) {
                    break;
                }
                kept = Kept::of(&found);
            }
            match self.make(start, content, put, name, Step::ReplaceFile, kept.take(), budget).await {
                Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME }) => {}
                // Replaced between its name and what was asked of it.
                Err(why) if why.is_gone() => {}
                other => return other,
            }
        }
        Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME })
    }

    pub(crate) async fn look(&self, start: &Start<'_>, name: &[u8], budget: &Budget) -> Result<Attributes> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.lookup(name).attributes(MADE);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            results.op(Op::LOOKUP)?;
            results.attributes()
        };
        self.repeat(&compound, Again::Yes, budget, read).await
    }

    /// The temporary file, and what comes after it, in one compound. With `kept`, what is there must be so.
    #[allow(clippy::too_many_arguments, reason = "they are what one call is made of")]
    pub(crate) async fn make(
        &self,
        start: &Start<'_>,
        content: &Bytes,
        put: &Put,
        name: &[u8],
        step: Step,
        mut kept: Option<Kept>,
        budget: &Budget,
    ) -> Result<Made> {
        let made = loop {
            let made = self.make_once(start, content, put, name, step, kept.as_ref(), budget).await;
            // What failed is of no use, and what was not moved neither. It is not this name any more that was.
            let is_left = match &made {
                Ok(Made::Whole(_)) => false,
                Ok(_) => true,
                Err(why) => budget.was_sent() || !why.is_not_begun(),
            };
            if is_left {
                self.tidy(start, &put.temporary, budget).await;
            }
            match (made, &mut kept) {
                (Ok(Made::Foreign), Some(kept)) if !kept.is_given => kept.is_given = true,
                // Only a superuser may give a file away.
                (Err(Error::Status { op: Op::SETATTR, .. }) | Ok(Made::Foreign), Some(kept)) if kept.is_given => {
                    (kept.ownership, kept.is_given) = (None, false);
                }
                (made, _) => break made,
            }
        };
        made.map_err(|why| step.error(why))
    }

    fn created_as(&self) -> MutexGuard<'_, Option<Ownership>> {
        self.inner.created_as.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::too_many_arguments, reason = "as above")]
    async fn make_once(
        &self,
        start: &Start<'_>,
        content: &Bytes,
        put: &Put,
        name: &[u8],
        step: Step,
        kept: Option<&Kept>,
        budget: &Budget,
    ) -> Result<Made> {
        let ownership = kept.and_then(|kept| kept.ownership.as_ref());
        let given = ownership.filter(|_| kept.is_some_and(|kept| kept.is_given)).cloned();
        let (owner, group) = given.map(|given| (given.owner, given.group)).unzip();
        let mode = match step {
            // What it will replace may be for fewer to read.
            Step::Stay => PRIVATE_MODE,
            _ => kept.map_or(put.mode, |kept| kept.mode & !RUNS_AS_OTHERS),
        };
        // Of an earlier try there may be one with another mode.
        let set = Set { mode: Some(mode), modified: put.modified, owner, group, ..Set::default() };
        let owned_by = Expected {
            owner: ownership.map(|ownership| &*ownership.owner),
            group: ownership.map(|ownership| &*ownership.group),
            ..Expected::default()
        };
        let replaced = Expected { kind: Some(Kind::File), mode: kept.map(|kept| kept.mode), ..owned_by };
        let whole = Expected { size: Some(content.len() as u64), ..owned_by };
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        if step == Step::ReplaceFile {
            compound.lookup(name).verify(&replaced).plain(Op::RESTOREFH);
        }
        compound.open(&put.temporary, Share::Both, Create::IfMissing(mode), Owner::Slot).plain(Op::GETFH);
        compound.write(&CURRENT, 0, Stable::Yes, content).close(&CURRENT);
        compound.set(&ANONYMOUS, &set);
        // A server may write a part, and say that all is well.
        compound.attributes(MADE).verify(&whole);
        if step.renames() {
            compound.plain(Op::RESTOREFH);
        }
        step.ask(&mut compound, start, &put.temporary, name);
        let read = |mut results: Results, session| {
            start.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            if step == Step::ReplaceFile {
                results.op(Op::LOOKUP)?;
                results.verified(&replaced)?;
                results.op(Op::RESTOREFH)?;
            }
            let stateid = results.opened()?;
            // Closed when it is dropped, where the server goes no further.
            let mut file = File::new(self.clone(), session, results.handle()?, stateid);
            let written = results.written()?;
            results.stateid(Op::CLOSE)?;
            file.set_closed(true);
            results.set()?;
            let attributes = results.attributes()?;
            match results.verified(&whole) {
                Err(why) if why.is(Status::NOT_SAME) => return Ok((file, written, attributes, None)),
                verified => verified?,
            }
            if step.renames() {
                results.op(Op::RESTOREFH)?;
            }
            let is_tidy = step.done(&mut results, start)?;
            Ok((file, written, attributes, Some(is_tidy)))
        };
        let (file, written, attributes, moved) = self.repeat(&compound, Again::No, budget, read).await?;
        if kept.is_none_or(|kept| !kept.is_given) {
            *self.created_as() = Ownership::of(&attributes);
        }
        match moved {
            None if attributes.size == Some(content.len() as u64) => return Ok(Made::Foreign),
            None => return Ok(Made::Short),
            Some(false) => self.tidy(start, &put.temporary, budget).await,
            Some(true) => {}
        }
        // A server that keeps less of its word than it was asked for.
        if !written.is_stable {
            let committed = file.commit_written(written.verifier, budget).await;
            committed.map_err(|_| Error::Uncertain("the server may have lost what it has written"))?;
        }
        Ok(Made::Whole(attributes))
    }

    /// Into a file that is open for nobody else's sake: opened, written and closed in one round trip where the content
    /// is not larger than one call carries. On stable storage.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `ISDIR`, `NOSPC`; [`Error::Uncertain`].
    pub async fn write(&self, path: &[u8], offset: u64, content: Bytes, create: Create) -> Result<Attributes> {
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move {
            client.write_to_the_end(&path, offset, content, create, &budget).await
        })
        .await
    }

    async fn write_to_the_end(
        &self,
        path: &[u8],
        offset: u64,
        content: Bytes,
        create: Create,
        budget: &Budget,
    ) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        let fits = content.len() <= self.agreed().await?.largest_write as usize;
        if !fits || self.is_plain() {
            return self.write_in_pieces(&whole, offset, content, create, budget).await;
        }
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.open(name, Share::Both, create, Owner::Slot).plain(Op::GETFH);
        compound.write(&CURRENT, offset, Stable::Yes, &content).close(&CURRENT).attributes(Wanted::USUAL);
        let read = |mut results: Results, session| {
            start.walked(&mut results)?;
            let stateid = results.opened()?;
            let rest = || -> Result<_> {
                let mut file = File::new(self.clone(), session, results.handle()?, stateid);
                let written = results.written()?;
                results.stateid(Op::CLOSE)?;
                file.set_closed(true);
                Ok((file, written, results.attributes()?))
            };
            match (rest(), create) {
                (Err(why), Create::New(_)) if why.status().is_some_and(Status::is_later) => Ok(None),
                (other, _) => other.map(Some),
            }
        };
        // The same bytes at the same place once more are the same file, unless it had to be new.
        let again = if let Create::New(_) = create { Again::No } else { Again::Yes };
        match self.repeat(&compound, again, budget, read).await {
            Ok(Some((file, written, attributes))) if written.bytes as usize == content.len() => {
                if !written.is_stable {
                    file.commit_written(written.verifier, budget).await?;
                }
                return Ok(attributes);
            }
            // All of it or a part was refused; or there is more to be written.
            Ok(_) => {}
            Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                self.without_current_stateid();
            }
            Err(why) => return Err(why),
        }
        // It is there now, if it was not.
        let create = if let Create::New(mode) = create { Create::IfMissing(mode) } else { create };
        self.write_in_pieces(&whole, offset, content, create, budget).await
    }

    async fn write_in_pieces(
        &self,
        path: &Path<'_>,
        offset: u64,
        content: Bytes,
        create: Create,
        budget: &Budget,
    ) -> Result<Attributes> {
        let (file, _) = self.open_with(path, Share::Both, create, budget).await?;
        file.write_all(offset, content, budget).await?;
        file.commit_in(budget).await?;
        let attributes = file.attributes_in(Wanted::USUAL, budget).await?;
        file.close().await?;
        Ok(attributes)
    }
}

impl Put {
    pub(crate) fn check(&self) -> Result<()> {
        path::check(&self.temporary).and_then(|()| path::check(&self.alias))
    }
}
