//! Connections to what is measured: a local directory, or a mount target through the project's NFS client.

use std::{io, os::unix::fs::FileExt as _, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use nfs41::{AttributeMask, Client, DirCursor, PutOptions, Status};
use probe::{Dial, Host};
use tokio::{task::spawn_blocking, time::sleep};

/// Size of one READDIR page.
const PAGE_BYTES: u32 = 64 << 10;

/// Operations that were in flight when the run was interrupted may still create files while their directory is being
/// removed: neither `spawn_blocking` nor a sent call can be cancelled. They end within milliseconds; this allows 5 s.
const MAX_REMOVE_ATTEMPTS: usize = 100;
const REMOVE_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A TARGET argument: a path that begins with `/` or `.`, else a host.
#[derive(Clone, Debug)]
pub enum Target {
    Directory(PathBuf),
    Host(Host),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with('/') || text.starts_with('.') {
            true => Ok(Self::Directory(text.into())),
            false => text
                .parse()
                .map(Self::Host)
                .map_err(|err: &str| format!("{err}; or a directory that begins with / or .")),
        }
    }
}

impl Target {
    pub fn name(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Host(host) => host.to_string(),
        }
    }
}

/// A connection to one target. Paths are relative to the root of the target.
#[derive(Clone)]
pub enum Connection {
    Directory(Arc<PathBuf>),
    Nfs(Client),
}

impl Connection {
    /// # Errors
    /// The target does not exist, cannot be reached, or is not a directory.
    pub async fn open(target: &Target, dial: &Dial, root: &str) -> Result<Self> {
        match target {
            Target::Directory(path) => {
                let is_directory = tokio::fs::metadata(path).await.is_ok_and(|found| found.is_dir());
                is_directory
                    .then(|| Self::Directory(Arc::new(path.clone())))
                    .with_context(|| format!("{} is not an accessible directory", path.display()))
            }
            Target::Host(host) => {
                let address = host.resolve().await.with_context(|| host.to_string())?;
                let mut options = dial.client_options(address, root.as_bytes().to_vec());
                options.connections = 1;
                let client = Client::new(options).map_err(|err| anyhow!("--root {root}: {err}"))?;
                client.attributes(b"", AttributeMask::TYPE).await.with_context(|| host.to_string())?;
                Ok(Self::Nfs(client))
            }
        }
    }

    pub async fn close(&self) {
        if let Self::Nfs(client) = self {
            client.close().await;
        }
    }

    async fn blocking<T: Send + 'static>(
        root: &Arc<PathBuf>,
        path: &str,
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = root.join(path);
        Ok(spawn_blocking(move || work(path)).await??)
    }

    pub async fn make_directory(&self, path: &str) -> Result<()> {
        match self {
            Self::Directory(root) => Self::blocking(root, path, std::fs::create_dir).await,
            Self::Nfs(client) => Ok(client.create_dir(path.as_bytes(), 0o700).await?),
        }
    }

    /// Creates or replaces a whole file.
    pub async fn put(&self, path: &str, content: Bytes) -> Result<()> {
        match self {
            Self::Directory(root) => Self::blocking(root, path, move |path| std::fs::write(path, &content)).await,
            Self::Nfs(client) => {
                client.put(path.as_bytes(), content, PutOptions::default()).await.map(drop).map_err(Into::into)
            }
        }
    }

    /// Returns the number of bytes read.
    pub async fn read(&self, path: &str, offset: u64, length: u32) -> Result<u64> {
        match self {
            Self::Directory(root) => {
                let read = move |path: PathBuf| {
                    let mut buffer = vec![0; length as usize];
                    std::fs::File::open(path)?.read_at(&mut buffer, offset)
                };
                Self::blocking(root, path, read).await.map(|read| read as u64)
            }
            Self::Nfs(client) => Ok(client.read(path.as_bytes(), offset, length).await?.data.len() as u64),
        }
    }

    /// Writes into an existing file.
    pub async fn write(&self, path: &str, offset: u64, content: Bytes) -> Result<()> {
        match self {
            Self::Directory(root) => {
                let write = move |path: PathBuf| {
                    let file = std::fs::OpenOptions::new().write(true).open(path)?;
                    file.write_all_at(&content, offset)
                };
                Self::blocking(root, path, write).await
            }
            Self::Nfs(client) => client.write_at(path.as_bytes(), offset, content).await.map(drop).map_err(Into::into),
        }
    }

    pub async fn attributes(&self, path: &str) -> Result<()> {
        match self {
            Self::Directory(root) => Self::blocking(root, path, |path| std::fs::metadata(path).map(drop)).await,
            Self::Nfs(client) => {
                client.attributes(path.as_bytes(), AttributeMask::SIZE).await.map(drop).map_err(Into::into)
            }
        }
    }

    pub async fn remove_file(&self, path: &str) -> Result<()> {
        match self {
            Self::Directory(root) => Self::blocking(root, path, std::fs::remove_file).await,
            Self::Nfs(client) => Ok(client.remove_file(path.as_bytes()).await?),
        }
    }

    /// Names of the directory's entries.
    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        match self {
            Self::Directory(root) => {
                let list =
                    |path| std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
                let names = Self::blocking(root, path, list).await?;
                Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
            }
            Self::Nfs(client) => {
                let (mut names, mut cookie) = (Vec::new(), DirCursor::default());
                loop {
                    let page = client.list(path.as_bytes(), cookie, AttributeMask::NONE, PAGE_BYTES).await?;
                    names.extend(page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
                    if page.eof {
                        return Ok(names);
                    }
                    cookie = page.cursor;
                }
            }
        }
    }

    /// Removes a directory and the files in it. A directory that does not exist counts as removed.
    ///
    /// # Errors
    /// The directory or a file cannot be removed, or files are still being created after [`MAX_REMOVE_ATTEMPTS`].
    pub async fn remove_all(&self, path: &str) -> Result<()> {
        retry_while_not_empty(async || self.remove_all_once(path).await).await
    }

    async fn remove_all_once(&self, path: &str) -> Result<()> {
        match self {
            Self::Directory(root) => {
                let removed = Self::blocking(root, path, std::fs::remove_dir_all).await;
                match removed.as_ref().err().and_then(|err| err.downcast_ref::<io::Error>()) {
                    Some(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
                    _ => removed,
                }
            }
            Self::Nfs(client) => {
                let names = match self.list(path).await {
                    Ok(names) => names,
                    Err(err) if nfs_status(&err) == Some(Status::NOENT) => return Ok(()),
                    Err(err) => return Err(err),
                };
                for name in names {
                    match client.remove_file(format!("{path}/{name}").as_bytes()).await {
                        Err(err) if err.status() != Some(Status::NOENT) => return Err(err.into()),
                        _ => {}
                    }
                }
                Ok(client.remove_dir(path.as_bytes()).await?)
            }
        }
    }
}

async fn retry_while_not_empty(mut remove: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    for _ in 1..MAX_REMOVE_ATTEMPTS {
        match remove().await {
            Err(err) if is_not_empty(&err) => sleep(REMOVE_RETRY_INTERVAL).await,
            removed => return removed,
        }
    }
    remove().await
}

/// RFC 8881 lets REMOVE of a directory that is not empty answer NOTEMPTY or EXIST.
fn is_not_empty(err: &anyhow::Error) -> bool {
    err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::DirectoryNotEmpty)
        || matches!(nfs_status(err), Some(Status::NOTEMPTY | Status::EXIST))
}

fn nfs_status(err: &anyhow::Error) -> Option<Status> {
    err.downcast_ref::<nfs41::Error>().and_then(nfs41::Error::status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_still_written_to_is_removed() {
        let mut attempts = 0;
        let removed = retry_while_not_empty(async || {
            attempts += 1;
            if attempts < 3 { Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty).into()) } else { Ok(()) }
        });
        removed.await.unwrap();
        assert_eq!(attempts, 3);
    }

    #[tokio::test]
    async fn another_error_ends_the_removal() {
        let mut attempts = 0;
        let removed = retry_while_not_empty(async || {
            attempts += 1;
            Err(io::Error::from(io::ErrorKind::PermissionDenied).into())
        });
        assert!(removed.await.is_err());
        assert_eq!(attempts, 1);
    }
}
