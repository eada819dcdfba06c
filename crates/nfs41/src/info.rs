//! Attributes of files, access rights, and limits of the server and its file system.

use std::time::Duration;

use crate::{
    attributes::{AttributeMask, Attributes},
    client::Client,
    compound::{Compound, CompoundReply},
    error::Result,
    op::Op,
    path::Path,
};

impl Client {
    /// The attributes of a file, directory or symbolic link. Symbolic links are not followed.
    ///
    /// # Errors
    /// `NOENT`, `NOTDIR`, `ACCESS`; `SYMLINK` or `NOTDIR` if a component before the last is a symbolic link.
    pub async fn attributes(&self, path: &[u8], wanted: AttributeMask) -> Result<Attributes> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.getattr(wanted);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.attributes()
        };
        self.call(&compound, decode).await
    }

    /// Which of these rights the server grants (RFC 8881, section 18.1): 1 read, 2 lookup, 4 modify, 8 extend, 16 delete, 32
    /// execute.
    ///
    /// # Errors
    /// As [`Client::attributes`].
    pub async fn access(&self, path: &[u8], access: u32) -> Result<u32> {
        use crate::xdr::Encode;
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.begin_op(Op::ACCESS).word(access & 0x3F);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            let reply = results.expect(Op::ACCESS)?;
            reply.word()?;
            Ok(reply.word()? & access)
        };
        self.call(&compound, decode).await
    }

    /// The limits of the server and of the root's file system.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::Error::Unreachable).
    pub async fn limits(&self) -> Result<Limits> {
        let limits = self.attributes(b"", AttributeMask::LIMITS).await?.limits;
        let attrs = self.channel_attrs().await?;
        Ok(Limits {
            lease_time: attrs.lease_time,
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

/// Limits of a server and its file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long the server keeps the state of a client that sends nothing.
    pub lease_time: Duration,
    /// `maxfilesize` in bytes, if the server sends it.
    pub max_file_size: Option<u64>,
    /// `maxname` in bytes, if the server sends it.
    pub max_name_bytes: Option<u32>,
    /// Maximum number of bytes that one READ returns.
    pub max_read_bytes: u32,
    /// Maximum number of bytes that one WRITE carries.
    pub max_write_bytes: u32,
    /// Maximum number of concurrent calls per connection (`ca_maxrequests`).
    pub max_requests: u32,
    /// Maximum number of operations in one compound (`ca_maxoperations`).
    pub max_operations: u32,
    /// Maximum bytes of a request, at most as many as the client asked for (`ca_maxrequestsize`).
    pub max_request_bytes: usize,
    /// Maximum bytes of a reply, at most as many as the client asked for (`ca_maxresponsesize`).
    pub max_response_bytes: usize,
    /// Maximum bytes of a reply that the server caches to replay it (`ca_maxresponsesize_cached`).
    pub max_cached_response_bytes: u32,
    /// Free bytes of the file system for this client, if the server sends it.
    pub space_available: Option<u64>,
    /// Size of the file system in bytes, if the server sends it.
    pub space_total: Option<u64>,
}
