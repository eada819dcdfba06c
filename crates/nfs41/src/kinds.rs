//! Directories for whoever walks through a whole tree: by their handles, and of each entry what it is and nothing else.

use crate::{
    attributes::{self, Attributes, Kind, Wanted},
    client::{Again, Client, Start},
    compound::{Compound, Op, Results},
    error::{Error, Result},
    list::{Place, name},
    path::{self, Path},
    read::Handle,
    xdr::Decoder,
};

/// What is asked for of each entry. The error makes the server tell of one that it knows nothing of, instead of
/// refusing the whole directory.
const OF_EACH: Wanted = Wanted::KIND.and(Wanted::ERROR);

/// Entries of a directory, as they came. Takes the memory of the answer, until it is dropped.
#[derive(Debug)]
pub struct Kinds {
    entries: Decoder,
    /// Before the first of them.
    place: Place,
}

/// One of them, without `.` and `..`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen<'a> {
    pub name: &'a [u8],
    /// [`Place::number`] of the place after it.
    pub cookie: u64,
    /// `None`: the server does not know.
    pub kind: Option<Kind>,
}

impl Kinds {
    /// A place in the same directory that was given before it changed, or to somebody who has kept only its number.
    #[must_use]
    pub fn renewed(&self, place: Place) -> Place {
        Place { verifier: self.place.verifier, ..place }
    }

    /// Shows the entries, until one is not taken. The place after the last that was, and whether the directory ends
    /// there.
    ///
    /// # Errors
    /// [`Error::Protocol`].
    pub fn each(mut self, mut take: impl FnMut(Seen<'_>) -> bool) -> Result<(Place, bool)> {
        let entries = &mut self.entries;
        let from = self.place.cookie;
        while entries.boolean()? {
            let cookie = entries.long()?;
            let name = name(entries)?;
            let kind = attributes::decode(entries)?.kind;
            let taken = matches!(&name[..], b"." | b"..") || take(Seen { name: &name, cookie, kind });
            if !taken {
                return Ok((self.place, false));
            }
            self.place.cookie = cookie;
        }
        match entries.boolean()? {
            false if self.place.cookie == from => {
                Err(Error::Protocol("a page ends where it began, and is not the last"))
            }
            ended => Ok((self.place, ended)),
        }
    }
}

impl Client {
    /// What the path names, if it is a link the link; an empty path is the root.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn find(&self, path: &[u8], wanted: Wanted) -> Result<(Handle, Attributes)> {
        let start = self.start(&Path::new(path)?).await?;
        self.found(&start, wanted).await
    }

    /// What has this name in a directory; the directory itself without one.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `STALE`: the directory is gone.
    pub async fn find_in(
        &self,
        directory: &Handle,
        name: Option<&[u8]>,
        wanted: Wanted,
    ) -> Result<(Handle, Attributes)> {
        self.found(&below(directory, name)?, wanted).await
    }

    async fn found(&self, start: &Start<'_>, wanted: Wanted) -> Result<(Handle, Attributes)> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::GETFH).attributes(wanted);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            Ok((Handle(results.handle()?), results.attributes()?))
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// Goes to a directory and reads its first entries, in one round trip.
    ///
    /// # Errors
    /// As [`Client::find_in`]; `NOTDIR`, `SYMLINK`: it is none.
    pub async fn enter(
        &self,
        parent: &Handle,
        name: &[u8],
        wanted: Wanted,
        most: u32,
    ) -> Result<(Handle, Attributes, Kinds)> {
        let start = below(parent, Some(name))?;
        let (most, place) = (self.page(most).await?, Place::default());
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::GETFH).attributes(wanted).list(place.cookie, place.verifier, most, OF_EACH);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            Ok((Handle(results.handle()?), results.attributes()?, kinds(results, place)?))
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// The entries from this place on, as many as fit into so many bytes of an answer.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn kinds(&self, directory: &Handle, place: Place, most: u32) -> Result<Kinds> {
        let most = self.page(most).await?;
        let mut compound = Compound::new();
        compound.at(&directory.0).list(place.cookie, place.verifier, most, OF_EACH);
        let read = |mut results: Results| {
            results.op(Op::PUTFH)?;
            kinds(results, place)
        };
        self.ask(Again::Yes, &compound, read).await
    }
}

fn below<'a>(directory: &Handle, name: Option<&'a [u8]>) -> Result<Start<'a>> {
    name.map_or(Ok(()), path::check)?;
    Ok(Start::new(Some(directory.0.clone()), name.into_iter().collect()))
}

fn kinds(mut results: Results, from: Place) -> Result<Kinds> {
    let verifier = results.op(Op::READDIR)?.fixed()?;
    Ok(Kinds { entries: results.0, place: Place { verifier, ..from } })
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::xdr::Encode;

    fn page(entries: &[(u64, &[u8], Option<u32>)], end: bool) -> Kinds {
        let mut bytes = BytesMut::new();
        for (cookie, name, kind) in entries {
            bytes.word(1).long(*cookie).opaque(name);
            match kind {
                Some(kind) => bytes.bitmap(OF_EACH.0).opaque(&[kind.to_be_bytes(), 0_u32.to_be_bytes()].concat()),
                None => bytes.bitmap(Wanted::ERROR.0).opaque(&5_u32.to_be_bytes()),
            };
        }
        bytes.word(0).word(end.into());
        Kinds { entries: Decoder(bytes.freeze()), place: Place { cookie: 3, verifier: [9; 8] } }
    }

    #[test]
    fn entries_are_shown_until_one_is_not_taken() {
        let entries: [(u64, &[u8], _); 4] =
            [(4, b".", Some(2)), (5, b"a", Some(1)), (6, b"b", None), (7, b"c", Some(6))];
        let shown = |most: usize| {
            let mut shown = Vec::new();
            let outcome = page(&entries, true).each(|seen| {
                shown.push((seen.name[0], seen.cookie, seen.kind));
                shown.len() <= most
            });
            (shown.len(), shown.get(1).map(|entry| entry.2), outcome.unwrap())
        };
        let place = |cookie| Place { cookie, verifier: [9; 8] };
        assert_eq!(shown(9), (3, Some(None), (place(7), true)));
        assert_eq!(shown(1), (2, Some(None), (place(5), false)), "the second has to be asked for again");
        assert_eq!(shown(0), (1, None, (place(4), false)));
    }

    #[test]
    fn a_page_that_leads_nowhere_is_refused() {
        for (entries, end) in
            [(&[][..], false), (&[(3, &b"a"[..], Some(1))][..], false), (&[(4, &b"a/b"[..], None)][..], true)]
        {
            assert!(matches!(page(entries, end).each(|_| true), Err(Error::Protocol(_))), "{entries:?}");
        }
        assert!(page(&[], true).each(|_| true).unwrap().1);
    }

    proptest! {
        #[test]
        fn anything_ends(bytes in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..300)) {
            let entries = Decoder(Bytes::from(bytes));
            let mut shown = 0;
            let _ = Kinds { entries, place: Place::default() }.each(|_| { shown += 1; true });
            prop_assert!(shown <= 300 / 16);
        }
    }
}
