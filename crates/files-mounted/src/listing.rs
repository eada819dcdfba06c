//! Directory listings and sweeps, with system calls. Every function may block.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{self, AtFlags, FileType, RawDir, SeekFrom},
    io::Errno,
};

use super::{beneath, operations::existing};
use files::{
    Error, Result, temporary,
    transport::{Entry, Kind, MAX_PAGE_NAME_BYTES, Page, SWEEP_BATCH_ENTRIES, SweepResult},
};
use router::path::{DirectoryPath, RESERVED_PREFIX};

/// Opens a directory at `cursor`, the `next` of an earlier page.
fn open_at(root: BorrowedFd<'_>, path: &DirectoryPath, cursor: Option<u64>) -> Result<OwnedFd> {
    let directory = beneath::open(root, path.as_bytes(), beneath::DIRECTORY)?;
    match cursor.map_or(Ok(0), |cursor| fs::seek(&directory, SeekFrom::Start(cursor))) {
        Ok(_) => Ok(directory),
        Err(Errno::INVAL) => Err(Error::BadCursor),
        Err(err) => Err(err.into()),
    }
}

/// Lists at most `limit` entries from `cursor`.
pub(super) fn list(root: BorrowedFd<'_>, path: &DirectoryPath, cursor: Option<u64>, limit: usize) -> Result<Page> {
    let directory = open_at(root, path, cursor)?;
    let (mut entries, mut names) = (Vec::new(), 0);
    let next = look_through(directory.as_fd(), |name, kind| {
        if !name.starts_with(RESERVED_PREFIX) {
            entries.push(Entry { name: name.to_vec(), kind });
            names += name.len();
        }
        entries.len() < limit && names < MAX_PAGE_NAME_BYTES
    })?;
    Ok(Page { entries, next })
}

/// Removes temporary files that were not written to for `age`, and returns the subdirectories.
pub(super) fn sweep(
    root: BorrowedFd<'_>,
    path: &DirectoryPath,
    cursor: Option<u64>,
    age: Duration,
) -> Result<SweepResult> {
    let directory = open_at(root, path, cursor)?;
    let (mut orphans, mut swept, mut seen) = (Vec::new(), SweepResult::default(), 0);
    swept.next = look_through(directory.as_fd(), |name, kind| {
        match kind {
            Kind::File if temporary::is(name) => orphans.push(name.to_vec()),
            Kind::Directory => {
                let below = [path.as_bytes(), name].join(&b'/');
                // A directory whose path is too long was not created through this service.
                swept.directories.extend(DirectoryPath::new(below.strip_prefix(b"/").unwrap_or(&below)).ok());
            }
            _ => {}
        }
        seen += 1;
        seen < SWEEP_BATCH_ENTRIES
    })?;
    let oldest = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
    for name in orphans {
        let stale = existing(directory.as_fd(), &name)?.is_some_and(|meta| meta.modified < oldest);
        if stale && fs::unlinkat(&directory, &name, AtFlags::empty()).is_ok() {
            swept.removed += 1;
        }
    }
    Ok(swept)
}

/// Calls back for each entry except `.` and `..` until the callback stops. Returns the cursor of the next entry; `None` at
/// the end.
fn look_through(directory: BorrowedFd<'_>, mut more: impl FnMut(&[u8], Kind) -> bool) -> Result<Option<u64>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut reader = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |found| FileType::from_raw_mode(found.st_mode)),
            known => known,
        };
        let kind = match kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            _ => Kind::Other,
        };
        if !more(name, kind) {
            return Ok(Some(entry.next_entry_cookie()));
        }
    }
    Ok(None)
}
