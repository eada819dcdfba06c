//! Replacing a whole file. The new content is written to a temporary file and then moved to its name, so that a reader sees
//! the old or the new content as a whole. The temporary file is moved only after the server has confirmed all of it.

use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Expected, FileType, Ownership, SetAttributes},
    budget::Budget,
    call::RetryPolicy,
    client::Client,
    compound::{ANONYMOUS, CURRENT, Compound, CompoundReply, Create, OpenOwner, ShareAccess, StableHow},
    error::{Error, Result},
    install::{InheritedAttrs, Install, MAX_ATTEMPTS, PRIVATE_MODE, SETID_BITS},
    op::Op,
    open::{File, WRITTEN_FILE_ATTRS},
    path::Path,
    prefix::PathPrefix,
    put_options::{Precondition, PutOptions},
    read::rejects_stateid,
    status::Status,
};

/// Number of operations of a put in one compound, without the LOOKUPs of its directory.
const PUT_OPS: u32 = 24;

/// Outcome of a compound that writes a temporary file and installs it.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
pub(crate) enum TempWrite {
    /// The file was written and installed.
    Complete(Attributes),
    /// The server wrote a part of the data. The file was not installed.
    Short,
    /// The file has another owner or group than the file that it should replace. It was not installed.
    WrongOwner,
}

impl Client {
    /// Creates or replaces a file atomically, and returns its attributes when the content is on stable storage. One round
    /// trip if one WRITE carries the content and a regular file is replaced.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`: the directory is missing; `ISDIR`, `NOSPC`, `DQUOT`; `DENIED`: another client
    /// has a lock of the file; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn put(&self, path: &[u8], content: Bytes, put: PutOptions) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move { client.put_inner(&path, content, put, &budget).await })
            .await
    }

    async fn put_inner(&self, path: &[u8], content: Bytes, put: PutOptions, budget: &Budget) -> Result<Attributes> {
        let (directory, name) = Path::new(path)?.split()?;
        put.check()?;
        let attrs = self.channel_attrs().await?;
        let fits = content.len() <= attrs.max_write_bytes as usize && attrs.max_operations >= PUT_OPS;
        if fits && !self.no_current_stateid() {
            let prefix = self.path_prefix(&directory).await?;
            match self.put_single_compound(&prefix, name, &content, &put, budget).await {
                Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if rejects_stateid(status) => {
                    tracing::info!(%status, "the server rejects the current stateid; this client uses more round trips from now on");
                    self.disable_current_stateid();
                }
                Ok(TempWrite::Short | TempWrite::WrongOwner) => {
                    tracing::debug!("the server did not write all of a file in one compound");
                }
                Ok(TempWrite::Complete(attributes)) => return Ok(attributes),
                Err(err) => return Err(err),
            }
        }
        let length = content.len() as u64;
        let upload = self.begin_upload_inner(path, put, budget).await?;
        upload.file.as_ref().ok_or(Error::Closed)?.write_all(0, content, budget).await?;
        upload.commit_inner(length, budget).await
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
                // There is no file, or something else that RENAME may not be able to replace.
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

    /// Replaces a regular file. The first attempt assumes that the file has the attributes of this client's last file, and
    /// verifies that in the same compound. Only if they differ it asks for the attributes.
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
            let inherited = inherited.take();
            match self.write_temp(prefix, content, put, name, Install::RenameOverRegular, inherited, budget).await {
                Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME }) => {}
                // The file was replaced between LOOKUP and the next operation.
                Err(err) if err.is_stale() => {}
                other => return other,
            }
        }
        Err(Error::Status { op: Op::VERIFY, status: Status::NOT_SAME })
    }

    /// Writes the temporary file and installs it, in one compound. With `inherited`, the existing file must have these
    /// attributes.
    #[allow(clippy::too_many_arguments, reason = "the parts of one compound")]
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
            // The temporary file may exist, unless it was installed or nothing was sent.
            let may_exist = match &made {
                Ok(TempWrite::Complete(_)) => false,
                Ok(_) => true,
                Err(err) => budget.was_sent() || !err.was_never_sent(),
            };
            if may_exist {
                self.remove_in_background(prefix, &put.temp_name, budget).await;
            }
            match (made, &mut inherited) {
                (Ok(TempWrite::WrongOwner), Some(inherited)) if !inherited.changes_owner => {
                    inherited.changes_owner = true;
                }
                // Only a superuser may change the owner.
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

    #[allow(clippy::too_many_arguments, reason = "the parts of one compound")]
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
            // The file that it will replace may be readable by fewer users.
            Install::Defer => PRIVATE_MODE,
            _ => inherited.map_or(put.mode, |inherited| inherited.mode & !SETID_BITS),
        };
        // A temporary file of an earlier attempt may have another mode.
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
        // A server may write a part of the data and return success.
        compound.getattr(WRITTEN_FILE_ATTRS).verify(&whole);
        if install.is_rename() {
            compound.op(Op::RESTOREFH);
        }
        install.encode(&mut compound, prefix, &put.temp_name, name);
        let decode = |mut results: CompoundReply, session| {
            prefix.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            if install == Install::RenameOverRegular {
                results.expect(Op::LOOKUP)?;
                results.verified(&replaced)?;
                results.expect(Op::RESTOREFH)?;
            }
            let stateid = results.opened()?;
            // Closed on drop if the server stops before CLOSE.
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
        let (file, written, attributes, moved) =
            self.call_with_retry(&compound, RetryPolicy::NonIdempotent, budget, decode).await?;
        if inherited.is_none_or(|inherited| !inherited.changes_owner) {
            *self.default_ownership() = Ownership::of(&attributes);
        }
        match moved {
            None if attributes.size == Some(content.len() as u64) => return Ok(TempWrite::WrongOwner),
            None => return Ok(TempWrite::Short),
            Some(false) => self.remove_in_background(prefix, &put.temp_name, budget).await,
            Some(true) => {}
        }
        // The server may ignore FILE_SYNC4.
        if !written.is_stable {
            let committed = file.commit_with_verifier(written.verifier, budget).await;
            committed.map_err(|_| Error::Uncertain("the server may have lost written data"))?;
        }
        Ok(TempWrite::Complete(attributes))
    }
}
