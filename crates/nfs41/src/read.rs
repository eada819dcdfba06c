//! Contents of files that nobody has to open for it.

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Attributes},
    client::{Client, Idempotent},
    compound::{ANONYMOUS, CURRENT, Compound, CompoundReply, Create, Op, OpenOwner, ShareAccess},
    error::{Error, Result},
    path::Path,
    status::Status,
};

/// What was read.
#[derive(Clone, Debug)]
pub struct ReadResult {
    pub data: Bytes,
    /// It goes up to the end of the file.
    pub eof: bool,
    pub attributes: Attributes,
    /// For [`Client::read_by_handle`].
    pub handle: FileHandle,
}

/// The server's own name of a file: good for as long as the file is there, whatever its path names by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHandle(pub(crate) Bytes);

impl Client {
    /// Up to so many bytes from there on, as many as one call carries, with [`AttributeMask::STAT`] of the file.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `ISDIR`.
    pub async fn read(&self, path: &[u8], offset: u64, length: u32) -> Result<ReadResult> {
        self.read_with(path, offset, length, AttributeMask::STAT).await
    }

    /// Asked for these attributes; where the file must be opened, for the usual ones.
    async fn read_with(&self, path: &[u8], offset: u64, length: u32, wanted: AttributeMask) -> Result<ReadResult> {
        let path = Path::new(path)?;
        if !self.anonymous_read_rejected() {
            match self.read_anonymously(&path, offset, length, wanted).await {
                Err(Error::Status { op: Op::READ, status }) if refuses(status) => {
                    self.disable_anonymous_read();
                }
                other => return other,
            }
        }
        self.read_opened(&path, offset, length).await
    }

    pub(crate) async fn read_anonymously(
        &self,
        path: &Path<'_>,
        offset: u64,
        length: u32,
        wanted: AttributeMask,
    ) -> Result<ReadResult> {
        let prefix = self.path_prefix(path).await?;
        let length = length.min(self.channel_attrs().await?.max_read_bytes);
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::GETFH);
        if wanted != AttributeMask::NONE {
            compound.getattr(wanted);
        }
        compound.read(&ANONYMOUS, offset, length);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            let handle = FileHandle(results.handle()?);
            let attributes = match wanted {
                AttributeMask::NONE => Attributes::default(),
                _ => results.attributes()?,
            };
            let (data, eof) = content(&mut results, length)?;
            Ok(ReadResult { data, eof, attributes, handle })
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

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
        compound
            .open(name, ShareAccess::Read, Create::Never, OpenOwner::Slot)
            .op(Op::GETFH)
            .getattr(AttributeMask::STAT);
        compound.read(&CURRENT, offset, length).close(&CURRENT);
        // Nothing is changed: asked again it is done again. A content is more than a server keeps of an answer.
        compound.cache_this = false;
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.opened()?;
            let handle = FileHandle(results.handle()?);
            let attributes = results.attributes()?;
            let (data, eof) = content(&mut results, length)?;
            results.stateid(Op::CLOSE)?;
            Ok(ReadResult { data, eof, attributes, handle })
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

    /// More of the same file, even if its path names another by now.
    ///
    /// # Errors
    /// `STALE`: the file is gone.
    pub async fn read_by_handle(&self, handle: &FileHandle, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let length = length.min(self.channel_attrs().await?.max_read_bytes);
        let mut compound = Compound::new();
        compound.putfh(&handle.0).read(&ANONYMOUS, offset, length);
        let read = |mut results: CompoundReply| {
            results.expect(Op::PUTFH)?;
            content(&mut results, length)
        };
        self.call(Idempotent::Yes, &compound, read).await
    }

    /// All of these bytes, in as many calls as they take, several on their way at once. Fewer at the end of the file.
    ///
    /// # Errors
    /// As [`Client::read`]. `STALE`: it was replaced again and again while it was read.
    pub async fn read_all(&self, path: &[u8], offset: u64, length: u64) -> Result<Vec<Bytes>> {
        const MAX_ATTEMPTS: usize = 16;
        for _ in 1..MAX_ATTEMPTS {
            match self.read_all_once(path, offset, length).await {
                // It was replaced between its name and its content: what has the name now is another one.
                Err(err) if err.is_stale() => {}
                read => return read,
            }
        }
        self.read_all_once(path, offset, length).await
    }

    async fn read_all_once(&self, path: &[u8], offset: u64, length: u64) -> Result<Vec<Bytes>> {
        /// So many calls on their way at once.
        const WINDOW: usize = 8;
        if let Some(pieces) = self.read_together(path, offset, length).await? {
            return Ok(pieces);
        }
        let most = u32::try_from(length).unwrap_or(u32::MAX);
        let first = self.read_with(path, offset, most, AttributeMask::NONE).await?;
        let piece = self.channel_attrs().await?.max_read_bytes;
        let mut asked = first.data.len() as u64;
        let (mut pieces, handle, mut ended) = (vec![first.data], first.handle, first.eof);
        let mut waiting = std::collections::VecDeque::new();
        while !ended {
            while waiting.len() < WINDOW && asked < length {
                let wanted = u32::try_from(length - asked).unwrap_or(u32::MAX).min(piece);
                let (client, handle, from) = (self.clone(), handle.clone(), offset.saturating_add(asked));
                waiting.push_back(tokio::spawn(async move { client.read_piece(&handle, from, wanted).await }));
                asked += u64::from(wanted);
            }
            let Some(task) = waiting.pop_front() else { break };
            let (data, eof) = task.await.unwrap_or(Err(Error::Closed))?;
            pieces.extend(data);
            ended = eof;
        }
        Ok(pieces)
    }

    /// What one call could carry, in two that go together: the server reads one half while it sends the other. `None`:
    /// it is too little for that, or too much, or the halves are not of one file, or not whole.
    async fn read_together(&self, path: &[u8], offset: u64, length: u64) -> Result<Option<Vec<Bytes>>> {
        const LEAST: u32 = 512 << 10;
        let most = self.channel_attrs().await?.max_read_bytes;
        let length = match u32::try_from(length) {
            Ok(length) if (LEAST..=most).contains(&length) => length,
            _ => return Ok(None),
        };
        let half = (length / 2).next_multiple_of(4096);
        let (from, rest) = (offset.saturating_add(half.into()), length - half);
        let (first, second) = tokio::try_join!(
            self.read_with(path, offset, half, AttributeMask::NONE),
            self.read_with(path, from, rest, AttributeMask::NONE),
        )?;
        let is_whole = |read: &ReadResult, length: u32| read.eof || read.data.len() == length as usize;
        let fit = first.handle == second.handle && is_whole(&first, half) && is_whole(&second, rest);
        Ok(fit.then(|| vec![first.data, second.data]))
    }

    /// A server may give less than it is asked for.
    async fn read_piece(&self, handle: &FileHandle, mut from: u64, mut length: u32) -> Result<(Vec<Bytes>, bool)> {
        let mut pieces = Vec::new();
        loop {
            let (data, eof) = self.read_by_handle(handle, from, length).await?;
            from = from.saturating_add(data.len() as u64);
            length = length.saturating_sub(u32::try_from(data.len()).unwrap_or(length));
            pieces.push(data);
            if eof || length == 0 {
                return Ok((pieces, eof));
            }
        }
    }
}

/// Of the answers to a stateid, those that say that the server takes none of its kind.
pub(crate) fn refuses(status: Status) -> bool {
    matches!(
        status,
        Status::BAD_STATEID | Status::STALE_STATEID | Status::OLD_STATEID | Status::NOTSUPP | Status::OPENMODE
    )
}

/// What a READ gives.
pub(crate) fn content(results: &mut CompoundReply, length: u32) -> Result<(Bytes, bool)> {
    let reply = results.expect(Op::READ)?;
    let eof = reply.boolean()?;
    let data = reply.opaque(length as usize)?;
    match data.is_empty() && length > 0 && !eof {
        // Whoever asked on would do so for ever.
        true => Err(Error::Protocol("nothing is read, and it is not the end")),
        false => Ok((data, eof)),
    }
}
