//! Directories, page by page.

use bytes::Bytes;

use crate::{
    attributes::{self, Attributes, Wanted},
    client::{Again, Client},
    compound::{Compound, Op, Results},
    error::{Error, Result},
    path::Path,
    xdr::Decoder,
};

/// A name is no longer on any file system; a server that says otherwise is not believed.
const LONGEST_NAME: usize = 1024;

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
pub struct Place {
    pub(crate) cookie: u64,
    pub(crate) verifier: [u8; 8],
}

impl Place {
    /// For whoever can remember no more than a number: see [`Place::of`].
    pub fn number(&self) -> u64 {
        self.cookie
    }

    pub fn from_number(cookie: u64) -> Self {
        Self { cookie, verifier: [0; 8] }
    }

    /// A number that was remembered without what the server needs besides, which another page of the same directory
    /// has.
    #[must_use]
    pub fn of(self, page: &Page) -> Self {
        Self { verifier: page.at.verifier, ..self }
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
    pub at: Place,
    /// There are no more.
    pub end: bool,
}

impl Client {
    /// The entries of a directory from this place on, as many as fit into so many bytes of an answer, with what is
    /// wanted of each: the less, the faster, and [`Wanted::NOTHING`] fastest.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `BAD_COOKIE`, `NOT_SAME`: the directory is not any more what it was when the place
    /// was given; `TOOSMALL`.
    pub async fn list(&self, path: &[u8], place: Place, wanted: Wanted, most: u32) -> Result<Page> {
        let start = self.start(&Path::new(path)?).await?;
        let most = self.page(most).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.list(place.cookie, place.verifier, most, wanted);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            page(&mut results)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// How large an answer may be asked for.
    pub(crate) async fn page(&self, most: u32) -> Result<u32> {
        const LEAST: u32 = 4 << 10;
        Ok(most.clamp(LEAST, self.agreed().await?.largest_read.max(LEAST)))
    }
}

/// What a READDIR gives.
pub(crate) fn page(results: &mut Results) -> Result<Page> {
    let answer = results.op(Op::READDIR)?;
    let mut page = Page::default();
    page.at.verifier = answer.fixed()?;
    while answer.boolean()? {
        let cookie = answer.long()?;
        let name = name(answer)?;
        let attributes = attributes::decode(answer)?;
        page.at.cookie = cookie;
        if !matches!(&name[..], b"." | b"..") {
            page.entries.push(Entry { name, cookie, attributes });
        }
    }
    page.end = answer.boolean()?;
    match page.end || page.at.cookie != 0 {
        true => Ok(page),
        false => Err(Error::Protocol("a page has nothing and is not the last")),
    }
}

/// The name of an entry.
pub(crate) fn name(answer: &mut Decoder) -> Result<Bytes> {
    let name = answer.opaque(LONGEST_NAME)?;
    match &name[..] {
        b"" => Err(Error::Protocol("an entry has no name")),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => {
            Err(Error::Protocol("an entry's name has a slash or a NUL"))
        }
        _ => Ok(name),
    }
}
