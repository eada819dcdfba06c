//! A content that comes in pieces, and has its place when all of them are there.

use bytes::{Bytes, BytesMut};

use crate::{
    attributes::{Attributes, Set, Time},
    budget::Budget,
    client::{Client, Start},
    compound::{Create, Share},
    error::{Error, Result},
    open::File,
    path::Path,
    put::{Conditions, PRIVATE_MODE, Put},
};

/// So much is written between two COMMITs, so that the last one does not have all of a large content before it.
const COMMITTED_BYTES: u64 = 16 << 20;

/// A content that comes in pieces. Given up when it is dropped; what it has written is removed then.
#[derive(Debug)]
pub struct Staged {
    client: Client,
    pub(crate) file: Option<File>,
    directory: Bytes,
    name: Vec<u8>,
    put: Put,
    at: u64,
    committed: u64,
    is_moved: bool,
}

impl Client {
    /// Begins a content that comes in pieces.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn stage(&self, path: &[u8], put: Put) -> Result<Staged> {
        let path = path.to_vec();
        let work = |client: Self, budget| async move { client.stage_to_the_end(&path, put, &budget).await };
        let mut staged = self.to_the_end(false, work).await?;
        // What is asked of it has the time that this client gives, and not what was left when it was begun.
        staged.client = self.clone();
        Ok(staged)
    }

    pub(crate) async fn stage_to_the_end(&self, path: &[u8], put: Put, budget: &Budget) -> Result<Staged> {
        let (directory, name) = Path::new(path)?.split()?;
        put.check()?;
        let mut beside: Vec<u8> = directory.components().collect::<Vec<_>>().join(&b'/');
        beside.push(b'/');
        beside.extend_from_slice(&put.temporary);
        // Not "new": repeated where nobody knows whether it was done, it would find its own.
        let create = Create::IfMissing(PRIVATE_MODE);
        let (file, directory) = self.open_with(&Path::new(&beside)?, Share::Both, create, budget).await?;
        let (client, name) = (self.clone(), name.to_vec());
        Ok(Staged { client, file: Some(file), directory, name, put, at: 0, committed: 0, is_moved: false })
    }
}

impl Staged {
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
            file.commit_in(&budget).await?;
            self.committed = self.at;
        }
        Ok(())
    }

    /// All that was written so far.
    ///
    /// # Errors
    /// [`Error::SessionLost`]; [`Error::Protocol`]: the server has less of it.
    pub async fn content(&self) -> Result<Bytes> {
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
        client.to_the_end(true, |_, budget| async move { self.commit_to_the_end(at, &budget).await }).await
    }

    /// As [`Staged::commit`], under conditions that were not known before, by this client of the same server.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn commit_if(
        mut self,
        client: &Client,
        conditions: Conditions,
        modified: Option<Time>,
    ) -> Result<Attributes> {
        (self.put.conditions, self.put.modified, self.client) = (conditions, modified, client.clone());
        self.commit().await
    }

    /// Removes what was written. To drop it does the same, later.
    pub async fn give_up(mut self) {
        self.is_moved = true;
        if let Some(file) = self.file.take() {
            let _ = file.close().await;
        }
        let start = Start::at(self.directory.clone());
        self.client.tidy(&start, &self.put.temporary, &Budget::cleanup()).await;
    }

    pub(crate) async fn commit_to_the_end(mut self, size: u64, budget: &Budget) -> Result<Attributes> {
        let file = self.file.take().ok_or(Error::Closed)?;
        let set = Set { modified: self.put.modified, ..Set::default() };
        let mut made = file.finish(size, &set, budget).await?;
        let start = Start::at(self.directory.clone());
        self.is_moved = true;
        self.client.settle(&start, &self.name, &self.put, &mut made, budget).await?;
        Ok(made)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_moved {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, file, directory) = (self.client.clone(), self.file.take(), self.directory.clone());
        let (temporary, cleaning) = (std::mem::take(&mut self.put.temporary), client.cleaning());
        runtime.spawn(async move {
            let _cleaning = cleaning;
            if let Some(file) = file {
                let _ = file.close().await;
            }
            client.tidy(&Start::at(directory), &temporary, &Budget::cleanup()).await;
        });
    }
}
