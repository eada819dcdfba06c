//! Operations on names: removing, renaming, linking and creating directories; and setting attributes.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    attributes::{AttributeMask, Expected, FileType, SetAttributes},
    budget::{Backoff, Budget},
    call::RetryPolicy,
    client::Client,
    compound::{ANONYMOUS, Compound, CompoundReply},
    error::{Error, Result},
    op::Op,
    path::Path,
    prefix::PathPrefix,
    status::Status,
};

/// Upper bound of the results of CREATE and GETFH in a reply.
const CREATE_REPLY_BYTES: u32 = 200;
/// Timeout of removing one directory after a failure.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Backoff after NFS4ERR_DELAY where a part of the compound was executed.
const DELAY_BACKOFF: Duration = Duration::from_millis(50);

impl Client {
    /// Sets attributes of a file, directory or symbolic link.
    ///
    /// # Errors
    /// As [`Client::attributes`]; the status with which the server rejects the values.
    pub async fn set_attributes(&self, path: &[u8], set: SetAttributes) -> Result<()> {
        let prefix = self.path_prefix(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.setattr(&ANONYMOUS, &set);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.set()
        };
        // Setting the same values again is idempotent.
        self.call_change(RetryPolicy::Idempotent, &compound, decode).await
    }

    /// Removes a file, a symbolic link or an empty directory.
    ///
    /// # Errors
    /// `NOENT`, `NOTEMPTY`; [`Error::Uncertain`].
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op_with_name(Op::REMOVE, name);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.changed(Op::REMOVE)
        };
        self.call_change(RetryPolicy::NonIdempotent, &compound, decode).await
    }

    /// Removes a regular file.
    ///
    /// # Errors
    /// As [`Client::remove`]; `NOT_SAME`: it is not a regular file.
    pub async fn remove_file(&self, path: &[u8]) -> Result<()> {
        self.remove_of_type(path, FileType::File).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Client::remove_file`]; `NOTEMPTY`.
    pub async fn remove_dir(&self, path: &[u8]) -> Result<()> {
        self.remove_of_type(path, FileType::Directory).await
    }

    async fn remove_of_type(&self, path: &[u8], file_type: FileType) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.op(Op::SAVEFH).lookup(name).verify(&Expected { file_type: Some(file_type), ..Expected::default() });
        compound.op(Op::RESTOREFH).op_with_name(Op::REMOVE, name);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.expect_all(&[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH])?;
            results.changed(Op::REMOVE)
        };
        self.call_change(RetryPolicy::NonIdempotent, &compound, decode).await
    }

    /// Renames a file or directory, and replaces what has the new name.
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
        let decode = |mut results: CompoundReply| {
            old.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            new.decode(&mut results)?;
            results.renamed()
        };
        self.call_change(RetryPolicy::NonIdempotent, &compound, decode).await
    }

    /// Creates a hard link: a second name for the same file.
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
        let decode = |mut results: CompoundReply| {
            file.decode(&mut results)?;
            results.expect(Op::SAVEFH)?;
            directory.decode(&mut results)?;
            results.changed(Op::LINK)
        };
        self.call_change(RetryPolicy::NonIdempotent, &compound, decode).await
    }

    /// Creates a directory with these permissions.
    ///
    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn create_dir(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let prefix = self.path_prefix(&directory).await?;
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        compound.create_directory(name, mode);
        let decode = |mut results: CompoundReply| {
            prefix.decode(&mut results)?;
            results.changed(Op::CREATE)
        };
        self.call_change(RetryPolicy::NonIdempotent, &compound, decode).await
    }

    /// Creates a directory and its missing parents, and returns how many were created. Each call handles as many components
    /// as the server takes in one compound.
    ///
    /// # Errors
    /// `NOTDIR`, `EXIST`: a component is a file.
    pub async fn create_dir_all(&self, path: &[u8], mode: u32) -> Result<usize> {
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
            // Walk down what exists. GETFH of each name lets the next call continue where this one ends.
            let (there, last) = self.walk_down(handle.take(), &left[..left.len().min(most)], budget).await?;
            left.drain(..there);
            handle = last;
            if there > 0 || left.is_empty() {
                continue;
            }
            // The next component and all below it are missing. The server must be able to cache the whole reply.
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
                // Another client has created one: do not remove the directories above it.
                Some(err) if err.is(Status::EXIST) => made = 0,
                Some(err) => {
                    self.remove_created(&path, left.len(), made).await;
                    return Err(err);
                }
            }
        }
        Ok(made)
    }

    /// Removes the directories that were created, as far as they are empty.
    async fn remove_created(&self, path: &Path<'_>, missing: usize, made: usize) {
        let client = self.with_timeout(Some(CLEANUP_TIMEOUT));
        let there = path.depth().saturating_sub(missing);
        for depth in (there.saturating_sub(made)..there).rev() {
            let path = path.components().take(depth + 1).collect::<Vec<_>>().join(&b'/');
            if client.remove_dir(&path).await.is_err() {
                return;
            }
        }
    }

    /// Returns how many of these nested names exist, and the handle of the last one.
    async fn walk_down(&self, from: Option<Bytes>, names: &[&[u8]], budget: &Budget) -> Result<(usize, Option<Bytes>)> {
        let prefix = PathPrefix::new(from.clone(), Vec::new());
        let mut compound = Compound::new();
        prefix.encode(&mut compound);
        for name in names {
            compound.lookup(name).op(Op::GETFH);
        }
        // LOOKUP in a file fails with NOTDIR. Whether the last name is a directory, only its type shows.
        compound.getattr(AttributeMask::TYPE);
        let decode = |mut results: CompoundReply, _| {
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
        self.call_with_retry(&compound, RetryPolicy::Idempotent, budget, decode).await
    }

    /// Creates nested directories. Returns how many were created, and the error that ended it.
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
        let decode = |mut results: CompoundReply, _| {
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
        let (count, last, error) =
            match self.call_with_retry(&compound, RetryPolicy::NonIdempotent, budget, decode).await {
                // The next walk finds those that were created.
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
