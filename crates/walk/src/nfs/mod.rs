//! A directory of an NFS server, through a client in this process: no mount, and no privilege.
//!
//! A directory is known by its handle. Going to it and reading its first entries is one call, and each further page is
//! another; a page has up to a megabyte of names, with what each is and nothing else. What waits for its turn has
//! asked nothing yet.
//!
//! The threads of the walk wait for their answers, one call each. One thread more hears them all.

mod location;

use std::{
    ffi::{CStr, CString},
    io,
    net::ToSocketAddrs,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nfs41::{AttributeMask, Attributes, Client, DirCursor, Dirents, Error, FileHandle, Status};
use tokio::runtime::{Builder, Runtime};

pub use location::{BadLocation, Location};
pub use nfs41::Credentials;

use crate::{
    Options,
    getdents::{self, Kind},
    source::{Identity, Source, Stamp},
};

/// How long the server may be away, or say nothing, until the walk gives it up. At first it is expected to be there.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer may come so long after the end of the budget.
const BUDGET_GRACE: Duration = Duration::from_secs(5);
/// Most directories are smaller: a server need not make ready for more.
const FIRST_PAGE_BYTES: usize = 32 << 10;
/// What waits holds a handle and a name each.
const MAX_QUEUED_HANDLES: usize = 1 << 16;
/// So often a place in a directory that changes is asked for anew.
const MAX_CURSOR_TRIES: usize = 5;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const DIRECTORY_ATTRIBUTES: AttributeMask = AttributeMask::TYPE.union(AttributeMask::FSID).union(AttributeMask::FILEID);
const STAMP_ATTRIBUTES: AttributeMask = AttributeMask::FSID
    .union(AttributeMask::FILEID)
    .union(AttributeMask::TIME_MODIFY)
    .union(AttributeMask::TIME_METADATA);

/// Does this with the directory. On a thread of its own: on one of an async runtime nobody may wait.
///
/// # Errors
/// Those of what is done, and those of getting there.
pub(crate) fn within<T: Send>(
    location: &Location,
    options: &Options,
    walk: impl FnOnce(&Nfs) -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let walked = scope.spawn(|| walk(&Nfs::new(location, options)?)).join();
        walked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) struct Nfs {
    client: Client,
    /// `None` once it ends.
    runtime: Option<Runtime>,
    root: Found,
    one_file_system: bool,
    until: Option<Instant>,
    /// It did not answer: nothing is asked any more.
    gone: OnceLock<Error>,
}

/// What is known of a directory when it was reached.
#[derive(Clone, Debug)]
struct Found {
    handle: FileHandle,
    file_system: Option<(u64, u64)>,
    /// 0: the server does not say.
    inode: u64,
}

pub(crate) struct Directory {
    /// The one that it is in, and its name there.
    way: Option<(FileHandle, CString)>,
    found: OnceLock<Found>,
    reading: Mutex<Reading>,
}

/// How far it has been read.
#[derive(Clone, Copy, Default)]
struct Reading {
    place: DirCursor,
    ended: bool,
}

impl Directory {
    fn reading(&self) -> std::sync::MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nfs {
    fn new(location: &Location, options: &Options) -> io::Result<Self> {
        if options.follow_file_symlinks {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "where links lead is not known without a mount; count without following them, or mount it",
            ));
        }
        let mut addresses = (location.host.as_str(), location.port).to_socket_addrs()?;
        let address = addresses.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let mut settings = nfs41::Options::new(address);
        settings.root.clone_from(&location.path);
        settings.credentials = location.credentials.clone();
        #[cfg(feature = "tls")]
        settings.tls.clone_from(&location.tls);
        settings.max_in_flight = u32::try_from(options.threads).unwrap_or(u32::MAX).min(256);
        settings.connect_wait = SILENCE_TIMEOUT;

        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nfs").enable_all().build()?;
        let found = |client: &Client| {
            let client = client.with_timeout(Some(CONNECT_TIMEOUT));
            let (handle, attributes) = runtime.block_on(client.lookup(b"", DIRECTORY_ATTRIBUTES)).map_err(error)?;
            match attributes.file_type {
                Some(nfs41::FileType::Directory) => Ok(Found::new(handle, &attributes)),
                _ => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            }
        };
        let within = runtime.enter();
        let client = Client::new(settings)?;
        drop(within);
        let root = found(&client)?;
        let (one_file_system, until) = (options.one_file_system, options.until);
        Ok(Self { client, runtime: Some(runtime), root, one_file_system, until, gone: OnceLock::new() })
    }

    fn ask<T>(&self, call: impl AsyncFnOnce(&Client) -> nfs41::Result<T>) -> nfs41::Result<T> {
        let (Some(runtime), None) = (&self.runtime, self.gone.get()) else {
            return Err(self.gone.get().cloned().unwrap_or(Error::Closed));
        };
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()) + BUDGET_GRACE);
        let client = self.client.with_timeout(Some(left.map_or(SILENCE_TIMEOUT, |left| left.min(SILENCE_TIMEOUT))));
        let answer = runtime.block_on(call(&client));
        if let Err(err @ (Error::Unreachable { .. } | Error::Busy(_) | Error::Deadline(_) | Error::Refused(_))) =
            &answer
        {
            let _ = self.gone.set(err.clone());
        }
        answer
    }

    fn reached(&self, directory: &Directory, (handle, attributes): (FileHandle, Attributes)) -> io::Result<()> {
        let found = Found::new(handle, &attributes);
        if self.one_file_system && found.file_system != self.root.file_system {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let _ = directory.found.set(found);
        Ok(())
    }

    /// Asks for it where that is not known yet.
    fn found<'a>(&self, directory: &'a Directory) -> io::Result<&'a Found> {
        if let (None, Some((parent, name))) = (directory.found.get(), &directory.way) {
            let found =
                self.ask(async |client| client.lookup_at(parent, Some(name.to_bytes()), DIRECTORY_ATTRIBUTES).await);
            let found = found.map_err(error)?;
            if found.1.file_type.is_some_and(|kind| kind != nfs41::FileType::Directory) {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            self.reached(directory, found)?;
        }
        directory.found.get().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn page(&self, directory: &Directory, place: DirCursor, most: usize) -> io::Result<Dirents> {
        let most = |bytes: usize| u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        if let (None, Some((parent, name)), true) =
            (directory.found.get(), &directory.way, place == DirCursor::default())
        {
            let first = most(FIRST_PAGE_BYTES);
            let entered = self.ask(async |client| {
                client.lookup_and_getdents(parent, name.to_bytes(), DIRECTORY_ATTRIBUTES, first).await
            });
            let (handle, attributes, kinds) = entered.map_err(error)?;
            self.reached(directory, (handle, attributes))?;
            return Ok(kinds);
        }
        let handle = &self.found(directory)?.handle;
        let read = |place, most| self.ask(async |client| client.getdents(handle, place, most).await);
        let most = if place == DirCursor::default() { most(FIRST_PAGE_BYTES) } else { most(usize::MAX) };
        let mut place = place;
        for _ in 0..MAX_CURSOR_TRIES {
            match read(place, most) {
                // It has changed, and a place in it goes by another number now; or it is one that somebody else was
                // given, who has kept no more than its cookie.
                Err(Error::Status { status: Status::NOT_SAME | Status::BAD_COOKIE, .. }) if place.cookie() != 0 => {
                    place = read(DirCursor::default(), 0).map_err(error)?.refresh(place);
                }
                other => return other.map_err(error),
            }
        }
        read(place, most).map_err(error)
    }

    fn ask_of(&self, directory: &Directory, name: Option<&CStr>, wanted: AttributeMask) -> io::Result<Attributes> {
        let handle = &self.found(directory)?.handle;
        let found = self.ask(async |client| client.lookup_at(handle, name.map(CStr::to_bytes), wanted).await);
        found.map(|(_, attributes)| attributes).map_err(error)
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            if self.gone.get().is_none() {
                let _ = runtime.block_on(async { tokio::time::timeout(CLOSE_TIMEOUT, self.client.close()).await });
            }
            runtime.shutdown_background();
        }
    }
}

impl Found {
    fn new(handle: FileHandle, attributes: &Attributes) -> Self {
        Self { handle, file_system: attributes.fsid, inode: attributes.fileid.unwrap_or_default() }
    }
}

impl Source for Nfs {
    type Directory = Directory;

    fn root(&self) -> io::Result<Directory> {
        Ok(Directory { way: None, found: self.root.clone().into(), reading: Mutex::default() })
    }

    /// Only when it is read is it known whether it is there.
    fn open(&self, parent: &Directory, name: &CStr) -> io::Result<Directory> {
        let way = Some((self.found(parent)?.handle.clone(), name.to_owned()));
        Ok(Directory { way, found: OnceLock::new(), reading: Mutex::default() })
    }

    fn read(&self, directory: &Directory, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reading = directory.reading();
        let mut filled = 0;
        while filled == 0 && !reading.ended {
            let begins = reading.place == DirCursor::default();
            let page = self.page(directory, reading.place, buffer.len())?;
            let mut push = |inode, kind, cookie, name: &[u8]| {
                let written = getdents::write(&mut buffer[filled..], inode, kind, cookie, name);
                filled += written.unwrap_or_default();
                written.is_some()
            };
            if begins {
                // It says which directory this is, as the kernel does.
                push(self.found(directory)?.inode, Kind::Directory, 0, b".");
            }
            let page = page.for_each_while(|seen| push(0, kind(seen.file_type), seen.cookie.cast_signed(), seen.name));
            (reading.place, reading.ended) = page.map_err(error)?;
        }
        Ok(filled)
    }

    fn ends(&self, directory: &Directory, _: i64) -> bool {
        directory.reading().ended
    }

    /// It would have said that it ends.
    fn goes_on(&self, _: usize, _: usize) -> bool {
        true
    }

    fn seek(&self, directory: &Directory, cookie: i64) -> io::Result<()> {
        *directory.reading() = Reading { place: DirCursor::from_cookie(cookie.cast_unsigned()), ended: false };
        Ok(())
    }

    fn kind(&self, directory: &Directory, name: &CStr, _: bool) -> io::Result<Kind> {
        self.ask_of(directory, Some(name), AttributeMask::TYPE).map(|found| kind(found.file_type))
    }

    fn needs_readdirplus_hints(&self) -> bool {
        false
    }

    fn look(&self, _: &Directory, _: &CStr) {}

    fn stamp(&self, directory: &Directory, name: Option<&CStr>) -> io::Result<Stamp> {
        let found = self.ask_of(directory, name, STAMP_ATTRIBUTES)?;
        let all = (found.fsid, found.fileid, found.time_modify, found.time_metadata);
        let (Some((major, minor)), Some(inode), Some(modified), Some(changed)) = all else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the server does not tell when a directory changes",
            ));
        };
        Ok(Stamp {
            device: major.rotate_left(32) ^ minor,
            inode,
            modified: (modified.seconds, modified.nanoseconds),
            changed: (changed.seconds, changed.nanoseconds),
        })
    }

    fn identity(&self, directory: &Directory) -> io::Result<Identity> {
        let inode = self.found(directory)?.inode;
        Ok(Identity { inode, resumable: inode != 0 })
    }

    fn most_open(&self) -> usize {
        MAX_QUEUED_HANDLES
    }
}

fn kind(kind: Option<nfs41::FileType>) -> Kind {
    match kind {
        Some(nfs41::FileType::File) => Kind::File,
        Some(nfs41::FileType::Directory) => Kind::Directory,
        Some(nfs41::FileType::Symlink) => Kind::Link,
        Some(nfs41::FileType::Other) => Kind::Other,
        None => Kind::Unknown,
    }
}

/// What the kernel would say, where it has a word for it.
fn error(err: Error) -> io::Error {
    let Error::Status { op, status } = err else { return err.into() };
    match status {
        Status::NOTDIR | Status::SYMLINK => io::Error::from_raw_os_error(libc::ENOTDIR),
        Status::STALE | Status::FHEXPIRED | Status::BADHANDLE => io::Error::from_raw_os_error(libc::ESTALE),
        Status::NAMETOOLONG => io::Error::from_raw_os_error(libc::ENAMETOOLONG),
        // A file system that is elsewhere, or that the server does not go to. Of a listing it says nothing about the
        // directory: something in there is on another one, and the server lists none of it.
        Status::MOVED | Status::XDEV if op != nfs41::Op::READDIR => io::ErrorKind::CrossesDevices.into(),
        Status::MOVED | Status::XDEV => io::Error::other(err),
        // Up to here the numbers are those of Linux.
        Status(number @ 1..=31) => io::Error::from_raw_os_error(number.cast_signed()),
        _ => err.into(),
    }
}
