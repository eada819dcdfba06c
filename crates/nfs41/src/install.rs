//! How a content that is written under a name of its own gets into its place: by RENAME over what is there, by LINK where
//! there must be nothing, and under a lock of the file where a condition is to be judged.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    attributes::{Attributes, FileType, SetAttributes},
    budget::{Backoff, Budget},
    client::{Client, Idempotent, PathPrefix},
    compound::{ANONYMOUS, Compound, CompoundReply, Create, Op, ShareAccess},
    error::{Error, Result},
    open::{File, call_in_session},
    path::{self, Path},
    put::{InheritedAttrs, MAX_ATTEMPTS, Precondition, PutOptions},
    status::Status,
};

/// From one try to tidy up to the next, where there is no connection.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// A pause where the server says later, and has done a part.
const DELAY_BACKOFF: Duration = Duration::from_millis(50);

/// What is done with a temporary file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Install {
    /// Nothing yet.
    Defer,
    Rename,
    RenameOverRegular,
    /// A second name, where there is none, and the first one goes: of several one gets in.
    LinkExclusive,
}

impl Client {
    /// Moves a temporary file, which is whole, to where it shall be, if the conditions hold; else it goes.
    pub(crate) async fn install(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        put: &PutOptions,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let installed = match &put.precondition {
            Precondition::None | Precondition::RegularFile => self.install_over(prefix, name, put, made, budget).await,
            Precondition::Absent => self.install_exclusive(prefix, name, put, made, budget).await,
            Precondition::If(predicate) => self.install_if(prefix, name, put, made, &**predicate, budget).await,
        };
        // If it is not known to be moved, too: then the one or the other comes first, and both are as they should be.
        if installed.is_err() {
            self.remove_in_background(prefix, &put.temp_name, budget).await;
        }
        installed
    }

    /// Where there is nothing.
    async fn install_exclusive(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        put: &PutOptions,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        self.inherit_attrs(prefix, put, None, made, budget).await?;
        self.install_once(prefix, &put.temp_name, name, Install::LinkExclusive, budget).await
    }

    /// Over what is there, of which it has the permissions and the owner.
    async fn install_over(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        put: &PutOptions,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let mut tries = 0..MAX_ATTEMPTS;
        let old = loop {
            match self.stat_child(prefix, name, budget).await {
                Ok(old) => break Some(old).filter(|old| old.file_type == Some(FileType::File)),
                Err(Error::Status { op: Op::LOOKUP, status: Status::NOENT }) => break None,
                // Replaced between its name and what was asked of it.
                Err(err) if err.is_stale() && tries.next().is_some() => {}
                Err(err) => return Err(err),
            }
        };
        self.inherit_attrs(prefix, put, old.as_ref(), made, budget).await?;
        let install =
            if let Precondition::RegularFile = put.precondition { Install::RenameOverRegular } else { Install::Rename };
        self.install_once(prefix, &put.temp_name, name, install, budget).await
    }

    /// IdentityFuture a temporary file what the one has that it will replace. Who may not give it away keeps it.
    async fn inherit_attrs(
        &self,
        prefix: &PathPrefix<'_>,
        put: &PutOptions,
        old: Option<&Attributes>,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let mut set = InheritedAttrs::difference(old, made, put.mode);
        while set != SetAttributes::default() {
            match self.setattr_child(prefix, &put.temp_name, &set, budget).await {
                Ok(()) => {
                    made.mode = set.mode.or(made.mode);
                    made.owner = set.owner.or(made.owner.take());
                    made.owner_group = set.owner_group.or(made.owner_group.take());
                    // Another one by now.
                    made.change = None;
                    return Ok(());
                }
                Err(Error::Status { op: Op::SETATTR, .. }) if set.owner.is_some() || set.owner_group.is_some() => {
                    (set.owner, set.owner_group) = (None, None);
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    async fn setattr_child(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        set: &SetAttributes,
        budget: &Budget,
    ) -> Result<()> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.lookup(name).setattr(&ANONYMOUS, set);
        let read = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect(Op::LOOKUP)?;
            results.set()
        };
        self.call_with_retry(&compound, Idempotent::Yes, budget, read).await
    }

    async fn install_once(
        &self,
        prefix: &PathPrefix<'_>,
        temp_name: &[u8],
        name: &[u8],
        install: Install,
        budget: &Budget,
    ) -> Result<()> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        let before: &[Op] = match install {
            Install::LinkExclusive => {
                compound.lookup(temp_name);
                &[Op::LOOKUP]
            }
            Install::RenameOverRegular => {
                compound.op(Op::SAVEFH).lookup(name).verify_regular_file().op(Op::RESTOREFH);
                &[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH]
            }
            _ => {
                compound.op(Op::SAVEFH);
                &[Op::SAVEFH]
            }
        };
        install.encode(&mut compound, prefix, temp_name, name);
        let read = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect_all(before)?;
            install.decode(&mut results, prefix)
        };
        let temp_removed = self
            .call_with_retry(&compound, Idempotent::No, budget, read)
            .await
            .map_err(|err| install.map_error(err))?;
        if !temp_removed {
            self.remove_in_background(prefix, temp_name, budget).await;
        }
        Ok(())
    }

    async fn install_if(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        put: &PutOptions,
        made: &mut Attributes,
        predicate: &(dyn Fn(Option<&Attributes>) -> bool + Send + Sync),
        budget: &Budget,
    ) -> Result<()> {
        for _ in 0..MAX_ATTEMPTS {
            let Some((locked, attributes)) = self.open_and_lock(prefix, name, put.lock_timeout, budget).await? else {
                if !predicate(None) {
                    return Err(Error::ConditionFailed);
                }
                match self.install_exclusive(prefix, name, put, made, budget).await {
                    // Somebody made it meanwhile: that one is to be judged.
                    Err(Error::ConditionFailed) => continue,
                    other => return other,
                }
            };
            if !predicate(Some(&attributes)) {
                locked.close().await?;
                return Err(Error::ConditionFailed);
            }
            self.inherit_attrs(prefix, put, Some(&attributes), made, budget).await?;
            match self.replace_locked(prefix, locked, put, name, budget).await {
                // Replaced since it was held, by whoever asks for no lock: that one is to be judged.
                Err(err) if err.is_stale() => {}
                Err(Error::Status { op: Op::LINK, status: Status::NOENT }) => {}
                installed => return installed,
            }
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file of this name, locked, and what it is; `None` when there is none.
    pub(crate) async fn open_and_lock(
        &self,
        prefix: &PathPrefix<'_>,
        name: &[u8],
        lock_timeout: Duration,
        budget: &Budget,
    ) -> Result<Option<(File, Attributes)>> {
        let until = Instant::now() + lock_timeout;
        for _ in 0..MAX_ATTEMPTS {
            let opened = self.open_at(prefix, name, ShareAccess::ReadWrite, Create::Never, budget).await;
            let (file, directory) = match opened {
                Ok(opened) => opened,
                Err(Error::Status { op: Op::OPEN, status: Status::NOENT }) => return Ok(None),
                Err(err) if err.is_stale() => continue,
                Err(err) => return Err(err),
            };
            // Looked at when the lock is held, and by the name: whoever had the lock may have replaced the file.
            let (attributes, named) = match file.lock_and_getattr(&directory, name, until, budget).await {
                Ok(found) => found,
                Err(err) if err.is_stale() => continue,
                Err(err) => return Err(err),
            };
            if named.is_some() && named == attributes.fileid {
                return Ok(Some((file, attributes)));
            }
            file.close().await.or_else(|err| if err.is_stale() { Ok(()) } else { Err(err) })?;
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file that is held gets another name for as long as this takes: nothing can be asked of a file that has
    /// none any more, not even to unlock it.
    async fn replace_locked(
        &self,
        prefix: &PathPrefix<'_>,
        mut locked: File,
        put: &PutOptions,
        name: &[u8],
        budget: &Budget,
    ) -> Result<()> {
        let PutOptions { temp_name, pin_name, .. } = put;
        let session = Arc::clone(locked.session());
        let (mut linked, mut backoff) = (false, Backoff::new(DELAY_BACKOFF, DELAY_BACKOFF * 8));
        let mut rest = loop {
            let mut compound = Compound::new();
            compound.putfh(&locked.handle).op(Op::SAVEFH);
            prefix.encode(&mut compound);
            if !linked {
                compound.op_with_name(Op::LINK, pin_name);
            }
            compound.op(Op::SAVEFH).rename(temp_name, name);
            locked.push_close(&mut compound);
            prefix.encode(&mut compound);
            compound.op_with_name(Op::REMOVE, pin_name);
            let read = |mut results: CompoundReply| {
                results.expect(Op::PUTFH)?;
                results.expect(Op::SAVEFH)?;
                prefix.decode(&mut results)?;
                if !linked {
                    results.changed(Op::LINK)?;
                }
                // It has that name now: what is done again is done without it.
                let moved = results.expect(Op::SAVEFH).map(drop).and_then(|()| results.renamed());
                Ok((moved, results))
            };
            match call_in_session(self, &session, budget, &compound, read).await {
                Ok((Ok(()), rest)) => break rest,
                Ok((Err(err), _)) if err.status().is_some_and(Status::is_delay) => {
                    linked = true;
                    if let Err(err) = budget.pause(&mut backoff).await {
                        self.remove_in_background(prefix, pin_name, budget).await;
                        return Err(err);
                    }
                }
                Ok((Err(err), _)) | Err(err) => {
                    self.remove_in_background(prefix, pin_name, budget).await;
                    return Err(err);
                }
            }
        };
        // It is in its place: what follows only tidies up.
        if locked.decode_close(&mut rest).is_err()
            || prefix.decode(&mut rest).is_err()
            || rest.changed(Op::REMOVE).is_err()
        {
            let _ = budget.wait(locked.close()).await;
            self.remove_in_background(prefix, pin_name, budget).await;
        }
        Ok(())
    }

    /// A plain file, if it is as `put` has it; of which the alias and the patience matter besides.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`, `ISDIR`, `DENIED`; [`Error::Uncertain`].
    pub async fn remove_if(&self, path: &[u8], put: PutOptions) -> Result<()> {
        let Precondition::If(predicate) = put.precondition.clone() else { return self.remove_file(path).await };
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            path::check(&put.pin_name)?;
            let prefix = client.path_prefix(&directory).await?;
            match client.open_and_lock(&prefix, name, put.lock_timeout, &budget).await? {
                None if predicate(None) => Err(Error::Status { op: Op::REMOVE, status: Status::NOENT }),
                None => Err(Error::ConditionFailed),
                Some((locked, attributes)) if predicate(Some(&attributes)) => {
                    client.remove_locked(&prefix, locked, name, &put.pin_name, &budget).await
                }
                Some((locked, _)) => locked.close().await.and(Err(Error::ConditionFailed)),
            }
        })
        .await
    }

    /// By giving it another name first: see [`Client::replace_locked`].
    async fn remove_locked(
        &self,
        prefix: &PathPrefix<'_>,
        mut locked: File,
        name: &[u8],
        pin_name: &[u8],
        budget: &Budget,
    ) -> Result<()> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::SAVEFH).rename(name, pin_name);
        locked.push_close(&mut compound);
        prefix.encode(&mut compound);
        compound.op_with_name(Op::REMOVE, pin_name);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            results.renamed()?;
            Ok(results)
        };
        let session = Arc::clone(locked.session());
        let mut rest = match call_in_session(self, &session, budget, &compound, read).await {
            Ok(rest) => rest,
            Err(err) => {
                self.remove_in_background(prefix, pin_name, budget).await;
                return Err(err);
            }
        };
        if locked.decode_close(&mut rest).is_err()
            || prefix.decode(&mut rest).is_err()
            || rest.changed(Op::REMOVE).is_err()
        {
            let _ = budget.wait(locked.close()).await;
            self.remove_in_background(prefix, pin_name, budget).await;
        }
        Ok(())
    }

    /// Removes a name of this client's own, in a task that goes on when the time is over.
    pub(crate) async fn remove_in_background(&self, prefix: &PathPrefix<'_>, name: &[u8], budget: &Budget) {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op_with_name(Op::REMOVE, name);
        let (client, steps, cleanup) = (self.clone(), prefix.ops(), self.cleanup_guard());
        let removing = tokio::spawn(async move {
            let _cleanup = cleanup;
            let read = |mut results: CompoundReply, _| {
                results.expect_all(&steps)?;
                results.changed(Op::REMOVE)
            };
            let budget = Budget::cleanup();
            loop {
                match client.call_with_retry(&compound, Idempotent::Yes, &budget, read).await {
                    // There is no connection: there may be one again.
                    Err(Error::Unreachable { .. }) if !budget.is_over() => tokio::time::sleep(RECONNECT_PAUSE).await,
                    tidied => return tidied,
                }
            }
        });
        let _ = budget.wait(removing).await;
    }
}

impl Install {
    pub(crate) fn is_rename(self) -> bool {
        matches!(self, Self::Rename | Self::RenameOverRegular)
    }

    /// With the directory saved, and current for `Replace`; with the file current for `New`.
    pub(crate) fn encode(self, compound: &mut Compound, prefix: &PathPrefix<'_>, temp_name: &[u8], name: &[u8]) {
        match self {
            Self::Defer => {}
            Self::Rename | Self::RenameOverRegular => drop(compound.rename(temp_name, name)),
            Self::LinkExclusive => {
                compound.op(Op::SAVEFH);
                prefix.encode(compound);
                compound.op_with_name(Op::LINK, name).op_with_name(Op::REMOVE, temp_name);
            }
        }
    }

    /// Whether nothing is left to tidy up.
    pub(crate) fn decode(self, results: &mut CompoundReply, prefix: &PathPrefix<'_>) -> Result<bool> {
        match self {
            Self::Defer => Ok(true),
            Self::Rename | Self::RenameOverRegular => results.renamed().map(|()| true),
            Self::LinkExclusive => {
                results.expect(Op::SAVEFH)?;
                prefix.decode(results)?;
                results.changed(Op::LINK)?;
                // It is in its place, whatever becomes of its first name.
                Ok(results.changed(Op::REMOVE).is_ok())
            }
        }
    }

    pub(crate) fn map_error(self, err: Error) -> Error {
        match (self, &err) {
            (Self::LinkExclusive, Error::Status { op: Op::LINK, status: Status::EXIST }) => Error::ConditionFailed,
            _ => err,
        }
    }
}
