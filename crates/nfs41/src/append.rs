//! Appending to a file, all or nothing. NFS has no append operation, so this locks the file, writes at its end, and
//! truncates the file again if only a part was written.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes, Expected, SetAttributes, Time},
    budget::Budget,
    client::Client,
    compound::{ANONYMOUS, Compound, CompoundReply, StableHow},
    error::{Error, Result},
    op::Op,
    open::File,
    path::{self, Path},
    put_options::{Precondition, PutOptions},
    status::Status,
};

impl Client {
    /// Appends to a file under its lock, and returns its attributes; `None` if there is no file. All or nothing, unless the
    /// server crashes, or this process ends while it appends more than one WRITE carries.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `DENIED`, `NOSPC`, `ISDIR`; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn append(&self, path: &[u8], content: Bytes, put: PutOptions) -> Result<Option<Attributes>> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            path::check(name)?;
            let prefix = client.path_prefix(&directory).await?;
            let Some((locked, attributes)) = client.open_and_lock(&prefix, name, put.lock_timeout, &budget).await?
            else {
                return Ok(None);
            };
            let holds = match &put.precondition {
                Precondition::None | Precondition::RegularFile => true,
                Precondition::Absent => false,
                Precondition::If(predicate) => predicate(Some(&attributes)),
            };
            if !holds {
                locked.close().await?;
                return Err(Error::ConditionFailed);
            }
            let size = attributes.size.ok_or(Error::Protocol("a file has no size"))?;
            locked.append_at(size, content, put.time_modify, &budget).await.map(Some)
        })
        .await
    }
}

/// Outcome of the compound that ends an append.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
enum Appended {
    Complete(Attributes),
    /// The server wrote only this many bytes.
    Short(usize),
}

impl File {
    /// Appends to a file of `size` bytes.
    async fn append_at(
        mut self,
        size: u64,
        content: Bytes,
        time_modify: Option<Time>,
        budget: &Budget,
    ) -> Result<Attributes> {
        let appended = match content.len() <= self.session().attrs.max_write_bytes as usize {
            true => self.append_and_close(size, &content, time_modify, budget).await,
            false => Ok(Appended::Short(0)),
        };
        let appended = match appended {
            Ok(Appended::Short(count)) => self.append_in_chunks(size, content, count, time_modify, budget).await,
            Ok(Appended::Complete(attributes)) => Ok(attributes),
            Err(err) => Err(err),
        };
        match appended {
            // The lock is lost with the session.
            Err(Error::SessionLost) => Err(Error::Uncertain("the session was lost")),
            Err(err) if self.has_written() && !matches!(err, Error::Uncertain(_) | Error::Pending(_)) => {
                // The file is still locked, so what follows the old end is from this append.
                match self.truncate_to(size).await {
                    Ok(()) => Err(err),
                    Err(undo) => {
                        tracing::warn!(error = %err, %undo, "an append was written in part and could not be undone");
                        Err(Error::Uncertain("a part may have been appended"))
                    }
                }
            }
            other => other,
        }
    }

    /// Appends in several calls. The first `count` bytes are already written.
    async fn append_in_chunks(
        &mut self,
        size: u64,
        content: Bytes,
        count: usize,
        time_modify: Option<Time>,
        budget: &Budget,
    ) -> Result<Attributes> {
        let at = size.saturating_add(count as u64);
        self.write_all(at, content.slice(count..), budget).await?;
        self.commit_within(budget).await?;
        let end = size.saturating_add(content.len() as u64);
        match self.append_and_close(end, &Bytes::new(), time_modify, budget).await? {
            Appended::Complete(attributes) => Ok(attributes),
            Appended::Short(_) => Err(Error::Protocol("the server reports a partial write of nothing")),
        }
    }

    /// Writes the last bytes, verifies that the file ends with them, sets the modification time, unlocks and closes the file.
    async fn append_and_close(
        &mut self,
        at: u64,
        content: &Bytes,
        time_modify: Option<Time>,
        budget: &Budget,
    ) -> Result<Appended> {
        let end = at.saturating_add(content.len() as u64);
        let mut compound = Compound::new();
        compound.putfh(&self.handle);
        if !content.is_empty() {
            compound.write(&self.io_stateid(), at, StableHow::FileSync, content);
        }
        compound.verify(&Expected { size: Some(end), ..Expected::default() }).getattr(AttributeMask::STAT);
        if let Some(time) = time_modify {
            compound.setattr(&ANONYMOUS, &SetAttributes::modified(time)).getattr(AttributeMask::STAT);
        }
        if let Some(lock) = self.lock_stateid() {
            compound.unlock(&lock);
        }
        compound.close(self.open_stateid());
        let reply = self.call(budget, &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            let written = match content.is_empty() {
                true => None,
                false => Some(results.written()?),
            };
            if written.is_some_and(|written| written.bytes > 0) {
                self.set_written();
            }
            let bytes = written.map_or(0, |written| written.bytes as usize);
            match results.expect(Op::VERIFY).map(drop) {
                Err(err) if err.is(Status::NOT_SAME) && bytes < content.len() => {
                    return Ok((Err(bytes), written, false));
                }
                Err(err) if err.is(Status::NOT_SAME) => {
                    return Err(Error::Uncertain("another client changed the file without its lock"));
                }
                verified => verified?,
            }
            // The data is written; the remaining operations cannot undo that.
            let (attributes, is_closed) = decode_tail(results, time_modify.is_some(), self.lock_stateid().is_some())?;
            Ok((Ok(attributes), written, is_closed))
        });
        let (found, written, is_closed) = reply.await?;
        self.set_closed(is_closed);
        match found {
            Err(bytes) => Ok(Appended::Short(bytes)),
            Ok(attributes) => {
                // The server may ignore FILE_SYNC4.
                if let Some(written) = written.filter(|written| !written.is_stable) {
                    let committed = self.commit_with_verifier(written.verifier, budget).await;
                    committed.map_err(|_| Error::Uncertain("the server may have lost written data"))?;
                }
                Ok(Appended::Complete(attributes))
            }
        }
    }

    /// Truncates the file to `size` bytes if it is longer.
    async fn truncate_to(&self, size: u64) -> Result<()> {
        let budget = Budget::cleanup_change();
        if self.attributes_within(AttributeMask::SIZE, &budget).await?.size == Some(size) {
            return Ok(());
        }
        let mut compound = Compound::new();
        compound
            .putfh(&self.handle)
            .setattr(&self.io_stateid(), &SetAttributes { size: Some(size), ..SetAttributes::default() });
        self.call(&budget, &compound, |mut results| {
            results.expect(Op::PUTFH)?;
            results.set()
        })
        .await
    }
}

/// Reads the attributes and the results that follow. Returns whether the file is closed. The server may reject the
/// modification time on a file of another owner, which then keeps the server's time.
fn decode_tail(mut results: CompoundReply, sets_time: bool, is_locked: bool) -> Result<(Attributes, bool)> {
    let mut attributes = results.attributes()?;
    if sets_time {
        match results.set() {
            Ok(()) => attributes = results.attributes()?,
            Err(Error::Status { .. }) => return Ok((attributes, false)),
            Err(err) => return Err(err),
        }
    }
    let unlocked = if is_locked { results.stateid(Op::LOCKU).map(drop) } else { Ok(()) };
    Ok((attributes, unlocked.and_then(|()| results.stateid(Op::CLOSE)).is_ok()))
}
