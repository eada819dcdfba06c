//! Contents of files that nobody has to open for it.

use bytes::Bytes;

use crate::{
    attributes::{Attributes, Wanted},
    client::{Again, Client},
    compound::{ANONYMOUS, CURRENT, Compound, Create, Op, Owner, Results, Share},
    error::{Error, Result},
    path::Path,
    status::Status,
};

/// What was read.
#[derive(Clone, Debug)]
pub struct Content {
    pub data: Bytes,
    /// It goes up to the end of the file.
    pub end: bool,
    pub attributes: Attributes,
    /// For [`Client::read_on`].
    pub handle: Handle,
}

/// The server's own name of a file: good for as long as the file is there, whatever its path names by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handle(pub(crate) Bytes);

impl Client {
    /// Up to so many bytes from there on, as many as one call carries, with [`Wanted::USUAL`] of the file.
    ///
    /// # Errors
    /// As [`Client::attributes`]; `ISDIR`.
    pub async fn read(&self, path: &[u8], offset: u64, length: u32) -> Result<Content> {
        self.read_with(path, offset, length, Wanted::USUAL).await
    }

    /// Asked for these attributes; where the file must be opened, for the usual ones.
    async fn read_with(&self, path: &[u8], offset: u64, length: u32, wanted: Wanted) -> Result<Content> {
        let path = Path::new(path)?;
        if !self.opens_to_read() {
            match self.read_anonymously(&path, offset, length, wanted).await {
                Err(Error::Status { op: Op::READ, status }) if refuses(status) => {
                    self.opening_to_read();
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
        wanted: Wanted,
    ) -> Result<Content> {
        let start = self.start(path).await?;
        let length = length.min(self.agreed().await?.largest_read);
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::GETFH);
        if wanted != Wanted::NOTHING {
            compound.attributes(wanted);
        }
        compound.read(&ANONYMOUS, offset, length);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            let handle = Handle(results.handle()?);
            let attributes = match wanted {
                Wanted::NOTHING => Attributes::default(),
                _ => results.attributes()?,
            };
            let (data, end) = content(&mut results, length)?;
            Ok(Content { data, end, attributes, handle })
        };
        self.ask(Again::Yes, &compound, read).await
    }

    async fn read_opened(&self, path: &Path<'_>, offset: u64, length: u32) -> Result<Content> {
        let (directory, name) = path.split()?;
        let length = length.min(self.agreed().await?.largest_read);
        if self.is_plain() {
            let file = self.open(path, Share::Read, Create::No).await?;
            let read = file.read_with_attributes(offset, length).await;
            file.close().await?;
            return read;
        }
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.open(name, Share::Read, Create::No, Owner::Slot).plain(Op::GETFH).attributes(Wanted::USUAL);
        compound.read(&CURRENT, offset, length).close(&CURRENT);
        // Nothing is changed: asked again it is done again. A content is more than a server keeps of an answer.
        compound.kept = false;
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.opened()?;
            let handle = Handle(results.handle()?);
            let attributes = results.attributes()?;
            let (data, end) = content(&mut results, length)?;
            results.stateid(Op::CLOSE)?;
            Ok(Content { data, end, attributes, handle })
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// More of the same file, even if its path names another by now.
    ///
    /// # Errors
    /// `STALE`: the file is gone.
    pub async fn read_on(&self, handle: &Handle, offset: u64, length: u32) -> Result<(Bytes, bool)> {
        let length = length.min(self.agreed().await?.largest_read);
        let mut compound = Compound::new();
        compound.at(&handle.0).read(&ANONYMOUS, offset, length);
        let read = |mut results: Results| {
            results.op(Op::PUTFH)?;
            content(&mut results, length)
        };
        self.ask(Again::Yes, &compound, read).await
    }

    /// All of these bytes, in as many calls as they take, several on their way at once. Fewer at the end of the file.
    ///
    /// # Errors
    /// As [`Client::read`]. `STALE`: it was replaced again and again while it was read.
    pub async fn read_all(&self, path: &[u8], offset: u64, length: u64) -> Result<Vec<Bytes>> {
        const TRIES: usize = 16;
        for _ in 1..TRIES {
            match self.read_all_once(path, offset, length).await {
                // It was replaced between its name and its content: what has the name now is another one.
                Err(why) if why.is_gone() => {}
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
        let first = self.read_with(path, offset, most, Wanted::NOTHING).await?;
        let piece = self.agreed().await?.largest_read;
        let mut asked = first.data.len() as u64;
        let (mut pieces, handle, mut ended) = (vec![first.data], first.handle, first.end);
        let mut waiting = std::collections::VecDeque::new();
        while !ended {
            while waiting.len() < WINDOW && asked < length {
                let wanted = u32::try_from(length - asked).unwrap_or(u32::MAX).min(piece);
                let (client, handle, from) = (self.clone(), handle.clone(), offset.saturating_add(asked));
                waiting.push_back(tokio::spawn(async move { client.read_piece(&handle, from, wanted).await }));
                asked += u64::from(wanted);
            }
            let Some(task) = waiting.pop_front() else { break };
            let (data, end) = task.await.unwrap_or(Err(Error::Closed))?;
            pieces.extend(data);
            ended = end;
        }
        Ok(pieces)
    }

    /// What one call could carry, in two that go together: the server reads one half while it sends the other. `None`:
    /// it is too little for that, or too much, or the halves are not of one file, or not whole.
    async fn read_together(&self, path: &[u8], offset: u64, length: u64) -> Result<Option<Vec<Bytes>>> {
        const LEAST: u32 = 512 << 10;
        let most = self.agreed().await?.largest_read;
        let length = match u32::try_from(length) {
            Ok(length) if (LEAST..=most).contains(&length) => length,
            _ => return Ok(None),
        };
        let half = (length / 2).next_multiple_of(4096);
        let (from, rest) = (offset.saturating_add(half.into()), length - half);
        let (first, second) = tokio::try_join!(
            self.read_with(path, offset, half, Wanted::NOTHING),
            self.read_with(path, from, rest, Wanted::NOTHING),
        )?;
        let is_whole = |read: &Content, length: u32| read.end || read.data.len() == length as usize;
        let fit = first.handle == second.handle && is_whole(&first, half) && is_whole(&second, rest);
        Ok(fit.then(|| vec![first.data, second.data]))
    }

    /// A server may give less than it is asked for.
    async fn read_piece(&self, handle: &Handle, mut from: u64, mut length: u32) -> Result<(Vec<Bytes>, bool)> {
        let mut pieces = Vec::new();
        loop {
            let (data, end) = self.read_on(handle, from, length).await?;
            from = from.saturating_add(data.len() as u64);
            length = length.saturating_sub(u32::try_from(data.len()).unwrap_or(length));
            pieces.push(data);
            if end || length == 0 {
                return Ok((pieces, end));
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
pub(crate) fn content(results: &mut Results, length: u32) -> Result<(Bytes, bool)> {
    let answer = results.op(Op::READ)?;
    let end = answer.boolean()?;
    let data = answer.opaque(length as usize)?;
    match data.is_empty() && length > 0 && !end {
        // Whoever asked on would do so for ever.
        true => Err(Error::Protocol("nothing is read, and it is not the end")),
        false => Ok((data, end)),
    }
}
