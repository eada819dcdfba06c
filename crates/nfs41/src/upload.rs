//! A content that comes in pieces, and has its place when all of them are there.

use bytes::{Bytes, BytesMut};

use crate::{
    attributes::{Attributes, SetAttributes, Time},
    budget::Budget,
    client::{Client, PathPrefix},
    compound::{Create, ShareAccess},
    error::{Error, Result},
    open::File,
    path::Path,
    put::{PRIVATE_MODE, Precondition, PutOptions},
};

/// So much is written between two COMMITs, so that the last one does not have all of a large content before it.
const COMMITTED_BYTES: u64 = 16 << 20;

/// A content that comes in pieces. Given up when it is dropped; what it has written is removed then.
#[derive(Debug)]
pub struct Upload {
    client: Client,
    pub(crate) file: Option<File>,
    directory: Bytes,
    name: Vec<u8>,
    put: PutOptions,
    at: u64,
    committed: u64,
    is_installed: bool,
}

impl Client {
    /// Begins a content that comes in pieces.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn begin_upload(&self, path: &[u8], put: PutOptions) -> Result<Upload> {
        let path = path.to_vec();
        let work = |client: Self, budget| async move { client.begin_upload_inner(&path, put, &budget).await };
        let mut staged = self.run_detached(false, work).await?;
        // What is asked of it has the time that this client gives, and not what was left when it was begun.
        staged.client = self.clone();
        Ok(staged)
    }

    pub(crate) async fn begin_upload_inner(&self, path: &[u8], put: PutOptions, budget: &Budget) -> Result<Upload> {
        let (directory, name) = Path::new(path)?.split()?;
        put.check()?;
        let mut beside: Vec<u8> = directory.components().collect::<Vec<_>>().join(&b'/');
        beside.push(b'/');
        beside.extend_from_slice(&put.temp_name);
        // Not "new": repeated where nobody knows whether it was done, it would find its own.
        let create = Create::Unchecked(PRIVATE_MODE);
        let (file, directory) = self.open_with(&Path::new(&beside)?, ShareAccess::ReadWrite, create, budget).await?;
        let (client, name) = (self.clone(), name.to_vec());
        Ok(Upload { client, file: Some(file), directory, name, put, at: 0, committed: 0, is_installed: false })
    }
}

impl Upload {
    /// The bytes that follow.
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]: it has to be begun anew.
    pub async fn write(&mut self, content: Bytes) -> Result<()> {
        let length = content.len() as u64;
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        // Nobody else has the file: what comes late does no harm.
        let budget = self.client.budget(false);
        file.write_all(self.at, content, &budget).await?;
        self.at += length;
        if self.at - self.committed >= COMMITTED_BYTES {
            file.commit_within(&budget).await?;
            self.committed = self.at;
        }
        Ok(())
    }

    /// All that was written so far.
    ///
    /// # Errors
    /// [`Error::SessionLost`]; [`Error::Protocol`]: the server has less of it.
    pub async fn read_back(&self) -> Result<Bytes> {
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        let mut content = BytesMut::new();
        while (content.len() as u64) < self.at {
            let (from, left) = (content.len() as u64, self.at - content.len() as u64);
            let (piece, _) = file.read(from, u32::try_from(left).unwrap_or(u32::MAX)).await?;
            if piece.is_empty() {
                return Err(Error::Protocol("the server has less of a content than was written"));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// Makes it durable and, if the conditions hold, puts it into its place at once.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit(self) -> Result<Attributes> {
        let (client, at) = (self.client.clone(), self.at);
        client.run_detached(true, |_, budget| async move { self.commit_inner(at, &budget).await }).await
    }

    /// As [`Upload::commit`], under conditions that were not known before, by this client of the same server.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit_with(
        mut self,
        client: &Client,
        precondition: Precondition,
        time_modify: Option<Time>,
    ) -> Result<Attributes> {
        (self.put.precondition, self.put.time_modify, self.client) = (precondition, time_modify, client.clone());
        self.commit().await
    }

    /// Removes what was written. To drop it does the same, later.
    pub async fn abort(mut self) {
        self.is_installed = true;
        if let Some(file) = self.file.take() {
            let _ = file.close().await;
        }
        let prefix = PathPrefix::at(self.directory.clone());
        self.client.remove_in_background(&prefix, &self.put.temp_name, &Budget::cleanup()).await;
    }

    pub(crate) async fn commit_inner(mut self, size: u64, budget: &Budget) -> Result<Attributes> {
        let file = self.file.take().ok_or(Error::Closed)?;
        let set = SetAttributes { time_modify: self.put.time_modify, ..SetAttributes::default() };
        let mut made = file.finish(size, &set, budget).await?;
        let prefix = PathPrefix::at(self.directory.clone());
        self.is_installed = true;
        self.client.install(&prefix, &self.name, &self.put, &mut made, budget).await?;
        Ok(made)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_installed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, file, directory) = (self.client.clone(), self.file.take(), self.directory.clone());
        let (temp_name, cleanup) = (std::mem::take(&mut self.put.temp_name), client.cleanup_guard());
        runtime.spawn(async move {
            let _cleanup = cleanup;
            if let Some(file) = file {
                let _ = file.close().await;
            }
            client.remove_in_background(&PathPrefix::at(directory), &temp_name, &Budget::cleanup()).await;
        });
    }
}
