//! Directories for walking a tree: addressed by file handles, with only the type of each entry, and decoded lazily.

use crate::{
    attributes::{self, AttributeMask, Attributes, FileType},
    client::Client,
    compound::{Compound, CompoundReply},
    error::{Error, Result},
    op::Op,
    path::{self, Path},
    prefix::PathPrefix,
    read::FileHandle,
    readdir::{DirCursor, decode_name},
    xdr::Decoder,
};

/// Requested attributes of each entry. With `rdattr_error` the server reports an entry whose type it cannot read; without it
/// the whole READDIR fails.
const DIRENT_ATTRS: AttributeMask = AttributeMask::TYPE.union(AttributeMask::RDATTR_ERROR);

/// A page of directory entries, not yet decoded. It holds the memory of the whole reply.
#[derive(Debug)]
pub struct Dirents {
    entries: Decoder,
    /// The position before the first entry.
    cursor: DirCursor,
}

/// An entry of a directory. `.` and `..` are left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dirent<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The position after it: [`DirCursor::cookie`].
    pub cookie: u64,
    /// Its type; `None` if the server cannot read it.
    pub file_type: Option<FileType>,
}

impl Dirents {
    /// A cursor of the same directory with the current verifier: for a cursor of before the directory changed, or one made of
    /// a cookie.
    #[must_use]
    pub fn refresh(&self, cursor: DirCursor) -> DirCursor {
        DirCursor { verifier: self.cursor.verifier, ..cursor }
    }

    /// Calls `take` with each entry until it returns false. Returns the position after the last entry taken, and whether the
    /// directory ends there.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the reply is invalid.
    pub fn for_each_while(mut self, mut take: impl FnMut(Dirent<'_>) -> bool) -> Result<(DirCursor, bool)> {
        let entries = &mut self.entries;
        let from = self.cursor.cookie;
        while entries.boolean()? {
            let cookie = entries.long()?;
            let name = decode_name(entries)?;
            let file_type = attributes::decode(entries)?.file_type;
            let taken = matches!(&name[..], b"." | b"..") || take(Dirent { name: &name, cookie, file_type });
            if !taken {
                return Ok((self.cursor, false));
            }
            self.cursor.cookie = cookie;
        }
        match entries.boolean()? {
            false if self.cursor.cookie == from => {
                Err(Error::Protocol("READDIR returned no new entry before the end of the directory"))
            }
            ended => Ok((self.cursor, ended)),
        }
    }
}

impl Client {
    /// The handle and attributes of a file, directory or symbolic link; an empty path is the root.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn lookup(&self, path: &[u8], wanted: AttributeMask) -> Result<(FileHandle, Attributes)> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        self.lookup_prefix(&prefix, wanted).await
    }

    /// The handle and attributes of a name in a directory; of the directory itself without a name.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `STALE`: the directory no longer exists.
    pub async fn lookup_at(
        &self,
        directory: &FileHandle,
        name: Option<&[u8]>,
        wanted: AttributeMask,
    ) -> Result<(FileHandle, Attributes)> {
        self.lookup_prefix(&below(directory, name)?, wanted).await
    }

    async fn lookup_prefix(&self, prefix: &PathPrefix<'_>, wanted: AttributeMask) -> Result<(FileHandle, Attributes)> {
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::GETFH).getattr(wanted);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            Ok((FileHandle(results.handle()?), results.attributes()?))
        };
        self.call(&compound, decode).await
    }

    /// Looks a directory up and reads its first entries, in one round trip.
    ///
    /// # Errors
    /// As [`Client::lookup_at`]; `NOTDIR`, `SYMLINK`: it is not a directory.
    pub async fn lookup_and_getdents(
        &self,
        parent: &FileHandle,
        name: &[u8],
        wanted: AttributeMask,
        max_bytes: u32,
    ) -> Result<(FileHandle, Attributes, Dirents)> {
        let prefix = below(parent, Some(name))?;
        let (max_bytes, cursor) = (self.page_bytes(max_bytes).await?, DirCursor::default());
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::GETFH).getattr(wanted).readdir(cursor.cookie, cursor.verifier, max_bytes, DIRENT_ATTRS);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            Ok((FileHandle(results.handle()?), results.attributes()?, dirents(results, cursor)?))
        };
        self.call(&compound, decode).await
    }

    /// Lists a directory from a cursor on: as many entries as fit into a reply of `max_bytes`.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn getdents(&self, directory: &FileHandle, cursor: DirCursor, max_bytes: u32) -> Result<Dirents> {
        let max_bytes = self.page_bytes(max_bytes).await?;
        let mut compound = Compound::new();
        compound.putfh(&directory.0).readdir(cursor.cookie, cursor.verifier, max_bytes, DIRENT_ATTRS);
        let decode = |mut results: CompoundReply| {
            results.expect(Op::PUTFH)?;
            dirents(results, cursor)
        };
        self.call(&compound, decode).await
    }
}

fn below<'a>(directory: &FileHandle, name: Option<&'a [u8]>) -> Result<PathPrefix<'a>> {
    name.map_or(Ok(()), path::check)?;
    Ok(PathPrefix::new(Some(directory.0.clone()), name.into_iter().collect()))
}

fn dirents(mut results: CompoundReply, from: DirCursor) -> Result<Dirents> {
    let verifier = results.expect(Op::READDIR)?.fixed()?;
    Ok(Dirents { entries: results.0, cursor: DirCursor { verifier, ..from } })
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::xdr::Encode;

    fn page(entries: &[(u64, &[u8], Option<u32>)], end: bool) -> Dirents {
        let mut bytes = BytesMut::new();
        for (cookie, name, kind) in entries {
            bytes.word(1).long(*cookie).opaque(name);
            match kind {
                Some(kind) => bytes.bitmap(DIRENT_ATTRS.0).opaque(&[kind.to_be_bytes(), 0_u32.to_be_bytes()].concat()),
                None => bytes.bitmap(AttributeMask::RDATTR_ERROR.0).opaque(&5_u32.to_be_bytes()),
            };
        }
        bytes.word(0).word(end.into());
        Dirents { entries: Decoder(bytes.freeze()), cursor: DirCursor { cookie: 3, verifier: [9; 8] } }
    }

    #[test]
    fn entries_are_shown_until_one_is_not_taken() {
        let entries: [(u64, &[u8], _); 4] =
            [(4, b".", Some(2)), (5, b"a", Some(1)), (6, b"b", None), (7, b"c", Some(6))];
        let shown = |max_bytes: usize| {
            let mut shown = Vec::new();
            let outcome = page(&entries, true).for_each_while(|seen| {
                shown.push((seen.name[0], seen.cookie, seen.file_type));
                shown.len() <= max_bytes
            });
            (shown.len(), shown.get(1).map(|entry| entry.2), outcome.unwrap())
        };
        let cursor = |cookie| DirCursor { cookie, verifier: [9; 8] };
        assert_eq!(shown(9), (3, Some(None), (cursor(7), true)));
        assert_eq!(shown(1), (2, Some(None), (cursor(5), false)), "the second has to be asked for again");
        assert_eq!(shown(0), (1, None, (cursor(4), false)));
    }

    #[test]
    fn a_page_that_leads_nowhere_is_refused() {
        for (entries, end) in
            [(&[][..], false), (&[(3, &b"a"[..], Some(1))][..], false), (&[(4, &b"a/b"[..], None)][..], true)]
        {
            assert!(matches!(page(entries, end).for_each_while(|_| true), Err(Error::Protocol(_))), "{entries:?}");
        }
        assert!(page(&[], true).for_each_while(|_| true).unwrap().1);
    }

    proptest! {
        #[test]
        fn anything_ends(bytes in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..300)) {
            let entries = Decoder(Bytes::from(bytes));
            let mut shown = 0;
            let _ = Dirents { entries, cursor: DirCursor::default() }.for_each_while(|_| { shown += 1; true });
            prop_assert!(shown <= 300 / 16);
        }
    }
}
