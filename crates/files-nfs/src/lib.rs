//! The backend without a mount: an NFSv4.1 client in this process connects to each mount target. It needs no privilege,
//! and a target that hangs blocks no thread.

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

/// Timeout for the removal of each directory that was created for a failed write.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of restarts of an operation whose path other clients change concurrently.
const MAX_ATTEMPTS: usize = 32;
/// Size of a READ.
const READ_BYTES: u32 = 128 << 10;
/// How often a pending probe checks that the connection still exists.
const CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum size of a READDIR reply.
const READDIR_REPLY_BYTES: u32 = 64 << 10;

/// Options of the backend.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port of every target; 2049 on EFS.
    pub port: u16,
    /// The directory of the server that is the root of all paths.
    pub root: Vec<u8>,
    /// Connections of each event loop to each target. To the server, each is a client of its own.
    pub connections: Connections,
    /// TLS; `None` connects in plain text.
    pub tls: Option<nfs41::tls::Tls>,
    /// Maximum duration of an operation. After it, calls that were not sent are cancelled, and a change that was sent is
    /// fenced through another target.
    pub deadline: Duration,
    /// Timeout of a connection with its TLS handshake. A probe without a connection for this long reports the cause.
    pub connect_deadline: Duration,
    /// Permissions of new files and directories.
    pub file_mode: u32,
    pub directory_mode: u32,
    /// The addresses of all targets of the list.
    pub alternatives: nfs41::AlternateAddresses,
}

/// The number of connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connections {
    Fixed(usize),
    /// One at first, and more while they increase throughput.
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
            // Fail fast without a connection: the next target of the path may be healthy.
            connect_wait: self.connect_deadline.min(self.deadline / 4),
            operation_timeout: Some(self.deadline),
            alternate_addresses: self.alternatives.clone(),
            ..nfs41::Options::new(self.address(target))
        }
    }

    fn address(&self, target: &PublishedTarget) -> SocketAddr {
        SocketAddr::new(target.ip_address, self.port)
    }

    /// The client of the probes, with a connection and a session of its own: a probe never waits behind requests.
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

/// The transport to one target.
struct Nfs {
    clients: Clients,
    /// For probes only, so that they never wait behind requests. An error if the options are invalid.
    prober: nfs41::Result<Client>,
    deadline: Duration,
    rules: Rules,
}

/// Rules for changes.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Maximum time to wait for a lock that another client holds.
    patience: Duration,
    file_mode: u32,
    directory_mode: u32,
}

/// The metadata of a regular file; an error for any other type.
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

/// The preconditions as a predicate, which is evaluated while the file is locked.
fn judged(conditions: &Preconditions) -> nfs41::Precondition {
    let conditions = conditions.clone();
    nfs41::Precondition::If(Arc::new(move |found| match found.map(meta) {
        None => conditions.allow(None),
        Some(found) => found.is_ok_and(|found| conditions.allow(Some(&found))),
    }))
}

/// The options of a `put` with these preconditions.
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

/// Repeats an idempotent operation while other clients replace the file of its path.
async fn anew<T, F: Future<Output = nfs41::Result<T>>>(mut act: impl FnMut() -> F) -> nfs41::Result<T> {
    for _ in 1..MAX_ATTEMPTS {
        match act().await {
            Err(err) if err.is_stale() => {}
            done => return done,
        }
    }
    act().await
}

/// The metadata of the file at this path; `None` if it does not exist.
async fn existing(client: &Client, path: &[u8]) -> Result<Option<Metadata>> {
    match anew(|| client.attributes(path, AttributeMask::STAT)).await {
        Ok(found) => meta(&found).map(Some),
        Err(err) if err.status() == Some(Status::NOENT) => Ok(None),
        Err(err) => Err(error_of(err)),
    }
}

/// The error of an operation on a file. OPEN fails for other types with an ambiguous status; a GETATTR tells which type
/// it is.
async fn evaluate(client: &Client, path: &FilePath, err: nfs41::Error) -> Error {
    let is_none = [Status::SYMLINK, Status::WRONG_TYPE, Status::INVAL, Status::NOT_SAME];
    if err.status().is_some_and(|status| is_none.contains(&status))
        && let Err(found) = existing(client, path.as_bytes()).await
    {
        return found;
    }
    match err.status() {
        // It became a file in the meantime.
        Some(Status::NOT_SAME) => Error::Locked,
        _ => error_of(err),
    }
}

/// A step of an upload, with a deadline.
async fn in_time<T>(deadline: Duration, step: impl Future<Output = nfs41::Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, step).await.map_err(|_| Error::Deadline)?.map_err(error_of)
}

/// The page of a directory from this cursor. Callers have the cookie only, without its verifier.
async fn page(client: &Client, directory: &[u8], cursor: Option<u64>, wanted: AttributeMask) -> Result<nfs41::Page> {
    let is_first = cursor.is_none();
    let cursor = cursor.map_or_else(DirCursor::default, DirCursor::from_cookie);
    match client.list(directory, cursor, wanted, READDIR_REPLY_BYTES).await {
        Err(nfs41::Error::Status {
            op: nfs41::Op::READDIR,
            status: Status::INVAL | Status::TOOSMALL | Status::NOENT,
        }) if !is_first => Err(Error::BadCursor),
        // The server checks the cookie verifier: use that of the directory's current state.
        Err(err) if err.status() == Some(Status::NOT_SAME) => {
            let first = client.list(directory, DirCursor::default(), AttributeMask::NONE, 0).await.map_err(error_of)?;
            Ok(client
                .list(directory, cursor.with_verifier_of(&first), wanted, READDIR_REPLY_BYTES)
                .await
                .map_err(error_of)?)
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
        // A page is one reply of the server, so that no entry is requested twice.
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
                // A directory whose path is too long was not created through this service.
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

/// Waits until there was no connection for the connect timeout, and returns the cause.
async fn no_connection(client: &Client) -> nfs41::Error {
    loop {
        if let Err(err) = client.server_identities().await {
            return err;
        }
        tokio::time::sleep(CONNECTION_POLL_INTERVAL).await;
    }
}

impl Nfs {
    /// The client of the current event loop.
    fn client(&self) -> Result<Client> {
        self.clients.here().map_err(error_of)
    }

    fn prober(&self) -> Result<Client> {
        self.prober.clone().map_err(error_of)
    }

    /// A client with the deadline of a read, for all of its calls together.
    fn reads(&self) -> Result<Client> {
        Ok(self.client()?.with_deadline(tokio::time::Instant::now() + self.deadline))
    }

    fn changes(&self) -> Result<Client> {
        Ok(in_time_to_answer(&self.client()?, self.deadline))
    }
}

/// A client with the deadline of a change. It stops sending early enough before the deadline that a late call can still be
/// fenced, so that the change has ended when its path is unlocked.
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
                // Requests use other connections than probes: check those too.
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
                // Report the cause, not only the timeout.
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
