//! Writing into an existing file.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes},
    budget::Budget,
    call::RetryPolicy,
    client::Client,
    compound::{CURRENT, Compound, CompoundReply, Create, OpenOwner, ShareAccess, StableHow},
    error::{Error, Result},
    op::Op,
    open::File,
    path::Path,
    read::rejects_stateid,
};

impl Client {
    /// Writes into an existing file, and returns its attributes when the data is on stable storage. One round trip if one
    /// WRITE carries the data. Readers can see a part of the data.
    ///
    /// # Errors
    /// `NOENT`, `ISDIR`, `NOSPC`; [`Error::Uncertain`], [`Error::Pending`].
    pub async fn write_at(&self, path: &[u8], offset: u64, data: Bytes) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            let path = Path::new(&path)?;
            let fits = data.len() <= client.channel_attrs().await?.max_write_bytes as usize;
            if fits && !client.no_current_stateid() {
                match client.write_single_compound(&path, offset, &data, &budget).await {
                    Ok(Some(attributes)) => return Ok(attributes),
                    // The server took a part of the data.
                    Ok(None) => {}
                    Err(Error::Status { op: Op::WRITE | Op::CLOSE, status }) if rejects_stateid(status) => {
                        client.disable_current_stateid();
                    }
                    Err(err) => return Err(err),
                }
            }
            let (file, _) = client.open_with(&path, ShareAccess::ReadWrite, Create::Never, &budget).await?;
            file.write_all(offset, data, &budget).await?;
            file.commit_within(&budget).await?;
            let attributes = file.attributes_within(AttributeMask::STAT, &budget).await?;
            file.close().await?;
            Ok(attributes)
        })
        .await
    }

    /// Opens, writes and closes in one compound. `None` if the server wrote less than all of the data.
    async fn write_single_compound(
        &self,
        path: &Path<'_>,
        offset: u64,
        data: &Bytes,
        budget: &Budget,
    ) -> Result<Option<Attributes>> {
        let (directory, name) = path.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.open(name, ShareAccess::ReadWrite, Create::Never, OpenOwner::Slot).op(Op::GETFH);
        compound.write(&CURRENT, offset, StableHow::FileSync, data).close(&CURRENT).getattr(AttributeMask::STAT);
        let decode = |mut results: CompoundReply, session| {
            prefix.decode(&mut results)?;
            let stateid = results.opened()?;
            // Closed on drop if the server stops before CLOSE.
            let mut file = File::new(self.clone(), session, results.handle()?, stateid);
            let written = results.written()?;
            results.stateid(Op::CLOSE)?;
            file.set_closed(true);
            Ok((file, written, results.attributes()?))
        };
        // Writing the same data at the same offset again is idempotent.
        let (file, written, attributes) =
            self.call_with_retry(&compound, RetryPolicy::Idempotent, budget, decode).await?;
        if written.bytes as usize != data.len() {
            return Ok(None);
        }
        if !written.is_stable {
            file.commit_with_verifier(written.verifier, budget).await?;
        }
        Ok(Some(attributes))
    }
}
