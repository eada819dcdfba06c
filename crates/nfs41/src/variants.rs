//! One variant of an operation alone, without what is done where a server refuses it: to find out what a server takes.

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Wanted},
    client::Client,
    error::{Error, Result},
    list::{Page, Place},
    path::Path,
    put::{Made, Put},
    read::Content,
    replace::Step,
};

impl Client {
    /// [`Client::put`] without a condition, in one compound, by the current stateid.
    ///
    /// # Errors
    /// As [`Client::put`], and what the server says of the stateid; nothing stays behind.
    #[doc(hidden)]
    pub async fn put_in_one_call(&self, path: &[u8], content: Bytes, put: Put) -> Result<Attributes> {
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            if content.len() > client.agreed().await?.largest_write as usize {
                return Err(Error::BadInput("that is more than one call carries"));
            }
            let start = client.start(&directory).await?;
            match client.make(&start, &content, &put, name, Step::Replace, None, &budget).await? {
                Made::Whole(attributes) => Ok(attributes),
                Made::Short | Made::Foreign => Err(Error::Protocol("the server has written a part of it")),
            }
        })
        .await
    }

    /// [`Client::read`] by no stateid at all.
    ///
    /// # Errors
    /// As [`Client::read`], and what the server says of the stateid.
    #[doc(hidden)]
    pub async fn read_without_opening(&self, path: &[u8], offset: u64, length: u32) -> Result<Content> {
        self.read_anonymously(&Path::new(path)?, offset, length, Wanted::USUAL).await
    }
}

impl Page {
    /// The server gives a number with each page that it wants back with the next.
    #[doc(hidden)]
    pub fn has_verifier(&self) -> bool {
        self.at != Place::from_number(self.at.number())
    }
}
