//! Uploads: files whose content arrives in pieces, and that appear under their name when all of it is written.

use bytes::{Bytes, BytesMut};

use crate::{
    attributes::{Attributes, SetAttributes, Time},
    budget::Budget,
    client::Client,
    compound::{Create, ShareAccess},
    error::{Error, Result},
    install::PRIVATE_MODE,
    open::File,
    path::Path,
    prefix::PathPrefix,
    put_options::{Precondition, PutOptions},
};

/// Number of bytes between two COMMITs. It bounds what the last COMMIT has to write.
const COMMIT_INTERVAL_BYTES: u64 = 16 << 20;

/// A file that is being uploaded. Dropping it aborts the upload and removes what was written.
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
    /// Begins to upload a file.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn begin_upload(&self, path: &[u8], put: PutOptions) -> Result<Upload> {
        let path = path.to_vec();
        let work = |client: Self, budget| async move { client.begin_upload_inner(&path, put, &budget).await };
        let mut upload = self.run_detached(false, work).await?;
        // The upload's calls have the timeout of this client, and not the rest of this operation's.
        upload.client = self.clone();
        Ok(upload)
    }

    pub(crate) async fn begin_upload_inner(&self, path: &[u8], put: PutOptions, budget: &Budget) -> Result<Upload> {
        let (directory, name) = Path::new(path)?.split()?;
        put.check()?;
        let mut temp_path: Vec<u8> = directory.components().collect::<Vec<_>>().join(&b'/');
        temp_path.push(b'/');
        temp_path.extend_from_slice(&put.temp_name);
        // Not GUARDED4: an OPEN that is repeated because its outcome is unknown would find its own file.
        let create = Create::Unchecked(PRIVATE_MODE);
        let (file, directory) = self.open_with(&Path::new(&temp_path)?, ShareAccess::ReadWrite, create, budget).await?;
        let (client, name) = (self.clone(), name.to_vec());
        Ok(Upload { client, file: Some(file), directory, name, put, at: 0, committed: 0, is_installed: false })
    }
}

impl Upload {
    /// Appends a piece.
    ///
    /// # Errors
    /// `NOSPC`, `DQUOT`, `FBIG`; [`Error::SessionLost`]: start the upload again.
    pub async fn write(&mut self, content: Bytes) -> Result<()> {
        let length = content.len() as u64;
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        // Nothing else uses the file, so a late WRITE does no harm.
        let budget = self.client.budget(false);
        file.write_all(self.at, content, &budget).await?;
        self.at += length;
        if self.at - self.committed >= COMMIT_INTERVAL_BYTES {
            file.commit_within(&budget).await?;
            self.committed = self.at;
        }
        Ok(())
    }

    /// Reads back all that was written so far.
    ///
    /// # Errors
    /// [`Error::SessionLost`]; [`Error::Protocol`]: the server has less than was written.
    pub async fn read_back(&self) -> Result<Bytes> {
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        let mut content = BytesMut::new();
        while (content.len() as u64) < self.at {
            let (from, left) = (content.len() as u64, self.at - content.len() as u64);
            let (piece, _) = file.read(from, u32::try_from(left).unwrap_or(u32::MAX)).await?;
            if piece.is_empty() {
                return Err(Error::Protocol("a file is shorter than what was written to it"));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// Commits the data to stable storage and, if the precondition holds, moves the file to its name.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit(self) -> Result<Attributes> {
        let (client, at) = (self.client.clone(), self.at);
        client.run_detached(true, |_, budget| async move { self.commit_inner(at, &budget).await }).await
    }

    /// As [`Upload::commit`] with another precondition and modification time, and with the timeout of `client`, which must
    /// be a client of the same server.
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

    /// Removes what was written. Dropping the upload does the same in the background.
    pub async fn abort(mut self) {
        self.is_installed = true;
        if let Some(file) = self.file.take() {
            let _ = file.close().await;
        }
        let prefix = PathPrefix::at_handle(self.directory.clone());
        self.client.remove_in_background(&prefix, &self.put.temp_name, &Budget::cleanup()).await;
    }

    pub(crate) async fn commit_inner(mut self, size: u64, budget: &Budget) -> Result<Attributes> {
        let file = self.file.take().ok_or(Error::Closed)?;
        let set = SetAttributes { time_modify: self.put.time_modify, ..SetAttributes::default() };
        let mut made = file.finish(size, &set, budget).await?;
        let prefix = PathPrefix::at_handle(self.directory.clone());
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
            client.remove_in_background(&PathPrefix::at_handle(directory), &temp_name, &Budget::cleanup()).await;
        });
    }
}
