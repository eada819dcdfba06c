//! Moving a temporary file to its name: by RENAME over what is there, by LINK where nothing may be there, and under a lock
//! of the existing file where a predicate decides.

use std::time::Duration;

use crate::{
    attributes::{Attributes, FileType, Ownership, SetAttributes},
    budget::Budget,
    call::RetryPolicy,
    client::Client,
    compound::{ANONYMOUS, Compound, CompoundReply},
    error::{Error, Result},
    op::Op,
    open::WRITTEN_FILE_ATTRS,
    prefix::PathPrefix,
    put_options::{Precondition, PutOptions},
    status::Status,
};

/// Maximum number of attempts while other clients replace the file.
pub(crate) const MAX_ATTEMPTS: usize = 32;
/// Mode of a temporary file before the attributes of the file that it replaces are known.
pub(crate) const PRIVATE_MODE: u32 = 0o600;
/// The set-user-ID and set-group-ID bits, which new content does not inherit.
pub(crate) const SETID_BITS: u32 = 0o6000;
/// Pause between attempts to remove a name while there is no connection.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How a temporary file is moved to its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Install {
    /// Not yet.
    Defer,
    /// By RENAME over what is there, if anything.
    Rename,
    /// By RENAME over a regular file, which VERIFY checks.
    RenameOverRegular,
    /// By LINK, which fails if the name exists, and REMOVE of the temporary name. One of several concurrent clients
    /// succeeds.
    LinkExclusive,
}

/// What a new file inherits from the file that it replaces.
#[derive(Clone, Debug)]
pub(crate) struct InheritedAttrs {
    pub mode: u32,
    /// `None` if the server does not send it, or does not let this client set it.
    pub ownership: Option<Ownership>,
    /// New files in the directory have another owner or group: the new file needs SETATTR.
    pub changes_owner: bool,
}

impl InheritedAttrs {
    pub fn of(found: &Attributes) -> Option<Self> {
        Some(Self { mode: found.mode?, ownership: Ownership::of(found), changes_owner: false })
    }

    /// The attributes to set on a new file so that it has those of the old one; `new_mode` if there is no old file.
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

impl Client {
    /// Moves a complete temporary file to its name if the precondition holds; otherwise removes it.
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
        // Also if the outcome is uncertain: either the file is moved first and the temporary name is gone, or the temporary
        // file is removed first and cannot be moved.
        if installed.is_err() {
            self.remove_in_background(prefix, &put.temp_name, budget).await;
        }
        installed
    }

    /// The attributes of a name in a directory.
    pub(crate) async fn stat_child(&self, prefix: &PathPrefix<'_>, name: &[u8], budget: &Budget) -> Result<Attributes> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.lookup(name).getattr(WRITTEN_FILE_ATTRS);
        let decode = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect(Op::LOOKUP)?;
            results.attributes()
        };
        self.call_with_retry(&compound, RetryPolicy::Idempotent, budget, decode).await
    }

    /// Installs the file where nothing may have the name.
    pub(crate) async fn install_exclusive(
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

    /// Installs the file over what is there, with the permissions and the owner of a regular file there.
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
                // The file was replaced between LOOKUP and GETATTR.
                Err(err) if err.is_stale() && tries.next().is_some() => {}
                Err(err) => return Err(err),
            }
        };
        self.inherit_attrs(prefix, put, old.as_ref(), made, budget).await?;
        let install =
            if let Precondition::RegularFile = put.precondition { Install::RenameOverRegular } else { Install::Rename };
        self.install_once(prefix, &put.temp_name, name, install, budget).await
    }

    /// Sets the attributes that the temporary file inherits from `old`. If the server does not let this client set owner and
    /// group, they stay as they are.
    pub(crate) async fn inherit_attrs(
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
                    // SETATTR has changed it.
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

    /// Sets attributes of a name in a directory.
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
        let decode = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect(Op::LOOKUP)?;
            results.set()
        };
        self.call_with_retry(&compound, RetryPolicy::Idempotent, budget, decode).await
    }

    /// Sends the compound that moves the file.
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
        let ops: &[Op] = match install {
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
        let decode = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect_all(ops)?;
            install.decode(&mut results, prefix)
        };
        let temp_removed = self
            .call_with_retry(&compound, RetryPolicy::NonIdempotent, budget, decode)
            .await
            .map_err(|err| install.map_error(err))?;
        if !temp_removed {
            self.remove_in_background(prefix, temp_name, budget).await;
        }
        Ok(())
    }

    /// Removes a temporary name. Waits until the deadline; the task continues after it.
    pub(crate) async fn remove_in_background(&self, prefix: &PathPrefix<'_>, name: &[u8], budget: &Budget) {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op_with_name(Op::REMOVE, name);
        let (client, steps, cleanup) = (self.clone(), prefix.ops(), self.cleanup_guard());
        let removing = tokio::spawn(async move {
            let _cleanup = cleanup;
            let decode = |mut results: CompoundReply, _| {
                results.expect_all(&steps)?;
                results.changed(Op::REMOVE)
            };
            let budget = Budget::cleanup();
            loop {
                match client.call_with_retry(&compound, RetryPolicy::Idempotent, &budget, decode).await {
                    // A new connection may follow.
                    Err(Error::Unreachable { .. }) if !budget.is_over() => tokio::time::sleep(RECONNECT_PAUSE).await,
                    removed => return removed,
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

    /// Adds the operations. The directory must be the saved file handle, and for the RENAMEs also the current one; for
    /// `LinkExclusive` the temporary file must be the current file handle.
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

    /// Reads the results of the operations. Returns whether the temporary name is gone.
    pub(crate) fn decode(self, results: &mut CompoundReply, prefix: &PathPrefix<'_>) -> Result<bool> {
        match self {
            Self::Defer => Ok(true),
            Self::Rename | Self::RenameOverRegular => results.renamed().map(|()| true),
            Self::LinkExclusive => {
                results.expect(Op::SAVEFH)?;
                prefix.decode(results)?;
                results.changed(Op::LINK)?;
                // The file is installed, whether or not REMOVE succeeds.
                Ok(results.changed(Op::REMOVE).is_ok())
            }
        }
    }

    /// Turns the error of a name that exists into [`Error::ConditionFailed`].
    pub(crate) fn map_error(self, err: Error) -> Error {
        match (self, &err) {
            (Self::LinkExclusive, Error::Status { op: Op::LINK, status: Status::EXIST }) => Error::ConditionFailed,
            _ => err,
        }
    }
}
