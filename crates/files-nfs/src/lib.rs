//! Mount targets without a mount: an NFSv4.1 client in this process speaks to each of them. It needs no privilege, and
//! no thread of it is held by a target that hangs.

mod changes;
mod clients;
mod reads;
mod scale;
pub mod status;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use domain::published::PublishedTarget;
use nfs41::{AttributeMask, Attributes, Client, DirCursor, PutOptions, Status, Time};

use self::{
    changes::{Stage, append, delete, in_its_directory, put},
    reads::read,
    status::error_of,
};
use crate::clients::Clients;
use files::{
    Backend, Error, Result,
    health::PROBE_TIMEOUT,
    temporary,
    transport::{
        BoxFuture, ETag, Entry, Kind, Metadata, Page, Preconditions, ReadOptions, ReadResult, SWEEP_BATCH_ENTRIES,
        StagedUpload, SweepResult, Transport,
    },
};
use router::path::{DirectoryPath, FilePath, RESERVED_PREFIX};

/// For each directory that is taken away again.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an operation is begun anew when other clients change the path under it.
const TRIES: usize = 32;
/// So much of a content is asked for at once.
const PIECE: u32 = 128 << 10;
/// How often a probe that waits for an answer looks whether there still is a connection.
const LOOK_FOR_CONNECTION_EVERY: Duration = Duration::from_millis(500);
/// Bytes of an answer that lists a directory.
const LISTED: u32 = 64 << 10;

/// How the targets are spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every target; EFS has 2049.
    pub port: u16,
    /// The directory at the server that is the root of all paths.
    pub root: Vec<u8>,
    /// Of each event loop to each target; each is another client for the server.
    pub connections: Connections,
    /// In the clear where there is none.
    pub tls: Option<nfs41::tls::Tls>,
    /// An operation that has not ended by then is given up: what was not sent never is, and a change that was sent is
    /// fenced by way of another target.
    pub deadline: Duration,
    /// For a connection, with its TLS handshake. A probe that finds no connection for so long says why there is none.
    pub connect_deadline: Duration,
    /// The permissions of files and directories that are new.
    pub file_mode: u32,
    pub directory_mode: u32,
    /// The addresses of all targets of the list.
    pub alternatives: nfs41::AlternateAddresses,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connections {
    Fixed(usize),
    /// One at first, and more while that brings throughput.
    Auto,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 2049,
            root: Vec::new(),
            connections: Connections::Fixed(1),
            tls: None,
            deadline: Duration::from_secs(10),
            connect_deadline: Duration::from_secs(2),
            file_mode: 0o644,
            directory_mode: 0o755,
            alternatives: nfs41::AlternateAddresses::default(),
        }
    }
}

impl Options {
    fn client(&self, target: &PublishedTarget) -> nfs41::Options {
        nfs41::Options {
            tls: self.tls.clone(),
            root: self.root.clone(),
            connect_timeout: self.connect_deadline,
            // Whoever comes while there is no connection is told so soon: the path's next choice may work.
            connect_wait: self.connect_deadline.min(self.deadline / 4),
            operation_timeout: Some(self.deadline),
            alternate_addresses: self.alternatives.clone(),
            ..nfs41::Options::new(self.address(target))
        }
    }

    fn address(&self, target: &PublishedTarget) -> SocketAddr {
        SocketAddr::new(target.ip_address, self.port)
    }

    /// A client that only probes, with a connection and a session of its own: a probe never waits behind requests.
    fn prober(&self, target: &PublishedTarget) -> nfs41::Options {
        nfs41::Options {
            connections: 1,
            max_in_flight: 1,
            connect_wait: self.connect_deadline,
            operation_timeout: Some(PROBE_TIMEOUT),
            ..self.client(target)
        }
    }
}

impl Backend for Options {
    fn transport(&self, target: &PublishedTarget, _slot: usize) -> Arc<dyn Transport> {
        let clients = Clients::new(self.client(target), self.connections);
        let prober = Client::new(self.prober(target));
        let Self { deadline, file_mode, directory_mode, .. } = *self;
        let rules = Rules { patience: deadline / 2, file_mode, directory_mode };
        Arc::new(Nfs { clients, prober, deadline, rules })
    }

    fn published(&self, targets: &[PublishedTarget]) {
        self.alternatives.set(targets.iter().map(|target| self.address(target)));
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// One target.
struct Nfs {
    clients: Clients,
    /// For probes alone: they wait behind no request. None where the options cannot be.
    prober: nfs41::Result<Client>,
    deadline: Duration,
    rules: Rules,
}

/// How changes are made.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// For a lock that another client holds.
    patience: Duration,
    file_mode: u32,
    directory_mode: u32,
}

/// The file's properties; an error when it is no regular file.
fn meta(found: &Attributes) -> Result<Metadata> {
    match found.file_type {
        Some(nfs41::FileType::File) => {}
        Some(nfs41::FileType::Directory) => return Err(Error::IsADirectory),
        Some(nfs41::FileType::Symlink) => return Err(Error::LinkInPath),
        _ => return Err(Error::NotAFile),
    }
    let missing = || Error::Failed(std::io::Error::other("the server has not said what was asked of a file"));
    let (id, size, modified) = (found.fileid, found.size, found.time_modify);
    let (id, size, modified) = (id.ok_or_else(missing)?, size.ok_or_else(missing)?, modified.ok_or_else(missing)?);
    Ok(Metadata::new(ETag::new(id, modified.seconds, modified.nanoseconds, size)))
}

/// What is asked of a file that is judged under a lock.
fn judged(conditions: &Preconditions) -> nfs41::Precondition {
    let conditions = conditions.clone();
    nfs41::Precondition::If(Arc::new(move |found| match found.map(meta) {
        None => conditions.allow(None),
        Some(found) => found.is_ok_and(|found| conditions.allow(Some(&found))),
    }))
}

/// How a content is put there under these conditions.
fn how(conditions: nfs41::Precondition, rules: Rules) -> PutOptions {
    let (seconds, nanoseconds) = temporary::unique_time();
    PutOptions {
        precondition: conditions,
        mode: rules.file_mode,
        time_modify: Some(Time { seconds, nanoseconds }),
        temp_name: temporary::name(),
        pin_name: temporary::name(),
        lock_timeout: rules.patience,
    }
}

/// What does nothing where it fails, and again while what its path names is replaced under it.
async fn anew<T, F: Future<Output = nfs41::Result<T>>>(mut act: impl FnMut() -> F) -> nfs41::Result<T> {
    for _ in 1..TRIES {
        match act().await {
            Err(err) if err.is_stale() => {}
            done => return done,
        }
    }
    act().await
}

/// What is under this path; `None` when nothing is.
async fn existing(client: &Client, path: &[u8]) -> Result<Option<Metadata>> {
    match anew(|| client.attributes(path, AttributeMask::STAT)).await {
        Ok(found) => meta(&found).map(Some),
        Err(err) if err.status() == Some(Status::NOENT) => Ok(None),
        Err(err) => Err(error_of(err)),
    }
}

/// Why something could not be done to a file. What is no file cannot be opened, and what it is, another look says.
async fn evaluate(client: &Client, path: &FilePath, err: nfs41::Error) -> Error {
    let is_none = [Status::SYMLINK, Status::WRONG_TYPE, Status::INVAL, Status::NOT_SAME];
    if err.status().is_some_and(|status| is_none.contains(&status))
        && let Err(found) = existing(client, path.as_bytes()).await
    {
        return found;
    }
    match err.status() {
        // It has become a file meanwhile.
        Some(Status::NOT_SAME) => Error::Locked,
        _ => error_of(err),
    }
}

/// A step of something that has begun.
async fn in_time<T>(deadline: Duration, step: impl Future<Output = nfs41::Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, step).await.map_err(|_| Error::Deadline)?.map_err(error_of)
}

/// The page of a directory from this place on, which a number alone is for whoever asks.
async fn page(client: &Client, directory: &[u8], cursor: Option<u64>, wanted: AttributeMask) -> Result<nfs41::Page> {
    let is_first = cursor.is_none();
    let cursor = cursor.map_or_else(DirCursor::default, DirCursor::from_cookie);
    match client.list(directory, cursor, wanted, LISTED).await {
        Err(nfs41::Error::Status {
            op: nfs41::Op::READDIR,
            status: Status::INVAL | Status::TOOSMALL | Status::NOENT,
        }) if !is_first => Err(Error::BadCursor),
        // The server wants to know which state of the directory the number is of: the one that there is now.
        Err(err) if err.status() == Some(Status::NOT_SAME) => {
            let first = client.list(directory, DirCursor::default(), AttributeMask::NONE, 0).await.map_err(error_of)?;
            Ok(client.list(directory, cursor.with_verifier_of(&first), wanted, LISTED).await.map_err(error_of)?)
        }
        other => other.map_err(error_of),
    }
}

async fn list(client: Client, directory: DirectoryPath, mut cursor: Option<u64>, limit: usize) -> Result<Page> {
    let mut entries = Vec::new();
    loop {
        let page = page(&client, directory.as_bytes(), cursor, AttributeMask::TYPE).await?;
        let count = page.entries.len();
        for (number, entry) in page.entries.into_iter().enumerate() {
            if !entry.name.starts_with(RESERVED_PREFIX) {
                let kind = match entry.attributes.file_type {
                    Some(nfs41::FileType::File) => Kind::File,
                    Some(nfs41::FileType::Directory) => Kind::Directory,
                    _ => Kind::Other,
                };
                entries.push(Entry { name: entry.name.to_vec(), kind });
            }
            let is_last = page.eof && number + 1 == count;
            if !is_last && entries.len() >= limit {
                return Ok(Page { entries, next: Some(entry.cookie) });
            }
        }
        if page.eof {
            return Ok(Page { entries, next: None });
        }
        // What one answer of the server holds is a page, so that none is asked for twice.
        let next = Some(page.cursor.cookie());
        if !entries.is_empty() {
            return Ok(Page { entries, next });
        }
        cursor = next;
    }
}

async fn sweep(
    client: Client,
    directory: DirectoryPath,
    mut cursor: Option<u64>,
    age: Duration,
) -> Result<SweepResult> {
    let oldest = Time::from(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
    let (mut swept, mut seen) = (SweepResult::default(), 0);
    while seen < SWEEP_BATCH_ENTRIES {
        let page =
            page(&client, directory.as_bytes(), cursor, AttributeMask::TYPE | AttributeMask::TIME_MODIFY).await?;
        seen += page.entries.len();
        for entry in &page.entries {
            let below = [directory.as_bytes(), &entry.name].join(&b'/');
            let below = below.strip_prefix(b"/").unwrap_or(&below);
            match entry.attributes.file_type {
                Some(nfs41::FileType::File) if temporary::is(&entry.name) => {
                    let stale = entry.attributes.time_modify.is_some_and(|modified| modified < oldest);
                    if stale && client.remove_file(below).await.is_ok() {
                        swept.removed += 1;
                    }
                }
                // One whose path is too long to be asked for holds nothing that came through here.
                Some(nfs41::FileType::Directory) => swept.directories.extend(DirectoryPath::new(below).ok()),
                _ => {}
            }
        }
        if page.eof {
            return Ok(swept);
        }
        cursor = Some(page.cursor.cookie());
        swept.next = cursor;
    }
    Ok(swept)
}

/// Waits until there has been no connection for as long as the client waits for one. Why there is none.
async fn no_connection(client: &Client) -> nfs41::Error {
    loop {
        if let Err(err) = client.server_identities().await {
            return err;
        }
        tokio::time::sleep(LOOK_FOR_CONNECTION_EVERY).await;
    }
}

impl Nfs {
    /// The client of the event loop that this is called in.
    fn client(&self) -> Result<Client> {
        self.clients.here().map_err(error_of)
    }

    fn prober(&self) -> Result<Client> {
        self.prober.clone().map_err(error_of)
    }

    /// All the calls of one operation have this time together.
    fn reads(&self) -> Result<Client> {
        Ok(self.client()?.with_deadline(tokio::time::Instant::now() + self.deadline))
    }

    fn changes(&self) -> Result<Client> {
        Ok(in_time_to_answer(&self.client()?, self.deadline))
    }
}

/// A change goes on to its end: who else may change its path must know that it has ended. What it sends it has sent so
/// long before the deadline that a late call can be fenced by then.
fn in_time_to_answer(client: &Client, deadline: Duration) -> Client {
    const FENCING_TIMEOUT: Duration = Duration::from_secs(2);
    client.with_deadline(tokio::time::Instant::now() + deadline - FENCING_TIMEOUT.min(deadline / 4))
}

impl Transport for Nfs {
    fn probe(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let (prober, client) = (self.prober()?, self.client()?);
            let asked = async {
                let found = prober.attributes(b"", AttributeMask::TYPE).await?;
                // Requests have connections of their own.
                if !client.is_connected() {
                    client.server_identities().await?;
                }
                Ok(found)
            };
            let found = tokio::select! {
                found = asked => found,
                err = no_connection(&prober) => Err(err),
            };
            match found.map_err(std::io::Error::from) {
                Ok(found) if found.file_type == Some(nfs41::FileType::Directory) => Ok(()),
                Ok(_) => Err(Error::NotADirectory),
                // Why it is not reached, and not only that it is not.
                Err(err) => Err(Error::Failed(err)),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let prober = self.prober()?;
            tokio::join!(self.clients.close(), prober.close());
            Ok(())
        })
    }

    fn connections(&self) -> Option<usize> {
        Some(self.clients.connections())
    }

    fn read(&self, path: &FilePath, want: &ReadOptions) -> BoxFuture<'_, ReadResult> {
        let (path, want) = (path.clone(), want.clone());
        Box::pin(async { read(self.reads()?, path, want, self.deadline).await })
    }

    fn put(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)> {
        let path = path.clone();
        Box::pin(async { put(self.changes()?, path, content, conditions, self.rules).await })
    }

    fn stage(&self, path: &FilePath) -> BoxFuture<'_, Box<dyn StagedUpload>> {
        let path = path.clone();
        Box::pin(async {
            let (client, deadline, rules) = (self.client()?, self.deadline, self.rules);
            let begin = || client.begin_upload(path.as_bytes(), how(nfs41::Precondition::None, rules));
            let until = in_time_to_answer(&client, deadline);
            let (staged, made) = in_its_directory(&until, &path, rules, begin).await?;
            let staged = Some(staged);
            Ok(Box::new(Stage { staged, client, path, made, deadline, rules }) as Box<dyn StagedUpload>)
        })
    }

    fn append(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)> {
        let path = path.clone();
        Box::pin(async { append(self.changes()?, path, content, conditions, self.rules).await })
    }

    fn delete(&self, path: &FilePath, conditions: Preconditions) -> BoxFuture<'_, ()> {
        let path = path.clone();
        Box::pin(async { delete(self.changes()?, path, conditions, self.rules).await })
    }

    fn list(&self, directory: &DirectoryPath, cursor: Option<u64>, limit: usize) -> BoxFuture<'_, Page> {
        let directory = directory.clone();
        Box::pin(async move { list(self.reads()?, directory, cursor, limit).await })
    }

    fn sweep(&self, directory: &DirectoryPath, cursor: Option<u64>, age: Duration) -> BoxFuture<'_, SweepResult> {
        let directory = directory.clone();
        Box::pin(async move { sweep(self.client()?, directory, cursor, age).await })
    }
}
