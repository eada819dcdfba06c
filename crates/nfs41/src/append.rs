//! Adding to the end of a file, all or nothing. NFS has no append: the end is where it is as long as nobody else writes,
//! so that it is done under a lock of the file, and a part that was added is cut off again.

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Expected, Set, Time, Wanted},
    budget::Budget,
    client::Client,
    compound::{ANONYMOUS, Compound, Op, Results, Stable},
    error::{Error, Result},
    open::File,
    path::{self, Path},
    put::{Conditions, Put},
    status::Status,
};

impl Client {
    /// Adds to the end of a file, under its lock. All of it or nothing, but for a crash of the server, or of this process
    /// in the middle of an append that the server does not take in one call. `None`: there is no such file.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `DENIED`, `NOSPC`, `ISDIR`; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn append(&self, path: &[u8], content: Bytes, put: Put) -> Result<Option<Attributes>> {
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            path::check(name)?;
            let start = client.start(&directory).await?;
            let Some((held, attributes)) = client.hold(&start, name, put.patience, &budget).await? else {
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
            held.add(size, content, put.modified, &budget).await.map(Some)
        })
        .await
    }
}

/// What the call that ends an append has found.
#[allow(clippy::large_enum_variant, reason = "it lives for one match")]
enum Added {
    Whole(Attributes),
    /// The server has taken so much of it.
    Part(usize),
}

impl File {
    /// After the first `size` bytes, which are all that there are.
    async fn add(mut self, size: u64, content: Bytes, modified: Option<Time>, budget: &Budget) -> Result<Attributes> {
        let added = match content.len() <= self.session().agreed.largest_write as usize {
            true => self.end_with(size, &content, modified, budget).await,
            false => Ok(Added::Part(0)),
        };
        let added = match added {
            Ok(Added::Part(count)) => self.add_rest(size, content, count, modified, budget).await,
            Ok(Added::Whole(attributes)) => Ok(attributes),
            Err(why) => Err(why),
        };
        match added {
            // The lock went with the session.
            Err(Error::SessionLost) => Err(Error::Uncertain("the session was lost")),
            Err(why) if self.has_written() && !matches!(why, Error::Uncertain(_) | Error::Pending(_)) => {
                // Under the lock still: what is behind the old end is ours.
                match self.cut(size).await {
                    Ok(()) => Err(why),
                    Err(cut) => {
                        tracing::warn!(error = %why, %cut, "a part of an append could not be taken back");
                        Err(Error::Uncertain("a part of it may have been added"))
                    }
                }
            }
            other => other,
        }
    }

    /// In as many calls as it takes, without those bytes that are there.
    async fn add_rest(
        &mut self,
        size: u64,
        content: Bytes,
        count: usize,
        modified: Option<Time>,
        budget: &Budget,
    ) -> Result<Attributes> {
        let at = size.saturating_add(count as u64);
        self.write_all(at, content.slice(count..), budget).await?;
        self.commit_in(budget).await?;
        let end = size.saturating_add(content.len() as u64);
        match self.end_with(end, &Bytes::new(), modified, budget).await? {
            Added::Whole(attributes) => Ok(attributes),
            Added::Part(_) => Err(Error::Protocol("a part of nothing is written")),
        }
    }

    /// Writes the last bytes, looks whether the file ends with them, gives it its time, unlocks and closes it.
    async fn end_with(&mut self, at: u64, content: &Bytes, modified: Option<Time>, budget: &Budget) -> Result<Added> {
        let end = at.saturating_add(content.len() as u64);
        let mut compound = Compound::new();
        compound.at(&self.handle);
        if !content.is_empty() {
            compound.write(&self.current(), at, Stable::Yes, content);
        }
        compound.verify(&Expected { size: Some(end), ..Expected::default() }).attributes(Wanted::USUAL);
        if let Some(time) = modified {
            compound.set(&ANONYMOUS, &Set::modified(time)).attributes(Wanted::USUAL);
        }
        if let Some(lock) = self.locked() {
            compound.unlock(&lock);
        }
        compound.close(self.stateid());
        let ended = self.ask(budget, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            let written = match content.is_empty() {
                true => None,
                false => Some(results.written()?),
            };
            if written.is_some_and(|written| written.bytes > 0) {
                self.set_written();
            }
            let bytes = written.map_or(0, |written| written.bytes as usize);
            match results.op(Op::VERIFY).map(drop) {
                Err(why) if why.is(Status::NOT_SAME) && bytes < content.len() => {
                    return Ok((Err(bytes), written, false));
                }
                Err(why) if why.is(Status::NOT_SAME) => {
                    return Err(Error::Uncertain("somebody else has changed the file without its lock"));
                }
                verified => verified?,
            }
            // It is there: whatever fails now takes nothing away from that.
            let (attributes, is_closed) = rest(results, modified.is_some(), self.locked().is_some())?;
            Ok((Ok(attributes), written, is_closed))
        });
        let (found, written, is_closed) = ended.await?;
        self.set_closed(is_closed);
        match found {
            Err(bytes) => Ok(Added::Part(bytes)),
            Ok(attributes) => {
                // A server that keeps less of its word than it was asked for.
                if let Some(written) = written.filter(|written| !written.is_stable) {
                    let committed = self.commit_written(written.verifier, budget).await;
                    committed.map_err(|_| Error::Uncertain("the server may have lost what it has written"))?;
                }
                Ok(Added::Whole(attributes))
            }
        }
    }

    /// Takes away what is behind the first `size` bytes, if there is anything.
    async fn cut(&self, size: u64) -> Result<()> {
        let budget = Budget::cleanup_change();
        if self.attributes_in(Wanted::SIZE, &budget).await?.size == Some(size) {
            return Ok(());
        }
        let mut compound = Compound::new();
        compound.at(&self.handle).set(&self.current(), &Set { size: Some(size), ..Set::default() });
        self.ask(&budget, &compound, |mut results| {
            results.op(Op::PUTFH)?;
            results.set()
        })
        .await
    }
}

/// The attributes of a file that was added to. Its time may be refused, of a file that belongs to somebody else: then it
/// has the server's.
fn rest(mut results: Results, is_timed: bool, is_locked: bool) -> Result<(Attributes, bool)> {
    let mut attributes = results.attributes()?;
    if is_timed {
        match results.set() {
            Ok(()) => attributes = results.attributes()?,
            Err(Error::Status { .. }) => return Ok((attributes, false)),
            Err(why) => return Err(why),
        }
    }
    let unlocked = if is_locked { results.stateid(Op::LOCKU).map(drop) } else { Ok(()) };
    Ok((attributes, unlocked.and_then(|()| results.stateid(Op::CLOSE)).is_ok()))
}
