//! What a path names: its attributes, where a link leads, what may be done, and what its file system allows.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Wanted},
    client::{Again, Client},
    compound::{Compound, Op, Results},
    error::{Error, Result},
    path::Path,
};

impl Client {
    /// The attributes of what the path names, if it is a link of the link.
    ///
    /// # Errors
    /// `NOENT`, `NOTDIR`, `ACCESS`; `SYMLINK` or `NOTDIR` where a component before the last is a link.
    pub async fn attributes(&self, path: &[u8], wanted: Wanted) -> Result<Attributes> {
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.attributes(wanted);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.attributes()
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// Which of these permissions the server would give: 1 read, 2 look up, 4 change, 8 add to, 16 delete, 32 execute.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn access(&self, path: &[u8], asked: u32) -> Result<u32> {
        use crate::xdr::Encode;
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.op(Op::ACCESS).word(asked & 0x3F);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            let answer = results.op(Op::ACCESS)?;
            answer.word()?;
            Ok(answer.word()? & asked)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// Where a link leads, as it is written there.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `INVAL`: it is no link.
    pub async fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        const LONGEST: usize = 4096;
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::READLINK);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.op(Op::READLINK)?.opaque(LONGEST)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// The path without links that this one leads to. `..` in a link goes up to the root at most, and a link that
    /// begins with `/` begins there. Like every look before an act it is true when it is made.
    ///
    /// # Errors
    /// As [`Client::attributes`]; [`Error::BadPath`]: the links go on and on.
    pub async fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        const MOST_LINKS: usize = 40;
        let mut left: Vec<Vec<u8>> = Path::new(path)?.components().map(<[u8]>::to_vec).rev().collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            match &name[..] {
                b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(name),
            }
            let here = done.join(&b'/');
            if self.attributes(&here, Wanted::KIND).await?.kind == Some(crate::Kind::Link) {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Error::BadPath("it leads through more than 40 links"));
                }
                let target = self.read_link(&here).await?;
                match target.first() {
                    Some(b'/') => done.clear(),
                    _ => drop(done.pop()),
                }
                let components = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
                left.extend(components.map(<[u8]>::to_vec).rev().collect::<Vec<_>>());
            }
        }
        Ok(done.join(&b'/'))
    }

    /// What the server and its file system allow.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn file_system(&self) -> Result<FileSystem> {
        let limits = self.attributes(b"", Wanted::LIMITS).await?.limits;
        let agreed = self.agreed().await?;
        Ok(FileSystem {
            lease: agreed.lease,
            largest_file: limits.largest_file,
            longest_name: limits.longest_name,
            largest_read: agreed.largest_read,
            largest_write: agreed.largest_write,
            calls_in_flight: agreed.slots,
            operations_in_a_call: agreed.most_operations,
            largest_call: agreed.largest_call,
            largest_answer: agreed.largest_answer,
            kept_answer: agreed.kept_answer,
            space_available: limits.space_available,
            space_total: limits.space_total,
        })
    }
}

/// What a server and its file system allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSystem {
    /// How long it remembers a client that says nothing.
    pub lease: Duration,
    pub largest_file: Option<u64>,
    pub longest_name: Option<u32>,
    /// Bytes of content in one call.
    pub largest_read: u32,
    pub largest_write: u32,
    /// For each connection.
    pub calls_in_flight: u32,
    pub operations_in_a_call: u32,
    /// Bytes of a whole call, and of an answer; no more than was asked for.
    pub largest_call: usize,
    pub largest_answer: usize,
    /// Bytes of an answer that it keeps, to give it again.
    pub kept_answer: u32,
    /// In bytes.
    pub space_available: Option<u64>,
    pub space_total: Option<u64>,
}
