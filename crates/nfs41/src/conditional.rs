//! Replacing and removing a file under its lock, if a predicate allows it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    attributes::Attributes,
    budget::{Backoff, Budget},
    call::RetryPolicy,
    client::Client,
    compound::{Compound, CompoundReply, Create, ShareAccess},
    error::{Error, Result},
    install::MAX_ATTEMPTS,
    op::Op,
    open::File,
    path::{self, Path},
    prefix::PathPrefix,
    put_options::{Precondition, PutOptions},
    status::Status,
};

/// Backoff after NFS4ERR_DELAY where a part of the compound was executed.
const DELAY_BACKOFF: Duration = Duration::from_millis(50);

impl Client {
    /// Installs a temporary file if the predicate holds for the existing file, or for `None`.
    pub(crate) async fn install_if(
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
                    // Another client has created the file: evaluate the predicate for that one.
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
                // A client that takes no lock has replaced the file: evaluate the predicate for the new one.
                Err(err) if err.is_stale() => {}
                Err(Error::Status { op: Op::LINK, status: Status::NOENT }) => {}
                installed => return installed,
            }
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// Opens and locks a file, and returns it with its attributes; `None` if there is no file.
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
            // Compare with what the name means while the lock is held: the last holder may have replaced the file.
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

    /// Moves the temporary file over a locked one. LINK gives the locked file a second name first, and REMOVE takes it away
    /// last: a file without a name cannot even be unlocked.
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
            let decode = |mut results: CompoundReply, _| {
                results.expect(Op::PUTFH)?;
                results.expect(Op::SAVEFH)?;
                prefix.decode(&mut results)?;
                if !linked {
                    results.changed(Op::LINK)?;
                }
                // The file has its second name now, so a retry leaves LINK out.
                let moved = results.expect(Op::SAVEFH).map(drop).and_then(|()| results.renamed());
                Ok((moved, results))
            };
            match self.call_with_retry(&compound, RetryPolicy::InSession(&session), budget, decode).await {
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
        // The file is installed. The remaining results only affect cleanup.
        if locked.decode_close(&mut rest).is_err()
            || prefix.decode(&mut rest).is_err()
            || rest.changed(Op::REMOVE).is_err()
        {
            let _ = budget.wait(locked.close()).await;
            self.remove_in_background(prefix, pin_name, budget).await;
        }
        Ok(())
    }

    /// Removes a regular file if the precondition holds. Of the options only `precondition`, `pin_name` and `lock_timeout`
    /// are used.
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

    /// Removes a locked file. RENAME gives it another name first: see [`Client::replace_locked`].
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
        let decode = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            results.renamed()?;
            Ok(results)
        };
        let session = Arc::clone(locked.session());
        let mut rest = match self.call_with_retry(&compound, RetryPolicy::InSession(&session), budget, decode).await {
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
}
