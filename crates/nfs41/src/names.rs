//! What changes names: removing, renaming, linking, making directories; and the attributes of what a path names.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    attributes::{Expected, Kind, Set, Wanted},
    budget::{Backoff, Budget},
    client::{Again, Client, Start},
    compound::{ANONYMOUS, Compound, Op, Results},
    error::{Error, Result},
    path::Path,
    status::Status,
};

/// What an answer has of a directory that is made: of CREATE, and its handle.
const CREATED_BYTES: u32 = 200;
/// For each directory that is taken away again.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);
/// A pause where the server says later, and has done a part.
const LATER: Duration = Duration::from_millis(50);

impl Client {
    /// # Errors
    /// As [`Client::attributes`], and what the server says of the new values.
    pub async fn set_attributes(&self, path: &[u8], set: Set) -> Result<()> {
        let start = self.start(&Path::new(path)?).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.set(&ANONYMOUS, &set);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.set()
        };
        // The same values once more are the same values.
        self.change(Again::Yes, &compound, read).await
    }

    /// A file, a link or an empty directory.
    ///
    /// # Errors
    /// `NOENT`, `NOTEMPTY`; [`Error::Uncertain`].
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.name(Op::REMOVE, name);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.changed(Op::REMOVE)
        };
        self.change(Again::No, &compound, read).await
    }

    /// A plain file and nothing else.
    ///
    /// # Errors
    /// As [`Client::remove`]; `NOT_SAME`: it is something else.
    pub async fn remove_file(&self, path: &[u8]) -> Result<()> {
        self.remove_kind(path, Kind::File).await
    }

    /// An empty directory and nothing else.
    ///
    /// # Errors
    /// As [`Client::remove_file`]; `NOTEMPTY`.
    pub async fn remove_directory(&self, path: &[u8]) -> Result<()> {
        self.remove_kind(path, Kind::Directory).await
    }

    async fn remove_kind(&self, path: &[u8], kind: Kind) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH).lookup(name).verify(&Expected { kind: Some(kind), ..Expected::default() });
        compound.plain(Op::RESTOREFH).name(Op::REMOVE, name);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.plain(&[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH])?;
            results.changed(Op::REMOVE)
        };
        self.change(Again::No, &compound, read).await
    }

    /// Over what is there, if anything is.
    ///
    /// # Errors
    /// `NOENT`, `EXIST`, `NOTEMPTY`, `ISDIR`; [`Error::Uncertain`].
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((old, from), (new, to)) = (Path::new(from)?.split()?, Path::new(to)?.split()?);
        let (old, new) = (self.start(&old).await?, self.start(&new).await?);
        let mut compound = Compound::new();
        old.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        new.walk(&mut compound);
        compound.rename(from, to);
        let read = |mut results: Results| {
            old.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            new.walked(&mut results)?;
            results.renamed()
        };
        self.change(Again::No, &compound, read).await
    }

    /// A second name for the same file.
    ///
    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn link(&self, file: &[u8], name: &[u8]) -> Result<()> {
        let (file, (directory, name)) = (Path::new(file)?, Path::new(name)?.split()?);
        let (file, directory) = (self.start(&file).await?, self.start(&directory).await?);
        let mut compound = Compound::new();
        file.walk(&mut compound);
        compound.plain(Op::SAVEFH);
        directory.walk(&mut compound);
        compound.name(Op::LINK, name);
        let read = |mut results: Results| {
            file.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            directory.walked(&mut results)?;
            results.changed(Op::LINK)
        };
        self.change(Again::No, &compound, read).await
    }

    /// # Errors
    /// `EXIST`, `NOENT`; [`Error::Uncertain`].
    pub async fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, name) = Path::new(path)?.split()?;
        let start = self.start(&directory).await?;
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.make_directory(name, mode);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.changed(Op::CREATE)
        };
        self.change(Again::No, &compound, read).await
    }

    /// A directory and those above it that are missing. So many were made. As many calls as the path is long: each goes
    /// down as far as the server takes components in one.
    ///
    /// # Errors
    /// `NOTDIR`, `EXIST`: a component is a file.
    pub async fn make_directories(&self, path: &[u8], mode: u32) -> Result<usize> {
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move { client.make_missing(&path, mode, &budget).await }).await
    }

    async fn make_missing(&self, path: &[u8], mode: u32, budget: &Budget) -> Result<usize> {
        let root = Path::new(&self.inner.options.root)?;
        let path = Path::new(path)?;
        let mut left: Vec<_> = root.components().chain(path.components()).collect();
        let agreed = self.agreed().await?;
        let most = ((agreed.most_operations as usize).saturating_sub(4) / 2).max(1);
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
            let below = &left[..left.len().min(most).min((agreed.kept_answer / CREATED_BYTES).max(1) as usize)];
            let (count, error) = match self.create_down(&mut handle, below, mode, budget).await {
                Ok(created) => created,
                Err(why) => (0, Some(why)),
            };
            made += count;
            left.drain(..count);
            match error {
                None => {}
                // Somebody else has made one: what is above it is not ours to take away.
                Some(why) if why.is(Status::EXIST) => made = 0,
                Some(why) => {
                    self.remove_made(&path, left.len(), made).await;
                    return Err(why);
                }
            }
        }
        Ok(made)
    }

    /// Takes away the last of the directories that are there, as far as they are empty.
    async fn remove_made(&self, path: &Path<'_>, missing: usize, made: usize) {
        let client = self.with_deadline(Some(CLEANUP_TIMEOUT));
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
        let start = Start::new(from.clone(), Vec::new());
        let mut compound = Compound::new();
        start.walk(&mut compound);
        for name in names {
            compound.lookup(name).plain(Op::GETFH);
        }
        // `LOOKUP` of something in a file says NOTDIR; of the last, only its kind tells.
        compound.attributes(Wanted::KIND);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            let (mut there, mut last) = (0, from.clone());
            for _ in names {
                match results.op(Op::LOOKUP).map(drop) {
                    Ok(()) => {}
                    Err(why) if why.is(Status::NOENT) => return Ok((there, last)),
                    Err(why) => return Err(why),
                }
                last = Some(results.handle()?);
                there += 1;
            }
            match results.attributes()?.kind {
                Some(Kind::Directory) => Ok((there, last)),
                _ => Err(Error::Status { op: Op::LOOKUP, status: Status::NOTDIR }),
            }
        };
        self.repeat(&compound, Again::Yes, budget, read).await
    }

    /// Makes directories one below the other, which are not there. How many it has made, and why it made no more.
    async fn create_down(
        &self,
        handle: &mut Option<Bytes>,
        names: &[&[u8]],
        mode: u32,
        budget: &Budget,
    ) -> Result<(usize, Option<Error>)> {
        let start = Start::new(handle.clone(), Vec::new());
        let mut compound = Compound::new();
        start.walk(&mut compound);
        for name in names {
            compound.make_directory(name, mode).plain(Op::GETFH);
        }
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            let (mut count, mut last) = (0, start.handle().cloned());
            for _ in names {
                match results.changed(Op::CREATE).and_then(|()| results.handle()) {
                    Ok(handle) => (count, last) = (count + 1, Some(handle)),
                    Err(why) if why.status().is_some() => return Ok((count, last, Some(why))),
                    Err(why) => return Err(why),
                }
            }
            Ok((count, last, None))
        };
        let (count, last, error) = match self.repeat(&compound, Again::No, budget, read).await {
            // Whoever looks again finds those that were made.
            Err(Error::Uncertain(_)) => {
                (0, handle.take(), Some(Error::Status { op: Op::CREATE, status: Status::EXIST }))
            }
            other => other?,
        };
        *handle = last;
        match error {
            Some(why) if why.status().is_some_and(Status::is_later) => {
                Ok((count, budget.pause(&mut Backoff::new(LATER, LATER)).await.err()))
            }
            error => Ok((count, error)),
        }
    }
}
