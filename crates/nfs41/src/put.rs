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
    attributes::{AttributeMask, Attributes, Expected, FileType, SetAttributes, Time},
    budget::Budget,
    client::{Client, Idempotent, PathPrefix},
    compound::{ANONYMOUS, CURRENT, Compound, CompoundReply, Create, Op, OpenOwner, ShareAccess, StableHow},
    error::{Error, Result},
    install::Install,
    open::{File, WRITTEN_FILE_ATTRS},
    path::{self, Path},
    read::refuses,
    status::Status,
};

/// How often it is begun anew when others change the path meanwhile.
pub(crate) const MAX_ATTEMPTS: usize = 32;
/// Of a content that may have to be for its owner only: what it replaces is not known yet.
pub(crate) const PRIVATE_MODE: u32 = 0o600;
/// Bits of a mode that another content does not inherit from the one before: to run as its owner or group.
const SETID_BITS: u32 = 0o6000;
/// Operations of a whole `put` besides the way to its directory.
const PUT_OPS: u32 = 24;

/// Whether a file, or that there is none, is as it must be.
pub type Predicate = Arc<dyn Fn(Option<&Attributes>) -> bool + Send + Sync>;

/// What must be true of the file that is there.
#[derive(Clone, Default)]
pub enum Precondition {
    #[default]
    None,
    /// There is a plain file. Else it is `NOENT`, or `NOT_SAME` where it is something else. Not judged under a lock: two
    /// that ask for this both replace it.
    RegularFile,
    /// There is none. Of several that ask for this one is let in.
    Absent,
    /// Judged under a lock of the file, which whoever else asks for one respects.
    If(Predicate),
}

impl fmt::Debug for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::RegularFile => "RegularFile",
            Self::Absent => "Absent",
            Self::If(_) => "If",
        })
    }
}

/// How a content is put into its place.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// The permissions of a file that was not there. One that replaces another has the other's, but for those to run as
    /// its owner and group; and its owner and group, where the server lets this client give them away.
    pub mode: u32,
    /// When its content shall be said to have changed last; `None` for the server's own time, of which two changes
    /// may have the same.
    pub time_modify: Option<Time>,
    pub precondition: Precondition,
    /// The name that it is written under, in the same directory. Nobody else may use it.
    pub temp_name: Vec<u8>,
    /// A second name for a file that is replaced or removed on a condition, for as long as that takes.
    pub pin_name: Vec<u8>,
    /// How long a lock of somebody else is waited for.
    pub lock_timeout: Duration,
}

impl Default for PutOptions {
    fn default() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, count));
        Self {
            mode: 0o644,
            time_modify: None,
            precondition: Precondition::None,
            temp_name: format!(".nfs41-{random:016x}.{count}").into(),
            pin_name: format!(".nfs41-{random:016x}.{count}.pin").into(),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

/// Who a file belongs to, as the server writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ownership {
    owner: Box<[u8]>,
    owner_group: Box<[u8]>,
}

impl Ownership {
    fn of(found: &Attributes) -> Option<Self> {
        Some(Self { owner: found.owner.clone()?, owner_group: found.owner_group.clone()? })
    }
}

/// What a new content has of the file that it replaces.
#[derive(Clone, Debug)]
pub(crate) struct InheritedAttrs {
    mode: u32,
    /// None where the server does not tell, or does not let it be given.
    ownership: Option<Ownership>,
    /// New files there belong to somebody else: it has to be given.
    changes_owner: bool,
}

impl InheritedAttrs {
    fn of(found: &Attributes) -> Option<Self> {
        Some(Self { mode: found.mode?, ownership: Ownership::of(found), changes_owner: false })
    }

    /// What a file has to be given so that it is as the one that it replaces; with this mode, where there is none.
    pub fn difference(old: Option<&Attributes>, made: &Attributes, new_mode: u32) -> SetAttributes {
        let mode = old.map_or(Some(new_mode), |old| old.mode).map(|mode| mode & !SETID_BITS);
        let mode = mode.filter(|mode| made.mode != Some(*mode));
        let differs =
            |old: Option<&Box<[u8]>>, made: &Option<Box<[u8]>>| old.filter(|old| made.as_ref() != Some(*old)).cloned();
        let owner = differs(old.and_then(|old| old.owner.as_ref()), &made.owner);
        let owner_group = differs(old.and_then(|old| old.owner_group.as_ref()), &made.owner_group);
        SetAttributes { mode, owner, owner_group, ..SetAttributes::default() }
    }
}

/// What became of a content that was to be put into its place by one call.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
pub(crate) enum TempWrite {
    Complete(Attributes),
    /// The server has not taken all of it: nothing was moved.
    Short,
    /// It belongs to somebody else than the file that it is to replace: nothing was moved.
    WrongOwner,
}

impl Client {
    /// A new file with this content, in the place of what was there, at once; on stable storage.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`: the directory is missing; `ISDIR`, `NOSPC`, `DQUOT`; `DENIED`: somebody
    /// else has a lock of the file; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn put(&self, path: &[u8], content: Bytes, put: PutOptions) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move { client.put_inner(&path, content, put, &budget).await })
            .await
    }

    async fn put_inner(&self, path: &[u8], content: Bytes, put: PutOptions, budget: &Budget) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        put.check()?;
        let attrs = self.channel_attrs().await?;
        let fits = content.len() <= attrs.max_write_bytes as usize && attrs.max_operations >= PUT_OPS;
        if fits && !self.no_current_stateid() {
            let prefix = self.path_prefix(&directory).await?;
            match self.put_single_compound(&prefix, name, &content, &put, budget).await {
                Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                    tracing::info!(%status, "the server takes no current stateid; more round trips from now on");
                    self.disable_current_stateid();
                }
                Ok(TempWrite::Short | TempWrite::WrongOwner) => {
                    tracing::debug!("the server takes less of a content at once than it said");
                }
                Ok(TempWrite::Complete(attributes)) => return Ok(attributes),
                Err(err) => return Err(err),
            }
        }
        let length = content.len() as u64;
        let staged = self.begin_upload_inner(path, put, budget).await?;
        staged.file.as_ref().ok_or(Error::Closed)?.write_all(0, content, budget).await?;
        staged.commit_inner(length, budget).await
    }

    async fn put_single_compound(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        content: &Bytes,
        put: &PutOptions,
        budget: &Budget,
    ) -> Result<TempWrite> {
        match put.precondition {
            Precondition::None => match self.replace_single_compound(prefix, name, content, put, budget).await {
                // There is none yet, or something that the server will not let be replaced.
                Err(Error::Status { op: Op::LOOKUP, status: Status::NOENT })
                | Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME }) => {
                    self.write_temp(prefix, content, put, name, Install::Rename, None, budget).await
                }
                other => other,
            },
            Precondition::Absent => {
                self.write_temp(prefix, content, put, name, Install::LinkExclusive, None, budget).await
            }
            Precondition::RegularFile => self.replace_single_compound(prefix, name, content, put, budget).await,
            Precondition::If(_) => {
                let mut made = self.write_temp(prefix, content, put, name, Install::Defer, None, budget).await?;
                if let TempWrite::Complete(attributes) = &mut made {
                    self.install(prefix, name, put, attributes, budget).await?;
                }
                Ok(made)
            }
        }
    }

    /// What is there is taken for a file as this client makes them, and looked at only where it is none.
    async fn replace_single_compound(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        content: &Bytes,
        put: &PutOptions,
        budget: &Budget,
    ) -> Result<TempWrite> {
        let own = self.default_ownership().clone();
        let mut inherited =
            own.map(|own| InheritedAttrs { mode: put.mode, ownership: Some(own), changes_owner: false });
        for _ in 0..MAX_ATTEMPTS {
            if inherited.is_none() {
                let found = match self.stat_child(prefix, name, budget).await {
                    Err(err) if err.is_stale() => continue,
                    found => found?,
                };
                if found.file_type != Some(FileType::File) {
                    break;
                }
                inherited = InheritedAttrs::of(&found);
            }
            match self
                .write_temp(prefix, content, put, name, Install::RenameOverRegular, inherited.take(), budget)
                .await
            {
                Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME }) => {}
                // Replaced between its name and what was asked of it.
                Err(err) if err.is_stale() => {}
                other => return other,
            }
        }
        Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME })
    }

    pub(crate) async fn stat_child(&self, prefix: &PathPrefix<'_>, name: &[u8], budget: &Budget) -> Result<Attributes> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.lookup(name).getattr(WRITTEN_FILE_ATTRS);
        let read = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect(Op::LOOKUP)?;
            results.attributes()
        };
        self.call_with_retry(&compound, Idempotent::Yes, budget, read).await
    }

    /// The temporary file, and what comes after it, in one compound. With `kept`, what is there must be so.
    #[allow(clippy::too_many_arguments, reason = "they are what one call is made of")]
    pub(crate) async fn write_temp(
        &self,
        prefix: &PathPrefix<'_>,
        content: &Bytes,
        put: &PutOptions,
        name: &[u8],
        install: Install,
        mut inherited: Option<InheritedAttrs>,
        budget: &Budget,
    ) -> Result<TempWrite> {
        let made = loop {
            let made = self.write_temp_once(prefix, content, put, name, install, inherited.as_ref(), budget).await;
            // What failed is of no use, and what was not moved neither. It is not this name any more that was.
            let is_left = match &made {
                Ok(TempWrite::Complete(_)) => false,
                Ok(_) => true,
                Err(err) => budget.was_sent() || !err.was_never_sent(),
            };
            if is_left {
                self.remove_in_background(prefix, &put.temp_name, budget).await;
            }
            match (made, &mut inherited) {
                (Ok(TempWrite::WrongOwner), Some(inherited)) if !inherited.changes_owner => {
                    inherited.changes_owner = true
                }
                // Only a superuser may give a file away.
                (Err(Error::Status { op: Op::SETATTR, .. }) | Ok(TempWrite::WrongOwner), Some(inherited))
                    if inherited.changes_owner =>
                {
                    (inherited.ownership, inherited.changes_owner) = (None, false);
                }
                (made, _) => break made,
            }
        };
        made.map_err(|err| install.map_error(err))
    }

    fn default_ownership(&self) -> MutexGuard<'_, Option<Ownership>> {
        self.inner.default_ownership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::too_many_arguments, reason = "as above")]
    async fn write_temp_once(
        &self,
        prefix: &PathPrefix<'_>,
        content: &Bytes,
        put: &PutOptions,
        name: &[u8],
        install: Install,
        inherited: Option<&InheritedAttrs>,
        budget: &Budget,
    ) -> Result<TempWrite> {
        let ownership = inherited.and_then(|inherited| inherited.ownership.as_ref());
        let given = ownership.filter(|_| inherited.is_some_and(|inherited| inherited.changes_owner)).cloned();
        let (owner, owner_group) = given.map(|given| (given.owner, given.owner_group)).unzip();
        let mode = match install {
            // What it will replace may be for fewer to read.
            Install::Defer => PRIVATE_MODE,
            _ => inherited.map_or(put.mode, |inherited| inherited.mode & !SETID_BITS),
        };
        // Of an earlier try there may be one with another mode.
        let set = SetAttributes {
            mode: Some(mode),
            time_modify: put.time_modify,
            owner,
            owner_group,
            ..SetAttributes::default()
        };
        let owned_by = Expected {
            owner: ownership.map(|ownership| &*ownership.owner),
            owner_group: ownership.map(|ownership| &*ownership.owner_group),
            ..Expected::default()
        };
        let replaced =
            Expected { file_type: Some(FileType::File), mode: inherited.map(|inherited| inherited.mode), ..owned_by };
        let whole = Expected { size: Some(content.len() as u64), ..owned_by };
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::SAVEFH);
        if install == Install::RenameOverRegular {
            compound.lookup(name).verify(&replaced).op(Op::RESTOREFH);
        }
        compound.open(&put.temp_name, ShareAccess::ReadWrite, Create::Unchecked(mode), OpenOwner::Slot).op(Op::GETFH);
        compound.write(&CURRENT, 0, StableHow::FileSync, content).close(&CURRENT);
        compound.setattr(&ANONYMOUS, &set);
        // A server may write a part, and say that all is well.
        compound.getattr(WRITTEN_FILE_ATTRS).verify(&whole);
        if install.is_rename() {
            compound.op(Op::RESTOREFH);
        }
        install.encode(&mut compound, prefix, &put.temp_name, name);
        let read = |mut results: CompoundReply, session| {
            prefix.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            if install == Install::RenameOverRegular {
                results.expect(Op::LOOKUP)?;
                results.verified(&replaced)?;
                results.expect(Op::RESTOREFH)?;
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
                Err(err) if err.is(Status::NOT_SAME) => return Ok((file, written, attributes, None)),
                verified => verified?,
            }
            if install.is_rename() {
                results.expect(Op::RESTOREFH)?;
            }
            let temp_removed = install.decode(&mut results, prefix)?;
            Ok((file, written, attributes, Some(temp_removed)))
        };
        let (file, written, attributes, moved) = self.call_with_retry(&compound, Idempotent::No, budget, read).await?;
        if inherited.is_none_or(|inherited| !inherited.changes_owner) {
            *self.default_ownership() = Ownership::of(&attributes);
        }
        match moved {
            None if attributes.size == Some(content.len() as u64) => return Ok(TempWrite::WrongOwner),
            None => return Ok(TempWrite::Short),
            Some(false) => self.remove_in_background(prefix, &put.temp_name, budget).await,
            Some(true) => {}
        }
        // A server that keeps less of its word than it was asked for.
        if !written.is_stable {
            let committed = file.commit_with_verifier(written.verifier, budget).await;
            committed.map_err(|_| Error::Uncertain("the server may have lost what it has written"))?;
        }
        Ok(TempWrite::Complete(attributes))
    }

    /// Into a file that is open for nobody else's sake: opened, written and closed in one round trip where the content
    /// is not larger than one call carries. On stable storage.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `ISDIR`, `NOSPC`; [`Error::Uncertain`].
    pub async fn write(&self, path: &[u8], offset: u64, content: Bytes, create: Create) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            client.write_inner(&path, offset, content, create, &budget).await
        })
        .await
    }

    async fn write_inner(
        &self,
        path: &[u8],
        offset: u64,
        content: Bytes,
        create: Create,
        budget: &Budget,
    ) -> Result<Attributes> {
        let whole = Path::new(path)?;
        let (directory, name) = whole.split()?;
        let fits = content.len() <= self.channel_attrs().await?.max_write_bytes as usize;
        if !fits || self.no_current_stateid() {
            return self.write_in_chunks(&whole, offset, content, create, budget).await;
        }
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.open(name, ShareAccess::ReadWrite, create, OpenOwner::Slot).op(Op::GETFH);
        compound.write(&CURRENT, offset, StableHow::FileSync, &content).close(&CURRENT).getattr(AttributeMask::STAT);
        let read = |mut results: CompoundReply, session| {
            prefix.decode(&mut results)?;
            let stateid = results.opened()?;
            let rest = || -> Result<_> {
                let mut file = File::new(self.clone(), session, results.handle()?, stateid);
                let written = results.written()?;
                results.stateid(Op::CLOSE)?;
                file.set_closed(true);
                Ok((file, written, results.attributes()?))
            };
            match (rest(), create) {
                (Err(err), Create::Guarded(_)) if err.status().is_some_and(Status::is_delay) => Ok(None),
                (other, _) => other.map(Some),
            }
        };
        // The same bytes at the same place once more are the same file, unless it had to be new.
        let again = if let Create::Guarded(_) = create { Idempotent::No } else { Idempotent::Yes };
        match self.call_with_retry(&compound, again, budget, read).await {
            Ok(Some((file, written, attributes))) if written.bytes as usize == content.len() => {
                if !written.is_stable {
                    file.commit_with_verifier(written.verifier, budget).await?;
                }
                return Ok(attributes);
            }
            // All of it or a part was refused; or there is more to be written.
            Ok(_) => {}
            Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if refuses(status) => {
                self.disable_current_stateid();
            }
            Err(err) => return Err(err),
        }
        // It is there now, if it was not.
        let create = if let Create::Guarded(mode) = create { Create::Unchecked(mode) } else { create };
        self.write_in_chunks(&whole, offset, content, create, budget).await
    }

    async fn write_in_chunks(
        &self,
        path: &Path<'_>,
        offset: u64,
        content: Bytes,
        create: Create,
        budget: &Budget,
    ) -> Result<Attributes> {
        let (file, _) = self.open_with(path, ShareAccess::ReadWrite, create, budget).await?;
        file.write_all(offset, content, budget).await?;
        file.commit_within(budget).await?;
        let attributes = file.attributes_within(AttributeMask::STAT, budget).await?;
        file.close().await?;
        Ok(attributes)
    }
}

impl PutOptions {
    pub(crate) fn check(&self) -> Result<()> {
        path::check(&self.temp_name).and_then(|()| path::check(&self.pin_name))
    }
}
