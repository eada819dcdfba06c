//! Adding to the end of a file, all or nothing. NFS has no append: the end is where it is as long as nobody else writes,
//! so that it is done under a lock of the file, and a part that was added is cut off again.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes, Expected, SetAttributes, Time},
    budget::Budget,
    client::Client,
    compound::{ANONYMOUS, Compound, CompoundReply, Op, StableHow},
    error::{Error, Result},
    open::File,
    path::{self, Path},
    put::{Precondition, PutOptions},
    status::Status,
};

impl Client {
    /// Adds to the end of a file, under its lock. All of it or nothing, but for a crash of the server, or of this process
    /// in the middle of an append that the server does not take in one call. `None`: there is no such file.
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
            let allowed = match &put.precondition {
                Precondition::None | Precondition::RegularFile => true,
                Precondition::Absent => false,
                Precondition::If(predicate) => predicate(Some(&attributes)),
            };
            if !allowed {
                locked.close().await?;
                return Err(Error::ConditionFailed);
            }
            let size = attributes.size.ok_or(Error::Protocol("a file without a size"))?;
            locked.append_at(size, content, put.time_modify, &budget).await.map(Some)
        })
        .await
    }
}

/// What the call that ends an append has found.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
enum Appended {
    Complete(Attributes),
    /// The server has taken so much of it.
    Short(usize),
}

impl File {
    /// After the first `size` bytes, which are all that there are.
    async fn append_at(
        mut self,
        size: u64,
        content: Bytes,
        time_modify: Option<Time>,
        budget: &Budget,
    ) -> Result<Attributes> {
        let added = match content.len() <= self.session().attrs.max_write_bytes as usize {
            true => self.append_and_close(size, &content, time_modify, budget).await,
            false => Ok(Appended::Short(0)),
        };
        let added = match added {
            Ok(Appended::Short(count)) => self.append_in_chunks(size, content, count, time_modify, budget).await,
            Ok(Appended::Complete(attributes)) => Ok(attributes),
            Err(err) => Err(err),
        };
        match added {
            // The lock went with the session.
            Err(Error::SessionLost) => Err(Error::Uncertain("the session was lost")),
            Err(err) if self.has_written() && !matches!(err, Error::Uncertain(_) | Error::Pending(_)) => {
                // Under the lock still: what is behind the old end is ours.
                match self.truncate_to(size).await {
                    Ok(()) => Err(err),
                    Err(cut) => {
                        tracing::warn!(error = %err, %cut, "a part of an append could not be taken back");
                        Err(Error::Uncertain("a part of it may have been added"))
                    }
                }
            }
            other => other,
        }
    }

    /// In as many calls as it takes, without those bytes that are there.
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
            Appended::Short(_) => Err(Error::Protocol("a part of nothing is written")),
        }
    }

    /// Writes the last bytes, looks whether the file ends with them, gives it its time, unlocks and closes it.
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
        let ended = self.call(budget, &compound, |mut results| {
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
            // It is there: whatever fails now takes nothing away from that.
            let (attributes, is_closed) = decode_tail(results, time_modify.is_some(), self.lock_stateid().is_some())?;
            Ok((Ok(attributes), written, is_closed))
        });
        let (found, written, is_closed) = ended.await?;
        self.set_closed(is_closed);
        match found {
            Err(bytes) => Ok(Appended::Short(bytes)),
            Ok(attributes) => {
                // A server that keeps less of its word than it was asked for.
                if let Some(written) = written.filter(|written| !written.is_stable) {
                    let committed = self.commit_with_verifier(written.verifier, budget).await;
                    committed.map_err(|_| Error::Uncertain("the server may have lost what it has written"))?;
                }
                Ok(Appended::Complete(attributes))
            }
        }
    }

    /// Takes away what is behind the first `size` bytes, if there is anything.
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

/// The attributes of a file that was added to. Its time may be refused, of a file that belongs to somebody else: then it
/// has the server's.
fn decode_tail(mut results: CompoundReply, is_timed: bool, is_locked: bool) -> Result<(Attributes, bool)> {
    let mut attributes = results.attributes()?;
    if is_timed {
        match results.set() {
            Ok(()) => attributes = results.attributes()?,
            Err(Error::Status { .. }) => return Ok((attributes, false)),
            Err(err) => return Err(err),
        }
    }
    let unlocked = if is_locked { results.stateid(Op::LOCKU).map(drop) } else { Ok(()) };
    Ok((attributes, unlocked.and_then(|()| results.stateid(Op::CLOSE)).is_ok()))
}
