//! Listing a directory page by page: READDIR, RFC 8881, section 18.23.

use bytes::Bytes;

use crate::{
    attributes::{self, AttributeMask, Attributes},
    client::Client,
    compound::{Compound, CompoundReply},
    error::{Error, Result},
    op::Op,
    path::Path,
    xdr::Decoder,
};

/// Upper bound of a name's length on any file system. A longer one is an invalid reply.
const MAX_NAME_BYTES: usize = 1024;

/// An entry of a directory. `.` and `..` are left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Bytes,
    /// The position after it, for [`DirCursor::after`].
    pub cookie: u64,
    /// The attributes that were requested.
    pub attributes: Attributes,
}

/// A position in a directory: a cookie, and the verifier that some servers want back with it. The default is the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DirCursor {
    pub(crate) cookie: u64,
    pub(crate) verifier: [u8; 8],
}

impl DirCursor {
    /// The cookie alone. [`DirCursor::from_cookie`] and [`DirCursor::with_verifier_of`] make a cursor of it again.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// A cursor with a zero verifier, which many servers accept.
    pub fn from_cookie(cookie: u64) -> Self {
        Self { cookie, verifier: [0; 8] }
    }

    /// The same position with the verifier of a page of the same directory.
    #[must_use]
    pub fn with_verifier_of(self, page: &Page) -> Self {
        Self { verifier: page.cursor.verifier, ..self }
    }

    /// The position after an entry of the page that ends at this cursor.
    #[must_use]
    pub fn after(&self, entry: &Entry) -> Self {
        Self { cookie: entry.cookie, verifier: self.verifier }
    }
}

/// A page of directory entries, in the server's order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The position after the page.
    pub cursor: DirCursor,
    /// The directory ends with this page.
    pub eof: bool,
}

impl Client {
    /// Lists a directory from a cursor on: as many entries as fit into a reply of `max_bytes`, with the requested attributes.
    /// Fewer attributes are faster, and [`AttributeMask::NONE`] is fastest.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `BAD_COOKIE`, `NOT_SAME`: the cursor is no longer valid, because the directory has changed;
    /// `TOOSMALL`.
    pub async fn list(&self, path: &[u8], cursor: DirCursor, wanted: AttributeMask, max_bytes: u32) -> Result<Page> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let max_bytes = self.page_bytes(max_bytes).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.readdir(cursor.cookie, cursor.verifier, max_bytes, wanted);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            decode_page(&mut results)
        };
        self.call(&compound, decode).await
    }

    /// Clamps the size of a page to what the session allows.
    pub(crate) async fn page_bytes(&self, max_bytes: u32) -> Result<u32> {
        const MIN_PAGE_BYTES: u32 = 4 << 10;
        Ok(max_bytes.clamp(MIN_PAGE_BYTES, self.channel_attrs().await?.max_read_bytes.max(MIN_PAGE_BYTES)))
    }
}

/// Reads the result of READDIR.
pub(crate) fn decode_page(results: &mut CompoundReply) -> Result<Page> {
    let reply = results.expect(Op::READDIR)?;
    let mut page = Page::default();
    page.cursor.verifier = reply.fixed()?;
    while reply.boolean()? {
        let cookie = reply.long()?;
        let name = decode_name(reply)?;
        let attributes = attributes::decode(reply)?;
        page.cursor.cookie = cookie;
        if !matches!(&name[..], b"." | b"..") {
            page.entries.push(Entry { name, cookie, attributes });
        }
    }
    page.eof = reply.boolean()?;
    match page.eof || page.cursor.cookie != 0 {
        true => Ok(page),
        false => Err(Error::Protocol("READDIR returned no entry before the end of the directory")),
    }
}

/// Reads the name of an entry.
pub(crate) fn decode_name(reply: &mut Decoder) -> Result<Bytes> {
    let name = reply.opaque(MAX_NAME_BYTES)?;
    match &name[..] {
        b"" => Err(Error::Protocol("an entry has no name")),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => {
            Err(Error::Protocol("an entry's name contains a slash or a NUL"))
        }
        _ => Ok(name),
    }
}
