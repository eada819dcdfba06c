//! Changes of files: put, upload, append, delete.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use nfs41::{Client, Status};

use super::{
    CLEANUP_TIMEOUT, MAX_ATTEMPTS, Rules, anew, evaluate, existing, how, in_time, in_time_to_answer, judged, meta,
};
use crate::status::error_of;
use files::{
    Error, Result,
    transport::{BoxFuture, Metadata, Preconditions, StagedUpload},
};
use router::path::FilePath;

/// Runs an operation that needs the parent directory. Creates missing directories and removes them again if the operation
/// fails.
pub(super) async fn in_its_directory<T, F: Future<Output = nfs41::Result<T>>>(
    client: &Client,
    path: &FilePath,
    rules: Rules,
    mut act: impl FnMut() -> F,
) -> Result<(T, usize)> {
    let directory = path.split().0;
    let mut made = 0;
    let mut tries = 0;
    loop {
        tries += 1;
        match act().await {
            // Another request that created the directory may remove it after its failure, even between our MKDIR and the
            // operation: try again.
            Err(err) if is_missing(&err) && tries < MAX_ATTEMPTS => {
                match client.create_dir_all(directory, rules.directory_mode).await {
                    Ok(count) => made = made.max(count),
                    Err(err) if is_missing(&err) => {}
                    Err(err) => return Err(error_of(err)),
                }
            }
            Err(err) => {
                remove_made(client, directory, made).await;
                return Err(error_of(err));
            }
            Ok(done) => return Ok((done, made)),
        }
    }
}

fn is_missing(err: &nfs41::Error) -> bool {
    err.status() == Some(Status::NOENT) || err.is_stale()
}

/// Removes the last `count` directories of this path that are empty, with a timeout of its own: the deadline of the
/// operation may have passed.
pub(super) async fn remove_made(client: &Client, mut directory: &[u8], made: usize) {
    let client = client.with_timeout(Some(CLEANUP_TIMEOUT));
    for _ in 0..made {
        if client.remove_dir(directory).await.is_err() {
            return;
        }
        directory = directory.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &directory[..slash]);
    }
}

/// An unconditional write takes one round trip if it replaces a file, and two if it creates one.
pub(super) async fn put(
    client: Client,
    path: FilePath,
    content: Bytes,
    conditions: Preconditions,
    rules: Rules,
) -> Result<(Metadata, bool)> {
    let put = |conditions| client.put(path.as_bytes(), content.clone(), how(conditions, rules));
    let new = || in_its_directory(&client, &path, rules, || put(nfs41::Precondition::Absent));
    if !conditions.is_none() {
        // Evaluate the preconditions before anything is created.
        let before = existing(&client, path.as_bytes()).await?;
        if !conditions.allow(before.as_ref()) {
            return Err(Error::PreconditionFailed);
        }
        let made = match conditions.is_create_only() {
            true => new().await?.0,
            false => in_its_directory(&client, &path, rules, || put(judged(&conditions))).await?.0,
        };
        return Ok((meta(&made)?, before.is_none()));
    }
    for _ in 0..MAX_ATTEMPTS {
        match put(nfs41::Precondition::RegularFile).await {
            Ok(made) => return Ok((meta(&made)?, false)),
            Err(err) if err.is_stale() => {}
            Err(err) if err.status() != Some(Status::NOENT) => return Err(evaluate(&client, &path, err).await),
            Err(_) => match new().await {
                Ok((made, _)) => return Ok((meta(&made)?, true)),
                // Another client created the file in the meantime.
                Err(Error::PreconditionFailed) => {}
                Err(err) => return Err(err),
            },
        }
    }
    Err(Error::Locked)
}

pub(super) async fn append(
    client: Client,
    path: FilePath,
    content: Bytes,
    conditions: Preconditions,
    rules: Rules,
) -> Result<(Metadata, bool)> {
    for _ in 0..MAX_ATTEMPTS {
        let asked = if conditions.is_none() { nfs41::Precondition::None } else { judged(&conditions) };
        let added = client.append(path.as_bytes(), content.clone(), how(asked, rules)).await;
        match added {
            Ok(Some(found)) => return Ok((meta(&found)?, false)),
            // The file or its directory does not exist.
            Ok(None) => {}
            Err(err) if is_missing(&err) => {}
            Err(err) => return Err(evaluate(&client, &path, err).await),
        }
        if !conditions.allow(None) {
            return Err(Error::PreconditionFailed);
        }
        let new = || client.put(path.as_bytes(), content.clone(), how(nfs41::Precondition::Absent, rules));
        match in_its_directory(&client, &path, rules, new).await {
            // Another client created the file in the meantime: append to it.
            Err(Error::PreconditionFailed) => {}
            other => return other.and_then(|(made, _)| Ok((meta(&made)?, true))),
        }
    }
    Err(Error::Locked)
}

pub(super) async fn delete(client: Client, path: FilePath, conditions: Preconditions, rules: Rules) -> Result<()> {
    let removed = match conditions.is_none() {
        true => anew(|| client.remove_file(path.as_bytes())).await,
        false => {
            // Preconditions do not apply to a missing file (RFC 9110, section 13.2.1).
            let asked = nfs41::Precondition::If(Arc::new(move |found| {
                found.map(meta).is_none_or(|found| found.is_ok_and(|found| conditions.allow(Some(&found))))
            }));
            client.remove_if(path.as_bytes(), how(asked, rules)).await
        }
    };
    match removed {
        Ok(()) => Ok(()),
        Err(err) => Err(evaluate(&client, &path, err).await),
    }
}

/// An upload.
pub(super) struct Stage {
    /// `None` after a commit or an abort.
    pub staged: Option<nfs41::Upload>,
    pub client: Client,
    pub path: FilePath,
    pub made: usize,
    pub deadline: Duration,
    pub rules: Rules,
}

fn given_up() -> Error {
    Error::Failed(std::io::Error::other("an earlier piece of the content could not be written"))
}

impl StagedUpload for Stage {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ()> {
        let deadline = self.deadline;
        Box::pin(async move {
            let written = in_time(deadline, self.staged.as_mut().ok_or_else(given_up)?.write(bytes)).await;
            if written.is_err() {
                // A failed write may leave a hole: refuse further writes.
                drop(self.staged.take());
            }
            written
        })
    }

    fn commit(mut self: Box<Self>, conditions: Preconditions) -> BoxFuture<'static, (Metadata, bool)> {
        Box::pin(async move {
            let client = in_time_to_answer(&self.client, self.deadline);
            let before = existing(&client, self.path.as_bytes()).await?;
            if !conditions.allow(before.as_ref()) {
                return Err(Error::PreconditionFailed);
            }
            let asked = match (conditions.is_none(), conditions.is_create_only()) {
                (true, _) => nfs41::Precondition::None,
                (_, true) => nfs41::Precondition::Absent,
                _ => judged(&conditions),
            };
            let how = how(asked, self.rules);
            let staged = self.staged.take().ok_or_else(given_up)?;
            match staged.commit_with(&client, how.precondition, how.time_modify).await {
                Ok(found) => {
                    self.made = 0;
                    Ok((meta(&found)?, before.is_none()))
                }
                // The missing file is the temporary one, not the one that the caller named.
                Err(err) if matches!(err.status(), Some(Status::NOENT | Status::STALE)) => Err(Error::Failed(
                    std::io::Error::other("the temporary file or its directory was removed meanwhile"),
                )),
                Err(err) => Err(error_of(err)),
            }
        })
    }

    fn into_bytes(self: Box<Self>) -> BoxFuture<'static, Bytes> {
        Box::pin(async move {
            let staged = self.staged.as_ref().ok_or_else(given_up)?;
            in_time(self.deadline, staged.read_back()).await
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (staged, made) = (self.staged.take(), self.made);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if staged.is_some() || made > 0 {
            let (client, path, cleaning) = (self.client.clone(), self.path.clone(), self.client.cleanup_guard());
            runtime.spawn(async move {
                let _cleaning = cleaning;
                if let Some(staged) = staged {
                    staged.abort().await;
                }
                remove_made(&client, path.split().0, made).await;
            });
        }
    }
}
