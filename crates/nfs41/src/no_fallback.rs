//! One variant of an operation alone, without what is done where a server refuses it: to find out what a server takes.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes},
    client::Client,
    error::{Error, Result},
    install::Install,
    path::Path,
    put::{PutOptions, TempWrite},
    read::ReadResult,
    readdir::{DirCursor, Page},
};

impl Client {
    /// [`Client::put`] without a condition, in one compound, by the current stateid.
    ///
    /// # Errors
    /// As [`Client::put`], and what the server says of the stateid; nothing stays behind.
    #[doc(hidden)]
    pub async fn put_without_fallback(&self, path: &[u8], content: Bytes, put: PutOptions) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            if content.len() > client.channel_attrs().await?.max_write_bytes as usize {
                return Err(Error::BadInput("that is more than one call carries"));
            }
            let prefix = client.path_prefix(&directory).await?;
            match client.write_temp(&prefix, &content, &put, name, Install::Rename, None, &budget).await? {
                TempWrite::Complete(attributes) => Ok(attributes),
                TempWrite::Short | TempWrite::WrongOwner => Err(Error::Protocol("the server has written a part of it")),
            }
        })
        .await
    }

    /// [`Client::read`] by no stateid at all.
    ///
    /// # Errors
    /// As [`Client::read`], and what the server says of the stateid.
    #[doc(hidden)]
    pub async fn read_without_fallback(&self, path: &[u8], offset: u64, length: u32) -> Result<ReadResult> {
        self.read_anonymously(&Path::new(path)?, offset, length, AttributeMask::STAT).await
    }
}

impl Page {
    /// The server gives a number with each page that it wants back with the next.
    #[doc(hidden)]
    pub fn has_cookie_verifier(&self) -> bool {
        self.cursor != DirCursor::from_cookie(self.cursor.cookie())
    }
}
