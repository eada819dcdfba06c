//! Operations on files below an open root directory, with system calls. Every function may block.

use std::{
    os::unix::prelude::{AsFd, BorrowedFd, FileExt, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT},
    io::{self, Errno, ReadWriteFlags},
};

use super::beneath::{self, again};
use files::{
    Error, Result,
    buffers::{self, Buffer},
    temporary,
    transport::{ETag, Metadata, Preconditions, ReadOptions, ReadOutcome},
};
use router::path::FilePath;

/// Maximum number of restarts of an operation whose path other clients change concurrently.
const MAX_ATTEMPTS: usize = 32;
/// Maximum number of bytes of an upload that stay in the page cache before they are flushed.
const MAX_UNFLUSHED_BYTES: u64 = 16 << 20;
/// Flags to open a file for reading. NONBLOCK: opening a FIFO without a writer must not block; its type is refused later.
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const CHANGE: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Whether acknowledged writes are on stable storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sync {
    Always,
    /// When the file system decides: a crash of the server or of this machine may lose acknowledged writes. A file still is
    /// the old or the new one, never a mixture.
    Never,
}

/// What is flushed to stable storage before the reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flush {
    /// Content, metadata, and the directory entry.
    Everything,
    /// The content only: NFS reports write errors at the flush.
    Content,
    Nothing,
}

/// Options of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub flush: Flush,
    /// Deadline of waiting for a lock that another client holds.
    pub until: Instant,
}

/// The modes of new files and directories, independent of the umask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    pub file: Mode,
    pub directory: Mode,
}

/// The metadata of a regular file; an error for any other type.
fn meta(found: &Stat) -> Result<Metadata> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Error::IsADirectory),
        FileType::Symlink => return Err(Error::LinkInPath),
        _ => return Err(Error::NotAFile),
    }
    // Their types depend on the architecture.
    let nanoseconds = u32::try_from(found.st_mtime_nsec).unwrap_or_default();
    #[allow(clippy::useless_conversion, reason = "the types of these differ from one architecture to the next")]
    let tag = ETag::new(
        found.st_ino.into(),
        found.st_mtime.into(),
        nanoseconds,
        u64::try_from(found.st_size).unwrap_or_default(),
    );
    Ok(Metadata::new(tag))
}

fn meta_of(file: impl AsFd) -> Result<Metadata> {
    meta(&fs::fstat(file)?)
}

/// The metadata of the file with this name, if it exists.
pub(super) fn existing(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Metadata>> {
    Ok(existing_file(directory, name)?.map(|(meta, _)| meta))
}

/// The same with mode and owner.
fn existing_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<(Metadata, Stat)>> {
    match again(|| fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(found) => Ok(Some((meta(&found)?, found))),
        Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(beneath::of_a_name(err).into()),
    }
}

/// An open file with the first piece of its content.
pub(super) struct Opened {
    pub meta: Metadata,
    pub outcome: ReadOutcome,
    pub first: Bytes,
    /// The open file, if more bytes follow.
    pub file: Option<OwnedFd>,
}

/// Opens and reads a file. With `now`, fails with `AGAIN` instead of blocking.
pub(super) fn read(root: BorrowedFd<'_>, path: &FilePath, want: &ReadOptions, now: bool) -> Result<Opened> {
    // Open the file even for metadata only: NFS then asks the server instead of its cache (close-to-open).
    let file = match now {
        true => beneath::open_now(root, path.as_bytes(), READ)?,
        false => beneath::open(root, path.as_bytes(), READ)?,
    };
    let meta = meta_of(&file)?;
    let outcome = want.evaluate(&meta);
    let nothing = Opened { meta, outcome, first: Bytes::new(), file: None };
    match outcome {
        ReadOutcome::Content { from, to, .. } if !want.head && from < to => {
            let buffer = buffers::take(usize::try_from(to - from).unwrap_or(usize::MAX));
            let first = read_at(file.as_fd(), from, buffer, now)?;
            let all = first.len() as u64 == to - from;
            Ok(Opened { first, file: (!all).then_some(file), ..nothing })
        }
        _ => Ok(nothing),
    }
}

/// Reads from an offset until the buffer is full or the file ends.
pub(super) fn read_at(file: BorrowedFd<'_>, from: u64, mut buffer: Buffer, now: bool) -> Result<Bytes> {
    let flags = if now { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
    let mut read = || match now {
        true => io::preadv2(file, &mut [std::io::IoSliceMut::new(&mut buffer)], from, flags),
        false => io::pread(file, &mut buffer[..], from),
    };
    let length = match now {
        true => read()?,
        false => again(read)?,
    };
    match length {
        0 => Err(Error::Shortened),
        length => Ok(buffer.filled(length)),
    }
}

/// A temporary file in the directory of its destination. Dropping it removes it.
pub(super) struct Temporary {
    directory: OwnedFd,
    file: OwnedFd,
    name: Vec<u8>,
    /// The destination.
    path: FilePath,
    /// Number of parent directories that were created for it.
    made: Option<(OwnedFd, usize)>,
    modes: Modes,
    written: u64,
    flushed: u64,
    moved: bool,
}

impl Temporary {
    /// Creates a temporary file in the directory of this path, and the directory if it is missing. Its mode is that of the
    /// file that it replaces, so that it is not readable by more users.
    pub fn beside(root: BorrowedFd<'_>, path: &FilePath, modes: Modes) -> Result<Self> {
        for _ in 0..MAX_ATTEMPTS {
            let (directory, made) = match beneath::open_or_make(root, path.split().0, modes.directory) {
                // Another client removed one of the directories in the meantime.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let name = temporary::name();
            let replaced = match made {
                0 => again(|| fs::statat(&directory, path.split().1, AtFlags::SYMLINK_NOFOLLOW)).ok(),
                _ => None,
            };
            let replaced = replaced.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
            let mode = replaced.as_ref().map_or(modes.file, beneath::kept_mode) | Mode::RUSR | Mode::WUSR;
            let made = if made > 0 { Some((root.try_clone_to_owned()?, made)) } else { None };
            match beneath::create(directory.as_fd(), &name, mode) {
                Ok(file) => {
                    return Ok(Self {
                        directory,
                        file,
                        name,
                        path: path.clone(),
                        made,
                        modes,
                        written: 0,
                        flushed: 0,
                        moved: false,
                    });
                }
                // The directory was removed in the meantime, or another process drew the same random name.
                Err(Errno::NOENT | Errno::EXIST) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Err(Error::Locked)
    }

    pub fn write(&mut self, content: &[u8], flush: Flush) -> Result<()> {
        write_at(self.file.as_fd(), content, self.written)?;
        self.written += content.len() as u64;
        // Flush in steps: the commit of a large content must fit into the deadline of one operation.
        if flush != Flush::Nothing && self.written - self.flushed >= MAX_UNFLUSHED_BYTES {
            again(|| fs::fdatasync(&self.file))?;
            self.flushed = self.written;
        }
        Ok(())
    }

    /// Everything that was written.
    pub fn content(&self) -> Result<Bytes> {
        let mut content = vec![0; usize::try_from(self.written).map_err(|_| Errno::FBIG)?];
        std::fs::File::from(self.file.try_clone()?).read_exact_at(&mut content, 0)?;
        Ok(content.into())
    }

    /// Installs the content at its destination if the preconditions hold. Returns whether the file is new.
    pub fn commit(mut self, conditions: &Preconditions, way: Way) -> Result<(Metadata, bool)> {
        let path = self.path.clone();
        let name = path.split().1;
        touch(self.file.as_fd())?;
        let before = match conditions.is_create_only() {
            true => None,
            false => existing_file(self.directory.as_fd(), name)?.map(|(_, found)| found),
        };
        self.become_like(before.as_ref())?;
        self.flush(way.flush)?;
        let meta = meta_of(&self.file)?;
        let new = if conditions.is_none() {
            self.replace(name)?;
            before.is_none()
        } else if conditions.is_create_only() {
            match self.link(name)? {
                true => true,
                false => {
                    // Or it is not a regular file.
                    existing(self.directory.as_fd(), name)?;
                    return Err(Error::PreconditionFailed);
                }
            }
        } else {
            self.commit_if(name, conditions, way)?
        };
        if way.flush == Flush::Everything && again(|| fs::fsync(&self.directory)).is_err() {
            // The content is installed, but its directory entry may not survive a crash.
            return Err(Error::Uncertain);
        }
        Ok((meta, new))
    }

    fn commit_if(&mut self, name: &[u8], conditions: &Preconditions, way: Way) -> Result<bool> {
        let directory = self.directory.try_clone()?;
        for _ in 0..MAX_ATTEMPTS {
            let locked = locked(directory.as_fd(), name, Change::Replace, way.until)?;
            if !conditions.allow(locked.as_ref().map(|found| &found.meta)) {
                return Err(Error::PreconditionFailed);
            }
            // The destination is another file than before, or has another mode.
            let found = locked.as_ref().map(|found| fs::fstat(&found.file)).transpose()?;
            if self.become_like(found.as_ref())? {
                self.flush(way.flush)?;
            }
            match locked {
                Some(_) => {
                    self.replace(name)?;
                    return Ok(false);
                }
                None if self.link(name)? => return Ok(true),
                None => {}
            }
        }
        Err(Error::Locked)
    }

    /// Sets the mode of a new file, or the mode and owner of the file that it replaces. Returns whether anything changed.
    fn become_like(&self, replaced: Option<&Stat>) -> Result<bool> {
        let (file, found) = (self.file.as_fd(), fs::fstat(&self.file)?);
        let mode = replaced.map_or(self.modes.file, beneath::kept_mode);
        // The mode first: after chown the process may not be allowed to change it.
        let changed = beneath::set_mode(file, beneath::mode(&found), mode)?;
        Ok(match replaced {
            Some(replaced) => beneath::set_owner(file, &found, replaced)? || changed,
            None => changed,
        })
    }

    fn flush(&self, flush: Flush) -> Result<()> {
        match flush {
            Flush::Everything => again(|| fs::fsync(&self.file))?,
            Flush::Content => again(|| fs::fdatasync(&self.file))?,
            Flush::Nothing => {}
        }
        Ok(())
    }

    /// Creates the destination with link(2), which is exclusive: of two concurrent writers exactly one succeeds. A lookup
    /// followed by a rename would not be. Returns whether this one did.
    fn link(&mut self, name: &[u8]) -> Result<bool> {
        match again(|| fs::linkat(&self.directory, &self.name, &self.directory, name, AtFlags::empty())) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                // An NFS server without the cached reply also returns EXIST for our own earlier success.
                let there = fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
                let ours = fs::fstat(&self.file)?;
                Ok(there.is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)))
            }
            Err(err) => Err(gone(err)),
        }
    }

    fn replace(&mut self, name: &[u8]) -> Result<()> {
        again(|| fs::renameat(&self.directory, &self.name, &self.directory, name)).map_err(gone)?;
        self.moved = true;
        Ok(())
    }
}

/// The missing file is the temporary one, not the one that the caller named.
fn gone(err: Errno) -> Error {
    match err {
        Errno::NOENT | Errno::STALE => {
            Error::Failed(std::io::Error::other("the temporary file or its directory was removed meanwhile"))
        }
        other => beneath::of_a_name(other).into(),
    }
}

/// Evaluates the preconditions before anything is created.
pub(super) fn evaluate(root: BorrowedFd<'_>, path: &FilePath, conditions: &Preconditions) -> Result<()> {
    if conditions.is_none() {
        return Ok(());
    }
    let found = match beneath::open(root, path.as_bytes(), READ).map_err(Error::from).and_then(meta_of) {
        Ok(meta) => Some(meta),
        Err(Error::NotFound) => None,
        Err(err) => return Err(err),
    };
    if conditions.allow(found.as_ref()) { Ok(()) } else { Err(Error::PreconditionFailed) }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            // The sweep removes what is left.
            let _ = fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
            if let Some((root, count)) = &self.made {
                beneath::remove_empty(root.as_fd(), self.path.split().0, *count);
            }
        }
    }
}

fn write_at(file: BorrowedFd<'_>, mut content: &[u8], mut at: u64) -> Result<()> {
    while !content.is_empty() {
        let written = again(|| io::pwrite(file, content, at))?;
        if written == 0 {
            return Err(Errno::IO.into());
        }
        content = &content[written..];
        at += written as u64;
    }
    Ok(())
}

/// Sets a modification time that is unique within this process.
fn touch(file: BorrowedFd<'_>) -> Result<()> {
    let (tv_sec, tv_nsec) = temporary::unique_time();
    let modified = Timespec { tv_sec, tv_nsec: tv_nsec.into() };
    let accessed = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    again(|| fs::futimens(file, &Timestamps { last_access: accessed, last_modification: modified }))?;
    Ok(())
}

/// A file with an advisory lock, which other clients take for appends and conditional writes.
struct Locked<'a> {
    meta: Metadata,
    file: OwnedFd,
    /// Dropped after the file: NFS renames a removed open file instead (silly rename).
    _alias: Option<Alias<'a>>,
}

/// A second hard link to a file. Dropping it removes it.
struct Alias<'a> {
    directory: BorrowedFd<'a>,
    name: Vec<u8>,
}

impl<'a> Alias<'a> {
    /// `None` where the file system has no hard links.
    fn of(directory: BorrowedFd<'a>, name: &[u8]) -> io::Result<Option<Self>> {
        let alias = temporary::name();
        match again(|| fs::linkat(directory, name, directory, &alias, AtFlags::empty())) {
            // The name is unique: an earlier call whose reply was lost created it.
            Ok(()) | Err(Errno::EXIST) => Ok(Some(Self { directory, name: alias })),
            Err(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Err(err) => Err(err),
        }
    }
}

impl Drop for Alias<'_> {
    fn drop(&mut self) {
        // The sweep removes what is left.
        let _ = fs::unlinkat(self.directory, &self.name, AtFlags::empty());
    }
}

/// Invalidates the NFS client's cache of a changed directory, which it would otherwise trust for up to 30 s.
fn ask_anew(directory: BorrowedFd<'_>) -> Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    again(|| fs::statx(directory, c"", flags, fs::StatxFlags::CTIME))?;
    Ok(())
}

/// The change for which a file is locked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    InPlace,
    /// The file is opened through a second hard link. If the file were open under the name that the rename replaces, the
    /// NFS client would move it aside first (silly rename), and the name would not exist until the rename.
    Replace,
}

fn open_for<'a>(change: Change, directory: BorrowedFd<'a>, name: &[u8]) -> io::Result<(OwnedFd, Option<Alias<'a>>)> {
    let alias = match change {
        Change::InPlace => None,
        Change::Replace => Alias::of(directory, name)?,
    };
    let opened = alias.as_ref().map_or(name, |alias| &alias.name);
    let file = match beneath::open(directory, opened, CHANGE) {
        // A read-only file can still be replaced.
        Err(Errno::ACCESS) => beneath::open(directory, opened, READ)?,
        other => other?,
    };
    Ok((file, alias))
}

/// Opens and locks the file with this name; `None` if it does not exist. Without a lock where the file system or the file
/// does not support one.
fn locked<'a>(directory: BorrowedFd<'a>, name: &[u8], change: Change, until: Instant) -> Result<Option<Locked<'a>>> {
    for _ in 0..MAX_ATTEMPTS {
        let found = match open_for(change, directory, name) {
            Ok((file, alias)) => {
                // First check the type: only regular files are locked.
                meta_of(&file)?;
                lock(file.as_fd(), until)?;
                Some(Locked { meta: meta_of(&file)?, file, _alias: alias })
            }
            Err(Errno::NOENT | Errno::STALE) => None,
            Err(err) => return Err(err.into()),
        };
        // Stat the name after the lock is held: its previous holder may have replaced the file. An open would not do: NFS
        // 4.1 opens the file that its cache has under the name.
        ask_anew(directory)?;
        match (existing(directory, name), found) {
            (Ok(Some(meta)), Some(found)) if meta.tag.inode == found.meta.tag.inode => return Ok(Some(found)),
            (Ok(None), None) => return Ok(None),
            (Ok(_) | Err(Error::Failed(_)), _) => {}
            (Err(err), _) => return Err(err),
        }
    }
    Err(Error::Locked)
}

fn lock(file: BorrowedFd<'_>, until: Instant) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() + pause > until => return Err(Error::Locked),
            Err(Errno::AGAIN) => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            // The file system has no locks, or (NFS) none for a file that is open for reading only.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::BADF) => return Ok(()),
            Err(err) => return Err(err.into()),
        }
    }
}

/// Appends to the file under its lock. Returns whether the file is new.
pub(super) fn append(
    root: BorrowedFd<'_>,
    path: &FilePath,
    content: &[u8],
    conditions: &Preconditions,
    way: Way,
    modes: Modes,
) -> Result<(Metadata, bool)> {
    let (directory, name) = path.split();
    for _ in 0..MAX_ATTEMPTS {
        let directory = match beneath::open(root, directory, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => Some(directory),
            Err(Errno::NOENT) => None,
            Err(err) => return Err(err.into()),
        };
        let found = match &directory {
            Some(directory) => locked(directory.as_fd(), name, Change::InPlace, way.until)?,
            None => None,
        };
        let Some(Locked { meta, file, .. }) = found else {
            if !conditions.allow(None) {
                return Err(Error::PreconditionFailed);
            }
            let mut temporary = Temporary::beside(root, path, modes)?;
            temporary.write(content, Flush::Nothing)?;
            match temporary.commit(&Preconditions::create_only(), way) {
                // Another client created the file in the meantime: append to it.
                Err(Error::PreconditionFailed) => continue,
                other => return other,
            }
        };
        if !conditions.allow(Some(&meta)) {
            return Err(Error::PreconditionFailed);
        }
        let added = write_at(file.as_fd(), content, meta.size).and_then(|()| touch(file.as_fd())).and_then(|()| {
            match way.flush {
                Flush::Everything => again(|| fs::fsync(&file))?,
                Flush::Content => again(|| fs::fdatasync(&file))?,
                Flush::Nothing => {}
            }
            meta_of(&file)
        });
        return match added {
            Ok(meta) => Ok((meta, false)),
            // All or nothing.
            Err(err) => {
                match fs::fstat(&file)?.st_size as u64 > meta.size && fs::ftruncate(&file, meta.size).is_err() {
                    true => Err(Error::Uncertain),
                    // Opened for reading only, because of its mode.
                    false if matches!(&err, Error::Failed(err) if Errno::from_io_error(err) == Some(Errno::BADF)) => {
                        Err(Errno::ACCESS.into())
                    }
                    false => Err(err),
                }
            }
        };
    }
    Err(Error::Locked)
}

pub(super) fn delete(root: BorrowedFd<'_>, path: &FilePath, conditions: &Preconditions, way: Way) -> Result<()> {
    let (directory, name) = path.split();
    let directory = beneath::open(root, directory, beneath::DIRECTORY)?;
    let (meta, _lock) = match conditions.is_none() {
        true => (existing(directory.as_fd(), name)?, None),
        false => match locked(directory.as_fd(), name, Change::InPlace, way.until)? {
            Some(Locked { meta, file, .. }) => (Some(meta), Some(file)),
            None => (None, None),
        },
    };
    // Preconditions do not apply to a missing file (RFC 9110, section 13.2.1).
    if !conditions.allow(Some(&meta.ok_or(Error::NotFound)?)) {
        return Err(Error::PreconditionFailed);
    }
    again(|| fs::unlinkat(&directory, name, AtFlags::empty())).map_err(beneath::of_a_name)?;
    if way.flush == Flush::Everything && again(|| fs::fsync(&directory)).is_err() {
        return Err(Error::Uncertain);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Another upload that made the same directories is given up, again and again.
    #[test]
    fn directories_that_are_removed_meanwhile_are_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::open(root.path(), beneath::DIRECTORY, Mode::empty()).unwrap();
        let path = FilePath::new(b"a/b/f").unwrap();
        let modes = Modes { file: Mode::RUSR | Mode::WUSR, directory: Mode::RWXU };
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    beneath::remove_empty(root.as_fd(), path.split().0, 2);
                    // Rarely enough that no busy machine meets each of the tries.
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let failed = (0..3000).find_map(|_| Temporary::beside(root.as_fd(), &path, modes).err());
            is_done.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
