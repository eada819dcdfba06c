//! Directories, page by page.

use bytes::Bytes;

use crate::{
    attributes::{self, AttributeMask, Attributes},
    client::{Client, Idempotent},
    compound::{Compound, CompoundReply, Op},
    error::{Error, Result},
    path::Path,
    xdr::Decoder,
};

/// A name is no longer on any file system; a server that says otherwise is not believed.
const MAX_NAME_BYTES: usize = 1024;

/// One entry of a directory, without `.` and `..`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub name: Bytes,
    /// For [`Place::after`].
    pub cookie: u64,
    pub attributes: Attributes,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DirCursor {
    pub(crate) cookie: u64,
    pub(crate) verifier: [u8; 8],
}

impl DirCursor {
    /// For whoever can remember no more than a number: see [`Place::of`].
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    pub fn from_cookie(cookie: u64) -> Self {
        Self { cookie, verifier: [0; 8] }
    }

    /// A number that was remembered without what the server needs besides, which another page of the same directory
    /// has.
    #[must_use]
    pub fn with_verifier_of(self, page: &Page) -> Self {
        Self { verifier: page.cursor.verifier, ..self }
    }

    /// After this entry of the page that ends here.
    #[must_use]
    pub fn after(&self, entry: &Entry) -> Self {
        Self { cookie: entry.cookie, verifier: self.verifier }
    }
}

/// Some entries of a directory, in the server's order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where the last entry ends.
    pub cursor: DirCursor,
    /// There are no more.
    pub eof: bool,
}

impl Client {
    /// The entries of a directory from this place on, as many as fit into so many bytes of an answer, with what is
    /// wanted of each: the less, the faster, and [`AttributeMask::NONE`] fastest.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `BAD_COOKIE`, `NOT_SAME`: the directory is not any more what it was when the place
    /// was given; `TOOSMALL`.
    pub async fn list(&self, path: &[u8], cursor: DirCursor, wanted: AttributeMask, max_bytes: u32) -> Result<Page> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let max_bytes = self.page_bytes(max_bytes).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.readdir(cursor.cookie, cursor.verifier, max_bytes, wanted);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            page(&mut results)
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

    /// How large an answer may be asked for.
    pub(crate) async fn page_bytes(&self, max_bytes: u32) -> Result<u32> {
        const MIN_PAGE_BYTES: u32 = 4 << 10;
        Ok(max_bytes.clamp(MIN_PAGE_BYTES, self.channel_attrs().await?.max_read_bytes.max(MIN_PAGE_BYTES)))
    }
}

/// What a READDIR gives.
pub(crate) fn page(results: &mut CompoundReply) -> Result<Page> {
    let reply = results.expect(Op::READDIR)?;
    let mut page = Page::default();
    page.cursor.verifier = reply.fixed()?;
    while reply.boolean()? {
        let cookie = reply.long()?;
        let name = name(reply)?;
        let attributes = attributes::decode(reply)?;
        page.cursor.cookie = cookie;
        if !matches!(&name[..], b"." | b"..") {
            page.entries.push(Entry { name, cookie, attributes });
        }
    }
    page.eof = reply.boolean()?;
    match page.eof || page.cursor.cookie != 0 {
        true => Ok(page),
        false => Err(Error::Protocol("a page has nothing and is not the last")),
    }
}

/// The name of an entry.
pub(crate) fn name(reply: &mut Decoder) -> Result<Bytes> {
    let name = reply.opaque(MAX_NAME_BYTES)?;
    match &name[..] {
        b"" => Err(Error::Protocol("an entry has no name")),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => {
            Err(Error::Protocol("an entry's name has a slash or a NUL"))
        }
        _ => Ok(name),
    }
}
