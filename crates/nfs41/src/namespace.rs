//! What changes names: removing, renaming, linking, making directories; and the attributes of what a path names.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Expected, FileType, SetAttributes},
    budget::{Backoff, Budget},
    client::{Client, Idempotent, PathPrefix},
    compound::{ANONYMOUS, Compound, CompoundReply, Op},
    error::{Error, Result},
    path::Path,
    status::Status,
};

/// What an answer has of a directory that is made: of CREATE, and its handle.
const CREATE_REPLY_BYTES: u32 = 200;
/// For each directory that is taken away again.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);
/// A pause where the server says later, and has done a part.
const DELAY_BACKOFF: Duration = Duration::from_millis(50);

impl Client {
    /// # Errors
    /// As [`Client::attributes`], and what the server says of the new values.
    pub async fn set_attributes(&self, path: &[u8], set: SetAttributes) -> Result<()> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.setattr(&ANONYMOUS, &set);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.set()
        };
        // The same values once more are the same values.
        self.call_change(Idempotent::Yes, &compound, read).await
    }

    /// A file, a link or an empty directory.
    ///
    /// # Errors
    /// `NOENT`, `NOTEMPTY`; [`Error::Uncertain`].
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op_with_name(Op::REMOVE, name);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.changed(Op::REMOVE)
        };
        self.call_change(Idempotent::No, &compound, read).await
    }

    /// A plain file and nothing else.
    ///
    /// # Errors
    /// As [`Client::remove`]; `NOT_SAME`: it is something else.
    pub async fn remove_file(&self, path: &[u8]) -> Result<()> {
        self.remove_of_type(path, FileType::File).await
    }

    /// An empty directory and nothing else.
    ///
    /// # Errors
    /// As [`Client::remove_file`]; `NOTEMPTY`.
    pub async fn remove_directory(&self, path: &[u8]) -> Result<()> {
        self.remove_of_type(path, FileType::Directory).await
    }

    async fn remove_of_type(&self, path: &[u8], file_type: FileType) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::SAVEFH).lookup(name).verify(&Expected { file_type: Some(file_type), ..Expected::default() });
        compound.op(Op::RESTOREFH).op_with_name(Op::REMOVE, name);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.expect_all(&[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH])?;
            results.changed(Op::REMOVE)
        };
        self.call_change(Idempotent::No, &compound, read).await
    }

    /// Over what is there, if anything is.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `NOTEMPTY`, `ISDIR`; [`Error::Uncertain`].
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((old, from), (new, to)) = (Path::new(from)?.split()?, Path::new(to)?.split()?);
        let (old, new) = (self.path_prefix(&old).await?, self.path_prefix(&new).await?);
        let mut compound = Compound::new();
        old.encode(&mut compound);
        compound.op(Op::SAVEFH);
        new.encode(&mut compound);
        compound.rename(from, to);
        let read = |mut results: CompoundReply| {
            old.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            new.decode(&mut results)?;
            results.renamed()
        };
        self.call_change(Idempotent::No, &compound, read).await
    }

    /// A second name for the same file.
    ///
    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn link(&self, file: &[u8], name: &[u8]) -> Result<()> {
        let (file, (directory, name)) = (Path::new(file)?, Path::new(name)?.split()?);
        let (file, directory) = (self.path_prefix(&file).await?, self.path_prefix(&directory).await?);
        let mut compound = Compound::new();
        file.encode(&mut compound);
        compound.op(Op::SAVEFH);
        directory.encode(&mut compound);
        compound.op_with_name(Op::LINK, name);
        let read = |mut results: CompoundReply| {
            file.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            directory.decode(&mut results)?;
            results.changed(Op::LINK)
        };
        self.call_change(Idempotent::No, &compound, read).await
    }

    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.create_directory(name, mode);
        let read = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.changed(Op::CREATE)
        };
        self.call_change(Idempotent::No, &compound, read).await
    }

    /// A directory and those above it that are missing. So many were made. As many calls as the path is long: each goes
    /// down as far as the server takes components in one.
    ///
    /// # Errors
    /// `NOTDIR`, `EXIST`: a component is a file.
    pub async fn make_directories(&self, path: &[u8], mode: u32) -> Result<usize> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move { client.create_missing(&path, mode, &budget).await }).await
    }

    async fn create_missing(&self, path: &[u8], mode: u32, budget: &Budget) -> Result<usize> {
        let root = Path::new(&self.inner.options.root)?;
        let path = Path::new(path)?;
        let mut left: Vec<_> = root.components().chain(path.components()).collect();
        let attrs = self.channel_attrs().await?;
        let most = ((attrs.max_operations as usize).saturating_sub(4) / 2).max(1);
        let (mut handle, mut made) = (None, 0);
        while !left.is_empty() {
            // What is there. Of each name its handle, so that a call goes on where the one before has ended.
            let (there, last) = self.walk_down(handle.take(), &left[..left.len().min(most)], budget).await?;
            left.drain(..there);
            handle = last;
            if there > 0 || left.is_empty() {
                continue;
            }
            // The next one is missing, and what is below it. The server keeps the whole answer, to give it again.
            let below = &left
                [..left.len().min(most).min((attrs.max_cached_response_bytes / CREATE_REPLY_BYTES).max(1) as usize)];
            let (count, error) = match self.create_down(&mut handle, below, mode, budget).await {
                Ok(created) => created,
                Err(err) => (0, Some(err)),
            };
            made += count;
            left.drain(..count);
            match error {
                None => {}
                // Somebody else has made one: what is above it is not ours to take away.
                Some(err) if err.is(Status::EXIST) => made = 0,
                Some(err) => {
                    self.remove_created(&path, left.len(), made).await;
                    return Err(err);
                }
            }
        }
        Ok(made)
    }

    /// Takes away the last of the directories that are there, as far as they are empty.
    async fn remove_created(&self, path: &Path<'_>, missing: usize, made: usize) {
        let client = self.with_timeout(Some(CLEANUP_TIMEOUT));
        let there = path.depth().saturating_sub(missing);
        for depth in (there.saturating_sub(made)..there).rev() {
            let path = path.components().take(depth + 1).collect::<Vec<_>>().join(&b'/');
            if client.remove_directory(&path).await.is_err() {
                return;
            }
        }
    }

    /// How many of these names are there, one below the other, and the handle of the last.
    async fn walk_down(&self, from: Option<Bytes>, names: &[&[u8]], budget: &Budget) -> Result<(usize, Option<Bytes>)> {
        let prefix = PathPrefix::new(from.clone(), Vec::new());
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        for name in names {
            compound.lookup(name).op(Op::GETFH);
        }
        // `LOOKUP` of something in a file says NOTDIR; of the last, only its kind tells.
        compound.getattr(AttributeMask::TYPE);
        let read = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            let (mut there, mut last) = (0, from.clone());
            for _ in names {
                match results.expect(Op::LOOKUP).map(drop) {
                    Ok(()) => {}
                    Err(err) if err.is(Status::NOENT) => return Ok((there, last)),
                    Err(err) => return Err(err),
                }
                last = Some(results.handle()?);
                there += 1;
            }
            match results.attributes()?.file_type {
                Some(FileType::Directory) => Ok((there, last)),
                _ => Err(Error::Status { op: Op::LOOKUP, status: Status::NOTDIR }),
            }
        };
        self.call_with_retry(&compound, Idempotent::Yes, budget, read).await
    }

    /// Makes directories one below the other, which are not there. How many it has made, and why it made no more.
    async fn create_down(
        &self,
        handle: &mut Option<Bytes>,
        names: &[&[u8]],
        mode: u32,
        budget: &Budget,
    ) -> Result<(usize, Option<Error>)> {
        let prefix = PathPrefix::new(handle.clone(), Vec::new());
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        for name in names {
            compound.create_directory(name, mode).op(Op::GETFH);
        }
        let read = |mut results: CompoundReply, _| {
            prefix.decode(&mut results)?;
            let (mut count, mut last) = (0, prefix.handle().cloned());
            for _ in names {
                match results.changed(Op::CREATE).and_then(|()| results.handle()) {
                    Ok(handle) => (count, last) = (count + 1, Some(handle)),
                    Err(err) if err.status().is_some() => return Ok((count, last, Some(err))),
                    Err(err) => return Err(err),
                }
            }
            Ok((count, last, None))
        };
        let (count, last, error) = match self.call_with_retry(&compound, Idempotent::No, budget, read).await {
            // Whoever looks again finds those that were made.
            Err(Error::Uncertain(_)) => {
                (0, handle.take(), Some(Error::Status { op: Op::CREATE, status: Status::EXIST }))
            }
            other => other?,
        };
        *handle = last;
        match error {
            Some(err) if err.status().is_some_and(Status::is_delay) => {
                Ok((count, budget.pause(&mut Backoff::new(DELAY_BACKOFF, DELAY_BACKOFF)).await.err()))
            }
            error => Ok((count, error)),
        }
    }
}
