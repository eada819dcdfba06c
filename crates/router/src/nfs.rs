//! Mount targets without a mount: an NFSv4.1 client in this process speaks to each of them. It needs no privilege, and
//! no thread of it is held by a target that hangs.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use domain::published::PublishedTarget;
use nfs41::{Attributes, Client, Place, Put, Status, Time, Wanted};

use crate::{
    buffers,
    clients::Clients,
    error::{Error, Result},
    files::Backend,
    path::{BadPath, DirectoryPath, FilePath},
    target::{
        Answer, Conditions, Entry, Kind, Meta, Page, Reading, Rest, SWEPT_AT_ONCE, Staged, Swept, Tag, Target, Verdict,
        Want,
    },
    temporary,
};

/// How often an operation is begun anew when other clients change the path under it.
const TRIES: usize = 32;
/// So much of a content is asked for at once.
const PIECE: u32 = 128 << 10;
/// Bytes of an answer that lists a directory.
const LISTED: u32 = 64 << 10;

/// How the targets are spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every target; EFS has 2049.
    pub port: u16,
    /// The directory at the server that is the root of all paths.
    pub root: Vec<u8>,
    /// To each target; each is another client for the server.
    pub connections: usize,
    /// In the clear where there is none.
    pub tls: Option<nfs41::tls::Tls>,
    /// An operation that has not ended by then is given up, as far as it can be.
    pub deadline: Duration,
    /// A probe that has not answered by then has failed.
    pub probe_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 2049,
            root: Vec::new(),
            connections: 1,
            tls: None,
            deadline: Duration::from_secs(10),
            probe_deadline: Duration::from_secs(2),
        }
    }
}

impl Options {
    fn client(&self, target: &PublishedTarget) -> nfs41::Options {
        nfs41::Options {
            tls: self.tls.clone(),
            root: self.root.clone(),
            connections: self.connections,
            connect_deadline: self.probe_deadline,
            // Whoever comes while there is no connection is told so soon: the path's next choice may work.
            patience: self.probe_deadline.min(self.deadline / 4),
            deadline: Some(self.deadline),
            ..nfs41::Options::new(SocketAddr::new(IpAddr::V4(target.ip_address), self.port))
        }
    }
}

impl Backend for Options {
    fn target(&self, target: &PublishedTarget, _place: usize) -> Arc<dyn Target> {
        let clients = Clients::new(self.client(target));
        Arc::new(Nfs { clients, probe_deadline: self.probe_deadline, patience: self.deadline / 2 })
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// One target.
struct Nfs {
    clients: Clients,
    probe_deadline: Duration,
    /// For a lock that another client holds.
    patience: Duration,
}

impl From<nfs41::Error> for Error {
    fn from(why: nfs41::Error) -> Self {
        match &why {
            nfs41::Error::Status { status, .. } => match *status {
                Status::NOENT => Self::NotFound,
                Status::NOTDIR => Self::NotADirectory,
                Status::ISDIR => Self::IsADirectory,
                Status::SYMLINK => Self::LinkInPath,
                Status::NAMETOOLONG => Self::BadPath(BadPath::Long),
                Status::NOSPC | Status::DQUOT | Status::FBIG => Self::NoSpace,
                Status::ACCESS | Status::PERM | Status::ROFS => Self::Denied(why.into()),
                Status::DENIED | Status::LOCKED | Status::FILE_OPEN => Self::Locked,
                Status::BAD_COOKIE | Status::NOT_SAME => Self::BadPlace,
                _ => Self::Failed(why.into()),
            },
            // Nothing was sent.
            nfs41::Error::Unreachable { .. } | nfs41::Error::Busy(_) | nfs41::Error::Closed => Self::Busy,
            nfs41::Error::Deadline(_) => Self::Deadline,
            nfs41::Error::Uncertain(_) => Self::Uncertain,
            nfs41::Error::ConditionFailed => Self::PreconditionFailed,
            _ => Self::Failed(why.into()),
        }
    }
}

/// The file's properties; an error when it is no regular file.
fn meta(found: &Attributes) -> Result<Meta> {
    match found.kind {
        Some(nfs41::Kind::File) => {}
        Some(nfs41::Kind::Directory) => return Err(Error::IsADirectory),
        Some(nfs41::Kind::Link) => return Err(Error::LinkInPath),
        _ => return Err(Error::NotAFile),
    }
    let missing = || Error::Failed(std::io::Error::other("the server has not said what was asked of a file"));
    let (id, size, modified) = (found.file_id, found.size, found.modified);
    let (id, size, modified) = (id.ok_or_else(missing)?, size.ok_or_else(missing)?, modified.ok_or_else(missing)?);
    Ok(Meta::new(Tag::new(id, modified.seconds, modified.nanoseconds, size)))
}

/// What is asked of a file that is judged under a lock.
fn judged(conditions: &Conditions) -> nfs41::Conditions {
    let conditions = conditions.clone();
    nfs41::Conditions::If(Arc::new(move |found| match found.map(meta) {
        None => conditions.allow(None),
        Some(found) => found.is_ok_and(|found| conditions.allow(Some(&found))),
    }))
}

/// How a content is put there under these conditions.
fn how(conditions: nfs41::Conditions, patience: Duration) -> Put {
    let (seconds, nanoseconds) = temporary::unique_time();
    Put {
        conditions,
        mode: 0o666,
        modified: Some(Time { seconds, nanoseconds }),
        temporary: temporary::name(),
        alias: temporary::name(),
        patience,
    }
}

/// What does nothing where it fails, and again while what its path names is replaced under it.
async fn anew<T, F: Future<Output = nfs41::Result<T>>>(mut act: impl FnMut() -> F) -> nfs41::Result<T> {
    for _ in 1..TRIES {
        match act().await {
            Err(why) if why.is_gone() => {}
            done => return done,
        }
    }
    act().await
}

/// What is under this path; `None` when nothing is.
async fn existing(client: &Client, path: &[u8]) -> Result<Option<Meta>> {
    match anew(|| client.attributes(path, Wanted::USUAL)).await {
        Ok(found) => meta(&found).map(Some),
        Err(why) if why.status() == Some(Status::NOENT) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// Why something could not be done to a file. What is no file cannot be opened, and what it is, another look says.
async fn judge(client: &Client, path: &FilePath, why: nfs41::Error) -> Error {
    let is_none = [Status::SYMLINK, Status::WRONG_TYPE, Status::INVAL, Status::NOT_SAME];
    if why.status().is_some_and(|status| is_none.contains(&status))
        && let Err(found) = existing(client, path.as_bytes()).await
    {
        return found;
    }
    match why.status() {
        // It has become a file meanwhile.
        Some(Status::NOT_SAME) => Error::Locked,
        _ => why.into(),
    }
}

/// Does what needs the directory of a path, which is made if it is missing, and goes again if that fails.
async fn in_its_directory<T, F: Future<Output = nfs41::Result<T>>>(
    client: &Client,
    path: &FilePath,
    mut act: impl FnMut() -> F,
) -> Result<(T, usize)> {
    let directory = path.split().0;
    let mut made = 0;
    let mut tries = 0;
    loop {
        tries += 1;
        match act().await {
            Err(why) if why.status() == Some(Status::NOENT) && tries < TRIES => {
                made = made.max(client.make_directories(directory, 0o777).await?);
            }
            Err(why) => {
                remove_made(client, directory, made).await;
                return Err(why.into());
            }
            Ok(done) => return Ok((done, made)),
        }
    }
}

/// The last so many directories of this path, as far as they are empty.
async fn remove_made(client: &Client, mut directory: &[u8], made: usize) {
    for _ in 0..made {
        if client.remove(directory).await.is_err() {
            return;
        }
        directory = directory.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &directory[..slash]);
    }
}

/// A plain write is one round trip where it replaces a file, and two where there is none.
async fn put(
    client: Client,
    path: FilePath,
    content: Bytes,
    conditions: Conditions,
    patience: Duration,
) -> Result<(Meta, bool)> {
    let put = |conditions| client.put(path.as_bytes(), content.clone(), how(conditions, patience));
    let new = || in_its_directory(&client, &path, || put(nfs41::Conditions::New));
    if !conditions.is_none() {
        // What they will say, before anything is made.
        let before = existing(&client, path.as_bytes()).await?;
        if !conditions.allow(before.as_ref()) {
            return Err(Error::PreconditionFailed);
        }
        let made = match conditions.is_create_only() {
            true => new().await?.0,
            false => in_its_directory(&client, &path, || put(judged(&conditions))).await?.0,
        };
        return Ok((meta(&made)?, before.is_none()));
    }
    for _ in 0..TRIES {
        match put(nfs41::Conditions::File).await {
            Ok(made) => return Ok((meta(&made)?, false)),
            Err(why) if why.is_gone() => {}
            Err(why) if why.status() != Some(Status::NOENT) => return Err(judge(&client, &path, why).await),
            Err(_) => match new().await {
                Ok((made, _)) => return Ok((meta(&made)?, true)),
                // Somebody made it meanwhile.
                Err(Error::PreconditionFailed) => {}
                Err(why) => return Err(why),
            },
        }
    }
    Err(Error::Locked)
}

async fn append(
    client: Client,
    path: FilePath,
    content: Bytes,
    conditions: Conditions,
    patience: Duration,
) -> Result<(Meta, bool)> {
    for _ in 0..TRIES {
        let asked = if conditions.is_none() { nfs41::Conditions::None } else { judged(&conditions) };
        let added = client.append(path.as_bytes(), content.clone(), how(asked, patience)).await;
        match added {
            Ok(Some(found)) => return Ok((meta(&found)?, false)),
            // There is no file, or not even its directory.
            Ok(None) => {}
            Err(why) if why.status() == Some(Status::NOENT) => {}
            Err(why) => return Err(judge(&client, &path, why).await),
        }
        if !conditions.allow(None) {
            return Err(Error::PreconditionFailed);
        }
        let new = || client.put(path.as_bytes(), content.clone(), how(nfs41::Conditions::New, patience));
        match in_its_directory(&client, &path, new).await {
            // Somebody made it meanwhile: add to that.
            Err(Error::PreconditionFailed) => {}
            other => return other.and_then(|(made, _)| Ok((meta(&made)?, true))),
        }
    }
    Err(Error::Locked)
}

async fn delete(client: Client, path: FilePath, conditions: Conditions, patience: Duration) -> Result<()> {
    let removed = match conditions.is_none() {
        true => anew(|| client.remove_file(path.as_bytes())).await,
        false => client.remove_if(path.as_bytes(), how(judged(&conditions), patience)).await,
    };
    match removed {
        Ok(()) => Ok(()),
        Err(why) => Err(judge(&client, &path, why).await),
    }
}

/// From this byte on, as much as one piece holds.
fn first_piece(want: &Want) -> Option<(u64, u32)> {
    let conditions = &want.conditions;
    let asks = conditions.is_none() && conditions.modified_since.is_none() && want.part_if.is_none();
    match want.part {
        _ if want.only_meta || !asks => None,
        None => Some((0, PIECE)),
        Some(crate::target::Part::From(from, to)) => {
            let length = to.map_or(u64::from(PIECE), |to| to.saturating_sub(from).saturating_add(1));
            Some((from, u32::try_from(length).unwrap_or(PIECE).min(PIECE)))
        }
        // Where it begins depends on the size.
        Some(crate::target::Part::Last(_)) => None,
    }
}

/// Up to so many bytes, as many as there is room for.
async fn read_piece(client: &Client, path: &FilePath, from: u64, length: u32) -> nfs41::Result<nfs41::Content> {
    let room = buffers::room(length as usize);
    let found = client.read(path.as_bytes(), from, room.bytes()).await?;
    Ok(nfs41::Content { data: room.hold(found.data), ..found })
}

/// The next bytes of a file that is held, as many as there is room for.
async fn read_on(file: &nfs41::File, at: u64, to: u64) -> nfs41::Result<Bytes> {
    let room = buffers::room(piece(at, to) as usize);
    let (data, _) = file.read(at, room.bytes()).await?;
    Ok(room.hold(data))
}

async fn read(client: Client, path: FilePath, want: Want, deadline: Duration) -> Result<Reading> {
    anew(|| read_once(&client, &path, &want, deadline)).await?
}

async fn read_once(
    client: &Client,
    path: &FilePath,
    want: &Want,
    deadline: Duration,
) -> nfs41::Result<Result<Reading>> {
    let found = match first_piece(want) {
        None => None,
        Some((from, length)) => match read_piece(client, path, from, length).await {
            Ok(found) => Some((from, found)),
            // A directory or a link cannot be read, nor what is behind the end of everything.
            Err(nfs41::Error::Status { op: nfs41::Op::READ, status }) if status != Status::STALE => None,
            Err(why) => return Err(why),
        },
    };
    let meta = match &found {
        Some((_, found)) => meta(&found.attributes),
        None => meta(&client.attributes(path.as_bytes(), Wanted::USUAL).await?),
    };
    let meta = match meta {
        Ok(meta) => meta,
        Err(why) => return Ok(Err(why)),
    };
    let verdict = want.judge(&meta);
    let nothing = Reading { meta, verdict, first: Bytes::new(), rest: None };
    let (from, to) = match verdict {
        Verdict::Content { from, to, .. } if !want.only_meta && from < to => (from, to),
        _ => return Ok(Ok(nothing)),
    };
    let found = match found {
        Some((place, found)) if place == from => found,
        _ => read_piece(client, path, from, piece(from, to)).await?,
    };
    // Another file by now, or another content.
    if self::meta(&found.attributes).is_ok_and(|found| found.tag != meta.tag) {
        return Err(nfs41::Error::Status { op: nfs41::Op::READ, status: Status::STALE });
    }
    let wanted = usize::try_from(to - from).unwrap_or(usize::MAX).min(found.data.len());
    let first = found.data.slice(..wanted);
    if first.is_empty() {
        return Ok(Err(Error::Shortened));
    }
    let at = from + first.len() as u64;
    let rest = match at < to {
        false => None,
        // It stays until all of it is read, whoever replaces it. NFS-Ganesha may forget an OPEN that comes while the name
        // is being given to another file, and the file with it; so the next piece is read before anything is answered,
        // while all of it can still be read anew.
        true => {
            let file = client.hold_to_read(&found.handle).await?;
            let ahead = read_on(&file, at, to).await?;
            if ahead.is_empty() {
                return Ok(Err(Error::Shortened));
            }
            let at = at + ahead.len() as u64;
            Some(Box::new(Remaining { file, deadline, ahead, at, to }) as Box<dyn Rest>)
        }
    };
    Ok(Ok(Reading { first, rest, ..nothing }))
}

/// How much of these bytes is asked for at once.
fn piece(from: u64, to: u64) -> u32 {
    u32::try_from(to - from).unwrap_or(PIECE).min(PIECE)
}

/// A step of something that has begun.
async fn in_time<T>(deadline: Duration, step: impl Future<Output = nfs41::Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, step).await.map_err(|_| Error::Deadline)?.map_err(Error::from)
}

/// The rest of a file that is being read.
struct Remaining {
    file: nfs41::File,
    deadline: Duration,
    /// What was read already; what comes next, if it is not empty.
    ahead: Bytes,
    /// The first byte that was not.
    at: u64,
    to: u64,
}

impl Rest for Remaining {
    fn next(mut self: Box<Self>) -> Answer<'static, (Bytes, Box<dyn Rest>)> {
        Box::pin(async move {
            if !self.ahead.is_empty() || self.at == self.to {
                return Ok((std::mem::take(&mut self.ahead), self as Box<dyn Rest>));
            }
            let piece = in_time(self.deadline, read_on(&self.file, self.at, self.to)).await?;
            if piece.is_empty() {
                return Err(Error::Shortened);
            }
            self.at += piece.len() as u64;
            Ok((piece, self as Box<dyn Rest>))
        })
    }
}

/// A content that comes in pieces.
struct Stage {
    /// Gone when it is committed or given up.
    staged: Option<nfs41::Staged>,
    client: Client,
    path: FilePath,
    made: usize,
    /// Half of the deadline of an operation.
    patience: Duration,
}

fn given_up() -> Error {
    Error::Failed(std::io::Error::other("an earlier piece of the content could not be written"))
}

impl Staged for Stage {
    fn write(&mut self, bytes: Bytes) -> Answer<'_, ()> {
        let deadline = 2 * self.patience;
        Box::pin(async move {
            let written = in_time(deadline, self.staged.as_mut().ok_or_else(given_up)?.write(bytes)).await;
            if written.is_err() {
                // It has a hole, or will have: nothing comes after it.
                drop(self.staged.take());
            }
            written
        })
    }

    fn commit(mut self: Box<Self>, conditions: Conditions) -> Answer<'static, (Meta, bool)> {
        Box::pin(async move {
            let before = existing(&self.client, self.path.as_bytes()).await?;
            if !conditions.allow(before.as_ref()) {
                return Err(Error::PreconditionFailed);
            }
            let asked = match (conditions.is_none(), conditions.is_create_only()) {
                (true, _) => nfs41::Conditions::None,
                (_, true) => nfs41::Conditions::New,
                _ => judged(&conditions),
            };
            let how = how(asked, self.patience);
            let staged = self.staged.take().ok_or_else(given_up)?;
            match staged.commit_if(how.conditions, how.modified).await {
                Ok(found) => {
                    self.made = 0;
                    Ok((meta(&found)?, before.is_none()))
                }
                // What is missing when a content goes to its place is not the file that was asked for.
                Err(why) if matches!(why.status(), Some(Status::NOENT | Status::STALE)) => Err(Error::Failed(
                    std::io::Error::other("the temporary file or its directory was removed meanwhile"),
                )),
                Err(why) => Err(why.into()),
            }
        })
    }

    fn take_back(self: Box<Self>) -> Answer<'static, Bytes> {
        Box::pin(async move {
            let staged = self.staged.as_ref().ok_or_else(given_up)?;
            in_time(2 * self.patience, staged.content()).await
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (staged, made) = (self.staged.take(), self.made);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if staged.is_some() || made > 0 {
            let (client, path) = (self.client.clone(), self.path.clone());
            runtime.spawn(async move {
                if let Some(staged) = staged {
                    staged.give_up().await;
                }
                remove_made(&client, path.split().0, made).await;
            });
        }
    }
}

/// The page of a directory from this place on, which a number alone is for whoever asks.
async fn page(client: &Client, directory: &[u8], place: Option<u64>, wanted: Wanted) -> Result<nfs41::Page> {
    let is_first = place.is_none();
    let place = place.map_or_else(Place::default, Place::from_number);
    match client.list(directory, place, wanted, LISTED).await {
        Err(nfs41::Error::Status {
            op: nfs41::Op::READDIR,
            status: Status::INVAL | Status::TOOSMALL | Status::NOENT,
        }) if !is_first => Err(Error::BadPlace),
        // The server wants to know which state of the directory the number is of: the one that there is now.
        Err(why) if why.status() == Some(Status::NOT_SAME) => {
            let first = client.list(directory, Place::default(), Wanted::NOTHING, 0).await?;
            Ok(client.list(directory, place.of(&first), wanted, LISTED).await?)
        }
        other => Ok(other?),
    }
}

async fn list(client: Client, directory: DirectoryPath, mut place: Option<u64>, limit: usize) -> Result<Page> {
    let mut entries = Vec::new();
    loop {
        let page = page(&client, directory.as_bytes(), place, Wanted::KIND).await?;
        let count = page.entries.len();
        for (number, entry) in page.entries.into_iter().enumerate() {
            if !entry.name.starts_with(temporary::PREFIX) {
                let kind = match entry.attributes.kind {
                    Some(nfs41::Kind::File) => Kind::File,
                    Some(nfs41::Kind::Directory) => Kind::Directory,
                    _ => Kind::Other,
                };
                entries.push(Entry { name: entry.name.to_vec(), kind });
            }
            let is_last = page.end && number + 1 == count;
            if !is_last && entries.len() >= limit {
                return Ok(Page { entries, next: Some(entry.cookie) });
            }
        }
        if page.end {
            return Ok(Page { entries, next: None });
        }
        // What one answer of the server holds is a page, so that none is asked for twice.
        let next = Some(page.at.number());
        if !entries.is_empty() {
            return Ok(Page { entries, next });
        }
        place = next;
    }
}

async fn sweep(client: Client, directory: DirectoryPath, mut place: Option<u64>, age: Duration) -> Result<Swept> {
    let oldest = Time::from(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
    let (mut swept, mut seen) = (Swept::default(), 0);
    while seen < SWEPT_AT_ONCE {
        let page = page(&client, directory.as_bytes(), place, Wanted::KIND | Wanted::MODIFIED).await?;
        seen += page.entries.len();
        for entry in &page.entries {
            let below = [directory.as_bytes(), &entry.name].join(&b'/');
            let below = below.strip_prefix(b"/").unwrap_or(&below);
            match entry.attributes.kind {
                Some(nfs41::Kind::File) if temporary::is(&entry.name) => {
                    let stale = entry.attributes.modified.is_some_and(|modified| modified < oldest);
                    if stale && client.remove_file(below).await.is_ok() {
                        swept.removed += 1;
                    }
                }
                // One whose path is too long to be asked for holds nothing that came through here.
                Some(nfs41::Kind::Directory) => swept.directories.extend(DirectoryPath::new(below).ok()),
                _ => {}
            }
        }
        if page.end {
            return Ok(swept);
        }
        place = Some(page.at.number());
        swept.next = place;
    }
    Ok(swept)
}

impl Nfs {
    fn reads(&self) -> Result<Client> {
        Ok(self.clients.here()?)
    }

    /// A change goes on to its end: who else may change its path must know that it has ended.
    fn changes(&self) -> Result<Client> {
        Ok(self.reads()?.with_deadline(None))
    }
}

impl Target for Nfs {
    fn probe(&self) -> Answer<'_, ()> {
        Box::pin(async {
            let client = self.reads()?.with_deadline(Some(self.probe_deadline));
            let found = client.attributes(b"", Wanted::KIND).await;
            match found.map_err(std::io::Error::from) {
                Ok(found) if found.kind == Some(nfs41::Kind::Directory) => Ok(()),
                Ok(_) => Err(Error::NotADirectory),
                // Why it is not reached, and not only that it is not.
                Err(why) => Err(Error::Failed(why)),
            }
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async {
            self.clients.close().await;
            Ok(())
        })
    }

    fn read(&self, path: &FilePath, want: &Want) -> Answer<'_, Reading> {
        let (path, want) = (path.clone(), want.clone());
        Box::pin(async { read(self.reads()?, path, want, 2 * self.patience).await })
    }

    fn put(&self, path: &FilePath, content: Bytes, conditions: Conditions) -> Answer<'_, (Meta, bool)> {
        let path = path.clone();
        Box::pin(async { put(self.changes()?, path, content, conditions, self.patience).await })
    }

    fn stage(&self, path: &FilePath) -> Answer<'_, Box<dyn Staged>> {
        let path = path.clone();
        Box::pin(async {
            let (client, patience) = (self.reads()?, self.patience);
            let begin = || client.stage(path.as_bytes(), how(nfs41::Conditions::None, patience));
            let (staged, made) = in_its_directory(&client, &path, begin).await?;
            let client = self.changes()?;
            let staged = Some(staged);
            Ok(Box::new(Stage { staged, client, path, made, patience }) as Box<dyn Staged>)
        })
    }

    fn append(&self, path: &FilePath, content: Bytes, conditions: Conditions) -> Answer<'_, (Meta, bool)> {
        let path = path.clone();
        Box::pin(async { append(self.changes()?, path, content, conditions, self.patience).await })
    }

    fn delete(&self, path: &FilePath, conditions: Conditions) -> Answer<'_, ()> {
        let path = path.clone();
        Box::pin(async { delete(self.changes()?, path, conditions, self.patience).await })
    }

    fn list(&self, directory: &DirectoryPath, place: Option<u64>, limit: usize) -> Answer<'_, Page> {
        let directory = directory.clone();
        Box::pin(async move { list(self.reads()?, directory, place, limit).await })
    }

    fn sweep(&self, directory: &DirectoryPath, place: Option<u64>, age: Duration) -> Answer<'_, Swept> {
        let directory = directory.clone();
        Box::pin(async move { sweep(self.reads()?, directory, place, age).await })
    }
}
