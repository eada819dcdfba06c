//! What a path names: its attributes, where a link leads, what may be done, and what its file system allows.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes},
    client::{Client, Idempotent},
    compound::{Compound, CompoundReply, Op},
    error::{Error, Result},
    path::Path,
};

impl Client {
    /// The attributes of what the path names, if it is a link of the link.
    ///
    /// # Errors
    /// `NOENT`, `NOTDIR`, `ACCESS`; `SYMLINK` or `NOTDIR` where a component before the last is a link.
    pub async fn attributes(&self, path: &[u8], wanted: AttributeMask) -> Result<Attributes> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.getattr(wanted);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.attributes()
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

    /// Which of these permissions the server would give: 1 read, 2 look up, 4 change, 8 add to, 16 delete, 32 execute.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn access(&self, path: &[u8], asked: u32) -> Result<u32> {
        use crate::xdr::Encode;
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.begin_op(Op::ACCESS).word(asked & 0x3F);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            let reply = results.expect(Op::ACCESS)?;
            reply.word()?;
            Ok(reply.word()? & asked)
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

    /// Where a link leads, as it is written there.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `INVAL`: it is no link.
    pub async fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        const LONGEST: usize = 4096;
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::READLINK);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.expect(Op::READLINK)?.opaque(LONGEST)
        };
        self.call(Idempotent::Yes, &compound, read).await
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
        let mut numlinks = 0;
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
            if self.attributes(&here, AttributeMask::TYPE).await?.file_type == Some(crate::FileType::Symlink) {
                numlinks += 1;
                if numlinks > MOST_LINKS {
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
    pub async fn limits(&self) -> Result<Limits> {
        let limits = self.attributes(b"", AttributeMask::LIMITS).await?.limits;
        let attrs = self.channel_attrs().await?;
        Ok(Limits {
            lease_time: attrs.lease,
            max_file_size: limits.max_file_size,
            max_name_bytes: limits.max_name_bytes,
            max_read_bytes: attrs.max_read_bytes,
            max_write_bytes: attrs.max_write_bytes,
            max_requests: attrs.slots,
            max_operations: attrs.max_operations,
            max_request_bytes: attrs.max_request_bytes,
            max_response_bytes: attrs.max_response_bytes,
            max_cached_response_bytes: attrs.max_cached_response_bytes,
            space_available: limits.space_available,
            space_total: limits.space_total,
        })
    }
}

/// What a server and its file system allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long it remembers a client that says nothing.
    pub lease_time: Duration,
    pub max_file_size: Option<u64>,
    pub max_name_bytes: Option<u32>,
    /// Bytes of content in one call.
    pub max_read_bytes: u32,
    pub max_write_bytes: u32,
    /// For each connection.
    pub max_requests: u32,
    pub max_operations: u32,
    /// Bytes of a whole call, and of an answer; no more than was asked for.
    pub max_request_bytes: usize,
    pub max_response_bytes: usize,
    /// Bytes of an answer that it keeps, to give it again.
    pub max_cached_response_bytes: u32,
    /// In bytes.
    pub space_available: Option<u64>,
    pub space_total: Option<u64>,
}
