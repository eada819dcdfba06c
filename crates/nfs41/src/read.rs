//! Reading files that are not open.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes},
    client::Client,
    compound::{ANONYMOUS, CURRENT, Compound, CompoundReply, Create, OpenOwner, ShareAccess},
    error::{Error, Result},
    op::Op,
    path::Path,
    status::Status,
};

/// What a read returned.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// The bytes, fewer than requested at the end of the file or where one READ carries fewer.
    pub data: Bytes,
    /// The bytes reach the end of the file.
    pub eof: bool,
    /// [`AttributeMask::STAT`] of the file, from the same compound.
    pub attributes: Attributes,
    /// The file's handle, for [`Client::open_by_handle`] and [`Client::read_by_handle`].
    pub handle: FileHandle,
}

/// A file handle: the server's identifier of a file (RFC 8881, section 4). It stays valid while the file exists, whatever its
/// path refers to by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHandle(pub(crate) Bytes);

impl Client {
    /// Reads up to `length` bytes from `offset`, at most as many as one READ carries, with the attributes of the file.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `ISDIR`.
    pub async fn read(&self, path: &[u8], offset: u64, length: u32) -> Result<ReadResult> {
        let path = Path::new(path)?;
        if !self.anonymous_read_rejected() {
            match self.read_anonymous(&path, offset, length).await {
                Err(Error::Status { op: Op::READ, status }) if rejects_stateid(status) => {
                    self.disable_anonymous_read();
                }
                other => return other,
            }
        }
        self.read_opened(&path, offset, length).await
    }

    /// Reads with the anonymous stateid, without OPEN.
    pub(crate) async fn read_anonymous(&self, path: &Path<'_>, offset: u64, length: u32) -> Result<ReadResult> {
        let prefix = self.path_prefix(path).await?;
        let length = length.min(self.channel_attrs().await?.max_read_bytes);
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::GETFH).getattr(AttributeMask::STAT).read(&ANONYMOUS, offset, length);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            let handle = FileHandle(results.handle()?);
            let attributes = results.attributes()?;
            let (data, eof) = decode_read(&mut results, length)?;
            Ok(ReadResult { data, eof, attributes, handle })
        };
        self.call(&compound, decode).await
    }

    /// Opens, reads and closes.
    async fn read_opened(&self, path: &Path<'_>, offset: u64, length: u32) -> Result<ReadResult> {
        let (directory, name) = path.split()?;
        let length = length.min(self.channel_attrs().await?.max_read_bytes);
        if self.no_current_stateid() {
            let file = self.open(path, ShareAccess::Read, Create::Never).await?;
            let read = file.read_with_attributes(offset, length).await;
            file.close().await?;
            return read;
        }
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.open(name, ShareAccess::Read, Create::Never, OpenOwner::Slot).op(Op::GETFH);
        compound.getattr(AttributeMask::STAT).read(&CURRENT, offset, length).close(&CURRENT);
        // The compound is idempotent, and its reply is larger than what a server caches.
        compound.cache_this = false;
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.opened()?;
            let handle = FileHandle(results.handle()?);
            let attributes = results.attributes()?;
            let (data, eof) = decode_read(&mut results, length)?;
            results.stateid(Op::CLOSE)?;
            Ok(ReadResult { data, eof, attributes, handle })
        };
        self.call(&compound, decode).await
    }

    /// Reads from a file by its handle, at most as many bytes as one READ carries, and returns whether they reach the end of
    /// the file. Without OPEN: the server may remove the file when another one replaces it.
    ///
    /// # Errors
    /// `STALE`: the file no longer exists.
    pub async fn read_by_handle(&self, handle: &FileHandle, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let length = length.min(self.channel_attrs().await?.max_read_bytes);
        let mut compound = Compound::new();
        compound.putfh(&handle.0).read(&ANONYMOUS, offset, length);
        let decode = |mut results: CompoundReply| {
            results.expect(Op::PUTFH)?;
            decode_read(&mut results, length)
        };
        self.call(&compound, decode).await
    }
}

/// Whether a status says that the server rejects the kind of stateid that was sent.
pub(crate) fn rejects_stateid(status: Status) -> bool {
    matches!(
        status,
        Status::BAD_STATEID | Status::STALE_STATEID | Status::OLD_STATEID | Status::NOTSUPP | Status::OPENMODE
    )
}

/// Reads the result of READ: the data, and whether it reaches the end of the file.
pub(crate) fn decode_read(results: &mut CompoundReply, length: u32) -> Result<(Bytes, bool)> {
    let reply = results.expect(Op::READ)?;
    let eof = reply.boolean()?;
    let data = reply.opaque(length as usize)?;
    match data.is_empty() && length > 0 && !eof {
        // A caller that continues to read would never finish.
        true => Err(Error::Protocol("READ returned no data before the end of the file")),
        false => Ok((data, eof)),
    }
}
